//! A volume's store that is a real SCSI unit reached over iSCSI (E5.1, E5.2): a pool of sessions with it, the site's own
//! and one per host nexus, and what goes through them.
//!
//! ```text
//! order(DiskOp) ─▶ lanes (reads | writes) ─▶ parts ─┬▶ carrier's session ──┐
//!                                                   ├▶ site's own session ─┼▶ UnitAction::Send ─▶ the unit
//! pass(nexus, cdb) ─▶ that nexus's own session ─────┘  (next on CONFLICT) ─┘
//! ```
//! No I/O, no clock: connections are asked for ([`UnitAction::Connect`]) and told of, time comes with each call.
//!
//! Invariants:
//! - Each order and each pass is answered exactly once, an error always with unit, command, status and sense.
//! - An error means unknown. Whoever ordered writes repeats all of them since the last good sync.
//! - A sync is good only if every write since the last good one went through sessions that still stand, and the unit
//!   told of no reset: a unit that lost power has lost its cache.
//! - No write leaves while a session that was lost with writes under way has not been made anew: only its
//!   reinstatement (RFC 7143 §6.3.5) makes sure that no write of it comes late, over a newer one.
//! - A pass goes through its own nexus's session or none, and is sent at most once.

pub(crate) mod answer;
pub(crate) mod book;
mod name;
mod orders;
mod passes;
mod probe;
#[cfg(test)]
mod tests;

pub use answer::Answer;
pub(crate) use answer::codes as sense_codes;
pub use name::{NAME_BYTES_MAX, Port, initiator_port};
pub(crate) use name::{is_onlooker, onlooker};
pub use probe::{Facts, Parts, Zeroing, judge_capacity};

use crate::api::{ChapConfig, Severity};
use biplex_engine::{HostId, Nexus, SiteId, VolumeId};
use biplex_front::iscsi::Chap;
use biplex_front::iscsi::initiator::{
    Initiator, InitiatorConfig, InitiatorEvent, Payload, READ_KEYS, lun, persistent_reserve_in,
    test_unit_ready,
};
use biplex_store::{DiskResult, DiskTicket};
use book::Book;
use bytes::Bytes;
use orders::{Orders, Part};
use passes::Pass;
use probe::{Next, Probe};
use std::collections::{BTreeMap, VecDeque};

/// Sessions of hosts' nexuses with one unit at a time: all that can be registered, and as many more.
pub const NEXUSES_MAX: usize = 512;
/// Time for a connection to stand and for its login and questions, nanoseconds.
const LOGIN_MAX: u64 = 10_000_000_000;
/// A command that is not answered for so long ends its session, nanoseconds.
const COMMAND_MAX: u64 = 15_000_000_000;
/// The same for SYNCHRONIZE CACHE, which waits for the medium.
const SYNC_MAX: u64 = 60_000_000_000;
/// Room for the first of READ KEYS' keys.
const KEYS_BYTES: u16 = 16;
/// First and longest pause between attempts to connect, nanoseconds.
const PAUSE_MIN: u64 = 100_000_000;
const PAUSE_MAX: u64 = 2_000_000_000;

/// Where a unit is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnitAddress {
    /// "address:port" or "name:port".
    pub portal: String,
    /// The target's iSCSI name.
    pub target: String,
    /// Logical unit number.
    pub lun: u16,
    /// What the target wants proven; `mutual` is not used.
    pub chap: Option<ChapConfig>,
}

impl std::fmt::Display for UnitAddress {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "iscsi://{}/{}/{}", self.portal, self.target, self.lun)
    }
}

impl UnitAddress {
    /// How a session of this port logs in.
    pub fn login(&self, pair: &str, site: SiteId, volume: VolumeId, port: Port) -> InitiatorConfig {
        let (name, isid) = initiator_port(pair, site, volume, port);
        let chap = self.chap.as_ref();
        let chap = chap.map(|c| Chap { user: c.user.clone(), secret: c.secret.clone(), mutual: None });
        InitiatorConfig { isid, chap, ..InitiatorConfig::new(&name, &self.target) }
    }
}

