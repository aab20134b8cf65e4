//! Looking at an engine from outside: what operators are shown and what checkers check. Changes nothing.

use crate::engine::{Conflict, Engine, VolumeCounters};
use crate::held::HeldBody;
use crate::hold::HoldTable;
use crate::reserve::Reservations;
use crate::units::*;

/// A row of the hold table: the seven columns of E1.3.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Reception time and site.
    pub stamp: Stamp,
    /// Who wrote.
    pub host: HostId,
    /// Which blocks the record still owns.
    pub extent: Extent,
    /// Where its data is.
    pub data: RowData,
    /// The volume.
    pub volume: VolumeId,
}

/// Where a row's data is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum RowData {
    Memory,
    Journal(JournalPos),
    Fill,
    Unmap,
}

/// The line and the stream, for status.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs)]
pub struct LinkView {
    pub accepted: bool,
    pub in_step: bool,
    pub resuming_own: bool,
    pub rtt: Option<u64>,
    pub offset: Option<i64>,
    pub sessions: u64,
    pub refused: Option<String>,
}

/// Cuts and digests, for status.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs)]
pub struct CutView {
    pub destaged: Stamp,
    pub cuts: u64,
    pub compared: Option<u64>,
    pub equal: u64,
    pub different: u64,
    pub failing: Option<String>,
}

