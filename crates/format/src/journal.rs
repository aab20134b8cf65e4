//! The journal's own pages: superblock, checkpoint slot, state slot, segment header, group header. Entries between
//! them are link records.
//!
//! ```text
//! superblock | superblock | slot 0 | slot 1 | state slot 0 | state slot 1 | segment 0 | segment 1 | …
//!                                             state slot = header, payload, zeros to 4 KiB
//!                                                          segment = header page | group | group | …
//!                                                                    group = header, records, zeros to 4 KiB
//! ```
//! Every page says where it belongs (journal, offset or index, sequence numbers) inside its checksum, so that
//! bytes of an earlier lap of the ring, or of another journal, are never taken for current ones. A group's header
//! also holds a checksum over all that follows it: a group is whole or it is not there ([`content_check`]). So does a
//! state's.

use crate::crc32c;
use crate::error::FormatError;
use crate::record::site;
use crate::volume::{VOLUME_ROW_BYTES, VOLUMES_MAX, decode_rows, encode_rows};
use biplex_engine::message::VolumeGeometry;
use biplex_engine::{SiteId, Stamp};
use core::mem::offset_of;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Version of the journal's layout. 1 had no checkpoint slots, 2 no state slots; no release made either.
pub const JOURNAL_VERSION: u16 = 3;
/// Bytes of a superblock copy; there are two, at offset 0 and behind it.
pub const SUPERBLOCK_BYTES: usize = 32 << 10;
/// Bytes of the unit in which the journal is written.
pub const JOURNAL_PAGE_BYTES: usize = 4096;
/// Bytes of a group's header.
pub const GROUP_HEADER_BYTES: usize = 128;
/// How a superblock starts.
pub const SUPERBLOCK_MAGIC: [u8; 8] = *b"BPXJRNL\0";
/// How a segment starts.
pub const SEGMENT_MAGIC: [u8; 4] = *b"BPXS";
/// How a group starts.
pub const GROUP_MAGIC: [u8; 4] = *b"BPXG";
/// How a checkpoint slot starts.
pub const SLOT_MAGIC: [u8; 4] = *b"BPXC";
/// How a state slot starts.
pub const STATE_MAGIC: [u8; 4] = *b"BPXT";

/// What a site must know after a crash besides its entries. Rides in every group; alone, it goes to a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// No stamp beyond this time was ever issued by this site.
    pub clock_ceiling: u64,
    /// The cut at which the backing stores stand, synced.
    pub destaged: Stamp,
    /// Set while the site may lack entries that its peer was told are here, or the other way round: a resume must
    /// reach back to this stamp.
    pub resume_from: Option<Stamp>,
    /// The journal identity that this site knows its peer by; 0 if it never met its peer.
    pub peer_journal: u64,
    /// How often the site was started on this journal.
    pub run: u32,
    /// Sequence number of the oldest segment that recovery needs. The journal sets this itself.
    pub oldest_segment: u64,
    /// Number of the state in force: it belongs to this checkpoint, and lies in one of the state slots; 0 if none was
    /// ever saved. The journal sets this itself.
    pub state: u64,
}

impl Checkpoint {
    /// That of a journal in which nothing was written yet.
    pub const FIRST: Checkpoint = Checkpoint {
        clock_ceiling: 0,
        destaged: Stamp::ZERO,
        resume_from: None,
        peer_journal: 0,
        run: 0,
        oldest_segment: 0,
        state: 0,
    };
}

/// Bytes of a checkpoint in a header.
pub const CHECKPOINT_BYTES: usize = 72;
const FLAG_DESTAGED_B: u32 = 1;
const FLAG_RESUME: u32 = 1 << 1;
const FLAG_RESUME_B: u32 = 1 << 2;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct CheckpointBytes {
    clock_ceiling: U64,
    destaged_time: U64,
    resume_time: U64,
    peer_journal: U64,
    oldest_segment: U64,
    run: U32,
    flags: U32,
    state: U64,
    spare: [u8; 16],
}

