//! Answers for what reservations cost: how long one request takes, on loopback and over a long line, beside tgt, which
//! keeps them for itself alone and in memory; and what a reservation that is held costs reads and writes.

use crate::cases::{Biplex, Case};
use crate::floor::RoundTrip;
use crate::generator::{HostDisk, Limit, Load, Session, Sync};
use crate::report::Spread;
use anyhow::Context;
use biplex_front::iscsi::initiator::{
    Payload, compare_and_write, extent_element, persistent_parameters, persistent_reserve_out, release6,
    reserve6, reserve6_extents, test_unit_ready, write16,
};
use bytes::Bytes;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::fmt;
use std::time::{Duration, Instant};

const KEY: u64 = 0xb1;
const BLOCK: usize = 512;
/// SCSI status of a COMPARE AND WRITE that finds something else (SAM-5 5.3.1).
const CHECK_CONDITION: u8 = 2;
/// Extents of the table that reads and writes are judged against.
const EXTENTS: u32 = 64;

/// PERSISTENT RESERVE OUT, service actions (SPC-4 table 216).
const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const RELEASE: u8 = 2;
const CLEAR: u8 = 3;
/// Write exclusive, registrants only (SPC-4 table 207).
const REGISTRANTS: u8 = 5;

/// What is asked, in this order, again and again.
const REQUESTS: [(&str, Request); 10] = [
    ("TEST UNIT READY", Request::Ready),
    ("WRITE(16), one block", Request::Write),
    ("RESERVE(6)", Request::Reserve),
    ("RELEASE(6)", Request::Release),
    ("PR OUT REGISTER", Request::Persistent(REGISTER, 0, KEY)),
    ("PR OUT RESERVE", Request::Persistent(RESERVE, KEY, 0)),
    ("PR OUT RELEASE", Request::Persistent(RELEASE, KEY, 0)),
    ("PR OUT CLEAR", Request::Persistent(CLEAR, KEY, 0)),
    ("COMPARE AND WRITE, equal", Request::Swap { equal: true }),
    ("COMPARE AND WRITE, unequal", Request::Swap { equal: false }),
];

#[derive(Clone, Copy)]
enum Request {
    Ready,
    Write,
    Reserve,
    Release,
    /// Service action, key, service action's key.
    Persistent(u8, u64, u64),
    Swap {
        equal: bool,
    },
}

impl Request {
    /// Command, data, and the status that it must end with.
    fn order(self) -> ([u8; 16], Payload, u8) {
        let blocks = |bytes: [u8; 2]| {
            let data: Vec<u8> = bytes.iter().flat_map(|byte| [*byte; BLOCK]).collect();
            Payload::Out(data.into())
        };
        match self {
            Request::Ready => (test_unit_ready(), Payload::None, 0),
            Request::Write => (write16(0, 1, false), Payload::Out(Bytes::from_static(&[1; BLOCK])), 0),
            Request::Reserve => (reserve6(), Payload::None, 0),
            Request::Release => (release6(), Payload::None, 0),
            Request::Persistent(action, key, other) => persistent(action, key, other),
            // The write has left a 1 there.
            Request::Swap { equal: true } => (compare_and_write(0, 1), blocks([1, 2]), 0),
            Request::Swap { equal: false } => (compare_and_write(0, 1), blocks([1, 3]), CHECK_CONDITION),
        }
    }
}

fn persistent(action: u8, key: u64, other: u64) -> ([u8; 16], Payload, u8) {
    let data = Bytes::copy_from_slice(&persistent_parameters(key, other, false));
    (persistent_reserve_out(action, if action == CLEAR { 0 } else { REGISTRANTS }), Payload::Out(data), 0)
}

/// Median and 99th percentile of a request at one target, nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    p50: f64,
    p99: f64,
}

