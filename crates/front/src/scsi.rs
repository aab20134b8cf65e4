//! SCSI: one device with logical units, as SAM-5, SPC-4 and SBC-3 describe it.
//!
//! ```text
//! cdb ─▶ opcodes (which row?) ─▶ admit (attentions; reservations: E3) ─┬▶ block ─▶ Command ─▶ (the site)
//!                                                                      └▶ inquiry mode report ports ─▶ Reply
//! ```
//! Answers for: what a host is told about its units, which commands it may give, and what they mean to the
//! site. Must never: wait, size memory by a length that a host chose, or look at a byte of the CDB that
//! `opcodes` does not list. Every reply is built in full and then cut to the host's allocation length.

mod attention;
mod block;
mod cdb;
mod inquiry;
mod mode;
mod opcodes;
mod ports;
mod report;
mod sense;
#[cfg(test)]
mod tests;

use crate::{Command, Completion, NexusId, VolumeCommand};
use attention::{Attention, Attentions};
use biplex_engine::{BLOCK_BYTES, SiteId, VolumeId};
use bytes::Bytes;
use cdb::Cdb;
use mode::Modes;
use opcodes::{Access, Operation, Row};
use sense::Sense;
use std::collections::BTreeMap;

/// A logical unit, as configured. Equal at both sites.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnitConfig {
    /// The volume behind it.
    pub volume: VolumeId,
    /// LUN, 0 to 255.
    pub lun: u16,
    /// The volume's name (for VPD designators).
    pub name: String,
    /// Unit serial number, ASCII (VPD 80h).
    pub serial: String,
    /// 64-bit NAA 3 (locally assigned) identifier: top nibble is 3.
    pub naa: u64,
    /// Size in blocks of 512 bytes.
    pub blocks: u64,
}

/// What distinguishes this site's target port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortConfig {
    /// The site.
    pub site: SiteId,
    /// The target's iSCSI name, the same at both sites.
    pub target: String,
    /// Target port group tag: 1 at site A, 2 at site B. Also the ALUA target port group.
    pub group: u16,
    /// Relative target port id: 1 at A, 257 at B.
    pub relative: u16,
}

/// How many data bytes a CDB moves, judged from the CDB alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transfer {
    /// No data phase.
    None,
    /// At most this many bytes to the host.
    In(u64),
    /// This many bytes from the host.
    Out(u64),
}

/// SCSI status byte (SAM-5 5.3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Status {
    Good = 0x00,
    CheckCondition = 0x02,
    Busy = 0x08,
    ReservationConflict = 0x18,
    TaskSetFull = 0x28,
    TaskAborted = 0x40,
}

/// The end of a command as the transport must carry it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// Status byte.
    pub status: Status,
    /// Fixed- or descriptor-format sense data, empty unless `CheckCondition`.
    pub sense: Bytes,
    /// Data for the host, already cut to the CDB's allocation length.
    pub data_in: Vec<Bytes>,
}

/// Who an I_T nexus is, beyond its number: with the target's name and group, its identity (RFC 7143 4.4.1,
/// E3.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NexusIdentity {
    /// The initiator's iSCSI name.
    pub initiator: String,
    /// The session's ISID.
    pub isid: [u8; 6],
}

/// How far a command got.
#[derive(Debug)]
pub enum Step {
    /// To its end.
    Done(Reply),
    /// The site is to carry out `command`; its completion goes to [`Device::finish`] with `pending`. An
    /// aborted command's `pending` is dropped.
    Ask {
        /// The order.
        command: VolumeCommand,
        /// What to do with the completion.
        pending: Pending,
    },
}

/// A command that waits for the site.
#[derive(Debug)]
pub struct Pending {
    lun: u16,
    task: block::Task,
}

/// What a command comes to, before it is dressed for the host.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Outcome {
    Good,
    Data(Vec<Bytes>),
    Ask(Command, block::Task),
}

