//! The run: two sites, their hosts, the line, the disks and the clocks, moved on by one plan.
//!
//! ```text
//! hosts ─Submit─▶ ┌ inbox ┐ ─handle*, poll─▶ Site ─▶ actions ─▶ disks (end later, in any order)
//! disks ─DiskDone▶│       │                              └────▶ line  (arrives later, in other pieces)
//! line ─LinkBytes▶└───────┘                              └────▶ answers ─▶ history ─▶ checkers
//! ```
//! A site is only ever touched through its two doors and its read-only windows (`status`, `table`, `map`, `check`).

use crate::disk::Fate;
use crate::history::{Moment, Operation};
use crate::host::Host;
use crate::link::Link;
use crate::oracle::Cuts;
use crate::order::Order;
use crate::place::Place;
use crate::random::Random;
use crate::report::{Counts, Report, Violation};
use crate::scenario::{Scenario, Weather};
use crate::schedule::{Happening, MS, Schedule, US};
use crate::trace::Trace;
use crate::unit::Piece;
use biplex_engine::{Extent, HostId, SiteId};
use biplex_site::{Action, Event, Severity, Site};
use biplex_store::{Device, DiskOp, DiskTicket};

/// A site that is looked at so often without time moving on has lost itself.
const LOOKS_PER_MILLISECOND_MAX: u64 = 20_000;

/// Everything there is.
pub struct World {
    pub(crate) scenario: Scenario,
    pub(crate) schedule: Schedule,
    pub(crate) random: Random,
    pub(crate) trace: Trace,
    pub(crate) places: [Place; 2],
    pub(crate) link: Link,
    pub(crate) hosts: Vec<Host>,
    pub(crate) history: Vec<Operation>,
    /// Whether the operation with the same index is a write with FUA.
    pub(crate) fua: Vec<bool>,
    /// For value v, at v - 1: where it was written.
    pub(crate) values: Vec<(usize, Vec<Extent>)>,
    /// Per site and volume, what its hosts have seen.
    pub(crate) orders: [Vec<Order>; 2],
    pub(crate) cuts: Cuts,
    /// Requests of hosts and what surely stands.
    pub(crate) ledger: crate::exclusion::Ledger,
    /// Values of writes that met a reservation.
    pub(crate) refused: std::collections::BTreeSet<crate::pattern::Value>,
    pub(crate) demands: crate::demands::Demands,
    pub(crate) units: crate::kept::Units,
    pub(crate) script: crate::handover::HandOver,
    pub(crate) legacy: crate::ending::Legacy,
    pub(crate) counts: Counts,
    pub(crate) tasks: u64,
    pub(crate) faults_stopped: bool,
    pub(crate) hosts_stopped: bool,
    /// How far the end of a polite run has come; see [`World::settle`].
    pub(crate) last_words: u8,
    moments: Moment,
    disk_orders: u64,
    looks_in: (u64, u64),
    violation: Option<Violation>,
    ended: bool,
}

/// Plays a scenario to its end, or to the first violation.
pub fn run(scenario: Scenario, print: bool) -> Report {
    let mut world = World::new(scenario, print);
    world.start();
    while !world.ended && world.violation.is_none() {
        let Some(what) = world.schedule.advance() else { break };
        world.happen(what);
    }
    world.finish()
}

