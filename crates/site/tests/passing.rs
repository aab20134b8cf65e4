//! Two sites whose units keep the reservations (E5.1, E5.2), in random orders of everything that can come in another
//! order: the line, each connection with each unit, and time; with units that lose all their connections.

mod back_to_back;

use back_to_back::{Lane, MS, Pair, SECOND, nexus, register, write};
use biplex_engine::reserve::{Claim, ExtentKind, Extents, PersistentKind, Request, Verdict};
use biplex_engine::{Extent, HostId, Lba, Nexus, SiteId};
use biplex_front::{Command, Completion, Failure, TaskId};
use biplex_site::{Mode, Rules};
use std::collections::BTreeMap;

const KIND: PersistentKind = PersistentKind::WriteExclusive;

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}

/// How hosts reserve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Whole,
    Persistent,
    Extents,
}

/// Extents that a host was told it has.
#[derive(Clone, Copy, Debug)]
struct Told {
    claim: Claim,
    third_party: Option<HostId>,
    /// In which step.
    step: u64,
}

impl Told {
    /// Whether it keeps a host from reading or writing a block.
    fn keeps_out(&self, owner: Nexus, host: Nexus, lba: Lba, writes: bool) -> bool {
        let holds = self.third_party.map_or(owner == host, |party| party == host.host);
        self.claim.extent.contains(back_to_back::block(lba.0))
            && match self.claim.kind {
                ExtentKind::ReadShared => writes,
                ExtentKind::WriteExclusive => writes && !holds,
                ExtentKind::ReadExclusive => !writes && !holds,
                ExtentKind::ExclusiveAccess => !holds,
            }
    }

    /// Whether it and another owner's cannot both stand.
    fn excludes(&self, other: Claim) -> bool {
        use ExtentKind::{ReadExclusive, ReadShared, WriteExclusive};
        let together = matches!(
            (self.claim.kind, other.kind),
            (ReadShared, ReadShared) | (WriteExclusive, ReadExclusive) | (ReadExclusive, WriteExclusive)
        );
        self.claim.extent.overlaps(other.extent) && !together
    }
}

struct Play {
    pair: Pair,
    random: Random,
    hosts: [Nexus; 4],
    step: u64,
    /// Asked and not answered: who, what, when.
    asked: BTreeMap<TaskId, (Nexus, Command, u64)>,
    /// Who was told that it reserved the unit, and when; none once anybody asked for what may end that.
    holder: Option<(Nexus, u64)>,
    /// The last step in which something was asked, or happened, that may end a reservation.
    ended: u64,
    /// Extents by owner and id, as long as nobody has asked for what may end them.
    told: BTreeMap<(Nexus, u8), Told>,
    /// What was asked last for an owner and id: nothing that was asked before says any more what stands.
    last: BTreeMap<(Nexus, u8), TaskId>,
    counts: BTreeMap<&'static str, u32>,
}

