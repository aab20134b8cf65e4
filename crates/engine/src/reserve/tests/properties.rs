//! Whatever is asked in whatever order: invariants hold, both sites come to the same, and dumb oracles agree.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Few nexuses, keys and blocks, so that they meet.
fn any_nexus() -> impl Strategy<Value = Nexus> {
    prop::sample::select(vec![A1, B1, A2, B2, B3])
}

fn any_key() -> impl Strategy<Value = u64> {
    prop_oneof![1 => Just(0u64), 6 => 1..4u64]
}

fn any_kind() -> impl Strategy<Value = PersistentKind> {
    prop::sample::select(PersistentKind::ALL.to_vec())
}

fn any_third_party() -> impl Strategy<Value = Option<HostId>> {
    prop_oneof![3 => Just(None), 1 => (1..4u64).prop_map(|host| Some(HostId(host)))]
}

fn any_claims() -> impl Strategy<Value = Extents> {
    let claim = (prop::sample::select(ExtentKind::ALL.to_vec()), 0..20u64, 1..6u64)
        .prop_map(|(kind, start, count)| Claim { kind, extent: blocks(start, count) });
    (0..3u8, prop::collection::vec(claim, 1..4)).prop_map(|(id, claims)| Extents { id, claims })
}

fn any_scsi2() -> impl Strategy<Value = Request> {
    prop_oneof![
        1 => any_third_party().prop_map(|third_party| Request::Reserve { third_party, extents: None }),
        5 => (any_third_party(), any_claims())
            .prop_map(|(third_party, extents)| Request::Reserve { third_party, extents: Some(extents) }),
        2 => (any_third_party(), prop::option::weighted(0.8, 0..3u8))
            .prop_map(|(third_party, extents)| Request::Release { third_party, extents }),
        1 => Just(Request::NexusLost),
    ]
}

fn any_persistent() -> impl Strategy<Value = Request> {
    let also = prop::collection::vec(any_nexus().prop_map(registrant), 0..3);
    let also = prop_oneof![4 => Just(Vec::new()), 1 => also];
    prop_oneof![
        6 => (prop::option::of(any_key()), any_key(), any::<bool>(), any::<bool>(), also).prop_map(
            |(key, new_key, aptpl, all_ports, also)| Request::Register {
                key,
                new_key,
                aptpl,
                all_ports,
                name: name(1),
                also
            }
        ),
        3 => (any_key(), any_kind()).prop_map(|(key, kind)| pr_reserve(key, kind)),
        1 => (any_key(), any_kind()).prop_map(|(key, kind)| pr_release(key, kind)),
        1 => any_key().prop_map(|key| Request::Clear { key }),
        3 => (any_key(), any_key(), any_kind(), any::<bool>())
            .prop_map(|(key, victim, kind, abort)| Request::Preempt { key, victim, kind, abort }),
        1 => (any_key(), any_key(), any::<bool>(), any::<bool>(), any_nexus()).prop_map(
            |(key, new_key, unregister, aptpl, to)| Request::Move {
                key,
                new_key,
                unregister,
                aptpl,
                to: registrant(to)
            }
        ),
    ]
}

fn any_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        3 => any_scsi2(),
        6 => any_persistent(),
        1 => prop::sample::select(Reset::ALL.to_vec()).prop_map(Request::Reset),
        1 => any::<bool>().prop_map(|write_protected| {
            Request::SetModes(ModeBits { write_protected, ..ModeBits::default() })
        }),
        1 => (1..4u32, 1..4u32).prop_map(|(run, peer_run)| started(run, peer_run)),
    ]
}

fn any_history(request: impl Strategy<Value = Request>) -> impl Strategy<Value = Vec<(Nexus, Request)>> {
    prop::collection::vec((any_nexus(), request), 0..60)
}

/// SCSI-2 extents by single blocks: who has which block how, and for whom.
#[derive(Default)]
struct SingleBlocks {
    unit: Option<(Nexus, Option<HostId>)>,
    claims: BTreeMap<(Nexus, u8), (Option<HostId>, ClaimedBlocks)>,
}

type ClaimedBlocks = BTreeSet<(u64, ExtentKind)>;

