//! What is decided in order: requests on the unit, COMPARE AND WRITE and, where a volume says so, writes are executed
//! in the order of their stamps, at both sites alike.
//!
//! ```text
//! own:    door ─▶ stamp, append, send ┄▶ durable here, peer's promise passed it ─▶ execute ─▶ acked ─▶ answer
//! peer's:         arrives, append     ┄▶ durable here                           ─▶ execute ─▶ ack (a barrier)
//! ```
//! An entry's turn has come when it is durable here, nothing earlier can still arrive, and all before it on its volume
//! is executed. So both sites execute the same things in the same order and need not ask each other for the outcome.
//! A peer's request is acked only when it is executed here and all that this site's hosts were let in for before that
//! is on its way: whoever hears "granted" has every write that the grant came too late for.
//!
//! Invariants: `live` is `base` and all executed requests since; what is executed is never executed in another order
//! later, not after a crash either, because only what is durable and complete is executed.

use crate::engine::{Action, Engine, Mode, OpId, Outcome, Severity};
use crate::entry::{Body, Entry};
use crate::held::{Fate, HeldBody};
use crate::hosts::{Knock, Stage, Then, Wish};
use crate::mutant::{Mutant, planted};
use crate::passing::{Kept, Passes};
use crate::reserve::{Access, Effect, Request, Reservations, Verdict};
use crate::units::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// How an entry is executed when its turn comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    /// A request changes the reservations.
    Control,
    /// A COMPARE AND WRITE is judged.
    Swap,
    /// A write is weighed against the reservations at its stamp (E4.1).
    Write,
}

/// What is decided in order of one volume.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    /// The reservations at the cut at which the backing stores stand.
    pub base: Reservations,
    /// The reservations after all that is executed.
    pub live: Reservations,
    /// After a restart: what the reservations will be when all recovered requests are executed, as far as is known.
    /// Until then hosts must keep to this, too: some of it was told to a host before the restart.
    pub outlook: Option<Reservations>,
    /// Entries whose turn has not come.
    pub pending: BTreeMap<Stamp, Turn>,
    /// The first of them, while its blocks are being read; and what its verdict rests on.
    pub judging: Option<(Stamp, Option<Stamp>)>,
    /// Newest request of this site.
    pub own_last: Stamp,
    /// Newest request that the store's unit executed and that may have freed something.
    pub freed: Stamp,
    /// Nexuses of this site that may have something reserved with the store's unit.
    pub visitors: BTreeSet<Nexus>,
    /// Commands that wait until everything up to a stamp is executed.
    pub waiting: BTreeSet<(Stamp, OpId)>,
}

impl Ledger {
    pub(crate) fn new(saved: Option<&Reservations>) -> Ledger {
        let base = saved.cloned().unwrap_or_default();
        Ledger { live: base.clone(), base, ..Ledger::default() }
    }

    /// Whether reservations let this nexus do that (E3.4).
    pub(crate) fn allows(&self, nexus: Nexus, access: Access, extent: Option<Extent>) -> bool {
        let allows = |state: &Reservations| state.is_free() || state.allows(nexus, access, extent);
        allows(&self.live) && self.outlook.as_ref().is_none_or(allows)
    }

    /// Whether everything up to `stamp` that is known is executed.
    pub(crate) fn executed(&self, stamp: Stamp) -> bool {
        self.pending.first_key_value().is_none_or(|(first, _)| *first > stamp)
    }

    /// The newest known request that is not executed.
    pub(crate) fn last_request(&self) -> Option<Stamp> {
        self.pending.iter().rev().find(|(_, turn)| **turn == Turn::Control).map(|(stamp, _)| *stamp)
    }
}

