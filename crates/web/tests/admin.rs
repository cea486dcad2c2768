//! The API on the admin socket, over the socket.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use callahead_web::{HttpLimits, admin_router};
use common::Bench;
use serde_json::json;

async fn bench() -> Bench {
    Bench::start(admin_router, HttpLimits::default()).await
}

#[tokio::test]
async fn a_verdict_is_the_agreed_json_and_the_second_one_is_cached() {
    let bench = bench().await;
    let first = bench.get("/api/v1/recipients/bad@example.com/verdict?transcript=true").await.ok();
    assert_eq!(first["verdict"], "invalid");
    assert_eq!(first["row"], 11);
    assert_eq!(first["source"], "callout");
    assert_eq!(first["answer"]["code"], 550);
    assert_eq!(first["reply"], json!({"code": 550, "enhanced": "5.1.1", "text": "words"}));
    assert!(first["transcript"].is_array());
    bench.engine.shutdown(Duration::from_secs(5)).await;
    let second = bench.get("/api/v1/recipients/bad@example.com/verdict").await.ok();
    assert_eq!((&second["row"], &second["source"]), (&json!(8), &json!("cache")));
    let live = bench.get("/api/v1/recipients/bad@example.com/verdict?live=true").await.ok();
    assert_eq!(live["row"], 11);
    assert!(live.get("transcript").is_none(), "only where it is asked for");
}

#[tokio::test]
async fn cached_only_never_asks_the_destination() {
    let bench = bench().await;
    let decision = bench.get("/api/v1/recipients/new@example.com/verdict?cached=only").await.ok();
    assert_eq!(decision["verdict"], "unknown");
    assert_eq!(bench.engine.stats().flights, 0);
}

#[tokio::test]
async fn a_client_that_guesses_by_the_api_gets_no_more_callouts() {
    let bench = bench().await;
    let ask = async |recipient: String, client: &str| {
        bench
            .get(&format!("/api/v1/recipients/{recipient}@example.com/verdict?client={client}&sender=a@b.example"))
            .await
            .ok()
    };
    for number in 0..21 {
        assert_eq!(ask(format!("bad{number}"), "192.0.2.9").await["row"], 11);
    }
    let callouts = bench.engine.stats().flights;
    let put_off = ask("anna".to_owned(), "::ffff:192.0.2.9").await;
    assert_eq!((&put_off["row"], &put_off["answer"]["enhanced"]), (&json!(16), &json!("4.7.1")));
    assert_eq!(bench.engine.stats().flights, callouts);
    assert_eq!(ask("anna".to_owned(), "192.0.2.10").await["row"], 10, "others are asked for");
}

#[tokio::test]
async fn addresses_are_decoded_once() {
    let bench = bench().await;
    for (path, recipient) in [
        ("a%2Fb@example.com", "a/b@example.com"),
        ("a%2525b@example.com", "a%25b@example.com"),
        ("a+tag%40example.com", "a+tag@example.com"),
        ("%22a%20b%22@example.com", "\"a b\"@example.com"),
        ("d%C3%B6ner@example.com", "d\u{f6}ner@example.com"),
        // As MTAs and their logs write what needs quotes.
        ("a..b@example.com", "\"a..b\"@example.com"),
    ] {
        let decision = bench.get(&format!("/api/v1/recipients/{path}/verdict")).await.ok();
        assert_eq!(decision["recipient"], recipient);
        assert_eq!(decision["verdict"], "valid", "{path}");
    }
    let problem = bench.get("/api/v1/recipients/%FF@example.com/verdict").await.problem(400);
    assert!(problem.contains("percent-encoded"), "{problem}");
}

