//! Volumes whose reservations the stores keep (E5.1, E5.2): what is asked of them, in order, at both sites.
//!
//! ```text
//! at both sites, in stamp order:
//!     execute ─▶ Pass ─▶ (the site: the store's unit) ─▶ handle_passed ─▶ outcome in the own journal ─▶ next
//! peer's request:  ─▶ Passed ─▶ ack        own request: own and peer's outcome ─▶ settle ─▶ decided ─▶ answer
//! ```
//! No table of reservations is kept: [`Kept`] is what remains with the pair (mode parameters, and who registered once,
//! so that its nexus with the unit is there when data must go through it).
//!
//! A unit is asked once for each request, also after a restart: asked again, REGISTER would conflict with itself, and one
//! that is fenced off would be registered anew. So what came of it is in the own journal before anybody hears of it and
//! before the next is asked. Only of the one request of a volume that was with the unit when the site stopped nothing is
//! known: it is asked again, and a conflict then means nothing ([`Verdict::Unreachable`]).
//!
//! Invariants: one request of a volume is with the unit at a time; nothing later of that volume is executed before it
//! is answered; a host hears DONE only where both units did it; whatever stood at the door while a request was with the
//! unit was admitted by what the unit said before, and is sent away to be admitted anew.

use crate::control::Turn;
use crate::engine::{Action, Engine, Outcome, Rules, Severity};
use crate::entry::Body;
use crate::held::{Fate, HeldBody, charge_of};
use crate::hosts::Wish;
use crate::message::Message;
use crate::mutant::{Mutant, planted};
use crate::reserve::{Attention, Effect, Request, Reservations, Reset, Verdict};
use crate::units::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

/// How many outcomes are remembered while the other site's is not known.
const OUTCOMES_MAX: usize = 1024;

/// Outcomes of requests that units executed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Passes {
    /// Outcomes here of the peer's requests, newest last: told again when a session begins.
    told: VecDeque<(Stamp, Verdict)>,
    /// Outcomes here of own requests whose outcome there is not known.
    own: BTreeMap<Stamp, Verdict>,
    /// Outcomes there of own requests whose outcome here is not known.
    heard: BTreeMap<Stamp, Verdict>,
    /// Own requests over which the units differed, that nobody has been told of.
    differed: BTreeSet<Stamp>,
    /// Outcomes here that are on their way into the own journal.
    written: BTreeMap<Stamp, (VolumeId, Verdict)>,
    /// Nexuses of this site that reserved the unit at both, or may have in an earlier run; by SCSI-2, for which third
    /// party. Asking for it again they lose nothing if one unit does not answer.
    holders: BTreeMap<(VolumeId, Nexus, Way), Option<HostId>>,
}

/// How a unit is reserved.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Way {
    Scsi2,
    Persistent,
}

/// What a request is granted.
#[derive(Default)]
struct Grant {
    /// The unit, which can be had before and be had again; extents of the same id supersede.
    unit: Option<(Way, Option<HostId>)>,
    /// What takes it back.
    undo: Option<Request>,
}

impl Grant {
    fn of(request: &Request) -> Grant {
        match request {
            Request::Reserve { third_party, extents } => Grant {
                unit: extents.is_none().then_some((Way::Scsi2, *third_party)),
                undo: Some(Request::Release {
                    third_party: *third_party,
                    extents: extents.as_ref().map(|extents| extents.id),
                }),
            },
            Request::ReservePersistent { key, kind } => Grant {
                unit: Some((Way::Persistent, None)),
                // Of all registrants' reservation it would take their part, too.
                undo: (!kind.all_hold()).then_some(Request::ReleasePersistent { key: *key, kind: *kind }),
            },
            Request::Release { .. }
            | Request::Register { .. }
            | Request::ReleasePersistent { .. }
            | Request::Clear { .. }
            | Request::Preempt { .. }
            | Request::Move { .. }
            | Request::Reset(_)
            | Request::SetModes(_)
            | Request::NexusLost
            | Request::SiteStarted { .. } => Grant::default(),
        }
    }
}

