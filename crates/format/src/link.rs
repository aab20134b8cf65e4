//! Messages on the link: header, small bodies, and the incremental [`Decoder`].
//!
//! Invariants: what the decoder holds is bounded by what was pushed since it last ran dry plus one message;
//! after an error it gives nothing but that error, because it has lost its place; it never panics.

use crate::error::FormatError;
use crate::record::{
    BODY_BYTES_MAX, HEADER_BYTES, Kind, RecordHeader, decode_header, encode_entry_header, site, stored_body,
    verdict_of, verdict_words,
};
use crate::volume::{VOLUME_ROW_BYTES, VOLUMES_MAX, decode_rows, encode_rows};
use biplex_engine::message::{Ack, Digest, DigestRow, Hello, Message, Ping, Pong, Refusal};
use biplex_engine::reserve::Verdict;
use biplex_engine::{Extent, Lba, SiteId, Stamp, VolumeId};
use bytes::{Buf, Bytes, BytesMut};
use core::mem::offset_of;
use std::collections::VecDeque;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a hello's body before its volume rows.
pub const HELLO_BYTES: usize = 96;
/// Most bytes of a hello's body.
pub const HELLO_BODY_BYTES_MAX: usize = HELLO_BYTES + VOLUMES_MAX * VOLUME_ROW_BYTES;
/// Most bytes of a refusal's sentence; a longer one is cut.
pub const REFUSAL_BYTES_MAX: usize = 4096;
/// Most bytes of a host's name (RFC 7143 4.2.7.1 allows 223); a longer one is cut.
pub const HOST_NAME_BYTES_MAX: usize = 256;
/// Bytes of a digest's row.
pub const DIGEST_ROW_BYTES: usize = 48;
/// Most rows of a digest.
pub const DIGEST_ROWS_MAX: usize = BODY_BYTES_MAX / DIGEST_ROW_BYTES;

/// Flag of an ack or ping: `durable` is a stamp of site B.
pub const FLAG_DURABLE_B: u32 = 1;
/// Flag of an ack or ping: `promise` is a stamp of site B.
pub const FLAG_PROMISE_B: u32 = 1 << 1;
/// Flag of an ack or ping: `destaged` is a stamp of site B.
pub const FLAG_DESTAGED_B: u32 = 1 << 2;
/// Flag of an ack or ping: the sender has resumed.
pub const FLAG_RESUMED: u32 = 1 << 3;
/// Flag of a pong: the sender is in step.
pub const FLAG_IN_STEP: u32 = 1 << 4;
/// Flag of a digest: `from` is a stamp of site B.
pub const FLAG_FROM_B: u32 = 1 << 5;
/// Flag of a digest: `to` is a stamp of site B.
pub const FLAG_TO_B: u32 = 1 << 6;

/// Flag of an ack or ping: `taken` is beyond `durable`, and word 5 is its time.
pub const FLAG_TAKEN: u32 = 1 << 7;
/// Flag of an ack or ping: that stamp is of site B.
pub const FLAG_TAKEN_B: u32 = 1 << 8;

/// A hello's body, before its volume rows.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct HelloBody {
    journal: U64,
    peer_journal: U64,
    wall: U64,
    clock: U64,
    have_time: [U64; 2],
    destaged_time: U64,
    journal_bytes: U64,
    hold_time: U64,
    hold_every: U64,
    stores: U64,
    have_site: [u8; 2],
    destaged_site: u8,
    reserved: u8,
    volumes: U32,
}

const _: () = assert!(size_of::<HelloBody>() == HELLO_BYTES);

/// Names, offsets and lengths of the hello's fields, for the drawing's test.
pub const HELLO_FIELDS: &[(&str, usize, usize)] = &[
    ("journal", offset_of!(HelloBody, journal), 8),
    ("peer journal", offset_of!(HelloBody, peer_journal), 8),
    ("wall", offset_of!(HelloBody, wall), 8),
    ("clock", offset_of!(HelloBody, clock), 8),
    ("have time", offset_of!(HelloBody, have_time), 16),
    ("destaged time", offset_of!(HelloBody, destaged_time), 8),
    ("journal bytes", offset_of!(HelloBody, journal_bytes), 8),
    ("hold time", offset_of!(HelloBody, hold_time), 8),
    ("hold every", offset_of!(HelloBody, hold_every), 8),
    ("stores", offset_of!(HelloBody, stores), 8),
    ("have by", offset_of!(HelloBody, have_site), 2),
    ("cut by", offset_of!(HelloBody, destaged_site), 1),
    ("zero", offset_of!(HelloBody, reserved), 1),
    ("volumes", offset_of!(HelloBody, volumes), 4),
];

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct DigestRowBody {
    slot: U64,
    volume: U32,
    reserved: U32,
    lba: U64,
    blocks: U64,
    entries: U64,
    sum: U64,
}

