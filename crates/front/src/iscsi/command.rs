//! SCSI commands of a session: takes their data in, starts them, sends data and status out (RFC 7143 §11.3,
//! §11.4, §11.7, §11.8).
//!
//! Must never let the host's Expected Data Transfer Length alone size a buffer, nor start a write whose data
//! did not come exactly as agreed. Invariant: each command gets one response or is aborted, never both.
//!
//! ```text
//! command ─▶ Inbound (collects data, R2Ts) ─▶ Device::start ─▶ Running (the site works) ─▶ response
//! ```

use super::framing::Outbox;
use super::pdu::{
    Command, DataIn, DataOut, FINAL, NO_TAG, OVERFLOW, Pdu, READ, ReadyToTransfer, RejectReason, Response,
    STATUS, UNDERFLOW, WRITE, opcode,
};
use super::session::{Next, Session};
use super::shared::Shared;
use crate::TaskId;
use crate::scsi::{Reply, Status, Step, Transfer};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;

/// Most data that one command may bring; more is 5/24/00.
const DATA_OUT_MAX: u64 = 8 * 1024 * 1024;
/// Most data that a session's granted R2Ts may bring at once; one command is always let through.
const GRANTED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Immediate commands that a session may have open at once.
const IMMEDIATE_MAX: u32 = 32;
/// A write whose promised data does not come for so long ends its connection.
const DATA_WAIT_NS: u64 = 60_000_000_000;

/// A SCSI command as the transport sees it.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub lun: u64,
    pub itt: u32,
    immediate: bool,
    read: bool,
    /// Expected Data Transfer Length; 0 where the host announces no transfer.
    expected: u32,
    transfer: Transfer,
    /// R2Ts sent (ExpDataSN of the response, §11.4.8).
    r2t_count: u32,
}

/// A command that the site works on.
pub(super) struct Running {
    pub task: TaskId,
    pub order: Order,
}

/// A CDB; longer than 16 bytes only by an additional header segment (§11.2.2.3).
struct Cdb {
    short: [u8; 16],
    long: Option<Vec<u8>>,
}

impl Cdb {
    fn bytes(&self) -> &[u8] {
        self.long.as_deref().unwrap_or(&self.short)
    }
}

/// An R2T that the host has not answered in full.
struct Grant {
    ttt: u32,
    end: u32,
    data_sn: u32,
}

/// A command whose data is still coming. Data comes in order (DataPDUInOrder, DataSequenceInOrder), so one
/// offset says all.
pub(super) struct Inbound {
    pub order: Order,
    cdb: Cdb,
    /// Bytes that are kept: what both the CDB and the host announce.
    wanted: u32,
    /// Bytes that came, kept or not.
    received: u32,
    /// Next DataSN of the unsolicited burst, while that lasts.
    unsolicited: Option<u32>,
    grants: VecDeque<Grant>,
    /// R2Ts were sent up to here.
    asked: u32,
    /// Counted in the session's granted bytes.
    granted: bool,
    data: Gather,
    /// Answered with this instead of being started, once the data is in.
    failure: Option<Reply>,
    since: u64,
}

/// Payload on its way to one contiguous buffer: a single piece is not copied.
#[derive(Default)]
enum Gather {
    #[default]
    Empty,
    One(Bytes),
    Many(BytesMut),
}

impl Gather {
    fn push(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        match self {
            Gather::Empty => *self = Gather::One(piece),
            Gather::One(first) => {
                let mut joined = BytesMut::with_capacity(first.len() + piece.len());
                joined.extend_from_slice(first);
                joined.extend_from_slice(&piece);
                *self = Gather::Many(joined);
            }
            Gather::Many(joined) => joined.extend_from_slice(&piece),
        }
    }

    /// Makes room for `total` bytes where more than one piece will make them up.
    fn reserve(&mut self, total: usize, one_more_piece: bool) {
        let mut room = match std::mem::take(self) {
            Gather::Empty if one_more_piece => return,
            Gather::Empty => BytesMut::with_capacity(total),
            Gather::One(first) => {
                let mut room = BytesMut::with_capacity(total);
                room.extend_from_slice(&first);
                room
            }
            Gather::Many(joined) => joined,
        };
        room.reserve(total.saturating_sub(room.len()));
        *self = Gather::Many(room);
    }

