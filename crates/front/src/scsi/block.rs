//! Block commands (SBC-3 5): reading, writing, verifying and unmapping.
//!
//! A command is first taken apart and checked ([`Request::parse`]: every block lies on the unit, every limit
//! holds), then becomes orders to the site ([`Request::start`]), whose answers end it or lead to the next
//! order ([`Task::finish`]). No order goes out for a command that is refused, and no length from outside
//! sizes memory.

use super::cdb::{Cdb, Range};
use super::opcodes::{Operation, Row};
use super::sense::Sense;
use super::{Outcome, Transfer};
use crate::{Command, Completion, Failure};
use biplex_engine::{BLOCK_BYTES, Extent, Lba};
use bytes::Bytes;

/// Blocks per physical block, as a power of two: 4 KiB (READ CAPACITY(16), SBC-3 5.16.2).
pub(super) const PHYSICAL_EXPONENT: u8 = 3;
/// MAXIMUM TRANSFER LENGTH: 4 MiB.
pub(super) const MAX_TRANSFER_BLOCKS: u64 = 8192;
/// MAXIMUM UNMAP LBA COUNT: 512 MiB.
pub(super) const MAX_UNMAP_BLOCKS: u64 = 1 << 20;
/// MAXIMUM UNMAP BLOCK DESCRIPTOR COUNT.
pub(super) const MAX_UNMAP_DESCRIPTORS: u64 = 256;
/// MAXIMUM WRITE SAME LENGTH: 16 MiB. Below 65,536 blocks, because libiscsi's tests take a longer one for leave to
/// write and read as much in one command, whatever MAXIMUM TRANSFER LENGTH says.
pub(super) const MAX_WRITE_SAME_BLOCKS: u64 = 1 << 15;

/// One block of zeros, for WRITE SAME without data.
static ZERO_BLOCK: [u8; BLOCK_BYTES as usize] = [0; BLOCK_BYTES as usize];

/// What VERIFY holds the medium against: its BYTCHK field (SBC-3 5.33).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Against {
    /// 00b: nothing, the blocks must be readable.
    Nothing,
    /// 01b: as many bytes as it names blocks.
    Bytes,
    /// 11b: one block, the same for all.
    OneBlock,
}

/// A block command whose CDB is in order. Ranges lie on the unit; `None` stands for zero blocks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Request {
    /// READ.
    Read { extent: Option<Extent>, fua: bool },
    /// WRITE.
    Write { extent: Option<Extent>, fua: bool },
    /// WRITE ATOMIC: as [`Request::Write`], but never in part.
    WriteAtomic { extent: Option<Extent>, fua: bool },
    /// WRITE AND VERIFY.
    WriteVerify { extent: Option<Extent>, compare: bool },
    /// VERIFY.
    Verify { extent: Option<Extent>, against: Against },
    /// PRE-FETCH.
    Prefetch,
    /// SYNCHRONIZE CACHE.
    Flush,
    /// WRITE SAME; `has_data` unless NDOB.
    WriteSame { extent: Extent, unmap: bool, has_data: bool },
    /// COMPARE AND WRITE.
    Swap { extent: Option<Extent> },
    /// UNMAP, with a parameter list of so many bytes.
    Unmap { list_bytes: u64 },
}

/// A block command that waits for the site.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Task {
    /// For so many bytes, which go to the host.
    Read { bytes: u64 },
    /// For the order to be carried out.
    Order,
    /// For a COMPARE AND WRITE to be judged.
    Swap,
    /// For a write, which is then read back.
    WriteBeforeVerify(Verification),
    /// For a piece of what is to be verified.
    Verify(Verification),
}

/// What is still to be verified, and against what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Verification {
    /// All of it.
    whole: Extent,
    /// The piece being read: at most [`MAX_TRANSFER_BLOCKS`].
    piece: Extent,
    expected: Expected,
    /// It was written before by the same command.
    written: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Expected {
    Anything,
    /// One byte for each of the whole.
    Bytes(Bytes),
    /// One block.
    Block(Bytes),
}

