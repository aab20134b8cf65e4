//! Two sites back to back, their disks in memory, time by hand. What is sent lies in lanes until it is delivered: all at
//! once, or one piece at a time from whichever lane a test takes. Stores are memory, or SCSI units ([`array`]).
#![allow(dead_code)] // each test file uses its own part

pub mod array;

use array::Array;
use biplex_engine::message::VolumeGeometry;
use biplex_engine::reserve::Request;
use biplex_engine::{Extent, HostId, Lba, Nexus, Now, SiteId, VolumeId};
use biplex_front::scsi::{PortConfig, UnitConfig};
use biplex_front::{Command, Completion, TaskId};
use biplex_site::unit::{UnitAddress, UnitConn};
use biplex_site::{
    Action, Event, Notice, Rules, Site, SiteConfig, TableKind, VolumeConfig, WINDOW_BYTES_MAX,
};
use biplex_store::{Device, Disk, DiskError, DiskOp, DiskResult, Identity, Layout, create_with};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1000 * MS;
pub const VOLUME: VolumeId = VolumeId(7);
pub const BLOCKS: u64 = 1024;
pub const TARGET: &str = "iqn.2026-11.io.biplex:two";
const JOURNAL_BYTES: u64 = 16 << 20;
const PAIR: u64 = 0x77;

pub fn block(lba: u64) -> Extent {
    Extent::new(Lba(lba), 1).expect("one block")
}

pub fn nexus(site: SiteId, host: u64) -> Nexus {
    Nexus { host: HostId(host), isid: 1, site }
}

/// A disk in memory; whatever is written is durable.
pub struct Memory(Vec<u8>);

impl Memory {
    pub fn place(&mut self, offset: u64, len: usize) -> &mut [u8] {
        &mut self.0[offset as usize..offset as usize + len]
    }
}

impl Disk for Memory {
    fn len(&mut self) -> Result<u64, DiskError> {
        Ok(self.0.len() as u64)
    }
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        buf.copy_from_slice(self.place(offset, buf.len()));
        Ok(())
    }
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.place(offset, data.len()).copy_from_slice(data);
        Ok(())
    }
    fn sync(&mut self) -> Result<(), DiskError> {
        Ok(())
    }
}

/// Where something is on its way to, in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Lane {
    /// The site with this index, from its peer.
    Peer(usize),
    /// The unit of the site with this index, on a connection.
    Unit(usize, u64),
    /// Back from it.
    Site(usize, u64),
}

#[derive(Debug)]
enum Piece {
    Connected,
    Bytes(Bytes),
    Closed,
}

pub struct Place {
    pub site: Site,
    journal: Memory,
    store: Memory,
    pub array: Option<Array>,
    /// Groups written.
    pub groups: usize,
    pub answers: BTreeMap<TaskId, Completion>,
    /// What the site told its operator.
    pub notices: Vec<String>,
}

pub struct Pair {
    pub places: [Place; 2],
    lanes: BTreeMap<Lane, VecDeque<Piece>>,
    pub now: u64,
    tasks: u64,
}

/// How long writes are held where nothing is to be destaged.
const FOR_EVER: u64 = 600 * SECOND;

fn config(id: SiteId, rules: Rules, hold: u64) -> SiteConfig {
    let unit = UnitConfig {
        volume: VOLUME,
        lun: 0,
        name: "vol0".into(),
        serial: "S1".into(),
        naa: 3 << 60,
        blocks: BLOCKS,
    };
    let store = rules.disk.then(|| UnitAddress {
        portal: "192.0.2.9:3260".into(),
        target: array::TARGET.into(),
        lun: array::LUN,
        chap: None,
    });
    SiteConfig {
        site: id,
        pair: PAIR,
        port: PortConfig {
            site: id,
            target: TARGET.into(),
            group: id.index() as u16 + 1,
            relative: id.index() as u16 * 256 + 1,
        },
        portal: "192.0.2.1:3260".into(),
        chap: None,
        volumes: vec![VolumeConfig { unit, rules, store }],
        hold_time: hold,
        hold_every: hold,
        table: TableKind::Indexed,
        hold_memory: 8 << 20,
        journal_bytes: JOURNAL_BYTES,
        max_offset: SECOND / 2,
        lease: SECOND,
        wait_max: 8 * SECOND,
        window_bytes: WINDOW_BYTES_MAX,
    }
}

