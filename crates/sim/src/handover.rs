//! FIG. 22/23: a host at one site releases, and a host at the other reserves at almost the same time, over and over.
//!
//! No faults, and journals with room, but delays and clock skews of all sorts. Nobody else competes, so: a reserve that is
//! asked after the release was asked is granted, wherever the release is on its way (E3.7); one that is refused was asked
//! before. Of two reserves at once exactly one is granted, and the tables of both sites agree on which (E3.6). Where units
//! keep the reservations the second host writes while the first reserves, and that reads before it releases: what
//! a unit let in before must not come after the reserve was granted.

use crate::claims::wish_of;
use crate::history::Deed;
use crate::host::Wish;
use crate::scenario::Slant;
use crate::schedule::{Happening, MS, US};
use crate::world::World;
use biplex_engine::reserve::{Request, Verdict};
use biplex_engine::{Extent, Lba};
use biplex_front::Command;

const RESERVE: Request = Request::Reserve { third_party: None, extents: None };
const RELEASE: Request = Request::Release { third_party: None, extents: None };

/// Where a round stands. Commands by their index in the history.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Phase {
    /// Waits until nothing is under way.
    #[default]
    Free,
    /// The first host reserves.
    Taking(usize),
    /// Release and reserve are asked at these times.
    Crossing { release_at: u64, reserve_at: u64, release: Option<usize>, reserve: Option<usize> },
    /// Both hosts reserve at these times.
    Racing { at: [u64; 2], asked: [Option<usize>; 2] },
    /// Whoever holds it releases.
    Ending([usize; 2]),
}

/// The script's state.
#[derive(Clone, Copy, Debug, Default)]
pub struct HandOver {
    phase: Phase,
    /// The first host, the second.
    hosts: [usize; 2],
}

/// How a command of the script stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stand {
    Waits,
    Ended(Verdict),
    /// The host was told to try again.
    Unknown,
}

impl World {
    /// One step of the script; plans the next.
    pub(crate) fn hand_over(&mut self) {
        if self.scenario.slant != Slant::HandOver || self.hosts_stopped {
            return;
        }
        let pause = self.random.between(20, 300) * US;
        self.schedule.after(pause, Happening::HandOver);
        let time = self.schedule.time();
        let [first, second] = self.script.hosts;
        let phase = match self.script.phase {
            Phase::Free if self.drained(0) => self.begin_round(),
            Phase::Free => Phase::Free,
            Phase::Taking(op) => match self.stand(first, op) {
                Stand::Waits => {
                    if self.hosts[second].waiting.is_empty() {
                        self.try_block(second, true);
                    }
                    Phase::Taking(op)
                }
                Stand::Ended(Verdict::Done) => {
                    self.try_block(first, false);
                    let near = self.random.pick(&[0, 200 * US, 2 * MS, 8 * MS]);
                    let mut at = || time + self.random.between(0, near);
                    Phase::Crossing { release_at: at(), reserve_at: at(), release: None, reserve: None }
                }
                Stand::Ended(verdict) => {
                    self.violation(
                        "hand-over",
                        format!("a reserve that nobody competes with ends {verdict}"),
                    );
                    Phase::Free
                }
                Stand::Unknown => self.end_round(),
            },
            Phase::Crossing { release_at, reserve_at, mut release, mut reserve } => {
                if release.is_none() && release_at <= time {
                    self.try_block(first, false);
                    release = Some(self.ask_script(first, RELEASE));
                }
                if reserve.is_none() && reserve_at <= time {
                    reserve = Some(self.ask_script(second, RESERVE));
                }
                let phase = Phase::Crossing { release_at, reserve_at, release, reserve };
                match (release, reserve) {
                    (Some(release), Some(reserve)) => self.judge_crossing(phase, release, reserve),
                    _ => phase,
                }
            }
            Phase::Racing { at, mut asked } => {
                for side in [0, 1] {
                    if asked[side].is_none() && at[side] <= time {
                        asked[side] = Some(self.ask_script(self.script.hosts[side], RESERVE));
                    }
                }
                let phase = Phase::Racing { at, asked };
                match asked {
                    [Some(one), Some(other)] => self.judge_race(phase, one, other),
                    _ => phase,
                }
            }
            Phase::Ending(ops) => {
                let waits = |side: usize| self.stand(self.script.hosts[side], ops[side]) == Stand::Waits;
                if waits(0) || waits(1) { Phase::Ending(ops) } else { Phase::Free }
            }
        };
        self.script.phase = phase;
    }

