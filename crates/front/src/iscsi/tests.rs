//! Target and initiators wired back to back in memory, with a disk for a site. No clock but the one in the
//! test.

mod hostile;
mod logins;
mod managing;
mod reserving;
mod transfers;

use super::Entropy;
use super::chap::Chap;
use super::initiator::{
    Initiator, InitiatorConfig, InitiatorEvent, Payload, Residual, inquiry, read16, write16,
};
use super::target::{Target, TargetAction, TargetConfig};
use crate::scsi::{Device, PortConfig, UnitConfig};
use crate::{Command, Completion, ConnId, Failure, TaskId, VolumeCommand};
use biplex_engine::reserve::{Access, Effect, Request, Reservations, Verdict};
use biplex_engine::{BLOCK_BYTES, Extent, Nexus, Now, SiteId, Stamp, VolumeId};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

const TARGET: &str = "iqn.2026-11.io.biplex:pair1";
const HOST: &str = "iqn.2026-11.example:host";
const BLOCKS: u64 = 4096;
const GOOD: u8 = 0;
const CHECK: u8 = 2;
const SECOND: u64 = 1_000_000_000;

fn entropy(mut seed: u64) -> Entropy {
    Box::new(move |bytes| {
        for byte in bytes {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (seed >> 56) as u8;
        }
    })
}

fn target_config() -> TargetConfig {
    TargetConfig {
        name: TARGET.into(),
        group: 1,
        portal: "0.0.0.0:3260".into(),
        peer_portals: vec![("192.0.2.2:3260".into(), 2)],
        chap: None,
    }
}

fn host_config() -> InitiatorConfig {
    InitiatorConfig::new(HOST, TARGET)
}

fn device() -> Device {
    let port = |site, group, relative| PortConfig { site, target: TARGET.into(), group, relative };
    let unit = |lun: u16| UnitConfig {
        volume: VolumeId(u32::from(lun) + 7),
        lun,
        name: format!("vol{lun}"),
        serial: format!("S{lun}"),
        naa: 3 << 60 | u64::from(lun),
        blocks: BLOCKS,
    };
    Device::new(port(SiteId::A, 1, 1), port(SiteId::B, 2, 257), vec![unit(0), unit(1)])
}

/// A host's end of a connection.
struct Host {
    initiator: Initiator,
    events: Vec<InitiatorEvent>,
    /// The target closed the connection.
    closed: bool,
}

/// What waits for the other site: a request on a unit, or (without one) a logout.
type Stalled = (TaskId, Nexus, Option<VolumeCommand>);

struct World {
    target: Target,
    hosts: BTreeMap<ConnId, Host>,
    disks: BTreeMap<VolumeId, Vec<u8>>,
    /// Bytes per delivery.
    chunk: usize,
    /// Commands are kept in `held` instead of being carried out.
    hold: bool,
    held: VecDeque<(TaskId, Nexus, VolumeCommand)>,
    /// Requests on units and logouts are kept in `stalled`: the line to the other site is down.
    stall: bool,
    stalled: VecDeque<Stalled>,
    /// What becomes of requests on units instead of being executed.
    refuse: Option<Failure>,
    /// Actions other than sending and commands.
    log: Vec<TargetAction>,
    /// What raw connections got.
    raw: BTreeMap<ConnId, Vec<u8>>,
    writes: usize,
    reservations: BTreeMap<VolumeId, Reservations>,
    requests: u64,
    now: u64,
    next_conn: u64,
}

impl World {
    fn new() -> World {
        World::with(target_config())
    }

    fn with(config: TargetConfig) -> World {
        let disk = || vec![0; (BLOCKS * BLOCK_BYTES) as usize];
        World {
            target: Target::new(config, device(), entropy(1)),
            hosts: BTreeMap::new(),
            disks: BTreeMap::from([(VolumeId(7), disk()), (VolumeId(8), disk())]),
            chunk: usize::MAX,
            hold: false,
            held: VecDeque::new(),
            stall: false,
            stalled: VecDeque::new(),
            refuse: None,
            log: Vec::new(),
            raw: BTreeMap::new(),
            writes: 0,
            reservations: BTreeMap::from([VolumeId(7), VolumeId(8)].map(|id| (id, Reservations::default()))),
            requests: 0,
            now: SECOND,
            next_conn: 1,
        }
    }

    fn now(&self) -> Now {
        Now { wall: self.now, mono: self.now }
    }

    /// A connection without an initiator.
    fn open(&mut self) -> ConnId {
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        self.target.handle_connected(
            self.now(),
            conn,
            "192.0.2.1:3260".into(),
            format!("198.51.100.1:{}", 1000 + conn.0),
        );
        conn
    }

    /// A connection with an initiator that logs in.
    fn connect(&mut self, config: InitiatorConfig) -> ConnId {
        let conn = self.open();
        let initiator = Initiator::new(config, entropy(conn.0 + 100));
        self.hosts.insert(conn, Host { initiator, events: Vec::new(), closed: false });
        self.run();
        conn
    }

