//! Routes that have changed, and what the cache holds of the destinations from before.
//!
//! An answer holds for the destination that gave it. So when a domain leads somewhere else (by a record, by the configuration file, because a
//! wildcard that covers it came or went), everything learned of it is cleared before the change is acknowledged. It is another destination where
//! the hops are others, or in another order, since the first that answers speaks for the domain; TLS, `relay` and most policies change nothing of
//! what is so there. A domain that is removed is cleared too, and one whose `local_part_case` is another: what was kept under one spelling could
//! not be cleared under the other, and would be served again when that is taken back.
//!
//! The routes under which the cache was filled are kept in the cache's own file and written when all that is changed is cleared. So it is found
//! at the next start where the process was killed in between, and where the configuration file was changed, or `control.db` is another one
//! (a backup, or none), while it did not run. What is known of a domain without a route in that file is forgotten, too: the process was killed
//! before it was written down.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use callahead_cache::{CacheError, Scope};
use callahead_engine::{Directory, DomainConfig, Engine};
use callahead_smtp::Domain;

use crate::audit::{Actor, AuditEntry};
use crate::control::{Control, ControlError};

/// Domains of the cache that are read at a time.
const PAGE: usize = 1000;

/// Why what is known of another destination is not forgotten yet.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// The cache can't be written or read.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The control database can't be written or read.
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// A configured domain whose route has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The name under which it is, or was, configured.
    pub name: String,
    /// What was cleared: the domain itself, or those that a wildcard covers.
    pub domains: Vec<Domain>,
    /// Entries that were forgotten.
    pub entries: u64,
}

/// The routes under which the cache was filled, by configured name.
#[derive(Debug, Default)]
pub(crate) struct Routes(HashMap<String, Kept>);

#[derive(Debug)]
struct Kept {
    text: String,
    /// Where it is known to be of this very one, nothing has to be compared.
    config: Option<Arc<DomainConfig>>,
}

/// What is to be written of a name: its route, or that it is gone.
pub(crate) type Delta = Vec<(String, Option<String>)>;

/// Stands behind the hops where local parts that differ by case only are one mailbox.
const FOLDED: &str = "local_part_case=fold";

/// A route's hops, in the order in which they are tried, and how recipients are told apart there.
fn text(config: &DomainConfig) -> String {
    let hops = config.route.hops.iter().map(ToString::to_string);
    let words: Vec<String> = hops.chain(config.policy.fold_local_part.then(|| FOLDED.to_owned())).collect();
    words.join(" ")
}

/// The same for the audit log.
fn as_json(text: Option<&str>) -> Option<String> {
    let words: Vec<&str> = text.into_iter().flat_map(|text| text.split(' ')).collect();
    let hops: Vec<&str> = words.iter().copied().filter(|word| *word != FOLDED).collect();
    let mut shown = serde_json::json!({"route": hops});
    if hops.len() < words.len() {
        shown["local_part_case"] = "fold".into();
    }
    Some(shown.to_string())
}

impl Routes {
    pub(crate) fn new(kept: HashMap<String, String>) -> Self {
        Self(kept.into_iter().map(|(name, text)| (name, Kept { text, config: None })).collect())
    }

