//! The configuration in force, as TOML that gives the same configuration again.

use std::fmt::Write as _;

use callahead_callout::TlsPolicy;
use callahead_control::LoggedRecipients;
use callahead_engine::{AcceptOrDefer, Callouts, Policy, RejectOrDefer};
use callahead_listeners::Listen;

use super::{Config, format_duration};

impl Config {
    /// The whole configuration with all defaults filled in.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        line(&mut out, "node", quoted(&self.node.to_string()));
        line(&mut out, "data_dir", quoted(&self.data_dir.display().to_string()));
        out.push_str("\n[listen]\n");
        for (key, listens) in [
            ("policy", &self.listen.policy),
            ("socketmap", &self.listen.socketmap),
            ("http", &self.listen.http),
            ("admin", &self.listen.admin),
        ] {
            line(&mut out, key, list(listens.iter().map(Listen::to_string)));
        }
        out.push_str("\n[resolver]\n");
        line(&mut out, "servers", list(self.resolver.iter().map(ToString::to_string)));
        out.push_str("\n[log]\n");
        line(&mut out, "days", self.log.days.to_string());
        line(&mut out, "size", quoted(&super::format_size(self.log.size)));
        let recipients = match self.log.recipients {
            LoggedRecipients::Full => "full",
            LoggedRecipients::Domain => "domain",
        };
        line(&mut out, "recipients", quoted(recipients));
        out.push_str("\n[callout]\n");
        line(&mut out, "timeout", quoted(&format_duration(self.callout.timeout)));
        line(&mut out, "connect_timeout", quoted(&format_duration(self.callout.connect_timeout)));
        line(&mut out, "idle", quoted(&format_duration(self.callout.idle)));
        line(&mut out, "uses", self.callout.uses.to_string());
        line(&mut out, "sessions_per_destination", self.callout.sessions_per_destination.to_string());
        line(&mut out, "deny_destinations", list(self.callout.deny_destinations.iter().map(ToString::to_string)));
        out.push_str("\n[harvest]\n");
        line(&mut out, "limit", self.harvest.limit.to_string());
        line(&mut out, "window", quoted(&format_duration(self.harvest.window)));
        out.push_str("\n[defaults]\n");
        policy(&mut out, &self.defaults, self.tls);
        for domain in &self.domains {
            out.push_str("\n[[domain]]\n");
            line(&mut out, "name", quoted(&domain.name));
            line(&mut out, "route", list(domain.route.hops.iter().map(ToString::to_string)));
            for (key, set) in [("valid", &domain.valid), ("invalid", &domain.invalid)] {
                let mut locals: Vec<String> = set.iter().cloned().collect();
                locals.sort();
                line(&mut out, key, list(locals.into_iter()));
            }
            policy(&mut out, &domain.policy, domain.route.tls);
        }
        out
    }
}

fn policy(out: &mut String, policy: &Policy, tls: TlsPolicy) {
    let accept = |choice| match choice {
        AcceptOrDefer::Accept => quoted("accept"),
        AcceptOrDefer::Defer => quoted("defer"),
    };
    let callouts = match policy.callouts {
        Callouts::Enforce => "enforce",
        Callouts::Observe => "observe",
        Callouts::Off => "off",
    };
    line(out, "callouts", quoted(callouts));
    line(out, "reject_code", policy.reject_code.to_string());
    line(out, "valid_ttl", quoted(&format_duration(policy.valid_ttl)));
    line(out, "valid_refresh", quoted(&format_duration(policy.valid_refresh)));
    line(out, "invalid_ttl", quoted(&format_duration(policy.invalid_ttl)));
    line(out, "invalid_refresh", quoted(&format_duration(policy.invalid_refresh)));
    line(out, "accept_all", accept(policy.accept_all));
    line(out, "unverifiable", accept(policy.unverifiable));
    line(out, "tempfail", accept(policy.tempfail));
    let rejects = match policy.policy_rejects {
        RejectOrDefer::Reject => "reject",
        RejectOrDefer::Defer => "defer",
    };
    line(out, "policy_rejects", quoted(rejects));
    line(out, "pass_reply_text", policy.pass_reply_text.to_string());
    line(out, "tls", quoted(&tls.to_string()));
    line(out, "local_part_case", quoted(if policy.fold_local_part { "fold" } else { "keep" }));
}

fn line(out: &mut String, key: &str, value: String) {
    let _ = writeln!(out, "{key} = {value}");
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn list(texts: impl Iterator<Item = String>) -> String {
    let texts: Vec<String> = texts.map(|text| quoted(&text)).collect();
    format!("[{}]", texts.join(", "))
}
