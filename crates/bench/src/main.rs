//! Answers for the measurements of docs/benchmarks.md: one command, one run, ratios.
//!
//! ```text
//! cargo build --release -p biplex && cargo run --release -p biplex-bench [-- --quick --only NAME --json FILE]
//! ```

mod cases;
mod floor;
mod generator;
mod hold;
mod line;
mod pair;
mod process;
mod report;
mod reserving;
mod tgt;
mod trace;

use anyhow::{Context, ensure};
use cases::{Biplex, CASES, Field};
use clap::Parser;
use floor::{Append, Fio, Mirrored, RoundTrip};
use generator::{Access, Limit, Load, Sync};
use pair::{Pair, Setup};
use report::{Report, show_case};
use reserving::{Cost, Held, Reserving};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tgt::Tgt;
use trace::Trace;

/// Measures Biplex through iSCSI against tgt and against the raw floor.
///
/// BIPLEX_BIN names the daemon (default: the biplex beside this program); TMPDIR the place for all files, whose
/// file system is the one measured.
#[derive(Parser, Debug)]
struct Options {
    /// Few short slices and small disks: shows that everything works, not how fast
    #[arg(long)]
    quick: bool,
    /// Also write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only what has this in its name: a case such as write-4k-qd1, "reservations", "trace", "hold"; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Where site b's journal and stores go: on one disk both sites' writes share what tgt has for itself
    #[arg(long, value_name = "DIRECTORY")]
    peer_dir: Option<PathBuf>,
    /// Slices per contender and case
    #[arg(long)]
    slices: Option<usize>,
    /// Length of a slice, milliseconds
    #[arg(long)]
    slice_ms: Option<u64>,
}

/// How long the long line is, each way: some 1,000 km of fibre.
const LONG_LINE: Duration = Duration::from_millis(5);

/// How big a run is.
struct Scale {
    slices: usize,
    time: Duration,
    volume_bytes: u64,
    journal_bytes: u64,
    extents: usize,
    traced: u64,
    requests: usize,
}

impl Scale {
    fn of(options: &Options) -> Scale {
        let mut scale = match options.quick {
            true => Scale {
                slices: 1,
                time: Duration::from_millis(200),
                volume_bytes: 32 << 20,
                journal_bytes: 256 << 20,
                extents: 100_000,
                traced: 20,
                requests: 10,
            },
            false => Scale {
                slices: 5,
                time: Duration::from_secs(1),
                volume_bytes: 256 << 20,
                journal_bytes: 1 << 30,
                extents: 1_000_000,
                traced: 300,
                requests: 300,
            },
        };
        scale.slices = options.slices.unwrap_or(scale.slices).max(1);
        scale.time = options.slice_ms.map_or(scale.time, Duration::from_millis);
        scale
    }
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let scale = Scale::of(&options);
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|only| name.contains(only));
    let directory = tempfile::Builder::new().prefix("biplex-bench").tempdir()?;
    let peer = options.peer_dir.as_ref();
    let peer =
        peer.map(|place| tempfile::Builder::new().prefix("biplex-bench").tempdir_in(place)).transpose()?;
    let peer = peer.as_ref().map(tempfile::TempDir::path);
    let cases: Vec<_> = CASES.into_iter().filter(|case| wanted(case.name)).collect();
    let others = ["reservations", "trace", "hold"];
    ensure!(!cases.is_empty() || others.into_iter().any(wanted), "nothing is called {:?}", options.only);

    let mut report = Report::default();
    // Before anything else, so that its memory is measured in a fresh process.
    if wanted("hold") {
        let hold = hold::run(scale.extents);
        println!("{hold}");
        report.hold = Some(hold);
    }
    if wanted("trace") {
        let trace = trace_writes(&binary()?, (&directory.path().join("trace"), peer), &scale)?;
        println!("{trace}");
        report.trace = Some(trace);
    }
    if wanted("reservations") {
        let reserving = reservations(&binary()?, (&directory.path().join("reservations"), peer), &scale)?;
        println!("{reserving}");
        report.reserving = Some(reserving);
    }
    if !cases.is_empty() {
        let mut field = start(&binary()?, (directory.path(), peer), &scale)?;
        for case in cases {
            let rows = field.measure(&case, scale.slices, scale.time).with_context(|| case.name)?;
            report.cases.push((case, rows));
            if let Some((case, rows)) = report.cases.last() {
                print!("{}", show_case(&report, case, rows));
            }
        }
        println!("\naims, each slice beside the others of its round: median [min … max]");
        report.aims().iter().for_each(|aim| println!("{aim}"));
    }
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&report.to_json())?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The daemon.
fn binary() -> anyhow::Result<PathBuf> {
    let binary = match std::env::var_os("BIPLEX_BIN") {
        Some(named) => PathBuf::from(named),
        None => std::env::current_exe()?.with_file_name("biplex"),
    };
    let shown = binary.display();
    ensure!(
        binary.exists(),
        "{shown} is missing: cargo build --release -p biplex, or name one in BIPLEX_BIN"
    );
    Ok(binary)
}

