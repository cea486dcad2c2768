//! What every command that asks is made of: the cache, the callouts and the engine, wired by a configuration.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use callahead_cache::{Cache, Options};
use callahead_callout::{Callouts, DnsResolver, Guard, GuardedDialer, GuardedResolver, TcpDialer, TlsClient};
use callahead_config::Config;
use callahead_engine::{Clock as _, Engine, Observer, Parts, SystemClock};

/// An engine with what it asks through.
#[derive(Clone, Debug)]
pub struct Node {
    /// Decides.
    pub engine: Engine,
    /// Asks destinations.
    pub callouts: Callouts,
    /// Where they may be; without rules, everywhere.
    pub guard: Guard,
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
        let guard = Guard::default();
        let dialer = GuardedDialer(TcpDialer, guard.clone());
        let resolver = GuardedResolver(resolver, guard.clone());
        let callouts = Callouts::new(config.callout_settings(), dialer, resolver, TlsClient::new(&[])?);
        let engine = Engine::new(Parts {
            cache,
            callouts: Arc::new(callouts.clone()),
            clock,
            directory: config.directory(),
            settings: config.engine_settings(),
            observer,
        });
        Ok(Self { engine, callouts, guard })
    }

    /// Ends sessions properly and writes what is still to be written, within so much time.
    pub async fn shutdown(&self, grace: Duration) {
        self.engine.shutdown(grace).await;
        self.callouts.shutdown(Duration::from_secs(3)).await;
    }
}