/// What is decided in order, of all volumes together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Order {
    /// Facts that are still to be put on the stream.
    owed: VecDeque<(VolumeId, Nexus, Request)>,
    /// What stores that keep reservations themselves said.
    pub passes: Passes,
    /// Own entries whose outcome somebody waits for.
    asked: BTreeSet<Stamp>,
    /// Outcomes of those.
    verdicts: BTreeMap<Stamp, Verdict>,
    /// Requests of the peer that are executed, and the newest own stamp then: acked when that is on its way.
    pub barriers: VecDeque<(Stamp, Stamp)>,
    /// This run has said that it began.
    started: bool,
    /// Judged swaps whose verdicts are not in the journal.
    pub unrecorded: BTreeMap<Stamp, Verdict>,
    /// Verdicts on their way into the journal.
    pub recording: VecDeque<(AppendSeq, Stamp)>,
    /// Verdicts that recovery found, of swaps and of what units executed.
    pub found: BTreeMap<Stamp, Verdict>,
    /// Monotonic time at which blocks that could not be read for judging are read again.
    pub retry_at: Option<u64>,
    /// The newest writes that were undone.
    pub discards: VecDeque<crate::judge::Discard>,
    pub discards_seen: u64,
}

impl Order {
    /// Somebody waits for this own entry's outcome.
    pub(crate) fn ask(&mut self, stamp: Stamp) {
        self.asked.insert(stamp);
    }

    /// Puts a fact on the stream's waiting list, unless it is there.
    pub(crate) fn owe(&mut self, id: VolumeId, nexus: Nexus, request: Request) {
        let fact = (id, nexus, request);
        if !self.owed.contains(&fact) {
            self.owed.push_back(fact);
        }
    }

    pub(crate) fn forget(&mut self, stamp: Stamp) {
        self.asked.remove(&stamp);
        self.verdicts.remove(&stamp);
    }

    pub(crate) fn decided(&mut self, stamp: Stamp, verdict: Verdict) {
        if self.asked.remove(&stamp) {
            self.verdicts.insert(stamp, verdict);
        }
    }

    pub(crate) fn take_verdict(&mut self, stamp: Stamp) -> Option<Verdict> {
        self.verdicts.remove(&stamp)
    }
}

impl Engine {
    /// A host's request on the unit.
    pub fn handle_control(&mut self, now: Now, op: OpId, id: VolumeId, nexus: Nexus, request: Request) {
        self.knock_control(now, op, id, nexus, Wish::Control(Arc::new(request)));
    }

    pub(crate) fn knock_control(&mut self, now: Now, op: OpId, id: VolumeId, nexus: Nexus, wish: Wish) {
        let deadline = now.mono + self.config.wait_max;
        let Some(volume) = self.volumes.get_mut(&id) else {
            return self.refuse(op, Outcome::NotReady);
        };
        if volume.rules.disk && matches!(wish, Wish::Control(_)) {
            volume.ledger.visitors.insert(nexus);
        }
        volume.doors.controls.push_back(Knock { op, nexus, deadline, wish });
        self.pump_controls(now, id);
    }

    /// May this nexus give a command that does `access` to the unit? By what is executed here.
    pub fn handle_check(&mut self, op: OpId, id: VolumeId, nexus: Nexus, access: Access) {
        let allowed = self.volumes.get(&id).is_some_and(|v| v.ledger.allows(nexus, access, None));
        self.refuse(op, if allowed { Outcome::Done } else { Outcome::Conflict });
    }

    /// PERSISTENT RESERVE IN: answered when all requests known here are executed, and this site's also at the peer, so
    /// that nobody can see an older state afterwards at either site.
    pub fn handle_inspect(&mut self, now: Now, op: OpId, id: VolumeId, nexus: Nexus) {
        let Some(volume) = self.volumes.get(&id) else {
            return self.refuse(op, Outcome::NotReady);
        };
        // SPC-2 5.5.1: in conflict with another's SCSI-2 reservation of the unit.
        if !volume.ledger.allows(nexus, Access::Look, None) {
            return self.refuse(op, Outcome::Conflict);
        }
        let (own, last) = (volume.ledger.own_last, volume.ledger.last_request());
        let stage = Stage { ack: Some(own), turn: last.map(|stamp| (id, stamp)), ..Stage::default() };
        self.wait(op, stage, Then::Inspect { volume: id }, now.mono + self.config.wait_max);
    }

