//! The journal while a site runs: a ring of segments, filled by groups, without any I/O of its own.
//!
//! ```text
//! append ─▶ open group ─▶ ready ─▶ under way ─▶ durable            recycle: durable checkpoint frees segments
//!           (one)        (few)     (at most one)
//!        a checkpoint alone ──────▶ (a slot)
//!        a state ─────────────────▶ (a state slot; before all others)
//! ```
//! Invariants:
//! - A record's place is fixed when it is appended; a group's sequence number and checkpoint when it is handed out.
//! - Groups are handed out one at a time and in order, so appends become durable in order.
//! - A segment is taken into use by the same durable order that writes its first group; its header page leads.
//! - A segment is free only once a durable checkpoint says that recovery needs none of it, and no read is under
//!   way in it. What is freed is a prefix of the log.
//! - Only entries take room in the ring. A checkpoint without entries goes to one of two slots outside of it, in turn,
//!   so checkpoints can be written for ever while the hosts wait. Slot writes and groups are one sequence: each names
//!   the newest of the other kind before it.
//! - A state goes out before any group or checkpoint that is handed out later, and those name it: a checkpoint is never
//!   durable before a state that was saved before it (`state.rs`).

use crate::error::JournalFull;
use crate::layout::Layout;
use crate::page::{PAGE_BYTES, PageBuf};
use crate::state::{Saved, States};
use biplex_engine::mutant::{Mutant, planted};
use biplex_engine::{AppendSeq, Entry, JournalPos, Stamp};
use biplex_format::journal::{
    Checkpoint, GROUP_HEADER_BYTES, GroupHeader, SegmentHeader, Slot, content_check, encode_group,
    encode_segment, encode_slot,
};
use biplex_format::{BODY_BYTES_MAX, HEADER_BYTES, encode_entry_header, stored_body};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Most bytes of a group: the largest record, and room for many small ones.
pub const GROUP_BYTES_MAX: u64 = BODY_BYTES_MAX as u64 + (64 << 10);

const PAGE: u64 = PAGE_BYTES as u64;
/// Room that a group starts with at least.
const ROOM_BYTES: u64 = 64 << 10;
const _: () = assert!(GROUP_HEADER_BYTES + HEADER_BYTES + BODY_BYTES_MAX <= GROUP_BYTES_MAX as usize);

/// A group, a checkpoint alone, or a state, to write: one durable write to the journal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// Where in the journal.
    pub offset: u64,
    /// What.
    pub pages: PageBuf,
    /// What is durable when it ends well.
    pub durable: Durable,
}

/// What became durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durable {
    /// A group, or a checkpoint alone.
    Group {
        /// Every append up to this one.
        upto: AppendSeq,
        /// The checkpoint in it.
        checkpoint: Checkpoint,
    },
    /// A state alone. It is in force only with the next group or checkpoint; until then there is nothing new.
    State {
        /// Its number.
        seq: u64,
    },
}

/// A segment of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Segment {
    pub index: u32,
    pub seq: u64,
    /// The newest stamp in it; none while it holds no entry.
    pub newest: Option<Stamp>,
}

/// A group being filled.
#[derive(Debug)]
struct Building {
    segment_seq: u64,
    offset: u64,
    /// The segment that this group takes into use: its header page leads.
    opens: Option<u32>,
    pages: PageBuf,
    records: u32,
    upto: AppendSeq,
}

impl Building {
    fn lead(&self) -> usize {
        if self.opens.is_some() { PAGE_BYTES } else { 0 }
    }

    /// Where the group's own header lies.
    fn start(&self) -> u64 {
        self.offset + self.lead() as u64
    }

    /// Bytes of the group so far, header included.
    fn bytes(&self) -> u64 {
        (self.pages.filled() - self.lead()) as u64
    }

    /// First byte behind its last page.
    fn end(&self) -> u64 {
        self.start() + self.bytes().next_multiple_of(PAGE)
    }
}

/// What is being written.
#[derive(Debug)]
enum UnderWay {
    Group { upto: AppendSeq, checkpoint: Checkpoint },
    State(Saved),
}

impl UnderWay {
    /// What is said of it when it is durable.
    fn durable(&self) -> Durable {
        match self {
            UnderWay::Group { upto, checkpoint } => Durable::Group { upto: *upto, checkpoint: *checkpoint },
            UnderWay::State(saved) => Durable::State { seq: saved.seq },
        }
    }
}

