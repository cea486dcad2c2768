//! `/domains`: those of the configuration file, to be seen, and those of the control database, to be changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State as Given;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Json, Response};
use callahead_control::{Actor, AuditEntry, Change, DomainSpec, Expected, Kind, Permission, Record, Role};
use callahead_engine::{DomainConfig, rfc3339};
use callahead_smtp::Domain;
use serde_json::{Map, Value, json};

use super::cache::to_its_end;
use super::request::{Answer, Asker, Body, IfMatch, Named, Paging, Segment, in_words, tagged, with_next};
use super::schema;
use crate::events::Event;
use crate::problem::Problem;
use crate::query::Parameters;
use crate::{State, json};

/// Domains in the control database at most.
const MAX_DOMAINS: usize = 100_000;

/// List domains
///
/// Those that the account may see, by name. Of their recipient lists only the lengths; a single domain has them whole.
#[utoipa::path(
    get, path = "/api/v1/domains", tag = "domains", operation_id = "domains_list",
    params(
        ("prefix" = Option<String>, Query, description = "What the name starts with"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 1000, description = "Domains on a page; 100 where it is not given"),
    ),
    responses((status = 200, description = "A page of domains", body = schema::DomainPage))
)]
pub(crate) async fn list(Given(state): Given<State>, asker: Asker, mut query: Parameters) -> Answer {
    let prefix = query.take("prefix")?.unwrap_or_default().to_lowercase();
    let paging = Paging::of(query, &["prefix"])?;
    let file: BTreeMap<String, Arc<DomainConfig>> =
        state.administration.domains.of_file().into_iter().map(|domain| (domain.name.clone(), domain)).collect();
    let local = state.administration.control.local();
    let of_file = file.keys().filter(|name| asker.principal.owns_domain(name, None));
    let of_records = local
        .domains()
        .iter()
        .filter(|(name, record)| {
            !file.contains_key(*name) && asker.principal.owns_domain(name, record.value.owner.as_deref())
        })
        .map(|(name, _)| name);
    let mut names: Vec<&String> = of_file.chain(of_records).filter(|name| name.starts_with(&prefix)).collect();
    names.sort_unstable();
    let (names, next) = paging.page(names.into_iter(), |name| name);
    // The writer waits for the records: no more is done with them than to take what no configuration says.
    let mut page: BTreeMap<String, Value> = names
        .into_iter()
        .map(|name| {
            (
                name.clone(),
                local.domains().get(name).filter(|_| !file.contains_key(name)).map_or(Value::Null, of_record),
            )
        })
        .collect();
    drop(local);
    let directory = state.engine.directory();
    for config in directory.iter() {
        if let Some(shown) = page.get_mut(&config.name) {
            let said = std::mem::replace(shown, json::domain_counted(config));
            add(shown, said);
        }
    }
    // One that was added a moment ago may not be in it yet.
    let shown: Vec<Value> = page.into_values().filter(|shown| shown.get("route").is_some()).collect();
    Ok(Json(with_next(json!({"domains": shown}), next)))
}

/// Show a domain
#[utoipa::path(
    get, path = "/api/v1/domains/{name}", tag = "domains", operation_id = "domain_show",
    params(("name" = String, Path, description = "The name under which it is configured")),
    responses((status = 200, description = "The domain as it is in force", body = schema::Domain,
        headers(("ETag" = String, description = "Its version; absent for the file's domains"))))
)]
pub(crate) async fn show(Given(state): Given<State>, Segment(name): Segment, query: Parameters) -> Answer<Response> {
    query.end(&[])?;
    let name = canonical(&name)?;
    if let Some(config) = of_file(&state, &name) {
        return Ok(Json(json::domain(&config)).into_response());
    }
    let record = record(&state, &name)?;
    let shown = shown(&state, &record).ok_or_else(|| unusable(&name))?;
    Ok(tagged(StatusCode::OK, record.revision, shown))
}

