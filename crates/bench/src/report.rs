//! Answers for what the figures mean: medians over slices, ratios between contenders of the same round, the aims and
//! whether they are met; for people and for programs.

use crate::cases::{Case, Contender, Figures, Row};
use crate::reserving::Reserving;
use crate::trace::Trace;
use serde_json::{Value, json};
use std::fmt::{self, Write};

/// A sync write may take so much of its floor.
const SYNC_TO_FLOOR_MAX: f64 = 1.3;

/// Middle, least and greatest of the slices.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// Median.
    pub median: f64,
    /// Least.
    pub min: f64,
    /// Greatest.
    pub max: f64,
}

impl Spread {
    /// Of some figures; `None` of none.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut figures: Vec<f64> = figures.into_iter().filter(|figure| figure.is_finite()).collect();
        figures.sort_by(f64::total_cmp);
        let (min, max) = (*figures.first()?, *figures.last()?);
        let (lower, upper) = (figures[(figures.len() - 1) / 2], figures[figures.len() / 2]);
        Some(Spread { median: (lower + upper) / 2.0, min, max })
    }

    /// For programs.
    pub fn to_json(self) -> Value {
        json!({ "median": self.median, "min": self.min, "max": self.max })
    }
}

/// An aim and how it went.
pub struct Aim {
    /// What was aimed at.
    pub name: String,
    /// The ratio measured.
    pub ratio: Spread,
    /// What it should be: at least (`true`) or at most this.
    pub bound: (bool, f64),
    /// What stands behind it.
    pub how: String,
}

impl Aim {
    /// Whether the median meets it. `None` where something is said to be faster than its own floor: then the floor
    /// was disturbed, and nothing can be said.
    pub fn met(&self) -> Option<bool> {
        let (at_least, bound) = self.bound;
        match (at_least, self.ratio.median) {
            (true, ratio) => Some(ratio >= bound),
            (false, ratio) if ratio < 1.0 => None,
            (false, ratio) => Some(ratio <= bound),
        }
    }
}

/// All that a run measured.
#[derive(Default)]
pub struct Report {
    /// Cases and their rows.
    pub cases: Vec<(Case, Vec<Row>)>,
    /// One write's way.
    pub trace: Option<Trace>,
    /// What reservations cost.
    pub reserving: Option<Reserving>,
    /// The hold table.
    pub hold: Option<crate::hold::HoldReport>,
}

impl Report {
    fn slices(&self, case: &str, contender: Contender) -> &[Figures] {
        let rows = self.cases.iter().find(|(of, _)| of.name == case).map(|(_, rows)| rows);
        let row = rows.and_then(|rows| rows.iter().find(|row| row.contender == contender));
        row.map_or(&[], |row| &row.slices)
    }

    /// Ratio of rates, slice by slice: those of one round met the same mood of the machine.
    fn rates(&self, case: &str, own: Contender, other: Contender) -> Option<Spread> {
        let pairs = self.slices(case, own).iter().zip(self.slices(case, other));
        Spread::of(pairs.map(|(own, other)| own.rate / other.rate))
    }

    /// The aims of this run's cases.
    pub fn aims(&self) -> Vec<Aim> {
        let mut aims = Vec::new();
        for (case, _) in &self.cases {
            let contenders: &[Contender] =
                if case.writes() { &[Contender::Async] } else { &[Contender::Sync, Contender::Async] };
            for own in contenders {
                if let Some(ratio) = self.rates(case.name, *own, Contender::Tgt) {
                    let (name, how) = (
                        format!("{} {own} : {}", case.name, Contender::Tgt),
                        "operations per second, at least tgt's".to_owned(),
                    );
                    aims.push(Aim { name, ratio, bound: (true, 1.0), how });
                }
            }
        }
        for own in [Contender::Sync, Contender::SyncTls] {
            let case = "write-4k-qd1";
            // Neighbours on the machine hit the bare measurements harder than the rest, and a floor that was
            // disturbed flatters: so the quietest slices of each are compared, and the aim is judged by them.
            let quietest = |contender| {
                Spread::of(self.slices(case, contender).iter().map(|figures| figures.p50)).map(|p50| p50.min)
            };
            let trip = quietest(Contender::RoundTrip);
            let sum = quietest(Contender::Append).zip(trip).map(|(append, trip)| append + trip);
            let floors = [
                ("floor", sum, "bare append + bare round trip"),
                ("measured floor", quietest(Contender::Mirrored), "bare mirrored append"),
            ];
            for (name, floor, what) in floors {
                for (hosts, suffix) in [(0.0, ""), (1.0, " and the host's own round trip")] {
                    let whole = floor.zip(trip).map(|(floor, trip)| floor + hosts * trip);
                    let p50 = quietest(own).zip(whole).map(|(own, whole)| own / whole);
                    if let Some(ratio) = Spread::of(p50) {
                        let how = format!("p50 of the quietest slice; floor: {what}");
                        let name = format!("{case} {own} : {name}{suffix}");
                        aims.push(Aim { name, ratio, bound: (false, SYNC_TO_FLOOR_MAX), how });
                    }
                }
            }
        }
        aims
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let spread = |row: &Row, figure: fn(&Figures) -> Option<f64>| {
            Spread::of(row.slices.iter().filter_map(figure)).map(Spread::to_json)
        };
        let cases = self.cases.iter().flat_map(|(case, rows)| {
            rows.iter().map(move |row| {
                json!({
                    "case": case.name,
                    "contender": row.contender.to_string(),
                    "slices": row.slices.len(),
                    "operations_per_second": spread(row, |figures| Some(figures.rate)),
                    "p50_ns": spread(row, |figures| Some(figures.p50)),
                    "p99_ns": spread(row, |figures| Some(figures.p99)),
                    "cpu_ns_per_operation": spread(row, |figures| figures.cpu),
                    "medium_bytes_per_host_byte": spread(row, |figures| figures.medium),
                    "journal_bytes_per_host_byte": spread(row, |figures| figures.journal),
                    "store_bytes_per_host_byte": spread(row, |figures| figures.store),
                    "rate_to_tgt":
                        self.rates(case.name, row.contender, Contender::Tgt).map(Spread::to_json),
                })
            })
        });
        let aims = self.aims();
        let aims = aims.iter().map(|aim| {
            let (at_least, bound) = aim.bound;
            json!({
                "aim": aim.name, "ratio": aim.ratio.to_json(), "bound": bound, "at_least": at_least,
                "met": aim.met(),
            })
        });
        json!({
            "cases": cases.collect::<Vec<_>>(),
            "aims": aims.collect::<Vec<_>>(),
            "reservations": self.reserving.as_ref().map(Reserving::to_json),
            "trace": self.trace.as_ref().map(Trace::to_json),
            "hold": self.hold.as_ref().map(crate::hold::HoldReport::to_json),
        })
    }
}

