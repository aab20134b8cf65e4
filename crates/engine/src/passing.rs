//! Volumes whose reservations the stores keep (E5.1, E5.2): what is asked of them, in order, at both sites.
//!
//! ```text
//! at both sites, in stamp order:  execute ─▶ Pass ─▶ (the site: the store's unit) ─▶ handle_passed ─▶ next
//! peer's request:  ─▶ Passed ─▶ ack        own request: own and peer's outcome ─▶ settle ─▶ decided ─▶ answer
//! ```
//! No table of reservations is kept: [`Kept`] is what remains with the pair (mode parameters, and who registered once,
//! so that its nexus with the unit is there when data must go through it).
//!
//! Invariants: one request of a volume is with the unit at a time; nothing later of that volume is executed before it
//! is answered; a host hears DONE only where both units did it; whatever stood at the door while a request was with the
//! unit was admitted by what the unit said before, and is sent away to be admitted anew.

use crate::control::Turn;
use crate::engine::{Action, Engine, Outcome, Rules, Severity};
use crate::entry::Body;
use crate::held::{HeldBody, charge_of};
use crate::hosts::{Knock, Wish};
use crate::message::Message;
use crate::mutant::{Mutant, planted};
use crate::reserve::{Attention, Effect, Request, Reset, Verdict};
use crate::units::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

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
    /// Own requests up to this were made by an earlier run: passed again, their outcome means nothing.
    before: Stamp,
}

impl Passes {
    /// Whether the units differed over it: asked again at once, they would again.
    pub(crate) fn take_difference(&mut self, stamp: Stamp) -> bool {
        self.differed.remove(&stamp)
    }
}

/// What of a request remains with the pair's own tables.
pub(crate) struct Kept;

impl Kept {
    /// As it is applied to the tables; `None`: the store's unit alone keeps it.
    pub(crate) fn of(rules: Rules, request: &Request) -> Option<Request> {
        if !rules.disk {
            return Some(request.clone());
        }
        match request {
            Request::SetModes(_) | Request::Reset(_) | Request::SiteStarted { .. } => Some(request.clone()),
            // Whoever registered once has a nexus with the unit from then on, also after a restart.
            Request::Register { new_key, name, .. } => Some(Request::Register {
                key: None,
                new_key: *new_key,
                aptpl: true,
                all_ports: false,
                name: name.clone(),
                also: Vec::new(),
            }),
            Request::Reserve { .. }
            | Request::Release { .. }
            | Request::ReservePersistent { .. }
            | Request::ReleasePersistent { .. }
            | Request::Clear { .. }
            | Request::Preempt { .. }
            | Request::Move { .. }
            | Request::NexusLost => None,
        }
    }

    /// Whether a conflict may be over when other requests are executed that are known already (E3.5).
    pub(crate) fn may_wait(request: &Request) -> bool {
        matches!(request, Request::Reserve { .. } | Request::ReservePersistent { .. })
    }

