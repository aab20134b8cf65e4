//! Extents, third parties, and what names other initiator ports, where units keep the reservations (E5.1, E5.2): two sites with our own target as each one's
//! unit. What `docs/reservations.md` says of blocks holds block by block, and asking changes nothing.

mod back_to_back;

use back_to_back::{BLOCKS, MS, Pair, SECOND, nexus};
use biplex_engine::reserve::{
    Access, Claim, ExtentKind, Extents, PersistentKind, Registrant, Request, Verdict,
};
use biplex_engine::{Extent, HostId, Lba, Nexus, SiteId};
use biplex_front::{Command, Completion, Failure};
use biplex_site::{Mode, Rules};
use bytes::Bytes;

const A: SiteId = SiteId::A;
const B: SiteId = SiteId::B;
/// More blocks than one question takes.
const MANY: u64 = 300;

fn extent(lba: u64, blocks: u64) -> Extent {
    Extent::new(Lba(lba), blocks).expect("some blocks")
}

fn reserve(id: u8, kind: ExtentKind, extent: Extent, third_party: Option<HostId>) -> Request {
    Request::Reserve { third_party, extents: Some(Extents { id, claims: vec![Claim { kind, extent }] }) }
}

fn release(id: u8, third_party: Option<HostId>) -> Request {
    Request::Release { third_party, extents: Some(id) }
}

fn read(extent: Extent) -> Command {
    Command::Read { extent, fua: false }
}

fn write(extent: Extent, byte: u8) -> Command {
    Command::Write { extent, data: vec![byte; extent.bytes() as usize].into(), fua: false }
}

fn paired() -> Pair {
    Pair::paired(Rules { disk: true, ..Rules::of(Mode::Sync) })
}

/// Asks, and waits for the answer; BUSY is asked again, as a host does.
fn ask(pair: &mut Pair, nexus: Nexus, command: &Command) -> Completion {
    for _ in 0..20 {
        let task = pair.submit(nexus, command.clone());
        for _ in 0..200 {
            pair.pass(MS);
            if let Some(completion) = pair.places[nexus.site.index()].answers.remove(&task) {
                if completion == Completion::Failed(Failure::Busy) {
                    break;
                }
                return completion;
            }
        }
    }
    panic!("{nexus}: no answer to {command:?}");
}

fn request(pair: &mut Pair, nexus: Nexus, request: Request) -> Completion {
    ask(pair, nexus, &Command::Control { request })
}

const DONE: Completion = Completion::Verdict(Verdict::Done);
const CONFLICT: Completion = Completion::Failed(Failure::Conflict);

/// Whether it is let in.
fn admitted(pair: &mut Pair, nexus: Nexus, command: &Command) -> bool {
    match ask(pair, nexus, command) {
        Completion::Data(_) | Completion::Done | Completion::Verdict(Verdict::Miscompare { .. }) => true,
        Completion::Failed(Failure::Conflict) => false,
        other => panic!("{nexus}: {command:?}: {other:?}"),
    }
}

/// What the table says of who reserved it and of others: look, read, write, control.
fn rights(kind: ExtentKind, holder: bool) -> [bool; 4] {
    match (kind, holder) {
        (ExtentKind::ReadShared, true) => [true, true, false, true],
        (_, true) => [true; 4],
        (ExtentKind::ReadShared | ExtentKind::WriteExclusive, false) => [true, true, false, false],
        (ExtentKind::ReadExclusive, false) => [true, false, true, false],
        (ExtentKind::ExclusiveAccess, false) => [true, false, false, false],
    }
}