/// Add a domain
///
/// It is in force when the answer comes.
#[utoipa::path(
    post, path = "/api/v1/domains", tag = "domains", operation_id = "domain_create",
    request_body = schema::DomainBody,
    responses((status = 201, description = "It is there", body = schema::Domain))
)]
pub(crate) async fn create(
    Given(state): Given<State>,
    asker: Asker,
    query: Parameters,
    Body(mut spec): Body<DomainSpec>,
) -> Answer<Response> {
    query.end(&[])?;
    spec.name = canonical(&spec.name)?;
    only_here(spec.owned_since.is_some())?;
    settle_owner(&state, &asker, &mut spec, None)?;
    check(&state, &asker, &spec, None)?;
    check_name(&state, &asker, &spec)?;
    if state.administration.control.local().domains().len() >= MAX_DOMAINS {
        return Err(Problem::conflict(format!(
            "there are {MAX_DOMAINS} domains already, which is as many as there may be"
        )));
    }
    let name = spec.name.clone();
    let write = write(&state, &asker, "domain.create", None, Some(&spec), Expected::Nothing).await;
    match write {
        Err(problem) if problem.status() == StatusCode::CONFLICT => Err(taken(&asker, &name)),
        Err(problem) => Err(problem),
        Ok(()) => answer(&state, StatusCode::CREATED, &name),
    }
}

/// Replace a domain
///
/// With all that it says itself; what is left out is as in the defaults. Only its owner stays where it is left out. With another route, what the
/// cache holds of it is cleared.
#[utoipa::path(
    put, path = "/api/v1/domains/{name}", tag = "domains", operation_id = "domain_replace",
    params(
        ("name" = String, Path, description = "The name under which it is configured"),
        IfMatch,
    ),
    request_body = schema::DomainBody,
    responses((status = 200, description = "It is in force", body = schema::Domain))
)]
pub(crate) async fn replace(
    Given(state): Given<State>,
    named: Named,
    Body(mut spec): Body<DomainSpec>,
) -> Answer<Response> {
    let (asker, name) = (&named.asker, canonical(&named.name)?);
    let old = changeable(&state, &name)?;
    let expected = named.expects(old.revision)?;
    spec.name = canonical(&spec.name)?;
    if spec.name != name {
        return Err(Problem::invalid(format!(
            "name: is {:?}, and the path says {name:?}; a domain can't be renamed: add the new one, then delete this one",
            spec.name
        )));
    }
    only_here(spec.owned_since.is_some())?;
    // A domain is not taken from its reseller by a forgotten key; PATCH with null does that.
    spec.owner = spec.owner.or_else(|| old.value.owner.clone());
    settle_owner(&state, asker, &mut spec, Some(&old.value))?;
    check(&state, asker, &spec, Some(&old.value))?;
    named.outcome(write(&state, asker, "domain.change", Some(&old.value), Some(&spec), expected).await)?;
    answer(&state, StatusCode::OK, &name)
}

