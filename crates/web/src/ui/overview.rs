//! The overview: the whole node for administrators, their domains for others; kept up to date by server-sent events.

use std::convert::Infallible;
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
use super::frame::{Answer, Page, Refusal, Visitor, When, show};
use super::view::{LogView, each, query};
use super::{alerts, session};

/// What the numbers are of.
const SPAN: Duration = Duration::from_secs(300);
/// How often a page that is looked at is told the news.
const EVERY: Duration = Duration::from_secs(5);
/// A stream ends after so many of them, and the browser asks for the next: 10 min.
const TIMES: u32 = 120;
/// Rows of each of the lists.
const ROWS: usize = 10;

#[derive(Template)]
#[template(path = "overview.html")]
struct OverviewPage {
    page: Page,
    whole: bool,
    numbers: Option<Numbers>,
    alerts: Vec<AlertView>,
    hosts: Vec<HostView>,
    refusals: Vec<LogView>,
}

#[derive(Template)]
#[template(path = "overview_live.html")]
struct Live {
    numbers: Option<Numbers>,
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
    let Live { numbers, alerts, hosts, refusals } = live(&visitor).await?;
    let whole = numbers.is_some();
    show(&OverviewPage { page: visitor.page("Overview", "/"), whole, numbers, alerts, hosts, refusals })
}

/// The middle of the page, again and again, until the visitor goes or is logged out.
pub(super) async fn events(visitor: Visitor) -> Result<Response, Refusal> {
    let Some(place) = visitor.ui.state.administration.events.place() else {
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
    let numbers = if whole { Some(numbers(visitor)?) } else { None };
    let alerts = alerts_for(visitor, |domain| visitor.sees(domain)).into_iter().take(ROWS).collect();
    let hosts = match &state.callouts {
        Some(callouts) if whole => {
            let hosts = callouts.destinations().into_iter().filter(|host| host.open_for.is_some());
            hosts.take(ROWS).map(|host| HostView::of(&host)).collect()
        }
        _ => Vec::new(),
    };
    Ok(Live { numbers, alerts, hosts, refusals: refusals(visitor).await? })
}

/// The latest refusals.
async fn refusals(visitor: &Visitor) -> Result<Vec<LogView>, Refusal> {
    let wanted = query(&[("verdict", "invalid"), ("limit", &ROWS.to_string())]);
    let page = visitor.ui.api.get(visitor, &format!("/api/v1/log?{wanted}")).await?;
    Ok(each(&page, "rows", LogView::of))
}

fn numbers(visitor: &Visitor) -> Result<Numbers, Refusal> {
    let series = &visitor.ui.web.inner.series;
    let summary = series.summary(SPAN);
    let kept = visitor.ui.state.engine.cache().stats(None)?;
    let percent = |share: Option<f64>| share.map_or("–".to_owned(), |share| format!("{:.0} %", share * 100.0));
    let asked = match summary.asked_within {
        Some((half, _)) if half.is_finite() => format!("≤ {}", super::view::milliseconds(half * 1e3)),
        Some(_) => "over 30 s".to_owned(),
        None => "–".to_owned(),
    };
    Ok(Numbers {
        per_second: number(summary.per_second),
        cached: percent(summary.cached_share),
        refused: percent(summary.refused_share),
        callouts: number(summary.callouts_per_second),
        asked,
        kept: count(kept.valid + kept.invalid + kept.domains),
        chart: Throughput::of(&series.columns()),
    })
}

/// The alerts that stand for domains that are asked about, in words.
pub(super) fn alerts_for(visitor: &Visitor, is_meant: impl Fn(&str) -> bool) -> Vec<AlertView> {
    let standing = visitor.ui.web.inner.alerts.standing(is_meant);
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
