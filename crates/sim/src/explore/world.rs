//! The pair and its hosts at one moment, and what may happen next.

use super::ask::{Ask, Told, VOLUME, nexus};
use super::history::{Command, Stand};
use super::replica::{Fact, Order, Replicas, TICK};
use super::scenario::Scenario;
use biplex_engine::engine::Checkpoint;
use biplex_engine::*;
use std::collections::BTreeMap;

const MS: u64 = 1_000_000;

/// Something that may happen next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Step {
    /// A host asks its next command.
    Ask(usize),
    /// The oldest message on the line to this site arrives.
    Deliver(SiteId),
    /// All messages on the line to this site arrive together.
    DeliverAll(SiteId),
    /// This site begins to write a group with all that it has appended.
    Group(SiteId),
    /// That group, or where groups are not told apart all that this site has appended, becomes durable.
    Durable(SiteId),
    /// The blocks that this site wanted to compare are read.
    Judged(SiteId),
    /// So much time passes that heartbeats are due.
    Tick,
    /// The line breaks; what was on it is lost.
    Cut,
    /// The line stands again.
    Connect,
    /// A site loses power, and is started again.
    Crash(SiteId),
    /// The same, at the moment at which its group is durable and it does not know yet.
    CrashLate(SiteId),
}

impl Step {
    /// Whether something breaks.
    pub fn breaks(self) -> bool {
        match self {
            Step::Cut | Step::Crash(_) | Step::CrashLate(_) => true,
            Step::Ask(_)
            | Step::Deliver(_)
            | Step::DeliverAll(_)
            | Step::Group(_)
            | Step::Durable(_)
            | Step::Judged(_)
            | Step::Tick
            | Step::Connect => false,
        }
    }
}

/// A state of everything.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct World {
    /// The engines, by number.
    pub engines: [u32; 2],
    /// Messages on the way to A and to B.
    pub wires: [Vec<u32>; 2],
    line: bool,
    /// Entries in each journal, how many of them are durable, and the newest durable checkpoint.
    journals: [Vec<u32>; 2],
    durable: [usize; 2],
    kept: [u32; 2],
    wants_group: [bool; 2],
    /// A group that is being written: length of the journal with it, appends of this run up to it, its checkpoint.
    writing: [Option<(usize, u64, u32)>; 2],
    judging: [Option<(Stamp, bool)>; 2],
    /// What was decided, by stamp, as the first site said it.
    decided: BTreeMap<Stamp, u32>,
    /// Commands of all hosts.
    pub commands: Vec<Command>,
    ticks: u64,
    ticks_left: u8,
    /// Ticks since a host asked, was answered, or something broke.
    pub quiet: u8,
    cuts_left: u8,
    crashes_left: u8,
    /// A crash or a cut happened.
    pub hurt: bool,
}

fn clock(scenario: &Scenario, site: SiteId, ticks: u64) -> Now {
    let ahead = match site {
        SiteId::A => scenario.ahead.max(0),
        SiteId::B => -scenario.ahead.min(0),
    };
    let passed = ticks * TICK;
    Now { wall: 1_000_000 * MS + ahead as u64 * MS + passed, mono: 5_000 * MS + passed }
}

impl World {
    /// Both sites started, met, and in step; the commands that are done beforehand are done.
    pub fn new(scenario: &Scenario, replicas: &mut Replicas) -> Result<World, String> {
        let mut commands = Vec::new();
        for (host, (site, asks)) in scenario.hosts.iter().enumerate() {
            let command = |ask: &Ask| Command {
                host,
                nexus: nexus(*site, host as u64 + 1),
                ask: *ask,
                stand: Stand::Waits,
                answered_before: 0,
                asked_before: 0,
            };
            commands.extend(asks.iter().map(command));
        }
        if scenario.crashes > 0 {
            // A site that loses power loses its nexuses.
            let gone = |(host, (site, _)): (usize, &(SiteId, Vec<Ask>))| Command {
                host: usize::MAX,
                nexus: nexus(*site, host as u64 + 1),
                ask: Ask::Lost,
                stand: Stand::Waits,
                answered_before: 0,
                asked_before: 0,
            };
            commands.extend(scenario.hosts.iter().enumerate().map(gone));
        }
        let fresh = Checkpoint {
            clock_ceiling: 0,
            destaged: Stamp::ZERO,
            resume_from: None,
            peer_journal: 0,
            run: 0,
        };
        let mut world = World {
            engines: [0; 2],
            wires: [vec![], vec![]],
            line: false,
            journals: [vec![], vec![]],
            durable: [0; 2],
            kept: [replicas.checkpoints.number(fresh); 2],
            wants_group: [false; 2],
            writing: [None; 2],
            judging: [None; 2],
            decided: BTreeMap::new(),
            commands,
            ticks: 0,
            ticks_left: 0,
            quiet: 0,
            cuts_left: 0,
            crashes_left: 0,
            hurt: false,
        };
        for site in SiteId::BOTH {
            world.start(scenario, replicas, site)?;
        }
        world.take(scenario, replicas, Step::Connect)?;
        world.settle(scenario, replicas)?;
        for (host, done) in scenario.done.iter().enumerate() {
            for _ in 0..*done {
                world.take(scenario, replicas, Step::Ask(host))?;
                world.settle(scenario, replicas)?;
            }
        }
        world.quiet = 0;
        (world.ticks_left, world.cuts_left, world.crashes_left) =
            (scenario.ticks, scenario.cuts, scenario.crashes);
        Ok(world)
    }

