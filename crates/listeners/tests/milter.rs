//! The milter listener over real sockets, before an engine with a scripted destination.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use callahead_listeners::{Limits, milter};
use common::{Bench, Client, Kind, packet};
use tokio::io::AsyncWriteExt as _;

/// What Sendmail 8.17 and Postfix 3.7 say first.
fn negotiation() -> Vec<u8> {
    packet('O', [6_u32, 0x1ff, 0x1f_ffff].map(u32::to_be_bytes).concat())
}

/// A client behind which an SMTP client is at RCPT.
async fn at_rcpt(bench: &Bench, client: &str) -> Client {
    let mut mta = bench.connect().await;
    mta.send(negotiation()).await;
    assert!(mta.packet().await.starts_with('O'));
    mta.send(packet('C', format!("client.example\x004\x19\x19{client}\0"))).await;
    mta.send(packet('M', "<s@elsewhere.example>\0")).await;
    mta
}

async fn rcpt(mta: &mut Client, recipient: &str) -> String {
    mta.send(packet('R', format!("<{recipient}>\0"))).await;
    mta.packet().await
}

async fn ask(bench: &Bench, recipient: &str) -> String {
    rcpt(&mut at_rcpt(bench, "192.0.2.9").await, recipient).await
}

#[tokio::test]
async fn each_answer_of_the_table_has_its_reply() {
    let bench = Bench::tcp(Kind::Milter, Limits::default()).await;
    for (recipient, reply) in [
        ("user@bad..domain", "y501 5.1.3 "),
        ("user@elsewhere.example", "c"),
        ("postmaster", "c"),
        ("user", "c"),
        ("listed@example.com", "c"),
        ("gone@example.com", "y550 5.1.1 "),
        ("whoever@off.example", "c"),
        ("postmaster@example.com", "c"),
        ("any@any.example", "c"),
        ("good@example.com", "c"),
        ("bad@example.com", "y550 5.1.1 "),
        ("bad@trial.example", "y450 4.1.1 "),
        ("bad@watch.example", "c"),
        ("grey@example.com", "y451 4."),
        ("down@example.com", "y451 4.4."),
        ("busy@example.com", "y451 4."),
        ("bounce@bounce.example", "c"),
        ("nullmx@null.example", "y556 5.1.10 "),
    ] {
        let first = ask(&bench, recipient).await;
        assert!(first.starts_with(reply) && (reply != "c" || first == "c"), "{recipient}: {first}");
        assert!(!first.contains("mail.example.net"), "the destination is not named: {first}");
        let second = ask(&bench, recipient).await;
        assert!(second.starts_with(reply), "{recipient} again: {second}");
    }
}

#[tokio::test]
async fn an_address_that_leads_to_another_is_judged_by_that_one() {
    let bench = Bench::tcp(Kind::Milter, Limits::default()).await;
    let mut mta = at_rcpt(&bench, "192.0.2.9").await;
    for (recipient, resolved, reply) in [
        ("bad%example.com@front.example", "bad@example.com", "y550 5.1.1 "),
        ("good%example.com@front.example", "good@example.com", "c"),
        ("user@elsewhere.example", "user@elsewhere.example", "c"),
        ("user@front.example", "user", "c"),
        // One of ours stays what it is, whatever becomes of it behind it.
        ("bad@example.com", "good@example.com", "y550 5.1.1 "),
    ] {
        mta.send(packet('D', format!("R{{rcpt_addr}}\0{resolved}\0"))).await;
        let given = rcpt(&mut mta, recipient).await;
        assert!(given.starts_with(reply), "{recipient}: {given}");
    }
}

