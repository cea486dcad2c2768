//! `/log`: the decision log, searched page by page, or exported whole.

use std::collections::VecDeque;

use axum::body::{Body, Bytes};
use axum::extract::State as Given;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Json, Response};
use callahead_control::{LogFilter, LogPage, LogRow, Principal};
use callahead_engine::rfc3339;
use callahead_smtp::{Domain, Recipient};
use futures_util::stream;
use serde_json::{Value, json};

use super::domains::{canonical, of_file, record};
use super::request::{Answer, Asker, MAX_PAGE, PAGE, parse_domain, parse_number_cursor, parse_time, with_next};
use super::schema;
use crate::State;
use crate::problem::Problem;
use crate::query::Parameters;

/// Rows in an export at most.
const MAX_EXPORT: usize = 1_000_000;
/// Domains of an account by which its rows are found faster than by looking at all.
const FEW: usize = 100;
/// The columns of an export as CSV.
const COLUMNS: [&str; 15] = [
    "at",
    "node",
    "listener",
    "client",
    "sender",
    "recipient",
    "verdict",
    "row",
    "source",
    "action",
    "code",
    "text",
    "destination",
    "reply",
    "elapsed_ms",
];
/// The verdicts that can be looked for.
const VERDICTS: [&str; 5] = ["valid", "invalid", "unknown", "not_ours", "none"];

/// Search the decision log
///
/// Newest first. All but administrators see of a domain what was logged since it is whose it is now. A page may be short, or empty, and still have a `next`, where what is looked for is rare.
#[utoipa::path(
    get, path = "/api/v1/log", tag = "log", operation_id = "log_search",
    params(
        ("domain" = Option<String>, Query, description = "The recipient's domain; `*.example.com` is what this domain here covers"),
        ("recipient" = Option<String>, Query, description = "The recipient, in any spelling, where its domain is configured here; anything else is a part of it"),
        ("sender" = Option<String>, Query, description = "A part of the sender"),
        ("client" = Option<String>, Query, description = "The client's IP address"),
        ("verdict" = Option<String>, Query, description = "`valid`, `invalid`, `unknown`, `not_ours`; `none` for what was no address"),
        ("since" = Option<String>, Query, description = "Decided at this time or later (RFC 3339)"),
        ("until" = Option<String>, Query, description = "Decided before this time (RFC 3339)"),
        ("format" = Option<String>, Query, description = "`json` for a page; `csv` or `jsonl` for an export of all that fits, up to 1,000,000 rows"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 1000, description = "Rows on a page; 100 where it is not given"),
    ),
    responses((status = 200, description = "A page of decisions, or an export", content(
        (schema::LogPage = "application/json"), (String = "text/csv"), (String = "application/jsonl")
    )))
)]
pub(crate) async fn search(Given(state): Given<State>, asker: Asker, mut query: Parameters) -> Answer<Response> {
    let verdict = query.take("verdict")?;
    if let Some(verdict) = verdict.as_deref().filter(|verdict| !VERDICTS.contains(verdict)) {
        let known = VERDICTS.join(", ");
        return Err(Problem::bad_request(format!("verdict is {verdict:?}: known are {known}")));
    }
    let (mut domain, mut wildcard) = (None, None);
    match query.take("domain")? {
        Some(text) if text.starts_with("*.") => wildcard = Some(existing(&state, &text)?),
        Some(text) => domain = Some(parse_domain(&text)?.to_string()),
        None => {}
    }
    let text = query.take("recipient")?.filter(|text| !text.is_empty());
    let (recipient, part) = text.map(|text| meant(&state, text)).unwrap_or_default();
    let filter = LogFilter {
        domain,
        recipient,
        // What a wildcard covers has its end in it, which is found faster than by looking at each row.
        part: part.or_else(|| wildcard.as_ref().map(|name| name.trim_start_matches('*').to_owned())),
        sender: query.take("sender")?.filter(|text| !text.is_empty()),
        client: query.ip("client")?,
        domains: None,
        verdict,
        since: query.take("since")?.map(|text| parse_time("since", &text)).transpose()?,
        until: query.take("until")?.map(|text| parse_time("until", &text)).transpose()?,
    };
    let format = query.take("format")?;
    let cursor = query.take("cursor")?.map(|cursor| parse_number_cursor(&cursor)).transpose()?;
    let limit = query.number("limit", PAGE, MAX_PAGE)?;
    query.end(&[
        "domain",
        "recipient",
        "sender",
        "client",
        "verdict",
        "since",
        "until",
        "format",
        "cursor",
        "limit",
    ])?;
    let mut search = Search { state, principal: asker.principal, filter, wildcard };
    search.filter.domains = search.domains();
    match format.as_deref() {
        None | Some("json") => {
            let page = search.page(cursor, limit).await?;
            let rows: Vec<Value> = page.rows.iter().map(|row| shown(row, search.node())).collect();
            Ok(Json(with_next(json!({"rows": rows}), page.next.map(|next| next.to_string()))).into_response())
        }
        Some("csv") => Ok(export(search, Format::Csv)),
        Some("jsonl") => Ok(export(search, Format::Lines)),
        Some(other) => Err(Problem::bad_request(format!("format is {other:?}: write json, csv or jsonl"))),
    }
}

