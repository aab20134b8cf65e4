//! The plain hold table: entries as they came, in order of stamp, searched from the newest back (E1.M).
//!
//! Answers for: the same answers as the indexed table from a structure too simple to be wrong. Nothing is
//! trimmed, so there is nothing to trim wrongly; reads, the conflict report of an insertion and the counts
//! are linear in the number of records, by design.
//!
//! Invariant: records ascend by stamp (then by extent), none twice. Because nothing is trimmed, removing a
//! record uncovers older ones below it. That is harmless under the rule of the module above: records are
//! retired oldest first, so when one goes, everything older has gone before it, and what lies below is the
//! backing store.

use super::{HoldTable, Piece, joined, run};
use crate::units::{Extent, Stamp};
use std::collections::VecDeque;

/// See the module.
#[derive(Clone, Default, Debug)]
pub struct PlainTable {
    /// Ascending. Entries arrive near the back and are retired at the front: both ends are cheap.
    records: VecDeque<(Stamp, Extent)>,
}

impl PlainTable {
    /// An empty table.
    pub fn new() -> PlainTable {
        PlainTable::default()
    }

    /// The newest held pieces of `extent`, ascending; pieces of the same stamp are not joined.
    fn newest(&self, extent: Extent) -> Vec<(Extent, Stamp)> {
        let mut missing = vec![extent];
        let mut found = Vec::new();
        for &(stamp, record) in self.records.iter().rev() {
            if !record.overlaps(extent) {
                continue;
            }
            let mut still = Vec::with_capacity(missing.len() + 1);
            for gap in missing {
                let Some(hit) = gap.intersection(record) else {
                    still.push(gap);
                    continue;
                };
                found.push((hit, stamp));
                still.extend(Extent::between(gap.start(), hit.start()));
                still.extend(Extent::between(hit.end(), gap.end()));
            }
            missing = still;
            if missing.is_empty() {
                break;
            }
        }
        found.sort_unstable();
        found
    }
}

impl HoldTable for PlainTable {
    fn insert(&mut self, stamp: Stamp, extent: Extent, met: &mut dyn FnMut(Stamp, Extent)) {
        for (overlapped, held) in self.newest(extent) {
            if held != stamp {
                met(held, overlapped);
            }
        }
        if let Err(place) = self.records.binary_search(&(stamp, extent)) {
            self.records.insert(place, (stamp, extent));
        }
    }

    fn lookup(&self, extent: Extent, pieces: &mut Vec<Piece>) {
        pieces.clear();
        let mut answered = extent.start();
        for (found, stamp) in self.newest(extent) {
            if let Some(gap) = Extent::between(answered, found.start()) {
                pieces.push(Piece { extent: gap, stamp: None });
            }
            answered = found.end();
            match pieces.last_mut() {
                Some(last) if last.stamp == Some(stamp) => {
                    last.extent = run(last.extent.start().0, answered.0)
                }
                Some(_) | None => pieces.push(Piece { extent: found, stamp: Some(stamp) }),
            }
        }
        if let Some(gap) = Extent::between(answered, extent.end()) {
            pieces.push(Piece { extent: gap, stamp: None });
        }
    }

    fn retire(&mut self, stamp: Stamp, extent: Extent) {
        if let Ok(place) = self.records.binary_search(&(stamp, extent)) {
            self.records.remove(place);
        }
    }

    fn records(&self) -> Vec<(Stamp, Extent)> {
        self.records.iter().copied().collect()
    }

    fn held_blocks(&self) -> u64 {
        self.map().iter().map(|extent| extent.blocks()).sum()
    }

    fn record_count(&self) -> usize {
        self.records.len()
    }

    fn map(&self) -> Vec<Extent> {
        let mut extents: Vec<_> = self.records.iter().map(|&(_, extent)| extent).collect();
        extents.sort_unstable();
        joined(extents.into_iter().map(|extent| (extent.start().0, extent.end().0)))
    }

    fn check(&self) -> Result<(), String> {
        let ascends = self.records.iter().zip(self.records.iter().skip(1)).all(|(one, next)| one < next);
        ascends.then_some(()).ok_or_else(|| "records do not ascend by stamp".to_owned())
    }
}
