//! `callahead serve`: the daemon, from its configuration to its end.
//!
//! Everything is opened and bound before anything is served, so that a port in use or a cache that is taken is an error at the start
//! and not a daemon by half. Then: SIGHUP reads the configuration again, whole or not at all; SIGTERM stops accepting, answers what
//! was asked, ends the sessions with destinations by QUIT, and writes the rest of the cache.

use std::collections::HashMap;
use std::future::Future;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use callahead_config::Config;
use callahead_control::{Actor, Control, DecisionLog, Domains, Passwords};
use callahead_engine::{Clock as _, Observer, SystemClock};
use callahead_listeners::gateway::Gateway;
use callahead_listeners::{Bound, Limits, Listen, MODE_EVERYONE, MODE_GROUP, TlsServer};
use callahead_web::{
    Administration, AlertBoard, Events, HTTP_PROTOCOLS, HttpLimits, ListenerStatus, Metrics, NodeFacts, Reach,
    Readiness, State, Throttle, Web, admin_router, http_router, reached, serve_http, serve_https, web_router,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{Id, JoinSet};
use tokio::time::Interval;
use tokio_util::sync::CancellationToken;

use crate::cache_file;
use crate::cli::{DONE, ServeArgs, UNTOLD, USAGE};
use crate::logging::DecisionLines;
use crate::node::Node;
use crate::output;

/// How much longer than a question may take (`callout.timeout`) a stop waits for the answers that are under way.
const GRACE: Duration = Duration::from_secs(5);
/// How much longer than that a whole stop may take: sessions end with QUIT, and what is left is written.
const STOP_GRACE: Duration = Duration::from_secs(15);

/// How much longer a start may take, told again and again until it is over, whatever the unit's TimeoutStartSec is.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often the cache is swept, and metrics with it.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Pauses between two batches of a sweep, so that writes get through.
const SWEEP_PAUSE: Duration = Duration::from_millis(20);

/// How often alerts are written down where they have changed: so much is lost of them by a kill.
const ALERTS_EVERY: Duration = Duration::from_secs(10);

/// How often the certificates of the gateway and the http listener are looked at, for whether it has changed.
const CERTIFICATE_EVERY: Duration = Duration::from_secs(10);

/// A running daemon.
pub struct Server {
    /// What decides.
    pub node: Node,
    /// Where it listens, ports resolved: the listener's name and the place.
    pub addresses: Vec<(&'static str, Listen)>,
    control: Control,
    domains: Arc<Domains>,
    log: DecisionLog,
    readiness: Arc<Readiness>,
    shutdown: CancellationToken,
    parts: Parts,
    config: Config,
    gateway: Option<Gateway>,
    /// The pages.
    pub web: Web,
    /// What they show.
    pub state: State,
    /// The http listener's certificate.
    tls: Option<TlsServer>,
    reach: Reach,
}

/// What goes on from the start to the stop, and what each is called.
#[derive(Default)]
struct Parts {
    tasks: JoinSet<()>,
    names: HashMap<Id, String>,
}

/// Runs until it is told to stop, or until a part of it ends by itself. `decisions` logs them.
///
/// # Errors
/// When it can't start.
pub async fn run(args: ServeArgs, decisions: DecisionLines) -> anyhow::Result<u8> {
    let (config, remarks) = match Config::load_with_remarks(&args.config) {
        Ok(loaded) => loaded,
        Err(error) => {
            output::remark(&error.to_string());
            return Ok(USAGE);
        }
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut reload = signal(SignalKind::hangup())?;
    remarks.iter().for_each(|remark| tracing::warn!("{remark}"));
    open_as_many_files_as_allowed();
    let cache_folder = config.data_dir.join("cache");
    cache_file::before_it_is_opened(&cache_folder).await;
    let mut patience = tokio::time::interval(PATIENCE / 3);
    let extended = [NotifyState::ExtendTimeoutUsec(u32::try_from(PATIENCE.as_micros()).unwrap_or(u32::MAX))];
    let start = Box::pin(Server::start(config, Arc::new(decisions)));
    let mut server = tokio::select! {
        server = meanwhile(start, &mut patience, &extended) => server?,
        _ = terminate.recv() => return Ok(DONE),
        _ = interrupt.recv() => return Ok(DONE),
    };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), node = %server.config.node, domains = server.config.domains.len(), "ready");
    server.tell_set_up();
    notify(&[NotifyState::Ready, NotifyState::Status("answering")]);
    let cache = server.node.engine.cache().clone();
    let looking = tokio::spawn(async move { cache_file::while_it_is_open(cache, &cache_folder).await });
    let mut watchdog = watchdog();
    let mut code = DONE;
    loop {
        tokio::select! {
            ended = server.part_ended() => {
                tracing::error!("{ended}, which nobody told it to: callahead ends, so that it is started again");
                code = UNTOLD;
                break;
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = reload.recv() => {
                let reloading = NotifyState::monotonic_usec_now();
                if let Ok(now) = reloading {
                    notify(&[NotifyState::Reloading, now]);
                }
                let reloaded = Box::pin(server.reload(&args.config));
                tokio::select! {
                    () = meanwhile(reloaded, &mut watchdog, &[NotifyState::Watchdog]) => notify(&[NotifyState::Ready]),
                    _ = terminate.recv() => break,
                    _ = interrupt.recv() => break,
                }
            }
            _ = watchdog.tick() => notify(&[NotifyState::Watchdog]),
        }
    }
    let extended = u32::try_from((server.config.callout.timeout + STOP_GRACE).as_micros()).unwrap_or(u32::MAX);
    notify(&[
        NotifyState::Stopping,
        NotifyState::Status("answering what was asked"),
        // Whatever the unit's TimeoutStopSec is.
        NotifyState::ExtendTimeoutUsec(extended),
    ]);
    tracing::info!("stopping: what was asked is answered first");
    looking.abort();
    tokio::select! {
        () = server.stop() => {}
        _ = terminate.recv() => tracing::warn!("told to stop again: stopping at once"),
        _ = interrupt.recv() => tracing::warn!("told to stop again: stopping at once"),
    }
    tracing::info!("stopped");
    Ok(code)
}

/// Each client is an open file, and the soft limit that a shell or a container gives is often 1,024 for the sake of programs that use
/// select(2), which this one does not: the hard limit is what an administrator means.
fn open_as_many_files_as_allowed() {
    let limits = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, ..limits }) {
        tracing::warn!(%error, soft = limits.current, "the limit on open files stays as it is");
    }
}

