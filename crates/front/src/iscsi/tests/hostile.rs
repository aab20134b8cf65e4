//! Broken and hostile hosts: each ends with a reject, a refusal or silence, and touches no other session.

use super::super::framing::Outbox;
use super::super::pdu::{Basic, Command as CommandPdu, DataOut, Header, NO_TAG};
use super::*;
use proptest::prelude::*;

/// The bytes that an initiator sends in a session with these wishes: login, inquiry, writes, reads, logout.
fn recorded(config: InitiatorConfig) -> Vec<u8> {
    let mut world = World::new();
    let conn = world.open();
    let mut initiator = Initiator::new(config, entropy(5));
    let mut bytes = Vec::new();
    let mut settle = |world: &mut World, initiator: &mut Initiator| {
        loop {
            let burst: Vec<u8> = std::iter::from_fn(|| initiator.poll_send()).flatten().collect();
            if burst.is_empty() {
                return;
            }
            bytes.extend_from_slice(&burst);
            world.send(conn, &burst);
            initiator.handle_bytes(std::mem::take(world.raw.entry(conn).or_default()).into());
        }
    };
    settle(&mut world, &mut initiator);
    initiator.submit(1, 0, inquiry(None, 96), Payload::In(96));
    initiator.submit(2, 0, write16(0, 16, false), Payload::Out(pattern(8192, 1).into()));
    settle(&mut world, &mut initiator);
    initiator.submit(3, 0, read16(0, 16, false), Payload::In(8192));
    initiator.ping(4, Bytes::from_static(b"ping"));
    initiator.send_text(&[("SendTargets", "All")]);
    initiator.manage(5, super::super::initiator::ManageFunction::AbortTaskSet, 0, None);
    settle(&mut world, &mut initiator);
    initiator.logout();
    settle(&mut world, &mut initiator);
    assert!(world.refusals().is_empty());
    bytes
}

fn raw_session(world: &mut World) -> ConnId {
    world.login(InitiatorConfig { initial_r2t: false, first_burst: 4096, ..host_config() })
}

fn command(world: &mut World, conn: ConnId, flags: u8, expected: u32, cdb: [u8; 16]) -> CommandPdu {
    let sn = *world.initiator(conn).window().0;
    *world.initiator(conn).window().0 = sn.wrapping_add(1);
    CommandPdu {
        opcode: 1,
        flags: flags | 1,
        itt: 0x0100_0000.into(),
        expected: expected.into(),
        cmd_sn: sn.into(),
        cdb,
        ..Default::default()
    }
}

fn data_out(data_sn: u32, offset: u32, flags: u8) -> DataOut {
    DataOut {
        opcode: 5,
        flags,
        itt: 0x0100_0000.into(),
        ttt: NO_TAG.into(),
        data_sn: data_sn.into(),
        offset: offset.into(),
        ..Default::default()
    }
}

/// Sends an unsolicited write of 1024 bytes; tells whether the connection was dropped, and how many writes
/// were made.
fn outcome(pdus: &[(DataOut, usize)], immediate: usize) -> (bool, usize) {
    let mut world = World::new();
    let conn = raw_session(&mut world);
    let header = command(&mut world, conn, 0x20, 1024, write16(0, 2, false));
    world.initiator(conn).push_raw(&header, Bytes::from(vec![1; immediate]));
    for (header, length) in pdus {
        world.initiator(conn).push_raw(header, Bytes::from(vec![1; *length]));
    }
    world.run();
    // The initiator does not know the task and hangs up on its R2T or response; only the target's view counts
    // here.
    let closed = world.hosts[&conn].closed;
    assert_eq!(world.refusals().len(), usize::from(closed));
    assert_eq!(world.target.sessions().iter().map(|session| session.commands).sum::<usize>(), 0);
    (closed, world.writes)
}

#[test]
fn data_that_did_not_come_exactly_as_agreed_is_never_written() {
    assert_eq!(outcome(&[(data_out(0, 0, 0), 512), (data_out(1, 512, 0x80), 512)], 0), (false, 1));
    assert_eq!(outcome(&[(data_out(0, 512, 0x80), 512)], 512), (false, 1));
    // A wrong DataSN fails the command; the connection stands.
    for [first, second] in [[0, 0], [1, 0], [27, 28], [u32::MAX, 0], [0, 2]] {
        let pdus = [(data_out(first, 0, 0), 512), (data_out(second, 512, 0x80), 512)];
        assert_eq!(outcome(&pdus, 0), (false, 0), "{first} {second}");
    }
    let bad: [&[(DataOut, usize)]; 5] = [
        &[(data_out(0, 512, 0), 512)],
        &[(data_out(0, u32::MAX, 0), 512)],
        &[(data_out(0, 0, 0), 1536)],
        &[(DataOut { ttt: 1.into(), ..data_out(0, 0, 0) }, 512)],
        &[(data_out(0, 0, 0x80), 512), (data_out(1, 512, 0x80), 512)],
    ];
    for pdus in bad {
        assert_eq!(outcome(pdus, 0), (true, 0), "{pdus:?}");
    }
}

