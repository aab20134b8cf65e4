//! What an operator sees of reservations that a unit keeps (E5.1): the unit is looked at when somebody asks, from a nexus of
//! the site's own that has nothing there. Decides nothing, and what was seen admits nobody.
//!
//! ```text
//! Site::look ─▶ TEST UNIT READY ─┬▶ GOOD ─▶ READ FULL STATUS (READ KEYS, READ RESERVATION) ─────────▶ Sight
//!                                └▶ RESERVATION CONFLICT ─▶ TEST UNIT READY in each host's nexus ───▶ Sight
//! ```
//! SCSI-2's RESERVE has no command that tells who reserved; but TEST UNIT READY is let through for the holder alone
//! (SPC-2 5.5.1), and persistent reservations let it through for all (SPC-4 table 69, here as on most units). Since when, and which
//! extents, no unit tells: that is remembered from the requests which went through this site, to show.

use crate::passing::PERSISTENT_BYTES;
use crate::site::Site;
use crate::unit::answer::{CONFLICT, GOOD};
use crate::unit::book::{self, Slot};
use crate::unit::{Answer, Port, Unit, onlooker};
use biplex_engine::reserve::{Request, ReservationKind, ReservationRow};
use biplex_engine::{Extent, Nexus, Now, Stamp, VolumeId};
use biplex_front::iscsi::initiator::{
    READ_FULL_STATUS, READ_KEYS, READ_RESERVATION, persistent_reserve_in, test_unit_ready,
};
use biplex_front::scsi::told::{self, Registered, Told};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A unit that has not told all by then is shown as it did so far, nanoseconds.
const PATIENCE: u64 = 5_000_000_000;
/// How often one command is sent again because the unit had news.
const ATTENTIONS_MAX: u32 = 4;

/// What a unit is asked.
#[derive(Clone, Debug)]
pub(crate) enum Glance {
    /// Whether all of it is reserved by SCSI-2.
    Free,
    /// Whether it is so for this nexus.
    For(Nexus),
    Status,
    Keys,
    Reservation {
        keys: Bytes,
    },
}

/// A question of a look.
#[derive(Clone, Debug)]
pub(crate) struct Glimpse {
    look: u64,
    glance: Glance,
    attentions: u32,
}

/// What was seen of a unit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sight {
    /// When, by the wall clock; nanoseconds since the Unix epoch.
    pub at: u64,
    /// Why not all could be seen.
    pub trouble: Option<String>,
    /// It is reserved whole by SCSI-2, for these nexuses; for none of them: by a stranger to the pair.
    pub whole: Option<BTreeSet<Nexus>>,
    /// Its persistent reservations.
    pub told: Option<Told>,
}

#[derive(Debug)]
struct Look {
    number: u64,
    until: u64,
    /// Answers still to come.
    left: usize,
    sight: Sight,
}

/// Looks at units.
#[derive(Debug, Default)]
pub(crate) struct Onlook {
    next: u64,
    under_way: BTreeMap<VolumeId, Look>,
    sights: BTreeMap<VolumeId, Sight>,
    /// What was granted last by SCSI-2, whether it still stands or not.
    granted: BTreeMap<(VolumeId, Nexus, Slot), (Stamp, Arc<Request>)>,
    /// Who got the persistent reservation last, and when.
    held: BTreeMap<VolumeId, (Nexus, Stamp)>,
}

impl Onlook {
    /// When a look is given up.
    pub(crate) fn deadline(&self) -> Option<u64> {
        self.under_way.values().map(|look| look.until).min()
    }

