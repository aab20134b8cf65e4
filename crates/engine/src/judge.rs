//! Entries whose effect depends on their place in the order: COMPARE AND WRITE, and writes that a reservation undoes.
//!
//! Both are judged when their turn comes ([`crate::control`]), by the state *as of* their stamp, so at both sites
//! alike. A swap does not show before it is judged, and whoever reads its blocks meanwhile waits: its origin shows it
//! only after this site's ack, so a read that was asked before may miss it, one that was asked later waits for it.
//!
//! A verdict is written into the journal before a destage may cover it: a destage that a crash cuts off half-way
//! leaves later bytes on the store, and a swap judged by those would be judged otherwise than before.

use crate::control::Turn;
use crate::engine::{Action, Engine, Mode, OpId, Outcome, Severity, Source, SourcePiece};
use crate::entry::{Body, Entry};
use crate::held::{Fate, HeldBody};
use crate::hold::{HoldTable, IndexedTable, Piece};
use crate::hosts::{Stage, Then, Wish};
use crate::mutant::{Mutant, planted};
use crate::reserve::{Access, Verdict};
use crate::units::*;
use bytes::Bytes;

/// Blocks that could not be read for judging are read again after this, nanoseconds of monotonic time.
const RETRY_AFTER: u64 = 1_000_000_000;
/// How many undone writes are remembered for showing.
const DISCARDS_KEPT: usize = 1024;

/// A host's COMPARE AND WRITE (SBC-3 5.2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostSwap {
    /// The blocks.
    pub extent: Extent,
    /// What they must hold, then what they become.
    pub bytes: Bytes,
    /// CRC-32C of `bytes`.
    pub crc: u32,
}

/// A write that was undone at both sites because a reservation of an earlier stamp forbade it (E4.1). Its bytes stay
/// in the journal until the cut has passed it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Discard {
    /// Counts from 1 in each run.
    pub number: u64,
    /// The volume.
    pub volume: VolumeId,
    /// The blocks.
    pub extent: Extent,
    /// Who wrote.
    pub nexus: Nexus,
    /// The write's stamp.
    pub stamp: Stamp,
    /// Since when the reservation stands that forbade it.
    pub since: Option<Stamp>,
    /// Where the write's bytes lie in this site's journal.
    pub pos: Option<JournalPos>,
}

impl Engine {
    /// A host wants to compare and write. The extent lies within the volume.
    pub fn handle_swap(&mut self, now: Now, op: OpId, id: VolumeId, nexus: Nexus, swap: HostSwap) {
        let Some(volume) = self.volumes.get(&id) else {
            return self.refuse(op, Outcome::NotReady);
        };
        if volume.rules.mode != Mode::Sync && !volume.rules.swaps {
            return self.refuse(op, Outcome::NotSupported);
        }
        self.knock_control(now, op, id, nexus, Wish::Swap(swap));
    }

    /// Lets a swap in, or gives it back if there is no room or no stamp for it.
    pub(crate) fn admit_swap(
        &mut self,
        now: Now,
        op: OpId,
        id: VolumeId,
        nexus: Nexus,
        swap: HostSwap,
        deadline: u64,
    ) -> Option<HostSwap> {
        let body = Body::Swap(swap.bytes.clone());
        if !self.ready_for(now, self.charge_of(id, &body), 1) {
            return Some(swap);
        }
        let Some(volume) = self.volumes.get_mut(&id) else { return Some(swap) };
        if !volume.ledger.allows(nexus, Access::Write, Some(swap.extent)) {
            self.refuse(op, Outcome::Conflict);
            return None;
        }
        volume.counters.writes += 1;
        volume.counters.written_bytes += swap.extent.bytes();
        let (append, stamp) = self.issue(now, id, nexus, swap.extent, body, swap.crc);
        self.order.ask(stamp);
        self.pump_outbound();
        let stage = Stage { append, ack: Some(stamp), turn: Some((id, stamp)), ..Stage::default() };
        self.wait(op, stage, Then::Verdict { volume: id, stamp, claim: None, first: None }, deadline);
        None
    }

    /// The newest known swap on these blocks that is not judged.
    pub(crate) fn undecided(&self, id: VolumeId, extent: Extent) -> Option<Stamp> {
        let pending = self.volumes.get(&id)?.ledger.pending.iter().rev();
        let mut swaps = pending.filter(|(_, turn)| **turn == Turn::Swap).map(|(stamp, _)| *stamp);
        swaps.find(|stamp| {
            let held = self.entries[stamp.site.index()].get(stamp);
            held.is_some_and(|held| held.extent.overlaps(extent))
        })
    }

