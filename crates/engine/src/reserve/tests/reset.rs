//! Resets, mode parameters, and starts of sites.

use super::*;
use PersistentKind::WriteExclusiveRegistrants as WeRo;

const PROTECTED: ModeBits = ModeBits { descriptor_sense: false, write_protected: true };

fn all(attention: Attention, but: Option<Nexus>) -> Effect {
    Effect::AttendAll { but, attention }
}

#[test]
fn unit_and_target_resets_release_scsi2_of_all_and_set_modes_back() {
    for (reset, attention) in [
        (Reset::Unit, Attention::Reset),
        (Reset::TargetWarm, Attention::Reset),
        (Reset::TargetCold, Attention::PowerOn),
    ] {
        let mut unit = Unit::with(&[(A1, reserve_for(2)), (B2, Request::SetModes(PROTECTED))]);
        let effects = unit.done(B3, Request::Reset(reset));
        let modes = Effect::Modes(ModeBits::default());
        assert_eq!(effects, [Effect::AbortAll, modes, all(attention, None)], "{reset:?}");
        assert_eq!(unit.tables, Reservations::default());
        let effects = unit.done(B3, Request::Reset(reset));
        assert_eq!(effects, [Effect::AbortAll, all(attention, None)], "{reset:?}");
    }
}

#[test]
fn resets_leave_what_is_persistent_alone() {
    let mut unit = Unit::with(&[(A1, register(1, 0, 10)), (A1, pr_reserve(10, WeRo))]);
    for reset in Reset::ALL {
        let before = unit.tables.clone();
        unit.done(B3, Request::Reset(reset));
        assert_eq!(unit.tables, before, "{reset:?}");
    }
}

#[test]
fn cleared_task_set_tells_all_but_who_cleared_it_and_keeps_reservations() {
    let mut unit = Unit::with(&[(A1, reserve())]);
    let before = unit.tables.clone();
    let effects = unit.done(B2, Request::Reset(Reset::TaskSet));
    assert_eq!(effects, [Effect::AbortAll, all(Attention::CommandsCleared, Some(B2))]);
    assert_eq!(unit.tables, before);
}

#[test]
fn mode_select_tells_the_others_if_something_changed() {
    let mut unit = Unit::default();
    let effects = unit.done(A1, Request::SetModes(PROTECTED));
    assert_eq!(effects, [Effect::Modes(PROTECTED), all(Attention::ModeChanged, Some(A1))]);
    assert_eq!(unit.tables.modes(), PROTECTED);
    unit.ignores(B2, Request::SetModes(PROTECTED));
}

#[test]
fn mode_select_conflicts_with_what_is_reserved_when_it_is_executed() {
    let kind = ExtentKind::ReadShared;
    let mut unit = Unit::with(&[(A1, extents(1, &[(kind, 0, 1)]))]);
    unit.conflicts(B2, Request::SetModes(PROTECTED));
    unit.done(A1, Request::SetModes(PROTECTED));
    let mut unit = Unit::with(&[(A1, register(1, 0, 10)), (A1, pr_reserve(10, WeRo))]);
    unit.conflicts(B2, Request::SetModes(PROTECTED));
    unit.done(A1, Request::SetModes(PROTECTED));
}

/// What a site's start is stamped with and asked by.
const SITE_A: Nexus = nexus(0, SiteId::A);
const SITE_B: Nexus = nexus(0, SiteId::B);

/// In step in run 1 of A and run 1 of B, with extents of both sites, or registrations with a reservation.
fn scsi2_in_step() -> Unit {
    let kind = ExtentKind::ReadShared;
    Unit::with(&[
        (SITE_A, started(1, 1)),
        (B2, Request::SetModes(PROTECTED)),
        (A1, extents(1, &[(kind, 0, 1)])),
        (A1, extents(2, &[(kind, 0, 1)])),
        (A2, extents(1, &[(kind, 0, 1)])),
        (B1, extents(1, &[(kind, 0, 1)])),
    ])
}

fn persistent_in_step(aptpl: bool) -> Unit {
    let mut last = register(3, 0, 30);
    if let Request::Register { aptpl: on, .. } = &mut last {
        *on = aptpl;
    }
    Unit::with(&[
        (SITE_A, started(1, 1)),
        (A1, register(1, 0, 10)),
        (A1, pr_reserve(10, WeRo)),
        (B3, last),
        (A1, Request::SetModes(PROTECTED)),
    ])
}

