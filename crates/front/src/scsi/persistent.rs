//! PERSISTENT RESERVE IN and OUT (SPC-4 6.15, 6.16): what they ask for, and how the answer looks. What is decided is
//! decided in the engine, at both sites alike.

use super::PortConfig;
use super::cdb::Cdb;
use super::sense::Sense;
use super::transport_id::{self, TransportId};
use biplex_engine::reserve::{
    ALSO_MAX, PersistentKind, PersistentView, Registrant, RegistrationView, Request,
};
use biplex_engine::{HostId, Nexus, SiteId};
use std::sync::Arc;

/// Bytes of the parameter list without TransportIDs.
const LIST: usize = 24;
/// No list is taken that is longer: more than the longest in order.
pub(super) const LIST_BYTES_MAX: u64 = 32 << 10;
const SPEC_I_PT: u8 = 0x08;
const ALL_TG_PT: u8 = 0x04;
const APTPL: u8 = 0x01;
const UNREG: u8 = 0x02;
/// Where TransportIDs begin, behind their length.
const IDS_AT: u16 = 28;

/// The target ports of the pair, this one first.
pub(super) type Ports<'a> = [&'a PortConfig; 2];

/// PERSISTENT RESERVE OUT's PARAMETER LIST LENGTH.
pub(super) fn list_length(cdb: Cdb) -> u64 {
    cdb.number(5, 4)
}

/// Who asks, and who else is logged in here (for TransportIDs that name an initiator and no session).
pub(super) struct Asker<'a> {
    pub name: &'a Arc<str>,
    pub known: &'a dyn Fn(&str) -> Vec<Nexus>,
    pub ports: Ports<'a>,
}

/// PERSISTENT RESERVE OUT.
pub(super) fn out(cdb: Cdb, list: &[u8], asker: &Asker) -> Result<Request, Sense> {
    let expected = list_length(cdb);
    let action = cdb.service_action();
    // SPC-4 6.16.1: exactly 24 bytes, but for lists with TransportIDs.
    let Some((fixed, more)) = list.split_first_chunk::<LIST>() else {
        return Err(Sense::PARAMETER_LIST_LENGTH);
    };
    if list.len() as u64 != expected {
        return Err(Sense::PARAMETER_LIST_LENGTH);
    }
    let fields = Cdb::new(fixed);
    let (key, new_key) = (fields.number(0, 8), fields.number(8, 8));
    if action == 0x07 {
        return moved(fields, list, asker);
    }
    let spec_i_pt = fields.bit(20, SPEC_I_PT);
    if spec_i_pt && action != 0x00 {
        return Err(Sense::field_in_parameters(20, Some(3)));
    }
    if !spec_i_pt && !more.is_empty() {
        return Err(Sense::PARAMETER_LIST_LENGTH);
    }
    match action {
        0x00 | 0x06 => Ok(Request::Register {
            key: (action == 0x00).then_some(key),
            new_key,
            aptpl: fields.bit(20, APTPL),
            all_ports: fields.bit(20, ALL_TG_PT),
            name: asker.name.clone(),
            also: if spec_i_pt { further(more, asker)? } else { Vec::new() },
        }),
        0x01 => Ok(Request::ReservePersistent { key, kind: kind(cdb)? }),
        0x02 => Ok(Request::ReleasePersistent { key, kind: kind(cdb)? }),
        0x03 => Ok(Request::Clear { key }),
        0x04 | 0x05 => Ok(Request::Preempt { key, victim: new_key, kind: kind(cdb)?, abort: action == 0x05 }),
        _ => Err(Sense::field_in_cdb(1, Some(4))),
    }
}

/// SCOPE and TYPE: a unit, and one of the six types (SPC-4 6.15.3.3, .4).
fn kind(cdb: Cdb) -> Result<PersistentKind, Sense> {
    if cdb.byte(2) >> 4 != 0 {
        return Err(Sense::field_in_cdb(2, Some(7)));
    }
    PersistentKind::from_ordinal(cdb.byte(2) & 0x0f).ok_or(Sense::field_in_cdb(2, Some(3)))
}

/// SPEC_I_PT: further initiator ports (SPC-4 6.16.3).
fn further(more: &[u8], asker: &Asker) -> Result<Vec<Registrant>, Sense> {
    let (length, mut rest) = more.split_first_chunk::<4>().ok_or(Sense::PARAMETER_LIST_LENGTH)?;
    if u32::from_be_bytes(*length) as usize != rest.len() {
        return Err(Sense::PARAMETER_LIST_LENGTH);
    }
    let all = rest.len();
    let mut also: Vec<Registrant> = Vec::new();
    while !rest.is_empty() {
        let at = u16::try_from(usize::from(IDS_AT) + all - rest.len()).unwrap_or(u16::MAX);
        let (id, next) = transport_id::decode(rest, at)?;
        let ports = initiator_ports(&id, asker);
        // An initiator of which no session is known here: there is nothing that could be registered.
        if ports.is_empty() {
            return Err(Sense::field_in_parameters(at, None));
        }
        also.extend(ports);
        if also.len() > ALSO_MAX {
            return Err(Sense::NO_ROOM_TO_REGISTER);
        }
        rest = next;
    }
    Ok(also)
}

