//! Volumes whose reservations the stores keep (E5), through two engines; the test is both stores.

mod back_to_back;

use back_to_back::{MS, Pair, VOLUME, host};
use biplex_engine::engine::*;
use biplex_engine::message::Message;
use biplex_engine::reserve::{
    Claim, ExtentKind, Extents, PersistentKind, Registrant, Request, Reset, Verdict,
};
use biplex_engine::*;

const A: SiteId = SiteId::A;
const B: SiteId = SiteId::B;
const RESERVE: Request = Request::Reserve { third_party: None, extents: None };
const RELEASE: Request = Request::Release { third_party: None, extents: None };
const PERSISTENT: Request = Request::ReservePersistent { key: 7, kind: PersistentKind::WriteExclusive };

/// What a store says to a request.
type Store<'a> = &'a dyn Fn(SiteId, &Request) -> Verdict;

fn does_all(_: SiteId, _: &Request) -> Verdict {
    Verdict::Done
}

/// What the store of a site was asked and has not answered.
fn asked(pair: &Pair, site: SiteId) -> Vec<(Stamp, Nexus, Request)> {
    let pass = |action: &Action| match action {
        Action::Pass { stamp, nexus, request, .. } => Some((*stamp, *nexus, (**request).clone())),
        _ => None,
    };
    pair.seen[site.index()].iter().filter_map(pass).collect()
}

fn answer(pair: &mut Pair, site: SiteId, store: Store) {
    let all = asked(pair, site);
    pair.seen[site.index()].retain(|action| !matches!(action, Action::Pass { .. }));
    for (stamp, _, request) in all {
        let verdict = store(site, &request);
        pair.engines[site.index()].handle_passed(VOLUME, stamp, verdict);
    }
    pair.drain(site);
}

fn settle(pair: &mut Pair, store: Store) {
    for _ in 0..6 {
        pair.settle();
        SiteId::BOTH.iter().for_each(|site| answer(pair, *site, store));
        pair.pass(2 * MS);
    }
}

fn paired() -> Pair {
    let mut pair = Pair::new(Rules { disk: true, ..Rules::of(Mode::Sync) });
    pair.connect();
    settle(&mut pair, &does_all);
    assert!(SiteId::BOTH.iter().all(|site| pair.engines[site.index()].serving(pair.now, VOLUME)));
    pair.seen = [vec![], vec![]];
    pair
}

fn ask(pair: &mut Pair, nexus: Nexus, op: u64, request: Request) {
    pair.engines[nexus.site.index()].handle_control(pair.now, OpId(op), VOLUME, nexus, request);
    pair.drain(nexus.site);
}

fn alarms(pair: &Pair, site: SiteId) -> Vec<String> {
    let alarm = |action: &Action| match action {
        Action::Notice { severity: Severity::Alarm, text } => Some(text.clone()),
        _ => None,
    };
    pair.seen[site.index()].iter().filter_map(alarm).collect()
}

#[test]
fn a_request_goes_to_both_stores_and_is_done_when_both_did_it() {
    let mut pair = paired();
    ask(&mut pair, host(A, 1), 1, RESERVE);
    pair.settle();
    for site in SiteId::BOTH {
        let all: Vec<_> =
            asked(&pair, site).into_iter().map(|(_, nexus, request)| (nexus, request)).collect();
        assert_eq!(all, [(host(A, 1), RESERVE)], "at {site}");
    }
    answer(&mut pair, A, &does_all);
    pair.settle();
    pair.pass(10 * MS);
    pair.settle();
    assert_eq!(pair.outcome(A, 1), None, "the other store has not answered");
    answer(&mut pair, B, &does_all);
    pair.settle();
    assert_eq!(pair.outcome(A, 1), Some(Outcome::Verdict(Verdict::Done)));
    let table = pair.engines[0].reservations(VOLUME).expect("the volume");
    assert!(table.is_free(), "no table is kept");
}

