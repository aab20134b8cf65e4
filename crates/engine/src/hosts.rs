//! Hosts' commands: who may come in, what they wait for, when they are answered.
//!
//! A command first stands at its volume's door (one queue for reads, one for writes, each in order of arrival) until
//! the site may serve it. Then a write is stamped and a read takes its pieces; from there on each waits for two
//! frontiers only: its own journal's and, where its mode says so, the peer's. Never answers anything twice.

use crate::engine::{Action, Engine, Mode, OpId, Outcome, Source, SourcePiece, charge};
use crate::entry::{Body, Entry};
use crate::hold::{HoldTable, Piece};
use crate::mutant::{Mutant, planted};
use crate::units::*;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Part of a write command: what becomes of one extent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WritePart {
    /// The blocks.
    pub extent: Extent,
    /// What becomes of them.
    pub body: Body,
    /// CRC-32C of the body.
    pub body_crc: u32,
}

/// A write command of a host: one part, or for UNMAP several, each an entry of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostWrite {
    /// The volume.
    pub volume: VolumeId,
    /// The host.
    pub host: HostId,
    /// The parts; never empty.
    pub parts: Vec<WritePart>,
    /// Force unit access: in `flush` mode wait for the peer.
    pub fua: bool,
}

#[derive(Debug)]
enum Knock {
    Read { op: OpId, extent: Extent, deadline: u64 },
    Write { op: OpId, write: HostWrite, deadline: u64 },
    Flush { op: OpId, deadline: u64 },
}

impl Knock {
    fn deadline(&self) -> u64 {
        match self {
            Knock::Read { deadline, .. } | Knock::Write { deadline, .. } | Knock::Flush { deadline, .. } => {
                *deadline
            }
        }
    }

    fn op(&self) -> OpId {
        match self {
            Knock::Read { op, .. } | Knock::Write { op, .. } | Knock::Flush { op, .. } => *op,
        }
    }
}

/// The commands of one volume that have not been let in yet.
#[derive(Debug, Default)]
pub(crate) struct Doors {
    reads: VecDeque<Knock>,
    writes: VecDeque<Knock>,
}

/// A command that was let in: what it still waits for and what follows then.
#[derive(Debug)]
struct Waiter {
    ack: Option<Stamp>,
    then: Then,
    /// When it was last looked at, the peer could serve nobody who does not see this command: see
    /// [`Engine::on_its_way`].
    on_its_way: bool,
}

#[derive(Debug)]
enum Then {
    Done,
    /// Where the pieces are is asked when the wait is over: they may have been destaged meanwhile.
    Serve {
        volume: VolumeId,
        pieces: Vec<Piece>,
    },
}

/// All commands that were let in and not answered, findable by what they wait for.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    ops: BTreeMap<OpId, Waiter>,
    by_append: BTreeSet<(AppendSeq, OpId)>,
    by_ack: BTreeSet<(Stamp, OpId)>,
    deadlines: VecDeque<(u64, OpId)>,
}

impl Waiting {
    pub(crate) fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.ops.len()
    }
}

impl Engine {
    /// A host wants to write. The extents lie within the volume.
    pub fn handle_write(&mut self, now: Now, op: OpId, write: HostWrite) {
        let deadline = now.mono + self.config.wait_max;
        let Some(volume) = self.volumes.get_mut(&write.volume) else {
            return self.refuse(op, Outcome::NotReady);
        };
        let id = write.volume;
        volume.doors.writes.push_back(Knock::Write { op, write, deadline });
        self.pump_writes(now, id);
    }

    /// A host wants to read.
    pub fn handle_read(&mut self, now: Now, op: OpId, id: VolumeId, extent: Extent) {
        let deadline = now.mono + self.config.wait_max;
        let Some(volume) = self.volumes.get_mut(&id) else {
            return self.refuse(op, Outcome::NotReady);
        };
        volume.doors.reads.push_back(Knock::Read { op, extent, deadline });
        self.pump_reads(now, id);
    }

    /// A host wants all its completed writes durable as the volume's mode promises.
    pub fn handle_flush(&mut self, now: Now, op: OpId, id: VolumeId) {
        let deadline = now.mono + self.config.wait_max;
        let Some(volume) = self.volumes.get_mut(&id) else {
            return self.refuse(op, Outcome::NotReady);
        };
        volume.doors.writes.push_back(Knock::Flush { op, deadline });
        self.pump_writes(now, id);
    }

