//! The shape of a journal and its making: two superblocks, two checkpoint slots, two state slots, then equal
//! segments.

use crate::disk::Disk;
use crate::error::StoreError;
use crate::page::PAGE_BYTES;
use crate::ring::GROUP_BYTES_MAX;
use biplex_engine::SiteId;
use biplex_engine::message::VolumeGeometry;
use biplex_format::FormatError;
use biplex_format::journal::{
    STATE_HEADER_BYTES, SUPERBLOCK_BYTES, Superblock, decode_superblock, encode_superblock,
};

/// Fewest segments: two that [`Layout::usable_bytes`] does not count, and two to go on with.
pub const SEGMENTS_MIN: u32 = 4;
/// Smallest segment chosen, in bytes: it holds the largest record, and is not all waste where the next does not fit.
const SEGMENT_BYTES_MIN: u64 = 8 << 20;
/// Largest segment aimed at, in bytes: room is given back in pieces of this size.
const SEGMENT_BYTES_MAX: u64 = 64 << 20;
/// Into how many segments a journal is cut, within these sizes. Fewer would leave more idle (two of them), more
/// would waste more at their ends.
const SEGMENTS_AIM: u64 = 16;
/// How many checkpoint slots there are.
pub(crate) const SLOTS: u64 = 2;
/// Where they start.
const SLOTS_START: u64 = 2 * SUPERBLOCK_BYTES as u64;
/// Where the state slots start.
const STATES_START: u64 = SLOTS_START + SLOTS * PAGE_BYTES as u64;
const _: () = assert!(STATES_START.is_multiple_of(PAGE_BYTES as u64));
/// How many state slots there are.
pub(crate) const STATES: u32 = 2;
/// Smallest state slot, in bytes.
const STATE_SLOT_BYTES_MIN: u64 = 32 << 10;
/// Largest state slot, in bytes.
const STATE_SLOT_BYTES_MAX: u64 = 1 << 20;
/// Which part of the journal a state slot is, within these sizes.
const STATE_SLOT_SHARE: u64 = 32;
/// Smallest journal for a site, in bytes.
pub const JOURNAL_BYTES_MIN: u64 =
    STATES_START + STATES as u64 * STATE_SLOT_BYTES_MAX + SEGMENTS_MIN as u64 * SEGMENT_BYTES_MIN;
const _: () = assert!(JOURNAL_BYTES_MIN / STATE_SLOT_SHARE >= STATE_SLOT_BYTES_MAX);
/// Largest journal: its pages are numbered by 32 bits.
const JOURNAL_BYTES_MAX: u64 = (u32::MAX as u64) * PAGE_BYTES as u64;

/// Whose journal it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The site.
    pub site: SiteId,
    /// The pair's identity.
    pub pair: u64,
    /// Random identity of the journal; not 0.
    pub journal: u64,
    /// The volumes when it was made, for whoever inspects it.
    pub volumes: Vec<VolumeGeometry>,
}

/// How a journal is cut into segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Bytes of a segment; a multiple of [`PAGE_BYTES`].
    pub segment_bytes: u64,
    /// How many there are.
    pub segments: u32,
    /// Bytes of each of the two state slots; a multiple of [`PAGE_BYTES`].
    pub state_slot_bytes: u64,
}

impl Layout {
    /// The layout for a journal of at most `bytes`: segments of about a 16th of it, from 8 MiB on and not much beyond
    /// 64 MiB, and so cut that nothing is left over.
    pub fn for_bytes(bytes: u64) -> Result<Layout, StoreError> {
        if bytes < JOURNAL_BYTES_MIN {
            return Err(StoreError::TooSmall { bytes, needed: JOURNAL_BYTES_MIN });
        }
        let page = PAGE_BYTES as u64;
        let aim = (bytes / SEGMENTS_AIM).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        let ring = bytes - segments_start(state_slot_bytes(bytes));
        let segments = ring / aim;
        Layout::with_segments(bytes, ring / segments / page * page)
    }

