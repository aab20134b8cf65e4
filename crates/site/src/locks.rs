//! What operators see of reservations: the reservation table of E3.3, persistent registrations, the four states of the
//! block state map (E3.2), who holds a block, and the writes that a reservation undid (E4.1). Changes nothing.
//!
//! Both sites execute the same requests in the same order, so what is said here of reservations is said in the same
//! words, order and numbers at both. Of volumes whose units keep them, what those said when they were last looked at
//! (`onlook.rs`).

use crate::VolumeConfig;
use crate::site::Site;
use crate::status::*;
use biplex_engine::judge::Discard;
use biplex_engine::reserve::{ReservationKind, ReservationRow, Reservations};
use biplex_engine::{Extent, HostId, Lba, Nexus, Stamp, VolumeId};
use biplex_front::scsi::told::{Registered, Told};
use std::collections::BTreeSet;

/// Rows of reservations and registrations in one answer. Far more than one volume can have.
const LOCKS_MAX: usize = 4096;

impl Site {
    /// Reservations of the volume with this name, or of all volumes; an error says that there is no such volume. To be
    /// asked after a [`Site::look`].
    pub fn locks(&self, volume: Option<&str>) -> Result<Locks, String> {
        let mut volumes: Vec<&VolumeConfig> = match volume {
            Some(name) => vec![self.volume_named(name).ok_or_else(|| no_volume(name))?],
            None => self.config.volumes.iter().collect(),
        };
        volumes.sort_by_key(|volume| volume.unit.lun);
        let mut locks = Locks { volumes: Vec::new(), left_out: Vec::new() };
        let mut count = 0;
        for volume in volumes {
            let found = self.volume_locks(volume);
            count += found.rows.len() + found.registrations.len();
            if count > LOCKS_MAX && !locks.volumes.is_empty() {
                locks.left_out.push(found.volume);
            } else {
                locks.volumes.push(found);
            }
        }
        Ok(locks)
    }

    fn volume_locks(&self, volume: &VolumeConfig) -> VolumeLocks {
        let id = volume.unit.volume;
        let free = Reservations::default();
        let locks = self.engine.reservations(id).unwrap_or(&free);
        let persistent = locks.persistent();
        let passed = persistent.registrations.iter().map(|one| {
            let Nexus { site, isid, .. } = one.registrant.nexus;
            RegistrationRow {
                host: one.registrant.name.to_string(),
                site: site.to_string(),
                isid: show_isid(isid),
                key: show_key(one.key),
                holder: one.holder,
                all_ports: one.all_ports,
            }
        });
        let told = self.told(id);
        VolumeLocks {
            volume: volume.unit.name.clone(),
            rows: self.lock_rows(volume, self.reservation_rows(id).into_iter().enumerate()),
            generation: told.map_or(persistent.generation, |told| told.generation),
            aptpl: persistent.aptpl,
            reservation: match told {
                Some(told) => told.reservation,
                None => persistent.reservation.map(|(kind, _)| kind),
            }
            .map(|kind| ReservationKind::Persistent(kind).to_string()),
            registrations: match told {
                Some(told) => told.registrations.iter().map(|one| self.registration_told(id, one)).collect(),
                None => passed.collect(),
            },
            write_protected: locks.modes().write_protected,
            unit: self.unit_sight(id),
            waiting: !self.engine.decided(id),
        }
    }

    /// What the unit that keeps a volume's reservations said of persistent ones.
    fn told(&self, id: VolumeId) -> Option<&Told> {
        self.sight(id).and_then(|sight| sight.told.as_ref())
    }

    /// By the pair's name for it, if it is one of the pair's; else by its own.
    fn registration_told(&self, id: VolumeId, one: &Registered) -> RegistrationRow {
        let (host, site, isid) = match (self.registered_as(id, one), &one.port) {
            (Some(nexus), _) => {
                (self.host_name(id, nexus.host), nexus.site.to_string(), show_isid(nexus.isid))
            }
            (None, Some((name, isid))) => {
                (name.clone(), String::new(), isid.map_or(String::new(), show_isid))
            }
            (None, None) => ("?".to_owned(), String::new(), String::new()),
        };
        let Registered { holder, all_ports, .. } = *one;
        RegistrationRow { host, site, isid, key: show_key(one.key), holder, all_ports }
    }

    fn unit_sight(&self, id: VolumeId) -> Option<UnitSight> {
        self.engine.kept_by_disk(id).then(|| {
            let seen = self.sight(id);
            UnitSight {
                asked: seen.map_or(0, |sight| sight.at),
                trouble: match seen {
                    Some(sight) => sight.trouble.clone(),
                    None => Some("it was not asked".to_owned()),
                },
                by_stranger: seen.and_then(|sight| sight.whole.as_ref()).is_some_and(BTreeSet::is_empty),
            }
        })
    }

    /// E3.3's table: the pair's own, or what was seen of the unit that keeps it.
    fn reservation_rows(&self, id: VolumeId) -> Vec<ReservationRow> {
        match self.engine.kept_by_disk(id) {
            true => self.rows_seen(id),
            false => self.engine.reservations(id).map(Reservations::rows).unwrap_or_default(),
        }
    }