impl World {
    fn new(scenario: Scenario, print: bool) -> World {
        let mut random = Random::new(scenario.seed);
        let places = SiteId::BOTH.map(|id| Place::new(id, &scenario, &mut random));
        let link = Link::new(scenario.delay, scenario.buffer, random.fork());
        let mut hosts = Vec::new();
        for site in SiteId::BOTH {
            for number in 0..scenario.hosts as u64 {
                hosts.push(Host {
                    id: HostId(0x100 + if number < 2 { 0 } else { number + site.index() as u64 }),
                    isid: number + 1,
                    site,
                    random: random.fork(),
                    waiting: Default::default(),
                    backs_off_until: 0,
                    gone: false,
                    sessions: 0,
                    owed: Vec::new(),
                    keys: Default::default(),
                    seen: Default::default(),
                    last: None,
                });
            }
        }
        let orders = || scenario.volumes.iter().map(|plan| Order::new(plan.blocks)).collect::<Vec<_>>();
        World {
            orders: [orders(), orders()],
            scenario,
            schedule: Schedule::default(),
            random,
            trace: Trace::new(print),
            places,
            link,
            hosts,
            history: Vec::new(),
            fua: Vec::new(),
            values: Vec::new(),
            cuts: Cuts::default(),
            ledger: Default::default(),
            refused: Default::default(),
            demands: Default::default(),
            units: Default::default(),
            script: Default::default(),
            legacy: Default::default(),
            counts: Counts::default(),
            tasks: 0,
            faults_stopped: false,
            hosts_stopped: false,
            last_words: 0,
            moments: 0,
            disk_orders: 0,
            looks_in: (0, 0),
            violation: None,
            ended: false,
        }
    }

    fn start(&mut self) {
        for site in SiteId::BOTH {
            let mut seed = self.random.fork();
            let place = &mut self.places[site.index()];
            let config = place.config.clone();
            let disk = place.disk(Device::Journal).expect("made with the place");
            if let Err(why) = crate::journal::create(disk, &config, &mut seed) {
                self.violation("start", why);
                return;
            }
            let delay = self.random.below(20 * MS);
            self.schedule.after(delay, Happening::Restart(site));
        }
        for index in 0..self.hosts.len() {
            self.schedule.after(5 * MS, Happening::HostStep(index));
        }
        self.schedule.after(MS, Happening::LinkTry);
        self.schedule.after(40 * MS, Happening::HandOver);
        let first = self.random.within(self.scenario.gap) + 30 * MS;
        self.schedule.after(first, Happening::Fault);
        match self.scenario.weather {
            Weather::Polite => {
                self.schedule.at(self.scenario.calm, Happening::FaultsStop);
                self.schedule.at(self.scenario.busy, Happening::HostsStop);
            }
            Weather::Cruel => self.schedule.at(self.scenario.busy, Happening::End),
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Wake(site) => self.look(site),
            Happening::DiskEnd { site, run, device, order } => self.end_disk_order(site, run, device, order),
            Happening::LinkTry => self.try_link(),
            Happening::LinkOpen { site, run, connection } => self.open_link(site, run, connection),
            Happening::LinkDeliver { connection, from } => self.deliver(connection, from),
            Happening::LinkGone { site, run, link } => {
                if self.places[site.index()].run == run {
                    self.hand_in(site, Event::LinkClosed { link });
                }
            }
            Happening::HostStep(index) => self.step_host(index),
            Happening::SessionBack(index) => self.hosts[index].gone = false,
            Happening::HandOver => self.hand_over(),
            Happening::HostGivesUp { host, task } => self.give_up(host, task),
            Happening::UnitPiece { site, volume, line, way } => self.arrive(site, volume, line, way),
            Happening::UnitTask { site, volume, life, task } => self.end_unit_task(site, volume, life, task),
            Happening::UnitTick { site, volume, life } => self.tick_unit(site, volume, life),
            Happening::Fault => self.strike(),
            Happening::Mend(ailment) => {
                if !self.faults_stopped {
                    self.mend(ailment);
                }
            }
            Happening::Restart(site) => self.restart(site),
            Happening::FaultsStop => self.stop_faults(),
            Happening::HostsStop => {
                self.hosts_stopped = true;
                self.schedule.after(20 * MS, Happening::Settle);
            }
            Happening::Settle => self.settle(),
            Happening::End => self.ended = true,
        }
    }

    // The sites' processes.

    /// Puts an event at the site's door.
    pub(crate) fn hand_in(&mut self, site: SiteId, event: Event) {
        let gather = self.random.within(self.scenario.gather);
        let place = &mut self.places[site.index()];
        if place.site.is_some() {
            place.inbox.push_back(event);
            let at = (self.schedule.time() + gather).max(place.paused_until);
            self.plan_wake(site, at);
        }
    }