impl Server {
    /// Opens and binds everything, and begins to answer.
    ///
    /// # Errors
    /// A sentence on what can't be opened or bound. Nothing goes on running then.
    pub async fn start(config: Config, observer: Arc<dyn Observer>) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&config.data_dir)
            .with_context(|| format!("data_dir {} can't be made", config.data_dir.display()))?;
        let metrics = Arc::new(Metrics::default());
        let clock = Arc::new(SystemClock::new());
        let control = Control::open(&config.data_dir.join("control.db"))?;
        let log = DecisionLog::open(&config.data_dir.join("log.db"), config.log, clock.clone())
            .context("the decision log")?;
        let events = Events::new(clock.clone());
        let alerts = Arc::new(AlertBoard::kept(clock.clone(), &config.data_dir.join("alerts.json")));
        let observer = All(observer, Arc::clone(&metrics), log.clone(), events.clone(), Arc::clone(&alerts));
        let node = Node::new(&config, &config.data_dir.join("cache"), Arc::new(observer))?;
        let domains = Arc::new(Domains::new(node.engine.clone(), log.clone()));
        apply_file(&config, &node, &domains, &control);
        let followed = Arc::clone(&domains);
        control.set_follower(move |local| followed.follow(local));
        // Before anything is served: the file may have changed while nothing ran.
        if let Err(error) = domains.settle(&control, &by_file("start")).await {
            // Mail waits for answers; it is tried again, and the overview says so.
            tracing::error!(%error, "domains lead elsewhere, and their cache can't be cleared yet; it is tried every minute");
        }
        let (gateway_tls, tls) = (config.gateway_tls()?, config.http_tls(HTTP_PROTOCOLS)?);
        let gateway = match config.listen.gateway.is_empty() {
            true => None,
            false => {
                let (engine, callouts) = (node.engine.clone(), node.callouts.clone());
                let settings = gateway_settings(&config);
                Some(Gateway::new(engine, callouts, config.node.clone(), gateway_tls, settings))
            }
        };
        let mut bound: Vec<(&'static str, Bound)> = Vec::new();
        for (name, listens, mode) in [
            ("policy", &config.listen.policy, MODE_EVERYONE),
            ("socketmap", &config.listen.socketmap, MODE_EVERYONE),
            ("milter", &config.listen.milter, MODE_EVERYONE),
            ("gateway", &config.listen.gateway, MODE_EVERYONE),
            ("http", &config.listen.http, MODE_EVERYONE),
            ("admin", &config.listen.admin, MODE_GROUP),
        ] {
            for listen in listens {
                make_folder_of(listen).with_context(|| format!("listen.{name}"))?;
                let here = listen.bind(mode).await.with_context(|| format!("listen.{name}"))?;
                bound.push((name, here));
            }
        }
        if bound.is_empty() {
            tracing::warn!("nothing is listened on: the configuration's [listen] is empty");
        }
        let addresses = bound.iter().map(|(name, here)| (*name, here.local_addr().clone())).collect();
        let readiness = Arc::new(Readiness::default());
        let shutdown = CancellationToken::new();
        let administration = Administration {
            control: control.clone(),
            domains: Arc::clone(&domains),
            log: log.clone(),
            events,
            guard: node.guard.clone(),
            passwords: Passwords::new()?,
            node: config.node.to_string().into(),
            shutdown: shutdown.clone(),
            throttle: Throttle::default(),
        };
        let state = State {
            engine: node.engine.clone(),
            callouts: Some(node.callouts.clone()),
            metrics,
            readiness: Arc::clone(&readiness),
            listeners: bound.iter().map(|(name, here)| ListenerStatus::of(name, here)).collect(),
            administration,
        };
        let facts = NodeFacts {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: clock.now(),
            data_dir: config.data_dir.display().to_string(),
            configuration: config.to_toml(),
        };
        let web = Web::new(Arc::clone(&alerts), facts);
        let reach = Reach::new(tls.is_some(), config.http.trusted_proxies.clone());
        let mut parts = Parts::default();
        for (name, here) in bound {
            tracing::info!(listener = name, address = %here.local_addr(), "listening");
            let (engine, stop) = (node.engine.clone(), shutdown.clone());
            let part = format!("the {name} listener at {}", here.local_addr());
            let grace = grace(&config);
            let (limits, http) = (Limits { grace, ..Limits::default() }, HttpLimits { grace, ..HttpLimits::default() });
            match name {
                "policy" => parts.spawn(part, callahead_listeners::policy::serve(here, engine, limits, stop)),
                "socketmap" => parts.spawn(part, callahead_listeners::socketmap::serve(here, engine, limits, stop)),
                "milter" => {
                    let limits = Limits { grace, ..callahead_listeners::milter::limits() };
                    parts.spawn(part, callahead_listeners::milter::serve(here, engine, limits, stop));
                }
                "gateway" => {
                    if let Some(gateway) = &gateway {
                        parts.spawn(part, gateway.clone().serve(here, stop));
                    }
                }
                "http" => {
                    let router = http_router(state.clone()).merge(web_router(state.clone(), web.clone()));
                    let router = reached(router, reach.clone());
                    match tls.clone() {
                        Some(tls) => parts.spawn(part, serve_https(here, router, http, tls, stop)),
                        None => parts.spawn(part, serve_http(here, router, http, stop)),
                    }
                }
                _ => parts.spawn(part, serve_http(here, admin_router(state.clone()), http, stop)),
            }
        }
        readiness.set_started();
        parts.spawn("the look at the counters", web.clone().look_at_counters(state.clone(), shutdown.clone()));
        parts.spawn(
            "the sweep of the cache",
            sweep(node.clone(), control.clone(), Arc::clone(&domains), shutdown.clone()),
        );
        parts.spawn("the keeping of alerts", keep_alerts(Arc::clone(&alerts), shutdown.clone()));
        if gateway.is_some() || tls.is_some() {
            parts.spawn(
                "the look at the certificates",
                refresh_certificates(gateway.clone(), tls.clone(), shutdown.clone()),
            );
        }
        Ok(Self {
            node,
            addresses,
            control,
            domains,
            log,
            readiness,
            shutdown,
            parts,
            config,
            gateway,
            web,
            state,
            tls,
            reach,
        })
    }

    /// The first place that a listener has.
    pub fn address(&self, listener: &str) -> Option<&Listen> {
        self.addresses.iter().find(|(name, _)| *name == listener).map(|(_, listen)| listen)
    }

    /// The web interface's address; `None` where there is no HTTP listener on TCP. One that listens everywhere is reached by the node's name.
    pub fn web_address(&self) -> Option<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        match self.address("http")? {
            Listen::Tcp(address) if address.ip().is_unspecified() => {
                Some(format!("{scheme}://{}:{}", self.config.node, address.port()))
            }
            Listen::Tcp(address) => Some(format!("{scheme}://{address}")),
            Listen::Unix(_) => None,
        }
    }

    /// Tells how the first account is made, where there is none.
    fn tell_set_up(&self) {
        if let Some(address) = self.web_address()
            && let Some(path) = self.web.set_up_path(&self.state)
        {
            tracing::info!("there is no account yet: open {address}{path} to make the first one; the link works once");
        }
    }

    /// Reads the configuration again: applies it whole, or says why not and changes nothing.
    pub async fn reload(&mut self, path: &Path) {
        let loaded = Config::load_with_remarks(path).and_then(|(config, remarks)| {
            let tls = (config.gateway_tls()?, config.http_tls(HTTP_PROTOCOLS)?);
            Ok((config, remarks, tls))
        });
        match loaded {
            Ok((config, remarks, (gateway_tls, http_tls))) => {
                remarks.iter().for_each(|remark| tracing::warn!("{remark}"));
                for (key, changed) in [
                    ("node", config.node != self.config.node),
                    ("data_dir", config.data_dir != self.config.data_dir),
                    ("listen", config.listen != self.config.listen),
                    (
                        "gateway.connections",
                        config.gateway.settings.connections != self.config.gateway.settings.connections,
                    ),
                    ("resolver", config.resolver != self.config.resolver),
                    ("http.tls_certificate", http_tls.is_some() != self.tls.is_some()),
                ] {
                    if changed {
                        tracing::warn!(key, "this change takes effect at the next start");
                    }
                }
                apply_file(&config, &self.node, &self.domains, &self.control);
                if let Err(error) = self.domains.settle(&self.control, &by_file("reload")).await {
                    tracing::error!(%error, "domains lead elsewhere, and their cache can't be cleared yet; it is tried every minute");
                }
                self.log.set_settings(config.log);
                self.node.engine.set_settings(config.engine_settings());
                let config = self.as_far_as_it_is_in_force(config, http_tls.is_some());
                self.node.callouts.reconfigure(config.callout_settings());
                if let Some(gateway) = &self.gateway {
                    gateway.reconfigure(gateway_tls, gateway_settings(&config));
                }
                self.reach.set_trusted_proxies(config.http.trusted_proxies.clone());
                if let (Some(shown), Some(read)) = (&self.tls, &http_tls) {
                    shown.replace(read);
                }
                tracing::info!(domains = config.domains.len(), "the configuration was read again and is in force");
                self.readiness.set_reloaded(None);
                self.web.set_configuration(config.to_toml());
                self.config = config;
            }
            Err(error) => {
                for sentence in &error.0 {
                    tracing::error!("{sentence}");
                }
                tracing::error!("the configuration has mistakes: nothing was changed");
                self.readiness.set_reloaded(Some(error.to_string()));
            }
        }
    }

    /// A new file with what takes effect only at a start as it was at this one: what the log and the pages call the configuration in force.
    fn as_far_as_it_is_in_force(&self, new: Config, new_has_tls: bool) -> Config {
        let running = &self.config;
        let mut config = Config {
            node: running.node.clone(),
            data_dir: running.data_dir.clone(),
            listen: running.listen.clone(),
            resolver: running.resolver.clone(),
            ..new
        };
        config.gateway.settings.connections = running.gateway.settings.connections;
        if new_has_tls != self.tls.is_some() {
            config.http.tls.clone_from(&running.http.tls);
        }
        config
    }

    /// Waits until a part ends that shall go on until the stop, and says which, and why. A listener that is gone would be missed by nobody but
    /// those who are not answered. Cancel-safe.
    pub async fn part_ended(&mut self) -> String {
        let (id, why) = match self.parts.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => (id, None),
            Some(Err(error)) => (error.id(), Some(error)),
            None => return std::future::pending().await,
        };
        let name = self.parts.names.remove(&id).unwrap_or_default();
        match why {
            Some(why) => format!("{name} has ended ({why})"),
            None => format!("{name} has ended"),
        }
    }

    /// Stops accepting, answers what was asked, and ends everything properly.
    pub async fn stop(&mut self) {
        self.readiness.set_draining();
        self.shutdown.cancel();
        while self.parts.tasks.join_next().await.is_some() {}
        self.node.shutdown(self.config.callout.timeout).await;
        self.control.keep_uses();
    }
}

