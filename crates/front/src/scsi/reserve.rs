//! RESERVE and RELEASE, 6 and 10 bytes long (SCSI-2 9.2.11, 9.2.12; SPC-2 7.20 to 7.23): what their CDBs and lists of
//! extents ask for. Whether it is granted is not decided here.
//!
//! A third party is named by the long form only (LONGID): its eight bytes are the initiator's host id, as `biplex
//! status` prints it. The short form names devices of a parallel bus; iSCSI has none (5/24/00).

use super::cdb::Cdb;
use super::sense::Sense;
use biplex_engine::reserve::{Claim, ExtentKind, Extents, Request};
use biplex_engine::{Extent, HostId, Lba};

const EXTENT: u8 = 0x01;
const LONG_ID: u8 = 0x02;
const THIRD_PARTY: u8 = 0x10;
/// Bytes of a third party's id in a list.
const LONG_ID_BYTES: usize = 8;
/// Bytes of one extent in a list.
const ELEMENT_BYTES: usize = 8;

/// Bytes of parameter list that a RESERVE or RELEASE brings.
pub(super) fn list_length(cdb: Cdb) -> u64 {
    match cdb.opcode() {
        0x16 if cdb.bit(1, EXTENT) => cdb.number(3, 2),
        0x56 if cdb.bit(1, EXTENT | LONG_ID) => cdb.number(7, 2),
        0x57 if cdb.bit(1, LONG_ID) => cdb.number(7, 2),
        _ => 0,
    }
}

/// RESERVE.
pub(super) fn reserve(cdb: Cdb, list: &[u8], blocks: u64) -> Result<Request, Sense> {
    let (third_party, elements) = third_party(cdb, list)?;
    let (elements, rest) = elements.as_chunks::<ELEMENT_BYTES>();
    let whole = !cdb.bit(1, EXTENT);
    if !rest.is_empty() || (whole && !elements.is_empty()) {
        return Err(Sense::PARAMETER_LIST_LENGTH);
    }
    if whole {
        return Ok(Request::Reserve { third_party, extents: None });
    }
    let id = cdb.byte(2);
    // SCSI-2 9.2.12.2: an empty list reserves nothing, and takes the place of what the id had.
    if elements.is_empty() {
        return Ok(Request::Release { third_party, extents: Some(id) });
    }
    let before = (list.len() - elements.len() * ELEMENT_BYTES) as u16;
    let mut claims = Vec::with_capacity(elements.len().min(256));
    for (number, element) in elements.iter().enumerate() {
        let at = before + (number * ELEMENT_BYTES) as u16;
        // RELADR (bit 2) and the bits above it are not known here.
        let kind = ExtentKind::from_ordinal(element[0]).ok_or(Sense::field_in_parameters(at, Some(2)))?;
        let element = Cdb::new(element);
        let (start, count) = (element.number(4, 4), element.number(1, 3));
        // SCSI-2 9.2.12.2: no blocks means up to the end.
        let count = if count == 0 { blocks.saturating_sub(start) } else { count };
        let extent = Extent::new(Lba(start), count).filter(|extent| extent.end().0 <= blocks);
        claims.push(Claim { kind, extent: extent.ok_or(Sense::LBA_OUT_OF_RANGE)? });
    }
    if claims.len() > biplex_engine::reserve::CLAIMS_MAX {
        return Err(Sense::NO_ROOM_TO_RESERVE);
    }
    Ok(Request::Reserve { third_party, extents: Some(Extents { id, claims }) })
}

/// RELEASE.
pub(super) fn release(cdb: Cdb, list: &[u8]) -> Result<Request, Sense> {
    let (third_party, rest) = third_party(cdb, list)?;
    if !rest.is_empty() {
        return Err(Sense::PARAMETER_LIST_LENGTH);
    }
    Ok(Request::Release { third_party, extents: cdb.bit(1, EXTENT).then(|| cdb.byte(2)) })
}