#[test]
fn a_wrong_data_sequence_number_is_told_as_a_data_phase_error() {
    let mut world = World::new();
    let conn = world.login(InitiatorConfig { immediate_data: false, ..host_config() });
    world.initiator(conn).submit(1, 0, write16(0, 1, false), Payload::Out(Bytes::from(vec![1; 512])));
    let initiator = world.initiator(conn);
    let command: Vec<u8> = std::iter::from_fn(|| initiator.poll_send()).flatten().collect();
    world.target.handle_bytes(world.now(), conn, command.into());
    while let Some(action) = world.target.poll() {
        world.act(action); // the R2T
    }
    let initiator = world.initiator(conn);
    let mut data: Vec<u8> = std::iter::from_fn(|| initiator.poll_send()).flatten().collect();
    data[39] = 27;
    world.send(conn, &data);
    assert_eq!(verdict(&world.take(conn)), (CHECK, [0x0b, 0x4b, 0]));
    world.write(conn, 2, 0, &[2; 512]);
    assert_eq!(world.take(conn), [good(2, &[])]);
    assert_eq!(world.writes, 1);
}

#[test]
fn data_that_was_not_agreed_on_ends_the_connection() {
    // Immediate data beyond what was announced, in a read, beyond the first burst; unsolicited data without
    // leave.
    for (flags, expected, immediate, initial_r2t) in [
        (0xa0, 512, 1024, false),
        (0xc0, 512, 512, false),
        (0xa0, 8192, 8192, false),
        (0x20, 1024, 512, true),
    ] {
        let mut world = World::new();
        let conn = world.login(InitiatorConfig { initial_r2t, first_burst: 4096, ..host_config() });
        let header = command(&mut world, conn, flags, expected, write16(0, 2, false));
        world.initiator(conn).push_raw(&header, Bytes::from(vec![1; immediate]));
        world.run();
        assert_eq!(world.take(conn), [InitiatorEvent::Rejected { reason: 4 }]);
        assert!(world.hosts[&conn].closed && world.writes == 0);
    }
}

#[test]
fn small_faults_are_rejected_and_the_session_goes_on() {
    let mut world = World::new();
    let conn = raw_session(&mut world);
    let snack = Basic { opcode: 0x10, flags: 0x80, itt: 1.into(), ..Default::default() };
    world.initiator(conn).push_raw(&snack, Bytes::new());
    let unknown = Basic { opcode: 0x1d, ..Default::default() };
    world.initiator(conn).push_raw(&unknown, Bytes::new());
    let aca = command(&mut world, conn, 0x84, 0, [0; 16]);
    world.initiator(conn).push_raw(&aca, Bytes::new());
    let untagged = CommandPdu { itt: NO_TAG.into(), ..command(&mut world, conn, 0x80, 0, [0; 16]) };
    world.initiator(conn).push_raw(&untagged, Bytes::new());
    world.run();
    let reasons = [3, 5, 9, 9].map(|reason| InitiatorEvent::Rejected { reason });
    assert_eq!(world.take(conn), reasons);
    world.hold = true;
    world.write(conn, 1, 0, &[1; 512]);
    world.hold = false;
    let twice = CommandPdu { itt: 1.into(), ..command(&mut world, conn, 0x80, 0, [0; 16]) };
    assert_eq!(world.hosts[&conn].initiator.commands(), 1);
    world.initiator(conn).push_raw(&twice, Bytes::new());
    world.run();
    assert_eq!(world.take(conn), [InitiatorEvent::Rejected { reason: 7 }]);
    world.release();
    assert_eq!(world.take(conn), [good(1, &[])]);
}

#[test]
fn a_gap_in_command_numbers_and_a_second_login_end_the_connection() {
    let mut world = World::new();
    let conn = raw_session(&mut world);
    *world.initiator(conn).window().0 += 1;
    world.read(conn, 1, 0, 1);
    assert!(world.hosts[&conn].closed);
    let conn = raw_session(&mut world);
    let login = Basic { opcode: 0x43, flags: 0x87, ..Default::default() };
    world.initiator(conn).push_raw(&login, Bytes::new());
    world.run();
    assert!(world.hosts[&conn].closed);
    assert_eq!(world.refusals().len(), 2);
}

#[test]
fn a_flipped_bit_fails_the_command_or_the_connection_and_nothing_is_written() {
    let digests = || InitiatorConfig { header_digest: true, data_digest: true, ..host_config() };
    let mut world = World::new();
    let conn = world.login(digests());
    let mut send = |at: usize| {
        let data = Payload::Out(Bytes::from(vec![7; 512]));
        world.initiator(conn).submit(1, 0, write16(0, 1, false), data);
        let initiator = world.initiator(conn);
        let mut bytes: Vec<u8> = std::iter::from_fn(|| initiator.poll_send()).flatten().collect();
        bytes[at] ^= 0x10;
        world.send(conn, &bytes);
        (world.take(conn), world.hosts[&conn].closed, world.writes)
    };
    let (events, closed, writes) = send(52 + 100);
    assert_eq!(events[0], InitiatorEvent::Rejected { reason: 2 });
    assert_eq!(verdict(&events[1..]), (CHECK, [0x0b, 0x47, 5]));
    assert_eq!((closed, writes), (false, 0));
    let (events, closed, writes) = send(40);
    assert_eq!((events.len(), closed, writes), (0, true, 0));
    assert_eq!(world.refusals(), ["wrong header digest"]);
}

