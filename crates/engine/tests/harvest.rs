//! Clients that guess addresses: how many callouts they get, however they ask.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::sync::Arc;

use callahead_cache::Scope;
use callahead_callout::{Outcome, Route, TlsPolicy};
use callahead_engine::{
    Action, Decision, Directory, DomainConfig, Engine, Harvest, Listener, Policy, Question, RejectOrDefer, Settings,
};
use common::{Act, Bench, accepted, blocked, domain, rejected, reply, short};
use tokio::task::JoinSet;

const CLIENT: &str = "192.0.2.9";
/// One more than the limit.
const ALLOWED: usize = 21;

async fn ask(engine: Engine, recipient: String) -> Decision {
    let client = CLIENT.parse().ok();
    engine.decide(Question { client, ..Question::new(recipient.as_bytes(), Listener::Policy) }).await
}

/// Asks for `count` recipients at the same time, for one client.
fn at_once(bench: &Bench, count: usize, domain: &str) -> JoinSet<Decision> {
    (0..count).map(|number| ask(bench.engine.clone(), format!("mailbox{number}@{domain}"))).collect()
}

async fn turns() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// A destination of which it is known that it does not accept everything.
async fn known() -> Bench {
    let bench = Bench::new();
    bench.says(accepted());
    bench.ask("anna@one.example").await;
    bench
}

#[tokio::test(start_paused = true)]
async fn a_client_that_guesses_all_at_once_gets_no_more_callouts_than_one_that_guesses_in_turn() {
    let bench = known().await;
    bench.acts([Act::Wait(rejected())]);
    let before = bench.callouts();
    let questions = at_once(&bench, 200, "one.example");
    turns().await;
    assert_eq!(bench.callouts() - before, ALLOWED);
    bench.script.go.notify_waiters();
    let decisions = questions.join_all().await;
    assert_eq!(bench.callouts() - before, ALLOWED);
    let refused = decisions.iter().filter(|decision| decision.row == 11).count();
    let put_off = decisions.iter().filter(|d| short(d) == "16 unknown policy defer 451 4.7.1").count();
    assert_eq!((refused, put_off), (ALLOWED, 200 - ALLOWED));
}

