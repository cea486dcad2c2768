//! The control plane of one node: what administrators decide (domains, accounts, API tokens), who did what (the audit log), and what was
//! decided about recipients (the decision log).
//!
//! # Records and their feed
//!
//! Domains, accounts and tokens are *records*: a [`Kind`], a key, a JSON body and a revision. Revisions come from one counter, so
//! the records in the order of their revisions are a feed: whoever has applied it up to a revision asks for what came after. A
//! deletion is a record without a body. [`Control`] keeps the records in SQLite, and beside it a [`Local`] copy in memory
//! that it fills from that feed and from nothing else; every question (who is this token, whose domain is that) is answered
//! from the copy. So the store can be another one that has keys, revisions and a feed, such as a NATS key-value bucket, and the rest stays.
//!
//! A change is acknowledged when it is on disk, in the copy, and in the engine's directory ([`Domains`]).
//!
//! # Two files
//!
//! `control.db` holds the records and the audit log, and is small and worth a backup. `log.db` holds the decision log
//! ([`DecisionLog`]), is large and can be deleted. Each has one writer thread; reads have connections of their own (WAL), so they wait for no write.

mod accepted;
mod access;
mod account;
mod audit;
mod blocks;
mod consequence;
mod control;
mod database;
mod difference;
mod domain;
mod domains;
mod local;
mod log;
mod log_file;
mod log_writer;
mod password;
mod pool;
mod record;
mod retention;
mod search;
mod secret;
mod session;
mod settled;
mod tally;
mod token;
mod units;

pub use accepted::Accepted;
pub use access::{Permission, Principal};
pub use account::{Account, Role};
pub use audit::{Actor, AuditEntry, AuditPage};
pub use callahead_engine::LoggedRecipients;
pub use control::{Change, Control, ControlError, Expected, OpenError};
pub use domain::{DomainSpec, MAX_LIST, MAX_LOG_DAYS, MAX_ROUTE, TENANT_PORTS};
pub use domains::Domains;
pub use local::Local;
pub use log::{DecisionLog, LogCounters, LogSettings};
pub use password::{PasswordError, Passwords};
pub use record::{Kind, Record, Unchanged};
pub use search::{LogFilter, LogPage, LogRow};
pub use secret::{Digest, Secret};
pub use session::Session;
pub use settled::{Moved, SettleError};
pub use tally::Tally;
pub use token::Token;
pub use units::{format_duration, parse_duration};
