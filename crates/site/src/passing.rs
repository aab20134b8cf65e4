//! Volumes whose reservations their units keep (E5.1, E5.2): requests go to the unit in the asking host's nexus, and
//! every other command is admitted by what the unit says to that nexus, before the engine lets it in.
//!
//! ```text
//! host's command ─▶ park ─▶ question in its nexus ─▶ unit ─┬▶ GOOD ─▶ the engine, as on any volume
//!                                                          ├▶ RESERVATION CONFLICT ─▶ the host
//!                                                          └▶ UNIT ATTENTION ─▶ told to the host; asked again
//! Action::Pass (both sites, in stamp order) ─▶ command in that nexus ─▶ unit ─▶ Engine::handle_passed
//! ```
//! The questions change nothing, and move no data as long as no extents are reserved (`question`). Nothing of the answers
//! is kept.
//!
//! Invariants: an answer admits one command, and only if no request went through this unit while it was asked; else it
//! is asked anew. No answer of the unit lets nothing in. What a host abandoned while it is parked never happens.

use crate::api::*;
use crate::onlook::Glimpse;
use crate::site::{Asker, Site, failed};
use crate::unit::book::{self, Party, Slot};
use crate::unit::{Answer, PassTicket, Port, Unit, is_onlooker};
use biplex_engine::engine::{Engine, OpId, Outcome};
use biplex_engine::mutant::{Mutant, planted};
use biplex_engine::reserve::{Access, Attention, Effect, Request, Reset, Verdict};
use biplex_engine::{HostId, Nexus, Now, Stamp, VolumeId};
use biplex_front::iscsi::initiator::{REPORT_CAPABILITIES, persistent_reserve_in};
use biplex_front::scsi::spell::{Means, Spelt, spell};
use biplex_front::{Command, Completion, Failure};
use bytes::Bytes;
use question::{Most, Piece, pieces};
use registrants::Registrants;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

mod question;
mod registrants;

/// How often a command is sent again because the unit had news for the nexus.
const ATTENTIONS_MAX: u32 = 16;
/// Room for PERSISTENT RESERVE IN's data.
pub(crate) const PERSISTENT_BYTES: u16 = u16::MAX;
/// In REPORT CAPABILITIES' data (SPC-4 6.15.4): ATP_C.
const ATP: u8 = 0x04;

/// How often a request is asked again because the unit was busy, and the first pause, which doubles; nanoseconds.
const BUSY_MAX: u32 = 8;
const BUSY_PAUSE: u64 = 10_000_000;

/// How often a request was asked already, and why again.
#[derive(Clone, Copy, Debug, Default)]
struct Tries {
    attentions: u32,
    busy: u32,
}

/// What a pass is for.
#[derive(Clone, Debug)]
enum Errand {
    /// The request that the volume's engine waits for, or one nexus' share of it.
    Request { nexus: Nexus, cdb: [u8; 16], data: Bytes, tries: Tries },
    /// Whether a parked command may come in, as far as this piece goes.
    Question { op: OpId, round: u64, piece: Piece, left: VecDeque<Piece> },
    /// A host's PERSISTENT RESERVE IN.
    Inspection { op: OpId, nexus: Nexus, action: u8, attentions: u32 },
    /// An operator's.
    Onlook(Glimpse),
}

/// A host's command until the unit lets it in.
#[derive(Debug)]
struct Parked {
    nexus: Nexus,
    volume: VolumeId,
    command: Command,
    access: Access,
    attentions: u32,
}

/// The request of a volume that is with its unit.
#[derive(Debug)]
struct Round {
    stamp: Stamp,
    request: std::sync::Arc<Request>,
    nexus: Nexus,
    /// Answers still to come.
    left: usize,
    verdict: Verdict,
    /// A RESERVE that the unit had not been asked for before.
    fresh: bool,
    /// What a RELEASE releases.
    releases: Vec<(Slot, Party)>,
    /// Nexuses of which the unit did not say that what they had is released.
    unreleased: BTreeSet<Nexus>,
}

