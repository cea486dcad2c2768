//! The configuration: one TOML file, read whole or refused whole.
//!
//! [`Config::parse`] walks the document with its positions, so every problem is one sentence with file, line and key, and all
//! of them are told at once. Nothing is applied of a file that has one.

mod document;
mod gateway;
mod host;
mod init;
mod show;
mod tls;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use callahead_callout::{Guard, Hop, Route, TlsPolicy};
use callahead_control::{LogSettings, MAX_LOG_DAYS};
use callahead_engine::{
    AcceptOrDefer, Callouts, Directory, DomainConfig, Harvest, LoggedRecipients, Policy, RejectOrDefer,
};
use callahead_listeners::{Listen, TlsFiles};
use callahead_smtp::{Domain, Recipient};
use ipnet::IpNet;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub use callahead_control::{format_duration, parse_duration};
use document::{Problems, Section, text, what_it_is};
pub use gateway::GatewayConfig;
pub use init::INIT;

/// Where the configuration is looked for when no file is named.
pub const DEFAULT_PATH: &str = "/etc/callahead/callahead.toml";

/// The configuration in force. [`Default`] has the documented values; nothing listens and no domain is configured.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The node's name, said in EHLO.
    pub node: Domain,
    /// Where the cache lies.
    pub data_dir: PathBuf,
    /// What is listened on.
    pub listen: ListenConfig,
    /// Name servers; none is the system's.
    pub resolver: Vec<SocketAddr>,
    /// How clients reach the http listener.
    pub http: HttpConfig,
    /// What is logged of decisions, and for how long.
    pub log: LogSettings,
    /// Limits of callouts.
    pub callout: CalloutConfig,
    /// When a client counts as one that guesses addresses.
    pub harvest: Harvest,
    /// What the gateway allows.
    pub gateway: GatewayConfig,
    /// What holds for domains that do not say otherwise.
    pub defaults: Policy,
    /// The TLS policy of routes that do not say otherwise.
    pub tls: TlsPolicy,
    /// The domains.
    pub domains: Vec<DomainConfig>,
}

/// What is listened on; empty is off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenConfig {
    /// The policy delegation protocol.
    pub policy: Vec<Listen>,
    /// Socketmaps.
    pub socketmap: Vec<Listen>,
    /// The milter protocol.
    pub milter: Vec<Listen>,
    /// The gateway; TCP only.
    pub gateway: Vec<Listen>,
    /// Metrics and health.
    pub http: Vec<Listen>,
    /// The CLI's own way in.
    pub admin: Vec<Listen>,
}

/// How clients reach the http listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpConfig {
    /// The certificate; absent without TLS.
    pub tls: Option<TlsFiles>,
    /// Proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed.
    pub trusted_proxies: Vec<IpNet>,
}

/// Limits of callouts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CalloutConfig {
    /// For a whole question. 1 s to 5 min.
    pub timeout: Duration,
    /// For one connection. 100 ms to 1 min.
    pub connect_timeout: Duration,
    /// How long a session is kept without a question. 0 s to 5 min.
    pub idle: Duration,
    /// Questions in one session. 1 to 1,000.
    pub uses: u32,
    /// Sessions to one destination. 1 to 200.
    pub sessions_per_destination: usize,
    /// Networks that no route may lead to, save what this file itself names.
    pub deny_destinations: Vec<IpNet>,
}

/// What is wrong with a file: a sentence a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