    /// As `connect`, and the session must stand.
    fn login(&mut self, config: InitiatorConfig) -> ConnId {
        let conn = self.connect(config);
        assert_eq!(self.take(conn), [InitiatorEvent::LoggedIn]);
        conn
    }

    fn initiator(&mut self, conn: ConnId) -> &mut Initiator {
        &mut self.hosts.get_mut(&conn).expect("host").initiator
    }

    fn send(&mut self, conn: ConnId, bytes: &[u8]) {
        self.target.handle_bytes(self.now(), conn, Bytes::copy_from_slice(bytes));
        self.run();
    }

    /// Events of a host since the last call.
    fn take(&mut self, conn: ConnId) -> Vec<InitiatorEvent> {
        std::mem::take(&mut self.hosts.get_mut(&conn).expect("host").events)
    }

    fn disk(&self, blocks: std::ops::Range<usize>) -> &[u8] {
        &self.disks[&VolumeId(7)][blocks.start * 512..blocks.end * 512]
    }

    /// Carries bytes and commands until nothing moves.
    fn run(&mut self) {
        loop {
            let mut moved = false;
            let conns: Vec<ConnId> = self.hosts.keys().copied().collect();
            for conn in conns {
                let host = self.hosts.get_mut(&conn).expect("host");
                let bytes: Vec<u8> = std::iter::from_fn(|| host.initiator.poll_send()).flatten().collect();
                host.events.extend(std::iter::from_fn(|| host.initiator.poll_event()));
                for chunk in bytes.chunks(self.chunk.min(bytes.len().max(1))) {
                    self.target.handle_bytes(self.now(), conn, Bytes::copy_from_slice(chunk));
                    moved = true;
                }
            }
            while let Some(action) = self.target.poll() {
                moved = true;
                self.act(action);
            }
            if !moved {
                return;
            }
        }
    }

    fn act(&mut self, action: TargetAction) {
        match action {
            TargetAction::Send { conn, bytes } => match self.hosts.get_mut(&conn) {
                Some(host) => {
                    assert!(!host.closed, "sent after close");
                    for chunk in bytes.chunks(self.chunk.min(bytes.len())) {
                        host.initiator.handle_bytes(Bytes::copy_from_slice(chunk));
                    }
                }
                None => self.raw.entry(conn).or_default().extend_from_slice(&bytes),
            },
            TargetAction::Close { conn } => {
                if let Some(host) = self.hosts.get_mut(&conn) {
                    host.closed = true;
                }
                self.log.push(TargetAction::Close { conn });
            }
            TargetAction::Command { task, nexus, command }
                if self.hold && !matches!(command.command, Command::Control { .. }) =>
            {
                self.held.push_back((task, nexus, command));
            }
            TargetAction::Command { task, nexus, command }
                if self.stall && matches!(command.command, Command::Control { .. }) =>
            {
                self.stalled.push_back((task, nexus, Some(command)));
            }
            TargetAction::Command { task, nexus, command } => self.complete(task, nexus, &command),
            TargetAction::Leave { task, nexus } if self.stall => self.stalled.push_back((task, nexus, None)),
            TargetAction::Leave { task, nexus } => self.leave(task, nexus),
            TargetAction::LoggedOut { nexus, .. } => {
                self.lose(nexus);
                self.log.push(action);
            }
            other => self.log.push(other),
        }
    }

    fn lose(&mut self, nexus: Nexus) {
        for volume in [VolumeId(7), VolumeId(8)] {
            self.execute(volume, nexus, &Request::NexusLost);
        }
    }

    fn leave(&mut self, task: TaskId, nexus: Nexus) {
        self.lose(nexus);
        self.target.handle_completion(self.now(), task, Completion::Done);
    }

    /// Executes a request; what follows from it for hosts is left out.
    fn execute(&mut self, volume: VolumeId, nexus: Nexus, request: &Request) -> (Verdict, Vec<Effect>) {
        self.requests += 1;
        let stamp = Stamp { time: self.requests, site: SiteId::A };
        self.reservations.get_mut(&volume).expect("volume").apply(stamp, nexus, request)
    }

