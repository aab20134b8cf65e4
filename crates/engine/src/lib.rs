//! The part of Biplex that decides. Facts go in (`handle_*`), orders come out ([`engine::Action`]).
//!
//! No I/O, no clock, no threads, no randomness, no hash maps: the daemon and the simulator run the same code.

pub mod entry;
pub mod hold;
pub mod message;
pub mod mutant;
pub mod units;

pub use entry::{Body, Entry};
pub use units::*;