/// One case as a table.
pub fn show_case(report: &Report, case: &Case, rows: &[Row]) -> String {
    let mut text = format!(
        "\n{}\n{:<22} {:>24} {:>8} {:>8} {:>18} {:>8} {:>22}\n",
        case.name,
        "",
        "op/s [min … max]",
        "p50 µs",
        "p99 µs",
        "rate : tgt",
        "CPU µs",
        "medium (journal+store)"
    );
    for row in rows {
        let median = |figure: fn(&Figures) -> Option<f64>| {
            Spread::of(row.slices.iter().filter_map(figure)).map(|spread| spread.median)
        };
        let show = |figure: Option<f64>, scale: f64, digits: usize| {
            figure.map_or_else(|| "-".to_owned(), |figure| format!("{:.digits$}", figure / scale))
        };
        let rate = Spread::of(row.slices.iter().map(|figures| figures.rate));
        let rate = rate.map_or_else(String::new, |rate| {
            format!("{:.0} [{:.0} … {:.0}]", rate.median, rate.min, rate.max)
        });
        let ratio = report.rates(case.name, row.contender, Contender::Tgt);
        let ratio = ratio.map_or_else(
            || "-".to_owned(),
            |ratio| format!("{:.2} [{:.2} … {:.2}]", ratio.median, ratio.min, ratio.max),
        );
        let medium = match (median(|figures| figures.medium), median(|figures| figures.journal)) {
            (Some(medium), Some(journal)) => {
                let store = show(median(|figures| figures.store), 1.0, 2);
                format!("{medium:.2} ({journal:.2}+{store})")
            }
            (Some(medium), None) => format!("{medium:.2}"),
            (None, _) => "-".to_owned(),
        };
        let written = writeln!(
            text,
            "{:<22} {rate:>24} {:>8} {:>8} {ratio:>18} {:>8} {medium:>22}",
            row.contender,
            show(median(|figures| Some(figures.p50)), 1e3, 0),
            show(median(|figures| Some(figures.p99)), 1e3, 0),
            show(median(|figures| figures.cpu), 1e3, 0),
        );
        written.expect("a String takes all that is written to it");
    }
    text
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spread { median, min, max } = self.ratio;
        let (at_least, bound) = self.bound;
        write!(
            f,
            "{:<9} {:<68} {median:.2} [{min:.2} … {max:.2}], aim {} {bound:.2} ({})",
            match self.met() {
                Some(true) => "met",
                Some(false) => "NOT MET",
                None => "DISTURBED",
            },
            self.name,
            if at_least { "≥" } else { "≤" },
            self.how
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(contender: Contender, p50: f64, rates: &[f64]) -> Row {
        let slices = rates.iter().map(|rate| Figures { rate: *rate, p50, ..Figures::default() });
        Row { contender, slices: slices.collect() }
    }

    #[test]
    fn ratios_are_taken_within_a_round_and_aims_judged_by_their_median() {
        let case = crate::cases::CASES[0];
        let rows = vec![
            row(Contender::Sync, 300.0, &[1.0, 1.0, 1.0]),
            row(Contender::Async, 100.0, &[10.0, 100.0, 60.0]),
            row(Contender::Tgt, 100.0, &[20.0, 50.0, 30.0]),
            row(Contender::Append, 150.0, &[1.0, 1.0, 1.0]),
            row(Contender::RoundTrip, 50.0, &[1.0, 1.0, 1.0]),
        ];
        let report = Report { cases: vec![(case, rows)], ..Report::default() };
        let aims = report.aims();
        let judged: Vec<(f64, Option<bool>)> = aims.iter().map(|aim| (aim.ratio.median, aim.met())).collect();
        assert_eq!(judged, [(2.0, Some(true)), (1.5, Some(false)), (1.2, Some(true))]);
        assert_eq!((aims[0].ratio.min, aims[0].ratio.max), (0.5, 2.0));
    }
}