impl Request {
    /// Takes a CDB apart. `blocks` is the unit's capacity.
    pub fn parse(row: &Row, cdb: Cdb, blocks: u64) -> Result<Request, Sense> {
        let length = row.length();
        let range = cdb.range(length);
        let fua = length > 6 && cdb.bit(1, 0x08);
        let moved = || transfer_extent(range, length, blocks);
        match row.operation {
            Operation::Read => Ok(Request::Read { extent: moved()?, fua }),
            Operation::Write => Ok(Request::Write { extent: moved()?, fua }),
            Operation::WriteAtomic => {
                // SBC-4 5.48: TRANSFER LENGTH has two bytes here.
                let range = Range { lba: cdb.number(2, 8), blocks: cdb.number(12, 2) };
                let extent = on_unit(range, blocks)?;
                if range.blocks > MAX_TRANSFER_BLOCKS {
                    return Err(Sense::field_in_cdb(12, None));
                }
                Ok(Request::WriteAtomic { extent, fua })
            }
            Operation::WriteVerify => {
                Ok(Request::WriteVerify { extent: moved()?, compare: cdb.bit(1, 0x02) })
            }
            Operation::Verify => {
                let against = match cdb.byte(1) >> 1 & 0x03 {
                    0 => Against::Nothing,
                    1 => Against::Bytes,
                    3 => Against::OneBlock,
                    _ => return Err(Sense::field_in_cdb(1, Some(2))),
                };
                let extent = if against == Against::Bytes { moved()? } else { on_unit(range, blocks)? };
                Ok(Request::Verify { extent, against })
            }
            Operation::Prefetch => on_unit(range, blocks).map(|_| Request::Prefetch),
            Operation::SynchronizeCache => on_unit(range, blocks).map(|_| Request::Flush),
            Operation::WriteSame => {
                // SBC-3 5.43: WSNZ, MAXIMUM WRITE SAME LENGTH.
                let wrong_length = Sense::field_in_cdb(length_field(length), None);
                if range.blocks > MAX_WRITE_SAME_BLOCKS {
                    return Err(wrong_length);
                }
                let extent = on_unit(range, blocks)?.ok_or(wrong_length)?;
                let has_data = !(length == 16 && cdb.bit(1, 0x01));
                Ok(Request::WriteSame { extent, unmap: cdb.bit(1, 0x08), has_data })
            }
            Operation::CompareAndWrite => {
                let range = Range { lba: cdb.number(2, 8), blocks: cdb.number(13, 1) };
                on_unit(range, blocks).map(|extent| Request::Swap { extent })
            }
            Operation::Unmap => Ok(Request::Unmap { list_bytes: cdb.number(7, 2) }),
            Operation::TestUnitReady
            | Operation::RequestSense
            | Operation::Inquiry
            | Operation::ModeSelect
            | Operation::ModeSense
            | Operation::StartStop
            | Operation::SendDiagnostic
            | Operation::ReadCapacity10
            | Operation::ReadCapacity16
            | Operation::ReadDefects
            | Operation::ReportLuns
            | Operation::ReportGroups
            | Operation::ReportOpcodes
            | Operation::ReportTaskManagement
            | Operation::Reserve
            | Operation::Release
            | Operation::PersistentIn
            | Operation::PersistentOut
            | Operation::LbaStatus => Err(Sense::INVALID_OPCODE),
        }
    }

