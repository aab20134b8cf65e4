//! Keeps: the journal ring, its recovery, and what a disk is.

pub mod disk;
pub mod page;

pub use disk::{Device, Disk, DiskError, DiskOp, DiskResult, DiskTicket};
pub use page::{PAGE_BYTES, PageBuf};
