//! Listens to hosts: SCSI and iSCSI as byte-in, command-out machines.
//!
//! ```text
//! bytes ─▶ iscsi::Target ─CDB─▶ scsi::Device ─▶ Command ─▶ (the site) ─▶ Completion ─▶ scsi ─▶ iscsi ─▶ bytes
//! ```
//! Nothing here opens a socket, reads a clock or waits. Every byte comes from outside and is distrusted: parsing is
//! total and bounded. `iscsi::initiator` is the other end of the wire, for the demo, the simulator and the bench.

pub mod iscsi;
pub mod scsi;

use biplex_engine::reserve::{Access, PersistentView, Request, Verdict};
use biplex_engine::{Extent, Lba, VolumeId};
use bytes::Bytes;

/// A TCP connection from a host, numbered by the daemon.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct ConnId(pub u64);

/// A command that the site owes an answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct TaskId(pub u64);

/// What a host asks of a volume once SCSI is taken off. Extents lie within the volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Read the newest bytes.
    Read {
        /// Which blocks.
        extent: Extent,
        /// FUA bit.
        fua: bool,
    },
    /// Write `data` (exactly `extent.bytes()` bytes).
    Write {
        /// Which blocks.
        extent: Extent,
        /// The bytes.
        data: Bytes,
        /// FUA bit: in `flush` mode the completion waits for the peer.
        fua: bool,
    },
    /// Write one block's bytes to every block (WRITE SAME).
    Fill {
        /// Which blocks.
        extent: Extent,
        /// One block.
        block: Bytes,
    },
    /// The blocks are no longer needed and read as zeros (UNMAP, WRITE SAME with UNMAP). May be several.
    Unmap {
        /// Which blocks; never empty.
        extents: Vec<Extent>,
    },
    /// All that was completed must be durable as the volume's mode promises (SYNCHRONIZE CACHE).
    Flush,
    /// Write `data` if the blocks hold `compare`, both of `extent.bytes()` bytes (SBC-3 5.2). Answered by
    /// [`Completion::Verdict`].
    CompareAndWrite {
        /// Which blocks.
        extent: Extent,
        /// What they must hold.
        compare: Bytes,
        /// What they become.
        data: Bytes,
    },
    /// May the nexus give a command that does this to the unit? Answered by `Done`, or [`Failure::Conflict`].
    Check {
        /// What it does.
        access: Access,
    },
    /// A reservation command, a reset, a change of the mode parameters: executed at both sites in one order. Answered
    /// by [`Completion::Verdict`].
    Control {
        /// What is asked.
        request: Request,
    },
    /// PERSISTENT RESERVE IN. Answered by [`Completion::Persistent`], or by [`Completion::Data`] (at most
    /// 64 KiB of its parameter data) where the store keeps the reservations, or [`Failure::Conflict`].
    Inspect {
        /// SERVICE ACTION (SPC-4 6.15.1).
        action: u8,
    },
    /// The nexus is about to end: answered by `Done` when what it reserved is released at both sites.
    Leave,
}

/// The site's answer to a [`Command`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Completion {
    /// A read's bytes, in order; their lengths sum to the extent's.
    Data(Vec<Bytes>),
    /// Done, nothing to return.
    Done,
    /// How a [`Command::Control`] or a [`Command::CompareAndWrite`] ended.
    Verdict(Verdict),
    /// The unit's registrations and persistent reservation.
    Persistent(PersistentView),
    /// Not done, or not known to be done.
    Failed(Failure),
}

/// Why a command failed; the SCSI layer has one table from this to status and sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The backing store could not read or write this block: MEDIUM ERROR 3/11/00 (read) with INFORMATION = lba.
    MediumRead {
        /// First bad block known.
        lba: Lba,
    },
    /// As above on a write: 3/0C/00.
    MediumWrite {
        /// First bad block known.
        lba: Lba,
    },
    /// The site may not serve just now (line down, not yet resumed): NOT READY 2/04/0A, hosts retry or turn to the
    /// other path.
    NotReady,
    /// The journal is full or limits are reached: status BUSY, hosts retry.
    Busy,
    /// Another nexus' reservation keeps this one out: status RESERVATION CONFLICT, hosts do not retry (E3.4).
    Conflict,
    /// The volume's mode and settings do not allow the command: 5/20/00.
    NotSupported,
    /// The site has stopped (journal failed): HARDWARE ERROR 4/44/00.
    Stopped,
}

/// Which volume a unit stands for, as the SCSI layer hands it on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeCommand {
    /// The volume.
    pub volume: VolumeId,
    /// What is asked.
    pub command: Command,
}
