//! Answers for what is measured: the cases, who takes part in each, and the slices, taken in turns so that the
//! machine's moods meet everyone alike.

use crate::floor::{Append, Bare, Fio, Mirrored, RoundTrip};
use crate::generator::{Access, HostDisk, Limit, Load, Sync};
use crate::pair::{self, Pair, Written};
use crate::process::Usage;
use crate::reserving::Held;
use crate::tgt::{self, Tgt};
use std::fmt;
use std::time::Duration;

/// One way of loading a disk.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// For `--only` and the table.
    pub name: &'static str,
    /// What is done.
    pub access: Access,
    /// Pages of 4 KiB in an operation.
    pub pages: u32,
    /// Operations under way at a time.
    pub depth: usize,
    /// What fio calls it.
    pub fio: &'static str,
}

/// All cases.
pub const CASES: [Case; 6] = [
    case("write-4k-qd1", Access::RandomWrite, 1, 1, "randwrite"),
    case("write-4k-qd32", Access::RandomWrite, 1, 32, "randwrite"),
    case("read-4k-qd1", Access::RandomRead, 1, 1, "randread"),
    case("read-4k-qd32", Access::RandomRead, 1, 32, "randread"),
    case("write-128k-seq-qd8", Access::SequentialWrite, 32, 8, "write"),
    case("read-128k-seq-qd8", Access::SequentialRead, 32, 8, "read"),
];

const fn case(name: &'static str, access: Access, pages: u32, depth: usize, fio: &'static str) -> Case {
    Case { name, access, pages, depth, fio }
}

impl Case {
    /// Whether it writes.
    pub fn writes(&self) -> bool {
        match self.access {
            Access::RandomWrite | Access::SequentialWrite => true,
            Access::RandomRead | Access::SequentialRead => false,
        }
    }
}

/// Who takes part.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Contender {
    /// Biplex, sync volume, plain TCP between the sites.
    Sync,
    /// Biplex, sync volume, TLS 1.3 between the sites.
    SyncTls,
    /// Biplex, async volume, plain TCP between the sites.
    Async,
    /// tgt, each write followed by SYNCHRONIZE CACHE (reads: as they are).
    Tgt,
    /// tgt, as many writes as the queue is deep, then one SYNCHRONIZE CACHE.
    TgtRound,
    /// tgt, writes that are not made durable.
    TgtCached,
    /// fio past the page cache, writes with O_DSYNC.
    Fio,
    /// A bare O_DIRECT|O_DSYNC append of 4 KiB.
    Append,
    /// A bare append of 4 KiB at two places at once, with the round trip between them.
    Mirrored,
    /// A bare round trip of 4 KiB and 48 bytes over loopback TCP.
    RoundTrip,
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Contender::Sync => "biplex sync",
            Contender::SyncTls => "biplex sync, TLS",
            Contender::Async => "biplex async",
            Contender::Tgt => "tgt, durable",
            Contender::TgtRound => "tgt, one sync a round",
            Contender::TgtCached => "tgt, not durable",
            Contender::Fio => "fio, raw",
            Contender::Append => "bare append 4 KiB",
            Contender::Mirrored => "bare mirrored append",
            Contender::RoundTrip => "bare round trip 4 KiB",
        })
    }
}

impl Contender {
    /// Who takes part in a case.
    pub fn of(case: &Case) -> Vec<Contender> {
        use Contender::*;
        match (case.writes(), case.depth) {
            (true, 1) => vec![Sync, Tgt, Mirrored, SyncTls, Async, RoundTrip, Append, TgtCached, Fio],
            (true, _) => vec![Sync, Tgt, SyncTls, Async, TgtRound, Fio, TgtCached],
            (false, 1) => vec![Sync, Tgt, RoundTrip, Async, Fio],
            (false, _) => vec![Sync, Tgt, Async, Fio],
        }
    }
}

/// One slice's figures.
#[derive(Clone, Copy, Default, Debug)]
pub struct Figures {
    /// Operations per second.
    pub rate: f64,
    /// Median, nanoseconds.
    pub p50: f64,
    /// 99th percentile, nanoseconds.
    pub p99: f64,
    /// Nanoseconds of processor per operation: for Biplex both sites, destaging included.
    pub cpu: Option<f64>,
    /// Bytes that the kernel sent to the medium per byte of the host, both sites, destaging included.
    pub medium: Option<f64>,
    /// The same as the sites count it: to the journals.
    pub journal: Option<f64>,
    /// To the backing stores.
    pub store: Option<f64>,
}

impl From<Bare> for Figures {
    fn from(bare: Bare) -> Figures {
        Figures { rate: bare.rate, p50: bare.p50, p99: bare.p99, ..Figures::default() }
    }
}

/// A Biplex pair and its two disks as a host knows them.
pub struct Biplex {
    /// The daemons.
    pub pair: Pair,
    sync: HostDisk,
    async_: HostDisk,
}

impl Biplex {
    /// Writes both disks once.
    pub fn new(pair: Pair, bytes: u64) -> anyhow::Result<Biplex> {
        let disk = |unit| HostDisk::new(pair.portal, pair::TARGET, unit, bytes);
        let (sync, async_) = (disk(pair::SYNC), disk(pair::ASYNC));
        let mut biplex = Biplex { pair, sync, async_ };
        biplex.sync.fill()?;
        biplex.async_.fill()?;
        biplex.pair.settle()?;
        Ok(biplex)
    }

