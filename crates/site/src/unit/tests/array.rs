//! An iSCSI array that does what it is told: just enough of login and commands, with statuses by script.

use super::UnitConn;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

/// Status, and sense key, code, qualifier.
pub type Said = (u8, (u8, u8, u8));

#[derive(Default)]
struct Wire {
    name: String,
    bytes: Vec<u8>,
    stat_sn: u32,
}

pub struct Array {
    disk: Vec<u8>,
    wires: BTreeMap<UnitConn, Wire>,
    /// Operation codes of all commands that came.
    commands: Vec<u8>,
    pub blocks: u64,
    pub block_bytes: u32,
    pub kind: u8,
    pub serial: String,
    pub protected: bool,
    pub thin: bool,
    pub same: bool,
    pub transfer_max: u32,
    /// Largest transfer seen, in blocks.
    pub transfers_max: u32,
    pub synced: usize,
    /// Takes commands and says nothing.
    pub silent: bool,
    /// What the next commands behind the login's questions are answered with.
    pub script: VecDeque<Said>,
    /// The same for what is asked at a login.
    pub at_login: VecDeque<Said>,
    /// The same for REPORT SUPPORTED OPERATION CODES alone.
    pub at_usage: VecDeque<Said>,
    /// How many are registered.
    pub keys: u8,
    /// Its news are about earlier commands.
    pub deferred: bool,
    /// What reads are answered with.
    pub always: Option<Said>,
    /// Initiator that has reserved the unit.
    pub holder: Option<String>,
    pub conflicts: usize,
    /// Blocks of which initiators have exclusive access.
    pub extents: Vec<(String, Range<u64>)>,
    /// Tells what it knows to the initiator alone whose name contains this.
    pub shy: Option<&'static str>,
    asked: usize,
    /// Data that arrived without FUA since the last flush, in commands.
    pub cached: usize,
    /// The commands that REPORT SUPPORTED OPERATION CODES tells of, with byte 1 of their usage; empty: it is not known.
    pub usage: Vec<(u8, u8)>,
    /// MAXIMUM COMPARE AND WRITE LENGTH.
    pub swap_max: u8,
    pub vendor: &'static [u8; 8],
    /// Status of logins.
    pub refuses: Option<(u8, u8)>,
}

impl Array {
    pub fn new(blocks: u64) -> Array {
        Array {
            disk: vec![0; (blocks * 512) as usize],
            wires: BTreeMap::new(),
            commands: Vec::new(),
            blocks,
            block_bytes: 512,
            kind: 0,
            serial: "SN1".into(),
            protected: false,
            thin: true,
            same: true,
            transfer_max: 0,
            transfers_max: 0,
            synced: 0,
            silent: false,
            script: VecDeque::new(),
            at_login: VecDeque::new(),
            at_usage: VecDeque::new(),
            keys: 0,
            deferred: false,
            always: None,
            holder: None,
            conflicts: 0,
            extents: Vec::new(),
            shy: None,
            asked: 0,
            cached: 0,
            usage: Vec::new(),
            swap_max: 0,
            vendor: b"EXAMPLE ",
            refuses: None,
        }
    }

    pub fn open(&mut self, conn: UnitConn) {
        self.wires.insert(conn, Wire::default());
    }

    pub fn close(&mut self, conn: UnitConn) {
        self.wires.remove(&conn);
    }

    pub fn names(&self) -> BTreeSet<&str> {
        self.wires.values().map(|wire| wire.name.as_str()).collect()
    }

    /// The initiator whose name contains this.
    pub fn name_of(&self, part: &str) -> String {
        self.names().into_iter().find(|name| name.contains(part)).expect("logged in").to_owned()
    }

    /// How many commands with this operation code came.
    pub fn count(&self, operation: u8) -> usize {
        self.commands.iter().filter(|seen| **seen == operation).count()
    }