    /// Whether passing it twice may end otherwise than once, where others came in between.
    pub(crate) fn is_recorded(request: &Request) -> bool {
        match request {
            Request::Register { .. }
            | Request::ReservePersistent { .. }
            | Request::ReleasePersistent { .. }
            | Request::Clear { .. }
            | Request::Preempt { .. }
            | Request::Move { .. } => true,
            // What is reserved by SCSI-2 ends with the site's start.
            Request::Reserve { .. }
            | Request::Release { .. }
            | Request::Reset(_)
            | Request::SetModes(_)
            | Request::NexusLost
            | Request::SiteStarted { .. } => false,
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

    /// Recovery is over.
    pub(crate) fn passes_recovered(&mut self) {
        self.order.passes.before = self.outbound.issued;
    }

    /// Worst-case journal bytes of an entry of this volume.
    pub(crate) fn charge_of(&self, id: VolumeId, body: &Body) -> u64 {
        charge_of(body, self.records(id, body))
    }

    /// Whether the outcome of such an entry is put into the journal.
    pub(crate) fn records(&self, id: VolumeId, body: &Body) -> bool {
        match body {
            Body::Swap(_) => true,
            Body::Control(request) => self.kept_by_disk(id) && Kept::is_recorded(request),
            Body::Data(_) | Body::Fill(_) | Body::Unmap | Body::Verdict { .. } => false,
        }
    }

    /// A request's turn has come: it goes to the unit. `true`: it was there before a restart, and is not passed again.
    pub(crate) fn pass_control(&mut self, id: VolumeId, stamp: Stamp) -> bool {
        let found = self.order.found.remove(&stamp).filter(|_| !planted(Mutant::PassAgain));
        if let Some(done) = found {
            let verdict = if done { Verdict::Done } else { Verdict::Conflict };
            self.take_outcome(id, stamp, verdict);
            return true;
        }
        // So a crash leaves one request of which nobody knows whether the unit had it. Passing that again changes nothing.
        let recording = |of: &Stamp| {
            let held = self.entries[of.site.index()].get(of);
            held.is_some_and(|held| held.volume == id && matches!(held.body, HeldBody::Control(_)))
        };
        if self.order.recording.iter().any(|(_, of)| recording(of)) {
            return false;
        }
        let Some(held) = self.entries[stamp.site.index()].get(&stamp) else { return false };
        let HeldBody::Control(request) = &held.body else { return false };
        let (nexus, request) = (held.nexus(stamp.site), request.clone());
        if let Some(volume) = self.volumes.get_mut(&id) {
            volume.ledger.judging = Some((stamp, None));
        }
        self.order(Action::Pass { stamp, volume: id, nexus, request });
        false
    }

    /// An [`Action::Pass`] ended.
    pub fn handle_passed(&mut self, now: Now, id: VolumeId, stamp: Stamp, verdict: Verdict) {
        let Some(volume) = self.volumes.get_mut(&id) else { return };
        let Some((passed, _)) = volume.ledger.judging.take() else { return };
        assert_eq!(passed, stamp, "one request of a volume is with the unit at a time");
        volume.ledger.pending.remove(&stamp);
        let held = self.entries[stamp.site.index()].get(&stamp);
        if held.is_some_and(|held| held.recorded) {
            self.record(stamp, verdict == Verdict::Done);
        }
        self.take_outcome(id, stamp, verdict);
        self.look_anew(id);
        self.execute(now);
        self.wake_turns(id);
        self.pump_doors(now);
        self.try_cut(now);
    }

    /// What follows from how a request ended at this site's unit.
    fn take_outcome(&mut self, id: VolumeId, stamp: Stamp, verdict: Verdict) {
        let own = self.config.site;
        let Some(volume) = self.volumes.get_mut(&id) else { return };
        let Some(held) = self.entries[stamp.site.index()].get(&stamp) else { return };
        let HeldBody::Control(request) = &held.body else { return };
        let (nexus, request) = (held.nexus(stamp.site), request.clone());
        if verdict == Verdict::Done && request.may_free() {
            volume.ledger.freed = stamp;
        }
        let mut effects = Vec::new();
        if verdict == Verdict::Done
            && let Some(kept) = Kept::of(volume.rules, &request)
        {
            let limit = self.config.reservation_bytes;
            effects = volume.ledger.live.apply_within(limit, stamp, nexus, &kept).1;
        }
        // All nexuses that a site had with a unit end when it does, and so do their SCSI-2 reservations.
        if matches!(*request, Request::SiteStarted { .. }) {
            effects.push(Effect::AttendAll { but: None, attention: Attention::Reset });
        }
        if let (Request::Preempt { victim, abort: true, .. }, Verdict::Done) = (&*request, verdict) {
            let all = &volume.ledger.live.parts().registrations;
            let victims = all.iter().filter(|one| one.key == *victim && one.registrant.nexus != nexus);
            effects.extend(victims.map(|one| Effect::Abort(one.registrant.nexus)));
        }
        // What the unit said to these was said before.
        let said_before = |knock: &Knock| !matches!(knock.wish, Wish::Control(_));
        let away = volume.doors.drop_all(|knock| said_before(knock) && !planted(Mutant::KeepOldAnswer));
        let name = volume.geometry.name.clone();
        away.into_iter().for_each(|op| self.refuse(op, Outcome::Busy));
        let text =
            format!("volume {name}: {} by {nexus}, stamp {stamp}: its unit: {verdict}", request.name());
        self.notice(Severity::Info, text);
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

    fn outcome_here(&mut self, stamp: Stamp, verdict: Verdict) {
        if self.means_nothing(stamp) {
            return;
        }
        if planted(Mutant::OwnUnitDecides) {
            return self.order.decided(stamp, verdict);
        }
        match self.order.passes.heard.remove(&stamp) {
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
        if stamp.site != self.config.site || self.means_nothing(stamp) {
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

    /// Whether the outcome of an own request says nothing: an earlier run made it, and it was perhaps passed again.
    fn means_nothing(&self, stamp: Stamp) -> bool {
        stamp <= self.order.passes.before && !self.is_recorded(stamp)
    }

    fn is_recorded(&self, stamp: Stamp) -> bool {
        self.entries[stamp.site.index()].get(&stamp).is_some_and(|held| held.recorded)
    }

    fn pending_own(&self, stamp: Stamp) -> bool {
        self.volumes.values().any(|volume| volume.ledger.pending.contains_key(&stamp))
    }

    /// Both outcomes of an own request are known. Where they differ the host is told the one that grants less, and what
    /// the other unit granted is taken back at both.
    fn compare_outcomes(&mut self, stamp: Stamp, here: Verdict, there: Verdict) {
        let verdict = if here == Verdict::Done { there } else { here };
        self.order.decided(stamp, verdict);
        // What a nexus had by SCSI-2 went with the session that was lost. A persistent request may have been done.
        let unknown = self.is_recorded(stamp) && [here, there].contains(&Verdict::Unreachable);
        if (here == Verdict::Done) == (there == Verdict::Done) && !unknown {
            return;
        }
        let differed = &mut self.order.passes.differed;
        differed.insert(stamp);
        if differed.len() > OUTCOMES_MAX {
            differed.pop_first();
        }
        let Some(held) = self.entries[stamp.site.index()].get(&stamp) else { return };
        let HeldBody::Control(request) = &held.body else { return };
        let (id, nexus, request) = (held.volume, held.nexus(stamp.site), request.clone());
        let undo = match &*request {
            Request::Reserve { .. } => Some(Request::Release { third_party: None, extents: None }),
            Request::ReservePersistent { key, kind } => {
                Some(Request::ReleasePersistent { key: *key, kind: *kind })
            }
            Request::Release { .. }
            | Request::Register { .. }
            | Request::ReleasePersistent { .. }
            | Request::Clear { .. }
            | Request::Preempt { .. }
            | Request::Move { .. }
            | Request::Reset(_)
            | Request::SetModes(_)
            | Request::NexusLost
            | Request::SiteStarted { .. } => None,
        };
        let what = match undo {
            Some(_) => "What the one granted is released again",
            None => {
                "The units now hold different reservations: read the keys at both, and have a registered host CLEAR \
                 or PREEMPT, which goes to both"
            }
        };
        let name = self.volumes.get(&id).map_or(String::new(), |volume| volume.geometry.name.clone());
        let text = format!(
            "volume {name}: the units differ over {} by {nexus}, stamp {stamp}: here {here}, at the other site {there}. \
             The host was told: {verdict}. {what}",
            request.name()
        );
        self.notice(Severity::Alarm, text);
        if let Some(undo) = undo {
            self.order.owe(id, nexus, undo);
        }
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
    pub fn handle_unit_lost(&mut self, now: Now, id: VolumeId) {
        let nobody = Nexus { host: HostId(0), isid: 0, site: self.config.site };
        self.order.owe(id, nobody, Request::Reset(Reset::Unit));
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
