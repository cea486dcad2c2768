//! What keeps destinations from being asked too much: hold-downs, and clients that guess addresses.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use callahead_cache::{Epoch, Timestamp};
use callahead_smtp::{Domain, Recipient};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use crate::flights::Flown;

/// When a client counts as one that guesses addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Harvest {
    /// So many recipients that do not exist, within the window; 0 switches the protection off. Default 20.
    pub limit: usize,
    /// Default 10 min.
    pub window: Duration,
}

impl Default for Harvest {
    fn default() -> Self {
        Self { limit: 20, window: Duration::from_secs(600) }
    }
}

/// Who has asked for recipients that do not exist, and who is asking. Bounded: with too many clients those that were quiet for longest are
/// forgotten.
#[derive(Debug)]
pub(crate) struct Clients {
    book: Mutex<Book>,
    hasher: RandomState,
    max: usize,
}

#[derive(Debug, Default)]
struct Book {
    seen: HashMap<IpAddr, VecDeque<(Timestamp, u64)>>,
    /// Callouts under way for a client at a domain. Of one domain only, so that a destination that hangs keeps none of a client's other mail.
    under_way: HashMap<(IpAddr, Domain), UnderWay>,
}

#[derive(Debug, Default)]
struct UnderWay {
    callouts: usize,
    /// One is over.
    over: Arc<Notify>,
}

/// A callout under way for a client; over when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    clients: Arc<Clients>,
    whose: (IpAddr, Domain),
}

/// Why there is no place.
#[derive(Debug)]
pub(crate) enum NoPlace {
    /// The client guesses.
    Guessing,
    /// It would guess if all that is under way for it brought nothing; known more when one of them is over.
    Wait(OwnedNotified),
}

