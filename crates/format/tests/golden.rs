//! The bytes of this release, for every later one to read. `golden.txt` is only ever added to.

mod examples;

use biplex_engine::message::{Message, PROTOCOL_VERSION};
use biplex_format::journal::{
    JOURNAL_VERSION, SUPERBLOCK_BYTES, decode_group, decode_segment, decode_slot, decode_state,
    decode_superblock, encode_group, encode_segment, encode_slot, encode_state, encode_superblock,
};
use biplex_format::{
    Decoder, FormatError, crc32c, decode_entry, decode_request, decode_reservations, encode_entry_header,
    encode_request, encode_reservations,
};
use bytes::Bytes;
use examples::*;
use std::fmt::Write;

const GOLDEN: &str = include_str!("golden.txt");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("hex")).collect()
}

/// The bytes that `golden.txt` has under a name, trailing zeros left out there.
fn golden(name: &str) -> Vec<u8> {
    let line = GOLDEN.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    // Whoever adds a kind adds the line that the first test prints when it fails.
    line.map(unhex).unwrap_or_default()
}

fn pages() -> Vec<(&'static str, Vec<u8>)> {
    let short = |bytes: &[u8], head: usize| {
        let mut short = bytes[..head].to_vec();
        short.extend_from_slice(&crc32c(bytes).to_le_bytes());
        short
    };
    vec![
        ("superblock-3-head-and-crc", short(&encode_superblock(&superblock()), 64 + 2 * 80)),
        ("segment-head-and-crc", short(&encode_segment(&segment()), 112)),
        ("slot-head-and-crc", short(&encode_slot(&slot()), 104)),
        ("group", encode_group(&group()).to_vec()),
        ("slot-with-state-head-and-crc", short(&encode_slot(&slot_with_state()), 104)),
        ("state-header", encode_state(&state()).to_vec()),
        ("verdict", encode_entry_header(PAIR, &verdict()).to_vec()),
    ]
}

#[test]
fn every_kind_is_spelt_as_it_ever_was() {
    for (name, message) in messages() {
        let bytes = wire(&message);
        assert!(bytes == golden(name), "golden.txt should say:\n{name} {}", hex(&bytes));
        let mut decoder = Decoder::new();
        decoder.push(Bytes::from(golden(name)));
        assert_eq!(decoder.next(), Ok(Some(message)), "{name}");
        assert_eq!(decoder.next(), Ok(None), "{name}");
    }
    for (name, page) in pages() {
        assert!(page == golden(name), "golden.txt should say:\n{name} {}", hex(&page));
    }
    assert_eq!(decode_superblock(&encode_superblock(&superblock())), Ok(superblock()));
    assert_eq!(decode_segment(&encode_segment(&segment())), Ok(segment()));
    assert_eq!(decode_slot(&encode_slot(&slot())), Ok(slot()));
    assert_eq!(decode_slot(&encode_slot(&slot_with_state())), Ok(slot_with_state()));
    assert_eq!(decode_group(&golden("group")), Ok(group()));
    assert_eq!(decode_state(&golden("state-header")), Ok(state()));
    assert_eq!(decode_entry(&golden("verdict"), Bytes::new()), Ok(verdict()));
}

#[test]
fn a_journal_of_another_version_is_refused_by_its_version() {
    // No release made a version 2, so its bytes are pinned only to be refused for what they are.
    let short = golden("superblock-head-and-crc");
    let head = &short[..short.len() - 4];
    let mut page = head.to_vec();
    page.resize(SUPERBLOCK_BYTES - 4, 0);
    page.extend_from_slice(&crc32c(&page).to_le_bytes());
    let expected = FormatError::Version { what: "superblock", expected: JOURNAL_VERSION, found: 2 };
    assert_eq!(decode_superblock(&page), Err(expected));
}

#[test]
fn every_request_and_the_tables_are_spelt_as_they_ever_were() {
    for (name, request) in requests() {
        let bytes = encode_request(&request);
        assert!(bytes == golden(name), "golden.txt should say:\n{name} {}", hex(&bytes));
        assert_eq!(decode_request(&golden(name)), Ok(request), "{name}");
    }
    let bytes = encode_reservations(&tables());
    let name = "reservations";
    assert!(bytes == golden(name), "golden.txt should say:\n{name} {}", hex(&bytes));
    assert_eq!(decode_reservations(&golden(name)), Ok(tables()));
}

#[test]
fn a_hello_of_any_later_version_still_tells_its_version() {
    // What another version may put behind the frozen header fields is not known here; only that it may.
    let mut bytes = wire(&Message::Hello(hello()));
    bytes[4..6].copy_from_slice(&9u16.to_le_bytes());
    bytes[44..48].copy_from_slice(&(64u32 << 20).to_le_bytes());
    bytes[72..120].fill(0xee);
    let crc = crc32c(&bytes[..124]);
    bytes[124..128].copy_from_slice(&crc.to_le_bytes());
    let mut decoder = Decoder::new();
    decoder.push(Bytes::from(bytes));
    let expected = FormatError::Version { what: "hello", expected: PROTOCOL_VERSION, found: 9 };
    assert_eq!(decoder.next(), Err(expected));
    assert_eq!(decoder.next(), Err(expected), "an error is for good");
}

#[test]
fn a_refusal_of_any_version_is_readable() {
    let (_, message) = messages().into_iter().find(|(name, _)| *name == "refuse").expect("it is there");
    let mut bytes = wire(&message);
    bytes[4..6].copy_from_slice(&9u16.to_le_bytes());
    let crc = crc32c(&bytes[..124]);
    bytes[124..128].copy_from_slice(&crc.to_le_bytes());
    let mut decoder = Decoder::new();
    decoder.push(Bytes::from(bytes));
    assert_eq!(decoder.next(), Ok(Some(message)));
}
