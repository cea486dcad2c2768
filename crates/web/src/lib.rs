//! HTTP: metrics and health for everybody who may know them, and the API.
//!
//! - [`http_router`] is for the `http` listener: `/metrics`, `/healthz`, `/readyz`, and the API for whoever has a token.
//! - [`admin_router`] is for the `admin` listener: the same API. There is no login: whoever may open
//!   the socket's file may do everything, so it belongs on a Unix socket with a mode that says who that is.
//! - [`web_router`] is for the `http` listener too: pages for people, who log in ([`Web`]).
//! - [`serve_http`] runs either on a bound listener, with limits, until it is told to stop.
//!
//! Both share a [`State`]: the engine, the callouts, and what is counted ([`Metrics`]) or known ([`Readiness`]) of the process.
//! Errors are problem details (RFC 9457) whose `detail` says in one sentence what is wrong and what to do.

mod administration;
mod api;
mod events;
mod forwarded;
mod health;
mod histogram;
mod http;
mod json;
mod metrics;
mod newcomers;
mod problem;
mod query;
mod readiness;
mod scrape;
mod serve;
mod throttle;
mod ui;

use std::sync::Arc;

use callahead_callout::Callouts;
use callahead_engine::Engine;
use callahead_listeners::{Bound, Counters};

pub use administration::Administration;
pub use api::access::{Object, RULES, Rule};
pub use api::openapi;
pub use events::Events;
pub use forwarded::{Reach, reached};
pub use http::{OPENMETRICS, admin_router, http_router};
pub use metrics::Metrics;
pub use readiness::Readiness;
pub use serve::{HTTP_PROTOCOLS, HttpLimits, serve_http, serve_https};
pub use throttle::Throttle;
pub use ui::{ABSOLUTE, AlertBoard, IDLE, LINK_FOR, Needs, NodeFacts, PAGES, PageRule, Web, web_router};

/// What is shown and asked through HTTP. Clones share everything.
#[derive(Clone, Debug)]
pub struct State {
    /// Who decides.
    pub engine: Engine,
    /// Who asks destinations; absent where nobody does.
    pub callouts: Option<Callouts>,
    /// What the engine's decisions are counted in: the same that was given to the engine as its observer.
    pub metrics: Arc<Metrics>,
    /// Whether the process can serve.
    pub readiness: Arc<Readiness>,
    /// The listeners that serve.
    pub listeners: Arc<[ListenerStatus]>,
    /// The control plane.
    pub administration: Administration,
}

/// A listener, as metrics and `stats` show it.
#[derive(Clone, Debug)]
pub struct ListenerStatus {
    /// Its key in the configuration: `policy`, `socketmap`, ...
    pub name: &'static str,
    /// Where it listens.
    pub at: String,
    /// What it has seen.
    pub counters: Arc<Counters>,
}

impl ListenerStatus {
    /// Of a listener that is bound and not yet served.
    pub fn of(name: &'static str, bound: &Bound) -> Self {
        Self { name, at: bound.local_addr().to_string(), counters: bound.counters() }
    }
}
