//! Answers for the load: one host on one thread that speaks iSCSI through our own initiator, the same code for every
//! target, so that what it costs itself falls out of the ratios. It checks what it reads against what it wrote.
//!
//! Invariants: a page has at most one write under way; a read never meets a write under way on its pages.

use crate::process::monotonic;
use crate::reserving::Held;
use anyhow::{Context, bail, ensure};
use biplex_front::iscsi::initiator::{
    Initiator, InitiatorConfig, InitiatorEvent, Payload, lun, read16, synchronize_cache16, test_unit_ready,
    write16,
};
use bytes::{Buf, Bytes, BytesMut};
use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Bytes in a page, the unit of content and of random access.
pub const PAGE: usize = 4096;
/// Blocks of 512 bytes in a page.
const PAGE_BLOCKS: u64 = 8;
/// Different page contents; prime, so that neighbours differ.
const PATTERNS: usize = 61;
/// Every so many reads are compared to the last byte; the others in their first and last words.
const FULL_CHECK_EVERY: u64 = 16;
/// A target that says nothing for so long is broken.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes asked of the socket at a time.
const RECEIVE_BYTES: usize = 512 << 10;

/// What is done to the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Pages written in random order.
    RandomWrite,
    /// Pages read in random order.
    RandomRead,
    /// One write behind the other, around the disk.
    SequentialWrite,
    /// One read behind the other, around the disk.
    SequentialRead,
}

/// When the host asks that what it wrote be durable (SYNCHRONIZE CACHE).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sync {
    /// Never: the target's word is durable, or the question is not asked.
    Never,
    /// After each write; both together are the operation that is timed.
    Each,
    /// After as many writes as the queue is deep, once; each write counts as done when the sync is.
    Round,
}

/// A load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// What is done.
    pub access: Access,
    /// Pages in one operation.
    pub pages: u32,
    /// Operations under way at a time.
    pub depth: usize,
    /// See [`Sync`].
    pub sync: Sync,
    /// What the host holds meanwhile.
    pub held: Held,
}

/// What a slice of load measured.
pub struct Slice {
    /// Operations that ended.
    pub operations: u64,
    /// Bytes that they moved.
    pub bytes: u64,
    /// Whether they were writes.
    pub wrote: bool,
    /// From the first submission to the last end.
    pub elapsed: Duration,
    /// Nanoseconds from submission to end of each.
    pub latency: Histogram<u64>,
    /// Operations' times, submission and end on the monotonic clock, of a traced load.
    pub times: Vec<(u64, u64)>,
}

