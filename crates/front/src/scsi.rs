//! SCSI: one device with logical units, as SAM-5, SPC-4 and SBC-3 describe it.
//!
//! ```text
//! cdb ─▶ opcodes (which row?) ─▶ attentions ─┬▶ block, reserve, persistent ─▶ Command ─▶ (the site)
//!                                            └▶ Check ─▶ (the site) ─▶ inquiry mode report ports ─▶ Reply
//! ```
//! Answers for: what a host is told about its units, which commands it may give, and what they mean to the
//! site. Reservations are judged by the site: media commands where they are carried out, others by a `Check`
//! before they are answered (E3.4). Must never: wait, size memory by a length that a host chose, or look at a byte
//! of the CDB that `opcodes` does not list. Every reply is built in full and then cut to the host's allocation
//! length.

mod attention;
mod block;
mod cdb;
mod inquiry;
mod mode;
mod opcodes;
mod persistent;
mod ports;
mod report;
mod reserve;
mod sense;
pub mod spell;
#[cfg(test)]
mod tests;
pub mod told;
mod transport_id;

use crate::{Command, Completion, Failure, VolumeCommand};
use attention::Attentions;
use biplex_engine::reserve::{Access, Effect, ModeBits, Request};
use biplex_engine::{BLOCK_BYTES, Nexus, SiteId, VolumeId};
use bytes::Bytes;
use cdb::Cdb;
use mode::Modes;
use opcodes::{Operation, Row};
use sense::Sense;
use std::collections::BTreeMap;
use std::sync::Arc;

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
    nexus: Nexus,
    wait: Wait,
}

/// What a command waits for.
#[derive(Debug)]
enum Wait {
    /// A block command's orders.
    Block(block::Task),
    /// Whether reservations let it in; then it is answered from what is known here.
    Check { cdb: Vec<u8>, data: Bytes },
    /// The same; then it is GOOD, with nothing to be done.
    Nothing,
    /// The same; then it is refused, as its CDB is wrong.
    Refused(Sense),
    /// How a request ended.
    Verdict,
    /// The registrations, for PERSISTENT RESERVE IN.
    Persistent { cdb: Vec<u8> },
}

/// What a command comes to, before it is dressed for the host.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Outcome {
    Good,
    Data(Vec<Bytes>),
    Ask(Command, block::Task),
}

/// Why a command is not carried out: another status, or CHECK CONDITION.
enum Refusal {
    Status(Status),
    Sense(Sense),
}

impl From<Sense> for Refusal {
    fn from(sense: Sense) -> Refusal {
        Refusal::Sense(sense)
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Refusal {
        Refusal::Status(status)
    }
}

/// What follows for a command.
enum Next {
    Done(Vec<Bytes>),
    Ask(Command, Wait),
}

impl From<Outcome> for Next {
    fn from(outcome: Outcome) -> Next {
        match outcome {
            Outcome::Good => Next::Done(Vec::new()),
            Outcome::Data(data) => Next::Done(data),
            Outcome::Ask(command, task) => Next::Ask(command, Wait::Block(task)),
        }
    }
}

/// Commands that no unit attention and no missing unit keeps from being answered (SAM-5 4.7.1, 5.14.1).
const ALWAYS_ANSWERED: [Operation; 3] = [Operation::Inquiry, Operation::ReportLuns, Operation::RequestSense];

#[derive(Debug)]
struct Unit {
    config: UnitConfig,
    modes: Modes,
    /// COMPARE AND WRITE is served.
    swaps: bool,
}

/// The SCSI device at this site: its units as every host here sees them.
#[derive(Debug)]
pub struct Device {
    port: PortConfig,
    peer: PortConfig,
    units: BTreeMap<u16, Unit>,
    attentions: Attentions,
    /// Names of the initiators that are logged in here.
    names: BTreeMap<Nexus, Arc<str>>,
}

impl Device {
    /// The device at `port`'s site; `peer` is the other site's port.
    pub fn new(port: PortConfig, peer: PortConfig, units: Vec<UnitConfig>) -> Device {
        let unit = |config: UnitConfig| Unit { config, modes: Modes::default(), swaps: true };
        let units = units.into_iter().map(|config| (config.lun, unit(config))).collect();
        Device { port, peer, units, attentions: Attentions::default(), names: BTreeMap::new() }
    }

