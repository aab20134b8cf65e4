//! Answers for who the sessions with a unit are: the site itself, or the site in the name of one host's nexus.
//!
//! A session's initiator port (name and ISID, RFC 7143 §4.4.1) must be the same after every restart, or reservations
//! that the unit kept for it would have no owner; and it must differ between hosts, sites and volumes, or a login of
//! the one would end the session of the other (session reinstatement, RFC 7143 §6.3.5). The name is that of the host,
//! the ISID that of its nexus: for the unit, too, all nexuses of a host are one initiator's, and so one third party.

use biplex_engine::{HostId, Nexus, SiteId, VolumeId};

/// Longest iSCSI name (RFC 7143 §4.2.7.1).
pub const NAME_BYTES_MAX: usize = 223;
/// ISID of the session through which data moves for a third party that has none of its own. No host has it: theirs have
/// 48 bits.
const STAND_IN: u64 = u64::MAX;

/// ISID of the nexus from which a site looks at what the unit keeps; it never has anything there.
const ONLOOKER: u64 = u64::MAX - 1;

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
    // T = 10b, "random" (RFC 7143 §11.12.5).
    match port {
        Port::Site => {
            let whose = format!(":store.{site}");
            let [a, b, c, d] = volume.0.to_be_bytes();
            // The volume keeps two stores within one target apart.
            (format!("{}{whose}", base(target, NAME_BYTES_MAX - whose.len())), [0x80, a, b, c, d, 1])
        }
        Port::Host(nexus) => {
            let Nexus { host, isid, site: at } = nexus;
            // 40 bits are free, and a nexus has 49: FNV-1a of them.
            let mark = HostId::of_name(&format!("{isid:016x}.{at}")).0;
            let [.., a, b, c, d, e] = mark.to_be_bytes();
            (host_name(target, site, volume, host), [0x80, a, b, c, d, e])
        }
    }
}

/// The name that all nexuses of a host have at a unit.
fn host_name(target: &str, site: SiteId, volume: VolumeId, host: HostId) -> String {
    let whose = format!(":store.{site}.{}.{host}", volume.0);
    format!("{}{whose}", base(target, NAME_BYTES_MAX - whose.len()))
}

/// Who a host is at a unit that is one of ours: what it calls this host as a third party.
pub(crate) fn host_at_unit(target: &str, site: SiteId, volume: VolumeId, host: HostId) -> HostId {
    HostId::of_name(&host_name(target, site, volume, host))
}

/// The nexus of a third party that `site` itself stands in for.
pub(crate) fn stand_in(host: HostId, site: SiteId) -> Nexus {
    Nexus { host, isid: STAND_IN, site }
}

/// Whether a nexus is a [`stand_in`].
pub(crate) fn is_stand_in(nexus: Nexus) -> bool {
    nexus.isid == STAND_IN
}

/// The nexus from which `site` looks at a unit for an operator.
pub(crate) fn onlooker(site: SiteId) -> Nexus {
    Nexus { host: HostId::of_name("biplex locks"), isid: ONLOOKER, site }
}

/// Whether a nexus is an [`onlooker`].
pub(crate) fn is_onlooker(nexus: Nexus) -> bool {
    nexus.isid == ONLOOKER
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
        // Never change this: a reservation kept by a unit belongs to this name and ISID.
        assert_eq!(name, "iqn.2026-11.io.biplex:p:store.a.7.0000000000000abc");
        assert_eq!(isid, [0x80, 0x8c, 0x79, 0x6b, 0x18, 0xfa]);
        // All nexuses of a host are one initiator's, and which host it is the unit can be told.
        for other in
            [Nexus { isid: 5, ..nexus }, Nexus { site: SiteId::A, ..nexus }, stand_in(nexus.host, SiteId::A)]
        {
            let port = initiator_port("iqn.2026-11.io.biplex:p", SiteId::A, VolumeId(7), Port::Host(other));
            assert_eq!(port.0, name);
            assert_ne!(port.1, isid);
        }
        let there = host_at_unit("iqn.2026-11.io.biplex:p", SiteId::A, VolumeId(7), nexus.host);
        assert_eq!(there, HostId::of_name(&name));
    }
}
