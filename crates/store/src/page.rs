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

    /// Appends bytes; new pages start zeroed.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let end = self.filled + bytes.len();
        self.pages.resize(end.div_ceil(PAGE_BYTES), Page([0; PAGE_BYTES]));
        self.pages.as_mut_slice().as_mut_bytes()[self.filled..end].copy_from_slice(bytes);
        self.filled = end;
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
