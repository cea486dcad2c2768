//! The API on the admin socket: verdicts, the cache and its clears, what is known of destinations and domains.
//!
//! Addresses in paths are percent-decoded once, so `/` and `%` in a local part come as `%2F` and `%25`.

use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State as Given};
use axum::http::StatusCode;
use axum::response::Json;
use axum::routing::get;
use callahead_cache::{Cache, CacheError, Cursor, Entry, Filter, Scope};
use callahead_engine::{Decision, Listener, Question};
use callahead_smtp::{Domain, Recipient};
use serde_json::{Value, json};

use crate::problem::Problem;
use crate::query::Parameters;
use crate::serve::Peer;
use crate::{State, json};

/// Entries on a page where the request does not say.
const PAGE: usize = 100;
/// Entries on a page at most.
const MAX_PAGE: usize = 1000;

type Answer<T = Json<Value>> = Result<T, Problem>;
type Address = Result<Path<String>, PathRejection>;

/// `/api/v1`: recipients' verdicts, cache, stats, destinations and domains.
pub fn admin_router(state: State) -> Router {
    Router::new()
        .route("/api/v1/recipients/{address}/verdict", get(verdict))
        .route("/api/v1/cache", get(entries).delete(clear_many))
        .route("/api/v1/cache/{address}", get(entry).delete(clear_one))
        .route("/api/v1/stats", get(stats))
        .route("/api/v1/stats/domains", get(domain_stats))
        .route("/api/v1/destinations", get(destinations))
        .route("/api/v1/domains", get(domains))
        .fallback(|| async { Problem::not_found("nothing is here: the API begins with /api/v1/") })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this method is not known here: GET shows, DELETE clears")
        })
        .with_state(state)
}

/// Asks the engine. `transcript=true`: with the dialogue. `cached=only`: never the destination. `live=true`: never the cache.
async fn verdict(Given(state): Given<State>, address: Address, mut query: Parameters) -> Answer<Json<Decision>> {
    let address = text(address)?;
    let transcript = query.flag("transcript")?;
    let live = query.flag("live")?;
    let cached_only = match query.take("cached")?.as_deref() {
        None => false,
        Some("only") => true,
        Some(other) => return Err(Problem::bad_request(format!("cached is {other:?}: write only, or leave it out"))),
    };
    query.end(&["transcript", "live", "cached"])?;
    if live && cached_only {
        return Err(Problem::bad_request("live=true and cached=only exclude each other: give one of them"));
    }
    let question = Question { live, cached_only, ..Question::new(address.as_bytes(), Listener::Admin) };
    let mut decision = state.engine.decide(question).await;
    if !transcript {
        decision.transcript = None;
    }
    Ok(Json(decision))
}

/// A page of what is kept.
async fn entries(Given(state): Given<State>, mut query: Parameters) -> Answer {
    let domain = query.take("domain")?.map(|domain| parse_domain(&domain)).transpose()?;
    let prefix = query.take("prefix")?;
    let wanted = query.take("state")?.map(|name| parse_state(&name)).transpose()?;
    let cursor = query.take("cursor")?.map(|cursor| parse_cursor(&cursor)).transpose()?;
    let limit = query.number("limit", PAGE, MAX_PAGE)?;
    query.end(&["domain", "prefix", "state", "cursor", "limit"])?;
    let filter = Filter { domain, prefix, state: wanted };
    let page = read(&state, move |cache| cache.list(&filter, cursor.as_ref(), limit)).await?;
    let (directory, now) = (state.engine.directory(), state.engine.now());
    let entries: Vec<_> = page.entries.iter().map(|entry| json::entry(entry, &directory, now)).collect();
    Ok(Json(with_next(json!({"entries": entries}), page.next.as_ref())))
}

