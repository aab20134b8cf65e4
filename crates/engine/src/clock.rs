//! The hybrid logical clock: stamps that follow the site's clock, never contradict cause and effect, and are never
//! issued twice, not even over a crash (E1.8).
//!
//! Never reads a clock. Invariants: a stamp is beyond every stamp issued or observed before; no stamp and no promise
//! passes the ceiling that is durable in the journal, and a restart begins beyond that ceiling.

use crate::mutant::{Mutant, planted};
use crate::units::{Now, SiteId, Stamp};

/// How far ahead of the clock the ceiling is made durable, nanoseconds. Also how far a restart may jump ahead.
pub const CEILING_AHEAD: u64 = 4_000_000_000;

/// A site's clock.
#[derive(Clone, Debug)]
pub struct Clock {
    site: SiteId,
    last: u64,
    ceiling_durable: u64,
    ceiling_asked: u64,
}

impl Clock {
    /// A clock that begins beyond `ceiling`, the highest that an earlier run made durable, and beyond `seen`, the
    /// newest time found in the journal.
    pub fn new(site: SiteId, ceiling: u64, seen: u64, now: Now) -> Clock {
        let from = if planted(Mutant::ReuseStampAfterRestart) { 0 } else { ceiling.max(seen) };
        Clock { site, last: from.max(now.wall), ceiling_durable: 0, ceiling_asked: 0 }
    }

    /// The next stamp, or `None` until a higher ceiling is durable.
    pub fn next(&mut self, now: Now) -> Option<Stamp> {
        let time = (self.last + 1).max(now.wall);
        if time > self.ceiling_durable {
            return None;
        }
        self.last = time;
        Some(Stamp { time, site: self.site })
    }

    /// Learns of a stamp that the peer issued.
    pub fn observe(&mut self, time: u64) {
        self.last = self.last.max(time);
    }

    /// A time that no later stamp of this site will be at or before.
    pub fn promise(&mut self, now: Now) -> u64 {
        let promised = self.last.max(now.wall).min(self.ceiling_durable);
        self.last = self.last.max(promised);
        promised
    }

    /// The clock's reading without promising anything.
    pub fn reading(&self, now: Now) -> u64 {
        self.last.max(now.wall)
    }

    /// The highest time that may be issued or promised now.
    pub fn ceiling_durable(&self) -> u64 {
        self.ceiling_durable
    }

    /// The ceiling to write into the next journal group.
    pub fn ceiling_to_write(&mut self, now: Now) -> u64 {
        self.ceiling_asked = self.ceiling_asked.max(self.reading(now) + CEILING_AHEAD);
        self.ceiling_asked
    }

    /// A group with this ceiling is durable.
    pub fn ceiling_written(&mut self, ceiling: u64) {
        self.ceiling_durable = self.ceiling_durable.max(ceiling);
    }

    /// Whether the durable ceiling is near enough that a new one should be written even if nothing else is.
    pub fn wants_ceiling(&self, now: Now) -> bool {
        self.reading(now) + CEILING_AHEAD / 2 > self.ceiling_durable
    }

    /// Wall time at which [`Clock::wants_ceiling`] becomes true.
    pub fn ceiling_due(&self) -> u64 {
        self.ceiling_durable.saturating_sub(CEILING_AHEAD / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall: u64) -> Now {
        Now { wall, mono: wall }
    }

    #[test]
    fn stamps_grow_even_when_the_clock_steps_back() {
        let mut clock = Clock::new(SiteId::A, 0, 0, at(100));
        clock.ceiling_written(1_000);
        let first = clock.next(at(200)).expect("below the ceiling");
        let second = clock.next(at(50)).expect("below the ceiling");
        assert!(second > first);
        clock.observe(500);
        assert_eq!(clock.next(at(60)), Some(Stamp { time: 501, site: SiteId::A }));
    }

    #[test]
    fn no_stamp_and_no_promise_passes_the_durable_ceiling() {
        let mut clock = Clock::new(SiteId::B, 0, 0, at(100));
        assert_eq!(clock.next(at(100)), None);
        clock.ceiling_written(150);
        assert_eq!(clock.promise(at(400)), 150);
        assert_eq!(clock.next(at(120)), None, "150 was promised");
    }

    #[test]
    fn a_restart_begins_beyond_the_ceiling() {
        let mut clock = Clock::new(SiteId::A, 9_000, 8_500, at(100));
        let ceiling = clock.ceiling_to_write(at(100));
        clock.ceiling_written(ceiling);
        assert_eq!(clock.next(at(100)).map(|s| s.time), Some(9_001));
    }
}
