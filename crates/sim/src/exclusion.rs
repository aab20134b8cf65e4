//! Invariant 6, judged from what hosts asked and were told alone: what a reserve keeps out while it surely stands.
//!
//! ```text
//! RESERVE asked ──▶ GOOD ═══════ it surely stands ═══════▶ somebody asks for what may end it
//!                        a command asked and served in here that it keeps out is a violation, at either site
//! ```
//! What keeps out what is written here anew, from the standards' tables (`docs/reservations.md`), and must not call the
//! engine's. Wherever a host cannot know, the judge does not either: a request of unknown outcome may take effect until
//! both sites say that none is under way.

use crate::history::{Deed, Moment, Operation};
use crate::place::volume_id;
use crate::world::World;
use biplex_engine::reserve::{Access, Claim, ExtentKind, PersistentKind, Request, Reset, Verdict};
use biplex_engine::{Extent, HostId, Nexus, SiteId};
use std::collections::{BTreeMap, BTreeSet};

/// A request that a host asked.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Index in the history.
    pub op: usize,
    /// Index of the volume.
    pub volume: usize,
    /// Who.
    pub by: Nexus,
    /// What.
    pub request: Request,
    /// When.
    pub asked: Moment,
    /// It takes no effect after this; `Moment::MAX` while it may.
    pub ended: Moment,
    /// Its host was told nothing, and the site owes it no answer any more.
    pub loose: bool,
}

/// What a reserve gave.
#[derive(Clone, PartialEq, Eq, Debug)]
enum What {
    Unit { third_party: Option<HostId> },
    Extents { third_party: Option<HostId>, id: u8, claims: Vec<Claim> },
    Persistent { kind: PersistentKind },
}

/// A reserve that surely stands.
#[derive(Clone, Debug)]
struct Grant {
    volume: usize,
    owner: Nexus,
    what: What,
    since: Moment,
    /// Sites that lost power since.
    crashed: [bool; 2],
}

/// Requests of all hosts, and what surely stands.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    asked: Vec<Asked>,
    grants: Vec<Grant>,
    /// When a nexus last ended, or said that it is about to.
    left: BTreeMap<Nexus, Moment>,
    /// Per volume: who may be registered.
    registered: BTreeMap<usize, BTreeSet<Nexus>>,
    /// Per volume: who may have been, and until when.
    was_registered: BTreeMap<(usize, Nexus), Moment>,
}

impl Ledger {
    /// Requests on the volume that may still take effect.
    pub fn open(&self, volume: usize) -> impl Iterator<Item = &Asked> {
        self.asked.iter().filter(move |asked| asked.volume == volume && asked.ended == Moment::MAX)
    }

    /// A host asks.
    pub fn ask(&mut self, asked: Asked) {
        let (volume, by) = (asked.volume, asked.by);
        self.grants.retain(|grant| grant.volume != volume || !may_end(&asked.request, by, grant));
        let registered = self.registered.entry(volume).or_default();
        match &asked.request {
            Request::Register { new_key, also, all_ports, .. } if *new_key != 0 => {
                for nexus in also.iter().map(|one| one.nexus).chain([by]) {
                    registered.insert(nexus);
                    if *all_ports {
                        registered.insert(Nexus { site: nexus.site.peer(), ..nexus });
                    }
                }
            }
            Request::Move { to, .. } => {
                registered.insert(to.nexus);
            }
            Request::Register { .. }
            | Request::Reserve { .. }
            | Request::Release { .. }
            | Request::ReservePersistent { .. }
            | Request::ReleasePersistent { .. }
            | Request::Clear { .. }
            | Request::Preempt { .. }
            | Request::Reset(_)
            | Request::SetModes(_)
            | Request::NexusLost
            | Request::SiteStarted { .. } => {}
        }
        self.asked.push(asked);
    }

    /// The site told how a request ended, the host waiting or not.
    pub fn told(&mut self, op: usize, verdict: Verdict, now: Moment) {
        let Some(at) = self.asked.iter().rposition(|asked| asked.op == op) else { return };
        self.asked[at].ended = now;
        if verdict == Verdict::Done {
            self.granted(at, now);
        }
    }

    /// The site told how a request ended, but its host heard nothing of it.
    pub fn told_nobody(&mut self, op: usize, now: Moment) {
        if let Some(asked) = self.asked.iter_mut().rev().find(|asked| asked.op == op) {
            asked.ended = now;
        }
    }

