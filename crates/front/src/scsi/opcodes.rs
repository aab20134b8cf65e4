//! The one table of commands that a unit knows: what REPORT SUPPORTED OPERATION CODES says, what the parser
//! lets through and what admission asks about all come from its rows, so they cannot disagree.
//!
//! A bit that is neither in a row's usage mask nor in its `ignored` list must be zero (5/24/00 otherwise):
//! that covers reserved bits, NACA, GROUP NUMBER, RDPROTECT and its kin, ANCHOR. `ignored` holds bits that
//! older standards gave a meaning which a host may still ask for and which costs nothing to disregard. A
//! command that is missing here is answered 5/20/00, or 5/24/00 if only the service action is missing.

use super::cdb::Cdb;
use super::sense::Sense;
use biplex_engine::reserve::Access;

/// The command of a row, whatever its CDB's length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operation {
    TestUnitReady,
    RequestSense,
    Inquiry,
    ModeSelect,
    ModeSense,
    StartStop,
    SendDiagnostic,
    ReadCapacity10,
    ReadCapacity16,
    Read,
    Write,
    WriteVerify,
    Verify,
    Prefetch,
    SynchronizeCache,
    ReadDefects,
    WriteSame,
    WriteAtomic,
    Unmap,
    ReportLuns,
    ReportGroups,
    ReportOpcodes,
    ReportTaskManagement,
    /// RESERVE(6), RESERVE(10).
    Reserve,
    /// RELEASE(6), RELEASE(10).
    Release,
    PersistentIn,
    PersistentOut,
    CompareAndWrite,
    LbaStatus,
}

/// One command that a unit supports.
#[derive(Debug)]
pub(super) struct Row {
    pub opcode: u8,
    pub service_action: Option<u8>,
    pub operation: Operation,
    /// What reservations ask of it; see [`Row::access`].
    access: Access,
    /// Usage mask of the CDB's bytes 1 and up, up to and with the control byte; without the service action.
    usage: &'static [u8],
    /// Bits that may be set and mean nothing here: (byte, bits).
    ignored: &'static [(usize, u8)],
}

const A: u8 = 0xff; // all bits of a byte
/// FUA_NV and RELADR, which SBC-3 made obsolete.
const OLD_MEDIA_BITS: &[(usize, u8)] = &[(1, 0x03)];
/// RELADR in VERIFY and WRITE AND VERIFY.
const OLD_RELADR: &[(usize, u8)] = &[(1, 0x01)];
/// SYNC_NV and RELADR in SYNCHRONIZE CACHE.
const OLD_SYNC_BITS: &[(usize, u8)] = &[(1, 0x05)];
/// RELADR, LOGICAL BLOCK ADDRESS and PMI in READ CAPACITY(10).
const OLD_CAPACITY_BITS: &[(usize, u8)] = &[(1, 0x01), (2, A), (3, A), (4, A), (5, A), (8, 0x01)];
/// LOGICAL BLOCK ADDRESS and PMI in READ CAPACITY(16).
const OLD_CAPACITY16_BITS: &[(usize, u8)] =
    &[(2, A), (3, A), (4, A), (5, A), (6, A), (7, A), (8, A), (9, A), (14, 0x01)];

// PRE-FETCH is itself a hint: the GROUP NUMBER in it is disregarded, where other commands refuse one (rows below).
const fn row(
    opcode: u8,
    operation: Operation,
    access: Access,
    usage: &'static [u8],
    ignored: &'static [(usize, u8)],
) -> Row {
    Row { opcode, service_action: None, operation, access, usage, ignored }
}

const fn action(
    opcode: u8,
    service_action: u8,
    operation: Operation,
    access: Access,
    usage: &'static [u8],
    ignored: &'static [(usize, u8)],
) -> Row {
    Row { opcode, service_action: Some(service_action), operation, access, usage, ignored }
}

