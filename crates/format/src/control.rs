//! Control: requests about reservations, resets and modes, and the reservation tables that they lead to.
//!
//! A request is the body of a stream entry; the tables ([`tables`]) are what a checkpoint keeps. Neither has a checksum
//! of its own: what carries them has one. Both are bounded before anything is allocated, and one meaning has one
//! spelling: what was read is spelt again, and must be the same bytes.

pub mod tables;

use crate::error::FormatError;
use crate::record::site;
use biplex_engine::reserve::{
    ALSO_MAX, CLAIM_BYTES, CLAIMS_MAX, Claim, ExtentKind, Extents, INITIATOR_NAME_BYTES_MAX, ModeBits,
    PersistentKind, REGISTRANT_BYTES, REQUEST_HEAD_BYTES, Registrant, Request, Reset,
};
use biplex_engine::{Extent, HostId, Lba, Nexus};
use core::mem::offset_of;
use std::sync::Arc;
pub use tables::{decode_reservations, encode_reservations};
use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Most bytes of a request: more than the longest one with all that is bounded in it.
pub const REQUEST_BYTES_MAX: usize = 32 << 10;
const _: () = assert!(
    REQUEST_HEAD_BYTES
        + INITIATOR_NAME_BYTES_MAX
        + ALSO_MAX * (REGISTRANT_BYTES + INITIATOR_NAME_BYTES_MAX)
        + CLAIMS_MAX * CLAIM_BYTES
        <= REQUEST_BYTES_MAX
);

/// Version of a request's layout.
pub const REQUEST_VERSION: u8 = 1;
/// What is asked. Ordinals are on the wire and on disk; never reuse them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum RequestKind {
    /// RESERVE.
    Reserve = 1,
    /// RELEASE.
    Release = 2,
    /// Persistent: REGISTER, REGISTER AND IGNORE EXISTING KEY.
    Register = 3,
    /// Persistent: RESERVE.
    ReservePersistent = 4,
    /// Persistent: RELEASE.
    ReleasePersistent = 5,
    /// Persistent: CLEAR.
    Clear = 6,
    /// Persistent: PREEMPT, PREEMPT AND ABORT.
    Preempt = 7,
    /// Persistent: REGISTER AND MOVE.
    Move = 8,
    /// A reset.
    Reset = 9,
    /// MODE SELECT.
    SetModes = 10,
    /// A nexus ended.
    NexusLost = 11,
    /// A site was started.
    SiteStarted = 12,
}

impl RequestKind {
    /// Every kind, in ordinal order.
    pub const ALL: [RequestKind; 12] = [
        RequestKind::Reserve,
        RequestKind::Release,
        RequestKind::Register,
        RequestKind::ReservePersistent,
        RequestKind::ReleasePersistent,
        RequestKind::Clear,
        RequestKind::Preempt,
        RequestKind::Move,
        RequestKind::Reset,
        RequestKind::SetModes,
        RequestKind::NexusLost,
        RequestKind::SiteStarted,
    ];

    /// The kind with this ordinal, if there is one.
    pub fn from_ordinal(ordinal: u8) -> Option<RequestKind> {
        RequestKind::ALL.into_iter().find(|kind| *kind as u8 == ordinal)
    }

    /// What the document calls it.
    pub fn name(self) -> &'static str {
        match self {
            RequestKind::Reserve => "reserve",
            RequestKind::Release => "release",
            RequestKind::Register => "register",
            RequestKind::ReservePersistent => "reserve-persistent",
            RequestKind::ReleasePersistent => "release-persistent",
            RequestKind::Clear => "clear",
            RequestKind::Preempt => "preempt",
            RequestKind::Move => "move",
            RequestKind::Reset => "reset",
            RequestKind::SetModes => "set-modes",
            RequestKind::NexusLost => "nexus-lost",
            RequestKind::SiteStarted => "site-started",
        }
    }
}

