//! RESERVE and RELEASE of units and extents (SCSI-2 9.2.11, 9.2.12; SPC-2 7.20, 7.21).
//!
//! What stands is compared by owner, i.e. by who asked: only the owner supersedes or releases. A third party holds (may
//! do I/O) and owns nothing, so a RESERVE of its own conflicts: it could not tell when the owner takes it away.

use super::Reservations;
use super::request::{CLAIMS_MAX, ExtentKind, Extents, Verdict};
use super::state::{ExtentReservation, UnitReservation};
use crate::mutant::{Mutant, planted};
use crate::units::{HostId, Nexus, SiteId, Stamp};

/// Whether two owners cannot have both kinds on one block (SCSI-2 9.2.12.2).
fn kinds_conflict(one: ExtentKind, other: ExtentKind) -> bool {
    use ExtentKind::{ExclusiveAccess, ReadExclusive, ReadShared, WriteExclusive};
    match (one, other) {
        (ReadShared, ReadShared) | (WriteExclusive, ReadExclusive) | (ReadExclusive, WriteExclusive) => false,
        (ReadShared, WriteExclusive | ReadExclusive | ExclusiveAccess)
        | (WriteExclusive, ReadShared | WriteExclusive | ExclusiveAccess)
        | (ReadExclusive, ReadShared | ReadExclusive | ExclusiveAccess)
        | (ExclusiveAccess, ReadShared | WriteExclusive | ReadExclusive | ExclusiveAccess) => true,
    }
}

/// Whether two owners cannot have both.
pub(super) fn conflict(one: &Extents, other: &Extents) -> bool {
    one.claims
        .iter()
        .any(|a| other.claims.iter().any(|b| a.extent.overlaps(b.extent) && kinds_conflict(a.kind, b.kind)))
}

impl Reservations {
    /// How a RESERVE ends, were it executed now.
    pub(super) fn reserve_verdict(&self, by: Nexus, extents: Option<&Extents>) -> Verdict {
        if !self.state.registrations.is_empty() {
            return self.under_persistent(by);
        }
        if self.state.unit.is_some_and(|unit| unit.owner != by) {
            return Verdict::Conflict;
        }
        let mut others = self.state.extents.iter().filter(|reservation| reservation.owner != by);
        let Some(extents) = extents else {
            return if others.next().is_some() { Verdict::Conflict } else { Verdict::Done };
        };
        if others.any(|reservation| conflict(&reservation.extents, extents)) {
            return Verdict::Conflict;
        }
        let superseded = self.extents_at(by, extents.id).ok().and_then(|at| self.state.extents.get(at));
        let fewer = superseded.map_or(0, |reservation| reservation.extents.claims.len());
        if self.state.claims() - fewer + extents.claims.len() > CLAIMS_MAX {
            return Verdict::NoRoomToReserve;
        }
        Verdict::Done
    }

    /// RESERVE, E3.6: what stands already is older, as requests are executed in stamp order, and so it stays.
    pub(super) fn reserve(
        &mut self,
        since: Stamp,
        owner: Nexus,
        third_party: Option<HostId>,
        extents: Option<&Extents>,
    ) -> Verdict {
        let mut verdict = self.reserve_verdict(owner, extents);
        // The bug of which E3.6 is afraid: of two that ask, the younger gets it, here from a holder at site B.
        if planted(Mutant::NewerReserveWins)
            && extents.is_none()
            && owner.site == SiteId::A
            && self.state.unit.is_some_and(|unit| unit.owner.site == SiteId::B && unit.since < since)
        {
            self.state.unit = None;
            self.state.extents.clear();
            verdict = Verdict::Done;
        }
        // CRH: with registrations, GOOD means only that the host goes on.
        if verdict != Verdict::Done || !self.state.registrations.is_empty() {
            return verdict;
        }
        match extents {
            None => {
                // E3.5: held by who asks is success, and the reservation keeps its start. SCSI-2 9.2.12.4: for
                // another third party it is a new one, that supersedes.
                if self.state.unit.is_none_or(|unit| unit.third_party != third_party) {
                    self.state.unit = Some(UnitReservation { since, owner, third_party });
                }
            }
            Some(extents) => {
                let new = ExtentReservation { since, owner, third_party, extents: extents.clone() };
                match self.extents_at(owner, extents.id) {
                    Ok(at) => {
                        let held = self.state.extents.get_mut(at).expect("the search found it there");
                        if (held.third_party, &held.extents) != (third_party, extents) {
                            *held = new;
                        }
                    }
                    Err(at) => self.state.extents.insert(at, new),
                }
            }
        }
        Verdict::Done
    }

    /// RELEASE: frees what the same nexus reserved for the same party, and is GOOD whatever it finds (SCSI-2 9.2.11,
    /// E3.8). With registrations see [`Reservations::under_persistent`].
    pub(super) fn release(&mut self, by: Nexus, third_party: Option<HostId>, extents: Option<u8>) -> Verdict {
        if !self.state.registrations.is_empty() {
            return self.under_persistent(by);
        }
        match extents {
            None => {
                self.state.unit.take_if(|unit| unit.owner == by && unit.third_party == third_party);
            }
            Some(id) => {
                self.state.extents.retain(|reservation| {
                    reservation.owner != by
                        || reservation.extents.id != id
                        || reservation.third_party != third_party
                });
            }
        }
        Verdict::Done
    }

    /// Releases all that the owners for which `gone` holds reserved; returns these owners, ascending.
    pub(super) fn release_owners(&mut self, gone: impl Fn(Nexus) -> bool) -> Vec<Nexus> {
        let mut owners: Vec<Nexus> = self.state.unit.iter().map(|unit| unit.owner).collect();
        owners.extend(self.state.extents.iter().map(|reservation| reservation.owner));
        owners.retain(|owner| gone(*owner));
        owners.sort_unstable();
        owners.dedup();
        self.state.unit.take_if(|unit| gone(unit.owner));
        self.state.extents.retain(|reservation| !gone(reservation.owner));
        owners
    }

    /// RESERVE and RELEASE while there are persistent registrations: CRH is 1, so they are GOOD and do nothing for the
    /// holder and for registrants of types that serve them, and conflict for all others (SPC-4 5.13.3).
    fn under_persistent(&self, by: Nexus) -> Verdict {
        let served = self.state.persistent.is_some_and(|held| held.kind.serves_registrants())
            && self.state.registration(by).is_some();
        if served || self.state.holds_persistent(by) { Verdict::Done } else { Verdict::Conflict }
    }

    fn extents_at(&self, owner: Nexus, id: u8) -> Result<usize, usize> {
        self.state.extents.binary_search_by_key(&(owner, id), |r| (r.owner, r.extents.id))
    }
}