    /// A nexus of this site ended: what it reserved by SCSI-2 is released at both sites (SAM-5 6.3.4). What it stood
    /// at the door for never happens.
    pub fn handle_nexus_lost(&mut self, now: Now, nexus: Nexus) {
        let mut dropped = Vec::new();
        for (id, volume) in &mut self.volumes {
            let doors = &mut volume.doors;
            doors.controls.retain(|knock| {
                let stays = knock.nexus != nexus || !matches!(knock.wish, Wish::Control(_));
                if !stays {
                    dropped.push(knock.op);
                }
                stays
            });
            let reserves = |stamp: &Stamp| {
                let held = self.entries[stamp.site.index()].get(stamp);
                held.is_some_and(|held| {
                    held.nexus(stamp.site) == nexus
                        && matches!(&held.body, HeldBody::Control(r) if matches!(**r, Request::Reserve { .. }))
                })
            };
            let owed = self
                .order
                .owed
                .iter()
                .any(|(of, who, what)| (of, who, what) == (id, &nexus, &Request::NexusLost));
            let visited = volume.ledger.visitors.remove(&nexus);
            if !owed
                && (visited || volume.ledger.live.holds(nexus) || volume.ledger.pending.keys().any(reserves))
            {
                self.order.owed.push_back((*id, nexus, Request::NexusLost));
            }
        }
        dropped.into_iter().for_each(|op| self.refuse(op, Outcome::NotReady));
        self.waiting.give_up(|_, of| of == nexus);
        self.pump_owed(now);
    }

    /// A nexus is about to end: answered when what it reserved is released at both sites.
    pub fn handle_leave(&mut self, now: Now, op: OpId, nexus: Nexus) {
        self.handle_nexus_lost(now, nexus);
        if !self.order.owed.is_empty() {
            return self.refuse(op, Outcome::Busy);
        }
        let ids: Vec<VolumeId> = self.volumes.keys().copied().collect();
        self.await_leave(op, ids, now.mono + self.config.wait_max);
    }

    /// Waits until all that this site asked is executed at both sites, volume by volume.
    pub(crate) fn await_leave(&mut self, op: OpId, mut ids: Vec<VolumeId>, deadline: u64) {
        let stage = ids.pop().and_then(|id| {
            let last = self.volumes.get(&id)?.ledger.own_last;
            Some(Stage { ack: Some(last), turn: Some((id, last)), ..Stage::default() })
        });
        self.wait(op, stage.unwrap_or_default(), Then::Leave { left: ids }, deadline);
    }

    /// This site is in step for the first time in this run: whoever was logged in here before is gone.
    pub(crate) fn say_started(&mut self, now: Now) {
        if std::mem::replace(&mut self.order.started, true) {
            return;
        }
        let nobody = Nexus { host: HostId(0), isid: 0, site: self.config.site };
        let ids: Vec<VolumeId> = self.volumes.keys().copied().collect();
        for id in ids {
            let request = Request::SiteStarted { run: self.run, peer_run: self.session.peer_run };
            self.order.owed.push_back((id, nobody, request));
        }
        self.pump_owed(now);
    }

    /// Puts facts on the stream as soon as there are room and stamps for them, whether the line stands or not.
    pub(crate) fn pump_owed(&mut self, now: Now) {
        while let Some((id, nexus, request)) = self.order.owed.pop_front() {
            let request = match request {
                Request::SiteStarted { run, .. } => {
                    Request::SiteStarted { run, peer_run: self.session.peer_run }
                }
                other => other,
            };
            let shared = Arc::new(request);
            if self.issue_control(now, id, nexus, shared.clone()).is_none() {
                self.order.owed.push_front((id, nexus, (*shared).clone()));
                return;
            }
        }
    }

