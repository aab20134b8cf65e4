//! Promise: a reservation taken at one site holds at both, over real iSCSI: what a Windows failover cluster, fence_scsi
//! and a shared lock word need, with their initiators at different sites.

use biplex_e2e::host::{BLOCK, HostError};
use biplex_e2e::{Host, Pair, Settings, SiteName, wait_until};
use biplex_front::iscsi::initiator::{
    Payload, extent_element, read16, release6, release6_extents, reserve6, reserve6_extents, test_unit_ready,
    write16,
};
use bytes::Bytes;
use std::time::{Duration, Instant};

const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const CLEAR: u8 = 3;
const PREEMPT: u8 = 4;
const PREEMPT_AND_ABORT: u8 = 5;
const REGISTER_AND_IGNORE: u8 = 6;
/// Write exclusive, registrants only: what Windows and fence_scsi use.
const WERO: u8 = 5;
const CONFLICT: HostError = HostError::Status { status: 0x18, sense: (0, 0, 0) };

fn attention(code: u8, qualifier: u8) -> HostError {
    HostError::Status { status: 2, sense: (6, code, qualifier) }
}

fn block(value: u8) -> Vec<u8> {
    vec![value; BLOCK]
}

fn write_once(host: &mut Host, lba: u64, value: u8) -> Result<(), HostError> {
    host.once(write16(lba, 1, false), &block(value)).map(drop)
}

fn read_once(host: &mut Host, lba: u64) -> Result<u8, HostError> {
    host.command(read16(lba, 1, false), Payload::In(BLOCK as u32)).map(|data| data[0])
}

/// Takes the attentions that wait for a host, if any.
fn hear(host: &mut Host) -> Vec<(u8, u8)> {
    let mut heard = Vec::new();
    loop {
        match host.once(test_unit_ready(), &[]) {
            Err(HostError::Status { status: 2, sense: (6, code, qualifier) }) => {
                heard.push((code, qualifier))
            }
            Ok(_) => return heard,
            Err(error) => panic!("test unit ready: {error:?}"),
        }
    }
}

#[test]
fn a_unit_reserved_at_one_site_is_reserved_at_the_other() {
    let pair = Pair::start(Settings::default());
    let [mut one, mut two] = [Host::at(&pair.sites[0], "one"), Host::at(&pair.sites[1], "two")];
    one.once(reserve6(), &[]).expect("free");
    one.once(reserve6(), &[]).expect("the holder may again");
    assert_eq!(write_once(&mut one, 0, 1), Ok(()));
    assert_eq!(write_once(&mut two, 0, 2), Err(CONFLICT));
    assert_eq!(read_once(&mut two, 0), Err(CONFLICT));
    assert_eq!(two.once(reserve6(), &[]), Err(CONFLICT));
    two.once(release6(), &[]).expect("another's release is good and does nothing");
    assert_eq!(write_once(&mut two, 0, 2), Err(CONFLICT));
    one.once(release6(), &[]).expect("its own");
    assert_eq!(write_once(&mut two, 0, 2), Ok(()));
    assert_eq!(read_once(&mut one, 0), Ok(2));
}

#[test]
fn extents_keep_out_block_by_block_at_both_sites() {
    let pair = Pair::start(Settings::default());
    let [mut one, mut two] = [Host::at(&pair.sites[0], "one"), Host::at(&pair.sites[1], "two")];
    let list = [extent_element(1, 100, 50), extent_element(3, 1000, 8)].concat();
    one.once(reserve6_extents(7, 16), &list).expect("free");
    assert_eq!(read_once(&mut two, 120), Ok(0), "write exclusive lets others read");
    assert_eq!(write_once(&mut two, 149, 1), Err(CONFLICT));
    assert_eq!(write_once(&mut two, 150, 1), Ok(()));
    assert_eq!(read_once(&mut two, 1007), Err(CONFLICT));
    let other = extent_element(3, 140, 20);
    assert_eq!(two.once(reserve6_extents(1, 8), &other).map(drop), Err(CONFLICT));
    // The same id again: the new list takes the old one's place.
    one.once(reserve6_extents(7, 8), &extent_element(3, 2000, 1)).expect("its own");
    assert_eq!(write_once(&mut two, 120, 1), Ok(()));
    assert_eq!(write_once(&mut two, 2000, 1), Err(CONFLICT));
    two.once(reserve6_extents(1, 8), &other).expect("free now");
    one.once(release6_extents(7), &[]).expect("its own");
    assert_eq!(write_once(&mut two, 2000, 1), Ok(()));
    assert_eq!(write_once(&mut one, 145, 1), Err(CONFLICT));
}

