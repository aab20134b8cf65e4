//! Cuts a TCP byte stream into PDUs and glues PDUs into a byte stream, with CRC32C digests (RFC 7143 §5.3,
//! §11.1).
//!
//! Must never trust a length before it is checked: nothing larger than one PDU of the allowed size is
//! buffered. Invariant: delivery in one burst and byte by byte yield the same PDUs. Payload that arrives
//! whole is handed on without a copy.

use super::pdu::{Basic, HEADER_BYTES, Header, Pdu, length_of, padding};
use bytes::{Bytes, BytesMut};
use crc_fast::CrcAlgorithm::Crc32Iscsi;
use std::collections::VecDeque;

/// Payload up to this size is copied behind its header instead of travelling as its own buffer.
const COPIED_MAX: usize = 8192;
/// Room set aside at once for headers and small payload.
const CHUNK_BYTES: usize = 16 * 1024;
const DIGEST_BYTES: usize = 4;

/// Why a stream cannot be cut any further. Both end the connection (ErrorRecoveryLevel 0).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FrameFault {
    /// The data segment is longer than we declared to take.
    TooLong,
    /// The header digest is wrong, so no length can be believed (§7.7).
    HeaderDigest,
}

/// What the bytes at hand say about the PDU that they begin.
enum Extent {
    /// Nothing before so many bytes are there.
    Unknown(usize),
    /// The header is checked; the PDU is so long, digests included.
    Known(usize),
}

/// Cuts received bytes into PDUs.
pub(super) struct Framer {
    pub(super) header_digest: bool,
    pub(super) data_digest: bool,
    /// Longest data segment accepted.
    pub(super) data_max: usize,
    input: Bytes,
    partial: BytesMut,
    /// Length of the PDU in `partial`, once its header has been checked.
    total: Option<usize>,
}

impl Framer {
    /// A framer without digests.
    pub(super) fn new(data_max: usize) -> Framer {
        Framer {
            header_digest: false,
            data_digest: false,
            data_max,
            input: Bytes::new(),
            partial: BytesMut::new(),
            total: None,
        }
    }

    /// Takes received bytes. Call [`Framer::next`] until it yields `None` before the next push.
    pub(super) fn push(&mut self, bytes: Bytes) {
        if self.input.is_empty() {
            self.input = bytes;
        } else {
            let mut joined = BytesMut::with_capacity(self.input.len() + bytes.len());
            joined.extend_from_slice(&self.input);
            joined.extend_from_slice(&bytes);
            self.input = joined.freeze();
        }
    }

    /// The next whole PDU, if there is one.
    pub(super) fn next(&mut self) -> Result<Option<Pdu>, FrameFault> {
        if self.partial.is_empty()
            && let Extent::Known(total) = self.measure(&self.input)?
            && self.input.len() >= total
        {
            let whole = self.input.split_to(total);
            return Ok(Some(self.decode(whole)));
        }
        loop {
            let needed = match self.total {
                Some(total) => total,
                None => match self.measure(&self.partial)? {
                    Extent::Unknown(needed) => needed,
                    Extent::Known(total) => *self.total.insert(total),
                },
            };
            let missing = needed.saturating_sub(self.partial.len());
            if missing == 0 {
                self.total = None;
                let whole = self.partial.split().freeze();
                return Ok(Some(self.decode(whole)));
            }
            if self.input.is_empty() {
                return Ok(None);
            }
            let taken = self.input.split_to(missing.min(self.input.len()));
            self.partial.reserve(missing);
            self.partial.extend_from_slice(&taken);
        }
    }

    /// Judges a PDU's beginning: lengths, and the header digest before any length is believed.
    fn measure(&self, bytes: &[u8]) -> Result<Extent, FrameFault> {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Ok(Extent::Unknown(HEADER_BYTES));
        };
        let basic = Basic::view(header);
        let covered = HEADER_BYTES + usize::from(basic.ahs_words) * 4;
        let mut total = covered;
        if self.header_digest {
            total += DIGEST_BYTES;
            let Some((head, digest)) = bytes.get(..total).and_then(|head| head.split_at_checked(covered))
            else {
                return Ok(Extent::Unknown(total));
            };
            if digest != crc32c(head) {
                return Err(FrameFault::HeaderDigest);
            }
        }
        let length = length_of(basic.data_length);
        if length > self.data_max {
            return Err(FrameFault::TooLong);
        }
        total += length + padding(length);
        if self.data_digest && length > 0 {
            total += DIGEST_BYTES;
        }
        Ok(Extent::Known(total))
    }

    /// Takes a whole PDU apart.
    fn decode(&self, mut whole: Bytes) -> Pdu {
        let mut header = [0; HEADER_BYTES];
        header.copy_from_slice(&whole.split_to(HEADER_BYTES));
        let basic = Basic::view(&header);
        let ahs = whole.split_to(usize::from(basic.ahs_words) * 4);
        if self.header_digest {
            whole = whole.split_off(DIGEST_BYTES);
        }
        let length = length_of(basic.data_length);
        let padded = length + padding(length);
        let matches = |whole: &Bytes| {
            whole.split_at_checked(padded).is_some_and(|(data, digest)| digest == crc32c(data))
        };
        let data_intact = !self.data_digest || length == 0 || matches(&whole);
        whole.truncate(length);
        Pdu { header, ahs, data: whole, data_intact }
    }
}

