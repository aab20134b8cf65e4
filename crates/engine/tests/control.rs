//! What is decided in order, through two engines: reservations, COMPARE AND WRITE, undone writes.

mod back_to_back;

use back_to_back::{MS, Pair, VOLUME, WINDOW_BYTES, host};
use biplex_engine::engine::*;
use biplex_engine::judge::HostSwap;
use biplex_engine::message::Message;
use biplex_engine::reserve::{Access, Attention, Effect, PersistentKind, Request, Reset, Verdict};
use biplex_engine::*;
use bytes::Bytes;
use std::sync::Arc;

const A: SiteId = SiteId::A;
const B: SiteId = SiteId::B;
const RESERVE: Request = Request::Reserve { third_party: None, extents: None };
const RELEASE: Request = Request::Release { third_party: None, extents: None };

fn ask(pair: &mut Pair, nexus: Nexus, op: u64, request: Request) {
    pair.engines[nexus.site.index()].handle_control(pair.now, OpId(op), VOLUME, nexus, request);
    pair.drain(nexus.site);
}

fn swap(pair: &mut Pair, site: SiteId, op: u64, lba: u64, from: u8, to: u8) {
    let bytes = Bytes::from([[from; 512], [to; 512]].concat());
    let swap = HostSwap { extent: Extent::new(Lba(lba), 1).expect("a block"), bytes, crc: 0 };
    pair.engines[site.index()].handle_swap(pair.now, OpId(op), VOLUME, host(site, 9), swap);
    pair.drain(site);
}

/// Answers what is to be judged, by what memory holds; the store is all zeros.
fn judge(pair: &mut Pair, site: SiteId) {
    let byte = |source: &Source| match source {
        Source::Memory(bytes) => bytes[0],
        Source::Store | Source::Zero => 0,
        other => panic!("{other:?}"),
    };
    let orders: Vec<Action> = std::mem::take(&mut pair.seen[site.index()]);
    for action in &orders {
        if let Action::Judge { stamp, volume, compare, pieces } = action {
            let difference = (byte(compare) != byte(&pieces[0].source)).then_some(0);
            pair.engines[site.index()].handle_judged(pair.now, *volume, *stamp, Ok(difference));
        }
    }
    pair.seen[site.index()] = orders.into_iter().filter(|a| !matches!(a, Action::Judge { .. })).collect();
    pair.drain(site);
}

fn settle(pair: &mut Pair) {
    for _ in 0..4 {
        pair.settle();
        for site in SiteId::BOTH {
            judge(pair, site);
        }
    }
}

fn verdict(pair: &Pair, site: SiteId, op: u64) -> Option<Verdict> {
    match pair.outcome(site, op)? {
        Outcome::Verdict(verdict) => Some(verdict),
        other => panic!("{other:?}"),
    }
}

fn tables_are_equal(pair: &Pair) {
    let [a, b] = pair.engines.each_ref().map(|engine| engine.reservations(VOLUME).cloned());
    assert_eq!(a, b);
    assert!(a.is_some());
}

#[test]
fn a_reserve_is_granted_when_both_sites_keep_others_out_and_not_before() {
    let mut pair = Pair::paired(Mode::Sync);
    ask(&mut pair, host(A, 1), 1, RESERVE);
    pair.make_durable(A);
    assert_eq!(verdict(&pair, A, 1), None, "the peer does not know");
    pair.deliver(B);
    pair.deliver(A);
    assert_eq!(verdict(&pair, A, 1), None, "the peer has it, but not durable: it may still let others in");
    pair.write(B, 7, 0, 1, 7); // host 9 at B, let in before B executed the reserve
    pair.make_durable(B);
    pair.write(B, 8, 0, 1, 8);
    assert_eq!(pair.outcome(B, 8), Some(Outcome::Conflict));
    pair.deliver(A);
    let own: Vec<u64> = pair.engines[0].rows().iter().map(|row| row.host.0).collect();
    assert_eq!(own, [9], "the write that came before is here when the grant is told");
    pair.settle();
    assert_eq!(verdict(&pair, A, 1), Some(Verdict::Done));
    tables_are_equal(&pair);
    for site in SiteId::BOTH {
        pair.read(site, 20 + site as u64, 0, 1);
        assert_eq!(pair.outcome(site, 20 + site as u64), Some(Outcome::Conflict), "host 9 at {site}");
    }
}

