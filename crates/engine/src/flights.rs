//! Flights: one callout for a recipient, however many wait for it, and one random local part for a domain.
//!
//! A flight carries the epoch of the lookup that started it. A question joins it only while no clear of its recipient is newer,
//! so an answer from before a clear goes to those who asked before the clear, and to nobody else.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use callahead_cache::{Epoch, Timestamp};
use callahead_callout::Report;
use std::sync::Arc;
use tokio::sync::watch;

/// What a flight brought.
#[derive(Debug)]
pub(crate) struct Flown {
    pub(crate) report: Report,
    pub(crate) at: Timestamp,
    /// It gave way to others where there was need; a question that waits does not.
    pub(crate) background: bool,
}

pub(crate) type Arrival = watch::Receiver<Option<Arc<Flown>>>;

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
    flights: HashMap<K, Flight>,
    under_way: usize,
    last_id: u64,
}

/// A flight that is to be flown.
pub(crate) struct Start {
    pub(crate) id: u64,
    pub(crate) landing: watch::Sender<Option<Arc<Flown>>>,
    pub(crate) arrival: Arrival,
}

/// How a question gets its answer.
pub(crate) enum Boarding {
    Joined(Arrival),
    Started(Start),
    /// There are too many.
    Full,
}

impl<K: Clone + Eq + Hash> Flights<K> {
    pub(crate) fn new(max: usize) -> Self {
        Self { all: Mutex::new(Table { flights: HashMap::new(), under_way: 0, last_id: 0 }), max }
    }

    fn all(&self) -> MutexGuard<'_, Table<K>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the flight of a recipient or domain, if it may be joined, or starts one under this epoch.
    pub(crate) fn board(&self, whose: &K, floor: Epoch, epoch: Epoch, join: bool) -> Boarding {
        let mut all = self.all();
        if let Some(flight) = all.flights.get(whose)
            && join
            && flight.epoch >= floor
        {
            return Boarding::Joined(flight.arrival.clone());
        }
        if all.under_way >= self.max {
            return Boarding::Full;
        }
        let (landing, arrival) = watch::channel(None);
        all.under_way += 1;
        all.last_id += 1;
        let id = all.last_id;
        // One that was there goes on for those who wait for it; it is only not found any more.
        all.flights.insert(whose.clone(), Flight { id, epoch, arrival: arrival.clone() });
        Boarding::Started(Start { id, landing, arrival })
    }

    /// What its flight has brought already, if a question of this floor may have it.
    pub(crate) fn landed(&self, whose: &K, floor: Epoch) -> Option<Arc<Flown>> {
        let all = self.all();
        let flight = all.flights.get(whose).filter(|flight| flight.epoch >= floor)?;
        flight.arrival.borrow().clone()
    }

    pub(crate) fn is_under_way(&self, whose: &K) -> bool {
        self.all().flights.contains_key(whose)
    }

    /// The flight is over and what it brought is kept.
    pub(crate) fn end(&self, whose: &K, id: u64) {
        let mut all = self.all();
        all.under_way -= 1;
        if all.flights.get(whose).is_some_and(|flight| flight.id == id) {
            all.flights.remove(whose);
        }
    }

    pub(crate) fn under_way(&self) -> usize {
        self.all().under_way
    }
}
