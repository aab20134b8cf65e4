//! Answers for a pair of real daemons: config, keys, start, orderly end, kill, status, logs.
//!
//! Each pair has a directory, ports and a [`Line`] of its own. Daemons are ended by process id when the pair is dropped;
//! when a test fails, the directory is kept and the ends of both logs are printed.

use crate::line::Line;
use crate::program::{self, Ended};
use crate::wait::wait_until;
use biplex_site::Status;
use rustix::process::{Pid, Signal, kill_process};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// The target's name in all tests.
pub const TARGET: &str = "iqn.2026-11.io.biplex:e2e";
/// How long one call of the command line may take.
const COMMAND_PATIENCE: Duration = Duration::from_secs(20);
/// How long an orderly end may take.
const END_PATIENCE: Duration = Duration::from_secs(30);
/// Lines of each log that are printed when a test fails.
const LOG_LINES_SHOWN: usize = 60;

/// One of the two sites.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SiteName {
    /// Site a, which has priority.
    A,
    /// Site b.
    B,
}

impl SiteName {
    /// Both, a first.
    pub const BOTH: [SiteName; 2] = [SiteName::A, SiteName::B];

    /// The other one.
    pub fn peer(self) -> SiteName {
        match self {
            SiteName::A => SiteName::B,
            SiteName::B => SiteName::A,
        }
    }

    /// "a" or "b".
    pub fn letter(self) -> &'static str {
        match self {
            SiteName::A => "a",
            SiteName::B => "b",
        }
    }

    fn index(self) -> usize {
        match self {
            SiteName::A => 0,
            SiteName::B => 1,
        }
    }
}

/// How a pair is configured. The defaults suit most tests: sync, indexed, destage within a second.
#[derive(Clone, Debug)]
pub struct Settings {
    /// "sync", "async" or "flush".
    pub mode: &'static str,
    /// "indexed" or "plain".
    pub table: &'static str,
    /// `[hold] time`.
    pub hold_time: &'static str,
    /// `[hold] every`.
    pub hold_every: &'static str,
    /// `[hold] memory`.
    pub hold_memory: &'static str,
    /// `[journal] size`.
    pub journal: &'static str,
    /// `[[volume]] size`.
    pub volume: &'static str,
    /// More lines for the `[[volume]]` table.
    pub rules: &'static str,
    /// TLS on the link, or plain TCP.
    pub tls: bool,
    /// A `chap = …` line for `[iscsi]`.
    pub chap: &'static str,
    /// `[link] lease`.
    pub lease: &'static str,
    /// `[link] wait`.
    pub wait: &'static str,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            mode: "sync",
            table: "indexed",
            hold_time: "300ms",
            hold_every: "200ms",
            hold_memory: "64MiB",
            journal: "64MiB",
            volume: "32MiB",
            rules: "",
            tls: true,
            chap: "",
            lease: "1s",
            wait: "3s",
        }
    }
}

/// The binary under test: `$BIPLEX_BIN`, else the release build in the workspace's target directory.
pub fn binary() -> PathBuf {
    let path = std::env::var_os("BIPLEX_BIN").map_or_else(
        || {
            let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
            let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
            workspace.join(target).join("release/biplex")
        },
        PathBuf::from,
    );
    assert!(
        path.exists(),
        "{} is not there: build it with `cargo build --release -p biplex`, or name it in BIPLEX_BIN",
        path.display()
    );
    path
}

