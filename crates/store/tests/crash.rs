//! Whatever is appended, grouped, recycled and crashed, in whatever order: recovery gives the durable prefix, with
//! the group that was under way wholly or not at all, and never a stale entry; and with the checkpoint comes the state
//! that was saved for it.

mod fault_disk;

use biplex_engine::{AppendSeq, Body, Entry, Extent, JournalPos, Lba, SiteId, Stamp};
use biplex_format::body_crc;
use biplex_store::{Checkpoint, Disk, Durable, Group, Journal, Layout, create_with, recover};
use bytes::Bytes;
use fault_disk::{
    FaultDisk, PAIR, Random, SEGMENTS_START, STATES_START, as_group, entry, identity, small, write,
};
use std::collections::{BTreeMap, VecDeque};

/// A journal's user, with the memory of an elephant.
struct World {
    random: Random,
    disk: FaultDisk,
    journal: Journal,
    /// Durable entries that recovery may still give, oldest first.
    durable: VecDeque<(Entry, JournalPos)>,
    /// Appended, not durable.
    pending: VecDeque<(AppendSeq, Entry, JournalPos)>,
    under_way: Option<Group>,
    /// States handed out, by their numbers, with the place of each.
    states: BTreeMap<u64, (Bytes, u64)>,
    /// The state that was saved last.
    saving: Bytes,
    states_interrupted: u64,
    checkpoint_durable: Checkpoint,
    clock: u64,
    pins: Vec<(JournalPos, Entry)>,
    crashes: u64,
    torn: u64,
    /// Slot writes that crashes interrupted, and how many of those were lost.
    slots_interrupted: u64,
    slots_lost: u64,
    full: u64,
    laps: u64,
    /// All entries of one size and the same bytes: then stale records fit where torn ones are missing.
    uniform: bool,
    /// Cuts stand still, as when the line is down: the ring fills.
    still: bool,
}

impl World {
    fn new(seed: u64) -> World {
        let layout = small();
        let mut disk = FaultDisk::new(layout.bytes());
        create_with(&mut disk, layout, &identity(), &mut |_, _| ()).expect("a journal");
        let (journal, recovered) =
            recover(&mut disk, None, &mut |_, _| panic!("empty")).expect("an empty journal");
        assert_eq!(recovered.checkpoint, Checkpoint::FIRST);
        World {
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            disk,
            journal,
            durable: VecDeque::new(),
            pending: VecDeque::new(),
            under_way: None,
            states: BTreeMap::new(),
            saving: Bytes::new(),
            states_interrupted: 0,
            checkpoint_durable: Checkpoint::FIRST,
            clock: 0,
            pins: Vec::new(),
            crashes: 0,
            torn: 0,
            slots_interrupted: 0,
            slots_lost: 0,
            full: 0,
            laps: 0,
            uniform: seed.is_multiple_of(3),
            still: seed.is_multiple_of(4),
        }
    }

    fn append(&mut self) {
        self.clock += 1;
        let site = if self.random.chance(50) { SiteId::A } else { SiteId::B };
        let mut entry = entry(&mut self.random, Stamp { time: self.clock, site }, self.clock, 20);
        if self.uniform {
            entry.extent = Extent::new(Lba(0), 8).expect("not empty");
            entry.body = Body::Data(Bytes::from(vec![0; 4096]));
            entry.body_crc = body_crc(&entry.body);
        }
        match self.journal.append(&entry) {
            Ok((seq, pos)) => self.pending.push_back((seq, entry, pos)),
            Err(_) => {
                self.full += 1;
                if self.random.chance(30) {
                    self.make_room(&entry);
                }
            }
        }
    }

