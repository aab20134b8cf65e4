//! Two engines joined back to back: a test drives a few facts in and asserts the orders that come out.
#![allow(dead_code)] // each test file uses its own part

use biplex_engine::engine::*;
use biplex_engine::hold::TableKind;
use biplex_engine::hosts::{HostWrite, WritePart};
use biplex_engine::message::{Message, VolumeGeometry};
use biplex_engine::*;
use bytes::Bytes;

pub const MS: u64 = 1_000_000;
pub const VOLUME: VolumeId = VolumeId(7);
/// Takes a few small writes.
pub const WINDOW_BYTES: u64 = 64 << 10;

pub fn config(site: SiteId, rules: Rules) -> Config {
    let geometry =
        VolumeGeometry { id: VOLUME, name: "vol0".into(), lun: 0, blocks: 64, mode: rules.ordinal() };
    Config {
        site,
        pair: 1,
        volumes: vec![(geometry, rules)],
        hold_time: 100 * MS,
        hold_every: 50 * MS,
        table: TableKind::Indexed,
        hold_memory: 1 << 20,
        journal_usable: 1 << 20,
        reservation_bytes: 8 << 10,
        max_offset: 500 * MS,
        lease: 400 * MS,
        wait_max: 1_000 * MS,
        window_bytes: WINDOW_BYTES,
    }
}

/// Two engines, journals that keep everything, and a line that the test moves by hand.
pub struct Pair {
    pub engines: [Engine; 2],
    pub now: Now,
    /// On the way to A, on the way to B.
    pub wire: [Vec<Message>; 2],
    pub appended: [u64; 2],
    /// What was appended, verdicts among it, and how much of it is durable.
    pub journals: [Vec<(Entry, JournalPos)>; 2],
    pub durable: [usize; 2],
    pub seen: [Vec<Action>; 2],
    pub destage_fails: bool,
}

impl Pair {
    pub fn new(rules: impl Into<Rules>) -> Pair {
        let rules = rules.into();
        let now = Now { wall: 1_000_000 * MS, mono: 5_000 * MS };
        let engines = SiteId::BOTH.map(|site| {
            let checkpoint = Checkpoint {
                clock_ceiling: 0,
                destaged: Stamp::ZERO,
                resume_from: None,
                peer_journal: 0,
                run: 0,
            };
            let recovered = Recovered { journal: 100 + site as u64, checkpoint, reservations: vec![] };
            let mut engine = Engine::new(config(site, rules), &recovered, now);
            engine.recovered(now);
            engine
        });
        let mut pair = Pair {
            engines,
            now,
            wire: [vec![], vec![]],
            appended: [0, 0],
            journals: [vec![], vec![]],
            durable: [0, 0],
            seen: [vec![], vec![]],
            destage_fails: false,
        };
        for site in SiteId::BOTH {
            pair.drain(site);
            pair.make_durable(site);
        }
        pair
    }

    pub fn paired(rules: impl Into<Rules>) -> Pair {
        let mut pair = Pair::new(rules);
        pair.connect();
        assert!(SiteId::BOTH.iter().all(|site| pair.engines[site.index()].serving(pair.now, VOLUME)));
        pair.seen = [vec![], vec![]];
        pair
    }

    /// The site is started again with nothing but the checkpoint in its journal; the line is down.
    pub fn restart(&mut self, site: SiteId, rules: impl Into<Rules>) {
        self.restart_with(site, rules, &[]);
    }

    /// The same, with these entries in its journal.
    pub fn restart_with(&mut self, site: SiteId, rules: impl Into<Rules>, entries: &[Entry]) {
        let i = site.index();
        self.engines[1 - i].handle_link_closed(self.now);
        self.wire = [vec![], vec![]];
        self.appended[i] = 0;
        let checkpoint = self.engines[i].checkpoint(self.now);
        let recovered = Recovered { journal: 100 + site as u64, checkpoint, reservations: vec![] };
        self.engines[i] = Engine::new(config(site, rules.into()), &recovered, self.now);
        for (index, entry) in (1..).zip(entries) {
            self.engines[i].recover_entry(entry, JournalPos(index * 8192));
        }
        self.engines[i].recovered(self.now);
        self.drain(site);
        self.make_durable(site);
    }

