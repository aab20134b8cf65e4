//! States: what a site keeps in its journal as of a checkpoint, where it is too long to ride in one. The bytes mean
//! nothing here.
//!
//! ```text
//! save ─▶ queued ─▶ under way ─▶ saved ─────────▶ in force
//!         (newest)               (durable,        (a durable checkpoint names it)
//!                                 to be named)
//! ```
//! Invariants:
//! - A state is written only to the slot that the newest durable checkpoint does not name, however many are saved
//!   before the next checkpoint: after any crash the state of the newest checkpoint is whole.
//! - A checkpoint names the newest state that was durable when it was handed out. So what is saved before a checkpoint
//!   is handed out is never behind it.
//! - No number is used for two states that may both be on the disk.

use crate::disk::{Disk, DiskError};
use crate::error::{Damage, StoreError};
use crate::layout::{Layout, STATES};
use crate::page::{PAGE_BYTES, PageBuf};
use biplex_format::FormatError;
use biplex_format::journal::{STATE_HEADER_BYTES, StateHeader, content_check, decode_state, encode_state};
use bytes::Bytes;

/// A state on the disk: its number and its slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Saved {
    /// Number; 0 if there is none.
    pub seq: u64,
    /// Index of its slot.
    pub slot: u32,
}

impl Saved {
    /// No state yet: as if it lay in the last slot, as the first one goes to the other.
    pub const NONE: Saved = Saved { seq: 0, slot: STATES - 1 };
}

/// The states of a running site.
#[derive(Debug)]
pub(crate) struct States {
    /// To be written.
    queued: Option<Bytes>,
    /// The one that the newest durable checkpoint names.
    in_force: Saved,
    /// The newest one that this run knows to be durable: what the next checkpoint names.
    newest: Saved,
    /// Number of the next one.
    next_seq: u64,
}

impl States {
    pub fn resume(in_force: Saved, next_seq: u64) -> States {
        States { queued: None, in_force, newest: in_force, next_seq }
    }

    /// Takes a state to write, in place of one that was not handed out yet.
    pub fn queue(&mut self, bytes: Bytes) {
        self.queued = Some(bytes);
    }

    /// What the next checkpoint names.
    pub fn newest(&self) -> u64 {
        self.newest.seq
    }

    /// Whether a state waits to be handed out.
    pub fn is_queued(&self) -> bool {
        self.queued.is_some()
    }

    /// Hands out the write of the queued state, if there is one: what it will be, its offset, and its pages.
    pub fn next_write(&mut self, journal: u64, layout: &Layout) -> Option<(Saved, u64, PageBuf)> {
        let bytes = self.queued.take()?;
        let saved = Saved { seq: self.next_seq, slot: (self.in_force.slot + 1) % STATES };
        self.next_seq += 1;
        let offset = layout.state_slot(saved.slot);
        let mut pages = PageBuf::with_capacity(STATE_HEADER_BYTES + bytes.len());
        pages.extend_from_slice(&[0; STATE_HEADER_BYTES]);
        pages.extend_from_slice(&bytes);
        pages.pad_to_page();
        let (header, content) = pages.as_mut_bytes().split_at_mut(STATE_HEADER_BYTES);
        header.copy_from_slice(&encode_state(&StateHeader {
            journal,
            page: page_of(offset),
            seq: saved.seq,
            bytes: u32::try_from(bytes.len()).expect("it fits into a state slot"),
            content_check: content_check(content),
        }));
        Some((saved, offset, pages))
    }

    /// A state is durable.
    pub fn saved(&mut self, saved: Saved) {
        self.newest = saved;
    }

    /// A checkpoint that names state `seq` is durable.
    pub fn named(&mut self, seq: u64) {
        // At most one write is under way: a checkpoint was handed out after the newest state was durable.
        assert!(seq == self.newest.seq, "a checkpoint names state {seq}, not {}", self.newest.seq);
        self.in_force = self.newest;
    }
}

fn page_of(offset: u64) -> u32 {
    u32::try_from(offset / PAGE_BYTES as u64).expect("a layout has at most 2^32 pages")
}

/// What a state slot says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum StateRead {
    /// A whole state: its number and its bytes.
    Valid { seq: u64, bytes: Bytes },
    /// Its first page is all zeros: never written.
    Blank,
    /// It does not read; its number, where its header does.
    Broken { seq: Option<u64>, damage: Damage },
}

impl StateRead {
    /// Its number, as far as it can be read.
    pub fn seq(&self) -> Option<u64> {
        match self {
            StateRead::Valid { seq, .. } => Some(*seq),
            StateRead::Blank => None,
            StateRead::Broken { seq, .. } => *seq,
        }
    }
}

/// Reads both state slots of a journal. Memory: what the states are long.
pub(crate) fn read_states(
    disk: &mut dyn Disk,
    layout: &Layout,
    journal: u64,
) -> Result<Vec<StateRead>, DiskError> {
    (0..STATES).map(|slot| read_state(disk, layout, journal, layout.state_slot(slot))).collect()
}

