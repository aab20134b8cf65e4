//! A SCSI unit that is a volume's store and keeps its reservations (E5.1): our own target before one reservation table
//! and one disk. It belongs to the world, not to the site: it has power of its own.
//!
//! ```text
//! a site's connections ─▶ [`Line`]s ─▶ Target ─▶ reservations: at once
//!                                             └▶ data: orders of a [`SimDisk`], which end later, in any order
//! ```
//! Power takes SCSI-2 reservations, what was not synced and, without APTPL, registrations and persistent reservation.
//! What was abandoned (a lost session, an abort) has no effect later: some of it has it at once.

use crate::disk::{Fate, SimDisk};
use crate::place::Ills;
use crate::random::Random;
use biplex_engine::reserve::{
    Access, Attention, Effect, Extents, PersistentKind, Request, Reservations, UnitReservation, Verdict,
};
use biplex_engine::{Extent, HostId, Nexus, Now, SiteId, Stamp, VolumeId};
use biplex_front::iscsi::{Target, TargetAction, TargetConfig};
use biplex_front::scsi::{Device as ScsiDevice, PortConfig, UnitConfig};
use biplex_front::{Command, Completion, ConnId, Failure, TaskId};
use biplex_site::unit::{Port, UnitAddress, initiator_port};
use biplex_store::{Device, DiskOp};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Logical unit number of the unit.
const LUN: u16 = 3;
/// Bytes that its reservations may take.
const TABLE_BYTES: u64 = 64 << 10;
/// Where it is.
const PORTAL: &str = "192.0.2.9:3260";

/// What travels on a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// The connection stands.
    Connected,
    /// Bytes.
    Bytes(Bytes),
    /// The other end is gone.
    Closed,
}

/// In which direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Way {
    ToUnit,
    ToSite,
}

/// A connection of a site with the unit. Each direction is in order; two connections are not.
#[derive(Clone, Debug)]
pub struct Line {
    /// The site's run that made it.
    pub run: u64,
    /// The site's number for it in that run.
    pub number: u64,
    /// Delay of a piece, least and most.
    pub delay: (u64, u64),
    /// What is under way, by direction.
    pub flying: [VecDeque<Piece>; 2],
    /// When the last of it arrives.
    pub last: [u64; 2],
    /// The end at the unit, and at the site, knows that it is over.
    pub over: [bool; 2],
    /// The unit did not do well while it stood.
    pub suffered: bool,
}

impl Line {
    /// Whether nothing but bytes is under way.
    pub fn is_quiet(&self) -> bool {
        !self.flying.iter().flatten().any(|piece| *piece == Piece::Closed)
    }
}

/// What the unit wants the world to do.
#[derive(Debug)]
pub enum Said {
    /// Bytes on a line.
    Send(u64, Bytes),
    /// It ends a line.
    Close(u64),
    /// This task ends later.
    Begun(TaskId),
}

/// A data command under way.
#[derive(Debug)]
struct Work {
    orders: Vec<u64>,
    extent: Option<Extent>,
    reads: bool,
    /// What it wrote is durable when it is answered (FUA, SBC-3 5.31).
    fua: bool,
}

/// What a nexus of the pair has here.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Has {
    /// The unit, by SCSI-2.
    pub unit: bool,
    /// The persistent reservation.
    pub persistent: Option<PersistentKind>,
    /// Its registration's key.
    pub key: Option<u64>,
    /// Its extents by SCSI-2, and which of them are for a third party.
    pub extents: Vec<(Extents, bool)>,
}

/// The unit.
pub struct SimUnit {
    site: SiteId,
    volume: VolumeId,
    blocks: u64,
    target: Target,
    /// Its reservations.
    pub table: Reservations,
    /// Its medium.
    pub disk: SimDisk,
    /// Its choices.
    pub random: Random,
    /// How often it was started.
    pub life: u64,
    /// Nobody gets in before this.
    pub down_until: u64,
    /// Takes nothing in before this.
    pub hung_until: u64,
    /// All takes so many times as long.
    pub slowness: u64,
    /// Its connections by its own number.
    pub lines: BTreeMap<u64, Line>,
    /// The tick that is planned.
    pub tick: Option<u64>,
    work: BTreeMap<TaskId, Work>,
    told_of_power: BTreeSet<Nexus>,
    next_order: u64,
    clock: u64,
}

/// Where a site reaches the unit of a volume.
pub fn address(volume: VolumeId) -> UnitAddress {
    UnitAddress { portal: PORTAL.to_owned(), target: target_name(volume), lun: LUN, chap: None }
}

fn target_name(volume: VolumeId) -> String {
    format!("iqn.2026-11.sim:array-{}", volume.0)
}

