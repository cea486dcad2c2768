//! The decision table, row by row: each test carries its row's number.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::collections::HashSet;
use std::time::Duration;

use callahead_callout::{Failure, HostFailure, Outcome};
use callahead_engine::{
    AcceptOrDefer, AlertKind, Callouts, Decision, Directory, Listener, Policy, Question, RejectOrDefer, Settings,
    Verdict,
};
use callahead_smtp::{EnhancedCode, Reply};
use common::*;

const ANNA: &str = "anna@one.example";

/// For how long in all it counts.
fn lasts(decision: &Decision) -> Duration {
    decision.expires_at.unwrap().since(decision.checked_at.unwrap())
}

#[tokio::test(start_paused = true)]
async fn row_01_what_is_no_mailbox_is_rejected_as_malformed() {
    let bench = Bench::new();
    for bad in [
        "",
        "not an address",
        "anna@one..example",
        "@one.example",
        "@relay..example:anna@one.example",
        "anna@",
        "an\u{7}na@one.example",
    ] {
        assert_eq!(short(&bench.ask(bad).await), "1 - policy reject 501 5.1.3", "{bad:?}");
    }
    assert_eq!(bench.ask("not\u{7} an\n address").await.recipient, "not an address", "it can be shown and logged");
    assert_eq!(bench.callouts(), 0);
}

/// MTAs hand such addresses over without the quotes, and people write them so: the mailbox may well exist.
#[tokio::test(start_paused = true)]
async fn a_local_part_that_lacks_its_quotes_is_asked_for_with_them() {
    let bench = Bench::new();
    for (written, asked) in [
        ("a..b@one.example", "\"a..b\"@one.example"),
        ("a b@one.example", "\"a b\"@one.example"),
        ("an\"na@one.example", "\"an\\\"na\"@one.example"),
        ("anna@two.example@one.example", "\"anna@two.example\"@one.example"),
        ("@two.example:anna@one.example", "anna@one.example"),
    ] {
        bench.says(accepted());
        let decision = bench.ask(written).await;
        assert_eq!((short(&decision).as_str(), decision.recipient.as_str()), ("10 valid callout accept", asked));
    }
}

#[tokio::test(start_paused = true)]
async fn row_02_a_domain_that_is_not_configured_gets_no_opinion() {
    let bench = Bench::new();
    // A bare local part is qualified by the MTA, <postmaster> above all.
    for other in ["anna@two.example", "anna@sub.one.example", "anna@[192.0.2.1]", "anna", "postmaster"] {
        assert_eq!(short(&bench.ask(other).await), "2 not_ours policy none", "{other:?}");
    }
    assert_eq!(bench.callouts(), 0);
}

#[tokio::test(start_paused = true)]
async fn row_03_lists_win_over_callouts() {
    let mut domain = domain(Policy::default());
    domain.valid = HashSet::from(["sales".to_owned()]);
    domain.invalid = HashSet::from(["old-list".to_owned(), "postmaster".to_owned()]);
    let bench = Bench::with(domain, Settings::default());
    bench.says(rejected());
    assert_eq!(short(&bench.ask("Sales@one.example").await), "3 valid list accept");
    assert_eq!(short(&bench.ask("old-list@one.example").await), "3 invalid list reject 550 5.1.1");
    assert_eq!(short(&bench.ask("postmaster@one.example").await), "3 invalid list reject 550 5.1.1", "before row 5");
    assert_eq!(bench.callouts(), 0);
    bench.ask("Old-List@one.example").await;
    assert_eq!(bench.callouts(), 1, "a list that refuses is compared as it is written");
}

#[tokio::test(start_paused = true)]
async fn row_04_callouts_off_accepts_unchecked() {
    let bench = Bench::policy(|policy| policy.callouts = Callouts::Off);
    bench.says(rejected());
    assert_eq!(short(&bench.ask(ANNA).await), "4 valid policy accept");
    assert_eq!(bench.callouts(), 0);
}

#[tokio::test(start_paused = true)]
async fn row_05_postmaster_always_exists() {
    let bench = Bench::new();
    bench.says(rejected());
    assert_eq!(short(&bench.ask("PostMaster@one.example").await), "5 valid policy accept");
    assert_eq!(bench.callouts(), 0);
}

