//! Answers for the one thread on which the site lives: waits for sockets, disks, signals and time, hands them to the
//! site as events, and carries its actions out. Decides nothing. Never waits anywhere but in `poll`.
//!
//! ```text
//! poll ─▶ read sockets, take letters, tick ─▶ site.handle(…)* ─▶ site.poll ─▶ flush sends ─▶ disk orders ─▶ poll
//!                                                   ▲──────────────── inline disk answers ──────┘
//! ```
//! Bytes leave before disk orders begin, so that the peer's journal works while this site's does and no host waits
//! for a system call that is not about it.

use crate::admin::{Answer, Ask, Question, ROWS_MAX};
use crate::disks::Disks;
use crate::hosts::Hosts;
use crate::link::{Link, Surroundings};
use crate::mailbox::{Letter, Mailbox};
use crate::path;
use crate::units::Units;
use biplex_engine::Now;
use biplex_site::{Action, Event, Notice, Severity, Site};
use mio::{Events, Poll, Token};
use rustix::time::{ClockId, clock_gettime};
use signal_hook_mio::v1_0::Signals;
use std::time::Duration;

/// Wakes the core for letters.
pub const WAKER: Token = Token(0);
/// The iSCSI listener.
pub const HOSTS: Token = Token(1);
/// The link's listener.
pub const LINK: Token = Token(2);
/// SIGTERM and SIGINT.
pub const SIGNALS: Token = Token(3);
/// The journal's ring, if there is one.
pub const RING: Token = Token(4);
/// First token of connections.
pub const TOKENS_FROM: usize = 16;

/// Rounds of site and inline disk answers before the sockets get their turn.
const ROUNDS_MAX: usize = 16;
/// How long an orderly end may take, nanoseconds.
const DRAIN_MAX: u64 = 15_000_000_000;
/// How long hosts may take to fetch their last bytes, nanoseconds.
const FAREWELL_MAX: u64 = 500_000_000;
/// Longest sleep, so that an error in a deadline cannot stop the site for good.
const SLEEP_MAX: u64 = 1_000_000_000;

/// How the core ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ending {
    /// As asked for.
    Drained,
    /// As asked for, but what was under way did not end in time. Nothing that was completed is lost.
    DrainTimedOut,
    /// The site must be recovered.
    Halted(String),
    /// The operator asked twice.
    Forced,
}

/// What the core runs on.
pub struct Core {
    /// Readiness of all below.
    pub poll: Poll,
    /// The site.
    pub site: Site,
    /// The iSCSI port.
    pub hosts: Hosts,
    /// The line to the peer.
    pub link: Link,
    /// Journal and stores.
    pub disks: Disks,
    /// Connections with stores that are SCSI units.
    pub units: Units,
    /// Letters of other threads.
    pub mailbox: Mailbox,
    /// SIGTERM and SIGINT.
    pub signals: Signals,
    /// Next free token.
    pub next_token: usize,
    /// For the farewell.
    pub progress: Progress,
    /// Who asked about reservations, until the units that keep them have been looked at.
    pub lookers: Vec<Ask>,
}

/// How far the end has come.
#[derive(Default)]
pub struct Progress {
    drain_until: Option<u64>,
    farewell_until: Option<u64>,
    forced: bool,
    halted: Option<String>,
}

/// The clocks now.
pub fn now() -> Now {
    let nanoseconds = |clock| {
        let time = clock_gettime(clock);
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    };
    Now { wall: nanoseconds(ClockId::Realtime), mono: nanoseconds(ClockId::Monotonic) }
}