    /// A swap's turn has come. True if it is judged already; else its blocks are read first.
    pub(crate) fn judge_swap(&mut self, now: Now, id: VolumeId, stamp: Stamp) -> bool {
        if self.order.retry_at.is_some_and(|at| now.mono < at) {
            return false;
        }
        let Some(held) = self.entries[stamp.site.index()].get(&stamp) else { return true };
        let (extent, nexus) = (held.extent, held.nexus(stamp.site));
        let Some(volume) = self.volumes.get(&id) else { return true };
        let pieces = self.as_of(id, extent, stamp);
        let rests_on = self.newest_own(&pieces);
        if let Some(found) = self.order.found.remove(&stamp) {
            let difference = match found {
                Verdict::Done => None,
                Verdict::Miscompare { offset } => Some(offset),
                // A reservation forbade it.
                _ => Some(0),
            };
            self.decide(id, stamp, difference, rests_on);
            self.order.unrecorded.remove(&stamp);
            return true;
        }
        if volume.rules.discard && !volume.ledger.live.allows(nexus, Access::Write, Some(extent)) {
            self.set_fate(stamp, Fate::Missed);
            self.order.decided(stamp, Verdict::Conflict);
            self.order.unrecorded.insert(stamp, Verdict::Conflict);
            return true;
        }
        let compare = self.compared(held);
        let source = |piece: Piece| SourcePiece {
            extent: piece.extent,
            source: piece.stamp.map_or(Source::Store, |stamp| self.source(stamp, piece.extent)),
        };
        let pieces = pieces.into_iter().map(source).collect();
        if let Some(volume) = self.volumes.get_mut(&id) {
            volume.ledger.judging = Some((stamp, rests_on));
        }
        self.order(Action::Judge { stamp, volume: id, compare, pieces });
        false
    }

