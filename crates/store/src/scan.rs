//! Reading a journal that may have been torn or damaged: single groups, segment headers, and the plan of what of
//! it is the log. Never indexes, never panics on what it finds; holds one group at a time.
//!
//! How the end of the log is found ([`Scanner::plan`]):
//! 1. The segment with the greatest sequence number is the newest; its groups are read up to the first that is not
//!    whole. The newest checkpoint (of the last whole group, or of a slot that was written after it) names the oldest
//!    segment that is needed; all from that one on must be there.
//! 2. If nothing later is there, the log ends at that place: at most one group was under way, so at most one is torn.
//! 3. If anything later is there (in the rest of the segment, or in another one, see `nothing_later`), what
//!    does not read was once durable: damage.
//! 4. Of the two slots one may be torn, or damaged, which cannot be told apart: it is ignored. But what a group or a
//!    slot says was durable before it must be there, as far as it still matters: otherwise damage.

use crate::disk::{Disk, DiskError};
use crate::error::{Damage, StoreError};
use crate::layout::{Layout, SLOTS};
use crate::page::PAGE_BYTES;
use crate::ring::GROUP_BYTES_MAX;
use crate::state::{StateRead, read_states};
use biplex_engine::mutant::{Mutant, planted};
use biplex_format::journal::{
    Checkpoint, GROUP_HEADER_BYTES, GroupHeader, SegmentHeader, Slot, Superblock, content_check,
    decode_group, decode_segment, decode_slot, resembles_group,
};
use biplex_format::{FormatError, HEADER_BYTES, RecordHeader, decode_header};
use std::collections::BTreeMap;
use std::ops::Range;

const PAGE: u64 = PAGE_BYTES as u64;
/// How much is read at once where many pages are only looked at.
const STRIDE_BYTES: u64 = 1 << 20;

/// A record of a group: its header, and where its body lies in the group's bytes.
pub(crate) struct FoundRecord {
    pub header: RecordHeader,
    pub body: Range<usize>,
}

/// A whole group, checked; its bytes are in the scanner's buffer.
pub(crate) struct FoundGroup {
    pub header: GroupHeader,
    pub records: Vec<FoundRecord>,
}

/// What lies where a group is expected.
pub(crate) enum GroupRead {
    /// The group.
    Whole(FoundGroup),
    /// A group that is not whole.
    Broken(Damage),
    /// Nothing that was ever meant to be this group.
    Nothing,
}

/// What a segment's header page says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SegmentRead {
    /// It is in use, or was.
    Valid(SegmentHeader),
    /// All zeros: never taken into use.
    Blank,
    /// It does not read.
    Broken(Damage),
}

/// What a checkpoint slot says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SlotRead {
    /// A checkpoint, of a slot write that was whole.
    Valid(Slot),
    /// All zeros: never written.
    Blank,
    /// It does not read.
    Broken(Damage),
}

/// The log as it was found.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The log's segments, oldest first.
    pub chain: Vec<SegmentHeader>,
    /// Where the next group goes in the last of them.
    pub fill: u64,
    /// Sequence number of the next group.
    pub next_group: u64,
    /// Sequence number of the next segment.
    pub next_segment: u64,
    /// Number of the next slot write.
    pub next_slot: u64,
    /// The newest checkpoint.
    pub checkpoint: Checkpoint,
    /// Where a group was cut off.
    pub torn_at: Option<u64>,
    /// Pages that still hold the start of a group that was cut off. They must be blanked before anything is
    /// written, or a later torn write could make the group whole again, after the site has gone on without it.
    pub remnants: Vec<u64>,
}

/// Takes a whole group of the log, with its segment and its place; the scanner has its bytes.
pub(crate) type EachGroup<'e> =
    dyn FnMut(&Scanner<'_>, &SegmentHeader, u64, &FoundGroup) -> Result<(), StoreError> + 'e;

/// A journal being read.
pub(crate) struct Scanner<'d> {
    disk: &'d mut dyn Disk,
    pub superblock: Superblock,
    pub layout: Layout,
    buffer: Vec<u8>,
}