/// All that units were asked and have not answered.
#[derive(Debug, Default)]
pub(crate) struct Passing {
    errands: BTreeMap<(VolumeId, PassTicket), Errand>,
    parked: BTreeMap<OpId, Parked>,
    /// PERSISTENT RESERVE INs that wait for the engine.
    inspections: BTreeMap<OpId, (VolumeId, Nexus, u8)>,
    rounds: BTreeMap<VolumeId, Round>,
    /// How many requests each unit has answered.
    answered: BTreeMap<VolumeId, u64>,
    registrants: Registrants,
}

impl Passing {
    pub(crate) fn is_idle(&self) -> bool {
        self.errands.is_empty() && self.parked.is_empty()
    }

    /// An operator's question is with the unit.
    pub(crate) fn glimpse(&mut self, id: VolumeId, ticket: PassTicket, glimpse: Glimpse) {
        self.errands.insert((id, ticket), Errand::Onlook(glimpse));
    }
}

impl Site {
    /// Who registered has its nexus with the unit again: data may have to go through it.
    pub(crate) fn open_nexuses(&mut self) {
        for (id, unit) in &mut self.units {
            if !self.engine.kept_by_disk(*id) {
                continue;
            }
            for nexus in self.engine.registrants(*id) {
                unit.session_for(nexus);
            }
        }
    }

    /// Holds a host's command back until the unit lets it in; gives back what need not be asked.
    pub(crate) fn park(
        &mut self,
        op: OpId,
        nexus: Nexus,
        volume: VolumeId,
        command: Command,
    ) -> Option<Command> {
        if !self.engine.kept_by_disk(volume) {
            return Some(command);
        }
        let access = match &command {
            Command::Read { .. } => Access::Read,
            Command::Write { .. }
            | Command::Fill { .. }
            | Command::Unmap { .. }
            | Command::CompareAndWrite { .. } => Access::Write,
            Command::Flush => Access::Control,
            Command::Check { access } => *access,
            Command::Inspect { action } => {
                self.passing.inspections.insert(op, (volume, nexus, *action));
                return Some(command);
            }
            Command::Control { request: Request::SetModes(_) } => Access::Control,
            Command::Control { .. } | Command::Leave => return Some(command),
        };
        let parked = Parked { nexus, volume, command, access, attentions: 0 };
        self.passing.parked.insert(op, parked);
        self.question(op);
        None
    }

    /// Asks from the beginning.
    fn question(&mut self, op: OpId) {
        let Some(Parked { volume, access, command, .. }) = self.passing.parked.get(&op) else { return };
        let most = self.units.get(volume).and_then(Unit::most_of_a_question);
        let pieces = pieces(*access, command, most);
        let round = self.passing.answered.get(volume).copied().unwrap_or(0);
        self.ask_piece(op, round, pieces);
    }

    fn ask_piece(&mut self, op: OpId, round: u64, mut left: VecDeque<Piece>) {
        let Some(Parked { nexus, volume, .. }) = self.passing.parked.get(&op) else { return };
        let (Some(unit), Some(piece)) = (self.units.get_mut(volume), left.pop_front()) else { return };
        let (cdb, data) = piece.spelt();
        let ticket = unit.pass(*nexus, cdb, data, 0);
        self.passing.errands.insert((*volume, ticket), Errand::Question { op, round, piece, left });
    }

    /// Nobody waits for a command any more. `false`: it is not parked.
    pub(crate) fn unpark(&mut self, now: Now, op: OpId) -> bool {
        let parked = self.passing.parked.remove(&op).is_some();
        if parked {
            self.complete(now, op, Outcome::NotReady);
        }
        parked
    }

    /// Commands that an effect drops never happen.
    pub(crate) fn unpark_dropped(&mut self, now: Now, volume: VolumeId, effect: &Effect) {
        let whose = match effect {
            Effect::Abort(nexus) => Some(*nexus),
            Effect::AbortAll => None,
            Effect::Attend(..) | Effect::AttendAll { .. } | Effect::Modes(_) => return,
        };
        let goes = |parked: &Parked| parked.volume == volume && whose.is_none_or(|who| parked.nexus == who);
        let gone: Vec<OpId> =
            self.passing.parked.iter().filter(|(_, parked)| goes(parked)).map(|(op, _)| *op).collect();
        for op in gone {
            self.unpark(now, op);
        }
    }

