//! Two resellers with a domain and an owner each, the pages over them, and browsers made of one request.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use callahead_control::{Account, Change, DomainSpec, Expected, Kind, Permission, Role, Session, Token};
use callahead_engine::{Listener, Question, SystemClock};
use callahead_web::{ABSOLUTE, AlertBoard, HttpLimits, NodeFacts, Reach, State, Web, reached, web_router};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::common::Bench;

pub const PASSWORD: &str = "correct horse battery staple";

pub struct World {
    pub bench: Bench,
    tokens: [String; 2],
    style: String,
}

pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")));
        line.map(|line| line.split_once(':').unwrap().1.trim())
    }

    pub fn location(&self) -> String {
        self.header("location").unwrap_or_default().to_owned()
    }

    /// The cookie that was set, as it is sent back.
    pub fn cookie(&self) -> String {
        self.header("set-cookie").unwrap_or_default().split(';').next().unwrap_or_default().to_owned()
    }
}

pub fn web() -> Web {
    Web::new(Arc::new(AlertBoard::new(Arc::new(SystemClock::new()))), NodeFacts::default())
}

fn pages(state: State) -> Router {
    web_router(state, web())
}

/// Behind a proxy on loopback.
fn pages_behind_a_proxy(state: State) -> Router {
    let trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    reached(web_router(state, web()), Reach::new(false, trusted_proxies))
}

pub fn record<T: Serialize>(kind: Kind, key: &str, value: &T) -> Change {
    let body = Some(serde_json::to_string(value).unwrap());
    Change { kind, key: key.to_owned(), expected: Expected::Anything, body }
}

pub fn account(name: &str, role: Role, owner: Option<&str>, domains: &[&str]) -> Account {
    Account {
        name: name.into(),
        role,
        read_only: false,
        owner: owner.map(str::to_owned),
        domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
        password: None,
    }
}

impl World {
    /// `root`; the reseller `r` with `r.example` and its owner `d`; the reseller `o` with `o.example` and its owner `od`. `d` names `o.example` too,
    /// which was never given to it.
    pub async fn new(read_only: bool) -> Self {
        Self::with(Bench::start_tcp(pages, HttpLimits::default()).await, read_only).await
    }

    pub async fn behind_a_proxy() -> Self {
        Self::with(Bench::start_tcp(pages_behind_a_proxy, HttpLimits::default()).await, false).await
    }

    async fn with(bench: Bench, read_only: bool) -> Self {
        let password = bench.administration.passwords.hash(PASSWORD).await.unwrap();
        let accounts = [
            account("root", Role::Admin, None, &[]),
            account("r", Role::Reseller, None, &[]),
            account("d", Role::Domain, Some("r"), &["r.example", "o.example"]),
            account("o", Role::Reseller, None, &[]),
            account("od", Role::Domain, Some("o"), &["o.example"]),
        ];
        let mut changes: Vec<Change> = Vec::new();
        for account in accounts {
            let account = Account { read_only, password: Some(password.clone()), ..account };
            changes.push(record(Kind::Account, &account.name, &account));
        }
        for owner in ["r", "o"] {
            let name = format!("{owner}.example");
            let (owner, route) = (Some(owner.into()), vec!["mx".into()]);
            changes.push(record(
                Kind::Domain,
                &name,
                &DomainSpec { name: name.clone(), owner, route, ..DomainSpec::default() },
            ));
        }
        let now = bench.engine.now();
        let (own, _) = Token::create("d", "own", vec![Permission::Read], now, None);
        let (other, _) = Token::create("od", "other of o.example", vec![Permission::Read], now, None);
        for token in [&own, &other] {
            changes.push(record(Kind::Token, &token.id, token));
        }
        bench.administration.control.apply(changes, vec![], now).await.unwrap();
        for domain in ["r.example", "o.example"] {
            let address = format!("kept@{domain}");
            bench.engine.decide(Question::new(address.as_bytes(), Listener::Policy)).await;
        }
        bench.engine.shutdown(Duration::from_secs(5)).await;
        while bench.administration.log.counters().written < 2 {
            tokio::task::yield_now().await;
        }
        let mut world = Self { bench, tokens: [own.id, other.id], style: String::new() };
        let login = world.send("", "GET", "/login", "").await;
        let style = login.body.split("href=\"").find(|part| part.starts_with("/assets/style")).unwrap();
        world.style = style.split('"').next().unwrap().to_owned();
        world
    }

    pub fn fill(&self, text: &str, mine: bool) -> String {
        let (domain, account, token) =
            if mine { ("r.example", "d", &self.tokens[0]) } else { ("o.example", "od", &self.tokens[1]) };
        let text = text.replace("{domain}", domain).replace("{account}", account);
        text.replace("{token}", token).replace("{style}", &self.style)
    }

    /// A session of an account, as its cookie.
    pub async fn session(&self, account: &str) -> String {
        let now = self.bench.engine.now();
        let (session, secret) = Session::create(account, None, false, now, now.after(ABSOLUTE));
        let change = record(Kind::Session, &session.id, &session);
        self.bench.administration.control.apply(vec![change], vec![], now).await.unwrap();
        format!("callahead={}", secret.reveal())
    }

    pub async fn send(&self, cookie: &str, method: &str, target: &str, form: &str) -> Answer {
        self.send_with(cookie, method, target, form, "Sec-Fetch-Site: same-origin\r\n").await
    }

    pub async fn send_with(&self, cookie: &str, method: &str, target: &str, form: &str, headers: &str) -> Answer {
        let mut stream = self.bench.connect().await;
        let cookie = if cookie.is_empty() { String::new() } else { format!("Cookie: {cookie}\r\n") };
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             {cookie}{headers}Content-Length: {}\r\n\r\n{form}",
            form.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        // A stream of events does not end by itself.
        if target == "/overview/events" {
            while !answer.contains("\r\n\r\n") {
                answer.push(char::from(stream.read_u8().await.unwrap()));
            }
        } else {
            stream.read_to_string(&mut answer).await.unwrap();
        }
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    pub async fn log_in(&self, account: &str, password: &str) -> Answer {
        let form = format!("account={account}&password={}", password.replace(' ', "+"));
        self.send("", "POST", "/login", &form).await
    }
}