impl Default for CalloutConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            idle: Duration::from_secs(5),
            uses: 50,
            sessions_per_destination: 20,
            deny_destinations: Guard::default_networks(),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node: host::name(),
            data_dir: PathBuf::from("/var/lib/callahead"),
            listen: ListenConfig::default(),
            resolver: Vec::new(),
            http: HttpConfig::default(),
            log: LogSettings::default(),
            callout: CalloutConfig::default(),
            harvest: Harvest::default(),
            gateway: GatewayConfig::default(),
            defaults: Policy::default(),
            tls: TlsPolicy::default(),
            domains: Vec::new(),
        }
    }
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Ok(Self::load_with_remarks(path)?.0)
    }

    /// Reads a file, and says what is no mistake and worth a look: a sentence a remark.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn load_with_remarks(path: &Path) -> Result<(Self, Vec<String>), ConfigError> {
        Self::parse_with_remarks(&read_file(path)?, &path.display().to_string())
    }

    /// Like [`Config::load_with_remarks`], and looks at what a start would fail for beyond the file itself: certificates and their keys.
    ///
    /// # Errors
    /// All that is wrong with it, and with those.
    pub fn check(path: &Path) -> Result<(Self, Vec<String>), ConfigError> {
        Self::examine(&read_file(path)?, &path.display().to_string(), |config, document, problems| {
            for (name, files) in [("gateway", &config.gateway.tls), ("http", &config.http.tls)] {
                if let Some(DeValue::Table(table)) = document.get(name).map(Spanned::get_ref) {
                    tls::check(&Section::new(name, table, problems), files.as_ref());
                }
            }
        })
    }

    /// Reads a document; `file` is what it is called in errors.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn parse(text: &str, file: &str) -> Result<Self, ConfigError> {
        Ok(Self::parse_with_remarks(text, file)?.0)
    }

    /// Like [`Config::parse`], with remarks as [`Config::load_with_remarks`] has them.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn parse_with_remarks(text: &str, file: &str) -> Result<(Self, Vec<String>), ConfigError> {
        Self::examine(text, file, |_, _, _| {})
    }

    /// Reads a document, and looks at more than it says.
    fn examine(
        text: &str,
        file: &str,
        more: impl FnOnce(&Self, &DeTable<'_>, &Problems<'_>),
    ) -> Result<(Self, Vec<String>), ConfigError> {
        let problems = Problems::new(file, text);
        let document = match DeTable::parse(text) {
            Ok(document) => document,
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                let message = error.message().lines().collect::<Vec<_>>().join(", ");
                // "duplicate key" by itself does not say which.
                let which = error.span().and_then(|span| text.get(span)).filter(|_| message == "duplicate key");
                let which = which.map(|key| format!(" {key:?}")).unwrap_or_default();
                problems.add(at, format!("this is no TOML: {message}{which}"));
                return Err(ConfigError(problems.into_sentences()));
            }
        };
        let config = Self::read(&document, &problems);
        more(&config, document.get_ref(), &problems);
        let remarks = problems.remarks();
        let sentences = problems.into_sentences();
        if sentences.is_empty() { Ok((config, remarks)) } else { Err(ConfigError(sentences)) }
    }

    fn read(document: &Spanned<DeTable<'_>>, problems: &Problems<'_>) -> Self {
        let mut config = Self::default();
        let mut top = Section::new("", document.get_ref(), problems);
        top.set("node", &mut config.node, |value| {
            Domain::parse(text(value)?).map_err(|error| format!("no name for a node: {error}"))
        });
        if !host::is_full(&config.node) {
            let (node, at) = (&config.node, top.place_of("node"));
            let what = match (at, node) {
                (Some(_), Domain::Name(_)) => format!("node: \"{node}\" has no dot"),
                (Some(_), Domain::Literal(_)) => format!("node: \"{node}\" is every host to itself"),
                (None, Domain::Name(_)) => {
                    format!("there is no \"node\", and this host's own name \"{node}\" has no dot")
                }
                (None, Domain::Literal(_)) => {
                    format!("there is no \"node\", and this host has no name, so \"{node}\" stands for one")
                }
            };
            let why = "destinations that want a full name in EHLO refuse whatever they are asked; write node = \"...\" with the name that \
                       the DNS has for this host's address, such as \"mx1.filter.example\"";
            problems.remark(at, format!("{what}, and {why}"));
        }
        top.set("data_dir", &mut config.data_dir, |value| {
            let path = PathBuf::from(text(value)?);
            if path.is_absolute() { Ok(path) } else { Err("must be an absolute path".into()) }
        });
        top.section("listen", |listen| {
            let address = |text: &str| text.parse::<Listen>().map_err(|error| error.to_string());
            listen.set_list("policy", &mut config.listen.policy, address);
            listen.set_list("socketmap", &mut config.listen.socketmap, address);
            listen.set_list("milter", &mut config.listen.milter, address);
            listen.set_list("http", &mut config.listen.http, address);
            listen.set_list("admin", &mut config.listen.admin, |text| match address(text)? {
                unix @ Listen::Unix(_) => Ok(unix),
                Listen::Tcp(tcp) => {
                    Err(format!("\"{tcp}\" is no Unix socket: who may use it is told by the file's permissions"))
                }
            });
            listen.set_list("gateway", &mut config.listen.gateway, |text| match address(text)? {
                tcp @ Listen::Tcp(_) => Ok(tcp),
                unix @ Listen::Unix(_) => {
                    Err(format!("\"{unix}\" is no TCP address: mail comes in from clients with addresses"))
                }
            });
            each_place_once(listen, &config.listen);
        });
        top.section("resolver", |resolver| {
            resolver.set_list("servers", &mut config.resolver, server);
        });
        top.section("http", |http| {
            tls::read(http, &mut config.http.tls);
            http.set_list("trusted_proxies", &mut config.http.trusted_proxies, network);
        });
        top.section("log", |log| {
            log.set("days", &mut config.log.days, log_days());
            log.set("size", &mut config.log.size, |value| size(text(value)?));
            log.set("recipients", &mut config.log.recipients, one_of(&LOGGED));
            log.set("rate", &mut config.log.rate, number(1, 1_000_000));
        });
        top.section("callout", |callout| {
            let limits = &mut config.callout;
            let second = Duration::from_secs(1);
            callout.set("timeout", &mut limits.timeout, duration(second, second * 300));
            callout.set_list("deny_destinations", &mut limits.deny_destinations, network);
            callout.set("connect_timeout", &mut limits.connect_timeout, duration(second / 10, second * 60));
            callout.set("idle", &mut limits.idle, duration(Duration::ZERO, second * 300));
            callout.set("uses", &mut limits.uses, number(1, 1000));
            callout.set("sessions_per_destination", &mut limits.sessions_per_destination, number(1, 200));
        });
        top.section("harvest", |harvest| {
            harvest.set("limit", &mut config.harvest.limit, number(0, 100_000));
            let (minute, day) = (Duration::from_secs(60), Duration::from_secs(86_400));
            harvest.set("window", &mut config.harvest.window, duration(minute, day));
        });
        top.section("gateway", |section| gateway::read(section, &mut config.gateway));
        top.section("defaults", |defaults| policy(defaults, &mut config.defaults, &mut config.tls));
        // What a domain logs is the node's own where it does not say less.
        (config.defaults.log_days, config.defaults.log_recipients) = (config.log.days, config.log.recipients);
        let (defaults, tls) = (config.defaults.clone(), config.tls);
        top.sections("domain", |section| {
            if let Some(domain) = domain(section, &defaults, tls) {
                config.domains.push(domain);
            }
        });
        top.finish();
        config
    }

    /// The domains as the engine wants them.
    ///
    /// # Panics
    /// Never for a configuration that was parsed: duplicates were refused there.
    pub fn directory(&self) -> Directory {
        Directory::new(self.domains.iter().cloned()).unwrap_or_default()
    }

    /// The limits of callouts by this configuration.
    pub fn callout_settings(&self) -> callahead_callout::Settings {
        callahead_callout::Settings {
            timeout: self.callout.timeout,
            connect_timeout: self.callout.connect_timeout,
            idle: self.callout.idle,
            uses: self.callout.uses,
            sessions_per_destination: self.callout.sessions_per_destination,
            relays_per_destination: self.gateway.sessions_per_destination,
            ..callahead_callout::Settings::new(self.node.clone())
        }
    }

    /// The engine's bounds by this configuration.
    pub fn engine_settings(&self) -> callahead_engine::Settings {
        callahead_engine::Settings { deadline: self.callout.timeout, harvest: self.harvest, ..Default::default() }
    }
}

