//! RESERVE and RELEASE by example.

use super::*;
use ExtentKind::{ExclusiveAccess, ReadExclusive, ReadShared, WriteExclusive};

fn unit_held(unit: &Unit) -> Option<(Nexus, u64)> {
    unit.state().unit.map(|held| (held.owner, held.since.time))
}

#[test]
fn reserve_again_by_the_holder_is_good_and_keeps_its_start() {
    let mut unit = Unit::default();
    assert_eq!(unit.ask(A1, reserve()), (Verdict::Done, Vec::new()));
    unit.ignores(A1, reserve());
    assert_eq!(unit_held(&unit), Some((A1, 1)));
}

#[test]
fn reserve_by_another_conflicts_also_by_the_same_initiator_at_the_other_site() {
    let mut unit = Unit::with(&[(A1, reserve())]);
    for by in [B1, A2, B3] {
        unit.conflicts(by, reserve());
        unit.conflicts(by, reserve_for(1));
        unit.conflicts(by, extents(1, &[(ReadShared, 0, 1)]));
    }
}

#[test]
fn of_two_that_ask_the_older_has_it_and_the_younger_is_refused() {
    // E3.6: both sites execute both in stamp order; at equal times A's comes first.
    let mut tables = Reservations::default();
    assert_eq!(tables.apply(at(5, SiteId::A), A1, &reserve()), (Verdict::Done, vec![]));
    assert_eq!(tables.apply(at(5, SiteId::B), B2, &reserve()), (Verdict::Conflict, vec![]));
    let rows = tables.rows();
    assert_eq!(rows.iter().map(|row| (row.since, row.owner)).collect::<Vec<_>>(), [(at(5, SiteId::A), A1)]);
}

#[test]
fn release_by_another_is_good_and_does_nothing() {
    let mut unit = Unit::with(&[(A1, reserve())]);
    for by in [B1, A2] {
        unit.ignores(by, release());
        unit.ignores(by, release_extents(0));
    }
    unit.ignores(A1, release_extents(0));
    unit.done(A1, release());
    assert_eq!(unit.tables, Reservations::default());
    unit.ignores(A1, release());
}

#[test]
fn hand_over_of_fig_23_succeeds_once_the_release_is_executed() {
    let mut unit = Unit::with(&[(A1, reserve())]);
    assert!(!unit.tables.would_grant(B2, &reserve()));
    unit.conflicts(B2, reserve());
    unit.done(A1, release());
    assert!(unit.tables.would_grant(B2, &reserve()));
    unit.done(B2, reserve());
    assert_eq!(unit_held(&unit), Some((B2, 4)));
}

#[test]
fn only_the_owner_releases_what_is_for_a_third_party_and_names_it() {
    let mut unit = Unit::with(&[(A1, reserve_for(2))]);
    // The third party may work, but owns nothing.
    for by in [A2, B2] {
        unit.ignores(by, release());
        unit.ignores(by, release_for(2));
        unit.conflicts(by, reserve());
    }
    unit.ignores(A1, release());
    unit.ignores(A1, release_for(3));
    unit.ignores(A1, reserve_for(2));
    unit.done(A1, release_for(2));
    assert_eq!(unit.tables, Reservations::default());
}

#[test]
fn owner_supersedes_its_reservation_with_another_third_party() {
    let mut unit = Unit::with(&[(A1, reserve_for(2))]);
    unit.done(A1, reserve_for(3));
    assert!(unit.tables.allows(B3, Access::Write, None) && !unit.tables.allows(B2, Access::Write, None));
    unit.done(A1, reserve());
    assert_eq!(unit_held(&unit), Some((A1, 3)));
    assert!(unit.tables.allows(A1, Access::Write, None) && !unit.tables.allows(B3, Access::Write, None));
}

#[test]
fn kinds_of_extents_conflict_as_the_standard_says() {
    // Rows: held; columns: asked by another; in the order of the ordinals.
    let table = ["ynnn", "nnyn", "nynn", "nnnn"];
    for (held, row) in ExtentKind::ALL.into_iter().zip(table) {
        for (asked, letter) in ExtentKind::ALL.into_iter().zip(row.chars()) {
            let mut unit = Unit::with(&[(A1, extents(1, &[(held, 10, 10)]))]);
            let granted = unit.tables.would_grant(B2, &extents(1, &[(asked, 19, 5)]));
            assert_eq!(granted, letter == 'y', "{held:?} is held, {asked:?} is asked for");
            // Elsewhere, and by the same nexus, nothing conflicts.
            unit.done(B2, extents(2, &[(asked, 20, 5)]));
            unit.done(A1, extents(3, &[(asked, 10, 10)]));
        }
    }
}

#[test]
fn unit_conflicts_with_anothers_extents_and_not_with_the_own() {
    let mut unit = Unit::with(&[(A1, extents(1, &[(ReadShared, 10, 10)]))]);
    unit.conflicts(B2, reserve());
    unit.done(A1, reserve());
    unit.conflicts(B2, extents(1, &[(ReadShared, 1000, 10)]));
    unit.done(A1, extents(2, &[(ReadShared, 1000, 10)]));
    // Each is released by itself.
    unit.done(A1, release());
    assert_eq!(unit.state().extents.len(), 2);
    unit.done(B2, extents(1, &[(ReadShared, 2000, 10)]));
    unit.done(A1, release_extents(1));
    unit.ignores(A1, release_extents(1));
    assert_eq!(
        unit.state().extents.iter().map(|r| (r.owner, r.extents.id)).collect::<Vec<_>>(),
        [(A1, 2), (B2, 1)]
    );
}

