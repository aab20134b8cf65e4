//! PERSISTENT RESERVE OUT: each row of the table in `docs/reservations.md`, with all that follows.

use super::*;
use Attention::{RegistrationsPreempted, ReservationsPreempted, ReservationsReleased};
use PersistentKind::{
    ExclusiveAccess, ExclusiveAccessAll, ExclusiveAccessRegistrants, WriteExclusive, WriteExclusiveAll,
    WriteExclusiveRegistrants,
};

/// A1 with key 10, B2 with 20 and B3 with 30 registered; PRGENERATION is 3.
fn three() -> Unit {
    Unit::with(&[(A1, register(1, 0, 10)), (B2, register(2, 0, 20)), (B3, register(3, 0, 30))])
}

/// And A1 holds.
fn held(kind: PersistentKind) -> Unit {
    let mut unit = three();
    assert_eq!(unit.done(A1, pr_reserve(10, kind)), []);
    unit
}

fn generation(unit: &Unit) -> u32 {
    unit.state().generation
}

#[test]
fn register_by_a_stranger_wants_key_0_and_a_new_key() {
    let mut unit = Unit::default();
    unit.conflicts(A1, register(1, 1, 10));
    unit.ignores(A1, register(1, 0, 0));
    assert_eq!(unit.done(A1, register(1, 0, 10)), []);
    assert_eq!((unit.keys(), generation(&unit)), (vec![(A1, 10)], 1));
    assert_eq!(unit.state().registrations[0].registrant, registrant(A1));
}

#[test]
fn register_by_a_registrant_wants_its_key_and_changes_it() {
    let mut unit = held(WriteExclusive);
    unit.conflicts(A1, register(1, 0, 11));
    unit.conflicts(A1, register(1, 20, 11));
    assert_eq!(unit.done(A1, register(1, 10, 11)), []);
    assert_eq!(unit.keys(), [(A1, 11), (B2, 20), (B3, 30)]);
    assert_eq!(generation(&unit), 4);
    assert_eq!(unit.held(), Some((WriteExclusive, Some(A1))), "the reservation stays with its holder");
    assert_eq!(unit.tables.persistent().reservation, Some((WriteExclusive, 11)));
}

#[test]
fn register_and_ignore_asks_for_no_key() {
    let mut unit = three();
    unit.ignores(A2, register_and_ignore(2, 0));
    assert_eq!(unit.done(A2, register_and_ignore(2, 21)), []);
    assert_eq!(unit.done(A1, register_and_ignore(1, 11)), []);
    assert_eq!(unit.done(B3, register_and_ignore(3, 0)), []);
    assert_eq!(unit.keys(), [(A1, 11), (A2, 21), (B2, 20)]);
    assert_eq!(generation(&unit), 6);
}

#[test]
fn unregistering_the_holder_releases_and_tells_registrants_of_types_for_registrants() {
    let cases = [
        (WriteExclusive, vec![]),
        (ExclusiveAccess, vec![]),
        (WriteExclusiveRegistrants, told(ReservationsReleased, &[B2, B3])),
        (ExclusiveAccessRegistrants, told(ReservationsReleased, &[B2, B3])),
    ];
    for (kind, effects) in cases {
        for request in [register(1, 10, 0), register_and_ignore(1, 0)] {
            let mut unit = held(kind);
            assert_eq!(unit.ask(A1, request), (Verdict::Done, effects.clone()), "{kind:?}");
            assert_eq!((unit.keys(), unit.held()), (vec![(B2, 20), (B3, 30)], None));
            assert_eq!(generation(&unit), 4);
        }
    }
}

#[test]
fn unregistering_another_than_the_holder_releases_nothing() {
    for kind in PersistentKind::ALL {
        let mut unit = held(kind);
        let before = unit.held();
        assert_eq!(unit.done(B2, register(2, 20, 0)), [], "{kind:?}");
        assert_eq!(unit.held(), before);
    }
}

#[test]
fn where_all_hold_the_last_to_unregister_releases() {
    for kind in [WriteExclusiveAll, ExclusiveAccessAll] {
        let mut unit = held(kind);
        assert_eq!(unit.done(A1, register(1, 10, 0)), []);
        assert_eq!(unit.done(B2, register(2, 20, 0)), []);
        assert_eq!(unit.held(), Some((kind, None)));
        assert_eq!(unit.done(B3, register(3, 30, 0)), []);
        assert_eq!((unit.held(), unit.keys()), (None, vec![]));
    }
}