    /// A unit has carried a request out. `key`: of a nexus, as far as the pair knows.
    pub(crate) fn granted(
        &mut self,
        unit: &Unit,
        id: VolumeId,
        nexus: Nexus,
        (at, request): (Stamp, &Arc<Request>),
        key: impl Fn(Nexus) -> Option<u64>,
    ) {
        let holder = self.held.get(&id).map(|(holder, _)| *holder);
        match &**request {
            Request::Reserve { extents, .. } => {
                self.granted.retain(|(of, nexus, slot), _| *of != id || unit.book.has_slot(*nexus, *slot));
                let slot = extents.as_ref().map(|extents| extents.id);
                self.granted.insert((id, nexus, slot), (at, request.clone()));
            }
            // Asking again for what one has changes nothing (SPC-4 5.13.9).
            Request::ReservePersistent { .. } if holder != Some(nexus) => {
                self.held.insert(id, (nexus, at));
            }
            // It has the reservation only if it was the victim's (SPC-4 5.13.11.4).
            Request::Preempt { victim, .. } if holder.is_some_and(|holder| key(holder) == Some(*victim)) => {
                self.held.insert(id, (nexus, at));
            }
            Request::Move { to, .. } => {
                self.held.insert(id, (to.nexus, at));
            }
            Request::ReleasePersistent { .. } | Request::Clear { .. } => self.forget_holder(id),
            Request::Register { new_key: 0, .. } if holder == Some(nexus) => self.forget_holder(id),
            _ => {}
        }
    }

    /// The persistent reservation has ended, or may have.
    pub(crate) fn forget_holder(&mut self, id: VolumeId) {
        self.held.remove(&id);
    }
}

impl Site {
    /// Looks at the units that keep the reservations of the volume with this name, or of all volumes, for what
    /// [`Site::locks`] and [`Site::explain`] then say. Until [`Site::looking`] says no, at most 5 s.
    pub fn look(&mut self, now: Now, volume: Option<&str>) {
        let named = |name: &str| volume.is_none_or(|wanted| wanted == name);
        let ids = self.config.volumes.iter().filter(|one| named(&one.unit.name)).map(|one| one.unit.volume);
        for id in ids.collect::<Vec<_>>() {
            let kept = self.engine.kept_by_disk(id) && self.units.contains_key(&id);
            if !kept || self.onlook.under_way.contains_key(&id) {
                continue;
            }
            self.onlook.next += 1;
            let (number, until) = (self.onlook.next, now.mono + PATIENCE);
            let sight = Sight { at: now.wall, ..Sight::default() };
            self.onlook.under_way.insert(id, Look { number, until, left: 0, sight });
            self.glance(id, number, Glance::Free, 0);
        }
        self.settle(now);
    }

    /// Whether units are being looked at.
    pub fn looking(&self) -> bool {
        !self.onlook.under_way.is_empty()
    }

    /// What was last seen of a volume's unit.
    pub(crate) fn sight(&self, id: VolumeId) -> Option<&Sight> {
        self.onlook.sights.get(&id)
    }

    /// Gives up the looks that took too long.
    pub(crate) fn give_up_looks(&mut self, mono: u64) {
        let late: Vec<VolumeId> =
            self.onlook.under_way.iter().filter(|(_, look)| look.until <= mono).map(|(id, _)| *id).collect();
        late.into_iter().for_each(|id| {
            self.seen(id, Some(format!("it did not answer in {} s", PATIENCE / 1_000_000_000)))
        });
    }

    fn glance(&mut self, id: VolumeId, look: u64, glance: Glance, attentions: u32) {
        let (Some(unit), Some(under_way)) = (self.units.get_mut(&id), self.onlook.under_way.get_mut(&id))
        else {
            return;
        };
        let own = onlooker(self.config.site);
        let (nexus, cdb, room) = match &glance {
            Glance::Free => (own, test_unit_ready(), 0),
            Glance::For(nexus) => (*nexus, test_unit_ready(), 0),
            Glance::Status => {
                (own, persistent_reserve_in(READ_FULL_STATUS, PERSISTENT_BYTES), PERSISTENT_BYTES)
            }
            Glance::Keys => (own, persistent_reserve_in(READ_KEYS, PERSISTENT_BYTES), PERSISTENT_BYTES),
            Glance::Reservation { .. } => {
                (own, persistent_reserve_in(READ_RESERVATION, PERSISTENT_BYTES), PERSISTENT_BYTES)
            }
        };
        let ticket = unit.pass(nexus, cdb, Bytes::new(), u32::from(room));
        under_way.left += 1;
        self.passing.glimpse(id, ticket, Glimpse { look, glance, attentions });
    }