    /// Carries out a command and answers it.
    fn complete(&mut self, task: TaskId, nexus: Nexus, command: &VolumeCommand) {
        let range = |extent: &Extent| extent.start().bytes() as usize..extent.end().bytes() as usize;
        let touched = match &command.command {
            Command::Read { extent, .. } => Some((Access::Read, extent)),
            Command::Write { extent, .. }
            | Command::Fill { extent, .. }
            | Command::CompareAndWrite { extent, .. } => Some((Access::Write, extent)),
            _ => None,
        };
        let reservations = &self.reservations[&command.volume];
        if touched.is_some_and(|(access, extent)| !reservations.allows(nexus, access, Some(*extent))) {
            return self.target.handle_completion(self.now(), task, Completion::Failed(Failure::Conflict));
        }
        let disk = self.disks.get_mut(&command.volume).expect("volume");
        let completion = match &command.command {
            Command::Read { extent, .. } => {
                // In pieces of odd sizes, as a site may have it.
                let pieces = disk[range(extent)].chunks(1000).map(Bytes::copy_from_slice).collect();
                Completion::Data(pieces)
            }
            Command::Write { extent, data, .. } => {
                self.writes += 1;
                disk[range(extent)].copy_from_slice(data);
                Completion::Done
            }
            Command::Fill { extent, block } => {
                disk[range(extent)].chunks_mut(512).for_each(|to| to.copy_from_slice(block));
                Completion::Done
            }
            Command::Unmap { extents } => {
                extents.iter().for_each(|extent| disk[range(extent)].fill(0));
                Completion::Done
            }
            Command::Flush | Command::Leave => Completion::Done,
            Command::Check { access } => match reservations.allows(nexus, *access, None) {
                true => Completion::Done,
                false => Completion::Failed(Failure::Conflict),
            },
            Command::Inspect { .. } if !reservations.allows(nexus, Access::Look, None) => {
                Completion::Failed(Failure::Conflict)
            }
            Command::Inspect { .. } => Completion::Persistent(reservations.persistent()),
            Command::Control { request } => {
                if let Some(failure) = self.refuse {
                    return self.target.handle_completion(self.now(), task, Completion::Failed(failure));
                }
                let (verdict, effects) = self.execute(command.volume, nexus, request);
                effects.iter().for_each(|effect| self.target.apply_effect(command.volume, effect));
                Completion::Verdict(verdict)
            }
            Command::CompareAndWrite { extent, compare, data } => {
                let there = &mut disk[range(extent)];
                let same = there.iter().zip(compare).take_while(|(there, wanted)| there == wanted).count();
                if same < there.len() {
                    Completion::Verdict(Verdict::Miscompare { offset: same as u64 })
                } else {
                    there.copy_from_slice(data);
                    Completion::Verdict(Verdict::Done)
                }
            }
        };
        self.target.handle_completion(self.now(), task, completion);
    }

    /// Answers what was held.
    fn release(&mut self) {
        while let Some((task, nexus, command)) = self.held.pop_front() {
            self.complete(task, nexus, &command);
        }
        self.run();
    }

    /// The line stands again: what was stalled is executed.
    fn resume(&mut self) {
        self.stall = false;
        while let Some((task, nexus, command)) = self.stalled.pop_front() {
            match command {
                Some(command) => self.complete(task, nexus, &command),
                None => self.leave(task, nexus),
            }
        }
        self.run();
    }

    /// Lets time pass, ticking whenever the target wants it.
    fn pass(&mut self, nanoseconds: u64) {
        let end = self.now + nanoseconds;
        while let Some(due) = self.target.next_deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.target.handle_tick(self.now());
            self.run();
        }
        self.now = end;
    }

    fn refusals(&self) -> Vec<&str> {
        let why = |action: &'_ TargetAction| match action {
            TargetAction::Refused { why, .. } => Some(why.clone()),
            _ => None,
        };
        assert!(self.log.iter().filter_map(why).all(|why| why.starts_with("198.51.100.1:")));
        self.log
            .iter()
            .filter_map(|action| match action {
                TargetAction::Refused { why, .. } => why.split_once(": ").map(|(_, why)| why),
                _ => None,
            })
            .collect()
    }

    fn write(&mut self, conn: ConnId, tag: u64, lba: u64, data: &[u8]) {
        let cdb = write16(lba, (data.len() / 512) as u32, false);
        self.initiator(conn).submit(tag, 0, cdb, Payload::Out(Bytes::copy_from_slice(data)));
        self.run();
    }

    fn read(&mut self, conn: ConnId, tag: u64, lba: u64, blocks: u32) {
        self.initiator(conn).submit(tag, 0, read16(lba, blocks, false), Payload::In(blocks * 512));
        self.run();
    }
}

fn good(tag: u64, data: &[u8]) -> InitiatorEvent {
    InitiatorEvent::Done {
        tag,
        status: GOOD,
        sense: Bytes::new(),
        data: Bytes::copy_from_slice(data),
        residual: Residual::None,
    }
}

/// Status, and sense key with additional codes, of the only event, which must be a command's end.
fn verdict(events: &[InitiatorEvent]) -> (u8, [u8; 3]) {
    let [InitiatorEvent::Done { status, sense, .. }] = events else {
        panic!("one command's end, not {events:?}")
    };
    (*status, [2, 12, 13].map(|at| sense.get(at).copied().unwrap_or(0)))
}

fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at / 7) as u8 ^ (at as u8).wrapping_mul(seed)).collect()
}