#[tokio::test(start_paused = true)]
async fn row_06_a_domain_known_to_accept_all_needs_no_callouts() {
    let bench = Bench::new();
    bench.says(accepts_all());
    bench.ask(ANNA).await;
    let other = bench.ask("whoever@one.example").await;
    assert_eq!(short(&other), "6 valid cache accept");
    assert!(other.accept_all);
    assert_eq!(lasts(&other), 96 * HOUR);
    assert_eq!(bench.callouts(), 1);
    bench.pass(13 * HOUR);
    assert_eq!(short(&bench.ask("whoever@one.example").await), "6 valid cache accept");
    assert_eq!(bench.callouts(), 2, "past its soft age it is asked again in the background");

    let bench = Bench::policy(|policy| policy.accept_all = AcceptOrDefer::Defer);
    bench.says(accepts_all());
    assert_eq!(short(&bench.ask(ANNA).await), "9 valid callout defer 451 4.7.1");
    assert_eq!(short(&bench.ask(ANNA).await), "6 valid cache defer 451 4.7.1");
}

#[tokio::test(start_paused = true)]
async fn row_07_a_fresh_valid_is_accepted_and_refreshed_past_its_soft_age() {
    let bench = Bench::new();
    bench.says(accepted());
    bench.ask(ANNA).await;
    bench.pass(11 * HOUR);
    let kept = bench.ask(ANNA).await;
    assert_eq!((short(&kept).as_str(), lasts(&kept)), ("7 valid cache accept", 96 * HOUR));
    assert_eq!(bench.callouts(), 1, "before the soft age nobody is asked");
    bench.pass(2 * HOUR);
    bench.says(rejected());
    assert_eq!(short(&bench.ask(ANNA).await), "7 valid cache accept", "the answer does not wait");
    assert_eq!(bench.callouts(), 2);
    assert!(bench.script.requests.lock().unwrap()[1].background);
    assert_eq!(short(&bench.ask(ANNA).await), "8 invalid cache reject 550 5.1.1", "the refresh found out");
}

#[tokio::test(start_paused = true)]
async fn rows_06_07_a_destination_that_shuts_the_filter_out_turns_over_nothing_that_is_known() {
    let in_words = Outcome::Rejected(Reply::new(553, None, "your IP address is blocked"));
    for shut_out in [blocked(), in_words] {
        for (known, row) in [(accepted(), 7), (accepts_all(), 6)] {
            let bench = Bench::new();
            bench.says(known);
            bench.ask(ANNA).await;
            bench.pass(13 * HOUR);
            bench.says(shut_out.clone());
            for _ in 0..3 {
                assert_eq!(short(&bench.ask(ANNA).await), format!("{row} valid cache accept"));
                bench.pass(2 * MINUTE);
            }
            assert_eq!(bench.callouts(), 4, "it is tried all the same");
            assert_eq!(bench.alerts.0.lock().unwrap().last().unwrap().kind, AlertKind::TalksOfFilter);
        }
    }
    // It is another thing where it says that the mailbox does not exist, also as Microsoft 365 says it.
    for gone in [rejected(), Outcome::Rejected(reply(550, (5, 4, 1), "Access denied"))] {
        let bench = Bench::new();
        bench.says(accepted());
        bench.ask(ANNA).await;
        bench.pass(13 * HOUR);
        bench.says(gone);
        bench.ask(ANNA).await;
        assert_eq!(short(&bench.ask(ANNA).await), "8 invalid cache reject 550 5.1.1");
    }
}

#[tokio::test(start_paused = true)]
async fn row_07_a_refresh_that_finds_nothing_out_changes_nothing() {
    for nothing in [deferred(), unreachable(), Outcome::Busy] {
        let bench = Bench::new();
        bench.says(accepted());
        bench.ask(ANNA).await;
        bench.pass(13 * HOUR);
        bench.says(nothing);
        for _ in 0..50 {
            assert_eq!(short(&bench.ask(ANNA).await), "7 valid cache accept");
        }
        assert_eq!(bench.callouts(), 2, "and is not tried at every question");
    }
}

#[tokio::test(start_paused = true)]
async fn row_08_a_fresh_invalid_is_rejected_and_says_that_it_was_kept() {
    let bench = Bench::new();
    bench.says(rejected());
    bench.ask(ANNA).await;
    bench.pass(29 * MINUTE);
    let decision = bench.ask(ANNA).await;
    assert_eq!(short(&decision), "8 invalid cache reject 550 5.1.1");
    assert!(decision.answer.text.ends_with("(cached)"));
    assert_eq!(bench.callouts(), 1);
    bench.pass(2 * MINUTE);
    bench.says(accepted());
    assert_eq!(short(&bench.ask(ANNA).await), "8 invalid cache reject 550 5.1.1");
    assert_eq!(short(&bench.ask(ANNA).await), "7 valid cache accept", "past its soft age it was asked again");
}

