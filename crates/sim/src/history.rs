//! What hosts asked and what they were told, and a checker of linearizability for registers with compare-and-set.
//!
//! Each block of a sync volume is a register. [`judge`] is the search of Wing and Gong ("Testing and verifying
//! concurrent objects", 1993) with Lowe's memory of visited states: an order of the commands is looked for in which
//! every read returns the last write before it and no command comes before one that had ended when it was asked. A
//! COMPARE AND WRITE that matched reads the old value and writes the new one at one point; one that did not saw
//! another value on its first block that differs, and the compared ones on the blocks before.

use crate::pattern::Value;
use biplex_engine::reserve::{Access as Aim, Request, Verdict as Answer};
use biplex_engine::{Extent, Nexus, SiteId};
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
    /// Compared with these values, one per block, to write this value to each. `ended`: the first block that differed,
    /// `None` inside if none did; `None` while that is unknown.
    Swap { extent: Extent, compare: Vec<Value>, value: Value, ended: Option<Option<usize>> },
    /// Asked for what was completed to be durable.
    Flush,
    /// Asked for reservations to be changed, or for a reset.
    Control { request: Request, verdict: Option<Answer> },
    /// Asked who is registered.
    Inspect,
    /// Asked whether a command that does this to the unit would be served.
    Check { access: Aim },
    /// Is about to end its session.
    Leave,
}

/// A command of a host.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Where it was asked.
    pub site: SiteId,
    /// Which host asked.
    pub host: usize,
    /// By which nexus.
    pub nexus: Nexus,
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
    /// The site took it in.
    pub taken: bool,
    /// It met a reservation: it never happens.
    pub refused: bool,
    /// If it happens at all it has happened by then: its host was fenced off (PREEMPT AND ABORT), or kept out by what
    /// another was granted.
    pub by: Option<Moment>,
}

/// What a command does to a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Kind {
    Write,
    Read,
    /// Found another value than this.
    ReadOther,
    /// Found `expected` and wrote the value at the same point.
    Swap {
        expected: Value,
    },
}

/// A command as one block sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// When it was asked.
    pub asked: Moment,
    /// When it ended, `Moment::MAX` if that is unknown.
    pub done: Moment,
    /// What it does.
    pub kind: Kind,
    /// The value written, read, or not found.
    pub value: Value,
    /// Index of the operation in the history, for messages.
    pub operation: usize,
}

impl Access {
    fn writes(&self) -> bool {
        matches!(self.kind, Kind::Write | Kind::Swap { .. })
    }

    /// Whether it may come where the block has this value.
    fn fits(&self, present: Value) -> bool {
        match self.kind {
            Kind::Write => true,
            Kind::Read => self.value == present,
            Kind::ReadOther => self.value != present,
            Kind::Swap { expected } => expected == present,
        }
    }
}