    /// Bytes from an initiator; gives back what it gets.
    pub fn take(&mut self, conn: UnitConn, bytes: &[u8]) -> Vec<u8> {
        let Some(mut wire) = self.wires.remove(&conn) else { return Vec::new() };
        wire.bytes.extend_from_slice(bytes);
        let mut back = Vec::new();
        while wire.bytes.len() >= 48 {
            let data = usize::from(wire.bytes[5]) << 16
                | usize::from(wire.bytes[6]) << 8
                | usize::from(wire.bytes[7]);
            let whole = 48 + data.next_multiple_of(4);
            if wire.bytes.len() < whole {
                break;
            }
            let pdu: Vec<u8> = wire.bytes.drain(..whole).collect();
            self.pdu(&mut wire, &pdu[..48], &pdu[48..48 + data], &mut back);
        }
        self.wires.insert(conn, wire);
        back
    }

    fn pdu(&mut self, wire: &mut Wire, head: &[u8], data: &[u8], back: &mut Vec<u8>) {
        let mut answer = [0u8; 48];
        answer[16..20].copy_from_slice(&head[16..20]);
        let cmd_sn = u32::from_be_bytes(head[24..28].try_into().expect("4 bytes"));
        wire.stat_sn += 1;
        answer[24..28].copy_from_slice(&wire.stat_sn.to_be_bytes());
        answer[28..32].copy_from_slice(&(cmd_sn + 1).to_be_bytes());
        answer[32..36].copy_from_slice(&(cmd_sn + 64).to_be_bytes());
        match head[0] & 0x3f {
            0x03 => {
                answer[0] = 0x23;
                answer[1] = head[1];
                answer[8..14].copy_from_slice(&head[8..14]);
                (answer[36], answer[37]) = self.refuses.unwrap_or((0, 0));
                let text = String::from_utf8_lossy(data).into_owned();
                if let Some(name) = text.split('\0').find_map(|pair| pair.strip_prefix("InitiatorName=")) {
                    wire.name = name.to_owned();
                }
                let keys: &[u8] = if head[1] & 0x0c == 0 {
                    b"AuthMethod=None\0"
                } else {
                    b"MaxRecvDataSegmentLength=262144\0FirstBurstLength=262144\0"
                };
                push(back, answer, keys);
            }
            0x01 => {
                self.commands.push(head[32]);
                if self.silent {
                    return;
                }
                let (status, reply) = self.command(&wire.name, &head[32..48], data);
                if status == 0 && !reply.is_empty() {
                    // Data-In with status.
                    (answer[0], answer[1]) = (0x25, 0x81);
                    answer[20..24].copy_from_slice(&[0xff; 4]);
                } else {
                    (answer[0], answer[1], answer[3]) = (0x21, 0x80, status);
                }
                push(back, answer, &reply);
            }
            0x06 => {
                answer[0] = 0x26;
                answer[1] = 0x80;
                push(back, answer, &[]);
            }
            other => panic!("opcode {other:02x}"),
        }
    }

