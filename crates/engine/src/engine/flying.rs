//! Callouts: started as tasks of their own, what they bring kept, and who is told of it.

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use callahead_cache::{CacheError, DomainState, Epoch, Lookup, Put, RecipientState, Timestamp};
use callahead_callout::{Failure, Outcome, Request, Route};
use callahead_smtp::{About, Recipient};
use tokio::time::timeout;

use super::case::{is_deferred_reject, kept, records, speaks_of_domain, ttl_of_domain, ttl_of_recipient, wants_probe};
use super::{Case, Engine, PROBE_WAIT};
use crate::directory::{Callouts, DomainConfig, Policy};
use crate::flights::{Arrival, Boarding, Flights, Flown, Landing, Start};
use crate::greylisting::Greylisting;
use crate::observer::{Alert, AlertKind};
use crate::protection::{Held, Place};
use crate::table::{Kept, Ruling};

impl Engine {
    /// Starts a callout as a task of its own.
    pub(super) fn fly(
        &self,
        recipient: &Recipient,
        domain: &Arc<DomainConfig>,
        case: &Case,
        start: Start,
        why: Why,
        place: Option<Place>,
    ) -> Arrival {
        let Start { id, landing, arrival } = start;
        let engine = self.clone();
        let (recipient, domain) = (recipient.clone(), Arc::clone(domain));
        let mut begins = Beginning::of(&domain.policy, &case.lookup, case.now);
        let asked_at = case.now;
        tokio::spawn(async move {
            // Ends the flight on every way out, a panic's included, so that nobody joins one that will not arrive.
            let _ending = Ending { flights: &engine.inner.flights, whose: recipient.clone(), id };
            let background = why == Why::Refresh;
            let route = Arc::clone(&domain.route);
            let mut request = Request { recipient: recipient.clone(), route, probe: begins.probe, background };
            // Whoever changes a route clears what is in the cache and what is under way. What came between the look at the directory and the
            // place among the flights is neither: it looks again, now that it has its place.
            let is_as_it_was =
                engine.route_now(&recipient, &domain).is_some_and(|now| Arc::ptr_eq(&now, &domain.route));
            if !is_as_it_was {
                let Some(anew) = engine.begin_anew(id, &landing, &domain, &mut request).await else { return };
                begins = anew;
            }
            // One random local part for a domain, however many of its recipients are asked for at the same time.
            let probes = &engine.inner.probes;
            let (mut probing, mut told) = (None, None);
            let board = || probes.board(recipient.domain(), begins.floor, begins.epoch, asked_at, why != Why::Live);
            match begins.probe.then(board) {
                Some(Boarding::Started(Start { id, landing, .. })) => {
                    probing = Some((landing, Ending { flights: probes, whose: recipient.domain().clone(), id }));
                }
                Some(Boarding::Joined(arrival)) => {
                    told = timeout(PROBE_WAIT, arrival.wait()).await.ok().flatten();
                    // What is asked from here on is newer than a clear that came while it waited.
                    if told.as_deref().is_none_or(|flown| !speaks_of_domain(&flown.report.outcome)) {
                        let Some(anew) = engine.begin_anew(id, &landing, &domain, &mut request).await else { return };
                        begins = anew;
                        // Nor is the domain what it was before such a clear.
                        told = told.filter(|flown| flown.epoch >= begins.floor);
                    }
                }
                Some(Boarding::Full) | None => {}
            }
            let flown = match told {
                // As it came: said then, and under that epoch. A clear of whoever was asked for may have come since.
                Some(flown) if speaks_of_domain(&flown.report.outcome) => flown,
                told => {
                    request.probe = begins.probe && told.is_none_or(|flown| !flown.report.not_accept_all);
                    let report = engine.inner.callouts.ask(request).await;
                    Arc::new(Flown { report, at: engine.inner.clock.now(), epoch: begins.epoch, background })
                }
            };
            if let Some((landing, _)) = &probing {
                landing.land(Arc::clone(&flown));
            }
            if let Some(place) = place
                && let Outcome::Rejected(reply) = &flown.report.outcome
                && !About::from(reply).is_of_a_closed_mailbox()
                && !is_deferred_reject(&domain.policy, &flown.report.outcome)
            {
                place.missed(&recipient, flown.at, engine.inner.settings.load().harvest);
            }
            engine.hold_down(&recipient, &domain.policy, &flown);
            landing.land(Arc::clone(&flown));
            engine.alert(&recipient, &domain.policy, &flown);
            engine.keep(&recipient, &domain.policy, &flown).await;
        });
        arrival
    }