/// How long each request takes at `disk`, one after the other; `None` for one that it does not know. What they write over is
/// written anew afterwards.
pub fn requests(disk: &mut HostDisk, rounds: usize) -> anyhow::Result<Vec<Option<Took>>> {
    let mut session = disk.session()?;
    let mut taken = Vec::new();
    for _ in REQUESTS {
        taken.push(Some(Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?));
    }
    for _ in 0..rounds {
        for ((_, request), taken) in REQUESTS.iter().zip(&mut taken) {
            let (cdb, payload, expected) = request.order();
            let began = Instant::now();
            let status = session.command(cdb, payload)?;
            match taken {
                Some(latency) if status == expected => {
                    latency.saturating_record(began.elapsed().as_nanos() as u64);
                }
                _ => *taken = None,
            }
        }
    }
    session.close();
    disk.fill()?;
    let took = |latency: Histogram<u64>| Took {
        p50: latency.value_at_quantile(0.5) as f64,
        p99: latency.value_at_quantile(0.99) as f64,
    };
    let mut taken: Vec<_> = taken.into_iter().map(|latency| latency.map(took)).collect();
    // A target that does not know COMPARE AND WRITE ends it as one that finds something else does.
    if let [.., None, unequal] = &mut taken[..] {
        *unequal = None;
    }
    Ok(taken)
}

/// What is held while a load runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Held {
    /// Nothing.
    Nothing,
    /// The unit, by RESERVE(6).
    Unit,
    /// The unit, persistent, by registrants.
    Persistent,
    /// Extents, by RESERVE(6), spread over the disk.
    Extents,
}

const ALL_HELD: [Held; 4] = [Held::Nothing, Held::Unit, Held::Persistent, Held::Extents];

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Held::Nothing => "nothing",
            Held::Unit => "the unit, RESERVE(6)",
            Held::Persistent => "the unit, persistent",
            Held::Extents => "64 extents, RESERVE(6)",
        })
    }
}

impl Held {
    /// Reserves in this session, whose host then loads the disk of so many blocks.
    pub fn take(self, session: &mut Session, blocks: u64) -> anyhow::Result<()> {
        match self {
            Held::Nothing => Ok(()),
            Held::Unit => session.expect_good(reserve6(), Payload::None),
            Held::Persistent => {
                for (action, key, other) in [(REGISTER, 0, KEY), (RESERVE, KEY, 0)] {
                    let (cdb, payload, _) = persistent(action, key, other);
                    session.expect_good(cdb, payload)?;
                }
                Ok(())
            }
            Held::Extents => {
                let apart = (blocks / u64::from(EXTENTS)) as u32;
                let list: Vec<u8> =
                    (0..EXTENTS).flat_map(|number| extent_element(1, number * apart, apart / 2)).collect();
                let cdb = reserve6_extents(1, list.len() as u16);
                session.expect_good(cdb, Payload::Out(list.into()))
            }
        }
    }

    /// Gives it back; what a session's end releases is left to that.
    pub fn give_back(self, session: &mut Session) -> anyhow::Result<()> {
        match self {
            Held::Nothing | Held::Unit | Held::Extents => Ok(()),
            Held::Persistent => {
                let (cdb, payload, _) = persistent(CLEAR, KEY, 0);
                session.expect_good(cdb, payload)
            }
        }
    }
}

/// Rates of a case under each reservation, slice by slice.
pub struct Cost {
    case: &'static str,
    rates: Vec<(Held, Vec<f64>)>,
}

impl Cost {
    /// Measures a case in turns.
    pub fn of(biplex: &mut Biplex, case: &Case, slices: usize, time: Duration) -> anyhow::Result<Cost> {
        let mut rates = ALL_HELD.map(|held| (held, Vec::new()));
        for _ in 0..slices {
            for (held, rates) in &mut rates {
                let (access, pages, depth) = (case.access, case.pages, case.depth);
                let load = Load { access, pages, depth, sync: Sync::Never, held: *held };
                let slice =
                    biplex.sync_disk().run(load, Limit::Time(time)).with_context(|| held.to_string())?;
                biplex.pair.settle()?;
                rates.push(slice.rate());
            }
        }
        Ok(Cost { case: case.name, rates: rates.into() })
    }

    /// Each reservation's rate to that of the same round without one.
    pub fn ratios(&self) -> Vec<(Held, Option<Spread>)> {
        let free = &self.rates[0].1;
        let ratio = |rates: &[f64]| Spread::of(rates.iter().zip(free).map(|(rate, free)| rate / free));
        self.rates[1..].iter().map(|(held, rates)| (*held, ratio(rates))).collect()
    }
}

