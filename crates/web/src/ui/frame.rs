//! What all pages have: the frame around them, times, messages, and what is said where a page can't be shown.

use std::fmt;
use std::sync::PoisonError;

use askama::Template;
use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::http::request::Parts;
use axum::response::{Html, IntoResponse, Response};
use callahead_cache::{CacheError, Timestamp};
use callahead_control::{Actor, ControlError, Permission, Principal};
use callahead_engine::rfc3339;
use callahead_smtp::Domain;

use super::{Ui, assets};

/// Messages that wait for their session's next page.
const FLASHES: usize = 10_000;

/// Somebody who is logged in, looking at a page.
#[derive(Clone, Debug)]
pub(super) struct Visitor {
    pub(super) ui: Ui,
    pub(super) principal: Principal,
    pub(super) session: String,
    /// The client's address.
    pub(super) from: String,
    pub(super) https: bool,
}

/// What a page says on top, once.
#[derive(Clone, Debug)]
pub(super) struct Flash {
    /// `good`, `bad` or `wait`.
    pub(super) tone: &'static str,
    pub(super) text: String,
    /// A secret, shown this once.
    pub(super) secret: Option<String>,
}

/// The frame.
pub(super) struct Page {
    pub(super) title: String,
    pub(super) node: String,
    pub(super) nav: Vec<NavItem>,
    pub(super) who: Option<Who>,
    pub(super) flash: Option<Flash>,
    pub(super) style: &'static str,
    pub(super) script: &'static str,
    pub(super) icon: &'static str,
}

pub(super) struct NavItem {
    pub(super) href: &'static str,
    pub(super) label: &'static str,
    pub(super) current: bool,
}

pub(super) struct Who {
    pub(super) name: String,
    pub(super) role: String,
    /// Who it is really.
    pub(super) by: Option<String>,
}

/// A moment; shown in UTC, and by the script in the reader's zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct When(pub(super) Timestamp);

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = rfc3339(self.0);
        let (day, time) = (text.get(..10).unwrap_or_default(), text.get(11..19).unwrap_or_default());
        write!(f, r#"<time datetime="{text}">{day} {time} UTC</time>"#)
    }
}

/// Made of digits only.
impl askama::filters::HtmlSafe for When {}

/// Why a page is not shown.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Go there instead.
    Elsewhere(String),
    /// A status and a sentence.
    Says(StatusCode, String),
}

pub(super) type Answer = Result<Response, Refusal>;

#[derive(Template)]
#[template(path = "refusal.html")]
struct RefusalPage {
    page: Page,
    code: u16,
    sentence: String,
}

impl Page {
    /// For somebody who is not logged in.
    pub(super) fn bare(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            node: String::new(),
            nav: Vec::new(),
            who: None,
            flash: None,
            style: assets::style(),
            script: assets::script(),
            icon: assets::icon(),
        }
    }

    pub(super) fn saying(mut self, tone: &'static str, text: impl Into<String>) -> Self {
        self.flash = Some(Flash { tone, text: text.into(), secret: None });
        self
    }
}

impl Visitor {
    /// The frame of a page under this entry of the navigation.
    pub(super) fn page(&self, title: &str, current: &str) -> Page {
        let entries = [
            ("/", "Overview", true),
            ("/recipients", "Check a recipient", true),
            ("/domains", "Domains", true),
            ("/log", "Log", true),
            ("/accounts", "Accounts", self.principal.role() != callahead_control::Role::Domain),
            ("/tokens", "Tokens", true),
            ("/audit", "Audit", true),
            ("/node", "This node", self.may(Permission::Node)),
        ];
        let nav = entries
            .into_iter()
            .filter(|(_, _, shown)| *shown)
            .map(|(href, label, _)| NavItem { href, label, current: href == current })
            .collect();
        let account = self.principal.account();
        let read_only = if account.is_some_and(|account| account.read_only) { ", read-only" } else { "" };
        let role = match self.principal.role() {
            callahead_control::Role::Admin => "administrator",
            callahead_control::Role::Reseller => "reseller",
            callahead_control::Role::Domain => "domain owner",
        };
        Page {
            node: self.ui.state.administration.node.to_string(),
            nav,
            who: Some(Who {
                name: self.name().to_owned(),
                role: format!("{role}{read_only}"),
                by: self.principal.by().map(str::to_owned),
            }),
            flash: self.take_flash(),
            ..Page::bare(title)
        }
    }

