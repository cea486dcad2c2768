//! What the API shows of the cache, the destinations and the domains, as JSON.

use std::time::Duration;

use callahead_cache::{
    DomainState, Entry, EntryState, RecipientState, Record, STALE_FOR, State, StoredReply, Timestamp,
};
use callahead_callout::{DestinationStatus, HostTest, Route, TestedStep, TlsPolicy, Who};
use callahead_engine::{
    AcceptOrDefer, Callouts, Directory, DomainConfig, LoggedRecipients, Policy, RejectOrDefer, rfc3339,
};
use callahead_smtp::Domain;
use serde_json::{Map, Value, json};

pub(crate) const STATES: [(&str, EntryState); 6] = [
    ("valid", EntryState::Recipient(RecipientState::Valid)),
    ("invalid", EntryState::Recipient(RecipientState::Invalid)),
    ("accept_all", EntryState::Domain(DomainState::AcceptAll)),
    ("not_accept_all", EntryState::Domain(DomainState::NotAcceptAll)),
    ("refuses_null_sender", EntryState::Domain(DomainState::RefusesNullSender)),
    ("null_mx", EntryState::Domain(DomainState::NullMx)),
];

pub(crate) fn state_name(state: EntryState) -> &'static str {
    STATES.iter().find(|(_, other)| *other == state).map_or("unknown", |(name, _)| name)
}

/// One entry of the cache. Expiry and freshness are by what was configured when it was kept and by what is configured
/// now, whichever ends earlier: as the engine serves it.
pub(crate) fn entry(entry: &Entry, directory: &Directory, now: Timestamp) -> Value {
    let mut json = Map::new();
    let state = entry.state();
    let (name, key) = match entry {
        Entry::Recipient(address, _) => ("recipient", address),
        Entry::Domain(domain, _) => ("domain", domain),
    };
    json.insert(name.into(), json!(key));
    json.insert("state".into(), json!(state_name(state)));
    let domain = key.rsplit('@').next().and_then(|domain| Domain::parse(domain).ok());
    let policy = domain.and_then(|domain| directory.find(&domain).map(|config| config.policy.clone()));
    let ttl = policy.map_or(Duration::MAX, |policy| ttl(state, &policy));
    match entry {
        Entry::Recipient(_, record) => times(&mut json, record, ttl, now),
        Entry::Domain(_, record) => times(&mut json, record, ttl, now),
    }
    Value::Object(json)
}

fn ttl(state: EntryState, policy: &Policy) -> Duration {
    match state {
        EntryState::Recipient(RecipientState::Valid) | EntryState::Domain(DomainState::AcceptAll) => policy.valid_ttl,
        EntryState::Recipient(RecipientState::Invalid) | EntryState::Domain(DomainState::NullMx) => policy.invalid_ttl,
        EntryState::Domain(DomainState::NotAcceptAll) => policy.valid_refresh,
        EntryState::Domain(DomainState::RefusesNullSender) => callahead_cache::MAX_INVALID_AGE,
    }
}

fn times<S: State>(json: &mut Map<String, Value>, record: &Record<S>, ttl: Duration, now: Timestamp) {
    let expires_at = record.end().min(record.checked_at.after(ttl));
    let freshness = if now >= record.checked_at && now < expires_at {
        "fresh"
    } else if record.state.speaks_for() && now >= expires_at && now < record.end().after(STALE_FOR) {
        "stale"
    } else {
        "expired"
    };
    json.insert("freshness".into(), json!(freshness));
    json.insert("checked_at".into(), json!(rfc3339(record.checked_at)));
    json.insert("expires_at".into(), json!(rfc3339(expires_at)));
    if !record.destination.is_empty() {
        json.insert("destination".into(), json!(record.destination));
    }
    if let Some(StoredReply { code, enhanced, text }) = &record.reply {
        let mut reply = Map::new();
        reply.insert("code".into(), json!(code));
        if let Some(enhanced) = enhanced {
            reply.insert("enhanced".into(), json!(enhanced.to_string()));
        }
        reply.insert("text".into(), json!(text));
        json.insert("reply".into(), Value::Object(reply));
    }
}

/// A host that is asked.
pub(crate) fn destination(status: &DestinationStatus) -> Value {
    let mut json = json!({
        "host": status.host,
        "sessions": status.sessions,
        "idle": status.idle,
        "waiting": status.waiting,
        "breaker": if status.open_for.is_some() { "open" } else { "closed" },
        "connections": status.connections,
        "callouts": status.questions,
        "rejected": status.rejected,
        "failures": status.failures,
    });
    if let Some(open_for) = status.open_for {
        json["retry_in_ms"] = json!(u64::try_from(open_for.as_millis()).unwrap_or(u64::MAX));
    }
    if let Some(uses) = status.learned_uses {
        json["learned_uses"] = json!(uses);
    }
    if let Some(failure) = &status.last_failure {
        json["last_failure"] = json!(failure);
    }
    json
}

