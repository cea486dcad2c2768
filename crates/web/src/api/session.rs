//! `/session`: a token for a password, for a while.

use std::time::Duration;

use axum::extract::{Extension, State as Given};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Json, Response};
use callahead_control::{
    Account, Change, ControlError, Expected, Kind, Permission, Principal, Record, Token, Unchanged,
};
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use super::request::{Answer, Asker, Body};
use super::{access, schema, tokens};
use crate::State;
use crate::problem::Problem;
use crate::query::Parameters;
use crate::serve::Peer;
use crate::throttle::Key;

/// How long a session's token works.
const SESSION: Duration = Duration::from_secs(12 * 3600);
/// Octets of a body at most: whoever sends it is nobody yet.
pub(super) const MAX_BODY: usize = 16 << 10;
/// Sessions of one account at a time; a further one ends the oldest.
const MAX_SESSIONS: usize = 20;

/// Who wants to come in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Login {
    /// The account's name.
    account: String,
    /// Its password.
    #[schema(format = Password)]
    password: String,
}

/// Log in
///
/// Gives a token that works for 12 hours, or until `DELETE /session`. Attempts that fail are counted by account and by address.
#[utoipa::path(
    post, path = "/api/v1/session", tag = "access", operation_id = "session_create",
    request_body = Login,
    responses((status = 201, description = "The token", body = schema::Token))
)]
pub(crate) async fn create(
    Given(state): Given<State>,
    peer: Option<Extension<Peer>>,
    query: Parameters,
    Body(login): Body<Login>,
) -> Answer<Response> {
    query.end(&[])?;
    let administration = &state.administration;
    let from = peer.map_or_else(|| "unknown".to_owned(), |Extension(Peer(peer))| peer);
    // What is longer is no account's name, and nobody's log is to be filled with it.
    let name: String = login.account.chars().take(Account::MAX_NAME + 1).collect();
    let keys = [Key::of_peer(&from), Key::Account(name.clone())];
    let attempt = administration.throttle.attempt(keys).map_err(access::too_many)?;
    let found: Option<Record<Account>> = administration.control.local().accounts().get(&name).cloned();
    let kept = found.as_ref().and_then(|account| account.value.password.clone());
    let is_right = administration.passwords.is_right(&login.password, kept.as_deref()).await;
    let do_not_fit = || {
        tracing::warn!(account = name, from, "a login failed");
        Problem::new(StatusCode::UNAUTHORIZED, "the account and the password do not fit; check both")
    };
    let Some(Record { revision, value: account, .. }) = found.filter(|_| is_right) else { return Err(do_not_fit()) };
    attempt.succeeded();
    make_room(&state, &account.name).await?;
    let now = state.engine.now();
    let scopes = Permission::ALL.into_iter().filter(|permission| account.allows(*permission)).collect();
    let (token, secret) = Token::create(&account.name, "session", scopes, now, Some(now.after(SESSION)));
    let token = Token { session: true, ..token };
    let asker = Asker { principal: Principal::by_token(account.clone(), &token), from: from.clone() };
    // The password that was looked at may be the one from before by now.
    let looked_at = Unchanged::new(Kind::Account, &account.name, revision);
    match tokens::keep(&state, &asker, "session.create", &token, (&account, looked_at)).await {
        Err(ControlError::Withdrawn { .. }) => return Err(do_not_fit()),
        kept => kept?,
    }
    let mut shown = tokens::shown(&state, &token);
    shown["token"] = json!(secret.reveal());
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}

/// Log out
///
/// Ends the token that is sent along.
#[utoipa::path(
    delete, path = "/api/v1/session", tag = "access", operation_id = "session_delete",
    responses((status = 204, description = "The token does not work any more"))
)]
pub(crate) async fn delete(Given(state): Given<State>, asker: Asker, query: Parameters) -> Answer<StatusCode> {
    query.end(&[])?;
    if let Some(id) = asker.principal.token_id() {
        tokens::remove(&state, &asker, id, "session.delete").await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Ends sessions that are over, and the oldest where there are too many.
async fn make_room(state: &State, account: &str) -> Answer<()> {
    let now = state.engine.now();
    let mut sessions: Vec<Token> = {
        let local = state.administration.control.local();
        let of_account = local.tokens().values().map(|token| &token.value);
        of_account.filter(|token| token.session && token.account == account).cloned().collect()
    };
    sessions.sort_by_key(|token| std::cmp::Reverse(token.created_at));
    let over = sessions.iter().enumerate().filter(|(nth, token)| *nth + 1 >= MAX_SESSIONS || !token.is_good_at(now));
    let changes: Vec<Change> = over
        .map(|(_, token)| Change { kind: Kind::Token, key: token.id.clone(), expected: Expected::Anything, body: None })
        .collect();
    if !changes.is_empty() {
        state.administration.control.apply(changes, Vec::new(), now).await?;
    }
    Ok(())
}