/// Commands that no unit attention and no missing unit keeps from being answered (SAM-5 4.7.1, 5.14.1).
const ALWAYS_ANSWERED: [Operation; 3] = [Operation::Inquiry, Operation::ReportLuns, Operation::RequestSense];

#[derive(Debug)]
struct Unit {
    config: UnitConfig,
    modes: Modes,
}

/// The SCSI device at this site: its units as every host here sees them.
#[derive(Debug)]
pub struct Device {
    port: PortConfig,
    peer: PortConfig,
    units: BTreeMap<u16, Unit>,
    attentions: Attentions,
}

impl Device {
    /// The device at `port`'s site; `peer` is the other site's port.
    pub fn new(port: PortConfig, peer: PortConfig, units: Vec<UnitConfig>) -> Device {
        let units =
            units.into_iter().map(|config| (config.lun, Unit { config, modes: Modes::default() })).collect();
        Device { port, peer, units, attentions: Attentions::default() }
    }

    /// Says that completed writes of this volume reach the other site only after SYNCHRONIZE CACHE or with FUA (WCE in
    /// the caching page), so that hosts send these.
    pub fn announce_write_cache(&mut self, volume: VolumeId) {
        for unit in self.units.values_mut().filter(|unit| unit.config.volume == volume) {
            unit.modes.write_cache = true;
        }
    }

    /// A session began. One that was here before and was lost is told so (29/07); a new one hears nothing.
    pub fn attach(&mut self, nexus: NexusId, identity: NexusIdentity) {
        self.attentions.attach(nexus, identity, self.units.keys().copied());
    }

    /// A session ended, by logout or loss.
    pub fn detach(&mut self, nexus: NexusId) {
        self.attentions.detach(nexus);
    }

    /// The data that a command moves, from its CDB alone. A command that its CDB condemns moves nothing: the
    /// host's data need not be fetched, [`Device::start`] refuses it.
    pub fn transfer(&self, lun: u64, cdb: &[u8]) -> Transfer {
        let cdb = Cdb::new(cdb);
        let unit = report::decode_lun(lun).and_then(|lun| self.units.get(&lun));
        let Ok(row) = opcodes::find(cdb) else { return Transfer::None };
        if let Some(allocation) = allocation_length(row, cdb) {
            return Transfer::In(allocation);
        }
        let Some(unit) = unit else { return Transfer::None };
        if row.operation == Operation::ModeSelect {
            return Transfer::Out(mode::list_length(cdb));
        }
        block::Request::parse(row, cdb, unit.config.blocks)
            .map_or(Transfer::None, |request| request.transfer())
    }

    /// The answer to a command for which the host announced `announced` bytes of data that its CDB
    /// contradicts in a way that residual counts must not paper over: WRITE SAME takes one block, not its
    /// head (SBC-3 5.43). To be asked before any of the data is taken; `None` means go on.
    pub fn refuse_length(&self, lun: u64, cdb: &[u8], announced: u64) -> Option<Reply> {
        let row = opcodes::find(Cdb::new(cdb)).ok()?;
        let Transfer::Out(expected) = self.transfer(lun, cdb) else { return None };
        let unit = report::decode_lun(lun).and_then(|lun| self.units.get(&lun))?;
        (row.operation == Operation::WriteSame && announced != expected)
            .then(|| check_condition(Sense::SHORT_DATA, unit.modes))
    }

    /// A command with the data that came for it: at most what [`Device::transfer`] says (more is
    /// disregarded), less where the host announced less.
    pub fn start(&mut self, nexus: NexusId, lun: u64, cdb: &[u8], data_out: Bytes) -> Step {
        let data_out = match self.transfer(lun, cdb) {
            Transfer::Out(bytes) => data_out.slice(..data_out.len().min(bytes as usize)),
            Transfer::None | Transfer::In(_) => Bytes::new(),
        };
        let cdb = Cdb::new(cdb);
        match report::decode_lun(lun).filter(|lun| self.units.contains_key(lun)) {
            Some(lun) => {
                let outcome = self.execute(nexus, lun, cdb, data_out);
                self.step(lun, outcome)
            }
            None => Step::Done(self.answer_without_unit(cdb)),
        }
    }