/// Change a domain
///
/// A merge patch (RFC 7396): what is left out stays, `null` goes back to the default. With another route, what the cache holds of it is cleared. Accounts with the role `domain` may change
/// `valid` and `invalid` only.
#[utoipa::path(
    patch, path = "/api/v1/domains/{name}", tag = "domains", operation_id = "domain_change",
    params(
        ("name" = String, Path, description = "The name under which it is configured"),
        IfMatch,
    ),
    request_body(content = schema::DomainPatch, content_type = "application/merge-patch+json"),
    responses((status = 200, description = "It is in force", body = schema::Domain))
)]
pub(crate) async fn change(
    Given(state): Given<State>,
    named: Named,
    Body(patch): Body<Map<String, Value>>,
) -> Answer<Response> {
    let (asker, name) = (&named.asker, canonical(&named.name)?);
    let old = changeable(&state, &name)?;
    let expected = named.expects(old.revision)?;
    if patch.contains_key("name") {
        return Err(Problem::invalid("name: a domain can't be renamed: add the new one, then delete this one"));
    }
    only_here(patch.contains_key("owned_since"))?;
    let beyond = patch.keys().find(|key| !matches!(key.as_str(), "valid" | "invalid"));
    if let Some(key) = beyond.filter(|_| !asker.principal.may(Permission::Domains)) {
        return Err(Problem::forbidden(format!("{key}: this account may change \"valid\" and \"invalid\" only")));
    }
    let mut merged = match serde_json::to_value(&old.value) {
        // Of a record that can't be read the rest would be lost.
        Ok(Value::Object(merged)) if !old.value.route.is_empty() => merged,
        _ => return Err(unusable(&name)),
    };
    for (key, value) in patch {
        match value {
            Value::Null if DomainSpec::is_key(&key) => drop(merged.remove(&key)),
            value => drop(merged.insert(key, value)),
        }
    }
    let mut spec: DomainSpec = serde_path_to_error::deserialize(Value::Object(merged))
        .map_err(|error| Problem::invalid(format!("{}: {}", error.path(), in_words(error.inner()))))?;
    settle_owner(&state, asker, &mut spec, Some(&old.value))?;
    check(&state, asker, &spec, Some(&old.value))?;
    named.outcome(write(&state, asker, "domain.change", Some(&old.value), Some(&spec), expected).await)?;
    answer(&state, StatusCode::OK, &name)
}

/// Delete a domain
///
/// One that is not there is deleted already. What the cache holds of it is cleared, and accounts of the administrators' do not name it any more.
#[utoipa::path(
    delete, path = "/api/v1/domains/{name}", tag = "domains", operation_id = "domain_delete",
    params(
        ("name" = String, Path, description = "The name under which it is configured"),
        IfMatch,
    ),
    responses((status = 204, description = "It is not there"))
)]
pub(crate) async fn delete(Given(state): Given<State>, named: Named) -> Answer<StatusCode> {
    let name = canonical(&named.name)?;
    let deleted = remove(&state, &named, &name).await;
    let is_there = state.administration.control.local().domains().contains_key(&name);
    named.deletion(deleted, is_there)
}

async fn remove(state: &State, named: &Named, name: &str) -> Answer<()> {
    let old = changeable(state, name)?;
    let expected = named.expects(old.revision)?;
    write(state, &named.asker, "domain.delete", Some(&old.value), None, expected).await
}

// === what they share ===

pub(super) fn canonical(name: &str) -> Answer<String> {
    DomainSpec::canonical_name(name).map_err(Problem::bad_request)
}

pub(super) fn of_file(state: &State, name: &str) -> Option<Arc<DomainConfig>> {
    state.administration.domains.find_in_file(name)
}

pub(super) fn record(state: &State, name: &str) -> Answer<Record<DomainSpec>> {
    let found = state.administration.control.local().domains().get(name).cloned();
    found.ok_or_else(|| Problem::not_found(format!("there is no domain {name:?} here; look at the list of domains")))
}

/// A record that may be changed: not one of the file's.
fn changeable(state: &State, name: &str) -> Answer<Record<DomainSpec>> {
    if state.administration.domains.is_in_file(name) {
        return Err(in_file(name));
    }
    record(state, name)
}

fn in_file(name: &str) -> Problem {
    Problem::conflict(format!(
        "the domain {name:?} stands in the configuration file, where it is read-only for the API; change it there"
    ))
}

/// To administrators what it is; to others no more than that the name can't be had.
fn taken(asker: &Asker, name: &str) -> Problem {
    if asker.principal.is_admin() {
        return Problem::conflict(format!("the domain {name:?} exists already; change it instead"));
    }
    Problem::conflict(format!("the domain {name:?} can't be added by this account; ask the administrator"))
}