/// Flag of a request or of a reservation's row: it is for a third party.
pub const FLAG_THIRD_PARTY: u8 = 1;
/// Flag of a request: of extents.
pub const FLAG_EXTENTS: u8 = 1 << 1;
/// Flag of a request: the key counts (REGISTER, not REGISTER AND IGNORE EXISTING KEY).
pub const FLAG_KEY: u8 = 1 << 2;
/// Flag of a request: APTPL.
pub const FLAG_APTPL: u8 = 1 << 3;
/// Flag of a request or of a registration's row: ALL_TG_PT.
pub const FLAG_ALL_PORTS: u8 = 1 << 4;
/// Flag of a request: abort.
pub const FLAG_ABORT: u8 = 1 << 5;
/// Flag of a request: UNREG.
pub const FLAG_UNREGISTER: u8 = 1 << 6;
/// Flag of a persistent reservation's row: all registrants hold.
pub const FLAG_ALL_HOLD: u8 = 1 << 7;

/// Bit of a set of mode parameters: D_SENSE.
pub const MODE_DESCRIPTOR_SENSE: u8 = 1;
/// Bit of a set of mode parameters: SWP.
pub const MODE_WRITE_PROTECTED: u8 = 1 << 1;

/// A request's head.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RequestHead {
    version: u8,
    kind: u8,
    flags: u8,
    detail: u8,
    count: U16,
    name_bytes: u8,
    zero: u8,
    key: U64,
    new_key: U64,
}

const _: () = assert!(size_of::<RequestHead>() == REQUEST_HEAD_BYTES);

/// Names, offsets and lengths of a request head's fields, for the drawing's test.
pub const REQUEST_FIELDS: &[(&str, usize, usize)] = &[
    ("version", offset_of!(RequestHead, version), 1),
    ("kind", offset_of!(RequestHead, kind), 1),
    ("flags", offset_of!(RequestHead, flags), 1),
    ("detail", offset_of!(RequestHead, detail), 1),
    ("count", offset_of!(RequestHead, count), 2),
    ("length", offset_of!(RequestHead, name_bytes), 1),
    ("zero", offset_of!(RequestHead, zero), 1),
    ("key", offset_of!(RequestHead, key), 8),
    ("new key", offset_of!(RequestHead, new_key), 8),
];

/// A claim.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ClaimRow {
    lba: U64,
    blocks: U64,
    kind: u8,
    zeros: [u8; 7],
}

const _: () = assert!(size_of::<ClaimRow>() == CLAIM_BYTES);

/// Names, offsets and lengths of a claim's fields, for the drawing's test.
pub const CLAIM_FIELDS: &[(&str, usize, usize)] = &[
    ("lba", offset_of!(ClaimRow, lba), 8),
    ("blocks", offset_of!(ClaimRow, blocks), 8),
    ("kind", offset_of!(ClaimRow, kind), 1),
    ("zeros", offset_of!(ClaimRow, zeros), 7),
];

/// A nexus; its name follows.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RegistrantRow {
    host: U64,
    isid: U64,
    site: u8,
    name_bytes: u8,
    zeros: [u8; 6],
}

const _: () = assert!(size_of::<RegistrantRow>() == REGISTRANT_BYTES);

/// Names, offsets and lengths of a registrant's fields, for the drawing's test.
pub const REGISTRANT_FIELDS: &[(&str, usize, usize)] = &[
    ("host", offset_of!(RegistrantRow, host), 8),
    ("isid", offset_of!(RegistrantRow, isid), 8),
    ("site", offset_of!(RegistrantRow, site), 1),
    ("length", offset_of!(RegistrantRow, name_bytes), 1),
    ("zeros", offset_of!(RegistrantRow, zeros), 6),
];

fn flag<T: From<bool> + core::ops::Mul<Output = T>>(set: bool, bit: T) -> T {
    T::from(set) * bit
}

fn modes_byte(modes: ModeBits) -> u8 {
    flag(modes.descriptor_sense, MODE_DESCRIPTOR_SENSE) | flag(modes.write_protected, MODE_WRITE_PROTECTED)
}

fn modes(byte: u8) -> ModeBits {
    ModeBits {
        descriptor_sense: byte & MODE_DESCRIPTOR_SENSE != 0,
        write_protected: byte & MODE_WRITE_PROTECTED != 0,
    }
}

