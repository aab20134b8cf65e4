//! The way of writes and reads through two engines.

mod back_to_back;

use back_to_back::{MS, Pair, VOLUME};
use biplex_engine::engine::*;
use biplex_engine::message::{Ack, Digest, Message, Ping, Pong};
use biplex_engine::*;

#[test]
fn an_async_write_is_held_journaled_mirrored_and_completed_in_that_order() {
    let mut pair = Pair::paired(Mode::Async);
    pair.write(SiteId::A, 1, 8, 2, 0x11);
    let kinds: Vec<&str> = pair.seen[0]
        .iter()
        .map(|action| match action {
            Action::Append(_) => "append",
            Action::Send(Message::Entry(_)) => "mirror",
            Action::Complete { .. } => "complete",
            Action::Hurry => "hurry",
            other => panic!("unexpected {other:?}"),
        })
        .collect();
    assert_eq!(kinds, ["append", "hurry", "mirror"]);
    assert_eq!(pair.outcome(SiteId::A, 1), None, "not before its journal has it");
    pair.make_durable(SiteId::A);
    assert_eq!(pair.outcome(SiteId::A, 1), Some(Outcome::Done), "and then without the peer (E1.9)");
}

#[test]
fn a_sync_write_completes_only_when_both_journals_have_it() {
    let mut pair = Pair::paired(Mode::Sync);
    pair.write(SiteId::A, 1, 8, 2, 0x11);
    pair.make_durable(SiteId::A);
    assert_eq!(pair.outcome(SiteId::A, 1), None);
    pair.deliver(SiteId::B);
    pair.deliver(SiteId::A);
    assert_eq!(pair.outcome(SiteId::A, 1), None, "the peer has it, but not durable");
    pair.make_durable(SiteId::B);
    pair.deliver(SiteId::A);
    assert_eq!(pair.outcome(SiteId::A, 1), Some(Outcome::Done));
}

#[test]
fn the_journal_is_told_to_hurry_for_what_somebody_waits_for() {
    let hurries = |pair: &Pair| pair.seen[1].iter().filter(|action| matches!(action, Action::Hurry)).count();
    for (mode, expected) in [(Mode::Sync, 1), (Mode::Flush, 1), (Mode::Async, 0)] {
        let mut pair = Pair::paired(mode);
        let before = hurries(&pair);
        pair.write(SiteId::A, 1, 8, 2, 0x11);
        pair.deliver(SiteId::B);
        assert_eq!(hurries(&pair) - before, expected, "{mode:?}: a host at A waits for B, or does not");
        pair.read(SiteId::B, 2, 20, 1);
        assert_eq!(hurries(&pair) - before, expected, "{mode:?}: this read meets nothing");
        pair.read(SiteId::B, 3, 8, 1);
        pair.read(SiteId::B, 4, 8, 1);
        assert_eq!(hurries(&pair) - before, 1, "{mode:?}: these wait until B cannot lose what they show");
        pair.make_durable(SiteId::B);
        assert_eq!(pair.served(SiteId::B, 3), Some(vec![(8, 1, Some(0x11))]));
    }
}

#[test]
fn a_read_waits_for_the_newest_pending_write_and_for_nothing_else() {
    let mut pair = Pair::paired(Mode::Sync);
    pair.write(SiteId::A, 1, 8, 2, 0x11);
    pair.make_durable(SiteId::A);
    pair.read(SiteId::A, 2, 8, 2);
    pair.read(SiteId::A, 3, 20, 2);
    assert_eq!(pair.served(SiteId::A, 2), None, "the peer may lose it yet");
    assert_eq!(pair.served(SiteId::A, 3), Some(vec![(20, 2, None)]));
    pair.settle();
    assert_eq!(pair.served(SiteId::A, 2), Some(vec![(8, 2, Some(0x11))]));
    pair.read(SiteId::B, 4, 7, 4);
    assert_eq!(pair.served(SiteId::B, 4), Some(vec![(7, 1, None), (8, 2, Some(0x11)), (10, 1, None)]));
}

