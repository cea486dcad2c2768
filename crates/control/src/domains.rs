//! The domains in force: those of the configuration file and those of the control database, put together for the engine and the decision log.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use callahead_callout::{Route, TlsPolicy};
use callahead_engine::{AcceptOrDefer, Callouts, Directory, DomainConfig, Engine, LoggedRecipients, Policy};

use crate::audit::Actor;
use crate::control::Control;
use crate::local::Local;
use crate::log::DecisionLog;
use crate::settled::{self, Moved, Routes, SettleError, Step};

/// Keeps the directory of the engine and of the log up to date. The file's domains win by name.
pub struct Domains {
    engine: Engine,
    log: DecisionLog,
    state: Mutex<State>,
    /// The routes under which the cache was filled; read when they are needed first.
    settled: tokio::sync::Mutex<Option<Routes>>,
    /// How often the directory was made anew, and which of these is settled.
    made: AtomicU64,
    made_settled: AtomicU64,
}

#[derive(Default)]
struct State {
    file: HashMap<String, Arc<DomainConfig>>,
    defaults: Policy,
    tls: TlsPolicy,
    /// What was made of each record, by its revision, so that a change of one domain costs that one.
    made: HashMap<String, (u64, Arc<DomainConfig>)>,
    /// The routes of the directory in force; before there is one, those under which the cache was filled.
    published: Option<Routes>,
    /// The names that were led elsewhere and are not settled since, and when: the count of the directories made until then.
    doubted: HashMap<String, u64>,
}

impl std::fmt::Debug for Domains {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Domains").finish_non_exhaustive()
    }
}

impl Domains {
    /// For this engine, and for this log, which keeps of each domain what the domain says; with no domains yet.
    pub fn new(engine: Engine, log: DecisionLog) -> Self {
        Self {
            engine,
            log,
            state: Mutex::default(),
            settled: tokio::sync::Mutex::default(),
            made: AtomicU64::new(0),
            made_settled: AtomicU64::new(0),
        }
    }

