//! Spells a request back as the command that asks it of a unit which keeps reservations itself (E5.1): the other
//! direction of `reserve` and `persistent`. Says what cannot be asked of such a unit, and why.

use super::transport_id;
use crate::iscsi::initiator::{
    extent_element, persistent_parameters, persistent_reserve_out, release6, release6_extents, reserve6,
    reserve6_extents, reserve10,
};
use biplex_engine::reserve::{Extents, Registrant, Request, Verdict};
use biplex_engine::{HostId, Nexus};
use bytes::Bytes;

/// In byte 20 of PERSISTENT RESERVE OUT's parameters (SPC-4 6.16.3).
const SPEC_I_PT: u8 = 0x08;

/// A CDB and its parameter list.
pub type Spelt = ([u8; 16], Bytes);

/// What the unit can, and how it calls those whom a request names.
#[derive(Clone, Copy)]
pub struct Means<'a> {
    /// It reserves extents.
    pub extents: bool,
    /// It knows RESERVE(10) and RELEASE(10).
    pub ten: bool,
    /// It reserves for third parties, and calls a host so.
    pub third_party: Option<&'a dyn Fn(HostId) -> HostId>,
    /// Initiator name and ISID that a nexus has there.
    pub port: &'a dyn Fn(Nexus) -> (String, u64),
    /// RELATIVE TARGET PORT IDENTIFIER of its port that all nexuses use.
    pub target_port: Option<u16>,
}

/// The command for this request, in the nexus that asks; an error is what the host is told instead.
///
/// Each of these holds for a nexus that stands for another at another target port, so nothing that names initiators and
/// ports can be handed on as it is: they get the names that they have there. ALL_TG_PT is refused: the pair's ports are
/// two initiators' ports at one of the unit's, and no command registers two of these or none. Extents and third parties
/// are refused where the unit would not know them.
///
/// What releases SCSI-2 reservations (a lost nexus, a reset) is a RELEASE in each nexus concerned, of each that it may
/// have: of the unit, as it is spelt here, and of those for which the asker spells [`Request::Release`].
pub fn spell(request: &Request, means: Means) -> Result<Spelt, Verdict> {
    Ok(match request {
        Request::Reserve { third_party, extents } => {
            let id = extents.as_ref().map(|extents| extents.id);
            scsi2(false, *third_party, id, extents.as_ref().map_or(Vec::new(), elements), means)?
        }
        Request::Release { third_party, extents } => scsi2(true, *third_party, *extents, Vec::new(), means)?,
        // SPC-4 6.16.3: ALL_TG_PT is in byte 20.
        Request::Register { all_ports: true, .. } => return Err(Verdict::BadParameter(20)),
        Request::Register { key, new_key, aptpl, also, .. } => {
            let action = if key.is_some() { 0x00 } else { 0x06 };
            let spelt = persistent(action, 0, key.unwrap_or(0), *new_key, *aptpl);
            if also.is_empty() { spelt } else { with_ports(spelt, also, means) }
        }
        Request::ReservePersistent { key, kind } => persistent(0x01, *kind as u8, *key, 0, false),
        Request::ReleasePersistent { key, kind } => persistent(0x02, *kind as u8, *key, 0, false),
        Request::Clear { key } => persistent(0x03, 0, *key, 0, false),
        Request::Preempt { key, victim, kind, abort } => {
            persistent(if *abort { 0x05 } else { 0x04 }, *kind as u8, *key, *victim, false)
        }
        Request::Move { key, new_key, unregister, aptpl, to } => {
            let port = means.target_port.ok_or(Verdict::BadCdb(1))?;
            let mut list = [key.to_be_bytes(), new_key.to_be_bytes()].concat();
            list.extend_from_slice(&[0, u8::from(*unregister) << 1 | u8::from(*aptpl)]);
            list.extend_from_slice(&port.to_be_bytes());
            let id = transport_id(to.nexus, means);
            list.extend_from_slice(&(id.len() as u32).to_be_bytes());
            sized(persistent_reserve_out(0x07, 0), [list, id].concat())
        }
        Request::Reset(_) | Request::NexusLost | Request::SiteStarted { .. } => (release6(), Bytes::new()),
        // Mode parameters are the pair's own.
        Request::SetModes(_) => return Err(Verdict::BadCdb(0)),
    })
}

