//! Damage is never skipped: a changed bit is an error that names segment and offset, or (in the last group, which a
//! crash could have left so) a torn tail; sectors of elsewhere or of earlier are never taken for current.

mod fault_disk;

use biplex_engine::{AppendSeq, Entry, SiteId, Stamp};
use biplex_format::journal::{GROUP_HEADER_BYTES, SUPERBLOCK_BYTES, Superblock, encode_superblock};
use biplex_store::{
    Checkpoint, Durable, ExplainOptions, JOURNAL_BYTES_MIN, Layout, StoreError, create_with, explain, recover,
};
use bytes::Bytes;
use fault_disk::{
    FaultDisk, PAIR, Random, SECTOR, SEGMENTS_START, STATES_START, as_group, entry, identity, small, write,
};
use std::collections::BTreeMap;

struct Built {
    image: Vec<u8>,
    entries: Vec<Entry>,
    /// Entries of the last group.
    last: usize,
    /// Where the last durable append wrote.
    last_range: std::ops::Range<usize>,
    /// All groups of the log, oldest first.
    live: Vec<Live>,
    /// All states that were saved, by their numbers.
    states: BTreeMap<u64, Bytes>,
}

/// A group of the log.
struct Live {
    /// Where its append wrote: the header page of the segment that it opened, if it did, and the group.
    range: std::ops::Range<usize>,
    /// Entries in it.
    entries: usize,
}

impl Live {
    /// Where its header lies.
    fn head(&self) -> usize {
        self.range.start + if self.opens() { 4096 } else { 0 }
    }

    /// Whether it opened its segment.
    fn opens(&self) -> bool {
        (self.range.start as u64 - SEGMENTS_START).is_multiple_of(small().segment_bytes)
    }

    /// Whether nothing in `image` tells any more that this group was ever begun: its own header is another one, and so
    /// is that of the segment that it opened.
    fn is_untold(&self, built: &Built, image: &[u8]) -> bool {
        let other = |range: std::ops::Range<usize>| built.image[range.clone()] != image[range];
        let head = self.head();
        other(head..head + GROUP_HEADER_BYTES) && (!self.opens() || other(self.range.start..head))
    }
}

/// A journal that has gone round more than once, with several live segments.
fn built(seed: u64) -> Built {
    built_in(seed, 90)
}

/// A journal that was in use for so many steps: the first lap takes about 30.
fn built_in(seed: u64, steps: u64) -> Built {
    let layout = small();
    let mut random = Random(seed);
    let mut disk = FaultDisk::new(layout.bytes());
    create_with(&mut disk, layout, &identity(), &mut |_, _| ()).expect("a journal");
    let (mut journal, _) = recover(&mut disk, None, &mut |_, _| ()).expect("an empty journal");
    let mut ranges = Vec::new();
    let mut groups: Vec<Vec<Entry>> = Vec::new();
    let mut pending: Vec<(AppendSeq, Entry)> = Vec::new();
    let mut destaged = Stamp::ZERO;
    let mut states = BTreeMap::new();
    for time in 1..=steps {
        let site = SiteId::from_ordinal((time % 2) as u8).expect("a site");
        for part in 0..1 + random.below(3) {
            let stamp = Stamp { time: time * 10 + part, site };
            let entry = entry(&mut random, stamp, time, 8);
            let Ok((seq, _)) = journal.append(&entry) else { break };
            pending.push((seq, entry));
        }
        if time % 9 == 0 && time + 10 < steps {
            destaged = Stamp { time: (time - 5) * 10, site: SiteId::B };
            journal.save_state(Bytes::from(vec![time as u8; 6000]));
            journal.set_checkpoint(Checkpoint { destaged, run: 1, ..Checkpoint::FIRST });
            journal.request_group();
        }
        while let Some(next) = journal.next_group() {
            let offset = next.offset as usize;
            write(&mut disk, &next);
            let upto = match journal.group_done() {
                Durable::Group { upto, .. } => upto,
                Durable::State { seq } => {
                    states.insert(seq, Bytes::from(vec![time as u8; 6000]));
                    continue;
                }
            };
            ranges.push(offset..offset + next.pages.as_bytes().len());
            let count = pending.iter().take_while(|(seq, _)| *seq <= upto).count();
            groups.push(pending.drain(..count).map(|(_, entry)| entry).collect());
        }
        journal.recycle(destaged);
    }
    let mut entries = Vec::new();
    recover(&mut disk, None, &mut |entry, _| entries.push(entry)).expect("sound");
    let last = groups.last().expect("groups were written").len();
    let last_range = ranges.last().expect("groups were written").clone();
    // Live are the newest groups, as many as hold the recovered entries.
    let mut count = 0;
    let mut live = Vec::new();
    for (group, range) in groups.iter().zip(&ranges).rev() {
        if count == entries.len() {
            break;
        }
        count += group.len();
        live.push(Live { range: range.clone(), entries: group.len() });
    }
    live.reverse();
    assert_eq!(count, entries.len(), "the log holds whole groups");
    Built { image: disk.medium, entries, last, last_range, live, states }
}