#[test]
fn crossing_writes_end_equal_at_both_sites_and_the_tie_goes_to_b() {
    let mut pair = Pair::paired(Mode::Sync);
    pair.write(SiteId::A, 1, 8, 4, 0xaa);
    pair.write(SiteId::B, 1, 10, 4, 0xbb);
    pair.settle();
    let rows = pair
        .engines
        .each_ref()
        .map(|engine| engine.rows().into_iter().map(|row| (row.stamp, row.extent)).collect::<Vec<_>>());
    assert_eq!(rows[0], rows[1]);
    for site in SiteId::BOTH {
        pair.read(site, 2, 8, 6);
        assert_eq!(pair.served(site, 2), Some(vec![(8, 2, Some(0xaa)), (10, 4, Some(0xbb))]));
    }
    assert_eq!(pair.engines[0].conflicts(0).len(), 1);
}

#[test]
fn a_cut_waits_for_hold_time_ack_and_promise_then_both_destage_the_same_and_digests_agree() {
    let mut pair = Pair::paired(Mode::Async);
    pair.write(SiteId::A, 1, 8, 4, 0xaa);
    for _ in 0..10 {
        pair.pass(10 * MS);
        pair.make_durable(SiteId::A);
    }
    let early = pair.seen.iter().flatten().any(|action| matches!(action, Action::Destage { .. }));
    assert!(!early, "the line has not delivered anything yet");
    for _ in 0..40 {
        pair.settle();
        pair.pass(10 * MS);
    }
    let cuts = pair.seen.each_ref().map(|seen| {
        let found = seen.iter().find_map(|action| match action {
            Action::Destage { cut, pieces } => Some((*cut, pieces.clone())),
            _ => None,
        });
        found.expect("destaged")
    });
    assert_eq!(cuts[0], cuts[1]);
    let view = pair.engines[0].cut_view();
    assert!(view.equal > 0 && view.different == 0, "{view:?}");
    assert_eq!(pair.engines[0].held_entries(), 0);
}

#[test]
fn without_the_line_sync_hosts_are_told_to_retry_and_async_hosts_are_served() {
    for (mode, expected) in [(Mode::Sync, Outcome::NotReady), (Mode::Async, Outcome::Done)] {
        let mut pair = Pair::paired(mode);
        for site in SiteId::BOTH {
            pair.engines[site.index()].handle_link_closed(pair.now);
        }
        pair.write(SiteId::A, 1, 0, 1, 1);
        for _ in 0..12 {
            pair.make_durable(SiteId::A);
            pair.pass(100 * MS);
        }
        assert_eq!(pair.outcome(SiteId::A, 1), Some(expected));
        assert_eq!(pair.wire[1].iter().filter(|m| matches!(m, Message::Entry(_))).count(), 0);
    }
}

#[test]
fn after_a_cut_line_the_stream_resumes_from_the_frontier_and_nothing_is_applied_twice() {
    let mut pair = Pair::paired(Mode::Async);
    pair.write(SiteId::A, 1, 0, 1, 1);
    pair.settle();
    for site in SiteId::BOTH {
        pair.engines[site.index()].handle_link_closed(pair.now);
    }
    pair.write(SiteId::A, 2, 1, 1, 2);
    pair.write(SiteId::B, 3, 1, 2, 3);
    pair.settle();
    pair.wire = [vec![], vec![]];
    pair.seen = [vec![], vec![]];
    for site in SiteId::BOTH {
        pair.engines[site.index()].handle_link_connected(pair.now);
        pair.drain(site);
    }
    for _ in 0..4 {
        pair.settle();
        pair.pass(MS);
    }
    let sent = pair
        .seen
        .each_ref()
        .map(|seen| seen.iter().filter(|action| matches!(action, Action::Send(Message::Entry(_)))).count());
    assert_eq!(sent, [1, 1], "only what the other lacked");
    let rows = pair.engines.each_ref().map(|engine| engine.rows());
    assert_eq!(
        rows[0].iter().map(|row| (row.stamp, row.extent)).collect::<Vec<_>>(),
        rows[1].iter().map(|row| (row.stamp, row.extent)).collect::<Vec<_>>()
    );
    pair.engines.iter().for_each(|engine| engine.check().expect("invariants hold"));
}

