//! Keeps: the journal ring, its recovery, and what a disk is.
//!
//! While a site runs the journal is a machine without I/O: entries go in ([`Journal::append`]), page-aligned
//! groups come out ([`Journal::next_group`]), and the caller says when one is durable
//! ([`Journal::group_done`]). What the site must keep beside its entries and is too long for a checkpoint is saved
//! as a state ([`Journal::save_state`]). Only making, recovering and explaining a journal touch a [`Disk`].

pub mod disk;
pub mod error;
pub mod explain;
pub mod extract;
pub mod layout;
pub mod page;
pub mod recover;
pub mod ring;
mod scan;
mod state;
mod words;

pub use biplex_format::journal::Checkpoint;
pub use disk::{Device, Disk, DiskError, DiskOp, DiskResult, DiskTicket};
pub use error::{Damage, JournalFull, StoreError};
pub use explain::{ExplainOptions, Explained, explain};
pub use extract::{ExtractError, Extracted, extract};
pub use layout::{Identity, JOURNAL_BYTES_MIN, Layout, create, create_with};
pub use page::{PAGE_BYTES, PageBuf};
pub use recover::{Recovered, recover};
pub use ring::{Durable, GROUP_BYTES_MAX, Group, Journal};
