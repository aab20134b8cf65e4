//! The stream: one FIFO of entries in each direction, in stamp order, and the acks that come back.
//!
//! Sending is a cursor over the held entries, never a queue beside them: in step it stands at the tip; after the line
//! was cut it is set back to what the peer has, and nothing else happens. So memory stays bounded however long the
//! line was down, and a resend is the same code as a send.
//!
//! Invariants: own entries leave in stamp order; `acked ≤ kept ≤ issued`; an entry counts as acked only when it is durable
//! in the peer's journal, and the own promise never passes an own entry that is unsent or not durable here.

use crate::engine::{Action, Engine, JournalPiece, Severity};
use crate::entry::{Body, Entry};
use crate::message::{Ack, Message};
use crate::mutant::{Mutant, planted};
use crate::units::*;
use bytes::Bytes;
use std::collections::VecDeque;
use std::ops::Bound;

/// Most bytes of own entries sent that the peer's journal has not, in the product ([`crate::engine::Config::window_bytes`]).
pub const WINDOW_BYTES_MAX: u64 = 16 << 20;
/// Most bytes that may wait in the daemon's socket queue before sending pauses.
pub const BACKLOG_BYTES_MAX: usize = 8 << 20;
/// Most entries read ahead from the journal for the peer.
const FETCH_AHEAD_MAX: usize = 32;

/// What comes from the peer.
#[derive(Clone, Debug)]
pub(crate) struct Inbound {
    /// Newest entry of the peer's origin that arrived (or that the backing stores have).
    pub received: Stamp,
    /// Newest that is durable here.
    pub durable: Stamp,
    /// Stream position of the last entry of the peer's origin in this session.
    last_seq: Option<u64>,
    /// The first entry that found no room in the journal: from it on nothing of this session is taken in.
    turned_away: Option<(Stamp, u64)>,
    /// The newest entry of the peer's origin that was turned away in this session.
    last_turned_away: Stamp,
}

impl Inbound {
    pub(crate) fn new(destaged: Stamp) -> Inbound {
        Inbound {
            received: destaged,
            durable: destaged,
            last_seq: None,
            turned_away: None,
            last_turned_away: Stamp::ZERO,
        }
    }

    pub(crate) fn recovered(&mut self, newest: Option<Stamp>) {
        self.received = self.received.max(newest.unwrap_or(self.received));
        self.durable = self.received;
    }

    pub(crate) fn new_session(&mut self) {
        self.last_seq = None;
        self.turned_away = None;
        self.last_turned_away = Stamp::ZERO;
    }

    /// Whether entries are turned away until there is room; acks and heartbeats are heard all the same.
    pub(crate) fn deaf(&self) -> bool {
        self.turned_away.is_some()
    }
}

#[derive(Clone, Debug)]
struct Slot {
    stamp: Stamp,
    fetched: Option<Bytes>,
    ready: bool,
}

/// What goes to the peer.
#[derive(Clone, Debug)]
pub(crate) struct Outbound {
    /// Newest own stamp.
    pub issued: Stamp,
    /// Newest own stamp that is durable here.
    pub durable: Stamp,
    /// Newest own stamp that is durable in the peer's journal.
    pub kept: Stamp,
    /// Newest own stamp up to which, besides, the peer has executed all requests.
    pub acked: Stamp,
    /// The peer promised that nothing comes at or before this.
    pub peer_promise: Stamp,
    /// The cut at which the peer's backing stores stand.
    pub peer_destaged: Stamp,
    /// Every own entry up to this was sent (or taken up for sending) in this session.
    cursor: Stamp,
    /// Entries of the peer's own that it lost: sent back from here …
    return_cursor: Stamp,
    /// … up to here.
    return_end: Stamp,
    /// Own tip at the session's start: when the cursor has passed it, all that was owed is sent.
    owed: Option<Stamp>,
    /// Entries taken up for sending, waiting for their bytes, in order.
    slots: VecDeque<Slot>,
    /// Own entries sent that the peer has not taken.
    in_flight: VecDeque<(Stamp, u64)>,
    in_flight_bytes: u64,
    /// Bytes that the socket has not taken.
    pub backlog: usize,
    /// Worst-case journal bytes of own entries that are not destaged at both sites.
    charges: VecDeque<(Stamp, u64)>,
    charged: u64,
    /// Charged in this run for entries of an earlier one, some of which that run had seen destaged at both sites.
    charged_again: u64,
    /// Journal bytes of the write that last found no room; 0 when the last one found some.
    pub wanted: u64,
}