/// What is kept of a recipient, and of its domain where that bears on it.
async fn entry(Given(state): Given<State>, address: Address, query: Parameters) -> Answer {
    let recipient = parse_recipient(&text(address)?)?;
    query.end(&[])?;
    let recipient = state.engine.canonical(recipient);
    let lookup = state.engine.cache().lookup(&recipient)?;
    let (directory, now) = (state.engine.directory(), state.engine.now());
    let of_recipient = lookup.recipient.map(|record| Entry::Recipient(recipient.to_string(), record));
    let of_domain = lookup.domain.map(|record| Entry::Domain(recipient.domain().to_string(), record));
    let entries: Vec<_> =
        [of_recipient, of_domain].iter().flatten().map(|entry| json::entry(entry, &directory, now)).collect();
    if entries.is_empty() {
        return Err(Problem::not_found(format!("nothing is kept of {recipient}")));
    }
    Ok(Json(json!({"entries": entries})))
}

async fn clear_one(
    Given(state): Given<State>,
    peer: Option<Extension<Peer>>,
    address: Address,
    query: Parameters,
) -> Answer {
    let recipient = parse_recipient(&text(address)?)?;
    query.end(&[])?;
    clear(&state, peer, Scope::Recipient(state.engine.canonical(recipient))).await
}

/// Clears a domain, or everything. Everything only where there is no query at all: a parameter that is misspelt, or that a
/// script left empty, must not clear more than was meant.
async fn clear_many(Given(state): Given<State>, peer: Option<Extension<Peer>>, mut query: Parameters) -> Answer {
    if query.is_absent() {
        return clear(&state, peer, Scope::All).await;
    }
    let domain = query.take("domain")?;
    query.end(&["domain"])?;
    match domain {
        Some(domain) => clear(&state, peer, Scope::Domain(parse_domain(&domain)?)).await,
        None => Err(Problem::bad_request("the query is empty: leave the ? out to clear everything, or give domain")),
    }
}

async fn clear(state: &State, peer: Option<Extension<Peer>>, scope: Scope) -> Answer {
    let mut cleared = match &scope {
        Scope::Recipient(recipient) => json!({"scope": "recipient", "recipient": recipient.to_string()}),
        Scope::Domain(domain) => json!({"scope": "domain", "domain": domain.to_string()}),
        Scope::All => json!({"scope": "all"}),
    };
    let done = state.engine.clear(scope).await?;
    cleared["entries"] = json!(done.entries);
    cleared["epoch"] = json!(done.epoch.0);
    let by = peer.map_or_else(|| "unknown".to_owned(), |Extension(Peer(peer))| peer);
    tracing::info!(%cleared, by, "the cache was cleared through the API");
    Ok(Json(cleared))
}

/// Counters of everything; with `domain`, what the cache holds of it.
async fn stats(Given(state): Given<State>, mut query: Parameters) -> Answer {
    let domain = query.take("domain")?.map(|domain| parse_domain(&domain)).transpose()?;
    query.end(&["domain"])?;
    let cache = state.engine.cache();
    let kept = cache.stats(domain.as_ref())?;
    let mut shown = json!({"cache": {"valid": kept.valid, "invalid": kept.invalid, "domains": kept.domains}});
    if let Some(domain) = domain {
        shown["domain"] = json!(domain.to_string());
        return Ok(Json(shown));
    }
    let health = cache.health();
    shown["cache"]["file_bytes"] = json!(kept.file_bytes);
    shown["cache"]["used_bytes"] = json!(kept.used_bytes);
    shown["cache"]["failed_commits"] = json!(health.failed_commits);
    shown["cache"]["dropped"] = json!(health.dropped);
    shown["cache"]["superseded"] = json!(health.superseded);
    shown["cache"]["unreadable"] = json!(health.unreadable);
    if let Some(error) = health.write_error {
        shown["cache"]["write_error"] = json!(error);
    }
    let engine = state.engine.stats();
    shown["engine"] = json!({
        "flights": engine.flights, "joined": engine.joined, "refreshes": engine.refreshes, "guesses": engine.guesses,
        "superseded": engine.superseded, "under_way": engine.under_way, "held_down": engine.held_down,
    });
    if let Some(callouts) = &state.callouts {
        let totals = callouts.totals();
        shown["callouts"] = json!({"begun": totals.questions, "busy": totals.busy, "sessions": totals.sessions});
    }
    let listeners = state.listeners.iter().map(|listener| {
        json!({
            "name": listener.name, "at": listener.at,
            "open": listener.counters.open.load(Ordering::Relaxed),
            "requests": listener.counters.requests.load(Ordering::Relaxed),
        })
    });
    shown["listeners"] = listeners.collect();
    Ok(Json(shown))
}