    /// Says that completed writes of this volume reach the other site only after SYNCHRONIZE CACHE or with FUA (WCE in
    /// the caching page), so that hosts send these.
    pub fn announce_write_cache(&mut self, volume: VolumeId) {
        for unit in self.units.values_mut().filter(|unit| unit.config.volume == volume) {
            unit.modes.write_cache = true;
        }
    }

    /// Says that the site refuses COMPARE AND WRITE for this volume, so that hosts need not try it.
    pub fn withhold_compare_and_write(&mut self, volume: VolumeId) {
        for unit in self.units.values_mut().filter(|unit| unit.config.volume == volume) {
            unit.swaps = false;
        }
    }

    /// A session began. One that was here before and was lost is told so (29/07); a new one hears nothing.
    pub fn attach(&mut self, nexus: Nexus, name: Arc<str>) {
        self.attentions.attach(nexus, self.units.keys().copied());
        self.names.insert(nexus, name);
    }

    /// A session ended, by logout or loss.
    pub fn detach(&mut self, nexus: Nexus) {
        self.attentions.detach(nexus, self.units.keys().copied());
        self.names.remove(&nexus);
    }

    /// The nexus of a session with this initiator port (RFC 7143 4.4.1); ISIDs have 48 bits.
    pub fn nexus(&self, initiator: &str, isid: [u8; 6]) -> Nexus {
        let isid = isid.into_iter().fold(0, |number, byte| number << 8 | u64::from(byte));
        Nexus { host: biplex_engine::HostId::of_name(initiator), isid, site: self.port.site }
    }

    /// The volume behind a LUN field, if there is such a unit.
    pub fn volume(&self, lun: u64) -> Option<VolumeId> {
        let lun = report::decode_lun(lun)?;
        self.units.get(&lun).map(|unit| unit.config.volume)
    }

    /// The volumes of all units.
    pub fn volumes(&self) -> Vec<VolumeId> {
        self.units.values().map(|unit| unit.config.volume).collect()
    }

    /// The LUN field of the unit of this volume.
    pub fn lun(&self, volume: VolumeId) -> Option<u64> {
        let unit = self.units.values().find(|unit| unit.config.volume == volume)?;
        Some(report::encode_lun(unit.config.lun))
    }

    /// What follows for the hosts of this site from what was executed at both: attentions, mode parameters. Commands
    /// that are to be dropped are the transport's.
    pub fn apply_effect(&mut self, volume: VolumeId, effect: &Effect) {
        let Some(unit) = self.units.values_mut().find(|unit| unit.config.volume == volume) else { return };
        let lun = unit.config.lun;
        match effect {
            Effect::Attend(nexus, attention) => self.attentions.tell(*nexus, lun, *attention),
            Effect::AttendAll { but, attention } => self.attentions.raise(lun, *attention, *but),
            Effect::Modes(ModeBits { descriptor_sense, write_protected }) => {
                unit.modes.descriptor_sense = *descriptor_sense;
                unit.modes.write_protected = *write_protected;
            }
            Effect::Abort(_) | Effect::AbortAll => {}
        }
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
        match row.operation {
            Operation::ModeSelect => return Transfer::Out(mode::list_length(cdb)),
            Operation::Reserve | Operation::Release => return Transfer::Out(reserve::list_length(cdb)),
            Operation::PersistentOut => {
                return Transfer::Out(persistent::list_length(cdb).min(persistent::LIST_BYTES_MAX));
            }
            _ => {}
        }
        block::Request::parse(row, cdb, unit.config.blocks)
            .map_or(Transfer::None, |request| request.transfer())
    }

    /// The answer to a command for which the host announced `announced` bytes of data that its CDB
    /// contradicts in a way that residual counts must not paper over: WRITE SAME takes one block, not its
    /// head (SBC-3 5.43), COMPARE AND WRITE takes both halves (5.2), WRITE ATOMIC all or nothing (SBC-4 5.48). To be
    /// asked before any of the data is taken; `None` means go on.
    pub fn refuse_length(&self, lun: u64, cdb: &[u8], announced: u64) -> Option<Reply> {
        let row = opcodes::find(Cdb::new(cdb)).ok()?;
        let Transfer::Out(expected) = self.transfer(lun, cdb) else { return None };
        let unit = report::decode_lun(lun).and_then(|lun| self.units.get(&lun))?;
        let sense = match row.operation {
            Operation::WriteSame | Operation::WriteAtomic => Sense::SHORT_DATA,
            Operation::CompareAndWrite => Sense::field_in_cdb(13, None),
            _ => return None,
        };
        (announced != expected).then(|| check_condition(sense, unit.modes))
    }

