//! A unit's promises, against a scripted array (`array`), and against our own target back to back.

mod array;
mod own_target;

use super::*;
use array::Array;
use biplex_engine::HostId;
use biplex_front::iscsi::initiator::write16;
use biplex_store::{Device, DiskOp};
use std::collections::BTreeSet;

const VOLUME: VolumeId = VolumeId(7);
const BLOCKS: u64 = 8192;
const SECOND: u64 = 1_000_000_000;

fn address() -> UnitAddress {
    UnitAddress {
        portal: "192.0.2.9:3260".into(),
        target: "iqn.2026-11.example:array".into(),
        lun: 1,
        chap: None,
    }
}

fn setting() -> UnitSetting {
    UnitSetting {
        address: address(),
        pair: "iqn.2026-11.io.biplex:p".into(),
        site: SiteId::A,
        volume: VOLUME,
        name: "vol0".into(),
        blocks: BLOCKS,
        reserves: true,
    }
}

fn nexus(host: u64) -> Nexus {
    Nexus { host: HostId(host), isid: 1, site: SiteId::A }
}

fn read(lba: u64, blocks: u64) -> DiskOp {
    DiskOp::Read { device: Device::Volume(VOLUME), offset: lba * 512, len: (blocks * 512) as u32 }
}

fn write(lba: u64, data: Vec<Bytes>) -> DiskOp {
    DiskOp::Write { device: Device::Volume(VOLUME), offset: lba * 512, data }
}

fn zero(lba: u64, blocks: u64) -> DiskOp {
    DiskOp::Zero { device: Device::Volume(VOLUME), offset: lba * 512, len: blocks * 512 }
}

fn sync() -> DiskOp {
    DiskOp::Sync { device: Device::Volume(VOLUME) }
}

fn bytes(byte: u8, blocks: u64) -> Bytes {
    vec![byte; (blocks * 512) as usize].into()
}

/// The unit, the array, and the wire between them.
struct World {
    unit: Unit,
    array: Array,
    now: u64,
    next: u64,
    done: BTreeMap<DiskTicket, DiskResult>,
    passed: BTreeMap<PassTicket, Result<Answer, String>>,
    notices: Vec<(Severity, String)>,
    attentions: Vec<Port>,
    lost: Vec<Nexus>,
    unregistered: Vec<Nexus>,
    conns: BTreeSet<UnitConn>,
    /// Nobody answers at the portal.
    down: bool,
}

impl World {
    fn new() -> World {
        World {
            unit: Unit::new(setting()),
            array: Array::new(BLOCKS),
            now: SECOND,
            next: 1,
            done: BTreeMap::new(),
            passed: BTreeMap::new(),
            notices: Vec::new(),
            attentions: Vec::new(),
            lost: Vec::new(),
            unregistered: Vec::new(),
            conns: BTreeSet::new(),
            down: false,
        }
    }

    /// A world in which the site's own session stands.
    fn ready() -> World {
        let mut world = World::new();
        world.run();
        assert_eq!(world.unit.trouble(), None, "{:?}", world.notices);
        world
    }

    fn run(&mut self) {
        self.unit.advance(self.now);
        while let Some(action) = self.unit.poll() {
            match action {
                UnitAction::Connect { conn, .. } if self.down => {
                    self.unit.handle_closed(self.now, conn, "connection refused");
                }
                UnitAction::Connect { conn, .. } => {
                    self.conns.insert(conn);
                    self.array.open(conn);
                    self.unit.handle_connected(self.now, conn);
                }
                UnitAction::Send { conn, bytes } => {
                    let back = self.array.take(conn, &bytes);
                    if !back.is_empty() && self.conns.contains(&conn) {
                        self.unit.handle_bytes(self.now, conn, back.into());
                    }
                }
                UnitAction::Close { conn } => {
                    self.conns.remove(&conn);
                    self.array.close(conn);
                }
                UnitAction::Done { ticket, result } => {
                    assert!(self.done.insert(ticket, result).is_none(), "{ticket:?} answered twice");
                }
                UnitAction::Passed { ticket, result } => {
                    assert!(self.passed.insert(ticket, result).is_none(), "{ticket:?} answered twice");
                }
                UnitAction::Attention { port, .. } => self.attentions.push(port),
                UnitAction::NexusLost { nexus } => self.lost.push(nexus),
                UnitAction::NobodyRegistered { nexus } => self.unregistered.push(nexus),
                UnitAction::Notice { severity, text } => self.notices.push((severity, text)),
            }
        }
        assert!(self.unit.next_deadline().is_none_or(|due| due > self.now), "a deadline that has passed");
    }

    /// Lets time pass, moment by moment.
    fn wait(&mut self, nanoseconds: u64) {
        let end = self.now + nanoseconds;
        while let Some(due) = self.unit.next_deadline().filter(|due| *due <= end) {
            self.now = due;
            self.run();
        }
        self.now = end;
        self.run();
    }

