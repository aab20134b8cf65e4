//! What can go wrong, and for how long.

use crate::schedule::{Happening, MS};
use crate::world::World;
use biplex_engine::SiteId;

/// Kinds of faults. The order is the order of the weights in a scenario.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(usize)]
pub enum Fault {
    /// All delays of the line grow for a while.
    LinkSlow,
    /// The connection breaks, mid-message; the line may stay down for a while.
    LinkCut,
    /// One direction delivers nothing while both ends believe in the connection.
    LinkSilent,
    /// A site loses power, at any step, and starts again.
    Crash,
    /// Both sites lose power at once.
    CrashBoth,
    /// Reads of a site's volumes fail for a while.
    VolumeReadError,
    /// Writes to a site's volumes fail for a while.
    VolumeWriteError,
    /// Syncs of a site's volumes fail for a while.
    VolumeSyncError,
    /// An order to a site's journal fails.
    JournalFailure,
    /// A wall clock jumps ahead.
    ClockForward,
    /// A wall clock jumps back.
    ClockBack,
    /// A site's disks take long.
    SlowDisks,
    /// A site's process does not run for a while.
    Pause,
    /// A connection of a site with a unit breaks, or all of them.
    UnitBreak,
    /// A unit loses power.
    UnitRestart,
    /// A unit takes nothing in for a while.
    UnitHang,
    /// A unit is slow for a while.
    UnitSlow,
}

/// How many kinds of faults there are.
pub const FAULTS: usize = 17;

/// All of them, by index.
pub const ALL_FAULTS: [Fault; FAULTS] = [
    Fault::LinkSlow,
    Fault::LinkCut,
    Fault::LinkSilent,
    Fault::Crash,
    Fault::CrashBoth,
    Fault::VolumeReadError,
    Fault::VolumeWriteError,
    Fault::VolumeSyncError,
    Fault::JournalFailure,
    Fault::ClockForward,
    Fault::ClockBack,
    Fault::SlowDisks,
    Fault::Pause,
    Fault::UnitBreak,
    Fault::UnitRestart,
    Fault::UnitHang,
    Fault::UnitSlow,
];

/// Those that befall units.
pub const UNIT_FAULTS: [Fault; 4] = [Fault::UnitBreak, Fault::UnitRestart, Fault::UnitHang, Fault::UnitSlow];

/// A lasting fault, to be mended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ailment {
    /// The line is slow.
    Slowness,
    /// The line is down.
    LineDown,
    /// This site's bytes do not arrive.
    Silence(SiteId),
    /// The site's disks fail.
    DiskErrors(SiteId),
    /// The site's disks are slow.
    SlowDisks(SiteId),
    /// The site's clock is off by a step.
    Clock(SiteId),
    /// The site's units are slow.
    SlowUnits(SiteId),
}

impl World {
    /// A fault strikes, and the next one is planned.
    pub(crate) fn strike(&mut self) {
        if self.faults_stopped {
            return;
        }
        let gap = self.random.within(self.scenario.gap);
        self.schedule.after(gap, Happening::Fault);
        let fault = ALL_FAULTS[self.random.weighted(&self.scenario.weights)];
        let site = self.random.pick(&SiteId::BOTH);
        self.counts.faults[fault as usize] += 1;
        self.note(&[10, fault as u64, site as u64], &[], || format!("fault: {fault:?} (site {site})"));
        self.inflict(fault, site);
    }

