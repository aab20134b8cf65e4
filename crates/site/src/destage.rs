//! Destage: carries out a cut that the engine ordered (E1.7). Pieces are written in order of block, a few disk orders
//! at a time; then every touched store is synced; only then is the engine told. A large cut is written and synced in
//! bites, so that the journal, which may be on the same disk, never queues behind all of it.
//!
//! Until then hosts go on reading these blocks from the hold table, and store reads that began before the destage are
//! let finish first, so that no read ever sees half of a block's old and half of its new bytes.

use crate::read::filled;
use crate::site::{Errand, Site};
use biplex_engine::engine::{DestagePiece, JournalPiece, Source};
use biplex_engine::mutant::{Mutant, planted};
use biplex_engine::{BLOCK_BYTES, Extent, Now, Stamp, VolumeId};
use biplex_store::{Device, DiskError, DiskOp, DiskTicket};
use bytes::Bytes;
use std::collections::{BTreeSet, VecDeque};

/// Disk orders of a destage under way at a time.
const ORDERS_MAX: usize = 16;
/// Neighbouring pieces are joined into writes of up to this many bytes.
const WRITE_BYTES_MAX: u64 = 1 << 20;
/// So much is written before it is synced. A sync of all of a cut at once would fill the disk's queue for tens of
/// milliseconds, and every host's write waits for the journal behind it. Scattered blocks fill it by their number.
const BITE_BYTES_MAX: u64 = 2 << 20;
const BITE_WRITES_MAX: usize = 128;

/// What of a destage is synced at a time.
#[derive(Default)]
struct Bite {
    bytes: u64,
    writes: usize,
}

impl Bite {
    fn is_full(&self) -> bool {
        self.bytes >= BITE_BYTES_MAX || self.writes >= BITE_WRITES_MAX
    }
}

/// A destage under way.
pub(crate) struct Destager {
    cut: Stamp,
    pieces: VecDeque<DestagePiece>,
    /// Store reads that began before.
    readers: BTreeSet<DiskTicket>,
    under_way: usize,
    /// What was written since the last sync, and where.
    bite: Bite,
    touched: BTreeSet<VolumeId>,
    syncing: bool,
    error: Option<String>,
}

impl Site {
    pub(crate) fn start_destage(&mut self, now: Now, cut: Stamp, pieces: Vec<DestagePiece>) {
        self.destager = Some(Destager {
            cut,
            pieces: pieces.into(),
            readers: self.store_reads.clone(),
            under_way: 0,
            bite: Bite::default(),
            touched: BTreeSet::new(),
            syncing: false,
            error: None,
        });
        self.pump_destage(now);
    }

    pub(crate) fn destage_after_read(&mut self, now: Now, ticket: DiskTicket) {
        if self.destager.as_mut().is_some_and(|destager| destager.readers.remove(&ticket)) {
            self.pump_destage(now);
        }
    }

    fn pump_destage(&mut self, now: Now) {
        loop {
            let Some(destager) = &mut self.destager else { return };
            if !destager.readers.is_empty() || destager.under_way >= ORDERS_MAX {
                return;
            }
            if destager.error.is_some() {
                destager.pieces.clear();
            }
            if destager.bite.is_full() {
                break;
            }
            let Some(piece) = destager.pieces.pop_front() else { break };
            destager.touched.insert(piece.volume);
            self.destage_piece(piece);
        }
        let Some(destager) = &mut self.destager else { return };
        if destager.under_way > 0 {
            return;
        }
        if destager.error.is_none() && !destager.syncing && !planted(Mutant::ForgetBeforeStoreSync) {
            destager.syncing = true;
            let touched: Vec<VolumeId> = destager.touched.iter().copied().collect();
            destager.under_way = touched.len();
            for volume in touched {
                self.order_disk(
                    DiskOp::Sync { device: Device::Volume(volume) },
                    Errand::DestageSync { volume },
                );
            }
            return;
        }
        if !destager.pieces.is_empty() && destager.error.is_none() {
            // A bite is on the medium: on to the next one.
            (destager.bite, destager.syncing) = (Bite::default(), false);
            destager.touched.clear();
            return self.pump_destage(now);
        }
        if let Some(Destager { cut, error, .. }) = self.destager.take() {
            self.engine.handle_destaged(now, cut, error.map_or(Ok(()), Err));
        }
    }

