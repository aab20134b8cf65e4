//! A small initiator: the other end of the wire, for the demo, the simulator, the bench and the tests (RFC
//! 7143).
//!
//! One session, one connection, ErrorRecoveryLevel 0. Bytes and submissions in, bytes and events out; no
//! clock, no socket. Must never panic on what a target sends: a target that breaks the protocol ends the
//! session with [`InitiatorEvent::Closed`]. Invariant: each submission gets one `Done`, unless it is aborted
//! or the session ends.

use super::Entropy;
use super::chap::{Algorithm, Challenge, Chap, binary, hex};
use super::framing::{Framer, Outbox};
use super::pdu::{
    Answer, AsyncMessage, Basic, CONTINUE, Command, DataIn, DataOut, FINAL, IMMEDIATE, LoginRequest,
    LoginResponse, LogoutRequest, Management, ManagementResponse, NO_TAG, Pdu, READ, ReadyToTransfer,
    Response, STATUS, TextRequest, WRITE, before, length_of, opcode,
};
use super::text::{Parameters, RECEIVE_MAX, TEXT_BYTES_MAX, TextOut, number, parse};
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, VecDeque};

mod cdb;

pub use cdb::{
    READ_FULL_STATUS, READ_KEYS, READ_RESERVATION, REPORT_CAPABILITIES, compare_and_write, extent_element,
    inquiry, lun, mode_select6_of_nothing, persistent_parameters, persistent_reserve_in,
    persistent_reserve_out, read_capacity16, read16, release6, release6_extents, reserve6, reserve6_extents,
    reserve10, synchronize_cache16, test_unit_ready, verify16, write16,
};

/// Who logs in, where, and with what wishes.
#[derive(Clone, Debug)]
pub struct InitiatorConfig {
    /// iSCSI name of the initiator.
    pub name: String,
    /// Initiator session id; with the name it is the initiator port (RFC 7143 §11.12.5).
    pub isid: [u8; 6],
    /// The target's name; `None` asks for a discovery session.
    pub target: Option<String>,
    /// What we prove, and (`mutual`) what the target must prove to us.
    pub chap: Option<Chap>,
    /// Ask for header digests.
    pub header_digest: bool,
    /// Ask for data digests.
    pub data_digest: bool,
    /// InitialR2T as offered: `false` asks for unsolicited data.
    pub initial_r2t: bool,
    /// ImmediateData as offered.
    pub immediate_data: bool,
    /// FirstBurstLength as offered.
    pub first_burst: u32,
    /// MaxBurstLength as offered.
    pub max_burst: u32,
    /// MaxRecvDataSegmentLength as declared.
    pub receive_max: u32,
    /// CmdSN of the first command.
    pub first_cmd_sn: u32,
}

impl InitiatorConfig {
    /// Plain wishes: no digests, immediate data, R2T for the rest.
    pub fn new(name: &str, target: &str) -> InitiatorConfig {
        InitiatorConfig {
            name: name.to_owned(),
            isid: [0x80, 0, 0, 0, 0, 1],
            target: Some(target.to_owned()),
            chap: None,
            header_digest: false,
            data_digest: false,
            initial_r2t: true,
            immediate_data: true,
            first_burst: 262_144,
            max_burst: 1_048_576,
            receive_max: RECEIVE_MAX,
            first_cmd_sn: 1,
        }
    }
}

/// Data that goes with a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Payload {
    /// No data.
    None,
    /// Data for the target.
    Out(Bytes),
    /// Room for so many bytes from the target.
    In(u32),
}

/// Task management functions (RFC 7143 §11.5.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum ManageFunction {
    AbortTask = 1,
    AbortTaskSet = 2,
    ClearAca = 3,
    ClearTaskSet = 4,
    LogicalUnitReset = 5,
    TargetWarmReset = 6,
    TargetColdReset = 7,
}

