//! The cache against a plain model of its promises, under random operations, time, clears and reopening.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::HashMap;
use std::time::Duration;

use callahead_cache::{Cache, DomainState, Epoch, Filter, Options, Put, RecipientState, Record, Scope, Timestamp};
use callahead_smtp::{Domain, Recipient};
use proptest::prelude::*;

/// What is done to both. Numbers choose among few recipients and domains, so that things meet.
#[derive(Clone, Debug)]
enum Op {
    /// Somebody looks up: what is learned later carries this epoch.
    Begin(u8),
    /// A callout under way for that recipient comes back with an answer: the oldest, or the latest.
    Finish(u8, RecipientState, u64, bool),
    FinishDomain(u8, DomainState, u64, bool),
    ClearRecipient(u8),
    ClearDomain(u8),
    ClearAll,
    Wait(u64),
    Sweep,
    Reopen,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let state = prop_oneof![Just(RecipientState::Valid), Just(RecipientState::Invalid)];
    let domain_state = prop_oneof![
        Just(DomainState::AcceptAll),
        Just(DomainState::NotAcceptAll),
        Just(DomainState::RefusesNullSender),
        Just(DomainState::NullMx)
    ];
    let life = prop_oneof![Just(60u64), Just(3600), Just(3 * 3600), Just(96 * 3600)];
    let op = prop_oneof![
        6 => (0u8..6).prop_map(Op::Begin),
        6 => (0u8..6, state, life.clone(), any::<bool>()).prop_map(|(r, s, l, o)| Op::Finish(r, s, l, o)),
        3 => (0u8..6, domain_state, life, any::<bool>()).prop_map(|(r, s, l, o)| Op::FinishDomain(r, s, l, o)),
        2 => (0u8..6).prop_map(Op::ClearRecipient),
        1 => (0u8..2).prop_map(Op::ClearDomain),
        1 => Just(Op::ClearAll),
        3 => prop_oneof![Just(1u64), Just(30), Just(700), Just(7200), Just(97 * 3600), Just(200 * 3600)].prop_map(Op::Wait),
        2 => Just(Op::Sweep),
        1 => Just(Op::Reopen),
    ];
    proptest::collection::vec(op, 1..60)
}

fn recipient(n: u8) -> Recipient {
    Recipient::parse(format!("user{}@{}", n % 3, domain(n / 3)).as_bytes()).unwrap()
}

fn domain(n: u8) -> Domain {
    Domain::parse(["one.example", "two.example"][usize::from(n % 2)]).unwrap()
}

fn record<S>(state: S, now: Timestamp, life: u64) -> Record<S> {
    Record {
        state,
        checked_at: now,
        expires_at: now.after(Duration::from_secs(life)),
        destination: "mx:25".into(),
        reply: None,
    }
}

/// The promises, said plainly: when each recipient was last cleared, and what was learned since.
#[derive(Default)]
struct Model {
    /// A count of all that happened, so that "before" and "after" are plain numbers.
    step: u64,
    cleared: HashMap<u8, u64>,
    domains_cleared: HashMap<u8, u64>,
    /// Of each recipient: when its callout began, what it learned.
    recipients: HashMap<u8, (u64, Record<RecipientState>)>,
    domains: HashMap<u8, (u64, Record<DomainState>)>,
}

impl Model {
    fn cleared(&self, r: u8) -> u64 {
        self.cleared.get(&r).copied().unwrap_or(0)
    }
}

struct Flight {
    recipient: u8,
    epoch: Epoch,
    began: u64,
    at: Timestamp,
}

fn landed(flights: &mut Vec<Flight>, recipient: u8, oldest: bool) -> Option<Flight> {
    let of = |flight: &Flight| flight.recipient == recipient;
    let at = if oldest { flights.iter().position(of) } else { flights.iter().rposition(of) };
    at.map(|at| flights.remove(at))
}