    /// The site looks at its door at `at`, or earlier if that is planned.
    pub(crate) fn plan_wake(&mut self, site: SiteId, at: u64) {
        let place = &mut self.places[site.index()];
        let at = at.max(self.schedule.time());
        let sooner = place.wake.is_none_or(|wake| at < wake)
            || place.wake.is_some_and(|wake| wake < place.paused_until);
        if place.site.is_some() && sooner {
            place.wake = Some(at);
            self.schedule.at(at, Happening::Wake(site));
        }
    }

    fn look(&mut self, id: SiteId) {
        let time = self.schedule.time();
        let place = &mut self.places[id.index()];
        if place.wake != Some(time) {
            return;
        }
        place.wake = None;
        let now = place.clock.read(time);
        let Some(site) = place.site.as_mut() else { return };
        place.looks += 1;
        let events = place.inbox.len() as u64;
        for event in place.inbox.drain(..) {
            match &event {
                Event::LinkBytes { .. } => place.heard = Some(time),
                // Tasks are numbered as operations are, from 1.
                Event::Submit { task, .. } => self.history[task.0 as usize - 1].taken = true,
                _ => {}
            }
            site.handle(now, event);
        }
        if site.next_deadline(now) <= now.mono {
            site.handle(now, Event::Tick);
        }
        let mut actions = Vec::new();
        site.poll(now, &mut actions);
        let deadline = site.next_deadline(now);
        let next = place.clock.when(deadline).max(time + US).max(place.paused_until);
        self.plan_wake(id, next);
        self.counts.looks += 1;
        self.note(&[1, id as u64, events, actions.len() as u64, deadline], &[], || {
            format!("{id} looks: {events} events, {} actions", actions.len())
        });
        self.judge_pace(time);
        for action in &actions {
            if let Action::Notice(notice) = action {
                self.hear_of_units(&notice.text);
            }
        }
        self.take_effects(id);
        self.judge_site(id);
        self.judge_tables();
        for action in actions {
            if let Some(left) = &mut self.places[id.index()].crash_within {
                if *left == 0 {
                    self.crash(id);
                    return;
                }
                *left -= 1;
            }
            self.act(id, action);
            if self.places[id.index()].site.is_none() || self.violation.is_some() {
                return;
            }
        }
    }

    fn judge_pace(&mut self, time: u64) {
        let slot = time / MS;
        self.looks_in = if self.looks_in.0 == slot { (slot, self.looks_in.1 + 1) } else { (slot, 1) };
        if self.looks_in.1 > LOOKS_PER_MILLISECOND_MAX {
            self.violation("pace", "the sites keep each other busy without end".to_owned());
        }
    }

    fn act(&mut self, id: SiteId, action: Action) {
        match action {
            Action::LinkSend { link, bytes } => {
                self.note(&[2, id as u64, link], &bytes, || {
                    format!("{id} sends {} bytes on {link}", bytes.len())
                });
                self.send(id, link, bytes);
            }
            Action::LinkClose { link, why } => {
                self.note(&[3, id as u64, link], why.as_bytes(), || {
                    format!("{id} closes link {link}: {why}")
                });
                self.counts.closes += 1;
                if self.link.connection.as_ref().is_some_and(|c| c.link[id.index()] == link) {
                    self.cut();
                }
            }
            Action::Disk { ticket, op } => self.order_disk(id, ticket, op),
            Action::Answer { task, completion } => self.answered(id, task, completion),
            Action::Notice(notice) => {
                self.note(&[4, id as u64, notice.severity as u64], notice.text.as_bytes(), || {
                    format!("{id} {:?}: {}", notice.severity, notice.text)
                });
                if notice.severity == Severity::Alarm {
                    self.counts.alarms += 1;
                }
            }
            Action::Halt { why } => {
                self.note(&[5, id as u64], why.as_bytes(), || format!("{id} halts: {why}"));
                self.counts.halts += 1;
                if !self.places[id.index()].journal_failed {
                    self.violation("halt", format!("site {id} halts although its journal is well: {why}"));
                }
                self.crash(id);
            }
            Action::HostSend { conn, bytes } => {
                self.note(&[6, id as u64, conn.0], &bytes, || format!("{id} sends to host {conn:?}"));
            }
            Action::HostClose { conn } => {
                self.note(&[7, id as u64, conn.0], &[], || format!("{id} closes host {conn:?}"));
            }
            Action::UnitConnect { conn, .. } => self.connect_unit(id, conn),
            Action::UnitSend { conn, bytes } => self.send_unit(id, conn, Piece::Bytes(bytes)),
            Action::UnitClose { conn } => self.send_unit(id, conn, Piece::Closed),
            Action::Drained => self.note(&[8, id as u64], &[], || format!("{id} is drained")),
        }
    }

