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
//!
//! A route may change and change back before all of that is done: because the cache can't be written, or because the process is killed. What the
//! destination in between said must not count for the one before. So a name that is about to lead elsewhere is *doubted* before the
//! engine sees the new route ([`Domains`](crate::Domains)), in the cache's file too, and counts as changed until it is settled.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use callahead_cache::{CacheError, Scope};
use callahead_engine::{Directory, DomainConfig, Engine};
use callahead_smtp::Domain;
use tokio::task::{JoinError, JoinSet};

use crate::audit::{Actor, AuditEntry};
use crate::control::{Control, ControlError};

/// Domains of the cache that are read at a time.
const PAGE: usize = 1000;
/// Domains that are cleared at a time: the cache's writer takes them into a few commits, where each by itself is a sync of the disk. What is done is
/// written down after so many, so that whoever is killed in between need not begin anew.
const AT_A_TIME: usize = 256;

/// Why what is known of another destination is not forgotten yet.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// The cache can't be written or read.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The control database can't be written or read.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A part of it ended in a panic, or with the runtime.
    #[error("what is known of other destinations was not looked for to the end: {0}")]
    Ended(#[from] JoinError),
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

/// The routes under which the cache was filled, or those of the directory in force, by configured name.
#[derive(Debug, Default)]
pub(crate) struct Routes(HashMap<String, Kept>);

#[derive(Debug, Default)]
struct Kept {
    text: String,
    /// Where it is known to be of this very one, nothing has to be compared.
    config: Option<Arc<DomainConfig>>,
    /// It led elsewhere meanwhile, whatever its route is now.
    is_doubted: bool,
}

/// A name whose route has changed, and what is to be cleared for it before its new route is written down.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) name: String,
    /// `None` where the name is gone.
    route: Option<String>,
    domains: Vec<Domain>,
}

/// What has become of a name: its route, or that it is gone.
type Delta = Vec<(String, Option<String>)>;

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
    let words: Vec<&str> = text.into_iter().flat_map(str::split_whitespace).collect();
    let hops: Vec<&str> = words.iter().copied().filter(|word| *word != FOLDED).collect();
    let mut shown = serde_json::json!({"route": hops});
    if hops.len() < words.len() {
        shown["local_part_case"] = "fold".into();
    }
    Some(shown.to_string())
}

impl Routes {
    pub(crate) fn new(kept: HashMap<String, String>) -> Self {
        Self(kept.into_iter().map(|(name, text)| (name, Kept { text, ..Kept::default() })).collect())
    }