#[test]
fn last_register_decides_about_aptpl() {
    let mut unit = Unit::with(&[(A1, aptpl(register(1, 0, 10)))]);
    assert!(unit.tables.persistent().aptpl);
    unit.ignores(B2, register(2, 0, 0));
    unit.done(B2, register(2, 0, 20));
    assert!(!unit.tables.persistent().aptpl);
    unit.done(B2, aptpl(register(2, 20, 0)));
    assert!(unit.tables.persistent().aptpl);
}

#[test]
fn key_0_is_nobodys_key() {
    let mut unit = held(WriteExclusiveAll);
    unit.conflicts(A1, pr_reserve(0, WriteExclusiveAll));
    unit.conflicts(A1, pr_release(0, WriteExclusiveAll));
    unit.conflicts(A1, Request::Clear { key: 0 });
    unit.conflicts(A1, preempt(0, 20, WriteExclusiveAll));
    unit.conflicts(A1, register(1, 0, 11));
    held(WriteExclusive).conflicts(A1, move_to(0, 21, A2));
}

#[test]
fn there_is_room_for_256_registrations() {
    let mut unit = Unit::default();
    for host in 0..REGISTRATIONS_MAX as u64 {
        unit.done(nexus(host, SiteId::A), register(host, 0, 7));
    }
    let (more, first) = (nexus(1000, SiteId::A), nexus(0, SiteId::A));
    unit.refused(more, register(1000, 0, 7), Verdict::NoRoomToRegister);
    unit.done(first, register(0, 7, 8));
    unit.done(first, pr_reserve(8, WriteExclusive));
    unit.refused(first, move_to(8, 9, more), Verdict::NoRoomToRegister);
    let going = Request::Move { key: 8, new_key: 9, unregister: true, aptpl: false, to: registrant(more) };
    unit.done(first, going);
    unit.done(more, register(1000, 9, 0));
    // All or none.
    unit.refused(first, all_ports(register(0, 0, 7)), Verdict::NoRoomToRegister);
    unit.refused(first, also(register(0, 0, 7), &[more]), Verdict::NoRoomToRegister);
    unit.done(first, register(0, 0, 7));
}

#[test]
fn all_tg_pt_registers_at_both_sites_as_if_asked_at_each() {
    let mut unit = Unit::with(&[(A1, all_ports(register(1, 0, 10)))]);
    let view = unit.tables.persistent();
    assert_eq!((unit.keys(), view.generation), (vec![(A1, 10), (B1, 10)], 1));
    assert!(view.registrations.iter().all(|registration| registration.all_ports));
    // Both change together.
    unit.done(B1, all_ports(register(1, 10, 11)));
    assert_eq!(unit.keys(), [(A1, 11), (B1, 11)]);
    // One alone parts them.
    unit.done(B1, register(1, 11, 12));
    assert_eq!(unit.keys(), [(A1, 11), (B1, 12)]);
    assert!(!unit.tables.persistent().registrations.iter().any(|registration| registration.all_ports));
    // The other port's key is another: as if asked there, it conflicts.
    unit.conflicts(A1, all_ports(register(1, 11, 13)));
    unit.done(A1, all_ports(register_and_ignore(1, 13)));
    assert_eq!(unit.keys(), [(A1, 13), (B1, 13)]);
    unit.done(A1, all_ports(register(1, 13, 0)));
    assert_eq!(unit.keys(), []);
}

#[test]
fn all_tg_pt_of_a_registrant_registers_the_other_port_too() {
    let mut unit = Unit::with(&[(A1, register(1, 0, 10))]);
    unit.conflicts(B1, all_ports(register(1, 0, 10)));
    unit.done(A1, all_ports(register(1, 10, 11)));
    assert_eq!(unit.keys(), [(A1, 11), (B1, 11)]);
    // Later each port may be unregistered alone.
    unit.done(B1, register(1, 11, 0));
    assert_eq!(unit.keys(), [(A1, 11)]);
    assert!(!unit.tables.persistent().registrations[0].all_ports);
}

#[test]
fn all_tg_pt_unregisters_a_holder_at_the_other_port() {
    let mut unit = Unit::with(&[
        (A1, all_ports(register(1, 0, 10))),
        (B2, register(2, 0, 20)),
        (B1, pr_reserve(10, WriteExclusiveRegistrants)),
    ]);
    let effects = unit.done(A1, all_ports(register(1, 10, 0)));
    assert_eq!(effects, told(ReservationsReleased, &[B2]));
    assert_eq!((unit.keys(), unit.held()), (vec![(B2, 20)], None));
}