    /// The site will say nothing more of it: its outcome is unknown.
    pub fn lost(&mut self, op: usize) {
        if let Some(asked) = self.asked.iter_mut().rev().find(|asked| asked.op == op) {
            asked.loose = asked.ended == Moment::MAX;
        }
    }

    /// No request on the volume is under way at either site; these are registered.
    pub fn settled(&mut self, volume: usize, registered: BTreeSet<Nexus>, now: Moment) {
        for asked in self.asked.iter_mut().filter(|a| a.volume == volume && a.loose && a.ended == Moment::MAX)
        {
            asked.ended = now;
        }
        if self.open(volume).next().is_none() {
            for nexus in self.registered.insert(volume, registered.clone()).unwrap_or_default() {
                if !registered.contains(&nexus) {
                    self.was_registered.insert((volume, nexus), now);
                }
            }
        }
    }

    /// The nexus ends, or says that it will.
    pub fn nexus_lost(&mut self, nexus: Nexus, now: Moment) {
        self.left.insert(nexus, now);
        self.grants.retain(|grant| grant.owner != nexus || persistent(grant));
    }

    /// The site loses power. Where both did, somebody's registrations may be gone.
    pub fn crashed(&mut self, site: SiteId) {
        for grant in &mut self.grants {
            grant.crashed[site.index()] = true;
        }
        self.grants.retain(|grant| {
            if persistent(grant) { grant.crashed != [true; 2] } else { grant.owner.site != site }
        });
    }

    /// A unit lost what nexuses had by SCSI-2, and where it `forgets` the rest as well: for the pair it is as if somebody
    /// had asked for a reset, of unknown end.
    pub fn unit_lost(&mut self, volume: usize, forgets: bool, now: Moment) {
        let by = Nexus { host: HostId(0), isid: 0, site: SiteId::A };
        let requests = [Some(Request::Reset(Reset::Unit)), forgets.then_some(Request::Clear { key: 0 })];
        for request in requests.into_iter().flatten() {
            let (asked, ended, loose) = (now, Moment::MAX, true);
            self.ask(Asked { op: usize::MAX, volume, by, request, asked, ended, loose });
        }
    }

    fn granted(&mut self, at: usize, now: Moment) {
        let Asked { op: _, volume, by, request, asked, .. } = self.asked[at].clone();
        let what = match request {
            // With registrations GOOD says only that the host may go on (SPC-4 5.13.4).
            Request::Reserve { .. } if self.may_be_registered(volume, by, asked) => return,
            Request::Reserve { third_party, extents: None } => What::Unit { third_party },
            Request::Reserve { third_party, extents: Some(extents) } => {
                What::Extents { third_party, id: extents.id, claims: extents.claims }
            }
            Request::ReservePersistent { kind, .. } => What::Persistent { kind },
            Request::Release { .. }
            | Request::Register { .. }
            | Request::ReleasePersistent { .. }
            | Request::Clear { .. }
            | Request::Preempt { .. }
            | Request::Move { .. }
            | Request::Reset(_)
            | Request::SetModes(_)
            | Request::NexusLost
            | Request::SiteStarted { .. } => return,
        };
        let grant = Grant { volume, owner: by, what, since: now, crashed: [false; 2] };
        if !persistent(&grant) && self.left.get(&by).is_some_and(|left| *left > asked) {
            return;
        }
        let meets = |other: &Asked| other.volume == volume && other.asked < now && other.ended > asked;
        let others = self.asked.iter().enumerate().filter(|(index, other)| *index != at && meets(other));
        if !others.into_iter().any(|(_, other)| may_end(&other.request, other.by, &grant)) {
            self.grants.push(grant);
        }
    }

    /// Whether the nexus may have been registered at any time since `since`.
    fn may_be_registered(&self, volume: usize, nexus: Nexus, since: Moment) -> bool {
        self.registered.get(&volume).is_some_and(|registered| registered.contains(&nexus))
            || self.was_registered.get(&(volume, nexus)).is_some_and(|until| *until > since)
    }

    /// Whether anybody ever asked anything about reservations of this volume.
    pub fn anything(&self, volume: usize) -> bool {
        self.asked.iter().any(|asked| asked.volume == volume)
    }

    /// How many reserves surely stand.
    pub fn standing(&self) -> usize {
        self.grants.len()
    }