impl Parts {
    fn spawn(&mut self, name: impl Into<String>, part: impl Future<Output = ()> + Send + 'static) {
        let id = self.tasks.spawn(part).id();
        self.names.insert(id, name.into());
    }
}

/// How long a stop waits for the answers that are under way.
fn grace(config: &Config) -> Duration {
    config.callout.timeout + GRACE
}

/// What the gateway allows, with the time for a stop that the longest question takes.
fn gateway_settings(config: &Config) -> callahead_listeners::gateway::Settings {
    callahead_listeners::gateway::Settings { grace: grace(config), ..config.gateway.settings.clone() }
}

/// Makes the folder that a Unix socket shall lie in, where only that one is missing: systemd makes `/run/callahead` for the service, and nobody
/// does for who runs `callahead serve` by hand. As the unit has it, everybody may go through it; the sockets' modes say who may use them.
fn make_folder_of(listen: &Listen) -> anyhow::Result<()> {
    let Listen::Unix(socket) = listen else { return Ok(()) };
    let Some(folder) = socket.parent() else { return Ok(()) };
    if folder.exists() || !folder.parent().is_some_and(Path::is_dir) {
        return Ok(());
    }
    let made = std::fs::create_dir(folder)
        .and_then(|()| std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)));
    made.with_context(|| {
        format!("the folder {} is not there and can't be made; make it, or name another", folder.display())
    })
}

