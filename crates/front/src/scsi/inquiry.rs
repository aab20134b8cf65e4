//! Who the unit is (SPC-4 6.6, 7.8; SBC-3 6.6): INQUIRY and its vital product data pages.
//!
//! Everything that identifies the unit comes from its configuration and is the same at both sites; only the
//! target port descriptors at the end of page 83h tell the sites apart. Replies are built in full; the caller
//! cuts them.

use super::block::{
    MAX_TRANSFER_BLOCKS, MAX_UNMAP_BLOCKS, MAX_UNMAP_DESCRIPTORS, MAX_WRITE_SAME_BLOCKS, PHYSICAL_EXPONENT,
};
use super::cdb::Cdb;
use super::sense::Sense;
use super::{PortConfig, Unit, UnitConfig};

const VENDOR: &[u8; 8] = b"BIPLEX  ";
const PRODUCT: &[u8; 16] = b"ACTIVE PAIR DISK";
/// The same at both sites even while one is being upgraded: hosts compare the first 36 bytes over their
/// paths.
const REVISION: &[u8; 4] = b"0001";
/// Byte 0 where no unit is: peripheral qualifier 011b, device type 1Fh.
const NOWHERE: u8 = 0x7f;
/// SPC-4, SBC-3, iSCSI, each without a revision: the form that most hosts know.
const VERSION_DESCRIPTORS: [u16; 3] = [0x0460, 0x04c0, 0x0960];
const PAGES: [u8; 7] = [0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2];
/// A designator's length is one byte, and SCSI name strings end in a multiple of four (SPC-4 7.8.6.11).
const DESIGNATOR_MAX: usize = 252;

/// INQUIRY, in full; `unit` is `None` for a LUN that does not exist.
pub(super) fn inquiry(cdb: Cdb, unit: Option<&Unit>, port: &PortConfig) -> Result<Vec<u8>, Sense> {
    let page = cdb.byte(2);
    if !cdb.bit(1, 0x01) {
        // SPC-4 6.6.1: a page code without EVPD.
        return if page == 0 { Ok(standard(unit.is_some())) } else { Err(Sense::field_in_cdb(2, None)) };
    }
    let Some(unit) = unit else {
        return if page == 0 { Ok(vec![NOWHERE, 0, 0, 1, 0]) } else { Err(Sense::field_in_cdb(2, None)) };
    };
    let body = match page {
        0x00 => PAGES.to_vec(),
        0x80 => capped(unit.config.serial.as_bytes()).to_vec(),
        0x83 => device_identification(&unit.config, port),
        0x86 => extended_inquiry(),
        0xb0 => block_limits(unit.swaps),
        0xb1 => block_device_characteristics(),
        0xb2 => logical_block_provisioning(),
        _ => return Err(Sense::field_in_cdb(2, None)),
    };
    let mut data = vec![0, page];
    data.extend_from_slice(&(body.len() as u16).to_be_bytes());
    data.extend_from_slice(&body);
    Ok(data)
}

fn standard(exists: bool) -> Vec<u8> {
    let mut data = vec![
        if exists { 0x00 } else { NOWHERE },
        0x00, // RMB 0
        0x06, // SPC-4
        0x12, // HISUP, response data format 2
        91,   // 96 bytes in all
        0x10, // TPGS 01b: implicit asymmetric access
        0x10, // MULTIP
        0x02, // CMDQUE
    ];
    data.extend_from_slice(VENDOR);
    data.extend_from_slice(PRODUCT);
    data.extend_from_slice(REVISION);
    data.resize(58, 0);
    for descriptor in VERSION_DESCRIPTORS {
        data.extend_from_slice(&descriptor.to_be_bytes());
    }
    data.resize(96, 0);
    data
}

fn capped(bytes: &[u8]) -> &[u8] {
    bytes.get(..DESIGNATOR_MAX).unwrap_or(bytes)
}

/// Page 83h (SPC-4 7.8.6). First the unit, the same at both sites; then this site's port.
fn device_identification(unit: &UnitConfig, port: &PortConfig) -> Vec<u8> {
    let mut data = Vec::new();
    designator(&mut data, 0x01, 0x03, &unit.naa.to_be_bytes());
    designator(&mut data, 0x02, 0x01, &[VENDOR, unit.serial.as_bytes()].concat());
    designator(&mut data, 0x03, 0x08, &name_string(&format!("naa.{:016X}", unit.naa)));
    // PIV, protocol identifier 5h (iSCSI), association 01b: target port.
    let [high, low] = port.relative.to_be_bytes();
    designator(&mut data, 0x51, 0x94, &[0, 0, high, low]);
    let [high, low] = port.group.to_be_bytes();
    designator(&mut data, 0x51, 0x95, &[0, 0, high, low]);
    designator(&mut data, 0x53, 0x98, &name_string(&format!("{},t,{:#06x}", port.target, port.group)));
    designator(&mut data, 0x53, 0xa8, &name_string(&port.target)); // association 10b: target device
    data
}

