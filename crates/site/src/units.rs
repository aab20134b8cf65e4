//! Answers for the stores that are SCSI units: hands the site's store orders and the daemon's news to each [`Unit`], and
//! what they want done to the daemon. What a unit is and does is [`crate::unit`]'s.

use crate::api::*;
use crate::site::Site;
use crate::unit::{Unit, UnitAction, UnitConn, UnitSetting};
use biplex_engine::{Now, VolumeId};
use biplex_store::{Device, DiskOp, DiskTicket};
use bytes::Bytes;
use std::collections::BTreeMap;

/// The units of a config.
pub(crate) fn units(config: &SiteConfig) -> BTreeMap<VolumeId, Unit> {
    let unit = |volume: &VolumeConfig| {
        let setting = UnitSetting {
            address: volume.store.clone()?,
            pair: config.port.target.clone(),
            site: config.site,
            volume: volume.unit.volume,
            name: volume.unit.name.clone(),
            blocks: volume.unit.blocks,
            reserves: volume.rules.disk,
        };
        Some((volume.unit.volume, Unit::new(setting)))
    };
    config.volumes.iter().filter_map(unit).collect()
}

impl Site {
    /// An order goes where its device is.
    pub(crate) fn order_store(&mut self, ticket: DiskTicket, op: DiskOp) {
        let device = match &op {
            DiskOp::AppendDurable { .. } => Device::Journal,
            DiskOp::Read { device, .. }
            | DiskOp::Write { device, .. }
            | DiskOp::Zero { device, .. }
            | DiskOp::Sync { device } => *device,
        };
        let unit = match device {
            Device::Journal => None,
            Device::Volume(volume) => self.units.get_mut(&volume),
        };
        match unit {
            Some(unit) => unit.order(ticket, op),
            None => self.out.push(Action::Disk { ticket, op }),
        }
    }

    pub(crate) fn unit_connected(&mut self, now: Now, conn: UnitConn) {
        if let Some(unit) = self.units.get_mut(&conn.volume) {
            unit.handle_connected(now.mono, conn);
        }
    }

    pub(crate) fn unit_bytes(&mut self, now: Now, conn: UnitConn, bytes: Bytes) {
        if let Some(unit) = self.units.get_mut(&conn.volume) {
            unit.handle_bytes(now.mono, conn, bytes);
        }
    }

    pub(crate) fn unit_closed(&mut self, now: Now, conn: UnitConn, why: &str) {
        if let Some(unit) = self.units.get_mut(&conn.volume) {
            unit.handle_closed(now.mono, conn, why);
        }
    }

    /// Carries out what the units want; `false` when none wants anything.
    pub(crate) fn serve_units(&mut self, now: Now) -> bool {
        let mut actions = Vec::new();
        for (id, unit) in &mut self.units {
            if unit.stirred() {
                unit.advance(now.mono);
            }
            actions.extend(std::iter::from_fn(|| unit.poll()).map(|action| (*id, action)));
        }
        let any = !actions.is_empty();
        for (id, action) in actions {
            match action {
                UnitAction::Connect { conn, portal } => self.out.push(Action::UnitConnect { conn, portal }),
                UnitAction::Send { conn, bytes } => self.out.push(Action::UnitSend { conn, bytes }),
                UnitAction::Close { conn } => self.out.push(Action::UnitClose { conn }),
                UnitAction::Done { ticket, result } => self.disk_done(now, ticket, result),
                UnitAction::Notice { severity, text } => self.notice(severity, text),
                UnitAction::Passed { ticket, result } => self.passed(now, id, ticket, result),
                UnitAction::Attention { port, sense } => {
                    self.tell_attention(now, id, port, &sense);
                }
                UnitAction::NobodyRegistered { nexus } => self.nobody_registered(now, id, nexus),
                UnitAction::NexusLost { nexus } => self.unit_nexus_lost(now, id, nexus),
            }
        }
        any
    }
}
