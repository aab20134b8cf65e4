//! Answers for a long line between the sites: a relay on loopback that hands bytes on a fixed time after they came, in
//! order, without a limit of bandwidth. Two threads for each way of a connection; all end with the connection.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Bytes taken at a time.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces on their way at most: a sender that is faster has to wait.
const PIECES_MAX: usize = 1024;

/// Listens on loopback; what connects there reaches `to`, each way `delay` later. Says where it listens.
pub fn lay(to: SocketAddr, delay: Duration) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let here = listener.local_addr()?;
    named("line", move || {
        for near in listener.incoming().map_while(Result::ok) {
            // Nobody there: the caller sees its connection closed, and dials again.
            if let Ok(far) = TcpStream::connect(to)
                && let Err(error) = join(&near, &far, delay)
            {
                eprintln!("the line to {to}: {error}");
            }
        }
    })?;
    Ok(here)
}

fn join(near: &TcpStream, far: &TcpStream, delay: Duration) -> std::io::Result<()> {
    for (from, to) in [(near, far), (far, near)] {
        from.set_nodelay(true)?;
        let (pieces, arriving) = mpsc::sync_channel(PIECES_MAX);
        let (from, to) = (from.try_clone()?, to.try_clone()?);
        named("line-in", move || take_in(from, &pieces, delay))?;
        named("line-out", move || hand_on(to, &arriving))?;
    }
    Ok(())
}

fn take_in(mut from: TcpStream, pieces: &mpsc::SyncSender<(Instant, Vec<u8>)>, delay: Duration) {
    let mut room = vec![0; PIECE_BYTES];
    while let Ok(count @ 1..) = from.read(&mut room) {
        if pieces.send((Instant::now() + delay, room[..count].to_vec())).is_err() {
            return;
        }
    }
}

fn hand_on(mut to: TcpStream, arriving: &mpsc::Receiver<(Instant, Vec<u8>)>) {
    while let Ok((due, piece)) = arriving.recv() {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&piece).is_err() {
            return;
        }
    }
    // The other end sees that this one has ended; one that is gone already does not mind.
    drop(to.shutdown(Shutdown::Both));
}

fn named(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_late_whole_and_in_order_and_an_end_is_handed_on() {
        let echo = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let to = echo.local_addr().expect("its address");
        std::thread::spawn(move || {
            let (mut end, _) = echo.accept().expect("a connection");
            let mut room = [0; 6];
            end.read_exact(&mut room).expect("six bytes");
            end.write_all(&room).expect("sent");
        });
        let delay = Duration::from_millis(20);
        let mut near = TcpStream::connect(lay(to, delay).expect("a line")).expect("connected");
        let began = Instant::now();
        near.write_all(b"abc").expect("sent");
        near.write_all(b"def").expect("sent");
        let mut back = Vec::new();
        near.read_to_end(&mut back).expect("all, and then the end");
        assert_eq!(back, b"abcdef");
        assert!(began.elapsed() >= 2 * delay, "neither way is shorter than the line");
    }
}
