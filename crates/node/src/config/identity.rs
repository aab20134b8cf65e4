//! Answers for the numbers that both sites derive from names: pair, volume, unit. Equal config gives equal identity
//! at both sites, in every release: each number is a prefix of SHA-256 over a label, a zero byte and the names
//! (zero bytes between them). Never change a label or the order; it would make every existing pair a stranger.

use biplex_engine::VolumeId;
use sha2::{Digest, Sha256};

/// Identity of the pair, from the target name.
pub fn pair_id(target: &str) -> u64 {
    prefix("biplex pair", &[target])
}

/// The volume's number in records and messages, from its name.
pub fn volume_id(name: &str) -> VolumeId {
    VolumeId((prefix("biplex volume", &[name]) >> 32) as u32)
}

/// Unit serial number (SPC-4 7.8.15) and NAA 3 identifier (SPC-4 7.8.6.6.5) of a volume. A configured serial
/// replaces target and name as the source of both.
pub fn unit_identity(target: &str, name: &str, serial: Option<&str>) -> (String, u64) {
    let hash = match serial {
        Some(serial) => prefix("biplex serial", &[serial]),
        None => prefix("biplex unit", &[target, name]),
    };
    let naa = 3 << 60 | hash >> 4;
    (serial.map_or_else(|| format!("{hash:016x}"), str::to_owned), naa)
}

fn prefix(label: &str, names: &[&str]) -> u64 {
    let mut hash = Sha256::new();
    hash.update(label.as_bytes());
    for name in names {
        hash.update([0]);
        hash.update(name.as_bytes());
    }
    hash.finalize().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_never_change() {
        assert_eq!(pair_id("iqn.2026-11.io.biplex:pair1"), PAIR1);
        assert_eq!(volume_id("vol0"), VolumeId(VOL0));
        assert_eq!(unit_identity("iqn.2026-11.io.biplex:pair1", "vol0", None), (UNIT.to_owned(), NAA));
        let (serial, naa) = unit_identity("iqn.2026-11.io.biplex:pair1", "vol0", Some("S1"));
        assert_eq!(serial, "S1");
        assert_eq!(naa >> 60, 3);
    }

    const PAIR1: u64 = 0x482c5ca43cc5690f;
    const VOL0: u32 = 0xbfc91e14;
    const UNIT: &str = "7c16b37c4f7fc324";
    const NAA: u64 = 0x37c16b37c4f7fc32;
}
