//! The disks' promises, on real files.

use super::file_disk::FileDisk;
use super::open::StateLock;
use super::*;
use crate::config::Volume;
use crate::mailbox::{Mailbox, mailbox};
use biplex_site::{Mode, Rules};
use biplex_store::{Disk, PAGE_BYTES};
use bytes::Bytes;
use std::path::Path;
use std::time::{Duration, Instant};

const STORE_BYTES: u64 = 1 << 20;

fn volume(directory: &Path) -> Volume {
    let store = directory.join("vol0.img");
    Volume {
        name: "vol0".to_owned(),
        lun: 0,
        bytes: STORE_BYTES,
        rules: Rules::of(Mode::Sync),
        store,
        unit: None,
        serial: None,
    }
}

fn config(directory: &Path) -> Config {
    let text = format!(
        "site = \"a\"\nstate_dir = \"{0}\"\n[link]\nlisten = \"127.0.0.1:1\"\npeer = \"127.0.0.1:2\"\ntls = \"off\"\n\
         [iscsi]\nlisten = \"127.0.0.1:3\"\ntarget = \"iqn.2026-11.io.biplex:t\"\n\
         [[volume]]\nname = \"vol0\"\nlun = 0\nsize = \"1MiB\"\nmode = \"sync\"\nstore = \"{0}/vol0.img\"\n",
        directory.display()
    );
    Config::parse(Path::new("a.toml"), &text).expect("valid")
}

const JOURNAL_BYTES: usize = 2 << 20;

fn journal(directory: &Path) -> JournalFile {
    let path = directory.join("journal");
    let mut made = FileDisk::make(&path).expect("made");
    made.write_at(0, &vec![0; JOURNAL_BYTES]).expect("written");
    JournalFile::open(&path).expect("opened")
}

fn disks(directory: &Path) -> (Disks, Mailbox, Device) {
    let (sender, letters) = mailbox(Arc::new(|| ()));
    let store = StoreFile::open(&volume(directory), true).expect("opened");
    let disks = Disks::start(&config(directory), journal(directory), vec![store], sender).expect("threads");
    (disks, letters, Device::Volume(identity::volume_id("vol0")))
}

/// Disks whose appends go through a thread, as where there is no io_uring.
fn disks_without_ring(directory: &Path) -> (Disks, Mailbox) {
    let (sender, letters) = mailbox(Arc::new(|| ()));
    let journal = (Arc::new(journal(directory)), None);
    (Disks::start_with(&config(directory), journal, Vec::new(), sender).expect("threads"), letters)
}

/// A ring, unless this machine has none: then there is nothing to test.
fn ring(directory: &Path) -> Option<RingAppender> {
    RingAppender::start(Arc::new(journal(directory))).ok()
}

/// Gives the order and waits for its one answer.
fn run(disks: &mut Disks, letters: &Mailbox, ticket: u64, op: DiskOp) -> DiskResult {
    if let Some(result) = disks.order(DiskTicket(ticket), op) {
        return result;
    }
    let until = Instant::now() + Duration::from_secs(20);
    while Instant::now() < until {
        if let Some((DiskTicket(done), result)) = disks.reap() {
            assert_eq!(done, ticket);
            return result;
        }
        match letters.next() {
            Some(Letter::DiskDone(DiskTicket(done), result)) => {
                assert_eq!(done, ticket);
                return result;
            }
            Some(Letter::Ask(_) | Letter::PeerFound(_) | Letter::UnitFound(..)) => {
                panic!("not a disk's letter")
            }
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    panic!("order {ticket} was not answered");
}

#[test]
fn store_keeps_what_was_written_and_zeroed() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut disks, letters, device) = disks(directory.path());
    let pieces: Vec<Bytes> = (0..600u32).map(|n| Bytes::from(vec![n as u8; 512])).collect();
    let write = DiskOp::Write { device, offset: 4096, data: pieces.clone() };
    assert_eq!(run(&mut disks, &letters, 1, write), Ok(Bytes::new()));
    assert_eq!(
        run(&mut disks, &letters, 2, DiskOp::Zero { device, offset: 8192, len: 4096 }),
        Ok(Bytes::new())
    );
    assert_eq!(run(&mut disks, &letters, 3, DiskOp::Sync { device }), Ok(Bytes::new()));
    let read = run(&mut disks, &letters, 4, DiskOp::Read { device, offset: 0, len: 600 * 512 + 4096 })
        .expect("read");
    let mut expected = vec![0; 4096];
    pieces.iter().for_each(|piece| expected.extend_from_slice(piece));
    expected[8192..12288].fill(0);
    assert_eq!(read, expected);
}