    fn order(&mut self, op: DiskOp) -> DiskTicket {
        let ticket = DiskTicket(self.next);
        self.next += 1;
        self.unit.order(ticket, op);
        self.run();
        ticket
    }

    fn ended(&mut self, ticket: DiskTicket) -> DiskResult {
        self.done.remove(&ticket).expect("answered")
    }

    /// An order that is answered at once.
    fn now(&mut self, op: DiskOp) -> DiskResult {
        let ticket = self.order(op);
        self.ended(ticket)
    }

    /// All connections break.
    fn cut(&mut self) {
        for conn in std::mem::take(&mut self.conns) {
            self.array.close(conn);
            self.unit.handle_closed(self.now, conn, "connection reset");
        }
        self.run();
    }
}

#[test]
fn what_is_written_is_read_and_large_orders_are_split() {
    let mut world = World::ready();
    let pieces = vec![bytes(1, 700), bytes(2, 3), bytes(3, 1345)];
    assert_eq!(world.now(write(10, pieces.clone())), Ok(Bytes::new()));
    assert_eq!(world.now(sync()), Ok(Bytes::new()));
    assert_eq!(world.now(read(10, 2048)).expect("read")[..], pieces.concat()[..]);
    assert_eq!(world.now(read(0, 10)).expect("read"), bytes(0, 10));
    assert!(world.array.transfers_max <= 512, "{}", world.array.transfers_max);
    assert_eq!(world.array.synced, 1);
    assert_eq!(world.now(read(BLOCKS - 1, 1)).expect("read"), bytes(0, 1));
    let why = world.now(read(BLOCKS, 1)).expect_err("beyond the end").message;
    assert!(why.contains("no blocks of the volume"), "{why}");
}

#[test]
fn the_units_own_limits_are_kept() {
    let mut world = World::new();
    world.array.transfer_max = 64;
    world.run();
    assert_eq!(world.now(write(1, vec![bytes(1, 1000)])), Ok(Bytes::new()));
    assert_eq!(world.now(read(1, 1000)).expect("read"), bytes(1, 1000));
    assert_eq!(world.array.transfers_max, 64);
}

#[test]
fn zeros_are_made_by_what_the_unit_knows() {
    for (thin, same) in [(true, true), (false, true), (false, false), (true, false)] {
        let mut world = World::new();
        (world.array.thin, world.array.same) = (thin, same);
        world.run();
        assert_eq!(world.now(write(0, vec![bytes(9, 4096)])), Ok(Bytes::new()));
        assert_eq!(world.now(zero(5, 3000)), Ok(Bytes::new()));
        assert_eq!(world.now(zero(5, 3000)), Ok(Bytes::new()));
        assert_eq!(world.now(read(5, 3000)).expect("read"), bytes(0, 3000), "{thin} {same}");
        assert_eq!(world.now(read(0, 5)).expect("read"), bytes(9, 5));
        assert_eq!(world.now(read(3005, 1)).expect("read"), bytes(9, 1));
        let zeroing = world.unit.facts().expect("facts").zeroing;
        let wanted = match (thin, same) {
            (true, true) => Zeroing::SameUnmap,
            (false, true) => Zeroing::Same,
            (_, false) => Zeroing::Plain,
        };
        assert_eq!(zeroing, wanted);
        assert_eq!(world.notices.iter().any(|(_, text)| text.contains("cannot do WRITE SAME")), !same);
    }
}

#[test]
fn what_a_unit_reserves_is_asked_and_never_guessed() {
    let all = vec![(0x56, 0x13), (0x15, 0x11), (0x89, 0x18), (0x8f, 0x16)];
    let without = |code: u8| all.iter().copied().filter(|(known, _)| *known != code).collect::<Vec<_>>();
    let six = [without(0x56), vec![(0x16, 0x01)]].concat();
    let ignoring = vec![(0x56, 0x00), (0x15, 0x11), (0x89, 0x18), (0x8f, 0x16)];
    let parts = |extents, third_party, ten| Some(Parts { extents, third_party, ten });
    for (usage, swap_max, ours, found) in [
        (all.clone(), 200, true, parts(Some(200), true, true)),
        // Whom the eight bytes name is known of our own units alone.
        (all.clone(), 200, false, parts(Some(200), false, true)),
        (six.clone(), 1, true, parts(Some(1), false, false)),
        // It would reserve all of itself.
        (ignoring, 200, true, parts(None, false, true)),
        (Vec::new(), 200, true, parts(None, false, false)),
        // Nothing to ask with.
        (all.clone(), 0, true, parts(None, true, true)),
        (without(0x89), 200, true, parts(None, true, true)),
        (without(0x8f), 200, true, parts(None, true, true)),
        (without(0x15), 200, true, parts(None, true, true)),
    ] {
        let mut world = World::new();
        (world.array.usage, world.array.swap_max) = (usage.clone(), swap_max);
        if ours {
            world.array.vendor = b"BIPLEX  ";
        }
        world.run();
        let facts = world.unit.facts().expect("facts");
        assert_eq!((facts.parts, facts.port), (found, Some(0x203)), "{usage:x?} {swap_max} {ours}");
    }
}

