//! Answers for waiting: for a condition, up to a deadline, never for time itself.

use std::time::{Duration, Instant};

/// How long a test waits for what should happen soon: long enough for a busy machine and the longest back-off.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until `found` gives something; panics with `what` and the last obstacle when [`PATIENCE`] is over.
#[track_caller]
pub fn wait_until<T>(what: &str, found: impl FnMut() -> Result<T, String>) -> T {
    wait_within(PATIENCE, what, found)
}

/// As [`wait_until`], with a patience of the caller's.
#[track_caller]
pub fn wait_within<T>(patience: Duration, what: &str, mut found: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match found() {
            Ok(value) => return value,
            Err(obstacle) if begun.elapsed() > patience => {
                panic!("waited {patience:?} in vain for {what}: {obstacle}")
            }
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}