impl<'d> Scanner<'d> {
    pub fn new(disk: &'d mut dyn Disk, superblock: Superblock, layout: Layout) -> Scanner<'d> {
        Scanner { disk, superblock, layout, buffer: Vec::new() }
    }

    /// Bytes of the group that was read last.
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.buffer.get(range).unwrap_or_default()
    }

    /// Reads every segment's header page.
    pub fn segments(&mut self) -> Result<Vec<SegmentRead>, DiskError> {
        let mut page = vec![0; PAGE_BYTES];
        let mut all = Vec::new();
        for index in 0..self.layout.segments {
            self.disk.read_at(self.layout.start(index), &mut page)?;
            all.push(self.segment(index, &page));
        }
        Ok(all)
    }

    /// Reads both checkpoint slots.
    pub fn slots(&mut self) -> Result<[SlotRead; SLOTS as usize], DiskError> {
        let mut all = [SlotRead::Blank; SLOTS as usize];
        let mut page = vec![0; PAGE_BYTES];
        for (index, slot) in (0..).zip(&mut all) {
            let at = Layout::slot(index);
            self.disk.read_at(at, &mut page)?;
            *slot = self.slot(at, &page);
        }
        Ok(all)
    }

    /// Reads both state slots.
    pub fn states(&mut self) -> Result<Vec<StateRead>, DiskError> {
        read_states(self.disk, &self.layout, self.superblock.journal)
    }

    fn slot(&self, at: u64, page: &[u8]) -> SlotRead {
        if page.iter().all(|byte| *byte == 0) {
            return SlotRead::Blank;
        }
        let misplaced = |what, expected, found| SlotRead::Broken(Damage::Misplaced { what, expected, found });
        match decode_slot(page) {
            Err(error) => SlotRead::Broken(Damage::Format(error)),
            Ok(slot) if slot.journal != self.superblock.journal => {
                misplaced("checkpoint slot's journal", self.superblock.journal, slot.journal)
            }
            Ok(slot) if u64::from(slot.page) * PAGE != at => {
                misplaced("checkpoint slot's page", at / PAGE, u64::from(slot.page))
            }
            Ok(slot) if slot.seq == 0 || Layout::slot(slot.seq) != at => {
                misplaced("checkpoint slot's number, even or odd,", at / PAGE % SLOTS, slot.seq)
            }
            Ok(slot) => SlotRead::Valid(slot),
        }
    }

    fn segment(&self, index: u32, page: &[u8]) -> SegmentRead {
        if page.iter().all(|byte| *byte == 0) {
            return SegmentRead::Blank;
        }
        let misplaced =
            |what, expected, found| SegmentRead::Broken(Damage::Misplaced { what, expected, found });
        match decode_segment(page) {
            Err(error) => SegmentRead::Broken(Damage::Format(error)),
            Ok(header) if header.journal != self.superblock.journal => {
                misplaced("segment header's journal", self.superblock.journal, header.journal)
            }
            Ok(header) if header.index != index => {
                misplaced("segment header's index", u64::from(index), u64::from(header.index))
            }
            Ok(header) if header.seq == 0 || header.first_group == 0 => {
                misplaced("segment header's sequence number", 1, 0)
            }
            Ok(header) => SegmentRead::Valid(header),
        }
    }

