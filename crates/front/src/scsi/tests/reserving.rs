//! Reservations as hosts meet them: every command of the table against every kind of reservation, and how
//! requests are asked for and their ends told.

use super::*;
use biplex_engine::reserve::{Attention, PersistentKind};

/// Blocks that the commands below touch: 4 and, where they have two, 5.
const LBA: u64 = 4;

/// What SCSI.md 4.2 and 4.5 say of a command, written down once more and apart from the table of commands.
fn class_of(opcode: u8, action: u8) -> Access {
    match (opcode, action) {
        // REQUEST SENSE, INQUIRY, READ CAPACITY, REPORT LUNS, REPORT TARGET PORT GROUPS
        (0x03 | 0x12 | 0x25 | 0xa0, _) | (0x9e, 0x10) | (0xa3, 0x0a) => Access::Exempt,
        // TEST UNIT READY
        (0x00, _) => Access::Look,
        // READ, VERIFY, PRE-FETCH; MODE SENSE, READ DEFECT DATA, GET LBA STATUS, REPORT SUPPORTED …
        (0x08 | 0x28 | 0x88 | 0xa8 | 0x2f | 0x8f | 0xaf | 0x34 | 0x90, _) => Access::Read,
        (0x1a | 0x5a | 0x37 | 0xb7, _) | (0x9e, 0x12) | (0xa3, 0x0c | 0x0d) => Access::Read,
        // WRITE, WRITE AND VERIFY, WRITE SAME, UNMAP, COMPARE AND WRITE, WRITE ATOMIC
        (0x0a | 0x2a | 0x8a | 0xaa | 0x2e | 0x8e | 0xae, _) => Access::Write,
        (0x41 | 0x93 | 0x42 | 0x89 | 0x9c, _) => Access::Write,
        // MODE SELECT, START STOP UNIT, SEND DIAGNOSTIC, SYNCHRONIZE CACHE
        (0x15 | 0x55 | 0x1b | 0x1d | 0x35 | 0x91, _) => Access::Control,
        other => panic!("{other:x?} is not in SCSI.md"),
    }
}

/// A CDB of this row that is in order, and the data that goes with it.
fn sample(row: &Row) -> (Vec<u8>, Vec<u8>) {
    let mut cdb = vec![0; row.length()];
    (cdb[0], cdb[1]) = (row.opcode, row.service_action.unwrap_or(0));
    let block = vec![0; 512];
    let control = [0x0a, 10, 4, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0];
    match row.operation {
        Operation::Read | Operation::Verify | Operation::Prefetch | Operation::SynchronizeCache => {
            (media(row.opcode, 0, LBA, 1), vec![])
        }
        Operation::Write | Operation::WriteVerify | Operation::WriteSame => {
            (media(row.opcode, 0, LBA, 1), block)
        }
        Operation::WriteAtomic => {
            (cdb[9], cdb[13]) = (LBA as u8, 1);
            (cdb, block)
        }
        Operation::CompareAndWrite => {
            (cdb[9], cdb[13]) = (LBA as u8, 1);
            (cdb, vec![0; 1024])
        }
        Operation::Unmap => {
            let list = unmap_list(&[(1000, 1), (LBA, 1)]);
            (unmap(&list).to_vec(), list)
        }
        Operation::ModeSelect => {
            cdb[1] = 0x10;
            let header = if cdb.len() == 6 { 4 } else { 8 };
            let list = [&vec![0; header][..], &control].concat();
            cdb[if header == 4 { 4 } else { 8 }] = list.len() as u8;
            (cdb, list)
        }
        Operation::ModeSense => {
            cdb[2] = 0x3f;
            (cdb, vec![])
        }
        Operation::SendDiagnostic => {
            cdb[1] = 0x04;
            (cdb, vec![])
        }
        Operation::TestUnitReady
        | Operation::RequestSense
        | Operation::Inquiry
        | Operation::StartStop
        | Operation::ReadCapacity10
        | Operation::ReadCapacity16
        | Operation::ReadDefects
        | Operation::ReportLuns
        | Operation::ReportGroups
        | Operation::ReportOpcodes
        | Operation::ReportTaskManagement
        | Operation::Reserve
        | Operation::Release
        | Operation::PersistentIn
        | Operation::PersistentOut
        | Operation::LbaStatus => (cdb, vec![]),
    }
}

