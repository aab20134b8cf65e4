//! Answers for the tools of the end-to-end tests: two real daemons, the line between them, hosts, and what can be
//! said about their data afterwards. The promises themselves stand in `tests/`, one file for each.
//!
//! ```text
//! test ─▶ Host ──iSCSI──▶ biplex a ──▶ Line ──▶ biplex b ◀──iSCSI── Host ◀─ test
//! ```
//! The binary is `$BIPLEX_BIN`, else the workspace's release build. Everything listens on loopback only, at
//! ports of its own, and lives in one temporary directory, which is kept (and the logs' ends printed) when a test
//! fails. Tests wait for conditions, each with a deadline; none sleeps to be lucky.

pub mod host;
pub mod libiscsi;
pub mod line;
pub mod load;
pub mod pair;
pub mod program;
pub mod tgt;
pub mod wait;

pub use host::{Host, HostError};
pub use line::{Direction, Line};
pub use load::Load;
pub use pair::{Pair, Settings, Site, SiteName};
pub use tgt::Tgt;
pub use wait::{PATIENCE, wait_until};