#[test]
fn requests_of_both_sites_reach_both_stores_one_by_one_in_the_same_order() {
    let mut pair = paired();
    ask(&mut pair, host(B, 2), 1, RESERVE);
    ask(&mut pair, host(A, 1), 1, RESERVE);
    let mut order: [Vec<Nexus>; 2] = [vec![], vec![]];
    for _ in 0..6 {
        pair.settle();
        for site in SiteId::BOTH {
            let all = asked(&pair, site);
            assert!(all.len() <= 1, "one at a time");
            order[site.index()].extend(all.iter().map(|(_, nexus, _)| *nexus));
            answer(&mut pair, site, &does_all);
        }
        pair.pass(2 * MS);
    }
    assert_eq!(order, [[host(A, 1), host(B, 2)], [host(A, 1), host(B, 2)]], "equal times: A's first");
}

#[test]
fn where_the_stores_differ_the_host_is_refused_and_what_one_granted_is_taken_back() {
    for refuses in SiteId::BOTH {
        let store = move |site: SiteId, request: &Request| match request {
            Request::Reserve { .. } if site == refuses => Verdict::Conflict,
            _ => Verdict::Done,
        };
        let mut pair = paired();
        ask(&mut pair, host(A, 1), 1, RESERVE);
        pair.settle();
        let mut seen = [vec![], vec![]];
        for _ in 0..6 {
            for site in SiteId::BOTH {
                seen[site.index()].extend(asked(&pair, site).into_iter().map(|(_, _, request)| request));
                answer(&mut pair, site, &store);
            }
            pair.settle();
            pair.pass(2 * MS);
        }
        assert_eq!(pair.outcome(A, 1), Some(Outcome::Verdict(Verdict::Conflict)), "{refuses} refuses");
        assert_eq!(seen, [[RESERVE, RELEASE], [RESERVE, RELEASE]], "{refuses} refuses");
        let told = alarms(&pair, A);
        assert!(told.len() == 1 && told[0].contains("the units differ over RESERVE"), "{told:?}");
    }
}

/// Extents and third parties: what is taken back is what was asked for, and one store that knows no extents differs only
/// once.
#[test]
fn what_one_store_cannot_reserve_is_released_by_its_name_at_the_other() {
    let claims =
        vec![Claim { kind: ExtentKind::WriteExclusive, extent: Extent::new(Lba(8), 8).expect("blocks") }];
    let third_party = Some(HostId(9));
    for (asked_for, undone) in [
        (
            Request::Reserve { third_party: None, extents: Some(Extents { id: 7, claims: claims.clone() }) },
            Request::Release { third_party: None, extents: Some(7) },
        ),
        (
            Request::Reserve { third_party, extents: Some(Extents { id: 8, claims }) },
            Request::Release { third_party, extents: Some(8) },
        ),
        (Request::Reserve { third_party, extents: None }, Request::Release { third_party, extents: None }),
    ] {
        let store = |site: SiteId, _: &Request| if site == B { Verdict::BadCdb(1) } else { Verdict::Done };
        let mut pair = paired();
        ask(&mut pair, host(A, 1), 1, asked_for.clone());
        pair.settle();
        let mut seen = vec![];
        for _ in 0..6 {
            seen.extend(asked(&pair, A).into_iter().map(|(_, _, request)| request));
            SiteId::BOTH.iter().for_each(|site| answer(&mut pair, *site, &store));
            pair.settle();
            pair.pass(2 * MS);
        }
        assert_eq!(pair.outcome(A, 1), Some(Outcome::Verdict(Verdict::BadCdb(1))));
        assert_eq!(seen, [asked_for, undone.clone()]);
        assert_eq!(alarms(&pair, A).len(), 1, "{:?}", alarms(&pair, A));
        // A host's own RELEASE of such is refused, and nothing differs.
        ask(&mut pair, host(A, 1), 2, undone);
        settle(&mut pair, &store);
        assert_eq!(pair.outcome(A, 2), Some(Outcome::Verdict(Verdict::BadCdb(1))));
        assert_eq!(alarms(&pair, A).len(), 1, "{:?}", alarms(&pair, A));
    }
}

