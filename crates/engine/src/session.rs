//! The session with the peer: hello, resume by the union of both sides' prefixes, lease, heartbeat.
//!
//! ```text
//! connected ─▶ hello both ways ─▶ accepted ─▶ what each lacks ─▶ ResumeEnd ─▶ durable ─▶ in step ─▶ (lease) serving
//! ```
//! A site that restarted may have lost own entries that its peer has, and the peer's hosts may have seen them. So it
//! states how far it surely has its own (`resume_from`) and gets the rest back; until that is durable it promises
//! nothing, cuts nothing, and serves no sync volume. (Where what comes back finds no room in the journal it cuts, but
//! not beyond `resume_from`.) Clocks' readings never decide safety here, only their rates.

use crate::engine::{Action, Checkpoint, Engine, Severity};
use crate::message::{Ack, Hello, Message, PROTOCOL_VERSION, Ping, Pong, Refusal};
use crate::units::*;

/// Heartbeats are at most this far apart, nanoseconds.
const PING_EVERY_MAX: u64 = 200_000_000;
/// Heartbeats are at least this far apart, nanoseconds.
const PING_EVERY_MIN: u64 = 2_000_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Line {
    Down,
    /// Our hello is sent, the peer's has not come.
    Greeting,
    /// Both hellos fit.
    Accepted,
}

/// What this site knows of its peer and of the line.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    line: Line,
    journal: u64,
    pub peer_journal: u64,
    pub peer_journal_usable: u64,
    /// How often the peer was started, by its last hello; 0 if none came in this run.
    pub peer_run: u32,
    /// See [`crate::message::Hello::have`]; `Some` until the peer has returned what this site lost.
    pub resume_from: Option<Stamp>,
    /// `resume_from` of the newest durable checkpoint.
    resume_from_durable: Option<Stamp>,
    /// The peer's `ResumeEnd` came when this was the last append.
    resume_end: Option<AppendSeq>,
    in_step_here: bool,
    pub peer_in_step: bool,
    pub ack_owed: bool,
    /// Monotonic time until which sync volumes may be served.
    pub lease_until: u64,
    since: u64,
    last_pong: u64,
    ping_due: u64,
    ping_every: u64,
    pub rtt: Option<u64>,
    pub offset: Option<i64>,
    offset_warned: bool,
    /// A heartbeat of this session was answered, so the offset is known.
    measured: bool,
    pub sessions: u64,
    pub refused: Option<String>,
    /// Newest entry of each origin that was destaged and dropped in this run: a peer that has less lost its journal.
    pub dropped: [Stamp; 2],
    /// Fingerprint of the backing stores, for the first meeting.
    pub stores: u64,
}

impl Session {
    pub(crate) fn new(journal: u64, checkpoint: Checkpoint) -> Session {
        Session {
            line: Line::Down,
            journal,
            peer_journal: checkpoint.peer_journal,
            peer_journal_usable: u64::MAX,
            peer_run: 0,
            resume_from: checkpoint.resume_from,
            resume_from_durable: checkpoint.resume_from,
            resume_end: None,
            in_step_here: false,
            peer_in_step: false,
            ack_owed: false,
            lease_until: 0,
            since: 0,
            last_pong: 0,
            ping_due: u64::MAX,
            ping_every: PING_EVERY_MAX,
            rtt: None,
            offset: None,
            offset_warned: false,
            measured: false,
            sessions: 0,
            refused: None,
            dropped: [Stamp::ZERO; 2],
            stores: 0,
        }
    }

    /// After recovery: own entries beyond the newest found may be lost, unless an older bound is still open.
    pub(crate) fn recovered(&mut self, own_newest: Stamp) {
        self.resume_from = Some(self.resume_from.unwrap_or(own_newest));
        self.resume_from_durable = self.resume_from;
    }

    /// Whether both hellos fitted, so that the stream may flow.
    pub(crate) fn accepted(&self) -> bool {
        self.line == Line::Accepted
    }