    /// A full journal must come free again by destaging alone.
    fn make_room(&mut self, entry: &Entry) {
        while let Some((pos, entry)) = self.pins.pop() {
            self.check_body(pos, &entry);
            self.journal.unpin(pos);
        }
        while self.under_way.is_some() || self.journal.next_group().is_some_and(|g| self.start(g)) {
            self.finish();
        }
        self.destage(100);
        self.write_all();
        self.journal.recycle(self.checkpoint_durable.destaged);
        let (seq, pos) = self.journal.append(entry).expect("everything was destaged");
        self.pending.push_back((seq, entry.clone(), pos));
    }

    fn start(&mut self, group: Group) -> bool {
        if let Durable::State { seq } = group.durable {
            let in_force = self.states.get(&self.checkpoint_durable.state);
            assert!(in_force.is_none_or(|(_, at)| *at != group.offset), "written over the state in force");
            self.states.insert(seq, (self.saving.clone(), group.offset));
        }
        self.disk.write_at(group.offset, group.pages.as_bytes()).expect("in memory");
        assert!(self.journal.next_group().is_none(), "one at a time");
        self.under_way = Some(group);
        true
    }

    fn write(&mut self) {
        if self.under_way.is_none()
            && let Some(group) = self.journal.next_group()
        {
            self.start(group);
        }
    }

    /// Writes whatever there is to write.
    fn write_all(&mut self) {
        self.finish();
        self.write();
        while self.under_way.is_some() {
            self.finish();
            self.write();
        }
    }

    fn finish(&mut self) {
        let Some(group) = self.under_way.take() else { return };
        self.disk.sync().expect("in memory");
        assert_eq!(self.journal.group_done(), group.durable);
        let Some((upto, checkpoint)) = as_group(&group) else { return };
        self.checkpoint_durable = checkpoint;
        while self.pending.front().is_some_and(|(seq, _, _)| *seq <= upto) {
            let (_, entry, pos) = self.pending.pop_front().expect("it was there");
            self.durable.push_back((entry, pos));
        }
    }

    /// A checkpoint whose cut covers some percent of the durable entries.
    fn destage(&mut self, percent: usize) {
        let upto = self.durable.len() * percent / 100;
        let cut = self.durable.iter().take(upto).map(|(entry, _)| entry.stamp).max();
        let destaged = cut.unwrap_or(Stamp::ZERO).max(self.journal.checkpoint().destaged);
        let resume_from = self.random.chance(20).then_some(Stamp { time: self.clock, site: SiteId::B });
        let checkpoint = Checkpoint {
            clock_ceiling: self.clock + 100,
            destaged,
            resume_from,
            peer_journal: 7,
            run: self.crashes as u32,
            oldest_segment: 12345, // the journal sets its own
            state: 54321,          // and this
        };
        self.save_state(destaged);
        self.journal.set_checkpoint(checkpoint);
        self.journal.request_group();
    }

    /// A state that tells the cut for which it was saved.
    fn save_state(&mut self, cut: Stamp) {
        let mut bytes = vec![self.random.next() as u8; self.random.below(4) as usize * 4000];
        bytes.extend_from_slice(&cut.time.to_le_bytes());
        bytes.push(cut.site as u8);
        self.saving = Bytes::from(bytes);
        self.journal.save_state(self.saving.clone());
    }

    /// Asserts that the recovered state is the one that was saved for the recovered checkpoint.
    fn check_state(&self, checkpoint: &Checkpoint, state: Option<&Bytes>) {
        let named = self.states.get(&checkpoint.state).map(|(bytes, _)| bytes);
        assert!(named == state, "another state than number {}", checkpoint.state);
        match state {
            None => assert_eq!(checkpoint.destaged, Stamp::ZERO, "a cut without its state"),
            Some(bytes) => {
                let (time, site) = bytes[bytes.len() - 9..].split_at(8);
                let time = u64::from_le_bytes(time.try_into().expect("eight bytes"));
                let cut = Stamp { time, site: SiteId::from_ordinal(site[0]).expect("a site") };
                assert_eq!(cut, checkpoint.destaged, "a state of another cut");
            }
        }
    }

