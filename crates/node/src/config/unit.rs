//! Answers for stores that are SCSI units: `store = "iscsi://[user%secret@]HOST:PORT/IQN/LUN"`, and for who keeps the
//! reservations of hosts. Never shows a secret.

use super::raw::Text;
use super::{Reading, check_iscsi_name};
use biplex_site::ChapConfig;
use biplex_site::unit::UnitAddress;
use std::net::Ipv6Addr;

const SCHEME: &str = "iscsi://";
const REMEDY: &str = "write iscsi://HOST:PORT/IQN/LUN as in \"iscsi://10.0.0.9:3260/iqn.2026-11.example:array/1\", with \
                      user%secret@ before HOST where the target demands CHAP";

impl Reading<'_> {
    /// The unit that a store names; `None` if it names a file or a block device, or none rightly.
    pub(super) fn unit(&mut self, store: &Text) -> Option<UnitAddress> {
        let rest = store.get_ref().strip_prefix(SCHEME)?;
        match address(rest) {
            Ok(unit) => Some(unit),
            Err(what) => {
                self.mistake(store.span(), format!("this store is no iSCSI unit: {what}"), REMEDY);
                None
            }
        }
    }

    /// `reservations` of a volume: whether its store keeps them.
    pub(super) fn kept_by_disk(&mut self, text: Option<&Text>, on_unit: bool) -> bool {
        match text.map(|text| (text, text.get_ref().as_str())) {
            None | Some((_, "pair")) => false,
            Some((_, "disk")) if on_unit => true,
            Some((text, "disk")) => {
                let what = "reservations = \"disk\" needs a store that keeps reservations: a SCSI unit";
                let remedy = "name a store = \"iscsi://…\", or say reservations = \"pair\" (the pair's own)";
                self.mistake(text.span(), what, remedy);
                false
            }
            Some((text, other)) => {
                let what = format!("reservations cannot be \"{other}\"");
                let remedy = "say \"pair\" (the pair keeps them, the default) or \"disk\" (the store's SCSI unit does)";
                self.mistake(text.span(), what, remedy);
                false
            }
        }
    }
}

/// Reads what follows "iscsi://". From the back, because a secret may hold any character.
fn address(rest: &str) -> Result<UnitAddress, String> {
    let (rest, lun) = rest.rsplit_once('/').ok_or("target and LUN are missing")?;
    // SAM-5 4.7.7.5: flat addressing has 14 bits.
    let lun = lun.parse().ok().filter(|lun| *lun < 0x4000);
    let lun = lun.ok_or("behind the last / stands no LUN from 0 to 16383")?;
    let (rest, target) = rest.rsplit_once('/').ok_or("target or LUN is missing")?;
    check_iscsi_name(target)?;
    let (login, portal) = match rest.rsplit_once('@') {
        Some((login, portal)) => (Some(login), portal),
        None => (None, rest),
    };
    let (host, port) = portal.rsplit_once(':').ok_or("the port is missing")?;
    let bare = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    if host.is_empty() || host.contains('/') || bare || portal.parse::<Ipv6Addr>().is_ok() {
        return Err("HOST is neither a name nor an address; an IPv6 address stands in []".into());
    }
    if port.parse().unwrap_or(0u16) == 0 {
        return Err("PORT is no number from 1 to 65535".into());
    }
    let chap = match login.map(|login| login.split_once('%')) {
        None => None,
        Some(Some((user, secret))) if !user.is_empty() && !secret.is_empty() => {
            Some(ChapConfig { user: user.to_owned(), secret: secret.to_owned(), mutual: None })
        }
        Some(_) => return Err("before @ there must be user%secret".into()),
    };
    Ok(UnitAddress { portal: portal.to_owned(), target: target.to_owned(), lun, chap })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_mistakes_told_without_the_secret() {
        let unit = address("10.0.0.9:3260/iqn.2026-11.example:array/1").expect("valid");
        assert_eq!(
            (unit.portal.as_str(), unit.target.as_str(), unit.lun),
            ("10.0.0.9:3260", "iqn.2026-11.example:array", 1)
        );
        let unit = address("me%se/cr@t%@[fd00::9]:3260/iqn.2026-11.example:array/300").expect("valid");
        let chap = unit.chap.as_ref().expect("chap");
        assert_eq!((chap.user.as_str(), chap.secret.as_str()), ("me", "se/cr@t%"));
        assert_eq!(unit.to_string(), "iscsi://[fd00::9]:3260/iqn.2026-11.example:array/300");
        for (bad, what) in [
            ("", "missing"),
            ("host:3260", "missing"),
            ("host:3260/iqn.2026-11.example:array", "no LUN"),
            ("host:3260/iqn.2026-11.example:array/x", "no LUN"),
            ("host:3260/iqn.2026-11.example:array/16384", "no LUN"),
            ("host:3260/Array/1", "not an iSCSI name"),
            ("host/iqn.2026-11.example:array/1", "port is missing"),
            ("host:0/iqn.2026-11.example:array/1", "PORT"),
            (":3260/iqn.2026-11.example:array/1", "HOST"),
            ("fd00::9:3260/iqn.2026-11.example:array/1", "HOST"),
            ("top-secret@host:3260/iqn.2026-11.example:array/1", "user%secret"),
            ("%top-secret@host:3260/iqn.2026-11.example:array/1", "user%secret"),
        ] {
            let said = address(bad).expect_err(bad);
            assert!(said.contains(what) && !said.contains("top-secret"), "{bad}: {said}");
        }
    }
}