fn read_file(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| {
        let hint = if error.kind() == std::io::ErrorKind::NotFound {
            format!("; write one with \"callahead config init --output {}\"", path.display())
        } else {
            String::new()
        };
        ConfigError(vec![format!("{}: the configuration can't be read: {error}{hint}", path.display())])
    })
}

/// No place can be listened on twice.
fn each_place_once(section: &Section<'_, '_>, config: &ListenConfig) {
    let lists = [
        ("policy", &config.policy),
        ("socketmap", &config.socketmap),
        ("milter", &config.milter),
        ("http", &config.http),
        ("admin", &config.admin),
        ("gateway", &config.gateway),
    ];
    let mut places: Vec<(&str, &Listen, usize)> = Vec::new();
    for (key, listens) in lists {
        places.extend(listens.iter().zip(section.places_in(key)).map(|(listen, at)| (key, listen, at)));
    }
    places.sort_by_key(|(_, _, at)| *at);
    let v6_is_v4_too = host::ipv6_takes_ipv4();
    for (n, (key, listen, at)) in places.iter().enumerate() {
        if let Some((other, taken, first)) =
            places[..n].iter().find(|(_, before, _)| is_same_place(before, listen, v6_is_v4_too))
        {
            let line = section.line(*first);
            let another = if matches!(listen, Listen::Tcp(_)) { "port" } else { "path" };
            section.wrong(
                key,
                *at,
                &format!(
                    "\"{listen}\" is taken by \"{taken}\" of listen.{other} in line {line}; choose another {another}"
                ),
            );
        }
    }
}

