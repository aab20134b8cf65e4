//! Answers for the threads that carry out what is not the journal's append. What changes a store goes one behind the
//! other, however many threads there are: a file's lock lets in one writer at a time, and the others would only spin
//! before it. Reads of stores and all of the journal's run side by side.
//!
//! ```text
//! change of a store ─▶ the store's lane ─┐ (a turn for the lane, if it has none)
//! all else ─────────────── a turn ───────┴─▶ turns ─▶ next free thread ─▶ letters
//! ```
//! A thread whose turn is a lane's takes all that has gathered there and answers it together, so that a destage of many
//! small writes wakes a thread and the core once for many of them.

use super::Owed;
use super::open::{JournalFile, StoreFile};
use super::work::{self, Work};
use biplex_engine::VolumeId;
use biplex_store::DiskResult;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// How many threads.
pub const THREADS: usize = 4;

/// What an order is about.
#[derive(Clone)]
pub enum Target {
    /// The journal.
    Journal(Arc<JournalFile>),
    /// A volume's backing store.
    Store(VolumeId, Arc<StoreFile>),
}

/// An order for the pool.
pub struct Job {
    /// The answer.
    pub owed: Owed,
    /// What it is about.
    pub target: Target,
    /// What is to be done.
    pub work: Work,
}

enum Turn {
    Job(Job),
    Lane(VolumeId),
}

/// What changes a store, in order of arrival.
#[derive(Default)]
struct Lane {
    jobs: Vec<Job>,
    /// It has a turn, or a thread is at it.
    served: bool,
}

#[derive(Default)]
struct Jobs {
    turns: VecDeque<Turn>,
    lanes: BTreeMap<VolumeId, Lane>,
}

/// Jobs that wait for a thread; `None` once the daemon ends.
struct Queue {
    jobs: Mutex<Option<Jobs>>,
    ready: Condvar,
}

/// The threads and what they have to do.
pub struct Pool {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts the threads.
    pub fn start() -> std::io::Result<Pool> {
        let queue = Arc::new(Queue { jobs: Mutex::new(Some(Jobs::default())), ready: Condvar::new() });
        let mut pool = Pool { queue, threads: Vec::with_capacity(THREADS) };
        for number in 0..THREADS {
            let queue = pool.queue.clone();
            pool.threads.push(super::named(&format!("biplex-disk-{number}"), move || serve(&queue))?);
        }
        Ok(pool)
    }

    /// Has a job done; it is answered whatever happens.
    pub fn push(&self, job: Job) {
        let Ok(mut jobs) = self.queue.jobs.lock() else { return };
        let Some(jobs) = jobs.as_mut() else { return };
        let turn = match &job.target {
            Target::Store(volume, _) if job.work.changes() => {
                let volume = *volume;
                let lane = jobs.lanes.entry(volume).or_default();
                lane.jobs.push(job);
                if std::mem::replace(&mut lane.served, true) {
                    return;
                }
                Turn::Lane(volume)
            }
            Target::Store(..) | Target::Journal(_) => Turn::Job(job),
        };
        jobs.turns.push_back(turn);
        self.queue.ready.notify_one();
    }
}

impl Drop for Pool {
    /// Lets the threads finish what they have and ends them.
    fn drop(&mut self) {
        if let Ok(mut jobs) = self.queue.jobs.lock() {
            *jobs = None;
        }
        self.queue.ready.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a disk thread panicked");
            }
        }
    }
}

fn serve(queue: &Queue) {
    while let Some(turn) = next_turn(queue) {
        match turn {
            Turn::Job(job) => {
                let (owed, result) = done(job);
                owed.answer(result);
            }
            Turn::Lane(volume) => serve_lane(queue, volume),
        }
    }
}

fn next_turn(queue: &Queue) -> Option<Turn> {
    let mut jobs = queue.jobs.lock().ok()?;
    loop {
        if let Some(turn) = jobs.as_mut()?.turns.pop_front() {
            return Some(turn);
        }
        jobs = queue.ready.wait(jobs).ok()?;
    }
}

/// A thread's hold of a lane: when it ends, even by a panic, what came meanwhile gets a turn behind the others.
struct Hold<'a> {
    queue: &'a Queue,
    volume: VolumeId,
}

impl Hold<'_> {
    fn lane<T>(&self, act: impl FnOnce(&mut Lane, &mut VecDeque<Turn>) -> T) -> Option<T> {
        let mut jobs = self.queue.jobs.lock().ok()?;
        let Jobs { turns, lanes } = jobs.as_mut()?;
        Some(act(lanes.entry(self.volume).or_default(), turns))
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.lane(|lane, turns| {
            lane.served = !lane.jobs.is_empty();
            if lane.served {
                turns.push_back(Turn::Lane(self.volume));
            }
        });
    }
}

fn serve_lane(queue: &Queue, volume: VolumeId) {
    let hold = Hold { queue, volume };
    let gathered = hold.lane(|lane, _| std::mem::take(&mut lane.jobs)).unwrap_or_default();
    let ended: Vec<(Owed, DiskResult)> = gathered.into_iter().map(done).collect();
    drop(hold);
    ended.into_iter().for_each(|(owed, result)| owed.answer(result));
}

fn done(Job { owed, target, work }: Job) -> (Owed, DiskResult) {
    let result = match target {
        Target::Journal(journal) => work::on_journal(&journal, work),
        Target::Store(_, store) => work::on_store(&store, work),
    };
    (owed, result)
}