#[test]
fn first_start_ever_changes_nothing_but_the_runs() {
    for (first, second) in [(SITE_A, SITE_B), (SITE_B, SITE_A)] {
        let mut unit = Unit::default();
        assert_eq!(unit.done(first, started(1, 1)), []);
        assert_eq!(unit.state().runs, Some([1, 1]));
        unit.ignores(second, started(1, 1));
    }
}

#[test]
fn restart_of_one_site_releases_the_scsi2_reservations_of_its_nexuses() {
    let mut unit = scsi2_in_step();
    assert_eq!(unit.done(SITE_A, started(2, 1)), told(Attention::NexusLost, &[A1, A2]));
    assert!(!unit.tables.holds(A1) && !unit.tables.holds(A2) && unit.tables.holds(B1));
    assert_eq!(unit.tables.modes(), PROTECTED);
    assert_eq!(unit.state().runs, Some([2, 1]));
    // Later the other, which knows of the first's.
    assert_eq!(unit.done(SITE_B, started(2, 2)), told(Attention::NexusLost, &[B1]));
    assert!(unit.tables.is_free());
    assert_eq!(unit.tables.modes(), PROTECTED);
    assert_eq!(unit.state().runs, Some([2, 2]));
    let mut unit = scsi2_in_step();
    assert_eq!(unit.done(SITE_B, started(2, 1)), told(Attention::NexusLost, &[B1]));
    assert!(unit.tables.holds(A1) && unit.tables.holds(A2));
}

#[test]
fn restart_of_one_site_leaves_what_is_persistent_alone() {
    for site in [SITE_A, SITE_B] {
        let mut unit = persistent_in_step(false);
        let mut expected = unit.state().clone();
        assert_eq!(unit.done(site, started(2, 1)), []);
        expected.runs = Some(if site == SITE_A { [2, 1] } else { [1, 2] });
        assert_eq!(*unit.state(), expected);
    }
}

#[test]
fn restart_of_both_sites_is_power_loss_once_whichever_start_comes_first() {
    for (first, second) in [(SITE_A, SITE_B), (SITE_B, SITE_A)] {
        let mut unit = scsi2_in_step();
        let mut expected = vec![Effect::Modes(ModeBits::default())];
        expected.extend(told(Attention::PowerOn, &[A1, B1, A2]));
        assert_eq!(unit.done(first, started(2, 2)), expected);
        let empty = ReservationState { runs: Some([2, 2]), ..ReservationState::default() };
        assert_eq!(*unit.state(), empty);
        // What was reserved since stays when the other site's start is executed.
        unit.done(A2, reserve());
        unit.ignores(second, started(2, 2));
    }
}

#[test]
fn power_loss_clears_what_is_persistent_unless_aptpl_is_on() {
    for (first, second) in [(SITE_A, SITE_B), (SITE_B, SITE_A)] {
        for aptpl in [false, true] {
            let mut unit = persistent_in_step(aptpl);
            let before = unit.state().clone();
            assert_eq!(before.generation, 2);
            let mut effects = vec![Effect::Modes(ModeBits::default())];
            effects.extend(told(Attention::PowerOn, &[A1, B3]));
            assert_eq!(unit.done(first, started(2, 2)), effects);
            let expected = if aptpl {
                ReservationState { generation: 0, modes: ModeBits::default(), runs: Some([2, 2]), ..before }
            } else {
                ReservationState { runs: Some([2, 2]), ..ReservationState::default() }
            };
            assert_eq!(*unit.state(), expected);
            unit.ignores(second, started(2, 2));
        }
    }
}

#[test]
fn site_that_restarts_twice_while_its_peer_goes_on_loses_no_power() {
    let mut unit = persistent_in_step(false);
    unit.done(SITE_A, started(2, 1));
    unit.done(SITE_A, started(5, 1));
    // And a start is told once: the same again says nothing new, whatever it says of the peer.
    unit.ignores(SITE_A, started(5, 1));
    unit.ignores(SITE_A, started(5, 9));
    assert_eq!(unit.keys(), [(A1, 10), (B3, 30)]);
    assert_eq!(unit.state().runs, Some([5, 1]));
}

#[test]
fn start_that_a_crash_kept_from_the_stream_still_counts_as_the_peers_restart() {
    // A was started to run 2 and died before its request was durable; B was started and heard of run 2; then A came
    // back in run 3.
    let mut unit = persistent_in_step(false);
    let effects = unit.done(SITE_B, started(2, 2));
    assert!(effects.contains(&Effect::Attend(A1, Attention::PowerOn)));
    unit.done(SITE_A, started(3, 2));
    assert_eq!(unit.state().runs, Some([3, 2]));
    assert_eq!(unit.keys(), []);
}
