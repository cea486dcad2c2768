//! Flights, clears during a flight, live questions, and what no fault may ever do.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use callahead_cache::{DomainState, Put, RecipientState, Record, Scope};
use callahead_callout::{Outcome, Route, TlsPolicy};
use callahead_engine::{
    AcceptOrDefer, Action, Callouts, Directory, DomainConfig, Listener, Policy, Question, RejectOrDefer, Settings,
};
use callahead_smtp::Domain;
use common::*;
use proptest::prelude::*;

const ANNA: &str = "anna@one.example";

#[tokio::test(start_paused = true)]
async fn a_hundred_questions_for_the_same_new_recipient_are_one_callout() {
    let bench = Bench::new();
    bench.acts([Act::Wait(accepted())]);
    let waiting: Vec<_> = (0..100).map(|_| bench.asks(ANNA)).collect();
    bench.settle().await;
    bench.script.go.notify_one();
    for decision in waiting {
        assert_eq!(short(&decision.await.unwrap()), "10 valid callout accept");
    }
    assert_eq!(bench.callouts(), 1);
    assert_eq!(bench.engine.stats().joined, 99);
}

/// Asks for this many recipients of one domain at the same time, and lets the destination answer the first of them.
async fn all_at_once(bench: &Bench, count: usize) -> Vec<String> {
    let asked: Vec<_> = (0..count).map(|n| bench.asks(&format!("user{n}@one.example"))).collect();
    bench.settle().await;
    assert_eq!(bench.callouts(), 1, "the others wait for what the random local part brings");
    bench.script.go.notify_one();
    let mut decisions = Vec::new();
    for decision in asked {
        decisions.push(short(&decision.await.unwrap()));
    }
    decisions
}

#[tokio::test(start_paused = true)]
async fn fifty_new_recipients_of_an_accept_all_domain_are_one_callout() {
    let bench = Bench::new();
    bench.acts([Act::Wait(accepts_all())]);
    assert_eq!(all_at_once(&bench, 50).await, vec!["9 valid callout accept"; 50]);
    assert_eq!(bench.callouts(), 1);
}