    /// Power goes at a site; it starts again later.
    pub(crate) fn crash(&mut self, id: SiteId) {
        if self.places[id.index()].site.is_none() {
            return;
        }
        self.counts.crashes += 1;
        self.note(&[12, id as u64], &[], || format!("{id} crashes"));
        for order in &mut self.orders[id.index()] {
            order.crashed();
        }
        let place = &mut self.places[id.index()];
        let mut lost: Vec<usize> = std::mem::take(&mut place.forsaken).into_values().collect();
        place.lose_power();
        for host in self.hosts.iter_mut().filter(|host| host.site == id) {
            lost.extend(std::mem::take(&mut host.waiting).into_values());
        }
        lost.into_iter().for_each(|op| self.ledger.lost(op));
        self.ledger.crashed(id);
        self.start_releases();
        self.site_left_its_units(id);
        self.demands.disturb(None);
        self.cut();
        let down = if self.faults_stopped || self.random.one_in(2) { 30 } else { 600 };
        let delay = self.random.between(1, down) * MS;
        self.schedule.after(delay, Happening::Restart(id));
    }

    /// Where units keep reservations, a site's start releases all that is held by SCSI-2.
    fn start_releases(&mut self) {
        let now = self.moment();
        for volume in self.unit_volumes() {
            self.ledger.unit_lost(volume, false, now);
        }
    }

    fn restart(&mut self, id: SiteId) {
        let time = self.schedule.time();
        let breaks = !self.faults_stopped && self.places[id.index()].run > 0 && self.random.one_in(5);
        let after = breaks.then(|| self.random.below(4));
        let mut seed = self.random.fork();
        let place = &mut self.places[id.index()];
        place.clock.start(time);
        place.paused_until = 0;
        let now = place.clock.read(time);
        let config = place.config.clone();
        let disk = place.disk(Device::Journal).expect("made with the place");
        disk.break_after(after);
        let opened = Site::open(config, disk, Box::new(move |bytes: &mut [u8]| seed.fill(bytes)), now);
        let broken = disk.broken();
        disk.break_after(None);
        match opened {
            Ok(site) => {
                place.destaged = site.status(now).destaged;
                place.site = Some(site);
                self.counts.starts += 1;
                self.start_releases();
                self.note(&[13, id as u64], &[], || format!("{id} starts"));
                self.plan_wake(id, time);
            }
            Err(_) if broken => {
                place.lose_power();
                self.counts.recovery_crashes += 1;
                self.note(&[14, id as u64], &[], || format!("{id} crashes during recovery"));
                self.schedule.after(MS, Happening::Restart(id));
            }
            Err(why) => self.violation("recovery", format!("site {id} does not open: {why}")),
        }
    }

    // The disks.