impl SingleBlocks {
    fn apply(&mut self, by: Nexus, request: &Request) -> Verdict {
        match request {
            Request::Reserve { third_party, extents: None } => {
                let foreign = self.claims.keys().any(|(owner, _)| *owner != by);
                if foreign || self.unit.is_some_and(|(owner, _)| owner != by) {
                    return Verdict::Conflict;
                }
                self.unit = Some((by, *third_party));
            }
            Request::Reserve { third_party, extents: Some(extents) } => {
                let mut asked = BTreeSet::new();
                for claim in &extents.claims {
                    asked.extend(
                        (claim.extent.start().0..claim.extent.end().0).map(|block| (block, claim.kind)),
                    );
                }
                for ((owner, _), (_, held)) in &self.claims {
                    for (block, kind) in held {
                        // Only read shared with read shared, and write exclusive with read exclusive, go together.
                        let fits = |asked: ExtentKind| {
                            matches!((*kind as u8, asked as u8), (0, 0) | (1, 2) | (2, 1))
                        };
                        if *owner != by && asked.iter().any(|(other, kind)| other == block && !fits(*kind)) {
                            return Verdict::Conflict;
                        }
                    }
                }
                if self.unit.is_some_and(|(owner, _)| owner != by) {
                    return Verdict::Conflict;
                }
                self.claims.insert((by, extents.id), (*third_party, asked));
            }
            Request::Release { third_party, extents: None } => {
                if self.unit == Some((by, *third_party)) {
                    self.unit = None;
                }
            }
            Request::Release { third_party, extents: Some(id) } => {
                if self.claims.get(&(by, *id)).is_some_and(|(party, _)| party == third_party) {
                    self.claims.remove(&(by, *id));
                }
            }
            // Nothing else is asked of it but the nexus' loss.
            _ => {
                self.claims.retain(|(owner, _), _| *owner != by);
                self.unit = self.unit.filter(|(owner, _)| *owner != by);
            }
        }
        Verdict::Done
    }

    fn allows(&self, by: Nexus, write: bool, block: u64) -> bool {
        let is_for = |owner: Nexus, party: Option<HostId>| party.map_or(owner == by, |host| host == by.host);
        self.unit.is_none_or(|(owner, party)| is_for(owner, party))
            && self.claims.iter().all(|((owner, _), (party, held))| {
                held.iter().filter(|(held, _)| *held == block).all(|(_, kind)| match (*kind as u8, write) {
                    (0, _) => !write,
                    (1, true) | (2, false) | (3, _) => is_for(*owner, *party),
                    _ => true,
                })
            })
    }

    fn reserved(&self, block: u64) -> bool {
        self.unit.is_some()
            || self.claims.values().any(|(_, held)| held.iter().any(|(held, _)| *held == block))
    }
}

fn agrees_with_single_blocks(history: Vec<(Nexus, Request)>) -> Result<(), TestCaseError> {
    let mut tables = Reservations::default();
    let mut oracle = SingleBlocks::default();
    for (time, (by, request)) in (1..).zip(history) {
        let expected = (oracle.apply(by, &request), Vec::new());
        prop_assert_eq!(tables.apply(at(time, by.site), by, &request), expected, "{:?}", request);
        let map = tables.map(blocks(0, 30));
        for block in 0..30 {
            let extent = Some(blocks(block, 1));
            for by in [A1, B1, A2, B2, B3] {
                for (access, write) in [(Access::Read, false), (Access::Write, true)] {
                    prop_assert_eq!(tables.allows(by, access, extent), oracle.allows(by, write, block));
                }
            }
            let mapped = map.iter().any(|run| run.contains(blocks(block, 1)));
            prop_assert_eq!(mapped, oracle.reserved(block), "block {}", block);
            prop_assert_eq!(!tables.explain(Lba(block)).is_empty(), mapped);
        }
        prop_assert!(map.windows(2).all(|pair| pair[0].end() < pair[1].start()));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn extents_answer_as_single_blocks_would(history in any_history(any_scsi2())) {
        agrees_with_single_blocks(history)?;
    }

    #[test]
    fn whatever_is_asked_invariants_hold_and_refusals_change_nothing(history in any_history(any_request())) {
        let mut unit = Unit::default();
        for (by, request) in history {
            let granted = unit.tables.would_grant(by, &request);
            let reserves = matches!(request, Request::Reserve { .. } | Request::ReservePersistent { .. });
            // Demands the invariants, and that a refusal does nothing.
            let (verdict, effects) = unit.ask(by, request.clone());
            prop_assert_eq!(granted, reserves && verdict == Verdict::Done);
            // Who asked for something persistent is never told or aborted.
            let mine = |effect: &Effect| matches!(effect, Effect::Attend(nexus, _) | Effect::Abort(nexus) if *nexus == by);
            let is_start = matches!(request, Request::SiteStarted { .. });
            prop_assert!(is_start || !effects.iter().any(mine), "{:?} {:?}", request, effects);
            // Nobody is told twice.
            for (at, effect) in effects.iter().enumerate() {
                prop_assert!(!effects[..at].contains(effect));
            }
            prop_assert_eq!(unit.tables.holds(by), unit.tables.rows().iter().any(|row| {
                row.owner == by && !matches!(row.kind, ReservationKind::Persistent(_))
            }));
            prop_assert_eq!(unit.tables.is_free(), unit.tables.rows().is_empty());
            let rows = unit.tables.rows();
            prop_assert!(rows.is_sorted_by_key(|row| row.since));
            let back = Reservations::from_parts(unit.tables.parts().clone());
            prop_assert_eq!(back, Ok(unit.tables.clone()));
        }
    }

    #[test]
    fn both_sites_come_to_the_same(history in any_history(any_request()), taken_over in 0..60usize) {
        let (mut one, mut other) = (Unit::default(), Unit::default());
        for (step, (by, request)) in history.into_iter().enumerate() {
            if step == taken_over {
                // A site that takes the tables from its peer goes on as if it had made them.
                other.tables = Reservations::from_parts(one.tables.parts().clone()).unwrap();
            }
            prop_assert_eq!(one.ask(by, request.clone()), other.ask(by, request));
            prop_assert_eq!(&one.tables, &other.tables);
        }
    }

    #[test]
    fn free_units_allow_everything_and_exempt_commands_are_always_served(
        history in any_history(any_request()),
        by in any_nexus(),
    ) {
        let mut unit = Unit::default();
        for (asks, request) in history {
            unit.ask(asks, request);
            let extent = Some(blocks(5, 5));
            prop_assert!(unit.tables.allows(by, Access::Exempt, extent));
            if unit.tables.is_free() {
                for access in [Access::Look, Access::Read, Access::Write, Access::Control] {
                    prop_assert!(unit.tables.allows(by, access, extent));
                }
            }
            // Never two of different hosts that both write what one of them has for itself.
            let writers = [A1, B1, A2, B2, B3].into_iter().filter(|nexus| unit.tables.allows(*nexus, Access::Write, extent));
            if unit.state().persistent.is_some_and(|held| !held.kind.serves_registrants()) {
                prop_assert!(writers.count() <= 1);
            }
        }
    }
}

/// A moment in the life of a pair.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// This site is started anew.
    Restart(SiteId),
    /// The sites meet, and those that were started since tell it, this one first; the second may die before it does.
    Meet { first: SiteId, second_tells: bool },
}