/// Every supported command, ascending by operation code and service action.
pub(super) const ROWS: &[Row] = &[
    row(0x00, Operation::TestUnitReady, Access::Look, &[0, 0, 0, 0, 0], &[]),
    row(0x03, Operation::RequestSense, Access::Exempt, &[0x01, 0, 0, A, 0], &[]),
    row(0x08, Operation::Read, Access::Read, &[0x1f, A, A, A, 0], &[]),
    row(0x0a, Operation::Write, Access::Write, &[0x1f, A, A, A, 0], &[]),
    row(0x12, Operation::Inquiry, Access::Exempt, &[0x01, A, A, A, 0], &[]),
    row(0x15, Operation::ModeSelect, Access::Control, &[0x11, 0, 0, A, 0], &[]),
    row(0x16, Operation::Reserve, Access::Exempt, &[0x01, A, A, A, 0], &[]),
    row(0x17, Operation::Release, Access::Exempt, &[0x01, A, 0, 0, 0], &[]),
    row(0x1a, Operation::ModeSense, Access::Read, &[0x08, A, A, A, 0], &[]),
    row(0x1b, Operation::StartStop, Access::Control, &[0x01, 0, 0, 0x05, 0], &[]),
    row(0x1d, Operation::SendDiagnostic, Access::Control, &[0x17, 0, 0, 0, 0], &[]),
    row(0x25, Operation::ReadCapacity10, Access::Exempt, &[0, 0, 0, 0, 0, 0, 0, 0, 0], OLD_CAPACITY_BITS),
    row(0x28, Operation::Read, Access::Read, &[0x18, A, A, A, A, 0, A, A, 0], OLD_MEDIA_BITS),
    row(0x2a, Operation::Write, Access::Write, &[0x18, A, A, A, A, 0, A, A, 0], OLD_MEDIA_BITS),
    row(0x2e, Operation::WriteVerify, Access::Write, &[0x12, A, A, A, A, 0, A, A, 0], OLD_RELADR),
    row(0x2f, Operation::Verify, Access::Read, &[0x16, A, A, A, A, 0, A, A, 0], OLD_RELADR),
    row(0x34, Operation::Prefetch, Access::Read, &[0x02, A, A, A, A, 0, A, A, 0], &[(1, 0x01), (6, 0x1f)]),
    row(0x35, Operation::SynchronizeCache, Access::Control, &[0x02, A, A, A, A, 0, A, A, 0], OLD_SYNC_BITS),
    row(0x37, Operation::ReadDefects, Access::Read, &[0, 0x1f, 0, 0, 0, 0, A, A, 0], &[]),
    row(0x41, Operation::WriteSame, Access::Write, &[0x08, A, A, A, A, 0, A, A, 0], &[]),
    row(0x42, Operation::Unmap, Access::Write, &[0, 0, 0, 0, 0, 0, A, A, 0], &[]),
    row(0x55, Operation::ModeSelect, Access::Control, &[0x11, 0, 0, 0, 0, 0, A, A, 0], &[]),
    row(0x56, Operation::Reserve, Access::Exempt, &[0x13, A, A, 0, 0, 0, A, A, 0], &[]),
    row(0x57, Operation::Release, Access::Exempt, &[0x13, A, A, 0, 0, 0, A, A, 0], &[]),
    row(0x5a, Operation::ModeSense, Access::Read, &[0x18, A, A, 0, 0, 0, A, A, 0], &[]),
    action(0x5e, 0x00, Operation::PersistentIn, Access::Exempt, PERSISTENT_IN, &[]),
    action(0x5e, 0x01, Operation::PersistentIn, Access::Exempt, PERSISTENT_IN, &[]),
    action(0x5e, 0x02, Operation::PersistentIn, Access::Exempt, PERSISTENT_IN, &[]),
    action(0x5e, 0x03, Operation::PersistentIn, Access::Exempt, PERSISTENT_IN, &[]),
    action(0x5f, 0x00, Operation::PersistentOut, Access::Exempt, PERSISTENT_OUT, &[]),
    action(0x5f, 0x01, Operation::PersistentOut, Access::Exempt, PERSISTENT_OUT, &[]),
    action(0x5f, 0x02, Operation::PersistentOut, Access::Exempt, PERSISTENT_OUT, &[]),
    action(0x5f, 0x03, Operation::PersistentOut, Access::Exempt, PERSISTENT_OUT, &[]),
    action(0x5f, 0x04, Operation::PersistentOut, Access::Exempt, PERSISTENT_OUT, &[]),
    action(0x5f, 0x05, Operation::PersistentOut, Access::Exempt, PERSISTENT_OUT, &[]),
    action(0x5f, 0x06, Operation::PersistentOut, Access::Exempt, PERSISTENT_OUT, &[]),
    action(0x5f, 0x07, Operation::PersistentOut, Access::Exempt, PERSISTENT_OUT, &[]),
    row(0x88, Operation::Read, Access::Read, MEDIA_16, OLD_MEDIA_BITS),
    row(
        0x89,
        Operation::CompareAndWrite,
        Access::Write,
        &[0x18, A, A, A, A, A, A, A, A, 0, 0, 0, A, 0, 0],
        &[(1, 0x02)],
    ),
    row(0x8a, Operation::Write, Access::Write, MEDIA_16, OLD_MEDIA_BITS),
    row(0x8e, Operation::WriteVerify, Access::Write, WRITE_VERIFY_16, OLD_RELADR),
    row(0x8f, Operation::Verify, Access::Read, VERIFY_16, OLD_RELADR),
    row(0x90, Operation::Prefetch, Access::Read, CACHE_16, &[(1, 0x01), (14, 0x1f)]),
    row(0x91, Operation::SynchronizeCache, Access::Control, CACHE_16, OLD_SYNC_BITS),
    row(0x93, Operation::WriteSame, Access::Write, &[0x09, A, A, A, A, A, A, A, A, A, A, A, A, 0, 0], &[]),
    row(
        0x9c,
        Operation::WriteAtomic,
        Access::Write,
        // ATOMIC BOUNDARY (bytes 10 and 11): boundaries are not offered.
        &[0x18, A, A, A, A, A, A, A, A, 0, 0, A, A, 0, 0],
        &[],
    ),
    action(
        0x9e,
        0x10,
        Operation::ReadCapacity16,
        Access::Exempt,
        &[0, 0, 0, 0, 0, 0, 0, 0, 0, A, A, A, A, 0, 0],
        OLD_CAPACITY16_BITS,
    ),
    action(
        0x9e,
        0x12,
        Operation::LbaStatus,
        Access::Read,
        &[0, A, A, A, A, A, A, A, A, A, A, A, A, 0, 0],
        &[],
    ),
    row(0xa0, Operation::ReportLuns, Access::Exempt, &[0, A, 0, 0, 0, A, A, A, A, 0, 0], &[]),
    action(0xa3, 0x0a, Operation::ReportGroups, Access::Exempt, &[0xe0, 0, 0, 0, 0, A, A, A, A, 0, 0], &[]),
    action(0xa3, 0x0c, Operation::ReportOpcodes, Access::Read, &[0, 0x87, A, A, A, A, A, A, A, 0, 0], &[]),
    action(
        0xa3,
        0x0d,
        Operation::ReportTaskManagement,
        Access::Read,
        &[0, 0x80, 0, 0, 0, A, A, A, A, 0, 0],
        &[],
    ),
    row(0xa8, Operation::Read, Access::Read, MEDIA_12, OLD_MEDIA_BITS),
    row(0xaa, Operation::Write, Access::Write, MEDIA_12, OLD_MEDIA_BITS),
    row(0xae, Operation::WriteVerify, Access::Write, WRITE_VERIFY_12, OLD_RELADR),
    row(0xaf, Operation::Verify, Access::Read, VERIFY_12, OLD_RELADR),
    row(0xb7, Operation::ReadDefects, Access::Read, &[0x1f, 0, 0, 0, 0, A, A, A, A, 0, 0], &[]),
];