#[test]
fn what_a_host_reserved_is_free_when_it_has_logged_out_or_is_gone() {
    let pair = Pair::start(Settings::default());
    for round in 0..6 {
        let (at, other) = (round % 2, 1 - round % 2);
        let mut one = Host::at(&pair.sites[at], "one");
        hear(&mut one);
        one.once(reserve6(), &[]).expect("free");
        let mut two = Host::at(&pair.sites[other], "two");
        hear_past_conflict(&mut two);
        assert_eq!(write_once(&mut two, 0, 2), Err(CONFLICT));
        if round < 4 {
            one.logout();
            assert_eq!(write_once(&mut two, 0, 2), Ok(()), "released before the logout was answered");
        } else {
            one.vanish();
            wait_until("the release of a host that is gone", || {
                write_once(&mut two, 0, 2).map_err(|error| format!("{error:?}"))
            });
        }
        two.logout();
    }
}

/// A host that comes back hears of its loss first; while another holds the unit it hears of the conflict then.
fn hear_past_conflict(host: &mut Host) {
    while let Err(HostError::Status { status: 2, sense: (6, _, _) }) = host.once(test_unit_ready(), &[]) {}
}

/// Windows failover cluster: arbitration, defence, challenge, failover, and what survives a loss of power.
#[test]
fn a_windows_cluster_arbitrates_with_its_nodes_at_different_sites() {
    let mut pair = Pair::start(Settings::default());
    let (key_one, key_two) = (0x1111_0001, 0x2222_0001);
    {
        let [mut one, mut two] = [Host::at(&pair.sites[0], "node1"), Host::at(&pair.sites[1], "node2")];
        // Both nodes register; node 1 arbitrates and wins.
        one.persistent(REGISTER_AND_IGNORE, 0, 0, key_one, true).expect("register");
        two.persistent(REGISTER_AND_IGNORE, 0, 0, key_two, true).expect("register");
        one.persistent(RESERVE, WERO, key_one, 0, false).expect("reserve");
        assert_eq!(two.persistent(RESERVE, WERO, key_two, 0, false), Err(CONFLICT));
        assert_eq!(write_once(&mut two, 9, 2), Ok(()), "registrants may write under this type");
        // The defender looks at the registrations every few seconds; the challenger sees the same at its site.
        assert_eq!(one.keys(), two.keys());
        assert_eq!(one.reservation(), Some((key_one, WERO)));
        assert_eq!(two.reservation(), Some((key_one, WERO)));
        // Node 1 is cut off from node 2's point of view: the challenge succeeds.
        two.persistent(PREEMPT, WERO, key_two, key_one, false).expect("preempt");
        assert_eq!(two.reservation(), Some((key_two, WERO)));
        assert_eq!(write_once(&mut one, 9, 1), Err(attention(0x2a, 0x05)), "it is told once");
        assert_eq!(write_once(&mut one, 9, 1), Err(CONFLICT), "and is out");
        assert_eq!(read_once(&mut one, 9), Ok(2));
        // Node 1 joins again: registers, and may write.
        one.persistent(REGISTER_AND_IGNORE, 0, 0, key_one, true).expect("register again");
        assert_eq!(write_once(&mut one, 9, 1), Ok(()));
        assert_eq!(two.keys().1.len(), 2);
    }
    // One site restarts: all stands. Both lose power: APTPL was set, so all stands but the generation.
    for victims in [&[SiteName::A][..], &[SiteName::B], &[SiteName::A, SiteName::B]] {
        victims.iter().for_each(|victim| pair.site_mut(*victim).kill());
        victims.iter().for_each(|victim| pair.site_mut(*victim).start());
        pair.wait_paired();
        let [mut one, mut two] = [Host::at(&pair.sites[0], "node1"), Host::at(&pair.sites[1], "node2")];
        hear(&mut one);
        hear(&mut two);
        for host in [&mut one, &mut two] {
            let mut keys = host.keys().1;
            keys.sort_unstable();
            assert_eq!(keys, [key_one, key_two], "after {victims:?}");
            assert_eq!(host.reservation(), Some((key_two, WERO)));
        }
        let mut stranger = Host::at(&pair.sites[0], "stranger");
        hear(&mut stranger);
        assert_eq!(write_once(&mut stranger, 9, 7), Err(CONFLICT));
        assert_eq!(write_once(&mut one, 9, 1), Ok(()), "the same initiator port is the same registrant");
    }
    // Without APTPL nothing outlives a loss of power of both sites.
    {
        let mut two = Host::at(&pair.sites[1], "node2");
        hear(&mut two);
        two.persistent(REGISTER, 0, key_two, key_two + 1, false).expect("change key, give up APTPL");
    }
    for victim in SiteName::BOTH {
        pair.site_mut(victim).kill();
    }
    for victim in SiteName::BOTH {
        pair.site_mut(victim).start();
    }
    pair.wait_paired();
    wait_until("registrations without APTPL go with the power", || {
        let mut host = Host::at(&pair.sites[0], "looker");
        let (generation, keys) = host.keys();
        if keys.is_empty() && generation == 0 { Ok(()) } else { Err(format!("{generation} {keys:x?}")) }
    });
}