#[tokio::test(start_paused = true)]
async fn row_09_a_random_local_part_that_is_accepted_makes_a_record_of_the_domain_only() {
    let bench = Bench::new();
    bench.says(accepts_all());
    let decision = bench.ask(ANNA).await;
    assert_eq!(short(&decision), "9 valid callout accept");
    assert!(decision.accept_all);
    assert_eq!(lasts(&decision), 96 * HOUR);
    let stats = bench.engine.cache().stats(None).unwrap();
    assert_eq!((stats.valid, stats.invalid, stats.domains), (0, 0, 1));
    assert_eq!(bench.alerts.0.lock().unwrap()[0].kind, AlertKind::AcceptAll);
}

#[tokio::test(start_paused = true)]
async fn row_10_a_2xx_is_kept_96_hours() {
    let bench = Bench::policy(|policy| policy.valid_refresh = 96 * HOUR);
    bench.says(accepted());
    let first = bench.ask(ANNA).await;
    assert_eq!(short(&first), "10 valid callout accept");
    assert_eq!(lasts(&first), 96 * HOUR);
    assert!(bench.script.requests.lock().unwrap()[0].probe, "a random local part is asked first");
    bench.pass(96 * HOUR - MINUTE);
    let kept = bench.ask(ANNA).await;
    assert_eq!((short(&kept).as_str(), lasts(&kept)), ("7 valid cache accept", 96 * HOUR));
    assert_eq!(kept.destination.as_deref(), Some(DESTINATION), "it cites who said so");
    assert_eq!(kept.reply.unwrap().code, 250);
    bench.pass(MINUTE);
    assert_eq!(short(&bench.ask(ANNA).await), "10 valid callout accept");
    assert_eq!(bench.callouts(), 2);
}

#[tokio::test(start_paused = true)]
async fn row_10_the_random_local_part_is_asked_once_while_its_record_is_fresh() {
    let bench = Bench::new();
    bench.says(accepted());
    bench.ask(ANNA).await;
    bench.ask("ben@one.example").await;
    bench.pass(13 * HOUR);
    bench.ask("carol@one.example").await;
    let probes: Vec<bool> = bench.script.requests.lock().unwrap().iter().map(|request| request.probe).collect();
    assert_eq!(probes, [true, false, true]);
}

#[tokio::test(start_paused = true)]
async fn row_11_a_5xx_to_the_recipient_is_cached_two_hours() {
    let bench = Bench::policy(|policy| policy.invalid_refresh = 2 * HOUR);
    bench.says(rejected());
    let decision = bench.ask(ANNA).await;
    assert_eq!(short(&decision), "11 invalid callout reject 550 5.1.1");
    assert!(!decision.answer.text.contains("internal"), "the destination's words and name stay here");
    assert!(bench.alerts.0.lock().unwrap().is_empty(), "5.1.1 is nobody's trouble");
    assert_eq!(lasts(&decision), 2 * HOUR);
    bench.pass(2 * HOUR - Duration::from_millis(1));
    assert_eq!(short(&bench.ask(ANNA).await), "8 invalid cache reject 550 5.1.1");
    bench.pass(Duration::from_millis(1));
    bench.says(accepted());
    assert_eq!(short(&bench.ask(ANNA).await), "10 valid callout accept");
}

#[tokio::test(start_paused = true)]
async fn row_11_a_mailbox_that_is_full_or_disabled_is_asked_again_after_five_minutes() {
    let says = |code, detail: Option<(u16, u16)>| {
        let enhanced = detail.and_then(|(subject, detail)| EnhancedCode::new(5, subject, detail));
        Outcome::Rejected(Reply::new(code, enhanced, "no"))
    };
    // Not "does not exist": senders and lists would take the address off.
    for (code, detail, lasts_for, answer) in [
        (552, Some((2, 2)), 5 * MINUTE, "552 5.2.2"),
        (550, Some((2, 2)), 5 * MINUTE, "552 5.2.2"),
        (550, Some((2, 1)), 5 * MINUTE, "550 5.2.1"),
        (522, None, 5 * MINUTE, "552 5.2.2"),
        (522, Some((2, 2)), 5 * MINUTE, "552 5.2.2"),
        (552, Some((1, 1)), 2 * HOUR, "550 5.1.1"),
        // So does OpenSMTPD say that there is none.
        (524, Some((2, 4)), 2 * HOUR, "550 5.1.1"),
        (550, Some((1, 2)), 2 * HOUR, "550 5.1.1"),
        (550, None, 2 * HOUR, "550 5.1.1"),
    ] {
        let line = format!("{code} {detail:?}");
        let bench = Bench::policy(|policy| policy.invalid_refresh = 2 * HOUR);
        bench.says(says(code, detail));
        let decision = bench.ask(ANNA).await;
        assert_eq!(short(&decision), format!("11 invalid callout reject {answer}"), "{line}");
        assert_eq!(decision.answer.text.contains("does not exist"), answer == "550 5.1.1", "{line}");
        assert_eq!(lasts(&decision), lasts_for, "{line}");
        bench.settle().await;
        bench.pass(lasts_for - Duration::from_millis(1));
        assert_eq!(short(&bench.ask(ANNA).await), format!("8 invalid cache reject {answer}"), "{line}");
        bench.pass(Duration::from_millis(1));
        bench.says(accepted());
        assert_eq!(short(&bench.ask(ANNA).await), "10 valid callout accept", "{line}");
    }
    let bench = Bench::policy(|policy| policy.invalid_ttl = MINUTE);
    bench.says(says(522, None));
    assert_eq!(lasts(&bench.ask(ANNA).await), MINUTE, "no longer than what is wanted of others");
}