    fn lock_rows(
        &self,
        volume: &VolumeConfig,
        rows: impl Iterator<Item = (usize, ReservationRow)>,
    ) -> Vec<LockRow> {
        let id = volume.unit.volume;
        rows.map(|(index, row)| LockRow {
            number: index as u64 + 1,
            time: row.since.time,
            host: self.host_name(id, row.owner.host),
            start: row.extent.map_or(0, |extent| extent.start().0),
            blocks: row.extent.map_or(volume.unit.blocks, Extent::blocks),
            volume: volume.unit.name.clone(),
            kind: row.kind.to_string(),
            site: row.owner.site.to_string(),
            isid: show_isid(row.owner.isid),
            third_party: row.third_party.map(|host| self.host_name(id, host)),
            id: row.id,
        })
        .collect()
    }

    /// Who holds a block of the volume with this name (or of the only one), since when, through which site. An error
    /// says what was asked wrongly.
    pub fn explain(&self, volume: Option<&str>, lba: u64) -> Result<Explanation, String> {
        let volume = match (volume, self.config.volumes.as_slice()) {
            (Some(name), _) => self.volume_named(name).ok_or_else(|| no_volume(name))?,
            (None, [only]) => only,
            (None, _) => return Err("there are several volumes: name the one whose block it is".into()),
        };
        let unit = &volume.unit;
        if lba >= unit.blocks {
            return Err(format!("volume \"{}\" has blocks 0 to {}, not {lba}", unit.name, unit.blocks - 1));
        }
        let free = Reservations::default();
        let locks = self.engine.reservations(unit.volume).unwrap_or(&free);
        // Numbered as in the whole table.
        let covers = |row: &ReservationRow| {
            row.extent.is_none_or(|extent| (extent.start().0..extent.end().0).contains(&lba))
        };
        let rows = self.reservation_rows(unit.volume).into_iter().enumerate().filter(|(_, row)| covers(row));
        let rows = self.lock_rows(volume, rows);
        let data = self.row_at(unit.volume, Lba(lba));
        let sight = self.unit_sight(unit.volume);
        let reserved = !rows.is_empty() || sight.as_ref().is_some_and(|sight| sight.by_stranger);
        Ok(Explanation {
            volume: unit.name.clone(),
            lba,
            state: u8::from(reserved) << 1 | u8::from(data.is_some()),
            rows,
            registrations: match self.told(unit.volume) {
                Some(told) => told.registrations.len() as u64,
                None => locks.parts().registrations.len() as u64,
            },
            unit: sight,
            data,
        })
    }

    /// Writes undone in this run, those numbered beyond `after`; the newest thousand are remembered.
    pub fn discards(&self, after: u64) -> Vec<DiscardRow> {
        let destaged = self.engine.cut_view().destaged;
        let shown = |stamp: Stamp| (stamp.time, stamp.site.to_string());
        let row = |discard: Discard| DiscardRow {
            number: discard.number,
            volume: self.volume_name(discard.volume),
            host: self.host_name(discard.volume, discard.nexus.host),
            start: discard.extent.start().0,
            blocks: discard.extent.blocks(),
            written: shown(discard.stamp),
            reserved: discard.since.map(shown),
            stamp: discard.stamp.to_string(),
            journal: discard.pos.map(|pos| pos.0),
            kept: discard.stamp > destaged,
        };
        self.engine.discards(after).into_iter().map(row).collect()
    }

    /// Reservations of a volume in a word or two, for status.
    pub(crate) fn reserved_words(&self, volume: &VolumeConfig) -> String {
        let id = volume.unit.volume;
        let rows = self.engine.reservations(id).map(Reservations::rows).unwrap_or_default();
        if self.engine.kept_by_disk(id) {
            return "as its unit says".into();
        }
        let Some(row) = rows.first() else { return "free".into() };
        let by = format!("by {} at {}", self.host_name(id, row.owner.host), row.owner.site);
        match row.kind {
            ReservationKind::Unit => format!("reserved {by}"),
            ReservationKind::Extent(_) => {
                let others =
                    if rows.iter().all(|other| other.owner == row.owner) { "" } else { " and others" };
                format!("{} extents reserved {by}{others}", rows.len())
            }
            ReservationKind::Persistent(kind) if kind.all_hold() => row.kind.to_string(),
            ReservationKind::Persistent(_) => format!("{} {by}", row.kind),
        }
    }

    /// What a host is called: by its registration, which travels with the volume's reservations, by what it or the peer
    /// told of it, or else its number.
    pub(crate) fn host_name(&self, volume: VolumeId, host: HostId) -> String {
        let registered = || {
            let registrations = &self.engine.reservations(volume)?.parts().registrations;
            let of = registrations.iter().find(|one| one.registrant.nexus.host == host)?;
            Some(of.registrant.name.to_string())
        };
        self.host_names.get(&host).cloned().or_else(registered).unwrap_or_else(|| host.to_string())
    }

    pub(crate) fn volume_named(&self, name: &str) -> Option<&VolumeConfig> {
        self.config.volumes.iter().find(|found| found.unit.name == name)
    }
}

