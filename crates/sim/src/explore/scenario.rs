//! What is explored: who asks what, at which site, with which clocks and troubles.

use super::ask::Ask;
use biplex_engine::SiteId;
use biplex_engine::engine::{Mode, Rules};
use biplex_engine::stream::WINDOW_BYTES_MAX;

/// Everything that bounds an exploration.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it is about.
    pub name: String,
    /// Where each host asks, and what, one command after the other.
    pub hosts: Vec<(SiteId, Vec<Ask>)>,
    /// How many of each host's commands are done, host by host, before everything is tried.
    pub done: Vec<usize>,
    /// By how many milliseconds A's clock is ahead of B's.
    pub ahead: i64,
    /// The volume's rules.
    pub rules: Rules,
    /// Heartbeats that may come at any time, beside those without which nothing would go on.
    pub ticks: u8,
    /// How often the line is cut.
    pub cuts: u8,
    /// How often a site loses power.
    pub crashes: u8,
    /// Groups take time, and messages may also come together.
    pub fine: bool,
    /// As in [`biplex_engine::engine::Config`].
    pub window_bytes: u64,
}

/// A's clock ahead of B's, in milliseconds.
pub const CLOCKS: [i64; 3] = [0, 5, -5];

impl Scenario {
    /// Two hosts, one at each site, without trouble.
    pub fn new(name: &str, at_a: &[Ask], at_b: &[Ask]) -> Scenario {
        Scenario {
            name: name.to_owned(),
            hosts: vec![(SiteId::A, at_a.to_vec()), (SiteId::B, at_b.to_vec())],
            done: vec![0, 0],
            ahead: 0,
            rules: Rules::of(Mode::Sync),
            ticks: 0,
            cuts: 0,
            crashes: 0,
            fine: false,
            window_bytes: WINDOW_BYTES_MAX,
        }
    }

    /// The first commands of each host are done beforehand.
    pub fn after(mut self, done: &[usize]) -> Scenario {
        self.done = done.to_vec();
        self
    }

    /// With one host more.
    pub fn and(mut self, site: SiteId, asks: &[Ask]) -> Scenario {
        self.hosts.push((site, asks.to_vec()));
        self.done.push(0);
        self
    }

    /// With a trouble.
    pub fn with(&self, ticks: u8, cuts: u8, crashes: u8) -> Scenario {
        Scenario { ticks, cuts, crashes, ..self.clone() }
    }

    /// With groups that take time, and messages that may come together.
    pub fn finely(&self) -> Scenario {
        Scenario { fine: true, ..self.clone() }
    }

    /// Each site sends one entry ahead of what it knows to be off the line.
    pub fn narrow(mut self) -> Scenario {
        self.window_bytes = 1;
        self
    }

    /// On a volume that is not sync, which has COMPARE AND WRITE and undoes what a reservation forbids (E4.1).
    pub fn undoing(mut self) -> Scenario {
        self.rules = Rules { mode: Mode::Async, discard: true, swaps: true, disk: false };
        self
    }

    /// With these clocks.
    pub fn clocks(&self, ahead: i64) -> Scenario {
        Scenario { ahead, ..self.clone() }
    }
}