impl Engine {
    /// The hold table of all volumes in order of stamp (E1.3).
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for (id, volume) in &self.volumes {
            for (stamp, extent) in volume.table.records() {
                let Some(held) = self.entries[stamp.site.index()].get(&stamp) else { continue };
                let data = match (&held.body, held.pos) {
                    (HeldBody::Data(None) | HeldBody::Swap(None), Some(pos)) => RowData::Journal(pos),
                    (HeldBody::Data(_) | HeldBody::Swap(_), _) => RowData::Memory,
                    (HeldBody::Fill(_), _) => RowData::Fill,
                    (HeldBody::Unmap, _) => RowData::Unmap,
                    (HeldBody::Control(_), _) => unreachable!("a request is in no table of blocks"),
                };
                rows.push(Row { stamp, host: held.host, extent, data, volume: *id });
            }
        }
        rows.sort_by_key(|row| (row.stamp, row.volume, row.extent));
        rows
    }

    /// Runs of held blocks of a volume: the ones of its block state map (E1.6).
    pub fn map(&self, volume: VolumeId) -> Option<Vec<Extent>> {
        Some(self.volumes.get(&volume)?.table.map())
    }

    /// Records in a volume's hold table, blocks that they cover, and counters.
    pub fn volume_view(&self, volume: VolumeId) -> Option<(u64, u64, VolumeCounters)> {
        let volume = self.volumes.get(&volume)?;
        Some((volume.table.record_count() as u64, volume.table.held_blocks(), volume.counters))
    }

    /// A volume's reservations after all that is executed here.
    pub fn reservations(&self, volume: VolumeId) -> Option<&Reservations> {
        Some(&self.volumes.get(&volume)?.ledger.live)
    }

    /// Whether nothing of this volume waits to be decided in order.
    pub fn decided(&self, volume: VolumeId) -> bool {
        self.volumes.get(&volume).is_none_or(|volume| volume.ledger.pending.is_empty())
    }

    /// Whether no request on this volume is under way as far as this site knows: in step, those known here are executed,
    /// its own at the peer, too. Where both sites say so, they say the same of all requests.
    pub fn settled(&self, id: VolumeId) -> bool {
        let Some(volume) = self.volumes.get(&id) else { return true };
        let beyond = (std::ops::Bound::Excluded(self.outbound.acked), std::ops::Bound::Unbounded);
        let mut unacked = self.entries[self.config.site.index()].range(beyond);
        let request =
            |held: &crate::held::Held| held.volume == id && matches!(held.body, HeldBody::Control(_));
        let nothing_owed = !self.requests_owed();
        self.session.in_step()
            && nothing_owed
            && !volume.ledger.pending.values().any(|turn| *turn == crate::control::Turn::Control)
            && !unacked.any(|(_, held)| request(held))
    }

    /// Held payload in memory, bytes.
    pub fn hold_bytes(&self) -> u64 {
        self.hold_bytes
    }

    /// Held entries of both origins that say something of blocks.
    pub fn held_entries(&self) -> usize {
        self.entries.iter().flat_map(|entries| entries.values()).filter(|held| held.is_data()).count()
    }

    /// Commands let in and not answered.
    pub fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    /// The line and the stream.
    pub fn link_view(&self) -> LinkView {
        LinkView {
            accepted: self.session.accepted(),
            in_step: self.session.in_step(),
            resuming_own: self.session.resume_from.is_some(),
            rtt: self.session.rtt,
            offset: self.session.offset,
            sessions: self.session.sessions,
            refused: self.session.refused.clone(),
        }
    }

    /// Cuts and digests.
    pub fn cut_view(&self) -> CutView {
        CutView {
            destaged: self.cuts.destaged,
            cuts: self.cuts.count,
            compared: self.cuts.compared,
            equal: self.cuts.equal,
            different: self.cuts.different,
            failing: self.cuts.failing.clone(),
        }
    }

    /// The clock's reading, nanoseconds.
    pub fn clock_reading(&self, now: Now) -> u64 {
        self.clock.reading(now)
    }

    /// Conflicts between the sites' writes numbered beyond `after`, oldest first; the newest few are remembered.
    pub fn conflicts(&self, after: u64) -> Vec<Conflict> {
        self.conflicts.iter().filter(|conflict| conflict.number > after).copied().collect()
    }

    /// Checks what can be judged from within (invariants 1, 8, 9). Linear in what is held: for checkers.
    pub fn check(&self) -> Result<(), String> {
        let mut bytes = 0;
        for entries in &self.entries {
            for (stamp, held) in entries {
                if *stamp <= self.cuts.destaged {
                    return Err(format!("entry {stamp} is held though destaged at {}", self.cuts.destaged));
                }
                if let Some(Some(data)) = held.body.bytes() {
                    bytes += data.len() as u64;
                    if data.len() as u64 != u64::from(held.body_bytes()) {
                        return Err(format!("entry {stamp} holds {} bytes for {}", data.len(), held.extent));
                    }
                }
            }
        }
        if bytes != self.hold_bytes {
            return Err(format!("hold buffer counts {} bytes and has {bytes}", self.hold_bytes));
        }
        for (id, volume) in &self.volumes {
            volume.table.check()?;
            for (stamp, extent) in volume.table.records() {
                let held = self.entries[stamp.site.index()].get(&stamp);
                let fits = |held: &crate::held::Held| {
                    held.volume == *id && held.extent.contains(extent) && held.fate.shows()
                };
                if !held.is_some_and(fits) {
                    return Err(format!("volume {id}: record {stamp} {extent} has no entry behind it"));
                }
            }
            self.check_newest(*id)?;
            volume.ledger.base.check()?;
            volume.ledger.live.check()?;
        }
        Ok(())
    }

    /// Every block of the table shows the greatest stamp of all held entries on it, and every held block shows.
    fn check_newest(&self, id: VolumeId) -> Result<(), String> {
        let Some(volume) = self.volumes.get(&id) else { return Ok(()) };
        let mut pieces = Vec::new();
        for entries in &self.entries {
            let shown = entries.iter().filter(|(_, held)| held.volume == id && held.fate.shows());
            for (stamp, held) in shown.filter(|(_, held)| held.is_data()) {
                volume.table.lookup(held.extent, &mut pieces);
                if let Some(piece) =
                    pieces.iter().find(|piece| piece.stamp.is_none_or(|shown| shown < *stamp))
                {
                    return Err(format!(
                        "volume {id}: blocks {} show {:?} though {stamp} is newer",
                        piece.extent, piece.stamp
                    ));
                }
            }
        }
        Ok(())
    }

    /// Limits that the engine keeps under any load (invariant 8).
    pub fn check_bounds(&self) -> Result<(), String> {
        let volatile: u64 = self
            .evictable
            .iter()
            .filter_map(|stamp| self.entries[stamp.site.index()].get(stamp))
            .filter(|held| held.append > self.append_durable)
            .map(|held| u64::from(held.body_bytes()))
            .sum();
        if self.hold_bytes > self.config.hold_memory + volatile {
            return Err(format!(
                "hold buffer has {} bytes, {volatile} of them not durable yet, limit {}",
                self.hold_bytes, self.config.hold_memory
            ));
        }
        let limit = self.own_limit();
        let again = self.outbound.charged_again();
        if self.outbound.charged() > limit.max(self.config.journal_usable / 2) + again {
            return Err(format!(
                "own entries occupy {} journal bytes, limit {limit}",
                self.outbound.charged()
            ));
        }
        Ok(())
    }
}
