//! One site: engine, store and front joined; all of the product but the operating system.
//!
//! ```text
//! Event ─▶ Site::handle ─▶ front (SCSI, iSCSI) ─▶ engine ─▶ journal, link, stores ─▶ Site::poll ─▶ Action
//! ```
//! The daemon and the simulator are two answers to the question who plays the world around it. Single-threaded,
//! without I/O, clock or randomness of its own. A write's whole journey is on one page: [`write`].

pub mod api;
mod destage;
mod link;
mod locks;
mod onlook;
mod passing;
mod patience;
mod read;
mod site;
pub mod status;
pub mod unit;
mod units;
mod view;
pub mod write;

pub use api::*;
pub use site::{Entropy, OpenError, Site};
pub use status::*;
