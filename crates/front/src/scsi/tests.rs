//! The device as a host sees it: every command against exact bytes, over a disk in memory; and properties
//! that hold for any CDB and any data.

mod reserving;

use super::*;
use biplex_engine::reserve::{Reservations, Reset, Verdict};
use biplex_engine::{Extent, HostId, Lba, Stamp};
use proptest::prelude::*;

const BLOCKS: u64 = 20_000;
const HOST: Nexus = Nexus { host: HostId(1), isid: 1, site: SiteId::A };
const OTHER: Nexus = Nexus { host: HostId(2), isid: 1, site: SiteId::A };

/// A device with one unit, and the disk behind it.
struct Bench {
    device: Device,
    disk: Vec<u8>,
    /// What was asked of the site, but for checks of reservations.
    asked: Vec<Command>,
    reservations: Reservations,
    time: u64,
}

fn port(site: SiteId) -> PortConfig {
    let (group, relative) = if site == SiteId::A { (1, 1) } else { (2, 257) };
    PortConfig { site, target: "iqn.2026-11.io.biplex:pair1".into(), group, relative }
}

fn unit(lun: u16, blocks: u64) -> UnitConfig {
    let volume = VolumeId(100 + u32::from(lun));
    UnitConfig { volume, lun, name: "vol".into(), serial: "S1".into(), naa: 3 << 60 | 1, blocks }
}

fn bench() -> Bench {
    let mut device = Device::new(port(SiteId::A), port(SiteId::B), vec![unit(0, BLOCKS)]);
    for (nexus, name) in [(HOST, "iqn.host"), (OTHER, "iqn.other")] {
        device.attach(nexus, name.into());
    }
    Bench {
        device,
        disk: vec![0; (BLOCKS * BLOCK_BYTES) as usize],
        asked: Vec::new(),
        reservations: Reservations::default(),
        time: 0,
    }
}

fn bytes_of(extent: Extent) -> std::ops::Range<usize> {
    extent.start().bytes() as usize..extent.end().bytes() as usize
}

impl Bench {
    fn reset(&mut self, reset: Reset) {
        self.carry_out(OTHER, &Command::Control { request: Request::Reset(reset) });
    }

    /// Gives a command to the device and carries out what it asks for.
    fn run(&mut self, cdb: &[u8], data: &[u8]) -> Reply {
        self.run_as(HOST, cdb, data)
    }

    fn run_as(&mut self, nexus: Nexus, cdb: &[u8], data: &[u8]) -> Reply {
        let mut step = self.device.start(nexus, 0, cdb, Bytes::copy_from_slice(data));
        loop {
            match step {
                Step::Done(reply) => return reply,
                Step::Ask { command, pending } => {
                    assert_eq!(command.volume, VolumeId(100));
                    let completion = self.carry_out(nexus, &command.command);
                    if !matches!(command.command, Command::Check { .. }) {
                        self.asked.push(command.command);
                    }
                    step = self.device.finish(pending, completion);
                }
            }
        }
    }

    fn carry_out(&mut self, nexus: Nexus, command: &Command) -> Completion {
        let does = match command {
            Command::Read { extent, .. } => vec![(Access::Read, Some(*extent))],
            Command::Write { extent, .. }
            | Command::Fill { extent, .. }
            | Command::CompareAndWrite { extent, .. } => vec![(Access::Write, Some(*extent))],
            Command::Unmap { extents } => {
                extents.iter().map(|extent| (Access::Write, Some(*extent))).collect()
            }
            Command::Flush => vec![(Access::Control, None)],
            Command::Check { access } => vec![(*access, None)],
            Command::Inspect { .. } => vec![(Access::Look, None)],
            Command::Control { .. } | Command::Leave => vec![],
        };
        if !does.iter().all(|(access, extent)| self.reservations.allows(nexus, *access, *extent)) {
            return Completion::Failed(Failure::Conflict);
        }
        match command {
            Command::Check { .. } | Command::Leave => {}
            Command::Inspect { .. } => return Completion::Persistent(self.reservations.persistent()),
            Command::Control { request } => {
                self.time += 1;
                let stamp = Stamp { time: self.time, site: SiteId::A };
                let (verdict, effects) = self.reservations.apply(stamp, nexus, request);
                effects.iter().for_each(|effect| self.device.apply_effect(VolumeId(100), effect));
                return Completion::Verdict(verdict);
            }
            Command::CompareAndWrite { extent, compare, data } => {
                let there = &mut self.disk[bytes_of(*extent)];
                let same = there.iter().zip(compare).take_while(|(there, wanted)| there == wanted).count();
                if same < there.len() {
                    return Completion::Verdict(Verdict::Miscompare { offset: same as u64 });
                }
                there.copy_from_slice(data);
                return Completion::Verdict(Verdict::Done);
            }
            Command::Read { extent, .. } => {
                let data = Bytes::copy_from_slice(&self.disk[bytes_of(*extent)]);
                let middle = data.len() / 3; // a site may return pieces of any size
                return Completion::Data(vec![data.slice(..middle), data.slice(middle..)]);
            }
            Command::Write { extent, data, .. } => self.disk[bytes_of(*extent)].copy_from_slice(data),
            Command::Fill { extent, block } => {
                self.disk[bytes_of(*extent)].chunks_mut(512).for_each(|at| at.copy_from_slice(block));
            }
            Command::Unmap { extents } => {
                extents.iter().for_each(|extent| self.disk[bytes_of(*extent)].fill(0))
            }
            Command::Flush => {}
        }
        Completion::Done
    }

    fn good(&mut self, cdb: &[u8], data: &[u8]) -> Vec<u8> {
        let reply = self.run(cdb, data);
        assert_eq!((reply.status, &reply.sense[..]), (Status::Good, &[][..]), "{cdb:02x?}");
        reply.data_in.concat()
    }

