//! Sessions of hosts: they write, read, fill, unmap, flush, compare and write small ranges that everybody else uses too,
//! wait for a while, and retry with new values. Every block that a host writes names the write. What they do about
//! reservations is in [`crate::claims`].

use crate::exclusion::Asked;
use crate::history::{Deed, Operation};
use crate::pattern::{self, Value};
use crate::place::volume_id;
use crate::random::Random;
use crate::scenario::Slant;
use crate::schedule::{Happening, MS, US};
use crate::world::World;
use biplex_engine::reserve::{PersistentView, Request, Verdict};
use biplex_engine::{BLOCK_BYTES, Extent, HostId, Lba, Nexus, SiteId};
use biplex_front::{Command, Completion, Failure, TaskId};
use biplex_site::{Event, Mode};
use bytes::Bytes;
use std::collections::BTreeMap;

/// What a host last saw of some blocks.
#[derive(Clone, Debug)]
pub struct Sight {
    volume: usize,
    extent: Extent,
    values: Vec<Value>,
}

/// A session of a host at one site.
#[derive(Clone, Debug)]
pub struct Host {
    /// The host.
    pub id: HostId,
    /// Which of its sessions.
    pub isid: u64,
    /// Its site.
    pub site: SiteId,
    /// Its choices.
    pub random: Random,
    /// Commands that it waits for: the index of each in the history.
    pub waiting: BTreeMap<TaskId, usize>,
    /// It was refused: it pauses until then.
    pub backs_off_until: u64,
    /// The session ended and is not back yet.
    pub gone: bool,
    /// Sessions that came back under another ISID.
    pub sessions: u64,
    /// What it will ask later, by time.
    pub owed: Vec<crate::claims::Owed>,
    /// Its reservation key per volume, as far as it knows.
    pub keys: BTreeMap<usize, u64>,
    /// Who was registered when it last asked, per volume.
    pub seen: BTreeMap<usize, PersistentView>,
    /// What it last read or swapped in.
    pub last: Option<Sight>,
}

/// A value that nobody writes.
const NOBODYS: Value = 1 << 62;

/// What a command is, before it is asked.
pub(crate) struct Wish {
    pub volume: usize,
    pub command: Command,
    pub deed: Deed,
    pub large: bool,
}

impl World {
    /// The host may issue a command; its next step is planned.
    pub(crate) fn step_host(&mut self, index: usize) {
        if self.hosts_stopped || self.scenario.slant == Slant::HandOver {
            return;
        }
        let think = self.scenario.think;
        let time = self.schedule.time();
        let host = &mut self.hosts[index];
        let pause = host.random.within(think);
        self.schedule.after(pause.max(US), Happening::HostStep(index));
        let idle = host.waiting.len() < self.scenario.depth && !host.gone;
        let backs_off = host.backs_off_until > time;
        if !idle || self.places[host.site.index()].site.is_none() {
            return;
        }
        if self.scenario.requests > 0 && self.hosts[index].random.one_in(500) {
            return self.lose_session(index);
        }
        if let Some(wish) = self.due(index) {
            self.ask(index, wish);
        } else if !backs_off {
            let wish = self.wish(index);
            self.ask(index, wish);
        }
    }

    /// Reads everything at both sites, as the last word of a run.
    pub(crate) fn read_everything(&mut self) {
        for index in [0, self.scenario.hosts] {
            for volume in 0..self.scenario.volumes.len() {
                let blocks = self.scenario.volumes[volume].blocks;
                for start in (0..blocks).step_by(32) {
                    let extent = Extent::new(Lba(start), 32.min(blocks - start)).expect("not empty");
                    let deed = Deed::Read { extent, values: Vec::new() };
                    let command = Command::Read { extent, fua: false };
                    self.ask(index, Wish { volume, command, deed, large: false });
                }
            }
        }
    }