pub(super) fn unusable(name: &str) -> Problem {
    Problem::conflict(format!(
        "the domain {name:?} was written by another version and can't be used, so its recipients are deferred; start that version again, or replace it with PUT or delete it"
    ))
}

fn shown(state: &State, record: &Record<DomainSpec>) -> Option<Value> {
    let (defaults, tls) = state.administration.domains.defaults();
    let config = record.value.to_config(&defaults, tls).ok()?;
    let mut shown = json::domain(&config);
    add(&mut shown, of_record(record));
    Some(shown)
}

/// What is shown of a domain's record besides what is in force.
fn of_record(record: &Record<DomainSpec>) -> Value {
    let mut shown = json!({
        "read_only": false, "own_keys": record.value.own_keys(), "revision": record.revision,
        "changed_at": rfc3339(record.changed_at),
    });
    if let Some(owner) = &record.value.owner {
        shown["owner"] = json!(owner);
    }
    shown
}

fn add(to: &mut Value, more: Value) {
    if let (Value::Object(to), Value::Object(more)) = (to, more) {
        to.extend(more);
    }
}

fn answer(state: &State, status: StatusCode, name: &str) -> Answer<Response> {
    let record = record(state, name)?;
    let shown = shown(state, &record).ok_or_else(|| unusable(name))?;
    Ok(tagged(status, record.revision, shown))
}

/// Nobody but this node says since when a domain is whose it is.
fn only_here(is_said: bool) -> Answer<()> {
    match is_said {
        false => Ok(()),
        true => Err(Problem::invalid("owned_since: is written by the node itself; leave it out")),
    }
}

/// Whose it is from now on, and since when.
fn settle_owner(state: &State, asker: &Asker, spec: &mut DomainSpec, old: Option<&DomainSpec>) -> Answer<()> {
    name_owner(state, asker, spec, old)?;
    spec.owned_since = match old {
        Some(old) if old.owner == spec.owner => old.owned_since,
        _ => Some(state.engine.now().0),
    };
    Ok(())
}

/// A reseller's own, or as an administrator says.
fn name_owner(state: &State, asker: &Asker, spec: &mut DomainSpec, old: Option<&DomainSpec>) -> Answer<()> {
    if !asker.principal.is_admin() {
        let keeps = match old {
            Some(old) => old.owner.clone(),
            None => asker.principal.name().map(str::to_owned),
        };
        if spec.owner.is_some() && spec.owner != keeps {
            return Err(Problem::forbidden("owner: only an administrator may say whose a domain is; leave it out"));
        }
        spec.owner = keeps;
        return Ok(());
    }
    let Some(owner) = &spec.owner else { return Ok(()) };
    let local = state.administration.control.local();
    if local.accounts().get(owner).is_some_and(|account| account.value.role == Role::Reseller) {
        return Ok(());
    }
    Err(Problem::invalid(format!("owner: there is no reseller {owner:?}; look at the list of accounts")))
}

/// What a domain says is good, and within what this account may write. A route that stands there already stays, whoever wrote it and whatever is denied by
/// now: the rest of the domain can be changed all the same, and what is denied is not connected to.
fn check(state: &State, asker: &Asker, spec: &DomainSpec, old: Option<&DomainSpec>) -> Answer<()> {
    let (defaults, tls) = state.administration.domains.defaults();
    let config = spec.to_config(&defaults, tls).map_err(Problem::invalid)?;
    let is_new = |of: fn(&DomainSpec) -> &Vec<String>| old.is_none_or(|old| of(old) != of(spec));
    let routes = [
        ("route", Some(&config.route), is_new(|spec| &spec.route)),
        ("relay", config.relay.as_ref(), is_new(|spec| &spec.relay)),
    ];
    for (key, route) in routes.into_iter().filter_map(|(key, route, is_new)| Some((key, route.filter(|_| is_new)?))) {
        if !asker.principal.is_admin() && asker.principal.may(Permission::Domains) {
            DomainSpec::check_tenant_route(key, route).map_err(Problem::invalid)?;
        }
        for (ip, port) in DomainSpec::literal_addresses(route) {
            let address = std::net::SocketAddr::new(ip, port);
            if !state.administration.guard.allows(address) {
                return Err(Problem::invalid(format!(
                    "{key}: {address} lies in deny_destinations; only the configuration file may name it"
                )));
            }
        }
    }
    Ok(())
}

