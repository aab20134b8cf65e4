//! What a unit says about the device around it and about its commands (SPC-4 6.33, 6.35, 6.36).

use super::cdb::Cdb;
use super::opcodes::{ROWS, Row};
use super::sense::Sense;

/// LUN field of a unit: peripheral device addressing up to 255, flat space addressing above (SAM-5 4.7).
pub(super) fn encode_lun(lun: u16) -> u64 {
    let method = if lun < 256 { 0 } else { 0x4000 };
    u64::from(method | lun) << 48
}

/// The unit that a LUN field names, if it names one in a form that this device gives out.
pub(super) fn decode_lun(field: u64) -> Option<u16> {
    let first = (field >> 48) as u16;
    match first >> 14 {
        _ if field << 16 != 0 => None,       // one level only
        0 => (first < 256).then_some(first), // bus identifier zero
        1 => Some(first & 0x3fff),
        _ => None,
    }
}

/// REPORT LUNS, in full.
pub(super) fn luns(cdb: Cdb, luns: impl Iterator<Item = u16>) -> Result<Vec<u8>, Sense> {
    let mut data = vec![0; 8];
    match cdb.byte(2) {
        0x00 | 0x02 => luns.for_each(|lun| data.extend_from_slice(&encode_lun(lun).to_be_bytes())),
        0x01 => {} // well known units: none
        _ => return Err(Sense::field_in_cdb(2, None)),
    }
    let length = (data.len() - 8) as u32;
    data.splice(..4, length.to_be_bytes());
    Ok(data)
}

/// REPORT SUPPORTED OPERATION CODES, in full, of a unit that knows all commands but those that it `lacks`.
pub(super) fn opcodes(cdb: Cdb, lacks: impl Fn(&Row) -> bool) -> Result<Vec<u8>, Sense> {
    let timeouts = cdb.bit(2, 0x80);
    let (opcode, action) = (cdb.byte(3), cdb.number(4, 2));
    let lacks = &lacks;
    let all = move || ROWS.iter().filter(move |row| !lacks(row));
    let rows = move || all().filter(move |row| row.opcode == opcode);
    let has_actions = rows().any(|row| row.service_action.is_some());
    let known = rows().next().is_some();
    let this_action = || rows().find(|row| u64::from(row.service_action.unwrap_or(0)) == action);
    match cdb.byte(2) & 0x07 {
        0 => Ok(all_opcodes(all(), timeouts)),
        1 if has_actions => Err(Sense::field_in_cdb(2, Some(2))),
        1 => Ok(one_opcode(rows().next(), timeouts)),
        2 if known && !has_actions => Err(Sense::field_in_cdb(2, Some(2))),
        2 | 3 => Ok(one_opcode(this_action(), timeouts)),
        _ => Err(Sense::field_in_cdb(2, Some(2))),
    }
}

fn all_opcodes(rows: impl Iterator<Item = &'static Row>, timeouts: bool) -> Vec<u8> {
    let mut data = vec![0; 4];
    for row in rows {
        let flags = if timeouts { 0x02 } else { 0 } | u8::from(row.service_action.is_some());
        let length = row.length() as u8;
        data.extend_from_slice(&[row.opcode, 0, 0, row.service_action.unwrap_or(0), 0, flags, 0, length]);
        if timeouts {
            data.extend_from_slice(&NO_TIMEOUTS);
        }
    }
    let length = (data.len() - 4) as u32;
    data.splice(..4, length.to_be_bytes());
    data
}

fn one_opcode(row: Option<&Row>, timeouts: bool) -> Vec<u8> {
    let Some(row) = row else {
        return vec![0, 0x01, 0, 0]; // not supported: data, not an error
    };
    let usage = row.usage_data();
    let mut data = vec![0, if timeouts { 0x83 } else { 0x03 }, 0, usage.len() as u8];
    data.extend_from_slice(&usage);
    if timeouts {
        data.extend_from_slice(&NO_TIMEOUTS);
    }
    data
}