/// A host that registered and is not remembered may lose its nexus with the store, and data its way.
#[test]
fn where_nobody_more_can_be_remembered_the_operator_is_told() {
    let mut pair = paired();
    for group in 1..=2 {
        assert!(alarms(&pair, A).is_empty(), "{group}");
        let one = |host: u64| Registrant {
            nexus: Nexus { host: HostId(group << 8 | host), isid: 1, site: A },
            name: "iqn.2026-11.example:more".into(),
        };
        let also = (1..=64).map(one).collect();
        let Request::Register { key, new_key, aptpl, all_ports, name, .. } = register() else {
            unreachable!("it is one");
        };
        let register = Request::Register { key, new_key, aptpl, all_ports, name, also };
        ask(&mut pair, host(A, group << 8), group, register);
        settle(&mut pair, &does_all);
        assert_eq!(pair.outcome(A, group), Some(Outcome::Verdict(Verdict::Done)));
    }
    for site in SiteId::BOTH {
        let told = alarms(&pair, site);
        assert!(told.len() == 1 && told[0].contains("more hosts are registered"), "{told:?}");
    }
}

/// They need nexuses with the stores, for data may have to go through them.
#[test]
fn who_was_registered_along_or_moved_to_is_remembered() {
    let mut pair = paired();
    let one = |nexus: Nexus| Registrant { nexus, name: "iqn.2026-11.example:more".into() };
    let register = Request::Register {
        key: Some(0),
        new_key: 7,
        aptpl: false,
        all_ports: false,
        name: "iqn.2026-11.example:asks".into(),
        also: vec![one(host(A, 2)), one(host(A, 3))],
    };
    let to = one(host(B, 4));
    let moved = Request::Move { key: 7, new_key: 8, unregister: true, aptpl: false, to };
    ask(&mut pair, host(A, 1), 1, register);
    settle(&mut pair, &does_all);
    ask(&mut pair, host(A, 1), 2, moved);
    settle(&mut pair, &does_all);
    for engine in &pair.engines {
        let table = engine.reservations(VOLUME).expect("the volume");
        let known = table.parts().registrations.iter().map(|one| (one.registrant.nexus, one.key));
        let expected = [(host(A, 2), 7), (host(A, 3), 7), (host(B, 4), 8)];
        assert_eq!(known.collect::<Vec<_>>(), expected);
    }
}

#[test]
fn no_answer_of_a_store_is_no_grant() {
    let store = |site: SiteId, request: &Request| match request {
        Request::Reserve { .. } if site == B => Verdict::Unreachable,
        _ => Verdict::Done,
    };
    let mut pair = paired();
    ask(&mut pair, host(A, 1), 1, RESERVE);
    settle(&mut pair, &store);
    assert_eq!(pair.outcome(A, 1), Some(Outcome::Verdict(Verdict::Unreachable)));
}

#[test]
fn what_stood_at_the_door_while_a_request_was_with_the_store_is_sent_away() {
    let mut pair = paired();
    ask(&mut pair, host(A, 1), 1, RESERVE);
    pair.settle();
    assert_eq!(asked(&pair, A).len(), 1);
    // The lease runs out: writes stand at the door.
    pair.now.mono += 500 * MS;
    pair.now.wall += 500 * MS;
    pair.write(A, 2, 0, 1, 7);
    assert_eq!(pair.outcome(A, 2), None);
    answer(&mut pair, A, &does_all);
    pair.make_durable(A);
    assert_eq!(pair.outcome(A, 2), Some(Outcome::Busy), "the store had let it in before the reservation");
}

