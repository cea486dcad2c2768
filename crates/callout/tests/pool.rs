//! Sessions: how many, how long, and what is learned of hosts; routes by MX; TLS.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use callahead_callout::{
    Ask as _, DnsResolver, Failure, Guard, GuardedResolver, MxAnswer, Outcome, Request, Resolve as _, ResolveError,
    Settings, TlsClient, TlsPolicy,
};
use callahead_smtp::{Domain, DomainName};
use callahead_testbed::dns::{DnsServer, Zone};
use callahead_testbed::tls::TestCa;
use callahead_testbed::{Fault, Place, Script, Step, Tls};
use common::*;
use rustix::io::Errno;

fn normal() -> Script {
    Script::with_mailboxes(["anna@one.example"])
}

#[tokio::test(start_paused = true)]
async fn sessions_are_used_again_within_their_limits() {
    let (bench, destination) = Bench::one(Script::accept_all());
    for n in 0..400 {
        bench.ask(&format!("user{n}@one.example")).await;
    }
    assert_eq!(destination.record().connections, 8, "50 questions in a session: 0.02 connections a verdict");
    let (bench, destination) = Bench::one(normal());
    for n in 0..400 {
        assert_eq!(kind(&bench.ask(&format!("user{n}@one.example")).await.outcome), "rejected");
    }
    assert_eq!(destination.record().connections, 50, "8 refused recipients in a session: 0.125 connections a verdict");
    bench.end().await;
    destination.assert_polite();
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_ends_by_quit_after_five_seconds() {
    let (bench, destination) = Bench::one(normal());
    bench.ask("anna@one.example").await;
    tokio::time::sleep(Duration::from_millis(4900)).await;
    assert_eq!(destination.record().sessions[0].commands.last().unwrap(), "RCPT TO:<anna@one.example>");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(destination.record().sessions[0].commands.last().unwrap(), "QUIT");
    destination.assert_polite();
    assert_eq!(bench.callouts.totals().sessions, 0);
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_ends_sessions_early_is_learned() {
    for script in
        [Script { drop_after_uses: Some(5), ..Script::accept_all() }, Script { drop_after_errors: Some(4), ..normal() }]
    {
        let (bench, destination) = Bench::one(script);
        for n in 0..60 {
            let report = bench.ask(&format!("user{n}@one.example")).await;
            assert!(matches!(report.outcome, Outcome::Accepted(_) | Outcome::Rejected(_)), "{}", dialogue(&report));
        }
        let learned = bench.callouts.destinations()[0].learned_uses.unwrap();
        assert!(learned < 6, "{learned}");
        let ended_by_it = destination.record().sessions.iter().filter(|s| s.commands.last().unwrap() != "QUIT").count();
        assert!(ended_by_it <= 4, "after the first time it is seldom tried: {ended_by_it}");
        assert_eq!(bench.callouts.destinations()[0].failures, 0, "that is no failure of the host");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_while_it_is_idle_tells_of_a_limit_only_where_it_ends_at_once() {
    for (idle, learned) in [(Duration::from_millis(500), Some(2)), (Duration::from_secs(2), None)] {
        let (bench, destination) = Bench::one(Script { idle: Some(idle), ..Script::accept_all() });
        for n in 0..3 {
            bench.ask(&format!("user{n}@one.example")).await;
        }
        // In the first case this is within a second of the last question, and in the other it is not.
        tokio::time::sleep(idle + Duration::from_millis(100)).await;
        assert_eq!(kind(&bench.ask("anna@one.example").await.outcome), "accepted");
        let status = bench.callouts.destinations().remove(0);
        assert_eq!((status.learned_uses, status.failures), (learned, 0));
        assert_eq!(destination.record().connections, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_learned_limit_is_tried_again_by_one_after_ten_sessions_that_ended_in_peace() {
    let bench = Bench::new(Settings { uses: 6, ..settings() });
    let destination = bench.server(1, Script { drop_after_uses: Some(4), ..Script::accept_all() });
    let ask = async |questions: u32| {
        for n in 0..questions {
            assert_eq!(kind(&bench.ask(&format!("user{n}@one.example")).await.outcome), "accepted");
        }
        bench.callouts.destinations().remove(0).learned_uses
    };
    assert_eq!(ask(5).await, Some(3));
    destination.script().drop_after_uses = None;
    // The one session that is open has had one question.
    assert_eq!(ask(2 + 3 * 8).await, Some(3));
    assert_eq!(ask(3).await, Some(4), "the tenth ended");
    assert_eq!(ask(4 * 10 - 1).await, Some(4));
    assert_eq!(ask(1).await, Some(5));
    assert_eq!(ask(5 * 10).await, None, "that is the limit of the settings");
}

#[tokio::test(start_paused = true)]
async fn a_session_from_before_a_clear_ends_with_its_question_and_later_ones_are_used_again() {
    let (bench, destination) = Bench::one(Script { reply_delay: Duration::from_secs(1), ..Script::accept_all() });
    let asked = bench.asks(1, "anna", false);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    bench.callouts.ask_anew(None);
    assert_eq!(kind(&asked.await.unwrap().outcome), "accepted");
    for n in 0..3 {
        bench.asks(1, &format!("user{n}"), false).await.unwrap();
    }
    assert_eq!(destination.record().connections, 2);
}

#[tokio::test(start_paused = true)]
async fn a_host_whose_tls_fails_is_asked_in_clear_for_five_minutes() {
    let (bench, destination) = Bench::one(Script { tls: Tls::GarbageAfter220, ..Script::accept_all() });
    let connections = async || {
        assert_eq!(kind(&bench.ask("anna@one.example").await.outcome), "accepted");
        destination.record().connections
    };
    assert_eq!(connections().await, 2);
    // Idle for too long, the session ends.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(connections().await, 3, "TLS is not tried");
    tokio::time::sleep(Duration::from_secs(287)).await;
    assert_eq!(connections().await, 4);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(connections().await, 6, "it is tried again");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_in_clear_where_tls_was_offered_says_nothing_and_tls_is_tried_again() {
    let ca = TestCa::new();
    let wants_tls = |reply: &str| Script { refuses_in_clear: Some(reply.into()), ..normal() };
    for script in [
        wants_tls("550 encryption is needed"),
        wants_tls("550 5.7.10 encryption is needed"),
        wants_tls("530 5.7.0 Must issue a STARTTLS command first"),
        Script { null_sender_reply: Some("554 5.7.0 not in clear".into()), ..normal() },
    ] {
        let (bench, destination) = Bench::one(Script { tls: Tls::CloseAfter220, ..script });
        // An existing mailbox, a missing one, and with the random local part in front.
        for (recipient, probe) in [("anna", false), ("carol", false), ("anna", true)] {
            let recipient = format!("{recipient}@one.example");
            let route = route(&["10.0.0.1"], TlsPolicy::Opportunistic);
            let report = bench.ask_route(&recipient, &route, probe).await;
            assert_eq!(kind(&report.outcome), "unreachable", "{}", dialogue(&report));
            assert!(report.outcome.reply().is_some(), "what it said is told");
            let status = bench.callouts.destinations().remove(0);
            assert_eq!(status.open_for, None, "it answers");
        }
        // The handshake failed for a moment only. It is tried again after a minute.
        tokio::time::sleep(Duration::from_secs(61)).await;
        destination.script().null_sender_reply = Some("554 5.7.0 not in clear".into());
        assert_eq!(kind(&bench.ask("anna@one.example").await.outcome), "unreachable");
        destination.script().tls = Tls::Certificate(ca.server("mail.one.example"));
        destination.script().null_sender_reply = None;
        let report = bench.ask("anna@one.example").await;
        assert_eq!(kind(&report.outcome), "accepted", "{}", dialogue(&report));
        assert!(destination.record().sessions.last().unwrap().tls);
    }
    // Words that say what is wrong with the mailbox count, and so do any where the route is in clear, or nothing else was offered.
    let bare = || Script { rcpt_replies: [("carol@one.example".into(), "550 no".into())].into(), ..normal() };
    for (script, policy) in [
        (Script { tls: Tls::CloseAfter220, ..normal() }, TlsPolicy::Opportunistic),
        (Script { tls: Tls::CloseAfter220, ..bare() }, TlsPolicy::Off),
        (bare(), TlsPolicy::Opportunistic),
    ] {
        let (bench, _) = Bench::one(script);
        let report = bench.ask_route("carol@one.example", &route(&["10.0.0.1"], policy), false).await;
        assert_eq!(kind(&report.outcome), "rejected", "{}", dialogue(&report));
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_host_refuses_in_clear_counts_once_it_has_accepted_somebody_in_clear() {
    let script = Script {
        tls: Tls::CloseAfter220,
        rcpt_replies: [("carol@one.example".into(), "550 no".into())].into(),
        ..normal()
    };
    let (bench, destination) = Bench::one(script);
    assert_eq!(kind(&bench.ask("carol@one.example").await.outcome), "unreachable");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let report = bench.ask("anna@one.example").await;
    assert_eq!(kind(&report.outcome), "accepted", "{}", dialogue(&report));
    let connections = destination.record().connections;
    for _ in 0..5 {
        let report = bench.ask("carol@one.example").await;
        assert_eq!(kind(&report.outcome), "rejected", "{}", dialogue(&report));
    }
    // One more since the first refusal in a session that was used before is asked again.
    assert_eq!(destination.record().connections, connections + 1, "and TLS is not tried with each of them");
    // It may want encryption by now.
    tokio::time::sleep(Duration::from_secs(3601)).await;
    assert_eq!(kind(&bench.ask("carol@one.example").await.outcome), "unreachable");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_in_clear_has_tls_tried_again_once_a_minute_only() {
    let script = Script { tls: Tls::CloseAfter220, refuses_in_clear: Some("550 no".into()), ..normal() };
    let (bench, destination) = Bench::one(script);
    for _ in 0..20 {
        let report = bench.ask("carol@one.example").await;
        assert_eq!(kind(&report.outcome), "unreachable", "{}", dialogue(&report));
    }
    // Two for each handshake that fails.
    assert_eq!(destination.record().connections, 20 + 2);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_swallows_packets_is_left_alone_however_short_its_connect_timeout() {
    let bench = Bench::new(Settings { connect_timeout: Duration::from_secs(2), ..settings() });
    bench.net.set(address(1), Place::BlackHole);
    for _ in 0..bench_failures() {
        assert_eq!(kind(&bench.ask("anna@one.example").await.outcome), "unreachable");
    }
    assert!(bench.callouts.destinations().remove(0).open_for.is_some());
    // One that has hung up on commands, with so little time that half of it is less than what is fair.
    let bench = Bench::new(Settings { timeout: Duration::from_secs(8), ..settings() });
    bench.server(1, normal().fault(Step::Rcpt, Fault::Hang));
    for _ in 0..bench_failures() {
        assert_eq!(kind(&bench.ask("anna@one.example").await.outcome), "unreachable");
    }
    assert!(bench.callouts.destinations().remove(0).open_for.is_some());
}

fn bench_failures() -> u32 {
    settings().breaker_failures
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_opening_began_before_a_clear_is_not_used_after_it() {
    let ca = TestCa::new();
    for tls in [Tls::None, Tls::Certificate(ca.server("mail.one.example"))] {
        let (bench, destination) =
            Bench::one(Script { tls, reply_delay: Duration::from_secs(1), ..Script::accept_all() });
        let asked = bench.ask("anna@one.example");
        let clears = async {
            // The greeting has not come yet.
            tokio::time::sleep(Duration::from_millis(500)).await;
            bench.callouts.ask_anew(None);
        };
        let (report, ()) = tokio::join!(asked, clears);
        assert_eq!(kind(&report.outcome), "accepted", "{}", dialogue(&report));
        bench.ask("anna@one.example").await;
        assert_eq!(destination.record().connections, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_clear_of_one_domain_leaves_the_sessions_with_the_hosts_of_others() {
    let bench = Bench::new(settings());
    let destinations = [1, 2].map(|n| bench.server(n, Script::accept_all()));
    let routes = [route(&["10.0.0.1"], TlsPolicy::Opportunistic), route(&["mx"], TlsPolicy::Opportunistic)];
    let host = DomainName::parse("mx.two.example").unwrap();
    bench.names.mx.lock().unwrap().insert("two.example".into(), Ok(MxAnswer::Hosts(vec![(10, host)])));
    bench.names.hosts.lock().unwrap().insert("mx.two.example".into(), vec![address(2).ip()]);
    let ask_both = async || {
        // Sessions that are opened in the moment of a clear are not used again.
        tokio::time::sleep(Duration::from_millis(1)).await;
        for (domain, route) in ["one.example", "two.example"].iter().zip(&routes) {
            assert_eq!(kind(&bench.ask_route(&format!("anna@{domain}"), route, false).await.outcome), "accepted");
        }
        destinations.each_ref().map(|destination| destination.record().connections)
    };
    let domain = |name: &str| callahead_smtp::Domain::parse(name).unwrap();
    assert_eq!(ask_both().await, [1, 1]);
    bench.callouts.ask_anew(Some((&domain("one.example"), &routes[0])));
    assert_eq!(ask_both().await, [2, 1]);
    bench.callouts.ask_anew(Some((&domain("two.example"), &routes[1])));
    assert_eq!(ask_both().await, [2, 2]);
    // Whose MX was never looked up may be asked for at any host.
    bench.callouts.ask_anew(Some((&domain("three.example"), &routes[1])));
    assert_eq!(ask_both().await, [3, 3]);
}

#[tokio::test(start_paused = true)]
async fn background_work_gives_way_to_whoever_waits_and_where_no_session_is_left() {
    for (asking, may) in [(19, true), (20, false), (21, false)] {
        let (bench, _) = Bench::one(Script { reply_delay: Duration::from_secs(1), ..Script::accept_all() });
        let foreground: Vec<_> = (0..asking).map(|n| bench.asks(1, &format!("user{n}"), false)).collect();
        tokio::time::sleep(Duration::from_millis(1)).await;
        for _ in 0..3 {
            let outcome = bench.asks(1, "other", true).await.unwrap().outcome;
            assert_eq!(kind(&outcome), if may { "accepted" } else { "busy" }, "{asking}");
        }
        for asked in foreground {
            assert_eq!(kind(&asked.await.unwrap().outcome), "accepted");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn at_most_twenty_sessions_and_the_rest_waits_in_order() {
    let (bench, destination) = Bench::one(Script { reply_delay: Duration::from_millis(100), ..Script::accept_all() });
    let waiting: Vec<_> = (0..200).map(|n| bench.asks(1, &format!("user{n}"), false)).collect();
    for asked in waiting {
        assert_eq!(kind(&asked.await.unwrap().outcome), "accepted");
    }
    assert_eq!(destination.record().most_at_once, 20);
    bench.end().await;
    destination.assert_polite();
}

#[tokio::test(start_paused = true)]
async fn who_needs_a_new_session_waits_for_one_and_is_handed_no_used_one() {
    let bench = Bench::new(Settings { sessions_per_destination: 2, ..settings() });
    let script = Script { reply_delay: Duration::from_millis(100), ..normal() }.fault(Step::Quit, Fault::Hang);
    let destination = bench.server(1, script);
    destination.add_mailbox("ben@one.example");
    for asked in [bench.asks(1, "ben", false), bench.asks(1, "ben", false)] {
        asked.await.unwrap();
    }
    destination.script().rcpt_replies.insert("anna@one.example".into(), "571 you ask too much".into());
    let anna = bench.asks(1, "anna", false);
    tokio::time::sleep(Duration::from_millis(50)).await;
    destination.script().rcpt_replies.clear();
    // This one comes back while the session is ending in which anna was refused.
    let others: Vec<_> = (0..3).map(|_| bench.asks(1, "ben", false)).collect();
    let report = anna.await.unwrap();
    assert_eq!(kind(&report.outcome), "accepted", "{}", dialogue(&report));
    assert!(report.elapsed < Duration::from_secs(3), "{}", dialogue(&report));
    let asked: Vec<_> = destination.record().sessions[2].commands.clone();
    assert_eq!(asked[1..3], ["MAIL FROM:<>", "RCPT TO:<anna@one.example>"]);
    for other in others {
        assert_eq!(kind(&other.await.unwrap().outcome), "accepted");
    }
    assert_eq!((destination.record().connections, destination.record().most_at_once), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_makes_room_for_who_can_not_use_it() {
    let bench = Bench::new(Settings { sessions_per_destination: 1, uses: 2, ..settings() });
    let destination = bench.server(1, normal());
    let route = route(&["10.0.0.1"], TlsPolicy::Off);
    assert_eq!(kind(&bench.ask_route("anna@one.example", &route, false).await.outcome), "accepted");
    // Two recipients with the random one, and the session has room for one.
    let report = bench.ask_route("anna@one.example", &route, true).await;
    assert_eq!(kind(&report.outcome), "accepted");
    assert!(report.elapsed < Duration::from_secs(1), "{}", dialogue(&report));
    assert_eq!(destination.record().connections, 2);
}

#[tokio::test(start_paused = true)]
async fn row_16_when_too_many_wait_the_rest_is_told_so() {
    let bench = Bench::new(Settings { sessions_per_destination: 2, queue_per_destination: 3, ..settings() });
    bench.server(1, Script::accept_all().fault(Step::Rcpt, Fault::Hang));
    let asked: Vec<_> = (0..10).map(|n| bench.asks(1, &format!("user{n}"), false)).collect();
    let mut busy = 0;
    for asked in asked {
        busy += usize::from(asked.await.unwrap().outcome == Outcome::Busy);
    }
    assert!(busy >= 5, "two asked, three waited: {busy}");
}

#[tokio::test(start_paused = true)]
async fn background_work_takes_a_tenth_and_waits_for_nothing() {
    let (bench, _) = Bench::one(Script { reply_delay: Duration::from_millis(100), ..Script::accept_all() });
    let asked: Vec<_> = (0..10).map(|n| bench.asks(1, &format!("user{n}"), true)).collect();
    let mut accepted = 0;
    for asked in asked {
        accepted += usize::from(kind(&asked.await.unwrap().outcome) == "accepted");
    }
    assert_eq!(accepted, 2);
}

#[tokio::test(start_paused = true)]
async fn three_failures_open_the_circuit_and_one_question_sees_whether_it_is_back() {
    let bench = Bench::new(settings());
    bench.net.set(address(1), Place::Refused);
    for _ in 0..3 {
        bench.ask("anna@one.example").await;
    }
    let dialled = bench.net.dials().len();
    let report = bench.ask("anna@one.example").await;
    let Outcome::Unreachable(hosts) = &report.outcome else { panic!("{:?}", report.outcome) };
    assert!(matches!(hosts[0].failure, Failure::CircuitOpen(_)));
    assert_eq!(bench.net.dials().len(), dialled, "an open circuit dials nobody");
    bench.server(1, normal());
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(kind(&bench.ask("anna@one.example").await.outcome), "accepted");
    assert_eq!(bench.callouts.destinations()[0].open_for, None);
}

#[tokio::test(start_paused = true)]
async fn what_this_node_lacks_is_no_failure_of_the_host() {
    let bench = Bench::new(settings());
    for error in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
        bench.net.set(address(1), Place::Fails(error.raw_os_error()));
        let outcome = bench.ask("anna@one.example").await.outcome;
        let Outcome::Unreachable(hosts) = &outcome else { panic!("{outcome:?}") };
        assert!(matches!(hosts[0].failure, Failure::OutOfResources(_)), "{hosts:?}");
    }
    let status = bench.callouts.destinations().remove(0);
    assert_eq!((status.failures, status.open_for, status.last_failure), (0, None, None));
    bench.net.set(address(1), Place::Fails(Errno::NETUNREACH.raw_os_error()));
    let outcome = bench.ask("anna@one.example").await.outcome;
    assert!(matches!(&outcome, Outcome::Unreachable(hosts) if matches!(hosts[0].failure, Failure::ConnectFailed(_))));
    assert_eq!(bench.callouts.destinations()[0].failures, 1);
}

#[tokio::test(start_paused = true)]
async fn who_was_to_see_whether_a_host_is_back_and_does_not_find_out_leaves_it_to_the_next() {
    let bench = Bench::new(settings());
    mx(&bench, &[(10, "mail.example", 1)]);
    bench.net.set(address(1), Place::Refused);
    let ask = async || bench.ask_route("anna@one.example", &route(&["mx"], TlsPolicy::Off), false).await.outcome;
    for _ in 0..3 {
        ask().await;
    }
    let status = || bench.callouts.destinations().remove(0);
    assert_eq!(status().open_for, Some(Duration::from_secs(1)));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    bench.server(1, normal());
    let known = bench.names.hosts.lock().unwrap().remove("mail.example").unwrap();
    let outcome = ask().await;
    assert!(
        matches!(&outcome, Outcome::Unreachable(hosts) if matches!(hosts[0].failure, Failure::Resolve(_))),
        "{outcome:?}"
    );
    assert_eq!(status().failures, 3, "that the DNS failed is no failure of the host");
    bench.names.hosts.lock().unwrap().insert("mail.example".into(), known);
    assert_eq!(kind(&ask().await), "accepted");
    assert_eq!(status().open_for, None);
}

#[tokio::test(start_paused = true)]
async fn while_there_is_another_host_or_address_each_has_half_of_the_time_that_is_left() {
    let bench = Bench::new(Settings { timeout: Duration::from_secs(40), ..settings() });
    mx(&bench, &[(10, "first.example", 1), (20, "second.example", 2)]);
    for n in 1..=3 {
        bench.server(n, normal().fault(Step::Greeting, Fault::Hang));
    }
    bench.names.hosts.lock().unwrap().insert("both.example".into(), vec![address(1).ip(), address(2).ip()]);
    // 36 s in all: some is left for the one who asked.
    for (hops, times) in [
        (&["10.0.0.1"][..], &[0][..]),
        (&["mx"], &[0, 18]),
        (&["mx", "10.0.0.3"], &[0, 18, 27]),
        (&["10.0.0.3", "mx"], &[0, 18, 27]),
        (&["both.example"], &[0, 18]),
        (&["both.example", "10.0.0.3"], &[0, 9, 18]),
    ] {
        let report = bench.ask_route("anna@one.example", &route(hops, TlsPolicy::Off), false).await;
        let connected = report.transcript.lines().filter(|line| line.line.starts_with(b"connected to"));
        assert_eq!(connected.map(|line| line.at.as_secs()).collect::<Vec<_>>(), times, "{}", dialogue(&report));
        assert_eq!(report.elapsed.as_secs(), 36);
        tokio::time::sleep(Duration::from_secs(400)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_swallows_packets_has_no_more_than_its_connect_timeout() {
    let bench = Bench::new(Settings { connect_timeout: Duration::from_secs(2), ..settings() });
    bench.net.set(address(1), Place::BlackHole);
    bench.server(2, normal());
    let hops = route(&["10.0.0.1", "10.0.0.2"], TlsPolicy::Off);
    let report = bench.ask_route("anna@one.example", &hops, false).await;
    assert_eq!((kind(&report.outcome), report.elapsed.as_secs()), ("accepted", 2), "{}", dialogue(&report));
}

#[tokio::test(start_paused = true)]
async fn so_many_hosts_of_an_mx_and_addresses_of_a_host_are_tried_and_no_more() {
    let bench = Bench::new(settings());
    let names: Vec<String> = (1..=9).map(|n| format!("mx{n}.example")).collect();
    let hosts: Vec<_> = (1..=9).zip(&names).map(|(n, name)| (u16::from(n), name.as_str(), n)).collect();
    mx(&bench, &hosts);
    let addresses: Vec<_> = (1..=9).map(address).collect();
    for address in &addresses {
        bench.net.set(*address, Place::Refused);
    }
    let report = bench.ask_route("anna@one.example", &route(&["mx"], TlsPolicy::Off), false).await;
    assert_eq!((kind(&report.outcome), bench.net.dials()), ("unreachable", addresses[..8].to_vec()));

    let bench = Bench::new(settings());
    let five = addresses[..5].iter().map(|address| address.ip()).collect();
    bench.names.hosts.lock().unwrap().insert("five.example".into(), five);
    let report = bench.ask_route("anna@one.example", &route(&["five.example"], TlsPolicy::Off), false).await;
    assert_eq!((kind(&report.outcome), bench.net.dials()), ("unreachable", addresses[..4].to_vec()));
}

#[tokio::test(start_paused = true)]
async fn a_host_with_many_ipv6_addresses_is_asked_by_ipv4_where_there_is_no_way_to_them() {
    let bench = Bench::new(settings());
    let mut all: Vec<std::net::IpAddr> = (1..=4_u16).map(|n| [0x2001, 0xdb8, 0, 0, 0, 0, 0, n].into()).collect();
    for ip in &all {
        bench.net.set((*ip, 25).into(), Place::BlackHole);
    }
    all.push(address(1).ip());
    bench.names.hosts.lock().unwrap().insert("many.example".into(), all);
    bench.server(1, normal());
    let report = bench.ask_route("anna@one.example", &route(&["many.example"], TlsPolicy::Off), false).await;
    assert_eq!(kind(&report.outcome), "accepted", "{}", dialogue(&report));
}

#[tokio::test(start_paused = true)]
async fn a_question_that_comes_late_to_its_session_is_not_held_against_the_host() {
    let bench = Bench::new(Settings { sessions_per_destination: 1, ..settings() });
    bench.server(1, Script { reply_delay: Duration::from_millis(6500), ..Script::accept_all() });
    // Greeting, EHLO and the rest take 19.5 s of 27; who waits has half of the 7.5 s that are left, and then hardly 2 s for a new session.
    let asked = [bench.asks(1, "anna", false), bench.asks(1, "ben", false), bench.asks(1, "carol", false)];
    let mut kinds = Vec::new();
    for asked in asked {
        kinds.push(kind(&asked.await.unwrap().outcome));
    }
    assert_eq!(kinds[0], "accepted");
    assert!(kinds[1..].iter().all(|kind| matches!(*kind, "unreachable" | "busy")), "{kinds:?}");
    let status = bench.callouts.destinations().remove(0);
    assert_eq!((status.failures, status.learned_uses), (0, None));
    // With the whole time for it, silence is a failure.
    let bench = Bench::new(settings());
    bench.server(1, normal().fault(Step::Greeting, Fault::Hang));
    assert_eq!(kind(&bench.ask("anna@one.example").await.outcome), "unreachable");
    assert_eq!(bench.callouts.destinations()[0].failures, 1);
}

#[tokio::test(start_paused = true)]
async fn once_the_time_is_over_no_other_host_is_tried() {
    let bench = Bench::new(settings());
    for n in 1..=6 {
        bench.server(n, normal().fault(Step::Ehlo, Fault::SlowBytes(Duration::from_secs(20))));
    }
    let hops = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"];
    let report = bench.ask_route("anna@one.example", &route(&hops, TlsPolicy::Off), false).await;
    // Each has half of what is left, and 2 s for QUIT: 27 s are over with the third.
    assert_eq!(bench.net.dials().len(), 3, "{}", dialogue(&report));
    let Outcome::Unreachable(hosts) = &report.outcome else { panic!("{:?}", report.outcome) };
    assert_eq!(hosts.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_host_without_pipelining_has_the_whole_time_for_its_answer() {
    let late = |script: Script| Script { reply_delay: Duration::from_secs(6), ..script };
    let (bench, destination) = Bench::one(late(normal().without("PIPELINING")));
    // Greeting, EHLO, MAIL and RCPT: 24 s of 27.
    assert_eq!(kind(&bench.ask("anna@one.example").await.outcome), "accepted");
    assert_eq!(destination.record().connections, 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_session_that_breaks_is_a_failure_and_one_that_was_used_before_is_tried_again_once() {
    let (bench, destination) = Bench::one(normal());
    *destination.script() = normal().fault(Step::Rcpt, Fault::CloseAfter(0));
    assert_eq!(kind(&bench.ask("anna@one.example").await.outcome), "unreachable");
    assert_eq!(destination.record().connections, 1, "nothing speaks for another try");
    assert_eq!(bench.callouts.destinations()[0].failures, 1);

    let (bench, destination) = Bench::one(normal());
    assert_eq!(kind(&bench.ask("anna@one.example").await.outcome), "accepted");
    *destination.script() = normal().fault(Step::Rcpt, Fault::CloseAfter(0));
    assert_eq!(kind(&bench.ask("anna@one.example").await.outcome), "unreachable");
    assert_eq!(destination.record().connections, 2, "one more, and no other");
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_given_the_nodes_next_session_where_another_host_had_one_first() {
    let bench = Bench::new(Settings { sessions: 2, sessions_per_destination: 1, idle: Duration::ZERO, ..settings() });
    // The first host ends its session when it has answered; the others take their time.
    let slow = |seconds| Script { reply_delay: Duration::from_secs(seconds), ..Script::accept_all() };
    bench.server(1, Script { drop_after_uses: Some(1), ..slow(1) });
    bench.server(2, slow(2));
    bench.server(3, slow(2));
    let mut asked = Vec::new();
    for (n, local) in [(1, "first"), (2, "a"), (1, "waits"), (3, "b")] {
        asked.push(bench.asks(n, local, false));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for asked in asked {
        let report = asked.await.unwrap();
        assert_eq!(kind(&report.outcome), "accepted", "{}", dialogue(&report));
        assert!(report.elapsed < Duration::from_secs(20), "{}", dialogue(&report));
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_given_what_comes_back_while_another_host_has_the_nodes_last_session() {
    let bench = Bench::new(Settings { sessions: 3, sessions_per_destination: 2, uses: 2, ..settings() });
    let slow = |seconds| Script { reply_delay: Duration::from_secs(seconds), ..Script::accept_all() };
    for (n, seconds) in [(1, 1), (2, 6), (3, 6)] {
        bench.server(n, slow(seconds));
    }
    let first = route(&["10.0.0.1"], TlsPolicy::Off);
    assert_eq!(kind(&bench.ask_route("used@one.example", &first, false).await.outcome), "accepted");
    let mut asked = Vec::new();
    // One session of the first host ends with its second question, the other comes back after that; then one host has the node's third session, and
    // the last takes what the first of them leaves.
    for (n, local) in [(1, "ends"), (1, "comes.back"), (1, "waits"), (2, "a"), (3, "b")] {
        asked.push(bench.asks(n, local, false));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut took = Vec::new();
    for asked in asked {
        let report = asked.await.unwrap();
        assert_eq!(kind(&report.outcome), "accepted", "{}", dialogue(&report));
        took.push(report.elapsed.as_secs());
    }
    assert_eq!(took, [1, 3, 3, 18, 19], "who waits is answered a second after the other session came back");
}

#[test]
fn a_runtime_that_ends_while_questions_wait_for_the_node_just_ends() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let bench = Bench::new(Settings { sessions: 2, sessions_per_destination: 1, ..settings() });
        for n in 1..=2 {
            bench.server(n, Script::accept_all().fault(Step::Rcpt, Fault::Hang));
        }
        for n in [1, 2, 3, 1, 1, 2, 3] {
            bench.asks(n, "anna", false);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(bench.callouts.destinations().iter().map(|host| host.waiting).collect::<Vec<_>>(), [2, 1, 1]);
    });
    drop(runtime);
}

#[tokio::test(start_paused = true)]
async fn what_was_done_is_counted_by_host_and_in_all() {
    let bench = Bench::new(Settings { sessions_per_destination: 1, queue_per_destination: 1, ..settings() });
    bench.server(1, Script { reply_delay: Duration::from_secs(1), ..normal() });
    let asked = ["anna", "nobody", "carol"].map(|local_part| bench.asks(1, local_part, false));
    tokio::time::sleep(Duration::from_millis(1)).await;
    let status = bench.callouts.destinations().remove(0);
    assert_eq!((status.host.as_str(), status.sessions, status.idle, status.waiting), ("10.0.0.1:25", 1, 0, 1));
    let mut kinds = Vec::new();
    for asked in asked {
        kinds.push(kind(&asked.await.unwrap().outcome));
    }
    assert_eq!(kinds, ["accepted", "rejected", "busy"]);
    let status = bench.callouts.destinations().remove(0);
    assert_eq!((status.sessions, status.idle, status.waiting), (1, 1, 0));
    // The first refusal that is known of a host is that of a session's first recipient.
    assert_eq!((status.connections, status.questions, status.rejected, status.failures), (2, 2, 1, 0));
    assert_eq!(status.last_failure, None);
    let totals = bench.callouts.totals();
    assert_eq!((totals.questions, totals.busy, totals.sessions), (3, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn settings_that_change_hold_for_the_next_question() {
    let (bench, destination) = Bench::one(Script::accept_all());
    bench.callouts.reconfigure(Settings { uses: 2, ..settings() });
    for n in 0..6 {
        bench.ask(&format!("user{n}@one.example")).await;
    }
    assert_eq!(destination.record().connections, 3);
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_questions_that_are_under_way_and_no_longer_than_it_is_told() {
    for (reply_delay, takes) in [(1, 4), (8, 10)] {
        let (bench, destination) =
            Bench::one(Script { reply_delay: Duration::from_secs(reply_delay), ..Script::accept_all() });
        bench.asks(1, "anna", false);
        tokio::time::sleep(Duration::from_millis(1)).await;
        let began = tokio::time::Instant::now();
        bench.callouts.shutdown(Duration::from_secs(10)).await;
        assert_eq!(began.elapsed().as_secs(), takes);
        assert_eq!(destination.record().sessions.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_hosts_are_remembered_and_those_that_nobody_asks_make_room() {
    let bench = Bench::new(settings());
    let ask = async |n: u32| {
        let host = std::net::Ipv4Addr::from(0x0b00_0000 + n).to_string();
        bench.ask_route("anna@one.example", &route(&[&host], TlsPolicy::Off), false).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    let kept = || {
        let mut kept: Vec<String> = bench.callouts.destinations().into_iter().map(|host| host.host).collect();
        kept.sort();
        kept
    };
    // The first is left alone by its circuit breaker; with one a relay has a session, and one is asked for long.
    for _ in 0..3 {
        ask(0).await;
    }
    bench.server(1, Script::accept_all());
    bench.server(2, Script { reply_delay: Duration::from_secs(900), ..Script::accept_all() });
    let (domain, until) = (Domain::parse("one.example").unwrap(), tokio::time::Instant::now() + Duration::from_secs(9));
    let relay = bench
        .callouts
        .connect(&route(&["10.0.0.1"], TlsPolicy::Off), &domain, callahead_callout::For::default(), until)
        .await
        .unwrap();
    bench.callouts.reconfigure(Settings { timeout: Duration::from_secs(3600), ..settings() });
    bench.asks(2, "anna", false);
    for n in 1..9_998 {
        ask(n).await;
    }
    assert_eq!(kept().len(), 10_000);
    ask(10_000).await;
    let left = kept();
    assert_eq!(left.len(), 9_001, "none has been unused for long: a tenth goes, and some");
    for (host, is_left) in
        [("10.0.0.1", true), ("10.0.0.2", true), ("11.0.0.0", true), ("11.0.0.1", false), ("11.0.3.231", false)]
    {
        assert_eq!(left.contains(&format!("{host}:25")), is_left, "{host}");
    }
    assert!(left.contains(&"11.0.4.1:25".to_owned()));
    for n in 10_001..11_000 {
        ask(n).await;
    }
    assert_eq!(kept().len(), 10_000);
    tokio::time::sleep(Duration::from_secs(601)).await;
    ask(20_000).await;
    assert_eq!(kept(), ["10.0.0.1:25", "10.0.0.2:25", "11.0.0.0:25", "11.0.78.32:25"]);
    drop(relay);
}

#[tokio::test(start_paused = true)]
async fn a_refused_recipient_is_no_failure_of_the_host() {
    let (bench, _) = Bench::one(normal());
    for n in 0..20 {
        bench.ask(&format!("user{n}@one.example")).await;
    }
    assert_eq!(bench.callouts.destinations()[0].open_for, None);
}

fn mx(bench: &Bench, hosts: &[(u16, &str, u8)]) {
    let records = hosts.iter().map(|(preference, host, n)| {
        bench.names.hosts.lock().unwrap().insert((*host).into(), vec![address(*n).ip()]);
        (*preference, DomainName::parse(host).unwrap())
    });
    let records = records.collect();
    bench.names.mx.lock().unwrap().insert("one.example".into(), Ok(MxAnswer::Hosts(records)));
}

#[tokio::test(start_paused = true)]
async fn mx_hosts_are_asked_by_preference_and_this_node_is_left_out() {
    let bench = Bench::new(settings());
    mx(
        &bench,
        &[(20, "second.example", 2), (10, "first.example", 1), (30, "filter.example", 3), (40, "behind.example", 4)],
    );
    bench.net.set(address(1), Place::Refused);
    bench.net.set(address(2), Place::Refused);
    bench.server(4, normal());
    let report = bench.ask_route("anna@one.example", &route(&["mx"], TlsPolicy::Off), false).await;
    assert_eq!(kind(&report.outcome), "unreachable", "whoever is behind this node is not asked");
    assert_eq!(bench.net.dials(), [address(1), address(2)]);

    mx(&bench, &[(10, "filter.example", 3)]);
    let report = bench.ask_route("anna@one.example", &route(&["mx"], TlsPolicy::Off), false).await;
    assert!(matches!(&report.outcome, Outcome::Unreachable(hosts) if hosts[0].failure == Failure::OnlyOwnNames));

    // The resolver leaves out what is no host name.
    mx(&bench, &[]);
    let report = bench.ask_route("anna@one.example", &route(&["mx"], TlsPolicy::Off), false).await;
    assert!(matches!(&report.outcome, Outcome::Unreachable(hosts) if matches!(hosts[0].failure, Failure::Resolve(_))));
}

#[tokio::test(start_paused = true)]
async fn row_15_a_null_mx_decides_only_where_the_mx_is_all_there_is() {
    let bench = Bench::new(settings());
    bench.names.mx.lock().unwrap().insert("one.example".into(), Ok(MxAnswer::Null));
    let ask = |hops: &'static [&'static str]| bench.ask_route_owned("anna@one.example", hops);
    assert_eq!(kind(&ask(&["mx"]).await.outcome), "null mx");
    bench.server(1, normal());
    assert_eq!(kind(&ask(&["mx", "10.0.0.1"]).await.outcome), "accepted");
}

impl Bench {
    async fn ask_route_owned(&self, recipient: &str, hops: &[&str]) -> callahead_callout::Report {
        self.ask_route(recipient, &route(hops, TlsPolicy::Off), false).await
    }
}

#[tokio::test(start_paused = true)]
async fn without_an_mx_the_domain_is_its_own_and_dns_faults_say_nothing_of_recipients() {
    let bench = Bench::new(settings());
    bench.names.mx.lock().unwrap().insert("one.example".into(), Ok(MxAnswer::None));
    bench
        .names
        .hosts
        .lock()
        .unwrap()
        .insert("one.example".into(), vec!["2001:db8::1".parse().unwrap(), address(1).ip()]);
    bench.server(1, normal());
    let mx = route(&["mx"], TlsPolicy::Off);
    assert_eq!(kind(&bench.ask_route("anna@one.example", &mx, false).await.outcome), "accepted");
    for error in [
        ResolveError::NoSuchDomain("one.example".into()),
        ResolveError::Failed("one.example".into(), "SERVFAIL".into()),
    ] {
        bench.names.mx.lock().unwrap().insert("one.example".into(), Err(error));
        assert_eq!(kind(&bench.ask_route("anna@one.example", &mx, false).await.outcome), "unreachable");
        let next = route(&["mx", "10.0.0.1"], TlsPolicy::Off);
        assert_eq!(
            kind(&bench.ask_route("anna@one.example", &next, false).await.outcome),
            "accepted",
            "by the next hop"
        );
    }
    let literal = bench.ask_route("anna@[10.0.0.1]", &mx, false).await;
    assert_eq!(kind(&literal.outcome), "rejected", "a literal is its own exchanger");
}

#[tokio::test(start_paused = true)]
async fn tls_is_used_as_the_policy_says() {
    let ca = TestCa::new();
    let good = || Tls::Certificate(ca.server("mail.one.example"));
    let other = || Tls::Certificate(ca.server("elsewhere.example"));
    let unknown = || Tls::Certificate(TestCa::new().server("mail.one.example"));
    let closes = || Tls::CloseAfterHandshake(ca.server("mail.one.example"));
    use TlsPolicy::{Off, Opportunistic, Required, Verified};
    for (what, tls, policy, expected, encrypted) in [
        ("good", good(), Off, "accepted", false),
        ("good", good(), Opportunistic, "accepted", true),
        ("good", good(), Required, "accepted", true),
        ("good", good(), Verified, "accepted", true),
        ("none", Tls::None, Opportunistic, "accepted", false),
        ("none", Tls::None, Required, "unreachable", false),
        ("none", Tls::None, Verified, "unreachable", false),
        ("other name", other(), Opportunistic, "accepted", true),
        ("other name", other(), Required, "accepted", true),
        ("other name", other(), Verified, "unreachable", false),
        ("unknown authority", unknown(), Required, "accepted", true),
        ("unknown authority", unknown(), Verified, "unreachable", false),
        ("garbage", Tls::GarbageAfter220, Opportunistic, "accepted", false),
        ("garbage", Tls::GarbageAfter220, Required, "unreachable", false),
        ("close", Tls::CloseAfter220, Opportunistic, "accepted", false),
        ("close", Tls::CloseAfter220, Required, "unreachable", false),
        ("hangs", Tls::HangAfter220, Opportunistic, "accepted", false),
        ("hangs", Tls::HangAfter220, Required, "unreachable", false),
        ("closes then", closes(), Opportunistic, "accepted", false),
        ("closes then", closes(), Required, "unreachable", false),
    ] {
        let bench = Bench::with_tls(settings(), TlsClient::new(&[ca.certificate()]).unwrap());
        bench.names.hosts.lock().unwrap().insert("mail.one.example".into(), vec![address(1).ip()]);
        let destination = bench.server(1, Script { tls, ..normal() });
        let report = bench.ask_route("anna@one.example", &route(&["mail.one.example"], policy), true).await;
        assert_eq!(kind(&report.outcome), expected, "{what} with {policy}\n{}", dialogue(&report));
        let was = destination.record().sessions.iter().any(|session| session.tls && session.commands.len() > 3);
        assert_eq!(was, encrypted, "{what} with {policy}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_injected_before_the_handshake_is_never_taken_for_one() {
    let ca = TestCa::new();
    // Opportunistic goes on in a new session in clear, where the destination itself refuses the recipient.
    for (policy, expected) in [(TlsPolicy::Opportunistic, "rejected"), (TlsPolicy::Required, "unreachable")] {
        let bench = Bench::with_tls(settings(), TlsClient::new(&[ca.certificate()]).unwrap());
        let destination = bench.server(1, Script { tls: Tls::Injection(ca.server("mail.one.example")), ..normal() });
        let report = bench.ask_route("carol@one.example", &route(&["10.0.0.1"], policy), false).await;
        assert_eq!(kind(&report.outcome), expected, "{}", dialogue(&report));
        assert!(destination.record().sessions[0].commands.iter().all(|command| !command.starts_with("RCPT")));
    }
}

#[tokio::test(start_paused = true)]
async fn starttls_that_is_refused_goes_on_in_clear_where_the_policy_allows_it() {
    let ca = TestCa::new();
    let script = || {
        let tls = Tls::Certificate(ca.server("mail.one.example"));
        Script { tls, ..normal() }.fault(Step::StartTls, Fault::Reply("454 4.7.0 Not now".into()))
    };
    for (policy, expected) in [(TlsPolicy::Opportunistic, "accepted"), (TlsPolicy::Required, "unreachable")] {
        let (bench, destination) = Bench::one(script());
        let report = bench.ask_route("anna@one.example", &route(&["10.0.0.1"], policy), false).await;
        assert_eq!(kind(&report.outcome), expected, "{}", dialogue(&report));
        bench.end().await;
        destination.assert_polite();
    }
}

#[tokio::test]
async fn the_resolver_tells_null_mx_no_mx_no_domain_and_faults_apart() {
    let dns = DnsServer::start().await.unwrap();
    let name = |text: &str| DomainName::parse(text).unwrap();
    let mx = |records: &[(u16, &str)]| Zone {
        mx: records.iter().map(|(p, h)| (*p, (*h).to_owned())).collect(),
        ..Zone::default()
    };
    dns.set("one.example", mx(&[(20, "b.example"), (10, "A.example")]));
    dns.set("null.example", mx(&[(0, ".")]));
    dns.set("both.example", mx(&[(0, "."), (10, "a.example")]));
    dns.set(
        "plain.example",
        Zone { a: vec!["192.0.2.1".parse().unwrap()], aaaa: vec!["2001:db8::1".parse().unwrap()], ..Zone::default() },
    );
    dns.set("broken.example", Zone { servfail: true, ..Zone::default() });
    let resolver = DnsResolver::new(&[dns.address()]).unwrap();
    let Ok(MxAnswer::Hosts(mut hosts)) = resolver.mx(&name("one.example")).await else { panic!("no hosts") };
    hosts.sort();
    assert_eq!(hosts, [(10, name("a.example")), (20, name("b.example"))]);
    let asked = dns.queries();
    resolver.mx(&name("one.example")).await.unwrap();
    assert_eq!(dns.queries(), asked, "within its TTL it is not asked again");
    assert_eq!(resolver.mx(&name("null.example")).await, Ok(MxAnswer::Null));
    dns.set("null.example", mx(&[(10, "a.example")]));
    assert_eq!(resolver.mx(&name("null.example")).await, Ok(MxAnswer::Null), "within its TTL");
    resolver.forget();
    assert!(matches!(resolver.mx(&name("null.example")).await, Ok(MxAnswer::Hosts(_))));
    let both = resolver.mx(&name("both.example")).await;
    assert_eq!(both, Ok(MxAnswer::Hosts(vec![(10, name("a.example"))])), "a null MX stands alone");
    assert_eq!(resolver.mx(&name("plain.example")).await, Ok(MxAnswer::None));
    assert!(matches!(resolver.mx(&name("missing.example")).await, Err(ResolveError::NoSuchDomain(_))));
    assert!(matches!(resolver.mx(&name("broken.example")).await, Err(ResolveError::Failed(..))));
    assert_eq!(resolver.addresses(&name("plain.example")).await.unwrap().len(), 2);
    assert!(matches!(resolver.addresses(&name("missing.example")).await, Err(ResolveError::NoAddress(_))));
}

#[tokio::test]
async fn a_null_mx_that_is_gone_is_not_remembered_over_a_clear() {
    let dns = DnsServer::start().await.unwrap();
    dns.set("one.example", Zone { mx: vec![(0, ".".to_owned())], ..Zone::default() });
    let guard = Guard::default();
    let resolver = GuardedResolver(DnsResolver::new(&[dns.address()]).unwrap(), guard);
    let tls = TlsClient::new(&[]).unwrap();
    let callouts = callahead_callout::Callouts::new(settings(), callahead_callout::TcpDialer, resolver, tls);
    let ask = async || {
        let recipient = "anna@one.example".parse().unwrap();
        let route = route(&["mx"], TlsPolicy::Opportunistic);
        callouts.ask(Request { recipient, route, probe: false, background: false }).await.outcome
    };
    assert_eq!(ask().await, Outcome::NullMx);
    dns.set("one.example", Zone { mx: vec![(10, "nowhere.example".to_owned())], ..Zone::default() });
    callouts.ask_anew(None);
    assert!(matches!(ask().await, Outcome::Unreachable(_)));
}

#[tokio::test]
async fn over_tcp_it_is_the_same() {
    let destination = callahead_testbed::Destination::new(normal());
    let listening = destination.listen().await.unwrap();
    let tls = TlsClient::new(&[]).unwrap();
    let callouts = callahead_callout::Callouts::new(settings(), callahead_callout::TcpDialer, Names::default(), tls);
    let route = route(&[&listening.address().to_string()], TlsPolicy::Opportunistic);
    for (recipient, expected) in [("anna@one.example", "accepted"), ("carol@one.example", "rejected")] {
        let request = Request {
            recipient: recipient.parse().unwrap(),
            route: Arc::clone(&route),
            probe: true,
            background: false,
        };
        assert_eq!(kind(&callouts.ask(request).await.outcome), expected);
    }
    callouts.shutdown(Duration::from_secs(5)).await;
    destination.assert_polite();
}