/// Whether the command's blocks meet an extent on them. PRE-FETCH carries nothing out and so meets none.
fn touches(row: &Row) -> bool {
    match row.operation {
        Operation::Read
        | Operation::Verify
        | Operation::Write
        | Operation::WriteVerify
        | Operation::WriteAtomic
        | Operation::WriteSame
        | Operation::CompareAndWrite
        | Operation::Unmap => true,
        Operation::Prefetch
        | Operation::SynchronizeCache
        | Operation::ModeSelect
        | Operation::ModeSense
        | Operation::SendDiagnostic
        | Operation::TestUnitReady
        | Operation::RequestSense
        | Operation::Inquiry
        | Operation::StartStop
        | Operation::ReadCapacity10
        | Operation::ReadCapacity16
        | Operation::ReadDefects
        | Operation::ReportLuns
        | Operation::ReportGroups
        | Operation::ReportOpcodes
        | Operation::ReportTaskManagement
        | Operation::Reserve
        | Operation::Release
        | Operation::PersistentIn
        | Operation::PersistentOut
        | Operation::LbaStatus => false,
    }
}

/// What is reserved when HOST gives its command.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Held {
    Nothing,
    Unit(Nexus),
    /// By OTHER, of this kind, on the command's blocks or away from them.
    Extent {
        kind: u8,
        meets: bool,
    },
    /// By OTHER; HOST is registered or not.
    Persistent {
        kind: PersistentKind,
        registered: bool,
    },
}

fn every_holding() -> Vec<Held> {
    let mut all = vec![Held::Nothing, Held::Unit(HOST), Held::Unit(OTHER)];
    for kind in 0..4 {
        all.extend([true, false].map(|meets| Held::Extent { kind, meets }));
    }
    for kind in PersistentKind::ALL {
        all.extend([true, false].map(|registered| Held::Persistent { kind, registered }));
    }
    all
}

fn out(action: u8, kind: u8) -> [u8; 10] {
    [0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0]
}

fn keys(key: u64, other: u64) -> Vec<u8> {
    [&key.to_be_bytes()[..], &other.to_be_bytes(), &[0; 8]].concat()
}

fn hold(bench: &mut Bench, held: Held) {
    let mut good = |nexus, cdb: &[u8], list: &[u8]| {
        assert_eq!(bench.run_as(nexus, cdb, list).status, Status::Good, "{held:?}: {cdb:02x?}");
    };
    match held {
        Held::Nothing => {}
        Held::Unit(nexus) => good(nexus, &[0x16, 0, 0, 0, 0, 0], &[]),
        Held::Extent { kind, meets } => {
            let lba = if meets { LBA as u8 } else { 100 };
            good(OTHER, &[0x16, 1, 9, 0, 8, 0], &[kind, 0, 0, 1, 0, 0, 0, lba]);
        }
        Held::Persistent { kind, registered } => {
            good(OTHER, &out(6, 0), &keys(0, 2));
            if registered {
                good(HOST, &out(6, 0), &keys(0, 1));
            }
            good(OTHER, &out(1, kind as u8), &keys(2, 0));
        }
    }
}