    /// The engine has a request executed.
    pub(crate) fn pass(
        &mut self,
        now: Now,
        stamp: Stamp,
        id: VolumeId,
        nexus: Nexus,
        request: std::sync::Arc<Request>,
    ) {
        let Some(unit) = self.units.get_mut(&id) else { return };
        let mut fresh = false;
        let releases = match (&*request, book::about(&request)) {
            (Request::Release { .. }, Some(what)) => unit.book.releases(nexus, what),
            _ => Vec::new(),
        };
        let commands = match unit.commands(nexus, &request, &releases) {
            Ok(commands) => commands,
            Err(verdict) => return self.engine.handle_passed(id, stamp, verdict),
        };
        if let (Request::Reserve { .. }, Some(what)) = (&*request, book::about(&request)) {
            match unit.book.reserving(nexus, what) {
                Some(new) => fresh = new,
                None => return self.engine.handle_passed(id, stamp, Verdict::NoRoomToReserve),
            }
        }
        let left = commands.len();
        let (verdict, unreleased) = (Verdict::Done, BTreeSet::new());
        let round = Round { stamp, request, nexus, left, verdict, fresh, releases, unreleased };
        self.passing.rounds.insert(id, round);
        for (nexus, (cdb, data)) in commands {
            self.send_request(now, id, nexus, (cdb, data), Tries::default());
        }
        if left == 0 || planted(Mutant::PassWithoutAnswer) {
            self.round_over(now, id);
        }
    }

    fn send_request(&mut self, now: Now, id: VolumeId, nexus: Nexus, (cdb, data): Spelt, tries: Tries) {
        let Some(unit) = self.units.get_mut(&id) else { return };
        let from = match tries.busy {
            0 => 0,
            times => now.mono + (BUSY_PAUSE << (times - 1)),
        };
        let ticket = unit.pass_from(from, nexus, cdb, data.clone(), 0);
        self.passing.errands.insert((id, ticket), Errand::Request { nexus, cdb, data, tries });
    }

    /// A unit answered, or did not.
    pub(crate) fn passed(
        &mut self,
        now: Now,
        id: VolumeId,
        ticket: PassTicket,
        result: Result<Answer, String>,
    ) {
        let Some(errand) = self.passing.errands.remove(&(id, ticket)) else { return };
        match errand {
            Errand::Request { nexus, cdb, data, mut tries } => {
                if self.heard(now, id, nexus, &result) && tries.attentions < ATTENTIONS_MAX {
                    tries.attentions += 1;
                    return self.send_request(now, id, nexus, (cdb, data), tries);
                }
                // Not looked at: asked again, or a unit that is busy for a moment would differ from the other.
                if result.as_ref().is_ok_and(Answer::is_later) && tries.busy < BUSY_MAX {
                    tries.busy += 1;
                    return self.send_request(now, id, nexus, (cdb, data), tries);
                }
                if let Err(why) = &result {
                    self.notice(Severity::Warning, format!("a request of {nexus} was not answered: {why}"));
                }
                if let Some(round) = self.passing.rounds.get_mut(&id) {
                    round.left -= 1;
                    let verdict = result.map_or(Verdict::Unreachable, |answer| verdict_of(&answer));
                    if verdict == Verdict::Unreachable {
                        round.unreleased.insert(nexus);
                    }
                    if round.verdict == Verdict::Done {
                        round.verdict = verdict;
                    }
                    if round.left == 0 {
                        self.round_over(now, id);
                    }
                }
            }
            Errand::Question { op, round, piece, left } => {
                self.questioned(now, id, op, round, (piece, left), &result);
            }
            Errand::Inspection { op, nexus, action, attentions } => {
                if self.heard(now, id, nexus, &result) && attentions < ATTENTIONS_MAX {
                    return self.ask_persistent(op, id, nexus, action, attentions + 1);
                }
                self.inspected(now, op, action, result);
            }
            Errand::Onlook(glimpse) => self.glanced(now, id, glimpse, &result),
        }
    }

