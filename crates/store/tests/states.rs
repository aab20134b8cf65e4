//! A state that was saved comes back with the checkpoint that it was saved for, whatever is torn in between; the one in
//! force is never written over, and never lost without a word.

mod fault_disk;

use biplex_engine::{SiteId, Stamp};
use biplex_store::{
    Checkpoint, Disk, Durable, ExplainOptions, Group, Journal, Recovered, StoreError, create_with, explain,
    recover,
};
use bytes::Bytes;
use fault_disk::{
    FaultDisk, Random, STATE_SLOT_BYTES, STATES_START, as_group, entry, identity, small, write,
};

const SLOT_0: u64 = STATES_START;
const SLOT_1: u64 = STATES_START + STATE_SLOT_BYTES;
const HEADER: usize = 40;

fn made() -> (FaultDisk, Journal) {
    let mut disk = FaultDisk::new(small().bytes());
    create_with(&mut disk, small(), &identity(), &mut |_, _| ()).expect("a journal");
    let (journal, recovered) = recover(&mut disk, None, &mut |_, _| ()).expect("an empty journal");
    assert_eq!((recovered.state, recovered.checkpoint.state), (None, 0));
    (disk, journal)
}

/// The state of a cut: a page and a bit.
fn state_of(cut: u64) -> Bytes {
    Bytes::from([&[cut as u8; 5000][..], &cut.to_le_bytes()].concat())
}

fn cut_of(state: &Bytes) -> u64 {
    u64::from_le_bytes(state[state.len() - 8..].try_into().expect("eight bytes"))
}

/// Sets and asks for the checkpoint that says this cut.
fn checkpoint(journal: &mut Journal, cut: u64) {
    let destaged = Stamp { time: cut, site: SiteId::A };
    journal.set_checkpoint(Checkpoint { destaged, ..Checkpoint::FIRST });
    journal.request_group();
}

/// Writes the next one, whatever it is.
fn step(disk: &mut FaultDisk, journal: &mut Journal) -> Group {
    let next = journal.next_group().expect("there is something to write");
    write(disk, &next);
    assert_eq!(journal.group_done(), next.durable);
    next
}

/// Writes a state; says its number and where it went.
fn saved(disk: &mut FaultDisk, journal: &mut Journal, cut: u64) -> (u64, u64) {
    journal.save_state(state_of(cut));
    let group = step(disk, journal);
    match group.durable {
        Durable::State { seq } => (seq, group.offset),
        Durable::Group { .. } => panic!("a state goes first"),
    }
}

fn reopened(disk: &FaultDisk) -> Result<(Journal, Recovered), StoreError> {
    let mut disk = FaultDisk::of(disk.medium.clone());
    let before = disk.seen.clone();
    let explained =
        explain(&mut disk, ExplainOptions::default(), &mut |_| ()).expect("superblocks are whole");
    let opened = recover(&mut disk, None, &mut |_, _| ());
    assert_eq!(explained.damage.as_ref(), opened.as_ref().err());
    assert!(disk.seen == before, "nothing was torn, yet recovery wrote");
    opened
}

/// Cut of the recovered state, which is that of the recovered checkpoint.
fn recovered_cut(disk: &FaultDisk) -> Option<u64> {
    let (_, recovered) = reopened(disk).expect("sound");
    let cut = recovered.state.as_ref().map(cut_of);
    assert_eq!(cut.unwrap_or(0), recovered.checkpoint.destaged.time);
    assert_eq!(recovered.state, cut.map(state_of));
    cut
}