/// Each site's ack of the other's request waits for what the site still has to send, which is more than the window.
#[test]
fn requests_that_cross_before_more_than_a_window_of_writes_are_answered() {
    for mode in [Mode::Async, Mode::Flush, Mode::Sync] {
        let mut pair = Pair::paired(mode);
        let writes = 2 * WINDOW_BYTES / 4096;
        for site in SiteId::BOTH {
            pair.engines[site.index()].handle_link_backlog(usize::MAX);
            ask(&mut pair, host(site, 1), 1, RESERVE);
            for op in 0..writes {
                pair.write(site, 10 + op, op % 60, 1, 7);
            }
        }
        pair.settle();
        for site in SiteId::BOTH {
            assert_eq!(
                pair.engines[site.index()].unacked().0,
                1 + writes,
                "{mode:?}: both have all before them"
            );
            pair.engines[site.index()].handle_link_backlog(0);
            pair.drain(site);
        }
        for _ in 0..20 {
            pair.settle();
            pair.pass(10 * MS);
        }
        for site in SiteId::BOTH {
            assert_eq!(pair.engines[site.index()].unacked(), (0, 0, None), "{mode:?}: site {site}");
            assert!(verdict(&pair, site, 1).is_some(), "{mode:?}: site {site}");
            let done = |op: &u64| pair.outcome(site, 10 + op) == Some(Outcome::Done);
            assert_eq!((0..writes).filter(done).count() as u64, writes, "{mode:?}: site {site}");
        }
        tables_are_equal(&pair);
    }
}

/// A site that restarted executes nothing before it has back what it may have lost: before the resume is over.
#[test]
fn a_site_resumes_behind_a_request_and_more_than_a_window_of_writes() {
    let mut pair = Pair::paired(Mode::Async);
    ask(&mut pair, host(A, 1), 1, RESERVE);
    pair.settle();
    assert_eq!(verdict(&pair, A, 1), Some(Verdict::Done));
    pair.restart(B, Mode::Async);
    pair.engines[0].handle_nexus_lost(pair.now, host(A, 1));
    pair.drain(A);
    let writes = 2 * WINDOW_BYTES / 4096;
    for op in 0..writes {
        pair.write(A, 10 + op, op % 60, 1, 7);
    }
    pair.make_durable(A);
    pair.connect();
    for _ in 0..20 {
        pair.settle();
        pair.pass(10 * MS);
    }
    for site in SiteId::BOTH {
        assert_eq!(pair.engines[site.index()].unacked(), (0, 0, None), "site {site}");
    }
    tables_are_equal(&pair);
}

/// A site whose journal is full needs the peer's ack to cut and so to make room; that ack waits for what the peer sends.
#[test]
fn a_site_that_turns_writes_away_has_its_request_acked_all_the_same() {
    let mut pair = Pair::paired(Mode::Async);
    let writes = 2 * WINDOW_BYTES / 4096;
    pair.engines[1].handle_link_backlog(usize::MAX);
    ask(&mut pair, host(A, 1), 1, RESERVE);
    pair.pass(MS);
    for op in 0..writes {
        pair.write(B, 10 + op, op % 60, 1, 7);
    }
    pair.engines[0].set_journal_room(0);
    pair.settle();
    assert_eq!(pair.engines[0].unacked().0, 1, "B has not sent all that it let in before");
    pair.engines[1].handle_link_backlog(0);
    pair.drain(B);
    for _ in 0..20 {
        pair.settle();
        pair.pass(10 * MS);
    }
    assert_eq!(pair.engines[0].unacked().0, 0);
    assert_eq!(pair.engines[1].unacked().0, writes, "nothing of it is at A");
    assert_eq!(verdict(&pair, A, 1), None, "so nobody is told yet that he is alone");
    pair.engines[0].set_journal_room(u64::MAX);
    pair.connect();
    assert_eq!(verdict(&pair, A, 1), Some(Verdict::Done));
    assert_eq!(pair.engines[1].unacked().0, 0);
    tables_are_equal(&pair);
}

