//! `[gateway]`: what the gateway allows, and its certificate.

use std::path::PathBuf;
use std::time::Duration;

use callahead_listeners::gateway::Settings;
use callahead_listeners::{TlsFilesError, TlsServer};
use callahead_smtp::Domain;
use ipnet::IpNet;
use toml::de::DeValue;

use super::document::{Section, strings, text};
use super::{Config, duration, number};

/// The gateway's settings. [`Default`] has the documented values, which are [`Settings`]'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayConfig {
    /// The certificate for STARTTLS, with those that sign it behind it, PEM; with `tls_key` or not at all.
    pub tls_certificate: Option<PathBuf>,
    /// Its private key, PEM.
    pub tls_key: Option<PathBuf>,
    /// Networks whose XCLIENT and PROXY headers count.
    pub trusted: Vec<IpNet>,
    /// Every connection begins with a PROXY header.
    pub proxy_protocol: bool,
    /// DSN is offered.
    pub dsn: bool,
    /// Connections at the same time. 1 to 1,000,000.
    pub connections: usize,
    /// Of them, from one client. 1 to 1,000,000.
    pub connections_per_client: usize,
    /// Commands in a session. 10 to 1,000,000.
    pub commands: u32,
    /// Commands in a session that are none, or out of order. 1 to 10,000.
    pub errors: u32,
    /// Recipients in a transaction. 100 to 100,000.
    pub recipients: usize,
    /// Octets in a message. 65,536 to 10 GiB.
    pub message_size: u64,
    /// Sessions with one server behind. 1 to 10,000.
    pub sessions_per_destination: usize,
    /// For the next command. 1 s to 1 h.
    pub command_timeout: Duration,
    /// For the next part of a message. 1 s to 1 h.
    pub data_timeout: Duration,
    /// For a session. 1 min to 1 d.
    pub session_timeout: Duration,
    /// For each step of a recipients' server but the last. 1 s to 10 min.
    pub destination_timeout: Duration,
    /// For its reply to the message. 1 s to 1 h.
    pub reply_timeout: Duration,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        let nowhere = Domain::Literal(callahead_smtp::AddressLiteral::V4([127, 0, 0, 1].into()));
        let settings = Settings::new(nowhere.clone());
        let callouts = callahead_callout::Settings::new(nowhere);
        Self {
            tls_certificate: None,
            tls_key: None,
            trusted: settings.trusted,
            proxy_protocol: settings.proxy_protocol,
            dsn: settings.dsn,
            connections: settings.connections,
            connections_per_client: settings.connections_per_client,
            commands: settings.commands,
            errors: settings.errors,
            recipients: settings.recipients,
            message_size: settings.message_size,
            sessions_per_destination: callouts.relays_per_destination,
            command_timeout: settings.command_timeout,
            data_timeout: settings.data_timeout,
            session_timeout: settings.session_timeout,
            destination_timeout: settings.destination_timeout,
            reply_timeout: settings.reply_timeout,
        }
    }
}

/// Reads the section.
pub(super) fn read(section: &mut Section<'_, '_>, config: &mut GatewayConfig) {
    let file = |value: &DeValue<'_>| {
        let path = PathBuf::from(text(value)?);
        if path.is_absolute() { Ok(Some(path)) } else { Err("must be an absolute path".to_owned()) }
    };
    section.set("tls_certificate", &mut config.tls_certificate, file);
    section.set("tls_key", &mut config.tls_key, file);
    section.both_or_none("tls_certificate", "tls_key");
    section.set("trusted", &mut config.trusted, |value| strings(value)?.into_iter().map(network).collect());
    let yes_or_no = |value: &DeValue<'_>| value.as_bool().ok_or_else(|| "must be true or false".to_owned());
    section.set("proxy_protocol", &mut config.proxy_protocol, yes_or_no);
    section.set("dsn", &mut config.dsn, yes_or_no);
    section.set("connections", &mut config.connections, number(1, 1_000_000));
    section.set("connections_per_client", &mut config.connections_per_client, number(1, 1_000_000));
    section.set("commands", &mut config.commands, number(10, 1_000_000));
    section.set("errors", &mut config.errors, number(1, 10_000));
    section.set("recipients", &mut config.recipients, number(100, 100_000));
    section.set("message_size", &mut config.message_size, number(65_536, 10 << 30));
    section.set("sessions_per_destination", &mut config.sessions_per_destination, number(1, 10_000));
    let second = Duration::from_secs(1);
    section.set("command_timeout", &mut config.command_timeout, duration(second, second * 3600));
    section.set("data_timeout", &mut config.data_timeout, duration(second, second * 3600));
    section.set("session_timeout", &mut config.session_timeout, duration(second * 60, second * 86_400));
    section.set("destination_timeout", &mut config.destination_timeout, duration(second, second * 600));
    section.set("reply_timeout", &mut config.reply_timeout, duration(second, second * 3600));
}

fn network(text: &str) -> Result<IpNet, String> {
    let network = text.parse().ok().or_else(|| text.parse().ok().map(|ip: std::net::IpAddr| IpNet::from(ip)));
    network.ok_or_else(|| format!("{text:?} is no network: write it as \"192.0.2.0/24\" or \"2001:db8::/32\""))
}

impl Config {
    /// The gateway's settings by this configuration, with its certificate read.
    ///
    /// # Errors
    /// When the certificate or its key can't be used.
    pub fn gateway_settings(&self) -> Result<Settings, TlsFilesError> {
        let config = &self.gateway;
        let tls = match (&config.tls_certificate, &config.tls_key) {
            (Some(certificate), Some(key)) => Some(TlsServer::load(certificate, key, &[])?),
            _ => None,
        };
        Ok(Settings {
            tls,
            trusted: config.trusted.clone(),
            proxy_protocol: config.proxy_protocol,
            dsn: config.dsn,
            connections: config.connections,
            connections_per_client: config.connections_per_client,
            commands: config.commands,
            errors: config.errors,
            recipients: config.recipients,
            message_size: config.message_size,
            command_timeout: config.command_timeout,
            data_timeout: config.data_timeout,
            session_timeout: config.session_timeout,
            destination_timeout: config.destination_timeout,
            reply_timeout: config.reply_timeout,
            ..Settings::new(self.node.clone())
        })
    }
}
