//! Where the wall clock's time comes from.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use callahead_cache::Timestamp;

/// Tells the time. It never goes back.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The system's time, which does not go back while the process lives: when the wall clock is set back, it goes on by the monotonic one, so
/// that nothing is kept for longer than it may. When it is set forward, that is followed.
#[derive(Debug)]
pub struct SystemClock {
    latest: AtomicU64,
    anchor: Instant,
    wall: Timestamp,
}

/// A clock that a test moves. Clones of an `Arc` of it are the same clock.
#[derive(Debug)]
pub struct TestClock(AtomicU64);

fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl SystemClock {
    /// A clock that starts now.
    pub fn new() -> Self {
        Self { latest: AtomicU64::new(0), anchor: Instant::now(), wall: wall() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let monotonic = self.wall.after(self.anchor.elapsed());
        let now = wall().max(monotonic).0;
        Timestamp(now.max(self.latest.fetch_max(now, Ordering::Relaxed)))
    }
}

impl TestClock {
    /// A clock that stands at this moment.
    pub fn at(now: Timestamp) -> Self {
        Self(AtomicU64::new(now.0))
    }

    /// Moves it forward.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_millis()).unwrap_or(0), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}
