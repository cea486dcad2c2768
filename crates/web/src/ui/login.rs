//! The ways in and out: password, one-time link, first set-up, log-out; and changing one's password.

use std::net::SocketAddr;
use std::sync::PoisonError;

use askama::Template;
use axum::Extension;
use axum::extract::{Form, Query, State as Given};
use axum::http::HeaderValue;
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use callahead_control::{Account, Actor, AuditEntry, Change, ControlError, Expected, Kind, Role};
use serde::Deserialize;

use super::Ui;
use super::frame::{Answer, Page, Refusal, Visitor, go, sentence, show, show_as};
use super::session::{self, Client, with_cookie};
use crate::throttle::Key;

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    page: Page,
    account: String,
    next: String,
    no_account: bool,
}

#[derive(Template)]
#[template(path = "login_link.html")]
struct LinkPage {
    page: Page,
    key: String,
}

#[derive(Template)]
#[template(path = "setup.html")]
struct SetUpPage {
    page: Page,
    key: String,
    account: String,
}

#[derive(Template)]
#[template(path = "password.html")]
struct PasswordPage {
    page: Page,
}

#[derive(Deserialize)]
pub(super) struct Next {
    #[serde(default)]
    next: String,
}

#[derive(Deserialize)]
pub(super) struct Login {
    account: String,
    password: String,
    #[serde(default)]
    next: String,
}

#[derive(Deserialize)]
pub(super) struct Link {
    #[serde(default)]
    key: String,
}

#[derive(Deserialize)]
pub(super) struct SetUp {
    key: String,
    account: String,
    password: String,
    again: String,
}

#[derive(Deserialize)]
pub(super) struct NewPassword {
    current: String,
    password: String,
    again: String,
}

// === by password ===

pub(super) async fn show_login(
    Given(ui): Given<Ui>,
    visitor: Option<Extension<Visitor>>,
    Query(Next { next }): Query<Next>,
) -> Answer {
    if visitor.is_some() {
        return Ok(go(local(&next)));
    }
    let no_account = ui.state.administration.control.local().accounts().is_empty();
    show(&LoginPage { page: Page::bare("Log in"), account: String::new(), next, no_account })
}

pub(super) async fn log_in(
    Given(ui): Given<Ui>,
    Extension(client): Extension<Client>,
    visitor: Option<Extension<Visitor>>,
    Form(Login { account, password, next }): Form<Login>,
) -> Answer {
    let account: String = account.trim().chars().take(Account::MAX_NAME + 1).collect();
    let again = |status, text: &str| {
        let page = Page::bare("Log in").saying("bad", text);
        show_as(status, &LoginPage { page, account: account.clone(), next: next.clone(), no_account: false })
    };
    let keys = [key(&client), Key::Account(account.clone())];
    let attempt = match ui.state.administration.throttle.attempt(keys) {
        Ok(attempt) => attempt,
        Err(wait) => {
            let seconds = wait.as_secs() + 1;
            let text = format!("Too many attempts failed. Wait {seconds} s, then try again.");
            let mut response = again(StatusCode::TOO_MANY_REQUESTS, &text)?;
            if let Ok(value) = HeaderValue::from_str(&seconds.to_string()) {
                response.headers_mut().insert(RETRY_AFTER, value);
            }
            return Ok(response);
        }
    };
    let do_not_fit = || {
        tracing::warn!(account, from = client.shown, "a login failed");
        again(StatusCode::UNPROCESSABLE_ENTITY, "The account and the password do not fit. Check both.")
    };
    let Some(revision) = is_right(&ui, &account, &password).await else { return do_not_fit() };
    let old = visitor.as_ref().map(|Extension(visitor)| visitor.session.as_str());
    let cookie = match session::begin(&ui, (&account, revision), None, &client, old, "session.begin").await {
        // The password that was looked at may be the one from before by now.
        Err(ControlError::Withdrawn { .. }) => return do_not_fit(),
        begun => begun?,
    };
    attempt.succeeded();
    let to = local(&next);
    Ok(with_cookie(go(if to == "/" { landing(&ui, &account) } else { to }), cookie))
}

/// A domain owner comes because of an address; the others because of the whole.
fn landing(ui: &Ui, account: &str) -> &'static str {
    let local = ui.state.administration.control.local();
    match local.accounts().get(account).map(|account| account.value.role) {
        Some(Role::Domain) => "/recipients",
        _ => "/",
    }
}