/// A connection with a unit, a number never used before in this run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct UnitConn {
    /// Whose store the unit is.
    pub volume: VolumeId,
    /// Counts from 1.
    pub number: u64,
}

/// Names a pass until its answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct PassTicket(pub u64);

/// What a unit wants done, or has to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UnitAction {
    /// Connect; [`Unit::handle_connected`] or [`Unit::handle_closed`] must follow.
    Connect {
        /// The connection.
        conn: UnitConn,
        /// Where to.
        portal: String,
    },
    /// Send, in order.
    Send {
        /// The connection.
        conn: UnitConn,
        /// The bytes.
        bytes: Bytes,
    },
    /// Close after what was sent, if it is not closed already. Nothing more is heard of it.
    Close {
        /// The connection.
        conn: UnitConn,
    },
    /// An order ended.
    Done {
        /// As given to [`Unit::order`].
        ticket: DiskTicket,
        /// Its outcome.
        result: DiskResult,
    },
    /// A pass ended.
    Passed {
        /// As given by [`Unit::pass`].
        ticket: PassTicket,
        /// The unit's answer; an error if there is none: then whether it was carried out is unknown.
        result: Result<Answer, String>,
    },
    /// The unit had news for a session while that carried data or logged in: no host has heard them yet.
    Attention {
        /// Whose session.
        port: Port,
        /// The news.
        sense: Bytes,
    },
    /// A host's nexus has a session anew, and the unit says that nobody is registered with it.
    NobodyRegistered {
        /// The nexus.
        nexus: Nexus,
    },
    /// A host's nexus has lost its session with the unit: what the unit releases then (SAM-5 6.3.4) is released.
    NexusLost {
        /// The nexus.
        nexus: Nexus,
    },
    /// Something the operator should read.
    Notice {
        /// How much it matters.
        severity: Severity,
        /// In words.
        text: String,
    },
}

enum Use {
    Probe,
    /// Whether there is news.
    Look,
    /// Whether anybody is registered.
    Keys,
    Data(Part),
    Pass(PassTicket),
}

struct Task {
    use_: Use,
    until: u64,
}

enum Stage {
    /// Connects at this moment.
    Resting {
        until: u64,
    },
    Dialling {
        conn: UnitConn,
        until: u64,
    },
    Asking {
        conn: UnitConn,
        initiator: Box<Initiator>,
        until: u64,
        probe: Box<Probe>,
    },
    Ready {
        conn: UnitConn,
        initiator: Box<Initiator>,
    },
}

struct Session {
    stage: Stage,
    pause: u64,
    tasks: BTreeMap<u64, Task>,
    passes: VecDeque<Pass>,
    /// It was lost with writes under way and has not been made anew.
    fenced: bool,
    /// Writes went through it since the last good sync.
    wrote: bool,
    /// Its host is gone: ends as soon as it may.
    leaving: bool,
    /// Why it does not stand, once an attempt has failed.
    trouble: Option<String>,
    /// Since when it does not stand, once somebody wanted it.
    away_since: Option<u64>,
    /// When a host's command last went through it.
    used: u64,
    /// The unit was reset, and this nexus may be told of it, too: it is asked.
    hears_of_reset: bool,
}

impl Session {
    fn new() -> Session {
        Session {
            stage: Stage::Resting { until: 0 },
            pause: PAUSE_MIN,
            tasks: BTreeMap::new(),
            passes: VecDeque::new(),
            fenced: false,
            wrote: false,
            leaving: false,
            trouble: None,
            away_since: None,
            used: 0,
            hears_of_reset: false,
        }
    }

    fn conn(&self) -> Option<UnitConn> {
        match &self.stage {
            Stage::Resting { .. } => None,
            Stage::Dialling { conn, .. } | Stage::Asking { conn, .. } | Stage::Ready { conn, .. } => {
                Some(*conn)
            }
        }
    }

    fn initiator(&mut self) -> Option<&mut Initiator> {
        match &mut self.stage {
            Stage::Resting { .. } | Stage::Dialling { .. } => None,
            Stage::Asking { initiator, .. } | Stage::Ready { initiator, .. } => Some(initiator),
        }
    }

