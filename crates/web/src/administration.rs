//! What the API works on besides the engine: the control plane, the decision log, and the feed of events.

use std::sync::Arc;

use callahead_cache::Timestamp;
use callahead_callout::Guard;
use callahead_control::{Control, DecisionLog, Domains, Passwords, Principal};
use callahead_engine::Engine;
use callahead_smtp::Domain;
use tokio_util::sync::CancellationToken;

use crate::events::Events;
use crate::throttle::Throttle;

/// The control plane as the API sees it. Clones share everything.
#[derive(Clone, Debug)]
pub struct Administration {
    /// Domains, accounts, tokens, audit log.
    pub control: Control,
    /// The domains in force.
    pub domains: Arc<Domains>,
    /// The decision log.
    pub log: DecisionLog,
    /// What happens, for those who watch.
    pub events: Events,
    /// Which addresses routes may lead to.
    pub guard: Guard,
    /// Hashes passwords.
    pub passwords: Passwords,
    /// This node's name.
    pub node: Arc<str>,
    /// Ends what would otherwise never end: streams of events.
    pub shutdown: CancellationToken,
    /// Who failed to be let in too often.
    pub throttle: Throttle,
}

/// Whose a domain is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ownership {
    /// The name under which it is configured: with `*.` where a wildcard covers it.
    pub(crate) name: String,
    /// The reseller whose record it is.
    pub(crate) owner: Option<String>,
    /// Since when.
    pub(crate) since: Timestamp,
}

impl Administration {
    /// Whose the domain of a recipient is; `None` where it is not configured.
    pub(crate) fn ownership(&self, engine: &Engine, domain: &Domain) -> Option<Ownership> {
        Some(self.ownership_of(engine.directory().find(domain)?.name.clone()))
    }

    /// Whose a configured domain is, by its own name. The file's domains belong to the administrators, also where a record has the name.
    pub(crate) fn ownership_of(&self, name: String) -> Ownership {
        let in_file = self.domains.is_in_file(&name);
        let local = self.control.local();
        let record = local.domains().get(&name).filter(|_| !in_file);
        let (owner, since) =
            record.map(|record| (record.value.owner.clone(), record.value.owned_since)).unwrap_or_default();
        Ownership { name, owner, since: Timestamp(since.unwrap_or_default()) }
    }

    /// The owner of a configured domain by its own name.
    pub(crate) fn owner(&self, name: &str) -> Option<String> {
        self.ownership_of(name.to_owned()).owner
    }

    /// Whether somebody may see what concerns recipients of a domain. Administrators see those too that are not configured.
    pub(crate) fn sees(&self, principal: &Principal, engine: &Engine, domain: &Domain) -> bool {
        self.sees_since(principal, engine, domain).is_some()
    }

    /// From when on: what was logged before the domain was theirs is others' affair, or nobody's.
    pub(crate) fn sees_since(&self, principal: &Principal, engine: &Engine, domain: &Domain) -> Option<Timestamp> {
        if principal.is_admin() {
            return Some(Timestamp(0));
        }
        let ownership = self.ownership(engine, domain)?;
        principal.owns_domain(&ownership.name, ownership.owner.as_deref()).then_some(ownership.since)
    }
}
