//! Answers for the line between the sites: a TCP relay that a test can cut, mend, cut after so many bytes, and let
//! fall silent in one direction while the connections stay open.
//!
//! Directions are those of the bytes, whichever site dialled. Invariant: what is forwarded is forwarded unchanged and
//! in order; what is held back in silence is delivered when the silence ends, unless the line was cut meanwhile.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From site a to site b.
    AToB,
    /// From site b to site a.
    BToA,
}

impl Direction {
    fn index(self) -> usize {
        match self {
            Direction::AToB => 0,
            Direction::BToA => 1,
        }
    }

    fn back(self) -> Direction {
        match self {
            Direction::AToB => Direction::BToA,
            Direction::BToA => Direction::AToB,
        }
    }
}

#[derive(Default)]
struct State {
    cut: bool,
    over: bool,
    silent: [bool; 2],
    /// Bytes that may still pass before the line cuts itself.
    allowance: [Option<u64>; 2],
    passed: [u64; 2],
    cuts: u64,
    sockets: Vec<TcpStream>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the lock panics")
    }

    fn cut(&self, state: &mut State) {
        state.cut = true;
        state.cuts += 1;
        state.allowance = [None; 2];
        for socket in state.sockets.drain(..) {
            // It may be gone already.
            drop(socket.shutdown(Shutdown::Both));
        }
        self.changed.notify_all();
    }
}

/// The line. Cut for good when dropped.
pub struct Line {
    shared: Arc<Shared>,
    /// Where site a reaches site b.
    pub to_b: SocketAddr,
    /// Where site b reaches site a.
    pub to_a: SocketAddr,
}

impl Line {
    /// A whole line between two sites that listen at these addresses.
    pub fn between(a: SocketAddr, b: SocketAddr) -> Line {
        let shared = Arc::new(Shared::default());
        let to_b = listen(&shared, b, Direction::AToB);
        let to_a = listen(&shared, a, Direction::BToA);
        Line { shared, to_b, to_a }
    }

    /// Ends all connections and takes none until [`Line::mend`].
    pub fn cut(&self) {
        self.shared.cut(&mut self.shared.lock());
    }

    /// Whole again, in both directions.
    pub fn mend(&self) {
        let mut state = self.shared.lock();
        (state.cut, state.silent, state.allowance) = (false, [false; 2], [None; 2]);
        self.shared.changed.notify_all();
    }

    /// Lets exactly so many more bytes pass in this direction, then cuts: most likely in the middle of a frame.
    pub fn cut_after(&self, direction: Direction, bytes: u64) {
        self.shared.lock().allowance[direction.index()] = Some(bytes);
    }

    /// Nothing passes in this direction any more, though connections stay open and new ones are taken.
    pub fn silence(&self, direction: Direction) {
        self.shared.lock().silent[direction.index()] = true;
    }

    /// Whether the line is cut.
    pub fn is_cut(&self) -> bool {
        self.shared.lock().cut
    }

    /// Bytes that passed in this direction so far.
    pub fn passed(&self, direction: Direction) -> u64 {
        self.shared.lock().passed[direction.index()]
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.over = true;
        self.shared.cut(&mut state);
        drop(state);
        // Wakes the listeners, which then see that it is over.
        for address in [self.to_a, self.to_b] {
            drop(TcpStream::connect(address));
        }
    }
}

/// Relays from a port of its own to `site`; `direction` is that of the dialler's bytes.
fn listen(shared: &Arc<Shared>, site: SocketAddr, direction: Direction) -> SocketAddr {
    let listener = TcpListener::bind(crate::pair::free_address()).expect("a free port can be listened at");
    let address = listener.local_addr().expect("a listener has an address");
    let shared = shared.clone();
    std::thread::spawn(move || {
        for dialler in listener.incoming() {
            if shared.lock().over {
                return;
            }
            let Ok(dialler) = dialler else { continue };
            connect(&shared, dialler, site, direction);
        }
    });
    address
}

fn connect(shared: &Arc<Shared>, dialler: TcpStream, site: SocketAddr, direction: Direction) {
    if shared.lock().cut {
        return;
    }
    let Ok(listener) = TcpStream::connect(site) else { return };
    let ends = (|| {
        dialler.set_nodelay(true)?;
        listener.set_nodelay(true)?;
        Ok::<_, std::io::Error>([
            dialler.try_clone()?,
            dialler.try_clone()?,
            listener.try_clone()?,
            listener.try_clone()?,
        ])
    })();
    let Ok([dialler_kept, dialler_out, listener_kept, listener_out]) = ends else { return };
    let mut state = shared.lock();
    if state.cut {
        return;
    }
    state.sockets.extend([dialler_kept, listener_kept]);
    drop(state);
    pump(shared, dialler, listener_out, direction);
    pump(shared, listener, dialler_out, direction.back());
}

