//! What operators and checkers see of a site. Changes nothing.

use crate::api::Mode;
use crate::site::Site;
use crate::status::*;
use biplex_engine::engine::Conflict;
use biplex_engine::judge::Discard;
use biplex_engine::reserve::{Effect, Reservations};
use biplex_engine::view::{Row, RowData};
use biplex_engine::{Extent, Lba, Now, Stamp, VolumeId};

impl Site {
    /// The site at a glance.
    pub fn status(&self, now: Now) -> Status {
        let link = self.engine.link_view();
        let cut = self.engine.cut_view();
        let (unacked, unacked_bytes, oldest) = self.engine.unacked();
        let (state, mut why) = self.state(&link);
        if let Some(failing) = &cut.failing {
            why += &format!("; DESTAGE FAILS and the journal fills: {failing}");
        }
        for (volume, unit) in &self.units {
            if let Some(trouble) = unit.trouble() {
                why += &format!("; THE STORE of volume {} is away: {trouble}", self.volume_name(*volume));
            }
        }
        Status {
            site: self.config.site.to_string(),
            target: self.config.port.target.clone(),
            state: state.into(),
            why,
            clock: self.engine.clock_reading(now),
            destaged: cut.destaged.time,
            cuts: cut.cuts,
            digest: DigestStatus { compared: cut.compared, equal: cut.equal, different: cut.different },
            journal: JournalStatus {
                bytes: self.journal.capacity_bytes(),
                used: self.journal.used_bytes(),
                groups: self.journal.groups(),
                entries: self.entries_appended,
                written: self.journal.written_bytes(),
                full: self.engine.full(),
            },
            hold_bytes: self.engine.hold_bytes(),
            hold_limit: self.config.hold_memory,
            volumes: self.config.volumes.iter().map(|volume| self.volume_status(now, volume)).collect(),
            hosts: self
                .hosts
                .values()
                .map(|host| HostStatus {
                    id: biplex_engine::HostId::of_name(&host.name).to_string(),
                    name: host.name.clone(),
                    remote: host.remote.clone(),
                })
                .collect(),
            alarms: self.alarms.iter().cloned().collect(),
            link: LinkStatus {
                up: link.accepted,
                in_step: link.in_step,
                rtt: link.rtt,
                offset: link.offset,
                unacked,
                unacked_bytes,
                unacked_age: oldest.map_or(0, |stamp| now.wall.saturating_sub(stamp.time)),
                sessions: link.sessions,
                refused: link.refused,
            },
        }
    }

    fn state(&self, link: &biplex_engine::view::LinkView) -> (&'static str, String) {
        if self.draining {
            ("draining", "an orderly stop was asked for; no new commands are taken".into())
        } else if link.in_step {
            ("paired", "both sites have all that the other owed them".into())
        } else if link.accepted {
            ("resuming", "the line is back; each site gets what it lacks before sync volumes serve".into())
        } else if let Some(why) = &link.refused {
            ("waiting for the line", format!("not paired: {why}"))
        } else {
            let why = "no line to the peer: sync volumes wait, async volumes go on from the journal";
            ("waiting for the line", why.into())
        }
    }

    fn volume_status(&self, now: Now, volume: &crate::VolumeConfig) -> VolumeStatus {
        let id = volume.unit.volume;
        let (records, held_blocks, counters) = self.engine.volume_view(id).unwrap_or_default();
        let life = self.lives.get(&id).cloned().unwrap_or_default();
        VolumeStatus {
            name: volume.unit.name.clone(),
            id: id.to_string(),
            lun: volume.unit.lun,
            bytes: volume.unit.blocks * biplex_engine::BLOCK_BYTES,
            mode: match volume.rules.mode {
                Mode::Async => "async",
                Mode::Sync => "sync",
                Mode::Flush => "flush",
            }
            .into(),
            serving: self.engine.serving(now, id),
            records,
            held_blocks,
            reads: counters.reads,
            read_bytes: counters.read_bytes,
            writes: counters.writes,
            written_bytes: counters.written_bytes,
            destaged_bytes: life.destaged_bytes,
            conflicts: counters.conflicts,
            reserved: self.reserved_words(volume),
            registrations: self
                .engine
                .reservations(id)
                .map_or(0, |locks| locks.parts().registrations.len() as u64),
            errors: life.errors,
            last_error: life.last_error,
            unit: self.units.get(&id).and_then(|unit| unit.facts()).map(ToString::to_string),
        }
    }

    pub(crate) fn volume_name(&self, id: VolumeId) -> String {
        let found = self.config.volumes.iter().find(|volume| volume.unit.volume == id);
        found.map_or_else(|| id.to_string(), |volume| volume.unit.name.clone())
    }