    /// Whether the journal says that this site has back whatever it had lost of its own.
    pub(crate) fn resumed_for_good(&self) -> bool {
        self.resume_from.is_none() && self.resume_from_durable.is_none()
    }

    /// Something that the peer sent was not taken in: in this session the two are not in step any more.
    pub(crate) fn fall_behind(&mut self) {
        self.in_step_here = false;
        self.resume_end = None;
    }

    /// Whether this site has, durable, all that the peer owed it.
    pub(crate) fn in_step_here(&self) -> bool {
        self.in_step_here
    }

    /// Whether both have.
    pub(crate) fn in_step(&self) -> bool {
        self.in_step_here && self.peer_in_step
    }
}

/// Whether every time in it is one that a clock could show; the rest of a message is judged where it is used.
fn believable(message: &Message) -> bool {
    let ack = |ack: &Ack| {
        [ack.durable, ack.taken, ack.promise, ack.destaged].iter().all(|s| s.time <= Stamp::TIME_MAX)
    };
    match message {
        Message::Hello(hello) => {
            hello.clock.max(hello.destaged.time) <= Stamp::TIME_MAX
                && hello.have.iter().all(|stamp| stamp.time <= Stamp::TIME_MAX)
        }
        Message::Entry(entry) => (1..=Stamp::TIME_MAX).contains(&entry.stamp.time),
        Message::Ack(told) => ack(told),
        Message::Ping(ping) => ack(&ping.ack),
        Message::Digest(digest) => digest.from.time.max(digest.to.time) <= Stamp::TIME_MAX,
        Message::Passed { stamp, .. } => (1..=Stamp::TIME_MAX).contains(&stamp.time),
        Message::Refuse(_) | Message::ResumeEnd | Message::Pong(_) | Message::Host { .. } => true,
    }
}

impl Engine {
    /// Whether this site never met its peer. Until then nothing is destaged, so the stores hold what they held before.
    pub fn first_meeting(&self) -> bool {
        self.session.peer_journal == 0
    }

    /// What the backing stores hold, as a number that two sites compare when they first meet.
    pub fn set_stores_fingerprint(&mut self, fingerprint: u64) {
        self.session.stores = fingerprint;
    }

    /// A connection to the peer stands.
    pub fn handle_link_connected(&mut self, now: Now) {
        self.handle_link_closed(now);
        self.session.line = Line::Greeting;
        self.session.since = now.mono;
        let own = self.config.site;
        let mut have = [Stamp::ZERO; 2];
        have[own.index()] = self.session.resume_from.unwrap_or(self.outbound.issued);
        have[own.peer().index()] = self.inbound.received;
        let hello = Hello {
            version: PROTOCOL_VERSION,
            pair: self.config.pair,
            site: own,
            run: self.run,
            journal: self.session.journal,
            peer_journal: self.session.peer_journal,
            wall: now.wall,
            clock: self.clock.reading(now),
            have,
            destaged: self.cuts.destaged,
            journal_bytes: self.config.journal_usable,
            hold_time: self.config.hold_time,
            hold_every: self.config.hold_every,
            stores: if self.first_meeting() { self.session.stores } else { 0 },
            volumes: self.config.volumes.iter().map(|(geometry, _)| geometry.clone()).collect(),
        };
        self.order(Action::Send(Message::Hello(hello)));
    }

    /// The connection ended. What was sent may or may not have arrived.
    pub fn handle_link_closed(&mut self, _now: Now) {
        if self.session.line == Line::Accepted {
            let text = "the line to the peer is down: sync volumes wait, async volumes go on".to_string();
            self.notice(Severity::Warning, text);
        }
        let session = &mut self.session;
        session.line = Line::Down;
        session.in_step_here = false;
        session.peer_in_step = false;
        session.resume_end = None;
        session.ack_owed = false;
        session.ping_due = u64::MAX;
    }