fn pump(shared: &Arc<Shared>, mut from: TcpStream, mut to: TcpStream, direction: Direction) {
    let shared = shared.clone();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            let Some((may_pass, then_cut)) = admit(&shared, direction, count) else { break };
            let Some(bytes) = buffer.get(..may_pass) else { break };
            let written = to.write_all(bytes);
            if then_cut {
                shared.cut(&mut shared.lock());
            }
            if written.is_err() || then_cut {
                break;
            }
        }
        // Each end learns that the other is gone, except in silence: silence hides an end, too.
        let state = shared.lock();
        let state = shared
            .changed
            .wait_while(state, |state| state.silent[direction.index()] && !state.cut)
            .expect("no holder of the lock panics");
        drop(state);
        drop(to.shutdown(Shutdown::Write));
    });
}

/// How many of these bytes may pass, and whether the line is cut then. `None`: it was cut.
fn admit(shared: &Shared, direction: Direction, count: usize) -> Option<(usize, bool)> {
    let at = direction.index();
    let mut state = shared
        .changed
        .wait_while(shared.lock(), |state| state.silent[at] && !state.cut)
        .expect("no holder of the lock panics");
    if state.cut {
        return None;
    }
    let may_pass = state.allowance[at].map_or(count, |left| count.min(left as usize));
    let then_cut = if let Some(left) = &mut state.allowance[at] {
        *left -= may_pass as u64;
        *left == 0
    } else {
        false
    };
    state.passed[at] += may_pass as u64;
    Some((may_pass, then_cut))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    struct Ends {
        line: Line,
        listener: TcpListener,
    }

    impl Ends {
        fn new() -> Ends {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let site = listener.local_addr().expect("an address");
            Ends { line: Line::between(site, site), listener }
        }

        /// A connection over the line as site a dials it: a's end and b's.
        fn connect(&self) -> (TcpStream, TcpStream) {
            let a = TcpStream::connect(self.line.to_b).expect("a connection");
            let (b, _) = self.listener.accept().expect("a connection");
            for end in [&a, &b] {
                end.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
            }
            (a, b)
        }
    }

    #[test]
    fn exactly_the_allowed_bytes_pass_before_the_line_cuts_itself() {
        let ends = Ends::new();
        let (mut a, mut b) = ends.connect();
        ends.line.cut_after(Direction::AToB, 5);
        a.write_all(b"0123456789").expect("written");
        let mut heard = Vec::new();
        drop(b.read_to_end(&mut heard));
        assert_eq!(heard, b"01234");
        assert!(ends.line.is_cut());
        assert_eq!(ends.line.passed(Direction::AToB), 5);
        ends.line.mend();
        let (mut a, mut b) = ends.connect();
        a.write_all(b"again").expect("written");
        let mut heard = [0; 5];
        b.read_exact(&mut heard).expect("heard");
        assert_eq!(&heard, b"again");
    }

    #[test]
    fn silence_holds_back_one_direction_and_what_it_held_comes_when_it_ends() {
        let ends = Ends::new();
        let (mut a, mut b) = ends.connect();
        ends.line.silence(Direction::AToB);
        a.write_all(b"held").expect("written");
        b.write_all(b"back").expect("written");
        let mut heard = [0; 4];
        a.read_exact(&mut heard).expect("the other direction is open");
        assert_eq!(&heard, b"back");
        b.set_read_timeout(Some(Duration::from_millis(100))).expect("a socket");
        assert!(b.read(&mut heard).is_err(), "silence was broken");
        b.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
        ends.line.mend();
        b.read_exact(&mut heard).expect("heard at last");
        assert_eq!(&heard, b"held");
    }

    #[test]
    fn a_cut_line_takes_no_connection() {
        let ends = Ends::new();
        let (mut a, _b) = ends.connect();
        ends.line.cut();
        let mut end = Vec::new();
        assert!(!matches!(a.read_to_end(&mut end), Ok(1..)));
        let mut dialler = TcpStream::connect(ends.line.to_b).expect("the port itself answers");
        dialler.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
        assert!(!matches!(dialler.read_to_end(&mut end), Ok(1..)));
    }
}
