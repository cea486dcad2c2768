//! `/events`: what happens, as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State as Given;
use axum::http::StatusCode;
use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use callahead_control::Principal;
use callahead_smtp::Domain;
use futures_util::stream;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use super::request::{Answer, Asker};
use crate::State;
use crate::events::{Event, MAX_STREAMS, MAX_STREAMS_OF_ONE, Place, Watching};
use crate::problem::Problem;
use crate::query::Parameters;

/// How often a stream that has nothing to say says so.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Watch what happens
///
/// `decision` (a verdict with `at`, `listener`, `client`, `sender`), `alert`, `alert_over`, `clear`, and `missed` with a count where the watcher was too slow.
/// The stream ends when the token does, and after 10 minutes in any case; clients come again by themselves.
#[utoipa::path(
    get, path = "/api/v1/events", tag = "log", operation_id = "events",
    responses((status = 200, description = "A stream that does not end by itself", content_type = "text/event-stream", body = String))
)]
pub(crate) async fn watch(Given(state): Given<State>, asker: Asker, query: Parameters) -> Answer<Response> {
    query.end(&[])?;
    let Some(place) = state.administration.events.place(&asker.principal) else {
        let detail = format!(
            "{MAX_STREAMS} streams of events are open, or {MAX_STREAMS_OF_ONE} of this account, which is as many as there may be; try again later"
        );
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
    };
    let watcher =
        Watcher { events: state.administration.events.watch(), state, principal: asker.principal, _place: place };
    let events = stream::unfold(watcher, |mut watcher| async move {
        let sent = watcher.next().await?;
        Some((Ok::<_, Infallible>(sent), watcher))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

struct Watcher {
    state: State,
    events: Watching,
    principal: Principal,
    _place: Place,
}

impl Watcher {
    /// The next event that may be seen; `None` ends the stream.
    async fn next(&mut self) -> Option<Sent> {
        let shutdown = self.state.administration.shutdown.clone();
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return None,
                event = self.events.next() => event,
                // Now and then without an event too, so that a token that was taken back ends the stream.
                () = tokio::time::sleep(KEEP_ALIVE) => {
                    self.refresh()?;
                    continue;
                }
            };
            let event = match event {
                Ok(event) => event,
                Err(RecvError::Lagged(missed)) => {
                    return Some(Sent::default().event("missed").data(json!({"events": missed}).to_string()));
                }
                Err(RecvError::Closed) => return None,
            };
            self.refresh()?;
            if self.is_seen(&event) {
                return Some(Sent::default().event(event.kind).data(&event.data));
            }
        }
    }

    /// The rights as they are now; `None` where the token or its account is gone.
    fn refresh(&mut self) -> Option<()> {
        let Some(id) = self.principal.token_id() else { return Some(()) };
        let local = self.state.administration.control.local();
        let token = &local.tokens().get(id)?.value;
        let account = &local.accounts().get(&token.account)?.value;
        let is_good = token.is_good_at(self.state.engine.now());
        let principal = is_good.then(|| Principal::by_token(account.clone(), token))?;
        drop(local);
        self.principal = principal;
        Some(())
    }

    fn is_seen(&self, event: &Event) -> bool {
        if self.principal.is_admin() {
            return true;
        }
        let domain = event.domain.as_deref().and_then(|domain| Domain::parse(domain).ok());
        domain.is_some_and(|domain| self.state.administration.sees(&self.principal, &self.state.engine, &domain))
    }
}