impl Passes {
    /// A request was executed: who does not surely hold the unit any more?
    fn forget_holders(&mut self, id: VolumeId, nexus: Nexus, request: &Request) {
        let asks = |who: Nexus| who == nexus;
        let (way, ends): (Way, &dyn Fn(Nexus) -> bool) = match request {
            Request::Release { extents: None, .. } | Request::NexusLost => (Way::Scsi2, &asks),
            Request::Reset(Reset::TaskSet) => return,
            Request::Reset(_) | Request::SiteStarted { .. } => (Way::Scsi2, &|_| true),
            Request::ReleasePersistent { .. } | Request::Register { new_key: 0, .. } => {
                (Way::Persistent, &asks)
            }
            Request::Clear { .. } | Request::Move { .. } => (Way::Persistent, &|_| true),
            // Who preempts and held it holds it.
            Request::Preempt { .. } => (Way::Persistent, &|who| who != nexus),
            Request::Reserve { .. }
            | Request::Release { .. }
            | Request::Register { .. }
            | Request::ReservePersistent { .. }
            | Request::SetModes(_) => return,
        };
        self.holders.retain(|(of, who, by), _| *of != id || *by != way || !ends(*who));
    }

    /// Whether the units differed over it: asked again at once, they would again.
    pub(crate) fn take_difference(&mut self, stamp: Stamp) -> bool {
        self.differed.remove(&stamp)
    }
}

/// What of a request remains with the pair's own tables.
pub(crate) struct Kept;

impl Kept {
    /// As it is applied to the tables, and by whom; empty: the store's unit alone keeps it.
    pub(crate) fn of(
        rules: Rules,
        table: &Reservations,
        nexus: Nexus,
        request: &Request,
    ) -> Vec<(Nexus, Request)> {
        if !rules.disk {
            return vec![(nexus, request.clone())];
        }
        // Whoever registered once, or was registered, has a nexus with the unit from then on, also after a restart.
        let registers = |who: Nexus, name: &Arc<str>, new_key: u64| {
            let (key, aptpl, all_ports, name, also) = (None, true, false, name.clone(), Vec::new());
            (who, Request::Register { key, new_key, aptpl, all_ports, name, also })
        };
        match request {
            Request::SetModes(_) | Request::Reset(_) | Request::SiteStarted { .. } => {
                vec![(nexus, request.clone())]
            }
            Request::Register { new_key, name, also, .. } => {
                let also = also.iter().filter(|_| *new_key != 0);
                let also = also.map(|one| registers(one.nexus, &one.name, *new_key));
                std::iter::once(registers(nexus, name, *new_key)).chain(also).collect()
            }
            Request::Move { new_key, unregister, to, .. } => {
                let leaves = unregister.then(|| registers(nexus, &to.name, 0));
                std::iter::once(registers(to.nexus, &to.name, *new_key)).chain(leaves).collect()
            }
            Request::Clear { .. } => {
                let all = table.parts().registrations.iter().map(|one| &one.registrant);
                all.map(|one| registers(one.nexus, &one.name, 0)).collect()
            }
            // Whose key it was only the unit knows for sure, and data may have to go through a nexus that is still there.
            Request::Preempt { .. }
            | Request::Reserve { .. }
            | Request::Release { .. }
            | Request::ReservePersistent { .. }
            | Request::ReleasePersistent { .. }
            | Request::NexusLost => Vec::new(),
        }
    }

    /// Whether a conflict may be over when other requests are executed that are known already (E3.5).
    pub(crate) fn may_wait(request: &Request) -> bool {
        matches!(request, Request::Reserve { .. } | Request::ReservePersistent { .. })
    }

    /// Whether it remains although the unit did not say that it was done: a nexus too many does no harm.
    fn remains(request: &Request, verdict: Verdict) -> bool {
        let registers = matches!(request, Request::Register { new_key: 1.., .. });
        verdict == Verdict::Done || (verdict == Verdict::Unreachable && registers)
    }

    /// Whether what would remain of a request that recovery found is to be expected. `found`: what its unit is known to have
    /// answered. Who may still be registered is: data may have to go through its nexus.
    pub(crate) fn is_ahead(rules: Rules, kept: &Request, found: Option<Verdict>) -> bool {
        let leaves = matches!(kept, Request::Register { new_key: 0, .. });
        match found {
            _ if !rules.disk => true,
            Some(verdict) => Kept::remains(kept, verdict),
            None => !leaves,
        }
    }