    /// The site's answer to an order.
    pub fn finish(&mut self, pending: Pending, completion: Completion) -> Step {
        let Pending { lun, task } = pending;
        let outcome = match completion {
            Completion::Failed(failure) => match Sense::of_failure(failure) {
                Some(sense) => Err(sense),
                None => {
                    return Step::Done(Reply {
                        status: Status::Busy,
                        sense: Bytes::new(),
                        data_in: Vec::new(),
                    });
                }
            },
            completion @ (Completion::Data(_)
            | Completion::Done
            | Completion::Verdict(_)
            | Completion::Persistent(_)) => task.finish(completion),
        };
        self.step(lun, outcome)
    }

    /// LOGICAL UNIT RESET (SAM-5 6.3.3): `false` if there is no such unit. The commands under way are the
    /// transport's to drop.
    pub fn reset_unit(&mut self, lun: u64) -> bool {
        let Some(lun) = report::decode_lun(lun).filter(|lun| self.units.contains_key(lun)) else {
            return false;
        };
        self.reset_unit_by(lun, Attention::Reset);
        true
    }

    /// TARGET WARM RESET, or TARGET COLD RESET (RFC 7143 11.5.1).
    pub fn reset_target(&mut self, cold: bool) {
        let attention = if cold { Attention::PowerOn } else { Attention::Reset };
        let luns: Vec<u16> = self.units.keys().copied().collect();
        for lun in luns {
            self.reset_unit_by(lun, attention);
        }
    }

    fn reset_unit_by(&mut self, lun: u16, attention: Attention) {
        if let Some(unit) = self.units.get_mut(&lun) {
            unit.modes = unit.modes.reset();
        }
        self.attentions.raise(lun, attention, None);
    }

    /// CLEAR TASK SET (SAM-5 7.5): tells the other nexuses. `false` if there is no such unit.
    pub fn clear_task_set(&mut self, lun: u64, by: NexusId) -> bool {
        let Some(lun) = report::decode_lun(lun).filter(|lun| self.units.contains_key(lun)) else {
            return false;
        };
        self.attentions.raise(lun, Attention::CommandsCleared, Some(by));
        true
    }

    /// Whether a LUN field names a unit.
    pub fn has_unit(&self, lun: u64) -> bool {
        report::decode_lun(lun).is_some_and(|lun| self.units.contains_key(&lun))
    }

    /// The one place where a command for an existing unit is let in or refused for what others did, in
    /// SAM-5's order: reservation conflicts come before unit attentions, and both before faults of the CDB
    /// (5.3.1, 5.14). `row` is `None` for a command that is not in the table: where a reservation is held,
    /// that is a conflict (E3.4).
    fn admit(&mut self, nexus: NexusId, lun: u16, row: Option<&Row>) -> Result<(), Sense> {
        // SPC-4 5.9: reservations are judged here, by `row.access` (E3). None can be taken yet: RESERVE and
        // PERSISTENT RESERVE OUT are not in the table.
        let exempt = row.is_some_and(|row| ALWAYS_ANSWERED.contains(&row.operation));
        match if exempt { None } else { self.attentions.take(nexus, lun) } {
            Some(attention) => Err(attention.sense()),
            None => Ok(()),
        }
    }

