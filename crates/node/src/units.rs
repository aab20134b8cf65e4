//! Answers for the sockets of stores that are SCSI units: connecting, reading in fair turns, writing, closing after what
//! was sent. Understands nothing of iSCSI. What waits here is bounded by the commands that the site has under way.

use crate::link::Surroundings;
use crate::mailbox::{Letter, Sender};
use crate::wire::{Inbox, Outbox, tune};
use biplex_site::Event;
use biplex_site::unit::UnitConn;
use bytes::Bytes;
use mio::net::TcpStream;
use mio::{Interest, Token};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// Bytes read of one unit before the others get their turn.
const TURN_BYTES_MAX: usize = 1 << 20;
/// A unit that leaves sent bytes unacknowledged for so long is gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a closed connection may take to send its last bytes, nanoseconds.
const LINGER: u64 = 1_000_000_000;

struct Wire {
    conn: UnitConn,
    stream: TcpStream,
    inbox: Inbox,
    outbox: Outbox,
    /// The connection stands.
    up: bool,
    readable: bool,
    writable: bool,
    /// To be closed once the outbox is empty; until when at the latest.
    closing: Option<u64>,
}

/// All connections with units.
pub struct Units {
    sender: Sender,
    /// By token.
    wires: BTreeMap<usize, Wire>,
    tokens: BTreeMap<UnitConn, usize>,
    /// Names that are being looked up.
    sought: Vec<UnitConn>,
    /// The address whose turn it is when a name has several.
    turn: usize,
}

impl Units {
    /// None yet.
    pub fn new(sender: Sender) -> Units {
        Units { sender, wires: BTreeMap::new(), tokens: BTreeMap::new(), sought: Vec::new(), turn: 0 }
    }

    /// Connects; a name is looked up on a thread of its own.
    pub fn connect(&mut self, around: &mut Surroundings<'_>, conn: UnitConn, portal: &str) {
        self.sought.push(conn);
        if let Ok(address) = portal.parse() {
            return self.found(around, conn, Ok(vec![address]));
        }
        let (portal, sender) = (portal.to_owned(), self.sender.clone());
        let look_up = move || {
            let found = portal.to_socket_addrs().map(Iterator::collect);
            sender.post(Letter::UnitFound(conn, found));
        };
        if let Err(error) = std::thread::Builder::new().name("biplex-lookup".to_owned()).spawn(look_up) {
            self.found(around, conn, Err(error));
        }
    }

    /// A portal's addresses are known: calls the one whose turn it is.
    pub fn found(
        &mut self,
        around: &mut Surroundings<'_>,
        conn: UnitConn,
        found: std::io::Result<Vec<SocketAddr>>,
    ) {
        let Some(at) = self.sought.iter().position(|sought| *sought == conn) else { return };
        self.sought.swap_remove(at);
        self.turn = self.turn.wrapping_add(1);
        let token = *around.next_token;
        let begun = found.and_then(|addresses| {
            let address = addresses.get(self.turn % addresses.len().max(1)).copied();
            let address = address.ok_or_else(|| std::io::Error::other("the name has no address"))?;
            let mut stream = TcpStream::connect(address)?;
            let interests = Interest::READABLE | Interest::WRITABLE;
            around.registry.register(&mut stream, Token(token), interests)?;
            Ok(stream)
        });
        match begun {
            Ok(stream) => {
                *around.next_token += 1;
                let (inbox, outbox) = (Inbox::default(), Outbox::default());
                let (up, readable, writable, closing) = (false, false, false, None);
                let wire = Wire { conn, stream, inbox, outbox, up, readable, writable, closing };
                self.wires.insert(token, wire);
                self.tokens.insert(conn, token);
            }
            Err(error) => around.events.push(Event::UnitClosed { conn, why: error.to_string() }),
        }
    }

    /// Whether the token is a unit's; notes what its socket is ready for.
    pub fn note(&mut self, token: usize, readable: bool, writable: bool) -> bool {
        let Some(wire) = self.wires.get_mut(&token) else { return false };
        wire.readable |= readable;
        wire.writable |= writable;
        true
    }

    /// Whether a socket has more to read in the next turn.
    pub fn unread(&self) -> bool {
        self.wires.values().any(|wire| wire.up && wire.readable)
    }

    /// Moment at which something is due although no socket stirs.
    pub fn deadline(&self) -> Option<u64> {
        self.wires.values().filter_map(|wire| wire.closing).min()
    }

    /// One turn: brings connections about, and reads.
    pub fn turn(&mut self, around: &mut Surroundings<'_>) {
        let mut over = Vec::new();
        for (token, wire) in &mut self.wires {
            if let Err(why) = wire.advance(around.events) {
                over.push((*token, why));
            }
        }
        over.into_iter().for_each(|(token, why)| self.over(around, token, why));
    }

    /// Queues bytes for a unit.
    pub fn send(&mut self, conn: UnitConn, bytes: Bytes) {
        if let Some(wire) = self.tokens.get(&conn).and_then(|token| self.wires.get_mut(token)) {
            wire.outbox.push(bytes);
        }
    }

    /// Closes a connection after what was sent.
    pub fn close(&mut self, now: u64, conn: UnitConn) {
        self.sought.retain(|sought| *sought != conn);
        if let Some(wire) = self.tokens.get(&conn).and_then(|token| self.wires.get_mut(token)) {
            wire.closing.get_or_insert(now + LINGER);
        }
    }

    /// Writes what the sockets take, and ends what is to end.
    pub fn flush(&mut self, around: &mut Surroundings<'_>) {
        let mut over = Vec::new();
        for (token, wire) in &mut self.wires {
            if wire.up
                && let Err(error) = wire.outbox.write_to(&mut wire.stream, usize::MAX)
            {
                over.push((*token, error.to_string()));
                continue;
            }
            if wire.closing.is_some_and(|until| until <= around.now || !wire.up || wire.outbox.is_empty()) {
                over.push((*token, String::new()));
            }
        }
        over.into_iter().for_each(|(token, why)| self.over(around, token, why));
    }

    fn over(&mut self, around: &mut Surroundings<'_>, token: usize, why: String) {
        let Some(wire) = self.wires.remove(&token) else { return };
        self.tokens.remove(&wire.conn);
        if wire.closing.is_none() {
            around.events.push(Event::UnitClosed { conn: wire.conn, why });
        }
    }
}

impl Wire {
    /// Brings the connection about, then reads; an error ends it.
    fn advance(&mut self, events: &mut Vec<Event>) -> Result<(), String> {
        if !self.up {
            if !self.writable {
                return Ok(());
            }
            self.connected()?;
            if !self.up {
                return Ok(());
            }
            events.push(Event::UnitConnected { conn: self.conn });
        }
        let mut left = TURN_BYTES_MAX;
        while self.readable && left > 0 {
            match self.inbox.receive(&self.stream) {
                Ok(bytes) if bytes.is_empty() => return Err("the target closed the connection".to_owned()),
                Ok(bytes) => {
                    left = left.saturating_sub(bytes.len());
                    if self.closing.is_none() {
                        events.push(Event::UnitBytes { conn: self.conn, bytes });
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    fn connected(&mut self) -> Result<(), String> {
        if let Some(error) = self.stream.take_error().map_err(|error| error.to_string())? {
            return Err(error.to_string());
        }
        match self.stream.peer_addr() {
            Ok(_) => {
                tune(&self.stream, PATIENCE).map_err(|error| error.to_string())?;
                self.up = true;
                Ok(())
            }
            // Not yet: mio tells again.
            Err(error) if error.kind() == ErrorKind::NotConnected => {
                self.writable = false;
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }
}
