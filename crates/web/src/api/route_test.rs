//! `/domains/{name}/test`: what a callout would meet on a domain's route, as one answer or step by step.
//!
//! A stream is asked for by POST too, with `Accept: text/event-stream`: a test opens connections, so it is not to be begun by a link, and
//! not to begin anew because a stream has ended, as a browser's `EventSource` would have it.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::State as Given;
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Json, Response};
use callahead_callout::{Callouts, Route, RouteTest, TestEvent};
use callahead_smtp::Domain;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::domains::{canonical, of_file, record, unusable};
use super::request::{Answer, Asker, Segment, parse_domain};
use super::schema;
use crate::events::{MAX_STREAMS, MAX_STREAMS_OF_ONE};
use crate::problem::Problem;
use crate::query::Parameters;
use crate::throttle::Key;
use crate::{State, json};

/// Test a domain's route
///
/// At each of its hosts: look its name up, connect, greeting, EHLO, TLS, null sender, a random local part, `postmaster`, whether it takes mail
/// for other people's domains, QUIT. Nothing of it is kept, and no message is sent. Addresses in `deny_destinations` are not connected to,
/// unless the configuration file names them.
///
/// With `Accept: text/event-stream` each step is sent when it is taken: `host` (`host`), `step` (a step with its `host`), and `done` with the
/// whole as it is in JSON.
#[utoipa::path(
    post, path = "/api/v1/domains/{name}/test", tag = "domains", operation_id = "domain_test",
    params(("name" = String, Path, description = "The name under which it is configured")),
    responses((status = 200, description = "What was found", content(
        (schema::RouteTest = "application/json"), (String = "text/event-stream")
    )))
)]
pub(crate) async fn test(
    Given(state): Given<State>,
    asker: Asker,
    Segment(name): Segment,
    headers: HeaderMap,
    query: Parameters,
) -> Answer<Response> {
    query.end(&[])?;
    let name = canonical(&name)?;
    let route = match of_file(&state, &name) {
        Some(config) => Arc::clone(&config.route),
        None => {
            let (defaults, tls) = state.administration.domains.defaults();
            let config = record(&state, &name)?.value.to_config(&defaults, tls).map_err(|_| unusable(&name))?;
            config.route
        }
    };
    let Some(callouts) = state.callouts.clone() else {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "this node asks no destinations"));
    };
    // For a wildcard a name that it covers, which nobody has.
    let domain = match name.strip_prefix("*.") {
        Some(parent) => parse_domain(&format!("callahead-test.{parent}"))?,
        None => parse_domain(&name)?,
    };
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let place = match accepted.flat_map(|value| value.split(',')).any(is_stream) {
        false => None,
        true => Some(state.administration.events.place(&asker.principal).ok_or_else(|| {
            let detail = format!(
                "{MAX_STREAMS} streams are open, or {MAX_STREAMS_OF_ONE} of this account, which is as many as there may be; try again later"
            );
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        })?),
    };
    // Each test opens connections that no cache spares: not more of them than a person makes.
    if !asker.principal.is_socket() {
        let key = Key::RouteTests(asker.principal.name().unwrap_or_default().to_owned());
        drop(state.administration.throttle.attempt([key]).map_err(super::access::too_many)?);
    }
    let mut told = begin(callouts, route, domain, name);
    let Some(place) = place else {
        let mut last = None;
        while let Some(told) = told.recv().await {
            last = Some(told.1);
        }
        let last = last.ok_or_else(|| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the test failed; see the log"));
        return Ok(Json(last?).into_response());
    };
    let shutdown = state.administration.shutdown.clone();
    let events = stream::unfold((told, place, shutdown), |(mut told, place, shutdown)| async move {
        let (kind, data) = tokio::select! {
            () = shutdown.cancelled() => return None,
            told = told.recv() => told?,
        };
        let event = Event::default().event(kind).data(data.to_string());
        Some((Ok::<_, Infallible>(event), (told, place, shutdown)))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new()).into_response())
}

fn is_stream(kind: &str) -> bool {
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
}

/// Begins the test as a task of its own, so that its sessions end properly whoever goes away meanwhile. Its events come in order, `done` last.
fn begin(callouts: Callouts, route: Arc<Route>, domain: Domain, name: String) -> Receiver<(&'static str, Value)> {
    let (sender, receiver) = channel(RouteTest::MAX_EVENTS + 1);
    tokio::spawn(async move {
        let told = sender.clone();
        let tested = callouts.test_route_telling(&route, &domain, &mut |event| tell(&told, event)).await;
        let hosts: Vec<Value> = tested.hosts.iter().map(json::tested_host).collect();
        let ok = !tested.null_mx
            && !tested.hosts.is_empty()
            && tested.hosts.iter().all(|host| host.steps.iter().all(|step| step.ok));
        let done = json!({"domain": name, "ok": ok, "null_mx": tested.null_mx, "hosts": hosts});
        // Whoever asked may have gone.
        let _ = sender.send(("done", done)).await;
    });
    receiver
}

fn tell(sender: &Sender<(&'static str, Value)>, event: TestEvent<'_>) {
    let told = match event {
        TestEvent::Host(host) => ("host", json!({"host": host})),
        TestEvent::Step(host, step) => {
            let mut step = json::tested_step(step);
            step["host"] = json!(host);
            ("step", step)
        }
    };
    // There is room for all; whoever asked may have gone.
    let _ = sender.try_send(told);
}
