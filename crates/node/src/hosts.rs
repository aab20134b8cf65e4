//! Answers for the iSCSI port's sockets: accepting, reading in fair turns, writing, closing after what was sent.
//! Understands nothing of iSCSI. Limits: connections, bytes read of one host per turn, backlog of one host.

use crate::path;
use crate::wire::{Inbox, Outbox, tune};
use biplex_front::ConnId;
use biplex_site::Event;
use bytes::Bytes;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

/// Hosts' connections at a time; more are closed at once.
pub const CONNECTIONS_MAX: usize = 1024;
/// Bytes read of one host before the others get their turn.
pub const TURN_BYTES_MAX: usize = 256 << 10;
/// A host that does not take its answers is not listened to beyond this backlog.
pub const BACKLOG_BYTES_MAX: usize = 16 << 20;
/// A host that leaves sent bytes unacknowledged for so long is gone.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a closed connection may take to drain, nanoseconds.
const LINGER: u64 = 2_000_000_000;
/// Pause after the process ran out of file descriptors, nanoseconds.
const ACCEPT_PAUSE: u64 = 100_000_000;

struct Host {
    stream: TcpStream,
    inbox: Inbox,
    outbox: Outbox,
    remote: SocketAddr,
    /// More may be there to read: mio tells only once.
    readable: bool,
    /// To be closed once the outbox is empty; until when at the latest.
    closing: Option<u64>,
}

/// The iSCSI port.
pub struct Hosts {
    listener: TcpListener,
    hosts: BTreeMap<usize, Host>,
    /// Connections with something to write or to close.
    dirty: BTreeSet<usize>,
    accept_again: Option<u64>,
}

