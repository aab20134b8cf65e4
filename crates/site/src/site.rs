//! The site itself: what it is made of, how it opens, how events reach their room and orders leave.

use crate::api::*;
use crate::destage::Destager;
use crate::link::Link;
use crate::onlook::Onlook;
use crate::passing::Passing;
use crate::patience::Patience;
use crate::read::Assembly;
use crate::unit::Unit;
use biplex_engine::engine::{self, Engine, JournalPiece, OpId};
use biplex_engine::message::VolumeGeometry;
use biplex_engine::mutant::{Mutant, planted};
use biplex_engine::reserve::{Effect, Reservations};
use biplex_engine::{Body, Extent, HostId, Nexus, Now, Stamp, VolumeId};
use biplex_front::iscsi::{Chap, Target, TargetAction, TargetConfig};
use biplex_front::scsi::{Device, PortConfig};
use biplex_front::{Completion, Failure, TaskId};
use biplex_store::{Disk, DiskOp, DiskResult, DiskTicket, Journal};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Why a site cannot be opened.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(pub String);

/// Randomness from outside: fills the slice.
pub type Entropy = Box<dyn FnMut(&mut [u8]) + Send>;

/// How many alarms are remembered for status.
const ALARMS_KEPT: usize = 100;
/// How many effects of requests are remembered for checkers.
const EFFECTS_KEPT: usize = 4096;

/// Who waits for a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asker {
    /// A host over iSCSI.
    Host(TaskId),
    /// Whoever submitted it past iSCSI.
    Direct(TaskId),
}

/// What a disk order is for.
#[derive(Debug)]
pub(crate) enum Errand {
    Group,
    ReadStore { op: OpId, index: usize, volume: VolumeId, extent: Extent },
    ReadJournal { op: OpId, index: usize, piece: JournalPiece, extent: Extent, skip: usize },
    FetchForPeer { stamp: Stamp, piece: JournalPiece, skip: usize },
    DestageRead { volume: VolumeId, extent: Extent, piece: JournalPiece, skip: usize },
    DestageWrite { volume: VolumeId, bytes: u64 },
    DestageSync { volume: VolumeId },
}

#[derive(Clone, Debug, Default)]
pub(crate) struct VolumeLife {
    pub destaged_bytes: u64,
    pub errors: u64,
    pub last_error: Option<String>,
}

pub(crate) struct HostLife {
    pub name: String,
    pub remote: String,
}

/// One site of a pair. Single-threaded; holds all state.
pub struct Site {
    pub(crate) config: SiteConfig,
    pub(crate) engine: Engine,
    pub(crate) journal: Journal,
    pub(crate) target: Target,
    pub(crate) link: Option<Link>,
    pub(crate) askers: BTreeMap<OpId, Asker>,
    /// The operation behind each host's task.
    host_ops: BTreeMap<TaskId, OpId>,
    pub(crate) assemblies: BTreeMap<OpId, Assembly>,
    /// Assemblies that are for a COMPARE AND WRITE to be judged, which has no asker here.
    pub(crate) judgements: BTreeMap<OpId, (VolumeId, Stamp)>,
    pub(crate) next_op: u64,
    pub(crate) errands: BTreeMap<DiskTicket, Errand>,
    /// Reads of backing stores under way: a destage waits for those that began before it.
    pub(crate) store_reads: BTreeSet<DiskTicket>,
    next_ticket: u64,
    pub(crate) destager: Option<Destager>,
    /// The volumes whose stores are SCSI units.
    pub(crate) units: BTreeMap<VolumeId, Unit>,
    /// What they were asked in the names of hosts.
    pub(crate) passing: Passing,
    /// What operators ask them.
    pub(crate) onlook: Onlook,
    pub(crate) lives: BTreeMap<VolumeId, VolumeLife>,
    pub(crate) hosts: BTreeMap<Nexus, HostLife>,
    /// Names of hosts of either site, for showing.
    pub(crate) host_names: BTreeMap<HostId, String>,
    pub(crate) alarms: VecDeque<String>,
    /// See [`Site::take_effects`].
    pub(crate) effects: VecDeque<(VolumeId, Effect)>,
    pub(crate) entries_appended: u64,
    pub(crate) patience: Patience,
    pub(crate) draining: bool,
    drained: bool,
    halted: bool,
    pub(crate) out: Vec<Action>,
}

