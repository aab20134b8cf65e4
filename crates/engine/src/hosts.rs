//! Hosts' commands: who may come in, what they wait for, when they are answered.
//!
//! A command first stands at its volume's door (one queue for reads, one for writes, one for requests on the unit, each
//! in order of arrival) until the site may serve it. There reservations are asked (E3.4). Then a write is stamped and a
//! read takes its pieces; from there on each waits for at most three frontiers: its own journal's, the peer's (its journal's,
//! or what it executed), and the order's, where its outcome is decided in order ([`crate::control`]). Never answers anything twice.

use crate::engine::{Action, Engine, Mode, OpId, Outcome, Source, SourcePiece};
use crate::entry::Body;
use crate::held::{Fate, HeldBody};
use crate::hold::{HoldTable, Piece};
use crate::judge::HostSwap;
use crate::mutant::{Mutant, planted};
use crate::reserve::{Access, Request, Verdict};
use crate::units::*;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Journal room that data leaves for requests on the unit: a fence must find room where writes find none. Bytes at
/// most, and as a part of the own limit.
const CONTROL_ROOM: u64 = 256 << 10;
const CONTROL_ROOM_PART: u64 = 32;

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
    /// Who asks.
    pub nexus: Nexus,
    /// The parts; never empty.
    pub parts: Vec<WritePart>,
    /// Force unit access: in `flush` mode wait for the peer.
    pub fua: bool,
}

/// A command at the door.
#[derive(Clone, Debug)]
pub(crate) struct Knock {
    pub op: OpId,
    pub nexus: Nexus,
    pub deadline: u64,
    pub wish: Wish,
}

/// What it wants.
#[derive(Clone, Debug)]
pub(crate) enum Wish {
    Read { extent: Extent },
    Write { parts: Vec<WritePart>, fua: bool },
    Flush,
    Swap(HostSwap),
    Control(Arc<Request>),
}

/// The commands of one volume that have not been let in yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Doors {
    reads: VecDeque<Knock>,
    writes: VecDeque<Knock>,
    /// Requests and swaps: they need the peer, whatever the volume's mode, and must not wait behind writes that find
    /// no room.
    pub controls: VecDeque<Knock>,
}

impl Doors {
    fn is_empty(&self) -> bool {
        self.reads.is_empty() && self.writes.is_empty() && self.controls.is_empty()
    }

    fn each(&mut self) -> [&mut VecDeque<Knock>; 3] {
        [&mut self.reads, &mut self.writes, &mut self.controls]
    }

    /// Sends away whoever `goes`.
    pub(crate) fn drop_all(&mut self, goes: impl Fn(&Knock) -> bool) -> Vec<OpId> {
        let mut gone = Vec::new();
        for door in self.each() {
            gone.extend(door.iter().filter(|knock| goes(knock)).map(|knock| knock.op));
            door.retain(|knock| !goes(knock));
        }
        gone
    }
}

/// Which frontiers a command waits for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stage {
    /// Own journal: this append is durable.
    pub append: AppendSeq,
    /// Peer's journal: everything of this site up to this stamp is. Enough for a write, and for who saw it.
    pub kept: Option<Stamp>,
    /// Everything of this site up to this stamp is durable at the peer, and requests among it are executed there: what
    /// whoever hears an outcome waits for.
    pub ack: Option<Stamp>,
    /// Everything of the volume up to this stamp is executed.
    pub turn: Option<(VolumeId, Stamp)>,
}

/// A command that was let in: what it still waits for and what follows then.
#[derive(Clone, Debug)]
struct Waiter {
    stage: Stage,
    then: Then,
    deadline: u64,
    /// When it was last looked at, the peer could serve nobody who does not see this command: see
    /// [`Engine::on_its_way`].
    on_its_way: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Then {
    Done,
    /// A nexus ends; what is still to be waited for on these volumes.
    Leave {
        left: Vec<VolumeId>,
    },
    /// Where the pieces are is asked when the wait is over: they may have been destaged meanwhile.
    Serve {
        volume: VolumeId,
        pieces: Vec<Piece>,
    },
    /// A swap on its blocks was not judged: the read takes its pieces when the wait is over.
    Read {
        volume: VolumeId,
        extent: Extent,
    },
    /// What the order made of an own entry. `claim`: a request that starts over where E3.5 says so; `first`: it was
    /// found in conflict and waits for requests that were known then.
    Verdict {
        volume: VolumeId,
        stamp: Stamp,
        claim: Option<(Nexus, Arc<Request>)>,
        first: Option<Verdict>,
    },
    Inspect {
        volume: VolumeId,
    },
}

/// All commands that were let in and not answered, findable by what they wait for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waiting {
    ops: BTreeMap<OpId, Waiter>,
    by_append: BTreeSet<(AppendSeq, OpId)>,
    by_kept: BTreeSet<(Stamp, OpId)>,
    by_ack: BTreeSet<(Stamp, OpId)>,
    /// Requests that are acked, while the peer may still owe what it let in before.
    by_step: BTreeSet<OpId>,
    deadlines: BTreeSet<(u64, OpId)>,
}