    fn destage_piece(&mut self, piece: DestagePiece) {
        let DestagePiece { volume, extent, stamp } = piece;
        match self.engine.source(stamp, extent) {
            Source::Memory(bytes) => {
                let (mut run, mut data) = (extent, vec![bytes]);
                while let Some((next, bytes)) = self.joinable(volume, run) {
                    run = Extent::between(run.start(), next.end()).expect("a run grows");
                    data.push(bytes);
                }
                self.write_store(volume, run, data);
            }
            Source::Fill(block) => {
                let most = WRITE_BYTES_MAX / BLOCK_BYTES;
                let mut start = extent.start().0;
                while start < extent.end().0 {
                    let blocks = most.min(extent.end().0 - start);
                    let part = Extent::new(biplex_engine::Lba(start), blocks).expect("within the piece");
                    self.write_store(volume, part, filled(&block, blocks));
                    start += blocks;
                }
            }
            Source::Zero => {
                let order = DiskOp::Zero {
                    device: Device::Volume(volume),
                    offset: extent.start().bytes(),
                    len: extent.bytes(),
                };
                self.count_order();
                self.order_disk(order, Errand::DestageWrite { volume, bytes: 0 });
            }
            Source::Journal(piece) => {
                let skip = self.journal_read_skip(piece);
                self.count_order();
                self.read_journal(piece, Errand::DestageRead { volume, extent, piece, skip });
            }
            Source::Store => {}
        }
    }

    /// The next piece, if it is in memory and follows the run on its volume within the size of one write.
    fn joinable(&mut self, volume: VolumeId, run: Extent) -> Option<(Extent, Bytes)> {
        let destager = self.destager.as_mut()?;
        let next = *destager.pieces.front()?;
        let follows = next.volume == volume && next.extent.start() == run.end();
        if !follows || run.bytes() + next.extent.bytes() > WRITE_BYTES_MAX {
            return None;
        }
        let Source::Memory(bytes) = self.engine.source(next.stamp, next.extent) else { return None };
        self.destager.as_mut()?.pieces.pop_front();
        Some((next.extent, bytes))
    }

    fn count_order(&mut self) {
        if let Some(destager) = &mut self.destager {
            destager.under_way += 1;
        }
    }

    fn write_store(&mut self, volume: VolumeId, extent: Extent, data: Vec<Bytes>) {
        self.count_order();
        if let Some(destager) = &mut self.destager {
            destager.bite.bytes += extent.bytes();
            destager.bite.writes += 1;
        }
        let order = DiskOp::Write { device: Device::Volume(volume), offset: extent.start().bytes(), data };
        self.order_disk(order, Errand::DestageWrite { volume, bytes: extent.bytes() });
    }

    pub(crate) fn destage_read_done(
        &mut self,
        now: Now,
        volume: VolumeId,
        extent: Extent,
        piece: JournalPiece,
        body: Result<Bytes, String>,
    ) {
        if let Some(destager) = &mut self.destager {
            destager.under_way -= 1;
        }
        match body {
            Ok(body) => {
                let (from, to) = (piece.skip as usize, (piece.skip + piece.bytes) as usize);
                self.write_store(volume, extent, vec![body.slice(from..to)]);
            }
            Err(why) => self.destage_failed(format!("blocks {extent} of volume {volume}: {why}")),
        }
        self.pump_destage(now);
    }

    pub(crate) fn destage_write_done(
        &mut self,
        now: Now,
        volume: VolumeId,
        bytes: u64,
        result: Result<(), DiskError>,
    ) {
        if let Some(destager) = &mut self.destager {
            destager.under_way -= 1;
        }
        self.lives.entry(volume).or_default().destaged_bytes += bytes;
        if let Err(error) = result {
            self.volume_error(volume, format!("writing at destage: {error}"));
            self.destage_failed(error.to_string());
        }
        self.pump_destage(now);
    }

    pub(crate) fn destage_sync_done(&mut self, now: Now, volume: VolumeId, result: Result<(), DiskError>) {
        if let Some(destager) = &mut self.destager {
            destager.under_way -= 1;
        }
        if let Err(error) = result {
            // Unknown what is on the medium: all of the cut is written again.
            self.volume_error(volume, format!("syncing at destage: {error}"));
            self.destage_failed(error.to_string());
        }
        self.pump_destage(now);
    }

    fn destage_failed(&mut self, why: String) {
        if let Some(destager) = &mut self.destager {
            destager.error.get_or_insert(why);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::read::{filled, zeros};
    use bytes::Bytes;

    #[test]
    fn fills_and_zeros_have_the_asked_length() {
        let block = Bytes::from(vec![7u8; 512]);
        for blocks in [1u64, 127, 128, 129, 300] {
            let total: usize = filled(&block, blocks).iter().map(Bytes::len).sum();
            assert_eq!(total as u64, blocks * 512);
            assert_eq!(zeros(blocks * 512).iter().map(Bytes::len).sum::<usize>() as u64, blocks * 512);
        }
    }
}
