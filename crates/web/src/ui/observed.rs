//! A domain's first days: what would have been refused, and one button to enforce.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use askama::Template;
use axum::extract::Path;
use callahead_cache::Timestamp;
use serde_json::json;

use super::chart::count;
use super::domains::{Head, configured};
use super::frame::{Answer, Page, Visitor, When, go, show};
use super::log::decisions;
use super::view::{encode, query};

/// Pages of the log that are looked at for what was observed, and the rows on each at most; where refusals are rare, pages are short.
const OBSERVED_PAGES: usize = 20;
const OBSERVED_PAGE: usize = 500;
/// After so long no further page is looked at: the latest refusals say enough to decide by.
const OBSERVED_FOR: Duration = Duration::from_millis(60);
/// Recipients that are shown of these, and looked for in the log.
const OBSERVED_RECIPIENTS: usize = 100;

#[derive(Template)]
#[template(path = "observed.html")]
struct ObservedPage {
    page: Page,
    head: Head,
    refused: String,
    recipients: String,
    had_mail: String,
    cut: bool,
    /// More of them may have been accepted than were found.
    is_accepted_cut: bool,
    rows: Vec<ObservedRow>,
}

struct ObservedRow {
    recipient: String,
    times: u64,
    last: When,
    reply: Option<String>,
    had_mail: bool,
}

pub(super) async fn observed(visitor: Visitor, Path(name): Path<String>) -> Answer {
    let config = configured(&visitor, &name)?;
    let head = Head::of(&visitor, &config, "observed");
    let mut found: BTreeMap<String, ObservedRow> = BTreeMap::new();
    let (mut refused, mut cut, mut cursor) = (0u64, true, String::new());
    let whose = ("domain", config.name.as_str());
    let began = Instant::now();
    for number in 0..OBSERVED_PAGES {
        if number > 0 && began.elapsed() >= OBSERVED_FOR {
            break;
        }
        let wanted =
            query(&[whose, ("verdict", "invalid"), ("limit", &OBSERVED_PAGE.to_string()), ("cursor", &cursor)]);
        let (rows, next) = decisions(&visitor, &wanted).await?;
        for row in rows {
            if row.decision.would.is_none() {
                continue;
            }
            refused += 1;
            let decision = row.decision;
            let entry = found.entry(decision.recipient.clone()).or_insert(ObservedRow {
                recipient: decision.recipient,
                times: 0,
                last: row.at,
                reply: decision.reply,
                had_mail: false,
            });
            entry.times += 1;
        }
        match next {
            Some(next) => cursor = next,
            None => {
                cut = false;
                break;
            }
        }
    }
    let recipients = found.len();
    let mut rows: Vec<ObservedRow> = found.into_values().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.times));
    rows.truncate(OBSERVED_RECIPIENTS);
    // Where only the domain is logged, all of its recipients have one name.
    let names = rows.iter().map(|row| row.recipient.clone()).filter(|name| !name.starts_with("*@")).collect();
    // Whoever may see the domain's refusals, as the log has said above, may see this.
    let administration = &visitor.ui.state.administration;
    let since = match visitor.principal.is_admin() {
        true => Timestamp(0),
        false => administration.ownership_of(config.name.clone()).since,
    };
    let accepted = administration.log.accepted(names, since).await?;
    for row in &mut rows {
        row.had_mail = accepted.recipients.contains(&row.recipient);
    }
    show(&ObservedPage {
        page: visitor.page(&format!("Observed of {}", config.name), "/domains"),
        head,
        refused: count(refused),
        recipients: count(recipients as u64),
        had_mail: count(rows.iter().filter(|row| row.had_mail).count() as u64),
        cut,
        is_accepted_cut: accepted.is_cut,
        rows,
    })
}

pub(super) async fn enforce(visitor: Visitor, Path(name): Path<String>) -> Answer {
    let path = format!("/api/v1/domains/{}", encode(&name));
    visitor.ui.api.send(&visitor, "PATCH", &path, Some(&json!({"callouts": "enforce"})), None).await?;
    visitor.say("good", format!("{name} is enforced from now on: recipients that do not exist are refused."));
    Ok(go(&format!("/domains/{}", encode(&name))))
}