    /// Lets in the requests and swaps that may come in now. They have a door of their own: a host that is to be fenced
    /// off must not keep the fence waiting behind its writes.
    pub(crate) fn pump_controls(&mut self, now: Now, id: VolumeId) {
        loop {
            let served = self.volumes.get(&id).is_some_and(|volume| match volume.rules.mode {
                Mode::Sync => self.serving(now, id),
                Mode::Async | Mode::Flush => self.session.in_step() && !self.draining,
            });
            if !served || !self.order.owed.is_empty() {
                return;
            }
            let Some(volume) = self.volumes.get_mut(&id) else { return };
            let Some(Knock { op, nexus, deadline, wish }) = volume.doors.controls.pop_front() else { return };
            let back = match wish {
                Wish::Control(request) => match self.issue_control(now, id, nexus, request.clone()) {
                    Some((append, stamp)) => {
                        self.order.ask(stamp);
                        let turn = Some((id, stamp));
                        let mut stage = Stage { append, ack: Some(stamp), turn, ..Stage::default() };
                        if planted(Mutant::GrantBeforeAck) {
                            stage.ack = None;
                        }
                        let then =
                            Then::Verdict { volume: id, stamp, claim: Some((nexus, request)), first: None };
                        self.wait(op, stage, then, deadline);
                        None
                    }
                    None => Some(Wish::Control(request)),
                },
                Wish::Swap(swap) => self.admit_swap(now, op, id, nexus, swap, deadline).map(Wish::Swap),
                other @ (Wish::Read { .. } | Wish::Write { .. } | Wish::Flush) => {
                    unreachable!("{other:?} stands at another door")
                }
            };
            if let (Some(wish), Some(volume)) = (back, self.volumes.get_mut(&id)) {
                volume.doors.controls.push_front(Knock { op, nexus, deadline, wish });
                return;
            }
        }
    }

    fn issue_control(
        &mut self,
        now: Now,
        id: VolumeId,
        nexus: Nexus,
        request: Arc<Request>,
    ) -> Option<(AppendSeq, Stamp)> {
        let body = Body::Control(request);
        // It says nothing of blocks, and yet every entry has some.
        let extent = Extent::new(Lba(0), 1).expect("one block");
        self.ready_for(now, self.charge_of(id, &body), 1).then(|| self.issue(now, id, nexus, extent, body, 0))
    }

    /// Stamps an entry, holds, journals and sends it. The caller has asked [`Engine::ready_for`].
    pub(crate) fn issue(
        &mut self,
        now: Now,
        id: VolumeId,
        nexus: Nexus,
        extent: Extent,
        body: Body,
        body_crc: u32,
    ) -> (AppendSeq, Stamp) {
        let stamp = self.clock.next(now).expect("the door was passed, so the ceiling is high enough");
        let (host, isid) = (nexus.host, nexus.isid);
        let entry = Entry { stamp, seq: self.seq_next, volume: id, extent, host, isid, body, body_crc };
        self.seq_next += 1;
        let charge = self.charge_of(id, &entry.body);
        self.outbound.charge(stamp, charge);
        self.outbound.issued = stamp;
        if matches!(entry.body, Body::Control(_))
            && let Some(volume) = self.volumes.get_mut(&id)
        {
            volume.ledger.own_last = stamp;
        }
        (self.append(entry), stamp)
    }

    /// An entry came into the tables: if its place in the order decides something, it waits for its turn.
    pub(crate) fn take_turn(&mut self, stamp: Stamp) {
        let Some(held) = self.entries[stamp.site.index()].get(&stamp) else { return };
        let Some(volume) = self.volumes.get_mut(&held.volume) else { return };
        let ledger = &mut volume.ledger;
        let turn = match held.body {
            HeldBody::Control(_) => Turn::Control,
            HeldBody::Swap(_) => Turn::Swap,
            HeldBody::Data(_) | HeldBody::Fill(_) | HeldBody::Unmap => Turn::Write,
        };
        let weighed = volume.rules.discard && !(ledger.live.is_free() && ledger.pending.is_empty());
        if turn == Turn::Write && !weighed {
            return;
        }
        ledger.pending.insert(stamp, turn);
        if turn == Turn::Control && volume.rules.discard {
            // What came before it and is stamped after it is weighed against it, too.
            for entries in &self.entries {
                let later = entries.range((std::ops::Bound::Excluded(stamp), std::ops::Bound::Unbounded));
                let later =
                    later.filter(|(_, later)| later.volume == held.volume && later.fate == Fate::Holds);
                for (stamp, _) in later {
                    ledger.pending.entry(*stamp).or_insert(Turn::Write);
                }
            }
        }
    }