    /// The data that the command moves.
    pub fn transfer(&self) -> Transfer {
        let bytes = |extent: &Option<Extent>| extent.map_or(0, Extent::bytes);
        match self {
            Request::Read { extent, .. } => Transfer::In(bytes(extent)),
            Request::Write { extent, .. }
            | Request::WriteAtomic { extent, .. }
            | Request::WriteVerify { extent, .. } => Transfer::Out(bytes(extent)),
            Request::Verify { extent, against } => match against {
                Against::Nothing => Transfer::None,
                Against::Bytes => Transfer::Out(bytes(extent)),
                Against::OneBlock => Transfer::Out(if extent.is_some() { BLOCK_BYTES } else { 0 }),
            },
            Request::Swap { extent } => Transfer::Out(2 * bytes(extent)),
            Request::WriteSame { has_data, .. } if *has_data => Transfer::Out(BLOCK_BYTES),
            Request::Prefetch | Request::Flush | Request::WriteSame { .. } => Transfer::None,
            Request::Unmap { list_bytes } => Transfer::Out(*list_bytes),
        }
    }

    /// The first order, or the end. `data` may be shorter than [`Request::transfer`] says, never longer.
    pub fn start(self, data: Bytes, blocks: u64) -> Result<Outcome, Sense> {
        match self {
            Request::Read { extent, fua } => Ok(extent.map_or(Outcome::Good, |extent| {
                Outcome::Ask(Command::Read { extent, fua }, Task::Read { bytes: extent.bytes() })
            })),
            Request::Write { extent, fua } => Ok(whole_blocks(extent, &data)?
                .map_or(Outcome::Good, |extent| {
                    Outcome::Ask(Command::Write { extent, data, fua }, Task::Order)
                })),
            // One entry of the journal: read back whole or not at all, whatever is lost. Nothing to be added.
            Request::WriteAtomic { extent: None, .. } => Ok(Outcome::Good),
            Request::WriteAtomic { extent: Some(extent), fua } if data.len() as u64 == extent.bytes() => {
                Ok(Outcome::Ask(Command::Write { extent, data, fua }, Task::Order))
            }
            Request::WriteAtomic { .. } => Err(Sense::SHORT_DATA),
            Request::WriteVerify { extent, compare } => {
                let Some(extent) = whole_blocks(extent, &data)? else { return Ok(Outcome::Good) };
                let expected = if compare { Expected::Bytes(data.clone()) } else { Expected::Anything };
                let verification = Verification { written: true, ..Verification::new(extent, expected) };
                let task = Task::WriteBeforeVerify(verification);
                // SBC-3 5.37: what is verified is what is on the medium.
                Ok(Outcome::Ask(Command::Write { extent, data, fua: true }, task))
            }
            Request::Verify { extent, against } => {
                let (extent, expected) = match against {
                    Against::Nothing => (extent, Expected::Anything),
                    Against::Bytes => (whole_blocks(extent, &data)?, Expected::Bytes(data)),
                    Against::OneBlock => {
                        (extent.filter(|_| !data.is_empty()), Expected::Block(one_block(data)?))
                    }
                };
                Ok(extent.map_or(Outcome::Good, |extent| Verification::new(extent, expected).ask()))
            }
            // SBC-3 5.10: GOOD says no more than that the command was understood; reads are served from
            // memory or the store as they come.
            Request::Prefetch => Ok(Outcome::Good),
            Request::Flush => Ok(Outcome::Ask(Command::Flush, Task::Order)),
            Request::WriteSame { extent, unmap, has_data } => {
                let block = if has_data { one_block(data)? } else { Bytes::from_static(&ZERO_BLOCK) };
                if block.is_empty() {
                    return Err(Sense::SHORT_DATA);
                }
                // SBC-3 5.43: unmapping is allowed only where the blocks then read as the data says.
                let command = if unmap && block.iter().all(|byte| *byte == 0) {
                    Command::Unmap { extents: vec![extent] }
                } else {
                    Command::Fill { extent, block }
                };
                Ok(Outcome::Ask(command, Task::Order))
            }
            // SBC-3 5.2: the data is what is compared, then what is written, both for every block.
            Request::Swap { extent: None } => Ok(Outcome::Good),
            Request::Swap { extent: Some(extent) } if data.len() as u64 == 2 * extent.bytes() => {
                let (compare, data) =
                    (data.slice(..extent.bytes() as usize), data.slice(extent.bytes() as usize..));
                Ok(Outcome::Ask(Command::CompareAndWrite { extent, compare, data }, Task::Swap))
            }
            Request::Swap { .. } => Err(Sense::field_in_cdb(13, None)),
            Request::Unmap { list_bytes } => unmap(list_bytes, &data, blocks),
        }
    }
}