    /// Key, code and qualifier of a refusal, which moved nothing to the host.
    fn refused(&mut self, cdb: &[u8], data: &[u8]) -> (u8, u8, u8) {
        let reply = self.run(cdb, data);
        assert_eq!(reply.status, Status::CheckCondition, "{cdb:02x?}");
        assert!(reply.data_in.is_empty());
        key(&reply)
    }

    /// As [`Bench::refused`], and the site was not asked for anything.
    fn refused_unasked(&mut self, cdb: &[u8], data: &[u8]) -> (u8, u8, u8) {
        let before = self.asked.len();
        let sense = self.refused(cdb, data);
        assert_eq!(self.asked.len(), before, "{cdb:02x?}");
        sense
    }
}

fn key(reply: &Reply) -> (u8, u8, u8) {
    (reply.sense[2], reply.sense[12], reply.sense[13])
}

/// A CDB of a media command in its 6, 10, 12 or 16-byte form.
fn media(opcode: u8, flags: u8, lba: u64, blocks: u64) -> Vec<u8> {
    let mut cdb = vec![opcode, flags];
    match opcode >> 5 {
        0 => {
            cdb[1] |= (lba >> 16) as u8;
            cdb.extend_from_slice(&[(lba >> 8) as u8, lba as u8, blocks as u8, 0]);
        }
        1 | 2 => {
            cdb.extend_from_slice(&(lba as u32).to_be_bytes());
            cdb.extend_from_slice(&[0, (blocks >> 8) as u8, blocks as u8, 0]);
        }
        5 => {
            cdb.extend_from_slice(&(lba as u32).to_be_bytes());
            cdb.extend_from_slice(&(blocks as u32).to_be_bytes());
            cdb.extend_from_slice(&[0, 0]);
        }
        _ => {
            cdb.extend_from_slice(&lba.to_be_bytes());
            cdb.extend_from_slice(&(blocks as u32).to_be_bytes());
            cdb.extend_from_slice(&[0, 0]);
        }
    }
    cdb
}

fn pattern(blocks: u64, seed: u8) -> Vec<u8> {
    (0..blocks * BLOCK_BYTES).map(|at| (at % 251) as u8 ^ seed).collect()
}

const INVALID_FIELD: (u8, u8, u8) = (5, 0x24, 0);
const OUT_OF_RANGE: (u8, u8, u8) = (5, 0x21, 0);
const SHORT: (u8, u8, u8) = (5, 0x0e, 3);
const LIST_LENGTH: (u8, u8, u8) = (5, 0x1a, 0);
const INVALID_LIST: (u8, u8, u8) = (5, 0x26, 0);

#[test]
fn what_was_written_is_read_in_every_form() {
    let mut bench = bench();
    for (number, (write, read)) in
        [(0x0a, 0x08), (0x2a, 0x28), (0xaa, 0xa8), (0x8a, 0x88)].into_iter().enumerate()
    {
        let (lba, data) = (100 * number as u64, pattern(3, number as u8));
        assert_eq!(bench.device.transfer(0, &media(write, 0, lba, 3)), Transfer::Out(1536));
        assert_eq!(bench.device.transfer(0, &media(read, 0, lba, 3)), Transfer::In(1536));
        assert!(bench.good(&media(write, 0, lba, 3), &data).is_empty());
        assert_eq!(bench.good(&media(read, 0, lba, 3), &[]), data);
    }
    assert_eq!(bench.device.transfer(0, &media(0x08, 0, 0, 0)), Transfer::In(256 * 512));
    assert_eq!(bench.good(&media(0x08, 0, 0, 0), &[]).len(), 256 * 512);
}

#[test]
fn fua_reaches_the_site_and_dpo_changes_nothing() {
    let mut bench = bench();
    let extent = Extent::new(Lba(5), 1).expect("one block");
    bench.good(&media(0x28, 0x18, 5, 1), &[]);
    bench.good(&media(0x2a, 0x08, 5, 1), &[7; 512]);
    bench.good(&media(0x8a, 0x10, 5, 1), &[7; 512]);
    let data = Bytes::from_static(&[7; 512]);
    let expected = [
        Command::Read { extent, fua: true },
        Command::Write { extent, data: data.clone(), fua: true },
        Command::Write { extent, data, fua: false },
    ];
    assert_eq!(bench.asked, expected);
}

#[test]
fn ranges_must_lie_on_the_unit_even_when_empty() {
    let mut bench = bench();
    let data = pattern(8, 1);
    for opcode in
        [0x28, 0x2a, 0x2e, 0x2f, 0x34, 0x35, 0xa8, 0xaa, 0xae, 0xaf, 0x88, 0x8a, 0x8e, 0x8f, 0x90, 0x91]
    {
        bench.good(&media(opcode, 0, BLOCKS - 8, 8), &data);
        bench.good(&media(opcode, 0, BLOCKS, 0), &[]);
        for (lba, blocks) in [(BLOCKS - 7, 8), (BLOCKS + 1, 0), (1 << 31, 0), (u64::MAX, 0), (u64::MAX, 2)] {
            assert_eq!(
                bench.refused_unasked(&media(opcode, 0, lba, blocks), &data),
                OUT_OF_RANGE,
                "{opcode:x}"
            );
        }
    }
    for opcode in [0x41, 0x93] {
        assert_eq!(bench.refused_unasked(&media(opcode, 0, BLOCKS, 1), &[0; 512]), OUT_OF_RANGE);
        assert_eq!(bench.refused_unasked(&media(opcode, 0, u64::MAX, 1), &[0; 512]), OUT_OF_RANGE);
    }
}

