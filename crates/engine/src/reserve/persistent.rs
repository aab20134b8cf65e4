//! PERSISTENT RESERVE OUT (SPC-4 5.13, 6.16).
//!
//! Who asks is never told of what it asked for: it gets the verdict. Aborts come before attentions, both ascending.

use super::Reservations;
use super::request::{Attention, Effect, PersistentKind, REGISTRATIONS_MAX, Registrant, Verdict};
use super::state::{PersistentReservation, Registration, other_port};
use crate::mutant::{Mutant, planted};
use crate::units::{Nexus, Stamp};
use std::sync::Arc;

/// Byte of the CDB that has the service action.
const SERVICE_ACTION_BYTE: u16 = 1;
/// Byte of the parameter list where SERVICE ACTION RESERVATION KEY starts.
const NEW_KEY_BYTE: u16 = 8;
/// Byte of the parameter list that has SPEC_I_PT.
const SPEC_I_PT_BYTE: u16 = 20;
/// Byte of the parameter list where the TransportID of REGISTER AND MOVE starts.
const MOVE_TRANSPORT_ID_BYTE: u16 = 24;
/// Byte of the parameter list where the first TransportID of SPEC_I_PT starts.
const ALSO_TRANSPORT_ID_BYTE: u16 = 28;

/// A REGISTER's parameters, as [`super::Request::Register`] has them.
pub(super) struct Registering<'a> {
    pub key: Option<u64>,
    pub new_key: u64,
    pub aptpl: bool,
    pub all_ports: bool,
    pub name: &'a Arc<str>,
    pub also: &'a [Registrant],
}

/// A PREEMPT's parameters, as [`super::Request::Preempt`] has them.
pub(super) struct Preempting {
    pub key: u64,
    pub victim: u64,
    pub kind: PersistentKind,
    pub abort: bool,
}

/// A REGISTER AND MOVE's parameters, as [`super::Request::Move`] has them.
pub(super) struct Moving<'a> {
    pub key: u64,
    pub new_key: u64,
    pub unregister: bool,
    pub aptpl: bool,
    pub to: &'a Registrant,
}

impl Reservations {
    /// REGISTER, REGISTER AND IGNORE EXISTING KEY (SPC-4 5.13.7). ALL_TG_PT acts as if the request came at both sites'
    /// ports, but for one thing: a port that is not registered yet takes the other's RESERVATION KEY for right.
    pub(super) fn register(
        &mut self,
        by: Nexus,
        ask: &Registering<'_>,
        effects: &mut Vec<Effect>,
    ) -> Verdict {
        let own_ports = ports(by, ask.all_ports);
        if self.state.any_scsi2() || !own_ports.iter().all(|port| self.key_fits(by, *port, ask.key)) {
            return Verdict::Conflict;
        }
        // SPC-4 5.13.7, tables 67 and 69: SPEC_I_PT is for REGISTER, and for a nexus that is not registered.
        if !ask.also.is_empty() && (ask.key.is_none() || self.state.registration(by).is_some()) {
            return Verdict::BadParameter(SPEC_I_PT_BYTE);
        }
        if ask.new_key == 0 {
            // SPC-4 5.13.7, table 67: nothing to unregister is no error, and nothing happened.
            if own_ports.iter().any(|port| self.state.registration(*port).is_some()) {
                self.unregister(&own_ports, by, effects);
                self.registered(ask.aptpl);
            }
            return Verdict::Done;
        }
        let mut new: Vec<Registrant> = own_ports.iter().map(|port| registrant(*port, ask.name)).collect();
        for other in ask.also {
            for port in ports(other.nexus, ask.all_ports) {
                // SPC-4 5.13.7: all or none; registered twice in one list is registered already.
                if self.state.registration(port).is_some() || new.iter().any(|one| one.nexus == port) {
                    return Verdict::BadParameter(ALSO_TRANSPORT_ID_BYTE);
                }
                new.push(registrant(port, &other.name));
            }
        }
        let more = new.iter().filter(|one| self.state.registration(one.nexus).is_none()).count();
        if self.state.registrations.len() + more > REGISTRATIONS_MAX {
            return Verdict::NoRoomToRegister;
        }
        for registrant in new {
            self.put(Registration { registrant, key: ask.new_key, all_ports: ask.all_ports });
        }
        self.registered(ask.aptpl);
        Verdict::Done
    }

    /// How a RESERVE ends, were it executed now.
    pub(super) fn reserve_persistent_verdict(&self, by: Nexus, key: u64, kind: PersistentKind) -> Verdict {
        if !self.may_ask(by, key) {
            return Verdict::Conflict;
        }
        match self.state.persistent {
            None => Verdict::Done,
            // SPC-4 5.13.9: the holder's own type again is GOOD, anything else conflicts.
            Some(held) if held.kind == kind && self.state.holds_persistent(by) => Verdict::Done,
            Some(_) => Verdict::Conflict,
        }
    }

