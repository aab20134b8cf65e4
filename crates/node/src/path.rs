//! Answers for showing where the time of a write goes: with `RUST_LOG=biplex::path=trace` the daemon's edges note the
//! moment at which a write passes, in memory, and all is told when the daemon ends, so that the telling costs the
//! write nothing. Without it a note costs one load. Must never decide anything.

use crate::core_loop::now;
use std::sync::{Mutex, OnceLock};
use tracing::Level;

/// Moments kept; later ones are dropped.
const MARKS_MAX: usize = 1 << 20;

static MARKS: OnceLock<Mutex<Vec<(&'static str, u64)>>> = OnceLock::new();

/// Begins to note, if the log asks for it.
pub fn begin() {
    if tracing::enabled!(target: "biplex::path", Level::TRACE) {
        MARKS.get_or_init(Mutex::default);
    }
}

/// A write passes here now.
pub fn mark(room: &'static str) {
    if let Some(marks) = MARKS.get()
        && let Ok(mut marks) = marks.lock()
        && marks.len() < MARKS_MAX
    {
        marks.push((room, now().mono));
    }
}

/// Tells all moments, on the monotonic clock, nanoseconds.
pub fn tell() {
    if let Some(marks) = MARKS.get()
        && let Ok(mut marks) = marks.lock()
    {
        for (room, at) in marks.drain(..) {
            tracing::trace!(target: "biplex::path", "room={room} at={at}");
        }
    }
}
