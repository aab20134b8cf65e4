//! The cut: when both sites surely hold the same entries up to a time, both write them to their backing stores and
//! compare what they wrote (E1.7).
//!
//! A cut C is taken when the clock passes a whole interval, C is older than the hold time, the peer has promised that
//! nothing comes at or before C, it has every own entry up to C, and all of that is durable here. So late arrivals
//! cannot exist. What is written is the state *as of* C: a block that a newer, still held write covers is written too,
//! so that both backing stores are equal at C byte for byte, whichever newer writes each site has seen by then.
//!
//! Invariants: `destaged` only grows; entries leave the tables only after the stores were synced; digests of the same
//! slots are equal at both sites, or an alarm names cut, volume and range.

use crate::engine::{Action, DestagePiece, Engine, Severity};
use crate::held::{Held, HeldBody};
use crate::hold::{HoldTable, IndexedTable};
use crate::message::{Digest, DigestRow, Message};
use crate::mutant::{Mutant, planted};
use crate::units::*;
use std::collections::BTreeMap;

/// A volume is digested in at most this many regions of equal size.
const REGIONS_MAX: u64 = 256;
/// A region has at least this many blocks (64 MiB).
const REGION_BLOCKS_MIN: u64 = 131_072;
/// Rows in one digest message.
const ROWS_MAX: usize = 20_000;
/// A destage that failed is tried again after this, nanoseconds of monotonic time.
const RETRY_AFTER: u64 = 1_000_000_000;

/// Rows by slot for a contiguous run of slots `(from, to]`.
#[derive(Clone, Debug, Default)]
struct Rows {
    from: u64,
    to: u64,
    by_slot: BTreeMap<u64, Vec<DigestRow>>,
}

/// Where destaging stands.
#[derive(Clone, Debug)]
pub(crate) struct Cuts {
    /// The cut at which the backing stores stand.
    pub destaged: Stamp,
    /// The cut of the newest durable checkpoint: what the journal has given back. Room is counted by this one.
    pub recycled: Stamp,
    /// What checkpoints say: behind `destaged` only under a mutant.
    under_way: Option<Stamp>,
    pub count: u64,
    retry_at: u64,
    /// Why the last destage failed, until one succeeds.
    pub failing: Option<String>,
    own: Rows,
    peer: Option<Rows>,
    sent_to: u64,
    compared_to: u64,
    pub compared: Option<u64>,
    pub equal: u64,
    pub different: u64,
}

impl Cuts {
    pub(crate) fn new(destaged: Stamp) -> Cuts {
        Cuts {
            destaged,
            recycled: destaged,
            under_way: None,
            count: 0,
            retry_at: 0,
            failing: None,
            own: Rows::default(),
            peer: None,
            sent_to: 0,
            compared_to: 0,
            compared: None,
            equal: 0,
            different: 0,
        }
    }

    /// The cut that a checkpoint may state.
    pub(crate) fn destaged_written(&self) -> Stamp {
        if planted(Mutant::ForgetBeforeStoreSync) {
            return self.under_way.unwrap_or(self.destaged);
        }
        self.destaged
    }

    /// Wall time at which the next interval begins.
    pub(crate) fn next_boundary(&self, now: Now, every: u64) -> u64 {
        (now.wall / every + 1) * every
    }

    pub(crate) fn new_session(&mut self) {
        self.peer = None;
        self.sent_to = self.own.to;
    }
}

/// The interval that a time belongs to: cut k covers slots up to k.
fn slot(time: u64, hold: u64, every: u64) -> u64 {
    (time + hold).div_ceil(every)
}

