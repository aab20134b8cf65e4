//! The iSCSI target: connections, logins, sessions, and the traffic between them and the site (RFC 7143).
//!
//! Must never let one connection's bytes change another's session, except where the protocol says so:
//! reinstatement and resets. Invariants: an initiator port has at most one session; every command handed to
//! the site is answered to its host at most once; all that a connection can make us hold is bounded.
//!
//! ```text
//! bytes ─▶ Framer ─▶ Login ─▶ Session ─▶ Device ─▶ TargetAction::Command ─▶ (the site)
//! bytes ◀─ Outbox ◀────────── Session ◀─ Device ◀─ handle_completion ◀───────┘
//! ```

use super::Entropy;
use super::chap::Chap;
use super::framing::{FrameFault, Framer, Outbox};
use super::login::{Login, LoginReply, LoginRules};
use super::manage::{COMPLETE, NO_UNIT, REJECTED, Reset, ResetKind};
use super::pdu::{LoginRequest, LoginResponse, Pdu, opcode};
use super::session::{Next, Session};
use super::shared::{Management, Owed, Shared, Timer};
use super::text::RECEIVE_DEFAULT;
use crate::scsi::Device;
use crate::{Completion, ConnId, TaskId, VolumeCommand};
use biplex_engine::reserve::{self, Effect, Request, Verdict};
use biplex_engine::{Nexus, Now, VolumeId};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Most connections at once.
pub const CONNECTIONS_MAX: usize = 256;
/// Most connections at once that have not logged in; the slowest makes room for a new one.
pub const LOGINS_MAX: usize = 64;
/// A login takes no longer than this.
pub const LOGIN_NS_MAX: u64 = 30_000_000_000;
/// A host that is silent for so long is asked whether it is still there.
pub const PING_AFTER_NS: u64 = 10_000_000_000;
/// Unanswered pings after which a host counts as gone.
const PINGS_MISSED_MAX: u8 = 2;
/// Bytes that a socket has not taken, above which its session gets no new commands and no further data.
pub const BACKLOG_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes held back for one connection, above which it is dropped.
const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Hosts that are asked to log out have so long.
const DRAIN_SECONDS: u16 = 3;

/// How a target presents itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetConfig {
    /// iSCSI qualified name.
    pub name: String,
    /// Target portal group tag (RFC 7143 §13.9).
    pub group: u16,
    /// Own portal, "host:port"; a wildcard host is told as the address that the host reached us at.
    pub portal: String,
    /// The other site's portals and their group tags, told in discovery.
    pub peer_portals: Vec<(String, u16)>,
    /// Secrets; without them hosts need no proof.
    pub chap: Option<Chap>,
}

/// Something that the target wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TargetAction {
    /// Send to a host, in order.
    Send {
        /// The connection.
        conn: ConnId,
        /// The bytes.
        bytes: Bytes,
    },
    /// Close a connection after what was sent. Nothing more comes out for it.
    Close {
        /// The connection.
        conn: ConnId,
    },
    /// Nobody waits for this command any more (aborted, or its session is gone): if it was not begun, it must not be.
    /// [`Target::handle_completion`] is owed all the same.
    Abandon {
        /// The command.
        task: TaskId,
    },
    /// Carry out a command. [`Target::handle_completion`] is owed exactly once, even if the task is aborted
    /// meanwhile.
    Command {
        /// Names the answer.
        task: TaskId,
        /// Whose command it is.
        nexus: Nexus,
        /// The command.
        command: VolumeCommand,
    },
    /// A nexus is about to end: what it reserved is to be released at both sites.
    /// [`Target::handle_completion`] is owed, as for a command.
    Leave {
        /// Names the answer.
        task: TaskId,
        /// Which.
        nexus: Nexus,
    },
    /// A session began.
    LoggedIn {
        /// The session's nexus.
        nexus: Nexus,
        /// The initiator's name.
        initiator: Arc<str>,
        /// Where it comes from.
        remote: String,
    },
    /// A session ended, for whatever reason.
    LoggedOut {
        /// The session's nexus.
        nexus: Nexus,
        /// The initiator's name.
        initiator: Arc<str>,
    },
    /// A host was turned away or broke the protocol, or a task management function of its was not done: for the log.
    Refused {
        /// The connection.
        conn: ConnId,
        /// Why, with the remote address.
        why: String,
    },
}