impl Site {
    /// Recovers the site from its journal (made before with [`biplex_store::create`]).
    pub fn open(
        config: SiteConfig,
        journal: &mut dyn Disk,
        entropy: Entropy,
        now: Now,
    ) -> Result<Site, OpenError> {
        let mut found = Vec::new();
        let (journal, recovered) =
            biplex_store::recover(journal, Some((config.site, config.pair)), &mut |entry, pos| {
                // Bodies stay in the journal; only what is held is kept of them.
                let body = match &entry.body {
                    Body::Data(_) => Body::Data(Bytes::new()),
                    Body::Swap(_) => Body::Swap(Bytes::new()),
                    other => other.clone(),
                };
                found.push((biplex_engine::Entry { body, ..entry }, pos));
            })
            .map_err(|error| OpenError(error.to_string()))?;
        let engine_config = engine::Config {
            site: config.site,
            pair: config.pair,
            volumes: config.volumes.iter().map(|volume| (geometry(volume), volume.rules)).collect(),
            hold_time: config.hold_time,
            hold_every: config.hold_every,
            table: config.table,
            hold_memory: config.hold_memory,
            journal_usable: journal.usable_bytes(),
            // Journals of the sizes that the daemon allows all have slots of the same size.
            reservation_bytes: journal.state_bytes_max() as u64 / config.volumes.len().max(1) as u64,
            max_offset: config.max_offset,
            lease: config.lease,
            wait_max: config.wait_max,
            window_bytes: config.window_bytes,
        };
        let checkpoint = engine::Checkpoint {
            clock_ceiling: recovered.checkpoint.clock_ceiling,
            destaged: recovered.checkpoint.destaged,
            resume_from: recovered.checkpoint.resume_from,
            peer_journal: recovered.checkpoint.peer_journal,
            run: recovered.checkpoint.run,
        };
        let reservations = recovered_reservations(recovered.state.as_deref())?;
        let found_by_engine =
            engine::Recovered { journal: recovered.identity.journal, checkpoint, reservations };
        let mut engine = Engine::new(engine_config, &found_by_engine, now);
        let count = found.len();
        for (entry, pos) in found {
            engine.recover_entry(&entry, pos);
        }
        engine.recovered(now);
        let target = Target::new(target_config(&config), device(&config), entropy);
        let mut site = Site {
            lives: config.volumes.iter().map(|volume| (volume.unit.volume, VolumeLife::default())).collect(),
            units: crate::units::units(&config),
            passing: Passing::default(),
            onlook: Onlook::default(),
            config,
            engine,
            journal,
            target,
            link: None,
            askers: BTreeMap::new(),
            host_ops: BTreeMap::new(),
            assemblies: BTreeMap::new(),
            judgements: BTreeMap::new(),
            next_op: 1,
            errands: BTreeMap::new(),
            store_reads: BTreeSet::new(),
            next_ticket: 1,
            destager: None,
            hosts: BTreeMap::new(),
            host_names: BTreeMap::new(),
            alarms: VecDeque::new(),
            effects: VecDeque::new(),
            entries_appended: 0,
            patience: Patience::default(),
            draining: false,
            drained: false,
            halted: false,
            out: Vec::new(),
        };
        let torn = recovered.torn_at.map_or(String::new(), |at| {
            format!("; a group that was being written when the site stopped was cut off at byte {at}")
        });
        site.notice(
            Severity::Info,
            format!(
                "recovered {count} entries from the journal, {} still held{torn}",
                site.engine.held_entries()
            ),
        );
        for volume in site.config.volumes.iter().map(|volume| volume.unit.volume).collect::<Vec<_>>() {
            let modes = site.engine.reservations(volume).map(|table| table.modes()).unwrap_or_default();
            site.target.apply_effect(volume, &Effect::Modes(modes));
        }
        site.open_nexuses();
        site.settle(now);
        Ok(site)
    }

    /// Says what the backing stores hold, before the sites first meet: they refuse to pair if it is not the same.
    pub fn set_stores_fingerprint(&mut self, fingerprint: u64) {
        self.engine.set_stores_fingerprint(fingerprint);
    }

