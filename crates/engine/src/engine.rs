//! The engine: one site's share of the pair's state, and every decision about it.
//!
//! ```text
//! handle_write ─▶ stamp ─▶ hold table ─▶ Append (journal) ─▶ Send (peer) ┄▶ handle_durable, handle_message(Ack) ─▶ Complete
//! handle_read  ─▶ hold table ─▶ wait until every piece is committed ─▶ Serve
//! handle_tick  ─▶ cut ─▶ Destage ─▶ handle_destaged ─▶ retire
//! ```
//! Facts come in through `handle_*`, orders go out as [`Action`]s in the order in which they must be carried out.
//! Never waits, reads a clock or touches a disk. Invariants: those of `docs/design.md`, checked by [`Engine::check`].
//!
//! The handlers live by subject: [`crate::hosts`] (reads, writes, flushes), [`crate::stream`] (entries to and from
//! the peer), [`crate::control`] and
//! [`crate::judge`] (what is decided in order: reservations, COMPARE AND WRITE), [`crate::session`] (hello, resume, lease, heartbeat), [`crate::cut`] (destage, digests).

use crate::clock::Clock;
use crate::control::Ledger;
use crate::cut::Cuts;
use crate::entry::{Body, Entry};
use crate::held::{Fate, Held, HeldBody};
use crate::hold::{HoldTable, Table, TableKind};
use crate::hosts::Doors;
use crate::message::{Message, VolumeGeometry};
use crate::reserve::{Effect, PersistentView, Request, Reservations, Verdict};
use crate::session::Session;
use crate::stream::{Inbound, Outbound};
use crate::units::*;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// When a write's completion is given to the host. Ordinals are on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mode {
    /// Durable at this site (embodiment 1, E1.9).
    Async = 0,
    /// Durable at both sites (embodiment 2, E2.1).
    Sync = 1,
    /// Durable at this site; FUA writes and SYNCHRONIZE CACHE wait for both.
    Flush = 2,
}

/// When a volume's commands complete, and what else both sites must agree on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// When writes complete.
    pub mode: Mode,
    /// A write that the reservation in force at its stamp forbids is undone, at both sites, instead of kept (E4.1). For
    /// volumes that are not sync: there such a write may have been completed before the reservation was known.
    pub discard: bool,
    /// COMPARE AND WRITE is served although the volume is not sync: atomic against every other one, but its verdict
    /// may rest on plain writes that the other site's hosts were told of before this site had them.
    pub swaps: bool,
    /// The stores keep hosts' reservations, each site's its own, not the pair (E5.1).
    pub disk: bool,
}

impl Rules {
    /// The rules of a volume of which nothing more is said.
    pub fn of(mode: Mode) -> Rules {
        Rules { mode, discard: false, swaps: false, disk: false }
    }

    /// As the hello's volume row says it: the mode's ordinal, 16 discard, 32 swaps, 64 disk.
    pub fn ordinal(self) -> u8 {
        self.mode as u8 | u8::from(self.discard) << 4 | u8::from(self.swaps) << 5 | u8::from(self.disk) << 6
    }
}

impl From<Mode> for Rules {
    fn from(mode: Mode) -> Rules {
        Rules::of(mode)
    }
}

/// What an engine must know. Times in nanoseconds, sizes in bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// This site.
    pub site: SiteId,
    /// Identity of the pair.
    pub pair: u64,
    /// The volumes and how their writes complete.
    pub volumes: Vec<(VolumeGeometry, Rules)>,
    /// Hold time (E1.7).
    pub hold_time: u64,
    /// Destage interval (E1.7).
    pub hold_every: u64,
    /// Which hold table.
    pub table: TableKind,
    /// Limit for held payload in memory.
    pub hold_memory: u64,
    /// Bytes of entries that the journal can always take, both origins together.
    pub journal_usable: u64,
    /// Bytes that a volume's reservations may take to write down; the same at both sites.
    pub reservation_bytes: u64,
    /// Clocks further apart than this refuse to pair.
    pub max_offset: u64,
    /// A sync volume is served only within this time of a ping that the peer answered.
    pub lease: u64,
    /// Commands that wait longer than this are answered so that hosts retry.
    pub wait_max: u64,
    /// Most bytes of own entries on their way to the peer's journal; [`crate::stream::WINDOW_BYTES_MAX`] but in tests.
    pub window_bytes: u64,
}

