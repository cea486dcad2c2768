//! Who may do what: every endpoint for every role, with what is theirs and with what is not.
#![allow(clippy::unwrap_used)]

mod common;
mod realm;

use std::collections::BTreeSet;

use callahead_control::{Kind, Permission, Token};
use callahead_web::{HttpLimits, RULES, http_router, openapi};
use common::Bench;
use realm::record;
use serde_json::json;

/// The one who asks, by a letter: `A` administrator, `R` reseller, `D` domain owner, in small letters read-only; `S` an administrator's
/// token with the scope `clear` alone; `-` without a token.
const ROLES: &str = "AaRrDdS-";

/// What is asked for of each endpoint: method, path, target (`{own}` is replaced), body. Then what comes of it for each of [`ROLES`]: with
/// what is theirs, and with what is another's. `y` is let in, `n` is forbidden (403), `h` is as if it did not exist, `u` is unauthorised
/// (401), `x` is refused as invalid (422); `.` has no other's.
const TABLE: &[(&str, &str, &str, &str, &str, &str)] = &[
    (
        "GET",
        "/api/v1/recipients/{address}/verdict",
        "/api/v1/recipients/a@{domain}/verdict",
        "",
        "yyyyyynu",
        "yynnnnnu",
    ),
    (
        "GET",
        "/api/v1/recipients/{address}/verdict",
        "/api/v1/recipients/a..b@{domain}/verdict",
        "",
        "yyyyyynu",
        "yynnnnnu",
    ),
    ("GET", "/api/v1/cache", "/api/v1/cache?domain={domain}", "", "yyyyyynu", "yynnnnnu"),
    ("GET", "/api/v1/cache", "/api/v1/cache", "", "yynnnnnu", "........"),
    ("GET", "/api/v1/cache/{address}", "/api/v1/cache/kept@{domain}", "", "yyyyyynu", "yynnnnnu"),
    ("GET", "/api/v1/domains", "/api/v1/domains", "", "yyyyyynu", "........"),
    ("GET", "/api/v1/domains/{name}", "/api/v1/domains/{domain}", "", "yyyyyynu", "yyhhhhnu"),
    ("POST", "/api/v1/domains", "/api/v1/domains", r#"{"name":"new.example","route":["mx"]}"#, "ynynnnnu", "........"),
    (
        "PUT",
        "/api/v1/domains/{name}",
        "/api/v1/domains/{domain}",
        r#"{"name":"{domain}","route":["mx"]}"#,
        "ynynnnnu",
        "ynhnnnnu",
    ),
    ("PATCH", "/api/v1/domains/{name}", "/api/v1/domains/{domain}", r#"{"valid":["sales"]}"#, "ynynynnu", "ynhnhnnu"),
    ("PATCH", "/api/v1/domains/{name}", "/api/v1/domains/{domain}", r#"{"callouts":"off"}"#, "ynynnnnu", "ynhnhnnu"),
    ("POST", "/api/v1/domains/{name}/test", "/api/v1/domains/{domain}/test", "", "yyyyyynu", "yyhhhhnu"),
    ("GET", "/api/v1/destinations", "/api/v1/destinations", "", "yynnnnnu", "........"),
    ("GET", "/api/v1/log", "/api/v1/log?domain={domain}", "", "yyyyyynu", "yynnnnnu"),
    ("GET", "/api/v1/log", "/api/v1/log", "", "yyyyyynu", "........"),
    ("GET", "/api/v1/log", "/api/v1/log?format=csv", "", "yyyyyynu", "........"),
    ("GET", "/api/v1/events", "/api/v1/events", "", "yyyyyynu", "........"),
    ("GET", "/api/v1/stats", "/api/v1/stats?domain={domain}", "", "yyyyyynu", "yynnnnnu"),
    ("GET", "/api/v1/stats", "/api/v1/stats", "", "yynnnnnu", "........"),
    ("GET", "/api/v1/stats/domains", "/api/v1/stats/domains", "", "yynnnnnu", "........"),
    ("GET", "/api/v1/nodes", "/api/v1/nodes", "", "yynnnnnu", "........"),
    ("GET", "/api/v1/audit", "/api/v1/audit", "", "yyyyyynu", "........"),
    ("GET", "/api/v1/accounts", "/api/v1/accounts", "", "yyyyyynu", "........"),
    ("POST", "/api/v1/accounts", "/api/v1/accounts", r#"{"name":"new","role":"domain"}"#, "ynynnnnu", "........"),
    ("POST", "/api/v1/accounts", "/api/v1/accounts", r#"{"name":"new2","role":"admin"}"#, "ynnnnnnu", "........"),
    ("GET", "/api/v1/accounts/{name}", "/api/v1/accounts/{account}", "", "yyyyyynu", "yyhhhhnu"),
    (
        "PATCH",
        "/api/v1/accounts/{name}",
        "/api/v1/accounts/{account}",
        r#"{"domains":["{domain}"]}"#,
        "ynynnnnu",
        "ynhnnnnu",
    ),
    ("POST", "/api/v1/accounts/{name}/login-link", "/api/v1/accounts/{account}/login-link", "", "ynynnnnu", "ynhnnnnu"),
    ("GET", "/api/v1/tokens", "/api/v1/tokens", "", "yyyyyynu", "........"),
    ("POST", "/api/v1/tokens", "/api/v1/tokens", r#"{"account":"{account}"}"#, "ynynynnu", "ynxnxnnu"),
    ("POST", "/api/v1/session", "/api/v1/session", r#"{"account":"x","password":"y"}"#, "uuuuuuuu", "........"),
    ("DELETE", "/api/v1/cache", "/api/v1/cache?domain={domain}", "", "ynynynyu", "ynnnnnyu"),
    ("DELETE", "/api/v1/cache", "/api/v1/cache", "", "ynnnnnnu", "........"),
    ("DELETE", "/api/v1/cache/{address}", "/api/v1/cache/kept@{domain}", "", "ynynynyu", "ynnnnnyu"),
    ("DELETE", "/api/v1/tokens/{id}", "/api/v1/tokens/{token}", "", "ynynynnu", "ynhnhnnu"),
    ("DELETE", "/api/v1/domains/{name}", "/api/v1/domains/{domain}", "", "ynynnnnu", "ynhnnnnu"),
    ("DELETE", "/api/v1/accounts/{name}", "/api/v1/accounts/{account}", "", "ynynnnnu", "ynhnnnnu"),
    ("DELETE", "/api/v1/session", "/api/v1/session", "", "yyyyyynu", "........"),
];

struct World {
    bench: Bench,
    token: String,
    tokens: [String; 2],
}

impl World {
    /// See [`realm::settle`]; with a token of somebody of this role.
    async fn new(role: char) -> Self {
        let bench = Bench::start_tcp(http_router, HttpLimits::default()).await;
        let read_only = role.is_ascii_lowercase();
        let asker = match role.to_ascii_uppercase() {
            'R' => "r",
            'D' => "d",
            _ => "root",
        };
        let scopes = if role == 'S' { vec![Permission::Clear] } else { Permission::ALL.to_vec() };
        let now = bench.engine.now();
        let (token, secret) = Token::create(asker, "asks", scopes, now, None);
        let tokens = realm::settle(&bench, read_only, None, [record(Kind::Token, &token.id, &token)]).await;
        let token = if role == '-' { String::new() } else { secret.reveal().to_owned() };
        Self { bench, token, tokens }
    }

    fn fill(&self, text: &str, whose: usize) -> String {
        let (domain, account) = [("r.example", "d"), ("o.example", "od")][whose];
        text.replace("{domain}", domain).replace("{account}", account).replace("{token}", &self.tokens[whose])
    }

    /// Asks, and gives what came of it as one letter.
    async fn ask(&self, method: &str, target: &str, body: &str, whose: usize) -> (char, String) {
        let (target, body) = (self.fill(target, whose), self.fill(body, whose));
        let body = (!body.is_empty()).then(|| serde_json::from_str(&body).unwrap());
        let before = self.others();
        let answer = self.bench.call(&self.token, method, &target, body.as_ref()).await;
        let letter = match answer.status {
            401 | 429 => 'u',
            403 => 'n',
            404 => 'h',
            422 => 'x',
            204 if before.2 == self.others().2 && !target.ends_with("session") => 'h',
            200..=204 | 409 | 503 => 'y',
            other => panic!("{method} {target}: {other}: {}", answer.body),
        };
        if letter != 'y' {
            assert_eq!(before, self.others(), "{method} {target} said {letter} and changed something");
        }
        (letter, answer.body)
    }

    /// What must not change where somebody is not let in: domains, and how many accounts and tokens there are.
    fn others(&self) -> (Vec<(String, u64)>, u64, usize) {
        let local = self.bench.administration.control.local();
        let domains = local.domains().iter().map(|(name, record)| (name.clone(), record.revision)).collect();
        let count = local.accounts().len() + local.tokens().len() + local.domains().len();
        (domains, local.revision(), count)
    }
}

#[tokio::test]
async fn every_endpoint_for_every_role() {
    for (nth, role) in ROLES.chars().enumerate() {
        let world = World::new(role).await;
        // What is another's first: after what is their own is deleted, it could not be told any more.
        for whose in [1, 0] {
            for (method, path, target, body, own, others) in TABLE {
                let expected = [own, others][whose].chars().nth(nth).unwrap();
                if expected == '.' {
                    continue;
                }
                let (came, answer) = world.ask(method, target, body, whose).await;
                assert_eq!(came, expected, "{role} {method} {path}, target {target}, whose {whose}: {answer}");
                if whose == 0 && "RrDd".contains(role) {
                    let telling = ["o.example", "\"od\"", "\"o\""].into_iter().find(|name| answer.contains(name));
                    // The reseller's own account names a domain that went to another.
                    let own_account = path.starts_with("/api/v1/accounts");
                    assert!(
                        telling.is_none() || own_account,
                        "{role} {method} {target} tells of {telling:?}: {answer}"
                    );
                }
            }
        }
    }
}

#[test]
fn no_endpoint_is_missing_in_the_table_of_rules_or_in_this_test() {
    let document = serde_json::to_value(openapi()).unwrap();
    let mut documented = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            documented.insert((method.to_uppercase(), path.clone()));
        }
    }
    let ruled: BTreeSet<_> = RULES.iter().map(|rule| (rule.method.to_owned(), rule.path.to_owned())).collect();
    let tested: BTreeSet<_> = TABLE.iter().map(|line| (line.0.to_owned(), line.1.to_owned())).collect();
    assert_eq!(ruled.len(), RULES.len(), "a rule stands twice");
    assert_eq!(documented, ruled);
    assert_eq!(ruled, tested);
    assert_eq!(document["openapi"], json!("3.1.0"));
    let page = include_str!("../../../docs/api.md");
    for (method, path) in &ruled {
        assert!(page.contains(&format!("| `{method} {path}` |")), "docs/api.md has no line for {method} {path}");
    }
}