/// Whether the system refuses the second of them. `[::]` may be every IPv4 address too, and port 0 is one that is free.
fn is_same_place(one: &Listen, other: &Listen, v6_is_v4_too: bool) -> bool {
    match (one, other) {
        (Listen::Unix(one), Listen::Unix(other)) => one == other,
        (Listen::Tcp(one), Listen::Tcp(other)) => {
            let covers = |all: &SocketAddr, one: &SocketAddr| {
                all.ip().is_unspecified() && (all.is_ipv6() == one.is_ipv6() || all.is_ipv6() && v6_is_v4_too)
            };
            one.port() == other.port()
                && one.port() != 0
                && (one.ip() == other.ip() || covers(one, other) || covers(other, one))
        }
        _ => false,
    }
}

/// One `[[domain]]`.
fn domain(section: &mut Section<'_, '_>, defaults: &Policy, tls: TlsPolicy) -> Option<DomainConfig> {
    let mut name = String::new();
    section.need("name");
    section.set("name", &mut name, |value| {
        let text = text(value)?;
        let (star, rest) = match text.strip_prefix("*.") {
            Some(rest) => ("*.", rest),
            None => ("", text),
        };
        let domain = Domain::parse(rest).map_err(|error| format!("{text:?} is no domain: {error}"))?;
        if !star.is_empty() && domain.name().is_none() {
            return Err(format!("{text:?} is no domain: an address literal has no subdomains"));
        }
        Ok(format!("{star}{domain}"))
    });
    section.once("name", &name, "the domain");
    let (mut hops, mut relay) = (Vec::new(), Vec::new());
    section.need("route");
    hops_of(section, "route", &mut hops);
    hops_of(section, "relay", &mut relay);
    let (mut policy_here, mut tls) = (defaults.clone(), tls);
    policy(section, &mut policy_here, &mut tls);
    section.set("log_days", &mut policy_here.log_days, log_days());
    section.set("log_recipients", &mut policy_here.log_recipients, one_of(&LOGGED));
    policy_here.log_days = policy_here.log_days.min(defaults.log_days);
    policy_here.log_recipients = policy_here.log_recipients.stricter(defaults.log_recipients);
    let fold = policy_here.fold_local_part;
    let mut valid = std::collections::HashSet::new();
    let mut invalid = std::collections::HashSet::new();
    section.set_list("valid", &mut valid, |text| local_part(text).map(|local| local.to_lowercase()));
    section.set_list("invalid", &mut invalid, |text| {
        let local = local_part(text)?;
        let folded = local.to_lowercase();
        if valid.contains(&folded) {
            return Err(format!("{local:?} is in \"valid\" too; take it out of one of them"));
        }
        Ok(if fold { folded } else { local })
    });
    section.finish();
    if name.is_empty() || hops.is_empty() {
        return None;
    }
    let relay = (!relay.is_empty()).then(|| Arc::new(Route { hops: relay, tls }));
    Some(DomainConfig { name, route: Arc::new(Route { hops, tls }), relay, policy: policy_here, valid, invalid })
}

/// The hops of a route.
fn hops_of(section: &mut Section<'_, '_>, key: &'static str, hops: &mut Vec<Hop>) {
    let is_good = section.set_list(key, hops, |text| text.parse::<Hop>().map_err(|error| error.to_string()));
    if let Some(at) = section.place_of(key).filter(|_| is_good && hops.is_empty()) {
        section.wrong(key, at, "is empty: name at least one host, or \"mx\"");
    }
}

