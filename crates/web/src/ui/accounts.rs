//! Accounts: who may come in, one-time links for them, and logging in as one of them.

use std::collections::HashMap;

use askama::Template;
use axum::Extension;
use axum::extract::{Form, Path};
use axum::http::StatusCode;
use callahead_control::{Account, Permission, Role};
use serde_json::{Value, json};

use super::confirm::Confirm;
use super::frame::{Answer, Flash, Page, Refusal, Visitor, go, show, show_as};
use super::session::{self, Client, with_cookie};
use super::view::{encode, query, texts};

/// Accounts that are read for the list at a time.
const PAGE: usize = 1000;

#[derive(Template)]
#[template(path = "accounts.html")]
struct AccountsPage {
    page: Page,
    rows: Vec<AccountRow>,
    next: Option<String>,
    may_add: bool,
}

struct AccountRow {
    name: String,
    role: &'static str,
    read_only: bool,
    domains: String,
    owner: String,
    may_log_in: bool,
}

#[derive(Template)]
#[template(path = "account_form.html")]
struct AccountForm {
    page: Page,
    error: Option<String>,
    summary: String,
    action: String,
    link: String,
    is_new: bool,
    /// Only domain owners name domains; of a new account the role is not known yet.
    has_domains: bool,
    may_change: bool,
    may_own: bool,
    may_stand_in: bool,
    roles: Vec<(&'static str, &'static str)>,
    owners: Vec<String>,
    f: Fields,
}

#[derive(Default)]
struct Fields {
    name: String,
    revision: String,
    role: String,
    owner: String,
    read_only: bool,
    domains: String,
}

type Given = HashMap<String, String>;

#[derive(serde::Deserialize)]
pub(super) struct After {
    #[serde(default)]
    cursor: String,
}

fn role_words(role: &str) -> &'static str {
    match role {
        "admin" => "administrator",
        "reseller" => "reseller",
        _ => "domain owner",
    }
}

pub(super) async fn list(
    visitor: Visitor,
    axum::extract::Query(After { cursor }): axum::extract::Query<After>,
) -> Answer {
    let wanted = query(&[("cursor", &cursor), ("limit", &PAGE.to_string())]);
    let found = visitor.ui.api.get(&visitor, &format!("/api/v1/accounts?{wanted}")).await?;
    let rows = super::view::each(&found, "accounts", |account| {
        let name = account["name"].as_str().unwrap_or_default().to_owned();
        let domains = texts(account, "domains");
        AccountRow {
            may_log_in: find(&visitor, &name).is_ok_and(|account| may_stand_in(&visitor, &account)),
            role: role_words(account["role"].as_str().unwrap_or_default()),
            read_only: account["read_only"].as_bool().unwrap_or_default(),
            domains: match domains.len() {
                0..=3 => domains.join(", "),
                more => format!("{}, and {} more", domains[..2].join(", "), more - 2),
            },
            owner: account["owner"].as_str().unwrap_or_default().to_owned(),
            name,
        }
    });
    show(&AccountsPage {
        page: visitor.page("Accounts", "/accounts"),
        rows,
        next: found["next"].as_str().map(|next| query(&[("cursor", next)])),
        may_add: visitor.may(Permission::Accounts),
    })
}

/// Not while logged in as somebody already: the way back would lead to the wrong one.
fn may_stand_in(visitor: &Visitor, account: &Account) -> bool {
    let above = visitor.principal.account().is_some_and(|by| session::stands_above(by, account));
    above && visitor.principal.by().is_none()
}

fn find(visitor: &Visitor, name: &str) -> Result<Account, Refusal> {
    let local = visitor.ui.state.administration.control.local();
    let found = local.accounts().get(name).map(|record| record.value.clone());
    found.ok_or_else(|| Refusal::says(StatusCode::NOT_FOUND, "There is no such account here."))
}

impl AccountForm {
    fn new(visitor: &Visitor, f: Fields, existing: Option<&Account>) -> Self {
        let is_admin = visitor.principal.is_admin();
        let owners = match is_admin {
            true => {
                let local = visitor.ui.state.administration.control.local();
                let resellers = local.accounts().values().filter(|account| account.value.role == Role::Reseller);
                resellers.map(|account| account.value.name.clone()).collect()
            }
            false => Vec::new(),
        };
        let mut roles = vec![("domain", "domain owner: sees, checks and clears its domains, and has their lists")];
        if is_admin {
            roles.push(("reseller", "reseller: has domains and accounts of its own"));
            roles.push(("admin", "administrator: everything"));
        }
        let title = if existing.is_some() { f.name.as_str() } else { "Add an account" };
        let link = encode(&f.name);
        Self {
            page: visitor.page(title, "/accounts"),
            error: None,
            summary: existing.map(|account| role_words(account.role.as_str()).to_owned()).unwrap_or_default(),
            action: if existing.is_some() { format!("/accounts/{link}") } else { "/account/new".to_owned() },
            is_new: existing.is_none(),
            has_domains: existing.is_none_or(|account| account.role == Role::Domain),
            may_change: visitor.may(Permission::Accounts),
            may_own: is_admin,
            may_stand_in: existing.is_some_and(|account| may_stand_in(visitor, account)),
            roles,
            owners,
            link,
            f,
        }
    }

    fn show(self) -> Answer {
        let status = if self.error.is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
        show_as(status, &self)
    }
}

impl Fields {
    fn of_form(given: &Given) -> Self {
        let of = |key: &str| given.get(key).cloned().unwrap_or_default();
        Self {
            name: of("name"),
            revision: of("revision"),
            role: of("role"),
            owner: of("owner"),
            read_only: of("read_only") == "true",
            domains: of("domains"),
        }
    }

