//! What was learned and could not be written: a refusal that it speaks against is on disk yet, and counts no more.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use callahead_cache::{DomainState, Lookup, MAX_INVALID_AGE, RecipientState, Timestamp};
use callahead_smtp::{Domain, Recipient};

/// Recipients and domains that are remembered, of each. With more, no refusal counts that is older than the last one.
const MAX: usize = 10_000;

/// When a recipient was accepted, or a domain turned out to have no null MX, and that could not be written.
#[derive(Debug, Default)]
pub(crate) struct Unwritten {
    /// Whether there is anything: nearly always not.
    any: AtomicBool,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    recipients: HashMap<Recipient, Timestamp>,
    domains: HashMap<Domain, Timestamp>,
    /// Of all.
    all: Option<Timestamp>,
}

impl Unwritten {
    pub(crate) fn accepted(&self, recipient: &Recipient, at: Timestamp) {
        self.note(at, |book| insert(&mut book.recipients, recipient, at));
    }

    pub(crate) fn has_mx(&self, domain: &Domain, at: Timestamp) {
        self.note(at, |book| insert(&mut book.domains, domain, at));
    }

    fn note(&self, at: Timestamp, insert: impl FnOnce(&mut Book) -> bool) {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        if !insert(&mut book) {
            book.all = book.all.max(Some(at));
        }
        self.any.store(true, Ordering::Release);
    }

    /// Takes out of it what was said before.
    pub(crate) fn correct(&self, recipient: &Recipient, lookup: &mut Lookup) {
        let refuses = lookup.recipient.as_ref().is_some_and(|kept| kept.state == RecipientState::Invalid)
            || lookup.domain.as_ref().is_some_and(|kept| kept.state == DomainState::NullMx);
        if !refuses || !self.any.load(Ordering::Acquire) {
            return;
        }
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old =
            |at: Timestamp, newer: Option<&Timestamp>| newer.max(book.all.as_ref()).is_some_and(|newer| at < *newer);
        let newer = book.recipients.get(recipient);
        lookup.recipient.take_if(|kept| kept.state == RecipientState::Invalid && is_old(kept.checked_at, newer));
        let newer = book.domains.get(recipient.domain());
        lookup.domain.take_if(|kept| kept.state == DomainState::NullMx && is_old(kept.checked_at, newer));
    }
}

/// Whether there was room.
fn insert<K: Clone + Eq + Hash>(all: &mut HashMap<K, Timestamp>, key: &K, at: Timestamp) -> bool {
    if all.len() >= MAX && !all.contains_key(key) {
        // What was refused before that is over by now, too.
        all.retain(|_, then| at.since(*then) < MAX_INVALID_AGE);
        if all.len() >= MAX {
            return false;
        }
    }
    all.insert(key.clone(), at);
    true
}
