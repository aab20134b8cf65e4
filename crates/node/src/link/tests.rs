//! The link's promises, over real sockets on loopback.

use super::*;
use crate::config::TlsFiles;
use crate::keys;
use crate::mailbox::{Mailbox, mailbox};
use mio::{Events, Poll};
use std::io::{Read, Write};
use std::net::TcpListener as StdListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A link with a little core around it.
struct End {
    poll: Poll,
    link: Link,
    next_token: usize,
    events: Vec<Event>,
    _mailbox: Mailbox,
    address: SocketAddr,
}

fn free_port() -> SocketAddr {
    StdListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}

fn mono() -> u64 {
    crate::core_loop::now().mono
}

impl End {
    fn new(site: SiteId, address: SocketAddr, peer: SocketAddr, keys: Option<Keys>) -> End {
        let poll = Poll::new().expect("a poll");
        let (sender, mailbox) = mailbox(Arc::new(|| ()));
        let link = Link::listen(
            (site, address, peer.to_string()),
            keys,
            sender,
            (poll.registry(), Token(2)),
            mono(),
        );
        let link = link.expect("listens");
        End { poll, link, next_token: 16, events: Vec::new(), _mailbox: mailbox, address }
    }

    fn turn(&mut self) {
        let mut ready = Events::with_capacity(64);
        self.poll.poll(&mut ready, Some(Duration::from_millis(2))).expect("polls");
        let registry = self.poll.registry();
        let (next_token, events) = (&mut self.next_token, &mut self.events);
        let mut around = Surroundings { now: mono(), registry, next_token, events };
        for event in &ready {
            if event.token() == Token(2) {
                self.link.accept(&mut around);
            } else {
                let readable = event.is_readable() || event.is_read_closed() || event.is_error();
                self.link.note(event.token().0, readable, event.is_writable() || event.is_error());
            }
        }
        self.link.turn(&mut around);
        self.link.flush(&mut around);
    }

    fn up(&self) -> Option<u64> {
        self.link.established.map(|token| token as u64)
    }

    fn received(&self) -> Vec<u8> {
        let up = self.up();
        let bytes = self.events.iter().filter_map(|event| match event {
            Event::LinkBytes { link, bytes } if Some(*link) == up => Some(bytes.to_vec()),
            _ => None,
        });
        bytes.flatten().collect()
    }

    fn connections(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, Event::LinkConnected { .. })).count()
    }
}

fn turn_until(ends: &mut [&mut End], what: &str, done: impl Fn(&[&mut End]) -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !done(ends) {
        assert!(Instant::now() < until, "{what} did not happen");
        ends.iter_mut().for_each(|end| end.turn());
    }
}

fn keys_of(directory: &Path, site: SiteId) -> Keys {
    let file = |end: &str| directory.join(format!("{site}.{end}"));
    let files = TlsFiles { cert: file("pem"), key: file("key"), ca: directory.join("pair.pem") };
    Keys::load(&files, site).expect("keys")
}

fn pair(keys: Option<&Path>) -> (End, End) {
    let (at_a, at_b) = (free_port(), free_port());
    let keys = |site| keys.map(|directory| keys_of(directory, site));
    (End::new(SiteId::A, at_a, at_b, keys(SiteId::A)), End::new(SiteId::B, at_b, at_a, keys(SiteId::B)))
}

fn carries_bytes_both_ways(keys: Option<&Path>) {
    let (mut a, mut b) = pair(keys);
    turn_until(&mut [&mut a, &mut b], "the link", |ends| ends.iter().all(|end| end.up().is_some()));
    let much: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    for end in [&mut a, &mut b] {
        let link = end.up().expect("up");
        much.chunks(70_001).for_each(|piece| end.link.send(link, Bytes::copy_from_slice(piece)));
    }
    let length = much.len();
    turn_until(&mut [&mut a, &mut b], "the bytes", |ends| {
        ends.iter().all(|end| end.received().len() == length)
    });
    assert!(a.received() == much && b.received() == much, "bytes came changed");
}

