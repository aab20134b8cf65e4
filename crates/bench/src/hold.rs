//! Measures the hold table: speed and memory, as ratios to a bare ordered map.
//!
//! Answers for: one run in which the table and the bare `BTreeMap<u64, u64>` meet the same starts in the same
//! order on the same machine, so that the ratio means something where the absolute number does not. It must
//! never compare numbers of different runs.
//!
//! The workload: writes at 4 KiB boundaries of a volume of 64 GiB per million extents, 70 % of 4 KiB, 20 % of
//! 64 KiB, 10 % of 64 KiB to 1 MiB, uniformly placed, so that a write overlaps about one held piece; each
//! stamp later than the last, as at one site under load. The table is filled until it holds the wanted number
//! of extents.
//!
//! Memory is the growth of the resident set while the table is filled; all input is laid out before.

use biplex_engine::hold::{HoldTable, Piece, Table, TableKind};
use biplex_engine::units::{Extent, Lba, SiteId, Stamp};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Blocks in 4 KiB: everything is aligned to that.
const PAGE: u64 = 8;
/// Blocks in a lookup, 64 KiB.
const LOOKUP: u64 = 128;
/// Blocks of the volume per extent that is to be held: 64 GiB per million.
const VOLUME_PER_EXTENT: u64 = (64 << 30) / 512 / 1_000_000;
/// The plain table is measured at this fraction of the extents: each of its operations searches all records
/// (E1.M).
const PLAIN_FRACTION: usize = 100;
/// Writes laid out per extent that is to be held; what the fill leaves over is the turnover's.
const WRITES_PER_EXTENT: usize = 4;

/// What was measured of one structure.
#[derive(Clone, Debug)]
pub struct Measured {
    /// What it is.
    pub name: &'static str,
    /// Extents held when full (keys, for the bare map).
    pub extents: usize,
    /// Writes that it took to get there.
    pub writes: usize,
    /// Held pieces that those writes overlapped.
    pub overlaps: u64,
    /// Insertions per second while filling.
    pub inserts_per_second: f64,
    /// Lookups of 64 KiB per second when full (of one key, for the bare map).
    pub lookups_per_second: f64,
    /// Pieces in an average answer.
    pub pieces_per_lookup: f64,
    /// Pairs of one insertion and one retirement of the oldest per second when full.
    pub turnovers_per_second: f64,
    /// Growth of the resident set per extent held. `None` where the system does not tell, and below 100,000
    /// extents: too little to tell from what the allocator had at hand.
    pub bytes_per_extent: Option<f64>,
}

/// All that one run measured.
#[derive(Clone, Debug)]
pub struct HoldReport {
    /// The indexed table (E1.5).
    pub indexed: Measured,
    /// A bare `BTreeMap<u64, u64>` of as many keys.
    pub bare: Measured,
    /// The plain table (E1.M), at fewer extents.
    pub plain: Measured,
    /// The indexed table at the plain one's number of extents.
    pub indexed_few: Measured,
    /// The bare map at the plain one's number of extents.
    pub bare_few: Measured,
}

/// Measures both tables against the bare map: the indexed one at `extents` held extents (at least 1,000), the
/// plain one at a hundredth of that (at least 1,000).
pub fn run(extents: usize) -> HoldReport {
    let extents = extents.max(1_000);
    let few = (extents / PLAIN_FRACTION).max(1_000);
    let workload = Workload::new(extents);
    let indexed = measure_table(&workload, TableKind::Indexed);
    let bare = measure_bare(&workload);
    let workload = Workload::new(few);
    HoldReport {
        indexed,
        bare,
        plain: measure_table(&workload, TableKind::Plain),
        indexed_few: measure_table(&workload, TableKind::Indexed),
        bare_few: measure_bare(&workload),
    }
}

/// The input of a run, laid out before anything is timed.
struct Workload {
    extents: usize,
    writes: Vec<Extent>,
    lookups: Vec<Extent>,
}