const _: () = assert!(size_of::<CheckpointBytes>() == CHECKPOINT_BYTES);

/// Names, offsets and lengths of a checkpoint's fields, for the drawing's test.
pub const CHECKPOINT_FIELDS: &[(&str, usize, usize)] = &[
    ("clock ceiling", offset_of!(CheckpointBytes, clock_ceiling), 8),
    ("destaged time", offset_of!(CheckpointBytes, destaged_time), 8),
    ("resume time", offset_of!(CheckpointBytes, resume_time), 8),
    ("peer journal", offset_of!(CheckpointBytes, peer_journal), 8),
    ("oldest segment", offset_of!(CheckpointBytes, oldest_segment), 8),
    ("run", offset_of!(CheckpointBytes, run), 4),
    ("flags", offset_of!(CheckpointBytes, flags), 4),
    ("state", offset_of!(CheckpointBytes, state), 8),
    ("spare", offset_of!(CheckpointBytes, spare), 16),
];

impl CheckpointBytes {
    fn of(checkpoint: &Checkpoint) -> CheckpointBytes {
        let b = |stamp: Stamp, flag: u32| match stamp.site {
            SiteId::A => 0,
            SiteId::B => flag,
        };
        let resume = checkpoint.resume_from.map_or(0, |stamp| FLAG_RESUME | b(stamp, FLAG_RESUME_B));
        CheckpointBytes {
            clock_ceiling: U64::new(checkpoint.clock_ceiling),
            destaged_time: U64::new(checkpoint.destaged.time),
            resume_time: U64::new(checkpoint.resume_from.map_or(0, |stamp| stamp.time)),
            peer_journal: U64::new(checkpoint.peer_journal),
            oldest_segment: U64::new(checkpoint.oldest_segment),
            run: U32::new(checkpoint.run),
            flags: U32::new(b(checkpoint.destaged, FLAG_DESTAGED_B) | resume),
            state: U64::new(checkpoint.state),
            spare: [0; 16],
        }
    }

    fn read(&self) -> Result<Checkpoint, FormatError> {
        let flags = self.flags.get();
        let stamp = |time: U64, flag: u32| Stamp {
            time: time.get(),
            site: if flags & flag == 0 { SiteId::A } else { SiteId::B },
        };
        let checkpoint = Checkpoint {
            clock_ceiling: self.clock_ceiling.get(),
            destaged: stamp(self.destaged_time, FLAG_DESTAGED_B),
            resume_from: (flags & FLAG_RESUME != 0).then(|| stamp(self.resume_time, FLAG_RESUME_B)),
            peer_journal: self.peer_journal.get(),
            run: self.run.get(),
            oldest_segment: self.oldest_segment.get(),
            state: self.state.get(),
        };
        if CheckpointBytes::of(&checkpoint).as_bytes() != self.as_bytes() {
            return Err(FormatError::Field {
                what: "flags or spare bytes of a checkpoint",
                expected: 0,
                found: u64::from(flags),
            });
        }
        Ok(checkpoint)
    }
}

/// A journal's identity and shape; written when the journal is complete, and never changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// Whose journal it is.
    pub site: SiteId,
    /// The pair's identity.
    pub pair: u64,
    /// Random identity of this journal.
    pub journal: u64,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// How many segments follow the state slots.
    pub segments: u32,
    /// Pages of [`JOURNAL_PAGE_BYTES`] of each of the two state slots.
    pub state_pages: u32,
    /// The volumes when the journal was made, for whoever inspects it.
    pub volumes: Vec<VolumeGeometry>,
}

/// Bytes of a superblock before its volume rows.
pub const SUPERBLOCK_HEAD_BYTES: usize = 64;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SuperblockHead {
    magic: [u8; 8],
    version: U16,
    site: u8,
    reserved: u8,
    volumes: U32,
    pair: U64,
    journal: U64,
    segment_bytes: U64,
    segments: U32,
    state_pages: U32,
    zeros: [u8; 16],
}

