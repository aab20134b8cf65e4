//! One site's surroundings: its process (running or not), its clocks, its disks, and what waits at its door.

use crate::clock::Clock;
use crate::disk::SimDisk;
use crate::random::Random;
use crate::scenario::Scenario;
use crate::unit::SimUnit;
use biplex_engine::{SiteId, Stamp, VolumeId};
use biplex_front::TaskId;
use biplex_front::scsi::{PortConfig, UnitConfig};
use biplex_site::{Event, Site, SiteConfig, VolumeConfig};
use biplex_store::{Device, DiskTicket};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Percentages of disk orders that fail just now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ills {
    /// Reads of volumes.
    pub read: u64,
    /// Writes to volumes.
    pub write: u64,
    /// Syncs of volumes.
    pub sync: u64,
    /// Orders to the journal.
    pub journal: u64,
}

/// A site in its surroundings.
pub struct Place {
    /// Which site.
    pub id: SiteId,
    /// How it is configured.
    pub config: SiteConfig,
    /// The running process, if it runs.
    pub site: Option<Site>,
    /// Number of the run: what was planned for an earlier one is void.
    pub run: u64,
    /// Its clocks.
    pub clock: Clock,
    /// Its disks.
    pub disks: BTreeMap<Device, SimDisk>,
    /// The units that are its stores, by the volume's index. They have power of their own.
    pub units: BTreeMap<usize, SimUnit>,
    /// Disk orders under way: the site's name for each.
    pub tickets: BTreeMap<u64, DiskTicket>,
    /// What came and was not yet looked at.
    pub inbox: VecDeque<Event>,
    /// The wake that counts.
    pub wake: Option<u64>,
    /// The process does not run before this time.
    pub paused_until: u64,
    /// Power goes after so many further actions.
    pub crash_within: Option<u64>,
    /// What fails just now.
    pub ills: Ills,
    /// Disk orders take so many times as long.
    pub disk_slowness: u64,
    /// A journal order of this run was made to fail: the site may halt.
    pub journal_failed: bool,
    /// A volume order of this run was made to fail.
    pub volume_failed: bool,
    /// The cut that the site last told.
    pub destaged: u64,
    /// When bytes of the peer were last handed to this run, virtual time.
    pub heard: Option<u64>,
    /// Commands of this run whose hosts no longer wait: the index of each in the history.
    pub forsaken: BTreeMap<TaskId, usize>,
    /// Writes that the site undid, in any run: volume and stamp.
    pub discarded: BTreeSet<(VolumeId, Stamp)>,
    /// Number of the last of them in this run.
    pub discards_seen: u64,
    /// How often the site was looked at in this run.
    pub looks: u64,
    /// The last told value, to count changes.
    pub journal_was_full: bool,
    /// See `journal_was_full`.
    pub conflicts: u64,
    /// See `journal_was_full`.
    pub digests_equal: u64,
}

/// The volume ids of a scenario, in order.
pub fn volume_id(index: usize) -> VolumeId {
    VolumeId(0x1000 + index as u32)
}

impl Place {
    /// The surroundings of this site, before its first start. The journal is still to be made.
    pub fn new(id: SiteId, scenario: &Scenario, random: &mut Random) -> Place {
        let mut disks = BTreeMap::new();
        disks.insert(Device::Journal, SimDisk::new(scenario.journal_bytes as usize, random.fork()));
        let mut units = BTreeMap::new();
        for (index, plan) in scenario.volumes.iter().enumerate() {
            if plan.rules.disk {
                units.insert(index, SimUnit::new(id, volume_id(index), plan.blocks, random.fork()));
                continue;
            }
            let bytes = plan.blocks as usize * crate::pattern::BLOCK;
            disks.insert(Device::Volume(volume_id(index)), SimDisk::new(bytes, random.fork()));
        }
        let clock = Clock::new(scenario.offset[id.index()], scenario.drift[id.index()], scenario.grain);
        Place {
            id,
            config: config(id, scenario),
            site: None,
            run: 0,
            clock,
            disks,
            units,
            tickets: BTreeMap::new(),
            inbox: VecDeque::new(),
            wake: None,
            paused_until: 0,
            crash_within: None,
            ills: Ills::default(),
            disk_slowness: 1,
            journal_failed: false,
            volume_failed: false,
            destaged: 0,
            heard: None,
            forsaken: BTreeMap::new(),
            discarded: BTreeSet::new(),
            discards_seen: 0,
            looks: 0,
            journal_was_full: false,
            conflicts: 0,
            digests_equal: 0,
        }
    }

    /// The disk behind a device of the configuration.
    pub fn disk(&mut self, device: Device) -> Option<&mut SimDisk> {
        self.disks.get_mut(&device)
    }

    /// The backing store of the volume with this index.
    pub fn store(&self, volume: usize) -> &SimDisk {
        match self.units.get(&volume) {
            Some(unit) => &unit.disk,
            None => self.disks.get(&Device::Volume(volume_id(volume))).expect("made for every other volume"),
        }
    }

    /// Power goes: the process is gone, unsynced bytes are kept or lost.
    pub fn lose_power(&mut self) {
        self.site = None;
        self.run += 1;
        self.inbox.clear();
        self.wake = None;
        self.crash_within = None;
        self.journal_failed = false;
        self.volume_failed = false;
        self.heard = None;
        (self.journal_was_full, self.conflicts, self.digests_equal) = (false, 0, 0);
        self.discards_seen = 0;
        self.tickets.clear();
        self.forsaken.clear();
        for disk in self.disks.values_mut() {
            disk.crash();
        }
    }
}

fn config(id: SiteId, scenario: &Scenario) -> SiteConfig {
    let unit = |index: usize, blocks: u64| UnitConfig {
        volume: volume_id(index),
        lun: index as u16,
        name: format!("vol{index}"),
        serial: format!("sim{index:05}"),
        naa: 0x3000_0000_0000_0000 | index as u64,
        blocks,
    };
    let volumes = scenario.volumes.iter().enumerate();
    SiteConfig {
        site: id,
        pair: 0x5151,
        port: PortConfig {
            site: id,
            target: "iqn.2026-11.io.biplex:sim".to_owned(),
            group: id.index() as u16 + 1,
            relative: if id == SiteId::A { 1 } else { 257 },
        },
        portal: "127.0.0.1:3260".to_owned(),
        chap: None,
        volumes: volumes
            .map(|(i, plan)| VolumeConfig {
                unit: unit(i, plan.blocks),
                rules: plan.rules,
                store: plan.rules.disk.then(|| crate::unit::address(volume_id(i))),
            })
            .collect(),
        hold_time: scenario.hold_time,
        hold_every: scenario.hold_every,
        table: scenario.table[id.index()],
        hold_memory: scenario.hold_memory,
        journal_bytes: scenario.journal_bytes,
        max_offset: scenario.max_offset,
        lease: scenario.lease,
        wait_max: scenario.wait_max,
        window_bytes: scenario.window_bytes,
    }
}
