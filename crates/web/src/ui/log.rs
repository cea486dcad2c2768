//! The decision log: search and export.

use askama::Template;
use axum::extract::Query;
use serde::Deserialize;

use super::api::Refused;
use super::chart::count;
use super::frame::{Answer, Page, Visitor, show};
use super::view::{LogView, each, query};

/// Rows on a page.
const PAGE: usize = 100;
/// Rows where a page about something else shows the latest.
const LATEST: usize = 10;

#[derive(Template)]
#[template(path = "log.html")]
struct LogPage {
    page: Page,
    f: Filter,
    verdicts: [(&'static str, &'static str); 5],
    rows: Vec<LogView>,
    /// The search without its place, for exports.
    query: String,
    more: Option<String>,
    lost: Option<String>,
}

/// What is looked for, as the form has it.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Filter {
    recipient: String,
    domain: String,
    sender: String,
    client: String,
    verdict: String,
    since: String,
    until: String,
    cursor: String,
    format: String,
}

impl Filter {
    /// As it stands in the page's own address.
    fn query(&self, cursor: &str) -> String {
        query(&[
            ("recipient", &self.recipient),
            ("domain", &self.domain),
            ("sender", &self.sender),
            ("client", &self.client),
            ("verdict", &self.verdict),
            ("since", &self.since),
            ("until", &self.until),
            ("cursor", cursor),
        ])
    }

    /// As the API takes it.
    fn for_api(&self, more: &[(&str, &str)]) -> String {
        let (since, until) = (moment(&self.since), moment(&self.until));
        let mut values = vec![
            ("recipient", self.recipient.trim()),
            ("domain", self.domain.trim()),
            ("sender", self.sender.trim()),
            ("client", self.client.trim()),
            ("verdict", &self.verdict),
            ("since", &since),
            ("until", &until),
        ];
        values.extend_from_slice(more);
        query(&values)
    }
}

/// `2026-11-25T08:00` of a form's field, in UTC, or what the API takes itself.
fn moment(text: &str) -> String {
    let text = text.trim();
    match text.len() {
        16 => format!("{text}:00Z"),
        19 => format!("{text}Z"),
        _ => text.to_owned(),
    }
}

/// A page of the decisions that fit, newest first, and the cursor of the next one where there may be more: a page may be short, and empty.
pub(super) async fn decisions(visitor: &Visitor, wanted: &str) -> Result<(Vec<LogView>, Option<String>), Refused> {
    let found = visitor.ui.api.get(visitor, &format!("/api/v1/log?{wanted}")).await?;
    Ok((each(&found, "rows", LogView::of), found["next"].as_str().map(str::to_owned)))
}

/// The latest few of them.
pub(super) async fn latest(visitor: &Visitor, whose: (&str, &str)) -> Result<(Vec<LogView>, Option<String>), Refused> {
    decisions(visitor, &query(&[whose, ("limit", &LATEST.to_string())])).await
}

pub(super) async fn search(visitor: Visitor, Query(f): Query<Filter>) -> Answer {
    let wanted = f.for_api(&[("cursor", &f.cursor), ("limit", &PAGE.to_string())]);
    let mut page = visitor.page("Log", "/log");
    let (rows, more) = match decisions(&visitor, &wanted).await {
        Ok((rows, next)) => (rows, next.map(|next| f.query(&next))),
        // What is wrong with the search is said above it.
        Err(refused) if refused.status.is_client_error() => {
            page = page.saying("bad", refused.sentence);
            (Vec::new(), None)
        }
        Err(refused) => return Err(refused.into()),
    };
    let counters = visitor.ui.state.administration.log.counters();
    let lost = (counters.lost > 0 && visitor.principal.is_admin()).then(|| {
        let why = counters.write_error.map(|why| format!(" The last failure: {why}.")).unwrap_or_default();
        format!("{} decisions could not be logged since the start.{why}", count(counters.lost))
    });
    show(&LogPage {
        page,
        query: f.query(""),
        f,
        verdicts: [
            ("valid", "exists"),
            ("invalid", "does not exist"),
            ("unknown", "unknown"),
            ("not_ours", "not ours"),
            ("none", "no address"),
        ],
        rows,
        more,
        lost,
    })
}

pub(super) async fn export(visitor: Visitor, Query(f): Query<Filter>) -> Answer {
    let format = if f.format == "jsonl" { "jsonl" } else { "csv" };
    let path = format!("/api/v1/log?{}", f.for_api(&[("format", format)]));
    Ok(visitor.ui.api.pass(&visitor, "GET", &path, None, None).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forms_time_is_utc() {
        assert_eq!(moment("2026-11-25T08:00"), "2026-11-25T08:00:00Z");
        assert_eq!(moment("2026-11-25T08:00:01"), "2026-11-25T08:00:01Z");
        assert_eq!(moment("2026-11-25T08:00:01.5Z"), "2026-11-25T08:00:01.5Z");
    }
}