    fn wish(&mut self, index: usize) -> Wish {
        let volume = self.hosts[index].random.below(self.scenario.volumes.len() as u64) as usize;
        let plan = self.scenario.volumes[volume].clone();
        let (usual, most) = self.scenario.blocks;
        if self.hosts[index].random.below(1_000) < self.scenario.requests {
            return self.reservation_wish(index, volume);
        }
        let host = &mut self.hosts[index].random;
        let large = host.one_in(12);
        let reach = if host.one_in(16) { plan.blocks } else { plan.hot };
        let extent = some_extent(host, reach, plan.blocks, if large { most } else { usual });
        let fua = host.one_in(8);
        let kind = host.weighted(&self.scenario.mix);
        let (command, deed) = match kind {
            0 => (Command::Read { extent, fua }, Deed::Read { extent, values: Vec::new() }),
            1 => {
                let value = self.new_value(volume, &[extent]);
                let data = pattern::blocks(value, extent.blocks());
                (Command::Write { extent, data, fua }, Deed::Write { extents: vec![extent], value })
            }
            2 => {
                let value = self.new_value(volume, &[extent]);
                let block = Bytes::copy_from_slice(&pattern::block(value));
                (Command::Fill { extent, block }, Deed::Write { extents: vec![extent], value })
            }
            3 => {
                let other = some_extent(&mut self.hosts[index].random, reach, plan.blocks, usual);
                let apart = self.hosts[index].random.one_in(3) && !other.overlaps(extent);
                let extents = if apart { vec![extent, other] } else { vec![extent] };
                self.unmapped(volume, &extents);
                (Command::Unmap { extents: extents.clone() }, Deed::Write { extents, value: 0 })
            }
            4 => (Command::Flush, Deed::Flush),
            _ => return self.swap_wish(index, volume, extent),
        };
        Wish { volume, command, deed, large }
    }

    /// A COMPARE AND WRITE, mostly of what the host has just seen.
    fn swap_wish(&mut self, index: usize, volume: usize, extent: Extent) -> Wish {
        let rules = self.scenario.volumes[volume].rules;
        let host = &mut self.hosts[index];
        let sight = host.last.take().filter(|sight| sight.volume == volume);
        let (extent, mut compare) = match sight {
            Some(sight) => (sight.extent, sight.values),
            None => (extent, vec![0; extent.blocks() as usize]),
        };
        if host.random.percent(self.scenario.mistaken) {
            let at = host.random.below(compare.len() as u64) as usize;
            compare[at] = NOBODYS;
        }
        if rules.mode != Mode::Sync && !rules.swaps {
            return self.write_wish(volume, extent);
        }
        let value = self.new_value(volume, &[extent]);
        let command = Command::CompareAndWrite {
            extent,
            compare: compare.iter().flat_map(|value| pattern::block(*value)).collect::<Vec<u8>>().into(),
            data: pattern::blocks(value, extent.blocks()),
        };
        Wish { volume, command, deed: Deed::Swap { extent, compare, value, ended: None }, large: false }
    }

    /// A plain write.
    pub(crate) fn write_wish(&mut self, volume: usize, extent: Extent) -> Wish {
        let value = self.new_value(volume, &[extent]);
        let data = pattern::blocks(value, extent.blocks());
        let command = Command::Write { extent, data, fua: false };
        Wish { volume, command, deed: Deed::Write { extents: vec![extent], value }, large: false }
    }

    fn new_value(&mut self, volume: usize, extents: &[Extent]) -> Value {
        self.values.push((volume, extents.to_vec()));
        self.values.len() as Value
    }

    fn unmapped(&mut self, volume: usize, extents: &[Extent]) {
        for extent in extents {
            for block in extent.start().0..extent.end().0 {
                for orders in &mut self.orders {
                    orders[volume].zeros_recur(block);
                }
            }
        }
    }