const _: () = assert!(size_of::<DigestRowBody>() == DIGEST_ROW_BYTES);

/// Names, offsets and lengths of a digest row's fields, for the drawing's test.
pub const DIGEST_ROW_FIELDS: &[(&str, usize, usize)] = &[
    ("slot", offset_of!(DigestRowBody, slot), 8),
    ("volume", offset_of!(DigestRowBody, volume), 4),
    ("zero", offset_of!(DigestRowBody, reserved), 4),
    ("lba", offset_of!(DigestRowBody, lba), 8),
    ("blocks", offset_of!(DigestRowBody, blocks), 8),
    ("entries", offset_of!(DigestRowBody, entries), 8),
    ("sum", offset_of!(DigestRowBody, sum), 8),
];

/// Spells a message: its header with a small body behind it, and an entry's payload, which is not copied.
///
/// # Panics
/// As [`encode_entry_header`]; and on a hello or a digest beyond its limit, which no configuration and no destage
/// may produce ([`VOLUMES_MAX`], [`DIGEST_ROWS_MAX`]).
pub fn encode(pair: u64, message: &Message) -> (Bytes, Option<Bytes>) {
    let (header, body) = match message {
        Message::Entry(entry) => {
            let header = Bytes::copy_from_slice(&encode_entry_header(pair, entry));
            return (header, stored_body(&entry.body));
        }
        Message::Hello(hello) => hello_parts(hello),
        Message::Refuse(refusal) => refusal_parts(pair, refusal),
        Message::ResumeEnd => (RecordHeader::blank(Kind::ResumeEnd, pair), Vec::new()),
        Message::Ack(ack) => {
            let mut header = RecordHeader::blank(Kind::Ack, pair);
            put_ack(&mut header, ack);
            (header, Vec::new())
        }
        Message::Ping(ping) => (ping_header(pair, ping), Vec::new()),
        Message::Pong(pong) => (pong_header(pair, pong), Vec::new()),
        Message::Digest(digest) => digest_parts(pair, digest),
        Message::Passed { stamp, verdict } => (passed_header(pair, *stamp, *verdict), Vec::new()),
        Message::Host { id, name } => host_parts(pair, *id, name),
    };
    let mut bytes = BytesMut::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(&header.seal());
    bytes.extend_from_slice(&body);
    (bytes.freeze(), None)
}

fn hello_parts(hello: &Hello) -> (RecordHeader, Vec<u8>) {
    let mut header = RecordHeader::blank(Kind::Hello, hello.pair);
    header.version = U16::new(hello.version);
    header.origin = hello.site as u8;
    header.seq = U64::new(u64::from(hello.run));
    let [have_a, have_b] = hello.have;
    let fixed = HelloBody {
        journal: U64::new(hello.journal),
        peer_journal: U64::new(hello.peer_journal),
        wall: U64::new(hello.wall),
        clock: U64::new(hello.clock),
        have_time: [U64::new(have_a.time), U64::new(have_b.time)],
        destaged_time: U64::new(hello.destaged.time),
        journal_bytes: U64::new(hello.journal_bytes),
        hold_time: U64::new(hello.hold_time),
        hold_every: U64::new(hello.hold_every),
        stores: U64::new(hello.stores),
        have_site: [have_a.site as u8, have_b.site as u8],
        destaged_site: hello.destaged.site as u8,
        reserved: 0,
        volumes: U32::new(hello.volumes.len() as u32),
    };
    let mut body = fixed.as_bytes().to_vec();
    encode_rows(&hello.volumes, &mut body);
    header.set_body(&body);
    (header, body)
}

fn refusal_parts(pair: u64, refusal: &Refusal) -> (RecordHeader, Vec<u8>) {
    let mut end = refusal.why.len().min(REFUSAL_BYTES_MAX);
    while !refusal.why.is_char_boundary(end) {
        end -= 1;
    }
    let body = refusal.why.as_bytes().iter().take(end).copied().collect::<Vec<u8>>();
    let mut header = RecordHeader::blank(Kind::Refuse, pair);
    header.set_body_or_none(&body);
    (header, body)
}