#[test]
fn an_outcome_that_was_lost_with_the_line_is_told_again() {
    let mut pair = paired();
    ask(&mut pair, host(A, 1), 1, RESERVE);
    pair.settle();
    answer(&mut pair, A, &does_all);
    answer(&mut pair, B, &does_all);
    pair.make_durable(A);
    pair.make_durable(B);
    let lost = std::mem::take(&mut pair.wire[A.index()]);
    assert!(lost.iter().any(|message| matches!(message, Message::Passed { .. })), "{lost:?}");
    for site in SiteId::BOTH {
        pair.engines[site.index()].handle_link_closed(pair.now);
        pair.drain(site);
    }
    pair.wire = [vec![], vec![]];
    pair.connect();
    settle(&mut pair, &does_all);
    assert_eq!(pair.outcome(A, 1), Some(Outcome::Verdict(Verdict::Done)));
}

#[test]
fn a_nexus_that_ends_and_a_store_that_lost_one_release_at_both() {
    let mut pair = paired();
    ask(&mut pair, host(A, 1), 1, RESERVE);
    settle(&mut pair, &does_all);
    pair.engines[0].handle_nexus_lost(pair.now, host(A, 1));
    pair.drain(A);
    pair.settle();
    for site in SiteId::BOTH {
        let all = asked(&pair, site);
        assert!(matches!(&all[..], [(_, nexus, Request::NexusLost)] if *nexus == host(A, 1)), "{all:?}");
        answer(&mut pair, site, &does_all);
    }
    settle(&mut pair, &does_all);
    pair.engines[1].handle_unit_lost(pair.now, VOLUME, Reset::Unit);
    pair.drain(B);
    pair.settle();
    for site in SiteId::BOTH {
        let all = asked(&pair, site);
        assert!(matches!(&all[..], [(_, _, Request::Reset(Reset::Unit))]), "{all:?}");
    }
}

#[test]
fn reserves_that_all_are_refused_do_not_wait_for_each_other() {
    let store = |_: SiteId, request: &Request| match request {
        Request::Reserve { .. } => Verdict::Conflict,
        _ => Verdict::Done,
    };
    let mut pair = paired();
    let hosts = [host(A, 1), host(A, 2), host(B, 3), host(B, 4)];
    for (op, nexus) in (1..).zip(hosts) {
        ask(&mut pair, nexus, op, RESERVE);
    }
    let mut passed = [0, 0];
    for _ in 0..40 {
        pair.settle();
        for site in SiteId::BOTH {
            passed[site.index()] += asked(&pair, site).len();
            answer(&mut pair, site, &store);
        }
        pair.pass(2 * MS);
    }
    assert_eq!(passed, [4, 4], "each is asked once");
    for (op, nexus) in (1..).zip(hosts) {
        assert_eq!(pair.outcome(nexus.site, op), Some(Outcome::Verdict(Verdict::Conflict)), "{nexus}");
    }
}

const RULES: Rules = Rules { mode: Mode::Sync, discard: false, swaps: false, disk: true };

fn register() -> Request {
    register_from(Some(0), 7)
}

fn register_from(key: Option<u64>, new_key: u64) -> Request {
    Request::Register { key, new_key, aptpl: true, all_ports: false, name: "iqn.a:b".into(), also: vec![] }
}

/// Names of what the store of a site is asked until nothing moves any more; it does all.
fn played(pair: &mut Pair, site: SiteId) -> Vec<&'static str> {
    let mut names = Vec::new();
    for _ in 0..8 {
        pair.settle();
        names.extend(asked(pair, site).into_iter().map(|(_, _, request)| request.name()));
        SiteId::BOTH.iter().for_each(|site| answer(pair, *site, &does_all));
        pair.pass(2 * MS);
    }
    names
}

#[test]
fn what_a_store_did_before_a_crash_is_told_and_not_asked_of_it_again() {
    let mut pair = paired();
    ask(&mut pair, host(A, 1), 1, register());
    pair.settle();
    SiteId::BOTH.iter().for_each(|site| answer(&mut pair, *site, &does_all));
    pair.make_durable(A);
    pair.make_durable(B);
    let told = &pair.wire[A.index()];
    assert!(told.iter().any(|message| matches!(message, Message::Passed { .. })), "what the crash loses");
    assert_eq!(pair.outcome(A, 1), None);
    pair.crash(B, RULES);
    pair.connect();
    let asked = played(&mut pair, B);
    assert!(asked.iter().all(|name| *name == "site started"), "{asked:?}");
    assert_eq!(pair.outcome(A, 1), Some(Outcome::Verdict(Verdict::Done)));
    let table = pair.engines[1].reservations(VOLUME).expect("the volume");
    assert_eq!(table.parts().registrations.len(), 1, "its nexus is known after the crash");
    assert!(alarms(&pair, A).is_empty());
}

