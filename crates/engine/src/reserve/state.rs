//! What a unit's reservations are made of: plain tables, which `format` spells and a checkpoint keeps.
//!
//! Invariants, by the names that [`ReservationState::check`] gives them:
//!
//! - **sorted**: extents ascend by owner and id, registrations by nexus; none is there twice.
//! - **limits**: at most [`CLAIMS_MAX`] claims and [`REGISTRATIONS_MAX`] registrations, names of at most
//!   [`INITIATOR_NAME_BYTES_MAX`] bytes, no key of 0, no extents without a claim.
//! - **one world**: SCSI-2 reservations and persistent registrations never stand together.
//! - **one unit**: where the unit is reserved, all extents are of the unit's owner.
//! - **no overlap**: claims of two owners that share a block do not conflict.
//! - **holder registered**: who holds the persistent reservation is registered; where all registrants hold, there is one.
//! - **pairs**: a registration for both sites' ports has its like at the other site, with the same key.

use super::request::{
    CLAIMS_MAX, Extents, INITIATOR_NAME_BYTES_MAX, ModeBits, PersistentKind, REGISTRATIONS_MAX, Registrant,
};
use super::scsi2::conflict;
use crate::units::{HostId, Nexus, Stamp};

/// A SCSI-2 reservation of the whole unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnitReservation {
    /// Start time of the reservation: the stamp of its RESERVE.
    pub since: Stamp,
    /// Who asked, and alone may release.
    pub owner: Nexus,
    /// The host that it was made for, at any nexus; `None`: the owner.
    pub third_party: Option<HostId>,
}

/// SCSI-2 extents, reserved together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExtentReservation {
    /// Start time of the reservation: the stamp of its RESERVE.
    pub since: Stamp,
    /// Who asked, and alone may release.
    pub owner: Nexus,
    /// The host that it was made for, at any nexus; `None`: the owner.
    pub third_party: Option<HostId>,
    /// Id and claims.
    pub extents: Extents,
}

/// A registered nexus.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registration {
    /// Who, with its name.
    pub registrant: Registrant,
    /// RESERVATION KEY, never 0.
    pub key: u64,
    /// ALL_TG_PT: the same initiator port is registered at the other site, with the same key, by the same request.
    pub all_ports: bool,
}

/// A persistent reservation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PersistentReservation {
    /// Start time of the reservation: the stamp of what made this holder hold it.
    pub since: Stamp,
    /// Type.
    pub kind: PersistentKind,
    /// Who holds it; `None`: all registrants ([`PersistentKind::all_hold`]).
    pub holder: Option<Nexus>,
}

/// All that [`super::Reservations`] knows of a unit.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReservationState {
    /// The SCSI-2 reservation of the unit.
    pub unit: Option<UnitReservation>,
    /// SCSI-2 extents, ascending by owner and id.
    pub extents: Vec<ExtentReservation>,
    /// Persistent registrations, ascending by nexus.
    pub registrations: Vec<Registration>,
    /// The persistent reservation.
    pub persistent: Option<PersistentReservation>,
    /// PRGENERATION.
    pub generation: u32,
    /// PTPL_A: registrations and persistent reservation survive power loss.
    pub aptpl: bool,
    /// Mode parameters.
    pub modes: ModeBits,
    /// How often site A and site B were started, as last told; `None`: never told.
    pub runs: Option<[u32; 2]>,
}

impl UnitReservation {
    /// Whether `by` is who it was made for.
    pub fn holds(&self, by: Nexus) -> bool {
        holds(self.owner, self.third_party, by)
    }
}

impl ExtentReservation {
    /// Whether `by` is who they were made for.
    pub fn holds(&self, by: Nexus) -> bool {
        holds(self.owner, self.third_party, by)
    }
}

/// A third party is a host, whatever its nexus; otherwise one nexus holds (SCSI-2 9.2.12.3).
fn holds(owner: Nexus, third_party: Option<HostId>, by: Nexus) -> bool {
    match third_party {
        None => owner == by,
        Some(host) => host == by.host,
    }
}