    /// Where a recipient is asked for now; `None` where its domain is configured no more, or tells recipients apart in another way than it did.
    fn route_now(&self, recipient: &Recipient, then: &DomainConfig) -> Option<Arc<Route>> {
        let directory = self.inner.directory.load();
        let now = directory.find(recipient.domain())?;
        (now.policy.fold_local_part == then.policy.fold_local_part).then(|| Arc::clone(&now.route))
    }

    /// For a flight that is among the others and has asked nobody yet: with what it begins now, and where. `None`, and it is over, where a newer
    /// flight brought what those who wait want to know, and where there is no such recipient any more: then nobody is asked, and they are told to
    /// come again.
    async fn begin_anew(
        &self,
        id: u64,
        landing: &Landing,
        then: &DomainConfig,
        request: &mut Request,
    ) -> Option<Beginning> {
        // The route may have changed, and only then been cleared: it is read after the epoch, as in `case`.
        let begins = Beginning::of(&then.policy, &self.lookup(&request.recipient), self.now());
        request.route = self.route_now(&request.recipient, then)?;
        // Whoever asked after that clear has a flight of their own, which is as good for those who wait for this one.
        if let Some(newer) = self.inner.flights.renew(&request.recipient, id, begins.epoch, self.now())
            && let Some(flown) = newer.wait().await
            && !flown.gave_way()
        {
            landing.land(flown);
            return None;
        }
        Some(begins)
    }

    /// Keeps what was learned, and returns when that is on disk.
    pub(super) async fn keep(&self, recipient: &Recipient, policy: &Policy, flown: &Flown) {
        let epoch = flown.epoch;
        let (mut of_domain, mut of_recipient) = records(policy, flown);
        if let Outcome::Rejected(reply) = &flown.report.outcome
            && About::from(reply) == About::Filter
        {
            // A destination that shuts the filter out refuses everybody: that turns over nothing that is known.
            let Lookup { domain, recipient, .. } = self.lookup(recipient);
            let domain = kept(domain.as_ref(), flown.at, |state| ttl_of_domain(policy, state));
            of_domain = of_domain.filter(|_| domain != Kept::Fresh(DomainState::AcceptAll));
            let recipient = kept(recipient.as_ref(), flown.at, |state| ttl_of_recipient(policy, state));
            of_recipient = of_recipient.filter(|_| recipient != Kept::Fresh(RecipientState::Valid));
        }
        let (accepted, has_mx) = (
            of_recipient.as_ref().is_some_and(|record| record.state == RecipientState::Valid),
            of_domain.as_ref().is_some_and(|record| record.state != DomainState::NullMx),
        );
        let (cache, unwritten) = (&self.inner.cache, &self.inner.unwritten);
        let of_domain = of_domain.map(|record| cache.put_domain(recipient.domain(), record, epoch));
        let of_recipient = of_recipient.map(|record| cache.put_recipient(recipient, record, epoch));
        // Where it can't be written the cache has told its log, and the answer was given all the same.
        if let Some(ticket) = of_domain
            && self.is_lost(ticket.await)
            && has_mx
        {
            unwritten.has_mx(recipient.domain(), flown.at);
        }
        if let Some(ticket) = of_recipient
            && self.is_lost(ticket.await)
            && accepted
        {
            unwritten.accepted(recipient, flown.at);
        }
    }

    fn is_lost(&self, put: Result<Put, CacheError>) -> bool {
        if matches!(put, Ok(Put::Superseded)) {
            self.inner.counters.superseded.fetch_add(1, Ordering::Relaxed);
        }
        put.is_err()
    }