/// The blocks of a range that must lie on a unit of `blocks` blocks (SBC-3 4.5).
fn on_unit(range: Range, blocks: u64) -> Result<Option<Extent>, Sense> {
    match range.lba.checked_add(range.blocks) {
        Some(end) if end <= blocks => Ok(Extent::new(Lba(range.lba), range.blocks)),
        _ => Err(Sense::LBA_OUT_OF_RANGE),
    }
}

/// As [`on_unit`], for blocks that are moved, within MAXIMUM TRANSFER LENGTH (SBC-3 6.6.4).
fn transfer_extent(range: Range, length: usize, blocks: u64) -> Result<Option<Extent>, Sense> {
    let extent = on_unit(range, blocks)?;
    if range.blocks > MAX_TRANSFER_BLOCKS {
        return Err(Sense::field_in_cdb(length_field(length), None));
    }
    Ok(extent)
}

/// Where the TRANSFER LENGTH of a CDB of `length` bytes is.
fn length_field(length: usize) -> u16 {
    match length {
        6 => 4,
        10 => 7,
        12 => 6,
        _ => 10,
    }
}

/// The blocks for which data came: a host may send less than the CDB says (RFC 7143 11.4.5.2), but no broken
/// block.
fn whole_blocks(extent: Option<Extent>, data: &Bytes) -> Result<Option<Extent>, Sense> {
    let Some(extent) = extent else { return Ok(None) };
    let came = data.len() as u64;
    if !came.is_multiple_of(BLOCK_BYTES) || came > extent.bytes() {
        return Err(Sense::SHORT_DATA);
    }
    Ok(Extent::new(extent.start(), came / BLOCK_BYTES))
}

/// Exactly one block, or nothing.
fn one_block(data: Bytes) -> Result<Bytes, Sense> {
    if data.is_empty() || data.len() as u64 == BLOCK_BYTES { Ok(data) } else { Err(Sense::SHORT_DATA) }
}

/// UNMAP's parameter list (SBC-3 5.28.2). Everything is checked before anything is unmapped.
fn unmap(list_bytes: u64, data: &Bytes, blocks: u64) -> Result<Outcome, Sense> {
    if list_bytes == 0 {
        return Ok(Outcome::Good);
    }
    if list_bytes < 8 || (data.len() as u64) < list_bytes {
        return Err(Sense::PARAMETER_LIST_LENGTH);
    }
    let declared = Cdb::new(data).number(2, 2) as usize;
    let descriptors = data.get(8..).unwrap_or_default();
    let descriptors = descriptors.get(..declared).unwrap_or(descriptors);
    // An incomplete last descriptor is ignored.
    let (descriptors, _) = descriptors.as_chunks::<16>();
    if descriptors.len() as u64 > MAX_UNMAP_DESCRIPTORS {
        return Err(Sense::field_in_parameters(2, None));
    }
    let mut extents = Vec::new();
    let mut total = 0;
    for (number, descriptor) in descriptors.iter().enumerate() {
        let descriptor = Cdb::new(descriptor);
        let range = Range { lba: descriptor.number(0, 8), blocks: descriptor.number(8, 4) };
        total += range.blocks;
        if total > MAX_UNMAP_BLOCKS {
            return Err(Sense::field_in_parameters(8 + 16 * number as u16 + 8, None));
        }
        // A descriptor of zero blocks is no error, wherever it points.
        if range.blocks > 0 {
            extents.extend(on_unit(range, blocks)?);
        }
    }
    if extents.is_empty() {
        return Ok(Outcome::Good);
    }
    Ok(Outcome::Ask(Command::Unmap { extents }, Task::Order))
}