impl Outbound {
    pub(crate) fn new(destaged: Stamp) -> Outbound {
        Outbound {
            issued: destaged,
            durable: destaged,
            kept: Stamp::ZERO,
            acked: Stamp::ZERO,
            peer_promise: Stamp::ZERO,
            peer_destaged: Stamp::ZERO,
            cursor: Stamp::ZERO,
            return_cursor: Stamp::ZERO,
            return_end: Stamp::ZERO,
            owed: None,
            slots: VecDeque::new(),
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            backlog: 0,
            charges: VecDeque::new(),
            charged: 0,
            charged_again: 0,
            wanted: 0,
        }
    }

    pub(crate) fn recovered(&mut self, newest: Option<Stamp>) {
        self.issued = self.issued.max(newest.unwrap_or(self.issued));
        self.durable = self.issued;
        self.charges.make_contiguous().sort_unstable();
    }

    /// Whether this own entry was sent in this session, or the peer had it before.
    pub(crate) fn sent(&self, stamp: Stamp) -> bool {
        stamp <= self.cursor
            && !self.slots.iter().any(|slot| slot.stamp.site == stamp.site && slot.stamp <= stamp)
    }

    pub(crate) fn charge(&mut self, stamp: Stamp, bytes: u64) {
        self.charges.push_back((stamp, bytes));
        self.charged += bytes;
    }

    /// Charges for an entry that an earlier run let in.
    pub(crate) fn charge_again(&mut self, stamp: Stamp, bytes: u64) {
        self.charged_again += bytes;
        self.charge(stamp, bytes);
    }

    pub(crate) fn charged_again(&self) -> u64 {
        self.charged_again
    }

    pub(crate) fn uncharge(&mut self, destaged_at_both: Stamp) {
        while self.charges.front().is_some_and(|(stamp, _)| *stamp <= destaged_at_both) {
            if let Some((_, bytes)) = self.charges.pop_front() {
                self.charged -= bytes;
            }
        }
    }

    pub(crate) fn room(&self, bytes: u64, limit: u64) -> bool {
        self.charged + bytes <= limit
    }

    pub(crate) fn charged(&self) -> u64 {
        self.charged
    }

    /// A session begins: the peer has own entries up to `peer_has_ours`; of its own it has those up to
    /// `peer_has_own`, and we have some up to `we_have`.
    pub(crate) fn new_session(&mut self, peer_has_ours: Stamp, peer_has_own: Stamp, we_have: Stamp) {
        self.slots.clear();
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        self.backlog = 0;
        self.cursor = peer_has_ours;
        self.return_cursor = peer_has_own;
        self.return_end = we_have;
        self.owed = Some(self.issued);
    }
}

impl Engine {
    /// Own entries that the peer has not acknowledged: how many, how many bytes, and the stamp of the oldest.
    pub fn unacked(&self) -> (u64, u64, Option<Stamp>) {
        let own = &self.entries[self.config.site.index()];
        let mut found = own.range((Bound::Excluded(self.outbound.acked), Bound::Unbounded));
        let oldest = found.next();
        let (mut count, mut bytes) = (0, 0);
        for (_, held) in oldest.into_iter().chain(found) {
            count += 1;
            bytes += held.extent.bytes();
        }
        (count, bytes, oldest.map(|(stamp, _)| *stamp))
    }

    /// How far this site has come, as the peer is told.
    pub(crate) fn ack(&mut self, now: Now) -> Ack {
        let durable =
            if planted(Mutant::AckBeforeSync) { self.inbound.received } else { self.inbound.durable };
        let limited = durable.min(self.ack_limit());
        Ack {
            durable: limited,
            taken: durable.max(self.inbound.last_turned_away),
            promise: self.promise(now),
            destaged: self.cuts.recycled,
            resumed: self.session.in_step_here(),
        }
    }

    /// Nothing sent from now on is stamped at or before this, and all own entries up to it are durable here and sent.
    fn promise(&mut self, now: Now) -> Stamp {
        // A site that is deaf still promises, else two deaf sites would never cut, and never find room again.
        if !self.session.resumed_for_good() || !(self.session.in_step_here() || self.inbound.deaf()) {
            return Stamp::ZERO;
        }
        let own = self.config.site.index();
        let volatile = self.volatile[own].front().map(|(_, stamp)| *stamp);
        let unsent =
            self.outbound.slots.iter().map(|slot| slot.stamp).find(|s| s.site == self.config.site).or(self
                .entries[own]
                .range((Bound::Excluded(self.outbound.cursor), Bound::Unbounded))
                .next()
                .map(|(stamp, _)| *stamp));
        let mut time = self.clock.promise(now);
        for pending in [volatile, unsent].into_iter().flatten() {
            time = time.min(pending.time - 1);
        }
        Stamp::last_of(time)
    }