impl Waiting {
    pub(crate) fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether it is a request on the unit that waits for its outcome.
    fn claims(&self, op: OpId) -> bool {
        let then = self.ops.get(&op).map(|waiter| &waiter.then);
        matches!(then, Some(Then::Verdict { claim: Some(_), .. }))
    }

    /// Whoever `gives_up` asks for nothing again: a request that was found in conflict does not start over for it.
    pub(crate) fn give_up(&mut self, gives_up: impl Fn(OpId, Nexus) -> bool) {
        for (op, waiter) in &mut self.ops {
            if let Then::Verdict { claim, .. } = &mut waiter.then
                && claim.as_ref().is_some_and(|(nexus, _)| gives_up(*op, *nexus))
            {
                *claim = None;
            }
        }
    }
}

impl Engine {
    /// A host wants to write. The extents lie within the volume.
    pub fn handle_write(&mut self, now: Now, op: OpId, write: HostWrite) {
        let deadline = now.mono + self.config.wait_max;
        let Some(volume) = self.volumes.get_mut(&write.volume) else {
            return self.refuse(op, Outcome::NotReady);
        };
        let HostWrite { volume: id, nexus, parts, fua } = write;
        volume.doors.writes.push_back(Knock { op, nexus, deadline, wish: Wish::Write { parts, fua } });
        self.pump_writes(now, id);
    }

    /// A host wants to read.
    pub fn handle_read(&mut self, now: Now, op: OpId, id: VolumeId, nexus: Nexus, extent: Extent) {
        let deadline = now.mono + self.config.wait_max;
        let Some(volume) = self.volumes.get_mut(&id) else {
            return self.refuse(op, Outcome::NotReady);
        };
        volume.doors.reads.push_back(Knock { op, nexus, deadline, wish: Wish::Read { extent } });
        self.pump_reads(now, id);
    }

    /// A host wants all its completed writes durable as the volume's mode promises.
    pub fn handle_flush(&mut self, now: Now, op: OpId, id: VolumeId, nexus: Nexus) {
        let deadline = now.mono + self.config.wait_max;
        let Some(volume) = self.volumes.get_mut(&id) else {
            return self.refuse(op, Outcome::NotReady);
        };
        volume.doors.writes.push_back(Knock { op, nexus, deadline, wish: Wish::Flush });
        self.pump_writes(now, id);
    }

    /// Nobody waits for a command any more. If it still stands at the door it never happens: let in later, a write that
    /// its host has long done again elsewhere would cover newer ones. What was let in keeps its place in the order.
    pub fn handle_abandoned(&mut self, op: OpId) {
        let mut found = false;
        for volume in self.volumes.values_mut() {
            found |= !volume.doors.drop_all(|knock| knock.op == op).is_empty();
        }
        if found {
            self.refuse(op, Outcome::NotReady);
        } else {
            self.waiting.give_up(|waiting, _| waiting == op);
        }
    }

    /// Whether hosts of this volume are served now.
    pub fn serving(&self, now: Now, volume: VolumeId) -> bool {
        if self.draining {
            return false;
        }
        match self.volumes.get(&volume).map(|volume| volume.rules.mode) {
            Some(Mode::Sync) => {
                self.session.in_step()
                    && (now.mono < self.session.lease_until || planted(Mutant::ServeWithoutLease))
            }
            Some(Mode::Async | Mode::Flush) => true,
            None => false,
        }
    }

    pub(crate) fn refuse(&mut self, op: OpId, outcome: Outcome) {
        self.order(Action::Complete { op, outcome });
    }

