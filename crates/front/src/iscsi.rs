//! iSCSI (RFC 7143): a target, and a small initiator for the demo, the simulator and the bench.
//!
//! Answers for: the wire, logins, sessions, sequence numbers, data transfer, task management. Knows nothing
//! of what a CDB means: that is `scsi`'s. Must never wait, read a clock, or trust a byte. ErrorRecoveryLevel
//! is 0 and a session has one connection, so every fault that the standard calls a session failure simply
//! ends the connection.
//!
//! Invariants: a command is answered once or aborted, never both; a write whose data did not arrive exactly
//! as agreed never reaches a volume; everything that a host can make us hold has a limit with a name.

mod chap;
mod command;
mod discovery;
mod framing;
pub mod initiator;
mod login;
mod manage;
mod pdu;
mod session;
mod shared;
pub mod target;
mod text;

pub use chap::Chap;
pub use target::{SessionView, Target, TargetAction, TargetConfig};

/// Fills a buffer with unpredictable bytes: challenges and session handles rest on it.
pub type Entropy = Box<dyn FnMut(&mut [u8]) + Send>;

#[cfg(test)]
mod tests;