/// The names of what is logged of recipients.
const LOGGED: [(&str, LoggedRecipients); 2] = [("full", LoggedRecipients::Full), ("domain", LoggedRecipients::Domain)];

/// For how many days decisions are logged.
fn log_days() -> impl Fn(&DeValue<'_>) -> Result<u32, String> {
    number(0, u64::from(MAX_LOG_DAYS))
}

/// The keys that `[defaults]` and `[[domain]]` share.
fn policy(section: &mut Section<'_, '_>, policy: &mut Policy, tls: &mut TlsPolicy) {
    let accept_or_defer = one_of(&[("accept", AcceptOrDefer::Accept), ("defer", AcceptOrDefer::Defer)]);
    section.set(
        "callouts",
        &mut policy.callouts,
        one_of(&[("enforce", Callouts::Enforce), ("observe", Callouts::Observe), ("off", Callouts::Off)]),
    );
    section.set("reject_code", &mut policy.reject_code, |value| match number::<u16>(0, u64::MAX)(value)? {
        code @ (550 | 450) => Ok(code),
        other => Err(format!("{other} is neither 550 nor 450 (a trial: senders try again)")),
    });
    const HOUR: Duration = Duration::from_secs(3600);
    section.set("valid_ttl", &mut policy.valid_ttl, duration(HOUR / 60, HOUR * 24 * 30));
    section.set("valid_refresh", &mut policy.valid_refresh, duration(HOUR / 60, HOUR * 24 * 30));
    section.set("invalid_ttl", &mut policy.invalid_ttl, |value| {
        let ttl = duration(Duration::from_secs(1), Duration::MAX)(value)?;
        if ttl > callahead_cache::MAX_INVALID_AGE {
            return Err(format!(
                "{} is more than 2h, and a mailbox that was created must not be refused for longer",
                format_duration(ttl)
            ));
        }
        Ok(ttl)
    });
    section.set("invalid_refresh", &mut policy.invalid_refresh, duration(Duration::from_secs(1), HOUR * 2));
    for (ttl_key, ttl, key, refresh) in [
        ("valid_ttl", policy.valid_ttl, "valid_refresh", policy.valid_refresh),
        ("invalid_ttl", policy.invalid_ttl, "invalid_refresh", policy.invalid_refresh),
    ] {
        if let Some(at) = section.place_of(key).or(section.place_of(ttl_key)).filter(|_| refresh > ttl) {
            let (ttl, refresh) = (format_duration(ttl), format_duration(refresh));
            let what = format!("{refresh} is longer than {ttl_key}, {ttl}: nothing is asked again before it expires");
            section.remark(key, at, &what);
        }
    }
    section.set("accept_all", &mut policy.accept_all, &accept_or_defer);
    section.set("unverifiable", &mut policy.unverifiable, &accept_or_defer);
    section.set("tempfail", &mut policy.tempfail, &accept_or_defer);
    section.set(
        "policy_rejects",
        &mut policy.policy_rejects,
        one_of(&[("reject", RejectOrDefer::Reject), ("defer", RejectOrDefer::Defer)]),
    );
    section.set("pass_reply_text", &mut policy.pass_reply_text, |value| {
        value.as_bool().ok_or_else(|| "must be true or false".into())
    });
    section.set("tls", tls, |value| text(value)?.parse::<TlsPolicy>());
    section.set("local_part_case", &mut policy.fold_local_part, one_of(&[("keep", false), ("fold", true)]));
}