#[test]
fn spec_i_pt_registers_further_ports_all_or_none() {
    let mut unit = Unit::default();
    assert_eq!(unit.done(A1, also(register(1, 0, 10), &[A2, nexus(3, SiteId::A)])), []);
    assert_eq!(unit.keys(), [(A1, 10), (A2, 10), (nexus(3, SiteId::A), 10)]);
    assert_eq!(generation(&unit), 1);
    // By a registrant, or with REGISTER AND IGNORE EXISTING KEY: byte 20.
    unit.refused(A1, also(register(1, 10, 11), &[B2]), Verdict::BadParameter(20));
    unit.refused(B2, also(register_and_ignore(2, 20), &[B3]), Verdict::BadParameter(20));
    // One registered already, itself, or twice in the list: byte 28.
    unit.refused(B2, also(register(2, 0, 20), &[B3, A1]), Verdict::BadParameter(28));
    unit.refused(B2, also(register(2, 0, 20), &[B2]), Verdict::BadParameter(28));
    unit.refused(B2, also(register(2, 0, 20), &[B3, B3]), Verdict::BadParameter(28));
    // A wrong key conflicts before anything else.
    unit.conflicts(B2, also(register(2, 5, 20), &[B2]));
    unit.ignores(B2, also(register(2, 0, 0), &[B3]));
}

#[test]
fn spec_i_pt_with_all_tg_pt_registers_all_at_both_sites() {
    let mut unit = Unit::default();
    unit.done(A1, all_ports(also(register(1, 0, 10), &[A2])));
    assert_eq!(unit.keys(), [(A1, 10), (B1, 10), (A2, 10), (B2, 10)]);
    unit.refused(B3, all_ports(also(register(3, 0, 30), &[B2])), Verdict::BadParameter(28));
}

#[test]
fn reserve_is_for_registrants_and_again_only_by_the_holder_with_the_same_type() {
    let mut unit = three();
    unit.conflicts(A2, pr_reserve(20, WriteExclusive));
    unit.conflicts(A1, pr_reserve(20, WriteExclusive));
    assert_eq!(unit.done(A1, pr_reserve(10, WriteExclusive)), []);
    assert_eq!(unit.held(), Some((WriteExclusive, Some(A1))));
    unit.ignores(A1, pr_reserve(10, WriteExclusive));
    unit.conflicts(A1, pr_reserve(10, ExclusiveAccess));
    unit.conflicts(B2, pr_reserve(20, WriteExclusive));
    assert_eq!(generation(&unit), 3, "RESERVE does not count");
}

#[test]
fn where_all_hold_each_may_reserve_again() {
    let mut unit = held(ExclusiveAccessAll);
    unit.ignores(B2, pr_reserve(20, ExclusiveAccessAll));
    unit.conflicts(B2, pr_reserve(20, WriteExclusiveAll));
    let view = unit.tables.persistent();
    assert_eq!(view.reservation, Some((ExclusiveAccessAll, 0)));
    assert!(view.registrations.iter().all(|registration| registration.holder));
}

#[test]
fn release_tells_the_other_registrants_of_types_for_registrants() {
    for kind in PersistentKind::ALL {
        let mut unit = held(kind);
        let expected = match kind {
            WriteExclusive | ExclusiveAccess => vec![],
            WriteExclusiveRegistrants
            | ExclusiveAccessRegistrants
            | WriteExclusiveAll
            | ExclusiveAccessAll => told(ReservationsReleased, &[B2, B3]),
        };
        assert_eq!(unit.ask(A1, pr_release(10, kind)), (Verdict::Done, expected), "{kind:?}");
        assert_eq!((unit.held(), unit.keys().len(), generation(&unit)), (None, 3, 3));
    }
}

