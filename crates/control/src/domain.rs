//! A domain as an administrator writes it: what it says itself; the rest comes from the configuration's defaults.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use callahead_callout::{Hop, Host, Route, TlsPolicy};
use callahead_engine::{AcceptOrDefer, Callouts, DomainConfig, LoggedRecipients, Policy, RejectOrDefer};
use callahead_smtp::{AddressLiteral, Domain, Recipient};
use serde::{Deserialize, Serialize};

use crate::units::{format_duration, parse_duration};

/// Entries in each of a domain's lists.
pub const MAX_LIST: usize = 10_000;
/// Days for which decisions can be logged.
pub const MAX_LOG_DAYS: u32 = 3650;
/// Hosts in a route.
pub const MAX_ROUTE: usize = 20;
/// The ports that routes may have which no administrator writes: SMTP's, and those that mail servers are moved to. With any port a route
/// would be a way to scan others.
pub const TENANT_PORTS: [u16; 5] = [25, 26, 587, 2525, 2526];

const HOUR: Duration = Duration::from_secs(3600);
/// The names of what is logged of recipients.
const LOGGED: [(&str, LoggedRecipients); 2] = [("full", LoggedRecipients::Full), ("domain", LoggedRecipients::Domain)];

/// A domain's record, with the keys and values of a `[[domain]]` in the configuration file. What is absent is as in `[defaults]`.
///
/// A version that does not know a key can't use the domain, and defers its recipients. So a key, or a word for one, that is added here needs a step of the
/// control database's migrations, an empty one will do: then an older version refuses the whole file with a sentence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainSpec {
    /// `example.com`, or `*.example.com` for all its subdomains.
    pub name: String,
    /// The reseller whose domain it is; absent for the administrators' own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Since when it is its owner's, in milliseconds since 1970: since it was added, or given to another. What was logged before is no affair of
    /// whoever has it now. Absent where an older version wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owned_since: Option<u64>,
    /// Where its destination is, tried in order: `mx`, `HOST`, `HOST:PORT`; 1 to [`MAX_ROUTE`].
    pub route: Vec<String>,
    /// Where the gateway delivers its mail, in the same words; empty is the route.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relay: Vec<String>,
    /// `off`, `opportunistic`, `required` or `verified`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<String>,
    /// `enforce`, `observe` or `off`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callouts: Option<String>,
    /// 550 or 450.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reject_code: Option<u16>,
    /// 1 min to 30 d.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_ttl: Option<String>,
    /// 1 min to 30 d.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_refresh: Option<String>,
    /// 1 s to 2 h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invalid_ttl: Option<String>,
    /// 1 s to 2 h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invalid_refresh: Option<String>,
    /// `accept` or `defer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept_all: Option<String>,
    /// `accept` or `defer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unverifiable: Option<String>,
    /// `defer` or `accept`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tempfail: Option<String>,
    /// `reject` or `defer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_rejects: Option<String>,
    /// Whether senders see the destination's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pass_reply_text: Option<bool>,
    /// `keep` or `fold`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_part_case: Option<String>,
    /// 0 to [`MAX_LOG_DAYS`]; what is more than the node's `log.days` is as that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_days: Option<u32>,
    /// `full` or `domain`; where the node's `log.recipients` is `domain`, it is that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_recipients: Option<String>,
    /// Local parts that exist whatever the destination says; at most [`MAX_LIST`].
    #[serde(default)]
    pub valid: Vec<String>,
    /// Local parts that do not exist; at most [`MAX_LIST`].
    #[serde(default)]
    pub invalid: Vec<String>,
}

impl DomainSpec {
    /// The name in its one form: lower case, A-labels, `*.` kept.
    ///
    /// # Errors
    /// A sentence on what is wrong.
    pub fn canonical_name(name: &str) -> Result<String, String> {
        let (star, rest) = match name.strip_prefix("*.") {
            Some(rest) => ("*.", rest),
            None => ("", name),
        };
        let domain = Domain::parse(rest).map_err(|error| format!("{name:?} is no domain: {error}"))?;
        if !star.is_empty() && domain.name().is_none() {
            return Err(format!("{name:?} is no domain: an address literal has no subdomains"));
        }
        Ok(format!("{star}{domain}"))
    }

