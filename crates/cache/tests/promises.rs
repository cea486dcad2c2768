//! Single promises of the cache, one test each.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use callahead_cache::{
    Cache, CacheError, Cursor, DomainState, Entry, EntryState, Epoch, FLIGHT_MAX, Filter, MAX_REPLY_TEXT, Options, Put,
    RecipientState, Record, Scope, State, StoredReply, Timestamp,
};
use callahead_smtp::{Domain, EnhancedCode, Recipient, Reply};
use tempfile::TempDir;

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn options() -> Options {
    Options { map_size: 256 << 20, ..Options::default() }
}

/// An empty cache in a folder that goes with the test.
fn opened() -> (TempDir, Cache) {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path(), &options(), NOW).unwrap();
    (dir, cache)
}

fn address(text: &str) -> Recipient {
    text.parse().unwrap()
}

fn record<S>(state: S, at: Timestamp, hours: u64) -> Record<S> {
    let expires_at = at.after(Duration::from_secs(hours * 3600));
    Record { state, checked_at: at, expires_at, destination: "mx.example:25".into(), reply: None }
}

async fn put(cache: &Cache, address: &Recipient, state: RecipientState, at: Timestamp) -> Put {
    let epoch = cache.lookup(address).unwrap().epoch;
    cache.put_recipient(address, record(state, at, 96), epoch).await.unwrap()
}

#[tokio::test]
async fn nothing_invalid_is_served_after_two_hours_whatever_its_expiry_says() {
    let (_dir, cache) = opened();
    let carol = address("carol@one.example");
    put(&cache, &carol, RecipientState::Invalid, NOW).await;
    let kept = cache.lookup(&carol).unwrap().recipient.unwrap();
    assert!(kept.is_fresh(NOW.after(Duration::from_secs(7199))));
    assert!(!kept.is_fresh(NOW.after(Duration::from_secs(7200))));
    assert!(!kept.is_stale(NOW.after(Duration::from_secs(7200))), "there is no stale Invalid");
    assert_eq!(kept.expires_at, NOW.after(Duration::from_secs(7200)), "the longer expiry was not even written");
}

/// When a record that was written for 96 h stops being fresh, and when it stops being stale, in hours; a millisecond tells.
fn lives<S: State>(state: S) -> (u64, u64) {
    let record = record(state, NOW, 96);
    let ends = |counts: &dyn Fn(Timestamp) -> bool| {
        let hour = |hours: u64| NOW.after(Duration::from_secs(hours * 3600));
        let end = (0..1000).rev().find(|hours| counts(Timestamp(hour(*hours).0 - 1))).unwrap_or(0);
        assert!(!counts(hour(end)));
        end
    };
    assert_eq!(record.age(NOW.after(Duration::from_secs(5))), Duration::from_secs(5));
    assert_eq!(record.is_stale(record.end()), ends(&|at| record.is_stale(at)) > 0, "stale is what has just been fresh");
    (ends(&|at| record.is_fresh(at)), ends(&|at| record.is_stale(at)))
}

#[test]
fn each_state_is_fresh_and_stale_for_as_long_as_it_may_be() {
    const STALE: u64 = 96 + 4 * 24;
    assert_eq!(lives(RecipientState::Valid), (96, STALE));
    assert_eq!(lives(RecipientState::Invalid), (2, 0));
    assert_eq!(lives(DomainState::AcceptAll), (96, STALE));
    assert_eq!(lives(DomainState::NotAcceptAll), (96, 0));
    assert_eq!(lives(DomainState::RefusesNullSender), (2, 0));
    assert_eq!(lives(DomainState::NullMx), (2, 0));
}

