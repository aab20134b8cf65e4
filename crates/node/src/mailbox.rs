//! Answers for messages from other threads to the core: a queue and a wake-up, with at most one wake-up under way
//! however many letters are posted. A letter is never lost while the core lives.

use crate::admin::Ask;
use biplex_site::unit::UnitConn;
use biplex_store::{DiskResult, DiskTicket};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

/// What other threads have to say to the core.
pub enum Letter {
    /// A disk order ended.
    DiskDone(DiskTicket, DiskResult),
    /// Someone asks at the admin socket.
    Ask(Ask),
    /// The peer's name was looked up.
    PeerFound(std::io::Result<Vec<SocketAddr>>),
    /// The name of a unit's portal was looked up.
    UnitFound(UnitConn, std::io::Result<Vec<SocketAddr>>),
}

/// Wakes whoever waits; a mio waker in the daemon.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// The end that threads post to.
#[derive(Clone)]
pub struct Sender {
    letters: mpsc::Sender<Letter>,
    woken: Arc<AtomicBool>,
    wake: Wake,
}

/// The end that the core reads.
pub struct Mailbox {
    letters: mpsc::Receiver<Letter>,
    woken: Arc<AtomicBool>,
}

/// A mailbox and its first sender.
pub fn mailbox(wake: Wake) -> (Sender, Mailbox) {
    let (sender, receiver) = mpsc::channel();
    let woken = Arc::new(AtomicBool::new(false));
    (Sender { letters: sender, woken: woken.clone(), wake }, Mailbox { letters: receiver, woken })
}

impl Sender {
    /// Posts a letter. Returns whether someone is there to read it.
    pub fn post(&self, letter: Letter) -> bool {
        let posted = self.letters.send(letter).is_ok();
        // The letter is in the queue before the flag is looked at, and the core lowers the flag before it looks into
        // the queue: so either the core sees the letter or the flag is down and we wake it.
        if posted && !self.woken.swap(true, Ordering::SeqCst) {
            (self.wake)();
        }
        posted
    }
}

impl Mailbox {
    /// Begins a round: letters posted from now on wake the core anew.
    pub fn begin(&self) {
        self.woken.store(false, Ordering::SeqCst);
    }

    /// The next letter, if there is one.
    pub fn next(&self) -> Option<Letter> {
        self.letters.try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn many_letters_cost_one_wake_up() {
        let wakes = Arc::new(AtomicUsize::new(0));
        let counter = wakes.clone();
        let wake = move || {
            counter.fetch_add(1, Ordering::SeqCst);
        };
        let (sender, mailbox) = mailbox(Arc::new(wake));
        for ticket in 0..10 {
            assert!(sender.post(Letter::DiskDone(DiskTicket(ticket), Ok(bytes::Bytes::new()))));
        }
        assert_eq!(wakes.load(Ordering::SeqCst), 1);
        mailbox.begin();
        assert_eq!(std::iter::from_fn(|| mailbox.next()).count(), 10);
        sender.post(Letter::DiskDone(DiskTicket(10), Ok(bytes::Bytes::new())));
        assert_eq!(wakes.load(Ordering::SeqCst), 2);
    }
}
