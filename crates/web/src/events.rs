//! What happens, as it happens: decisions and alerts for whoever watches. Nobody watching costs one load of a counter a decision.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use callahead_cache::Timestamp;
use callahead_control::Principal;
use callahead_engine::{Alert, AlertKind, Clock, Decision, Observer, Question, rfc3339};
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};

/// Events that a slow watcher may be behind; beyond, it misses some and is told how many.
const BEHIND: usize = 1024;

/// Streams of events at a time.
pub(crate) const MAX_STREAMS: usize = 100;
/// Of these, those of one account, so that nobody takes all.
pub(crate) const MAX_STREAMS_OF_ONE: usize = 10;

/// The feed. Clones are the same.
#[derive(Clone)]
pub struct Events {
    feed: broadcast::Sender<Arc<Event>>,
    /// As the feed's own count of its receivers, which takes a lock.
    watchers: Arc<AtomicUsize>,
    clock: Arc<dyn Clock>,
    streams: Arc<Semaphore>,
    of_accounts: Arc<Mutex<HashMap<String, usize>>>,
}

/// A place among the streams, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _place: OwnedSemaphorePermit,
    account: Option<String>,
    of_accounts: Arc<Mutex<HashMap<String, usize>>>,
}

/// What one watcher has not had yet.
pub(crate) struct Watching {
    feed: broadcast::Receiver<Arc<Event>>,
    watchers: Arc<AtomicUsize>,
}

/// One thing that happened.
#[derive(Debug)]
pub(crate) struct Event {
    /// `decision`, `alert`, `alert_over`, `clear`.
    pub(crate) kind: &'static str,
    /// The recipient's domain, by which it is seen or not; `None` is for administrators.
    pub(crate) domain: Option<String>,
    /// JSON in one line.
    pub(crate) data: String,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("watchers", &self.watchers).finish_non_exhaustive()
    }
}

impl Events {
    /// A feed that tells the time by this clock.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let streams = Arc::new(Semaphore::new(MAX_STREAMS));
        let of_accounts = Arc::default();
        Self { feed: broadcast::Sender::new(BEHIND), watchers: Arc::default(), clock, streams, of_accounts }
    }

    /// A place among the streams for somebody; `None` where all are taken, or all that one account may have.
    pub(crate) fn place(&self, principal: &Principal) -> Option<Place> {
        let place = Arc::clone(&self.streams).try_acquire_owned().ok()?;
        // Who may open the admin socket may stop the daemon too.
        let account = principal.name().map(str::to_owned);
        if let Some(account) = &account {
            let mut of_accounts = self.of_accounts.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = of_accounts.entry(account.clone()).or_default();
            if *taken >= MAX_STREAMS_OF_ONE {
                return None;
            }
            *taken += 1;
        }
        Some(Place { _place: place, account, of_accounts: Arc::clone(&self.of_accounts) })
    }

    pub(crate) fn watch(&self) -> Watching {
        let feed = self.feed.subscribe();
        self.watchers.fetch_add(1, Ordering::Relaxed);
        Watching { feed, watchers: Arc::clone(&self.watchers) }
    }

    pub(crate) fn tell(&self, event: impl FnOnce(Timestamp) -> Event) {
        if self.watchers.load(Ordering::Relaxed) > 0 {
            let _ = self.feed.send(Arc::new(event(self.clock.now())));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(account) = self.account.take() else { return };
        let mut of_accounts = self.of_accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut taken) = of_accounts.entry(account) {
            *taken.get_mut() -= 1;
            if *taken.get() == 0 {
                taken.remove();
            }
        }
    }
}

impl Watching {
    /// The next event. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Arc<Event>, RecvError> {
        self.feed.recv().await
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Observer for Events {
    fn decided(&self, question: &Question<'_>, decision: &Decision) {
        self.tell(|now| {
            let decision = Decision { transcript: None, ..decision.clone() };
            let mut data = serde_json::to_value(&decision).unwrap_or_default();
            data["at"] = json!(rfc3339(now));
            data["listener"] = json!(question.listener.as_str());
            if let Some(client) = question.client {
                data["client"] = json!(client.to_string());
            }
            if let Some(sender) = question.sender {
                data["sender"] = json!(sender);
            }
            let domain = decision.recipient.rsplit('@').next().map(str::to_owned);
            Event { kind: "decision", domain, data: data.to_string() }
        });
    }

    fn alert(&self, alert: &Alert) {
        self.tell(|now| {
            let data = json!({
                "at": rfc3339(now), "domain": alert.domain, "kind": alert.kind.as_str(), "detail": alert.detail,
            });
            Event { kind: "alert", domain: Some(alert.domain.clone()), data: data.to_string() }
        });
    }

    fn alert_is_over(&self, domain: &str, kind: AlertKind) {
        self.tell(|now| {
            let data = json!({"at": rfc3339(now), "domain": domain, "kind": kind.as_str()});
            Event { kind: "alert_over", domain: Some(domain.to_owned()), data: data.to_string() }
        });
    }
}

#[cfg(test)]
mod tests {
    use callahead_engine::TestClock;

    use super::*;

    #[test]
    fn an_event_is_made_only_while_somebody_watches() {
        let events = Events::new(Arc::new(TestClock::at(Timestamp(0))));
        let event = |_| Event { kind: "clear", domain: None, data: String::new() };
        events.tell(|_| panic!("nobody watches"));
        let (mut first, second) = (events.watch(), events.clone().watch());
        drop(second);
        events.tell(event);
        assert!(first.feed.try_recv().is_ok());
        drop(first);
        events.tell(|_| panic!("nobody watches any more"));
    }
}
