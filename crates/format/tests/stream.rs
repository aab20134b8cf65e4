//! The decoder: whatever the pieces, the same messages; whatever the bytes, no panic, and no meaning with two
//! spellings.

mod examples;

use biplex_engine::message::Message;
use biplex_engine::reserve::Verdict;
use biplex_engine::{Body, Extent, Lba};
use biplex_format::journal::{decode_group, decode_segment, decode_slot, decode_state, decode_superblock};
use biplex_format::journal::{encode_group, encode_segment, encode_slot, encode_state, encode_superblock};
use biplex_format::link::{DIGEST_ROWS_MAX, HOST_NAME_BYTES_MAX, REFUSAL_BYTES_MAX};
use biplex_format::{
    BODY_BYTES_MAX, Decoder, FormatError, HEADER_BYTES, body_crc, crc32c, decode_entry, decode_header,
    encode_entry_header,
};
use bytes::Bytes;
use examples::*;
use proptest::prelude::*;

fn decode_all(pieces: impl IntoIterator<Item = Bytes>) -> Result<Vec<Message>, FormatError> {
    let mut decoder = Decoder::new();
    let mut all = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        while let Some(message) = decoder.next()? {
            all.push(message);
        }
    }
    Ok(all)
}

fn all_messages() -> (Vec<Message>, Vec<u8>) {
    let messages: Vec<Message> = messages().into_iter().map(|(_, message)| message).collect();
    let bytes = messages.iter().flat_map(wire).collect();
    (messages, bytes)
}

/// Closes a changed header anew, as a peer gone mad would.
fn reseal(header: &mut [u8]) {
    let crc = crc32c(&header[..HEADER_BYTES - 4]);
    header[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_cut_of_the_stream_gives_the_same_messages(cuts in prop::collection::vec(1usize..700, 1..40)) {
        let (messages, bytes) = all_messages();
        let mut rest = Bytes::from(bytes);
        let mut pieces = Vec::new();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            pieces.push(rest.split_to((*cut).min(rest.len())));
        }
        prop_assert_eq!(decode_all(pieces), Ok(messages));
    }

    #[test]
    fn any_changed_bit_is_noticed(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let (messages, mut bytes) = all_messages();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let outcome = decode_all([Bytes::from(bytes)]);
        // (A header's length may now tell of more than is there: then nothing more comes.)
        prop_assert!(outcome.is_err() || outcome.is_ok_and(|found| messages.starts_with(&found) && found.len() < messages.len()));
    }

    #[test]
    fn what_a_mad_peer_seals_has_one_spelling_or_none(
        which in 0usize..11,
        changes in prop::collection::vec((0usize..HEADER_BYTES - 4, any::<u8>()), 1..4),
    ) {
        let (_, message) = messages().swap_remove(which);
        let mut bytes = wire(&message);
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        reseal(&mut bytes);
        if let Ok(found) = decode_all([Bytes::from(bytes.clone())]) {
            for message in found {
                let Message::Refuse(_) = message else {
                    // The pair is the message's own here; spell it again with that one.
                    let pair = u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes"));
                    let (header, payload) = biplex_format::encode(pair, &message);
                    let again = [header.to_vec(), payload.unwrap_or_default().to_vec()].concat();
                    prop_assert_eq!(again, bytes);
                    return Ok(());
                };
            }
        }
    }

    #[test]
    fn noise_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let found = decode_all([Bytes::from(bytes.clone())]);
        prop_assert!(found.is_err() || bytes.len() < HEADER_BYTES);
        prop_assert!(decode_header(&bytes).is_err());
        prop_assert!(decode_group(&bytes).is_err());
        prop_assert!(decode_segment(&bytes).is_err());
        prop_assert!(decode_slot(&bytes).is_err());
        prop_assert!(decode_superblock(&bytes).is_err());
    }

    #[test]
    fn any_changed_bit_of_a_journal_page_is_noticed(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let flip = |mut bytes: Vec<u8>| {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            bytes
        };
        prop_assert!(decode_group(&flip(encode_group(&group()).to_vec())).is_err());
        prop_assert!(decode_segment(&flip(encode_segment(&segment()).to_vec())).is_err());
        prop_assert!(decode_slot(&flip(encode_slot(&slot()).to_vec())).is_err());
        prop_assert!(decode_state(&flip(encode_state(&state()).to_vec())).is_err());
        prop_assert!(decode_superblock(&flip(encode_superblock(&superblock()))).is_err());
    }

    #[test]
    fn entries_come_back_as_they_went(
        time in any::<u64>(), lba in 0u64..1 << 40, blocks in 1u64..40, byte in any::<u8>(), kind in 0u8..5,
    ) {
        let body = match kind {
            0 => Body::Data(Bytes::from(vec![byte; blocks as usize * 512])),
            1 => Body::Fill(Bytes::from(vec![byte; 512])),
            2 => Body::Swap(Bytes::from(vec![byte; blocks as usize * 1024])),
            3 => Body::Verdict(match byte % 4 {
                0 => Verdict::Done,
                1 => Verdict::Conflict,
                2 => Verdict::BadParameter(u16::from(byte)),
                _ => Verdict::Miscompare { offset: u64::from(byte) },
            }),
            _ => Body::Unmap,
        };
        let entry = entry(b(time), lba, blocks, body.clone());
        let header = encode_entry_header(PAIR, &entry);
        let stored = biplex_format::stored_body(&body).unwrap_or_default();
        prop_assert_eq!(decode_entry(&header, stored), Ok(entry));
    }
}

