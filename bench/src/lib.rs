//! Callahead's benchmarks: `cargo xtask bench` builds everything and runs this; docs/benchmarks.md is what it writes.
//!
//! In the order in which a measurement is made: [`subject`] starts what is measured, each in processes of its own; [`load`] asks;
//! [`process`] says what that cost; a [`scenario`] puts these together, round by round and subject by subject in turn, and
//! [`stats`] makes ratios of it; [`report`] writes it down.
//!
//! The daemon that is measured is the program as it is installed. Four of Callahead's crates are linked in, to fill what it finds at its
//! start: `cache` its cache, `control` its decision log, `engine` and `smtp` the types of what is in both. The generator and the
//! servers of our own use none of them: a fault in both would measure nothing.

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
