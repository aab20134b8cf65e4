//! Reads: the engine says where each piece of the newest data is, here the pieces are fetched and joined (E1.6).
//!
//! A failed piece fails the read with the block that could not be read, never with other bytes; a record read back
//! from the journal is checked against its checksum every time.

use crate::api::*;
use crate::site::{Errand, Site, failed};
use biplex_engine::engine::{JournalPiece, OpId, Source, SourcePiece};
use biplex_engine::{BLOCK_BYTES, Body, Extent, Lba, Now, Stamp, VolumeId};
use biplex_front::{Completion, Failure};
use biplex_store::{Device, DiskError, DiskOp, DiskResult, Journal};
use bytes::{Bytes, BytesMut};

static ZEROS: [u8; 65_536] = [0; 65_536];

/// A read whose pieces are coming in.
#[derive(Debug)]
pub(crate) struct Assembly {
    parts: Vec<Vec<Bytes>>,
    missing: usize,
    bad: Option<Lba>,
    /// A store could not be asked: no block is bad for that.
    away: bool,
}

/// `bytes` zeros, in pieces of one shared buffer.
pub(crate) fn zeros(bytes: u64) -> Vec<Bytes> {
    let whole = ZEROS.len() as u64;
    let mut pieces = vec![Bytes::from_static(&ZEROS); (bytes / whole) as usize];
    if !bytes.is_multiple_of(whole) {
        pieces.push(Bytes::from_static(&ZEROS[..(bytes % whole) as usize]));
    }
    pieces
}

/// One block's bytes, `blocks` times.
pub(crate) fn filled(block: &Bytes, blocks: u64) -> Vec<Bytes> {
    let run = (ZEROS.len() as u64 / BLOCK_BYTES).min(blocks);
    let mut chunk = BytesMut::with_capacity((run * BLOCK_BYTES) as usize);
    (0..run).for_each(|_| chunk.extend_from_slice(block));
    let chunk = chunk.freeze();
    let mut pieces = vec![chunk.clone(); (blocks / run) as usize];
    if !blocks.is_multiple_of(run) {
        pieces.push(chunk.slice(..((blocks % run) * BLOCK_BYTES) as usize));
    }
    pieces
}

impl Site {
    /// The engine let a read through.
    pub(crate) fn serve_read(&mut self, now: Now, op: OpId, volume: VolumeId, pieces: Vec<SourcePiece>) {
        let mut assembly =
            Assembly { parts: Vec::with_capacity(pieces.len()), missing: 0, bad: None, away: false };
        let mut orders = Vec::new();
        for (index, SourcePiece { extent, source }) in pieces.into_iter().enumerate() {
            assembly.parts.push(match source {
                Source::Memory(bytes) => vec![bytes],
                Source::Zero => zeros(extent.bytes()),
                Source::Fill(block) => filled(&block, extent.blocks()),
                Source::Journal(piece) => {
                    orders.push((index, extent, Some(piece)));
                    Vec::new()
                }
                Source::Store => {
                    orders.push((index, extent, None));
                    Vec::new()
                }
            });
        }
        assembly.missing = orders.len();
        if assembly.missing == 0 {
            return self.finish_read(now, op, assembly);
        }
        self.assemblies.insert(op, assembly);
        for (index, extent, journal) in orders {
            match journal {
                Some(piece) => {
                    let skip = self.journal_read_skip(piece);
                    self.read_journal(piece, Errand::ReadJournal { op, index, piece, extent, skip });
                }
                None => {
                    let order = DiskOp::Read {
                        device: Device::Volume(volume),
                        offset: extent.start().bytes(),
                        len: extent.bytes() as u32,
                    };
                    let ticket = self.order_disk(order, Errand::ReadStore { op, index, volume, extent });
                    self.store_reads.insert(ticket);
                }
            }
        }
    }

    /// A COMPARE AND WRITE is to be judged: what it compares and what its blocks held are fetched like the pieces of a
    /// read.
    pub(crate) fn judge(
        &mut self,
        now: Now,
        volume: VolumeId,
        stamp: Stamp,
        compare: Source,
        pieces: Vec<SourcePiece>,
    ) {
        let Some(extent) = pieces.first().map(|piece| piece.extent) else { return };
        let op = OpId(self.next_op);
        self.next_op += 1;
        self.judgements.insert(op, (volume, stamp));
        let compare = SourcePiece { extent, source: compare };
        let all = std::iter::once(compare).chain(pieces).collect();
        self.serve_read(now, op, volume, all);
    }