#[test]
fn a_peer_with_another_geometry_clock_or_journal_is_refused_with_a_remedy() {
    for (what, expected) in [
        ("size", "make them equal"),
        ("clock", "set the clocks"),
        ("hold", "make them equal"),
        ("version", "same release"),
        ("site", "set site ="),
        ("stores", "do not hold the same bytes"),
    ] {
        let mut pair = Pair::new(Mode::Sync);
        for site in SiteId::BOTH {
            pair.engines[site.index()].handle_link_connected(pair.now);
            pair.drain(site);
        }
        let Some(Message::Hello(hello)) = pair.wire[0].first_mut() else { panic!("no hello") };
        match what {
            "size" => hello.volumes[0].blocks += 8,
            "clock" => hello.wall += 2_000 * MS,
            "hold" => hello.hold_time += 1,
            "version" => hello.version += 1,
            "stores" => hello.stores = 1,
            _ => hello.site = SiteId::A,
        }
        pair.deliver(SiteId::A);
        let refused = pair.seen[0].iter().find_map(|action| match action {
            Action::Send(Message::Refuse(refusal)) => Some(refusal.why.clone()),
            _ => None,
        });
        assert!(refused.as_ref().is_some_and(|why| why.contains(expected)), "{what}: {refused:?}");
    }
}

#[test]
fn a_slow_line_is_no_reason_to_call_the_clocks_apart_but_the_first_heartbeat_is() {
    for (skew, paired) in [(0, true), (900 * MS, false)] {
        let mut pair = Pair::new(Mode::Sync);
        for site in SiteId::BOTH {
            pair.engines[site.index()].handle_link_connected(pair.now);
            pair.drain(site);
        }
        // The hellos are on their way for longer than the clocks may differ.
        pair.pass(700 * MS);
        for wire in &mut pair.wire {
            let Some(Message::Hello(hello)) = wire.first_mut() else { panic!("no hello") };
            hello.wall -= if hello.site == SiteId::B { skew } else { 0 };
        }
        for _ in 0..8 {
            for site in SiteId::BOTH {
                for message in &mut pair.wire[0] {
                    if let Message::Pong(pong) = message {
                        pong.received_wall -= skew; // B's clock, as A sees it
                    }
                }
                pair.deliver(site);
                pair.make_durable(site);
            }
            pair.pass(2 * MS);
        }
        let refused = pair.seen[0].iter().any(|action| matches!(action, Action::Send(Message::Refuse(_))));
        assert_eq!(refused, !paired, "skew {skew}");
    }
}

