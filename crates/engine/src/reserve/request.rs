//! What is asked of a unit's reservations, resets and mode parameters, and what comes of it. These travel on the
//! stream as they stand here (`format` spells them), are executed in stamp order at both sites, and so have the same
//! outcome at both.

use crate::units::{Extent, HostId, Nexus};
use std::fmt;
use std::sync::Arc;

/// Most bytes of an initiator's iSCSI name (RFC 7143 4.2.7.1).
pub const INITIATOR_NAME_BYTES_MAX: usize = 223;
/// Most extents reserved on a unit, and so in a request; beyond: [`Verdict::NoRoomToReserve`].
pub const CLAIMS_MAX: usize = 256;
/// Most nexuses registered on a unit; beyond: [`Verdict::NoRoomToRegister`].
pub const REGISTRATIONS_MAX: usize = 256;
/// Most further initiator ports of a [`Request::Register`].
pub const ALSO_MAX: usize = 64;

/// Bytes of a stored request before its claims or names.
pub const REQUEST_HEAD_BYTES: usize = 24;
/// Bytes of a stored [`Claim`].
pub const CLAIM_BYTES: usize = 24;
/// Bytes of a stored [`Registrant`] before its name.
pub const REGISTRANT_BYTES: usize = 24;

/// What an extent reservation keeps from whom (SCSI-2 9.2.12.2). Ordinals are on the wire and those of the CDB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
#[repr(u8)]
pub enum ExtentKind {
    /// Everybody may read, nobody may write, not even the holder.
    ReadShared = 0,
    /// Others may read.
    WriteExclusive = 1,
    /// Others may write.
    ReadExclusive = 2,
    /// Others may do neither.
    ExclusiveAccess = 3,
}

impl ExtentKind {
    /// All kinds, in ordinal order.
    pub const ALL: [ExtentKind; 4] = [
        ExtentKind::ReadShared,
        ExtentKind::WriteExclusive,
        ExtentKind::ReadExclusive,
        ExtentKind::ExclusiveAccess,
    ];

    /// The kind with this ordinal, if there is one.
    pub fn from_ordinal(ordinal: u8) -> Option<ExtentKind> {
        ExtentKind::ALL.into_iter().find(|kind| *kind as u8 == ordinal)
    }
}

/// Type of a persistent reservation (SPC-4 6.15.3.4). Ordinals are on the wire and those of the CDB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
#[repr(u8)]
pub enum PersistentKind {
    /// Only the holder writes.
    WriteExclusive = 1,
    /// Only the holder reads and writes.
    ExclusiveAccess = 3,
    /// Only registrants write.
    WriteExclusiveRegistrants = 5,
    /// Only registrants read and write.
    ExclusiveAccessRegistrants = 6,
    /// Only registrants write, and all of them hold.
    WriteExclusiveAll = 7,
    /// Only registrants read and write, and all of them hold.
    ExclusiveAccessAll = 8,
}

impl PersistentKind {
    /// All types, ascending.
    pub const ALL: [PersistentKind; 6] = [
        PersistentKind::WriteExclusive,
        PersistentKind::ExclusiveAccess,
        PersistentKind::WriteExclusiveRegistrants,
        PersistentKind::ExclusiveAccessRegistrants,
        PersistentKind::WriteExclusiveAll,
        PersistentKind::ExclusiveAccessAll,
    ];

    /// The type with this ordinal, if there is one.
    pub fn from_ordinal(ordinal: u8) -> Option<PersistentKind> {
        PersistentKind::ALL.into_iter().find(|kind| *kind as u8 == ordinal)
    }

    /// Whether every registrant holds it.
    pub fn all_hold(self) -> bool {
        matches!(self, PersistentKind::WriteExclusiveAll | PersistentKind::ExclusiveAccessAll)
    }

    /// Whether every registrant may do what the holder may.
    pub fn serves_registrants(self) -> bool {
        !matches!(self, PersistentKind::WriteExclusive | PersistentKind::ExclusiveAccess)
    }

