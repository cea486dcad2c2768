//! The policy listener over real sockets, before an engine with a scripted destination.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use callahead_listeners::Limits;
use common::{Bench, Kind, rcpt};
use tokio::io::AsyncWriteExt as _;

async fn ask(bench: &Bench, recipient: &str) -> String {
    let mut client = bench.connect().await;
    client.send(rcpt(recipient)).await;
    client.action().await
}

/// A question that waits for the gate: each of a domain of its own, since in one domain all wait for its random local part.
fn slow(n: usize) -> String {
    rcpt(&format!("slow@d{n}.wild.example"))
}

#[tokio::test]
async fn each_answer_of_the_table_has_its_action() {
    let bench = Bench::tcp(Kind::Policy, Limits::default()).await;
    for (recipient, action) in [
        ("user@bad..domain", "action=501 5.1.3 "),
        ("user@elsewhere.example", "action=DUNNO"),
        ("postmaster", "action=DUNNO"),
        ("listed@example.com", "action=DUNNO"),
        ("gone@example.com", "action=550 5.1.1 "),
        ("whoever@off.example", "action=DUNNO"),
        ("postmaster@example.com", "action=DUNNO"),
        ("any@any.example", "action=DUNNO"),
        ("good@example.com", "action=DUNNO"),
        ("bad@example.com", "action=550 5.1.1 "),
        ("bad@trial.example", "action=450 4.1.1 "),
        ("bad@watch.example", "action=DUNNO"),
        ("grey@example.com", "action=451 4."),
        ("down@example.com", "action=451 4.4."),
        ("busy@example.com", "action=451 4."),
        ("bounce@bounce.example", "action=DUNNO"),
        ("nullmx@null.example", "action=556 5.1.10 "),
    ] {
        let first = ask(&bench, recipient).await;
        assert!(first.starts_with(action), "{recipient}: {first}");
        assert!(!first.contains("mail.example.net"), "the destination is not named: {first}");
        let second = ask(&bench, recipient).await;
        assert!(second.starts_with(action), "{recipient} again: {second}");
    }
}