    pub(crate) fn ask(&mut self, index: usize, wish: Wish) {
        let host = &self.hosts[index];
        let (site, nexus) = (host.site, host.nexus());
        self.tasks += 1;
        let task = TaskId(self.tasks);
        let (asked, time) = (self.moment(), self.schedule.time());
        self.note(&[20, site as u64, task.0], &[], || {
            let what = match &wish.command {
                Command::Read { extent, .. } => format!("read {extent}"),
                Command::Write { extent, fua, .. } => format!("write {extent} fua {fua}"),
                Command::Fill { extent, .. } => format!("fill {extent}"),
                Command::Unmap { extents } => format!("unmap {extents:?}"),
                Command::Flush => "flush".to_owned(),
                Command::CompareAndWrite { extent, .. } => format!("swap {extent}"),
                other @ (Command::Check { .. }
                | Command::Control { .. }
                | Command::Inspect { .. }
                | Command::Leave) => format!("{other:?}"),
            };
            let value = match &wish.deed {
                Deed::Write { value, .. } => value.to_string(),
                Deed::Swap { compare, value, .. } => format!("{compare:?} for {value}"),
                _ => "-".to_owned(),
            };
            format!("{site} task {} of {nexus} on vol{}: {what} value {value}", task.0, wish.volume)
        });
        self.counts.asked += 1;
        self.visit(wish.volume, nexus);
        let fua = matches!(wish.command, Command::Write { fua: true, .. });
        let op = self.history.len();
        match &wish.deed {
            Deed::Control { request, .. } => {
                let named: Vec<Nexus> = match request {
                    Request::Register { also, .. } => also.iter().map(|one| one.nexus).collect(),
                    Request::Move { to, .. } => vec![to.nexus],
                    _ => Vec::new(),
                };
                named.into_iter().for_each(|nexus| self.visit(wish.volume, nexus));
                let asked = Asked {
                    op,
                    volume: wish.volume,
                    by: nexus,
                    request: request.clone(),
                    asked,
                    ended: u64::MAX,
                    loose: false,
                };
                self.begin_demand(op, wish.volume);
                self.ledger.ask(asked);
            }
            Deed::Leave => {
                self.ledger.nexus_lost(nexus, asked);
                self.demands.disturb(None);
            }
            _ => {}
        }
        self.history.push(Operation {
            site,
            host: index,
            nexus,
            volume: wish.volume,
            deed: wish.deed,
            time,
            asked,
            done: None,
            taken: false,
            refused: false,
            by: None,
        });
        self.fua.push(fua);
        self.hosts[index].waiting.insert(task, self.history.len() - 1);
        let patience = self.scenario.patience * if wish.large { 2 } else { 1 };
        self.schedule.after(patience, Happening::HostGivesUp { host: index, task });
        let event = Event::Submit { task, nexus, volume: volume_id(wish.volume), command: wish.command };
        self.hand_in(site, event);
    }

    /// The host stops waiting: the outcome stays unknown.
    pub(crate) fn give_up(&mut self, index: usize, task: TaskId) {
        let host = &mut self.hosts[index];
        if let Some(op) = host.waiting.remove(&task) {
            let site = host.site;
            self.places[site.index()].forsaken.insert(task, op);
            self.counts.timed_out += 1;
            self.note(&[21, task.0], &[], || format!("{site} task {} given up", task.0));
        }
    }