#[tokio::test]
async fn entries_are_shown_with_their_age() {
    let bench = bench().await;
    bench.keep(&["good@example.com", "bad@example.com", "any@any.example"]).await;
    let page = bench.get("/api/v1/cache").await.ok();
    let entries = page["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 3);
    assert_eq!(
        entries[1],
        json!({
            "recipient": "bad@example.com", "state": "invalid", "freshness": "fresh",
            "checked_at": "2027-01-15T08:00:00.000Z", "expires_at": "2027-01-15T10:00:00.000Z",
            "destination": "mail.example.net:25", "reply": {"code": 550, "enhanced": "5.1.1", "text": "words"},
        })
    );
    assert_eq!((&entries[0]["domain"], &entries[0]["state"]), (&json!("any.example"), &json!("accept_all")));

    bench.clock.advance(Duration::from_secs(97 * 3600));
    let later = bench.get("/api/v1/cache").await.ok();
    let freshness: Vec<_> = later["entries"].as_array().unwrap().iter().map(|entry| &entry["freshness"]).collect();
    assert_eq!(freshness, ["stale", "expired", "stale"]);
}

#[tokio::test]
async fn entries_are_filtered_and_paged() {
    let bench = bench().await;
    bench.keep(&["a1@example.com", "a2@example.com", "b@example.com", "bad@example.com", "a@other.example"]).await;
    let count =
        async |query: &str| bench.get(&format!("/api/v1/cache{query}")).await.ok()["entries"].as_array().unwrap().len();
    assert_eq!(count("?domain=example.com").await, 4);
    assert_eq!(count("?domain=Example.COM&prefix=a").await, 2);
    assert_eq!(count("?prefix=oth").await, 1);
    assert_eq!(count("?state=invalid").await, 1);
    assert_eq!(count("?state=null_mx").await, 0);

    let (mut seen, mut query) = (Vec::new(), "?limit=2".to_owned());
    loop {
        let page = bench.get(&format!("/api/v1/cache{query}")).await.ok();
        seen.extend(page["entries"].as_array().unwrap().iter().map(|e| e["recipient"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        query = format!("?limit=2&cursor={next}");
    }
    assert_eq!(seen, ["a1@example.com", "a2@example.com", "b@example.com", "bad@example.com", "a@other.example"]);
}

#[tokio::test]
async fn one_recipient_is_shown_with_what_bears_on_it() {
    let bench = bench().await;
    bench.keep(&["good@example.com", "any@any.example"]).await;
    let page = bench.get("/api/v1/cache/good@EXAMPLE.com").await.ok();
    assert_eq!(page["entries"][0]["recipient"], "good@example.com");
    let page = bench.get("/api/v1/cache/whoever@any.example").await.ok();
    assert_eq!(page["entries"][0]["domain"], "any.example");
    let problem = bench.get("/api/v1/cache/other@example.com").await.problem(404);
    assert_eq!(problem, "nothing is kept of other@example.com");
}

#[tokio::test]
async fn a_clear_says_what_it_cleared_and_holds() {
    let bench = bench().await;
    bench.keep(&["bad@example.com", "bad1@example.com", "bad2@example.com", "bad@other.example"]).await;
    let cleared = bench.delete("/api/v1/cache/bad@example.com").await.ok();
    assert_eq!((&cleared["scope"], &cleared["recipient"]), (&json!("recipient"), &json!("bad@example.com")));
    assert_eq!(cleared["entries"], 1);
    assert!(cleared["epoch"].is_u64());
    bench.get("/api/v1/cache/bad@example.com").await.problem(404);

    let cleared = bench.delete("/api/v1/cache?domain=example.com").await.ok();
    assert_eq!((&cleared["scope"], &cleared["entries"]), (&json!("domain"), &json!(2)));
    assert_eq!(bench.get("/api/v1/cache").await.ok()["entries"].as_array().unwrap().len(), 1);

    let cleared = bench.delete("/api/v1/cache").await.ok();
    assert_eq!((&cleared["scope"], &cleared["entries"]), (&json!("all"), &json!(1)));
    assert_eq!(bench.get("/api/v1/cache").await.ok()["entries"], json!([]));
}

#[tokio::test]
async fn a_recipient_is_shown_and_cleared_as_the_mta_logs_it_without_quotes() {
    let bench = bench().await;
    bench.keep(&["bad..one@example.com"]).await;
    let page = bench.get("/api/v1/cache/bad..one@example.com").await.ok();
    assert_eq!(page["entries"][0]["recipient"], "\"bad..one\"@example.com");
    assert_eq!(bench.delete("/api/v1/cache/bad..one@example.com").await.ok()["entries"], 1);
    bench.get("/api/v1/cache/%22bad..one%22@example.com").await.problem(404);
}

#[tokio::test]
async fn a_clear_that_does_not_say_exactly_what_clears_nothing() {
    let bench = bench().await;
    bench.keep(&["bad@example.com"]).await;
    for target in [
        "/api/v1/cache?",
        "/api/v1/cache?domain=",
        "/api/v1/cache?domain",
        "/api/v1/cache?domian=example.com",
        "/api/v1/cache?domain=example.com&domain=other.example",
        "/api/v1/cache?domain=ex%20ample",
        "/api/v1/cache?domain=other.example&prefix=a",
        "/api/v1/cache?&",
        "/api/v1/cache?%FF=1",
        "/api/v1/cache/bad",
        "/api/v1/cache/@example.com",
        "/api/v1/cache/%20",
        "/api/v1/cache/bad@example.com?all=true",
    ] {
        bench.delete(target).await.problem(400);
        assert!(bench.get("/api/v1/cache/bad@example.com").await.ok()["entries"].is_array(), "{target}");
    }
    bench.delete("/api/v1/cache/").await.problem(404);
    assert_eq!(bench.get("/api/v1/stats").await.ok()["cache"]["invalid"], 1);
}

#[tokio::test]
async fn each_wrong_request_has_a_sentence() {
    let bench = bench().await;
    for (target, words) in [
        ("/api/v1/cache?state=bogus", "known are valid, invalid, accept_all"),
        ("/api/v1/cache?limit=0", "a number from 1 to 1000"),
        ("/api/v1/cache?limit=many", "a number from 1 to 1000"),
        ("/api/v1/cache?cursor=zz", "begin again without it"),
        ("/api/v1/cache?colour=red", "known here are domain, prefix, state, cursor, limit"),
        ("/api/v1/cache/nobody", "no recipient address"),
        ("/api/v1/recipients/a@example.com/verdict?live=yes", "write true or false"),
        ("/api/v1/recipients/a@example.com/verdict?cached=true", "write only"),
        ("/api/v1/recipients/a@example.com/verdict?cached=only&live=true", "exclude each other"),
        ("/api/v1/recipients/a@example.com/verdict?client=mx.example", "write an IP address"),
        ("/api/v1/destinations?x=1", "none are known here"),
    ] {
        let problem = bench.get(target).await.problem(400);
        assert!(problem.contains(words), "{target}: {problem}");
    }
    assert!(bench.get("/api/v2").await.problem(404).contains("/api/v1/"));
    assert!(bench.request("PUT", "/api/v1/cache").await.problem(405).contains("the Allow header"));
}

#[tokio::test]
async fn stats_count_everything_and_each_domain() {
    let bench = bench().await;
    bench.keep(&["a@example.com", "bad@example.com", "b@other.example", "any@any.example"]).await;
    let stats = bench.get("/api/v1/stats").await.ok();
    assert_eq!((&stats["cache"]["valid"], &stats["cache"]["invalid"]), (&json!(2), &json!(1)));
    assert_eq!(stats["cache"]["domains"], 1);
    assert_eq!(stats["engine"]["flights"], 4);
    assert_eq!(stats["listeners"][0]["name"], "http");
    let stats = bench.get("/api/v1/stats?domain=example.com").await.ok();
    assert_eq!(stats, json!({"domain": "example.com", "cache": {"valid": 1, "invalid": 1, "domains": 0}}));
    let stats = bench.get("/api/v1/stats/domains").await.ok();
    assert_eq!(stats["domains"][0], json!({"domain": "any.example", "valid": 0, "invalid": 0, "state": "accept_all"}));
    assert_eq!(stats["domains"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn configured_domains_are_shown_read_only() {
    let bench = bench().await;
    let page = bench.get("/api/v1/domains").await.ok();
    let names: Vec<_> = page["domains"].as_array().unwrap().iter().map(|domain| &domain["name"]).collect();
    assert_eq!(names, ["any.example", "example.com", "other.example"]);
    let domain = &page["domains"][1];
    assert_eq!(domain["route"], json!(["mx"]));
    assert_eq!((&domain["valid_ttl"], &domain["invalid_refresh"]), (&json!("96h"), &json!("30m")));
    assert_eq!(domain["read_only"], true);
    assert_eq!(bench.get("/api/v1/destinations").await.ok(), json!({"destinations": []}));
}

#[tokio::test]
async fn the_admin_socket_is_for_its_owner() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = bench().await;
    let mode = std::fs::metadata(bench.folder.path().join("http.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
