//! Answers for verified load: a writer that remembers what it was told is done, and can say of any copy whether
//! something acknowledged is missing, torn or newer than anything ever sent.
//!
//! A writer owns slots of various sizes. Each write fills one slot with its number, alone of its slot under way, so the
//! slot's history is a row of growing numbers: a sound copy shows a number from the last acknowledged to the last sent.

use crate::host::{BLOCK, Host, HostError, Identity};
use biplex_front::iscsi::initiator::{Payload, write16};
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Slots of a writer.
const SLOTS: usize = 48;
/// Writes under way at a time.
const DEPTH: usize = 8;
/// Largest slot, in blocks.
const SLOT_BLOCKS_MAX: u64 = 33;
/// Blocks of a writer.
pub const WRITER_BLOCKS: u64 = SLOTS as u64 * SLOT_BLOCKS_MAX;
/// A writer that hears nothing for so long gives its session up and logs in anew.
const ANSWER_PATIENCE: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Default, Debug)]
struct Slot {
    sent: u64,
    acknowledged: u64,
}

/// What one writer has been told.
#[derive(Clone, Debug)]
pub struct Load {
    writer: u64,
    slots: Vec<Slot>,
    /// Number of the next write.
    next: u64,
    /// Answers that asked to try again, over the writer's life.
    pub refused: u64,
    /// Sessions lost, over the writer's life.
    pub lost: u64,
}

/// A writer at work.
pub struct Running {
    thread: JoinHandle<Load>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
}

impl Running {
    /// Writes acknowledged since the start.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Ends it and gives what it knows.
    #[track_caller]
    pub fn stop(self) -> Load {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the writer did not panic")
    }
}

impl Load {
    /// A writer that has written nothing. Different writers own different blocks.
    pub fn new(writer: u64) -> Load {
        Load { writer, slots: vec![Slot::default(); SLOTS], next: 1, refused: 0, lost: 0 }
    }

    /// Sets the writer to work at a site, whatever becomes of that site, until it is stopped.
    pub fn run(mut self, address: SocketAddr) -> Running {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, count) = (stop.clone(), acknowledged.clone());
        let thread = std::thread::spawn(move || {
            let identity = Identity::named(&format!("writer{}", self.writer));
            while !told.load(Ordering::Relaxed) {
                match Host::login(address, &identity).and_then(|host| self.work(host, &told, &count)) {
                    Ok(()) => {}
                    // Whatever was under way is unknown now; the session is made anew.
                    Err(_) => {
                        self.lost += 1;
                        std::thread::sleep(Duration::from_millis(20));
                    }
                }
            }
            self
        });
        Running { thread, stop, acknowledged }
    }

    fn work(&mut self, mut host: Host, stop: &AtomicBool, count: &AtomicU64) -> Result<(), HostError> {
        let mut under_way: BTreeMap<u64, (usize, u64)> = BTreeMap::new();
        let mut turn = 0;
        loop {
            let stopping = stop.load(Ordering::Relaxed);
            while !stopping && under_way.len() < DEPTH {
                // Every slot in turn; those under way are passed over.
                let slot = loop {
                    turn = (turn + 1) % SLOTS;
                    if under_way.values().all(|(busy, _)| *busy != turn) {
                        break turn;
                    }
                };
                let number = self.next;
                self.next += 1;
                self.slots[slot].sent = number;
                let data = self.content(slot, number);
                let blocks = self.blocks(slot);
                let tag = host.submit(write16(self.lba(slot), blocks as u32, false), Payload::Out(data));
                under_way.insert(tag, (slot, number));
            }
            if under_way.is_empty() {
                host.logout();
                return Ok(());
            }
            let done = host.next_done(ANSWER_PATIENCE)?;
            let Some((slot, number)) = under_way.remove(&done.tag) else { continue };
            match done.result {
                Ok(_) => {
                    self.slots[slot].acknowledged = number;
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) if error.asks_for_retry() => {
                    self.refused += 1;
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => panic!("writer {}: {error:?}", self.writer),
            }
        }
    }

    fn lba(&self, slot: usize) -> u64 {
        self.writer * WRITER_BLOCKS + slot as u64 * SLOT_BLOCKS_MAX
    }

    fn blocks(&self, slot: usize) -> u64 {
        1 + (slot as u64 * 7) % SLOT_BLOCKS_MAX
    }

    fn content(&self, slot: usize, number: u64) -> Bytes {
        let blocks = self.blocks(slot);
        let mut data = BytesMut::with_capacity(blocks as usize * BLOCK);
        for block in 0..blocks {
            for _ in 0..BLOCK / 32 {
                data.put_u64(self.writer);
                data.put_u64(slot as u64);
                data.put_u64(number);
                data.put_u64(block);
            }
        }
        data.freeze()
    }

    /// Reads every slot and says what is wrong with this copy.
    #[track_caller]
    pub fn verify(&self, host: &mut Host, place: &str) {
        let mut wrong = Vec::new();
        for (slot, told) in self.slots.iter().enumerate() {
            let data = host.read(self.lba(slot), self.blocks(slot) as u32);
            wrong.extend(self.judge(slot, *told, &data));
        }
        assert!(wrong.is_empty(), "writer {} at {place}: {wrong:#?}", self.writer);
    }

    /// What is wrong with a slot that shows this, if anything is.
    fn judge(&self, slot: usize, told: Slot, data: &[u8]) -> Option<String> {
        let shown = data.get(16..24).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes);
        let whole =
            if shown == 0 { data.iter().all(|byte| *byte == 0) } else { data == self.content(slot, shown) };
        if !whole {
            Some(format!("slot {slot} is torn (first block shows write {shown}, told {told:?})"))
        } else if shown < told.acknowledged {
            Some(format!("slot {slot} LOST an acknowledged write: shows {shown}, told {told:?}"))
        } else if shown > told.sent {
            Some(format!("slot {slot} shows {shown}, which was never sent: told {told:?}"))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_a_torn_a_foreign_and_an_unsent_write_are_each_told() {
        let load = Load::new(1);
        let told = Slot { sent: 9, acknowledged: 5 };
        let judge = |data: &[u8]| load.judge(4, told, data);
        for sound in [5, 7, 9] {
            assert_eq!(judge(&load.content(4, sound)), None);
        }
        let zeros = vec![0; load.content(4, 1).len()];
        assert_eq!(load.judge(4, Slot::default(), &zeros), None);
        assert!(judge(&zeros).is_some_and(|why| why.contains("LOST")));
        assert!(judge(&load.content(4, 4)).is_some_and(|why| why.contains("LOST")));
        assert!(judge(&load.content(4, 10)).is_some_and(|why| why.contains("never sent")));
        let mut torn = load.content(4, 7).to_vec();
        let last = torn.len() - BLOCK;
        torn[last..].copy_from_slice(&load.content(4, 6)[last..]);
        assert!(judge(&torn).is_some_and(|why| why.contains("torn")));
        assert!(judge(&load.content(5, 7)).is_some_and(|why| why.contains("torn")));
        assert!(judge(&Load::new(2).content(4, 7)).is_some_and(|why| why.contains("torn")));
    }
}
