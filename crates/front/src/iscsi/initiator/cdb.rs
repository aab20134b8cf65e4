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

fn transfer16(operation: u8, lba: u64, blocks: u32, fua: bool) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = operation;
    cdb[1] = u8::from(fua) << 3;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}
