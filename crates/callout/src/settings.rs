//! The limits of callouts.

use std::time::Duration;

use callahead_smtp::{Domain, DomainName, ReplyLimits};

/// How callouts are made. All limits are bounds; `Default` has the documented values.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name said in EHLO.
    pub node: Domain,
    /// Names of this host: an MX that leads to one of them, and those less preferred, are left out (RFC 5321 5.1).
    pub own_names: Vec<DomainName>,
    /// For a whole question, from the first lookup to the verdict. Default 30 s.
    pub timeout: Duration,
    /// For one connection. Default 10 s.
    pub connect_timeout: Duration,
    /// How long a session is kept without a question. Default 5 s.
    pub idle: Duration,
    /// Recipients asked for in one session, the random ones too. Default 50.
    pub uses: u32,
    /// Refused recipients in one session: Postfix slows down after 10 and drops after 20. Default 8.
    pub rejected_per_session: u32,
    /// Sessions to one destination, those that are ending included. Default 20.
    pub sessions_per_destination: usize,
    /// Sessions of relays to one destination ([`Callouts::connect`](crate::Callouts::connect)), besides those of callouts. Default 25: together
    /// fewer than the 50 that a Postfix takes from one client (`smtpd_client_connection_count_limit`). One client has fewer of them than are free
    /// ([`For::client`](crate::For::client)).
    pub relays_per_destination: usize,
    /// Sessions in all. Default 1,000.
    pub sessions: usize,
    /// Questions that wait for a session of one destination. Default 1,000.
    pub queue_per_destination: usize,
    /// For the reply to QUIT. Default 2 s.
    pub quit_timeout: Duration,
    /// Failures in a row that make a host be left alone. Default 3.
    pub breaker_failures: u32,
    /// How long it is left alone first; doubles each time. Default 1 s.
    pub breaker_first: Duration,
    /// How long at most. Default 5 min.
    pub breaker_longest: Duration,
    /// Addresses of one host that are tried for one question. Default 4.
    pub addresses_per_host: usize,
    /// Hosts of one MX that are tried for one question. Default 8.
    pub hosts_per_mx: usize,
    /// The port of MX hosts: 25, but for tests.
    pub mx_port: u16,
    /// Limits on replies.
    pub replies: ReplyLimits,
}

impl Settings {
    /// The defaults, for a node of this name.
    pub fn new(node: Domain) -> Self {
        Self {
            own_names: node.name().cloned().into_iter().collect(),
            node,
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            idle: Duration::from_secs(5),
            uses: 50,
            rejected_per_session: 8,
            sessions_per_destination: 20,
            relays_per_destination: 25,
            sessions: 1000,
            queue_per_destination: 1000,
            quit_timeout: Duration::from_secs(2),
            breaker_failures: 3,
            breaker_first: Duration::from_secs(1),
            breaker_longest: Duration::from_secs(300),
            addresses_per_host: 4,
            hosts_per_mx: 8,
            mx_port: crate::route::SMTP_PORT,
            replies: ReplyLimits::default(),
        }
    }
}
