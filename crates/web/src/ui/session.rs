//! Sessions: a random secret in a cookie, its digest in the control database.
//!
//! A session ends by logging out, after [`IDLE`] without a request, after [`ABSOLUTE`] in any case, and with every change of its account. Who
//! logs in as somebody goes on with the same session under other rights: it ends when it would have, and with every change of either account. When
//! it was used last is kept in memory: after a restart the idle time begins again, the absolute one goes on.

use std::net::{IpAddr, SocketAddr};
use std::sync::PoisonError;
use std::time::Duration;

use axum::extract::Request;
use axum::http::header::{COOKIE, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use callahead_cache::Timestamp;
use callahead_control::{
    Account, Actor, AuditEntry, Change, ControlError, Digest, Expected, Kind, Local, Permission, Principal, Secret,
    Session, Unchanged,
};

use super::Ui;
use super::frame::{Refusal, Visitor};
use crate::State;
use crate::forwarded::Https;
use crate::serve::Peer;

/// Without a request for so long, a session ends: 2 h.
pub const IDLE: Duration = Duration::from_secs(2 * 3600);
/// So long after it began, a session ends: 12 h.
pub const ABSOLUTE: Duration = Duration::from_secs(12 * 3600);
/// So long a one-time login link works: 5 min.
pub const LINK_FOR: Duration = Duration::from_secs(300);
/// Sessions that are removed at one login because they have ended.
const SWEPT: usize = 100;
/// Sessions of one account, and likewise links, at a time; a further one ends the oldest.
const PER_ACCOUNT: usize = 20;

/// The cookie where the connection is encrypted: browsers take a `__Host-` one only from this host, over TLS, for all paths (RFC 6265bis 4.1.3.2).
const COOKIE_NAME: &str = "__Host-callahead";
/// The cookie elsewhere, where browsers would refuse the other one.
const COOKIE_NAME_PLAIN: &str = "callahead";

/// Where a request came from, the proxies that are trusted left out.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) address: Option<IpAddr>,
    /// For the audit log.
    pub(super) shown: String,
    pub(super) https: bool,
}

impl Client {
    /// By what the listener, and the proxies that are trusted, tell.
    pub(super) fn of(request: &Request) -> Self {
        let peer = request.extensions().get::<Peer>().map(|Peer(peer)| peer.clone()).unwrap_or_default();
        let address = peer.parse::<SocketAddr>().ok().map(|peer| peer.ip().to_canonical());
        let shown = address.map_or(peer, |address| address.to_string());
        let Https(https) = request.extensions().get::<Https>().copied().unwrap_or_default();
        Self { address, shown, https }
    }
}

/// Who has this cookie.
pub(super) fn find(ui: &Ui, headers: &HeaderMap, client: &Client) -> Option<Visitor> {
    let secret = cookie(headers, client.https)?;
    let now = ui.now();
    let (session, account, revision) = {
        let local = ui.state.administration.control.local();
        let (session, account) = standing(&local, &Digest::of(secret), now)?;
        (session.clone(), account.clone(), local.revision())
    };
    let mut seen = ui.web.inner.seen.lock().unwrap_or_else(PoisonError::into_inner);
    let last = seen.entry(session.id.clone()).or_insert(now);
    if now.since(*last) >= IDLE {
        return None;
    }
    *last = now;
    drop(seen);
    Some(Visitor {
        ui: ui.clone(),
        principal: Principal::by_session(account, session.by.clone()).in_session(&session.id).as_of(revision),
        session: session.id,
        from: client.shown.clone(),
        https: client.https,
    })
}

/// Whether a visitor's session goes on, with the same rights.
pub(super) fn still_stands(visitor: &Visitor) -> bool {
    let now = visitor.ui.now();
    let local = visitor.ui.state.administration.control.local();
    let digest = local.sessions().get(&visitor.session).map(|record| record.value.digest.clone());
    digest.is_some_and(|digest| standing(&local, &digest, now).is_some())
}

/// A session that is not over, and its account: for each request, and for what goes on behind one.
fn standing<'a>(local: &'a Local, digest: &Digest, now: Timestamp) -> Option<(&'a Session, &'a Account)> {
    let (session, account) = local.find_session(digest)?;
    let may_stand_in = session
        .by
        .as_deref()
        .is_none_or(|by| local.accounts().get(by).is_some_and(|by| stands_above(&by.value, account)));
    if session.link || !session.is_good_at(now) || !may_stand_in {
        return None;
    }
    Some((session, account))
}