    fn is_ready(&self) -> bool {
        matches!(self.stage, Stage::Ready { .. })
    }

    fn deadline(&self) -> Option<u64> {
        let stage = match &self.stage {
            Stage::Resting { until } | Stage::Dialling { until, .. } | Stage::Asking { until, .. } => {
                Some(*until)
            }
            Stage::Ready { .. } => self.passes.iter().map(|pass| pass.from).min(),
        };
        let tasks = self.tasks.values().map(|task| task.until);
        stage.into_iter().chain(tasks).chain(self.passes.iter().filter_map(|pass| pass.until)).min()
    }
}

/// A unit and all sessions with it.
pub struct Unit {
    address: UnitAddress,
    /// The pair's name, from which the sessions' are derived.
    pair: String,
    site: SiteId,
    volume: VolumeId,
    /// The volume's name, for messages.
    name: String,
    blocks: u64,
    sessions: BTreeMap<Port, Session>,
    carrier: Option<Nexus>,
    /// The session that carried data when another met a conflict.
    lucky: Option<Port>,
    facts: Option<Facts>,
    /// What hosts may have reserved.
    pub(crate) book: Book,
    orders: Orders,
    next_conn: u64,
    next_tag: u64,
    next_pass: u64,
    /// Since when no session stands.
    away_since: Option<u64>,
    /// Something came in without a time: [`Unit::advance`] is wanted at once.
    stirred: bool,
    out: VecDeque<UnitAction>,
}

/// What a unit must know of its site and volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnitSetting {
    /// Where the unit is.
    pub address: UnitAddress,
    /// The pair's target name.
    pub pair: String,
    /// This site.
    pub site: SiteId,
    /// The volume.
    pub volume: VolumeId,
    /// Its name.
    pub name: String,
    /// Its size in blocks.
    pub blocks: u64,
    /// It keeps hosts' reservations.
    pub reserves: bool,
}

impl Unit {
    /// A unit with which the site's own session is made at the first [`Unit::advance`].
    pub fn new(setting: UnitSetting) -> Unit {
        let UnitSetting { address, pair, site, volume, name, blocks, reserves } = setting;
        Unit {
            address,
            pair,
            site,
            volume,
            name,
            blocks,
            sessions: BTreeMap::from([(Port::Site, Session::new())]),
            carrier: None,
            lucky: None,
            facts: None,
            book: Book::new(!reserves),
            orders: Orders::default(),
            next_conn: 1,
            next_tag: 1,
            next_pass: 1,
            away_since: None,
            stirred: true,
            out: VecDeque::new(),
        }
    }

    /// What the unit is, once a session has stood.
    pub fn facts(&self) -> Option<&Facts> {
        self.facts.as_ref()
    }

    /// Why the site's own session does not stand, if it does not.
    pub fn trouble(&self) -> Option<&str> {
        let own = self.sessions.get(&Port::Site)?;
        if own.is_ready() { None } else { Some(own.trouble.as_deref().unwrap_or("connecting")) }
    }

    /// Who has a session with it, or is about to.
    pub(crate) fn ports(&self) -> impl Iterator<Item = Port> {
        self.sessions.keys().copied()
    }

    /// The hosts' nexuses whose sessions stand.
    pub(crate) fn standing(&self) -> Vec<Nexus> {
        let standing = self.sessions.iter().filter(|(_, session)| session.is_ready());
        let hosts =
            standing.filter_map(|(port, _)| if let Port::Host(nexus) = port { Some(*nexus) } else { None });
        hosts.filter(|nexus| !is_onlooker(*nexus)).collect()
    }

    /// Whether some session stands, so that data can be moved now.
    pub fn reachable(&self) -> bool {
        self.sessions.values().any(Session::is_ready)
    }

    /// Which nexus data is tried on first: that of the host which holds an exclusive reservation on the unit (E5.2).
    /// Its session is made if there is none. `None`: the site's own.
    pub fn set_carrier(&mut self, carrier: Option<Nexus>) {
        self.carrier = carrier.filter(|nexus| self.session_for(*nexus));
        (self.lucky, self.stirred) = (None, true);
    }