    /// Reads what lies at `at`, where group `group_seq` of `segment` would lie. A group is whole or it is not there.
    pub fn group(
        &mut self,
        segment: &SegmentHeader,
        at: u64,
        group_seq: u64,
    ) -> Result<GroupRead, DiskError> {
        let end = self.layout.start(segment.index) + self.layout.segment_bytes;
        if at + PAGE > end {
            return Ok(GroupRead::Nothing);
        }
        self.buffer.resize(PAGE_BYTES, 0);
        self.disk.read_at(at, &mut self.buffer)?;
        let header = match decode_group(&self.buffer) {
            Ok(header) => header,
            Err(error) => {
                let meant = resembles_group(&self.buffer, self.superblock.journal, segment.seq, group_seq);
                let read = if meant { GroupRead::Broken(Damage::Format(error)) } else { GroupRead::Nothing };
                return Ok(read);
            }
        };
        if !self.is_here(&header, at) || header.segment_seq != segment.seq || header.group_seq != group_seq {
            return Ok(GroupRead::Nothing);
        }
        let bytes = u64::from(header.pages) * PAGE;
        if header.pages == 0 || bytes > GROUP_BYTES_MAX || at + bytes > end {
            let damage = Damage::Format(FormatError::Length {
                what: "group in pages",
                expected: GROUP_BYTES_MAX.min(end - at) / PAGE,
                found: u64::from(header.pages),
            });
            return Ok(GroupRead::Broken(damage));
        }
        self.buffer.resize(usize::try_from(bytes).unwrap_or(PAGE_BYTES), 0);
        if let Some(rest) = self.buffer.get_mut(PAGE_BYTES..)
            && !rest.is_empty()
        {
            self.disk.read_at(at + PAGE, rest)?;
        }
        Ok(match self.records(&header) {
            Ok(records) => GroupRead::Whole(FoundGroup { header, records }),
            Err(damage) => GroupRead::Broken(damage),
        })
    }

    /// Whether a group header belongs to this journal and this place.
    fn is_here(&self, header: &GroupHeader, at: u64) -> bool {
        header.journal == self.superblock.journal && u64::from(header.start_page) * PAGE == at
    }

    /// Checks all of the group in the buffer: its bytes against its header, each record by its own checksums, and
    /// that the records fill it.
    fn records(&self, group: &GroupHeader) -> Result<Vec<FoundRecord>, Damage> {
        let trusting = planted(Mutant::TakeTornTail);
        let mut at = GROUP_HEADER_BYTES;
        let content = self.buffer.get(at..).unwrap_or_default();
        let (expected, found) = (group.content_check, content_check(content));
        if expected != found && !trusting {
            let what = "the group's content";
            return Err(Damage::Format(FormatError::Checksum { what, expected, found }));
        }
        let mut records = Vec::new();
        let overrun = Damage::Mismatch { what: "the group's records are longer than the group" };
        for _ in 0..group.records {
            let header_bytes = self.buffer.get(at..at + HEADER_BYTES).ok_or(overrun)?;
            let header = match decode_header(header_bytes) {
                Ok(header) => header,
                Err(_) if trusting => break,
                Err(error) => return Err(Damage::Format(error)),
            };
            if header.pair() != self.superblock.pair {
                let (expected, found) = (self.superblock.pair, header.pair());
                return Err(Damage::Format(FormatError::Pair { what: "record", expected, found }));
            }
            let body = at + HEADER_BYTES..at + HEADER_BYTES + header.body_bytes();
            let bytes = self.buffer.get(body.clone()).ok_or(overrun)?;
            if !trusting {
                header.check_body(bytes).map_err(Damage::Format)?;
            }
            at = body.end;
            records.push(FoundRecord { header, body });
        }
        let padding = self.buffer.get(at..).unwrap_or_default();
        if !trusting && (padding.len() >= PAGE_BYTES || padding.iter().any(|byte| *byte != 0)) {
            return Err(Damage::Mismatch { what: "the group is longer than its records" });
        }
        Ok(records)
    }

