//! Answers for the line to the peer: at most one established connection, proven where TLS is on. Both sites listen
//! and dial. Nothing that a stranger sends reaches the site or disturbs the established link.
//!
//! ```text
//! dial ──▶ Connecting ─┐
//!                      ├▶ Proving (TLS) ─▶ Greeting ─▶ Up ─▶ Ending
//! accept ──────────────┘        each step within HANDSHAKE; refusals are logged
//! ```
//! The greeting is 16 bytes each way, "biplex-link/1 a\n" with the sender's site. On plain TCP it keeps garbage out;
//! under TLS it tells the dialler that the acceptor took its certificate (TLS 1.3 alone does not). When both sites
//! dial at the same moment, the connection that site a dialled stays; otherwise the newer replaces the older.

mod session;

use crate::mailbox::{Letter, Sender};
use crate::path;
use crate::tls::Keys;
use biplex_engine::SiteId;
use biplex_site::Event;
use bytes::Bytes;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use session::{Session, Step};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, ToSocketAddrs};

/// Connections that came in and have not yet proven themselves; the oldest makes room for a new one.
pub const HALF_OPEN_MAX: usize = 8;
/// Time for a connection to prove itself, nanoseconds.
pub const HANDSHAKE: u64 = 10_000_000_000;
/// First and longest pause between attempts to dial, nanoseconds.
const PAUSE_MIN: u64 = 100_000_000;
const PAUSE_MAX: u64 = 1_000_000_000;
/// Site b dials so much later, so that in the normal course of things site a's call arrives first.
const SECOND_DIALLER_WAITS: u64 = 1_000_000_000;
/// Connections that come up within this time of each other are a crossing, not a replacement.
const CROSSING: u64 = 3_000_000_000;
/// A link that held for so long starts the pauses anew.
const SETTLED: u64 = 10_000_000_000;
/// How long an ended link may take to send its last bytes.
const LINGER: u64 = 1_000_000_000;
/// An unchanged reason for a failed dial is repeated in the log once in so many attempts.
const REPEAT: u64 = 60;

/// The line to the peer.
pub struct Link {
    site: SiteId,
    peer: String,
    keys: Option<Keys>,
    listener: TcpListener,
    sessions: BTreeMap<usize, Session>,
    established: Option<usize>,
    sender: Sender,
    dial_at: Option<u64>,
    pause: u64,
    failures: u64,
    last_failure: String,
}

/// What the link needs of the core for a moment.
pub struct Surroundings<'a> {
    /// Monotonic clock, nanoseconds.
    pub now: u64,
    /// Where sockets are registered.
    pub registry: &'a Registry,
    /// The next free token.
    pub next_token: &'a mut usize,
    /// Where events for the site go.
    pub events: &'a mut Vec<Event>,
}

impl Link {
    /// Listens; the listener's token is `token`.
    pub fn listen(
        (site, address, peer): (SiteId, SocketAddr, String),
        keys: Option<Keys>,
        sender: Sender,
        (registry, token): (&Registry, Token),
        now: u64,
    ) -> std::io::Result<Link> {
        let mut listener = TcpListener::bind(address)?;
        registry.register(&mut listener, token, Interest::READABLE)?;
        let mut link = Link {
            site,
            peer,
            keys,
            listener,
            sessions: BTreeMap::new(),
            established: None,
            sender,
            dial_at: None,
            pause: PAUSE_MIN,
            failures: 0,
            last_failure: String::new(),
        };
        link.plan_dial(now, 0);
        Ok(link)
    }