/// The scenarios that were thought out, without trouble and with equal clocks.
pub fn chosen() -> Vec<Scenario> {
    use Ask::*;
    let new = Scenario::new;
    vec![
        new("reserve x reserve", &[Reserve], &[Reserve]),
        new("hand-over", &[Reserve, Release], &[Reserve, Write(3, 2)]).after(&[1, 0]),
        new("hand-over with writes", &[Reserve, Write(3, 1), Release], &[Reserve, Read(3)]).after(&[1, 0]),
        new("reserve x write, read", &[Reserve, Write(3, 1)], &[Write(3, 2), Read(3)]),
        new("reserve, read x write", &[Reserve, Read(3)], &[Write(3, 2), Write(3, 4)]),
        new("overlapping extents", &[ReserveBlocks(0, 4), Write(3, 1)], &[ReserveBlocks(2, 4), Write(3, 2)]),
        new("disjoint extents", &[ReserveBlocks(0, 4), Write(3, 1)], &[ReserveBlocks(4, 4), Write(3, 2)]),
        new("unit x extents", &[Reserve, Write(3, 1)], &[ReserveBlocks(2, 4), ReleaseBlocks]),
        new("reserve x reset", &[Reserve, Write(3, 1)], &[Reset, Write(3, 2)]),
        new("reserve x nexus lost", &[Reserve, Lost], &[Reserve, Write(3, 2)]),
        // What follows a nexus that is lost waits behind its reserve, which the peer acks only when it has sent the same.
        new("narrow: reserve, lost x reserve, lost", &[Reserve, Lost], &[Reserve, Lost]).narrow(),
        new("held x leave", &[Reserve, Leave], &[Reserve, Read(3)]).after(&[1, 0]),
        new("register, hold x register, hold", &[Register(1), Hold(1)], &[Register(2), Hold(2)]),
        registered("hold, write x hold, write", &[Hold(1), Write(3, 1)], &[Hold(2), Write(3, 2)]),
        registered("crossed preempts", &[Preempt(1, 2), Hold(1)], &[Preempt(2, 1), Hold(2)]),
        holding("preempt of the holder x its write", &[Write(3, 1)], &[Preempt(2, 1), Write(3, 2)]),
        holding("unregister x preempt", &[Unregister(1)], &[Preempt(2, 1), Hold(2)]),
        registered("register x clear", &[Register(3), Hold(3)], &[Clear(2)]),
        holding("drop x hold", &[Drop(1)], &[Hold(2), Write(3, 2)]),
        new("reserve x register", &[Reserve, Release], &[Register(2), Hold(2)]),
        new("swap x swap", &[Swap(3, 0, 1), Read(3)], &[Swap(3, 0, 2), Read(3)]),
        new("swap x write", &[Swap(3, 0, 1), Read(3)], &[Write(3, 2), Read(3)]),
        new("swap x write, swap", &[Swap(3, 0, 1)], &[Write(3, 2), Swap(3, 2, 4)]),
        new("swap x read, read", &[Swap(3, 0, 1), Swap(3, 1, 5)], &[Read(3), Read(3)]),
        new("write x write", &[Write(3, 1), Read(3)], &[Write(3, 2), Read(3)]),
        new("swap, reserve x write", &[Swap(3, 0, 1), Reserve], &[Write(3, 2), Read(3)]),
        new("reserve x swap", &[Reserve, Read(3)], &[Swap(3, 0, 2), Swap(3, 2, 4)]),
        new("undone: reserve x write", &[Reserve, Write(3, 1)], &[Write(3, 2), Write(3, 4)]).undoing(),
        new("undone: reserve x swap", &[Reserve, Release], &[Write(3, 2), Swap(3, 2, 4)]).undoing(),
    ]
}

/// Both hosts are registered, with the keys 1 and 2.
fn registered(name: &str, at_a: &[Ask], at_b: &[Ask]) -> Scenario {
    let (a, b) = ([&[Ask::Register(1)], at_a].concat(), [&[Ask::Register(2)], at_b].concat());
    Scenario::new(name, &a, &b).after(&[1, 1])
}

/// And the one at A holds.
fn holding(name: &str, at_a: &[Ask], at_b: &[Ask]) -> Scenario {
    let (a, b) = ([&[Ask::Register(1), Ask::Hold(1)], at_a].concat(), [&[Ask::Register(2)], at_b].concat());
    Scenario::new(name, &a, &b).after(&[2, 1])
}

/// With one host more: who sees what is not committed yet.
pub fn crowded() -> Vec<Scenario> {
    use Ask::*;
    let new = Scenario::new;
    let (a, b) = (SiteId::A, SiteId::B);
    vec![
        new("write, read x read", &[Write(3, 1)], &[Read(3)]).and(a, &[Read(3)]),
        new("swap, read x read", &[Swap(3, 0, 1)], &[Read(3)]).and(a, &[Read(3)]),
        new("three reserves", &[Reserve], &[Reserve]).and(b, &[Reserve]),
        new("reserve x write x write", &[Reserve, Write(3, 1)], &[Write(3, 2)]).and(b, &[Write(3, 4)]),
        new("hand-over to two", &[Reserve, Release], &[Reserve]).after(&[1, 0]).and(b, &[Reserve]),
        new("swap x write x read", &[Swap(3, 0, 1)], &[Write(3, 2)]).and(b, &[Read(3), Read(3)]),
        new("swap x swap x read", &[Swap(3, 0, 1)], &[Swap(3, 1, 2)]).and(b, &[Read(3), Read(3)]),
    ]
}