    /// Whether the unit has a part in it.
    pub(crate) fn passes(rules: Rules, request: &Request) -> bool {
        rules.disk && !matches!(request, Request::SetModes(_))
    }
}

impl Engine {
    /// Whether the stores keep this volume's reservations.
    pub fn kept_by_disk(&self, id: VolumeId) -> bool {
        self.volumes.get(&id).is_some_and(|volume| volume.rules.disk)
    }

    /// Whether a nexus of this site may have something with the unit.
    pub fn visits(&self, id: VolumeId, nexus: Nexus) -> bool {
        self.volumes.get(&id).is_some_and(|volume| volume.ledger.visitors.contains(&nexus))
    }

    /// Who registered and did not unregister, as far as the pair knows, recovered requests that still wait included.
    pub fn registrants(&self, id: VolumeId) -> BTreeSet<Nexus> {
        let ledger = self.volumes.get(&id).map(|volume| &volume.ledger);
        let tables = ledger.into_iter().flat_map(|ledger| ledger.outlook.iter().chain([&ledger.live]));
        tables.flat_map(|table| &table.parts().registrations).map(|one| one.registrant.nexus).collect()
    }

    /// Worst-case journal bytes of an entry of this volume.
    pub(crate) fn charge_of(&self, id: VolumeId, body: &Body) -> u64 {
        charge_of(body, self.records(id, body))
    }

    /// Whether the outcome of such an entry is put into the journal.
    pub(crate) fn records(&self, id: VolumeId, body: &Body) -> bool {
        match body {
            Body::Swap(_) => true,
            Body::Control(request) => {
                self.volumes.get(&id).is_some_and(|volume| Kept::passes(volume.rules, request))
            }
            Body::Data(_) | Body::Fill(_) | Body::Unmap | Body::Verdict(_) => false,
        }
    }

    /// A request's turn has come: it goes to the unit. True if an earlier run had it executed.
    pub(crate) fn pass_control(&mut self, id: VolumeId, stamp: Stamp) -> bool {
        let found = self.order.found.remove(&stamp).filter(|_| !planted(Mutant::PassAgain));
        if let Some(verdict) = found {
            self.conclude_pass(id, stamp, verdict);
            return true;
        }
        let Some(held) = self.entries[stamp.site.index()].get(&stamp) else { return true };
        let HeldBody::Control(request) = &held.body else { return true };
        let (nexus, request) = (held.nexus(stamp.site), request.clone());
        if let Some(volume) = self.volumes.get_mut(&id) {
            volume.ledger.judging = Some((stamp, None));
        }
        self.order(Action::Pass { stamp, volume: id, nexus, request });
        false
    }

    /// An [`Action::Pass`] ended. What came of it is written down before anything follows from it.
    pub fn handle_passed(&mut self, id: VolumeId, stamp: Stamp, verdict: Verdict) {
        let Some(volume) = self.volumes.get(&id) else { return };
        let Some((passed, _)) = volume.ledger.judging else { return };
        assert_eq!(passed, stamp, "one request of a volume is with the unit at a time");
        let Some(held) = self.entries[stamp.site.index()].get(&stamp) else { return };
        let again = held.append == AppendSeq(0);
        let verdict = match verdict {
            Verdict::Conflict if again && !planted(Mutant::PassAgain) => Verdict::Unreachable,
            verdict => verdict,
        };
        self.order.passes.written.insert(stamp, (id, verdict));
        self.record_verdict(stamp, verdict);
    }

    /// Outcomes that are in the own journal now take effect.
    pub(crate) fn passes_written(&mut self, now: Now) {
        let open: BTreeSet<Stamp> = self.order.recording.iter().map(|(_, stamp)| *stamp).collect();
        let written = &mut self.order.passes.written;
        let ended: Vec<_> = written.extract_if(.., |stamp, _| !open.contains(stamp)).collect();
        if ended.is_empty() {
            return;
        }
        for (stamp, (id, verdict)) in ended {
            if let Some(volume) = self.volumes.get_mut(&id) {
                volume.ledger.judging = None;
                volume.ledger.pending.remove(&stamp);
            }
            self.conclude_pass(id, stamp, verdict);
            self.look_anew(id);
            self.execute(now);
            self.wake_turns(id);
        }
        self.pump_doors(now);
        self.try_cut(now);
    }