/// The revision of the account that has this password.
async fn is_right(ui: &Ui, account: &str, password: &str) -> Option<u64> {
    let administration = &ui.state.administration;
    let found = administration.control.local().accounts().get(account).cloned();
    let kept = found.as_ref().and_then(|account| account.value.password.as_deref());
    let is_right = administration.passwords.is_right(password, kept).await;
    found.filter(|_| is_right).map(|account| account.revision)
}

fn key(client: &Client) -> Key {
    match client.address {
        Some(address) => Key::of_peer(&SocketAddr::new(address, 0).to_string()),
        None => Key::of_peer(&client.shown),
    }
}

/// Only to a page of this site: `//elsewhere` and `/\elsewhere` are addresses of others. And to one that can stand in a header: addresses are
/// percent-encoded.
fn local(next: &str) -> &str {
    let is_local = next.starts_with('/')
        && !next.starts_with("//")
        && !next.starts_with("/login")
        && !next.starts_with("/logout")
        && next.bytes().all(|octet| octet.is_ascii_graphic() && octet != b'\\');
    if is_local { next } else { "/" }
}

pub(super) async fn log_out(visitor: Visitor) -> Answer {
    let cookie = session::end(&visitor).await?;
    Ok(with_cookie(go("/login"), cookie))
}

// === by a one-time link ===

/// A page with a button, because programs that look at links in messages must not use this one up.
pub(super) async fn show_link(Query(Link { key }): Query<Link>) -> Answer {
    show(&LinkPage { page: Page::bare("Log in"), key })
}

pub(super) async fn take_link(
    Given(ui): Given<Ui>,
    Extension(client): Extension<Client>,
    visitor: Option<Extension<Visitor>>,
    Form(Link { key: secret }): Form<Link>,
) -> Answer {
    let attempt = ui.state.administration.throttle.attempt([key(&client)]).map_err(|wait| {
        let text = format!("Too many attempts failed. Wait {} s, then try again.", wait.as_secs() + 1);
        Refusal::says(StatusCode::TOO_MANY_REQUESTS, text)
    })?;
    let gone = || {
        let text = "This link was used already, or is too old: it works once, within five minutes. Ask for a new one.";
        Refusal::says(StatusCode::GONE, text)
    };
    let Some((link, since)) = session::take_link(&ui, &secret).await? else { return Err(gone()) };
    attempt.succeeded();
    let old = visitor.as_ref().map(|Extension(visitor)| visitor.session.as_str());
    let (account, by) = ((link.account.as_str(), since), link.by.as_deref());
    let cookie = match session::begin(&ui, account, by, &client, old, "session.begin_by_link").await {
        // The account was changed since, which ends its links.
        Err(ControlError::Withdrawn { .. }) => return Err(gone()),
        begun => begun?,
    };
    Ok(with_cookie(go(landing(&ui, &link.account)), cookie))
}

// === the first account ===

pub(super) async fn show_set_up(Given(ui): Given<Ui>, Query(Link { key }): Query<Link>) -> Answer {
    may_set_up(&ui, &key)?;
    show(&SetUpPage { page: Page::bare("Set up"), key, account: "admin".into() })
}

pub(super) async fn set_up(
    Given(ui): Given<Ui>,
    Extension(client): Extension<Client>,
    Form(SetUp { key, account, password, again }): Form<SetUp>,
) -> Answer {
    may_set_up(&ui, &key)?;
    let once_more = |why: &str| {
        let page = Page::bare("Set up").saying("bad", sentence(why));
        show_as(StatusCode::UNPROCESSABLE_ENTITY, &SetUpPage { page, key: key.clone(), account: account.clone() })
    };
    if let Err(why) = Account::check_name(&account) {
        return once_more(&why);
    }
    if password != again {
        return once_more("the two passwords are not the same");
    }
    let password = match ui.state.administration.passwords.hash(&password).await {
        Ok(password) => password,
        Err(error) => return once_more(&error.to_string()),
    };
    // Taken before it is used: of two who come at the same time one makes an account.
    let setup = || ui.web.inner.setup.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(taken) = setup().take_if(|secret| session::is_same(secret, &key)) else { return Err(no_set_up()) };
    let created_at = Some(ui.now().0);
    let first = Account { password: Some(password), created_at, ..Account::new(&account, Role::Admin) };
    let body = serde_json::to_string(&first).map_err(|error| Refusal::failed(&error))?;
    let change = Change { kind: Kind::Account, key: account.clone(), expected: Expected::Nothing, body: Some(body) };
    let actor = Actor { who: "set-up link".into(), from: client.shown.clone() };
    let audit = AuditEntry::new(actor, "account.create", &account);
    let made = ui.state.administration.control.apply(vec![change], vec![audit], ui.now()).await;
    if made.is_err() {
        // There is still no account, and no other link before the next start.
        *setup() = Some(taken);
    }
    let revision = made?;
    let cookie = session::begin(&ui, (&account, revision), None, &client, None, "session.begin").await?;
    Ok(with_cookie(go("/domain/new"), cookie))
}

