//! Exports of the decision log: harmless in a spreadsheet, and no more work than somebody reads.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use callahead_cache::Timestamp;
use callahead_engine::{Action, Answer, Decision, Listener, Observer as _, Question, Source, Verdict};
use callahead_web::{HttpLimits, admin_router};
use common::Bench;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// So many that an export is larger than all that lies between the two ends.
const ROWS: usize = 20_000;

fn decision(recipient: &str, reply: &str) -> Decision {
    Decision {
        recipient: recipient.to_owned(),
        verdict: Some(Verdict::Invalid),
        accept_all: false,
        row: 11,
        reason: Cow::Borrowed("the destination refuses the recipient"),
        source: Source::Callout,
        answer: Answer { action: Action::Reject, code: Some(550), enhanced: None, text: Cow::Owned(reply.to_owned()) },
        would: None,
        destination: Some("mail.example.net:25".into()),
        reply: None,
        checked_at: None,
        expires_at: None,
        at: Timestamp(0),
        elapsed: Duration::from_millis(3),
        transcript: None,
    }
}

async fn log(bench: &Bench, rows: impl Iterator<Item = (String, String)>) {
    let log = &bench.administration.log;
    for (recipient, hostile) in rows {
        let question = Question { sender: Some(&hostile), ..Question::new(b"u@example.com", Listener::Policy) };
        log.decided(&question, &Decision { at: bench.engine.now(), ..decision(&recipient, &hostile) });
    }
    bench.logged().await;
}

#[tokio::test]
async fn no_cell_of_an_export_is_a_formula_whoever_chose_its_text() {
    let bench = Bench::start(admin_router, HttpLimits::default()).await;
    let hostile = [
        "=1+1",
        "+1",
        "-2+3",
        "@SUM(A1)",
        "\t=1",
        "\r\n=1",
        "=HYPERLINK(\"http://evil.example\",\"x\")",
        "a,\"b\"\n=c",
    ];
    log(&bench, hostile.iter().map(|text| (format!("{}@example.com", text.trim()), (*text).to_owned()))).await;
    let csv = bench.get("/api/v1/log?format=csv").await;
    assert_eq!(csv.status, 200);
    let body = unchunked(&csv.body);
    let mut reader = csv::Reader::from_reader(body.as_bytes());
    let columns = reader.headers().unwrap().len();
    let records: Vec<_> = reader.records().collect::<Result<_, _>>().unwrap();
    assert_eq!(records.len(), hostile.len(), "no text makes a line of its own");
    for record in records {
        assert_eq!(record.len(), columns);
        for cell in &record {
            assert!(!cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']), "{cell:?}");
        }
    }
}

/// A body that came in chunks (RFC 9112 7.1).
fn unchunked(body: &str) -> String {
    let (mut rest, mut out) = (body, String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        out.push_str(&after[..size]);
        if size == 0 {
            break;
        }
        rest = &after[size + 2..];
    }
    out
}

#[tokio::test]
async fn an_export_whose_client_leaves_ends_and_one_that_is_read_has_every_row() {
    let bench = Bench::start(admin_router, HttpLimits::default()).await;
    log(&bench, (0..ROWS).map(|n| (format!("user{n}@example.com"), "x@sender.example".to_owned()))).await;
    let state = bench.state();
    let holders = || Arc::strong_count(&state.readiness);
    let at_rest = holders();
    let mut stream = bench.connect().await;
    stream.write_all(b"GET /api/v1/log?format=csv HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut begun = [0; 4096];
    stream.read_exact(&mut begun).await.unwrap();
    assert!(begun.starts_with(b"HTTP/1.1 200"));
    // It waits for its reader: nothing moves while nobody reads.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(holders() > at_rest, "the export holds what it reads from, and is not done");
    drop(stream);
    let began = Instant::now();
    while holders() > at_rest {
        assert!(began.elapsed() < Duration::from_secs(60), "an export goes on for nobody");
        tokio::task::yield_now().await;
    }
    let all = bench.get("/api/v1/log?format=csv").await;
    assert_eq!(unchunked(&all.body).lines().count(), ROWS + 1);
    let lines = bench.get("/api/v1/log?format=jsonl").await;
    assert_eq!(unchunked(&lines.body).lines().count(), ROWS);
}