impl Hosts {
    /// Listens; the listener's token is `token`.
    pub fn listen(address: SocketAddr, registry: &Registry, token: Token) -> std::io::Result<Hosts> {
        let mut listener = TcpListener::bind(address)?;
        registry.register(&mut listener, token, Interest::READABLE)?;
        Ok(Hosts { listener, hosts: BTreeMap::new(), dirty: BTreeSet::new(), accept_again: None })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Takes in all that wait at the port.
    pub fn accept(&mut self, now: u64, registry: &Registry, next_token: &mut usize, events: &mut Vec<Event>) {
        self.accept_again = None;
        loop {
            let (mut stream, remote) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    tracing::warn!("iscsi: cannot accept: {error}");
                    self.accept_again = Some(now + ACCEPT_PAUSE);
                    return;
                }
            };
            if self.hosts.len() >= CONNECTIONS_MAX && !self.forget_one_that_closes(events) {
                tracing::warn!("iscsi: {remote} refused: {CONNECTIONS_MAX} connections are open");
                continue;
            }
            let token = *next_token;
            *next_token += 1;
            // Both interests once and for all: edges cost nothing, a change of interest is a system call.
            let ready = tune(&stream, PATIENCE)
                .and_then(|()| {
                    registry.register(&mut stream, Token(token), Interest::READABLE | Interest::WRITABLE)
                })
                .and_then(|()| stream.local_addr());
            match ready {
                Ok(local) => {
                    let (conn, local) = (ConnId(token as u64), local.to_string());
                    events.push(Event::HostConnected { conn, local, remote: remote.to_string() });
                    let (inbox, outbox) = (Inbox::default(), Outbox::default());
                    let host = Host { stream, inbox, outbox, remote, readable: true, closing: None };
                    self.hosts.insert(token, host);
                }
                Err(error) => tracing::warn!("iscsi: {remote} lost while it connected: {error}"),
            }
        }
    }

    /// Whether the token is a host's; notes what its socket is ready for.
    pub fn note(&mut self, token: usize, readable: bool, writable: bool) -> bool {
        let Some(host) = self.hosts.get_mut(&token) else { return false };
        host.readable |= readable;
        if writable {
            self.dirty.insert(token);
        }
        true
    }

    /// Whether a socket has more to read in the next turn.
    pub fn unread(&self) -> bool {
        self.hosts.values().any(|host| host.readable && host.outbox.queued() < BACKLOG_BYTES_MAX)
    }

    /// Moment at which something is due although no socket stirs.
    pub fn deadline(&self) -> Option<u64> {
        self.hosts.values().filter_map(|host| host.closing).chain(self.accept_again).min()
    }

    /// One turn of reading from every host that has something to say.
    pub fn read(&mut self, events: &mut Vec<Event>) {
        let mut gone = Vec::new();
        for (token, host) in &mut self.hosts {
            let mut left = TURN_BYTES_MAX;
            while host.readable && left > 0 && host.outbox.queued() < BACKLOG_BYTES_MAX {
                match host.inbox.receive(&host.stream) {
                    Ok(bytes) if bytes.is_empty() => {
                        gone.push(*token);
                        break;
                    }
                    Ok(bytes) => {
                        path::mark("host-in");
                        left = left.saturating_sub(bytes.len());
                        if host.closing.is_none() {
                            events.push(Event::HostBytes { conn: ConnId(*token as u64), bytes });
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => host.readable = false,
                    Err(error) => {
                        tracing::debug!("iscsi: {}: {error}", host.remote);
                        gone.push(*token);
                        break;
                    }
                }
            }
        }
        gone.into_iter().for_each(|token| self.forget(token, events));
    }

    fn forget(&mut self, token: usize, events: &mut Vec<Event>) {
        self.dirty.remove(&token);
        if self.hosts.remove(&token).is_some() {
            events.push(Event::HostClosed { conn: ConnId(token as u64) });
        }
    }

    /// Makes room among those that are closed already and only wait for the other end to notice.
    fn forget_one_that_closes(&mut self, events: &mut Vec<Event>) -> bool {
        let closing = self.hosts.iter().filter_map(|(token, host)| Some((host.closing?, *token)));
        let Some((_, token)) = closing.min() else { return false };
        self.forget(token, events);
        true
    }

    /// Queues bytes for a host.
    pub fn send(&mut self, conn: ConnId, bytes: Bytes) {
        let token = conn.0 as usize;
        if let Some(host) = self.hosts.get_mut(&token) {
            host.outbox.push(bytes);
            self.dirty.insert(token);
        }
    }

    /// Closes a host's connection after what was sent.
    pub fn close(&mut self, now: u64, conn: ConnId) {
        let token = conn.0 as usize;
        if let Some(host) = self.hosts.get_mut(&token) {
            host.closing.get_or_insert(now + LINGER);
            self.dirty.insert(token);
        }
    }

    /// Writes what sockets take, tells backlogs, ends connections that are due.
    pub fn flush(&mut self, now: u64, events: &mut Vec<Event>) {
        for (token, _) in self.hosts.iter().filter(|(_, host)| host.closing.is_some_and(|until| until <= now))
        {
            self.dirty.insert(*token);
        }
        for token in std::mem::take(&mut self.dirty) {
            let Some(host) = self.hosts.get_mut(&token) else { continue };
            if !host.outbox.is_empty() {
                path::mark("host-out");
            }
            match host.outbox.write_to(&mut host.stream, usize::MAX) {
                Ok(_) => {
                    if let Some(queued) = host.outbox.news(0) {
                        events.push(Event::HostBacklog { conn: ConnId(token as u64), queued });
                    }
                    if let Some(until) = host.closing {
                        // Ends our side; the host's answer to that (or the deadline) ends the connection, so that what
                        // it still sends cannot make the kernel throw away what we sent.
                        let ended = host.outbox.is_empty() && host.stream.shutdown(Shutdown::Write).is_err();
                        if ended || until <= now {
                            self.forget(token, events);
                        }
                    }
                }
                Err(error) => {
                    tracing::debug!("iscsi: {}: {error}", host.remote);
                    self.forget(token, events);
                }
            }
        }
    }

    /// Whether hosts still wait for bytes that were sent to them.
    pub fn busy(&self) -> bool {
        self.hosts.values().any(|host| !host.outbox.is_empty())
    }

    /// Whether accepting was put off to a moment that has come.
    pub fn accept_due(&self, now: u64) -> bool {
        self.accept_again.is_some_and(|again| again <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::Poll;

    #[test]
    fn callers_that_were_sent_away_and_linger_do_not_use_the_port_up() {
        let poll = Poll::new().expect("a poll");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut hosts = Hosts::listen(any, poll.registry(), Token(1)).expect("listens");
        let (mut next_token, mut events, mut callers) = (16, Vec::new(), Vec::new());
        for _ in 0..CONNECTIONS_MAX + 8 {
            let address = hosts.local_addr().expect("an address");
            callers.push(std::net::TcpStream::connect(address).expect("connects"));
            hosts.accept(0, poll.registry(), &mut next_token, &mut events);
            // As the site does with a caller that it does not want.
            hosts.close(0, ConnId(next_token as u64 - 1));
        }
        let taken = events.iter().filter(|event| matches!(event, Event::HostConnected { .. })).count();
        assert_eq!((taken, hosts.hosts.len()), (CONNECTIONS_MAX + 8, CONNECTIONS_MAX));
    }
}