    /// A command with the data that came for it: at most what [`Device::transfer`] says (more is
    /// disregarded), less where the host announced less.
    pub fn start(&mut self, nexus: Nexus, lun: u64, cdb: &[u8], data_out: Bytes) -> Step {
        let data_out = match self.transfer(lun, cdb) {
            Transfer::Out(bytes) => data_out.slice(..data_out.len().min(bytes as usize)),
            Transfer::None | Transfer::In(_) => Bytes::new(),
        };
        let cdb = Cdb::new(cdb);
        match report::decode_lun(lun).filter(|lun| self.units.contains_key(lun)) {
            Some(lun) => {
                let next = self.execute(nexus, lun, cdb, data_out);
                self.step(nexus, lun, next)
            }
            None => Step::Done(self.answer_without_unit(cdb)),
        }
    }

    /// The site's answer to an order.
    pub fn finish(&mut self, pending: Pending, completion: Completion) -> Step {
        let Pending { lun, nexus, wait } = pending;
        let next = self.go_on(nexus, lun, wait, completion);
        self.step(nexus, lun, next)
    }

    fn go_on(&mut self, nexus: Nexus, lun: u16, wait: Wait, completion: Completion) -> Result<Next, Refusal> {
        match (wait, completion) {
            (Wait::Block(task), completion @ Completion::Failed(Failure::Conflict)) if task.has_written() => {
                Ok(task.finish(completion)?.into())
            }
            (_, Completion::Failed(failure)) => Err(Sense::of_failure(failure)?.into()),
            (Wait::Verdict | Wait::Block(block::Task::Swap), Completion::Verdict(verdict)) => {
                match Sense::of_verdict(verdict)? {
                    Some(sense) => Err(sense.into()),
                    None => Ok(Next::Done(Vec::new())),
                }
            }
            (Wait::Block(task), completion) => Ok(task.finish(completion)?.into()),
            (Wait::Nothing, Completion::Done) => Ok(Next::Done(Vec::new())),
            (Wait::Refused(sense), Completion::Done) => Err(sense.into()),
            (Wait::Check { cdb, data }, Completion::Done) => self.answer(nexus, lun, Cdb::new(&cdb), &data),
            (Wait::Persistent { cdb }, Completion::Persistent(view)) => {
                let cdb = Cdb::new(&cdb);
                let data = persistent::parameters(cdb, &view, [&self.port, &self.peer]);
                Ok(Next::Done(vec![cut(data, opcodes::find(cdb)?, cdb)]))
            }
            // The store that keeps the reservations answered itself (E5.1).
            (Wait::Persistent { cdb }, Completion::Data(data)) => {
                let cdb = Cdb::new(&cdb);
                Ok(Next::Done(vec![cut(data.concat(), opcodes::find(cdb)?, cdb)]))
            }
            (Wait::Persistent { .. }, Completion::Verdict(verdict)) => match Sense::of_verdict(verdict)? {
                Some(sense) => Err(sense.into()),
                None => Err(Sense::INTERNAL_FAILURE.into()),
            },
            // The site answered something else than it was asked: see [`block::Task::finish`].
            (
                Wait::Nothing
                | Wait::Refused(_)
                | Wait::Check { .. }
                | Wait::Verdict
                | Wait::Persistent { .. },
                Completion::Data(_) | Completion::Done | Completion::Verdict(_) | Completion::Persistent(_),
            ) => Err(Sense::INTERNAL_FAILURE.into()),
        }
    }

    /// Whether a LUN field names a unit.
    pub fn has_unit(&self, lun: u64) -> bool {
        report::decode_lun(lun).is_some_and(|lun| self.units.contains_key(&lun))
    }