/// Command timeouts descriptor (SPC-4 6.35.4) that names no timeouts.
const NO_TIMEOUTS: [u8; 12] = [0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS, in full: ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL
/// UNIT RESET, TARGET RESET.
pub(super) fn task_management(cdb: Cdb) -> Vec<u8> {
    let mut data = vec![0xda, 0, 0, 0];
    if cdb.bit(2, 0x80) {
        data.extend_from_slice(&[0; 12]); // no timeouts known
        data[3] = 12;
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(options: u8, opcode: u8, action: u8) -> Result<Vec<u8>, Sense> {
        opcodes(Cdb::new(&[0xa3, 0x0c, options, opcode, 0, action, 0, 0, 1, 0, 0, 0]), |_| false)
    }

    #[test]
    fn lun_fields_are_read_as_they_are_written() {
        for lun in [0, 1, 255, 256, 0x3fff] {
            assert_eq!(decode_lun(encode_lun(lun)), Some(lun));
        }
        assert_eq!(decode_lun(0x4005 << 48), Some(5));
        assert_eq!(decode_lun(0x0105 << 48), None);
        assert_eq!(decode_lun(0xc101 << 48), None);
        assert_eq!(decode_lun(0x8001 << 48), None);
        assert_eq!(decode_lun(1), None);
        assert_eq!(decode_lun(u64::MAX), None);
    }

    #[test]
    fn lists_every_command_with_or_without_timeouts() {
        for (options, size, flag) in [(0x00, 8, 0), (0x80, 20, 2)] {
            let data = report(options, 0, 0).expect("option 0 is supported");
            assert_eq!(data.len(), 4 + size * ROWS.len());
            assert_eq!(data[..4], ((size * ROWS.len()) as u32).to_be_bytes());
            let read_capacity = data[4..].chunks(size).find(|entry| entry[0] == 0x9e).expect("9Eh");
            assert_eq!(read_capacity[..8], [0x9e, 0, 0, 0x10, 0, flag | 1, 0, 16]);
        }
    }

    #[test]
    fn describes_one_command() {
        let usage = [0x28, 0x18, 255, 255, 255, 255, 0, 255, 255, 0];
        assert_eq!(report(1, 0x28, 0), Ok([&[0, 3, 0, 10], &usage[..]].concat()));
        assert_eq!(report(0x81, 0x28, 0), Ok([&[0, 0x83, 0, 10], &usage[..], &NO_TIMEOUTS].concat()));
        let capacity = [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 0];
        assert_eq!(report(2, 0x9e, 0x10), Ok([&[0, 3, 0, 16], &capacity[..]].concat()));
        assert_eq!(report(3, 0x28, 0), report(1, 0x28, 0));
    }

    #[test]
    fn an_unsupported_command_is_data_and_a_wrong_question_an_error() {
        let unsupported = Ok(vec![0, 1, 0, 0]);
        assert_eq!(report(1, 0x8b, 0), unsupported);
        assert_eq!(report(2, 0x9e, 0x13), unsupported);
        assert_eq!(report(2, 0x5f, 0x08), unsupported);
        assert_eq!(report(3, 0x28, 1), unsupported);
        let refused = Err(Sense::field_in_cdb(2, Some(2)));
        assert_eq!(report(1, 0x9e, 0x10), refused);
        assert_eq!(report(2, 0x28, 0), refused);
        assert_eq!(report(4, 0x28, 0), refused);
    }

    #[test]
    fn what_a_unit_lacks_is_not_told_as_supported() {
        let ask = |options| {
            let cdb = [0xa3, 0x0c, options, 0x89, 0, 0, 0, 0, 1, 0, 0, 0];
            opcodes(Cdb::new(&cdb), |row| row.opcode == 0x89)
        };
        assert_eq!(ask(1), Ok(vec![0, 1, 0, 0]));
        let all = ask(0).expect("option 0 is supported");
        assert_eq!(all.len(), 4 + 8 * (ROWS.len() - 1));
        assert!(all[4..].chunks(8).all(|entry| entry[0] != 0x89));
    }
}
