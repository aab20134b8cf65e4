//! What hosts asked and what they were told, and a checker of linearizability for registers.
//!
//! Each block of a sync volume is a register. [`judge`] is the search of Wing and Gong ("Testing and verifying
//! concurrent objects", 1993) with Lowe's memory of visited states: an order of the commands is looked for in which
//! every read returns the last write before it and no command comes before one that had ended when it was asked.

use crate::pattern::Value;
use biplex_engine::{Extent, SiteId};
use std::collections::{BTreeMap, BTreeSet};

/// A moment: a number that grows with every question and answer of any host.
pub type Moment = u64;

/// What a command did to or learnt of its blocks.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Deed {
    /// Wrote this value to every block of the extents.
    Write { extents: Vec<Extent>, value: Value },
    /// Read these values, one per block of the extent; empty while unanswered.
    Read { extent: Extent, values: Vec<Value> },
    /// Asked for what was completed to be durable.
    Flush,
}

/// A command of a host.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Where it was asked.
    pub site: SiteId,
    /// Which host asked.
    pub host: usize,
    /// Index of the volume.
    pub volume: usize,
    /// What it did.
    pub deed: Deed,
    /// When it was asked, virtual nanoseconds.
    pub time: u64,
    /// When it was asked.
    pub asked: Moment,
    /// When it was completed well. A command that failed, timed out or lost its site stays `None`: whether it
    /// happened is unknown, and it may happen at any later time.
    pub done: Option<Moment>,
}

/// A command as one block sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// When it was asked.
    pub asked: Moment,
    /// When it ended, `Moment::MAX` if that is unknown.
    pub done: Moment,
    /// Whether `value` was written, else it was read.
    pub writes: bool,
    /// The value.
    pub value: Value,
    /// Index of the operation in the history, for messages.
    pub operation: usize,
}

/// The accesses of one block, in the order in which they were asked. Writes of unknown outcome whose value nobody
/// ever read are left out: a history is linearizable with them exactly if it is without them.
pub fn accesses(history: &[Operation], volume: usize, block: u64) -> Vec<Access> {
    let covers = |extent: &Extent| extent.start().0 <= block && block < extent.end().0;
    let mut all = Vec::new();
    let mut seen = BTreeSet::new();
    for (operation, op) in history.iter().enumerate().filter(|(_, op)| op.volume == volume) {
        let done = op.done.unwrap_or(Moment::MAX);
        match &op.deed {
            Deed::Write { extents, value } if extents.iter().any(covers) => {
                all.push(Access { asked: op.asked, done, writes: true, value: *value, operation });
            }
            Deed::Read { extent, values } if covers(extent) => {
                if let Some(&value) = values.get((block - extent.start().0) as usize) {
                    seen.insert(value);
                    all.push(Access { asked: op.asked, done, writes: false, value, operation });
                }
            }
            Deed::Write { .. } | Deed::Read { .. } | Deed::Flush => {}
        }
    }
    all.retain(|access| access.done != Moment::MAX || (access.writes && seen.contains(&access.value)));
    all.sort_by_key(|access| access.asked);
    all
}

/// The checker's answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// An order exists.
    Linearizable,
    /// None exists. The access that no order could place, in the longest order found.
    Not(Access),
    /// The search was given up after its budget of states.
    Undecided,
}

/// Stands for every value that nobody read.
const UNSEEN: Value = Value::MAX;

/// Looks for an order that explains `accesses` (sorted by `asked`) of a register that starts at 0.
pub fn judge(accesses: &[Access], budget: usize) -> Verdict {
    let mut of_value: BTreeMap<Value, [Vec<usize>; 2]> = BTreeMap::new();
    for (index, access) in accesses.iter().enumerate() {
        of_value.entry(access.value).or_default()[usize::from(access.writes)].push(index);
    }
    let mut visited = BTreeSet::new();
    let mut stack = vec![State { first: 0, done: BTreeSet::new(), value: 0 }];
    let mut stuck: Option<(usize, Access)> = None;
    while let Some(mut state) = stack.pop() {
        state.take_reads(accesses);
        let Some(horizon) = state.horizon(accesses) else { return Verdict::Linearizable };
        if !visited.insert(state.clone()) {
            continue;
        }
        if visited.len() > budget {
            return Verdict::Undecided;
        }
        let placed = state.first + state.done.len();
        if stuck.as_ref().is_none_or(|(most, _)| placed > *most) {
            stuck = Some((placed, horizon));
        }
        let open: Vec<usize> =
            state.candidates(accesses, horizon.done).filter(|&i| accesses[i].writes).collect();
        let (mut shown, unseen): (Vec<usize>, Vec<usize>) =
            open.into_iter().partition(|&index| !of_value[&accesses[index].value][0].is_empty());
        // Reads of the present value that cannot come yet need it to stay, unless somebody writes it again.
        if let Some([reads, writes]) = of_value.get(&state.value) {
            let open = |list: &[usize]| list.iter().any(|&index| !state.placed(index));
            if open(reads) && !open(writes) {
                continue;
            }
        }
        // A write that nobody read goes for free just before any other write, which covers it at once. So all that
        // may come next are placed together, and only writes that somebody read are worth trying one by one.
        for &index in &unseen {
            state.place(index);
        }
        if !unseen.is_empty() {
            stack.push(State { value: UNSEEN, ..state.clone() });
        }
        // Those that end last are tried last: the stack is popped from its end.
        shown.sort_by_key(|&index| std::cmp::Reverse(accesses[index].done));
        for index in shown {
            let mut after = state.clone();
            after.place(index);
            after.value = accesses[index].value;
            stack.push(after);
        }
    }
    stuck.map_or(Verdict::Linearizable, |(_, access)| Verdict::Not(access))
}

