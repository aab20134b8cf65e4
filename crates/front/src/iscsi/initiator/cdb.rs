//! Spells the few CDBs that the initiator's users need (SPC-4, SBC-3).

/// A unit's number as an 8-byte LUN (SAM-5 4.7: peripheral addressing below 256, flat above).
pub fn lun(number: u16) -> u64 {
    u64::from(if number < 256 { number } else { 0x4000 | (number & 0x3fff) }) << 48
}

/// READ(16) (SBC-3 5.13).
pub fn read16(lba: u64, blocks: u32, fua: bool) -> [u8; 16] {
    transfer16(0x88, lba, blocks, fua)
}

/// WRITE(16) (SBC-3 5.36).
pub fn write16(lba: u64, blocks: u32, fua: bool) -> [u8; 16] {
    transfer16(0x8a, lba, blocks, fua)
}

/// SYNCHRONIZE CACHE(16) over the whole unit (SBC-3 5.22).
pub fn synchronize_cache16() -> [u8; 16] {
    transfer16(0x91, 0, 0, false)
}

/// TEST UNIT READY (SPC-4 6.47).
pub fn test_unit_ready() -> [u8; 16] {
    [0; 16]
}

/// READ CAPACITY(16) with room for 32 bytes (SBC-3 5.16).
pub fn read_capacity16() -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1], cdb[13]) = (0x9e, 0x10, 32);
    cdb
}

/// INQUIRY; with a page, of vital product data (SPC-4 6.6).
pub fn inquiry(page: Option<u8>, allocation: u16) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1], cdb[2]) = (0x12, u8::from(page.is_some()), page.unwrap_or(0));
    cdb[3..5].copy_from_slice(&allocation.to_be_bytes());
    cdb
}

/// COMPARE AND WRITE (SBC-3 5.2); its data is what is compared, then what is written.
pub fn compare_and_write(lba: u64, blocks: u8) -> [u8; 16] {
    let mut cdb = transfer16(0x89, lba, 0, false);
    cdb[13] = blocks;
    cdb
}

/// RESERVE(6) of the whole unit (SPC-2 7.21).
pub fn reserve6() -> [u8; 16] {
    short(0x16, 0, 0, 0)
}

/// RELEASE(6) of the whole unit (SPC-2 7.22).
pub fn release6() -> [u8; 16] {
    short(0x17, 0, 0, 0)
}

/// RESERVE(6) of extents: its data is `list_bytes` of elements (SCSI-2 9.2.12).
pub fn reserve6_extents(id: u8, list_bytes: u16) -> [u8; 16] {
    let [high, low] = list_bytes.to_be_bytes();
    let mut cdb = short(0x16, 0x01, id, high);
    cdb[4] = low;
    cdb
}

/// RELEASE(6) of extents (SCSI-2 9.2.11).
pub fn release6_extents(id: u8) -> [u8; 16] {
    short(0x17, 0x01, id, 0)
}

/// RESERVE(10) or RELEASE(10) (SPC-2 7.20, 7.21): of extents with this id, for the third party that the list of
/// `list_bytes` begins with.
pub fn reserve10(release: bool, extents: Option<u8>, third_party: bool, list_bytes: u16) -> [u8; 16] {
    let mut cdb = short(if release { 0x57 } else { 0x56 }, 0, extents.unwrap_or(0), 0);
    // Extent; LongID and 3rdPty.
    cdb[1] = u8::from(extents.is_some()) | if third_party { 0x12 } else { 0 };
    cdb[7..9].copy_from_slice(&list_bytes.to_be_bytes());
    cdb
}

/// One element of a list of extents: kind 0 read shared, 1 write exclusive, 2 read exclusive, 3 exclusive access.
pub fn extent_element(kind: u8, lba: u32, blocks: u32) -> [u8; 8] {
    let ([_, b0, b1, b2], [l0, l1, l2, l3]) = (blocks.to_be_bytes(), lba.to_be_bytes());
    [kind, b0, b1, b2, l0, l1, l2, l3]
}

/// VERIFY(16) of blocks with nothing to compare them with (SBC-3 5.31).
pub fn verify16(lba: u64, blocks: u32) -> [u8; 16] {
    transfer16(0x8f, lba, blocks, false)
}

/// MODE SELECT(6) of no parameters, which changes nothing (SPC-4 6.11).
pub fn mode_select6_of_nothing() -> [u8; 16] {
    short(0x15, 0x10, 0, 0)
}

/// PERSISTENT RESERVE IN's service actions (SPC-4 6.15.1): the registered keys.
pub const READ_KEYS: u8 = 0x00;
/// The reservation and its holder's key.
pub const READ_RESERVATION: u8 = 0x01;
/// What the unit can.
pub const REPORT_CAPABILITIES: u8 = 0x02;
/// Every registration with its initiator port.
pub const READ_FULL_STATUS: u8 = 0x03;

/// PERSISTENT RESERVE IN (SPC-4 6.15): 0 READ KEYS, 1 READ RESERVATION, 2 REPORT CAPABILITIES, 3 READ FULL STATUS.
pub fn persistent_reserve_in(service_action: u8, allocation: u16) -> [u8; 16] {
    let mut cdb = short(0x5e, service_action, 0, 0);
    cdb[7..9].copy_from_slice(&allocation.to_be_bytes());
    cdb
}

/// PERSISTENT RESERVE OUT with a parameter list of 24 bytes (SPC-4 6.16).
pub fn persistent_reserve_out(service_action: u8, kind: u8) -> [u8; 16] {
    let mut cdb = short(0x5f, service_action, kind, 0);
    cdb[8] = 24;
    cdb
}

/// Its parameter list; `aptpl`: survives power loss.
pub fn persistent_parameters(key: u64, service_action_key: u64, aptpl: bool) -> [u8; 24] {
    let mut list = [0; 24];
    list[..8].copy_from_slice(&key.to_be_bytes());
    list[8..16].copy_from_slice(&service_action_key.to_be_bytes());
    list[20] = u8::from(aptpl);
    list
}

fn short(operation: u8, one: u8, two: u8, three: u8) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1], cdb[2], cdb[3]) = (operation, one, two, three);
    cdb
}

fn transfer16(operation: u8, lba: u64, blocks: u32, fua: bool) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = operation;
    cdb[1] = u8::from(fua) << 3;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}