/// The site's own session was told that the unit reserves extents.
fn knowing_extents() -> (World, Option<Parts>) {
    let mut world = World::new();
    world.array.usage = vec![(0x56, 0x13), (0x15, 0x11), (0x89, 0x18), (0x8f, 0x16)];
    world.array.swap_max = 8;
    world.run();
    let known = world.unit.facts().expect("facts").parts;
    assert_eq!(known.and_then(|parts| parts.extents), Some(8));
    (world, known)
}

#[test]
fn a_reserved_unit_that_does_not_say_what_it_reserves_is_asked_again() {
    let (mut world, known) = knowing_extents();
    // A further login that may not ask takes nothing back.
    world.array.holder = Some("iqn.another".into());
    world.unit.session_for(nexus(1));
    world.cut();
    world.wait(5 * SECOND);
    assert_eq!(world.unit.facts().expect("facts").parts, known);
}

#[test]
fn a_unit_that_fails_to_say_what_it_reserves_is_not_thought_to_know_nothing() {
    let (mut world, known) = knowing_extents();
    // TASK ABORTED: a reset came in between.
    world.array.at_usage = [(0x40, (0, 0, 0))].into();
    world.unit.session_for(nexus(1));
    world.run();
    assert_eq!(world.conns.len(), 2);
    assert_eq!(world.unit.facts().expect("facts").parts, known);
}

#[test]
fn what_one_session_was_told_another_does_not_forget() {
    let mut world = World::new();
    world.array.usage = vec![(0x56, 0x13), (0x15, 0x11), (0x89, 0x18), (0x8f, 0x16)];
    world.array.swap_max = 8;
    world.array.shy = Some("0000000000000001");
    world.run();
    assert_eq!(world.unit.facts().expect("facts").parts, None);
    assert!(world.notices[0].1.contains("is reserved and does not tell"), "{:?}", world.notices);
    // Both ask at the same time, and one is told.
    assert!(world.unit.session_for(nexus(1)) && world.unit.session_for(nexus(2)));
    world.run();
    let parts = world.unit.facts().expect("facts").parts;
    assert_eq!(parts.and_then(|parts| parts.extents), Some(8));
}

#[test]
fn data_waits_for_the_session_of_a_holder_that_is_being_made() {
    let mut world = World::ready();
    let holder = initiator_port(&setting().pair, SiteId::A, VOLUME, Port::Host(nexus(2))).0;
    world.array.holder = Some(holder);
    world.unit.set_carrier(Some(nexus(2)));
    let ticket = world.order(write(8, vec![bytes(5, 1)]));
    world.wait(SECOND);
    assert_eq!(world.ended(ticket), Ok(Bytes::new()));
    assert_eq!(world.array.conflicts, 1);
}

#[test]
fn units_that_do_not_fit_are_refused_in_words_and_never_written() {
    for (spoil, said) in [
        ((|a: &mut Array| a.blocks -= 1) as fn(&mut Array), "it has 8191 blocks, the config says 8192"),
        (|a| a.block_bytes = 4096, "its blocks have 4096 bytes"),
        (|a| a.protected = true, "write protected"),
        (|a| a.kind = 0x0d, "no disk"),
        (|a| a.kind = 0x7f, "no such unit"),
    ] {
        let mut world = World::new();
        spoil(&mut world.array);
        world.run();
        world.wait(5 * SECOND);
        let ticket = world.order(write(0, vec![bytes(1, 1)]));
        world.wait(30 * SECOND);
        assert!(world.ended(ticket).expect_err("refused").message.contains(said), "{said}");
        assert_eq!(world.array.count(0x8a), 0);
        let alarms: Vec<_> = world.notices.iter().filter(|(s, _)| *s == Severity::Alarm).collect();
        assert!(alarms.len() == 1 && alarms[0].1.contains(said), "{:?}", world.notices);
        assert!(world.unit.trouble().is_some_and(|why| why.contains(said)));
    }
}

#[test]
fn a_unit_that_comes_back_as_another_is_not_written() {
    let mut world = World::ready();
    world.array.serial = "OTHER".into();
    world.cut();
    world.wait(5 * SECOND);
    assert!(world.unit.trouble().is_some_and(|why| why.contains("another unit")), "{:?}", world.notices);
    world.array.serial = "SN1".into();
    world.wait(5 * SECOND);
    assert_eq!(world.unit.trouble(), None);
}

