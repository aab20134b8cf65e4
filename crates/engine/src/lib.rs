//! The part of Biplex that decides. Facts go in (`handle_*`), orders come out ([`engine::Action`]).
//!
//! No I/O, no clock, no threads, no randomness, no hash maps: the daemon and the simulator run the same code.

pub mod clock;
pub mod control;
pub mod cut;
pub mod engine;
pub mod entry;
mod held;
pub mod hold;
pub mod hosts;
pub mod judge;
pub mod message;
pub mod mutant;
mod passing;
pub mod reserve;
pub mod session;
pub mod stream;
pub mod units;
pub mod view;

pub use engine::Engine;
pub use entry::{Body, Entry};
pub use units::*;
