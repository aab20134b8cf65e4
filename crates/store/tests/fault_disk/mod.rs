//! A disk in memory that loses, tears and reorders what was not synced, sector by sector; and a journal's user who
//! remembers what it was told.
#![allow(dead_code)] // each test binary uses its own part

use biplex_engine::message::VolumeGeometry;
use biplex_engine::{AppendSeq, BLOCK_BYTES, Body, Entry, Extent, HostId, Lba, SiteId, Stamp, VolumeId};
use biplex_format::body_crc;
use biplex_store::{Checkpoint, Disk, DiskError, Durable, Group, Identity, Layout};
use bytes::Bytes;

pub const SECTOR: usize = 512;

/// xorshift64*: enough for tests, and the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[derive(Clone)]
pub struct FaultDisk {
    /// What survives whatever happens.
    pub medium: Vec<u8>,
    /// What a reader sees.
    pub seen: Vec<u8>,
    /// Writes since the last sync.
    pub unsynced: Vec<(usize, usize)>,
    pub syncs: u64,
}

impl FaultDisk {
    pub fn new(bytes: u64) -> FaultDisk {
        let bytes = bytes as usize;
        // Not zeros: making a journal must not rely on them.
        FaultDisk { medium: vec![0xa5; bytes], seen: vec![0xa5; bytes], unsynced: Vec::new(), syncs: 0 }
    }

    pub fn of(image: Vec<u8>) -> FaultDisk {
        FaultDisk { medium: image.clone(), seen: image, unsynced: Vec::new(), syncs: 0 }
    }

    /// Power fails: of what was not synced each sector survives or not.
    pub fn crash(&mut self, random: &mut Random) {
        let style = random.below(4);
        for (offset, len) in std::mem::take(&mut self.unsynced) {
            let sectors = len / SECTOR;
            let cut = random.below(sectors as u64 + 1) as usize;
            for sector in 0..sectors {
                let survives = match style {
                    0 => false,
                    1 => sector < cut,
                    2 => sector >= cut,
                    _ => random.chance(50),
                };
                if survives {
                    let at = offset + sector * SECTOR;
                    self.medium[at..at + SECTOR].copy_from_slice(&self.seen[at..at + SECTOR]);
                }
            }
        }
        self.seen = self.medium.clone();
    }

    /// The process dies, the machine does not: what was written stays visible, durable or not.
    pub fn kill(&mut self) {}
}

impl Disk for FaultDisk {
    fn len(&mut self) -> Result<u64, DiskError> {
        Ok(self.seen.len() as u64)
    }

    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let offset = offset as usize;
        match self.seen.get(offset..offset + buf.len()) {
            Some(bytes) => {
                buf.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(DiskError::new("read past the end".to_owned())),
        }
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        let offset = offset as usize;
        self.seen[offset..offset + data.len()].copy_from_slice(data);
        self.unsynced.push((offset, data.len()));
        Ok(())
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        for (offset, len) in std::mem::take(&mut self.unsynced) {
            self.medium[offset..offset + len].copy_from_slice(&self.seen[offset..offset + len]);
        }
        self.syncs += 1;
        Ok(())
    }
}

pub const PAIR: u64 = 0x0123_4567_89ab_cdef;

pub fn identity() -> Identity {
    Identity {
        site: SiteId::A,
        pair: PAIR,
        journal: 0xfeed_0001_0002_0003,
        volumes: vec![VolumeGeometry {
            id: VolumeId(0x5eed),
            name: "vol0".to_owned(),
            lun: 0,
            blocks: 2048,
            mode: 1,
        }],
    }
}

/// Where the state slots start: behind two superblocks and two checkpoint slots.
pub const STATES_START: u64 = (64 + 8) << 10;
/// Bytes of each of the two in a small journal.
pub const STATE_SLOT_BYTES: u64 = 32 << 10;
/// Where the segments start.
pub const SEGMENTS_START: u64 = STATES_START + 2 * STATE_SLOT_BYTES;

/// What a write makes durable, if it is a group or a checkpoint alone.
pub fn as_group(group: &Group) -> Option<(AppendSeq, Checkpoint)> {
    match group.durable {
        Durable::Group { upto, checkpoint } => Some((upto, checkpoint)),
        Durable::State { .. } => None,
    }
}

/// A write that takes place.
pub fn write(disk: &mut FaultDisk, group: &Group) {
    disk.write_at(group.offset, group.pages.as_bytes()).expect("in memory");
    disk.sync().expect("in memory");
}

/// Six small segments: a ring that goes round often.
pub fn small() -> Layout {
    Layout::with_segments(SEGMENTS_START + 6 * (48 << 10), 48 << 10)
        .expect("a layout that holds small records")
}

pub fn entry(random: &mut Random, stamp: Stamp, seq: u64, blocks_max: u64) -> Entry {
    let blocks = 1 + random.below(blocks_max);
    // Few different bytes: stale sectors shall look as plausible as they can.
    let byte = (random.below(3) * 0x11) as u8;
    let body = match random.below(8) {
        0 => Body::Unmap,
        1 => Body::Fill(Bytes::from(vec![byte; BLOCK_BYTES as usize])),
        _ => Body::Data(Bytes::from(vec![byte; (blocks * BLOCK_BYTES) as usize])),
    };
    Entry {
        stamp,
        seq,
        volume: VolumeId(0x5eed),
        extent: Extent::new(Lba(random.below(1000)), blocks).expect("not empty"),
        host: HostId(random.below(3)),
        isid: random.below(2),
        body_crc: body_crc(&body),
        body,
    }
}
