//! Answers for what the hosts' nexuses may have reserved at a unit by SCSI-2. It is no table to judge by (E5.1): it says
//! which releases a nexus needs when it is gone or the unit is reset, whether the unit must be asked about just the
//! blocks of a command, and for which third parties data may have to move.
//!
//! Invariant: what the unit has of a nexus with a session is in here; what is in here the unit may have.

use biplex_engine::reserve::Request;
use biplex_engine::{HostId, Nexus};
use std::collections::{BTreeMap, BTreeSet};

/// The id of extents; `None`: the unit.
pub(crate) type Slot = Option<u8>;
/// The third party; `None`: who asked.
pub(crate) type Party = Option<HostId>;
/// Slots of one unit at most: each is a command of its own when all is released.
const SLOTS_MAX: usize = 256;

/// What may be reserved.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// More than one party in a slot: one superseded the other, or did not.
    entries: BTreeMap<Nexus, BTreeMap<Slot, BTreeSet<Party>>>,
    /// Nothing is left of an earlier run of the site: it had all released, or keeps no reservations here.
    pub begun: bool,
}

/// What a RESERVE or RELEASE is about.
pub(crate) fn about(request: &Request) -> Option<(Slot, Party)> {
    match request {
        Request::Reserve { third_party, extents } => {
            Some((extents.as_ref().map(|extents| extents.id), *third_party))
        }
        Request::Release { third_party, extents } => Some((*extents, *third_party)),
        Request::Register { .. }
        | Request::ReservePersistent { .. }
        | Request::ReleasePersistent { .. }
        | Request::Clear { .. }
        | Request::Preempt { .. }
        | Request::Move { .. }
        | Request::Reset(_)
        | Request::SetModes(_)
        | Request::NexusLost
        | Request::SiteStarted { .. } => None,
    }
}

impl Book {
    /// Nothing is known to be reserved.
    pub fn new(begun: bool) -> Book {
        Book { begun, entries: BTreeMap::new() }
    }

    /// A RESERVE goes to the unit. Whether that is new in here; `None`: there is no room.
    pub fn reserving(&mut self, nexus: Nexus, (slot, party): (Slot, Party)) -> Option<bool> {
        let slots: usize = self.entries.values().map(BTreeMap::len).sum();
        let known = self.entries.get(&nexus).is_some_and(|slots| slots.contains_key(&slot));
        if slot.is_some() && !known && slots >= SLOTS_MAX {
            return None;
        }
        Some(self.entries.entry(nexus).or_default().entry(slot).or_default().insert(party))
    }

    /// The unit granted it, and what the slot had before is superseded (SCSI-2 9.2.12.4).
    pub fn reserved(&mut self, nexus: Nexus, (slot, party): (Slot, Party)) {
        self.entries.entry(nexus).or_default().insert(slot, BTreeSet::from([party]));
    }

    /// This is not reserved: the unit released it, or refused what was new.
    pub fn strike(&mut self, nexus: Nexus, (slot, party): (Slot, Party)) {
        let Some(slots) = self.entries.get_mut(&nexus) else { return };
        if let Some(parties) = slots.get_mut(&slot) {
            parties.remove(&party);
            if parties.is_empty() {
                slots.remove(&slot);
            }
        }
        if slots.is_empty() {
            self.entries.remove(&nexus);
        }
    }

    /// What must be released so that this is. Where it is not known which of several parties the unit has, it is all of
    /// them: a RELEASE of what superseded, or did not, is meant for both.
    pub fn releases(&self, nexus: Nexus, (slot, party): (Slot, Party)) -> Vec<(Slot, Party)> {
        match self.entries.get(&nexus).and_then(|slots| slots.get(&slot)) {
            Some(parties) if parties.contains(&party) => parties.iter().map(|party| (slot, *party)).collect(),
            Some(_) | None => vec![(slot, party)],
        }
    }

    /// What must be released so that the nexus has nothing; the unit for itself in any case.
    pub fn all_releases(&self, nexus: Nexus) -> Vec<(Slot, Party)> {
        let mut all = BTreeSet::from([(None, None)]);
        for (slot, parties) in self.entries.get(&nexus).into_iter().flatten() {
            all.extend(parties.iter().map(|party| (*slot, *party)));
        }
        all.into_iter().collect()
    }

    /// The nexus has nothing any more. Whether it may have had something.
    pub fn forget(&mut self, nexus: Nexus) -> bool {
        self.entries.remove(&nexus).is_some()
    }

    /// Nobody has anything any more but those of whom the unit has not said so.
    pub fn clear_but(&mut self, unreleased: &BTreeSet<Nexus>) {
        self.entries.retain(|nexus, _| unreleased.contains(nexus));
    }

    /// Whether nobody can have anything.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the nexus may have something.
    pub fn has(&self, nexus: Nexus) -> bool {
        self.entries.contains_key(&nexus)
    }

    /// Whether it may have this.
    pub fn has_slot(&self, nexus: Nexus, slot: Slot) -> bool {
        self.entries.get(&nexus).is_some_and(|slots| slots.contains_key(&slot))
    }

    /// Whether extents may be reserved.
    pub fn extents(&self) -> bool {
        !self.begun || self.entries.values().flat_map(BTreeMap::keys).any(Option::is_some)
    }

    /// For whom something may be reserved that did not ask for it.
    pub fn third_parties(&self) -> BTreeSet<HostId> {
        self.entries.values().flat_map(BTreeMap::values).flatten().copied().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use biplex_engine::SiteId;

    #[test]
    fn what_may_be_reserved_is_kept_until_it_is_known_not_to_be() {
        let nexus = Nexus { host: HostId(1), isid: 1, site: SiteId::A };
        let (whole, other) = ((None, None), (None, Some(HostId(2))));
        let extents = (Some(7), None);
        let mut book = Book { begun: true, ..Book::default() };
        assert_eq!(book.reserving(nexus, whole), Some(true));
        book.reserved(nexus, whole);
        assert!(!book.extents());
        // Not answered: either of them may stand.
        assert_eq!(book.reserving(nexus, other), Some(true));
        assert_eq!(book.releases(nexus, other), [whole, other]);
        assert_eq!(book.third_parties(), BTreeSet::from([HostId(2)]));
        book.strike(nexus, other);
        assert_eq!(book.releases(nexus, other), [other], "a RELEASE for another party frees nothing");
        book.reserving(nexus, other);
        book.reserved(nexus, other);
        assert_eq!(book.releases(nexus, other), [other], "superseded");
        assert_eq!(book.reserving(nexus, extents), Some(true));
        assert_eq!(book.reserving(nexus, extents), Some(false));
        assert!(book.extents());
        assert_eq!(book.all_releases(nexus), [whole, other, extents]);
        book.strike(nexus, extents);
        assert!(!book.extents() && book.forget(nexus) && !book.forget(nexus));
        assert_eq!(book.all_releases(nexus), [whole]);
        assert!(Book::default().extents(), "an earlier run may have left some");
    }

    #[test]
    fn slots_are_bounded() {
        let nexus = |host| Nexus { host: HostId(host), isid: 1, site: SiteId::A };
        let mut book = Book::default();
        (0..=255).for_each(|id| assert_eq!(book.reserving(nexus(1), (Some(id), None)), Some(true)));
        assert_eq!(book.reserving(nexus(2), (Some(0), None)), None);
        assert_eq!(book.reserving(nexus(1), (Some(0), None)), Some(false));
        assert_eq!(book.reserving(nexus(2), (None, None)), Some(true));
    }
}