impl Pair {
    /// Two sites in step.
    pub fn paired(rules: Rules) -> Pair {
        Pair::holding(rules, FOR_EVER)
    }

    /// Two sites in step that destage what they held for so long.
    pub fn holding(rules: Rules, hold: u64) -> Pair {
        let now = 1000 * SECOND;
        let places = SiteId::BOTH.map(|id| {
            let layout = Layout::with_segments(JOURNAL_BYTES, 2 << 20).expect("a layout");
            let mut journal = Memory(vec![0; layout.bytes() as usize]);
            let (name, mode) = ("vol0".into(), rules.ordinal());
            let volume = VolumeGeometry { id: VOLUME, name, lun: 0, blocks: BLOCKS, mode };
            let identity =
                Identity { site: id, pair: PAIR, journal: id.index() as u64 + 1, volumes: vec![volume] };
            create_with(&mut journal, layout, &identity, &mut |_, _| {}).expect("created");
            let entropy = Box::new(|bytes: &mut [u8]| bytes.fill(7));
            let site =
                Site::open(config(id, rules, hold), &mut journal, entropy, Now { wall: now, mono: now });
            Place {
                site: site.expect("opened"),
                journal,
                store: Memory(vec![0; (BLOCKS * 512) as usize]),
                array: rules.disk.then(Array::new),
                groups: 0,
                answers: BTreeMap::new(),
                notices: Vec::new(),
            }
        });
        let mut pair = Pair { places, lanes: BTreeMap::new(), now, tasks: 0 };
        let now = pair.at();
        for place in &mut pair.places {
            place.site.handle(now, Event::LinkConnected { link: 1 });
            place.site.handle(now, Event::Tick);
        }
        pair.pump(0);
        pair.pump(1);
        for _ in 0..100 {
            pair.pass(10 * MS);
        }
        assert!(pair.places.iter().all(|place| place.site.status(pair.at()).link.in_step), "{rules:?}");
        pair
    }

    pub fn at(&self) -> Now {
        Now { wall: self.now, mono: self.now }
    }

    /// Lets time pass, step by step, and everything arrive.
    pub fn pass(&mut self, nanoseconds: u64) {
        let end = self.now + nanoseconds;
        while self.now < end {
            self.tick((end - self.now).min(MS / 10));
            self.run();
        }
    }

    /// Lets time pass in one step; nothing arrives.
    pub fn tick(&mut self, nanoseconds: u64) {
        self.now += nanoseconds;
        let now = self.at();
        for index in 0..2 {
            if self.places[index].site.next_deadline(now) <= now.mono {
                self.places[index].site.handle(now, Event::Tick);
            }
            self.pump(index);
        }
    }

    /// Delivers all there is.
    pub fn run(&mut self) {
        while let Some(lane) = self.lanes.keys().next().copied() {
            self.deliver(lane);
        }
    }

    /// The lanes in which something lies.
    pub fn lanes(&self) -> Vec<Lane> {
        self.lanes.keys().copied().collect()
    }

    fn put(&mut self, lane: Lane, piece: Piece) {
        self.lanes.entry(lane).or_default().push_back(piece);
    }

    /// Delivers the first piece of a lane.
    pub fn deliver(&mut self, lane: Lane) {
        let Some(pieces) = self.lanes.get_mut(&lane) else { return };
        let piece = pieces.pop_front().expect("an empty lane is removed");
        if pieces.is_empty() {
            self.lanes.remove(&lane);
        }
        let now = self.at();
        let index = match (lane, piece) {
            (Lane::Peer(index), Piece::Bytes(bytes)) => {
                self.places[index].site.handle(now, Event::LinkBytes { link: 1, bytes });
                index
            }
            (Lane::Unit(index, number), piece) => {
                let array = self.places[index].array.as_mut().expect("a unit");
                match piece {
                    Piece::Connected => {
                        array.connected(now, number);
                        self.put(Lane::Site(index, number), Piece::Connected);
                    }
                    Piece::Bytes(bytes) => array.bytes(now, number, bytes),
                    Piece::Closed => array.closed(now, number),
                }
                index
            }
            (Lane::Site(index, number), piece) => {
                let conn = UnitConn { volume: VOLUME, number };
                let event = match piece {
                    Piece::Connected => Event::UnitConnected { conn },
                    Piece::Bytes(bytes) => Event::UnitBytes { conn, bytes },
                    Piece::Closed => Event::UnitClosed { conn, why: "closed by the unit".into() },
                };
                self.places[index].site.handle(now, event);
                index
            }
            (Lane::Peer(_), Piece::Connected | Piece::Closed) => unreachable!("the line stands"),
        };
        self.pump(index);
    }

