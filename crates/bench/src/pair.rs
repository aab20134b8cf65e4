//! Answers for a Biplex pair: two daemons as separate processes, in step, with a sync volume (unit 0) and an async
//! one (unit 1) each.

use crate::line;
use crate::process::{Process, Usage, free_address, wait_for};
use anyhow::{Context, bail, ensure};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The target's name at both sites.
pub const TARGET: &str = "iqn.2026-11.io.biplex:bench";
/// Unit number of the sync volume.
pub const SYNC: u16 = 0;
/// Unit number of the async volume.
pub const ASYNC: u16 = 1;

/// What a pair is made of.
pub struct Setup<'a> {
    /// The daemon.
    pub binary: &'a Path,
    /// Where its files go.
    pub directory: &'a Path,
    /// Where site b's journal and stores go, if not there as well.
    pub peer_directory: Option<&'a Path>,
    /// TLS on the line, or plain TCP.
    pub tls: bool,
    /// How long the line is, each way; zero: the sites meet on loopback.
    pub delay: Duration,
    /// Bytes of each volume.
    pub volume_bytes: u64,
    /// Bytes of each journal.
    pub journal_bytes: u64,
    /// `RUST_LOG` of the daemons.
    pub log: &'a str,
}

/// A running pair.
pub struct Pair {
    sites: Vec<Process>,
    sockets: Vec<PathBuf>,
    logs: Vec<PathBuf>,
    /// Where site a serves hosts.
    pub portal: SocketAddr,
}

/// What the pair has written since it started, both sites together.
#[derive(Clone, Copy, Default, Debug)]
pub struct Written {
    /// To the journals, with headers and padding.
    pub journal: u64,
    /// To the backing stores.
    pub store: u64,
}

impl Pair {
    /// Starts both sites and waits until they are in step.
    pub fn start(setup: &Setup<'_>) -> anyhow::Result<Pair> {
        fs::create_dir_all(setup.directory)?;
        setup.peer_directory.map_or(Ok(()), fs::create_dir_all)?;
        let links = [free_address()?, free_address()?];
        let peers = match setup.delay {
            Duration::ZERO => [links[1], links[0]],
            delay => [line::lay(links[1], delay)?, line::lay(links[0], delay)?],
        };
        let portals = [free_address()?, free_address()?];
        if setup.tls {
            let made = Command::new(setup.binary).arg("keys").arg(setup.directory.join("keys")).output()?;
            ensure!(made.status.success(), "biplex keys: {}", String::from_utf8_lossy(&made.stderr));
        }
        let (mut sites, mut sockets, mut logs) = (Vec::new(), Vec::new(), Vec::new());
        for (number, site) in ["a", "b"].into_iter().enumerate() {
            let config = setup.directory.join(format!("{site}.toml"));
            let socket = setup.directory.join(format!("{site}.sock"));
            let log = setup.directory.join(format!("{site}.log"));
            fs::write(&config, setup.config(site, links[number], peers[number], portals[number]))?;
            let mut command = Command::new(setup.binary);
            command.arg("serve").arg("--config").arg(&config).env("RUST_LOG", setup.log);
            sites.push(Process::start(&format!("site {site}"), &mut command, &log)?);
            sockets.push(socket);
            logs.push(log);
        }
        let mut pair = Pair { sites, sockets, logs, portal: portals[0] };
        let in_step = wait_for(Duration::from_secs(120), || {
            pair.check()?;
            Ok(pair.is_in_step().then_some(()))
        });
        match in_step {
            Ok(Some(())) => Ok(pair),
            Ok(None) => bail!("the sites do not come into step; the logs say:\n{}", pair.last_words()),
            Err(error) => Err(error.context(pair.last_words())),
        }
    }

