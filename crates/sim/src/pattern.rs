//! Block contents that name the write they came from, so that any mixture or misplaced piece is seen.

use bytes::Bytes;

/// Bytes of a block.
pub const BLOCK: usize = 512;

/// What a block holds: 0 for zeros (never written, or unmapped), else the number of the write.
pub type Value = u64;

/// A block of this value.
pub fn block(value: Value) -> [u8; BLOCK] {
    let mut bytes = [0; BLOCK];
    if value != 0 {
        for (index, word) in bytes.chunks_mut(8).enumerate() {
            word.copy_from_slice(&word_at(value, index).to_le_bytes());
        }
    }
    bytes
}

/// `blocks` blocks of this value.
pub fn blocks(value: Value, blocks: u64) -> Bytes {
    Bytes::from(block(value).repeat(blocks as usize))
}

/// The value of a block; `None` if it is not one that [`block`] made.
pub fn value(bytes: &[u8]) -> Option<Value> {
    let word = |index: usize| bytes.get(index * 8..index * 8 + 8)?.try_into().ok().map(u64::from_le_bytes);
    let value = word(0)?;
    let whole = bytes.len() == BLOCK
        && (0..BLOCK / 8)
            .all(|index| word(index) == Some(if value == 0 { 0 } else { word_at(value, index) }));
    whole.then_some(value)
}

fn word_at(value: Value, index: usize) -> u64 {
    value.wrapping_add((index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_tells_its_value_and_a_mixture_tells_none() {
        for v in [0, 1, 77, u64::MAX] {
            assert_eq!(value(&block(v)), Some(v));
        }
        let mut mixed = block(3);
        mixed[256..].copy_from_slice(&block(4)[256..]);
        assert_eq!(value(&mixed), None);
        assert_eq!(value(&mixed[..100]), None);
    }
}
