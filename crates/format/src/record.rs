//! The one header: 128 bytes before every message on the link and every record in the journal.
//!
//! An entry's header and body are the same bytes in both places: encoded once. Header and body are checksummed
//! apart, so that a body need not be touched to trust its header, nor a header to check its body. What a kind
//! does not use is zero, and is checked to be.

use crate::crc32c;
use crate::error::FormatError;
use biplex_engine::message::PROTOCOL_VERSION;
use biplex_engine::reserve::Verdict;
use biplex_engine::{BLOCK_BYTES, Body, Entry, Extent, HostId, Lba, SiteId, Stamp, VolumeId};
use bytes::Bytes;
use core::mem::offset_of;
use std::sync::Arc;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a header.
pub const HEADER_BYTES: usize = 128;
/// Most bytes of any body.
pub const BODY_BYTES_MAX: usize = 4 << 20;
/// How every header starts.
pub const RECORD_MAGIC: [u8; 4] = *b"BPXR";
/// Largest ISID: 48 bits (RFC 7143 11.12.5).
const ISID_MAX: u64 = (1 << 48) - 1;
/// Kind-specific words of a header.
pub const WORDS: usize = 6;

/// What a header introduces. Ordinals are on the wire and on disk; never reuse them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// First message on a link. Its header and its place in it never change.
    Hello = 1,
    /// Why the sender will not pair. Never changes either.
    Refuse = 2,
    /// Entry: new bytes.
    Data = 3,
    /// Entry: one block, repeated (WRITE SAME).
    Fill = 4,
    /// Entry: zeros, space may go back (UNMAP).
    Unmap = 5,
    /// All that the resume owed has been sent.
    ResumeEnd = 6,
    /// Progress.
    Ack = 7,
    /// Heartbeat.
    Ping = 8,
    /// Its answer.
    Pong = 9,
    /// What was destaged.
    Digest = 10,
    /// A host's name.
    Host = 11,
    /// Entry: COMPARE AND WRITE.
    Swap = 12,
    /// Entry: a request on the unit.
    Control = 13,
    /// How a site judged a swap: in its own journal only.
    Verdict = 14,
    /// What a store that keeps reservations itself made of a request.
    Passed = 15,
}

impl Kind {
    /// Every kind, in ordinal order.
    pub const ALL: [Kind; 15] = [
        Kind::Hello,
        Kind::Refuse,
        Kind::Data,
        Kind::Fill,
        Kind::Unmap,
        Kind::ResumeEnd,
        Kind::Ack,
        Kind::Ping,
        Kind::Pong,
        Kind::Digest,
        Kind::Host,
        Kind::Swap,
        Kind::Control,
        Kind::Verdict,
        Kind::Passed,
    ];

    /// The kind with this ordinal, if there is one.
    pub fn from_ordinal(ordinal: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == ordinal)
    }

    /// What its errors call it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Hello => "hello",
            Kind::Refuse => "refuse",
            Kind::Data => "data",
            Kind::Fill => "fill",
            Kind::Unmap => "unmap",
            Kind::ResumeEnd => "resume-end",
            Kind::Ack => "ack",
            Kind::Ping => "ping",
            Kind::Pong => "pong",
            Kind::Digest => "digest",
            Kind::Host => "host",
            Kind::Swap => "swap",
            Kind::Control => "control",
            Kind::Verdict => "verdict",
            Kind::Passed => "passed",
        }
    }

    /// Whether it may lie in a journal.
    pub fn is_entry(self) -> bool {
        match self {
            Kind::Data | Kind::Fill | Kind::Unmap | Kind::Swap | Kind::Control | Kind::Verdict => true,
            Kind::Hello
            | Kind::Refuse
            | Kind::ResumeEnd
            | Kind::Ack
            | Kind::Ping
            | Kind::Pong
            | Kind::Digest
            | Kind::Host
            | Kind::Passed => false,
        }
    }

    /// Most bytes of such a body.
    pub fn body_bytes_max(self) -> usize {
        match self {
            Kind::Hello => crate::link::HELLO_BODY_BYTES_MAX,
            Kind::Refuse => crate::link::REFUSAL_BYTES_MAX,
            Kind::Data | Kind::Digest | Kind::Swap => BODY_BYTES_MAX,
            Kind::Fill => BLOCK_BYTES as usize,
            Kind::Control => crate::control::REQUEST_BYTES_MAX,
            Kind::Unmap
            | Kind::Verdict
            | Kind::ResumeEnd
            | Kind::Ack
            | Kind::Ping
            | Kind::Pong
            | Kind::Passed => 0,
            Kind::Host => crate::link::HOST_NAME_BYTES_MAX,
        }
    }
}

