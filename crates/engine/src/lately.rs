//! What was done a moment ago and is not to be done again yet.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use callahead_cache::Timestamp;

/// A full table is searched for what is over so often at most: it may be that nothing is.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// The keys of the last while. Bounded: with too many, new ones count as if they were there.
#[derive(Debug)]
pub(crate) struct Lately<K> {
    book: Mutex<Book<K>>,
    span: Duration,
    max: usize,
}

#[derive(Debug)]
struct Book<K> {
    seen: HashMap<K, Timestamp>,
    swept: Timestamp,
}

impl<K: Eq + Hash> Lately<K> {
    /// Keys count for so long, and so many of them at a time.
    pub(crate) fn new(span: Duration, max: usize) -> Self {
        Self { book: Mutex::new(Book { seen: HashMap::new(), swept: Timestamp(0) }), span, max }
    }

    /// Whether the key was not seen lately; it was, from now on. `false` where there is no room to remember it.
    pub(crate) fn is_first<Q>(&self, key: &Q, now: Timestamp) -> bool
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let Book { seen, swept } = &mut *book;
        if let Some(at) = seen.get_mut(key) {
            let is_first = now.since(*at) >= self.span;
            if is_first {
                *at = now;
            }
            return is_first;
        }
        // A clock that was set back searches once more than it has to.
        if seen.len() >= self.max && (now.since(*swept) >= SWEEP_EVERY || now < *swept) {
            *swept = now;
            seen.retain(|_, at| now.since(*at) < self.span);
        }
        let has_room = seen.len() < self.max;
        if has_room {
            seen.insert(key.to_owned(), now);
        }
        has_room
    }

    pub(crate) fn forget(&self, key: &K) {
        self.book.lock().unwrap_or_else(PoisonError::into_inner).seen.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_first_once_in_a_span_and_with_too_many_not_at_all() {
        let (start, span) = (Timestamp(1_000_000), Duration::from_secs(60));
        let after = |seconds| start.after(Duration::from_secs(seconds));
        let lately = Lately::<u32>::new(span, 2);
        assert!(lately.is_first(&1, start) && lately.is_first(&2, after(30)));
        assert!(!lately.is_first(&1, after(59)) && !lately.is_first(&3, after(59)));
        assert!(lately.is_first(&3, after(61)), "the first is over");
        assert!(!lately.is_first(&4, after(62)));
        lately.forget(&3);
        assert!(lately.is_first(&4, after(62)));
        assert!(lately.is_first(&4, after(62 + 60)), "the same key, and a span later");
    }
}