/// Puts the file's domains into force, beside those of the control database, and with them where routes may lead.
fn apply_file(config: &Config, node: &Node, domains: &Domains, control: &Control) {
    let routes = config.domains.iter().flat_map(|d| [Some(&*d.route), d.relay.as_deref()].into_iter().flatten());
    node.guard.set(config.callout.deny_destinations.clone(), routes);
    domains.set_file(config.domains.clone(), config.defaults.clone(), config.tls, &control.local());
}

/// The log of the process, the metrics, the decision log, those who watch, and the alerts that stand.
struct All(Arc<dyn Observer>, Arc<Metrics>, DecisionLog, Events, Arc<AlertBoard>);

impl Observer for All {
    fn decided(&self, question: &callahead_engine::Question<'_>, decision: &callahead_engine::Decision) {
        self.0.decided(question, decision);
        self.1.decided(question, decision);
        self.2.decided(question, decision);
        self.3.decided(question, decision);
        self.4.decided(question, decision);
    }
    fn alert(&self, alert: &callahead_engine::Alert) {
        self.0.alert(alert);
        self.1.alert(alert);
        self.3.alert(alert);
        self.4.alert(alert);
    }
    fn alert_is_over(&self, domain: &str, kind: callahead_engine::AlertKind) {
        self.0.alert_is_over(domain, kind);
        self.3.alert_is_over(domain, kind);
        self.4.alert_is_over(domain, kind);
    }
}