    /// Since when something stands that keeps out a command of the other site which was asked before. What was let in there
    /// is on its way here before the grant is told (`control.rs`).
    pub fn kept_behind(&self, op: &Operation) -> Option<Moment> {
        let before = |grant: &&Grant| grant.volume == op.volume && grant.since > op.asked;
        let since = self.grants.iter().filter(|grant| before(grant) && grant.owner.site != op.site);
        let registered = self.may_be_registered(op.volume, op.nexus, op.asked);
        since.filter(|grant| conflicts(grant, registered, op)).map(|grant| grant.since).min()
    }

    /// Why a command that was served should not have been.
    pub fn judge(&self, op: &Operation) -> Result<(), String> {
        let standing = self.grants.iter().filter(|grant| grant.volume == op.volume && grant.since < op.asked);
        for grant in standing {
            let registered = self.may_be_registered(op.volume, op.nexus, op.asked);
            if conflicts(grant, registered, op) {
                return Err(format!(
                    "vol{}: {:?} of {} asked at {} is served though {} holds {:?} since {}",
                    op.volume, op.deed, op.nexus, op.asked, grant.owner, grant.what, grant.since
                ));
            }
        }
        Ok(())
    }
}

fn persistent(grant: &Grant) -> bool {
    matches!(grant.what, What::Persistent { .. })
}

/// Whether the request, asked by `by`, may end what was granted.
fn may_end(request: &Request, by: Nexus, grant: &Grant) -> bool {
    let own = by == grant.owner;
    match (&grant.what, request) {
        (What::Unit { .. } | What::Extents { .. }, Request::Release { .. }) => own,
        (What::Unit { .. }, Request::Reserve { extents: None, .. }) => own,
        (What::Extents { id, .. }, Request::Reserve { extents: Some(extents), .. }) => {
            own && extents.id == *id
        }
        (
            What::Unit { .. } | What::Extents { .. },
            Request::Reset(Reset::Unit | Reset::TargetWarm | Reset::TargetCold),
        ) => true,
        (What::Persistent { kind }, Request::ReleasePersistent { .. }) => own || kind.all_hold(),
        (What::Persistent { .. }, Request::Register { new_key: 0, .. }) => {
            (by.host, by.isid) == (grant.owner.host, grant.owner.isid)
        }
        (What::Persistent { .. }, Request::Clear { .. } | Request::Preempt { .. }) => true,
        (What::Persistent { .. }, Request::Move { .. }) => own,
        (What::Unit { .. } | What::Extents { .. } | What::Persistent { .. }, _) => false,
    }
}

/// What a command does, as the tables ask.
enum Does {
    Look,
    Read(Extent),
    Write(Vec<Extent>),
    /// Needs the unit.
    Unit,
    Nothing,
}

fn does(deed: &Deed) -> Does {
    match deed {
        Deed::Read { extent, .. } => Does::Read(*extent),
        Deed::Write { extents, .. } => Does::Write(extents.clone()),
        Deed::Swap { extent, .. } => Does::Write(vec![*extent]),
        Deed::Flush => Does::Unit,
        Deed::Inspect => Does::Look,
        Deed::Check { access: Access::Look } => Does::Look,
        Deed::Check { access: Access::Control } => Does::Unit,
        Deed::Check { .. } | Deed::Control { .. } | Deed::Leave => Does::Nothing,
    }
}

fn conflicts(grant: &Grant, registered: bool, op: &Operation) -> bool {
    let holds = |third_party: Option<HostId>| match third_party {
        None => op.nexus == grant.owner,
        Some(host) => op.nexus.host == host,
    };
    if let Deed::Control { request, .. } = &op.deed {
        return request_conflicts(grant, request, op.nexus);
    }
    match &grant.what {
        // SPC-2 5.5.1.
        What::Unit { third_party } => !holds(*third_party) && !matches!(does(&op.deed), Does::Nothing),
        What::Extents { third_party, claims, .. } => {
            let holder = holds(*third_party);
            let met = |extent: &Extent, bad: fn(ExtentKind, bool) -> bool| {
                claims.iter().any(|claim| claim.extent.overlaps(*extent) && bad(claim.kind, holder))
            };
            match does(&op.deed) {
                Does::Look | Does::Nothing => false,
                Does::Read(extent) => met(&extent, read_is_kept_out),
                Does::Write(extents) => extents.iter().any(|extent| met(extent, write_is_kept_out)),
                Does::Unit => !holder,
            }
        }
        What::Persistent { kind } => {
            if op.nexus == grant.owner || (registered && !only_the_holder(*kind)) {
                return false;
            }
            match does(&op.deed) {
                Does::Look | Does::Nothing => false,
                Does::Read(_) => reads_kept_out(*kind),
                Does::Write(_) | Does::Unit => true,
            }
        }
    }
}

