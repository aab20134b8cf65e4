//! Answers for the journal's appends without a thread: the core gives each to an io_uring and finds its outcome there
//! when the ring's descriptor wakes it. The one module of unsafe code (a line in `wire.rs` apart). Never waits but in `drop`,
//! never has two appends under way, and never touches or frees pages that the kernel may still be reading.
//!
//! ```text
//! core ─ submit ─▶ kernel: write, flush ─▶ ring ─ readable ─▶ poll ─▶ reap ─▶ the site
//! ```

#![allow(unsafe_code)]

use super::open::JournalFile;
use super::work::failed;
use biplex_store::{DiskResult, DiskTicket, PageBuf};
use bytes::Bytes;
use io_uring::{IoUring, Probe, opcode, types};
use rustix::io::Errno;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

/// Places in the ring: one append, and one to spare.
const ENTRIES: u32 = 2;

/// The append that the kernel has, or is about to get.
struct UnderWay {
    ticket: DiskTicket,
    offset: u64,
    pages: PageBuf,
    /// Bytes of the pages that are durable.
    done: usize,
    /// In the ring, but the kernel has not taken it: it was short of memory.
    untaken: bool,
}

/// Durable appends to a journal that was opened for direct, synchronous I/O.
pub struct RingAppender {
    ring: IoUring,
    journal: Arc<JournalFile>,
    under_way: Option<UnderWay>,
}

impl RingAppender {
    /// Sets the ring up. An error: io_uring is not to be had here (an older kernel, a container's filter, a sysctl), or
    /// the journal needs a sync of its own after each write.
    pub fn start(journal: Arc<JournalFile>) -> io::Result<RingAppender> {
        if !journal.direct {
            return Err(ErrorKind::Unsupported.into());
        }
        let ring = IoUring::new(ENTRIES)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if !probe.is_supported(opcode::Write::CODE) {
            return Err(ErrorKind::Unsupported.into());
        }
        Ok(RingAppender { ring, journal, under_way: None })
    }

    /// Becomes readable when an append has ended.
    pub fn descriptor(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    /// Begins an append; [`RingAppender::reap`] tells how it ended, unless this does.
    ///
    /// # Panics
    /// If one is under way: a site orders them one at a time.
    pub fn append(&mut self, ticket: DiskTicket, offset: u64, pages: PageBuf) -> Option<DiskResult> {
        assert!(self.under_way.is_none(), "one append at a time");
        self.begin(UnderWay { ticket, offset, pages, done: 0, untaken: true }).map(|(_, result)| result)
    }

    /// Puts what is left of an append into the ring. `Some`: it ended here.
    fn begin(&mut self, mut append: UnderWay) -> Option<(DiskTicket, DiskResult)> {
        let rest = append.pages.as_bytes().get(append.done..).unwrap_or_default();
        if rest.is_empty() {
            return Some((append.ticket, Ok(Bytes::new())));
        }
        let len = u32::try_from(rest.len()).expect("a group has at most GROUP_BYTES_MAX bytes");
        let file = types::Fd(self.journal.file.as_raw_fd());
        let order =
            opcode::Write::new(file, rest.as_ptr(), len).offset(append.offset + append.done as u64).build();
        append.untaken = true;
        self.under_way = Some(append);
        // SAFETY: `order` points into the heap memory of `under_way.pages`, which moving the `PageBuf` does not move.
        // It is neither changed nor freed before the ring has told the order's end: only `reap` takes `under_way`,
        // after that end, and `drop` waits for it or leaks the pages. The descriptor is that of `self.journal`, which
        // lives as long as the ring.
        unsafe { self.ring.submission().push(&order) }.expect("the ring has room: nothing else is in it");
        self.submit();
        None
    }

    /// Has the kernel take what is in the ring. If it will not for now, [`RingAppender::reap`] tries again.
    fn submit(&mut self) {
        let Some(append) = self.under_way.as_mut().filter(|append| append.untaken) else { return };
        loop {
            match self.ring.submit() {
                Ok(taken) => {
                    append.untaken = taken == 0;
                    return;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!(
                        "{}: the kernel did not take an append: {error}",
                        self.journal.path.display()
                    );
                    return;
                }
            }
        }
    }

    /// How the append ended, if it has. To be called whenever the core is awake.
    pub fn reap(&mut self) -> Option<(DiskTicket, DiskResult)> {
        self.submit();
        let end = self.ring.completion().next()?.result();
        let mut append = self.under_way.take().expect("only an append that is under way ends");
        let error = match end {
            1.. => {
                append.done += end as usize;
                return self.begin(append);
            }
            // Nothing written and no reason given, as in `work::write_all`.
            0 => Errno::IO,
            _ => Errno::from_raw_os_error(-end),
        };
        if matches!(error, Errno::INTR | Errno::AGAIN) {
            return self.begin(append);
        }
        Some((append.ticket, Err(failed(&self.journal.path, "write", append.offset, error))))
    }
}

impl Drop for RingAppender {
    /// Waits for the append under way: until then the kernel reads its pages.
    fn drop(&mut self) {
        while self.under_way.is_some() {
            if self.reap().is_some() {
                return;
            }
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::error!("{}: an append was left alone: {error}", self.journal.path.display());
                    // The kernel may still read them.
                    std::mem::forget(self.under_way.take());
                }
            }
        }
    }
}
