//! A host: one iSCSI session over a blocking socket, with several commands in flight.

use anyhow::{Context, bail};
use biplex_front::iscsi::initiator::{
    Initiator, InitiatorConfig, InitiatorEvent, Payload, lun, read16, test_unit_ready, write16,
};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Logical units of the demo's target.
const UNITS: u16 = 2;
/// News that a unit may have for a host at most.
const ATTENTIONS_MAX: usize = 8;

/// A command's end.
pub struct Done {
    /// As given out by [`Host::write`] or [`Host::read`].
    pub tag: u64,
    /// SCSI status.
    pub status: u8,
    /// What was read.
    pub data: Bytes,
}

/// A host that is logged in.
pub struct Host {
    stream: TcpStream,
    initiator: Initiator,
    next_tag: u64,
    ended: VecDeque<Done>,
    buffer: BytesMut,
}

impl Host {
    /// Logs in.
    pub fn log_in(portal: SocketAddr, name: &str, target: &str) -> anyhow::Result<Host> {
        let stream =
            TcpStream::connect(portal).with_context(|| format!("cannot reach the target at {portal}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let entropy = Box::new(|bytes: &mut [u8]| getrandom::fill(bytes).expect("the kernel has randomness"));
        let initiator = Initiator::new(InitiatorConfig::new(name, target), entropy);
        let mut host =
            Host { stream, initiator, next_tag: 1, ended: VecDeque::new(), buffer: BytesMut::new() };
        while !host.initiator.is_logged_in() {
            host.exchange()?;
        }
        // A unit may have news for a host that comes back (unit attentions); they are taken before real work.
        for unit in 0..UNITS {
            for _ in 0..ATTENTIONS_MAX {
                host.submit(unit, test_unit_ready(), Payload::None);
                if host.next_done()?.status == 0 {
                    break;
                }
            }
        }
        Ok(host)
    }

    /// Orders a write; says its tag.
    pub fn write(&mut self, unit: u16, lba: u64, data: Bytes) -> u64 {
        let blocks = (data.len() / 512) as u32;
        self.submit(unit, write16(lba, blocks, false), Payload::Out(data))
    }

    /// Orders a read; says its tag.
    pub fn read(&mut self, unit: u16, lba: u64, blocks: u32) -> u64 {
        self.submit(unit, read16(lba, blocks, false), Payload::In(blocks * 512))
    }

    fn submit(&mut self, unit: u16, cdb: [u8; 16], payload: Payload) -> u64 {
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
                InitiatorEvent::Done { tag, status, data, .. } => {
                    self.ended.push_back(Done { tag, status, data })
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