#[test]
fn an_ack_of_a_request_waits_for_the_writes_that_were_let_in_before() {
    let mut pair = Pair::paired(Mode::Async);
    let link = |pair: &mut Pair, queued| {
        pair.engines[1].handle_link_backlog(queued);
        pair.drain(B);
    };
    link(&mut pair, usize::MAX); // B's socket takes nothing: its entries stay behind, its acks do not
    pair.write(B, 7, 0, 1, 7);
    ask(&mut pair, host(A, 1), 1, RESERVE);
    for _ in 0..4 {
        pair.deliver(B);
        pair.make_durable(B);
        pair.make_durable(A);
        pair.deliver(A);
        pair.pass(10 * MS);
    }
    assert_eq!(verdict(&pair, A, 1), None);
    link(&mut pair, 0);
    pair.settle();
    pair.pass(10 * MS);
    pair.settle();
    assert_eq!(verdict(&pair, A, 1), Some(Verdict::Done));
    assert_eq!(pair.engines[0].rows().len(), 1);
}

#[test]
fn of_two_reserves_at_once_the_older_wins_at_both_sites() {
    for first in SiteId::BOTH {
        let mut pair = Pair::paired(Mode::Sync);
        ask(&mut pair, host(first, 1), 1, RESERVE);
        ask(&mut pair, host(first.peer(), 2), 1, RESERVE);
        pair.settle();
        pair.pass(10 * MS);
        pair.settle();
        assert_eq!(verdict(&pair, A, 1), Some(Verdict::Done), "equal times: A has priority");
        assert_eq!(verdict(&pair, B, 1), Some(Verdict::Conflict));
        tables_are_equal(&pair);
    }
}

#[test]
fn a_reserve_starts_over_where_a_release_was_on_its_way() {
    let mut pair = Pair::paired(Mode::Sync);
    ask(&mut pair, host(A, 1), 1, RESERVE);
    pair.settle();
    assert_eq!(verdict(&pair, A, 1), Some(Verdict::Done));
    // B's host reserves at the moment at which A's releases: its stamp is the older one of the two.
    ask(&mut pair, host(B, 2), 2, RESERVE);
    pair.pass(MS);
    ask(&mut pair, host(A, 1), 3, RELEASE);
    pair.settle();
    pair.pass(10 * MS);
    pair.settle();
    assert_eq!(verdict(&pair, A, 3), Some(Verdict::Done));
    assert_eq!(verdict(&pair, B, 2), Some(Verdict::Done), "E3.7");
    tables_are_equal(&pair);
}

#[test]
fn after_a_cut_a_reserve_waits_for_what_the_peer_sent_before() {
    let mut pair = Pair::paired(Mode::Sync);
    ask(&mut pair, host(A, 1), 1, RESERVE);
    pair.settle();
    assert_eq!(verdict(&pair, A, 1), Some(Verdict::Done));
    ask(&mut pair, host(B, 2), 2, RESERVE);
    pair.make_durable(B);
    pair.pass(MS);
    ask(&mut pair, host(A, 1), 3, RELEASE);
    pair.deliver(A);
    pair.make_durable(A);
    // A executed the reserve, behind its own release on the line, and both are lost with it.
    pair.wire = [vec![], vec![]];
    for site in SiteId::BOTH {
        pair.engines[site.index()].handle_link_closed(pair.now);
        pair.drain(site);
    }
    // The new session begins with a heartbeat, whose ack is before the release.
    pair.connect();
    pair.pass(10 * MS);
    pair.settle();
    assert_eq!(verdict(&pair, A, 3), Some(Verdict::Done));
    assert_eq!(verdict(&pair, B, 2), Some(Verdict::Done), "E3.7");
    tables_are_equal(&pair);
}

#[test]
fn a_nexus_that_ends_releases_what_it_reserved_and_a_leaver_waits_for_that() {
    let mut pair = Pair::paired(Mode::Sync);
    ask(&mut pair, host(A, 1), 1, RESERVE);
    pair.settle();
    pair.engines[0].handle_leave(pair.now, OpId(5), host(A, 1));
    pair.drain(A);
    assert_eq!(pair.outcome(A, 5), None);
    pair.settle();
    assert_eq!(pair.outcome(A, 5), Some(Outcome::Done));
    assert!(pair.engines[1].reservations(VOLUME).is_some_and(|state| state.is_free()));
    pair.engines[0].handle_leave(pair.now, OpId(6), host(A, 3));
    pair.drain(A);
    assert_eq!(pair.outcome(A, 6), Some(Outcome::Done), "nothing to release");
}

