//! Explores the small state space exhaustively: every order in which a handful of commands, messages, journal groups and
//! comparisons can happen, through two real engines.
//!
//! ```text
//! scenario ─▶ world ─▶ every step that is possible ─▶ world … (each state once, breadth first) ─▶ over: settled, judged
//! ```
//! Nothing is modelled but what surrounds the engines ([`replica`]). In every state reached: [`Engine::check`] at both
//! sites, what was decided under a stamp is the same at both, and what hosts were told can be explained ([`history`]). In
//! every state with all answered: both come to rest, and know the same. A state in which nothing can happen and somebody
//! still waits is an error too. Breadth first, so the trace of an error is a shortest one.
//!
//! Bounds: hosts and commands of the scenario; one message is delivered at a time; a group makes all durable that was
//! appended (in scenarios that are `fine` messages may come together, and groups take time); heartbeats only where nothing
//! else can happen, and a few times more; one cut or one crash; nothing is destaged; the daemon's part in an abort is left
//! out.
//!
//! [`Engine::check`]: biplex_engine::Engine::check

pub mod ask;
pub mod history;
pub mod replica;
pub mod scenario;
pub mod world;

use biplex_engine::Body;
use biplex_engine::engine::Mode;
use biplex_engine::message::{Ack, Message};
use biplex_engine::mutant::{Mutant, plant};
use history::{Command, Stand};
use replica::Replicas;
use scenario::Scenario;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use world::{Step, World};

/// More states than any scenario has.
pub const STATES_MAX: usize = 5_000_000;
/// With nothing else to do, so many heartbeats in a row must bring something.
const QUIET_MAX: u8 = 6;

/// What an exploration found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// States of the pair and its hosts, each one different.
    pub states: usize,
    /// Steps between them.
    pub steps: usize,
    /// States in which all was over.
    pub ends: usize,
    /// The longest of the shortest ways to a state.
    pub depth: usize,
    /// Different states of an engine.
    pub engines: usize,
    /// Whether there was more than the limit of states.
    pub cut_off: bool,
    /// What must not be, and a shortest way to it.
    pub violation: Option<Violation>,
}

/// Something that must not be.
#[derive(Clone, Debug)]
pub struct Violation {
    /// What.
    pub what: String,
    /// How it came to that, from the scenario's beginning.
    pub trace: Vec<String>,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.what)?;
        self.trace.iter().enumerate().try_for_each(|(n, line)| writeln!(f, "  {:>3} {line}", n + 1))
    }
}

struct Explorer<'a> {
    scenario: &'a Scenario,
    replicas: Replicas,
    /// How each state was first reached.
    from: Vec<(u32, Step)>,
    seen: BTreeSet<u128>,
    judged: BTreeMap<u128, Result<(), String>>,
    report: Report,
}

/// Planted bugs that an exploration must find, and the scenario that shows each.
pub const PLANTED: [(Mutant, &str); 9] = [
    (Mutant::GrantBeforeAck, "reserve x reserve"),
    (Mutant::AckBeforeExecuted, "swap, reserve x write"),
    (Mutant::WindowByExecuted, "narrow: reserve, lost x reserve, lost"),
    (Mutant::SkipRetry, "hand-over"),
    (Mutant::NewerReserveWins, "reserve x reserve"),
    (Mutant::JudgeNewest, "swap x write"),
    (Mutant::ShowSwapEarly, "swap, read x read"),
    (Mutant::ShowPendingWrite, "write, read x read"),
    (Mutant::CompleteBeforeAck, "write x write"),
];

/// Explores a scenario with every clock while a bug is planted, until it shows.
pub fn chase(mutant: Mutant, name: &str) -> Option<(Scenario, Violation)> {
    plant(Some(mutant));
    let scenarios = scenario::chosen().into_iter().chain(scenario::crowded()).filter(|s| s.name == name);
    let mut all = scenarios.flat_map(|s| scenario::CLOCKS.map(|ahead| s.clocks(ahead).with(1, 0, 0)));
    let found = all.find_map(|s| explore(&s, STATES_MAX).violation.map(|violation| (s, violation)));
    plant(None);
    found
}

/// Tries everything, within so many states.
pub fn explore(scenario: &Scenario, states_max: usize) -> Report {
    let mut explorer = Explorer {
        scenario,
        replicas: Replicas::default(),
        from: Vec::new(),
        seen: BTreeSet::new(),
        judged: BTreeMap::new(),
        report: Report::default(),
    };
    match World::new(scenario, &mut explorer.replicas) {
        Ok(world) => explorer.run(world, states_max),
        Err(what) => explorer.report.violation = Some(Violation { what, trace: vec![] }),
    }
    explorer.report.states = explorer.from.len();
    explorer.report.engines = explorer.replicas.states.count();
    explorer.report
}

