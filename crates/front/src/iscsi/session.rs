//! One session in full-feature phase: sequence numbers, dispatch, NOP, logout (RFC 7143 §4.2.2, §11).
//!
//! Must never scan its tasks for a PDU. Invariants: MaxCmdSN never goes back; StatSN grows by one for each
//! PDU that carries it; a command outside the window leaves no trace (§4.2.2.1).
//!
//! SCSI commands are in `command`, task management in `manage`, text in `discovery`.

use super::command::{Inbound, Running};
use super::discovery::TextExchange;
use super::framing::Outbox;
use super::manage::Reset;
use super::pdu::{
    Answer, AsyncMessage, Basic, FINAL, LogoutRequest, LogoutResponse, NO_TAG, Pdu, RejectReason, before,
    opcode,
};
use super::shared::Shared;
use super::target::TargetAction;
use super::text::Parameters;
use crate::ConnId;
use biplex_engine::Nexus;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Commands that a host may have open at once, immediate ones aside.
pub(super) const WINDOW: u32 = 128;

/// What a PDU asks of the target beyond its own session.
pub(super) enum Next {
    Continue,
    /// The connection ends; with a reason where it is the host's fault.
    Close(Option<&'static str>),
    /// A reset that reaches all sessions.
    Reset(Reset),
}

/// Sequence numbers for a PDU to the host.
#[derive(Clone, Copy)]
pub(super) struct Numbers {
    pub stat_sn: u32,
    pub exp_cmd_sn: u32,
    pub max_cmd_sn: u32,
}

/// A session and its one connection.
pub(super) struct Session {
    pub(super) conn: ConnId,
    /// `None` in a discovery session.
    pub(super) nexus: Option<Nexus>,
    pub(super) initiator: Arc<str>,
    pub(super) isid: [u8; 6],
    pub(super) tsih: u16,
    pub(super) cid: u16,
    /// The address that the host reached us at.
    pub(super) local: String,
    pub(super) parameters: Parameters,
    pub(super) stat_sn: u32,
    pub(super) exp_cmd_sn: u32,
    pub(super) max_cmd_sn: u32,
    /// CmdSNs that were aborted before they came (§11.5.1).
    pub(super) skipped: BTreeSet<u32>,
    /// Commands whose data is still coming.
    pub(super) writes: BTreeMap<u32, Inbound>,
    /// Commands that the site works on.
    pub(super) running: BTreeMap<u32, Running>,
    /// Writes that wait for their first R2T.
    pub(super) asking: VecDeque<u32>,
    /// Bytes that granted R2Ts may bring.
    pub(super) granted_bytes: usize,
    pub(super) open_windowed: u32,
    pub(super) open_immediate: u32,
    pub(super) text: TextExchange,
    congested: bool,
    ping: Option<u32>,
    transfer_tag_last: u32,
    /// The tag of a logout that is answered when what the nexus reserved is released.
    leaving: Option<u32>,
}

impl Session {
    /// A session that begins after a login with these numbers.
    pub(super) fn new(
        conn: ConnId,
        initiator: Arc<str>,
        local: String,
        parameters: Parameters,
        first_cmd_sn: u32,
        first_stat_sn: u32,
    ) -> Session {
        Session {
            conn,
            nexus: None,
            initiator,
            isid: [0; 6],
            tsih: 0,
            cid: 0,
            local,
            parameters,
            stat_sn: first_stat_sn,
            exp_cmd_sn: first_cmd_sn,
            max_cmd_sn: first_cmd_sn.wrapping_sub(1),
            skipped: BTreeSet::new(),
            writes: BTreeMap::new(),
            running: BTreeMap::new(),
            asking: VecDeque::new(),
            granted_bytes: 0,
            open_windowed: 0,
            open_immediate: 0,
            text: TextExchange::default(),
            congested: false,
            ping: None,
            transfer_tag_last: 0,
            leaving: None,
        }
    }