impl Clients {
    pub(crate) fn new(max: usize) -> Self {
        Self { book: Mutex::default(), hasher: RandomState::new(), max }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client asked for a recipient that does not exist. The same one again does not count twice.
    pub(crate) fn missed(&self, client: IpAddr, recipient: &Recipient, now: Timestamp, harvest: Harvest) {
        if harvest.limit == 0 {
            return;
        }
        let client = network_of(client);
        let fingerprint = self.hasher.hash_one(recipient);
        let seen = &mut self.book().seen;
        if seen.len() >= self.max.max(1) && !seen.contains_key(&client) {
            seen.retain(|_, missed| missed.back().is_some_and(|(at, _)| now.since(*at) <= harvest.window));
            if seen.len() >= self.max.max(1) {
                // A tenth at once, so that a full table does not cost a search with each new client.
                let last = |missed: &VecDeque<(Timestamp, u64)>| missed.back().map(|(at, _)| *at);
                let mut times: Vec<_> = seen.values().map(last).collect();
                let tenth = times.len() / 10;
                let (_, quiet, _) = times.select_nth_unstable(tenth);
                let quiet = *quiet;
                // Many may have been heard of in the same moment.
                let mut too_many = tenth + 1;
                seen.retain(|_, missed| {
                    let goes = too_many > 0 && last(missed) <= quiet;
                    too_many -= usize::from(goes);
                    !goes
                });
            }
        }
        let missed = seen.entry(client).or_default();
        // A question is told of after its callout, but counted from when it was asked: that makes nothing older.
        let before = missed.iter().find(|(_, other)| *other == fingerprint).map(|(at, _)| *at);
        let now = before.map_or(now, |before| before.max(now));
        missed.retain(|(at, other)| now.since(*at) <= harvest.window && *other != fingerprint);
        // By time, and not by arrival: a slow answer to an old question must not push out a newer one.
        let place = missed.partition_point(|(at, _)| *at <= now);
        missed.insert(place, (now, fingerprint));
        // One more than the limit is all that has to be known.
        while missed.len() > harvest.limit + 1 {
            missed.pop_front();
        }
    }

    /// Whether the client has asked for more of them than the limit.
    pub(crate) fn is_guessing(&self, client: IpAddr, now: Timestamp, harvest: Harvest) -> bool {
        harvest.limit > 0 && self.book().misses(network_of(client), now, harvest) > harvest.limit
    }

    /// A place for a callout at a domain. There are as many as could all be misses without more than one beyond the limit: else a client
    /// that asks many questions at once would have them all asked before the first answer comes.
    pub(crate) fn place(
        self: &Arc<Self>,
        client: IpAddr,
        domain: &Domain,
        now: Timestamp,
        harvest: Harvest,
    ) -> Result<Option<Place>, NoPlace> {
        if harvest.limit == 0 {
            return Ok(None);
        }
        let whose = (network_of(client), domain.clone());
        let mut book = self.book();
        let misses = book.misses(whose.0, now, harvest);
        if misses > harvest.limit {
            return Err(NoPlace::Guessing);
        }
        let under_way = book.under_way.entry(whose.clone()).or_default();
        if misses + under_way.callouts > harvest.limit {
            return Err(NoPlace::Wait(Arc::clone(&under_way.over).notified_owned()));
        }
        under_way.callouts += 1;
        Ok(Some(Place { clients: Arc::clone(self), whose }))
    }
}

impl Book {
    fn misses(&self, network: IpAddr, now: Timestamp, harvest: Harvest) -> usize {
        let missed = self.seen.get(&network);
        missed.map_or(0, |missed| missed.iter().filter(|(at, _)| now.since(*at) <= harvest.window).count())
    }
}

impl Place {
    /// The callout found that the recipient does not exist. Whoever asked may have gone meanwhile, and counts all the same.
    pub(crate) fn missed(&self, recipient: &Recipient, now: Timestamp, harvest: Harvest) {
        self.clients.missed(self.whose.0, recipient, now, harvest);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut book = self.clients.book();
        let Some(under_way) = book.under_way.get_mut(&self.whose) else { return };
        under_way.callouts -= 1;
        under_way.over.notify_waiters();
        if under_way.callouts == 0 {
            book.under_way.remove(&self.whose);
        }
    }
}

/// What is one client: an IPv4 address, or the /64 of an IPv6 one.
pub fn network_of(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

/// Hold-downs below which it is not worth while to look for those that are over.
const SWEEP_FROM: usize = 1000;
/// How often a full table of them is searched at most.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Recipients whose destination said "later" a moment ago. Bounded: when full, new ones are simply asked again.
#[derive(Debug)]
pub(crate) struct HoldDowns {
    book: Mutex<HeldBook>,
    max: usize,
}

#[derive(Debug)]
struct HeldBook {
    held: HashMap<Recipient, Held>,
    /// With so many, those that are over are looked for.
    sweep_at: usize,
    /// When they last were: where none is over, they are not looked for again at once.
    swept: Timestamp,
}

#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) until: Timestamp,
    pub(crate) epoch: Epoch,
    pub(crate) flown: Arc<Flown>,
}

impl HoldDowns {
    pub(crate) fn new(max: usize) -> Self {
        Self { book: Mutex::new(HeldBook { held: HashMap::new(), sweep_at: SWEEP_FROM, swept: Timestamp(0) }), max }
    }

    fn book(&self) -> MutexGuard<'_, HeldBook> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn domains(&self) -> HashSet<Domain> {
        self.book().held.keys().map(|recipient| recipient.domain().clone()).collect()
    }

    pub(crate) fn hold(&self, recipient: Recipient, held: Held, now: Timestamp) {
        let HeldBook { held: all, sweep_at, swept } = &mut *self.book();
        // Those that are over go whenever there are twice as many as were left the last time, and where there is no room.
        let is_due = now.since(*swept) >= SWEEP_EVERY || now < *swept;
        if all.len() >= *sweep_at || (all.len() >= self.max && is_due) {
            *swept = now;
            all.retain(|_, held| now < held.until);
            *sweep_at = SWEEP_FROM.max(2 * all.len());
        }
        if all.len() < self.max {
            all.insert(recipient, held);
        }
    }