    /// The site answers a command.
    pub(crate) fn answered(&mut self, site: SiteId, task: TaskId, completion: Completion) {
        self.note(&[22, site as u64, task.0, kind(&completion)], &[], || {
            let what = match &completion {
                Completion::Data(_) => "data".to_owned(),
                Completion::Done => "done".to_owned(),
                Completion::Verdict(verdict) => verdict.to_string(),
                Completion::Persistent(_) => "registrations".to_owned(),
                Completion::Failed(failure) => format!("{failure:?}"),
            };
            format!("{site} task {} answered: {what}", task.0)
        });
        let Some(index) = self.hosts.iter().position(|host| host.waiting.contains_key(&task)) else {
            return self.answered_nobody(site, task, completion);
        };
        let at = self.hosts[index].waiting.remove(&task).expect("found just now");
        if self.hosts[index].site != site {
            self.violation("answers", format!("site {site} answers task {} of the other site", task.0));
            return;
        }
        let done = self.moment();
        // What the pair does not hand on to a unit is refused whatever is reserved.
        let handed_on = match completion {
            Completion::Verdict(Verdict::BadCdb(_) | Verdict::BadParameter(_)) => {
                !self.scenario.volumes[self.history[at].volume].rules.disk
            }
            _ => true,
        };
        if handed_on
            && !matches!(
                completion,
                Completion::Failed(_) | Completion::Verdict(Verdict::Conflict | Verdict::Unreachable)
            )
            && let Err(why) = self.ledger.judge(&self.history[at])
        {
            self.violation("exclusion", why);
        }
        // Let in before what stands now was granted: it is in place since then, not later.
        let changes = matches!(self.history[at].deed, Deed::Write { .. } | Deed::Swap { .. });
        if changes && let Some(since) = self.ledger.kept_behind(&self.history[at]) {
            let by = &mut self.history[at].by;
            *by = Some(by.map_or(since, |by| by.min(since)));
            self.counts.kept_behind += 1;
        }
        match completion {
            Completion::Failed(failure) => self.refused(index, at, failure),
            Completion::Data(pieces) if self.shows_keys(at) => self.keys_told(index, at, done, &pieces),
            Completion::Data(pieces) => self.read_done(at, done, &pieces),
            Completion::Done => self.write_done(at, done),
            Completion::Verdict(verdict) => self.verdict_told(at, done, verdict),
            Completion::Persistent(view) => {
                let volume = self.history[at].volume;
                if self.history[at].deed != Deed::Inspect {
                    return self.violation("answers", "registrations for another question".to_owned());
                }
                self.history[at].done = Some(done);
                self.inspected(index, volume, view);
            }
        }
        if self.history[at].deed == Deed::Leave && !self.hosts_stopped {
            self.lose_session(index);
        }
    }

    /// An answer that no host waits for any more.
    fn answered_nobody(&mut self, site: SiteId, task: TaskId, completion: Completion) {
        let Some(op) = self.places[site.index()].forsaken.remove(&task) else {
            let what = format!("site {site} answers task {} that nobody asked, or twice", task.0);
            return self.violation("answers", what);
        };
        if matches!(self.history[op].deed, Deed::Control { .. }) {
            let now = self.moment();
            match completion {
                Completion::Verdict(_) => self.ledger.told_nobody(op, now),
                Completion::Failed(_)
                | Completion::Data(_)
                | Completion::Done
                | Completion::Persistent(_) => self.ledger.lost(op),
            }
        }
    }

    /// A request or a COMPARE AND WRITE has ended.
    fn verdict_told(&mut self, at: usize, done: u64, answer: Verdict) {
        let op = self.history[at].clone();
        match op.deed.clone() {
            Deed::Control { request, .. } => {
                self.counts.requests += 1;
                self.history[at].deed = Deed::Control { request: request.clone(), verdict: Some(answer) };
                self.history[at].done = Some(done);
                let standing = self.ledger.standing();
                match answer {
                    // A unit may have done it, or still do it.
                    Verdict::Unreachable => self.ledger.lost(at),
                    _ => self.ledger.told(at, answer, done),
                }
                self.counts.granted += u64::from(self.ledger.standing() > standing);
                self.end_demand(at, op.nexus, &request, answer, done);
                if !self.hosts_stopped {
                    self.follow_up(op.host, op.volume, &request, answer);
                }
            }
            Deed::Swap { extent, compare, value, .. } => {
                let ended = match answer {
                    Verdict::Done => None,
                    Verdict::Miscompare { offset } if offset < extent.bytes() => {
                        Some((offset / BLOCK_BYTES) as usize)
                    }
                    Verdict::Conflict if self.scenario.volumes[op.volume].rules.discard => {
                        self.refuse(at);
                        return self.kept_out(op.host, op.volume, false);
                    }
                    other => {
                        return self.violation("answers", format!("a COMPARE AND WRITE ends {other}"));
                    }
                };
                self.history[at].deed = Deed::Swap { extent, compare, value, ended: Some(ended) };
                self.history[at].done = Some(done);
                if ended.is_some() {
                    self.counts.swaps_missed += 1;
                    return;
                }
                self.counts.swaps_matched += 1;
                self.wrote(&op, &[extent], value, done);
                let values = vec![value; extent.blocks() as usize];
                self.hosts[op.host].last = Some(Sight { volume: op.volume, extent, values });
            }
            _ => self.violation("answers", "a verdict for another question".to_owned()),
        }
    }