async fn run(ops: Vec<Op>) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { map_size: 64 << 20, ..Options::default() };
    let mut now = Timestamp(1_700_000_000_000);
    let mut cache = Cache::open(dir.path(), &options, now).unwrap();
    let mut model = Model::default();
    let mut flights: Vec<Flight> = Vec::new();
    for op in ops {
        model.step += 1;
        match op {
            Op::Begin(r) => {
                let epoch = cache.lookup(&recipient(r)).unwrap().epoch;
                flights.push(Flight { recipient: r, epoch, began: model.step, at: now });
            }
            Op::Finish(r, state, life, oldest) => {
                let Some(flight) = landed(&mut flights, r, oldest) else { continue };
                let record = record(state, now, life);
                let put = cache.put_recipient(&recipient(r), record.clone(), flight.epoch).await.unwrap();
                let cleared_since = flight.began <= model.cleared(r);
                // What came back last is what counts, unless somebody cleared since it was asked for; a clear of something else is nothing to it.
                prop_assert_eq!(put, if cleared_since { Put::Superseded } else { Put::Written });
                if put == Put::Written {
                    model.recipients.insert(r, (flight.began, record));
                }
            }
            Op::FinishDomain(r, state, life, oldest) => {
                let Some(flight) = landed(&mut flights, r, oldest) else { continue };
                let record = record(state, now, life);
                let d = r / 3;
                let put = cache.put_domain(&domain(d), record.clone(), flight.epoch).await.unwrap();
                let cleared_since = model.domains_cleared.get(&d).is_some_and(|cleared| flight.began <= *cleared);
                prop_assert_eq!(put, if cleared_since { Put::Superseded } else { Put::Written });
                if put == Put::Written {
                    model.domains.insert(d, (flight.began, record));
                }
            }
            Op::ClearRecipient(r) => {
                cache.clear(Scope::Recipient(recipient(r)), now).await.unwrap();
                model.cleared.insert(r, model.step);
                model.recipients.remove(&r);
            }
            Op::ClearDomain(d) => {
                cache.clear(Scope::Domain(domain(d)), now).await.unwrap();
                for r in (0..6).filter(|r| r / 3 == d) {
                    model.cleared.insert(r, model.step);
                    model.recipients.remove(&r);
                }
                model.domains.remove(&d);
                model.domains_cleared.insert(d, model.step);
            }
            Op::ClearAll => {
                cache.clear(Scope::All, now).await.unwrap();
                model.cleared.extend((0..6).map(|r| (r, model.step)));
                model.domains_cleared.extend((0..2).map(|d| (d, model.step)));
                model.recipients.clear();
                model.domains.clear();
            }
            Op::Wait(seconds) => {
                now = now.after(Duration::from_secs(seconds));
                // The engine ends a callout long before FLIGHT_MAX.
                flights.retain(|f| now.since(f.at) < callahead_cache::FLIGHT_MAX);
            }
            Op::Sweep => while !cache.sweep(now).await.unwrap().done {},
            Op::Reopen => {
                cache.flush().await.unwrap();
                drop(cache);
                cache = Cache::open(dir.path(), &options, now).unwrap();
                prop_assert!(!cache.opened().clock_went_back);
                flights.clear();
            }
        }
        check(&cache, &model, now)?;
    }
    while !cache.sweep(now).await.unwrap().done {}
    check(&cache, &model, now)?;
    let listed = cache.list(&Filter::default(), None, 1000).unwrap().entries.len() as u64;
    let stats = cache.stats(None).unwrap();
    prop_assert_eq!(listed, stats.valid + stats.invalid + stats.domains, "the counters agree with a full scan");
    let by_domain: u64 = cache.domain_counts(None, 100).unwrap().0.iter().map(|c| c.valid + c.invalid).sum();
    prop_assert_eq!(by_domain, stats.valid + stats.invalid);
    Ok(())
}

fn check(cache: &Cache, model: &Model, now: Timestamp) -> Result<(), TestCaseError> {
    for r in 0..6 {
        let lookup = cache.lookup(&recipient(r)).unwrap();
        let served = lookup.recipient.filter(|record| record.is_fresh(now) || record.is_stale(now));
        if let Some(served) = &served {
            let (began, known) =
                model.recipients.get(&r).expect("something is served that was never learned, or was cleared");
            prop_assert!(*began > model.cleared(r), "served although learned before a clear");
            prop_assert_eq!((served.state, served.checked_at), (known.state, known.checked_at));
            if served.state == RecipientState::Invalid {
                prop_assert!(
                    now.since(served.checked_at) < Duration::from_secs(7200),
                    "an Invalid older than 2 h is served"
                );
            }
        } else if let Some((_, known)) = model.recipients.get(&r) {
            prop_assert!(!known.is_fresh(now) && !known.is_stale(now), "something that is known was lost");
        }
        let served = lookup.domain.filter(|record| record.is_fresh(now) || record.is_stale(now));
        if let Some(served) = served {
            let (began, known) = model.domains.get(&(r / 3)).expect("a domain's record is served that was cleared");
            prop_assert!(*began > model.cleared(r), "a domain's record answers for a recipient that was cleared later");
            prop_assert_eq!((served.state, served.checked_at), (known.state, known.checked_at));
        }
    }
    Ok(())
}