#[tokio::test(start_paused = true)]
async fn full_mailboxes_exist_and_are_no_guesses() {
    let bench = known().await;
    bench.says(Outcome::Rejected(reply(552, (5, 2, 2), "over quota")));
    for number in 0..2 * ALLOWED {
        for row in [11, 8] {
            let decision = ask(bench.engine.clone(), format!("mailbox{number}@one.example")).await;
            bench.settle().await;
            assert_eq!(decision.row, row);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_that_are_no_word_on_the_recipient_make_nobody_a_guesser() {
    let bench = Bench::policy(|policy| policy.policy_rejects = RejectOrDefer::Defer);
    bench.says(blocked());
    for number in 0..2 * ALLOWED {
        let decision = ask(bench.engine.clone(), format!("mailbox{number}@one.example")).await;
        assert_eq!(short(&decision), "11 unknown callout defer 451 4.7.1");
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_recipient_many_times_takes_the_place_of_one() {
    let bench = known().await;
    bench.acts([Act::Wait(accepted())]);
    let before = bench.callouts();
    let ask_for = |recipient: &str| ask(bench.engine.clone(), recipient.to_owned());
    let mut questions: JoinSet<_> = (0..2 * ALLOWED).map(|_| ask_for("ben@one.example")).collect();
    turns().await;
    assert_eq!(bench.callouts() - before, 1);
    questions.spawn(ask_for("carol@one.example"));
    turns().await;
    assert_eq!(bench.callouts() - before, 2);
    questions.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn mailboxes_that_exist_are_all_found_however_many_are_asked_for_at_once() {
    let bench = known().await;
    bench.acts([Act::Wait(accepted())]);
    let mut before = bench.callouts();
    let mut questions = at_once(&bench, 200, "one.example");
    let mut decisions = Vec::new();
    while decisions.len() < 200 {
        turns().await;
        let now = bench.callouts();
        assert!(now - before <= ALLOWED, "{} more at once", now - before);
        before = now;
        bench.script.go.notify_waiters();
        turns().await;
        while let Some(decision) = questions.try_join_next() {
            decisions.push(decision.unwrap());
        }
    }
    assert!(decisions.iter().all(|decision| decision.row == 10), "{decisions:?}");
}

#[tokio::test(start_paused = true)]
async fn each_callout_that_comes_back_makes_room_for_one() {
    let bench = known().await;
    bench.acts([Act::Wait(accepted())]);
    let before = bench.callouts();
    let mut questions = at_once(&bench, 2 * ALLOWED, "one.example");
    for back in 0..ALLOWED {
        turns().await;
        assert_eq!(bench.callouts() - before, ALLOWED + back);
        bench.script.go.notify_one();
    }
    questions.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_before_its_answer_has_guessed_all_the_same() {
    let bench = known().await;
    bench.acts([Act::Wait(rejected())]);
    let mut questions = at_once(&bench, ALLOWED, "one.example");
    turns().await;
    questions.shutdown().await;
    bench.script.go.notify_waiters();
    turns().await;
    let before = bench.callouts();
    let decision = ask(bench.engine.clone(), "another@one.example".to_owned()).await;
    assert_eq!(short(&decision), "16 unknown policy defer 451 4.7.1");
    assert_eq!(bench.callouts(), before);
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_hangs_keeps_none_of_a_clients_mail_for_others() {
    let bench = known().await;
    let two = DomainConfig::new("two.example", (*domain(Policy::default()).route).clone());
    bench.engine.set_directory(Directory::new([domain(Policy::default()), two]).unwrap());
    let hanging = vec![Act::Never; ALLOWED];
    bench.acts(hanging.into_iter().chain([Act::Say(accepted(), true)]));
    let mut waiting = at_once(&bench, 2 * ALLOWED, "one.example");
    turns().await;
    let decision = ask(bench.engine.clone(), "anna@two.example".to_owned()).await;
    assert_eq!(short(&decision), "10 valid callout accept");
    waiting.shutdown().await;
}

/// A client with all its places taken by callouts that hang, and one question more, for `mailbox21`, that waits for a place.
async fn one_waits(then: Outcome) -> (Bench, JoinSet<Decision>) {
    let bench = known().await;
    let hanging = vec![Act::Wait(accepted()); ALLOWED];
    bench.acts(hanging.into_iter().chain([Act::Say(then, true)]));
    let questions = at_once(&bench, ALLOWED + 1, "one.example");
    turns().await;
    (bench, questions)
}

/// One of the callouts comes back; what the question that waited for its place is told.
async fn makes_room(bench: &Bench, mut questions: JoinSet<Decision>) -> Decision {
    bench.script.go.notify_one();
    loop {
        let decision = questions.join_next().await.unwrap().unwrap();
        if decision.recipient.starts_with("mailbox21@") {
            return decision;
        }
    }
}

/// The same domain with another route and a policy of its own, and what was known of it cleared, as the control database does it.
async fn moves(bench: &Bench, change: impl FnOnce(&mut Policy)) -> Arc<Route> {
    let mut policy = Policy::default();
    change(&mut policy);
    let route = Arc::new(Route { hops: vec!["192.0.2.25".parse().unwrap()], tls: TlsPolicy::Off });
    let moved = DomainConfig { route: Arc::clone(&route), ..domain(policy) };
    bench.engine.set_directory(Directory::new([moved]).unwrap());
    bench.clear(Scope::Domain("one.example".parse().unwrap())).await;
    route
}

#[tokio::test(start_paused = true)]
async fn what_became_known_while_a_question_waited_answers_it() {
    let (bench, questions) = one_waits(rejected()).await;
    assert_eq!(bench.ask("mailbox21@one.example").await.row, 11, "somebody else's question waits for no place");
    let before = bench.callouts();
    let decision = makes_room(&bench, questions).await;
    assert_eq!((short(&decision).as_str(), bench.callouts()), ("8 invalid cache reject 550 5.1.1", before));
}

#[tokio::test(start_paused = true)]
async fn a_question_that_waited_is_asked_where_the_domain_is_now_under_the_policy_that_it_began_with() {
    let (bench, questions) = one_waits(rejected()).await;
    let route = moves(&bench, |policy| policy.reject_code = 450).await;
    let decision = makes_room(&bench, questions).await;
    assert_eq!(short(&decision), "11 invalid callout reject 550 5.1.1");
    assert_eq!(bench.script.requests.lock().unwrap().last().unwrap().route, route);
    bench.settle().await;
    let kept = bench.ask("mailbox21@one.example").await;
    assert_eq!(short(&kept), "8 invalid cache reject 450 4.1.1", "it is of after the clear");
}

#[tokio::test(start_paused = true)]
async fn a_question_that_waited_while_its_recipient_became_another_leaves_nothing_behind() {
    let (bench, questions) = one_waits(rejected()).await;
    let route = moves(&bench, |policy| policy.fold_local_part = true).await;
    let before = bench.callouts();
    let decision = makes_room(&bench, questions).await;
    assert_eq!((decision.answer.action, bench.callouts()), (Action::Defer, before), "it is told to come again");
    bench.settle().await;
    assert_eq!(short(&bench.ask("mailbox21@one.example").await), "11 invalid callout reject 550 5.1.1");
    assert_eq!(bench.script.requests.lock().unwrap().last().unwrap().route, route);
}

#[tokio::test(start_paused = true)]
async fn with_no_limit_all_are_asked_for_at_once() {
    let settings = Settings { harvest: Harvest { limit: 0, ..Harvest::default() }, ..Settings::default() };
    let bench = Bench::with(domain(Policy::default()), settings);
    bench.says(accepted());
    bench.ask("anna@one.example").await;
    bench.acts([Act::Wait(rejected())]);
    let before = bench.callouts();
    let mut questions = at_once(&bench, 200, "one.example");
    turns().await;
    assert_eq!(bench.callouts() - before, 200);
    questions.shutdown().await;
}
