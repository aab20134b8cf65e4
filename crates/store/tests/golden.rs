//! A tiny journal, byte for byte, as this release makes it: every later one must read it.

mod fault_disk;

use biplex_engine::{Body, Entry, Extent, HostId, JournalPos, Lba, SiteId, Stamp, VolumeId};
use biplex_format::body_crc;
use biplex_format::journal::content_check;
use biplex_store::{Checkpoint, Disk, Journal, Layout, create_with, recover};
use bytes::Bytes;
use fault_disk::{FaultDisk, SEGMENTS_START, identity};

fn tiny() -> Layout {
    Layout::with_segments(SEGMENTS_START + 4 * (16 << 10), 16 << 10).expect("four segments of four pages")
}

fn entries() -> Vec<Entry> {
    let of = |time, site, lba, blocks, body: Body| Entry {
        stamp: Stamp { time, site },
        seq: 1 << 40 | time,
        volume: VolumeId(0x5eed),
        extent: Extent::new(Lba(lba), blocks).expect("not empty"),
        host: HostId(9),
        isid: 0,
        body_crc: body_crc(&body),
        body,
    };
    vec![
        of(100, SiteId::A, 8, 1, Body::Data(Bytes::from(vec![0x5a; 512]))),
        of(101, SiteId::B, 0, 64, Body::Fill(Bytes::from(vec![0xc3; 512]))),
        of(102, SiteId::A, 9, 1000, Body::Unmap),
        of(103, SiteId::A, 40, 16, Body::Data(Bytes::from(vec![0x11; 8192]))),
    ]
}

fn write(disk: &mut FaultDisk, journal: &mut Journal) -> usize {
    let mut groups = 0;
    while let Some(group) = journal.next_group() {
        disk.write_at(group.offset, group.pages.as_bytes()).expect("in memory");
        disk.sync().expect("in memory");
        journal.group_done();
        groups += 1;
    }
    groups
}

#[test]
fn a_tiny_journal_is_the_same_bytes_in_every_release() {
    let mut disk = FaultDisk::new(tiny().bytes());
    let mut calls = Vec::new();
    create_with(&mut disk, tiny(), &identity(), &mut |done, all| calls.push((done, all))).expect("a journal");
    assert_eq!(calls, vec![(tiny().bytes(), tiny().bytes())]);
    let (mut journal, _) = recover(&mut disk, None, &mut |_, _| ()).expect("an empty journal");
    let checkpoint = Checkpoint {
        clock_ceiling: 1000,
        destaged: Stamp { time: 99, site: SiteId::B },
        resume_from: Some(Stamp { time: 98, site: SiteId::A }),
        peer_journal: 77,
        run: 1,
        oldest_segment: 0,
        state: 0,
    };
    journal.set_checkpoint(checkpoint);
    let mut places = Vec::new();
    for entry in &entries()[..3] {
        places.push(journal.append(entry).expect("room").1);
    }
    assert_eq!(write(&mut disk, &mut journal), 1, "three entries share a group");
    places.push(journal.append(&entries()[3]).expect("room").1);
    assert_eq!(write(&mut disk, &mut journal), 1, "the fourth goes to the second segment");
    journal.save_state(Bytes::from(vec![0x99; 5000]));
    journal.request_group();
    assert_eq!(write(&mut disk, &mut journal), 2, "a state and a checkpoint alone go to their slots");
    // Segment 0 at 136 KiB: header page, group header, then records of 128 + body bytes.
    let first = SEGMENTS_START + 4096 + 128 + 128;
    let expected = [first, first + 640, first + 1280, SEGMENTS_START + (16 << 10) + 4096 + 256];
    assert_eq!(places, expected.map(JournalPos));

    assert_eq!(
        content_check(&disk.medium),
        GOLDEN,
        "the bytes of a journal changed: {:#010x}",
        content_check(&disk.medium)
    );
    let mut found = Vec::new();
    let (_, recovered) =
        recover(&mut disk, None, &mut |entry, pos| found.push((entry, pos))).expect("a sound journal");
    assert_eq!(found, entries().into_iter().zip(places).collect::<Vec<_>>());
    assert_eq!(recovered.checkpoint, Checkpoint { oldest_segment: 1, state: 1, ..checkpoint });
    assert_eq!(recovered.state, Some(Bytes::from(vec![0x99; 5000])));
    assert_eq!((recovered.identity, recovered.torn_at), (identity(), None));
}

/// Of the whole file (not CRC-32C, which is blind to what ends in its own).
const GOLDEN: u32 = 0x9d2f1d51;