impl Play {
    fn new(seed: u64, mode: Mode) -> Play {
        let (a, b) = (SiteId::A, SiteId::B);
        Play {
            pair: Pair::paired(Rules { disk: true, ..Rules::of(mode) }),
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            hosts: [nexus(a, 1), nexus(a, 2), nexus(b, 3), nexus(b, 4)],
            step: 0,
            asked: BTreeMap::new(),
            holder: None,
            ended: 0,
            told: BTreeMap::new(),
            last: BTreeMap::new(),
            counts: BTreeMap::new(),
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn ends(&mut self) {
        (self.holder, self.ended) = (None, self.step);
        self.told.clear();
    }

    fn ask(&mut self, host: Nexus, command: Command) {
        if let Command::Control { request } = &command {
            let may_end = match request {
                Request::Release { .. } | Request::ReleasePersistent { .. } => {
                    self.holder.is_none_or(|(holder, _)| holder == host)
                }
                Request::Clear { .. } | Request::Preempt { .. } | Request::Reset(_) => true,
                _ => false,
            };
            if may_end {
                self.ends();
            }
        }
        let task = self.pair.submit(host, command.clone());
        let id = match &command {
            Command::Control { request: Request::Reserve { extents: Some(extents), .. } } => Some(extents.id),
            Command::Control { request: Request::Release { extents, .. } } => *extents,
            _ => None,
        };
        if let Some(id) = id {
            self.told.remove(&(host, id));
            self.last.insert((host, id), task);
        }
        self.asked.insert(task, (host, command, self.step));
    }

    /// Takes the answers, and judges those that a reservation bears on.
    fn hear(&mut self) {
        for index in 0..2 {
            for (task, completion) in std::mem::take(&mut self.pair.places[index].answers) {
                let (host, command, since) = self.asked.remove(&task).expect("asked, and answered once");
                let reserves = matches!(
                    command,
                    Command::Control { request: Request::Reserve { .. } | Request::ReservePersistent { .. } }
                );
                self.judge_extents(task, host, &command, since, &completion);
                let whole = !matches!(
                    command,
                    Command::Control { request: Request::Reserve { extents: Some(_), .. } }
                );
                match completion {
                    Completion::Verdict(Verdict::Done) if reserves && !whole => self.count("granted"),
                    Completion::Verdict(Verdict::Done) if reserves => {
                        self.count("granted");
                        // One that was asked before may have been granted before, and be over.
                        if let Some((holder, told)) = self.holder
                            && holder != host
                            && told < since
                        {
                            let words = self.words();
                            panic!(
                                "step {}: {host} was granted what {holder} holds since step {told}\n{words}",
                                self.step
                            );
                        }
                        // What may have ended it was perhaps executed after it.
                        if since > self.ended {
                            self.holder.get_or_insert((host, self.step));
                        }
                    }
                    Completion::Done if matches!(command, Command::Write { .. }) => {
                        self.count("written");
                        if let Some((holder, told)) = self.holder
                            && holder != host
                            && told < since
                        {
                            panic!("step {}: {host} wrote what {holder} holds since step {told}", self.step);
                        }
                    }
                    Completion::Failed(Failure::Conflict) | Completion::Verdict(Verdict::Conflict) => {
                        self.count("kept out");
                    }
                    _ => self.count("other"),
                }
            }
        }
    }

    /// An answer against the extents that others were told they have.
    fn judge_extents(
        &mut self,
        task: TaskId,
        host: Nexus,
        command: &Command,
        since: u64,
        completion: &Completion,
    ) {
        let (extent, writes) = match (command, completion) {
            (Command::Write { extent, .. }, Completion::Done) => (*extent, true),
            (Command::Read { extent, .. }, Completion::Data(_)) => (*extent, false),
            (Command::Control { request }, Completion::Verdict(Verdict::Done)) => {
                let Request::Reserve { third_party, extents: Some(extents) } = request else { return };
                let claim = extents.claims[0];
                for ((owner, id), told) in &self.told {
                    let stands = *owner != host && told.step < since && told.excludes(claim);
                    assert!(
                        !stands,
                        "{host} was granted {claim:?} against {told:?}, {owner}, {id}\n{}",
                        self.words()
                    );
                }
                // What may have ended it was perhaps executed after it.
                if since > self.ended && self.last.get(&(host, extents.id)) == Some(&task) {
                    let told = Told { claim, third_party: *third_party, step: self.step };
                    self.told.insert((host, extents.id), told);
                }
                return;
            }
            _ => return,
        };
        for ((owner, id), told) in &self.told {
            let met = told.step < since && told.keeps_out(*owner, host, extent.start(), writes);
            assert!(
                !met,
                "{host} was let in to {extent:?}, writing: {writes}: {told:?}, {owner}, {id}\n{}",
                self.words()
            );
            if told.step < since {
                *self.counts.entry("beside extents").or_default() += 1;
            }
        }
    }

    /// The last words of both sites.
    fn words(&self) -> String {
        let of = |index: usize| {
            let all = &self.pair.places[index].notices;
            all[all.len().saturating_sub(20)..].join("\n  ")
        };
        format!("A:\n  {}\nB:\n  {}", of(0), of(1))
    }

    /// One extent of eight blocks, for who asks or for another.
    fn act_on_extents(&mut self, host: Nexus) {
        let (id, lba) = (self.random.below(2) as u8, self.random.below(8) as u64);
        let blocks = Extent::new(Lba(lba), 1 + self.random.below(3) as u64).expect("some blocks");
        let other = self.hosts[self.random.below(4)].host;
        let third_party = (self.random.below(4) == 0).then_some(other);
        let request = match self.random.below(8) {
            0 | 1 => {
                let claims = vec![Claim { kind: ExtentKind::ALL[self.random.below(4)], extent: blocks }];
                Request::Reserve { third_party, extents: Some(Extents { id, claims }) }
            }
            2 => Request::Release { third_party, extents: Some(id) },
            3..6 => return self.ask(host, write(lba, self.step as u8)),
            _ => return self.ask(host, Command::Read { extent: back_to_back::block(lba), fua: false }),
        };
        self.ask(host, Command::Control { request });
    }

    fn act(&mut self, way: Way) {
        let persistent = way == Way::Persistent;
        let host = self.hosts[self.random.below(4)];
        let key = host.host.0;
        let control = |request| Command::Control { request };
        let whole = || Request::Reserve { third_party: None, extents: None };
        let dice = match (way, self.random.below(100)) {
            // Extents stand for longer, so that there is something to be kept out of.
            (Way::Extents, 0..94) => return self.act_on_extents(host),
            (Way::Extents, 94..97) => 80,
            (Way::Extents, 97) => 88,
            (Way::Extents, _) => 99,
            (Way::Whole | Way::Persistent, dice) => dice,
        };
        match dice {
            0..25 => self.ask(host, write(host.host.0, self.step as u8)),
            25..50 if persistent => self.ask(host, control(Request::ReservePersistent { key, kind: KIND })),
            50..70 if persistent => self.ask(host, control(Request::ReleasePersistent { key, kind: KIND })),
            70..75 if persistent => {
                let victim = self.hosts[self.random.below(4)].host.0;
                self.ask(host, control(Request::Preempt { key, victim, kind: KIND, abort: false }));
            }
            75..90 if persistent => self.ask(host, control(register(key))),
            25..55 => self.ask(host, control(whole())),
            55..80 => self.ask(host, control(Request::Release { third_party: None, extents: None })),
            80..88 => {
                self.ends();
                self.pair.lose(host);
                self.count("hosts lost");
            }
            88..91 => {
                // What was asked before is under way meanwhile. Who reserved after this may lose it by this: so nobody does
                // until the pair has done with it.
                self.pair.drop_unit(self.random.below(2));
                self.pair.pass(3 * SECOND);
                self.ends();
                self.count("units lost");
            }
            _ => self.ask(host, Command::Flush),
        }
    }

    fn run(&mut self, way: Way, steps: u64) {
        for step in 1..=steps {
            self.step = step;
            match self.random.below(10) {
                0 if self.asked.len() < 12 => self.act(way),
                0..3 => self.pair.tick(MS / 10),
                _ => {
                    let lanes = self.pair.lanes();
                    match lanes.len() {
                        0 => self.act(way),
                        count => self.pair.deliver(lanes[self.random.below(count)]),
                    }
                }
            }
            self.hear();
        }
        // Everything arrives, and whoever waits for what will not come is told so.
        for _ in 0..60 {
            self.pair.pass(SECOND / 2);
            self.hear();
        }
    }

    /// At rest: all is answered, and what the one unit has of a nexus the other has as well.
    fn judge_rest(&self) {
        assert!(self.asked.is_empty(), "not answered: {:?}", self.asked);
        let has = |index: usize, site, host| {
            self.pair.places[index].array.as_ref().expect("a unit").has(site, host)
        };
        for host in self.hosts {
            // A request whose answer was lost with the unit's connection, and that nobody starts over: there is an alarm,
            // and what to do.
            let differs = |said: &String| {
                said.contains("the units differ over") && said.contains(&format!("by {host},"))
            };
            if self.pair.places.iter().any(|place| place.notices.iter().any(differs)) {
                continue;
            }
            let (a, b) = (has(0, SiteId::A, host), has(1, SiteId::B, host));
            assert_eq!(a, b, "{host}: at A and at B: by SCSI-2, persistent, key\n{}", self.words());
            let extents = |index: usize, site| {
                let array = self.pair.places[index].array.as_ref().expect("a unit");
                array.extents_of(site, host, &self.hosts)
            };
            let (a, b) = (extents(0, SiteId::A), extents(1, SiteId::B));
            assert_eq!(a, b, "{host}: extents at A and at B\n{}", self.words());
        }
    }
}

fn sweep(way: Way) {
    let mut counts: BTreeMap<&'static str, u32> = BTreeMap::new();
    for seed in 1..=40 {
        let mode = if seed % 2 == 0 { Mode::Sync } else { Mode::Async };
        let played = std::panic::catch_unwind(|| {
            let mut play = Play::new(seed, mode);
            if way == Way::Persistent {
                for host in play.hosts {
                    play.ask(host, Command::Control { request: register(host.host.0) });
                }
            }
            play.run(way, 1500);
            play.judge_rest();
            play.counts
        });
        let found = played.unwrap_or_else(|_| panic!("seed {seed}, {mode:?}, {way:?}"));
        found.into_iter().for_each(|(what, count)| *counts.entry(what).or_default() += count);
    }
    println!("{way:?}: {counts:?}");
    let beside = (way == Way::Extents).then_some("beside extents");
    for what in ["granted", "written", "kept out", "units lost"].into_iter().chain(beside) {
        assert!(counts.get(what).is_some_and(|count| *count > 20), "{what}: nothing was judged: {counts:?}");
    }
}

#[test]
fn units_reserved_by_scsi2_keep_out_at_both_sites_and_end_alike() {
    sweep(Way::Whole);
}

#[test]
fn units_reserved_by_registrants_keep_out_at_both_sites_and_end_alike() {
    sweep(Way::Persistent);
}

#[test]
fn extents_of_units_keep_out_at_both_sites_and_end_alike() {
    sweep(Way::Extents);
}

/// PREEMPT AND ABORT (SPC-4 5.13.11.5): what the victim had under way is in place when it is answered, or never comes. Here
/// its unit's leave to come in lies on the way for as long.
#[test]
fn a_preempted_write_that_its_unit_had_let_in_before_never_comes() {
    for (victim, by) in [(SiteId::A, SiteId::A), (SiteId::B, SiteId::A), (SiteId::A, SiteId::B)] {
        let mut pair = Pair::paired(Rules { disk: true, ..Rules::of(Mode::Sync) });
        let (victim, by) = (nexus(victim, 1), nexus(by, 2));
        let control = |request| Command::Control { request };
        let done = |pair: &mut Pair, host: Nexus, command: Command| {
            let task = pair.submit(host, command);
            pair.pass(SECOND / 10);
            pair.places[host.site.index()].answers.remove(&task)
        };
        let well = Some(Completion::Verdict(Verdict::Done));
        for host in [victim, by] {
            assert_eq!(done(&mut pair, host, control(register(host.host.0))), well, "{host}");
        }
        assert_eq!(done(&mut pair, victim, control(Request::ReservePersistent { key: 1, kind: KIND })), well);
        let before: Vec<Lane> = pair.lanes();
        let write = pair.submit(victim, write(5, 0xee));
        let question = pair.lanes().into_iter().find(|lane| !before.contains(lane)).expect("it is asked");
        // The unit says GOOD; that stays on the way.
        pair.deliver(question);
        let Lane::Unit(index, number) = question else { panic!("{question:?}") };
        let held = Lane::Site(index, number);
        let preempt = Request::Preempt { key: 2, victim: 1, kind: KIND, abort: true };
        let task = pair.submit(by, control(preempt));
        for _ in 0..5_000 {
            match pair.lanes().into_iter().find(|lane| *lane != held) {
                Some(lane) => pair.deliver(lane),
                None => pair.tick(MS / 10),
            }
        }
        let told = pair.places[by.site.index()].answers.remove(&task);
        assert_eq!(told, well, "{by} takes over from {victim}");
        pair.pass(SECOND);
        let ended = pair.places[victim.site.index()].answers.remove(&write);
        assert!(matches!(ended, Some(Completion::Failed(_))), "{victim}, {by}: {ended:?}");
    }
}
