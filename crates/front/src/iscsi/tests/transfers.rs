//! Data in and out: every negotiated way gives the same bytes; residuals; windows; backlog.

use super::super::session::WINDOW;
use super::super::target::BACKLOG_BYTES_MAX;
use super::*;
use proptest::prelude::*;

/// Writes and reads back with these wishes; tells all events and the disk's beginning.
fn round_trip(config: InitiatorConfig, chunk: usize, sizes: &[usize]) -> (Vec<InitiatorEvent>, Vec<u8>) {
    let mut world = World::new();
    world.chunk = chunk;
    let conn = world.login(config);
    for (at, size) in sizes.iter().enumerate() {
        let data = pattern(*size, at as u8 + 3);
        let tag = at as u64 * 2;
        world.write(conn, tag, at as u64, &data);
        world.read(conn, tag + 1, at as u64, (*size / 512) as u32);
        assert_eq!(world.take(conn), [good(tag, &[]), good(tag + 1, &data)]);
    }
    (world.take(conn), world.disk(0..sizes.len() + 1).to_vec())
}

#[test]
fn every_way_of_sending_data_writes_the_same_bytes() {
    let sizes = [512, 4096, 8192, 66_048, 300_032, 1_048_576];
    let mut outcomes = Vec::new();
    for initial_r2t in [false, true] {
        for immediate_data in [false, true] {
            for digests in [false, true] {
                for (first_burst, max_burst) in [(512, 512), (4096, 65_536), (262_144, 262_144)] {
                    let config = InitiatorConfig {
                        header_digest: digests,
                        data_digest: digests,
                        initial_r2t,
                        immediate_data,
                        first_burst,
                        max_burst,
                        receive_max: if digests { 4096 } else { 262_144 },
                        ..host_config()
                    };
                    outcomes.push(round_trip(config, usize::MAX, &sizes));
                }
            }
        }
    }
    assert!(outcomes.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn byte_by_byte_and_one_burst_give_the_same_result() {
    for initial_r2t in [false, true] {
        let config = || InitiatorConfig { initial_r2t, first_burst: 4096, max_burst: 8192, ..host_config() };
        let sizes = [512, 4096, 20_480];
        assert_eq!(round_trip(config(), 1, &sizes), round_trip(config(), usize::MAX, &sizes));
    }
}

#[test]
fn residuals_are_told_and_never_more_moves_than_both_sides_said() {
    let mut world = World::new();
    let conn = world.login(host_config());
    let old = pattern(1024, 9);
    world.write(conn, 0, 0, &old);
    world.take(conn);
    let mut run = |cdb, payload, expected| {
        world.initiator(conn).submit_expecting(1, 0, cdb, payload, expected);
        world.run();
        match world.take(conn).pop() {
            Some(InitiatorEvent::Done { status, data, residual, .. }) => (status, data.len(), residual),
            other => panic!("{other:?}"),
        }
    };
    // Reads (SCSI.md 3.6).
    assert_eq!(run(read16(0, 1, false), Payload::In(0), 0), (GOOD, 0, Residual::Overflow(512)));
    assert_eq!(run(read16(0, 1, false), Payload::In(9999), 10_000), (GOOD, 512, Residual::Underflow(9488)));
    assert_eq!(run(read16(0, 1, false), Payload::In(200), 200), (GOOD, 200, Residual::Overflow(312)));
    assert_eq!(run(read16(0, 2, false), Payload::In(512), 512), (GOOD, 512, Residual::Overflow(512)));
    // A read that is called a write.
    let (status, moved, _) = run(read16(0, 1, false), Payload::Out(Bytes::from(vec![0; 512])), 512);
    assert_eq!((status, moved), (GOOD, 0));
    // Writes.
    let out = |length: usize| Payload::Out(Bytes::from(vec![b'b'; length]));
    assert_eq!(run(write16(8, 1, false), Payload::None, 0), (GOOD, 0, Residual::Overflow(512)));
    assert_eq!(run(write16(0, 2, false), out(512), 512), (GOOD, 0, Residual::Overflow(512)));
    assert_eq!(run(write16(1, 1, false), out(1024), 1024), (GOOD, 0, Residual::Underflow(512)));
    assert_eq!(run(write16(4, 1, false), out(200), 200).0, CHECK);
    assert_eq!(run(write16(6, 1, false), out(10_000), 10_000), (GOOD, 0, Residual::Underflow(9488)));
    assert_eq!(world.disk(0..2), [b'b'; 1024]);
    assert_eq!(world.disk(2..6), [0; 2048]);
    assert_eq!(world.disk(6..9), [[b'b'; 512], [0; 512], [0; 512]].concat());
}

#[test]
fn a_short_inquiry_underflows() {
    let mut world = World::new();
    let conn = world.login(host_config());
    world.initiator(conn).submit(1, 0, inquiry(None, 255), Payload::In(255));
    world.run();
    let events = world.take(conn);
    let [InitiatorEvent::Done { status: GOOD, data, residual, .. }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(*residual, Residual::Underflow(255 - data.len() as u32));
}

#[test]
fn an_announced_length_sizes_no_buffer() {
    let mut world = World::new();
    let conn = world.login(host_config());
    // 2 TiB by the CDB, 4 GiB by the transport: refused without asking for data.
    world.initiator(conn).submit_expecting(1, 0, write16(0, u32::MAX, false), Payload::None, 0);
    world.run();
    assert_eq!(verdict(&world.take(conn)).0, CHECK);
    let data = Payload::Out(Bytes::from(vec![1; 512]));
    world.initiator(conn).submit_expecting(2, 0, write16(0, u32::MAX, false), data, u32::MAX);
    world.run();
    assert_eq!(verdict(&world.take(conn)).0, CHECK);
    assert_eq!(world.writes, 0);
}

#[test]
fn many_commands_fly_at_once_and_the_window_holds_the_rest() {
    let mut world = World::new();
    world.hold = true;
    // Starts just before the wrap at 2^32.
    let conn = world.login(InitiatorConfig { first_cmd_sn: 0xffff_fff0, ..host_config() });
    for tag in 0..1000 {
        world.initiator(conn).submit(
            tag,
            0,
            write16(tag % 64, 8, false),
            Payload::Out(Bytes::from(vec![1; 4096])),
        );
    }
    world.run();
    assert_eq!(world.held.len(), WINDOW as usize);
    world.hold = false;
    world.release();
    let events = world.take(conn);
    assert_eq!(events.len(), 1000);
    assert!(events.iter().enumerate().all(|(tag, event)| *event == good(tag as u64, &[])));
}

#[test]
fn commands_outside_the_window_are_silently_ignored() {
    let mut world = World::new();
    let conn = world.login(InitiatorConfig { first_cmd_sn: 0xffff_fffe, ..host_config() });
    let (next, last) = world.initiator(conn).window();
    let sn = *next;
    assert_eq!(last, sn.wrapping_add(WINDOW - 1));
    for wrong in [sn.wrapping_sub(1), last.wrapping_add(1), sn.wrapping_add(0x7fff_ffff)] {
        let header = super::super::pdu::Command {
            opcode: 1,
            flags: 0x81,
            itt: 77.into(),
            cmd_sn: wrong.into(),
            ..Default::default()
        };
        world.initiator(conn).push_raw(&header, Bytes::new());
        world.run();
        assert!(world.take(conn).is_empty());
    }
    world.read(conn, 1, 0, 1);
    assert_eq!(world.take(conn), [good(1, &[0; 512])]);
}

#[test]
fn a_socket_that_takes_nothing_closes_the_window_and_opens_it_again() {
    let mut world = World::new();
    let conn = world.login(host_config());
    world.target.handle_backlog(world.now(), conn, BACKLOG_BYTES_MAX + 1);
    for tag in 0..300 {
        world.initiator(conn).submit(tag, 0, read16(0, 1, false), Payload::In(512));
    }
    world.run();
    assert!(world.take(conn).is_empty(), "held back");
    world.target.handle_backlog(world.now(), conn, 0);
    world.run();
    assert_eq!(world.take(conn).len(), 300);
}

#[test]
fn a_ping_comes_back_with_its_data() {
    let mut world = World::new();
    let conn = world.login(host_config());
    for data in [&b"hello"[..], b""] {
        world.initiator(conn).ping(4, Bytes::copy_from_slice(data));
        world.run();
        assert_eq!(world.take(conn), [InitiatorEvent::Echo { tag: 4, data: Bytes::copy_from_slice(data) }]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the sizes and limits, a disk holds what was written last and reads return it.
    #[test]
    fn writes_and_reads_agree_with_a_plain_array(
        initial_r2t: bool,
        immediate_data: bool,
        digests: bool,
        first_burst in 512u32..20_000,
        max_burst in 512u32..40_000,
        receive_max in 512u32..20_000,
        chunk in 1usize..5000,
        steps in prop::collection::vec((0u64..200, 1u32..120, any::<u8>()), 1..12),
    ) {
        let config = InitiatorConfig {
            header_digest: digests, data_digest: digests, initial_r2t, immediate_data, first_burst, max_burst,
            receive_max, ..host_config()
        };
        let mut world = World::new();
        world.chunk = chunk;
        let conn = world.login(config);
        let mut plain = vec![0; 400 * 512];
        for (tag, (lba, blocks, seed)) in steps.into_iter().enumerate() {
            let data = pattern(blocks as usize * 512, seed);
            plain[lba as usize * 512..][..data.len()].copy_from_slice(&data);
            world.write(conn, tag as u64, lba, &data);
            prop_assert_eq!(world.take(conn), [good(tag as u64, &[])]);
            world.read(conn, 99, lba / 2, 100);
            prop_assert_eq!(world.take(conn), [good(99, &plain[lba as usize / 2 * 512..][..100 * 512])]);
        }
    }
}
