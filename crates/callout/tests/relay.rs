//! Sessions for a relay: opened by the way of callouts, and the caller's own after that.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use callahead_callout::{ClientSession, ConnectError, Failure, For, MxAnswer, Step, TlsPolicy};
use callahead_smtp::Domain;
use callahead_testbed::{Ended, Fault, Place, Script, Tls};
use common::{Bench, address, route};
use tokio::time::Instant;

async fn connect(bench: &Bench, hops: &[&str], domain: &str) -> Result<ClientSession, ConnectError> {
    connect_for(bench, hops, domain, For::default()).await
}

async fn connect_for(bench: &Bench, hops: &[&str], domain: &str, whom: For) -> Result<ClientSession, ConnectError> {
    let domain = Domain::parse(domain).unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    bench.callouts.connect(&route(hops, TlsPolicy::Opportunistic), &domain, whom, until).await
}

#[tokio::test(start_paused = true)]
async fn a_session_is_past_ehlo_knows_what_is_offered_and_ends_in_quit() {
    let (bench, destination) = Bench::one(Script::taking_messages([]));
    let mut session = connect(&bench, &["10.0.0.1"], "one.example").await.unwrap();
    let offers = session.offers();
    assert!(
        offers.pipelining && offers.smtputf8 && offers.eight_bit_mime && offers.chunking && offers.dsn && offers.size
    );
    assert_eq!(session.destination(), "10.0.0.1:25");
    let until = Instant::now() + Duration::from_secs(5);
    session.send(Step::Mail, b"MAIL FROM:<s@e.example>\r\n", until).await.unwrap();
    assert_eq!(session.reply(Step::Mail, until).await.unwrap().code(), 250);
    assert!(session.is_quiet().await);
    session.quit().await;
    destination.assert_polite();
    let plain = bench
        .server(2, Script::taking_messages([]).fault(callahead_testbed::Step::Ehlo, Fault::Reply("502 no".into())));
    let session = connect(&bench, &["10.0.0.2"], "one.example").await.unwrap();
    assert_eq!(session.offers(), Default::default(), "nothing is offered after HELO");
    drop(session);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(plain.record().sessions[0].ended, Ended::Closed, "dropped is closed without a word");
}

#[tokio::test(start_paused = true)]
async fn the_mx_of_the_recipients_domain_is_the_way_and_a_null_mx_is_the_end_of_it() {
    let (bench, _destination) = Bench::one(Script::taking_messages([]));
    let host = |name: &str| callahead_smtp::DomainName::parse(name).unwrap();
    let mx = |domain: &str, answer| bench.names.mx.lock().unwrap().insert(domain.into(), Ok(answer));
    mx("one.example", MxAnswer::Hosts(vec![(20, host("b.example")), (10, host("a.example"))]));
    mx("null.example", MxAnswer::Null);
    bench.names.hosts.lock().unwrap().insert("b.example".into(), vec![address(1).ip()]);
    let session = connect(&bench, &["mx"], "one.example").await.unwrap();
    assert_eq!(session.destination(), "b.example:25", "the first has no address");
    assert_eq!(connect(&bench, &["mx"], "null.example").await.unwrap_err(), ConnectError::NullMx);
    let session = connect(&bench, &["mx", "10.0.0.1"], "null.example").await.unwrap();
    assert_eq!(session.destination(), "10.0.0.1:25");
}

