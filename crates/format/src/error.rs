//! Why bytes are not what they should be. Closed: a reader can tell every case, and say it to an operator.

use std::fmt;

/// What is wrong with some bytes. `what` names the thing that was being read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FormatError {
    /// Fewer bytes than the thing has.
    Short {
        /// What was read.
        what: &'static str,
        /// Bytes that it needs.
        expected: usize,
        /// Bytes that were there.
        found: usize,
    },
    /// It does not start as such a thing starts: not ours, or the reader lost its place.
    Magic {
        /// What was read.
        what: &'static str,
        /// The first eight bytes expected, little-endian (four where the magic has four).
        expected: u64,
        /// Those found.
        found: u64,
    },
    /// Made by another version.
    Version {
        /// What was read.
        what: &'static str,
        /// The version that this build reads.
        expected: u16,
        /// The version found.
        found: u16,
    },
    /// The bytes changed since they were written.
    Checksum {
        /// What was read.
        what: &'static str,
        /// The checksum written with it.
        expected: u32,
        /// The checksum of the bytes found.
        found: u32,
    },
    /// A kind ordinal that this version does not have, or not in this place.
    Kind {
        /// What was read.
        what: &'static str,
        /// The ordinal.
        found: u8,
    },
    /// A length outside its limits.
    Length {
        /// What was read.
        what: &'static str,
        /// The length, or its upper limit.
        expected: u64,
        /// The length found.
        found: u64,
    },
    /// A field whose value makes no sense, or a reserved or unused field that is not zero.
    Field {
        /// Which field.
        what: &'static str,
        /// What it must be (zero where it is unused).
        expected: u64,
        /// What it is.
        found: u64,
    },
    /// Text that is not UTF-8.
    Text {
        /// Which text.
        what: &'static str,
        /// Bytes up to which it is UTF-8.
        valid: usize,
        /// Its length.
        found: usize,
    },
    /// It belongs to another pair.
    Pair {
        /// What was read.
        what: &'static str,
        /// Our pair.
        expected: u64,
        /// The pair found.
        found: u64,
    },
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            FormatError::Short { what, expected, found } => {
                write!(f, "{what}: needs {expected} bytes, {found} are there")
            }
            FormatError::Magic { what, expected, found } => {
                write!(f, "{what}: starts with {found:#x} instead of {expected:#x}")
            }
            FormatError::Version { what, expected, found } => {
                write!(f, "{what}: is of version {found}, this build speaks version {expected}")
            }
            FormatError::Checksum { what, expected, found } => {
                write!(f, "{what}: checksum is {found:08x}, was {expected:08x} when written")
            }
            FormatError::Kind { what, found } => write!(f, "{what}: kind {found} is not known here"),
            FormatError::Length { what, expected, found } => {
                write!(f, "{what}: length {found}, must be (at most) {expected}")
            }
            FormatError::Field { what, expected, found } => {
                write!(f, "{what} is {found:#x}, must be {expected:#x}")
            }
            FormatError::Text { what, valid, found } => {
                write!(f, "{what}: of {found} bytes only the first {valid} are UTF-8")
            }
            FormatError::Pair { what, expected, found } => {
                write!(f, "{what}: belongs to pair {found:016x}, this one is {expected:016x}")
            }
        }
    }
}

impl std::error::Error for FormatError {}
