//! Answers for data on its way to and from a unit: orders are cut into parts of what the unit takes at once, parts are
//! sent over the session that may carry them, tried again within bounds, and joined into one answer.
//!
//! Extents of several hosts may lie within one part, and no session carries all of it then: such a part is halved until
//! each piece finds the session that may. What flushes meets any extent of another's, so that between two holders no
//! session may: as long as extents are reserved, writes are sent with FUA, and a flush that nobody may ask for is not
//! needed.
//!
//! A part is in exactly one place: on a session (`Session::tasks`), in its lane's `again`, or in `paused`.

use super::answer::{Answer, Verdict};
use super::probe::{Facts, Limits, Zeroing};
use super::{COMMAND_MAX, Port, SYNC_MAX, Stage, Task, Unit, UnitAction, Use};
use crate::api::Severity;
use biplex_engine::{BLOCK_BYTES, Nexus};
use biplex_front::iscsi::initiator::{Payload, lun, read16, synchronize_cache16, write16};
use biplex_store::{DiskError, DiskOp, DiskResult, DiskTicket};
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Data commands under way with one unit at a time.
pub const COMMANDS_MAX: usize = 32;
/// How often a part is tried after BUSY, TASK SET FULL, NOT READY and ABORTED COMMAND.
const RETRIES_MAX: u32 = 12;
/// How often a part is tried after UNIT ATTENTION.
const ATTENTIONS_MAX: u32 = 8;
/// What PREEMPT AND ABORT may have aborted is waited for so long, nanoseconds.
const ABORT_PATIENCE: u64 = 1_000_000_000;
/// How often a read survives the loss of its session.
const LOSSES_MAX: u32 = 3;
/// First and longest pause before a part is tried again, nanoseconds.
const PAUSE_MIN: u64 = 10_000_000;
const PAUSE_MAX: u64 = 1_000_000_000;
/// An order that makes no progress for so long, because no session stands, is an error; nanoseconds.
pub const PATIENCE: u64 = 20_000_000_000;

static ZEROS: [u8; 512 * 512] = [0; 512 * 512];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Read,
    Write,
    Zero,
    Sync,
}

impl Kind {
    fn changes(self) -> bool {
        self != Kind::Read
    }
}

struct Order {
    kind: Kind,
    /// First block that is not in a part yet, and the end.
    next: u64,
    end: u64,
    /// First block.
    start: u64,
    /// A write's data.
    data: Vec<Bytes>,
    /// What was read, by first block.
    got: BTreeMap<u64, Bytes>,
    /// Parts that are not answered.
    parts: usize,
    /// A sync is one part without blocks, given out once.
    given: bool,
    error: Option<DiskError>,
    until: u64,
    /// For a sync: how many writes it covers.
    covers: u64,
    /// The last write that it covers, of [`Orders::sent`].
    covers_to: u64,
}

impl Order {
    fn all_given(&self) -> bool {
        if self.kind == Kind::Sync { self.given } else { self.next == self.end }
    }
}

/// A command's worth of an order.
pub(super) struct Part {
    ticket: DiskTicket,
    kind: Kind,
    lba: u64,
    blocks: u64,
    zeroing: Option<Zeroing>,
    /// Sessions that met a reservation conflict with it.
    met: BTreeSet<Port>,
    retries: u32,
    attentions: u32,
    losses: u32,
}

impl Part {
    fn name(&self) -> String {
        let command = match (self.kind, self.zeroing) {
            (Kind::Read, _) => "READ(16)",
            (Kind::Sync, _) => return "SYNCHRONIZE CACHE(16)".to_owned(),
            (Kind::Zero, Some(Zeroing::SameUnmap)) => "WRITE SAME(16) with UNMAP",
            (Kind::Zero, Some(Zeroing::Same)) => "WRITE SAME(16)",
            (Kind::Write, _) | (Kind::Zero, Some(Zeroing::Plain) | None) => "WRITE(16)",
        };
        format!("{command} of {} blocks at {}", self.blocks, self.lba)
    }
}

/// Reads, and all that changes the unit, apart: reads go on while writes must wait.
#[derive(Default)]
struct Lane {
    /// Orders with blocks that are in no part yet.
    queue: VecDeque<DiskTicket>,
    /// Parts to be sent again.
    again: VecDeque<Part>,
}

