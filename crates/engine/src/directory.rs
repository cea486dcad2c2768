//! The domains that are configured here, and their policies.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use callahead_callout::Route;
use callahead_smtp::{Domain, Recipient};

/// What is configured of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainConfig {
    /// `example.com`, or `*.example.com` for all its subdomains; in lower case.
    pub name: String,
    /// Where its destination is.
    pub route: Arc<Route>,
    /// Where the gateway sends its mail; `None` is the route. A content filter, say, that stands before the destination.
    pub relay: Option<Arc<Route>>,
    /// What is answered when.
    pub policy: Policy,
    /// Local parts that exist, in lower case: compared without regard to case, since accepting is the safe side.
    pub valid: HashSet<String>,
    /// Local parts that do not exist: compared as they are, or in lower case where the policy folds local parts.
    pub invalid: HashSet<String>,
}

/// Whether the destination is asked, and whether what it says counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Callouts {
    /// Asked, and recipients that do not exist are rejected.
    Enforce,
    /// Asked and logged, and everything is accepted.
    Observe,
    /// Not asked; everything is accepted.
    Off,
}

/// What is done where the destination can't tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AcceptOrDefer {
    /// Accept.
    Accept,
    /// Tell the sender to try again.
    Defer,
}

/// What is done about a refusal that talks of the filter rather than of the recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RejectOrDefer {
    /// Take it for what it is: a 5xx to the recipient.
    Reject,
    /// Tell the sender to try again.
    Defer,
}

/// What of recipients the decision log keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoggedRecipients {
    /// The whole address.
    Full,
    /// Only the domain, as `*@example.com`, and no words of the destination, which may name the mailbox.
    Domain,
}

/// What is answered when, for how long answers are kept, and what is logged. `Default` has the documented values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether the destination is asked.
    pub callouts: Callouts,
    /// 550, or 450 for a trial: senders try again.
    pub reject_code: u16,
    /// How long a Valid is kept. Default 96 h.
    pub valid_ttl: Duration,
    /// After which age a Valid is asked again in the background. Default 12 h.
    pub valid_refresh: Duration,
    /// How long an Invalid is kept, at most 2 h. Default 2 h.
    pub invalid_ttl: Duration,
    /// After which age an Invalid is asked again in the background. Default 30 min.
    pub invalid_refresh: Duration,
    /// What is answered where the destination accepts every local part. Default accept.
    pub accept_all: AcceptOrDefer,
    /// What is answered where the destination refuses the null sender. Default accept.
    pub unverifiable: AcceptOrDefer,
    /// What is answered while the destination can't be asked. Default defer.
    pub tempfail: AcceptOrDefer,
    /// What is answered to a refusal that talks of the filter. Default reject.
    pub policy_rejects: RejectOrDefer,
    /// Whether the destination's words are passed on to the sender. Default no.
    pub pass_reply_text: bool,
    /// Whether local parts that differ by case only are one mailbox. Default no.
    pub fold_local_part: bool,
    /// Days for which the decision log keeps what was decided; 0 logs none. Never more than the node's own. Default 30.
    pub log_days: u32,
    /// What of recipients is logged; never more than the node's own setting allows. Default all of it.
    pub log_recipients: LoggedRecipients,
}

impl LoggedRecipients {
    /// The one of the two that tells less.
    pub fn stricter(self, other: Self) -> Self {
        if self == Self::Full { other } else { self }
    }
}

/// The configured domains. The longest match wins: a name before any wildcard, a longer wildcard before a shorter one.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    /// By name; wildcards without their `*.`.
    names: HashMap<String, Arc<DomainConfig>>,
    wildcards: HashMap<String, Arc<DomainConfig>>,
}

/// Two domains of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuplicateDomain(pub String);

impl Default for Policy {
    fn default() -> Self {
        const HOUR: u64 = 3600;
        Self {
            callouts: Callouts::Enforce,
            reject_code: 550,
            valid_ttl: Duration::from_secs(96 * HOUR),
            valid_refresh: Duration::from_secs(12 * HOUR),
            invalid_ttl: callahead_cache::MAX_INVALID_AGE,
            invalid_refresh: Duration::from_secs(HOUR / 2),
            accept_all: AcceptOrDefer::Accept,
            unverifiable: AcceptOrDefer::Accept,
            tempfail: AcceptOrDefer::Defer,
            policy_rejects: RejectOrDefer::Reject,
            pass_reply_text: false,
            fold_local_part: false,
            log_days: 30,
            log_recipients: LoggedRecipients::Full,
        }
    }
}

impl DomainConfig {
    /// A domain with the default policy and no lists.
    pub fn new(name: &str, route: Route) -> Self {
        // As `find` looks for it: of an address literal the tag is in capitals.
        let name = Domain::parse(name).map_or_else(|_| name.to_ascii_lowercase(), |domain| domain.to_string());
        Self {
            name,
            route: Arc::new(route),
            relay: None,
            policy: Policy::default(),
            valid: HashSet::new(),
            invalid: HashSet::new(),
        }
    }

    /// What the lists say of a recipient.
    pub(crate) fn listed(&self, recipient: &Recipient) -> Option<bool> {
        if !self.valid.is_empty() && self.valid.contains(&recipient.local_part().to_lowercase()) {
            return Some(true);
        }
        self.invalid.contains(recipient.local_part()).then_some(false)
    }
}

impl Directory {
    /// The domains as they are found later.
    ///
    /// # Errors
    /// The name that stands there twice.
    pub fn new(domains: impl IntoIterator<Item = DomainConfig>) -> Result<Self, DuplicateDomain> {
        let mut directory = Self::default();
        for domain in domains {
            let (table, name) = match domain.name.strip_prefix("*.") {
                Some(name) => (&mut directory.wildcards, name.to_owned()),
                None => (&mut directory.names, domain.name.clone()),
            };
            if table.contains_key(&name) {
                return Err(DuplicateDomain(domain.name));
            }
            table.insert(name, Arc::new(domain));
        }
        Ok(directory)
    }

    /// The domains as they are found later, from configurations that are kept elsewhere too; of two with one name the later one counts.
    pub fn from_shared(domains: impl IntoIterator<Item = Arc<DomainConfig>>) -> Self {
        let mut directory = Self::default();
        for domain in domains {
            match domain.name.strip_prefix("*.") {
                Some(name) => directory.wildcards.insert(name.to_owned(), domain),
                None => directory.names.insert(domain.name.clone(), domain),
            };
        }
        directory
    }

    /// The configuration that covers a domain.
    pub fn find(&self, domain: &Domain) -> Option<&Arc<DomainConfig>> {
        let Some(name) = domain.name() else { return self.names.get(&domain.to_string()) };
        if let Some(found) = self.names.get(name.as_str()) {
            return Some(found);
        }
        let mut parent = name.parent();
        while let Some(name) = parent {
            if let Some(found) = self.wildcards.get(name) {
                return Some(found);
            }
            parent = name.split_once('.').map(|(_, rest)| rest);
        }
        None
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<DomainConfig>> {
        self.names.values().chain(self.wildcards.values())
    }
}

impl std::fmt::Display for DuplicateDomain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the domain {} is configured twice", self.0)
    }
}

impl std::error::Error for DuplicateDomain {}