/// Recovers a changed image and judges the outcome: all entries, all but the last group's, or an error. Excused is the
/// loss of further groups of which nothing tells any more that they were ever begun ([`Live::is_untold`]): then the one
/// before them looks like the last one (docs/faults.md).
fn judge(built: &Built, image: Vec<u8>, what: &str) -> Result<Option<u64>, StoreError> {
    let mut found = Vec::new();
    let mut disk = FaultDisk::of(image.clone());
    let explained = explain(&mut disk, ExplainOptions { groups: true, records: true }, &mut |_| ());
    let outcome = recover(&mut disk, Some((SiteId::A, PAIR)), &mut |entry, _| found.push(entry));
    match (&outcome, &explained) {
        (Ok((_, recovered)), Ok(explained)) => {
            assert_eq!(explained.damage, None, "{what}");
            assert_eq!(explained.torn_at, recovered.torn_at, "{what}");
            assert_eq!(explained.entries, recovered.entries, "{what}");
        }
        (Err(error), Ok(explained)) => assert_eq!(explained.damage.as_ref(), Some(error), "{what}"),
        (Err(error), Err(explained)) => assert_eq!(error, explained, "{what}"),
        (Ok(_), Err(_)) => panic!("{what}: recovered but not explained"),
    }
    let (_, recovered) = outcome?;
    let all = &built.entries;
    // The tail that may be gone: groups from the end that nothing tells of, and the one before them.
    let mut tails = vec![all.len()];
    for group in built.live.iter().rev() {
        tails.push(tails[tails.len() - 1] - group.entries);
        if !group.is_untold(built, &image) {
            break;
        }
    }
    let sound = tails.contains(&found.len()) && found == all[..found.len()];
    assert!(sound, "{what}: {} of {} entries", found.len(), all.len());
    assert_eq!(recovered.state.as_ref(), built.states.get(&recovered.checkpoint.state), "{what}");
    Ok(recovered.torn_at)
}

#[test]
fn any_flipped_bit_of_a_live_group_is_an_error_or_a_torn_tail() {
    let built = built(11);
    assert!(built.live.len() > 8 && built.last > 0, "{} live groups", built.live.len());
    let mut random = Random(5);
    let (mut errors, mut torn) = (0, 0);
    for Live { range, .. } in &built.live {
        // Every byte of the headers, and a sample of the rest.
        let heads = (range.start..range.start + 256).chain(range.start + 4096 - 8..range.start + 4096);
        let sample = (0..16).map(|_| range.start + random.below(range.len() as u64) as usize);
        let places: Vec<usize> = heads.chain(sample.collect::<Vec<_>>()).collect();
        for at in places {
            let bit = 1 << random.below(8);
            let mut image = built.image.clone();
            image[at] ^= bit;
            let what = format!("bit {bit:#x} of byte {at}");
            match judge(&built, image, &what) {
                Ok(torn_at) => {
                    assert!(built.last_range.contains(&at), "{what} was overlooked");
                    let torn_at = torn_at.unwrap_or_else(|| panic!("{what} was overlooked"));
                    assert!(built.last_range.contains(&(torn_at as usize)), "{what}: torn at {torn_at}");
                    torn += 1;
                }
                Err(StoreError::Damaged { segment, offset, .. }) => {
                    assert!(!built.last_range.contains(&at), "{what} could be a torn tail");
                    let start = SEGMENTS_START as usize + segment as usize * small().segment_bytes as usize;
                    assert!((start..=at).contains(&(offset as usize)), "{what}: told at {offset}");
                    errors += 1;
                }
                Err(error) => panic!("{what}: {error}"),
            }
        }
    }
    assert!(errors > 500 && torn > 100, "{errors} errors, {torn} torn");
}

