//! `callahead cache`: what a running daemon keeps, seen and cleared.

use std::io::{BufRead as _, IsTerminal as _};

use anyhow::bail;
use hyper::Method;
use serde_json::Value;

use crate::admin_client::{AdminClient, encoded, pages};
use crate::cache_file;
use crate::cli::{CacheCommand, ClearArgs, DONE, NO, USAGE};
use crate::output;

/// Does it.
///
/// # Errors
/// When the daemon can't be reached or refuses.
pub async fn run(command: CacheCommand) -> anyhow::Result<u8> {
    match command {
        CacheCommand::List { domain, prefix, state, limit, socket } => {
            let client = AdminClient::new(&socket)?;
            let given = [("domain", &domain), ("prefix", &prefix), ("state", &state)];
            let query: Vec<(&str, &str)> =
                given.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect();
            let listed = pages(&client, "/api/v1/cache", "entries", &query, limit).await?;
            if listed.entries.is_empty() && !socket.json {
                output::print("nothing is kept\n");
            } else {
                let header = ["RECIPIENT OR DOMAIN", "STATE", "", "CHECKED AT", "UNTIL", "DESTINATION"];
                listed.print(socket.json, &header, row);
            }
            Ok(DONE)
        }
        CacheCommand::Show { address, socket } => {
            let client = AdminClient::new(&socket)?;
            let path = format!("/api/v1/cache/{}", encoded(&address));
            let Some(entry) = client.ask(Method::GET, &path, &[]).await? else {
                if !socket.json {
                    output::print(&format!("nothing is kept of {}\n", output::printable(&address)));
                }
                return Ok(NO);
            };
            let mut speaks_of_it = false;
            for entry in entry["entries"].as_array().unwrap_or(&Vec::new()) {
                // That its domain does not accept every local part says nothing of this one.
                speaks_of_it |= entry["recipient"].is_string() || entry["state"] != "not_accept_all";
                output::print(&if socket.json { format!("{entry}\n") } else { tree(entry, 0) });
            }
            Ok(if speaks_of_it { DONE } else { NO })
        }
        CacheCommand::Clear { what, yes, socket } => clear(&what, yes, AdminClient::new(&socket)?, socket.json).await,
        CacheCommand::LookThrough { alone, folder } => cache_file::run(&folder, alone),
        CacheCommand::Stats { socket } => {
            let client = AdminClient::new(&socket)?;
            let Some(stats) = client.ask(Method::GET, "/api/v1/stats", &[]).await? else {
                bail!("the daemon has no statistics")
            };
            if socket.json {
                output::print(&format!("{stats}\n"));
            } else {
                output::print(&tree(&stats, 0));
            }
            Ok(DONE)
        }
    }
}

async fn clear(what: &ClearArgs, yes: bool, client: AdminClient, json: bool) -> anyhow::Result<u8> {
    let (path, query, name) = match (&what.recipient, &what.domain) {
        (Some(recipient), _) => (format!("/api/v1/cache/{}", encoded(recipient)), Vec::new(), recipient.as_str()),
        (_, Some(domain)) => ("/api/v1/cache".to_owned(), vec![("domain", domain.as_str())], domain.as_str()),
        _ => ("/api/v1/cache".to_owned(), Vec::new(), "everything"),
    };
    if what.all && !yes {
        if !std::io::stdin().is_terminal() {
            output::remark("callahead: --all forgets everything; add --yes where nobody can be asked");
            return Ok(USAGE);
        }
        output::print("Forget everything that is kept? Every recipient is asked for again. [y/N] ");
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            output::print("nothing was cleared\n");
            return Ok(NO);
        }
    }
    let Some(cleared) = client.ask(Method::DELETE, &path, &query).await? else {
        bail!("the daemon does not know how to clear")
    };
    if json {
        output::print(&format!("{cleared}\n"));
    } else {
        let entries = cleared["entries"].as_u64().unwrap_or(0);
        let what = if entries == 1 { "entry" } else { "entries" };
        output::print(&format!("cleared {}: {entries} {what} forgotten\n", output::printable(name)));
    }
    Ok(DONE)
}

/// A field as text; empty where it is not there.
pub(crate) fn field(entry: &Value, name: &str) -> String {
    match &entry[name] {
        Value::Null => String::new(),
        Value::String(text) => output::printable(text),
        other => other.to_string(),
    }
}

fn row(entry: &Value) -> Vec<String> {
    let name = entry["recipient"].as_str().or(entry["domain"].as_str()).unwrap_or_default();
    let mut row = vec![output::printable(name)];
    row.extend(["state", "freshness", "checked_at", "expires_at", "destination"].map(|name| field(entry, name)));
    row
}

/// What people look for first in a record, in this order; the rest follows by name.
const FIRST: [&str; 22] = [
    "recipient",
    "domain",
    "name",
    "state",
    "freshness",
    "role",
    "owner",
    "read_only",
    "domains",
    "destination",
    "code",
    "enhanced",
    "text",
    "reply",
    "checked_at",
    "expires_at",
    "callouts",
    "route",
    "relay",
    "tls",
    "valid",
    "invalid",
];

/// A JSON object as indented lines, for people.
pub(crate) fn tree(value: &Value, depth: usize) -> String {
    let Value::Object(object) = value else { return String::new() };
    let width = object.keys().map(String::len).max().unwrap_or(0);
    let mut fields: Vec<(&String, &Value)> = object.iter().collect();
    // Stable, and what comes in is in the order of names.
    fields.sort_by_key(|(name, _)| FIRST.iter().position(|first| first == name).unwrap_or(FIRST.len()));
    let lines = fields.into_iter().map(|(name, value)| {
        let indent = "  ".repeat(depth);
        match value {
            Value::Object(_) => format!("{indent}{name}\n{}", tree(value, depth + 1)),
            Value::Array(items) if items.first().is_some_and(Value::is_object) => {
                let items = items.iter().map(|item| format!("{indent}  -\n{}", tree(item, depth + 2)));
                format!("{indent}{name}\n{}", items.collect::<String>())
            }
            Value::String(text) => format!("{indent}{name:<width$}  {}\n", output::printable(text)),
            other => format!("{indent}{name:<width$}  {other}\n"),
        }
    });
    lines.collect()
}