#[test]
fn transfers_beyond_the_advertised_limit_are_refused_before_data_is_fetched() {
    let mut bench = bench();
    for opcode in [0x28, 0x2a, 0x2e, 0xa8, 0xaa, 0xae, 0x88, 0x8a, 0x8e] {
        assert_ne!(bench.device.transfer(0, &media(opcode, 0, 0, 8192)), Transfer::None);
        let cdb = media(opcode, 0, 0, 8193);
        assert_eq!(bench.device.transfer(0, &cdb), Transfer::None);
        assert_eq!(bench.refused_unasked(&cdb, &[]), INVALID_FIELD);
    }
    assert_eq!(bench.refused_unasked(&media(0x2f, 2, 0, 8193), &[]), INVALID_FIELD);
}

#[test]
fn protection_group_and_naca_bits_are_refused() {
    let mut bench = bench();
    for opcode in [0x28, 0x2a, 0x2e, 0x2f, 0xa8, 0xaa, 0xae, 0xaf, 0x88, 0x8a, 0x8e, 0x8f] {
        for protect in 1..8 {
            assert_eq!(bench.refused_unasked(&media(opcode, protect << 5, 0, 1), &[0; 512]), INVALID_FIELD);
        }
        let mut naca = media(opcode, 0, 0, 1);
        *naca.last_mut().expect("control byte") = 4;
        assert_eq!(bench.refused_unasked(&naca, &[0; 512]), INVALID_FIELD);
    }
    let mut group = media(0x28, 0, 0, 1);
    group[6] = 1;
    assert_eq!(bench.refused_unasked(&group, &[]), INVALID_FIELD);
    assert_eq!(bench.refused_unasked(&[0, 0, 0, 0, 0, 4], &[]), INVALID_FIELD);
}