#[tokio::test]
async fn of_a_destinations_words_no_more_is_kept_than_is_said() {
    let (_dir, cache) = opened();
    let alice = address("alice@one.example");
    let long = Reply::new(550, EnhancedCode::new(5, 1, 1), &"x".repeat(2000));
    let reply = Some(StoredReply::from(&long));
    let told = Record { destination: "h".repeat(400), reply, ..record(RecipientState::Invalid, NOW, 1) };
    cache.put_recipient(&alice, told, cache.lookup(&alice).unwrap().epoch).await.unwrap();
    let kept = cache.lookup(&alice).unwrap().recipient.unwrap();
    assert_eq!(kept.destination.len(), 255);
    assert_eq!(kept.reply.unwrap().text, "x".repeat(MAX_REPLY_TEXT));
}

#[test]
fn a_record_from_the_future_is_not_served() {
    let record = record(RecipientState::Valid, NOW, 1);
    assert!(!record.is_fresh(Timestamp(NOW.0 - 1)));
}

#[tokio::test]
async fn a_clock_that_went_back_over_a_restart_clears_everything() {
    let dir = tempfile::tempdir().unwrap();
    let alice = address("alice@one.example");
    let cache = Cache::open(dir.path(), &options(), NOW).unwrap();
    put(&cache, &alice, RecipientState::Invalid, NOW).await;
    drop(cache);
    let earlier = Timestamp(NOW.0 - 3_600_000);
    let cache = Cache::open(dir.path(), &options(), earlier).unwrap();
    assert!(cache.opened().clock_went_back);
    assert_eq!(cache.lookup(&alice).unwrap().recipient, None);
    assert_eq!(cache.stats(None).unwrap().invalid, 0);
}

#[tokio::test]
async fn a_second_process_is_refused_with_the_folders_name() {
    let dir = tempfile::tempdir().unwrap();
    let _first = Cache::open(dir.path(), &options(), NOW).unwrap();
    let second = Cache::open(dir.path(), &options(), NOW);
    assert!(matches!(second, Err(CacheError::InUse { .. })));
    assert!(second.unwrap_err().to_string().contains(dir.path().to_str().unwrap()));
}

#[tokio::test]
async fn clearing_a_recipient_of_an_accept_all_domain_makes_it_asked_anew() {
    let (_dir, cache) = opened();
    let (alice, bob) = (address("alice@one.example"), address("bob@one.example"));
    let epoch = cache.lookup(&alice).unwrap().epoch;
    cache.put_domain(alice.domain(), record(DomainState::AcceptAll, NOW, 96), epoch).await.unwrap();
    cache.clear(Scope::Recipient(alice.clone()), NOW).await.unwrap();
    assert_eq!(cache.lookup(&alice).unwrap().domain, None);
    assert!(cache.lookup(&bob).unwrap().domain.is_some(), "others keep the domain's record");
    // The tombstone outlives the sweep for as long as the record that it hides.
    let later = NOW.after(Duration::from_secs(3600));
    while !cache.sweep(later).await.unwrap().done {}
    assert_eq!(cache.lookup(&alice).unwrap().domain, None);
}

#[tokio::test]
async fn a_subdomain_is_a_domain_of_its_own() {
    let (_dir, cache) = opened();
    let (upper, lower) = (address("a@one.example"), address("a@sub.one.example"));
    put(&cache, &upper, RecipientState::Valid, NOW).await;
    put(&cache, &lower, RecipientState::Valid, NOW).await;
    let cleared = cache.clear(Scope::Domain(Domain::parse("one.example").unwrap()), NOW).await.unwrap();
    assert_eq!(cleared.entries, 1);
    assert_eq!(cache.lookup(&upper).unwrap().recipient, None);
    assert!(cache.lookup(&lower).unwrap().recipient.is_some());
}

#[tokio::test]
async fn an_older_answer_does_not_replace_a_newer_one() {
    let (_dir, cache) = opened();
    let alice = address("alice@one.example");
    put(&cache, &alice, RecipientState::Valid, NOW.after(Duration::from_secs(5))).await;
    assert_eq!(put(&cache, &alice, RecipientState::Invalid, NOW).await, Put::Superseded);
    assert_eq!(cache.lookup(&alice).unwrap().recipient.unwrap().state, RecipientState::Valid);
    let at_once = put(&cache, &alice, RecipientState::Invalid, NOW.after(Duration::from_secs(5))).await;
    assert_eq!(at_once, Put::Written, "the later of two at the same time");
}