/// A choice of words.
fn one_of<T: Copy>(choices: &[(&'static str, T)]) -> impl Fn(&DeValue<'_>) -> Result<T, String> {
    move |value| {
        let word = text(value)?;
        match choices.iter().find(|(name, _)| *name == word) {
            Some((_, choice)) => Ok(*choice),
            None => {
                let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
                Err(format!(
                    "{word:?} is not one of {}{}",
                    names.join(", "),
                    document::did_you_mean(word, names.iter().copied())
                ))
            }
        }
    }
}

/// A duration with its unit, within bounds.
fn duration(least: Duration, most: Duration) -> impl Fn(&DeValue<'_>) -> Result<Duration, String> {
    move |value| {
        if let Some(number) = value.as_integer() {
            // The one that is meant, as a rule: hours are what a bound of minutes or more is written in.
            let unit = match (least.as_secs(), most.as_secs()) {
                (60.., _) => "h",
                (_, ..=3600) => "s",
                _ => "m",
            };
            let number = number.as_str();
            return Err(format!("{number} has no unit: write ms, s, m, h or d behind it, such as \"{number}{unit}\""));
        }
        let duration = parse_duration(text(value)?)?;
        if duration < least || duration > most {
            let (least, most) = (format_duration(least), format_duration(most));
            return Err(format!("{} is not between {least} and {most}", format_duration(duration)));
        }
        Ok(duration)
    }
}

/// A whole number within bounds.
fn number<T: TryFrom<u64>>(least: u64, most: u64) -> impl Fn(&DeValue<'_>) -> Result<T, String> {
    move |value| {
        let number = value.as_integer().ok_or_else(|| format!("must be a number, and is {}", what_it_is(value)))?;
        let number = u64::from_str_radix(number.as_str(), number.radix()).ok();
        number
            .filter(|number| (least..=most).contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| format!("must be a number from {least} to {most}"))
    }
}

/// A network, or a single address.
fn network(text: &str) -> Result<IpNet, String> {
    let single = || text.parse::<std::net::IpAddr>().map(IpNet::from).ok();
    text.parse::<IpNet>()
        .ok()
        .or_else(single)
        .ok_or_else(|| format!("{text:?} is no network: write it as \"127.0.0.0/8\", \"fe80::/10\" or \"192.0.2.1\""))
}

/// Octets, with K, M, G or T for powers of 1024; 1M to 1024T.
fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size from 1M to 1024T: write a number with K, M, G or T, such as \"4G\"");
    let shift = match text.chars().last() {
        Some('K') => 10,
        Some('M') => 20,
        Some('G') => 30,
        Some('T') => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    let octets = number.checked_mul(1 << shift).filter(|octets| (1 << 20..=1 << 50).contains(octets));
    octets.ok_or_else(wrong)
}

/// The shortest way to write so many octets.
fn format_size(octets: u64) -> String {
    let units = [("T", 40), ("G", 30), ("M", 20)];
    let fitting = units.into_iter().find(|(_, shift)| octets.trailing_zeros() >= *shift);
    let (unit, shift) = fitting.unwrap_or(("K", 10));
    format!("{}{unit}", octets >> shift)
}

fn server(text: &str) -> Result<SocketAddr, String> {
    let with_port = text.parse::<SocketAddr>().ok();
    let server = with_port.or_else(|| text.parse().ok().map(|ip| SocketAddr::new(ip, 53)));
    server.ok_or_else(|| format!("{text:?} is no name server: write its address, such as \"127.0.0.1:53\""))
}

/// A local part as it is in lists: without domain, quoted where it must be.
fn local_part(text: &str) -> Result<String, String> {
    let nowhere = Domain::Literal(callahead_smtp::AddressLiteral::V4([127, 0, 0, 1].into()));
    Recipient::new(text, nowhere)
        .map(|recipient| recipient.local_part().to_owned())
        .map_err(|error| format!("{text:?} is no local part (what stands before the @): {error}"))
}

#[cfg(test)]
mod tests {
    use super::is_same_place;

    #[test]
    fn ipv6_and_ipv4_go_beside_each_other_where_the_system_keeps_them_apart() {
        let same = |one: &str, other: &str, v6_is_v4_too| {
            let place = |text: &str| text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            is_same_place(&place(one), &place(other), v6_is_v4_too)
        };
        for (one, other) in [("0.0.0.0:25", "[::]:25"), ("[::]:25", "192.0.2.1:25")] {
            assert!(same(one, other, true) && !same(one, other, false), "{one} {other}");
        }
        for v6_is_v4_too in [true, false] {
            assert!(
                same("[::]:25", "[2001:db8::1]:25", v6_is_v4_too) && same("192.0.2.1:25", "0.0.0.0:25", v6_is_v4_too)
            );
            assert!(!same("[::1]:25", "0.0.0.0:25", v6_is_v4_too));
        }
    }
}
