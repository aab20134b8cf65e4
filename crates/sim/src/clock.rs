//! A site's two clocks as functions of virtual time: a wall clock that is off, drifts, is coarse and may step, and a
//! monotonic clock that only drifts and starts anew with each run of the site.

use biplex_engine::Now;

/// Where virtual time 0 lies on the wall: nanoseconds since the Unix epoch.
pub const EPOCH: u64 = 1_800_000_000_000_000_000;

/// A site's clocks.
#[derive(Clone, Debug)]
pub struct Clock {
    /// Wall clock minus virtual time (without drift), nanoseconds.
    pub offset: i64,
    /// Parts per million that both clocks run too fast.
    pub drift: i64,
    /// The wall clock shows multiples of this only, 1 or more.
    pub grain: u64,
    started: u64,
}

impl Clock {
    /// A clock with this offset, drift and grain.
    pub fn new(offset: i64, drift: i64, grain: u64) -> Clock {
        Clock { offset, drift, grain, started: 0 }
    }

    /// The site starts at virtual time `time`: its monotonic clock begins here.
    pub fn start(&mut self, time: u64) {
        self.started = time;
    }

    /// What the site reads at virtual time `time`.
    pub fn read(&self, time: u64) -> Now {
        let wall = (EPOCH + self.drifted(time)).saturating_add_signed(self.offset);
        Now { wall: wall - wall % self.grain, mono: self.drifted(time - self.started) }
    }

    /// The first virtual time at which the monotonic clock reads `mono` or more.
    pub fn when(&self, mono: u64) -> u64 {
        let scaled = i128::from(mono) * 1_000_000 / i128::from(1_000_000 + self.drift);
        self.started.saturating_add(u64::try_from(scaled).unwrap_or(u64::MAX)).saturating_add(1)
    }

    fn drifted(&self, time: u64) -> u64 {
        let ahead = i128::from(time) * i128::from(self.drift) / 1_000_000;
        time.saturating_add_signed(i64::try_from(ahead).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_answers_the_moment_at_which_mono_is_reached() {
        for drift in [-200, 0, 200] {
            let mut clock = Clock::new(5, drift, 1);
            clock.start(1_000);
            for mono in [0, 1, 999_999, 123_456_789_012] {
                let time = clock.when(mono);
                assert!(clock.read(time).mono >= mono, "{drift} {mono}");
                assert!(clock.read(time).mono <= mono + 3, "{drift} {mono}");
            }
        }
    }
}