/// All orders of a unit.
#[derive(Default)]
pub(super) struct Orders {
    /// Came in and not looked at: they get their deadline with the next [`Unit::advance`].
    arrived: VecDeque<(DiskTicket, DiskOp)>,
    orders: BTreeMap<DiskTicket, Order>,
    lanes: [Lane; 2],
    /// Parts that wait until the moment in their key.
    paused: BTreeMap<(u64, u64), Part>,
    next_pause: u64,
    under_way: usize,
    /// Write commands sent since the last good sync.
    unsynced: u64,
    /// Write commands sent, ever; the last of them that may lie in the unit's cache, as it was sent without FUA; and how
    /// many of the first lie there no more, or will be sent again.
    sent: u64,
    cached_last: u64,
    settled: u64,
    /// Why the writes since the last good sync may be gone although they were answered well.
    doubt: Option<String>,
}

impl Orders {
    /// The unit may have lost what it had not yet made durable.
    pub(super) fn doubt(&mut self, why: String) {
        if self.unsynced > 0 {
            self.doubt.get_or_insert(why);
        }
    }

    pub(super) fn deadline(&self) -> Option<u64> {
        let paused = self.paused.first_key_value().map(|((due, _), _)| *due);
        // A failed one waits for nothing but its commands, which have limits of their own.
        let waiting = self.orders.values().filter(|order| order.error.is_none());
        waiting.map(|order| order.until).chain(paused).min()
    }

    fn pause(&mut self, now: u64, part: Part) {
        let pause = (PAUSE_MIN << part.retries.min(10)).min(PAUSE_MAX);
        self.paused.insert((now + pause, self.next_pause), part);
        self.next_pause += 1;
    }

    fn send_again(&mut self, part: Part) {
        self.lanes[usize::from(part.kind.changes())].again.push_back(part);
    }
}

impl Unit {
    /// Takes an order of the store in; [`UnitAction::Done`] follows. Offsets are multiples of 512. Call
    /// [`Unit::advance`] behind it.
    pub fn order(&mut self, ticket: DiskTicket, op: DiskOp) {
        self.orders.arrived.push_back((ticket, op));
        self.stirred = true;
    }

    /// The unit was told to abort what others have under way, which it does without a word (SAM-5 5.3.1): what a host's
    /// session but this one carries is not waited for in vain. The site's own is nobody's whom one could preempt.
    pub fn expect_aborts(&mut self, now: u64, but: Nexus) {
        let spared = [Port::Site, Port::Host(but)];
        for (_, session) in self.sessions.iter_mut().filter(|(port, _)| !spared.contains(port)) {
            for task in session.tasks.values_mut().filter(|task| matches!(task.use_, Use::Data(_))) {
                task.until = task.until.min(now + ABORT_PATIENCE);
            }
        }
    }

    pub(super) fn advance_orders(&mut self, now: u64) {
        while let Some((ticket, op)) = self.orders.arrived.pop_front() {
            self.accept(now, ticket, op);
        }
        while let Some(entry) = self.orders.paused.first_entry().filter(|entry| entry.key().0 <= now) {
            let part = entry.remove();
            self.orders.send_again(part);
        }
        self.expire(now);
        for lane in [0, 1] {
            self.pump(now, lane);
        }
    }

    fn accept(&mut self, now: u64, ticket: DiskTicket, op: DiskOp) {
        let (kind, offset, bytes, data) = match op {
            DiskOp::Read { offset, len, .. } => (Kind::Read, offset, u64::from(len), Vec::new()),
            DiskOp::Write { offset, data, .. } => {
                (Kind::Write, offset, data.iter().map(|piece| piece.len() as u64).sum(), data)
            }
            DiskOp::Zero { offset, len, .. } => (Kind::Zero, offset, len, Vec::new()),
            DiskOp::Sync { .. } => (Kind::Sync, 0, 0, Vec::new()),
            DiskOp::AppendDurable { .. } => {
                let message = self.said("no journal is kept on a unit");
                return self.done(ticket, Err(DiskError::new(message)));
            }
        };
        let whole = offset.is_multiple_of(BLOCK_BYTES) && bytes.is_multiple_of(BLOCK_BYTES);
        let (start, blocks) = (offset / BLOCK_BYTES, bytes / BLOCK_BYTES);
        let Some(end) = start.checked_add(blocks).filter(|end| whole && *end <= self.blocks) else {
            let message = self.said(&format!("bytes {offset} and {bytes} more are no blocks of the volume"));
            return self.done(ticket, Err(DiskError::new(message)));
        };
        let got = BTreeMap::new();
        let order = Order {
            kind,
            next: start,
            end,
            start,
            data,
            got,
            parts: 0,
            given: false,
            error: None,
            until: now + PATIENCE,
            covers: 0,
            covers_to: 0,
        };
        let empty = order.all_given();
        self.orders.orders.insert(ticket, order);
        if empty {
            return self.conclude(ticket);
        }
        self.orders.lanes[usize::from(kind.changes())].queue.push_back(ticket);
    }

