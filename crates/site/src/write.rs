//! One write, one page: received → held → journaled → mirrored → acknowledged.
//!
//! ```text
//! host A                    site A                                      site B
//!   │ WRITE ──▶ [`Site::command`] ─▶ Engine::handle_write (stamp, hold table)
//!   │             │ Append ─▶ [`Site::append`] ─▶ journal's open group
//!   │             │ Send ───▶ link ─────────────────────────▶ Engine::handle_message(Entry): hold table
//!   │             ▼                                            │ Append ─▶ [`Site::append`]
//!   │        [`Site::close_group`]: one disk order             ▼
//!   │             ▼                                       [`Site::close_group`]
//!   │        [`Site::group_done`] ─▶ Engine::handle_durable    │ [`Site::group_done`] ─▶ Ack
//!   │             ▼          ◀────────────────────────────────┘
//!   │ ◀── GOOD [`Site::complete`]    (async: without waiting for the ack)
//! ```
//! The sends of a batch leave before its group is written, so that both journals sync at the same time.

use crate::site::{Errand, Site, failed};
use biplex_engine::engine::{Engine, OpId, Outcome};
use biplex_engine::hosts::{HostWrite, WritePart};
use biplex_engine::judge::HostSwap;
use biplex_engine::{Body, Entry, Extent, Nexus, Now, VolumeId};
use biplex_front::{Command, Completion, Failure};
use biplex_store::{Checkpoint, DiskError, DiskOp, Durable};
use bytes::Bytes;

/// A payload from this size on stays where it was received: half of what `node` reads into at a time.
const KEPT_BYTES_MIN: usize = 128 << 10;

impl Site {
    /// A host's command, with SCSI taken off.
    pub(crate) fn carry(&mut self, now: Now, op: OpId, nexus: Nexus, volume: VolumeId, command: Command) {
        let part = |extent: Extent, body: Body| {
            let body_crc = biplex_format::body_crc(&body);
            WritePart { extent, body, body_crc }
        };
        let (parts, fua) = match command {
            Command::Read { extent, .. } => return self.engine.handle_read(now, op, volume, nexus, extent),
            Command::Flush => return self.engine.handle_flush(now, op, volume, nexus),
            Command::CompareAndWrite { extent, compare, data } => {
                let bytes: Bytes = [compare, data].concat().into();
                let crc = biplex_format::body_crc(&Body::Swap(bytes.clone()));
                let swap = HostSwap { extent, bytes, crc };
                return self.engine.handle_swap(now, op, volume, nexus, swap);
            }
            Command::Check { access } => return self.engine.handle_check(op, volume, nexus, access),
            Command::Control { request } => {
                return self.engine.handle_control(now, op, volume, nexus, request);
            }
            Command::Inspect { .. } => return self.engine.handle_inspect(now, op, volume, nexus),
            Command::Leave => return self.engine.handle_leave(now, op, nexus),
            Command::Write { extent, data, fua } => {
                let data = own_memory(data);
                (vec![Engine::part(extent, data.clone(), biplex_format::body_crc(&Body::Data(data)))], fua)
            }
            Command::Fill { extent, block } => (vec![part(extent, Body::Fill(block))], false),
            Command::Unmap { extents } => {
                (extents.into_iter().map(|extent| part(extent, Body::Unmap)).collect(), false)
            }
        };
        self.engine.handle_write(now, op, HostWrite { volume, nexus, parts, fua });
    }

    /// The engine's next append: into the journal's open group.
    pub(crate) fn append(&mut self, now: Now, entry: &Entry) {
        self.patience.appended(now);
        match self.journal.append(entry) {
            // Not an entry of its own: nobody asks where it lies.
            Ok(_) if matches!(entry.body, Body::Verdict { .. }) => {}
            Ok((append, pos)) => {
                self.entries_appended += 1;
                self.engine.handle_appended(entry.stamp, append, pos);
            }
            Err(full) => self.halt(format!(
                "the journal overflowed though its limits were kept ({full}); restart the site, and report this"
            )),
        }
    }

    /// Writes the open group, if there is one, it is time, and none is under way.
    pub(crate) fn close_group(&mut self, now: Now) {
        let due = self.draining || self.patience.is_due(now, self.journal.open_bytes());
        if !due && !self.journal.group_wanted() {
            return;
        }
        let checkpoint = self.engine.checkpoint(now);
        self.journal.set_checkpoint(Checkpoint {
            clock_ceiling: checkpoint.clock_ceiling,
            destaged: checkpoint.destaged,
            resume_from: checkpoint.resume_from,
            peer_journal: checkpoint.peer_journal,
            run: checkpoint.run,
            oldest_segment: 0, // this and the next are the journal's own to say
            state: 0,
        });
        if let Some(group) = self.journal.next_group() {
            self.order_disk(
                DiskOp::AppendDurable { offset: group.offset, pages: group.pages },
                Errand::Group,
            );
            if self.journal.open_bytes() == 0 {
                self.patience.emptied();
            }
        }
    }

    /// The group is durable, or nobody knows.
    pub(crate) fn group_done(&mut self, now: Now, result: Result<(), DiskError>) {
        if let Err(error) = result {
            // Unknown, not "no": nothing more may be said or written before recovery has read what is there.
            return self.halt(format!(
                "the journal could not be written: {error}; the peer carries on. Repair the disk under [journal], \
                 then start the site again: it recovers what it has and gets the rest from the peer"
            ));
        }
        let (upto, written) = match self.journal.group_done() {
            Durable::Group { upto, checkpoint } => (upto, checkpoint),
            Durable::State { .. } => return, // it counts with the checkpoint that is written next
        };
        let checkpoint = biplex_engine::engine::Checkpoint {
            clock_ceiling: written.clock_ceiling,
            destaged: written.destaged,
            resume_from: written.resume_from,
            peer_journal: written.peer_journal,
            run: written.run,
        };
        self.engine.handle_durable(now, upto, &checkpoint);
        // Reads that this let through pin their place in the journal before segments are given back.
        self.settle(now);
        self.recycle(now, checkpoint.destaged);
        self.engine.set_journal_room(self.journal.room_bytes());
        self.engine.handle_recycled(now, checkpoint.destaged);
    }

    /// A command other than a read ended.
    pub(crate) fn complete(&mut self, now: Now, op: OpId, outcome: Outcome) {
        self.forget_inspection(op);
        let completion = match outcome {
            Outcome::Done => Completion::Done,
            Outcome::Verdict(verdict) => Completion::Verdict(verdict),
            Outcome::Conflict => failed(Failure::Conflict),
            Outcome::NotSupported => failed(Failure::NotSupported),
            Outcome::NotReady => failed(Failure::NotReady),
            Outcome::Busy => failed(Failure::Busy),
        };
        self.answer(now, op, completion);
    }
}

/// A payload that is a small part of a large receive buffer would keep all of that buffer in memory for as long as it
/// is held; such a one is copied. A large one is at least half of its buffer.
fn own_memory(data: Bytes) -> Bytes {
    if data.len() >= KEPT_BYTES_MIN { data } else { Bytes::copy_from_slice(&data) }
}
