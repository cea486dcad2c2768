//! Testing a route, and addresses that no route may lead to.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use callahead_callout::{
    Ask as _, Callouts, Guard, GuardedDialer, GuardedResolver, Hop, HostTest, MxAnswer, Outcome, Request, Route,
    TestEvent, TlsClient, TlsPolicy,
};
use callahead_smtp::{Domain, DomainName};
use callahead_testbed::{Destination, Fault, Net, Place, Script, Step};
use common::*;

fn steps(host: &HostTest) -> Vec<(&'static str, bool)> {
    host.steps.iter().map(|step| (step.step.as_str(), step.ok)).collect()
}

fn one() -> Domain {
    Domain::parse("one.example").unwrap()
}

fn script() -> Script {
    Script::with_mailboxes(["anna@one.example", "postmaster@one.example"])
}

#[tokio::test(start_paused = true)]
async fn a_good_route_passes_every_step_and_each_host_is_tried() {
    let bench = Bench::new(settings());
    let (first, second) = (bench.server(1, script()), bench.server(2, Script::accept_all()));
    let route = route(&["10.0.0.1", "10.0.0.2", "10.0.0.3"], TlsPolicy::Opportunistic);
    bench.net.set(address(3), Place::Refused);
    let test = bench.callouts.test_route(&route, &one()).await;
    let all = [
        ("connect", true),
        ("greeting", true),
        ("ehlo", true),
        ("tls", true),
        ("null_sender", true),
        ("random_probe", true),
        ("postmaster", true),
        ("open_relay", true),
        ("quit", true),
    ];
    assert_eq!(steps(&test.hosts[0]), all);
    assert_eq!(test.hosts[0].accept_all, Some(false));
    assert_eq!(test.hosts[0].relays, Some(false));
    assert!(test.hosts[0].steps.iter().all(|step| !step.warning), "{:?}", test.hosts[0].steps);
    assert_eq!(steps(&test.hosts[1])[5], ("random_probe", false));
    assert_eq!(test.hosts[1].accept_all, Some(true));
    assert_eq!(steps(&test.hosts[2]), [("connect", false)]);
    assert!(test.hosts[0].transcript.lines().any(|line| line.line.starts_with(b"MAIL FROM:<>")));
    assert!(bench.callouts.destinations().is_empty(), "the pool learns nothing of it");
    bench.end().await;
    first.assert_polite();
    second.assert_polite();
}

#[tokio::test(start_paused = true)]
async fn a_test_ends_with_the_step_that_failed() {
    for (script, tls, last) in [
        (script().fault(Step::Greeting, Fault::Reply("554 go away".into())), TlsPolicy::Off, "greeting"),
        (script().fault(Step::Greeting, Fault::Hang), TlsPolicy::Off, "greeting"),
        (script().fault(Step::Ehlo, Fault::Garbage(b"\x00\xff\r\n".to_vec())), TlsPolicy::Off, "ehlo"),
        (script(), TlsPolicy::Required, "tls"),
        (script().fault(Step::Rset, Fault::Reply("502 5.5.2 No".into())), TlsPolicy::Off, "postmaster"),
        (script().fault(Step::Mail, Fault::CloseAfter(3)), TlsPolicy::Off, "null_sender"),
    ] {
        let (bench, _) = Bench::one(script);
        let test = bench.callouts.test_route(&route(&["10.0.0.1"], tls), &one()).await;
        let steps = steps(&test.hosts[0]);
        assert_eq!(steps.last(), Some(&(last, false)), "{steps:?}");
        assert!(steps[..steps.len() - 1].iter().all(|(_, ok)| *ok), "{steps:?}");
        assert_eq!(test.hosts[0].accept_all, (last == "postmaster").then_some(false));
        assert_eq!(test.hosts[0].relays, None);
    }
}

/// The step of that name, told to be so or not, and its words.
fn step<'a>(host: &'a HostTest, name: &str) -> (bool, bool, &'a str) {
    let step = host.steps.iter().find(|step| step.step.as_str() == name);
    let step = step.unwrap_or_else(|| panic!("no {name} in {:?}", host.steps));
    (step.ok, step.warning, &step.detail)
}

async fn test_one(script: Script) -> (HostTest, Destination) {
    let (bench, destination) = Bench::one(script);
    let mut test = bench.callouts.test_route(&route(&["10.0.0.1"], TlsPolicy::Off), &one()).await;
    (test.hosts.remove(0), destination)
}