const _: () = assert!(size_of::<SuperblockHead>() == SUPERBLOCK_HEAD_BYTES);
const _: () = assert!(SUPERBLOCK_HEAD_BYTES + VOLUMES_MAX * VOLUME_ROW_BYTES + 4 <= SUPERBLOCK_BYTES);

/// Names, offsets and lengths of a superblock's fields, for the drawing's test.
pub const SUPERBLOCK_FIELDS: &[(&str, usize, usize)] = &[
    ("magic", offset_of!(SuperblockHead, magic), 8),
    ("version", offset_of!(SuperblockHead, version), 2),
    ("site", offset_of!(SuperblockHead, site), 1),
    ("zero", offset_of!(SuperblockHead, reserved), 1),
    ("volumes", offset_of!(SuperblockHead, volumes), 4),
    ("pair", offset_of!(SuperblockHead, pair), 8),
    ("journal", offset_of!(SuperblockHead, journal), 8),
    ("segment bytes", offset_of!(SuperblockHead, segment_bytes), 8),
    ("segments", offset_of!(SuperblockHead, segments), 4),
    ("state pages", offset_of!(SuperblockHead, state_pages), 4),
    ("zeros", offset_of!(SuperblockHead, zeros), 16),
];

/// Spells a superblock: [`SUPERBLOCK_BYTES`] bytes.
///
/// # Panics
/// With more volumes, or longer names, than the configuration lets through.
pub fn encode_superblock(superblock: &Superblock) -> Vec<u8> {
    let head = SuperblockHead {
        magic: SUPERBLOCK_MAGIC,
        version: U16::new(JOURNAL_VERSION),
        site: superblock.site as u8,
        reserved: 0,
        volumes: U32::new(superblock.volumes.len() as u32),
        pair: U64::new(superblock.pair),
        journal: U64::new(superblock.journal),
        segment_bytes: U64::new(superblock.segment_bytes),
        segments: U32::new(superblock.segments),
        state_pages: U32::new(superblock.state_pages),
        zeros: [0; 16],
    };
    let mut bytes = head.as_bytes().to_vec();
    encode_rows(&superblock.volumes, &mut bytes);
    bytes.resize(SUPERBLOCK_BYTES - 4, 0);
    let crc = crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// Reads a superblock.
pub fn decode_superblock(bytes: &[u8]) -> Result<Superblock, FormatError> {
    let what = "superblock";
    let (head, _) = SuperblockHead::read_from_prefix(bytes).map_err(|_| FormatError::Short {
        what,
        expected: SUPERBLOCK_BYTES,
        found: bytes.len(),
    })?;
    if head.magic != SUPERBLOCK_MAGIC {
        return Err(FormatError::Magic {
            what,
            expected: u64::from_le_bytes(SUPERBLOCK_MAGIC),
            found: u64::from_le_bytes(head.magic),
        });
    }
    check_trailing_crc(what, bytes, SUPERBLOCK_BYTES)?;
    if head.version.get() != JOURNAL_VERSION {
        return Err(FormatError::Version { what, expected: JOURNAL_VERSION, found: head.version.get() });
    }
    let count = head.volumes.get() as usize;
    let rows = bytes
        .get(SUPERBLOCK_HEAD_BYTES..SUPERBLOCK_HEAD_BYTES + count.min(VOLUMES_MAX) * VOLUME_ROW_BYTES)
        .unwrap_or_default();
    let superblock = Superblock {
        site: site(head.site)?,
        pair: head.pair.get(),
        journal: head.journal.get(),
        segment_bytes: head.segment_bytes.get(),
        segments: head.segments.get(),
        state_pages: head.state_pages.get(),
        volumes: decode_rows(rows, count)?,
    };
    demand_same(what, &encode_superblock(&superblock), bytes)?;
    Ok(superblock)
}

/// The page at the start of a segment that was taken into use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// Random identity of the journal.
    pub journal: u64,
    /// Which segment of the file.
    pub index: u32,
    /// Grows by one for each segment taken into use; from 1.
    pub seq: u64,
    /// Sequence number of the first group in this segment: the segment before it ends with the one before that.
    pub first_group: u64,
    /// As in the first group: [`GroupHeader::slots`].
    pub slots: u64,
    /// As of the first group.
    pub checkpoint: Checkpoint,
}