impl Slice {
    /// Operations per second.
    pub fn rate(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// A disk as this host knows it: where it is and what it must hold.
pub struct HostDisk {
    portal: SocketAddr,
    target: String,
    lun: u64,
    /// Version of each page; 0 was never written.
    versions: Vec<u32>,
    busy: Vec<bool>,
    cursor: u64,
    random: Random,
    patterns: Vec<Bytes>,
    reads: u64,
}

struct Operation {
    page: u64,
    began: Instant,
}

/// What is under way in a slice.
struct Running {
    load: Load,
    traced: bool,
    submitted: u64,
    writes: BTreeMap<u64, Operation>,
    reads: BTreeMap<u64, Operation>,
    /// Written, waiting for the sync with this tag, or (`Round`) for the round's.
    syncing: BTreeMap<u64, Vec<Operation>>,
    written: Vec<Operation>,
    slice: Slice,
}

impl HostDisk {
    /// A disk of `bytes` that holds zeros.
    pub fn new(portal: SocketAddr, target: &str, unit: u16, bytes: u64) -> HostDisk {
        let pages = (bytes / PAGE as u64) as usize;
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let pattern = |random: &mut Random| {
            let words = (0..PAGE / 8).flat_map(|_| random.next().to_le_bytes());
            words.collect::<Vec<u8>>().into()
        };
        HostDisk {
            portal,
            target: target.to_owned(),
            lun: lun(unit),
            versions: vec![0; pages],
            busy: vec![false; pages],
            cursor: 0,
            patterns: (0..PATTERNS).map(|_| pattern(&mut random)).collect(),
            random,
            reads: 0,
        }
    }

    /// A session with it, ready for commands.
    pub fn session(&self) -> anyhow::Result<Session> {
        Session::open(self.portal, &self.target, self.lun)
            .with_context(|| format!("{} at {}", self.target, self.portal))
    }

    /// Writes the whole disk once, in order.
    pub fn fill(&mut self) -> anyhow::Result<()> {
        let (access, pages, depth) = (Access::SequentialWrite, 32, 8);
        let load = Load { access, pages, depth, sync: Sync::Never, held: Held::Nothing };
        let operations = self.versions.len() as u64 / u64::from(load.pages);
        self.cursor = 0;
        self.run(load, Limit::Operations(operations)).map(|_| ())
    }

    /// Loads the disk until the limit, in a session of its own. Login and logout are not in the time measured.
    pub fn run(&mut self, load: Load, limit: Limit) -> anyhow::Result<Slice> {
        let mut session = self.session()?;
        load.held.take(&mut session, self.versions.len() as u64 * PAGE_BLOCKS)?;
        let slice = Slice {
            operations: 0,
            bytes: 0,
            wrote: matches!(load.access, Access::RandomWrite | Access::SequentialWrite),
            elapsed: Duration::ZERO,
            latency: Histogram::new_with_bounds(1, 120_000_000_000, 3)?,
            times: Vec::new(),
        };
        let mut running = Running {
            load,
            traced: matches!(limit, Limit::Traced(_)),
            submitted: 0,
            writes: BTreeMap::new(),
            reads: BTreeMap::new(),
            syncing: BTreeMap::new(),
            written: Vec::new(),
            slice,
        };
        let began = Instant::now();
        loop {
            let open = match limit {
                Limit::Time(time) => began.elapsed() < time,
                Limit::Operations(count) | Limit::Traced(count) => running.submitted < count,
            };
            if open {
                self.submit_more(&mut session, &mut running, limit);
            } else if running.under_way() == 0 {
                break;
            }
            session.turn()?;
            while let Some(event) = session.initiator.poll_event() {
                self.handle(&mut session, &mut running, event)?;
            }
        }
        running.slice.elapsed = began.elapsed();
        load.held.give_back(&mut session)?;
        session.close();
        Ok(running.slice)
    }

    fn submit_more(&mut self, session: &mut Session, running: &mut Running, limit: Limit) {
        if running.load.sync == Sync::Round && (!running.syncing.is_empty() || !running.written.is_empty()) {
            return;
        }
        while running.under_way() < running.load.depth && limit.allows(running.submitted) {
            let page = self.next_place(running.load);
            let tag = running.submitted;
            running.submitted += 1;
            let operation = Operation { page, began: Instant::now() };
            let (lba, blocks) = (page * PAGE_BLOCKS, running.load.pages * PAGE_BLOCKS as u32);
            match running.load.access {
                Access::RandomWrite | Access::SequentialWrite => {
                    let data = self.content_to_write(page, running.load.pages);
                    running.writes.insert(tag, operation);
                    session.initiator.submit(tag, self.lun, write16(lba, blocks, false), Payload::Out(data));
                }
                Access::RandomRead | Access::SequentialRead => {
                    running.reads.insert(tag, operation);
                    let room = Payload::In(running.load.pages * PAGE as u32);
                    session.initiator.submit(tag, self.lun, read16(lba, blocks, false), room);
                }
            }
        }
    }

    fn next_place(&mut self, load: Load) -> u64 {
        let places = self.versions.len() as u64 / u64::from(load.pages);
        match load.access {
            Access::SequentialWrite | Access::SequentialRead => {
                let place = self.cursor % places;
                self.cursor += 1;
                place * u64::from(load.pages)
            }
            Access::RandomWrite | Access::RandomRead => loop {
                let page = self.random.next() % places * u64::from(load.pages);
                if !self.busy[page as usize] {
                    return page;
                }
            },
        }
    }

    /// New content for pages; they are busy until the write ends.
    fn content_to_write(&mut self, page: u64, pages: u32) -> Bytes {
        let mut data = BytesMut::with_capacity(pages as usize * PAGE);
        for page in page..page + u64::from(pages) {
            self.versions[page as usize] += 1;
            self.busy[page as usize] = true;
            let from = data.len();
            data.extend_from_slice(&self.patterns[self.pattern_of(page)]);
            mark(&mut data[from..], page, self.versions[page as usize]);
        }
        data.freeze()
    }

    fn pattern_of(&self, page: u64) -> usize {
        (page as usize + self.versions[page as usize] as usize * 7) % PATTERNS
    }

    fn handle(
        &mut self,
        session: &mut Session,
        running: &mut Running,
        event: InitiatorEvent,
    ) -> anyhow::Result<()> {
        let (tag, data) = match event {
            InitiatorEvent::Done { tag, status: 0, data, .. } => (tag, data),
            InitiatorEvent::Done { status, sense, .. } => {
                bail!("a command ended with status {status:#x}, sense {:02x?}", &sense[..])
            }
            other => bail!("unexpected: {other:?}"),
        };
        if let Some(operation) = running.writes.remove(&tag) {
            self.write_ended(session, running, tag, operation);
        } else if let Some(operation) = running.reads.remove(&tag) {
            self.check(operation.page, running.load.pages, &data)?;
            running.finish(operation);
        } else if let Some(operations) = running.syncing.remove(&tag) {
            operations.into_iter().for_each(|operation| running.finish(operation));
        }
        Ok(())
    }

    fn write_ended(&mut self, session: &mut Session, running: &mut Running, tag: u64, operation: Operation) {
        for page in operation.page..operation.page + u64::from(running.load.pages) {
            self.busy[page as usize] = false;
        }
        let sync_tag = tag | 1 << 63;
        let sync = |session: &mut Session, lun| {
            session.initiator.submit(sync_tag, lun, synchronize_cache16(), Payload::None);
        };
        match running.load.sync {
            Sync::Never => running.finish(operation),
            Sync::Each => {
                running.syncing.insert(sync_tag, vec![operation]);
                sync(session, self.lun);
            }
            Sync::Round => {
                running.written.push(operation);
                if running.writes.is_empty() {
                    let round = std::mem::take(&mut running.written);
                    running.syncing.insert(sync_tag, round);
                    sync(session, self.lun);
                }
            }
        }
    }

    /// Whether what was read is what was written.
    fn check(&mut self, page: u64, pages: u32, data: &[u8]) -> anyhow::Result<()> {
        ensure!(data.len() == pages as usize * PAGE, "a read of {pages} pages brought {} bytes", data.len());
        self.reads += 1;
        for (page, got) in (page..).zip(data.chunks_exact(PAGE)) {
            let version = self.versions[page as usize];
            let mut ends = [0; 24];
            ends[..16].copy_from_slice(&got[..16]);
            ends[16..].copy_from_slice(&got[PAGE - 8..]);
            let mut expected = [0; 24];
            if version > 0 {
                mark(&mut expected, page, version);
            }
            ensure!(ends == expected, "page {page} should hold version {version}, and holds {ends:02x?}");
            if version > 0 && self.reads.is_multiple_of(FULL_CHECK_EVERY) {
                let pattern = &self.patterns[self.pattern_of(page)];
                let inner = 16..PAGE - 8;
                ensure!(
                    got[inner.clone()] == pattern[inner],
                    "page {page}, version {version}: wrong bytes within"
                );
            }
        }
        Ok(())
    }
}

/// How long a load goes on.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// So long.
    Time(Duration),
    /// So many operations.
    Operations(u64),
    /// So many operations; each one's times are kept.
    Traced(u64),
}

impl Limit {
    fn allows(self, submitted: u64) -> bool {
        match self {
            Limit::Time(_) => true,
            Limit::Operations(count) | Limit::Traced(count) => submitted < count,
        }
    }
}

impl Running {
    fn under_way(&self) -> usize {
        self.writes.len() + self.reads.len() + self.syncing.len() + self.written.len()
    }