    /// A command for a unit that is there. SAM-5 5.14: what the nexus has yet to hear comes first; then the site judges
    /// by reservations (where it carries the command out, or is asked); faults of the CDB come last.
    fn execute(&mut self, nexus: Nexus, lun: u16, cdb: Cdb, data: Bytes) -> Result<Next, Refusal> {
        let found = opcodes::find(cdb);
        let exempt = matches!(&found, Ok(row) if ALWAYS_ANSWERED.contains(&row.operation));
        if !exempt && let Some(attention) = self.attentions.take(nexus, lun) {
            return Err(attention::sense(attention).into());
        }
        let row = match found {
            Ok(row) => row,
            // E3.4: what is not known might be anything; it is judged as what changes the unit.
            Err(sense) => {
                return Ok(Next::Ask(Command::Check { access: Access::Control }, Wait::Refused(sense)));
            }
        };
        let Some(unit) = self.units.get(&lun) else { return Err(Sense::NO_SUCH_UNIT.into()) };
        let blocks = unit.config.blocks;
        let request = match row.operation {
            Operation::Read
            | Operation::Write
            | Operation::WriteAtomic
            | Operation::WriteVerify
            | Operation::Verify
            | Operation::Prefetch
            | Operation::SynchronizeCache
            | Operation::WriteSame
            | Operation::CompareAndWrite
            | Operation::Unmap => {
                let request = block::Request::parse(row, cdb, blocks)?;
                // SPC-4 7.5.8: SWP.
                if row.access(cdb) == Access::Write && unit.modes.write_protected {
                    return Err(Sense::SOFTWARE_WRITE_PROTECTED.into());
                }
                return Ok(match request.start(data, blocks)? {
                    // Nothing to carry out, and yet not for whom a reservation keeps out.
                    Outcome::Good => Next::Ask(Command::Check { access: row.access(cdb) }, Wait::Nothing),
                    outcome @ (Outcome::Data(_) | Outcome::Ask(..)) => outcome.into(),
                });
            }
            Operation::Reserve => reserve::reserve(cdb, &data, blocks)?,
            Operation::Release => reserve::release(cdb, &data)?,
            Operation::PersistentOut => self.persistent_out(nexus, cdb, &data)?,
            Operation::PersistentIn => {
                return Ok(Next::Ask(
                    Command::Inspect { action: cdb.service_action() },
                    Wait::Persistent { cdb: cdb.to_vec() },
                ));
            }
            _ if row.access(cdb) == Access::Exempt => return self.answer(nexus, lun, cdb, &data),
            _ => {
                let wait = Wait::Check { cdb: cdb.to_vec(), data };
                return Ok(Next::Ask(Command::Check { access: row.access(cdb) }, wait));
            }
        };
        // The engine stops over a request that cannot be stored: none may get this far, and none gets past here.
        if !request.within_limits() {
            return Err(Sense::INTERNAL_FAILURE.into());
        }
        Ok(Next::Ask(Command::Control { request }, Wait::Verdict))
    }

    fn persistent_out(&self, nexus: Nexus, cdb: Cdb, list: &[u8]) -> Result<Request, Sense> {
        let name = self.names.get(&nexus).ok_or(Sense::INTERNAL_FAILURE)?;
        let known = |name: &str| {
            let same = self.names.iter().filter(|(_, known)| &***known == name);
            same.map(|(nexus, _)| *nexus).collect()
        };
        let asker = persistent::Asker { name, known: &known, ports: [&self.port, &self.peer] };
        persistent::out(cdb, list, &asker)
    }