#[test]
fn an_outcome_that_is_not_written_down_is_told_to_nobody() {
    let mut pair = paired();
    ask(&mut pair, host(A, 1), 1, register());
    pair.settle();
    SiteId::BOTH.iter().for_each(|site| answer(&mut pair, *site, &does_all));
    let told = &pair.wire[A.index()];
    assert!(!told.iter().any(|message| matches!(message, Message::Passed { .. })), "{told:?}");
    pair.crash(B, RULES);
    pair.connect();
    pair.settle();
    let again: Vec<_> = asked(&pair, B).into_iter().map(|(_, nexus, request)| (nexus, request)).collect();
    assert_eq!(again, [(host(A, 1), register())], "nobody knows whether the store did it");
    // It had: so it now conflicts with itself.
    let store = |site: SiteId, request: &Request| match request {
        Request::Register { .. } if site == B => Verdict::Conflict,
        _ => Verdict::Done,
    };
    settle(&mut pair, &store);
    assert_eq!(pair.outcome(A, 1), Some(Outcome::Verdict(Verdict::Unreachable)), "that means nothing");
}

#[test]
fn a_refused_registration_is_not_remembered_and_a_refused_end_of_one_ends_nothing() {
    let store = |_: SiteId, request: &Request| match request {
        Request::Register { key: Some(9), .. } => Verdict::Conflict,
        _ => Verdict::Done,
    };
    let (unregister, refused) = (register_from(Some(9), 0), register_from(Some(9), 5));
    let mut pair = paired();
    let all = [(host(A, 1), register()), (host(A, 1), unregister), (host(A, 2), refused)];
    for (op, (nexus, request)) in (1..).zip(all) {
        ask(&mut pair, nexus, op, request);
        settle(&mut pair, &store);
    }
    // Beyond the cut only the tables that are saved with it tell who registered.
    for _ in 0..100 {
        pair.pass(10 * MS);
        settle(&mut pair, &store);
    }
    let saved = pair.seen[1].iter().rev().find_map(|action| match action {
        Action::SaveReservations(all) => Some(all[0].1.clone()),
        _ => None,
    });
    let saved = saved.expect("a cut was taken");
    let known: Vec<Nexus> = saved.parts().registrations.iter().map(|one| one.registrant.nexus).collect();
    assert_eq!(known, [host(A, 1)]);
}

/// A site that starts opens nexuses for those who are registered, and data may have no other way.
#[test]
fn who_asked_in_vain_to_be_unregistered_is_a_registrant_after_a_crash() {
    let unregister = |key| register_from(Some(key), 0);
    let store = |_: SiteId, request: &Request| match request {
        Request::Register { key: Some(9), .. } => Verdict::Conflict,
        _ => Verdict::Done,
    };
    let mut pair = paired();
    let all = [(host(A, 1), register()), (host(A, 1), unregister(9)), (host(A, 2), register())];
    for (op, (nexus, request)) in (1..).zip(all.into_iter().chain([(host(A, 2), unregister(7))])) {
        ask(&mut pair, nexus, op, request);
        settle(&mut pair, &store);
    }
    // Nobody knows what came of this.
    ask(&mut pair, host(A, 1), 5, unregister(7));
    pair.make_durable(A);
    pair.make_durable(B);
    for site in SiteId::BOTH {
        pair.crash(site, RULES);
        let registrants = pair.engines[site.index()].registrants(VOLUME);
        assert_eq!(registrants.into_iter().collect::<Vec<_>>(), [host(A, 1)], "at {site}");
    }
}

