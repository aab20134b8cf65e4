//! Answers for an iSCSI session over a blocking socket, with several commands in flight: for the demo's hosts, and for
//! reading a store that is a SCSI unit before the site runs. While it runs, [`crate::units`] carries its sessions.

use anyhow::{Context, bail};
use biplex_front::iscsi::initiator::{Initiator, InitiatorConfig, InitiatorEvent, Payload, lun};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How long the target may take for any answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause before a command is sent again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// A command's end.
pub struct Done {
    /// As given out by [`Session::submit`].
    pub tag: u64,
    /// SCSI status.
    pub status: u8,
    /// Sense data.
    pub sense: Bytes,
    /// What was read.
    pub data: Bytes,
}

/// A session that is logged in.
pub struct Session {
    stream: TcpStream,
    initiator: Initiator,
    next_tag: u64,
    ended: VecDeque<Done>,
    buffer: BytesMut,
}

impl Session {
    /// Logs in at "address:port" or "name:port".
    pub fn log_in(portal: &str, config: InitiatorConfig) -> anyhow::Result<Session> {
        let stream =
            TcpStream::connect(portal).with_context(|| format!("cannot reach the target at {portal}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let entropy = Box::new(|bytes: &mut [u8]| getrandom::fill(bytes).expect("the kernel has randomness"));
        let initiator = Initiator::new(config, entropy);
        let mut session =
            Session { stream, initiator, next_tag: 1, ended: VecDeque::new(), buffer: BytesMut::new() };
        while !session.initiator.is_logged_in() {
            session.exchange()?;
        }
        Ok(session)
    }

    /// Sends a command; says its tag.
    pub fn submit(&mut self, unit: u16, cdb: [u8; 16], payload: Payload) -> u64 {
        let tag = self.next_tag;
        self.next_tag += 1;
        self.initiator.submit(tag, lun(unit), cdb, payload);
        tag
    }

    /// How many commands are under way.
    pub fn under_way(&self) -> usize {
        self.initiator.commands()
    }

    /// Waits for the next command to end, in whatever order.
    pub fn next_done(&mut self) -> anyhow::Result<Done> {
        loop {
            if let Some(done) = self.ended.pop_front() {
                return Ok(done);
            }
            self.exchange()?;
        }
    }

    /// One command while no other is under way, sent again up to `retries` times whatever the unit has against it.
    pub fn patient(
        &mut self,
        unit: u16,
        cdb: [u8; 16],
        payload: Payload,
        retries: u32,
    ) -> anyhow::Result<Bytes> {
        let mut left = retries;
        loop {
            self.submit(unit, cdb, payload.clone());
            let done = self.next_done()?;
            if done.status == 0 {
                return Ok(done.data);
            }
            if left == 0 {
                bail!("status {:02x}h, sense {:02x?}", done.status, &done.sense[..]);
            }
            left -= 1;
            std::thread::sleep(RETRY_PAUSE);
        }
    }

    /// Logs out; a target that does not answer that has lost the session all the same.
    pub fn log_out(mut self) {
        self.initiator.logout();
        while self.exchange().is_ok() {}
    }

    /// Sends what is to be sent, then takes in what comes, at least once.
    fn exchange(&mut self) -> anyhow::Result<()> {
        while let Some(bytes) = self.initiator.poll_send() {
            self.stream.write_all(&bytes)?;
        }
        self.buffer.resize(256 << 10, 0);
        let count = self.stream.read(&mut self.buffer).context("the target does not answer")?;
        if count == 0 {
            bail!("the target closed the session");
        }
        let bytes = self.buffer.split_to(count).freeze();
        self.initiator.handle_bytes(bytes);
        while let Some(event) = self.initiator.poll_event() {
            match event {
                InitiatorEvent::Done { tag, status, sense, data, .. } => {
                    self.ended.push_back(Done { tag, status, sense, data })
                }
                InitiatorEvent::LoginFailed { class, detail } => {
                    bail!("login refused: {class:02x}{detail:02x}")
                }
                InitiatorEvent::Closed { why } => bail!("the session ended: {why}"),
                InitiatorEvent::LoggedIn
                | InitiatorEvent::Managed { .. }
                | InitiatorEvent::Echo { .. }
                | InitiatorEvent::Text { .. }
                | InitiatorEvent::Rejected { .. }
                | InitiatorEvent::Async { .. } => {}
            }
        }
        while let Some(bytes) = self.initiator.poll_send() {
            self.stream.write_all(&bytes)?;
        }
        Ok(())
    }
}