#[test]
fn attentions_and_busy_are_ridden_out_within_bounds() {
    let mut world = World::ready();
    world.array.script = vec![(0x06, 0x2a, 0x01); 3].into_iter().map(|s| (2, s)).collect();
    world.array.script.extend([(0x08, (0, 0, 0)), (0x28, (0, 0, 0)), (2, (2, 4, 1)), (2, (0xb, 0, 0))]);
    let ticket = world.order(write(3, vec![bytes(1, 1)]));
    world.wait(SECOND);
    assert_eq!(world.ended(ticket), Ok(Bytes::new()));

    world.array.always = Some((0x08, (0, 0, 0)));
    let ticket = world.order(read(3, 1));
    world.wait(30 * SECOND);
    let why = world.ended(ticket).expect_err("busy for ever").message;
    assert_eq!(
        why,
        "unit iscsi://192.0.2.9:3260/iqn.2026-11.example:array/1: READ(16) of 1 blocks at 3: BUSY"
    );
    world.array.always = Some((2, (6, 0x2a, 1)));
    let why = world.now(read(3, 1)).expect_err("attention for ever").message;
    assert!(why.ends_with("CHECK CONDITION, UNIT ATTENTION, sense 6/2a/01"), "{why}");
    world.array.always = Some((2, (3, 0x11, 0)));
    let why = world.now(read(3, 2)).expect_err("bad block").message;
    assert!(
        why.ends_with("READ(16) of 2 blocks at 3: CHECK CONDITION, MEDIUM ERROR, sense 3/11/00"),
        "{why}"
    );
}

#[test]
fn a_conflict_sends_data_through_the_nexus_that_holds() {
    let mut world = World::ready();
    // Host 2 reserves the unit through its own session.
    world.unit.session_for(nexus(1));
    let ticket = world.unit.pass(nexus(2), [0x16; 16].map(|_| 0), Bytes::new(), 0);
    world.run();
    assert_eq!(world.passed[&ticket].as_ref().map(|answer| answer.status), Ok(0));
    world.array.holder = Some(world.array.name_of("0000000000000002"));
    assert_eq!(world.now(write(8, vec![bytes(5, 1)])), Ok(Bytes::new()), "tried over all sessions");
    assert_eq!(world.now(sync()), Ok(Bytes::new()));
    // The lucky one is remembered: no further conflicts.
    let before = world.array.conflicts;
    assert_eq!(world.now(read(8, 1)).expect("read"), bytes(5, 1));
    assert_eq!(world.array.conflicts, before);
    // So is one that is told.
    world.unit.set_carrier(Some(nexus(2)));
    assert_eq!(world.now(read(8, 1)).expect("read"), bytes(5, 1));
    assert_eq!(world.array.conflicts, before);
    // The holder is gone: what stays held is an error that says so.
    world.unit.close_nexus(world.now, nexus(2));
    world.run();
    let why = world.now(write(8, vec![bytes(6, 1)])).expect_err("conflict").message;
    assert!(why.ends_with("WRITE(16) of 1 blocks at 8: RESERVATION CONFLICT"), "{why}");
    world.array.holder = None;
    assert_eq!(world.now(write(8, vec![bytes(6, 1)])), Ok(Bytes::new()));
}

#[test]
fn a_unit_that_keeps_no_reservations_is_written_into_its_cache() {
    for reserves in [true, false] {
        let mut world = World::new();
        world.unit = Unit::new(UnitSetting { reserves, ..setting() });
        world.array.usage = vec![(0x56, 0x13), (0x15, 0x11), (0x89, 0x18), (0x8f, 0x16)];
        world.array.swap_max = 8;
        world.run();
        assert_eq!(world.now(write(8, vec![bytes(1, 1)])), Ok(Bytes::new()));
        assert_eq!(world.now(zero(9, 1)), Ok(Bytes::new()));
        // An earlier run may have left extents where they are kept.
        assert_eq!((world.array.cached, world.array.count(0x93)), if reserves { (0, 0) } else { (2, 1) });
    }
}

/// A unit that reserves extents, three of which are reserved: by two hosts, and by one past the pair.
fn world_of_extents() -> World {
    let mut world = World::new();
    world.array.usage = vec![(0x56, 0x13), (0x15, 0x11), (0x89, 0x18), (0x8f, 0x16)];
    world.array.swap_max = 8;
    (1..3).for_each(|host| assert!(world.unit.session_for(nexus(host))));
    world.run();
    for (host, held) in [(1, 10..13), (2, 13..400)] {
        let name = world.array.name_of(&format!("000000000000000{host}"));
        world.array.extents.push((name, held));
    }
    world.array.extents.push(("iqn.past".into(), 5000..5001));
    world.unit.book.begun = true;
    world.unit.book.reserving(nexus(1), (Some(0), None));
    world
}

