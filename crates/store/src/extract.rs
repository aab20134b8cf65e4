//! What `biplex inspect FILE --extract STAMP` looks for: one record's bytes, so that a write that a reservation undid
//! (E4.1) can be had back. Only reads.
//!
//! A journal forgets a record when the ring comes round to its place, not when it is destaged: segments that are free
//! but not yet written over are searched, too. Group and record checksums are checked before anything is given out.

use crate::disk::Disk;
use crate::error::{Damage, StoreError};
use crate::layout::read_superblock;
use crate::scan::{FoundGroup, FoundRecord, Scanner, SegmentRead};
use biplex_engine::{Body, Extent, HostId, Stamp};
use biplex_format::record::Kind;
use bytes::Bytes;
use std::fmt;

/// A record's bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Extracted {
    /// What they are.
    pub what: &'static str,
    /// What else to know of them; empty, or begins with a comma.
    pub remark: &'static str,
    /// The volume's name, or its id in hexadecimal if the journal does not know it.
    pub volume: String,
    /// The blocks that were written.
    pub extent: Extent,
    /// Who wrote.
    pub host: HostId,
    /// The bytes.
    pub bytes: Bytes,
    /// Where the record's body lies in the journal.
    pub offset: u64,
}

/// Why nothing is extracted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ExtractError {
    /// The journal does not read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No record has this stamp.
    #[error(
        "the journal has no write with the stamp {stamp}{holds}; it was never there, or its place was used again since"
    )]
    Gone {
        /// What was looked for.
        stamp: Stamp,
        /// What is there.
        holds: Holds,
    },
    /// The record has none.
    #[error("the record with the stamp {stamp} is {what}: it has no bytes")]
    NoBytes {
        /// What was looked for.
        stamp: Stamp,
        /// What it is.
        what: &'static str,
    },
}

/// What a journal that was searched in vain has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holds {
    /// Oldest and newest stamp.
    pub stamps: Option<(Stamp, Stamp)>,
    /// The first place that does not read.
    pub damage: Option<(u64, Damage)>,
}

impl fmt::Display for Holds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.stamps {
            None => f.write_str(" (it has no records at all)")?,
            Some((oldest, newest)) => write!(f, " (it has records of {oldest} to {newest})")?,
        }
        match &self.damage {
            None => Ok(()),
            Some((at, damage)) => {
                write!(f, ", and it does not read at offset {at}, where it may have been: {damage}")
            }
        }
    }
}

/// Looks for the write with this stamp in the journal on `disk`, newest segment first. Memory: one group.
pub fn extract(disk: &mut dyn Disk, stamp: Stamp) -> Result<Extracted, ExtractError> {
    let (superblock, layout, _) = read_superblock(disk)?;
    let mut scanner = Scanner::new(disk, superblock, layout);
    let mut segments: Vec<_> = scanner
        .segments()
        .map_err(StoreError::Disk)?
        .into_iter()
        .filter_map(|read| match read {
            SegmentRead::Valid(header) => Some(header),
            SegmentRead::Blank | SegmentRead::Broken(_) => None,
        })
        .collect();
    segments.sort_by_key(|segment| std::cmp::Reverse(segment.seq));
    let mut holds = Holds { stamps: None, damage: None };
    for segment in segments {
        let mut found = None;
        let broken = scanner
            .groups_of(&segment, &mut |at, group, bytes| {
                note_stamps(&mut holds, group);
                let with_stamp = group.records.iter().find(|record| is_write(record, stamp));
                if let (None, Some(record)) = (&found, with_stamp) {
                    let body = bytes.get(record.body.clone()).unwrap_or_default();
                    found =
                        Some((record.header, Bytes::copy_from_slice(body), at + record.body.start as u64));
                }
            })
            .map_err(StoreError::Disk)?;
        if let Some((header, body, offset)) = found {
            let unread = |error| {
                let what = Damage::Format(error);
                StoreError::Damaged { segment: segment.index, offset, what }
            };
            // The group's checksum was right already; this is the one that was taken where the write came in.
            header.check_body(&body).map_err(unread)?;
            let entry = header.entry(body).map_err(unread)?;
            let (what, remark, bytes) = parts(stamp, &entry.body, entry.extent)?;
            let of = scanner.superblock.volumes.iter().find(|volume| volume.id == entry.volume);
            let volume = of.map_or_else(|| entry.volume.to_string(), |volume| volume.name.clone());
            return Ok(Extracted {
                what,
                remark,
                volume,
                extent: entry.extent,
                host: entry.host,
                bytes,
                offset,
            });
        }
        holds.damage = holds.damage.or(broken);
    }
    Err(ExtractError::Gone { stamp, holds })
}

fn note_stamps(holds: &mut Holds, group: &FoundGroup) {
    for stamp in group.records.iter().filter_map(|record| record.header.stamp().ok()) {
        let (oldest, newest) = holds.stamps.unwrap_or((stamp, stamp));
        holds.stamps = Some((oldest.min(stamp), newest.max(stamp)));
    }
}

/// Whether it is the record that was stamped so; a verdict has the stamp of what it judged.
fn is_write(record: &FoundRecord, stamp: Stamp) -> bool {
    record.header.stamp() == Ok(stamp) && record.header.kind() != Ok(Kind::Verdict)
}

/// A body's bytes for an operator, what they are, and a remark.
fn parts(
    stamp: Stamp,
    body: &Body,
    extent: Extent,
) -> Result<(&'static str, &'static str, Bytes), ExtractError> {
    match body {
        Body::Data(bytes) => Ok(("a write", "", bytes.clone())),
        Body::Fill(bytes) => {
            Ok(("a WRITE SAME", ", and every one of its blocks became this one block", bytes.clone()))
        }
        Body::Swap(bytes) => {
            let half = usize::try_from(extent.bytes()).unwrap_or(usize::MAX).min(bytes.len());
            Ok(("the new bytes of a COMPARE AND WRITE", "", bytes.slice(half..)))
        }
        Body::Unmap => Err(ExtractError::NoBytes { stamp, what: "an UNMAP" }),
        Body::Control(request) => Err(ExtractError::NoBytes { stamp, what: request.name() }),
        Body::Verdict { .. } => Err(ExtractError::NoBytes { stamp, what: "a verdict" }),
    }
}