    /// The keys that the domain says itself, besides name, owner, route, relay and lists.
    pub fn own_keys(&self) -> Vec<&'static str> {
        self.policy_keys().into_iter().filter(|(_, is_given)| *is_given).map(|(key, _)| key).collect()
    }

    /// Whether a domain can say something by this key.
    pub fn is_key(key: &str) -> bool {
        matches!(key, "name" | "owner" | "route" | "relay" | "valid" | "invalid")
            || Self::default().policy_keys().iter().any(|(known, _)| *known == key)
    }

    fn policy_keys(&self) -> [(&'static str, bool); 15] {
        [
            ("tls", self.tls.is_some()),
            ("callouts", self.callouts.is_some()),
            ("reject_code", self.reject_code.is_some()),
            ("valid_ttl", self.valid_ttl.is_some()),
            ("valid_refresh", self.valid_refresh.is_some()),
            ("invalid_ttl", self.invalid_ttl.is_some()),
            ("invalid_refresh", self.invalid_refresh.is_some()),
            ("accept_all", self.accept_all.is_some()),
            ("unverifiable", self.unverifiable.is_some()),
            ("tempfail", self.tempfail.is_some()),
            ("policy_rejects", self.policy_rejects.is_some()),
            ("pass_reply_text", self.pass_reply_text.is_some()),
            ("local_part_case", self.local_part_case.is_some()),
            ("log_days", self.log_days.is_some()),
            ("log_recipients", self.log_recipients.is_some()),
        ]
    }

    /// What the engine wants, with what is absent taken from the defaults.
    ///
    /// # Errors
    /// A sentence that names the key and says what is wrong.
    pub fn to_config(&self, defaults: &Policy, tls: TlsPolicy) -> Result<DomainConfig, String> {
        let name = Self::canonical_name(&self.name).map_err(|why| format!("name: {why}"))?;
        if self.route.is_empty() || self.route.len() > MAX_ROUTE {
            return Err(format!("route: name 1 to {MAX_ROUTE} hosts, or \"mx\""));
        }
        if self.relay.len() > MAX_ROUTE {
            return Err(format!("relay: name at most {MAX_ROUTE} hosts, or \"mx\""));
        }
        let hops = |key: &str, texts: &[String]| -> Result<Vec<Hop>, String> {
            texts.iter().map(|text| text.parse::<Hop>().map_err(|error| format!("{key}: {error}"))).collect()
        };
        let tls = match &self.tls {
            Some(text) => text.parse::<TlsPolicy>().map_err(|why| format!("tls: {why}"))?,
            None => tls,
        };
        let policy = self.policy(defaults)?;
        let (valid, invalid) = self.lists(policy.fold_local_part)?;
        let route = Route { hops: hops("route", &self.route)?, tls };
        let relay = Route { hops: hops("relay", &self.relay)?, tls };
        let relay = (!relay.hops.is_empty()).then(|| Arc::new(relay));
        Ok(DomainConfig { relay, policy, valid, invalid, ..DomainConfig::new(&name, route) })
    }

    /// Whether a route or a relay stays within what those may write who are no administrators: only [`TENANT_PORTS`]. `key` is which of the two.
    ///
    /// # Errors
    /// A sentence that names the hop.
    pub fn check_tenant_route(key: &str, route: &Route) -> Result<(), String> {
        for hop in &route.hops {
            if let Hop::Host { port, .. } = hop
                && !TENANT_PORTS.contains(port)
            {
                let ports: Vec<String> = TENANT_PORTS.iter().map(ToString::to_string).collect();
                return Err(format!(
                    "{key}: {hop} has a port that only an administrator may set; take one of {}",
                    ports.join(", ")
                ));
            }
        }
        Ok(())
    }

    /// Whether a domain's name is one that somebody can have below a registry: what those may add who are no administrators. No public suffix (`com`,
    /// `co.uk`, also a private one such as `github.io`), no single label (`lan`), no wildcard below one of these, and no address literal: names
    /// that others register below it, or that nobody can show to be theirs.
    ///
    /// # Errors
    /// A sentence that names what it is.
    pub fn check_tenant_name(name: &str) -> Result<(), String> {
        if name.starts_with('[') {
            return Err(format!("name: {name} is an address literal, which only an administrator may add"));
        }
        let (whole, covers) = match name.strip_prefix("*.") {
            Some(parent) => (parent, true),
            None => (name, false),
        };
        // Of some suffixes the list has only the names below (`*.kawasaki.jp`): the wildcard would take them all. A name that is in no line of the list
        // has its last label as its suffix, by the list's own rule.
        let below = format!("callahead.{whole}");
        let is_suffix = |name: &str| psl::suffix(name.as_bytes()).is_none_or(|suffix| suffix == name.as_bytes());
        let has_others_below = is_suffix(whole) || (covers && is_suffix(&below));
        if !has_others_below {
            return Ok(());
        }
        let what = if covers { "covers the names below" } else { "is" };
        Err(format!(
            "name: {name:?} {what} a public suffix or a single label, below which names are others', so only an administrator may add it; \
             add the domain below it that is yours"
        ))
    }

    /// The addresses that stand in a route as such.
    pub fn literal_addresses(route: &Route) -> impl Iterator<Item = (std::net::IpAddr, u16)> + '_ {
        route.hops.iter().filter_map(|hop| match hop {
            Hop::Host { host: Host::Address(ip), port } => Some((*ip, *port)),
            _ => None,
        })
    }

    fn policy(&self, defaults: &Policy) -> Result<Policy, String> {
        use AcceptOrDefer::{Accept, Defer};
        let or_defer = [("accept", Accept), ("defer", Defer)];
        let mut policy = defaults.clone();
        let callouts = [("enforce", Callouts::Enforce), ("observe", Callouts::Observe), ("off", Callouts::Off)];
        choose(&mut policy.callouts, "callouts", self.callouts.as_deref(), &callouts)?;
        match self.reject_code {
            None => {}
            Some(code @ (550 | 450)) => policy.reject_code = code,
            Some(other) => return Err(format!("reject_code: {other} is neither 550 nor 450")),
        }
        within(&mut policy.valid_ttl, "valid_ttl", self.valid_ttl.as_deref(), HOUR / 60, HOUR * 720)?;
        within(&mut policy.valid_refresh, "valid_refresh", self.valid_refresh.as_deref(), HOUR / 60, HOUR * 720)?;
        let (second, most) = (Duration::from_secs(1), callahead_cache::MAX_INVALID_AGE);
        within(&mut policy.invalid_ttl, "invalid_ttl", self.invalid_ttl.as_deref(), second, most)?;
        within(&mut policy.invalid_refresh, "invalid_refresh", self.invalid_refresh.as_deref(), second, most)?;
        choose(&mut policy.accept_all, "accept_all", self.accept_all.as_deref(), &or_defer)?;
        choose(&mut policy.unverifiable, "unverifiable", self.unverifiable.as_deref(), &or_defer)?;
        choose(&mut policy.tempfail, "tempfail", self.tempfail.as_deref(), &or_defer)?;
        let rejects = [("reject", RejectOrDefer::Reject), ("defer", RejectOrDefer::Defer)];
        choose(&mut policy.policy_rejects, "policy_rejects", self.policy_rejects.as_deref(), &rejects)?;
        policy.pass_reply_text = self.pass_reply_text.unwrap_or(policy.pass_reply_text);
        let case = [("keep", false), ("fold", true)];
        choose(&mut policy.fold_local_part, "local_part_case", self.local_part_case.as_deref(), &case)?;
        match self.log_days {
            None => {}
            // The node's own is the bound, and may become lower after this was written.
            Some(days @ 0..=MAX_LOG_DAYS) => policy.log_days = policy.log_days.min(days),
            Some(other) => return Err(format!("log_days: {other} is not a number from 0 to {MAX_LOG_DAYS}")),
        }
        let mut logged = policy.log_recipients;
        choose(&mut logged, "log_recipients", self.log_recipients.as_deref(), &LOGGED)?;
        policy.log_recipients = policy.log_recipients.stricter(logged);
        Ok(policy)
    }

    fn lists(&self, fold: bool) -> Result<(HashSet<String>, HashSet<String>), String> {
        for (key, list) in [("valid", &self.valid), ("invalid", &self.invalid)] {
            if list.len() > MAX_LIST {
                return Err(format!("{key}: has {} local parts; {MAX_LIST} at most", list.len()));
            }
        }
        let read = |key: &str, text: &str| -> Result<String, String> {
            let nowhere = Domain::Literal(AddressLiteral::V4([127, 0, 0, 1].into()));
            Recipient::new(text, nowhere)
                .map(|recipient| recipient.local_part().to_owned())
                .map_err(|error| format!("{key}: {text:?} is no local part (what stands before the @): {error}"))
        };
        let valid: HashSet<String> = self
            .valid
            .iter()
            .map(|text| read("valid", text).map(|local| local.to_lowercase()))
            .collect::<Result<_, _>>()?;
        let invalid: HashSet<String> = self
            .invalid
            .iter()
            .map(|text| read("invalid", text).map(|local| if fold { local.to_lowercase() } else { local }))
            .collect::<Result<_, _>>()?;
        match invalid.iter().find(|local| valid.contains(&local.to_lowercase())) {
            Some(both) => Err(format!("invalid: {both:?} is in \"valid\" too; take it out of one of them")),
            None => Ok((valid, invalid)),
        }
    }
}

fn choose<T: Copy>(place: &mut T, key: &str, given: Option<&str>, choices: &[(&str, T)]) -> Result<(), String> {
    let Some(word) = given else { return Ok(()) };
    match choices.iter().find(|(name, _)| *name == word) {
        Some((_, choice)) => *place = *choice,
        None => {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            return Err(format!("{key}: {word:?} is not one of {}", names.join(", ")));
        }
    }
    Ok(())
}

fn within(place: &mut Duration, key: &str, given: Option<&str>, least: Duration, most: Duration) -> Result<(), String> {
    let Some(text) = given else { return Ok(()) };
    let duration = parse_duration(text).map_err(|why| format!("{key}: {why}"))?;
    if duration < least || duration > most {
        let (given, least, most) = (format_duration(duration), format_duration(least), format_duration(most));
        return Err(format!("{key}: {given} is not between {least} and {most}"));
    }
    *place = duration;
    Ok(())
}