    /// The answer to a command that needs nothing of the volume, and that reservations let in.
    fn answer(&mut self, nexus: Nexus, lun: u16, cdb: Cdb, data_out: &[u8]) -> Result<Next, Refusal> {
        let row = opcodes::find(cdb)?;
        let Some(unit) = self.units.get(&lun) else { return Err(Sense::NO_SUCH_UNIT.into()) };
        let blocks = unit.config.blocks;
        let data = match row.operation {
            // SBC-3 5.25: the unit is shared by hosts at both sites. One that stops it, as some do when they
            // shut down, must not stop it for the others: START and IMMED change nothing. Ejection and power
            // conditions are refused by the table of commands.
            Operation::TestUnitReady | Operation::StartStop => return Ok(Next::Done(Vec::new())),
            Operation::SendDiagnostic => return Ok(send_diagnostic(cdb)?.into()),
            Operation::RequestSense => {
                let sense = self.attentions.take(nexus, lun).map_or(Sense::NONE, attention::sense);
                sense.encode(cdb.bit(1, 0x01)).to_vec()
            }
            Operation::ModeSelect => {
                let modes = unit.modes.select(cdb, data_out, blocks)?;
                if modes == unit.modes {
                    return Ok(Next::Done(Vec::new()));
                }
                // Both sites' hosts see the same parameters: changed where it is executed.
                let Modes { descriptor_sense, write_protected, .. } = modes;
                let request = Request::SetModes(ModeBits { descriptor_sense, write_protected });
                return Ok(Next::Ask(Command::Control { request }, Wait::Verdict));
            }
            Operation::ModeSense => unit.modes.sense(cdb, blocks)?,
            Operation::ReadCapacity10 => read_capacity_10(blocks),
            Operation::ReadCapacity16 => read_capacity_16(blocks),
            Operation::LbaStatus => lba_status(cdb, blocks)?,
            Operation::ReadDefects => no_defects(cdb),
            Operation::Inquiry => inquiry::inquiry(cdb, Some(unit), &self.port)?,
            Operation::ReportLuns => report::luns(cdb, self.units.keys().copied())?,
            Operation::ReportGroups => ports::report(cdb, &self.port, &self.peer)?,
            Operation::ReportOpcodes => {
                report::opcodes(cdb, |row| row.operation == Operation::CompareAndWrite && !unit.swaps)?
            }
            Operation::ReportTaskManagement => report::task_management(cdb),
            Operation::Read
            | Operation::Write
            | Operation::WriteAtomic
            | Operation::WriteVerify
            | Operation::Verify
            | Operation::Prefetch
            | Operation::SynchronizeCache
            | Operation::WriteSame
            | Operation::CompareAndWrite
            | Operation::Unmap
            | Operation::Reserve
            | Operation::Release
            | Operation::PersistentIn
            | Operation::PersistentOut => return Err(Sense::INTERNAL_FAILURE.into()),
        };
        Ok(Next::Done(vec![cut(data, row, cdb)]))
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

    fn step(&self, nexus: Nexus, lun: u16, next: Result<Next, Refusal>) -> Step {
        let Some(unit) = self.units.get(&lun) else {
            return Step::Done(check_condition(Sense::NO_SUCH_UNIT, Modes::default()));
        };
        match next {
            Ok(Next::Done(data_in)) => {
                Step::Done(Reply { status: Status::Good, sense: Bytes::new(), data_in })
            }
            Ok(Next::Ask(command, wait)) => {
                let command = VolumeCommand { volume: unit.config.volume, command };
                Step::Ask { command, pending: Pending { lun, nexus, wait } }
            }
            Err(Refusal::Sense(sense)) => Step::Done(check_condition(sense, unit.modes)),
            Err(Refusal::Status(status)) => {
                Step::Done(Reply { status, sense: Bytes::new(), data_in: Vec::new() })
            }
        }
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
        (Operation::ModeSense | Operation::ReadDefects | Operation::PersistentIn, 10) => {
            Some(cdb.number(7, 2))
        }
        (Operation::ReadCapacity10, _) => Some(8),
        (Operation::ReadCapacity16 | Operation::LbaStatus, _) => Some(cdb.number(10, 4)),
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
            | Operation::WriteAtomic
            | Operation::WriteVerify
            | Operation::Verify
            | Operation::Prefetch
            | Operation::SynchronizeCache
            | Operation::WriteSame
            | Operation::CompareAndWrite
            | Operation::Reserve
            | Operation::Release
            | Operation::PersistentIn
            | Operation::PersistentOut
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

/// SBC-3 5.6: one descriptor, from the block that was asked for: all is mapped. Which blocks the backing store
/// keeps space for is its own affair.
fn lba_status(cdb: Cdb, blocks: u64) -> Result<Vec<u8>, Sense> {
    let lba = cdb.number(2, 8);
    if lba >= blocks {
        return Err(Sense::LBA_OUT_OF_RANGE);
    }
    let count = u32::try_from(blocks - lba).unwrap_or(u32::MAX);
    Ok([&20u32.to_be_bytes()[..], &[0; 4], &lba.to_be_bytes(), &count.to_be_bytes(), &[0; 4]].concat())
}

/// SBC-3 5.17, 5.18: empty lists, in the format that was asked for.
fn no_defects(cdb: Cdb) -> Vec<u8> {
    if cdb.opcode() == 0x37 {
        vec![0, cdb.byte(2) & 0x1f, 0, 0]
    } else {
        vec![0, cdb.byte(1) & 0x1f, 0, 0, 0, 0, 0, 0]
    }
}