impl Core {
    /// Runs until the end.
    pub fn run(&mut self) -> std::io::Result<Ending> {
        let mut ready = Events::with_capacity(256);
        let (mut events, mut actions) = (Vec::new(), Vec::new());
        loop {
            let timeout = self.timeout(now());
            match self.poll.poll(&mut ready, Some(timeout)) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(()) => {}
            }
            self.gather(&ready, &mut events);
            ready.clear();
            for _ in 0..ROUNDS_MAX {
                self.round(&mut events, &mut actions);
                if events.is_empty() {
                    break;
                }
            }
            if !self.site.looking() {
                self.lookers.drain(..).for_each(|ask| answer(&self.site, ask));
            }
            if let Some(ending) = self.ending(now().mono) {
                return Ok(ending);
            }
            if !events.is_empty() {
                // Inline answers go on in the next turn, after the sockets had theirs.
                let now = now();
                events.drain(..).for_each(|event| self.site.handle(now, event));
            }
        }
    }

    fn timeout(&self, now: Now) -> Duration {
        if self.hosts.unread() || self.link.unread() || self.units.unread() {
            return Duration::ZERO;
        }
        let due = [
            self.hosts.deadline(),
            self.link.deadline(),
            self.units.deadline(),
            self.progress.drain_until,
            self.progress.farewell_until,
        ];
        let due = due.into_iter().flatten().chain([self.site.next_deadline(now)]).min().unwrap_or(0);
        Duration::from_nanos(due.saturating_sub(now.mono).min(SLEEP_MAX))
    }

    /// Takes in what sockets, threads and signals have.
    fn gather(&mut self, ready: &Events, events: &mut Vec<Event>) {
        let mono = now().mono;
        let (mut hosts_call, mut link_calls) = (self.hosts.accept_due(mono), false);
        for event in ready {
            match event.token() {
                // Looked at below whoever woke us.
                WAKER | RING => {}
                HOSTS => hosts_call = true,
                LINK => link_calls = true,
                SIGNALS => self.take_signals(mono, events),
                Token(token) => {
                    let readable = event.is_readable() || event.is_read_closed() || event.is_error();
                    let writable = event.is_writable() || event.is_error();
                    let known = self.hosts.note(token, readable, writable)
                        || self.units.note(token, readable, writable);
                    if !known {
                        self.link.note(token, readable, writable);
                    }
                }
            }
        }
        if hosts_call {
            self.hosts.accept(mono, self.poll.registry(), &mut self.next_token, events);
        }
        let mut around = Surroundings {
            now: mono,
            registry: self.poll.registry(),
            next_token: &mut self.next_token,
            events,
        };
        if link_calls {
            self.link.accept(&mut around);
        }
        while let Some((ticket, result)) = self.disks.reap() {
            path::mark("append-known");
            around.events.push(Event::DiskDone { ticket, result });
        }
        self.mailbox.begin();
        while let Some(letter) = self.mailbox.next() {
            match letter {
                Letter::DiskDone(ticket, result) => {
                    path::mark("append-known");
                    around.events.push(Event::DiskDone { ticket, result });
                }
                Letter::Ask(ask) => match about_reservations(&ask.question) {
                    Some(volume) => {
                        self.site.look(now(), volume);
                        self.lookers.push(ask);
                    }
                    None => answer(&self.site, ask),
                },
                Letter::PeerFound(found) => self.link.peer_found(&mut around, found),
                Letter::UnitFound(conn, found) => self.units.found(&mut around, conn, found),
            }
        }
        self.link.turn(&mut around);
        self.units.turn(&mut around);
        self.hosts.read(events);
    }

    fn take_signals(&mut self, mono: u64, events: &mut Vec<Event>) {
        for _ in self.signals.pending() {
            if self.progress.drain_until.is_some() {
                self.progress.forced = true;
            } else {
                tracing::info!("asked to stop: finishing what is under way; ask again to stop at once");
                self.progress.drain_until = Some(mono + DRAIN_MAX);
                events.push(Event::Drain);
            }
        }
    }

    /// Hands the events to the site and carries out what follows; new events are inline answers and sockets' news.
    fn round(&mut self, events: &mut Vec<Event>, actions: &mut Vec<Action>) {
        let now = now();
        events.drain(..).for_each(|event| self.site.handle(now, event));
        if now.mono >= self.site.next_deadline(now) {
            self.site.handle(now, Event::Tick);
        }
        self.site.poll(now, actions);
        let mut around = Surroundings {
            now: now.mono,
            registry: self.poll.registry(),
            next_token: &mut self.next_token,
            events,
        };
        let mut orders = Vec::new();
        for action in actions.drain(..) {
            match action {
                Action::HostSend { conn, bytes } => self.hosts.send(conn, bytes),
                Action::HostClose { conn } => self.hosts.close(now.mono, conn),
                Action::LinkSend { link, bytes } => self.link.send(link, bytes),
                Action::LinkClose { link, why } => self.link.close(&mut around, link, &why),
                Action::Disk { ticket, op } => orders.push((ticket, op)),
                Action::UnitConnect { conn, portal } => self.units.connect(&mut around, conn, &portal),
                Action::UnitSend { conn, bytes } => self.units.send(conn, bytes),
                Action::UnitClose { conn } => self.units.close(now.mono, conn),
                // Nothing here submits commands past iSCSI.
                Action::Answer { task, completion: _ } => {
                    tracing::debug!("an answer nobody asked for: {task:?}")
                }
                Action::Notice(notice) => log(&notice),
                Action::Halt { why } => self.progress.halted = Some(why),
                Action::Drained => self.progress.farewell_until = Some(now.mono + FAREWELL_MAX),
            }
        }
        self.link.flush(&mut around);
        self.units.flush(&mut around);
        self.hosts.flush(now.mono, events);
        for (ticket, op) in orders {
            if let Some(result) = self.disks.order(ticket, op) {
                events.push(Event::DiskDone { ticket, result });
            }
        }
    }

    fn ending(&self, mono: u64) -> Option<Ending> {
        let Progress { drain_until, farewell_until, forced, halted } = &self.progress;
        if let Some(why) = halted {
            return Some(Ending::Halted(why.clone()));
        }
        if *forced {
            return Some(Ending::Forced);
        }
        if farewell_until.is_some_and(|until| until <= mono || !self.hosts.busy()) {
            return Some(Ending::Drained);
        }
        drain_until.is_some_and(|until| until <= mono).then_some(Ending::DrainTimedOut)
    }
}

