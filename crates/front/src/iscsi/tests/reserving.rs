//! What reaches beyond a session: reservations, resets that both sites execute, logouts that wait for the release.

use super::super::initiator::{
    ManageFunction, compare_and_write, lun, persistent_parameters, persistent_reserve_in,
    persistent_reserve_out, release6, reserve6, test_unit_ready,
};
use super::super::pdu::{Command as CommandPdu, DataOut};
use super::*;
use biplex_engine::HostId;
use biplex_engine::reserve::Reset;

const CONFLICT: u8 = 0x18;
const LEFT: InitiatorEvent = InitiatorEvent::Closed { why: "logged out" };

fn other_config() -> InitiatorConfig {
    InitiatorConfig { isid: [0x80, 0, 0, 0, 0, 2], ..host_config() }
}

fn nexus(isid: u64) -> Nexus {
    Nexus { host: HostId::of_name(HOST), isid: 0x8000_0000_0000 | isid, site: SiteId::A }
}

fn managed(tag: u64, response: u8) -> InitiatorEvent {
    InitiatorEvent::Managed { tag, response }
}

/// Gives a command and tells how it ended.
fn run(world: &mut World, conn: ConnId, cdb: [u8; 16], payload: Payload) -> (u8, [u8; 3]) {
    world.initiator(conn).submit(77, 0, cdb, payload);
    world.run();
    verdict(&world.take(conn))
}

fn persistent(world: &mut World, conn: ConnId, action: u8, kind: u8, keys: (u64, u64)) -> (u8, [u8; 3]) {
    let list = persistent_parameters(keys.0, keys.1, false);
    run(world, conn, persistent_reserve_out(action, kind), Payload::Out(Bytes::copy_from_slice(&list)))
}

/// A write of blocks 0 to 15 of which only the first has come. Its R2T is not answered: the initiator does not know
/// the task, and so what is to follow must come in the same burst.
fn half_write(world: &mut World, conn: ConnId) -> DataOut {
    let header = CommandPdu {
        opcode: 1,
        flags: 0xa1,
        itt: 0x0100_0000.into(),
        expected: 8192.into(),
        cmd_sn: (*world.initiator(conn).window().0).into(),
        cdb: write16(0, 16, false),
        ..Default::default()
    };
    *world.initiator(conn).window().0 += 1;
    world.initiator(conn).push_raw(&header, Bytes::from(vec![0xee; 512]));
    DataOut {
        opcode: 5,
        flags: 0x80,
        itt: 0x0100_0000.into(),
        ttt: 1.into(),
        offset: 512.into(),
        ..Default::default()
    }
}

/// Takes a connection's bytes to the target without letting it do anything about them.
fn deliver(world: &mut World, conn: ConnId) {
    let bytes: Vec<u8> = std::iter::from_fn(|| world.initiator(conn).poll_send()).flatten().collect();
    world.target.handle_bytes(world.now(), conn, bytes.into());
}

#[test]
fn a_nexus_is_the_folded_name_the_isid_and_the_site() {
    let mut world = World::new();
    let conn = world.login(InitiatorConfig { name: HOST.to_uppercase(), ..host_config() });
    world.hold = true;
    world.read(conn, 1, 0, 1);
    let (_, asker, _) = world.held.pop_front().expect("the read");
    assert_eq!(asker, nexus(1));
    let logged_in = world.log.iter().find_map(|action| match action {
        TargetAction::LoggedIn { nexus, initiator, .. } => Some((*nexus, initiator.to_string())),
        _ => None,
    });
    assert_eq!(logged_in, Some((nexus(1), HOST.to_owned())));
}

/// U+023A takes two bytes, and its small form three. A request with a name that cannot be stored stops the site.
#[test]
fn a_name_that_folding_makes_too_long_does_not_log_in() {
    let mut world = World::new();
    let conn = world.connect(InitiatorConfig { name: "\u{23a}".repeat(75), ..host_config() });
    assert_eq!(world.take(conn), [InitiatorEvent::LoginFailed { class: 2, detail: 0 }]);
    let conn = world.login(InitiatorConfig { name: "\u{23a}".repeat(74), ..host_config() });
    assert_eq!(persistent(&mut world, conn, 0, 0, (0, 7)), (GOOD, [0; 3]));
    let full = persistent_reserve_in(3, 512);
    world.initiator(conn).submit(2, 0, full, Payload::In(512));
    world.run();
    let [InitiatorEvent::Done { data, .. }] = &world.take(conn)[..] else { panic!("one end") };
    let name = "\u{2c65}".repeat(74);
    assert_eq!(&data[8 + 28..8 + 28 + name.len()], name.as_bytes());
}

