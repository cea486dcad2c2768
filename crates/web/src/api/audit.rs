//! `/audit`: who did what.

use axum::extract::State as Given;
use axum::response::Json;
use callahead_control::{AuditEntry, Principal};
use callahead_engine::rfc3339;
use serde_json::{Value, json};

use super::request::{Answer, Asker, MAX_PAGE, PAGE, parse_number_cursor, with_next};
use super::schema;
use crate::State;
use crate::query::Parameters;

/// Who did what
///
/// Newest first: the account's own doings, and what was done to what is theirs. Of a change an entry has what differs, 16 KiB at most. A page
/// may be short where entries are large.
#[utoipa::path(
    get, path = "/api/v1/audit", tag = "access", operation_id = "audit",
    params(
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 1000, description = "Entries on a page; 100 where it is not given"),
    ),
    responses((status = 200, description = "A page of entries", body = schema::AuditPage))
)]
pub(crate) async fn list(Given(state): Given<State>, asker: Asker, mut query: Parameters) -> Answer {
    let cursor = query.take("cursor")?.map(|cursor| parse_number_cursor(&cursor)).transpose()?;
    let limit = query.number("limit", PAGE, MAX_PAGE)?;
    query.end(&["cursor", "limit"])?;
    let principal = asker.principal.clone();
    let page = state.administration.control.audit(principal, cursor, limit).await?;
    let entries: Vec<Value> = page.entries.iter().map(|entry| shown(entry, &asker.principal)).collect();
    Ok(Json(with_next(json!({"entries": entries}), page.next.map(|next| next.to_string()))))
}

fn shown(entry: &AuditEntry, principal: &Principal) -> Value {
    let mut shown = json!({
        "id": entry.id.to_string(), "at": rfc3339(entry.at), "who": entry.actor.who, "action": entry.action, "object": entry.object,
    });
    // From where others work is their own affair.
    if principal.is_admin() || principal.name() == Some(entry.actor.who.as_str()) {
        shown["from"] = json!(entry.actor.from);
    }
    if let Some(domain) = &entry.domain {
        shown["domain"] = json!(domain);
    }
    for (name, value) in [("before", &entry.before), ("after", &entry.after)] {
        if let Some(value) = value.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok()) {
            shown[name] = value;
        }
    }
    shown
}
