//! One site of the demo: a real daemon in a process of its own, with its config, its log, and its admin socket.

use crate::admin::{self, Question};
use anyhow::{Context, bail};
use biplex_site::Status;
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Addresses of one site.
#[derive(Clone, Copy)]
pub struct Addresses {
    /// Where it listens for its peer.
    pub listen: SocketAddr,
    /// Where it finds its peer: the near end of the line.
    pub peer: SocketAddr,
    /// Where hosts find it.
    pub portal: SocketAddr,
}

/// A running daemon; ended when dropped, unless it is to be kept.
pub struct DemoSite {
    /// "a" or "b".
    pub name: &'static str,
    /// Its config file.
    pub config: PathBuf,
    /// Its volumes' stores.
    pub stores: Vec<PathBuf>,
    socket: PathBuf,
    log: PathBuf,
    child: Child,
    keep: bool,
}

impl DemoSite {
    /// Writes the config and starts the daemon.
    pub fn start(
        directory: &Path,
        name: &'static str,
        target: &str,
        addresses: Addresses,
        keep: bool,
    ) -> anyhow::Result<DemoSite> {
        let config = directory.join(format!("site-{name}.toml"));
        let Addresses { listen, peer, portal } = addresses;
        let text = format!(
            r#"site = "{name}"
state_dir = "{name}"

[clock]
max_offset = "500ms"

[hold]                      # minutes in real life; seconds here, so that a cut can be watched
time = "2s"
every = "1s"
table = "indexed"
memory = "64MiB"

[journal]
size = "512MiB"

[link]
listen = "{listen}"
peer = "{peer}"
tls = {{ cert = "keys/{name}.pem", key = "keys/{name}.key", ca = "keys/pair.pem" }}
lease = "1s"
wait = "2s"

[iscsi]
listen = "{portal}"
target = "{target}"

[admin]
socket = "{name}.sock"

[[volume]]
name = "ledger"
lun = 0
size = "64MiB"
mode = "sync"
store = "{name}/ledger.img"

[[volume]]
name = "archive"
lun = 1
size = "64MiB"
mode = "async"
store = "{name}/archive.img"
"#
        );
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        let log = directory.join(format!("site-{name}.log"));
        let output = File::create(&log)?;
        let child = Command::new(std::env::current_exe()?)
            .args(["serve", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("cannot start a daemon")?;
        let stores = ["ledger", "archive"].map(|volume| directory.join(name).join(format!("{volume}.img")));
        let socket = directory.join(format!("{name}.sock"));
        Ok(DemoSite { name, config, stores: stores.into(), socket, log, child, keep })
    }

    /// Asks the daemon.
    pub fn ask<T: DeserializeOwned>(&self, question: &Question) -> anyhow::Result<T> {
        Ok(serde_json::from_value(admin::ask(&self.socket, question)?)?)
    }

    /// Waits until the site's status is as wanted.
    pub fn wait_until(&mut self, what: &str, wanted: impl Fn(&Status) -> bool) -> anyhow::Result<Status> {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.child.try_wait()? {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                bail!("site {} ended ({status}) instead of {what}; its log:\n{log}", self.name);
            }
            match self.ask::<Status>(&Question::Status) {
                Ok(status) if wanted(&status) => return Ok(status),
                Ok(_) | Err(_) if Instant::now() < until => thread::sleep(Duration::from_millis(20)),
                Ok(status) => bail!("site {} is not {what}: {} ({})", self.name, status.state, status.why),
                Err(error) => return Err(error.context(format!("site {} is not {what}", self.name))),
            }
        }
    }

    /// SHA-256 of each store.
    pub fn checksums(&self) -> anyhow::Result<Vec<String>> {
        self.stores.iter().map(|store| checksum(store)).collect()
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops the daemon in an orderly way.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.signal();
        let ended = self.child.wait()?;
        if !ended.success() {
            bail!("site {} stopped badly: {ended}", self.name);
        }
        Ok(())
    }

    fn signal(&self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // An error means that it is gone already.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

impl Drop for DemoSite {
    fn drop(&mut self) {
        if !self.keep && matches!(self.child.try_wait(), Ok(None)) {
            self.signal();
            let _ = self.child.wait(); // nothing more can be done about it here
        }
    }
}

fn checksum(store: &Path) -> anyhow::Result<String> {
    let mut file = File::open(store).with_context(|| format!("cannot open {}", store.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hash.update(&buffer[..count]);
    }
}