/// SCSI-2 9.2.12.2; SPC-4 5.13.1, table 65.
fn conflicts(held: Held, class: Access, touches: bool) -> bool {
    if class == Access::Exempt {
        return false;
    }
    match held {
        Held::Nothing => false,
        Held::Unit(nexus) => nexus != HOST,
        Held::Extent { kind, meets } => match class {
            Access::Control => true,
            Access::Read => touches && meets && matches!(kind, 2 | 3),
            Access::Write => touches && meets && matches!(kind, 0 | 1 | 3),
            Access::Exempt | Access::Look => false,
        },
        Held::Persistent { kind, registered } => {
            let shares = registered && kind.serves_registrants();
            match class {
                Access::Read => !shares && kind.excludes_reads(),
                Access::Write | Access::Control => !shares,
                Access::Exempt | Access::Look => false,
            }
        }
    }
}

/// Served or RESERVATION CONFLICT, and if that, nothing moved.
fn meets_every_holding(row: &Row, cdb: &[u8], data: &[u8], class: Access) {
    for held in every_holding() {
        let mut bench = bench();
        hold(&mut bench, held);
        bench.asked.clear();
        let reply = bench.run(cdb, data);
        let expected = conflicts(held, class, touches(row));
        let status = if expected { Status::ReservationConflict } else { Status::Good };
        assert_eq!(reply.status, status, "{held:?}: {cdb:02x?} {:02x?}", reply.sense);
        if expected {
            assert!(reply.sense.is_empty() && reply.data_in.is_empty());
            assert!(bench.disk[LBA as usize * 512..][..1024].iter().all(|byte| *byte == 0));
            assert!(bench.asked.len() <= 1, "what was refused is not gone on with: {:?}", bench.asked);
        }
    }
}

#[test]
fn every_command_meets_every_reservation_as_its_class_says() {
    for row in opcodes::ROWS {
        let (cdb, mut data) = sample(row);
        let class = match row.operation {
            // Judged where they are executed: see below.
            Operation::Reserve | Operation::Release | Operation::PersistentIn | Operation::PersistentOut => {
                continue;
            }
            Operation::CompareAndWrite => {
                data[512..].fill(7);
                class_of(row.opcode, 0)
            }
            Operation::Write | Operation::WriteVerify | Operation::WriteSame | Operation::WriteAtomic => {
                data.fill(7);
                class_of(row.opcode, 0)
            }
            _ => class_of(row.opcode, row.service_action.unwrap_or(0)),
        };
        meets_every_holding(row, &cdb, &data, class);
        if row.operation == Operation::StartStop {
            let start = [0x1b, 0, 0, 0, 1, 0];
            meets_every_holding(row, &start, &[], Access::Look);
        }
    }
}

/// Lengths of zero are no way around a reservation, but they meet no extent.
#[test]
fn commands_of_no_blocks_are_judged_too() {
    for (opcode, class) in [
        (0x28, Access::Read),
        (0xa8, Access::Read),
        (0x88, Access::Read),
        (0x2f, Access::Read),
        (0x2a, Access::Write),
        (0xaa, Access::Write),
        (0x8a, Access::Write),
        (0x2e, Access::Write),
        (0x9c, Access::Write),
        (0x89, Access::Write),
        (0x42, Access::Write),
    ] {
        let mut cdb = media(opcode, 0, LBA, 0);
        if opcode == 0x42 {
            cdb = unmap(&[]).to_vec();
        }
        for held in every_holding() {
            let mut bench = bench();
            hold(&mut bench, held);
            let conflict = bench.run(&cdb, &[]).status == Status::ReservationConflict;
            assert_eq!(conflict, conflicts(held, class, false), "{held:?}: {opcode:02x}");
        }
    }
}

