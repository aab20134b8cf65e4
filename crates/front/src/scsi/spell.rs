//! Spells a request back as the command that asks it of a unit which keeps reservations itself (E5.1): the other
//! direction of `reserve` and `persistent`. Says what cannot be asked of such a unit, and why.

use crate::iscsi::initiator::{persistent_parameters, persistent_reserve_out, release6, reserve6};
use biplex_engine::reserve::{Request, Verdict};
use bytes::Bytes;

/// A CDB and its parameter list.
pub type Spelt = ([u8; 16], Bytes);

/// The command for this request, in the nexus that asks; an error is what the host is told instead.
///
/// Each of these holds for a nexus that stands for another at another target port, so nothing that names ports or third
/// parties can be handed on as it is:
/// - Extents and third parties: no command that moves nothing asks a unit whether it would let another write just these
///   blocks, and a third party has a nexus of its own here.
/// - SPEC_I_PT, ALL_TG_PT, REGISTER AND MOVE: the unit's ports and initiators are not those that the host names.
///
/// What releases SCSI-2 reservations (a lost nexus, a reset) is a RELEASE in each nexus concerned.
pub fn spell(request: &Request) -> Result<Spelt, Verdict> {
    let whole = |third_party: bool, extents: bool| match (third_party, extents) {
        (false, false) => Ok(()),
        // SCSI-2 9.2.12: 3rdPty and Extent are in byte 1.
        (true, _) | (_, true) => Err(Verdict::BadCdb(1)),
    };
    Ok(match request {
        Request::Reserve { third_party, extents } => {
            whole(third_party.is_some(), extents.is_some())?;
            (reserve6(), Bytes::new())
        }
        Request::Release { third_party, extents } => {
            whole(third_party.is_some(), extents.is_some())?;
            (release6(), Bytes::new())
        }
        // SPC-4 6.16.3: SPEC_I_PT and ALL_TG_PT are in byte 20.
        Request::Register { all_ports: true, .. } => return Err(Verdict::BadParameter(20)),
        Request::Register { also, .. } if !also.is_empty() => return Err(Verdict::BadParameter(20)),
        Request::Register { key, new_key, aptpl, .. } => {
            let action = if key.is_some() { 0x00 } else { 0x06 };
            persistent(action, 0, key.unwrap_or(0), *new_key, *aptpl)
        }
        Request::ReservePersistent { key, kind } => persistent(0x01, *kind as u8, *key, 0, false),
        Request::ReleasePersistent { key, kind } => persistent(0x02, *kind as u8, *key, 0, false),
        Request::Clear { key } => persistent(0x03, 0, *key, 0, false),
        Request::Preempt { key, victim, kind, abort } => {
            persistent(if *abort { 0x05 } else { 0x04 }, *kind as u8, *key, *victim, false)
        }
        Request::Move { .. } => return Err(Verdict::BadCdb(1)),
        Request::Reset(_) | Request::NexusLost | Request::SiteStarted { .. } => (release6(), Bytes::new()),
        // Mode parameters are the pair's own.
        Request::SetModes(_) => return Err(Verdict::BadCdb(0)),
    })
}

fn persistent(action: u8, kind: u8, key: u64, other: u64, aptpl: bool) -> Spelt {
    let list = persistent_parameters(key, other, aptpl);
    (persistent_reserve_out(action, kind), Bytes::copy_from_slice(&list))
}

#[cfg(test)]
mod tests {
    use super::super::cdb::Cdb;
    use super::super::{PortConfig, persistent as read, reserve};
    use super::*;
    use biplex_engine::reserve::{Claim, ExtentKind, Extents, PersistentKind, Registrant};
    use biplex_engine::{Extent, HostId, Lba, Nexus, SiteId};
    use std::sync::Arc;

    fn register(key: Option<u64>, all_ports: bool, also: Vec<Registrant>) -> Request {
        Request::Register { key, new_key: 7, aptpl: true, all_ports, name: "iqn.a:b".into(), also }
    }

    #[test]
    fn what_is_spelt_is_what_was_read() {
        let port =
            |site| PortConfig { site, target: "iqn.2026-11.a:t".into(), group: 1, relative: site as u16 + 1 };
        let (own, peer) = (port(SiteId::A), port(SiteId::B));
        let name: Arc<str> = "iqn.a:b".into();
        let asker = read::Asker { name: &name, known: &|_| Vec::new(), ports: [&own, &peer] };
        let kind = PersistentKind::WriteExclusiveRegistrants;
        for request in [
            register(Some(0), false, Vec::new()),
            register(Some(9), false, Vec::new()),
            register(None, false, Vec::new()),
            Request::ReservePersistent { key: 7, kind },
            Request::ReleasePersistent { key: 7, kind },
            Request::Clear { key: 7 },
            Request::Preempt { key: 7, victim: 8, kind, abort: false },
            Request::Preempt { key: 7, victim: 8, kind, abort: true },
        ] {
            let (cdb, list) = spell(&request).expect("it can be asked");
            assert_eq!(read::out(Cdb::new(&cdb), &list, &asker), Ok(request));
        }
        let whole = Request::Reserve { third_party: None, extents: None };
        let (cdb, list) = spell(&whole).expect("it can be asked");
        assert_eq!(reserve::reserve(Cdb::new(&cdb), &list, 100), Ok(whole));
        let free = Request::Release { third_party: None, extents: None };
        let (cdb, list) = spell(&free).expect("it can be asked");
        assert_eq!(reserve::release(Cdb::new(&cdb), &list), Ok(free));
        assert_eq!(spell(&Request::NexusLost), Ok((release6(), Bytes::new())));
    }

    #[test]
    fn what_names_ports_parties_or_extents_is_refused_where_it_says_so() {
        let extent = Extent::new(Lba(0), 8).expect("some blocks");
        let claims = vec![Claim { kind: ExtentKind::WriteExclusive, extent }];
        let extents = Request::Reserve { third_party: None, extents: Some(Extents { id: 1, claims }) };
        let third = Request::Reserve { third_party: Some(HostId(1)), extents: None };
        let to =
            Registrant { nexus: Nexus { host: HostId(1), isid: 1, site: SiteId::A }, name: "iqn.a:c".into() };
        let moved = Request::Move { key: 1, new_key: 2, unregister: false, aptpl: false, to: to.clone() };
        for request in [extents, third, moved, Request::Release { third_party: None, extents: Some(1) }] {
            assert_eq!(spell(&request), Err(Verdict::BadCdb(1)), "{}", request.name());
        }
        for request in [register(Some(0), true, Vec::new()), register(Some(0), false, vec![to])] {
            assert_eq!(spell(&request), Err(Verdict::BadParameter(20)));
        }
    }
}
