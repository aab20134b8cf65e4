//! What is judged where units keep the reservations (E5): that the two units of a volume hold the same for the same
//! nexuses whenever nothing is under way, unless the operator was told otherwise or a unit lost it.
//!
//! Exclusion is judged as for every volume ([`crate::exclusion`]), by what hosts are told. What units lose is a request to
//! it that nobody asked and whose end nobody hears of.

use crate::place::volume_id;
use crate::unit::{Has, SimUnit};
use crate::world::World;
use biplex_engine::{Nexus, SiteId};
use biplex_site::Event;
use std::collections::BTreeSet;

/// What is known of the units of the volumes, by index.
#[derive(Clone, Debug, Default)]
pub struct Units {
    /// The two may differ: an alarm said so, or one has lost registrations.
    unsure: BTreeSet<usize>,
    /// Nexuses that asked anything of it, or that one has registered along or moved its reservation to.
    visitors: BTreeSet<(usize, Nexus)>,
}

impl World {
    /// A unit lost nexuses, or with `power` all that is not kept over a loss of power.
    pub(crate) fn unit_lost(&mut self, site: SiteId, volume: usize, power: bool) {
        let Some(unit) = self.unit(site, volume) else { return };
        let table = unit.table.parts();
        let forgets = power && !table.aptpl;
        let registered = !table.registrations.is_empty();
        let now = self.moment();
        self.ledger.unit_lost(volume, forgets, now);
        if forgets && registered {
            self.units.unsure.insert(volume);
        }
    }

    /// A site told its operator something.
    pub(crate) fn hear_of_units(&mut self, text: &str) {
        for volume in self.unit_volumes() {
            let differ = text.starts_with(&format!("volume vol{volume}: the units differ over"));
            if differ {
                self.counts.units_differed += 1;
                self.units.unsure.insert(volume);
            }
        }
    }

    /// A host asks something of a volume.
    pub(crate) fn visit(&mut self, volume: usize, nexus: Nexus) {
        if self.scenario.volumes[volume].rules.disk {
            self.units.visitors.insert((volume, nexus));
        }
    }

    /// Whether no connection with either unit of the volume is ending, and each site knows how each ended.
    pub(crate) fn units_quiet(&self, volume: usize) -> bool {
        self.places.iter().all(|place| {
            let Some(unit) = place.units.get(&volume) else { return true };
            let id = volume_id(volume);
            let ending = |event: &Event| match event {
                Event::UnitClosed { conn, .. } => conn.volume == id,
                Event::NexusLost { .. } => true,
                _ => false,
            };
            let quiet = unit.lines.values().all(|line| line.over == [false; 2] && line.is_quiet());
            quiet && !place.inbox.iter().any(ending)
        })
    }

    /// What each of the pair's nexuses has at both units of the volume.
    fn holdings(&self, volume: usize) -> Vec<(Nexus, [Has; 2])> {
        let units = self.places.each_ref().map(|place| place.units.get(&volume));
        let [Some(a), Some(b)] = units else { return Vec::new() };
        let pair = &self.places[0].config.port.target;
        let visitors = self.units.visitors.iter().filter(|(of, _)| *of == volume);
        visitors.map(|(_, nexus)| (*nexus, [a.has(pair, *nexus), b.has(pair, *nexus)])).collect()
    }

    /// No request is under way: the units must hold the same. Says who is registered at either.
    pub(crate) fn judge_units(&mut self, volume: usize) -> BTreeSet<Nexus> {
        let all = self.holdings(volume);
        if self.units_bare(volume) {
            self.units.unsure.remove(&volume);
        }
        if !self.units.unsure.contains(&volume) {
            self.counts.units_compared += 1;
            if let Some((nexus, [a, b])) = all.iter().find(|(_, [a, b])| a != b) {
                let what = format!(
                    "vol{volume}: no request is under way, and {nexus} has {a:?} at A's unit, {b:?} at B's"
                );
                self.violation("units", what);
            }
        }
        let gone = |nexus: &Nexus| !self.hosts.iter().any(|host| !host.gone && host.nexus() == *nexus);
        let orphan = all
            .iter()
            .find(|(nexus, has)| has.iter().any(|has| has.unit || !has.extents.is_empty()) && gone(nexus));
        if let Some((nexus, has)) = orphan {
            let what = format!("vol{volume}: {nexus} is gone, and what it reserved stands: {has:?}");
            self.violation("orphan", what);
        }
        let registered = all.iter().filter(|(_, has)| has.iter().any(|has| has.key.is_some()));
        registered.map(|(nexus, _)| *nexus).collect()
    }

    /// Whether nothing is reserved and nobody registered at either unit.
    pub(crate) fn units_bare(&self, volume: usize) -> bool {
        self.places.iter().filter_map(|place| place.units.get(&volume)).all(SimUnit::is_bare)
    }
}
