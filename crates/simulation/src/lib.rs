//! A whole node under simulation: engine, cache on disk, callouts, against destinations that misbehave.
//!
//! One [seed](run) is one history. Everything that chance or time decides in the product is given from outside, and here it
//! comes from the seed: the clock, the random local parts, the pace of the cache's writer, the network, the destinations and what they
//! do wrong, the clients, the clears, the crashes. So a seed that fails, fails again, with the same trace.
//!
//! 1. [`World`] is what is outside of the node: names, hosts, mailboxes, and how they change.
//! 2. A *life* (`life.rs`) is one process of the node: a runtime of its own over the same cache folder. It ends by a stop, or by a
//!    crash that loses whatever was not committed.
//! 3. [`History`] is the truth, kept apart from the node: what each destination said of whom, when it was asked, when somebody
//!    cleared. It knows the promises of the design's sections 3 to 6 and shares no code with the engine's table.
//!    Every decision, every callout and every moment in between is held against it (`promises.rs`).
//!
//! What breaks a promise ends the run with a [`Broken`]: the sentence, and the trace that led there.

mod clients;
mod history;
mod life;
mod node;
mod promises;
mod run;
mod world;

pub use history::{Broken, History};
pub use run::{Summary, run, trace};
pub use world::World;

/// Things that happen in one run of the tests.
///
/// About 26 ms of a core for each run, unoptimized. The mistakes of `docs/mistakes.md` were all found at this length; longer runs
/// are a test of their own.
pub const STEPS: usize = 80;

/// Many runs added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Seeds that were run.
    pub seeds: u64,
    /// All of their summaries, added.
    pub sum: Summary,
}

impl Totals {
    /// One run more.
    pub fn add(&mut self, run: &Summary) {
        self.seeds += 1;
        self.sum.decisions += run.decisions;
        self.sum.rejects += run.rejects;
        self.sum.callouts += run.callouts;
        self.sum.clears += run.clears;
        self.sum.lives += run.lives;
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Summary { decisions, rejects, callouts, clears, lives, .. } = self.sum;
        write!(
            f,
            "{} seeds: {lives} lives of the node, {decisions} decisions ({rejects} rejects), {callouts} callouts, {clears} clears",
            self.seeds
        )
    }
}

/// A folder for a run's cache: in memory where the system has such a place, because every commit is synced.
///
/// # Errors
/// When no folder can be made.
pub fn folder() -> std::io::Result<tempfile::TempDir> {
    match tempfile::tempdir_in("/dev/shm") {
        Ok(folder) => Ok(folder),
        Err(_) => tempfile::tempdir(),
    }
}