#[tokio::test(start_paused = true)]
async fn a_host_that_takes_mail_for_others_is_worth_a_look_and_gets_no_message() {
    let (host, destination) = test_one(Script { relays: true, ..script() }).await;
    let (ok, warning, words) = step(&host, "open_relay");
    assert!(ok && warning && words.contains("from this filtering server mail for other people's domains"), "{words}");
    assert_eq!(host.relays, Some(true));
    assert_eq!(steps(&host).last(), Some(&("quit", true)));
    destination.assert_polite();
    let record = destination.record();
    let said = &record.sessions[0].commands;
    assert!(said.iter().any(|line| line.starts_with("RCPT TO:<") && line.ends_with("@callahead-test.invalid>")));
    assert!(said.iter().all(|line| !line.starts_with("DATA")), "{said:?}");
    assert_eq!(said.iter().filter(|line| line.starts_with("MAIL FROM:<>")).count(), 3, "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_does_not_say_221_to_quit_is_told_of() {
    for (fault, well) in [
        (Fault::Reply("221-2.0.0 Bye\r\n221 2.0.0 Bye".into()), true),
        (Fault::Reply("221".into()), true),
        (Fault::Garbage(b"221\n".to_vec()), true),
        (Fault::Reply("221-and more".into()), false),
        (Fault::Reply("500 5.5.1 what?".into()), false),
        (Fault::Garbage(vec![b'x'; 70_000]), false),
        (Fault::CloseAfter(0), false),
        (Fault::Hang, false),
    ] {
        let (host, _) = test_one(script().fault(Step::Quit, fault.clone())).await;
        let (ok, warning, words) = step(&host, "quit");
        assert_eq!((ok, warning), (true, !well), "{fault:?}: {words}");
    }
}

#[tokio::test(start_paused = true)]
async fn where_the_null_sender_is_refused_the_nodes_postmaster_asks_whether_it_relays() {
    let refuses = || Some("550 5.7.1 no bounces here".to_owned());
    for (relays, warning) in [(true, true), (false, false)] {
        let (host, destination) = test_one(Script { null_sender_reply: refuses(), relays, ..script() }).await;
        assert!(step(&host, "null_sender").2.contains("550 no bounces here"), "{:?}", host.steps);
        assert_eq!(
            steps(&host)[3..],
            [("tls", true), ("null_sender", false), ("open_relay", true), ("quit", true)][..],
            "neither a random local part nor postmaster can be asked for"
        );
        assert_eq!((step(&host, "open_relay").1, host.relays), (warning, Some(relays)));
        destination.assert_polite();
        assert!(
            destination.record().sessions[0].commands.contains(&"MAIL FROM:<postmaster@filter.example>".to_owned())
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_greylisting_host_is_said_to_be_one_and_a_session_that_ends_at_the_relay_step_is_no_failure() {
    let (host, _) = test_one(Script { greylist: Some(Duration::from_secs(300)), ..script() }).await;
    assert!(step(&host, "random_probe").2.contains("greylisting?"), "{:?}", host.steps);
    assert!(step(&host, "postmaster").2.contains("greylisting?"), "{:?}", host.steps);
    let (ok, warning, words) = step(&host, "open_relay");
    assert!(ok && warning && words.contains("was not found out"), "{words}");
    assert_eq!((host.accept_all, host.relays), (None, None));

    let (host, _) = test_one(Script { drop_after_errors: Some(1), ..script() }).await;
    let (ok, warning, words) = step(&host, "open_relay");
    assert!(ok && warning && words.contains("it ended the session at RCPT TO: 421"), "{words}");
    assert_eq!(steps(&host).last(), Some(&("open_relay", true)));
}

#[tokio::test(start_paused = true)]
async fn each_step_is_told_when_it_is_taken_with_its_own_time() {
    let (bench, _) = Bench::one(Script { reply_delay: Duration::from_millis(40), ..script() });
    let began = tokio::time::Instant::now();
    let mut told = Vec::new();
    let route = route(&["10.0.0.1"], TlsPolicy::Off);
    let tell = &mut |event: TestEvent<'_>| {
        let (what, took) = match event {
            TestEvent::Host(host) => (format!("host {host}"), Duration::ZERO),
            TestEvent::Step(host, step) => (format!("{} at {host}", step.step), step.took),
        };
        told.push((what, took.as_millis(), began.elapsed().as_millis()));
    };
    let test = bench.callouts.test_route_telling(&route, &one(), tell).await;
    let told: Vec<_> = told.iter().map(|(what, took, at)| (what.as_str(), *took, *at)).collect();
    let host = "10.0.0.1:25";
    let expected = [
        (format!("host {host}"), 0, 0),
        (format!("connect at {host}"), 0, 0),
        (format!("greeting at {host}"), 40, 40),
        (format!("ehlo at {host}"), 40, 80),
        (format!("tls at {host}"), 0, 80),
        (format!("null_sender at {host}"), 40, 120),
        (format!("random_probe at {host}"), 40, 160),
        (format!("postmaster at {host}"), 120, 280),
        (format!("open_relay at {host}"), 120, 400),
        (format!("quit at {host}"), 40, 440),
    ];
    assert_eq!(told, expected.iter().map(|(what, took, at)| (what.as_str(), *took, *at)).collect::<Vec<_>>());
    assert_eq!(test.hosts[0].steps.len(), told.len() - 1);
}

#[tokio::test(start_paused = true)]
async fn names_are_looked_up_first_and_an_address_without_a_server_is_no_failure_while_another_has_one() {
    let (bench, _) = Bench::one(script());
    bench.net.set(address(2), Place::Refused);
    let addresses = vec!["10.0.0.2".parse().unwrap(), "10.0.0.1".parse().unwrap()];
    bench.names.hosts.lock().unwrap().insert("mail.example.net".into(), addresses);
    let mx = DomainName::parse("mail.example.net").unwrap();
    bench.names.mx.lock().unwrap().insert("one.example".into(), Ok(MxAnswer::Hosts(vec![(10, mx)])));
    let test = bench.callouts.test_route(&route(&["mx", "nowhere.example"], TlsPolicy::Off), &one()).await;
    let steps = steps(&test.hosts[0]);
    assert_eq!(steps[..3], [("resolve", true), ("connect", true), ("connect", true)][..]);
    let resolved = step(&test.hosts[0], "resolve").2;
    assert_eq!(resolved, "mail.example.net, from the MX of one.example, is 10.0.0.2, 10.0.0.1");
    let (_, warning, words) = step(&test.hosts[0], "connect");
    assert!(warning && words == "the connection was refused; the next address is tried", "{words}");
    assert_eq!(steps.last(), Some(&("quit", true)));
    let (ok, _, words) = step(&test.hosts[1], "resolve");
    assert!(!ok && words.contains("nowhere.example"), "{words}");
    assert_eq!(test.hosts[1].steps.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_hangs_leaves_time_for_the_next() {
    let bench = Bench::new(settings());
    bench.net.set(address(1), Place::BlackHole);
    bench.server(2, script().fault(Step::Greeting, Fault::Hang));
    bench.server(3, script());
    let test = bench.callouts.test_route(&route(&["10.0.0.1", "10.0.0.2", "10.0.0.3"], TlsPolicy::Off), &one()).await;
    let last: Vec<_> = test.hosts.iter().map(|host| steps(host).last().copied()).collect();
    assert_eq!(last, [Some(("connect", false)), Some(("greeting", false)), Some(("quit", true))]);
}

#[tokio::test(start_paused = true)]
async fn a_null_mx_is_said_to_be_one() {
    let bench = Bench::new(settings());
    bench.names.mx.lock().unwrap().insert("one.example".into(), Ok(MxAnswer::Null));
    let test = bench.callouts.test_route(&route(&["mx"], TlsPolicy::Off), &one()).await;
    assert!(test.null_mx && test.hosts.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_hosts_of_an_mx_are_those_of_its_last_lookup_each_with_what_is_known_of_it() {
    let (bench, _) = Bench::one(script());
    let route = route(&["10.0.0.9", "mx"], TlsPolicy::Off);
    let hosts = || {
        let hosts = bench.callouts.route_hosts(&route, |name| name.as_str() == "one.example").into_iter();
        let failures = |host: &callahead_callout::RouteHost| host.status.as_ref().map(|status| status.failures);
        hosts.map(|host| (host.host.clone(), host.mx.is_some(), failures(&host))).collect::<Vec<_>>()
    };
    let named = ("10.0.0.9:25".to_owned(), false, None);
    assert_eq!(hosts(), [named], "nothing was looked up yet");
    bench.names.hosts.lock().unwrap().insert("a.example".into(), vec!["10.0.0.2".parse().unwrap()]);
    bench.names.hosts.lock().unwrap().insert("b.example".into(), vec!["10.0.0.1".parse().unwrap()]);
    let exchangers = |names: &[&str]| {
        let hosts = names.iter().map(|name| (10, DomainName::parse(name).unwrap())).collect();
        bench.names.mx.lock().unwrap().insert("one.example".into(), Ok(MxAnswer::Hosts(hosts)));
    };
    bench.net.set(address(2), Place::Refused);
    bench.net.set(address(9), Place::Refused);
    exchangers(&["a.example"]);
    assert!(matches!(bench.ask_route("anna@one.example", &route, false).await.outcome, Outcome::Unreachable(_)));
    let refuses = |host: &str, mx| (host.to_owned(), mx, Some(1));
    assert_eq!(hosts(), [refuses("10.0.0.9:25", false), refuses("a.example:25", true)]);
    // Another one from the next lookup on.
    exchangers(&["b.example"]);
    assert!(matches!(bench.ask_route("anna@one.example", &route, false).await.outcome, Outcome::Accepted(_)));
    assert_eq!(hosts()[1], ("b.example:25".to_owned(), true, Some(0)));
    assert_eq!(bench.callouts.route_hosts(&route, |_| false).len(), 1, "of other domains nothing is told");
    tokio::time::advance(Duration::from_secs(24 * 3600)).await;
    assert_eq!(hosts().len(), 1, "what was so yesterday is no news");
}

/// Callouts behind a guard with its default networks, for a file with these routes; a server stands at each of the addresses.
fn guarded(file: &[&str], servers: &[&str]) -> (Callouts, Names, Net) {
    let (net, names, guard) = (Net::default(), Names::default(), Guard::default());
    let routes: Vec<Route> =
        file.iter().map(|hop| Route { hops: vec![hop.parse::<Hop>().unwrap()], tls: TlsPolicy::Off }).collect();
    guard.set(Guard::default_networks(), &routes);
    for server in servers {
        net.set(server.parse().unwrap(), Place::Server(Destination::new(script())));
    }
    let dialer = GuardedDialer(NetDialer(net.clone()), guard.clone());
    let resolver = GuardedResolver(names.clone(), guard);
    (Callouts::new(settings(), dialer, resolver, TlsClient::new(&[]).unwrap()), names, net)
}

async fn ask(callouts: &Callouts, hop: &str) -> Outcome {
    let recipient = "anna@one.example".parse().unwrap();
    let request = Request { recipient, route: route(&[hop], TlsPolicy::Off), probe: false, background: false };
    callouts.ask(request).await.outcome
}

#[tokio::test(start_paused = true)]
async fn denied_addresses_are_never_dialled_by_whatever_name() {
    let places =
        ["127.0.0.1:25", "[::1]:25", "169.254.169.254:25", "[fe80::1]:25", "[::ffff:127.0.0.1]:25", "0.0.0.0:25"];
    let (callouts, names, net) = guarded(&[], &places);
    for place in places {
        let outcome = ask(&callouts, place).await;
        let Outcome::Unreachable(hosts) = &outcome else { panic!("{place}: {outcome:?}") };
        assert!(hosts[0].to_string().contains("deny_destinations"), "{}", hosts[0]);
    }
    names.hosts.lock().unwrap().insert("innocent.example".into(), vec!["127.0.0.1".parse().unwrap()]);
    let innocent = DomainName::parse("innocent.example").unwrap();
    names.mx.lock().unwrap().insert("one.example".into(), Ok(MxAnswer::Hosts(vec![(10, innocent)])));
    for hop in ["innocent.example", "mx"] {
        assert!(matches!(ask(&callouts, hop).await, Outcome::Unreachable(_)), "{hop}");
    }
    let test = callouts.test_route(&route(&["127.0.0.1"], TlsPolicy::Off), &one()).await;
    assert_eq!(steps(&test.hosts[0]), [("connect", false)]);
    assert_eq!(net.dials(), Vec::<SocketAddr>::new());
}

#[tokio::test(start_paused = true)]
async fn what_the_file_names_may_be_asked_at_that_port_and_no_other() {
    let places = ["127.0.0.1:2525", "127.0.0.1:25", "127.0.0.1:2600", "10.0.0.1:25"];
    let (callouts, names, _) = guarded(&["127.0.0.1:2525", "local.example:2600"], &places);
    names.hosts.lock().unwrap().insert("local.example".into(), vec!["127.0.0.1".parse().unwrap()]);
    for (hop, allowed) in [
        ("127.0.0.1:2525", true),
        ("127.0.0.1:2600", false),
        ("local.example:2600", true),
        ("local.example:25", false),
        ("127.0.0.1:25", false),
        ("10.0.0.1:25", true),
    ] {
        assert_eq!(matches!(ask(&callouts, hop).await, Outcome::Accepted(_)), allowed, "{hop}");
    }
}