    /// Whether those who may not write may not read either.
    pub fn excludes_reads(self) -> bool {
        match self {
            PersistentKind::ExclusiveAccess
            | PersistentKind::ExclusiveAccessRegistrants
            | PersistentKind::ExclusiveAccessAll => true,
            PersistentKind::WriteExclusive
            | PersistentKind::WriteExclusiveRegistrants
            | PersistentKind::WriteExclusiveAll => false,
        }
    }
}

/// One element of an extent reservation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Claim {
    /// What it keeps from whom.
    pub kind: ExtentKind,
    /// Which blocks.
    pub extent: Extent,
}

/// Extents reserved together under one id (SCSI-2 9.2.12.2); a further one with the same id supersedes them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Extents {
    /// Reservation identification, the host's choice.
    pub id: u8,
    /// The elements; never empty.
    pub claims: Vec<Claim>,
}

/// A nexus and its initiator's name: the id says who it is, the name is for TransportIDs and for people.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Registrant {
    /// Who.
    pub nexus: Nexus,
    /// The initiator's iSCSI name, at most 223 bytes.
    pub name: Arc<str>,
}

/// Functions that reset a unit (SAM-5 7; RFC 7143 11.5.1). Ordinals are on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
#[repr(u8)]
pub enum Reset {
    /// CLEAR TASK SET: all commands of all nexuses.
    TaskSet = 0,
    /// LOGICAL UNIT RESET.
    Unit = 1,
    /// TARGET WARM RESET, as far as this unit is concerned.
    TargetWarm = 2,
    /// TARGET COLD RESET, as far as this unit is concerned.
    TargetCold = 3,
}

impl Reset {
    /// All functions, in ordinal order.
    pub const ALL: [Reset; 4] = [Reset::TaskSet, Reset::Unit, Reset::TargetWarm, Reset::TargetCold];

    /// The function with this ordinal, if there is one.
    pub fn from_ordinal(ordinal: u8) -> Option<Reset> {
        Reset::ALL.into_iter().find(|reset| *reset as u8 == ordinal)
    }
}

/// The mode parameters that hosts can change (SPC-4 7.5.8), the same at both sites.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct ModeBits {
    /// D_SENSE: sense data is in descriptor format.
    pub descriptor_sense: bool,
    /// SWP: writes are refused.
    pub write_protected: bool,
}

/// A reservation command, a reset, or a fact about nexuses. Who asks is with it on the stream ([`crate::Entry::nexus`]).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// RESERVE(6), RESERVE(10) (SCSI-2 9.2.12, SPC-2 7.21).
    Reserve {
        /// For this host, whatever its sessions and site, instead of the one that asks.
        third_party: Option<HostId>,
        /// Extents; `None`: the whole unit.
        extents: Option<Extents>,
    },
    /// RELEASE(6), RELEASE(10) (SCSI-2 9.2.11, SPC-2 7.20).
    Release {
        /// As it was reserved.
        third_party: Option<HostId>,
        /// The id of extents; `None`: the whole unit.
        extents: Option<u8>,
    },
    /// REGISTER, REGISTER AND IGNORE EXISTING KEY (SPC-4 5.13.7).
    Register {
        /// RESERVATION KEY; `None`: it is ignored.
        key: Option<u64>,
        /// SERVICE ACTION RESERVATION KEY; 0 unregisters.
        new_key: u64,
        /// APTPL: survives power loss.
        aptpl: bool,
        /// ALL_TG_PT: at both sites' ports.
        all_ports: bool,
        /// The name of who asks, at most 223 bytes.
        name: Arc<str>,
        /// SPEC_I_PT: further initiator ports that are registered with the same key at the port that was asked.
        also: Vec<Registrant>,
    },
    /// RESERVE (SPC-4 5.13.9).
    ReservePersistent {
        /// RESERVATION KEY.
        key: u64,
        /// Type.
        kind: PersistentKind,
    },
    /// RELEASE (SPC-4 5.13.11.2.2).
    ReleasePersistent {
        /// RESERVATION KEY.
        key: u64,
        /// Type.
        kind: PersistentKind,
    },
    /// CLEAR (SPC-4 5.13.11.2.7).
    Clear {
        /// RESERVATION KEY.
        key: u64,
    },
    /// PREEMPT, PREEMPT AND ABORT (SPC-4 5.13.11.2.4 to .6).
    Preempt {
        /// RESERVATION KEY.
        key: u64,
        /// SERVICE ACTION RESERVATION KEY: whose registrations go.
        victim: u64,
        /// Type of the reservation afterwards, if the victim holds it.
        kind: PersistentKind,
        /// Abort the victims' commands at both sites.
        abort: bool,
    },
    /// REGISTER AND MOVE (SPC-4 5.13.8).
    Move {
        /// RESERVATION KEY.
        key: u64,
        /// SERVICE ACTION RESERVATION KEY.
        new_key: u64,
        /// UNREG: the mover's registration goes.
        unregister: bool,
        /// APTPL.
        aptpl: bool,
        /// The new holder: initiator port and target port.
        to: Registrant,
    },
    /// A reset.
    Reset(Reset),
    /// MODE SELECT, as it changes the unit.
    SetModes(ModeBits),
    /// The nexus ended: its SCSI-2 reservations are released (SAM-5 6.3.4).
    NexusLost,
    /// The site whose stamp this has was started anew: all its nexuses are gone. If the other site was, too, since they
    /// last were in step, the unit has lost power (SAM-5 6.3.1).
    SiteStarted {
        /// How often this site was started.
        run: u32,
        /// The same of its peer, as the peer's hello says.
        peer_run: u32,
    },
}

