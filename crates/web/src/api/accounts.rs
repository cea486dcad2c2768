//! `/accounts`: who may do something.

use axum::extract::State as Given;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Json, Response};
use callahead_control::{Account, AuditEntry, Change, DomainSpec, Expected, Kind, Permission, Record, Role, Unchanged};
use callahead_engine::rfc3339;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::request::{Answer, Asker, Body, IfMatch, Named, Paging, Segment, tagged, with_next};
use super::schema::{self, RoleName};
use crate::State;
use crate::problem::Problem;
use crate::query::Parameters;

/// Accounts at most.
const MAX_ACCOUNTS: usize = 100_000;

/// An account to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewAccount {
    /// 1 to 64 of `a-z`, `0-9`, dot, underscore, hyphen and `@`.
    #[schema(max_length = 64, pattern = "^[a-z0-9._@-]{1,64}$")]
    name: String,
    /// Resellers make accounts with the role `domain`.
    role: RoleName,
    /// It may look and ask, and change nothing.
    #[serde(default)]
    read_only: bool,
    /// Whose it is: a reseller. Resellers leave it out.
    #[serde(default)]
    owner: Option<String>,
    /// For the role `domain`: which ones.
    #[serde(default)]
    #[schema(max_items = 1000)]
    domains: Vec<String>,
    /// At least 15 characters. Without one, the account only has tokens.
    #[serde(default)]
    password: Option<String>,
}

/// What is to change of an account; what is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AccountPatch {
    #[serde(default, deserialize_with = "said")]
    #[schema(nullable = false, required = false)]
    read_only: Option<bool>,
    #[serde(default, deserialize_with = "said")]
    #[schema(max_items = 1000, nullable = false, required = false)]
    domains: Option<Vec<String>>,
    #[serde(default, deserialize_with = "said")]
    #[schema(nullable = false, required = false)]
    password: Option<String>,
}

/// Nothing of an account has a default to which `null` could go back: whoever sends it means something that does not happen.
fn said<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(value: D) -> Result<Option<T>, D::Error> {
    T::deserialize(value).map(Some)
}

/// List accounts
///
/// One's own, and for resellers those that they made.
#[utoipa::path(
    get, path = "/api/v1/accounts", tag = "access", operation_id = "accounts_list",
    params(
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 1000, description = "Accounts on a page; 100 where it is not given"),
    ),
    responses((status = 200, description = "A page of accounts", body = schema::AccountPage))
)]
pub(crate) async fn list(Given(state): Given<State>, asker: Asker, query: Parameters) -> Answer {
    let paging = Paging::of(query, &[])?;
    let local = state.administration.control.local();
    let seen = local.accounts().values().filter(|record| asker.principal.owns_account(&record.value));
    let (page, next) = paging.page(seen, |record| &record.value.name);
    let accounts: Vec<Value> = page.into_iter().map(shown).collect();
    Ok(Json(with_next(json!({"accounts": accounts}), next)))
}

/// Show an account
#[utoipa::path(
    get, path = "/api/v1/accounts/{name}", tag = "access", operation_id = "account_show",
    params(("name" = String, Path, description = "Its name")),
    responses((status = 200, description = "The account", body = schema::Account))
)]
pub(crate) async fn show(Given(state): Given<State>, Segment(name): Segment, query: Parameters) -> Answer<Response> {
    query.end(&[])?;
    let record = record(&state, &name)?;
    Ok(tagged(StatusCode::OK, record.revision, shown(&record)))
}

/// Make an account
#[utoipa::path(
    post, path = "/api/v1/accounts", tag = "access", operation_id = "account_create",
    request_body = NewAccount,
    responses((status = 201, description = "It is there", body = schema::Account))
)]
pub(crate) async fn create(
    Given(state): Given<State>,
    asker: Asker,
    query: Parameters,
    Body(new): Body<NewAccount>,
) -> Answer<Response> {
    query.end(&[])?;
    Account::check_name(&new.name).map_err(|why| Problem::invalid(format!("name: {why}")))?;
    let role = match new.role {
        RoleName::Admin => Role::Admin,
        RoleName::Reseller => Role::Reseller,
        RoleName::Domain => Role::Domain,
    };
    let owner = if asker.principal.is_admin() {
        owner(&state, role, new.owner)?
    } else {
        if role != Role::Domain || new.owner.is_some_and(|owner| Some(owner.as_str()) != asker.principal.name()) {
            return Err(Problem::forbidden(
                "role: this account may make accounts of its own with the role \"domain\" only",
            ));
        }
        asker.principal.name().map(str::to_owned)
    };
    let domains = domains(&state, role, owner.as_deref(), new.domains)?;
    if state.administration.control.local().accounts().len() >= MAX_ACCOUNTS {
        return Err(Problem::conflict(format!("there are {MAX_ACCOUNTS} accounts, which is as many as there may be")));
    }
    let password = hashed(&state, new.password).await?;
    let created_at = Some(state.engine.now().0);
    let account = Account { name: new.name, role, read_only: new.read_only, owner, domains, password, created_at };
    if account.password.is_some() {
        no_more_than(&asker, &account)?;
    }
    write(&state, &asker, "account.create", None, Some(&account), Expected::Nothing).await?;
    let record = record(&state, &account.name)?;
    Ok(tagged(StatusCode::CREATED, record.revision, shown(&record)))
}

