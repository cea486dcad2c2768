//! Callahead's benchmarks: `cargo xtask bench` builds everything and runs this; docs/benchmarks.md is what it writes.
//!
//! In the order in which a measurement is made: [`subject`] starts what is measured, each in processes of its own; [`load`] asks;
//! [`process`] says what that cost; a [`scenario`] puts these together, round by round and subject by subject in turn, and
//! [`stats`] makes ratios of it; [`report`] writes it down.
//!
//! Nothing of Callahead is linked in but its cache's crate, which fills big caches before the daemon starts. The daemon is the
//! program as it is installed.

pub mod bare;
pub mod least;
pub mod load;
pub mod process;
pub mod report;
pub mod scenario;
pub mod size;
pub mod soak;
pub mod stats;
pub mod subject;