    fn inflict(&mut self, fault: Fault, site: SiteId) {
        let lasting = self.random.between(10, 300) * MS;
        let place = site.index();
        match fault {
            Fault::LinkSlow => {
                self.link.slowness = self.random.between(3, 20);
                self.schedule.after(lasting, Happening::Mend(Ailment::Slowness));
            }
            Fault::LinkCut => {
                if self.random.one_in(2) {
                    self.link.whole = false;
                    let down = self.random.between(1, 400) * MS;
                    self.schedule.after(down, Happening::Mend(Ailment::LineDown));
                }
                self.cut();
            }
            Fault::LinkSilent => {
                self.link.silent[place] = true;
                self.schedule.after(lasting, Happening::Mend(Ailment::Silence(site)));
                if self.random.one_in(3) {
                    self.link.silent[1 - place] = true;
                    self.schedule.after(lasting / 2, Happening::Mend(Ailment::Silence(site.peer())));
                }
            }
            Fault::Crash => {
                if self.random.one_in(2) {
                    // In the middle of what the site orders next: some of it is done, the rest never.
                    self.places[place].crash_within = Some(self.random.below(12));
                } else {
                    self.crash(site);
                }
            }
            Fault::CrashBoth => {
                self.crash(site);
                self.crash(site.peer());
            }
            Fault::VolumeReadError => self.ail(site, lasting, |ills| ills.read = 30),
            Fault::VolumeWriteError => self.ail(site, lasting, |ills| ills.write = 30),
            Fault::VolumeSyncError => self.ail(site, lasting, |ills| ills.sync = 50),
            Fault::JournalFailure => self.ail(site, lasting, |ills| ills.journal = 30),
            Fault::ClockForward => self.step_clock(site, 1, lasting),
            Fault::ClockBack => self.step_clock(site, -1, lasting),
            Fault::SlowDisks => {
                self.places[place].disk_slowness = self.random.between(4, 40);
                self.schedule.after(lasting, Happening::Mend(Ailment::SlowDisks(site)));
            }
            Fault::Pause => {
                let until = self.schedule.time() + self.random.between(5, 600) * MS;
                self.places[place].paused_until = until;
                self.plan_wake(site, until);
            }
            Fault::UnitBreak | Fault::UnitRestart | Fault::UnitHang | Fault::UnitSlow => {
                let volumes = self.unit_volumes();
                if volumes.is_empty() {
                    return;
                }
                let volume = self.random.pick(&volumes);
                match fault {
                    Fault::UnitRestart => self.restart_unit(site, volume, lasting),
                    Fault::UnitHang => self.hang_unit(site, volume),
                    Fault::UnitSlow => self.slow_unit(site, volume, lasting),
                    _ => self.break_lines(site, volume),
                }
            }
        }
    }

    fn ail(&mut self, site: SiteId, lasting: u64, set: impl FnOnce(&mut crate::place::Ills)) {
        set(&mut self.places[site.index()].ills);
        self.schedule.after(lasting, Happening::Mend(Ailment::DiskErrors(site)));
    }

    fn step_clock(&mut self, site: SiteId, sign: i64, lasting: u64) {
        // One step in four goes beyond what the sites accept of each other.
        let most =
            if self.random.one_in(4) { self.scenario.max_offset * 2 } else { self.scenario.max_offset / 3 };
        let by = self.random.between(1, most) as i64 * sign;
        self.places[site.index()].clock.offset = self.scenario.offset[site.index()] + by;
        self.schedule.after(lasting, Happening::Mend(Ailment::Clock(site)));
    }

    /// A lasting fault ends.
    pub(crate) fn mend(&mut self, ailment: Ailment) {
        self.note(&[11], &[], || format!("mended: {ailment:?}"));
        match ailment {
            Ailment::Slowness => self.link.slowness = 1,
            Ailment::LineDown => self.link.whole = true,
            Ailment::Silence(from) => {
                self.link.silent[from.index()] = false;
                if let (Some(due), Some(connection)) = (self.link.due(from), self.link.connection.as_ref()) {
                    let connection = connection.id;
                    self.schedule.at(due, Happening::LinkDeliver { connection, from });
                }
            }
            Ailment::DiskErrors(site) => self.places[site.index()].ills = crate::place::Ills::default(),
            Ailment::SlowDisks(site) => self.places[site.index()].disk_slowness = 1,
            Ailment::Clock(site) => {
                self.places[site.index()].clock.offset = self.scenario.offset[site.index()];
            }
            Ailment::SlowUnits(site) => {
                self.places[site.index()].units.values_mut().for_each(|unit| unit.slowness = 1);
            }
        }
    }

    /// Everything is mended and stays so.
    pub(crate) fn stop_faults(&mut self) {
        self.faults_stopped = true;
        self.mend(Ailment::Slowness);
        self.mend(Ailment::LineDown);
        for site in SiteId::BOTH {
            self.mend(Ailment::Silence(site));
            self.mend(Ailment::DiskErrors(site));
            self.mend(Ailment::SlowDisks(site));
            self.mend(Ailment::Clock(site));
            self.mend(Ailment::SlowUnits(site));
            let place = &mut self.places[site.index()];
            place.crash_within = None;
            place.paused_until = place.paused_until.min(self.schedule.time());
            self.plan_wake(site, self.schedule.time());
        }
    }
}