    /// Orders that waited too long for a session are errors.
    fn expire(&mut self, now: u64) {
        let late = |order: &Order| order.until <= now && order.error.is_none();
        let late: Vec<DiskTicket> =
            self.orders.orders.iter().filter(|(_, order)| late(order)).map(|(ticket, _)| *ticket).collect();
        if late.is_empty() {
            return;
        }
        let fenced = self.sessions.values().find(|session| session.fenced);
        let stuck = fenced.and_then(|session| session.trouble.as_deref());
        let trouble = self.trouble().or(stuck).unwrap_or("it does not get on");
        let why = self.said(&format!("no progress for {} s: {trouble}", PATIENCE / 1_000_000_000));
        for ticket in late {
            self.fail(ticket, why.clone());
        }
    }

    fn pump(&mut self, now: u64, lane: usize) {
        let changes = lane == 1;
        while self.orders.under_way < COMMANDS_MAX && !(changes && self.fenced()) {
            let Some(limits) = self.limits().filter(|_| self.reachable()) else {
                return;
            };
            let again = self.orders.lanes[lane].again.pop_front();
            let Some(mut part) = again.or_else(|| self.next_part(lane, limits)) else { return };
            // An order that has failed gets no more commands.
            if self.orders.orders.get(&part.ticket).is_none_or(|order| order.error.is_some()) {
                self.part_over(part.ticket);
                continue;
            }
            let Some(port) = self.carrier_for(&part) else {
                // All that stood when it met conflicts are gone; others stand now.
                part.met.clear();
                self.orders.pause(now, part);
                continue;
            };
            self.send(now, port, part);
        }
    }

    fn limits(&self) -> Option<Limits> {
        let mut limits = self.facts.as_ref().map(Facts::limits)?;
        // WRITE SAME knows no FUA.
        if self.writes_through() {
            limits.zeroing = Zeroing::Plain;
        }
        Some(limits)
    }

    /// Whether writes must not wait in the unit's cache: nobody may be let in to flush it.
    fn writes_through(&self) -> bool {
        self.book.extents() && self.reserves_extents() && !self.cacheless()
    }

    fn reserves_extents(&self) -> bool {
        let parts = self.facts.as_ref().and_then(|facts| facts.parts);
        parts.is_some_and(|parts| parts.extents.is_some())
    }

    fn fenced(&self) -> bool {
        self.sessions.values().any(|session| session.fenced)
    }

    /// The session to try next: carrier, the one that was lucky last, the site's own, then the rest.
    fn carrier_for(&self, part: &Part) -> Option<Port> {
        let first = [self.carrier.map(Port::Host), self.lucky, Some(Port::Site)];
        let all = first.into_iter().flatten().chain(self.sessions.keys().copied());
        let fit = |port: &Port| {
            let stands =
                self.sessions.get(port).is_some_and(|session| session.is_ready() && !session.leaving);
            stands && !part.met.contains(port)
        };
        all.into_iter().find(fit)
    }

    /// Whether sessions are being made: the one that may carry it can be among them.
    fn others_come(&self) -> bool {
        self.sessions.values().any(|session| !session.is_ready() && !session.leaving)
    }

    /// Cuts the next part off the lane's first order.
    fn next_part(&mut self, lane: usize, limits: Limits) -> Option<Part> {
        loop {
            let ticket = *self.orders.lanes[lane].queue.front()?;
            let order = self.orders.orders.get_mut(&ticket).filter(|order| order.error.is_none());
            let Some(order) = order.filter(|order| !order.all_given()) else {
                self.orders.lanes[lane].queue.pop_front();
                continue;
            };
            let zeroing = (order.kind == Kind::Zero).then_some(limits.zeroing);
            let blocks = limits.blocks_max(zeroing).min(order.end - order.next);
            let part = Part {
                ticket,
                kind: order.kind,
                lba: order.next,
                blocks,
                zeroing,
                met: BTreeSet::new(),
                retries: 0,
                attentions: 0,
                losses: 0,
            };
            order.next += blocks;
            order.parts += 1;
            order.given = true;
            return Some(part);
        }
    }