    /// Recovery is over: what was executed before the restart may have to wait for the peer now, but still binds.
    pub(crate) fn look_ahead(&mut self) {
        let outlooks: Vec<_> = self.volumes.keys().map(|id| (*id, self.outlook(*id))).collect();
        for (id, outlook) in outlooks {
            if let Some(volume) = self.volumes.get_mut(&id) {
                volume.ledger.outlook = outlook;
            }
        }
    }

    /// A request was executed: what is still ahead of those that recovery found? Others may have come in between, such as
    /// a release at the other site of what a recovered one reserves.
    pub(crate) fn look_anew(&mut self, id: VolumeId) {
        let ahead = |volume: &crate::engine::Volume| volume.ledger.outlook.is_some();
        if self.volumes.get(&id).is_some_and(ahead) {
            let outlook = self.outlook(id);
            if let Some(volume) = self.volumes.get_mut(&id) {
                volume.ledger.outlook = outlook;
            }
        }
    }

    /// The reservations after all requests that recovery found and that still wait, if that makes a difference.
    fn outlook(&self, id: VolumeId) -> Option<Reservations> {
        let volume = self.volumes.get(&id)?;
        let mut outlook = volume.ledger.live.clone();
        for (stamp, _) in volume.ledger.pending.iter().filter(|(_, turn)| **turn == Turn::Control) {
            if let Some(held) = self.entries[stamp.site.index()].get(stamp)
                && let HeldBody::Control(request) = &held.body
                && held.volume == id
                && held.append == AppendSeq(0)
            {
                let limit = self.config.reservation_bytes;
                let found = self.order.found.get(stamp).copied();
                for (who, kept) in Kept::of(volume.rules, &outlook, held.nexus(stamp.site), request) {
                    if Kept::is_ahead(volume.rules, &kept, found) {
                        outlook.apply_within(limit, *stamp, who, &kept);
                    }
                }
            }
        }
        (outlook != volume.ledger.live).then_some(outlook)
    }

    /// Whether facts wait to be put on the stream.
    pub(crate) fn requests_owed(&self) -> bool {
        !self.order.owed.is_empty()
    }

    /// Whether the peer still has to hear of requests of this site.
    pub(crate) fn requests_under_way(&self) -> bool {
        let unheard = |volume: &crate::engine::Volume| volume.ledger.own_last > self.outbound.acked;
        self.session.accepted() && (!self.order.owed.is_empty() || self.volumes.values().any(unheard))
    }

    /// Executes everything whose turn has come.
    pub(crate) fn execute(&mut self, now: Now) {
        let busy = |(id, volume): (&VolumeId, &crate::engine::Volume)| {
            (!volume.ledger.pending.is_empty()).then_some(*id)
        };
        let ids: Vec<VolumeId> = self.volumes.iter().filter_map(busy).collect();
        for id in ids {
            while self.execute_next(now, id) {}
            self.wake_turns(id);
        }
    }

    /// Executes the next entry of a volume, if its turn has come.
    fn execute_next(&mut self, now: Now, id: VolumeId) -> bool {
        let Some(volume) = self.volumes.get(&id) else { return false };
        let Some((stamp, turn)) = volume.ledger.pending.first_key_value().map(|(s, t)| (*s, *t)) else {
            return false;
        };
        if volume.ledger.judging.is_some() || !self.due(stamp) {
            return false;
        }
        let done = match turn {
            Turn::Control if self.is_passed(id, stamp, turn) => self.pass_control(id, stamp),
            Turn::Control => {
                self.execute_control(id, stamp);
                true
            }
            Turn::Swap => self.judge_swap(now, id, stamp),
            Turn::Write => {
                self.weigh(id, stamp);
                true
            }
        };
        if done && let Some(volume) = self.volumes.get_mut(&id) {
            volume.ledger.pending.remove(&stamp);
            self.look_anew(id);
        }
        done
    }

