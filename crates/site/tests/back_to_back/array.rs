//! A SCSI unit that keeps reservations: our own front end, one table, memory.

use biplex_engine::reserve::{Extents, Request, Reservations, Reset, Verdict};
use biplex_engine::{Extent, HostId, Nexus, Now, SiteId, Stamp, VolumeId};
use biplex_front::iscsi::{Target, TargetAction, TargetConfig};
use biplex_front::scsi::{Device, PortConfig, UnitConfig};
use biplex_front::{Command, Completion, ConnId, Failure};
use biplex_site::unit::{Port, initiator_port};
use bytes::Bytes;
use std::collections::BTreeSet;

pub const TARGET: &str = "iqn.2026-11.example:array";
pub const LUN: u16 = 3;
const VOLUME: VolumeId = VolumeId(1);
/// Bytes that its reservations may take.
const LIMIT: u64 = 64 << 10;

pub struct Array {
    target: Target,
    pub table: Reservations,
    pub disk: Vec<u8>,
    /// It answers BUSY to RESERVE, RELEASE and the like.
    pub busy: bool,
    /// COMPARE AND WRITEs served.
    pub swaps: usize,
    open: BTreeSet<u64>,
    clock: u64,
}

impl Array {
    pub fn new() -> Array {
        let port = |site, group, relative| PortConfig { site, target: TARGET.into(), group, relative };
        let unit = UnitConfig {
            volume: VOLUME,
            lun: LUN,
            name: "disk".into(),
            serial: "D1".into(),
            naa: 5 << 60,
            blocks: super::BLOCKS,
        };
        let device = Device::new(port(SiteId::A, 1, 1), port(SiteId::B, 2, 257), vec![unit]);
        let config = TargetConfig {
            name: TARGET.into(),
            group: 1,
            portal: "192.0.2.9:3260".into(),
            peer_portals: Vec::new(),
            chap: None,
        };
        Array {
            target: Target::new(config, device, Box::new(|bytes| bytes.fill(9))),
            table: Reservations::default(),
            busy: false,
            swaps: 0,
            disk: vec![0; (super::BLOCKS * 512) as usize],
            open: BTreeSet::new(),
            clock: 0,
        }
    }

    pub fn connected(&mut self, now: Now, number: u64) {
        self.open.insert(number);
        self.target.handle_connected(now, ConnId(number), "192.0.2.9:3260".into(), "192.0.2.1:9".into());
    }

    pub fn bytes(&mut self, now: Now, number: u64, bytes: Bytes) {
        if self.open.contains(&number) {
            self.target.handle_bytes(now, ConnId(number), bytes);
        }
    }

    pub fn closed(&mut self, now: Now, number: u64) {
        if self.open.remove(&number) {
            self.target.handle_closed(now, ConnId(number));
        }
    }

    /// It loses power, and keeps nothing. What is connected is to be dropped.
    pub fn lose_power(&mut self) {
        self.table = Reservations::default();
    }

    /// Somebody past the pair resets it.
    pub fn reset(&mut self) {
        let stranger = Nexus { host: HostId(0), isid: 0, site: SiteId::A };
        self.apply(stranger, &Request::Reset(Reset::Unit));
    }

    /// Loses every connection; says which.
    pub fn drop_all(&mut self, now: Now) -> Vec<u64> {
        let all: Vec<u64> = self.open.iter().copied().collect();
        all.iter().for_each(|number| self.closed(now, *number));
        all
    }

    /// Next bytes on a connection; `None` instead of bytes: it is closed.
    pub fn poll(&mut self, now: Now) -> Option<(u64, Option<Bytes>)> {
        loop {
            match self.target.poll()? {
                TargetAction::Send { conn, bytes } if self.open.contains(&conn.0) => {
                    return Some((conn.0, Some(bytes)));
                }
                TargetAction::Close { conn } if self.open.remove(&conn.0) => return Some((conn.0, None)),
                TargetAction::Command { task, nexus, command } => {
                    let completion = self.serve(nexus, command.command);
                    self.target.handle_completion(now, task, completion);
                }
                TargetAction::Leave { task, nexus } => {
                    self.apply(nexus, &Request::NexusLost);
                    self.target.handle_completion(now, task, Completion::Done);
                }
                TargetAction::LoggedOut { nexus, .. } => drop(self.apply(nexus, &Request::NexusLost)),
                _ => {}
            }
        }
    }

