//! `/stats`, `/destinations`, `/nodes`: counters and health.

use std::sync::atomic::Ordering;

use axum::extract::State as Given;
use axum::response::Json;
use callahead_cache::{EntryState, Timestamp};
use callahead_engine::rfc3339;
use serde_json::json;

use super::request::{Answer, MAX_PAGE, PAGE, parse_cursor, parse_domain, read, with_next};
use super::schema;
use crate::query::Parameters;
use crate::{State, json};

/// Counters
///
/// Of everything; with `domain`, what the cache holds of it.
#[utoipa::path(
    get, path = "/api/v1/stats", tag = "node", operation_id = "stats",
    params(("domain" = Option<String>, Query, description = "Of this domain; all but administrators have to give it")),
    responses((status = 200, description = "Counters", body = schema::Stats))
)]
pub(crate) async fn stats(Given(state): Given<State>, mut query: Parameters) -> Answer {
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
    let log = state.administration.log.counters();
    shown["log"] = json!({
        "written": log.written, "lost": log.lost, "removed": log.removed, "waiting": log.waiting, "used_bytes": log.used_bytes,
    });
    if let Some(error) = log.write_error {
        shown["log"]["write_error"] = json!(error);
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

/// Counts by domain
#[utoipa::path(
    get, path = "/api/v1/stats/domains", tag = "node", operation_id = "stats_domains",
    params(
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 1000, description = "Domains on a page; 100 where it is not given"),
    ),
    responses((status = 200, description = "A page of counts", body = schema::DomainCountsPage))
)]
pub(crate) async fn domains(Given(state): Given<State>, mut query: Parameters) -> Answer {
    let cursor = query.take("cursor")?.map(|cursor| parse_cursor(&cursor)).transpose()?;
    let limit = query.number("limit", PAGE, MAX_PAGE)?;
    query.end(&["cursor", "limit"])?;
    let (counts, next) = read(&state, move |cache| cache.domain_counts(cursor.as_ref(), limit)).await?;
    let domains: Vec<_> = counts
        .iter()
        .map(|counts| {
            let mut shown = json!({"domain": counts.domain, "valid": counts.valid, "invalid": counts.invalid});
            if let Some(state) = counts.state {
                shown["state"] = json!(json::state_name(EntryState::Domain(state)));
            }
            shown
        })
        .collect();
    Ok(Json(with_next(json!({"domains": domains}), next.map(|next| next.to_string()))))
}

/// The hosts that are asked, and their health
#[utoipa::path(
    get, path = "/api/v1/destinations", tag = "node", operation_id = "destinations",
    responses((status = 200, description = "Hosts that are remembered", body = schema::Destinations))
)]
pub(crate) async fn destinations(Given(state): Given<State>, query: Parameters) -> Answer {
    query.end(&[])?;
    let hosts = state.callouts.map(|callouts| callouts.destinations()).unwrap_or_default();
    Ok(Json(json!({"destinations": hosts.iter().map(json::destination).collect::<Vec<_>>()})))
}

/// The nodes: this one
#[utoipa::path(
    get, path = "/api/v1/nodes", tag = "node", operation_id = "nodes",
    responses((status = 200, description = "The nodes that are known", body = schema::Nodes))
)]
pub(crate) async fn nodes(Given(state): Given<State>, query: Parameters) -> Answer {
    query.end(&[])?;
    let reasons = state.readiness.reasons();
    let node = json!({
        "name": &*state.administration.node,
        "version": env!("CARGO_PKG_VERSION"),
        "started_at": rfc3339(Timestamp(state.readiness.began_at() * 1000)),
        "ready": reasons.is_empty(),
        "reasons": reasons,
    });
    Ok(Json(json!({"nodes": [node]})))
}
