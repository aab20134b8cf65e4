//! An entry while it is held: where its bytes are, what its place in the order made of it, what it costs the journal.

use crate::entry::{Body, Entry};
use crate::reserve::Request;
use crate::units::*;
use bytes::Bytes;
use std::sync::Arc;

/// An entry's body as the engine holds it.
#[derive(Clone, Debug)]
pub(crate) enum HeldBody {
    /// In memory, or only in the journal any more.
    Data(Option<Bytes>),
    /// As `Data`, with what is compared before it.
    Swap(Option<Bytes>),
    Fill(Bytes),
    Unmap,
    Control(Arc<Request>),
}

impl HeldBody {
    pub(crate) fn of(body: &Body, in_memory: bool) -> HeldBody {
        let kept = |bytes: &Bytes| in_memory.then(|| bytes.clone());
        match body {
            Body::Data(bytes) => HeldBody::Data(kept(bytes)),
            Body::Swap(bytes) => HeldBody::Swap(kept(bytes)),
            Body::Fill(block) => HeldBody::Fill(block.clone()),
            Body::Unmap => HeldBody::Unmap,
            Body::Control(request) => HeldBody::Control(request.clone()),
            Body::Verdict { .. } => unreachable!("a verdict is no entry of its own"),
        }
    }

    /// The bytes in memory, for those bodies that may leave it.
    pub(crate) fn bytes(&self) -> Option<&Option<Bytes>> {
        match self {
            HeldBody::Data(bytes) | HeldBody::Swap(bytes) => Some(bytes),
            HeldBody::Fill(_) | HeldBody::Unmap | HeldBody::Control(_) => None,
        }
    }

    pub(crate) fn bytes_mut(&mut self) -> Option<&mut Option<Bytes>> {
        match self {
            HeldBody::Data(bytes) | HeldBody::Swap(bytes) => Some(bytes),
            HeldBody::Fill(_) | HeldBody::Unmap | HeldBody::Control(_) => None,
        }
    }
}

/// What its place in the order made of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// It holds as it came.
    Holds,
    /// A COMPARE AND WRITE that is not judged yet: it does not show.
    Undecided,
    /// One that matched. `rests_on`: the newest own write that the verdict rests on.
    Matched { rests_on: Option<Stamp> },
    /// One that did not, so it never shows; or a request that a unit refused.
    Missed,
    /// A write that a reservation of an earlier stamp undid (E4.1): it shows no more.
    Discarded,
}

impl Fate {
    /// Whether the entry's blocks show it where it is the newest.
    pub(crate) fn shows(self) -> bool {
        match self {
            Fate::Holds | Fate::Matched { .. } => true,
            Fate::Undecided | Fate::Missed | Fate::Discarded => false,
        }
    }
}

/// An entry that is not on the backing store yet.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub volume: VolumeId,
    pub extent: Extent,
    pub host: HostId,
    pub isid: u64,
    pub seq: u64,
    pub body: HeldBody,
    pub body_crc: u32,
    pub append: AppendSeq,
    pub pos: Option<JournalPos>,
    pub fate: Fate,
    /// Its outcome gets a record of its own in the journal.
    pub recorded: bool,
}

impl Held {
    pub(crate) fn body_bytes(&self) -> u32 {
        match &self.body {
            HeldBody::Data(_) => self.extent.bytes() as u32,
            HeldBody::Swap(_) => 2 * self.extent.bytes() as u32,
            HeldBody::Fill(block) => block.len() as u32,
            HeldBody::Unmap => 0,
            HeldBody::Control(request) => request.stored_bytes() as u32,
        }
    }

    /// Bytes of the body before the first block's.
    pub(crate) fn lead(&self) -> u64 {
        if matches!(self.body, HeldBody::Swap(_)) { self.extent.bytes() } else { 0 }
    }

    /// Worst-case bytes that the entry occupies in a journal.
    pub(crate) fn charge(&self) -> u64 {
        charge(self.body_bytes() as u64) + if self.recorded { charge(0) } else { 0 }
    }

    /// The entry with this stamp, with `body` for its own; its checksum is that of the own.
    pub(crate) fn entry(&self, stamp: Stamp, body: Body) -> Entry {
        Entry {
            stamp,
            seq: self.seq,
            volume: self.volume,
            extent: self.extent,
            host: self.host,
            isid: self.isid,
            body,
            body_crc: self.body_crc,
        }
    }

    /// Who asked. The entry's site is its stamp's.
    pub(crate) fn nexus(&self, site: SiteId) -> Nexus {
        Nexus { host: self.host, isid: self.isid, site }
    }

    /// Whether the entry says anything of its blocks.
    pub(crate) fn is_data(&self) -> bool {
        !matches!(self.body, HeldBody::Control(_))
    }
}

/// Worst-case journal bytes of a record with this body: alone in its group (two headers), in whole pages.
fn charge(body_bytes: u64) -> u64 {
    (body_bytes + 256).div_ceil(4096) * 4096
}

/// Worst-case journal bytes of an entry with this body, its outcome's record included if there will be one.
pub(crate) fn charge_of(body: &Body, recorded: bool) -> u64 {
    charge(body.stored_bytes() as u64) + if recorded { charge(0) } else { 0 }
}