#[tokio::test(start_paused = true)]
async fn row_11_a_trial_rejects_with_450() {
    let bench = Bench::policy(|policy| policy.reject_code = 450);
    bench.says(rejected());
    assert_eq!(short(&bench.ask(ANNA).await), "11 invalid callout reject 450 4.1.1");
    assert_eq!(short(&bench.ask(ANNA).await), "8 invalid cache reject 450 4.1.1");
    bench.says(Outcome::Rejected(reply(552, (5, 2, 2), "over quota")));
    assert_eq!(short(&bench.ask("ben@one.example").await), "11 invalid callout reject 450 4.2.2");
}

#[tokio::test(start_paused = true)]
async fn row_11_words_about_the_filter_raise_an_alert_and_are_deferred_where_that_is_wanted() {
    let bench = Bench::new();
    bench.says(blocked());
    // Not 5.1.1, with which senders and lists would take the address off.
    assert_eq!(short(&bench.ask(ANNA).await), "11 invalid callout reject 550 5.7.1");
    assert_eq!(bench.alerts.0.lock().unwrap()[0].kind, AlertKind::TalksOfFilter);
    // What was kept before the setting counts no more with it.
    bench.engine.set_directory(
        Directory::new([domain(Policy { policy_rejects: RejectOrDefer::Defer, ..Policy::default() })]).unwrap(),
    );
    assert_eq!(short(&bench.ask(ANNA).await), "11 unknown callout defer 451 4.7.1");

    for (code, enhanced, words) in [
        (553, None, "listed at http://www.spamhaus.org/query/bl?ip=192.0.2.1"),
        (550, EnhancedCode::new(5, 1, 8), "sender unknown"),
        (550, EnhancedCode::new(5, 3, 2), "not now"),
        (550, EnhancedCode::new(5, 4, 1), "Recipient address rejected: Access denied"),
    ] {
        let bench = Bench::policy(|policy| policy.policy_rejects = RejectOrDefer::Defer);
        bench.says(Outcome::Rejected(Reply::new(code, enhanced, words)));
        assert_eq!(short(&bench.ask(ANNA).await), "11 unknown callout defer 451 4.7.1", "{words}");
        assert_eq!(bench.alerts.0.lock().unwrap()[0].kind, AlertKind::TalksOfFilter, "{words}");
    }

    let bench = Bench::policy(|policy| policy.policy_rejects = RejectOrDefer::Defer);
    bench.says(blocked());
    let deferred = bench.ask(ANNA).await;
    assert_eq!(short(&deferred), "11 unknown callout defer 451 4.7.1");
    assert_eq!(deferred.expires_at, None);
    assert_eq!(bench.engine.cache().stats(None).unwrap().invalid, 0, "no Invalid is kept");
    assert_eq!(bench.alerts.0.lock().unwrap()[0].kind, AlertKind::TalksOfFilter);
    bench.pass(2 * MINUTE);
    bench.says(rejected());
    assert_eq!(short(&bench.ask(ANNA).await), "11 invalid callout reject 550 5.1.1", "5.1.1 is about the recipient");
    assert_eq!(short(&bench.ask(ANNA).await), "8 invalid cache reject 550 5.1.1", "and is kept");
}