#[test]
fn without_the_line_a_reserve_is_not_granted_and_the_host_asks_again() {
    for mode in [Mode::Sync, Mode::Async] {
        let mut pair = Pair::paired(mode);
        for site in SiteId::BOTH {
            pair.engines[site.index()].handle_link_closed(pair.now);
        }
        ask(&mut pair, host(A, 1), 1, RESERVE);
        for _ in 0..12 {
            pair.make_durable(A);
            pair.pass(100 * MS);
        }
        assert_eq!(pair.outcome(A, 1), Some(Outcome::Busy));
        assert!(pair.engines[0].reservations(VOLUME).is_some_and(|state| state.is_free()));
    }
}

#[test]
fn preempt_and_abort_drops_the_victims_commands_at_the_other_site() {
    let mut pair = Pair::paired(Mode::Sync);
    let register = |key| Request::Register {
        key: None,
        new_key: key,
        aptpl: false,
        all_ports: false,
        name: Arc::from("iqn.x"),
        also: vec![],
    };
    ask(&mut pair, host(A, 1), 1, register(11));
    ask(&mut pair, host(B, 2), 2, register(22));
    pair.settle();
    ask(
        &mut pair,
        host(B, 2),
        3,
        Request::ReservePersistent { key: 22, kind: PersistentKind::WriteExclusive },
    );
    pair.settle();
    pair.pass(10 * MS);
    pair.settle();
    assert_eq!(verdict(&pair, B, 3), Some(Verdict::Done));
    pair.seen = [vec![], vec![]];
    let kind = PersistentKind::WriteExclusive;
    ask(&mut pair, host(A, 1), 4, Request::Preempt { key: 11, victim: 22, kind, abort: true });
    pair.settle();
    assert_eq!(verdict(&pair, A, 4), Some(Verdict::Done));
    let effects = |site: SiteId| -> Vec<Effect> {
        let seen = pair.seen[site.index()].iter();
        seen.filter_map(|a| if let Action::Effect { effect, .. } = a { Some(effect.clone()) } else { None })
            .collect()
    };
    assert_eq!(effects(A), []);
    let victim = host(B, 2);
    let told = effects(B);
    assert!(told.contains(&Effect::Abort(victim)), "{told:?}");
    assert!(told.contains(&Effect::Attend(victim, Attention::RegistrationsPreempted)), "{told:?}");
}

#[test]
fn a_reset_reaches_both_sites() {
    let mut pair = Pair::paired(Mode::Sync);
    ask(&mut pair, host(A, 1), 1, RESERVE);
    pair.settle();
    ask(&mut pair, host(B, 2), 2, Request::Reset(Reset::Unit));
    pair.settle();
    assert_eq!(verdict(&pair, B, 2), Some(Verdict::Done));
    for site in SiteId::BOTH {
        let seen = &pair.seen[site.index()];
        let all = Effect::AttendAll { but: None, attention: Attention::Reset };
        assert!(
            seen.iter().any(|a| matches!(a, Action::Effect { effect, .. } if *effect == all)),
            "at {site}"
        );
        let live = pair.engines[site.index()].reservations(VOLUME).expect("there");
        assert!(live.allows(host(B, 5), Access::Write, None), "the reset released");
    }
}

#[test]
fn a_swap_is_judged_by_its_place_in_the_order_and_the_same_at_both_sites() {
    let mut pair = Pair::paired(Mode::Sync);
    // At A a swap from 0 to 5; before its turn has come, a newer write at A and one at B.
    swap(&mut pair, A, 1, 3, 0, 5);
    pair.pass(MS);
    pair.write(A, 2, 3, 1, 9);
    pair.write(B, 3, 3, 1, 8);
    settle(&mut pair);
    assert_eq!(verdict(&pair, A, 1), Some(Verdict::Done), "at its place the block was 0");
    for site in SiteId::BOTH {
        pair.read(site, 10, 3, 1);
        assert_eq!(pair.served(site, 10), Some(vec![(3, 1, Some(8))]), "the newer write covers it");
    }
    swap(&mut pair, B, 4, 3, 5, 6);
    settle(&mut pair);
    assert_eq!(verdict(&pair, B, 4), Some(Verdict::Miscompare { offset: 0 }));
    swap(&mut pair, B, 5, 3, 8, 6);
    settle(&mut pair);
    assert_eq!(verdict(&pair, B, 5), Some(Verdict::Done));
    for site in SiteId::BOTH {
        pair.read(site, 11, 3, 1);
        assert_eq!(pair.served(site, 11), Some(vec![(3, 1, Some(6))]));
        pair.engines[site.index()].check().expect("consistent");
    }
}