/// The header. Every field little-endian; drawn in `docs/format.md`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RecordHeader {
    pub(crate) magic: [u8; 4],
    pub(crate) version: U16,
    pub(crate) kind: u8,
    pub(crate) origin: u8,
    pub(crate) pair: U64,
    pub(crate) time: U64,
    pub(crate) seq: U64,
    pub(crate) host: U64,
    pub(crate) volume: U32,
    pub(crate) body_bytes: U32,
    pub(crate) lba: U64,
    pub(crate) blocks: U64,
    pub(crate) flags: U32,
    pub(crate) body_crc: U32,
    pub(crate) words: [U64; WORDS],
    pub(crate) reserved: U32,
    pub(crate) header_crc: U32,
}

const _: () = assert!(size_of::<RecordHeader>() == HEADER_BYTES);
const _: () = assert!(offset_of!(RecordHeader, header_crc) == HEADER_BYTES - 4);

/// Names, offsets and lengths of the header's fields, for the drawing's test.
pub const RECORD_FIELDS: &[(&str, usize, usize)] = &[
    ("magic", offset_of!(RecordHeader, magic), 4),
    ("version", offset_of!(RecordHeader, version), 2),
    ("kind", offset_of!(RecordHeader, kind), 1),
    ("origin", offset_of!(RecordHeader, origin), 1),
    ("pair", offset_of!(RecordHeader, pair), 8),
    ("time", offset_of!(RecordHeader, time), 8),
    ("seq", offset_of!(RecordHeader, seq), 8),
    ("host", offset_of!(RecordHeader, host), 8),
    ("volume", offset_of!(RecordHeader, volume), 4),
    ("body bytes", offset_of!(RecordHeader, body_bytes), 4),
    ("lba", offset_of!(RecordHeader, lba), 8),
    ("blocks", offset_of!(RecordHeader, blocks), 8),
    ("flags", offset_of!(RecordHeader, flags), 4),
    ("body crc", offset_of!(RecordHeader, body_crc), 4),
    ("words", offset_of!(RecordHeader, words), 8 * WORDS),
    ("zero", offset_of!(RecordHeader, reserved), 4),
    ("header crc", offset_of!(RecordHeader, header_crc), 4),
];

impl RecordHeader {
    /// A header with nothing but its kind and pair.
    pub(crate) fn blank(kind: Kind, pair: u64) -> RecordHeader {
        RecordHeader {
            magic: RECORD_MAGIC,
            version: U16::new(PROTOCOL_VERSION),
            kind: kind as u8,
            origin: 0,
            pair: U64::new(pair),
            time: U64::ZERO,
            seq: U64::ZERO,
            host: U64::ZERO,
            volume: U32::ZERO,
            body_bytes: U32::ZERO,
            lba: U64::ZERO,
            blocks: U64::ZERO,
            flags: U32::ZERO,
            body_crc: U32::ZERO,
            words: [U64::ZERO; WORDS],
            reserved: U32::ZERO,
            header_crc: U32::ZERO,
        }
    }

    /// Enters a body that is not an entry's.
    pub(crate) fn set_body(&mut self, body: &[u8]) {
        self.body_bytes = U32::new(u32::try_from(body.len()).expect("bodies are bounded far below 4 GiB"));
        self.body_crc = U32::new(crc32c(body));
    }

    /// Closes the header with its checksum.
    pub(crate) fn seal(mut self) -> [u8; HEADER_BYTES] {
        self.header_crc = U32::new(self.computed_crc());
        zerocopy::transmute!(self)
    }

    fn computed_crc(&self) -> u32 {
        let (covered, _) = self.as_bytes().split_at(HEADER_BYTES - 4);
        crc32c(covered)
    }