    /// What was said, unless the hold-down is over or somebody cleared since.
    pub(crate) fn find(&self, recipient: &Recipient, floor: Epoch, now: Timestamp) -> Option<Held> {
        let all = &mut self.book().held;
        let held = all.get(recipient)?;
        if now < held.until && held.epoch >= floor {
            return Some(held.clone());
        }
        all.remove(recipient);
        None
    }

    /// How many are held down now.
    pub(crate) fn held_down(&self, now: Timestamp) -> usize {
        self.book().held.values().filter(|held| now < held.until).count()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn recipient(n: usize) -> Recipient {
        format!("guess{n}@one.example").parse().unwrap()
    }

    #[test]
    fn a_slow_answer_to_an_old_question_pushes_out_no_newer_one() {
        let (clients, harvest) = (Clients::new(10), Harvest { limit: 2, ..Harvest::default() });
        let client: IpAddr = "192.0.2.1".parse().unwrap();
        let (old, new) = (Timestamp(1_000_000_000), Timestamp(1_000_590_000));
        (0..3).for_each(|n| clients.missed(client, &recipient(n), new, harvest));
        (3..9).for_each(|n| clients.missed(client, &recipient(n), old, harvest));
        assert!(clients.is_guessing(client, old.after(Duration::from_secs(700)), harvest));
    }

    #[test]
    fn more_than_the_limit_of_different_recipients_within_the_window_is_guessing() {
        let (clients, harvest) = (Clients::new(10), Harvest::default());
        let client: IpAddr = "192.0.2.1".parse().unwrap();
        let start = Timestamp(1_000_000_000);
        for _ in 0..100 {
            clients.missed(client, &recipient(0), start, harvest);
        }
        assert!(!clients.is_guessing(client, start, harvest), "one address a hundred times is no guessing");
        (0..20).for_each(|n| clients.missed(client, &recipient(n), start, harvest));
        assert!(!clients.is_guessing(client, start, harvest));
        clients.missed(client, &recipient(20), start, harvest);
        assert!(clients.is_guessing(client, start, harvest));
        assert!(!clients.is_guessing("192.0.2.2".parse().unwrap(), start, harvest));
        assert!(!clients.is_guessing(client, start.after(Duration::from_secs(601)), harvest));
    }

    #[test]
    fn an_ipv6_client_is_its_64_and_memory_is_bounded() {
        let (clients, harvest) = (Clients::new(10), Harvest { limit: 2, ..Harvest::default() });
        for n in 0..3 {
            clients.missed(format!("2001:db8::{n}").parse().unwrap(), &recipient(n), Timestamp(5), harvest);
        }
        assert!(clients.is_guessing("2001:db8::ffff".parse().unwrap(), Timestamp(5), harvest));
        for n in 0..200u8 {
            clients.missed(IpAddr::from([10, 0, 0, n]), &recipient(1), Timestamp(6), harvest);
        }
        assert!(clients.book().seen.len() <= 10);
    }

    #[test]
    fn with_too_many_clients_those_that_were_quiet_for_longest_are_forgotten() {
        let (clients, harvest) = (Clients::new(10), Harvest { limit: 1, ..Harvest::default() });
        let client = |n: u8| IpAddr::from([10, 0, 0, n]);
        // Not in the order of their addresses.
        let quiet_since = |n: u8| Timestamp(1_000_000_000 + u64::from(n * 7 % 10) * 1000);
        for n in 0..10 {
            (0..2).for_each(|guess| clients.missed(client(n), &recipient(guess), quiet_since(n), harvest));
        }
        let now = Timestamp(1_000_020_000);
        clients.missed(client(10), &recipient(0), now, harvest);
        let known: Vec<u8> = (0..10).filter(|n| clients.is_guessing(client(*n), now, harvest)).collect();
        assert_eq!(known, [1, 2, 4, 5, 6, 7, 8, 9], "a tenth, and one more for the new one");
    }
}