impl Workload {
    fn new(extents: usize) -> Workload {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let pages = extents as u64 * VOLUME_PER_EXTENT / PAGE;
        let place = |random: &mut Random, blocks: u64| {
            let start = random.below(pages - blocks / PAGE) * PAGE;
            Extent::new(Lba(start), blocks).expect("a write is not empty and lies within the volume")
        };
        let writes = (0..extents * WRITES_PER_EXTENT)
            .map(|_| {
                let blocks = match random.below(10) {
                    0..7 => PAGE,
                    7..9 => 16 * PAGE,
                    _ => (16 + 1 + random.below(240)) * PAGE,
                };
                place(&mut random, blocks)
            })
            .collect();
        let lookups = (0..extents).map(|_| place(&mut random, LOOKUP)).collect();
        Workload { extents, writes, lookups }
    }
}

/// xorshift64*: the same sequence in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
        ((u128::from(drawn) * u128::from(bound)) >> 64) as u64
    }
}

fn stamp_of(write: usize) -> Stamp {
    Stamp { time: 1 + write as u64, site: SiteId::BOTH[write % 2] }
}

fn measure_table(workload: &Workload, kind: TableKind) -> Measured {
    let resident_before = resident_bytes();
    let mut table = Table::new(kind);
    let (mut overlaps, mut filled) = (0, 0);
    let started = Instant::now();
    for (write, &extent) in workload.writes.iter().enumerate() {
        if table.record_count() >= workload.extents {
            break;
        }
        table.insert(stamp_of(write), extent, &mut |_, _| overlaps += 1);
        filled = write + 1;
    }
    let filling = started.elapsed();
    let resident = resident_bytes().saturating_sub(resident_before);
    let extents = table.record_count();

    let (mut pieces, mut pieces_seen): (Vec<Piece>, usize) = (Vec::new(), 0);
    let started = Instant::now();
    for &lookup in &workload.lookups {
        table.lookup(black_box(lookup), &mut pieces);
        pieces_seen += black_box(&pieces).len();
    }
    let looking = started.elapsed();

    let turnovers = (workload.writes.len() - filled).min(filled);
    let started = Instant::now();
    for oldest in 0..turnovers {
        let newest = filled + oldest;
        table.insert(stamp_of(newest), workload.writes[newest], &mut |_, _| ());
        table.retire(stamp_of(oldest), workload.writes[oldest]);
    }
    let turning = started.elapsed();
    table.check().expect("the table that was measured is a valid one");

    Measured {
        name: match kind {
            TableKind::Indexed => "indexed",
            TableKind::Plain => "plain",
        },
        extents,
        writes: filled,
        overlaps,
        inserts_per_second: rate(filled, filling),
        lookups_per_second: rate(workload.lookups.len(), looking),
        pieces_per_lookup: pieces_seen as f64 / workload.lookups.len() as f64,
        turnovers_per_second: rate(turnovers, turning),
        bytes_per_extent: per_extent(resident, extents),
    }
}

fn measure_bare(workload: &Workload) -> Measured {
    // Each write is a new key in the bare map, so that it grows as the table does: no key comes twice.
    let mut seen = BTreeSet::new();
    let fresh = workload.writes.iter().filter(|write| seen.insert(write.start())).copied();
    let keys: Vec<(u64, u64)> = fresh.map(|write| (write.start().0, write.end().0)).collect();
    let filled = workload.extents.min(keys.len());
    let resident_before = resident_bytes();
    let mut map: BTreeMap<u64, u64> = BTreeMap::new();
    let started = Instant::now();
    for &(start, end) in &keys[..filled] {
        map.insert(start, end);
    }
    let filling = started.elapsed();
    let resident = resident_bytes().saturating_sub(resident_before);
    let extents = map.len();

    let started = Instant::now();
    for lookup in &workload.lookups {
        black_box(map.range(..black_box(lookup.end().0)).next_back());
    }
    let looking = started.elapsed();

    let turnovers = (keys.len() - filled).min(filled);
    let started = Instant::now();
    for oldest in 0..turnovers {
        let (start, end) = keys[filled + oldest];
        map.insert(start, end);
        map.remove(&keys[oldest].0);
    }
    let turning = started.elapsed();
    black_box(&map);
    drop(seen);

    Measured {
        name: "bare map",
        extents,
        writes: filled,
        overlaps: 0,
        inserts_per_second: rate(filled, filling),
        lookups_per_second: rate(workload.lookups.len(), looking),
        pieces_per_lookup: 1.0,
        turnovers_per_second: rate(turnovers, turning),
        bytes_per_extent: per_extent(resident, extents),
    }
}

