//! What the two sites say to each other. `format` spells these; the meaning is here and in `docs/protocol.md`.

use crate::entry::Entry;
use crate::reserve::Verdict;
use crate::units::{Extent, SiteId, Stamp, VolumeId};
use bytes::Bytes;

/// Protocol version that this build speaks. A peer of another version is refused.
pub const PROTOCOL_VERSION: u16 = 1;

/// A volume as one site has it configured; both sites must agree on all of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeGeometry {
    /// The volume's id.
    pub id: VolumeId,
    /// Its name, at most 64 bytes.
    pub name: String,
    /// Its logical unit number.
    pub lun: u16,
    /// Its size in blocks.
    pub blocks: u64,
    /// Ordinal of its completion mode (0 async, 1 sync, 2 flush), and what else both sites must agree on, as flags
    /// ([`crate::engine::Rules`]).
    pub mode: u8,
}

/// The first message on a link, in each direction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Always [`PROTOCOL_VERSION`] of the sender.
    pub version: u16,
    /// Identity of the pair (derived from the target name).
    pub pair: u64,
    /// The sender's site.
    pub site: SiteId,
    /// How often the sender was started.
    pub run: u32,
    /// Random identity of the sender's journal, made when the journal was created. A journal made anew is another one.
    pub journal: u64,
    /// The journal identity that the sender knows its peer by; 0 if it never met its peer.
    pub peer_journal: u64,
    /// The sender's wall clock, nanoseconds.
    pub wall: u64,
    /// The sender's hybrid logical clock.
    pub clock: u64,
    /// For each origin: the sender has (journaled or journaling) every entry of that origin up to this stamp.
    pub have: [Stamp; 2],
    /// The cut at which the sender's backing stores stand.
    pub destaged: Stamp,
    /// Size of the sender's journal in bytes, for the peer's flow control.
    pub journal_bytes: u64,
    /// Hold time and destage interval in nanoseconds; must be equal at both sites.
    pub hold_time: u64,
    /// See `hold_time`.
    pub hold_every: u64,
    /// Fingerprint of what the sender's backing stores held before the sites first met; 0 afterwards.
    pub stores: u64,
    /// The volumes.
    pub volumes: Vec<VolumeGeometry>,
}

/// Why a site would not pair. Ordinals are on the wire.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// One sentence for the operator: what differs, both values, and the remedy.
    pub why: String,
}

/// How far a site has come; sent after each group that became durable, and with each heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ack {
    /// Every entry of the receiver's stream up to this stamp is durable in the sender's journal, requests are executed
    /// there, and what the sender's hosts were let in for before was sent before this message.
    pub durable: Stamp,
    /// Every entry of the receiver's stream up to this stamp is off the line, whatever it still waits for: durable in
    /// the sender's journal, or turned away. Never before `durable`. It frees the window, since both sites' `durable` may
    /// wait for what the window holds back; and where `resumed` is set nothing is turned away, so all of it is durable.
    pub taken: Stamp,
    /// Nothing that the sender sends from now on is stamped at or before this, and all that it ever stamped up to
    /// it is durable in its own journal and was sent before this message.
    pub promise: Stamp,
    /// The cut at which the sender's backing stores stand, as its journal has it: what lay before is given back.
    pub destaged: Stamp,
    /// The sender has everything that the resume owed it, durable: it is in step.
    pub resumed: bool,
}

/// A heartbeat: carries an [`Ack`] and measures the round trip and the clocks' offset (four timestamps, as NTP).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ping {
    /// As in an ack.
    pub ack: Ack,
    /// The sender's monotonic clock at sending; comes back in the pong.
    pub sent_mono: u64,
    /// The sender's wall clock at sending; comes back in the pong.
    pub sent_wall: u64,
}

/// The answer to a [`Ping`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pong {
    /// From the ping.
    pub sent_mono: u64,
    /// From the ping.
    pub sent_wall: u64,
    /// The answering site's wall clock when the ping came.
    pub received_wall: u64,
    /// Whether the answering site is in step, so that the pinging site may take the answer as a lease.
    pub in_step: bool,
}

/// One region's share of a digest: what was destaged of it in one destage interval.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DigestRow {
    /// The interval: stamps in `(slot * every, (slot + 1) * every]` by time.
    pub slot: u64,
    /// The volume.
    pub volume: VolumeId,
    /// The region of the volume.
    pub region: Extent,
    /// How many entries.
    pub entries: u64,
    /// Sum (wrapping) of a 64-bit hash of each entry: its stamp, extent, kind and body checksum.
    pub sum: u64,
}

/// What a site destaged between two cuts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Digest {
    /// The cut up to which earlier digests went.
    pub from: Stamp,
    /// The cut up to which this one goes; equal to `from` when more rows of the same cut follow.
    pub to: Stamp,
    /// Only regions that something was destaged to, ascending.
    pub rows: Vec<DigestRow>,
}

/// Everything that travels on the link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// First message each way.
    Hello(Hello),
    /// Instead of going on after the peer's hello.
    Refuse(Refusal),
    /// An entry, of either origin while the link resumes, of the sender's origin afterwards.
    Entry(Entry),
    /// All that the resume owed the receiver has been sent.
    ResumeEnd,
    /// Progress.
    Ack(Ack),
    /// Heartbeat.
    Ping(Ping),
    /// Heartbeat's answer.
    Pong(Pong),
    /// After a destage.
    Digest(Digest),
    /// What came of a request of the receiver at the sender's store, which keeps reservations itself. Before the ack.
    Passed {
        /// The request.
        stamp: Stamp,
        /// Its outcome.
        verdict: Verdict,
    },
    /// A host's name for its id, so that both sites can show it.
    Host {
        /// The id.
        id: u64,
        /// The initiator's name.
        name: Bytes,
    },
}