/// What recovery found. See [`crate::message::Hello`] for the meaning of `resume_from`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// This journal's random identity.
    pub journal: u64,
    /// The newest checkpoint.
    pub checkpoint: Checkpoint,
    /// The reservations at its cut.
    pub reservations: Vec<(VolumeId, Reservations)>,
}

/// The engine's share of what each journal group carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// No stamp or promise beyond this was given before a group with a higher ceiling was durable.
    pub clock_ceiling: u64,
    /// The backing stores stand at this cut.
    pub destaged: Stamp,
    /// This site may have lost entries of its own beyond this stamp and has not had them back from the peer yet.
    pub resume_from: Option<Stamp>,
    /// The peer's journal identity, 0 before they met.
    pub peer_journal: u64,
    /// How often this site was started.
    pub run: u32,
}

/// Names a host's command until it is completed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OpId(pub u64);

/// How a write or flush ended. An unfinished write is "unknown": it may take effect later, but only in its place in
/// the order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// As the volume's mode promises.
    Done,
    /// The site may not serve now, or the peer did not answer in time: the host should retry or turn to another path.
    NotReady,
    /// The journal is full, or what a reservation command waits for did not come: the host should retry.
    Busy,
    /// Another nexus' reservation keeps this one out (E3.4).
    Conflict,
    /// The volume's rules do not allow the command.
    NotSupported,
    /// A request or a COMPARE AND WRITE was executed, at both sites, and ended like this.
    Verdict(Verdict),
}

/// Where a piece of a read is found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// These bytes.
    Memory(Bytes),
    /// Within the body of a record in the journal.
    Journal(JournalPiece),
    /// This block, over and over.
    Fill(Bytes),
    /// Zeros.
    Zero,
    /// The backing store, at the same place.
    Store,
}

/// Part of a record's body in the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JournalPiece {
    /// Where the body begins.
    pub pos: JournalPos,
    /// Length of the whole body, bytes.
    pub body_bytes: u32,
    /// Checksum of the whole body.
    pub body_crc: u32,
    /// Where in the body the piece begins, bytes.
    pub skip: u32,
    /// Length of the piece, bytes.
    pub bytes: u32,
}

/// A piece of a read or of a destage.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourcePiece {
    /// Which blocks.
    pub extent: Extent,
    /// Where they are.
    pub source: Source,
}

/// A piece that a destage writes to the backing store; ask [`Engine::source`] for its bytes when its turn comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DestagePiece {
    /// The volume.
    pub volume: VolumeId,
    /// The blocks.
    pub extent: Extent,
    /// The entry that they come from.
    pub stamp: Stamp,
}

/// How much a notice matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// For someone who looks closely.
    Debug,
    /// Normal life.
    Info,
    /// Something to look at.
    Warning,
    /// Data or service is in danger.
    Alarm,
}