#[test]
fn one_damaged_superblock_is_told_and_two_are_refused() {
    let built = built(12);
    let mut image = built.image.clone();
    image[17] ^= 1;
    let (_, recovered) =
        recover(&mut FaultDisk::of(image.clone()), None, &mut |_, _| ()).expect("one is whole");
    assert!(recovered.superblock_fault.is_some());
    assert_eq!(recovered.identity, identity());
    image[SUPERBLOCK_BYTES + 30_000] ^= 1;
    let refused = recover(&mut FaultDisk::of(image), None, &mut |_, _| ());
    assert!(matches!(refused, Err(StoreError::NotAJournal { .. })));
}

#[test]
fn sectors_of_elsewhere_or_of_zeros_are_never_taken_for_current() {
    let mut errors = 0;
    for seed in 20..26 {
        // Of the first lap, too: segments that were never used are blank.
        let built = built_in(seed, if seed % 2 == 0 { 90 } else { 25 });
        let mut random = Random(seed);
        let sectors = built.image.len() / SECTOR;
        for _ in 0..150 {
            let mut image = built.image.clone();
            for _ in 0..1 + random.below(3) {
                let pages = random.chance(50);
                let bytes = if pages { 4096 } else { SECTOR };
                let first = 2 * SUPERBLOCK_BYTES / SECTOR;
                let place = |random: &mut Random| {
                    (first + random.below((sectors - first) as u64) as usize) * SECTOR / bytes * bytes
                };
                let (from, to) = (place(&mut random), place(&mut random));
                if random.chance(20) {
                    image[to..to + bytes].fill(0);
                } else {
                    image.copy_within(from..from + bytes, to);
                }
            }
            errors += u32::from(judge(&built, image, &format!("seed {seed}")).is_err());
        }
    }
    assert!(errors > 100, "{errors}");
}

/// The pages that tell where the log ends, lost in pairs and more: headers of segments and of the newest groups.
#[test]
fn whichever_headers_are_lost_what_the_others_tell_of_is_missed() {
    let (mut errors, mut silent) = (0, 0);
    for round in 0..8 {
        let mut random = Random(round + 1);
        let built = built_in(30 + round, 12 + random.below(90));
        let heads = (0..6).map(|index| SEGMENTS_START as usize + index * small().segment_bytes as usize);
        let newest = built.live.iter().rev().take(8).map(Live::head);
        let heads: Vec<usize> = heads.chain(newest).collect();
        let mut lose = |which: &[usize]| {
            let mut image = built.image.clone();
            for at in which {
                match random.below(3) {
                    0 => image[*at..at + 4096].fill(0),
                    1 => image[*at..at + SECTOR].fill(0),
                    _ => image.copy_within(STATES_START as usize..STATES_START as usize + 4096, *at),
                }
            }
            let outcome = judge(&built, image, &format!("round {round}, {which:?} of {heads:?}"));
            errors += u32::from(outcome.is_err());
            silent += u32::from(outcome.is_ok());
        };
        for (at, one) in heads.iter().enumerate() {
            for other in &heads[..=at] {
                lose(&[*one, *other]);
            }
        }
        let mut random = Random(round + 1000);
        for _ in 0..100 {
            let which: Vec<usize> = heads.iter().copied().filter(|_| random.chance(30)).collect();
            lose(&which);
        }
    }
    println!("{errors} errors, {silent} without a word");
    assert!(errors > 1000 && silent > 40, "{errors} errors, {silent} without a word");
}

#[test]
fn an_older_copy_of_a_segment_is_damage() {
    // A disk that lost a whole segment's writes of the last lap.
    let built = built(11);
    let layout = small();
    let mut older = FaultDisk::new(layout.bytes());
    create_with(&mut older, layout, &identity(), &mut |_, _| ()).expect("a journal");
    let mut errors = 0;
    for index in 0..layout.segments as usize {
        let start = SEGMENTS_START as usize + index * layout.segment_bytes as usize;
        let range = start..start + layout.segment_bytes as usize;
        let live = built.live.iter().any(|live| range.contains(&live.range.start));
        let newest = range.contains(&built.last_range.start);
        let mut image = built.image.clone();
        image[range.clone()].copy_from_slice(&older.medium[range]);
        let mut found = 0;
        match recover(&mut FaultDisk::of(image), None, &mut |_, _| found += 1) {
            Err(_) => errors += 1,
            Ok(_) => assert!(!live || newest, "segment {index} vanished without a word"),
        }
    }
    assert!(errors > 0);
}