/// A session, for the status page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionView {
    /// The nexus.
    pub nexus: Nexus,
    /// The initiator's name.
    pub initiator: String,
    /// The initiator's session id (RFC 7143 §11.12.5).
    pub isid: [u8; 6],
    /// Where it comes from.
    pub remote: String,
    /// Commands that are under way.
    pub commands: usize,
}

enum Phase {
    Login(Box<Login>),
    Session(Box<Session>),
}

struct Connection {
    local: String,
    remote: String,
    framer: Framer,
    out: Outbox,
    phase: Phase,
    /// Bytes that the socket has not taken.
    backlog: usize,
    /// Noted in `dirty`.
    dirty: bool,
    /// When the connection began, or its host was last heard.
    heard: u64,
    pings_missed: u8,
    /// The timer that stands for this connection.
    timer: u64,
}

/// The target.
pub struct Target {
    shared: Shared,
    connections: BTreeMap<ConnId, Connection>,
    /// Normal sessions by initiator port (§4.4.3): name and ISID.
    ports: BTreeMap<(Arc<str>, [u8; 6]), ConnId>,
    tsihs: BTreeMap<u16, ConnId>,
    /// Connections with something to send.
    dirty: VecDeque<ConnId>,
    logging_in: usize,
    draining: bool,
}

impl Target {
    /// A target without connections. `entropy` fills buffers with unpredictable bytes.
    pub fn new(config: TargetConfig, device: Device, entropy: Entropy) -> Target {
        Target {
            shared: Shared::new(config, device, entropy),
            connections: BTreeMap::new(),
            ports: BTreeMap::new(),
            tsihs: BTreeMap::new(),
            dirty: VecDeque::new(),
            logging_in: 0,
            draining: false,
        }
    }

    /// A host opened a connection; `local` is where it reached us.
    pub fn handle_connected(&mut self, now: Now, conn: ConnId, local: String, remote: String) {
        if self.connections.len() >= CONNECTIONS_MAX || self.logging_in >= LOGINS_MAX {
            // The slowest login makes room, so that silent callers cannot keep hosts out until they time out.
            let Some(slowest) = self.slowest_login() else {
                self.refused(conn, &remote, "too many connections");
                self.shared.actions.push_back(TargetAction::Close { conn });
                return;
            };
            self.close(slowest, Some("too many logins at a time and this one was the slowest"));
        }
        let timer = now.mono + LOGIN_NS_MAX;
        let connection = Connection {
            local,
            remote,
            framer: Framer::new(RECEIVE_DEFAULT as usize),
            out: Outbox::default(),
            phase: Phase::Login(Box::new(Login::new())),
            backlog: 0,
            dirty: false,
            heard: now.mono,
            pings_missed: 0,
            timer,
        };
        self.shared.timers.insert((timer, Timer::Connection(conn)));
        self.connections.insert(conn, connection);
        self.logging_in += 1;
    }

    /// The connection that has been logging in for longest.
    fn slowest_login(&self) -> Option<ConnId> {
        let logins = self.connections.iter().filter(|(_, held)| matches!(held.phase, Phase::Login(_)));
        logins.min_by_key(|(conn, held)| (held.heard, **conn)).map(|(conn, _)| *conn)
    }