    pub(super) fn name(&self) -> &str {
        self.principal.name().unwrap_or_default()
    }

    pub(super) fn may(&self, permission: Permission) -> bool {
        self.principal.may(permission)
    }

    /// Since when what concerns recipients of a domain may be shown; `None` where nothing of it may.
    pub(super) fn sees_since(&self, domain: &str) -> Option<Timestamp> {
        let state = &self.ui.state;
        match Domain::parse(domain) {
            Ok(domain) => state.administration.sees_since(&self.principal, &state.engine, &domain),
            Err(_) => self.principal.is_admin().then_some(Timestamp(0)),
        }
    }

    pub(super) fn actor(&self) -> Actor {
        Actor::of(&self.principal, &self.from)
    }

    /// Said on the next page.
    pub(super) fn say(&self, tone: &'static str, text: impl Into<String>) {
        self.say_flash(Flash { tone, text: text.into(), secret: None });
    }

    pub(super) fn say_flash(&self, flash: Flash) {
        let mut flashes = self.ui.web.inner.flashes.lock().unwrap_or_else(PoisonError::into_inner);
        if flashes.len() >= FLASHES {
            flashes.clear();
        }
        flashes.insert(self.session.clone(), flash);
    }

    fn take_flash(&self) -> Option<Flash> {
        self.ui.web.inner.flashes.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.session)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Visitor {
    type Rejection = Refusal;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| Refusal::Elsewhere("/login".into()))
    }
}

/// A template as an answer.
pub(super) fn show(template: &impl Template) -> Answer {
    show_as(StatusCode::OK, template)
}

pub(super) fn show_as(status: StatusCode, template: &impl Template) -> Answer {
    match template.render() {
        Ok(html) => Ok((status, Html(html)).into_response()),
        Err(error) => Err(Refusal::failed(&error)),
    }
}

/// After a change: the browser asks for a page, so that loading it again changes nothing.
pub(super) fn go(to: &str) -> Response {
    (StatusCode::SEE_OTHER, [(LOCATION, to)]).into_response()
}

impl Refusal {
    pub(super) fn says(status: StatusCode, sentence: impl Into<String>) -> Self {
        Self::Says(status, sentence.into())
    }

    pub(super) fn failed(error: &dyn fmt::Display) -> Self {
        tracing::error!(%error, "a page can't be shown");
        Self::says(StatusCode::INTERNAL_SERVER_ERROR, format!("This page can't be shown: {error}. See the log."))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Elsewhere(to) => go(&to),
            Self::Says(status, sentence) => {
                let title = status.canonical_reason().unwrap_or("Error");
                let page = RefusalPage { page: Page::bare(title), code: status.as_u16(), sentence };
                match page.render() {
                    Ok(html) => (status, Html(html)).into_response(),
                    Err(_) => status.into_response(),
                }
            }
        }
    }
}

impl From<CacheError> for Refusal {
    fn from(error: CacheError) -> Self {
        Self::failed(&error)
    }
}

impl From<ControlError> for Refusal {
    fn from(error: ControlError) -> Self {
        Self::failed(&error)
    }
}

/// As a sentence stands on a page.
pub(super) fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let mut shown: String = letters.next().map(|first| first.to_uppercase().collect()).unwrap_or_default();
    shown.push_str(letters.as_str());
    if !shown.ends_with(['.', '!', '?']) {
        shown.push('.');
    }
    shown
}