/// Whom it is for, and what follows in the list.
fn third_party<'a>(cdb: Cdb, list: &'a [u8]) -> Result<(Option<HostId>, &'a [u8]), Sense> {
    if list.len() as u64 != list_length(cdb) {
        return Err(Sense::PARAMETER_LIST_LENGTH);
    }
    match (cdb.bit(1, THIRD_PARTY), cdb.bit(1, LONG_ID)) {
        (false, false) => Ok((None, list)),
        (true, true) => {
            let (id, rest) = list.split_first_chunk::<LONG_ID_BYTES>().ok_or(Sense::PARAMETER_LIST_LENGTH)?;
            Ok((Some(HostId(u64::from_be_bytes(*id))), rest))
        }
        (true, false) => Err(Sense::field_in_cdb(1, Some(4))),
        (false, true) => Err(Sense::field_in_cdb(1, Some(1))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_units_extents_and_third_parties_are_read() {
        let whole = Request::Reserve { third_party: None, extents: None };
        assert_eq!(reserve(Cdb::new(&[0x16, 0, 0, 0, 0, 0]), &[], 100), Ok(whole));
        let list = [[1, 0, 0, 5, 0, 0, 0, 10], [3, 0, 0, 0, 0, 0, 0, 90]].concat();
        let extents = |id| Extents {
            id,
            claims: vec![
                Claim { kind: ExtentKind::WriteExclusive, extent: Extent::new(Lba(10), 5).expect("some") },
                Claim { kind: ExtentKind::ExclusiveAccess, extent: Extent::new(Lba(90), 10).expect("some") },
            ],
        };
        let six = reserve(Cdb::new(&[0x16, 1, 7, 0, 16, 0]), &list, 100);
        assert_eq!(six, Ok(Request::Reserve { third_party: None, extents: Some(extents(7)) }));
        let long = [&[0, 0, 0, 0, 0, 0, 1, 2][..], &list].concat();
        let ten = reserve(Cdb::new(&[0x56, 0x13, 9, 0, 0, 0, 0, 0, 24, 0]), &long, 100);
        assert_eq!(ten, Ok(Request::Reserve { third_party: Some(HostId(0x102)), extents: Some(extents(9)) }));
        let free = release(Cdb::new(&[0x57, 0x13, 9, 0, 0, 0, 0, 0, 8, 0]), &long[..8]);
        assert_eq!(free, Ok(Request::Release { third_party: Some(HostId(0x102)), extents: Some(9) }));
        let empty = reserve(Cdb::new(&[0x16, 1, 7, 0, 0, 0]), &[], 100);
        assert_eq!(empty, Ok(Request::Release { third_party: None, extents: Some(7) }));
    }

    #[test]
    fn lists_that_lie_and_short_third_parties_are_refused() {
        let one = [1, 0, 0, 5, 0, 0, 0, 96];
        assert_eq!(reserve(Cdb::new(&[0x16, 1, 7, 0, 8, 0]), &one, 100), Err(Sense::LBA_OUT_OF_RANGE));
        let relative = [5, 0, 0, 5, 0, 0, 0, 0];
        let refused = Err(Sense::field_in_parameters(0, Some(2)));
        assert_eq!(reserve(Cdb::new(&[0x16, 1, 7, 0, 8, 0]), &relative, 100), refused);
        let short = Err(Sense::PARAMETER_LIST_LENGTH);
        assert_eq!(reserve(Cdb::new(&[0x16, 1, 7, 0, 7, 0]), &one[..7], 100), short);
        assert_eq!(reserve(Cdb::new(&[0x16, 1, 7, 0, 16, 0]), &one, 100), short);
        assert_eq!(reserve(Cdb::new(&[0x56, 0x12, 0, 0, 0, 0, 0, 0, 4, 0]), &one[..4], 100), short);
        let two = [one, one].concat();
        assert_eq!(reserve(Cdb::new(&[0x56, 0x12, 0, 0, 0, 0, 0, 0, 0, 0]), &[], 100), short);
        assert_eq!(reserve(Cdb::new(&[0x56, 0x12, 0, 0, 0, 0, 0, 0, 16, 0]), &two, 100), short);
        assert_eq!(release(Cdb::new(&[0x57, 0x12, 0, 0, 0, 0, 0, 0, 16, 0]), &two), short);
        let no_third_party = Err(Sense::field_in_cdb(1, Some(1)));
        assert_eq!(reserve(Cdb::new(&[0x56, 0x02, 0, 0, 0, 0, 0, 0, 8, 0]), &one, 100), no_third_party);
        let field = Err(Sense::field_in_cdb(1, Some(4)));
        assert_eq!(reserve(Cdb::new(&[0x56, 0x10, 0, 3, 0, 0, 0, 0, 0, 0]), &[], 100), field);
        assert_eq!(
            reserve(Cdb::new(&[0x16, 1, 7, 0, 8, 0]), &[1, 0, 0, 0, 0, 0, 0, 100], 100),
            Err(Sense::LBA_OUT_OF_RANGE)
        );
    }
}