    /// The kind. Known, because no header with an unknown one is ever handed out.
    pub fn kind(&self) -> Result<Kind, FormatError> {
        Kind::from_ordinal(self.kind).ok_or(FormatError::Kind { what: "header", found: self.kind })
    }

    /// The pair that it belongs to.
    pub fn pair(&self) -> u64 {
        self.pair.get()
    }

    /// Bytes of the body that follows.
    pub fn body_bytes(&self) -> usize {
        self.body_bytes.get() as usize
    }

    /// The protocol version of who made it; at this place in every version, for ever.
    pub fn version(&self) -> u16 {
        self.version.get()
    }

    /// The entry's place in the order of everything (meaningless for what is no entry).
    pub fn stamp(&self) -> Result<Stamp, FormatError> {
        Ok(Stamp { time: self.time.get(), site: site(self.origin)? })
    }

    /// The entry in words, for whoever inspects a journal.
    pub fn summary(&self) -> Result<String, FormatError> {
        Ok(format!(
            "{} {} volume {} blocks {}+{} host {} seq {}.{} crc {:08x}",
            self.stamp()?,
            self.kind()?.name(),
            VolumeId(self.volume.get()),
            self.lba.get(),
            self.blocks.get(),
            HostId(self.host.get()),
            self.seq.get() >> 40,
            self.seq.get() & ((1 << 40) - 1),
            self.body_crc.get()
        ))
    }

    /// Checks a body against the checksum in the header.
    pub fn check_body(&self, body: &[u8]) -> Result<(), FormatError> {
        if body.len() != self.body_bytes() {
            return Err(FormatError::Length {
                what: "body",
                expected: self.body_bytes() as u64,
                found: body.len() as u64,
            });
        }
        let found = if body.is_empty() { 0 } else { crc32c(body) };
        if found != self.body_crc.get() {
            return Err(FormatError::Checksum { what: "body", expected: self.body_crc.get(), found });
        }
        Ok(())
    }

    /// The entry that this header and `body` make, the body's checksum taken on trust:
    /// [`RecordHeader::check_body`] is for that.
    pub fn entry(&self, body: Bytes) -> Result<Entry, FormatError> {
        let kind = self.kind()?;
        let extent = Extent::new(Lba(self.lba.get()), self.blocks.get()).ok_or(FormatError::Field {
            what: "block count of an entry",
            expected: 1,
            found: self.blocks.get(),
        })?;
        let expected = match kind {
            Kind::Data => extent.bytes(),
            Kind::Fill => BLOCK_BYTES,
            Kind::Unmap | Kind::Verdict => 0,
            Kind::Swap => 2 * extent.bytes(),
            Kind::Control => self.body_bytes() as u64,
            Kind::Hello
            | Kind::Refuse
            | Kind::ResumeEnd
            | Kind::Ack
            | Kind::Ping
            | Kind::Pong
            | Kind::Digest
            | Kind::Host
            | Kind::Passed => return Err(FormatError::Kind { what: "entry", found: self.kind }),
        };
        for found in [self.body_bytes() as u64, body.len() as u64] {
            if found != expected {
                return Err(FormatError::Length { what: "body of an entry", expected, found });
            }
        }
        let [isid, done, ordinal, detail, _, _] = self.words;
        let body = match kind {
            Kind::Data => Body::Data(body),
            Kind::Fill => Body::Fill(body),
            Kind::Swap => Body::Swap(body),
            Kind::Control => Body::Control(Arc::new(crate::control::decode_request(&body)?)),
            Kind::Verdict => Body::Verdict(match (done.get(), ordinal.get()) {
                // So spelt before more than a swap's outcome was written.
                (0, 0) => Verdict::Miscompare { offset: 0 },
                (_, ordinal) => verdict_of(ordinal, detail.get())?,
            }),
            Kind::Unmap
            | Kind::Hello
            | Kind::Refuse
            | Kind::ResumeEnd
            | Kind::Ack
            | Kind::Ping
            | Kind::Pong
            | Kind::Digest
            | Kind::Host
            | Kind::Passed => Body::Unmap,
        };
        let entry = Entry {
            stamp: self.stamp()?,
            seq: self.seq.get(),
            volume: VolumeId(self.volume.get()),
            extent,
            host: HostId(self.host.get()),
            isid: isid.get(),
            body_crc: if matches!(body, Body::Control(_)) { 0 } else { self.body_crc.get() },
            body,
        };
        if entry.isid > ISID_MAX {
            return Err(FormatError::Field { what: "isid", expected: ISID_MAX, found: entry.isid });
        }
        self.demand_spelling(&entry_header(self.pair(), &entry))?;
        Ok(entry)
    }