    /// A unit answered a glance, or did not.
    pub(crate) fn glanced(
        &mut self,
        now: Now,
        id: VolumeId,
        glimpse: Glimpse,
        result: &Result<Answer, String>,
    ) {
        let Glimpse { look, glance, attentions } = glimpse;
        let nexus = if let Glance::For(nexus) = glance { nexus } else { onlooker(self.config.site) };
        let news = self.heard(now, id, nexus, result);
        let Some(under_way) = self.onlook.under_way.get_mut(&id).filter(|one| one.number == look) else {
            return;
        };
        under_way.left -= 1;
        if news && attentions < ATTENTIONS_MAX {
            return self.glance(id, look, glance, attentions + 1);
        }
        let answer = match result {
            Ok(answer) => answer,
            Err(why) => return self.seen(id, Some(why.clone())),
        };
        let sight = &mut under_way.sight;
        match (glance, answer.status) {
            (Glance::Free, GOOD) => self.glance(id, look, Glance::Status, 0),
            (Glance::Free, CONFLICT) => {
                sight.whole = Some(BTreeSet::new());
                for nexus in self.units.get(&id).map(Unit::standing).unwrap_or_default() {
                    self.glance(id, look, Glance::For(nexus), 0);
                }
            }
            (Glance::For(nexus), GOOD) => sight.whole.iter_mut().for_each(|whole| {
                whole.insert(nexus);
            }),
            (Glance::For(_), _) => {}
            (Glance::Status, GOOD) => sight.told = told::full_status(&answer.data),
            // Not every unit knows it, though all that reserve know the other two.
            (Glance::Status, _) if answer.is_unknown() => self.glance(id, look, Glance::Keys, 0),
            (Glance::Keys, GOOD) => {
                self.glance(id, look, Glance::Reservation { keys: answer.data.clone() }, 0);
            }
            (Glance::Reservation { keys }, GOOD) => {
                sight.told = told::keys_and_reservation(&keys, &answer.data);
            }
            (Glance::Free | Glance::Status | Glance::Keys | Glance::Reservation { .. }, _) => {
                return self.seen(id, Some(answer.to_string()));
            }
        }
        if self.onlook.under_way.get(&id).is_some_and(|look| look.left == 0) {
            self.seen(id, None);
        }
    }

    fn seen(&mut self, id: VolumeId, trouble: Option<String>) {
        let Some(Look { mut sight, .. }) = self.onlook.under_way.remove(&id) else { return };
        let nothing = sight.whole.is_none() && sight.told.is_none();
        sight.trouble = trouble.or_else(|| nothing.then(|| "its answer contradicts itself".to_owned()));
        self.onlook.sights.insert(id, sight);
    }

