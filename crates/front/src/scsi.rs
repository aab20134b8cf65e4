//! SCSI: one device with logical units, as SAM-5, SPC-4 and SBC-3 describe it. BOUNDARY FILE: signatures agreed, bodies to be written.

use crate::{Completion, NexusId, VolumeCommand};
use biplex_engine::{SiteId, VolumeId};
use bytes::Bytes;

/// A logical unit, as configured. Equal at both sites.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnitConfig {
    /// The volume behind it.
    pub volume: VolumeId,
    /// LUN, 0 to 255.
    pub lun: u16,
    /// The volume's name (for VPD designators).
    pub name: String,
    /// Unit serial number, ASCII (VPD 80h).
    pub serial: String,
    /// 64-bit NAA 3 (locally assigned) identifier: top nibble is 3.
    pub naa: u64,
    /// Size in blocks of 512 bytes.
    pub blocks: u64,
}

/// What distinguishes this site's target port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortConfig {
    /// The site.
    pub site: SiteId,
    /// The target's iSCSI name, the same at both sites.
    pub target: String,
    /// Target port group tag: 1 at site A, 2 at site B. Also the ALUA target port group.
    pub group: u16,
    /// Relative target port id: 1 at A, 257 at B.
    pub relative: u16,
}

/// How many data bytes a CDB moves, judged from the CDB alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transfer {
    /// No data phase.
    None,
    /// At most this many bytes to the host.
    In(u64),
    /// This many bytes from the host.
    Out(u64),
}

/// SCSI status byte (SAM-5 5.3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Status {
    Good = 0x00,
    CheckCondition = 0x02,
    Busy = 0x08,
    ReservationConflict = 0x18,
    TaskSetFull = 0x28,
    TaskAborted = 0x40,
}

/// The end of a command as the transport must carry it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// Status byte.
    pub status: Status,
    /// Fixed- or descriptor-format sense data, empty unless `CheckCondition`.
    pub sense: Bytes,
    /// Data for the host, already cut to the CDB's allocation length.
    pub data_in: Vec<Bytes>,
}
