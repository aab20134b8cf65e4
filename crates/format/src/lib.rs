//! Spells: every byte that travels between the sites and every byte that lies in a journal.
//!
//! Answers for the layouts, their checksums and their limits, and for refusing whatever does not keep to them.
//! Must never do I/O, panic on bytes from outside, or accept two spellings of one meaning: what decodes,
//! encodes to the same bytes again. Drawn in `docs/format.md`; a test compares the drawing with this crate.

pub mod control;
pub mod error;
pub mod journal;
pub mod link;
pub mod record;
pub mod volume;

pub use control::{decode_request, decode_reservations, encode_request, encode_reservations};
pub use error::FormatError;
pub use link::{Decoder, encode};
pub use record::{
    BODY_BYTES_MAX, HEADER_BYTES, RecordHeader, body_crc, decode_entry, decode_header, encode_entry_header,
    stored_body,
};

/// CRC-32C (RFC 7143 12.1 names the polynomial): the one checksum of link and journal.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}