/// RESERVE or RELEASE: of 6 bytes where that says all.
fn scsi2(
    release: bool,
    third_party: Option<HostId>,
    extents: Option<u8>,
    elements: Vec<u8>,
    means: Means,
) -> Result<Spelt, Verdict> {
    // SCSI-2 9.2.12: 3rdPty and Extent are in byte 1.
    let refused = Verdict::BadCdb(1);
    if extents.is_some() && !means.extents {
        return Err(refused);
    }
    let mut list = Vec::new();
    if let Some(host) = third_party {
        let name = means.third_party.filter(|_| means.ten).ok_or(refused)?;
        list.extend_from_slice(&name(host).0.to_be_bytes());
    }
    list.extend_from_slice(&elements);
    let bytes = u16::try_from(list.len()).map_err(|_| Verdict::NoRoomToReserve)?;
    let cdb = match extents {
        None if third_party.is_none() && release => release6(),
        None if third_party.is_none() => reserve6(),
        Some(id) if !means.ten && release => release6_extents(id),
        Some(id) if !means.ten => reserve6_extents(id, bytes),
        Some(_) | None => reserve10(release, extents, third_party.is_some(), bytes),
    };
    Ok((cdb, list.into()))
}

/// The list of extents. One of more blocks than its three bytes can say came as one of none: up to the unit's end.
fn elements(extents: &Extents) -> Vec<u8> {
    let element = |claim: &biplex_engine::reserve::Claim| {
        let blocks = u32::try_from(claim.extent.blocks()).ok().filter(|blocks| *blocks < 1 << 24);
        // A list has four bytes for the first block.
        extent_element(claim.kind as u8, claim.extent.start().0 as u32, blocks.unwrap_or(0))
    };
    extents.claims.iter().flat_map(element).collect()
}

fn persistent(action: u8, kind: u8, key: u64, other: u64, aptpl: bool) -> Spelt {
    let list = persistent_parameters(key, other, aptpl);
    (persistent_reserve_out(action, kind), Bytes::copy_from_slice(&list))
}

/// REGISTER with SPEC_I_PT (SPC-4 6.16.3): the TransportIDs behind their length.
fn with_ports((cdb, list): Spelt, also: &[Registrant], means: Means) -> Spelt {
    let mut list = list.to_vec();
    if let Some(flags) = list.get_mut(20) {
        *flags |= SPEC_I_PT;
    }
    let ids: Vec<u8> = also.iter().flat_map(|one| transport_id(one.nexus, means)).collect();
    list.extend_from_slice(&(ids.len() as u32).to_be_bytes());
    list.extend_from_slice(&ids);
    sized(cdb, list)
}

fn transport_id(nexus: Nexus, means: Means) -> Vec<u8> {
    let (name, isid) = (means.port)(nexus);
    transport_id::encode(&name, isid)
}

/// With the list's length in PERSISTENT RESERVE OUT's CDB (SPC-4 6.16.1).
fn sized(mut cdb: [u8; 16], list: Vec<u8>) -> Spelt {
    cdb[5..9].copy_from_slice(&(list.len() as u32).to_be_bytes());
    (cdb, list.into())
}

#[cfg(test)]
mod tests {
    use super::super::cdb::Cdb;
    use super::super::{PortConfig, persistent as read, reserve};
    use super::*;
    use biplex_engine::reserve::{Claim, ExtentKind, Extents, PersistentKind, Registrant};
    use biplex_engine::{Extent, HostId, Lba, Nexus, SiteId};
    use std::sync::Arc;

    const ALL: Means = Means {
        extents: true,
        ten: true,
        third_party: Some(&|host| HostId(host.0 + 100)),
        port: &|nexus| (format!("iqn.unit:{:x}", nexus.host.0), nexus.isid + 1),
        target_port: Some(1),
    };
    const NOTHING: Means = Means { extents: false, third_party: None, target_port: None, ..ALL };