/// Holds what `who` may do against what it should, in, across and beside the extent.
fn judge(pair: &mut Pair, who: Nexus, kind: ExtentKind, held: Extent, holder: bool) {
    let [look, reads, writes, control] = rights(kind, holder);
    let at = format!("{who}, {kind:?}, the holder: {holder}");
    let checks =
        [(Access::Look, look), (Access::Read, true), (Access::Write, true), (Access::Control, control)];
    for (access, expected) in checks {
        assert_eq!(
            admitted(pair, who, &Command::Check { access }),
            expected,
            "{at}: {access:?} of no blocks"
        );
    }
    assert_eq!(admitted(pair, who, &Command::Flush), control, "{at}: flush");
    let (start, end) = (held.start().0, held.end().0);
    for (blocks, meets) in [
        (extent(start - 1, 1), false),
        (extent(end, 1), false),
        (extent(start, 1), true),
        (extent(end - 1, 1), true),
        (extent(start - 2, 3), true),
        (extent(end - MANY, MANY), true),
        (extent(end - 1, MANY), true),
    ] {
        assert_eq!(admitted(pair, who, &read(blocks)), !meets || reads, "{at}: reads {blocks:?}");
        let data: Bytes = vec![7; blocks.bytes() as usize].into();
        for command in [
            write(blocks, 7),
            Command::Fill { extent: blocks, block: vec![7; 512].into() },
            Command::Unmap { extents: vec![extent(BLOCKS - 1, 1), blocks] },
            Command::CompareAndWrite { extent: blocks, compare: data.clone(), data: data.clone() },
        ] {
            assert_eq!(
                admitted(pair, who, &command),
                !meets || writes,
                "{at}: writes {blocks:?}: {command:?}"
            );
        }
    }
}

#[test]
fn every_block_of_an_extent_is_admitted_as_its_kind_says_at_both_sites() {
    let (owner, others) = (nexus(A, 1), [nexus(A, 2), nexus(B, 3), nexus(B, 1)]);
    let held = extent(400, 40);
    for kind in ExtentKind::ALL {
        let mut pair = paired();
        for place in &mut pair.places {
            place.array.as_mut().expect("a unit").disk.iter_mut().enumerate().for_each(|(at, byte)| {
                *byte = if at < 4096 { 0xb9 } else { (at / 512) as u8 };
            });
        }
        let disk = |pair: &Pair| {
            pair.places.each_ref().map(|place| place.array.as_ref().expect("a unit").disk.clone())
        };
        let before = disk(&pair);
        assert_eq!(request(&mut pair, owner, reserve(5, kind, held, None)), DONE, "{kind:?}");
        judge(&mut pair, owner, kind, held, true);
        for other in others {
            judge(&mut pair, other, kind, held, false);
        }
        assert!(
            admitted(&mut pair, others[0], &write(extent(0, 9), 1)),
            "where a block holds what is asked with"
        );
        assert!(before == disk(&pair), "a question changed something");
        // Only the owner releases, and then all are let in.
        assert_eq!(request(&mut pair, others[0], release(5, None)), DONE);
        assert!(!admitted(&mut pair, others[1], &Command::Flush));
        assert_eq!(request(&mut pair, owner, release(4, None)), DONE);
        assert!(!admitted(&mut pair, others[1], &Command::Flush));
        assert_eq!(request(&mut pair, owner, release(5, None)), DONE);
        for other in others {
            assert!(admitted(&mut pair, other, &write(held, 1)) && admitted(&mut pair, other, &read(held)));
        }
        // Without extents no question names blocks.
        let swaps =
            |pair: &Pair| pair.places.each_ref().map(|place| place.array.as_ref().expect("a unit").swaps);
        let before = swaps(&pair);
        assert!(others.into_iter().all(|other| admitted(&mut pair, other, &write(held, 2))));
        assert_eq!(swaps(&pair), before);
        assert_eq!(alarms(&pair), Vec::<String>::new());
    }
}