    /// Looks from `from` to the end of the segment for any group header of this journal that is later than what
    /// was read: numbered `group_seq` or higher. Returns the greatest-numbered one's place and number.
    fn later_group(
        &mut self,
        index: u32,
        from: u64,
        group_seq: u64,
    ) -> Result<Option<(u64, u64)>, DiskError> {
        let end = self.layout.start(index) + self.layout.segment_bytes;
        let mut stride = vec![0; usize::try_from(STRIDE_BYTES.min(end.saturating_sub(from))).unwrap_or(0)];
        let mut found: Option<(u64, u64)> = None;
        let mut at = from;
        while at < end {
            let bytes = usize::try_from(STRIDE_BYTES.min(end - at)).unwrap_or(0);
            let Some(piece) = stride.get_mut(..bytes) else { break };
            self.disk.read_at(at, piece)?;
            for (page, bytes) in piece.chunks_exact(PAGE_BYTES).enumerate() {
                let place = at + page as u64 * PAGE;
                if let Ok(header) = decode_group(bytes)
                    && self.is_here(&header, place)
                    && header.group_seq >= group_seq
                    && found.is_none_or(|(_, seq)| seq < header.group_seq)
                {
                    found = Some((place, header.group_seq));
                }
            }
            at += bytes as u64;
        }
        Ok(found)
    }

    /// Whether the first group's page of a segment holds a group of this journal numbered `group_seq` or higher.
    fn first_group_is_later(&mut self, index: u32, group_seq: u64) -> Result<bool, DiskError> {
        let at = self.layout.start(index) + PAGE;
        let mut page = vec![0; PAGE_BYTES];
        self.disk.read_at(at, &mut page)?;
        Ok(decode_group(&page).is_ok_and(|header| self.is_here(&header, at) && header.group_seq >= group_seq))
    }

    /// Finds out what of the journal is the log, and where it ends.
    pub fn plan(
        &mut self,
        segments: &[SegmentRead],
        slots: &[SlotRead; SLOTS as usize],
    ) -> Result<Plan, StoreError> {
        let by_seq = self.by_seq(segments)?;
        let mut plan = match by_seq.last_key_value() {
            None => Plan {
                chain: Vec::new(),
                fill: self.layout.start(0),
                next_group: 1,
                next_segment: 1,
                next_slot: 1,
                checkpoint: Checkpoint::FIRST,
                torn_at: None,
                remnants: Vec::new(),
            },
            Some((_, newest)) => self.newest(newest)?,
        };
        let newest = by_seq.last_key_value().map(|(_, newest)| newest);
        self.nothing_later(segments, newest, &mut plan)?;
        self.newest_slot(slots, newest.map_or(0, |newest| newest.index), &mut plan)?;
        if let Some(newest) = newest {
            plan.chain = self.chain(newest, &by_seq, segments, plan.checkpoint.oldest_segment)?;
        }
        Ok(plan)
    }

    /// Takes the newest slot's checkpoint if it was written after the last whole group; demands that neither lacks
    /// what the other says was durable before it.
    ///
    /// A group names the newest slot write before it, `named`. Later ones may follow, one of them torn: then slot
    /// write `named` or a later one still reads. If none does, `named` itself was damaged. That is harmless where the
    /// other slot shows that nothing was written after it: then the group's own checkpoint is the newest.
    fn newest_slot(
        &self,
        slots: &[SlotRead; SLOTS as usize],
        newest_segment: u32,
        plan: &mut Plan,
    ) -> Result<(), StoreError> {
        let valid = slots.iter().filter_map(|read| match read {
            SlotRead::Valid(slot) => Some(*slot),
            SlotRead::Blank | SlotRead::Broken(_) => None,
        });
        let newest = valid.max_by_key(|slot| slot.seq);
        let named = plan.next_slot - 1;
        let found = newest.map_or(0, |slot| slot.seq);
        // The even slot is first written when the odd one is durable, so one of them reads from then on.
        let both_lost = found == 0 && slots.first().is_some_and(|even| *even != SlotRead::Blank);
        if both_lost || found < named.saturating_sub(1) {
            let newest = named.max(1);
            return Err(StoreError::SlotsLost { offset: Layout::slot(0), newest });
        }
        plan.next_slot = named.max(found).saturating_add(1);
        let Some(slot) = newest else { return Ok(()) };
        if slot.after_group >= plan.next_group {
            let what = Damage::GroupBeforeSlot { seq: plan.next_group, slot_at: Layout::slot(slot.seq) };
            return Err(StoreError::Damaged { segment: newest_segment, offset: plan.fill, what });
        }
        if slot.after_group == plan.next_group - 1 && found >= named {
            plan.checkpoint = slot.checkpoint;
        }
        Ok(())
    }