#[test]
fn short_data_writes_whole_blocks_or_nothing() {
    for opcode in [0x2a, 0xaa, 0x8a, 0x2e, 0xae, 0x8e] {
        let mut bench = bench();
        let data = pattern(2, 9);
        bench.good(&media(opcode, 0, 10, 2), &[]);
        assert_eq!(bench.refused_unasked(&media(opcode, 0, 10, 2), &data[..200]), SHORT);
        assert_eq!(bench.refused_unasked(&media(opcode, 0, 10, 2), &data[..700]), SHORT);
        assert!(bench.disk.iter().all(|byte| *byte == 0));
        bench.good(&media(opcode, 0, 10, 2), &data[..512]);
        assert_eq!(bench.disk[10 * 512..11 * 512], data[..512]);
        assert!(bench.disk[11 * 512..].iter().all(|byte| *byte == 0));
        // More than the CDB says is disregarded.
        bench.good(&media(opcode, 0, 20, 1), &data);
        assert!(bench.disk[21 * 512..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn verify_names_the_first_byte_that_differs() {
    for opcode in [0x2f, 0xaf, 0x8f] {
        let mut bench = bench();
        let data = pattern(8, 3);
        bench.good(&media(0x2a, 0, 0, 8), &data);
        bench.good(&media(opcode, 0x02, 0, 8), &data);
        let mut wrong = data.clone();
        wrong[3000] ^= 1;
        let reply = bench.run(&media(opcode, 0x12, 0, 8), &wrong);
        assert_eq!(key(&reply), (0xe, 0x1d, 0));
        assert_eq!(reply.sense[..7], [0xf0, 0, 0xe, 0, 0, 0x0b, 0xb8]);
        // Only what came is compared.
        bench.good(&media(opcode, 0x02, 0, 8), &wrong[..2560]);
        assert_eq!(bench.refused(&media(opcode, 0x02, 0, 8), &wrong[..3072]), (0xe, 0x1d, 0));
        assert_eq!(bench.refused_unasked(&media(opcode, 0x02, 0, 8), &wrong[..100]), SHORT);
        assert_eq!(bench.refused_unasked(&media(opcode, 0x04, 0, 8), &[]), INVALID_FIELD);
    }
}

#[test]
fn verify_against_one_block_compares_every_block_with_it() {
    let mut bench = bench();
    let block = pattern(1, 5);
    bench.good(&media(0x93, 0, 0, 9000), &block);
    let cdb = media(0x8f, 0x06, 0, 9000);
    assert_eq!(bench.device.transfer(0, &cdb), Transfer::Out(512));
    bench.good(&cdb, &block);
    bench.disk[8999 * 512 + 77] ^= 1;
    let reply = bench.run(&cdb, &block);
    assert_eq!((key(&reply), reply.sense[6]), ((0xe, 0x1d, 0), 77));
    assert_eq!(bench.refused_unasked(&cdb, &block[..511]), SHORT);
}

#[test]
fn verify_without_data_reads_a_large_range_piece_by_piece() {
    let mut bench = bench();
    bench.good(&media(0x8f, 0, 100, 17_000), &[]);
    let pieces: Vec<_> = bench.asked.iter().map(|command| format!("{command:?}")).collect();
    let expected = [(100, 8192), (8292, 8192), (16484, 616)]
        .map(|(lba, blocks)| Command::Read {
            extent: Extent::new(Lba(lba), blocks).expect("blocks"),
            fua: true,
        })
        .map(|command| format!("{command:?}"));
    assert_eq!(pieces, expected);
}

#[test]
fn write_and_verify_writes_then_reads_back() {
    for opcode in [0x2e, 0xae, 0x8e] {
        let mut bench = bench();
        let data = pattern(2, 1);
        bench.good(&media(opcode, 0x02, 4, 2), &data);
        let extent = Extent::new(Lba(4), 2).expect("blocks");
        let write = Command::Write { extent, data: Bytes::from(data), fua: true };
        assert_eq!(bench.asked, [write, Command::Read { extent, fua: true }]);
    }
}

#[test]
fn write_same_fills_or_unmaps_and_never_changes_what_is_read() {
    let extent = Extent::new(Lba(8), 16).expect("blocks");
    let zeros = Bytes::from_static(&[0; 512]);
    let block = Bytes::from(pattern(1, 2));
    for opcode in [0x41, 0x93] {
        let mut bench = bench();
        bench.good(&media(opcode, 0, 8, 16), &block);
        bench.good(&media(opcode, 0, 8, 16), &zeros);
        bench.good(&media(opcode, 0x08, 8, 16), &block);
        bench.good(&media(opcode, 0x08, 8, 16), &zeros);
        let fill = |block: &Bytes| Command::Fill { extent, block: block.clone() };
        let unmap = Command::Unmap { extents: vec![extent] };
        assert_eq!(bench.asked, [fill(&block), fill(&zeros), fill(&block), unmap]);
    }
    let mut bench = bench();
    assert_eq!(bench.device.transfer(0, &media(0x93, 0x09, 8, 16)), Transfer::None);
    bench.good(&media(0x93, 0x09, 8, 16), &[]);
    bench.good(&media(0x93, 0x01, 8, 16), &[]);
    assert_eq!(
        bench.asked,
        [Command::Unmap { extents: vec![extent] }, Command::Fill { extent, block: zeros }]
    );
}

#[test]
fn write_same_keeps_its_limits() {
    let mut bench = bench();
    for opcode in [0x41, 0x93] {
        assert_eq!(bench.refused_unasked(&media(opcode, 0, 0, 0), &[0; 512]), INVALID_FIELD);
        assert_eq!(bench.refused_unasked(&media(opcode, 0, BLOCKS + 1, 0), &[0; 512]), OUT_OF_RANGE);
        assert_eq!(bench.refused_unasked(&media(opcode, 0x10, 0, 1), &[0; 512]), INVALID_FIELD);
        assert_eq!(bench.refused_unasked(&media(opcode, 0x18, 0, 1), &[0; 512]), INVALID_FIELD);
        assert_eq!(bench.refused_unasked(&media(opcode, 0, 0, 1), &[0; 256]), SHORT);
        assert_eq!(bench.refused_unasked(&media(opcode, 0, 0, 1), &[]), SHORT);
    }
    assert_eq!(bench.refused_unasked(&media(0x41, 0x01, 0, 1), &[]), INVALID_FIELD);
    assert_eq!(bench.refused_unasked(&media(0x93, 0, 0, (1 << 15) + 1), &[0; 512]), INVALID_FIELD);
}

#[test]
fn write_same_takes_no_announced_length_but_one_block() {
    let bench = bench();
    let cdb = media(0x41, 0x08, 0, 1);
    assert_eq!(bench.device.refuse_length(0, &cdb, 512), None);
    for announced in [0, 256, 1024] {
        let reply = bench.device.refuse_length(0, &cdb, announced).expect("a refusal");
        assert_eq!((reply.status, key(&reply)), (Status::CheckCondition, SHORT));
    }
    assert_eq!(bench.device.refuse_length(0, &media(0x93, 0x09, 0, 1), 0), None);
    assert_eq!(bench.device.refuse_length(0, &media(0x2a, 0, 0, 1), 1024), None);
}

fn unmap_list(descriptors: &[(u64, u32)]) -> Vec<u8> {
    let bytes = descriptors.len() as u16 * 16;
    let mut list = [(bytes + 6).to_be_bytes(), bytes.to_be_bytes(), [0; 2], [0; 2]].concat();
    for (lba, blocks) in descriptors {
        list.extend_from_slice(&lba.to_be_bytes());
        list.extend_from_slice(&blocks.to_be_bytes());
        list.extend_from_slice(&[0; 4]);
    }
    list
}

fn unmap(list: &[u8]) -> [u8; 10] {
    let [high, low] = (list.len() as u16).to_be_bytes();
    [0x42, 0, 0, 0, 0, 0, 0, high, low, 0]
}

#[test]
fn unmap_passes_on_every_descriptor_that_names_blocks() {
    let mut bench = bench();
    let list = unmap_list(&[(0, 8), (BLOCKS, 0), (u64::MAX, 0), (4, 8), (BLOCKS - 1, 1)]);
    assert_eq!(bench.device.transfer(0, &unmap(&list)), Transfer::Out(88));
    bench.good(&unmap(&list), &list);
    let extents = [(0, 8), (4, 8), (BLOCKS - 1, 1)];
    let extents = extents.map(|(lba, blocks)| Extent::new(Lba(lba), blocks).expect("blocks")).to_vec();
    assert_eq!(bench.asked, [Command::Unmap { extents }]);
}

#[test]
fn unmap_of_nothing_is_good() {
    let mut bench = bench();
    for list in [vec![], unmap_list(&[]), unmap_list(&[(BLOCKS, 0)])] {
        bench.good(&unmap(&list), &list);
    }
    assert!(bench.asked.is_empty());
}

#[test]
fn unmap_refuses_the_whole_list_for_one_bad_descriptor() {
    let mut bench = bench();
    let refused = |list: &[u8], bench: &mut Bench| bench.refused_unasked(&unmap(list), list);
    assert_eq!(refused(&unmap_list(&[(0, 8), (BLOCKS, 1)]), &mut bench), OUT_OF_RANGE);
    assert_eq!(refused(&unmap_list(&[(u64::MAX, 2)]), &mut bench), OUT_OF_RANGE);
    assert_eq!(refused(&unmap_list(&[(0, 1 << 20), (0, 1)]), &mut bench), OUT_OF_RANGE);
    assert_eq!(refused(&unmap_list(&[(0, 19_000); 56]), &mut bench), INVALID_LIST);
    assert_eq!(refused(&unmap_list(&[(0, 1); 257]), &mut bench), INVALID_LIST);
    assert_eq!(refused(&[0; 7], &mut bench), LIST_LENGTH);
    let list = unmap_list(&[(0, 1)]);
    assert_eq!(bench.refused_unasked(&unmap(&list), &list[..20]), LIST_LENGTH);
    bench.good(&unmap(&unmap_list(&[(0, 1); 256])), &unmap_list(&[(0, 1); 256]));
}

#[test]
fn an_incomplete_last_unmap_descriptor_is_ignored() {
    let mut bench = bench();
    let mut list = unmap_list(&[(0, 1), (BLOCKS, 1)]);
    list.truncate(8 + 16 + 15);
    bench.good(&unmap(&list), &list);
    assert_eq!(bench.asked.len(), 1);
}

#[test]
fn synchronize_cache_flushes_and_prefetch_does_not_ask() {
    let mut bench = bench();
    bench.good(&media(0x34, 0, 0, 100), &[]);
    bench.good(&media(0x90, 2, 0, 0), &[]);
    assert!(bench.asked.is_empty());
    bench.good(&media(0x35, 0, 0, 0), &[]);
    bench.good(&media(0x91, 2, 5, 5), &[]);
    assert_eq!(bench.asked, [Command::Flush, Command::Flush]);
}

#[test]
fn capacity_is_told_in_both_forms() {
    let mut bench = bench();
    assert_eq!(bench.good(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]), [0, 0, 0x4e, 0x1f, 0, 0, 2, 0]);
    let ask = |bytes| [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, bytes, 0, 0];
    let mut expected = vec![0, 0, 0, 0, 0, 0, 0x4e, 0x1f, 0, 0, 2, 0, 0, 3, 0xc0, 0];
    expected.resize(32, 0);
    for bytes in [0, 1, 15, 32, 255] {
        assert_eq!(bench.good(&ask(bytes), &[]), expected[..usize::from(bytes).min(32)]);
    }
    let mut device = Device::new(port(SiteId::A), port(SiteId::B), vec![unit(0, 1 << 40)]);
    let Step::Done(reply) = device.start(HOST, 0, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], Bytes::new()) else {
        panic!("the site need not be asked")
    };
    assert_eq!(reply.data_in.concat(), [255, 255, 255, 255, 0, 0, 2, 0]);
}

#[test]
fn replies_are_cut_to_the_allocation_length_and_their_length_fields_are_not() {
    let mut bench = bench();
    let groups = [
        [0, 0, 0, 24, 0x80, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1],
        [0, 1, 0, 2, 0, 0, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0],
    ]
    .concat();
    let ask = |bytes| [0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0, bytes, 0, 0];
    for bytes in 0..32 {
        assert_eq!(bench.good(&ask(bytes), &[]), groups[..usize::from(bytes).min(28)]);
    }
    let inquiry = bench.good(&[0x12, 0, 0, 2, 0, 0], &[]);
    for bytes in 0..=255 {
        assert_eq!(bench.good(&[0x12, 0, 0, 0, bytes, 0], &[]), inquiry[..usize::from(bytes).min(96)]);
    }
}

#[test]
fn port_groups_are_the_same_whichever_site_is_asked() {
    let mut a = Device::new(port(SiteId::A), port(SiteId::B), vec![unit(0, BLOCKS)]);
    let mut b = Device::new(port(SiteId::B), port(SiteId::A), vec![unit(0, BLOCKS)]);
    let cdb = [0xa3, 0x2a, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0];
    let ask = |device: &mut Device| match device.start(HOST, 0, &cdb, Bytes::new()) {
        Step::Done(reply) => reply.data_in.concat(),
        Step::Ask { .. } => panic!("the site need not be asked"),
    };
    assert_eq!(ask(&mut a), ask(&mut b));
    assert_eq!(ask(&mut a)[..8], [0, 0, 0, 28, 0x10, 0, 0, 0]);
}

#[test]
fn small_commands_answer_as_a_fixed_shared_disk_does() {
    let mut bench = bench();
    bench.good(&[0, 0, 0, 0, 0, 0], &[]);
    bench.good(&[0x1b, 0, 0, 0, 1, 0], &[]);
    bench.good(&[0x1b, 1, 0, 0, 0, 0], &[]);
    assert_eq!(bench.refused(&[0x1b, 0, 0, 0, 2, 0], &[]), INVALID_FIELD);
    assert_eq!(bench.refused(&[0x1b, 0, 0, 0, 0x30, 0], &[]), INVALID_FIELD);
    bench.good(&[0x1d, 4, 0, 0, 0, 0], &[]);
    assert_eq!(bench.refused(&[0x1d, 0, 0, 0, 0, 0], &[]), INVALID_FIELD);
    assert_eq!(bench.good(&[0x37, 0, 0x0d, 0, 0, 0, 0, 0, 32, 0], &[]), [0, 0x0d, 0, 0]);
    assert_eq!(bench.good(&[0xb7, 0x08, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0], &[]), [0, 8, 0, 0, 0, 0, 0, 0]);
    let no_sense = [0x70, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(bench.good(&[3, 0, 0, 0, 252, 0], &[]), no_sense);
    assert_eq!(bench.good(&[3, 1, 0, 0, 252, 0], &[]), [0x72, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bench.good(&[0xa3, 0x0d, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0], &[]), [0xda, 0, 0, 0]);
    assert_eq!(bench.good(&[0xa3, 0x0d, 0x80, 0, 0, 0, 0, 0, 0, 99, 0, 0], &[])[..4], [0xda, 0, 0, 12]);
}

#[test]
fn commands_of_later_issues_and_other_devices_are_not_there() {
    let mut bench = bench();
    for opcode in [0x1e, 0x83, 0x84, 0x8b, 0xa4, 0xc0, 0xff] {
        let mut cdb = [0; 16];
        cdb[0] = opcode;
        assert_eq!(bench.refused_unasked(&cdb, &[]), (5, 0x20, 0), "{opcode:x}");
        assert_eq!(bench.device.transfer(0, &cdb), Transfer::None);
    }
    let get_stream_status = [0x9e, 0x16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0];
    let reply = bench.run(&get_stream_status, &[]);
    assert_eq!((key(&reply), &reply.sense[15..]), (INVALID_FIELD, &[0xcc, 0, 1][..]));
}

#[test]
fn every_block_is_told_as_mapped() {
    let mut bench = bench();
    let mut cdb = [0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 24, 0, 0];
    let expected = [
        &[0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5][..],
        &((BLOCKS - 5) as u32).to_be_bytes(),
        &[0; 4],
    ];
    assert_eq!(bench.good(&cdb, &[]), expected.concat());
    cdb[2..10].copy_from_slice(&BLOCKS.to_be_bytes());
    assert_eq!(bench.refused(&cdb, &[]), (5, 0x21, 0));
}

#[test]
fn compare_and_write_compares_all_before_it_writes_any() {
    let mut bench = bench();
    let cdb = [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0];
    assert_eq!(bench.device.transfer(0, &cdb), Transfer::Out(2048));
    let data = [&[0; 1024][..], &[7; 1024]].concat();
    bench.good(&cdb, &data);
    assert_eq!(bench.good(&media(0x28, 0, 3, 2), &[]), [7; 1024]);
    let mut wrong = [&[7; 1024][..], &[9; 1024]].concat();
    wrong[700] = 0;
    let reply = bench.run(&cdb, &wrong);
    assert_eq!((key(&reply), &reply.sense[3..7]), ((0xe, 0x1d, 0), &700u32.to_be_bytes()[..]));
    assert_eq!(bench.good(&media(0x28, 0, 3, 2), &[]), [7; 1024]);
    let refusal = bench.device.refuse_length(0, &cdb, 1024).expect("half of the data");
    assert_eq!(key(&refusal), INVALID_FIELD);
    let none = [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0];
    bench.good(&none, &[]);
    assert!(bench.device.refuse_length(0, &none, 262_144).is_some());
}

#[test]
fn write_atomic_writes_all_or_nothing() {
    let mut bench = bench();
    let cdb = |flags: u8, lba: u64, boundary: u8, blocks: u16| {
        let mut cdb = [0x9c, flags, 0, 0, 0, 0, 0, 0, 0, 0, 0, boundary, 0, 0, 0, 0];
        cdb[2..10].copy_from_slice(&lba.to_be_bytes());
        cdb[12..14].copy_from_slice(&blocks.to_be_bytes());
        cdb
    };
    let data = pattern(3, 5);
    assert_eq!(bench.device.transfer(0, &cdb(0, 7, 0, 3)), Transfer::Out(1536));
    assert_eq!(bench.device.refuse_length(0, &cdb(0, 7, 0, 3), 1536), None);
    for announced in [0, 1024, 2048] {
        let refusal = bench.device.refuse_length(0, &cdb(0, 7, 0, 3), announced).expect("it is in part");
        assert_eq!(key(&refusal), SHORT);
    }
    assert_eq!(bench.refused_unasked(&cdb(0, 7, 0, 3), &data[..1024]), SHORT);
    bench.good(&cdb(0x18, 7, 0, 3), &data);
    let extent = Extent::new(Lba(7), 3).expect("three");
    assert_eq!(bench.asked, [Command::Write { extent, data: data.clone().into(), fua: true }]);
    assert_eq!(bench.good(&media(0x28, 0, 7, 3), &[]), data);
    bench.good(&cdb(0, BLOCKS, 0, 0), &[]);
    assert_eq!(bench.refused_unasked(&cdb(0, BLOCKS - 1, 0, 2), &data), OUT_OF_RANGE);
    assert_eq!(bench.refused_unasked(&cdb(0, BLOCKS + 1, 0, 0), &[]), OUT_OF_RANGE);
    assert_eq!(bench.refused_unasked(&cdb(0, 0, 0, 8193), &[]), INVALID_FIELD);
    assert_eq!(bench.refused_unasked(&cdb(0, 0, 8, 8), &data), INVALID_FIELD);
    assert_eq!(bench.refused_unasked(&cdb(0x20, 0, 0, 1), &data), INVALID_FIELD);
}

#[test]
fn a_preempted_host_is_told_and_what_was_away_hears_of_it_later() {
    let mut bench = bench();
    let out = |action: u8, kind: u8| [0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0];
    let keys = |key: u64, other: u64| [&key.to_be_bytes()[..], &other.to_be_bytes(), &[0; 8]].concat();
    assert_eq!(bench.run(&out(6, 0), &keys(0, 1)).status, Status::Good);
    assert_eq!(bench.run_as(OTHER, &out(6, 0), &keys(0, 2)).status, Status::Good);
    assert_eq!(bench.run_as(OTHER, &out(1, 5), &keys(2, 0)).status, Status::Good);
    bench.device.detach(OTHER);
    assert_eq!(bench.run(&out(4, 5), &keys(1, 2)).status, Status::Good);
    bench.good(&[0; 6], &[]);
    bench.device.attach(OTHER, "iqn.other".into());
    let codes: Vec<(u8, u8, u8)> = (0..2).map(|_| key(&bench.run_as(OTHER, &[0; 6], &[]))).collect();
    assert_eq!(codes, [(6, 0x29, 7), (6, 0x2a, 5)]);
    let write = bench.run_as(OTHER, &media(0x2a, 0, 0, 1), &[0; 512]);
    assert_eq!(write.status, Status::ReservationConflict);
}

#[test]
fn a_lun_without_a_unit_answers_only_what_sam_says() {
    let mut bench = bench();
    let absent = 5 << 48;
    let mut ask = |lun: u64, cdb: &[u8]| match bench.device.start(HOST, lun, cdb, Bytes::new()) {
        Step::Done(reply) => reply,
        Step::Ask { .. } => panic!("there is no site for this"),
    };
    for lun in [absent, 0x4005 << 48, 1, u64::MAX] {
        let inquiry = ask(lun, &[0x12, 0, 0, 0, 96, 0]).data_in.concat();
        assert_eq!((inquiry[0], inquiry.len()), (0x7f, 96));
        assert_eq!(ask(lun, &[0x12, 1, 0, 0, 96, 0]).data_in.concat(), [0x7f, 0, 0, 1, 0]);
        let luns = ask(lun, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0]).data_in.concat();
        assert_eq!(luns, [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(ask(lun, &[3, 0, 0, 0, 18, 0]).data_in.concat()[12..14], [0x25, 0]);
        for cdb in [&[0u8; 6][..], &media(0x28, 0, 0, 1), &[0xc0; 16]] {
            assert_eq!(key(&ask(lun, cdb)), (5, 0x25, 0));
        }
    }
    assert!(
        bench.device.has_unit(0) && bench.device.has_unit(0x4000 << 48) && !bench.device.has_unit(absent)
    );
    assert_eq!(bench.device.volume(absent), None);
    assert_eq!(bench.device.transfer(absent, &media(0x2a, 0, 0, 1)), Transfer::None);
}

#[test]
fn report_luns_lists_units_by_selection() {
    let units = vec![unit(3, 8), unit(0, 8)];
    let mut device = Device::new(port(SiteId::A), port(SiteId::B), units);
    let mut ask =
        |select| match device.start(HOST, 0, &[0xa0, 0, select, 0, 0, 0, 0, 0, 0, 255, 0, 0], Bytes::new()) {
            Step::Done(reply) => reply,
            Step::Ask { .. } => panic!("the site need not be asked"),
        };
    let mut expected = vec![0, 0, 0, 16];
    expected.resize(16, 0);
    expected.extend_from_slice(&[0, 3, 0, 0, 0, 0, 0, 0]);
    assert_eq!(ask(0).data_in.concat(), expected);
    assert_eq!(ask(2).data_in.concat(), expected);
    assert_eq!(ask(1).data_in.concat(), [0; 8]);
    assert_eq!(key(&ask(3)), INVALID_FIELD);
}

#[test]
fn a_reset_is_told_once_to_every_nexus_and_before_faults_of_the_cdb() {
    let mut bench = bench();
    bench.reset(Reset::Unit);
    bench.good(&[0x12, 0, 0, 0, 96, 0], &[]);
    bench.good(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0], &[]);
    assert_eq!(bench.refused_unasked(&[0xff; 16], &[]), (6, 0x29, 3));
    bench.good(&[0; 6], &[]);
    let Step::Done(reply) = bench.device.start(OTHER, 0, &[3, 0, 0, 0, 18, 0], Bytes::new()) else {
        panic!("the site need not be asked")
    };
    assert_eq!(reply.data_in.concat()[..14], [0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x29, 3]);
    bench.reset(Reset::TargetCold);
    assert_eq!(bench.refused(&[0; 6], &[]), (6, 0x29, 0));
    bench.carry_out(OTHER, &Command::Control { request: Request::Reset(Reset::TaskSet) });
    assert_eq!(bench.refused(&media(0x28, 0, 0, 1), &[]), (6, 0x2f, 0));
    bench.good(&media(0x28, 0, 0, 1), &[]);
}

#[test]
fn software_write_protection_refuses_writes_until_reset_and_tells_the_others() {
    let mut bench = bench();
    let mut select = vec![0, 0, 0, 0, 0x0a, 10, 0, 0x10, 8, 0, 0, 0, 0xff, 0xff, 0, 0];
    let cdb = [0x15, 0x10, 0, 0, 16, 0];
    assert_eq!(bench.device.transfer(0, &cdb), Transfer::Out(16));
    bench.good(&cdb, &select);
    assert_eq!(bench.good(&[0x1a, 0, 0x0a, 0, 255, 0], &[])[2], 0x90);
    let zeros = unmap_list(&[(0, 1)]);
    let refused = (7, 0x27, 2);
    for opcode in [0x0a, 0x2a, 0xaa, 0x8a, 0x2e, 0xae, 0x8e, 0x41, 0x93] {
        assert_eq!(bench.refused_unasked(&media(opcode, 0, 0, 1), &[0; 512]), refused);
    }
    assert_eq!(bench.refused_unasked(&unmap(&zeros), &zeros), refused);
    bench.good(&media(0x28, 0, 0, 1), &[]);
    bench.good(&media(0x35, 0, 0, 0), &[]);
    let Step::Done(reply) = bench.device.start(OTHER, 0, &[0; 6], Bytes::new()) else {
        panic!("no site needed")
    };
    assert_eq!(key(&reply), (6, 0x2a, 1));
    select[8] = 0;
    bench.good(&cdb, &select);
    bench.good(&media(0x2a, 0, 0, 1), &[0; 512]);
    select[8] = 8;
    bench.good(&cdb, &select);
    bench.reset(Reset::Unit);
    assert_eq!(bench.refused(&[0; 6], &[]), (6, 0x29, 3));
    bench.good(&media(0x2a, 0, 0, 1), &[0; 512]);
}

#[test]
fn d_sense_decides_the_format_of_sense_data() {
    let mut bench = bench();
    let select = [0, 0, 0, 0, 0x0a, 10, 4, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0];
    bench.good(&[0x15, 0x10, 0, 0, 16, 0], &select);
    let reply = bench.run(&media(0x28, 0, BLOCKS, 1), &[]);
    assert_eq!(reply.sense[..], [0x72, 5, 0x21, 0, 0, 0, 0, 0]);
}

#[test]
fn failures_of_the_site_have_one_status_each() {
    let lba = Lba(0x1234);
    for (failure, status, sense) in [
        (Failure::MediumRead { lba }, Status::CheckCondition, (3, 0x11, 0)),
        (Failure::MediumWrite { lba }, Status::CheckCondition, (3, 0x0c, 0)),
        (Failure::NotReady, Status::CheckCondition, (2, 0x04, 0x0a)),
        (Failure::Stopped, Status::CheckCondition, (4, 0x44, 0)),
        (Failure::NotSupported, Status::CheckCondition, (5, 0x20, 0)),
        (Failure::Busy, Status::Busy, (0, 0, 0)),
        (Failure::Conflict, Status::ReservationConflict, (0, 0, 0)),
    ] {
        let mut bench = bench();
        let step = bench.device.start(HOST, 0, &media(0x28, 0, 0, 1), Bytes::new());
        let Step::Ask { pending, .. } = step else { panic!("a read asks the site") };
        let Step::Done(reply) = bench.device.finish(pending, Completion::Failed(failure)) else {
            panic!("a failure ends the command")
        };
        assert_eq!(reply.status, status);
        if status == Status::CheckCondition {
            assert_eq!(key(&reply), sense);
        }
        if sense.0 == 3 {
            assert_eq!(reply.sense[..7], [0xf0, 0, 3, 0, 0, 0x12, 0x34]);
        }
    }
}

#[test]
fn an_answer_that_does_not_fit_the_order_never_reaches_the_host_as_data() {
    for completion in [Completion::Done, Completion::Data(vec![Bytes::from_static(&[0; 511])])] {
        let mut bench = bench();
        let Step::Ask { pending, .. } = bench.device.start(HOST, 0, &media(0x28, 0, 0, 1), Bytes::new())
        else {
            panic!("a read asks the site")
        };
        let Step::Done(reply) = bench.device.finish(pending, completion) else { panic!("the command ends") };
        assert_eq!((key(&reply), reply.data_in.len()), ((4, 0x44, 0), 0));
    }
}

/// What must hold for any CDB and any data: no panic, one end, transfer and start agree, orders lie on the
/// unit.
fn check_any(cdb: &[u8], data: &[u8]) {
    let mut bench = bench();
    let transfer = bench.device.transfer(0, cdb);
    let reply = bench.run(cdb, data);
    let returned: u64 = reply.data_in.iter().map(|part| part.len() as u64).sum();
    let asked = std::mem::take(&mut bench.asked);
    for command in &asked {
        let extents = match command {
            Command::Read { extent, .. } | Command::Fill { extent, .. } => vec![*extent],
            Command::Write { extent, data, .. } => {
                assert_eq!(extent.bytes(), data.len() as u64);
                vec![*extent]
            }
            Command::Unmap { extents } => extents.clone(),
            Command::CompareAndWrite { extent, compare, data } => {
                assert_eq!([compare.len(), data.len()].map(|len| len as u64), [extent.bytes(); 2]);
                vec![*extent]
            }
            Command::Control { request } => {
                assert!(request.within_limits(), "{request:?}");
                vec![]
            }
            Command::Flush | Command::Check { .. } | Command::Inspect { .. } | Command::Leave => vec![],
        };
        assert!(extents.iter().all(|extent| extent.end().0 <= BLOCKS && extent.blocks() <= 1 << 20));
    }
    match transfer {
        Transfer::In(bytes) => assert!(returned <= bytes),
        Transfer::None | Transfer::Out(_) => assert_eq!(returned, 0),
    }
    let taken = match transfer {
        Transfer::Out(bytes) => {
            assert!(bytes <= 8192 * BLOCK_BYTES, "{bytes}");
            data.len().min(bytes as usize)
        }
        Transfer::None | Transfer::In(_) => 0,
    };
    // Data that the CDB does not ask for makes no difference.
    let mut again = self::bench();
    assert_eq!(again.run(cdb, &data[..taken]), reply);
    assert_eq!(again.asked, asked);
    assert_eq!(reply.sense.is_empty(), reply.status != Status::CheckCondition);
    assert!(bench.device.transfer(u64::MAX, cdb) == Transfer::None || matches!(transfer, Transfer::In(_)));
    drop(bench.device.start(HOST, u64::MAX, cdb, Bytes::copy_from_slice(data)));
}

#[test]
fn every_opcode_and_service_action_ends_in_a_reply() {
    let data = pattern(2, 0);
    for opcode in 0..=255 {
        for action in 0..32 {
            let mut cdb = [0; 16];
            (cdb[0], cdb[1]) = (opcode, action);
            check_any(&cdb, &data);
        }
        let mut cdb = [0xff; 16];
        cdb[0] = opcode;
        check_any(&cdb, &data);
        check_any(&[opcode], &data);
    }
    check_any(&[], &[]);
}

#[test]
fn all_that_a_row_lets_through_at_once_ends_in_a_reply() {
    for row in opcodes::ROWS {
        check_any(&row.usage_data(), &pattern(2, 0));
    }
}

/// A CDB of a known command with few wrong bits: most reach the commands' own checks.
fn likely_cdb() -> impl Strategy<Value = Vec<u8>> {
    let noise = proptest::collection::vec(prop_oneof![Just(0u8), 0u8..4, any::<u8>()], 16);
    (0..opcodes::ROWS.len(), noise, any::<u16>()).prop_map(|(number, noise, keep)| {
        let mut cdb = opcodes::ROWS[number].usage_data();
        for (at, byte) in cdb.iter_mut().enumerate().skip(2) {
            *byte &= if keep >> at & 1 == 1 { noise[at] } else { 0 };
        }
        cdb[1] &= noise[1] | if opcodes::ROWS[number].service_action.is_some() { 0x1f } else { 0 };
        cdb
    })
}

fn any_data() -> impl Strategy<Value = Vec<u8>> {
    let noise = proptest::collection::vec(any::<u8>(), 0..600);
    let blocks = (0u64..5, any::<u8>()).prop_map(|(blocks, seed)| pattern(blocks, seed));
    let list = proptest::collection::vec((0..BLOCKS + 5, 0u32..9), 0..5).prop_map(|list| unmap_list(&list));
    prop_oneof![noise, blocks, list]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_bytes_end_in_a_reply(cdb in proptest::collection::vec(any::<u8>(), 0..20), data in any_data()) {
        check_any(&cdb, &data);
    }

    #[test]
    fn any_likely_cdb_ends_in_a_reply(cdb in likely_cdb(), data in any_data()) {
        check_any(&cdb, &data);
    }
}
