//! Answers for the site's disk orders: the journal's appends by an io_uring or, where there is none, on a thread of
//! their own, the volumes on a small pool, reads that the page cache can serve at once on the core itself. Every order
//! is answered exactly once, whatever happens to the thread that works on it. Decides nothing about order: the site
//! knows which orders may run side by side.
//!
//! ```text
//!            AppendDurable ──▶ io_uring ────────┬──▶ reaped by the core
//!            or, without one ▶ journal thread ──┼──▶ letter to the core
//! core ──op──┤ Read ─ RWF_NOWAIT ─ hit ─────────┼──▶ answered on the spot
//!            └ all else ─▶ pool (`pool.rs`) ────┴──▶ letter to the core
//! ```

pub mod file_disk;
pub mod open;
mod pool;
mod ring;
mod work;

use crate::config::{Config, identity};
use crate::mailbox::{Letter, Sender};
use crate::path;
use biplex_engine::VolumeId;
use biplex_store::{Device, DiskError, DiskOp, DiskResult, DiskTicket, PageBuf};
use open::{JournalFile, StoreFile};
use pool::{Job, Pool, Target};
use ring::RingAppender;
use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use work::Work;

/// An answer that is owed for an order. Dropped unanswered (its thread died) it answers with an error.
struct Owed {
    ticket: DiskTicket,
    sender: Sender,
    answered: bool,
}

impl Owed {
    fn answer(mut self, result: DiskResult) {
        self.answered = true;
        self.sender.post(Letter::DiskDone(self.ticket, result));
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        if !self.answered {
            let message = "the thread that worked on this order ended before it did".to_owned();
            self.sender.post(Letter::DiskDone(self.ticket, Err(DiskError::new(message))));
        }
    }
}

struct Append {
    owed: Owed,
    offset: u64,
    pages: PageBuf,
}

/// Who carries out the journal's appends.
enum Appends {
    Ring(Box<RingAppender>),
    Thread(mpsc::Sender<Append>),
}

/// All disks of a site, open and locked.
pub struct Disks {
    sender: Sender,
    journal: Arc<JournalFile>,
    stores: BTreeMap<VolumeId, Arc<StoreFile>>,
    appends: Option<Appends>,
    pool: Pool,
    journal_thread: Option<JoinHandle<()>>,
}

impl Disks {
    /// Starts the threads. The files were opened and locked before.
    pub fn start(
        config: &Config,
        journal: JournalFile,
        stores: Vec<StoreFile>,
        sender: Sender,
    ) -> std::io::Result<Disks> {
        let journal = Arc::new(journal);
        let ring = RingAppender::start(journal.clone());
        if let Err(error) = &ring {
            tracing::info!("journal: appends go through a thread, io_uring is not to be had here ({error})");
        }
        Disks::start_with(config, (journal, ring.ok()), stores, sender)
    }

    fn start_with(
        config: &Config,
        (journal, ring): (Arc<JournalFile>, Option<RingAppender>),
        stores: Vec<StoreFile>,
        sender: Sender,
    ) -> std::io::Result<Disks> {
        let on_disk = config.volumes.iter().filter(|volume| volume.unit.is_none());
        let ids = on_disk.map(|volume| identity::volume_id(&volume.name));
        let stores = ids.zip(stores.into_iter().map(Arc::new)).collect();
        let mut journal_thread = None;
        let appends = match ring {
            Some(ring) => Appends::Ring(Box::new(ring)),
            None => {
                let (appends, orders) = mpsc::channel();
                let file = journal.clone();
                journal_thread = Some(named("biplex-journal", move || run_journal(&file, &orders))?);
                Appends::Thread(appends)
            }
        };
        let pool = Pool::start()?;
        Ok(Disks { sender, journal, stores, appends: Some(appends), pool, journal_thread })
    }

    /// Becomes readable when an append ends, if a ring carries them out.
    pub fn ring(&self) -> Option<RawFd> {
        match &self.appends {
            Some(Appends::Ring(ring)) => Some(ring.descriptor()),
            Some(Appends::Thread(_)) | None => None,
        }
    }

    /// The append that a ring has ended, if it has; others end by letter. To be asked whenever the core is awake.
    pub fn reap(&mut self) -> Option<(DiskTicket, DiskResult)> {
        match &mut self.appends {
            Some(Appends::Ring(ring)) => ring.reap().inspect(|_| path::mark("append-durable")),
            Some(Appends::Thread(_)) | None => None,
        }
    }

    /// Carries an order out, or has it carried out. `Some` is the answer; otherwise a letter brings it.
    pub fn order(&mut self, ticket: DiskTicket, op: DiskOp) -> Option<DiskResult> {
        let owed = |sender: &Sender| Owed { ticket, sender: sender.clone(), answered: false };
        let (device, work) = match op {
            DiskOp::AppendDurable { offset, pages } => {
                path::mark("append-ordered");
                return match &mut self.appends {
                    Some(Appends::Ring(ring)) => {
                        let ended = ring.append(ticket, offset, pages);
                        path::mark("append-begun");
                        ended
                    }
                    Some(Appends::Thread(appends)) => {
                        // A journal thread that is gone drops the append, and the drop answers it.
                        drop(appends.send(Append { owed: owed(&self.sender), offset, pages }));
                        None
                    }
                    None => Some(Err(DiskError::new("the disks are closed".to_owned()))),
                };
            }
            DiskOp::Read { device, offset, len } => (device, Work::Read { offset, len }),
            DiskOp::Write { device, offset, data } => (device, Work::Write { offset, data }),
            DiskOp::Zero { device, offset, len } => (device, Work::Zero { offset, len }),
            DiskOp::Sync { device } => (device, Work::Sync),
        };
        let target = match device {
            Device::Journal => Target::Journal(self.journal.clone()),
            Device::Volume(volume) => match self.stores.get(&volume) {
                Some(store) => Target::Store(volume, store.clone()),
                None => return Some(Err(DiskError::new(format!("no store for volume {volume}")))),
            },
        };
        if let (Target::Store(_, store), Work::Read { offset, len }) = (&target, &work)
            && let Some(result) = work::read_cached(store, *offset, *len)
        {
            return Some(result);
        }
        self.pool.push(Job { owed: owed(&self.sender), target, work });
        None
    }
}

impl Drop for Disks {
    /// Lets the journal's thread finish what it has; the pool does so itself.
    fn drop(&mut self) {
        self.appends = None;
        if self.journal_thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the journal's thread panicked");
        }
    }
}

fn named(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}

fn run_journal(journal: &JournalFile, orders: &mpsc::Receiver<Append>) {
    while let Ok(Append { owed, offset, pages }) = orders.recv() {
        path::mark("append-begun");
        let result = work::append_durable(journal, offset, &pages);
        path::mark("append-durable");
        drop(pages);
        owed.answer(result);
    }
}

#[cfg(test)]
#[path = "disks/tests.rs"]
mod tests;
