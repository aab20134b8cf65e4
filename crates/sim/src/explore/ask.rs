//! What hosts ask in a scenario, and what a single unit would tell them.
//!
//! [`Unit`] is the specification: one unit, one command after the other. It must know nothing of sites, lines and stamps.

use biplex_engine::hosts::{HostWrite, WritePart};
use biplex_engine::judge::HostSwap;
use biplex_engine::reserve::{
    Access, Claim, ExtentKind, Extents, PersistentKind, Request, Reservations, Reset, Verdict,
};
use biplex_engine::*;
use bytes::Bytes;
use std::sync::Arc;

/// The volume that every scenario plays on.
pub const VOLUME: VolumeId = VolumeId(7);
/// Blocks that commands touch.
pub const BLOCKS: usize = 8;
/// The type of the persistent reservations.
const KIND: PersistentKind = PersistentKind::ExclusiveAccess;

/// A command of a host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Ask {
    /// RESERVE of the unit.
    Reserve,
    /// RELEASE of the unit.
    Release,
    /// RESERVE of so many blocks from a block, exclusively.
    ReserveBlocks(u8, u8),
    /// RELEASE of the blocks.
    ReleaseBlocks,
    /// A write of one block: where, and what.
    Write(u8, u8),
    /// A read of one block.
    Read(u8),
    /// COMPARE AND WRITE of one block: where, what must be there, what it becomes.
    Swap(u8, u8, u8),
    /// REGISTER AND IGNORE EXISTING KEY.
    Register(u8),
    /// REGISTER with this key, to none.
    Unregister(u8),
    /// Persistent RESERVE with this key.
    Hold(u8),
    /// Persistent RELEASE with this key.
    Drop(u8),
    /// PREEMPT with this key of that one.
    Preempt(u8, u8),
    /// CLEAR with this key.
    Clear(u8),
    /// LOGICAL UNIT RESET.
    Reset,
    /// The nexus ends in order, and waits until what it reserved is released.
    Leave,
    /// The nexus is lost, with whatever it asked.
    Lost,
}

/// What a host was told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Told {
    /// GOOD.
    Good,
    /// GOOD, and the block.
    Value(u8),
    /// RESERVATION CONFLICT.
    Conflict,
    /// MISCOMPARE.
    Miscompare,
    /// Another verdict.
    Refused,
    /// BUSY or NOT READY: the host asks again.
    Retry,
}

/// A nexus of a scenario.
pub fn nexus(site: SiteId, host: u64) -> Nexus {
    Nexus { host: HostId(host), isid: 1, site }
}

/// The extent of these blocks.
pub fn extent(first: u8, blocks: u8) -> Extent {
    Extent::new(Lba(u64::from(first)), u64::from(blocks)).expect("scenarios name blocks that there are")
}

fn block(value: u8) -> Vec<u8> {
    vec![value; BLOCK_BYTES as usize]
}

impl Ask {
    /// The request on the unit that it is, if it is one.
    pub fn request(self) -> Option<Request> {
        Some(match self {
            Ask::Reserve => Request::Reserve { third_party: None, extents: None },
            Ask::Release => Request::Release { third_party: None, extents: None },
            Ask::ReserveBlocks(first, blocks) => {
                let claim = Claim { kind: ExtentKind::ExclusiveAccess, extent: extent(first, blocks) };
                Request::Reserve { third_party: None, extents: Some(Extents { id: 1, claims: vec![claim] }) }
            }
            Ask::ReleaseBlocks => Request::Release { third_party: None, extents: Some(1) },
            Ask::Register(key) => register(None, key),
            Ask::Unregister(key) => register(Some(key.into()), 0),
            Ask::Hold(key) => Request::ReservePersistent { key: key.into(), kind: KIND },
            Ask::Drop(key) => Request::ReleasePersistent { key: key.into(), kind: KIND },
            Ask::Preempt(key, victim) => {
                Request::Preempt { key: key.into(), victim: victim.into(), kind: KIND, abort: false }
            }
            Ask::Clear(key) => Request::Clear { key: key.into() },
            Ask::Reset => Request::Reset(Reset::Unit),
            Ask::Leave | Ask::Lost => Request::NexusLost,
            Ask::Write(..) | Ask::Read(_) | Ask::Swap(..) => return None,
        })
    }