/// What recovery found, to go on from.
#[derive(Debug)]
pub(crate) struct Resume {
    pub journal: u64,
    pub pair: u64,
    pub layout: Layout,
    /// The log's segments, oldest first; the last is being filled.
    pub live: VecDeque<Segment>,
    /// Sequence number (0: none that reads) and index of those that are not in the log.
    pub free: BTreeSet<(u64, u32)>,
    /// Where the next group goes, if there is a segment.
    pub fill: u64,
    pub next_group: u64,
    pub next_segment: u64,
    pub next_slot: u64,
    pub checkpoint: Checkpoint,
    /// The state that the checkpoint names.
    pub state: Saved,
    pub next_state: u64,
}

/// The journal of a running site.
#[derive(Debug)]
pub struct Journal {
    journal: u64,
    pair: u64,
    layout: Layout,
    live: VecDeque<Segment>,
    free: BTreeSet<(u64, u32)>,
    /// Reads under way, per segment index.
    pins: BTreeMap<u32, u32>,
    /// Out of the log, but still being read.
    held: BTreeSet<(u64, u32)>,
    /// Where the next group would start, the open one apart.
    fill: u64,
    next_group: u64,
    next_segment: u64,
    next_slot: u64,
    open: Option<Building>,
    ready: VecDeque<Building>,
    under_way: Option<UnderWay>,
    appended: AppendSeq,
    checkpoint: Checkpoint,
    /// The oldest segment by the newest durable checkpoint.
    oldest_durable: u64,
    wanted: bool,
    states: States,
    groups: u64,
    written: u64,
    /// The last group held several records and many bytes: the next one likely will, too.
    crowded: bool,
}

impl Journal {
    pub(crate) fn resume(found: Resume) -> Journal {
        Journal {
            journal: found.journal,
            pair: found.pair,
            layout: found.layout,
            live: found.live,
            free: found.free,
            pins: BTreeMap::new(),
            held: BTreeSet::new(),
            fill: found.fill,
            next_group: found.next_group,
            next_segment: found.next_segment,
            next_slot: found.next_slot,
            open: None,
            ready: VecDeque::new(),
            under_way: None,
            appended: AppendSeq(0),
            oldest_durable: found.checkpoint.oldest_segment,
            checkpoint: found.checkpoint,
            wanted: false,
            states: States::resume(found.state, found.next_state),
            groups: 0,
            written: 0,
            crowded: false,
        }
    }

    /// Journal bytes that one entry takes at worst: alone in a group, in whole pages. (The rest of a segment into
    /// which it does not fit is not counted.)
    pub fn footprint(entry: &Entry) -> u64 {
        ((GROUP_HEADER_BYTES + HEADER_BYTES + entry.body.stored_bytes()) as u64).next_multiple_of(PAGE)
    }

    /// Takes an entry into the open group; says its number and where its body will lie. Full means: nothing was
    /// changed, and a destage has to free a segment first (E1.8: the hosts wait).
    ///
    /// # Panics
    /// If the entry could not fit into any segment: the layout for a site holds the largest that a front end lets in.
    pub fn append(&mut self, entry: &Entry) -> Result<(AppendSeq, JournalPos), JournalFull> {
        let alone = Journal::footprint(entry);
        assert!(alone + PAGE <= self.layout.segment_bytes, "an entry of {alone} bytes fits into no segment");
        let room = self.fill_end().is_some_and(|end| self.fill_now() + alone <= end);
        if !room && self.free.is_empty() {
            return Err(JournalFull);
        }
        let record = (HEADER_BYTES + entry.body.stored_bytes()) as u64;
        let joins = room
            && self.open.as_ref().is_some_and(|open| {
                open.bytes() + record <= GROUP_BYTES_MAX
                    && open.start() + (open.bytes() + record).next_multiple_of(PAGE)
                        <= self.layout.start(self.layout.index(open.offset)) + self.layout.segment_bytes
            });
        let mut group = match self.open.take() {
            Some(open) if joins => open,
            open => {
                if let Some(open) = open {
                    self.fill = open.end();
                    self.ready.push_back(open);
                }
                self.new_group(alone)
            }
        };
        self.appended.0 += 1;
        group.upto = self.appended;
        let header = encode_entry_header(self.pair, entry);
        group.records += 1;
        group.pages.extend_from_slice(&header);
        let pos = JournalPos(group.offset + group.pages.filled() as u64);
        if let Some(body) = stored_body(&entry.body) {
            group.pages.extend_from_slice(&body);
        }
        self.open = Some(group);
        let segment = self.live.back_mut().expect("a group was opened in the newest segment");
        segment.newest = segment.newest.max(Some(entry.stamp));
        Ok((self.appended, pos))
    }

