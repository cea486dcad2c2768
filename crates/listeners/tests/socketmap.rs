//! The socketmap listener over real sockets, before an engine with a scripted destination.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::Ordering;

use callahead_listeners::Limits;
use common::{Bench, Kind, lookup};
use tokio::io::AsyncWriteExt as _;

async fn ask(bench: &Bench, map: &str, key: &str) -> String {
    let mut client = bench.connect().await;
    client.send(lookup(map, key)).await;
    client.netstring().await
}

#[tokio::test]
async fn each_answer_of_the_table_has_its_status() {
    let bench = Bench::tcp(Kind::Socketmap, Limits::default()).await;
    for (key, status) in [
        ("user@bad..domain", "NOTFOUND "),
        ("user@elsewhere.example", "NOTFOUND "),
        ("listed@example.com", "OK listed@example.com"),
        ("gone@example.com", "NOTFOUND "),
        ("whoever@off.example", "OK whoever@off.example"),
        ("any@any.example", "OK any@any.example"),
        ("good@EXAMPLE.com", "OK good@example.com"),
        ("bad@example.com", "NOTFOUND "),
        ("bad@trial.example", "TEMP "),
        ("bad@watch.example", "OK bad@watch.example"),
        ("grey@example.com", "TEMP "),
        ("down@example.com", "TEMP "),
        ("busy@example.com", "TEMP "),
        ("bounce@bounce.example", "OK bounce@bounce.example"),
        ("nullmx@null.example", "NOTFOUND "),
    ] {
        for time in ["first", "again"] {
            let reply = ask(&bench, "recipients", key).await;
            assert!(reply.starts_with(status), "{key} {time}: {reply}");
            assert!(status.ends_with(' ') || reply == status, "{key} {time}: {reply}");
            assert!(!reply.contains("mail.example.net"), "{reply}");
        }
    }
}

/// What is not found is "550 5.1.1 User unknown" to senders, and lists take its address off.
#[tokio::test]
async fn a_mailbox_that_exists_and_takes_nothing_now_is_not_told_to_be_unknown() {
    let bench = Bench::tcp(Kind::Socketmap, Limits::default()).await;
    for (key, why) in [("full@example.com", "the mailbox is full"), ("disabled@example.com", "the mailbox is disabled")]
    {
        let temp = format!("TEMP Recipient address rejected: {why}");
        assert_eq!(ask(&bench, "recipients", key).await, temp);
        assert_eq!(ask(&bench, "recipients", key).await, format!("{temp} (cached)"));
    }
}

#[tokio::test]
async fn a_key_without_both_parts_is_never_found() {
    let bench = Bench::tcp(Kind::Socketmap, Limits::default()).await;
    for key in ["@example.com", "good", "postmaster", "listed", "good@", "@", "", "example.com", "@any.example"] {
        assert_eq!(ask(&bench, "recipients", key).await, "NOTFOUND ", "{key}");
    }
    assert_eq!(bench.script.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn the_domains_map_knows_what_is_configured() {
    let bench = Bench::unix(Kind::Socketmap, Limits::default()).await;
    assert_eq!(ask(&bench, "domains", "Example.COM").await, "OK example.com");
    assert_eq!(ask(&bench, "domains", "a.wild.example").await, "OK a.wild.example");
    for key in ["elsewhere.example", ".example.com", "example", "user@example.com", "", "[192.0.2.1]", "*"] {
        assert_eq!(ask(&bench, "domains", key).await, "NOTFOUND ", "{key}");
    }
}

#[tokio::test]
async fn a_map_that_is_not_there_is_a_lasting_fault_that_names_the_maps() {
    let bench = Bench::tcp(Kind::Socketmap, Limits::default()).await;
    let reply = ask(&bench, "recipient", "good@example.com").await;
    assert_eq!(reply, "PERM there is no map \"recipient\" here: use recipients or domains");
    let mut client = bench.connect().await;
    client.send("10:recipients,").await;
    assert!(client.netstring().await.starts_with("PERM "));
}

#[tokio::test]
async fn lookups_at_once_are_answered_in_order() {
    let bench = Bench::tcp(Kind::Socketmap, Limits { pipeline: 3, ..Limits::default() }).await;
    let mut client = bench.connect().await;
    let mut requests = lookup("recipients", "slow@example.com");
    for n in 0..20 {
        requests += &lookup("recipients", &format!("good{n}@example.com"));
    }
    client.send(requests).await;
    bench.script.gate.add_permits(1);
    assert_eq!(client.netstring().await, "OK slow@example.com");
    for n in 0..20 {
        assert_eq!(client.netstring().await, format!("OK good{n}@example.com"));
    }
}

#[tokio::test]
async fn what_is_no_netstring_closes_the_connection() {
    let bench = Bench::tcp(Kind::Socketmap, Limits::default()).await;
    for garbage in ["GET / HTTP/1.1\r\n\r\n", "99999:", "5:hello;", "x", "007:abcdefg,"] {
        let mut client = bench.connect().await;
        client.send(garbage).await;
        assert_eq!(client.rest().await, b"", "{garbage}");
    }
    let mut client = bench.connect().await;
    client.send("26:recipients good@example.co").await;
    client.0.shutdown().await.unwrap();
    assert_eq!(client.rest().await, b"", "half a request is none");
}

#[tokio::test]
async fn a_key_that_is_no_utf8_is_not_found() {
    let bench = Bench::tcp(Kind::Socketmap, Limits::default()).await;
    let mut client = bench.connect().await;
    client.send(b"25:recipients \xff\xfe@example.com,").await;
    assert_eq!(client.netstring().await, "NOTFOUND ");
}

#[tokio::test]
async fn a_stop_answers_what_was_asked() {
    let bench = Bench::tcp(Kind::Socketmap, Limits::default()).await;
    let mut client = bench.connect().await;
    client.send(lookup("recipients", "slow@example.com")).await;
    while bench.script.asked.load(Ordering::SeqCst) < 1 {
        tokio::task::yield_now().await;
    }
    bench.shutdown.cancel();
    bench.script.gate.add_permits(1);
    assert_eq!(client.rest().await, b"19:OK slow@example.com,");
    bench.serving.await.unwrap();
}