/// fence_scsi: every node registers its key on every path; a node is fenced by PREEMPT AND ABORT, with its writes in
/// flight.
#[test]
fn fence_scsi_fences_a_node_that_writes_at_the_other_site() {
    let pair = Pair::start(Settings::default());
    let mut fencer = Host::at(&pair.sites[0], "fencer");
    let mut victim_paths = [Host::at(&pair.sites[0], "victim"), Host::at(&pair.sites[1], "victim")];
    fencer.persistent(REGISTER_AND_IGNORE, 0, 0, 0xf, false).expect("register");
    for path in &mut victim_paths {
        path.persistent(REGISTER_AND_IGNORE, 0, 0, 0xbad, false).expect("register");
    }
    assert_eq!(fencer.keys().1.iter().filter(|key| **key == 0xbad).count(), 2, "one for each path");
    fencer.persistent(RESERVE, WERO, 0xf, 0, false).expect("reserve");
    // The victim writes at site b, many at a time, until it is stopped.
    let [_, victim] = &mut victim_paths;
    for value in 1..=60u8 {
        victim.submit(write16(u64::from(value), 1, false), Payload::Out(Bytes::from(block(value))));
    }
    fencer.persistent(PREEMPT_AND_ABORT, WERO, 0xf, 0xbad, false).expect("fence");
    let fenced = Instant::now();
    let before: Vec<u8> =
        (1..=60).map(|lba| read_once(&mut fencer, lba).expect("the fencer reads")).collect();
    assert_eq!(fencer.keys().1, [0xf]);
    // Nothing of the victim lands later, at either site.
    std::thread::sleep(Duration::from_secs(1).saturating_sub(fenced.elapsed()));
    let mut looker = Host::at(&pair.sites[1], "looker");
    let after: Vec<u8> = (1..=60).map(|lba| read_once(&mut looker, lba).expect("anybody reads")).collect();
    assert_eq!(before, after);
    // Each path is told once, and is out.
    let [path_a, path_b] = victim_paths;
    for (mut path, answered) in [(path_a, 0), (path_b, 60)] {
        let mut refused = Vec::new();
        for _ in 0..answered {
            match path.next_done(Duration::from_millis(500)) {
                Ok(done) => refused.extend(done.result.err()),
                Err(HostError::Late) => break, // aborted: no answer
                Err(error) => panic!("{error:?}"),
            }
        }
        let told = refused.iter().filter(|error| **error == attention(0x2a, 0x05)).count();
        if told == 0 {
            let tag = path.submit(test_unit_ready(), Payload::None);
            let done = path.next_done(Duration::from_secs(5)).expect("an answer");
            assert_eq!((done.tag, done.result.err()), (tag, Some(attention(0x2a, 0x05))));
        }
        let tag = path.submit(write16(0, 1, false), Payload::Out(Bytes::from(block(9))));
        let done = path.next_done(Duration::from_secs(5)).expect("an answer");
        assert_eq!((done.tag, done.result.err()), (tag, Some(CONFLICT)));
    }
    fencer.persistent(CLEAR, 0, 0xf, 0, false).expect("clear");
    assert_eq!(write_once(&mut looker, 0, 1), Ok(()));
}