fn may_set_up(ui: &Ui, key: &str) -> Result<(), Refusal> {
    let is_empty = ui.state.administration.control.local().accounts().is_empty();
    let setup = ui.web.inner.setup.lock().unwrap_or_else(PoisonError::into_inner);
    match setup.as_ref().is_some_and(|secret| session::is_same(secret, key)) && is_empty {
        true => Ok(()),
        false => Err(no_set_up()),
    }
}

fn no_set_up() -> Refusal {
    let text = "This set-up link does not work (any more). While there is no account, each start of the program prints a new one.";
    Refusal::says(StatusCode::GONE, text)
}

// === one's own password ===

pub(super) async fn show_password(visitor: Visitor) -> Answer {
    show(&PasswordPage { page: visitor.page("Your password", "") })
}

pub(super) async fn change_password(
    Extension(client): Extension<Client>,
    visitor: Visitor,
    Form(new): Form<NewPassword>,
) -> Answer {
    let ui = &visitor.ui;
    let no = |status, why: &str| {
        let page = visitor.page("Your password", "").saying("bad", sentence(why));
        show_as(status, &PasswordPage { page })
    };
    let unprocessable = StatusCode::UNPROCESSABLE_ENTITY;
    if visitor.principal.by().is_some() {
        return no(StatusCode::FORBIDDEN, "you are logged in as somebody else; set a password on the account's page");
    }
    let administration = &ui.state.administration;
    if new.password != new.again {
        return no(unprocessable, "the two new passwords are not the same");
    }
    let keys = [key(&client), Key::Account(visitor.name().to_owned())];
    let Ok(attempt) = administration.throttle.attempt(keys) else {
        return no(StatusCode::TOO_MANY_REQUESTS, "too many attempts failed; try again in a minute");
    };
    let found = administration.control.local().accounts().get(visitor.name()).cloned();
    let Some(record) = found else { return Err(Refusal::Elsewhere("/login".into())) };
    let mut account = record.value;
    if !administration.passwords.is_right(&new.current, account.password.as_deref()).await {
        return no(unprocessable, "the present password is another one");
    }
    attempt.succeeded();
    account.password = match administration.passwords.hash(&new.password).await {
        Ok(hash) => Some(hash),
        Err(error) => return no(unprocessable, &error.to_string()),
    };
    let body = serde_json::to_string(&account).map_err(|error| Refusal::failed(&error))?;
    let expected = Expected::Revision(record.revision);
    let changes = vec![Change { kind: Kind::Account, key: account.name.clone(), expected, body: Some(body) }];
    let audit = AuditEntry::new(visitor.actor(), "account.password", &account.name).owned_by(account.owner.as_deref());
    let changed =
        administration.control.apply_while(visitor.principal.stands_on(), changes, vec![audit], ui.now()).await;
    let revision = match changed {
        Err(ControlError::Changed { .. } | ControlError::Withdrawn { .. }) => {
            return Err(Refusal::Elsewhere("/login".into()));
        }
        changed => changed?,
    };
    // The change ended this session too.
    let (own, old) = ((visitor.name(), revision), Some(visitor.session.as_str()));
    let cookie = session::begin(ui, own, None, &client, old, "session.begin").await?;
    Ok(with_cookie(go("/"), cookie))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_leads_to_a_page_of_this_site_and_nowhere_else() {
        for next in ["/domains", "/log?domain=a.example", "/recipients/a@b.example"] {
            assert_eq!(local(next), next);
        }
        for next in [
            "",
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "javascript:alert(1)",
            "/login?next=/login",
            "/logout",
            "/a\nb",
            "/\u{fc}",
            "/a b",
        ] {
            assert_eq!(local(next), "/", "{next:?}");
        }
    }
}
