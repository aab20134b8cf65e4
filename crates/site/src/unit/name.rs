//! Answers for who the sessions with a unit are: the site itself, or the site in the name of one host's nexus.
//!
//! A session's initiator port (name and ISID, RFC 7143 §4.4.1) must be the same after every restart, or reservations
//! that the unit kept for it would have no owner; and it must differ between hosts, sites and volumes, or a login of
//! the one would end the session of the other (session reinstatement, RFC 7143 §6.3.5).

use biplex_engine::{HostId, Nexus, SiteId, VolumeId};

/// Longest iSCSI name (RFC 7143 §4.2.7.1).
pub const NAME_BYTES_MAX: usize = 223;

/// Whose session with the unit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Port {
    /// The site's own.
    Site,
    /// The site's, in the name of a host's nexus.
    Host(Nexus),
}

/// Initiator name and ISID of a session that `site` of the pair `target` has with the store of `volume`.
pub fn initiator_port(target: &str, site: SiteId, volume: VolumeId, port: Port) -> (String, [u8; 6]) {
    let whose = match port {
        Port::Site => format!(":store.{site}"),
        Port::Host(nexus) => {
            let Nexus { host, isid, site: at } = nexus;
            format!(":store.{site}.{:016x}.{:012x}.{at}", host.0, isid & 0xffff_ffff_ffff)
        }
    };
    let [a, b, c, d] = volume.0.to_be_bytes();
    // T = 10b, "random" (RFC 7143 §11.12.5); the volume keeps two stores within one target apart.
    (format!("{}{whose}", base(target, NAME_BYTES_MAX - whose.len())), [0x80, a, b, c, d, 1])
}

/// A name of at most `room` bytes to which more can be appended, different for each target.
fn base(target: &str, room: usize) -> String {
    let name = match target.strip_prefix("iqn.") {
        Some(_) => target.to_owned(),
        // eui. and naa. names have a fixed length.
        None => format!("iqn.2026-11.io.biplex:{}", target.to_ascii_lowercase()),
    };
    if name.len() <= room {
        return name;
    }
    let mark = format!(".{:016x}", HostId::of_name(target).0);
    let kept = name.get(..room.saturating_sub(mark.len())).unwrap_or("iqn.2026-11.io.biplex:pair");
    format!("{kept}{mark}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ports_are_stable_valid_and_all_different() {
        let long = format!("iqn.2026-11.io.biplex:{}", "x".repeat(201));
        let long_too = format!("iqn.2026-11.io.biplex:{}y", "x".repeat(200));
        let targets = ["iqn.2026-11.io.biplex:p", "eui.0123456789ABCDEF", &long, &long_too];
        let mut seen = BTreeSet::new();
        for target in targets {
            for site in SiteId::BOTH {
                for volume in [VolumeId(1), VolumeId(2)] {
                    let nexus = |host, isid, site| Port::Host(Nexus { host: HostId(host), isid, site });
                    let ports = [
                        Port::Site,
                        nexus(1, 2, SiteId::A),
                        nexus(1, 2, SiteId::B),
                        nexus(1, 3, SiteId::A),
                        nexus(2, 2, SiteId::A),
                    ];
                    for port in ports {
                        let (name, isid) = initiator_port(target, site, volume, port);
                        assert!(name.len() <= NAME_BYTES_MAX && name.starts_with("iqn."), "{name}");
                        let legal =
                            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.:".contains(c);
                        assert!(name.chars().all(legal), "{name}");
                        assert!(seen.insert((name, isid)), "{target} {site} {volume} {port:?}");
                    }
                }
            }
        }
        let nexus = Nexus { host: HostId(0xabc), isid: 0x8000_0000_0001, site: SiteId::B };
        let (name, isid) =
            initiator_port("iqn.2026-11.io.biplex:p", SiteId::A, VolumeId(7), Port::Host(nexus));
        // Never change this: a reservation kept by a unit belongs to this name.
        assert_eq!(name, "iqn.2026-11.io.biplex:p:store.a.0000000000000abc.800000000001.b");
        assert_eq!(isid, [0x80, 0, 0, 0, 7, 1]);
    }
}