    /// What the next groups carry. `oldest_segment` and `state` are the journal's own to set.
    pub fn set_checkpoint(&mut self, checkpoint: Checkpoint) {
        self.checkpoint = checkpoint;
    }

    /// The checkpoint that the next group carries.
    pub fn checkpoint(&self) -> Checkpoint {
        self.checkpoint
    }

    /// Asks for a write even if there is nothing to append, so that the checkpoint becomes durable.
    pub fn request_group(&mut self) {
        self.wanted = true;
    }

    /// Whether a write is under way.
    pub fn writing(&self) -> bool {
        self.under_way.is_some()
    }

    /// Bytes of entries that were appended and not handed out yet, their headers included.
    pub fn open_bytes(&self) -> u64 {
        self.ready.iter().chain(&self.open).map(Building::bytes).sum()
    }

    /// Whether something is to be written even if nothing was appended: a checkpoint or a state.
    pub fn group_wanted(&self) -> bool {
        self.wanted || self.states.is_queued()
    }

    /// Keeps `bytes` for the site, outside of the ring: written before any group or checkpoint that is handed out from
    /// now on, and in force with the first of those, so that a recovery gives each checkpoint with its state
    /// ([`crate::Recovered::state`]). A state that was saved and not yet handed out is replaced.
    ///
    /// So for a state as of a cut: save it, and only then set the checkpoint that says that cut. Nothing is written for
    /// the state's own sake alone: ask for the checkpoint, too ([`Journal::request_group`]).
    ///
    /// # Panics
    /// With more bytes than [`Journal::state_bytes_max`].
    pub fn save_state(&mut self, bytes: Bytes) {
        let (most, found) = (self.state_bytes_max(), bytes.len());
        assert!(found <= most, "a state of {found} bytes does not fit into a slot for {most}");
        self.states.queue(bytes);
    }

    /// Most bytes of a state.
    pub fn state_bytes_max(&self) -> usize {
        self.layout.state_bytes_max()
    }

    /// The next write: the state that was saved, if there is one; else the next group; else a checkpoint alone, if one
    /// was asked for. None while one is under way, or when there is nothing to write.
    pub fn next_group(&mut self) -> Option<Group> {
        if self.under_way.is_some() {
            return None;
        }
        if let Some((saved, offset, pages)) = self.states.next_write(self.journal, &self.layout) {
            return Some(self.hand_out(offset, pages, UnderWay::State(saved)));
        }
        let building = match self.ready.pop_front() {
            Some(building) => building,
            None => match self.open.take() {
                Some(open) => {
                    self.fill = open.end();
                    open
                }
                None if self.wanted => {
                    self.wanted = false;
                    return Some(self.seal_slot());
                }
                None => return None,
            },
        };
        self.wanted = false;
        Some(self.seal(building))
    }

    /// What was under way is durable.
    ///
    /// # Panics
    /// If nothing is under way.
    pub fn group_done(&mut self) -> Durable {
        let done = self.under_way.take().expect("a write is under way");
        match done {
            UnderWay::Group { checkpoint, .. } => {
                self.oldest_durable = checkpoint.oldest_segment;
                self.states.named(checkpoint.state);
            }
            UnderWay::State(saved) => self.states.saved(saved),
        }
        done.durable()
    }

    /// Frees the segments whose entries all are at or before `destaged`, as far as a durable checkpoint no longer
    /// needs them. To be called when a checkpoint with this cut has become durable.
    pub fn recycle(&mut self, destaged: Stamp) {
        while self.live.len() > 1
            && let Some(oldest) = self.live.front().copied()
            && oldest.seq < self.oldest_durable
            && !needed(&oldest, destaged)
        {
            self.live.pop_front();
            self.release(oldest.seq, oldest.index);
        }
    }