    /// The newest pieces of `extent` among what is stamped before `stamp`.
    fn as_of(&self, id: VolumeId, extent: Extent, stamp: Stamp) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let Some(volume) = self.volumes.get(&id) else { return pieces };
        volume.table.lookup(extent, &mut pieces);
        let newer = pieces.iter().any(|piece| piece.stamp.is_some_and(|of| of > stamp));
        if newer && !planted(Mutant::JudgeNewest) {
            let mut table = IndexedTable::new();
            for entries in &self.entries {
                for (of, held) in entries.range(..stamp) {
                    let matters = held.volume == id && held.is_data() && held.fate.shows();
                    if matters && held.extent.overlaps(extent) {
                        table.insert(*of, held.extent, &mut |_, _| {});
                    }
                }
            }
            table.lookup(extent, &mut pieces);
        }
        pieces
    }

    /// The newest own entry that a verdict on these pieces rests on.
    fn newest_own(&self, pieces: &[Piece]) -> Option<Stamp> {
        let own = self.config.site;
        let of = |stamp: Stamp| match self.entries[stamp.site.index()].get(&stamp).map(|held| held.fate) {
            _ if stamp.site == own => Some(stamp),
            Some(Fate::Matched { rests_on }) => rests_on,
            Some(Fate::Holds | Fate::Undecided | Fate::Missed | Fate::Discarded) | None => None,
        };
        pieces.iter().filter_map(|piece| piece.stamp).filter_map(of).max()
    }

    /// An [`Action::Judge`] ended: where the blocks differ first from what was compared, in bytes; `None` if they do
    /// not; or why they could not be read.
    pub fn handle_judged(
        &mut self,
        now: Now,
        id: VolumeId,
        stamp: Stamp,
        result: Result<Option<u64>, String>,
    ) {
        let Some(volume) = self.volumes.get_mut(&id) else { return };
        let Some((judged, rests_on)) = volume.ledger.judging.take() else { return };
        assert_eq!(judged, stamp, "one swap of a volume is judged at a time");
        match result {
            Ok(difference) => {
                volume.ledger.pending.remove(&stamp);
                self.decide(id, stamp, difference, rests_on);
                self.execute(now);
                self.wake_turns(id);
                self.pump_doors(now);
                self.try_cut(now);
            }
            Err(why) => {
                let name = volume.geometry.name.clone();
                self.order.retry_at = Some(now.mono + RETRY_AFTER);
                let text = format!(
                    "volume {name}: a COMPARE AND WRITE cannot be judged, its blocks cannot be read: {why}. It is \
                     tried again every second; until then nothing newer is destaged, and the journal fills"
                );
                self.notice(Severity::Alarm, text);
            }
        }
    }

    /// Tries again what could not be read.
    pub(crate) fn judge_again(&mut self, now: Now) {
        if self.order.retry_at.is_some_and(|at| at <= now.mono) {
            self.order.retry_at = None;
            self.execute(now);
        }
    }

    fn decide(&mut self, id: VolumeId, stamp: Stamp, difference: Option<u64>, rests_on: Option<Stamp>) {
        let Some(held) = self.entries[stamp.site.index()].get(&stamp) else { return };
        let extent = held.extent;
        let verdict = match difference {
            None => {
                self.set_fate(stamp, Fate::Matched { rests_on });
                self.show(stamp, id, extent);
                Verdict::Done
            }
            Some(offset) => {
                self.set_fate(stamp, Fate::Missed);
                Verdict::Miscompare { offset }
            }
        };
        self.order.decided(stamp, verdict);
        self.order.unrecorded.insert(stamp, verdict);
    }

    fn set_fate(&mut self, stamp: Stamp, fate: Fate) {
        if let Some(held) = self.entries[stamp.site.index()].get_mut(&stamp) {
            held.fate = fate;
        }
    }

    /// Whether all verdicts up to the cut are in the journal; if not, they are being written.
    pub(crate) fn verdicts_recorded(&mut self, cut: Stamp) -> bool {
        if planted(Mutant::ForgetVerdict) {
            return true;
        }
        let missing: Vec<(Stamp, Verdict)> =
            self.order.unrecorded.range(..=cut).map(|(stamp, verdict)| (*stamp, *verdict)).collect();
        for (stamp, verdict) in missing {
            self.order.unrecorded.remove(&stamp);
            self.record_verdict(stamp, verdict);
        }
        self.order.recording.iter().all(|(_, stamp)| *stamp > cut)
    }

    /// Writes into the journal what became of an entry.
    pub(crate) fn record_verdict(&mut self, stamp: Stamp, verdict: Verdict) {
        let Some(held) = self.entries[stamp.site.index()].get(&stamp) else { return };
        let record = Entry { body_crc: 0, ..held.entry(stamp, Body::Verdict(verdict)) };
        let append = self.append_next;
        self.append_next = AppendSeq(append.0 + 1);
        self.order.recording.push_back((append, stamp));
        self.order(Action::Append(record));
        self.hurry();
    }

    /// All appends up to this one are durable, verdicts among them. True if a cut waited for the last of them.
    pub(crate) fn recorded(&mut self, upto: AppendSeq) -> bool {
        let before = self.order.recording.len();
        while self.order.recording.front().is_some_and(|(append, _)| *append <= upto) {
            self.order.recording.pop_front();
        }
        before > 0 && self.order.recording.is_empty()
    }

    /// Recovery found what became of an entry.
    pub(crate) fn recover_verdict(&mut self, stamp: Stamp, verdict: Verdict) {
        if stamp > self.cuts.destaged {
            self.order.found.insert(stamp, verdict);
        }
    }

    /// A write's turn has come: if a reservation that stands at its stamp forbids it, it is undone (E4.1).
    pub(crate) fn weigh(&mut self, id: VolumeId, stamp: Stamp) {
        let Some(held) = self.entries[stamp.site.index()].get_mut(&stamp) else { return };
        let Some(volume) = self.volumes.get_mut(&id) else { return };
        let (nexus, extent, pos) = (held.nexus(stamp.site), held.extent, held.pos);
        let writes = matches!(held.body, HeldBody::Data(_) | HeldBody::Fill(_) | HeldBody::Unmap);
        if !writes || volume.ledger.live.allows(nexus, Access::Write, Some(extent)) {
            return;
        }
        held.fate = Fate::Discarded;
        volume.table.retire(stamp, extent);
        // What it covered shows again.
        let mut below: Vec<(Stamp, Extent)> = Vec::new();
        for entries in &self.entries {
            let others =
                entries.iter().filter(|(_, other)| other.volume == id && other.extent.overlaps(extent));
            let others = others.filter(|(_, other)| other.fate.shows() && other.is_data());
            below.extend(others.map(|(stamp, other)| (*stamp, other.extent)));
        }
        below.into_iter().for_each(|(stamp, extent)| volume.table.insert(stamp, extent, &mut |_, _| {}));
        let rows = volume.ledger.live.explain(extent.start());
        let name = volume.geometry.name.clone();
        self.order.discards_seen += 1;
        if self.order.discards.len() == DISCARDS_KEPT {
            self.order.discards.pop_front();
        }
        let since = rows.first().map(|row| row.since);
        let number = self.order.discards_seen;
        self.order.discards.push_back(Discard { number, volume: id, extent, nexus, stamp, since, pos });
        let text = format!(
            "volume {name}: the write {stamp} of blocks {extent} by {nexus} is undone, as \
             reserve_conflicting_writes = \"discard\" wants: the blocks were reserved before. Its bytes are in the \
             journal for now: `biplex discards`"
        );
        self.notice(Severity::Warning, text);
    }

    /// Writes undone in this run, numbered beyond `after`; the newest thousand are remembered.
    pub fn discards(&self, after: u64) -> Vec<Discard> {
        self.order.discards.iter().filter(|discard| discard.number > after).copied().collect()
    }
}
