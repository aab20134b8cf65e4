//! Answers for bytes in and out of one TCP connection: tuning, reading into shared chunks so that payloads are
//! sliced without a copy, and a backlog of what the socket has not taken yet. Never blocks, never reorders. Unsafe in
//! one line: chunks are not zeroed before the kernel fills them.

use bytes::{Buf, Bytes, BytesMut};
use mio::net::TcpStream;
use rustix::io::Errno;
use socket2::{SockRef, TcpKeepalive};
use std::collections::VecDeque;
use std::io::{self, BufRead, ErrorKind, IoSlice, Write};
use std::os::fd::AsFd;
use std::time::Duration;

/// Size of a chunk that reads share.
const CHUNK_BYTES: usize = 256 << 10;
/// A chunk with less room than this is left behind for a new one.
const ROOM_BYTES_MIN: usize = 32 << 10;
/// Pieces handed to the kernel in one call.
const PIECES_MAX: usize = 64;
/// A change of the backlog by this much is worth telling the site.
const BACKLOG_STEP_BYTES: usize = 64 << 10;

/// Settings of a connection on which every delay and every silent death costs hosts: no Nagle, keepalive, and an end
/// when sent bytes stay unacknowledged for `patience`.
pub fn tune(stream: &TcpStream, patience: Duration) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(5))
        .with_interval(Duration::from_secs(2))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(patience))
}

/// Chunks that reads fill one behind the other. What was read is handed out as slices of the chunk; a chunk is freed
/// when its last slice is.
#[derive(Default)]
pub struct Inbox {
    chunk: BytesMut,
}

impl Inbox {
    /// One read of a socket. Empty bytes: the other side has ended.
    pub fn receive(&mut self, socket: impl AsFd) -> io::Result<Bytes> {
        self.make_room();
        let count = loop {
            match rustix::io::read(&socket, self.chunk.spare_capacity_mut()) {
                Ok((received, _)) => break received.len(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        };
        // SAFETY: the read has initialized the first `count` bytes of the room behind the chunk's end, and the chunk
        // is empty, so they are its first bytes.
        #[allow(unsafe_code)]
        unsafe {
            self.chunk.set_len(count);
        }
        Ok(self.chunk.split().freeze())
    }

    /// What a reader has at hand, as much as finds room. Empty bytes: it has no more.
    pub fn take(&mut self, from: &mut impl BufRead) -> io::Result<Bytes> {
        self.make_room();
        let at_hand = from.fill_buf()?;
        let taken = at_hand.get(..self.chunk.capacity()).unwrap_or(at_hand);
        self.chunk.extend_from_slice(taken);
        let count = taken.len();
        from.consume(count);
        Ok(self.chunk.split().freeze())
    }

    fn make_room(&mut self) {
        if self.chunk.capacity() < ROOM_BYTES_MIN {
            self.chunk = BytesMut::with_capacity(CHUNK_BYTES);
        }
    }
}

/// Bytes that wait for the socket, in order.
#[derive(Default)]
pub struct Outbox {
    pieces: VecDeque<Bytes>,
    queued: usize,
    told: usize,
}

impl Outbox {
    /// Queues bytes.
    pub fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.queued += bytes.len();
            self.pieces.push_back(bytes);
        }
    }

    /// Bytes that wait.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Hands as much as it takes to `to`, at most about `limit` bytes. `Ok(false)`: it takes no more for now.
    pub fn write_to(&mut self, to: &mut impl Write, limit: usize) -> io::Result<bool> {
        let mut left = limit;
        while !self.pieces.is_empty() && left > 0 {
            let slices: Vec<IoSlice<'_>> =
                self.pieces.iter().take(PIECES_MAX).map(|p| IoSlice::new(p)).collect();
            match to.write_vectored(&slices) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.took(count);
                    left = left.saturating_sub(count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn took(&mut self, mut count: usize) {
        self.queued -= count;
        while let Some(front) = self.pieces.front_mut() {
            if front.len() > count {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.pieces.pop_front();
        }
    }

    /// The backlog, `more` bytes outside this outbox included, if it changed so much that the site should know.
    pub fn news(&mut self, more: usize) -> Option<usize> {
        let queued = self.queued + more;
        let worth = queued.abs_diff(self.told) >= BACKLOG_STEP_BYTES || (queued == 0 && self.told > 0);
        worth.then(|| {
            self.told = queued;
            queued
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read;

    /// Takes a few bytes at a time and blocks in between.
    struct Narrow {
        got: Vec<u8>,
        takes: Vec<usize>,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.takes.pop() {
                None => {
                    self.got.extend_from_slice(bytes);
                    Ok(bytes.len())
                }
                Some(0) => Err(ErrorKind::WouldBlock.into()),
                Some(most) => {
                    let count = most.min(bytes.len());
                    self.got.extend_from_slice(&bytes[..count]);
                    Ok(count)
                }
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn bytes_leave_in_order_however_the_socket_takes_them(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..20),
            takes in proptest::collection::vec(0usize..40, 0..40),
        ) {
            let mut outbox = Outbox::default();
            pieces.iter().for_each(|piece| outbox.push(Bytes::copy_from_slice(piece)));
            let all = pieces.concat();
            prop_assert_eq!(outbox.queued(), all.len());
            let mut socket = Narrow { got: Vec::new(), takes };
            while !outbox.is_empty() {
                outbox.write_to(&mut socket, 1000).expect("never fails");
                prop_assert_eq!(outbox.queued() + socket.got.len(), all.len());
            }
            prop_assert_eq!(socket.got, all);
        }
    }

    #[test]
    fn reads_share_a_chunk_and_do_not_overwrite_what_was_handed_out() {
        let mut inbox = Inbox::default();
        let (mut there, here) = std::os::unix::net::UnixStream::pair().expect("sockets");
        let mut handed_out = Vec::new();
        for number in 1..=255u8 {
            there.write_all(&vec![number; 5000]).expect("write");
            match number % 2 {
                0 => handed_out.push((number, inbox.receive(&here).expect("receive"))),
                _ => {
                    let mut bytes = vec![0; 5000];
                    (&here).read_exact(&mut bytes).expect("read");
                    handed_out.push((number, inbox.take(&mut bytes.as_slice()).expect("take")));
                }
            }
        }
        for (number, bytes) in &handed_out {
            assert_eq!(bytes.len(), 5000);
            assert!(bytes.iter().all(|byte| byte == number), "{number}");
        }
        let next_to = |pair: &[(u8, Bytes)]| pair[0].1.as_ptr_range().end == pair[1].1.as_ptr();
        let chunks = 1 + handed_out.windows(2).filter(|pair| !next_to(pair)).count();
        assert_eq!(chunks, (255usize * 5000).div_ceil(CHUNK_BYTES - ROOM_BYTES_MIN));
        drop(there);
        assert!(inbox.receive(&here).expect("receive").is_empty());
        assert!(inbox.take(&mut [].as_slice()).expect("take").is_empty());
    }

    #[test]
    fn what_a_reader_has_beyond_the_room_stays_with_it() {
        let mut inbox = Inbox::default();
        let all: Vec<u8> = (0..600_000u32).map(|at| (at % 251) as u8).collect();
        let (mut reader, mut taken) = (all.as_slice(), Vec::new());
        while !reader.is_empty() {
            taken.extend_from_slice(&inbox.take(&mut reader).expect("take"));
        }
        assert_eq!(taken, all);
    }
}