#[test]
fn a_store_that_does_not_answer_holds_up_no_write() {
    let mut pair = paired();
    ask(&mut pair, host(A, 1), 1, register());
    pair.settle();
    answer(&mut pair, A, &does_all);
    pair.settle();
    assert_eq!(asked(&pair, B).len(), 1, "it is with the other store");
    pair.write(A, 2, 0, 1, 7);
    pair.settle();
    assert_eq!(pair.outcome(A, 2), Some(Outcome::Done), "durable in both journals");
    pair.read(A, 3, 0, 1);
    assert!(pair.served(A, 3).is_some());
    assert_eq!(pair.outcome(A, 1), None, "of the request nothing is known yet");
}

#[test]
fn a_holder_that_asks_again_holds_on_though_one_store_does_not_answer() {
    let mut pair = paired();
    ask(&mut pair, host(A, 1), 1, RESERVE);
    settle(&mut pair, &does_all);
    assert_eq!(pair.outcome(A, 1), Some(Outcome::Verdict(Verdict::Done)));
    let away = |site: SiteId, request: &Request| match request {
        Request::Reserve { .. } if site == B => Verdict::Unreachable,
        _ => Verdict::Done,
    };
    ask(&mut pair, host(A, 1), 2, RESERVE);
    settle(&mut pair, &away);
    assert_eq!(pair.outcome(A, 2), Some(Outcome::Verdict(Verdict::Unreachable)));
    let told = alarms(&pair, A);
    assert!(told.len() == 1 && told[0].contains("it holds on"), "{told:?}");
    assert_eq!(played(&mut pair, A), [""; 0], "nothing is released");
    // Who held nothing before is not left with half of it.
    ask(&mut pair, host(A, 1), 3, RELEASE);
    settle(&mut pair, &does_all);
    ask(&mut pair, host(A, 1), 4, RESERVE);
    pair.settle();
    SiteId::BOTH.iter().for_each(|site| answer(&mut pair, *site, &away));
    assert_eq!(played(&mut pair, B), ["RELEASE"]);
}

/// Asks for it, and while it is under way B's store is away.
fn ask_while_b_is_away(pair: &mut Pair, op: u64, request: Request) {
    let away = |site: SiteId, request: &Request| match request {
        Request::Reserve { .. } | Request::ReservePersistent { .. } if site == B => Verdict::Unreachable,
        _ => Verdict::Done,
    };
    ask(pair, host(A, 1), op, request);
    pair.settle();
    SiteId::BOTH.iter().for_each(|site| answer(pair, *site, &away));
}

#[test]
fn what_others_ask_for_does_not_make_a_holder_lose_what_it_asks_for_again() {
    let others = [
        (host(A, 2), register_from(Some(0), 8)),
        (host(B, 3), Request::Reset(Reset::Unit)),
        (host(A, 1), register()),
        (
            host(A, 1),
            Request::Preempt { key: 7, victim: 8, kind: PersistentKind::WriteExclusive, abort: false },
        ),
    ];
    for (nexus, between) in others {
        let mut pair = paired();
        for (op, request) in (1..).zip([register(), PERSISTENT]) {
            ask(&mut pair, host(A, 1), op, request);
            settle(&mut pair, &does_all);
            assert_eq!(pair.outcome(A, op), Some(Outcome::Verdict(Verdict::Done)));
        }
        let name = between.name();
        ask(&mut pair, nexus, 3, between);
        settle(&mut pair, &does_all);
        ask_while_b_is_away(&mut pair, 4, PERSISTENT);
        assert_eq!(played(&mut pair, A), [""; 0], "{name} by {nexus}: it holds on");
    }
}