/// Whether somebody may log in as an account: those above it in the hierarchy, unless they may only look.
pub(super) fn stands_above(by: &Account, account: &Account) -> bool {
    let above = Principal::by_session(by.clone(), None);
    by.name != account.name && above.may(Permission::Accounts) && above.owns_account(account)
}

/// Begins a session of an account that is as it was at this revision, ends the session that was there, and gives the cookie to set.
pub(super) async fn begin(
    ui: &Ui,
    (account, since): (&str, u64),
    by: Option<&str>,
    client: &Client,
    instead_of: Option<&str>,
    action: &str,
) -> Result<HeaderValue, ControlError> {
    let now = ui.now();
    let (session, secret) = Session::create(account, by, false, now, now.after(ABSOLUTE));
    let accounts = [Some(account), by].into_iter().flatten();
    let requires = accounts.map(|name| Unchanged::new(Kind::Account, name, since)).collect();
    put(ui, session, &secret, (instead_of.map(forget), requires), client, action).await
}

/// Goes on with a visitor's session as another account: when somebody logs in as it, and on the way back. It ends when the visitor's own would
/// have: nobody has shown a password since.
pub(super) async fn go_on_as(
    visitor: &Visitor,
    account: &str,
    by: Option<&str>,
    client: &Client,
    action: &str,
) -> Result<HeaderValue, Refusal> {
    let over = || Refusal::Elsewhere("/login".into());
    let ui = &visitor.ui;
    let found = ui.state.administration.control.local().sessions().get(&visitor.session).cloned();
    let own = found.ok_or_else(over)?;
    let (began, ends) = (Timestamp(own.value.created_at), Timestamp(own.value.expires_at));
    let (session, secret) = Session::create(account, by, false, began, ends);
    let taken = Change { expected: Expected::Revision(own.revision), ..forget(&visitor.session) };
    let mut requires = visitor.principal.stands_on();
    // The account too that it goes on as, which was looked at no earlier.
    let other = requires.first().map(|own| Unchanged { key: account.to_owned(), ..own.clone() });
    requires.extend(other);
    match put(ui, session, &secret, (Some(taken), requires), client, action).await {
        Ok(cookie) => Ok(cookie),
        // It was ended meanwhile.
        Err(ControlError::Changed { .. } | ControlError::Withdrawn { .. }) => Err(over()),
        Err(error) => Err(error.into()),
    }
}

/// Keeps a session in the place of the one that this change ends, if all that it rests on is as it was, and gives the cookie to set.
async fn put(
    ui: &Ui,
    session: Session,
    secret: &Secret,
    (ends, requires): (Option<Change>, Vec<Unchanged>),
    client: &Client,
    action: &str,
) -> Result<HeaderValue, ControlError> {
    let (now, account) = (ui.now(), session.account.as_str());
    let is_ended = |id: &str| ends.as_ref().is_some_and(|change| change.key == id);
    let mut changes = ended(ui, now);
    changes.extend(too_many(&ui.state, account, false));
    // This one's change says more: that it has to be there.
    changes.retain(|change| !is_ended(&change.key));
    changes.extend(ends);
    changes.push(write(&session));
    let who = match &session.by {
        Some(by) => format!("{by} as {account}"),
        None => account.to_owned(),
    };
    let owner = ui.state.administration.control.local().accounts().get(account).and_then(|a| a.value.owner.clone());
    let audit = AuditEntry::new(Actor { who, from: client.shown.clone() }, action, account).owned_by(owner.as_deref());
    ui.state.administration.control.apply_while(requires, changes, vec![audit], now).await?;
    let lasts = Duration::from_millis(session.expires_at.saturating_sub(now.0));
    Ok(set_cookie(secret.reveal(), client.https, Some(lasts)))
}

/// Ends a session.
pub(super) async fn end(visitor: &Visitor) -> Result<HeaderValue, ControlError> {
    let control = &visitor.ui.state.administration.control;
    let audit = AuditEntry::new(visitor.actor(), "session.end", visitor.name());
    control.apply(vec![forget(&visitor.session)], vec![audit], visitor.ui.now()).await?;
    visitor.ui.web.inner.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(&visitor.session);
    Ok(set_cookie("", visitor.https, None))
}

