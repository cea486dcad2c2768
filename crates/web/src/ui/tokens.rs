//! API tokens: how programs come in.

use std::collections::HashMap;
use std::time::Duration;

use askama::Template;
use axum::extract::{Form, Path, Query};
use callahead_control::Permission;
use callahead_engine::rfc3339;
use serde::Deserialize;
use serde_json::json;

use super::confirm::Confirm;
use super::frame::{Answer, Flash, Page, Visitor, When, go, show_as};
use super::view::{each, encode, query, texts, when};

/// Tokens on a page.
const PAGE: usize = 200;
/// The longest time that the form offers, in days.
const MAX_DAYS: u64 = 3650;

#[derive(Template)]
#[template(path = "tokens.html")]
struct TokensPage {
    page: Page,
    rows: Vec<TokenRow>,
    next: Option<String>,
    may_change: bool,
    error: Option<String>,
    f: Fields,
    accounts: Vec<String>,
    scopes: Vec<(&'static str, &'static str)>,
}

struct TokenRow {
    id: String,
    label: String,
    account: String,
    scopes: String,
    created_at: When,
    expires_at: Option<When>,
    last_use: Option<(When, String)>,
}

#[derive(Default)]
struct Fields {
    label: String,
    account: String,
}

#[derive(Deserialize)]
pub(super) struct After {
    #[serde(default)]
    cursor: String,
}

fn words(permission: Permission) -> &'static str {
    match permission {
        Permission::Read => "see",
        Permission::Check => "ask destinations",
        Permission::Clear => "clear the cache",
        Permission::Lists => "change lists",
        Permission::Domains => "change domains",
        Permission::Accounts => "change accounts",
        Permission::Tokens => "change tokens",
        Permission::Node => "see the node",
        Permission::ClearAll => "clear everything",
    }
}

pub(super) async fn list(visitor: Visitor, Query(After { cursor }): Query<After>) -> Answer {
    page(&visitor, &cursor, None, Fields::default()).await
}

async fn page(visitor: &Visitor, cursor: &str, error: Option<String>, f: Fields) -> Answer {
    let wanted = query(&[("cursor", cursor), ("limit", &PAGE.to_string())]);
    let found = visitor.ui.api.get(visitor, &format!("/api/v1/tokens?{wanted}")).await?;
    let mut rows = each(&found, "tokens", |token| {
        let text = |key: &str| token[key].as_str().unwrap_or_default().to_owned();
        let scopes = texts(token, "scopes");
        let scopes: Vec<&str> = scopes.iter().filter_map(|scope| Permission::parse(scope)).map(words).collect();
        TokenRow {
            id: text("id"),
            label: match text("label") {
                label if label.is_empty() => "without a name".to_owned(),
                label => label,
            },
            account: text("account"),
            scopes: scopes.join(", "),
            created_at: when(token, "created_at").unwrap_or(When(visitor.ui.now())),
            expires_at: when(token, "expires_at"),
            last_use: when(token, "last_used_at").map(|at| (at, text("last_used_from"))),
        }
    });
    rows.sort_by(|a, b| a.account.cmp(&b.account).then_with(|| a.label.cmp(&b.label)));
    let accounts = {
        let local = visitor.ui.state.administration.control.local();
        let own = local.accounts().values().filter(|account| visitor.principal.owns_account(&account.value));
        own.map(|account| account.value.name.clone()).collect()
    };
    let status =
        if error.is_some() { axum::http::StatusCode::UNPROCESSABLE_ENTITY } else { axum::http::StatusCode::OK };
    let f = Fields { account: if f.account.is_empty() { visitor.name().to_owned() } else { f.account }, ..f };
    show_as(
        status,
        &TokensPage {
            page: visitor.page("Tokens", "/tokens"),
            rows,
            next: found["next"].as_str().map(|next| query(&[("cursor", next)])),
            may_change: visitor.may(Permission::Tokens),
            error,
            f,
            accounts,
            scopes: Permission::ALL
                .into_iter()
                .filter(|permission| visitor.may(*permission))
                .map(|permission| (permission.as_str(), words(permission)))
                .collect(),
        },
    )
}

pub(super) async fn create(visitor: Visitor, Form(given): Form<HashMap<String, String>>) -> Answer {
    let of = |key: &str| given.get(key).cloned().unwrap_or_default();
    let scopes: Vec<&str> = given.keys().filter_map(|key| key.strip_prefix("scope_")).collect();
    let mut body = json!({"label": of("label"), "account": of("account"), "scopes": scopes});
    let days = of("days");
    if !days.trim().is_empty() {
        let Some(days) = days.trim().parse::<u64>().ok().filter(|days| (1..=MAX_DAYS).contains(days)) else {
            let error = format!(
                "{days:?} is no number of days: write one from 1 to {MAX_DAYS}, or nothing for a token that does not end."
            );
            let f = Fields { label: of("label"), account: of("account") };
            return page(&visitor, "", Some(error), f).await;
        };
        body["expires_at"] = json!(rfc3339(visitor.ui.now().after(Duration::from_secs(days * 86_400))));
    }
    match visitor.ui.api.post(&visitor, "/api/v1/tokens", Some(&body)).await {
        Ok(made) => {
            let secret = made["token"].as_str().map(str::to_owned);
            let text = "This is the new token. It is shown now and never again: copy it to where it is used.";
            visitor.say_flash(Flash { tone: "good", text: text.to_owned(), secret });
            Ok(go("/tokens"))
        }
        Err(refused) => {
            let f = Fields { label: of("label"), account: of("account") };
            page(&visitor, "", Some(refused.sentence), f).await
        }
    }
}

pub(super) async fn confirm_delete(visitor: Visitor, Path(id): Path<String>) -> Answer {
    let label = {
        let local = visitor.ui.state.administration.control.local();
        local.tokens().get(&id).map(|token| token.value.label.clone()).unwrap_or_default()
    };
    Confirm::new(&visitor, "/tokens", format!("Remove the token {label}?"))
        .sentence("Programs that use it are refused from then on.")
        .button("Remove the token")
        .paths(format!("/tokens/{}/delete", encode(&id)), "/tokens".to_owned())
        .show()
}

pub(super) async fn delete(visitor: Visitor, Path(id): Path<String>) -> Answer {
    visitor.ui.api.delete(&visitor, &format!("/api/v1/tokens/{}", encode(&id))).await?;
    visitor.say("good", "The token is removed.");
    Ok(go("/tokens"))
}
