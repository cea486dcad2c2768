//! Domains that lead elsewhere, and where routes and relays may lead.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use callahead_web::{HttpLimits, admin_router};
use common::Bench;
use serde_json::{Value, json};

async fn bench() -> Bench {
    Bench::start(admin_router, HttpLimits::default()).await
}

async fn put(bench: &Bench, name: &str, route: &[&str]) -> u16 {
    let body = json!({"name": name, "route": route});
    let made = bench.call("", "POST", "/api/v1/domains", Some(&body)).await;
    match made.status {
        201 => 201,
        _ => bench.call("", "PUT", &format!("/api/v1/domains/{name}"), Some(&body)).await.status,
    }
}

/// What the cache says of a recipient, and `None` where it has to be asked for.
async fn cached(bench: &Bench, recipient: &str) -> Option<Value> {
    let decision = bench.get(&format!("/api/v1/recipients/{recipient}/verdict?cached=only")).await.ok();
    (decision["verdict"] != "unknown").then(|| decision["source"].clone())
}

/// The audit log's entries of clears, the newest first.
async fn clear_entries(bench: &Bench) -> Vec<Value> {
    let audit = bench.get("/api/v1/audit").await.ok();
    let clears = audit["entries"].as_array().unwrap().iter().filter(|entry| entry["action"] == "cache.clear");
    clears.cloned().collect()
}

/// Who cleared what, the newest first.
async fn clears(bench: &Bench) -> Vec<String> {
    let who_and_what =
        |entry: &Value| format!("{} {}", entry["who"].as_str().unwrap(), entry["object"].as_str().unwrap());
    clear_entries(bench).await.iter().map(who_and_what).collect()
}

#[tokio::test]
async fn local_parts_told_apart_in_another_way_are_forgotten_so_that_no_spelling_outlives_a_clear() {
    let bench = bench().await;
    assert_eq!(put(&bench, "new.example", &["a.example.net"]).await, 201);
    bench.keep(&["Anna@new.example"]).await;
    assert!(cached(&bench, "Anna@new.example").await.is_some());
    for case in ["fold", "keep"] {
        let patch = json!({"local_part_case": case});
        bench.call("", "PATCH", "/api/v1/domains/new.example", Some(&patch)).await.ok();
        assert!(cached(&bench, "Anna@new.example").await.is_none(), "{case}");
    }
    let entry = &clear_entries(&bench).await[0];
    assert_eq!(entry["before"], json!({"route": ["a.example.net:25"], "local_part_case": "fold"}));
}

#[tokio::test]
async fn another_route_forgets_what_the_old_destination_said_and_other_changes_do_not() {
    let bench = bench().await;
    assert_eq!(put(&bench, "new.example", &["a.example.net"]).await, 201);
    assert_eq!(clears(&bench).await, [""; 0], "nothing was known of it");
    bench.keep(&["anna@new.example", "bad@new.example", "anna@example.com"]).await;
    let change = async |patch: Value| {
        bench.call("", "PATCH", "/api/v1/domains/new.example", Some(&patch)).await.ok();
    };
    for same in [
        json!({"callouts": "observe"}),
        json!({"tls": "required"}),
        json!({"relay": ["filter.example.net"]}),
        json!({"valid": ["sales"]}),
        json!({"route": ["A.example.NET:25"]}),
    ] {
        change(same.clone()).await;
        assert!(cached(&bench, "anna@new.example").await.is_some(), "{same} is no other destination");
    }
    for other in [
        json!({"route": ["b.example.net"]}),
        json!({"route": ["b.example.net", "a.example.net"]}),
        json!({"route": ["a.example.net", "b.example.net"]}),
        json!({"route": ["a.example.net:2525", "b.example.net"]}),
        json!({"route": ["mx"]}),
    ] {
        bench.keep(&["anna@new.example", "bad@new.example"]).await;
        assert!(cached(&bench, "bad@new.example").await.is_some());
        change(other.clone()).await;
        assert_eq!(cached(&bench, "anna@new.example").await, None, "{other}");
        assert_eq!(cached(&bench, "bad@new.example").await, None, "{other}");
    }
    assert!(cached(&bench, "anna@example.com").await.is_some(), "other domains keep what is theirs");
    let clears = clears(&bench).await;
    assert_eq!(clears.len(), 5, "{clears:?}");
    assert!(clears.iter().all(|clear| clear == "admin socket new.example"), "{clears:?}");
    let newest = clear_entries(&bench).await.remove(0);
    assert_eq!(newest["before"], json!({"route": ["a.example.net:2525", "b.example.net:25"]}));
    assert_eq!(newest["after"], json!({"route": ["mx"]}));
}

