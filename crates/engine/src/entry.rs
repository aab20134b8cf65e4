//! What travels on the stream and lies in the journal: one entry per thing that happened to a volume.

use crate::units::{Extent, HostId, Stamp, VolumeId};
use bytes::Bytes;

/// What an entry does to the blocks of its extent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// New bytes: exactly `extent.bytes()` of them.
    Data(Bytes),
    /// Every block becomes this one block (WRITE SAME): exactly `BLOCK_BYTES` bytes.
    Fill(Bytes),
    /// Every block reads as zeros from now on; the backing store may give the space back (UNMAP).
    Unmap,
}

impl Body {
    /// Bytes that travel and are journaled.
    pub fn stored_bytes(&self) -> usize {
        match self {
            Body::Data(bytes) | Body::Fill(bytes) => bytes.len(),
            Body::Unmap => 0,
        }
    }
}

/// A write as it travels: E1.2's data, reception time, host id, start block, block count, site id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Reception time and site: the entry's place in the order of everything.
    pub stamp: Stamp,
    /// Position in its origin's stream: run number of the origin << 40 | counter from 0. A gap is a protocol error.
    pub seq: u64,
    /// The volume.
    pub volume: VolumeId,
    /// The blocks.
    pub extent: Extent,
    /// The host that asked.
    pub host: HostId,
    /// What becomes of the blocks.
    pub body: Body,
    /// CRC-32C of the body's stored bytes, taken once where the entry was made and checked wherever it is read.
    pub body_crc: u32,
}
