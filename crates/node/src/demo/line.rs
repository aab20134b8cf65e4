//! The line between two sites of one machine, as something that can be pulled and mended: carries TCP both ways.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// A line that listens at one address and carries every connection on to another. Ends with the process.
pub struct Line {
    whole: Arc<AtomicBool>,
    carried: Arc<Mutex<Vec<TcpStream>>>,
}

impl Line {
    /// Listens on `listener` and carries to `to`.
    pub fn lay(listener: TcpListener, to: SocketAddr) -> Line {
        let whole = Arc::new(AtomicBool::new(true));
        let carried = Arc::new(Mutex::new(Vec::new()));
        let line = Line { whole: whole.clone(), carried: carried.clone() };
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if !whole.load(Ordering::SeqCst) {
                    continue; // dropped: the line is cut
                }
                let Ok(far) = TcpStream::connect(to) else { continue };
                let ends = [(&near, &far), (&far, &near)];
                let mut kept = carried.lock().expect("nobody panics while holding it");
                for (from, to) in ends {
                    let (Ok(from), Ok(to), Ok(end)) = (from.try_clone(), to.try_clone(), from.try_clone())
                    else {
                        continue;
                    };
                    kept.push(end);
                    thread::spawn(move || carry(from, to));
                }
            }
        });
        line
    }

    /// Cuts the line, in the middle of whatever is on it; new connections die, too.
    pub fn pull(&self) {
        self.whole.store(false, Ordering::SeqCst);
        for end in self.carried.lock().expect("nobody panics while holding it").drain(..) {
            // An end that is closed already is as cut as it can be.
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    /// Makes it whole again.
    pub fn mend(&self) {
        self.whole.store(true, Ordering::SeqCst);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 256 << 10];
    if to.set_nodelay(true).is_ok() {
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both)); // closed already: as wanted
}