/// Bytes of a segment header page before its zeros.
pub const SEGMENT_HEAD_BYTES: usize = 112;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SegmentHead {
    magic: [u8; 4],
    index: U32,
    journal: U64,
    seq: U64,
    first_group: U64,
    slots: U64,
    checkpoint: CheckpointBytes,
}

const _: () = assert!(size_of::<SegmentHead>() == SEGMENT_HEAD_BYTES);

/// Names, offsets and lengths of a segment header's fields, for the drawing's test.
pub const SEGMENT_FIELDS: &[(&str, usize, usize)] = &[
    ("magic", offset_of!(SegmentHead, magic), 4),
    ("index", offset_of!(SegmentHead, index), 4),
    ("journal", offset_of!(SegmentHead, journal), 8),
    ("seq", offset_of!(SegmentHead, seq), 8),
    ("first group", offset_of!(SegmentHead, first_group), 8),
    ("slots", offset_of!(SegmentHead, slots), 8),
    ("checkpoint", offset_of!(SegmentHead, checkpoint), CHECKPOINT_BYTES),
];

/// Spells a segment's header page: head, zeros, checksum of the page before it.
pub fn encode_segment(segment: &SegmentHeader) -> [u8; JOURNAL_PAGE_BYTES] {
    let head = SegmentHead {
        magic: SEGMENT_MAGIC,
        index: U32::new(segment.index),
        journal: U64::new(segment.journal),
        seq: U64::new(segment.seq),
        first_group: U64::new(segment.first_group),
        slots: U64::new(segment.slots),
        checkpoint: CheckpointBytes::of(&segment.checkpoint),
    };
    page_of(head.as_bytes())
}

/// A page that starts with `head`: then zeros, and the checksum of all before it.
fn page_of(head: &[u8]) -> [u8; JOURNAL_PAGE_BYTES] {
    let mut page = [0; JOURNAL_PAGE_BYTES];
    let (start, _) = page.split_at_mut(head.len());
    start.copy_from_slice(head);
    let (covered, crc) = page.split_at_mut(JOURNAL_PAGE_BYTES - 4);
    crc.copy_from_slice(&crc32c(covered).to_le_bytes());
    page
}

/// Reads a segment's header page.
pub fn decode_segment(bytes: &[u8]) -> Result<SegmentHeader, FormatError> {
    let what = "segment header";
    let (head, _) = SegmentHead::read_from_prefix(bytes).map_err(|_| FormatError::Short {
        what,
        expected: JOURNAL_PAGE_BYTES,
        found: bytes.len(),
    })?;
    check_magic(what, SEGMENT_MAGIC, head.magic)?;
    check_trailing_crc(what, bytes, JOURNAL_PAGE_BYTES)?;
    let segment = SegmentHeader {
        journal: head.journal.get(),
        index: head.index.get(),
        seq: head.seq.get(),
        first_group: head.first_group.get(),
        slots: head.slots.get(),
        checkpoint: head.checkpoint.read()?,
    };
    demand_same(what, &encode_segment(&segment), bytes)?;
    Ok(segment)
}

/// A page that holds a checkpoint alone, outside of the ring. There are two places for it, used in turn, so that a torn
/// write leaves the older one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    /// Random identity of the journal.
    pub journal: u64,
    /// Where in the file it lies, in pages of [`JOURNAL_PAGE_BYTES`].
    pub page: u32,
    /// Number of the slot write; grows by one; from 1. It lies in slot `seq % 2`.
    pub seq: u64,
    /// Sequence number of the newest group before this write; 0 if there was none. It was durable by then.
    pub after_group: u64,
    /// What there is to know.
    pub checkpoint: Checkpoint,
}