/// An order of the engine.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Append this entry to the journal, then tell [`Engine::handle_appended`] where. It is the engine's next append.
    Append(Entry),
    /// Send to the peer, in order.
    Send(Message),
    /// Both hellos fitted: tell the peer what it may want to know beside the stream.
    Paired,
    /// End the link; the daemon connects anew.
    CloseLink {
        /// Why.
        why: String,
    },
    /// A write or flush ended.
    Complete {
        /// Which.
        op: OpId,
        /// How.
        outcome: Outcome,
    },
    /// A read may be served from these pieces, ascending and gapless.
    Serve {
        /// Which.
        op: OpId,
        /// The volume.
        volume: VolumeId,
        /// The pieces.
        pieces: Vec<SourcePiece>,
    },
    /// Fetch an entry's body from the journal for the peer; answer with [`Engine::handle_fetched`].
    Fetch {
        /// The entry.
        stamp: Stamp,
        /// Its whole body.
        piece: JournalPiece,
    },
    /// Write these pieces to the backing stores and sync them, then [`Engine::handle_destaged`].
    Destage {
        /// The cut.
        cut: Stamp,
        /// Ascending by volume and block, not overlapping.
        pieces: Vec<DestagePiece>,
    },
    /// Read what the blocks held before this COMPARE AND WRITE and compare; answer with [`Engine::handle_judged`].
    Judge {
        /// Which entry.
        stamp: Stamp,
        /// The volume.
        volume: VolumeId,
        /// Where what must be there is.
        compare: Source,
        /// Where what is there is: ascending and gapless.
        pieces: Vec<SourcePiece>,
    },
    /// Ask the volume's store for this, in a nexus that stands for `nexus` (E5.1); answer with [`Engine::handle_passed`].
    Pass {
        /// Which entry.
        stamp: Stamp,
        /// The volume.
        volume: VolumeId,
        /// Who asks.
        nexus: Nexus,
        /// What.
        request: Arc<Request>,
    },
    /// An answer to [`Engine::handle_inspect`].
    Persistent {
        /// Which.
        op: OpId,
        /// The volume's registrations and persistent reservation.
        view: PersistentView,
    },
    /// Something follows for the hosts of this site from what was executed on this volume.
    Effect {
        /// The volume.
        volume: VolumeId,
        /// What.
        effect: Effect,
    },
    /// Save these reservations, as of the cut that was just destaged, before a checkpoint says that it was.
    SaveReservations(Vec<(VolumeId, Reservations)>),
    /// Make a group with the present [`Engine::checkpoint`] durable soon, even an empty one.
    Checkpoint,
    /// Somebody waits for what was appended so far: make it durable now. What nobody waits for may stay for a moment, so
    /// that more shares its write.
    Hurry,
    /// Tell the operator.
    Notice {
        /// How much it matters.
        severity: Severity,
        /// What happened.
        text: String,
    },
}

/// Counters of one volume, for status.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs)]
pub struct VolumeCounters {
    pub reads: u64,
    pub read_bytes: u64,
    pub writes: u64,
    pub written_bytes: u64,
    pub conflicts: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Volume {
    pub geometry: VolumeGeometry,
    pub rules: Rules,
    pub table: Table,
    pub doors: Doors,
    pub ledger: Ledger,
    /// Newest own stamp on this volume: what a flush in `flush` mode waits for.
    pub own_last: Stamp,
    pub counters: VolumeCounters,
}

/// Two writes of different sites that met in the hold table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// Counts from 1.
    pub number: u64,
    /// The volume.
    pub volume: VolumeId,
    /// The blocks that both wrote.
    pub extent: Extent,
    /// The newer, which the blocks show.
    pub winner: Stamp,
    /// The older.
    pub loser: Stamp,
}

/// How many conflicts are remembered for showing.
const CONFLICTS_KEPT: usize = 256;

