//! Answers for a `tgt` of Debian's as the SCSI unit that is a site's store: one target with one LUN on a file, in the
//! foreground, on a port and a control channel of its own; killed and started again when a test wants it.

use crate::pair::free_address;
use crate::program;
use crate::wait::wait_until;
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long one call of tgtadm may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A tgt with one unit.
pub struct Tgt {
    /// The file behind the unit.
    pub file: PathBuf,
    /// Where it serves.
    pub portal: SocketAddr,
    name: String,
    child: Option<Child>,
}

fn find(program: &str) -> Option<PathBuf> {
    let places = ["/usr/sbin", "/sbin", "/usr/bin"];
    places.iter().map(|place| Path::new(place).join(program)).find(|path| path.exists())
}

impl Tgt {
    /// Whether tgt is installed.
    pub fn is_installed() -> bool {
        find("tgtd").is_some() && find("tgtadm").is_some()
    }

    /// Makes a unit of `bytes` zeros and starts its target.
    #[track_caller]
    pub fn start(directory: &Path, name: &str, bytes: u64) -> Tgt {
        let file = directory.join(format!("tgt-{name}.img"));
        File::create(&file).and_then(|file| file.set_len(bytes)).expect("a file can be made");
        let mut tgt = Tgt { file, portal: free_address(), name: name.to_owned(), child: None };
        tgt.restart();
        tgt
    }

    /// The unit as `store` of a volume.
    pub fn url(&self) -> String {
        format!("iscsi://{}/{}/1", self.portal, self.target())
    }

    fn target(&self) -> String {
        format!("iqn.2026-11.io.biplex:tgt-{}", self.name)
    }

    /// Control channels are numbered up to 32767.
    fn channel(&self) -> String {
        (self.portal.port() % 32_768).to_string()
    }

    /// Starts it (again) on the same file and port.
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "tgtd runs already");
        let portal = format!("portal={}", self.portal);
        let mut command = Command::new(find("tgtd").expect("tgt is installed"));
        command.args(["-f", "-C", &self.channel(), "--iscsi", &portal]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.child = Some(child.expect("tgtd can be started"));
        // Its initiators call at once: whoever comes before the target is made is refused and calls again.
        wait_until("tgtd", || TcpStream::connect(self.portal).map(drop).map_err(|error| error.to_string()));
        let (target, file) = (self.target(), self.file.display().to_string());
        self.tell(&["--op", "new", "--mode", "target", "--tid", "1", "-T", &target]);
        self.tell(&["--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", &file]);
        self.tell(&["--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"]);
    }

    /// Runs tgtadm on it.
    #[track_caller]
    pub fn tell(&self, words: &[&str]) -> String {
        let mut command = Command::new(find("tgtadm").expect("tgt is installed"));
        command.args(["-C", &self.channel(), "--lld", "iscsi"]).args(words);
        program::run(&mut command, PATIENCE).expect_good()
    }

    /// Kills it. tgtd takes no notice of SIGTERM, and a killed one leaves its control socket behind.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
        for end in ["", ".lock"] {
            drop(std::fs::remove_file(format!("/var/run/tgtd/socket.{}{end}", self.channel())));
        }
    }
}

impl Drop for Tgt {
    fn drop(&mut self) {
        self.kill();
    }
}