fn designator(data: &mut Vec<u8>, code_set: u8, kind: u8, bytes: &[u8]) {
    let bytes = capped(bytes);
    data.extend_from_slice(&[code_set, kind, 0, bytes.len() as u8]);
    data.extend_from_slice(bytes);
}

/// SCSI name string: null-terminated, null-padded to a multiple of four.
fn name_string(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize((bytes.len() / 4 + 1) * 4, 0);
    bytes
}

/// Page 86h (SPC-4 7.8.7): simple task attribute only, no protection information, no volatile cache.
fn extended_inquiry() -> Vec<u8> {
    let mut body = vec![0; 60];
    body[1] = 0x01; // SIMPSUP
    body
}

/// Page B0h (SBC-3 6.6.4).
fn block_limits(swaps: bool) -> Vec<u8> {
    let mut body = Vec::with_capacity(60);
    body.push(0x01); // WSNZ: WRITE SAME of zero blocks, easily meant as nothing, does not mean all
    body.push(if swaps { 0xff } else { 0 }); // MAXIMUM COMPARE AND WRITE LENGTH; 0: not supported
    body.extend_from_slice(&(1u16 << PHYSICAL_EXPONENT).to_be_bytes()); // optimal transfer granularity
    body.extend_from_slice(&(MAX_TRANSFER_BLOCKS as u32).to_be_bytes());
    body.extend_from_slice(&2048u32.to_be_bytes()); // optimal transfer length: 1 MiB
    body.extend_from_slice(&0u32.to_be_bytes()); // maximum prefetch length: no limit
    body.extend_from_slice(&(MAX_UNMAP_BLOCKS as u32).to_be_bytes());
    body.extend_from_slice(&(MAX_UNMAP_DESCRIPTORS as u32).to_be_bytes());
    body.extend_from_slice(&(1u32 << PHYSICAL_EXPONENT).to_be_bytes()); // optimal unmap granularity
    body.extend_from_slice(&0x8000_0000u32.to_be_bytes()); // UGAVALID, alignment 0
    body.extend_from_slice(&MAX_WRITE_SAME_BLOCKS.to_be_bytes());
    body.extend_from_slice(&(MAX_TRANSFER_BLOCKS as u32).to_be_bytes()); // maximum atomic transfer length
    body.resize(60, 0); // no atomic alignment, granularity, boundaries
    body
}

/// Page B1h (SBC-3 6.6.2): not a rotating medium.
fn block_device_characteristics() -> Vec<u8> {
    let mut body = vec![0; 60];
    body[1] = 0x01;
    body
}

/// Page B2h (SBC-3 6.6.5): LBPU, LBPWS, LBPWS10, LBPRZ; thin provisioned.
fn logical_block_provisioning() -> Vec<u8> {
    vec![0, 0xe4, 0x02, 0]
}

#[cfg(test)]
mod tests {
    use super::super::mode::Modes;
    use super::*;
    use biplex_engine::{SiteId, VolumeId};

    fn unit() -> Unit {
        let config = UnitConfig {
            volume: VolumeId(7),
            lun: 0,
            name: "vol0".into(),
            serial: "AB12".into(),
            naa: 0x3123_4567_89ab_cdef,
            blocks: 2048,
        };
        Unit { config, modes: Modes::default(), swaps: true }
    }

    fn port(site: SiteId) -> PortConfig {
        let (group, relative) = if site == SiteId::A { (1, 1) } else { (2, 257) };
        PortConfig { site, target: "iqn.2026-11.io.biplex:pair1".into(), group, relative }
    }

    fn page(code: u8, site: SiteId) -> Vec<u8> {
        inquiry(Cdb::new(&[0x12, 1, code, 0, 255, 0]), Some(&unit()), &port(site)).expect("a known page")
    }