    /// Demands that this header is spelt exactly as we spell its meaning: unused fields are zero.
    pub(crate) fn demand_spelling(&self, ours: &RecordHeader) -> Result<(), FormatError> {
        let rows = |header: &RecordHeader| {
            let words: [U64; (HEADER_BYTES - 8) / 8] = {
                let bytes: [u8; HEADER_BYTES] = zerocopy::transmute!(*header);
                let (words, _) = <[U64; (HEADER_BYTES - 8) / 8]>::read_from_prefix(&bytes)
                    .expect("fifteen words fit into a header");
                words
            };
            words
        };
        if let Some((found, expected)) =
            rows(self).into_iter().zip(rows(ours)).find(|(found, expected)| found != expected)
        {
            return Err(FormatError::Field {
                what: "a header row with an unused field",
                expected: expected.get(),
                found: found.get(),
            });
        }
        if self.reserved.get() != 0 {
            return Err(FormatError::Field {
                what: "reserved",
                expected: 0,
                found: u64::from(self.reserved.get()),
            });
        }
        Ok(())
    }
}

/// The site with this ordinal.
pub(crate) fn site(ordinal: u8) -> Result<SiteId, FormatError> {
    SiteId::from_ordinal(ordinal).ok_or(FormatError::Field {
        what: "site",
        expected: 1,
        found: u64::from(ordinal),
    })
}

/// A verdict's ordinal and its detail.
pub(crate) fn verdict_words(verdict: Verdict) -> (u64, u64) {
    match verdict {
        Verdict::Done => (0, 0),
        Verdict::Conflict => (1, 0),
        Verdict::NoRoomToRegister => (2, 0),
        Verdict::NoRoomToReserve => (3, 0),
        Verdict::WrongRelease => (4, 0),
        Verdict::BadParameter(byte) => (5, u64::from(byte)),
        Verdict::BadCdb(byte) => (6, u64::from(byte)),
        Verdict::Unreachable => (7, 0),
        Verdict::Miscompare { offset } => (8, offset),
    }
}

/// The verdict with this ordinal and detail.
pub(crate) fn verdict_of(ordinal: u64, detail: u64) -> Result<Verdict, FormatError> {
    // What does not fit is another spelling than ours, and refused as such.
    let byte = detail as u16;
    Ok(match ordinal {
        0 => Verdict::Done,
        1 => Verdict::Conflict,
        2 => Verdict::NoRoomToRegister,
        3 => Verdict::NoRoomToReserve,
        4 => Verdict::WrongRelease,
        5 => Verdict::BadParameter(byte),
        6 => Verdict::BadCdb(byte),
        7 => Verdict::Unreachable,
        8 => Verdict::Miscompare { offset: detail },
        found => return Err(FormatError::Field { what: "outcome of a request", expected: 8, found }),
    })
}

/// CRC-32C of a body's stored bytes; 0 for a body without any, and for one that is spelt anew wherever it goes.
pub fn body_crc(body: &Body) -> u32 {
    match body {
        Body::Data(bytes) | Body::Fill(bytes) | Body::Swap(bytes) => crc32c(bytes),
        Body::Unmap | Body::Control(_) | Body::Verdict { .. } => 0,
    }
}

/// A body's stored bytes, which follow its header; `None` for a body without any.
pub fn stored_body(body: &Body) -> Option<Bytes> {
    match body {
        Body::Data(bytes) | Body::Fill(bytes) | Body::Swap(bytes) => Some(bytes.clone()),
        Body::Control(request) => Some(crate::control::encode_request(request).into()),
        Body::Unmap | Body::Verdict { .. } => None,
    }
}

