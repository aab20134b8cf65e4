//! The line between the sites: TCP as an application sees it.
//!
//! Each direction is an ordered byte stream that arrives late and in other pieces than it was sent in. A cut takes an
//! arbitrary suffix of what is under way, separately per direction, and each end learns of it in its own time. A
//! direction can also stop delivering while both ends believe in the connection. Plans nothing by itself: the world
//! asks when the next bytes are due.

use crate::random::Random;
use biplex_engine::SiteId;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;

/// One direction of a connection.
#[derive(Clone, Debug, Default)]
struct Pipe {
    flying: VecDeque<(u64, Bytes)>,
    last_arrival: u64,
    queued: usize,
    told: usize,
}

/// A connection, as both ends know it.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The world's number for it.
    pub id: u64,
    /// The number by which each end knows it.
    pub link: [u64; 2],
    /// Which ends have been told that it stands.
    pub open: [bool; 2],
    pipes: [Pipe; 2],
}

/// The line.
#[derive(Clone, Debug)]
pub struct Link {
    /// The line can carry a connection.
    pub whole: bool,
    /// The connection that stands, if one does.
    pub connection: Option<Connection>,
    /// Directions (by sender) that deliver nothing.
    pub silent: [bool; 2],
    /// One-way delay, nanoseconds, least and most.
    pub delay: (u64, u64),
    /// All delays are multiplied by this.
    pub slowness: u64,
    /// Bytes that the sender's socket takes before it reports a backlog.
    pub buffer: usize,
    connections: u64,
    numbers: [u64; 2],
    random: Random,
}

impl Link {
    /// A whole line without a connection.
    pub fn new(delay: (u64, u64), buffer: usize, random: Random) -> Link {
        Link {
            whole: true,
            connection: None,
            silent: [false; 2],
            delay,
            slowness: 1,
            buffer,
            connections: 0,
            numbers: [10, 500],
            random,
        }
    }

    /// Makes a connection whose ends learn of it at these times. Returns its number.
    pub fn connect(&mut self, opens: [u64; 2]) -> u64 {
        self.connections += 1;
        for number in &mut self.numbers {
            *number += self.random.between(1, 3);
        }
        let pipe = |receiver: SiteId| Pipe { last_arrival: opens[receiver.index()], ..Pipe::default() };
        self.connection = Some(Connection {
            id: self.connections,
            link: self.numbers,
            open: [false; 2],
            pipes: [pipe(SiteId::B), pipe(SiteId::A)],
        });
        self.connections
    }

    /// Takes bytes that `from` sends on its link number `link`; returns when they may arrive. Bytes for a connection
    /// that is gone vanish.
    pub fn send(&mut self, time: u64, from: SiteId, link: u64, bytes: Bytes) -> Option<u64> {
        let delay = self.random.within(self.delay) * self.slowness;
        let connection = self.connection.as_mut().filter(|c| c.link[from.index()] == link)?;
        let pipe = &mut connection.pipes[from.index()];
        pipe.last_arrival = pipe.last_arrival.max(time + delay);
        pipe.queued += bytes.len();
        pipe.flying.push_back((pipe.last_arrival, bytes));
        Some(pipe.last_arrival)
    }

    /// What arrives now at the peer of `from`, as one piece, and when to ask again.
    pub fn deliver(&mut self, time: u64, from: SiteId) -> (Option<Bytes>, Option<u64>) {
        if self.silent[from.index()] {
            return (None, None);
        }
        let Some(connection) = self.connection.as_mut() else { return (None, None) };
        let pipe = &mut connection.pipes[from.index()];
        let mut arrived = BytesMut::new();
        let mut again = None;
        while let Some((due, bytes)) = pipe.flying.pop_front() {
            if due > time {
                pipe.flying.push_front((due, bytes));
                again = Some(due);
                break;
            }
            if self.random.one_in(4) {
                let cut = self.random.below(bytes.len() as u64 + 1) as usize;
                arrived.extend_from_slice(&bytes[..cut]);
                let later = time + self.random.between(1, 200_000);
                if cut < bytes.len() {
                    pipe.flying.push_front((later, bytes.slice(cut..)));
                }
                again = Some(later);
                break;
            }
            arrived.extend_from_slice(&bytes);
        }
        pipe.queued -= arrived.len();
        ((!arrived.is_empty()).then(|| arrived.freeze()), again)
    }

    /// The backlog of `from`'s socket, if it differs enough from what was last told.
    pub fn backlog(&mut self, from: SiteId) -> Option<(u64, usize)> {
        let buffer = self.buffer;
        let connection = self.connection.as_mut().filter(|c| c.open[from.index()])?;
        let pipe = &mut connection.pipes[from.index()];
        let queued = pipe.queued.saturating_sub(buffer);
        let much = queued.abs_diff(pipe.told) > buffer / 4 || (queued == 0 && pipe.told > 0);
        much.then(|| {
            pipe.told = queued;
            (connection.link[from.index()], queued)
        })
    }

    /// When the pipe from `from` has its next arrival due, for going on after a silence.
    pub fn due(&self, from: SiteId) -> Option<u64> {
        self.connection.as_ref()?.pipes[from.index()].flying.front().map(|(due, _)| *due)
    }

    /// Ends the connection: returns it with, per receiving site, the last bytes that still arrive: a prefix of what
    /// was under way that may end within a message.
    pub fn cut(&mut self) -> Option<(Connection, [Option<Bytes>; 2])> {
        let mut connection = self.connection.take()?;
        let mut rest = |from: SiteId| {
            let flying = std::mem::take(&mut connection.pipes[from.index()].flying);
            let all: Vec<u8> = flying.into_iter().flat_map(|(_, bytes)| bytes).collect();
            let keep = match self.random.below(3) {
                0 => 0,
                1 => all.len() as u64,
                _ => self.random.below(all.len() as u64 + 1),
            };
            let keep = if self.silent[from.index()] { 0 } else { keep as usize };
            (keep > 0).then(|| Bytes::copy_from_slice(&all[..keep]))
        };
        let (from_a, from_b) = (rest(SiteId::A), rest(SiteId::B));
        Some((connection, [from_b, from_a]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_leaves_a_prefix_of_the_stream() {
        for seed in 0..200 {
            let mut link = Link::new((1_000, 9_000), 1 << 16, Random::new(seed));
            link.connect([0, 0]);
            let number = link.connection.as_ref().unwrap().link[0];
            let mut got = Vec::new();
            for (index, part) in [b"abc".as_slice(), b"defgh", b"ijklmnop"].iter().enumerate() {
                link.send(index as u64 * 3_000, SiteId::A, number, Bytes::from_static(part)).unwrap();
            }
            got.extend(link.deliver(6_000, SiteId::A).0.into_iter().flatten());
            let (_, [at_a, at_b]) = link.cut().unwrap();
            got.extend(at_b.into_iter().flatten());
            assert!(at_a.is_none());
            assert!(b"abcdefghijklmnop".starts_with(&got), "{got:?}");
        }
    }
}