#[test]
fn journal_append_is_read_back_from_any_sector() {
    let directory = tempfile::tempdir().expect("a directory");
    let (disks, letters, _) = disks(directory.path());
    append_and_read_back(disks, &letters);
}

#[test]
fn without_io_uring_a_thread_appends() {
    let directory = tempfile::tempdir().expect("a directory");
    let (disks, letters) = disks_without_ring(directory.path());
    assert_eq!(disks.ring(), None);
    append_and_read_back(disks, &letters);
}

fn append_and_read_back(mut disks: Disks, letters: &Mailbox) {
    let mut pages = PageBuf::default();
    pages.extend_from_slice(&(0..8192u32).map(|n| (n / 512) as u8).collect::<Vec<_>>());
    let append = DiskOp::AppendDurable { offset: 4096, pages };
    assert_eq!(run(&mut disks, letters, 1, append), Ok(Bytes::new()));
    let device = Device::Journal;
    let read =
        run(&mut disks, letters, 2, DiskOp::Read { device, offset: 4096 + 1536, len: 4096 }).expect("read");
    assert_eq!(read.len(), 4096);
    assert_eq!((read[0], read[511], read[4095]), (3, 3, 10));
    let unaligned = DiskOp::Write { device, offset: 512, data: vec![Bytes::from_static(b"x")] };
    assert!(run(&mut disks, letters, 3, unaligned).expect_err("refused").message.contains("whole pages"));
}

#[test]
fn the_ring_wakes_a_poll_and_its_appends_are_on_the_disk() {
    let directory = tempfile::tempdir().expect("a directory");
    let Some(mut ring) = ring(directory.path()) else { return };
    let mut poll = mio::Poll::new().expect("a poll");
    let source = &mut mio::unix::SourceFd(&ring.descriptor());
    poll.registry().register(source, mio::Token(1), mio::Interest::READABLE).expect("registered");
    let mut ready = mio::Events::with_capacity(4);
    for number in 1..=20u64 {
        let pages = pages_of(number as u8, 3);
        assert_eq!(ring.append(DiskTicket(number), number * 3 * 4096, pages), None);
        let until = Instant::now() + Duration::from_secs(20);
        let (ticket, result) = loop {
            if let Some(ended) = ring.reap() {
                break ended;
            }
            assert!(Instant::now() < until, "append {number} has not ended");
            // Interrupted is fine: the kernel may run the append's end in this thread.
            drop(poll.poll(&mut ready, Some(Duration::from_secs(1))));
        };
        assert_eq!((ticket, result), (DiskTicket(number), Ok(Bytes::new())));
        assert_eq!(ring.reap(), None);
    }
    let written = std::fs::read(directory.path().join("journal")).expect("read");
    for number in 1..=20usize {
        let place = number * 3 * 4096..(number + 1) * 3 * 4096;
        assert!(written[place].iter().all(|byte| usize::from(*byte) == number));
    }
}

#[test]
fn a_refused_append_is_an_error_that_names_the_journal() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("journal");
    drop(journal(directory.path()));
    // For reading alone: the kernel refuses every write.
    let file = std::fs::File::open(&path).expect("opened");
    let readable = JournalFile { path, file, direct: true };
    let Ok(mut ring) = RingAppender::start(Arc::new(readable)) else { return };
    let mut ended = ring.append(DiskTicket(1), 4096, pages_of(1, 1)).map(|result| (DiskTicket(1), result));
    let until = Instant::now() + Duration::from_secs(20);
    while ended.is_none() && Instant::now() < until {
        ended = ring.reap();
    }
    let error = ended.expect("ended").1.expect_err("refused").message;
    assert!(error.contains("journal: write at byte 4096"), "{error}");
}