const PERSISTENT_IN: &[u8] = &[0, 0, 0, 0, 0, 0, A, A, 0];
const PERSISTENT_OUT: &[u8] = &[0, A, 0, 0, A, A, A, A, 0];
const MEDIA_12: &[u8] = &[0x18, A, A, A, A, A, A, A, A, 0, 0];
const MEDIA_16: &[u8] = &[0x18, A, A, A, A, A, A, A, A, A, A, A, A, 0, 0];
const VERIFY_12: &[u8] = &[0x16, A, A, A, A, A, A, A, A, 0, 0];
const VERIFY_16: &[u8] = &[0x16, A, A, A, A, A, A, A, A, A, A, A, A, 0, 0];
const WRITE_VERIFY_12: &[u8] = &[0x12, A, A, A, A, A, A, A, A, 0, 0];
const WRITE_VERIFY_16: &[u8] = &[0x12, A, A, A, A, A, A, A, A, A, A, A, A, 0, 0];
const CACHE_16: &[u8] = &[0x02, A, A, A, A, A, A, A, A, A, A, A, A, 0, 0];

impl Row {
    /// The CDB's length in bytes.
    pub fn length(&self) -> usize {
        self.usage.len() + 1
    }

    /// What reservations ask of this command. RESERVE, RELEASE and PERSISTENT RESERVE are exempt, as they are judged
    /// when they are executed.
    pub fn access(&self, cdb: Cdb) -> Access {
        match self.operation {
            // SPC-4 5.13.1, table 66: with START, no power condition and no ejection it changes nothing that a
            // persistent reservation guards. SCSI-2 knows no such exception.
            Operation::StartStop if cdb.bit(4, 0x01) => Access::Look,
            _ => self.access,
        }
    }