    /// What follows from a request that the unit executed.
    fn conclude_pass(&mut self, id: VolumeId, stamp: Stamp, verdict: Verdict) {
        let own = self.config.site;
        let Some(volume) = self.volumes.get_mut(&id) else { return };
        let Some(held) = self.entries[stamp.site.index()].get_mut(&stamp) else { return };
        let HeldBody::Control(request) = &held.body else { return };
        let (nexus, request) = (held.nexus(stamp.site), request.clone());
        if verdict == Verdict::Done && request.may_free() {
            volume.ledger.freed = stamp;
        }
        let mut effects = Vec::new();
        if let (Request::Preempt { victim, abort: true, .. }, Verdict::Done) = (&*request, verdict) {
            let all = &volume.ledger.live.parts().registrations;
            let victims = all.iter().filter(|one| one.key == *victim && one.registrant.nexus != nexus);
            effects.extend(victims.map(|one| Effect::Abort(one.registrant.nexus)));
        }
        let mut forgotten = None;
        if !Kept::remains(&request, verdict) {
            held.fate = Fate::Missed;
        } else {
            let limit = self.config.reservation_bytes;
            for (who, kept) in Kept::of(volume.rules, &volume.ledger.live, nexus, &request) {
                let (kept, follows) = volume.ledger.live.apply_within(limit, stamp, who, &kept);
                effects.extend(follows);
                forgotten = forgotten.or((kept == Verdict::NoRoomToRegister).then_some(who));
            }
        }
        // All nexuses that a site had with a unit end when it does, and so do their SCSI-2 reservations.
        if matches!(*request, Request::SiteStarted { .. }) {
            effects.push(Effect::AttendAll { but: None, attention: Attention::Reset });
        }
        // What the unit said to these was said before. Mode parameters are asked for by a command, too.
        let old = |wish: &Wish| !planted(Mutant::KeepOldAnswer) && !matches!(wish, Wish::Control(_));
        let mode = |wish: &Wish| matches!(wish, Wish::Control(r) if matches!(**r, Request::SetModes(_)));
        let away = volume.doors.drop_all(|knock| old(&knock.wish) || mode(&knock.wish));
        let name = volume.geometry.name.clone();
        away.into_iter().for_each(|op| self.refuse(op, Outcome::Busy));
        let text =
            format!("volume {name}: {} by {nexus}, stamp {stamp}: its unit: {verdict}", request.name());
        self.notice(Severity::Info, text);
        if let Some(who) = forgotten {
            let text = format!(
                "volume {name}: more hosts are registered with the units than the pair can remember, {who} among \
                 them, and more that were preempted: while such a one has a unit reserved, data may find no way to \
                 it. Have a registered host CLEAR, and those that stay register anew"
            );
            self.notice(Severity::Alarm, text);
        }
        self.order.passes.forget_holders(id, nexus, &request);
        if stamp.site == own {
            self.outcome_here(stamp, verdict);
        } else {
            self.order.barriers.push_back((stamp, self.outbound.issued));
            self.session.ack_owed = true;
            if self.order.passes.told.len() == OUTCOMES_MAX {
                self.order.passes.told.pop_front();
            }
            self.order.passes.told.push_back((stamp, verdict));
            if self.session.accepted() {
                self.order(Action::Send(Message::Passed { stamp, verdict }));
            }
        }
        effects.into_iter().for_each(|effect| self.follow(id, effect));
    }

    /// A session begins: the peer may have missed what came of its requests.
    pub(crate) fn tell_outcomes(&mut self) {
        for (stamp, verdict) in self.order.passes.told.clone() {
            self.order(Action::Send(Message::Passed { stamp, verdict }));
        }
    }

