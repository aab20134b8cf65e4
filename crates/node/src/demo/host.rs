//! A host: one iSCSI session over a blocking socket, with several commands in flight.

use crate::initiator::{Done, Session};
use biplex_front::iscsi::initiator::{InitiatorConfig, Payload, read16, test_unit_ready, write16};
use bytes::Bytes;
use std::net::SocketAddr;

/// Logical units of the demo's target.
const UNITS: u16 = 2;
/// News that a unit may have for a host at most.
const ATTENTIONS_MAX: usize = 8;

/// A host that is logged in.
pub struct Host(Session);

impl Host {
    /// Logs in.
    pub fn log_in(portal: SocketAddr, name: &str, target: &str) -> anyhow::Result<Host> {
        let mut session = Session::log_in(&portal.to_string(), InitiatorConfig::new(name, target))?;
        // A unit may have news for a host that comes back (unit attentions); they are taken before real work.
        for unit in 0..UNITS {
            for _ in 0..ATTENTIONS_MAX {
                session.submit(unit, test_unit_ready(), Payload::None);
                if session.next_done()?.status == 0 {
                    break;
                }
            }
        }
        Ok(Host(session))
    }

    /// Orders a write; says its tag.
    pub fn write(&mut self, unit: u16, lba: u64, data: Bytes) -> u64 {
        let blocks = (data.len() / 512) as u32;
        self.0.submit(unit, write16(lba, blocks, false), Payload::Out(data))
    }

    /// Orders a read; says its tag.
    pub fn read(&mut self, unit: u16, lba: u64, blocks: u32) -> u64 {
        self.0.submit(unit, read16(lba, blocks, false), Payload::In(blocks * 512))
    }

    /// How many commands are under way.
    pub fn under_way(&self) -> usize {
        self.0.under_way()
    }

    /// Waits for the next command to end, in whatever order.
    pub fn next_done(&mut self) -> anyhow::Result<Done> {
        self.0.next_done()
    }
}