    /// Takes a fact in. Orders that follow from it wait for [`Site::poll`].
    pub fn handle(&mut self, now: Now, event: Event) {
        if self.halted {
            return;
        }
        match event {
            Event::HostConnected { conn, local, remote } => {
                self.target.handle_connected(now, conn, local, remote)
            }
            Event::HostBytes { conn, bytes } => self.target.handle_bytes(now, conn, bytes),
            Event::HostBacklog { conn, queued } => self.target.handle_backlog(now, conn, queued),
            Event::HostClosed { conn } => self.target.handle_closed(now, conn),
            Event::LinkConnected { link } => self.link_connected(now, link),
            Event::LinkBytes { link, bytes } => self.link_bytes(now, link, bytes),
            Event::LinkBacklog { link, queued } => {
                if self.link.as_ref().is_some_and(|present| present.id == link) {
                    self.engine.handle_link_backlog(queued);
                }
            }
            Event::LinkClosed { link } => self.link_closed(now, link),
            Event::DiskDone { ticket, result } => self.disk_done(now, ticket, result),
            Event::UnitConnected { conn } => self.unit_connected(now, conn),
            Event::UnitBytes { conn, bytes } => self.unit_bytes(now, conn, bytes),
            Event::UnitClosed { conn, why } => self.unit_closed(now, conn, &why),
            Event::Submit { task, nexus, volume, command } => {
                self.submit(now, Asker::Direct(task), nexus, volume, command)
            }
            Event::NexusLost { nexus } => self.engine.handle_nexus_lost(now, nexus),
            Event::Tick => {
                self.engine.handle_tick(now);
                self.target.handle_tick(now);
                self.units.values_mut().for_each(|unit| unit.advance(now.mono));
                self.prune_nexuses(now);
                self.give_up_looks(now.mono);
            }
            Event::Drain => {
                self.draining = true;
                self.engine.handle_drain(now);
                self.engine.handle_tick(now);
                self.target.handle_drain(now);
            }
        }
        self.settle(now);
    }

    /// Hands the orders out, in order; call after a batch of events. Closes the journal group and the acks of the
    /// batch: whatever came in together is sent to the peer together, then made durable together.
    pub fn poll(&mut self, now: Now, actions: &mut Vec<Action>) {
        if !self.halted {
            self.engine.handle_batch_end(now);
            self.settle(now);
            self.close_group(now);
            self.finish_drain();
        }
        actions.append(&mut self.out);
    }

    /// Monotonic time at or after which a [`Event::Tick`] is wanted.
    pub fn next_deadline(&self, now: Now) -> u64 {
        // A write under way is waited for, not a time.
        let group = self.patience.deadline().filter(|_| !self.journal.writing());
        let units = self.units.values().filter_map(Unit::next_deadline);
        let due =
            [self.target.next_deadline(), group, self.onlook.deadline()].into_iter().flatten().chain(units);
        due.fold(self.engine.next_deadline(now), u64::min)
    }

    /// Carries the engine's and the target's orders on until neither has one.
    pub(crate) fn settle(&mut self, now: Now) {
        loop {
            if let Some(action) = self.engine.poll() {
                self.carry_out(now, action);
            } else if let Some(action) = self.target.poll() {
                self.serve_host(now, action);
            } else if !self.serve_units(now) {
                // Every append ordered so far is in the journal.
                self.engine.set_journal_room(self.journal.room_bytes());
                return;
            }
            if self.halted {
                return;
            }
        }
    }

    fn carry_out(&mut self, now: Now, action: engine::Action) {
        match action {
            engine::Action::Append(entry) => self.append(now, &entry),
            engine::Action::Send(message) => self.send(message),
            engine::Action::Paired => self.tell_hosts(),
            engine::Action::CloseLink { why } => self.close_link(now, why),
            engine::Action::Complete { op, outcome } => self.complete(now, op, outcome),
            engine::Action::Serve { op, volume, pieces } => self.serve_read(now, op, volume, pieces),
            engine::Action::Fetch { stamp, piece } => {
                let skip = self.journal_read_skip(piece);
                self.read_journal(piece, Errand::FetchForPeer { stamp, piece, skip });
            }
            engine::Action::Destage { cut, pieces } => self.start_destage(now, cut, pieces),
            engine::Action::Judge { stamp, volume, compare, pieces } => {
                self.judge(now, volume, stamp, compare, pieces);
            }
            engine::Action::Pass { stamp, volume, nexus, request } => {
                self.pass(now, stamp, volume, nexus, request);
            }
            engine::Action::Persistent { op, view } => {
                if !self.inspect(op) {
                    self.answer(now, op, Completion::Persistent(view));
                }
            }
            engine::Action::Effect { volume, effect } => {
                self.target.apply_effect(volume, &effect);
                self.unpark_dropped(now, volume, &effect);
                self.remember_effect(volume, effect);
            }
            engine::Action::SaveReservations(all) => self.save_reservations(&all),
            engine::Action::Checkpoint => self.journal.request_group(),
            engine::Action::Hurry => self.patience.hurry(now),
            engine::Action::Notice { severity, text } => self.notice(severity, text),
        }
    }