#[test]
fn a_state_goes_before_all_else_and_is_in_force_with_the_next_checkpoint() {
    let (mut disk, mut journal) = made();
    let stamp = Stamp { time: 20, site: SiteId::A };
    journal.append(&entry(&mut Random(1), stamp, 1, 4)).expect("room");
    journal.save_state(state_of(9));
    journal.save_state(state_of(10));
    checkpoint(&mut journal, 10);
    let first = journal.next_group().expect("a state");
    assert_eq!((first.durable, first.offset), (Durable::State { seq: 1 }, SLOT_0));
    assert_eq!(first.pages.as_bytes().len(), 8192);
    assert_eq!(journal.next_group(), None, "one at a time");
    write(&mut disk, &first);
    assert_eq!(journal.group_done(), Durable::State { seq: 1 });
    assert_eq!(recovered_cut(&disk), None, "no checkpoint names it yet");
    let second = step(&mut disk, &mut journal);
    let (upto, named) = as_group(&second).expect("the group");
    assert_eq!((upto.0, named.state, named.destaged.time), (1, 1, 10));
    assert_eq!(recovered_cut(&disk), Some(10));
    assert_eq!(journal.next_group(), None, "the replaced state is not written, and the checkpoint has gone");
    let used = journal.used_bytes();
    // A checkpoint alone names it, too.
    saved(&mut disk, &mut journal, 11);
    checkpoint(&mut journal, 11);
    assert_eq!(as_group(&step(&mut disk, &mut journal)).map(|(_, named)| named.state), Some(2));
    assert_eq!(recovered_cut(&disk), Some(11));
    assert_eq!(journal.used_bytes(), used, "only entries take room in the ring");
}

#[test]
fn only_the_slot_that_no_durable_checkpoint_names_is_written() {
    let (mut disk, mut journal) = made();
    // Nothing is named yet.
    assert_eq!(saved(&mut disk, &mut journal, 1), (1, SLOT_0));
    assert_eq!(saved(&mut disk, &mut journal, 2), (2, SLOT_0));
    checkpoint(&mut journal, 2);
    step(&mut disk, &mut journal);
    // 2 is in force in slot 0: it stays until a checkpoint names another one.
    for round in 3..8 {
        assert_eq!(saved(&mut disk, &mut journal, round), (round, SLOT_1));
        assert_eq!(recovered_cut(&disk), Some(2));
    }
    // A restart goes back to 2, and 7 was never in force.
    let (again, _) = reopened(&disk).expect("sound");
    let mut journal = again;
    journal.request_group();
    assert_eq!(as_group(&step(&mut disk, &mut journal)).map(|(_, named)| named.state), Some(2));
    assert_eq!(recovered_cut(&disk), Some(2));
    assert_eq!(saved(&mut disk, &mut journal, 8), (8, SLOT_1));
    checkpoint(&mut journal, 8);
    // As long as the checkpoint of 8 is under way, 2 stays; what is saved meanwhile comes after it.
    let under_way = journal.next_group().expect("a checkpoint");
    journal.save_state(state_of(9));
    assert_eq!(recovered_cut(&disk), Some(2));
    write(&mut disk, &under_way);
    journal.group_done();
    let next = step(&mut disk, &mut journal);
    assert_eq!((next.durable, next.offset), (Durable::State { seq: 9 }, SLOT_0));
    assert_eq!(recovered_cut(&disk), Some(8));
}