    fn order_disk(&mut self, id: SiteId, ticket: DiskTicket, op: DiskOp) {
        self.disk_orders += 1;
        let order = self.disk_orders;
        let device = device_of(&op);
        let journal = device == Device::Journal;
        let place = &mut self.places[id.index()];
        let percent = match (&op, journal) {
            (_, true) => place.ills.journal,
            (DiskOp::Read { .. }, false) => place.ills.read,
            (DiskOp::Write { .. } | DiskOp::Zero { .. } | DiskOp::AppendDurable { .. }, false) => {
                place.ills.write
            }
            (DiskOp::Sync { .. }, false) => place.ills.sync,
        };
        let fate = if self.random.percent(percent) { Fate::Fail } else { Fate::Well };
        if fate == Fate::Fail {
            place.journal_failed |= journal;
            place.volume_failed |= !journal;
            self.counts.disk_errors += 1;
        }
        let range = if journal { self.scenario.journal_delay } else { self.scenario.volume_delay };
        let delay = self.random.within(range) * place.disk_slowness;
        let run = place.run;
        let mark = [9, id as u64, ticket.0, mark_of(&op), fate as u64];
        let told = describe(&op);
        place.tickets.insert(order, ticket);
        let taken = match place.disks.get_mut(&device) {
            Some(disk) => disk.submit(order, op, fate),
            None => Err(format!("an order for a disk that is not there: {device:?}")),
        };
        self.note(&mark, &[], || format!("{id} orders {told} as {} ({fate:?})", ticket.0));
        match taken {
            Ok(()) => self.schedule.after(delay, Happening::DiskEnd { site: id, run, device, order }),
            Err(why) => self.violation("disk orders", format!("site {id}: {why}")),
        }
    }

    fn end_disk_order(&mut self, id: SiteId, run: u64, device: Device, order: u64) {
        let place = &mut self.places[id.index()];
        if place.run != run {
            return;
        }
        let ticket = place.tickets.remove(&order);
        if let (Some(disk), Some(ticket)) = (place.disks.get_mut(&device), ticket) {
            let result = disk.end(order);
            self.hand_in(id, Event::DiskDone { ticket, result });
        }
    }

    // The line.

    fn try_link(&mut self) {
        if self.link.connection.is_some() {
            return;
        }
        if !self.link.whole || self.places.iter().any(|place| place.site.is_none()) {
            let wait = self.random.between(2, 40) * MS;
            self.schedule.after(wait, Happening::LinkTry);
            return;
        }
        let time = self.schedule.time();
        let opens = [0, 1].map(|_| time + self.random.within(self.scenario.delay));
        let connection = self.link.connect(opens);
        self.counts.connections += 1;
        self.note(&[15, connection], &[], || format!("connection {connection}"));
        for site in SiteId::BOTH {
            let run = self.places[site.index()].run;
            self.schedule.at(opens[site.index()], Happening::LinkOpen { site, run, connection });
        }
    }

    fn open_link(&mut self, site: SiteId, run: u64, connection: u64) {
        let Some(standing) = self.link.connection.as_mut().filter(|c| c.id == connection) else { return };
        if self.places[site.index()].run == run {
            standing.open[site.index()] = true;
            let link = standing.link[site.index()];
            self.hand_in(site, Event::LinkConnected { link });
        }
    }

    fn send(&mut self, id: SiteId, link: u64, bytes: bytes::Bytes) {
        let time = self.schedule.time();
        self.counts.link_bytes += bytes.len() as u64;
        if let Some(due) = self.link.send(time, id, link, bytes) {
            let connection = self.link.connection.as_ref().expect("it took the bytes").id;
            self.schedule.at(due, Happening::LinkDeliver { connection, from: id });
        }
        self.tell_backlog(id);
    }

    fn tell_backlog(&mut self, id: SiteId) {
        if let Some((link, queued)) = self.link.backlog(id) {
            self.hand_in(id, Event::LinkBacklog { link, queued });
        }
    }

