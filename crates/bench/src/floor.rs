//! Answers for the raw floor: what the machine does without any target in between. fio on a file of the same size on
//! the same file system, a bare durable append, a bare round trip on loopback.

use crate::line;
use anyhow::{Context, ensure};
use biplex_store::{PAGE_BYTES, PageBuf};
use hdrhistogram::Histogram;
use rustix::fs::OFlags;
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{IoSlice, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What a bare measurement brought.
pub struct Bare {
    /// Operations per second.
    pub rate: f64,
    /// Median, nanoseconds.
    pub p50: f64,
    /// 99th percentile, nanoseconds.
    pub p99: f64,
}

/// Bytes that a host's write of 4 KiB has on the wire: header and data.
const REQUEST_BYTES: usize = 48 + 4096;
/// Bytes of the answer.
const ANSWER_BYTES: usize = 48;
/// Bytes of the file that appends go around in.
const RING_BYTES: u64 = 64 << 20;

/// Linux's O_DSYNC; rustix 1.1 makes O_SYNC of `OFlags::DSYNC`. On mips and sparc this measures without it.
const O_DSYNC: i32 = 0o10000;

/// A durable append of 4 KiB behind the other, on a zero-filled ring, with one write each.
pub struct Append {
    file: File,
    offset: u64,
    page: PageBuf,
}

impl Append {
    /// Makes the ring, in a file of this name.
    pub fn new(directory: &Path, name: &str) -> anyhow::Result<Append> {
        let path = directory.join(name);
        fill(&path, RING_BYTES)?;
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(OFlags::DIRECT.bits() as i32 | O_DSYNC)
            .open(&path)
            .context("this file system has no direct I/O; run on one that has (TMPDIR names the place)")?;
        Ok(Append { file, offset: 0, page: PageBuf::zeroed(1) })
    }

    fn once(&mut self) -> anyhow::Result<()> {
        let slices = [IoSlice::new(self.page.as_bytes())];
        let count = rustix::io::pwritev(&self.file, &slices, self.offset)?;
        ensure!(count == PAGE_BYTES, "a short append");
        self.offset = (self.offset + PAGE_BYTES as u64) % RING_BYTES;
        Ok(())
    }

    /// Appends for a while.
    pub fn run(&mut self, time: Duration) -> anyhow::Result<Bare> {
        timed(time, || self.once())
    }
}

/// What a sync write is at least: the page goes to another thread over loopback, both append it durably at the same time,
/// the other answers, and it is done when both are. So the slower of two appends, which may share a disk, and a round trip.
pub struct Mirrored {
    own: Append,
    stream: TcpStream,
}

impl Mirrored {
    /// Starts the other end, whose ring is in `peer`; it ends with this one.
    pub fn new(directory: &Path, peer: &Path) -> anyhow::Result<Mirrored> {
        let own = Append::new(directory, "own.img")?;
        let mut peers = Append::new(peer, "peers.img")?;
        let (stream, mut other) = connected()?;
        let mirror = move || {
            let mut request = [0; REQUEST_BYTES];
            while other.read_exact(&mut request).is_ok()
                && peers.once().is_ok()
                && other.write_all(&request[..ANSWER_BYTES]).is_ok()
            {}
        };
        std::thread::Builder::new().name("mirror".to_owned()).spawn(mirror)?;
        Ok(Mirrored { own, stream })
    }

    /// Mirrored appends for a while.
    pub fn run(&mut self, time: Duration) -> anyhow::Result<Bare> {
        let (request, mut answer) = ([0; REQUEST_BYTES], [0; ANSWER_BYTES]);
        timed(time, || {
            self.stream.write_all(&request)?;
            self.own.once()?;
            Ok(self.stream.read_exact(&mut answer)?)
        })
    }
}

/// Both ends of a connection over loopback.
fn connected() -> anyhow::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let to = listener.local_addr()?;
    between(&listener, to)
}

