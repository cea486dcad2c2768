//! How much is measured.

use std::time::Duration;

/// The sizes of one run. [`Size::quick`] proves that everything works and its numbers mean nothing; [`Size::usual`] is what the
/// documents show, in some seventeen minutes; [`Size::full`] goes to ten million entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Size {
    /// Its name, as in the report.
    pub name: &'static str,
    /// Rounds of each comparison.
    pub rounds: u64,
    /// How long one measurement goes on.
    pub span: Duration,
    /// Connections of the generator, where their number is not what is measured.
    pub connections: usize,
    /// Entries of the usual cache.
    pub few: u64,
    /// Entries of the big cache.
    pub many: u64,
    /// Recipients that the destination knows; a cold measurement ends when they are used up.
    pub mailboxes: u64,
    /// Recipients that are asked for again and again where a peer has to learn them first.
    pub warm: u64,
    /// Decisions in the log of which pages are made.
    pub logged: u64,
    /// Entries in the cache of which pages are made.
    pub kept: u64,
    /// How often each page is asked for.
    pub asked: usize,
    /// Idle connections.
    pub idle: usize,
    /// Guesses of a dictionary attack, or as many more as take the time of a measurement.
    pub guesses: u64,
    /// Connections that are held and not used.
    pub slow: usize,
    /// Questions of which the round trips are counted.
    pub trips: usize,
    /// Numbers of connections, for the growth.
    pub by_connections: Vec<usize>,
    /// Numbers of configured domains, for the growth.
    pub by_domains: Vec<u64>,
}

impl Size {
    /// A smoke run: less than a minute.
    pub fn quick() -> Self {
        Self {
            name: "quick",
            rounds: 1,
            span: Duration::from_millis(300),
            connections: 16,
            few: 2_000,
            many: 20_000,
            mailboxes: 400_000,
            warm: 40,
            logged: 20_000,
            kept: 20_000,
            asked: 2,
            idle: 500,
            guesses: 2_000,
            slow: 600,
            trips: 4,
            by_connections: vec![1, 100],
            by_domains: vec![1, 100],
        }
    }

    /// The numbers in the documents.
    pub fn usual() -> Self {
        Self {
            name: "default",
            rounds: 5,
            span: Duration::from_secs(2),
            connections: 32,
            few: 10_000,
            many: 1_000_000,
            mailboxes: 4_000_000,
            warm: 200,
            logged: 1_000_000,
            kept: 1_000_000,
            asked: 20,
            idle: 10_000,
            guesses: 100_000,
            slow: 10_000,
            trips: 20,
            by_connections: vec![1, 10, 100, 1_000, 10_000],
            by_domains: vec![1, 100, 10_000],
        }
    }

    /// As [`Size::usual`], with ten million entries, ten million decisions and longer measurements.
    pub fn full() -> Self {
        Self {
            name: "full",
            span: Duration::from_secs(5),
            many: 10_000_000,
            mailboxes: 10_000_000,
            logged: 10_000_000,
            ..Self::usual()
        }
    }
}