/// All that was measured of reservations.
pub struct Reserving {
    /// At Biplex on loopback.
    pub near: Vec<Option<Took>>,
    /// At Biplex over a long line.
    pub far: Vec<Option<Took>>,
    /// At tgt, if it is installed.
    pub tgt: Option<Vec<Option<Took>>>,
    /// A bare round trip on loopback, nanoseconds.
    pub near_trip: f64,
    /// A bare round trip over the long line, nanoseconds.
    pub far_trip: f64,
    /// What holding one costs.
    pub costs: Vec<Cost>,
}

/// A bare round trip's median over a line of this delay each way, nanoseconds.
pub fn round_trip(delay: Duration) -> anyhow::Result<f64> {
    let time = Duration::from_millis(500).max(40 * delay);
    let mut trip = if delay.is_zero() { RoundTrip::new()? } else { RoundTrip::over(delay)? };
    Ok(trip.run(time)?.p50)
}

impl Reserving {
    /// For programs.
    pub fn to_json(&self) -> Value {
        let took = |took: Option<Took>| took.map(|took| json!({ "p50_ns": took.p50, "p99_ns": took.p99 }));
        let requests = REQUESTS.iter().enumerate().map(|(at, (name, _))| {
            json!({
                "request": name,
                "biplex": took(self.near[at]),
                "biplex_long_line": took(self.far[at]),
                "tgt": self.tgt.as_ref().and_then(|tgt| took(tgt[at])),
            })
        });
        let costs = self.costs.iter().flat_map(|cost| {
            cost.ratios().into_iter().map(|(held, ratio)| {
                json!({ "case": cost.case, "held": held.to_string(), "rate_to_free": ratio.map(Spread::to_json) })
            })
        });
        json!({
            "round_trip_ns": self.near_trip,
            "long_round_trip_ns": self.far_trip,
            "requests": requests.collect::<Vec<_>>(),
            "held": costs.collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Reserving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (near, far) = (self.near_trip / 1e3, self.far_trip / 1e3);
        writeln!(
            f,
            "\nrequests, one after the other, sync volume at site a; a bare round trip takes {near:.0} µs on \
             loopback, {far:.0} µs on the long line\n\
             {:<28} {:>8} {:>8} {:>12} {:>8} {:>8} | {:>9} {:>9} {:>12}",
            "", "p50 µs", "p99 µs", "× trip", "tgt p50", ": tgt", "p50 µs", "p99 µs", "× long trip"
        )?;
        for (at, (name, _)) in REQUESTS.iter().enumerate() {
            let show = |figure: Option<f64>, digits: usize| {
                figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.digits$}"))
            };
            let (near, far) = (self.near[at], self.far[at]);
            let tgt = self.tgt.as_ref().and_then(|tgt| tgt[at]);
            let to_tgt = near.zip(tgt).map(|(near, tgt)| near.p50 / tgt.p50);
            writeln!(
                f,
                "{name:<28} {:>8} {:>8} {:>12} {:>8} {:>8} | {:>9} {:>9} {:>12}",
                show(near.map(|near| near.p50 / 1e3), 0),
                show(near.map(|near| near.p99 / 1e3), 0),
                show(near.map(|near| near.p50 / self.near_trip), 1),
                show(tgt.map(|tgt| tgt.p50 / 1e3), 0),
                show(to_tgt, 2),
                show(far.map(|far| far.p50 / 1e3), 0),
                show(far.map(|far| far.p99 / 1e3), 0),
                show(far.map(|far| far.p50 / self.far_trip), 2),
            )?;
        }
        writeln!(
            f,
            "\nrate while something is held, to the rate of the same round without: median [min … max]"
        )?;
        for cost in &self.costs {
            for (held, ratio) in cost.ratios() {
                let Some(Spread { median, min, max }) = ratio else { continue };
                writeln!(f, "{:<16} {held:<24} {median:.2} [{min:.2} … {max:.2}]", cost.case)?;
            }
        }
        Ok(())
    }
}
