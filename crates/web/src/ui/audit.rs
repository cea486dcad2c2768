//! The audit log: who did what.

use askama::Template;
use axum::extract::Query;
use serde::Deserialize;
use serde_json::Value;

use super::frame::{Answer, Page, Visitor, When, show};
use super::view::{each, query, when};

/// Entries on a page.
const PAGE: usize = 100;

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditPage {
    page: Page,
    rows: Vec<AuditRow>,
    next: Option<String>,
}

struct AuditRow {
    at: When,
    who: String,
    from: String,
    action: String,
    object: String,
    summary: String,
    before: Option<String>,
    after: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Before {
    #[serde(default)]
    cursor: String,
}

pub(super) async fn list(visitor: Visitor, Query(Before { cursor }): Query<Before>) -> Answer {
    let wanted = query(&[("cursor", &cursor), ("limit", &PAGE.to_string())]);
    let found = visitor.ui.api.get(&visitor, &format!("/api/v1/audit?{wanted}")).await?;
    let rows = each(&found, "entries", |entry| {
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let json = |key: &str| entry.get(key).map(ToString::to_string);
        AuditRow {
            at: when(entry, "at").unwrap_or(When(visitor.ui.now())),
            who: text("who"),
            from: text("from"),
            action: text("action"),
            object: text("object"),
            summary: changed(entry.get("before"), entry.get("after")),
            before: json("before"),
            after: json("after"),
        }
    });
    let next = found["next"].as_str().map(str::to_owned);
    show(&AuditPage { page: visitor.page("Audit", "/audit"), rows, next })
}

/// Which keys differ.
fn changed(before: Option<&Value>, after: Option<&Value>) -> String {
    match (before, after) {
        (None, Some(_)) => "made".to_owned(),
        (Some(_), None) => "removed".to_owned(),
        (Some(Value::Object(before)), Some(Value::Object(after))) => {
            let mut keys: Vec<&str> = before.keys().chain(after.keys()).map(String::as_str).collect();
            keys.sort_unstable();
            keys.dedup();
            keys.retain(|key| before.get(*key) != after.get(*key));
            if keys.is_empty() { "nothing".to_owned() } else { keys.join(", ") }
        }
        _ => "changed".to_owned(),
    }
}