#[tokio::test(start_paused = true)]
async fn a_host_has_so_many_relays_at_once_and_the_next_waits_for_one_to_end() {
    let bench = Bench::new(callahead_callout::Settings { relays_per_destination: 2, ..common::settings() });
    bench.server(1, Script::taking_messages([]));
    let mut open = Vec::new();
    for _ in 0..2 {
        open.push(connect(&bench, &["10.0.0.1"], "one.example").await.unwrap());
    }
    let began = Instant::now();
    let error = connect(&bench, &["10.0.0.1"], "one.example").await.unwrap_err();
    assert_eq!(
        error,
        ConnectError::Unreachable(vec![callahead_callout::HostFailure {
            host: "10.0.0.1:25".into(),
            failure: Failure::TooManyRelays,
            reply: None,
        }])
    );
    assert_eq!(began.elapsed(), Duration::from_secs(30));
    let (next, ()) = tokio::join!(connect(&bench, &["10.0.0.1"], "one.example"), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        open.pop();
    });
    assert!(next.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_client_takes_fewer_places_than_are_left_to_others() {
    let bench = Bench::new(callahead_callout::Settings { relays_per_destination: 8, ..common::settings() });
    bench.server(1, Script::taking_messages([]));
    let client = |n: u8| For { client: Some([192, 0, 2, n].into()), ..For::default() };
    let mut open = Vec::new();
    for (n, places) in [(1, 4), (2, 2), (3, 1), (4, 1)] {
        for _ in 0..places {
            open.push(connect_for(&bench, &["10.0.0.1"], "one.example", client(n)).await.unwrap());
        }
        let began = Instant::now();
        assert!(connect_for(&bench, &["10.0.0.1"], "one.example", client(n)).await.is_err(), "{n}");
        assert_eq!(began.elapsed(), Duration::from_secs(30), "{n}");
    }
    // One that waits for its share does not keep another from the place that is free.
    let (first, fifth, ()) = tokio::join!(
        connect_for(&bench, &["10.0.0.1"], "one.example", client(1)),
        connect_for(&bench, &["10.0.0.1"], "one.example", client(5)),
        async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            open.pop();
        }
    );
    assert!(first.is_err() && fifth.is_ok());
    // Its own ends count, too.
    open.clear();
    assert!(connect_for(&bench, &["10.0.0.1"], "one.example", client(1)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_host_with_smtputf8_is_preferred_where_the_mail_may_need_it() {
    let (bench, lacking) = Bench::one(Script::taking_messages([]).without("SMTPUTF8"));
    bench.server(2, Script::taking_messages([]));
    bench.server(3, Script::taking_messages([]).without("SMTPUTF8"));
    bench.server(4, Script::taking_messages([]).fault(callahead_testbed::Step::Ehlo, Fault::Reply("502 no".into())));
    bench.net.set(address(9), Place::Refused);
    let needed = For { smtputf8: true, ..For::default() };
    for (whom, hops, host, others_may_offer_more) in [
        (needed, &["10.0.0.1", "10.0.0.2"][..], 2, false),
        (For::default(), &["10.0.0.1", "10.0.0.2"], 1, false),
        (needed, &["10.0.0.1", "10.0.0.3"], 1, false),
        (needed, &["10.0.0.1", "10.0.0.9"], 1, true),
        (needed, &["10.0.0.9", "10.0.0.1"], 1, true),
        (needed, &["10.0.0.1", "10.0.0.4"], 1, true),
    ] {
        let session = connect_for(&bench, hops, "one.example", whom).await.unwrap();
        assert_eq!(session.destination(), format!("10.0.0.{host}:25"), "{whom:?} {hops:?}");
        assert_eq!(session.others_may_offer_more(), others_may_offer_more, "{whom:?} {hops:?}");
        session.quit().await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    lacking.assert_polite();
}

#[tokio::test(start_paused = true)]
async fn a_host_that_fails_is_left_alone_by_relays_and_callouts_together() {
    let (bench, destination) = Bench::one(Script::taking_messages([]));
    bench.net.set(address(1), Place::Refused);
    for _ in 0..3 {
        let error = connect(&bench, &["10.0.0.1"], "one.example").await.unwrap_err();
        assert_eq!(error.to_string(), "no host could be used: 10.0.0.1:25: the connection was refused");
    }
    let dials = bench.net.dials().len();
    let Err(ConnectError::Unreachable(failures)) = connect(&bench, &["10.0.0.1"], "one.example").await else {
        panic!("it was used")
    };
    assert!(matches!(failures[0].failure, Failure::CircuitOpen(_)), "{failures:?}");
    assert_eq!(common::kind(&bench.ask("anna@one.example").await.outcome), "unreachable");
    assert_eq!(bench.net.dials().len(), dials, "nobody dialled");
    // A relay that finds it back is enough: its failures are counted anew.
    tokio::time::sleep(Duration::from_secs(1)).await;
    bench.net.set(address(1), Place::Server(destination));
    assert!(connect(&bench, &["10.0.0.1"], "one.example").await.is_ok());
    bench.net.set(address(1), Place::Refused);
    for _ in 0..3 {
        let error = connect(&bench, &["10.0.0.1"], "one.example").await.unwrap_err();
        assert!(error.to_string().ends_with("the connection was refused"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn tls_that_fails_is_done_without_where_the_policy_lets_it_be() {
    let (bench, _destination) = Bench::one(Script { tls: Tls::GarbageAfter220, ..Script::taking_messages([]) });
    assert!(connect(&bench, &["10.0.0.1"], "one.example").await.is_ok());
    let until = Instant::now() + Duration::from_secs(30);
    let domain = Domain::parse("one.example").unwrap();
    let required =
        bench.callouts.connect(&route(&["10.0.0.1"], TlsPolicy::Required), &domain, For::default(), until).await;
    assert!(matches!(required, Err(ConnectError::Unreachable(_))));
}