/// Change an account
///
/// Its role and its owner stay as they are. A new password ends its sessions.
#[utoipa::path(
    patch, path = "/api/v1/accounts/{name}", tag = "access", operation_id = "account_change",
    params(
        ("name" = String, Path, description = "Its name"),
        IfMatch,
    ),
    request_body(content = AccountPatch, content_type = "application/merge-patch+json"),
    responses((status = 200, description = "It is in force", body = schema::Account))
)]
pub(crate) async fn change(
    Given(state): Given<State>,
    named: Named,
    Body(patch): Body<AccountPatch>,
) -> Answer<Response> {
    let Named { asker, name, .. } = &named;
    let old = record(&state, name)?;
    let expected = named.expects(old.revision)?;
    let mut account = old.value.clone();
    account.read_only = patch.read_only.unwrap_or(account.read_only);
    if let Some(new) = patch.domains {
        account.domains = domains(&state, account.role, account.owner.as_deref(), new)?;
    }
    if patch.password.is_some() {
        account.password = hashed(&state, patch.password.clone()).await?;
    }
    let names_more = account.domains.iter().any(|name| !old.value.domains.contains(name));
    if patch.password.is_some()
        || (old.value.read_only && !account.read_only)
        || (names_more && account.password.is_some())
    {
        no_more_than(asker, &account)?;
    }
    let written = write(&state, asker, "account.change", Some(&old.value), Some(&account), expected).await;
    named.outcome(written)?;
    let record = record(&state, name)?;
    Ok(tagged(StatusCode::OK, record.revision, shown(&record)))
}

/// Delete an account
///
/// With its tokens. One that is not there is deleted already; one that still owns domains or accounts can't be deleted.
#[utoipa::path(
    delete, path = "/api/v1/accounts/{name}", tag = "access", operation_id = "account_delete",
    params(
        ("name" = String, Path, description = "Its name"),
        IfMatch,
    ),
    responses((status = 204, description = "It is not there"))
)]
pub(crate) async fn delete(Given(state): Given<State>, named: Named) -> Answer<StatusCode> {
    let deleted = remove(&state, &named).await;
    let is_there = state.administration.control.local().accounts().contains_key(&named.name);
    named.deletion(deleted, is_there)
}

async fn remove(state: &State, named: &Named) -> Answer<()> {
    let Named { asker, name, .. } = named;
    let old = record(state, name)?;
    let expected = named.expects(old.revision)?;
    {
        let local = state.administration.control.local();
        let is_owner = |owner: &Option<String>| owner.as_deref() == Some(name.as_str());
        let domains = local.domains().values().filter(|record| is_owner(&record.value.owner)).count();
        let accounts = local.accounts().values().filter(|record| is_owner(&record.value.owner)).count();
        if domains + accounts > 0 {
            return Err(Problem::conflict(format!(
                "the account {name:?} owns {domains} domains and {accounts} accounts: give the domains to another owner, or delete them, and delete the accounts, then delete this one"
            )));
        }
    }
    // Its tokens and sessions go with it.
    write(state, asker, "account.delete", Some(&old.value), None, expected).await
}

/// Make a one-time login link
///
/// For a hosting panel: the path of a page that logs its first user in to the web interface as the account, within five minutes.
#[utoipa::path(
    post, path = "/api/v1/accounts/{name}/login-link", tag = "access", operation_id = "account_login_link",
    params(("name" = String, Path, description = "Its name")),
    responses((status = 201, description = "The link works", body = schema::LoginLink))
)]
pub(crate) async fn login_link(Given(state): Given<State>, Named { asker, name, .. }: Named) -> Answer<Response> {
    let Record { revision, value: account, .. } = record(&state, &name)?;
    if let Some(permission) = beyond(&asker, &account) {
        return Err(Problem::forbidden(format!(
            "the account has the permission {:?}, which the token that asks does not have; use one with all scopes",
            permission.as_str()
        )));
    }
    let mut requires = asker.principal.stands_on();
    requires.push(Unchanged::new(Kind::Account, &name, revision));
    let (path, until) = crate::ui::make_link(&state, &account, asker.actor(), crate::ui::LINK_FOR, requires).await?;
    let body = json!({"account": name, "path": path, "expires_at": rfc3339(until)});
    Ok((StatusCode::CREATED, Json(body)).into_response())
}