/// Makes a link that logs somebody in as an account, once, if what was looked at for it is as it was. Gives its path, and until when.
///
/// # Errors
/// When that is not so, or the control database can't be written.
pub(crate) async fn make_link(
    state: &State,
    account: &Account,
    actor: Actor,
    lasting: Duration,
    requires: Vec<Unchanged>,
) -> Result<(String, Timestamp), ControlError> {
    let now = state.engine.now();
    // It is for the account's own people, whoever made it; that stands in the audit log.
    let until = now.after(lasting);
    let (session, secret) = Session::create(&account.name, None, true, now, until);
    let audit = AuditEntry::new(actor, "account.login_link", &account.name).owned_by(account.owner.as_deref());
    let mut changes = too_many(state, &account.name, true);
    changes.push(write(&session));
    state.administration.control.apply_while(requires, changes, vec![audit], now).await?;
    Ok((format!("/login/link?key={}", secret.reveal()), until))
}

/// Takes a link: gives it to the first who asks, and to nobody else, with the revision after which its account has not changed.
pub(super) async fn take_link(ui: &Ui, secret: &str) -> Result<Option<(Session, u64)>, ControlError> {
    let now = ui.now();
    let (session, revision) = {
        let local = ui.state.administration.control.local();
        let Some((session, _)) = local.find_session(&Digest::of(secret)) else { return Ok(None) };
        if !session.link || !session.is_good_at(now) {
            return Ok(None);
        }
        let revision = local.sessions().get(&session.id).map_or(0, |record| record.revision);
        (session.clone(), revision)
    };
    let take = Change { expected: Expected::Revision(revision), ..forget(&session.id) };
    match ui.state.administration.control.apply(vec![take], Vec::new(), now).await {
        Ok(_) => Ok(Some((session, revision))),
        Err(ControlError::Changed { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts a cookie into an answer.
pub(super) fn with_cookie(mut response: Response, cookie: HeaderValue) -> Response {
    response.headers_mut().append(SET_COOKIE, cookie);
    response
}

fn write(session: &Session) -> Change {
    let body = serde_json::to_string(session).unwrap_or_default();
    Change { kind: Kind::Session, key: session.id.clone(), expected: Expected::Nothing, body: Some(body) }
}

fn forget(id: &str) -> Change {
    Change { kind: Kind::Session, key: id.to_owned(), expected: Expected::Anything, body: None }
}

/// Removes some of those that have ended.
fn ended(ui: &Ui, now: Timestamp) -> Vec<Change> {
    let local = ui.state.administration.control.local();
    let over = local.sessions().values().filter(|record| !record.value.is_good_at(now));
    let over: Vec<String> = over.take(SWEPT).map(|record| record.value.id.clone()).collect();
    let mut seen = ui.web.inner.seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.retain(|id, _| local.sessions().contains_key(id));
    over.iter().map(|id| forget(id)).collect()
}

/// Ends the oldest sessions, or links, of an account, so that there is room for one more.
fn too_many(state: &State, account: &str, link: bool) -> Vec<Change> {
    let local = state.administration.control.local();
    let of_account = local.sessions().values().map(|record| &record.value);
    let mut all: Vec<_> = of_account.filter(|session| session.account == account && session.link == link).collect();
    all.sort_by_key(|session| std::cmp::Reverse(session.created_at));
    all.iter().skip(PER_ACCOUNT - 1).map(|session| forget(&session.id)).collect()
}

fn cookie(headers: &HeaderMap, https: bool) -> Option<&str> {
    let name = if https { COOKIE_NAME } else { COOKIE_NAME_PLAIN };
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(found, _)| *found == name).map(|(_, value)| value).filter(|value| !value.is_empty())
}

fn set_cookie(secret: &str, https: bool, keep: Option<Duration>) -> HeaderValue {
    let (name, secure) = if https { (COOKIE_NAME, "; Secure") } else { (COOKIE_NAME_PLAIN, "") };
    let age = keep.map_or(0, |keep| keep.as_secs());
    let text = format!("{name}={secret}; Path=/; HttpOnly; SameSite=Lax; Max-Age={age}{secure}");
    // Made of hexadecimal digits and what stands here.
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
}

/// Compares two secrets by their digests, so that how long it takes tells nothing of them.
pub(super) fn is_same(secret: &Secret, given: &str) -> bool {
    secret.digest() == Digest::of(given)
}
