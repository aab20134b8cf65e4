//! The engine's nouns as types, so that two numbers of different meaning cannot be swapped.

use std::fmt;

/// Size of a logical block in bytes: what an LBA counts (SBC-3 4.5).
pub const BLOCK_BYTES: u64 = 512;

/// One of the two sites of a pair. `A` has priority over `B`: at equal times A's write comes first, so B's
/// write wins (E1.4). Ordinals are on the wire and on disk; never reuse them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
#[repr(u8)]
pub enum SiteId {
    /// The site with priority.
    A = 0,
    /// The other site.
    B = 1,
}

impl SiteId {
    /// Both sites, in priority order.
    pub const BOTH: [SiteId; 2] = [SiteId::A, SiteId::B];

    /// The other site of the pair.
    pub fn peer(self) -> SiteId {
        match self {
            SiteId::A => SiteId::B,
            SiteId::B => SiteId::A,
        }
    }

    /// 0 for A, 1 for B: for indexing a `[T; 2]`.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The site with this ordinal, if there is one.
    pub fn from_ordinal(ordinal: u8) -> Option<SiteId> {
        match ordinal {
            0 => Some(SiteId::A),
            1 => Some(SiteId::B),
            _ => None,
        }
    }
}

impl fmt::Display for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SiteId::A => "a",
            SiteId::B => "b",
        })
    }
}

/// A place in the total order of all that happens to the pair: a hybrid logical clock's reading and the site
/// that took it. Compared by time, then by site (E1.4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Stamp {
    /// Nanoseconds since the Unix epoch, as the hybrid logical clock saw them.
    pub time: u64,
    /// Where the stamp was issued.
    pub site: SiteId,
}

impl Stamp {
    /// Before every stamp that is ever issued.
    pub const ZERO: Stamp = Stamp { time: 0, site: SiteId::A };

    /// The latest time that is believed of a peer: the year 2262. Behind it sums with times could overflow.
    pub const TIME_MAX: u64 = i64::MAX as u64;

    /// The greatest stamp at or before every stamp of `time`, i.e. the bound "everything up to and including time".
    pub const fn last_of(time: u64) -> Stamp {
        Stamp { time, site: SiteId::B }
    }
}

impl Default for Stamp {
    fn default() -> Stamp {
        Stamp::ZERO
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}{}", self.time / 1_000_000_000, self.time % 1_000_000_000, self.site)
    }
}

/// A volume of the pair: the same number at both sites (derived from the volume's name).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct VolumeId(pub u32);

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// A host (an initiator), by a number that both sites derive from its name; E1.2's "host id".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct HostId(pub u64);

impl HostId {
    /// The id of the initiator with this name: a hash of it, the same at both sites (E1.2).
    pub fn of_name(name: &str) -> HostId {
        // FNV-1a, 64 bits.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        HostId(hash)
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// An I_T nexus: an initiator port (name and ISID, RFC 7143 4.4.1) at one site's target port. Who holds a
/// reservation, and who is kept out by one (E3.3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Nexus {
    /// The initiator, by its name.
    pub host: HostId,
    /// The session's ISID, 48 bits.
    pub isid: u64,
    /// At whose port.
    pub site: SiteId,
}

impl fmt::Display for Nexus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:012x}@{}", self.host, self.isid, self.site)
    }
}

/// A block address on a volume, in blocks of [`BLOCK_BYTES`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Lba(pub u64);

impl Lba {
    /// Byte offset of the block on its volume.
    pub fn bytes(self) -> u64 {
        self.0 * BLOCK_BYTES
    }
}

/// A half-open, never empty run of blocks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Extent {
    start: u64,
    end: u64,
}

impl Extent {
    /// `blocks` blocks from `lba`. `None` when it would be empty or pass the end of the address space.
    pub fn new(lba: Lba, blocks: u64) -> Option<Extent> {
        let end = lba.0.checked_add(blocks)?;
        (blocks > 0 && end <= u64::MAX / BLOCK_BYTES).then_some(Extent { start: lba.0, end })
    }

    /// The extent from `start` up to but not including `end`, if that is not empty.
    pub fn between(start: Lba, end: Lba) -> Option<Extent> {
        end.0.checked_sub(start.0).and_then(|blocks| Extent::new(start, blocks))
    }

    /// First block.
    pub fn start(self) -> Lba {
        Lba(self.start)
    }

    /// First block behind the extent.
    pub fn end(self) -> Lba {
        Lba(self.end)
    }

    /// Number of blocks, at least 1.
    pub fn blocks(self) -> u64 {
        self.end - self.start
    }

    /// Length in bytes.
    pub fn bytes(self) -> u64 {
        self.blocks() * BLOCK_BYTES
    }

    /// Whether the two share a block.
    pub fn overlaps(self, other: Extent) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// The blocks that both have.
    pub fn intersection(self, other: Extent) -> Option<Extent> {
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        (start < end).then_some(Extent { start, end })
    }

    /// Whether every block of `other` lies within this extent.
    pub fn contains(self, other: Extent) -> bool {
        self.start <= other.start && other.end <= self.end
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.start, self.blocks())
    }
}

/// One journal append of one site, counted from 1 in each run of the site. Appends become durable in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Default)]
pub struct AppendSeq(pub u64);

/// Where a record's body lies in the journal file: byte offset of the body.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct JournalPos(pub u64);

/// A point in time as a site sees it. Handed in with every event; nothing below the daemon reads a clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// The site's clock: nanoseconds since the Unix epoch. May step.
    pub wall: u64,
    /// Nanoseconds since some fixed moment of this run; never steps back.
    pub mono: u64,
}
