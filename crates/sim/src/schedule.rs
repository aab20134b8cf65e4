//! Virtual time: what happens next, in order of time and, at equal times, in the order in which it was planned.

use crate::fault::Ailment;
use crate::unit::Way;
use biplex_engine::SiteId;
use biplex_front::TaskId;
use biplex_store::Device;
use std::collections::BTreeMap;

/// A microsecond in nanoseconds.
pub const US: u64 = 1_000;
/// A millisecond in nanoseconds.
pub const MS: u64 = 1_000_000;
/// A second in nanoseconds.
pub const SECOND: u64 = 1_000_000_000;

/// Something planned.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Happening {
    /// The site looks at what came in. Counts only if it is the wake that the site last planned.
    Wake(SiteId),
    /// A disk order ends, if the site still runs in run number `run`.
    DiskEnd { site: SiteId, run: u64, device: Device, order: u64 },
    /// The line is tried.
    LinkTry,
    /// The connection becomes known to this end.
    LinkOpen { site: SiteId, run: u64, connection: u64 },
    /// Bytes sent by this site may arrive.
    LinkDeliver { connection: u64, from: SiteId },
    /// This end learns that its connection is gone.
    LinkGone { site: SiteId, run: u64, link: u64 },
    /// A host may issue a command.
    HostStep(usize),
    /// A host whose session ended is back.
    SessionBack(usize),
    /// A step of the hand-over's script.
    HandOver,
    /// A host stops waiting for this command.
    HostGivesUp { host: usize, task: TaskId },
    /// The next piece on a site's line with a unit arrives.
    UnitPiece { site: SiteId, volume: usize, line: u64, way: Way },
    /// A unit's data command ends, if the unit was not started anew since.
    UnitTask { site: SiteId, volume: usize, life: u64, task: TaskId },
    /// A unit's own time is due.
    UnitTick { site: SiteId, volume: usize, life: u64 },
    /// The next fault strikes.
    Fault,
    /// A lasting fault ends.
    Mend(Ailment),
    /// A crashed site starts again.
    Restart(SiteId),
    /// No faults from now on; all that lasts is mended.
    FaultsStop,
    /// Hosts issue nothing more.
    HostsStop,
    /// Has all come to rest?
    Settle,
    /// The run is over.
    End,
}

/// The plan.
#[derive(Clone, Debug, Default)]
pub struct Schedule {
    time: u64,
    planned: u64,
    queue: BTreeMap<(u64, u64), Happening>,
}

impl Schedule {
    /// Virtual time now, in nanoseconds.
    pub fn time(&self) -> u64 {
        self.time
    }

    /// Plans something for `time`, or for now if that has passed.
    pub fn at(&mut self, time: u64, what: Happening) {
        self.planned += 1;
        self.queue.insert((time.max(self.time), self.planned), what);
    }

    /// Plans something for `delay` from now.
    pub fn after(&mut self, delay: u64, what: Happening) {
        self.at(self.time.saturating_add(delay), what);
    }

    /// Goes on to the next happening.
    pub fn advance(&mut self) -> Option<Happening> {
        let ((time, _), what) = self.queue.pop_first()?;
        self.time = time;
        Some(what)
    }
}
