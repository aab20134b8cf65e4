//! The checks. Each names the invariant of `docs/design.md` that it judges.
//!
//! | check | invariant | when |
//! |---|---|---|
//! | `within` | whatever the site can judge itself | after every look |
//! | `map` | 9: the map says what the table says | every few looks |
//! | `bounds` | 8: held bytes, journal | after every look |
//! | `cut` | 2: equal durable images at equal cuts | after every destage |
//! | `digest` | 2: the sites' own comparison finds nothing | after every look |
//! | `linearizable` | 3, 4, 7 for sync volumes, across crashes; what PREEMPT AND ABORT fenced off stays away (6) | at the end, per block |
//! | `order`, `contents` | 1, 3, 7 for every mode | at every read |
//! | `swaps` | 4: compare-and-writes of volumes that are not sync are atomic among themselves | at the end |
//! | `exclusion` | 6: nothing succeeds that a reserve which surely stands keeps out ([`crate::exclusion`]) | at every answer |
//! | `tables` | 6: equal reservation tables whenever no request is under way | after every look |
//! | `units` | 6: where units keep the reservations, both hold the same for the same nexuses ([`crate::kept`]) | after every look |
//! | `orphan` | 6: where no request is under way, SCSI-2 reservations are of living sessions | after every look |
//! | `attention` | 6: who must be told or aborted is, once, before the answer ([`crate::demands`]) | at answers |
//! | `discards` | 6: both sites undo the same writes | at the end of polite runs |
//! | `power loss` | 6: what APTPL keeps, and nothing else ([`crate::ending`]) | at the end of polite runs |
//! | `hand-over` | 6: FIG. 22/23 ([`crate::handover`]) | in that scenario |
//! | `rest` | liveness: in step, drained, destaged | at the end of polite runs |
//! | `stores`, `last words` | 1, 2: equal bytes, and reads show them | at the end of polite runs |

use crate::history::{Deed, Kind, Verdict, accesses, judge};
use crate::pattern::{self, BLOCK, Value};
use crate::schedule::{Happening, MS};
use crate::world::World;
use biplex_engine::SiteId;
use biplex_site::{Mode, Site, Status};
use std::collections::BTreeMap;

/// States that the search for an order may visit per block.
const SEARCH_BUDGET: usize = 50_000;

/// The map is compared with the table at every so many looks.
const MAP_EVERY: u64 = 8;

/// What each site's durable stores held when it said that it stands at a cut.
#[derive(Clone, Debug, Default)]
pub struct Cuts {
    images: BTreeMap<u64, [Option<Vec<Vec<Value>>>; 2]>,
}

impl World {
    /// Everything that can be judged of a site after it was looked at.
    pub(crate) fn judge_site(&mut self, id: SiteId) {
        let time = self.schedule.time();
        let place = &self.places[id.index()];
        let Some(site) = place.site.as_ref() else { return };
        let status = site.status(place.clock.read(time));
        let within = site.check();
        let map = if place.looks.is_multiple_of(MAP_EVERY) { judge_map(site, &status) } else { Ok(()) };
        if let Err(why) = within {
            self.violation("within", format!("site {id}: {why}"));
        }
        if let Err(why) = map {
            self.violation("map", format!("site {id}: {why}"));
        }
        let place = &mut self.places[id.index()];
        if let Some(site) = place.site.as_ref() {
            for discard in site.undone(place.discards_seen) {
                place.discards_seen = discard.number;
                place.discarded.insert((discard.volume, discard.stamp));
            }
        }
        self.judge_bounds(id, &status);
        self.judge_cut(id, &status);
        for volume in 0..self.scenario.volumes.len() {
            self.judge_orphans(volume);
        }
    }

