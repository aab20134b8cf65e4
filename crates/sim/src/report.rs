//! What a run says when it is over.

use crate::fault::{ALL_FAULTS, FAULTS};
use std::fmt;

/// A broken promise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which check saw it.
    pub check: &'static str,
    /// What it saw.
    pub what: String,
    /// When, in virtual nanoseconds.
    pub time: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] at {} µs: {}", self.check, self.time / 1_000, self.what)
    }
}

/// A run in numbers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs)]
pub struct Counts {
    pub asked: u64,
    pub reads: u64,
    pub writes: u64,
    pub flushes: u64,
    pub not_ready: u64,
    pub busy: u64,
    pub medium_errors: u64,
    pub timed_out: u64,
    pub looks: u64,
    pub starts: u64,
    pub crashes: u64,
    pub recovery_crashes: u64,
    pub halts: u64,
    pub disk_errors: u64,
    pub connections: u64,
    pub cuts: u64,
    pub closes: u64,
    pub link_bytes: u64,
    pub alarms: u64,
    pub conflicts: u64,
    pub journal_full: u64,
    pub destages: u64,
    pub cuts_compared: u64,
    pub digests_equal: u64,
    pub blocks_judged: u64,
    pub blocks_undecided: u64,
    pub swaps_matched: u64,
    pub swaps_missed: u64,
    pub kept_out: u64,
    pub requests: u64,
    pub granted: u64,
    pub sessions_lost: u64,
    pub tables_compared: u64,
    pub demands_judged: u64,
    pub fenced_off: u64,
    pub kept_behind: u64,
    pub discards: u64,
    pub power_losses_judged: u64,
    pub hand_overs: u64,
    pub refused_early: u64,
    pub races: u64,
    pub unit_connections: u64,
    pub unit_tasks: u64,
    pub unit_restarts: u64,
    pub units_compared: u64,
    pub units_differed: u64,
    pub faults: [u64; FAULTS],
}