    /// Nobody waits for a command any more. If it still stands at the door it never happens: let in later, a write that
    /// its host has long done again elsewhere would cover newer ones. What was let in keeps its place in the order.
    pub fn handle_abandoned(&mut self, op: OpId) {
        let doors =
            self.volumes.values_mut().flat_map(|volume| [&mut volume.doors.reads, &mut volume.doors.writes]);
        let mut found = false;
        for door in doors {
            let before = door.len();
            door.retain(|knock| knock.op() != op);
            found |= door.len() < before;
        }
        if found {
            self.refuse(op, Outcome::NotReady);
        }
    }

    /// Whether hosts of this volume are served now.
    pub fn serving(&self, now: Now, volume: VolumeId) -> bool {
        if self.draining {
            return false;
        }
        match self.volumes.get(&volume).map(|volume| volume.mode) {
            Some(Mode::Sync) => {
                self.session.in_step()
                    && (now.mono < self.session.lease_until || planted(Mutant::ServeWithoutLease))
            }
            Some(Mode::Async | Mode::Flush) => true,
            None => false,
        }
    }

    fn refuse(&mut self, op: OpId, outcome: Outcome) {
        self.order(Action::Complete { op, outcome });
    }

    /// Lets in whoever may come in now.
    pub(crate) fn pump_doors(&mut self, now: Now) {
        let ids: Vec<VolumeId> = self
            .volumes
            .iter()
            .filter(|(_, volume)| !volume.doors.reads.is_empty() || !volume.doors.writes.is_empty())
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.pump_writes(now, id);
            self.pump_reads(now, id);
        }
    }

    fn pump_reads(&mut self, now: Now, id: VolumeId) {
        if !self.serving(now, id) {
            return;
        }
        while let Some(Knock::Read { op, extent, deadline }) =
            self.volumes.get_mut(&id).and_then(|volume| volume.doors.reads.pop_front())
        {
            self.admit_read(op, id, extent, deadline);
        }
    }

    fn pump_writes(&mut self, now: Now, id: VolumeId) {
        if !self.serving(now, id) {
            return;
        }
        loop {
            let Some(knock) = self.volumes.get_mut(&id).and_then(|v| v.doors.writes.pop_front()) else {
                return;
            };
            match knock {
                Knock::Write { op, write, deadline } => {
                    if !self.open(now, id, &write) {
                        if let Some(volume) = self.volumes.get_mut(&id) {
                            volume.doors.writes.push_front(Knock::Write { op, write, deadline });
                        }
                        return;
                    }
                    self.admit_write(now, op, write);
                }
                Knock::Flush { op, deadline } => self.admit_flush(id, op, deadline),
                Knock::Read { op, extent, deadline } => self.admit_read(op, id, extent, deadline),
            }
        }
    }

    /// Whether a write may come in now: the volume is served, there is room, and there are stamps for all its parts.
    fn open(&mut self, now: Now, id: VolumeId, write: &HostWrite) -> bool {
        if !self.serving(now, id) {
            return false;
        }
        let needed: u64 = write.parts.iter().map(|part| charge(part.body.stored_bytes() as u64)).sum();
        let room = self.room_for(needed);
        self.outbound.wanted = if room { 0 } else { needed };
        if !room || self.hold_bytes > self.config.hold_memory {
            return false;
        }
        // Every part must get a stamp below the durable ceiling.
        if self.clock.reading(now) + write.parts.len() as u64 > self.clock.ceiling_durable() {
            self.order(Action::Checkpoint);
            return false;
        }
        true
    }

    /// Whether the journals here and at the peer have room for so many bytes of own entries: within the own limit, and
    /// here also now, leaving what the peer may still send within its limit.
    fn room_for(&self, needed: u64) -> bool {
        let peers = self.own_limit().saturating_sub(self.held_charges[self.config.site.peer().index()]);
        let here = needed.saturating_add(peers) <= self.journal_room;
        here && self.outbound.room(needed, self.own_limit())
    }

    /// How many journal bytes own entries may occupy at both sites: half of the smaller journal.
    pub(crate) fn own_limit(&self) -> u64 {
        self.config.journal_usable.min(self.session.peer_journal_usable) / 2
    }

    /// The write's journey begins: stamped, held, journaled, mirrored. The end is in [`Engine::wake_durable`].
    fn admit_write(&mut self, now: Now, op: OpId, write: HostWrite) {
        let (mut last_append, mut last_stamp) = (AppendSeq(0), Stamp::ZERO);
        let HostWrite { volume: id, host, parts, fua } = write;
        let mut bytes = 0;
        for WritePart { extent, body, body_crc } in parts {
            let stamp = self.clock.next(now).expect("the door was passed, so the ceiling is high enough");
            let entry = Entry { stamp, seq: self.seq_next, volume: id, extent, host, body, body_crc };
            self.seq_next += 1;
            bytes += extent.bytes();
            self.outbound.charge(stamp, charge(entry.body.stored_bytes() as u64));
            self.outbound.issued = stamp;
            last_append = self.append(entry);
            last_stamp = stamp;
        }
        self.pump_outbound();
        let Some(volume) = self.volumes.get_mut(&id) else { return };
        volume.own_last = last_stamp;
        volume.counters.writes += 1;
        volume.counters.written_bytes += bytes;
        let ack = match volume.mode {
            Mode::Sync => !planted(Mutant::CompleteBeforeAck),
            Mode::Async => false,
            Mode::Flush => fua,
        };
        let append = if planted(Mutant::CompleteBeforeSync) { AppendSeq(0) } else { last_append };
        // Counted anew from here: see [`Engine::on_its_way`].
        let deadline = now.mono + self.config.wait_max;
        self.wait(op, append, ack.then_some(last_stamp), Then::Done, deadline);
    }

    fn admit_flush(&mut self, id: VolumeId, op: OpId, deadline: u64) {
        // What was completed is already durable as the mode promises, but for `flush` mode's plain writes.
        let Some(volume) = self.volumes.get(&id) else { return };
        let ack = (volume.mode == Mode::Flush).then_some(volume.own_last);
        self.wait(op, AppendSeq(0), ack, Then::Done, deadline);
    }

    /// Takes the newest pieces as they are now. Where a piece is not committed yet the read waits for just that:
    /// whoever else showed it did so after us.
    fn admit_read(&mut self, op: OpId, id: VolumeId, extent: Extent, deadline: u64) {
        let own = self.config.site;
        let Some(volume) = self.volumes.get_mut(&id) else { return };
        volume.counters.reads += 1;
        volume.counters.read_bytes += extent.bytes();
        let sync = volume.mode == Mode::Sync;
        let mut pieces: Vec<Piece> = Vec::new();
        volume.table.lookup(extent, &mut pieces);
        let (mut append, mut ack) = (AppendSeq(0), None);
        for stamp in pieces.iter().filter_map(|piece| piece.stamp) {
            if let Some(held) = self.entries[stamp.site.index()].get(&stamp) {
                append = append.max(held.append);
            }
            if sync && stamp.site == own {
                ack = ack.max(Some(stamp));
            }
        }
        if planted(Mutant::ShowPendingWrite) {
            (append, ack) = (AppendSeq(0), None);
        }
        self.wait(op, append, ack, Then::Serve { volume: id, pieces }, deadline);
    }

    fn wait(&mut self, op: OpId, append: AppendSeq, ack: Option<Stamp>, then: Then, deadline: u64) {
        let ack = ack.filter(|stamp| *stamp > self.outbound.acked);
        let waiter = Waiter { ack, then, on_its_way: self.on_its_way(ack) };
        if append > self.append_durable {
            self.waiting.by_append.insert((append, op));
        } else if let Some(stamp) = ack {
            self.waiting.by_ack.insert((stamp, op));
        } else {
            return self.finish(op, waiter.then);
        }
        self.waiting.ops.insert(op, waiter);
        self.waiting.deadlines.push_back((deadline, op));
    }

    fn finish(&mut self, op: OpId, then: Then) {
        match then {
            Then::Done => self.order(Action::Complete { op, outcome: Outcome::Done }),
            Then::Serve { volume, pieces } => {
                let pieces = pieces
                    .into_iter()
                    .map(|Piece { extent, stamp }| SourcePiece {
                        extent,
                        source: stamp.map_or(Source::Store, |stamp| self.source(stamp, extent)),
                    })
                    .collect();
                self.order(Action::Serve { op, volume, pieces });
            }
        }
    }

    /// The own journal's frontier moved: a write's journey ends here, or goes on to wait for the peer.
    pub(crate) fn wake_durable(&mut self) {
        while let Some((append, op)) = self.waiting.by_append.first().copied() {
            if append > self.append_durable {
                break;
            }
            self.waiting.by_append.pop_first();
            let ack = self.waiting.ops.get(&op).and_then(|waiter| waiter.ack);
            match ack.filter(|stamp| *stamp > self.outbound.acked) {
                Some(stamp) => {
                    self.waiting.by_ack.insert((stamp, op));
                }
                None => self.finish_waiter(op),
            }
        }
        self.forget_answered_deadlines();
    }

    fn forget_answered_deadlines(&mut self) {
        while self.waiting.deadlines.front().is_some_and(|(_, op)| !self.waiting.ops.contains_key(op)) {
            self.waiting.deadlines.pop_front();
        }
    }

    /// The peer's frontier moved.
    pub(crate) fn wake_acked(&mut self) {
        while let Some((stamp, op)) = self.waiting.by_ack.first().copied() {
            if stamp > self.outbound.acked {
                break;
            }
            self.waiting.by_ack.pop_first();
            self.finish_waiter(op);
        }
        self.forget_answered_deadlines();
    }

    fn finish_waiter(&mut self, op: OpId) {
        if let Some(waiter) = self.waiting.ops.remove(&op) {
            self.finish(op, waiter.then);
        }
    }

    /// Answers those who waited too long, so that their hosts retry or turn to another path.
    pub(crate) fn expire(&mut self, now: Now) {
        while let Some((deadline, op)) = self.waiting.deadlines.front().copied() {
            if let Some(waiter) = self.waiting.ops.get(&op) {
                if deadline > now.mono {
                    break;
                }
                let (before, ack) = (waiter.on_its_way, waiter.ack);
                let on_its_way = self.on_its_way(ack);
                if !(before && on_its_way)
                    && let Some(waiter) = self.waiting.ops.get_mut(&op)
                {
                    waiter.on_its_way = on_its_way;
                    self.waiting.deadlines.pop_front();
                    self.waiting.deadlines.push_back((now.mono + self.config.wait_max, op));
                    continue;
                }
                // It stays findable by append or ack, which finds no waiter any more and does nothing.
                self.waiting.ops.remove(&op);
                self.refuse(op, Outcome::NotReady);
            }
            self.waiting.deadlines.pop_front();
        }
        let ids: Vec<VolumeId> = self.volumes.keys().copied().collect();
        for id in ids {
            let outcome = if self.serving(now, id) { Outcome::Busy } else { Outcome::NotReady };
            let draining = self.draining;
            let Some(volume) = self.volumes.get_mut(&id) else { continue };
            let mut refused = Vec::new();
            for door in [&mut volume.doors.reads, &mut volume.doors.writes] {
                while door.front().is_some_and(|knock| draining || knock.deadline() <= now.mono) {
                    refused.extend(door.pop_front().map(|knock| knock.op()));
                }
            }
            for op in refused {
                self.refuse(op, outcome);
            }
        }
    }

    /// Whether what waits for this ack left for the peer, or the line is down. Once this held for longer than a lease,
    /// the peer serves only with it: every answer to a heartbeat follows it on the line, and a new session begins with
    /// it. Only then may the host be told to try elsewhere; earlier, its next write there could be stamped below this
    /// one where the sites' clocks differ, be completed, and then be covered by this one.
    fn on_its_way(&self, ack: Option<Stamp>) -> bool {
        !self.session.accepted() || ack.is_none_or(|stamp| self.outbound.sent(stamp))
    }

    pub(crate) fn waiting_deadline(&self) -> u64 {
        let doors = self.volumes.values().flat_map(|volume| {
            [volume.doors.reads.front(), volume.doors.writes.front()]
                .into_iter()
                .flatten()
                .map(Knock::deadline)
        });
        let waiting = self.waiting.deadlines.front().map(|(deadline, _)| *deadline);
        doors.chain(waiting).min().unwrap_or(u64::MAX)
    }

    /// Whether the write that last found no room would find none now either: hosts are held back.
    pub fn full(&self) -> bool {
        let wanted = self.outbound.wanted;
        (wanted > 0 && !self.room_for(wanted)) || self.hold_bytes > self.config.hold_memory
    }

    /// Builds the parts of a plain write.
    pub fn part(extent: Extent, data: Bytes, body_crc: u32) -> WritePart {
        WritePart { extent, body: Body::Data(data), body_crc }
    }
}
