//! Flights: one callout for a recipient, however many wait for it.
//!
//! A flight carries the epoch of the lookup that started it. A question joins it only while no clear of its recipient is newer,
//! so an answer from before a clear goes to those who asked before the clear, and to nobody else.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use callahead_cache::{Epoch, Timestamp};
use callahead_callout::Report;
use callahead_smtp::Recipient;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long after its landing a flight is still joined, while its answer is not on disk.
const JOINABLE_FOR: Duration = Duration::from_secs(30);

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

/// The flights under way, and those whose answer is not on disk yet.
#[derive(Debug)]
pub(crate) struct Flights {
    all: Mutex<Table>,
    max: usize,
}

#[derive(Debug, Default)]
struct Table {
    flights: HashMap<Recipient, Flight>,
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

impl Flight {
    /// Its answer waits to be written, for so long that it is no answer to a question of now: the disk hangs, or the clock was set.
    fn landed_long_ago(&self, now: Timestamp) -> bool {
        self.arrival.borrow().as_ref().is_some_and(|flown| now.since(flown.at) > JOINABLE_FOR)
    }
}

impl Flights {
    pub(crate) fn new(max: usize) -> Self {
        Self { all: Mutex::default(), max }
    }

    fn all(&self) -> MutexGuard<'_, Table> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the recipient's flight, if it may be joined, or starts one under this epoch.
    pub(crate) fn board(
        &self,
        recipient: &Recipient,
        floor: Epoch,
        epoch: Epoch,
        now: Timestamp,
        join: bool,
    ) -> Boarding {
        let mut all = self.all();
        if let Some(flight) = all.flights.get(recipient)
            && join
            && flight.epoch >= floor
            && !flight.landed_long_ago(now)
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
        all.flights.insert(recipient.clone(), Flight { id, epoch, arrival: arrival.clone() });
        Boarding::Started(Start { id, landing, arrival })
    }

    /// What the recipient's flight has brought already, if a question of this floor may have it.
    pub(crate) fn landed(&self, recipient: &Recipient, floor: Epoch) -> Option<Arc<Flown>> {
        let all = self.all();
        let flight = all.flights.get(recipient).filter(|flight| flight.epoch >= floor)?;
        flight.arrival.borrow().clone()
    }

    pub(crate) fn is_under_way(&self, recipient: &Recipient) -> bool {
        self.all().flights.contains_key(recipient)
    }

    /// The flight is over and what it brought is kept.
    pub(crate) fn end(&self, recipient: &Recipient, id: u64) {
        let mut all = self.all();
        all.under_way -= 1;
        if all.flights.get(recipient).is_some_and(|flight| flight.id == id) {
            all.flights.remove(recipient);
        }
    }

    pub(crate) fn under_way(&self) -> usize {
        self.all().under_way
    }
}