    /// The hold table, from row `skip`, at most `limit` rows (E1.3).
    pub fn table(&self, skip: usize, limit: usize) -> Vec<TableRow> {
        let rows = self.engine.rows().into_iter().enumerate().skip(skip).take(limit);
        rows.map(|(index, row)| self.table_row(index, row)).collect()
    }

    /// The row of the hold table that has this block's newest data.
    pub(crate) fn row_at(&self, volume: VolumeId, lba: Lba) -> Option<TableRow> {
        let mut rows = self.engine.rows().into_iter().enumerate();
        let block = Extent::new(lba, 1)?;
        // The plain table keeps what is written over: the last row has it.
        let found = rows.rfind(|(_, row)| row.volume == volume && row.extent.overlaps(block));
        found.map(|(index, row)| self.table_row(index, row))
    }

    fn table_row(&self, index: usize, row: Row) -> TableRow {
        TableRow {
            number: index as u64 + 1,
            time: row.stamp.time,
            host: self.host_name(row.volume, row.host),
            start: row.extent.start().0,
            blocks: row.extent.blocks(),
            site: row.stamp.site.to_string(),
            data: match row.data {
                RowData::Memory => "memory".into(),
                RowData::Journal(pos) => format!("journal@{}", pos.0),
                RowData::Fill => "fill".into(),
                RowData::Unmap => "unmap".into(),
            },
            volume: self.volume_name(row.volume),
        }
    }

    /// Block state map of the volume with this name (E1.6, E3.2), all of it; `None` if there is no such volume.
    pub fn map(&self, volume: &str) -> Option<Vec<MapRun>> {
        self.map_from(volume, 0, usize::MAX)
    }

    /// The same from block `from` on, at most `limit` runs.
    pub fn map_from(&self, volume: &str, from: u64, limit: usize) -> Option<Vec<MapRun>> {
        let unit = &self.volume_named(volume)?.unit;
        let held = self.engine.map(unit.volume)?;
        let all = Extent::new(Lba(0), unit.blocks);
        let reserved = match (self.engine.reservations(unit.volume), all) {
            (_, Some(all)) if self.engine.kept_by_disk(unit.volume) => {
                self.reserved_at_unit(unit.volume, all)
            }
            (Some(locks), Some(all)) => locks.map(all),
            (_, _) => Vec::new(),
        };
        Some(crate::locks::state_runs(unit.blocks, &held, &reserved, from, limit))
    }

    /// A volume's reservations after all that is executed here.
    pub fn reservations(&self, volume: VolumeId) -> Option<&Reservations> {
        self.engine.reservations(volume)
    }

    /// Whether nothing of this volume waits to be decided in order.
    pub fn decided(&self, volume: VolumeId) -> bool {
        self.engine.decided(volume)
    }

    /// Whether no request on this volume is under way, as far as this site knows.
    pub fn settled(&self, volume: VolumeId) -> bool {
        self.engine.settled(volume)
    }

    /// Writes undone in this run (E4.1), numbered beyond `after`; the newest thousand are remembered.
    pub fn undone(&self, after: u64) -> Vec<Discard> {
        self.engine.discards(after)
    }

    /// What executed requests brought for the hosts of this site since this was last asked, oldest first; the newest few
    /// thousand are remembered. For checkers.
    pub fn take_effects(&mut self) -> Vec<(VolumeId, Effect)> {
        self.effects.drain(..).collect()
    }

    /// Conflicts between the two sites' writes numbered beyond `after`; the newest few hundred are remembered.
    pub fn conflicts(&self, after: u64) -> Vec<ConflictRow> {
        let shown = |stamp: Stamp| (stamp.time, stamp.site.to_string());
        let row = |conflict: Conflict| ConflictRow {
            number: conflict.number,
            volume: self.volume_name(conflict.volume),
            start: conflict.extent.start().0,
            blocks: conflict.extent.blocks(),
            winner: shown(conflict.winner),
            loser: shown(conflict.loser),
        };
        self.engine.conflicts(after).into_iter().map(row).collect()
    }

    /// Whether this site never met its peer: then it must be told what its stores hold before it is linked
    /// ([`Site::set_stores_fingerprint`]).
    pub fn first_meeting(&self) -> bool {
        self.engine.first_meeting()
    }

    /// Checks the invariants that can be judged from within; the simulator calls it after every step.
    pub fn check(&self) -> Result<(), String> {
        self.engine.check()?;
        self.engine.check_bounds()?;
        if self.journal.used_bytes() > self.journal.file_bytes() {
            return Err(format!(
                "the journal uses {} of {} bytes",
                self.journal.used_bytes(),
                self.journal.file_bytes()
            ));
        }
        Ok(())
    }
}