#[test]
fn absurd_numbers_from_a_peer_close_the_link_and_nothing_worse() {
    let entry = |time: u64, site: SiteId, seq: u64| {
        let extent = Extent::new(Lba(0), 1).expect("not empty");
        let stamp = Stamp { time, site };
        Message::Entry(Entry {
            stamp,
            seq,
            volume: VOLUME,
            extent,
            host: HostId(1),
            isid: 0,
            body: Body::Unmap,
            body_crc: 0,
        })
    };
    let ack = |time: u64| Ack {
        durable: Stamp::ZERO,
        taken: Stamp::ZERO,
        promise: Stamp::last_of(time),
        destaged: Stamp::ZERO,
        resumed: true,
    };
    let digest = |time: u64| Digest { from: Stamp::ZERO, to: Stamp::last_of(time), rows: vec![] };
    for message in [
        entry(0, SiteId::B, 1),
        entry(0, SiteId::A, 1),
        entry(u64::MAX, SiteId::B, 1),
        entry(u64::MAX - 1, SiteId::A, 1),
        Message::Ack(ack(u64::MAX)),
        Message::Ping(Ping { ack: ack(u64::MAX), sent_mono: u64::MAX, sent_wall: u64::MAX }),
        Message::Pong(Pong { sent_mono: u64::MAX, sent_wall: 0, received_wall: 0, in_step: true }),
        Message::Digest(digest(u64::MAX)),
    ] {
        let mut pair = Pair::paired(Mode::Async);
        pair.engines[0].handle_message(pair.now, message.clone());
        pair.drain(SiteId::A);
        let closed = pair.seen[0].iter().any(|action| matches!(action, Action::CloseLink { .. }));
        assert!(closed, "{message:?}");
        pair.write(SiteId::A, 1, 0, 1, 1);
        pair.pass(10 * MS);
        pair.make_durable(SiteId::A);
        assert_eq!(pair.outcome(SiteId::A, 1), Some(Outcome::Done), "{message:?}");
    }
    let mut pair = Pair::paired(Mode::Async);
    let time = pair.now.wall;
    for (offset, seq) in [(1, u64::MAX), (2, 7)] {
        pair.engines[0].handle_message(pair.now, entry(time + offset, SiteId::B, seq));
    }
    pair.drain(SiteId::A);
    assert!(pair.seen[0].iter().any(|action| matches!(action, Action::CloseLink { .. })), "a gap");
}

#[test]
fn an_own_write_that_was_never_lost_is_not_taken_back_from_the_peer() {
    let mut pair = Pair::paired(Mode::Sync);
    pair.write(SiteId::A, 1, 8, 1, 1);
    pair.settle();
    let issued = pair.engines[0].rows()[0].stamp;
    let stamp = Stamp { time: issued.time - 1, site: SiteId::A };
    let extent = Extent::new(Lba(0), 1).expect("not empty");
    let entry = Entry {
        stamp,
        seq: 0,
        volume: VOLUME,
        extent,
        host: HostId(1),
        isid: 0,
        body: Body::Unmap,
        body_crc: 0,
    };
    pair.engines[0].handle_message(pair.now, Message::Entry(entry));
    pair.drain(SiteId::A);
    assert!(pair.seen[0].iter().any(|action| matches!(action, Action::CloseLink { .. })));
    assert_eq!(pair.engines[0].rows().len(), 1);
}

#[test]
fn an_entry_that_finds_no_room_in_the_journal_waits_for_it_and_acks_go_on() {
    let mut pair = Pair::paired(Mode::Sync);
    pair.write(SiteId::B, 1, 8, 1, 1);
    pair.engines[1].set_journal_room(4095);
    pair.write(SiteId::A, 2, 0, 1, 2);
    pair.settle();
    assert_eq!(pair.outcome(SiteId::B, 1), Some(Outcome::Done), "own writes are acknowledged all the same");
    assert_eq!(pair.outcome(SiteId::A, 2), None);
    assert!(!pair.engines[1].serving(pair.now, VOLUME), "it lacks a write");
    assert_eq!(pair.engines[1].rows().len(), 1);
    let closed = |pair: &Pair| pair.seen[1].iter().any(|action| matches!(action, Action::CloseLink { .. }));
    assert!(!closed(&pair));
    pair.engines[1].set_journal_room(4096);
    pair.drain(SiteId::B);
    assert!(closed(&pair), "there is room: the link is opened anew");
    pair.wire = [vec![], vec![]];
    for site in SiteId::BOTH {
        pair.engines[site.index()].handle_link_connected(pair.now);
        pair.drain(site);
    }
    pair.settle();
    assert_eq!(pair.outcome(SiteId::A, 2), Some(Outcome::Done));
    assert_eq!(pair.engines[1].rows().len(), 2);
}

