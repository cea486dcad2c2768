//! A domain's route tested on its page: step by step where a script runs, else as a page when all is done.

use std::convert::Infallible;

use askama::Template;
use axum::body::BodyDataStream;
use axum::extract::Path;
use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::{StreamExt as _, stream};
use serde_json::Value;

use super::domains;
use super::frame::{Answer, Refusal, Visitor, sentence};
use super::view::{LineView, each, encode, milliseconds};

/// What is known of a test.
#[derive(Default)]
pub(super) struct Tested {
    /// There is more to come.
    pub(super) running: bool,
    pub(super) ok: bool,
    pub(super) null_mx: bool,
    pub(super) hosts: Vec<TestedHost>,
}

pub(super) struct TestedHost {
    pub(super) host: String,
    pub(super) accept_all: Option<bool>,
    pub(super) relays: Option<bool>,
    pub(super) steps: Vec<TestedStep>,
    pub(super) lines: Vec<LineView>,
}

pub(super) struct TestedStep {
    pub(super) name: &'static str,
    pub(super) tone: &'static str,
    pub(super) result: &'static str,
    pub(super) took: String,
    pub(super) detail: String,
}

/// The test by itself, for the middle of a page that is there.
#[derive(Template)]
#[template(path = "test_result.html")]
struct Fragment {
    t: Tested,
}

impl Tested {
    /// Of the API's answer.
    fn of(found: &Value) -> Self {
        Self {
            running: false,
            ok: found["ok"].as_bool().unwrap_or_default(),
            null_mx: found["null_mx"].as_bool().unwrap_or_default(),
            hosts: each(found, "hosts", TestedHost::of),
        }
    }

    /// Takes one of the API's events in.
    fn take(&mut self, kind: &str, data: &Value) {
        match kind {
            "host" => self.hosts.push(TestedHost::of(data)),
            "step" => {
                if let Some(host) = self.hosts.last_mut() {
                    host.steps.push(TestedStep::of(data));
                }
            }
            "done" => *self = Self::of(data),
            _ => {}
        }
    }

    /// Something is worth a look, though callouts work.
    pub(super) fn is_noted(&self) -> bool {
        self.hosts.iter().flat_map(|host| &host.steps).any(|step| step.tone == "wait")
    }
}

impl TestedHost {
    fn of(host: &Value) -> Self {
        Self {
            host: host["host"].as_str().unwrap_or_default().to_owned(),
            accept_all: host["accept_all"].as_bool(),
            relays: host["relays"].as_bool(),
            steps: each(host, "steps", TestedStep::of),
            lines: each(host, "transcript", LineView::of),
        }
    }
}

impl TestedStep {
    fn of(step: &Value) -> Self {
        let (tone, result) = match (step["ok"].as_bool(), step["warning"].as_bool()) {
            (Some(true), Some(true)) => ("wait", "note"),
            (Some(true), _) => ("good", "in order"),
            _ => ("bad", "failed"),
        };
        Self {
            name: match step["step"].as_str().unwrap_or_default() {
                "resolve" => "Name",
                "connect" => "Connection",
                "greeting" => "Greeting",
                "ehlo" => "EHLO",
                "tls" => "TLS",
                "null_sender" => "Null sender",
                "random_probe" => "Random name",
                "postmaster" => "postmaster",
                "open_relay" => "Open relay",
                "quit" => "QUIT",
                _ => "Step",
            },
            tone,
            result,
            took: milliseconds(step["ms"].as_f64().unwrap_or_default()),
            detail: sentence(step["detail"].as_str().unwrap_or_default()),
        }
    }
}

/// Tests the route, and shows what is found on the domain's page.
pub(super) async fn test(visitor: Visitor, Path(name): Path<String>, headers: HeaderMap) -> Answer {
    let path = format!("/api/v1/domains/{}/test", encode(&name));
    if headers.get(ACCEPT).is_some_and(|accepted| accepted == "text/event-stream") {
        return in_steps(&visitor, &path).await;
    }
    let found = visitor.ui.api.post(&visitor, &path, None).await?;
    domains::page(&visitor, &name, Some(Tested::of(&found))).await
}

/// What was found so far, whenever there is more: each event is the whole of it as HTML.
async fn in_steps(visitor: &Visitor, path: &str) -> Result<Response, Refusal> {
    let events = visitor.ui.api.stream(visitor, path).await?.into_body().into_data_stream();
    let fragments = stream::unfold((events, Tested::default()), |(mut events, mut tested)| async move {
        tested.running = true;
        next(&mut events, &mut tested).await?;
        let (kept, html) = rendered(tested)?;
        Some((Ok::<_, Infallible>(Event::default().event("fragment").data(html)), (events, kept)))
    });
    Ok(Sse::new(fragments).keep_alive(KeepAlive::new()).into_response())
}

/// Takes the next event; `None` at the end. The API's stream is in this process, so each of its frames is an event, or a sign of life.
async fn next(events: &mut BodyDataStream, tested: &mut Tested) -> Option<()> {
    loop {
        let frame = events.next().await?.ok()?;
        let text = String::from_utf8_lossy(&frame);
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let (Some(kind), Some(data)) = (field("event"), field("data")) else { continue };
        tested.take(kind, &serde_json::from_str(data).ok()?);
        return Some(());
    }
}

fn rendered(t: Tested) -> Option<(Tested, String)> {
    let fragment = Fragment { t };
    let html = fragment.render().ok()?;
    Some((fragment.t, html))
}