    fn command(&mut self, name: &str, cdb: &[u8], data: &[u8]) -> (u8, Vec<u8>) {
        let lba = u64::from_be_bytes(cdb[2..10].try_into().expect("8 bytes"));
        let blocks = u32::from_be_bytes(cdb[10..14].try_into().expect("4 bytes"));
        let range = || (lba * 512) as usize..((lba + u64::from(blocks)) * 512) as usize;
        let probing = matches!((cdb[0], cdb[8]), (0x00 | 0x12 | 0x1a | 0x9e | 0xa3, _) | (0x5e, 16));
        if self.holder.as_ref().is_some_and(|holder| holder != name) && cdb[0] != 0x12 {
            self.conflicts += 1;
            return (0x18, Vec::new());
        }
        let meets = |(holder, held): &(String, Range<u64>)| {
            let within = lba < held.end && held.start < lba + u64::from(blocks);
            holder != name && ((matches!(cdb[0], 0x88 | 0x8a | 0x93) && within) || cdb[0] == 0x91)
        };
        if self.extents.iter().any(meets) {
            self.conflicts += 1;
            return (0x18, Vec::new());
        }
        self.cached += usize::from(cdb[0] == 0x93 || (cdb[0] == 0x8a && cdb[1] & 0x08 == 0));
        if cdb[0] == 0xa3 && self.shy.as_ref().is_some_and(|part| !name.contains(part)) {
            // After some news, so that whoever is told is told before.
            self.asked += 1;
            return if self.asked.is_multiple_of(7) { (0x18, Vec::new()) } else { told((2, (6, 0x2a, 1))) };
        }
        if cdb[0] == 0xa3
            && let Some(said) = self.at_usage.pop_front()
        {
            return told(said);
        }
        if probing && let Some(said) = self.at_login.pop_front() {
            return told(said);
        }
        if !probing && let Some(said) = self.script.pop_front() {
            let (status, mut reply) = told(said);
            if self.deferred && status == 2 {
                reply[2] = 0x71;
            }
            return (status, reply);
        }
        match cdb[0] {
            0x88 if self.always.is_some() => told(self.always.expect("there")),
            0x00 | 0x16 => (0, Vec::new()),
            0x12 => (0, self.inquiry(cdb)),
            0x1a => {
                let protected = if self.protected { 0x80 } else { 0 };
                (0, [&[23, 0, protected, 0, 8, 18, 4][..], &[0; 17]].concat())
            }
            0x9e => {
                let mut reply = vec![0; 32];
                reply[..8].copy_from_slice(&(self.blocks - 1).to_be_bytes());
                reply[8..12].copy_from_slice(&self.block_bytes.to_be_bytes());
                reply[14] = if self.thin { 0xc0 } else { 0 };
                (0, reply)
            }
            0x88 => {
                self.transfers_max = self.transfers_max.max(blocks);
                (0, self.disk[range()].to_vec())
            }
            0x8a => {
                self.transfers_max = self.transfers_max.max(blocks);
                self.disk[range()].copy_from_slice(data);
                (0, Vec::new())
            }
            0x93 if self.same => {
                self.disk[range()].chunks_mut(512).for_each(|block| block.copy_from_slice(data));
                (0, Vec::new())
            }
            0x91 => {
                self.synced += 1;
                self.cached = 0;
                (0, Vec::new())
            }
            0x5e => (0, [&[0; 7][..], &[8 * self.keys]].concat()),
            0xa3 => match self.usage.iter().find(|(code, _)| *code == cdb[3]) {
                _ if self.usage.is_empty() => told((2, (5, 0x20, 0))),
                Some((code, bits)) => (0, vec![0, 3, 0, 6, *code, *bits, 0, 0, 0, 0]),
                None => (0, vec![0, 1, 0, 0]),
            },
            _ => told((2, (5, 0x20, 0))),
        }
    }

    fn inquiry(&self, cdb: &[u8]) -> Vec<u8> {
        match (cdb[1], cdb[2]) {
            (0, _) => {
                let head = [self.kind, 0, 6, 2, 31, 0, 0, 0];
                [&head[..], self.vendor, b"Array           0001"].concat()
            }
            (_, 0x80) => {
                [&[self.kind, 0x80, 0, self.serial.len() as u8][..], self.serial.as_bytes()].concat()
            }
            (_, 0xb0) => {
                let mut page = vec![0; 64];
                (page[1], page[3]) = (0xb0, 60);
                page[5] = self.swap_max;
                page[8..12].copy_from_slice(&self.transfer_max.to_be_bytes());
                page
            }
            (_, 0x83) => {
                vec![self.kind, 0x83, 0, 20, 1, 3, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0x51, 0x94, 0, 4, 0, 0, 2, 3]
            }
            (_, _) => vec![self.kind, 0xb2, 0, 4, 0, if self.thin { 0xe0 } else { 0 }, 0, 0],
        }
    }
}

fn told((status, (key, code, qualifier)): Said) -> (u8, Vec<u8>) {
    if status != 2 {
        return (status, Vec::new());
    }
    let mut sense = vec![0; 20];
    sense[1] = 18;
    (sense[2], sense[4], sense[9], sense[14], sense[15]) = (0x70, key, 10, code, qualifier);
    (status, sense)
}

fn push(back: &mut Vec<u8>, mut head: [u8; 48], data: &[u8]) {
    head[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
    back.extend_from_slice(&head);
    back.extend_from_slice(data);
    back.resize(back.len().next_multiple_of(4), 0);
}
