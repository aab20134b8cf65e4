//! Reservations of one unit: who may do what, and how that changes (E3, SCSI-2 9.2.12, SPC-4 5.13).
//!
//! Answers for: one pure function, [`Reservations::apply`], that both sites call with the same requests in the same
//! order, and so come to the same tables, verdicts and effects. It must never look at anything but its arguments: no
//! site, no clock reading, no order of arrival.
//!
//! ```text
//! request, stamp, nexus ─▶ apply ─▶ verdict (to the host that asked) + effects (each site for its own nexuses)
//! nexus, access, blocks ─▶ allows ─▶ may it, now?
//! ```
//! Invariants: see [`Reservations::check`].

mod admission;
mod persistent;
pub mod request;
mod reset;
mod scsi2;
pub mod state;
pub mod view;

pub use request::*;
pub use state::*;
pub use view::*;

use crate::units::{Nexus, Stamp};
use persistent::{Moving, Preempting, Registering};

/// The reservations and mode parameters of one unit, the same at both sites.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reservations {
    state: ReservationState,
}

/// What a command does, as far as reservations ask. The table from commands to these is the SCSI front end's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Access {
    /// Served whoever holds what: INQUIRY, REQUEST SENSE, REPORT LUNS, READ CAPACITY and the like.
    Exempt,
    /// Looks at the unit as a whole: kept out by another's SCSI-2 unit reservation only. TEST UNIT READY.
    Look,
    /// Returns the medium's bytes, or what depends on them.
    Read,
    /// Changes the medium.
    Write,
    /// Changes or tries the unit as a whole: as a write to persistent reservations, and to SCSI-2 kept out by any
    /// reservation of another's. MODE SELECT, START STOP UNIT.
    Control,
}

impl Reservations {
    /// Executes a request of `by` (for [`Request::SiteStarted`] and whatever else no nexus asked for, any). Both sites
    /// execute the same requests in stamp order, and so `stamp` is later than all before.
    ///
    /// # Panics
    /// With a request that is not [`Request::within_limits`]: the front end refuses it, and none comes over the link.
    pub fn apply(&mut self, stamp: Stamp, by: Nexus, request: &Request) -> (Verdict, Vec<Effect>) {
        assert!(request.within_limits(), "the front end refuses a request beyond the limits");
        let mut effects = Vec::new();
        let out = &mut effects;
        let verdict = match request {
            Request::Reserve { third_party, extents } => {
                self.reserve(stamp, by, *third_party, extents.as_ref())
            }
            Request::Release { third_party, extents } => self.release(by, *third_party, *extents),
            Request::Register { key, new_key, aptpl, all_ports, name, also } => {
                let (key, new_key, aptpl, all_ports) = (*key, *new_key, *aptpl, *all_ports);
                self.register(by, &Registering { key, new_key, aptpl, all_ports, name, also }, out)
            }
            Request::ReservePersistent { key, kind } => self.reserve_persistent(stamp, by, *key, *kind),
            Request::ReleasePersistent { key, kind } => self.release_persistent(by, *key, *kind, out),
            Request::Clear { key } => self.clear(by, *key, out),
            Request::Preempt { key, victim, kind, abort } => {
                let ask = Preempting { key: *key, victim: *victim, kind: *kind, abort: *abort };
                self.preempt(stamp, by, &ask, out)
            }
            Request::Move { key, new_key, unregister, aptpl, to } => {
                let (key, new_key, unregister, aptpl) = (*key, *new_key, *unregister, *aptpl);
                self.move_to(stamp, by, &Moving { key, new_key, unregister, aptpl, to })
            }
            Request::Reset(reset) => self.reset(by, *reset, out),
            Request::SetModes(modes) => self.set_modes(by, *modes, out),
            Request::NexusLost => {
                // SAM-5 6.3.4. The nexus' own site knows, and tells it should it come back.
                self.release_owners(|owner| owner == by);
                Verdict::Done
            }
            Request::SiteStarted { run, peer_run } => self.site_started(stamp.site, *run, *peer_run, out),
        };
        (verdict, effects)
    }

    /// As [`Reservations::apply`], but what could take more than `limit` bytes to write down is refused: 5/55/04, 5/55/02.
    pub fn apply_within(
        &mut self,
        limit: u64,
        stamp: Stamp,
        by: Nexus,
        request: &Request,
    ) -> (Verdict, Vec<Effect>) {
        // ALL_TG_PT registers twice.
        let after = self.state.weight() + 2 * (request.stored_bytes() as u64 + 64);
        match request {
            Request::Register { new_key: 1.., .. } | Request::Move { .. } if after > limit => {
                (Verdict::NoRoomToRegister, Vec::new())
            }
            Request::Reserve { extents: Some(_), .. } if after > limit => {
                (Verdict::NoRoomToReserve, Vec::new())
            }
            _ => self.apply(stamp, by, request),
        }
    }

    /// Whether nothing is reserved in either way, and so everything is allowed.
    pub fn is_free(&self) -> bool {
        self.state.unit.is_none() && self.state.extents.is_empty() && self.state.persistent.is_none()
    }

    /// Whether a RESERVE, SCSI-2 or persistent, would be done now (E3.5: a site that refused one asks this again when a
    /// release came). Of other requests: no.
    pub fn would_grant(&self, by: Nexus, request: &Request) -> bool {
        let verdict = match request {
            Request::Reserve { third_party: _, extents } => self.reserve_verdict(by, extents.as_ref()),
            Request::ReservePersistent { key, kind } => self.reserve_persistent_verdict(by, *key, *kind),
            Request::Release { .. }
            | Request::Register { .. }
            | Request::ReleasePersistent { .. }
            | Request::Clear { .. }
            | Request::Preempt { .. }
            | Request::Move { .. }
            | Request::Reset(_)
            | Request::SetModes(_)
            | Request::NexusLost
            | Request::SiteStarted { .. } => return false,
        };
        verdict == Verdict::Done
    }

    /// Whether `nexus` owns what [`Request::NexusLost`] would release.
    pub fn holds(&self, nexus: Nexus) -> bool {
        self.state.unit.is_some_and(|unit| unit.owner == nexus)
            || self.state.extents.iter().any(|reservation| reservation.owner == nexus)
    }

    /// The mode parameters.
    pub fn modes(&self) -> ModeBits {
        self.state.modes
    }

    /// All of it, for `format` to spell.
    pub fn parts(&self) -> &ReservationState {
        &self.state
    }

    /// From what [`Reservations::parts`] once gave; an error says which invariant it breaks.
    pub fn from_parts(state: ReservationState) -> Result<Reservations, String> {
        state.check()?;
        Ok(Reservations { state })
    }

    /// What must always be so, as the head of [`state`] lists it; the message names what is not.
    pub fn check(&self) -> Result<(), String> {
        self.state.check()
    }
}

#[cfg(test)]
mod tests;