/// What the writer is told, with epochs that may be too small or lie ahead.
#[derive(Clone, Debug)]
enum Told {
    Put(u8, RecipientState, u64),
    PutDomain(u8, DomainState, u64),
    Clear(u8, u8),
    Sweep(u64),
}

fn told() -> impl Strategy<Value = Vec<Told>> {
    let state = prop_oneof![Just(RecipientState::Valid), Just(RecipientState::Invalid)];
    let domain_state = prop_oneof![Just(DomainState::AcceptAll), Just(DomainState::NullMx)];
    let one = prop_oneof![
        8 => (0u8..6, state, 0u64..6).prop_map(|(r, s, e)| Told::Put(r, s, e)),
        2 => (0u8..6, domain_state, 0u64..6).prop_map(|(r, s, e)| Told::PutDomain(r, s, e)),
        4 => (0u8..3, 0u8..6).prop_map(|(what, r)| Told::Clear(what, r)),
        1 => prop_oneof![Just(0u64), Just(7200), Just(200 * 3600)].prop_map(Told::Sweep),
    ];
    proptest::collection::vec(one, 1..30)
}

/// What came of it, and what is kept afterwards.
async fn outcome(told: &[Told], at_once: bool) -> (Vec<String>, String) {
    let dir = tempfile::tempdir().unwrap();
    let now = Timestamp(1_700_000_000_000);
    let options = Options { map_size: 64 << 20, ..Options::default() };
    let cache = Cache::open_paced(dir.path(), &options, now, || async {}).unwrap();
    let mut pending = Vec::new();
    let mut said = Vec::new();
    for (n, told) in told.iter().cloned().enumerate() {
        let now = now.after(Duration::from_millis(n as u64));
        let cache = cache.clone();
        // Queued here, or when it is first polled, which is in this order too.
        let mut one: std::pin::Pin<Box<dyn Future<Output = String>>> =
            match told {
                Told::Put(r, state, epoch) => {
                    let put = cache.put_recipient(&recipient(r), record(state, now, 3600), Epoch(epoch));
                    Box::pin(async move { format!("{:?}", put.await.unwrap()) })
                }
                Told::PutDomain(r, state, epoch) => {
                    let put = cache.put_domain(&domain(r / 3), record(state, now, 3600), Epoch(epoch));
                    Box::pin(async move { format!("{:?}", put.await.unwrap()) })
                }
                Told::Clear(what, r) => {
                    let scope = match what {
                        0 => Scope::Recipient(recipient(r)),
                        1 => Scope::Domain(domain(r / 3)),
                        _ => Scope::All,
                    };
                    Box::pin(async move { format!("{:?}", cache.clear(scope, now).await.unwrap()) })
                }
                Told::Sweep(later) => Box::pin(async move {
                    format!("{:?}", cache.sweep(now.after(Duration::from_secs(later))).await.unwrap())
                }),
            };
        if at_once {
            let first = std::future::poll_fn(|context| std::task::Poll::Ready(one.as_mut().poll(context))).await;
            assert!(first.is_pending(), "it was not queued behind what was told before");
            pending.push(one);
        } else {
            said.push(one.await);
        }
    }
    for one in pending {
        said.push(one.await);
    }
    let kept = cache.list(&Filter::default(), None, 1000).unwrap().entries;
    let counts = cache.domain_counts(None, 100).unwrap();
    let looked_up: Vec<_> = (0..6).map(|r| cache.lookup(&recipient(r)).unwrap()).collect();
    let stats = cache.stats(None).unwrap();
    (said, format!("{kept:?} {counts:?} {looked_up:?} {} {} {}", stats.valid, stats.invalid, stats.domains))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_cache_keeps_its_promises_whatever_is_done_to_it(ops in ops()) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(run(ops))?;
    }
    #[test]
    fn what_is_told_in_one_commit_comes_to_the_same_as_one_after_another(told in told()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let at_once = runtime.block_on(outcome(&told, true));
        prop_assert_eq!(at_once, runtime.block_on(outcome(&told, false)));
    }
}
