//! The hold table of one volume: which writes are held, and who owns each block (E1.3 to E1.6, E1.M).
//!
//! Answers for: the newest held stamp of every block, whatever the order in which entries arrived; the
//! extents that each held entry still owns; and the block state map, which is not kept beside the table but
//! read off it, so that the two cannot disagree. It must never hold data, know where data lies, or decide
//! when to destage.
//!
//! ```text
//!   arrival:   1000 ├────────────── 200 blocks, older ──────────────┤
//!              1020      ├───── 100 blocks, newer ─────┤
//!   table:     1000 ├────┤├────────────────────────────┤├───────────┤
//!               older 20            newer 100             older 80      (E1.5)
//! ```
//!
//! Invariants:
//! - A block belongs to the greatest stamp that was inserted for it and not retired since.
//! - The same entries give the same answers in any order of arrival, so two sites with the same entries
//!   agree.
//! - Entries are retired in ascending order of stamp, and nothing is inserted at or below a stamp that was
//!   retired (the cut is complete before it is destaged). Under that rule both kinds of table answer alike.

pub mod indexed;
pub mod plain;

pub use indexed::IndexedTable;
pub use plain::PlainTable;

use crate::units::{Extent, Lba, Stamp};

/// A piece of the answer to "where is the newest data of these blocks" (E1.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The blocks.
    pub extent: Extent,
    /// The held entry that has their newest data; `None`: it is on the backing store.
    pub stamp: Option<Stamp>,
}

/// What both kinds of hold table promise.
pub trait HoldTable {
    /// Places an entry by stamp whatever the order of arrival; the newest covers, block by block (E1.4,
    /// E1.5).
    ///
    /// `met` is told, in ascending order of block, each piece of the newest held data that the entry
    /// overlaps, whether newer or older: its stamp and the blocks that both have. Pieces of the same stamp
    /// are not reported, and inserting an entry again changes nothing.
    fn insert(&mut self, stamp: Stamp, extent: Extent, met: &mut dyn FnMut(Stamp, Extent));

    /// Fills `pieces` with the newest pieces of `extent`: ascending, covering exactly `extent`, what is on
    /// the backing store as `None`, neighbours of the same stamp joined. What `pieces` held before is
    /// dropped.
    fn lookup(&self, extent: Extent, pieces: &mut Vec<Piece>);

    /// Forgets the entry `stamp`, inserted with `extent`: it is on the backing store now (E1.7). The blocks
    /// that it still owned are answered as `None` from now on; those that newer entries took from it stay
    /// with them.
    fn retire(&mut self, stamp: Stamp, extent: Extent);

    /// All records with their extents, ascending by stamp, then by start (the rows of E1.3). The indexed
    /// table has one row per piece that an entry still owns; the plain one has the entries as they came
    /// (E1.M).
    fn records(&self) -> Vec<(Stamp, Extent)>;

    /// How many blocks are held. At once in the indexed table; the plain one has to count.
    fn held_blocks(&self) -> u64;

    /// How many rows [`HoldTable::records`] has.
    fn record_count(&self) -> usize;

    /// Runs of held blocks, ascending, neighbours joined: the ones of the block state map (E1.6).
    fn map(&self) -> Vec<Extent>;

    /// Walks the whole table and says which of its invariants does not hold, if any. For checkers.
    fn check(&self) -> Result<(), String>;
}

/// Which table a site uses: `[hold] table` in its configuration. Both sites need not choose alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TableKind {
    /// Trimmed on insertion, kept in order of block: a read or a write costs a logarithm (E1.5, E1.6).
    #[default]
    Indexed,
    /// Kept as the entries came, in order of stamp; reads search from the newest back (E1.M).
    Plain,
}

/// A hold table of either kind, chosen once per site and dispatched without indirection.
#[derive(Clone, Debug)]
pub enum Table {
    /// See [`TableKind::Indexed`].
    Indexed(IndexedTable),
    /// See [`TableKind::Plain`].
    Plain(PlainTable),
}

impl Table {
    /// An empty table of this kind.
    pub fn new(kind: TableKind) -> Table {
        match kind {
            TableKind::Indexed => Table::Indexed(IndexedTable::new()),
            TableKind::Plain => Table::Plain(PlainTable::new()),
        }
    }

    /// Which kind this table is.
    pub fn kind(&self) -> TableKind {
        match self {
            Table::Indexed(_) => TableKind::Indexed,
            Table::Plain(_) => TableKind::Plain,
        }
    }
}

impl HoldTable for Table {
    fn insert(&mut self, stamp: Stamp, extent: Extent, met: &mut dyn FnMut(Stamp, Extent)) {
        match self {
            Table::Indexed(table) => table.insert(stamp, extent, met),
            Table::Plain(table) => table.insert(stamp, extent, met),
        }
    }

    fn lookup(&self, extent: Extent, pieces: &mut Vec<Piece>) {
        match self {
            Table::Indexed(table) => table.lookup(extent, pieces),
            Table::Plain(table) => table.lookup(extent, pieces),
        }
    }

    fn retire(&mut self, stamp: Stamp, extent: Extent) {
        match self {
            Table::Indexed(table) => table.retire(stamp, extent),
            Table::Plain(table) => table.retire(stamp, extent),
        }
    }

    fn records(&self) -> Vec<(Stamp, Extent)> {
        match self {
            Table::Indexed(table) => table.records(),
            Table::Plain(table) => table.records(),
        }
    }

    fn held_blocks(&self) -> u64 {
        match self {
            Table::Indexed(table) => table.held_blocks(),
            Table::Plain(table) => table.held_blocks(),
        }
    }

    fn record_count(&self) -> usize {
        match self {
            Table::Indexed(table) => table.record_count(),
            Table::Plain(table) => table.record_count(),
        }
    }

    fn map(&self) -> Vec<Extent> {
        match self {
            Table::Indexed(table) => table.map(),
            Table::Plain(table) => table.map(),
        }
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Table::Indexed(table) => table.check(),
            Table::Plain(table) => table.check(),
        }
    }
}

/// The extent of a run that its maker knows not to be empty, within extents that exist.
fn run(start: u64, end: u64) -> Extent {
    Extent::between(Lba(start), Lba(end)).expect("a run lies within valid extents and is not empty")
}

/// Joins the runs of an ascending sequence that touch or overlap.
fn joined(runs: impl Iterator<Item = (u64, u64)>) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    for (start, end) in runs {
        match extents.last_mut() {
            Some(last) if start <= last.end().0 => *last = run(last.start().0, end.max(last.end().0)),
            Some(_) | None => extents.push(run(start, end)),
        }
    }
    extents
}

#[cfg(test)]
mod tests;
