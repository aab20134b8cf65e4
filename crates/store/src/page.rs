//! Memory that O_DIRECT accepts: whole pages, aligned to their size.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Size of a page and the unit of all journal I/O, in bytes.
pub const PAGE_BYTES: usize = 4096;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; PAGE_BYTES]);

/// A growable buffer of whole, aligned pages.
#[derive(Clone, Default)]
pub struct PageBuf {
    pages: Vec<Page>,
    filled: usize,
}

impl PageBuf {
    /// An empty buffer with room for `bytes`.
    pub fn with_capacity(bytes: usize) -> PageBuf {
        PageBuf { pages: Vec::with_capacity(bytes.div_ceil(PAGE_BYTES)), filled: 0 }
    }

    /// A buffer of `pages` zeroed pages, all of it filled.
    pub fn zeroed(pages: usize) -> PageBuf {
        PageBuf { pages: vec![Page([0; PAGE_BYTES]); pages], filled: pages * PAGE_BYTES }
    }

    /// Appends bytes; what they leave of the last page is zero.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let room = self.pages.len() * PAGE_BYTES - self.filled;
        let (head, rest) = bytes.split_at(room.min(bytes.len()));
        let end = self.filled + head.len();
        self.pages.as_mut_slice().as_mut_bytes()[self.filled..end].copy_from_slice(head);
        // Whole pages are not zeroed first.
        let (whole, tail) = rest.as_chunks::<PAGE_BYTES>();
        self.pages.extend(whole.iter().map(|page| Page(*page)));
        if !tail.is_empty() {
            let mut page = [0; PAGE_BYTES];
            page[..tail.len()].copy_from_slice(tail);
            self.pages.push(Page(page));
        }
        self.filled += bytes.len();
    }

    /// Counts the last page as full, so that the next append starts a new page.
    pub fn pad_to_page(&mut self) {
        self.filled = self.pages.len() * PAGE_BYTES;
    }

    /// Bytes appended so far.
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// Drops all content, keeps the memory.
    pub fn clear(&mut self) {
        self.pages.clear();
        self.filled = 0;
    }

    /// All pages, whole.
    pub fn as_bytes(&self) -> &[u8] {
        self.pages.as_slice().as_bytes()
    }

    /// All pages, whole, to change.
    pub fn as_mut_bytes(&mut self) -> &mut [u8] {
        self.pages.as_mut_slice().as_mut_bytes()
    }
}

impl PartialEq for PageBuf {
    fn eq(&self, other: &PageBuf) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for PageBuf {}

impl std::fmt::Debug for PageBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PageBuf({} bytes)", self.filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_lie_one_behind_the_other_and_the_rest_of_a_page_is_zero() {
        for lengths in [[0, 1, 4095], [1, 4096, 8192], [4096, 0, 5000], [100, 3996, 1], [5000, 9000, 20_000]]
        {
            let (mut pages, mut plain) = (PageBuf::with_capacity(64), Vec::new());
            for (n, length) in lengths.into_iter().enumerate() {
                let bytes = vec![n as u8 + 1; length];
                pages.extend_from_slice(&bytes);
                plain.extend_from_slice(&bytes);
                assert_eq!(pages.filled(), plain.len());
            }
            plain.resize(plain.len().next_multiple_of(PAGE_BYTES), 0);
            assert_eq!(pages.as_bytes(), plain);
        }
    }
}