    pub(super) fn hold_down(&self, recipient: &Recipient, policy: &Policy, flown: &Arc<Flown>) {
        let epoch = flown.epoch;
        let outcome = &flown.report.outcome;
        let later =
            matches!(outcome, Outcome::Deferred(_) | Outcome::NeedsSmtpUtf8) || is_deferred_reject(policy, outcome);
        if later {
            let until = flown.at.after(self.inner.settings.load().hold_down);
            self.inner.held.hold(recipient.clone(), Held { until, epoch, flown: Arc::clone(flown) }, flown.at);
        }
    }

    /// Asks again in the background for what is past its soft age.
    pub(super) fn refresh_if_old(&self, case: &Case, ruling: &Ruling) {
        let (Some(recipient), Some(domain)) = (&case.recipient, &case.domain) else { return };
        let age = match ruling.row {
            6 => case.lookup.domain.as_ref().map(|record| record.age(case.now)),
            _ => case.lookup.recipient.as_ref().map(|record| record.age(case.now)),
        };
        let soft = if ruling.row == 8 { domain.policy.invalid_refresh } else { domain.policy.valid_refresh };
        if age.is_none_or(|age| age < soft) || self.inner.flights.is_under_way(recipient) {
            return;
        }
        if !self.inner.refreshes.is_first(recipient, case.now) {
            return;
        }
        if let Boarding::Started(start) =
            self.inner.flights.board(recipient, case.lookup.floor, case.lookup.epoch, case.now, true)
        {
            self.inner.counters.refreshes.fetch_add(1, Ordering::Relaxed);
            self.fly(recipient, domain, case, start, Why::Refresh, None);
        }
    }

    pub(super) fn alert(&self, recipient: &Recipient, policy: &Policy, flown: &Flown) {
        let outcome = &flown.report.outcome;
        let greylisting = self.inner.answers.take(recipient.domain(), outcome);
        if greylisting == Greylisting::Over {
            let domain = recipient.domain().to_string();
            self.inner.observer.alert_is_over(&domain, AlertKind::Greylists);
            self.inner.alerts.forget(&(domain, AlertKind::Greylists));
        }
        let kind = match outcome {
            Outcome::Deferred(_) if greylisting == Greylisting::Seen => AlertKind::Greylists,
            Outcome::NullSenderRefused(_) => AlertKind::RefusesNullSender,
            Outcome::Rejected(reply)
                if matches!(About::from(reply), About::Filter | About::NetworkOrAddress | About::Protocol) =>
            {
                AlertKind::TalksOfFilter
            }
            Outcome::AcceptsAll(_) => AlertKind::AcceptAll,
            // What this node lacks is no news of the destination.
            Outcome::Unreachable(hosts)
                if policy.callouts != Callouts::Off
                    && !hosts.iter().any(|host| matches!(host.failure, Failure::OutOfResources(_))) =>
            {
                AlertKind::Unreachable
            }
            _ => return,
        };
        let domain = recipient.domain().to_string();
        if !self.inner.alerts.is_first(&(domain.clone(), kind), flown.at) {
            return;
        }
        let detail = match outcome {
            Outcome::Unreachable(hosts) => hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
            _ => {
                let words = outcome.reply().map(ToString::to_string).unwrap_or_default();
                format!("{}: {words}", flown.report.destination.as_deref().unwrap_or_default())
            }
        };
        self.inner.observer.alert(&Alert { domain, kind, detail });
    }
}

/// What a flight begins with.
#[derive(Clone, Copy)]
struct Beginning {
    /// Under which it asks.
    epoch: Epoch,
    /// Nothing that was asked under a smaller one is of use to it.
    floor: Epoch,
    /// Whether a random local part is to be asked.
    probe: bool,
}

impl Beginning {
    fn of(policy: &Policy, lookup: &Lookup, now: Timestamp) -> Self {
        Self { epoch: lookup.epoch, floor: lookup.floor, probe: wants_probe(policy, lookup, now) }
    }
}

/// Why a callout is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    Question,
    /// Whatever is known or being asked.
    Live,
    Refresh,
}

struct Ending<'a, K: Clone + Eq + Hash> {
    flights: &'a Flights<K>,
    whose: K,
    id: u64,
}

impl<K: Clone + Eq + Hash> Drop for Ending<'_, K> {
    fn drop(&mut self) {
        self.flights.end(&self.whose, self.id);
    }
}