    /// Sends what the window and the socket take.
    pub(crate) fn pump_outbound(&mut self) {
        if !self.session.accepted() {
            return;
        }
        loop {
            while self.outbound.slots.front().is_some_and(|slot| slot.ready) {
                let Some(slot) = self.outbound.slots.pop_front() else { break };
                self.send_entry(slot.stamp, slot.fetched);
            }
            if !self.take_up_next() {
                break;
            }
        }
        if self.outbound.slots.is_empty()
            && self.outbound.return_cursor >= self.outbound.return_end
            && self.outbound.owed.is_some_and(|owed| self.outbound.cursor >= owed)
        {
            self.outbound.owed = None;
            self.order(Action::Send(Message::ResumeEnd));
        }
        if self.barrier_passed() {
            self.session.ack_owed = true;
        }
    }

    /// Takes up the next entry for sending. False when there is none or no room for it.
    fn take_up_next(&mut self) -> bool {
        let out = &self.outbound;
        if out.slots.len() >= FETCH_AHEAD_MAX
            || out.in_flight_bytes >= self.config.window_bytes
            || out.backlog >= BACKLOG_BYTES_MAX
        {
            return false;
        }
        let own = self.config.site;
        let returned = if planted(Mutant::ResumeOwnOnly) {
            None
        } else {
            self.entries[own.peer().index()]
                .range((Bound::Excluded(out.return_cursor), Bound::Unbounded))
                .next()
                .map(|(stamp, _)| *stamp)
                .filter(|stamp| *stamp <= out.return_end)
        };
        let stamp = match returned {
            Some(stamp) => {
                self.outbound.return_cursor = stamp;
                stamp
            }
            None => {
                self.outbound.return_cursor = self.outbound.return_cursor.max(self.outbound.return_end);
                let after = (Bound::Excluded(self.outbound.cursor), Bound::Unbounded);
                let Some((stamp, held)) = self.entries[own.index()].range(after).next() else {
                    // Nothing left: entries that the peer lacks but we destaged do not exist (see `handle_hello`).
                    self.outbound.cursor = self.outbound.cursor.max(self.outbound.issued);
                    return false;
                };
                let (stamp, charge) = (*stamp, held.charge());
                self.outbound.cursor = stamp;
                self.outbound.in_flight.push_back((stamp, charge));
                self.outbound.in_flight_bytes += charge;
                stamp
            }
        };
        let fetch = self.fetch_order(stamp);
        self.outbound.slots.push_back(Slot { stamp, fetched: None, ready: fetch.is_none() });
        if let Some(piece) = fetch {
            self.order(Action::Fetch { stamp, piece });
        }
        true
    }

    fn fetch_order(&self, stamp: Stamp) -> Option<JournalPiece> {
        let held = self.entries[stamp.site.index()].get(&stamp)?;
        if held.body.bytes() != Some(&None) {
            return None;
        }
        Some(JournalPiece {
            pos: held.pos.expect("only entries with a place in the journal lose their bytes"),
            body_bytes: held.body_bytes(),
            body_crc: held.body_crc,
            skip: 0,
            bytes: held.body_bytes(),
        })
    }

    fn send_entry(&mut self, stamp: Stamp, fetched: Option<Bytes>) {
        let has_bytes = fetched.is_some();
        match self.entry_of(stamp, fetched) {
            Some(entry) => self.order(Action::Send(Message::Entry(entry))),
            None if !has_bytes && self.knows(stamp) => {
                // Its bytes left memory between taking up and sending: fetch them now.
                if let Some(piece) = self.fetch_order(stamp) {
                    self.outbound.slots.push_front(Slot { stamp, fetched: None, ready: false });
                    self.order(Action::Fetch { stamp, piece });
                }
            }
            None => {}
        }
    }

    /// An [`Action::Fetch`] ended: the body's bytes, checked, or `None` if the journal could not give them.
    pub fn handle_fetched(&mut self, stamp: Stamp, bytes: Option<Bytes>) {
        let Some(bytes) = bytes else {
            let text = format!("entry {stamp} cannot be read back from the journal for the peer");
            self.notice(Severity::Alarm, text.clone());
            self.order(Action::CloseLink { why: text });
            return;
        };
        if let Some(slot) = self.outbound.slots.iter_mut().find(|slot| slot.stamp == stamp && !slot.ready) {
            slot.fetched = Some(bytes);
            slot.ready = true;
        }
        self.pump_outbound();
    }

    /// The socket took bytes, or stopped taking them.
    pub fn handle_link_backlog(&mut self, queued: usize) {
        self.outbound.backlog = queued;
        self.pump_outbound();
    }