/// Who changes domains by the configuration file.
fn by_file(when: &str) -> Actor {
    Actor { who: "configuration file".to_owned(), from: when.to_owned() }
}

/// Sweeps the cache now and then, in small batches, and writes when tokens were used. What could not be cleared of domains that lead elsewhere is
/// tried again.
async fn sweep(node: Node, control: Control, domains: Arc<Domains>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(SWEEP_EVERY) => {}
        }
        control.keep_uses();
        if domains.is_unsettled()
            && let Err(error) = domains.settle(&control, &by_file("retry")).await
        {
            tracing::error!(%error, "the cache of domains that lead elsewhere now can't be cleared yet");
        }
        let mut removed = 0;
        loop {
            match node.engine.cache().sweep(node.engine.now()).await {
                Ok(swept) => {
                    removed += swept.removed;
                    if swept.done || shutdown.is_cancelled() {
                        break;
                    }
                }
                // The cache has told its log.
                Err(_) => break,
            }
            tokio::time::sleep(SWEEP_PAUSE).await;
        }
        tracing::debug!(removed, "swept the cache");
    }
}

/// Writes the alerts down now and then, and at the end.
async fn keep_alerts(alerts: Arc<AlertBoard>, shutdown: CancellationToken) {
    loop {
        let is_over = tokio::select! {
            () = shutdown.cancelled() => true,
            () = tokio::time::sleep(ALERTS_EVERY) => false,
        };
        let board = Arc::clone(&alerts);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || board.keep()).await {
            tracing::warn!(%error, "the alerts can't be kept for the next start");
        }
        if is_over {
            return;
        }
    }
}