    /// Opens the session of a host's nexus, if it is not there. `false`: there are [`NEXUSES_MAX`] already.
    pub fn session_for(&mut self, nexus: Nexus) -> bool {
        if let Some(session) = self.sessions.get_mut(&Port::Host(nexus)) {
            session.leaving = false;
            return true;
        }
        let room = self.sessions.len() <= NEXUSES_MAX;
        if room {
            self.sessions.insert(Port::Host(nexus), Session::new());
            self.stirred = true;
        }
        room
    }

    /// How the unit, if it is one of ours, calls a host as a third party.
    pub(crate) fn host_at_unit(&self, host: HostId) -> HostId {
        name::host_at_unit(&self.pair, self.site, self.volume, host)
    }

    /// Initiator name and ISID that a host's nexus has at the unit.
    pub(crate) fn port_at_unit(&self, nexus: Nexus) -> (String, u64) {
        let (name, isid) = initiator_port(&self.pair, self.site, self.volume, Port::Host(nexus));
        (name, isid.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// The nexus in which data moves for a third party: it may have no session of its own yet.
    pub(crate) fn stand_in(&self, host: HostId) -> Nexus {
        name::stand_in(host, self.site)
    }

    /// Third parties for which something may be reserved have a session, others need none.
    pub(crate) fn keep_stand_ins(&mut self, now: u64) {
        let wanted = self.book.third_parties();
        for host in &wanted {
            self.session_for(self.stand_in(*host));
        }
        for port in self.sessions.keys().copied().collect::<Vec<_>>() {
            if let Port::Host(nexus) = port
                && name::is_stand_in(nexus)
                && !wanted.contains(&nexus.host)
            {
                self.close_nexus(now, nexus);
            }
        }
    }

    /// The host's nexus is gone: its session is ended, and with it what the unit keeps for as long as a nexus lives.
    pub fn close_nexus(&mut self, now: u64, nexus: Nexus) {
        let port = Port::Host(nexus);
        if self.carrier == Some(nexus) {
            self.carrier = None;
        }
        if let Some(session) = self.sessions.get_mut(&port) {
            session.leaving = true;
        }
        self.leave(now, port);
    }

    /// Ends a session whose host is gone, if nothing speaks against it any more.
    fn leave(&mut self, now: u64, port: Port) {
        let Some(session) = self.sessions.get_mut(&port) else { return };
        let carrying = || session.tasks.values().any(|task| matches!(task.use_, Use::Data(_)));
        if !session.leaving || session.fenced || carrying() {
            return;
        }
        if session.is_ready()
            && let Some(initiator) = session.initiator()
        {
            initiator.logout();
            // What it wrote was answered. Whether the unit keeps it until the next sync another session will know.
            let wrote = std::mem::take(&mut session.wrote);
            let others = self.sessions.iter_mut().filter(|(of, other)| **of != port && other.is_ready());
            let witness = others.map(|(_, other)| &mut other.wrote).next();
            match (wrote, witness) {
                (true, Some(witness)) => *witness = true,
                (true, None) => {
                    self.orders.doubt("the only session with it ended behind the writes".to_owned())
                }
                (false, _) => {}
            }
        }
        self.flush();
        self.lose(now, port, "its host is gone");
        if let Some(session) = self.sessions.remove(&port) {
            for pass in session.passes {
                self.passed(pass.ticket, Err(self.said("the host is gone")));
            }
        }
    }

    /// A connection stands.
    pub fn handle_connected(&mut self, now: u64, conn: UnitConn) {
        let Some(port) = self.port_of(conn) else { return };
        let config = self.address.login(&self.pair, self.site, self.volume, port);
        let probe = Box::new(Probe::new(self.blocks, self.facts.clone()));
        if let Some(session) = self.sessions.get_mut(&port) {
            // Randomness is used for mutual CHAP alone, which is not offered.
            let initiator = Box::new(Initiator::new(config, Box::new(|bytes| bytes.fill(0))));
            session.stage = Stage::Asking { conn, initiator, until: now + LOGIN_MAX, probe };
        }
        self.advance(now);
    }

    /// Bytes came.
    pub fn handle_bytes(&mut self, now: u64, conn: UnitConn, bytes: Bytes) {
        let Some(port) = self.port_of(conn) else { return };
        if let Some(initiator) = self.sessions.get_mut(&port).and_then(Session::initiator) {
            initiator.handle_bytes(bytes);
        }
        while let Some(event) =
            self.sessions.get_mut(&port).and_then(Session::initiator).and_then(Initiator::poll_event)
        {
            self.handle_event(now, port, event);
        }
        self.advance(now);
    }

    /// A connection ended, or could not be made.
    pub fn handle_closed(&mut self, now: u64, conn: UnitConn, why: &str) {
        if let Some(port) = self.port_of(conn) {
            self.lose(now, port, why);
        }
        self.advance(now);
    }

    /// Moment at which [`Unit::advance`] is wanted although nothing happened.
    pub fn next_deadline(&self) -> Option<u64> {
        self.sessions.values().filter_map(Session::deadline).chain(self.orders.deadline()).min()
    }

    /// The next action.
    pub fn poll(&mut self) -> Option<UnitAction> {
        self.out.pop_front()
    }

    /// Whether something came in since the last [`Unit::advance`], so that one is wanted now.
    pub fn stirred(&self) -> bool {
        self.stirred
    }

    /// Does what is due and what can be done: connects, gives up, sends orders and passes on.
    pub fn advance(&mut self, now: u64) {
        self.stirred = false;
        if !self.reachable() {
            self.away_since.get_or_insert(now);
        }
        for port in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.advance_session(now, port);
        }
        self.advance_orders(now);
        self.flush();
    }

    fn advance_session(&mut self, now: u64, port: Port) {
        let Some(session) = self.sessions.get_mut(&port) else { return };
        let late = session.tasks.values().any(|task| task.until <= now);
        let why = match &session.stage {
            Stage::Dialling { until, .. } if *until <= now => Some("it does not answer the connection"),
            Stage::Asking { until, .. } if *until <= now => Some("it did not complete the login in time"),
            Stage::Ready { .. } if late => Some("it left a command without an answer"),
            Stage::Resting { .. } | Stage::Dialling { .. } | Stage::Asking { .. } | Stage::Ready { .. } => {
                None
            }
        };
        if let Some(why) = why {
            self.lose(now, port, why);
        }
        let Some(session) = self.sessions.get_mut(&port) else { return };
        if let Stage::Resting { until } = session.stage
            && until <= now
        {
            let conn = UnitConn { volume: self.volume, number: self.next_conn };
            self.next_conn += 1;
            session.stage = Stage::Dialling { conn, until: now + LOGIN_MAX };
            self.out.push_back(UnitAction::Connect { conn, portal: self.address.portal.clone() });
        }
        self.send_passes(now, port);
    }

    fn handle_event(&mut self, now: u64, port: Port, event: InitiatorEvent) {
        match event {
            InitiatorEvent::LoggedIn => self.ask(now, port),
            InitiatorEvent::LoginFailed { class, detail } => {
                self.lose(now, port, &login_refusal(class, detail))
            }
            InitiatorEvent::Done { tag, status, sense, data, residual: _ } => {
                self.handle_done(now, port, tag, Answer { status, sense, data });
            }
            InitiatorEvent::Closed { why } => self.lose(now, port, why),
            // RFC 7143 §7.3: what was rejected is never answered.
            InitiatorEvent::Rejected { reason } => {
                self.lose(now, port, &format!("the target rejected a PDU, reason {reason:02x}h"));
            }
            InitiatorEvent::Async { event: 1 } => self.lose(now, port, "the target asked us to log out"),
            InitiatorEvent::Async { .. }
            | InitiatorEvent::Managed { .. }
            | InitiatorEvent::Echo { .. }
            | InitiatorEvent::Text { .. } => {}
        }
    }

    fn ask(&mut self, now: u64, port: Port) {
        let Some(session) = self.sessions.get_mut(&port) else { return };
        let Stage::Asking { initiator, probe, .. } = &mut session.stage else { return };
        let (cdb, payload) = probe.question();
        initiator.submit(self.next_tag, lun(self.address.lun), cdb, payload);
        session.tasks.insert(self.next_tag, Task { use_: Use::Probe, until: now + LOGIN_MAX });
        self.next_tag += 1;
    }

    fn handle_done(&mut self, now: u64, port: Port, tag: u64, answer: Answer) {
        let Some(session) = self.sessions.get_mut(&port) else { return };
        let Some(Task { use_, .. }) = session.tasks.remove(&tag) else { return };
        // To a session that has just logged in a power on is nothing new.
        if let Some(what) = answer.tells_of_loss().filter(|_| !matches!(use_, Use::Probe)) {
            self.orders.doubt(format!("it told of {what} behind the writes: {answer}"));
        }
        match use_ {
            Use::Probe => {
                // SPC-4: what a nexus lost with its registration it hears even in a new session.
                if let (Port::Host(_), (0x6, 0x2a, 0x03..=0x05)) = (port, sense_codes(&answer.sense)) {
                    self.out.push_back(UnitAction::Attention { port, sense: answer.sense.clone() });
                }
                let Some(session) = self.sessions.get_mut(&port) else { return };
                let Stage::Asking { probe, .. } = &mut session.stage else { return };
                match probe.answered(&answer) {
                    Next::Ask => self.ask(now, port),
                    Next::Fit(facts) => self.fit(now, port, facts),
                    Next::Unfit(why) => self.lose(now, port, &why),
                }
            }
            Use::Look if answer.is_attention() => {
                self.out.push_back(UnitAction::Attention { port, sense: answer.sense });
            }
            Use::Look => session.hears_of_reset = false,
            Use::Keys => {
                // SPC-4 6.15.2: ADDITIONAL LENGTH. Not every unit knows this, and a reservation may forbid it.
                let nobody = answer.status == answer::GOOD && answer.data.get(4..8) == Some(&[0; 4]);
                if let (Port::Host(nexus), true) = (port, nobody) {
                    self.out.push_back(UnitAction::NobodyRegistered { nexus });
                }
            }
            Use::Pass(ticket) => self.passed(ticket, Ok(answer)),
            Use::Data(part) => {
                self.part_answered(now, port, part, answer);
                self.leave(now, port);
            }
        }
    }

    /// The session stands and the unit is what it should be.
    fn fit(&mut self, now: u64, port: Port, mut facts: Facts) {
        // Logins overlap: what another was told meanwhile stays known.
        facts.parts = facts.parts.or(self.facts.as_ref().and_then(|known| known.parts));
        let Some(session) = self.sessions.get_mut(&port) else { return };
        let resting = Stage::Resting { until: now };
        session.stage = match std::mem::replace(&mut session.stage, resting) {
            Stage::Asking { conn, initiator, .. } => Stage::Ready { conn, initiator },
            other => other,
        };
        // What it was to be told of a reset it was told at the login.
        (session.fenced, session.hears_of_reset, session.pause) = (false, false, PAUSE_MIN);
        (session.away_since, session.used, self.away_since) = (None, now, None);
        let trouble = session.trouble.take();
        if port == Port::Site {
            match (&self.facts, trouble) {
                (None, _) => self.notice(Severity::Info, &format!("is {facts}")),
                (Some(_), Some(why)) => self.notice(Severity::Info, &format!("is back (it was away: {why})")),
                (Some(_), None) => {}
            }
        }
        self.facts = Some(facts);
        // A session that is new hears nothing of a reset before it, and lets its host in all the same; whoever had reserved
        // the unit may not use theirs.
        if port != Port::Site && !self.book.is_empty() {
            self.look(now, Port::Site);
        }
        if port != Port::Site {
            // Nobody waits for it, so it may take as long as it takes.
            let cdb = persistent_reserve_in(READ_KEYS, KEYS_BYTES);
            self.ask_aside(port, (cdb, Payload::In(u32::from(KEYS_BYTES))), Use::Keys, u64::MAX);
        }
        self.leave(now, port);
    }

    /// Asks the unit for news in a session, if that stands.
    fn look(&mut self, now: u64, port: Port) {
        self.ask_aside(port, (test_unit_ready(), Payload::None), Use::Look, now + COMMAND_MAX);
    }

    fn ask_aside(&mut self, port: Port, (cdb, payload): ([u8; 16], Payload), use_: Use, until: u64) {
        let Some(session) = self.sessions.get_mut(&port) else { return };
        let Stage::Ready { initiator, .. } = &mut session.stage else { return };
        initiator.submit(self.next_tag, lun(self.address.lun), cdb, payload);
        session.tasks.insert(self.next_tag, Task { use_, until });
        self.next_tag += 1;
        self.stirred = true;
    }

    /// A session is over: what was under way is unknown.
    fn lose(&mut self, now: u64, port: Port, why: &str) {
        let Some(session) = self.sessions.get_mut(&port) else { return };
        let stood = session.is_ready() && !session.leaving;
        if let Some(conn) = session.conn() {
            self.out.push_back(UnitAction::Close { conn });
        }
        session.stage = Stage::Resting { until: now + session.pause };
        session.pause = (session.pause * 2).min(PAUSE_MAX);
        let news = !session.leaving && session.trouble.as_deref() != Some(why);
        let first = session.trouble.is_none();
        session.trouble = Some(why.to_owned());
        let wrote = std::mem::take(&mut session.wrote);
        let tasks = std::mem::take(&mut session.tasks);
        if self.lucky == Some(port) {
            self.lucky = None;
        }
        if wrote {
            self.orders.doubt(format!("its session was lost behind the writes: {why}"));
        }
        for task in tasks.into_values() {
            match task.use_ {
                Use::Probe | Use::Look | Use::Keys => {}
                Use::Pass(ticket) => self.passed(ticket, Err(self.said(why))),
                Use::Data(part) => self.part_lost(port, part, why),
            }
        }
        if news {
            let (severity, whose) = match port {
                Port::Site if first => (Severity::Alarm, ""),
                Port::Site => (Severity::Warning, ""),
                Port::Host(_) => (Severity::Warning, "for a host "),
            };
            self.notice(severity, &format!("{whose}is away: {why}; trying on"));
        }
        if let Port::Host(nexus) = port
            && stood
        {
            self.out.push_back(UnitAction::NexusLost { nexus });
        }
    }

    fn port_of(&self, conn: UnitConn) -> Option<Port> {
        self.sessions.iter().find(|(_, session)| session.conn() == Some(conn)).map(|(port, _)| *port)
    }

    /// Hands on what the sessions have to send.
    fn flush(&mut self) {
        for session in self.sessions.values_mut() {
            let Some(conn) = session.conn() else { continue };
            while let Some(bytes) = session.initiator().and_then(Initiator::poll_send) {
                self.out.push_back(UnitAction::Send { conn, bytes });
            }
        }
    }

    fn said(&self, what: &str) -> String {
        format!("unit {}: {what}", self.address)
    }

    fn notice(&mut self, severity: Severity, what: &str) {
        let text = format!("volume {}: unit {} {what}", self.name, self.address);
        self.out.push_back(UnitAction::Notice { severity, text });
    }
}

/// A login's refusal in words (RFC 7143 §11.13.5).
fn login_refusal(class: u8, detail: u8) -> String {
    let meaning = match (class, detail) {
        (1, _) => "the target has moved; name its new address",
        (2, 1) => "it does not believe who we are; correct user and secret",
        (2, 2) => "it does not let this initiator in; allow the name in its access list",
        (2, 3) => "there is no such target; correct its name",
        (3, _) => "it cannot serve just now",
        (255, _) => "it could not prove who it is",
        _ => "see RFC 7143 11.13.5",
    };
    format!("login refused with {class:02x}{detail:02x}h: {meaning}")
}
