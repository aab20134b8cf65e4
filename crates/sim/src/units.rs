//! Volumes whose stores are SCSI units: the connections between sites and units, and what befalls units.
//!
//! Each connection has a delay of its own, so answers of two sessions overtake each other. A connection that breaks takes
//! some of what is under way, each way; either end learns of it in its own time, and the unit perhaps after the site's
//! next login. What a unit must keep, and when the two of a volume must agree, is [`crate::kept`]'s.

use crate::fault::Ailment;
use crate::schedule::{Happening, MS};
use crate::unit::{Line, Piece, Said, SimUnit, Way};
use crate::world::World;
use biplex_engine::{Now, SiteId};
use biplex_front::TaskId;
use biplex_site::Event;
use biplex_site::unit::UnitConn;

impl World {
    /// The indices of the volumes whose stores are units.
    pub(crate) fn unit_volumes(&self) -> Vec<usize> {
        (0..self.scenario.volumes.len()).filter(|index| self.scenario.volumes[*index].rules.disk).collect()
    }

    pub(crate) fn unit(&mut self, site: SiteId, volume: usize) -> Option<&mut SimUnit> {
        self.places[site.index()].units.get_mut(&volume)
    }

    /// A unit's clock is the world's.
    fn unit_now(&self) -> Now {
        Now { wall: self.schedule.time(), mono: self.schedule.time() }
    }

    /// The site wants a connection.
    pub(crate) fn connect_unit(&mut self, site: SiteId, conn: UnitConn) {
        let Some(volume) = self.index_of(conn.volume) else { return };
        let (run, usual) = (self.places[site.index()].run, self.scenario.unit_delay);
        let Some(unit) = self.unit(site, volume) else { return };
        let far = unit.random.pick(&[1, 1, 4, 12]);
        let line = Line {
            run,
            number: conn.number,
            delay: (usual.0 * far, usual.1 * far),
            flying: Default::default(),
            last: [0; 2],
            over: [false; 2],
            suffered: false,
        };
        let number = run << 32 | conn.number;
        unit.lines.insert(number, line);
        self.counts.unit_connections += 1;
        self.note(&[30, site as u64, volume as u64, number], &[], || format!("{site} connects {conn:?}"));
        self.post(site, volume, number, Way::ToUnit, Piece::Connected);
    }

    /// The site sends, or closes.
    pub(crate) fn send_unit(&mut self, site: SiteId, conn: UnitConn, piece: Piece) {
        let Some(volume) = self.index_of(conn.volume) else { return };
        let number = self.places[site.index()].run << 32 | conn.number;
        let Some(line) = self.unit(site, volume).and_then(|unit| unit.lines.get_mut(&number)) else { return };
        if piece == Piece::Closed {
            let lost = line.suffered && !line.over[Way::ToSite as usize];
            line.over[Way::ToSite as usize] = true;
            if lost {
                self.unit_lost(site, volume, false);
            }
        }
        self.post(site, volume, number, Way::ToUnit, piece);
    }

    /// Puts something on its way.
    fn post(&mut self, site: SiteId, volume: usize, number: u64, way: Way, piece: Piece) {
        let time = self.schedule.time();
        let Some(unit) = self.unit(site, volume) else { return };
        let Some(line) = unit.lines.get_mut(&number) else { return };
        if line.over[way as usize] {
            return;
        }
        let due = (time + unit.random.within(line.delay) * unit.slowness).max(line.last[way as usize]);
        line.last[way as usize] = due;
        line.flying[way as usize].push_back(piece);
        self.schedule.at(due, Happening::UnitPiece { site, volume, line: number, way });
    }