#[test]
fn plain_link_carries_bytes_both_ways() {
    carries_bytes_both_ways(None);
}

#[test]
fn tls_link_carries_bytes_both_ways() {
    let directory = tempfile::tempdir().expect("a directory");
    keys::make(directory.path()).expect("keys");
    carries_bytes_both_ways(Some(directory.path()));
}

#[test]
fn garbage_and_silence_never_disturb_the_established_link() {
    let directory = tempfile::tempdir().expect("a directory");
    keys::make(directory.path()).expect("keys");
    for keys in [None, Some(directory.path())] {
        let (mut a, mut b) = pair(keys);
        turn_until(&mut [&mut a, &mut b], "the link", |ends| ends.iter().all(|end| end.up().is_some()));
        let before = (a.up(), a.connections());
        let mut callers = Vec::new();
        for number in 0..HALF_OPEN_MAX + 4 {
            let mut caller = std::net::TcpStream::connect(a.address).expect("connects");
            if number % 2 == 0 {
                caller.write_all(b"GET / HTTP/1.1\r\nHost: biplex\r\n\r\n").expect("written");
            }
            callers.push(caller);
        }
        for _ in 0..50 {
            a.turn();
            b.turn();
        }
        assert_eq!((a.up(), a.connections()), before);
        assert!(a.link.sessions.len() <= HALF_OPEN_MAX + 1, "half-open connections are bounded");
        let mut refused = callers.swap_remove(0);
        refused.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
        let mut said = Vec::new();
        drop(refused.read_to_end(&mut said));
        assert!(said.len() <= 64, "garbage is told no more than a greeting or an alert");
    }
}

#[test]
fn a_wrong_certificate_is_refused_and_the_right_one_still_served() {
    let (ours, theirs) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    keys::make(ours.path()).expect("keys");
    keys::make(theirs.path()).expect("keys");
    let (at_a, at_b) = (free_port(), free_port());
    let mut a = End::new(SiteId::A, at_a, at_b, Some(keys_of(ours.path(), SiteId::A)));
    let mut stranger = End::new(SiteId::B, free_port(), at_a, Some(keys_of(theirs.path(), SiteId::B)));
    turn_until(&mut [&mut a, &mut stranger], "the refusal", |ends| ends[1].link.failures > 1);
    assert_eq!((a.up(), stranger.up()), (None, None));
    drop(stranger);
    let mut b = End::new(SiteId::B, at_b, at_a, Some(keys_of(ours.path(), SiteId::B)));
    turn_until(&mut [&mut a, &mut b], "the link", |ends| ends.iter().all(|end| end.up().is_some()));
}

#[test]
fn a_lost_link_is_dialled_anew_and_told() {
    let (mut a, mut b) = pair(None);
    turn_until(&mut [&mut a, &mut b], "the link", |ends| ends.iter().all(|end| end.up().is_some()));
    let (first, address, peer) = (a.up().expect("up"), b.address, a.address);
    drop(b);
    turn_until(&mut [&mut a], "the loss", |ends| ends[0].up().is_none());
    assert!(a.events.iter().any(|event| matches!(event, Event::LinkClosed { link } if *link == first)));
    let mut b = End::new(SiteId::B, address, peer, None);
    turn_until(&mut [&mut a, &mut b], "the new link", |ends| ends.iter().all(|end| end.up().is_some()));
    assert_ne!(a.up(), Some(first));
}

#[test]
fn a_site_that_calls_itself_is_refused() {
    let (at_a, at_other) = (free_port(), free_port());
    let mut a = End::new(SiteId::A, at_a, at_other, None);
    let mut twin = End::new(SiteId::A, at_other, at_a, None);
    turn_until(&mut [&mut a, &mut twin], "the refusal", |ends| ends.iter().any(|end| end.link.failures > 0));
    assert_eq!((a.up(), twin.up()), (None, None));
}