/// How a [`Request`] or a COMPARE AND WRITE ended, the same at both sites.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It was done.
    Done,
    /// RESERVATION CONFLICT.
    Conflict,
    /// 5/55/04 INSUFFICIENT REGISTRATION RESOURCES.
    NoRoomToRegister,
    /// 5/55/02 INSUFFICIENT RESERVATION RESOURCES.
    NoRoomToReserve,
    /// 5/26/04 INVALID RELEASE OF PERSISTENT RESERVATION.
    WrongRelease,
    /// 5/26/00 INVALID FIELD IN PARAMETER LIST, at this byte.
    BadParameter(u16),
    /// 5/24/00 INVALID FIELD IN CDB, at this byte.
    BadCdb(u16),
    /// The store that keeps the reservations did not answer: it may have been done or not.
    Unreachable,
    /// COMPARE AND WRITE found something else: byte offset of the first difference (SBC-3 5.2).
    Miscompare {
        /// From the start of the compared data.
        offset: u64,
    },
}

/// Something that a nexus must be told about the unit (SAM-5 5.14).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Attention {
    /// 29/00: power on, or TARGET COLD RESET.
    PowerOn,
    /// 29/03: LOGICAL UNIT RESET or TARGET WARM RESET.
    Reset,
    /// 29/07: this nexus was lost, and with it its commands.
    NexusLost,
    /// 2A/01: another nexus changed the mode parameters.
    ModeChanged,
    /// 2A/03: another nexus cleared reservations and registrations.
    ReservationsPreempted,
    /// 2A/04: a reservation was released that this nexus profited from.
    ReservationsReleased,
    /// 2A/05: another nexus took this one's registration away.
    RegistrationsPreempted,
    /// 2F/00: another nexus cleared the task set.
    CommandsCleared,
}

/// What follows from an executed [`Request`] beyond the tables. Each site sees to its own nexuses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Tell this nexus.
    Attend(Nexus, Attention),
    /// Tell every nexus of the unit but this one.
    AttendAll {
        /// Who caused it and knows.
        but: Option<Nexus>,
        /// What.
        attention: Attention,
    },
    /// Drop this nexus' commands on the unit: they get no answer, and what was not let in never happens.
    Abort(Nexus),
    /// Drop everybody's commands on the unit.
    AbortAll,
    /// The mode parameters are these now.
    Modes(ModeBits),
}

impl Registrant {
    /// Bytes that travel and are journaled.
    fn stored_bytes(&self) -> usize {
        REGISTRANT_BYTES + self.name.len()
    }
}

impl Request {
    /// Whether others may reserve after it what they could not before.
    pub fn may_free(&self) -> bool {
        match self {
            Request::Release { .. }
            | Request::ReleasePersistent { .. }
            | Request::Clear { .. }
            | Request::Preempt { .. }
            | Request::Move { .. }
            | Request::Reset(_)
            | Request::NexusLost
            | Request::SiteStarted { .. } => true,
            Request::Register { new_key, .. } => *new_key == 0,
            Request::Reserve { .. } | Request::ReservePersistent { .. } | Request::SetModes(_) => false,
        }
    }