#[tokio::test(start_paused = true)]
async fn fifty_new_recipients_of_a_domain_ask_one_random_local_part() {
    let bench = Bench::new();
    bench.acts([Act::WaitProbed(accepted()), Act::Say(rejected(), true)]);
    let decisions = all_at_once(&bench, 50).await;
    assert_eq!(decisions.iter().filter(|d| *d == "11 invalid callout reject 550 5.1.1").count(), 49, "{decisions:?}");
    assert_eq!(bench.callouts(), 50);
    assert_eq!(bench.script.requests.lock().unwrap().iter().filter(|request| request.probe).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_random_local_part_that_is_not_answered_holds_the_others_up_for_five_seconds_only() {
    let bench = Bench::new();
    bench.acts([Act::Never, Act::Say(accepted(), true)]);
    bench.asks(ANNA);
    bench.settle().await;
    let began = tokio::time::Instant::now();
    assert_eq!(short(&bench.ask("ben@one.example").await), "10 valid callout accept");
    assert_eq!(began.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn what_a_random_local_part_brought_from_before_a_clear_counts_for_nobody_after_it() {
    let bench = Bench::new();
    bench.acts([Act::Wait(accepts_all()), Act::Say(rejected(), true)]);
    bench.asks(ANNA);
    bench.settle().await;
    bench.clear(Scope::Domain("one.example".parse().unwrap())).await;
    assert_eq!(short(&bench.ask("ben@one.example").await), "11 invalid callout reject 550 5.1.1");
}

#[tokio::test(start_paused = true)]
async fn what_waited_for_a_random_local_part_over_a_clear_is_asked_after_it_and_so_is_kept() {
    let bench = Bench::new();
    bench.acts([Act::WaitProbed(rejected()), Act::Say(accepted(), true)]);
    let first = bench.asks(ANNA);
    bench.settle().await;
    let waiting = bench.asks("ben@one.example");
    bench.settle().await;
    bench.clear(Scope::All).await;
    bench.script.go.notify_one();
    assert_eq!(short(&first.await.unwrap()), "11 invalid callout reject 550 5.1.1");
    assert_eq!(short(&waiting.await.unwrap()), "10 valid callout accept");
    bench.settle().await;
    assert_eq!(short(&bench.ask("ben@one.example").await), "7 valid cache accept");
    assert_eq!(bench.callouts(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_cleared_recipient_is_not_answered_by_what_another_one_took_over_from_its_callout() {
    let bench = Bench::new();
    bench.acts([Act::Wait(accepts_all()), Act::Say(rejected(), true)]);
    let before = bench.asks(ANNA);
    bench.settle().await;
    bench.clear(Scope::Recipient(ANNA.parse().unwrap())).await;
    // Nobody cleared this one, so it may have what Anna's callout brings; Anna may not.
    let other = bench.asks("ben@one.example");
    bench.settle().await;
    bench.script.go.notify_one();
    assert_eq!(short(&before.await.unwrap()), "9 valid callout accept");
    assert_eq!(short(&other.await.unwrap()), "9 valid callout accept");
    bench.settle().await;
    assert_eq!(short(&bench.ask(ANNA).await), "11 invalid callout reject 550 5.1.1");
}

#[tokio::test(start_paused = true)]
async fn a_null_mx_that_others_take_over_is_as_old_as_when_it_was_seen() {
    let bench = Bench::hanging_disk();
    bench.acts([Act::Say(Outcome::NullMx, false), Act::Say(accepted(), true)]);
    let ask = |recipient: &'static str| bench.engine.decide(Question::new(recipient.as_bytes(), Listener::Policy));
    let seen = ask(ANNA).await;
    assert_eq!(short(&seen), "15 invalid callout reject 556 5.1.10");
    bench.pass(Duration::from_secs(20));
    let taken_over = ask("ben@one.example").await;
    assert_eq!(short(&taken_over), "15 invalid callout reject 556 5.1.10");
    assert_eq!((taken_over.checked_at, taken_over.expires_at), (seen.checked_at, seen.expires_at));
    assert_eq!(bench.callouts(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_flight_that_waited_over_a_clear_joins_the_one_that_was_asked_for_after_it() {
    let bench = Bench::new();
    bench.acts([Act::Never, Act::Wait(accepted()), Act::Say(rejected(), true)]);
    let _random_local_part = bench.asks("carl@one.example");
    bench.settle().await;
    let before = bench.asks(ANNA);
    bench.settle().await;
    bench.clear(Scope::Recipient(ANNA.parse().unwrap())).await;
    let after = bench.asks(ANNA);
    bench.settle().await;
    assert_eq!(bench.callouts(), 2, "what was asked after the clear does not wait for what was asked before");
    tokio::time::sleep(Duration::from_secs(6)).await;
    bench.settle().await;
    assert_eq!(bench.callouts(), 2, "one callout for Anna, though one question came before the clear and one after");
    bench.script.go.notify_one();
    assert_eq!(short(&before.await.unwrap()), "10 valid callout accept");
    assert_eq!(short(&after.await.unwrap()), "10 valid callout accept");
}

#[tokio::test(start_paused = true)]
async fn a_clear_during_a_flight_answers_those_who_waited_and_is_not_undone_by_it() {
    for scope in [Scope::Recipient(ANNA.parse().unwrap()), Scope::Domain("one.example".parse().unwrap()), Scope::All] {
        let bench = Bench::new();
        bench.acts([Act::Wait(rejected()), Act::Say(accepted(), true)]);
        let before = bench.asks(ANNA);
        bench.settle().await;
        bench.clear(scope).await;
        // The mailbox was created before the clear: whoever asks now gets the new answer, though the old flight is still out.
        assert_eq!(short(&bench.ask(ANNA).await), "10 valid callout accept");
        bench.script.go.notify_one();
        assert_eq!(short(&before.await.unwrap()), "11 invalid callout reject 550 5.1.1");
        bench.settle().await;
        assert_eq!(short(&bench.ask(ANNA).await), "7 valid cache accept", "the old flight's answer was not written");
        assert_eq!(bench.engine.stats().superseded, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_clear_ends_a_hold_down() {
    let bench = Bench::new();
    bench.says(deferred());
    bench.ask(ANNA).await;
    bench.clear(Scope::Recipient(ANNA.parse().unwrap())).await;
    bench.says(accepted());
    assert_eq!(short(&bench.ask(ANNA).await), "10 valid callout accept");
}

#[tokio::test(start_paused = true)]
async fn a_clear_of_a_recipient_in_an_accept_all_domain_asks_anew() {
    let bench = Bench::new();
    bench.says(accepts_all());
    bench.ask(ANNA).await;
    bench.clear(Scope::Recipient(ANNA.parse().unwrap())).await;
    bench.says(rejected());
    assert_eq!(short(&bench.ask(ANNA).await), "11 invalid callout reject 550 5.1.1");
}

#[tokio::test(start_paused = true)]
async fn a_live_question_asks_whatever_is_kept_and_its_answer_is_kept() {
    let bench = Bench::new();
    bench.says(rejected());
    bench.ask(ANNA).await;
    bench.says(accepted());
    let live = Question { live: true, ..Question::new(ANNA.as_bytes(), Listener::Cli) };
    assert_eq!(short(&bench.engine.decide(live).await), "10 valid callout accept");
    bench.settle().await;
    assert_eq!(short(&bench.ask(ANNA).await), "7 valid cache accept");

    let bench = Bench::new();
    bench.says(deferred());
    bench.ask(ANNA).await;
    bench.says(accepted());
    assert_eq!(short(&bench.ask(ANNA).await), "12 unknown cache defer 451 4.4.0");
    assert_eq!(short(&bench.engine.decide(live).await), "10 valid callout accept", "held down or not");
}

#[tokio::test(start_paused = true)]
async fn a_question_of_what_is_kept_only_never_asks() {
    let bench = Bench::new();
    let kept = Question { cached_only: true, ..Question::new(ANNA.as_bytes(), Listener::Admin) };
    let decision = bench.engine.decide(kept).await;
    assert_eq!((decision.row, decision.verdict.unwrap().as_str()), (16, "unknown"));
    assert_eq!(decision.reason, "nothing is kept of the recipient, and the destination was not to be asked");
    assert_eq!(bench.callouts(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_known_is_explained_and_nobody_is_asked_or_told() {
    let bench = Bench::new();
    let explained = |recipient: &str| bench.engine.explain(recipient.as_bytes()).map(|decision| short(&decision));
    assert_eq!(explained(ANNA), None);
    assert_eq!(explained("nobody@two.example").unwrap(), "2 not_ours policy none");
    for (outcome, recipient, as_what) in [
        (rejected(), "carol@one.example", "8 invalid cache reject 550 5.1.1"),
        (deferred(), "grey@one.example", "12 unknown cache defer 451 4.4.0"),
        (accepted(), ANNA, "7 valid cache accept"),
    ] {
        bench.says(outcome);
        bench.ask(recipient).await;
        let before = bench.callouts();
        assert_eq!(explained(recipient).unwrap(), as_what);
        bench.settle().await;
        assert_eq!(bench.callouts(), before);
    }
    bench.pass(13 * HOUR);
    assert_eq!(explained(ANNA).unwrap(), "7 valid cache accept");
    bench.settle().await;
    assert_eq!(bench.engine.stats().refreshes, 0, "past its soft age, too");
}

#[tokio::test(start_paused = true)]
async fn callouts_under_way_are_counted_and_their_domains_known() {
    let bench = Bench::new();
    bench.acts([Act::Wait(accepted())]);
    let asked = bench.asks(ANNA);
    bench.settle().await;
    assert_eq!(bench.engine.stats().under_way, 1);
    assert!(bench.engine.domains_in_memory().contains(&"one.example".parse().unwrap()));
    bench.script.go.notify_one();
    asked.await.unwrap();
    bench.settle().await;
    assert_eq!(bench.engine.stats().under_way, 0);
    assert!(bench.engine.domains_in_memory().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_end_waits_for_callouts_under_way_and_not_for_ever() {
    let grace = Duration::from_secs(5);
    for (act, comes_back) in [(Act::Wait(accepted()), true), (Act::Never, false)] {
        let bench = Bench::new();
        bench.acts([act]);
        bench.asks(ANNA);
        bench.settle().await;
        let began = tokio::time::Instant::now();
        let engine = bench.engine.clone();
        let ending = tokio::spawn(async move { engine.shutdown(grace).await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!ending.is_finished());
        bench.script.go.notify_one();
        ending.await.unwrap();
        let took = began.elapsed();
        assert!(took >= if comes_back { Duration::from_secs(1) } else { grace }, "{took:?}");
        assert_eq!(bench.engine.cache().stats(None).unwrap().valid, u64::from(comes_back), "what came is on disk");
    }
}

#[tokio::test(start_paused = true)]
async fn a_callout_that_ends_in_a_panic_keeps_nobody_waiting() {
    let bench = Bench::new();
    bench.acts([Act::Panic, Act::Say(accepted(), true)]);
    let began = tokio::time::Instant::now();
    let ask = || bench.engine.decide(Question::new(ANNA.as_bytes(), Listener::Policy));
    let (asks, joins) = tokio::join!(ask(), ask());
    for decision in [asks, joins] {
        assert_eq!(short(&decision), "16 unknown callout defer 451 4.4.5");
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(short(&bench.ask(ANNA).await), "10 valid callout accept");
}

#[tokio::test(start_paused = true)]
async fn a_questioner_who_goes_away_does_not_end_the_flight() {
    let bench = Bench::new();
    bench.acts([Act::Wait(accepted())]);
    let gone = bench.asks(ANNA);
    bench.settle().await;
    gone.abort();
    bench.script.go.notify_one();
    bench.settle().await;
    assert_eq!(short(&bench.ask(ANNA).await), "7 valid cache accept");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_a_hanging_disk_did_not_take_for_hours_is_not_given() {
    let bench = Bench::hanging_disk();
    bench.acts([Act::Say(rejected(), true), Act::Say(accepted(), true)]);
    let ask = || bench.engine.decide(Question::new(ANNA.as_bytes(), Listener::Policy));
    assert_eq!(short(&ask().await), "11 invalid callout reject 550 5.1.1");
    assert_eq!(short(&ask().await), "8 invalid cache reject 550 5.1.1", "it counts from the moment it came");
    bench.pass(3 * HOUR);
    assert_eq!(short(&ask().await), "10 valid callout accept", "nothing invalid is served after two hours");
}

#[tokio::test(start_paused = true)]
async fn an_older_callout_is_joined_again_when_a_live_one_is_over() {
    let bench = Bench::new();
    bench.acts([Act::Wait(accepted()), Act::Say(Outcome::Busy, false)]);
    let ask = |live| {
        let engine = bench.engine.clone();
        let question = Question { live, ..Question::new(ANNA.as_bytes(), Listener::Policy) };
        tokio::spawn(async move { engine.decide(question).await })
    };
    let first = ask(false);
    bench.settle().await;
    assert_eq!(short(&ask(true).await.unwrap()), "16 unknown callout defer 451 4.4.5");
    bench.settle().await;
    let second = ask(false);
    bench.settle().await;
    bench.script.go.notify_one();
    assert_eq!(short(&first.await.unwrap()), "10 valid callout accept");
    assert_eq!(short(&second.await.unwrap()), "10 valid callout accept");
    assert_eq!(bench.callouts(), 2, "one for each of the first two questions, and none for the third");
}

#[tokio::test(start_paused = true)]
async fn an_older_callout_is_joined_where_what_a_live_one_brought_is_too_old() {
    let bench = Bench::hanging_disk();
    bench.acts([Act::Wait(accepted()), Act::Say(rejected(), true), Act::Say(accepted(), true)]);
    let first = bench.asks(ANNA);
    begun().await;
    assert_eq!(short(&bench.asks_live(ANNA).await.unwrap()), "11 invalid callout reject 550 5.1.1");
    bench.pass(3 * HOUR);
    let second = bench.asks(ANNA);
    begun().await;
    bench.script.go.notify_one();
    assert_eq!(short(&first.await.unwrap()), "10 valid callout accept");
    assert_eq!(short(&second.await.unwrap()), "10 valid callout accept");
    assert_eq!(bench.callouts(), 2, "the third question waits for the first one's");
}

#[tokio::test(start_paused = true)]
async fn what_waited_for_a_random_local_part_joins_a_callout_behind_a_live_one_that_is_too_old() {
    let bench = Bench::hanging_disk();
    bench.acts([Act::Wait(accepted()), Act::Wait(accepted()), Act::Say(rejected(), true), Act::Say(rejected(), true)]);
    let _probe = bench.asks("ben@one.example");
    begun().await;
    let anna = bench.asks(ANNA);
    begun().await;
    let second = bench.asks_live(ANNA);
    begun().await;
    assert_eq!(short(&bench.asks_live(ANNA).await.unwrap()), "11 invalid callout reject 550 5.1.1");
    bench.pass(3 * HOUR);
    bench.script.go.notify_one();
    begun().await;
    bench.script.go.notify_one();
    assert_eq!(short(&second.await.unwrap()), "10 valid callout accept");
    assert_eq!(short(&anna.await.unwrap()), "10 valid callout accept");
    assert_eq!(bench.callouts(), 3, "the first question for anna waits for the second one's");
}

#[tokio::test(start_paused = true)]
async fn those_who_joined_a_refresh_that_gave_way_ask_once_together() {
    let bench = Bench::new();
    bench.says(rejected());
    bench.ask(ANNA).await;
    bench.pass(119 * MINUTE);
    bench.acts([Act::Wait(Outcome::Busy), Act::Say(accepted(), true)]);
    assert_eq!(short(&bench.ask(ANNA).await), "8 invalid cache reject 550 5.1.1");
    bench.pass(2 * MINUTE);
    let waiting: Vec<_> = (0..10).map(|_| bench.asks(ANNA)).collect();
    bench.settle().await;
    assert_eq!(bench.callouts(), 2, "they wait for the refresh");
    bench.script.go.notify_one();
    for decision in waiting {
        assert_eq!(short(&decision.await.unwrap()), "10 valid callout accept");
    }
    assert_eq!(bench.callouts(), 3, "ten questions, one callout");
}

#[tokio::test(start_paused = true)]
async fn a_shorter_ttl_counts_at_once_for_what_is_kept() {
    let bench = Bench::new();
    bench.says(rejected());
    bench.ask(ANNA).await;
    bench.pass(10 * MINUTE);
    let policy = Policy { invalid_ttl: 5 * MINUTE, ..Policy::default() };
    bench.engine.set_directory(callahead_engine::Directory::new([domain(policy)]).unwrap());
    bench.says(accepted());
    assert_eq!(short(&bench.ask(ANNA).await), "10 valid callout accept");
}

/// A question that found nothing kept, before its destination is asked.
fn unanswered(bench: &Bench) -> (Question<'static>, callahead_engine::Unanswered) {
    let question = Question::new(ANNA.as_bytes(), Listener::Policy);
    let unanswered = bench.engine.decide_cached(&question).unwrap_err();
    (question, unanswered)
}

#[tokio::test(start_paused = true)]
async fn a_valid_past_a_shorter_ttl_is_stale_for_four_days_and_no_longer() {
    let bench = Bench::policy(|policy| policy.valid_ttl = 720 * HOUR);
    bench.says(accepted());
    bench.ask(ANNA).await;
    bench.pass(100 * HOUR);
    bench.engine.set_directory(Directory::new([domain(Policy::default())]).unwrap());
    bench.says(unreachable());
    assert_eq!(short(&bench.ask(ANNA).await), "14 unknown callout accept");
    bench.pass(92 * HOUR);
    assert_eq!(short(&bench.ask(ANNA).await), "14 unknown callout defer 451 4.4.1");
}

fn elsewhere() -> DomainConfig {
    let route = Route { hops: vec!["192.0.2.25".parse().unwrap()], tls: TlsPolicy::Off };
    DomainConfig { route: Arc::new(route), ..domain(Policy::default()) }
}

#[tokio::test(start_paused = true)]
async fn a_route_that_changes_between_the_lookup_and_the_callout_is_the_one_that_is_asked() {
    let bench = Bench::new();
    bench.says(rejected());
    let (question, unanswered) = unanswered(&bench);
    // Nothing is known of the domain and nobody asks for it, so there is nothing to clear.
    bench.engine.set_directory(Directory::new([elsewhere()]).unwrap());
    assert!(bench.engine.domains_in_memory().is_empty());
    bench.engine.decide_by_callout(&question, unanswered).await;
    assert_eq!(bench.script.requests.lock().unwrap()[0].route, elsewhere().route);
}

#[tokio::test(start_paused = true)]
async fn what_begins_anew_behind_a_changed_route_is_told_nothing_by_what_was_asked_at_the_former() {
    let bench = Bench::new();
    bench.acts([Act::Wait(accepts_all()), Act::Say(accepted(), true)]);
    let former = bench.asks("ben@one.example");
    bench.settle().await;
    let (question, unanswered) = unanswered(&bench);
    bench.engine.set_directory(Directory::new([elsewhere()]).unwrap());
    bench.clear(Scope::Domain("one.example".parse().unwrap())).await;
    let engine = bench.engine.clone();
    let before = tokio::spawn(async move { engine.decide_by_callout(&question, unanswered).await });
    begun().await;
    let after = bench.asks(ANNA);
    begun().await;
    bench.script.go.notify_waiters();
    assert_eq!(short(&former.await.unwrap()), "9 valid callout accept");
    assert_eq!(short(&before.await.unwrap()), "10 valid callout accept");
    let after = after.await.unwrap();
    assert!(after.answer.action == Action::Accept && !after.accept_all, "{}", short(&after));
}

#[tokio::test(start_paused = true)]
async fn what_begins_anew_asks_a_random_local_part_though_the_former_destination_refused_one() {
    let bench = Bench::new();
    bench.says(rejected());
    bench.ask("ben@one.example").await;
    let (question, unanswered) = unanswered(&bench);
    bench.engine.set_directory(Directory::new([elsewhere()]).unwrap());
    bench.clear(Scope::Domain("one.example".parse().unwrap())).await;
    bench.engine.decide_by_callout(&question, unanswered).await;
    assert!(bench.script.requests.lock().unwrap()[1].probe);
    // Nor is what another one's random local part told before a clear known after it.
    let bench = Bench::new();
    bench.acts([Act::WaitProbed(rejected()), Act::Say(accepted(), true)]);
    bench.asks("ben@one.example");
    bench.settle().await;
    let waits = bench.asks(ANNA);
    bench.settle().await;
    bench.clear(Scope::All).await;
    bench.script.go.notify_one();
    waits.await.unwrap();
    assert!(bench.script.requests.lock().unwrap()[1].probe);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_on_disk_counts_no_more_once_the_recipient_was_accepted_though_that_can_not_be_written() {
    let (bench, disk_fails) = Bench::failing_disk();
    bench.says(rejected());
    bench.ask(ANNA).await;
    bench.pass(40 * MINUTE);
    disk_fails.store(true, Ordering::Relaxed);
    bench.says(accepted());
    // The refresh hears it.
    assert_eq!(short(&bench.ask_only(ANNA).await), "8 invalid cache reject 550 5.1.1");
    begun().await;
    assert_eq!(short(&bench.ask_only(ANNA).await), "10 valid callout accept");
}

#[tokio::test(start_paused = true)]
async fn a_domain_that_is_gone_before_the_callout_is_asked_for_by_nobody() {
    let bench = Bench::new();
    bench.says(rejected());
    let (question, unanswered) = unanswered(&bench);
    bench.engine.set_directory(Directory::default());
    let decision = bench.engine.decide_by_callout(&question, unanswered).await;
    assert_eq!((decision.answer.action, bench.callouts()), (Action::Defer, 0));
}

#[tokio::test(start_paused = true)]
async fn a_question_that_was_held_up_before_its_callout_finds_what_became_known() {
    let bench = Bench::new();
    bench.says(rejected());
    let (question, unanswered) = unanswered(&bench);
    bench.ask(ANNA).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let decision = bench.engine.decide_by_callout(&question, unanswered).await;
    assert_eq!((short(&decision).as_str(), bench.callouts()), ("8 invalid cache reject 550 5.1.1", 1));
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_long_before_a_clear_is_not_kept_though_the_mark_of_that_clear_is_gone() {
    let bench = Bench::new();
    let old = bench.engine.cache().lookup(&ANNA.parse().unwrap()).unwrap().epoch;
    bench.clear(Scope::Recipient(ANNA.parse().unwrap())).await;
    tokio::time::sleep(24 * 60 * MINUTE).await;
    bench.pass(24 * 60 * MINUTE);
    for _ in 0..3 {
        awake(bench.engine.cache().sweep(bench.engine.now())).await.unwrap();
    }
    let record = Record {
        state: RecipientState::Invalid,
        checked_at: bench.engine.now(),
        expires_at: bench.engine.now().after(MINUTE),
        reply: None,
        destination: DESTINATION.into(),
    };
    let put = bench.engine.cache().put_recipient(&ANNA.parse().unwrap(), record, old);
    assert_eq!(awake(put).await.unwrap(), Put::Superseded);
}

#[test]
fn an_address_literal_is_found_by_whatever_its_name_is_written_as() {
    let route = (*elsewhere().route).clone();
    for name in ["[IPv6:2001:db8::1]", "[ipv6:2001:DB8:0::1]", "[192.0.2.1]"] {
        let directory = Directory::new([DomainConfig::new(name, route.clone())]).unwrap();
        assert!(directory.find(&Domain::parse(name).unwrap()).is_some(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_decision_as_json_is_what_is_agreed() {
    let bench = Bench::new();
    bench.says(rejected());
    let mut decision = bench.ask(ANNA).await;
    decision.elapsed = Duration::from_micros(12_300);
    decision.transcript = None;
    let json = serde_json::to_value(&decision).unwrap();
    let expected = serde_json::json!({
        "recipient": "anna@one.example", "verdict": "invalid", "accept_all": false, "row": 11,
        "reason": "the destination refuses the recipient", "source": "callout",
        "answer": {"action": "reject", "code": 550, "enhanced": "5.1.1",
                   "text": "Recipient address rejected: the mailbox does not exist"},
        "destination": "mail1.internal.example:25",
        "reply": {"code": 550, "enhanced": "5.1.1", "text": "mail1.internal.example: no such user"},
        "checked_at": "2023-11-14T22:13:20.000Z", "expires_at": "2023-11-15T00:13:20.000Z", "elapsed_ms": 12.3
    });
    assert_eq!(json, expected);
    let malformed = serde_json::to_value(bench.ask("nobody at all").await).unwrap();
    assert!(malformed.get("verdict").is_none() && malformed["row"] == 1);
}

fn outcomes() -> impl Strategy<Value = Option<Outcome>> {
    prop_oneof![
        Just(None),
        Just(Some(accepted())),
        Just(Some(rejected())),
        Just(Some(blocked())),
        Just(Some(deferred())),
        Just(Some(accepts_all())),
        Just(Some(null_sender_refused())),
        Just(Some(unreachable())),
        Just(Some(Outcome::NeedsSmtpUtf8)),
        Just(Some(Outcome::NullMx)),
        Just(Some(Outcome::Busy)),
    ]
}

fn policies() -> impl Strategy<Value = Policy> {
    let choice = || prop_oneof![Just(AcceptOrDefer::Accept), Just(AcceptOrDefer::Defer)];
    let callouts = prop_oneof![Just(Callouts::Enforce), Just(Callouts::Observe), Just(Callouts::Off)];
    let rejects = prop_oneof![Just(RejectOrDefer::Reject), Just(RejectOrDefer::Defer)];
    (callouts, choice(), choice(), choice(), rejects, any::<bool>(), prop_oneof![Just(550u16), Just(450)]).prop_map(
        |(callouts, accept_all, unverifiable, tempfail, policy_rejects, pass_reply_text, reject_code)| Policy {
            callouts,
            accept_all,
            unverifiable,
            tempfail,
            policy_rejects,
            pass_reply_text,
            reject_code,
            ..Policy::default()
        },
    )
}

/// What is kept before, and how long ago it was learned.
fn kept() -> impl Strategy<Value = (Option<RecipientState>, Option<DomainState>, u64)> {
    let recipient = prop_oneof![Just(None), Just(Some(RecipientState::Valid)), Just(Some(RecipientState::Invalid))];
    let domain = prop_oneof![
        Just(None),
        Just(Some(DomainState::AcceptAll)),
        Just(Some(DomainState::NotAcceptAll)),
        Just(Some(DomainState::RefusesNullSender)),
        Just(Some(DomainState::NullMx))
    ];
    (recipient, domain, prop_oneof![Just(0u64), Just(1), Just(2), Just(13), Just(97), Just(200)])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_but_a_5xx_to_the_recipient_a_list_or_a_null_mx_rejects(
        outcome in outcomes(), policy in policies(), (recipient, state, hours) in kept(), live: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let settings = Settings { deadline: Duration::from_secs(1), ..Settings::default() };
            let bench = Bench::with(domain(policy.clone()), settings);
            let now = bench.engine.now();
            let anna = ANNA.parse().unwrap();
            let epoch = bench.engine.cache().lookup(&anna).unwrap().epoch;
            let expires_at = now.after(96 * HOUR);
            if let Some(state) = recipient {
                let record = Record { state, checked_at: now, expires_at, destination: DESTINATION.into(), reply: None };
                bench.engine.cache().put_recipient(&anna, record, epoch).await.unwrap();
            }
            if let Some(state) = state {
                let record = Record { state, checked_at: now, expires_at, destination: DESTINATION.into(), reply: None };
                bench.engine.cache().put_domain(anna.domain(), record, epoch).await.unwrap();
            }
            bench.pass(u32::try_from(hours).unwrap() * HOUR);
            match outcome.clone() {
                Some(outcome) => bench.says(outcome),
                None => bench.acts([Act::Never]),
            };
            let question = Question { live, ..Question::new(ANNA.as_bytes(), Listener::Policy) };
            let decision = bench.engine.decide(question).await;
            let said = match (&outcome, decision.source.as_str()) {
                (Some(Outcome::Rejected(_)), "callout") => Some(11),
                (Some(Outcome::NullMx), "callout") => Some(15),
                (_, "cache") if hours < 2 && recipient == Some(RecipientState::Invalid) => Some(8),
                (_, "cache") if hours < 2 && state == Some(DomainState::NullMx) => Some(15),
                _ => None,
            };
            let rejects = decision.answer.action == Action::Reject;
            assert!(!rejects || said == Some(decision.row), "{} {policy:?}", short(&decision));
            assert!(!rejects || policy.callouts == Callouts::Enforce, "observe and off never reject");
            for answer in [Some(&decision.answer), decision.would.as_ref()].into_iter().flatten() {
                let text = answer.reply();
                assert!(text.len() <= 420 && text.bytes().all(|octet| (b' '..=b'~').contains(&octet)), "{text:?}");
                assert!(policy.pass_reply_text || !text.contains("mail1"), "the destination's name got out: {text}");
            }
        });
    }
}