    fn finish(self) -> Bytes {
        match self {
            Gather::Empty => Bytes::new(),
            Gather::One(piece) => piece,
            Gather::Many(joined) => joined.freeze(),
        }
    }
}

/// CHECK CONDITION with fixed-format sense data (SPC-4 4.5.3).
fn check_condition(key: u8, code: u8, qualifier: u8) -> Reply {
    let mut sense = vec![0; 18];
    (sense[0], sense[2], sense[7], sense[12], sense[13]) = (0x70, key, 10, code, qualifier);
    Reply { status: Status::CheckCondition, sense: sense.into(), data_in: Vec::new() }
}

/// Reads an extended CDB out of additional header segments (§11.2.2). `None` where a segment lies about its
/// length.
fn parse_segments(mut segments: &[u8], cdb: &[u8; 16]) -> Option<Option<Vec<u8>>> {
    let mut long = None;
    while !segments.is_empty() {
        let (head, rest) = segments.split_first_chunk::<3>()?;
        let length = usize::from(u16::from_be_bytes([head[0], head[1]]));
        // The segment is type plus `length` bytes, padded to four; `length` counts what follows the type.
        let padded = (3 + length).next_multiple_of(4) - 3;
        let (body, next) = (rest.get(..length)?, rest.get(padded..)?);
        match head[2] {
            1 if long.is_none() && length > 1 => {
                let mut bytes = cdb.to_vec();
                bytes.extend_from_slice(&body[1..]);
                long = Some(bytes);
            }
            2 if length == 5 => {} // bidirectional read length: no such command here
            _ => return None,
        }
        segments = next;
    }
    Some(long)
}

impl Session {
    /// SCSI Command (§11.3).
    pub(super) fn handle_command(
        &mut self,
        shared: &mut Shared,
        out: &mut Outbox,
        pdu: &Pdu,
        now: u64,
    ) -> Next {
        let command: &Command = pdu.view();
        let itt = command.itt.get();
        let attribute = command.flags & 7;
        let Some(long) = parse_segments(&pdu.ahs, &command.cdb) else {
            self.reject(out, pdu, RejectReason::InvalidField);
            return Next::Close(Some("malformed additional header segment"));
        };
        if itt == NO_TAG || attribute > 3 {
            self.reject(out, pdu, RejectReason::InvalidField); // 4 is ACA, which no unit here supports
            return Next::Continue;
        }
        if self.running.contains_key(&itt) || self.writes.contains_key(&itt) {
            self.reject(out, pdu, RejectReason::TaskInProgress);
            return Next::Continue;
        }
        if pdu.immediate() && self.open_immediate >= IMMEDIATE_MAX {
            self.reject(out, pdu, RejectReason::TooManyImmediate);
            return Next::Continue;
        }
        let (read, write) = (command.flags & READ != 0, command.flags & WRITE != 0);
        let expected = if read || write { command.expected.get() } else { 0 };
        let more = write && command.flags & FINAL == 0;
        if let Some(why) = self.unsolicited_fault(pdu.data.len(), expected, write, more) {
            self.reject(out, pdu, RejectReason::Protocol);
            return Next::Close(Some(why));
        }
        let cdb = Cdb { short: command.cdb, long };
        let lun = command.lun.get();
        let transfer = shared.device.transfer(lun, cdb.bytes());
        let (mut wanted, mut failure) = match transfer {
            Transfer::Out(length) if length > DATA_OUT_MAX => (0, Some(check_condition(5, 0x24, 0))),
            Transfer::Out(length) if write => (u32::try_from(length).unwrap_or(u32::MAX).min(expected), None),
            Transfer::Out(_) | Transfer::In(_) | Transfer::None => (0, None),
        };
        if failure.is_none() && matches!(transfer, Transfer::Out(_)) {
            let announced = if write { u64::from(expected) } else { 0 };
            failure = shared.device.refuse_length(lun, cdb.bytes(), announced);
        }
        if !pdu.data_intact {
            failure = Some(check_condition(0x0b, 0x47, 0x05)); // protocol service CRC error (§11.4.7.2)
        }
        if failure.is_some() {
            wanted = 0; // nothing of it is needed
        }
        let order = Order { lun, itt, immediate: pdu.immediate(), read, expected, transfer, r2t_count: 0 };
        self.open(&order);
        let received = pdu.data.len() as u32;
        let kept = pdu.data.slice(..pdu.data.len().min(wanted as usize));
        if !more && received >= wanted {
            return self.start(shared, out, order, &cdb, kept, failure);
        }
        let mut inbound = Inbound {
            order,
            cdb,
            wanted,
            received,
            unsolicited: more.then_some(0),
            grants: VecDeque::new(),
            asked: received,
            granted: false,
            data: Gather::default(),
            failure,
            since: now,
        };
        inbound.data.push(kept);
        self.writes.insert(itt, inbound);
        if !more {
            self.asking.push_back(itt);
            self.grant(out);
        }
        Next::Continue
    }