fn initiator_ports(id: &TransportId, asker: &Asker) -> Vec<Registrant> {
    let [own, _] = asker.ports;
    let name: Arc<str> = id.name.as_str().into();
    let host = HostId::of_name(&id.name);
    let nexuses = match id.isid {
        Some(isid) => vec![Nexus { host, isid, site: own.site }],
        None => (asker.known)(&id.name),
    };
    nexuses.into_iter().map(|nexus| Registrant { nexus, name: name.clone() }).collect()
}

/// REGISTER AND MOVE (SPC-4 6.16.4).
fn moved(fields: Cdb, list: &[u8], asker: &Asker) -> Result<Request, Sense> {
    let length = fields.number(20, 4);
    let ids = list.get(LIST..).unwrap_or_default();
    if length != ids.len() as u64 {
        return Err(Sense::PARAMETER_LIST_LENGTH);
    }
    let port = fields.number(18, 2);
    let port = asker.ports.into_iter().find(|known| u64::from(known.relative) == port);
    let port = port.ok_or(Sense::field_in_parameters(18, None))?;
    let (id, rest) = transport_id::decode(ids, LIST as u16)?;
    let Some(isid) = id.isid.filter(|_| rest.is_empty()) else {
        return Err(Sense::field_in_parameters(LIST as u16, None));
    };
    let nexus = Nexus { host: HostId::of_name(&id.name), isid, site: port.site };
    Ok(Request::Move {
        key: fields.number(0, 8),
        new_key: fields.number(8, 8),
        unregister: fields.bit(17, UNREG),
        aptpl: fields.bit(17, APTPL),
        to: Registrant { nexus, name: id.name.as_str().into() },
    })
}

/// PERSISTENT RESERVE IN, in full.
pub(super) fn parameters(cdb: Cdb, view: &PersistentView, ports: Ports) -> Vec<u8> {
    match cdb.service_action() {
        0x00 => listed(view, view.registrations.iter().flat_map(|one| one.key.to_be_bytes()).collect()),
        0x01 => listed(view, reservation(view)),
        0x02 => capabilities(view),
        _ => listed(view, view.registrations.iter().flat_map(|one| status(one, view, ports)).collect()),
    }
}

/// PRGENERATION and ADDITIONAL LENGTH before what they tell of (SPC-4 6.15.2, .3, .5).
fn listed(view: &PersistentView, rows: Vec<u8>) -> Vec<u8> {
    [&view.generation.to_be_bytes()[..], &(rows.len() as u32).to_be_bytes(), &rows].concat()
}

fn reservation(view: &PersistentView) -> Vec<u8> {
    let Some((kind, key)) = view.reservation else { return Vec::new() };
    let mut row = key.to_be_bytes().to_vec();
    row.extend_from_slice(&[0, 0, 0, 0, 0, kind as u8, 0, 0]);
    row
}

/// SPC-4 6.15.4: CRH, SIP_C, ATP_C, PTPL_C; TMV, and TEST UNIT READY let through under every type (ALLOW
/// COMMANDS 001b); all six types. REPLACE LOST RESERVATION is not known (RLR_C 0): nothing here gets lost.
fn capabilities(view: &PersistentView) -> Vec<u8> {
    vec![0, 8, 0x1d, 0x90 | u8::from(view.aptpl), 0xea, 0x01, 0, 0]
}

/// One full status descriptor (SPC-4 6.15.5).
fn status(one: &RegistrationView, view: &PersistentView, ports: Ports) -> Vec<u8> {
    let of_site =
        |site: SiteId| ports.into_iter().find(|port| port.site == site).map_or(0, |port| port.relative);
    let kind = view.reservation.filter(|_| one.holder).map_or(0, |(kind, _)| kind as u8);
    let flags = u8::from(one.all_ports) << 1 | u8::from(one.holder);
    let [port_high, port_low] = of_site(one.registrant.nexus.site).to_be_bytes();
    let id = transport_id::encode(&one.registrant.name, one.registrant.nexus.isid);
    let mut row = one.key.to_be_bytes().to_vec();
    row.extend_from_slice(&[0, 0, 0, 0, flags, kind, 0, 0, 0, 0, port_high, port_low]);
    row.extend_from_slice(&(id.len() as u32).to_be_bytes());
    row.extend_from_slice(&id);
    row
}

#[cfg(test)]
mod tests;
