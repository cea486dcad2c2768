//! Testing a route, and addresses that no route may lead to.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::net::SocketAddr;

use callahead_callout::{
    Ask as _, Callouts, Guard, GuardedDialer, GuardedResolver, Hop, HostTest, MxAnswer, Outcome, Request, Route,
    TlsClient, TlsPolicy,
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
        ("tls", true),
        ("null_sender", true),
        ("random_probe", true),
        ("postmaster", true),
    ];
    assert_eq!(steps(&test.hosts[0]), all);
    assert_eq!(test.hosts[0].accept_all, Some(false));
    assert_eq!(steps(&test.hosts[1])[4], ("random_probe", false));
    assert_eq!(test.hosts[1].accept_all, Some(true));
    assert_eq!(steps(&test.hosts[2]), [("connect", false)]);
    assert!(test.hosts[0].transcript.lines().iter().any(|line| line.line.starts_with(b"MAIL FROM:<>")));
    assert!(bench.callouts.destinations().is_empty(), "the pool learns nothing of it");
    bench.end().await;
    first.assert_polite();
    second.assert_polite();
}

#[tokio::test(start_paused = true)]
async fn a_test_ends_with_the_step_that_failed() {
    let refuses = "550 5.7.1 no bounces here".to_owned();
    for (script, tls, last) in [
        (script().fault(Step::Greeting, Fault::Reply("554 go away".into())), TlsPolicy::Off, "greeting"),
        (script().fault(Step::Greeting, Fault::Hang), TlsPolicy::Off, "greeting"),
        (script().fault(Step::Ehlo, Fault::Garbage(b"\x00\xff\r\n".to_vec())), TlsPolicy::Off, "greeting"),
        (script(), TlsPolicy::Required, "tls"),
        (Script { null_sender_reply: Some(refuses), ..script() }, TlsPolicy::Off, "null_sender"),
        (script().fault(Step::Mail, Fault::CloseAfter(3)), TlsPolicy::Off, "null_sender"),
    ] {
        let (bench, _) = Bench::one(script);
        let test = bench.callouts.test_route(&route(&["10.0.0.1"], tls), &one()).await;
        let steps = steps(&test.hosts[0]);
        assert_eq!(steps.last(), Some(&(last, false)), "{steps:?}");
        assert!(steps[..steps.len() - 1].iter().all(|(_, ok)| *ok), "{steps:?}");
        assert_eq!(test.hosts[0].accept_all, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_hangs_leaves_time_for_the_next() {
    let bench = Bench::new(settings());
    bench.net.set(address(1), Place::BlackHole);
    bench.server(2, script().fault(Step::Greeting, Fault::Hang));
    bench.server(3, script());
    let test = bench.callouts.test_route(&route(&["10.0.0.1", "10.0.0.2", "10.0.0.3"], TlsPolicy::Off), &one()).await;
    let last: Vec<_> = test.hosts.iter().map(|host| steps(host).last().copied()).collect();
    assert_eq!(last, [Some(("connect", false)), Some(("greeting", false)), Some(("postmaster", true))]);
}

#[tokio::test(start_paused = true)]
async fn a_null_mx_is_said_to_be_one() {
    let bench = Bench::new(settings());
    bench.names.mx.lock().unwrap().insert("one.example".into(), Ok(MxAnswer::Null));
    let test = bench.callouts.test_route(&route(&["mx"], TlsPolicy::Off), &one()).await;
    assert!(test.null_mx && test.hosts.is_empty());
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