/// Residual count of a command (RFC 7143 §11.4.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Residual {
    /// All was moved as announced.
    None,
    /// The target had so many bytes more to move than announced.
    Overflow(u32),
    /// So many of the announced bytes were not moved.
    Underflow(u32),
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum InitiatorEvent {
    /// The session stands.
    LoggedIn,
    /// The target said no (RFC 7143 §11.13.5), or could not prove who it is (class 255).
    LoginFailed {
        /// Status-Class.
        class: u8,
        /// Status-Detail.
        detail: u8,
    },
    /// A command ended.
    Done {
        /// As given to [`Initiator::submit`].
        tag: u64,
        /// SCSI status.
        status: u8,
        /// Sense data, if any.
        sense: Bytes,
        /// Data from the target.
        data: Bytes,
        /// What was not moved.
        residual: Residual,
    },
    /// A task management function ended.
    Managed {
        /// As given to [`Initiator::manage`].
        tag: u64,
        /// Response code (RFC 7143 §11.6.1).
        response: u8,
    },
    /// A ping's echo.
    Echo {
        /// As given to [`Initiator::ping`].
        tag: u64,
        /// The data that came back.
        data: Bytes,
    },
    /// The answer to [`Initiator::send_text`], as key and value.
    Text {
        /// Keys and values in order.
        pairs: Vec<(String, String)>,
    },
    /// The target rejected a PDU of ours.
    Rejected {
        /// Reason (RFC 7143 §11.17.1).
        reason: u8,
    },
    /// The target sent an Asynchronous Message (RFC 7143 §11.9).
    Async {
        /// Event code; 1 asks us to log out.
        event: u8,
    },
    /// The session is over: after a logout, or for the given fault. Close the connection.
    Closed {
        /// What ended it.
        why: &'static str,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// AuthMethod is on its way.
    Method,
    /// CHAP_A is on its way.
    Algorithm,
    /// CHAP_R is on its way.
    Proof,
    Operational,
    Full,
    Ended,
}

enum Waiting {
    Command(Task),
    Manage { tag: u64 },
    Echo { tag: u64 },
    Text,
    Logout,
}

struct Task {
    tag: u64,
    out: Bytes,
    room: u32,
    first: Bytes,
    rest: BytesMut,
}

struct Submission {
    tag: u64,
    lun: u64,
    cdb: [u8; 16],
    payload: Payload,
    expected: u32,
}

/// The initiator.
pub struct Initiator {
    config: InitiatorConfig,
    entropy: Entropy,
    framer: Framer,
    out: Outbox,
    events: VecDeque<InitiatorEvent>,
    stage: Stage,
    parameters: Parameters,
    challenge: Option<Challenge>,
    text: Vec<u8>,
    tsih: u16,
    next_itt: u32,
    cmd_sn: u32,
    max_cmd_sn: u32,
    exp_stat_sn: u32,
    waiting: BTreeMap<u32, Waiting>,
    queue: VecDeque<Submission>,
    tags: BTreeMap<u64, u32>,
}

const CSG_OPERATIONAL: u8 = 1 << 2;
const NSG_OPERATIONAL: u8 = 1;
const NSG_FULL: u8 = 3;

impl Initiator {
    /// An initiator whose first login request is ready to be sent. `entropy` fills buffers with unpredictable
    /// bytes.
    pub fn new(config: InitiatorConfig, entropy: Entropy) -> Initiator {
        let mut initiator = Initiator {
            framer: Framer::new(config.receive_max as usize),
            out: Outbox::default(),
            events: VecDeque::new(),
            stage: Stage::Method,
            parameters: Parameters::default(),
            challenge: None,
            text: Vec::new(),
            tsih: 0,
            next_itt: 1,
            cmd_sn: config.first_cmd_sn,
            max_cmd_sn: config.first_cmd_sn,
            exp_stat_sn: 0,
            waiting: BTreeMap::new(),
            queue: VecDeque::new(),
            tags: BTreeMap::new(),
            entropy,
            config,
        };
        let mut text = TextOut::default();
        text.push("InitiatorName", &initiator.config.name);
        match &initiator.config.target {
            Some(target) => {
                text.push("SessionType", "Normal");
                text.push("TargetName", target);
            }
            None => text.push("SessionType", "Discovery"),
        }
        let proving = initiator.config.chap.is_some();
        text.push("AuthMethod", if proving { "CHAP,None" } else { "None" });
        initiator.send_login(if proving { 0 } else { FINAL | NSG_OPERATIONAL }, text);
        initiator
    }

    /// Bytes came from the target.
    pub fn handle_bytes(&mut self, bytes: Bytes) {
        self.framer.push(bytes);
        while self.stage != Stage::Ended {
            match self.framer.next() {
                Ok(Some(pdu)) if pdu.data_intact => {
                    if self.handle_pdu(&pdu).is_none() {
                        self.end("the target broke the protocol");
                    }
                }
                Ok(Some(_)) => self.end("wrong data digest"),
                Ok(None) => break,
                Err(_) => self.end("wrong header digest or impossible length"),
            }
        }
    }

    /// The connection is gone.
    pub fn handle_closed(&mut self) {
        self.end("connection closed");
    }

    /// Queues a command; sent as soon as the target's window allows. `tag` comes back in `Done`.
    pub fn submit(&mut self, tag: u64, lun: u64, cdb: [u8; 16], payload: Payload) {
        let expected = match &payload {
            Payload::None => 0,
            Payload::Out(data) => u32::try_from(data.len()).unwrap_or(u32::MAX),
            Payload::In(room) => *room,
        };
        self.queue.push_back(Submission { tag, lun, cdb, payload, expected });
        self.pump();
    }

    /// Sends a task management function; `referenced` is the tag of the task to abort.
    pub fn manage(&mut self, tag: u64, function: ManageFunction, lun: u64, referenced: Option<u64>) {
        let ref_itt = referenced.and_then(|tag| self.tags.get(&tag).copied()).unwrap_or(NO_TAG);
        let itt = self.begin(Waiting::Manage { tag });
        let header = Management {
            opcode: opcode::MANAGEMENT | IMMEDIATE,
            flags: FINAL | function as u8,
            lun: lun.into(),
            itt: itt.into(),
            ref_itt: ref_itt.into(),
            cmd_sn: self.cmd_sn.into(),
            exp_stat_sn: self.exp_stat_sn.into(),
            ..Management::default()
        };
        self.out.push(&header, &[]);
    }

    /// Sends a NOP-Out whose data comes back.
    pub fn ping(&mut self, tag: u64, data: Bytes) {
        let itt = self.begin(Waiting::Echo { tag });
        self.send_nop(itt, NO_TAG, data);
    }

    /// Sends text keys, such as `SendTargets=All`.
    pub fn send_text(&mut self, pairs: &[(&str, &str)]) {
        let mut text = TextOut::default();
        pairs.iter().for_each(|(key, value)| text.push(key, value));
        let itt = self.begin(Waiting::Text);
        self.push_text(itt, NO_TAG, text.0.into());
    }

    /// Logs out; commands under way get no answer.
    pub fn logout(&mut self) {
        let itt = self.begin(Waiting::Logout);
        let header = LogoutRequest {
            opcode: opcode::LOGOUT | IMMEDIATE,
            flags: FINAL,
            itt: itt.into(),
            cmd_sn: self.cmd_sn.into(),
            exp_stat_sn: self.exp_stat_sn.into(),
            ..LogoutRequest::default()
        };
        self.out.push(&header, &[]);
    }

    /// The next bytes to send.
    pub fn poll_send(&mut self) -> Option<Bytes> {
        self.out.pop()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<InitiatorEvent> {
        self.events.pop_front()
    }

    /// Commands submitted and not ended.
    pub fn commands(&self) -> usize {
        self.queue.len() + self.tags.len()
    }

    /// Whether the session stands.
    pub fn is_logged_in(&self) -> bool {
        self.stage == Stage::Full
    }

    fn end(&mut self, why: &'static str) {
        if self.stage != Stage::Ended {
            self.stage = Stage::Ended;
            self.events.push_back(InitiatorEvent::Closed { why });
        }
    }

    fn fail_login(&mut self, class: u8, detail: u8) -> Option<()> {
        self.stage = Stage::Ended;
        self.events.push_back(InitiatorEvent::LoginFailed { class, detail });
        Some(())
    }

    fn begin(&mut self, waiting: Waiting) -> u32 {
        let itt = self.next_itt;
        self.next_itt = if itt == NO_TAG - 1 { 1 } else { itt + 1 };
        self.waiting.insert(itt, waiting);
        itt
    }

    fn send_login(&mut self, flags: u8, text: TextOut) {
        let header = LoginRequest {
            opcode: opcode::LOGIN | IMMEDIATE,
            flags,
            isid: self.config.isid,
            tsih: self.tsih.into(),
            cmd_sn: self.cmd_sn.into(),
            exp_stat_sn: self.exp_stat_sn.into(),
            ..LoginRequest::default()
        };
        self.out.push(&header, &[text.0.into()]);
    }

    fn send_nop(&mut self, itt: u32, ttt: u32, data: Bytes) {
        let header = Basic {
            opcode: opcode::NOP_OUT | IMMEDIATE,
            flags: FINAL,
            itt: itt.into(),
            ttt: ttt.into(),
            cmd_sn: self.cmd_sn.into(),
            exp_stat_sn: self.exp_stat_sn.into(),
            ..Basic::default()
        };
        self.out.push(&header, &[data]);
    }

    fn push_text(&mut self, itt: u32, ttt: u32, data: Bytes) {
        let header = TextRequest {
            opcode: opcode::TEXT | IMMEDIATE,
            flags: FINAL,
            itt: itt.into(),
            ttt: ttt.into(),
            cmd_sn: self.cmd_sn.into(),
            exp_stat_sn: self.exp_stat_sn.into(),
            ..TextRequest::default()
        };
        self.out.push(&header, &[data]);
    }

    /// Sends queued commands while the window is open.
    fn pump(&mut self) {
        while self.stage == Stage::Full && !before(self.max_cmd_sn, self.cmd_sn) {
            let Some(submission) = self.queue.pop_front() else { return };
            self.send_command(submission);
        }
    }

    fn send_command(&mut self, submission: Submission) {
        let Submission { tag, lun, cdb, payload, expected } = submission;
        let (direction, data, room) = match payload {
            Payload::None => (0, Bytes::new(), 0),
            Payload::Out(data) => (WRITE, data, 0),
            Payload::In(room) => (READ, Bytes::new(), room),
        };
        let task = Task { tag, out: data.clone(), room, first: Bytes::new(), rest: BytesMut::new() };
        let itt = self.begin(Waiting::Command(task));
        self.tags.insert(tag, itt);
        let parameters = &self.parameters;
        let (segment, burst) = (parameters.peer_receive_max as usize, parameters.first_burst as usize);
        let immediate = if parameters.immediate_data { data.len().min(segment).min(burst) } else { 0 };
        let unsolicited = if parameters.initial_r2t { immediate } else { data.len().min(burst) };
        let header = Command {
            opcode: opcode::COMMAND,
            flags: direction | 1 | if unsolicited > immediate { 0 } else { FINAL }, // SIMPLE
            lun: lun.into(),
            itt: itt.into(),
            expected: expected.into(),
            cmd_sn: self.cmd_sn.into(),
            exp_stat_sn: self.exp_stat_sn.into(),
            cdb,
            ..Command::default()
        };
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        self.out.push(&header, &[data.slice(..immediate)]);
        if unsolicited > immediate {
            self.send_data(itt, NO_TAG, lun, &data, immediate, unsolicited);
        }
    }

    /// Sends `data[from..to]` as one sequence.
    fn send_data(&mut self, itt: u32, ttt: u32, lun: u64, data: &Bytes, mut from: usize, to: usize) {
        let segment = self.parameters.peer_receive_max as usize;
        let mut data_sn = 0u32;
        while from < to {
            let end = to.min(from + segment);
            let header = DataOut {
                opcode: opcode::DATA_OUT,
                flags: if end == to { FINAL } else { 0 },
                lun: lun.into(),
                itt: itt.into(),
                ttt: ttt.into(),
                exp_stat_sn: self.exp_stat_sn.into(),
                data_sn: data_sn.into(),
                offset: (from as u32).into(),
                ..DataOut::default()
            };
            self.out.push(&header, &[data.slice(from..end)]);
            from = end;
            data_sn += 1;
        }
    }

    /// `None` where the target breaks the protocol.
    fn handle_pdu(&mut self, pdu: &Pdu) -> Option<()> {
        if self.stage != Stage::Full {
            return (pdu.opcode() == opcode::LOGIN_RESPONSE).then(|| self.handle_login(pdu))?;
        }
        let answer: &Answer = pdu.view();
        if before(self.max_cmd_sn, answer.max_cmd_sn.get()) {
            self.max_cmd_sn = answer.max_cmd_sn.get();
        }
        let data_in = pdu.opcode() == opcode::DATA_IN;
        let unsolicited_nop = pdu.opcode() == opcode::NOP_IN && answer.itt == NO_TAG;
        if !(unsolicited_nop || pdu.opcode() == opcode::R2T || data_in && answer.flags & STATUS == 0) {
            self.exp_stat_sn = answer.stat_sn.get().wrapping_add(1);
        }
        match pdu.opcode() {
            opcode::DATA_IN => self.handle_data_in(pdu)?,
            opcode::RESPONSE => self.handle_response(pdu)?,
            opcode::R2T => self.handle_r2t(pdu)?,
            opcode::NOP_IN => self.handle_nop(answer, pdu)?,
            opcode::MANAGEMENT_RESPONSE => {
                let response: &ManagementResponse = pdu.view();
                let Waiting::Manage { tag } = self.waiting.remove(&response.itt.get())? else { return None };
                self.events.push_back(InitiatorEvent::Managed { tag, response: response.response });
            }
            opcode::TEXT_RESPONSE => self.handle_text(answer, pdu)?,
            opcode::LOGOUT_RESPONSE => self.end("logged out"),
            opcode::REJECT => self.events.push_back(InitiatorEvent::Rejected { reason: answer.reason }),
            opcode::ASYNC => {
                let message: &AsyncMessage = pdu.view();
                self.events.push_back(InitiatorEvent::Async { event: message.event });
            }
            _ => return None,
        }
        self.pump();
        Some(())
    }

    fn handle_nop(&mut self, answer: &Answer, pdu: &Pdu) -> Option<()> {
        if answer.itt != NO_TAG {
            let Waiting::Echo { tag } = self.waiting.remove(&answer.itt.get())? else { return None };
            self.events.push_back(InitiatorEvent::Echo { tag, data: pdu.data.clone() });
        } else if answer.ttt != NO_TAG {
            self.send_nop(NO_TAG, answer.ttt.get(), Bytes::new());
        }
        Some(())
    }

    fn handle_text(&mut self, answer: &Answer, pdu: &Pdu) -> Option<()> {
        let itt = answer.itt.get();
        if self.text.len() + pdu.data.len() > TEXT_BYTES_MAX || !self.waiting.contains_key(&itt) {
            return None;
        }
        self.text.extend_from_slice(&pdu.data);
        if answer.flags & FINAL == 0 {
            self.push_text(itt, answer.ttt.get(), Bytes::new());
            return Some(());
        }
        self.waiting.remove(&itt);
        let text = std::mem::take(&mut self.text);
        let pairs = parse(&text).ok()?;
        let pairs = pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        self.events.push_back(InitiatorEvent::Text { pairs });
        Some(())
    }

    fn handle_r2t(&mut self, pdu: &Pdu) -> Option<()> {
        let r2t: &ReadyToTransfer = pdu.view();
        let itt = r2t.itt.get();
        let Some(Waiting::Command(task)) = self.waiting.get(&itt) else { return None };
        let from = r2t.offset.get() as usize;
        let to = from.checked_add(r2t.desired.get() as usize)?;
        if to > task.out.len() || from >= to {
            return None;
        }
        let data = task.out.clone();
        self.send_data(itt, r2t.ttt.get(), r2t.lun.get(), &data, from, to);
        Some(())
    }

    fn handle_data_in(&mut self, pdu: &Pdu) -> Option<()> {
        let header: &DataIn = pdu.view();
        let itt = header.itt.get();
        let Some(Waiting::Command(task)) = self.waiting.get_mut(&itt) else { return None };
        let received = task.first.len() + task.rest.len();
        if header.offset.get() as usize != received || received + pdu.data.len() > task.room as usize {
            return None;
        }
        if received == 0 {
            task.first = pdu.data.clone();
        } else {
            if task.rest.is_empty() {
                task.rest.reserve(task.room as usize);
                task.rest.extend_from_slice(&std::mem::take(&mut task.first));
            }
            task.rest.extend_from_slice(&pdu.data);
        }
        if header.flags & STATUS != 0 {
            let residual = residual(header.flags, header.residual.get());
            self.finish(itt, header.status, Bytes::new(), residual)?;
        }
        Some(())
    }

    fn handle_response(&mut self, pdu: &Pdu) -> Option<()> {
        let response: &Response = pdu.view();
        let sense = match pdu.data.first_chunk::<2>() {
            Some(length) => {
                let end = 2 + usize::from(u16::from_be_bytes(*length));
                pdu.data.slice(2..end.min(pdu.data.len()))
            }
            None => Bytes::new(),
        };
        let status = if response.response == 0 { response.status } else { 0xff };
        self.finish(response.itt.get(), status, sense, residual(response.flags, response.residual.get()))
    }

    fn finish(&mut self, itt: u32, status: u8, sense: Bytes, residual: Residual) -> Option<()> {
        let Waiting::Command(task) = self.waiting.remove(&itt)? else { return None };
        self.tags.remove(&task.tag);
        let data = if task.rest.is_empty() { task.first } else { task.rest.freeze() };
        self.events.push_back(InitiatorEvent::Done { tag: task.tag, status, sense, data, residual });
        Some(())
    }

    fn handle_login(&mut self, pdu: &Pdu) -> Option<()> {
        let response: &LoginResponse = pdu.view();
        debug_assert_eq!(
            length_of(response.data_length),
            pdu.data.len(),
            "the framer cuts what the header says"
        );
        if response.class != 0 {
            return self.fail_login(response.class, response.detail);
        }
        self.exp_stat_sn = response.stat_sn.get().wrapping_add(1);
        self.tsih = response.tsih.get();
        if self.text.len() + pdu.data.len() > TEXT_BYTES_MAX {
            return None;
        }
        self.text.extend_from_slice(&pdu.data);
        if response.flags & CONTINUE != 0 {
            let stage = if self.stage == Stage::Operational { CSG_OPERATIONAL } else { 0 };
            self.send_login(stage, TextOut::default());
            return Some(());
        }
        let text = std::mem::take(&mut self.text);
        let pairs = parse(&text).ok()?;
        let find = |wanted: &str| pairs.iter().find(|(key, _)| *key == wanted).map(|(_, value)| *value);
        let granted = response.flags & FINAL != 0;
        match self.stage {
            Stage::Method => match find("AuthMethod") {
                Some("CHAP") if self.config.chap.is_some() => {
                    let mut text = TextOut::default();
                    text.push("CHAP_A", "7,6,5");
                    self.stage = Stage::Algorithm;
                    self.send_login(0, text);
                }
                Some("None") if granted => self.send_operational(),
                Some("None") => {
                    self.send_login(FINAL | NSG_OPERATIONAL, TextOut::default());
                    self.stage = Stage::Proof;
                    self.challenge = None;
                }
                Some(_) | None => return None,
            },
            Stage::Algorithm => {
                self.prove(find("CHAP_A")?, find("CHAP_I")?, find("CHAP_C")?)?;
                self.stage = Stage::Proof;
            }
            Stage::Proof if granted => {
                if self.challenge.is_some() && !self.proven(find("CHAP_N"), find("CHAP_R")) {
                    return self.fail_login(255, 0);
                }
                self.send_operational();
            }
            Stage::Operational if granted => {
                for (key, value) in &pairs {
                    self.take_answer(key, value);
                }
                self.parameters.settle();
                self.max_cmd_sn = response.max_cmd_sn.get();
                (self.out.header_digest, self.out.data_digest) =
                    (self.parameters.header_digest, self.parameters.data_digest);
                (self.framer.header_digest, self.framer.data_digest) =
                    (self.parameters.header_digest, self.parameters.data_digest);
                self.stage = Stage::Full;
                self.events.push_back(InitiatorEvent::LoggedIn);
                self.pump();
            }
            Stage::Proof | Stage::Operational | Stage::Full | Stage::Ended => return None,
        }
        Some(())
    }

    /// Answers the target's challenge; with mutual CHAP challenges it in turn.
    fn prove(&mut self, algorithm: &str, identifier: &str, challenge: &str) -> Option<()> {
        let algorithm = Algorithm::choose(algorithm)?;
        let identifier = u8::try_from(number(identifier)?).ok()?;
        let chap = self.config.chap.clone()?;
        let mut text = TextOut::default();
        text.push("CHAP_N", &chap.user);
        text.push("CHAP_R", &hex(&algorithm.proof(identifier, &chap.secret, &binary(challenge)?)));
        self.challenge = chap.mutual.as_ref().map(|_| Challenge::draw(algorithm, &mut *self.entropy));
        if let Some(challenge) = &self.challenge {
            text.push("CHAP_I", &challenge.identifier.to_string());
            text.push("CHAP_C", &hex(&challenge.bytes));
        }
        self.send_login(FINAL | NSG_OPERATIONAL, text);
        Some(())
    }

    /// Whether the target has proven who it is.
    fn proven(&self, name: Option<&str>, response: Option<&str>) -> bool {
        let mutual = self.config.chap.as_ref().and_then(|chap| chap.mutual.as_ref());
        match (mutual, &self.challenge, name, response) {
            (Some((user, secret)), Some(challenge), Some(name), Some(response)) => {
                name == user && challenge.proven_by(response, secret)
            }
            _ => false,
        }
    }

    fn send_operational(&mut self) {
        let digest = |wanted| if wanted { "CRC32C,None" } else { "None" };
        let yes = |wanted| if wanted { "Yes" } else { "No" };
        let config = &self.config;
        let mut text = TextOut::default();
        text.push("HeaderDigest", digest(config.header_digest));
        text.push("DataDigest", digest(config.data_digest));
        text.push("InitialR2T", yes(config.initial_r2t));
        text.push("ImmediateData", yes(config.immediate_data));
        text.push("MaxRecvDataSegmentLength", &config.receive_max.to_string());
        text.push("MaxBurstLength", &config.max_burst.to_string());
        text.push("FirstBurstLength", &config.first_burst.to_string());
        text.push("MaxOutstandingR2T", "4");
        text.push("MaxConnections", "1");
        text.push("ErrorRecoveryLevel", "0");
        text.push("DefaultTime2Wait", "2");
        text.push("DefaultTime2Retain", "0");
        self.stage = Stage::Operational;
        self.send_login(FINAL | CSG_OPERATIONAL | NSG_FULL, text);
    }

    fn take_answer(&mut self, key: &str, value: &str) {
        let parameters = &mut self.parameters;
        match key {
            "HeaderDigest" => parameters.header_digest = value == "CRC32C",
            "DataDigest" => parameters.data_digest = value == "CRC32C",
            "InitialR2T" => parameters.initial_r2t = value == "Yes",
            "ImmediateData" => parameters.immediate_data = value == "Yes",
            "MaxRecvDataSegmentLength" => {
                parameters.peer_receive_max = number(value).unwrap_or(512).clamp(512, 0x00ff_ffff);
            }
            "MaxBurstLength" => parameters.max_burst = number(value).unwrap_or(parameters.max_burst),
            "FirstBurstLength" => parameters.first_burst = number(value).unwrap_or(parameters.first_burst),
            _ => {}
        }
    }

    /// Sends a PDU as it is, and says a command to be larger or smaller than its data: for tests of the other
    /// end.
    #[cfg(test)]
    pub(super) fn push_raw<T: super::pdu::Header>(&mut self, header: &T, data: Bytes) {
        self.out.push(header, &[data]);
    }

    /// As [`Initiator::submit`], with an Expected Data Transfer Length that differs from the data.
    #[cfg(test)]
    pub(super) fn submit_expecting(
        &mut self,
        tag: u64,
        lun: u64,
        cdb: [u8; 16],
        payload: Payload,
        expected: u32,
    ) {
        self.queue.push_back(Submission { tag, lun, cdb, payload, expected });
        self.pump();
    }

    /// CmdSN of the next command, and the last that the window allows.
    #[cfg(test)]
    pub(super) fn window(&mut self) -> (&mut u32, u32) {
        (&mut self.cmd_sn, self.max_cmd_sn)
    }
}

fn residual(flags: u8, count: u32) -> Residual {
    match (flags & super::pdu::OVERFLOW != 0, flags & super::pdu::UNDERFLOW != 0) {
        (true, _) => Residual::Overflow(count),
        (false, true) => Residual::Underflow(count),
        (false, false) => Residual::None,
    }
}
