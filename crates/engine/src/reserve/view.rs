//! What others see of the tables: operators E3.3's rows, the state map its reserved bit, hosts PERSISTENT RESERVE IN.

use super::Reservations;
use super::request::{ExtentKind, PersistentKind, Registrant};
use crate::units::{Extent, HostId, Lba, Nexus, Stamp};
use std::fmt;

/// A nexus that registered, as PERSISTENT RESERVE IN and operators see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegistrationView {
    /// Who, with its name.
    pub registrant: Registrant,
    /// RESERVATION KEY.
    pub key: u64,
    /// Whether it holds the persistent reservation.
    pub holder: bool,
    /// ALL_TG_PT: registered with the same request at both sites' ports.
    pub all_ports: bool,
}

/// Persistent registrations and reservation of a unit (SPC-4 6.15).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PersistentView {
    /// PRGENERATION.
    pub generation: u32,
    /// PTPL_A: what stands survives power loss.
    pub aptpl: bool,
    /// Type, and the holder's key (0 where all registrants hold).
    pub reservation: Option<(PersistentKind, u64)>,
    /// All registered nexuses, ascending.
    pub registrations: Vec<RegistrationView>,
}

/// What sort of reservation a row is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum ReservationKind {
    /// SCSI-2, the whole unit.
    Unit,
    /// SCSI-2, an extent.
    Extent(ExtentKind),
    /// Persistent.
    Persistent(PersistentKind),
}

impl fmt::Display for ReservationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ReservationKind::Unit => "unit",
            ReservationKind::Extent(ExtentKind::ReadShared) => "read shared",
            ReservationKind::Extent(ExtentKind::WriteExclusive) => "write exclusive",
            ReservationKind::Extent(ExtentKind::ReadExclusive) => "read exclusive",
            ReservationKind::Extent(ExtentKind::ExclusiveAccess) => "exclusive access",
            ReservationKind::Persistent(PersistentKind::WriteExclusive) => "persistent, write exclusive",
            ReservationKind::Persistent(PersistentKind::ExclusiveAccess) => "persistent, exclusive access",
            ReservationKind::Persistent(PersistentKind::WriteExclusiveRegistrants) => {
                "persistent, write exclusive, registrants only"
            }
            ReservationKind::Persistent(PersistentKind::ExclusiveAccessRegistrants) => {
                "persistent, exclusive access, registrants only"
            }
            ReservationKind::Persistent(PersistentKind::WriteExclusiveAll) => {
                "persistent, write exclusive, all registrants"
            }
            ReservationKind::Persistent(PersistentKind::ExclusiveAccessAll) => {
                "persistent, exclusive access, all registrants"
            }
        })
    }
}

/// A row of the reservation table (E3.3); its number is its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReservationRow {
    /// Start time.
    pub since: Stamp,
    /// Who may release. Where all registrants hold, each may: the first of them.
    pub owner: Nexus,
    /// The host that it was made for instead of the owner.
    pub third_party: Option<HostId>,
    /// Which blocks; `None`: the whole unit.
    pub extent: Option<Extent>,
    /// What sort.
    pub kind: ReservationKind,
    /// Reservation identification of an extent.
    pub id: Option<u8>,
}

impl Reservations {
    /// E3.3's table, ascending by start time. Every claim of an extent reservation is a row, and so is a persistent
    /// reservation.
    pub fn rows(&self) -> Vec<ReservationRow> {
        let unit = self.state.unit.iter().map(|unit| ReservationRow {
            since: unit.since,
            owner: unit.owner,
            third_party: unit.third_party,
            extent: None,
            kind: ReservationKind::Unit,
            id: None,
        });
        let extents = self.state.extents.iter().flat_map(|reservation| {
            reservation.extents.claims.iter().map(|claim| ReservationRow {
                since: reservation.since,
                owner: reservation.owner,
                third_party: reservation.third_party,
                extent: Some(claim.extent),
                kind: ReservationKind::Extent(claim.kind),
                id: Some(reservation.extents.id),
            })
        });
        let first = self.state.registrations.first().map(|registration| registration.registrant.nexus);
        let persistent = self.state.persistent.iter().filter_map(|held| {
            Some(ReservationRow {
                since: held.since,
                owner: held.holder.or(first)?,
                third_party: None,
                extent: None,
                kind: ReservationKind::Persistent(held.kind),
                id: None,
            })
        });
        let mut rows: Vec<ReservationRow> = unit.chain(extents).chain(persistent).collect();
        rows.sort_by_key(|row| row.since);
        rows
    }

    /// The rows that have a say about this block.
    pub fn explain(&self, lba: Lba) -> Vec<ReservationRow> {
        let mut rows = self.rows();
        rows.retain(|row| row.extent.is_none_or(|extent| extent.start() <= lba && lba < extent.end()));
        rows
    }

    /// Which blocks of `unit` (all blocks that there are) are reserved: ascending runs that do not touch, for the
    /// reserved bit of the block state map (E3.2).
    pub fn map(&self, unit: Extent) -> Vec<Extent> {
        if self.state.unit.is_some() || self.state.persistent.is_some() {
            return vec![unit];
        }
        let claims = self.state.extents.iter().flat_map(|reservation| &reservation.extents.claims);
        let mut claimed: Vec<Extent> = claims.filter_map(|claim| claim.extent.intersection(unit)).collect();
        claimed.sort_unstable();
        let mut runs: Vec<Extent> = Vec::with_capacity(claimed.len());
        for next in claimed {
            match runs.last_mut() {
                Some(run) if next.start() <= run.end() => {
                    let end = run.end().max(next.end());
                    *run = Extent::between(run.start(), end).expect("it only grew");
                }
                Some(_) | None => runs.push(next),
            }
        }
        runs
    }

    /// What PERSISTENT RESERVE IN tells.
    pub fn persistent(&self) -> PersistentView {
        let key = |nexus: Nexus| self.state.registration(nexus).map_or(0, |registration| registration.key);
        PersistentView {
            generation: self.state.generation,
            aptpl: self.state.aptpl,
            // SPC-4 6.15.3: 0 where all registrants hold.
            reservation: self.state.persistent.map(|held| (held.kind, held.holder.map_or(0, key))),
            registrations: self
                .state
                .registrations
                .iter()
                .map(|registration| RegistrationView {
                    registrant: registration.registrant.clone(),
                    key: registration.key,
                    holder: self.state.holds_persistent(registration.registrant.nexus),
                    all_ports: registration.all_ports,
                })
                .collect(),
        }
    }
}