    /// RESERVE (SPC-4 5.13.9).
    pub(super) fn reserve_persistent(
        &mut self,
        since: Stamp,
        by: Nexus,
        key: u64,
        kind: PersistentKind,
    ) -> Verdict {
        let verdict = self.reserve_persistent_verdict(by, key, kind);
        if verdict == Verdict::Done && self.state.persistent.is_none() {
            self.state.persistent = Some(PersistentReservation::of(since, kind, by));
        }
        verdict
    }

    /// RELEASE (SPC-4 5.13.11.2.2).
    pub(super) fn release_persistent(
        &mut self,
        by: Nexus,
        key: u64,
        kind: PersistentKind,
        effects: &mut Vec<Effect>,
    ) -> Verdict {
        if !self.may_ask(by, key) {
            return Verdict::Conflict;
        }
        let Some(held) = self.state.persistent else { return Verdict::Done };
        if !self.state.holds_persistent(by) {
            return Verdict::Done;
        }
        if held.kind != kind {
            return Verdict::WrongRelease;
        }
        self.state.persistent = None;
        if held.kind.serves_registrants() {
            self.attend(self.others(by), Attention::ReservationsReleased, effects);
        }
        Verdict::Done
    }

    /// CLEAR (SPC-4 5.13.11.2.7).
    pub(super) fn clear(&mut self, by: Nexus, key: u64, effects: &mut Vec<Effect>) -> Verdict {
        if !self.may_ask(by, key) {
            return Verdict::Conflict;
        }
        self.attend(self.others(by), Attention::ReservationsPreempted, effects);
        self.state.registrations.clear();
        self.state.persistent = None;
        self.count();
        Verdict::Done
    }

    /// PREEMPT, PREEMPT AND ABORT (SPC-4 5.13.11.2.4 to .6).
    pub(super) fn preempt(
        &mut self,
        since: Stamp,
        by: Nexus,
        ask: &Preempting,
        effects: &mut Vec<Effect>,
    ) -> Verdict {
        if !self.may_ask(by, ask.key) {
            return Verdict::Conflict;
        }
        let held = self.state.persistent;
        let takes_over = match held.map(|held| held.holder) {
            None => false,
            // All registrants hold: 0 stands for all of them but who asks.
            Some(None) => ask.victim == 0,
            Some(Some(holder)) => self.state.registration(holder).is_some_and(|r| r.key == ask.victim),
        };
        if ask.victim == 0 && !takes_over {
            return Verdict::BadParameter(NEW_KEY_BYTE);
        }
        let is_victim = |r: &&Registration| ask.victim == 0 || r.key == ask.victim;
        let victims = self.state.registrations.iter().filter(is_victim).map(|r| r.registrant.nexus);
        let mut gone: Vec<Nexus> = victims.collect();
        if gone.is_empty() {
            // SPC-4 5.13.11.2.5: a key that nobody registered.
            return Verdict::Conflict;
        }
        if takes_over {
            // SPC-4 5.13.11.2.4.3: who takes over keeps its registration, also where its key is the victim.
            gone.retain(|nexus| *nexus != by);
        }
        if ask.abort {
            // SPC-4 5.13.11.2.6: not who asks, whose PREEMPT AND ABORT is among its commands.
            effects.extend(gone.iter().filter(|nexus| **nexus != by).map(|nexus| Effect::Abort(*nexus)));
        }
        self.attend(
            gone.iter().copied().filter(|nexus| *nexus != by).collect(),
            Attention::RegistrationsPreempted,
            effects,
        );
        self.state.registrations.retain(|r| !gone.contains(&r.registrant.nexus));
        if takes_over {
            let changed = held.is_some_and(|held| held.kind != ask.kind);
            if changed {
                self.attend(self.others(by), Attention::ReservationsReleased, effects);
            }
            if changed || held.is_none_or(|held| held.holder != Some(by)) {
                self.state.persistent = Some(PersistentReservation::of(since, ask.kind, by));
            }
        } else if self.state.registrations.is_empty() {
            // SPC-4 5.13.11.2.1, table 71: all registrants held, and the last of them is gone.
            self.state.persistent = None;
        }
        self.mend_pairs();
        self.count();
        Verdict::Done
    }

