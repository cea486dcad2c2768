//! Exim and Postfix as Debian ships them, as filtering servers that verify recipients themselves, tuned as their documents advise.

use std::fmt::Write as _;
use std::net::SocketAddr;

use callahead_testbed::mta::{Kind, Mta, postfix_base};

use crate::load::names::DOMAIN;

/// How Exim asks the destination (Exim specification, chapter 44, "Additional parameters for callouts").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callout {
    /// From the null sender, as Callahead and Postfix do; each over a connection of its own.
    Null,
    /// From the message's sender, over a connection that is held for its further recipients. Without `use_sender` Exim holds none.
    Hold,
}

impl Callout {
    fn condition(self) -> &'static str {
        match self {
            Self::Null => "verify = recipient/callout=30s",
            Self::Hold => "verify = recipient/callout=30s,use_sender,hold",
        }
    }
}

/// What is set for Exim and why: option, value, reason (Exim specification, chapters 14, 43 and 44).
pub const EXIM_SETTINGS: [(&str, &str, &str); 10] = [
    ("smtp_accept_max", "0", "no bound on connections at a time"),
    ("smtp_accept_queue_per_connection", "0", "nothing is deferred because a session is long"),
    ("smtp_connect_backlog", "1024", "no connection waits for its SYN to be sent again"),
    ("smtp_accept_max_nonmail", "100000", "sessions that only ask are not dropped"),
    ("smtp_accept_max_per_connection", "0", "sessions may be long"),
    ("rfc1413_query_timeout", "0s", "no ident look-up"),
    ("host_lookup", "", "no reverse DNS look-up"),
    ("tls_advertise_hosts", "", "no key is made for each session; the destination offers no TLS either"),
    ("message_logs", "false", "no files but those that a verdict needs"),
    ("write_rejectlog", "false", "a refusal is logged once"),
];

/// What is set for Postfix and why (postconf(5), ADDRESS_VERIFICATION_README, STRESS_README, TUNING_README).
pub const POSTFIX_SETTINGS: [(&str, &str, &str); 19] = [
    ("smtpd_recipient_restrictions", "reject_unverified_recipient", "what is measured"),
    ("unverified_recipient_reject_code", "550", "a missing recipient is refused for good, as by the others"),
    ("address_verify_sender", "<>", "the null sender, as the others use it"),
    ("address_verify_sender_ttl", "0s", "the null sender does not change"),
    ("address_verify_poll_delay", "1s", "its smallest value"),
    ("address_verify_poll_count", "3", "its default: 1 would defer every recipient that is new"),
    ("address_verify_map", "btree:$data_directory/verify_cache", "its default, on tmpfs"),
    ("smtpd_error_sleep_time", "0", "no artificial delay after a refusal"),
    ("smtpd_soft_error_limit", "100000", "likewise"),
    ("smtpd_hard_error_limit", "100000", "sessions that only ask are not dropped"),
    ("smtpd_junk_command_limit", "100000", "likewise"),
    ("smtpd_client_connection_count_limit", "0", "no bound on connections at a time"),
    ("smtpd_client_event_limit_exceptions", "static:all", "no rate is counted"),
    ("smtpd_delay_reject", "no", "nothing is put off"),
    ("in_flow_delay", "0s", "no artificial delay between messages, which probes are"),
    ("default_process_limit", "200", "more processes than there are clients"),
    ("smtp_destination_concurrency_limit", "200", "as many probes at a time as there are clients"),
    ("initial_destination_concurrency", "200", "from the first one on"),
    ("qmgr_message_active_limit", "20000", "its default"),
];

/// An Exim with `verify = recipient/callout`, asking so, before this destination.
///
/// # Errors
/// When the package is not there, or it does not greet.
pub fn exim(destination: SocketAddr, callout: Callout) -> anyhow::Result<Mta> {
    let files = |port: u16| {
        let mut config = format!(
            "primary_hostname = exim.filter.example\ndaemon_smtp_ports = {port}\nlocal_interfaces = 127.0.0.1\n\
             log_file_path = /instance/%slog\nacl_smtp_rcpt = rcpt\n"
        );
        for (name, value, _) in EXIM_SETTINGS {
            let _ = writeln!(config, "{name} = {value}");
        }
        let _ = write!(
            config,
            "begin acl\nrcpt:\n  require\n    domains = {DOMAIN}\n    {}\n  accept\n\
             begin routers\nfiltered:\n  driver = manualroute\n  domains = {DOMAIN}\n  route_list = * 127.0.0.1\n  \
             self = send\n  transport = destination\nbegin transports\ndestination:\n  driver = smtp\n  port = {}\n  \
             allow_localhost\n",
            callout.condition(),
            destination.port()
        );
        vec![("exim4.conf", config)]
    };
    Ok(Mta::front(Kind::Exim, &files)?)
}

/// A Postfix with `reject_unverified_recipient` before this destination.
///
/// # Errors
/// When the package is not there, or it does not greet.
pub fn postfix(destination: SocketAddr) -> anyhow::Result<Mta> {
    let files = |port: u16| {
        let (main, master) = postfix_base(port);
        let mut main = format!(
            "{main}myhostname = postfix.filter.example\nmynetworks = 127.0.0.0/8\nrelay_domains = {DOMAIN}\n\
             relay_transport = relay:[127.0.0.1]:{}\n",
            destination.port()
        );
        for (name, value, _) in POSTFIX_SETTINGS {
            let _ = writeln!(main, "{name} = {value}");
        }
        vec![("main.cf", main), ("master.cf", master)]
    };
    Ok(Mta::front(Kind::Postfix, &files)?)
}

/// The versions of the Debian packages, out of the layers that they were installed into.
pub fn versions() -> Vec<(&'static str, String)> {
    [Kind::Exim, Kind::Postfix]
        .into_iter()
        .filter_map(|kind| Some((kind.package(), callahead_testbed::mta::version(kind)?)))
        .collect()
}