    /// A unit loses all its connections.
    pub fn drop_unit(&mut self, index: usize) {
        let now = self.at();
        let array = self.places[index].array.as_mut().expect("a unit");
        for number in array.drop_all(now) {
            self.lanes.remove(&Lane::Unit(index, number));
            self.put(Lane::Site(index, number), Piece::Closed);
        }
        self.pump(index);
    }

    /// Carries out all that a site and its unit order.
    fn pump(&mut self, index: usize) {
        let now = self.at();
        loop {
            let mut actions = Vec::new();
            self.places[index].site.poll(now, &mut actions);
            let mut still = actions.is_empty();
            for action in actions {
                self.carry_out(now, index, action);
            }
            while let Some((number, said)) = self.places[index].array.as_mut().and_then(|a| a.poll(now)) {
                still = false;
                let piece = said.map_or(Piece::Closed, Piece::Bytes);
                self.put(Lane::Site(index, number), piece);
            }
            if still {
                return;
            }
        }
    }

    fn carry_out(&mut self, now: Now, index: usize, action: Action) {
        match action {
            Action::LinkSend { bytes, .. } => self.put(Lane::Peer(1 - index), Piece::Bytes(bytes)),
            Action::Disk { ticket, op } => {
                let place = &mut self.places[index];
                let result = place.order(op);
                place.site.handle(now, Event::DiskDone { ticket, result });
            }
            Action::UnitConnect { conn, .. } => self.put(Lane::Unit(index, conn.number), Piece::Connected),
            Action::UnitSend { conn, bytes } => self.put(Lane::Unit(index, conn.number), Piece::Bytes(bytes)),
            Action::UnitClose { conn } => self.put(Lane::Unit(index, conn.number), Piece::Closed),
            Action::Answer { task, completion } => {
                let twice = self.places[index].answers.insert(task, completion);
                assert!(twice.is_none(), "{task:?} was answered twice");
            }
            Action::Notice(Notice { text, .. }) => self.places[index].notices.push(text),
            other => panic!("unexpected: {other:?}"),
        }
    }

    /// Asks; nothing arrives anywhere yet.
    pub fn submit(&mut self, nexus: Nexus, command: Command) -> TaskId {
        self.tasks += 1;
        let (task, now, index) = (TaskId(self.tasks), self.at(), nexus.site.index());
        let event = Event::Submit { task, nexus, volume: VOLUME, command };
        self.places[index].site.handle(now, event);
        self.pump(index);
        task
    }

    /// A host is gone.
    pub fn lose(&mut self, nexus: Nexus) {
        let (now, index) = (self.at(), nexus.site.index());
        self.places[index].site.handle(now, Event::NexusLost { nexus });
        self.pump(index);
    }

    /// Asks, without letting time pass; the answer, if there is one at once.
    pub fn ask(&mut self, nexus: Nexus, command: Command) -> Option<Completion> {
        let task = self.submit(nexus, command);
        self.run();
        self.places[nexus.site.index()].answers.remove(&task)
    }
}

/// REGISTER AND IGNORE EXISTING KEY.
pub fn register(key: u64) -> Request {
    Request::Register {
        key: None,
        new_key: key,
        aptpl: false,
        all_ports: false,
        name: "iqn.2026-11.example:host".into(),
        also: Vec::new(),
    }
}

pub fn write(lba: u64, byte: u8) -> Command {
    Command::Write { extent: block(lba), data: Bytes::from(vec![byte; 512]), fua: false }
}

impl Place {
    fn order(&mut self, op: DiskOp) -> DiskResult {
        let disk = |device| if device == Device::Journal { 0 } else { 1 };
        match op {
            DiskOp::AppendDurable { offset, pages } => {
                self.groups += 1;
                self.journal.write_at(offset, pages.as_bytes())?;
                Ok(Bytes::new())
            }
            DiskOp::Read { device, offset, len } => {
                let disk = [&mut self.journal, &mut self.store][disk(device)].place(offset, len as usize);
                Ok(Bytes::copy_from_slice(disk))
            }
            other => panic!("nothing is destaged here: {other:?}"),
        }
    }
}