/// One site's engine. A copy of it goes on from where it stands, and tells itself apart by nothing.
#[derive(Clone, Debug)]
pub struct Engine {
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) run: u32,
    pub(crate) seq_next: u64,
    pub(crate) volumes: BTreeMap<VolumeId, Volume>,
    /// Entries of each origin that are not retired, by stamp.
    pub(crate) entries: [BTreeMap<Stamp, Held>; 2],
    /// Worst-case journal bytes of the entries of each origin.
    pub(crate) held_charges: [u64; 2],
    /// Worst-case bytes of entries for which the journal surely has room now.
    pub(crate) journal_room: u64,
    /// Payload bytes in memory.
    pub(crate) hold_bytes: u64,
    /// Entries whose payload may be dropped from memory, oldest append first.
    pub(crate) evictable: VecDeque<Stamp>,
    pub(crate) append_next: AppendSeq,
    pub(crate) append_durable: AppendSeq,
    /// Up to here the journal was told to hurry.
    hurried: AppendSeq,
    /// Appended, not durable, of each origin, in append order.
    pub(crate) volatile: [VecDeque<(AppendSeq, Stamp)>; 2],
    pub(crate) waiting: crate::hosts::Waiting,
    pub(crate) inbound: Inbound,
    pub(crate) outbound: Outbound,
    pub(crate) session: Session,
    pub(crate) cuts: Cuts,
    pub(crate) conflicts: VecDeque<Conflict>,
    pub(crate) conflicts_seen: u64,
    pub(crate) draining: bool,
    pub(crate) order: crate::control::Order,
    actions: VecDeque<Action>,
}

impl Engine {
    /// An engine in the state that its journal tells of. Feed the journal's entries with
    /// [`Engine::recover_entry`] and end with [`Engine::recovered`] before anything else.
    pub fn new(config: Config, recovered: &Recovered, now: Now) -> Engine {
        let checkpoint = recovered.checkpoint;
        let ledger = |id: VolumeId| {
            let saved = recovered.reservations.iter().find(|(of, _)| *of == id);
            Ledger::new(saved.map(|(_, saved)| saved))
        };
        let volumes = config
            .volumes
            .iter()
            .map(|(geometry, rules)| {
                let volume = Volume {
                    geometry: geometry.clone(),
                    rules: *rules,
                    table: Table::new(config.table),
                    doors: Doors::default(),
                    ledger: ledger(geometry.id),
                    own_last: Stamp::ZERO,
                    counters: VolumeCounters::default(),
                };
                (geometry.id, volume)
            })
            .collect();
        let run = checkpoint.run.wrapping_add(1);
        Engine {
            clock: Clock::new(
                config.site,
                checkpoint.clock_ceiling,
                checkpoint.destaged.time,
                config.hold_every.max(config.max_offset),
                now,
            ),
            run,
            seq_next: u64::from(run) << 40,
            volumes,
            entries: [BTreeMap::new(), BTreeMap::new()],
            held_charges: [0; 2],
            journal_room: u64::MAX,
            hold_bytes: 0,
            evictable: VecDeque::new(),
            append_next: AppendSeq(1),
            append_durable: AppendSeq(0),
            hurried: AppendSeq(0),
            volatile: [VecDeque::new(), VecDeque::new()],
            waiting: crate::hosts::Waiting::default(),
            inbound: Inbound::new(checkpoint.destaged),
            outbound: Outbound::new(checkpoint.destaged),
            session: Session::new(recovered.journal, checkpoint),
            cuts: Cuts::new(checkpoint.destaged),
            conflicts: VecDeque::new(),
            conflicts_seen: 0,
            draining: false,
            order: crate::control::Order::default(),
            actions: VecDeque::new(),
            config,
        }
    }

    /// Takes in an entry that recovery found, in journal order. Its data stays in the journal and need not be given.
    pub fn recover_entry(&mut self, entry: &Entry, pos: JournalPos) {
        if let Body::Verdict(verdict) = entry.body {
            return self.recover_verdict(entry.stamp, verdict);
        }
        if entry.stamp <= self.cuts.destaged || self.knows(entry.stamp) {
            return;
        }
        self.hold(entry, HeldBody::of(&entry.body, false), AppendSeq(0), Some(pos));
        self.clock.observe(entry.stamp.time);
        if entry.stamp.site == self.config.site {
            let bytes = self.entries[entry.stamp.site.index()].get(&entry.stamp).map_or(0, Held::charge);
            self.outbound.charge_again(entry.stamp, bytes);
            // A flush of this run also answers for what an earlier run completed here only.
            if let Some(volume) = self.volumes.get_mut(&entry.volume) {
                volume.own_last = volume.own_last.max(entry.stamp);
            }
        }
    }