#[tokio::test(start_paused = true)]
async fn row_11_the_destinations_words_are_passed_on_only_where_that_is_switched_on() {
    let bench = Bench::policy(|policy| policy.pass_reply_text = true);
    let hostile = format!("gone\u{7}\u{e9} 250 ok {}", "x".repeat(600));
    bench.says(Outcome::Rejected(reply(550, (5, 1, 1), &hostile)));
    let text = bench.ask(ANNA).await.answer.text.into_owned();
    assert!(text.contains("the destination said: gone"), "{text}");
    assert!(text.len() <= 400 && text.bytes().all(|octet| (b' '..=b'~').contains(&octet)), "{text:?}");
}

#[tokio::test(start_paused = true)]
async fn row_12_a_4xx_defers_and_holds_the_recipient_down_for_a_minute() {
    let bench = Bench::new();
    for later in [deferred(), Outcome::NeedsSmtpUtf8] {
        let before = bench.callouts();
        bench.says(later);
        assert_eq!(short(&bench.ask(ANNA).await), "12 unknown callout defer 451 4.4.0");
        bench.pass(59 * MINUTE / 60);
        assert_eq!(short(&bench.ask(ANNA).await), "12 unknown cache defer 451 4.4.0");
        assert_eq!(bench.callouts(), before + 1);
        bench.pass(MINUTE / 60);
        bench.ask(ANNA).await;
        assert_eq!(bench.callouts(), before + 2);
        bench.pass(2 * MINUTE);
    }
    let stats = bench.engine.cache().stats(None).unwrap();
    assert_eq!((stats.valid, stats.invalid), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn row_12_a_refusal_of_what_this_node_said_is_no_word_on_the_mailbox() {
    for (code, detail) in
        [(504, Some((5, 2))), (504, None), (550, Some((5, 3))), (501, Some((5, 4))), (553, Some((6, 7)))]
    {
        let bench = Bench::new();
        let enhanced = detail.and_then(|(subject, detail)| EnhancedCode::new(5, subject, detail));
        bench.says(Outcome::Rejected(Reply::new(code, enhanced, "<filter>: Helo command rejected")));
        let decision = bench.ask(ANNA).await;
        assert_eq!(short(&decision), "12 unknown callout defer 451 4.4.0", "{code} {detail:?}");
        assert_eq!((decision.expires_at, decision.reply.unwrap().code), (None, code));
        assert_eq!(short(&bench.ask(ANNA).await), "12 unknown cache defer 451 4.4.0", "{code} {detail:?}");
        assert_eq!((bench.callouts(), bench.engine.cache().stats(None).unwrap().invalid), (1, 0));
        let told = bench.alerts.0.lock().unwrap().iter().any(|alert| alert.kind == AlertKind::TalksOfFilter);
        assert!(told, "{code} {detail:?}");
    }
    // Outlook.com says of a mailbox that does not exist: 550 5.5.0 Requested action not taken: mailbox unavailable.
    for (code, enhanced) in [(501, (5, 1, 3)), (550, (5, 5, 0))] {
        let bench = Bench::new();
        bench.says(Outcome::Rejected(reply(code, enhanced, "Requested action not taken: mailbox unavailable")));
        assert_eq!(short(&bench.ask(ANNA).await), "11 invalid callout reject 550 5.1.1");
    }
}

#[tokio::test(start_paused = true)]
async fn row_12_so_many_recipients_are_held_down_and_those_that_are_over_make_room() {
    let bench = Bench::with(domain(Policy::default()), Settings { hold_downs: 2, ..Settings::default() });
    bench.says(deferred());
    let ask_three = async |names: [&str; 3]| {
        for name in names {
            bench.ask(&format!("{name}@one.example")).await;
        }
        let before = bench.callouts();
        for name in names {
            bench.ask(&format!("{name}@one.example")).await;
        }
        bench.callouts() - before
    };
    assert_eq!(ask_three(["anna", "ben", "carol"]).await, 1, "the third is asked for again");
    assert_eq!(bench.engine.stats().held_down, 2);
    bench.pass(MINUTE);
    assert_eq!(bench.engine.stats().held_down, 0, "those that are over are not told of");
    assert_eq!(ask_three(["dora", "emil", "fritz"]).await, 1);
    assert_eq!(bench.engine.stats().held_down, 2);
    assert!(bench.engine.domains_in_memory().contains(&"one.example".parse().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn row_12_tempfail_accept_accepts() {
    let bench = Bench::policy(|policy| policy.tempfail = AcceptOrDefer::Accept);
    bench.says(deferred());
    assert_eq!(short(&bench.ask(ANNA).await), "12 unknown callout accept");
}

#[tokio::test(start_paused = true)]
async fn rows_12_14_16_a_stale_valid_or_accept_all_is_accepted_while_the_destination_cannot_be_asked() {
    let nothings = [(deferred(), 12), (unreachable(), 14), (Outcome::Busy, 16)];
    for ((nothing, row), known) in nothings.iter().flat_map(|nothing| [(nothing, accepted()), (nothing, accepts_all())])
    {
        let bench = Bench::new();
        bench.says(known);
        bench.ask(ANNA).await;
        bench.pass(96 * HOUR);
        bench.says(nothing.clone());
        assert_eq!(short(&bench.ask(ANNA).await), format!("{row} unknown callout accept"));
        bench.pass(96 * HOUR);
        let defer = bench.ask(ANNA).await;
        assert_eq!(defer.answer.action.as_str(), "defer", "4 days after its expiry it counts no more");
        assert_eq!(defer.row, *row);
    }
}

#[tokio::test(start_paused = true)]
async fn row_12_three_answers_of_ten_that_look_like_greylisting_raise_an_alert_until_it_is_less() {
    let bench = Bench::new();
    let greylists = || bench.alerts.0.lock().unwrap().iter().filter(|a| a.kind == AlertKind::Greylists).count();
    let mut asked = 0;
    let mut ask = async |outcome| {
        bench.says(outcome);
        asked += 1;
        bench.ask(&format!("new{asked}@one.example")).await;
    };
    for busy in 0..10 {
        ask(Outcome::Deferred(reply(451, (4, 3, 0), "try again later"))).await;
        assert_eq!(greylists(), 0, "{busy}: a 4xx by itself is no greylisting");
    }
    ask(deferred()).await;
    ask(accepted()).await;
    ask(deferred()).await;
    assert_eq!(greylists(), 0, "two are not enough");
    ask(deferred()).await;
    assert_eq!(greylists(), 1);
    assert_eq!(bench.alerts.0.lock().unwrap()[0].detail, format!("{DESTINATION}: 450 4.2.0 Greylisted"));
    ask(deferred()).await;
    assert_eq!(greylists(), 1, "the same is not told again at once");

    // Four of ten, and the oldest of them goes with the seventh answer that is none.
    for settled in 0..7 {
        assert_eq!(greylists(), 1, "{settled}");
        ask(if settled % 2 == 0 { accepted() } else { rejected() }).await;
    }
    ask(accepted()).await;
    assert_eq!(greylists(), 0, "two of ten");
    for _ in 0..3 {
        ask(deferred()).await;
    }
    assert_eq!(greylists(), 1, "it is told anew, without the ten minutes that the same alert waits");
}

#[tokio::test(start_paused = true)]
async fn row_13_a_refused_null_sender_says_nothing_of_the_recipient() {
    let bench = Bench::new();
    bench.says(null_sender_refused());
    let decision = bench.ask(ANNA).await;
    assert_eq!((short(&decision).as_str(), lasts(&decision)), ("13 unknown callout accept", 2 * HOUR));
    let kept = bench.ask("ben@one.example").await;
    assert_eq!(short(&kept), "13 unknown cache accept", "kept for the domain");
    assert_eq!((kept.reply.as_ref().map(|reply| reply.code), lasts(&kept)), (Some(550), 2 * HOUR));
    assert_eq!(bench.callouts(), 1);
    assert_eq!(bench.alerts.0.lock().unwrap()[0].kind, AlertKind::RefusesNullSender);
    bench.pass(2 * HOUR);
    bench.says(accepted());
    assert_eq!(short(&bench.ask(ANNA).await), "10 valid callout accept", "for two hours");

    let bench = Bench::policy(|policy| policy.unverifiable = AcceptOrDefer::Defer);
    bench.says(null_sender_refused());
    assert_eq!(short(&bench.ask(ANNA).await), "13 unknown callout defer 451 4.4.0");
}

#[tokio::test(start_paused = true)]
async fn row_14_a_destination_that_cannot_be_asked_defers_and_nothing_is_kept() {
    let bench = Bench::new();
    bench.says(unreachable());
    let decision = bench.ask(ANNA).await;
    assert_eq!(short(&decision), "14 unknown callout defer 451 4.4.1");
    assert!(decision.reason.contains(DESTINATION) && !decision.answer.text.contains("mail1"));
    let alerts = || bench.alerts.0.lock().unwrap().clone();
    assert_eq!((alerts()[0].kind, alerts()[0].domain.as_str()), (AlertKind::Unreachable, "one.example"));
    assert!(alerts()[0].detail.contains(DESTINATION), "{:?}", alerts());
    bench.pass(9 * MINUTE);
    bench.ask(ANNA).await;
    assert_eq!(alerts().len(), 1, "the same is not told again at once");
    bench.pass(MINUTE);
    bench.ask(ANNA).await;
    assert_eq!(alerts().len(), 2);
    bench.says(accepted());
    assert_eq!(short(&bench.ask(ANNA).await), "10 valid callout accept", "no hold-down: the breaker is the host's");
}

#[tokio::test(start_paused = true)]
async fn row_14_where_this_node_can_make_no_connection_nobody_is_told_that_the_destination_is_away() {
    let bench = Bench::new();
    let failure = Failure::OutOfResources("Too many open files".into());
    bench.says(Outcome::Unreachable(vec![HostFailure { host: DESTINATION.into(), failure, reply: None }]));
    assert_eq!(short(&bench.ask(ANNA).await), "14 unknown callout defer 451 4.4.1");
    assert_eq!(bench.alerts.0.lock().unwrap().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn row_15_a_null_mx_rejects_with_556() {
    let bench = Bench::new();
    bench.says(Outcome::NullMx);
    assert_eq!(short(&bench.ask(ANNA).await), "15 invalid callout reject 556 5.1.10");
    assert_eq!(short(&bench.ask("ben@one.example").await), "15 invalid cache reject 556 5.1.10");
    assert_eq!(bench.callouts(), 1);
    // The DNS may have said it five minutes before.
    bench.pass(115 * MINUTE);
    bench.says(accepted());
    assert_eq!(short(&bench.ask(ANNA).await), "10 valid callout accept");
}

#[tokio::test(start_paused = true)]
async fn row_16_too_late_defers_and_the_flight_goes_on_and_is_kept() {
    let bench = Bench::new();
    bench.acts([Act::Wait(rejected())]);
    let began = tokio::time::Instant::now();
    assert_eq!(short(&bench.ask(ANNA).await), "16 unknown callout defer 451 4.4.1");
    assert_eq!(began.elapsed(), Duration::from_secs(30));
    bench.script.go.notify_one();
    bench.settle().await;
    assert_eq!(short(&bench.ask(ANNA).await), "8 invalid cache reject 550 5.1.1");
    assert_eq!(bench.callouts(), 1);
}

#[tokio::test(start_paused = true)]
async fn row_16_too_many_flights_defer() {
    let settings = Settings { flights: 1, deadline: Duration::from_secs(1), ..Settings::default() };
    let bench = Bench::with(domain(Policy::default()), settings);
    bench.acts([Act::Never]);
    assert_eq!(short(&bench.ask(ANNA).await), "16 unknown callout defer 451 4.4.1");
    assert_eq!(short(&bench.ask("ben@one.example").await), "16 unknown callout defer 451 4.4.5");

    let bench = Bench::with(domain(Policy::default()), settings);
    bench.says(accepted());
    for name in ["anna", "ben", "carol"] {
        let decision = bench.ask(&format!("{name}@one.example")).await;
        assert_eq!(short(&decision), "10 valid callout accept", "one that is over makes room");
    }
}

#[tokio::test(start_paused = true)]
async fn row_16_a_client_that_guesses_is_answered_by_a_stale_valid() {
    for tempfail in [AcceptOrDefer::Defer, AcceptOrDefer::Accept] {
        let bench = Bench::policy(|policy| policy.tempfail = tempfail);
        bench.says(accepted());
        bench.ask(ANNA).await;
        bench.pass(96 * HOUR);
        bench.says(rejected());
        let ask = async |recipient: &str| {
            let client = "192.0.2.9".parse().ok();
            bench.engine.decide(Question { client, ..Question::new(recipient.as_bytes(), Listener::Policy) }).await
        };
        for n in 0..21 {
            assert_eq!(ask(&format!("guess{n}@one.example")).await.row, 11);
        }
        assert_eq!(short(&ask(ANNA).await), "16 unknown policy accept", "it was one 4 days ago");
        assert_eq!(short(&ask("new@one.example").await), "16 unknown policy defer 451 4.7.1", "whatever tempfail says");
    }
}

#[tokio::test(start_paused = true)]
async fn row_16_a_client_that_guesses_gets_no_callouts_and_known_recipients_as_always() {
    let bench = Bench::new();
    bench.says(accepted());
    bench.ask(ANNA).await;
    bench.says(rejected());
    let ask = async |recipient: String, client: &str| {
        let question =
            Question { client: client.parse().ok(), ..Question::new(recipient.as_bytes(), Listener::Policy) };
        let decision = bench.engine.decide(question).await;
        bench.settle().await;
        decision
    };
    for n in 0..21 {
        assert_eq!(ask(format!("guess{n}@one.example"), "192.0.2.9").await.row, 11);
    }
    let asked = bench.callouts();
    assert_eq!(short(&ask("new@one.example".into(), "192.0.2.9").await), "16 unknown policy defer 451 4.7.1");
    assert_eq!(short(&ask(ANNA.into(), "192.0.2.9").await), "7 valid cache accept");
    assert_eq!(short(&ask("guess3@one.example".into(), "192.0.2.9").await), "8 invalid cache reject 550 5.1.1");
    assert_eq!(bench.callouts(), asked);
    assert_eq!(ask("new@one.example".into(), "192.0.2.10").await.row, 11, "others are asked for");
    for n in 0..21 {
        assert_eq!(ask(format!("guess{n}@one.example"), "192.0.2.11").await.row, 8);
    }
    let guessing = ask("newest@one.example".into(), "192.0.2.11").await;
    assert_eq!(short(&guessing), "16 unknown policy defer 451 4.7.1", "guesses that the cache answers are guesses");
    bench.pass(11 * MINUTE);
    assert_eq!(ask("newer@one.example".into(), "192.0.2.9").await.row, 11, "and so is it, after the window");
}

#[tokio::test(start_paused = true)]
async fn in_observe_mode_every_row_accepts_and_tells_what_would_have_been() {
    for (outcome, row, would) in [
        (rejected(), 11, "550 5.1.1"),
        (deferred(), 12, "451 4.4.0"),
        (unreachable(), 14, "451 4.4.1"),
        (Outcome::NullMx, 15, "556 5.1.10"),
        (Outcome::Busy, 16, "451 4.4.5"),
    ] {
        let mut domain = domain(Policy { callouts: Callouts::Observe, ..Policy::default() });
        domain.invalid = HashSet::from(["old-list".to_owned()]);
        let bench = Bench::with(domain, Settings::default());
        bench.says(outcome);
        let decision = bench.ask(ANNA).await;
        assert_eq!((decision.row, decision.answer.action.as_str()), (row, "accept"));
        assert!(decision.would.unwrap().reply().starts_with(would));
        let listed = bench.ask("old-list@one.example").await;
        assert_eq!((listed.row, listed.answer.action.as_str()), (3, "accept"));
    }
    for outcome in [accepted(), accepts_all(), null_sender_refused()] {
        let bench = Bench::policy(|policy| policy.callouts = Callouts::Observe);
        bench.says(outcome);
        let decision = bench.ask(ANNA).await;
        assert!(decision.would.is_none() && decision.answer.action.as_str() == "accept");
    }
    let bench = Bench::policy(|policy| policy.callouts = Callouts::Observe);
    bench.says(rejected());
    bench.ask(ANNA).await;
    let kept = bench.ask(ANNA).await;
    assert_eq!((kept.row, kept.verdict, kept.answer.action.as_str()), (8, Some(Verdict::Invalid), "accept"));
}

#[tokio::test(start_paused = true)]
async fn the_longest_match_wins_and_local_parts_are_folded_where_that_is_configured() {
    let named = |name: &str, fold| callahead_engine::DomainConfig {
        name: name.into(),
        ..domain(Policy { fold_local_part: fold, callouts: Callouts::Enforce, ..Policy::default() })
    };
    let directory =
        Directory::new([named("*.example", false), named("*.one.example", true), named("a.one.example", false)])
            .unwrap();
    let find = |name: &str| directory.find(&name.parse().unwrap()).map(|domain| domain.name.clone());
    assert_eq!(find("a.one.example").unwrap(), "a.one.example");
    assert_eq!(find("b.one.example").unwrap(), "*.one.example");
    assert_eq!(find("x.b.one.example").unwrap(), "*.one.example");
    assert_eq!(find("one.example").unwrap(), "*.example");
    assert_eq!(find("example"), None, "a wildcard covers subdomains");
    assert!(Directory::new([named("one.example", false), named("one.example", true)]).is_err());

    let bench = Bench::policy(|policy| policy.fold_local_part = true);
    bench.says(accepted());
    bench.ask("Anna@one.example").await;
    assert_eq!(short(&bench.ask("aNNa@ONE.example").await), "7 valid cache accept");
    let bench = Bench::new();
    bench.says(accepted());
    bench.ask("Anna@one.example").await;
    assert_eq!(short(&bench.ask("anna@one.example").await), "10 valid callout accept", "they are not, by default");
}