    fn finish(&mut self, operation: Operation) {
        let took = operation.began.elapsed();
        self.slice.operations += 1;
        self.slice.bytes += u64::from(self.load.pages) * PAGE as u64;
        self.slice.latency.saturating_record((took.as_nanos() as u64).max(1));
        if self.traced {
            let end = monotonic();
            self.slice.times.push((end - took.as_nanos() as u64, end));
        }
    }
}

/// First and last words of a page say which page and version it is.
fn mark(page_bytes: &mut [u8], page: u64, version: u32) {
    page_bytes[..8].copy_from_slice(&page.to_le_bytes());
    page_bytes[8..16].copy_from_slice(&u64::from(version).to_le_bytes());
    let end = page_bytes.len();
    page_bytes[end - 8..].copy_from_slice(&(page ^ u64::from(version).rotate_left(40)).to_le_bytes());
}

/// A session over a non-blocking socket.
pub struct Session {
    stream: TcpStream,
    lun: u64,
    initiator: Initiator,
    unsent: VecDeque<Bytes>,
    room: BytesMut,
}

impl Session {
    /// Logs in and clears the unit attentions that meet a new host.
    fn open(portal: SocketAddr, target: &str, lun: u64) -> anyhow::Result<Session> {
        let stream = TcpStream::connect(portal)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let entropy = Box::new(|bytes: &mut [u8]| {
            getrandom::fill(bytes).expect("Linux gives random bytes once it is up")
        });
        let config = InitiatorConfig::new("iqn.2026-11.io.biplex:bench", target);
        let initiator = Initiator::new(config, entropy);
        let mut session = Session { stream, lun, initiator, unsent: VecDeque::new(), room: BytesMut::new() };
        session.expect(|event| *event == InitiatorEvent::LoggedIn)?;
        for _ in 0..50 {
            if session.command(test_unit_ready(), Payload::None)? == 0 {
                return Ok(session);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("the unit does not become ready")
    }

    /// One command, alone; how it ended: its SCSI status.
    pub fn command(&mut self, cdb: [u8; 16], payload: Payload) -> anyhow::Result<u8> {
        self.initiator.submit(0, self.lun, cdb, payload);
        match self.expect(|event| matches!(event, InitiatorEvent::Done { .. }))? {
            InitiatorEvent::Done { status, .. } => Ok(status),
            other => bail!("unexpected: {other:?}"),
        }
    }

    /// One command, alone, that must end well.
    pub fn expect_good(&mut self, cdb: [u8; 16], payload: Payload) -> anyhow::Result<()> {
        let status = self.command(cdb, payload)?;
        ensure!(status == 0, "command {:#04x} ended with status {status:#04x}", cdb[0]);
        Ok(())
    }

    fn expect(&mut self, wanted: impl Fn(&InitiatorEvent) -> bool) -> anyhow::Result<InitiatorEvent> {
        loop {
            self.turn()?;
            while let Some(event) = self.initiator.poll_event() {
                if wanted(&event) {
                    return Ok(event);
                }
                if let InitiatorEvent::LoginFailed { .. } | InitiatorEvent::Closed { .. } = event {
                    bail!("{event:?}");
                }
            }
        }
    }

    /// Sends what waits, waits for an answer, takes it in.
    fn turn(&mut self) -> anyhow::Result<()> {
        self.send()?;
        let mut interest = PollFlags::IN;
        if !self.unsent.is_empty() {
            interest |= PollFlags::OUT;
        }
        let mut waiting = [PollFd::new(&self.stream, interest)];
        let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        match poll(&mut waiting, Some(&patience)) {
            Ok(0) => bail!("the target has been silent for {} s", PATIENCE.as_secs()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if self.room.len() < RECEIVE_BYTES / 2 {
            self.room = BytesMut::zeroed(2 * RECEIVE_BYTES);
        }
        match self.stream.read(&mut self.room) {
            Ok(0) => self.initiator.handle_closed(),
            Ok(count) => self.initiator.handle_bytes(self.room.split_to(count).freeze()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn send(&mut self) -> anyhow::Result<()> {
        self.unsent.extend(std::iter::from_fn(|| self.initiator.poll_send()));
        while !self.unsent.is_empty() {
            let slices: Vec<IoSlice<'_>> =
                self.unsent.iter().take(256).map(|piece| IoSlice::new(piece)).collect();
            match self.stream.write_vectored(&slices) {
                Ok(mut count) => {
                    while let Some(front) = self.unsent.front_mut() {
                        if front.len() > count {
                            front.advance(count);
                            break;
                        }
                        count -= front.len();
                        self.unsent.pop_front();
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Logs out; how the target takes it is of no interest.
    pub fn close(mut self) {
        self.initiator.logout();
        for _ in 0..10 {
            if self.turn().is_err() {
                return;
            }
            while let Some(event) = self.initiator.poll_event() {
                if let InitiatorEvent::Closed { .. } = event {
                    return;
                }
            }
        }
    }
}

/// xorshift64*: the same sequence in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }
}