#[test]
fn release_that_releases_nothing() {
    let mut unit = three();
    // No reservation: GOOD, but a wrong key conflicts.
    unit.ignores(A1, pr_release(10, WriteExclusive));
    unit.conflicts(A1, pr_release(11, WriteExclusive));
    // SPC-4 5.13.7: whoever is not registered conflicts.
    unit.conflicts(A2, pr_release(0, WriteExclusive));
    let mut unit = held(WriteExclusive);
    unit.conflicts(A2, pr_release(20, WriteExclusive));
    unit.conflicts(A1, pr_release(11, WriteExclusive));
    // Not the holder: GOOD, whatever the type. The holder with another type: 5/26/04.
    unit.ignores(B2, pr_release(20, WriteExclusive));
    unit.ignores(B2, pr_release(20, ExclusiveAccess));
    unit.refused(A1, pr_release(10, ExclusiveAccess), Verdict::WrongRelease);
    let mut unit = held(WriteExclusiveAll);
    unit.refused(B2, pr_release(20, ExclusiveAccessAll), Verdict::WrongRelease);
    assert_eq!(unit.done(B2, pr_release(20, WriteExclusiveAll)), told(ReservationsReleased, &[A1, B3]));
}

#[test]
fn clear_removes_all_and_tells_every_other_registrant() {
    for kind in PersistentKind::ALL {
        let mut unit = held(kind);
        unit.conflicts(A2, Request::Clear { key: 20 });
        unit.conflicts(B2, Request::Clear { key: 10 });
        assert_eq!(unit.done(B2, Request::Clear { key: 20 }), told(ReservationsPreempted, &[A1, B3]));
        assert_eq!((unit.keys(), unit.held(), generation(&unit)), (vec![], None, 4));
    }
}

#[test]
fn preempt_of_the_holder_takes_over() {
    for kind in [WriteExclusive, ExclusiveAccess, WriteExclusiveRegistrants, ExclusiveAccessRegistrants] {
        // With the same type only the victim is told.
        let mut unit = held(kind);
        assert_eq!(unit.done(B2, preempt(20, 10, kind)), told(RegistrationsPreempted, &[A1]));
        assert_eq!(unit.held(), Some((kind, Some(B2))));
        assert_eq!((unit.keys(), generation(&unit)), (vec![(B2, 20), (B3, 30)], 4));
        assert_eq!(unit.state().persistent.unwrap().since, at(unit.time, SiteId::B));
        // With another the remaining ones are, too.
        for new in PersistentKind::ALL.into_iter().filter(|new| *new != kind) {
            let mut unit = held(kind);
            let mut effects = told(RegistrationsPreempted, &[A1]);
            effects.extend(told(ReservationsReleased, &[B3]));
            assert_eq!(unit.done(B2, preempt(20, 10, new)), effects);
            assert_eq!(unit.held(), Some((new, (!new.all_hold()).then_some(B2))));
        }
    }
}

#[test]
fn preempt_removes_every_nexus_with_the_key() {
    let mut unit = held(WriteExclusive);
    unit.done(B1, register(1, 0, 10));
    unit.done(A2, register(2, 0, 10));
    // Also where who asks has the same key: it stays.
    let effects = unit.done(A2, preempt(10, 10, WriteExclusive));
    assert_eq!(effects, told(RegistrationsPreempted, &[A1, B1]));
    assert_eq!(unit.keys(), [(A2, 10), (B2, 20), (B3, 30)]);
    assert_eq!(unit.held(), Some((WriteExclusive, Some(A2))));
}

#[test]
fn preempt_of_another_than_the_holder_only_removes_registrations() {
    for kind in PersistentKind::ALL {
        let mut unit = held(kind);
        let before = unit.held();
        // Type is ignored.
        assert_eq!(unit.done(A1, preempt(10, 30, ExclusiveAccess)), told(RegistrationsPreempted, &[B3]));
        assert_eq!((unit.keys(), unit.held()), (vec![(A1, 10), (B2, 20)], before));
        assert_eq!(generation(&unit), 4);
    }
    let mut unit = three();
    assert_eq!(unit.done(A1, preempt(10, 30, ExclusiveAccess)), told(RegistrationsPreempted, &[B3]));
    assert_eq!(unit.held(), None, "nothing is reserved by it either");
}

#[test]
fn preempt_conflicts_with_strangers_wrong_keys_and_unknown_victims() {
    for mut unit in [three(), held(WriteExclusive), held(WriteExclusiveAll)] {
        unit.conflicts(A2, preempt(20, 10, WriteExclusive));
        unit.conflicts(B2, preempt(10, 10, WriteExclusive));
        unit.conflicts(B2, preempt(20, 99, WriteExclusive));
    }
}

