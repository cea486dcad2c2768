//! Who failed to be let in too often: a bounded count by address and by account.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Failures that are let pass at once.
const BURST: f64 = 10.0;
/// One more is let pass each time this has gone by.
const REFILL: Duration = Duration::from_secs(6);
/// Addresses and accounts that are remembered; beyond, the half that failed least lately is forgotten.
const MAX_KEYS: usize = 10_000;

/// Counts failures. Clones share the counts.
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
            Ok(address) => match address.ip().to_canonical() {
                IpAddr::V6(ip) => Self::Address(IpAddr::V6((u128::from(ip) & !u128::from(u64::MAX)).into())),
                v4 => Self::Address(v4),
            },
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
    /// How long this one has to wait before the next attempt; `None` where it need not.
    pub(crate) fn wait(&self, key: &Key) -> Option<Duration> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let left = failed.get(key)?.refilled(Instant::now());
        (left < 1.0).then(|| REFILL.mul_f64(1.0 - left))
    }

    /// Counts a failure.
    pub(crate) fn failed(&self, key: Key) {
        let now = Instant::now();
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.len() >= MAX_KEYS && !failed.contains_key(&key) {
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
        let left = failed.get(&key).map_or(BURST, |bucket| bucket.refilled(now));
        failed.insert(key, Bucket { left: (left - 1.0).max(0.0), at: now });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ten_failures_pass_and_then_one_every_six_seconds() {
        let throttle = Throttle::default();
        let key = Key::of_peer("192.0.2.1:1000");
        for _ in 0..10 {
            assert_eq!(throttle.wait(&key), None);
            throttle.failed(Key::of_peer("192.0.2.1:2000"));
        }
        assert_eq!(throttle.wait(&key).unwrap(), REFILL);
        assert_eq!(throttle.wait(&Key::of_peer("192.0.2.2:1000")), None);
        tokio::time::advance(REFILL).await;
        assert_eq!(throttle.wait(&key), None);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_and_an_ipv6_client_is_its_64() {
        let throttle = Throttle::default();
        for n in 0..20_000 {
            throttle.failed(Key::Other(n.to_string()));
        }
        assert!(throttle.failed.lock().unwrap().len() <= MAX_KEYS);
        assert_eq!(Key::of_peer("[2001:db8::1]:5"), Key::of_peer("[2001:db8::2]:6"));
        assert_eq!(Key::of_peer("[::ffff:192.0.2.1]:5"), Key::of_peer("192.0.2.1:6"));
    }
}