/// Plays the same tale over and over, each time to another write that a crash interrupts.
#[test]
fn after_a_crash_at_any_write_the_state_is_that_of_the_checkpoint() {
    let (mut crashes, mut old, mut new) = (0, 0, 0);
    for stop in 0.. {
        let mut reached = true;
        for fault in 0..12u64 {
            let (mut disk, mut journal) = made();
            let mut durable = 0;
            let Some(under_way) = play(&mut disk, &mut journal, stop, &mut durable) else {
                reached = false;
                break;
            };
            disk.write_at(under_way.offset, under_way.pages.as_bytes()).expect("in memory");
            match fault {
                0 => disk.kill(),
                seed => disk.crash(&mut Random((stop << 8 | seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)),
            }
            crashes += 1;
            let what = format!("write {stop}, fault {fault}");
            let (mut journal, recovered) =
                recover(&mut disk, None, &mut |_, _| ()).unwrap_or_else(|error| panic!("{what}: {error}"));
            let cut = recovered.checkpoint.destaged.time;
            assert_eq!(recovered.state, (cut > 0).then(|| state_of(cut)), "{what}");
            let candidate = as_group(&under_way).map(|(_, checkpoint)| checkpoint.destaged.time);
            assert!(cut == durable || Some(cut) == candidate, "{what}: cut {cut}, {durable} was durable");
            old += u64::from(Some(cut) != candidate);
            new += u64::from(Some(cut) == candidate && cut != durable);
            // Again the same, and from here it goes on as ever.
            let again = recover(&mut disk, None, &mut |_, _| ()).expect("sound").1;
            assert_eq!((again.checkpoint, again.state), (recovered.checkpoint, recovered.state), "{what}");
            let next = 1000 + stop;
            let (_, at) = saved(&mut disk, &mut journal, next);
            assert!((SLOT_0..=SLOT_1).contains(&at));
            let was = (cut > 0).then_some(cut);
            assert_eq!(recovered_cut(&disk), was, "{what}: not named yet");
            checkpoint(&mut journal, next);
            step(&mut disk, &mut journal);
            assert_eq!(recovered_cut(&disk), Some(next), "{what}");
        }
        if !reached {
            break;
        }
    }
    assert!(crashes > 400 && old > 200 && new > 20, "{crashes} crashes, {old} old, {new} new");
}

/// Saves, checkpoints and entries in all orders; stops before the write numbered `stop` is durable. `durable` is the
/// cut of the newest durable checkpoint.
fn play(disk: &mut FaultDisk, journal: &mut Journal, stop: u64, durable: &mut u64) -> Option<Group> {
    let mut random = Random(3);
    let mut writes = 0;
    for round in 1..=16u64 {
        let mut orders = Vec::new();
        // Saved once, or again before its checkpoint, or again while it is under way; entries or none.
        journal.save_state(state_of(round * 10));
        if round % 3 == 0 {
            orders.push(round * 10 + 1);
        }
        if round % 4 == 0 {
            orders.push(round * 10 + 2);
        }
        if round % 2 == 0 {
            let stamp = Stamp { time: round * 10 + 9, site: SiteId::A };
            journal.append(&entry(&mut random, stamp, round, 8)).expect("room");
        }
        let mut cut = round * 10;
        checkpoint(journal, cut);
        while let Some(next) = journal.next_group() {
            if writes == stop {
                return Some(next);
            }
            writes += 1;
            if let Some(later) = orders.pop() {
                cut = later;
                journal.save_state(state_of(cut));
                checkpoint(journal, cut);
            }
            write(disk, &next);
            if let Durable::Group { checkpoint, .. } = journal.group_done() {
                *durable = checkpoint.destaged.time;
            }
        }
        assert_eq!(*durable, cut, "all is written");
    }
    None
}

/// State 1 in slot 0, not in force any more; state 2 in slot 1, in force.
fn with_two() -> FaultDisk {
    let (mut disk, mut journal) = made();
    for cut in 1..=2 {
        saved(&mut disk, &mut journal, cut);
        checkpoint(&mut journal, cut);
        step(&mut disk, &mut journal);
    }
    assert_eq!(recovered_cut(&disk), Some(2));
    disk
}

#[test]
fn any_flipped_bit_of_the_state_in_force_is_damage_and_elsewhere_none() {
    let disk = with_two();
    let mut random = Random(5);
    let written = 2 * 4096;
    for at in (0..HEADER + 64).chain(4000..4200).chain(5000..5100).chain(written - 8..written) {
        let mut image = disk.clone();
        image.medium[SLOT_1 as usize + at] ^= 1 << random.below(8);
        let refused = reopened(&image).map(|(_, recovered)| recovered.checkpoint);
        assert!(
            matches!(refused, Err(StoreError::StateDamaged { offset: SLOT_1, state: 2, .. })),
            "byte {at}: {refused:?}"
        );
        let told = refused.expect_err("it is").to_string();
        assert!(told.contains(&format!("offset {SLOT_1}")) && told.contains("state 2"), "{told}");
        // In the other slot, and behind what was written, it is harmless.
        let mut image = disk.clone();
        image.medium[SLOT_0 as usize + at] ^= 1 << random.below(8);
        image.medium[SLOT_1 as usize + written + at] ^= 1 << random.below(8);
        assert_eq!(recovered_cut(&image), Some(2), "byte {at}");
    }
}

#[test]
fn a_state_in_force_that_is_blank_old_or_elsewhere_is_damage() {
    let disk = with_two();
    let (first, second, bytes) = (SLOT_0 as usize, SLOT_1 as usize, STATE_SLOT_BYTES as usize);
    let judge = |change: &dyn Fn(&mut Vec<u8>), words: &str| {
        let mut image = disk.clone();
        change(&mut image.medium);
        match reopened(&image) {
            Err(StoreError::StateDamaged { offset: SLOT_1, state: 2, what }) => {
                assert!(what.to_string().contains(words), "{what}");
            }
            other => panic!("{words}: {other:?}"),
        }
    };
    judge(&|image| image[second..second + bytes].fill(0), "blank");
    judge(&|image| image.copy_within(first..first + bytes, second), "page");
    judge(&|image| image[second..second + 4].fill(0xff), "starts with");
    // Both: the one that says that it was it.
    let both = |image: &mut Vec<u8>| {
        image[first] ^= 1;
        image[second + 5000] ^= 1;
    };
    judge(&both, "content");
    // Its slot lost the write of state 4, which the checkpoint names.
    let (mut disk, mut journal) = (disk.clone(), reopened(&disk).expect("sound").0);
    let older = disk.medium[second..second + bytes].to_vec();
    for cut in 3..=4 {
        saved(&mut disk, &mut journal, cut);
        checkpoint(&mut journal, cut);
        step(&mut disk, &mut journal);
    }
    disk.medium[second..second + bytes].copy_from_slice(&older);
    match reopened(&disk) {
        Err(StoreError::StateDamaged { offset: SLOT_1, state: 4, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn numbers_go_on_beyond_all_that_were_seen() {
    let (mut disk, mut journal) = made();
    for cut in 1..=3 {
        saved(&mut disk, &mut journal, cut);
    }
    let (mut journal, recovered) = reopened(&disk).expect("sound");
    assert_eq!(recovered.state, None);
    assert_eq!(saved(&mut disk, &mut journal, 4), (4, SLOT_0));
    // Its payload is torn, its header is not: seen, too.
    disk.medium[SLOT_0 as usize + 5000] ^= 1;
    let (mut journal, _) = reopened(&disk).expect("not in force");
    assert_eq!(saved(&mut disk, &mut journal, 5), (5, SLOT_0));
}

#[test]
fn a_state_may_be_empty_or_fill_its_slot() {
    let (mut disk, mut journal) = made();
    let most = journal.state_bytes_max();
    assert_eq!(most, STATE_SLOT_BYTES as usize - HEADER);
    for bytes in [0, most, 4096 - HEADER, 4097 - HEADER] {
        let state = Bytes::from(vec![0x42; bytes]);
        journal.save_state(state.clone());
        let group = step(&mut disk, &mut journal);
        assert_eq!(group.pages.as_bytes().len(), (bytes + HEADER).next_multiple_of(4096));
        journal.request_group();
        step(&mut disk, &mut journal);
        assert_eq!(reopened(&disk).expect("sound").1.state, Some(state));
    }
    let refused = std::panic::catch_unwind(move || journal.save_state(Bytes::from(vec![0; most + 1])));
    assert!(refused.is_err());
}

#[test]
fn explain_tells_both_state_slots() {
    let lines = |disk: &FaultDisk| {
        let mut lines = Vec::new();
        let mut disk = FaultDisk::of(disk.medium.clone());
        explain(&mut disk, ExplainOptions::default(), &mut |line| lines.push(line)).expect("superblocks");
        lines.retain(|line| line.starts_with("saved"));
        lines
    };
    let of = |words: [&str; 2]| {
        vec![
            format!("saved      0 at {SLOT_0}: {}", words[0]),
            format!("saved      1 at {SLOT_1}: {}", words[1]),
        ]
    };
    assert_eq!(lines(&made().0), of(["never written", "never written"]));
    let mut disk = with_two();
    let sound = of(["number 1, 5008 bytes, not in force", "number 2, 5008 bytes, in force"]);
    assert_eq!(lines(&disk), sound);
    disk.medium[SLOT_0 as usize] ^= 1;
    disk.medium[SLOT_1 as usize + 5000] ^= 1;
    let [first, second] = <[String; 2]>::try_from(lines(&disk)).expect("two slots");
    assert!(first.contains("0 at") && first.contains(": torn or damaged: "), "{first}");
    assert!(second.contains("number 2, in force, torn or damaged: the state's content"), "{second}");
}