#[tokio::test]
async fn a_domain_that_is_removed_is_forgotten_and_one_of_the_file_takes_its_place_with_a_clean_slate() {
    let bench = bench().await;
    put(&bench, "new.example", &["a.example.net"]).await;
    bench.keep(&["anna@new.example"]).await;
    assert_eq!(bench.delete("/api/v1/domains/new.example").await.status, 204);
    put(&bench, "new.example", &["a.example.net"]).await;
    assert_eq!(cached(&bench, "anna@new.example").await, None);
    assert_eq!(clears(&bench).await, ["admin socket new.example"]);

    // A record behind a domain of the file changes nothing of where that leads.
    bench.keep(&["anna@example.com"]).await;
    assert_eq!(put(&bench, "example.com", &["b.example.net"]).await, 409);
    assert!(cached(&bench, "anna@example.com").await.is_some());
}

#[tokio::test]
async fn a_wildcard_forgets_what_it_covers_and_nothing_that_others_cover() {
    let bench = bench().await;
    put(&bench, "*.w.example", &["a.example.net"]).await;
    put(&bench, "own.w.example", &["c.example.net"]).await;
    let (covered, own) = (["anna@one.w.example", "bad@two.deep.w.example"], "anna@own.w.example");
    let keep = async || bench.keep(&[covered[0], covered[1], own, "anna@w.example"]).await;
    let known = async || {
        let mut known = Vec::new();
        for recipient in [covered[0], covered[1], own] {
            known.push(cached(&bench, recipient).await.is_some());
        }
        known
    };
    keep().await;
    put(&bench, "*.w.example", &["b.example.net"]).await;
    assert_eq!(known().await, [false, false, true]);

    // A longer wildcard, and a name, take what the shorter one covered; and give it back.
    keep().await;
    put(&bench, "*.deep.w.example", &["d.example.net"]).await;
    assert_eq!(known().await, [true, false, true]);
    keep().await;
    put(&bench, "one.w.example", &["b.example.net"]).await;
    assert_eq!(known().await, [true, true, true], "where it leads is the same");
    put(&bench, "one.w.example", &["e.example.net"]).await;
    assert_eq!(known().await, [false, true, true]);
    keep().await;
    assert_eq!(bench.delete("/api/v1/domains/one.w.example").await.status, 204);
    assert_eq!(known().await, [false, true, true], "the wildcard covers it again, and leads elsewhere");
    keep().await;
    assert_eq!(bench.delete("/api/v1/domains/*.w.example").await.status, 204);
    put(&bench, "*.w.example", &["b.example.net"]).await;
    assert_eq!(known().await, [false, true, true]);
    assert_eq!(
        clears(&bench).await,
        ["*.w.example", "one.w.example", "one.w.example", "*.deep.w.example", "*.w.example", "own.w.example"]
            .map(|name| format!("admin socket {name}"))
    );
}

#[tokio::test]
async fn a_callout_that_was_under_way_to_the_old_destination_is_not_kept() {
    let bench = bench().await;
    for name in ["new.example", "*.w.example"] {
        put(&bench, name, &["a.example.net"]).await;
        let recipient = format!("slow@{}", name.replace('*', "sub"));
        let path = format!("/api/v1/recipients/{recipient}/verdict");
        let asked = async { bench.get(&path).await.ok() };
        let moved = async {
            while bench.engine.stats().under_way == 0 {
                tokio::task::yield_now().await;
            }
            assert_eq!(put(&bench, name, &["b.example.net"]).await, 200);
            bench.gate.add_permits(1);
        };
        let (decision, ()) = tokio::join!(asked, moved);
        assert_eq!(decision["verdict"], "valid", "whoever waits is told");
        bench.engine.shutdown(Duration::from_secs(5)).await;
        assert_eq!(cached(&bench, &recipient).await, None, "{name}");
    }
}

#[tokio::test]
async fn a_relay_is_shown_replaced_taken_away_and_held_to_the_rules_of_routes() {
    let bench = bench().await;
    let body = |relay: Value| json!({"name": "new.example", "route": ["mx"], "relay": relay});
    let made =
        bench.call("", "POST", "/api/v1/domains", Some(&body(json!(["filter.example.net:2525"])))).await.created();
    assert_eq!(made["relay"], json!(["filter.example.net:2525"]));
    let path = "/api/v1/domains/new.example";
    let shown = bench.call("", "PATCH", path, Some(&json!({"relay": ["mx"]}))).await.ok();
    assert_eq!(shown["relay"], json!(["mx"]));
    for (relay, words) in [
        (json!(["127.0.0.1:2525"]), "relay: 127.0.0.1:2525 lies in deny_destinations"),
        (json!(["[::1]:25"]), "relay: [::1]:25 lies in deny_destinations"),
        (json!(["not a host"]), "relay: "),
        (json!(vec!["mx"; 21]), "relay: name at most 20 hosts"),
    ] {
        let refused = bench.call("", "PUT", path, Some(&body(relay.clone()))).await.problem(422);
        assert!(refused.contains(words), "{relay}: {refused}");
    }
    let shown = bench.call("", "PATCH", path, Some(&json!({"relay": null}))).await.ok();
    assert_eq!(shown.get("relay"), None);
    let shown = bench.call("", "PUT", path, Some(&body(json!([])))).await.ok();
    assert_eq!(shown.get("relay"), None, "an empty one is none");
}
