//! A disk that keeps its promises and not one more.
//!
//! ```text
//! submit ──(delay)──▶ end: applied to `current`          crash: every unsynced sector independently becomes
//!                     Sync: versions that had ended      its durable bytes or any version written since;
//!                     when it was submitted → durable    orders under way: any subset of their sectors.
//! ```
//! Granularity is the 512-byte sector, which a real disk writes whole. Orders under way together end in any order.
//! A failed sync behaves as Linux does: what it should have made durable may be dropped from the cache's dirty set
//! while reads still show it, so that a later successful sync does not save it.

use crate::random::Random;
use biplex_store::{Disk, DiskError, DiskOp};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Bytes of a sector.
pub const SECTOR: usize = 512;

type Sector = [u8; SECTOR];

/// What becomes of an order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It ends well.
    Well,
    /// It fails; what it wrote is any subset of its sectors.
    Fail,
}

/// An order that was submitted and has not ended.
#[derive(Clone, Debug)]
struct UnderWay {
    op: DiskOp,
    fate: Fate,
    /// For a sync: versions up to this number had ended when it was submitted.
    ended: u64,
    /// For a read that sees the disk as it was when the order came.
    early: Option<Bytes>,
}

/// One disk.
#[derive(Clone, Debug)]
pub struct SimDisk {
    durable: Vec<u8>,
    current: Vec<u8>,
    /// Per sector, what was written since it was last durable, with the number of the write, oldest first.
    dirty: BTreeMap<u64, Vec<(u64, Sector)>>,
    under_way: BTreeMap<u64, UnderWay>,
    version: u64,
    random: Random,
    /// Orders through the blocking door after which it breaks, if a crash during recovery is wanted.
    break_after: Option<u64>,
}

impl SimDisk {
    /// A disk of `len` zeros.
    pub fn new(len: usize, random: Random) -> SimDisk {
        SimDisk {
            durable: vec![0; len],
            current: vec![0; len],
            dirty: BTreeMap::new(),
            under_way: BTreeMap::new(),
            version: 0,
            random,
            break_after: None,
        }
    }

    /// The bytes that a crash now could not take away, if nothing is dirty; dirty sectors show their old bytes.
    pub fn durable(&self) -> &[u8] {
        &self.durable
    }

    /// The bytes that a read sees.
    pub fn current(&self) -> &[u8] {
        &self.current
    }

    /// How many orders have not ended.
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Makes the blocking door fail after this many further writes and syncs: a crash in the middle of a recovery.
    pub fn break_after(&mut self, orders: Option<u64>) {
        self.break_after = orders;
    }

    /// Whether the blocking door has failed as [`SimDisk::break_after`] told it to.
    pub fn broken(&self) -> bool {
        self.break_after == Some(0)
    }

    /// Takes an order in. `Err` is an order that no site may give.
    pub fn submit(&mut self, id: u64, op: DiskOp, fate: Fate) -> Result<(), String> {
        self.judge(&op)?;
        let early = match &op {
            DiskOp::Read { offset, len, .. } if self.random.one_in(2) => Some(Bytes::copy_from_slice(
                &self.current[*offset as usize..*offset as usize + *len as usize],
            )),
            DiskOp::Read { .. }
            | DiskOp::Write { .. }
            | DiskOp::Zero { .. }
            | DiskOp::AppendDurable { .. }
            | DiskOp::Sync { .. } => None,
        };
        self.under_way.insert(id, UnderWay { op, fate, ended: self.version, early });
        Ok(())
    }

    /// Ends an order: its effect happens now.
    pub fn end(&mut self, id: u64) -> Result<Bytes, DiskError> {
        let order = self.under_way.remove(&id).expect("an order ends once, and only in the run that gave it");
        let failed = || Err(DiskError::new("simulated disk error".to_owned()));
        if order.fate == Fate::Fail {
            match &order.op {
                DiskOp::Read { .. } => {}
                DiskOp::Write { .. } | DiskOp::Zero { .. } | DiskOp::AppendDurable { .. } => {
                    self.apply_some(&order.op)
                }
                DiskOp::Sync { .. } => self.forget_some_dirt(order.ended),
            }
            return failed();
        }
        match order.op {
            DiskOp::Read { offset, len, .. } => {
                let (from, to) = (offset as usize, offset as usize + len as usize);
                Ok(order.early.unwrap_or_else(|| Bytes::copy_from_slice(&self.current[from..to])))
            }
            DiskOp::Write { .. } | DiskOp::Zero { .. } => {
                for (sector, bytes) in sectors(&order.op) {
                    self.write_sector(sector, bytes);
                }
                Ok(Bytes::new())
            }
            DiskOp::AppendDurable { .. } => {
                for (sector, bytes) in sectors(&order.op) {
                    self.write_durably(sector, bytes);
                }
                Ok(Bytes::new())
            }
            DiskOp::Sync { .. } => {
                self.make_durable(order.ended);
                Ok(Bytes::new())
            }
        }
    }