    fn serve_host(&mut self, now: Now, action: TargetAction) {
        match action {
            TargetAction::Send { conn, bytes } => self.out.push(Action::HostSend { conn, bytes }),
            TargetAction::Close { conn } => self.out.push(Action::HostClose { conn }),
            TargetAction::Command { task, nexus, command } => {
                self.submit(now, Asker::Host(task), nexus, command.volume, command.command);
            }
            TargetAction::Leave { task, nexus } => {
                let op = self.new_op(Asker::Host(task));
                self.engine.handle_leave(now, op, nexus);
            }
            TargetAction::Abandon { task } => {
                if let Some(op) = self.host_ops.get(&task).copied()
                    && !self.unpark(now, op)
                {
                    self.forget_inspection(op);
                    self.engine.handle_abandoned(op);
                }
            }
            TargetAction::LoggedIn { nexus, initiator, remote } => {
                self.notice(Severity::Info, format!("host {initiator} logged in from {remote}"));
                self.hosts.insert(nexus, HostLife { name: initiator.to_string(), remote });
                self.learn_host(initiator.to_string());
                if self.engine.link_view().accepted {
                    self.tell_host(&initiator);
                }
            }
            TargetAction::LoggedOut { nexus, initiator } => {
                self.notice(Severity::Info, format!("host {initiator} left"));
                self.hosts.remove(&nexus);
                self.close_idle_nexus(now, nexus);
                self.engine.handle_nexus_lost(now, nexus);
            }
            TargetAction::Refused { why, .. } => {
                self.notice(Severity::Warning, format!("host refused: {why}"))
            }
        }
    }

    /// Answers whoever asked, exactly once.
    pub(crate) fn answer(&mut self, now: Now, op: OpId, completion: Completion) {
        match self.askers.remove(&op) {
            Some(Asker::Host(task)) => {
                self.host_ops.remove(&task);
                self.target.handle_completion(now, task, completion);
            }
            Some(Asker::Direct(task)) => self.out.push(Action::Answer { task, completion }),
            None => {}
        }
    }

    pub(crate) fn new_op(&mut self, asker: Asker) -> OpId {
        let op = OpId(self.next_op);
        self.next_op += 1;
        if let Asker::Host(task) = asker {
            self.host_ops.insert(task, op);
        }
        self.askers.insert(op, asker);
        op
    }

    pub(crate) fn order_disk(&mut self, op: DiskOp, errand: Errand) -> DiskTicket {
        let ticket = DiskTicket(self.next_ticket);
        self.next_ticket += 1;
        self.errands.insert(ticket, errand);
        self.order_store(ticket, op);
        ticket
    }

    pub(crate) fn disk_done(&mut self, now: Now, ticket: DiskTicket, result: DiskResult) {
        let Some(errand) = self.errands.remove(&ticket) else { return };
        match errand {
            Errand::Group => self.group_done(now, result.map(|_| ())),
            Errand::ReadStore { op, index, volume, extent } => {
                self.store_reads.remove(&ticket);
                self.store_read_done(now, op, index, volume, extent, result);
                self.destage_after_read(now, ticket);
            }
            Errand::ReadJournal { op, index, piece, extent, skip } => {
                let body = self.journal_read_done(piece, skip, result);
                self.journal_part_done(now, op, index, piece, extent, body);
            }
            Errand::FetchForPeer { stamp, piece, skip } => {
                let body = self.journal_read_done(piece, skip, result);
                self.engine.handle_fetched(stamp, body.ok());
            }
            Errand::DestageRead { volume, extent, piece, skip } => {
                let body = self.journal_read_done(piece, skip, result);
                self.destage_read_done(now, volume, extent, piece, body);
            }
            Errand::DestageWrite { volume, bytes } => {
                self.destage_write_done(now, volume, bytes, result.map(|_| ()));
            }
            Errand::DestageSync { volume } => self.destage_sync_done(now, volume, result.map(|_| ())),
        }
    }