    fn round_over(&mut self, now: Now, id: VolumeId) {
        let Some(round) = self.passing.rounds.remove(&id) else { return };
        *self.passing.answered.entry(id).or_default() += 1;
        let (verdict, nexus) = (round.verdict, round.nexus);
        let done = verdict == Verdict::Done;
        self.passing.registrants.answered(id, nexus, &round.request, done);
        let Some(unit) = self.units.get_mut(&id) else { return };
        let verdict = match &*round.request {
            // No session any more, nothing reserved any more; a registrant's RELEASE may be refused, and has nothing to
            // release (SPC-4 5.13.3).
            Request::NexusLost => {
                // Some units take a registrant that comes back in another session for another.
                // It may be back already.
                let closes = !registered(&self.engine, id, nexus) && !self.hosts.contains_key(&nexus);
                if closes || round.unreleased.is_empty() {
                    unit.book.forget(nexus);
                }
                if closes {
                    unit.close_nexus(now.mono, nexus);
                }
                Verdict::Done
            }
            Request::Reset(Reset::TaskSet) => Verdict::Done,
            Request::Reset(_) => {
                unit.book.clear_but(&round.unreleased);
                Verdict::Done
            }
            Request::SiteStarted { .. } => {
                unit.book.clear_but(&round.unreleased);
                unit.book.begun |= round.stamp.site == self.config.site;
                Verdict::Done
            }
            Request::Release { .. } if done => {
                round.releases.iter().for_each(|what| unit.book.strike(nexus, *what));
                verdict
            }
            Request::Reserve { third_party, extents } => {
                let what = (extents.as_ref().map(|extents| extents.id), *third_party);
                if done {
                    unit.book.reserved(nexus, what);
                } else if round.fresh && verdict != Verdict::Unreachable {
                    unit.book.strike(nexus, what);
                }
                // Data goes through the holder's nexus from now on, without a conflict first.
                if done && extents.is_none() {
                    let holder = third_party.map_or(nexus, |host| unit.stand_in(host));
                    unit.set_carrier(Some(holder));
                }
                verdict
            }
            Request::ReservePersistent { .. } | Request::Preempt { .. } if done => {
                unit.set_carrier(Some(nexus));
                if matches!(*round.request, Request::Preempt { abort: true, .. }) {
                    unit.expect_aborts(now.mono, nexus);
                }
                verdict
            }
            // Data may have to go through those, and nobody may ask in their name.
            Request::Register { also, .. } if done => {
                for one in also {
                    unit.session_for(one.nexus);
                }
                verdict
            }
            Request::Move { to, .. } if done => {
                unit.set_carrier(Some(to.nexus));
                verdict
            }
            Request::Release { .. }
            | Request::Register { .. }
            | Request::ReservePersistent { .. }
            | Request::ReleasePersistent { .. }
            | Request::Clear { .. }
            | Request::Preempt { .. }
            | Request::Move { .. }
            | Request::SetModes(_) => verdict,
        };
        unit.keep_stand_ins(now.mono);
        if done {
            let key = |nexus| key_of(&self.engine, id, nexus);
            self.onlook.granted(unit, id, nexus, (round.stamp, &round.request), key);
        }
        let ends =
            matches!(*round.request, Request::NexusLost | Request::Reset(_) | Request::SiteStarted { .. });
        let keeps = |who: &&Nexus| ends && unit.book.has(**who);
        let kept: Vec<Nexus> = round.unreleased.iter().filter(keeps).copied().collect();
        for who in kept {
            let what = round.request.name();
            let text = format!(
                "the unit of volume {id} did not release what {who} may have reserved ({what}): the units may hold \
                 different reservations. Another LOGICAL UNIT RESET releases it"
            );
            self.notice(Severity::Alarm, text);
        }
        self.engine.handle_passed(id, round.stamp, verdict);
    }