#[test]
fn a_conflict_is_a_status_without_sense_and_nothing_moves() {
    let mut world = World::new();
    let (one, two) = (world.login(host_config()), world.login(other_config()));
    assert_eq!(run(&mut world, one, reserve6(), Payload::None), (GOOD, [0; 3]));
    world.read(two, 1, 0, 2);
    let conflict = |tag, residual| InitiatorEvent::Done {
        tag,
        status: CONFLICT,
        sense: Bytes::new(),
        data: Bytes::new(),
        residual,
    };
    assert_eq!(world.take(two), [conflict(1, Residual::Underflow(1024))]);
    world.write(two, 2, 0, &[9; 512]);
    assert_eq!(world.take(two), [conflict(2, Residual::None)]);
    assert_eq!(world.disk(0..1), [0; 512]);
    for cdb in [test_unit_ready(), persistent_reserve_in(0, 0)] {
        assert_eq!(run(&mut world, two, cdb, Payload::None), (CONFLICT, [0; 3]));
    }
    assert_eq!(run(&mut world, two, release6(), Payload::None), (GOOD, [0; 3]));
    assert_eq!(run(&mut world, two, reserve6(), Payload::None), (CONFLICT, [0; 3]));
    assert_eq!(run(&mut world, one, release6(), Payload::None), (GOOD, [0; 3]));
    world.write(two, 3, 0, &[9; 512]);
    assert_eq!(world.take(two), [good(3, &[])]);
}

#[test]
fn compare_and_write_takes_both_halves_or_nothing() {
    let mut world = World::new();
    let conn = world.login(host_config());
    let data = Bytes::from([vec![0; 1024], vec![5; 1024]].concat());
    for announced in [0, 1024, 2047, 4096] {
        let (cdb, sent) = (compare_and_write(4, 2), data.slice(..data.len().min(announced as usize)));
        world.initiator(conn).submit_expecting(1, 0, cdb, Payload::Out(sent), announced);
        world.run();
        assert_eq!(verdict(&world.take(conn)), (CHECK, [5, 0x24, 0]), "{announced}");
    }
    // libiscsi's 256 blocks: the CDB's one byte says 0.
    let all = Payload::Out(Bytes::from(vec![0; 262_144]));
    assert_eq!(run(&mut world, conn, compare_and_write(0, 0), all), (CHECK, [5, 0x24, 0]));
    assert_eq!(run(&mut world, conn, compare_and_write(0, 0), Payload::None), (GOOD, [0; 3]));
    let most = Payload::Out(Bytes::from(vec![0; 2 * 255 * 512]));
    assert_eq!(run(&mut world, conn, compare_and_write(100, 255), most), (GOOD, [0; 3]));
    assert_eq!(run(&mut world, conn, compare_and_write(4, 2), Payload::Out(data.clone())), (GOOD, [0; 3]));
    assert_eq!(world.disk(4..6), [5; 1024]);
    assert_eq!(run(&mut world, conn, compare_and_write(4, 2), Payload::Out(data)), (CHECK, [0xe, 0x1d, 0]));
    assert_eq!(world.disk(4..6), [5; 1024]);
}

#[test]
fn a_logout_is_answered_when_what_was_reserved_is_released() {
    let mut world = World::new();
    let (one, two) = (world.login(host_config()), world.login(other_config()));
    assert_eq!(run(&mut world, one, reserve6(), Payload::None), (GOOD, [0; 3]));
    world.stall = true;
    world.initiator(one).logout();
    // Nothing follows a logout.
    world.initiator(one).submit(5, 0, write16(0, 1, false), Payload::Out(Bytes::from(vec![1; 512])));
    world.initiator(one).ping(6, Bytes::from_static(b"late"));
    world.run();
    assert!(world.take(one).is_empty() && world.writes == 0);
    assert_eq!(run(&mut world, two, test_unit_ready(), Payload::None), (CONFLICT, [0; 3]));
    world.resume();
    assert_eq!(world.take(one), [LEFT]);
    assert!(world.hosts[&one].closed);
    assert_eq!(run(&mut world, two, reserve6(), Payload::None), (GOOD, [0; 3]));
}