    /// Lets everything come to rest, in one order.
    pub fn settle(&mut self, scenario: &Scenario, replicas: &mut Replicas) -> Result<(), String> {
        for _ in 0..4 {
            while let Some(step) = self
                .steps(scenario)
                .into_iter()
                .find(|step| !matches!(step, Step::Ask(_) | Step::Tick) && !step.breaks())
            {
                self.take(scenario, replicas, step)?;
            }
            self.take(scenario, replicas, Step::Tick)?;
        }
        Ok(())
    }

    /// What may happen next.
    pub fn steps(&self, scenario: &Scenario) -> Vec<Step> {
        let mut steps = Vec::new();
        for host in 0..scenario.hosts.len() {
            steps.extend(self.next_ask(host).map(|_| Step::Ask(host)));
        }
        for site in SiteId::BOTH {
            let i = site.index();
            if !self.wires[i].is_empty() {
                steps.push(Step::Deliver(site));
            }
            if scenario.fine && self.wires[i].len() > 1 {
                steps.push(Step::DeliverAll(site));
            }
            if self.writing[i].is_some() {
                steps.push(Step::Durable(site));
            } else if self.durable[i] < self.journals[i].len() || self.wants_group[i] {
                steps.push(if scenario.fine { Step::Group(site) } else { Step::Durable(site) });
            }
            if self.judging[i].is_some() {
                steps.push(Step::Judged(site));
            }
        }
        if !self.line {
            steps.push(Step::Connect);
        }
        if self.ticks_left > 0 {
            steps.push(Step::Tick);
        }
        if self.cuts_left > 0 && self.line {
            steps.push(Step::Cut);
        }
        if self.crashes_left > 0 {
            for site in SiteId::BOTH {
                steps.push(Step::Crash(site));
                steps.extend(self.writing[site.index()].map(|_| Step::CrashLate(site)));
            }
        }
        steps
    }

    /// Whether all commands are answered, or nobody waits for them any more.
    pub fn all_answered(&self) -> bool {
        let over = |c: &Command| matches!(c.stand, Stand::Told(_) | Stand::Lost) || c.host == usize::MAX;
        self.commands.iter().all(over)
    }

    /// A host asks when it was answered, or whenever its nexus is lost.
    fn next_ask(&self, host: usize) -> Option<usize> {
        let mut own = self.commands.iter().enumerate().filter(|(_, c)| c.host == host);
        let (at, next) = own.find(|(_, c)| c.stand == Stand::Waits)?;
        let open = self.commands.iter().any(|c| c.host == host && c.stand == Stand::Open);
        (!open || next.ask == Ask::Lost).then_some(at)
    }

    fn mask(&self, of: impl Fn(&Command) -> bool) -> u32 {
        self.commands.iter().enumerate().filter(|(_, c)| of(c)).map(|(at, _)| 1 << at).sum()
    }

    fn asks(&mut self, at: usize, stand: Stand) {
        let answered = self.mask(|c| matches!(c.stand, Stand::Told(_)));
        let asked = self.mask(|c| c.stand != Stand::Waits);
        let Some(command) = self.commands.get_mut(at) else { return };
        command.stand = stand;
        command.answered_before = answered;
        if command.ask.is_reserve() {
            command.asked_before = asked;
        }
    }