fn entry_header(pair: u64, entry: &Entry) -> RecordHeader {
    let kind = match entry.body {
        Body::Data(_) => Kind::Data,
        Body::Fill(_) => Kind::Fill,
        Body::Unmap => Kind::Unmap,
        Body::Swap(_) => Kind::Swap,
        Body::Control(_) => Kind::Control,
        Body::Verdict { .. } => Kind::Verdict,
    };
    let mut words = [U64::ZERO; WORDS];
    words[0] = U64::new(entry.isid);
    if let Body::Verdict(verdict) = entry.body {
        let (ordinal, detail) = verdict_words(verdict);
        words[1] = U64::new(u64::from(verdict == Verdict::Done));
        (words[2], words[3]) = (U64::new(ordinal), U64::new(detail));
    }
    let body_crc = match &entry.body {
        Body::Control(request) => crc32c(&crate::control::encode_request(request)),
        Body::Data(_) | Body::Fill(_) | Body::Unmap | Body::Swap(_) | Body::Verdict { .. } => entry.body_crc,
    };
    RecordHeader {
        words,
        origin: entry.stamp.site as u8,
        time: U64::new(entry.stamp.time),
        seq: U64::new(entry.seq),
        host: U64::new(entry.host.0),
        volume: U32::new(entry.volume.0),
        body_bytes: U32::new(
            u32::try_from(entry.body.stored_bytes())
                .expect("the front end bounds transfers to BODY_BYTES_MAX"),
        ),
        lba: U64::new(entry.extent.start().0),
        blocks: U64::new(entry.extent.blocks()),
        body_crc: U32::new(body_crc),
        ..RecordHeader::blank(kind, pair)
    }
}

/// The header of an entry. Its body's stored bytes follow as they are, so that no payload is copied.
///
/// # Panics
/// If the body is longer than [`BODY_BYTES_MAX`] or not as long as its extent demands: never so for an entry
/// that was made or decoded properly, and nothing that broke this may reach a journal or the peer.
pub fn encode_entry_header(pair: u64, entry: &Entry) -> [u8; HEADER_BYTES] {
    let expected = match entry.body {
        Body::Data(_) => entry.extent.bytes(),
        Body::Fill(_) => BLOCK_BYTES,
        Body::Unmap | Body::Verdict { .. } => 0,
        Body::Swap(_) => 2 * entry.extent.bytes(),
        Body::Control(_) => entry.body.stored_bytes() as u64,
    };
    let found = entry.body.stored_bytes();
    assert!(
        found as u64 == expected && found <= BODY_BYTES_MAX,
        "an entry's body is {found} of {expected} bytes"
    );
    entry_header(pair, entry).seal()
}

/// Reads a header: magic, checksum, version, kind and the bound on the body.
///
/// A hello of another version is refused right here, by its header alone: that header is frozen, and all that is
/// known of such a hello. A refusal is readable whatever its version.
pub fn decode_header(bytes: &[u8]) -> Result<RecordHeader, FormatError> {
    let (header, _) = RecordHeader::read_from_prefix(bytes).map_err(|_| FormatError::Short {
        what: "header",
        expected: HEADER_BYTES,
        found: bytes.len(),
    })?;
    if header.magic != RECORD_MAGIC {
        return Err(FormatError::Magic {
            what: "header",
            expected: u64::from(u32::from_le_bytes(RECORD_MAGIC)),
            found: u64::from(u32::from_le_bytes(header.magic)),
        });
    }
    let found = header.computed_crc();
    if found != header.header_crc.get() {
        return Err(FormatError::Checksum { what: "header", expected: header.header_crc.get(), found });
    }
    if header.version() != PROTOCOL_VERSION && header.kind != Kind::Refuse as u8 {
        return Err(FormatError::Version {
            what: if header.kind == Kind::Hello as u8 { "hello" } else { "header" },
            expected: PROTOCOL_VERSION,
            found: header.version(),
        });
    }
    let kind = header.kind()?;
    if header.body_bytes() > kind.body_bytes_max() {
        return Err(FormatError::Length {
            what: kind.name(),
            expected: kind.body_bytes_max() as u64,
            found: header.body_bytes() as u64,
        });
    }
    Ok(header)
}

/// Reads an entry and checks all of it.
pub fn decode_entry(header: &[u8], body: Bytes) -> Result<Entry, FormatError> {
    let header = decode_header(header)?;
    header.check_body(&body)?;
    header.entry(body)
}