    /// A command met a reservation: what it would have written must never be seen.
    fn refuse(&mut self, at: usize) {
        self.history[at].refused = true;
        if let Deed::Write { value, .. } | Deed::Swap { value, .. } = self.history[at].deed {
            self.refused.insert(value);
        }
    }

    /// A write is complete at the site that was asked.
    fn wrote(&mut self, op: &Operation, extents: &[Extent], value: Value, done: u64) {
        if self.scenario.volumes[op.volume].rules.discard {
            return; // it may be undone
        }
        for block in extents.iter().flat_map(|extent| extent.start().0..extent.end().0) {
            self.orders[op.site.index()][op.volume].wrote(block, value, op.asked, done);
        }
    }

    fn refused(&mut self, index: usize, at: usize, failure: Failure) {
        let volume = self.history[at].volume;
        if matches!(self.history[at].deed, Deed::Control { .. }) {
            self.ledger.lost(at);
        }
        let pause = match failure {
            Failure::NotReady => {
                self.counts.not_ready += 1;
                5 * MS
            }
            Failure::Busy => {
                self.counts.busy += 1;
                2 * MS
            }
            Failure::MediumRead { .. } | Failure::MediumWrite { .. } => {
                self.counts.medium_errors += 1;
                let place = &self.places[self.hosts[index].site.index()];
                if !place.volume_failed && !place.journal_failed {
                    self.violation("answers", format!("{failure:?} although no disk failed"));
                }
                MS
            }
            Failure::Conflict => {
                self.counts.kept_out += 1;
                self.refuse(at);
                if !self.ledger.anything(volume) {
                    self.violation("answers", "a conflict where nobody ever reserved".to_owned());
                }
                let looking = self.history[at].deed == Deed::Inspect;
                return self.kept_out(index, volume, looking);
            }
            Failure::NotSupported => {
                self.violation("answers", "a command that the rules allow is not supported".to_owned());
                MS
            }
            Failure::Stopped => 5 * MS,
        };
        self.hosts[index].backs_off_until = self.schedule.time() + pause;
    }

    fn read_done(&mut self, at: usize, done: u64, pieces: &[Bytes]) {
        let op = self.history[at].clone();
        let Deed::Read { extent, .. } = op.deed else {
            return self.violation("answers", "data for a command that is no read".to_owned());
        };
        let bytes = pieces.concat();
        if bytes.len() as u64 != extent.bytes() {
            return self.violation("answers", format!("{} bytes for a read of {extent}", bytes.len()));
        }
        let mut values = Vec::new();
        for (block, chunk) in (extent.start().0..).zip(bytes.chunks(pattern::BLOCK)) {
            let value = pattern::value(chunk).filter(|&value| self.was_written(op.volume, block, value));
            let Some(value) = value else {
                let first = &chunk[..8];
                return self.violation(
                    "contents",
                    format!("block {block} shows bytes that nobody wrote: {first:?}…"),
                );
            };
            if value != 0 && self.refused.contains(&value) {
                let what = format!("block {block} shows {value}, whose write was refused");
                return self.violation("exclusion", what);
            }
            let discards = self.scenario.volumes[op.volume].rules.discard;
            if !discards
                && let Err(why) = self.orders[op.site.index()][op.volume].read(block, value, op.asked, done)
            {
                self.violation("order", format!("site {} vol{}: {why}", op.site, op.volume));
            }
            values.push(value);
        }
        self.counts.reads += 1;
        self.judge_lease(&op);
        self.hosts[op.host].last = Some(Sight { volume: op.volume, extent, values: values.clone() });
        self.history[at].deed = Deed::Read { extent, values };
        self.history[at].done = Some(done);
    }

    /// Whether it asked a unit for the keys.
    fn shows_keys(&self, at: usize) -> bool {
        let op = &self.history[at];
        op.deed == Deed::Inspect && self.scenario.volumes[op.volume].rules.disk
    }