#[test]
fn same_id_supersedes_and_what_cannot_be_granted_leaves_the_old() {
    let mut unit = Unit::with(&[
        (A1, extents(1, &[(ExclusiveAccess, 0, 10)])),
        (B2, extents(1, &[(ExclusiveAccess, 20, 10)])),
    ]);
    // All claims or none.
    unit.conflicts(A1, extents(1, &[(ExclusiveAccess, 40, 10), (ReadShared, 29, 1)]));
    assert!(!unit.tables.allows(B2, Access::Read, Some(blocks(9, 1))));
    assert!(unit.tables.allows(B2, Access::Read, Some(blocks(40, 1))));
    unit.done(A1, extents(1, &[(ExclusiveAccess, 40, 10), (WriteExclusive, 5, 1)]));
    assert!(unit.tables.allows(B2, Access::Read, Some(blocks(5, 1))));
    assert!(!unit.tables.allows(B2, Access::Write, Some(blocks(5, 1))));
    assert!(unit.tables.allows(B2, Access::Write, Some(blocks(9, 1))));
    assert!(!unit.tables.allows(B2, Access::Read, Some(blocks(49, 1))));
    unit.ignores(A1, extents(1, &[(ExclusiveAccess, 40, 10), (WriteExclusive, 5, 1)]));
}

#[test]
fn extents_have_room_for_256_claims_of_all_owners() {
    let claims: Vec<_> = (0..200).map(|at| (ReadShared, at, 1)).collect();
    let mut unit = Unit::with(&[(A1, extents(1, &claims)), (B2, extents(1, &claims[..56]))]);
    assert_eq!(unit.state().claims(), CLAIMS_MAX);
    unit.refused(B2, extents(2, &[(ReadShared, 0, 1)]), Verdict::NoRoomToReserve);
    // What is superseded gives its room back.
    unit.refused(B2, extents(1, &claims[..57]), Verdict::NoRoomToReserve);
    unit.done(B2, extents(1, &claims[..55]));
    unit.done(B2, extents(2, &[(ReadShared, 0, 1)]));
    // Who conflicts is told so first.
    unit.conflicts(B3, extents(1, &[(ReadExclusive, 0, 1)]));
}

#[test]
fn lost_nexus_releases_what_it_owns_and_nothing_else() {
    let mut unit = Unit::with(&[
        (A1, extents(1, &[(ReadShared, 0, 1)])),
        (A1, extents(2, &[(ReadShared, 1, 1)])),
        (B1, extents(1, &[(ReadShared, 0, 1)])),
    ]);
    assert!(unit.tables.holds(A1) && unit.tables.holds(B1) && !unit.tables.holds(A2));
    unit.ignores(A2, Request::NexusLost);
    unit.done(A1, Request::NexusLost);
    assert!(!unit.tables.holds(A1) && unit.tables.holds(B1));
    let mut unit = Unit::with(&[(A1, reserve_for(2))]);
    assert!(unit.tables.holds(A1) && !unit.tables.holds(A2));
    unit.ignores(A2, Request::NexusLost);
    unit.done(A1, Request::NexusLost);
    assert!(unit.tables.is_free());
}

#[test]
fn table_map_and_explanation_tell_what_is_reserved() {
    let whole = blocks(0, 1000);
    let mut unit = Unit::with(&[
        (B2, extents(9, &[(ReadShared, 50, 10), (ReadShared, 20, 10)])),
        (A1, extents(3, &[(ReadShared, 30, 5), (WriteExclusive, 990, 100)])),
    ]);
    let row = |since, owner, extent, kind, id| ReservationRow {
        since,
        owner,
        third_party: None,
        extent: Some(extent),
        kind: ReservationKind::Extent(kind),
        id: Some(id),
    };
    let (first, second) = (at(1, SiteId::B), at(2, SiteId::A));
    assert_eq!(
        unit.tables.rows(),
        [
            row(first, B2, blocks(50, 10), ReadShared, 9),
            row(first, B2, blocks(20, 10), ReadShared, 9),
            row(second, A1, blocks(30, 5), ReadShared, 3),
            row(second, A1, blocks(990, 100), WriteExclusive, 3),
        ]
    );
    assert_eq!(unit.tables.map(whole), [blocks(20, 15), blocks(50, 10), blocks(990, 10)]);
    assert_eq!(unit.tables.explain(Lba(29)), [row(first, B2, blocks(20, 10), ReadShared, 9)]);
    assert_eq!(unit.tables.explain(Lba(35)), []);
    unit.done(A1, Request::NexusLost);
    unit.done(B2, reserve());
    assert_eq!(unit.tables.map(whole), [whole]);
    assert_eq!(unit.tables.explain(Lba(35)).len(), 1);
    assert_eq!(unit.tables.explain(Lba(20)).len(), 2);
}