    /// The reservation table of a volume whose unit keeps it: what was seen, and the extents that the unit granted and was
    /// not known to release.
    pub(crate) fn rows_seen(&self, id: VolumeId) -> Vec<ReservationRow> {
        let (Some(unit), Some(sight)) = (self.units.get(&id), self.sight(id)) else { return Vec::new() };
        let row = |since, owner, kind| ReservationRow {
            since,
            owner,
            third_party: None,
            extent: None,
            kind,
            id: None,
        };
        let mut rows = Vec::new();
        // A third party holds in its own nexus and in the one that stands in for it.
        let owners = sight.whole.iter().flatten().map(|nexus| self.asked_for(id, *nexus));
        for owner in owners.collect::<BTreeSet<_>>() {
            let (since, third_party) = match self.onlook.granted.get(&(id, owner, None)) {
                Some((at, request)) => (*at, book::about(request).and_then(|(_, party)| party)),
                None => (Stamp::ZERO, None),
            };
            rows.push(ReservationRow { third_party, ..row(since, owner, ReservationKind::Unit) });
        }
        let granted = self
            .onlook
            .granted
            .iter()
            .filter(|((of, nexus, slot), _)| *of == id && unit.book.has_slot(*nexus, *slot));
        for ((_, owner, _), (since, request)) in granted {
            let Request::Reserve { third_party, extents: Some(extents) } = &**request else { continue };
            rows.extend(extents.claims.iter().map(|claim| ReservationRow {
                third_party: *third_party,
                extent: Some(claim.extent),
                id: Some(extents.id),
                ..row(*since, *owner, ReservationKind::Extent(claim.kind))
            }));
        }
        if let Some((kind, told)) = sight.told.as_ref().and_then(|told| Some((told.reservation?, told))) {
            let holder = told
                .registrations
                .iter()
                .filter(|one| one.holder)
                .find_map(|one| self.registered_as(id, one));
            let since = |holder| {
                self.onlook
                    .held
                    .get(&id)
                    .filter(|(last, _)| *last == holder)
                    .map_or(Stamp::ZERO, |(_, at)| *at)
            };
            rows.extend(holder.map(|holder| row(since(holder), holder, ReservationKind::Persistent(kind))));
        }
        rows.sort_by_key(|row| row.since);
        rows
    }

    /// The blocks that somebody has reserved at the unit, ascending, none twice.
    pub(crate) fn reserved_at_unit(&self, id: VolumeId, all: Extent) -> Vec<Extent> {
        if self.sight(id).is_some_and(|sight| sight.whole.is_some()) {
            return vec![all];
        }
        let mut rows: Vec<Extent> = self.rows_seen(id).iter().map(|row| row.extent.unwrap_or(all)).collect();
        rows.sort_by_key(|extent| extent.start());
        let mut merged: Vec<Extent> = Vec::new();
        for extent in rows {
            match merged.last_mut() {
                Some(last) if extent.start() <= last.end() => {
                    let end = last.end().max(extent.end());
                    *last = Extent::between(last.start(), end).expect("it has blocks");
                }
                Some(_) | None => merged.push(extent),
            }
        }
        merged
    }

    /// Who reserved what a nexus holds: a third party's has another's.
    fn asked_for(&self, id: VolumeId, holder: Nexus) -> Nexus {
        let by = |((of, nexus, slot), (_, request)): (&(VolumeId, Nexus, Slot), &(Stamp, Arc<Request>))| {
            let for_holder = book::about(request) == Some((None, Some(holder.host)));
            (*of == id && slot.is_none() && for_holder).then_some(*nexus)
        };
        let own = self.onlook.granted.contains_key(&(id, holder, None));
        let unit = self.units.get(&id);
        let stands = |nexus: &Nexus| unit.is_some_and(|unit| unit.book.has_slot(*nexus, None));
        if own && stands(&holder) {
            return holder;
        }
        self.onlook.granted.iter().filter_map(by).find(stands).unwrap_or(holder)
    }

    /// Which of the pair's nexuses a unit tells of; `None`: a stranger's.
    pub(crate) fn registered_as(&self, id: VolumeId, one: &Registered) -> Option<Nexus> {
        let unit = self.units.get(&id)?;
        let mut known: BTreeSet<Nexus> = self.engine.registrants(id);
        known.extend(
            unit.ports().filter_map(|port| if let Port::Host(nexus) = port { Some(nexus) } else { None }),
        );
        match &one.port {
            Some((name, isid)) => known.into_iter().find(|nexus| {
                let (theirs, theirs_isid) = unit.port_at_unit(*nexus);
                theirs == *name && isid.is_none_or(|isid| isid == theirs_isid)
            }),
            // Only the key says it, and only if one alone registered it through the pair.
            None => {
                let passed = self.engine.reservations(id)?.persistent().registrations;
                let mut with_key = passed.iter().filter(|passed| passed.key == one.key);
                let nexus = with_key.next()?.registrant.nexus;
                with_key.next().is_none().then_some(nexus)
            }
        }
    }
}