#[test]
fn a_read_waits_for_a_swap_that_is_not_judged() {
    let mut pair = Pair::paired(Mode::Sync);
    swap(&mut pair, B, 1, 3, 0, 5);
    pair.make_durable(B);
    pair.deliver(A);
    pair.read(A, 10, 3, 1);
    pair.read(A, 11, 4, 1);
    pair.read(B, 10, 3, 1);
    assert_eq!(pair.served(A, 10), None, "B may have shown it by the time this read was asked");
    assert_eq!(pair.served(A, 11), Some(vec![(4, 1, None)]));
    settle(&mut pair);
    assert_eq!(pair.served(A, 10), Some(vec![(3, 1, Some(5))]));
    assert_eq!(pair.served(B, 10), Some(vec![(3, 1, Some(5))]));
}

#[test]
fn a_swap_of_the_peer_is_shown_only_when_what_its_verdict_rests_on_is_acked() {
    let mut pair = Pair::paired(Mode::Sync);
    pair.write(B, 1, 3, 1, 4);
    let kept = std::mem::take(&mut pair.wire[0]); // on its way to A
    pair.pass(MS);
    swap(&mut pair, A, 2, 3, 0, 5);
    pair.make_durable(A);
    pair.deliver(B);
    pair.make_durable(B);
    judge(&mut pair, B);
    pair.read(B, 10, 3, 1);
    assert_eq!(pair.served(B, 10), None, "the write under the swap is not at A yet");
    let late: Vec<Message> = std::mem::take(&mut pair.wire[0]);
    pair.wire[0] = kept.into_iter().chain(late).collect();
    settle(&mut pair);
    assert_eq!(verdict(&pair, A, 2), Some(Verdict::Miscompare { offset: 0 }));
    assert_eq!(pair.served(B, 10), Some(vec![(3, 1, Some(4))]));
}

#[test]
fn a_cut_waits_until_verdicts_are_in_the_journal() {
    let mut pair = Pair::paired(Mode::Sync);
    swap(&mut pair, A, 1, 3, 0, 5);
    settle(&mut pair);
    pair.seen = [vec![], vec![]];
    for _ in 0..60 {
        settle(&mut pair);
        pair.pass(10 * MS);
    }
    for site in SiteId::BOTH {
        let seen = &pair.seen[site.index()];
        let verdict =
            |a: &Action| matches!(a, Action::Append(entry) if entry.body == Body::Verdict(Verdict::Done));
        let recorded = seen.iter().position(verdict).expect("the verdict is recorded");
        let destaged = seen.iter().position(|a| matches!(a, Action::Destage { .. })).expect("destaged");
        assert!(recorded < destaged);
        assert_eq!(seen.iter().filter(|a| verdict(a)).count(), 1);
        assert_eq!(pair.engines[site.index()].held_entries(), 0);
    }
}

#[test]
fn compare_and_write_on_other_volumes_is_a_rule() {
    let mut pair = Pair::paired(Mode::Async);
    swap(&mut pair, A, 1, 3, 0, 5);
    assert_eq!(pair.outcome(A, 1), Some(Outcome::NotSupported));
    let mut pair = Pair::paired(Rules { swaps: true, ..Rules::of(Mode::Async) });
    swap(&mut pair, A, 1, 3, 0, 5);
    settle(&mut pair);
    assert_eq!(verdict(&pair, A, 1), Some(Verdict::Done));
}