    #[test]
    fn standard_inquiry_is_the_same_at_both_sites_and_claims_what_is_built() {
        let ask = |site| inquiry(Cdb::new(&[0x12, 0, 0, 0, 96, 0]), Some(&unit()), &port(site));
        let data = ask(SiteId::A).expect("standard data");
        assert_eq!(data.len(), 96);
        assert_eq!(data[..8], [0, 0, 6, 0x12, 91, 0x10, 0x10, 2]);
        assert_eq!(&data[8..36], b"BIPLEX  ACTIVE PAIR DISK0001");
        assert_eq!(data[58..66], [0x04, 0x60, 0x04, 0xc0, 0x09, 0x60, 0, 0]);
        assert_eq!(Ok(data), ask(SiteId::B));
    }

    #[test]
    fn page_83h_starts_with_the_same_unit_and_ends_with_each_sites_port() {
        let (a, b) = (page(0x83, SiteId::A), page(0x83, SiteId::B));
        let unit_part = [
            &[1, 3, 0, 8, 0x31, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 2, 1, 0, 12][..],
            b"BIPLEX  AB12\x03\x08\x00\x18naa.3123456789ABCDEF\0\0\0\0",
        ]
        .concat();
        assert_eq!(a[4..4 + unit_part.len()], unit_part);
        assert_eq!(b[4..4 + unit_part.len()], unit_part);
        let ports = &b[4 + unit_part.len()..];
        let expected = [
            &[0x51, 0x94, 0, 4, 0, 0, 1, 1, 0x51, 0x95, 0, 4, 0, 0, 0, 2, 0x53, 0x98, 0, 40][..],
            b"iqn.2026-11.io.biplex:pair1,t,0x0002\0\0\0\0\x53\xa8\x00\x1c",
            b"iqn.2026-11.io.biplex:pair1\0",
        ]
        .concat();
        assert_eq!(ports, expected);
        assert_eq!(usize::from(u16::from_be_bytes([a[2], a[3]])), a.len() - 4);
        assert_ne!(a, b);
    }

    #[test]
    fn every_listed_page_can_be_read_and_pages_ascend() {
        let listed = page(0, SiteId::A);
        assert_eq!(listed, [0, 0, 0, 7, 0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2]);
        for code in &listed[4..] {
            let data = page(*code, SiteId::A);
            assert_eq!(data[1], *code);
            assert_eq!(usize::from(u16::from_be_bytes([data[2], data[3]])), data.len() - 4);
        }
        let missing = inquiry(Cdb::new(&[0x12, 1, 0x8f, 0, 255, 0]), Some(&unit()), &port(SiteId::A));
        assert_eq!(missing, Err(Sense::field_in_cdb(2, None)));
    }

    #[test]
    fn limits_and_provisioning_are_spelt_as_sbc_says() {
        assert_eq!(page(0x80, SiteId::A), b"\0\x80\0\x04AB12");
        let limits = page(0xb0, SiteId::A);
        assert_eq!(limits[..8], [0, 0xb0, 0, 0x3c, 1, 0xff, 0, 8]);
        assert_eq!(limits[8..20], [0, 0, 0x20, 0, 0, 0, 8, 0, 0, 0, 0, 0]);
        assert_eq!(limits[20..36], [0, 0x10, 0, 0, 0, 0, 1, 0, 0, 0, 0, 8, 0x80, 0, 0, 0]);
        assert_eq!(limits[36..44], [0, 0, 0, 0, 0, 0, 0x80, 0]);
        assert_eq!(limits[44..64], [[0, 0, 0x20, 0], [0; 4], [0; 4], [0; 4], [0; 4]].concat());
        assert_eq!(limits.len(), 64);
        let without = Unit { swaps: false, ..unit() };
        let cdb = [0x12, 1, 0xb0, 0, 255, 0];
        let limits = inquiry(Cdb::new(&cdb), Some(&without), &port(SiteId::A)).expect("B0h");
        assert_eq!(limits[..8], [0, 0xb0, 0, 0x3c, 1, 0, 0, 8]);
        assert_eq!(page(0xb1, SiteId::A)[..6], [0, 0xb1, 0, 0x3c, 0, 1]);
        assert_eq!(page(0xb2, SiteId::A), [0, 0xb2, 0, 4, 0, 0xe4, 2, 0]);
        assert_eq!(page(0x86, SiteId::A)[..6], [0, 0x86, 0, 0x3c, 0, 1]);
    }

    #[test]
    fn names_of_any_length_fit_their_designators() {
        let mut long = unit();
        long.config.serial = "S".repeat(70_000);
        let data =
            inquiry(Cdb::new(&[0x12, 1, 0x83, 0, 255, 0]), Some(&long), &port(SiteId::A)).expect("83h");
        assert_eq!(usize::from(u16::from_be_bytes([data[2], data[3]])), data.len() - 4);
    }
}