#[test]
fn anything_at_all_is_refused_without_a_panic() {
    let mut random = Random(77);
    for _ in 0..60 {
        let mut image: Vec<u8> = (0..(128 << 10) + (48 << 10)).map(|_| random.next() as u8).collect();
        if random.chance(70) {
            let superblock = encode_superblock(&Superblock {
                site: SiteId::A,
                pair: PAIR,
                journal: 1,
                segment_bytes: [0, 1, 8192, 12288, u64::MAX][random.below(5) as usize],
                segments: [0, 4, 5, u32::MAX][random.below(4) as usize],
                state_pages: [8, 8, 8, 0, u32::MAX][random.below(5) as usize],
                volumes: Vec::new(),
            });
            image[..SUPERBLOCK_BYTES].copy_from_slice(&superblock);
        }
        image.truncate(random.below(image.len() as u64 * 2) as usize);
        let opened = recover(&mut FaultDisk::of(image.clone()), None, &mut |_, _| panic!("no entry"));
        assert!(opened.is_err() || opened.is_ok_and(|(mut journal, _)| journal.next_group().is_none()));
        match explain(&mut FaultDisk::of(image), ExplainOptions::default(), &mut |_| ()) {
            Ok(_) | Err(_) => {}
        }
    }
}

#[test]
fn another_sites_or_pairs_journal_is_refused() {
    let layout = small();
    let mut disk = FaultDisk::new(layout.bytes());
    create_with(&mut disk, layout, &identity(), &mut |_, _| ()).expect("a journal");
    for expect in [(SiteId::B, PAIR), (SiteId::A, 1)] {
        let refused = recover(&mut disk, Some(expect), &mut |_, _| ());
        assert!(matches!(refused, Err(StoreError::Foreign { .. })));
    }
    let mut cut = FaultDisk::of(disk.medium[..disk.medium.len() - 1].to_vec());
    assert!(matches!(recover(&mut cut, None, &mut |_, _| ()), Err(StoreError::Truncated { .. })));
}

#[test]
fn layouts_hold_the_largest_record_and_leave_nothing_over() {
    assert!(matches!(Layout::for_bytes(32 << 20), Err(StoreError::TooSmall { .. })));
    let least = Layout::for_bytes(JOURNAL_BYTES_MIN).expect("large enough");
    assert_eq!((least.segments, least.segment_bytes, least.bytes()), (4, 8 << 20, JOURNAL_BYTES_MIN));
    for (bytes, segments, usable) in
        [(64u64 << 20, 7, 23u64 << 20), (256 << 20, 15, 160 << 20), (1 << 30, 15, 800 << 20)]
    {
        let layout = Layout::for_bytes(bytes).expect("large enough");
        assert_eq!((layout.segments, layout.state_slot_bytes), (segments, 1 << 20));
        assert!(
            layout.segment_bytes >= 8 << 20 && layout.usable_bytes() > usable,
            "{}",
            layout.usable_bytes()
        );
        assert!(layout.bytes() <= bytes && layout.bytes() + u64::from(segments) * 4096 > bytes);
    }
}

/// A journal with a group, two checkpoints alone, and on request one more group; with the place of the last of them.
fn with_slots(group_last: bool) -> (Vec<u8>, Checkpoint, u64) {
    let mut disk = FaultDisk::new(small().bytes());
    create_with(&mut disk, small(), &identity(), &mut |_, _| ()).expect("a journal");
    let (mut journal, _) = recover(&mut disk, None, &mut |_, _| ()).expect("an empty journal");
    let mut newest = (Checkpoint::FIRST, 0);
    for round in 0..3 + u64::from(group_last) {
        if round % 3 == 0 {
            let stamp = Stamp { time: 10 + round, site: SiteId::A };
            journal.append(&entry(&mut Random(round + 1), stamp, round, 4)).expect("room");
        }
        journal.set_checkpoint(Checkpoint { clock_ceiling: 100 + round, run: 1, ..Checkpoint::FIRST });
        journal.request_group();
        let next = journal.next_group().expect("asked for");
        write(&mut disk, &next);
        journal.group_done();
        newest = (as_group(&next).expect("no state was saved").1, next.offset);
    }
    (disk.medium, newest.0, newest.1)
}