/// A page of counts by domain.
async fn domain_stats(Given(state): Given<State>, mut query: Parameters) -> Answer {
    let cursor = query.take("cursor")?.map(|cursor| parse_cursor(&cursor)).transpose()?;
    let limit = query.number("limit", PAGE, MAX_PAGE)?;
    query.end(&["cursor", "limit"])?;
    let (counts, next) = read(&state, move |cache| cache.domain_counts(cursor.as_ref(), limit)).await?;
    let domains: Vec<_> = counts
        .iter()
        .map(|counts| {
            let mut shown = json!({"domain": counts.domain, "valid": counts.valid, "invalid": counts.invalid});
            if let Some(state) = counts.state {
                shown["state"] = json!(json::state_name(callahead_cache::EntryState::Domain(state)));
            }
            shown
        })
        .collect();
    Ok(Json(with_next(json!({"domains": domains}), next.as_ref())))
}

async fn destinations(Given(state): Given<State>, query: Parameters) -> Answer {
    query.end(&[])?;
    let hosts = state.callouts.map(|callouts| callouts.destinations()).unwrap_or_default();
    Ok(Json(json!({"destinations": hosts.iter().map(json::destination).collect::<Vec<_>>()})))
}

/// The configured domains, by name.
async fn domains(Given(state): Given<State>, query: Parameters) -> Answer {
    query.end(&[])?;
    let directory = state.engine.directory();
    let mut configs: Vec<_> = directory.iter().collect();
    configs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Json(json!({"domains": configs.iter().map(|config| json::domain(config)).collect::<Vec<_>>()})))
}

// === what requests are made of ===

fn text(address: Address) -> Answer<String> {
    match address {
        Ok(Path(address)) => Ok(address),
        Err(_) => Err(Problem::bad_request("the address in the path is not percent-encoded UTF-8")),
    }
}

fn parse_recipient(address: &str) -> Answer<Recipient> {
    Recipient::parse(address.as_bytes())
        .map_err(|error| Problem::bad_request(format!("{address:?} is no recipient address: {error}")))
}

fn parse_domain(domain: &str) -> Answer<Domain> {
    Domain::parse(domain).map_err(|error| Problem::bad_request(format!("{domain:?} is no domain: {error}")))
}

fn parse_state(name: &str) -> Answer<callahead_cache::EntryState> {
    let found = json::STATES.iter().find(|(known, _)| *known == name);
    found.map(|(_, state)| *state).ok_or_else(|| {
        let known: Vec<_> = json::STATES.iter().map(|(known, _)| *known).collect();
        Problem::bad_request(format!("{name:?} is no state: known are {}", known.join(", ")))
    })
}

fn parse_cursor(cursor: &str) -> Answer<Cursor> {
    Cursor::parse(cursor)
        .ok_or_else(|| Problem::bad_request("the cursor is not one that was given with a page: begin again without it"))
}

fn with_next(mut page: Value, next: Option<&Cursor>) -> Value {
    if let Some(next) = next {
        page["next"] = json!(next.to_string());
    }
    page
}

/// Reads of more than a few entries leave the threads that serve questions alone.
async fn read<T: Send + 'static>(
    state: &State,
    read: impl FnOnce(&Cache) -> Result<T, CacheError> + Send + 'static,
) -> Answer<T> {
    let cache = state.engine.cache().clone();
    match tokio::task::spawn_blocking(move || read(&cache)).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "reading failed; see the log")),
    }
}