    fn questioned(
        &mut self,
        now: Now,
        id: VolumeId,
        op: OpId,
        round: u64,
        (piece, left): (Piece, VecDeque<Piece>),
        result: &Result<Answer, String>,
    ) {
        let Some(parked) = self.passing.parked.get_mut(&op) else { return };
        let nexus = parked.nexus;
        let stale = self.passing.answered.get(&id).copied().unwrap_or(0) != round;
        let stale = stale && !planted(Mutant::StaleAdmission);
        // SAM-5 5.14: news come before a conflict. The host asks again and hears them first.
        let news = matches!(result, Ok(answer) if answer.is_attention());
        let again = (news || stale) && parked.attentions < ATTENTIONS_MAX;
        parked.attentions += u32::from(again);
        let port = Port::Host(nexus);
        let told = matches!(result, Ok(answer) if news && self.tell_attention(now, id, port, &answer.sense));
        if again && !told {
            return self.question(op);
        }
        let verdict = result.as_ref().map(|answer| piece.verdict(answer));
        if verdict == Ok(Verdict::Done) && !stale && !left.is_empty() {
            return self.ask_piece(op, round, left);
        }
        let Some(parked) = self.passing.parked.remove(&op) else { return };
        let Ok(verdict) = verdict else { return self.complete(now, op, Outcome::NotReady) };
        match verdict {
            _ if told => self.complete(now, op, Outcome::Busy),
            Verdict::Done if stale => self.complete(now, op, Outcome::Busy),
            Verdict::Done => self.carry(now, op, parked.nexus, parked.volume, parked.command),
            Verdict::Conflict => self.complete(now, op, Outcome::Conflict),
            Verdict::Unreachable => self.complete(now, op, Outcome::Busy),
            Verdict::NoRoomToRegister
            | Verdict::NoRoomToReserve
            | Verdict::WrongRelease
            | Verdict::BadParameter(_)
            | Verdict::BadCdb(_)
            | Verdict::Miscompare { .. } => {
                let text =
                    format!("a unit does not know the question whether {nexus} may come in: {verdict}");
                self.notice(Severity::Warning, text);
                self.complete(now, op, Outcome::NotReady);
            }
        }
    }

    /// PERSISTENT RESERVE IN has waited for what was asked before: now the unit is asked. `false`: the pair knows.
    pub(crate) fn inspect(&mut self, op: OpId) -> bool {
        let Some((id, nexus, action)) = self.passing.inspections.remove(&op) else { return false };
        self.ask_persistent(op, id, nexus, action, 0);
        true
    }

    /// An inspection ended without the unit.
    pub(crate) fn forget_inspection(&mut self, op: OpId) {
        self.passing.inspections.remove(&op);
    }

    fn ask_persistent(&mut self, op: OpId, id: VolumeId, nexus: Nexus, action: u8, attentions: u32) {
        let Some(unit) = self.units.get_mut(&id) else { return };
        let cdb = persistent_reserve_in(action, PERSISTENT_BYTES);
        let ticket = unit.pass(nexus, cdb, Bytes::new(), u32::from(PERSISTENT_BYTES));
        let errand = Errand::Inspection { op, nexus, action, attentions };
        self.passing.errands.insert((id, ticket), errand);
    }

    fn inspected(&mut self, now: Now, op: OpId, action: u8, result: Result<Answer, String>) {
        let Ok(answer) = result else { return self.complete(now, op, Outcome::NotReady) };
        let completion = match verdict_of(&answer) {
            Verdict::Done => {
                let mut data = answer.data.to_vec();
                // A registration stands for one nexus at one site (`spell`).
                if action == REPORT_CAPABILITIES
                    && let Some(bits) = data.get_mut(2)
                {
                    *bits &= !ATP;
                }
                Completion::Data(vec![data.into()])
            }
            Verdict::Conflict => failed(Failure::Conflict),
            Verdict::Unreachable => failed(Failure::Busy),
            other @ (Verdict::NoRoomToRegister
            | Verdict::NoRoomToReserve
            | Verdict::WrongRelease
            | Verdict::BadParameter(_)
            | Verdict::BadCdb(_)
            | Verdict::Miscompare { .. }) => Completion::Verdict(other),
        };
        self.answer(now, op, completion);
    }

    /// A host's session with a unit was lost.
    pub(crate) fn unit_nexus_lost(&mut self, now: Now, id: VolumeId, nexus: Nexus) {
        if self.units.get_mut(&id).is_some_and(|unit| unit.book.forget(nexus)) {
            let text = format!(
                "the unit of volume {id} lost the nexus of {nexus}, and what that had reserved: released at both sites"
            );
            self.notice(Severity::Warning, text);
            // The reset is told to all, but it waits for the line where that is down.
            if nexus.site == self.config.site {
                self.target.apply_effect(id, &Effect::Attend(nexus, Attention::Reset));
            }
            self.lost(now, id);
        }
    }

    /// What was reserved by SCSI-2 is gone at this site's unit alone.
    fn lost(&mut self, now: Now, id: VolumeId) {
        self.onlook.forget_holder(id);
        if !planted(Mutant::LossUntold) {
            self.engine.handle_unit_lost(now, id, Reset::Unit);
        }
    }

