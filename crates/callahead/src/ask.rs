//! What `check` and `verify` share: a node for one command, with its cache in a folder that goes when the command ends.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use callahead_callout::{Hop, Route};
use callahead_config::{Config, DEFAULT_PATH};
use callahead_engine::{Alert, Decision, Directory, DomainConfig, Observer, Question};
use callahead_smtp::Domain;
use tempfile::TempDir;

use crate::cli::AskArgs;
use crate::node::Node;
use crate::output;

/// A node that lives as long as its command.
pub(crate) struct Asker {
    pub(crate) node: Node,
    /// The domains that were asked for, each with its route.
    pub(crate) directory: Directory,
    /// Those that are not in the file, with no `--route` for them: their MX stands for a route.
    pub(crate) elsewhere: BTreeSet<String>,
    _cache: TempDir,
}

/// The command prints what it decides.
struct Quiet;

impl Observer for Quiet {
    fn decided(&self, _: &Question<'_>, _: &Decision) {}
    fn alert(&self, _: &Alert) {}
}

impl Asker {
    /// For recipients of these domains: by `--route`, else as configured, else by MX.
    pub(crate) fn new(args: &AskArgs, domains: impl Iterator<Item = Domain>) -> anyhow::Result<Self> {
        let (mut config, remarks) = match &args.config {
            Some(path) => Config::load_with_remarks(path)?,
            None if Path::new(DEFAULT_PATH).exists() => Config::load_with_remarks(Path::new(DEFAULT_PATH))?,
            None => (Config::default(), Vec::new()),
        };
        output::warnings(&remarks);
        // A list is asked in one go by one who may: nobody guesses here.
        config.harvest.limit = 0;
        let configured = config.directory();
        let mut wanted = HashMap::new();
        let mut elsewhere = BTreeSet::new();
        for domain in domains {
            if args.route.is_none() && configured.find(&domain).is_none() {
                elsewhere.insert(domain.to_string());
            }
            wanted.entry(domain.to_string()).or_insert_with(|| self::domain(args, &config, &configured, &domain));
        }
        config.domains = wanted.into_values().collect();
        let cache = tempfile::Builder::new().prefix("callahead-").tempdir()?;
        let node = Node::new(&config, cache.path(), Arc::new(Quiet))?;
        Ok(Self { node, directory: config.directory(), elsewhere, _cache: cache })
    }

    /// Whether nobody has said where this domain is asked.
    pub(crate) fn is_elsewhere(&self, domain: &Domain) -> bool {
        self.elsewhere.contains(&domain.to_string())
    }
}

fn domain(args: &AskArgs, config: &Config, configured: &Directory, domain: &Domain) -> DomainConfig {
    let mut found = match configured.find(domain) {
        Some(found) => DomainConfig { name: domain.to_string(), ..(**found).clone() },
        None => {
            let route = Route { hops: vec![Hop::Mx], tls: config.tls };
            DomainConfig { policy: config.defaults.clone(), ..DomainConfig::new(&domain.to_string(), route) }
        }
    };
    if args.route.is_some() || args.tls.is_some() {
        let mut route = (*found.route).clone();
        if let Some(hop) = &args.route {
            route.hops = vec![hop.clone()];
        }
        if let Some(tls) = args.tls {
            route.tls = tls;
        }
        found.route = Arc::new(route);
    }
    found
}