fn read_state(disk: &mut dyn Disk, layout: &Layout, journal: u64, at: u64) -> Result<StateRead, DiskError> {
    let mut pages = vec![0; PAGE_BYTES];
    disk.read_at(at, &mut pages)?;
    if pages.iter().all(|byte| *byte == 0) {
        return Ok(StateRead::Blank);
    }
    let header = match decode_state(&pages) {
        Ok(header) => header,
        Err(error) => return Ok(StateRead::Broken { seq: None, damage: Damage::Format(error) }),
    };
    if let Some(damage) = not_here(&header, layout, journal, at) {
        return Ok(StateRead::Broken { seq: None, damage });
    }
    let bytes = usize::try_from(header.bytes).unwrap_or(usize::MAX).min(layout.state_bytes_max());
    pages.resize((STATE_HEADER_BYTES + bytes).next_multiple_of(PAGE_BYTES), 0);
    if let Some(rest) = pages.get_mut(PAGE_BYTES..)
        && !rest.is_empty()
    {
        disk.read_at(at + PAGE_BYTES as u64, rest)?;
    }
    Ok(match payload(&header, &pages, bytes) {
        Ok(bytes) => StateRead::Valid { seq: header.seq, bytes },
        Err(damage) => StateRead::Broken { seq: Some(header.seq), damage },
    })
}

/// Why a header does not belong where it lies, if so.
fn not_here(header: &StateHeader, layout: &Layout, journal: u64, at: u64) -> Option<Damage> {
    let page = at / PAGE_BYTES as u64;
    let most = layout.state_bytes_max() as u64;
    if header.journal != journal {
        let what = "state slot's journal";
        Some(Damage::Misplaced { what, expected: journal, found: header.journal })
    } else if u64::from(header.page) != page {
        let what = "state slot's page";
        Some(Damage::Misplaced { what, expected: page, found: u64::from(header.page) })
    } else if header.seq == 0 {
        Some(Damage::Misplaced { what: "state slot's number", expected: 1, found: 0 })
    } else if u64::from(header.bytes) > most {
        let (what, found) = ("state in bytes", u64::from(header.bytes));
        Some(Damage::Format(FormatError::Length { what, expected: most, found }))
    } else {
        None
    }
}

/// The payload of a state in `pages`, checked.
fn payload(header: &StateHeader, pages: &[u8], bytes: usize) -> Result<Bytes, Damage> {
    let content = pages.get(STATE_HEADER_BYTES..).unwrap_or_default();
    let (expected, found) = (header.content_check, content_check(content));
    if expected != found {
        let what = "the state's content";
        return Err(Damage::Format(FormatError::Checksum { what, expected, found }));
    }
    let (payload, padding) =
        content.split_at_checked(bytes).ok_or(Damage::Mismatch { what: "the state is cut off" })?;
    if padding.iter().any(|byte| *byte != 0) {
        return Err(Damage::Mismatch { what: "the state is longer than it says" });
    }
    Ok(Bytes::copy_from_slice(payload))
}

/// The number of the next state: beyond all that were ever seen.
pub(crate) fn next_seq(reads: &[StateRead], named: u64) -> u64 {
    reads.iter().filter_map(StateRead::seq).fold(named, u64::max).saturating_add(1)
}

/// The state that a checkpoint names. It was durable before the checkpoint was handed out: where it does not read,
/// that is damage.
pub(crate) fn in_force(
    reads: &[StateRead],
    layout: &Layout,
    named: u64,
) -> Result<(Saved, Option<Bytes>), StoreError> {
    if named == 0 {
        return Ok((Saved::NONE, None));
    }
    let mut suspect: Option<((u64, u64), u32, Damage)> = None;
    for (slot, read) in (0..).zip(reads) {
        // Which slot had it is known only from what the slots say: its own broken bytes, bytes that say nothing, or
        // the older one of two others.
        let other = |seq| Damage::Misplaced { what: "state slot's number", expected: named, found: seq };
        let (rank, damage) = match read {
            StateRead::Valid { seq, bytes } if *seq == named => {
                return Ok((Saved { seq: named, slot }, Some(bytes.clone())));
            }
            StateRead::Broken { seq: Some(seq), damage } if *seq == named => ((0, 0), *damage),
            StateRead::Broken { seq: None, damage } => ((1, 0), *damage),
            StateRead::Blank => ((2, 0), Damage::Mismatch { what: "the state slot is blank" }),
            StateRead::Valid { seq, .. } | StateRead::Broken { seq: Some(seq), .. } => {
                ((3, *seq), other(*seq))
            }
        };
        if suspect.as_ref().is_none_or(|(worst, _, _)| rank < *worst) {
            suspect = Some((rank, slot, damage));
        }
    }
    let (slot, what) = suspect
        .map_or((0, Damage::Mismatch { what: "there is no state slot" }), |(_, slot, damage)| (slot, damage));
    Err(StoreError::StateDamaged { offset: layout.state_slot(slot), state: named, what })
}