/// Digest bytes as they stand on the wire (§13.1: CRC32C, least significant byte first).
pub(super) fn crc32c(bytes: &[u8]) -> [u8; DIGEST_BYTES] {
    (crc_fast::checksum(Crc32Iscsi, bytes) as u32).to_le_bytes()
}

/// Glues PDUs into as few buffers as is cheap.
#[derive(Default)]
pub(super) struct Outbox {
    pub(super) header_digest: bool,
    pub(super) data_digest: bool,
    tail: BytesMut,
    ready: VecDeque<Bytes>,
    held: usize,
}

impl Outbox {
    /// Appends a PDU whose data segment is the given pieces, in order. Sets DataSegmentLength.
    pub(super) fn push<T: Header>(&mut self, header: &T, pieces: &[Bytes]) {
        let length: usize = pieces.iter().map(Bytes::len).sum();
        let mut head = header.bytes();
        let encoded =
            u32::try_from(length).expect("a data segment is cut to 24 bits of length").to_be_bytes();
        head[5..8].copy_from_slice(&encoded[1..]);
        self.append(&head);
        if self.header_digest {
            self.append(&crc32c(&head));
        }
        if length == 0 {
            return;
        }
        for piece in pieces {
            self.payload(piece);
        }
        let pad = &[0; 3][..padding(length)];
        self.append(pad);
        if self.data_digest {
            let mut digest = crc_fast::Digest::new(Crc32Iscsi);
            for piece in pieces {
                digest.update(piece);
            }
            digest.update(pad);
            self.append(&(digest.finalize() as u32).to_le_bytes());
        }
    }

    /// Bytes waiting here.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// The next buffer to send.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let next = self.ready.pop_front().or_else(|| {
            let tail = self.tail.split().freeze();
            (!tail.is_empty()).then_some(tail)
        })?;
        self.held -= next.len();
        Some(next)
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.tail.capacity() - self.tail.len() < bytes.len() {
            self.tail.reserve(bytes.len().max(CHUNK_BYTES));
        }
        self.tail.extend_from_slice(bytes);
        self.held += bytes.len();
    }

    fn payload(&mut self, piece: &Bytes) {
        if piece.len() <= COPIED_MAX {
            self.append(piece);
            return;
        }
        if !self.tail.is_empty() {
            self.ready.push_back(self.tail.split().freeze());
        }
        self.ready.push_back(piece.clone());
        self.held += piece.len();
    }
}

#[cfg(test)]
mod tests {
    use super::super::pdu::{DataOut, opcode};
    use super::*;

    fn stream(digests: bool) -> Vec<u8> {
        let mut out = Outbox { header_digest: digests, data_digest: digests, ..Outbox::default() };
        for length in [0usize, 1, 5, 9000, 4] {
            let header = DataOut { opcode: opcode::DATA_OUT, itt: 7.into(), ..DataOut::default() };
            out.push(&header, &[Bytes::from(vec![length as u8; length])]);
        }
        let held = out.held();
        let all: Vec<u8> = std::iter::from_fn(|| out.pop()).flatten().collect();
        assert_eq!((held, out.held()), (all.len(), 0));
        all
    }

    fn cut(digests: bool, bytes: &[u8], step: usize) -> Result<Vec<Pdu>, FrameFault> {
        let mut framer = Framer::new(16384);
        (framer.header_digest, framer.data_digest) = (digests, digests);
        let mut pdus = Vec::new();
        for piece in bytes.chunks(step) {
            framer.push(Bytes::copy_from_slice(piece));
            while let Some(pdu) = framer.next()? {
                pdus.push(pdu);
            }
        }
        Ok(pdus)
    }

    #[test]
    fn pieces_of_any_size_yield_the_same_pdus() {
        for digests in [false, true] {
            let bytes = stream(digests);
            for step in [1, 3, 47, 48, 49, 1000, bytes.len()] {
                let pdus = cut(digests, &bytes, step).expect("valid stream");
                assert_eq!(pdus.iter().map(|pdu| pdu.data.len()).collect::<Vec<_>>(), [0, 1, 5, 9000, 4]);
                assert!(pdus.iter().all(|pdu| pdu.data_intact));
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_seen_by_the_digest_that_covers_it() {
        let bytes = stream(true);
        let mut header = bytes.clone();
        header[6] ^= 0x80;
        assert_eq!(cut(true, &header, 10).expect_err("header"), FrameFault::HeaderDigest);
        let mut data = bytes;
        data[52 + 52] ^= 1; // the one data byte of the second PDU
        let pdus = cut(true, &data, 10).expect("headers are intact");
        assert_eq!(
            pdus.iter().map(|pdu| pdu.data_intact).collect::<Vec<_>>(),
            [true, false, true, true, true]
        );
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_it_is_buffered() {
        let mut header = [0; HEADER_BYTES];
        header[5..8].copy_from_slice(&[0xff; 3]);
        assert_eq!(cut(false, &header, 48).expect_err("too long"), FrameFault::TooLong);
    }
}