    /// Whether an entry may be executed if it is the next: it is durable here, nothing earlier can still arrive.
    fn due(&self, stamp: Stamp) -> bool {
        let durable = self.entries[stamp.site.index()]
            .get(&stamp)
            .is_none_or(|held| held.append <= self.append_durable);
        // The peer's stream is in order: what came, and what it promised, say how far it is known.
        let complete = stamp <= self.inbound.received.max(self.outbound.peer_promise);
        // Beyond this, own entries of an earlier run may be lost and still come back from the peer.
        let back = self.session.resume_from.is_none_or(|from| stamp <= from);
        durable && back && (complete || planted(Mutant::GrantBeforeAck))
    }

    fn execute_control(&mut self, id: VolumeId, stamp: Stamp) {
        let Some(held) = self.entries[stamp.site.index()].get(&stamp) else { return };
        let HeldBody::Control(request) = &held.body else { return };
        let (nexus, request) = (held.nexus(stamp.site), request.clone());
        let Some(volume) = self.volumes.get_mut(&id) else { return };
        let limit = self.config.reservation_bytes;
        let (verdict, effects) = volume.ledger.live.apply_within(limit, stamp, nexus, &request);
        let name = volume.geometry.name.clone();
        let generation = volume.ledger.live.parts().generation;
        if stamp.site == self.config.site {
            self.order.decided(stamp, verdict);
        } else {
            self.order.barriers.push_back((stamp, self.outbound.issued));
            self.session.ack_owed = true;
        }
        let text = format!(
            "volume {name}: {} by {nexus}, stamp {stamp}: {verdict}; generation {generation}",
            request.name()
        );
        self.notice(Severity::Info, text);
        effects.into_iter().for_each(|effect| self.follow(id, effect));
    }

    /// What follows from an executed request for the hosts of this site.
    pub(crate) fn follow(&mut self, id: VolumeId, effect: Effect) {
        let own = self.config.site;
        let (here, gone) = match &effect {
            Effect::Attend(nexus, _) => (nexus.site == own, None),
            Effect::Abort(nexus) => (nexus.site == own, Some(Some(*nexus))),
            Effect::AbortAll => (true, Some(None)),
            Effect::AttendAll { .. } | Effect::Modes(_) => (true, None),
        };
        if !here {
            return;
        }
        self.order(Action::Effect { volume: id, effect });
        if let (Some(whose), Some(volume)) = (gone, self.volumes.get_mut(&id)) {
            // What stood at the door never happens.
            let dropped = volume.doors.drop_all(|knock| whose.is_none_or(|nexus| knock.nexus == nexus));
            dropped.into_iter().for_each(|op| self.refuse(op, Outcome::NotReady));
        }
    }

    /// The peer may be told that everything up to this stamp of its own is durable here, as far as requests are
    /// concerned.
    pub(crate) fn ack_limit(&mut self) -> Stamp {
        while let Some((_, issued)) = self.order.barriers.front()
            && self.outbound.sent(*issued)
        {
            self.order.barriers.pop_front();
        }
        if planted(Mutant::AckBeforeExecuted) {
            return Stamp::last_of(Stamp::TIME_MAX);
        }
        let peer = self.config.site.peer();
        let waiting = self.volumes.values().filter_map(|volume| {
            let mut pending = volume.ledger.pending.iter();
            pending
                .find(|(stamp, turn)| stamp.site == peer && **turn == Turn::Control)
                .map(|(stamp, _)| *stamp)
        });
        let barred = self.order.barriers.front().map(|(stamp, _)| *stamp);
        let first = waiting.chain(barred).min();
        first.map_or(Stamp::last_of(Stamp::TIME_MAX), |stamp| Stamp::last_of(stamp.time - 1))
    }

