//! A write's bytes can be had back from the journal by its stamp as long as they are there, never damaged, and a
//! journal tells requests, COMPARE AND WRITE, verdicts and saved reservations in words.

mod fault_disk;

use biplex_engine::reserve::{
    Claim, ExtentKind, Extents, PersistentKind, Registrant, Request, Reservations, Verdict,
};
use biplex_engine::{Body, Entry, Extent, HostId, Lba, Nexus, SiteId, Stamp, VolumeId};
use biplex_format::{body_crc, encode_reservations};
use biplex_store::{
    Checkpoint, ExplainOptions, ExtractError, Journal, StoreError, create_with, explain, extract, recover,
};
use bytes::Bytes;
use fault_disk::{FaultDisk, identity, small, write};
use std::sync::Arc;

const VOLUME: VolumeId = VolumeId(0x5eed);

fn stamp(time: u64) -> Stamp {
    Stamp { time, site: SiteId::B }
}

fn entry(time: u64, blocks: u64, body: Body) -> Entry {
    Entry {
        stamp: stamp(time),
        seq: 1 << 40 | time,
        volume: VOLUME,
        extent: Extent::new(Lba(8), blocks).expect("not empty"),
        host: HostId(7),
        isid: 0x23d,
        body_crc: body_crc(&body),
        body,
    }
}

fn data(time: u64, blocks: u64) -> Entry {
    entry(time, blocks, Body::Data(Bytes::from(vec![time as u8; 512 * blocks as usize])))
}

fn made() -> (FaultDisk, Journal) {
    let layout = small();
    let mut disk = FaultDisk::new(layout.bytes());
    create_with(&mut disk, layout, &identity(), &mut |_, _| ()).expect("a journal");
    let (journal, _) = recover(&mut disk, None, &mut |_, _| ()).expect("an empty journal");
    (disk, journal)
}

fn append(disk: &mut FaultDisk, journal: &mut Journal, entry: &Entry) {
    journal.append(entry).expect("there is room");
    drain(disk, journal);
}

fn drain(disk: &mut FaultDisk, journal: &mut Journal) {
    while let Some(group) = journal.next_group() {
        write(disk, &group);
        journal.group_done();
    }
}

fn nexus(host: u64) -> Nexus {
    Nexus { host: HostId(host), isid: 0x23d, site: SiteId::A }
}

#[test]
fn every_kind_of_write_gives_its_own_bytes_back() {
    let (mut disk, mut journal) = made();
    let swap = [vec![1; 1024], vec![2; 1024]].concat();
    for entry in [
        data(1, 3),
        entry(2, 2, Body::Swap(swap.into())),
        entry(2, 2, Body::Verdict(Verdict::Done)),
        entry(3, 100, Body::Fill(Bytes::from(vec![9; 512]))),
        entry(4, 5, Body::Unmap),
        entry(5, 1, Body::Control(Arc::new(Request::Clear { key: 1 }))),
    ] {
        append(&mut disk, &mut journal, &entry);
    }
    let before = disk.seen.clone();
    let found = extract(&mut disk, stamp(1)).expect("a write");
    assert_eq!((&found.bytes[..], found.what), (&[1; 1536][..], "a write"));
    assert_eq!((found.volume.as_str(), found.host), ("vol0", HostId(7)));
    assert_eq!((found.extent.start(), found.extent.blocks()), (Lba(8), 3));
    assert_eq!(disk.seen[found.offset as usize..][..1536], [1; 1536], "it says where");
    let found = extract(&mut disk, stamp(2)).expect("a swap");
    assert_eq!(found.bytes[..], [2; 1024], "not what was compared");
    let found = extract(&mut disk, stamp(3)).expect("a fill");
    assert_eq!((&found.bytes[..], found.extent.blocks()), (&[9; 512][..], 100));
    assert!(found.remark.contains("every one of its blocks"), "{}", found.remark);
    for (time, what) in [(4, "an UNMAP"), (5, "PR CLEAR")] {
        let refused = extract(&mut disk, stamp(time)).expect_err("no bytes");
        assert_eq!(refused, ExtractError::NoBytes { stamp: stamp(time), what });
    }
    let other = Stamp { time: 1, site: SiteId::A };
    let refused = extract(&mut disk, other).expect_err("the other site's").to_string();
    let said = "no write with the stamp 0.000000001a (it has records of 0.000000001b to 0.000000005b)";
    assert!(refused.contains(said), "{refused}");
    assert!(disk.seen == before && disk.unsynced.is_empty(), "nothing was written");
}

