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

pub mod request;

pub use request::*;


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
