//! The overview: the whole node for administrators, their domains for others; kept up to date by server-sent events.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use askama::Template;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use callahead_cache::Timestamp;
use callahead_control::Permission;
use callahead_smtp::Domain;
use futures_util::stream;

use super::chart::{Throughput, count, number};
use super::domains::{HostView, config_name};
use super::frame::{Answer, Page, Refusal, Visitor, When, sentence, show};
use super::log::latest;
use super::view::LogView;
use super::{alerts, session};
use crate::State;
use crate::health;

/// What the numbers are of.
const SPAN: Duration = Duration::from_secs(300);
/// How often a page that is looked at is told the news.
const EVERY: Duration = Duration::from_secs(5);
/// A stream ends after so many of them, and the browser asks for the next: 10 min.
const TIMES: u32 = 120;
/// What the numbers of somebody's own domains are of.
const OWN_SPAN: Duration = Duration::from_secs(24 * 3600);
/// Domains of which these are counted; of more the log is asked.
const TALLIED: usize = 200;
/// Rows of the log that are looked at for it, whose-ever they are.
const TALLIED_ROWS: usize = 1_000_000;
/// How long these numbers are shown before they are counted again.
const TALLY_EVERY: Duration = Duration::from_secs(60);
/// Accounts whose numbers are remembered for so long.
const MAX_TALLIES: usize = 1_000;
/// Rows of the lists of alerts and of destinations.
const ROWS: usize = 10;

#[derive(Template)]
#[template(path = "overview.html")]
struct OverviewPage {
    page: Page,
    whole: bool,
    live: Live,
}

/// The middle of the page, which is kept up to date.
#[derive(Template)]
#[template(path = "overview_live.html")]
struct Live {
    troubles: Vec<TroubleView>,
    numbers: Option<Numbers>,
    own: Option<OwnNumbers>,
    alerts: Vec<AlertView>,
    hosts: Vec<HostView>,
    refusals: Vec<LogView>,
}

struct Numbers {
    per_second: String,
    cached: String,
    refused: String,
    callouts: String,
    asked: String,
    kept: String,
    chart: Throughput,
}

/// Somebody's own domains, in the last day.
#[derive(Clone, Debug)]
struct OwnNumbers {
    decisions: String,
    cached: String,
    refused: String,
    asked: String,
    kept: String,
    /// Subdomains that a wildcard covers are not counted.
    without_wildcards: bool,
}

/// What the accounts' own domains came to, and when that was counted.
#[derive(Debug, Default)]
pub(super) struct Tallies(Mutex<HashMap<String, (Timestamp, Option<OwnNumbers>)>>);

/// What is wrong with the node itself.
pub(super) struct TroubleView {
    pub(super) tone: &'static str,
    pub(super) what: String,
    pub(super) advice: &'static str,
}

/// An alert in words.
pub(super) struct AlertView {
    pub(super) domain: String,
    /// The configured domain that covers it.
    pub(super) page: Option<String>,
    pub(super) tone: &'static str,
    pub(super) label: &'static str,
    pub(super) advice: &'static str,
    pub(super) detail: String,
    pub(super) since: When,
}

pub(super) async fn overview(visitor: Visitor) -> Answer {
    let live = live(&visitor).await?;
    show(&OverviewPage { page: visitor.page("Overview", "/"), whole: live.numbers.is_some(), live })
}

/// The middle of the page, again and again, until the visitor goes or is logged out.
pub(super) async fn events(visitor: Visitor) -> Result<Response, Refusal> {
    let Some(place) = visitor.ui.state.administration.events.place(&visitor.principal) else {
        return Err(Refusal::says(
            axum::http::StatusCode::SERVICE_UNAVAILABLE,
            "Too many pages are being kept up to date.",
        ));
    };
    let stream = stream::unfold((visitor, place, 0), |(visitor, place, times)| async move {
        if times == TIMES {
            return None;
        }
        let shutdown = visitor.ui.state.administration.shutdown.clone();
        tokio::select! {
            () = shutdown.cancelled() => return None,
            () = tokio::time::sleep(EVERY) => {}
        }
        if !session::still_stands(&visitor) {
            return None;
        }
        let html = live(&visitor).await.ok()?.render().ok()?;
        Some((Ok::<_, Infallible>(Event::default().event("fragment").data(html)), (visitor, place, times + 1)))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new()).into_response())
}

async fn live(visitor: &Visitor) -> Result<Live, Refusal> {
    let state = &visitor.ui.state;
    let whole = visitor.may(Permission::Node);
    let numbers = if whole { Some(numbers(visitor)) } else { None };
    let alerts = alerts_for(visitor, |_| true).into_iter().take(ROWS).collect();
    let hosts = match &state.callouts {
        Some(callouts) if whole => {
            let hosts = callouts.destinations().into_iter().filter(|host| host.open_for.is_some());
            hosts.take(ROWS).map(|host| HostView::of(&host)).collect()
        }
        _ => Vec::new(),
    };
    let troubles = if whole { health::troubles(state).into_iter().map(TroubleView::of).collect() } else { Vec::new() };
    let own = if whole { None } else { own_numbers(visitor).await };
    Ok(Live { troubles, numbers, own, alerts, hosts, refusals: refusals(visitor).await? })
}