#[test]
fn what_ended_a_reservation_is_no_reason_to_leave_half_of_the_next() {
    let persistent: &[Request] = &[
        Request::ReleasePersistent { key: 7, kind: PersistentKind::WriteExclusive },
        register_from(Some(7), 0),
        Request::Clear { key: 8 },
        Request::Preempt { key: 8, victim: 7, kind: PersistentKind::WriteExclusive, abort: false },
    ];
    for (held, undo, ends) in [
        (PERSISTENT, "PR RELEASE", persistent),
        (RESERVE, "RELEASE", &[RELEASE, Request::Reset(Reset::Unit), Request::NexusLost][..]),
    ] {
        for end in ends {
            let mut pair = paired();
            ask(&mut pair, host(A, 1), 1, register());
            settle(&mut pair, &does_all);
            ask(&mut pair, host(A, 1), 2, held.clone());
            settle(&mut pair, &does_all);
            let name = end.name();
            let by = match end {
                Request::Clear { .. } | Request::Preempt { .. } | Request::Reset(_) => host(A, 2),
                _ => host(A, 1),
            };
            match end {
                Request::NexusLost => pair.engines[0].handle_nexus_lost(pair.now, host(A, 1)),
                end => ask(&mut pair, by, 3, end.clone()),
            }
            pair.drain(A);
            settle(&mut pair, &does_all);
            ask_while_b_is_away(&mut pair, 4, held.clone());
            assert_eq!(played(&mut pair, B), [undo], "{name}");
        }
    }
}

/// Of the unit it says nothing that some blocks are asked for in vain, nor the other way round.
#[test]
fn a_holder_of_one_thing_is_not_left_with_half_of_another() {
    let claims =
        vec![Claim { kind: ExtentKind::WriteExclusive, extent: Extent::new(Lba(8), 8).expect("blocks") }];
    let extents =
        |id| Request::Reserve { third_party: None, extents: Some(Extents { id, claims: claims.clone() }) };
    for held in [RESERVE, extents(1), extents(2)] {
        let mut pair = paired();
        ask(&mut pair, host(A, 1), 1, held);
        settle(&mut pair, &does_all);
        ask_while_b_is_away(&mut pair, 2, extents(2));
        assert_eq!(played(&mut pair, A), ["RELEASE extents"]);
    }
}

#[test]
fn a_holder_that_asks_again_after_a_crash_of_its_site_holds_on() {
    let mut pair = paired();
    for (op, request) in (1..).zip([register(), PERSISTENT]) {
        ask(&mut pair, host(A, 1), op, request);
        settle(&mut pair, &does_all);
    }
    pair.crash(A, RULES);
    pair.connect();
    settle(&mut pair, &does_all);
    ask_while_b_is_away(&mut pair, 3, PERSISTENT);
    assert_eq!(played(&mut pair, A), [""; 0], "it may have held it");
}

#[test]
fn what_was_taken_back_before_a_crash_is_not_taken_back_again() {
    let mut pair = paired();
    ask(&mut pair, host(A, 1), 1, register());
    settle(&mut pair, &does_all);
    ask_while_b_is_away(&mut pair, 2, PERSISTENT);
    assert_eq!(played(&mut pair, A), ["PR RELEASE"]);
    ask(&mut pair, host(A, 1), 3, PERSISTENT);
    settle(&mut pair, &does_all);
    assert_eq!(pair.outcome(A, 3), Some(Outcome::Verdict(Verdict::Done)));
    pair.crash(A, RULES);
    pair.connect();
    assert_eq!(played(&mut pair, B), ["site started"], "what it was granted since stands");
}

/// As a host that waited too long for the first may do.
#[test]
fn what_a_host_was_granted_is_not_taken_back_for_what_it_asked_before() {
    let refused = std::cell::Cell::new(false);
    let store = |site: SiteId, request: &Request| match request {
        Request::Reserve { .. } if site == B && !refused.replace(true) => Verdict::Conflict,
        _ => Verdict::Done,
    };
    let mut pair = paired();
    ask(&mut pair, host(A, 1), 1, RESERVE);
    ask(&mut pair, host(A, 1), 2, RESERVE);
    let mut seen = vec![];
    for _ in 0..8 {
        pair.settle();
        seen.extend(asked(&pair, B).into_iter().map(|(_, _, request)| request));
        SiteId::BOTH.iter().for_each(|site| answer(&mut pair, *site, &store));
        pair.pass(2 * MS);
    }
    assert_eq!(pair.outcome(A, 1), Some(Outcome::Verdict(Verdict::Conflict)));
    assert_eq!(pair.outcome(A, 2), Some(Outcome::Verdict(Verdict::Done)));
    assert_eq!(seen, [RESERVE, RESERVE]);
}

