//! What `biplex inspect FILE` prints: the journal in words. Only reads; tells damage instead of failing on it.

use crate::disk::Disk;
use crate::error::StoreError;
use crate::layout::{Layout, SLOTS, read_superblock};
use crate::scan::{FoundGroup, Plan, Scanner, SegmentRead, SlotRead};
use crate::state::{StateRead, in_force};
use crate::words;
use biplex_engine::Stamp;
use biplex_engine::engine::Mode;
use biplex_format::journal::{Checkpoint, SUPERBLOCK_BYTES, SegmentHeader};
use std::collections::BTreeMap;

/// How much to tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ExplainOptions {
    /// A line for each group.
    pub groups: bool,
    /// A line for each record, too.
    pub records: bool,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explained {
    /// Entries in the log, up to the damage if there is any.
    pub entries: u64,
    /// Where a torn group would be cut off.
    pub torn_at: Option<u64>,
    /// Damage for which the journal could not be opened.
    pub damage: Option<StoreError>,
}

/// Tells one segment's share of the log.
#[derive(Default)]
struct Share {
    groups: u64,
    records: u64,
    bytes: u64,
    stamps: Option<(Stamp, Stamp)>,
}

impl Share {
    fn add(&mut self, group: &FoundGroup) {
        self.groups += 1;
        for record in &group.records {
            self.records += 1;
            self.bytes += record.header.body_bytes() as u64;
            if let Ok(stamp) = record.header.stamp() {
                let (oldest, newest) = self.stamps.unwrap_or((stamp, stamp));
                self.stamps = Some((oldest.min(stamp), newest.max(stamp)));
            }
        }
    }
}

/// Explains the journal on `disk`, line by line: a summary, slots and segments, and on request groups and records.
///
/// Errors: as for a recovery, as long as the superblock cannot be read; all later damage is told in the lines.
pub fn explain(
    disk: &mut dyn Disk,
    options: ExplainOptions,
    line: &mut dyn FnMut(String),
) -> Result<Explained, StoreError> {
    let (superblock, layout, faults) = read_superblock(disk)?;
    let mut scanner = Scanner::new(disk, superblock, layout);
    let segments = scanner.segments()?;
    let slots = scanner.slots()?;
    let states = scanner.states()?;
    let (plan, damage) = match judged(&mut scanner, &segments, &slots, &states) {
        (_, Some(StoreError::Disk(error))) => return Err(StoreError::Disk(error)),
        judged => judged,
    };
    let told = told_segments(&segments, plan.as_ref());
    let mut shares: BTreeMap<u64, Share> = BTreeMap::new();
    let mut broken = Vec::new();
    for segment in &told {
        let share = shares.entry(segment.seq).or_default();
        broken.extend(scanner.groups_of(segment, &mut |_, group, _| share.add(group))?);
    }
    tell_superblock(&scanner, &faults, line);
    tell_summary(&scanner, plan.as_ref(), &shares, line);
    match &damage {
        Some(error) => line(format!("state      DAMAGED: {error}")),
        None => line("state      sound".to_owned()),
    }
    for (at, what) in &broken {
        line(format!("not whole  the group at offset {at}: {what}"));
    }
    tell_slots(&slots, line);
    tell_states(&scanner, &states, plan.as_ref(), line);
    tell_segments(&scanner, &segments, plan.as_ref(), &shares, line);
    if options.groups || options.records {
        for segment in &told {
            scanner.groups_of(segment, &mut |at, group, bytes| {
                tell_group(segment, at, group, line);
                if options.records {
                    tell_records(at, group, bytes, line);
                }
            })?;
        }
    }
    let entries = shares.values().map(|share| share.records).sum();
    Ok(Explained { entries, torn_at: plan.and_then(|plan| plan.torn_at), damage })
}

/// What a recovery would make of the journal: the plan if there is one, and why it would fail if it would.
fn judged(
    scanner: &mut Scanner<'_>,
    segments: &[SegmentRead],
    slots: &[SlotRead; SLOTS as usize],
    states: &[StateRead],
) -> (Option<Plan>, Option<StoreError>) {
    match scanner.plan(segments, slots) {
        Err(error) => (None, Some(error)),
        Ok(plan) => {
            let damage = in_force(states, &scanner.layout, plan.checkpoint.state)
                .and_then(|_| scanner.walk(&plan, &mut |_, _, _, _| Ok(())))
                .err();
            (Some(plan), damage)
        }
    }
}