impl ReservationState {
    /// Whether anything is reserved the SCSI-2 way.
    pub fn any_scsi2(&self) -> bool {
        self.unit.is_some() || !self.extents.is_empty()
    }

    /// How many claims there are.
    pub fn claims(&self) -> usize {
        self.extents.iter().map(|reservation| reservation.extents.claims.len()).sum()
    }

    /// The registration of a nexus.
    pub fn registration(&self, nexus: Nexus) -> Option<&Registration> {
        let at = self.registrations.binary_search_by_key(&nexus, |r| r.registrant.nexus).ok()?;
        self.registrations.get(at)
    }

    /// Whether `nexus` holds the persistent reservation (SPC-4 5.13.10).
    pub fn holds_persistent(&self, nexus: Nexus) -> bool {
        self.persistent.is_some_and(|held| match held.holder {
            Some(holder) => holder == nexus,
            None => self.registration(nexus).is_some(),
        })
    }

    /// No fewer bytes than it takes to write this down: what the limit on a volume's tables is kept by.
    pub fn weight(&self) -> u64 {
        let extents = self.extents.iter().map(|reservation| 64 + 24 * reservation.extents.claims.len());
        let registrations = self.registrations.iter().map(|one| 64 + one.registrant.name.len());
        (256 + extents.sum::<usize>() + registrations.sum::<usize>()) as u64
    }

    /// What must always be so; the message names what is not. See the head of this file.
    pub fn check(&self) -> Result<(), String> {
        self.check_sorted()?;
        self.check_limits()?;
        self.check_scsi2()?;
        self.check_persistent()
    }

    fn check_sorted(&self) -> Result<(), String> {
        let key = |r: &ExtentReservation| (r.owner, r.extents.id);
        demand(self.extents.is_sorted_by(|a, b| key(a) < key(b)), "sorted: extents")?;
        let nexus = |r: &Registration| r.registrant.nexus;
        demand(self.registrations.is_sorted_by(|a, b| nexus(a) < nexus(b)), "sorted: registrations")
    }

    fn check_limits(&self) -> Result<(), String> {
        demand(self.claims() <= CLAIMS_MAX, "limits: claims")?;
        demand(self.extents.iter().all(|r| !r.extents.claims.is_empty()), "limits: extents without a claim")?;
        demand(self.registrations.len() <= REGISTRATIONS_MAX, "limits: registrations")?;
        demand(self.registrations.iter().all(|r| r.key != 0), "limits: a key of 0")?;
        let long = |r: &Registration| r.registrant.name.len() > INITIATOR_NAME_BYTES_MAX;
        demand(!self.registrations.iter().any(long), "limits: name")
    }

    fn check_scsi2(&self) -> Result<(), String> {
        demand(
            !self.any_scsi2() || (self.registrations.is_empty() && self.persistent.is_none()),
            "one world: SCSI-2 and persistent",
        )?;
        if let Some(unit) = self.unit {
            demand(self.extents.iter().all(|r| r.owner == unit.owner), "one unit: another's extents")?;
        }
        for (at, one) in self.extents.iter().enumerate() {
            for other in self.extents.iter().skip(at + 1).filter(|other| other.owner != one.owner) {
                demand(!conflict(&one.extents, &other.extents), "no overlap: conflicting claims")?;
            }
        }
        Ok(())
    }

    fn check_persistent(&self) -> Result<(), String> {
        if let Some(held) = self.persistent {
            demand(held.kind.all_hold() == held.holder.is_none(), "holder registered: holder and type")?;
            let registered = match held.holder {
                Some(holder) => self.registration(holder).is_some(),
                None => !self.registrations.is_empty(),
            };
            demand(registered, "holder registered: nobody is")?;
        }
        for one in self.registrations.iter().filter(|r| r.all_ports) {
            let like = self.registration(other_port(one.registrant.nexus));
            demand(like.is_some_and(|r| r.all_ports && r.key == one.key), "pairs: not at both sites")?;
        }
        Ok(())
    }
}

/// The same initiator port at the other site's target port.
pub(super) fn other_port(nexus: Nexus) -> Nexus {
    Nexus { site: nexus.site.peer(), ..nexus }
}

fn demand(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}