    /// Lets in whoever may come in now.
    pub(crate) fn pump_doors(&mut self, now: Now) {
        self.pump_owed(now);
        let ids: Vec<VolumeId> =
            self.volumes.iter().filter(|(_, volume)| !volume.doors.is_empty()).map(|(id, _)| *id).collect();
        for id in ids {
            self.pump_controls(now, id);
            self.pump_writes(now, id);
            self.pump_reads(now, id);
        }
    }

    /// Whether the reservations that are executed here keep this nexus out (E3.4).
    fn kept_out(&self, id: VolumeId, nexus: Nexus, access: Access, extent: Option<Extent>) -> bool {
        self.volumes.get(&id).is_some_and(|volume| !volume.ledger.allows(nexus, access, extent))
    }

    fn pump_reads(&mut self, now: Now, id: VolumeId) {
        if !self.serving(now, id) {
            return;
        }
        while let Some(knock) = self.volumes.get_mut(&id).and_then(|volume| volume.doors.reads.pop_front()) {
            let Wish::Read { extent } = knock.wish else { unreachable!("only reads stand at this door") };
            if self.kept_out(id, knock.nexus, Access::Read, Some(extent)) {
                self.refuse(knock.op, Outcome::Conflict);
            } else {
                self.admit_read(knock.op, id, extent, knock.deadline, None);
            }
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
            let Knock { op, nexus, deadline, wish } = knock;
            match wish {
                Wish::Write { parts, fua } => {
                    let out = |part: &WritePart| self.kept_out(id, nexus, Access::Write, Some(part.extent));
                    if parts.iter().any(out) {
                        self.refuse(op, Outcome::Conflict);
                    } else if self.open(now, id, &parts) {
                        self.admit_write(now, op, HostWrite { volume: id, nexus, parts, fua });
                    } else if let Some(volume) = self.volumes.get_mut(&id) {
                        let wish = Wish::Write { parts, fua };
                        return volume.doors.writes.push_front(Knock { op, nexus, deadline, wish });
                    }
                }
                Wish::Flush if self.kept_out(id, nexus, Access::Control, None) => {
                    self.refuse(op, Outcome::Conflict);
                }
                Wish::Flush => self.admit_flush(id, op, deadline),
                other @ (Wish::Read { .. } | Wish::Swap(_) | Wish::Control(_)) => {
                    unreachable!("{other:?} stands at another door")
                }
            }
        }
    }

    /// Whether a write may come in now: there is room, and there are stamps for all its parts.
    fn open(&mut self, now: Now, id: VolumeId, parts: &[WritePart]) -> bool {
        let reserve = CONTROL_ROOM.min(self.own_limit() / CONTROL_ROOM_PART);
        let needed = parts.iter().map(|part| self.charge_of(id, &part.body)).sum::<u64>() + reserve;
        self.hold_bytes <= self.config.hold_memory && self.ready_for(now, needed, parts.len() as u64)
    }