    /// It happens. An error says what must not be.
    pub fn take(&mut self, scenario: &Scenario, replicas: &mut Replicas, step: Step) -> Result<(), String> {
        match step {
            Step::Ask(host) => {
                let Some(at) = self.next_ask(host) else { return Ok(()) };
                let (nexus, ask) = (self.commands[at].nexus, self.commands[at].ask);
                if ask == Ask::Lost {
                    self.lose(|c| c.host == host);
                }
                self.asks(at, if ask == Ask::Lost { Stand::Lost } else { Stand::Open });
                self.tell(scenario, replicas, nexus.site, Fact::Asked(nexus, ask, at as u64))?;
            }
            Step::Deliver(site) => {
                if !self.wires[site.index()].is_empty() {
                    let message = self.wires[site.index()].remove(0);
                    self.tell(scenario, replicas, site, Fact::Message(message))?;
                }
            }
            Step::DeliverAll(site) => {
                for message in std::mem::take(&mut self.wires[site.index()]) {
                    self.tell(scenario, replicas, site, Fact::Message(message))?;
                }
            }
            Step::Group(site) => self.group(scenario, replicas, site)?,
            Step::Durable(site) => {
                if self.writing[site.index()].is_none() {
                    self.group(scenario, replicas, site)?;
                }
                if let Some((length, upto, checkpoint)) = self.writing[site.index()].take() {
                    (self.durable[site.index()], self.kept[site.index()]) = (length, checkpoint);
                    self.tell(scenario, replicas, site, Fact::Durable(upto, checkpoint))?;
                }
            }
            Step::Judged(site) => {
                if let Some((stamp, differs)) = self.judging[site.index()].take() {
                    self.tell(scenario, replicas, site, Fact::Judged(stamp, differs))?;
                }
            }
            Step::Tick => {
                self.ticks += 1;
                self.ticks_left = self.ticks_left.saturating_sub(1);
                for site in SiteId::BOTH {
                    self.tell(scenario, replicas, site, Fact::Tick)?;
                }
            }
            Step::Cut => {
                self.cuts_left -= 1;
                self.cut(scenario, replicas)?;
            }
            Step::Connect => {
                self.line = true;
                for site in SiteId::BOTH {
                    self.tell(scenario, replicas, site, Fact::Connected)?;
                }
            }
            Step::Crash(site) | Step::CrashLate(site) => {
                if let (Step::CrashLate(_), Some((length, _, checkpoint))) =
                    (step, self.writing[site.index()])
                {
                    (self.durable[site.index()], self.kept[site.index()]) = (length, checkpoint);
                }
                self.crashes_left -= 1;
                self.cut(scenario, replicas)?;
                self.crash(scenario, replicas, site)?;
            }
        }
        match step {
            Step::Tick => self.quiet += 1,
            Step::Ask(_) | Step::Connect => self.quiet = 0,
            Step::Cut | Step::Crash(_) | Step::CrashLate(_) => self.quiet = 0,
            Step::Deliver(_) | Step::DeliverAll(_) | Step::Group(_) | Step::Durable(_) | Step::Judged(_) => {}
        }
        Ok(())
    }

    fn group(&mut self, scenario: &Scenario, replicas: &mut Replicas, site: SiteId) -> Result<(), String> {
        self.wants_group[site.index()] = false;
        self.tell(scenario, replicas, site, Fact::Group)
    }

    fn cut(&mut self, scenario: &Scenario, replicas: &mut Replicas) -> Result<(), String> {
        (self.line, self.hurt) = (false, true);
        self.wires = [vec![], vec![]];
        for site in SiteId::BOTH {
            self.tell(scenario, replicas, site, Fact::Closed)?;
        }
        Ok(())
    }

    fn crash(&mut self, scenario: &Scenario, replicas: &mut Replicas, site: SiteId) -> Result<(), String> {
        let i = site.index();
        self.lose(|c| c.nexus.site == site);
        let gone = (0..self.commands.len())
            .filter(|at| self.commands[*at].host == usize::MAX && self.commands[*at].nexus.site == site);
        for at in gone.collect::<Vec<usize>>() {
            self.asks(at, Stand::Lost);
        }
        self.journals[i].truncate(self.durable[i]);
        self.judging[i] = None;
        self.writing[i] = None;
        self.start(scenario, replicas, site)
    }

    /// Nobody waits for these any more.
    fn lose(&mut self, whose: impl Fn(&Command) -> bool) {
        for command in self.commands.iter_mut().filter(|c| c.stand == Stand::Open && whose(c)) {
            command.stand = Stand::Lost;
        }
    }