/// An address on loopback that nobody listens at, outside the range from which the kernel takes ports for outgoing
/// connections, so that nobody takes it meanwhile; different for each call and, most likely, each process.
pub fn free_address() -> SocketAddr {
    const FIRST: u16 = 10_000;
    const PORTS: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = (std::process::id() % 199) as u16 * 100;
    for _ in 0..PORTS {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from(([127, 0, 0, 1], FIRST + (base + step) % PORTS));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no free port on loopback");
}

/// Runs the binary with these arguments.
#[track_caller]
pub fn biplex(arguments: &[&str]) -> Ended {
    program::run(Command::new(binary()).args(arguments), COMMAND_PATIENCE)
}

/// One daemon and what belongs to it.
pub struct Site {
    /// Which site.
    pub name: SiteName,
    /// Its directory.
    pub directory: PathBuf,
    /// Its config file.
    pub config: PathBuf,
    /// Where hosts reach it.
    pub iscsi: SocketAddr,
    /// Where the peer reaches it (past the line).
    pub link: SocketAddr,
    /// Its admin socket.
    pub socket: PathBuf,
    child: Option<Child>,
}

impl Site {
    /// Starts the daemon; it recovers before it listens, see [`Pair::wait_paired`] and [`Site::wait_answers`].
    #[track_caller]
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "site {} runs already", self.name.letter());
        let log =
            OpenOptions::new().create(true).append(true).open(self.log_path()).expect("a log can be written");
        let child = self.serve_command().stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.child = Some(child.expect("the daemon can be started"));
    }

    fn serve_command(&self) -> Command {
        let mut command = Command::new(binary());
        command.arg("serve").arg("--config").arg(&self.config);
        command.env_remove("RUST_LOG").env("NO_COLOR", "1");
        command
    }

    /// Starts the daemon where it should refuse, and gives its exit code and words.
    #[track_caller]
    pub fn start_refused(&self) -> Ended {
        program::run(&mut self.serve_command(), COMMAND_PATIENCE)
    }

    /// Waits until the daemon answers its admin socket.
    #[track_caller]
    pub fn wait_answers(&mut self) -> Status {
        self.wait_status("the daemon to answer", |_| true)
    }

    /// Waits until its status fits.
    #[track_caller]
    pub fn wait_status(&mut self, what: &str, fits: impl Fn(&Status) -> bool) -> Status {
        let site = self.name.letter();
        wait_until(&format!("{what} at site {site}"), || {
            if let Some(status) = self.ended() {
                panic!("site {site} ended by itself, {status}; it said:\n{}", self.log_end());
            }
            let status = self.status()?;
            if fits(&status) { Ok(status) } else { Err(format!("{status:?}")) }
        })
    }

    /// Its status, if it answers.
    pub fn status(&self) -> Result<Status, String> {
        let ended = self.ask(&["status", "--json"]);
        if !ended.good() {
            return Err(ended.to_string());
        }
        serde_json::from_str(&ended.out).map_err(|error| format!("{error} in {}", ended.out))
    }

    /// Asks it through the command line: these words, then its config.
    #[track_caller]
    pub fn ask(&self, words: &[&str]) -> Ended {
        let command = &mut Command::new(binary());
        program::run(command.args(words).arg("--config").arg(&self.config), COMMAND_PATIENCE)
    }

    /// How it ended, if it did so by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().expect("the child is ours")
    }

    /// Kills it as a power failure of the process would: SIGKILL.
    #[track_caller]
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the daemon runs");
        child.kill().expect("the child is ours");
        child.wait().expect("the child is ours");
    }

    /// Sends a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the daemon runs");
        let pid = Pid::from_child(child);
        kill_process(pid, signal).expect("the child is ours");
    }

    /// Asks it to end with SIGTERM and gives its exit code.
    #[track_caller]
    pub fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.wait_end().code()
    }

    /// Waits until it ends.
    #[track_caller]
    pub fn wait_end(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the daemon runs");
        program::end_of(&mut child, END_PATIENCE)
            .unwrap_or_else(|| panic!("site {} did not end in time:\n{}", self.name.letter(), self.log_end()))
    }

    /// Its log file.
    pub fn log_path(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// All it has logged, without colours.
    pub fn log(&self) -> String {
        plain(&std::fs::read(self.log_path()).unwrap_or_default())
    }

    /// Waits until a line of its log contains all of these.
    #[track_caller]
    pub fn wait_log(&self, parts: &[&str]) {
        wait_until(&format!("{parts:?} in the log of site {}", self.name.letter()), || {
            let found = self.log().lines().any(|line| parts.iter().all(|part| line.contains(part)));
            if found { Ok(()) } else { Err(self.log_end()) }
        });
    }

    fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(LOG_LINES_SHOWN)..).unwrap_or(&[]).join("\n")
    }

    /// Its volume's backing file.
    pub fn store(&self) -> PathBuf {
        self.directory.join("vol0.img")
    }

    /// Its journal.
    pub fn journal(&self) -> PathBuf {
        self.directory.join("state/journal")
    }

    /// The volume as a URL for libiscsi and QEMU; `login` is "user%secret" or empty.
    pub fn url(&self, login: &str) -> String {
        let at = if login.is_empty() { String::new() } else { format!("{login}@") };
        format!("iscsi://{at}{}/{TARGET}/0", self.iscsi)
    }

    /// Rewrites its config, for the next start.
    #[track_caller]
    pub fn edit_config(&self, edit: impl FnOnce(String) -> String) {
        let text = std::fs::read_to_string(&self.config).expect("the config is there");
        std::fs::write(&self.config, edit(text)).expect("the config can be written");
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Text of a log without its escape sequences.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.split('\u{1b}');
    let mut plain = parts.next().unwrap_or("").to_owned();
    for part in parts {
        plain.push_str(part.split_once('m').map_or("", |(_, rest)| rest));
    }
    plain
}

/// Two daemons and the line between them.
pub struct Pair {
    /// Site a and site b.
    pub sites: [Site; 2],
    /// The line.
    pub line: Line,
    /// How both are configured.
    pub settings: Settings,
    directory: Option<TempDir>,
}

impl Pair {
    /// Makes directories, keys and configs; starts nothing.
    pub fn make(settings: Settings) -> Pair {
        let directory = tempfile::Builder::new().prefix("biplex-e2e-").tempdir().expect("a directory");
        let keys = directory.path().join("keys");
        if settings.tls {
            biplex(&["keys", &keys.display().to_string()]).expect_good();
        }
        let links = [free_address(), free_address()];
        let line = Line::between(links[0], links[1]);
        let site = |name: SiteName| {
            let place = directory.path().join(name.letter());
            std::fs::create_dir_all(&place).expect("a directory");
            let site = Site {
                name,
                config: place.join("site.toml"),
                iscsi: free_address(),
                link: links[name.index()],
                socket: place.join("admin.sock"),
                directory: place,
                child: None,
            };
            let peer = match name {
                SiteName::A => line.to_b,
                SiteName::B => line.to_a,
            };
            let text = config(&site, peer, &keys, &settings);
            std::fs::write(&site.config, text).expect("a config can be written");
            site
        };
        let sites = [site(SiteName::A), site(SiteName::B)];
        Pair { sites, line, settings, directory: Some(directory) }
    }

