//! About this node; and clearing everything.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use askama::Template;
use axum::extract::Form;
use axum::http::StatusCode;
use callahead_control::Permission;
use serde::Deserialize;

use super::chart::count;
use super::confirm::Confirm;
use super::domains::HostView;
use super::frame::{Answer, Page, Refusal, Visitor, When, go, sentence, show};
use crate::health::{self, Part};

/// Hosts that are shown; those in trouble first.
const HOSTS: usize = 100;
/// What has to be written before everything is cleared.
const WORD: &str = "everything";

#[derive(Template)]
#[template(path = "node.html")]
struct NodePage {
    page: Page,
    version: String,
    started_at: When,
    reasons: Vec<String>,
    data_dir: String,
    stores: Vec<(&'static str, String)>,
    health: Vec<StoreHealth>,
    listeners: Vec<ListenerRow>,
    hosts: Vec<HostView>,
    configuration: String,
    may_clear: bool,
}

/// How a store is, with all that is wrong with it.
struct StoreHealth {
    name: &'static str,
    is_bad: bool,
    troubles: Vec<String>,
}

struct ListenerRow {
    name: &'static str,
    at: String,
    open: String,
    requests: String,
}

#[derive(Deserialize)]
pub(super) struct Confirmed {
    #[serde(default)]
    word: String,
}

pub(super) async fn node(visitor: Visitor) -> Answer {
    let state = &visitor.ui.state;
    let facts = visitor.ui.web.inner.node.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let cache = state.engine.cache();
    let kept = cache.stats(None).unwrap_or_default();
    let log = state.administration.log.counters();
    let stores = vec![
        ("Recipients kept", format!("{} exist, {} do not", count(kept.valid), count(kept.invalid))),
        ("Domains known", count(kept.domains)),
        ("Cache file", format!("{} of {} in use", bytes(kept.used_bytes), bytes(kept.file_bytes))),
        ("Decisions logged", format!("{} since the start", count(log.written))),
        ("Log file", format!("{} in use", bytes(log.used_bytes))),
    ];
    let troubles = health::troubles(state);
    let health = [("Cache", Part::Cache), ("Decision log", Part::Log), ("Control database", Part::Control)];
    let health = health.map(|(name, part)| {
        let of_it = troubles.iter().filter(|trouble| trouble.part == part);
        StoreHealth {
            name,
            is_bad: of_it.clone().any(|trouble| trouble.is_bad),
            troubles: of_it.map(|trouble| format!("{} {}", sentence(&trouble.whole()), trouble.advice)).collect(),
        }
    });
    let mut hosts = state.callouts.as_ref().map(|callouts| callouts.destinations()).unwrap_or_default();
    hosts.sort_by_key(|host| (host.open_for.is_none(), std::cmp::Reverse(host.questions)));
    let listeners = state.listeners.iter();
    show(&NodePage {
        page: visitor.page("This node", "/node"),
        version: facts.version,
        started_at: When(facts.started_at),
        reasons: troubles.iter().filter(|trouble| trouble.is_unready).map(|trouble| sentence(&trouble.what)).collect(),
        data_dir: facts.data_dir,
        stores,
        health: health.into(),
        listeners: listeners
            .map(|listener| ListenerRow {
                name: listener.name,
                at: listener.at.clone(),
                open: count(listener.counters.open.load(Ordering::Relaxed)),
                requests: count(listener.counters.requests.load(Ordering::Relaxed)),
            })
            .collect(),
        hosts: hosts.iter().take(HOSTS).map(HostView::of).collect(),
        configuration: facts.configuration,
        may_clear: visitor.may(Permission::ClearAll),
    })
}

fn bytes(value: u64) -> String {
    let mut value = value as f64;
    for unit in ["bytes", "KiB", "MiB"] {
        if value < 1024.0 {
            return if unit == "bytes" { format!("{value} {unit}") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} GiB")
}

pub(super) async fn confirm_clear(visitor: Visitor) -> Answer {
    let kept = visitor.ui.state.engine.cache().stats(None)?;
    Confirm::new(&visitor, "/node", "Clear everything?".to_owned())
        .sentence(format!(
            "{} recipients of all domains are forgotten, and what is known of the domains themselves.",
            count(kept.valid + kept.invalid)
        ))
        .sentence("Each recipient is asked for again when mail for it comes, so all destinations have more to do for a while.")
        .word(WORD)
        .button("Clear everything")
        .paths("/clear-everything".to_owned(), "/node".to_owned())
        .show()
}

pub(super) async fn clear(visitor: Visitor, Form(Confirmed { word }): Form<Confirmed>) -> Answer {
    if word.trim() != WORD {
        let text = format!("Nothing was cleared: to confirm, write \u{201c}{WORD}\u{201d} into the field.");
        return Err(Refusal::says(StatusCode::UNPROCESSABLE_ENTITY, text));
    }
    let done = visitor.ui.api.delete(&visitor, "/api/v1/cache").await?;
    let entries = count(done["entries"].as_u64().unwrap_or_default());
    visitor.say("good", format!("Everything is cleared: {entries} entries. Nothing learned before is used any more."));
    Ok(go("/node"))
}