/// The accesses of one block, in the order in which they were asked. Writes of unknown outcome whose value nobody
/// ever saw are left out: a history is linearizable with them exactly if it is without them.
pub fn accesses(history: &[Operation], volume: usize, block: u64) -> Vec<Access> {
    let covers = |extent: &Extent| extent.start().0 <= block && block < extent.end().0;
    let mut all = Vec::new();
    let mut seen = BTreeSet::new();
    for (operation, op) in history.iter().enumerate().filter(|(_, op)| op.volume == volume && !op.refused) {
        let done = op.done.into_iter().chain(op.by).min().unwrap_or(Moment::MAX);
        let mut push = |kind, value| all.push(Access { asked: op.asked, done, kind, value, operation });
        match &op.deed {
            Deed::Write { extents, value } if extents.iter().any(covers) => push(Kind::Write, *value),
            Deed::Read { extent, values } if covers(extent) => {
                if let Some(&value) = values.get((block - extent.start().0) as usize) {
                    push(Kind::Read, value);
                }
            }
            Deed::Swap { extent, compare, value, ended } if covers(extent) => {
                let index = (block - extent.start().0) as usize;
                let Some(&expected) = compare.get(index) else { continue };
                match *ended {
                    // Whatever it was, if it was seen it matched.
                    None | Some(None) => push(Kind::Swap { expected }, *value),
                    Some(Some(first)) if index < first => push(Kind::Read, expected),
                    Some(Some(first)) if index == first => push(Kind::ReadOther, expected),
                    Some(Some(_)) => {}
                }
            }
            Deed::Write { .. }
            | Deed::Read { .. }
            | Deed::Swap { .. }
            | Deed::Flush
            | Deed::Control { .. }
            | Deed::Inspect
            | Deed::Check { .. }
            | Deed::Leave => {}
        }
    }
    // A COMPARE AND WRITE that matched saw the value that it replaced.
    let certain = |access: &&Access| history[access.operation].done.is_some();
    seen.extend(all.iter().filter(certain).filter_map(|access| match access.kind {
        Kind::Read => Some(access.value),
        Kind::Swap { expected } => Some(expected),
        Kind::Write | Kind::ReadOther => None,
    }));
    // Who found "another value" may have found any.
    let others = all.iter().any(|access| access.kind == Kind::ReadOther);
    // What an unknown one replaced was seen if it was seen itself.
    loop {
        let more = all.iter().filter_map(|access| match access.kind {
            Kind::Swap { expected } if seen.contains(&access.value) => Some(expected),
            Kind::Swap { .. } | Kind::Write | Kind::Read | Kind::ReadOther => None,
        });
        let before = seen.len();
        seen.extend(more.collect::<Vec<_>>());
        if seen.len() == before {
            break;
        }
    }
    // Fenced off and not seen: then it need not have happened at all. Zeros name no write: those that are seen may be
    // another's.
    for access in all.iter_mut().filter(|access| history[access.operation].done.is_none()) {
        if access.value == 0 || !seen.contains(&access.value) {
            access.done = Moment::MAX;
        }
    }
    all.retain(|access| {
        history[access.operation].done.is_some()
            || (access.writes() && (others || seen.contains(&access.value)))
    });
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
const UNSEEN: Value = Value::MAX - 1;

/// Looks for an order that explains `accesses` (sorted by `asked`) of a register that starts at 0.
pub fn judge(accesses: &[Access], budget: usize) -> Verdict {
    // Who needs a value, and who brings it.
    let mut needs: BTreeMap<Value, Vec<usize>> = BTreeMap::new();
    let mut brings: BTreeMap<Value, Vec<usize>> = BTreeMap::new();
    // Where somebody found "another value" than one of these, a write that nobody read may be what it found.
    let mut others = BTreeSet::new();
    for (index, access) in accesses.iter().enumerate() {
        match access.kind {
            Kind::Write => brings.entry(access.value).or_default().push(index),
            Kind::Read => needs.entry(access.value).or_default().push(index),
            Kind::ReadOther => {
                others.insert(access.value);
            }
            Kind::Swap { expected } => {
                needs.entry(expected).or_default().push(index);
                brings.entry(access.value).or_default().push(index);
            }
        }
    }
    let free = |index: &usize| {
        let value = &accesses[*index].value;
        matches!(accesses[*index].kind, Kind::Write) && !needs.contains_key(value) && !others.contains(value)
    };
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
        // Reads of the present value that cannot come yet need it to stay, unless somebody writes it again.
        let open = |list: Option<&Vec<usize>>, reads: bool| {
            let wanted = |index: &&usize| !reads || !accesses[**index].writes();
            list.is_some_and(|list| list.iter().filter(wanted).any(|&index| !state.placed(index)))
        };
        if open(needs.get(&state.value), true) && !open(brings.get(&state.value), false) {
            continue;
        }
        let (unseen, mut shown): (Vec<usize>, Vec<usize>) = state
            .candidates(accesses, horizon.done)
            .filter(|&index| accesses[index].writes() && accesses[index].fits(state.value))
            .partition(free);
        // Those that end last are tried last: the stack is popped from its end.
        shown.sort_by_key(|&index| std::cmp::Reverse(accesses[index].done));
        let mut covered = state.clone();
        if !others.is_empty() {
            // Any of them is as good as another, so the one that ends first.
            if let Some(&index) = unseen.iter().min_by_key(|&&index| accesses[index].done) {
                covered.place(index);
                stack.push(State { value: UNSEEN, ..covered });
            }
            covered = state.clone();
        } else if !unseen.is_empty() {
            // A write that nobody read goes for free just before any other write, which covers it at once. So all that
            // may come next are placed together, and only writes that somebody read are worth trying one by one.
            unseen.iter().for_each(|&index| covered.place(index));
            stack.push(State { value: UNSEEN, ..covered.clone() });
        }
        for index in shown {
            // Nothing comes between the value that a swap finds and the swap.
            let swaps = matches!(accesses[index].kind, Kind::Swap { .. });
            let mut after = if swaps { state.clone() } else { covered.clone() };
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
            let fits = |&index: &usize| !accesses[index].writes() && accesses[index].fits(self.value);
            let Some(index) = self.candidates(accesses, horizon.done).find(fits) else { return };
            self.place(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use biplex_engine::{HostId, Lba};

    fn w(asked: u64, done: u64, value: u64) -> Access {
        Access { asked, done, kind: Kind::Write, value, operation: 0 }
    }

    fn r(asked: u64, done: u64, value: u64) -> Access {
        Access { asked, done, kind: Kind::Read, value, operation: 0 }
    }

    fn not(asked: u64, done: u64, value: u64) -> Access {
        Access { asked, done, kind: Kind::ReadOther, value, operation: 0 }
    }

    fn s(asked: u64, done: u64, expected: u64, value: u64) -> Access {
        Access { asked, done, kind: Kind::Swap { expected }, value, operation: 0 }
    }

    fn write(asked: Moment, done: Option<Moment>, value: Value) -> Operation {
        let extent = Extent::new(Lba(3), 1).expect("a block");
        Operation {
            site: SiteId::A,
            host: 0,
            nexus: Nexus { host: HostId(1), isid: 1, site: SiteId::A },
            volume: 0,
            deed: Deed::Write { extents: vec![extent], value },
            time: 0,
            asked,
            done,
            taken: true,
            refused: false,
            by: None,
        }
    }

    fn look(asked: Moment, value: Value) -> Operation {
        let extent = Extent::new(Lba(3), 1).expect("a block");
        Operation { deed: Deed::Read { extent, values: vec![value] }, ..write(asked, Some(asked + 1), 0) }
    }

    /// PREEMPT AND ABORT is answered at 10. What it fenced off is in place by then or never comes.
    #[test]
    fn what_was_fenced_off_has_happened_by_then_or_never_does() {
        let history = |fenced: Operation, after: Value| {
            vec![look(1, 0), write(3, Some(4), 7), fenced, look(11, 7), look(13, after)]
        };
        let judged = |list: &[Operation]| judge(&accesses(list, 0, 3), 1_000);
        let fenced = |value| Operation { by: Some(10), ..write(5, None, value) };
        assert!(matches!(judged(&history(fenced(8), 8)), Verdict::Not(_)), "it came after all");
        assert_eq!(judged(&history(fenced(8), 7)), Verdict::Linearizable, "it never came");
        // Zeros were seen before anybody asked for these.
        assert_eq!(judged(&history(fenced(0), 7)), Verdict::Linearizable, "it never came");
    }

    #[test]
    fn what_met_a_reservation_never_happens() {
        let refused = Operation { refused: true, by: Some(10), ..write(5, None, 8) };
        let list = accesses(&[write(3, Some(4), 7), refused.clone(), look(11, 8)], 0, 3);
        assert!(list.iter().all(|access| access.operation != 1));
        assert!(matches!(judge(&list, 1_000), Verdict::Not(_)), "and yet it is seen");
        let list = accesses(&[write(3, Some(4), 7), refused, look(11, 7)], 0, 3);
        assert_eq!(judge(&list, 1_000), Verdict::Linearizable);
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

    #[test]
    fn a_swap_reads_and_writes_at_one_point() {
        assert!(fine(vec![w(1, 2, 7), s(3, 4, 7, 8), r(5, 6, 8)]));
        assert!(!fine(vec![w(1, 2, 7), s(3, 9, 7, 8), s(4, 8, 7, 9)]), "two took the same value");
        assert!(fine(vec![w(1, 2, 7), s(3, 9, 7, 8), s(4, 8, 8, 9)]));
        assert!(!fine(vec![w(1, 2, 7), w(3, 4, 8), s(5, 6, 7, 9)]), "an overwritten value matched");
        assert!(!fine(vec![w(1, 2, 7), not(3, 4, 7)]), "a miscompare with what was there");
        assert!(fine(vec![w(1, 2, 7), w(3, 9, 8), not(3, 4, 7), r(5, 6, 8)]));
        assert!(fine(vec![w(1, 9, 5), not(2, 3, 0), w(4, 5, 0), w(1, 9, 6), not(6, 7, 0)]), "one write each");
        assert!(!fine(vec![w(1, 9, 5), not(2, 3, 0), w(4, 5, 0), not(6, 7, 0)]), "one write for two");
    }

    /// Every history of three writes and three reads in small time, against trying all orders.
    #[test]
    fn agrees_with_trying_every_order() {
        let mut random = crate::random::Random::new(11);
        let (mut good, mut bad) = (0, 0);
        for _ in 0..6_000 {
            let mut list: Vec<Access> = Vec::new();
            let mut times: Vec<u64> = (1..=12).collect();
            for index in 0..6 {
                let mut take = || times.remove(random.below(times.len() as u64) as usize);
                let (x, y) = (take(), take());
                let value = random.below(3);
                let end = if random.one_in(8) { u64::MAX } else { x.max(y) };
                let op = match (index % 2, random.below(4)) {
                    (0, 0) => s(x.min(y), end, random.below(4), random.below(4)),
                    (0, _) => w(x.min(y), end, random.below(4)),
                    (_, 0) => not(x.min(y), x.max(y), value),
                    (_, _) => r(x.min(y), x.max(y), value),
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

    /// Those of unknown outcome need not happen.
    fn permute(list: &[Access], placed: u32, value: u64) -> bool {
        if (0..list.len()).all(|i| placed & (1 << i) != 0 || list[i].done == u64::MAX) {
            return true;
        }
        (0..list.len()).filter(|i| placed & (1 << i) == 0).any(|i| {
            let early =
                (0..list.len()).all(|j| placed & (1 << j) != 0 || list[j].done >= list[i].asked || i == j);
            let after = if list[i].writes() { list[i].value } else { value };
            early && list[i].fits(value) && permute(list, placed | 1 << i, after)
        })
    }
}
