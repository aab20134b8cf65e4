//! Answers for a host: one iSCSI session over a real socket, blocking, with a deadline for everything.
//!
//! The protocol is the sans-IO initiator's. An error here says what the host may conclude, which is little: only an
//! answered write is known to have happened.

use crate::pair::{Site, TARGET};
use crate::wait::PATIENCE;
use biplex_front::iscsi::Chap;
use biplex_front::iscsi::initiator::{
    Initiator, InitiatorConfig, InitiatorEvent, Payload, compare_and_write, lun, persistent_parameters,
    persistent_reserve_in, persistent_reserve_out, read16, synchronize_cache16, write16,
};
use bytes::Bytes;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Bytes of a block.
pub const BLOCK: usize = 512;
/// Pause of a host between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Why a host did not get what it wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HostError {
    /// The login was refused (RFC 7143 §11.13.5).
    Refused {
        /// Status-Class.
        class: u8,
        /// Status-Detail.
        detail: u8,
    },
    /// The connection could not be made or ended.
    Lost(String),
    /// No answer in time.
    Late,
    /// A status other than GOOD.
    Status {
        /// SCSI status.
        status: u8,
        /// Sense key, additional sense code and qualifier.
        sense: (u8, u8, u8),
    },
}

impl HostError {
    /// Whether a host's driver would send the command again: BUSY, TASK SET FULL, NOT READY, UNIT ATTENTION.
    pub fn asks_for_retry(&self) -> bool {
        match self {
            HostError::Status { status: 0x08 | 0x28, .. } => true,
            HostError::Status { status: 0x02, sense: (key, _, _) } => matches!(key, 0x2 | 0x6),
            HostError::Status { .. } | HostError::Refused { .. } | HostError::Lost(_) | HostError::Late => {
                false
            }
        }
    }
}

/// A command that ended.
#[derive(Clone, Debug)]
pub struct Done {
    /// As [`Host::submit`] gave it.
    pub tag: u64,
    /// Its data, or why there is none.
    pub result: Result<Bytes, HostError>,
}

/// Who a host is and how it logs in.
#[derive(Clone, Debug)]
pub struct Identity {
    /// iSCSI name.
    pub name: String,
    /// What it proves and demands.
    pub chap: Option<Chap>,
    /// Header and data digests.
    pub digests: bool,
}

impl Identity {
    /// A host without secrets.
    pub fn named(name: &str) -> Identity {
        Identity { name: format!("iqn.2026-11.io.biplex.e2e:{name}"), chap: None, digests: false }
    }
}

/// A host that is logged in.
pub struct Host {
    stream: TcpStream,
    initiator: Initiator,
    next_tag: u64,
    lun: u16,
    buffer: Vec<u8>,
}

impl Host {
    /// Logs in at a site.
    pub fn login(address: SocketAddr, identity: &Identity) -> Result<Host, HostError> {
        Host::login_to(address, identity, TARGET, 0)
    }

    /// Logs in at any target; commands go to this unit.
    pub fn login_to(
        address: SocketAddr,
        identity: &Identity,
        target: &str,
        lun: u16,
    ) -> Result<Host, HostError> {
        let lost = |error: std::io::Error| HostError::Lost(error.to_string());
        let stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(lost)?;
        stream.set_nodelay(true).map_err(lost)?;
        let config = InitiatorConfig {
            chap: identity.chap.clone(),
            header_digest: identity.digests,
            data_digest: identity.digests,
            ..InitiatorConfig::new(&identity.name, target)
        };
        let entropy =
            |bytes: &mut [u8]| getrandom::fill(bytes).expect("Linux gives random bytes once it is up");
        let initiator = Initiator::new(config, Box::new(entropy));
        let mut host = Host { stream, initiator, next_tag: 1, lun, buffer: vec![0; 256 << 10] };
        match host.next_event(PATIENCE)? {
            InitiatorEvent::LoggedIn => Ok(host),
            InitiatorEvent::LoginFailed { class, detail } => Err(HostError::Refused { class, detail }),
            other => Err(HostError::Lost(format!("{other:?} instead of a login"))),
        }
    }

    /// Logs in as `name`; panics if that fails.
    #[track_caller]
    pub fn at(site: &Site, name: &str) -> Host {
        match Host::login(site.iscsi, &Identity::named(name)) {
            Ok(host) => host,
            Err(error) => panic!("{name} cannot log in at site {}: {error:?}", site.name.letter()),
        }
    }

    /// Sends a command without waiting for its end.
    pub fn submit(&mut self, cdb: [u8; 16], payload: Payload) -> u64 {
        let tag = self.next_tag;
        self.next_tag += 1;
        self.initiator.submit(tag, lun(self.lun), cdb, payload);
        tag
    }

    /// Hands what was submitted to the socket, without waiting for an answer.
    pub fn send(&mut self) -> Result<(), HostError> {
        let lost = |error: std::io::Error| HostError::Lost(error.to_string());
        while let Some(bytes) = self.initiator.poll_send() {
            self.stream.write_all(&bytes).map_err(lost)?;
        }
        Ok(())
    }

    /// The next command that ends.
    pub fn next_done(&mut self, patience: Duration) -> Result<Done, HostError> {
        let deadline = Instant::now() + patience;
        loop {
            match self.next_event(deadline.saturating_duration_since(Instant::now()))? {
                InitiatorEvent::Done { tag, status, sense, data, residual: _ } => {
                    let result = if status == 0 {
                        Ok(data)
                    } else {
                        Err(HostError::Status { status, sense: codes(&sense) })
                    };
                    return Ok(Done { tag, result });
                }
                InitiatorEvent::Closed { why } => return Err(HostError::Lost(why.to_owned())),
                InitiatorEvent::LoggedIn
                | InitiatorEvent::LoginFailed { .. }
                | InitiatorEvent::Managed { .. }
                | InitiatorEvent::Echo { .. }
                | InitiatorEvent::Text { .. }
                | InitiatorEvent::Rejected { .. }
                | InitiatorEvent::Async { .. } => {}
            }
        }
    }

