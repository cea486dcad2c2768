//! The configuration in force, as TOML that gives the same configuration again.

use std::fmt::Write as _;

use callahead_callout::TlsPolicy;
use callahead_engine::{AcceptOrDefer, Callouts, LoggedRecipients, Policy, RejectOrDefer};
use callahead_listeners::{Listen, TlsFiles};

use super::{Config, GatewayConfig, format_duration};

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
            ("milter", &self.listen.milter),
            ("gateway", &self.listen.gateway),
            ("http", &self.listen.http),
            ("admin", &self.listen.admin),
        ] {
            line(&mut out, key, list(listens.iter().map(Listen::to_string)));
        }
        out.push_str("\n[resolver]\n");
        line(&mut out, "servers", list(self.resolver.iter().map(ToString::to_string)));
        out.push_str("\n[http]\n");
        tls_files(&mut out, self.http.tls.as_ref());
        line(&mut out, "trusted_proxies", list(self.http.trusted_proxies.iter().map(ToString::to_string)));
        out.push_str("\n[log]\n");
        line(&mut out, "days", self.log.days.to_string());
        line(&mut out, "size", quoted(&super::format_size(self.log.size)));
        line(&mut out, "recipients", logged(self.log.recipients));
        line(&mut out, "rate", self.log.rate.to_string());
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
        gateway(&mut out, &self.gateway);
        out.push_str("\n[defaults]\n");
        policy(&mut out, &self.defaults, self.tls);
        for domain in &self.domains {
            out.push_str("\n[[domain]]\n");
            line(&mut out, "name", quoted(&domain.name));
            line(&mut out, "route", list(domain.route.hops.iter().map(ToString::to_string)));
            if let Some(relay) = &domain.relay {
                line(&mut out, "relay", list(relay.hops.iter().map(ToString::to_string)));
            }
            for (key, set) in [("valid", &domain.valid), ("invalid", &domain.invalid)] {
                let mut locals: Vec<String> = set.iter().cloned().collect();
                locals.sort();
                line(&mut out, key, list(locals.into_iter()));
            }
            policy(&mut out, &domain.policy, domain.route.tls);
            line(&mut out, "log_days", domain.policy.log_days.to_string());
            line(&mut out, "log_recipients", logged(domain.policy.log_recipients));
        }
        out
    }
}

fn tls_files(out: &mut String, files: Option<&TlsFiles>) {
    let Some(TlsFiles { certificate, key }) = files else { return };
    line(out, "tls_certificate", quoted(&certificate.display().to_string()));
    line(out, "tls_key", quoted(&key.display().to_string()));
}

fn gateway(out: &mut String, config: &GatewayConfig) {
    out.push_str("\n[gateway]\n");
    tls_files(out, config.tls.as_ref());
    let gateway = &config.settings;
    line(out, "trusted", list(gateway.trusted.iter().map(ToString::to_string)));
    line(out, "proxy_protocol", gateway.proxy_protocol.to_string());
    line(out, "dsn", gateway.dsn.to_string());
    line(out, "connections", gateway.connections.to_string());
    line(out, "connections_per_client", gateway.connections_per_client.to_string());
    line(out, "commands", gateway.commands.to_string());
    line(out, "errors", gateway.errors.to_string());
    line(out, "recipients", gateway.recipients.to_string());
    line(out, "message_size", gateway.message_size.to_string());
    line(out, "sessions_per_destination", config.sessions_per_destination.to_string());
    for (key, timeout) in [
        ("command_timeout", gateway.command_timeout),
        ("data_timeout", gateway.data_timeout),
        ("session_timeout", gateway.session_timeout),
        ("destination_timeout", gateway.destination_timeout),
        ("reply_timeout", gateway.reply_timeout),
    ] {
        line(out, key, quoted(&format_duration(timeout)));
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

fn logged(recipients: LoggedRecipients) -> String {
    quoted(match recipients {
        LoggedRecipients::Full => "full",
        LoggedRecipients::Domain => "domain",
    })
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
