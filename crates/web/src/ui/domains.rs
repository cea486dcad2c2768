//! Domains: the list, the page of one, its cache entries, and its route's test.

use askama::Template;
use axum::extract::{Path, Query};
use axum::http::StatusCode;
use callahead_callout::{DestinationStatus, Route};
use callahead_control::{DomainSpec, Permission};
use callahead_engine::DomainConfig;
use callahead_smtp::{Domain, DomainName};
use serde::Deserialize;
use serde_json::Value;

use super::chart::count;
use super::confirm::Confirm;
use super::domain_form;
use super::frame::{Answer, Page, Refusal, Visitor, go, show};
use super::log::latest;
use super::overview::{AlertView, alerts_for};
use super::route_test::Tested;
use super::view::{self, EntryView, LogView, each, encode, milliseconds, query};

/// Domains on a page.
const PAGE: usize = 50;
/// Entries of the cache on a page.
const ENTRIES: usize = 100;
/// Local parts of a list that are shown; the form has all.
const SHOWN: usize = 30;

#[derive(Template)]
#[template(path = "domains.html")]
struct DomainsPage {
    page: Page,
    count: String,
    search: String,
    rows: Vec<DomainRow>,
    next: Option<String>,
    may_add: bool,
    show_owner: bool,
}

struct DomainRow {
    name: String,
    mode: &'static str,
    mode_tone: &'static str,
    alerts: Vec<(&'static str, &'static str)>,
    route: String,
    valid: String,
    invalid: String,
    owner: String,
}

/// What stands on top of all pages of a domain.
pub(super) struct Head {
    pub(super) name: String,
    pub(super) link: String,
    pub(super) tab: &'static str,
    pub(super) mode: &'static str,
    pub(super) mode_tone: &'static str,
    pub(super) origin: String,
    pub(super) observed: bool,
    pub(super) wildcard: bool,
    pub(super) may_edit: bool,
    pub(super) may_route: bool,
    pub(super) may_clear: bool,
    pub(super) may_delete: bool,
}

#[derive(Template)]
#[template(path = "domain.html")]
struct DomainPage {
    page: Page,
    head: Head,
    alerts: Vec<AlertView>,
    tested: Option<Tested>,
    may_test: bool,
    route: Vec<String>,
    relay: Vec<String>,
    tls: String,
    hosts: Vec<HostView>,
    valid: String,
    invalid: String,
    known: &'static str,
    policies: Vec<PolicyView>,
    list_valid: Vec<String>,
    list_valid_more: usize,
    list_invalid: Vec<String>,
    list_invalid_more: usize,
    rows: Vec<LogView>,
    /// Where the log goes on, if it does.
    more: Option<String>,
}

struct PolicyView {
    label: &'static str,
    value: String,
    /// The domain says it itself.
    own: bool,
}

/// A host's health.
#[derive(Default)]
pub(super) struct HostView {
    pub(super) host: String,
    /// For one that was found by the MX: of which domain, and how long ago.
    pub(super) found: String,
    /// It was not asked lately.
    pub(super) unknown: bool,
    pub(super) open: bool,
    pub(super) retry: String,
    pub(super) sessions: usize,
    pub(super) callouts: String,
    pub(super) failures: String,
    pub(super) last_failure: String,
}