    fn deliver(&mut self, connection: u64, from: SiteId) {
        if self.link.connection.as_ref().is_none_or(|c| c.id != connection) {
            return;
        }
        let to = from.peer();
        let (bytes, again) = self.link.deliver(self.schedule.time(), from);
        if let (Some(bytes), Some(standing)) = (bytes, self.link.connection.as_ref()) {
            let link = standing.link[to.index()];
            self.hand_in(to, Event::LinkBytes { link, bytes });
            self.tell_backlog(from);
        }
        if let Some(due) = again {
            self.schedule.at(due, Happening::LinkDeliver { connection, from });
        }
    }

    /// The connection ends; each end learns of it in its own time, and the line is tried again after that.
    pub(crate) fn cut(&mut self) {
        let Some((connection, last)) = self.link.cut() else { return };
        self.counts.cuts += 1;
        self.note(&[16, connection.id], &[], || format!("connection {} is cut", connection.id));
        for (site, bytes) in SiteId::BOTH.into_iter().zip(last) {
            let index = site.index();
            if !connection.open[index] || self.places[index].site.is_none() {
                continue;
            }
            if let Some(bytes) = bytes {
                self.hand_in(site, Event::LinkBytes { link: connection.link[index], bytes });
            }
            let late = if self.random.one_in(6) { 200 * MS } else { 3 * MS };
            let delay = self.random.below(late);
            let run = self.places[index].run;
            self.schedule.after(delay, Happening::LinkGone { site, run, link: connection.link[index] });
        }
        let wait = self.random.between(1, 60) * MS;
        self.schedule.after(wait, Happening::LinkTry);
    }

    // Bookkeeping.

    /// A moment later than all before.
    pub(crate) fn moment(&mut self) -> Moment {
        self.moments += 1;
        self.moments
    }

    /// Folds a happening into the trace.
    pub(crate) fn note(&mut self, mark: &[u64], bytes: &[u8], line: impl FnOnce() -> String) {
        self.trace.note(self.schedule.time(), mark, bytes, line);
    }

    /// A promise is broken; the first one ends the run.
    pub(crate) fn violation(&mut self, check: &'static str, what: String) {
        self.note(&[99], check.as_bytes(), || format!("VIOLATION {check}: {what}"));
        if self.violation.is_none() {
            self.violation = Some(Violation { check, what, time: self.schedule.time() });
        }
    }

    fn finish(mut self) -> Report {
        if self.violation.is_none() {
            self.judge_history();
        }
        Report {
            hash: self.trace.hash(),
            steps: self.trace.steps(),
            counts: self.counts,
            time: self.schedule.time(),
            violation: self.violation,
        }
    }

    /// The run has proven all it had to.
    pub(crate) fn end(&mut self) {
        self.ended = true;
    }
}

fn device_of(op: &DiskOp) -> Device {
    match op {
        DiskOp::Read { device, .. }
        | DiskOp::Write { device, .. }
        | DiskOp::Zero { device, .. }
        | DiskOp::Sync { device } => *device,
        DiskOp::AppendDurable { .. } => Device::Journal,
    }
}

fn mark_of(op: &DiskOp) -> u64 {
    match op {
        DiskOp::Read { offset, .. } => offset << 3,
        DiskOp::Write { offset, .. } => offset << 3 | 1,
        DiskOp::Zero { offset, .. } => offset << 3 | 2,
        DiskOp::AppendDurable { offset, .. } => offset << 3 | 3,
        DiskOp::Sync { .. } => 4,
    }
}

fn describe(op: &DiskOp) -> String {
    match op {
        DiskOp::Read { device, offset, len } => format!("read of {len} at {offset} of {device:?}"),
        DiskOp::Write { device, offset, data } => {
            format!("write of {} at {offset} of {device:?}", data.iter().map(|d| d.len()).sum::<usize>())
        }
        DiskOp::Zero { device, offset, len } => format!("zeros for {len} at {offset} of {device:?}"),
        DiskOp::AppendDurable { offset, pages } => {
            format!("append of {} at {offset}", pages.as_bytes().len())
        }
        DiskOp::Sync { device } => format!("sync of {device:?}"),
    }
}
