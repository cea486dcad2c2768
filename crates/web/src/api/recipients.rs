//! `/recipients/{address}/verdict`.

use axum::Extension;
use axum::extract::State as Given;
use axum::response::Json;
use callahead_engine::{Decision, Listener, Question};

use super::request::{Answer, Asker, Segment};
use super::{Door, schema};
use crate::State;
use crate::problem::Problem;
use crate::query::Parameters;
use crate::throttle::Key;

/// Ask for a verdict
///
/// Answers from the cache where it can, else asks the destination.
#[utoipa::path(
    get, path = "/api/v1/recipients/{address}/verdict", tag = "recipients", operation_id = "verdict",
    params(
        ("address" = String, Path, description = "The recipient; a local part that needs quotes may lack them"),
        ("transcript" = Option<bool>, Query, description = "With the dialogue, where there was one"),
        ("live" = Option<bool>, Query, description = "Never from the cache; who is no administrator may do so ten times, then once every 6 s"),
        ("cached" = Option<String>, Query, description = "`only`: never ask the destination"),
        ("client" = Option<String>, Query, description = "The IP address that the mail comes from, for the log, and for \
            `harvest.limit`: who asks for more recipients that do not exist gets no callouts, from whatever listener. So it counts from \
            administrators' tokens and on the admin socket only; from others it is taken and left out of account"),
        ("sender" = Option<String>, Query, description = "The sender, for the log; empty for the null sender"),
    ),
    responses((status = 200, description = "The verdict", body = schema::Verdict))
)]
pub(crate) async fn verdict(
    Given(state): Given<State>,
    Extension(door): Extension<Door>,
    asker: Asker,
    Segment(address): Segment,
    mut query: Parameters,
) -> Answer<Json<Decision>> {
    let transcript = query.flag("transcript")?;
    let live = query.flag("live")?;
    let cached_only = match query.take("cached")?.as_deref() {
        None => false,
        Some("only") => true,
        Some(other) => return Err(Problem::bad_request(format!("cached is {other:?}: write only, or leave it out"))),
    };
    // What a client has guessed counts for the whole node: nobody else's mail from there is to be put off by somebody's word.
    let client = query.ip("client")?.filter(|_| asker.principal.is_admin()).map(|ip| ip.to_canonical());
    let sender = query.take("sender")?;
    query.end(&["transcript", "live", "cached", "client", "sender"])?;
    if live && cached_only {
        return Err(Problem::bad_request("live=true and cached=only exclude each other: give one of them"));
    }
    // The destination is asked each time, whatever is known: not more often than a person does.
    if live && !asker.principal.is_admin() {
        let key = Key::Live(asker.principal.name().unwrap_or_default().to_owned());
        drop(state.administration.throttle.attempt([key]).map_err(super::access::too_many)?);
    }
    let listener = match door {
        Door::Socket => Listener::Admin,
        Door::Http | Door::Page => Listener::Http,
    };
    let question = Question {
        client,
        sender: sender.as_deref(),
        live,
        cached_only,
        ..Question::new(address.as_bytes(), listener)
    };
    let mut decision = state.engine.decide(question).await;
    if !transcript {
        decision.transcript = None;
    }
    Ok(Json(decision))
}