    /// Nobody waits for an order any more: some of it has happened, the rest never does.
    pub fn abandon(&mut self, id: u64) {
        if let Some(order) = self.under_way.remove(&id)
            && self.random.one_in(2)
        {
            self.apply_some(&order.op);
        }
    }

    /// Power goes: everything not synced is kept or lost, sector by sector. Nothing under way ends any more.
    pub fn crash(&mut self) {
        for (_, order) in std::mem::take(&mut self.under_way) {
            if self.random.one_in(2) {
                self.apply_some(&order.op);
            }
        }
        for (sector, versions) in std::mem::take(&mut self.dirty) {
            let kept = self.random.below(versions.len() as u64 + 1) as usize;
            if let Some((_, bytes)) = kept.checked_sub(1).and_then(|index| versions.get(index)) {
                self.durable[range(sector)].copy_from_slice(bytes);
            }
        }
        self.current.copy_from_slice(&self.durable);
    }

    fn judge(&self, op: &DiskOp) -> Result<(), String> {
        let fits = |offset: u64, len: u64, unit: u64| {
            let end = offset.checked_add(len);
            if len == 0
                || !offset.is_multiple_of(unit)
                || !len.is_multiple_of(unit)
                || end.is_none_or(|e| e > self.current.len() as u64)
            {
                return Err(format!(
                    "a disk order of {len} bytes at {offset} on a disk of {}",
                    self.current.len()
                ));
            }
            Ok(())
        };
        match op {
            DiskOp::Read { offset, len, .. } => fits(*offset, u64::from(*len), SECTOR as u64),
            DiskOp::Write { offset, data, .. } => {
                fits(*offset, data.iter().map(|piece| piece.len() as u64).sum(), SECTOR as u64)
            }
            DiskOp::Zero { offset, len, .. } => fits(*offset, *len, SECTOR as u64),
            DiskOp::AppendDurable { offset, pages } => {
                if self.under_way.values().any(|order| matches!(order.op, DiskOp::AppendDurable { .. })) {
                    return Err("two journal appends under way at once".to_owned());
                }
                fits(*offset, pages.as_bytes().len() as u64, 4096)
            }
            DiskOp::Sync { .. } => Ok(()),
        }
    }

    fn write_sector(&mut self, sector: u64, bytes: Sector) {
        self.version += 1;
        self.current[range(sector)].copy_from_slice(&bytes);
        self.dirty.entry(sector).or_default().push((self.version, bytes));
    }

    fn write_durably(&mut self, sector: u64, bytes: Sector) {
        self.dirty.remove(&sector);
        self.current[range(sector)].copy_from_slice(&bytes);
        self.durable[range(sector)].copy_from_slice(&bytes);
    }

    /// What an interrupted or failed order leaves: any subset of its sectors, durable only if it was an append.
    fn apply_some(&mut self, op: &DiskOp) {
        let durably = matches!(op, DiskOp::AppendDurable { .. });
        // One order in three keeps a leading part, as real devices mostly do; the others keep any subset.
        let list = sectors(op);
        let prefix = self.random.one_in(3).then(|| self.random.below(list.len() as u64 + 1) as usize);
        for (index, (sector, bytes)) in list.into_iter().enumerate() {
            let kept = prefix.map_or_else(|| self.random.one_in(2), |len| index < len);
            match (kept, durably) {
                (true, true) => self.write_durably(sector, bytes),
                (true, false) => self.write_sector(sector, bytes),
                (false, _) => {}
            }
        }
    }

    fn make_durable(&mut self, ended: u64) {
        for (sector, versions) in std::mem::take(&mut self.dirty) {
            let (done, later): (Vec<_>, Vec<_>) =
                versions.into_iter().partition(|(version, _)| *version <= ended);
            if let Some((_, bytes)) = done.last() {
                self.durable[range(sector)].copy_from_slice(bytes);
            }
            if !later.is_empty() {
                self.dirty.insert(sector, later);
            }
        }
    }

    fn forget_some_dirt(&mut self, ended: u64) {
        for (sector, versions) in std::mem::take(&mut self.dirty) {
            let forget = self.random.one_in(2);
            let kept: Vec<_> =
                versions.into_iter().filter(|(version, _)| !(forget && *version <= ended)).collect();
            if !kept.is_empty() {
                self.dirty.insert(sector, kept);
            }
        }
    }