    /// A layout with segments of a chosen size, as tests want them. An entry that does not fit into such a segment
    /// must not be appended.
    pub fn with_segments(bytes: u64, segment_bytes: u64) -> Result<Layout, StoreError> {
        let page = PAGE_BYTES as u64;
        let segment_bytes = (segment_bytes / page * page).max(2 * page);
        let state_slot_bytes = state_slot_bytes(bytes);
        let start = segments_start(state_slot_bytes);
        let needed = start.saturating_add(segment_bytes.saturating_mul(u64::from(SEGMENTS_MIN)));
        if bytes < needed {
            return Err(StoreError::TooSmall { bytes, needed });
        }
        let too_large = StoreError::TooLarge { bytes, most: JOURNAL_BYTES_MAX };
        if bytes > JOURNAL_BYTES_MAX {
            return Err(too_large);
        }
        let segments = u32::try_from((bytes - start) / segment_bytes).map_err(|_| too_large)?;
        Ok(Layout { segment_bytes, segments, state_slot_bytes })
    }

    /// Bytes of the journal.
    pub fn bytes(&self) -> u64 {
        segments_start(self.state_slot_bytes) + u64::from(self.segments) * self.segment_bytes
    }

    /// The layout that a superblock tells of; none if no journal can have it.
    pub(crate) fn of(superblock: &Superblock) -> Option<Layout> {
        let page = PAGE_BYTES as u64;
        let layout = Layout {
            segment_bytes: superblock.segment_bytes,
            segments: superblock.segments,
            state_slot_bytes: u64::from(superblock.state_pages) * page,
        };
        let ring = layout.segment_bytes.checked_mul(u64::from(layout.segments));
        let sound = layout.segments >= SEGMENTS_MIN
            && layout.segment_bytes >= 2 * page
            && layout.segment_bytes.is_multiple_of(page)
            && (STATE_SLOT_BYTES_MIN..=STATE_SLOT_BYTES_MAX).contains(&layout.state_slot_bytes)
            && ring
                .and_then(|ring| ring.checked_add(segments_start(layout.state_slot_bytes)))
                .is_some_and(|bytes| bytes <= JOURNAL_BYTES_MAX);
        sound.then_some(layout)
    }

    /// Bytes of entries (by [`crate::Journal::footprint`]) that always find room, in whatever order they come and go:
    /// all but a half-dead oldest segment, one that is out of the log but still being read, and the rest of each
    /// segment into which the next entry does not fit. Checkpoints alone take no room: they go to the slots.
    pub fn usable_bytes(&self) -> u64 {
        let segments = u64::from(self.segments).saturating_sub(2).max(1);
        let waste = GROUP_BYTES_MAX.min(self.segment_bytes / 2);
        segments * (self.segment_bytes - PAGE_BYTES as u64 - waste)
    }

    /// Where slot write `seq` goes.
    pub(crate) fn slot(seq: u64) -> u64 {
        SLOTS_START + seq % SLOTS * PAGE_BYTES as u64
    }

    /// Where a state slot starts.
    pub(crate) fn state_slot(&self, index: u32) -> u64 {
        STATES_START + u64::from(index) * self.state_slot_bytes
    }

    /// Most bytes of a state: what a state slot holds behind its header.
    pub fn state_bytes_max(&self) -> usize {
        let bytes = usize::try_from(self.state_slot_bytes).unwrap_or(usize::MAX);
        bytes.saturating_sub(STATE_HEADER_BYTES)
    }

    /// Where a segment starts.
    pub(crate) fn start(&self, index: u32) -> u64 {
        segments_start(self.state_slot_bytes) + u64::from(index) * self.segment_bytes
    }

    /// The segment that a byte of the journal lies in.
    pub(crate) fn index(&self, offset: u64) -> u32 {
        u32::try_from(offset.saturating_sub(self.start(0)) / self.segment_bytes)
            .expect("every offset in the journal lies in one of its segments")
    }
}