    /// Where it listens.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    fn plan_dial(&mut self, now: u64, pause: u64) {
        let head_start = match self.site {
            SiteId::A => 0,
            SiteId::B => SECOND_DIALLER_WAITS,
        };
        // A quarter more or less, so that the two sites do not keep calling each other at the same moments.
        let jitter = u64::from(getrandom::u32().unwrap_or(0)) * (pause / 2) / u64::from(u32::MAX);
        self.dial_at = Some(now + head_start + pause - pause / 4 + jitter);
    }

    /// Takes in all that wait at the port.
    pub fn accept(&mut self, around: &mut Surroundings<'_>) {
        loop {
            let (stream, remote) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    // The listener stirs again with the next caller, and this site dials as well.
                    tracing::warn!("link: cannot accept: {error}");
                    return;
                }
            };
            let half_open =
                || self.sessions.iter().filter(|(_, session)| session.inbound && !session.is_up());
            if half_open().count() >= HALF_OPEN_MAX
                && let Some(oldest) = half_open().map(|(token, _)| *token).next()
            {
                self.refuse(around, oldest, "too many callers at a time and this one was the slowest");
            }
            let tls = self.keys.as_ref().map(Keys::accept).transpose();
            self.begin(around, stream, remote, tls, true);
        }
    }

    fn begin(
        &mut self,
        around: &mut Surroundings<'_>,
        mut stream: TcpStream,
        remote: SocketAddr,
        tls: Result<Option<rustls::Connection>, rustls::Error>,
        inbound: bool,
    ) {
        let token = *around.next_token;
        *around.next_token += 1;
        let interests = Interest::READABLE | Interest::WRITABLE;
        let ready =
            around.registry.register(&mut stream, Token(token), interests).map_err(|error| error.to_string());
        match ready.and_then(|()| tls.map_err(|error| error.to_string())) {
            Ok(tls) => {
                let session = Session::new(stream, remote, tls, inbound, around.now + HANDSHAKE);
                self.sessions.insert(token, session);
                self.advance(around, token);
            }
            Err(why) if inbound => tracing::warn!("link: {remote} refused: {why}"),
            Err(why) => self.dial_failed(around.now, &format!("{remote}: {why}")),
        }
    }

    /// Dials, if it is time to; the name of the peer is looked up on a thread of its own unless it is an address.
    fn dial(&mut self, around: &mut Surroundings<'_>) {
        self.dial_at = None;
        if let Ok(address) = self.peer.parse() {
            return self.peer_found(around, Ok(vec![address]));
        }
        let (peer, sender) = (self.peer.clone(), self.sender.clone());
        let look_up = move || {
            let found = peer.to_socket_addrs().map(Iterator::collect);
            sender.post(Letter::PeerFound(found));
        };
        if let Err(error) = std::thread::Builder::new().name("biplex-lookup".to_owned()).spawn(look_up) {
            self.dial_failed(around.now, &format!("cannot look {} up: {error}", self.peer));
        }
    }

    /// The peer's addresses are known: calls the one whose turn it is.
    pub fn peer_found(&mut self, around: &mut Surroundings<'_>, found: std::io::Result<Vec<SocketAddr>>) {
        if self.established.is_some() {
            return;
        }
        let addresses = match found {
            Ok(addresses) => addresses,
            Err(error) => {
                return self.dial_failed(around.now, &format!("cannot look {} up: {error}", self.peer));
            }
        };
        let turn = self.failures as usize % addresses.len().max(1);
        let Some(address) = addresses.get(turn).copied() else {
            return self.dial_failed(around.now, &format!("{} has no address", self.peer));
        };
        match TcpStream::connect(address) {
            Ok(stream) => {
                let tls = self.keys.as_ref().map(Keys::dial).transpose();
                self.begin(around, stream, address, tls, false);
            }
            Err(error) => self.dial_failed(around.now, &format!("{address}: {error}")),
        }
    }

    fn dial_failed(&mut self, now: u64, why: &str) {
        self.failures += 1;
        if why != self.last_failure || self.failures.is_multiple_of(REPEAT) {
            tracing::warn!("link: the peer cannot be reached: {why}; trying on");
            self.last_failure = why.to_owned();
        }
        if self.established.is_none() {
            self.plan_dial(now, self.pause);
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
    }

    /// Whether the token is one of the link's; notes what its socket is ready for.
    pub fn note(&mut self, token: usize, readable: bool, writable: bool) -> bool {
        let Some(session) = self.sessions.get_mut(&token) else { return false };
        session.readable |= readable;
        session.writable |= writable;
        true
    }

    /// Whether a socket has more to read in the next turn.
    pub fn unread(&self) -> bool {
        self.sessions.values().any(|session| session.readable)
    }

    /// Moment at which something is due although no socket stirs.
    pub fn deadline(&self) -> Option<u64> {
        self.sessions.values().filter_map(|session| session.deadline).chain(self.dial_at).min()
    }

    /// One turn: dials and ends what is due, reads, and brings handshakes on.
    pub fn turn(&mut self, around: &mut Surroundings<'_>) {
        let now = around.now;
        if self.dial_at.is_some_and(|at| at <= now) {
            self.dial(around);
        }
        let stirred = |session: &Session| session.readable || session.writable;
        let late = |session: &Session| session.deadline.is_some_and(|deadline| deadline <= now);
        let due = self.sessions.iter().filter(|(_, session)| stirred(session) || late(session));
        for token in due.map(|(token, _)| *token).collect::<Vec<_>>() {
            self.advance(around, token);
        }
    }

    fn advance(&mut self, around: &mut Surroundings<'_>, token: usize) {
        let site = self.site;
        let Some(session) = self.sessions.get_mut(&token) else { return };
        let mut arrived = Vec::new();
        let was_up = session.is_up();
        let mut step = session.advance(around.now, site, &mut arrived);
        if !was_up && session.is_up() {
            if self.comes_second(around.now, token) {
                step = Step::Over(
                    "the two sites called each other at the same moment; the other call stays".to_owned(),
                );
            } else {
                self.establish(around, token);
            }
        }
        if self.established == Some(token) {
            let link = token as u64;
            if !arrived.is_empty() {
                path::mark("link-in");
            }
            around.events.extend(arrived.into_iter().map(|bytes| Event::LinkBytes { link, bytes }));
        }
        match step {
            Step::Wait => {}
            Step::Over(why) => self.over(around, token, &why),
            Step::Refused(why) => self.refuse(around, token, &why),
        }
    }

    /// Whether this proven connection must give way to the established one: both sites dialled, and site a's stays.
    fn comes_second(&self, now: u64, token: usize) -> bool {
        let dialled_by = |inbound: bool| if inbound { self.site.peer() } else { self.site };
        let older = self.established.and_then(|older| self.sessions.get(&older));
        let newer = self.sessions.get(&token);
        match (older, newer) {
            (Some(older), Some(newer)) => {
                let crossing = now.saturating_sub(older.up_since) < CROSSING;
                crossing && dialled_by(older.inbound) == SiteId::A && dialled_by(newer.inbound) == SiteId::B
            }
            (None, _) | (_, None) => false,
        }
    }

    fn establish(&mut self, around: &mut Surroundings<'_>, token: usize) {
        if let Some(older) = self.established.take() {
            around.events.push(Event::LinkClosed { link: older as u64 });
            self.sessions.remove(&older);
            tracing::info!("link: a newer connection of the peer replaces the older one");
        }
        self.established = Some(token);
        self.dial_at = None;
        self.last_failure.clear();
        if let Some(session) = self.sessions.get(&token) {
            let how = if session.inbound { "called by" } else { "called" };
            let proof = if self.keys.is_some() { "proven by TLS 1.3" } else { "not proven, not encrypted" };
            tracing::info!("link: {how} {}, {proof}", session.remote);
        }
        around.events.push(Event::LinkConnected { link: token as u64 });
    }

    fn refuse(&mut self, around: &mut Surroundings<'_>, token: usize, why: &str) {
        let Some(mut session) = self.sessions.remove(&token) else { return };
        // A TLS alert may be waiting; it tells the other side's operator why.
        session.last_words();
        if session.inbound {
            tracing::warn!("link: {} refused: {why}", session.remote);
        } else {
            let remote = session.remote;
            self.dial_failed(around.now, &format!("{remote}: {why}"));
        }
    }

    fn over(&mut self, around: &mut Surroundings<'_>, token: usize, why: &str) {
        let Some(session) = self.sessions.remove(&token) else { return };
        if self.established == Some(token) {
            tracing::warn!("link: {} lost: {why}", session.remote);
            self.lost(around.now, session.up_since);
            around.events.push(Event::LinkClosed { link: token as u64 });
        } else {
            tracing::debug!("link: {} ended: {why}", session.remote);
        }
    }

    fn lost(&mut self, now: u64, up_since: u64) {
        self.established = None;
        if now.saturating_sub(up_since) >= SETTLED {
            self.pause = PAUSE_MIN;
        }
        self.plan_dial(now, self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    /// Queues bytes for the peer; bytes for an older link are dropped.
    pub fn send(&mut self, link: u64, bytes: Bytes) {
        if self.established == Some(link as usize)
            && let Some(session) = self.sessions.get_mut(&(link as usize))
        {
            session.outbox.push(bytes);
        }
    }

    /// Ends the link after what was sent; a new one is dialled after a pause.
    pub fn close(&mut self, around: &mut Surroundings<'_>, link: u64, why: &str) {
        let token = link as usize;
        if self.established != Some(token) {
            return;
        }
        if let Some(session) = self.sessions.get_mut(&token) {
            tracing::warn!("link: {} ended by this site: {why}", session.remote);
            session.end(around.now + LINGER);
            let up_since = session.up_since;
            self.lost(around.now, up_since);
        }
        around.events.push(Event::LinkClosed { link });
    }

    /// Writes what the sockets take and tells the backlog.
    pub fn flush(&mut self, around: &mut Surroundings<'_>) {
        let unsent = |(token, session): (&usize, &Session)| session.has_unsent().then_some(*token);
        for token in self.sessions.iter().filter_map(unsent).collect::<Vec<_>>() {
            let Some(session) = self.sessions.get_mut(&token) else { continue };
            path::mark("link-out");
            let result = session.flush();
            if self.established == Some(token)
                && let Some(queued) = session.outbox.news(session.sealed)
            {
                around.events.push(Event::LinkBacklog { link: token as u64, queued });
            }
            match result {
                Ok(()) => {}
                Err(error) => self.over(around, token, &error.to_string()),
            }
        }
    }
}

#[cfg(test)]
#[path = "link/tests.rs"]
mod tests;
