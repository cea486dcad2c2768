//! What every command that asks is made of: the cache, the callouts and the engine, wired by a configuration.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use callahead_cache::{Cache, Options};
use callahead_callout::{Callouts, DnsResolver, TcpDialer, TlsClient};
use callahead_engine::{Clock as _, Engine, Observer, Parts, SystemClock};

use crate::config::Config;

/// An engine with what it asks through.
#[derive(Clone, Debug)]
pub struct Node {
    /// Decides.
    pub engine: Engine,
    /// Asks destinations.
    pub callouts: Callouts,
}

impl Node {
    /// A node by this configuration, with its cache in this folder.
    ///
    /// # Errors
    /// A sentence on what can't be opened.
    pub fn new(config: &Config, cache_dir: &Path, observer: Arc<dyn Observer>) -> anyhow::Result<Self> {
        let clock = Arc::new(SystemClock::new());
        let cache = Cache::open_or_begin_anew(cache_dir, &Options::default(), clock.now())?;
        let resolver = DnsResolver::new(&config.resolver).context("the system's name servers can't be read")?;
        let callouts = Callouts::new(config.callout_settings(), TcpDialer, resolver, TlsClient::new(&[])?);
        let engine = Engine::new(Parts {
            cache,
            callouts: Arc::new(callouts.clone()),
            clock,
            directory: config.directory(),
            settings: config.engine_settings(),
            observer,
        });
        Ok(Self { engine, callouts })
    }

    /// Ends sessions properly and writes what is still to be written, within so much time.
    pub async fn shutdown(&self, grace: Duration) {
        self.engine.shutdown(grace).await;
        self.callouts.shutdown(Duration::from_secs(3)).await;
    }
}

impl Config {
    /// The limits of callouts by this configuration.
    pub fn callout_settings(&self) -> callahead_callout::Settings {
        callahead_callout::Settings {
            timeout: self.callout.timeout,
            connect_timeout: self.callout.connect_timeout,
            idle: self.callout.idle,
            uses: self.callout.uses,
            sessions_per_destination: self.callout.sessions_per_destination,
            ..callahead_callout::Settings::new(self.node.clone())
        }
    }

    /// The engine's bounds by this configuration.
    pub fn engine_settings(&self) -> callahead_engine::Settings {
        callahead_engine::Settings { deadline: self.callout.timeout, harvest: self.harvest, ..Default::default() }
    }
}