    /// Recovery is over: who is registered may hold a persistent reservation since an earlier run. By SCSI-2 nobody does.
    pub(crate) fn suspect_holders(&mut self) {
        let ids: Vec<VolumeId> = self.volumes.keys().copied().filter(|id| self.kept_by_disk(*id)).collect();
        for id in ids {
            let own = self.registrants(id).into_iter().filter(|nexus| nexus.site == self.config.site);
            self.order.passes.holders.extend(own.map(|nexus| ((id, nexus, Way::Persistent), None)));
        }
    }

    fn outcome_here(&mut self, stamp: Stamp, verdict: Verdict) {
        if planted(Mutant::OwnUnitDecides) {
            return self.order.decided(stamp, verdict);
        }
        match self.order.passes.heard.remove(&stamp).or_else(|| self.forgotten(stamp)) {
            Some(there) => self.compare_outcomes(stamp, verdict, there),
            None => {
                let own = &mut self.order.passes.own;
                own.insert(stamp, verdict);
                if own.len() > OUTCOMES_MAX {
                    own.pop_first();
                }
            }
        }
    }

    /// The peer says what came of an own request at its unit.
    pub(crate) fn handle_outcome(&mut self, now: Now, stamp: Stamp, verdict: Verdict) {
        if stamp.site != self.config.site {
            return;
        }
        match self.order.passes.own.remove(&stamp) {
            Some(here) => self.compare_outcomes(stamp, here, verdict),
            // Told a second time, or not executed here yet.
            None if !self.pending_own(stamp) => return,
            None => {
                let heard = &mut self.order.passes.heard;
                heard.insert(stamp, verdict);
                if heard.len() > OUTCOMES_MAX {
                    heard.pop_first();
                }
            }
        }
        self.pump_owed(now);
    }

    /// The peer has acked more: what it had to tell of own requests up to there it told before, or does not know any more.
    pub(crate) fn settle_forgotten(&mut self) {
        let all = self.order.passes.own.range(..=self.outbound.acked).map(|(stamp, here)| (*stamp, *here));
        for (stamp, here) in all.collect::<Vec<_>>() {
            if let Some(there) = self.forgotten(stamp) {
                self.order.passes.own.remove(&stamp);
                self.compare_outcomes(stamp, here, there);
            }
        }
    }

    /// What is to be thought of an own request that the peer has executed and will not tell of: it destaged it and was
    /// started anew before the line told. What an earlier run of this site asked for may have been told to that.
    fn forgotten(&self, stamp: Stamp) -> Option<Verdict> {
        let held = self.entries[stamp.site.index()].get(&stamp)?;
        let HeldBody::Control(request) = &held.body else { return None };
        // These have no other outcome.
        let plain = matches!(**request, Request::NexusLost | Request::Reset(_) | Request::SiteStarted { .. });
        let there = if plain { Verdict::Done } else { Verdict::Unreachable };
        (stamp <= self.outbound.acked && held.append != AppendSeq(0)).then_some(there)
    }

    fn pending_own(&self, stamp: Stamp) -> bool {
        self.volumes.values().any(|volume| volume.ledger.pending.contains_key(&stamp))
    }