    fn send(&mut self, now: u64, port: Port, part: Part) {
        let through = self.writes_through();
        let cacheless = self.cacheless();
        let Some(order) = self.orders.orders.get_mut(&part.ticket) else { return };
        let blocks = part.blocks as u32; // at most SAME_BLOCKS_MAX
        let (cdb, payload) = match (part.kind, part.zeroing) {
            (Kind::Read, _) => (read16(part.lba, blocks, false), Payload::In(blocks * BLOCK_BYTES as u32)),
            (Kind::Write, _) => {
                let from = (part.lba - order.start) * BLOCK_BYTES;
                let data = gather(&order.data, from as usize, (part.blocks * BLOCK_BYTES) as usize);
                (write16(part.lba, blocks, through), Payload::Out(data))
            }
            (Kind::Zero, Some(method @ (Zeroing::Same | Zeroing::SameUnmap))) => {
                let block = Bytes::from_static(&ZEROS[..BLOCK_BYTES as usize]);
                (write_same16(part.lba, blocks, method == Zeroing::SameUnmap), Payload::Out(block))
            }
            (Kind::Zero, Some(Zeroing::Plain) | None) => {
                let data = Bytes::from_static(&ZEROS[..(part.blocks * BLOCK_BYTES) as usize]);
                (write16(part.lba, blocks, through), Payload::Out(data))
            }
            (Kind::Sync, _) => {
                (order.covers, order.covers_to) = (self.orders.unsynced, self.orders.sent);
                (synchronize_cache16(), Payload::None)
            }
        };
        let Some(session) = self.sessions.get_mut(&port) else { return };
        let Stage::Ready { initiator, .. } = &mut session.stage else { return };
        if matches!(part.kind, Kind::Write | Kind::Zero) {
            session.wrote = true;
            self.orders.unsynced += 1;
            self.orders.sent += 1;
            let same = matches!(part.zeroing, Some(Zeroing::Same | Zeroing::SameUnmap));
            if !cacheless && (same || !through) {
                self.orders.cached_last = self.orders.sent;
            }
        }
        let most = if part.kind == Kind::Sync { SYNC_MAX } else { COMMAND_MAX };
        // While it is with the unit, the command's own limit counts.
        order.until = order.until.max(now + most + super::PAUSE_MAX);
        initiator.submit(self.next_tag, lun(self.address.lun), cdb, payload);
        session.tasks.insert(self.next_tag, Task { use_: Use::Data(part), until: now + most });
        self.next_tag += 1;
        self.orders.under_way += 1;
    }

    pub(super) fn part_answered(&mut self, now: u64, port: Port, mut part: Part, answer: Answer) {
        self.orders.under_way -= 1;
        let failed = |unit: &Unit, part: &Part| unit.said(&format!("{}: {answer}", part.name()));
        match answer.verdict() {
            Verdict::Good => {
                if !part.met.is_empty() {
                    self.lucky = Some(port);
                }
                self.part_good(now, part, answer.data);
            }
            Verdict::Attention => {
                self.out.push_back(UnitAction::Attention { port, sense: answer.sense.clone() });
                part.attentions += 1;
                if part.attentions > ATTENTIONS_MAX {
                    return self.part_failed(part.ticket, DiskError::later(failed(self, &part)));
                }
                self.orders.send_again(part);
            }
            Verdict::Later => {
                part.retries += 1;
                if part.retries > RETRIES_MAX {
                    return self.part_failed(part.ticket, DiskError::later(failed(self, &part)));
                }
                self.orders.pause(now, part);
            }
            Verdict::Conflict => {
                // E5.2: whoever holds the reservation has a session of its own here.
                part.met.insert(port);
                if self.lucky == Some(port) {
                    self.lucky = None;
                }
                if self.carrier_for(&part).is_some() {
                    self.orders.send_again(part);
                } else if self.others_come() && part.retries < RETRIES_MAX {
                    part.retries += 1;
                    self.orders.pause(now, part);
                } else if part.kind == Kind::Sync && self.orders.cached_last <= self.orders.settled {
                    self.part_good(now, part, Bytes::new());
                } else if part.blocks > 1 && self.book.extents() && self.reserves_extents() {
                    self.halve(part);
                } else {
                    self.part_failed(part.ticket, DiskError::later(failed(self, &part)));
                }
            }
            Verdict::Unknown if part.zeroing.is_some_and(|method| method < Zeroing::Plain) => {
                self.learn_zeroing(&part, &answer);
                self.recut(part);
            }
            // SBC-3 4.15: nothing is to be synchronised where there is no write cache.
            Verdict::Unknown if part.kind == Kind::Sync && self.cacheless() => {
                self.part_good(now, part, Bytes::new());
            }
            Verdict::Unknown | Verdict::Failed => {
                self.part_failed(part.ticket, DiskError::new(failed(self, &part)));
            }
        }
    }