    /// An error if a site has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        self.sites.iter_mut().try_for_each(Process::check)
    }

    fn is_in_step(&self) -> bool {
        self.sockets.iter().all(|socket| {
            status(socket)
                .is_ok_and(|status| status["link"]["in_step"] == true && status["state"] == "paired")
        })
    }

    /// Usage of both sites together.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        let mut sum = Usage::default();
        for site in &self.sites {
            let usage = site.usage()?;
            sum.cpu += usage.cpu;
            sum.written += usage.written;
        }
        Ok(sum)
    }

    /// What both sites say that they have written.
    pub fn written(&self) -> anyhow::Result<Written> {
        let mut written = Written::default();
        for socket in &self.sockets {
            let status = status(socket)?;
            written.journal += status["journal"]["written"].as_u64().context("journal.written")?;
            for volume in status["volumes"].as_array().context("volumes")? {
                written.store += volume["destaged_bytes"].as_u64().context("destaged_bytes")?;
            }
        }
        Ok(written)
    }

    /// Waits until nothing is held at either site: all is on the backing stores.
    pub fn settle(&mut self) -> anyhow::Result<()> {
        let settled = wait_for(Duration::from_secs(60), || {
            self.check()?;
            let mut held = 0;
            for socket in &self.sockets {
                let status = status(socket)?;
                let volumes = status["volumes"].as_array().context("volumes")?;
                held += volumes.iter().filter_map(|volume| volume["records"].as_u64()).sum::<u64>();
            }
            Ok((held == 0).then_some(()))
        })?;
        settled.context("the sites do not destage")
    }

    /// Stops both sites and returns what each has logged.
    pub fn stop(mut self) -> anyhow::Result<Vec<String>> {
        for site in &mut self.sites {
            site.stop(Duration::from_secs(20));
        }
        self.logs.iter().map(|log| Ok(fs::read_to_string(log)?)).collect()
    }

    /// The ends of the logs.
    pub fn last_words(&self) -> String {
        let mut words = String::new();
        for log in &self.logs {
            let text = fs::read_to_string(log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            words.push_str(&lines[lines.len().saturating_sub(8)..].join("\n"));
            words.push('\n');
        }
        words
    }
}

impl Setup<'_> {
    fn config(&self, site: &str, listen: SocketAddr, peer: SocketAddr, portal: SocketAddr) -> String {
        let directory = self.directory.display();
        let data = match (site, self.peer_directory) {
            ("b", Some(peer)) => peer.display(),
            (_, Some(_) | None) => self.directory.display(),
        };
        let tls = match self.tls {
            true => format!(
                "{{ cert = \"{directory}/keys/{site}.pem\", key = \"{directory}/keys/{site}.key\", \
                 ca = \"{directory}/keys/pair.pem\" }}"
            ),
            false => "\"off\"".to_owned(),
        };
        let volume = |name: &str, lun: u16, mode: &str| {
            format!(
                "[[volume]]\nname = \"{name}\"\nlun = {lun}\nsize = \"{} B\"\nmode = \"{mode}\"\n\
                 store = \"{data}/{site}-{name}.img\"\n",
                self.volume_bytes
            )
        };
        format!(
            "site = \"{site}\"\nstate_dir = \"{data}/{site}\"\n\
             [hold]\ntime = \"{HOLD}\"\nevery = \"{EVERY}\"\n\
             [journal]\nsize = \"{} B\"\n\
             [link]\nlisten = \"{listen}\"\npeer = \"{peer}\"\ntls = {tls}\n\
             [iscsi]\nlisten = \"{portal}\"\ntarget = \"{TARGET}\"\n\
             [admin]\nsocket = \"{directory}/{site}.sock\"\n{}{}",
            self.journal_bytes,
            volume("sync", SYNC, "sync"),
            volume("async", ASYNC, "async"),
        )
    }
}

/// Hold time: shorter than a slice, so that each slice pays for destaging.
pub const HOLD: &str = "400ms";
/// Destage interval.
pub const EVERY: &str = "200ms";

/// Asks a site how it is.
fn status(socket: &Path) -> anyhow::Result<Value> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(b"{\"ask\":\"status\"}\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let mut answer: Value = serde_json::from_str(&line)?;
    Ok(answer["ok"].take())
}