    fn apply(&mut self, nexus: Nexus, request: &Request) -> Verdict {
        self.clock += 1;
        let stamp = Stamp { time: self.clock, site: SiteId::A };
        let (verdict, effects) = self.table.apply_within(LIMIT, stamp, nexus, request);
        effects.iter().for_each(|effect| self.target.apply_effect(VOLUME, effect));
        verdict
    }

    fn serve(&mut self, nexus: Nexus, command: Command) -> Completion {
        use biplex_engine::reserve::Access;
        let bytes = |extent: Extent| extent.start().bytes() as usize..extent.end().bytes() as usize;
        let (access, extent) = match &command {
            Command::Read { extent, .. } => (Access::Read, Some(*extent)),
            Command::Write { extent, .. }
            | Command::Fill { extent, .. }
            | Command::CompareAndWrite { extent, .. } => (Access::Write, Some(*extent)),
            Command::Check { access } => (*access, None),
            Command::Control { .. } if self.busy => return Completion::Failed(Failure::Busy),
            Command::Control { request } => return Completion::Verdict(self.apply(nexus, &request.clone())),
            Command::Flush => (Access::Control, None),
            Command::Inspect { .. } => (Access::Look, None),
            Command::Leave => {
                self.apply(nexus, &Request::NexusLost);
                return Completion::Done;
            }
            other => panic!("a store is not asked for {other:?}"),
        };
        if !self.table.allows(nexus, access, extent) {
            return Completion::Failed(Failure::Conflict);
        }
        match command {
            Command::Read { extent, .. } => {
                Completion::Data(vec![Bytes::copy_from_slice(&self.disk[bytes(extent)])])
            }
            Command::Write { extent, data, .. } => {
                self.disk[bytes(extent)].copy_from_slice(&data);
                Completion::Done
            }
            Command::CompareAndWrite { extent, compare, data } => {
                self.swaps += 1;
                let place = &mut self.disk[bytes(extent)];
                let differs = place.iter().zip(&compare).position(|(found, wanted)| found != wanted);
                Completion::Verdict(match differs {
                    Some(at) => Verdict::Miscompare { offset: at as u64 },
                    None => {
                        place.copy_from_slice(&data);
                        Verdict::Done
                    }
                })
            }
            Command::Inspect { .. } => Completion::Persistent(self.table.persistent()),
            _ => Completion::Done,
        }
    }

    /// Who a pair's nexus at `site` is here.
    fn here(site: SiteId, nexus: Nexus) -> Nexus {
        let (name, isid) = initiator_port(super::TARGET, site, super::VOLUME, Port::Host(nexus));
        let isid = isid.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        Nexus { host: HostId::of_name(&name), isid, site: SiteId::A }
    }

    /// Which extents a pair's nexus has reserved here, and for which of these.
    pub fn extents_of(&self, site: SiteId, nexus: Nexus, others: &[Nexus]) -> Vec<(Extents, Option<HostId>)> {
        let owner = Array::here(site, nexus);
        let named = |there: HostId| {
            let host = others.iter().find(|other| Array::here(site, **other).host == there);
            host.expect("a host of the pair").host
        };
        let all = self.table.parts().extents.iter().filter(|one| one.owner == owner);
        all.map(|one| (one.extents.clone(), one.third_party.map(named))).collect()
    }

    /// What the nexus that stands for a pair's nexus at `site` has here: whether it holds the unit by SCSI-2, whether
    /// it holds a persistent reservation, and its key.
    pub fn has(&self, site: SiteId, nexus: Nexus) -> (bool, bool, Option<u64>) {
        let here = Array::here(site, nexus);
        let parts = self.table.parts();
        let registration = parts.registrations.iter().find(|one| one.registrant.nexus == here);
        let key = registration.map(|one| one.key);
        (self.table.holds(here), parts.holds_persistent(here), key)
    }
}