/// Spells a request: [`Request::stored_bytes`] bytes.
///
/// # Panics
/// With a request that is not [`Request::within_limits`]: the front end refuses it.
pub fn encode_request(request: &Request) -> Vec<u8> {
    assert!(request.within_limits(), "the front end refuses a request beyond the limits");
    let mut head = RequestHead {
        version: REQUEST_VERSION,
        kind: kind(request) as u8,
        flags: 0,
        detail: 0,
        count: U16::ZERO,
        name_bytes: 0,
        zero: 0,
        key: U64::ZERO,
        new_key: U64::ZERO,
    };
    let mut tail = Vec::new();
    match request {
        Request::Reserve { third_party, extents } => {
            head.set_third_party(*third_party);
            if let Some(extents) = extents {
                head.flags |= FLAG_EXTENTS;
                head.detail = extents.id;
                head.count = U16::new(extents.claims.len() as u16);
                put_claims(&extents.claims, &mut tail);
            }
        }
        Request::Release { third_party, extents } => {
            head.set_third_party(*third_party);
            head.flags |= flag(extents.is_some(), FLAG_EXTENTS);
            head.detail = extents.unwrap_or(0);
        }
        Request::Register { key, new_key, aptpl, all_ports, name, also } => {
            head.flags =
                flag(key.is_some(), FLAG_KEY) | flag(*aptpl, FLAG_APTPL) | flag(*all_ports, FLAG_ALL_PORTS);
            head.key = U64::new(key.unwrap_or(0));
            head.new_key = U64::new(*new_key);
            head.name_bytes = name.len() as u8;
            head.count = U16::new(also.len() as u16);
            tail.extend_from_slice(name.as_bytes());
            for registrant in also {
                put_registrant(registrant, &mut tail);
            }
        }
        Request::ReservePersistent { key, kind } | Request::ReleasePersistent { key, kind } => {
            head.key = U64::new(*key);
            head.detail = *kind as u8;
        }
        Request::Clear { key } => head.key = U64::new(*key),
        Request::Preempt { key, victim, kind, abort } => {
            head.key = U64::new(*key);
            head.new_key = U64::new(*victim);
            head.detail = *kind as u8;
            head.flags = flag(*abort, FLAG_ABORT);
        }
        Request::Move { key, new_key, unregister, aptpl, to } => {
            head.key = U64::new(*key);
            head.new_key = U64::new(*new_key);
            head.flags = flag(*unregister, FLAG_UNREGISTER) | flag(*aptpl, FLAG_APTPL);
            head.count = U16::new(1);
            put_registrant(to, &mut tail);
        }
        Request::Reset(reset) => head.detail = *reset as u8,
        Request::SetModes(bits) => head.detail = modes_byte(*bits),
        Request::NexusLost => {}
        Request::SiteStarted { run, peer_run } => {
            head.key = U64::new(u64::from(*run));
            head.new_key = U64::new(u64::from(*peer_run));
        }
    }
    let mut bytes = Vec::with_capacity(REQUEST_HEAD_BYTES + tail.len());
    bytes.extend_from_slice(head.as_bytes());
    bytes.extend_from_slice(&tail);
    bytes
}

fn kind(request: &Request) -> RequestKind {
    match request {
        Request::Reserve { .. } => RequestKind::Reserve,
        Request::Release { .. } => RequestKind::Release,
        Request::Register { .. } => RequestKind::Register,
        Request::ReservePersistent { .. } => RequestKind::ReservePersistent,
        Request::ReleasePersistent { .. } => RequestKind::ReleasePersistent,
        Request::Clear { .. } => RequestKind::Clear,
        Request::Preempt { .. } => RequestKind::Preempt,
        Request::Move { .. } => RequestKind::Move,
        Request::Reset(_) => RequestKind::Reset,
        Request::SetModes(_) => RequestKind::SetModes,
        Request::NexusLost => RequestKind::NexusLost,
        Request::SiteStarted { .. } => RequestKind::SiteStarted,
    }
}