    fn execute(&mut self, nexus: NexusId, lun: u16, cdb: Cdb, data_out: Bytes) -> Result<Outcome, Sense> {
        let found = opcodes::find(cdb);
        self.admit(nexus, lun, found.as_ref().ok().copied())?;
        let row = found?;
        let Some(unit) = self.units.get_mut(&lun) else { return Err(Sense::NO_SUCH_UNIT) };
        let blocks = unit.config.blocks;
        let data = match row.operation {
            // SBC-3 5.25: the unit is shared by hosts at both sites. One that stops it, as some do when they
            // shut down, must not stop it for the others: START and IMMED change nothing. Ejection and power
            // conditions are refused by the table of commands.
            Operation::TestUnitReady => return Ok(Outcome::Good),
            Operation::StartStop => return Ok(Outcome::Good),
            Operation::SendDiagnostic => return send_diagnostic(cdb),
            Operation::RequestSense => {
                let sense = self.attentions.take(nexus, lun).map_or(Sense::NONE, Attention::sense);
                sense.encode(cdb.bit(1, 0x01)).to_vec()
            }
            Operation::ModeSelect => {
                let modes = unit.modes.select(cdb, &data_out, blocks)?;
                if modes != unit.modes {
                    unit.modes = modes;
                    self.attentions.raise(lun, Attention::ModeChanged, Some(nexus));
                }
                return Ok(Outcome::Good);
            }
            Operation::ModeSense => unit.modes.sense(cdb, blocks)?,
            Operation::ReadCapacity10 => read_capacity_10(blocks),
            Operation::ReadCapacity16 => read_capacity_16(blocks),
            Operation::ReadDefects => no_defects(cdb),
            Operation::Inquiry => inquiry::inquiry(cdb, Some(&unit.config), &self.port)?,
            Operation::ReportLuns => report::luns(cdb, self.units.keys().copied())?,
            Operation::ReportGroups => ports::report(cdb, &self.port, &self.peer)?,
            Operation::ReportOpcodes => report::opcodes(cdb)?,
            Operation::ReportTaskManagement => report::task_management(cdb),
            Operation::Read
            | Operation::Write
            | Operation::WriteVerify
            | Operation::Verify
            | Operation::Prefetch
            | Operation::SynchronizeCache
            | Operation::WriteSame
            | Operation::Unmap => {
                let request = block::Request::parse(row, cdb, blocks)?;
                // SPC-4 7.5.8: SWP.
                if row.access == Access::Write && unit.modes.write_protected {
                    return Err(Sense::SOFTWARE_WRITE_PROTECTED);
                }
                return request.start(data_out, blocks);
            }
        };
        Ok(Outcome::Data(vec![cut(data, row, cdb)]))
    }

    /// SAM-5 4.7.1: what a LUN without a unit still answers.
    fn answer_without_unit(&self, cdb: Cdb) -> Reply {
        let answer = opcodes::find(cdb).and_then(|row| {
            let data = if !ALWAYS_ANSWERED.contains(&row.operation) {
                return Err(Sense::NO_SUCH_UNIT);
            } else if row.operation == Operation::Inquiry {
                inquiry::inquiry(cdb, None, &self.port)?
            } else if row.operation == Operation::ReportLuns {
                report::luns(cdb, self.units.keys().copied())?
            } else {
                Sense::NO_SUCH_UNIT.encode(cdb.bit(1, 0x01)).to_vec()
            };
            Ok(vec![cut(data, row, cdb)])
        });
        match answer {
            Ok(data_in) => Reply { status: Status::Good, sense: Bytes::new(), data_in },
            Err(Sense::INVALID_OPCODE) => check_condition(Sense::NO_SUCH_UNIT, Modes::default()),
            Err(sense) => check_condition(sense, Modes::default()),
        }
    }

    fn step(&self, lun: u16, outcome: Result<Outcome, Sense>) -> Step {
        let Some(unit) = self.units.get(&lun) else {
            return Step::Done(check_condition(Sense::NO_SUCH_UNIT, Modes::default()));
        };
        let data_in = match outcome {
            Ok(Outcome::Good) => Vec::new(),
            Ok(Outcome::Data(data)) => data,
            Ok(Outcome::Ask(command, task)) => {
                let command = VolumeCommand { volume: unit.config.volume, command };
                return Step::Ask { command, pending: Pending { lun, task } };
            }
            Err(sense) => return Step::Done(check_condition(sense, unit.modes)),
        };
        Step::Done(Reply { status: Status::Good, sense: Bytes::new(), data_in })
    }
}

