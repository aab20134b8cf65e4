//! Answers for processes: started, ended by their id, and what they cost in time and in bytes to the medium.

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A process that ends with its owner.
pub struct Process {
    name: String,
    child: Child,
}

/// What processes have used since they began.
#[derive(Clone, Copy, Default, Debug)]
pub struct Usage {
    /// Nanoseconds on a processor, all threads.
    pub cpu: u64,
    /// Bytes that the process had the kernel send to a medium.
    pub written: u64,
}

impl std::ops::Sub for Usage {
    type Output = Usage;

    fn sub(self, earlier: Usage) -> Usage {
        Usage {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            written: self.written.saturating_sub(earlier.written),
        }
    }
}

impl Process {
    /// Starts a program; what it says goes to the file `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> anyhow::Result<Process> {
        let file = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Process { name: name.to_owned(), child })
    }

    /// An error if it has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => anyhow::bail!("{} ended: {status}", self.name),
            None => Ok(()),
        }
    }

    /// Its usage so far. `schedstat` counts nanoseconds where `stat` counts hundredths of a second.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        let process = format!("/proc/{}", self.child.id());
        let mut usage = Usage::default();
        for task in fs::read_dir(format!("{process}/task"))? {
            // A thread may end between being listed and being read.
            let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            usage.cpu +=
                text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        }
        let text = fs::read_to_string(format!("{process}/io"))?;
        let written = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        usage.written = written.and_then(|word| word.parse().ok()).unwrap_or(0);
        Ok(usage)
    }

    /// Asks it to end and waits; kills it if it does not in time.
    pub fn stop(&mut self, patience: Duration) {
        let ended = |child: &mut Child| !matches!(child.try_wait(), Ok(None));
        if ended(&mut self.child) {
            return;
        }
        let asked = Pid::from_raw(self.child.id() as i32).map(|pid| kill_process(pid, Signal::TERM));
        let began = Instant::now();
        while matches!(asked, Some(Ok(()))) && began.elapsed() < patience {
            if ended(&mut self.child) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // Already ended is as good as killed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop(Duration::from_secs(5));
    }
}

/// A loopback address that was free a moment ago.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Tries until it works; an error after `patience`.
pub fn wait_for<T>(
    patience: Duration,
    mut attempt: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<Option<T>> {
    let began = Instant::now();
    loop {
        if let Some(done) = attempt()? {
            return Ok(Some(done));
        }
        if began.elapsed() > patience {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The monotonic clock, nanoseconds; the same for all processes of this machine.
pub fn monotonic() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
