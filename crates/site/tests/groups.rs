//! Two sites back to back, their disks in memory, time by hand: what shares a journal group, and what waits for none.

use biplex_engine::message::VolumeGeometry;
use biplex_engine::{Extent, HostId, Lba, Nexus, Now, SiteId, VolumeId};
use biplex_front::scsi::{PortConfig, UnitConfig};
use biplex_front::{Command, Completion, TaskId};
use biplex_site::{
    Action, Event, Mode, Reservations, Rules, Site, SiteConfig, TableKind, VolumeConfig, WINDOW_BYTES_MAX,
};
use biplex_store::{Device, Disk, DiskError, DiskOp, Identity, Layout, create_with};
use bytes::Bytes;
use std::collections::BTreeMap;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;
const VOLUME: VolumeId = VolumeId(7);
const BLOCKS: u64 = 1024;
const JOURNAL_BYTES: u64 = 16 << 20;
const PAIR: u64 = 0x77;

/// A disk in memory; whatever is written is durable.
struct Memory(Vec<u8>);

impl Memory {
    fn place(&mut self, offset: u64, len: usize) -> &mut [u8] {
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

fn block(lba: u64) -> Extent {
    Extent::new(Lba(lba), 1).expect("one block")
}

struct Place {
    site: Site,
    journal: Memory,
    store: Memory,
    /// Groups written.
    groups: usize,
    answers: BTreeMap<TaskId, Completion>,
}

struct Pair {
    places: [Place; 2],
    now: u64,
    tasks: u64,
}

fn config(id: SiteId, mode: Mode) -> SiteConfig {
    let unit = UnitConfig {
        volume: VOLUME,
        lun: 0,
        name: "vol0".into(),
        serial: "S1".into(),
        naa: 3 << 60,
        blocks: BLOCKS,
    };
    let rules = Rules::of(mode);
    SiteConfig {
        site: id,
        pair: PAIR,
        port: PortConfig {
            site: id,
            target: "iqn.2026-11.io.biplex:groups".into(),
            group: id.index() as u16 + 1,
            relative: id.index() as u16 * 256 + 1,
        },
        portal: "192.0.2.1:3260".into(),
        chap: None,
        volumes: vec![VolumeConfig { unit, rules, store: None, reservations: Reservations::Table }],
        hold_time: 60 * SECOND,
        hold_every: 60 * SECOND,
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
    fn paired(mode: Mode) -> Pair {
        let now = 1000 * SECOND;
        let places = SiteId::BOTH.map(|id| {
            let layout = Layout::with_segments(JOURNAL_BYTES, 2 << 20).expect("a layout");
            let mut journal = Memory(vec![0; layout.bytes() as usize]);
            let (name, ordinal) = ("vol0".into(), Rules::of(mode).ordinal());
            let volume = VolumeGeometry { id: VOLUME, name, lun: 0, blocks: BLOCKS, mode: ordinal };
            let identity =
                Identity { site: id, pair: PAIR, journal: id.index() as u64 + 1, volumes: vec![volume] };
            create_with(&mut journal, layout, &identity, &mut |_, _| {}).expect("created");
            let entropy = Box::new(|bytes: &mut [u8]| bytes.fill(7));
            let site = Site::open(config(id, mode), &mut journal, entropy, Now { wall: now, mono: now });
            let site = site.expect("opened");
            let store = Memory(vec![0; (BLOCKS * 512) as usize]);
            Place { site, journal, store, groups: 0, answers: BTreeMap::new() }
        });
        let mut pair = Pair { places, now, tasks: 0 };
        let connected = pair.at();
        for place in &mut pair.places {
            place.site.handle(connected, Event::LinkConnected { link: 1 });
        }
        pair.run();
        for _ in 0..100 {
            pair.pass(10 * MS);
        }
        assert!(pair.places.iter().all(|place| place.site.status(pair.at()).link.in_step), "{mode:?}");
        pair
    }

    fn at(&self) -> Now {
        Now { wall: self.now, mono: self.now }
    }

    fn tell(&mut self, id: SiteId, event: Event) {
        let now = self.at();
        self.places[id.index()].site.handle(now, event);
        self.run();
    }

    /// Lets time pass, step by step.
    fn pass(&mut self, nanoseconds: u64) {
        let end = self.now + nanoseconds;
        while self.now < end {
            self.now = end.min(self.now + MS / 10);
            let now = self.at();
            for place in &mut self.places {
                if place.site.next_deadline(now) <= now.mono {
                    place.site.handle(now, Event::Tick);
                }
            }
            self.run();
        }
    }

    /// Carries out all that is ordered, at once.
    fn run(&mut self) {
        let now = self.at();
        loop {
            let mut still = true;
            for index in 0..2 {
                let mut actions = Vec::new();
                self.places[index].site.poll(now, &mut actions);
                still &= actions.is_empty();
                for action in actions {
                    self.carry_out(now, index, action);
                }
            }
            if still {
                return;
            }
        }
    }

    fn carry_out(&mut self, now: Now, index: usize, action: Action) {
        match action {
            Action::LinkSend { link, bytes } => {
                self.places[1 - index].site.handle(now, Event::LinkBytes { link, bytes });
            }
            Action::Disk { ticket, op } => {
                let place = &mut self.places[index];
                let result = place.order(op);
                place.site.handle(now, Event::DiskDone { ticket, result });
            }
            Action::Answer { task, completion } => {
                self.places[index].answers.insert(task, completion);
            }
            Action::Notice(_) => {}
            other => panic!("unexpected: {other:?}"),
        }
    }

    /// Asks, without letting time pass; the answer, if there is one at once.
    fn ask(&mut self, id: SiteId, command: Command) -> Option<Completion> {
        self.tasks += 1;
        let task = TaskId(self.tasks);
        let nexus = Nexus { host: HostId(id.index() as u64 + 1), isid: 1, site: id };
        self.tell(id, Event::Submit { task, nexus, volume: VOLUME, command });
        self.places[id.index()].answers.remove(&task)
    }

    fn write(&mut self, id: SiteId, lba: u64, byte: u8) -> Option<Completion> {
        let data = Bytes::from(vec![byte; 512]);
        self.ask(id, Command::Write { extent: block(lba), data, fua: false })
    }
}

impl Place {
    fn order(&mut self, op: DiskOp) -> biplex_store::DiskResult {
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

#[test]
fn the_peers_async_writes_share_groups_and_all_others_have_one_at_once() {
    for (mode, shared) in [(Mode::Async, true), (Mode::Flush, false), (Mode::Sync, false)] {
        let mut pair = Pair::paired(mode);
        let before = [pair.places[0].groups, pair.places[1].groups];
        for number in 0..100 {
            assert_eq!(pair.write(SiteId::A, number, 1), Some(Completion::Done), "{mode:?}");
            pair.pass(MS / 10);
        }
        pair.pass(5 * MS);
        let [own, peers] = [0, 1].map(|site| pair.places[site].groups - before[site]);
        assert!(own >= 100, "{mode:?}: {own} groups: each write of a host is durable when it is done");
        match shared {
            // 10 ms of writes, 2 ms a group, and a few for what else is going on.
            true => assert!((5..20).contains(&peers), "{mode:?}: {peers} groups at the peer"),
            false => assert!(peers >= 100, "{mode:?}: {peers} groups at the peer"),
        }
        let status = pair.places[0].site.status(pair.at());
        assert_eq!(status.link.unacked, 0, "{mode:?}: all of it is durable at the peer");
    }
}

#[test]
fn a_read_that_meets_what_waits_for_company_does_not_wait_with_it() {
    let mut pair = Pair::paired(Mode::Async);
    assert_eq!(pair.write(SiteId::A, 5, 9), Some(Completion::Done));
    let read = Command::Read { extent: block(5), fua: false };
    let Some(Completion::Data(data)) = pair.ask(SiteId::B, read) else { panic!("answered at once") };
    assert_eq!(data.concat(), [9; 512]);
}