#[test]
fn a_host_write_leaves_the_room_that_the_peer_may_still_need() {
    let mut pair = Pair::paired(Mode::Async);
    let share = (1 << 20) / 2;
    // What the peer may still need (it has said that it started), this write, and what is kept for requests.
    let needed = (share - 4096) + 4096 + share / 32;
    pair.engines[0].set_journal_room(needed - 1);
    pair.write(SiteId::A, 1, 0, 1, 1);
    pair.make_durable(SiteId::A);
    assert_eq!(pair.outcome(SiteId::A, 1), None);
    pair.engines[0].set_journal_room(needed);
    pair.pass(MS);
    pair.make_durable(SiteId::A);
    assert_eq!(pair.outcome(SiteId::A, 1), Some(Outcome::Done));
}

#[test]
fn a_host_that_is_told_to_retry_is_not_overtaken_by_what_it_gave_up() {
    let mut pair = Pair::paired(Mode::Sync);
    for _ in 0..99 {
        pair.engines[0].set_journal_room(0);
        if pair.outcome(SiteId::A, 1).is_none() && pair.seen[0].is_empty() {
            pair.write(SiteId::A, 1, 8, 1, 0xaa);
        }
        pair.pass(10 * MS);
        pair.settle();
    }
    // It stood at the door until just before its time is up, and is stamped by a clock that is ahead of the peer's.
    pair.engines[0].set_journal_room(u64::MAX);
    let ahead = Now { wall: pair.now.wall + 450 * MS, mono: pair.now.mono };
    pair.engines[0].handle_tick(ahead);
    let checkpoint = pair.engines[0].checkpoint(ahead);
    pair.engines[0].handle_durable(ahead, AppendSeq(pair.appended[0]), &checkpoint);
    pair.drain(SiteId::A);
    assert_eq!(pair.engines[0].rows().len(), 1);
    // The line brings nothing from A any more; for how long does B serve without A's write?
    let mut told = None;
    for _ in 0..200 {
        pair.pass(20 * MS);
        pair.make_durable(SiteId::A);
        told = told.or(pair.outcome(SiteId::A, 1));
        let served = pair.engines[1].serving(pair.now, VOLUME);
        assert!(told.is_none() || !served, "told {told:?} while the other site serves without the write");
    }
    assert_eq!(told, Some(Outcome::NotReady));
}

#[test]
fn a_command_that_its_host_abandoned_at_the_door_never_happens() {
    let mut pair = Pair::paired(Mode::Sync);
    for site in SiteId::BOTH {
        pair.engines[site.index()].handle_link_closed(pair.now);
    }
    pair.write(SiteId::A, 1, 0, 1, 0xaa);
    pair.write(SiteId::A, 2, 1, 1, 0xbb);
    pair.engines[0].handle_abandoned(OpId(1));
    pair.drain(SiteId::A);
    assert_eq!(
        pair.outcome(SiteId::A, 1),
        Some(Outcome::NotReady),
        "answered at once, so that an abort can end"
    );
    pair.wire = [vec![], vec![]];
    pair.connect();
    assert_eq!(pair.outcome(SiteId::A, 2), Some(Outcome::Done));
    assert_eq!(pair.engines[0].held_entries(), 1);
}

#[test]
fn a_destage_that_fails_is_told_once_is_tried_again_and_is_told_when_it_works() {
    let mut pair = Pair::paired(Mode::Async);
    pair.write(SiteId::A, 1, 8, 4, 0xaa);
    pair.destage_fails = true;
    for round in 0..60 {
        pair.settle();
        pair.pass(100 * MS);
        if round == 40 {
            assert_eq!(pair.engines[0].cut_view().failing.as_deref(), Some("no space"));
            assert_eq!(pair.engines[0].held_entries(), 1, "nothing is lost");
            pair.destage_fails = false;
        }
    }
    let told = |severity: Severity, text: &str| {
        pair.seen[0]
            .iter()
            .filter(|action| {
                matches!(action, Action::Notice { severity: s, text: t } if *s == severity && t.contains(text))
            })
            .count()
    };
    assert_eq!(told(Severity::Alarm, "destage of cut"), 1);
    assert_eq!(told(Severity::Info, "destage works again"), 1);
    assert_eq!(pair.engines[0].held_entries(), 0);
}