    /// Of a domain, or of all that a wildcard covers: by the longest match, as [`Directory::find`] has it.
    fn find(&self, name: &str) -> Option<&Kept> {
        if let Some(kept) = self.0.get(name) {
            return Some(kept);
        }
        if name.starts_with('[') {
            return None;
        }
        let mut rest = name;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(kept) = self.0.get(&format!("*.{parent}")) {
                return Some(kept);
            }
            rest = parent;
        }
        None
    }

    /// Takes the routes of a directory over. Gives the names that led somewhere before and lead elsewhere now.
    pub(crate) fn follow(&mut self, directory: &Directory) -> Vec<String> {
        let delta = self.changed(directory);
        let led = |routes: &Self, name: &str| routes.find(name).map(|kept| kept.text.clone());
        let before: Vec<_> = delta.iter().map(|(name, _)| (name.clone(), led(self, name))).collect();
        self.take(delta);
        let moved = before.into_iter().filter(|(name, before)| before.is_some() && *before != led(self, name));
        moved.map(|(name, _)| name).collect()
    }

    /// These led elsewhere since their routes were kept.
    fn doubt<'a>(&mut self, names: impl Iterator<Item = &'a String>) {
        for name in names {
            self.0.entry(name.clone()).or_default().is_doubted = true;
        }
    }

    /// The names whose route is not as it was kept, or is doubted.
    fn changed(&mut self, directory: &Directory) -> Delta {
        let mut delta = Delta::new();
        let mut there = HashSet::new();
        for config in directory.iter() {
            there.insert(config.name.as_str());
            match self.0.get_mut(&config.name).filter(|kept| !kept.is_doubted) {
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
                Some(text) => drop(self.0.insert(name, Kept { text, ..Kept::default() })),
                None => drop(self.0.remove(&name)),
            }
        }
    }

    /// Whether what is known of it comes from elsewhere.
    fn leads_elsewhere(&self, engine: &Engine, directory: &Directory, domain: &Domain) -> Result<bool, CacheError> {
        let route = directory.find(domain).map(|config| text(config));
        if let Some(before) = self.find(&domain.to_string()) {
            return Ok(before.is_doubted || route.as_ref() != Some(&before.text));
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
async fn cached_below(engine: &Engine, suffixes: Vec<String>) -> Result<Vec<Domain>, SettleError> {
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
    tokio::task::spawn_blocking(read).await?
}

/// What is to be done until the cache holds answers of no other destinations than the directory's, in the order in which it is to be done: a domain is
/// cleared with the longest name that covers it and has changed, and up to then no shorter one may be written down, by which it might seem to
/// lead where it always did.
pub(crate) async fn steps(
    engine: &Engine,
    directory: &Directory,
    routes: &mut Routes,
    doubted: impl Iterator<Item = &String>,
) -> Result<Vec<Step>, SettleError> {
    routes.doubt(doubted);
    let delta = routes.changed(directory);
    let mut moved = routes.moved(engine, directory, &delta).await?;
    let step = |(name, route)| Step { domains: moved.remove(&name).unwrap_or_default(), name, route };
    let mut steps: Vec<Step> = delta.into_iter().map(step).collect();
    steps.sort_by_key(|step| (step.name.starts_with('*'), Reverse(step.name.len())));
    Ok(steps)
}

/// Takes as many of the next steps as are done at a time.
pub(crate) fn next(steps: &mut Vec<Step>) -> Vec<Step> {
    let mut domains = 0;
    let fitting = steps.iter().take_while(|step| {
        let fits = domains < AT_A_TIME;
        domains += step.domains.len();
        fits
    });
    let count = fitting.count();
    steps.drain(..count).collect()
}

/// Clears what these steps are about, with an entry of each in the audit log, and writes their routes down.
pub(crate) async fn settle(
    engine: &Engine,
    control: &Control,
    routes: &mut Routes,
    steps: Vec<Step>,
    actor: &Actor,
) -> Result<Vec<Moved>, SettleError> {
    let entries = |action: &str| -> Vec<AuditEntry> {
        let moved = steps.iter().filter(|step| !step.domains.is_empty());
        let entry = |step: &Step| {
            let before = routes.0.get(&step.name).map(|kept| kept.text.as_str());
            let owner = control.local().domains().get(&step.name).and_then(|record| record.value.owner.clone());
            AuditEntry::new(actor.clone(), action, &step.name)
                .about(&step.name, owner.as_deref())
                .change(as_json(before), as_json(step.route.as_deref()))
        };
        moved.map(entry).collect()
    };
    let cleared = control.audited_clear(entries, || engine.now(), clear(engine, &steps)).await?;
    let delta: Delta = steps.iter().map(|step| (step.name.clone(), step.route.clone())).collect();
    engine.cache().keep_routes(delta.clone()).await?;
    routes.take(delta);
    let mut moved = Vec::new();
    for (Step { name, domains, .. }, entries) in steps.into_iter().zip(cleared) {
        if domains.is_empty() {
            continue;
        }
        tracing::info!(
            domain = name,
            entries,
            by = actor.who,
            "it leads elsewhere, or tells recipients apart in another way: what was known is forgotten"
        );
        moved.push(Moved { name, domains, entries });
    }
    Ok(moved)
}

/// Clears the domains of each step, and gives how many entries that forgot.
async fn clear(engine: &Engine, steps: &[Step]) -> Result<Vec<u64>, SettleError> {
    let mut entries = vec![0; steps.len()];
    let mut domains = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        domains.extend(step.domains.iter().map(|domain| (at, Scope::Domain(domain.clone()))));
    }
    let mut domains = domains.into_iter();
    let mut under_way = JoinSet::new();
    loop {
        for (at, scope) in domains.by_ref().take(AT_A_TIME - under_way.len()) {
            let engine = engine.clone();
            under_way.spawn(async move { (at, engine.clear(scope).await) });
        }
        let Some(done) = under_way.join_next().await else { return Ok(entries) };
        let (at, cleared) = done?;
        entries[at] += cleared?.entries;
    }
}