fn any_moments() -> impl Strategy<Value = Vec<Moment>> {
    let any_site = || prop::sample::select(SiteId::BOTH.to_vec());
    let moment = prop_oneof![
        any_site().prop_map(Moment::Restart),
        (any_site(), any::<bool>()).prop_map(|(first, second_tells)| Moment::Meet { first, second_tells }),
    ];
    prop::collection::vec(moment, 0..40)
}

/// A unit as its starts change it, and whoever counts what really happened.
struct Lives {
    unit: Unit,
    runs: [u32; 2],
    /// Started since the tables last heard of it.
    unheard: [bool; 2],
    losses: u32,
}

impl Lives {
    fn tell(&mut self, site: SiteId) -> Result<(), TestCaseError> {
        let peer = site.peer();
        // Something that power loss changes, and a reservation of each site.
        self.unit.tables.state.generation = 1;
        self.unit.tables.state.extents.clear();
        for owner in [A1, B1] {
            self.unit.done(owner, extents(1, &[(ExtentKind::ReadShared, 0, 1)]));
        }
        let [own, others] = [site, peer].map(|site| self.runs[site.index()]);
        self.unit.done(nexus(0, site), started(own, others));
        let heard = !self.unheard[site.index()];
        let loss = !heard && self.unheard[peer.index()];
        self.losses += u32::from(loss);
        prop_assert_eq!(self.unit.state().generation == 0, loss);
        for owner in [A1, B1] {
            let gone = loss || (!heard && owner.site == site);
            prop_assert_eq!(self.unit.tables.holds(owner), !gone, "{}", owner);
        }
        if !heard {
            self.unheard = [false; 2];
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn power_is_lost_once_when_both_sites_were_started_unheard_and_else_never(moments in any_moments()) {
        let mut lives = Lives { unit: Unit::default(), runs: [1, 1], unheard: [false; 2], losses: 0 };
        lives.unit.done(nexus(0, SiteId::A), started(1, 1));
        let mut both = 0;
        for moment in moments {
            match moment {
                Moment::Restart(site) => {
                    lives.runs[site.index()] += 1;
                    lives.unheard[site.index()] = true;
                }
                Moment::Meet { first, second_tells } => {
                    both += u32::from(lives.unheard == [true, true]);
                    lives.tell(first)?;
                    if second_tells {
                        lives.tell(first.peer())?;
                    }
                }
            }
        }
        prop_assert_eq!(lives.losses, both);
    }
}

#[test]
fn tables_that_break_an_invariant_are_refused_by_its_name() {
    let registration = |nexus, key, all_ports| Registration { registrant: registrant(nexus), key, all_ports };
    let held = |kind, holder| Some(PersistentReservation { since: at(1, SiteId::A), kind, holder });
    let unit = Some(UnitReservation { since: at(1, SiteId::A), owner: A1, third_party: None });
    let of = |owner, id, kind, start| ExtentReservation {
        since: at(1, SiteId::A),
        owner,
        third_party: None,
        extents: Extents { id, claims: vec![Claim { kind, extent: blocks(start, 10) }] },
    };
    let none = ReservationState::default;
    let shared = ExtentKind::ReadShared;
    let kind = PersistentKind::WriteExclusive;
    let mut empty = of(A1, 1, shared, 0);
    empty.extents.claims.clear();
    let mut many = of(A1, 1, shared, 0);
    many.extents.claims = vec![many.extents.claims[0]; CLAIMS_MAX + 1];
    let mut long = registration(A1, 1, false);
    long.registrant.name = Arc::from("n".repeat(INITIATOR_NAME_BYTES_MAX + 1));
    let crowd = (0..257).map(|host| registration(nexus(host, SiteId::A), 1, false)).collect();
    let broken = [
        ("sorted: extents", ReservationState { extents: vec![of(A1, 1, shared, 0); 2], ..none() }),
        (
            "sorted: registrations",
            ReservationState {
                registrations: vec![registration(B1, 1, false), registration(A1, 1, false)],
                ..none()
            },
        ),
        ("limits: claims", ReservationState { extents: vec![many], ..none() }),
        ("limits: extents without a claim", ReservationState { extents: vec![empty], ..none() }),
        ("limits: registrations", ReservationState { registrations: crowd, ..none() }),
        (
            "limits: a key of 0",
            ReservationState { registrations: vec![registration(A1, 0, false)], ..none() },
        ),
        ("limits: name", ReservationState { registrations: vec![long], ..none() }),
        (
            "one world: SCSI-2 and persistent",
            ReservationState { unit, registrations: vec![registration(A1, 1, false)], ..none() },
        ),
        (
            "one unit: another's extents",
            ReservationState { unit, extents: vec![of(B1, 1, shared, 0)], ..none() },
        ),
        (
            "no overlap: conflicting claims",
            ReservationState {
                extents: vec![of(A1, 1, shared, 0), of(B1, 1, ExtentKind::WriteExclusive, 9)],
                ..none()
            },
        ),
        ("holder registered: holder and type", ReservationState { persistent: held(kind, None), ..none() }),
        ("holder registered: nobody is", ReservationState { persistent: held(kind, Some(A1)), ..none() }),
        (
            "pairs: not at both sites",
            ReservationState {
                registrations: vec![registration(A1, 1, true), registration(B1, 2, true)],
                ..none()
            },
        ),
    ];
    for (name, state) in broken {
        assert_eq!(Reservations::from_parts(state).map(drop), Err(name.to_owned()));
    }
}

#[cfg(feature = "mutants")]
mod planted_bugs {
    //! Each bug planted here is seen from outside.

    use super::*;
    use crate::mutant::{Mutant, plant};

    fn with<T>(mutant: Mutant, run: impl FnOnce() -> T) -> T {
        plant(Some(mutant));
        let result = run();
        plant(None);
        result
    }

    #[test]
    fn newer_reserve_takes_the_unit_from_an_older_holder() {
        with(Mutant::NewerReserveWins, || {
            let mut unit = Unit::with(&[(B2, reserve())]);
            unit.done(A1, reserve());
            assert_eq!(unit.state().unit.map(|held| held.owner), Some(A1));
            // Not the other way round: in one direction is bad enough.
            unit.conflicts(B2, reserve());
        });
    }

    #[test]
    fn forgotten_attention_is_the_first_registrants() {
        let three = [(A1, register(1, 0, 10)), (B2, register(2, 0, 20)), (B3, register(3, 0, 30))];
        with(Mutant::ForgetAttention, || {
            let mut unit = Unit::with(&three);
            let expected = told(Attention::ReservationsPreempted, &[B3]);
            assert_eq!(unit.done(A1, Request::Clear { key: 10 }), expected);
            let mut unit = Unit::with(&three);
            assert_eq!(unit.done(A1, preempt(10, 20, PersistentKind::WriteExclusive)), []);
        });
    }

    #[test]
    fn lost_aptpl_clears_what_should_have_stayed() {
        with(Mutant::LoseAptpl, || {
            let start = nexus(0, SiteId::A);
            let mut unit = Unit::with(&[(start, started(1, 1)), (A1, aptpl(register(1, 0, 10)))]);
            unit.done(start, started(2, 2));
            assert_eq!(unit.keys(), []);
        });
    }
}