    /// CDB usage data (SPC-4 6.35.3): a bit is set where the unit looks at it; operation code and service
    /// action as they are.
    pub fn usage_data(&self) -> Vec<u8> {
        let mut data = vec![self.opcode];
        data.extend_from_slice(self.usage);
        if let (Some(service_action), Some(byte)) = (self.service_action, data.get_mut(1)) {
            *byte |= service_action;
        }
        data
    }

    /// Refuses bits that this command does not know.
    fn check_reserved(&self, cdb: Cdb) -> Result<(), Sense> {
        for (at, &usage) in self.usage.iter().enumerate().map(|(at, usage)| (at + 1, usage)) {
            let action = if at == 1 && self.service_action.is_some() { 0x1f } else { 0 };
            let old =
                self.ignored.iter().filter(|(byte, _)| *byte == at).fold(0, |bits, (_, old)| bits | old);
            let wrong = cdb.byte(at) & !(usage | action | old);
            if wrong != 0 {
                return Err(Sense::field_in_cdb(at as u16, Some(7 - wrong.leading_zeros() as u8)));
            }
        }
        Ok(())
    }
}

/// The row of a CDB, whose unknown bits are then known to be zero.
pub(super) fn find(cdb: Cdb) -> Result<&'static Row, Sense> {
    let mut known = false;
    let first = ROWS.partition_point(|row| row.opcode < cdb.opcode());
    for row in ROWS.iter().skip(first).take_while(|row| row.opcode == cdb.opcode()) {
        known = true;
        if row.service_action.is_none_or(|action| action == cdb.service_action()) {
            row.check_reserved(cdb)?;
            return Ok(row);
        }
    }
    // SPC-4 4.3.1: a service action that is not supported is an invalid field of a known operation code.
    Err(if known { Sense::field_in_cdb(1, Some(4)) } else { Sense::INVALID_OPCODE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_ascending_and_as_long_as_their_operation_code_says() {
        for pair in ROWS.windows(2) {
            assert!((pair[0].opcode, pair[0].service_action) < (pair[1].opcode, pair[1].service_action));
        }
        for row in ROWS {
            let length = match row.opcode >> 5 {
                0 => 6,
                1 | 2 => 10,
                4 => 16,
                5 => 12,
                group => panic!("group {group} is not used"),
            };
            assert_eq!(row.length(), length, "{row:?}");
            assert_eq!(row.usage.last(), Some(&0), "NACA is refused: {row:?}");
        }
    }

    #[test]
    fn every_bit_outside_usage_and_ignored_is_refused_with_a_pointer_to_it() {
        for row in ROWS {
            let mut cdb = vec![0; 16];
            cdb[0] = row.opcode;
            cdb[1] = row.service_action.unwrap_or(0);
            for at in 1..row.length() {
                for bit in 0..8 {
                    let action = if at == 1 && row.service_action.is_some() { 0x1f } else { 0 };
                    if action >> bit & 1 == 1 {
                        continue;
                    }
                    let mut cdb = cdb.clone();
                    cdb[at] |= 1 << bit;
                    let used = row.usage_data()[at] >> bit & 1 == 1;
                    let old = row.ignored.iter().any(|(byte, bits)| *byte == at && bits >> bit & 1 == 1);
                    assert!(!(used && old), "{row:?}");
                    let found = find(Cdb::new(&cdb)).map(|row| row.opcode);
                    let expected = if used || old {
                        Ok(row.opcode)
                    } else {
                        Err(Sense::field_in_cdb(at as u16, Some(bit)))
                    };
                    assert_eq!(found, expected, "{row:?} byte {at} bit {bit}");
                }
            }
        }
    }
}