fn between(listener: &TcpListener, to: SocketAddr) -> anyhow::Result<(TcpStream, TcpStream)> {
    let stream = TcpStream::connect(to)?;
    let (other, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    other.set_nodelay(true)?;
    Ok((stream, other))
}

/// A round trip of a write's bytes and its answer's between two threads over loopback TCP, both blocking.
pub struct RoundTrip {
    stream: TcpStream,
}

impl RoundTrip {
    /// Starts the other end, which ends with this one.
    pub fn new() -> anyhow::Result<RoundTrip> {
        RoundTrip::of(connected()?)
    }

    /// The same over a line that is so long each way.
    pub fn over(delay: Duration) -> anyhow::Result<RoundTrip> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let to = line::lay(listener.local_addr()?, delay)?;
        RoundTrip::of(between(&listener, to)?)
    }

    fn of((stream, mut other): (TcpStream, TcpStream)) -> anyhow::Result<RoundTrip> {
        let echo = move || {
            let mut request = [0; REQUEST_BYTES];
            while other.read_exact(&mut request).is_ok() && other.write_all(&request[..ANSWER_BYTES]).is_ok()
            {
            }
        };
        std::thread::Builder::new().name("round-trip".to_owned()).spawn(echo)?;
        Ok(RoundTrip { stream })
    }

    /// Round trips for a while.
    pub fn run(&mut self, time: Duration) -> anyhow::Result<Bare> {
        let (request, mut answer) = ([0; REQUEST_BYTES], [0; ANSWER_BYTES]);
        timed(time, || {
            self.stream.write_all(&request)?;
            Ok(self.stream.read_exact(&mut answer)?)
        })
    }
}

fn timed(time: Duration, mut once: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Bare> {
    let mut latency: Histogram<u64> = Histogram::new_with_bounds(1, 60_000_000_000, 3)?;
    let began = Instant::now();
    while began.elapsed() < time {
        let one = Instant::now();
        once()?;
        latency.saturating_record(one.elapsed().as_nanos() as u64);
    }
    Ok(Bare {
        rate: latency.len() as f64 / began.elapsed().as_secs_f64(),
        p50: latency.value_at_quantile(0.5) as f64,
        p99: latency.value_at_quantile(0.99) as f64,
    })
}

/// fio on a file of its own.
pub struct Fio {
    file: PathBuf,
    bytes: u64,
}

impl Fio {
    /// Lays the file out; `None` where fio is not installed.
    pub fn new(directory: &Path, bytes: u64) -> anyhow::Result<Option<Fio>> {
        if Command::new("fio").arg("--version").output().is_err() {
            return Ok(None);
        }
        let file = directory.join("fio.img");
        fill(&file, bytes)?;
        Ok(Some(Fio { file, bytes }))
    }

    /// One job: O_DIRECT, and O_DSYNC for writes; psync for one operation at a time, libaio for more.
    pub fn run(&self, pattern: &str, block: usize, depth: usize, time: Duration) -> anyhow::Result<Bare> {
        let engine = if depth == 1 { "psync" } else { "libaio" };
        let ran = Command::new("fio")
            .args(["--name=floor", "--direct=1", "--sync=dsync", "--time_based", "--output-format=json"])
            .arg(format!("--filename={}", self.file.display()))
            .arg(format!("--size={}", self.bytes))
            .arg(format!("--rw={pattern}"))
            .arg(format!("--bs={block}"))
            .arg(format!("--ioengine={engine}"))
            .arg(format!("--iodepth={depth}"))
            .arg(format!("--runtime={}ms", time.as_millis()))
            .output()?;
        ensure!(ran.status.success(), "fio: {}", String::from_utf8_lossy(&ran.stderr));
        let report: Value = serde_json::from_slice(&ran.stdout).context("fio's report")?;
        let kind = if pattern.ends_with("read") { "read" } else { "write" };
        let measured = &report["jobs"][0][kind];
        let percentile = |wanted: &str| measured["clat_ns"]["percentile"][wanted].as_f64();
        Ok(Bare {
            rate: measured["iops"].as_f64().context("fio's iops")?,
            p50: percentile("50.000000").context("fio's p50")?,
            p99: percentile("99.000000").context("fio's p99")?,
        })
    }
}

/// Makes a file of bytes that are all written and durable: merely allocated, it would be half as fast.
fn fill(path: &Path, bytes: u64) -> anyhow::Result<()> {
    let file = File::create(path)?;
    let piece = vec![0x5a; 1 << 20];
    for offset in (0..bytes).step_by(piece.len()) {
        file.write_all_at(&piece, offset)?;
    }
    file.set_len(bytes)?;
    Ok(file.sync_all()?)
}