#[tokio::test]
async fn only_access_policy_at_rcpt_is_acted_on() {
    let bench = Bench::tcp(Kind::Policy, Limits::default()).await;
    let mut client = bench.connect().await;
    for request in [
        rcpt("bad@example.com").replace("RCPT", "DATA"),
        rcpt("bad@example.com").replace("RCPT", "END-OF-MESSAGE"),
        rcpt("bad@example.com").replace("smtpd_access_policy", "something_else"),
        "protocol_state=RCPT\nrecipient=bad@example.com\n\n".into(),
        "unknown=attribute\n\n".into(),
    ] {
        client.send(&request).await;
        assert_eq!(client.action().await, "action=DUNNO", "{request}");
    }
    assert_eq!(bench.script.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn rcpt_without_a_recipient_is_deferred_and_not_skipped() {
    let bench = Bench::tcp(Kind::Policy, Limits::default()).await;
    let mut client = bench.connect().await;
    client.send("request=smtpd_access_policy\nprotocol_state=RCPT\nrecipient=\n\n").await;
    assert!(client.action().await.starts_with("action=451 4.3.5 "));
}

#[tokio::test]
async fn a_local_part_without_its_quotes_is_asked_with_them() {
    let bench = Bench::tcp(Kind::Policy, Limits::default()).await;
    assert_eq!(ask(&bench, "good one@example.com").await, "action=DUNNO");
    assert_eq!(ask(&bench, "d\u{f6}ner@example.com").await, "action=DUNNO");
    assert_eq!(bench.script.asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_though_the_first_is_slow() {
    let bench = Bench::unix(Kind::Policy, Limits { pipeline: 4, ..Limits::default() }).await;
    let mut client = bench.connect().await;
    let mut requests = rcpt("slow@example.com");
    for n in 0..50 {
        let missing = format!("bad{}@example.com", n % 8);
        requests += &rcpt(&if n % 2 == 0 { format!("good{n}@example.com") } else { missing });
    }
    client.send(&requests).await;
    bench.script.gate.add_permits(1);
    assert_eq!(client.action().await, "action=DUNNO");
    for n in 0..50 {
        let action = client.action().await;
        assert_eq!(action == "action=DUNNO", n % 2 == 0, "{n}: {action}");
    }
    assert_eq!(bench.counters.requests.load(Ordering::Relaxed), 51, "those behind others are counted as well");
    assert_eq!(ask(&bench, "good0@example.com").await, "action=DUNNO");
    assert_eq!(bench.counters.requests.load(Ordering::Relaxed), 52);
}

#[tokio::test]
async fn no_more_is_worked_on_at_the_same_time_than_the_pipeline_has_room_for() {
    let bench = Bench::tcp(Kind::Policy, Limits { pipeline: 4, ..Limits::default() }).await;
    let mut client = bench.connect().await;
    let all = 20;
    client.send((0..all).map(slow).collect::<String>()).await;
    for answered in 0..all {
        let under_way = (answered + 4).min(all);
        while bench.script.asked.load(Ordering::SeqCst) < under_way {
            tokio::task::yield_now().await;
        }
        assert_eq!(bench.script.asked.load(Ordering::SeqCst), under_way);
        bench.script.gate.add_permits(1);
        assert_eq!(client.action().await, "action=DUNNO");
    }
}

#[tokio::test]
async fn a_client_that_asks_without_end_is_read_no_further_than_is_worked_on() {
    let bench = Bench::unix(Kind::Policy, Limits { pipeline: 4, ..Limits::default() }).await;
    let mut client = bench.connect().await;
    client.send(rcpt("slow@example.com").repeat(4)).await;
    // Far more than the socket itself holds.
    let more = rcpt("joe@example.com").repeat(50_000);
    let sent = tokio::time::timeout(Duration::from_secs(2), client.send(&more)).await;
    assert!(sent.is_err(), "{} octets were read and kept", more.len());
    bench.script.gate.add_permits(4);
    for _ in 0..8 {
        assert_eq!(client.action().await, "action=DUNNO");
    }
}

#[tokio::test]
async fn a_slow_callout_does_not_keep_those_behind_it_from_being_asked() {
    let bench = Bench::tcp(Kind::Policy, Limits::default()).await;
    let mut client = bench.connect().await;
    client.send(slow(1) + &slow(2) + &slow(3)).await;
    while bench.script.asked.load(Ordering::SeqCst) < 3 {
        tokio::task::yield_now().await;
    }
    bench.script.gate.add_permits(3);
    for _ in 0..3 {
        assert_eq!(client.action().await, "action=DUNNO");
    }
}

#[tokio::test]
async fn requests_that_come_byte_by_byte_are_answered() {
    let bench = Bench::tcp(Kind::Policy, Limits::default()).await;
    let mut client = bench.connect().await;
    for byte in (rcpt("good@example.com") + &rcpt("bad@example.com")).as_bytes() {
        client.send([*byte]).await;
        client.0.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(client.action().await, "action=DUNNO");
    assert!(client.action().await.starts_with("action=550 5.1.1 "));
}

#[tokio::test]
async fn a_client_that_closes_its_side_after_asking_is_answered() {
    // Exim's ${readsocket} does so.
    let bench = Bench::tcp(Kind::Policy, Limits::default()).await;
    let mut client = bench.connect().await;
    client.send(rcpt("slow@example.com")).await;
    client.0.shutdown().await.unwrap();
    bench.script.gate.add_permits(1);
    assert_eq!(client.rest().await, b"action=DUNNO\n\n");
}

#[tokio::test]
async fn garbage_closes_the_connection_and_is_never_answered_with_a_rejection() {
    let bench = Bench::tcp(Kind::Policy, Limits::default()).await;
    let long = vec![b'x'; 100_000];
    let zeros = vec![0; 5000];
    let many = b"a=b\n".repeat(20_000);
    let garbage: [&[u8]; 6] = [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0\0\0\n", &long, &zeros, &many, b"=\n\n"];
    for bytes in garbage {
        let mut client = bench.connect().await;
        let _ = client.0.write_all(bytes).await;
        let _ = client.0.shutdown().await;
        assert_eq!(client.rest().await, b"", "{}", String::from_utf8_lossy(&bytes[..bytes.len().min(20)]));
    }
    assert!(bench.counters.malformed.load(Ordering::Relaxed) >= 4);
    assert_eq!(ask(&bench, "good@example.com").await, "action=DUNNO", "others are served");
}

#[tokio::test]
async fn what_was_asked_before_garbage_is_answered() {
    let bench = Bench::tcp(Kind::Policy, Limits::default()).await;
    let mut client = bench.connect().await;
    client.send(rcpt("slowbad@example.com") + "nonsense\n").await;
    bench.script.gate.add_permits(1);
    let rest = client.rest().await;
    assert!(rest.starts_with(b"action=550 5.1.1 "), "{}", String::from_utf8_lossy(&rest));
}

#[tokio::test]
async fn a_connection_without_a_whole_request_is_closed_after_its_idle_time() {
    let limits = Limits { idle: Duration::from_millis(200), ..Limits::default() };
    let bench = Bench::tcp(Kind::Policy, limits).await;
    let began = Instant::now();
    let mut quiet = bench.connect().await;
    assert_eq!(quiet.rest().await, b"");
    let closed_after = began.elapsed();
    assert!(closed_after >= limits.idle && closed_after < 50 * limits.idle, "{closed_after:?}");
    let mut half = bench.connect().await;
    half.send("request=smtpd_access_policy\n").await;
    assert_eq!(half.rest().await, b"");
    assert_eq!(bench.counters.timed_out.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_slow_answer_is_no_idle_time() {
    let limits = Limits { idle: Duration::from_millis(30), ..Limits::default() };
    let bench = Bench::tcp(Kind::Policy, limits).await;
    let mut client = bench.connect().await;
    client.send(rcpt("slow@example.com")).await;
    let mut other = bench.connect().await;
    assert_eq!(other.rest().await, b"", "another connection's idle time has passed");
    bench.script.gate.add_permits(1);
    assert_eq!(client.action().await, "action=DUNNO");
}

#[tokio::test]
async fn a_stop_answers_what_was_asked_and_closes() {
    let bench = Bench::unix(Kind::Policy, Limits::default()).await;
    let mut idle = bench.connect().await;
    let mut client = bench.connect().await;
    client.send(rcpt("slow@example.com") + &rcpt("bad@example.com") + "request=smtpd_acc").await;
    while bench.script.asked.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    bench.shutdown.cancel();
    assert_eq!(idle.rest().await, b"", "who asked nothing is closed at once");
    assert!(!bench.serving.is_finished());
    bench.script.gate.add_permits(1);
    let rest = String::from_utf8(client.rest().await).unwrap();
    assert!(rest.starts_with("action=DUNNO\n\naction=550 5.1.1 "), "{rest}");
    bench.serving.await.unwrap();
    assert!(!bench.folder.path().join("test.sock").exists(), "the socket's file is gone");
}

#[tokio::test]
async fn a_stop_is_over_after_its_grace_though_a_callout_hangs() {
    let bench = Bench::tcp(Kind::Policy, Limits { grace: Duration::from_millis(50), ..Limits::default() }).await;
    let mut client = bench.connect().await;
    client.send(rcpt("slow@example.com")).await;
    while bench.script.asked.load(Ordering::SeqCst) < 1 {
        tokio::task::yield_now().await;
    }
    bench.shutdown.cancel();
    bench.serving.await.unwrap();
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn two_hundred_connections_are_served_at_the_same_time() {
    let bench = Bench::tcp(Kind::Policy, Limits::default()).await;
    let mut clients = Vec::new();
    for _ in 0..200 {
        clients.push(bench.connect().await);
    }
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(rcpt(&format!("{}{}@example.com", if n % 2 == 0 { "good" } else { "bad" }, n % 20))).await;
    }
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.action().await == "action=DUNNO", n % 2 == 0);
    }
    assert_eq!(bench.counters.open.load(Ordering::Relaxed), 200);
    assert_eq!(bench.script.asked.load(Ordering::SeqCst), 20, "one callout a recipient");
}

#[tokio::test]
async fn connections_beyond_the_bound_are_closed_at_once() {
    let bench = Bench::tcp(Kind::Policy, Limits { connections: 2, ..Limits::default() }).await;
    let (mut first, mut second) = (bench.connect().await, bench.connect().await);
    for client in [&mut first, &mut second] {
        client.send(rcpt("good@example.com")).await;
        assert_eq!(client.action().await, "action=DUNNO");
    }
    assert_eq!(bench.connect().await.rest().await, b"");
    assert_eq!(bench.counters.refused.load(Ordering::Relaxed), 1);
    drop(first);
    while bench.counters.open.load(Ordering::Relaxed) > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(ask(&bench, "good@example.com").await, "action=DUNNO", "there is room again");
}

#[tokio::test]
async fn a_client_that_guesses_recipients_is_deferred_and_still_reaches_known_ones() {
    let bench = Bench::tcp(Kind::Policy, Limits::default()).await;
    assert_eq!(ask(&bench, "good@example.com").await, "action=DUNNO");
    let mut last = String::new();
    for n in 0..=25 {
        last = ask(&bench, &format!("bad{n}@example.com")).await;
    }
    assert!(last.starts_with("action=451 4.7.1 "), "{last}");
    assert_eq!(ask(&bench, "good@example.com").await, "action=DUNNO");
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answers_is_closed() {
    let bench = Bench::unix(Kind::Policy, Limits { write: Duration::from_millis(50), ..Limits::default() }).await;
    let mut client = bench.connect().await;
    let requests = "request=other\n\n".repeat(1000);
    // Ends in an error as soon as the listener has closed.
    while client.0.write_all(requests.as_bytes()).await.is_ok() {}
    assert_eq!(bench.counters.timed_out.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_request_that_was_sent_before_the_stop_and_not_read_yet_is_answered() {
    let bench = Bench::tcp(Kind::Policy, Limits::default()).await;
    let mut client = bench.connect().await;
    client.send(rcpt("good@example.com")).await;
    client.action().await;
    // Both happen before the listener's task has its next turn.
    client.send(rcpt("bad@example.com")).await;
    bench.shutdown.cancel();
    assert!(client.action().await.starts_with("action=550 5.1.1 "));
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn a_client_with_many_requests_lets_others_have_a_turn_between_them() {
    let bench = Bench::tcp(Kind::Policy, Limits::default()).await;
    let mut client = bench.connect().await;
    let all = 4000;
    client.send("request=x\n\n".repeat(4000)).await;
    let (mut seen, mut most) = (0, 0);
    while seen < all {
        tokio::task::yield_now().await;
        let now = bench.counters.requests.load(Ordering::Relaxed);
        most = most.max(now - seen);
        seen = now;
    }
    assert!(most <= 300, "{most} requests in one turn");
}

#[tokio::test(start_paused = true)]
async fn connections_that_were_opened_together_do_not_run_out_of_time_together() {
    let idle = Duration::from_secs(600);
    let bench = Bench::tcp(Kind::Policy, Limits { idle, ..Limits::default() }).await;
    let began = tokio::time::Instant::now();
    let mut ends = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let mut client = bench.connect().await;
        ends.spawn(async move {
            client.rest().await;
            began.elapsed()
        });
    }
    let ends: std::collections::HashSet<_> = ends.join_all().await.into_iter().collect();
    assert!(ends.len() > 5, "{ends:?}");
    assert!(ends.iter().all(|end| *end >= idle && *end <= idle + idle / 9), "{ends:?}");
}
