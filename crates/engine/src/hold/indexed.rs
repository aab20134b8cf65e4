//! The indexed hold table: an interval map from block to the newest held stamp (E1.4, E1.5, E1.6).
//!
//! Answers for: overlap trim at insertion, so that no two pieces share a block and a read finds the newest at
//! once. It must never walk more than the pieces that the extent in hand overlaps.
//!
//! Invariants: pieces are keyed by their first block, are not empty, and share no block; `held` is the sum of
//! their lengths. As pieces share no block, their ends ascend with their starts: all pieces that overlap
//! `[start, end)` are met by walking back from `end` until one ends at or before `start`, with a single
//! descent of the tree.

use super::{HoldTable, Piece, joined, run};
use crate::mutant::{Mutant, planted};
use crate::units::{Extent, Stamp};
use std::collections::BTreeMap;

/// Blocks from the key of the map up to `end`, owned by `stamp`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Owned {
    end: u64,
    stamp: Stamp,
}

/// See the module.
#[derive(Clone, Default, Debug)]
pub struct IndexedTable {
    pieces: BTreeMap<u64, Owned>,
    held: u64,
    /// Pieces that the insertion in hand overlaps, last first. Empty between calls; kept for its allocation.
    overlapped: Vec<(u64, Owned)>,
}

impl IndexedTable {
    /// An empty table.
    pub fn new() -> IndexedTable {
        IndexedTable::default()
    }

    /// The pieces that share a block with `extent`, last first.
    fn overlapping(&self, extent: Extent) -> impl Iterator<Item = (u64, Owned)> + '_ {
        let (start, end) = (extent.start().0, extent.end().0);
        self.pieces
            .range(..end)
            .rev()
            .map(|(&start, &owned)| (start, owned))
            .take_while(move |(_, owned)| owned.end > start)
    }

    fn own(&mut self, start: u64, end: u64, stamp: Stamp) {
        if start < end {
            self.pieces.insert(start, Owned { end, stamp });
            self.held += end - start;
        }
    }

    /// Takes `[from, to)` away from the piece at `start`, which has those blocks: it shrinks, splits or
    /// vanishes.
    fn trim(&mut self, start: u64, owned: Owned, from: u64, to: u64) {
        if start < from {
            self.pieces.insert(start, Owned { end: from, ..owned });
        } else {
            self.pieces.remove(&start);
        }
        self.held -= owned.end - from;
        self.own(to, owned.end, owned.stamp);
    }
}

/// Whether a held piece stays where an arriving entry overlaps it: the greater stamp wins (E1.4).
fn stays(held: Stamp, arriving: Stamp) -> bool {
    if planted(Mutant::LateArrivalCovers) {
        return held == arriving;
    }
    if planted(Mutant::DropTieBreak) {
        return held == arriving || held.time > arriving.time;
    }
    held >= arriving
}

impl HoldTable for IndexedTable {
    fn insert(&mut self, stamp: Stamp, extent: Extent, met: &mut dyn FnMut(Stamp, Extent)) {
        let mut overlapped = std::mem::take(&mut self.overlapped);
        overlapped.extend(self.overlapping(extent));
        // Up to here every block of the entry has found its owner.
        let mut settled = extent.start().0;
        while let Some((start, owned)) = overlapped.pop() {
            let (from, mut to) = (start.max(extent.start().0), owned.end.min(extent.end().0));
            if owned.stamp != stamp {
                met(owned.stamp, run(from, to));
            }
            if stays(owned.stamp, stamp) {
                // E1.5: a late entry gets only what newer ones leave: it may split, or be dropped whole.
                self.own(settled, from, stamp);
                settled = to;
            } else if planted(Mutant::TrimOneBlockTooFew) && to - from >= 2 {
                to -= 1;
                self.trim(start, owned, from, to);
                self.own(settled, to, stamp);
                settled = to + 1;
            } else {
                self.trim(start, owned, from, to);
            }
        }
        self.own(settled, extent.end().0, stamp);
        self.overlapped = overlapped;
    }

    fn lookup(&self, extent: Extent, pieces: &mut Vec<Piece>) {
        pieces.clear();
        let mut push = |start: u64, end: u64, stamp: Option<Stamp>| match pieces.last_mut() {
            Some(next) if next.stamp == stamp => next.extent = run(start, next.extent.end().0),
            Some(_) | None => pieces.push(Piece { extent: run(start, end), stamp }),
        };
        // From the last block down: everything from `answered` on is in `pieces`.
        let mut answered = extent.end().0;
        for (start, owned) in self.overlapping(extent) {
            let (from, to) = (start.max(extent.start().0), owned.end.min(extent.end().0));
            if to < answered {
                push(to, answered, None);
            }
            push(from, to, Some(owned.stamp));
            answered = from;
        }
        if extent.start().0 < answered {
            push(extent.start().0, answered, None);
        }
        pieces.reverse();
    }

    fn retire(&mut self, stamp: Stamp, extent: Extent) {
        if planted(Mutant::MapNotCleared) {
            return;
        }
        let mut overlapped = std::mem::take(&mut self.overlapped);
        overlapped.extend(self.overlapping(extent).filter(|(_, owned)| owned.stamp == stamp));
        while let Some((start, owned)) = overlapped.pop() {
            let (from, to) = (start.max(extent.start().0), owned.end.min(extent.end().0));
            self.trim(start, owned, from, to);
        }
        self.overlapped = overlapped;
    }

    fn records(&self) -> Vec<(Stamp, Extent)> {
        let mut records: Vec<_> =
            self.pieces.iter().map(|(&start, owned)| (owned.stamp, run(start, owned.end))).collect();
        records.sort_unstable();
        records
    }

    fn held_blocks(&self) -> u64 {
        self.held
    }

    fn record_count(&self) -> usize {
        self.pieces.len()
    }

    fn map(&self) -> Vec<Extent> {
        joined(self.pieces.iter().map(|(&start, owned)| (start, owned.end)))
    }

    fn check(&self) -> Result<(), String> {
        let (mut free, mut held) = (0, 0);
        for (&start, owned) in &self.pieces {
            if start < free || owned.end <= start {
                return Err(format!("piece {start}..{} is empty or overlaps the one before", owned.end));
            }
            free = owned.end;
            held += owned.end - start;
        }
        if held != self.held {
            return Err(format!("{held} blocks are held, but the count says {}", self.held));
        }
        Ok(())
    }
}