    /// REGISTER AND MOVE (SPC-4 5.13.8).
    pub(super) fn move_to(&mut self, since: Stamp, by: Nexus, ask: &Moving<'_>) -> Verdict {
        if !self.may_ask(by, ask.key) {
            return Verdict::Conflict;
        }
        let Some(held) = self.state.persistent else { return Verdict::BadCdb(SERVICE_ACTION_BYTE) };
        // Where all registrants hold there is nothing to move either.
        if held.holder != Some(by) {
            return Verdict::Conflict;
        }
        if ask.new_key == 0 {
            return Verdict::BadParameter(NEW_KEY_BYTE);
        }
        // SPC-4 5.13.8: not to the initiator port that asks, whatever the target port.
        if (ask.to.nexus.host, ask.to.nexus.isid) == (by.host, by.isid) {
            return Verdict::BadParameter(MOVE_TRANSPORT_ID_BYTE);
        }
        let more = usize::from(self.state.registration(ask.to.nexus).is_none());
        let fewer = usize::from(ask.unregister);
        if self.state.registrations.len() + more > REGISTRATIONS_MAX + fewer {
            return Verdict::NoRoomToRegister;
        }
        if ask.unregister {
            self.state.registrations.retain(|r| r.registrant.nexus != by);
        }
        self.put(Registration { registrant: ask.to.clone(), key: ask.new_key, all_ports: false });
        self.state.persistent = Some(PersistentReservation::of(since, held.kind, ask.to.nexus));
        self.registered(ask.aptpl);
        Verdict::Done
    }

    /// Whether `by` may ask for anything but a registration: registered, with this key, and no SCSI-2 reservation
    /// stands, be it its own (SPC-4 5.13.7, 6.16.2; SPC-2 5.5.1).
    fn may_ask(&self, by: Nexus, key: u64) -> bool {
        !self.state.any_scsi2()
            && self.state.registration(by).is_some_and(|registration| registration.key == key)
    }

    /// REGISTER's rule for RESERVATION KEY at one port; see [`Reservations::register`].
    fn key_fits(&self, by: Nexus, port: Nexus, key: Option<u64>) -> bool {
        let Some(key) = key else { return true };
        match (self.state.registration(port), self.state.registration(by)) {
            (Some(registration), _) => registration.key == key,
            (None, Some(own)) => own.key == key,
            (None, None) => key == 0,
        }
    }

    /// What every REGISTER that did something leaves behind.
    fn registered(&mut self, aptpl: bool) {
        // SPC-4 5.13.5: the last one decides for all.
        self.state.aptpl = aptpl;
        self.mend_pairs();
        self.count();
    }

    /// PRGENERATION (SPC-4 6.15.2): wraps.
    fn count(&mut self) {
        self.state.generation = self.state.generation.wrapping_add(1);
    }

    fn put(&mut self, registration: Registration) {
        let nexus = registration.registrant.nexus;
        match self.state.registrations.binary_search_by_key(&nexus, |r| r.registrant.nexus) {
            Ok(at) => {
                *self.state.registrations.get_mut(at).expect("the search found it there") = registration
            }
            Err(at) => self.state.registrations.insert(at, registration),
        }
    }

    fn unregister(&mut self, gone: &[Nexus], by: Nexus, effects: &mut Vec<Effect>) {
        self.state.registrations.retain(|r| !gone.contains(&r.registrant.nexus));
        let Some(held) = self.state.persistent else { return };
        let left = match held.holder {
            Some(holder) => gone.contains(&holder),
            None => self.state.registrations.is_empty(),
        };
        // SPC-4 5.13.11.2.3: the reservation goes with its holder.
        if left {
            self.state.persistent = None;
            if held.kind.serves_registrants() {
                let told = self.others(by).into_iter();
                effects.extend(told.map(|nexus| Effect::Attend(nexus, Attention::ReservationsReleased)));
            }
        }
    }

    /// A registration for both ports is no longer one where the two have parted.
    fn mend_pairs(&mut self) {
        let like = |one: &Registration| {
            let other = self.state.registration(other_port(one.registrant.nexus));
            one.all_ports && other.is_some_and(|other| other.all_ports && other.key == one.key)
        };
        let pairs: Vec<bool> = self.state.registrations.iter().map(like).collect();
        for (registration, pair) in self.state.registrations.iter_mut().zip(pairs) {
            registration.all_ports = pair;
        }
    }

    /// All registered nexuses but one.
    fn others(&self, by: Nexus) -> Vec<Nexus> {
        let all = self.state.registrations.iter().map(|registration| registration.registrant.nexus);
        all.filter(|nexus| *nexus != by).collect()
    }

    fn attend(&self, told: Vec<Nexus>, attention: Attention, effects: &mut Vec<Effect>) {
        let forgotten = usize::from(planted(Mutant::ForgetAttention));
        effects.extend(told.into_iter().skip(forgotten).map(|nexus| Effect::Attend(nexus, attention)));
    }
}

impl PersistentReservation {
    fn of(since: Stamp, kind: PersistentKind, by: Nexus) -> PersistentReservation {
        PersistentReservation { since, kind, holder: (!kind.all_hold()).then_some(by) }
    }
}

fn registrant(nexus: Nexus, name: &Arc<str>) -> Registrant {
    Registrant { nexus, name: name.clone() }
}

/// The target ports at which an initiator port is registered: the one that was asked, or both sites' (ALL_TG_PT).
fn ports(nexus: Nexus, all: bool) -> Vec<Nexus> {
    if all { vec![nexus, other_port(nexus)] } else { vec![nexus] }
}
