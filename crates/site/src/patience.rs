//! Answers for when the journal's open group is written: with the batch that filled it if a host may be waiting for it,
//! a little later if none is. Then more entries share one write and its sync, which leaves the disk, and on a small
//! machine the processors, to hosts that do wait.
//!
//! ```text
//! the engine says hurry ─▶ at once, with all before it
//! it does not (the peer's plain writes of async volumes) ─▶ after 2 ms, or when 256 KiB have come together
//! ```
//! Such a write counts as safe from a loss of the other site that much later at most; the order does not change.

use biplex_engine::Now;

/// How long a group that no host waits for stays open, nanoseconds.
const PATIENCE: u64 = 2_000_000;
/// With so many bytes it is written at once.
const BYTES_MAX: u64 = 256 << 10;

/// When the journal's open group is due.
#[derive(Default, Debug)]
pub(crate) struct Patience {
    due: Option<u64>,
}

impl Patience {
    /// An entry joined the group.
    pub fn appended(&mut self, now: Now) {
        self.due.get_or_insert(now.mono.saturating_add(PATIENCE));
    }

    /// Somebody waits for what is in the group.
    pub fn hurry(&mut self, now: Now) {
        self.due = self.due.map(|due| due.min(now.mono));
    }

    /// Whether the group, of so many bytes, is to be written.
    pub fn is_due(&self, now: Now, bytes: u64) -> bool {
        bytes >= BYTES_MAX || self.due.is_some_and(|due| due <= now.mono)
    }

    /// All that was appended has been handed to the disk.
    pub fn emptied(&mut self) {
        self.due = None;
    }

    /// Monotonic time from which on the group is due.
    pub fn deadline(&self) -> Option<u64> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono: u64) -> Now {
        Now { wall: 0, mono }
    }

    #[test]
    fn a_group_that_nobody_waits_for_is_written_when_its_first_entry_is_old_enough() {
        let mut patience = Patience::default();
        assert!(!patience.is_due(at(5), 0));
        patience.appended(at(5));
        patience.appended(at(9));
        assert_eq!(patience.deadline(), Some(5 + PATIENCE));
        assert!(!patience.is_due(at(4 + PATIENCE), BYTES_MAX - 1));
        assert!(patience.is_due(at(5 + PATIENCE), 1));
        patience.emptied();
        assert_eq!(patience.deadline(), None);
        assert!(!patience.is_due(at(9 + PATIENCE), 0));
    }

    #[test]
    fn what_somebody_waits_for_takes_all_before_it_along() {
        let mut patience = Patience::default();
        patience.hurry(at(1));
        assert_eq!(patience.deadline(), None, "there is nothing to hurry");
        patience.appended(at(5));
        patience.appended(at(6));
        patience.hurry(at(6));
        patience.appended(at(7));
        assert!(patience.is_due(at(6), 1));
    }

    #[test]
    fn much_waits_no_longer() {
        let mut patience = Patience::default();
        patience.appended(at(5));
        assert!(patience.is_due(at(5), BYTES_MAX));
    }
}