#[test]
fn a_logout_waits_no_longer_than_five_seconds() {
    let mut world = World::new();
    world.stall = true;
    let conn = world.login(host_config());
    world.initiator(conn).logout();
    world.run();
    world.pass(4 * SECOND);
    assert!(world.take(conn).is_empty());
    world.pass(2 * SECOND);
    assert_eq!(world.take(conn), [LEFT]);
    assert!(world.target.sessions().is_empty());
    // The answer that comes at last is for nobody; nor is the timer of one that left in time.
    world.resume();
    let again = world.login(host_config());
    world.initiator(again).logout();
    world.run();
    let third = world.login(host_config());
    world.pass(6 * SECOND);
    assert_eq!((world.take(again), world.hosts[&third].closed), (vec![LEFT], false));
}

#[test]
fn a_session_that_is_lost_or_reinstated_while_it_leaves_ends_once() {
    for reinstated in [false, true] {
        let mut world = World::new();
        world.stall = true;
        let conn = world.login(host_config());
        world.initiator(conn).logout();
        world.run();
        if reinstated {
            world.login(host_config());
        } else {
            world.target.handle_closed(world.now(), conn);
            world.run();
        }
        world.resume();
        world.pass(6 * SECOND);
        let ends = world.log.iter().filter(|action| matches!(action, TargetAction::LoggedOut { .. })).count();
        assert_eq!((ends, world.target.sessions().len()), (1, usize::from(reinstated)));
    }
}

#[test]
fn a_lost_session_holds_nothing_any_more() {
    let mut world = World::new();
    let (one, two) = (world.login(host_config()), world.login(other_config()));
    assert_eq!(run(&mut world, one, reserve6(), Payload::None), (GOOD, [0; 3]));
    world.target.handle_closed(world.now(), one);
    world.run();
    assert_eq!(run(&mut world, two, reserve6(), Payload::None), (GOOD, [0; 3]));
}

#[test]
fn a_reset_is_answered_when_it_is_executed_and_reaches_each_unit_of_the_target() {
    for (function, units) in [
        (ManageFunction::ClearTaskSet, 1),
        (ManageFunction::LogicalUnitReset, 1),
        (ManageFunction::TargetWarmReset, 2),
        (ManageFunction::TargetColdReset, 2),
    ] {
        let mut world = World::new();
        world.stall = true;
        let conn = world.login(host_config());
        world.initiator(conn).manage(1, function, lun(0), None);
        world.run();
        assert!(world.take(conn).is_empty(), "{function:?} is not executed yet");
        assert_eq!(world.stalled.len(), units);
        let (task, nexus, command) = world.stalled.pop_front().expect("one");
        world.complete(task, nexus, &command.expect("a request"));
        world.run();
        assert_eq!(world.take(conn).len(), usize::from(units == 1), "{function:?}");
        world.resume();
        assert!(units == 1 || world.take(conn) == [managed(1, 0)], "{function:?}");
        assert_eq!(world.hosts[&conn].closed, function == ManageFunction::TargetColdReset);
    }
}

#[test]
fn a_reset_that_is_not_executed_is_rejected_and_drops_nobody() {
    for function in [ManageFunction::LogicalUnitReset, ManageFunction::TargetColdReset] {
        let mut world = World::new();
        world.refuse = Some(Failure::Busy);
        let conn = world.login(host_config());
        world.initiator(conn).manage(1, function, 0, None);
        world.run();
        assert_eq!(world.take(conn), [managed(1, 255)]);
        assert_eq!(world.refusals(), ["a task management function: not both sites executed it"]);
        assert!(!world.hosts[&conn].closed);

        let mut world = World::new();
        world.stall = true;
        let conn = world.login(host_config());
        world.initiator(conn).manage(1, function, 0, None);
        world.run();
        world.pass(11 * SECOND);
        assert_eq!(world.take(conn), [managed(1, 255)]);
        assert_eq!(world.refusals(), ["a task management function: not done in time"]);
        world.resume();
        assert!(world.take(conn).is_empty() && !world.hosts[&conn].closed);
    }
}