/// Whether a new domain may have its name.
fn check_name(state: &State, asker: &Asker, spec: &DomainSpec) -> Answer<()> {
    let administration = &state.administration;
    if administration.domains.is_in_file(&spec.name) {
        return Err(if asker.principal.is_admin() { in_file(&spec.name) } else { taken(asker, &spec.name) });
    }
    if asker.principal.is_admin() {
        return Ok(());
    }
    DomainSpec::check_tenant_name(&spec.name).map_err(Problem::forbidden)?;
    let is_own = |name: &str| asker.principal.owns_domain(name, administration.owner(name).as_deref());
    match spec.name.strip_prefix("*.") {
        // All names below one that is nobody's, or another's, are not to be had.
        Some(parent) if !is_own(parent) => {
            Err(Problem::conflict(format!("{:?} covers all names below {parent}; add {parent} first", spec.name)))
        }
        Some(_) => Ok(()),
        None => {
            let domain: Answer<Domain> = super::request::parse_domain(&spec.name);
            match administration.ownership(&state.engine, &domain?) {
                Some(covering) if !is_own(&covering.name) => Err(taken(asker, &spec.name)),
                _ => Ok(()),
            }
        }
    }
}

async fn write(
    state: &State,
    asker: &Asker,
    action: &str,
    old: Option<&DomainSpec>,
    new: Option<&DomainSpec>,
    expected: Expected,
) -> Answer<()> {
    let Some(subject) = new.or(old) else { return Ok(()) };
    let as_json = |spec: Option<&DomainSpec>| spec.and_then(|spec| serde_json::to_value(spec).ok());
    let (before, after) = (as_json(old), as_json(new));
    let entry = AuditEntry::new(asker.actor(), action, &subject.name)
        .about(&subject.name, subject.owner.as_deref())
        .record(before.as_ref(), after.as_ref());
    let body = after.map(|after| after.to_string());
    let change = Change { kind: Kind::Domain, key: subject.name.clone(), expected, body };
    let (state, asker, name, action) = (state.clone(), asker.clone(), subject.name.clone(), action.to_owned());
    // Where a change is in force, what follows from it is not left undone.
    to_its_end(async move {
        asker.apply(&state, None, vec![change], entry).await?;
        let actor = asker.actor();
        tracing::info!(
            domain = name,
            action,
            by = actor.who,
            from = actor.from,
            "a domain was changed through the API"
        );
        forget_other_destinations(&state, &actor).await
    })
    .await
}

/// What is known of a destination is forgotten where the domain leads elsewhere now, before the change is acknowledged.
async fn forget_other_destinations(state: &State, actor: &Actor) -> Answer<()> {
    let administration = &state.administration;
    let why = match administration.domains.settle(&administration.control, actor).await {
        Ok(moved) => {
            for (domain, name) in
                moved.iter().flat_map(|moved| moved.domains.iter().map(|domain| (domain, &moved.name)))
            {
                administration.events.tell(|_| Event {
                    kind: "clear",
                    domain: Some(domain.to_string()),
                    data: json!({"scope": "domain", "domain": domain.to_string(), "because_of": name}).to_string(),
                });
            }
            return Ok(());
        }
        Err(error) => error.to_string(),
    };
    tracing::error!(why, "what is known of another destination can't be cleared yet");
    Err(Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        format!(
            "the change is in force, and what the cache holds of the destination before is not cleared yet: {why}; that is tried every minute"
        ),
    ))
}
