//! What an executed request must bring beyond the tables: attentions, aborts, and that what was aborted stays away.
//!
//! Judged where the state before the request is known for sure: both sites said that nothing was under way when it was
//! asked, and nobody asked anything else, no session ended and no site lost power until it was answered. Then each site
//! must have told exactly those of its nexuses that the standard names, once each, before the answer.

use crate::history::{Deed, Moment};
use crate::place::volume_id;
use crate::world::World;
use biplex_engine::reserve::{Attention, Effect, PersistentKind, Request, Reservations, Reset, Verdict};
use biplex_engine::{Nexus, SiteId};
use biplex_site::{Event, Mode};
use std::collections::BTreeMap;

/// A request that nothing disturbed so far.
#[derive(Clone, Debug)]
struct Quiet {
    volume: usize,
    before: Reservations,
    /// What each site did for its nexuses since, on this volume.
    effects: [Vec<Effect>; 2],
}

/// Requests of which it is known what they must bring, by their index in the history.
#[derive(Clone, Debug, Default)]
pub struct Demands {
    quiet: BTreeMap<usize, Quiet>,
}

impl Demands {
    /// Something may change the state of this volume, or of all.
    pub fn disturb(&mut self, volume: Option<usize>) {
        self.quiet.retain(|_, quiet| volume.is_some_and(|volume| quiet.volume != volume));
    }

    fn effect(&mut self, site: SiteId, volume: usize, effect: &Effect) {
        for quiet in self.quiet.values_mut().filter(|quiet| quiet.volume == volume) {
            quiet.effects[site.index()].push(effect.clone());
        }
    }
}

impl World {
    /// A host asks; called before the site hears of it.
    pub(crate) fn begin_demand(&mut self, op: usize, volume: usize) {
        let others = self.ledger.open(volume).any(|asked| asked.op != op);
        self.demands.disturb(Some(volume));
        let lost = |event: &Event| matches!(event, Event::NexusLost { .. });
        let losing = self.places.iter().any(|place| place.inbox.iter().any(lost));
        // Where units keep the reservations it is they who tell (`site/tests/passing.rs`, `front`).
        let told_by_units = self.scenario.volumes[volume].rules.disk;
        if told_by_units || others || losing || !self.drained(volume) {
            return;
        }
        let table = self.places[0].site.as_ref().and_then(|site| site.reservations(volume_id(volume)));
        if let Some(before) = table.cloned() {
            self.demands.quiet.insert(op, Quiet { volume, before, effects: Default::default() });
        }
    }

    /// Takes up what a site did for its nexuses.
    pub(crate) fn take_effects(&mut self, id: SiteId) {
        let Some(site) = self.places[id.index()].site.as_mut() else { return };
        let effects = site.take_effects();
        for (volume, effect) in effects {
            let found = (0..self.scenario.volumes.len()).find(|index| volume_id(*index) == volume);
            if let Some(index) = found {
                self.demands.effect(id, index, &effect);
                self.note(&[24, id as u64], &[], || format!("{id} vol{index}: {effect:?}"));
            }
        }
    }

    /// The host was told how its request ended.
    pub(crate) fn end_demand(
        &mut self,
        op: usize,
        by: Nexus,
        request: &Request,
        verdict: Verdict,
        now: Moment,
    ) {
        let Some(quiet) = self.demands.quiet.remove(&op) else { return };
        self.counts.demands_judged += 1;
        let wanted = wanted(&quiet.before, by, request, verdict);
        for site in SiteId::BOTH {
            let mut wanted: Vec<Effect> = wanted.iter().filter(|e| concerns(e, site)).cloned().collect();
            let told = |effect: &&Effect| !matches!(effect, Effect::Modes(_));
            let mut found: Vec<Effect> = quiet.effects[site.index()].iter().filter(told).cloned().collect();
            let order = |effect: &Effect| format!("{effect:?}");
            wanted.sort_by_key(order);
            found.sort_by_key(order);
            if wanted != found {
                let what = format!(
                    "vol{}: {request:?} of {by} ended {verdict}; site {site} had to do {wanted:?} for its hosts \
                     before, and did {found:?}; before it was {:?}",
                    quiet.volume, quiet.before
                );
                return self.violation("attention", what);
            }
        }
        if verdict == Verdict::Done
            && let Request::Preempt { victim, abort: true, .. } = request
            && takes_over(&quiet.before, *victim)
            && self.scenario.volumes[quiet.volume].rules.mode == Mode::Sync
        {
            let gone = victims(&quiet.before, by, *victim);
            self.fence_off(quiet.volume, &gone, now);
        }
    }