fn target(volume: VolumeId, blocks: u64) -> Target {
    let name = target_name(volume);
    let port = |site, group, relative| PortConfig { site, target: name.clone(), group, relative };
    let unit = UnitConfig {
        volume,
        lun: LUN,
        name: "disk".to_owned(),
        serial: format!("D{}", volume.0),
        naa: 0x3100_0000_0000_0000 | u64::from(volume.0),
        blocks,
    };
    let mut device = ScsiDevice::new(port(SiteId::A, 1, 1), port(SiteId::B, 2, 257), vec![unit]);
    device.announce_write_cache(volume);
    let config = TargetConfig {
        name: name.clone(),
        group: 1,
        portal: PORTAL.to_owned(),
        peer_portals: Vec::new(),
        chap: None,
    };
    Target::new(config, device, Box::new(|bytes| bytes.fill(9)))
}

impl SimUnit {
    /// A unit of zeros at this site.
    pub fn new(site: SiteId, volume: VolumeId, blocks: u64, mut random: Random) -> SimUnit {
        SimUnit {
            site,
            volume,
            blocks,
            target: target(volume, blocks),
            table: Reservations::default(),
            disk: SimDisk::new(blocks as usize * crate::pattern::BLOCK, random.fork()),
            random,
            life: 0,
            down_until: 0,
            hung_until: 0,
            slowness: 1,
            lines: BTreeMap::new(),
            tick: None,
            work: BTreeMap::new(),
            told_of_power: BTreeSet::new(),
            next_order: 1,
            clock: 0,
        }
    }

    /// Something arrives on a line.
    pub fn take(&mut self, now: Now, line: u64, piece: Piece) {
        let conn = ConnId(line);
        match piece {
            Piece::Connected => {
                self.target.handle_connected(now, conn, PORTAL.to_owned(), "192.0.2.1:9".to_owned());
            }
            Piece::Bytes(bytes) => self.target.handle_bytes(now, conn, bytes),
            Piece::Closed => self.target.handle_closed(now, conn),
        }
    }

    /// Time passed.
    pub fn handle_tick(&mut self, now: Now) {
        self.target.handle_tick(now);
    }

    /// When the next tick is wanted.
    pub fn next_deadline(&self) -> Option<u64> {
        self.target.next_deadline()
    }

    /// Carries out what the target wants; what is left is for the world.
    pub fn poll(&mut self, now: Now, ills: Ills) -> Option<Said> {
        loop {
            match self.target.poll()? {
                TargetAction::Send { conn, bytes } => return Some(Said::Send(conn.0, bytes)),
                TargetAction::Close { conn } => return Some(Said::Close(conn.0)),
                TargetAction::Command { task, nexus, command } => {
                    match self.serve(task, nexus, command.command, ills) {
                        Some(completion) => self.target.handle_completion(now, task, completion),
                        None => return Some(Said::Begun(task)),
                    }
                }
                TargetAction::Leave { task, nexus } => {
                    self.apply(nexus, &Request::NexusLost);
                    self.target.handle_completion(now, task, Completion::Done);
                }
                TargetAction::LoggedOut { nexus, .. } => {
                    self.apply(nexus, &Request::NexusLost);
                }
                TargetAction::LoggedIn { nexus, .. } => {
                    if self.life > 0 && self.told_of_power.insert(nexus) {
                        let news = Effect::Attend(nexus, Attention::PowerOn);
                        self.target.apply_effect(self.volume, &news);
                    }
                }
                TargetAction::Abandon { task } => {
                    if let Some(work) = self.work.remove(&task) {
                        work.orders.into_iter().for_each(|order| self.disk.abandon(order));
                        self.target.handle_completion(now, task, Completion::Failed(Failure::Busy));
                    }
                }
                TargetAction::Refused { .. } => {}
            }
        }
    }

    /// A data command ends.
    pub fn end(&mut self, now: Now, task: TaskId) {
        let Some(work) = self.work.remove(&task) else { return };
        let mut results: Vec<_> = work.orders.into_iter().map(|order| self.disk.end(order)).collect();
        if work.fua && results.iter().all(Result::is_ok) {
            let (order, op) = (self.next_order, DiskOp::Sync { device: Device::Volume(self.volume) });
            self.next_order += 1;
            self.disk.submit(order, op, Fate::Well).expect("a sync is always fit");
            results.push(self.disk.end(order));
        }
        let lba = work.extent.map_or(biplex_engine::Lba(0), Extent::start);
        let completion = match results.into_iter().collect::<Result<Vec<Bytes>, _>>() {
            Ok(pieces) if work.reads => Completion::Data(pieces),
            Ok(_) => Completion::Done,
            Err(_) if work.reads => Completion::Failed(Failure::MediumRead { lba }),
            Err(_) => Completion::Failed(Failure::MediumWrite { lba }),
        };
        self.target.handle_completion(now, task, completion);
    }

    /// Power goes and comes again. Who was connected is not any more.
    pub fn restart(&mut self) {
        self.life += 1;
        self.target = target(self.volume, self.blocks);
        self.tick = None;
        self.work.clear();
        self.told_of_power.clear();
        self.disk.crash();
        let mut state = self.table.parts().clone();
        (state.unit, state.generation) = (None, 0);
        state.extents.clear();
        if !state.aptpl {
            state.registrations.clear();
            state.persistent = None;
        }
        self.table = Reservations::from_parts(state).expect("less of what was well");
    }