/// The other site has destaged it, and was started anew: it does not know any more what its store said.
#[test]
fn an_outcome_that_nobody_knows_any_more_is_in_doubt() {
    for (request, undone) in
        [(RESERVE, &["RELEASE", "site started"][..]), (Request::Reset(Reset::Unit), &["site started"])]
    {
        let store = |site: SiteId, request: &Request| match request {
            Request::Reserve { .. } if site == B => Verdict::Conflict,
            _ => Verdict::Done,
        };
        let mut pair = paired();
        ask(&mut pair, host(A, 1), 1, request);
        pair.settle();
        // A's promise passes the request, so that B may destage it; what B says to it is lost with the line.
        pair.pass(2 * MS);
        pair.deliver(B);
        pair.pass(200 * MS);
        pair.deliver(B);
        SiteId::BOTH.iter().for_each(|site| answer(&mut pair, *site, &store));
        SiteId::BOTH.iter().for_each(|site| pair.make_durable(*site));
        assert!(pair.wire[0].iter().any(|message| matches!(message, Message::Passed { .. })));
        for site in SiteId::BOTH {
            pair.engines[site.index()].handle_link_closed(pair.now);
        }
        pair.wire = [vec![], vec![]];
        pair.pass(200 * MS);
        pair.make_durable(B);
        pair.crash(B, RULES);
        pair.connect();
        assert_eq!(played(&mut pair, A), undone);
        assert_eq!(alarms(&pair, A).iter().any(|text| text.contains("units differ over")), undone.len() == 2);
    }
}

/// It asked for both before it heard of either.
#[test]
fn who_released_what_it_was_granted_meanwhile_is_no_holder() {
    let mut pair = paired();
    for (op, request) in (1..).zip([RESERVE, RELEASE]) {
        ask(&mut pair, host(A, 1), op, request);
    }
    pair.settle();
    answer(&mut pair, B, &does_all);
    let mut heard_late = vec![];
    for _ in 0..6 {
        SiteId::BOTH.iter().for_each(|site| pair.make_durable(*site));
        heard_late.append(&mut pair.wire[0]);
        pair.deliver(B);
        SiteId::BOTH.iter().for_each(|site| answer(&mut pair, *site, &does_all));
    }
    pair.wire[0] = heard_late;
    settle(&mut pair, &does_all);
    assert_eq!(pair.outcome(A, 2), Some(Outcome::Verdict(Verdict::Done)));
    ask_while_b_is_away(&mut pair, 3, RESERVE);
    assert_eq!(played(&mut pair, B), ["RELEASE"]);
}

#[test]
fn a_reserve_refused_before_a_release_was_executed_is_passed_again_when_the_other_site_is_slow_to_tell() {
    let store = |site: SiteId, request: &Request| match request {
        Request::Reserve { .. } if site == B => Verdict::Conflict,
        _ => Verdict::Done,
    };
    let mut pair = paired();
    ask(&mut pair, host(B, 2), 1, RESERVE);
    pair.settle();
    // B has executed both before it hears how the reserve ended at A.
    answer(&mut pair, B, &store);
    ask(&mut pair, host(B, 3), 2, RELEASE);
    pair.settle();
    pair.pass(2 * MS);
    pair.settle();
    answer(&mut pair, B, &store);
    pair.settle();
    let refuses = |_: SiteId, request: &Request| match request {
        Request::Reserve { .. } => Verdict::Conflict,
        _ => Verdict::Done,
    };
    answer(&mut pair, A, &refuses);
    settle(&mut pair, &does_all);
    assert_eq!(pair.outcome(B, 1), Some(Outcome::Verdict(Verdict::Done)));
}