    /// A checkpoint when there is nothing to append: it goes to a slot, and stays under way.
    fn checkpoint_alone(&mut self) {
        self.write_all();
        let used = self.journal.used_bytes();
        let percent = [0, 0, 50, 100][self.random.below(4) as usize];
        self.destage(if self.still { 0 } else { percent });
        self.write();
        self.finish(); // its state, before all others
        self.write();
        let group = self.under_way.as_ref().expect("a checkpoint was asked for");
        assert!(is_slot(group) && self.journal.used_bytes() == used, "it took room in the ring");
    }

    fn pin(&mut self) {
        if self.durable.is_empty() {
            return;
        }
        let which = self.random.below(self.durable.len() as u64) as usize;
        let (entry, pos) = self.durable[which].clone();
        // Only what a site would still look for: beyond the cut.
        if entry.stamp > self.checkpoint_durable.destaged {
            self.journal.pin(pos);
            self.pins.push((pos, entry));
        }
    }

    fn check_body(&mut self, pos: JournalPos, entry: &Entry) {
        let (Body::Data(expected) | Body::Fill(expected)) = &entry.body else { return };
        let (offset, len, skip) = Journal::read_order(pos, expected.len());
        assert_eq!((offset % 512, len % 512), (0, 0));
        let mut bytes = vec![0; len as usize];
        self.disk.read_at(offset, &mut bytes).expect("within the journal");
        assert_eq!(&bytes[skip..skip + expected.len()], &expected[..], "the body lies where append said");
    }

    fn crash(&mut self) {
        self.crashes += 1;
        let under_way = self.under_way.take();
        if self.random.chance(80) {
            self.disk.crash(&mut self.random);
        } else {
            self.disk.kill();
        }
        let before = self.disk.seen.clone();
        let (journal, found, checkpoint, torn_at) = self.recover();
        if torn_at.is_some() {
            self.torn += 1;
            let group = under_way.as_ref();
            assert!(
                group.is_some_and(|group| as_group(group).is_some() && !is_slot(group)),
                "only a group that was under way can be torn"
            );
        }
        let group = under_way.as_ref().and_then(as_group);
        let written = group.is_some_and(|(_, written)| written == checkpoint);
        assert!(
            checkpoint == self.checkpoint_durable || written,
            "the checkpoint went back: {checkpoint:?}, durable was {:?}",
            self.checkpoint_durable
        );
        self.states_interrupted += u64::from(under_way.is_some() && group.is_none());
        if under_way.as_ref().is_some_and(is_slot) {
            self.slots_interrupted += 1;
            self.slots_lost += u64::from(!written);
        }
        // Which durable prefix is it?
        let mut expected = self.durable.clone();
        let whole = checkpoint != self.checkpoint_durable || written && torn_at.is_none();
        if let Some((upto, _)) = group
            && whole
        {
            let with: Vec<(Entry, JournalPos)> = self
                .pending
                .iter()
                .filter(|(seq, _, _)| *seq <= upto)
                .map(|(_, entry, pos)| (entry.clone(), *pos))
                .collect();
            if found.back().map(|(entry, _)| entry.stamp) == with.last().map(|(entry, _)| entry.stamp) {
                expected.extend(with);
            }
        }
        while expected.len() > found.len() {
            let (lost, _) = expected.pop_front().expect("longer than what was found");
            assert!(
                lost.stamp <= checkpoint.destaged,
                "{} is not destaged and was not recovered",
                lost.stamp
            );
        }
        let brief = |all: &VecDeque<(Entry, JournalPos)>| {
            all.iter().map(|(e, p)| (e.stamp.time, p.0)).collect::<Vec<_>>()
        };
        assert!(
            found == expected,
            "recovered {:?}, expected {:?}, torn {torn_at:?}, {checkpoint:?} before {:?}",
            brief(&found),
            brief(&expected),
            self.checkpoint_durable
        );
        // Recovering again gives the same, torn or not, and writes nothing if nothing was torn.
        if torn_at.is_none() {
            assert!(before == self.disk.seen, "recovery wrote though nothing was torn");
        }
        let after = self.disk.seen.clone();
        let (_, again, checkpoint_again, torn_again) = self.recover();
        assert!(again == found && checkpoint_again == checkpoint && torn_again.is_none());
        assert!(after == self.disk.seen, "the second recovery wrote something");
        self.journal = journal;
        self.durable = found;
        self.pending.clear();
        self.pins.clear();
        self.checkpoint_durable = checkpoint;
        for (entry, pos) in self.durable.clone() {
            self.check_body(pos, &entry);
        }
    }