/// Two hosts preempt each other at the same moment, again and again: one wins, nobody hangs.
#[test]
fn crossed_preempts_leave_one_holder() {
    let pair = Pair::start(Settings::default());
    let [mut one, mut two] = [Host::at(&pair.sites[0], "one"), Host::at(&pair.sites[1], "two")];
    for round in 0..50u64 {
        let (key_one, key_two) = (0x100 + round, 0x200 + round);
        for (host, key) in [(&mut one, key_one), (&mut two, key_two)] {
            hear(host);
            host.persistent(REGISTER_AND_IGNORE, 0, 0, key, false).expect("register");
        }
        hear(&mut one);
        one.persistent(RESERVE, WERO, key_one, 0, false).expect("reserve");
        let results = std::thread::scope(|scope| {
            let a = scope.spawn(|| one.persistent(PREEMPT, WERO, key_one, key_two, false));
            let b = scope.spawn(|| two.persistent(PREEMPT, WERO, key_two, key_one, false));
            [a.join().expect("no panic"), b.join().expect("no panic")]
        });
        let won = results.iter().filter(|result| result.is_ok()).count();
        assert_eq!(won, 1, "round {round}: {results:?}");
        for host in [&mut one, &mut two] {
            hear(host);
        }
        let holder = if results[0].is_ok() { key_one } else { key_two };
        assert_eq!(one.reservation(), Some((holder, WERO)));
        assert_eq!(one.keys(), two.keys());
        let winner = if results[0].is_ok() { &mut one } else { &mut two };
        winner.persistent(CLEAR, 0, holder, 0, false).expect("clear");
    }
}

/// FIG. 22/23: A's host releases and B's reserves at almost the same time. B's must not be refused because the release
/// is still on its way.
#[test]
fn a_hand_over_from_site_to_site_is_never_refused() {
    const ROUNDS: u32 = 1_000;
    let pair = Pair::start(Settings::default());
    let mut hosts = [Host::at(&pair.sites[0], "one"), Host::at(&pair.sites[1], "two")];
    hosts[0].once(reserve6(), &[]).expect("free");
    for round in 0..ROUNDS {
        let (holder, taker) = ((round % 2) as usize, 1 - (round % 2) as usize);
        let release = hosts[holder].submit(release6(), Payload::None);
        // The release has left its host; how far it has come varies.
        hosts[holder].send().expect("sent");
        let pause = Duration::from_micros(u64::from(round % 29) * 20);
        std::thread::sleep(pause);
        let reserved = hosts[taker].once(reserve6(), &[]).map(drop);
        assert_eq!(reserved, Ok(()), "round {round}, {pause:?} after the release");
        let done = hosts[holder].next_done(Duration::from_secs(5)).expect("an answer");
        assert_eq!((done.tag, done.result.map(drop)), (release, Ok(())));
    }
}