    /// What is wrong with data that comes unasked (§4.2.5, §11.3.4).
    fn unsolicited_fault(
        &self,
        length: usize,
        expected: u32,
        write: bool,
        more: bool,
    ) -> Option<&'static str> {
        let parameters = &self.parameters;
        if length > 0 && !(write && parameters.immediate_data) {
            return Some("immediate data that was not agreed on");
        }
        if length > parameters.first_burst.min(expected) as usize {
            return Some("more immediate data than agreed on");
        }
        (more && parameters.initial_r2t).then_some("unsolicited data that was not agreed on")
    }

    /// SCSI Data-Out (§11.7).
    pub(super) fn handle_data_out(
        &mut self,
        shared: &mut Shared,
        out: &mut Outbox,
        pdu: &Pdu,
        now: u64,
    ) -> Next {
        let header: &DataOut = pdu.view();
        let itt = header.itt.get();
        let first_burst = self.parameters.first_burst;
        let Some(inbound) = self.writes.get_mut(&itt) else {
            if self.running.contains_key(&itt) {
                self.reject(out, pdu, RejectReason::Protocol);
                return Next::Close(Some("data for a command that wants none"));
            }
            return Next::Continue; // the rest of an aborted command
        };
        if let Err(why) = inbound.take(header, pdu, first_burst, now) {
            self.reject(out, pdu, RejectReason::Protocol);
            return Next::Close(Some(why));
        }
        if !pdu.data_intact {
            // §7.8: terminate the task once all its data is in.
            inbound.failure = Some(check_condition(0x0b, 0x47, 0x05));
            self.reject(out, pdu, RejectReason::DataDigest);
        }
        let Some(inbound) = self.writes.get_mut(&itt) else { return Next::Continue };
        if inbound.unsolicited.is_some() {
            return Next::Continue;
        }
        if inbound.received < inbound.wanted {
            if inbound.granted {
                self.send_r2ts(out, itt);
            } else {
                inbound.asked = inbound.received; // the unsolicited burst has ended
                self.asking.push_back(itt);
                self.grant(out);
            }
            return Next::Continue;
        }
        match self.forget_write(itt) {
            Some(Inbound { order, cdb, data, failure, .. }) => {
                let next = self.start(shared, out, order, &cdb, data.finish(), failure);
                self.grant(out);
                next
            }
            None => Next::Continue,
        }
    }

    /// Removes a write from the list and gives its share of the granted bytes back.
    pub(super) fn forget_write(&mut self, itt: u32) -> Option<Inbound> {
        let inbound = self.writes.remove(&itt)?;
        if inbound.granted {
            self.granted_bytes -= inbound.wanted as usize;
        }
        Some(inbound)
    }

    /// Lets waiting writes ask for their data, first come first served, within the limit.
    pub(super) fn grant(&mut self, out: &mut Outbox) {
        while let Some(itt) = self.asking.front().copied() {
            if let Some(inbound) = self.writes.get_mut(&itt) {
                let wanted = inbound.wanted as usize;
                if self.granted_bytes > 0 && self.granted_bytes + wanted > GRANTED_BYTES_MAX {
                    return;
                }
                if !inbound.granted {
                    inbound.granted = true;
                    self.granted_bytes += wanted;
                    let one_piece =
                        wanted <= super::text::RECEIVE_MAX.min(self.parameters.max_burst) as usize;
                    inbound.data.reserve(wanted, one_piece);
                }
                self.send_r2ts(out, itt);
            }
            self.asking.pop_front();
        }
    }

    /// Asks for as much of a write's data as may be asked for at once (§11.8).
    fn send_r2ts(&mut self, out: &mut Outbox, itt: u32) {
        loop {
            let ttt = self.new_transfer_tag();
            let numbers = self.numbers();
            let (burst, grants_max) =
                (self.parameters.max_burst, self.parameters.max_outstanding_r2t as usize);
            let Some(inbound) = self.writes.get_mut(&itt) else { return };
            let desired = burst.min(inbound.wanted.saturating_sub(inbound.asked));
            if desired == 0 || inbound.grants.len() >= grants_max {
                return;
            }
            let header = ReadyToTransfer {
                opcode: opcode::R2T,
                flags: FINAL,
                lun: inbound.order.lun.into(),
                itt: itt.into(),
                ttt: ttt.into(),
                stat_sn: numbers.stat_sn.into(),
                exp_cmd_sn: numbers.exp_cmd_sn.into(),
                max_cmd_sn: numbers.max_cmd_sn.into(),
                r2t_sn: inbound.order.r2t_count.into(),
                offset: inbound.asked.into(),
                desired: desired.into(),
                ..ReadyToTransfer::default()
            };
            inbound.order.r2t_count += 1;
            inbound.asked += desired;
            inbound.grants.push_back(Grant { ttt, end: inbound.asked, data_sn: 0 });
            out.push(&header, &[]);
        }
    }

    fn open(&mut self, order: &Order) {
        let count = if order.immediate { &mut self.open_immediate } else { &mut self.open_windowed };
        *count += 1;
    }

    /// Gives a command's place in the window back.
    pub(super) fn shut(&mut self, order: &Order) {
        let count = if order.immediate { &mut self.open_immediate } else { &mut self.open_windowed };
        *count -= 1;
    }

    fn start(
        &mut self,
        shared: &mut Shared,
        out: &mut Outbox,
        order: Order,
        cdb: &Cdb,
        data: Bytes,
        failure: Option<Reply>,
    ) -> Next {
        let step = match (failure, self.nexus) {
            (Some(reply), _) => Step::Done(reply),
            (None, Some(nexus)) => shared.device.start(nexus, order.lun, cdb.bytes(), data),
            (None, None) => Step::Done(check_condition(5, 0x20, 0)),
        };
        self.advance(shared, out, order, step);
        Next::Continue
    }

    /// The site has answered a running command.
    pub(super) fn handle_step(&mut self, shared: &mut Shared, out: &mut Outbox, itt: u32, step: Step) {
        if let Some(Running { order, .. }) = self.running.remove(&itt) {
            self.advance(shared, out, order, step);
        }
    }

    fn advance(&mut self, shared: &mut Shared, out: &mut Outbox, order: Order, step: Step) {
        match (step, self.nexus) {
            (Step::Done(reply), _) => {
                self.shut(&order);
                self.respond(out, &order, &reply);
            }
            (Step::Ask { command, pending }, Some(nexus)) => {
                let task = shared.order(self.conn, order.itt, nexus, command, pending);
                self.running.insert(order.itt, Running { task, order });
            }
            (Step::Ask { .. }, None) => self.shut(&order),
        }
    }

    /// Sends a command's data and status (§11.4, §11.7), with residuals as SCSI.md 3.6 has them.
    fn respond(&mut self, out: &mut Outbox, order: &Order, reply: &Reply) {
        let length: usize = reply.data_in.iter().map(Bytes::len).sum();
        let expected = u64::from(order.expected);
        // What the device would move, and what the host's announcement lets through in that direction.
        let (moved, through) = match order.transfer {
            Transfer::Out(wanted) => (wanted, if order.read { 0 } else { expected }),
            Transfer::In(_) if order.read => (length as u64, expected),
            Transfer::In(_) => (length as u64, 0),
            Transfer::None => (0, expected),
        };
        let (residual_flag, residual) = match moved.cmp(&through) {
            std::cmp::Ordering::Greater => (OVERFLOW, moved - through),
            std::cmp::Ordering::Equal => (0, 0),
            std::cmp::Ordering::Less => (UNDERFLOW, through - moved),
        };
        let residual = u32::try_from(residual).unwrap_or(u32::MAX);
        let sent = if matches!(order.transfer, Transfer::In(_)) { moved.min(through) as usize } else { 0 };
        let joined = sent > 0 && reply.status == Status::Good && reply.sense.is_empty();
        let last = joined.then_some((reply.status, residual_flag, residual));
        let count = self.send_data_in(out, order, &reply.data_in, sent, last);
        if joined {
            return;
        }
        let mut sense = BytesMut::new();
        if !reply.sense.is_empty() {
            let length = u16::try_from(reply.sense.len()).unwrap_or(u16::MAX);
            sense.extend_from_slice(&length.to_be_bytes());
            sense.extend_from_slice(reply.sense.get(..usize::from(length)).unwrap_or_default());
        }
        let numbers = self.status_numbers();
        let header = Response {
            opcode: opcode::RESPONSE,
            flags: FINAL | residual_flag,
            status: reply.status as u8,
            itt: order.itt.into(),
            stat_sn: numbers.stat_sn.into(),
            exp_cmd_sn: numbers.exp_cmd_sn.into(),
            max_cmd_sn: numbers.max_cmd_sn.into(),
            exp_data_sn: (order.r2t_count + count).into(),
            residual: residual.into(),
            ..Response::default()
        };
        out.push(&header, &[sense.freeze()]);
    }

    /// Sends the first `sent` bytes of `pieces`; the last PDU carries the status where that is good. Tells
    /// how many PDUs it took.
    fn send_data_in(
        &mut self,
        out: &mut Outbox,
        order: &Order,
        pieces: &[Bytes],
        sent: usize,
        last: Option<(Status, u8, u32)>,
    ) -> u32 {
        let segment_max = self.parameters.peer_receive_max as usize;
        let burst_max = self.parameters.max_burst as usize;
        let mut rope = Rope { pieces, index: 0, offset: 0 };
        let (mut offset, mut burst, mut data_sn) = (0, 0, 0u32);
        while offset < sent {
            let length = segment_max.min(burst_max - burst).min(sent - offset);
            burst += length;
            let done = offset + length == sent;
            let mut header = DataIn {
                opcode: opcode::DATA_IN,
                itt: order.itt.into(),
                ttt: NO_TAG.into(),
                data_sn: data_sn.into(),
                offset: (offset as u32).into(),
                ..DataIn::default()
            };
            if done || burst == burst_max {
                header.flags |= FINAL; // end of a sequence (§11.7.1)
                burst = 0;
            }
            let numbers = match last {
                Some((status, flag, residual)) if done => {
                    header.flags |= STATUS | flag;
                    header.status = status as u8;
                    header.residual = residual.into();
                    let numbers = self.status_numbers();
                    header.stat_sn = numbers.stat_sn.into();
                    numbers
                }
                Some(_) | None => self.numbers(),
            };
            header.exp_cmd_sn = numbers.exp_cmd_sn.into();
            header.max_cmd_sn = numbers.max_cmd_sn.into();
            out.push(&header, &rope.take(length));
            offset += length;
            data_sn += 1;
        }
        data_sn
    }

    /// Whether a host has left a write without its promised data for too long.
    pub(super) fn data_overdue(&self, now: u64) -> bool {
        self.writes.values().any(|inbound| {
            let promised = inbound.unsolicited.is_some() || !inbound.grants.is_empty();
            promised && now.saturating_sub(inbound.since) > DATA_WAIT_NS
        })
    }
}