#[test]
fn what_a_unit_did_not_release_is_asked_about_and_released_by_the_next_reset() {
    let mut pair = paired();
    let (owner, other, held) = (nexus(A, 1), nexus(B, 2), extent(10, 5));
    let reset = || Request::Reset(biplex_engine::reserve::Reset::Unit);
    assert_eq!(request(&mut pair, owner, reserve(5, ExtentKind::ExclusiveAccess, held, None)), DONE);
    pair.places[1].array.as_mut().expect("a unit").busy = true;
    let task = pair.submit(other, Command::Control { request: reset() });
    pair.pass(4 * SECOND);
    pair.places[1].array.as_mut().expect("a unit").busy = false;
    pair.pass(SECOND);
    assert_eq!(pair.places[1].answers.remove(&task), Some(DONE));
    assert!(pair.places[1].notices.iter().any(|text| text.contains("did not release")));
    assert!(!admitted(&mut pair, other, &write(held, 1)), "its unit holds it");
    assert_eq!(request(&mut pair, other, reset()), DONE);
    assert!(admitted(&mut pair, other, &write(held, 1)));
}

#[test]
fn a_unit_that_is_busy_for_a_moment_does_as_the_other() {
    let mut pair = paired();
    let (owner, other) = (nexus(A, 1), nexus(B, 2));
    let whole = || Command::Control { request: Request::Reserve { third_party: None, extents: None } };
    for _ in 0..2 {
        // The second time the holder asks again for what it has.
        pair.places[1].array.as_mut().expect("a unit").busy = true;
        let task = pair.submit(owner, whole());
        pair.pass(300 * MS);
        assert_eq!(pair.places[0].answers.get(&task), None);
        pair.places[1].array.as_mut().expect("a unit").busy = false;
        pair.pass(SECOND);
        assert_eq!(pair.places[0].answers.remove(&task), Some(DONE));
        assert!(!admitted(&mut pair, other, &write(extent(0, 1), 1)));
    }
    assert_eq!(alarms(&pair), Vec::<String>::new());
}

fn alarms(pair: &Pair) -> Vec<String> {
    let all = pair.places.iter().flat_map(|place| &place.notices);
    all.filter(|text| text.contains("differ")).cloned().collect()
}

#[test]
fn extents_of_two_hosts_go_together_as_their_kinds_say_and_end_with_their_nexus() {
    let mut pair = paired();
    let now = pair.at();
    let unit = pair.places[1].site.status(now).volumes[0].unit.clone().expect("asked");
    assert!(unit.contains("reserves extents and for third parties"), "{unit}");
    let (one, two) = (nexus(A, 1), nexus(B, 2));
    let (held, beside) = (extent(100, 50), extent(150, 50));
    assert_eq!(request(&mut pair, one, reserve(1, ExtentKind::WriteExclusive, held, None)), DONE);
    assert_eq!(request(&mut pair, two, reserve(1, ExtentKind::ReadExclusive, held, None)), DONE);
    let refused = request(&mut pair, two, reserve(2, ExtentKind::ReadShared, held, None));
    assert_eq!(refused, Completion::Verdict(Verdict::Conflict));
    assert_eq!(request(&mut pair, two, reserve(2, ExtentKind::ExclusiveAccess, beside, None)), DONE);
    let whole = Request::Reserve { third_party: None, extents: None };
    assert_eq!(request(&mut pair, one, whole.clone()), Completion::Verdict(Verdict::Conflict));
    assert!(!admitted(&mut pair, one, &read(held)) && !admitted(&mut pair, one, &write(beside, 1)));
    assert!(!admitted(&mut pair, two, &write(held, 1)) && admitted(&mut pair, two, &write(beside, 1)));
    // Every id of a nexus goes with it.
    pair.lose(two);
    pair.pass(SECOND);
    assert!(admitted(&mut pair, one, &read(held)) && admitted(&mut pair, one, &write(beside, 1)));
    assert!(!admitted(&mut pair, two, &write(held, 1)), "the other's stands");
    assert_eq!(request(&mut pair, nexus(B, 3), Request::Reset(biplex_engine::reserve::Reset::Unit)), DONE);
    assert!(admitted(&mut pair, two, &write(held, 1)));
    assert_eq!(request(&mut pair, one, whole), DONE);
    assert_eq!(alarms(&pair), Vec::<String>::new());
}