fn start(binary: &Path, (directory, peer): (&Path, Option<&Path>), scale: &Scale) -> anyhow::Result<Field> {
    eprintln!("starting two pairs and laying out their disks, in {}", directory.display());
    let pair = |name: &str, tls: bool| -> anyhow::Result<Biplex> {
        let peer = peer.map(|peer| peer.join(name));
        let setup = Setup {
            binary,
            directory: &directory.join(name),
            peer_directory: peer.as_deref(),
            tls,
            delay: Duration::ZERO,
            volume_bytes: scale.volume_bytes,
            journal_bytes: scale.journal_bytes,
            log: "info",
        };
        Biplex::new(Pair::start(&setup)?, scale.volume_bytes)
    };
    let plain = pair("plain", false)?;
    let tls = pair("tls", true)?;
    let tgt = match tgt::find() {
        Some(_) => {
            let tgt = Tgt::start(directory, scale.volume_bytes)?;
            let disk = cases::tgt_disk(&tgt, scale.volume_bytes)?;
            Some((tgt, disk))
        }
        None => {
            eprintln!(
                "tgt is not installed (apt-get install tgt): measured without it, ratios to it are missing"
            );
            None
        }
    };
    let fio = Fio::new(directory, scale.volume_bytes)?;
    if fio.is_none() {
        eprintln!("fio is not installed (apt-get install fio): measured without it");
    }
    let append = Append::new(directory, "ring.img")?;
    let mirrored = Mirrored::new(directory, peer.unwrap_or(directory))?;
    Ok(Field { plain, tls, tgt, fio, append, mirrored, round_trip: RoundTrip::new()? })
}

/// Requests one after the other, near and over a long line, and loads beside reservations.
fn reservations(
    binary: &Path,
    (directory, peer): (&Path, Option<&Path>),
    scale: &Scale,
) -> anyhow::Result<Reserving> {
    let pair = |name: &str, delay: Duration| -> anyhow::Result<Biplex> {
        let peer = peer.map(|peer| peer.join(name));
        let setup = Setup {
            binary,
            directory: &directory.join(name),
            peer_directory: peer.as_deref(),
            tls: false,
            delay,
            volume_bytes: 32 << 20,
            journal_bytes: 128 << 20,
            log: "warn",
        };
        Biplex::new(Pair::start(&setup)?, setup.volume_bytes)
    };
    let rounds = scale.requests;
    let far = reserving::requests(pair("far", LONG_LINE)?.sync_disk(), rounds.div_ceil(3))?;
    let mut near_pair = pair("near", Duration::ZERO)?;
    let near = reserving::requests(near_pair.sync_disk(), rounds)?;
    let tgt = match tgt::find() {
        Some(_) => {
            let tgt = Tgt::start(directory, 32 << 20)?;
            let mut disk = cases::tgt_disk(&tgt, 32 << 20)?;
            Some(reserving::requests(&mut disk, rounds)?)
        }
        None => None,
    };
    let mut costs = Vec::new();
    for case in CASES.iter().filter(|case| case.name.contains("4k")) {
        costs.push(Cost::of(&mut near_pair, case, scale.slices, scale.time).context(case.name)?);
    }
    let (near_trip, far_trip) = (reserving::round_trip(Duration::ZERO)?, reserving::round_trip(LONG_LINE)?);
    Ok(Reserving { near, far, tgt, near_trip, far_trip, costs })
}

/// Single writes on a pair that notes their way.
fn trace_writes(
    binary: &Path,
    (directory, peer): (&Path, Option<&Path>),
    scale: &Scale,
) -> anyhow::Result<Trace> {
    let setup = Setup {
        binary,
        directory,
        peer_directory: peer,
        tls: false,
        delay: Duration::ZERO,
        volume_bytes: 32 << 20,
        journal_bytes: 128 << 20,
        log: "info,biplex::path=trace",
    };
    let mut biplex = Biplex::new(Pair::start(&setup)?, setup.volume_bytes)?;
    let (access, held) = (Access::RandomWrite, Held::Nothing);
    let load = Load { access, pages: 1, depth: 1, sync: Sync::Never, held };
    let slice = biplex.sync_disk().run(load, Limit::Traced(scale.traced))?;
    Trace::from_logs(&biplex.pair.stop()?, &slice.times)
}