/// What somebody means by a recipient: a whole one as the log has it, or else a part.
fn meant(state: &State, text: String) -> (Option<String>, Option<String>) {
    match Recipient::parse(text.as_bytes()) {
        Ok(recipient) if state.engine.directory().find(recipient.domain()).is_some() => {
            (Some(state.engine.canonical(recipient).to_string()), None)
        }
        // Of what is not configured here nobody can tell whether it is written to its end.
        Ok(recipient) => (None, Some(recipient.to_string())),
        Err(_) => (None, Some(text)),
    }
}

/// The name of a wildcard that is there.
fn existing(state: &State, name: &str) -> Answer<String> {
    let name = canonical(name)?;
    match of_file(state, &name) {
        Some(_) => Ok(name),
        None => record(state, &name).map(|_| name),
    }
}

struct Search {
    state: State,
    principal: Principal,
    filter: LogFilter,
    /// Only what this wildcard covers.
    wildcard: Option<String>,
}

impl Search {
    /// Whose log it is.
    fn node(&self) -> &str {
        &self.state.administration.node
    }

    /// The domains of whoever asks, where they are few and none has subdomains.
    fn domains(&self) -> Option<Vec<String>> {
        if self.principal.is_admin() {
            return None;
        }
        let (administration, directory) = (&self.state.administration, self.state.engine.directory());
        let owns = |name: &str| self.principal.owns_domain(name, administration.owner(name).as_deref());
        let names: Vec<String> =
            directory.iter().map(|config| &config.name).filter(|name| owns(name)).take(FEW + 1).cloned().collect();
        (names.len() <= FEW && names.iter().all(|name| !name.starts_with("*."))).then_some(names)
    }

    async fn page(&self, cursor: Option<i64>, limit: usize) -> Answer<LogPage> {
        let (state, principal, wildcard) = (self.state.clone(), self.principal.clone(), self.wildcard.clone());
        let is_seen = move |domain: &str, at| {
            if principal.is_admin() && wildcard.is_none() {
                return true;
            }
            let Ok(domain) = Domain::parse(domain) else { return false };
            let directory = state.engine.directory();
            let is_covered = |name: &String| directory.find(&domain).is_some_and(|found| found.name == *name);
            let since = state.administration.sees_since(&principal, &state.engine, &domain);
            wildcard.as_ref().is_none_or(is_covered) && since.is_some_and(|since| at >= since)
        };
        Ok(self.state.administration.log.search(self.filter.clone(), is_seen, cursor, limit).await?)
    }
}

fn shown(row: &LogRow, node: &str) -> Value {
    let decision: Value = serde_json::from_str(&row.decision).unwrap_or_default();
    let mut shown = json!({
        "id": row.id.to_string(), "at": rfc3339(row.at), "node": node, "listener": row.listener, "decision": decision,
    });
    for (name, value) in [("client", &row.client), ("sender", &row.sender)] {
        if let Some(value) = value {
            shown[name] = json!(value);
        }
    }
    shown
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Csv,
    Lines,
}

