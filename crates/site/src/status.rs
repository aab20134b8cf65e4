//! What an operator sees of a site: plain data, made on demand, serialised by the daemon's admin socket.

use serde::{Deserialize, Serialize};

/// A site at a glance. Times are nanoseconds, sizes bytes unless a name says otherwise.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// "a" or "b".
    pub site: String,
    /// The target's iSCSI name.
    pub target: String,
    /// "paired" (in step with the peer), "resuming", "waiting for the line" or "draining".
    pub state: String,
    /// The sentence behind `state`: why, and what to do if there is something to do.
    pub why: String,
    /// The line to the peer.
    pub link: LinkStatus,
    /// The hybrid logical clock, nanoseconds since the epoch.
    pub clock: u64,
    /// The cut at which the backing stores stand: time part of the stamp.
    pub destaged: u64,
    /// Number of cuts destaged in this run.
    pub cuts: u64,
    /// The last cut whose digests the two sites compared, and whether they agreed.
    pub digest: DigestStatus,
    /// The journal.
    pub journal: JournalStatus,
    /// Held payload in memory, and its limit.
    pub hold_bytes: u64,
    /// See `hold_bytes`.
    pub hold_limit: u64,
    /// The volumes.
    pub volumes: Vec<VolumeStatus>,
    /// Hosts that are logged in here.
    pub hosts: Vec<HostStatus>,
    /// Alarms since the start, newest last, at most 100.
    pub alarms: Vec<String>,
}

/// The line.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct LinkStatus {
    /// A connection stands and both sites have accepted each other.
    pub up: bool,
    /// Both sites have all that the other owed them.
    pub in_step: bool,
    /// Round trip, last measured.
    pub rtt: Option<u64>,
    /// Peer's clock minus ours.
    pub offset: Option<i64>,
    /// Own entries that the peer has not acknowledged: how many, how many bytes, age of the oldest. Bytes at risk.
    pub unacked: u64,
    /// See `unacked`.
    pub unacked_bytes: u64,
    /// See `unacked`.
    pub unacked_age: u64,
    /// How often the line was (re-)established in this run.
    pub sessions: u64,
    /// Refusal by either side, if the last attempt ended so.
    pub refused: Option<String>,
}

/// Digest comparison.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct DigestStatus {
    /// The newest cut compared: time part of its stamp.
    pub compared: Option<u64>,
    /// Number of cuts compared and equal in this run.
    pub equal: u64,
    /// Number of rows found different in this run. Not zero: the copies differ.
    pub different: u64,
}

/// The journal.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct JournalStatus {
    /// Size.
    pub bytes: u64,
    /// Not yet recycled.
    pub used: u64,
    /// Groups made durable in this run.
    pub groups: u64,
    /// Entries appended in this run.
    pub entries: u64,
    /// Bytes appended in this run, with headers and padding.
    pub written: u64,
    /// Hosts are being slowed because the journal (here or at the peer) is full.
    pub full: bool,
}

/// A volume.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// Name.
    pub name: String,
    /// Volume id as in records, hexadecimal.
    pub id: String,
    /// Logical unit number.
    pub lun: u16,
    /// Size in bytes.
    pub bytes: u64,
    /// "sync", "async" or "flush".
    pub mode: String,
    /// Hosts are served.
    pub serving: bool,
    /// Records in the hold table and blocks that they cover.
    pub records: u64,
    /// See `records`.
    pub held_blocks: u64,
    /// Host reads and writes completed here in this run, in commands and bytes.
    pub reads: u64,
    /// See `reads`.
    pub read_bytes: u64,
    /// See `reads`.
    pub writes: u64,
    /// See `reads`.
    pub written_bytes: u64,
    /// Bytes written to the backing store by destage in this run.
    pub destaged_bytes: u64,
    /// Overlaps between writes of different sites resolved in this run.
    pub conflicts: u64,
    /// Reservations in a word or two: "free", or by whom it is reserved.
    pub reserved: String,
    /// Nexuses that registered a key (PERSISTENT RESERVE OUT).
    pub registrations: u64,
    /// Backing-store errors in this run.
    pub errors: u64,
    /// The last of them.
    pub last_error: Option<String>,
    /// What the SCSI unit that is its store is and can do; none before it was asked, or if the store is none.
    pub unit: Option<String>,
}

/// A host that is logged in.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct HostStatus {
    /// Host id as in records, hexadecimal.
    pub id: String,
    /// Initiator name.
    pub name: String,
    /// Its address.
    pub remote: String,
}

/// A row of the hold table: the seven columns of E1.3, and the volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TableRow {
    /// 1, 2, 3 … in order of stamp.
    pub number: u64,
    /// Reception time: nanoseconds since the epoch.
    pub time: u64,
    /// Host id: the host's name where it is known, its number in hexadecimal otherwise.
    pub host: String,
    /// Start block.
    pub start: u64,
    /// Block count.
    pub blocks: u64,
    /// Site id.
    pub site: String,
    /// Where the data is: "memory", "journal@OFFSET", "fill", "unmap".
    pub data: String,
    /// The volume's name.
    pub volume: String,
}

/// A run of equal states in the block state map. Of the state's two bits the lower one says that the newest data is
/// held (E1.6), the upper one that the blocks are reserved (E3.2): 0 free and on the backing store, 1 free and held,
/// 2 reserved and on the backing store, 3 reserved and held.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MapRun {
    /// First block.
    pub start: u64,
    /// Number of blocks.
    pub blocks: u64,
    /// 0, 1, 2 or 3.
    pub state: u8,
}