    fn by_seq(&self, segments: &[SegmentRead]) -> Result<BTreeMap<u64, SegmentHeader>, StoreError> {
        let mut by_seq = BTreeMap::new();
        for read in segments {
            let SegmentRead::Valid(header) = read else { continue };
            if by_seq.insert(header.seq, *header).is_some() {
                return Err(self.damaged(header.index, 0, Damage::SegmentTwice { seq: header.seq }));
            }
        }
        Ok(by_seq)
    }

    /// Reads the newest segment to the end of its whole groups.
    fn newest(&mut self, newest: &SegmentHeader) -> Result<Plan, StoreError> {
        let mut at = self.layout.start(newest.index) + PAGE;
        let mut group_seq = newest.first_group;
        let (mut checkpoint, mut slots) = (newest.checkpoint, newest.slots);
        let broken = loop {
            match self.group(newest, at, group_seq)? {
                GroupRead::Whole(group) => {
                    (checkpoint, slots) = (group.header.checkpoint, group.header.slots);
                    at += u64::from(group.header.pages) * PAGE;
                    group_seq += 1;
                }
                GroupRead::Broken(damage) => break Some(damage),
                GroupRead::Nothing => break None,
            }
        };
        // The page at `at` itself holds at most the group that was under way: only pages behind it tell of damage.
        if let Some((later_at, _)) = self.later_group(newest.index, at + PAGE, group_seq)?
            && !planted(Mutant::TakeTornTail)
        {
            let what = broken.unwrap_or(Damage::GroupMissing { seq: group_seq, later_at });
            return Err(StoreError::Damaged { segment: newest.index, offset: at, what });
        }
        Ok(Plan {
            chain: Vec::new(),
            fill: at,
            next_group: group_seq,
            next_segment: newest.seq + 1,
            next_slot: slots.saturating_add(1),
            checkpoint,
            torn_at: broken.map(|_| at),
            remnants: broken.map(|_| at).into_iter().collect(),
        })
    }

    /// Demands that no segment but the newest holds anything later than the end of the log, but for the one group that
    /// was under way when its segment was being taken into use: then its header may be torn, too, or still be the one
    /// of an earlier lap.
    fn nothing_later(
        &mut self,
        segments: &[SegmentRead],
        newest: Option<&SegmentHeader>,
        plan: &mut Plan,
    ) -> Result<(), StoreError> {
        let newest = newest.map(|newest| newest.index);
        // Those never used are taken first, and in order. So as many as there were sequence numbers were in use, those
        // before one that still has a header among them, and the next one may have been being taken: there a blank
        // header may have been lost. Only behind it a look at the start is enough.
        let used =
            segments.iter().rposition(|read| *read != SegmentRead::Blank).map_or(0, |last| last as u64 + 1);
        let used = used.max(plan.next_segment - 1);
        for (index, read) in (0..).zip(segments) {
            let (suspect, broken) = match read {
                SegmentRead::Valid(_) if Some(index) == newest => (false, None),
                SegmentRead::Blank if u64::from(index) <= used => (true, None),
                SegmentRead::Valid(_) | SegmentRead::Blank => {
                    (self.first_group_is_later(index, plan.next_group)?, None)
                }
                SegmentRead::Broken(damage) => (true, Some(*damage)),
            };
            if !suspect {
                continue;
            }
            let start = self.layout.start(index);
            match self.later_group(index, start + PAGE, plan.next_group)? {
                None => {}
                Some((at, seq)) if at == start + PAGE && seq == plan.next_group => {
                    plan.torn_at = Some(start);
                    plan.remnants.extend([start, at]);
                }
                Some((later_at, _)) => {
                    let missing = Damage::GroupMissing { seq: plan.next_group, later_at };
                    return Err(self.damaged(index, 0, broken.unwrap_or(missing)));
                }
            }
        }
        Ok(())
    }

