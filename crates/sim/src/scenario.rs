//! What a run plays: drawn from a seed and a mode, or bent by a name for a bug that needs a certain weather.

use crate::fault::{FAULTS, Fault, UNIT_FAULTS};
use crate::random::Random;
use crate::schedule::{MS, US};
use biplex_site::{Mode, Rules, TableKind, WINDOW_BYTES_MAX};

/// How faults end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Weather {
    /// Faults stop; then the pair must come to rest, in step, with equal stores. Judges liveness too.
    Polite,
    /// Anything goes to the end; only safety is judged.
    Cruel,
}

impl Weather {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Weather::Polite => "polite",
            Weather::Cruel => "cruel",
        }
    }
}

/// A slant that makes one kind of trouble likely.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Slant {
    /// None: everything in turn.
    Mixed,
    /// Coarse clocks in step, so that both sites issue equal times; no faults.
    Ties,
    /// A slow line and quick cuts.
    SlowLine,
    /// Slow disks: much is appended and not yet durable.
    SlowDisks,
    /// Sites crash again and again.
    Crashes,
    /// The line is cut again and again.
    Cuts,
    /// Sites crash while the backing stores are being written.
    StoreCrashes,
    /// One direction of the line falls silent for long; sites crash.
    Silence,
    /// A tiny hold buffer and a tiny journal.
    Cramped,
    /// Clocks that hardly move and step back, and crashes: only the durable ceiling keeps stamps apart.
    Clocks,
    /// Hosts reserve, release, preempt and reset all the time.
    Reservations,
    /// Hosts compare and write most of the time.
    Swaps,
    /// Both sites lose power at once, again and again, while hosts reserve.
    Power,
    /// FIG. 22/23: a unit is handed over from host to host, site to site, without faults; see [`crate::handover`].
    HandOver,
    /// Stores are units that keep the reservations (E5), which break, restart, hang and are slow.
    Units,
}

/// All slants with their names on the command line.
pub const SLANTS: [(&str, Slant); 15] = [
    ("mixed", Slant::Mixed),
    ("ties", Slant::Ties),
    ("slow-line", Slant::SlowLine),
    ("slow-disks", Slant::SlowDisks),
    ("crashes", Slant::Crashes),
    ("cuts", Slant::Cuts),
    ("store-crashes", Slant::StoreCrashes),
    ("silence", Slant::Silence),
    ("cramped", Slant::Cramped),
    ("clocks", Slant::Clocks),
    ("reservations", Slant::Reservations),
    ("swaps", Slant::Swaps),
    ("power", Slant::Power),
    ("hand-over", Slant::HandOver),
    ("units", Slant::Units),
];

impl Slant {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        SLANTS.iter().find(|(_, slant)| *slant == self).map_or("mixed", |(name, _)| name)
    }
}

/// A volume of the run.
#[derive(Clone, Debug)]
pub struct VolumePlan {
    /// When its commands complete, and what else both sites agree on.
    pub rules: Rules,
    /// Its size in blocks.
    pub blocks: u64,
    /// Hosts mostly use the first so many blocks.
    pub hot: u64,
    /// In a hundred reservation commands of its hosts so many are persistent ones, the others SCSI-2.
    pub persistent: u64,
}

/// Everything that a run is played by. Times in nanoseconds.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The seed.
    pub seed: u64,
    /// How faults end.
    pub weather: Weather,
    /// What is made likely.
    pub slant: Slant,
    /// The volumes.
    pub volumes: Vec<VolumePlan>,
    /// Which hold table, per site: the two kinds must agree, so they may differ.
    pub table: [TableKind; 2],
    /// As in [`biplex_site::SiteConfig`].
    pub hold_time: u64,
    /// See `hold_time`.
    pub hold_every: u64,
    /// See `hold_time`.
    pub hold_memory: u64,
    /// See `hold_time`.
    pub journal_bytes: u64,
    /// See `hold_time`.
    pub max_offset: u64,
    /// See `hold_time`.
    pub lease: u64,
    /// See `hold_time`.
    pub wait_max: u64,
    /// See `hold_time`. Small in one seed of five: then most of what a site has to send waits for the peer's acks.
    pub window_bytes: u64,
    /// Sessions of hosts at each site. The first two are the same host's, which is at both sites.
    pub hosts: usize,
    /// Commands that a host has outstanding at most.
    pub depth: usize,
    /// Pause between a host's commands.
    pub think: (u64, u64),
    /// How long a host waits for an answer.
    pub patience: u64,
    /// Percentages of commands: reads, writes, fills, unmaps, flushes, compare-and-writes.
    pub mix: [u32; 6],
    /// In a thousand steps of a host so many are about reservations.
    pub requests: u64,
    /// In a hundred compare-and-writes so many compare what is surely not there.
    pub mistaken: u64,
    /// Most blocks of a usual command, and of a rare large one.
    pub blocks: (u64, u64),
    /// Clock offsets.
    pub offset: [i64; 2],
    /// Clock drifts, parts per million.
    pub drift: [i64; 2],
    /// Clock grain.
    pub grain: u64,
    /// One-way delay of the line.
    pub delay: (u64, u64),
    /// Socket buffer of the line, bytes.
    pub buffer: usize,
    /// Duration of a journal order, least and most.
    pub journal_delay: (u64, u64),
    /// Duration of a volume order, least and most.
    pub volume_delay: (u64, u64),
    /// One-way delay between a site and its unit; connections differ.
    pub unit_delay: (u64, u64),
    /// How long a site lets events gather before it looks.
    pub gather: (u64, u64),
    /// Pause between faults.
    pub gap: (u64, u64),
    /// Weight of each kind of fault.
    pub weights: [u32; FAULTS],
    /// When hosts stop.
    pub busy: u64,
    /// When faults stop, in polite weather. Before `busy`.
    pub calm: u64,
    /// How long after `busy` the pair may take to come to rest.
    pub settle: u64,
}