/// A host that was tested.
pub(crate) fn tested_host(host: &HostTest) -> Value {
    let steps: Vec<Value> = host.steps.iter().map(tested_step).collect();
    let transcript: Vec<Value> = host
        .transcript
        .lines()
        .map(|line| {
            let who = match line.who {
                Who::Us => "us",
                Who::Them => "them",
                Who::Note => "note",
            };
            let ms = (line.at.as_secs_f64() * 1e6).round() / 1e3;
            json!({"ms": ms, "who": who, "line": String::from_utf8_lossy(line.line)})
        })
        .collect();
    let mut json = json!({"host": host.host, "steps": steps, "transcript": transcript});
    if let Some(accept_all) = host.accept_all {
        json["accept_all"] = json!(accept_all);
    }
    if let Some(relays) = host.relays {
        json["relays"] = json!(relays);
    }
    json
}

/// A step of a test.
pub(crate) fn tested_step(step: &TestedStep) -> Value {
    let ms = (step.took.as_secs_f64() * 1e6).round() / 1e3;
    json!({"step": step.step.as_str(), "ok": step.ok, "warning": step.warning, "ms": ms, "detail": step.detail})
}

/// A configured domain, with the keys and values of the configuration file.
pub(crate) fn domain(config: &DomainConfig) -> Value {
    let sorted = |names: &std::collections::HashSet<String>| {
        let mut names: Vec<_> = names.iter().collect();
        names.sort_unstable();
        json!(names)
    };
    let mut json = without_lists(config);
    (json["valid"], json["invalid"]) = (sorted(&config.valid), sorted(&config.invalid));
    json
}

/// The same with the lengths of its lists in their place: a page of domains would be too large with them.
pub(crate) fn domain_counted(config: &DomainConfig) -> Value {
    let mut json = without_lists(config);
    (json["valid_count"], json["invalid_count"]) = (json!(config.valid.len()), json!(config.invalid.len()));
    json
}

fn without_lists(config: &DomainConfig) -> Value {
    let policy = &config.policy;
    let or_defer = |choice| if choice == AcceptOrDefer::Accept { "accept" } else { "defer" };
    let hops = |route: &Route| route.hops.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut json = json!({
        "name": config.name,
        "route": hops(&config.route),
        "tls": match config.route.tls {
            TlsPolicy::Off => "off",
            TlsPolicy::Opportunistic => "opportunistic",
            TlsPolicy::Required => "required",
            TlsPolicy::Verified => "verified",
        },
        "callouts": match policy.callouts {
            Callouts::Enforce => "enforce",
            Callouts::Observe => "observe",
            Callouts::Off => "off",
        },
        "reject_code": policy.reject_code,
        "valid_ttl": duration(policy.valid_ttl),
        "valid_refresh": duration(policy.valid_refresh),
        "invalid_ttl": duration(policy.invalid_ttl),
        "invalid_refresh": duration(policy.invalid_refresh),
        "accept_all": or_defer(policy.accept_all),
        "unverifiable": or_defer(policy.unverifiable),
        "tempfail": or_defer(policy.tempfail),
        "policy_rejects": if policy.policy_rejects == RejectOrDefer::Reject { "reject" } else { "defer" },
        "pass_reply_text": policy.pass_reply_text,
        "local_part_case": if policy.fold_local_part { "fold" } else { "keep" },
        "log_days": policy.log_days,
        "log_recipients": match policy.log_recipients {
            LoggedRecipients::Full => "full",
            LoggedRecipients::Domain => "domain",
        },
        "read_only": true,
    });
    if let Some(relay) = &config.relay {
        json["relay"] = json!(hops(relay));
    }
    json
}

/// As the configuration writes it, in the largest unit that divides it: `96h`, `30m`, `1500ms`.
fn duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    for (unit, length) in [("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
        if milliseconds > 0 && milliseconds.is_multiple_of(length) {
            return format!("{}{unit}", milliseconds / length);
        }
    }
    format!("{milliseconds}ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_the_configuration_takes_them() {
        for (given, text) in [(345_600_000, "96h"), (1_800_000, "30m"), (90_000, "90s"), (1500, "1500ms"), (0, "0ms")] {
            assert_eq!(duration(Duration::from_millis(given)), text);
        }
    }
}
