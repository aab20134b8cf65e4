//! Answers for programs that tests run: bounded in time, output kept, ended by their id when they hang.

use std::fmt;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What became of a program.
#[derive(Debug)]
pub struct Ended {
    /// How it was called.
    pub call: String,
    /// How it ended; `None` when it had to be killed at its deadline.
    pub status: Option<ExitStatus>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ended {
    /// Whether it ended by itself with exit code 0.
    pub fn good(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// The exit code, if it ended by itself.
    pub fn code(&self) -> Option<i32> {
        self.status.and_then(|status| status.code())
    }

    /// Its standard output; panics with all it said if it failed.
    #[track_caller]
    pub fn expect_good(self) -> String {
        assert!(self.good(), "{self}");
        self.out
    }

    /// Both outputs.
    pub fn said(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ended { call, status, out, err } = self;
        match status {
            Some(status) => write!(f, "{call}: {status}\n{out}{err}"),
            None => write!(f, "{call}: did not end in time\n{out}{err}"),
        }
    }
}

/// Runs a program to its end, at most so long.
#[track_caller]
pub fn run(command: &mut Command, patience: Duration) -> Ended {
    let call = format!("{command:?}");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {call}: {error}"));
    let (out, err) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let status = end_of(&mut child, patience);
    let text = |thread: std::thread::JoinHandle<Vec<u8>>| {
        let bytes = thread.join().expect("reading a pipe does not panic");
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Ended { call, status, out: text(out), err: text(err) }
}

fn collect<R: Read + Send + 'static>(pipe: Option<R>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // A pipe that breaks has given all it had.
            drop(pipe.read_to_end(&mut bytes));
        }
        bytes
    })
}

/// Waits for a child; kills it at the deadline and then gives `None`.
pub fn end_of(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().expect("the child is ours") {
            return Some(status);
        }
        if Instant::now() > deadline {
            drop(child.kill());
            child.wait().expect("the child is ours");
            return None;
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}
