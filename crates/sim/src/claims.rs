//! What hosts do about reservations: they reserve for a short while, release, register, preempt, reset, lose sessions.
//!
//! A host follows up on what it was told: a reserve is released soon, a conflict is looked into and sometimes broken by
//! a reset or a preempt. One reserve in ten is forgotten, and left to others, to the loss of its session or to a crash.

use crate::history::Deed;
use crate::host::{Host, Wish};
use crate::place::volume_id;
use crate::random::Random;
use crate::schedule::{Happening, MS};
use crate::world::World;
use biplex_engine::reserve::{
    Access, Claim, ExtentKind, Extents, ModeBits, PersistentKind, PersistentView, Registrant, Request, Reset,
    Verdict,
};
use biplex_engine::{Extent, HostId, Lba, Nexus};
use biplex_front::Command;
use biplex_site::Event;
use std::sync::Arc;

/// What a host will ask later.
#[derive(Clone, Debug)]
pub struct Owed {
    /// Not before this.
    pub due: u64,
    /// Of which volume.
    pub volume: usize,
    /// What.
    pub deed: Deed,
}

/// The name of a host.
pub fn name_of(host: HostId) -> Arc<str> {
    Arc::from(format!("iqn.2026-11.sim:host-{}", host.0))
}

impl Host {
    /// Who it is now.
    pub fn nexus(&self) -> Nexus {
        Nexus { host: self.id, isid: self.isid, site: self.site }
    }

    fn owe(&mut self, due: u64, volume: usize, request: Request) {
        let at = self.owed.partition_point(|owed| owed.due <= due);
        self.owed.insert(at, Owed { due, volume, deed: Deed::Control { request, verdict: None } });
    }
}

/// A command about reservations as a wish.
pub(crate) fn wish_of(volume: usize, deed: Deed) -> Wish {
    let command = match &deed {
        Deed::Control { request, .. } => Command::Control { request: request.clone() },
        Deed::Check { access } => Command::Check { access: *access },
        Deed::Leave => Command::Leave,
        Deed::Inspect | Deed::Read { .. } | Deed::Write { .. } | Deed::Swap { .. } | Deed::Flush => {
            Command::Inspect { action: 0 }
        }
    };
    Wish { volume, command, deed, large: false }
}

/// What leaves a way in for a destage, so that the pair comes to rest: read shared extents let nobody write, and neither
/// does a host that reserves for another what it reserves for itself, too.
fn writable(mut request: Request) -> Request {
    if let Request::Reserve { third_party, .. } | Request::Release { third_party, .. } = &mut request {
        *third_party = None;
    }
    if let Request::Reserve { extents: Some(extents), .. } = &mut request {
        let shared = extents.claims.iter_mut().filter(|claim| claim.kind == ExtentKind::ReadShared);
        shared.for_each(|claim| claim.kind = ExtentKind::WriteExclusive);
    }
    request
}

impl World {
    /// What the host owes just now, if anything is due.
    pub(crate) fn due(&mut self, index: usize) -> Option<Wish> {
        let time = self.schedule.time();
        let host = &mut self.hosts[index];
        if host.owed.first().is_none_or(|owed| owed.due > time) {
            return None;
        }
        let Owed { volume, deed, .. } = host.owed.remove(0);
        Some(wish_of(volume, deed))
    }

    /// Something about reservations, of the host's own accord.
    pub(crate) fn reservation_wish(&mut self, index: usize, volume: usize) -> Wish {
        let plan = self.scenario.volumes[volume].clone();
        let others: Vec<Nexus> = self.hosts.iter().map(Host::nexus).collect();
        let host = &mut self.hosts[index];
        let me = host.nexus();
        let random = &mut host.random;
        let deed = match random.below(24) {
            0 => Deed::Inspect,
            1 => Deed::Check { access: random.pick(&[Access::Look, Access::Control, Access::Exempt]) },
            2 if random.one_in(2) => Deed::Leave,
            2 => {
                let modes = ModeBits { descriptor_sense: random.one_in(2), write_protected: false };
                Deed::Control { request: Request::SetModes(modes), verdict: None }
            }
            3 => {
                let reset = random.pick(&[
                    Reset::TaskSet,
                    Reset::Unit,
                    Reset::Unit,
                    Reset::TargetWarm,
                    Reset::TargetCold,
                ]);
                Deed::Control { request: Request::Reset(reset), verdict: None }
            }
            _ => {
                let request = if random.percent(plan.persistent) {
                    let key = host.keys.get(&volume).copied();
                    let seen = host.seen.get(&volume).cloned();
                    persistent(random, me, key, seen.as_ref(), &others)
                } else if plan.rules.disk && !random.one_in(8) {
                    whole(random)
                } else {
                    let request = scsi2(random, plan.blocks, plan.hot, me);
                    if plan.rules.disk { writable(request) } else { request }
                };
                Deed::Control { request, verdict: None }
            }
        };
        wish_of(volume, deed)
    }