#[test]
fn a_ring_that_is_dropped_lets_its_append_end_first() {
    let directory = tempfile::tempdir().expect("a directory");
    let Some(mut ring) = ring(directory.path()) else { return };
    assert_eq!(ring.append(DiskTicket(1), 0, pages_of(9, JOURNAL_BYTES / 4096)), None);
    drop(ring);
    let written = std::fs::read(directory.path().join("journal")).expect("read");
    assert!(written.iter().all(|byte| *byte == 9));
}

fn pages_of(byte: u8, pages: usize) -> PageBuf {
    let mut filled = PageBuf::default();
    filled.extend_from_slice(&vec![byte; pages * PAGE_BYTES]);
    filled
}

#[test]
fn errors_name_the_file_and_every_order_is_answered() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut disks, letters, device) = disks(directory.path());
    let behind = DiskOp::Read { device, offset: STORE_BYTES, len: 512 };
    let error = run(&mut disks, &letters, 1, behind).expect_err("behind the end").message;
    assert!(error.contains("vol0.img: read at byte 1048576"), "{error}");
    let stranger = Device::Volume(VolumeId(7));
    let error = run(&mut disks, &letters, 2, DiskOp::Sync { device: stranger }).expect_err("no such volume");
    assert!(error.message.contains("00000007"), "{error}");
    let mut open = 0;
    for ticket in 10..200 {
        open += usize::from(disks.order(DiskTicket(ticket), DiskOp::Sync { device }).is_none());
    }
    // Ended in the midst of work: what no thread took is answered all the same.
    drop(disks);
    assert_eq!(std::iter::from_fn(|| letters.next()).count(), open);
}

#[test]
fn state_and_stores_cannot_be_shared() {
    let directory = tempfile::tempdir().expect("a directory");
    let held = StateLock::take(directory.path()).expect("locked");
    let refused = StateLock::take(directory.path()).err().expect("refused").to_string();
    assert!(
        refused.contains(&format!("in use by another biplex (process {})", std::process::id())),
        "{refused}"
    );
    drop(held);
    StateLock::take(directory.path()).expect("free again");
    let store = StoreFile::open(&volume(directory.path()), true).expect("opened");
    let refused = StoreFile::open(&volume(directory.path()), false).err().expect("refused").to_string();
    assert!(refused.contains("vol0.img is in use"), "{refused}");
    drop(store);
}

#[test]
fn a_missing_or_misfit_store_is_refused_with_a_remedy() {
    let directory = tempfile::tempdir().expect("a directory");
    let refused = StoreFile::open(&volume(directory.path()), false).err().expect("missing").to_string();
    assert!(refused.contains("is missing, but this site has run before"), "{refused}");
    std::fs::write(directory.path().join("vol0.img"), [0; 100]).expect("written");
    let refused = StoreFile::open(&volume(directory.path()), true).err().expect("short").to_string();
    assert!(refused.contains("has 100 bytes"), "{refused}");
}

#[test]
fn changes_of_a_store_are_made_in_the_order_they_came() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut disks, letters, device) = disks(directory.path());
    let mut expected = vec![0; STORE_BYTES as usize];
    for ticket in 0..2000u64 {
        // Each covers some of those before it, so that only the right order leaves what is expected.
        let (from, byte) = ((ticket * 7 % 40) as usize * 512, ticket as u8);
        let (op, filled) = match ticket % 10 {
            9 => (DiskOp::Zero { device, offset: from as u64, len: 4096 }, (from..from + 4096, 0)),
            _ => {
                let data = vec![Bytes::from(vec![byte; 1024])];
                (DiskOp::Write { device, offset: from as u64, data }, (from..from + 1024, byte))
            }
        };
        expected[filled.0].fill(filled.1);
        assert_eq!(disks.order(DiskTicket(ticket), op), None);
    }
    let until = Instant::now() + Duration::from_secs(20);
    let mut answered = Vec::new();
    while answered.len() < 2000 && Instant::now() < until {
        match letters.next() {
            Some(Letter::DiskDone(ticket, result)) => {
                assert_eq!(result, Ok(Bytes::new()));
                answered.push(ticket.0);
            }
            Some(_) => panic!("not a disk's letter"),
            None => std::thread::yield_now(),
        }
    }
    assert_eq!(answered, (0..2000).collect::<Vec<_>>());
    assert!(std::fs::read(directory.path().join("vol0.img")).expect("read") == expected);
}
