//! TransportIDs of iSCSI (SPC-4 7.6.4.6): an initiator port as PERSISTENT RESERVE IN and OUT spell it.

use super::sense::Sense;

/// FORMAT CODE 01b (name and ISID), PROTOCOL IDENTIFIER 5h.
const PORT: u8 = 0x45;
/// FORMAT CODE 00b (name only).
const DEVICE: u8 = 0x05;
/// Bytes before the name.
const HEAD: usize = 4;
/// Least length of what follows the head, and what it is a multiple of.
const LENGTH_MIN: usize = 20;
/// Longest iSCSI name (RFC 7143 4.2.7.1).
const NAME_MAX: usize = biplex_engine::reserve::INITIATOR_NAME_BYTES_MAX;
const SEPARATOR: &str = ",i,0x";

/// An initiator port, or all of an initiator's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct TransportId {
    /// The initiator's name, in lower case.
    pub name: String,
    /// Its session's ISID, 48 bits; `None`: whichever.
    pub isid: Option<u64>,
}

/// Spells an initiator port.
pub(super) fn encode(name: &str, isid: u64) -> Vec<u8> {
    let mut text = format!("{name}{SEPARATOR}{isid:012x}").into_bytes();
    text.push(0);
    text.resize(text.len().next_multiple_of(4).max(LENGTH_MIN), 0);
    let [high, low] = (text.len() as u16).to_be_bytes();
    [&[PORT, 0, high, low][..], &text].concat()
}

/// Reads one TransportID off a list, of which byte 0 is byte `at` of the parameters; what follows it.
pub(super) fn decode(bytes: &[u8], at: u16) -> Result<(TransportId, &[u8]), Sense> {
    let wrong = |offset: u16| Sense::field_in_parameters(at.saturating_add(offset), None);
    let (head, rest) = bytes.split_first_chunk::<HEAD>().ok_or(Sense::PARAMETER_LIST_LENGTH)?;
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    if !matches!(head[0], PORT | DEVICE) {
        return Err(wrong(0));
    }
    if length < LENGTH_MIN || !length.is_multiple_of(4) {
        return Err(wrong(2));
    }
    let (text, rest) = rest.split_at_checked(length).ok_or(Sense::PARAMETER_LIST_LENGTH)?;
    // Null-terminated, null-padded.
    let end = text.iter().position(|byte| *byte == 0).ok_or(wrong(4))?;
    let (text, padding) = text.split_at_checked(end).ok_or(wrong(4))?;
    if padding.iter().any(|byte| *byte != 0) {
        return Err(wrong(4));
    }
    let text = std::str::from_utf8(text).map_err(|_| wrong(4))?;
    let (name, isid) = match (head[0], text.split_once(SEPARATOR)) {
        (PORT, Some((name, isid))) if isid.len() == 12 => {
            let digits = isid.bytes().all(|byte| byte.is_ascii_hexdigit());
            let isid = u64::from_str_radix(isid, 16).ok().filter(|_| digits);
            (name, Some(isid.ok_or(wrong(4))?))
        }
        (DEVICE, None) => (text, None),
        _ => return Err(wrong(4)),
    };
    // As at a login: folding makes some letters longer, and what is kept is measured, too.
    let folded = name.to_lowercase();
    let printable = name.chars().all(|letter| !letter.is_control() && !letter.is_whitespace());
    if name.is_empty() || name.len().max(folded.len()) > NAME_MAX || !printable {
        return Err(wrong(4));
    }
    Ok((TransportId { name: folded, isid }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_spelt_is_read() {
        for name in ["iqn.a", "iqn.2026-11.io.biplex:host", &"n".repeat(223)] {
            let bytes = encode(name, 0x4001_3700_0001);
            assert!(bytes.len().is_multiple_of(4) && bytes.len() >= 24);
            let id = TransportId { name: name.to_owned(), isid: Some(0x4001_3700_0001) };
            assert_eq!(decode(&bytes, 24), Ok((id, &[][..])));
        }
        let device = [&[5, 0, 0, 20][..], b"iqn.a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", b"next"].concat();
        let id = TransportId { name: "iqn.a".to_owned(), isid: None };
        assert_eq!(decode(&device, 24), Ok((id, &b"next"[..])));
    }

    #[test]
    fn lies_are_refused_where_they_are() {
        let good = encode("iqn.a", 1);
        let refused = |change: fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            change(&mut bytes);
            decode(&bytes, 28).map(|_| ())
        };
        let at = |byte| Err(Sense::field_in_parameters(byte, None));
        assert_eq!(refused(|b| b[0] = 0x00), at(28));
        assert_eq!(refused(|b| b[0] = 0x85), at(28));
        assert_eq!(refused(|b| b[3] = 16), at(30));
        assert_eq!(refused(|b| b[3] = 21), at(30));
        assert_eq!(refused(|b| b[3] = 200), Err(Sense::PARAMETER_LIST_LENGTH));
        assert_eq!(refused(|b| b.truncate(3)), Err(Sense::PARAMETER_LIST_LENGTH));
        assert_eq!(refused(|b| b[4] = 0xff), at(32));
        assert_eq!(refused(|b| b[4] = 0x1b), at(32));
        assert_eq!(refused(|b| b[4] = b' '), at(32));
        assert_eq!(refused(|b| b[4] = 0), at(32));
        assert_eq!(refused(|b| b[14] = b'g'), at(32));
    }

    /// U+023A takes two bytes, and its small form three.
    #[test]
    fn a_name_that_folding_makes_too_long_is_refused() {
        for (letters, is_read) in [(74, true), (75, false)] {
            let read = decode(&encode(&"\u{23a}".repeat(letters), 1), 28).map(|(id, _)| id.name.len());
            let expected = if is_read { Ok(222) } else { Err(Sense::field_in_parameters(32, None)) };
            assert_eq!(read, expected, "{letters}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80), first in prop::option::of(0usize..2)) {
            let mut bytes = bytes;
            if let (Some(kind), Some(byte)) = (first, bytes.first_mut()) {
                *byte = [PORT, DEVICE][kind];
            }
            if let Ok((id, rest)) = decode(&bytes, 0) {
                prop_assert!(rest.len() < bytes.len() && !id.name.is_empty() && id.name.len() <= NAME_MAX);
            }
        }
    }
}
