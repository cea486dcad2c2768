//! Who failed to be let in too often: a bounded count by address and by account.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use callahead_engine::network_of;
use tokio::time::Instant;

/// Failures that are let pass at once.
const BURST: f64 = 10.0;
/// One more is let pass each time this has gone by.
const REFILL: Duration = Duration::from_secs(6);
/// Addresses and accounts that are remembered; beyond, the half that failed least lately is forgotten.
const MAX_KEYS: usize = 10_000;

/// Counts failures. An attempt counts as one from its beginning until it has succeeded: what is looked at for a while can't be tried a thousand times
/// meanwhile. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct Throttle {
    failed: Arc<Mutex<HashMap<Key, Bucket>>>,
}

/// Who failed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// An IPv4 address, or the /64 of an IPv6 one.
    Address(IpAddr),
    /// A Unix socket's peer, or an address that is no IP address.
    Other(String),
    /// An account that somebody tried passwords for.
    Account(String),
    /// An account that had routes tested.
    RouteTests(String),
    /// An account that had destinations asked past the cache.
    Live(String),
}

/// An attempt under way. It has failed, unless it is said to have succeeded.
#[derive(Debug)]
#[must_use]
pub(crate) struct Attempt {
    throttle: Throttle,
    keys: Vec<Key>,
}

impl Attempt {
    /// It is not counted.
    pub(crate) fn succeeded(self) {
        let now = Instant::now();
        let mut failed = self.throttle.failed.lock().unwrap_or_else(PoisonError::into_inner);
        for key in self.keys {
            // One that was forgotten meanwhile has its whole burst.
            let Some(bucket) = failed.get_mut(&key) else { continue };
            let left = bucket.refilled(now) + 1.0;
            if left >= BURST {
                failed.remove(&key);
            } else {
                *bucket = Bucket { left, at: now };
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Key {
    /// Of a client as the listener names it: `127.0.0.1:1234`, or the peer of a Unix socket.
    pub(crate) fn of_peer(peer: &str) -> Self {
        match peer.parse::<std::net::SocketAddr>() {
            Ok(address) => Self::Address(network_of(address.ip())),
            Err(_) => Self::Other(peer.to_owned()),
        }
    }
}

impl Bucket {
    fn refilled(self, now: Instant) -> f64 {
        let more = now.saturating_duration_since(self.at).as_secs_f64() / REFILL.as_secs_f64();
        (self.left + more).min(BURST)
    }
}

impl Throttle {
    /// Counts an attempt by each of these, or says how long the one of them has to wait that has to wait for longest.
    pub(crate) fn attempt(&self, keys: impl Into<Vec<Key>>) -> Result<Attempt, Duration> {
        let (now, keys) = (Instant::now(), keys.into());
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let left = |failed: &HashMap<Key, Bucket>, key| failed.get(key).map_or(BURST, |bucket| bucket.refilled(now));
        let least = keys.iter().map(|key| left(&failed, key)).fold(BURST, f64::min);
        if least < 1.0 {
            return Err(REFILL.mul_f64(1.0 - least));
        }
        for key in &keys {
            let left = left(&failed, key) - 1.0;
            make_room(&mut failed, key, now);
            failed.insert(key.clone(), Bucket { left, at: now });
        }
        drop(failed);
        Ok(Attempt { throttle: self.clone(), keys })
    }
}

fn make_room(failed: &mut HashMap<Key, Bucket>, key: &Key, now: Instant) {
    if failed.len() < MAX_KEYS || failed.contains_key(key) {
        return;
    }
    failed.retain(|_, bucket| bucket.refilled(now) < BURST);
    if failed.len() >= MAX_KEYS {
        // Half of them at once, so that a full table does not cost a search at each failure.
        let mut times: Vec<Instant> = failed.values().map(|bucket| bucket.at).collect();
        let middle = times.len() / 2;
        let (_, middle, _) = times.select_nth_unstable(middle);
        let middle = *middle;
        failed.retain(|_, bucket| bucket.at > middle);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ten_failures_pass_and_then_one_every_six_seconds() {
        let throttle = Throttle::default();
        let attempt = |peer| throttle.attempt([Key::of_peer(peer)]);
        for _ in 0..10 {
            drop(attempt("192.0.2.1:2000").unwrap());
        }
        assert_eq!(attempt("192.0.2.1:1000").unwrap_err(), REFILL);
        attempt("192.0.2.2:1000").unwrap().succeeded();
        tokio::time::advance(REFILL).await;
        drop(attempt("192.0.2.1:1000").unwrap());
        assert_eq!(attempt("192.0.2.1:1000").unwrap_err(), REFILL);
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_under_way_count_until_they_succeed_and_one_that_may_not_begin_counts_for_nobody() {
        let throttle = Throttle::default();
        let [address, account] = [Key::of_peer("192.0.2.1:1000"), Key::Account("anna".into())];
        let both = || throttle.attempt([address.clone(), account.clone()]);
        let mut under_way: Vec<Attempt> = (0..10).map(|_| both().unwrap()).collect();
        assert_eq!(both().unwrap_err(), REFILL);
        assert_eq!(throttle.attempt([account.clone(), Key::Other("x".into())]).unwrap_err(), REFILL);
        assert!(!throttle.failed.lock().unwrap().contains_key(&Key::Other("x".into())));
        under_way.pop().unwrap().succeeded();
        under_way.push(both().unwrap());
        assert_eq!(both().unwrap_err(), REFILL);
        under_way.into_iter().for_each(Attempt::succeeded);
        assert!(throttle.failed.lock().unwrap().is_empty(), "nothing is left of those that succeeded");
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_and_an_ipv6_client_is_its_64() {
        let throttle = Throttle::default();
        for n in 0..20_000 {
            drop(throttle.attempt([Key::Other(n.to_string())]).unwrap());
        }
        assert!(throttle.failed.lock().unwrap().len() <= MAX_KEYS);
        assert_eq!(Key::of_peer("[2001:db8::1]:5"), Key::of_peer("[2001:db8::2]:6"));
        assert_eq!(Key::of_peer("[::ffff:192.0.2.1]:5"), Key::of_peer("192.0.2.1:6"));
    }
}