#[test]
fn a_write_is_found_until_its_place_is_used_again() {
    let (mut disk, mut journal) = made();
    append(&mut disk, &mut journal, &data(1, 8));
    let mut lost_at = None;
    for time in 2..=200 {
        journal.set_checkpoint(Checkpoint { destaged: stamp(time - 1), ..Checkpoint::FIRST });
        append(&mut disk, &mut journal, &data(time, 8));
        journal.recycle(stamp(time - 1));
        match extract(&mut disk, stamp(1)) {
            Ok(found) => {
                assert_eq!(found.bytes[..], [1; 4096]);
                assert_eq!(lost_at, None, "it came back");
            }
            Err(error) => {
                assert!(matches!(error, ExtractError::Gone { .. }), "{error}");
                lost_at = lost_at.or(Some(time));
            }
        }
    }
    // Six segments of five such records each, and what is destaged is given back at once.
    let lost_at = lost_at.expect("the ring came round");
    assert!(lost_at > 20, "free segments are searched, too: {lost_at}");
}

#[test]
fn damaged_bytes_are_never_given_out() {
    let (mut disk, mut journal) = made();
    append(&mut disk, &mut journal, &data(1, 8));
    append(&mut disk, &mut journal, &data(2, 8));
    let found = extract(&mut disk, stamp(1)).expect("sound");
    for place in [found.offset - 1, found.offset, found.offset + 4095] {
        let mut image = disk.seen.clone();
        image[place as usize] ^= 1;
        let refused = extract(&mut FaultDisk::of(image), stamp(1)).expect_err("damaged");
        let ExtractError::Gone { holds, .. } = &refused else { panic!("{refused}") };
        assert!(holds.damage.is_some(), "{refused}");
        assert!(refused.to_string().contains("does not read at offset"), "{refused}");
    }
    let refused = extract(&mut FaultDisk::of(vec![0; 1 << 20]), stamp(1)).expect_err("no journal");
    assert!(matches!(refused, ExtractError::Store(StoreError::Unfinished)), "{refused}");
}

#[test]
fn requests_swaps_verdicts_and_saved_reservations_are_told_in_words() {
    let (mut disk, mut journal) = made();
    let claim = Claim { kind: ExtentKind::WriteExclusive, extent: Extent::new(Lba(64), 8).expect("blocks") };
    let reserve = Request::Reserve {
        third_party: Some(HostId(0xabc)),
        extents: Some(Extents { id: 3, claims: vec![claim] }),
    };
    let register = Request::Register {
        key: None,
        new_key: 0xbeef,
        aptpl: true,
        all_ports: false,
        name: "iqn.host:one".into(),
        also: vec![Registrant { nexus: nexus(2), name: "iqn.host:two".into() }],
    };
    let kind = PersistentKind::ExclusiveAccess;
    let preempt = Request::Preempt { key: 1, victim: 2, kind, abort: true };
    let requests = [reserve, register, preempt, Request::SiteStarted { run: 4, peer_run: 5 }];
    for (time, request) in (1..).zip(&requests) {
        append(&mut disk, &mut journal, &entry(time, 1, Body::Control(Arc::new(request.clone()))));
    }
    append(&mut disk, &mut journal, &entry(9, 1, Body::Swap(Bytes::from(vec![0; 1024]))));
    append(&mut disk, &mut journal, &entry(9, 1, Body::Verdict(Verdict::Miscompare { offset: 0 })));
    let mut table = Reservations::default();
    let request = Request::Register {
        key: None,
        new_key: 0x77,
        aptpl: false,
        all_ports: false,
        name: "iqn.host:one".into(),
        also: Vec::new(),
    };
    assert_eq!(table.apply(stamp(20), nexus(1), &request).0, Verdict::Done);
    let request = Request::ReservePersistent { key: 0x77, kind };
    assert_eq!(table.apply(stamp(21), nexus(1), &request).0, Verdict::Done);
    journal.save_state(encode_reservations(&[(VOLUME, table.parts())]).into());
    journal.request_group();
    drain(&mut disk, &mut journal);
    journal.request_group();
    drain(&mut disk, &mut journal);

    let mut lines = Vec::new();
    let options = ExplainOptions { groups: false, records: true };
    explain(&mut disk, options, &mut |line| lines.push(line)).expect("sound");
    let text = lines.join("\n");
    for words in [
        "RESERVE extents for host 0000000000000abc, id 3: write exclusive 64+8 by 0000000000000007/00000000023d@b",
        "PR REGISTER AND IGNORE new key 000000000000beef, APTPL, of iqn.host:one, and iqn.host:two ",
        "PR PREEMPT AND ABORT key 0000000000000001, whose 0000000000000002, persistent, exclusive access",
        "site started, run 4, its peer in run 5",
        "COMPARE AND WRITE, 512 bytes to compare, then 512 to write",
        "outcome of the COMPARE AND WRITE or request of this stamp: miscompare at byte 0",
        "locks      vol0: reserved since 0.000000021b by 0000000000000001/00000000023d@a: persistent, exclusive access, \
         all blocks",
        "locks      vol0: registered iqn.host:one 0000000000000001/00000000023d@a key 0000000000000077",
        "volume     00005eed \"vol0\" lun 0 blocks 2048 sync",
    ] {
        assert!(text.contains(words), "no \"{words}\" in\n{text}");
    }
}