#[test]
fn data_in_extents_of_several_hosts_goes_in_pieces_through_each() {
    let mut world = world_of_extents();
    assert_eq!(world.now(write(0, vec![bytes(1, 2), bytes(2, 510)])), Ok(Bytes::new()));
    let mut wanted = bytes(2, 512).to_vec();
    wanted[..1024].fill(1);
    assert_eq!(world.now(read(0, 512)).expect("read")[..], wanted[..]);
    assert_eq!(world.now(zero(5, 20)), Ok(Bytes::new()));
    wanted[5 * 512..25 * 512].fill(0);
    assert_eq!(world.now(read(0, 512)).expect("read")[..], wanted[..]);
    // What no session may carry is an error that names the block, soon.
    let before = world.array.conflicts;
    let why = world.now(write(4800, vec![bytes(3, 400)])).expect_err("another's").message;
    assert!(why.ends_with("WRITE(16) of 1 blocks at 5000: RESERVATION CONFLICT"), "{why}");
    assert!(world.array.conflicts - before < 100, "{}", world.array.conflicts - before);
    // Without extents nothing is tried in pieces.
    world.unit.book.clear_but(&BTreeSet::new());
    let why = world.now(write(4800, vec![bytes(3, 400)])).expect_err("another's").message;
    assert!(why.ends_with("WRITE(16) of 400 blocks at 4800: RESERVATION CONFLICT"), "{why}");
}

#[test]
fn what_nobody_may_flush_is_written_through_the_cache() {
    let mut world = world_of_extents();
    world.unit.book.clear_but(&BTreeSet::new());
    // Written before extents were reserved: it lies in the cache, and nobody may flush it.
    assert_eq!(world.now(write(8000, vec![bytes(1, 1)])), Ok(Bytes::new()));
    assert_eq!(world.array.cached, 1);
    world.unit.book.reserving(nexus(1), (Some(0), None));
    assert!(world.now(sync()).expect_err("in the cache").message.ends_with("RESERVATION CONFLICT"));
    // So all is written again, and does not lie there.
    assert_eq!(world.now(write(8000, vec![bytes(1, 1)])), Ok(Bytes::new()));
    assert_eq!(world.now(zero(11, 100)), Ok(Bytes::new()));
    assert_eq!(world.array.cached, 1);
    assert_eq!(world.now(sync()), Ok(Bytes::new()));
    assert_eq!(world.array.synced, 0);
    // A unit that lost its sessions behind the writes is doubted as ever.
    assert_eq!(world.now(write(11, vec![bytes(1, 1)])), Ok(Bytes::new()));
    world.cut();
    world.wait(3 * SECOND);
    assert!(world.now(sync()).expect_err("in doubt").message.contains("lost behind the writes"));
    // Nobody holds any: flushed again.
    world.unit.book.clear_but(&BTreeSet::new());
    world.array.extents.clear();
    assert_eq!(world.now(write(11, vec![bytes(1, 1)])), Ok(Bytes::new()));
    assert_eq!(world.now(sync()), Ok(Bytes::new()));
    assert_eq!((world.array.synced, world.array.cached), (1, 0));
}

#[test]
fn reads_survive_a_lost_connection_and_writes_become_unknown() {
    let mut world = World::ready();
    world.array.silent = true;
    let (reading, writing) = (world.order(read(0, 4)), world.order(write(9, vec![bytes(1, 1)])));
    world.cut();
    let why = world.ended(writing).expect_err("unknown").message;
    assert!(
        why.contains("WRITE(16) of 1 blocks at 9: unknown whether it was done: connection reset"),
        "{why}"
    );
    assert!(!world.done.contains_key(&reading));
    world.array.silent = false;
    world.wait(3 * SECOND);
    assert_eq!(world.ended(reading).expect("read again"), bytes(0, 4));
    let said: Vec<_> = world.notices.iter().map(|(severity, text)| (*severity, text.as_str())).collect();
    assert!(said.iter().any(|(s, text)| *s == Severity::Alarm && text.contains("is away: connection reset")));
    assert!(said.iter().any(|(s, text)| *s == Severity::Info && text.contains("is back")), "{said:?}");
}

#[test]
fn a_command_without_an_answer_ends_the_session() {
    let mut world = World::ready();
    world.array.silent = true;
    let ticket = world.order(write(0, vec![bytes(1, 1)]));
    world.wait(14 * SECOND);
    assert!(world.done.is_empty());
    world.array.silent = false;
    world.wait(3 * SECOND);
    assert!(world.ended(ticket).expect_err("late").message.contains("left a command without an answer"));
    assert_eq!(world.now(write(0, vec![bytes(1, 1)])), Ok(Bytes::new()));
}

#[test]
fn orders_wait_for_a_unit_that_is_away_but_not_for_ever() {
    let mut world = World::new();
    world.down = true;
    world.run();
    let (first, second) = (world.order(read(0, 1)), world.order(write(0, vec![bytes(1, 1)])));
    world.wait(19 * SECOND);
    assert!(world.done.is_empty());
    world.wait(2 * SECOND);
    for ticket in [first, second] {
        assert!(world.ended(ticket).expect_err("away").message.contains("connection refused"));
    }
    let third = world.order(write(0, vec![bytes(1, 1)]));
    world.wait(SECOND);
    world.down = false;
    world.wait(3 * SECOND);
    assert_eq!(world.ended(third), Ok(Bytes::new()));
}