    /// Bytes that travel and are journaled, as `format` spells it.
    pub fn stored_bytes(&self) -> usize {
        let more = match self {
            Request::Reserve { extents: Some(extents), .. } => extents.claims.len() * CLAIM_BYTES,
            Request::Register { name, also, .. } => {
                name.len() + also.iter().map(Registrant::stored_bytes).sum::<usize>()
            }
            Request::Move { to, .. } => to.stored_bytes(),
            Request::Reserve { extents: None, .. }
            | Request::Release { .. }
            | Request::ReservePersistent { .. }
            | Request::ReleasePersistent { .. }
            | Request::Clear { .. }
            | Request::Preempt { .. }
            | Request::Reset(_)
            | Request::SetModes(_)
            | Request::NexusLost
            | Request::SiteStarted { .. } => 0,
        };
        REQUEST_HEAD_BYTES + more
    }

    /// Whether names, claims and further ports are as few and as short as they must be to be stored. The front end
    /// refuses what is not.
    pub fn within_limits(&self) -> bool {
        let short = |name: &Arc<str>| name.len() <= INITIATOR_NAME_BYTES_MAX;
        match self {
            Request::Reserve { extents: Some(extents), .. } => {
                (1..=CLAIMS_MAX).contains(&extents.claims.len())
            }
            Request::Register { name, also, .. } => {
                short(name) && also.len() <= ALSO_MAX && also.iter().all(|one| short(&one.name))
            }
            Request::Move { to, .. } => short(&to.name),
            Request::Reserve { extents: None, .. }
            | Request::Release { .. }
            | Request::ReservePersistent { .. }
            | Request::ReleasePersistent { .. }
            | Request::Clear { .. }
            | Request::Preempt { .. }
            | Request::Reset(_)
            | Request::SetModes(_)
            | Request::NexusLost
            | Request::SiteStarted { .. } => true,
        }
    }

    /// What operators read in logs and journals.
    pub fn name(&self) -> &'static str {
        match self {
            Request::Reserve { extents: None, .. } => "RESERVE",
            Request::Reserve { .. } => "RESERVE extents",
            Request::Release { extents: None, .. } => "RELEASE",
            Request::Release { .. } => "RELEASE extents",
            Request::Register { key: Some(_), .. } => "PR REGISTER",
            Request::Register { .. } => "PR REGISTER AND IGNORE",
            Request::ReservePersistent { .. } => "PR RESERVE",
            Request::ReleasePersistent { .. } => "PR RELEASE",
            Request::Clear { .. } => "PR CLEAR",
            Request::Preempt { abort: false, .. } => "PR PREEMPT",
            Request::Preempt { .. } => "PR PREEMPT AND ABORT",
            Request::Move { .. } => "PR REGISTER AND MOVE",
            Request::Reset(Reset::TaskSet) => "CLEAR TASK SET",
            Request::Reset(Reset::Unit) => "LUN RESET",
            Request::Reset(Reset::TargetWarm) => "TARGET WARM RESET",
            Request::Reset(Reset::TargetCold) => "TARGET COLD RESET",
            Request::SetModes(_) => "MODE SELECT",
            Request::NexusLost => "nexus lost",
            Request::SiteStarted { .. } => "site started",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Done => f.write_str("done"),
            Verdict::Conflict => f.write_str("reservation conflict"),
            Verdict::NoRoomToRegister => f.write_str("no room to register"),
            Verdict::NoRoomToReserve => f.write_str("no room to reserve"),
            Verdict::WrongRelease => f.write_str("release of another type"),
            Verdict::BadParameter(byte) => write!(f, "invalid parameter at byte {byte}"),
            Verdict::BadCdb(byte) => write!(f, "invalid CDB at byte {byte}"),
            Verdict::Unreachable => f.write_str("no answer of the unit"),
            Verdict::Miscompare { offset } => write!(f, "miscompare at byte {offset}"),
        }
    }
}