impl Scenario {
    /// The scenario of this seed.
    pub fn new(seed: u64, weather: Weather, slant: Slant) -> Scenario {
        let mut r = Random::new(seed ^ 0x51_0d0e ^ ((weather as u64) << 60) ^ ((slant as u64) << 52));
        let kinds = [TableKind::Indexed, TableKind::Plain];
        let table = match r.below(4) {
            0 => [TableKind::Plain; 2],
            1 => kinds,
            _ => [TableKind::Indexed; 2],
        };
        let max_offset = r.pick(&[20 * MS, 100 * MS, 500 * MS]);
        let half = (max_offset / 2) as i64;
        let skew = |r: &mut Random| r.below(half as u64) as i64 - half / 2;
        let lease = r.pick(&[60 * MS, 150 * MS, 300 * MS]);
        let low = r.pick(&[50 * US, 200 * US, MS, 3 * MS]);
        let busy = r.between(1_200, 2_200) * MS;
        let mut s = Scenario {
            seed,
            weather,
            slant,
            volumes: volumes(&mut r),
            table,
            hold_time: r.pick(&[5 * MS, 20 * MS, 60 * MS, 150 * MS]),
            hold_every: r.pick(&[5 * MS, 10 * MS, 25 * MS, 50 * MS]),
            hold_memory: r.pick(&[8 << 10, 64 << 10, 1 << 20, 1 << 20]),
            journal_bytes: r.pick(&[1 << 20, 1 << 20, 4 << 20]),
            max_offset,
            lease,
            wait_max: lease * r.between(2, 4),
            window_bytes: window(seed),
            hosts: 3,
            depth: r.between(1, 3) as usize,
            think: r.pick(&[(200 * US, 4 * MS), (MS, 10 * MS), (0, 15 * MS)]),
            patience: r.pick(&[400 * MS, 900 * MS, 3_000 * MS]),
            mix: r.pick(&[
                [40, 44, 4, 4, 4, 4],
                [50, 43, 0, 0, 4, 3],
                [25, 53, 5, 5, 5, 7],
                [60, 28, 4, 2, 4, 2],
            ]),
            requests: r.pick(&[0, 6, 15, 30]),
            mistaken: 20,
            blocks: r.pick(&[(1, 4), (4, 16), (8, 32)]),
            offset: [skew(&mut r), skew(&mut r)],
            drift: [r.below(401) as i64 - 200, r.below(401) as i64 - 200],
            grain: r.pick(&[1, 1, US, MS]),
            delay: (low, low * r.between(2, 4)),
            buffer: r.pick(&[4 << 10, 64 << 10]),
            journal_delay: r.pick(&[(50 * US, 300 * US), (100 * US, 3 * MS), (MS, 10 * MS)]),
            volume_delay: r.pick(&[(50 * US, 500 * US), (100 * US, 5 * MS), (MS, 20 * MS)]),
            unit_delay: (20 * US, 200 * US),
            gather: r.pick(&[(0, 0), (0, 50 * US), (0, 400 * US)]),
            gap: r.pick(&[(20 * MS, 200 * MS), (50 * MS, 400 * MS), (100 * MS, 900 * MS)]),
            weights: [3; FAULTS],
            busy,
            calm: busy - 350 * MS,
            settle: 20_000 * MS,
        };
        for fault in [Fault::CrashBoth, Fault::JournalFailure] {
            s.weights[fault as usize] = 1;
        }
        for fault in [Fault::Crash, Fault::LinkCut] {
            s.weights[fault as usize] = 6;
        }
        for fault in UNIT_FAULTS {
            s.weights[fault as usize] = 0;
        }
        s.bend(&mut r);
        s.take_units();
        s
    }