#[test]
fn a_sync_is_not_good_if_the_unit_was_away_behind_the_writes() {
    let mut world = World::ready();
    assert_eq!(world.now(write(0, vec![bytes(1, 1)])), Ok(Bytes::new()));
    world.cut();
    world.wait(3 * SECOND);
    let why = world.now(sync()).expect_err("in doubt").message;
    assert!(why.contains("its session was lost behind the writes"), "{why}");
    // All is written again, and nothing was lost since.
    assert_eq!(world.now(write(0, vec![bytes(1, 1)])), Ok(Bytes::new()));
    assert_eq!(world.now(sync()), Ok(Bytes::new()));
    // Nothing unsynced: a loss does no harm.
    world.cut();
    world.wait(3 * SECOND);
    assert_eq!(world.now(sync()), Ok(Bytes::new()));
    // A reset that the unit tells of on a session that stands.
    assert_eq!(world.now(write(0, vec![bytes(1, 1)])), Ok(Bytes::new()));
    world.array.script = [(2, (6, 0x29, 1))].into();
    assert!(world.now(sync()).expect_err("in doubt").message.contains("power on or reset"));
}

/// Whoever is told: the unit says it once in each session, and the flush may go through another one.
#[test]
fn a_reset_that_a_hosts_question_is_told_of_makes_a_sync_fail() {
    for carrier in [None, Some(nexus(1))] {
        let mut world = World::ready();
        world.unit.set_carrier(carrier);
        world.run();
        assert_eq!(world.now(write(0, vec![bytes(1, 1)])), Ok(Bytes::new()));
        world.array.script = [(2, (6, 0x29, 1))].into();
        let question = world.unit.pass(nexus(1), write16(0, 0, false), Bytes::new(), 0);
        world.run();
        assert_eq!(world.passed[&question].as_ref().map(|answer| answer.status), Ok(2));
        let why = world.now(sync()).expect_err("the cache is gone").message;
        assert!(why.contains("told of a power on or reset behind the writes"), "{why}");
        assert_eq!(world.now(write(0, vec![bytes(1, 1)])), Ok(Bytes::new()));
        assert_eq!(world.now(sync()), Ok(Bytes::new()));
    }
}

/// SPC-4 4.5.5: what was answered well failed behind that, and the command that is told of it was not looked at.
#[test]
fn what_a_unit_says_of_an_earlier_command_is_no_answer_to_this_one() {
    for (key, code) in [(0x1, 0x0c), (0x3, 0x0c), (0x4, 0x44)] {
        let mut world = World::ready();
        world.array.deferred = true;
        assert_eq!(world.now(write(8, vec![bytes(1, 1)])), Ok(Bytes::new()));
        world.array.script = [(2, (key, code, 0))].into();
        let ticket = world.order(write(9, vec![bytes(2, 1)]));
        world.wait(SECOND);
        assert_eq!(world.ended(ticket), Ok(Bytes::new()), "key {key:x}");
        assert_eq!(world.now(read(9, 1)).expect("read"), bytes(2, 1), "key {key:x}: it is done again");
        assert!(world.now(sync()).expect_err("in doubt").message.contains("failed after all"), "key {key:x}");
        // A read that is told of it has no bad block, and a question is no less in doubt.
        assert_eq!(world.now(write(8, vec![bytes(1, 1)])), Ok(Bytes::new()));
        world.array.script = [(2, (key, code, 0)), (2, (key, code, 0))].into();
        let ticket = world.order(read(9, 1));
        world.wait(SECOND);
        assert_eq!(world.ended(ticket).expect("read"), bytes(2, 1), "key {key:x}");
        assert!(world.now(sync()).is_err(), "key {key:x}");
    }
}

#[test]
fn no_write_leaves_before_the_session_with_writes_under_way_is_made_anew() {
    let mut world = World::ready();
    world.unit.session_for(nexus(1));
    world.run();
    world.array.silent = true;
    let writing = world.order(write(0, vec![bytes(1, 1)]));
    // Only the site's own connection breaks, and nobody answers its calls.
    let own = *world.conns.first().expect("the site's own");
    (world.down, world.array.silent) = (true, false);
    world.conns.remove(&own);
    world.unit.handle_closed(world.now, own, "connection reset");
    world.run();
    assert!(world.ended(writing).is_err());
    let sent = world.array.count(0x8a);
    let (again, reading) = (world.order(write(0, vec![bytes(2, 1)])), world.order(read(5, 1)));
    world.wait(SECOND);
    assert!(world.ended(reading).is_ok(), "reads go on through the host's session");
    assert_eq!(world.array.count(0x8a), sent, "a stale write may still come");
    world.down = false;
    world.wait(3 * SECOND);
    assert_eq!(world.ended(again), Ok(Bytes::new()));
}