impl Explorer<'_> {
    fn run(&mut self, first: World, states_max: usize) {
        let mut open = VecDeque::new();
        self.from.push((u32::MAX, Step::Tick));
        open.push_back((0u32, 0usize, first));
        while let Some((number, depth, world)) = open.pop_front() {
            self.report.depth = self.report.depth.max(depth);
            let mut steps = world.steps(self.scenario);
            let breaks = |step: &Step| step.breaks();
            let calm = steps.iter().all(breaks);
            if world.all_answered() && (calm || !steps.iter().any(breaks)) {
                // Over: what is still under way is let come to rest; it may only break.
                self.report.ends += 1;
                if let Err(what) = self.end(&world) {
                    return self.violated(what, number, None);
                }
                steps.retain(breaks);
            } else if calm {
                if world.quiet >= QUIET_MAX {
                    return self.violated(waits(&world), number, None);
                }
                steps.push(Step::Tick);
            }
            for step in steps {
                self.report.steps += 1;
                let mut after = world.clone();
                let taken = after.take(self.scenario, &mut self.replicas, step);
                if let Err(what) = taken.and_then(|()| self.told(&world, &after)) {
                    return self.violated(what, number, Some(step));
                }
                if !self.seen.insert(mark(&after)) {
                    continue;
                }
                if self.from.len() >= states_max {
                    self.report.cut_off = true;
                    return;
                }
                let next = self.from.len() as u32;
                self.from.push((number, step));
                open.push_back((next, depth + 1, after));
            }
        }
    }

    /// Judges what hosts were told, if that is news.
    fn told(&mut self, before: &World, after: &World) -> Result<(), String> {
        if before.commands == after.commands {
            return Ok(());
        }
        let key = mark(&(&after.commands, after.hurt));
        let sync = self.scenario.rules.mode == Mode::Sync;
        if let Some(known) = self.judged.get(&key) {
            return known.clone();
        }
        let judged = history::judge(&after.commands, after.hurt, sync);
        self.judged.insert(key, judged.clone());
        judged
    }

    fn end(&mut self, world: &World) -> Result<(), String> {
        let mut last = world.clone();
        last.settle(self.scenario, &mut self.replicas)?;
        last.rest(&self.replicas)
    }

    fn violated(&mut self, what: String, mut number: u32, last: Option<Step>) {
        let mut steps: Vec<Step> = last.into_iter().collect();
        while let Some((from, step)) = self.from.get(number as usize).filter(|(from, _)| *from != u32::MAX) {
            steps.push(*step);
            number = *from;
        }
        steps.reverse();
        let trace = self.tell(&steps);
        self.report.violation = Some(Violation { what, trace });
    }

    /// Walks the way again, and says what happened.
    fn tell(&mut self, steps: &[Step]) -> Vec<String> {
        let Ok(mut world) = World::new(self.scenario, &mut self.replicas) else { return vec![] };
        let mut lines = Vec::new();
        for step in steps {
            let before = world.clone();
            let happened = match step {
                Step::Ask(host) => {
                    let next = before.commands.iter().find(|c| c.host == *host && c.stand == Stand::Waits);
                    next.map_or(String::new(), |c| {
                        format!("host {host} asks {:?} at {}", c.ask, c.nexus.site)
                    })
                }
                Step::Deliver(site) => {
                    let message = before.wires[site.index()].first();
                    let text = message.map(|number| brief(self.replicas.messages.get(*number)));
                    format!("{site} gets {}", text.unwrap_or_default())
                }
                other => format!("{other:?}"),
            };
            let result = world.take(self.scenario, &mut self.replicas, *step);
            let news: Vec<String> = world
                .commands
                .iter()
                .zip(&before.commands)
                .filter(|(now, was)| now.stand != was.stand && now.stand != Stand::Open)
                .map(|(c, _)| news(c))
                .collect();
            lines.push([vec![happened], news].concat().join("; "));
            if result.is_err() {
                break;
            }
        }
        lines
    }
}

fn news(command: &Command) -> String {
    let site = command.nexus.site;
    match command.stand {
        Stand::Told(told) => {
            format!("{:?} of {} at {site} is told {told:?}", command.ask, command.nexus.host.0)
        }
        Stand::Waits | Stand::Open | Stand::Lost => format!("{:?} at {site} is lost", command.ask),
    }
}

fn brief(message: &Message) -> String {
    let ack = |ack: &Ack| {
        let Ack { durable, taken, promise, resumed, destaged: _ } = ack;
        format!("durable {durable}, taken {taken}, promise {promise}, in step {resumed}")
    };
    match message {
        Message::Hello(hello) => {
            format!("Hello: run {}, has {} and {}", hello.run, hello.have[0], hello.have[1])
        }
        Message::Entry(entry) => {
            let what = match &entry.body {
                Body::Data(bytes) => format!("write of {}", bytes.first().unwrap_or(&0)),
                Body::Swap(bytes) => format!("swap from {}", bytes.first().unwrap_or(&0)),
                Body::Control(request) => request.name().to_owned(),
                other => format!("{other:?}"),
            };
            format!("Entry {}: {what} at {} by {}", entry.stamp, entry.extent, entry.nexus())
        }
        Message::Ack(told) => format!("Ack: {}", ack(told)),
        Message::Ping(ping) => format!("Ping: {}", ack(&ping.ack)),
        Message::Pong(pong) => format!("Pong: in step {}", pong.in_step),
        other => format!("{other:?}"),
    }
}

fn waits(world: &World) -> String {
    let open = world.commands.iter().filter(|c| c.stand == Stand::Open);
    let open: Vec<String> = open.map(|c| format!("{:?} at {}", c.ask, c.nexus.site)).collect();
    format!("nothing happens any more, and nobody answers {}", open.join(", "))
}

fn mark(thing: &impl Hash) -> u128 {
    let hash = |seed: u64| {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(seed);
        thing.hash(&mut hasher);
        hasher.finish()
    };
    u128::from(hash(1)) << 64 | u128::from(hash(2))
}
