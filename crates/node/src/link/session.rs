//! Answers for one connection of the link: TCP, TLS if configured, the greeting, then bytes. Sans-IO but for the
//! non-blocking socket itself.

use crate::wire::{Inbox, Outbox, tune};
use biplex_engine::SiteId;
use bytes::Bytes;
use mio::net::TcpStream;
use rustls::Connection;
use std::io::{self, ErrorKind, Read};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

/// Bytes of a greeting.
pub const GREETING_BYTES: usize = 16;
/// Bytes read in one turn.
const TURN_BYTES_MAX: usize = 1 << 20;
/// Room for sealed bytes between socket and TLS.
const SEALED_BYTES_MAX: usize = 256 << 10;
/// Plain bytes sealed at a time.
const SEAL_STEP_BYTES: usize = 64 << 10;
/// Sealed bytes read from the socket at a time.
const RECEIVE_BYTES: usize = 64 << 10;
/// A peer that leaves sent bytes unacknowledged for so long is gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a site says first.
pub fn greeting(site: SiteId) -> [u8; GREETING_BYTES] {
    match site {
        SiteId::A => *b"biplex-link/1 a\n",
        SiteId::B => *b"biplex-link/1 b\n",
    }
}

/// How far a connection has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Connecting,
    Proving,
    Greeting,
    Up,
    Ending,
}

/// What became of a connection.
pub enum Step {
    /// It goes on.
    Wait,
    /// It ended, for this reason.
    Over(String),
    /// It did not prove itself, for this reason.
    Refused(String),
}

/// One connection.
pub struct Session {
    stream: TcpStream,
    /// The other end.
    pub remote: SocketAddr,
    tls: Option<Connection>,
    /// Whether the other end called.
    pub inbound: bool,
    phase: Phase,
    heard: Vec<u8>,
    inbox: Inbox,
    /// Plain bytes that wait.
    pub outbox: Outbox,
    /// Sealed bytes that wait between TLS and socket, roughly.
    pub sealed: usize,
    received: Vec<u8>,
    /// More may be there to read: mio tells only once.
    pub readable: bool,
    /// The socket may take more: mio tells only once.
    pub writable: bool,
    /// Ends at this moment, unless it has proven itself.
    pub deadline: Option<u64>,
    /// When it had proven itself.
    pub up_since: u64,
}

impl Session {
    /// A connection that was just begun.
    pub fn new(
        stream: TcpStream,
        remote: SocketAddr,
        tls: Option<Connection>,
        inbound: bool,
        deadline: u64,
    ) -> Session {
        Session {
            stream,
            remote,
            tls,
            inbound,
            phase: Phase::Connecting,
            heard: Vec::with_capacity(GREETING_BYTES),
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            sealed: 0,
            received: Vec::new(),
            readable: inbound,
            writable: inbound,
            deadline: Some(deadline),
            up_since: 0,
        }
    }

    /// Whether it has proven itself and is not being ended.
    pub fn is_up(&self) -> bool {
        self.phase == Phase::Up
    }

    /// Whether bytes wait to be written.
    pub fn has_unsent(&self) -> bool {
        self.phase != Phase::Connecting
            && (!self.outbox.is_empty() || self.tls.as_ref().is_some_and(|tls| tls.wants_write()))
    }