    /// A read is under way at `pos`: its segment keeps its bytes until the [`Journal::unpin`].
    pub fn pin(&mut self, pos: JournalPos) {
        *self.pins.entry(self.layout.index(pos.0)).or_default() += 1;
    }

    /// A read at `pos` has ended.
    ///
    /// # Panics
    /// Without its [`Journal::pin`].
    pub fn unpin(&mut self, pos: JournalPos) {
        let index = self.layout.index(pos.0);
        let readers = self.pins.get_mut(&index).expect("each unpin follows its pin");
        *readers -= 1;
        if *readers == 0 {
            self.pins.remove(&index);
            if let Some(held) = self.held.iter().copied().find(|(_, held)| *held == index) {
                self.held.remove(&held);
                self.free.insert(held);
            }
        }
    }

    /// Bytes of the ring that hold the log, or are still being read.
    pub fn used_bytes(&self) -> u64 {
        let whole = (self.live.len().saturating_sub(1) + self.held.len()) as u64 * self.layout.segment_bytes;
        let newest = self.live.back().map_or(0, |newest| self.fill_now() - self.layout.start(newest.index));
        whole + newest
    }

    /// See [`Layout::usable_bytes`].
    pub fn usable_bytes(&self) -> u64 {
        self.layout.usable_bytes()
    }

    /// Bytes of entries (by [`Journal::footprint`]) that surely find room now, whatever their sizes. Less than
    /// [`Journal::usable_bytes`] leaves where much that is destaged lies behind a segment still in use.
    pub fn room_bytes(&self) -> u64 {
        let waste = GROUP_BYTES_MAX.min(self.layout.segment_bytes / 2);
        let newest = self.fill_end().map_or(0, |end| end.saturating_sub(self.fill_now() + waste));
        newest + self.free.len() as u64 * (self.layout.segment_bytes - PAGE - waste)
    }

    /// Bytes of the ring.
    pub fn capacity_bytes(&self) -> u64 {
        u64::from(self.layout.segments) * self.layout.segment_bytes
    }

    /// Bytes of the whole journal.
    pub fn file_bytes(&self) -> u64 {
        self.layout.bytes()
    }

    /// Writes handed out in this run: groups, checkpoints alone, states.
    pub fn groups(&self) -> u64 {
        self.groups
    }

    /// Bytes handed out in this run, headers and padding included.
    pub fn written_bytes(&self) -> u64 {
        self.written
    }

    /// The disk read that covers `len` bytes at `pos`: offset and length in whole sectors, and how many of its first
    /// bytes to skip.
    pub fn read_order(pos: JournalPos, len: usize) -> (u64, u32, usize) {
        const SECTOR: u64 = 512;
        let offset = pos.0 / SECTOR * SECTOR;
        let end = (pos.0 + len as u64).next_multiple_of(SECTOR);
        let bytes = u32::try_from(end - offset).expect("a body has at most BODY_BYTES_MAX bytes");
        (offset, bytes, usize::try_from(pos.0 - offset).expect("less than a sector"))
    }

    /// Where the next group would start.
    fn fill_now(&self) -> u64 {
        self.open.as_ref().map_or(self.fill, Building::end)
    }

    /// End of the segment being filled.
    fn fill_end(&self) -> Option<u64> {
        self.live.back().map(|newest| self.layout.start(newest.index) + self.layout.segment_bytes)
    }

    /// Starts a group with room for `bytes`, in the newest segment or in a new one.
    fn new_group(&mut self, bytes: u64) -> Building {
        let room = self.fill_end().is_some_and(|end| self.fill + bytes <= end);
        let (offset, opens) = if room { (self.fill, None) } else { self.take_segment() };
        let newest = self.live.back().expect("there is a newest segment now");
        // Room for this record and the segment's header page, or for a good many small ones; for all that a group may
        // get where the last one outgrew that, because growing copies. Room that stays empty costs addresses alone.
        let room = match self.crowded {
            true => GROUP_BYTES_MAX + PAGE,
            false => (bytes + PAGE).max(ROOM_BYTES),
        };
        let mut building = Building {
            segment_seq: newest.seq,
            offset,
            opens,
            pages: PageBuf::with_capacity(usize::try_from(room).expect("a group fits into memory")),
            records: 0,
            upto: self.appended,
        };
        if building.opens.is_some() {
            building.pages.extend_from_slice(&[0; PAGE_BYTES]);
        }
        building.pages.extend_from_slice(&[0; GROUP_HEADER_BYTES]);
        building
    }