    fn finish_judgement(&mut self, now: Now, volume: VolumeId, stamp: Stamp, assembly: Assembly) {
        let result = match assembly.bad {
            Some(lba) => Err(format!("block {} cannot be read", lba.0)),
            None => {
                let mut parts = assembly.parts.into_iter();
                let compare = parts.next().unwrap_or_default().concat();
                let found = parts.flatten().collect::<Vec<Bytes>>().concat();
                let same = compare.iter().zip(&found).take_while(|(wanted, there)| wanted == there).count();
                if compare.len() == found.len() {
                    Ok((same < compare.len()).then_some(same as u64))
                } else {
                    Err(format!("{} bytes were read where {} were wanted", found.len(), compare.len()))
                }
            }
        };
        self.engine.handle_judged(now, volume, stamp, result);
    }

    /// Orders a record's body read back; its segment stays until [`Site::journal_read_done`].
    pub(crate) fn read_journal(&mut self, piece: JournalPiece, errand: Errand) {
        let (offset, len, _) = Journal::read_order(piece.pos, piece.body_bytes as usize);
        self.journal.pin(piece.pos);
        self.order_disk(DiskOp::Read { device: Device::Journal, offset, len }, errand);
    }

    pub(crate) fn journal_read_skip(&self, piece: JournalPiece) -> usize {
        Journal::read_order(piece.pos, piece.body_bytes as usize).2
    }

    /// A record's body came back: checked, or what is wrong with it.
    pub(crate) fn journal_read_done(
        &mut self,
        piece: JournalPiece,
        skip: usize,
        result: DiskResult,
    ) -> Result<Bytes, String> {
        self.journal.unpin(piece.pos);
        let bytes = result.map_err(|error| format!("the journal could not be read: {error}"))?;
        let end = skip + piece.body_bytes as usize;
        let body = if end <= bytes.len() { bytes.slice(skip..end) } else { Bytes::new() };
        if biplex_format::body_crc(&Body::Data(body.clone())) != piece.body_crc || end > bytes.len() {
            return Err(format!("the record at journal byte {} has a wrong checksum", piece.pos.0));
        }
        Ok(body)
    }

    pub(crate) fn store_read_done(
        &mut self,
        now: Now,
        op: OpId,
        index: usize,
        volume: VolumeId,
        extent: Extent,
        result: DiskResult,
    ) {
        let bytes = result.and_then(|bytes| {
            let whole = bytes.len() as u64 == extent.bytes();
            if whole { Ok(bytes) } else { Err(DiskError::new("short read".to_owned())) }
        });
        if let Err(error) = &bytes {
            self.volume_error(volume, format!("reading blocks {extent}: {error}"));
            if let Some(assembly) = self.assemblies.get_mut(&op) {
                assembly.away |= error.later;
            }
        }
        self.part_done(now, op, index, extent, bytes.ok());
    }

    pub(crate) fn journal_part_done(
        &mut self,
        now: Now,
        op: OpId,
        index: usize,
        piece: JournalPiece,
        extent: Extent,
        body: Result<Bytes, String>,
    ) {
        let (from, to) = (piece.skip as usize, (piece.skip + piece.bytes) as usize);
        if let Err(why) = &body {
            self.notice(Severity::Alarm, format!("a read of blocks {extent} failed: {why}"));
        }
        self.part_done(now, op, index, extent, body.ok().map(|body| body.slice(from..to)));
    }

    fn part_done(&mut self, now: Now, op: OpId, index: usize, extent: Extent, bytes: Option<Bytes>) {
        let Some(assembly) = self.assemblies.get_mut(&op) else { return };
        assembly.missing -= 1;
        match bytes {
            Some(bytes) => assembly.parts[index] = vec![bytes],
            None => assembly.bad = Some(assembly.bad.map_or(extent.start(), |bad| bad.min(extent.start()))),
        }
        if assembly.missing == 0
            && let Some(assembly) = self.assemblies.remove(&op)
        {
            self.finish_read(now, op, assembly);
        }
    }

    fn finish_read(&mut self, now: Now, op: OpId, assembly: Assembly) {
        if let Some((volume, stamp)) = self.judgements.remove(&op) {
            return self.finish_judgement(now, volume, stamp, assembly);
        }
        let completion = match assembly.bad {
            Some(_) if assembly.away => failed(Failure::NotReady),
            Some(lba) => failed(Failure::MediumRead { lba }),
            None => Completion::Data(assembly.parts.into_iter().flatten().collect()),
        };
        self.answer(now, op, completion);
    }

    /// A backing store failed: counted, shown, never swallowed.
    pub(crate) fn volume_error(&mut self, volume: VolumeId, what: String) {
        let name = self.config.volumes.iter().find(|v| v.unit.volume == volume).map(|v| v.unit.name.clone());
        let life = self.lives.entry(volume).or_default();
        life.errors += 1;
        life.last_error = Some(what.clone());
        self.notice(Severity::Alarm, format!("volume {}: {what}", name.unwrap_or_default()));
    }
}