    /// A session was told that the unit was reset or lost power, by whomever: what was reserved by SCSI-2 is gone at this
    /// unit alone.
    fn unit_was_reset(&mut self, now: Now, id: VolumeId, port: Port) {
        let Some(unit) = self.units.get_mut(&id).filter(|_| self.engine.kept_by_disk(id)) else { return };
        if unit.was_reset(now.mono, port) && !unit.book.is_empty() {
            let text = format!(
                "the unit of volume {id} was reset, and what was reserved there is gone: released at both sites"
            );
            self.notice(Severity::Warning, text);
            self.lost(now, id);
        }
    }

    /// Ends sessions with units that are of no use any more: of hosts that are gone and have nothing.
    pub(crate) fn prune_nexuses(&mut self, now: Now) {
        for (id, unit) in &mut self.units {
            let here = |nexus: Nexus| self.hosts.contains_key(&nexus);
            unit.prune(now.mono, |nexus| here(nexus) || registered(&self.engine, *id, nexus));
        }
    }

    /// Whether the unit had news for this nexus instead of an answer; they are handed on, if the host is here.
    pub(crate) fn heard(
        &mut self,
        now: Now,
        id: VolumeId,
        nexus: Nexus,
        result: &Result<Answer, String>,
    ) -> bool {
        let Ok(answer) = result else { return false };
        if !answer.is_attention() {
            return false;
        }
        self.tell_attention(now, id, Port::Host(nexus), &answer.sense);
        true
    }

    /// Takes in a unit's news for a session, and hands them on to the host in whose name it stands; `false`: there are none
    /// for it.
    pub(crate) fn tell_attention(&mut self, now: Now, id: VolumeId, port: Port, sense: &[u8]) -> bool {
        if let (_, 0x29, 0x00..=0x04) = crate::unit::sense_codes(sense) {
            self.unit_was_reset(now, id, port);
        }
        let Port::Host(nexus) = port else { return false };
        if nexus.site != self.config.site || !self.engine.kept_by_disk(id) || is_onlooker(nexus) {
            return false;
        }
        // SPC-4 table D.1. What else a unit may have to say is about itself, and the pair is another unit.
        let attention = match crate::unit::sense_codes(sense) {
            (_, 0x29, 0x03) => Attention::Reset,
            (_, 0x2a, 0x03) => Attention::ReservationsPreempted,
            (_, 0x2a, 0x04) => Attention::ReservationsReleased,
            (_, 0x2a, 0x05) => Attention::RegistrationsPreempted,
            _ => return false,
        };
        self.target.apply_effect(id, &Effect::Attend(nexus, attention));
        true
    }

    /// A host is gone that asked nothing of the unit: its session there ends. One that did ends when that is executed.
    pub(crate) fn close_idle_nexus(&mut self, now: Now, nexus: Nexus) {
        for (id, unit) in &mut self.units {
            let visits = self.engine.visits(*id, nexus) || registered(&self.engine, *id, nexus);
            if self.engine.kept_by_disk(*id) && !visits {
                unit.close_nexus(now.mono, nexus);
            }
        }
    }

    /// A command that nothing keeps out.
    pub(crate) fn submit(
        &mut self,
        now: Now,
        asker: Asker,
        nexus: Nexus,
        volume: VolumeId,
        command: Command,
    ) {
        let op = self.new_op(asker);
        if let Some(command) = self.park(op, nexus, volume, command) {
            self.carry(now, op, nexus, volume, command);
        }
    }
}

/// Whether a nexus registered once and did not unregister, as far as the pair knows.
fn registered(engine: &Engine, id: VolumeId, nexus: Nexus) -> bool {
    engine.registrants(id).contains(&nexus)
}

/// The key that a nexus registered, as far as the pair knows.
fn key_of(engine: &Engine, id: VolumeId, nexus: Nexus) -> Option<u64> {
    let registrations = engine.reservations(id)?.persistent().registrations;
    registrations.into_iter().find(|one| one.registrant.nexus == nexus).map(|one| one.key)
}

