//! Answers for how a unit is asked whether it would let a host's command in: by commands of the same class that change
//! nothing and whose data nobody looks at.
//!
//! As long as no extents are reserved, a command of no blocks says all, and is cheap. Extents are judged by block, so
//! that a command must name just those that the host's does:
//! - what reads: VERIFY(16) without comparing (SBC-3 5.31). The unit reads them, nothing is transferred;
//! - what writes: COMPARE AND WRITE (SBC-3 5.2) of what no block holds, for which it writes the same. Whether it finds
//!   that or not, nothing changes; RESERVATION CONFLICT comes first (SAM-5 5.3.2). It moves two blocks for each that is
//!   asked about, in pieces of what the unit takes at once;
//! - what wants the unit whole and names no blocks: MODE SELECT(6) of no parameters.

use crate::unit::Answer;
use crate::unit::answer::CHECK;
use biplex_engine::reserve::{Access, Verdict};
use biplex_engine::{BLOCK_BYTES, Extent};
use biplex_front::Command;
use biplex_front::iscsi::initiator::{
    compare_and_write, mode_select6_of_nothing, read16, test_unit_ready, verify16, write16,
};
use bytes::Bytes;
use std::collections::VecDeque;

/// What no block holds: if one does, it holds it afterwards.
static NOBODYS: [u8; 2 * 255 * BLOCK_BYTES as usize] = [0xb9; 2 * 255 * BLOCK_BYTES as usize];

/// Blocks of one command at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    pub verify: u64,
    pub swap: u64,
}

/// One command of a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Piece {
    Look,
    Read,
    Write,
    Control,
    /// Whether these may be read.
    Verify(Extent),
    /// Whether these may be written.
    Swap(Extent),
}

/// The commands that ask about one, all of which must be let in. `most`: extents may be reserved.
pub(super) fn pieces(access: Access, command: &Command, most: Option<Most>) -> VecDeque<Piece> {
    let extents: &[Extent] = match command {
        Command::Read { extent, .. }
        | Command::Write { extent, .. }
        | Command::Fill { extent, .. }
        | Command::CompareAndWrite { extent, .. } => std::slice::from_ref(extent),
        Command::Unmap { extents } => extents,
        Command::Flush
        | Command::Check { .. }
        | Command::Control { .. }
        | Command::Inspect { .. }
        | Command::Leave => &[],
    };
    let piece = match (access, most) {
        (Access::Exempt | Access::Look, _) => Piece::Look,
        (Access::Read, Some(most)) if !extents.is_empty() => {
            return cut(extents, most.verify).map(Piece::Verify).collect();
        }
        (Access::Write, Some(most)) if !extents.is_empty() => {
            return cut(extents, most.swap).map(Piece::Swap).collect();
        }
        (Access::Read, _) => Piece::Read,
        (Access::Control, Some(_)) => Piece::Control,
        (Access::Write, _) | (Access::Control, None) => Piece::Write,
    };
    VecDeque::from([piece])
}

/// These blocks in pieces of at most so many.
fn cut(extents: &[Extent], most: u64) -> impl Iterator<Item = Extent> {
    extents.iter().flat_map(move |whole| {
        let starts = (whole.start().0..whole.end().0).step_by(most as usize);
        starts.filter_map(move |lba| Extent::new(biplex_engine::Lba(lba), most)?.intersection(*whole))
    })
}

impl Piece {
    /// The command, and its data.
    pub fn spelt(self) -> ([u8; 16], Bytes) {
        let cdb = match self {
            Piece::Look => test_unit_ready(),
            Piece::Read => read16(0, 0, false),
            Piece::Write => write16(0, 0, false),
            Piece::Control => mode_select6_of_nothing(),
            Piece::Verify(extent) => verify16(extent.start().0, extent.blocks() as u32),
            Piece::Swap(extent) => {
                let bytes = (2 * extent.bytes()) as usize;
                let data = Bytes::from_static(NOBODYS.get(..bytes).unwrap_or(&NOBODYS));
                return (compare_and_write(extent.start().0, extent.blocks() as u8), data);
            }
        };
        (cdb, Bytes::new())
    }