    /// All entries are in: from here on the engine works.
    pub fn recovered(&mut self, now: Now) {
        let own = self.config.site;
        let newest = |entries: &BTreeMap<Stamp, Held>| entries.last_key_value().map(|(stamp, _)| *stamp);
        self.outbound.recovered(newest(&self.entries[own.index()]));
        self.inbound.recovered(newest(&self.entries[own.peer().index()]));
        let own_newest = self.outbound.issued;
        self.session.recovered(own_newest);
        self.look_ahead();
        self.suspect_holders();
        self.conflicts.clear();
        self.conflicts_seen = 0;
        for volume in self.volumes.values_mut() {
            volume.counters = VolumeCounters::default();
        }
        // The first group of this run makes the run number, the resume bound and a clock ceiling durable.
        self.order(Action::Checkpoint);
        self.handle_tick(now);
    }

    /// The next order, oldest first.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What the next journal group must carry.
    pub fn checkpoint(&mut self, now: Now) -> Checkpoint {
        Checkpoint {
            clock_ceiling: self.clock.ceiling_to_write(now),
            destaged: self.cuts.destaged_written(),
            resume_from: self.session.resume_from,
            peer_journal: self.session.peer_journal,
            run: self.run,
        }
    }

    /// An [`Action::Append`] has its place in the journal.
    pub fn handle_appended(&mut self, stamp: Stamp, append: AppendSeq, pos: JournalPos) {
        if let Some(held) = self.entries[stamp.site.index()].get_mut(&stamp) {
            assert_eq!(held.append, append, "engine and journal count appends alike");
            held.pos = Some(pos);
        }
    }

    /// A group is durable: all appends up to `upto`, and `checkpoint`.
    pub fn handle_durable(&mut self, now: Now, upto: AppendSeq, checkpoint: &Checkpoint) {
        self.clock.ceiling_written(checkpoint.clock_ceiling);
        self.append_durable = self.append_durable.max(upto);
        for origin in SiteId::BOTH {
            while let Some((append, stamp)) = self.volatile[origin.index()].front().copied() {
                if append > upto {
                    break;
                }
                self.volatile[origin.index()].pop_front();
                if origin == self.config.site {
                    self.outbound.durable = self.outbound.durable.max(stamp);
                } else {
                    self.inbound.durable = self.inbound.durable.max(stamp);
                    self.session.ack_owed = true;
                }
            }
        }
        let cut_waited = self.recorded(upto);
        self.session_durable(now, checkpoint);
        self.passes_written(now);
        self.execute(now);
        self.wake_durable();
        self.evict();
        self.pump_doors(now);
        self.pump_outbound();
        if cut_waited {
            self.try_cut(now);
        }
    }

    /// Time passed.
    pub fn handle_tick(&mut self, now: Now) {
        self.session_tick(now);
        self.judge_again(now);
        self.expire(now);
        self.pump_doors(now);
        self.pump_outbound();
        self.try_cut(now);
        if self.clock.wants_ceiling(now) {
            self.order(Action::Checkpoint);
        }
    }

    /// Monotonic time at which [`Engine::handle_tick`] has something to do.
    pub fn next_deadline(&self, now: Now) -> u64 {
        let wall = |at: u64| now.mono + at.saturating_sub(now.wall);
        let ceiling = wall(self.clock.ceiling_due()).max(now.mono + 1_000_000);
        let cut = wall(self.cuts.next_boundary(now, self.config.hold_every));
        self.session_deadline()
            .min(self.waiting_deadline())
            .min(self.order.retry_at.unwrap_or(u64::MAX))
            .min(ceiling)
            .min(cut)
    }