    fn spend(&mut self) -> Result<(), DiskError> {
        match &mut self.break_after {
            Some(0) => Err(DiskError::new("simulated crash during recovery".to_owned())),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn bounds(&self, offset: u64, len: usize) -> Result<(usize, usize), DiskError> {
        let from = usize::try_from(offset).ok();
        match from.and_then(|from| Some((from, from.checked_add(len)?))) {
            Some((from, to)) if to <= self.current.len() => Ok((from, to)),
            Some(_) | None => {
                Err(DiskError::new(format!("{len} bytes at {offset} pass the end of the disk")))
            }
        }
    }
}

/// The blocking door, used before a site runs.
impl Disk for SimDisk {
    fn len(&mut self) -> Result<u64, DiskError> {
        Ok(self.current.len() as u64)
    }

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let (from, to) = self.bounds(offset, buf.len())?;
        buf.copy_from_slice(&self.current[from..to]);
        Ok(())
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.spend()?;
        let (mut at, to) = self.bounds(offset, data.len())?;
        let mut rest = data;
        while at < to {
            let sector = at / SECTOR;
            let within = at % SECTOR;
            let take = rest.len().min(SECTOR - within);
            let mut bytes: Sector = [0; SECTOR];
            bytes.copy_from_slice(&self.current[range(sector as u64)]);
            bytes[within..within + take].copy_from_slice(&rest[..take]);
            self.write_sector(sector as u64, bytes);
            rest = &rest[take..];
            at += take;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        self.spend()?;
        self.make_durable(self.version);
        Ok(())
    }
}

fn range(sector: u64) -> std::ops::Range<usize> {
    let from = sector as usize * SECTOR;
    from..from + SECTOR
}

/// The sectors that an order writes, with their bytes.
fn sectors(op: &DiskOp) -> Vec<(u64, Sector)> {
    let cut = |offset: u64, bytes: &[u8]| {
        let first = offset / SECTOR as u64;
        let piece = |chunk: &[u8]| {
            let mut sector: Sector = [0; SECTOR];
            sector[..chunk.len()].copy_from_slice(chunk);
            sector
        };
        bytes.chunks(SECTOR).enumerate().map(|(index, chunk)| (first + index as u64, piece(chunk))).collect()
    };
    match op {
        DiskOp::Read { .. } | DiskOp::Sync { .. } => Vec::new(),
        DiskOp::Write { offset, data, .. } => cut(*offset, &data.concat()),
        DiskOp::Zero { offset, len, .. } => cut(*offset, &vec![0; *len as usize]),
        DiskOp::AppendDurable { offset, pages } => cut(*offset, pages.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use biplex_store::Device;

    fn write(offset: u64, byte: u8) -> DiskOp {
        DiskOp::Write { device: Device::Journal, offset, data: vec![Bytes::from(vec![byte; SECTOR])] }
    }

    fn disk(seed: u64) -> SimDisk {
        SimDisk::new(8192, Random::new(seed))
    }

    #[test]
    fn a_sync_saves_what_had_ended_before_it_and_nothing_else() {
        let mut lost = 0;
        for seed in 0..64 {
            let mut d = disk(seed);
            d.submit(1, write(0, 1), Fate::Well).unwrap();
            d.end(1).unwrap();
            d.submit(2, DiskOp::Sync { device: Device::Journal }, Fate::Well).unwrap();
            d.submit(3, write(512, 2), Fate::Well).unwrap();
            d.end(3).unwrap();
            d.end(2).unwrap();
            d.crash();
            assert_eq!(d.current()[0], 1);
            lost += usize::from(d.current()[512] == 0);
        }
        assert!((1..64).contains(&lost), "an unsynced sector is sometimes lost, sometimes kept: {lost}");
    }

    #[test]
    fn a_failed_sync_may_drop_what_a_later_good_sync_then_does_not_save() {
        let mut dropped = 0;
        for seed in 0..64 {
            let mut d = disk(seed);
            d.submit(1, write(0, 1), Fate::Well).unwrap();
            d.end(1).unwrap();
            for (id, fate) in [(2, Fate::Fail), (3, Fate::Well)] {
                d.submit(id, DiskOp::Sync { device: Device::Journal }, fate).unwrap();
                assert_eq!(d.end(id).is_ok(), fate == Fate::Well);
            }
            assert_eq!(d.current()[0], 1);
            d.crash();
            dropped += usize::from(d.current()[0] == 0);
        }
        assert!((1..64).contains(&dropped));
    }

    #[test]
    fn an_order_outside_the_disk_is_refused() {
        let mut d = disk(1);
        assert!(d.submit(1, write(8192, 1), Fate::Well).is_err());
        assert!(d.submit(1, write(100, 1), Fate::Well).is_err());
    }
}