    /// An entry arrived: of the peer's origin, or one of our own that we had lost.
    pub(crate) fn handle_entry(&mut self, now: Now, entry: Entry) {
        let own = self.config.site;
        let fits = self.volumes.get(&entry.volume).is_some_and(|volume| {
            entry.extent.end().0 <= volume.geometry.blocks
                && match &entry.body {
                    Body::Data(bytes) => bytes.len() as u64 == entry.extent.bytes(),
                    Body::Fill(block) => block.len() as u64 == BLOCK_BYTES,
                    Body::Swap(bytes) => bytes.len() as u64 == 2 * entry.extent.bytes(),
                    Body::Unmap | Body::Control(_) => true,
                    Body::Verdict { .. } => false,
                }
        });
        if !fits {
            return self
                .violation(format!("entry {} for {} does not fit any volume", entry.stamp, entry.extent));
        }
        self.clock.observe(entry.stamp.time);
        let new = entry.stamp > self.cuts.destaged && !self.knows(entry.stamp);
        let room = self.charge_of(entry.volume, &entry.body);
        if self.inbound.deaf() || (new && room > self.journal_room) {
            return self.turn_away(entry.stamp, room);
        }
        let mut entry = entry;
        if entry.stamp.site == own {
            if self.session.resume_from.is_none() && new {
                return self
                    .violation(format!("the peer returned {}, which this site never lost", entry.stamp));
            }
            // `resume_from` stays where it is until all that was lost is back and durable: a checkpoint may become
            // durable before the entries that came back just now.
            self.outbound.issued = self.outbound.issued.max(entry.stamp);
        } else {
            if let Some(last) = self.inbound.last_seq {
                let follows = Some(entry.seq) == last.checked_add(1)
                    || (entry.seq >> 40 > last >> 40 && entry.seq << 24 == 0);
                if !follows {
                    let text = format!("gap in the stream: {:x} after {:x}", entry.seq, last);
                    return self.violation(text);
                }
            }
            self.inbound.last_seq = Some(entry.seq);
            self.inbound.received = self.inbound.received.max(entry.stamp);
        }
        if !new {
            if !planted(Mutant::ApplyResendTwice) {
                return; // a resend
            }
            let Some(stamp) = self.clock.next(now) else { return };
            entry.stamp = Stamp { site: own.peer(), ..stamp };
        }
        if entry.stamp.site == own {
            let charge = self.charge_of(entry.volume, &entry.body);
            self.outbound.charge_again(entry.stamp, charge);
        }
        self.append(entry);
    }

    /// The journal has no room for an entry of the peer. The limits on both sides make that rare: one site restarted
    /// while the other could not destage, or the journal is full of what lies behind a segment still in use.
    fn turn_away(&mut self, stamp: Stamp, room: u64) {
        self.session.ack_owed = true;
        if stamp.site != self.config.site {
            self.inbound.last_turned_away = self.inbound.last_turned_away.max(stamp);
        }
        if self.inbound.deaf() {
            return;
        }
        self.inbound.turned_away = Some((stamp, room));
        self.session.fall_behind();
        let text =
            "the journal has no room for the peer's writes: sync volumes wait until destaging has made some";
        self.notice(Severity::Alarm, text.into());
    }

    /// There is room for what was turned away: the link is opened anew, and the stream resumes from there.
    pub(crate) fn listen_again(&mut self) {
        if let Some((_, room)) = self.inbound.turned_away
            && room <= self.journal_room
            && self.session.accepted()
        {
            let why = "the journal has room again for the peer's writes".to_string();
            self.order(Action::CloseLink { why });
        }
    }

    /// The peer told how far it has come.
    pub(crate) fn handle_ack(&mut self, now: Now, ack: Ack) {
        self.clock.observe(ack.promise.time);
        let out = &mut self.outbound;
        out.acked = out.acked.max(ack.durable);
        // A peer that is in step has turned nothing away, or has got it since.
        out.kept = out.kept.max(if ack.resumed { ack.taken } else { ack.durable });
        // What was turned away is not here: the promise holds for us only up to it.
        let promise = match self.inbound.turned_away {
            Some((stamp, _)) => ack.promise.min(Stamp::last_of(stamp.time - 1)),
            None => ack.promise,
        };
        out.peer_promise = out.peer_promise.max(promise);
        out.peer_destaged = out.peer_destaged.max(ack.destaged);
        // Of this session only: what was turned away in an earlier one is sent again.
        let taken = if planted(Mutant::WindowByExecuted) { ack.durable } else { ack.taken };
        while out.in_flight.front().is_some_and(|(stamp, _)| *stamp <= taken) {
            if let Some((_, bytes)) = out.in_flight.pop_front() {
                out.in_flight_bytes -= bytes;
            }
        }
        out.uncharge(out.peer_destaged.min(self.cuts.recycled));
        self.session.peer_in_step = ack.resumed;
        self.execute(now);
        self.settle_forgotten();
        self.wake_acked();
        self.pump_outbound();
        self.pump_doors(now);
        self.try_cut(now);
    }

    pub(crate) fn violation(&mut self, what: String) {
        self.notice(Severity::Alarm, format!("the peer broke the protocol: {what}; the link is closed"));
        self.order(Action::CloseLink { why: what });
    }
}
