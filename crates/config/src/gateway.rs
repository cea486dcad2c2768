//! `[gateway]`: what the gateway allows, and its certificate.

use std::time::Duration;

use callahead_listeners::TlsFiles;
use callahead_listeners::gateway::Settings;
use ipnet::IpNet;
use toml::de::DeValue;

use super::document::Section;
use super::{duration, number, tls};

/// The gateway's settings, of which [`Default`] has the documented values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayConfig {
    /// The certificate for STARTTLS; absent, it is not offered.
    pub tls: Option<TlsFiles>,
    /// Sessions with one server behind. 1 to 10,000.
    pub sessions_per_destination: usize,
    /// What the gateway itself is told.
    pub settings: Settings,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        let nowhere = callahead_smtp::Domain::Literal(callahead_smtp::AddressLiteral::V4([127, 0, 0, 1].into()));
        let callouts = callahead_callout::Settings::new(nowhere);
        Self { tls: None, sessions_per_destination: callouts.relays_per_destination, settings: Settings::default() }
    }
}

/// Reads the section.
pub(super) fn read(section: &mut Section<'_, '_>, config: &mut GatewayConfig) {
    tls::read(section, &mut config.tls);
    section.set("sessions_per_destination", &mut config.sessions_per_destination, number(1, 10_000));
    let settings = &mut config.settings;
    let is_trusted_read = section.set_list("trusted", &mut settings.trusted, network);
    let yes_or_no = |value: &DeValue<'_>| value.as_bool().ok_or_else(|| "must be true or false".to_owned());
    section.set("proxy_protocol", &mut settings.proxy_protocol, yes_or_no);
    if settings.proxy_protocol
        && settings.trusted.is_empty()
        && is_trusted_read
        && let Some(at) = section.place_of("proxy_protocol")
    {
        let why = "it is of no use without networks in \"trusted\", since connections from all others are closed: name the balancer's there";
        section.wrong("proxy_protocol", at, why);
    }
    section.set("dsn", &mut settings.dsn, yes_or_no);
    section.set("connections", &mut settings.connections, number(1, 1_000_000));
    section.set("connections_per_client", &mut settings.connections_per_client, number(1, 1_000_000));
    section.set("commands", &mut settings.commands, number(10, 1_000_000));
    section.set("errors", &mut settings.errors, number(1, 10_000));
    section.set("recipients", &mut settings.recipients, number(100, 100_000));
    section.set("message_size", &mut settings.message_size, number(65_536, 10 << 30));
    let second = Duration::from_secs(1);
    section.set("command_timeout", &mut settings.command_timeout, duration(second, second * 3600));
    section.set("data_timeout", &mut settings.data_timeout, duration(second, second * 3600));
    section.set("session_timeout", &mut settings.session_timeout, duration(second * 60, second * 86_400));
    section.set("destination_timeout", &mut settings.destination_timeout, duration(second, second * 600));
    section.set("reply_timeout", &mut settings.reply_timeout, duration(second, second * 3600));
}

fn network(text: &str) -> Result<IpNet, String> {
    let network = text.parse().ok().or_else(|| text.parse().ok().map(|ip: std::net::IpAddr| IpNet::from(ip)));
    network.ok_or_else(|| format!("{text:?} is no network: write it as \"192.0.2.0/24\" or \"2001:db8::/32\""))
}