    fn cacheless(&self) -> bool {
        self.facts.as_ref().is_some_and(|facts| facts.cache == Some(false))
    }

    /// The unit refused this way of making zeros: the next one from now on.
    fn learn_zeroing(&mut self, part: &Part, answer: &Answer) {
        let next = match part.zeroing {
            Some(Zeroing::SameUnmap) => Zeroing::Same,
            Some(Zeroing::Same | Zeroing::Plain) | None => Zeroing::Plain,
        };
        let Some(facts) = self.facts.as_mut().filter(|facts| facts.zeroing < next) else { return };
        facts.zeroing = next;
        let how =
            if next == Zeroing::Plain { "zeros are written in full" } else { "space is not given back" };
        self.notice(Severity::Warning, &format!("cannot do {} ({answer}): {how} from now on", part.name()));
    }

    /// Cuts a refused part of zeros anew, smaller where the way that is left takes less at once.
    fn recut(&mut self, part: Part) {
        let Some(limits) = self.limits() else { return };
        let zeroing = Some(limits.zeroing);
        self.cut(part, zeroing, limits.blocks_max(zeroing));
    }

    /// No session may carry all of it: perhaps one may carry the one half, and one the other.
    fn halve(&mut self, mut part: Part) {
        part.met.clear();
        let (zeroing, most) = (part.zeroing, part.blocks.div_ceil(2));
        self.cut(part, zeroing, most);
    }

    /// Sends a part again, in pieces of at most so many blocks.
    fn cut(&mut self, part: Part, zeroing: Option<Zeroing>, most: u64) {
        let (mut lba, end) = (part.lba, part.lba + part.blocks);
        while lba < end {
            let blocks = most.min(end - lba);
            let met = part.met.clone();
            let (retries, attentions, losses) = (part.retries, part.attentions, part.losses);
            let (ticket, kind) = (part.ticket, part.kind);
            let piece = Part { ticket, kind, lba, blocks, zeroing, met, retries, attentions, losses };
            self.orders.send_again(piece);
            if let Some(order) = self.orders.orders.get_mut(&part.ticket) {
                order.parts += 1;
            }
            lba += blocks;
        }
        self.part_over(part.ticket);
    }

    fn part_good(&mut self, now: u64, part: Part, data: Bytes) {
        let short = part.kind == Kind::Read && data.len() as u64 != part.blocks * BLOCK_BYTES;
        if short {
            let why = self.said(&format!("{}: GOOD, but {} bytes came", part.name(), data.len()));
            return self.part_failed(part.ticket, DiskError::new(why));
        }
        if part.kind == Kind::Sync
            && let Some(why) = self.orders.doubt.take()
        {
            let why =
                self.said(&format!("{}: {why}; what was written is not known to be there", part.name()));
            return self.part_failed(part.ticket, DiskError::later(why));
        }
        if let Some(order) = self.orders.orders.get_mut(&part.ticket) {
            order.until = now + PATIENCE;
            match part.kind {
                Kind::Read => drop(order.got.insert(part.lba, data)),
                Kind::Sync => {
                    self.orders.unsynced -= order.covers.min(self.orders.unsynced);
                    self.orders.settled = self.orders.settled.max(order.covers_to);
                    if self.orders.unsynced == 0 {
                        self.sessions.values_mut().for_each(|session| session.wrote = false);
                    }
                }
                Kind::Write | Kind::Zero => {}
            }
        }
        self.part_over(part.ticket);
    }