    /// Checkers ask for it with [`Site::take_effects`].
    fn remember_effect(&mut self, volume: VolumeId, effect: Effect) {
        if self.effects.len() == EFFECTS_KEPT {
            self.effects.pop_front();
        }
        self.effects.push_back((volume, effect));
    }

    /// Keeps the reservations as of the cut that was just destaged, for recovery to begin with.
    fn save_reservations(&mut self, all: &[(VolumeId, Reservations)]) {
        let parts: Vec<_> = all.iter().map(|(id, table)| (*id, table.parts().clone())).collect();
        self.journal.save_state(biplex_format::encode_reservations(&parts).into());
    }

    /// Stops for good: an error means "unknown", so nothing may be said any more until recovery has looked.
    pub(crate) fn halt(&mut self, why: String) {
        self.halted = true;
        self.out.retain(|action| matches!(action, Action::Notice(_)));
        self.out.push(Action::Halt { why });
    }

    fn finish_drain(&mut self) {
        let idle = !self.engine.busy() && self.errands.is_empty() && self.assemblies.is_empty();
        let idle = idle && self.passing.is_idle();
        if self.draining && !self.drained && idle {
            self.drained = true;
            self.out.push(Action::Drained);
        }
    }

    pub(crate) fn notice(&mut self, severity: Severity, text: String) {
        if severity == Severity::Alarm {
            if self.alarms.len() == ALARMS_KEPT {
                self.alarms.pop_front();
            }
            self.alarms.push_back(text.clone());
        }
        self.out.push(Action::Notice(Notice { severity, text }));
    }

    pub(crate) fn recycle(&mut self, now: Now, destaged: Stamp) {
        let upto = if planted(Mutant::RecycleTooEarly) {
            Stamp::last_of(now.wall.saturating_sub(self.config.hold_time))
        } else {
            destaged
        };
        self.journal.recycle(upto);
    }
}

/// The reservations that the journal's state says.
fn recovered_reservations(state: Option<&[u8]>) -> Result<Vec<(VolumeId, Reservations)>, OpenError> {
    let Some(state) = state else { return Ok(Vec::new()) };
    let damaged = |why: String| OpenError(format!("the reservations in the journal cannot be read: {why}"));
    let tables = biplex_format::decode_reservations(state).map_err(|error| damaged(error.to_string()))?;
    let one = |(id, state)| Reservations::from_parts(state).map(|table| (id, table)).map_err(damaged);
    tables.into_iter().map(one).collect()
}

pub(crate) fn geometry(volume: &VolumeConfig) -> VolumeGeometry {
    VolumeGeometry {
        id: volume.unit.volume,
        name: volume.unit.name.clone(),
        lun: volume.unit.lun,
        blocks: volume.unit.blocks,
        mode: volume.rules.ordinal(),
    }
}

fn target_config(config: &SiteConfig) -> TargetConfig {
    TargetConfig {
        name: config.port.target.clone(),
        group: config.port.group,
        portal: config.portal.clone(),
        peer_portals: Vec::new(),
        chap: config.chap.as_ref().map(|chap| Chap {
            user: chap.user.clone(),
            secret: chap.secret.clone(),
            mutual: chap.mutual.clone(),
        }),
    }
}

fn device(config: &SiteConfig) -> Device {
    let peer = PortConfig {
        site: config.site.peer(),
        target: config.port.target.clone(),
        group: if config.port.group == 1 { 2 } else { 1 },
        relative: if config.port.relative == 1 { 257 } else { 1 },
    };
    let units = config.volumes.iter().map(|volume| volume.unit.clone()).collect();
    let mut device = Device::new(config.port.clone(), peer, units);
    for volume in config.volumes.iter().filter(|volume| volume.rules.mode == Mode::Flush) {
        device.announce_write_cache(volume.unit.volume);
    }
    let serves_swaps = |rules: Rules| rules.mode == Mode::Sync || rules.swaps;
    for volume in config.volumes.iter().filter(|volume| !serves_swaps(volume.rules)) {
        device.withhold_compare_and_write(volume.unit.volume);
    }
    device
}

/// What a host is told when a command failed for good.
pub(crate) fn failed(failure: Failure) -> Completion {
    Completion::Failed(failure)
}