    /// A host sent bytes.
    pub fn handle_bytes(&mut self, now: Now, conn: ConnId, bytes: Bytes) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        connection.framer.push(bytes);
        if matches!(connection.phase, Phase::Session(_)) {
            (connection.heard, connection.pings_missed) = (now.mono, 0);
        }
        // A PDU may end this connection, so it is looked up anew for each.
        while let Some(connection) = self.connections.get_mut(&conn) {
            match connection.framer.next() {
                Ok(Some(pdu)) => self.handle_pdu(now, conn, &pdu),
                Ok(None) => break,
                Err(FrameFault::HeaderDigest) => self.close(conn, Some("wrong header digest")),
                Err(FrameFault::TooLong) => {
                    self.close(conn, Some("data segment longer than declared, or garbage"))
                }
            }
        }
        self.touch(conn);
    }

    /// The socket has `queued` bytes that it could not pass on yet.
    pub fn handle_backlog(&mut self, _now: Now, conn: ConnId, queued: usize) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        connection.backlog = queued;
        if let Phase::Session(session) = &mut connection.phase {
            session.set_congested(&mut connection.out, queued > BACKLOG_BYTES_MAX);
        }
        self.touch(conn);
    }

    /// A connection ended.
    pub fn handle_closed(&mut self, _now: Now, conn: ConnId) {
        self.remove(conn);
    }

    /// The site has carried out a command, or failed to.
    pub fn handle_completion(&mut self, _now: Now, task: TaskId, completion: Completion) {
        match self.shared.tasks.remove(&task) {
            Some(Owed::Live { conn, itt, pending }) => {
                let step = self.shared.device.finish(pending, completion);
                if let Some(Connection { phase: Phase::Session(session), out, .. }) =
                    self.connections.get_mut(&conn)
                {
                    session.handle_step(&mut self.shared, out, itt, step);
                }
                self.touch(conn);
            }
            Some(Owed::Aborted { waiter: Some(waiter) }) => {
                if let Some(management) = self.shared.count_down(waiter) {
                    self.end_management(&management, COMPLETE);
                }
            }
            Some(Owed::Reset { waiter }) => self.handle_reset_done(waiter, &completion),
            Some(Owed::Leave { conn }) => self.handle_left(conn),
            Some(Owed::Aborted { waiter: None }) => {}
            None => debug_assert!(false, "an answer to {task:?}, which is not owed"),
        }
    }

    /// Time passed: due at [`Target::next_deadline`], harmless at any time.
    pub fn handle_tick(&mut self, now: Now) {
        while let Some((due, timer)) = self.shared.timers.first().copied().filter(|(due, _)| *due <= now.mono)
        {
            self.shared.timers.remove(&(due, timer));
            match timer {
                Timer::Connection(conn) => self.handle_idle(now, conn),
                Timer::Leave(conn) => self.handle_left(conn),
                Timer::Management(waiter) => {
                    if let Some(management) = self.shared.managements.remove(&waiter) {
                        self.reject_management(management, "not done in time");
                    }
                }
                Timer::Drain => {
                    let all: Vec<ConnId> = self.connections.keys().copied().collect();
                    all.into_iter().for_each(|conn| self.close(conn, None));
                }
            }
        }
    }

    /// Orderly end: hosts are asked to log out, new logins are refused (0301h), after a while all is closed.
    pub fn handle_drain(&mut self, now: Now) {
        if std::mem::replace(&mut self.draining, true) {
            return;
        }
        let all: Vec<ConnId> = self.connections.keys().copied().collect();
        for conn in all {
            if let Some(Connection { phase: Phase::Session(session), out, .. }) =
                self.connections.get_mut(&conn)
            {
                session.request_logout(out, DRAIN_SECONDS);
            }
            self.touch(conn);
        }
        let due = now.mono + u64::from(DRAIN_SECONDS) * 1_000_000_000;
        self.shared.timers.insert((due, Timer::Drain));
    }

    /// When [`Target::handle_tick`] is due, in monotonic nanoseconds.
    pub fn next_deadline(&self) -> Option<u64> {
        self.shared.timers.first().map(|(due, _)| *due)
    }

    /// The next thing to do. Replies to several events travel together if this is called after all of them.
    pub fn poll(&mut self) -> Option<TargetAction> {
        loop {
            if let Some(action) = self.shared.actions.pop_front() {
                return Some(action);
            }
            let conn = self.dirty.pop_front()?;
            if let Some(connection) = self.connections.get_mut(&conn) {
                connection.dirty = false;
                if connection.backlog <= BACKLOG_BYTES_MAX {
                    flush(&mut self.shared.actions, conn, &mut connection.out);
                }
            }
        }
    }

    /// The normal sessions.
    pub fn sessions(&self) -> Vec<SessionView> {
        let view = |connection: &Connection| {
            let Phase::Session(session) = &connection.phase else { return None };
            Some(SessionView {
                nexus: session.nexus?,
                initiator: session.initiator.to_string(),
                isid: session.isid,
                remote: connection.remote.clone(),
                commands: session.running.len() + session.writes.len(),
            })
        };
        self.connections.values().filter_map(view).collect()
    }

    /// Number of connections, logged in or not.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// The SCSI device behind the target.
    pub fn device(&self) -> &Device {
        &self.shared.device
    }

    fn handle_pdu(&mut self, now: Now, conn: ConnId, pdu: &Pdu) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let next = match &mut connection.phase {
            Phase::Login(_) => return self.handle_login(now, conn, pdu),
            Phase::Session(session) => session.handle(&mut self.shared, &mut connection.out, pdu, now.mono),
        };
        match next {
            Next::Continue => {}
            Next::Close(why) => self.close(conn, why),
            Next::Reset(reset) => self.reset(now, conn, reset),
        }
    }

    fn handle_login(&mut self, now: Now, conn: ConnId, pdu: &Pdu) {
        // Whatever is not a login here has no session to answer in (§6.3): no reply, no reject.
        if pdu.opcode() != opcode::LOGIN || !pdu.immediate() || !pdu.ahs.is_empty() {
            return self.close(conn, Some("not an iSCSI login"));
        }
        let Some(Connection { phase: Phase::Login(login), out, .. }) = self.connections.get_mut(&conn) else {
            return;
        };
        let request: &LoginRequest = pdu.view();
        let rules = LoginRules {
            config: &self.shared.config,
            draining: self.draining,
            tsih_known: self.tsihs.contains_key(&request.tsih.get()),
        };
        let reply = login.handle(&rules, &mut *self.shared.entropy, request, &pdu.data);
        if reply.complete {
            return self.begin_session(now, conn, request, reply);
        }
        let refused = reply.refused;
        let stat_sn = login.stat_sn;
        login.stat_sn = stat_sn.wrapping_add(1);
        let exp_cmd_sn = request.cmd_sn.get();
        push_login_response(out, request, 0, [stat_sn, exp_cmd_sn, exp_cmd_sn], reply);
        if refused.is_some() {
            self.close(conn, refused);
        }
    }

    /// The last login response: ends an older session of the same initiator port, begins the new one
    /// (§6.3.5).
    fn begin_session(&mut self, now: Now, conn: ConnId, request: &LoginRequest, reply: LoginReply) {
        let tsih = self.new_tsih();
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let Phase::Login(login) = &mut connection.phase else { return };
        let initiator: Arc<str> = std::mem::take(&mut login.initiator).into();
        let (isid, discovery) = (login.isid, login.discovery);
        let mut session = Session::new(
            conn,
            initiator.clone(),
            connection.local.clone(),
            login.parameters.clone(),
            login.cmd_sn,
            login.stat_sn,
        );
        (session.isid, session.tsih, session.cid) = (isid, tsih, login.cid);
        let (header_digest, data_digest) = (session.parameters.header_digest, session.parameters.data_digest);
        connection.framer.data_max = login.receive_max() as usize;
        (connection.framer.header_digest, connection.framer.data_digest) = (header_digest, data_digest);
        if !discovery && let Some(old) = self.ports.get(&(initiator.clone(), isid)).copied() {
            self.close(old, None); // session reinstatement
        }
        if !discovery {
            let nexus = self.shared.device.nexus(&initiator, isid);
            session.nexus = Some(nexus);
            self.shared.device.attach(nexus, initiator.clone());
            self.ports.insert((initiator.clone(), isid), conn);
            let remote =
                self.connections.get(&conn).map(|connection| connection.remote.clone()).unwrap_or_default();
            self.shared.actions.push_back(TargetAction::LoggedIn { nexus, initiator, remote });
        }
        self.tsihs.insert(tsih, conn);
        self.logging_in -= 1;
        let numbers = session.status_numbers();
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let numbers = [numbers.stat_sn, numbers.exp_cmd_sn, numbers.max_cmd_sn];
        push_login_response(&mut connection.out, request, tsih, numbers, reply);
        // Digests count from the first PDU of full-feature phase (§13.1).
        (connection.out.header_digest, connection.out.data_digest) = (header_digest, data_digest);
        connection.phase = Phase::Session(Box::new(session));
        connection.heard = now.mono;
        self.shared.timers.remove(&(connection.timer, Timer::Connection(conn)));
        connection.timer = now.mono + PING_AFTER_NS;
        self.shared.timers.insert((connection.timer, Timer::Connection(conn)));
    }

    /// A TSIH that is neither zero nor in use (§11.12.6).
    fn new_tsih(&mut self) -> u16 {
        let mut drawn = [0; 2];
        (self.shared.entropy)(&mut drawn);
        let mut tsih = u16::from_be_bytes(drawn);
        while tsih == 0 || self.tsihs.contains_key(&tsih) {
            tsih = tsih.wrapping_add(1); // ends: there are far fewer sessions than numbers
        }
        tsih
    }

    /// A connection's timer: the login took too long, or the host is silent.
    fn handle_idle(&mut self, now: Now, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let Phase::Session(session) = &mut connection.phase else {
            return self.close(conn, Some("login not finished in time"));
        };
        if session.data_overdue(now.mono) {
            return self.close(conn, Some("promised data did not come"));
        }
        let mut due = connection.heard + PING_AFTER_NS;
        if due <= now.mono {
            if connection.pings_missed == PINGS_MISSED_MAX {
                return self.close(conn, Some("host does not answer pings"));
            }
            connection.pings_missed += 1;
            session.send_ping(&mut connection.out);
            due = now.mono + PING_AFTER_NS;
        }
        connection.timer = due;
        self.shared.timers.insert((due, Timer::Connection(conn)));
        self.touch(conn);
    }

    /// A reset that reaches all sessions, at both sites (§11.5.1): it is a request in the order of everything, and is
    /// answered when both have executed it ([`Target::apply_effect`]).
    fn reset(&mut self, now: Now, conn: ConnId, reset: Reset) {
        let Reset { kind, lun, itt } = reset;
        let device = &self.shared.device;
        let (function, volumes) = match kind {
            ResetKind::ClearTaskSet => (reserve::Reset::TaskSet, device.volume(lun).into_iter().collect()),
            ResetKind::Unit => (reserve::Reset::Unit, device.volume(lun).into_iter().collect()),
            ResetKind::TargetWarm => (reserve::Reset::TargetWarm, device.volumes()),
            ResetKind::TargetCold => (reserve::Reset::TargetCold, device.volumes()),
        };
        let cold = kind == ResetKind::TargetCold;
        let management = Management { conn, itt, remaining: volumes.len(), deadline: now.mono, cold };
        let by = match self.connections.get_mut(&conn) {
            Some(Connection { phase: Phase::Session(session), out, .. }) if !volumes.is_empty() => {
                // The host that asks waits for none of its own any more; the others' are dropped when it is executed.
                let of_unit = matches!(kind, ResetKind::ClearTaskSet | ResetKind::Unit).then_some(lun);
                session.abort_all(&mut self.shared, of_unit, None);
                session.grant(out);
                session.nexus
            }
            Some(_) | None => None,
        };
        let Some(by) = by.filter(|_| !volumes.is_empty()) else {
            return self.end_management(&Management { cold: false, ..management }, NO_UNIT);
        };
        let waiter = self.shared.new_management();
        for volume in volumes {
            self.shared.order_reset(waiter, by, volume, Request::Reset(function));
        }
        self.shared.wait(waiter, management);
    }

    /// One unit's share of a reset ended.
    fn handle_reset_done(&mut self, waiter: u64, completion: &Completion) {
        if *completion == Completion::Verdict(Verdict::Done) {
            if let Some(management) = self.shared.count_down(waiter) {
                self.end_management(&management, COMPLETE);
            }
        } else if let Some(management) = self.shared.give_up(waiter) {
            self.reject_management(management, "not both sites executed it");
        }
    }

    /// What a session that logs out had reserved is released, or will be.
    fn handle_left(&mut self, conn: ConnId) {
        let Some(Connection { phase: Phase::Session(session), out, .. }) = self.connections.get_mut(&conn)
        else {
            return;
        };
        if session.handle_left(out) {
            self.close(conn, None);
        }
    }

    /// What follows for the hosts of this site from a request that both sites execute.
    pub fn apply_effect(&mut self, volume: VolumeId, effect: &Effect) {
        self.shared.device.apply_effect(volume, effect);
        let whose = match effect {
            Effect::Abort(nexus) => Some(*nexus),
            Effect::AbortAll => None,
            Effect::Attend(..) | Effect::AttendAll { .. } | Effect::Modes(_) => return,
        };
        let Some(lun) = self.shared.device.lun(volume) else { return };
        let mut touched = Vec::new();
        for (conn, connection) in &mut self.connections {
            let Phase::Session(session) = &mut connection.phase else { continue };
            if session.nexus.is_none() || whose.is_some_and(|nexus| session.nexus != Some(nexus)) {
                continue;
            }
            // Nobody waits for them: what was let in has its place in the order before this, the rest never happens.
            session.abort_all(&mut self.shared, Some(lun), None);
            session.grant(&mut connection.out);
            touched.push(*conn);
        }
        // Sessions that got their place in the window back, or an R2T.
        touched.into_iter().for_each(|conn| self.touch(conn));
    }

    /// Answers a task management function that was not, or not known to be, carried out.
    fn reject_management(&mut self, management: Management, why: &str) {
        if let Some(connection) = self.connections.get(&management.conn) {
            let remote = connection.remote.clone();
            self.refused(management.conn, &remote, &format!("a task management function: {why}"));
        }
        self.end_management(&Management { cold: false, ..management }, REJECTED);
    }

    /// Answers a task management function.
    fn end_management(&mut self, management: &Management, response: u8) {
        if let Some(Connection { phase: Phase::Session(session), out, .. }) =
            self.connections.get_mut(&management.conn)
        {
            session.answer_management(out, management.itt, response);
        }
        self.touch(management.conn);
        if management.cold {
            let all: Vec<ConnId> = self.connections.keys().copied().collect();
            all.into_iter().for_each(|conn| self.close(conn, None));
        }
    }

    /// Notes that a connection may have something to send, and drops it if it takes nothing.
    fn touch(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let held = connection.out.held();
        if connection.backlog > BACKLOG_BYTES_MAX && held > HELD_BYTES_MAX {
            return self.close(conn, Some("host takes nothing of what it asked for"));
        }
        if held > 0 && !connection.dirty {
            connection.dirty = true;
            self.dirty.push_back(conn);
        }
    }

    /// Ends a connection from our side, after what was to be sent.
    fn close(&mut self, conn: ConnId, why: Option<&str>) {
        let Some(mut connection) = self.remove(conn) else { return };
        flush(&mut self.shared.actions, conn, &mut connection.out);
        if let Some(why) = why {
            self.refused(conn, &connection.remote, why);
        }
        self.shared.actions.push_back(TargetAction::Close { conn });
    }

    fn refused(&mut self, conn: ConnId, remote: &str, why: &str) {
        self.shared.actions.push_back(TargetAction::Refused { conn, why: format!("{remote}: {why}") });
    }

    /// Takes a connection off all lists and ends its session.
    fn remove(&mut self, conn: ConnId) -> Option<Connection> {
        let mut connection = self.connections.remove(&conn)?;
        self.shared.timers.remove(&(connection.timer, Timer::Connection(conn)));
        match &mut connection.phase {
            Phase::Login(_) => self.logging_in -= 1,
            Phase::Session(session) => {
                if session.nexus.is_some() {
                    self.ports.remove(&(session.initiator.clone(), session.isid));
                }
                self.tsihs.remove(&session.tsih);
                session.end(&mut self.shared);
            }
        }
        Some(connection)
    }
}

fn flush(actions: &mut VecDeque<TargetAction>, conn: ConnId, out: &mut Outbox) {
    while let Some(bytes) = out.pop() {
        actions.push_back(TargetAction::Send { conn, bytes });
    }
}

/// Sends a Login Response (§11.13); `numbers` are StatSN, ExpCmdSN, MaxCmdSN.
fn push_login_response(
    out: &mut Outbox,
    request: &LoginRequest,
    tsih: u16,
    numbers: [u32; 3],
    reply: LoginReply,
) {
    let [stat_sn, exp_cmd_sn, max_cmd_sn] = numbers;
    let header = LoginResponse {
        opcode: opcode::LOGIN_RESPONSE,
        flags: reply.flags,
        isid: request.isid,
        tsih: if tsih == 0 { request.tsih } else { tsih.into() },
        itt: request.itt,
        stat_sn: stat_sn.into(),
        exp_cmd_sn: exp_cmd_sn.into(),
        max_cmd_sn: max_cmd_sn.into(),
        class: reply.status.0,
        detail: reply.status.1,
        ..LoginResponse::default()
    };
    out.push(&header, &[reply.text.0.into()]);
}
