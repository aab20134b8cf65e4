//! Volumes whose reservations the stores keep (E5), through two engines; the test is both stores.

mod back_to_back;

use back_to_back::{MS, Pair, VOLUME, host};
use biplex_engine::engine::*;
use biplex_engine::message::Message;
use biplex_engine::reserve::{Request, Reset, Verdict};
use biplex_engine::*;

const A: SiteId = SiteId::A;
const B: SiteId = SiteId::B;
const RESERVE: Request = Request::Reserve { third_party: None, extents: None };
const RELEASE: Request = Request::Release { third_party: None, extents: None };

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
        pair.engines[site.index()].handle_passed(pair.now, VOLUME, stamp, verdict);
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
    assert_eq!(pair.outcome(A, 2), Some(Outcome::Busy), "the store had let it in before the reservation");
}

#[test]
fn an_outcome_that_was_lost_with_the_line_is_told_again() {
    let mut pair = paired();
    ask(&mut pair, host(A, 1), 1, RESERVE);
    pair.settle();
    answer(&mut pair, A, &does_all);
    answer(&mut pair, B, &does_all);
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
    pair.engines[1].handle_unit_lost(pair.now, VOLUME);
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

fn register(new_key: u64) -> Request {
    let name = "iqn.2026-11.example:host".into();
    Request::Register { key: Some(0), new_key, aptpl: true, all_ports: false, name, also: Vec::new() }
}

/// What the site's journal has of what it appended.
fn journal(pair: &Pair, site: SiteId) -> Vec<Entry> {
    let entry = |action: &Action| match action {
        Action::Append(entry) => Some(entry.clone()),
        _ => None,
    };
    pair.seen[site.index()].iter().filter_map(entry).collect()
}

#[test]
fn after_a_crash_a_persistent_request_is_passed_again_only_if_its_answer_is_not_in_the_journal() {
    let rules = Rules { disk: true, ..Rules::of(Mode::Sync) };
    for recorded in [true, false] {
        let mut pair = paired();
        ask(&mut pair, host(A, 1), 1, register(7));
        pair.settle();
        for site in SiteId::BOTH {
            answer(&mut pair, site, &does_all);
        }
        settle(&mut pair, &does_all);
        assert_eq!(pair.outcome(A, 1), Some(Outcome::Verdict(Verdict::Done)));
        let mut entries = journal(&pair, A);
        assert!(matches!(entries.last(), Some(Entry { body: Body::Verdict { matched: true }, .. })));
        entries.retain(|entry| recorded || !matches!(entry.body, Body::Verdict { .. }));
        pair.seen = [vec![], vec![]];
        pair.restart_with(A, rules, &entries);
        assert!(
            pair.engines[0].registrants(VOLUME).contains(&host(A, 1)),
            "its session is opened either way"
        );
        pair.connect();
        let mut passed = Vec::new();
        for _ in 0..6 {
            passed.extend(asked(&pair, A).into_iter().map(|(_, _, request)| request));
            SiteId::BOTH.iter().for_each(|site| answer(&mut pair, *site, &does_all));
            pair.settle();
            pair.pass(2 * MS);
        }
        assert!(passed.iter().any(|request| matches!(request, Request::SiteStarted { .. })), "{passed:?}");
        assert_eq!(passed.contains(&register(7)), !recorded, "recorded: {recorded}: {passed:?}");
    }
}

#[test]
fn the_next_persistent_request_waits_until_the_answer_to_the_last_is_durable() {
    let mut pair = paired();
    ask(&mut pair, host(A, 1), 1, register(7));
    ask(&mut pair, host(A, 2), 2, register(8));
    pair.settle();
    assert_eq!(asked(&pair, A).len(), 1);
    answer(&mut pair, A, &does_all);
    assert_eq!(asked(&pair, A).len(), 0, "the answer is not in the journal yet");
    pair.make_durable(A);
    assert_eq!(asked(&pair, A).len(), 1);
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