#[test]
fn a_third_party_holds_with_all_its_sessions_and_who_asked_is_kept_out() {
    let mut pair = paired();
    let (owner, party, stranger) = (nexus(A, 1), [nexus(A, 2), nexus(B, 2)], nexus(B, 3));
    let named = Some(HostId(2));
    let held = extent(64, 8);
    let whole = |third_party| Request::Reserve { third_party, extents: None };
    let free = |third_party| Request::Release { third_party, extents: None };
    // The unit for a host that nobody has seen yet.
    assert_eq!(request(&mut pair, owner, whole(named)), DONE);
    for out in [owner, stranger] {
        for command in [read(held), write(held, 1), Command::Flush, Command::Check { access: Access::Look }] {
            assert_eq!(ask(&mut pair, out, &command), CONFLICT, "{out}");
        }
    }
    for inside in party {
        assert!(admitted(&mut pair, inside, &write(held, 2)) && admitted(&mut pair, inside, &read(held)));
        assert_eq!(request(&mut pair, inside, free(None)), DONE);
        assert_eq!(request(&mut pair, inside, free(named)), DONE);
        assert_eq!(request(&mut pair, inside, whole(None)), Completion::Verdict(Verdict::Conflict));
    }
    assert_eq!(request(&mut pair, owner, free(None)), DONE);
    assert_eq!(ask(&mut pair, stranger, &read(held)), CONFLICT, "it was reserved for another");
    // For another host: superseded.
    assert_eq!(request(&mut pair, owner, whole(Some(HostId(3)))), DONE);
    assert!(admitted(&mut pair, stranger, &read(held)) && !admitted(&mut pair, party[1], &read(held)));
    assert_eq!(request(&mut pair, owner, free(Some(HostId(3)))), DONE);
    assert!(admitted(&mut pair, party[0], &read(held)));
    // Extents for it.
    assert_eq!(request(&mut pair, owner, reserve(9, ExtentKind::ExclusiveAccess, held, named)), DONE);
    assert!(!admitted(&mut pair, owner, &read(held)) && !admitted(&mut pair, stranger, &write(held, 1)));
    assert!(
        admitted(&mut pair, party[1], &write(held, 3)) && admitted(&mut pair, owner, &read(extent(0, 64)))
    );
    // Gone with its owner.
    pair.lose(owner);
    pair.pass(SECOND);
    assert!(admitted(&mut pair, stranger, &write(held, 1)));
    assert_eq!(alarms(&pair), Vec::<String>::new());
}

/// What a nexus has at both units: whether it holds persistently, and its key.
fn has(pair: &Pair, nexus: Nexus) -> (bool, Option<u64>) {
    let at = |index: usize, site| {
        let (_, holds, key) = pair.places[index].array.as_ref().expect("a unit").has(site, nexus);
        (holds, key)
    };
    assert_eq!(at(0, A), at(1, B), "{nexus}");
    at(0, A)
}