    #[allow(clippy::type_complexity)]
    fn recover(&mut self) -> (Journal, VecDeque<(Entry, JournalPos)>, Checkpoint, Option<u64>) {
        let mut found = VecDeque::new();
        let (journal, recovered) =
            recover(&mut self.disk, Some((SiteId::A, PAIR)), &mut |entry, pos| found.push_back((entry, pos)))
                .expect("a crash is no damage");
        assert_eq!(recovered.entries, found.len() as u64);
        self.check_state(&recovered.checkpoint, recovered.state.as_ref());
        (journal, found, recovered.checkpoint, recovered.torn_at)
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..40 => self.append(),
            40..43 => self.save_state(self.journal.checkpoint().destaged),
            43..58 => self.write(),
            58..72 => self.finish(),
            72..78 => {
                for _ in 0..1 + self.random.below(3) {
                    self.checkpoint_alone();
                }
            }
            78..84 => {
                let percent = [0, 50, 90, 100][self.random.below(4) as usize];
                self.destage(if self.still { 0 } else { percent });
            }
            84..90 => {
                self.laps += 1;
                self.journal.recycle(self.checkpoint_durable.destaged);
            }
            90..93 => self.pin(),
            93..96 => {
                if let Some((pos, entry)) = self.pins.pop() {
                    self.check_body(pos, &entry);
                    self.journal.unpin(pos);
                }
            }
            _ => self.crash(),
        }
        assert!(self.journal.used_bytes() <= self.journal.file_bytes());
    }
}

/// Whether it goes to a checkpoint slot.
fn is_slot(group: &Group) -> bool {
    group.offset < STATES_START
}

#[test]
fn recovered_entries_are_exactly_the_durable_prefix() {
    let (mut crashes, mut torn, mut full, mut interrupted, mut lost, mut states) = (0, 0, 0, 0, 0, 0);
    for seed in 1..=400 {
        let outcome = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..400 {
                world.step();
            }
            (
                world.crashes,
                world.torn,
                world.full,
                world.slots_interrupted,
                world.slots_lost,
                world.states_interrupted,
            )
        });
        let (c, t, f, i, l, s) = outcome.unwrap_or_else(|_| panic!("seed {seed}"));
        (crashes, torn, full) = (crashes + c, torn + t, full + f);
        (interrupted, lost, states) = (interrupted + i, lost + l, states + s);
    }
    println!(
        "{crashes} crashes, {torn} torn groups, {full} refusals, {interrupted} slot writes, {lost} lost, \
         {states} state writes"
    );
    assert!(
        interrupted > 100 && lost > 30 && interrupted - lost > 30,
        "{interrupted} slot writes, {lost} lost"
    );
    assert!(states > 100, "{states} state writes");
    assert!(crashes > 1000 && torn > 100 && full > 100, "{crashes} crashes, {torn} torn, {full} full");
}