impl Task {
    /// Whether the command has written what it now looks at.
    pub fn has_written(&self) -> bool {
        matches!(self, Task::Verify(Verification { written: true, .. }))
    }

    /// What follows from the site's answer, which was not a failure, but for a conflict where
    /// [`Task::has_written`].
    pub fn finish(self, completion: Completion) -> Result<Outcome, Sense> {
        match (self, completion) {
            (Task::Read { bytes }, Completion::Data(data)) if length(&data) == bytes => {
                Ok(Outcome::Data(data))
            }
            (Task::Order, Completion::Done) => Ok(Outcome::Good),
            (Task::WriteBeforeVerify(verification), Completion::Done) => Ok(verification.ask()),
            (Task::Verify(verification), Completion::Data(data))
                if length(&data) == verification.piece.bytes() =>
            {
                verification.judge(&data)
            }
            // SCSI-2 9.2.12.2: a read exclusive reservation of another's lets writes in, and the command is one. It was
            // carried out, so that RESERVATION CONFLICT would be untrue; what cannot be looked at is not compared.
            (Task::Verify(Verification { written: true, .. }), Completion::Failed(Failure::Conflict)) => {
                Ok(Outcome::Good)
            }
            // The site answered something else than it was asked. The host's data is not at stake: say so.
            (
                Task::Read { .. } | Task::Order | Task::Swap | Task::WriteBeforeVerify(_) | Task::Verify(_),
                Completion::Data(_)
                | Completion::Done
                | Completion::Verdict(_)
                | Completion::Persistent(_)
                | Completion::Failed(_),
            ) => Err(Sense::INTERNAL_FAILURE),
        }
    }
}

fn length(data: &[Bytes]) -> u64 {
    data.iter().map(|part| part.len() as u64).sum()
}

impl Verification {
    fn new(whole: Extent, expected: Expected) -> Verification {
        Verification { whole, piece: first_piece(whole), expected, written: false }
    }

    fn ask(self) -> Outcome {
        Outcome::Ask(Command::Read { extent: self.piece, fua: true }, Task::Verify(self))
    }

    /// Compares the piece that was read; asks for the next one if there is one.
    fn judge(self, data: &[Bytes]) -> Result<Outcome, Sense> {
        let before = (self.piece.start().0 - self.whole.start().0) * BLOCK_BYTES;
        match &self.expected {
            Expected::Anything => {}
            Expected::Bytes(expected) => {
                let mut at = before as usize;
                for part in data {
                    let wanted = expected.get(at..at + part.len()).unwrap_or_default();
                    if part != wanted {
                        return Err(Sense::miscompare(at as u64 + first_difference(part, wanted.iter())));
                    }
                    at += part.len();
                }
            }
            Expected::Block(block) => {
                let mut at = 0;
                for part in data {
                    let wanted = block.iter().cycle().skip(at % block.len().max(1));
                    let offset = first_difference(part, wanted);
                    if offset < part.len() as u64 {
                        return Err(Sense::miscompare((at as u64 + offset) % BLOCK_BYTES));
                    }
                    at += part.len();
                }
            }
        }
        Ok(match Extent::between(self.piece.end(), self.whole.end()) {
            Some(rest) => Verification { piece: first_piece(rest), ..self }.ask(),
            None => Outcome::Good,
        })
    }
}

fn first_piece(extent: Extent) -> Extent {
    Extent::new(extent.start(), MAX_TRANSFER_BLOCKS)
        .and_then(|piece| piece.intersection(extent))
        .unwrap_or(extent)
}

/// Where the two differ first; the length of what was found if they do not.
fn first_difference<'a>(found: &[u8], wanted: impl Iterator<Item = &'a u8>) -> u64 {
    found.iter().zip(wanted).take_while(|(found, wanted)| found == wanted).count() as u64
}