#[test]
fn further_ports_are_registered_and_a_reservation_is_moved_at_both_units() {
    let mut pair = Pair::holding(Rules { disk: true, ..Rules::of(Mode::Sync) }, SECOND);
    let (one, two, three, stranger) = (nexus(A, 1), nexus(A, 2), nexus(B, 3), nexus(B, 4));
    let kind = PersistentKind::ExclusiveAccess;
    let name = |host: u64| format!("iqn.2026-11.example:{host}").into();
    let register = |also: Vec<Nexus>| Request::Register {
        key: Some(0),
        new_key: 7,
        aptpl: false,
        all_ports: false,
        name: name(1),
        also: also.into_iter().map(|nexus| Registrant { nexus, name: name(nexus.host.0) }).collect(),
    };
    // The unit says what is wrong with a list, and where.
    let twice = request(&mut pair, one, register(vec![two, two]));
    assert_eq!(twice, Completion::Verdict(Verdict::BadParameter(28)));
    assert_eq!(request(&mut pair, one, register(vec![two])), DONE);
    assert_eq!(
        [one, two, three].map(|who| has(&pair, who)),
        [(false, Some(7)), (false, Some(7)), (false, None)]
    );
    // Neither of them has asked for anything itself, and data must go through its nexus.
    let move_to = |key, new_key, unregister, nexus: Nexus| Request::Move {
        key,
        new_key,
        unregister,
        aptpl: false,
        to: Registrant { nexus, name: name(nexus.host.0) },
    };
    let nothing_to_move = request(&mut pair, one, move_to(7, 9, false, three));
    assert_eq!(nothing_to_move, Completion::Verdict(Verdict::BadCdb(1)));
    assert_eq!(request(&mut pair, one, Request::ReservePersistent { key: 7, kind }), DONE);
    assert!(admitted(&mut pair, one, &write(extent(8, 2), 5)));
    assert_eq!(request(&mut pair, one, move_to(7, 9, true, three)), DONE);
    assert_eq!(
        [one, two, three].map(|who| has(&pair, who)),
        [(false, None), (false, Some(7)), (true, Some(9))]
    );
    wait_destaged(&mut pair);
    for place in &pair.places {
        assert!(place.array.as_ref().expect("a unit").disk[8 * 512..10 * 512].iter().all(|byte| *byte == 5));
    }
    assert!(admitted(&mut pair, three, &read(extent(8, 2))));
    for out in [one, two, stranger] {
        assert!(!admitted(&mut pair, out, &read(extent(8, 2))), "{out}");
    }
    assert_eq!(request(&mut pair, three, Request::ReleasePersistent { key: 9, kind }), DONE);
    assert!(admitted(&mut pair, stranger, &write(extent(8, 2), 6)));
    assert_eq!(alarms(&pair), Vec::<String>::new());
}

/// SPC-4 5.13.5: without APTPL. The one unit lets everybody in then, and the other one does not.
#[test]
fn a_unit_that_lost_its_registrations_is_told_of_as_of_a_loss_of_power() {
    let kind = PersistentKind::WriteExclusive;
    let (one, two) = (nexus(A, 1), nexus(B, 2));
    let name = "iqn.2026-11.example:1";
    let register = |key, new_key| Request::Register {
        key,
        new_key,
        aptpl: false,
        all_ports: false,
        name: name.into(),
        also: Vec::new(),
    };
    for ends in [false, true] {
        let mut pair = paired();
        for asked in [register(Some(0), 7), Request::ReservePersistent { key: 7, kind }] {
            assert_eq!(request(&mut pair, one, asked), DONE);
        }
        if ends {
            assert_eq!(request(&mut pair, one, register(Some(7), 0)), DONE);
        }
        assert_eq!(admitted(&mut pair, two, &write(extent(8, 2), 5)), ends);
        pair.places[0].array.as_mut().expect("a unit").lose_power();
        pair.drop_unit(0);
        pair.pass(3 * SECOND);
        let told = |place: &back_to_back::Place| {
            place.notices.iter().any(|text| text.contains("TARGET COLD RESET by"))
        };
        assert_eq!(pair.places.each_ref().map(told), [!ends; 2], "all hosts of both sites hear of it");
        let said = pair.places[0].notices.iter().filter(|text| text.contains("has lost all registrations"));
        assert_eq!(said.count(), usize::from(!ends));
        if !ends {
            // Hosts do what they do behind 29/00, and all is as it was.
            assert_eq!(request(&mut pair, one, register(None, 7)), DONE);
            assert_eq!(request(&mut pair, one, Request::ReservePersistent { key: 7, kind }), DONE);
            assert_eq!(has(&pair, one), (true, Some(7)));
            assert!(!admitted(&mut pair, two, &write(extent(8, 2), 5)));
        }
    }
}

/// All that is held has arrived at both units.
fn wait_destaged(pair: &mut Pair) {
    for _ in 0..200 {
        pair.pass(SECOND / 10);
        let now = pair.at();
        if pair
            .places
            .iter()
            .all(|place| place.site.status(now).volumes.iter().all(|volume| volume.records == 0))
        {
            return;
        }
    }
    panic!("not destaged: {:?}", pair.places.each_ref().map(|place| &place.notices));
}

