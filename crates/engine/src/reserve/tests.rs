//! What the reservation tables promise: by tables written by hand from the standards, by example, and against dumb
//! oracles.

mod access;
mod persistent;
mod properties;
mod reset;
mod scsi2;

use super::*;
use crate::units::{Extent, HostId, Lba, SiteId};
use std::sync::Arc;

/// Host 1 at site A, and the same initiator port at site B.
const A1: Nexus = nexus(1, SiteId::A);
const B1: Nexus = nexus(1, SiteId::B);
const A2: Nexus = nexus(2, SiteId::A);
const B2: Nexus = nexus(2, SiteId::B);
const B3: Nexus = nexus(3, SiteId::B);

const fn nexus(host: u64, site: SiteId) -> Nexus {
    Nexus { host: HostId(host), isid: 0x4000_0137_0000, site }
}

fn at(time: u64, site: SiteId) -> Stamp {
    Stamp { time, site }
}

fn blocks(start: u64, count: u64) -> Extent {
    Extent::new(Lba(start), count).expect("a test's extent")
}

fn name(host: u64) -> Arc<str> {
    Arc::from(format!("iqn.2026-11.example:{host}"))
}

fn registrant(nexus: Nexus) -> Registrant {
    Registrant { nexus, name: name(nexus.host.0) }
}

fn reserve() -> Request {
    Request::Reserve { third_party: None, extents: None }
}

fn release() -> Request {
    Request::Release { third_party: None, extents: None }
}

fn reserve_for(host: u64) -> Request {
    Request::Reserve { third_party: Some(HostId(host)), extents: None }
}

fn release_for(host: u64) -> Request {
    Request::Release { third_party: Some(HostId(host)), extents: None }
}

fn extents(id: u8, claims: &[(ExtentKind, u64, u64)]) -> Request {
    let claims = claims.iter().map(|&(kind, start, count)| Claim { kind, extent: blocks(start, count) });
    Request::Reserve { third_party: None, extents: Some(Extents { id, claims: claims.collect() }) }
}

fn release_extents(id: u8) -> Request {
    Request::Release { third_party: None, extents: Some(id) }
}

/// REGISTER by a nexus of `host`.
fn register(host: u64, key: u64, new_key: u64) -> Request {
    Request::Register {
        key: Some(key),
        new_key,
        aptpl: false,
        all_ports: false,
        name: name(host),
        also: Vec::new(),
    }
}

fn register_and_ignore(host: u64, new_key: u64) -> Request {
    Request::Register {
        key: None,
        new_key,
        aptpl: false,
        all_ports: false,
        name: name(host),
        also: Vec::new(),
    }
}

fn all_ports(mut request: Request) -> Request {
    if let Request::Register { all_ports, .. } = &mut request {
        *all_ports = true;
    }
    request
}

fn aptpl(mut request: Request) -> Request {
    if let Request::Register { aptpl, .. } | Request::Move { aptpl, .. } = &mut request {
        *aptpl = true;
    }
    request
}

fn also(mut request: Request, nexuses: &[Nexus]) -> Request {
    if let Request::Register { also, .. } = &mut request {
        *also = nexuses.iter().map(|nexus| registrant(*nexus)).collect();
    }
    request
}

fn pr_reserve(key: u64, kind: PersistentKind) -> Request {
    Request::ReservePersistent { key, kind }
}

fn pr_release(key: u64, kind: PersistentKind) -> Request {
    Request::ReleasePersistent { key, kind }
}

fn preempt(key: u64, victim: u64, kind: PersistentKind) -> Request {
    Request::Preempt { key, victim, kind, abort: false }
}

fn preempt_and_abort(key: u64, victim: u64, kind: PersistentKind) -> Request {
    Request::Preempt { key, victim, kind, abort: true }
}

fn move_to(key: u64, new_key: u64, to: Nexus) -> Request {
    Request::Move { key, new_key, unregister: false, aptpl: false, to: registrant(to) }
}

fn started(run: u32, peer_run: u32) -> Request {
    Request::SiteStarted { run, peer_run }
}

/// A unit's reservations, and the time at which it is asked next.
#[derive(Clone, Default)]
struct Unit {
    tables: Reservations,
    time: u64,
}

impl Unit {
    /// With these requests done.
    fn with(requests: &[(Nexus, Request)]) -> Unit {
        let mut unit = Unit::default();
        for (by, request) in requests {
            unit.done(*by, request.clone());
        }
        unit
    }

    /// Asks, stamped by the site of who asks, and demands the invariants.
    fn ask(&mut self, by: Nexus, request: Request) -> (Verdict, Vec<Effect>) {
        self.time += 1;
        let before = self.tables.clone();
        let answer = self.tables.apply(at(self.time, by.site), by, &request);
        self.tables.check().unwrap();
        if answer.0 != Verdict::Done {
            assert_eq!(self.tables, before, "{request:?} was refused and changed something");
            assert_eq!(answer.1, [], "{request:?} was refused and has effects");
        }
        answer
    }

    /// Asks for what must be done, and gives its effects.
    fn done(&mut self, by: Nexus, request: Request) -> Vec<Effect> {
        let (verdict, effects) = self.ask(by, request.clone());
        assert_eq!(verdict, Verdict::Done, "{by} {request:?}");
        effects
    }

    /// Asks for what must be refused so.
    fn refused(&mut self, by: Nexus, request: Request, verdict: Verdict) {
        assert_eq!(self.ask(by, request.clone()), (verdict, Vec::new()), "{by} {request:?}");
    }

    fn conflicts(&mut self, by: Nexus, request: Request) {
        self.refused(by, request, Verdict::Conflict);
    }

    /// Asks for what must be GOOD and leave everything as it is.
    fn ignores(&mut self, by: Nexus, request: Request) {
        let before = self.tables.clone();
        assert_eq!(self.done(by, request.clone()), [], "{by} {request:?}");
        assert_eq!(self.tables, before, "{by} {request:?}");
    }

    fn state(&self) -> &ReservationState {
        self.tables.parts()
    }

    /// Who is registered, and with which key.
    fn keys(&self) -> Vec<(Nexus, u64)> {
        self.state().registrations.iter().map(|r| (r.registrant.nexus, r.key)).collect()
    }

    /// Type and holder.
    fn held(&self) -> Option<(PersistentKind, Option<Nexus>)> {
        self.state().persistent.map(|held| (held.kind, held.holder))
    }
}

/// The same attention for each of these.
fn told(attention: Attention, nexuses: &[Nexus]) -> Vec<Effect> {
    nexuses.iter().map(|nexus| Effect::Attend(*nexus, attention)).collect()
}