    /// What an answer says: a unit that looked at the blocks let the command in, whatever it found.
    pub fn verdict(self, answer: &Answer) -> Verdict {
        match (self, answer.status, crate::unit::sense_codes(&answer.sense).0) {
            _ if answer.is_later() => super::verdict_of(answer),
            // MEDIUM ERROR, MISCOMPARE.
            (Piece::Verify(_) | Piece::Swap(_), CHECK, 0x3 | 0xe) => Verdict::Done,
            _ => super::verdict_of(answer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use biplex_engine::Lba;

    fn extent(lba: u64, blocks: u64) -> Extent {
        Extent::new(Lba(lba), blocks).expect("some blocks")
    }

    #[test]
    fn just_the_blocks_of_a_command_are_asked_about_and_only_while_extents_may_be_reserved() {
        let most = Some(Most { verify: 512, swap: 3 });
        let read = Command::Read { extent: extent(5, 513), fua: false };
        let unmap = Command::Unmap { extents: vec![extent(0, 7), extent(100, 1)] };
        assert_eq!(pieces(Access::Read, &read, None), [Piece::Read]);
        assert_eq!(pieces(Access::Write, &unmap, None), [Piece::Write]);
        assert_eq!(pieces(Access::Control, &Command::Flush, None), [Piece::Write]);
        let verifies = [Piece::Verify(extent(5, 512)), Piece::Verify(extent(517, 1))];
        assert_eq!(pieces(Access::Read, &read, most), verifies);
        let swaps = [extent(0, 3), extent(3, 3), extent(6, 1), extent(100, 1)].map(Piece::Swap);
        assert_eq!(pieces(Access::Write, &unmap, most), swaps);
        assert_eq!(pieces(Access::Control, &Command::Flush, most), [Piece::Control]);
        let check = |access| Command::Check { access };
        assert_eq!(pieces(Access::Read, &check(Access::Read), most), [Piece::Read]);
        assert_eq!(pieces(Access::Write, &check(Access::Write), most), [Piece::Write]);
        assert_eq!(pieces(Access::Look, &check(Access::Look), most), [Piece::Look]);
    }

    #[test]
    fn a_question_compares_with_what_it_would_write() {
        for blocks in [1, 255] {
            let (cdb, data) = Piece::Swap(extent(9, blocks)).spelt();
            assert_eq!((cdb[0], cdb[13]), (0x89, blocks as u8));
            assert_eq!(data.len() as u64, 2 * 512 * blocks);
            let (compared, written) = data.split_at(data.len() / 2);
            assert_eq!(compared, written);
        }
        let (cdb, data) = Piece::Verify(extent(9, 4)).spelt();
        assert_eq!((cdb[0], cdb[1] & 0x06, cdb[13], data.len()), (0x8f, 0, 4, 0));
    }

    #[test]
    fn whoever_may_look_is_let_in_whatever_is_found() {
        let said = |status, key: u8| Answer {
            status,
            sense: Bytes::from(vec![0x70, 0, key, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x1d, 0]),
            data: Bytes::new(),
        };
        let swap = Piece::Swap(extent(0, 1));
        assert_eq!(swap.verdict(&said(CHECK, 0xe)), Verdict::Done);
        assert_eq!(swap.verdict(&said(0, 0)), Verdict::Done);
        assert_eq!(Piece::Verify(extent(0, 1)).verdict(&said(CHECK, 0x3)), Verdict::Done);
        assert_eq!(swap.verdict(&said(0x18, 0)), Verdict::Conflict);
        assert_eq!(swap.verdict(&said(8, 0)), Verdict::Unreachable);
        // Of an earlier command: the unit has not looked at this one.
        for key in [0x1, 0x3] {
            let mut deferred = said(CHECK, key);
            deferred.sense = [&[0x71][..], &deferred.sense[1..]].concat().into();
            for piece in [Piece::Verify(extent(0, 1)), swap, Piece::Write] {
                assert_eq!(piece.verdict(&deferred), Verdict::Unreachable, "{piece:?}, key {key}");
            }
        }
        assert_eq!(Piece::Read.verdict(&said(CHECK, 0x3)), Verdict::Unreachable);
    }
}