fn check_condition(sense: Sense, modes: Modes) -> Reply {
    let sense = sense.encode(modes.descriptor_sense);
    Reply { status: Status::CheckCondition, sense, data_in: Vec::new() }
}

/// How many bytes of parameter data the host takes: the ALLOCATION LENGTH field (SPC-4 4.2.5.6), or the whole
/// reply where there is no such field. `None` for commands that return no parameter data.
fn allocation_length(row: &Row, cdb: Cdb) -> Option<u64> {
    match (row.operation, row.length()) {
        (Operation::RequestSense | Operation::ModeSense, 6) => Some(cdb.number(4, 1)),
        (Operation::Inquiry, _) => Some(cdb.number(3, 2)),
        (Operation::ModeSense | Operation::ReadDefects, 10) => Some(cdb.number(7, 2)),
        (Operation::ReadCapacity10, _) => Some(8),
        (Operation::ReadCapacity16, _) => Some(cdb.number(10, 4)),
        (
            Operation::ReportLuns
            | Operation::ReportGroups
            | Operation::ReportOpcodes
            | Operation::ReportTaskManagement
            | Operation::ReadDefects,
            _,
        ) => Some(cdb.number(6, 4)),
        (
            Operation::TestUnitReady
            | Operation::RequestSense
            | Operation::ModeSense
            | Operation::ModeSelect
            | Operation::StartStop
            | Operation::SendDiagnostic
            | Operation::Read
            | Operation::Write
            | Operation::WriteVerify
            | Operation::Verify
            | Operation::Prefetch
            | Operation::SynchronizeCache
            | Operation::WriteSame
            | Operation::Unmap,
            _,
        ) => None,
    }
}

fn cut(mut data: Vec<u8>, row: &Row, cdb: Cdb) -> Bytes {
    let allocation = allocation_length(row, cdb).and_then(|bytes| usize::try_from(bytes).ok());
    data.truncate(allocation.unwrap_or(usize::MAX));
    data.into()
}

/// SPC-4 6.41: the default self test passes; there are no diagnostic pages.
fn send_diagnostic(cdb: Cdb) -> Result<Outcome, Sense> {
    if cdb.bit(1, 0x04) { Ok(Outcome::Good) } else { Err(Sense::field_in_cdb(1, Some(2))) }
}

/// SBC-3 5.15.2: last block, or all ones if that does not fit; block length.
fn read_capacity_10(blocks: u64) -> Vec<u8> {
    let last = u32::try_from(blocks.saturating_sub(1)).unwrap_or(u32::MAX);
    [last.to_be_bytes(), (BLOCK_BYTES as u32).to_be_bytes()].concat()
}

/// SBC-3 5.16.2: as above, with physical block size, LBPME and LBPRZ.
fn read_capacity_16(blocks: u64) -> Vec<u8> {
    let mut data = blocks.saturating_sub(1).to_be_bytes().to_vec();
    data.extend_from_slice(&(BLOCK_BYTES as u32).to_be_bytes());
    data.extend_from_slice(&[0, block::PHYSICAL_EXPONENT, 0xc0, 0]);
    data.resize(32, 0);
    data
}

/// SBC-3 5.17, 5.18: empty lists, in the format that was asked for.
fn no_defects(cdb: Cdb) -> Vec<u8> {
    if cdb.opcode() == 0x37 {
        vec![0, cdb.byte(2) & 0x1f, 0, 0]
    } else {
        vec![0, cdb.byte(1) & 0x1f, 0, 0, 0, 0, 0, 0]
    }
}