/// Of the write that takes a segment into use again its group survives, and not the new header: the group was cut off
/// once, so it must not come back when a later write leaves the header that it lacked.
#[test]
fn a_group_cut_off_behind_an_older_segment_header_never_comes_back() {
    const HEADER: usize = 4096;
    let layout = small();
    let mut disk = FaultDisk::new(layout.bytes());
    create_with(&mut disk, layout, &identity(), &mut |_, _| ()).expect("a journal");
    let (mut journal, _) = recover(&mut disk, None, &mut |_, _| ()).expect("an empty journal");
    let mut random = Random(5);
    let mut time = 0;
    let mut append = |journal: &mut Journal| {
        time += 1;
        let stamp = Stamp { time, site: SiteId::A };
        let mut entry = entry(&mut random, stamp, time, 1);
        entry.extent = Extent::new(Lba(0), 8).expect("not empty");
        entry.body = Body::Data(Bytes::from(vec![time as u8; 4096]));
        entry.body_crc = body_crc(&entry.body);
        journal.append(&entry).expect("all before was destaged");
        let group = journal.next_group().expect("there is an entry");
        let opens = (group.offset - SEGMENTS_START).is_multiple_of(layout.segment_bytes);
        (stamp, group, opens)
    };
    let mut opened = 0;
    let (stamp, group) = loop {
        let (stamp, group, opens) = append(&mut journal);
        opened += u32::from(opens);
        if opened > layout.segments {
            break (stamp, group);
        }
        write(&mut disk, &group);
        journal.group_done();
        journal.set_checkpoint(Checkpoint { destaged: stamp, ..Checkpoint::FIRST });
        journal.recycle(Stamp { time: stamp.time.saturating_sub(1), ..stamp });
    };
    let recovered = |disk: &mut FaultDisk| {
        let mut stamps = Vec::new();
        let (journal, recovered) =
            recover(disk, None, &mut |entry, _| stamps.push(entry.stamp)).expect("a crash is no damage");
        (journal, stamps, recovered.torn_at)
    };
    disk.write_at(group.offset + HEADER as u64, &group.pages.as_bytes()[HEADER..]).expect("in memory");
    let (mut journal, stamps, torn_at) = recovered(&mut disk);
    assert_eq!((stamps.contains(&stamp), torn_at), (false, Some(group.offset)));
    let (later, again, _) = append(&mut journal);
    assert_eq!(again.offset, group.offset);
    disk.write_at(again.offset, &again.pages.as_bytes()[..HEADER]).expect("in memory");
    let (_, stamps, _) = recovered(&mut disk);
    assert!(!stamps.contains(&stamp), "a group that was cut off came back");
    assert!(!stamps.contains(&later), "nothing of it was written");
}

#[test]
fn checkpoints_find_room_for_ever_while_the_journal_is_full() {
    let mut world = World::new(7);
    while world.full == 0 {
        let mut random = Random(world.clock + 1);
        world.clock += 1;
        let entry = entry(&mut random, Stamp { time: world.clock, site: SiteId::A }, world.clock, 20);
        match world.journal.append(&entry) {
            Ok((seq, pos)) => world.pending.push_back((seq, entry, pos)),
            Err(_) => world.full += 1,
        }
        world.write();
        world.finish();
    }
    let entries = world.durable.len();
    for round in 0..200 {
        world.journal.request_group();
        world.write();
        assert!(world.under_way.is_some(), "checkpoint {round} found no room");
        world.finish();
        if round % 17 == 0 {
            world.crash();
            assert_eq!(world.durable.len(), entries);
        }
    }
    world.destage(100);
    world.write_all();
    world.journal.recycle(world.checkpoint_durable.destaged);
    world.full = 0;
    world.append();
    assert_eq!(world.full, 0, "everything was destaged, yet it is full");
}