#[test]
fn a_whole_body_in_one_piece_is_not_copied() {
    let (_, message) = messages().into_iter().find(|(name, _)| *name == "data").expect("it is there");
    let bytes = Bytes::from(wire(&message));
    let place = bytes[HEADER_BYTES..].as_ptr();
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    match decoder.next() {
        Ok(Some(Message::Entry(entry))) => match entry.body {
            Body::Data(body) => assert_eq!(body.as_ptr(), place),
            other => panic!("another body: {other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_largest_body_passes_and_one_block_more_is_refused_by_its_header() {
    let blocks = BODY_BYTES_MAX as u64 / 512;
    let body = Body::Data(Bytes::from(vec![3; BODY_BYTES_MAX]));
    let message = Message::Entry(entry(a(1), 0, blocks, body));
    let bytes = Bytes::from(wire(&message));
    let pieces = (0..bytes.len()).step_by(65_536).map(|at| bytes.slice(at..bytes.len().min(at + 65_536)));
    assert_eq!(decode_all(pieces), Ok(vec![message]));

    let mut header = bytes[..HEADER_BYTES].to_vec();
    header[44..48].copy_from_slice(&(BODY_BYTES_MAX as u32 + 512).to_le_bytes());
    reseal(&mut header);
    let found = BODY_BYTES_MAX as u64 + 512;
    let expected = BODY_BYTES_MAX as u64;
    assert_eq!(decode_all([Bytes::from(header)]), Err(FormatError::Length { what: "data", expected, found }));
}

#[test]
fn a_message_of_another_pair_is_refused_after_the_hello() {
    let hello = wire(&Message::Hello(hello()));
    let (other, _) = biplex_format::encode(5, &Message::ResumeEnd);
    let outcome = decode_all([Bytes::from(hello), other]);
    assert_eq!(outcome, Err(FormatError::Pair { what: "message", expected: PAIR, found: 5 }));
}

#[test]
fn a_body_that_does_not_fit_its_extent_is_refused() {
    let Message::Entry(mut wrong) = messages().swap_remove(2).1 else { panic!("the third is data") };
    let mut header = encode_entry_header(PAIR, &wrong);
    header[56..64].copy_from_slice(&2u64.to_le_bytes());
    reseal(&mut header);
    let Body::Data(body) = wrong.body.clone() else { panic!("the third is data") };
    let refused = decode_entry(&header, body);
    assert_eq!(refused, Err(FormatError::Length { what: "body of an entry", expected: 1024, found: 512 }));
    wrong.extent = Extent::new(Lba(0), 2).expect("not empty");
    assert!(std::panic::catch_unwind(|| encode_entry_header(PAIR, &wrong)).is_err(), "never spelt either");
}

#[test]
fn long_texts_are_cut_where_a_character_ends() {
    let why = "ä".repeat(REFUSAL_BYTES_MAX);
    let refusal = Message::Refuse(biplex_engine::message::Refusal { why });
    match decode_all([Bytes::from(wire(&refusal))]).as_deref() {
        Ok([Message::Refuse(refusal)]) => assert_eq!(refusal.why.len(), REFUSAL_BYTES_MAX),
        other => panic!("{other:?}"),
    }
    let host = Message::Host { id: 1, name: Bytes::from(vec![b'x'; 999]) };
    match decode_all([Bytes::from(wire(&host))]).as_deref() {
        Ok([Message::Host { name, .. }]) => assert_eq!(name.len(), HOST_NAME_BYTES_MAX),
        other => panic!("{other:?}"),
    }
    const { assert!(DIGEST_ROWS_MAX > 80_000) };
}

#[test]
fn the_checksum_is_crc32c() {
    // RFC 7143 appendix A.4: 32 bytes of zeros.
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(body_crc(&Body::Unmap), 0);
}