/// What a unit's answer to a request means.
fn verdict_of(answer: &Answer) -> Verdict {
    use crate::unit::answer::{CHECK, CONFLICT, GOOD};
    match (answer.status, crate::unit::sense_codes(&answer.sense)) {
        _ if answer.is_later() => Verdict::Unreachable,
        (GOOD, _) | (CHECK, (0x1, _, _)) => Verdict::Done,
        (CONFLICT, _) => Verdict::Conflict,
        (CHECK, (0x5, 0x55, 0x04)) => Verdict::NoRoomToRegister,
        (CHECK, (0x5, 0x55, _)) => Verdict::NoRoomToReserve,
        (CHECK, (0x5, 0x26, 0x04)) => Verdict::WrongRelease,
        (CHECK, (0x5, 0x26 | 0x1a, _)) => Verdict::BadParameter(field(&answer.sense)),
        (CHECK, (0x5, 0x24 | 0x20, _)) => Verdict::BadCdb(field(&answer.sense)),
        _ => Verdict::Unreachable,
    }
}

/// The byte that sense data in fixed format points at (SPC-4 4.5.2.4.2); 0 where it points at none.
fn field(sense: &[u8]) -> u16 {
    match (sense.first().map(|code| code & 0x7f), sense.get(15..18)) {
        (Some(0x70), Some([flags, high, low])) if flags & 0x80 != 0 => u16::from_be_bytes([*high, *low]),
        _ => 0,
    }
}

impl Unit {
    /// The hosts' nexuses that have sessions with it.
    fn nexuses(&self) -> Vec<Nexus> {
        self.ports()
            .filter_map(|port| if let Port::Host(nexus) = port { Some(nexus) } else { None })
            .collect()
    }

    /// What is sent for a request, and in which nexuses; an error is what comes of it instead.
    fn commands(
        &self,
        nexus: Nexus,
        request: &Request,
        releases: &[(Slot, Party)],
    ) -> Result<Vec<(Nexus, Spelt)>, Verdict> {
        let whose = match request {
            // What was reserved ends with the nexus; one that has no session with the unit has nothing there.
            Request::NexusLost => self.nexuses().into_iter().filter(|known| *known == nexus).collect(),
            // CLEAR TASK SET releases nothing.
            Request::Reset(Reset::TaskSet) => Vec::new(),
            // That site's sessions are over, and ours that stood for its hosts end now.
            Request::Reset(_) | Request::SiteStarted { .. } => self.nexuses(),
            Request::Release { .. } => {
                let all = releases.iter().map(|what| Ok((nexus, self.release(*what)?)));
                return all.collect();
            }
            Request::Reserve { .. }
            | Request::Register { .. }
            | Request::ReservePersistent { .. }
            | Request::ReleasePersistent { .. }
            | Request::Clear { .. }
            | Request::Preempt { .. }
            | Request::Move { .. }
            | Request::SetModes(_) => return Ok(vec![(nexus, self.spell(request)?)]),
        };
        let all = whose.into_iter().flat_map(|nexus| {
            let releases = self.book.all_releases(nexus).into_iter();
            releases.filter_map(move |what| Some((nexus, self.release(what).ok()?)))
        });
        Ok(all.collect())
    }

    fn release(&self, (extents, third_party): (Slot, Party)) -> Result<Spelt, Verdict> {
        self.spell(&Request::Release { third_party, extents })
    }

    fn spell(&self, request: &Request) -> Result<Spelt, Verdict> {
        let parts = self.facts().and_then(|facts| facts.parts);
        if parts.is_none() && book::about(request).is_some_and(|what| what != (None, None)) {
            // A reservation has kept it from saying what it can.
            return Err(Verdict::Unreachable);
        }
        let parts = parts.unwrap_or_default();
        let name = |host| self.host_at_unit(host);
        let third_party = parts.third_party.then_some(&name as &dyn Fn(HostId) -> HostId);
        let means = Means {
            extents: parts.extents.is_some(),
            ten: parts.ten,
            third_party,
            port: &|nexus| self.port_at_unit(nexus),
            target_port: self.facts().and_then(|facts| facts.port),
        };
        spell(request, means)
    }

    /// How much one command may ask about; `None`: commands of no blocks say all, as no extents are reserved.
    fn most_of_a_question(&self) -> Option<Most> {
        let facts = self.facts().filter(|_| self.book.extents())?;
        let swap = facts.parts.and_then(|parts| parts.extents)?;
        Some(Most { verify: facts.transfer_blocks_max, swap: u64::from(swap) })
    }
}