impl Inbound {
    /// Takes one Data-Out PDU, or says what is wrong with it (§4.2.5, §11.7).
    fn take(&mut self, header: &DataOut, pdu: &Pdu, first_burst: u32, now: u64) -> Result<(), &'static str> {
        let last = header.flags & FINAL != 0;
        let length = u32::try_from(pdu.data.len()).map_err(|_| "data segment too long")?;
        let end = self.received.checked_add(length).ok_or("data beyond all offsets")?;
        let (data_sn, limit) = match (header.ttt.get(), &mut self.unsolicited, self.grants.front_mut()) {
            (NO_TAG, Some(data_sn), _) => (data_sn, first_burst.min(self.order.expected)),
            (NO_TAG, None, _) => return Err("unsolicited data after the end of its burst"),
            (ttt, _, Some(grant)) if grant.ttt == ttt => (&mut grant.data_sn, grant.end),
            (_, _, _) => return Err("data for an unknown transfer tag"),
        };
        let in_sequence = header.data_sn.get() == *data_sn;
        *data_sn = data_sn.wrapping_add(1);
        if header.offset.get() != self.received {
            return Err("data at the wrong offset");
        }
        if end > limit {
            return Err("more data than asked for");
        }
        if header.ttt != NO_TAG && last != (end == limit) {
            return Err("final bit at the wrong place");
        }
        let room = self.wanted.saturating_sub(self.received).min(length);
        self.data.push(pdu.data.slice(..room as usize));
        self.received = end;
        self.since = now;
        if !in_sequence {
            // A sequence error (§7.9): the command fails, DATA PHASE ERROR, once its data is in.
            self.failure = Some(check_condition(0x0b, 0x4b, 0));
        }
        if last {
            match header.ttt.get() {
                NO_TAG => self.unsolicited = None,
                _ => drop(self.grants.pop_front()),
            }
        }
        Ok(())
    }
}