    fn judge_bounds(&mut self, id: SiteId, status: &Status) {
        // What is not durable yet has no other place than memory; `within` knows how much that is. In any case it is
        // no more than the journals may take.
        if status.hold_bytes > status.hold_limit + status.journal.bytes {
            let what = format!("site {id} holds {} bytes, limit {}", status.hold_bytes, status.hold_limit);
            self.violation("bounds", what);
        }
        // The limit for entries is kept at admission; checkpoints may use the reserve behind it, never more than is there.
        if status.journal.used > self.scenario.journal_bytes {
            let what = format!("site {id}'s journal uses {} bytes of its disk", status.journal.used);
            self.violation("bounds", what);
        }
        let place = &mut self.places[id.index()];
        if status.journal.full != place.journal_was_full {
            place.journal_was_full = status.journal.full;
            self.counts.journal_full += u64::from(status.journal.full);
        }
        let conflicts: u64 = status.volumes.iter().map(|volume| volume.conflicts).sum();
        self.counts.conflicts += conflicts.saturating_sub(place.conflicts);
        place.conflicts = conflicts;
        self.counts.digests_equal += status.digest.equal.saturating_sub(place.digests_equal);
        place.digests_equal = status.digest.equal;
        if status.digest.different > 0 {
            let alarm = status.alarms.last().map_or("", String::as_str);
            let what = format!("site {id} finds {} digest rows different: {alarm}", status.digest.different);
            self.violation("digest", what);
        }
    }

    fn judge_cut(&mut self, id: SiteId, status: &Status) {
        let place = &mut self.places[id.index()];
        if status.destaged == place.destaged {
            return;
        }
        if status.destaged < place.destaged {
            let what = format!("site {id} stands at cut {} after {}", status.destaged, place.destaged);
            return self.violation("cut", what);
        }
        place.destaged = status.destaged;
        self.counts.destages += 1;
        let cut = status.destaged;
        self.note(&[26, id as u64, cut], &[], || format!("{id} stands at cut {cut}"));
        let image = self.durable_image(id);
        let images = self.cuts.images.entry(status.destaged).or_default();
        images[id.index()] = Some(image);
        let [Some(a), Some(b)] = images else { return };
        let different = differences(a, b);
        self.counts.cuts_compared += 1;
        if let Some(what) = different {
            self.violation("cut", format!("stores differ at cut {}: {what}", status.destaged));
        }
    }

    fn durable_image(&self, id: SiteId) -> Vec<Vec<Value>> {
        let place = &self.places[id.index()];
        (0..self.scenario.volumes.len()).map(|volume| image(place.store(volume).durable())).collect()
    }

    /// Has the pair come to rest? If so the last checks follow; if it takes too long, that is a violation.
    pub(crate) fn settle(&mut self) {
        let late = self.schedule.time() > self.scenario.busy + self.scenario.settle;
        if let Err(why) = self.at_rest() {
            if late {
                return self.violation("rest", why);
            }
            return self.schedule.after(15 * MS, Happening::Settle);
        }
        let again = |world: &mut World| world.schedule.after(5 * MS, Happening::Settle);
        match self.last_words {
            // What is left of reservations goes, then everything is read.
            0 => {
                self.judge_discards();
                if self.tidy() {
                    self.judge_stores();
                    self.last_words = 1;
                    self.read_everything();
                }
                again(self);
            }
            1 => {
                if self.judge_last_words() {
                    self.last_words = 2;
                    self.bequeath();
                }
                again(self);
            }
            // What stands must also stand after both lose power.
            2 => {
                if !self.bequeathed() {
                    self.bequeath();
                    return again(self);
                }
                self.last_words = 3;
                self.scenario.settle += self.scenario.settle;
                self.crash(SiteId::A);
                self.crash(SiteId::B);
                for volume in self.unit_volumes() {
                    SiteId::BOTH.into_iter().for_each(|site| self.restart_unit(site, volume, 20 * MS));
                }
                self.schedule.after(100 * MS, Happening::Settle);
            }
            3 => {
                self.judge_stores();
                self.judge_legacy();
                self.last_words = 4;
                self.read_everything();
                again(self);
            }
            _ => {
                if self.judge_last_words() {
                    self.end();
                } else {
                    again(self);
                }
            }
        }
    }

