//! The engine: what is answered when somebody asks for a recipient.
//!
//! A [`Question`] comes in, a [`Decision`] goes out. Between them:
//!
//! 1. The address is parsed, its domain found in the [`Directory`], and one snapshot taken from the cache.
//! 2. These facts go through the decision table (`table.rs`), which is one function over plain values, row by row.
//! 3. Where no row decides, the question joins the recipient's flight or starts it: one callout, however many wait. Then the
//!    table decides with its outcome, or without it when the deadline has come.
//!
//! What the engine remembers besides the cache (flights, hold-downs, who guesses addresses) is bounded and in memory, and a clear reaches
//! it: flights and hold-downs carry the epoch under which they were learned.
//!
//! Time comes from a [`Clock`]; deadlines are `tokio::time`'s.

mod answer;
mod clock;
mod decision;
mod directory;
mod engine;
mod flights;
mod greylisting;
mod lately;
mod observer;
mod protection;
mod table;
mod unwritten;

pub use clock::{Clock, SystemClock, TestClock};
pub use decision::{Action, Answer, Decision, Listener, Question, Source, Verdict, rfc3339};
pub use directory::{
    AcceptOrDefer, Callouts, Directory, DomainConfig, DuplicateDomain, LoggedRecipients, Policy, RejectOrDefer,
};
pub use engine::{Engine, Parts, Settings, Stats, Unanswered};
pub use greylisting::{ENOUGH as GREYLISTING_ENOUGH, LAST as GREYLISTING_LAST, looks_like_greylisting};
pub use observer::{Alert, AlertKind, LogObserver, Observer};
pub use protection::{Harvest, network_of};
