//! `/tokens`: how programs come in.

use axum::extract::State as Given;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Json, Response};
use callahead_cache::Timestamp;
use callahead_control::{
    Account, AuditEntry, Change, ControlError, Expected, Kind, Permission, Record, Token, Unchanged,
};
use callahead_engine::rfc3339;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::request::{Answer, Asker, Body, Named, Paging, parse_time, with_next};
use super::schema::{self, PermissionName};
use crate::State;
use crate::problem::Problem;
use crate::query::Parameters;

/// Tokens of one account at most.
pub(crate) const MAX_TOKENS: usize = 100;

/// A token to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewToken {
    /// Whose rights it has; one's own account where it is left out.
    #[serde(default)]
    account: Option<String>,
    /// What it is for.
    #[serde(default)]
    #[schema(max_length = 100)]
    label: String,
    /// What it may be used for; all that the account may where it is left out. Never more than the token that asks for it.
    #[serde(default)]
    scopes: Option<Vec<PermissionName>>,
    /// When it ends to work (RFC 3339); never where it is left out.
    #[serde(default)]
    #[schema(format = DateTime)]
    expires_at: Option<String>,
}

/// List tokens
///
/// Those of the accounts that may be seen; never their secrets.
#[utoipa::path(
    get, path = "/api/v1/tokens", tag = "access", operation_id = "tokens_list",
    params(
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 1000, description = "Tokens on a page; 100 where it is not given"),
    ),
    responses((status = 200, description = "A page of tokens", body = schema::TokenPage))
)]
pub(crate) async fn list(Given(state): Given<State>, asker: Asker, query: Parameters) -> Answer {
    let paging = Paging::of(query, &[])?;
    let local = state.administration.control.local();
    let seen = local.tokens().values().filter(|token| {
        let account = local.accounts().get(&token.value.account);
        account.is_some_and(|account| asker.principal.owns_account(&account.value))
    });
    let (page, next) = paging.page(seen, |token| &token.value.id);
    let tokens: Vec<Value> = page.into_iter().map(|token| shown(&state, &token.value)).collect();
    Ok(Json(with_next(json!({"tokens": tokens}), next)))
}

/// Make a token
///
/// Its secret is in this answer, and nowhere else.
#[utoipa::path(
    post, path = "/api/v1/tokens", tag = "access", operation_id = "token_create",
    request_body = NewToken,
    responses((status = 201, description = "It works", body = schema::Token))
)]
pub(crate) async fn create(
    Given(state): Given<State>,
    asker: Asker,
    query: Parameters,
    Body(new): Body<NewToken>,
) -> Answer<Response> {
    query.end(&[])?;
    if new.label.chars().count() > Token::MAX_LABEL || new.label.chars().any(char::is_control) {
        return Err(Problem::invalid(format!(
            "label: take at most {} characters, none of them a control character",
            Token::MAX_LABEL
        )));
    }
    let name = match (new.account, asker.principal.name()) {
        (Some(name), _) => name,
        (None, Some(own)) => own.to_owned(),
        (None, None) => return Err(Problem::invalid("account: name the account whose rights the token shall have")),
    };
    let Record { revision, value: account, .. } = account(&state, &asker, &name)?;
    let now = state.engine.now();
    let expires_at = new.expires_at.map(|text| parse_time("expires_at", &text)).transpose();
    let expires_at = expires_at.map_err(|problem| problem.at(StatusCode::UNPROCESSABLE_ENTITY))?;
    if expires_at.is_some_and(|end| end <= now) {
        return Err(Problem::invalid("expires_at: lies in the past; take a later time"));
    }
    let scopes = scopes(&asker, &account, new.scopes)?;
    if count(&state, &name) >= MAX_TOKENS {
        return Err(Problem::conflict(format!("the account {name:?} has {MAX_TOKENS} tokens; delete one first")));
    }
    let (token, secret) = Token::create(&name, &new.label, scopes, now, expires_at);
    let looked_at = Unchanged::new(Kind::Account, &name, revision);
    keep(&state, &asker, "token.create", &token, (&account, looked_at)).await?;
    let mut shown = shown(&state, &token);
    shown["token"] = json!(secret.reveal());
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}

/// Delete a token
///
/// It ends to work at once. One that is not there is deleted already.
#[utoipa::path(
    delete, path = "/api/v1/tokens/{id}", tag = "access", operation_id = "token_delete",
    params(("id" = String, Path, description = "Its public id")),
    responses((status = 204, description = "It is not there"))
)]
pub(crate) async fn delete(Given(state): Given<State>, named: Named) -> Answer<StatusCode> {
    remove(&state, &named.asker, &named.name, "token.delete").await?;
    Ok(StatusCode::NO_CONTENT)
}