    /// The site crashes and is started again with what was durable in its journal; the line is down.
    pub fn crash(&mut self, site: SiteId, rules: impl Into<Rules>) {
        let i = site.index();
        self.engines[1 - i].handle_link_closed(self.now);
        self.drain(site.peer());
        self.wire = [vec![], vec![]];
        self.appended[i] = 0;
        self.journals[i].truncate(self.durable[i]);
        self.seen[i].clear();
        let checkpoint = self.engines[i].checkpoint(self.now);
        let recovered = Recovered { journal: 100 + site as u64, checkpoint, reservations: vec![] };
        self.engines[i] = Engine::new(config(site, rules.into()), &recovered, self.now);
        for (entry, pos) in &self.journals[i] {
            self.engines[i].recover_entry(entry, *pos);
        }
        self.engines[i].recovered(self.now);
        self.drain(site);
        self.make_durable(site);
    }

    /// Connects both, and lets them come in step.
    pub fn connect(&mut self) {
        for site in SiteId::BOTH {
            self.engines[site.index()].handle_link_connected(self.now);
            self.drain(site);
        }
        for _ in 0..8 {
            self.settle();
            self.pass(2 * MS);
        }
    }

    /// Carries orders out as far as they need no disk.
    pub fn drain(&mut self, site: SiteId) {
        let i = site.index();
        self.engines[i].handle_batch_end(self.now);
        while let Some(action) = self.engines[i].poll() {
            match &action {
                Action::Append(entry) => {
                    self.appended[i] += 1;
                    let pos = JournalPos(self.journals[i].len() as u64 * 8192 + 8192);
                    self.journals[i].push((entry.clone(), pos));
                    if !matches!(entry.body, Body::Verdict(_)) {
                        self.engines[i].handle_appended(entry.stamp, AppendSeq(self.appended[i]), pos);
                    }
                }
                Action::Send(message) => self.wire[1 - i].push(message.clone()),
                Action::Destage { cut, .. } => {
                    let result = if self.destage_fails { Err("no space".into()) } else { Ok(()) };
                    self.engines[i].handle_destaged(self.now, *cut, result);
                }
                _ => {}
            }
            self.seen[i].push(action);
        }
    }

    pub fn make_durable(&mut self, site: SiteId) {
        let i = site.index();
        let checkpoint = self.engines[i].checkpoint(self.now);
        self.durable[i] = self.journals[i].len();
        self.engines[i].handle_durable(self.now, AppendSeq(self.appended[i]), &checkpoint);
        self.drain(site);
    }

    pub fn deliver(&mut self, to: SiteId) {
        for message in std::mem::take(&mut self.wire[to.index()]) {
            self.engines[to.index()].handle_message(self.now, message);
        }
        self.drain(to);
    }

    pub fn settle(&mut self) {
        for _ in 0..6 {
            for site in SiteId::BOTH {
                self.deliver(site);
                self.make_durable(site);
            }
        }
    }

    pub fn pass(&mut self, time: u64) {
        self.now = Now { wall: self.now.wall + time, mono: self.now.mono + time };
        for site in SiteId::BOTH {
            self.engines[site.index()].handle_tick(self.now);
            self.drain(site);
        }
    }

    pub fn write(&mut self, site: SiteId, op: u64, lba: u64, blocks: u64, value: u8) {
        let extent = Extent::new(Lba(lba), blocks).expect("not empty");
        let body = Body::Data(Bytes::from(vec![value; extent.bytes() as usize]));
        let parts = vec![WritePart { extent, body, body_crc: 0 }];
        let write = HostWrite { volume: VOLUME, nexus: host(site, 9), parts, fua: false };
        self.engines[site.index()].handle_write(self.now, OpId(op), write);
        self.drain(site);
    }

    pub fn read(&mut self, site: SiteId, op: u64, lba: u64, blocks: u64) {
        let extent = Extent::new(Lba(lba), blocks).expect("not empty");
        self.engines[site.index()].handle_read(self.now, OpId(op), VOLUME, host(site, 9), extent);
        self.drain(site);
    }

    pub fn outcome(&self, site: SiteId, op: u64) -> Option<Outcome> {
        self.seen[site.index()].iter().find_map(|action| match action {
            Action::Complete { op: found, outcome } if *found == OpId(op) => Some(*outcome),
            _ => None,
        })
    }

    pub fn served(&self, site: SiteId, op: u64) -> Option<Vec<(u64, u64, Option<u8>)>> {
        self.seen[site.index()].iter().find_map(|action| match action {
            Action::Serve { op: found, pieces, .. } if *found == OpId(op) => Some(
                pieces
                    .iter()
                    .map(|piece| {
                        let value = match &piece.source {
                            Source::Memory(bytes) => Some(bytes[0]),
                            _ => None,
                        };
                        (piece.extent.start().0, piece.extent.blocks(), value)
                    })
                    .collect(),
            ),
            _ => None,
        })
    }
}

/// The nexus of a host at a site.
pub fn host(site: SiteId, host: u64) -> Nexus {
    Nexus { host: HostId(host), isid: 1, site }
}
