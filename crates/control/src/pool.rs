//! A few connections that are used by one at a time: whoever waits gets the first that becomes free.

use std::sync::{Condvar, Mutex, PoisonError};

/// Those that are free, and whoever waits for one.
pub(crate) struct Pool<T> {
    size: usize,
    free: Mutex<Vec<T>>,
    freed: Condvar,
}

/// Gives it back, also where the work with it panics.
struct Taken<'a, T> {
    pool: &'a Pool<T>,
    one: Option<T>,
}

impl<T> Pool<T> {
    pub(crate) fn new(all: Vec<T>) -> Self {
        Self { size: all.len(), free: Mutex::new(all), freed: Condvar::new() }
    }

    /// Works with one, and waits for it on a thread that may be blocked.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        let mut taken = Taken { pool: self, one: None };
        let one = taken.one.insert(self.take());
        work(one)
    }

    /// Works with each, when it has them all: nobody else has one then. For one caller at a time.
    pub(crate) fn with_all(&self, mut work: impl FnMut(&mut T)) {
        let mut all: Vec<_> = (0..self.size).map(|_| Taken { pool: self, one: Some(self.take()) }).collect();
        all.iter_mut().filter_map(|taken| taken.one.as_mut()).for_each(&mut work);
    }

    fn take(&self) -> T {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match free.pop() {
                Some(one) => return one,
                None => free = self.freed.wait(free).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        self.pool.free.lock().unwrap_or_else(PoisonError::into_inner).extend(self.one.take());
        self.pool.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_gets_the_first_that_becomes_free_whichever_that_is() {
        for first in ["one", "other"] {
            let pool = Pool::new(vec!["one", "other"]);
            let (mut one, mut other) = (None, None);
            for _ in 0..2 {
                let taken = pool.take();
                *(if taken == first { &mut one } else { &mut other }) = Some(taken);
            }
            std::thread::scope(|scope| {
                let waits = scope.spawn(|| pool.with(|one| *one));
                drop(Taken { pool: &pool, one });
                assert_eq!(waits.join().ok(), Some(first));
            });
            drop(Taken { pool: &pool, one: other });
        }
    }
}
