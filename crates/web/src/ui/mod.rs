//! The web interface: pages rendered by the server, for people.
//!
//! A request goes through [`guard`]: its cookie says who it is ([`session`]), its line in [`pages::PAGES`] says what that takes, and what is
//! in its path has to be theirs, by the same rules as in the API (`api::access`). The handlers then read from the engine, the cache
//! and the control plane, and change things through the API's own handlers, so that a page can do nothing that the API would
//! not do. What they show is an askama template, which escapes everything.
//!
//! Everything that matters works without a script: forms are forms, results are pages. `assets/script.js` shows times in the reader's
//! zone, keeps the overview up to date, asks destinations without a new page, and shows tests of routes step by step. The Content-Security-Policy lets in nothing else.

mod accounts;
mod alerts;
mod api;
mod assets;
mod audit;
mod chart;
mod confirm;
mod domain_form;
mod domains;
mod frame;
mod guard;
mod log;
mod login;
mod node;
mod observed;
mod overview;
mod pages;
mod recipients;
mod route_test;
mod series;
mod session;
mod tokens;
mod view;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use callahead_cache::Timestamp;
use callahead_control::{Account, Actor, AuditEntry, Change, ControlError, Expected, Kind, Role, Secret};
use tokio_util::sync::CancellationToken;

use crate::State;

pub use alerts::AlertBoard;
pub use guard::Needs;
pub(crate) use pages::nothing;
pub use pages::{PAGES, PageRule};
pub(crate) use session::make_link;
pub use session::{ABSOLUTE, IDLE, LINK_FOR};

/// What the web interface knows besides the [`State`]. Clones share everything.
#[derive(Clone, Debug)]
pub struct Web {
    inner: Arc<Inner>,
}

/// What a node tells of itself on its page.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// The program's version.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// Where its files are.
    pub data_dir: String,
    /// The configuration in force, as TOML, without secrets.
    pub configuration: String,
}

#[derive(Debug)]
struct Inner {
    alerts: Arc<AlertBoard>,
    node: Mutex<NodeFacts>,
    series: series::Series,
    tallies: overview::Tallies,
    setup: Mutex<Option<Secret>>,
    /// When each session was used last, by its id.
    seen: Mutex<HashMap<String, Timestamp>>,
    /// What the next page of a session has to say, by its id.
    flashes: Mutex<HashMap<String, frame::Flash>>,
}

/// What handlers work on.
#[derive(Clone, Debug)]
pub(crate) struct Ui {
    state: State,
    web: Web,
    api: api::Api,
}

impl Web {
    /// For a node that is about to serve.
    pub fn new(alerts: Arc<AlertBoard>, node: NodeFacts) -> Self {
        let inner = Inner {
            alerts,
            node: Mutex::new(node),
            series: series::Series::default(),
            tallies: overview::Tallies::default(),
            setup: Mutex::default(),
            seen: Mutex::default(),
            flashes: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The configuration changed.
    pub fn set_configuration(&self, text: String) {
        self.inner.node.lock().unwrap_or_else(PoisonError::into_inner).configuration = text;
    }

    /// Where there is no account yet: the path of the page that makes the first administrator. It holds a secret, works until there is an
    /// account, and is another one after the next start. Show it to whoever starts the program, and to nobody else.
    pub fn set_up_path(&self, state: &State) -> Option<String> {
        if !state.administration.control.local().accounts().is_empty() {
            return None;
        }
        let secret = Secret::random();
        let path = format!("/setup?key={}", secret.reveal());
        *self.inner.setup.lock().unwrap_or_else(PoisonError::into_inner) = Some(secret);
        Some(path)
    }

    /// Makes an administrator without a password, where there is no account of the name yet, and a link that logs somebody in as it, once,
    /// within this time. For the demo. Gives the link's path.
    ///
    /// # Errors
    /// When the control database can't be written.
    pub async fn demonstrate(&self, state: &State, name: &str, lasting: Duration) -> Result<String, ControlError> {
        let account = Account::new(name, Role::Admin);
        let actor = Actor { who: "the demo".to_owned(), from: "this process".to_owned() };
        if !state.administration.control.local().accounts().contains_key(name) {
            let body = serde_json::to_string(&account).ok();
            let change = Change { kind: Kind::Account, key: name.to_owned(), expected: Expected::Nothing, body };
            let audit = AuditEntry::new(actor.clone(), "account.create", name);
            state.administration.control.apply(vec![change], vec![audit], state.engine.now()).await?;
        }
        Ok(session::make_link(state, &account, actor, lasting, Vec::new()).await?.0)
    }

    /// Looks at the counters until it is told to stop.
    pub async fn look_at_counters(self, state: State, shutdown: CancellationToken) {
        loop {
            self.inner.series.look(&state);
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(series::EVERY) => {}
            }
        }
    }
}

/// All pages, for the `http` listener.
pub fn web_router(state: State, web: Web) -> Router {
    pages::router(Ui { api: api::Api::new(state.clone()), state, web })
}

impl Ui {
    fn now(&self) -> Timestamp {
        self.state.engine.now()
    }
}