    /// How many bytes of entries surely find room in the journal, once all appends ordered so far are in it.
    pub fn set_journal_room(&mut self, bytes: u64) {
        self.journal_room = bytes;
    }

    /// To be called after a batch of events was handled: sends the ack that the batch earned.
    pub fn handle_batch_end(&mut self, now: Now) {
        self.listen_again();
        if self.session.ack_owed && self.session.accepted() {
            self.session.ack_owed = false;
            let ack = self.ack(now);
            self.order(Action::Send(Message::Ack(ack)));
        }
    }

    /// No new commands from hosts from now on.
    pub fn handle_drain(&mut self, now: Now) {
        self.draining = true;
        self.pump_doors(now);
    }

    /// Whether commands of hosts are still under way.
    pub fn busy(&self) -> bool {
        !self.waiting.is_empty() || self.requests_under_way()
    }

    /// Where the bytes of part of a held entry are; [`Source::Store`] when it is not held any more.
    pub fn source(&self, stamp: Stamp, extent: Extent) -> Source {
        let Some(held) = self.entries[stamp.site.index()].get(&stamp) else {
            return Source::Store;
        };
        let skip = held.lead() + (extent.start().0 - held.extent.start().0) * BLOCK_BYTES;
        self.source_at(held, skip, extent)
    }

    /// What a COMPARE AND WRITE compares.
    pub(crate) fn compared(&self, held: &Held) -> Source {
        self.source_at(held, 0, held.extent)
    }

    fn source_at(&self, held: &Held, skip: u64, extent: Extent) -> Source {
        match (&held.body, held.pos) {
            (HeldBody::Data(Some(bytes)) | HeldBody::Swap(Some(bytes)), _) => {
                Source::Memory(bytes.slice(skip as usize..(skip + extent.bytes()) as usize))
            }
            (HeldBody::Data(None) | HeldBody::Swap(None), Some(pos)) => Source::Journal(JournalPiece {
                pos,
                body_bytes: held.body_bytes(),
                body_crc: held.body_crc,
                skip: skip as u32,
                bytes: extent.bytes() as u32,
            }),
            (HeldBody::Data(None) | HeldBody::Swap(None), None) => {
                unreachable!("only entries with a place in the journal lose their bytes")
            }
            (HeldBody::Fill(block), _) => Source::Fill(block.clone()),
            (HeldBody::Unmap, _) => Source::Zero,
            (HeldBody::Control(_), _) => unreachable!("a request has no blocks, so no piece names it"),
        }
    }