fn ping_header(pair: u64, ping: &Ping) -> RecordHeader {
    let mut header = RecordHeader::blank(Kind::Ping, pair);
    put_ack(&mut header, &ping.ack);
    let [_, _, _, mono, wall, _] = &mut header.words;
    *mono = U64::new(ping.sent_mono);
    *wall = U64::new(ping.sent_wall);
    header
}

fn pong_header(pair: u64, pong: &Pong) -> RecordHeader {
    let mut header = RecordHeader::blank(Kind::Pong, pair);
    let [mono, wall, received, _, _, _] = &mut header.words;
    *mono = U64::new(pong.sent_mono);
    *wall = U64::new(pong.sent_wall);
    *received = U64::new(pong.received_wall);
    header.flags = U32::new(if pong.in_step { FLAG_IN_STEP } else { 0 });
    header
}

fn digest_parts(pair: u64, digest: &Digest) -> (RecordHeader, Vec<u8>) {
    assert!(digest.rows.len() <= DIGEST_ROWS_MAX, "a digest has at most {DIGEST_ROWS_MAX} rows");
    let mut header = RecordHeader::blank(Kind::Digest, pair);
    let [from, to, _, _, _, _] = &mut header.words;
    *from = U64::new(digest.from.time);
    *to = U64::new(digest.to.time);
    header.flags = U32::new(flag_of(digest.from, FLAG_FROM_B) | flag_of(digest.to, FLAG_TO_B));
    let mut body = Vec::with_capacity(digest.rows.len() * DIGEST_ROW_BYTES);
    for row in &digest.rows {
        let row = DigestRowBody {
            slot: U64::new(row.slot),
            volume: U32::new(row.volume.0),
            reserved: U32::ZERO,
            lba: U64::new(row.region.start().0),
            blocks: U64::new(row.region.blocks()),
            entries: U64::new(row.entries),
            sum: U64::new(row.sum),
        };
        body.extend_from_slice(row.as_bytes());
    }
    header.set_body_or_none(&body);
    (header, body)
}

fn host_parts(pair: u64, id: u64, name: &Bytes) -> (RecordHeader, Vec<u8>) {
    let body = name.iter().take(HOST_NAME_BYTES_MAX).copied().collect::<Vec<u8>>();
    let mut header = RecordHeader::blank(Kind::Host, pair);
    header.host = U64::new(id);
    header.set_body_or_none(&body);
    (header, body)
}

fn passed_header(pair: u64, stamp: Stamp, verdict: Verdict) -> RecordHeader {
    let (ordinal, detail) = verdict_words(verdict);
    let mut header = RecordHeader::blank(Kind::Passed, pair);
    (header.origin, header.time) = (stamp.site as u8, U64::new(stamp.time));
    let [outcome, more, _, _, _, _] = &mut header.words;
    (*outcome, *more) = (U64::new(ordinal), U64::new(detail));
    header
}

fn flag_of(stamp: Stamp, flag: u32) -> u32 {
    match stamp.site {
        SiteId::A => 0,
        SiteId::B => flag,
    }
}

fn put_ack(header: &mut RecordHeader, ack: &Ack) {
    let apart = ack.taken != ack.durable;
    let [durable, promise, destaged, _, _, taken] = &mut header.words;
    *durable = U64::new(ack.durable.time);
    *promise = U64::new(ack.promise.time);
    *destaged = U64::new(ack.destaged.time);
    *taken = U64::new(if apart { ack.taken.time } else { 0 });
    header.flags = U32::new(
        flag_of(ack.durable, FLAG_DURABLE_B)
            | flag_of(ack.promise, FLAG_PROMISE_B)
            | flag_of(ack.destaged, FLAG_DESTAGED_B)
            | if ack.resumed { FLAG_RESUMED } else { 0 }
            | if apart { FLAG_TAKEN | flag_of(ack.taken, FLAG_TAKEN_B) } else { 0 },
    );
}

fn stamp(header: &RecordHeader, time: U64, flag: u32) -> Stamp {
    let site = if header.flags.get() & flag == 0 { SiteId::A } else { SiteId::B };
    Stamp { time: time.get(), site }
}

fn ack(header: &RecordHeader) -> Ack {
    let [durable, promise, destaged, _, _, taken] = header.words;
    let durable = stamp(header, durable, FLAG_DURABLE_B);
    let apart = header.flags.get() & FLAG_TAKEN != 0;
    Ack {
        durable,
        taken: if apart { stamp(header, taken, FLAG_TAKEN_B) } else { durable },
        promise: stamp(header, promise, FLAG_PROMISE_B),
        destaged: stamp(header, destaged, FLAG_DESTAGED_B),
        resumed: header.flags.get() & FLAG_RESUMED != 0,
    }
}