    /// PERSISTENT RESERVE IN with READ KEYS was answered by the unit (SPC-4 6.15.2).
    fn keys_told(&mut self, index: usize, at: usize, done: u64, pieces: &[Bytes]) {
        let bytes = pieces.concat();
        let Some((head, keys)) = bytes.split_first_chunk::<8>() else {
            return self.violation("answers", format!("READ KEYS gave {} bytes", bytes.len()));
        };
        let [_, _, _, _, length @ ..] = *head;
        let (keys, rest) = keys.as_chunks::<8>();
        if u32::from_be_bytes(length) as usize != keys.len() * 8 || !rest.is_empty() {
            return self.violation("answers", format!("READ KEYS gave {bytes:?}"));
        }
        self.history[at].done = Some(done);
        let keys: Vec<u64> = keys.iter().map(|key| u64::from_be_bytes(*key)).collect();
        self.keys_seen(index, self.history[at].volume, &keys);
    }

    fn was_written(&self, volume: usize, block: u64, value: Value) -> bool {
        let covers = |extent: &Extent| extent.start().0 <= block && block < extent.end().0;
        let Some(index) = value.checked_sub(1) else { return true };
        self.values
            .get(index as usize)
            .is_some_and(|(of, extents)| *of == volume && extents.iter().any(covers))
    }

    fn write_done(&mut self, at: usize, done: u64) {
        let op = self.history[at].clone();
        self.history[at].done = Some(done);
        let flushes = match &op.deed {
            Deed::Write { extents, value } => {
                self.counts.writes += 1;
                self.wrote(&op, extents, *value, done);
                false
            }
            Deed::Flush => {
                self.counts.flushes += 1;
                true
            }
            Deed::Check { .. } | Deed::Leave => return,
            Deed::Read { .. } | Deed::Swap { .. } | Deed::Control { .. } | Deed::Inspect => {
                return self.violation("answers", "a plain answer to another question".to_owned());
            }
        };
        let rules = self.scenario.volumes[op.volume].rules;
        match rules.mode {
            Mode::Flush if rules.discard => {}
            Mode::Flush if flushes || self.fua[at] => {
                let [a, b] = &mut self.orders;
                let (own, peer) = if op.site == SiteId::A { (a, b) } else { (b, a) };
                if flushes {
                    peer[op.volume].learn(&own[op.volume], op.asked, done);
                } else if let Deed::Write { extents, value } = &op.deed {
                    // The write itself is at the peer; the peer knows its own order of the rest.
                    for block in extents.iter().flat_map(|extent| extent.start().0..extent.end().0) {
                        peer[op.volume].holds(block, *value, done);
                    }
                }
            }
            Mode::Sync | Mode::Flush | Mode::Async => {}
        }
    }

    /// A sync volume is read only within the lease: something of the peer must have arrived within its length, less
    /// the round trip that the answered heartbeat took at least.
    fn judge_lease(&mut self, op: &Operation) {
        if self.scenario.volumes[op.volume].rules.mode != Mode::Sync {
            return;
        }
        let place = &self.places[op.site.index()];
        let trip = 2 * self.scenario.delay.0;
        let limit = (self.scenario.lease + self.scenario.lease / 1_000 + US).saturating_sub(trip);
        if place.heard.is_none_or(|heard| heard + limit < op.time) {
            let since = place.heard.map(|heard| op.time.saturating_sub(heard));
            let site = op.site;
            self.violation(
                "lease",
                format!("site {site} answers a read asked {since:?} ns after it last heard of its peer"),
            );
        }
    }
}

fn kind(completion: &Completion) -> u64 {
    match completion {
        Completion::Data(_) => 1,
        Completion::Done => 2,
        Completion::Failed(_) => 3,
        Completion::Verdict(_) => 4,
        Completion::Persistent(_) => 5,
    }
}

fn some_extent(random: &mut Random, reach: u64, blocks: u64, most: u64) -> Extent {
    let start = random.below(reach);
    let count = random.between(1, most).min(blocks - start);
    Extent::new(Lba(start), count).expect("within the volume and not empty")
}
