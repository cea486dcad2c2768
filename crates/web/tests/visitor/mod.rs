//! Two resellers with a domain and an owner each, the pages over them, and browsers made of one request.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::sync::Arc;

use axum::Router;
use callahead_control::{Kind, Session};
use callahead_engine::SystemClock;
use callahead_web::{ABSOLUTE, AlertBoard, HttpLimits, NodeFacts, Reach, State, Web, reached, web_router};

use super::common::{Bench, Response};
use super::realm::{self, record};

pub const PASSWORD: &str = "correct horse battery staple";

pub struct World {
    pub bench: Bench,
    tokens: [String; 2],
    style: String,
}

/// What the page to log in sends.
pub fn login_form(account: &str, password: &str) -> String {
    format!("account={account}&password={}", password.replace(' ', "+"))
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

impl World {
    /// See [`realm::settle`].
    pub async fn new(read_only: bool) -> Self {
        Self::with(Bench::start_tcp(pages, HttpLimits::default()).await, read_only).await
    }

    pub async fn behind_a_proxy() -> Self {
        Self::with(Bench::start_tcp(pages_behind_a_proxy, HttpLimits::default()).await, false).await
    }

    async fn with(bench: Bench, read_only: bool) -> Self {
        let password = bench.administration.passwords.hash(PASSWORD).await.unwrap();
        let tokens = realm::settle(&bench, read_only, Some(&password), []).await;
        while bench.administration.log.counters().written < 2 {
            tokio::task::yield_now().await;
        }
        let mut world = Self { bench, tokens, style: String::new() };
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

    pub async fn send(&self, cookie: &str, method: &str, target: &str, form: &str) -> Response {
        self.send_with(cookie, method, target, form, &[("Sec-Fetch-Site", "same-origin")]).await
    }

    pub async fn send_with(
        &self,
        cookie: &str,
        method: &str,
        target: &str,
        form: &str,
        headers: &[(&str, &str)],
    ) -> Response {
        let mut all = vec![("Content-Type", "application/x-www-form-urlencoded")];
        if !cookie.is_empty() {
            all.push(("Cookie", cookie));
        }
        all.extend(headers);
        self.bench.send(method, target, &all, form).await
    }

    pub async fn log_in(&self, account: &str, password: &str) -> Response {
        self.send("", "POST", "/login", &login_form(account, password)).await
    }
}