    /// What the configuration file says from now on; takes effect with the records at once.
    pub fn set_file(&self, domains: Vec<DomainConfig>, defaults: Policy, tls: TlsPolicy, local: &Local) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.file = domains.into_iter().map(|domain| (domain.name.clone(), Arc::new(domain))).collect();
        (state.defaults, state.tls) = (defaults, tls);
        state.made.clear();
        self.publish(&mut state, local, true);
    }

    /// Takes the records' changes over; questions under way keep what they began with.
    pub fn follow(&self, local: &Local) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.publish(&mut state, local, false);
    }

    /// Clears what the cache holds of domains that lead elsewhere since it was learned; those that were removed among them. When this resolves, no
    /// answer of another destination than that of the directory is served any more. Gives what was cleared. `actor` is who the audit log says did it.
    ///
    /// To be called at the start before anything is served, and after every change before it is acknowledged.
    ///
    /// # Errors
    /// When the cache or the control database can't be written or read. Then [`Domains::is_unsettled`], and it may be tried again.
    pub async fn settle(&self, control: &Control, actor: &Actor) -> Result<Vec<Moved>, SettleError> {
        let mut settled = self.settled.lock().await;
        let routes = match &mut *settled {
            Some(routes) => routes,
            none => none.insert(Routes::new(self.engine.cache().routes()?)),
        };
        let (made, directory, doubted) = {
            // No directory comes between its doubts and itself.
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            (self.made.load(Ordering::Acquire), self.engine.directory(), state.doubted.clone())
        };
        let mut steps = settled::steps(&self.engine, &directory, routes, doubted.keys()).await?;
        if !doubted.is_empty() {
            // So that the doubts are on disk before the routes that take their place.
            self.engine.cache().flush().await?;
        }
        let mut moved = Vec::new();
        while !steps.is_empty() {
            let some = settled::next(&mut steps);
            let names: Vec<String> = some.iter().map(|Step { name, .. }| name.clone()).collect();
            moved.extend(settled::settle(&self.engine, control, routes, some, actor).await?);
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            for name in names {
                // One that was led elsewhere meanwhile is still doubted.
                if state.doubted.get(&name).is_some_and(|at| *at <= made) {
                    state.doubted.remove(&name);
                }
            }
        }
        self.made_settled.store(made, Ordering::Release);
        Ok(moved)
    }

    /// Whether [`Domains::settle`] has something to look at.
    pub fn is_unsettled(&self) -> bool {
        self.made.load(Ordering::Acquire) != self.made_settled.load(Ordering::Acquire)
    }

    /// Whether the configuration file has a domain of this name.
    pub fn is_in_file(&self, name: &str) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).file.contains_key(name)
    }

    /// The configuration file's domain of this name.
    pub fn find_in_file(&self, name: &str) -> Option<Arc<DomainConfig>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).file.get(name).cloned()
    }

    /// The domains of the configuration file.
    pub fn of_file(&self) -> Vec<Arc<DomainConfig>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).file.values().cloned().collect()
    }

    /// The domains of the control database that are there and can't be used, in order of their names: another version wrote them, or somebody by
    /// hand. Recipients there are deferred.
    pub fn unusable(&self) -> Vec<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let unusable = state.made.iter().filter(|(name, (_, made))| {
            // No domain that can be used is without a route.
            made.route.hops.is_empty() && !state.file.contains_key(*name)
        });
        let mut names: Vec<String> = unusable.map(|(name, _)| name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// What holds where a domain does not say otherwise.
    pub fn defaults(&self) -> (Policy, TlsPolicy) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.defaults.clone(), state.tls)
    }

    /// `is_other`: the file's domains are others. Where nothing is, such as with the record of a session, the directory stays.
    fn publish(&self, state: &mut State, local: &Local, mut is_other: bool) {
        let State { file, defaults, tls, made, published, doubted } = state;
        for (name, record) in local.domains() {
            if made.get(name).is_some_and(|(revision, _)| *revision == record.revision) {
                continue;
            }
            let config = match record.value.to_config(defaults, *tls) {
                Ok(config) => config,
                // It was good when it was written, and defaults can't break it: another version wrote it.
                Err(why) => {
                    tracing::error!(
                        domain = name,
                        why,
                        "a domain of the control database can't be used: its recipients are deferred until it is mended"
                    );
                    unusable(name, defaults)
                }
            };
            made.insert(name.clone(), (record.revision, Arc::new(config)));
            is_other = true;
        }
        let known: HashSet<&String> = local.domains().keys().collect();
        let before = made.len();
        made.retain(|name, _| known.contains(name));
        if !is_other && made.len() == before {
            return;
        }
        let of_records =
            made.iter().filter(|(name, _)| !file.contains_key(*name)).map(|(_, (_, made))| Arc::clone(made));
        let directory = Directory::from_shared(file.values().cloned().chain(of_records));
        let published = published.get_or_insert_with(|| {
            Routes::new(self.engine.cache().routes().unwrap_or_else(|error| {
                tracing::error!(%error, "the routes under which the cache was filled can't be read");
                HashMap::new()
            }))
        });
        let moved = published.follow(&directory);
        let number = self.made.load(Ordering::Acquire) + 1;
        doubted.extend(moved.iter().map(|name| (name.clone(), number)));
        // Before anything is asked under the new routes.
        self.engine.cache().doubt_routes(moved);
        self.engine.set_directory(directory);
        self.log.set_domains(self.engine.directory());
        // Behind it, so that whoever sees the count sees the directory.
        self.made.fetch_add(1, Ordering::AcqRel);
    }
}

/// A domain that is here, and of which nothing more is known: without a host that could be asked, so that row 14 defers each recipient. A domain that
/// is not in the directory is nobody's, and its mail is refused for good.
fn unusable(name: &str, defaults: &Policy) -> DomainConfig {
    let policy = Policy {
        callouts: Callouts::Enforce,
        tempfail: AcceptOrDefer::Defer,
        // It may be what the record says.
        log_recipients: LoggedRecipients::Domain,
        ..defaults.clone()
    };
    let nowhere = Route { hops: Vec::new(), tls: TlsPolicy::default() };
    DomainConfig { policy, ..DomainConfig::new(name, nowhere) }
}