    /// From the newest segment back to the oldest that is needed.
    fn chain(
        &self,
        newest: &SegmentHeader,
        by_seq: &BTreeMap<u64, SegmentHeader>,
        segments: &[SegmentRead],
        oldest: u64,
    ) -> Result<Vec<SegmentHeader>, StoreError> {
        let mut chain = vec![*newest];
        let mut last = *newest;
        while last.seq > oldest {
            match by_seq.get(&(last.seq - 1)) {
                Some(previous) => {
                    chain.push(*previous);
                    last = *previous;
                }
                None => {
                    let broken = |read: &SegmentRead| matches!(read, SegmentRead::Broken(_));
                    let index = segments.iter().position(broken).unwrap_or(0);
                    let index = u32::try_from(index).unwrap_or(0);
                    return Err(self.damaged(index, 0, Damage::SegmentMissing { seq: last.seq - 1 }));
                }
            }
        }
        chain.reverse();
        Ok(chain)
    }

    /// Reads a segment's groups up to the first that is not whole; says what is wrong with that one, if it is there.
    pub fn groups_of(
        &mut self,
        segment: &SegmentHeader,
        each: &mut dyn FnMut(u64, &FoundGroup, &[u8]),
    ) -> Result<Option<(u64, Damage)>, DiskError> {
        let mut at = self.layout.start(segment.index) + PAGE;
        for group_seq in segment.first_group.. {
            match self.group(segment, at, group_seq)? {
                GroupRead::Whole(group) => {
                    each(at, &group, &self.buffer);
                    at += u64::from(group.header.pages) * PAGE;
                }
                GroupRead::Broken(damage) => return Ok(Some((at, damage))),
                GroupRead::Nothing => break,
            }
        }
        Ok(None)
    }

    /// Blanks what is left of groups that were cut off, durably.
    pub fn blank_remnants(&mut self, plan: &Plan) -> Result<(), DiskError> {
        for at in &plan.remnants {
            self.disk.write_at(*at, &[0; PAGE_BYTES])?;
        }
        if plan.remnants.is_empty() { Ok(()) } else { self.disk.sync() }
    }

    /// Reads the log of `plan` from its start, group by group; anything not whole is damage.
    pub fn walk(&mut self, plan: &Plan, each: &mut EachGroup<'_>) -> Result<(), StoreError> {
        let ends = plan.chain.iter().skip(1).map(|next| next.first_group).chain([plan.next_group]);
        for (segment, end) in plan.chain.iter().zip(ends) {
            let mut at = self.layout.start(segment.index) + PAGE;
            for group_seq in segment.first_group..end {
                let what = match self.group(segment, at, group_seq)? {
                    GroupRead::Whole(group) => {
                        each(self, segment, at, &group)?;
                        at += u64::from(group.header.pages) * PAGE;
                        continue;
                    }
                    GroupRead::Broken(damage) => damage,
                    GroupRead::Nothing => Damage::Misplaced { what: "group", expected: group_seq, found: 0 },
                };
                return Err(StoreError::Damaged { segment: segment.index, offset: at, what });
            }
        }
        Ok(())
    }

    /// Damage at `offset` within a segment.
    fn damaged(&self, segment: u32, offset: u64, what: Damage) -> StoreError {
        StoreError::Damaged { segment, offset: self.layout.start(segment) + offset, what }
    }
}