impl Counts {
    /// The numbers with their names.
    pub fn list(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("commands asked", self.asked),
            ("reads done", self.reads),
            ("writes done", self.writes),
            ("flushes done", self.flushes),
            ("answered NotReady", self.not_ready),
            ("answered Busy", self.busy),
            ("answered MediumError", self.medium_errors),
            ("timed out", self.timed_out),
            ("looks at a site", self.looks),
            ("starts of a site", self.starts),
            ("crashes", self.crashes),
            ("crashes in recovery", self.recovery_crashes),
            ("halts", self.halts),
            ("disk orders failed", self.disk_errors),
            ("connections", self.connections),
            ("connections cut", self.cuts),
            ("links closed by a site", self.closes),
            ("link bytes", self.link_bytes),
            ("alarms", self.alarms),
            ("conflicts resolved", self.conflicts),
            ("times a journal was full", self.journal_full),
            ("destages", self.destages),
            ("cuts compared byte for byte", self.cuts_compared),
            ("digests equal", self.digests_equal),
            ("blocks judged linearizable", self.blocks_judged),
            ("blocks undecided", self.blocks_undecided),
            ("compare-and-writes matched", self.swaps_matched),
            ("compare-and-writes missed", self.swaps_missed),
            ("answered Conflict", self.kept_out),
            ("requests answered", self.requests),
            ("reserves granted", self.granted),
            ("sessions lost", self.sessions_lost),
            ("tables compared", self.tables_compared),
            ("effects of requests judged", self.demands_judged),
            ("writes fenced off", self.fenced_off),
            ("writes behind a grant", self.kept_behind),
            ("writes undone", self.discards),
            ("power losses judged", self.power_losses_judged),
            ("hand-overs", self.hand_overs),
            ("hand-overs asked too early", self.refused_early),
            ("races of two reserves", self.races),
            ("connections with units", self.unit_connections),
            ("data commands of units", self.unit_tasks),
            ("units restarted", self.unit_restarts),
            ("units compared", self.units_compared),
            ("differences of units told", self.units_differed),
        ]
    }

    /// Adds another run's numbers.
    pub fn add(&mut self, other: &Counts) {
        let Counts {
            asked,
            reads,
            writes,
            flushes,
            not_ready,
            busy,
            medium_errors,
            timed_out,
            looks,
            starts,
            crashes,
            recovery_crashes,
            halts,
            disk_errors,
            connections,
            cuts,
            closes,
            link_bytes,
            alarms,
            conflicts,
            journal_full,
            destages,
            cuts_compared,
            digests_equal,
            blocks_judged,
            blocks_undecided,
            swaps_matched,
            swaps_missed,
            kept_out,
            requests,
            granted,
            sessions_lost,
            tables_compared,
            demands_judged,
            fenced_off,
            kept_behind,
            discards,
            power_losses_judged,
            hand_overs,
            refused_early,
            races,
            unit_connections,
            unit_tasks,
            unit_restarts,
            units_compared,
            units_differed,
            faults,
        } = other;
        for (mine, theirs) in [
            (&mut self.asked, asked),
            (&mut self.reads, reads),
            (&mut self.writes, writes),
            (&mut self.flushes, flushes),
            (&mut self.not_ready, not_ready),
            (&mut self.busy, busy),
            (&mut self.medium_errors, medium_errors),
            (&mut self.timed_out, timed_out),
            (&mut self.looks, looks),
            (&mut self.starts, starts),
            (&mut self.crashes, crashes),
            (&mut self.recovery_crashes, recovery_crashes),
            (&mut self.halts, halts),
            (&mut self.disk_errors, disk_errors),
            (&mut self.connections, connections),
            (&mut self.cuts, cuts),
            (&mut self.closes, closes),
            (&mut self.link_bytes, link_bytes),
            (&mut self.alarms, alarms),
            (&mut self.conflicts, conflicts),
            (&mut self.journal_full, journal_full),
            (&mut self.destages, destages),
            (&mut self.cuts_compared, cuts_compared),
            (&mut self.digests_equal, digests_equal),
            (&mut self.blocks_judged, blocks_judged),
            (&mut self.blocks_undecided, blocks_undecided),
            (&mut self.swaps_matched, swaps_matched),
            (&mut self.swaps_missed, swaps_missed),
            (&mut self.kept_out, kept_out),
            (&mut self.requests, requests),
            (&mut self.granted, granted),
            (&mut self.sessions_lost, sessions_lost),
            (&mut self.tables_compared, tables_compared),
            (&mut self.demands_judged, demands_judged),
            (&mut self.fenced_off, fenced_off),
            (&mut self.kept_behind, kept_behind),
            (&mut self.discards, discards),
            (&mut self.power_losses_judged, power_losses_judged),
            (&mut self.hand_overs, hand_overs),
            (&mut self.refused_early, refused_early),
            (&mut self.races, races),
            (&mut self.unit_connections, unit_connections),
            (&mut self.unit_tasks, unit_tasks),
            (&mut self.unit_restarts, unit_restarts),
            (&mut self.units_compared, units_compared),
            (&mut self.units_differed, units_differed),
        ] {
            *mine += theirs;
        }
        for (mine, theirs) in self.faults.iter_mut().zip(faults) {
            *mine += theirs;
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in self.list() {
            writeln!(f, "  {name:<28} {count:>12}")?;
        }
        for (fault, count) in ALL_FAULTS.iter().zip(self.faults) {
            writeln!(f, "  {:<28} {count:>12}", format!("fault {fault:?}"))?;
        }
        Ok(())
    }
}

/// A run's end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Equal for equal runs.
    pub hash: u64,
    /// Happenings folded into the hash.
    pub steps: u64,
    /// Numbers.
    pub counts: Counts,
    /// Virtual time at the end.
    pub time: u64,
    /// The first broken promise.
    pub violation: Option<Violation>,
}