/// The segments whose groups are told: those of the log, or all that can be read when there is no telling.
fn told_segments(segments: &[SegmentRead], plan: Option<&Plan>) -> Vec<SegmentHeader> {
    if let Some(plan) = plan {
        return plan.chain.clone();
    }
    let mut told: Vec<SegmentHeader> = segments
        .iter()
        .filter_map(|read| match read {
            SegmentRead::Valid(header) => Some(*header),
            SegmentRead::Blank | SegmentRead::Broken(_) => None,
        })
        .collect();
    told.sort_by_key(|segment| segment.seq);
    told
}

fn tell_superblock(
    scanner: &Scanner<'_>,
    faults: &[Option<biplex_format::FormatError>; 2],
    line: &mut dyn FnMut(String),
) {
    let superblock = &scanner.superblock;
    line(format!(
        "journal    {:016x} of site {}, pair {:016x}",
        superblock.journal, superblock.site, superblock.pair
    ));
    line(format!(
        "size       {} bytes: {} segments of {}",
        scanner.layout.bytes(),
        superblock.segments,
        superblock.segment_bytes
    ));
    for volume in &superblock.volumes {
        line(format!(
            "volume     {} {:?} lun {} blocks {} {}",
            volume.id,
            volume.name,
            volume.lun,
            volume.blocks,
            rules_words(volume.mode)
        ));
    }
    for (copy, fault) in (0..).zip(faults) {
        if let Some(fault) = fault {
            let offset = copy * SUPERBLOCK_BYTES;
            line(format!(
                "warning    superblock at offset {offset} is damaged ({fault}); the other copy is whole"
            ));
        }
    }
}

/// A volume's rules as its row says them ([`biplex_engine::engine::Rules::ordinal`]).
fn rules_words(ordinal: u8) -> String {
    let mode = match ordinal & 15 {
        of if of == Mode::Async as u8 => "async",
        of if of == Mode::Sync as u8 => "sync",
        of if of == Mode::Flush as u8 => "flush",
        _ => "of unknown mode",
    };
    let discard = if ordinal & 16 != 0 { ", discards conflicting writes" } else { "" };
    let swaps = if ordinal & 32 != 0 { ", allows COMPARE AND WRITE" } else { "" };
    format!("{mode}{discard}{swaps}")
}

fn tell_summary(
    scanner: &Scanner<'_>,
    plan: Option<&Plan>,
    shares: &BTreeMap<u64, Share>,
    line: &mut dyn FnMut(String),
) {
    let Some(plan) = plan else { return };
    let (groups, records, bytes) = shares.values().fold((0, 0, 0), |(groups, records, bytes), share| {
        (groups + share.groups, records + share.records, bytes + share.bytes)
    });
    line(format!(
        "log        {} of {} segments, {groups} groups, {records} records, {bytes} bytes of data",
        plan.chain.len(),
        scanner.layout.segments
    ));
    let range = shares.values().filter_map(|share| share.stamps).reduce(|all, one| {
        let ((oldest, newest), (from, to)) = (all, one);
        (oldest.min(from), newest.max(to))
    });
    if let Some((oldest, newest)) = range {
        line(format!("stamps     {oldest} to {newest}"));
    }
    line(format!("checkpoint {}", checkpoint_words(&plan.checkpoint)));
    match plan.torn_at {
        Some(at) => line(format!("tail       a torn group at offset {at} would be cut off")),
        None => line(format!("tail       whole; the next group goes to offset {}", plan.fill)),
    }
}

fn checkpoint_words(checkpoint: &Checkpoint) -> String {
    let resume =
        checkpoint.resume_from.map_or("nothing to resume".to_owned(), |at| format!("resume from {at}"));
    format!(
        "run {}, destaged {}, clock ceiling {}, {resume}, peer journal {:016x}, oldest segment {}, state {}",
        checkpoint.run,
        checkpoint.destaged,
        checkpoint.clock_ceiling,
        checkpoint.peer_journal,
        checkpoint.oldest_segment,
        checkpoint.state
    )
}