    /// A request that the host waited for has ended.
    pub(crate) fn follow_up(&mut self, index: usize, volume: usize, request: &Request, verdict: Verdict) {
        let time = self.schedule.time();
        let host = &mut self.hosts[index];
        let pause = host.random.between(1, 25) * MS;
        let forgets = host.random.one_in(10);
        if verdict != Verdict::Done {
            if verdict == Verdict::Conflict {
                host.backs_off_until = time + host.random.between(1, 6) * MS;
                if host.random.one_in(3) {
                    host.keys.remove(&volume);
                }
            }
            return;
        }
        match request {
            Request::Reserve { third_party, extents } if !forgets => {
                let extents = extents.as_ref().map(|extents| extents.id);
                host.owe(time + pause, volume, Request::Release { third_party: *third_party, extents });
            }
            Request::Register { new_key: 0, .. } | Request::Clear { .. } => {
                host.keys.remove(&volume);
            }
            Request::Register { new_key, .. } => {
                host.keys.insert(volume, *new_key);
                if host.random.percent(60) {
                    let kind = host.random.pick(&PersistentKind::ALL);
                    let due = time + host.random.below(4) * MS;
                    host.owe(due, volume, Request::ReservePersistent { key: *new_key, kind });
                } else if host.random.one_in(2) {
                    host.owe(time + pause * 4, volume, unregister(Some(*new_key), host.id));
                }
            }
            Request::ReservePersistent { key, kind } | Request::Preempt { key, kind, .. } if !forgets => {
                host.owe(time + pause, volume, Request::ReleasePersistent { key: *key, kind: *kind });
                if host.random.percent(60) {
                    host.owe(time + pause + MS, volume, unregister(None, host.id));
                }
            }
            Request::Move { unregister: true, .. } => {
                host.keys.remove(&volume);
            }
            Request::Reserve { .. }
            | Request::ReservePersistent { .. }
            | Request::Preempt { .. }
            | Request::Release { .. }
            | Request::ReleasePersistent { .. }
            | Request::Move { .. }
            | Request::Reset(_)
            | Request::SetModes(_)
            | Request::NexusLost
            | Request::SiteStarted { .. } => {}
        }
    }

    /// A command met somebody's reservation. The host backs off, and now and then sets about to break it.
    pub(crate) fn kept_out(&mut self, index: usize, volume: usize, looking: bool) {
        let time = self.schedule.time();
        let host = &mut self.hosts[index];
        host.backs_off_until = time + host.random.between(1, 6) * MS;
        if looking {
            // Not even this: a SCSI-2 reservation.
            if host.random.one_in(4) {
                host.owe(time + 10 * MS, volume, Request::Reset(Reset::Unit));
            }
        } else if host.random.one_in(5) && !host.owed.iter().any(|owed| owed.volume == volume) {
            host.owed.push(Owed { due: time + 8 * MS, volume, deed: Deed::Inspect });
            host.owed.sort_by_key(|owed| owed.due);
        }
    }

    /// The host has seen who is registered.
    pub(crate) fn inspected(&mut self, index: usize, volume: usize, view: PersistentView) {
        let time = self.schedule.time();
        let host = &mut self.hosts[index];
        let held = view.reservation;
        let mine = view.registrations.iter().any(|r| r.holder && r.registrant.nexus == host.nexus());
        if let Some((_, victim)) = held
            && !mine
            && host.random.one_in(2)
        {
            let new_key = host.random.between(1, 4);
            let kind = host.random.pick(&PersistentKind::ALL);
            let abort = host.random.one_in(2);
            let aptpl = host.random.one_in(2);
            host.owe(time, volume, register(None, new_key, aptpl, false, host.id));
            host.owe(time + MS, volume, Request::Preempt { key: new_key, victim, kind, abort });
        }
        host.seen.insert(volume, view);
    }

    /// The host has seen the keys that a unit has. Now and then it sets about to take over from one of the others.
    pub(crate) fn keys_seen(&mut self, index: usize, volume: usize, keys: &[u64]) {
        let time = self.schedule.time();
        let host = &mut self.hosts[index];
        let mine = host.keys.get(&volume).copied();
        let others: Vec<u64> = keys.iter().copied().filter(|key| Some(*key) != mine).collect();
        if others.is_empty() || !host.random.one_in(2) {
            return;
        }
        let (victim, new_key) = (host.random.pick(&others), host.random.between(1, 4));
        let kind = host.random.pick(&PersistentKind::ALL);
        let (abort, aptpl) = (host.random.one_in(2), host.random.one_in(2));
        host.owe(time, volume, register(None, new_key, aptpl, false, host.id));
        host.owe(time + MS, volume, Request::Preempt { key: new_key, victim, kind, abort });
    }