fn mix(mut x: u64) -> u64 {
    // The finaliser of SplitMix64: every input bit changes half of the output bits.
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn entry_hash(stamp: Stamp, held: &Held) -> u64 {
    // Two units may make different things of a request: that is told where it happens, and changes no block.
    let shows = held.is_data() && held.fate.shows();
    let kind = match held.body {
        HeldBody::Data(_) => 1,
        HeldBody::Fill(_) => 2,
        HeldBody::Unmap => 3,
        HeldBody::Swap(_) => 4,
        HeldBody::Control(_) => 5,
    } | u64::from(shows) << 7;
    let words = [
        stamp.time,
        u64::from(stamp.site as u8) << 8 | kind,
        u64::from(held.volume.0) << 32 | u64::from(held.body_crc),
        held.extent.start().0,
        held.extent.blocks(),
        held.host.0,
    ];
    words.into_iter().fold(0x9e37_79b9_7f4a_7c15, |hash, word| mix(hash ^ word).wrapping_add(word))
}

impl Engine {
    /// Takes a cut if one is due and complete.
    pub(crate) fn try_cut(&mut self, now: Now) {
        if self.cuts.under_way.is_some() || now.mono < self.cuts.retry_at {
            return;
        }
        let (hold, every) = (self.config.hold_time, self.config.hold_every);
        let Some(mut limit) = now.wall.checked_sub(hold) else { return };
        limit = limit.min(self.clock.promise(now));
        if let Some(stamp) = self.session.resume_from {
            // Beyond this, own entries may be lost and not back yet. Only where they find no room is that far cut.
            if !self.inbound.deaf() {
                return;
            }
            limit = limit.min(stamp.time);
        }
        if !self.inbound.deaf() && self.recovered_is_open() {
            return;
        }
        if !planted(Mutant::DestageBeforePromise) {
            limit = limit.min(self.outbound.peer_promise.time);
        }
        if !planted(Mutant::DestageBeforeAck) {
            let own = &self.entries[self.config.site.index()];
            let unacked = own
                .range((std::ops::Bound::Excluded(self.outbound.acked), std::ops::Bound::Unbounded))
                .next();
            limit = limit.min(unacked.map_or(u64::MAX, |(stamp, _)| stamp.time - 1));
        }
        // What is not executed yet is not known to be part of the image.
        for volume in self.volumes.values() {
            let first = volume.ledger.pending.first_key_value();
            limit = limit.min(first.map_or(u64::MAX, |(stamp, _)| stamp.time - 1));
        }
        for volatile in &self.volatile {
            limit = limit.min(volatile.front().map_or(u64::MAX, |(_, stamp)| stamp.time - 1));
        }
        let number = (limit + hold) / every;
        let Some(time) = (number * every).checked_sub(hold) else { return };
        if time <= self.cuts.destaged.time {
            return;
        }
        let cut = Stamp::last_of(time);
        if !self.verdicts_recorded(cut) {
            return;
        }
        self.cuts.under_way = Some(cut);
        let pieces = self.plan(cut);
        if pieces.is_empty() {
            self.handle_destaged(now, cut, Ok(()));
        } else {
            self.order(Action::Destage { cut, pieces });
        }
    }

    /// Whether something that recovery found is not acked or not executed yet. The run before may have begun to destage
    /// beyond it, and what that left on the store is the image of no earlier cut: none is taken.
    fn recovered_is_open(&self) -> bool {
        let recovered = |stamp: &Stamp| {
            let held = self.entries[stamp.site.index()].get(stamp);
            held.is_some_and(|held| held.append == AppendSeq(0))
        };
        let own = &self.entries[self.config.site.index()];
        let mut unacked =
            own.range((std::ops::Bound::Excluded(self.outbound.acked), std::ops::Bound::Unbounded));
        // They are the oldest of the own ones.
        let unheard = unacked.next().is_some_and(|(stamp, _)| recovered(stamp));
        unheard || self.volumes.values().any(|volume| volume.ledger.pending.keys().any(recovered))
    }

    /// The state as of `cut`, where it differs from the backing stores.
    fn plan(&self, cut: Stamp) -> Vec<DestagePiece> {
        let mut tables: BTreeMap<VolumeId, IndexedTable> = BTreeMap::new();
        for entries in &self.entries {
            let shown = entries.range(..=cut).filter(|(_, held)| held.fate.shows() && held.is_data());
            for (stamp, held) in shown {
                tables.entry(held.volume).or_default().insert(*stamp, held.extent, &mut |_, _| {});
            }
        }
        let mut pieces = Vec::new();
        for (volume, table) in tables {
            let mut found: Vec<_> = table.records();
            found.sort_unstable_by_key(|(_, extent)| *extent);
            pieces.extend(found.into_iter().map(|(stamp, extent)| DestagePiece { volume, extent, stamp }));
        }
        pieces
    }

    /// An [`Action::Destage`] ended: every piece is written and synced, or something failed.
    pub fn handle_destaged(&mut self, now: Now, cut: Stamp, result: Result<(), String>) {
        if self.cuts.under_way.take() != Some(cut) {
            return;
        }
        if let Err(why) = result {
            self.cuts.retry_at = now.mono + RETRY_AFTER;
            if self.cuts.failing.replace(why.clone()).is_none() {
                let text = format!(
                    "destage of cut {cut} failed; nothing is lost, it is tried again every second, and the journal \
                     fills meanwhile: {why}"
                );
                self.notice(Severity::Alarm, text);
            }
            return;
        }
        if self.cuts.failing.take().is_some() {
            self.notice(Severity::Info, format!("destage works again, at cut {cut}"));
        }
        let rows = self.fold(cut);
        self.settle_base(cut);
        let retired = self.retire(cut);
        self.cuts.destaged = cut;
        self.cuts.count += 1;
        self.publish(cut, rows);
        if retired > 0 {
            self.order(Action::Checkpoint);
        }
        self.pump_doors(now);
        self.try_cut(now);
    }

    /// A checkpoint with this cut is durable and the journal has given back what lay before it: there is room again,
    /// here and, as the next ack tells, for the peer.
    pub fn handle_recycled(&mut self, now: Now, destaged: Stamp) {
        if destaged <= self.cuts.recycled {
            return;
        }
        self.cuts.recycled = destaged;
        self.outbound.uncharge(destaged.min(self.outbound.peer_destaged));
        self.session.ack_owed = true;
        self.pump_doors(now);
    }

    fn retire(&mut self, cut: Stamp) -> usize {
        let mut retired = 0;
        for origin in SiteId::BOTH {
            while let Some(first) = self.entries[origin.index()].first_entry() {
                if *first.key() > cut {
                    break;
                }
                let (stamp, held) = first.remove_entry();
                if let Some(Some(bytes)) = held.body.bytes() {
                    self.hold_bytes -= bytes.len() as u64;
                }
                self.held_charges[origin.index()] -= held.charge();
                if let Some(volume) = self.volumes.get_mut(&held.volume) {
                    volume.table.retire(stamp, held.extent);
                }
                self.session.dropped[origin.index()] = stamp;
                retired += 1;
            }
        }
        while self.evictable.front().is_some_and(|stamp| !self.knows(*stamp)) {
            self.evictable.pop_front();
        }
        retired
    }

    /// Folds the entries up to the cut into digest rows.
    fn fold(&self, cut: Stamp) -> Vec<DigestRow> {
        let mut sums: BTreeMap<(u64, VolumeId, u64), (u64, u64)> = BTreeMap::new();
        for entries in &self.entries {
            for (stamp, held) in entries.range(..=cut) {
                let slot = slot(stamp.time, self.config.hold_time, self.config.hold_every);
                let region = held.extent.start().0 / self.region_blocks(held.volume);
                let sum = sums.entry((slot, held.volume, region)).or_default();
                *sum = (sum.0 + 1, sum.1.wrapping_add(entry_hash(*stamp, held)));
            }
        }
        let row = |((slot, volume, region), (entries, sum)): ((u64, VolumeId, u64), (u64, u64))| {
            let (size, blocks) = (self.region_blocks(volume), self.volumes.get(&volume)?.geometry.blocks);
            let region = Extent::between(Lba(region * size), Lba(((region + 1) * size).min(blocks)))?;
            Some(DigestRow { slot, volume, region, entries, sum })
        };
        sums.into_iter().filter_map(row).collect()
    }

    fn region_blocks(&self, volume: VolumeId) -> u64 {
        let blocks = self.volumes.get(&volume).map_or(1, |volume| volume.geometry.blocks);
        blocks.div_ceil(REGIONS_MAX).max(REGION_BLOCKS_MIN)
    }

    fn slot_of_cut(&self, cut: Stamp) -> u64 {
        slot(cut.time, self.config.hold_time, self.config.hold_every)
    }

    /// Keeps the rows for comparison and sends them to the peer.
    fn publish(&mut self, cut: Stamp, rows: Vec<DigestRow>) {
        let to = self.slot_of_cut(cut);
        if self.cuts.count == 1 {
            // Slots before the first cut of this run were (partly) destaged by an earlier run.
            self.cuts.own.from = to;
            self.cuts.own.to = to;
            self.cuts.sent_to = to;
            return;
        }
        self.cuts.own.to = to;
        for row in rows {
            self.cuts.own.by_slot.entry(row.slot).or_default().push(row);
        }
        self.send_digests();
        self.compare();
    }

    fn send_digests(&mut self) {
        if !self.session.accepted() || self.cuts.sent_to >= self.cuts.own.to {
            return;
        }
        let (hold, every) = (self.config.hold_time, self.config.hold_every);
        let cut_of = |slot: u64| Stamp::last_of((slot * every).saturating_sub(hold));
        let (from, to) = (cut_of(self.cuts.sent_to), cut_of(self.cuts.own.to));
        let rows: Vec<DigestRow> = self
            .cuts
            .own
            .by_slot
            .range(self.cuts.sent_to + 1..)
            .flat_map(|(_, rows)| rows)
            .copied()
            .collect();
        // All but the last message bring rows only; the last one says how far they go.
        let mut chunks: Vec<Vec<DigestRow>> = rows.chunks(ROWS_MAX).map(<[DigestRow]>::to_vec).collect();
        let last = chunks.pop().unwrap_or_default();
        let mut messages: Vec<Digest> =
            chunks.into_iter().map(|rows| Digest { from, to: from, rows }).collect();
        messages.push(Digest { from, to, rows: last });
        self.cuts.sent_to = self.cuts.own.to;
        for digest in messages {
            self.order(Action::Send(Message::Digest(digest)));
        }
    }

    /// The peer destaged.
    pub(crate) fn handle_digest(&mut self, digest: Digest) {
        let (from, to) = (self.slot_of_cut(digest.from), self.slot_of_cut(digest.to));
        let joined = self.cuts.peer.take().filter(|rows| rows.to == from);
        let mut peer = joined.unwrap_or(Rows { from, to: from, by_slot: BTreeMap::new() });
        peer.to = to.max(from);
        for row in digest.rows {
            peer.by_slot.entry(row.slot).or_default().push(row);
        }
        self.cuts.peer = Some(peer);
        self.compare();
    }

    fn compare(&mut self) {
        let Some(peer) = &mut self.cuts.peer else {
            // Nobody to compare with: keep no rows that can never be compared.
            self.forget_rows_before(self.cuts.own.to.saturating_sub(64));
            return;
        };
        let own = &mut self.cuts.own;
        let from = own.from.max(peer.from).max(self.cuts.compared_to);
        let to = own.to.min(peer.to);
        if from >= to {
            return;
        }
        let (hold, every) = (self.config.hold_time, self.config.hold_every);
        let mut found = Vec::new();
        for slot in
            own.by_slot.range(from + 1..=to).chain(peer.by_slot.range(from + 1..=to)).map(|(slot, _)| *slot)
        {
            let mut rows: [Vec<DigestRow>; 2] =
                [&own.by_slot, &peer.by_slot].map(|rows| rows.get(&slot).cloned().unwrap_or_default());
            rows.iter_mut().for_each(|rows| rows.sort_unstable());
            let [ours, theirs] = rows;
            let only = |some: &[DigestRow], others: &[DigestRow]| -> Vec<DigestRow> {
                some.iter().filter(|row| !others.contains(row)).copied().collect()
            };
            found.extend(only(&ours, &theirs).into_iter().chain(only(&theirs, &ours)));
        }
        found.sort_unstable();
        found.dedup_by_key(|row| (row.slot, row.volume, row.region));
        self.cuts.compared_to = to;
        self.cuts.compared = Some((to * every).saturating_sub(hold));
        if found.is_empty() {
            self.cuts.equal += 1;
        }
        self.cuts.different += found.len() as u64;
        for row in found {
            let name = self.volumes.get(&row.volume).map_or("?", |volume| volume.geometry.name.as_str());
            let cut = Stamp::last_of((row.slot * every).saturating_sub(hold));
            let text = format!(
                "THE COPIES DIFFER: at cut {cut} the sites destaged different writes to volume {name}, blocks {}",
                row.region
            );
            self.notice(Severity::Alarm, text);
        }
        self.forget_rows_before(to);
    }

    fn forget_rows_before(&mut self, slot: u64) {
        self.cuts.own.by_slot = self.cuts.own.by_slot.split_off(&(slot + 1));
        self.cuts.own.from = self.cuts.own.from.max(slot);
        if let Some(peer) = &mut self.cuts.peer {
            peer.by_slot = peer.by_slot.split_off(&(slot + 1));
        }
    }
}
