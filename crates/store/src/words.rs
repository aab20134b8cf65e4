//! Records and saved states of a journal in words, for whoever inspects it. Never fails: what does not read is told.

use biplex_engine::reserve::{Extents, ReservationKind, ReservationRow, Reservations};
use biplex_engine::reserve::{Registrant, Request};
use biplex_engine::{Body, HostId, VolumeId};
use biplex_format::{RecordHeader, decode_reservations};
use bytes::Bytes;

/// A record; `body` is its body.
pub(crate) fn record(header: &RecordHeader, body: &[u8]) -> String {
    let summary = match header.summary() {
        Ok(summary) => summary,
        Err(error) => return format!("does not read: {error}"),
    };
    let entry = match header.entry(Bytes::copy_from_slice(body)) {
        Ok(entry) => entry,
        Err(error) => return format!("{summary}: does not read: {error}"),
    };
    match &entry.body {
        Body::Data(_) | Body::Fill(_) | Body::Unmap => summary,
        Body::Swap(_) => {
            let bytes = entry.extent.bytes();
            format!("{summary}: COMPARE AND WRITE, {bytes} bytes to compare, then {bytes} to write")
        }
        Body::Verdict { matched: true } => {
            format!(
                "{summary}: the COMPARE AND WRITE of this stamp matched and wrote, or the unit did its request"
            )
        }
        Body::Verdict { matched: false } => {
            format!(
                "{summary}: the COMPARE AND WRITE of this stamp missed, or the unit did not do its request"
            )
        }
        Body::Control(asked) => format!("{summary}: {} by {}", request(asked), entry.nexus()),
    }
}

/// A request on the unit.
pub(crate) fn request(request: &Request) -> String {
    let name = request.name();
    let party = |host: &Option<HostId>| host.map_or(String::new(), |host| format!(" for host {host}"));
    let kind = |kind| ReservationKind::Persistent(kind);
    match request {
        Request::Reserve { third_party, extents: None } => format!("{name}{}", party(third_party)),
        Request::Reserve { third_party, extents: Some(of) } => {
            format!("{name}{}, {}", party(third_party), extents(of))
        }
        Request::Release { third_party, extents: None } => format!("{name}{}", party(third_party)),
        Request::Release { third_party, extents: Some(id) } => {
            format!("{name}{}, id {id}", party(third_party))
        }
        Request::Register { key, new_key, aptpl, all_ports, name: host, also } => {
            let old = key.map_or(String::new(), |key| format!(" key {key:016x},"));
            let kept = if *aptpl { ", APTPL" } else { "" };
            let ports = if *all_ports { ", at both sites' ports" } else { "" };
            let others: String = also.iter().map(|other| format!(", and {}", registrant(other))).collect();
            format!("{name}{old} new key {new_key:016x}{kept}{ports}, of {host}{others}")
        }
        Request::ReservePersistent { key, kind: of } | Request::ReleasePersistent { key, kind: of } => {
            format!("{name} key {key:016x}, {}", kind(*of))
        }
        Request::Clear { key } => format!("{name} key {key:016x}"),
        Request::Preempt { key, victim, kind: of, abort: _ } => {
            format!("{name} key {key:016x}, whose {victim:016x}, {}", kind(*of))
        }
        Request::Move { key, new_key, unregister, aptpl, to } => {
            let gone = if *unregister { ", the mover unregisters" } else { "" };
            let kept = if *aptpl { ", APTPL" } else { "" };
            let to = registrant(to);
            format!("{name} key {key:016x}, new key {new_key:016x}{gone}{kept}, to {to}")
        }
        Request::Reset(_) | Request::NexusLost => name.to_owned(),
        Request::SetModes(modes) => {
            let (sense, protected) = (modes.descriptor_sense, modes.write_protected);
            format!("{name} D_SENSE {}, SWP {}", u8::from(sense), u8::from(protected))
        }
        Request::SiteStarted { run, peer_run } => format!("{name}, run {run}, its peer in run {peer_run}"),
    }
}

fn extents(extents: &Extents) -> String {
    let claims: Vec<String> = extents
        .claims
        .iter()
        .map(|claim| format!("{} {}", ReservationKind::Extent(claim.kind), claim.extent))
        .collect();
    format!("id {}: {}", extents.id, claims.join(", "))
}

fn registrant(registrant: &Registrant) -> String {
    format!("{} {}", registrant.name, registrant.nexus)
}

/// What a saved state says: a line for each reservation and registration.
pub(crate) fn state(bytes: &[u8], name: impl Fn(VolumeId) -> String) -> Vec<String> {
    let tables = match decode_reservations(bytes) {
        Ok(tables) => tables,
        Err(error) => return vec![format!("does not read: {error}")],
    };
    let mut lines = Vec::new();
    for (id, state) in tables {
        let volume = name(id);
        let table = match Reservations::from_parts(state) {
            Ok(table) => table,
            Err(broken) => {
                lines.push(format!("{volume}: does not fit together: {broken}"));
                continue;
            }
        };
        lines.extend(table.rows().into_iter().map(|row| format!("{volume}: {}", reservation(&row))));
        let persistent = table.persistent();
        for one in persistent.registrations {
            let ports = if one.all_ports { ", at both sites' ports" } else { "" };
            lines.push(format!(
                "{volume}: registered {} key {:016x}{ports}",
                registrant(&one.registrant),
                one.key
            ));
        }
    }
    lines
}

fn reservation(row: &ReservationRow) -> String {
    let ReservationRow { since, owner, kind, .. } = row;
    let whom = row.third_party.map_or(String::new(), |host| format!(", for host {host}"));
    let blocks = row.extent.map_or("all blocks".to_owned(), |extent| format!("blocks {extent}"));
    let id = row.id.map_or(String::new(), |id| format!(", id {id}"));
    format!("reserved since {since} by {owner}{whom}: {kind}, {blocks}{id}")
}