/// SCSI-2 9.2.12.2.
fn read_is_kept_out(kind: ExtentKind, holder: bool) -> bool {
    !holder && matches!(kind, ExtentKind::ReadExclusive | ExtentKind::ExclusiveAccess)
}

/// See [`read_is_kept_out`].
fn write_is_kept_out(kind: ExtentKind, holder: bool) -> bool {
    match kind {
        ExtentKind::ReadShared => true,
        ExtentKind::WriteExclusive | ExtentKind::ExclusiveAccess => !holder,
        ExtentKind::ReadExclusive => false,
    }
}

/// SPC-4 table 65: types 1 and 3.
fn only_the_holder(kind: PersistentKind) -> bool {
    matches!(kind, PersistentKind::WriteExclusive | PersistentKind::ExclusiveAccess)
}

/// SPC-4 table 65: types 3, 6, 8.
fn reads_kept_out(kind: PersistentKind) -> bool {
    matches!(
        kind,
        PersistentKind::ExclusiveAccess
            | PersistentKind::ExclusiveAccessRegistrants
            | PersistentKind::ExclusiveAccessAll
    )
}

/// Whether a request that ended well should have met a conflict.
fn request_conflicts(grant: &Grant, request: &Request, by: Nexus) -> bool {
    let own = by == grant.owner;
    let persistent_out = |request: &Request| {
        matches!(
            request,
            Request::Register { .. }
                | Request::ReservePersistent { .. }
                | Request::ReleasePersistent { .. }
                | Request::Clear { .. }
                | Request::Preempt { .. }
                | Request::Move { .. }
        )
    };
    match (&grant.what, request) {
        (What::Unit { .. }, Request::Reserve { .. }) => !own,
        (What::Unit { third_party }, Request::SetModes(_)) => match third_party {
            None => !own,
            Some(host) => by.host != *host,
        },
        (What::Extents { .. }, Request::Reserve { extents: None, .. }) => !own,
        (What::Extents { claims, .. }, Request::Reserve { extents: Some(new), .. }) => {
            !own && claims.iter().any(|a| new.claims.iter().any(|b| two_kinds_conflict(a, b)))
        }
        // SPC-2 5.5.1: whoever asks, the owner too.
        (What::Unit { .. } | What::Extents { .. }, request) => persistent_out(request),
        (What::Persistent { kind }, Request::ReservePersistent { kind: other, .. }) => {
            !own && (!kind.all_hold() || kind != other)
        }
        (What::Persistent { kind }, Request::Reserve { .. }) => !own && only_the_holder(*kind),
        (What::Persistent { .. }, _) => false,
    }
}

/// SCSI-2 9.2.12.2: of two owners.
fn two_kinds_conflict(a: &Claim, b: &Claim) -> bool {
    use ExtentKind::{ReadExclusive, ReadShared, WriteExclusive};
    let together =
        [(ReadShared, ReadShared), (WriteExclusive, ReadExclusive), (ReadExclusive, WriteExclusive)];
    a.extent.overlaps(b.extent) && !together.contains(&(a.kind, b.kind))
}

impl World {
    /// Whether no request on the volume is under way, by what both sites say. Then their tables must be equal.
    pub(crate) fn judge_tables(&mut self) {
        for volume in 0..self.scenario.volumes.len() {
            if !self.drained(volume) {
                continue;
            }
            if self.scenario.volumes[volume].rules.disk {
                if self.units_quiet(volume) {
                    let registered = self.judge_units(volume);
                    let now = self.moment();
                    self.ledger.settled(volume, registered, now);
                }
                continue;
            }
            let id = volume_id(volume);
            let [a, b] = self.places.each_ref().map(|place| place.site.as_ref()?.reservations(id));
            if a != b {
                let what = format!("vol{volume}: no request is under way, and yet A has {a:?}, B has {b:?}");
                return self.violation("tables", what);
            }
            let state = a.map(|table| table.parts());
            let registered =
                state.iter().flat_map(|state| state.registrations.iter().map(|r| r.registrant.nexus));
            let registered = registered.collect();
            let now = self.moment();
            self.ledger.settled(volume, registered, now);
            self.counts.tables_compared += 1;
        }
    }