fn log(notice: &Notice) {
    match notice.severity {
        Severity::Debug => tracing::debug!("{}", notice.text),
        Severity::Info => tracing::info!("{}", notice.text),
        Severity::Warning => tracing::warn!("{}", notice.text),
        Severity::Alarm => tracing::error!("ALARM: {}", notice.text),
    }
}

/// Whether a question is about reservations, and of which volume; of all of them without one.
fn about_reservations(question: &Question) -> Option<Option<&str>> {
    match question {
        Question::Locks { volume } | Question::Explain { volume, .. } => Some(volume.as_deref()),
        // Its first answer: what follows is of the same moment.
        Question::Map { volume, from: 0 } => Some(Some(volume)),
        Question::Status
        | Question::Table { .. }
        | Question::Map { .. }
        | Question::Discards { .. }
        | Question::Conflicts { .. } => None,
    }
}

fn answer(site: &Site, Ask { question, reply }: Ask) {
    let said = match &question {
        Question::Status => told(Ok(site.status(now()))),
        Question::Table { skip, limit } => told(Ok(site.table(*skip, (*limit).min(ROWS_MAX)))),
        Question::Conflicts { after } => told(Ok(site.conflicts(*after))),
        Question::Map { volume, from } => {
            let runs = site.map_from(volume, *from, ROWS_MAX);
            told(runs.ok_or_else(|| format!("there is no volume \"{volume}\"")))
        }
        Question::Locks { volume } => told(site.locks(volume.as_deref())),
        Question::Explain { volume, lba } => told(site.explain(volume.as_deref(), *lba)),
        Question::Discards { after } => told(Ok(site.discards(*after))),
    };
    deliver(&reply, said);
}

fn told<T: serde::Serialize>(said: Result<T, String>) -> Answer {
    let value = said.and_then(|value| serde_json::to_value(value).map_err(|error| error.to_string()));
    value.map_or_else(Answer::Error, Answer::Ok)
}

fn deliver(reply: &std::sync::mpsc::SyncSender<Answer>, answer: Answer) {
    if reply.try_send(answer).is_err() {
        tracing::debug!("admin: a client went away before its answer");
    }
}