impl TroubleView {
    fn of(trouble: health::Trouble) -> Self {
        let tone = if trouble.is_bad { "bad" } else { "wait" };
        Self { tone, what: sentence(&trouble.whole()), advice: trouble.advice }
    }
}

/// The latest refusals.
async fn refusals(visitor: &Visitor) -> Result<Vec<LogView>, Refusal> {
    Ok(latest(visitor, ("verdict", "invalid")).await?.0)
}

fn own_domains(visitor: &Visitor) -> Vec<String> {
    let state = &visitor.ui.state;
    let directory = state.engine.directory();
    let owns = |name: &str| visitor.principal.owns_domain(name, state.administration.owner(name).as_deref());
    directory.iter().map(|config| config.name.clone()).filter(|name| owns(name)).collect()
}

fn numbers(visitor: &Visitor) -> Numbers {
    let series = &visitor.ui.web.inner.series;
    let summary = series.summary(SPAN);
    // A cache that can't be read is told of above, and the rest is shown.
    let kept = visitor.ui.state.engine.cache().stats(None).unwrap_or_default();
    let percent = |share: Option<f64>| share.map_or("–".to_owned(), |share| format!("{:.0} %", share * 100.0));
    let asked = match summary.asked_within {
        Some((half, _)) if half.is_finite() => format!("≤ {}", super::view::milliseconds(half * 1e3)),
        Some(_) => "over 30 s".to_owned(),
        None => "–".to_owned(),
    };
    Numbers {
        per_second: number(summary.per_second),
        cached: percent(summary.cached_share),
        refused: percent(summary.refused_share),
        callouts: number(summary.callouts_per_second),
        asked,
        kept: count(kept.valid + kept.invalid + kept.domains),
        chart: Throughput::of(&series.columns()),
    }
}

/// The last day of somebody's own domains, counted now or up to a minute ago; `None` where they have too many for that, or the log can't be read.
async fn own_numbers(visitor: &Visitor) -> Option<OwnNumbers> {
    let state = &visitor.ui.state;
    let (now, tallies) = (visitor.ui.now(), &visitor.ui.web.inner.tallies);
    let whose = visitor.principal.name().unwrap_or_default().to_owned();
    {
        let known = tallies.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, own)) = known.get(&whose)
            && now.since(*at) < TALLY_EVERY
        {
            return own.clone();
        }
    }
    let mut domains = own_domains(visitor);
    let all = domains.len();
    domains.retain(|name| !name.starts_with("*."));
    let without_wildcards = domains.len() < all;
    let own = match domains.len() {
        1..=TALLIED => count_own(state, domains).await.map(|own| OwnNumbers { without_wildcards, ..own }),
        _ => None,
    };
    let mut known = tallies.0.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() >= MAX_TALLIES {
        known.retain(|_, (at, _)| now.since(*at) < TALLY_EVERY);
    }
    if known.len() < MAX_TALLIES {
        known.insert(whose, (now, own.clone()));
    }
    own
}

async fn count_own(state: &State, domains: Vec<String>) -> Option<OwnNumbers> {
    let since = Timestamp(state.engine.now().0.saturating_sub(u64::try_from(OWN_SPAN.as_millis()).unwrap_or_default()));
    // Of what is somebody's for less than that, no more than they may see in the log.
    let own_since = |name: &str| since.max(state.administration.ownership_of(name.to_owned()).since);
    let mut kept = 0;
    for domain in domains.iter().filter_map(|name| Domain::parse(name).ok()) {
        let of_it = state.engine.cache().stats(Some(&domain)).unwrap_or_default();
        kept += of_it.valid + of_it.invalid;
    }
    let domains = domains.into_iter().map(|name| (own_since(&name), name)).map(|(since, name)| (name, since)).collect();
    let tally = state.administration.log.tally(domains, TALLIED_ROWS).await;
    let tally = tally.inspect_err(|error| tracing::warn!(%error, "an account's decisions can't be counted")).ok()?;
    let share = |part: u64| match tally.decisions {
        0 => "–".to_owned(),
        all => format!("{:.0} %", part as f64 / all as f64 * 100.0),
    };
    let least = if tally.is_cut { "over " } else { "" };
    Some(OwnNumbers {
        decisions: format!("{least}{}", count(tally.decisions)),
        cached: share(tally.cached),
        refused: share(tally.invalid),
        asked: format!("{least}{}", count(tally.asked)),
        kept: count(kept),
        without_wildcards: false,
    })
}

/// The alerts that stand for domains that are asked about, in words: those that were told since the domain is whose it is, who see no words of a
/// destination of others'.
pub(super) fn alerts_for(visitor: &Visitor, is_meant: impl Fn(&str) -> bool) -> Vec<AlertView> {
    let seen_since = |domain: &str| visitor.sees_since(domain).filter(|_| is_meant(domain));
    let standing = visitor.ui.web.inner.alerts.standing(seen_since);
    standing
        .into_iter()
        .map(|alert| {
            let (label, tone, advice) = alerts::words(alert.kind);
            let page = Domain::parse(&alert.domain).ok().and_then(|domain| config_name(visitor, &domain));
            let since: Timestamp = alert.since;
            AlertView { domain: alert.domain, page, tone, label, advice, detail: alert.detail, since: When(since) }
        })
        .collect()
}