    /// In one seed of seven the units keep the reservations, whatever else is played. Drawn apart from everything else, so
    /// that the other seeds stay what they were.
    fn take_units(&mut self) {
        let always = self.slant == Slant::Units;
        if !(always || self.seed % 7 == 5) {
            return;
        }
        let mut r = Random::new(self.seed ^ 0x0075_6e69_7473);
        for plan in &mut self.volumes {
            plan.rules = Rules { disk: true, discard: false, ..plan.rules };
        }
        self.unit_delay = r.pick(&[(5 * US, 50 * US), (20 * US, 200 * US), (100 * US, MS)]);
        if self.weights.iter().filter(|weight| **weight > 0).count() > 1 {
            for fault in UNIT_FAULTS.into_iter().filter(|_| !always) {
                self.weights[fault as usize] = r.pick(&[0, 1, 2]);
            }
        }
        // A unit that hangs holds its site up for as long as that has patience.
        self.settle += 40_000 * MS;
    }

    fn bend(&mut self, r: &mut Random) {
        let only = |list: &[(Fault, u32)]| {
            let mut weights = [0; FAULTS];
            for &(fault, weight) in list {
                weights[fault as usize] = weight;
            }
            weights
        };
        match self.slant {
            Slant::Mixed => {}
            Slant::Ties => {
                (self.offset, self.drift, self.grain) = ([0; 2], [0; 2], 10 * MS);
                (self.blocks, self.delay) = ((8, 16), (200 * US, 3 * MS));
                self.weights = only(&[(Fault::LinkSlow, 1)]);
            }
            Slant::SlowLine => {
                self.delay = (4 * MS, 25 * MS);
                self.journal_delay = (50 * US, 300 * US);
                (self.hold_time, self.hold_every) = (5 * MS, 5 * MS);
                self.weights = only(&[(Fault::LinkSlow, 3), (Fault::LinkSilent, 1), (Fault::LinkCut, 1)]);
            }
            Slant::SlowDisks => {
                self.journal_delay = (5 * MS, 30 * MS);
                (self.hold_time, self.hold_every) = (5 * MS, 5 * MS);
                self.delay = (50 * US, 300 * US);
                self.weights = only(&[(Fault::SlowDisks, 1), (Fault::Crash, 3), (Fault::CrashBoth, 2)]);
                self.gap = (50 * MS, 250 * MS);
            }
            Slant::Crashes => {
                self.weights = only(&[(Fault::Crash, 4), (Fault::CrashBoth, 1), (Fault::SlowDisks, 1)]);
                self.gap = (60 * MS, 250 * MS);
            }
            Slant::Cuts => {
                self.delay = (MS, 8 * MS);
                self.weights = only(&[(Fault::LinkCut, 6), (Fault::LinkSilent, 1), (Fault::Crash, 1)]);
                self.gap = (20 * MS, 150 * MS);
            }
            Slant::StoreCrashes => {
                (self.hold_time, self.hold_every) = (5 * MS, 5 * MS);
                self.volume_delay = (MS, 15 * MS);
                self.journal_delay = (50 * US, 200 * US);
                self.delay = (50 * US, 200 * US);
                self.journal_bytes = 1 << 20;
                self.weights = only(&[(Fault::Crash, 3), (Fault::CrashBoth, 2)]);
                self.gap = (40 * MS, 250 * MS);
            }
            Slant::Silence => {
                self.weights = only(&[(Fault::LinkSilent, 4), (Fault::LinkCut, 2), (Fault::Crash, 2)]);
                self.gap = (50 * MS, 300 * MS);
                self.lease = 60 * MS;
                self.delay = (4 * MS, 12 * MS);
                self.wait_max = 900 * MS;
            }
            Slant::Clocks => {
                self.grain = 500 * MS;
                self.journal_delay = (MS, 20 * MS);
                self.delay = (50 * US, MS);
                self.weights = only(&[(Fault::Crash, 4), (Fault::ClockBack, 2), (Fault::ClockForward, 1)]);
                self.gap = (40 * MS, 200 * MS);
            }
            Slant::Reservations => {
                self.requests = 200;
                self.think = (200 * US, 4 * MS);
                self.journal_delay = (50 * US, MS);
                self.delay = r.pick(&[(100 * US, 400 * US), (500 * US, 3 * MS), (MS, 8 * MS)]);
                self.weights = only(&[
                    (Fault::LinkSlow, 3),
                    (Fault::LinkCut, 2),
                    (Fault::LinkSilent, 1),
                    (Fault::Crash, 2),
                    (Fault::Pause, 1),
                    (Fault::ClockForward, 1),
                    (Fault::ClockBack, 1),
                ]);
                self.gap = (150 * MS, 500 * MS);
            }
            Slant::Swaps => {
                self.mix = [35, 15, 2, 2, 1, 45];
                self.requests = 5;
                self.mistaken = 8;
                self.blocks = (1, 3);
                self.volumes.iter_mut().for_each(|plan| plan.hot = 4);
                self.think = (200 * US, 4 * MS);
                if r.one_in(2) {
                    // Crashes in the middle of destages, of swaps that replace what the store already has.
                    self.blocks = (2, 4);
                    self.volumes.iter_mut().for_each(|plan| plan.hot = 24);
                    self.think = (MS, 8 * MS);
                    (self.hold_time, self.hold_every) = (5 * MS, 5 * MS);
                    self.volume_delay = (MS, 15 * MS);
                    self.journal_delay = (50 * US, 200 * US);
                    self.delay = (50 * US, 200 * US);
                    self.weights = only(&[(Fault::Crash, 3), (Fault::CrashBoth, 2)]);
                    self.gap = (40 * MS, 140 * MS);
                }
            }
            Slant::Power => {
                self.requests = 120;
                self.volumes.iter_mut().for_each(|plan| plan.persistent = 80);
                self.weights = only(&[(Fault::CrashBoth, 4), (Fault::Crash, 1)]);
                self.gap = (100 * MS, 350 * MS);
            }
            Slant::Units => {
                self.requests = 200;
                self.think = (200 * US, 4 * MS);
                self.journal_delay = (50 * US, MS);
                self.delay = r.pick(&[(100 * US, 400 * US), (500 * US, 3 * MS), (MS, 8 * MS)]);
                self.weights = only(&[
                    (Fault::UnitBreak, 3),
                    (Fault::UnitRestart, 2),
                    (Fault::UnitHang, 1),
                    (Fault::UnitSlow, 1),
                    (Fault::LinkCut, 1),
                    (Fault::Crash, 2),
                    (Fault::SlowDisks, 1),
                ]);
                self.gap = (60 * MS, 400 * MS);
            }
            Slant::HandOver => {
                self.volumes.truncate(1);
                for plan in &mut self.volumes {
                    plan.rules = Rules::of(Mode::Sync);
                }
                self.requests = 0;
                self.delay = r.pick(&[(50 * US, 200 * US), (200 * US, 2 * MS), (2 * MS, 9 * MS)]);
                self.journal_delay = r.pick(&[(50 * US, 300 * US), (100 * US, 2 * MS), (MS, 6 * MS)]);
                (self.lease, self.wait_max, self.patience) = (600 * MS, 5_000 * MS, 9_000 * MS);
                // Never full: a release that waits at its door for room is nothing that the other site could know of.
                self.journal_bytes = 16 << 20;
                self.weights = only(&[(Fault::LinkSlow, 1)]);
                self.gap = (100_000 * MS, 100_000 * MS);
            }
            Slant::Cramped => {
                self.hold_memory = 4 << 10;
                self.journal_bytes = r.pick(&[1 << 20, 1 << 20]);
                self.blocks = (16, 64);
                self.think = (200 * US, 2 * MS);
                self.depth = 4;
                self.hold_time = 60 * MS;
            }
        }
    }
}

/// Drawn apart from everything else, so that the other seeds stay what they were before windows could be small.
fn window(seed: u64) -> u64 {
    if seed % 5 == 4 { Random::new(seed).pick(&[8 << 10, 32 << 10, 128 << 10]) } else { WINDOW_BYTES_MAX }
}

fn volumes(r: &mut Random) -> Vec<VolumePlan> {
    let modes: &[Mode] = match r.below(6) {
        0 | 1 => &[Mode::Sync],
        2 => &[Mode::Sync, Mode::Async],
        3 => &[Mode::Async],
        4 => &[Mode::Flush, Mode::Sync],
        _ => &[Mode::Sync, Mode::Async, Mode::Flush],
    };
    let mut plan = |&mode| {
        let relaxed = mode != Mode::Sync;
        let rules =
            Rules { mode, swaps: relaxed && r.one_in(2), discard: relaxed && r.one_in(3), disk: false };
        let (blocks, hot) = (r.pick(&[64, 128, 256]), r.pick(&[4, 8, 16, 24]));
        VolumePlan { rules, blocks, hot, persistent: r.pick(&[0, 30, 60, 100]) }
    };
    modes.iter().map(&mut plan).collect()
}