/// Nobody asks anything of the unit that was reset: the destage is told of it, in the site's own session.
#[test]
fn a_reset_past_the_pair_of_which_only_a_destage_is_told_releases_at_both() {
    let mut pair = Pair::holding(Rules { disk: true, ..Rules::of(Mode::Sync) }, SECOND);
    let holder = nexus(B, 1);
    let claim = reserve(1, ExtentKind::ExclusiveAccess, extent(100, 8), None);
    assert_eq!(request(&mut pair, holder, claim), DONE);
    assert!(admitted(&mut pair, holder, &write(extent(5, 2), 7)));
    let reserved = |pair: &Pair| {
        [(0, A), (1, B)].map(|(index, site)| {
            let array = pair.places[index].array.as_ref().expect("a unit");
            array.extents_of(site, holder, &[]).len()
        })
    };
    assert_eq!(reserved(&pair), [1, 1]);
    pair.places[0].array.as_mut().expect("a unit").reset();
    wait_destaged(&mut pair);
    pair.pass(SECOND);
    assert_eq!(reserved(&pair), [0, 0]);
}

/// Its session is new and hears nothing of what was before; whoever had reserved the unit is idle.
#[test]
fn a_reset_past_the_pair_is_seen_when_a_host_comes_that_profits_from_it() {
    for host in [nexus(A, 9), nexus(B, 9)] {
        let mut pair = paired();
        let holder = nexus(B, 1);
        assert_eq!(request(&mut pair, holder, Request::Reserve { third_party: None, extents: None }), DONE);
        let reserved = |pair: &Pair| {
            [(0, A), (1, B)]
                .map(|(index, site)| pair.places[index].array.as_ref().expect("a unit").has(site, holder).0)
        };
        assert_eq!(reserved(&pair), [true; 2]);
        pair.places[host.site.index()].array.as_mut().expect("a unit").reset();
        pair.pass(SECOND);
        assert!(admitted(&mut pair, host, &write(extent(5, 2), 7)));
        pair.pass(SECOND / 10);
        assert_eq!(reserved(&pair), [false; 2], "{host}");
    }
}

#[test]
fn what_lies_in_extents_of_several_hosts_is_destaged_and_read_back_in_pieces() {
    let mut pair = Pair::holding(Rules { disk: true, ..Rules::of(Mode::Sync) }, SECOND);
    let hosts = [nexus(A, 1), nexus(B, 2), nexus(A, 3)];
    let mine = |number: usize| extent(100 + 33 * number as u64, 33);
    let kind = ExtentKind::ExclusiveAccess;
    for number in [0, 1] {
        assert_eq!(request(&mut pair, hosts[number], reserve(1, kind, mine(number), None)), DONE);
    }
    // The third piece is reserved for a host that never comes, once it is written.
    for (number, host) in hosts.into_iter().enumerate() {
        assert!(admitted(&mut pair, host, &write(mine(number), number as u8 + 1)));
    }
    assert_eq!(request(&mut pair, hosts[0], reserve(2, kind, mine(2), Some(HostId(99)))), DONE);
    wait_destaged(&mut pair);
    for place in &pair.places {
        let disk = &place.array.as_ref().expect("a unit").disk;
        for number in 0..3 {
            let bytes = mine(number).start().bytes() as usize..mine(number).end().bytes() as usize;
            assert!(disk[bytes].iter().all(|byte| *byte == number as u8 + 1), "host {number}");
        }
    }
    for number in [0, 1] {
        let Completion::Data(data) = ask(&mut pair, hosts[number], &read(mine(number))) else {
            panic!("its own");
        };
        assert!(data.concat().iter().all(|byte| *byte == number as u8 + 1));
    }
    assert!(pair.places.iter().all(|place| !place.notices.iter().any(|text| text.contains("CONFLICT"))));
}