/// What recovery says of an image, as far as these tests ask: the clock ceiling.
fn ceiling(image: &[u8]) -> Result<u64, StoreError> {
    let mut disk = FaultDisk::of(image.to_vec());
    let explained =
        explain(&mut disk, ExplainOptions::default(), &mut |_| ()).expect("superblocks are whole");
    let opened = recover(&mut disk, None, &mut |_, _| ()).map(|(_, recovered)| recovered.checkpoint);
    assert_eq!(explained.damage.as_ref(), opened.as_ref().err());
    opened.map(|checkpoint| checkpoint.clock_ceiling)
}

#[test]
fn one_unreadable_slot_is_a_torn_write_and_two_are_damage() {
    let (odd, even) = (2 * SUPERBLOCK_BYTES + 4096, 2 * SUPERBLOCK_BYTES);
    let flipped = |image: &[u8], places: &[usize]| {
        let mut image = image.to_vec();
        for place in places {
            image[*place + 40] ^= 1;
        }
        ceiling(&image)
    };
    // Group 1, slot writes 1 (odd) and 2 (even).
    let (image, newest, place) = with_slots(false);
    assert_eq!((newest.clock_ceiling, place), (102, even as u64));
    assert_eq!(flipped(&image, &[]), Ok(102));
    assert_eq!(flipped(&image, &[odd]), Ok(102));
    assert_eq!(flipped(&image, &[even]), Ok(101), "as if torn");
    let lost = |newest| Err(StoreError::SlotsLost { offset: even as u64, newest });
    assert_eq!(flipped(&image, &[odd, even]), lost(1));
    // Group 2 after them knows of slot write 2, and is newer.
    let (image, newest, group) = with_slots(true);
    assert_eq!(newest.clock_ceiling, 103);
    for places in [&[][..], &[odd], &[even]] {
        assert_eq!(flipped(&image, places), Ok(103));
    }
    assert_eq!(flipped(&image, &[odd, even]), lost(2));
    let mut blank = image.clone();
    blank[even..even + 8192].fill(0);
    assert_eq!(ceiling(&blank), lost(2), "a group knows that there were slot writes");
    // Without group 2 the slot is the newest again; with a torn one too.
    assert_eq!(flipped(&image, &[group as usize]), Ok(102));
}

#[test]
fn a_group_that_a_slot_knows_of_may_not_be_missing() {
    let (image, _, _) = with_slots(false);
    for blank in [false, true] {
        let mut image = image.clone();
        let group = SEGMENTS_START as usize + 4096;
        if blank {
            image[group..group + 4096].fill(0);
        } else {
            image[group + 200] ^= 1;
        }
        let refused = ceiling(&image);
        assert!(
            matches!(&refused, Err(StoreError::Damaged { segment: 0, offset, .. }) if *offset == group as u64),
            "{refused:?}"
        );
    }
}

#[test]
fn explain_says_it_in_lines() {
    let built = built(11);
    let mut lines = Vec::new();
    let options = ExplainOptions { groups: true, records: true };
    let explained =
        explain(&mut FaultDisk::of(built.image), options, &mut |line| lines.push(line)).expect("sound");
    assert_eq!(explained.entries, built.entries.len() as u64);
    for start in [
        "journal ",
        "size ",
        "volume ",
        "log ",
        "stamps ",
        "checkpoint ",
        "tail ",
        "state      sound",
        "slot  ",
        "saved      0 ",
        "saved      1 ",
    ] {
        assert!(lines.iter().any(|line| line.starts_with(start)), "no line starts with {start:?}");
    }
    let records = lines.iter().filter(|line| line.starts_with("record ")).count();
    assert_eq!(records, built.entries.len());
    assert_eq!(lines.iter().filter(|line| line.starts_with("segment ")).count(), 6);
}

#[test]
fn numbers_of_appends_start_at_one_in_each_run() {
    let built = built(11);
    let (mut journal, _) = recover(&mut FaultDisk::of(built.image), None, &mut |_, _| ()).expect("sound");
    let entry = entry(&mut Random(1), Stamp { time: 5000, site: SiteId::A }, 1, 1);
    assert_eq!(journal.append(&entry).map(|(seq, _)| seq), Ok(AppendSeq(1)));
}