    /// Both outcomes of an own request are known. Where not both units did it the host is told the one that grants less,
    /// and what one granted, or may have, is taken back at both.
    fn compare_outcomes(&mut self, stamp: Stamp, here: Verdict, there: Verdict) {
        let verdict = if here == Verdict::Done { there } else { here };
        self.order.decided(stamp, verdict);
        let Some(held) = self.entries[stamp.site.index()].get(&stamp) else { return };
        let HeldBody::Control(request) = &held.body else { return };
        let (id, nexus, request) = (held.volume, held.nexus(stamp.site), request.clone());
        let Grant { unit: wanted, undo } = Grant::of(&request);
        let superseded = undo.as_ref().is_some_and(|undo| self.is_superseded(id, stamp, nexus, undo));
        let doubt = [here, there].contains(&Verdict::Unreachable);
        let differ = (here == Verdict::Done) != (there == Verdict::Done);
        if verdict == Verdict::Done {
            if let Some((way, third_party)) = wanted.filter(|_| !superseded) {
                self.order.passes.holders.insert((id, nexus, way), third_party);
            }
            return;
        }
        // A unit that cannot reserve such has nothing to release: both are free of it.
        let idle = matches!((&*request, verdict), (Request::Release { .. }, Verdict::BadCdb(_)));
        // What a nexus had by SCSI-2 went with the session that gave no answer.
        let perhaps = doubt && !matches!(*request, Request::Release { .. });
        if idle || !(differ || perhaps) {
            return;
        }
        let holders = &self.order.passes.holders;
        let held_before =
            wanted.is_some_and(|(way, third_party)| holders.get(&(id, nexus, way)) == Some(&third_party));
        if differ {
            let differed = &mut self.order.passes.differed;
            differed.insert(stamp);
            if differed.len() > OUTCOMES_MAX {
                differed.pop_first();
            }
        }
        let what = match undo {
            Some(_) if superseded => "What it asked for behind this counts",
            Some(_) if held_before => "What it held before it holds on",
            Some(_) => "What the one granted, or may have, is released again",
            None => {
                "The units may now hold different reservations: read the keys at both, and have a registered host \
                 CLEAR or PREEMPT, which goes to both"
            }
        };
        let name = self.volumes.get(&id).map_or(String::new(), |volume| volume.geometry.name.clone());
        let text = format!(
            "volume {name}: the units differ over {} by {nexus}, stamp {stamp}: here {here}, at the other site {there}. \
             The host was told: {verdict}. {what}",
            request.name()
        );
        let told = if differ || undo.is_none() { Severity::Alarm } else { Severity::Warning };
        self.notice(told, text);
        if let Some(undo) = undo
            && !held_before
            && !superseded
        {
            self.order.owe(id, nexus, undo);
        }
    }

    /// Whether a nexus is known to have asked for the same again, or for its end, behind a request: to take back what that
    /// was granted would now take what it was told it has. So it is where a run before this one took it back, and where a
    /// host did not wait for the answer.
    fn is_superseded(&self, id: VolumeId, stamp: Stamp, nexus: Nexus, undo: &Request) -> bool {
        let later = (Bound::Excluded(stamp), Bound::Unbounded);
        self.entries[stamp.site.index()].range(later).any(|(_, held)| match &held.body {
            HeldBody::Control(request) => {
                let same = **request == *undo || Grant::of(request).undo.as_ref() == Some(undo);
                held.volume == id && held.nexus(stamp.site) == nexus && same
            }
            HeldBody::Data(_) | HeldBody::Fill(_) | HeldBody::Unmap | HeldBody::Swap(_) => false,
        })
    }

    /// The last known request of a volume that is not executed and may end a reservation. Only for such a one does a
    /// refused reserve start over: two that waited for each other would do so for ever.
    pub(crate) fn last_that_frees(&self, id: VolumeId) -> Option<Stamp> {
        let pending = self.volumes.get(&id)?.ledger.pending.keys().rev();
        pending.copied().find(|stamp| {
            let held = self.entries[stamp.site.index()].get(stamp);
            held.is_some_and(|held| match &held.body {
                HeldBody::Control(request) => held.volume == id && request.may_free(),
                HeldBody::Data(_) | HeldBody::Fill(_) | HeldBody::Unmap | HeldBody::Swap(_) => false,
            })
        })
    }

    /// A nexus that a host has with the unit here was lost, and with it what it reserved by SCSI-2, at this unit alone.
    /// That must not stand at the other: for the pair it is a reset of the unit, told to all (SAM-5 6.3.3).
    /// `reset`: of which kind.
    pub fn handle_unit_lost(&mut self, now: Now, id: VolumeId, reset: Reset) {
        let nobody = Nexus { host: HostId(0), isid: 0, site: self.config.site };
        self.order.owe(id, nobody, Request::Reset(reset));
        self.pump_owed(now);
    }

    /// Whether an entry is executed by the unit.
    pub(crate) fn is_passed(&self, id: VolumeId, stamp: Stamp, turn: Turn) -> bool {
        let Some(volume) = self.volumes.get(&id) else { return false };
        let held = self.entries[stamp.site.index()].get(&stamp);
        turn == Turn::Control
            && held.is_some_and(|held| match &held.body {
                HeldBody::Control(request) => Kept::passes(volume.rules, request),
                HeldBody::Data(_) | HeldBody::Fill(_) | HeldBody::Unmap | HeldBody::Swap(_) => false,
            })
    }
}