    /// Whether there is journal room for `needed` bytes of own entries, and that many stamps.
    pub(crate) fn ready_for(&mut self, now: Now, needed: u64, stamps: u64) -> bool {
        let room = self.room_for(needed);
        self.outbound.wanted = if room { 0 } else { needed };
        if !room {
            return false;
        }
        // Every part must get a stamp below the durable ceiling.
        if self.clock.reading(now) + stamps > self.clock.ceiling_durable() {
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
        let (mut append, mut last) = (AppendSeq(0), Stamp::ZERO);
        let HostWrite { volume: id, nexus, parts, fua } = write;
        let mut bytes = 0;
        for WritePart { extent, body, body_crc } in parts {
            bytes += extent.bytes();
            (append, last) = self.issue(now, id, nexus, extent, body, body_crc);
        }
        self.pump_outbound();
        let Some(volume) = self.volumes.get_mut(&id) else { return };
        volume.own_last = last;
        volume.counters.writes += 1;
        volume.counters.written_bytes += bytes;
        let mirrored = match volume.rules.mode {
            Mode::Sync => !planted(Mutant::CompleteBeforeAck),
            Mode::Async => false,
            Mode::Flush => fua,
        };
        if planted(Mutant::CompleteBeforeSync) {
            append = AppendSeq(0);
        }
        // Counted anew from here: see [`Engine::on_its_way`].
        let deadline = now.mono + self.config.wait_max;
        let stage = Stage { append, kept: mirrored.then_some(last), ..Stage::default() };
        self.wait(op, stage, Then::Done, deadline);
    }

    fn admit_flush(&mut self, id: VolumeId, op: OpId, deadline: u64) {
        // What was completed is already durable as the mode promises, but for `flush` mode's plain writes.
        let Some(volume) = self.volumes.get(&id) else { return };
        let kept = (volume.rules.mode == Mode::Flush).then_some(volume.own_last);
        self.wait(op, Stage { kept, ..Stage::default() }, Then::Done, deadline);
    }

    /// Takes the newest pieces as they are now. Where a piece is not committed yet the read waits for just that:
    /// whoever else showed it did so after us. `after`: the read has waited for the swaps that were known when it came,
    /// up to this one; those that came later may be missed ([`crate::judge`]).
    fn admit_read(&mut self, op: OpId, id: VolumeId, extent: Extent, deadline: u64, after: Option<Stamp>) {
        if let Some(swap) = self.undecided(id, extent)
            && after.is_none()
        {
            let stage = Stage { turn: Some((id, swap)), ..Stage::default() };
            return self.wait(op, stage, Then::Read { volume: id, extent }, deadline);
        }
        let own = self.config.site;
        let Some(volume) = self.volumes.get_mut(&id) else { return };
        volume.counters.reads += 1;
        volume.counters.read_bytes += extent.bytes();
        let sync = volume.rules.mode == Mode::Sync;
        let mut pieces: Vec<Piece> = Vec::new();
        volume.table.lookup(extent, &mut pieces);
        let (mut append, mut kept) = (AppendSeq(0), None);
        for stamp in pieces.iter().filter_map(|piece| piece.stamp) {
            let Some(held) = self.entries[stamp.site.index()].get(&stamp) else { continue };
            append = append.max(held.append);
            let swap = matches!(held.body, HeldBody::Swap(_));
            if swap && planted(Mutant::ShowSwapEarly) {
                continue;
            }
            if sync && stamp.site == own {
                kept = kept.max(Some(stamp));
            }
            if let (true, Fate::Matched { rests_on }) = (sync, held.fate) {
                kept = kept.max(rests_on);
            }
        }
        if planted(Mutant::ShowPendingWrite) {
            (append, kept) = (AppendSeq(0), None);
        }
        let stage = Stage { append, kept, ..Stage::default() };
        self.wait(op, stage, Then::Serve { volume: id, pieces }, deadline);
    }

    pub(crate) fn wait(&mut self, op: OpId, stage: Stage, then: Then, deadline: u64) {
        let on_its_way = self.on_its_way(stage);
        self.waiting.ops.insert(op, Waiter { stage, then, deadline, on_its_way });
        self.waiting.deadlines.insert((deadline, op));
        self.go_on(op);
    }

    /// A command waits for its next frontier, or ends.
    pub(crate) fn go_on(&mut self, op: OpId) {
        let Some(Stage { append, kept, ack, turn }) = self.waiting.ops.get(&op).map(|waiter| waiter.stage)
        else {
            return;
        };
        if append > self.append_durable {
            self.waiting.by_append.insert((append, op));
            return self.hurry();
        }
        if let Some(stamp) = kept.filter(|stamp| *stamp > self.outbound.kept) {
            self.waiting.by_kept.insert((stamp, op));
            return;
        }
        if let Some(stamp) = ack.filter(|stamp| *stamp > self.outbound.acked) {
            self.waiting.by_ack.insert((stamp, op));
            return;
        }
        if ack.is_some() && self.waiting.claims(op) {
            // A new session may begin with an ack, before what the peer let in before it executed the request was sent
            // again. Whoever hears the outcome must have that.
            if !self.session.in_step_here() {
                self.waiting.by_step.insert(op);
                return;
            }
            if let Some(waiter) = self.waiting.ops.get_mut(&op) {
                waiter.stage.ack = None;
            }
        }
        if let Some((id, stamp)) = turn
            && let Some(volume) = self.volumes.get_mut(&id)
            && !volume.ledger.executed(stamp)
        {
            volume.ledger.waiting.insert((stamp, op));
            return;
        }
        if let Some(waiter) = self.waiting.ops.remove(&op) {
            self.waiting.deadlines.remove(&(waiter.deadline, op));
            self.finish(op, waiter);
        }
    }

    fn finish(&mut self, op: OpId, waiter: Waiter) {
        match waiter.then {
            Then::Leave { left } if !left.is_empty() => self.await_leave(op, left, waiter.deadline),
            Then::Done | Then::Leave { .. } => self.refuse(op, Outcome::Done),
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
            Then::Read { volume, extent } => {
                let after = waiter.stage.turn.map(|(_, stamp)| stamp);
                self.admit_read(op, volume, extent, waiter.deadline, after);
            }
            Then::Verdict { volume, stamp, claim, first } => {
                self.conclude(op, volume, stamp, claim, first, waiter.deadline);
            }
            Then::Inspect { volume } => {
                let view = self.volumes.get(&volume).map(|volume| volume.ledger.live.persistent());
                self.order(Action::Persistent { op, view: view.unwrap_or_default() });
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
            self.go_on(op);
        }
    }

    /// The peer's frontiers moved.
    pub(crate) fn wake_acked(&mut self) {
        while let Some((stamp, op)) = self.waiting.by_kept.first().copied() {
            if stamp > self.outbound.kept {
                break;
            }
            self.waiting.by_kept.pop_first();
            self.go_on(op);
        }
        while let Some((stamp, op)) = self.waiting.by_ack.first().copied() {
            if stamp > self.outbound.acked {
                break;
            }
            self.waiting.by_ack.pop_first();
            self.go_on(op);
        }
    }

    /// All that the peer owed is here.
    pub(crate) fn wake_in_step(&mut self) {
        for op in std::mem::take(&mut self.waiting.by_step) {
            self.go_on(op);
        }
    }

    /// Answers those who waited too long, so that their hosts retry or turn to another path.
    pub(crate) fn expire(&mut self, now: Now) {
        while let Some((deadline, op)) = self.waiting.deadlines.first().copied() {
            if deadline > now.mono {
                break;
            }
            self.waiting.deadlines.pop_first();
            let Some(waiter) = self.waiting.ops.get(&op) else { continue };
            let (before, stage) = (waiter.on_its_way, waiter.stage);
            let on_its_way = self.on_its_way(stage);
            if !(before && on_its_way) {
                if let Some(waiter) = self.waiting.ops.get_mut(&op) {
                    waiter.on_its_way = on_its_way;
                    waiter.deadline = now.mono + self.config.wait_max;
                    self.waiting.deadlines.insert((waiter.deadline, op));
                }
                continue;
            }
            // It stays findable by what it waits for, which finds no waiter any more and does nothing.
            let outcome = match self.waiting.ops.remove(&op).map(|waiter| waiter.then) {
                Some(Then::Verdict { stamp, .. }) => {
                    self.order.forget(stamp);
                    Outcome::Busy
                }
                Some(Then::Inspect { .. }) => Outcome::Busy,
                Some(Then::Done | Then::Leave { .. } | Then::Serve { .. } | Then::Read { .. }) | None => {
                    Outcome::NotReady
                }
            };
            self.refuse(op, outcome);
        }
        let ids: Vec<VolumeId> = self.volumes.keys().copied().collect();
        for id in ids {
            let outcome = if self.serving(now, id) { Outcome::Busy } else { Outcome::NotReady };
            let draining = self.draining;
            let Some(volume) = self.volumes.get_mut(&id) else { continue };
            let mut refused = Vec::new();
            for door in volume.doors.each() {
                while door.front().is_some_and(|knock| draining || knock.deadline <= now.mono) {
                    refused.extend(door.pop_front());
                }
            }
            for Knock { op, wish, .. } in refused {
                // A request on the unit is not tied to this path: the host asks again here.
                let busy = matches!(wish, Wish::Control(_));
                self.refuse(op, if busy { Outcome::Busy } else { outcome });
            }
        }
    }

    /// Whether what waits for the peer left for it, or the line is down. Once this held for longer than a lease,
    /// the peer serves only with it: every answer to a heartbeat follows it on the line, and a new session begins with
    /// it. Only then may the host be told to try elsewhere; earlier, its next write there could be stamped below this
    /// one where the sites' clocks differ, be completed, and then be covered by this one.
    fn on_its_way(&self, stage: Stage) -> bool {
        !self.session.accepted() || stage.kept.max(stage.ack).is_none_or(|stamp| self.outbound.sent(stamp))
    }

    pub(crate) fn waiting_deadline(&self) -> u64 {
        let doors = self.volumes.values().flat_map(|volume| {
            let doors = &volume.doors;
            [doors.reads.front(), doors.writes.front(), doors.controls.front()].into_iter().flatten()
        });
        let waiting = self.waiting.deadlines.first().map(|(deadline, _)| *deadline);
        doors.map(|knock| knock.deadline).chain(waiting).min().unwrap_or(u64::MAX)
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