/// The journal's promise to the flow control: whatever else is written, entries find room by their own footprints.
#[test]
fn checkpoints_without_end_take_no_room_from_a_trickle_of_entries() {
    let layout = Layout::for_bytes(64 << 20).expect("the smallest journal for a site");
    for seed in 1..=3 {
        let mut disk = FaultDisk::new(layout.bytes());
        create_with(&mut disk, layout, &identity(), &mut |_, _| ()).expect("a journal");
        let (mut journal, _) = recover(&mut disk, None, &mut |_, _| ()).expect("an empty journal");
        drop(disk);
        let mut random = Random(seed);
        let (mut held, mut time) = (0, 0);
        loop {
            time += 1;
            let large = seed > 1 && random.chance(3);
            let blocks = if large { 8192 - random.below(40) } else { 1 + random.below(16) };
            let stamp = Stamp { time, site: SiteId::A };
            let mut entry = entry(&mut random, stamp, time, 1);
            entry.extent = Extent::new(Lba(0), blocks).expect("not empty");
            entry.body = Body::Data(Bytes::from(vec![0x77; 512 * blocks as usize]));
            entry.body_crc = body_crc(&entry.body);
            held += Journal::footprint(&entry);
            if held > journal.usable_bytes() {
                break;
            }
            let appended = journal.append(&entry);
            assert!(appended.is_ok(), "full at {held} of {} bytes, seed {seed}", journal.usable_bytes());
            for _ in 0..=random.below(20) {
                let room = journal.used_bytes();
                journal.request_group();
                assert!(journal.next_group().is_some(), "a checkpoint finds room");
                journal.group_done();
                assert!(journal.used_bytes() == room);
            }
        }
        assert!(time > 10, "{time} entries");
    }
}

#[test]
fn an_interrupted_making_is_recognised() {
    let layout = small();
    for syncs in 0..=3 {
        let mut disk = StopAfter { disk: FaultDisk::new(layout.bytes()), syncs };
        let made = create_with(&mut disk, layout, &identity(), &mut |_, _| ());
        let mut disk = disk.disk;
        disk.crash(&mut Random(9));
        let opened = recover(&mut disk, None, &mut |_, _| ());
        match (made, opened) {
            (Err(_), Ok(_)) => assert_eq!(syncs, 3, "usable only once the first superblock is there"),
            (Err(_), Err(_)) => assert!(syncs < 4),
            (Ok(()), opened) => assert!(opened.is_ok()),
        }
    }
}

/// A disk that fails when it was synced so often.
struct StopAfter {
    disk: FaultDisk,
    syncs: u64,
}

impl Disk for StopAfter {
    fn len(&mut self) -> Result<u64, biplex_store::DiskError> {
        self.disk.len()
    }
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), biplex_store::DiskError> {
        self.disk.read_at(offset, buf)
    }
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), biplex_store::DiskError> {
        self.disk.write_at(offset, data)
    }
    fn sync(&mut self) -> Result<(), biplex_store::DiskError> {
        if self.disk.syncs == self.syncs {
            return Err(biplex_store::DiskError::new("stopped".to_owned()));
        }
        self.disk.sync()
    }
}

#[test]
fn only_a_plain_checkpoint_is_left_when_all_was_destaged() {
    let mut world = World::new(3);
    for _ in 0..60 {
        world.append();
        world.write();
        world.finish();
    }
    world.destage(100);
    world.write_all();
    world.journal.recycle(world.checkpoint_durable.destaged);
    let used = world.journal.used_bytes();
    assert!(used <= 48 << 10, "one segment is left, not {used} bytes");
    world.crash();
    assert_eq!(world.checkpoint_durable.clock_ceiling, world.clock + 100);
}

/// The checker above must see what it claims to see.
#[cfg(feature = "mutants")]
#[test]
fn planted_bugs_are_caught() {
    use biplex_engine::mutant::{Mutant, plant};
    for mutant in [Mutant::TakeTornTail, Mutant::RecycleTooEarly, Mutant::RecoverOwnOnly] {
        let caught = (1..=60).any(|seed| {
            std::panic::catch_unwind(|| {
                plant(Some(mutant));
                let mut world = World::new(seed);
                (0..400).for_each(|_| world.step());
            })
            .is_err()
        });
        plant(None);
        assert!(caught, "{mutant:?} was not caught");
    }
}