/// Bytes of a slot's page before its zeros.
pub const SLOT_HEAD_BYTES: usize = 104;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SlotHead {
    magic: [u8; 4],
    page: U32,
    journal: U64,
    seq: U64,
    after_group: U64,
    checkpoint: CheckpointBytes,
}

const _: () = assert!(size_of::<SlotHead>() == SLOT_HEAD_BYTES);

/// Names, offsets and lengths of a slot's fields, for the drawing's test.
pub const SLOT_FIELDS: &[(&str, usize, usize)] = &[
    ("magic", offset_of!(SlotHead, magic), 4),
    ("page", offset_of!(SlotHead, page), 4),
    ("journal", offset_of!(SlotHead, journal), 8),
    ("seq", offset_of!(SlotHead, seq), 8),
    ("after group", offset_of!(SlotHead, after_group), 8),
    ("checkpoint", offset_of!(SlotHead, checkpoint), CHECKPOINT_BYTES),
];

/// Spells a slot's page: head, zeros, checksum of the page before it.
pub fn encode_slot(slot: &Slot) -> [u8; JOURNAL_PAGE_BYTES] {
    let head = SlotHead {
        magic: SLOT_MAGIC,
        page: U32::new(slot.page),
        journal: U64::new(slot.journal),
        seq: U64::new(slot.seq),
        after_group: U64::new(slot.after_group),
        checkpoint: CheckpointBytes::of(&slot.checkpoint),
    };
    page_of(head.as_bytes())
}

/// Reads a slot's page.
pub fn decode_slot(bytes: &[u8]) -> Result<Slot, FormatError> {
    let what = "checkpoint slot";
    let (head, _) = SlotHead::read_from_prefix(bytes).map_err(|_| FormatError::Short {
        what,
        expected: JOURNAL_PAGE_BYTES,
        found: bytes.len(),
    })?;
    check_magic(what, SLOT_MAGIC, head.magic)?;
    check_trailing_crc(what, bytes, JOURNAL_PAGE_BYTES)?;
    let slot = Slot {
        journal: head.journal.get(),
        page: head.page.get(),
        seq: head.seq.get(),
        after_group: head.after_group.get(),
        checkpoint: head.checkpoint.read()?,
    };
    demand_same(what, &encode_slot(&slot), bytes)?;
    Ok(slot)
}

/// The header of a state: bytes that belong to a checkpoint but are too long for it, outside of the ring. There are two
/// places for them; which of them is in force, a checkpoint says ([`Checkpoint::state`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StateHeader {
    /// Random identity of the journal.
    pub journal: u64,
    /// Where in the file this header lies, in pages of [`JOURNAL_PAGE_BYTES`].
    pub page: u32,
    /// Number of the state; grows; from 1.
    pub seq: u64,
    /// Bytes of the payload behind this header; zeros follow it to the end of its last page.
    pub bytes: u32,
    /// [`content_check`] of all that lies behind this header in its pages, the zeros included.
    pub content_check: u32,
}

/// Bytes of a state's header.
pub const STATE_HEADER_BYTES: usize = 40;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct StateHead {
    magic: [u8; 4],
    page: U32,
    journal: U64,
    seq: U64,
    bytes: U32,
    zero: U32,
    content_check: U32,
    header_crc: U32,
}

const _: () = assert!(size_of::<StateHead>() == STATE_HEADER_BYTES);

/// Names, offsets and lengths of a state header's fields, for the drawing's test.
pub const STATE_FIELDS: &[(&str, usize, usize)] = &[
    ("magic", offset_of!(StateHead, magic), 4),
    ("page", offset_of!(StateHead, page), 4),
    ("journal", offset_of!(StateHead, journal), 8),
    ("seq", offset_of!(StateHead, seq), 8),
    ("bytes", offset_of!(StateHead, bytes), 4),
    ("zero", offset_of!(StateHead, zero), 4),
    ("content check", offset_of!(StateHead, content_check), 4),
    ("header crc", offset_of!(StateHead, header_crc), 4),
];