    fn at_rest(&self) -> Result<(), String> {
        for place in &self.places {
            let id = place.id;
            let Some(site) = place.site.as_ref() else { return Err(format!("site {id} does not run")) };
            let status = site.status(place.clock.read(self.schedule.time()));
            let link = &status.link;
            let want = [
                (status.state == "paired", format!("is \"{}\": {}", status.state, status.why)),
                (link.up && link.in_step, format!("is not in step: {link:?}")),
                (link.unacked == 0, format!("has {} entries unacknowledged", link.unacked)),
            ];
            if let Some((_, why)) = want.into_iter().find(|(well, _)| !well) {
                return Err(format!("site {id} {why}"));
            }
            if let Some(volume) = status.volumes.iter().find(|volume| volume.records > 0 || !volume.serving) {
                let (name, records, serving) = (&volume.name, volume.records, volume.serving);
                let unit = place
                    .units
                    .values()
                    .map(|unit| unit.table.parts())
                    .find(|state| !state.extents.is_empty());
                let reserved =
                    unit.map_or(String::new(), |state| format!(", extents at its unit {:?}", state.extents));
                return Err(format!(
                    "site {id}'s {name} holds {records} records, serving {serving}{reserved}"
                ));
            }
        }
        if let Some(volume) = (0..self.scenario.volumes.len()).find(|volume| !self.drained(*volume)) {
            return Err(format!("requests on vol{volume} are under way"));
        }
        // A command that its host no longer waits for may still take effect, until the site has answered it.
        if let Some((place, task)) =
            self.places.iter().find_map(|p| p.forsaken.keys().next().map(|task| (p, task)))
        {
            return Err(format!("site {} still owes an answer to task {}", place.id, task.0));
        }
        match self.hosts.iter().find_map(|host| host.waiting.keys().next().map(|task| (host.site, task.0))) {
            Some((site, task)) => Err(format!("task {task} at site {site} waits for its answer")),
            None => Ok(()),
        }
    }

    fn judge_stores(&mut self) {
        let [a, b] = SiteId::BOTH.map(|id| self.durable_image(id));
        if let Some(what) = differences(&a, &b) {
            return self.violation("stores", format!("the stores differ at rest: {what}"));
        }
        for place in &self.places {
            for volume in 0..self.scenario.volumes.len() {
                let store = place.store(volume);
                if store.durable() != store.current() {
                    let what = format!("site {}'s vol{volume} shows bytes that are not durable", place.id);
                    return self.violation("stores", what);
                }
            }
        }
    }

    /// Whether the reads of everything succeeded; if not they are asked again. They must show the stores' bytes.
    fn judge_last_words(&mut self) -> bool {
        let reads_per_site: usize =
            self.scenario.volumes.iter().map(|v| v.blocks.div_ceil(32) as usize).sum();
        let last = self.history.len() - 2 * reads_per_site;
        if self.history[last..].iter().any(|op| op.done.is_none()) {
            self.read_everything();
            return false;
        }
        let images = SiteId::BOTH.map(|id| self.durable_image(id));
        let mut wrong = None;
        for op in &self.history[last..] {
            if let crate::history::Deed::Read { extent, values } = &op.deed {
                let stored =
                    &images[op.site.index()][op.volume][extent.start().0 as usize..extent.end().0 as usize];
                if stored != values.as_slice() {
                    wrong = Some(format!(
                        "site {} vol{} {extent}: reads do not show the store",
                        op.site, op.volume
                    ));
                }
            }
        }
        if let Some(what) = wrong {
            self.violation("last words", what);
        }
        true
    }

    /// Judges the history of every block of every sync volume.
    pub(crate) fn judge_history(&mut self) {
        for volume in 0..self.scenario.volumes.len() {
            if self.scenario.volumes[volume].rules.mode != Mode::Sync {
                self.judge_swaps(volume);
                continue;
            }
            for block in 0..self.scenario.volumes[volume].blocks {
                let list = accesses(&self.history, volume, block);
                match judge(&list, SEARCH_BUDGET) {
                    Verdict::Linearizable => self.counts.blocks_judged += 1,
                    Verdict::Undecided => self.counts.blocks_undecided += 1,
                    Verdict::Not(access) => {
                        let near = list.iter().filter(|a| a.asked <= access.done && a.done >= access.asked);
                        let near: Vec<String> = near.take(8).map(|a| tell(a, &self.history)).collect();
                        let what = format!(
                            "vol{volume} block {block}: no order explains {}; beside it: {}",
                            tell(&access, &self.history),
                            near.join(", ")
                        );
                        for access in &list {
                            let told = tell(access, &self.history);
                            self.note(&[25], &[], || format!("vol{volume} block {block}: {told}"));
                        }
                        return self.violation("linearizable", what);
                    }
                }
            }
        }
    }
}