/// Cuts data that lies in pieces into segments, without copying.
struct Rope<'a> {
    pieces: &'a [Bytes],
    index: usize,
    offset: usize,
}

impl Rope<'_> {
    fn take(&mut self, mut length: usize) -> Vec<Bytes> {
        let mut taken = Vec::with_capacity(1);
        while let Some(piece) = self.pieces.get(self.index).filter(|_| length > 0) {
            let part = (piece.len() - self.offset).min(length);
            if part > 0 {
                taken.push(piece.slice(self.offset..self.offset + part));
            }
            length -= part;
            self.offset += part;
            if self.offset == piece.len() {
                (self.index, self.offset) = (self.index + 1, 0);
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_piece_is_not_copied() {
        let piece = Bytes::from(vec![1; 4096]);
        let mut gather = Gather::default();
        gather.push(piece.clone());
        assert_eq!(gather.finish().as_ptr(), piece.as_ptr());
    }

    #[test]
    fn pieces_join_in_order() {
        let mut gather = Gather::default();
        gather.push(Bytes::from_static(b"ab"));
        gather.reserve(6, false);
        gather.push(Bytes::from_static(b"cd"));
        gather.push(Bytes::from_static(b"ef"));
        assert_eq!(gather.finish(), "abcdef");
    }

    #[test]
    fn a_rope_cuts_across_pieces() {
        let pieces = [Bytes::from_static(b"abc"), Bytes::new(), Bytes::from_static(b"defg")];
        let mut rope = Rope { pieces: &pieces, index: 0, offset: 0 };
        let mut cut = |length| rope.take(length).concat();
        assert_eq!([cut(2), cut(3), cut(9), cut(1)], [&b"ab"[..], b"cde", b"fg", b""]);
    }

    #[test]
    fn extended_cdbs_are_read_and_lies_refused() {
        let cdb = [0x7f; 16];
        // AHSLength 17 = reserved byte + 16 bytes of CDB.
        let mut good = vec![0, 17, 1, 0];
        good.extend_from_slice(&[9; 16]);
        assert_eq!(parse_segments(&good, &cdb), Some(Some([[0x7f; 16], [9; 16]].concat())));
        assert_eq!(parse_segments(&[], &cdb), Some(None));
        for bad in [&[0, 17, 1, 0][..], &[0, 0, 1, 0], &[255, 255, 1, 0], &[0, 1, 9, 0], &[0]] {
            assert_eq!(parse_segments(bad, &cdb), None, "{bad:?}");
        }
    }
}