/// Simultaneous reserves: exactly one wins, and the tables agree.
#[test]
fn of_two_hosts_that_reserve_at_once_one_wins() {
    let pair = Pair::start(Settings::default());
    let mut hosts = [Host::at(&pair.sites[0], "one"), Host::at(&pair.sites[1], "two")];
    let mut wins = [0, 0];
    for round in 0..300 {
        let tags = hosts.each_mut().map(|host| {
            let tag = host.submit(reserve6(), Payload::None);
            host.send().expect("sent");
            tag
        });
        let results = [0, 1].map(|at: usize| {
            let done = hosts[at].next_done(Duration::from_secs(5)).expect("an answer");
            assert_eq!(done.tag, tags[at]);
            done.result.map(drop)
        });
        let winner = match results {
            [Ok(()), Err(CONFLICT)] => 0,
            [Err(CONFLICT), Ok(())] => 1,
            other => panic!("round {round}: {other:?}"),
        };
        wins[winner] += 1;
        assert_eq!(write_once(&mut hosts[1 - winner], 0, 1), Err(CONFLICT));
        hosts[winner].once(release6(), &[]).expect("its own");
    }
    println!("wins: {wins:?}");
}

/// A counter that hosts at both sites raise by COMPARE AND WRITE ends exactly at the number of their successes.
#[test]
fn a_counter_raised_from_both_sites_by_compare_and_write_loses_nothing() {
    let pair = Pair::start(Settings::default());
    let raise = |site: usize, name: &str| {
        let mut host = Host::at(&pair.sites[site], name);
        let (mut successes, mut misses) = (0u64, 0u64);
        let until = Instant::now() + Duration::from_secs(4);
        while Instant::now() < until {
            let old = host.read(77, 1);
            let value = u64::from_le_bytes(old[..8].try_into().expect("eight bytes"));
            let mut new = vec![0; BLOCK];
            new[..8].copy_from_slice(&(value + 1).to_le_bytes());
            if host.swap(77, &old, &new) { successes += 1 } else { misses += 1 }
        }
        (successes, misses)
    };
    let results = std::thread::scope(|scope| {
        let hosts = [(0, "a1"), (0, "a2"), (1, "b1"), (1, "b2")];
        let running = hosts.map(|(site, name)| scope.spawn(move || raise(site, name)));
        running.map(|thread| thread.join().expect("no panic"))
    });
    let successes: u64 = results.iter().map(|(successes, _)| successes).sum();
    println!("successes and misses: {results:?}");
    assert!(results.iter().all(|(successes, _)| *successes > 0), "each got its turn");
    for site in &pair.sites {
        let block = Host::at(site, "reader").read(77, 1);
        assert_eq!(u64::from_le_bytes(block[..8].try_into().expect("eight bytes")), successes);
    }
}

/// What is reserved outlives a cut line; nobody is granted anything while the line is down.
#[test]
fn while_the_line_is_down_nothing_is_granted_and_nothing_is_lost() {
    let pair = Pair::start(Settings { mode: "async", ..Settings::default() });
    let [mut one, mut two] = [Host::at(&pair.sites[0], "one"), Host::at(&pair.sites[1], "two")];
    one.once(reserve6(), &[]).expect("free");
    pair.line.cut();
    wait_until("the line is seen to be down", || {
        let status = pair.sites[1].status()?;
        if status.link.up { Err("up".to_owned()) } else { Ok(()) }
    });
    assert_eq!(write_once(&mut two, 0, 2), Err(CONFLICT), "an async volume is served, and reserved");
    assert_eq!(write_once(&mut one, 0, 1), Ok(()));
    match one.once(release6(), &[]) {
        Err(HostError::Status { status: 8, .. }) => {}
        other => panic!("a release without the peer: {other:?}"),
    }
    assert_eq!(write_once(&mut two, 0, 2), Err(CONFLICT));
    pair.line.mend();
    wait_until("the release", || one.once(release6(), &[]).map(drop).map_err(|error| format!("{error:?}")));
    assert_eq!(write_once(&mut two, 0, 2), Ok(()));
}