    fn start(&mut self, scenario: &Scenario, replicas: &mut Replicas, site: SiteId) -> Result<(), String> {
        let i = site.index();
        let now = clock(scenario, site, self.ticks);
        let checkpoint = *replicas.checkpoints.get(self.kept[i]);
        let entries: Vec<u32> = self.journals[i].clone();
        let (engine, orders) = replicas.start(now, site, scenario, checkpoint, &entries);
        self.engines[i] = engine;
        self.follow(replicas, site, orders)
    }

    fn tell(
        &mut self,
        scenario: &Scenario,
        replicas: &mut Replicas,
        site: SiteId,
        fact: Fact,
    ) -> Result<(), String> {
        let now = clock(scenario, site, self.ticks);
        let (engine, orders) = replicas.step(self.engines[site.index()], fact, now);
        self.engines[site.index()] = engine;
        self.follow(replicas, site, orders)
    }

    fn follow(&mut self, replicas: &Replicas, site: SiteId, orders: Vec<Order>) -> Result<(), String> {
        let i = site.index();
        if let Some(why) = replicas.broken.get(&self.engines[i]) {
            return Err(format!("Engine::check at {site}: {why}"));
        }
        for order in orders {
            match order {
                Order::Send(message) if self.line => self.wires[site.peer().index()].push(message),
                Order::Send(_) => {}
                Order::Append(entry) => self.journals[i].push(entry),
                Order::Group(upto, checkpoint) => {
                    self.writing[i] = Some((self.journals[i].len(), upto, checkpoint));
                }
                Order::Checkpoint => self.wants_group[i] = true,
                Order::Answer(op, told) => self.answer(op as usize, told)?,
                Order::Judge(stamp, differs) => {
                    self.judging[i] = Some((stamp, differs));
                    self.decide(replicas, site, stamp, u32::MAX - u32::from(differs))?;
                }
                Order::Decided(stamp, text) => self.decide(replicas, site, stamp, text)?,
                Order::Close(why) => {
                    return Err(format!("site {site} wants the line closed: {}", replicas.texts.get(why)));
                }
            }
        }
        Ok(())
    }

    fn decide(&mut self, replicas: &Replicas, site: SiteId, stamp: Stamp, how: u32) -> Result<(), String> {
        let first = *self.decided.entry(stamp).or_insert(how);
        if first == how {
            return Ok(());
        }
        let tell = |how: u32| match u32::MAX - how {
            0 => "the swap matched".to_owned(),
            1 => "the swap did not match".to_owned(),
            _ => replicas.texts.get(how).clone(),
        };
        Err(format!("site {site} decided {stamp} otherwise than before: {} and {}", tell(how), tell(first)))
    }

    fn answer(&mut self, at: usize, told: Told) -> Result<(), String> {
        let Some(command) = self.commands.get_mut(at) else { return Ok(()) };
        match command.stand {
            Stand::Open => (command.stand, self.quiet) = (Stand::Told(told), 0),
            Stand::Lost => {}
            Stand::Told(_) | Stand::Waits => {
                return Err(format!("command {at} was answered twice, or before it was asked"));
            }
        }
        Ok(())
    }

    /// Nothing is under way: whether both sites know the same.
    pub fn rest(&self, replicas: &Replicas) -> Result<(), String> {
        let [a, b] = self.engines.map(|number| &replicas.states.get(number).engine);
        if !(a.decided(VOLUME) && b.decided(VOLUME)) {
            return Err("at rest something is not decided".into());
        }
        if a.reservations(VOLUME) != b.reservations(VOLUME) {
            return Err(format!(
                "at rest the tables differ: {:?} and {:?}",
                a.reservations(VOLUME),
                b.reservations(VOLUME)
            ));
        }
        let rows = |engine: &Engine| -> Vec<(Stamp, Extent)> {
            engine.rows().iter().map(|row| (row.stamp, row.extent)).collect()
        };
        if rows(a) != rows(b) {
            return Err("at rest the hold tables differ".into());
        }
        for command in self.commands.iter().filter(|c| matches!(c.ask, Ask::Lost) && c.stand == Stand::Lost) {
            let again = self.commands.iter().any(|c| {
                c.nexus == command.nexus && c.ask.is_reserve() && c.stand == Stand::Told(Told::Good)
            });
            let after_crash = command.host == usize::MAX && again;
            if !after_crash && a.reservations(VOLUME).is_some_and(|state| state.holds(command.nexus)) {
                return Err(format!("at rest the lost nexus {} still holds the unit", command.nexus));
            }
        }
        Ok(())
    }
}