    /// A message came on the present link.
    pub fn handle_message(&mut self, now: Now, message: Message) {
        if self.session.line != Line::Down && !believable(&message) {
            return self.violation("a stamp of time 0 or beyond the year 2262".into());
        }
        match (self.session.line, message) {
            (Line::Down, _) => {}
            (_, Message::Refuse(Refusal { why })) => {
                self.refused(format!("the peer refuses to pair: {why}"));
                self.order(Action::CloseLink { why });
            }
            (Line::Greeting, Message::Hello(hello)) => self.handle_hello(now, hello),
            (Line::Greeting, _) => self.violation("something else came before the hello".into()),
            (Line::Accepted, Message::Hello(_)) => self.violation("a second hello".into()),
            (Line::Accepted, Message::Entry(entry)) => self.handle_entry(now, entry),
            // What was owed did not all find room: it is not the end for this site.
            (Line::Accepted, Message::ResumeEnd) if self.inbound.deaf() => {}
            (Line::Accepted, Message::ResumeEnd) => {
                self.session.resume_end = Some(AppendSeq(self.append_next.0 - 1));
                self.resume_progress(now);
            }
            (Line::Accepted, Message::Ack(ack)) => self.handle_ack(now, ack),
            (Line::Accepted, Message::Ping(ping)) => self.handle_ping(now, ping),
            (Line::Accepted, Message::Pong(pong)) => self.handle_pong(now, pong),
            (Line::Accepted, Message::Digest(digest)) => self.handle_digest(digest),
            (Line::Accepted, Message::Passed { stamp, verdict }) => self.handle_outcome(now, stamp, verdict),
            // The site takes hosts' names before they come here.
            (Line::Accepted, Message::Host { .. }) => {}
        }
    }

    fn refused(&mut self, why: String) {
        if self.session.refused.as_ref() != Some(&why) {
            self.notice(Severity::Alarm, format!("not paired: {why}"));
        }
        self.session.refused = Some(why);
    }

    fn handle_hello(&mut self, now: Now, hello: Hello) {
        if let Err(why) = self.judge(now, &hello) {
            self.refused(why.clone());
            self.order(Action::Send(Message::Refuse(Refusal { why: why.clone() })));
            self.order(Action::CloseLink { why });
            return;
        }
        let own = self.config.site;
        self.clock.observe(hello.clock);
        let session = &mut self.session;
        session.line = Line::Accepted;
        session.refused = None;
        session.measured = false;
        session.sessions += 1;
        session.last_pong = now.mono;
        session.ping_due = now.mono;
        session.ping_every =
            (self.config.hold_every / 4).min(self.config.lease / 5).clamp(PING_EVERY_MIN, PING_EVERY_MAX);
        session.peer_journal_usable = hello.journal_bytes;
        session.peer_run = hello.run;
        if session.peer_journal != hello.journal {
            session.peer_journal = hello.journal;
            self.order(Action::Checkpoint);
        }
        self.inbound.new_session();
        self.cuts.new_session();
        let (peer_has_ours, peer_has_own) = (hello.have[own.index()], hello.have[own.peer().index()]);
        self.outbound.new_session(peer_has_ours, peer_has_own, self.inbound.received);
        self.notice(Severity::Info, "the peer is there; resuming the stream".into());
        self.order(Action::Paired);
        self.tell_outcomes();
        self.session_tick(now);
        self.pump_outbound();
    }