// === what they share, and sessions with them ===

/// Takes a token back, if it is there.
pub(crate) async fn remove(state: &State, asker: &Asker, id: &str, action: &str) -> Answer<()> {
    let (token, account) = {
        let local = state.administration.control.local();
        let Some(token) = local.tokens().get(id).map(|token| token.value.clone()) else { return Ok(()) };
        let account = local.accounts().get(&token.account).map(|account| account.value.clone());
        (token, account)
    };
    let entry = AuditEntry::new(asker.actor(), action, id)
        .owned_by(account.as_ref().and_then(seen_by))
        .record(Some(&visible(&token)), None);
    let change = Change { kind: Kind::Token, key: id.to_owned(), expected: Expected::Anything, body: None };
    asker.apply(state, None, vec![change], entry).await?;
    Ok(())
}

/// Keeps a new token, if its account is as it was.
pub(crate) async fn keep(
    state: &State,
    asker: &Asker,
    action: &str,
    token: &Token,
    (account, looked_at): (&Account, Unchanged),
) -> Result<(), ControlError> {
    let entry = AuditEntry::new(asker.actor(), action, &token.id)
        .owned_by(seen_by(account))
        .record(None, Some(&visible(token)));
    let body = serde_json::to_string(token).ok();
    let change = Change { kind: Kind::Token, key: token.id.clone(), expected: Expected::Nothing, body };
    asker.apply(state, Some(looked_at), vec![change], entry).await?;
    Ok(())
}

/// Who sees in the audit log what became of an account's tokens.
fn seen_by(account: &Account) -> Option<&str> {
    account.owner.as_deref().or(Some(account.name.as_str()))
}

/// Tokens that an account has, sessions aside.
pub(crate) fn count(state: &State, account: &str) -> usize {
    let local = state.administration.control.local();
    local.tokens().values().filter(|token| token.value.account == account && !token.value.session).count()
}

fn account(state: &State, asker: &Asker, name: &str) -> Answer<Record<Account>> {
    let found = state.administration.control.local().accounts().get(name).cloned();
    found.filter(|account| asker.principal.owns_account(&account.value)).ok_or_else(|| {
        Problem::invalid(format!("account: there is no account {name:?} here; look at the list of accounts"))
    })
}

/// Never more than the account may, nor than the one who asks.
fn scopes(asker: &Asker, account: &Account, wanted: Option<Vec<PermissionName>>) -> Answer<Vec<Permission>> {
    let allowed = |permission: &Permission| account.allows(*permission) && asker.principal.may(*permission);
    let Some(wanted) = wanted else {
        return Ok(Permission::ALL.into_iter().filter(allowed).collect());
    };
    let mut scopes = Vec::new();
    for name in wanted {
        let permission = permission(name);
        if !allowed(&permission) {
            return Err(Problem::invalid(format!(
                "scopes: {:?} is more than the account, or the token that asks, may do; leave it out",
                permission.as_str()
            )));
        }
        if !scopes.contains(&permission) {
            scopes.push(permission);
        }
    }
    if scopes.is_empty() {
        return Err(Problem::invalid("scopes: name at least one, or leave it out for all that the account may do"));
    }
    Ok(scopes)
}

fn permission(name: PermissionName) -> Permission {
    match name {
        PermissionName::Read => Permission::Read,
        PermissionName::Check => Permission::Check,
        PermissionName::Clear => Permission::Clear,
        PermissionName::Lists => Permission::Lists,
        PermissionName::Domains => Permission::Domains,
        PermissionName::Accounts => Permission::Accounts,
        PermissionName::Tokens => Permission::Tokens,
        PermissionName::Node => Permission::Node,
        PermissionName::ClearAll => Permission::ClearAll,
    }
}

/// Without its digest.
fn visible(token: &Token) -> Value {
    let scopes: Vec<&str> = token.scopes.iter().map(|scope| scope.as_str()).collect();
    let mut shown = json!({
        "id": token.id, "account": token.account, "label": token.label, "scopes": scopes, "session": token.session,
        "created_at": rfc3339(Timestamp(token.created_at)),
    });
    if let Some(end) = token.expires_at {
        shown["expires_at"] = json!(rfc3339(Timestamp(end)));
    }
    shown
}

pub(crate) fn shown(state: &State, token: &Token) -> Value {
    let mut shown = visible(token);
    if let Some((at, from)) = state.administration.control.last_use(&token.id) {
        shown["last_used_at"] = json!(rfc3339(at));
        shown["last_used_from"] = json!(from);
    }
    shown
}