#[tokio::test]
async fn pages_go_through_a_domain_in_key_order_while_entries_come_and_go() {
    let (_dir, cache) = opened();
    for n in 0..250 {
        let state = if n % 5 == 0 { RecipientState::Invalid } else { RecipientState::Valid };
        put(&cache, &address(&format!("u{n:03}@one.example")), state, NOW).await;
    }
    put(&cache, &address("x@other.example"), RecipientState::Valid, NOW).await;
    let filter = Filter { domain: Some(Domain::parse("one.example").unwrap()), ..Filter::default() };
    let mut seen = Vec::new();
    let mut cursor: Option<Cursor> = None;
    loop {
        let page = cache.list(&filter, cursor.as_ref(), 30).unwrap();
        seen.extend(page.entries.into_iter().map(|entry| match entry {
            Entry::Recipient(address, _) | Entry::Domain(address, _) => address,
        }));
        let Some(next) = page.next else { break };
        cursor = Some(Cursor::parse(&next.to_string()).unwrap());
        cache.clear(Scope::Recipient(address("u000@one.example")), NOW).await.unwrap();
        put(&cache, &address("a-new-one@one.example"), RecipientState::Valid, NOW).await;
    }
    let expected: Vec<String> = (0..250).map(|n| format!("u{n:03}@one.example")).collect();
    assert_eq!(seen, expected);
    let state = Some(EntryState::Recipient(RecipientState::Invalid));
    let invalid = cache.list(&Filter { state, prefix: Some("u1".into()), ..filter }, None, 1000).unwrap();
    assert_eq!(invalid.entries.len(), 20);
    assert_eq!(Cursor::parse("zz"), None);
    assert_eq!(Cursor::parse("abc"), None);
}

#[tokio::test]
async fn the_file_is_used_again_and_does_not_grow_without_end() {
    let (_dir, cache) = opened();
    let mut now = NOW;
    let mut sizes = Vec::new();
    for round in 0..8 {
        let mut tickets = Vec::new();
        for n in 0..3000 {
            let user = address(&format!("user{n}-{round}@one.example"));
            let epoch = cache.lookup(&user).unwrap().epoch;
            tickets.push(cache.put_recipient(&user, record(RecipientState::Invalid, now, 2), epoch));
        }
        for ticket in tickets {
            ticket.await.unwrap();
        }
        now = now.after(Duration::from_secs(3 * 3600));
        while !cache.sweep(now).await.unwrap().done {}
        sizes.push(cache.stats(None).unwrap().file_bytes);
    }
    assert_eq!(cache.stats(None).unwrap().invalid, 0);
    assert!(sizes[7] <= sizes[2] * 3 / 2, "{sizes:?}");
}

