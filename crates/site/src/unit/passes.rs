//! Answers for hosts' commands on their way through sessions of their own, and for how long those sessions live.
//!
//! A pass is in one place: with its session until that stands, then with the unit, and is answered once.

use super::answer::Answer;
use super::{COMMAND_MAX, NEXUSES_MAX, PassTicket, Port, Session, Stage, Task, Unit, UnitAction, Use, name};
use crate::api::Severity;
use biplex_engine::Nexus;
use biplex_front::iscsi::initiator::{Payload, lun};
use bytes::Bytes;

/// A session that was not used for so long ends, if nothing may be kept for its nexus; nanoseconds.
const IDLE_MAX: u64 = 60_000_000_000;
/// A pass waits so long for its session, counted from when that, or the unit, went away: an outage costs this once, not
/// once for each pass.
const PASS_PATIENCE: u64 = 10_000_000_000;

/// A host's command that waits to be sent.
pub(super) struct Pass {
    pub ticket: PassTicket,
    pub cdb: [u8; 16],
    pub payload: Payload,
    /// Not sent before.
    pub from: u64,
    /// When it gives up waiting for its session.
    pub until: Option<u64>,
}

impl Unit {
    /// Sends a host's command through its own session, which is opened on demand, exactly as it is and at most once.
    pub fn pass(&mut self, nexus: Nexus, cdb: [u8; 16], data_out: Bytes, data_in_len: u32) -> PassTicket {
        self.pass_from(0, nexus, cdb, data_out, data_in_len)
    }

    /// The same, but not before the moment `from`.
    pub fn pass_from(
        &mut self,
        from: u64,
        nexus: Nexus,
        cdb: [u8; 16],
        data_out: Bytes,
        data_in_len: u32,
    ) -> PassTicket {
        let ticket = PassTicket(self.next_pass);
        self.next_pass += 1;
        let payload = match (data_out.is_empty(), data_in_len) {
            (false, _) => Payload::Out(data_out),
            (true, 0) => Payload::None,
            (true, room) => Payload::In(room),
        };
        self.stirred = true;
        let room = self.session_for(nexus);
        match self.sessions.get_mut(&Port::Host(nexus)) {
            Some(session) => session.passes.push_back(Pass { ticket, cdb, payload, from, until: None }),
            None => self.passed(ticket, Err(self.said("there are too many sessions with it"))),
        }
        if !room {
            let what = format!(
                "has {NEXUSES_MAX} sessions, one for each nexus of a host that is here or registered: those of further \
                 hosts are NOT READY. Log out what is not needed, and if hosts that are gone are still registered (`biplex \
                 locks` lists them) have a registered host CLEAR, and those that stay register anew"
            );
            self.notice(Severity::Alarm, &what);
        }
        ticket
    }

    /// Ends sessions that were long not used and whose nexuses nobody `needs`.
    pub fn prune(&mut self, now: u64, needs: impl Fn(Nexus) -> bool) {
        let idle = |(port, session): (&Port, &Session)| match port {
            Port::Host(nexus) => {
                let waits = session.tasks.values().any(|task| !matches!(task.use_, Use::Keys));
                let busy = waits || !session.passes.is_empty() || !session.is_ready();
                let kept = busy || self.book.has(*nexus) || name::is_stand_in(*nexus) || needs(*nexus);
                (!kept && session.used.saturating_add(IDLE_MAX) <= now).then_some(*nexus)
            }
            Port::Site => None,
        };
        let all: Vec<Nexus> = self.sessions.iter().filter_map(idle).collect();
        all.into_iter().for_each(|nexus| self.close_nexus(now, nexus));
    }

    /// A nexus was told that the unit was reset. Whether that is news: all that had sessions then are told of the same
    /// reset. They are asked for it, so that the next one is not taken for it.
    pub(crate) fn was_reset(&mut self, now: u64, port: Port) -> bool {
        if let Some(session) = self.sessions.get_mut(&port)
            && std::mem::take(&mut session.hears_of_reset)
        {
            return false;
        }
        for other in self.ports().filter(|other| *other != port).collect::<Vec<_>>() {
            if let Some(session) = self.sessions.get_mut(&other).filter(|session| session.is_ready()) {
                session.hears_of_reset = true;
                self.look(now, other);
            }
        }
        true
    }

    pub(super) fn send_passes(&mut self, now: u64, port: Port) {
        let away = self.away_since.unwrap_or(u64::MAX);
        let Some(session) = self.sessions.get_mut(&port) else { return };
        let (mut given_up, trouble) = (Vec::new(), session.trouble.clone());
        if let Stage::Ready { initiator, .. } = &mut session.stage {
            for pass in std::mem::take(&mut session.passes) {
                if pass.from > now {
                    session.passes.push_back(pass);
                    continue;
                }
                initiator.submit(self.next_tag, lun(self.address.lun), pass.cdb, pass.payload);
                let task = Task { use_: Use::Pass(pass.ticket), until: now + COMMAND_MAX };
                session.tasks.insert(self.next_tag, task);
                self.next_tag += 1;
                session.used = now;
            }
        } else if !session.passes.is_empty() {
            let since = (*session.away_since.get_or_insert(now)).min(away);
            for pass in &mut session.passes {
                pass.until.get_or_insert(since.saturating_add(PASS_PATIENCE));
            }
            let late = |pass: &Pass| pass.until.is_some_and(|until| until <= now);
            given_up.extend(session.passes.iter().filter(|pass| late(pass)).map(|pass| pass.ticket));
            session.passes.retain(|pass| !late(pass));
        }
        for ticket in given_up {
            let why = trouble.as_deref().unwrap_or("no session could be made in time");
            self.passed(ticket, Err(self.said(why)));
        }
    }

    pub(super) fn passed(&mut self, ticket: PassTicket, result: Result<Answer, String>) {
        self.out.push_back(UnitAction::Passed { ticket, result });
    }
}
