//! Two resellers with a domain and an owner each.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::time::Duration;

use callahead_control::{Account, Actor, Change, DomainSpec, Expected, Kind, Permission, Role, Token};
use serde::Serialize;

use super::common::Bench;

pub fn record<T: Serialize>(kind: Kind, key: &str, value: &T) -> Change {
    let body = Some(serde_json::to_string(value).unwrap());
    Change { kind, key: key.to_owned(), expected: Expected::Anything, body }
}

pub fn account(name: &str, role: Role, owner: Option<&str>, domains: &[&str]) -> Account {
    let domains = domains.iter().map(|domain| (*domain).to_owned()).collect();
    Account { owner: owner.map(str::to_owned), domains, ..Account::new(name, role) }
}

/// Puts in `root`; the reseller `r` with `r.example` and its owner `d`; the reseller `o` with `o.example` and its owner `od`; and `more`. `d`
/// names `o.example` too, which was never given to it. A mailbox `kept` of each domain is in the cache. Gives the ids of a token of `d` and
/// of one of `od`.
pub async fn settle(
    bench: &Bench,
    read_only: bool,
    password: Option<&str>,
    more: impl IntoIterator<Item = Change>,
) -> [String; 2] {
    let accounts = [
        account("root", Role::Admin, None, &[]),
        account("r", Role::Reseller, None, &[]),
        account("d", Role::Domain, Some("r"), &["r.example", "o.example"]),
        account("o", Role::Reseller, None, &[]),
        account("od", Role::Domain, Some("o"), &["o.example"]),
    ];
    let mut changes: Vec<Change> = Vec::new();
    for account in accounts {
        let account = Account { read_only, password: password.map(str::to_owned), ..account };
        changes.push(record(Kind::Account, &account.name, &account));
    }
    for owner in ["r", "o"] {
        let name = format!("{owner}.example");
        let (owner, route) = (Some(owner.into()), vec!["mx".into()]);
        let spec = DomainSpec { name: name.clone(), owner, route, ..DomainSpec::default() };
        changes.push(record(Kind::Domain, &name, &spec));
    }
    let now = bench.engine.now();
    let (own, _) = Token::create("d", "own", vec![Permission::Read], now, None);
    let (other, _) = Token::create("od", "other of o.example", vec![Permission::Read], now, None);
    for token in [&own, &other] {
        changes.push(record(Kind::Token, &token.id, token));
    }
    changes.extend(more);
    bench.administration.control.apply(changes, vec![], now).await.unwrap();
    let actor = Actor { who: "test".into(), from: "test".into() };
    bench.administration.domains.settle(&bench.administration.control, &actor).await.unwrap();
    for domain in ["r.example", "o.example"] {
        let address = format!("kept@{domain}");
        bench.decide(&address).await;
    }
    bench.engine.shutdown(Duration::from_secs(5)).await;
    [own.id, other.id]
}