/// Spells a state's header.
pub fn encode_state(state: &StateHeader) -> [u8; STATE_HEADER_BYTES] {
    let mut head = StateHead {
        magic: STATE_MAGIC,
        page: U32::new(state.page),
        journal: U64::new(state.journal),
        seq: U64::new(state.seq),
        bytes: U32::new(state.bytes),
        zero: U32::ZERO,
        content_check: U32::new(state.content_check),
        header_crc: U32::ZERO,
    };
    head.header_crc = U32::new(state_crc(&head));
    zerocopy::transmute!(head)
}

fn state_crc(head: &StateHead) -> u32 {
    let (covered, _) = head.as_bytes().split_at(STATE_HEADER_BYTES - 4);
    crc32c(covered)
}

/// Reads a state's header. Whether its payload is whole, its content check tells.
pub fn decode_state(bytes: &[u8]) -> Result<StateHeader, FormatError> {
    let what = "state slot";
    let (head, _) = StateHead::read_from_prefix(bytes).map_err(|_| FormatError::Short {
        what,
        expected: STATE_HEADER_BYTES,
        found: bytes.len(),
    })?;
    check_magic(what, STATE_MAGIC, head.magic)?;
    let found = state_crc(&head);
    if found != head.header_crc.get() {
        return Err(FormatError::Checksum { what, expected: head.header_crc.get(), found });
    }
    let state = StateHeader {
        journal: head.journal.get(),
        page: head.page.get(),
        seq: head.seq.get(),
        bytes: head.bytes.get(),
        content_check: head.content_check.get(),
    };
    demand_same(what, &encode_state(&state), bytes)?;
    Ok(state)
}

/// The header of a group: what one durable append wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupHeader {
    /// Random identity of the journal.
    pub journal: u64,
    /// Where in the file the group starts, in pages of [`JOURNAL_PAGE_BYTES`].
    pub start_page: u32,
    /// Pages of the whole group, this header included.
    pub pages: u32,
    /// Records in the group.
    pub records: u32,
    /// [`content_check`] of all bytes of the group behind this header.
    pub content_check: u32,
    /// Sequence number of the segment.
    pub segment_seq: u64,
    /// Sequence number of the group; grows by one; from 1.
    pub group_seq: u64,
    /// Number of the newest slot write before this group; 0 if there was none. It was durable by then.
    pub slots: u64,
    /// What else to know.
    pub checkpoint: Checkpoint,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct GroupHead {
    magic: [u8; 4],
    start_page: U32,
    pages: U32,
    records: U32,
    journal: U64,
    segment_seq: U64,
    group_seq: U64,
    slots: U64,
    checkpoint: CheckpointBytes,
    content_check: U32,
    header_crc: U32,
}

const _: () = assert!(size_of::<GroupHead>() == GROUP_HEADER_BYTES);

/// Names, offsets and lengths of a group header's fields, for the drawing's test.
pub const GROUP_FIELDS: &[(&str, usize, usize)] = &[
    ("magic", offset_of!(GroupHead, magic), 4),
    ("start page", offset_of!(GroupHead, start_page), 4),
    ("pages", offset_of!(GroupHead, pages), 4),
    ("records", offset_of!(GroupHead, records), 4),
    ("journal", offset_of!(GroupHead, journal), 8),
    ("segment seq", offset_of!(GroupHead, segment_seq), 8),
    ("group seq", offset_of!(GroupHead, group_seq), 8),
    ("slots", offset_of!(GroupHead, slots), 8),
    ("checkpoint", offset_of!(GroupHead, checkpoint), CHECKPOINT_BYTES),
    ("content check", offset_of!(GroupHead, content_check), 4),
    ("header crc", offset_of!(GroupHead, header_crc), 4),
];

/// The checksum that binds a group's records, bodies and padding, or a state's payload and padding, to its header: the
/// low half of CRC-64/NVME.
///
/// Not CRC-32C: bytes that end in their own CRC-32C, as our record headers do and as the blocks of many a host do,
/// all have the same one. With it, a record left from an earlier lap could stand in for one that was torn away.
pub fn content_check(content: &[u8]) -> u32 {
    crc_fast::crc64_nvme(content) as u32
}