    /// PREEMPT AND ABORT was answered: what these nexuses had under way is in place by now or never comes.
    fn fence_off(&mut self, volume: usize, gone: &[Nexus], now: Moment) {
        let mut fenced = 0;
        for op in self.history.iter_mut().filter(|op| op.volume == volume && gone.contains(&op.nexus)) {
            let changes = matches!(op.deed, Deed::Write { .. } | Deed::Swap { ended: None, .. });
            if changes && !op.refused && op.taken && op.done.is_none() && op.by.is_none() {
                op.by = Some(now);
                fenced += 1;
            }
        }
        self.counts.fenced_off += fenced;
    }
}

/// Whose registrations a PREEMPT of this key takes.
fn victims(before: &Reservations, by: Nexus, victim: u64) -> Vec<Nexus> {
    let all = before.parts().registrations.iter();
    let hit = all.filter(|r| (victim == 0 || r.key == victim) && r.registrant.nexus != by);
    hit.map(|r| r.registrant.nexus).collect()
}

/// Whether a PREEMPT of this key takes the reservation over (SPC-4 5.13.11.4.3).
fn takes_over(before: &Reservations, victim: u64) -> bool {
    let state = before.parts();
    match state.persistent.map(|held| held.holder) {
        None => false,
        Some(None) => victim == 0,
        Some(Some(holder)) => {
            state.registrations.iter().any(|r| r.registrant.nexus == holder && r.key == victim)
        }
    }
}

fn serves_registrants(kind: PersistentKind) -> bool {
    !matches!(kind, PersistentKind::WriteExclusive | PersistentKind::ExclusiveAccess)
}

/// What the standards want to be done for the hosts of both sites (SPC-4 5.13, SAM-5 7).
fn wanted(before: &Reservations, by: Nexus, request: &Request, verdict: Verdict) -> Vec<Effect> {
    let state = before.parts();
    if verdict != Verdict::Done {
        return Vec::new();
    }
    let all: Vec<Nexus> = state.registrations.iter().map(|r| r.registrant.nexus).collect();
    let others = || all.iter().copied().filter(|nexus| *nexus != by);
    let holder = |nexus: Nexus| {
        state.persistent.is_some_and(|held| held.holder.map_or(all.contains(&nexus), |one| one == nexus))
    };
    let attend = |nexuses: Vec<Nexus>, attention| -> Vec<Effect> {
        nexuses.into_iter().map(|nexus| Effect::Attend(nexus, attention)).collect()
    };
    match request {
        Request::Clear { .. } => attend(others().collect(), Attention::ReservationsPreempted),
        Request::ReleasePersistent { .. } => match state.persistent {
            Some(held) if holder(by) && serves_registrants(held.kind) => {
                attend(others().collect(), Attention::ReservationsReleased)
            }
            Some(_) | None => Vec::new(),
        },
        Request::Register { new_key: 0, all_ports, .. } => {
            let other_port = Nexus { site: by.site.peer(), ..by };
            let gone = |nexus: &Nexus| *nexus == by || (*all_ports && *nexus == other_port);
            let left: Vec<Nexus> = all.iter().copied().filter(|nexus| !gone(nexus)).collect();
            let ends = state.persistent.is_some_and(|held| match held.holder {
                Some(holder) => serves_registrants(held.kind) && gone(&holder),
                None => false,
            });
            if ends { attend(left, Attention::ReservationsReleased) } else { Vec::new() }
        }
        Request::Preempt { victim, kind, abort, .. } => {
            let gone = victims(before, by, *victim);
            let mut list = attend(gone.clone(), Attention::RegistrationsPreempted);
            if *abort {
                list.extend(gone.iter().map(|nexus| Effect::Abort(*nexus)));
            }
            let changes = state.persistent.is_some_and(|held| held.kind != *kind);
            if takes_over(before, *victim) && changes {
                let left = others().filter(|nexus| !gone.contains(nexus)).collect();
                list.extend(attend(left, Attention::ReservationsReleased));
            }
            list
        }
        Request::Reset(reset) => {
            let (but, attention) = match reset {
                Reset::TaskSet => (Some(by), Attention::CommandsCleared),
                Reset::Unit | Reset::TargetWarm => (None, Attention::Reset),
                Reset::TargetCold => (None, Attention::PowerOn),
            };
            vec![Effect::AbortAll, Effect::AttendAll { but, attention }]
        }
        Request::SetModes(modes) if state.modes != *modes => {
            vec![Effect::AttendAll { but: Some(by), attention: Attention::ModeChanged }]
        }
        Request::SetModes(_)
        | Request::Reserve { .. }
        | Request::Release { .. }
        | Request::Register { .. }
        | Request::ReservePersistent { .. }
        | Request::Move { .. }
        | Request::NexusLost
        | Request::SiteStarted { .. } => Vec::new(),
    }
}

/// Whether it is this site that must see to it.
fn concerns(effect: &Effect, site: SiteId) -> bool {
    match effect {
        Effect::Attend(nexus, _) | Effect::Abort(nexus) => nexus.site == site,
        Effect::AttendAll { .. } | Effect::AbortAll | Effect::Modes(_) => true,
    }
}