impl RequestHead {
    fn set_third_party(&mut self, third_party: Option<HostId>) {
        self.flags |= flag(third_party.is_some(), FLAG_THIRD_PARTY);
        self.key = U64::new(third_party.map_or(0, |host| host.0));
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn third_party(&self) -> Option<HostId> {
        self.has(FLAG_THIRD_PARTY).then(|| HostId(self.key.get()))
    }

    /// A count that must be within `from..=to`.
    fn count(&self, what: &'static str, from: usize, to: usize) -> Result<usize, FormatError> {
        let count = usize::from(self.count.get());
        if count < from || count > to {
            return Err(FormatError::Length { what, expected: to as u64, found: count as u64 });
        }
        Ok(count)
    }
}

/// Reads a request.
pub fn decode_request(bytes: &[u8]) -> Result<Request, FormatError> {
    let what = "request";
    let mut reader = Reader { what, bytes, at: 0 };
    let head: RequestHead = reader.row()?;
    if head.version != REQUEST_VERSION {
        return Err(FormatError::Version {
            what,
            expected: u16::from(REQUEST_VERSION),
            found: u16::from(head.version),
        });
    }
    let kind = RequestKind::from_ordinal(head.kind).ok_or(FormatError::Kind { what, found: head.kind })?;
    let (key, new_key) = (head.key.get(), head.new_key.get());
    let request = match kind {
        RequestKind::Reserve => {
            let mut extents = None;
            if head.has(FLAG_EXTENTS) {
                let count = head.count("claims of a request", 1, CLAIMS_MAX)?;
                extents = Some(Extents { id: head.detail, claims: reader.claims(count)? });
            }
            Request::Reserve { third_party: head.third_party(), extents }
        }
        RequestKind::Release => Request::Release {
            third_party: head.third_party(),
            extents: head.has(FLAG_EXTENTS).then_some(head.detail),
        },
        RequestKind::Register => {
            let name = reader.name(head.name_bytes)?;
            let count = head.count("further ports of a request", 0, ALSO_MAX)?;
            Request::Register {
                key: head.has(FLAG_KEY).then_some(key),
                new_key,
                aptpl: head.has(FLAG_APTPL),
                all_ports: head.has(FLAG_ALL_PORTS),
                name,
                also: (0..count).map(|_| reader.registrant()).collect::<Result<Vec<_>, _>>()?,
            }
        }
        RequestKind::ReservePersistent => {
            Request::ReservePersistent { key, kind: persistent_kind(head.detail)? }
        }
        RequestKind::ReleasePersistent => {
            Request::ReleasePersistent { key, kind: persistent_kind(head.detail)? }
        }
        RequestKind::Clear => Request::Clear { key },
        RequestKind::Preempt => Request::Preempt {
            key,
            victim: new_key,
            kind: persistent_kind(head.detail)?,
            abort: head.has(FLAG_ABORT),
        },
        RequestKind::Move => Request::Move {
            key,
            new_key,
            unregister: head.has(FLAG_UNREGISTER),
            aptpl: head.has(FLAG_APTPL),
            to: reader.registrant()?,
        },
        RequestKind::Reset => Request::Reset(
            Reset::from_ordinal(head.detail)
                .ok_or(FormatError::Kind { what: "reset", found: head.detail })?,
        ),
        RequestKind::SetModes => Request::SetModes(modes(head.detail)),
        RequestKind::NexusLost => Request::NexusLost,
        RequestKind::SiteStarted => {
            let run = |run: u64| {
                u32::try_from(run).map_err(|_| FormatError::Field {
                    what: "a run of a request",
                    expected: u64::from(u32::MAX),
                    found: run,
                })
            };
            Request::SiteStarted { run: run(key)?, peer_run: run(new_key)? }
        }
    };
    reader.end()?;
    demand_spelling("an unused field of a request", &encode_request(&request), bytes)?;
    Ok(request)
}

fn bounded(what: &'static str, found: u32, most: u32) -> Result<usize, FormatError> {
    if found > most {
        return Err(FormatError::Length { what, expected: u64::from(most), found: u64::from(found) });
    }
    Ok(found as usize)
}

fn persistent_kind(ordinal: u8) -> Result<PersistentKind, FormatError> {
    PersistentKind::from_ordinal(ordinal)
        .ok_or(FormatError::Kind { what: "type of a persistent reservation", found: ordinal })
}

/// One meaning, one spelling.
fn demand_spelling(what: &'static str, ours: &[u8], theirs: &[u8]) -> Result<(), FormatError> {
    match ours.iter().zip(theirs).find(|(ours, theirs)| ours != theirs) {
        Some((ours, theirs)) => {
            Err(FormatError::Field { what, expected: u64::from(*ours), found: u64::from(*theirs) })
        }
        None if ours.len() != theirs.len() => {
            Err(FormatError::Length { what, expected: ours.len() as u64, found: theirs.len() as u64 })
        }
        None => Ok(()),
    }
}

fn put_claims(claims: &[Claim], bytes: &mut Vec<u8>) {
    for claim in claims {
        let row = ClaimRow {
            lba: U64::new(claim.extent.start().0),
            blocks: U64::new(claim.extent.blocks()),
            kind: claim.kind as u8,
            zeros: [0; 7],
        };
        bytes.extend_from_slice(row.as_bytes());
    }
}

fn put_registrant(registrant: &Registrant, bytes: &mut Vec<u8>) {
    let row = RegistrantRow {
        host: U64::new(registrant.nexus.host.0),
        isid: U64::new(registrant.nexus.isid),
        site: registrant.nexus.site as u8,
        name_bytes: registrant.name.len() as u8,
        zeros: [0; 6],
    };
    bytes.extend_from_slice(row.as_bytes());
    bytes.extend_from_slice(registrant.name.as_bytes());
}

/// Takes rows and names from the front of some bytes.
struct Reader<'a> {
    what: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let end = self.at.saturating_add(len);
        let taken = self.bytes.get(self.at..end).ok_or(FormatError::Short {
            what: self.what,
            expected: end,
            found: self.bytes.len(),
        })?;
        self.at = end;
        Ok(taken)
    }

    fn row<T: FromBytes>(&mut self) -> Result<T, FormatError> {
        let taken = self.take(size_of::<T>())?;
        Ok(T::read_from_bytes(taken).expect("so many bytes were taken"))
    }

    fn name(&mut self, name_bytes: u8) -> Result<Arc<str>, FormatError> {
        let what = "name of an initiator";
        bounded(what, u32::from(name_bytes), INITIATOR_NAME_BYTES_MAX as u32)?;
        let name = self.take(usize::from(name_bytes))?;
        let name = std::str::from_utf8(name).map_err(|error| FormatError::Text {
            what,
            valid: error.valid_up_to(),
            found: name.len(),
        })?;
        Ok(Arc::from(name))
    }

    fn registrant(&mut self) -> Result<Registrant, FormatError> {
        let row: RegistrantRow = self.row()?;
        let nexus = Nexus { host: HostId(row.host.get()), isid: row.isid.get(), site: site(row.site)? };
        Ok(Registrant { nexus, name: self.name(row.name_bytes)? })
    }

    fn claims(&mut self, count: usize) -> Result<Vec<Claim>, FormatError> {
        (0..count).map(|_| self.claim()).collect()
    }

    fn claim(&mut self) -> Result<Claim, FormatError> {
        let row: ClaimRow = self.row()?;
        let kind = ExtentKind::from_ordinal(row.kind)
            .ok_or(FormatError::Kind { what: "kind of a claim", found: row.kind })?;
        let extent = Extent::new(Lba(row.lba.get()), row.blocks.get()).ok_or(FormatError::Field {
            what: "block count of a claim",
            expected: 1,
            found: row.blocks.get(),
        })?;
        Ok(Claim { kind, extent })
    }

    fn end(&self) -> Result<(), FormatError> {
        if self.at != self.bytes.len() {
            return Err(FormatError::Length {
                what: self.what,
                expected: self.at as u64,
                found: self.bytes.len() as u64,
            });
        }
        Ok(())
    }
}
