//! The site's two doors: [`Event`]s that come in, [`Action`]s that go out, and how a site is configured.

use crate::unit::{UnitAddress, UnitConn};
pub use biplex_engine::engine::{Mode, Rules, Severity};
pub use biplex_engine::hold::TableKind;
pub use biplex_engine::stream::WINDOW_BYTES_MAX;
use biplex_engine::{Nexus, SiteId, VolumeId};
use biplex_front::scsi::{PortConfig, UnitConfig};
use biplex_front::{Command, Completion, ConnId, TaskId};
use biplex_store::{DiskOp, DiskResult, DiskTicket};
use bytes::Bytes;

/// Something that happened to the site.
#[derive(Clone, Debug)]
pub enum Event {
    /// A host opened a TCP connection to the iSCSI port. `local` is the address it reached us at ("ip:port").
    HostConnected {
        /// The connection, a number never used before in this run.
        conn: ConnId,
        /// Where it reached us.
        local: String,
        /// Where it comes from.
        remote: String,
    },
    /// Bytes from a host.
    HostBytes {
        /// The connection.
        conn: ConnId,
        /// The bytes; never empty.
        bytes: Bytes,
    },
    /// How many bytes for this host the socket has not taken yet; told whenever it changes much.
    HostBacklog {
        /// The connection.
        conn: ConnId,
        /// Bytes queued outside the site.
        queued: usize,
    },
    /// The host's connection ended.
    HostClosed {
        /// The connection.
        conn: ConnId,
    },
    /// An (authenticated, if so configured) connection to the peer stands. Ends an older one.
    LinkConnected {
        /// A number never used before in this run.
        link: u64,
    },
    /// Bytes from the peer.
    LinkBytes {
        /// The link they came on; bytes of an older link are ignored.
        link: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// How many bytes for the peer the socket has not taken yet.
    LinkBacklog {
        /// The link.
        link: u64,
        /// Bytes queued outside the site.
        queued: usize,
    },
    /// The link ended.
    LinkClosed {
        /// The link.
        link: u64,
    },
    /// A disk order ended.
    DiskDone {
        /// The order's name.
        ticket: DiskTicket,
        /// Its outcome.
        result: DiskResult,
    },
    /// A connection that was asked for with [`Action::UnitConnect`] stands.
    UnitConnected {
        /// The connection.
        conn: UnitConn,
    },
    /// Bytes from a unit; never empty.
    UnitBytes {
        /// The connection.
        conn: UnitConn,
        /// The bytes.
        bytes: Bytes,
    },
    /// A connection with a unit ended, or could not be made.
    UnitClosed {
        /// The connection.
        conn: UnitConn,
        /// What the operating system said.
        why: String,
    },
    /// A command that came past iSCSI (the simulator's hosts; other front ends). Answered by [`Action::Answer`].
    Submit {
        /// A number never used before in this run.
        task: TaskId,
        /// Who asks.
        nexus: Nexus,
        /// The volume.
        volume: VolumeId,
        /// What it asks.
        command: Command,
    },
    /// A nexus past iSCSI ended.
    NexusLost {
        /// Which.
        nexus: Nexus,
    },
    /// Time passed: handed in at or after [`crate::Site::next_deadline`].
    Tick,
    /// The operator wants an orderly end: take no new commands, finish what is under way, log hosts out.
    Drain,
}

/// Something that the site wants done.
#[derive(Clone, Debug)]
pub enum Action {
    /// Send to a host, in order.
    HostSend {
        /// The connection.
        conn: ConnId,
        /// The bytes.
        bytes: Bytes,
    },
    /// Close a host's connection after what was sent.
    HostClose {
        /// The connection.
        conn: ConnId,
    },
    /// Send to the peer, in order.
    LinkSend {
        /// The link.
        link: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// Close the link (after what was sent); the daemon connects anew with back-off.
    LinkClose {
        /// The link.
        link: u64,
        /// Why, for the log.
        why: String,
    },
    /// An order to a disk; [`Event::DiskDone`] must follow.
    Disk {
        /// The order's name.
        ticket: DiskTicket,
        /// The order.
        op: DiskOp,
    },
    /// Connect to a unit that is a volume's store; [`Event::UnitConnected`] or [`Event::UnitClosed`] must follow, unless
    /// [`Action::UnitClose`] comes first.
    UnitConnect {
        /// The connection.
        conn: UnitConn,
        /// "address:port" or "name:port".
        portal: String,
    },
    /// Send to a unit, in order. What a unit is owed at a time is bounded by the commands under way.
    UnitSend {
        /// The connection.
        conn: UnitConn,
        /// The bytes.
        bytes: Bytes,
    },
    /// Close a connection with a unit after what was sent, if it is not closed yet; no [`Event::UnitClosed`] is wanted.
    UnitClose {
        /// The connection.
        conn: UnitConn,
    },
    /// Answer to [`Event::Submit`].
    Answer {
        /// The task.
        task: TaskId,
        /// The answer.
        completion: Completion,
    },
    /// Something the operator should read.
    Notice(Notice),
    /// The site must stop at once and be recovered (its journal failed). Nothing more comes out of it.
    Halt {
        /// Why, and what to do.
        why: String,
    },
    /// The orderly end asked for by [`Event::Drain`] is complete.
    Drained,
}

/// A line for the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// How much it matters.
    pub severity: Severity,
    /// What happened, in words, with what the operator can do where there is something.
    pub text: String,
}

/// A volume of the site.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeConfig {
    /// Identity and size, as hosts see them.
    pub unit: UnitConfig,
    /// When commands complete, and what else both sites must agree on.
    pub rules: Rules,
    /// The SCSI unit that is its store; `None`: a disk of the site, reached by [`Action::Disk`].
    pub store: Option<UnitAddress>,
}

/// CHAP (RFC 7143 12.1.3).
#[derive(Clone, PartialEq, Eq)]
pub struct ChapConfig {
    /// Name and secret that a host must prove.
    pub user: String,
    /// See `user`.
    pub secret: String,
    /// Name and secret that we prove to a host that asks (mutual CHAP).
    pub mutual: Option<(String, String)>,
}

impl std::fmt::Debug for ChapConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChapConfig {{ user: {:?}, secret: … }}", self.user)
    }
}

/// Everything a site must know. Times in nanoseconds, sizes in bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SiteConfig {
    /// Which site this is.
    pub site: SiteId,
    /// Identity of the pair: 64-bit hash of the target name.
    pub pair: u64,
    /// This site's target port.
    pub port: PortConfig,
    /// This site's portal as discovery tells it ("host:port"); a wildcard is replaced by where the host reached us.
    pub portal: String,
    /// CHAP, if hosts must prove who they are.
    pub chap: Option<ChapConfig>,
    /// The volumes.
    pub volumes: Vec<VolumeConfig>,
    /// Hold time (E1.7).
    pub hold_time: u64,
    /// Destage interval (E1.7).
    pub hold_every: u64,
    /// Which hold table.
    pub table: TableKind,
    /// Limit for held payload in memory; the rest is read back from the journal.
    pub hold_memory: u64,
    /// Size of the journal.
    pub journal_bytes: u64,
    /// Clocks further apart than this refuse to pair.
    pub max_offset: u64,
    /// A sync volume is served only within this time of a ping that the peer answered.
    pub lease: u64,
    /// Commands that wait for the line longer than this are answered so that hosts retry. More than `lease`.
    pub wait_max: u64,
    /// Most bytes of own writes on their way to the peer's journal ([`WINDOW_BYTES_MAX`]).
    pub window_bytes: u64,
}
