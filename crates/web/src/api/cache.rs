//! `/cache`: what is kept, and clears.

use axum::extract::State as Given;
use axum::http::StatusCode;
use axum::response::Json;
use callahead_cache::{Entry, EntryState, Filter, Scope};
use callahead_control::AuditEntry;
use callahead_smtp::Domain;
use serde_json::json;

use super::request::{
    Answer, Asker, MAX_PAGE, PAGE, Segment, parse_cursor, parse_domain, parse_recipient, read, with_next,
};
use super::schema;
use crate::events::Event;
use crate::problem::Problem;
use crate::query::Parameters;
use crate::{State, json};

/// List what is kept
#[utoipa::path(
    get, path = "/api/v1/cache", tag = "cache", operation_id = "cache_list",
    params(
        ("domain" = Option<String>, Query, description = "Of this domain only; all but administrators have to give it"),
        ("prefix" = Option<String>, Query, description = "What the local part starts with, where a domain is given; else the domain"),
        ("state" = Option<schema::EntryState>, Query, description = "In this state only"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 1000, description = "Entries on a page; 100 where it is not given"),
    ),
    responses((status = 200, description = "A page of entries", body = schema::CachePage))
)]
pub(crate) async fn list(Given(state): Given<State>, mut query: Parameters) -> Answer {
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
    Ok(Json(with_next(json!({"entries": entries}), page.next.map(|next| next.to_string()))))
}

/// Show what is kept of a recipient
///
/// And of its domain, where that bears on it. 404 where nothing is kept.
#[utoipa::path(
    get, path = "/api/v1/cache/{address}", tag = "cache", operation_id = "cache_show",
    params(("address" = String, Path, description = "The recipient")),
    responses((status = 200, description = "What is kept", body = schema::CachePage))
)]
pub(crate) async fn show(Given(state): Given<State>, Segment(address): Segment, query: Parameters) -> Answer {
    let recipient = parse_recipient(&address)?;
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

/// Clear a recipient
///
/// When the answer comes, nothing learned before is served any more.
#[utoipa::path(
    delete, path = "/api/v1/cache/{address}", tag = "cache", operation_id = "cache_clear_recipient",
    params(("address" = String, Path, description = "The recipient")),
    responses((status = 200, description = "It is cleared, and that holds", body = schema::Cleared))
)]
pub(crate) async fn clear_address(
    Given(state): Given<State>,
    asker: Asker,
    Segment(address): Segment,
    query: Parameters,
) -> Answer {
    let recipient = parse_recipient(&address)?;
    query.end(&[])?;
    let scope = Scope::Recipient(state.engine.canonical(recipient));
    to_its_end(clear_scope(state, asker, scope)).await
}

/// Clear a domain, or everything
///
/// Everything only where there is no query at all: a parameter that is misspelt, or that a script left empty, must not clear more
/// than was meant. When the answer comes, nothing learned before is served any more.
#[utoipa::path(
    delete, path = "/api/v1/cache", tag = "cache", operation_id = "cache_clear",
    params(("domain" = Option<String>, Query, description = "The domain, without its subdomains; left out together with the `?`: everything")),
    responses((status = 200, description = "It is cleared, and that holds", body = schema::Cleared))
)]
pub(crate) async fn clear(Given(state): Given<State>, asker: Asker, mut query: Parameters) -> Answer {
    if query.is_absent() {
        return to_its_end(clear_scope(state, asker, Scope::All)).await;
    }
    let domain = query.take("domain")?;
    query.end(&["domain"])?;
    match domain {
        Some(domain) => to_its_end(clear_scope(state, asker, Scope::Domain(parse_domain(&domain)?))).await,
        None => Err(Problem::bad_request("the query is empty: leave the ? out to clear everything, or give domain")),
    }
}

/// Does it as a task of its own, so that what was begun is done though whoever asked goes away.
pub(super) async fn to_its_end<T: Send + 'static>(work: impl Future<Output = Answer<T>> + Send + 'static) -> Answer<T> {
    tokio::spawn(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a request was not answered");
        Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "how far it was done is not known: look, and ask again"))
    })
}

async fn clear_scope(state: State, asker: Asker, scope: Scope) -> Answer {
    let administration = &state.administration;
    let (mut cleared, domain): (_, Option<Domain>) = match &scope {
        Scope::Recipient(recipient) => {
            (json!({"scope": "recipient", "recipient": recipient.to_string()}), Some(recipient.domain().clone()))
        }
        Scope::Domain(domain) => (json!({"scope": "domain", "domain": domain.to_string()}), Some(domain.clone())),
        Scope::All => (json!({"scope": "all"}), None),
    };
    let ownership = domain.as_ref().and_then(|domain| administration.ownership(&state.engine, domain));
    let object = scope.to_string();
    let entry = |action: &str| {
        let entry = AuditEntry::new(asker.actor(), action, &object);
        vec![match &ownership {
            Some(ownership) => entry.about(&ownership.name, ownership.owner.as_deref()),
            None => entry,
        }]
    };
    let clear = async { state.engine.clear(scope).await.map_err(Problem::from) };
    let done = administration.control.audited_clear(entry, || state.engine.now(), clear).await?;
    cleared["entries"] = json!(done.entries);
    cleared["epoch"] = json!(done.epoch.0);
    tracing::info!(%cleared, by = asker.actor().who, from = asker.from, "the cache was cleared through the API");
    administration.events.tell(|_| Event {
        kind: "clear",
        domain: domain.map(|domain| domain.to_string()),
        data: cleared.to_string(),
    });
    Ok(Json(cleared))
}

fn parse_state(name: &str) -> Answer<EntryState> {
    let found = json::STATES.iter().find(|(known, _)| *known == name);
    found.map(|(_, state)| *state).ok_or_else(|| {
        let known: Vec<_> = json::STATES.iter().map(|(known, _)| *known).collect();
        Problem::bad_request(format!("{name:?} is no state: known are {}", known.join(", ")))
    })
}