    fn take_segment(&mut self) -> (u64, Option<u32>) {
        let (_, index) = self.free.pop_first().expect("an append without room for it was refused");
        let seq = self.next_segment;
        self.next_segment += 1;
        self.live.push_back(Segment { index, seq, newest: None });
        (self.layout.start(index), Some(index))
    }

    fn seal(&mut self, mut building: Building) -> Group {
        let group_seq = self.next_group;
        self.next_group += 1;
        self.crowded = building.records > 1 && building.bytes() > ROOM_BYTES;
        let checkpoint = self.checkpoint_naming(self.oldest_needed(building.segment_seq));
        let (start, end, lead) = (building.start(), building.end(), building.lead());
        building.pages.pad_to_page();
        let (front, rest) = building.pages.as_mut_bytes().split_at_mut(lead);
        let (header, content) = rest.split_at_mut(GROUP_HEADER_BYTES);
        header.copy_from_slice(&encode_group(&GroupHeader {
            journal: self.journal,
            start_page: page_number(start),
            pages: page_number(end - start),
            records: building.records,
            content_check: content_check(content),
            segment_seq: building.segment_seq,
            group_seq,
            slots: self.next_slot - 1,
            checkpoint,
        }));
        if let Some(index) = building.opens {
            front.copy_from_slice(&encode_segment(&SegmentHeader {
                journal: self.journal,
                index,
                seq: building.segment_seq,
                first_group: group_seq,
                slots: self.next_slot - 1,
                checkpoint,
            }));
        }
        self.hand_out(building.offset, building.pages, UnderWay::Group { upto: building.upto, checkpoint })
    }

    /// The checkpoint alone, for the older of the two slots.
    fn seal_slot(&mut self) -> Group {
        let seq = self.next_slot;
        self.next_slot += 1;
        // No group is open or ready: every segment of the log has its header on the disk.
        let newest = self.live.back().map_or(self.next_segment, |newest| newest.seq);
        let checkpoint = self.checkpoint_naming(self.oldest_needed(newest));
        let offset = Layout::slot(seq);
        let mut pages = PageBuf::with_capacity(PAGE_BYTES);
        pages.extend_from_slice(&encode_slot(&Slot {
            journal: self.journal,
            page: page_number(offset),
            seq,
            after_group: self.next_group - 1,
            checkpoint,
        }));
        self.hand_out(offset, pages, UnderWay::Group { upto: self.appended, checkpoint })
    }

    /// The checkpoint with what is the journal's own to say.
    fn checkpoint_naming(&self, oldest_segment: u64) -> Checkpoint {
        Checkpoint { oldest_segment, state: self.states.newest(), ..self.checkpoint }
    }

    fn hand_out(&mut self, offset: u64, pages: PageBuf, under_way: UnderWay) -> Group {
        let durable = under_way.durable();
        self.under_way = Some(under_way);
        self.groups += 1;
        self.written += pages.as_bytes().len() as u64;
        Group { offset, pages, durable }
    }

    /// The oldest segment that recovery needs by the present cut: `writing`, the newest one, or an older one.
    fn oldest_needed(&self, writing: u64) -> u64 {
        let oldest = self.live.iter().find(|segment| needed(segment, self.checkpoint.destaged));
        oldest.map_or(writing, |segment| segment.seq.min(writing))
    }

    fn release(&mut self, seq: u64, index: u32) {
        if self.pins.contains_key(&index) {
            self.held.insert((seq, index));
        } else {
            self.free.insert((seq, index));
        }
    }
}

/// Whether recovery needs a segment when the backing stores stand at `destaged`.
fn needed(segment: &Segment, destaged: Stamp) -> bool {
    segment.newest.is_some_and(|newest| newest > destaged) && !planted(Mutant::RecycleTooEarly)
}

fn page_number(bytes: u64) -> u32 {
    u32::try_from(bytes / PAGE).expect("a layout has at most 2^32 pages")
}