/// Long programs of two hosts.
pub fn long() -> Vec<Scenario> {
    use Ask::*;
    let new = Scenario::new;
    vec![
        new(
            "reserve, write, release twice",
            &[Reserve, Write(3, 1), Release],
            &[Reserve, Write(3, 2), Release],
        ),
        new(
            "register, hold, write twice",
            &[Register(1), Hold(1), Write(3, 1)],
            &[Register(2), Hold(2), Write(3, 2)],
        ),
        new(
            "register, preempt, hold twice",
            &[Register(1), Preempt(1, 2), Hold(1)],
            &[Register(2), Preempt(2, 1), Hold(2)],
        ),
        new(
            "swaps and writes",
            &[Swap(3, 0, 1), Swap(3, 1, 5), Read(3)],
            &[Swap(3, 0, 2), Write(3, 4), Read(3)],
        ),
    ]
}

/// What each host may ask, in the pairs.
fn alphabet(own: u8, other: u8) -> [Vec<Ask>; 2] {
    use Ask::*;
    let plain = vec![
        Reserve,
        Release,
        ReserveBlocks(2, 4),
        Write(3, own),
        Read(3),
        Swap(3, 0, own + 4),
        Swap(3, other, own + 6),
        Reset,
    ];
    let persistent = vec![
        Hold(own),
        Drop(own),
        Preempt(own, other),
        Unregister(own),
        Register(own + 2),
        Clear(own),
        Write(3, own),
    ];
    [plain, persistent]
}

/// Every program of `at_a` commands of the alphabet against every one of `at_b`; of PERSISTENT RESERVE OUT both are
/// registered.
pub fn pairs(at_a: usize, at_b: usize) -> Vec<Scenario> {
    let ([plain_a, held_a], [plain_b, held_b]) = (alphabet(1, 2), alphabet(2, 1));
    let mut all = Vec::new();
    for a in programs(&plain_a, at_a) {
        for b in programs(&plain_b, at_b) {
            all.push(Scenario::new(&format!("{a:?} x {b:?}"), &a, &b));
        }
    }
    for a in programs(&held_a, at_a) {
        for b in programs(&held_b, at_b) {
            all.push(registered(&format!("registered, {a:?} x {b:?}"), &a, &b));
        }
    }
    all
}

fn programs(alphabet: &[Ask], length: usize) -> Vec<Vec<Ask>> {
    (0..length).fold(vec![vec![]], |programs, _| {
        let longer =
            |program: Vec<Ask>| alphabet.iter().map(move |ask| [program.clone(), vec![*ask]].concat());
        programs.into_iter().flat_map(longer).collect()
    })
}

/// What the tests explore.
pub fn small() -> Vec<Scenario> {
    let mut all = Vec::new();
    for scenario in chosen().into_iter().chain(crowded()) {
        all.extend(CLOCKS.map(|ahead| scenario.clocks(ahead)));
    }
    all.extend(pairs(1, 1));
    // The line breaks, or a site, where it matters most.
    let of = |name: &str| chosen().into_iter().filter(|s| s.name == name).collect::<Vec<Scenario>>();
    all.extend(of("hand-over").iter().map(|s| s.clocks(5).with(0, 1, 0)));
    all.extend(of("hand-over").iter().map(|s| s.with(0, 0, 1)));
    all.extend(of("reserve x reserve").iter().map(|s| s.with(0, 0, 1)));
    all.extend(of("reserve x reserve").iter().map(|s| s.with(1, 0, 0).finely()));
    all
}

/// What there is beyond that: everything with every clock and trouble, and all pairs of programs of two commands.
pub fn large() -> Vec<Scenario> {
    let mut all = Vec::new();
    for scenario in chosen().into_iter().chain(crowded()).chain(long()) {
        for ahead in CLOCKS {
            let clocks = scenario.clocks(ahead);
            all.push(clocks.clone());
            all.push(clocks.finely());
            all.push(clocks.with(1, 0, 0));
            all.push(clocks.with(0, 1, 0));
            all.push(clocks.with(0, 0, 1));
        }
    }
    for scenario in pairs(1, 1) {
        all.push(scenario.with(0, 1, 0).finely());
        all.push(scenario.with(0, 0, 1));
    }
    for scenario in pairs(2, 2) {
        all.extend(CLOCKS.map(|ahead| scenario.clocks(ahead)));
    }
    all
}