/// What a whole message means: its header was read by [`decode_header`], its body is as long as the header says.
fn decode_message(header: &RecordHeader, body: Bytes) -> Result<Message, FormatError> {
    header.check_body(&body)?;
    let message = match header.kind()? {
        Kind::Data | Kind::Fill | Kind::Unmap | Kind::Swap | Kind::Control => {
            return header.entry(body).map(Message::Entry);
        }
        Kind::Verdict => return Err(FormatError::Kind { what: "message", found: header.kind }),
        Kind::Hello => Message::Hello(decode_hello(header, &body)?),
        Kind::Refuse => {
            // Frozen: readable whatever the version, so that an older or newer peer can say why.
            let why = std::str::from_utf8(&body).map_err(|error| FormatError::Text {
                what: "refusal",
                valid: error.valid_up_to(),
                found: body.len(),
            })?;
            return Ok(Message::Refuse(Refusal { why: why.to_owned() }));
        }
        Kind::ResumeEnd => Message::ResumeEnd,
        Kind::Ack => Message::Ack(ack(header)),
        Kind::Ping => {
            let [_, _, _, mono, wall, _] = header.words;
            Message::Ping(Ping { ack: ack(header), sent_mono: mono.get(), sent_wall: wall.get() })
        }
        Kind::Pong => {
            let [mono, wall, received, _, _, _] = header.words;
            Message::Pong(Pong {
                sent_mono: mono.get(),
                sent_wall: wall.get(),
                received_wall: received.get(),
                in_step: header.flags.get() & FLAG_IN_STEP != 0,
            })
        }
        Kind::Digest => Message::Digest(decode_digest(header, &body)?),
        Kind::Passed => {
            let [outcome, detail, _, _, _, _] = header.words;
            Message::Passed { stamp: header.stamp()?, verdict: verdict_of(outcome.get(), detail.get())? }
        }
        Kind::Host => Message::Host { id: header.host.get(), name: body.clone() },
    };
    // One meaning, one spelling: what we would send must be what came, to the last unused bit.
    let (ours, _) = encode(header.pair(), &message);
    let (ours_header, ours_body) =
        ours.split_at_checked(HEADER_BYTES).expect("encode starts with a whole header");
    let ours_header = RecordHeader::read_from_bytes(ours_header).expect("it was split to a header's length");
    header.demand_spelling(&ours_header)?;
    if ours_body != body {
        return Err(FormatError::Field { what: "a reserved field of a body", expected: 0, found: 1 });
    }
    Ok(message)
}

fn decode_hello(header: &RecordHeader, body: &Bytes) -> Result<Hello, FormatError> {
    let (fixed, rows) = HelloBody::read_from_prefix(body).map_err(|_| FormatError::Short {
        what: "hello",
        expected: HELLO_BYTES,
        found: body.len(),
    })?;
    let [time_a, time_b] = fixed.have_time;
    let [site_a, site_b] = fixed.have_site;
    Ok(Hello {
        version: header.version(),
        pair: header.pair(),
        site: site(header.origin)?,
        run: header.seq.get() as u32,
        journal: fixed.journal.get(),
        peer_journal: fixed.peer_journal.get(),
        wall: fixed.wall.get(),
        clock: fixed.clock.get(),
        have: [
            Stamp { time: time_a.get(), site: site(site_a)? },
            Stamp { time: time_b.get(), site: site(site_b)? },
        ],
        destaged: Stamp { time: fixed.destaged_time.get(), site: site(fixed.destaged_site)? },
        journal_bytes: fixed.journal_bytes.get(),
        hold_time: fixed.hold_time.get(),
        hold_every: fixed.hold_every.get(),
        stores: fixed.stores.get(),
        volumes: decode_rows(rows, fixed.volumes.get() as usize)?,
    })
}

fn decode_digest(header: &RecordHeader, body: &Bytes) -> Result<Digest, FormatError> {
    let rows = <[DigestRowBody]>::ref_from_bytes(body).map_err(|_| FormatError::Length {
        what: "digest (a multiple of its rows)",
        expected: (body.len() / DIGEST_ROW_BYTES * DIGEST_ROW_BYTES) as u64,
        found: body.len() as u64,
    })?;
    let [from, to, _, _, _, _] = header.words;
    Ok(Digest {
        from: stamp(header, from, FLAG_FROM_B),
        to: stamp(header, to, FLAG_TO_B),
        rows: rows
            .iter()
            .map(|row| {
                let region = Extent::new(Lba(row.lba.get()), row.blocks.get()).ok_or(FormatError::Field {
                    what: "block count of a digest row",
                    expected: 1,
                    found: row.blocks.get(),
                })?;
                Ok(DigestRow {
                    slot: row.slot.get(),
                    volume: VolumeId(row.volume.get()),
                    region,
                    entries: row.entries.get(),
                    sum: row.sum.get(),
                })
            })
            .collect::<Result<Vec<DigestRow>, FormatError>>()?,
    })
}

