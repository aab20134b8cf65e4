//! From a journal on a disk to a [`Journal`] that runs: every durable entry is visited, in the order of its
//! append; a torn tail is cut off; damage is an error, and nothing is skipped. It may itself be interrupted and
//! repeated as often as anyone likes. What it visits was made durable first (one sync): a process that died may have
//! left bytes in a cache that a later power failure would take away again. All it writes are zeros over the start
//! of a group that it cut off, so that a group that is once gone stays gone.

use crate::disk::Disk;
use crate::error::{Damage, StoreError};
use crate::layout::{Identity, read_superblock};
use crate::ring::{Journal, Resume, Segment};
use crate::scan::{Scanner, SegmentRead};
use crate::state::{in_force, next_seq};
use biplex_engine::mutant::{Mutant, planted};
use biplex_engine::{Entry, JournalPos, SiteId, Stamp};
use biplex_format::FormatError;
use biplex_format::journal::Checkpoint;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// What a recovery found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// The newest durable checkpoint.
    pub checkpoint: Checkpoint,
    /// The state that belongs to this checkpoint ([`Journal::save_state`]), if one was ever saved.
    pub state: Option<Bytes>,
    /// Whose journal it is.
    pub identity: Identity,
    /// Entries visited: all that the needed segments hold, those before the cut among them.
    pub entries: u64,
    /// Where a torn group was cut off. It was never reported durable to anyone.
    pub torn_at: Option<u64>,
    /// What is wrong with one superblock copy, if the other had to serve.
    pub superblock_fault: Option<FormatError>,
}

/// Opens a journal and visits every entry in it, oldest append first, with the place of its body.
///
/// `expect` is the site and pair that it must belong to. Memory: one group and the visited entry at a time.
pub fn recover(
    disk: &mut dyn Disk,
    expect: Option<(SiteId, u64)>,
    visit: &mut dyn FnMut(Entry, JournalPos),
) -> Result<(Journal, Recovered), StoreError> {
    let (superblock, layout, faults) = read_superblock(disk)?;
    if let Some((expected_site, expected_pair)) = expect
        && (superblock.site, superblock.pair) != (expected_site, expected_pair)
    {
        let (found_site, found_pair) = (superblock.site, superblock.pair);
        return Err(StoreError::Foreign { expected_site, expected_pair, found_site, found_pair });
    }
    disk.sync()?;
    let identity = Identity {
        site: superblock.site,
        pair: superblock.pair,
        journal: superblock.journal,
        volumes: superblock.volumes.clone(),
    };
    let mut scanner = Scanner::new(disk, superblock, layout);
    let segments = scanner.segments()?;
    let slots = scanner.slots()?;
    let plan = scanner.plan(&segments, &slots)?;
    let states = scanner.states()?;
    let (saved, state) = in_force(&states, &layout, plan.checkpoint.state)?;
    let mut newest: BTreeMap<u64, Stamp> = BTreeMap::new();
    let mut entries = 0;
    scanner.walk(&plan, &mut |scanner, segment, at, group| {
        for record in &group.records {
            let body = Bytes::copy_from_slice(scanner.bytes(record.body.clone()));
            let entry = record.header.entry(body).map_err(|error| StoreError::Damaged {
                segment: segment.index,
                offset: at,
                what: Damage::Format(error),
            })?;
            newest.entry(segment.seq).and_modify(|s| *s = (*s).max(entry.stamp)).or_insert(entry.stamp);
            if planted(Mutant::RecoverOwnOnly) && entry.stamp.site != identity.site {
                continue;
            }
            entries += 1;
            visit(entry, JournalPos(at + record.body.start as u64));
        }
        Ok(())
    })?;
    scanner.blank_remnants(&plan)?;
    let live: BTreeSet<u32> = plan.chain.iter().map(|segment| segment.index).collect();
    let free = (0..)
        .zip(&segments)
        .filter(|(index, _)| !live.contains(index))
        .map(|(index, read)| match read {
            SegmentRead::Valid(header) => (header.seq, index),
            SegmentRead::Blank | SegmentRead::Broken(_) => (0, index),
        })
        .collect();
    let journal = Journal::resume(Resume {
        journal: identity.journal,
        pair: identity.pair,
        layout: scanner.layout,
        live: plan
            .chain
            .iter()
            .map(|segment| Segment {
                index: segment.index,
                seq: segment.seq,
                newest: newest.get(&segment.seq).copied(),
            })
            .collect(),
        free,
        fill: plan.fill,
        next_group: plan.next_group,
        next_segment: plan.next_segment,
        next_slot: plan.next_slot,
        checkpoint: plan.checkpoint,
        state: saved,
        next_state: next_seq(&states, plan.checkpoint.state),
    });
    let superblock_fault = faults.into_iter().flatten().next();
    let (checkpoint, torn_at) = (plan.checkpoint, plan.torn_at);
    Ok((journal, Recovered { checkpoint, state, identity, entries, torn_at, superblock_fault }))
}