/// That there is no such volume.
fn no_volume(name: &str) -> String {
    format!("there is no volume \"{name}\"")
}

fn show_key(key: u64) -> String {
    format!("{key:016x}")
}

/// 48 bits.
fn show_isid(isid: u64) -> String {
    format!("{isid:012x}")
}

/// The block state map as runs of equal states, from block `from` on, at most `limit` of them. `held` and `reserved`
/// ascend and do not overlap among themselves.
pub(crate) fn state_runs(
    blocks: u64,
    held: &[Extent],
    reserved: &[Extent],
    from: u64,
    limit: usize,
) -> Vec<MapRun> {
    let mut runs: Vec<MapRun> = Vec::new();
    let (mut held, mut reserved) = (Cursor(held), Cursor(reserved));
    let mut at = from;
    while at < blocks {
        let ((held, held_to), (reserved, reserved_to)) = (held.at(at), reserved.at(at));
        let state = u8::from(reserved) << 1 | u8::from(held);
        let end = held_to.min(reserved_to).min(blocks);
        if let Some(run) = runs.last_mut().filter(|run| run.state == state) {
            run.blocks += end - at;
        } else if runs.len() < limit {
            runs.push(MapRun { start: at, blocks: end - at, state });
        } else {
            break;
        }
        at = end;
    }
    runs
}

/// Walks over ascending extents.
struct Cursor<'a>(&'a [Extent]);

impl Cursor<'_> {
    /// Whether the block is in one of the extents, and up to which block that stays so. Asked for ascending blocks.
    fn at(&mut self, block: u64) -> (bool, u64) {
        while let Some((first, rest)) = self.0.split_first() {
            if first.end().0 > block {
                let inside = first.start().0 <= block;
                return (inside, if inside { first.end().0 } else { first.start().0 });
            }
            self.0 = rest;
        }
        (false, u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn extents(pairs: &[(u64, u64)]) -> Vec<Extent> {
        pairs.iter().map(|(start, end)| Extent::between(Lba(*start), Lba(*end)).expect("not empty")).collect()
    }

    fn shown(runs: &[MapRun]) -> Vec<(u64, u64, u8)> {
        runs.iter().map(|run| (run.start, run.blocks, run.state)).collect()
    }

    #[test]
    fn the_map_has_four_states() {
        let (held, reserved) = (extents(&[(10, 20), (30, 40)]), extents(&[(15, 35)]));
        let runs = state_runs(100, &held, &reserved, 0, usize::MAX);
        let all = [(0, 10, 0), (10, 5, 1), (15, 5, 3), (20, 10, 2), (30, 5, 3), (35, 5, 1), (40, 60, 0)];
        assert_eq!(shown(&runs), all);
        assert_eq!(shown(&state_runs(100, &held, &reserved, 0, 2)), all[..2]);
        assert_eq!(
            shown(&state_runs(100, &held, &reserved, 20, 2)),
            all[3..5],
            "where the page before ended"
        );
        assert_eq!(shown(&state_runs(100, &held, &reserved, 17, 1)), [(17, 3, 3)]);
        assert!(state_runs(100, &held, &reserved, 100, 9).is_empty());
    }

    /// Ascending extents that do not overlap, from a bit for each block; those that touch may stand apart.
    fn of_bits(bits: &[bool], apart: bool) -> Vec<Extent> {
        let mut pairs: Vec<(u64, u64)> = Vec::new();
        for at in (0u64..).zip(bits).filter(|(_, bit)| **bit).map(|(at, _)| at) {
            match pairs.last_mut() {
                Some((_, end)) if *end == at && !apart => *end += 1,
                Some(_) | None => pairs.push((at, at + 1)),
            }
        }
        extents(&pairs)
    }

    proptest! {
        #[test]
        fn every_block_has_the_state_that_its_two_bits_say(
            bits in proptest::collection::vec((any::<bool>(), any::<bool>()), 1..40),
            apart in any::<bool>(),
            page in 1usize..5,
        ) {
            let (held, reserved): (Vec<bool>, Vec<bool>) = bits.iter().copied().unzip();
            let lists = (of_bits(&held, apart), of_bits(&reserved, false));
            let blocks = bits.len() as u64;
            let mut states = Vec::new();
            let mut pages = Vec::new();
            while (states.len() as u64) < blocks {
                let runs = state_runs(blocks, &lists.0, &lists.1, states.len() as u64, page);
                prop_assert!(!runs.is_empty() && runs.len() <= page);
                for run in &runs {
                    prop_assert_eq!(run.start, states.len() as u64);
                    states.extend((0..run.blocks).map(|_| run.state));
                }
                pages.extend(runs);
            }
            let expected: Vec<u8> =
                bits.iter().map(|(held, reserved)| u8::from(*reserved) << 1 | u8::from(*held)).collect();
            prop_assert_eq!(states, expected);
            let all = state_runs(blocks, &lists.0, &lists.1, 0, usize::MAX);
            prop_assert!(all.windows(2).all(|two| two[0].state != two[1].state));
            prop_assert_eq!(pages, all, "pages joined are the whole");
        }
    }
}