impl World {
    /// Every value is written once, so at most one compare-and-write of all can have found it on a block.
    fn judge_swaps(&mut self, volume: usize) {
        let mut takers: BTreeMap<(u64, Value), usize> = BTreeMap::new();
        for (index, op) in self.history.iter().enumerate().filter(|(_, op)| op.volume == volume) {
            let Deed::Swap { extent, compare, ended: Some(None), .. } = &op.deed else { continue };
            for (block, value) in (extent.start().0..).zip(compare).filter(|(_, value)| **value != 0) {
                if let Some(other) = takers.insert((block, *value), index) {
                    let what = format!(
                        "vol{volume} block {block}: operations {other} and {index} both found {value}"
                    );
                    return self.violation("swaps", what);
                }
            }
        }
    }
}

fn tell(access: &crate::history::Access, history: &[crate::history::Operation]) -> String {
    let site = history.get(access.operation).map_or("?".to_owned(), |op| op.site.to_string());
    let done = if access.done == u64::MAX { "unknown".to_owned() } else { access.done.to_string() };
    let verb = match access.kind {
        Kind::Write => "write".to_owned(),
        Kind::Read => "read".to_owned(),
        Kind::ReadOther => "other than".to_owned(),
        Kind::Swap { expected } => format!("swap {expected} for"),
    };
    format!("{verb} {} at {site} ({}..{done})", access.value, access.asked)
}

/// The value of each block; a block that no write made counts as the largest value.
fn image(bytes: &[u8]) -> Vec<Value> {
    bytes.chunks(BLOCK).map(|block| pattern::value(block).unwrap_or(Value::MAX)).collect()
}

fn differences(a: &[Vec<Value>], b: &[Vec<Value>]) -> Option<String> {
    for (volume, (a, b)) in a.iter().zip(b).enumerate() {
        let different: Vec<usize> = (0..a.len()).filter(|&block| a[block] != b[block]).collect();
        if let Some(&first) = different.first() {
            let (x, y) = (a[first], b[first]);
            return Some(format!("vol{volume}: {} blocks, first {first}: a {x}, b {y}", different.len()));
        }
    }
    None
}

/// The rows are in order of stamp and within the volume, and the map is 1 exactly where a row covers.
fn judge_map(site: &Site, status: &Status) -> Result<(), String> {
    let rows = site.table(0, usize::MAX);
    for (index, pair) in rows.windows(2).enumerate() {
        if pair[0].time > pair[1].time || pair[1].number != pair[0].number + 1 {
            return Err(format!("rows {} and {} of the table are out of order", index, index + 1));
        }
    }
    for volume in &status.volumes {
        let blocks = (volume.bytes / BLOCK as u64) as usize;
        let mut held = vec![0u8; blocks];
        let mut count = 0;
        for row in rows.iter().filter(|row| row.volume == volume.name) {
            count += 1;
            let range = row.start as usize..(row.start + row.blocks) as usize;
            let Some(part) = held.get_mut(range) else {
                return Err(format!("a row passes the volume: {row:?}"));
            };
            part.fill(1);
        }
        if count != volume.records {
            return Err(format!("{}: {count} rows, but {} records counted", volume.name, volume.records));
        }
        let Some(map) = site.map(&volume.name) else { return Err(format!("{} has no map", volume.name)) };
        let mut at = 0;
        for run in &map {
            if run.start != at {
                return Err(format!("{}: the map has a gap or overlap at {at}", volume.name));
            }
            at += run.blocks;
            let Some(part) = held.get(run.start as usize..at as usize) else {
                return Err(format!("{}: the map passes the volume", volume.name));
            };
            if let Some(offset) = part.iter().position(|&state| state != run.state & 1) {
                let block = run.start as usize + offset;
                return Err(format!(
                    "{}: block {block} is {} on the map, not in the table",
                    volume.name, run.state
                ));
            }
        }
        if at != blocks as u64 {
            return Err(format!("{}: the map ends at {at} of {blocks}", volume.name));
        }
    }
    Ok(())
}
