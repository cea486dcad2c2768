//! The http listener: metrics, health, limits, the stop.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::time::Duration;

use axum::extract::Form;
use axum::routing::post;
use callahead_web::{HttpLimits, OPENMETRICS, admin_router, http_router};
use common::Bench;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test]
async fn metrics_are_openmetrics_and_count_decisions_by_row() {
    let bench = Bench::start_tcp(http_router, HttpLimits::default()).await;
    for recipient in ["a@example.com", "a@example.com", "bad@example.com", "x@elsewhere.example", "not an address@"] {
        bench.decide(recipient).await;
        bench.engine.shutdown(Duration::from_secs(5)).await;
    }
    let response = bench.get("/metrics").await;
    assert_eq!(response.status, 200);
    assert!(response.head.contains(&format!("content-type: {OPENMETRICS}")), "{}", response.head);
    assert!(response.body.ends_with("# EOF\n"));
    for line in [
        "callahead_decisions_total{listener=\"policy\",verdict=\"valid\",row=\"10\",source=\"callout\"} 1",
        "callahead_decisions_total{listener=\"policy\",verdict=\"valid\",row=\"7\",source=\"cache\"} 1",
        "callahead_decisions_total{listener=\"policy\",verdict=\"invalid\",row=\"11\",source=\"callout\"} 1",
        "callahead_decisions_total{listener=\"policy\",verdict=\"not_ours\",row=\"2\",source=\"policy\"} 1",
        "callahead_decisions_total{listener=\"policy\",verdict=\"none\",row=\"1\",source=\"policy\"} 1",
        "callahead_decision_duration_seconds_count{source=\"callout\"} 2",
        "callahead_decision_duration_seconds_bucket{le=\"+Inf\",source=\"callout\"} 2",
        "callahead_cache_entries{kind=\"valid\"} 1",
        "callahead_cache_entries{kind=\"invalid\"} 1",
        "callahead_flights_total 2",
        "callahead_cache_write_errors_total 0",
        "callahead_config_last_reload_success 1",
        concat!("callahead_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        assert!(response.body.lines().any(|found| found == line), "{line} is not in\n{}", response.body);
    }
    let at = format!("callahead_listener_open{{listener=\"http\",at=\"{}\"}} 1", bench.at);
    assert!(response.body.contains(&at), "{}", response.body);
    assert!(!response.body.contains("_total_total") && !response.body.contains("a@example.com"));
}

#[tokio::test]
async fn the_buckets_of_durations_add_up() {
    let bench = Bench::start_tcp(http_router, HttpLimits::default()).await;
    for _ in 0..7 {
        bench.decide("x@elsewhere.example").await;
    }
    let body = bench.get("/metrics").await.body;
    let mut last = 0;
    for line in
        body.lines().filter(|l| l.starts_with("callahead_decision_duration_seconds_bucket") && l.contains("policy"))
    {
        let count: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(count >= last, "{line}");
        last = count;
    }
    assert_eq!(last, 7);
}

#[tokio::test]
async fn ready_means_started_and_not_stopping() {
    let bench = Bench::start_tcp(http_router, HttpLimits::default()).await;
    assert_eq!(bench.get("/healthz").await.status, 200);
    let response = bench.get("/readyz").await;
    assert_eq!(response.status, 503);
    assert_eq!(response.json()["reasons"][0], "not all listeners are up yet");
    bench.readiness.set_started();
    assert_eq!(bench.get("/readyz").await.ok()["status"], "ready");
    bench.readiness.set_draining();
    assert_eq!(bench.get("/readyz").await.json()["reasons"][0], "the process is stopping");
    assert_eq!(bench.get("/healthz").await.status, 200, "it lives all the same");
}

#[tokio::test]
async fn a_failed_reload_is_seen_in_metrics_and_whoever_asks_is_not_told_what_the_file_says() {
    let bench = Bench::start_tcp(http_router, HttpLimits::default()).await;
    bench.readiness.set_reloaded(Some("line 3: unknown key".into()));
    assert!(bench.get("/metrics").await.body.contains("callahead_config_last_reload_success 0"));
    bench.readiness.set_started();
    let ready = bench.get("/readyz").await.ok();
    assert_eq!(ready["warnings"], serde_json::json!(["the configuration can't be read again"]), "and not its words");
    bench.readiness.set_reloaded(None);
    assert!(bench.get("/metrics").await.body.contains("callahead_config_last_reload_success 1"));
}

#[tokio::test]
async fn the_api_on_the_http_listener_needs_a_token_and_health_does_not() {
    let bench = Bench::start_tcp(http_router, HttpLimits::default()).await;
    assert!(bench.delete("/api/v1/cache").await.problem(401).contains("callahead token create"));
    assert!(bench.get("/nothing").await.problem(404).contains("/metrics"));
    assert!(bench.request("POST", "/metrics").await.problem(405).contains("GET"));
}

#[tokio::test]
async fn who_says_nothing_or_half_a_head_is_closed_after_a_while() {
    let limits = HttpLimits { head: Duration::from_millis(50), ..HttpLimits::default() };
    let bench = Bench::start_tcp(http_router, limits).await;
    for said in ["", "GET /metrics HTTP/1.1\r\nHost:"] {
        let mut stream = bench.connect().await;
        stream.write_all(said.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn a_body_without_end_is_answered_after_a_while_whatever_reads_it_and_its_connection_is_closed() {
    let limits = HttpLimits { body: Duration::from_millis(50), ..HttpLimits::default() };
    let router = |state| {
        let form = |Form(form): Form<HashMap<String, String>>| async move { form.len().to_string() };
        http_router(state).route("/form", post(form))
    };
    let bench = Bench::start_tcp(router, limits).await;
    let form = ("/form", "application/x-www-form-urlencoded", "a=1");
    for (target, kind, part) in [form, ("/api/v1/session", "application/json", "{\"account\":")] {
        let mut stream = bench.connect().await;
        let head = format!("POST {target} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: 100\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(part.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        tokio::time::timeout(Duration::from_secs(20), read).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("did not arrive within 0.05 s"), "{answer}");
    }
    let headers = [("Content-Type", form.1)];
    assert_eq!(bench.send("POST", "/form", &headers, "a=1&b=2").await.body, "2", "one that comes in time is read");
}

#[tokio::test]
async fn a_head_without_end_and_garbage_are_refused() {
    let bench = Bench::start_tcp(http_router, HttpLimits::default()).await;
    for said in [format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000)), "\0\u{1}\r\n\r\n".repeat(100)] {
        let mut stream = bench.connect().await;
        let _ = stream.write_all(said.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
    assert_eq!(bench.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn a_stop_answers_what_is_under_way() {
    let bench = Bench::start(admin_router, HttpLimits::default()).await;
    let mut stream = bench.connect().await;
    stream.write_all(b"GET /api/v1/recipients/slow@example.com/verdict HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    while bench.engine.stats().under_way == 0 {
        tokio::task::yield_now().await;
    }
    bench.shutdown.cancel();
    bench.gate.add_permits(1);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"verdict\":\"valid\""), "{answer}");
    bench.serving.await.unwrap();
}

#[tokio::test]
async fn connections_beyond_the_bound_are_closed_at_once() {
    let bench = Bench::start_tcp(http_router, HttpLimits { connections: 1, ..HttpLimits::default() }).await;
    let mut first = bench.connect().await;
    first.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    first.read_exact(&mut answer).await.unwrap();
    let mut rest = Vec::new();
    let _ = bench.connect().await.read_to_end(&mut rest).await;
    assert_eq!(rest, b"");
}