    /// Makes a pair, starts both sites and waits until they are paired.
    #[track_caller]
    pub fn start(settings: Settings) -> Pair {
        let mut pair = Pair::make(settings);
        pair.sites.iter_mut().for_each(Site::start);
        pair.wait_paired();
        pair
    }

    /// The directory of the pair.
    pub fn directory(&self) -> &Path {
        self.directory.as_ref().expect("there until dropped").path()
    }

    /// A site.
    pub fn site(&self, name: SiteName) -> &Site {
        &self.sites[name.index()]
    }

    /// A site, to start or end it.
    pub fn site_mut(&mut self, name: SiteName) -> &mut Site {
        &mut self.sites[name.index()]
    }

    /// Waits until both sites say that they are paired.
    #[track_caller]
    pub fn wait_paired(&mut self) {
        for site in &mut self.sites {
            site.wait_status("the pair", |status| status.state == "paired");
        }
    }

    /// Waits until each site has all that the other has.
    #[track_caller]
    pub fn wait_converged(&mut self) {
        self.wait_paired();
        for site in &mut self.sites {
            site.wait_status("the peer's acknowledgements", |status| status.link.unacked == 0);
        }
    }

    /// Waits until nothing is held any more at either site, that is, all is on the backing stores.
    #[track_caller]
    pub fn wait_destaged(&mut self) {
        self.wait_converged();
        for site in &mut self.sites {
            let nothing_held = |status: &Status| status.volumes.iter().all(|volume| volume.records == 0);
            let status = site.wait_status("the destage of all that is held", nothing_held);
            assert_eq!(status.digest.different, 0, "{status:?}");
            assert_eq!(status.alarms, Vec::<String>::new());
        }
    }

    /// Ends both sites in order; each must end with code 0.
    #[track_caller]
    pub fn stop(&mut self) {
        for site in &mut self.sites {
            assert_eq!(site.stop(), Some(0), "{}", site.log_end());
        }
    }

    /// After all is destaged and both sites are stopped: asserts that the backing files are equal byte for byte.
    #[track_caller]
    pub fn assert_stores_equal(&self) {
        let [a, b] = [SiteName::A, SiteName::B].map(|name| {
            let path = self.site(name).store();
            std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        });
        assert_eq!(a.len(), b.len());
        let differ = |(at, (a, b)): (usize, (&[u8], &[u8]))| (a != b).then_some(at);
        let first = a.chunks(512).zip(b.chunks(512)).enumerate().find_map(differ);
        assert_eq!(first, None, "the backing files differ, first in this block");
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for site in &self.sites {
                eprintln!("---- end of the log of site {}\n{}", site.name.letter(), site.log_end());
            }
            if let Some(directory) = self.directory.take() {
                eprintln!("---- kept: {}", directory.keep().display());
            }
        }
    }
}

fn config(site: &Site, peer: SocketAddr, keys: &Path, settings: &Settings) -> String {
    let letter = site.name.letter();
    let keys = keys.display();
    let tls = if settings.tls {
        format!(
            "{{ cert = \"{keys}/{letter}.pem\", key = \"{keys}/{letter}.key\", ca = \"{keys}/pair.pem\" }}"
        )
    } else {
        "\"off\"".to_owned()
    };
    let Settings {
        mode,
        table,
        hold_time,
        hold_every,
        hold_memory,
        journal,
        volume,
        rules,
        chap,
        lease,
        wait,
        ..
    } = settings;
    let mut text = format!("site = \"{letter}\"\nstate_dir = \"state\"\n\n");
    let write = writeln!(
        text,
        "[hold]\ntime = \"{hold_time}\"\nevery = \"{hold_every}\"\ntable = \"{table}\"\nmemory = \"{hold_memory}\"\n\n\
         [journal]\nsize = \"{journal}\"\n\n\
         [link]\nlisten = \"{}\"\npeer = \"{peer}\"\ntls = {tls}\nlease = \"{lease}\"\nwait = \"{wait}\"\n\n\
         [iscsi]\nlisten = \"{}\"\ntarget = \"{TARGET}\"\n{chap}\n\n\
         [admin]\nsocket = \"admin.sock\"\n\n\
         [[volume]]\nname = \"vol0\"\nlun = 0\nsize = \"{volume}\"\nmode = \"{mode}\"\nstore = \"vol0.img\"\n{rules}",
        site.link, site.iscsi
    );
    write.expect("a String takes all that is written to it");
    text
}

/// Overwrites bytes of a file in place.
#[track_caller]
pub fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file: File = OpenOptions::new().write(true).open(path).expect("the file can be opened");
    file.write_all_at(bytes, offset).and_then(|()| file.sync_all()).expect("the file can be written");
}