    pub(crate) fn order(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    pub(crate) fn notice(&mut self, severity: Severity, text: String) {
        self.order(Action::Notice { severity, text });
    }

    /// Whether this entry is held.
    pub(crate) fn knows(&self, stamp: Stamp) -> bool {
        self.entries[stamp.site.index()].contains_key(&stamp)
    }

    /// Puts an entry into the tables; it shows from now on where it is the newest.
    pub(crate) fn hold(&mut self, entry: &Entry, body: HeldBody, append: AppendSeq, pos: Option<JournalPos>) {
        if let Some(Some(bytes)) = body.bytes() {
            self.hold_bytes += bytes.len() as u64;
            self.evictable.push_back(entry.stamp);
        }
        let fate = if matches!(body, HeldBody::Swap(_)) { Fate::Undecided } else { Fate::Holds };
        let held = Held {
            volume: entry.volume,
            extent: entry.extent,
            host: entry.host,
            isid: entry.isid,
            seq: entry.seq,
            body,
            body_crc: entry.body_crc,
            append,
            pos,
            fate,
            recorded: self.records(entry.volume, &entry.body),
        };
        self.held_charges[entry.stamp.site.index()] += held.charge();
        let shows = fate.shows() && held.is_data();
        self.entries[entry.stamp.site.index()].insert(entry.stamp, held);
        if shows {
            self.show(entry.stamp, entry.volume, entry.extent);
        }
        self.take_turn(entry.stamp);
    }

    /// Enters an entry into its volume's table; it shows from now on where it is the newest.
    pub(crate) fn show(&mut self, stamp: Stamp, id: VolumeId, extent: Extent) {
        let Some(volume) = self.volumes.get_mut(&id) else { return };
        let (conflicts, seen, counters) =
            (&mut self.conflicts, &mut self.conflicts_seen, &mut volume.counters);
        volume.table.insert(stamp, extent, &mut |met, extent| {
            if met.site == stamp.site {
                return;
            }
            counters.conflicts += 1;
            *seen += 1;
            if conflicts.len() == CONFLICTS_KEPT {
                conflicts.pop_front();
            }
            conflicts.push_back(Conflict {
                number: *seen,
                volume: id,
                extent,
                winner: met.max(stamp),
                loser: met.min(stamp),
            });
        });
    }

    /// Appends an entry of either origin: hold it, journal it.
    pub(crate) fn append(&mut self, entry: Entry) -> AppendSeq {
        let append = self.append_next;
        self.append_next = AppendSeq(append.0 + 1);
        self.journal_room = self.journal_room.saturating_sub(self.charge_of(entry.volume, &entry.body));
        self.hold(&entry, HeldBody::of(&entry.body, true), append, None);
        self.volatile[entry.stamp.site.index()].push_back((append, entry.stamp));
        let awaited = self.awaited_when_appended(&entry);
        self.order(Action::Append(entry));
        if awaited {
            self.hurry();
        }
        append
    }

    /// Whether a host here or at the peer may be waiting for this from the beginning: all but the peer's plain writes of
    /// async volumes. A read that meets one of those asks for hurry when it comes.
    fn awaited_when_appended(&self, entry: &Entry) -> bool {
        let mode = self.volumes.get(&entry.volume).map(|volume| volume.rules.mode);
        let plain = matches!(entry.body, Body::Data(_) | Body::Fill(_) | Body::Unmap);
        entry.stamp.site == self.config.site || !plain || mode != Some(Mode::Async)
    }

    /// Has the journal write what was appended without waiting for more.
    pub(crate) fn hurry(&mut self) {
        let newest = AppendSeq(self.append_next.0 - 1);
        if self.hurried < newest {
            self.hurried = newest;
            self.order(Action::Hurry);
        }
    }

    /// Drops payload from memory, oldest first, until the limit is kept; it stays in the journal.
    pub(crate) fn evict(&mut self) {
        if crate::mutant::planted(crate::mutant::Mutant::HoldUnbounded) {
            return;
        }
        while self.hold_bytes > self.config.hold_memory {
            let Some(stamp) = self.evictable.front().copied() else {
                return;
            };
            if let Some(held) = self.entries[stamp.site.index()].get_mut(&stamp) {
                if held.append > self.append_durable {
                    return; // nothing behind it is durable either
                }
                if let Some(bytes) = held.body.bytes_mut()
                    && let Some(bytes) = bytes.take()
                {
                    self.hold_bytes -= bytes.len() as u64;
                }
            }
            self.evictable.pop_front();
        }
    }

    /// Entry as it travels, if its body is in memory.
    pub(crate) fn entry_of(&self, stamp: Stamp, fetched: Option<Bytes>) -> Option<Entry> {
        let held = self.entries[stamp.site.index()].get(&stamp)?;
        let body = match &held.body {
            HeldBody::Data(bytes) => Body::Data(fetched.or_else(|| bytes.clone())?),
            HeldBody::Swap(bytes) => Body::Swap(fetched.or_else(|| bytes.clone())?),
            HeldBody::Fill(block) => Body::Fill(block.clone()),
            HeldBody::Unmap => Body::Unmap,
            HeldBody::Control(request) => Body::Control(request.clone()),
        };
        Some(held.entry(stamp, body))
    }
}