    /// The session ends; its commands are forgotten. It comes back later, as the same nexus or as another.
    pub(crate) fn lose_session(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        let (nexus, site) = (host.nexus(), host.site);
        let waiting: Vec<_> = std::mem::take(&mut host.waiting).into_iter().collect();
        host.keys.clear();
        host.owed.clear();
        host.gone = true;
        if host.random.one_in(2) {
            host.sessions += 1;
            host.isid = (host.isid & 0xff) | host.sessions << 8;
        }
        let back = host.random.between(1, 40) * MS;
        self.schedule.after(back, Happening::SessionBack(index));
        self.counts.sessions_lost += 1;
        self.note(&[23, index as u64], &[], || format!("{nexus} ends"));
        for (task, op) in waiting {
            self.places[site.index()].forsaken.insert(task, op);
        }
        let now = self.moment();
        self.ledger.nexus_lost(nexus, now);
        self.demands.disturb(None);
        self.hand_in(site, Event::NexusLost { nexus });
    }

    /// Where nothing is under way, SCSI-2 reservations are those of living sessions.
    pub(crate) fn judge_orphans(&mut self, volume: usize) {
        let lost = |event: &Event| matches!(event, Event::NexusLost { .. });
        if !self.drained(volume) || self.places.iter().any(|place| place.inbox.iter().any(lost)) {
            return;
        }
        let Some(table) = self.places[0].site.as_ref().and_then(|site| site.reservations(volume_id(volume)))
        else {
            return;
        };
        let state = table.parts();
        let owners = state.unit.iter().map(|unit| unit.owner).chain(state.extents.iter().map(|e| e.owner));
        let orphan = owners
            .into_iter()
            .find(|owner| !self.hosts.iter().any(|host| !host.gone && host.nexus() == *owner));
        if let Some(owner) = orphan {
            self.violation("orphan", format!("vol{volume}: {owner} is gone, and what it reserved stands"));
        }
    }
}

pub(crate) fn register(
    key: Option<u64>,
    new_key: u64,
    aptpl: bool,
    all_ports: bool,
    host: HostId,
) -> Request {
    Request::Register { key, new_key, aptpl, all_ports, name: name_of(host), also: Vec::new() }
}

fn unregister(key: Option<u64>, host: HostId) -> Request {
    register(key, 0, false, false, host)
}

/// A request for the whole unit, as every unit knows it.
fn whole(random: &mut Random) -> Request {
    match random.one_in(8) {
        true => Request::Release { third_party: None, extents: None },
        false => Request::Reserve { third_party: None, extents: None },
    }
}

fn scsi2(random: &mut Random, blocks: u64, hot: u64, me: Nexus) -> Request {
    let third_party = random.one_in(8).then(|| HostId(random.between(0x100, 0x102)));
    let id = random.below(3) as u8;
    match random.below(10) {
        0 => Request::Release { third_party, extents: random.one_in(2).then_some(id) },
        1..=4 => Request::Reserve { third_party: third_party.filter(|host| *host != me.host), extents: None },
        _ => {
            let mut claims = Vec::new();
            for _ in 0..random.between(1, 3) {
                let reach = if random.one_in(4) { blocks } else { hot };
                let start = random.below(reach);
                let len = random.between(1, 8).min(blocks - start);
                let extent = Extent::new(Lba(start), len).expect("within the volume and not empty");
                claims.push(Claim { kind: random.pick(&ExtentKind::ALL), extent });
            }
            Request::Reserve { third_party, extents: Some(Extents { id, claims }) }
        }
    }
}

fn persistent(
    random: &mut Random,
    me: Nexus,
    key: Option<u64>,
    seen: Option<&PersistentView>,
    others: &[Nexus],
) -> Request {
    let new_key = random.between(1, 4);
    let (aptpl, all) = (random.one_in(2), random.one_in(8));
    let kind = random.pick(&PersistentKind::ALL);
    let Some(key) = key else {
        let asked = if random.one_in(2) { None } else { Some(0) };
        let mut request = register(asked, new_key, aptpl, all, me.host);
        if let Request::Register { also, key: Some(_), .. } = &mut request
            && random.one_in(12)
        {
            let nexus = random.pick(others);
            if nexus != me {
                also.push(Registrant { nexus, name: name_of(nexus.host) });
            }
        }
        return request;
    };
    let known = seen.and_then(|view| view.registrations.iter().map(|r| r.key).find(|k| *k != key));
    let victim = known.filter(|_| random.one_in(2)).unwrap_or_else(|| random.between(0, 4));
    match random.below(16) {
        0..=4 => Request::ReservePersistent { key, kind },
        5 | 6 => Request::ReleasePersistent { key, kind },
        7 => register(Some(key), new_key, aptpl, all, me.host),
        8 => unregister(Some(key), me.host),
        9..=11 => Request::Preempt { key, victim, kind, abort: false },
        12 | 13 => Request::Preempt { key, victim, kind, abort: true },
        14 => Request::Clear { key },
        _ => {
            let to = random.pick(others);
            let to = Registrant { nexus: to, name: name_of(to.host) };
            Request::Move { key, new_key, unregister: random.one_in(2), aptpl, to }
        }
    }
}