#[test]
fn passes_go_through_their_own_nexus_once_and_come_back_as_they_are() {
    let mut world = World::ready();
    let mut cdb = [0; 16];
    (cdb[0], cdb[8]) = (0x5e, 8);
    let first = world.unit.pass(nexus(1), cdb, Bytes::new(), 8);
    world.run();
    assert_eq!(world.passed[&first].as_ref().expect("answered").data[..], [0; 8]);
    let names = world.array.names();
    assert!(names.contains("iqn.2026-11.io.biplex:p:store.a.7.0000000000000001"), "{names:?}");
    // BUSY and attentions are the host's to hear.
    world.array.script = [(0x08, (0, 0, 0)), (2, (6, 0x2a, 3))].into();
    for status in [0x08, 0x02] {
        let ticket = world.unit.pass(nexus(1), cdb, Bytes::new(), 8);
        world.run();
        assert_eq!(world.passed[&ticket].as_ref().expect("answered").status, status);
    }
    // Lost under way: unknown, and the holder of the nexus hears that it was lost.
    world.array.silent = true;
    let lost = world.unit.pass(nexus(1), cdb, Bytes::new(), 8);
    world.run();
    world.cut();
    assert!(world.passed[&lost].as_ref().expect_err("unknown").contains("connection reset"));
    assert_eq!(world.lost, [nexus(1)]);
    // Not in time.
    world.down = true;
    world.array.silent = false;
    world.wait(SECOND);
    let late = world.unit.pass(nexus(1), cdb, Bytes::new(), 8);
    world.wait(11 * SECOND);
    assert!(world.passed[&late].as_ref().expect_err("late").contains("connection refused"));
    assert_eq!(world.array.count(0x5e), 5, "one of them behind the login");
}

#[test]
fn sessions_of_hosts_are_bounded_and_end_with_their_host() {
    let mut world = World::ready();
    for host in 0..NEXUSES_MAX as u64 {
        assert!(world.unit.session_for(nexus(host)));
    }
    assert!(!world.unit.session_for(nexus(1000)));
    let refused = world.unit.pass(nexus(1000), [0; 16], Bytes::new(), 0);
    world.run();
    assert!(world.passed[&refused].as_ref().expect_err("full").contains("too many sessions"));
    let alarm = |(severity, text): &(Severity, String)| {
        *severity == Severity::Alarm && text.contains("locks` lists them")
    };
    assert!(world.notices.iter().any(alarm), "{:?}", world.notices);
    assert_eq!(world.conns.len(), NEXUSES_MAX + 1);
    world.unit.close_nexus(world.now, nexus(3));
    world.run();
    assert_eq!(world.conns.len(), NEXUSES_MAX);
    assert!(world.unit.session_for(nexus(1000)));
    assert!(world.lost.is_empty(), "an end that was asked for is no loss");
}

#[test]
fn an_outage_is_waited_for_once_and_not_once_for_each_pass() {
    let mut world = World::ready();
    world.down = true;
    world.cut();
    let first = world.unit.pass(nexus(1), test_unit_ready(), Bytes::new(), 0);
    world.run();
    world.wait(9 * SECOND);
    assert!(!world.passed.contains_key(&first));
    world.wait(2 * SECOND);
    assert!(world.passed[&first].is_err());
    // Nor once for each nexus.
    for host in [1, 2] {
        let next = world.unit.pass(nexus(host), test_unit_ready(), Bytes::new(), 0);
        world.run();
        assert!(world.passed[&next].is_err());
    }
    world.down = false;
    world.wait(3 * SECOND);
    world.down = true;
    world.cut();
    let next = world.unit.pass(nexus(1), test_unit_ready(), Bytes::new(), 0);
    world.run();
    world.wait(9 * SECOND);
    assert!(!world.passed.contains_key(&next), "another outage");
}

#[test]
fn a_pass_is_not_sent_before_its_time() {
    let mut world = World::ready();
    let later = world.unit.pass_from(world.now + SECOND, nexus(1), test_unit_ready(), Bytes::new(), 0);
    let now = world.unit.pass(nexus(1), test_unit_ready(), Bytes::new(), 0);
    world.wait(SECOND - 1);
    assert!(world.passed.contains_key(&now) && !world.passed.contains_key(&later));
    world.wait(1);
    assert!(world.passed.contains_key(&later));
}

#[test]
fn a_host_that_logs_out_leaves_no_doubt_but_a_witness() {
    let mut world = World::ready();
    world.unit.set_carrier(Some(nexus(1)));
    world.run();
    assert_eq!(world.now(write(0, vec![bytes(1, 1)])), Ok(Bytes::new()));
    world.unit.close_nexus(world.now, nexus(1));
    world.run();
    assert_eq!(world.now(sync()), Ok(Bytes::new()), "it was an end in order");
    world.unit.set_carrier(Some(nexus(2)));
    world.run();
    assert_eq!(world.now(write(0, vec![bytes(2, 1)])), Ok(Bytes::new()));
    world.unit.close_nexus(world.now, nexus(2));
    world.run();
    // The unit goes away before the next sync: only the site's own session can tell.
    world.cut();
    world.wait(3 * SECOND);
    assert!(world.now(sync()).expect_err("in doubt").message.contains("lost behind the writes"));
}