    /// The sync disk, for single writes.
    pub fn sync_disk(&mut self) -> &mut HostDisk {
        &mut self.sync
    }

    /// One slice. What follows from it (destaging) is waited for and counted.
    fn slice(&mut self, asynchronous: bool, load: Load, time: Duration) -> anyhow::Result<Figures> {
        let before = (self.pair.usage()?, self.pair.written()?);
        let disk = if asynchronous { &mut self.async_ } else { &mut self.sync };
        let slice =
            disk.run(load, Limit::Time(time)).map_err(|error| error.context(self.pair.last_words()))?;
        self.pair.settle()?;
        let (usage, written) = (self.pair.usage()? - before.0, self.pair.written()?);
        let Written { journal, store } = written;
        let mut figures = figures(&slice, usage);
        if figures.medium.is_some() {
            figures.journal = Some((journal - before.1.journal) as f64 / slice.bytes as f64);
            figures.store = Some((store - before.1.store) as f64 / slice.bytes as f64);
        }
        Ok(figures)
    }
}

fn figures(slice: &crate::generator::Slice, usage: Usage) -> Figures {
    let operations = slice.operations.max(1) as f64;
    Figures {
        rate: slice.rate(),
        p50: slice.latency.value_at_quantile(0.5) as f64,
        p99: slice.latency.value_at_quantile(0.99) as f64,
        cpu: Some(usage.cpu as f64 / operations),
        medium: slice.wrote.then(|| usage.written as f64 / slice.bytes.max(1) as f64),
        ..Figures::default()
    }
}

/// Everyone, up and running.
pub struct Field {
    /// The pair with a plain line.
    pub plain: Biplex,
    /// The pair with a TLS line.
    pub tls: Biplex,
    /// tgt and its disk, if it is installed.
    pub tgt: Option<(Tgt, HostDisk)>,
    /// fio, if it is installed.
    pub fio: Option<Fio>,
    /// Bare appends.
    pub append: Append,
    /// Bare appends at two places.
    pub mirrored: Mirrored,
    /// Bare round trips.
    pub round_trip: RoundTrip,
}

/// tgt's disk, written once.
pub fn tgt_disk(tgt: &Tgt, bytes: u64) -> anyhow::Result<HostDisk> {
    let mut disk = HostDisk::new(tgt.portal, tgt::TARGET, tgt::UNIT, bytes);
    disk.fill()?;
    Ok(disk)
}

/// What a contender did in the slices of a case.
pub struct Row {
    /// Who.
    pub contender: Contender,
    /// Slice by slice.
    pub slices: Vec<Figures>,
}

impl Field {
    /// Measures a case in turns.
    pub fn measure(&mut self, case: &Case, slices: usize, time: Duration) -> anyhow::Result<Vec<Row>> {
        let mut rows: Vec<Row> = Contender::of(case)
            .into_iter()
            .filter(|contender| self.has(*contender))
            .map(|contender| Row { contender, slices: Vec::new() })
            .collect();
        for _ in 0..slices {
            for row in &mut rows {
                row.slices.push(self.slice(row.contender, case, time)?);
            }
        }
        Ok(rows)
    }

    fn has(&self, contender: Contender) -> bool {
        match contender {
            Contender::Tgt | Contender::TgtRound | Contender::TgtCached => self.tgt.is_some(),
            Contender::Fio => self.fio.is_some(),
            Contender::Sync
            | Contender::SyncTls
            | Contender::Async
            | Contender::Append
            | Contender::Mirrored
            | Contender::RoundTrip => true,
        }
    }

    fn slice(&mut self, contender: Contender, case: &Case, time: Duration) -> anyhow::Result<Figures> {
        let (access, pages, depth) = (case.access, case.pages, case.depth);
        let load = |sync| Load { access, pages, depth, sync, held: Held::Nothing };
        match contender {
            Contender::Sync => self.plain.slice(false, load(Sync::Never), time),
            Contender::SyncTls => self.tls.slice(false, load(Sync::Never), time),
            Contender::Async => self.plain.slice(true, load(Sync::Never), time),
            Contender::Tgt if case.writes() => self.slice_of_tgt(load(Sync::Each), time),
            Contender::Tgt | Contender::TgtCached => self.slice_of_tgt(load(Sync::Never), time),
            Contender::TgtRound => self.slice_of_tgt(load(Sync::Round), time),
            Contender::Fio => match &self.fio {
                Some(fio) => Ok(fio.run(case.fio, case.pages as usize * 4096, case.depth, time)?.into()),
                None => anyhow::bail!("fio is not installed"),
            },
            Contender::Append => Ok(self.append.run(time)?.into()),
            Contender::Mirrored => Ok(self.mirrored.run(time)?.into()),
            Contender::RoundTrip => Ok(self.round_trip.run(time)?.into()),
        }
    }

    fn slice_of_tgt(&mut self, load: Load, time: Duration) -> anyhow::Result<Figures> {
        let Some((tgt, disk)) = &mut self.tgt else { anyhow::bail!("tgt is not installed") };
        let before = tgt.usage()?;
        let slice = disk.run(load, Limit::Time(time))?;
        let usage = tgt.usage()? - before;
        if slice.wrote && load.sync == Sync::Never {
            // What it left in the page cache must not burden the next one's slice.
            disk.run(Load { pages: 1, depth: 1, sync: Sync::Each, ..load }, Limit::Operations(1))?;
        }
        Ok(figures(&slice, usage))
    }
}
