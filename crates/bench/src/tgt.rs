//! Answers for the peer that Biplex is measured against: Debian's `tgt`, one unreplicated target in user space on a
//! file of the same size on the same file system.

use crate::process::{Process, Usage, free_address, wait_for};
use anyhow::{Context, ensure};
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The target's name.
pub const TARGET: &str = "iqn.2026-11.io.biplex:tgt";
/// The unit's number: tgt keeps 0 for a controller.
pub const UNIT: u16 = 1;

/// A running tgt.
pub struct Tgt {
    process: Process,
    channel: String,
    /// Where it serves hosts.
    pub portal: SocketAddr,
}

/// The daemon and its control program, if they are installed.
pub fn find() -> Option<(PathBuf, PathBuf)> {
    let find = |name: &str| {
        ["/usr/sbin", "/sbin", "/usr/bin"]
            .iter()
            .map(|place| Path::new(place).join(name))
            .find(|path| path.exists())
    };
    Some((find("tgtd")?, find("tgtadm")?))
}

impl Tgt {
    /// Starts a tgt of its own, on a private port and control channel.
    pub fn start(directory: &Path, bytes: u64) -> anyhow::Result<Tgt> {
        let (daemon, control) = find().context("tgt is not installed: apt-get install tgt")?;
        let store = directory.join("tgt.img");
        File::create(&store)?.set_len(bytes)?;
        let portal = free_address()?;
        // Control channels are numbered up to 32767.
        let channel = (portal.port() % 32_768).to_string();
        let mut command = Command::new(daemon);
        command.args(["-f", "-C", &channel, "--iscsi", &format!("portal={portal}")]);
        let mut process = Process::start("tgtd", &mut command, &directory.join("tgt.log"))?;
        let up = wait_for(Duration::from_secs(10), || {
            process.check()?;
            Ok(TcpStream::connect(portal).ok())
        })?;
        up.context("tgtd does not listen")?;
        let tell = |words: &[&str]| -> anyhow::Result<()> {
            let told =
                Command::new(&control).args(["-C", &channel, "--lld", "iscsi"]).args(words).output()?;
            let said = String::from_utf8_lossy(&told.stderr);
            ensure!(told.status.success(), "tgtadm {}: {said}", words.join(" "));
            Ok(())
        };
        let store = store.display().to_string();
        tell(&["--op", "new", "--mode", "target", "--tid", "1", "-T", TARGET])?;
        tell(&["--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", &store])?;
        tell(&["--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"])?;
        Ok(Tgt { process, channel, portal })
    }

    /// Its usage so far.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        self.process.usage()
    }
}

impl Drop for Tgt {
    /// tgtd takes no notice of SIGTERM, and a killed one leaves its control socket behind.
    fn drop(&mut self) {
        self.process.stop(Duration::ZERO);
        for end in ["", ".lock"] {
            drop(std::fs::remove_file(format!("/var/run/tgtd/socket.{}{end}", self.channel)));
        }
    }
}