/// E4.1: writes of others that are stamped after the reserve and were let in before it was known.
fn conflicting_writes(discard: bool) -> Pair {
    let mut pair = Pair::paired(Rules { discard, ..Rules::of(Mode::Async) });
    pair.write(B, 1, 0, 4, 1);
    pair.settle();
    ask(&mut pair, host(A, 1), 2, RESERVE);
    pair.pass(MS);
    pair.write(B, 3, 2, 4, 3); // host 9 at B, which does not know of the reserve
    pair.write(A, 4, 6, 1, 4); // host 9 at A, before the reserve was executed
    pair.settle();
    pair.pass(10 * MS);
    pair.settle();
    assert_eq!(verdict(&pair, A, 2), Some(Verdict::Done));
    assert_eq!(pair.outcome(B, 3), Some(Outcome::Done), "its host was told so long ago");
    for engine in &pair.engines {
        engine.check().expect("consistent");
    }
    assert_eq!(pair.engines[0].map(VOLUME), pair.engines[1].map(VOLUME));
    pair
}

#[test]
fn conflicting_writes_are_kept_where_the_rules_say_so() {
    let pair = conflicting_writes(false);
    assert_eq!(pair.engines[0].rows().len(), 3);
    assert!(pair.engines[0].discards(0).is_empty());
}

#[test]
fn conflicting_writes_are_undone_at_both_sites_and_listed() {
    let mut pair = conflicting_writes(true);
    for site in SiteId::BOTH {
        let engine = &pair.engines[site.index()];
        let listed: Vec<(Extent, Nexus)> = engine.discards(0).iter().map(|d| (d.extent, d.nexus)).collect();
        let extent = |lba, blocks| Extent::new(Lba(lba), blocks).expect("not empty");
        assert_eq!(listed, [(extent(6, 1), host(A, 9)), (extent(2, 4), host(B, 9))], "equal times: A first");
        assert_eq!(engine.map(VOLUME), Some(vec![extent(0, 4)]), "what was covered shows again");
        let first = engine.discards(0)[0].stamp;
        assert!(engine.rows().iter().all(|row| row.stamp < first));
    }
    for _ in 0..60 {
        pair.settle();
        pair.pass(10 * MS);
    }
    let view = pair.engines[0].cut_view();
    assert!(view.equal > 0 && view.different == 0, "{view:?}");
    for seen in &pair.seen {
        let destaged = seen
            .iter()
            .filter_map(|a| if let Action::Destage { pieces, .. } = a { Some(pieces.len()) } else { None });
        assert!((1..=2).contains(&destaged.sum::<usize>()));
    }
}

#[test]
fn reservations_are_saved_before_the_cut_that_forgets_their_requests() {
    let mut pair = Pair::paired(Mode::Sync);
    ask(&mut pair, host(A, 1), 1, RESERVE);
    for _ in 0..40 {
        pair.settle();
        pair.pass(10 * MS);
    }
    for site in SiteId::BOTH {
        let engine = &pair.engines[site.index()];
        assert_eq!(engine.held_entries(), 0);
        let saved = pair.seen[site.index()].iter().rev().find_map(|a| match a {
            Action::SaveReservations(all) => Some(all.clone()),
            _ => None,
        });
        let saved = saved.expect("saved");
        assert_eq!(Some(&saved[0].1), engine.reservations(VOLUME));
        assert!(saved[0].1.holds(host(A, 1)));
    }
}

#[test]
fn a_swap_that_the_peer_cannot_judge_holds_up_no_write() {
    let mut pair = Pair::paired(Mode::Sync);
    swap(&mut pair, SiteId::A, 1, 0, 0, 5);
    pair.settle();
    judge(&mut pair, SiteId::A);
    // A request behind it waits for it at the peer.
    pair.engines[0].handle_control(pair.now, OpId(2), VOLUME, host(SiteId::A, 9), RESERVE);
    pair.drain(SiteId::A);
    for attempt in 0..3 {
        pair.settle();
        let order = pair.seen[1].iter().find_map(|action| match action {
            Action::Judge { stamp, .. } => Some(*stamp),
            _ => None,
        });
        let stamp = order.expect("it is tried again and again");
        pair.seen[1].clear();
        pair.engines[1].handle_judged(pair.now, VOLUME, stamp, Err("a bad sector".into()));
        pair.drain(SiteId::B);
        pair.write(SiteId::A, 10 + attempt, 8, 1, 7);
        pair.settle();
        assert_eq!(pair.outcome(SiteId::A, 10 + attempt), Some(Outcome::Done));
        assert!(!matches!(pair.outcome(SiteId::A, 2), Some(Outcome::Verdict(_))));
        for _ in 0..6 {
            pair.pass(200 * MS);
            pair.settle();
        }
    }
}
