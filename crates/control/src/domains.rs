//! The domains in force: those of the configuration file and those of the control database, put together for the engine and the decision log.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use callahead_callout::TlsPolicy;
use callahead_engine::{Directory, DomainConfig, Engine, Policy};

use crate::local::Local;
use crate::log::DecisionLog;

/// Keeps the directory of the engine and of the log up to date. The file's domains win by name.
pub struct Domains {
    engine: Engine,
    log: DecisionLog,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    file: HashMap<String, Arc<DomainConfig>>,
    defaults: Policy,
    tls: TlsPolicy,
    /// What was made of each record, by its revision, so that a change of one domain costs that one.
    made: HashMap<String, (u64, Option<Arc<DomainConfig>>)>,
}

impl std::fmt::Debug for Domains {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Domains").finish_non_exhaustive()
    }
}

impl Domains {
    /// For this engine, and for this log, which keeps of each domain what the domain says; with no domains yet.
    pub fn new(engine: Engine, log: DecisionLog) -> Self {
        Self { engine, log, state: Mutex::default() }
    }

    /// What the configuration file says from now on; takes effect with the records at once.
    pub fn set_file(&self, domains: Vec<DomainConfig>, defaults: Policy, tls: TlsPolicy, local: &Local) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.file = domains.into_iter().map(|domain| (domain.name.clone(), Arc::new(domain))).collect();
        (state.defaults, state.tls) = (defaults, tls);
        state.made.clear();
        self.publish(&mut state, local);
    }

    /// Takes the records' changes over; questions under way keep what they began with.
    pub fn follow(&self, local: &Local) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.publish(&mut state, local);
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

    /// What holds where a domain does not say otherwise.
    pub fn defaults(&self) -> (Policy, TlsPolicy) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.defaults.clone(), state.tls)
    }

    fn publish(&self, state: &mut State, local: &Local) {
        let State { file, defaults, tls, made } = state;
        for (name, record) in local.domains() {
            if made.get(name).is_some_and(|(revision, _)| *revision == record.revision) {
                continue;
            }
            let config = match record.value.to_config(defaults, *tls) {
                Ok(config) => Some(Arc::new(config)),
                // It was good when it was written, and defaults can't break it: another version wrote it.
                Err(why) => {
                    tracing::error!(domain = name, why, "a domain of the control database can't be used");
                    None
                }
            };
            made.insert(name.clone(), (record.revision, config));
        }
        let known: HashSet<&String> = local.domains().keys().collect();
        made.retain(|name, _| known.contains(name));
        let of_records =
            made.iter().filter(|(name, _)| !file.contains_key(*name)).filter_map(|(_, (_, made))| made.clone());
        self.engine.set_directory(Directory::from_shared(file.values().cloned().chain(of_records)));
        self.log.set_domains(self.engine.directory());
    }
}