#[tokio::test]
async fn a_session_goes_on_after_rejections_and_through_several_messages_and_clients() {
    let bench = Bench::unix(Kind::Milter, milter::limits()).await;
    let mut mta = at_rcpt(&bench, "192.0.2.9").await;
    for round in 0..3 {
        assert!(rcpt(&mut mta, &format!("bad{round}@example.com")).await.starts_with("y550 5.1.1 "));
        assert_eq!(rcpt(&mut mta, &format!("good{round}@example.com")).await, "c");
        mta.send(packet('T', "")).await;
        assert_eq!(mta.packet().await, "a", "the message itself is of no interest");
        mta.send(packet('A', "")).await;
        if round == 1 {
            mta.send([packet('K', ""), packet('C', "other.example\0U")].concat()).await;
        }
        mta.send(packet('M', "<s@elsewhere.example>\0")).await;
    }
    mta.send(packet('Q', "")).await;
    assert_eq!(mta.rest().await, b"", "QUIT has no reply, and the connection is closed");
    let counters = &bench.counters;
    assert_eq!(counters.requests.load(Ordering::Relaxed), 10, "what has no reply does not count as answered");
    assert_eq!(counters.malformed.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_client_that_guesses_recipients_is_deferred_and_others_are_not() {
    let bench = Bench::tcp(Kind::Milter, Limits::default()).await;
    let mut mta = at_rcpt(&bench, "192.0.2.9").await;
    assert_eq!(rcpt(&mut mta, "good@example.com").await, "c");
    let mut last = String::new();
    for n in 0..=25 {
        last = rcpt(&mut mta, &format!("bad{n}@example.com")).await;
    }
    assert!(last.starts_with("y451 4.7.1 "), "{last}");
    assert_eq!(rcpt(&mut mta, "good@example.com").await, "c", "who is known is accepted");
    let mut other = at_rcpt(&bench, "192.0.2.10").await;
    assert!(rcpt(&mut other, "bad26@example.com").await.starts_with("y550 "));
}

#[tokio::test]
async fn packets_that_come_byte_by_byte_are_answered() {
    let bench = Bench::tcp(Kind::Milter, Limits::default()).await;
    let mut mta = bench.connect().await;
    let packets = [negotiation(), packet('M', "<>\0"), packet('R', "<bad@example.com>\0"), packet('T', "")].concat();
    for byte in packets {
        mta.send([byte]).await;
        mta.0.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(mta.packet().await.starts_with('O'));
    assert!(mta.packet().await.starts_with("y550 5.1.1 "));
    assert_eq!(mta.packet().await, "a");
}

#[tokio::test]
async fn an_mta_that_writes_small_does_not_wait_for_acknowledgements() {
    // Sendmail writes macros and command one after the other and leaves Nagle's algorithm on: the second would wait for
    // the 40 ms after which the first is acknowledged, once for each recipient.
    let bench = Bench::tcp(Kind::Milter, Limits::default()).await;
    let mut mta = at_rcpt(&bench, "192.0.2.9").await;
    assert_eq!(rcpt(&mut mta, "good@example.com").await, "c");
    let began = std::time::Instant::now();
    for _ in 0..50 {
        mta.send(packet('D', "Ri\0QUEUE1\0")).await;
        assert_eq!(rcpt(&mut mta, "good@example.com").await, "c");
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?} for 50 recipients", began.elapsed());
}

#[tokio::test]
async fn garbage_closes_the_connection_and_is_never_answered_with_a_rejection() {
    let bench = Bench::tcp(Kind::Milter, Limits::default()).await;
    let huge = u32::MAX.to_be_bytes();
    let garbage: [&[u8]; 5] =
        [b"EHLO client.example\r\n", b"\0\0\0\0", &huge, &packet('R', "<bad@example.com>\0"), &packet('z', "")];
    for bytes in garbage {
        let mut mta = bench.connect().await;
        let _ = mta.0.write_all(bytes).await;
        assert_eq!(mta.rest().await, b"", "{}", String::from_utf8_lossy(bytes));
    }
    let mut mta = at_rcpt(&bench, "192.0.2.9").await;
    mta.send(packet('R', "<bad@example.com>")).await;
    assert_eq!(mta.rest().await, b"", "a packet that is cut off");
    assert_eq!(bench.counters.malformed.load(Ordering::Relaxed), 6);
    assert_eq!(bench.script.asked.load(Ordering::SeqCst), 0);
    assert_eq!(ask(&bench, "good@example.com").await, "c", "others are served");
}

#[tokio::test]
async fn what_was_asked_before_garbage_is_answered() {
    let bench = Bench::tcp(Kind::Milter, Limits::default()).await;
    let mut mta = at_rcpt(&bench, "192.0.2.9").await;
    mta.send([packet('R', "<slowbad@example.com>\0"), b"\0\0\0\0".to_vec()].concat()).await;
    bench.script.gate.add_permits(1);
    assert!(mta.packet().await.starts_with("y550 5.1.1 "));
    assert_eq!(mta.rest().await, b"");
}

#[tokio::test]
async fn a_stop_answers_what_was_asked_and_closes() {
    let bench = Bench::unix(Kind::Milter, milter::limits()).await;
    let mut idle = at_rcpt(&bench, "192.0.2.9").await;
    let mut mta = at_rcpt(&bench, "192.0.2.9").await;
    mta.send(packet('R', "<slowbad@example.com>\0")).await;
    while bench.script.asked.load(Ordering::SeqCst) < 1 {
        tokio::task::yield_now().await;
    }
    bench.shutdown.cancel();
    assert_eq!(idle.rest().await, b"", "who asked nothing is closed at once");
    assert!(!bench.serving.is_finished());
    bench.script.gate.add_permits(1);
    assert!(mta.packet().await.starts_with("y550 5.1.1 "));
    assert_eq!(mta.rest().await, b"");
    bench.serving.await.unwrap();
    assert!(!bench.folder.path().join("test.sock").exists(), "the socket's file is gone");
}

#[tokio::test]
async fn steps_without_a_reply_hold_a_connection_open_and_silence_does_not() {
    let limits = Limits { idle: Duration::from_millis(50), ..Limits::default() };
    let bench = Bench::tcp(Kind::Milter, limits).await;
    let mut busy = at_rcpt(&bench, "192.0.2.9").await;
    let mut quiet = at_rcpt(&bench, "192.0.2.9").await;
    // Until the idle time of the one that came later has passed.
    let mut silence = std::pin::pin!(quiet.rest());
    let rest = loop {
        tokio::select! {
            rest = &mut silence => break rest,
            () = busy.send(packet('M', "<s@elsewhere.example>\0")) => tokio::task::yield_now().await,
        }
    };
    assert_eq!(rest, b"");
    assert_eq!(bench.counters.timed_out.load(Ordering::Relaxed), 1);
    assert_eq!(rcpt(&mut busy, "good@example.com").await, "c");
    // The options of each, and the one recipient.
    assert_eq!(bench.counters.requests.load(Ordering::Relaxed), 3, "what gets no reply is no request");
}

#[tokio::test]
async fn an_mta_may_be_silent_here_for_as_long_as_its_client_may_think() {
    // Sendmail's Timeout.command is an hour, and so is what it allows between two pieces of a message.
    assert!(milter::limits().idle > Duration::from_secs(2 * 3600));
    assert_eq!(Limits { idle: Limits::default().idle, ..milter::limits() }, Limits::default());
}

#[tokio::test]
async fn an_mta_of_an_older_version_gets_a_reply_to_every_step() {
    let bench = Bench::tcp(Kind::Milter, Limits::default()).await;
    let mut mta = bench.connect().await;
    mta.send(packet('O', [2_u32, 0x3f, 0x7f].map(u32::to_be_bytes).concat())).await;
    assert!(mta.packet().await.starts_with("O\0\0\0\x02"));
    for (step, reply) in [
        (packet('C', b"client.example\x004\x19\x19192.0.2.9\0"), "c"),
        (packet('M', "<>\0"), "c"),
        (packet('R', "<good@example.com>\0"), "c"),
        (packet('R', "<bad@example.com>\0"), "y550 5.1.1 "),
        (packet('E', ""), "c"),
    ] {
        mta.send(&step).await;
        let given = mta.packet().await;
        assert!(given.starts_with(reply), "{}: {given}", String::from_utf8_lossy(&step));
    }
}