    /// Brings the connection on as far as the socket lets it; plain bytes of the peer go to `arrived`.
    pub fn advance(&mut self, now: u64, site: SiteId, arrived: &mut Vec<Bytes>) -> Step {
        let proven = matches!(self.phase, Phase::Up | Phase::Ending);
        let end = |why: String| if proven { Step::Over(why) } else { Step::Refused(why) };
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            return end("it took too long".to_owned());
        }
        if self.phase == Phase::Connecting {
            match self.connected() {
                Ok(true) => self.phase = Phase::Proving,
                Ok(false) => return Step::Wait,
                Err(error) => return end(error.to_string()),
            }
        }
        let mut plain = Vec::new();
        let read = self.read(&mut plain);
        let greeted = self.bring_on(now, site, plain, arrived);
        if let Err(why) = greeted {
            return Step::Refused(why);
        }
        // Also after a failed read: a TLS alert may be waiting that tells the other side why.
        let flushed = self.flush();
        match (read, flushed) {
            (Err(error), _) | (Ok(true), Err(error)) => end(error.to_string()),
            (Ok(false), _) => end("the other side closed it".to_owned()),
            (Ok(true), Ok(())) => Step::Wait,
        }
    }

    fn connected(&mut self) -> io::Result<bool> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        match self.stream.peer_addr() {
            Ok(_) => {
                tune(&self.stream, PATIENCE)?;
                self.readable = true;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::NotConnected => {
                (self.readable, self.writable) = (false, false);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes the handshake's next steps and sorts greeting from stream.
    fn bring_on(
        &mut self,
        now: u64,
        site: SiteId,
        plain: Vec<Bytes>,
        arrived: &mut Vec<Bytes>,
    ) -> Result<(), String> {
        if self.phase == Phase::Proving && !self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            self.outbox.push(Bytes::copy_from_slice(&greeting(site)));
            self.phase = Phase::Greeting;
        }
        for mut bytes in plain {
            if self.phase == Phase::Greeting {
                let missing = GREETING_BYTES - self.heard.len();
                let head = bytes.split_to(missing.min(bytes.len()));
                self.heard.extend_from_slice(&head);
                self.judge_greeting(now, site)?;
            }
            if self.phase == Phase::Up && !bytes.is_empty() {
                arrived.push(bytes);
            }
        }
        Ok(())
    }

    fn judge_greeting(&mut self, now: u64, site: SiteId) -> Result<(), String> {
        let wanted = greeting(site.peer());
        if self.heard.as_slice() == wanted {
            (self.phase, self.deadline, self.up_since) = (Phase::Up, None, now);
        } else if self.heard.as_slice() == greeting(site) {
            return Err(format!(
                "it says that it is site {site}, as this one is: the config of one site has the wrong site or peer"
            ));
        } else if !wanted.starts_with(&self.heard) {
            let heard = String::from_utf8_lossy(&self.heard).escape_debug().to_string();
            return Err(format!("it does not greet as a site of this version does; it said \"{heard}\""));
        }
        Ok(())
    }

    /// Reads one turn. `Ok(false)`: the other side has ended.
    fn read(&mut self, plain: &mut Vec<Bytes>) -> io::Result<bool> {
        let mut left = TURN_BYTES_MAX;
        while self.readable && left > 0 {
            let count = match &mut self.tls {
                None => match self.inbox.receive(&self.stream) {
                    Ok(bytes) => {
                        let count = bytes.len();
                        plain.push(bytes);
                        Ok(count)
                    }
                    Err(error) => Err(error),
                },
                Some(tls) => {
                    self.received.resize(RECEIVE_BYTES, 0);
                    match self.stream.read(&mut self.received) {
                        Ok(count) => {
                            let sealed = self.received.get(..count).unwrap_or(&[]);
                            open(tls, sealed, &mut self.inbox, plain)?;
                            Ok(count)
                        }
                        Err(error) => Err(error),
                    }
                }
            };
            match count {
                Ok(0) => return Ok(false),
                Ok(count) => left = left.saturating_sub(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Writes what the socket takes.
    pub fn flush(&mut self) -> io::Result<()> {
        self.writable = false;
        if self.phase == Phase::Connecting {
            return Ok(());
        }
        let Some(tls) = &mut self.tls else {
            self.outbox.write_to(&mut self.stream, usize::MAX)?;
            return self.finish();
        };
        loop {
            while tls.wants_write() {
                match tls.write_tls(&mut self.stream) {
                    Ok(count) => self.sealed = self.sealed.saturating_sub(count),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            self.sealed = 0;
            if self.outbox.is_empty() || tls.is_handshaking() {
                return self.finish();
            }
            let before = self.outbox.queued();
            tls.set_buffer_limit(Some(SEALED_BYTES_MAX));
            self.outbox.write_to(&mut tls.writer(), SEAL_STEP_BYTES)?;
            self.sealed += before - self.outbox.queued();
        }
    }

    /// All is written: an ending session says so to the other side.
    fn finish(&mut self) -> io::Result<()> {
        if self.phase == Phase::Ending && self.outbox.is_empty() {
            self.stream.shutdown(Shutdown::Write)?;
        }
        Ok(())
    }

    /// To be ended once everything is written, at the latest at `deadline`.
    pub fn end(&mut self, deadline: u64) {
        self.phase = Phase::Ending;
        self.deadline = Some(deadline);
        self.writable = true;
        if let Some(tls) = &mut self.tls {
            // Sealed behind what is in TLS already; plain bytes that still wait are lost with the link, as any may be.
            if self.outbox.is_empty() {
                tls.send_close_notify();
            }
        }
    }

    /// Sends a TLS alert that waits, if the socket takes it.
    pub fn last_words(&mut self) {
        if let Some(tls) = &mut self.tls
            && tls.wants_write()
            && let Err(error) = tls.write_tls(&mut self.stream)
        {
            tracing::debug!("link: {}: no last words: {error}", self.remote);
        }
    }
}

/// Opens sealed bytes; plain bytes go to `plain`.
fn open(
    tls: &mut Connection,
    mut sealed: &[u8],
    inbox: &mut Inbox,
    plain: &mut Vec<Bytes>,
) -> io::Result<()> {
    while !sealed.is_empty() {
        tls.read_tls(&mut sealed)?;
        let state =
            tls.process_new_packets().map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        let mut left = state.plaintext_bytes_to_read();
        while left > 0 {
            let bytes = inbox.take(&mut tls.reader())?;
            left = left.saturating_sub(bytes.len());
            if bytes.is_empty() {
                break;
            }
            plain.push(bytes);
        }
    }
    Ok(())
}

const _: () = assert!(SEAL_STEP_BYTES < SEALED_BYTES_MAX, "a step fits the buffer, so sealing never waits");
