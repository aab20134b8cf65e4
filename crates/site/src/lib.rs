//! One site: engine, store and front joined; all of the product but the operating system.

pub mod api;
pub mod status;

pub use api::*;
pub use status::*;

use biplex_engine::Now;
use biplex_store::Disk;

/// Why a site cannot be opened.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(pub String);

/// Randomness from outside: fills the slice.
pub type Entropy = Box<dyn FnMut(&mut [u8]) + Send>;

/// One site of a pair. Single-threaded; holds all state.
pub struct Site {}

#[allow(unused_variables, missing_docs, clippy::todo)]
impl Site {
    /// Recovers the site from its journal (made before with [`biplex_store::journal`]'s `create`).
    pub fn open(config: SiteConfig, journal: &mut dyn Disk, entropy: Entropy, now: Now) -> Result<Site, OpenError> { todo!() }
    /// Takes a fact in. Orders that follow from it wait for [`Site::poll`].
    pub fn handle(&mut self, now: Now, event: Event) { todo!() }
    /// Hands the orders out, in order; call after a batch of events. Closes the journal group and the acks of the batch.
    pub fn poll(&mut self, now: Now, actions: &mut Vec<Action>) { todo!() }
    /// Monotonic time at or after which a [`Event::Tick`] is wanted.
    pub fn next_deadline(&self) -> u64 { todo!() }
    pub fn status(&self, now: Now) -> Status { todo!() }
    /// The hold table, from row `skip`, at most `limit` rows.
    pub fn table(&self, skip: usize, limit: usize) -> Vec<TableRow> { todo!() }
    /// Block state map of the volume with this name; `None` if there is no such volume.
    pub fn map(&self, volume: &str) -> Option<Vec<MapRun>> { todo!() }
    /// Checks the invariants that can be judged from within; the simulator calls it after every step.
    pub fn check(&self) -> Result<(), String> { todo!() }
}