    /// Whether an ack was held back for what is on its way now.
    pub(crate) fn barrier_passed(&self) -> bool {
        self.order.barriers.front().is_some_and(|(_, issued)| self.outbound.sent(*issued))
    }

    /// Commands that waited for others to be executed go on.
    pub(crate) fn wake_turns(&mut self, id: VolumeId) {
        loop {
            let Some(volume) = self.volumes.get_mut(&id) else { return };
            let Some((stamp, op)) = volume.ledger.waiting.first().copied() else { return };
            if !volume.ledger.executed(stamp) {
                return;
            }
            volume.ledger.waiting.pop_first();
            self.go_on(op);
        }
    }

    /// An own request was executed at both sites: its outcome. E3.5: a reserve that found somebody else is not refused
    /// while a release may be on its way; it starts over if it would be granted now.
    pub(crate) fn conclude(
        &mut self,
        op: OpId,
        id: VolumeId,
        stamp: Stamp,
        claim: Option<(Nexus, Arc<Request>)>,
        first: Option<Verdict>,
        deadline: u64,
    ) {
        let Some(verdict) = first.or_else(|| self.order.take_verdict(stamp)) else {
            return self.refuse(op, Outcome::Busy);
        };
        let claim = claim.filter(|_| !self.order.passes.take_difference(stamp));
        let mut knock_again = None;
        if let (Some((nexus, request)), Some(volume)) = (claim, self.volumes.get(&id))
            && verdict == Verdict::Conflict
            && !planted(Mutant::SkipRetry)
        {
            let would = match volume.rules.disk {
                // Only the unit can say, when all that may have changed it is executed.
                true => {
                    Kept::may_wait(&request)
                        && (first.is_some() || (volume.ledger.freed > stamp && !planted(Mutant::ForgetFreed)))
                }
                false => volume.ledger.live.would_grant(nexus, &request),
            };
            if would {
                knock_again = Some(Knock { op, nexus, deadline, wish: Wish::Control(request) });
            } else if first.is_none()
                && let Some(last) = match volume.rules.disk {
                    true => self.last_that_frees(id),
                    false => volume.ledger.last_request(),
                }
            {
                let stage = Stage { turn: Some((id, last)), ..Stage::default() };
                let then =
                    Then::Verdict { volume: id, stamp, claim: Some((nexus, request)), first: Some(verdict) };
                return self.wait(op, stage, then, deadline);
            }
        }
        match (knock_again, self.volumes.get_mut(&id)) {
            (Some(knock), Some(volume)) => volume.doors.controls.push_front(knock),
            (None, _) | (_, None) => self.refuse(op, Outcome::Verdict(verdict)),
        }
    }

    /// The cut is destaged: its requests are in `base` from now on, which is saved before the cut is.
    pub(crate) fn settle_base(&mut self, cut: Stamp) {
        let mut requests: Vec<(Stamp, VolumeId, Nexus, Arc<Request>)> = Vec::new();
        for entries in &self.entries {
            for (stamp, held) in entries.range(..=cut) {
                if let HeldBody::Control(request) = &held.body
                    && held.fate != Fate::Missed
                {
                    requests.push((*stamp, held.volume, held.nexus(stamp.site), request.clone()));
                }
            }
        }
        if requests.is_empty() {
            return;
        }
        requests.sort_by_key(|(stamp, ..)| *stamp);
        for (stamp, id, nexus, request) in requests {
            let Some(volume) = self.volumes.get_mut(&id) else { continue };
            for (who, kept) in Kept::of(volume.rules, &volume.ledger.base, nexus, &request) {
                volume.ledger.base.apply_within(self.config.reservation_bytes, stamp, who, &kept);
            }
        }
        let all = self.volumes.iter().map(|(id, volume)| (*id, volume.ledger.base.clone())).collect();
        self.order(Action::SaveReservations(all));
    }
}