/// Reads certificates again when their files have changed.
async fn refresh_certificates(gateway: Option<Gateway>, http: Option<TlsServer>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(CERTIFICATE_EVERY) => {}
        }
        let shown = [("gateway", gateway.as_ref().and_then(Gateway::tls)), ("http", http.clone())];
        for (listener, tls) in shown {
            let Some(tls) = tls else { continue };
            match tls.refresh() {
                Ok(false) => {}
                Ok(true) => {
                    tracing::info!(listener, certificate = %tls.files().certificate.display(), "the certificate was read again");
                }
                Err(error) => {
                    tracing::error!(listener, %error, "the certificate has changed and can't be used: the one before stays");
                }
            }
        }
    }
}

/// Waits for what may take a while where many domains lead elsewhere and are cleared, and has systemd not end the process over it.
async fn meanwhile<T>(
    mut work: Pin<Box<impl Future<Output = T>>>,
    ticks: &mut Interval,
    told: &[NotifyState<'_>],
) -> T {
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = ticks.tick() => notify(told),
        }
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}

/// Ticks at half of what systemd's watchdog allows; never where there is none.
fn watchdog() -> Interval {
    const NEVER: Duration = Duration::from_secs(365 * 86_400);
    let every = sd_notify::watchdog_enabled().map_or(NEVER, |within| within / 2);
    let mut interval = tokio::time::interval(every.max(Duration::from_millis(100)));
    interval.reset();
    interval
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    struct Nobody;

    impl Observer for Nobody {
        fn decided(&self, _: &callahead_engine::Question<'_>, _: &callahead_engine::Decision) {}
        fn alert(&self, _: &callahead_engine::Alert) {}
    }

    #[tokio::test]
    async fn a_listener_that_ends_by_itself_is_noticed_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "node = \"filter.example\"\ndata_dir = \"{}\"\n[listen]\npolicy = [\"127.0.0.1:0\"]\nhttp = [\"127.0.0.1:0\"]\n",
            folder.path().display()
        );
        let mut server = Server::start(Config::parse(&text, "test").unwrap(), Arc::new(Nobody)).await.unwrap();
        tokio::select! {
            biased;
            ended = server.part_ended() => panic!("{ended}"),
            () = tokio::task::yield_now() => {}
        }
        server.parts.spawn("the policy listener at 127.0.0.1:10040", async { panic!("out of bounds") });
        let ended = server.part_ended().await;
        assert!(ended.starts_with("the policy listener at 127.0.0.1:10040 has ended (task "), "{ended}");
        assert!(ended.contains("panicked") && ended.contains("out of bounds"), "{ended}");
        // And so is each that was there from the start.
        let there = server.parts.tasks.len();
        server.parts.tasks.abort_all();
        let mut all = String::new();
        for _ in 0..there {
            all.push_str(&server.part_ended().await);
        }
        for part in ["the policy listener at 127.0.0.1:", "the http listener at 127.0.0.1:", "the sweep of the cache"] {
            assert!(all.contains(part), "{all}");
        }
        server.stop().await;
    }
}
