//! Why a journal cannot be made, opened or appended to; each with what the operator can do.

use crate::disk::DiskError;
use biplex_engine::SiteId;
use biplex_format::FormatError;
use std::fmt;

/// The journal has no room until a destage frees some. Nothing was changed; the same append may be tried again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the journal is full")]
pub struct JournalFull;

/// Why a journal could not be made, opened or explained.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk refused.
    #[error("journal disk: {0}")]
    Disk(#[from] DiskError),
    /// Too small, or of a shape that holds no record.
    #[error("a journal of {bytes} bytes is too small: it needs at least {needed}; raise [journal] size")]
    TooSmall {
        /// Bytes asked for.
        bytes: u64,
        /// Bytes that it would need.
        needed: u64,
    },
    /// Beyond what the format can address.
    #[error("a journal of {bytes} bytes is too large: at most {most}; lower [journal] size")]
    TooLarge {
        /// Bytes asked for.
        bytes: u64,
        /// Most bytes.
        most: u64,
    },
    /// Both superblocks are blank: its making was interrupted. Nothing was ever stored in it.
    #[error("the journal was never completed: its making was interrupted; remove it and start again")]
    Unfinished,
    /// Neither superblock is readable.
    #[error("this is no journal, or both its superblocks are damaged ({why}); give the right file")]
    NotAJournal {
        /// What is wrong with the first superblock.
        why: FormatError,
    },
    /// It belongs to another site or pair.
    #[error(
        "the journal belongs to site {found_site} of pair {found_pair:016x}, not to site {expected_site} of pair \
         {expected_pair:016x}; check state_dir, site and [iscsi] target"
    )]
    Foreign {
        /// Site expected.
        expected_site: SiteId,
        /// Pair expected.
        expected_pair: u64,
        /// Site found.
        found_site: SiteId,
        /// Pair found.
        found_pair: u64,
    },
    /// The file is shorter than its superblock says.
    #[error("the journal is cut off: {found} of {expected} bytes are there; restore the file")]
    Truncated {
        /// Bytes that the superblock tells of.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// Bytes that were durable are no longer what was written.
    #[error(
        "the journal is damaged in segment {segment} at offset {offset}: {what}; nothing after it may be skipped. \
         Keep the file, look at it with `biplex inspect`, and let this site join its peer anew with a new journal"
    )]
    Damaged {
        /// Index of the segment.
        segment: u32,
        /// Byte offset in the journal.
        offset: u64,
        /// What is wrong there.
        what: Damage,
    },
    /// Both checkpoint slots lack what was durable in them.
    #[error(
        "the journal's checkpoint slots at offset {offset} are damaged: slot write {newest} or a later one was \
         durable, and neither slot has it; without it this site may not go on. Keep the file, look at it with \
         `biplex inspect`, and let this site join its peer anew with a new journal"
    )]
    SlotsLost {
        /// Byte offset of the first slot.
        offset: u64,
        /// A slot write that is known to have been durable.
        newest: u64,
    },
    /// The state that the newest checkpoint names is not there.
    #[error(
        "the journal's state slot at offset {offset} is damaged: {what}; the newest checkpoint needs state \
         {state}, and without it this site may not go on. Keep the file, look at it with `biplex inspect`, and let \
         this site join its peer anew with a new journal"
    )]
    StateDamaged {
        /// Byte offset of the slot.
        offset: u64,
        /// Number of the state.
        state: u64,
        /// What is wrong there.
        what: Damage,
    },
}

/// What is wrong at a place of a journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Damage {
    /// Bytes that do not read.
    Format(FormatError),
    /// A page that belongs elsewhere: its own idea of its place is not where it lies.
    Misplaced {
        /// What lies there.
        what: &'static str,
        /// What it should say.
        expected: u64,
        /// What it says.
        found: u64,
    },
    /// A group whose length, record count and records do not fit together.
    Mismatch {
        /// What does not fit.
        what: &'static str,
    },
    /// A segment that the log needs has no readable header.
    SegmentMissing {
        /// Its sequence number.
        seq: u64,
    },
    /// Two segments claim the same place in the log.
    SegmentTwice {
        /// Its sequence number.
        seq: u64,
    },
    /// No group where there must be one: a later one lies on the disk.
    GroupMissing {
        /// Its sequence number.
        seq: u64,
        /// Where a later one lies.
        later_at: u64,
    },
    /// No group where there must be one: a checkpoint slot was written after it.
    GroupBeforeSlot {
        /// Its sequence number.
        seq: u64,
        /// Where the slot lies.
        slot_at: u64,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Format(error) => write!(f, "{error}"),
            Damage::Misplaced { what, expected, found } => {
                write!(f, "{what} says {found}, its place is {expected}")
            }
            Damage::Mismatch { what } => f.write_str(what),
            Damage::SegmentMissing { seq } => {
                write!(f, "segment number {seq} of the log has no readable header")
            }
            Damage::SegmentTwice { seq } => write!(f, "segment number {seq} of the log is there twice"),
            Damage::GroupMissing { seq, later_at } => {
                write!(f, "group {seq} is not readable, but a later one is, at offset {later_at}")
            }
            Damage::GroupBeforeSlot { seq, slot_at } => {
                write!(
                    f,
                    "group {seq} is not readable, but the checkpoint slot at offset {slot_at} was written after it"
                )
            }
        }
    }
}