    /// Whether both sites run and say that no request on the volume is under way.
    pub(crate) fn drained(&self, volume: usize) -> bool {
        let id = volume_id(volume);
        self.places.iter().all(|place| place.site.as_ref().is_some_and(|site| site.settled(id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use biplex_engine::Lba;

    fn nexus(host: u64, site: SiteId) -> Nexus {
        Nexus { host: HostId(host), isid: 1, site }
    }

    fn asked(op: usize, by: Nexus, request: Request, asked: Moment) -> Asked {
        Asked { op, volume: 0, by, request, asked, ended: Moment::MAX, loose: false }
    }

    fn read(by: Nexus, moment: Moment) -> Operation {
        let extent = Extent::new(Lba(0), 1).unwrap();
        Operation {
            site: by.site,
            host: 0,
            nexus: by,
            volume: 0,
            deed: Deed::Read { extent, values: vec![] },
            time: 0,
            asked: moment,
            done: None,
            taken: true,
            refused: false,
            by: None,
        }
    }

    const RESERVE: Request = Request::Reserve { third_party: None, extents: None };
    const RELEASE: Request = Request::Release { third_party: None, extents: None };

    #[test]
    fn a_command_is_judged_between_the_grant_and_the_first_wish_to_end_it() {
        let (a, b) = (nexus(1, SiteId::A), nexus(2, SiteId::B));
        let mut ledger = Ledger::default();
        ledger.ask(asked(0, a, RESERVE, 1));
        ledger.told(0, Verdict::Done, 3);
        assert!(ledger.judge(&read(b, 2)).is_ok(), "asked before the grant");
        assert!(ledger.judge(&read(b, 4)).is_err());
        assert!(ledger.judge(&read(a, 4)).is_ok());
        ledger.ask(asked(1, b, RELEASE, 5));
        assert!(ledger.judge(&read(b, 6)).is_err(), "nobody else's release frees");
        ledger.ask(asked(2, a, RELEASE, 7));
        assert!(ledger.judge(&read(b, 8)).is_ok());
    }

    #[test]
    fn what_may_end_it_unseen_makes_it_unsure() {
        let (a, b) = (nexus(1, SiteId::A), nexus(2, SiteId::B));
        let mut ledger = Ledger::default();
        ledger.ask(asked(0, b, Request::Reset(Reset::Unit), 1));
        ledger.lost(0);
        ledger.ask(asked(1, a, RESERVE, 2));
        ledger.told(1, Verdict::Done, 3);
        assert_eq!(ledger.standing(), 0);
        ledger.settled(0, BTreeSet::new(), 4);
        ledger.ask(asked(2, a, RESERVE, 5));
        ledger.told(2, Verdict::Done, 6);
        assert_eq!(ledger.standing(), 1);
    }

    #[test]
    fn a_command_that_was_asked_while_its_host_may_have_been_registered_may_be_served() {
        let (a, b) = (nexus(1, SiteId::A), nexus(2, SiteId::B));
        let register = |new_key| crate::claims::register(None, new_key, false, false, HostId(2));
        let write = |moment| Operation {
            deed: Deed::Write { extents: vec![Extent::new(Lba(0), 1).unwrap()], value: 1 },
            ..read(b, moment)
        };
        let kind = PersistentKind::WriteExclusiveAll;
        let mut ledger = Ledger::default();
        ledger.settled(0, BTreeSet::from([a]), 1);
        ledger.ask(asked(0, a, Request::ReservePersistent { key: 1, kind }, 2));
        ledger.told(0, Verdict::Done, 3);
        assert!(ledger.judge(&write(4)).is_err(), "not registered");
        ledger.ask(asked(1, b, register(5), 5));
        ledger.told(1, Verdict::Done, 6);
        ledger.settled(0, BTreeSet::from([a, b]), 7);
        assert!(ledger.judge(&write(8)).is_ok());
        ledger.ask(asked(2, b, register(0), 9));
        let under_way = write(10);
        ledger.told(2, Verdict::Done, 11);
        ledger.settled(0, BTreeSet::from([a]), 12);
        assert!(ledger.judge(&under_way).is_ok(), "it may have come in before it was unregistered");
        assert!(ledger.judge(&write(13)).is_err());
    }
}
