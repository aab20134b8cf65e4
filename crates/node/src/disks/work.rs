//! Answers for the system calls behind disk orders. Short reads and writes are finished or are errors; every error
//! names the file, the order and what the operating system said.

use super::open::{JournalFile, StoreFile};
use biplex_store::{DiskError, DiskResult, PAGE_BYTES, PageBuf};
use bytes::{Buf, Bytes};
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags};
use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::path::Path;
use std::sync::atomic::Ordering;

/// Pieces handed to the kernel in one call; Linux takes 1024.
const PIECES_MAX: usize = 256;
/// Bytes of zeros written at a time where holes cannot be punched.
const ZEROS_BYTES: usize = 1 << 20;

/// What is to be done with a file.
pub enum Work {
    /// Read `len` bytes.
    Read { offset: u64, len: u32 },
    /// Write the pieces one behind the other.
    Write { offset: u64, data: Vec<Bytes> },
    /// Have `len` bytes read as zeros.
    Zero { offset: u64, len: u64 },
    /// Have all that was written before durable.
    Sync,
}

impl Work {
    /// Whether the file's bytes change by it.
    pub fn changes(&self) -> bool {
        matches!(self, Work::Write { .. } | Work::Zero { .. })
    }
}

/// The error of an order.
pub fn failed(path: &Path, what: &str, offset: u64, error: impl std::fmt::Display) -> DiskError {
    DiskError::new(format!("{}: {what} at byte {offset}: {error}", path.display()))
}

/// Writes journal pages and returns when they are durable.
pub fn append_durable(journal: &JournalFile, offset: u64, pages: &PageBuf) -> DiskResult {
    let fail = |error: Errno| failed(&journal.path, "write", offset, error);
    write_all(&journal.file, offset, &mut [IoSlice::new(pages.as_bytes())]).map_err(fail)?;
    if !journal.direct {
        rustix::fs::fdatasync(&journal.file)
            .map_err(|error| failed(&journal.path, "sync after write", offset, error))?;
    }
    Ok(Bytes::new())
}

/// An order on the journal that is not an append. The file may be open for direct I/O: whole pages only.
pub fn on_journal(journal: &JournalFile, work: Work) -> DiskResult {
    let path = &journal.path;
    match work {
        Work::Read { offset, len } => {
            let page = PAGE_BYTES as u64;
            let first = offset / page * page;
            let end = (offset + u64::from(len)).next_multiple_of(page);
            let mut pages = PageBuf::zeroed(((end - first) / page) as usize);
            read_all(&journal.file, first, pages.as_mut_bytes())
                .map_err(|error| failed(path, "read", offset, error))?;
            let from = (offset - first) as usize;
            Ok(Bytes::from_owner(Pages(pages)).slice(from..from + len as usize))
        }
        Work::Write { offset, data } => {
            let mut pages = PageBuf::with_capacity(data.iter().map(Bytes::len).sum());
            data.iter().for_each(|piece| pages.extend_from_slice(piece));
            if !offset.is_multiple_of(PAGE_BYTES as u64) || !pages.filled().is_multiple_of(PAGE_BYTES) {
                return Err(failed(path, "write", offset, "the journal is written in whole pages only"));
            }
            append_durable(journal, offset, &pages)
        }
        Work::Zero { offset, len } => {
            if !offset.is_multiple_of(PAGE_BYTES as u64) || !len.is_multiple_of(PAGE_BYTES as u64) {
                return Err(failed(path, "zero", offset, "the journal is written in whole pages only"));
            }
            write_zeros(&journal.file, offset, len).map_err(|error| failed(path, "zero", offset, error))?;
            Ok(Bytes::new())
        }
        Work::Sync => sync(&journal.file, path),
    }
}

/// An order on a volume's backing store.
pub fn on_store(store: &StoreFile, work: Work) -> DiskResult {
    let path = &store.path;
    match work {
        Work::Read { offset, len } => {
            let mut buffer = vec![0; len as usize];
            read_all(&store.file, offset, &mut buffer)
                .map_err(|error| failed(path, "read", offset, error))?;
            Ok(buffer.into())
        }
        Work::Write { offset, mut data } => {
            data.retain(Bytes::has_remaining);
            let mut pieces: Vec<IoSlice<'_>> = data.iter().map(|piece| IoSlice::new(piece)).collect();
            write_all(&store.file, offset, &mut pieces)
                .map_err(|error| failed(path, "write", offset, error))?;
            Ok(Bytes::new())
        }
        Work::Zero { offset, len } => {
            zero(store, offset, len).map_err(|error| failed(path, "zero", offset, error))?;
            Ok(Bytes::new())
        }
        Work::Sync => sync(&store.file, path),
    }
}

/// Reads what the page cache has, without waiting for the disk. `None`: it has not all of it.
pub fn read_cached(store: &StoreFile, offset: u64, len: u32) -> Option<DiskResult> {
    if !store.nowait.load(Ordering::Relaxed) {
        return None;
    }
    let mut buffer = vec![0; len as usize];
    let mut slices = [IoSliceMut::new(&mut buffer)];
    match rustix::io::preadv2(&store.file, &mut slices, offset, ReadWriteFlags::NOWAIT) {
        Ok(count) if count == buffer.len() => Some(Ok(buffer.into())),
        // Part of it, or none: the pool reads it all and judges errors.
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => None,
        Err(error) => {
            if matches!(error, Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) {
                store.nowait.store(false, Ordering::Relaxed);
            }
            None
        }
    }
}

fn sync(file: &File, path: &Path) -> DiskResult {
    rustix::fs::fdatasync(file).map_err(|error| failed(path, "sync", 0, error))?;
    Ok(Bytes::new())
}

fn read_all(file: &File, mut offset: u64, mut buffer: &mut [u8]) -> rustix::io::Result<()> {
    while !buffer.is_empty() {
        match rustix::io::pread(file, &mut *buffer, offset) {
            // Behind the end of the file: it was cut short by someone else.
            Ok(0) => return Err(Errno::NODATA),
            Ok(count) => {
                offset += count as u64;
                buffer = buffer.split_at_mut(count).1;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn write_all(file: &File, mut offset: u64, mut pieces: &mut [IoSlice<'_>]) -> rustix::io::Result<()> {
    while !pieces.is_empty() {
        let some = pieces.get(..PIECES_MAX).unwrap_or(pieces);
        match rustix::io::pwritev(file, some, offset) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => {
                offset += count as u64;
                IoSlice::advance_slices(&mut pieces, count);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn zero(store: &StoreFile, offset: u64, len: u64) -> rustix::io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    // On a file this gives the space back; on a block device the kernel has the device write zeros, or refuses.
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(&store.file, hole, offset, len) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV) => {
            write_zeros(&store.file, offset, len)
        }
        Err(error) => Err(error),
    }
}

fn write_zeros(file: &File, offset: u64, len: u64) -> rustix::io::Result<()> {
    let zeros =
        PageBuf::zeroed(ZEROS_BYTES.min(len.next_multiple_of(PAGE_BYTES as u64) as usize) / PAGE_BYTES);
    let mut done = 0;
    while done < len {
        let step = (len - done).min(zeros.filled() as u64);
        let piece = zeros.as_bytes().get(..step as usize).unwrap_or(zeros.as_bytes());
        write_all(file, offset + done, &mut [IoSlice::new(piece)])?;
        done += step;
    }
    Ok(())
}

/// Lets bytes read into aligned pages be handed on without a copy.
struct Pages(PageBuf);

impl AsRef<[u8]> for Pages {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}