#[test]
fn reserve_release_and_persistent_in_meet_a_foreign_unit_reservation_as_spc_2_says() {
    let mut bench = bench();
    hold(&mut bench, Held::Unit(OTHER));
    for reserve in [&[0x16, 0, 0, 0, 0, 0][..], &[0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
        assert_eq!(bench.run(reserve, &[]).status, Status::ReservationConflict);
    }
    assert_eq!(
        bench.run(&[0x16, 1, 3, 0, 8, 0], &[0, 0, 0, 1, 0, 0, 0, 0]).status,
        Status::ReservationConflict
    );
    for release in [&[0x17, 0, 0, 0, 0, 0][..], &[0x57, 1, 3, 0, 0, 0, 0, 0, 0, 0]] {
        assert_eq!(bench.run(release, &[]).status, Status::Good);
    }
    for action in 0..4 {
        let reply = bench.run(&[0x5e, action, 0, 0, 0, 0, 0, 1, 0, 0], &[]);
        assert_eq!((reply.status, reply.data_in.len()), (Status::ReservationConflict, 0));
    }
    for action in 0..7 {
        assert_eq!(bench.run(&out(action, 1), &keys(0, 0)).status, Status::ReservationConflict, "{action}");
    }
    assert_eq!(
        bench.run(&[0x5f, 8, 0, 0, 0, 0, 0, 0, 24, 0], &keys(0, 0)).status,
        Status::ReservationConflict
    );
    bench.run_as(OTHER, &[0x17, 0, 0, 0, 0, 0], &[]);
    assert_eq!(bench.refused(&[0x5f, 8, 0, 0, 0, 0, 0, 0, 24, 0], &keys(0, 0)), INVALID_FIELD);
    assert_eq!(bench.refused(&[0x5e, 4, 0, 0, 0, 0, 0, 1, 0, 0], &[]), INVALID_FIELD);
}

#[test]
fn an_unknown_command_conflicts_with_anothers_reservation() {
    for held in every_holding() {
        let mut bench = bench();
        hold(&mut bench, held);
        if conflicts(held, Access::Control, false) {
            assert_eq!(bench.run(&[0xc0; 10], &[]).status, Status::ReservationConflict, "{held:?}");
        } else {
            assert_eq!(bench.refused(&[0xc0; 10], &[]), (5, 0x20, 0), "{held:?}");
        }
    }
}

#[test]
fn a_third_party_holds_what_another_reserved_for_it() {
    let mut bench = bench();
    let HostId(host) = HOST.host;
    let list = host.to_be_bytes();
    let reserve = [0x56, 0x12, 0, 0, 0, 0, 0, 0, 8, 0];
    let write = media(0x2a, 0, LBA, 1);
    assert_eq!(bench.device.transfer(0, &reserve), Transfer::Out(8));
    assert_eq!(bench.run_as(OTHER, &reserve, &list).status, Status::Good);
    assert_eq!(bench.run(&write, &[1; 512]).status, Status::Good);
    assert_eq!(bench.run_as(OTHER, &write, &[1; 512]).status, Status::ReservationConflict);
    // Only who reserved releases.
    let release = [0x57, 0x12, 0, 0, 0, 0, 0, 0, 8, 0];
    bench.good(&release, &list);
    bench.good(&[0x17, 0, 0, 0, 0, 0], &[]);
    assert_eq!(bench.run_as(OTHER, &write, &[1; 512]).status, Status::ReservationConflict);
    assert_eq!(bench.run_as(OTHER, &release, &list).status, Status::Good);
    assert_eq!(bench.run_as(OTHER, &write, &[1; 512]).status, Status::Good);
    // iSCSI has no devices with ids of 8 bits; the bit that says so is pointed at.
    let short: [&[u8]; 4] = [
        &[0x16, 0x12, 0, 0, 0, 0],
        &[0x17, 0x10, 0, 0, 0, 0],
        &[0x56, 0x10, 0, 3, 0, 0, 0, 0, 0, 0],
        &[0x57, 0x10, 0, 3, 0, 0, 0, 0, 0, 0],
    ];
    for cdb in short {
        let reply = bench.run(cdb, &[]);
        assert_eq!((key(&reply), &reply.sense[15..]), (INVALID_FIELD, &[0xcc, 0, 1][..]), "{cdb:02x?}");
    }
}

#[test]
fn an_id_is_superseded_in_one_step_or_stays() {
    let mut bench = bench();
    let element = |kind: u8, blocks: u8, lba: u8| [kind, 0, 0, blocks, 0, 0, 0, lba];
    let write = |bench: &mut Bench, lba| bench.run(&media(0x2a, 0, lba, 1), &[1; 512]).status;
    let reserve = [0x16, 1, 9, 0, 8, 0];
    assert_eq!(bench.run_as(OTHER, &reserve, &element(1, 4, 0)).status, Status::Good);
    assert_eq!([0, 10].map(|lba| write(&mut bench, lba)), [Status::ReservationConflict, Status::Good]);
    bench.good(&reserve, &element(1, 4, 20));
    assert_eq!(bench.run_as(OTHER, &reserve, &element(3, 4, 18)).status, Status::ReservationConflict);
    assert_eq!(write(&mut bench, 0), Status::ReservationConflict, "the old extents of the id stay");
    assert_eq!(bench.run_as(OTHER, &reserve, &element(1, 4, 10)).status, Status::Good);
    assert_eq!([0, 10].map(|lba| write(&mut bench, lba)), [Status::Good, Status::ReservationConflict]);
    assert_eq!(bench.run_as(OTHER, &[0x16, 1, 9, 0, 0, 0], &[]).status, Status::Good);
    assert_eq!(write(&mut bench, 10), Status::Good, "a list of nothing leaves the id nothing");
    // A count of nothing means up to the end.
    assert_eq!(bench.run_as(OTHER, &reserve, &element(1, 0, 200)).status, Status::Good);
    assert_eq!(write(&mut bench, BLOCKS - 1), Status::ReservationConflict);
    assert_eq!(bench.run_as(OTHER, &[0x17, 1, 8, 0, 0, 0], &[]).status, Status::Good);
    assert_eq!(write(&mut bench, BLOCKS - 1), Status::ReservationConflict, "another id's");
    assert_eq!(bench.run_as(OTHER, &[0x17, 1, 9, 0, 0, 0], &[]).status, Status::Good);
    assert_eq!(write(&mut bench, BLOCKS - 1), Status::Good);
    // More than the unit takes.
    let many: Vec<u8> = (0..=256u32).flat_map(|at| element(0, 1, (at % 200) as u8)).collect();
    let [high, low] = (many.len() as u16).to_be_bytes();
    assert_eq!(bench.refused(&[0x16, 1, 9, high, low, 0], &many), (5, 0x55, 2));
}

/// Who hears what: SCSI.md 4.5, last column. Who asks never hears of it.
#[test]
fn registrants_hear_what_was_done_and_who_did_it_does_not() {
    type Act = (u8, u8, (u64, u64), Option<(u8, u8)>);
    let acts: [Act; 7] = [
        (2, 5, (1, 0), Some((0x2a, 4))), // RELEASE of a type for registrants
        (3, 0, (1, 0), Some((0x2a, 3))), // CLEAR
        (4, 5, (1, 2), Some((0x2a, 5))), // PREEMPT
        (5, 5, (1, 2), Some((0x2a, 5))), // PREEMPT AND ABORT
        (0, 0, (1, 0), Some((0x2a, 4))), // the holder unregisters
        (0, 0, (1, 11), None),           // a key changes
        (1, 5, (1, 0), None),            // reserved again
    ];
    for (action, kind, (key, new), told) in acts {
        let mut bench = bench();
        bench.good(&out(6, 0), &keys(0, 1));
        assert_eq!(bench.run_as(OTHER, &out(6, 0), &keys(0, 2)).status, Status::Good);
        bench.good(&out(1, 5), &keys(1, 0));
        bench.good(&out(action, kind), &keys(key, new));
        bench.good(&[0; 6], &[]);
        let heard = bench.run_as(OTHER, &[0; 6], &[]);
        let codes = (!heard.sense.is_empty()).then(|| (heard.sense[12], heard.sense[13]));
        assert_eq!(codes, told, "{action}");
        assert_eq!(bench.run_as(OTHER, &[0; 6], &[]).status, Status::Good, "told once");
    }
}

#[test]
fn a_mode_select_that_loses_a_race_against_a_reservation_conflicts() {
    let mut bench = bench();
    let list = [0, 0, 0, 0, 0x0a, 10, 4, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0];
    let cdb = [0x15, 0x10, 0, 0, 16, 0];
    let Step::Ask { command, pending } = bench.device.start(HOST, 0, &cdb, Bytes::copy_from_slice(&list))
    else {
        panic!("reservations are asked")
    };
    assert_eq!(command.command, Command::Check { access: Access::Control });
    let Step::Ask { command, pending } = bench.device.finish(pending, Completion::Done) else {
        panic!("both sites are to execute it")
    };
    hold(&mut bench, Held::Unit(OTHER));
    let completion = bench.carry_out(HOST, &command.command);
    let Step::Done(reply) = bench.device.finish(pending, completion) else { panic!("it ends") };
    assert_eq!(reply.status, Status::ReservationConflict);
    assert_eq!(bench.refused(&media(0x28, 0, BLOCKS, 1), &[]), OUT_OF_RANGE, "the format has not changed");
}

#[test]
fn every_verdict_has_one_status_and_sense() {
    for (verdict, status, sense, tail) in [
        (Verdict::Done, Status::Good, (0, 0, 0), [0; 3]),
        (Verdict::Conflict, Status::ReservationConflict, (0, 0, 0), [0; 3]),
        (Verdict::NoRoomToRegister, Status::CheckCondition, (5, 0x55, 4), [0; 3]),
        (Verdict::NoRoomToReserve, Status::CheckCondition, (5, 0x55, 2), [0; 3]),
        (Verdict::WrongRelease, Status::CheckCondition, (5, 0x26, 4), [0; 3]),
        (Verdict::BadParameter(20), Status::CheckCondition, INVALID_LIST, [0x80, 0, 20]),
        (Verdict::BadCdb(1), Status::CheckCondition, INVALID_FIELD, [0xc0, 0, 1]),
        (Verdict::Miscompare { offset: 513 }, Status::CheckCondition, (0xe, 0x1d, 0), [0; 3]),
    ] {
        let mut bench = bench();
        let Step::Ask { pending, .. } = bench.device.start(HOST, 0, &[0x16, 0, 0, 0, 0, 0], Bytes::new())
        else {
            panic!("both sites are asked")
        };
        let Step::Done(reply) = bench.device.finish(pending, Completion::Verdict(verdict)) else {
            panic!("it ends")
        };
        assert_eq!(reply.status, status, "{verdict:?}");
        if status == Status::CheckCondition {
            assert_eq!((key(&reply), &reply.sense[15..]), (sense, &tail[..]), "{verdict:?}");
        }
        if matches!(verdict, Verdict::Miscompare { .. }) {
            assert_eq!(reply.sense[..7], [0xf0, 0, 0xe, 0, 0, 2, 1]);
        }
    }
}

#[test]
fn an_answer_that_does_not_fit_the_question_is_an_internal_failure() {
    let list = keys(0, 1);
    let questions: [(&[u8], &[u8]); 6] = [
        (&[0; 6], &[]),
        (&[0xc0; 10], &[]),
        (&media(0x28, 0, 0, 0), &[]),
        (&[0x16, 0, 0, 0, 0, 0], &[]),
        (&out(6, 0), &list),
        (&[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0], &[0; 1024]),
    ];
    for (cdb, data) in questions {
        let mut bench = bench();
        let Step::Ask { pending, .. } = bench.device.start(HOST, 0, cdb, Bytes::copy_from_slice(data)) else {
            panic!("the site is asked: {cdb:02x?}")
        };
        let unasked = Completion::Data(vec![Bytes::from_static(&[0; 512])]);
        let Step::Done(reply) = bench.device.finish(pending, unasked) else { panic!("it ends") };
        assert_eq!((key(&reply), reply.data_in.len()), ((4, 0x44, 0), 0), "{cdb:02x?}");
    }
}

/// The engine stops the site over a request that cannot be stored.
#[test]
fn a_request_beyond_the_limits_never_leaves() {
    let mut bench = bench();
    bench.device.attach(HOST, "n".repeat(224).into());
    bench.run(&[0; 6], &[]); // its loss is told
    assert_eq!(bench.refused_unasked(&out(6, 0), &keys(0, 1)), (4, 0x44, 0));
}

#[test]
fn effects_reach_the_unit_of_their_volume_only() {
    let units = vec![unit(0, 8), unit(1, 8)];
    let mut device = Device::new(port(SiteId::A), port(SiteId::B), units);
    device.attach(HOST, "iqn.host".into());
    let sense = |device: &mut Device, lun: u64| match device.start(HOST, lun << 48, &[0; 6], Bytes::new()) {
        Step::Done(reply) => Some((reply.sense[12], reply.sense[13])),
        Step::Ask { .. } => None,
    };
    device.apply_effect(VolumeId(101), &Effect::Attend(HOST, Attention::ReservationsReleased));
    device.apply_effect(VolumeId(101), &Effect::AttendAll { but: Some(OTHER), attention: Attention::Reset });
    device.apply_effect(VolumeId(101), &Effect::AttendAll { but: Some(HOST), attention: Attention::PowerOn });
    device.apply_effect(VolumeId(99), &Effect::AttendAll { but: None, attention: Attention::Reset });
    assert_eq!(sense(&mut device, 0), None);
    let heard = [0; 3].map(|_| sense(&mut device, 1));
    assert_eq!(heard, [Some((0x2a, 4)), Some((0x29, 3)), None]);
    device.apply_effect(
        VolumeId(100),
        &Effect::Modes(ModeBits { descriptor_sense: true, write_protected: true }),
    );
    for (lun, first) in [(0u64, 0x72), (1, 0x70)] {
        let Step::Done(reply) = device.start(HOST, lun << 48, &media(0x28, 0, 9, 1), Bytes::new()) else {
            panic!("beyond the end")
        };
        assert_eq!(reply.sense[0], first);
    }
}

proptest! {
    /// Whatever a host says in lists of RESERVE, RELEASE and PERSISTENT RESERVE OUT.
    #[test]
    fn any_list_of_a_reservation_command_ends_in_a_reply(
        form in 0usize..5,
        flags in prop_oneof![Just(0u8), Just(1), Just(0x12), Just(0x13), any::<u8>()],
        kind in any::<u8>(),
        elements in prop::collection::vec((0u8..5, 0u8..9, any::<u16>()), 0..6),
        noise in prop::collection::vec(any::<u8>(), 0..60),
        is_noise in any::<bool>(),
        short in 0usize..3,
    ) {
        let list = if is_noise {
            noise
        } else {
            let element = |(kind, blocks, lba): (u8, u8, u16)| {
                let [high, low] = lba.to_be_bytes();
                [kind, 0, 0, blocks, 0, 0, high, low]
            };
            let third_party = if flags & 0x02 != 0 { HOST.host.0.to_be_bytes().to_vec() } else { vec![] };
            [third_party, elements.into_iter().flat_map(element).collect()].concat()
        };
        let [high, low] = (list.len() as u16).to_be_bytes();
        let cdb = match form {
            0 => vec![0x16, flags, kind, high, low, 0],
            1 => vec![0x17, flags, kind, 0, 0, 0],
            2 => vec![0x56, flags, kind, 0, 0, 0, 0, high, low, 0],
            3 => vec![0x57, flags, kind, 0, 0, 0, 0, high, low, 0],
            _ => vec![0x5f, flags & 7, kind & 0x0f, 0, 0, 0, 0, high, low, 0],
        };
        check_any(&cdb, &list);
        check_any(&cdb, &list[..list.len().saturating_sub(short)]);
    }
}