    /// As the unit reads it.
    fn there(isid: u64, host: u64, site: SiteId) -> Registrant {
        let name: Arc<str> = format!("iqn.unit:{host:x}").into();
        Registrant { nexus: Nexus { host: HostId::of_name(&name), isid, site }, name }
    }

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
            let (cdb, list) = spell(&request, ALL).expect("it can be asked");
            assert_eq!(read::out(Cdb::new(&cdb), &list, &asker), Ok(request));
        }
        // Further ports have the names that they have at the unit, and so has who takes over.
        let at = |host, isid, site| Registrant {
            nexus: Nexus { host: HostId(host), isid, site },
            name: "iqn.a:c".into(),
        };
        let also = vec![at(0xabc, 1, SiteId::A), at(0xd, 7, SiteId::B)];
        for key in [Some(0), Some(3)] {
            let (cdb, list) = spell(&register(key, false, also.clone()), ALL).expect("it can be asked");
            let expected = register(key, false, vec![there(2, 0xabc, SiteId::A), there(8, 0xd, SiteId::A)]);
            assert_eq!(read::list_length(Cdb::new(&cdb)), list.len() as u64);
            assert_eq!(read::out(Cdb::new(&cdb), &list, &asker), Ok(expected));
        }
        for (unregister, aptpl, target_port, site) in
            [(true, false, 1, SiteId::A), (false, true, 2, SiteId::B)]
        {
            let moved = |to| Request::Move { key: 7, new_key: 8, unregister, aptpl, to };
            let means = Means { target_port: Some(target_port), ..ALL };
            let (cdb, list) = spell(&moved(at(0xabc, 1, SiteId::B)), means).expect("it can be asked");
            let expected = moved(there(2, 0xabc, site));
            assert_eq!(read::list_length(Cdb::new(&cdb)), list.len() as u64);
            assert_eq!(read::out(Cdb::new(&cdb), &list, &asker), Ok(expected));
        }
        assert_eq!(spell(&Request::NexusLost, ALL), Ok((release6(), Bytes::new())));
    }

    #[test]
    fn reserve_and_release_are_spelt_with_extents_and_third_parties() {
        let blocks = 1 << 30;
        let claim =
            |kind, start, count| Claim { kind, extent: Extent::new(Lba(start), count).expect("some") };
        let claims = vec![
            claim(ExtentKind::ReadShared, 0, 1),
            claim(ExtentKind::ExclusiveAccess, 0x0102_0304, 0x00ff_ffff),
            claim(ExtentKind::WriteExclusive, 7, blocks - 7),
        ];
        let (six, named) = (Means { ten: false, ..ALL }, Some(HostId(9)));
        for means in [ALL, six] {
            for (third_party, id) in
                [(None, None), (None, Some(0)), (None, Some(255)), (named, None), (named, Some(3))]
            {
                let extents = id.map(|id| Extents { id, claims: claims.clone() });
                let reserve = Request::Reserve { third_party, extents };
                let release = Request::Release { third_party, extents: id };
                if third_party.is_some() && !means.ten {
                    assert_eq!(spell(&reserve, means), Err(Verdict::BadCdb(1)));
                    assert_eq!(spell(&release, means), Err(Verdict::BadCdb(1)));
                    continue;
                }
                // The unit has another name for the third party.
                let there = |request: Request| match request {
                    Request::Reserve { third_party: Some(host), extents } => {
                        assert_eq!(host, HostId(109));
                        Request::Reserve { third_party: named, extents }
                    }
                    Request::Release { third_party: Some(host), extents } => {
                        assert_eq!(host, HostId(109));
                        Request::Release { third_party: named, extents }
                    }
                    other => other,
                };
                let (cdb, list) = spell(&reserve, means).expect("it can be asked");
                assert_eq!(reserve::list_length(Cdb::new(&cdb)), list.len() as u64);
                assert_eq!(reserve::reserve(Cdb::new(&cdb), &list, blocks).map(there), Ok(reserve));
                let (cdb, list) = spell(&release, means).expect("it can be asked");
                assert_eq!(reserve::list_length(Cdb::new(&cdb)), list.len() as u64);
                assert_eq!(reserve::release(Cdb::new(&cdb), &list).map(there), Ok(release));
            }
        }
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
            assert_eq!(spell(&request, NOTHING), Err(Verdict::BadCdb(1)), "{}", request.name());
        }
        for request in [register(Some(0), true, Vec::new()), register(Some(0), true, vec![to])] {
            assert_eq!(spell(&request, ALL), Err(Verdict::BadParameter(20)));
        }
    }
}