/// Streams page after page, so that no export is held in memory. A failure on the way breaks the answer off, which a client sees.
fn export(search: Search, format: Format) -> Response {
    struct Work {
        search: Search,
        cursor: Option<i64>,
        rows: usize,
        ready: VecDeque<Bytes>,
        done: bool,
    }
    let header = match format {
        Format::Csv => Bytes::from(csv_line(COLUMNS.map(str::to_owned))),
        Format::Lines => Bytes::new(),
    };
    let work = Work { search, cursor: None, rows: 0, ready: VecDeque::from([header]), done: false };
    let body = stream::unfold(work, move |mut work| async move {
        loop {
            if let Some(ready) = work.ready.pop_front() {
                return Some((Ok(ready), work));
            }
            if work.done {
                return None;
            }
            let page = match work.search.page(work.cursor, MAX_PAGE).await {
                Ok(page) => page,
                Err(_) => {
                    work.done = true;
                    return Some((Err(std::io::Error::other("the log can't be read")), work));
                }
            };
            work.rows += page.rows.len();
            work.cursor = page.next;
            work.done = page.next.is_none() || work.rows >= MAX_EXPORT;
            let mut octets = Vec::new();
            for row in &page.rows {
                match format {
                    Format::Csv => octets.extend(csv_row(row, work.search.node())),
                    Format::Lines => octets.extend(format!("{}\n", shown(row, work.search.node())).into_bytes()),
                }
            }
            work.ready.push_back(Bytes::from(octets));
        }
    });
    let (kind, file) = match format {
        Format::Csv => ("text/csv; charset=utf-8", "attachment; filename=\"callahead-log.csv\""),
        Format::Lines => ("application/jsonl", "attachment; filename=\"callahead-log.jsonl\""),
    };
    ([(CONTENT_TYPE, kind), (CONTENT_DISPOSITION, file)], Body::from_stream(body)).into_response()
}

fn csv_row(row: &LogRow, node: &str) -> Vec<u8> {
    let decision: Value = serde_json::from_str(&row.decision).unwrap_or_default();
    let text = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let reply = &decision["reply"];
    let reply = [&reply["code"], &reply["enhanced"], &reply["text"]].map(text).join(" ");
    csv_line([
        rfc3339(row.at),
        node.to_owned(),
        row.listener.clone(),
        row.client.clone().unwrap_or_default(),
        row.sender.clone().unwrap_or_default(),
        row.recipient.clone(),
        text(&decision["verdict"]),
        text(&decision["row"]),
        text(&decision["source"]),
        text(&decision["answer"]["action"]),
        text(&decision["answer"]["code"]),
        text(&decision["answer"]["text"]),
        text(&decision["destination"]),
        reply.trim().to_owned(),
        text(&decision["elapsed_ms"]),
    ])
}

fn csv_line(cells: [String; COLUMNS.len()]) -> Vec<u8> {
    let mut writer = csv::WriterBuilder::new().from_writer(Vec::new());
    // Into memory, which does not fail.
    let _ = writer.write_record(cells.map(harmless).iter());
    writer.into_inner().unwrap_or_default()
}

/// What a spreadsheet would take for a formula gets an apostrophe before it, as OWASP advises: senders and destinations choose these texts.
fn harmless(cell: String) -> String {
    if cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) { format!("'{cell}") } else { cell }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn no_cell_of_an_export_is_a_formula() {
        for text in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"] {
            assert!(harmless(text.to_owned()).starts_with('\''), "{text:?}");
        }
        assert_eq!(harmless("anna@one.example".into()), "anna@one.example");
        let mut cells = COLUMNS.map(str::to_owned);
        cells[3] = "=HYPERLINK(\"http://evil.example\",\"x\")\r\n,".into();
        let line = csv_line(cells);
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(line.as_slice());
        let record = reader.records().next().unwrap().unwrap();
        assert_eq!(record.len(), COLUMNS.len());
        assert!(record[3].starts_with("'="), "{record:?}");
    }
}