    fn begin_round(&mut self) -> Phase {
        let per_site = self.scenario.hosts as u64;
        let pair = [self.random.below(per_site), per_site + self.random.below(per_site)].map(|h| h as usize);
        self.script.hosts = if self.random.one_in(2) { pair } else { [pair[1], pair[0]] };
        if self.random.one_in(3) {
            let time = self.schedule.time();
            let near = self.random.pick(&[0, 300 * US, 3 * MS]);
            let at = [0, 1].map(|_| time + self.random.between(0, near));
            return Phase::Racing { at, asked: [None; 2] };
        }
        Phase::Taking(self.ask_script(self.script.hosts[0], RESERVE))
    }

    fn end_round(&mut self) -> Phase {
        let [first, second] = self.script.hosts;
        Phase::Ending([self.ask_script(first, RELEASE), self.ask_script(second, RELEASE)])
    }

    fn judge_crossing(&mut self, phase: Phase, release: usize, reserve: usize) -> Phase {
        let [first, second] = self.script.hosts;
        match (self.stand(first, release), self.stand(second, reserve)) {
            (Stand::Waits, _) | (_, Stand::Waits) => phase,
            (Stand::Ended(Verdict::Done), Stand::Ended(Verdict::Done)) => {
                self.counts.hand_overs += 1;
                self.end_round()
            }
            (Stand::Ended(Verdict::Done), Stand::Ended(Verdict::Conflict)) => {
                let (let_go, asked) = (self.history[release].asked, self.history[reserve].asked);
                if let_go < asked {
                    let what = format!("a reserve asked at {asked} is refused, released at {let_go}");
                    self.violation("hand-over", what);
                }
                self.counts.refused_early += 1;
                self.end_round()
            }
            (Stand::Unknown, _) | (_, Stand::Unknown) => self.end_round(),
            (one, other) => {
                self.violation("hand-over", format!("a release ends {one:?}, a reserve {other:?}"));
                Phase::Free
            }
        }
    }

    fn judge_race(&mut self, phase: Phase, one: usize, other: usize) -> Phase {
        let [first, second] = self.script.hosts;
        match (self.stand(first, one), self.stand(second, other)) {
            (Stand::Waits, _) | (_, Stand::Waits) => phase,
            (Stand::Unknown, _) | (_, Stand::Unknown) => self.end_round(),
            (Stand::Ended(Verdict::Done), Stand::Ended(Verdict::Conflict))
            | (Stand::Ended(Verdict::Conflict), Stand::Ended(Verdict::Done)) => {
                self.counts.races += 1;
                self.end_round()
            }
            (one, other) => {
                self.violation("hand-over", format!("two reserves at once end {one:?} and {other:?}"));
                Phase::Free
            }
        }
    }

    /// Writes or reads the block that all use.
    fn try_block(&mut self, index: usize, writes: bool) {
        if !self.scenario.volumes[0].rules.disk {
            return;
        }
        let extent = Extent::new(Lba(0), 1).expect("a block");
        let wish = if writes {
            self.write_wish(0, extent)
        } else {
            let (command, deed) =
                (Command::Read { extent, fua: false }, Deed::Read { extent, values: Vec::new() });
            Wish { volume: 0, command, deed, large: false }
        };
        self.ask(index, wish);
    }

    fn ask_script(&mut self, index: usize, request: Request) -> usize {
        self.ask(index, wish_of(0, Deed::Control { request, verdict: None }));
        self.history.len() - 1
    }

    fn stand(&self, host: usize, op: usize) -> Stand {
        if self.hosts[host].waiting.values().any(|waiting| *waiting == op) {
            return Stand::Waits;
        }
        match self.history[op].deed {
            Deed::Control { verdict: Some(verdict), .. } => Stand::Ended(verdict),
            _ => Stand::Unknown,
        }
    }
}
