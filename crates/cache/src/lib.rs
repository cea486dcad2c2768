//! The verdict cache: what destinations said of recipients and domains, how long it may be served, and clears.
//!
//! The cache is one LMDB file. A *slot* is a key and its value: each recipient has one, and each domain of which something
//! is known. [`Cache::lookup`] reads a recipient's slot and its domain's in one snapshot and waits for
//! nobody; everything that writes goes through one writer thread, which commits what has queued up in one
//! transaction and only then tells those who wait.
//!
//! # Epochs
//!
//! A clear takes the next number of a durable counter, its [`Epoch`], and writes it where it counts: into the recipient's
//! slot, into the domain's, or into the header for all. Whatever is learned carries the latest epoch at the time of the
//! lookup that came before the question to the destination. A record is written only while no clear that covers it is newer, and served until
//! one is; a clear of anything else is nothing to it.
//! So clearing a domain of a million entries is one small write, and a callout that was under way when somebody cleared
//! can't bring back what it heard.
//!
//! # Routes
//!
//! The file says itself under which routes it was filled ([`Cache::keep_routes`]), so that its user can clear what came from elsewhere than where a
//! domain leads now. What is written there means nothing to the cache.
//!
//! # Time
//!
//! Time comes in as [`Timestamp`]; the cache has no clock. It keeps the latest time that it has seen, and when it is opened
//! earlier than that (the clock went back), it starts with everything cleared, since ages can't be known.
//!
//! # Disks
//!
//! On a full disk puts and clears fail, and say so; lookups go on. A file that is damaged is found when it is opened and can be
//! moved aside ([`Cache::open_or_begin_anew`]): the cache may be lost at any time, and an empty one undoes no clear.
//! LMDB has no checksums: octets changed within a page by a failing disk can go unnoticed until they are met, and end the process then.
//! The next one finds that the cache was not closed ([`Ending`]); another process can look through the file ([`look_through`]), and one
//! that is damaged is moved aside at the start after that.

mod codec;
mod damage;
mod ending;
mod key;
mod list;
mod record;
mod store;
mod sweep;
mod writer;

pub use damage::look_through;
pub use ending::Ending;
pub use key::Cursor;
pub use list::{DomainCounts, Entry, EntryState, Filter, Page};
pub use record::{
    DomainState, Epoch, FLIGHT_MAX, MAX_INVALID_AGE, MAX_REPLY_TEXT, RecipientState, Record, STALE_FOR, State,
    StoredReply, Timestamp,
};
pub use store::{Cache, CacheError, Health, Lookup, Opened, Options, Stats};
pub use sweep::Swept;
pub use writer::{Cleared, Put, PutTicket, Scope};