    fn part_failed(&mut self, ticket: DiskTicket, why: DiskError) {
        if let Some(order) = self.orders.orders.get_mut(&ticket) {
            order.error.get_or_insert(why);
        }
        self.part_over(ticket);
        self.fail_waiting(ticket);
    }

    /// The part's session is gone while the unit had it.
    pub(super) fn part_lost(&mut self, port: Port, mut part: Part, why: &str) {
        self.orders.under_way -= 1;
        part.losses += 1;
        if part.kind.changes()
            && let Some(session) = self.sessions.get_mut(&port)
        {
            session.fenced = true;
        }
        if part.kind.changes() || part.losses > LOSSES_MAX {
            let why = self.said(&format!("{}: unknown whether it was done: {why}", part.name()));
            return self.part_failed(part.ticket, DiskError::later(why));
        }
        self.orders.send_again(part);
    }

    fn fail(&mut self, ticket: DiskTicket, why: String) {
        if let Some(order) = self.orders.orders.get_mut(&ticket) {
            order.error.get_or_insert(DiskError::later(why));
        }
        self.fail_waiting(ticket);
        self.conclude(ticket);
    }

    /// Takes the parts of a failed order out of the places where they wait.
    fn fail_waiting(&mut self, ticket: DiskTicket) {
        let mut over = 0;
        for lane in &mut self.orders.lanes {
            lane.queue.retain(|queued| *queued != ticket);
            let before = lane.again.len();
            lane.again.retain(|part| part.ticket != ticket);
            over += before - lane.again.len();
        }
        let before = self.orders.paused.len();
        self.orders.paused.retain(|_, part| part.ticket != ticket);
        over += before - self.orders.paused.len();
        (0..over).for_each(|_| self.part_over(ticket));
    }

    fn part_over(&mut self, ticket: DiskTicket) {
        if let Some(order) = self.orders.orders.get_mut(&ticket) {
            order.parts -= 1;
        }
        self.conclude(ticket);
    }

    /// Answers an order of which nothing is under way or to come.
    fn conclude(&mut self, ticket: DiskTicket) {
        let Some(order) = self.orders.orders.get(&ticket) else { return };
        if order.parts > 0 || (order.error.is_none() && !order.all_given()) {
            return;
        }
        let Some(order) = self.orders.orders.remove(&ticket) else { return };
        let result = match order.error {
            Some(error) => {
                if order.kind.changes() {
                    // Whoever hears of this writes all again: nothing is left to doubt, or to flush.
                    (self.orders.doubt, self.orders.settled) = (None, self.orders.sent);
                }
                Err(error)
            }
            None => Ok(join(order.got)),
        };
        self.done(ticket, result);
    }

    fn done(&mut self, ticket: DiskTicket, result: DiskResult) {
        self.out.push_back(UnitAction::Done { ticket, result });
    }
}

/// `len` bytes from `from` of pieces that lie one behind the other; copied only where they span several.
fn gather(pieces: &[Bytes], mut from: usize, len: usize) -> Bytes {
    let mut joined = BytesMut::new();
    for piece in pieces {
        if from >= piece.len() {
            from -= piece.len();
            continue;
        }
        if joined.is_empty() && piece.len() - from >= len {
            return piece.slice(from..from + len);
        }
        let end = piece.len().min(from + len - joined.len());
        joined.extend_from_slice(&piece[from..end]);
        from = 0;
        if joined.len() == len {
            break;
        }
    }
    joined.freeze()
}

fn join(mut got: BTreeMap<u64, Bytes>) -> Bytes {
    if got.len() <= 1 {
        return got.pop_first().map(|(_, bytes)| bytes).unwrap_or_default();
    }
    let mut joined = BytesMut::with_capacity(got.values().map(Bytes::len).sum());
    got.values().for_each(|bytes| joined.extend_from_slice(bytes));
    joined.freeze()
}

/// WRITE SAME(16) (SBC-3 5.45).
fn write_same16(lba: u64, blocks: u32, unmap: bool) -> [u8; 16] {
    let mut cdb = write16(lba, blocks, false);
    (cdb[0], cdb[1]) = (0x93, u8::from(unmap) << 3);
    cdb
}