// === what they share ===

fn record(state: &State, name: &str) -> Answer<Record<Account>> {
    let found = state.administration.control.local().accounts().get(name).cloned();
    found.ok_or_else(|| Problem::not_found(format!("there is no account {name:?} here; look at the list of accounts")))
}

fn shown(record: &Record<Account>) -> Value {
    let mut shown = visible(&record.value);
    shown["revision"] = json!(record.revision);
    shown["changed_at"] = json!(rfc3339(record.changed_at));
    shown
}

/// Without its password.
fn visible(account: &Account) -> Value {
    let mut shown = json!({
        "name": account.name, "role": account.role.as_str(), "read_only": account.read_only, "domains": account.domains,
        "has_password": account.password.is_some(),
    });
    if let Some(owner) = &account.owner {
        shown["owner"] = json!(owner);
    }
    shown
}

fn owner(state: &State, role: Role, owner: Option<String>) -> Answer<Option<String>> {
    let Some(owner) = owner else { return Ok(None) };
    let local = state.administration.control.local();
    let is_reseller = local.accounts().get(&owner).is_some_and(|account| account.value.role == Role::Reseller);
    match role {
        Role::Domain if is_reseller => Ok(Some(owner)),
        Role::Domain => {
            Err(Problem::invalid(format!("owner: there is no reseller {owner:?}; look at the list of accounts")))
        }
        _ => Err(Problem::invalid("owner: only accounts with the role \"domain\" belong to a reseller; leave it out")),
    }
}

/// The domains of an account, in their one form; a reseller's accounts have the reseller's only.
fn domains(state: &State, role: Role, owner: Option<&str>, domains: Vec<String>) -> Answer<Vec<String>> {
    if role != Role::Domain && !domains.is_empty() {
        return Err(Problem::invalid("domains: only accounts with the role \"domain\" name domains; leave it out"));
    }
    if domains.len() > Account::MAX_DOMAINS {
        return Err(Problem::invalid(format!("domains: name at most {}", Account::MAX_DOMAINS)));
    }
    let mut names = Vec::with_capacity(domains.len());
    for domain in domains {
        let name = DomainSpec::canonical_name(&domain).map_err(|why| Problem::invalid(format!("domains: {why}")))?;
        if owner.is_some() && state.administration.owner(&name).as_deref() != owner {
            return Err(Problem::invalid(format!(
                "domains: {name:?} is not a domain of {}",
                owner.unwrap_or_default()
            )));
        }
        names.push(name);
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// Who sets a password could log in with it, and who gives rights may know one that was set before: so nobody does either for an account that may do
/// more than the token that asks. One that is read-only counts as what it would be if it were not, because it may become that later.
fn no_more_than(asker: &Asker, account: &Account) -> Answer<()> {
    match beyond(asker, &Account { read_only: false, ..account.clone() }) {
        None => Ok(()),
        Some(permission) => Err(Problem::forbidden(format!(
            "the account has, or could be given, the permission {:?}, which the token that asks does not have; use one with all scopes",
            permission.as_str()
        ))),
    }
}

/// What an account may do and the one who asks may not.
fn beyond(asker: &Asker, account: &Account) -> Option<Permission> {
    Permission::ALL.into_iter().find(|permission| account.allows(*permission) && !asker.principal.may(*permission))
}

async fn hashed(state: &State, password: Option<String>) -> Answer<Option<String>> {
    match password {
        None => Ok(None),
        Some(password) => match state.administration.passwords.hash(&password).await {
            Ok(hash) => Ok(Some(hash)),
            Err(error) => Err(Problem::invalid(format!("password: {error}"))),
        },
    }
}

async fn write(
    state: &State,
    asker: &Asker,
    action: &str,
    old: Option<&Account>,
    new: Option<&Account>,
    expected: Expected,
) -> Answer<()> {
    let Some(subject) = new.or(old) else { return Ok(()) };
    let (before, mut after) = (old.map(visible), new.map(visible));
    if let (Some(old), Some(new), Some(after)) = (old, new, &mut after)
        && old.password != new.password
    {
        after["password"] = json!("another one");
    }
    let entry = AuditEntry::new(asker.actor(), action, &subject.name)
        .owned_by(subject.owner.as_deref())
        .record(before.as_ref(), after.as_ref());
    let body = new.and_then(|account| serde_json::to_string(account).ok());
    let change = Change { kind: Kind::Account, key: subject.name.clone(), expected, body };
    asker.apply(state, None, vec![change], entry).await?;
    tracing::info!(
        account = subject.name,
        action,
        by = asker.actor().who,
        from = asker.from,
        "an account was changed through the API"
    );
    Ok(())
}