#[test]
fn what_a_preempt_may_have_aborted_is_not_waited_for_but_all_else_is() {
    for (carrier, but, given_up) in
        [(Some(nexus(1)), nexus(2), true), (Some(nexus(1)), nexus(1), false), (None, nexus(2), false)]
    {
        let mut world = World::ready();
        world.unit.set_carrier(carrier);
        world.run();
        assert_eq!(world.now(write(0, vec![bytes(1, 1)])), Ok(Bytes::new()));
        world.array.silent = true;
        let ticket = world.order(sync());
        world.unit.expect_aborts(world.now, but);
        world.wait(2 * SECOND);
        assert_eq!(world.done.contains_key(&ticket), given_up, "{carrier:?}, by {but}");
    }
}

#[test]
fn what_a_nexus_lost_while_it_had_no_session_it_hears_at_the_login() {
    let mut world = World::ready();
    world.array.at_login = [(2, (6, 0x2a, 5)), (2, (6, 0x29, 1))].into();
    assert!(world.unit.session_for(nexus(1)));
    world.run();
    assert_eq!(world.attentions, [Port::Host(nexus(1))], "a power on is nothing new to a new session");
}

#[test]
fn a_hosts_login_tells_whether_anybody_is_registered() {
    for (keys, told) in [(0, vec![nexus(1)]), (1, vec![])] {
        let mut world = World::ready();
        world.array.keys = keys;
        assert!(world.unit.session_for(nexus(1)));
        world.run();
        assert_eq!(world.unregistered, told, "{keys}");
        // Who reserved it lets nobody ask.
        world.array.holder = Some("iqn.another".into());
        world.unregistered.clear();
        world.cut();
        world.wait(3 * SECOND);
        assert_eq!((world.unregistered.len(), world.conns.len()), (0, 2));
    }
}

#[test]
fn sessions_that_nobody_needs_end_after_a_while() {
    let mut world = World::ready();
    for host in 1..=3 {
        world.unit.pass(nexus(host), test_unit_ready(), Bytes::new(), 0);
    }
    world.unit.book.reserving(nexus(2), (None, None));
    world.run();
    assert_eq!(world.conns.len(), 4);
    world.wait(59 * SECOND);
    world.unit.prune(world.now, |_| false);
    world.run();
    assert_eq!(world.conns.len(), 4);
    world.wait(2 * SECOND);
    world.unit.prune(world.now, |who| who == nexus(3));
    world.run();
    assert_eq!(world.conns.len(), 3, "one may have reserved something, one is needed");
    assert!(world.lost.is_empty());
}

#[test]
fn a_reset_of_the_unit_is_news_once() {
    let mut world = World::ready();
    for host in 1..=3 {
        world.unit.pass(nexus(host), test_unit_ready(), Bytes::new(), 0);
    }
    world.run();
    let told = |world: &mut World, host| world.unit.was_reset(world.now, Port::Host(nexus(host)));
    assert!(told(&mut world, 1));
    assert!(!told(&mut world, 2) && !told(&mut world, 3), "of the same reset");
    assert!(told(&mut world, 2), "of another");
    assert!(!told(&mut world, 1));
    // A session that is made anew has heard at its login whatever there was.
    assert!(told(&mut world, 1));
    world.cut();
    world.wait(3 * SECOND);
    assert!(told(&mut world, 2), "of one behind that");
    // One that is asked and has nothing to say is not waited for.
    world.run();
    assert!(told(&mut world, 3), "of one behind that");
}

#[test]
fn news_for_a_host_that_come_with_data_are_handed_out() {
    let mut world = World::ready();
    world.unit.set_carrier(Some(nexus(1)));
    world.run();
    world.array.script = [(2, (6, 0x2a, 3))].into();
    assert_eq!(world.now(read(0, 1)).expect("read"), bytes(0, 1));
    assert_eq!(world.attentions, [Port::Host(nexus(1))]);
}

#[test]
fn news_that_only_the_sites_own_session_has_are_handed_out_too() {
    let mut world = World::ready();
    world.array.script = [(2, (6, 0x29, 3))].into();
    assert_eq!(world.now(read(0, 1)).expect("read"), bytes(0, 1));
    assert_eq!(world.attentions, [Port::Site]);
}

#[test]
fn a_login_that_is_refused_says_why() {
    let mut world = World::new();
    world.array.refuses = Some((2, 2));
    world.run();
    world.wait(SECOND);
    assert!(world.unit.trouble().is_some_and(|why| why.contains("0202h") && why.contains("access list")));
    world.array.refuses = None;
    world.wait(3 * SECOND);
    assert_eq!(world.unit.trouble(), None);
}