    fn domains(&self) -> Vec<&str> {
        self.domains.split([',', '\n', ' ', '\r']).map(str::trim).filter(|domain| !domain.is_empty()).collect()
    }
}

pub(super) async fn new(visitor: Visitor) -> Answer {
    AccountForm::new(&visitor, Fields { role: "domain".into(), ..Fields::default() }, None).show()
}

pub(super) async fn create(visitor: Visitor, Form(given): Form<Given>) -> Answer {
    let f = Fields::of_form(&given);
    let mut body = json!({"name": f.name.trim(), "role": f.role, "read_only": f.read_only, "domains": f.domains()});
    for key in ["owner", "password"] {
        if let Some(text) = given.get(key).filter(|text| !text.is_empty()) {
            body[key] = json!(text);
        }
    }
    match visitor.ui.api.post(&visitor, "/api/v1/accounts", Some(&body)).await {
        Ok(_) => {
            visitor.say("good", format!("The account {} is made.", f.name.trim()));
            Ok(go("/accounts"))
        }
        Err(refused) => {
            let error = Some(refused.sentence);
            AccountForm { error, ..AccountForm::new(&visitor, f, None) }.show()
        }
    }
}

pub(super) async fn account(visitor: Visitor, Path(name): Path<String>) -> Answer {
    let account = find(&visitor, &name)?;
    let shown = visitor.ui.api.get(&visitor, &format!("/api/v1/accounts/{}", encode(&name))).await?;
    let f = Fields {
        name,
        revision: shown["revision"].to_string(),
        role: role_words(account.role.as_str()).to_owned(),
        owner: account.owner.clone().unwrap_or_default(),
        read_only: account.read_only,
        domains: account.domains.join("\n"),
    };
    AccountForm::new(&visitor, f, Some(&account)).show()
}

pub(super) async fn change(visitor: Visitor, Path(name): Path<String>, Form(given): Form<Given>) -> Answer {
    let account = find(&visitor, &name)?;
    let f = Fields { name: name.clone(), ..Fields::of_form(&given) };
    let mut body = json!({"read_only": f.read_only});
    if account.role == Role::Domain || !f.domains().is_empty() {
        body["domains"] = json!(f.domains());
    }
    if let Some(password) = given.get("password").filter(|password| !password.is_empty()) {
        body["password"] = json!(password);
    }
    let path = format!("/api/v1/accounts/{}", encode(&name));
    match visitor.ui.api.send(&visitor, "PATCH", &path, Some(&body), Some(&f.revision)).await {
        Ok(_) => {
            visitor.say("good", format!("The account {name} is changed."));
            Ok(go("/accounts"))
        }
        Err(refused) => {
            let error = Some(refused.sentence);
            AccountForm { error, ..AccountForm::new(&visitor, f, Some(&account)) }.show()
        }
    }
}

pub(super) async fn confirm_delete(visitor: Visitor, Path(name): Path<String>) -> Answer {
    find(&visitor, &name)?;
    let link = encode(&name);
    Confirm::new(&visitor, "/accounts", format!("Remove the account {name}?"))
        .sentence("Its tokens and its sessions end at once.")
        .button("Remove the account")
        .paths(format!("/accounts/{link}/delete"), format!("/accounts/{link}"))
        .show()
}

pub(super) async fn delete(visitor: Visitor, Path(name): Path<String>) -> Answer {
    visitor.ui.api.delete(&visitor, &format!("/api/v1/accounts/{}", encode(&name))).await?;
    visitor.say("good", format!("The account {name} is removed."));
    Ok(go("/accounts"))
}

// === for somebody else ===

/// A link for a hosting panel or a message: it logs its first user in as the account.
pub(super) async fn link(visitor: Visitor, Path(name): Path<String>, Extension(host): Extension<Host>) -> Answer {
    let path = format!("/api/v1/accounts/{}/login-link", encode(&name));
    let made: Value = visitor.ui.api.post(&visitor, &path, None).await?;
    let link = format!("{}{}", host.origin(visitor.https), made["path"].as_str().unwrap_or_default());
    let text = format!("This link logs its first user in as {name}. It works once, within five minutes.");
    visitor.say_flash(Flash { tone: "good", text, secret: Some(link) });
    Ok(go(&format!("/accounts/{}", encode(&name))))
}

/// The name under which this request came in.
#[derive(Clone, Debug)]
pub(super) struct Host(pub(super) String);

impl Host {
    fn origin(&self, https: bool) -> String {
        match self.0.as_str() {
            "" => String::new(),
            host => format!("{}://{host}", if https { "https" } else { "http" }),
        }
    }
}

pub(super) async fn log_in_as(
    visitor: Visitor,
    Extension(client): Extension<Client>,
    Path(name): Path<String>,
) -> Answer {
    let account = find(&visitor, &name)?;
    if !may_stand_in(&visitor, &account) {
        return Err(Refusal::says(StatusCode::FORBIDDEN, "You can't log in as this account."));
    }
    let cookie = session::go_on_as(&visitor, &name, Some(visitor.name()), &client, "session.log_in_as").await?;
    Ok(with_cookie(go("/"), cookie))
}

/// Back to one's own account.
pub(super) async fn back(visitor: Visitor, Extension(client): Extension<Client>) -> Answer {
    let Some(by) = visitor.principal.by() else { return Ok(go("/")) };
    let cookie = session::go_on_as(&visitor, by, None, &client, "session.back").await?;
    Ok(with_cookie(go("/accounts"), cookie))
}