#[derive(Template)]
#[template(path = "cache.html")]
struct CachePage {
    page: Page,
    head: Head,
    domain: String,
    prefix: String,
    state: String,
    states: [(&'static str, &'static str); 6],
    entries: Vec<EntryView>,
    more: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct ListQuery {
    #[serde(default)]
    search: String,
    #[serde(default)]
    after: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct CacheQuery {
    domain: String,
    prefix: String,
    state: String,
    cursor: String,
}

#[derive(Deserialize)]
pub(super) struct ClearQuery {
    #[serde(default)]
    domain: String,
}

/// The name of the configured domain that covers a domain, where the visitor may see it.
pub(super) fn config_name(visitor: &Visitor, domain: &Domain) -> Option<String> {
    let state = &visitor.ui.state;
    let ownership = state.administration.ownership(&state.engine, domain)?;
    visitor.principal.owns_domain(&ownership.name, ownership.owner.as_deref()).then_some(ownership.name)
}

pub(super) fn mode(callouts: callahead_engine::Callouts) -> (&'static str, &'static str) {
    match callouts {
        callahead_engine::Callouts::Enforce => ("enforced", "good"),
        callahead_engine::Callouts::Observe => ("observed", "wait"),
        callahead_engine::Callouts::Off => ("off", ""),
    }
}

// === the list ===

pub(super) async fn list(visitor: Visitor, Query(ListQuery { search, after }): Query<ListQuery>) -> Answer {
    let state = &visitor.ui.state;
    let wanted = search.trim().to_lowercase();
    let directory = state.engine.directory();
    let mut all: Vec<_> = directory
        .iter()
        .map(|config| (config, state.administration.owner(&config.name)))
        .filter(|(config, owner)| visitor.principal.owns_domain(&config.name, owner.as_deref()))
        .filter(|(config, _)| config.name.contains(&wanted))
        .collect();
    all.sort_unstable_by(|a, b| a.0.name.cmp(&b.0.name));
    let total = all.len();
    let mut found = all.into_iter().filter(|(config, _)| config.name > after);
    let shown: Vec<_> = found.by_ref().take(PAGE).collect();
    let next = found.next().and(shown.last());
    let next = next.map(|(config, _)| query(&[("search", &search), ("after", &config.name)]));
    let mut rows = Vec::with_capacity(shown.len());
    for (config, owner) in shown {
        let (mode, mode_tone) = mode(config.policy.callouts);
        let (valid, invalid) = match Domain::parse(&config.name) {
            Ok(domain) => {
                let kept = state.engine.cache().stats(Some(&domain))?;
                (count(kept.valid), count(kept.invalid))
            }
            Err(_) => ("–".into(), "–".into()),
        };
        let alerts = alerts_of(&visitor, config).into_iter().map(|alert| (alert.tone, alert.label)).collect();
        rows.push(DomainRow {
            name: config.name.clone(),
            mode,
            mode_tone,
            alerts,
            route: route_text(&config.route),
            valid,
            invalid,
            owner: owner.unwrap_or_default(),
        });
    }
    let count = match total {
        1 => "1 domain".to_owned(),
        total => format!("{} domains", count(total as u64)),
    };
    show(&DomainsPage {
        page: visitor.page("Domains", "/domains"),
        count,
        search,
        rows,
        next,
        may_add: visitor.may(Permission::Domains),
        show_owner: visitor.principal.is_admin(),
    })
}

fn route_text(route: &Route) -> String {
    let mut hops: Vec<String> = route.hops.iter().take(3).map(ToString::to_string).collect();
    if route.hops.len() > 3 {
        hops.push(format!("and {} more", route.hops.len() - 3));
    }
    hops.join(", ")
}

fn alerts_of(visitor: &Visitor, config: &DomainConfig) -> Vec<AlertView> {
    let directory = visitor.ui.state.engine.directory();
    alerts_for(visitor, |domain| {
        Domain::parse(domain).ok().and_then(|domain| directory.find(&domain).map(|found| found.name == config.name))
            == Some(true)
    })
}

// === one domain ===

/// The domain in the path, which the guard has let in.
pub(super) fn configured(visitor: &Visitor, name: &str) -> Result<std::sync::Arc<DomainConfig>, Refusal> {
    let none = || Refusal::says(StatusCode::NOT_FOUND, "There is no such domain here.");
    let name = DomainSpec::canonical_name(name).map_err(|_| none())?;
    visitor.ui.state.engine.directory().iter().find(|config| config.name == name).cloned().ok_or_else(none)
}

impl Head {
    pub(super) fn of(visitor: &Visitor, config: &DomainConfig, tab: &'static str) -> Self {
        let administration = &visitor.ui.state.administration;
        let in_file = administration.domains.is_in_file(&config.name);
        let owner = administration.owner(&config.name);
        let origin = match (in_file, owner) {
            (true, _) => "Written in the configuration file, and changed there.".to_owned(),
            (false, Some(owner)) if visitor.principal.is_admin() => format!("Belongs to {owner}."),
            (false, _) => String::new(),
        };
        let (mode, mode_tone) = mode(config.policy.callouts);
        Self {
            name: config.name.clone(),
            link: encode(&config.name),
            tab,
            mode,
            mode_tone,
            origin,
            observed: config.policy.callouts == callahead_engine::Callouts::Observe,
            wildcard: config.name.starts_with("*."),
            may_edit: !in_file && visitor.may(Permission::Lists),
            may_route: !in_file && visitor.may(Permission::Domains),
            may_clear: visitor.may(Permission::Clear),
            may_delete: !in_file && visitor.may(Permission::Domains),
        }
    }
}

pub(super) async fn domain(visitor: Visitor, Path(name): Path<String>) -> Answer {
    page(&visitor, &name, None).await
}

/// The page, with what a test of the route found.
pub(super) async fn page(visitor: &Visitor, name: &str, tested: Option<Tested>) -> Answer {
    let config = configured(visitor, name)?;
    let state = &visitor.ui.state;
    let head = Head::of(visitor, &config, "domain");
    let shown = visitor.ui.api.get(visitor, &format!("/api/v1/domains/{}", encode(&config.name))).await?;
    let (mut valid, mut invalid, mut known) = (String::new(), String::new(), "");
    if let Ok(domain) = Domain::parse(&config.name) {
        let kept = state.engine.cache().stats(Some(&domain))?;
        (valid, invalid) = (count(kept.valid), count(kept.invalid));
        // Any recipient brings the domain's own record along.
        let of_domain = callahead_smtp::Recipient::new("postmaster", domain.clone())
            .ok()
            .and_then(|recipient| state.engine.cache().lookup(&recipient).ok()?.domain);
        known = match of_domain.filter(|record| record.is_fresh(state.engine.now())).map(|record| record.state) {
            Some(callahead_cache::DomainState::AcceptAll) => "accepts every local part",
            Some(callahead_cache::DomainState::NotAcceptAll) => "tells recipients apart",
            Some(callahead_cache::DomainState::RefusesNullSender) => "refuses bounces: nothing can be verified",
            Some(callahead_cache::DomainState::NullMx) => "takes no mail (null MX)",
            None => "not asked lately",
        };
    }
    let (rows, more) = latest(visitor, ("domain", &config.name)).await?;
    let own = view::texts(&shown, "own_keys");
    let policies = domain_form::POLICIES
        .iter()
        .map(|(key, label)| PolicyView {
            label,
            value: domain_form::value_words(&shown[*key]),
            // Of the file's domains it is not known what they say themselves.
            own: shown.get("own_keys").is_none() || own.iter().any(|own| own == key),
        })
        .collect();
    let (list_valid, list_valid_more) = some_of(&shown, "valid");
    let (list_invalid, list_invalid_more) = some_of(&shown, "invalid");
    show(&DomainPage {
        page: visitor.page(&config.name, "/domains"),
        alerts: alerts_of(visitor, &config),
        tested,
        may_test: visitor.may(Permission::Check),
        route: config.route.hops.iter().map(ToString::to_string).collect(),
        relay: view::texts(&shown, "relay"),
        tls: domain_form::value_words(&shown["tls"]),
        hosts: hosts_of(visitor, &config),
        head,
        valid,
        invalid,
        known,
        policies,
        list_valid,
        list_valid_more,
        list_invalid,
        list_invalid_more,
        rows,
        more,
    })
}

fn some_of(shown: &Value, key: &str) -> (Vec<String>, usize) {
    let mut all = view::texts(shown, key);
    let more = all.len().saturating_sub(SHOWN);
    all.truncate(SHOWN);
    (all, more)
}

/// Health of the route's hosts; of an MX those that it named when it was looked up last.
fn hosts_of(visitor: &Visitor, config: &DomainConfig) -> Vec<HostView> {
    let Some(callouts) = &visitor.ui.state.callouts else { return Vec::new() };
    let directory = visitor.ui.state.engine.directory();
    let is_meant = |name: &DomainName| {
        let domain = Domain::Name(name.clone());
        directory.find(&domain).is_some_and(|found| found.name == config.name)
    };
    let hosts = callouts.route_hosts(&config.route, is_meant).into_iter();
    hosts
        .map(|host| {
            let found = host.mx.map(|(domain, age)| format!("from the MX of {domain}, looked up {}", view::ago(age)));
            let view = match &host.status {
                Some(status) => HostView::of(status),
                None => HostView { host: host.host, unknown: true, ..HostView::default() },
            };
            HostView { found: found.unwrap_or_default(), ..view }
        })
        .collect()
}

impl HostView {
    pub(super) fn of(host: &DestinationStatus) -> Self {
        Self {
            host: host.host.clone(),
            found: String::new(),
            unknown: false,
            open: host.open_for.is_some(),
            retry: host.open_for.map(|left| milliseconds(left.as_secs_f64() * 1e3)).unwrap_or_default(),
            sessions: host.sessions,
            callouts: count(host.questions),
            failures: count(host.failures),
            last_failure: host.last_failure.clone().unwrap_or_default(),
        }
    }
}

// === its cache ===

pub(super) async fn cache(visitor: Visitor, Path(name): Path<String>, Query(wanted): Query<CacheQuery>) -> Answer {
    let config = configured(&visitor, &name)?;
    let head = Head::of(&visitor, &config, "cache");
    let domain = match head.wildcard {
        true => wanted.domain.trim().to_lowercase(),
        false => config.name.clone(),
    };
    let (mut entries, mut more) = (Vec::new(), None);
    if !domain.is_empty() {
        covered(&visitor, &config, &domain)?;
        let given = query(&[
            ("domain", &domain),
            ("prefix", &wanted.prefix),
            ("state", &wanted.state),
            ("cursor", &wanted.cursor),
            ("limit", &ENTRIES.to_string()),
        ]);
        let found = visitor.ui.api.get(&visitor, &format!("/api/v1/cache?{given}")).await?;
        entries = each(&found, "entries", EntryView::of);
        more = found["next"].as_str().map(|next| {
            let of = if head.wildcard { domain.as_str() } else { "" };
            query(&[("domain", of), ("prefix", &wanted.prefix), ("state", &wanted.state), ("cursor", next)])
        });
    }
    show(&CachePage {
        page: visitor.page(&format!("Cache of {}", config.name), "/domains"),
        domain: if head.wildcard { domain } else { String::new() },
        head,
        prefix: wanted.prefix,
        state: wanted.state,
        states: [
            ("valid", "exists"),
            ("invalid", "does not exist"),
            ("accept_all", "accepts all"),
            ("not_accept_all", "tells recipients apart"),
            ("refuses_null_sender", "refuses bounces"),
            ("null_mx", "takes no mail"),
        ],
        entries,
        more,
    })
}

/// A subdomain in a query has to be one that this very configured domain covers.
fn covered(visitor: &Visitor, config: &DomainConfig, domain: &str) -> Result<(), Refusal> {
    let parsed = Domain::parse(domain).ok();
    let found =
        parsed.and_then(|domain| visitor.ui.state.engine.directory().find(&domain).map(|found| found.name.clone()));
    match found.as_deref() == Some(config.name.as_str()) {
        true => Ok(()),
        false => Err(Refusal::says(StatusCode::NOT_FOUND, format!("{domain:?} is not covered by {}.", config.name))),
    }
}

pub(super) async fn confirm_clear(
    visitor: Visitor,
    Path(name): Path<String>,
    Query(ClearQuery { domain }): Query<ClearQuery>,
) -> Answer {
    let config = configured(&visitor, &name)?;
    let link = encode(&config.name);
    let Some(domain) = what_to_clear(&visitor, &config, &domain)? else {
        return Ok(go(&format!("/domains/{link}/cache")));
    };
    let parsed = Domain::parse(&domain).map_err(|error| Refusal::failed(&error))?;
    let kept = visitor.ui.state.engine.cache().stats(Some(&parsed))?;
    Confirm::new(&visitor, "/domains", format!("Clear the callout cache of {domain}?"))
        .sentence(format!(
            "Recipients that are kept: {} as existing, {} as not existing. All of it is forgotten, and what is known of the domain itself.",
            count(kept.valid),
            count(kept.invalid)
        ))
        .sentence("Each recipient is asked for again when mail for it comes.")
        .button("Clear callout cache")
        .paths(format!("/domains/{link}/clear?{}", query(&[("domain", &domain)])), format!("/domains/{link}"))
        .show()
}

pub(super) async fn clear(
    visitor: Visitor,
    Path(name): Path<String>,
    Query(ClearQuery { domain }): Query<ClearQuery>,
) -> Answer {
    let config = configured(&visitor, &name)?;
    let link = encode(&config.name);
    let Some(domain) = what_to_clear(&visitor, &config, &domain)? else {
        return Ok(go(&format!("/domains/{link}/cache")));
    };
    let done = visitor.ui.api.delete(&visitor, &format!("/api/v1/cache?{}", query(&[("domain", &domain)]))).await?;
    let entries = count(done["entries"].as_u64().unwrap_or_default());
    visitor.say(
        "good",
        format!(
            "The callout cache of {domain} is cleared: {entries} entries. Nothing learned before is used any more."
        ),
    );
    Ok(go(&format!("/domains/{link}")))
}

/// The domain itself; for a wildcard the subdomain that was named.
fn what_to_clear(visitor: &Visitor, config: &DomainConfig, given: &str) -> Result<Option<String>, Refusal> {
    if !config.name.starts_with("*.") {
        return Ok(Some(config.name.clone()));
    }
    if given.is_empty() {
        return Ok(None);
    }
    covered(visitor, config, given)?;
    Ok(Some(given.to_owned()))
}

// === delete ===

pub(super) async fn confirm_delete(visitor: Visitor, Path(name): Path<String>) -> Answer {
    let config = configured(&visitor, &name)?;
    let link = encode(&config.name);
    Confirm::new(&visitor, "/domains", format!("Remove {}?", config.name))
        .sentence("From then on Callahead has no opinion on its recipients: what happens to mail for them is up to the mail server.")
        .sentence("What the cache holds of it is forgotten.")
        .button("Remove the domain")
        .paths(format!("/domains/{link}/delete"), format!("/domains/{link}"))
        .show()
}

pub(super) async fn delete(visitor: Visitor, Path(name): Path<String>) -> Answer {
    visitor.ui.api.delete(&visitor, &format!("/api/v1/domains/{}", encode(&name))).await?;
    visitor.say("good", format!("{name} is removed."));
    Ok(go("/domains"))
}