    /// Handles one PDU.
    pub(super) fn handle(&mut self, shared: &mut Shared, out: &mut Outbox, pdu: &Pdu, now: u64) -> Next {
        if self.leaving.is_some() {
            return Next::Continue; // nothing follows a logout (§11.14)
        }
        match pdu.opcode() {
            opcode::DATA_OUT if self.nexus.is_some() => return self.handle_data_out(shared, out, pdu, now),
            opcode::SNACK => {
                self.reject(out, pdu, RejectReason::Snack); // ErrorRecoveryLevel 0 has no SNACK (§11.16)
                return Next::Continue;
            }
            opcode::NOP_OUT | opcode::COMMAND | opcode::MANAGEMENT | opcode::TEXT | opcode::LOGOUT => {}
            opcode::LOGIN | opcode::DATA_OUT | 0x20.. => {
                self.reject(out, pdu, RejectReason::Protocol);
                return Next::Close(Some("PDU that does not belong in this phase"));
            }
            _ => {
                self.reject(out, pdu, RejectReason::NotSupported);
                return Next::Continue;
            }
        }
        if !pdu.immediate() {
            match self.admit(pdu.view::<Basic>().cmd_sn.get()) {
                Admission::Taken => {}
                Admission::Ignored => return Next::Continue,
                Admission::Gap => {
                    self.reject(out, pdu, RejectReason::Protocol);
                    return Next::Close(Some("gap in command sequence numbers"));
                }
            }
        }
        if !pdu.data_intact {
            self.reject(out, pdu, RejectReason::DataDigest); // §7.8
            if pdu.opcode() != opcode::COMMAND {
                return Next::Continue;
            }
        }
        match pdu.opcode() {
            opcode::NOP_OUT => self.handle_nop(out, pdu),
            opcode::TEXT => self.handle_text(shared, out, pdu),
            opcode::LOGOUT => self.handle_logout(shared, out, pdu, now),
            opcode::COMMAND if self.nexus.is_some() => self.handle_command(shared, out, pdu, now),
            opcode::MANAGEMENT if self.nexus.is_some() => self.handle_management(shared, out, pdu, now),
            _ => {
                self.reject(out, pdu, RejectReason::Protocol); // a discovery session (§4.3)
                Next::Continue
            }
        }
    }

    /// Judges a CmdSN against the window (§4.2.2.1).
    fn admit(&mut self, cmd_sn: u32) -> Admission {
        if before(cmd_sn, self.exp_cmd_sn) || before(self.max_cmd_sn, cmd_sn) {
            return Admission::Ignored;
        }
        if cmd_sn != self.exp_cmd_sn {
            return Admission::Gap; // one connection delivers in order
        }
        self.exp_cmd_sn = cmd_sn.wrapping_add(1);
        self.skip_aborted();
        Admission::Taken
    }

    /// Moves ExpCmdSN past commands that were aborted before they came.
    pub(super) fn skip_aborted(&mut self) {
        while self.skipped.remove(&self.exp_cmd_sn) {
            self.exp_cmd_sn = self.exp_cmd_sn.wrapping_add(1);
        }
    }

    /// Numbers for a PDU that does not count as status: StatSN is told but not used up (§11.8, §11.19).
    pub(super) fn numbers(&mut self) -> Numbers {
        if !self.congested {
            let room = WINDOW.saturating_sub(self.open_windowed);
            let newest = self.exp_cmd_sn.wrapping_add(room).wrapping_sub(1);
            if before(self.max_cmd_sn, newest) {
                self.max_cmd_sn = newest;
            }
        }
        Numbers { stat_sn: self.stat_sn, exp_cmd_sn: self.exp_cmd_sn, max_cmd_sn: self.max_cmd_sn }
    }

    /// Numbers for a PDU that carries status.
    pub(super) fn status_numbers(&mut self) -> Numbers {
        let numbers = self.numbers();
        self.stat_sn = self.stat_sn.wrapping_add(1);
        numbers
    }

    /// A Target Transfer Tag not used lately.
    pub(super) fn new_transfer_tag(&mut self) -> u32 {
        self.transfer_tag_last = self.transfer_tag_last.wrapping_add(1);
        if self.transfer_tag_last == NO_TAG {
            self.transfer_tag_last = 1;
        }
        self.transfer_tag_last
    }

    /// Rejects a PDU, giving its header back (§11.17).
    pub(super) fn reject(&mut self, out: &mut Outbox, pdu: &Pdu, reason: RejectReason) {
        let header = Answer { reason: reason as u8, ..self.answer(opcode::REJECT, NO_TAG) };
        out.push(&header, &[Bytes::copy_from_slice(&pdu.header)]);
    }

    /// An answer with status numbers and no transfer tag.
    pub(super) fn answer(&mut self, code: u8, itt: u32) -> Answer {
        let numbers = self.status_numbers();
        Answer {
            opcode: code,
            flags: FINAL,
            itt: itt.into(),
            ttt: NO_TAG.into(),
            stat_sn: numbers.stat_sn.into(),
            exp_cmd_sn: numbers.exp_cmd_sn.into(),
            max_cmd_sn: numbers.max_cmd_sn.into(),
            ..Answer::default()
        }
    }

    /// NOP-Out (§11.18): an echo, or the answer to our ping.
    fn handle_nop(&mut self, out: &mut Outbox, pdu: &Pdu) -> Next {
        let nop: &Basic = pdu.view();
        if nop.itt == NO_TAG {
            if self.ping == Some(nop.ttt.get()) {
                self.ping = None;
            }
            return Next::Continue;
        }
        let echo_max = pdu.data.len().min(self.parameters.peer_receive_max as usize);
        let header = Answer { lun: nop.lun, ..self.answer(opcode::NOP_IN, nop.itt.get()) };
        out.push(&header, &[pdu.data.slice(..echo_max)]);
        Next::Continue
    }

