//! The hybrid logical clock: stamps that follow the site's clock, never contradict cause and effect, and are never
//! issued twice, not even over a crash (E1.8).
//!
//! Never reads a clock. Invariants: a stamp is beyond every stamp issued or observed before; no stamp and no promise
//! passes the ceiling that is durable in the journal, and a restart begins beyond that ceiling.

use crate::mutant::{Mutant, planted};
use crate::units::{Now, SiteId, Stamp};

/// How far ahead of the site's clock the ceiling is made durable at most, nanoseconds; where destages are frequent it
/// is a few intervals. Also how far a restart may jump ahead.
const CEILING_AHEAD_MAX: u64 = 4_000_000_000;
/// See [`CEILING_AHEAD_MAX`].
const CEILING_AHEAD_MIN: u64 = 40_000_000;
/// Where the stamps are already ahead of the site's clock, after a restart, the ceiling is only so far ahead of them,
/// in parts of the above: restart upon restart must not carry the stamps away from the time.
const AHEAD_OF_STAMPS: u64 = 32;

/// A site's clock.
#[derive(Clone, Debug)]
pub struct Clock {
    site: SiteId,
    last: u64,
    ceiling_durable: u64,
    ceiling_asked: u64,
    ahead: u64,
}

impl Clock {
    /// A clock that begins beyond `ceiling`, the highest that an earlier run made durable, and beyond `seen`, the
    /// newest time found in the journal. Nothing of interest happens within `every`: neither a destage, nor are the
    /// sites' clocks further apart, so that following the peer's clock costs no checkpoint.
    pub fn new(site: SiteId, ceiling: u64, seen: u64, every: u64, now: Now) -> Clock {
        let from = if planted(Mutant::ReuseStampAfterRestart) { 0 } else { ceiling.max(seen) };
        let ahead = every.saturating_mul(4).clamp(CEILING_AHEAD_MIN, CEILING_AHEAD_MAX);
        Clock { site, last: from.max(now.wall), ceiling_durable: 0, ceiling_asked: 0, ahead }
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
        let wanted = (now.wall + self.ahead).max(self.last + self.ahead / AHEAD_OF_STAMPS);
        self.ceiling_asked = self.ceiling_asked.max(wanted);
        self.ceiling_asked
    }

    /// A group with this ceiling is durable.
    pub fn ceiling_written(&mut self, ceiling: u64) {
        self.ceiling_durable = self.ceiling_durable.max(ceiling);
    }

    /// Whether the durable ceiling is near enough that a new one should be written even if nothing else is.
    pub fn wants_ceiling(&self, now: Now) -> bool {
        let needed = (now.wall + self.ahead / 2).max(self.last + self.ahead / AHEAD_OF_STAMPS / 2);
        needed > self.ceiling_durable
    }

    /// Wall time at which [`Clock::wants_ceiling`] becomes true.
    pub fn ceiling_due(&self) -> u64 {
        self.ceiling_durable.saturating_sub(self.ahead / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: u64 = 60_000_000_000;

    fn at(wall: u64) -> Now {
        Now { wall, mono: wall }
    }

    #[test]
    fn stamps_grow_even_when_the_clock_steps_back() {
        let mut clock = Clock::new(SiteId::A, 0, 0, EVERY, at(100));
        clock.ceiling_written(1_000);
        let first = clock.next(at(200)).expect("below the ceiling");
        let second = clock.next(at(50)).expect("below the ceiling");
        assert!(second > first);
        clock.observe(500);
        assert_eq!(clock.next(at(60)), Some(Stamp { time: 501, site: SiteId::A }));
    }

    #[test]
    fn no_stamp_and_no_promise_passes_the_durable_ceiling() {
        let mut clock = Clock::new(SiteId::B, 0, 0, EVERY, at(100));
        assert_eq!(clock.next(at(100)), None);
        clock.ceiling_written(150);
        assert_eq!(clock.promise(at(400)), 150);
        assert_eq!(clock.next(at(120)), None, "150 was promised");
    }

    #[test]
    fn a_restart_begins_beyond_the_ceiling() {
        let mut clock = Clock::new(SiteId::A, 9_000, 8_500, EVERY, at(100));
        let ceiling = clock.ceiling_to_write(at(100));
        clock.ceiling_written(ceiling);
        assert_eq!(clock.next(at(100)).map(|s| s.time), Some(9_001));
    }

    #[test]
    fn many_restarts_do_not_carry_the_stamps_away_from_the_time() {
        let mut ceiling = 0;
        for restart in 0..20 {
            let now = at(1_000_000_000 + restart);
            let mut clock = Clock::new(SiteId::A, ceiling, 0, EVERY, now);
            assert!(clock.wants_ceiling(now));
            ceiling = clock.ceiling_to_write(now);
            clock.ceiling_written(ceiling);
            assert!(!clock.wants_ceiling(now));
            assert!(clock.next(now).is_some());
        }
        assert!(ceiling < 1_000_000_000 + 2 * CEILING_AHEAD_MAX, "{ceiling}");
    }
}