#[test]
fn preempt_of_key_0_is_for_where_all_hold() {
    three().refused(B2, preempt(20, 0, WriteExclusive), Verdict::BadParameter(8));
    held(WriteExclusive).refused(B2, preempt(20, 0, WriteExclusive), Verdict::BadParameter(8));
    for kind in [WriteExclusiveAll, ExclusiveAccessAll] {
        for new in PersistentKind::ALL {
            let mut unit = held(kind);
            assert_eq!(unit.done(B2, preempt(20, 0, new)), told(RegistrationsPreempted, &[A1, B3]));
            assert_eq!(unit.keys(), [(B2, 20)]);
            assert_eq!(unit.held(), Some((new, (!new.all_hold()).then_some(B2))));
            assert_eq!(generation(&unit), 4);
        }
    }
}

#[test]
fn holder_that_preempts_itself_changes_the_type_and_stays_registered() {
    let mut unit = held(WriteExclusive);
    let effects = unit.done(A1, preempt(10, 10, ExclusiveAccess));
    assert_eq!(effects, told(ReservationsReleased, &[B2, B3]));
    assert_eq!(unit.held(), Some((ExclusiveAccess, Some(A1))));
    assert_eq!((unit.keys().len(), generation(&unit)), (3, 4));
    let since = unit.state().persistent.unwrap().since;
    assert_eq!(unit.done(A1, preempt(10, 10, ExclusiveAccess)), []);
    assert_eq!(unit.state().persistent.unwrap().since, since, "nothing new is held");
}

#[test]
fn who_preempts_its_own_key_without_holding_is_removed() {
    let mut unit = held(WriteExclusive);
    unit.done(A2, register(2, 0, 20));
    assert_eq!(unit.done(B2, preempt(20, 20, WriteExclusive)), told(RegistrationsPreempted, &[A2]));
    assert_eq!(unit.keys(), [(A1, 10), (B3, 30)]);
    // Where all hold, too; and with the last registration the reservation goes.
    let mut unit = Unit::with(&[(A1, register(1, 0, 10)), (A1, pr_reserve(10, WriteExclusiveAll))]);
    assert_eq!(unit.done(A1, preempt(10, 10, WriteExclusiveAll)), []);
    assert_eq!((unit.keys(), unit.held()), (vec![], None));
}

#[test]
fn preempt_and_abort_aborts_the_removed_nexuses() {
    let mut unit = held(WriteExclusive);
    unit.done(B1, register(1, 0, 10));
    let mut effects = vec![Effect::Abort(A1), Effect::Abort(B1)];
    effects.extend(told(RegistrationsPreempted, &[A1, B1]));
    assert_eq!(unit.done(B2, preempt_and_abort(20, 10, WriteExclusive)), effects);
    assert_eq!((unit.held(), generation(&unit)), (Some((WriteExclusive, Some(B2))), 5));
    let mut unit = held(ExclusiveAccessAll);
    let mut effects = vec![Effect::Abort(A1), Effect::Abort(B3)];
    effects.extend(told(RegistrationsPreempted, &[A1, B3]));
    assert_eq!(unit.done(B2, preempt_and_abort(20, 0, ExclusiveAccessAll)), effects);
    // Not who asks.
    let mut unit = held(WriteExclusive);
    assert_eq!(unit.done(B2, preempt_and_abort(20, 20, WriteExclusive)), []);
    assert_eq!(unit.keys(), [(A1, 10), (B3, 30)]);
}

#[test]
fn crossed_preempts_leave_one_winner() {
    let mut unit = held(WriteExclusive);
    unit.done(B2, preempt(20, 10, WriteExclusive));
    unit.conflicts(A1, preempt(10, 20, WriteExclusive));
    assert_eq!(unit.held(), Some((WriteExclusive, Some(B2))));
}

#[test]
fn preempt_parts_a_pair_of_ports() {
    let mut unit = Unit::with(&[
        (A1, all_ports(register(1, 0, 10))),
        (B2, register(2, 0, 10)),
        (B2, pr_reserve(10, WriteExclusive)),
    ]);
    assert_eq!(unit.done(A1, preempt(10, 10, WriteExclusive)), told(RegistrationsPreempted, &[B1, B2]));
    assert_eq!(unit.keys(), [(A1, 10)]);
    assert!(!unit.tables.persistent().registrations[0].all_ports);
}

