//! Task management: aborts and resets, and who is told what.

use super::super::initiator::ManageFunction;
use super::*;

fn managed(tag: u64, response: u8) -> InitiatorEvent {
    InitiatorEvent::Managed { tag, response }
}

/// A host whose write waits for its data: the R2T was sent, the host does not answer it.
fn half_written(world: &mut World, conn: ConnId) -> u64 {
    let header = super::super::pdu::Command {
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
    0x0100_0000
}

#[test]
fn a_running_task_that_is_aborted_gets_no_answer_and_the_function_waits_for_it() {
    let mut world = World::new();
    world.hold = true;
    let conn = world.login(host_config());
    world.write(conn, 1, 0, &[1; 512]);
    world.write(conn, 2, 1, &[2; 512]);
    world.initiator(conn).manage(10, ManageFunction::AbortTask, 0, Some(1));
    world.run();
    assert!(world.take(conn).is_empty(), "the site still works on it");
    let abandoned = world.log.iter().filter(|action| matches!(action, TargetAction::Abandon { .. })).count();
    assert_eq!(abandoned, 1, "the site is told, so that what it has not begun it never begins");
    world.hold = false;
    world.release();
    assert_eq!(world.take(conn), [managed(10, 0), good(2, &[])]);
    // Done long since: it does not exist, and its answer went out.
    world.initiator(conn).manage(11, ManageFunction::AbortTask, 0, Some(2));
    world.run();
    assert_eq!(world.take(conn), [managed(11, 1)]);
}

#[test]
fn a_function_does_not_wait_for_ever() {
    let mut world = World::new();
    world.hold = true;
    let conn = world.login(host_config());
    world.write(conn, 1, 0, &[1; 512]);
    world.initiator(conn).manage(10, ManageFunction::AbortTaskSet, 0, None);
    world.run();
    world.pass(11 * SECOND);
    assert_eq!(world.take(conn), [managed(10, 255)]);
    world.release();
    assert!(world.take(conn).is_empty());
}

#[test]
fn a_half_received_write_that_is_aborted_never_reaches_the_volume() {
    for function in
        [ManageFunction::AbortTaskSet, ManageFunction::LogicalUnitReset, ManageFunction::ClearTaskSet]
    {
        let mut world = World::new();
        let conn = world.login(host_config());
        // Its R2T names a task that this initiator does not know, so the initiator hangs up on it: see to it
        // that the function comes in the same burst.
        let itt = half_written(&mut world, conn);
        world.initiator(conn).manage(10, function, 0, None);
        let late = super::super::pdu::DataOut {
            opcode: 5,
            flags: 0x80,
            itt: (itt as u32).into(),
            ttt: 1.into(),
            offset: 512.into(),
            ..Default::default()
        };
        world.initiator(conn).push_raw(&late, Bytes::from(vec![0xee; 7680]));
        world.run();
        assert_eq!(world.writes, 0);
        assert!(world.refusals().is_empty(), "late data of an aborted task is not a fault");
        assert_eq!(world.target.sessions().iter().map(|session| session.commands).sum::<usize>(), 0);
    }
}

#[test]
fn a_unit_reset_aborts_every_hosts_tasks_on_that_unit_and_tells_every_host() {
    let mut world = World::new();
    world.hold = true;
    let (one, two) =
        (world.login(host_config()), world.login(InitiatorConfig { isid: [2; 6], ..host_config() }));
    world.write(one, 1, 0, &[1; 512]);
    world.write(two, 1, 1, &[2; 512]);
    let other_unit = Payload::Out(Bytes::from(vec![3; 512]));
    world.initiator(two).submit(2, super::super::initiator::lun(1), write16(0, 1, false), other_unit);
    world.initiator(one).manage(10, ManageFunction::LogicalUnitReset, 0, None);
    world.run();
    world.hold = false;
    world.release();
    assert_eq!(world.take(one), [managed(10, 0)]);
    assert_eq!(world.take(two), [good(2, &[])], "the other unit goes on");
    for conn in [one, two] {
        world.read(conn, 5, 0, 1);
        let (status, [key, code, _]) = verdict(&world.take(conn));
        assert_eq!((status, key, code), (CHECK, 6, 0x29));
        world.read(conn, 6, 0, 1);
        assert_eq!(verdict(&world.take(conn)).0, GOOD);
    }
}

#[test]
fn functions_answer_for_units_that_are_not_there_and_for_what_is_not_supported() {
    let mut world = World::new();
    let conn = world.login(host_config());
    let missing = super::super::initiator::lun(9);
    for (function, lun, response) in [
        (ManageFunction::LogicalUnitReset, missing, 2),
        (ManageFunction::AbortTaskSet, missing, 2),
        (ManageFunction::ClearTaskSet, missing, 2),
        (ManageFunction::ClearAca, 0, 5),
        (ManageFunction::TargetWarmReset, 0, 0),
        (ManageFunction::ClearTaskSet, 0, 0),
    ] {
        world.initiator(conn).manage(1, function, lun, None);
        world.run();
        assert_eq!(world.take(conn), [managed(1, response)], "{function:?}");
    }
}

#[test]
fn a_cold_reset_answers_and_then_drops_every_connection() {
    let mut world = World::new();
    let (one, two) =
        (world.login(host_config()), world.login(InitiatorConfig { isid: [2; 6], ..host_config() }));
    world.initiator(one).manage(1, ManageFunction::TargetColdReset, 0, None);
    world.run();
    assert_eq!(world.take(one), [managed(1, 0)]);
    assert!(world.hosts[&one].closed && world.hosts[&two].closed);
    assert!(world.target.sessions().is_empty());
}

#[test]
fn a_command_aborted_before_it_comes_is_ignored_when_it_comes() {
    let mut world = World::new();
    let conn = world.login(host_config());
    let sn = *world.initiator(conn).window().0;
    let itt = 0x0200_0000u32;
    let abort = super::super::pdu::Management {
        opcode: 0x42,
        flags: 0x81,
        itt: 0x0300_0000.into(),
        ref_itt: itt.into(),
        ref_cmd_sn: sn.into(),
        ..Default::default()
    };
    let command = super::super::pdu::Command {
        opcode: 1,
        flags: 0xa1,
        itt: itt.into(),
        expected: 512.into(),
        cmd_sn: sn.into(),
        cdb: write16(0, 1, false),
        ..Default::default()
    };
    let ping = super::super::pdu::Basic {
        opcode: 0,
        flags: 0x80,
        itt: super::super::pdu::NO_TAG.into(),
        ttt: super::super::pdu::NO_TAG.into(),
        cmd_sn: sn.wrapping_add(1).into(),
        ..Default::default()
    };
    world.initiator(conn).push_raw(&abort, Bytes::new());
    world.initiator(conn).push_raw(&command, Bytes::from(vec![1; 512]));
    world.initiator(conn).push_raw(&ping, Bytes::new());
    world.run();
    assert_eq!(world.writes, 0);
    assert!(world.refusals().is_empty());
}
