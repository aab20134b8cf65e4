//! Answers for one question, asked only until two sites have first met: do their stores hold the same bytes?
//!
//! The fingerprint is a sum over all chunks that are not zeros, so that a hole and written zeros count alike; holes are
//! skipped without reading them. 64 bits of SHA-256 tell mistakes apart, not attackers.

use crate::disks::open::StoreFile;
use crate::initiator::Session;
use anyhow::{Context, anyhow, ensure};
use biplex_engine::VolumeId;
use biplex_front::iscsi::initiator::{Payload, read_capacity16, read16};
use biplex_site::unit::{UnitAddress, judge_capacity};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

const CHUNK_BYTES: u64 = 1 << 20;
/// Bytes of a unit that are read at once: what every unit takes.
const UNIT_READ_BYTES: usize = 64 << 10;
/// How often a unit may ask to be asked again.
const UNIT_RETRIES_MAX: u32 = 8;
/// Progress is told this often.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// The fingerprint of one volume's store, a file or block device, `bytes` long.
pub fn of_store(volume: VolumeId, name: &str, store: &StoreFile, bytes: u64) -> anyhow::Result<u64> {
    let read = |piece: &mut [u8], at| {
        store.file.read_exact_at(piece, at).with_context(|| format!("cannot read {}", store.path.display()))
    };
    of(volume, name, bytes, |at| next_data(store, at), read)
}

/// The fingerprint of one volume's store, a SCSI unit with which `session` was made, `bytes` long.
pub fn of_unit(
    volume: VolumeId,
    name: &str,
    unit: &UnitAddress,
    session: &mut Session,
    bytes: u64,
) -> anyhow::Result<u64> {
    let capacity = session
        .patient(unit.lun, read_capacity16(), Payload::In(32), UNIT_RETRIES_MAX)
        .with_context(|| format!("volume {name}: cannot ask unit {unit} for its size"))?;
    judge_capacity(&capacity, bytes / 512).map_err(|why| anyhow!("volume {name}: unit {unit}: {why}"))?;
    let read = |piece: &mut [u8], at: u64| {
        for (index, part) in piece.chunks_mut(UNIT_READ_BYTES).enumerate() {
            let (lba, blocks) = (at / 512 + (index * UNIT_READ_BYTES / 512) as u64, part.len() / 512);
            let (cdb, room) = (read16(lba, blocks as u32, false), Payload::In(part.len() as u32));
            let data = session.patient(unit.lun, cdb, room, UNIT_RETRIES_MAX).with_context(|| {
                format!("volume {name}: cannot read {blocks} blocks at {lba} of unit {unit}")
            })?;
            ensure!(data.len() == part.len(), "volume {name}: unit {unit} gives {} bytes", data.len());
            part.copy_from_slice(&data);
        }
        Ok(())
    };
    of(volume, name, bytes, |at| at, read)
}

fn of(
    volume: VolumeId,
    name: &str,
    bytes: u64,
    next_data: impl Fn(u64) -> u64,
    mut read: impl FnMut(&mut [u8], u64) -> anyhow::Result<()>,
) -> anyhow::Result<u64> {
    let (mut sum, mut at) = (0u64, 0u64);
    let mut chunk = vec![0; CHUNK_BYTES as usize];
    let mut told = Instant::now();
    while at < bytes {
        at = next_data(at).min(bytes) / CHUNK_BYTES * CHUNK_BYTES;
        let length = CHUNK_BYTES.min(bytes.saturating_sub(at)) as usize;
        if length == 0 {
            break;
        }
        let piece = &mut chunk[..length];
        read(piece, at)?;
        if piece.iter().any(|byte| *byte != 0) {
            let mut hash = Sha256::new();
            hash.update(volume.0.to_le_bytes());
            hash.update(at.to_le_bytes());
            hash.update(&*piece);
            let first: [u8; 8] = hash.finalize()[..8].try_into().expect("SHA-256 has 32 bytes");
            sum = sum.wrapping_add(u64::from_le_bytes(first));
        }
        at += length as u64;
        if told.elapsed() > TELL_EVERY {
            told = Instant::now();
            tracing::info!("volume {name}: comparing before the first pairing, {} % read", at * 100 / bytes);
        }
    }
    Ok(sum)
}

/// Where data begins at or behind `at`; the end of everything if there is none.
fn next_data(store: &StoreFile, at: u64) -> u64 {
    match seek(&store.file, SeekFrom::Data(at)) {
        Ok(found) => found,
        Err(Errno::NXIO) => u64::MAX,
        // Neither a block device nor every file system knows holes: all of it is read then.
        Err(_) => at,
    }
}