    /// Asks whether the host is still there (§11.19).
    pub(super) fn send_ping(&mut self, out: &mut Outbox) {
        let tag = self.new_transfer_tag();
        self.ping = Some(tag);
        self.push_nop_in(out, tag);
    }

    fn push_nop_in(&mut self, out: &mut Outbox, ttt: u32) {
        let numbers = self.numbers();
        let header = Answer {
            opcode: opcode::NOP_IN,
            flags: FINAL,
            itt: NO_TAG.into(),
            ttt: ttt.into(),
            stat_sn: numbers.stat_sn.into(),
            exp_cmd_sn: numbers.exp_cmd_sn.into(),
            max_cmd_sn: numbers.max_cmd_sn.into(),
            ..Answer::default()
        };
        out.push(&header, &[]);
    }

    /// Logout Request (§11.14). What the nexus reserved is released at both sites before the answer: another host may
    /// reserve as soon as it hears of it. But nobody waits long for that: see `LEAVE_NS_MAX`.
    fn handle_logout(&mut self, shared: &mut Shared, out: &mut Outbox, pdu: &Pdu, now: u64) -> Next {
        let request: &LogoutRequest = pdu.view();
        let response = match request.flags & 0x7f {
            0 => 0,
            1 if request.cid == self.cid => 0,
            1 => 1, // CID not found
            2 => 2, // recovery is not supported
            _ => {
                self.reject(out, pdu, RejectReason::InvalidField);
                return Next::Continue;
            }
        };
        let itt = request.itt.get();
        match self.nexus.filter(|_| response == 0) {
            Some(nexus) => {
                self.leaving = Some(itt);
                self.abort_all(shared, None, None);
                shared.order_leave(self.conn, nexus, now);
                Next::Continue
            }
            None => {
                self.answer_logout(out, itt, response);
                if response == 0 { Next::Close(None) } else { Next::Continue }
            }
        }
    }

    /// What the nexus reserved is released, or will be: the logout is answered. Whether there was one; the connection
    /// is to be closed then.
    pub(super) fn handle_left(&mut self, out: &mut Outbox) -> bool {
        let Some(itt) = self.leaving else { return false };
        self.answer_logout(out, itt, 0);
        true
    }

    fn answer_logout(&mut self, out: &mut Outbox, itt: u32, response: u8) {
        let numbers = self.status_numbers();
        let header = LogoutResponse {
            opcode: opcode::LOGOUT_RESPONSE,
            flags: FINAL,
            response,
            itt: itt.into(),
            stat_sn: numbers.stat_sn.into(),
            exp_cmd_sn: numbers.exp_cmd_sn.into(),
            max_cmd_sn: numbers.max_cmd_sn.into(),
            time_to_wait: 2.into(),
            ..LogoutResponse::default()
        };
        out.push(&header, &[]);
    }

    /// Asks the host to log out within `seconds` (Async Message 1, §11.9.1).
    pub(super) fn request_logout(&mut self, out: &mut Outbox, seconds: u16) {
        let numbers = self.status_numbers();
        let header = AsyncMessage {
            opcode: opcode::ASYNC,
            flags: FINAL,
            itt: NO_TAG.into(),
            stat_sn: numbers.stat_sn.into(),
            exp_cmd_sn: numbers.exp_cmd_sn.into(),
            max_cmd_sn: numbers.max_cmd_sn.into(),
            event: 1,
            parameter_3: seconds.into(),
            ..AsyncMessage::default()
        };
        out.push(&header, &[]);
    }

    /// Stops or resumes granting new commands; on resuming tells the host, which may have no credit left.
    pub(super) fn set_congested(&mut self, out: &mut Outbox, congested: bool) {
        let told = self.max_cmd_sn;
        let resumed = self.congested && !congested;
        self.congested = congested;
        if resumed && self.numbers().max_cmd_sn != told {
            self.push_nop_in(out, NO_TAG);
        }
    }

    /// Ends the session: its tasks are aborted, its nexus is gone (§4.4.3.1).
    pub(super) fn end(&mut self, shared: &mut Shared) {
        self.abort_all(shared, None, None);
        if let Some(nexus) = self.nexus.take() {
            shared.device.detach(nexus);
            shared.actions.push_back(TargetAction::LoggedOut { nexus, initiator: self.initiator.clone() });
        }
    }
}

enum Admission {
    Taken,
    Ignored,
    Gap,
}