    fn apply(&mut self, nexus: Nexus, request: &Request) -> Verdict {
        self.clock += 1;
        let stamp = Stamp { time: self.clock, site: SiteId::A };
        let (verdict, effects) = self.table.apply_within(TABLE_BYTES, stamp, nexus, request);
        effects.iter().for_each(|effect| self.target.apply_effect(self.volume, effect));
        verdict
    }

    /// Answers at once, or begins.
    fn serve(&mut self, task: TaskId, nexus: Nexus, command: Command, ills: Ills) -> Option<Completion> {
        let device = Device::Volume(self.volume);
        let offset = |extent: &Extent| extent.start().bytes();
        let write =
            |extent: &Extent, data: Vec<Bytes>| DiskOp::Write { device, offset: offset(extent), data };
        let fua = matches!(command, Command::Write { fua: true, .. });
        let (access, extents, ops, percent) = match command {
            Command::Read { extent, .. } => {
                let op = DiskOp::Read { device, offset: offset(&extent), len: extent.bytes() as u32 };
                (Access::Read, vec![extent], vec![op], ills.read)
            }
            Command::Write { extent, data, .. } => {
                (Access::Write, vec![extent], vec![write(&extent, vec![data])], ills.write)
            }
            Command::Fill { extent, block } => {
                let data = vec![block; extent.blocks() as usize];
                (Access::Write, vec![extent], vec![write(&extent, data)], ills.write)
            }
            Command::Unmap { extents } => {
                let zero =
                    |extent: &Extent| DiskOp::Zero { device, offset: offset(extent), len: extent.bytes() };
                let ops = extents.iter().map(zero).collect();
                (Access::Write, extents, ops, ills.write)
            }
            Command::Flush => (Access::Control, Vec::new(), vec![DiskOp::Sync { device }], ills.sync),
            Command::Check { access } => (access, Vec::new(), Vec::new(), 0),
            Command::Control { request } => return Some(Completion::Verdict(self.apply(nexus, &request))),
            Command::Inspect { .. } if !self.table.allows(nexus, Access::Look, None) => {
                return Some(Completion::Failed(Failure::Conflict));
            }
            Command::Inspect { .. } => return Some(Completion::Persistent(self.table.persistent())),
            Command::CompareAndWrite { extent, .. }
                if !self.table.allows(nexus, Access::Write, Some(extent)) =>
            {
                return Some(Completion::Failed(Failure::Conflict));
            }
            Command::CompareAndWrite { extent, compare, data } => {
                let from = extent.start().bytes() as usize;
                let there = self.disk.current().get(from..from + compare.len()).unwrap_or_default();
                // The pair asks by such, and means never to change anything.
                assert!(compare == data, "a COMPARE AND WRITE that would change blocks {extent}");
                let offset = there.iter().zip(&compare).position(|(a, b)| a != b);
                return Some(match offset {
                    Some(at) => Completion::Verdict(Verdict::Miscompare { offset: at as u64 }),
                    None => Completion::Verdict(Verdict::Done),
                });
            }
            Command::Leave => return Some(Completion::Failed(Failure::NotSupported)),
        };
        let allowed = match extents.as_slice() {
            [] => self.table.allows(nexus, access, None),
            some => some.iter().all(|extent| self.table.allows(nexus, access, Some(*extent))),
        };
        if !allowed {
            return Some(Completion::Failed(Failure::Conflict));
        }
        if ops.is_empty() {
            return Some(Completion::Done);
        }
        let fate = if self.random.percent(percent) { Fate::Fail } else { Fate::Well };
        let reads = access == Access::Read;
        let mut orders = Vec::new();
        for op in ops {
            let order = self.next_order;
            self.next_order += 1;
            if self.disk.submit(order, op, fate).is_err() {
                return Some(Completion::Failed(Failure::NotSupported));
            }
            orders.push(order);
        }
        self.work.insert(task, Work { orders, extent: extents.first().copied(), reads, fua });
        None
    }

    /// The nexus that stands here for one of the pair's.
    fn nexus_of(&self, pair: &str, nexus: Nexus) -> Nexus {
        let (name, isid) = initiator_port(pair, self.site, self.volume, Port::Host(nexus));
        let isid = isid.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        Nexus { host: HostId::of_name(&name), isid, site: SiteId::A }
    }

    /// What the nexus that stands for one of the pair's has.
    pub fn has(&self, pair: &str, nexus: Nexus) -> Has {
        let here = self.nexus_of(pair, nexus);
        let state = self.table.parts();
        let held = state.persistent.filter(|_| state.holds_persistent(here));
        let registration = state.registrations.iter().find(|one| one.registrant.nexus == here);
        Has {
            unit: state.unit.is_some_and(|UnitReservation { owner, .. }| owner == here),
            persistent: held.map(|held| held.kind),
            key: registration.map(|one| one.key),
            extents: state
                .extents
                .iter()
                .filter(|one| one.owner == here)
                .map(|one| (one.extents.clone(), one.third_party.is_some()))
                .collect(),
        }
    }

    /// Whether nothing at all is reserved, and nobody is registered.
    pub fn is_bare(&self) -> bool {
        self.table.is_free() && self.table.parts().registrations.is_empty()
    }
}
