//! What a disk is to Biplex: orders and their outcome while running ([`DiskOp`], [`DiskResult`]), and a plain
//! blocking trait ([`Disk`]) for the moments before a site runs: making a journal, recovering from it, inspecting it.

use crate::page::PageBuf;
use biplex_engine::VolumeId;
use bytes::Bytes;

/// Which disk of the site.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Device {
    /// The site's journal.
    Journal,
    /// A volume's backing store.
    Volume(VolumeId),
}

/// Names an order to a disk until its outcome comes back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct DiskTicket(pub u64);

/// An order to a disk. Orders on one device may run side by side and end in any order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DiskOp {
    /// Read `len` bytes at `offset`.
    Read {
        /// From.
        device: Device,
        /// Byte offset; a multiple of 512.
        offset: u64,
        /// Bytes; a multiple of 512.
        len: u32,
    },
    /// Write; lost on a crash until a later `Sync` of the same device has ended well.
    Write {
        /// To.
        device: Device,
        /// Byte offset.
        offset: u64,
        /// Pieces, written one behind the other.
        data: Vec<Bytes>,
    },
    /// Make a range read as zeros, giving back its space if the store can; volatile until `Sync`.
    Zero {
        /// To.
        device: Device,
        /// Byte offset.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Append to the journal: durable when it ends well. At most one is under way at a time.
    AppendDurable {
        /// Byte offset in the journal, a multiple of 4096.
        offset: u64,
        /// Page-aligned bytes, a multiple of 4096.
        pages: PageBuf,
    },
    /// All writes of this device that have ended are durable when this ends well.
    Sync {
        /// The device.
        device: Device,
    },
}

/// A disk's refusal.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct DiskError {
    /// What the operating system said, with the path.
    pub message: String,
    /// It says nothing of the medium: the same may succeed later.
    pub later: bool,
}

impl DiskError {
    /// An error of the medium, as far as is known.
    pub fn new(message: String) -> DiskError {
        DiskError { message, later: false }
    }

    /// One that says nothing of the medium.
    pub fn later(message: String) -> DiskError {
        DiskError { message, later: true }
    }
}

/// Outcome of a [`DiskOp`]: a read's bytes, or empty bytes. An error means "unknown", never "did not happen".
pub type DiskResult = Result<Bytes, DiskError>;

/// A disk while nothing else uses it.
#[allow(clippy::len_without_is_empty)] // a disk is not a collection
pub trait Disk {
    /// Length in bytes.
    fn len(&mut self) -> Result<u64, DiskError>;
    /// Fills `buf` from `offset`. Reading past the end is an error.
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError>;
    /// Writes `data` at `offset`.
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), DiskError>;
    /// Makes all writes durable.
    fn sync(&mut self) -> Result<(), DiskError>;
}