#[test]
fn preempt_and_abort_stops_what_the_victim_has_half_sent_and_tells_it() {
    let mut world = World::new();
    let (victim, winner) = (world.login(host_config()), world.login(other_config()));
    assert_eq!(persistent(&mut world, victim, 6, 0, (0, 1)), (GOOD, [0; 3]));
    assert_eq!(persistent(&mut world, winner, 6, 0, (0, 2)), (GOOD, [0; 3]));
    assert_eq!(persistent(&mut world, victim, 1, 5, (1, 0)), (GOOD, [0; 3]));
    // A task that the site works on, one whose data is coming, and one on another unit.
    world.hold = true;
    world.write(victim, 1, 40, &[1; 512]);
    let other_unit = Payload::Out(Bytes::from(vec![3; 512]));
    world.initiator(victim).submit(2, lun(1), write16(0, 1, false), other_unit);
    world.run();
    let late = half_write(&mut world, victim);
    deliver(&mut world, victim);
    world.initiator(victim).push_raw(&late, Bytes::from(vec![0xee; 7680]));
    let list = persistent_parameters(2, 1, false);
    let out = Payload::Out(Bytes::copy_from_slice(&list));
    world.initiator(winner).submit(3, 0, persistent_reserve_out(5, 5), out);
    deliver(&mut world, winner);
    while let Some(action) = world.target.poll() {
        // The R2T would go to an initiator that does not know the task.
        match action {
            TargetAction::Send { conn, .. } if conn == victim => {}
            other => world.act(other),
        }
    }
    world.run();
    world.hold = false;
    world.release();
    assert_eq!(world.take(winner), [good(3, &[])]);
    assert_eq!(world.take(victim), [good(2, &[])], "the other unit goes on, the rest gets no answer");
    assert_eq!(world.disk(0..16), [0; 16 * 512], "late data does not land");
    assert!(world.refusals().is_empty(), "nor is it a fault");
    world.read(victim, 5, 0, 1);
    assert_eq!(verdict(&world.take(victim)), (CHECK, [6, 0x2a, 5]));
    world.write(victim, 6, 0, &[1; 512]);
    assert_eq!(verdict(&world.take(victim)).0, CONFLICT);
    world.write(winner, 7, 0, &[2; 512]);
    assert_eq!(world.take(winner), [good(7, &[])]);
}

#[test]
fn what_the_other_sites_hosts_cause_reaches_the_hosts_here() {
    let mut world = World::new();
    world.hold = true;
    let (one, two) = (world.login(host_config()), world.login(other_config()));
    for (conn, lba) in [(one, 1), (two, 2)] {
        world.write(conn, 1, lba, &[lba as u8; 512]);
    }
    let stranger = Nexus { site: SiteId::B, ..nexus(1) };
    for effect in [Effect::Abort(stranger), Effect::Abort(nexus(1)), Effect::Abort(nexus(1))] {
        world.target.apply_effect(VolumeId(7), &effect);
    }
    world.run();
    let abandoned = world.log.iter().filter(|action| matches!(action, TargetAction::Abandon { .. })).count();
    assert_eq!(abandoned, 1);
    world.hold = false;
    world.release();
    assert_eq!((world.take(one), world.take(two)), (vec![], vec![good(1, &[])]));
    // The same initiator port at the other site resets the unit: that is nobody here, and everybody hears of it.
    let (verdict_there, effects) = world.execute(VolumeId(7), stranger, &Request::Reset(Reset::Unit));
    assert_eq!(verdict_there, Verdict::Done);
    effects.iter().for_each(|effect| world.target.apply_effect(VolumeId(7), effect));
    for conn in [one, two] {
        assert_eq!(run(&mut world, conn, test_unit_ready(), Payload::None), (CHECK, [6, 0x29, 3]));
        assert_eq!(run(&mut world, conn, test_unit_ready(), Payload::None), (GOOD, [0; 3]));
    }
    world.target.apply_effect(VolumeId(99), &Effect::AbortAll);
}

#[test]
fn a_host_that_comes_back_hears_what_was_done_to_it_meanwhile() {
    let mut world = World::new();
    let (one, two) = (world.login(host_config()), world.login(other_config()));
    assert_eq!(persistent(&mut world, one, 6, 0, (0, 1)), (GOOD, [0; 3]));
    assert_eq!(persistent(&mut world, two, 6, 0, (0, 2)), (GOOD, [0; 3]));
    world.target.handle_closed(world.now(), one);
    world.run();
    assert_eq!(persistent(&mut world, two, 4, 5, (2, 1)), (GOOD, [0; 3]));
    assert_eq!(run(&mut world, two, test_unit_ready(), Payload::None), (GOOD, [0; 3]), "who asked knows");
    let back = world.login(host_config());
    for expected in [(CHECK, [6, 0x29, 7]), (CHECK, [6, 0x2a, 5]), (GOOD, [0; 3])] {
        assert_eq!(run(&mut world, back, test_unit_ready(), Payload::None), expected);
    }
    assert_eq!(persistent(&mut world, back, 0, 0, (1, 9)).0, CONFLICT, "its key is gone");
}