/// A set of placed accesses (all before `first`, and those in `done`) and the register's value after them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct State {
    first: usize,
    done: BTreeSet<usize>,
    value: Value,
}

impl State {
    fn placed(&self, index: usize) -> bool {
        index < self.first || self.done.contains(&index)
    }

    fn place(&mut self, index: usize) {
        self.done.insert(index);
        while self.done.remove(&self.first) {
            self.first += 1;
        }
    }

    fn open<'a>(&'a self, accesses: &'a [Access]) -> impl Iterator<Item = usize> + 'a {
        (self.first..accesses.len()).filter(|index| !self.done.contains(index))
    }

    /// The unplaced access that ends first, if any must still be placed.
    fn horizon(&self, accesses: &[Access]) -> Option<Access> {
        let mut best: Option<Access> = None;
        for index in self.open(accesses) {
            let access = accesses[index];
            if best.is_some_and(|b| access.asked > b.done) {
                break;
            }
            if access.done != Moment::MAX && best.is_none_or(|b| access.done < b.done) {
                best = Some(access);
            }
        }
        best
    }

    /// Unplaced accesses asked before `end`: those that may come next.
    fn candidates<'a>(&'a self, accesses: &'a [Access], end: Moment) -> impl Iterator<Item = usize> + 'a {
        self.open(accesses).take_while(move |&index| accesses[index].asked <= end)
    }

    /// Places every read that may come next and agrees with the value: never wrong, since reads change nothing.
    fn take_reads(&mut self, accesses: &[Access]) {
        while let Some(horizon) = self.horizon(accesses) {
            let fits = |&index: &usize| !accesses[index].writes && accesses[index].value == self.value;
            let Some(index) = self.candidates(accesses, horizon.done).find(fits) else { return };
            self.place(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn w(asked: u64, done: u64, value: u64) -> Access {
        Access { asked, done, writes: true, value, operation: 0 }
    }

    fn r(asked: u64, done: u64, value: u64) -> Access {
        Access { asked, done, writes: false, value, operation: 0 }
    }

    fn fine(mut accesses: Vec<Access>) -> bool {
        accesses.sort_by_key(|a| a.asked);
        match judge(&accesses, 100_000) {
            Verdict::Linearizable => true,
            Verdict::Not(_) => false,
            Verdict::Undecided => panic!("budget"),
        }
    }

    #[test]
    fn orders_that_exist_are_found() {
        assert!(fine(vec![]));
        assert!(fine(vec![w(1, 2, 7), r(3, 4, 7)]));
        assert!(fine(vec![w(1, 9, 7), r(2, 3, 0), r(4, 5, 7)]));
        assert!(fine(vec![w(1, 9, 7), w(2, 8, 8), r(3, 4, 8), r(5, 6, 7), r(10, 11, 7)]));
        assert!(fine(vec![w(1, u64::MAX, 7), w(2, 3, 8), r(4, 5, 8), r(6, 7, 7)]));
        assert!(fine(vec![w(1, 2, 7), w(3, 4, 0), r(5, 6, 0), w(7, 8, 7), r(9, 10, 7)]));
    }

    #[test]
    fn stale_lost_and_flickering_reads_are_refused() {
        assert!(!fine(vec![w(1, 2, 7), r(3, 4, 0)]), "a completed write that a later read does not see");
        assert!(!fine(vec![w(1, 2, 7), w(3, 4, 8), r(5, 6, 7)]), "an overwritten value");
        assert!(!fine(vec![w(1, 20, 7), r(2, 3, 7), r(4, 5, 0)]), "new, then old");
        assert!(!fine(vec![w(1, 20, 7), w(1, 20, 8), r(2, 3, 7), r(4, 5, 8), r(6, 7, 7)]), "back and forth");
        assert!(!fine(vec![r(1, 2, 9)]), "a value that nobody wrote");
        assert!(!fine(vec![w(5, 6, 9), r(1, 2, 9)]), "from the future");
    }

    /// Every history of three writes and three reads in small time, against trying all orders.
    #[test]
    fn agrees_with_trying_every_order() {
        let mut random = crate::random::Random::new(11);
        let (mut good, mut bad) = (0, 0);
        for _ in 0..3_000 {
            let mut list: Vec<Access> = Vec::new();
            let mut times: Vec<u64> = (1..=12).collect();
            for index in 0..6 {
                let mut take = || times.remove(random.below(times.len() as u64) as usize);
                let (x, y) = (take(), take());
                let value = random.below(3);
                let op = if index % 2 == 0 {
                    w(x.min(y), x.max(y), random.below(3) * 2 + 1)
                } else {
                    r(x.min(y), x.max(y), value * 2 + 1)
                };
                list.push(op);
            }
            list.sort_by_key(|a| a.asked);
            let expected = permute(&list, 0, 0);
            assert_eq!(fine(list.clone()), expected, "{list:?}");
            *(if expected { &mut good } else { &mut bad }) += 1;
        }
        assert!(good > 20 && bad > 20, "{good} {bad}");
    }

    fn permute(list: &[Access], placed: u32, value: u64) -> bool {
        if placed == (1 << list.len()) - 1 {
            return true;
        }
        (0..list.len()).filter(|i| placed & (1 << i) == 0).any(|i| {
            let early =
                (0..list.len()).all(|j| placed & (1 << j) != 0 || list[j].done >= list[i].asked || i == j);
            early
                && (list[i].writes || list[i].value == value)
                && permute(list, placed | 1 << i, if list[i].writes { list[i].value } else { value })
        })
    }
}
