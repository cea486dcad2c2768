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
///
/// Each question asks for the time more than once, so that is one reading of the monotonic clock; the wall clock is looked at once a second.
#[derive(Debug)]
pub struct SystemClock {
    anchor: Instant,
    /// The time at the anchor, in milliseconds since 1970; raised when the wall clock is set forward.
    wall: AtomicU64,
    /// When the wall clock is looked at next, in milliseconds since the anchor.
    look_at: AtomicU64,
}

/// How long it may take until a wall clock that was set forward is followed, in milliseconds.
const LOOK_EVERY: u64 = 1000;

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
        Self { anchor: Instant::now(), wall: AtomicU64::new(wall().0), look_at: AtomicU64::new(LOOK_EVERY) }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = u64::try_from(self.anchor.elapsed().as_millis()).unwrap_or(u64::MAX);
        if since >= self.look_at.load(Ordering::Relaxed) {
            self.look_at.store(since.saturating_add(LOOK_EVERY), Ordering::Relaxed);
            self.wall.fetch_max(wall().0.saturating_sub(since), Ordering::Relaxed);
        }
        Timestamp(self.wall.load(Ordering::Relaxed).saturating_add(since))
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