    /// As an engine's write.
    pub fn write(self, nexus: Nexus) -> Option<HostWrite> {
        let Ask::Write(at, value) = self else { return None };
        let body = Body::Data(Bytes::from(block(value)));
        let parts = vec![WritePart { extent: extent(at, 1), body, body_crc: 0 }];
        Some(HostWrite { volume: VOLUME, nexus, parts, fua: false })
    }

    /// As an engine's COMPARE AND WRITE.
    pub fn swap(self) -> Option<HostSwap> {
        let Ask::Swap(at, from, to) = self else { return None };
        let bytes = Bytes::from([block(from), block(to)].concat());
        Some(HostSwap { extent: extent(at, 1), bytes, crc: 0 })
    }

    /// Whether it moves data.
    pub fn is_data(self) -> bool {
        self.request().is_none()
    }

    /// Whether it asks for a SCSI-2 reservation.
    pub fn is_reserve(self) -> bool {
        matches!(self, Ask::Reserve | Ask::ReserveBlocks(..))
    }

    /// Whether a SCSI-2 reservation that this nexus holds ends with it.
    pub fn releases(self) -> bool {
        matches!(self, Ask::Release | Ask::ReleaseBlocks | Ask::Reset | Ask::Leave | Ask::Lost)
    }
}

fn register(key: Option<u64>, new_key: u8) -> Request {
    let name = Arc::from("iqn.x");
    let new_key = new_key.into();
    Request::Register { key, new_key, aptpl: false, all_ports: false, name, also: vec![] }
}

/// One unit that does one thing after the other.
#[derive(Clone, Debug, Default)]
pub struct Unit {
    reservations: Reservations,
    blocks: [u8; BLOCKS],
    time: u64,
}

impl Unit {
    /// Does it, and says what the host is told.
    pub fn execute(&mut self, by: Nexus, ask: Ask) -> Told {
        if let Some(request) = ask.request() {
            self.time += 1;
            let stamp = Stamp { time: self.time, site: by.site };
            return told(self.reservations.apply(stamp, by, &request).0);
        }
        match ask {
            Ask::Read(at) if !self.allows(by, Access::Read, at) => Told::Conflict,
            Ask::Read(at) => Told::Value(self.blocks[usize::from(at)]),
            Ask::Write(at, _) | Ask::Swap(at, ..) if !self.allows(by, Access::Write, at) => Told::Conflict,
            Ask::Write(at, value) => {
                self.blocks[usize::from(at)] = value;
                Told::Good
            }
            Ask::Swap(at, from, _) if self.blocks[usize::from(at)] != from => Told::Miscompare,
            Ask::Swap(at, _, to) => {
                self.blocks[usize::from(at)] = to;
                Told::Good
            }
            other => unreachable!("{other:?} is a request"),
        }
    }

    fn allows(&self, by: Nexus, access: Access, at: u8) -> bool {
        self.reservations.allows(by, access, Some(extent(at, 1)))
    }
}

/// What a host is told of a verdict.
pub fn told(verdict: Verdict) -> Told {
    match verdict {
        Verdict::Done => Told::Good,
        Verdict::Conflict => Told::Conflict,
        Verdict::Miscompare { .. } => Told::Miscompare,
        Verdict::NoRoomToRegister
        | Verdict::NoRoomToReserve
        | Verdict::WrongRelease
        | Verdict::BadParameter(_)
        | Verdict::BadCdb(_)
        | Verdict::Unreachable => Told::Refused,
    }
}
