//! Exim and Postfix as Debian ships them, as filtering servers that verify recipients themselves, tuned as their documents advise.

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
    /// The condition in the ACL.
    pub fn condition(self) -> &'static str {
        match self {
            Self::Null => "verify = recipient/callout=30s",
            Self::Hold => "verify = recipient/callout=30s,use_sender,hold",
        }
    }
}

/// What is set, to which value, and why.
pub type Setting = (String, String, &'static str);

/// What is set for Exim and why (Exim specification, chapters 14, 43 and 44).
const EXIM: [(&str, &str, &str); 14] = [
    ("primary_hostname", "exim.filter.example", "its name"),
    ("local_interfaces", "127.0.0.1", "where it listens"),
    ("log_file_path", "/instance/%slog", "a folder that the run can read"),
    ("acl_smtp_rcpt", "rcpt", "what is measured, as below"),
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

/// What is set for Postfix and why (postconf(5), ADDRESS_VERIFICATION_README, STRESS_README, TUNING_README), beside what every Postfix of
/// the testbed has.
const POSTFIX: [(&str, &str, &str); 22] = [
    ("myhostname", "postfix.filter.example", "its name"),
    ("mynetworks", "127.0.0.0/8", "the clients are on this machine"),
    ("relay_domains", DOMAIN, "what it filters for"),
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

/// Why the testbed sets what it sets for every Postfix.
fn why(name: &str) -> &'static str {
    match name {
        "maillog_file" | "maillog_file_prefixes" => "a folder that the run can read",
        "smtp_dns_support_level" => "no DNS look-up: the destination is an address",
        "smtpd_peername_lookup" => "no reverse DNS look-up",
        "alias_maps" | "alias_database" | "mydestination" => "no mailboxes of its own",
        _ => "as in the tests",
    }
}

/// The main part of an Exim's configuration that listens on this port.
pub fn exim_settings(port: u16) -> Vec<Setting> {
    let listens = ("daemon_smtp_ports".to_owned(), port.to_string(), "where it listens");
    std::iter::once(listens).chain(EXIM.map(owned)).collect()
}

/// What is behind that: how it asks this destination.
pub fn exim_rest(destination: SocketAddr, callout: Callout) -> String {
    format!(
        "begin acl\nrcpt:\n  require\n    domains = {DOMAIN}\n    {}\n  accept\n\
         begin routers\nfiltered:\n  driver = manualroute\n  domains = {DOMAIN}\n  route_list = * {}\n  \
         self = send\n  transport = destination\nbegin transports\ndestination:\n  driver = smtp\n  port = {}\n  \
         allow_localhost\n",
        callout.condition(),
        destination.ip(),
        destination.port()
    )
}

/// All of a Postfix's `main.cf` before this destination.
pub fn postfix_settings(destination: SocketAddr) -> Vec<Setting> {
    let relay = format!("relay:[{}]:{}", destination.ip(), destination.port());
    let (testbed, _) = postfix_base(0);
    let testbed = testbed.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| {
        let name = name.trim();
        (name.to_owned(), value.trim().to_owned(), why(name))
    });
    let relay = ("relay_transport".to_owned(), relay, "the destination");
    testbed.chain(POSTFIX.map(owned)).chain([relay]).collect()
}

fn owned((name, value, why): (&str, &str, &'static str)) -> Setting {
    (name.to_owned(), value.to_owned(), why)
}

/// As the servers read them.
fn lines(settings: &[Setting]) -> String {
    settings.iter().map(|(name, value, _)| format!("{name} = {value}\n")).collect()
}

/// An Exim with `verify = recipient/callout`, asking so, before this destination.
///
/// # Errors
/// When the package is not there, or it does not greet.
pub fn exim(destination: SocketAddr, callout: Callout) -> anyhow::Result<Mta> {
    let files = |port| vec![("exim4.conf", lines(&exim_settings(port)) + &exim_rest(destination, callout))];
    Ok(Mta::front(Kind::Exim, &files)?)
}

/// A Postfix with `reject_unverified_recipient` before this destination.
///
/// # Errors
/// When the package is not there, or it does not greet.
pub fn postfix(destination: SocketAddr) -> anyhow::Result<Mta> {
    let files = |port| vec![("main.cf", lines(&postfix_settings(destination))), ("master.cf", postfix_base(port).1)];
    Ok(Mta::front(Kind::Postfix, &files)?)
}

/// The versions of the Debian packages, out of the layers that they were installed into.
pub fn versions() -> Vec<(&'static str, String)> {
    [Kind::Exim, Kind::Postfix]
        .into_iter()
        .filter_map(|kind| Some((kind.package(), callahead_testbed::mta::version(kind)?)))
        .collect()
}