    /// Whether this peer may be paired with; if not, a sentence that says what differs and what to do.
    fn judge(&self, now: Now, hello: &Hello) -> Result<(), String> {
        let config = &self.config;
        let own = config.site;
        if hello.version != PROTOCOL_VERSION {
            return Err(format!(
                "protocol version {} here, {} there: run the same release at both sites",
                PROTOCOL_VERSION, hello.version
            ));
        }
        if hello.pair != config.pair {
            return Err("another pair's site answered: [iscsi] target must be the same at both sites, \
                        and [link] peer must name this pair's other site"
                .into());
        }
        if hello.site != own.peer() {
            return Err(format!(
                "both sites call themselves \"{own}\": set site = \"{}\" at one",
                own.peer()
            ));
        }
        if hello.hold_time != config.hold_time || hello.hold_every != config.hold_every {
            return Err(format!(
                "[hold] differs: time {} ms every {} ms at site {own}, time {} ms every {} ms at site {}: \
                 make them equal",
                config.hold_time / 1_000_000,
                config.hold_every / 1_000_000,
                hello.hold_time / 1_000_000,
                hello.hold_every / 1_000_000,
                own.peer()
            ));
        }
        let ours: Vec<_> = config.volumes.iter().map(|(geometry, _)| geometry).collect();
        for volume in &ours {
            let Some(theirs) = hello.volumes.iter().find(|other| other.id == volume.id) else {
                return Err(format!("volume {} is configured at site {own} only", volume.name));
            };
            if theirs != *volume {
                return Err(format!(
                    "volume {} differs: lun {} with {} blocks, mode {} at site {own}, lun {} with {} blocks, \
                     mode {} at site {} (modes: 0 async, 1 sync, 2 flush; and 16 reserve_conflicting_writes = \"discard\", 32 \
                     compare_and_write = \"allow\", 64 reservations = \"disk\"): make them equal",
                    volume.name,
                    volume.lun,
                    volume.blocks,
                    volume.mode,
                    theirs.lun,
                    theirs.blocks,
                    theirs.mode,
                    own.peer()
                ));
            }
        }
        if let Some(extra) = hello.volumes.iter().find(|other| !ours.iter().any(|v| v.id == other.id)) {
            return Err(format!("volume {} is configured at site {} only", extra.name, own.peer()));
        }
        // The hello was on its way for at most as long as the connection stands; the first heartbeat measures better.
        let least = i128::from(hello.wall) - i128::from(now.wall);
        let most = least + i128::from(now.mono.saturating_sub(self.session.since));
        let limit = i128::from(config.max_offset);
        if least > limit || most < -limit {
            return Err(self.clocks_apart(if least > limit { least } else { most }));
        }
        let known = self.session.peer_journal;
        let made_anew = |site: SiteId| {
            format!(
                "site {site}'s journal was made anew since the sites last met, so it cannot tell what it lacks. Do not \
                 delete the other journal: writes that are still held are only there. Copy the volumes out of the \
                 good site through iSCSI, see docs/operations.md, \"A journal or a store is lost\""
            )
        };
        if known != 0 && known != hello.journal {
            return Err(made_anew(own.peer()));
        }
        if hello.peer_journal != 0 && hello.peer_journal != self.session.journal {
            return Err(made_anew(own));
        }
        // Only when neither has met the other: from then on the stream keeps the stores equal.
        if self.first_meeting() && hello.peer_journal == 0 && hello.stores != self.session.stores {
            return Err("the sites meet for the first time and their stores do not hold the same bytes: stop both, \
                        copy the good site's stores to the other (or begin with empty ones), and start them again"
                .into());
        }
        for origin in SiteId::BOTH {
            if hello.have[origin.index()] < self.session.dropped[origin.index()] {
                return Err(format!(
                    "site {} has writes of site {origin} only up to {}, but those up to {} are destaged here: \
                     its journal is an older copy",
                    own.peer(),
                    hello.have[origin.index()],
                    self.session.dropped[origin.index()]
                ));
            }
        }
        Ok(())
    }

    fn clocks_apart(&self, offset: i128) -> String {
        format!(
            "the sites' clocks are {} ms apart, more than [clock] max_offset = {} ms: set the clocks (chrony, ntpd) \
             at both sites",
            offset.unsigned_abs() / 1_000_000,
            self.config.max_offset / 1_000_000
        )
    }

    /// Something became durable: perhaps the resume is complete now.
    pub(crate) fn session_durable(&mut self, now: Now, checkpoint: &Checkpoint) {
        self.session.resume_from_durable = checkpoint.resume_from;
        self.resume_progress(now);
    }