    /// The next piece of a line arrives.
    pub(crate) fn arrive(&mut self, site: SiteId, volume: usize, number: u64, way: Way) {
        let (time, now) = (self.schedule.time(), self.unit_now());
        let run = self.places[site.index()].run;
        let Some(unit) = self.unit(site, volume) else { return };
        if way == Way::ToUnit && unit.hung_until > time {
            let until = unit.hung_until;
            return self.schedule.at(until, Happening::UnitPiece { site, volume, line: number, way });
        }
        let down = unit.down_until > time;
        let Some(line) = unit.lines.get_mut(&number) else { return };
        let Some(piece) = line.flying[way as usize].pop_front() else { return };
        if line.over[way as usize] {
            return;
        }
        let closed = piece == Piece::Closed;
        line.over[way as usize] |= closed;
        let current = line.run == run;
        let conn = UnitConn { volume: crate::place::volume_id(volume), number: line.number };
        let bytes = if let Piece::Bytes(bytes) = &piece { bytes.clone() } else { Default::default() };
        let kind = match &piece {
            Piece::Connected => 0,
            Piece::Bytes(_) => 1,
            Piece::Closed => 2,
        };
        match way {
            Way::ToUnit if down => {
                self.post(site, volume, number, Way::ToSite, Piece::Closed);
                if let Some(line) = self.unit(site, volume).and_then(|unit| unit.lines.get_mut(&number)) {
                    line.over[Way::ToUnit as usize] = true;
                }
            }
            Way::ToUnit => {
                let connected = piece == Piece::Connected;
                unit.take(now, number, piece);
                if connected {
                    self.post(site, volume, number, Way::ToSite, Piece::Connected);
                }
                self.pump_unit(site, volume);
            }
            Way::ToSite if current => {
                let event = match piece {
                    Piece::Connected => Event::UnitConnected { conn },
                    Piece::Bytes(bytes) => Event::UnitBytes { conn, bytes },
                    Piece::Closed => Event::UnitClosed { conn, why: "the connection is gone".to_owned() },
                };
                self.hand_in(site, event);
            }
            Way::ToSite => {}
        }
        self.note(&[31, site as u64, volume as u64, number, way as u64, kind], &bytes, || {
            format!("{site} vol{volume} line {number:x} {way:?}: {} bytes, kind {kind}", bytes.len())
        });
        self.sweep_lines(site, volume);
    }

    /// Lines that both ends know to be over are gone.
    fn sweep_lines(&mut self, site: SiteId, volume: usize) {
        if let Some(unit) = self.unit(site, volume) {
            unit.lines.retain(|_, line| line.over != [true; 2]);
        }
    }

    /// Carries out all that a unit wants.
    fn pump_unit(&mut self, site: SiteId, volume: usize) {
        let now = self.unit_now();
        let (ills, slow) = (self.places[site.index()].ills, self.places[site.index()].disk_slowness);
        while let Some(said) = self.unit(site, volume).and_then(|unit| unit.poll(now, ills)) {
            match said {
                Said::Send(line, bytes) => self.post(site, volume, line, Way::ToSite, Piece::Bytes(bytes)),
                Said::Close(line) => {
                    self.post(site, volume, line, Way::ToSite, Piece::Closed);
                    if let Some(line) = self.unit(site, volume).and_then(|unit| unit.lines.get_mut(&line)) {
                        line.over[Way::ToUnit as usize] = true;
                    }
                }
                Said::Begun(task) => {
                    let range = self.scenario.volume_delay;
                    let Some(unit) = self.unit(site, volume) else { return };
                    let delay = unit.random.within(range) * slow * unit.slowness;
                    let life = unit.life;
                    self.counts.unit_tasks += 1;
                    self.schedule.after(delay, Happening::UnitTask { site, volume, life, task });
                }
            }
        }
        if ills != Default::default() {
            self.places[site.index()].volume_failed = true;
        }
        self.plan_unit_tick(site, volume);
    }

    fn plan_unit_tick(&mut self, site: SiteId, volume: usize) {
        let Some(unit) = self.unit(site, volume) else { return };
        let Some(due) = unit.next_deadline() else { return };
        if unit.tick.is_none_or(|tick| due < tick) {
            unit.tick = Some(due);
            let life = unit.life;
            self.schedule.at(due, Happening::UnitTick { site, volume, life });
        }
    }

    /// A data command of a unit ends.
    pub(crate) fn end_unit_task(&mut self, site: SiteId, volume: usize, life: u64, task: TaskId) {
        let (now, time) = (self.unit_now(), self.schedule.time());
        let Some(unit) = self.unit(site, volume).filter(|unit| unit.life == life) else { return };
        if unit.hung_until > time {
            let until = unit.hung_until;
            return self.schedule.at(until, Happening::UnitTask { site, volume, life, task });
        }
        unit.end(now, task);
        self.pump_unit(site, volume);
    }

    /// A unit's own time is due.
    pub(crate) fn tick_unit(&mut self, site: SiteId, volume: usize, life: u64) {
        let (now, time) = (self.unit_now(), self.schedule.time());
        let Some(unit) = self.unit(site, volume).filter(|unit| unit.life == life) else { return };
        if unit.tick != Some(time) {
            return;
        }
        unit.tick = None;
        unit.handle_tick(now);
        self.pump_unit(site, volume);
    }