impl RecordHeader {
    /// Enters a body that may be empty; an empty one leaves the checksum zero.
    fn set_body_or_none(&mut self, body: &[u8]) {
        if !body.is_empty() {
            self.set_body(body);
        }
    }
}

/// Cuts a byte stream into messages.
#[derive(Debug, Default)]
pub struct Decoder {
    chunks: VecDeque<Bytes>,
    buffered: usize,
    /// The header of the message under way.
    header: Option<RecordHeader>,
    /// A body that came in more than one piece.
    assembling: BytesMut,
    /// The pair of the first hello; all that follows must belong to it.
    pair: Option<u64>,
    broken: Option<FormatError>,
}

impl Decoder {
    /// Before the first byte of a link.
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// Takes bytes as they came. Call [`Decoder::next`] until it runs dry before pushing much more.
    pub fn push(&mut self, bytes: Bytes) {
        if self.broken.is_none() && !bytes.is_empty() {
            self.buffered += bytes.len();
            self.chunks.push_back(bytes);
        }
    }

    /// Bytes held that no message has been made of yet.
    pub fn buffered(&self) -> usize {
        self.buffered + self.assembling.len()
    }

    /// The next whole message; `None` when more bytes are needed; an error for good.
    #[allow(clippy::should_implement_trait)] // it may fail and go on later: not an iterator
    pub fn next(&mut self) -> Result<Option<Message>, FormatError> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        self.step().inspect_err(|error| {
            self.broken = Some(*error);
            self.chunks = VecDeque::new();
            self.assembling = BytesMut::new();
            self.buffered = 0;
        })
    }

    fn step(&mut self) -> Result<Option<Message>, FormatError> {
        let header = match self.header {
            Some(header) => header,
            None => {
                let Some(bytes) = self.take_header() else { return Ok(None) };
                let header = decode_header(&bytes)?;
                if let Some(pair) = self.pair
                    && header.pair() != pair
                {
                    return Err(FormatError::Pair { what: "message", expected: pair, found: header.pair() });
                }
                self.header = Some(header);
                header
            }
        };
        let Some(body) = self.take_body(header.body_bytes()) else { return Ok(None) };
        self.header = None;
        let message = decode_message(&header, body)?;
        if let Message::Hello(hello) = &message {
            self.pair = Some(hello.pair);
        }
        Ok(Some(message))
    }

    fn take_header(&mut self) -> Option<[u8; HEADER_BYTES]> {
        if self.buffered < HEADER_BYTES {
            return None;
        }
        let mut header = [0; HEADER_BYTES];
        let mut rest = header.as_mut_slice();
        while !rest.is_empty() {
            let chunk = self.chunks.front_mut()?;
            let take = chunk.len().min(rest.len());
            let (now, later) = rest.split_at_mut(take);
            chunk.copy_to_slice(now);
            rest = later;
            self.consumed(take);
        }
        Some(header)
    }

    fn take_body(&mut self, body_bytes: usize) -> Option<Bytes> {
        if body_bytes == 0 {
            return Some(Bytes::new());
        }
        let front = self.chunks.front_mut()?;
        if self.assembling.is_empty() && front.len() >= body_bytes {
            let body = front.split_to(body_bytes);
            self.consumed(body_bytes);
            return Some(body);
        }
        if self.assembling.is_empty() {
            self.assembling.reserve(body_bytes);
        }
        while self.assembling.len() < body_bytes {
            let front = self.chunks.front_mut()?;
            let take = front.len().min(body_bytes - self.assembling.len());
            let piece = front.split_to(take);
            self.assembling.extend_from_slice(&piece);
            self.consumed(take);
        }
        Some(std::mem::take(&mut self.assembling).freeze())
    }

    /// `bytes` of the front chunk are gone.
    fn consumed(&mut self, bytes: usize) {
        self.buffered -= bytes;
        if self.chunks.front().is_some_and(|chunk| chunk.is_empty()) {
            self.chunks.pop_front();
        }
    }
}