    fn resume_progress(&mut self, now: Now) {
        let Some(end) = self.session.resume_end else { return };
        if end > self.append_durable || self.session.in_step_here {
            return;
        }
        if self.session.resume_from.take().is_some() || self.session.resume_from_durable.is_some() {
            // Only when the journal says so too: a promise must not outlive a crash that forgets the resume.
            self.order(Action::Checkpoint);
        }
        if self.session.resume_from_durable.is_some() {
            return;
        }
        self.session.in_step_here = true;
        self.session.ack_owed = true;
        self.notice(Severity::Info, "in step with the peer: nothing is owed to this site".into());
        self.send_ping(now);
        self.say_started(now);
        self.execute(now);
        self.wake_in_step();
        self.pump_doors(now);
    }

    fn handle_ping(&mut self, now: Now, ping: Ping) {
        let pong = Pong {
            sent_mono: ping.sent_mono,
            sent_wall: ping.sent_wall,
            received_wall: now.wall,
            in_step: self.session.in_step_here,
        };
        self.order(Action::Send(Message::Pong(pong)));
        self.handle_ack(now, ping.ack);
    }

    fn handle_pong(&mut self, now: Now, pong: Pong) {
        if pong.sent_mono > now.mono {
            return self.violation("an answer to a heartbeat that was never sent".into());
        }
        let rtt = now.mono - pong.sent_mono;
        let middle = i128::from(pong.sent_wall) + i128::from(rtt / 2);
        let offset = i128::from(pong.received_wall) - middle;
        let beyond =
            offset.unsigned_abs().saturating_sub(u128::from(rtt)) > u128::from(self.config.max_offset);
        if !std::mem::replace(&mut self.session.measured, true) && beyond {
            // The first heartbeat of a session: the hello could not tell so well, and nothing was served yet.
            let why = self.clocks_apart(offset);
            self.refused(why.clone());
            self.order(Action::Send(Message::Refuse(Refusal { why: why.clone() })));
            return self.order(Action::CloseLink { why });
        }
        let session = &mut self.session;
        session.last_pong = now.mono;
        session.rtt = Some(rtt);
        session.offset = Some(offset.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64);
        if pong.in_step {
            session.lease_until = session.lease_until.max(pong.sent_mono + self.config.lease);
            session.peer_in_step = true;
        }
        if beyond && !session.offset_warned {
            let text = format!(
                "the sites' clocks are {} ms apart, more than [clock] max_offset allows: who wrote last is decided \
                 by stamps that hosts would not expect; set the clocks",
                offset.unsigned_abs() / 1_000_000
            );
            self.notice(Severity::Alarm, text);
        }
        self.session.offset_warned = beyond;
        self.pump_doors(now);
    }

    fn send_ping(&mut self, now: Now) {
        let ack = self.ack(now);
        self.session.ack_owed = false;
        self.session.ping_due = now.mono + self.session.ping_every;
        let ping = Ping { ack, sent_mono: now.mono, sent_wall: now.wall };
        self.order(Action::Send(Message::Ping(ping)));
    }

    pub(crate) fn session_tick(&mut self, now: Now) {
        match self.session.line {
            Line::Down => {}
            Line::Greeting => {
                if now.mono >= self.session.since + 2 * self.config.lease {
                    self.order(Action::CloseLink { why: "the peer did not greet in time".into() });
                    self.session.since = now.mono;
                }
            }
            Line::Accepted => {
                if now.mono >= self.session.last_pong + self.config.lease {
                    self.order(Action::CloseLink { why: "the peer does not answer heartbeats".into() });
                    self.session.last_pong = now.mono;
                } else if now.mono >= self.session.ping_due {
                    self.send_ping(now);
                }
            }
        }
    }

    pub(crate) fn session_deadline(&self) -> u64 {
        match self.session.line {
            Line::Down => u64::MAX,
            Line::Greeting => self.session.since + 2 * self.config.lease,
            Line::Accepted => self.session.ping_due.min(self.session.last_pong + self.config.lease),
        }
    }
}
