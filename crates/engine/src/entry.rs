//! What travels on the stream and lies in the journal: one entry per thing that happened to a volume.

use crate::reserve::{Request, Verdict};
use crate::units::{Extent, HostId, Nexus, Stamp, VolumeId};
use bytes::Bytes;
use std::sync::Arc;

/// What an entry does to the blocks of its extent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// New bytes: exactly `extent.bytes()` of them.
    Data(Bytes),
    /// Every block becomes this one block (WRITE SAME): exactly `BLOCK_BYTES` bytes.
    Fill(Bytes),
    /// Every block reads as zeros from now on; the backing store may give the space back (UNMAP).
    Unmap,
    /// COMPARE AND WRITE: what the blocks must hold, then what they become; each exactly `extent.bytes()` bytes. Judged
    /// in its place in the order, at both sites ([`crate::judge`]).
    Swap(Bytes),
    /// A request on the unit, executed in its place in the order, at both sites ([`crate::control`]). The extent says
    /// nothing.
    Control(Arc<Request>),
    /// How this site judged the `Swap` of the same stamp, or what its unit made of the `Control` of the same stamp
    /// ([`crate::passing`]): it lies in the own journal only, and never travels.
    Verdict(Verdict),
}

impl Body {
    /// Bytes that travel and are journaled.
    pub fn stored_bytes(&self) -> usize {
        match self {
            Body::Data(bytes) | Body::Fill(bytes) | Body::Swap(bytes) => bytes.len(),
            Body::Control(request) => request.stored_bytes(),
            Body::Unmap | Body::Verdict { .. } => 0,
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
    /// The ISID of the session that asked (48 bits): with host and site it is the nexus.
    pub isid: u64,
    /// What becomes of the blocks.
    pub body: Body,
    /// CRC-32C of the body's stored bytes, taken once where the entry was made and checked wherever it is read. 0 for a
    /// body that is spelt anew wherever it goes (`Control`) and for one without bytes.
    pub body_crc: u32,
}

impl Entry {
    /// Who asked.
    pub fn nexus(&self) -> Nexus {
        Nexus { host: self.host, isid: self.isid, site: self.stamp.site }
    }
}
