//! Answers for the way of one write: single writes, one after the other, on a pair whose daemons note the moment at each of their
//! edges (`RUST_LOG=biplex::path=trace`), sorted into a table of medians.
//!
//! ```text
//! host ──▶ A: bytes in ─▶ orders out ─┬─▶ A: append begins ─▶ durable ─▶ core knows ──┐
//!                                     └─▶ A: link out ─▶ B: link in ─▶ … durable … ─▶ ├─▶ A: answer out ─▶ host
//!                                                        B: ack out ─▶ A: link in ────┘
//! ```

use crate::report::Spread;
use anyhow::ensure;
use serde_json::{Value, json};
use std::fmt;

/// A moment that a daemon noted.
struct Mark {
    site: usize,
    room: String,
    at: u64,
}

/// What is told of a write: at which site, the room as the daemon calls it, and in words.
const WAY: [(usize, &str, &str); 14] = [
    (0, "host-in", "A: command and data read"),
    (0, "link-out", "A: entry sent to B"),
    (0, "append-ordered", "A: append ordered"),
    (0, "append-begun", "A: append begun, by thread or ring"),
    (0, "append-durable", "A: durable"),
    (0, "append-known", "A: core knows"),
    (1, "link-in", "B: entry read"),
    (1, "append-ordered", "B: append ordered"),
    (1, "append-begun", "B: append begun, by thread or ring"),
    (1, "append-durable", "B: durable"),
    (1, "append-known", "B: core knows"),
    (1, "link-out", "B: ack sent to A"),
    (0, "link-in", "A: ack read"),
    (0, "host-out", "A: answer sent"),
];

/// One room on the way.
pub struct Step {
    /// In words.
    pub name: &'static str,
    /// Nanoseconds since the host submitted the write.
    pub since_submission: Spread,
    /// Nanoseconds since the step that it follows from.
    pub since_cause: Spread,
    /// Writes on which it was seen.
    pub seen: usize,
}

/// The way of a write.
pub struct Trace {
    /// Its rooms.
    pub steps: Vec<Step>,
    /// Writes traced.
    pub writes: usize,
}

/// Which step a step follows from, by number in [`WAY`]; the first from the submission.
const CAUSE: [Option<usize>; 14] = [
    None,
    Some(0),
    Some(0),
    Some(2),
    Some(3),
    Some(4),
    Some(1),
    Some(6),
    Some(7),
    Some(8),
    Some(9),
    Some(10),
    Some(11),
    None,
];

impl Trace {
    /// Sorts the marks of both sites' logs into the writes whose times the host kept.
    pub fn from_logs(logs: &[String], times: &[(u64, u64)]) -> anyhow::Result<Trace> {
        let marks: Vec<Mark> = logs.iter().enumerate().flat_map(|(site, log)| marks_of(site, log)).collect();
        ensure!(!marks.is_empty(), "the daemons noted nothing; is BIPLEX_BIN an older one?");
        let mut since_submission = vec![Vec::new(); WAY.len()];
        let mut since_cause = vec![Vec::new(); WAY.len()];
        let mut whole = Vec::new();
        for (submitted, ended) in times {
            let mut seen = [None; WAY.len()];
            for (number, (site, room, _)) in WAY.iter().enumerate() {
                let from = CAUSE[number].map_or(Some(*submitted), |cause| seen[cause]);
                let from = if number + 1 == WAY.len() { seen[12].max(seen[5]) } else { from };
                let Some(from) = from else { continue };
                let fits = |mark: &&Mark| {
                    mark.site == *site && mark.room == *room && (from..=*ended).contains(&mark.at)
                };
                let at = marks.iter().filter(fits).map(|mark| mark.at).min();
                if let Some(at) = at {
                    seen[number] = Some(at);
                    since_submission[number].push((at - submitted) as f64);
                    since_cause[number].push((at - from) as f64);
                }
            }
            let sent = seen[13].unwrap_or(*ended);
            whole.push(((ended - submitted) as f64, (ended - sent) as f64));
        }
        let mut steps = Vec::new();
        for (number, (_, _, name)) in WAY.iter().enumerate() {
            let spreads = Spread::of(since_submission[number].iter().copied())
                .zip(Spread::of(since_cause[number].iter().copied()));
            if let Some((since_submission_spread, since_cause_spread)) = spreads {
                steps.push(Step {
                    name,
                    since_submission: since_submission_spread,
                    since_cause: since_cause_spread,
                    seen: since_submission[number].len(),
                });
            }
        }
        if let Some((since_submission, since_cause)) =
            Spread::of(whole.iter().map(|both| both.0)).zip(Spread::of(whole.iter().map(|both| both.1)))
        {
            steps.push(Step { name: "host: answer read", since_submission, since_cause, seen: whole.len() });
        }
        Ok(Trace { steps, writes: times.len() })
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let steps = self.steps.iter().map(|step| {
            json!({
                "step": step.name,
                "since_submission_ns": step.since_submission.median,
                "since_cause_ns": step.since_cause.median,
                "seen": step.seen,
            })
        });
        json!({ "writes": self.writes, "steps": steps.collect::<Vec<_>>() })
    }
}

/// A line of a log with a mark has `path room=NAME at=NANOSECONDS`.
fn marks_of(site: usize, log: &str) -> impl Iterator<Item = Mark> {
    log.lines().filter_map(move |line| {
        let room = line.split_once("room=")?.1.split_whitespace().next()?.to_owned();
        let at = line.split_once("at=")?.1.split_whitespace().next()?.parse().ok()?;
        Some(Mark { site, room, at })
    })
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n4 KiB sync writes, one after the other, plain line: medians of {} writes, µs",
            self.writes
        )?;
        writeln!(f, "{:<42} {:>16} {:>28}", "", "since submission", "since its cause [min … max]")?;
        for step in &self.steps {
            let Spread { median, min, max } = step.since_cause;
            let cause = format!("{:.0} [{:.0} … {:.0}]", median / 1e3, min / 1e3, max / 1e3);
            writeln!(f, "{:<42} {:>16.0} {cause:>28}", step.name, step.since_submission.median / 1e3)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_the_first_mark_after_its_cause() {
        let a = "x biplex::path: room=host-in at=110\n room=link-in at=111\n room=link-out at=130\n\
                 room=append-ordered at=120\nroom=append-begun at=140\nroom=append-durable at=200\n\
                 room=append-known at=210\nroom=link-in at=260\nroom=host-out at=270\n";
        let b = "room=link-in at=150\nroom=append-ordered at=155\nroom=append-begun at=160\n\
                 room=append-durable at=220\nroom=append-known at=230\nroom=link-out at=240\n";
        let trace = Trace::from_logs(&[a.to_owned(), b.to_owned()], &[(100, 290)]).expect("marks");
        let times: Vec<f64> = trace.steps.iter().map(|step| step.since_submission.median).collect();
        assert_eq!(
            times,
            [
                10.0, 30.0, 20.0, 40.0, 100.0, 110.0, 50.0, 55.0, 60.0, 120.0, 130.0, 140.0, 160.0, 170.0,
                190.0
            ]
        );
        assert_eq!(trace.steps[12].since_cause.median, 20.0, "the ack, from when it was sent");
        assert_eq!(
            trace.steps[13].since_cause.median, 10.0,
            "the answer, from the later of ack and own journal"
        );
    }
}
