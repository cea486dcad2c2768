//! The API's own promises: changes take effect at once, versions, pages, secrets shown once, throttling, exports.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use callahead_control::{Change, Expected, Kind};
use callahead_engine::{Listener, Question};
use callahead_listeners::Stream;
use callahead_web::{HttpLimits, admin_router, http_router, openapi};
use common::{Bench, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// The API by tokens, with the token of an administrator.
async fn bench() -> (Bench, String) {
    let bench = Bench::start_tcp(http_router, HttpLimits::default()).await;
    let token = token(&bench, "root", "admin").await;
    (bench, token)
}

/// Makes an account and a token for it, as the first ones are made: through the admin socket's door.
async fn token(bench: &Bench, name: &str, role: &str) -> String {
    let door = bench.beside(admin_router).await;
    door.call("", "POST", "/api/v1/accounts", Some(&json!({"name": name, "role": role}))).await.created();
    let made = door.call("", "POST", "/api/v1/tokens", Some(&json!({"account": name}))).await.created();
    made["token"].as_str().unwrap().to_owned()
}

/// Asks for the stream of events, of which nothing is read yet.
async fn watch(bench: &Bench, token: &str) -> Stream {
    let mut stream = bench.connect().await;
    let request =
        format!("GET /api/v1/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn verdict(bench: &Bench, recipient: &str) -> Option<&'static str> {
    let decision = bench.decide(recipient).await;
    decision.verdict.map(|verdict| verdict.as_str())
}

fn etag(response: &Response) -> String {
    let line = response.head.lines().find_map(|line| line.strip_prefix("etag: "));
    line.unwrap().to_owned()
}

#[tokio::test]
async fn a_domain_is_in_force_when_its_answer_comes_and_gone_when_it_is_deleted() {
    let (bench, token) = bench().await;
    assert_eq!(verdict(&bench, "a@new.example").await, Some("not_ours"));
    let body = json!({"name": "New.Example", "route": ["mail.example.net:2525"], "invalid": ["gone"]});
    let made = bench.call(&token, "POST", "/api/v1/domains", Some(&body)).await;
    let domain = made.created();
    assert_eq!((&domain["name"], &domain["read_only"]), (&json!("new.example"), &json!(false)));
    assert_eq!((&domain["valid_ttl"], &domain["own_keys"]), (&json!("96h"), &json!([])));
    assert_eq!(verdict(&bench, "a@new.example").await, Some("valid"));
    assert_eq!(verdict(&bench, "gone@new.example").await, Some("invalid"));

    let listed = bench.call(&token, "GET", "/api/v1/domains?prefix=new", None).await.ok();
    assert_eq!((&listed["domains"][0]["invalid_count"], listed["domains"][0].get("invalid")), (&json!(1), None));
    let patch = json!({"invalid": null, "callouts": "observe"});
    let changed = bench.call(&token, "PATCH", "/api/v1/domains/new.example", Some(&patch)).await.ok();
    assert_eq!((&changed["invalid"], &changed["own_keys"]), (&json!([]), &json!(["callouts"])));
    assert_eq!(verdict(&bench, "gone@new.example").await, Some("valid"));
    let put = json!({"name": "new.example", "route": ["mx"]});
    let changed = bench.call(&token, "PUT", "/api/v1/domains/new.example", Some(&put)).await.ok();
    assert_eq!((&changed["route"], &changed["callouts"]), (&json!(["mx"]), &json!("enforce")));

    for _ in 0..2 {
        let deleted = bench.call(&token, "DELETE", "/api/v1/domains/new.example", None).await;
        assert_eq!((deleted.status, deleted.body.as_str()), (204, ""), "deleting is idempotent");
    }
    assert_eq!(verdict(&bench, "a@new.example").await, Some("not_ours"));
    let audit = bench.call(&token, "GET", "/api/v1/audit", None).await.ok();
    let actions: Vec<_> = audit["entries"].as_array().unwrap().iter().map(|entry| entry["action"].clone()).collect();
    assert_eq!(
        actions[..6],
        ["cache.clear", "domain.delete", "cache.clear", "domain.change", "domain.change", "domain.create"]
            .map(|action| json!(action)),
        "another route, and the end of it, clear what was known"
    );
    let entry = &audit["entries"][4];
    assert_eq!((&entry["who"], &entry["object"]), (&json!("root"), &json!("new.example")));
    assert!(entry["from"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!((&entry["before"]["invalid"], &entry["after"]["callouts"]), (&json!(["gone"]), &json!("observe")));
}

#[tokio::test]
async fn the_files_domains_are_read_only_and_keep_their_names() {
    let (bench, token) = bench().await;
    let body = json!({"name": "example.com", "route": ["mx"]});
    let sentence = bench.call(&token, "POST", "/api/v1/domains", Some(&body)).await.problem(409);
    assert!(sentence.contains("stands in the configuration file"), "{sentence}");
    for (method, body) in [("PUT", Some(&body)), ("PATCH", Some(&json!({"valid": ["x"]}))), ("DELETE", None)] {
        let sentence = bench.call(&token, method, "/api/v1/domains/example.com", body).await.problem(409);
        assert!(sentence.contains("change it there"), "{sentence}");
    }
    let shown = bench.call(&token, "GET", "/api/v1/domains/example.com", None).await.ok();
    assert_eq!(shown["read_only"], true);
}

#[tokio::test]
async fn a_change_of_a_version_that_is_no_longer_there_is_refused() {
    let (bench, token) = bench().await;
    let body = json!({"name": "new.example", "route": ["mx"]});
    let made = bench.call(&token, "POST", "/api/v1/domains", Some(&body)).await;
    let first = etag(&made);
    let bearer = format!("Bearer {token}");
    let patch = async |tag: &str, body: &str| {
        let headers =
            [("Authorization", bearer.as_str()), ("If-Match", tag), ("Content-Type", "application/merge-patch+json")];
        bench.send("PATCH", "/api/v1/domains/new.example", &headers, body).await
    };
    let second = etag(&patch(&first, "{\"valid\":[\"a\"]}").await);
    assert_ne!(first, second);
    let sentence = patch(&first, "{\"valid\":[\"b\"]}").await.problem(412);
    assert!(sentence.contains("read it again"), "{sentence}");
    assert!(patch("5", "{\"valid\":[\"b\"]}").await.problem(400).contains("with its quotes"));
    assert_eq!(patch("*", "{\"valid\":[\"c\"]}").await.ok()["valid"], json!(["c"]));
    let headers = [("Authorization", bearer.as_str()), ("If-Match", second.as_str())];
    bench.send("DELETE", "/api/v1/domains/new.example", &headers, "").await.problem(412);
    bench.send("DELETE", "/api/v1/domains/never.example", &headers, "").await.problem(412);
}

#[tokio::test]
async fn of_changes_at_the_same_time_each_is_made_whole_or_refused() {
    let (bench, token) = bench().await;
    let body = json!({"name": "new.example", "route": ["mx"]});
    bench.call(&token, "POST", "/api/v1/domains", Some(&body)).await.created();
    let change = async |n: usize| {
        let patch = json!({"valid": [format!("v{n}")], "invalid": [format!("i{n}")]});
        bench.call(&token, "PATCH", "/api/v1/domains/new.example", Some(&patch)).await.status
    };
    let statuses = futures_util::future::join_all((0..10).map(change)).await;
    assert!(statuses.iter().all(|status| matches!(status, 200 | 409)) && statuses.contains(&200), "{statuses:?}");
    let now = bench.call(&token, "GET", "/api/v1/domains/new.example", None).await.ok();
    let (valid, invalid) = (now["valid"][0].as_str().unwrap(), now["invalid"][0].as_str().unwrap());
    assert_eq!(valid[1..], invalid[1..], "no change is mixed with another");
    let made = statuses.iter().filter(|status| **status == 200).count();
    let audit = bench.call(&token, "GET", "/api/v1/audit", None).await.ok();
    let told = audit["entries"].as_array().unwrap().iter().filter(|entry| entry["action"] == "domain.change").count();
    assert_eq!(made, told);
}

#[tokio::test]
async fn what_is_wrong_with_a_body_is_one_sentence_that_names_the_key() {
    let (bench, token) = bench().await;
    for (body, status, words) in [
        (json!({"name": "a b", "route": ["mx"]}), 400, "is no domain"),
        (json!({"name": "a.example", "route": []}), 422, "route: name 1 to 20 hosts"),
        (json!({"name": "a.example", "route": ["127.0.0.1:25"]}), 422, "lies in deny_destinations"),
        (json!({"name": "a.example", "route": ["[::ffff:169.254.169.254]:80"]}), 422, "lies in deny_destinations"),
        (json!({"name": "a.example", "route": ["mx"], "tls": "maybe"}), 422, "tls: \"maybe\" is no TLS policy"),
        (
            json!({"name": "a.example", "route": ["mx"], "invalid_ttl": "3h"}),
            422,
            "invalid_ttl: 3h is not between 1s and 2h",
        ),
        (json!({"name": "a.example", "route": ["mx"], "rout": 1}), 422, "unknown field `rout`; did you mean `route`?"),
        (json!({"name": "a.example", "route": ["mx"], "colour": 1}), 422, "unknown field `colour`; leave it out"),
        (json!({"name": "a.example", "route": "mx"}), 422, "route: invalid type"),
        (json!({"name": "a.example", "route": ["mx"], "owner": "nobody"}), 422, "there is no reseller"),
        (json!(["a.example"]), 422, "must be a JSON object"),
    ] {
        let sentence = bench.call(&token, "POST", "/api/v1/domains", Some(&body)).await.problem(status);
        assert!(sentence.contains(words) && !sentence.contains(" at line "), "{body}: {sentence}");
    }
    let bearer = format!("Bearer {token}");
    let json = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
    assert!(bench.send("POST", "/api/v1/domains", &json, "{\"name\":").await.problem(400).contains("no JSON"));
    assert!(bench.send("POST", "/api/v1/domains", &json, "{} x").await.problem(422).contains("missing field"));
    let text = [("Authorization", bearer.as_str()), ("Content-Type", "text/plain")];
    assert!(bench.send("POST", "/api/v1/domains", &text, "{}").await.problem(415).contains("application/json"));
    let huge = format!("{{\"name\":\"{}\"}}", "a".repeat(5 << 20));
    assert!(bench.send("POST", "/api/v1/domains", &json, &huge).await.problem(413).contains("send less"));
}

#[tokio::test]
async fn a_reseller_stays_within_its_own_names_ports_and_accounts() {
    let (bench, root) = bench().await;
    let (one, two) = (token(&bench, "one", "reseller").await, token(&bench, "two", "reseller").await);
    let add = async |token: &str, body: Value| bench.call(token, "POST", "/api/v1/domains", Some(&body)).await;
    let made = add(&one, json!({"name": "one.example", "route": ["mx"]})).await.created();
    assert_eq!(made["owner"], "one");
    add(&one, json!({"name": "*.one.example", "route": ["mx"]})).await.created();
    for (body, status, words) in [
        (json!({"name": "*.three.example", "route": ["mx"]}), 409, "add three.example first"),
        (json!({"name": "*.one.example", "route": ["mx"]}), 409, "add one.example first"),
        (json!({"name": "mail.one.example", "route": ["mx"]}), 409, "can't be added"),
        (json!({"name": "one.example", "route": ["mx"]}), 409, "can't be added"),
        (json!({"name": "example.com", "route": ["mx"]}), 409, "can't be added"),
        (json!({"name": "two.example", "route": ["mail.example:22"]}), 422, "port that only an administrator may set"),
        (json!({"name": "two.example", "route": ["mx"], "owner": "one"}), 403, "only an administrator"),
    ] {
        let sentence = add(&two, body.clone()).await.problem(status);
        assert!(sentence.contains(words), "{body}: {sentence}");
    }
    let account = async |token: &str, body: Value| bench.call(token, "POST", "/api/v1/accounts", Some(&body)).await;
    account(&one, json!({"name": "d1", "role": "domain", "domains": ["one.example"]})).await.created();
    let sentence =
        account(&two, json!({"name": "d2", "role": "domain", "domains": ["one.example"]})).await.problem(422);
    assert!(sentence.contains("is not a domain of two"), "{sentence}");
    account(&two, json!({"name": "d2", "role": "reseller"})).await.problem(403);
    let sentence = bench.call(&root, "DELETE", "/api/v1/accounts/one", None).await.problem(409);
    assert!(sentence.contains("owns 2 domains and 1 accounts"), "{sentence}");
    let given = bench.call(&root, "PATCH", "/api/v1/domains/one.example", Some(&json!({"owner": "two"}))).await.ok();
    assert_eq!(given["owner"], "two");
    bench.call(&one, "GET", "/api/v1/domains/one.example", None).await.problem(404);
}

#[tokio::test]
async fn a_reseller_adds_no_name_below_which_names_are_others_and_an_administrator_does() {
    let (bench, root) = bench().await;
    let one = token(&bench, "one", "reseller").await;
    let add = async |token: &str, name: &str| {
        bench.call(token, "POST", "/api/v1/domains", Some(&json!({"name": name, "route": ["mx"]}))).await
    };
    let refused = async |name: &str, words: &str| {
        let sentence = add(&one, name).await.problem(403);
        assert!(sentence.contains(words) && sentence.contains("only an administrator"), "{name}: {sentence}");
    };
    for name in ["com", "COM.", "co.uk", "github.io", "localhost", "lan", "xn--55qx5d.cn", "foo.kawasaki.jp"] {
        refused(name, "is a public suffix").await;
    }
    for name in ["*.com", "*.co.uk", "*.lan", "*.github.io", "*.xn--55qx5d.cn"] {
        refused(name, "covers the names below a public suffix").await;
    }
    refused("[192.0.2.1]", "is an address literal").await;
    // Nobody has names below a name by which only names below it are suffixes.
    add(&one, "kawasaki.jp").await.created();
    refused("*.kawasaki.jp", "covers the names below").await;
    for name in ["one.co.uk", "*.one.co.uk", "pages.github.io", "one.lan", "a.b.foo.kawasaki.jp"] {
        add(&one, name).await.created();
    }
    // What somebody else was given is no way around it either.
    let com = json!({"name": "com", "route": ["mx"], "owner": "one"});
    bench.call(&root, "POST", "/api/v1/domains", Some(&com)).await.created();
    refused("*.com", "covers the names below").await;
    for name in ["*.com", "lan", "github.io", "[192.0.2.1]"] {
        add(&root, name).await.created();
    }
}

#[tokio::test]
async fn of_a_change_the_audit_log_has_what_differs_and_no_page_of_it_is_large() {
    let (bench, root) = bench().await;
    let names = |from: usize, to: usize| (from..to).map(|n| format!("{}{n:05}", "x".repeat(50))).collect::<Vec<_>>();
    let body =
        json!({"name": "new.example", "route": ["mx"], "valid": names(0, 10_000), "invalid": names(10_000, 20_000)});
    bench.call(&root, "POST", "/api/v1/domains", Some(&body)).await.created();
    let patch = json!({"valid": names(3, 10_000)});
    bench.call(&root, "PATCH", "/api/v1/domains/new.example", Some(&patch)).await.ok();
    let entries = async |query: &str| bench.call(&root, "GET", &format!("/api/v1/audit{query}"), None).await;
    let page = entries("").await;
    assert!(page.body.len() < 40_000, "{}", page.body.len());
    let page = page.ok();
    let (change, made) = (&page["entries"][0], &page["entries"][1]);
    assert_eq!(change["before"], json!({"valid": {"entries": 10_000, "removed": names(0, 3)}}));
    assert_eq!(change["after"], json!({"valid": {"entries": 9_997, "added": []}}));
    assert_eq!((&made["after"]["route"], &made["after"]["valid"]["entries"]), (&json!(["mx"]), &json!(10_000)));
    let told = made["after"]["invalid"]["added"].as_array().unwrap().len();
    assert_eq!((told > 20, &made["after"]["invalid"]["left_out"]), (true, &json!(10_000 - told)));

    // What an older version wrote is there whole, a few entries at a time.
    let database = rusqlite::Connection::open(bench.folder.path().join("control.db")).unwrap();
    let whole = json!({"name": "new.example", "valid": names(0, 10_000)}).to_string();
    for _ in 0..5 {
        let insert = "INSERT INTO audit (at, who, origin, action, object, before, after) VALUES (1, 'o', 'x', 'domain.change', 'old', ?1, ?1)";
        database.execute(insert, [&whole]).unwrap();
    }
    let (mut seen, mut query) = (0, String::new());
    loop {
        let page = entries(&query).await;
        assert!(page.body.len() < 4 << 20, "{}", page.body.len());
        let page = page.ok();
        let olds = page["entries"].as_array().unwrap().iter().filter(|entry| entry["object"] == "old");
        seen += olds.inspect(|old| assert_eq!(old["before"]["valid"].as_array().unwrap().len(), 10_000)).count();
        let Some(next) = page["next"].as_str() else { break };
        query = format!("?cursor={next}");
    }
    assert_eq!(seen, 5);
}

#[tokio::test]
async fn a_reseller_changes_the_rest_of_a_domain_whose_route_it_could_not_write() {
    let (bench, root) = bench().await;
    let one = token(&bench, "one", "reseller").await;
    let body = json!({"name": "one.example", "route": ["192.0.2.1:22"], "relay": ["192.0.2.2:10025"], "owner": "one"});
    bench.call(&root, "POST", "/api/v1/domains", Some(&body)).await.created();
    let networks = vec!["192.0.2.0/24".parse().unwrap()];
    bench.administration.guard.set(networks, []);
    let path = "/api/v1/domains/one.example";
    let patch = async |token: &str, patch: Value| bench.call(token, "PATCH", path, Some(&patch)).await;
    assert_eq!(patch(&one, json!({"valid": ["sales"]})).await.ok()["valid"], json!(["sales"]));
    let mut whole = body.clone();
    whole["callouts"] = json!("observe");
    assert_eq!(bench.call(&one, "PUT", path, Some(&whole)).await.ok()["callouts"], "observe");
    let sentence = patch(&one, json!({"route": ["192.0.2.1:22", "mx"]})).await.problem(422);
    assert!(sentence.contains("route: 192.0.2.1:22 has a port"), "{sentence}");
    let sentence = patch(&one, json!({"relay": ["192.0.2.2"]})).await.problem(422);
    assert!(sentence.contains("relay: 192.0.2.2:25 lies in deny_destinations"), "{sentence}");
    patch(&root, json!({"route": ["192.0.2.1:23"]})).await.problem(422);
}

#[tokio::test]
async fn what_would_do_nothing_is_refused_and_so_is_a_name_that_no_path_can_have() {
    let (bench, root) = bench().await;
    bench.call(&root, "POST", "/api/v1/accounts", Some(&json!({"name": "d", "role": "domain"}))).await.created();
    for key in ["password", "domains", "read_only"] {
        let sentence = bench.call(&root, "PATCH", "/api/v1/accounts/d", Some(&json!({key: null}))).await.problem(422);
        assert!(sentence.starts_with(key) && sentence.contains("null"), "{sentence}");
    }
    let body = json!({"name": "new.example", "route": ["mx"], "relay": ["mx"], "log_days": 3, "invalid": ["gone"]});
    bench.call(&root, "POST", "/api/v1/domains", Some(&body)).await.created();
    let patch = async |patch: Value| bench.call(&root, "PATCH", "/api/v1/domains/new.example", Some(&patch)).await;
    let sentence = patch(json!({"log_dayz": null})).await.problem(422);
    assert!(sentence.contains("unknown field `log_dayz`"), "{sentence}");
    patch(json!({"route": null})).await.problem(422);
    let all = json!({
        "owner": null, "relay": null, "valid": null, "invalid": null, "tls": null, "callouts": null, "reject_code": null, "valid_ttl": null,
        "valid_refresh": null, "invalid_ttl": null, "invalid_refresh": null, "accept_all": null, "unverifiable": null, "tempfail": null,
        "policy_rejects": null, "pass_reply_text": null, "local_part_case": null, "log_days": null, "log_recipients": null,
    });
    let domain = patch(all).await.ok();
    assert_eq!((&domain["own_keys"], &domain["invalid"]), (&json!([]), &json!([])));
    for name in [".", ".."] {
        let body = json!({"name": name, "role": "domain"});
        let sentence = bench.call(&root, "POST", "/api/v1/accounts", Some(&body)).await.problem(422);
        assert!(sentence.contains("not dots alone"), "{sentence}");
    }
}

#[tokio::test]
async fn an_account_that_is_deleted_owns_nothing_and_its_tokens_are_not_those_of_the_next_by_its_name() {
    let (bench, root) = bench().await;
    let one = token(&bench, "one", "reseller").await;
    let body = json!({"name": "d", "role": "domain", "owner": "one"});
    bench.call(&root, "POST", "/api/v1/accounts", Some(&body)).await.created();
    let sentence = bench.call(&root, "DELETE", "/api/v1/accounts/one", None).await.problem(409);
    assert!(sentence.contains("owns 0 domains and 1 accounts"), "{sentence}");
    for name in ["d", "one"] {
        let path = format!("/api/v1/accounts/{name}");
        assert_eq!(bench.call(&root, "DELETE", &path, None).await.status, 204);
    }
    bench.call(&one, "GET", "/api/v1/domains", None).await.problem(401);
    let body = json!({"name": "one", "role": "reseller"});
    bench.call(&root, "POST", "/api/v1/accounts", Some(&body)).await.created();
    bench.call(&one, "GET", "/api/v1/domains", None).await.problem(401);
    let tokens = bench.call(&root, "GET", "/api/v1/tokens", None).await.ok();
    let of_one = tokens["tokens"].as_array().unwrap().iter().filter(|token| token["account"] == "one").count();
    assert_eq!(of_one, 0);
}

#[tokio::test]
async fn a_token_may_no_more_than_its_account_and_an_account_has_a_hundred() {
    let (bench, root) = bench().await;
    let one = token(&bench, "one", "reseller").await;
    let wider = json!({"account": "one", "scopes": ["clear_all"]});
    let sentence = bench.call(&root, "POST", "/api/v1/tokens", Some(&wider)).await.problem(422);
    assert!(sentence.contains("\"clear_all\" is more than the account"), "{sentence}");
    for _ in 1..100 {
        bench.call(&one, "POST", "/api/v1/tokens", Some(&json!({}))).await.created();
    }
    let sentence = bench.call(&one, "POST", "/api/v1/tokens", Some(&json!({}))).await.problem(409);
    assert!(sentence.contains("has 100 tokens; delete one first"), "{sentence}");
}

#[tokio::test]
async fn a_clear_stands_in_the_audit_log_of_whoever_owns_the_domain_and_in_nobody_elses() {
    let (bench, root) = bench().await;
    let (one, two) = (token(&bench, "one", "reseller").await, token(&bench, "two", "reseller").await);
    let body = json!({"name": "one.example", "route": ["mx"]});
    bench.call(&one, "POST", "/api/v1/domains", Some(&body)).await.created();
    bench.call(&root, "DELETE", "/api/v1/cache/a@one.example", None).await.ok();
    bench.call(&root, "DELETE", "/api/v1/cache?domain=one.example", None).await.ok();
    bench.call(&root, "DELETE", "/api/v1/cache", None).await.ok();
    for (whose, expected) in [
        (&root, json!([["everything", "root"], ["one.example", "root"], ["a@one.example", "root"]])),
        (&one, json!([["one.example", "root"], ["a@one.example", "root"]])),
        (&two, json!([])),
    ] {
        let audit = bench.call(whose, "GET", "/api/v1/audit", None).await.ok();
        let clears = audit["entries"].as_array().unwrap().iter().filter(|entry| entry["action"] == "cache.clear");
        let told: Value = clears.map(|entry| json!([entry["object"], entry["who"]])).take(3).collect();
        assert_eq!(told, expected);
    }
}

#[tokio::test]
async fn where_case_means_nothing_a_recipient_is_shown_and_cleared_however_it_is_written() {
    let (bench, root) = bench().await;
    let body = json!({"name": "folds.example", "route": ["mx"], "local_part_case": "fold"});
    bench.call(&root, "POST", "/api/v1/domains", Some(&body)).await.created();
    assert_eq!(verdict(&bench, "Bad@folds.example").await, Some("invalid"));
    bench.engine.shutdown(Duration::from_secs(5)).await;
    let path = "/api/v1/cache/BAD@folds.example";
    let kept = bench.call(&root, "GET", path, None).await.ok();
    assert_eq!(kept["entries"][0]["recipient"], "bad@folds.example");
    assert_eq!(bench.call(&root, "DELETE", path, None).await.ok()["recipient"], "bad@folds.example");
    bench.call(&root, "GET", "/api/v1/cache/bad@folds.example", None).await.problem(404);
}

#[tokio::test]
async fn a_clear_that_can_not_be_written_into_the_audit_log_is_refused_and_clears_nothing() {
    let (bench, root) = bench().await;
    assert_eq!(verdict(&bench, "bad@example.com").await, Some("invalid"));
    bench.engine.shutdown(Duration::from_secs(5)).await;
    let database = rusqlite::Connection::open(bench.folder.path().join("control.db")).unwrap();
    database.execute_batch("DROP TABLE audit").unwrap();
    for target in ["/api/v1/cache/bad@example.com", "/api/v1/cache?domain=example.com", "/api/v1/cache"] {
        let sentence = bench.call(&root, "DELETE", target, None).await.problem(503);
        assert!(sentence.contains("the control database can't be written"), "{sentence}");
        let kept = bench.call(&root, "GET", "/api/v1/cache/bad@example.com", None).await.ok();
        assert_eq!(kept["entries"][0]["recipient"], "bad@example.com", "{target}");
    }
}

/// Somebody who asks for this and is gone before the control database, which is held up by another change, has taken it.
async fn ask_and_go_away(bench: &Bench, token: &str, method: &str, target: &str, body: &str) {
    let (go_on, held_up) = std::sync::mpsc::channel();
    let (held_up, followed) = (std::sync::Mutex::new(held_up), bench.administration.domains.clone());
    // The follower is called once as it is set.
    go_on.send(()).unwrap();
    bench.administration.control.set_follower(move |local| {
        let _ = held_up.lock().unwrap().recv();
        followed.follow(local);
    });
    let (control, now) = (bench.administration.control.clone(), bench.engine.now());
    let other = Change { kind: Kind::Session, key: "none".into(), expected: Expected::Anything, body: None };
    let other = tokio::spawn(async move { control.apply(vec![other], Vec::new(), now).await });
    // What is asked of this server on one connection after another has been begun when the next one is answered.
    let others = async || {
        for _ in 0..10 {
            assert_eq!(bench.get("/healthz").await.status, 200);
        }
    };
    let mut stream = bench.connect().await;
    let length = body.len();
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    others().await;
    drop(stream);
    others().await;
    drop(go_on);
    other.await.unwrap().unwrap();
}

/// Waits for what is done without anybody to answer.
async fn until(what: impl AsyncFn() -> bool) {
    tokio::time::timeout(Duration::from_secs(30), async {
        while !what().await {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_clear_is_done_and_a_change_settled_though_whoever_asked_for_it_goes_away() {
    let (bench, root) = bench().await;
    assert_eq!(verdict(&bench, "bad@example.com").await, Some("invalid"));
    bench.engine.shutdown(Duration::from_secs(5)).await;
    ask_and_go_away(&bench, &root, "DELETE", "/api/v1/cache/bad@example.com", "").await;
    let kept = async |address: &str| bench.engine.cache().lookup(&address.parse().unwrap()).unwrap().recipient;
    until(async || kept("bad@example.com").await.is_none()).await;

    let made = json!({"name": "new.example", "route": ["a.example.net"]});
    bench.call(&root, "POST", "/api/v1/domains", Some(&made)).await.created();
    assert_eq!(verdict(&bench, "bad@new.example").await, Some("invalid"));
    bench.engine.shutdown(Duration::from_secs(5)).await;
    let other = r#"{"route": ["b.example.net"]}"#;
    ask_and_go_away(&bench, &root, "PATCH", "/api/v1/domains/new.example", other).await;
    until(async || kept("bad@new.example").await.is_none()).await;
    until(async || !bench.administration.domains.is_unsettled()).await;
}

#[tokio::test]
async fn a_token_shows_its_secret_once_works_within_its_scopes_and_ends_at_once() {
    let (bench, root) = bench().await;
    let body = json!({"label": "hook", "scopes": ["clear"], "expires_at": "2027-01-15T09:00:00Z"});
    let made = bench.call(&root, "POST", "/api/v1/tokens", Some(&body)).await.created();
    let (id, secret) = (made["id"].as_str().unwrap(), made["token"].as_str().unwrap());
    let listed = bench.call(&root, "GET", "/api/v1/tokens", None).await;
    assert!(listed.ok()["tokens"].as_array().unwrap().len() == 2 && !listed.body.contains(secret), "{}", listed.body);
    bench.call(secret, "DELETE", "/api/v1/cache/a@example.com", None).await.ok();
    let sentence = bench.call(secret, "GET", "/api/v1/domains", None).await.problem(403);
    assert!(sentence.contains("\"read\""), "{sentence}");
    bench.call(secret, "POST", "/api/v1/tokens", Some(&json!({}))).await.problem(403);
    let narrow = json!({"scopes": ["tokens", "read"]});
    let narrow = bench.call(&root, "POST", "/api/v1/tokens", Some(&narrow)).await.created()["token"]
        .as_str()
        .unwrap()
        .to_owned();
    let wider = json!({"account": "root", "scopes": ["clear_all"]});
    let sentence = bench.call(&narrow, "POST", "/api/v1/tokens", Some(&wider)).await.problem(422);
    assert!(sentence.contains("is more than the account"), "{sentence}");
    let same = bench.call(&narrow, "POST", "/api/v1/tokens", Some(&json!({}))).await.created();
    assert_eq!(same["scopes"], json!(["read", "tokens"]), "never more than the one who asks may");

    let used = bench.call(&root, "GET", "/api/v1/tokens", None).await.ok();
    let used = used["tokens"].as_array().unwrap().iter().find(|token| token["id"] == id).unwrap().clone();
    assert_eq!(used["last_used_at"], "2027-01-15T08:00:00.000Z");
    bench.clock.advance(Duration::from_secs(3600));
    bench.call(secret, "DELETE", "/api/v1/cache/a@example.com", None).await.problem(401);
    bench.call(&root, "DELETE", &format!("/api/v1/tokens/{id}"), None).await;
    let accounts = json!({"scopes": ["accounts"]});
    let accounts = bench.call(&root, "POST", "/api/v1/tokens", Some(&accounts)).await.created()["token"]
        .as_str()
        .unwrap()
        .to_owned();
    let way_up = json!({"name": "eve", "role": "admin", "password": "a long enough password"});
    let sentence = bench.call(&accounts, "POST", "/api/v1/accounts", Some(&way_up)).await.problem(403);
    assert!(sentence.contains("which the token that asks does not have"), "{sentence}");
    let way_up = json!({"password": "a long enough password"});
    bench.call(&accounts, "PATCH", "/api/v1/accounts/root", Some(&way_up)).await.problem(403);
    let sentence = bench.call(&accounts, "POST", "/api/v1/accounts/root/login-link", None).await.problem(403);
    assert!(sentence.contains("which the token that asks does not have"), "a link logs in with all rights: {sentence}");
    let past = json!({"expires_at": "2020-01-01T00:00:00Z"});
    assert!(bench.call(&root, "POST", "/api/v1/tokens", Some(&past)).await.problem(422).contains("in the past"));
}

#[tokio::test]
async fn a_token_of_few_rights_gets_no_more_by_an_account_that_was_read_only_first() {
    let (bench, root) = bench().await;
    let reseller = token(&bench, "one", "reseller").await;
    let password = "a long enough password";
    for (maker, role, scopes) in [
        (&root, "admin", json!(["read", "check", "node", "accounts"])),
        (&reseller, "domain", json!(["read", "check", "accounts"])),
    ] {
        let few = bench.call(maker, "POST", "/api/v1/tokens", Some(&json!({"scopes": scopes}))).await.created();
        let few = few["token"].as_str().unwrap();
        let body = |password: bool| {
            let mut body = json!({"name": format!("eve-{role}"), "role": role, "read_only": true});
            if password {
                body["password"] = json!("a long enough password");
            }
            body
        };
        let sentence = bench.call(few, "POST", "/api/v1/accounts", Some(&body(true))).await.problem(403);
        assert!(sentence.contains("could be given, the permission"), "{sentence}");
        // One that only has tokens lets nobody in, and one that somebody else gave a password gets no more rights by it.
        bench.call(few, "POST", "/api/v1/accounts", Some(&body(false))).await.created();
        let account = format!("/api/v1/accounts/eve-{role}");
        bench.call(few, "PATCH", &account, Some(&json!({"password": password}))).await.problem(403);
        bench.call(few, "PATCH", &account, Some(&json!({"read_only": false}))).await.problem(403);
        bench.call(maker, "PATCH", &account, Some(&json!({"password": password}))).await.ok();
        bench.call(few, "PATCH", &account, Some(&json!({"read_only": false}))).await.problem(403);
        bench.call(few, "PATCH", &account, Some(&json!({"read_only": true}))).await.ok();
        bench.call(maker, "PATCH", &account, Some(&json!({"read_only": false}))).await.ok();
    }
}

#[tokio::test]
async fn what_a_tenant_says_of_a_client_puts_off_nobody_elses_mail() {
    let (bench, root) = bench().await;
    let one = token(&bench, "one", "reseller").await;
    bench.call(&one, "POST", "/api/v1/domains", Some(&json!({"name": "one.example", "route": ["mx"]}))).await.created();
    let mta = json!({"scopes": ["check"]});
    let mta =
        bench.call(&root, "POST", "/api/v1/tokens", Some(&mta)).await.created()["token"].as_str().unwrap().to_owned();
    let ask = async |token: &str, recipient: &str| {
        let target = format!("/api/v1/recipients/{recipient}/verdict?client=192.0.2.9");
        bench.call(token, "GET", &target, None).await.ok()["row"].clone()
    };
    for n in 0..30 {
        assert_eq!(ask(&one, &format!("bad{n}@one.example")).await, 11);
    }
    assert_eq!(ask(&mta, "anna@example.com").await, 10, "its word counts for nobody");
    for n in 0..21 {
        assert_eq!(ask(&mta, &format!("bad{n}@example.com")).await, 11);
    }
    assert_eq!(ask(&mta, "bert@example.com").await, 16, "an MTA's token is an administrator's, of whatever scopes");
}

#[tokio::test]
async fn an_account_has_ten_streams_of_events_and_others_still_have_theirs() {
    let (bench, root) = bench().await;
    let one = token(&bench, "one", "reseller").await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        let mut stream = watch(&bench, &one).await;
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
        streams.push(stream);
    }
    let sentence = bench.call(&one, "GET", "/api/v1/events", None).await.problem(503);
    assert!(sentence.contains("10 of this account"), "{sentence}");
    assert_eq!(bench.call(&root, "GET", "/api/v1/events", None).await.status, 200);
    // Where one ends, another may begin.
    drop(streams.pop());
    while bench.call(&one, "GET", "/api/v1/events", None).await.status != 200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_tenant_asks_past_the_cache_no_more_often_than_a_person_does() {
    let (bench, root) = bench().await;
    let one = token(&bench, "one", "reseller").await;
    bench.call(&one, "POST", "/api/v1/domains", Some(&json!({"name": "one.example", "route": ["mx"]}))).await.created();
    let target = "/api/v1/recipients/anna@one.example/verdict";
    let live = format!("{target}?live=true");
    for _ in 0..10 {
        bench.call(&one, "GET", &live, None).await.ok();
    }
    bench.call(&one, "GET", &live, None).await.problem(429);
    bench.call(&one, "GET", target, None).await.ok();
    for _ in 0..12 {
        bench.call(&root, "GET", &live, None).await.ok();
    }
}

#[tokio::test]
async fn whoever_is_nobody_yet_sends_no_more_than_a_login_takes() {
    let (bench, _) = bench().await;
    let long = json!({"account": "a".repeat(20_000), "password": "x"});
    bench.call("", "POST", "/api/v1/session", Some(&long)).await.problem(413);
    let long = json!({"account": format!("root{}", "a".repeat(1000)), "password": "x"});
    bench.call("", "POST", "/api/v1/session", Some(&long)).await.problem(401);
}

/// Sends all of a request but its body's last octet.
async fn begin(bench: &Bench, token: &str, method: &str, target: &str, body: &Value) -> (Stream, String) {
    let mut stream = bench.connect().await;
    let mut body = body.to_string();
    let last = body.pop().unwrap().to_string();
    let length = body.len() + 1;
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    // It is asked for when the handler reads it, and so after the token was looked at.
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head.push(char::from(stream.read_u8().await.unwrap()));
    }
    assert!(head.starts_with("HTTP/1.1 100"), "{head}");
    stream.write_all(body.as_bytes()).await.unwrap();
    (stream, last)
}

#[tokio::test]
async fn a_token_that_is_taken_back_while_its_request_comes_in_changes_nothing_more() {
    let (bench, root) = bench().await;
    let account = json!({"name": "late", "role": "admin"});
    let domain = json!({"name": "late.example", "route": ["mx"]});
    for (target, body) in
        [("/api/v1/accounts", &account), ("/api/v1/tokens", &json!({"label": "late"})), ("/api/v1/domains", &domain)]
    {
        let made = bench.call(&root, "POST", "/api/v1/tokens", Some(&json!({}))).await.created();
        let (mut stream, last) = begin(&bench, made["token"].as_str().unwrap(), "POST", target, body).await;
        let id = made["id"].as_str().unwrap();
        assert_eq!(bench.call(&root, "DELETE", &format!("/api/v1/tokens/{id}"), None).await.status, 204);
        let before = bench.administration.control.local().revision();
        stream.write_all(last.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("try again"), "{target}: {answer}");
        assert_eq!(bench.administration.control.local().revision(), before, "{target}");
    }
}

#[tokio::test]
async fn a_new_password_leaves_nothing_of_a_login_with_the_old_one_that_comes_at_the_same_time() {
    let (bench, root) = bench().await;
    let (mut old, mut new) = ("an old horse battery", "a new horse battery");
    let body = json!({"name": "anna", "role": "domain", "password": old});
    bench.call(&root, "POST", "/api/v1/accounts", Some(&body)).await.created();
    let hash_of = async |password: &str| bench.administration.passwords.hash(password).await.unwrap();
    for _ in 0..6 {
        let mut record = bench.administration.control.local().accounts()["anna"].value.clone();
        record.password = Some(hash_of(new).await);
        let body = Some(serde_json::to_string(&record).unwrap());
        let change = Change { kind: Kind::Account, key: "anna".into(), expected: Expected::Anything, body };
        let login = json!({"account": "anna", "password": old});
        let (answer, changed) = tokio::join!(
            bench.call("", "POST", "/api/v1/session", Some(&login)),
            bench.administration.control.apply(vec![change], vec![], bench.engine.now()),
        );
        changed.unwrap();
        if answer.status == 201 {
            let token = answer.json()["token"].as_str().unwrap().to_owned();
            bench.call(&token, "GET", "/api/v1/domains", None).await.problem(401);
        } else {
            answer.problem(401);
        }
        (old, new) = (new, old);
    }
}

#[tokio::test]
async fn whoever_gets_the_name_of_an_account_that_is_gone_sees_nothing_of_its_past() {
    let (bench, root) = bench().await;
    let one = token(&bench, "one", "reseller").await;
    let domain = json!({"name": "one.example", "route": ["mx"]});
    bench.call(&one, "POST", "/api/v1/domains", Some(&domain)).await.created();
    bench.call(&one, "DELETE", "/api/v1/domains/one.example", None).await;
    assert_eq!(bench.call(&root, "DELETE", "/api/v1/accounts/one", None).await.status, 204);
    bench.clock.advance(Duration::from_secs(1));
    let one = token(&bench, "one", "reseller").await;
    bench.call(&one, "POST", "/api/v1/domains", Some(&domain)).await.created();
    let seen = bench.call(&one, "GET", "/api/v1/audit", None).await.ok();
    let actions: Vec<_> = seen["entries"].as_array().unwrap().iter().map(|entry| entry["action"].clone()).collect();
    assert_eq!(actions, ["domain.create", "token.create"].map(|action| json!(action)));
}

#[tokio::test]
async fn a_name_that_was_deleted_is_no_account_of_the_administrators_any_more_when_somebody_else_adds_it() {
    let (bench, root) = bench().await;
    let one = token(&bench, "one", "reseller").await;
    let domain = json!({"name": "new.example", "route": ["mx"]});
    bench.call(&root, "POST", "/api/v1/domains", Some(&domain)).await.created();
    let account = json!({"name": "anna", "role": "domain", "domains": ["new.example", "example.com"]});
    bench.call(&root, "POST", "/api/v1/accounts", Some(&account)).await.created();
    let anna = bench.call(&root, "POST", "/api/v1/tokens", Some(&json!({"account": "anna"}))).await.created();
    let anna = anna["token"].as_str().unwrap();
    bench.call(anna, "GET", "/api/v1/domains/new.example", None).await.ok();
    assert_eq!(bench.call(&root, "DELETE", "/api/v1/domains/new.example", None).await.status, 204);
    bench.call(&one, "POST", "/api/v1/domains", Some(&domain)).await.created();
    bench.call(anna, "GET", "/api/v1/domains/new.example", None).await.problem(404);
    let shown = bench.call(&root, "GET", "/api/v1/accounts/anna", None).await.ok();
    assert_eq!(shown["domains"], json!(["example.com"]));
}

#[tokio::test]
async fn of_changes_at_the_same_time_each_has_the_status_of_one_that_came_too_late() {
    let (bench, root) = bench().await;
    let bearer = format!("Bearer {root}");
    for (list, path, body, patch) in [
        (
            "/api/v1/domains",
            "/api/v1/domains/n.example",
            json!({"name": "n.example", "route": ["mx"]}),
            "{\"valid\":[]}",
        ),
        ("/api/v1/accounts", "/api/v1/accounts/n", json!({"name": "n", "role": "domain"}), "{\"read_only\":true}"),
    ] {
        let made = bench.call(&root, "POST", list, Some(&body)).await;
        let tag = etag(&made);
        let headers = [("Authorization", bearer.as_str()), ("If-Match", &tag), ("Content-Type", "application/json")];
        let change = async |_| bench.send("PATCH", path, &headers, patch).await.status;
        let statuses = futures_util::future::join_all((0..8).map(change)).await;
        let made = statuses.iter().filter(|status| **status == 200).count();
        assert!(made == 1 && statuses.iter().all(|status| matches!(status, 200 | 412)), "{path}: {statuses:?}");
        let delete = async |_| bench.call(&root, "DELETE", path, None).await.status;
        let statuses = futures_util::future::join_all((0..8).map(delete)).await;
        assert_eq!(statuses, [204; 8], "{path}");
    }
}

#[tokio::test]
async fn a_password_gives_a_session_that_ends_by_itself_by_logging_out_and_by_a_new_password() {
    let (bench, root) = bench().await;
    let body =
        json!({"name": "anna", "role": "domain", "domains": ["example.com"], "password": "correct horse battery"});
    let made = bench.call(&root, "POST", "/api/v1/accounts", Some(&body)).await;
    assert!(made.created()["has_password"] == true && !made.body.contains("argon2") && !made.body.contains("horse"));
    let login = async |password: &str| {
        let body = json!({"account": "anna", "password": password});
        bench.call("", "POST", "/api/v1/session", Some(&body)).await
    };
    let session = async || login("correct horse battery").await.created()["token"].as_str().unwrap().to_owned();
    let works = async |token: &str| bench.call(token, "GET", "/api/v1/domains/example.com", None).await.status == 200;
    let (first, second) = (session().await, session().await);
    assert!(works(&first).await && works(&second).await);
    assert_eq!(bench.call(&first, "DELETE", "/api/v1/session", None).await.status, 204);
    assert!(!works(&first).await && works(&second).await);
    let programs = bench.call(&root, "POST", "/api/v1/tokens", Some(&json!({"account": "anna"}))).await.created();
    let new = json!({"password": "another horse battery"});
    bench.call(&root, "PATCH", "/api/v1/accounts/anna", Some(&new)).await.ok();
    assert!(works(programs["token"].as_str().unwrap()).await, "programs have no password");
    assert!(!works(&second).await, "a new password ends the sessions of the old one");
    login("correct horse battery").await.problem(401);
    let third = login("another horse battery").await.created()["token"].as_str().unwrap().to_owned();
    bench.clock.advance(Duration::from_secs(12 * 3600 + 1));
    assert!(!works(&third).await);
    let short = json!({"name": "ben", "role": "domain", "password": "short"});
    assert!(bench.call(&root, "POST", "/api/v1/accounts", Some(&short)).await.problem(422).contains("at least 15"));
    let database = std::fs::read(bench.folder.path().join("control.db-wal")).unwrap();
    assert!(!String::from_utf8_lossy(&database).contains("horse battery"));
}

#[tokio::test]
async fn whoever_fails_too_often_has_to_wait_and_whoever_has_a_token_does_not() {
    let (bench, root) = bench().await;
    let mut statuses = Vec::new();
    for _ in 0..12 {
        statuses.push(bench.call("callahead_wrong", "GET", "/api/v1/domains", None).await.status);
    }
    assert_eq!((statuses[0], statuses[9], statuses[10]), (401, 401, 429), "{statuses:?}");
    let refused = bench.call("callahead_wrong", "GET", "/api/v1/domains", None).await;
    assert!(refused.head.contains("retry-after: ") && refused.problem(429).contains("then try again"));
    bench.call(&root, "GET", "/api/v1/domains", None).await.ok();
    let body = json!({"account": "root", "password": "guess guess guess"});
    bench.call("", "POST", "/api/v1/session", Some(&body)).await.problem(429);
}

#[tokio::test]
async fn a_reseller_finds_in_the_log_what_its_wildcards_cover_and_all_of_many_domains() {
    let (bench, _) = bench().await;
    let one = token(&bench, "one", "reseller").await;
    let add = async |name: &str| {
        let body = json!({"name": name, "route": ["mx"]});
        bench.call(&one, "POST", "/api/v1/domains", Some(&body)).await.created();
    };
    let found = async || {
        let page = bench.call(&one, "GET", "/api/v1/log", None).await.ok();
        let rows = page["rows"].as_array().unwrap().iter();
        rows.map(|row| row["decision"]["recipient"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let decide = async |recipient: &str| {
        bench.decide(recipient).await;
        bench.logged().await;
    };
    add("one.example").await;
    add("*.one.example").await;
    for recipient in ["a@one.example", "b@deep.sub.one.example", "c@example.com"] {
        decide(recipient).await;
    }
    assert_eq!(found().await, ["b@deep.sub.one.example", "a@one.example"]);
    // So many that the search does not look at each row.
    for _ in 0..1_100 {
        bench.decide("c@example.com").await;
    }
    decide("c@example.com").await;
    assert_eq!(found().await, ["b@deep.sub.one.example", "a@one.example"]);
    for number in 0..100 {
        add(&format!("{number}.example")).await;
    }
    decide("d@99.example").await;
    assert_eq!(found().await, ["d@99.example", "b@deep.sub.one.example", "a@one.example"]);
}

#[tokio::test]
async fn the_log_finds_a_recipient_however_it_is_written_and_what_a_wildcard_covers() {
    let (bench, root) = bench().await;
    let (one, two) = (token(&bench, "one", "reseller").await, token(&bench, "two", "reseller").await);
    for (name, owner) in [("one.example", "one"), ("*.one.example", "one"), ("two.one.example", "two")] {
        let body = json!({"name": name, "route": ["mx"], "owner": owner, "local_part_case": "fold"});
        bench.call(&root, "POST", "/api/v1/domains", Some(&body)).await.created();
    }
    for recipient in [
        "Anna@One.Example",
        "joanna@one.example",
        "ben@deep.sub.one.example",
        "ben@two.one.example",
        "Anna@example.com",
        "anna@elsewhere.example",
    ] {
        bench.decide(recipient).await;
    }
    bench.logged().await;
    let found = async |token: &str, query: &str| {
        let page = bench.call(token, "GET", &format!("/api/v1/log?{query}"), None).await.ok();
        let rows = page["rows"].as_array().unwrap().iter();
        rows.map(|row| row["decision"]["recipient"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for query in ["recipient=ANNA@ONE.example", "recipient=%22anna%22@one.example", "recipient=anna@one.example"] {
        assert_eq!(found(&root, query).await, ["anna@one.example"], "{query}");
    }
    assert_eq!(found(&root, "recipient=Anna@EXAMPLE.com").await, ["Anna@example.com"]);
    assert_eq!(found(&root, "recipient=anna@example.com").await, [""; 0], "there case tells them apart");
    // What is no whole address of a domain that is configured here is a part.
    assert_eq!(found(&root, "recipient=NNA@elsewhere").await, ["anna@elsewhere.example"]);
    assert_eq!(found(&root, "recipient=anna@one").await, ["joanna@one.example", "anna@one.example"]);
    assert_eq!(found(&root, "recipient=anna@ELSEWHERE.example").await, ["anna@elsewhere.example"]);

    for query in ["domain=*.one.example", "domain=*.One.Example&verdict=valid", "domain=*.one.example&recipient=BEN"] {
        for token in [&root, &one] {
            assert_eq!(found(token, query).await, ["ben@deep.sub.one.example"], "{query}");
        }
    }
    assert_eq!(found(&one, "domain=*.one.example&recipient=ben@two.one.example").await, [""; 0]);
    let csv = bench.call(&one, "GET", "/api/v1/log?domain=*.one.example&format=csv", None).await.body;
    assert!(csv.contains("ben@deep.sub.one.example") && !csv.contains("anna"), "{csv}");
    bench.call(&two, "GET", "/api/v1/log?domain=*.one.example", None).await.problem(403);
    bench.call(&root, "GET", "/api/v1/log?domain=*.nothing.example", None).await.problem(404);
    bench.call(&root, "GET", "/api/v1/cache?domain=*.one.example", None).await.problem(400);
}

#[tokio::test]
async fn whoever_has_a_domain_reads_what_was_logged_since_and_administrators_all() {
    let (bench, root) = bench().await;
    let (one, two) = (token(&bench, "one", "reseller").await, token(&bench, "two", "reseller").await);
    let found = async |token: &str, query: &str| {
        let page = bench.call(token, "GET", &format!("/api/v1/log?{query}"), None).await.ok();
        let rows = page["rows"].as_array().unwrap().iter();
        rows.map(|row| row["decision"]["recipient"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let decide = async |recipient: &str| {
        bench.decide(recipient).await;
        bench.logged().await;
        bench.clock.advance(Duration::from_secs(60));
    };
    let path = "/api/v1/domains/x.example";
    let body = json!({"name": "x.example", "route": ["mx"]});
    decide("before@x.example").await;
    bench.call(&one, "POST", "/api/v1/domains", Some(&body)).await.created();
    assert_eq!(found(&one, "").await, [""; 0], "what was nobody's stays so");
    decide("one@x.example").await;
    bench.call(&one, "PATCH", path, Some(&json!({"callouts": "observe"}))).await.ok();
    bench.call(&one, "PUT", path, Some(&body)).await.ok();
    assert_eq!(found(&one, "").await, ["one@x.example"]);
    // Given to another, and then removed and claimed.
    bench.call(&root, "PATCH", path, Some(&json!({"owner": "two"}))).await.ok();
    decide("two@x.example").await;
    for query in ["", "domain=x.example", "recipient=x.exam", "since=2020-01-01T00:00:00Z"] {
        assert_eq!(found(&two, query).await, ["two@x.example"], "{query}");
    }
    assert_eq!(found(&two, "recipient=one@x.example").await, [""; 0]);
    let csv = bench.call(&two, "GET", "/api/v1/log?format=csv", None).await.body;
    assert!(csv.contains("two@x.example") && !csv.contains("one@x.example"), "{csv}");
    bench.call(&two, "DELETE", path, None).await;
    bench.call(&one, "POST", "/api/v1/domains", Some(&body)).await.created();
    assert_eq!(found(&one, "").await, [""; 0]);
    assert_eq!(found(&root, "").await, ["two@x.example", "one@x.example", "before@x.example"]);
    // Nobody says for himself since when.
    for (method, body) in [("PATCH", json!({"owned_since": 1})), ("PATCH", json!({"owned_since": null}))] {
        bench.call(&one, method, path, Some(&body)).await.problem(422);
    }
    for (method, path) in [("PUT", path), ("POST", "/api/v1/domains")] {
        let body = json!({"name": "x.example", "route": ["mx"], "owned_since": 1});
        let sentence = bench.call(&one, method, path, Some(&body)).await.problem(422);
        assert!(sentence.contains("written by the node itself"), "{sentence}");
    }
}

#[tokio::test]
async fn the_log_is_searched_and_exported_and_its_cells_are_no_formulas() {
    let (bench, token) = bench().await;
    for (recipient, sender) in [("good@example.com", "=cmd|'/C calc'!A0"), ("bad@other.example", "b@sender.example")] {
        let question = Question {
            sender: Some(sender),
            client: "192.0.2.1".parse().ok(),
            ..Question::new(recipient.as_bytes(), Listener::Policy)
        };
        bench.engine.decide(question).await;
    }
    bench.logged().await;
    let page = bench.call(&token, "GET", "/api/v1/log?verdict=invalid", None).await.ok();
    let row = &page["rows"][0];
    assert_eq!(
        (&row["listener"], &row["client"], &row["sender"]),
        (&json!("policy"), &json!("192.0.2.1"), &json!("b@sender.example"))
    );
    assert_eq!(row["node"], "filter.example");
    assert_eq!((&row["decision"]["recipient"], &row["decision"]["row"]), (&json!("bad@other.example"), &json!(11)));
    let first = bench.call(&token, "GET", "/api/v1/log?limit=1", None).await.ok();
    let next = first["next"].as_str().unwrap();
    let second = bench.call(&token, "GET", &format!("/api/v1/log?limit=1&cursor={next}"), None).await.ok();
    assert_ne!(first["rows"][0]["id"], second["rows"][0]["id"]);
    let csv = bench.call(&token, "GET", "/api/v1/log?format=csv", None).await;
    assert!(
        csv.status == 200 && csv.head.contains("content-type: text/csv") && csv.body.contains("'=cmd|"),
        "{}",
        csv.body
    );
    let lines = bench.call(&token, "GET", "/api/v1/log?format=jsonl&domain=example.com", None).await;
    assert!(lines.body.contains("good@example.com") && !lines.body.contains("other.example"), "{}", lines.body);
    for (query, words) in [
        ("verdict=maybe", "known are valid"),
        ("since=yesterday", "RFC 3339"),
        ("client=mx.example", "write an IP address"),
        ("format=xml", "write json, csv or jsonl"),
        ("cursor=-1", "begin again"),
    ] {
        let sentence = bench.call(&token, "GET", &format!("/api/v1/log?{query}"), None).await.problem(400);
        assert!(sentence.contains(words), "{query}: {sentence}");
    }
    let stats = bench.call(&token, "GET", "/api/v1/stats", None).await.ok();
    assert_eq!((&stats["log"]["written"], &stats["log"]["lost"]), (&json!(2), &json!(0)));
    assert!(bench.get("/metrics").await.body.contains("callahead_log_lost_total 0"));
}

#[tokio::test]
async fn events_come_as_they_happen_and_end_with_the_token() {
    let (bench, root) = bench().await;
    let made = bench.call(&root, "POST", "/api/v1/tokens", Some(&json!({"scopes": ["read"]}))).await.created();
    let mut stream = watch(&bench, made["token"].as_str().unwrap()).await;
    let mut seen = String::new();
    let mut until = async |words: &str| {
        let mut chunk = [0; 4096];
        while !seen.contains(words) {
            let octets = stream.read(&mut chunk).await.unwrap();
            assert!(octets > 0, "the stream ended before {words:?}: {seen}");
            seen.push_str(&String::from_utf8_lossy(&chunk[..octets]));
        }
    };
    until("text/event-stream").await;
    verdict(&bench, "bad@example.com").await;
    until("event: decision\ndata: {").await;
    until("\"recipient\":\"bad@example.com\"").await;
    bench.call(&root, "DELETE", "/api/v1/cache?domain=example.com", None).await.ok();
    until("event: clear").await;
    let id = made["id"].as_str().unwrap();
    bench.call(&root, "DELETE", &format!("/api/v1/tokens/{id}"), None).await;
    verdict(&bench, "other@example.com").await;
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(!rest.contains("other@example.com"), "{rest}");
}

#[tokio::test]
async fn a_stream_of_events_ends_with_its_token_though_nothing_happens() {
    for expires in [false, true] {
        let (bench, root) = bench().await;
        let body = json!({"scopes": ["read"], "expires_at": "2027-01-15T09:00:00Z"});
        let made = bench.call(&root, "POST", "/api/v1/tokens", Some(&body)).await.created();
        let (id, secret) = (made["id"].as_str().unwrap(), made["token"].as_str().unwrap());
        let mut stream = watch(&bench, secret).await;
        let mut chunk = [0; 4096];
        assert!(stream.read(&mut chunk).await.unwrap() > 0);
        if expires {
            bench.clock.advance(Duration::from_secs(3600));
        } else {
            bench.call(&root, "DELETE", &format!("/api/v1/tokens/{id}"), None).await;
        }
        tokio::time::pause();
        let began = tokio::time::Instant::now();
        while stream.read(&mut chunk).await.unwrap() > 0 {
            assert!(began.elapsed() <= Duration::from_secs(30), "a sign of life comes every 15 s, and no end");
        }
        tokio::time::resume();
    }
}

#[tokio::test]
async fn a_stream_of_events_does_not_keep_the_listener_from_stopping() {
    let (bench, root) = bench().await;
    let mut stream = watch(&bench, &root).await;
    let mut octet = [0];
    stream.read_exact(&mut octet).await.unwrap();
    bench.shutdown.cancel();
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await.unwrap().unwrap();
}

#[tokio::test]
async fn every_answer_has_a_request_id_and_the_documentation_needs_no_other_host() {
    let (bench, token) = bench().await;
    let bearer = format!("Bearer {token}");
    let given =
        bench.send("GET", "/api/v1/nodes", &[("Authorization", &bearer), ("X-Request-Id", "abc-123")], "").await;
    assert!(given.head.contains("x-request-id: abc-123"), "{}", given.head);
    let hostile = bench.send("GET", "/api/v1/nodes", &[("X-Request-Id", "a<script>")], "").await;
    assert!(hostile.head.contains("x-request-id: ") && !hostile.head.contains("script"), "{}", hostile.head);
    let document = bench.get("/api/v1/openapi.json").await.ok();
    assert_eq!(document, serde_json::to_value(openapi()).unwrap());
    let page = bench.get("/api/docs/").await;
    let index = bench.get("/api/docs/swagger-initializer.js").await;
    assert!(page.status == 200 && page.body.contains("swagger-ui"), "{}", page.head);
    assert!(index.body.contains("/api/v1/openapi.json"), "{}", index.body);
    assert!(!page.body.contains("http://") && !page.body.contains("https://"), "{}", page.body);
}