    fn next_event(&mut self, patience: Duration) -> Result<InitiatorEvent, HostError> {
        let deadline = Instant::now() + patience;
        let lost = |error: std::io::Error| HostError::Lost(error.to_string());
        loop {
            self.send()?;
            if let Some(event) = self.initiator.poll_event() {
                return Ok(event);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(HostError::Late);
            }
            self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1)))).map_err(lost)?;
            match self.stream.read(&mut self.buffer) {
                Ok(0) => self.initiator.handle_closed(),
                Ok(count) => {
                    let bytes = self.buffer.get(..count).map(Bytes::copy_from_slice).unwrap_or_default();
                    self.initiator.handle_bytes(bytes);
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(lost(error)),
            }
        }
    }

    /// One command, once. No other may be under way.
    pub fn command(&mut self, cdb: [u8; 16], payload: Payload) -> Result<Bytes, HostError> {
        let tag = self.submit(cdb, payload);
        let done = self.next_done(PATIENCE)?;
        assert_eq!(done.tag, tag, "no other command is under way");
        done.result
    }

    /// As [`Host::command`], sent again for [`PATIENCE`] as long as the answer asks for that.
    pub fn patient(&mut self, cdb: [u8; 16], payload: Payload) -> Result<Bytes, HostError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.command(cdb, payload.clone()) {
                Err(error) if error.asks_for_retry() && Instant::now() < deadline => {
                    std::thread::sleep(RETRY_PAUSE)
                }
                result => return result,
            }
        }
    }

    /// Writes, with retries.
    #[track_caller]
    pub fn write(&mut self, lba: u64, data: &[u8]) {
        let blocks = (data.len() / BLOCK) as u32;
        let payload = Payload::Out(Bytes::copy_from_slice(data));
        if let Err(error) = self.patient(write16(lba, blocks, false), payload) {
            panic!("write of {blocks} blocks at {lba}: {error:?}");
        }
    }

    /// Reads, with retries.
    #[track_caller]
    pub fn read(&mut self, lba: u64, blocks: u32) -> Bytes {
        match self.patient(read16(lba, blocks, false), Payload::In(blocks * BLOCK as u32)) {
            Ok(data) => data,
            Err(error) => panic!("read of {blocks} blocks at {lba}: {error:?}"),
        }
    }

    /// SYNCHRONIZE CACHE, with retries.
    #[track_caller]
    pub fn flush(&mut self) {
        if let Err(error) = self.patient(synchronize_cache16(), Payload::None) {
            panic!("synchronize cache: {error:?}");
        }
    }

    /// One command without retries: `Ok` if GOOD, else the status.
    pub fn once(&mut self, cdb: [u8; 16], data: &[u8]) -> Result<Bytes, HostError> {
        let payload =
            if data.is_empty() { Payload::None } else { Payload::Out(Bytes::copy_from_slice(data)) };
        self.command(cdb, payload)
    }

    /// PERSISTENT RESERVE OUT with these keys, once.
    pub fn persistent(
        &mut self,
        action: u8,
        kind: u8,
        key: u64,
        other: u64,
        aptpl: bool,
    ) -> Result<(), HostError> {
        let list = persistent_parameters(key, other, aptpl);
        self.once(persistent_reserve_out(action, kind), &list).map(drop)
    }

    /// The registered keys, ascending by nexus, and PRGENERATION.
    #[track_caller]
    pub fn keys(&mut self) -> (u32, Vec<u64>) {
        let data = self.command(persistent_reserve_in(0, 4096), Payload::In(4096)).expect("READ KEYS");
        let number = |bytes: &[u8]| bytes.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        let keys = data[8..].chunks_exact(8).map(number).collect();
        (number(&data[..4]) as u32, keys)
    }

    /// Key and type of the persistent reservation.
    #[track_caller]
    pub fn reservation(&mut self) -> Option<(u64, u8)> {
        let data = self.command(persistent_reserve_in(1, 64), Payload::In(64)).expect("READ RESERVATION");
        let number = |bytes: &[u8]| bytes.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        (data.len() >= 24).then(|| (number(&data[8..16]), data[21]))
    }

    /// COMPARE AND WRITE of one block: whether it matched.
    #[track_caller]
    pub fn swap(&mut self, lba: u64, from: &[u8], to: &[u8]) -> bool {
        let data = Bytes::from([from, to].concat());
        match self.patient(compare_and_write(lba, 1), Payload::Out(data)) {
            Ok(_) => true,
            Err(HostError::Status { status: 2, sense: (0xe, 0x1d, 0) }) => false,
            Err(error) => panic!("compare and write at {lba}: {error:?}"),
        }
    }

    /// Ends the connection as a host does that loses power.
    pub fn vanish(self) {}

    /// Logs out and waits until the site has ended the session.
    pub fn logout(mut self) {
        self.initiator.logout();
        while !matches!(self.next_event(PATIENCE), Ok(InitiatorEvent::Closed { .. }) | Err(_)) {}
    }
}

/// Key, code and qualifier of sense data in fixed or descriptor format.
fn codes(sense: &[u8]) -> (u8, u8, u8) {
    let at = |index: usize| sense.get(index).copied().unwrap_or(0);
    match at(0) & 0x7f {
        0x72 | 0x73 => (at(1) & 0xf, at(2), at(3)),
        _ => (at(2) & 0xf, at(12), at(13)),
    }
}
