//! Command descriptor blocks (SPC-4 4.2): bytes from outside, read without ever indexing.
//!
//! A byte behind the end of a CDB reads as zero, so that every decoder below is total. Which bits may be set
//! at all is decided by one table, in [`super::opcodes`]; here is only where fields lie.

/// A CDB as the transport handed it over.
#[derive(Clone, Copy)]
pub(super) struct Cdb<'a>(&'a [u8]);

/// The blocks a CDB names, before they are known to exist: `blocks` may be zero, the end may lie anywhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Range {
    /// First block.
    pub lba: u64,
    /// How many.
    pub blocks: u64,
}

impl<'a> Cdb<'a> {
    pub fn new(bytes: &'a [u8]) -> Cdb<'a> {
        Cdb(bytes)
    }

    /// The byte at `at`, zero behind the end.
    pub fn byte(self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    /// Whether any bit of `mask` is set in the byte at `at`.
    pub fn bit(self, at: usize, mask: u8) -> bool {
        self.byte(at) & mask != 0
    }

    /// The `width` bytes from `at`, most significant first (SPC-4 3.5.2).
    pub fn number(self, at: usize, width: usize) -> u64 {
        (at..at + width).fold(0, |number, at| number << 8 | u64::from(self.byte(at)))
    }

    /// All of it, for a command that is gone on with later.
    pub fn to_vec(self) -> Vec<u8> {
        self.0.to_vec()
    }

    pub fn opcode(self) -> u8 {
        self.byte(0)
    }

    /// The SERVICE ACTION field of the CDB formats that have one in byte 1.
    pub fn service_action(self) -> u8 {
        self.byte(1) & 0x1f
    }

    /// LOGICAL BLOCK ADDRESS and TRANSFER LENGTH of a CDB of `length` bytes (SPC-4 4.2.2: the 6, 10, 12 and
    /// 16-byte formats put them in the same place for every block command).
    pub fn range(self, length: usize) -> Range {
        let (lba, blocks) = match length {
            // SBC-3 5.11: in READ(6) and WRITE(6) zero means 256 blocks.
            6 => (self.number(1, 3) & 0x1f_ffff, if self.byte(4) == 0 { 256 } else { self.number(4, 1) }),
            10 => (self.number(2, 4), self.number(7, 2)),
            12 => (self.number(2, 4), self.number(6, 4)),
            _ => (self.number(2, 8), self.number(10, 4)),
        };
        Range { lba, blocks }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_behind_the_end_reads_as_zero() {
        let cdb = Cdb::new(&[0x28, 0, 1]);
        assert_eq!(cdb.range(10), Range { lba: 0x0100_0000, blocks: 0 });
        assert_eq!(Cdb::new(&[]).opcode(), 0);
    }

    #[test]
    fn six_byte_commands_read_zero_as_256_blocks_and_keep_21_bits_of_lba() {
        assert_eq!(Cdb::new(&[8, 0xff, 0xff, 0xff, 0, 0]).range(6), Range { lba: 0x1f_ffff, blocks: 256 });
    }
}