    /// A line breaks: what was under way arrives in part, then each end learns of it.
    fn break_line(&mut self, site: SiteId, volume: usize, number: u64) {
        let time = self.schedule.time();
        let site_runs = self.places[site.index()].site.is_some();
        let run = self.places[site.index()].run;
        let Some(unit) = self.unit(site, volume) else { return };
        let SimUnit { lines, random, .. } = unit;
        let Some(line) = lines.get_mut(&number) else { return };
        line.suffered = true;
        let mut plans = Vec::new();
        for way in [Way::ToUnit, Way::ToSite] {
            let flying = &mut line.flying[way as usize];
            let kept = random.below(flying.len() as u64 + 1) as usize;
            flying.truncate(if random.one_in(2) { kept } else { 0 });
            if line.over[way as usize] {
                continue;
            }
            if way == Way::ToSite && !(site_runs && line.run == run) {
                line.over[way as usize] = true;
                continue;
            }
            let late = if random.one_in(6) { 300 * MS } else { 4 * MS };
            flying.push_back(Piece::Closed);
            let due = (time + random.below(late)).max(line.last[way as usize]);
            // Every piece that was under way planned an arrival of its own, so more than enough are planned.
            line.last[way as usize] = due;
            plans.push((due, way));
        }
        for (due, way) in plans {
            self.schedule.at(due, Happening::UnitPiece { site, volume, line: number, way });
        }
    }

    /// Connections with a unit break: one of them, or all.
    pub(crate) fn break_lines(&mut self, site: SiteId, volume: usize) {
        let Some(unit) = self.unit(site, volume) else { return };
        let all: Vec<u64> = unit.lines.keys().copied().collect();
        if all.is_empty() {
            return;
        }
        let broken = if unit.random.one_in(3) { all } else { vec![unit.random.pick(&all)] };
        self.unit_lost(site, volume, false);
        broken.into_iter().for_each(|line| self.break_line(site, volume, line));
    }

    /// The site lost power: its connections are over, and the unit has yet to learn of it.
    pub(crate) fn site_left_its_units(&mut self, site: SiteId) {
        for volume in self.unit_volumes() {
            let Some(unit) = self.unit(site, volume) else { continue };
            let all: Vec<u64> = unit.lines.keys().copied().collect();
            all.into_iter().for_each(|line| self.break_line(site, volume, line));
            self.sweep_lines(site, volume);
        }
    }

    /// A unit loses power and comes back after a while.
    pub(crate) fn restart_unit(&mut self, site: SiteId, volume: usize, down: u64) {
        self.unit_lost(site, volume, true);
        let time = self.schedule.time();
        let Some(unit) = self.unit(site, volume) else { return };
        unit.restart();
        (unit.down_until, unit.hung_until) = (time + down, 0);
        let all: Vec<u64> = unit.lines.keys().copied().collect();
        self.counts.unit_restarts += 1;
        self.note(&[32, site as u64, volume as u64], &[], || {
            format!("{site}'s unit of vol{volume} restarts")
        });
        for line in all {
            self.break_line(site, volume, line);
            if let Some(line) = self.unit(site, volume).and_then(|unit| unit.lines.get_mut(&line)) {
                line.flying[Way::ToUnit as usize].clear();
                line.over[Way::ToUnit as usize] = true;
            }
        }
        self.sweep_lines(site, volume);
    }

    /// A unit takes nothing in for a while.
    pub(crate) fn hang_unit(&mut self, site: SiteId, volume: usize) {
        let time = self.schedule.time();
        let Some(unit) = self.unit(site, volume) else { return };
        // One in eight is longer than the site's patience with sessions and commands.
        let most = if unit.random.one_in(8) { 18_000 * MS } else { 500 * MS };
        unit.hung_until = time + unit.random.between(5 * MS, most);
        unit.lines.values_mut().for_each(|line| line.suffered = true);
    }

    /// All of a unit takes longer for a while.
    pub(crate) fn slow_unit(&mut self, site: SiteId, volume: usize, lasting: u64) {
        let Some(unit) = self.unit(site, volume) else { return };
        unit.slowness = unit.random.between(3, 30);
        self.schedule.after(lasting, Happening::Mend(Ailment::SlowUnits(site)));
    }

    fn index_of(&self, id: biplex_engine::VolumeId) -> Option<usize> {
        (0..self.scenario.volumes.len()).find(|index| crate::place::volume_id(*index) == id)
    }
}