/// A row of the reservation table: the five columns of E3.3, and what else there is to say of it. The same at both
/// sites.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LockRow {
    /// 1, 2, 3 … in order of start time, for each volume.
    pub number: u64,
    /// Start time: stamp time of the request, nanoseconds since the epoch.
    pub time: u64,
    /// Host id: the host's name where it is known, its number in hexadecimal otherwise. Who reserved, and may release.
    pub host: String,
    /// Start block; 0 where the whole unit is reserved.
    pub start: u64,
    /// Block count; all of the volume where the whole unit is reserved.
    pub blocks: u64,
    /// The volume's name.
    pub volume: String,
    /// What sort of reservation, in words.
    pub kind: String,
    /// At which site's port it was reserved.
    pub site: String,
    /// The session's ISID, hexadecimal: with host and site it is the nexus.
    pub isid: String,
    /// The host that it was made for, where that is another one than reserved.
    pub third_party: Option<String>,
    /// Reservation identification of an extent.
    pub id: Option<u8>,
}

/// A nexus that registered a key (SPC-4 5.13.7).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RegistrationRow {
    /// The initiator's name.
    pub host: String,
    /// At which site's port.
    pub site: String,
    /// The session's ISID, hexadecimal.
    pub isid: String,
    /// RESERVATION KEY, hexadecimal.
    pub key: String,
    /// It holds the persistent reservation.
    pub holder: bool,
    /// Registered with the same request at both sites' ports (ALL_TG_PT).
    pub all_ports: bool,
}

/// Reservations and registrations of a volume: the same at both sites, but for `waiting`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VolumeLocks {
    /// The volume's name.
    pub volume: String,
    /// The reservation table (E3.3).
    pub rows: Vec<LockRow>,
    /// PRGENERATION: how often registrations changed.
    pub generation: u32,
    /// Registrations and persistent reservation survive that both sites lose power (APTPL).
    pub aptpl: bool,
    /// Type of the persistent reservation, in words.
    pub reservation: Option<String>,
    /// All registered nexuses.
    pub registrations: Vec<RegistrationRow>,
    /// A host set SWP by MODE SELECT: writes are refused.
    pub write_protected: bool,
    /// The volume's unit keeps the reservations (E5.1): what is said here it was asked for just now.
    #[serde(default)]
    pub unit: Option<UnitSight>,
    /// Something is known here that is not executed yet: the tables may change at once, or when the line is back.
    pub waiting: bool,
}

/// How a unit that keeps a volume's reservations was seen (E5.1).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnitSight {
    /// When it was asked, nanoseconds since the Unix epoch; 0: never.
    pub asked: u64,
    /// Why it did not tell all. Then registrations are those that went through the pair and were not ended through it, and
    /// nobody is said to hold.
    pub trouble: Option<String>,
    /// All of it is reserved by an initiator that is none of the pair's hosts.
    pub by_stranger: bool,
}

/// Reservations of several volumes, in order of their logical unit numbers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Locks {
    /// The volumes.
    pub volumes: Vec<VolumeLocks>,
    /// Volumes that found no place in this answer: ask for them by name.
    pub left_out: Vec<String>,
}

/// What is known of one block.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// The volume's name.
    pub volume: String,
    /// The block.
    pub lba: u64,
    /// Its state in the block state map, 0 to 3.
    pub state: u8,
    /// The reservations that have a say about it. The same at both sites.
    pub rows: Vec<LockRow>,
    /// How many nexuses are registered on the volume.
    pub registrations: u64,
    /// The volume's unit keeps the reservations (E5.1): who holds it, that was asked just now.
    #[serde(default)]
    pub unit: Option<UnitSight>,
    /// The row of the hold table that has its newest data; `None`: that is on the backing store.
    pub data: Option<TableRow>,
}

/// A write that was undone at both sites, because the blocks were reserved for another host when it was stamped and the
/// volume says `reserve_conflicting_writes = "discard"` (E4.1).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DiscardRow {
    /// Counts from 1 in each run.
    pub number: u64,
    /// The volume's name.
    pub volume: String,
    /// Who wrote: the host's name where it is known, its number in hexadecimal otherwise.
    pub host: String,
    /// First block.
    pub start: u64,
    /// Number of blocks.
    pub blocks: u64,
    /// Stamp time and site of the write.
    pub written: (u64, String),
    /// Start time of the reservation that forbade it, and the site it was asked for at.
    pub reserved: Option<(u64, String)>,
    /// The write's stamp as `biplex inspect JOURNAL --extract STAMP` takes it.
    pub stamp: String,
    /// Where its bytes lie in this site's journal.
    pub journal: Option<u64>,
    /// The journal has the bytes for sure; after the next destage they may be overwritten.
    pub kept: bool,
}

/// An overlap between writes of the two sites, and who won (E1.4).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConflictRow {
    /// Counts from 1 in each run.
    pub number: u64,
    /// The volume's name.
    pub volume: String,
    /// First block that both wrote.
    pub start: u64,
    /// How many blocks both wrote.
    pub blocks: u64,
    /// Stamp time and site of the newer write, which the blocks show.
    pub winner: (u64, String),
    /// Stamp time and site of the older write.
    pub loser: (u64, String),
}
