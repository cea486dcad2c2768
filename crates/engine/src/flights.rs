//! Flights: one callout for a recipient, however many wait for it, and one random local part for a domain.
//!
//! A flight carries the epoch of the lookup that started it. A question joins it only while no clear of its recipient is newer,
//! so an answer from before a clear goes to those who asked before the clear, and to nobody else.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use callahead_cache::{Epoch, Timestamp};
use callahead_callout::{Outcome, Report};
use callahead_smtp::{Domain, Recipient};
use tokio::sync::Notify;

/// How long after its landing a flight is still joined, while its answer is not on disk.
const JOINABLE_FOR: Duration = Duration::from_secs(30);

/// What a flight brought.
#[derive(Debug)]
pub(crate) struct Flown {
    pub(crate) report: Report,
    pub(crate) at: Timestamp,
    /// Under which it was asked for, by whomever: what it says is not kept under a later one.
    pub(crate) epoch: Epoch,
    /// It gave way to others where there was need; a question that waits does not.
    pub(crate) background: bool,
}

/// Where a flight is waited for. Those who wait are woken in the order in which they came.
#[derive(Debug, Default)]
struct Runway {
    flown: OnceLock<Arc<Flown>>,
    closed: AtomicBool,
    arrived: Notify,
}

/// The flight's own side: it lands once, or not at all when its task ends in a panic.
pub(crate) struct Landing(Arc<Runway>);

/// The side of those who wait.
#[derive(Clone, Debug)]
pub(crate) struct Arrival(Arc<Runway>);

#[derive(Debug)]
struct Flight {
    id: u64,
    epoch: Epoch,
    arrival: Arrival,
}

/// The flights under way, and those whose answer is not on disk yet; by recipient, or by domain.
#[derive(Debug)]
pub(crate) struct Flights<K> {
    all: Mutex<Table<K>>,
    max: usize,
}

#[derive(Debug)]
struct Table<K> {
    /// The newest last. There is more than one only where somebody asked live, or cleared in between.
    flights: HashMap<K, Vec<Flight>>,
    under_way: usize,
    last_id: u64,
}

/// A flight that is to be flown.
pub(crate) struct Start {
    pub(crate) id: u64,
    pub(crate) landing: Landing,
    pub(crate) arrival: Arrival,
}

/// How a question gets its answer.
pub(crate) enum Boarding {
    Joined(Arrival),
    Started(Start),
    /// There are too many.
    Full,
}

impl Landing {
    pub(crate) fn land(&self, flown: Arc<Flown>) {
        // It lands once; a second time would be no other answer.
        let _ = self.0.flown.set(flown);
        self.0.arrived.notify_waiters();
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Release);
        self.0.arrived.notify_waiters();
    }
}

impl Arrival {
    fn landed(&self) -> Option<&Arc<Flown>> {
        self.0.flown.get()
    }

    /// Until it has landed; `None` where it never will.
    pub(crate) async fn wait(&self) -> Option<Arc<Flown>> {
        loop {
            // Before the look, so that nothing that happens after it is missed.
            let arrived = self.0.arrived.notified();
            let closed = self.0.closed.load(Ordering::Acquire);
            if let Some(flown) = self.landed() {
                return Some(Arc::clone(flown));
            }
            if closed {
                return None;
            }
            arrived.await;
        }
    }
}

impl<K: Eq + Hash> Table<K> {
    fn newest(&self, whose: &K) -> Option<&Flight> {
        self.flights.get(whose)?.last()
    }

    fn newest_of_use(&self, whose: &K, now: Timestamp) -> Option<&Flight> {
        self.flights.get(whose)?.iter().rev().find(|flight| !flight.is_of_no_use(now))
    }
}

impl Flight {
    /// Whether it brought nothing to one who asks now: its answer waits to be written for so long that it is none any more (the
    /// disk hangs, or the clock was set), or it was background work that gave way.
    fn is_of_no_use(&self, now: Timestamp) -> bool {
        self.arrival.landed().is_some_and(|flown| now.since(flown.at) > JOINABLE_FOR || flown.gave_way())
    }
}

impl Flown {
    /// Background work that found no free session; a question that waits for one does better.
    pub(crate) fn gave_way(&self) -> bool {
        self.background && self.report.outcome == Outcome::Busy
    }
}

impl<K: Clone + Eq + Hash> Flights<K> {
    pub(crate) fn new(max: usize) -> Self {
        Self { all: Mutex::new(Table { flights: HashMap::new(), under_way: 0, last_id: 0 }), max }
    }

    fn all(&self) -> MutexGuard<'_, Table<K>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the flight of a recipient or domain, if it may be joined, or starts one under this epoch.
    pub(crate) fn board(&self, whose: &K, floor: Epoch, epoch: Epoch, now: Timestamp, join: bool) -> Boarding {
        let mut all = self.all();
        if join
            && let Some(flight) = all.newest_of_use(whose, now)
            && flight.epoch >= floor
        {
            return Boarding::Joined(flight.arrival.clone());
        }
        if all.under_way >= self.max {
            return Boarding::Full;
        }
        let runway = Arc::new(Runway::default());
        let (landing, arrival) = (Landing(Arc::clone(&runway)), Arrival(runway));
        all.under_way += 1;
        all.last_id += 1;
        let id = all.last_id;
        // One that was there goes on for those who wait for it; it is only not found while this one is there.
        all.flights.entry(whose.clone()).or_default().push(Flight { id, epoch, arrival: arrival.clone() });
        Boarding::Started(Start { id, landing, arrival })
    }

    /// What its flight has brought already, if a question of this floor may have it.
    pub(crate) fn landed(&self, whose: &K, floor: Epoch) -> Option<Arc<Flown>> {
        let all = self.all();
        let flight = all.newest(whose).filter(|flight| flight.epoch >= floor)?;
        flight.arrival.landed().cloned()
    }

    pub(crate) fn is_under_way(&self, whose: &K) -> bool {
        self.all().flights.contains_key(whose)
    }

    /// The flight begins only now, under this epoch; or not at all, where a newer one is out that it may wait for instead.
    pub(crate) fn renew(&self, whose: &K, id: u64, epoch: Epoch, now: Timestamp) -> Option<Arrival> {
        let mut all = self.all();
        // It waits for a newer one only, so that no two wait for each other.
        if let Some(newer) = all.newest_of_use(whose, now).filter(|flight| flight.id > id) {
            return Some(newer.arrival.clone());
        }
        all.flights.get_mut(whose)?.iter_mut().find(|flight| flight.id == id)?.epoch = epoch;
        None
    }

    /// The flight is over and what it brought is kept.
    pub(crate) fn end(&self, whose: &K, id: u64) {
        let mut all = self.all();
        all.under_way -= 1;
        if let Some(flights) = all.flights.get_mut(whose) {
            flights.retain(|flight| flight.id != id);
            if flights.is_empty() {
                all.flights.remove(whose);
            }
        }
    }

    pub(crate) fn under_way(&self) -> usize {
        self.all().under_way
    }
}

impl Flights<Recipient> {
    /// Of those under way, and those whose answer is not on disk yet.
    pub(crate) fn domains(&self) -> HashSet<Domain> {
        self.all().flights.keys().map(|recipient| recipient.domain().clone()).collect()
    }
}