/// Bytes of a state slot in a journal of `bytes`.
fn state_slot_bytes(bytes: u64) -> u64 {
    let page = PAGE_BYTES as u64;
    (bytes / STATE_SLOT_SHARE / page * page).clamp(STATE_SLOT_BYTES_MIN, STATE_SLOT_BYTES_MAX)
}

/// Where the segments start, behind two state slots of this size.
const fn segments_start(state_slot_bytes: u64) -> u64 {
    STATES_START + STATES as u64 * state_slot_bytes
}

/// Makes a journal of `bytes` (or a little less): zeros everything, so that later appends need no allocation, and
/// writes the superblocks last, so that an interrupted making is recognised ([`StoreError::Unfinished`]).
/// `progress` hears bytes done and bytes to do.
pub fn create(
    disk: &mut dyn Disk,
    bytes: u64,
    identity: &Identity,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), StoreError> {
    create_with(disk, Layout::for_bytes(bytes)?, identity, progress)
}

/// As [`create`], with a chosen layout.
pub fn create_with(
    disk: &mut dyn Disk,
    layout: Layout,
    identity: &Identity,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), StoreError> {
    assert!(identity.journal != 0, "0 means that no journal is known");
    let zeros = vec![0; 1 << 20];
    let total = layout.bytes();
    let mut done = 0;
    // The superblocks of an older journal go first: from here on this is no journal until the end.
    while done < total {
        let piece = zeros.len().min(usize::try_from(total - done).unwrap_or(usize::MAX));
        let (piece, _) = zeros.split_at(piece);
        disk.write_at(done, piece)?;
        if done == 0 {
            disk.sync()?;
        }
        done += piece.len() as u64;
        progress(done, total);
    }
    disk.sync()?;
    let superblock = encode_superblock(&Superblock {
        site: identity.site,
        pair: identity.pair,
        journal: identity.journal,
        segment_bytes: layout.segment_bytes,
        segments: layout.segments,
        state_pages: u32::try_from(layout.state_slot_bytes / PAGE_BYTES as u64)
            .expect("a state slot has at most STATE_SLOT_BYTES_MAX bytes"),
        volumes: identity.volumes.clone(),
    });
    for copy in [1, 0] {
        disk.write_at(copy * SUPERBLOCK_BYTES as u64, &superblock)?;
        disk.sync()?;
    }
    Ok(())
}

/// Reads whichever superblock is whole; tells the layout that it means, and what is wrong with each copy.
pub(crate) fn read_superblock(
    disk: &mut dyn Disk,
) -> Result<(Superblock, Layout, [Option<FormatError>; 2]), StoreError> {
    let found = disk.len()?;
    let mut copies = vec![0; 2 * SUPERBLOCK_BYTES];
    if found < copies.len() as u64 {
        return Err(StoreError::Truncated { expected: copies.len() as u64, found });
    }
    disk.read_at(0, &mut copies)?;
    let (first, second) = copies.split_at(SUPERBLOCK_BYTES);
    let (superblock, faults) = match (decode_superblock(first), decode_superblock(second)) {
        (Ok(superblock), second) => (superblock, [None, second.err()]),
        (Err(first), Ok(superblock)) => (superblock, [Some(first), None]),
        (Err(_), Err(_)) if copies.iter().all(|byte| *byte == 0) => return Err(StoreError::Unfinished),
        (Err(why), Err(_)) => return Err(StoreError::NotAJournal { why }),
    };
    let Some(layout) = Layout::of(&superblock) else {
        let why = FormatError::Field {
            what: "segment or state slot size in the superblock",
            expected: SEGMENT_BYTES_MIN,
            found: superblock.segment_bytes,
        };
        return Err(StoreError::NotAJournal { why });
    };
    if found < layout.bytes() {
        return Err(StoreError::Truncated { expected: layout.bytes(), found });
    }
    Ok((superblock, layout, faults))
}