fn tell_slots(slots: &[SlotRead; SLOTS as usize], line: &mut dyn FnMut(String)) {
    for (index, read) in (0..).zip(slots) {
        let words = match read {
            SlotRead::Blank => "never written".to_owned(),
            SlotRead::Broken(damage) => format!("ignored, torn or damaged: {damage}"),
            SlotRead::Valid(slot) => {
                let words = checkpoint_words(&slot.checkpoint);
                format!("number {}, after group {}: {words}", slot.seq, slot.after_group)
            }
        };
        line(format!("slot       {index} at {}: {words}", Layout::slot(index)));
    }
}

fn tell_states(
    scanner: &Scanner<'_>,
    states: &[StateRead],
    plan: Option<&Plan>,
    line: &mut dyn FnMut(String),
) {
    let named = plan.map(|plan| plan.checkpoint.state);
    for (slot, read) in (0..).zip(states) {
        let standing = match (read.seq(), named) {
            (_, None) | (None, _) => "",
            (seq, named) if seq == named => ", in force",
            (Some(_), Some(_)) => ", not in force",
        };
        let words = match read {
            StateRead::Blank => "never written".to_owned(),
            StateRead::Valid { seq, bytes } => format!("number {seq}, {} bytes{standing}", bytes.len()),
            StateRead::Broken { seq: Some(seq), damage } => {
                format!("number {seq}{standing}, torn or damaged: {damage}")
            }
            StateRead::Broken { seq: None, damage } => format!("torn or damaged: {damage}"),
        };
        line(format!("saved      {slot} at {}: {words}", scanner.layout.state_slot(slot)));
        if let StateRead::Valid { seq, bytes } = read
            && named == Some(*seq)
        {
            let name = |id| {
                let of = scanner.superblock.volumes.iter().find(|volume| volume.id == id);
                of.map_or_else(|| format!("volume {id}"), |volume| volume.name.clone())
            };
            words::state(bytes, name).into_iter().for_each(|words| line(format!("locks      {words}")));
        }
    }
}

fn tell_segments(
    scanner: &Scanner<'_>,
    segments: &[SegmentRead],
    plan: Option<&Plan>,
    shares: &BTreeMap<u64, Share>,
    line: &mut dyn FnMut(String),
) {
    for (index, read) in (0..).zip(segments) {
        let offset = scanner.layout.start(index);
        let words = match read {
            SegmentRead::Blank => "free, never used".to_owned(),
            SegmentRead::Broken(damage) => format!("header does not read: {damage}"),
            SegmentRead::Valid(header) => {
                let live =
                    plan.is_some_and(|plan| plan.chain.iter().any(|segment| segment.seq == header.seq));
                let share = shares.get(&header.seq);
                match (live, share) {
                    (false, _) if plan.is_none() => format!("number {}", header.seq),
                    (false, _) => format!("free, was number {}", header.seq),
                    (true, None) => format!("number {}, no group", header.seq),
                    (true, Some(share)) => {
                        let stamps = share.stamps.map_or("no entries".to_owned(), |(oldest, newest)| {
                            format!("stamps {oldest} to {newest}")
                        });
                        format!(
                            "number {}, {} groups, {} records, {stamps}",
                            header.seq, share.groups, share.records
                        )
                    }
                }
            }
        };
        line(format!("segment    {index} at {offset}: {words}"));
    }
}

fn tell_group(segment: &SegmentHeader, at: u64, group: &FoundGroup, line: &mut dyn FnMut(String)) {
    line(format!(
        "group      {} at {at}, segment {}, {} pages, {} records, {}",
        group.header.group_seq,
        segment.index,
        group.header.pages,
        group.header.records,
        checkpoint_words(&group.header.checkpoint)
    ));
}

fn tell_records(at: u64, group: &FoundGroup, bytes: &[u8], line: &mut dyn FnMut(String)) {
    for record in &group.records {
        let body = bytes.get(record.body.clone()).unwrap_or_default();
        let words = words::record(&record.header, body);
        line(format!("record     at {} {words}", at + record.body.start as u64));
    }
}