#[tokio::test]
async fn what_is_known_of_domains_is_swept_when_it_counts_no_more_and_not_before() {
    let (_dir, cache) = opened();
    let hour = |hours: u64| NOW.after(Duration::from_secs(hours * 3600));
    let keep = async |name: &str, at, hours| {
        let epoch = cache.lookup(&address(&format!("alice@{name}"))).unwrap().epoch;
        let known = record(DomainState::NotAcceptAll, at, hours);
        cache.put_domain(&name.parse().unwrap(), known, epoch).await.unwrap()
    };
    keep("one.example", NOW, 1).await;
    keep("two.example", NOW, 96).await;
    let swept = cache.sweep(hour(2)).await.unwrap();
    assert_eq!((swept.examined, swept.removed, swept.done), (2, 1, true), "the one that has expired");
    assert_eq!(cache.stats(None).unwrap().domains, 1);
    cache.clear(Scope::All, hour(3)).await.unwrap();
    keep("three.example", hour(3), 96).await;
    let swept = cache.sweep(hour(4)).await.unwrap();
    assert_eq!((swept.examined, swept.removed, swept.done), (2, 1, true), "the one from before the clear");
    assert_eq!(cache.stats(None).unwrap().domains, 1, "it was not counted any more");
    assert!(cache.lookup(&address("alice@three.example")).unwrap().domain.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_recipient_that_was_cleared_stays_so_for_as_long_as_an_older_record_of_its_domain_counts() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open_paced(dir.path(), &options(), NOW, || async {}).unwrap();
    let hour = |hours: u64| NOW.after(Duration::from_secs(hours * 3600));
    let accepts_all = record(DomainState::AcceptAll, NOW, 96);
    cache.put_domain(&"one.example".parse().unwrap(), accepts_all, Epoch(0)).await.unwrap();
    let (alice, bob, carol) = (address("alice@one.example"), address("bob@one.example"), address("carol@one.example"));
    for recipient in [&alice, &bob] {
        cache.clear(Scope::Recipient(recipient.clone()), NOW).await.unwrap();
    }
    put(&cache, &bob, RecipientState::Invalid, NOW).await;
    // No callout is under way any more.
    tokio::time::advance(FLIGHT_MAX + Duration::from_secs(1)).await;
    for later in [1, 5, 95] {
        let swept = cache.sweep(hour(later)).await.unwrap();
        assert_eq!((swept.examined, swept.removed), (3, 0), "after {later} h");
        assert!(cache.lookup(&carol).unwrap().domain.is_some());
        for recipient in [&alice, &bob] {
            assert_eq!(cache.lookup(recipient).unwrap().domain, None, "after {later} h it answers for {recipient}");
        }
        assert_eq!(cache.stats(None).unwrap().invalid, u64::from(later < 2));
        let listed = cache.list(&Filter::default(), None, 10).unwrap().entries.len();
        assert_eq!(listed, if later < 2 { 2 } else { 1 }, "after {later} h");
    }
    let dead = hour(96 + 4 * 24);
    let removed = cache.sweep(dead).await.unwrap().removed + cache.sweep(dead).await.unwrap().removed;
    assert_eq!((removed, cache.sweep(dead).await.unwrap().examined), (3, 0));
}

#[tokio::test]
async fn a_sweep_goes_on_where_the_last_one_left_off() {
    let (_dir, cache) = opened();
    let epoch = cache.lookup(&address("alice@one.example")).unwrap().epoch;
    let known = |state| record(state, NOW, 96);
    for n in 0..4500 {
        let _queued = cache.put_recipient(&address(&format!("a{n}@one.example")), known(RecipientState::Valid), epoch);
    }
    let last = address("z@one.example");
    cache.put_recipient(&last, known(RecipientState::Invalid), epoch).await.unwrap();
    let later = NOW.after(Duration::from_secs(3 * 3600));
    let mut sweeps = Vec::new();
    for _ in 0..3 {
        sweeps.push(cache.sweep(later).await.unwrap());
    }
    let told: Vec<_> = sweeps.iter().map(|swept| (swept.examined, swept.removed, swept.done)).collect();
    assert_eq!(told, [(2000, 0, false), (2000, 0, false), (502, 1, true)]);
    assert_eq!(cache.stats(None).unwrap().valid, 4500);
}

#[tokio::test]
async fn what_was_learned_earlier_of_a_domain_does_not_replace_what_was_learned_later() {
    let (_dir, cache) = opened();
    let one: Domain = "one.example".parse().unwrap();
    let put = async |state, minutes: u64, epoch: u64| {
        let known = record(state, NOW.after(Duration::from_secs(minutes * 60)), 96);
        cache.put_domain(&one, known, Epoch(epoch)).await.unwrap()
    };
    assert_eq!(put(DomainState::AcceptAll, 10, 0).await, Put::Written);
    assert_eq!(put(DomainState::NullMx, 9, 0).await, Put::Superseded, "an older answer");
    assert_eq!(put(DomainState::NotAcceptAll, 10, 0).await, Put::Written, "the later of two at the same time");
    cache.clear(Scope::Recipient(address("alice@one.example")), NOW).await.unwrap();
    assert_eq!(put(DomainState::AcceptAll, 11, 1).await, Put::Written);
    let of_domain = |name: &str| cache.lookup(&address(name)).unwrap().domain.map(|record| record.state);
    assert_eq!(of_domain("alice@one.example"), Some(DomainState::AcceptAll));
    assert_eq!(put(DomainState::NullMx, 12, 0).await, Put::Written, "the clear was of a recipient");
    assert_eq!(of_domain("bob@one.example"), Some(DomainState::NullMx));
    assert_eq!(of_domain("alice@one.example"), None, "it was asked for before her clear");
    assert_eq!(cache.stats(None).unwrap().domains, 1);
    cache.clear(Scope::Domain(one.clone()), NOW).await.unwrap();
    assert_eq!(put(DomainState::NullMx, 13, 1).await, Put::Superseded, "from before the domain's clear");
    assert_eq!(
        put(DomainState::NullMx, 5, 2).await,
        Put::Written,
        "what was known before the clear is nothing to compare with"
    );
    assert_eq!(cache.stats(None).unwrap().domains, 1);
}

#[tokio::test]
async fn what_came_back_last_counts_whatever_else_was_cleared_meanwhile() {
    let (_dir, cache) = opened();
    let alice = address("alice@one.example");
    let asked_first = cache.lookup(&alice).unwrap().epoch;
    cache.clear(Scope::Domain("other.example".parse().unwrap()), NOW).await.unwrap();
    cache.clear(Scope::Recipient(address("bob@one.example")), NOW).await.unwrap();
    assert_eq!(put(&cache, &alice, RecipientState::Invalid, NOW).await, Put::Written);
    let later = NOW.after(Duration::from_secs(1));
    let record_later = || record(RecipientState::Valid, later, 96);
    assert_eq!(cache.put_recipient(&alice, record_later(), asked_first).await.unwrap(), Put::Written);
    assert_eq!(cache.lookup(&alice).unwrap().recipient.unwrap().state, RecipientState::Valid);

    // Her own clear goes on counting when something is learned after it.
    cache.clear(Scope::Recipient(alice.clone()), later).await.unwrap();
    assert_eq!(put(&cache, &alice, RecipientState::Invalid, later).await, Put::Written);
    assert_eq!(cache.put_recipient(&alice, record_later(), asked_first).await.unwrap(), Put::Superseded);
}

#[tokio::test]
async fn a_clear_says_how_much_it_forgot_and_counting_goes_on_from_nothing() {
    let (_dir, cache) = opened();
    let one: Domain = "one.example".parse().unwrap();
    for scope in [Scope::Domain(one.clone()), Scope::All, Scope::Domain(one.clone())] {
        for n in 0..5 {
            let state = if n < 2 { RecipientState::Valid } else { RecipientState::Invalid };
            put(&cache, &address(&format!("user{n}@one.example")), state, NOW).await;
        }
        let epoch = cache.lookup(&address("user0@one.example")).unwrap().epoch;
        cache.put_domain(&one, record(DomainState::NotAcceptAll, NOW, 96), epoch).await.unwrap();
        for stats in [cache.stats(None).unwrap(), cache.stats(Some(&one)).unwrap()] {
            assert_eq!((stats.valid, stats.invalid, stats.domains), (2, 3, 1), "before {scope}");
        }
        assert_eq!(cache.clear(scope.clone(), NOW).await.unwrap().entries, 6, "{scope}");
        assert_eq!(cache.clear(scope, NOW).await.unwrap().entries, 0);
    }
    assert_eq!([Scope::Domain(one), Scope::All].map(|scope| scope.to_string()), ["one.example", "everything"]);
}

#[tokio::test]
async fn over_a_clock_that_was_set_back_by_less_than_a_second_what_is_learned_later_counts() {
    let dir = tempfile::tempdir().unwrap();
    let alice = address("alice@one.example");
    let cache = Cache::open(dir.path(), &options(), NOW).unwrap();
    let before = NOW.after(Duration::from_millis(400));
    put(&cache, &alice, RecipientState::Invalid, before).await;
    drop(cache);
    let cache = Cache::open(dir.path(), &options(), NOW).unwrap();
    assert!(!cache.opened().clock_went_back);
    assert!(!cache.lookup(&alice).unwrap().recipient.unwrap().is_fresh(NOW), "its age can't be known");
    assert_eq!(put(&cache, &alice, RecipientState::Valid, NOW).await, Put::Written);
    let kept = cache.lookup(&alice).unwrap().recipient.unwrap();
    assert_eq!((kept.state, kept.checked_at), (RecipientState::Valid, NOW));
    put(&cache, &alice, RecipientState::Valid, before).await;
    assert_eq!(put(&cache, &alice, RecipientState::Invalid, before).await, Put::Written);
    let later = before.after(Duration::from_millis(2));
    put(&cache, &alice, RecipientState::Valid, later).await;
    let between = before.after(Duration::from_millis(1));
    assert_eq!(put(&cache, &alice, RecipientState::Invalid, between).await, Put::Superseded, "the clock has caught up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_starts_after_a_clear_was_acknowledged_never_sees_what_was_before() {
    let (_dir, cache) = opened();
    let alice = address("alice@one.example");
    // What is written carries in checked_at how many clears had been acknowledged when its callout began.
    let acknowledged = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    let before = acknowledged.load(Ordering::SeqCst);
                    if let Some(record) = cache.lookup(&alice).unwrap().recipient {
                        assert!(record.checked_at.0 >= NOW.0 + before, "served what a clear had forgotten");
                    }
                }
            });
        }
        let cache = &cache;
        let (stop, acknowledged, alice) = (&stop, &acknowledged, &alice);
        scope.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                for round in 0..150 {
                    let epoch = cache.lookup(alice).unwrap().epoch;
                    let at = Timestamp(NOW.0 + acknowledged.load(Ordering::SeqCst));
                    let put = cache.put_recipient(alice, record(RecipientState::Invalid, at, 2), epoch);
                    let clear = match round % 3 {
                        0 => Scope::All,
                        1 => Scope::Domain(alice.domain().clone()),
                        _ => Scope::Recipient(alice.clone()),
                    };
                    if round % 2 == 0 {
                        put.await.unwrap();
                    }
                    cache.clear(clear, NOW).await.unwrap();
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                }
            });
            stop.store(true, Ordering::SeqCst);
        });
    });
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_forward_makes_no_sweep_forget_a_clear_that_a_callout_may_come_back_to() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open_paced(dir.path(), &options(), NOW, || std::future::ready(())).unwrap();
    let (alice, bob) = (address("alice@one.example"), address("bob@two.example"));
    let asked = [cache.lookup(&alice).unwrap().epoch, cache.lookup(&bob).unwrap().epoch];
    cache.clear(Scope::Recipient(alice.clone()), NOW).await.unwrap();
    cache.clear(Scope::Domain(bob.domain().clone()), NOW).await.unwrap();
    let stepped = NOW.after(Duration::from_secs(100_000));
    assert_eq!(cache.sweep(stepped).await.unwrap().removed, 0);
    for (recipient, epoch) in [&alice, &bob].into_iter().zip(asked) {
        assert!(cache.lookup(recipient).unwrap().floor > epoch);
        let put = cache.put_recipient(recipient, record(RecipientState::Valid, stepped, 96), epoch).await.unwrap();
        assert_eq!(put, Put::Superseded);
    }
    // No callout is under way for so long.
    tokio::time::advance(callahead_cache::FLIGHT_MAX + Duration::from_secs(2)).await;
    assert_eq!(cache.sweep(stepped.after(Duration::from_secs(1000))).await.unwrap().removed, 2);
    assert_eq!(
        cache.sweep(stepped.after(Duration::from_secs(1000))).await.unwrap().removed,
        1,
        "the domain behind alice"
    );
}