#[test]
fn garbage_before_login_is_refused_and_logged() {
    let mut world = World::new();
    let healthy = world.login(host_config());
    let http = b"GET / HTTP/1.1\r\nHost: 192.0.2.1\r\nUser-Agent: x\r\n\r\n".to_vec();
    let nop = Basic { opcode: 0x40, ..Default::default() }.bytes().to_vec();
    let zeros = vec![0; 48];
    let ones = vec![0xff; 48];
    for garbage in [http, nop, zeros, ones] {
        let conn = world.open();
        world.send(conn, &garbage);
        assert!(world.log.contains(&TargetAction::Close { conn }));
        assert!(!world.raw.contains_key(&conn), "no answer");
    }
    assert_eq!(world.refusals().len(), 4);
    world.read(healthy, 1, 0, 1);
    assert_eq!(world.take(healthy), [good(1, &[0; 512])]);
}

#[test]
fn promised_data_that_never_comes_ends_the_connection() {
    let mut world = World::new();
    let conn = raw_session(&mut world);
    let header = command(&mut world, conn, 0x20, 1024, write16(0, 2, false));
    world.initiator(conn).push_raw(&header, Bytes::new());
    world.run();
    world.pass(100 * SECOND);
    assert!(world.hosts[&conn].closed);
    assert_eq!(world.refusals(), ["promised data did not come"]);
}

fn wishes(kind: u8) -> InitiatorConfig {
    InitiatorConfig {
        header_digest: kind & 1 != 0,
        data_digest: kind & 2 != 0,
        initial_r2t: kind & 4 != 0,
        first_burst: 4096,
        max_burst: 4096,
        isid: [9; 6],
        ..host_config()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// A valid session's bytes, mutated: nothing panics, and another session works on.
    #[test]
    fn mutated_sessions_harm_nobody(
        kind in 0u8..8,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        header_flips in prop::collection::vec((0usize..40, 0usize..48, any::<u8>()), 0..3),
        cut in any::<Option<prop::sample::Index>>(),
        chunk in 1usize..3000,
    ) {
        let mut bytes = recorded(wishes(kind));
        // Some flips aim at headers, which are few among the data.
        let mut headers = Vec::new();
        let mut at = 0;
        while let Some(header) = bytes.get(at..at + 48) {
            headers.push(at);
            let length = super::super::pdu::length_of([header[5], header[6], header[7]]).next_multiple_of(4);
            let full = header[0] != 0x43;
            let digests = usize::from(full && kind & 1 != 0) + usize::from(full && length > 0 && kind & 2 != 0);
            at += 48 + length + 4 * digests;
        }
        prop_assert_eq!(at, bytes.len());
        for (index, value) in flips {
            *index.get_mut(&mut bytes[..]) = value;
        }
        for (pdu, offset, value) in header_flips {
            let at = headers[pdu % headers.len()] + offset;
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let mut world = World::new();
        let healthy = world.login(host_config());
        world.write(healthy, 1, 100, &[3; 512]);
        let conn = world.open();
        for chunk in bytes.chunks(chunk) {
            world.send(conn, chunk);
        }
        world.pass(5 * SECOND);
        world.take(healthy);
        // A reset by the other host is allowed to be heard of, once.
        for tag in 2..4 {
            world.read(healthy, tag, 200, 1);
        }
        // What the other host wrote, if a flip sent one of its writes here, is its good right.
        let there = world.disk(200..201).to_vec();
        prop_assert_eq!(world.take(healthy).pop(), Some(good(3, &there)));
        world.target.handle_closed(world.now(), conn);
        world.run();
        prop_assert_eq!(world.target.sessions().len(), 1);
        prop_assert!(world.held.is_empty());
    }

    /// Random bytes: nothing panics.
    #[test]
    fn random_bytes_harm_nobody(bytes in prop::collection::vec(any::<u8>(), 0..600), immediate: bool) {
        let mut world = World::new();
        let conn = world.open();
        let mut bytes = bytes;
        if immediate && bytes.len() > 8 {
            bytes[0] = 0x43;
            bytes[4..7].fill(0);
        }
        world.send(conn, &bytes);
        let mut out = Outbox::default();
        out.push(&Basic::default(), &[Bytes::from(bytes)]);
        let mut initiator = Initiator::new(host_config(), entropy(1));
        while let Some(bytes) = out.pop() {
            initiator.handle_bytes(bytes);
        }
    }
}