#[test]
fn register_and_move_moves_the_reservation() {
    for kind in [WriteExclusive, ExclusiveAccess, WriteExclusiveRegistrants, ExclusiveAccessRegistrants] {
        let mut unit = held(kind);
        assert_eq!(unit.done(A1, aptpl(move_to(10, 21, A2))), []);
        assert_eq!(unit.held(), Some((kind, Some(A2))));
        assert_eq!(unit.keys(), [(A1, 10), (A2, 21), (B2, 20), (B3, 30)]);
        assert_eq!((generation(&unit), unit.tables.persistent().aptpl), (4, true));
        // To a registered one, which gets the new key; the mover goes.
        let to = registrant(B3);
        let going = Request::Move { key: 21, new_key: 33, unregister: true, aptpl: false, to };
        assert_eq!(unit.done(A2, going), []);
        assert_eq!(unit.held(), Some((kind, Some(B3))));
        assert_eq!(unit.keys(), [(A1, 10), (B2, 20), (B3, 33)]);
        assert_eq!((generation(&unit), unit.tables.persistent().aptpl), (5, false));
    }
}

#[test]
fn register_and_move_that_moves_nothing() {
    three().refused(A1, move_to(10, 21, A2), Verdict::BadCdb(1));
    let mut unit = held(WriteExclusive);
    unit.conflicts(A2, move_to(20, 21, B2));
    unit.conflicts(A1, move_to(11, 21, A2));
    unit.conflicts(B2, move_to(20, 21, A2));
    unit.refused(A1, move_to(10, 0, A2), Verdict::BadParameter(8));
    unit.refused(A1, move_to(10, 21, A1), Verdict::BadParameter(24));
    unit.refused(A1, move_to(10, 21, B1), Verdict::BadParameter(24));
    held(ExclusiveAccessAll).conflicts(A1, move_to(10, 21, A2));
}

#[test]
fn scsi2_reservation_keeps_persistent_requests_out_its_holders_too() {
    // SPC-2 5.5.1: regardless of initiator and service action.
    for reserved in [reserve(), extents(1, &[(ExtentKind::ReadShared, 0, 1)])] {
        for by in [A1, B2] {
            let mut unit = Unit::with(&[(A1, reserved.clone())]);
            unit.conflicts(by, register(1, 0, 10));
            unit.conflicts(by, register_and_ignore(1, 10));
            unit.conflicts(by, pr_reserve(10, WriteExclusive));
            unit.conflicts(by, pr_release(10, WriteExclusive));
            unit.conflicts(by, Request::Clear { key: 10 });
            unit.conflicts(by, preempt(10, 20, WriteExclusive));
            unit.conflicts(by, move_to(10, 20, A2));
        }
    }
}

#[test]
fn reserve_and_release_with_registrations_do_nothing_or_conflict() {
    let requests = [
        reserve(),
        release(),
        extents(1, &[(ExtentKind::ReadShared, 0, 1)]),
        release_extents(1),
        reserve_for(9),
    ];
    for request in requests {
        // Nobody holds.
        for by in [A1, B2, A2] {
            three().conflicts(by, request.clone());
        }
        // SPC-4 5.13.3, CRH: the holder, and registrants whom the type serves.
        for kind in PersistentKind::ALL {
            let mut unit = held(kind);
            unit.ignores(A1, request.clone());
            if kind.serves_registrants() {
                unit.ignores(B2, request.clone());
            } else {
                unit.conflicts(B2, request.clone());
            }
            unit.conflicts(A2, request.clone());
        }
    }
}

#[test]
fn lost_nexus_keeps_its_registration_and_reservation() {
    let mut unit = held(WriteExclusive);
    assert!(!unit.tables.holds(A1));
    unit.ignores(A1, Request::NexusLost);
}

#[test]
fn generation_wraps() {
    let state = ReservationState { generation: u32::MAX, ..ReservationState::default() };
    let mut unit = Unit { tables: Reservations::from_parts(state).unwrap(), time: 0 };
    unit.done(A1, register(1, 0, 10));
    assert_eq!(generation(&unit), 0);
}

#[test]
fn persistent_reservation_is_a_row_of_the_table() {
    let unit = held(ExclusiveAccess);
    let row = ReservationRow {
        since: at(4, SiteId::A),
        owner: A1,
        third_party: None,
        extent: None,
        kind: ReservationKind::Persistent(ExclusiveAccess),
        id: None,
    };
    assert_eq!(unit.tables.rows(), [row]);
    assert_eq!(unit.tables.explain(Lba(77)), [row]);
    assert_eq!(unit.tables.map(blocks(0, 1000)), [blocks(0, 1000)]);
    assert_eq!(three().tables.rows(), []);
    let rows = held(ExclusiveAccessAll).tables.rows();
    assert_eq!(rows.iter().map(|row| row.owner).collect::<Vec<_>>(), [A1]);
}
