//! Last-writer-wins as each site's hosts see it, for volumes of every mode.
//!
//! A site shows per block the value of the greatest stamp it knows, so what its hosts see of a block only moves
//! forward: once a later value was seen, an earlier one does not come back. And a write that the site completed
//! stands for good, crash or not: what was known at the site before the write was asked is overtaken by it.

use crate::history::Moment;
use crate::pattern::Value;
use std::collections::BTreeMap;

/// A value that the block is known to be at or beyond.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// Since when.
    since: Moment,
    /// A crash of the site does not take it back.
    firm: bool,
}

/// What one site's hosts know of one block.
#[derive(Clone, Debug, Default)]
struct Block {
    /// Values not yet overtaken.
    known: BTreeMap<Value, Known>,
    /// Values overtaken by something that a crash may take back: since when, and what was known of them.
    passed: BTreeMap<Value, (Moment, Known)>,
    /// Values overtaken by something that no crash takes back, and since when.
    gone: BTreeMap<Value, Moment>,
    /// Zeros may come from an unmap, so they no longer name one moment.
    zeros_recur: bool,
}

/// What one site's hosts know of one volume.
#[derive(Clone, Debug)]
pub struct Order {
    blocks: Vec<Block>,
}

impl Order {
    /// Nothing known but that every block starts as zeros.
    pub fn new(blocks: u64) -> Order {
        let start = Known { since: 0, firm: true };
        let block = Block { known: BTreeMap::from([(0, start)]), ..Block::default() };
        Order { blocks: vec![block; blocks as usize] }
    }

    /// Somewhere an unmap of this block was asked.
    pub fn zeros_recur(&mut self, block: u64) {
        let block = &mut self.blocks[block as usize];
        block.zeros_recur = true;
        block.known.remove(&0);
        block.passed.remove(&0);
        block.gone.remove(&0);
    }

    /// A read of this block that was asked and answered at these moments.
    pub fn read(&mut self, block: u64, value: Value, asked: Moment, done: Moment) -> Result<(), String> {
        let state = &mut self.blocks[block as usize];
        let told =
            |how: &str| Err(format!("block {block} shows {value} again although {how} had overtaken it"));
        if state.gone.get(&value).is_some_and(|&since| since < asked) {
            return told("a write that stands for good");
        }
        if state.passed.get(&value).is_some_and(|&(since, _)| since < asked) {
            return told("a later value");
        }
        let firm = state.known.get(&value).is_some_and(|known| known.firm);
        state.overtake(value, firm, asked, done);
        state.note(value, done, false);
        Ok(())
    }

    /// A write of this block that this site completed.
    pub fn wrote(&mut self, block: u64, value: Value, asked: Moment, done: Moment) {
        let state = &mut self.blocks[block as usize];
        state.overtake(value, true, asked, done);
        state.note(value, done, true);
    }

    /// A write of the peer's that is here for good.
    pub fn holds(&mut self, block: u64, value: Value, done: Moment) {
        self.blocks[block as usize].note(value, done, true);
    }

    /// All that `other` knew for good when it was asked at `asked` holds here too since `done`: its flush completed.
    pub fn learn(&mut self, other: &Order, asked: Moment, done: Moment) {
        for (mine, theirs) in self.blocks.iter_mut().zip(&other.blocks) {
            for (&value, _) in theirs.gone.iter().filter(|&(_, &since)| since < asked) {
                mine.known.remove(&value);
                mine.passed.remove(&value);
                mine.gone.entry(value).or_insert(done);
            }
            for (&value, _) in theirs.known.iter().filter(|(_, known)| known.firm && known.since < asked) {
                mine.note(value, done, true);
            }
        }
    }

    /// The site crashed: what it knew only from its peer, or had not completed, it may have forgotten.
    pub fn crashed(&mut self) {
        for block in &mut self.blocks {
            block.known.retain(|_, known| known.firm);
            for (value, (_, known)) in std::mem::take(&mut block.passed) {
                if known.firm {
                    block.known.insert(value, known);
                }
            }
        }
    }
}

impl Block {
    /// Everything known before `asked` but `value` itself is overtaken since `done`.
    fn overtake(&mut self, value: Value, firm: bool, asked: Moment, done: Moment) {
        let old = self.known.iter().filter(|&(&other, known)| other != value && known.since < asked);
        let old: Vec<(Value, Known)> = old.map(|(&other, &known)| (other, known)).collect();
        for (other, known) in old {
            self.known.remove(&other);
            if firm {
                self.gone.insert(other, done);
            } else {
                self.passed.insert(other, (done, known));
            }
        }
        if firm {
            // What was overtaken before stays so for good now: this write is beyond it too.
            let old = self.passed.iter().filter(|&(&other, &(since, _))| other != value && since < asked);
            let old: Vec<Value> = old.map(|(&other, _)| other).collect();
            for other in old {
                self.passed.remove(&other);
                self.gone.insert(other, done);
            }
        }
    }

    fn note(&mut self, value: Value, done: Moment, firm: bool) {
        if (value == 0 && self.zeros_recur) || self.gone.contains_key(&value) {
            return;
        }
        if let Some((_, known)) = self.passed.get_mut(&value) {
            known.firm |= firm;
            return;
        }
        let known = self.known.entry(value).or_insert(Known { since: done, firm });
        known.firm |= firm;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overtaken_value_does_not_come_back() {
        let mut order = Order::new(1);
        order.read(0, 5, 1, 2).unwrap();
        order.read(0, 6, 3, 4).unwrap();
        order.read(0, 6, 5, 6).unwrap();
        assert!(order.read(0, 5, 7, 8).is_err());
    }

    #[test]
    fn a_completed_write_outlives_a_crash_and_a_seen_value_may_not() {
        let mut order = Order::new(2);
        order.read(0, 5, 1, 2).unwrap();
        order.read(0, 6, 3, 4).unwrap();
        order.wrote(1, 7, 1, 2);
        order.crashed();
        order.read(0, 5, 10, 11).unwrap();
        assert!(order.read(1, 0, 10, 11).is_err());
    }
}