    /// By the longest match, as [`Directory::find`] has it.
    fn find(&self, domain: &Domain) -> Option<&str> {
        let name = domain.to_string();
        if let Some(kept) = self.0.get(&name) {
            return Some(&kept.text);
        }
        domain.name()?;
        let mut rest = name.as_str();
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(kept) = self.0.get(&format!("*.{parent}")) {
                return Some(&kept.text);
            }
            rest = parent;
        }
        None
    }

    /// The names whose route is not as it was kept.
    fn changed(&mut self, directory: &Directory) -> Delta {
        let mut delta = Delta::new();
        let mut there = HashSet::new();
        for config in directory.iter() {
            there.insert(config.name.as_str());
            match self.0.get_mut(&config.name) {
                Some(kept) if kept.config.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, config)) => {}
                Some(kept) if kept.text == text(config) => kept.config = Some(Arc::clone(config)),
                _ => delta.push((config.name.clone(), Some(text(config)))),
            }
        }
        let gone = self.0.keys().filter(|name| !there.contains(name.as_str()));
        delta.extend(gone.map(|name| (name.clone(), None)));
        delta.sort();
        delta
    }

    fn take(&mut self, delta: Delta) {
        for (name, text) in delta {
            match text {
                Some(text) => drop(self.0.insert(name, Kept { text, config: None })),
                None => drop(self.0.remove(&name)),
            }
        }
    }

    /// Whether what is known of it comes from elsewhere.
    fn leads_elsewhere(&self, engine: &Engine, directory: &Directory, domain: &Domain) -> Result<bool, CacheError> {
        let route = directory.find(domain).map(|config| text(config));
        if let Some(before) = self.find(domain) {
            return Ok(route.as_deref() != Some(before));
        }
        // What was covered by nothing was asked nowhere, unless the process was killed before its route was written down.
        let kept = engine.cache().stats(Some(domain))?;
        Ok([kept.valid, kept.invalid, kept.domains].iter().any(|count| *count > 0))
    }

    /// The domains that lead elsewhere than what is known of them, by the changed name that made it so.
    async fn moved(
        &self,
        engine: &Engine,
        directory: &Directory,
        delta: &Delta,
    ) -> Result<BTreeMap<String, Vec<Domain>>, SettleError> {
        let mut moved: BTreeMap<String, Vec<Domain>> = BTreeMap::new();
        let mut suffixes = Vec::new();
        for (name, _) in delta {
            match name.strip_prefix('*') {
                Some(suffix) => suffixes.push((suffix.to_owned(), name)),
                None => {
                    if let Ok(domain) = Domain::parse(name)
                        && self.leads_elsewhere(engine, directory, &domain)?
                    {
                        moved.entry(name.clone()).or_default().push(domain);
                    }
                }
            }
        }
        if suffixes.is_empty() {
            return Ok(moved);
        }
        let mut known = engine.domains_in_memory();
        known.extend(cached_below(engine, suffixes.iter().map(|(suffix, _)| suffix.clone()).collect()).await?);
        let by_name: HashSet<Domain> = moved.values().flatten().cloned().collect();
        for domain in known.into_iter().filter(|domain| !by_name.contains(domain)) {
            let text = domain.to_string();
            let covering = suffixes.iter().filter(|(suffix, _)| text.ends_with(suffix.as_str()));
            if let Some((_, name)) = covering.max_by_key(|(suffix, _)| suffix.len())
                && self.leads_elsewhere(engine, directory, &domain)?
            {
                moved.entry((*name).clone()).or_default().push(domain);
            }
        }
        Ok(moved)
    }
}

/// The domains of which the cache holds something and whose names end so.
async fn cached_below(engine: &Engine, suffixes: Vec<String>) -> Result<Vec<Domain>, CacheError> {
    let cache = engine.cache().clone();
    let read = move || {
        let (mut found, mut cursor) = (Vec::new(), None);
        loop {
            let (page, next) = cache.domain_counts(cursor.as_ref(), PAGE)?;
            let below = page.iter().filter(|counts| suffixes.iter().any(|suffix| counts.domain.ends_with(suffix)));
            found.extend(below.filter_map(|counts| Domain::parse(&counts.domain).ok()));
            match next {
                Some(next) => cursor = Some(next),
                None => return Ok(found),
            }
        }
    };
    // Many domains take a while, and questions have the other threads.
    tokio::task::spawn_blocking(read).await.unwrap_or(Ok(Vec::new()))
}

/// Clears what is known of other destinations than those of the engine's directory, with an entry of each in the audit log, and writes down that
/// this is so.
pub(crate) async fn settle(
    engine: &Engine,
    control: &Control,
    routes: &mut Routes,
    actor: &Actor,
) -> Result<Vec<Moved>, SettleError> {
    let directory = engine.directory();
    let delta = routes.changed(&directory);
    if delta.is_empty() {
        return Ok(Vec::new());
    }
    let found = routes.moved(engine, &directory, &delta).await?;
    // Written before it is done: there is no clear without its entry.
    if !found.is_empty() {
        let entries = found.keys().map(|name| {
            let after = delta.iter().find(|(changed, _)| changed == name).and_then(|(_, text)| text.as_deref());
            let before = routes.0.get(name).map(|kept| kept.text.as_str());
            let owner = control.local().domains().get(name).and_then(|record| record.value.owner.clone());
            AuditEntry::new(actor.clone(), "cache.clear", name)
                .about(name, owner.as_deref())
                .change(as_json(before), as_json(after))
        });
        let entries = entries.collect();
        control.apply(Vec::new(), entries, engine.now()).await?;
    }
    let mut moved = Vec::new();
    for (name, domains) in found {
        let mut entries = 0;
        for domain in &domains {
            entries += engine.clear(Scope::Domain(domain.clone())).await?.entries;
        }
        tracing::info!(
            domain = name,
            entries,
            by = actor.who,
            "it leads elsewhere, or tells recipients apart in another way: what was known is forgotten"
        );
        moved.push(Moved { name, domains, entries });
    }
    engine.cache().keep_routes(delta.clone()).await?;
    routes.take(delta);
    Ok(moved)
}
