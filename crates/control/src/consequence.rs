//! What a change brings about in other records, and what it needs of them: made and checked by the writer, against the records as they are when it is
//! made, so that nothing comes in between.

use std::collections::HashSet;

use serde::Deserialize;

use crate::account::{Account, Role};
use crate::control::{Change, ControlError, Expected};
use crate::local::Local;
use crate::record::Kind;

/// Of a record whose it is.
#[derive(Deserialize)]
struct Owned {
    owner: Option<String>,
}

/// The changes that go with these. An account that goes takes its tokens and its sessions along; with a new password it ends what the API's `/session`
/// gave for the old one (a page's sessions end by any change). A domain takes along its name in accounts of the administrators', which would have a
/// right to whatever comes by that name; in accounts of resellers it is a right to the reseller's own only.
pub(crate) fn of(changes: &[Change], local: &Local) -> Vec<Change> {
    let gone = |of: Kind| -> HashSet<&str> {
        let deleted = changes.iter().filter(|change| change.kind == of && change.body.is_none());
        deleted.map(|change| change.key.as_str()).collect()
    };
    let delete = |kind, key: &str| Change { kind, key: key.to_owned(), expected: Expected::Anything, body: None };
    let (accounts, domains) = (gone(Kind::Account), gone(Kind::Domain));
    let mut more = Vec::new();
    if !accounts.is_empty() {
        let tokens = local.tokens().values().map(|record| &record.value);
        let of_them = tokens.filter(|token| accounts.contains(token.account.as_str()));
        more.extend(of_them.map(|token| delete(Kind::Token, &token.id)));
        let sessions = local.sessions().values().map(|record| &record.value);
        let is_theirs = |name: &str| accounts.contains(name);
        let of_them = sessions.filter(|s| is_theirs(&s.account) || s.by.as_deref().is_some_and(is_theirs));
        more.extend(of_them.map(|session| delete(Kind::Session, &session.id)));
    }
    for change in changes.iter().filter(|change| change.kind == Kind::Account) {
        let new = change.body.as_deref().and_then(|body| serde_json::from_str::<Account>(body).ok());
        let old = local.accounts().get(&change.key);
        if let (Some(new), Some(old)) = (new, old)
            && new.password != old.value.password
        {
            let tokens = local.tokens().values().map(|record| &record.value);
            let sessions = tokens.filter(|token| token.session && token.account == change.key);
            more.extend(sessions.map(|token| delete(Kind::Token, &token.id)));
        }
    }
    if !domains.is_empty() {
        let names_one = |account: &Account| account.domains.iter().any(|name| domains.contains(name.as_str()));
        let named = local.accounts().values().map(|record| &record.value);
        for account in named.filter(|account| account.role == Role::Domain && account.owner.is_none()) {
            let is_changed = changes.iter().any(|change| change.kind == Kind::Account && change.key == account.name);
            if is_changed || !names_one(account) {
                continue;
            }
            let mut account = account.clone();
            account.domains.retain(|name| !domains.contains(name.as_str()));
            let body = serde_json::to_string(&account).ok();
            more.push(Change { kind: Kind::Account, key: account.name, expected: Expected::Anything, body });
        }
    }
    more
}

/// Whether everything has its owner afterwards.
///
/// # Errors
/// Where an owner is not there, and where an account that goes owns something.
pub(crate) fn check_owners(changes: &[Change], local: &Local) -> Result<(), ControlError> {
    let changed: HashSet<(Kind, &str)> = changes.iter().map(|change| (change.kind, change.key.as_str())).collect();
    for change in changes {
        match (change.kind, &change.body) {
            (Kind::Domain | Kind::Account, Some(body)) => {
                let owner = serde_json::from_str::<Owned>(body).ok().and_then(|owned| owned.owner);
                let Some(owner) = owner else { continue };
                let is_there = match changes.iter().rfind(|c| c.kind == Kind::Account && c.key == owner) {
                    Some(change) => change.body.is_some(),
                    None => local.accounts().contains_key(&owner),
                };
                if !is_there {
                    return Err(ControlError::NoOwner { owner });
                }
            }
            (Kind::Account, None) => {
                let owns = |kind, key: &String, owner: &Option<String>| {
                    owner.as_deref() == Some(change.key.as_str()) && !changed.contains(&(kind, key.as_str()))
                };
                let domain = local.domains().iter().any(|(key, record)| owns(Kind::Domain, key, &record.value.owner));
                let mut accounts = local.accounts().iter();
                if domain || accounts.any(|(key, record)| owns(Kind::Account, key, &record.value.owner)) {
                    return Err(ControlError::Owns { key: change.key.clone() });
                }
            }
            _ => {}
        }
    }
    Ok(())
}