/// Spells a group's header.
pub fn encode_group(group: &GroupHeader) -> [u8; GROUP_HEADER_BYTES] {
    let mut head = GroupHead {
        magic: GROUP_MAGIC,
        start_page: U32::new(group.start_page),
        pages: U32::new(group.pages),
        records: U32::new(group.records),
        journal: U64::new(group.journal),
        segment_seq: U64::new(group.segment_seq),
        group_seq: U64::new(group.group_seq),
        slots: U64::new(group.slots),
        checkpoint: CheckpointBytes::of(&group.checkpoint),
        content_check: U32::new(group.content_check),
        header_crc: U32::ZERO,
    };
    head.header_crc = U32::new(group_crc(&head));
    zerocopy::transmute!(head)
}

fn group_crc(head: &GroupHead) -> u32 {
    let (covered, _) = head.as_bytes().split_at(GROUP_HEADER_BYTES - 4);
    crc32c(covered)
}

/// Reads a group's header.
pub fn decode_group(bytes: &[u8]) -> Result<GroupHeader, FormatError> {
    let what = "group header";
    let (head, _) = GroupHead::read_from_prefix(bytes).map_err(|_| FormatError::Short {
        what,
        expected: GROUP_HEADER_BYTES,
        found: bytes.len(),
    })?;
    check_magic(what, GROUP_MAGIC, head.magic)?;
    let found = group_crc(&head);
    if found != head.header_crc.get() {
        return Err(FormatError::Checksum { what, expected: head.header_crc.get(), found });
    }
    Ok(GroupHeader {
        journal: head.journal.get(),
        start_page: head.start_page.get(),
        pages: head.pages.get(),
        records: head.records.get(),
        content_check: head.content_check.get(),
        segment_seq: head.segment_seq.get(),
        group_seq: head.group_seq.get(),
        slots: head.slots.get(),
        checkpoint: head.checkpoint.read()?,
    })
}

/// Whether bytes that are no group header look as if this one had been meant: some of its telling fields are
/// there. Tells a group that was torn or damaged from bytes that merely lie there from an earlier lap.
pub fn resembles_group(bytes: &[u8], journal: u64, segment_seq: u64, group_seq: u64) -> bool {
    GroupHead::read_from_prefix(bytes).is_ok_and(|(head, _)| {
        let here = head.segment_seq.get() == segment_seq && head.group_seq.get() == group_seq;
        let ours = head.magic == GROUP_MAGIC && head.journal.get() == journal;
        here || (ours && (head.segment_seq.get() == segment_seq || head.group_seq.get() == group_seq))
    })
}

fn check_magic(what: &'static str, expected: [u8; 4], found: [u8; 4]) -> Result<(), FormatError> {
    let number = |magic| u64::from(u32::from_le_bytes(magic));
    if expected == found {
        Ok(())
    } else {
        Err(FormatError::Magic { what, expected: number(expected), found: number(found) })
    }
}

/// The last four bytes are the checksum of all before them.
fn check_trailing_crc(what: &'static str, bytes: &[u8], expected: usize) -> Result<(), FormatError> {
    let short = FormatError::Short { what, expected, found: bytes.len() };
    let bytes = bytes.get(..expected).ok_or(short)?;
    let (covered, crc) = bytes.split_last_chunk::<4>().ok_or(short)?;
    let (expected, found) = (u32::from_le_bytes(*crc), crc32c(covered));
    if expected == found { Ok(()) } else { Err(FormatError::Checksum { what, expected, found }) }
}

/// One meaning, one spelling.
fn demand_same(what: &'static str, ours: &[u8], found: &[u8]) -> Result<(), FormatError> {
    match ours.iter().zip(found).find(|(ours, found)| ours != found) {
        None => Ok(()),
        Some((ours, found)) => {
            Err(FormatError::Field { what, expected: u64::from(*ours), found: u64::from(*found) })
        }
    }
}