fn per_extent(resident: u64, extents: usize) -> Option<f64> {
    (resident > 0 && extents >= 100_000).then(|| resident as f64 / extents as f64)
}

fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64().max(1e-9)
}

/// The resident set of this process; 0 where there is no `/proc`.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

impl Measured {
    /// Memory per extent as a multiple of the other's.
    fn bytes_to(&self, other: &Measured) -> Option<f64> {
        self.bytes_per_extent.zip(other.bytes_per_extent).map(|(own, other)| own / other)
    }
}

impl HoldReport {
    /// Each structure beside the bare map of as many extents.
    fn compared(&self) -> [(&Measured, &Measured); 5] {
        [
            (&self.indexed, &self.bare),
            (&self.bare, &self.bare),
            (&self.plain, &self.bare_few),
            (&self.indexed_few, &self.bare_few),
            (&self.bare_few, &self.bare_few),
        ]
    }

    /// The report for programs: one object per structure, with its ratios to the bare map of as many extents
    /// (times: above 1 is slower; memory: above 1 is more).
    pub fn to_json(&self) -> serde_json::Value {
        self.compared()
            .into_iter()
            .map(|(measured, bare)| {
                json!({
                    "structure": measured.name,
                    "extents": measured.extents,
                    "writes": measured.writes,
                    "overlaps": measured.overlaps,
                    "inserts_per_second": measured.inserts_per_second,
                    "lookups_per_second": measured.lookups_per_second,
                    "pieces_per_lookup": measured.pieces_per_lookup,
                    "turnovers_per_second": measured.turnovers_per_second,
                    "bytes_per_extent": measured.bytes_per_extent,
                    "insert_time_to_bare": bare.inserts_per_second / measured.inserts_per_second,
                    "lookup_time_to_bare": bare.lookups_per_second / measured.lookups_per_second,
                    "turnover_time_to_bare": bare.turnovers_per_second / measured.turnovers_per_second,
                    "bytes_to_bare": measured.bytes_to(bare),
                })
            })
            .collect()
    }
}

impl fmt::Display for HoldReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "hold table (in brackets: time or memory as a multiple of a bare BTreeMap<u64, u64>, this run)"
        )?;
        writeln!(
            f,
            "{:<9} {:>9} {:>18} {:>24} {:>22} {:>18}",
            "", "extents", "inserts/s", "64 KiB lookups/s", "insert+retire/s", "bytes/extent"
        )?;
        for (measured, bare) in self.compared() {
            let rated = |own: f64, bare: f64| format!("{own:.0} ({:.2})", bare / own);
            writeln!(
                f,
                "{:<9} {:>9} {:>18} {:>24} {:>22} {:>18}",
                measured.name,
                measured.extents,
                rated(measured.inserts_per_second, bare.inserts_per_second),
                rated(measured.lookups_per_second, bare.lookups_per_second),
                rated(measured.turnovers_per_second, bare.turnovers_per_second),
                match measured.bytes_per_extent.zip(measured.bytes_to(bare)) {
                    Some((own, ratio)) => format!("{own:.0} ({ratio:.2})"),
                    None => "-".to_owned(),
                }
            )?;
        }
        let Measured { writes, overlaps, pieces_per_lookup, .. } = &self.indexed;
        write!(
            f,
            "indexed was filled by {writes} writes that overlapped {overlaps} held pieces; a lookup answers \
             {pieces_per_lookup:.1} pieces"
        )
    }
}
