//! The node under simulation: the product's parts, put together as the daemon does.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use callahead_cache::{Cache, CacheError, Options};
use callahead_callout::{Callouts, TlsClient};
use callahead_engine::{
    Alert, Clock as _, Decision, Directory, DuplicateDomain, Engine, Harvest, Observer, Parts, Question, Settings,
};
use callahead_smtp::{AddressError, Domain};

use crate::history::History;
use crate::promises::{HARVEST_LIMIT, Watched};
use crate::world::World;

/// Small bounds, so that they are met.
pub(crate) const SESSIONS_PER_DESTINATION: usize = 3;
pub(crate) const SESSIONS: usize = 7;
pub(crate) const QUEUE: usize = 6;
pub(crate) const FLIGHTS: usize = 24;
pub(crate) const HELD: usize = 8;

pub(crate) struct Node {
    pub(crate) engine: Engine,
    pub(crate) callouts: Callouts,
}

/// Why there is no node.
#[derive(Debug)]
pub(crate) struct NoNode(pub(crate) String);

macro_rules! no_node {
    ($($error:ty),+) => {
        $(impl From<$error> for NoNode {
            fn from(error: $error) -> Self {
                Self(error.to_string())
            }
        })+
    };
}
no_node!(CacheError, AddressError, DuplicateDomain);

struct Deaf;

impl Observer for Deaf {
    fn decided(&self, _: &Question<'_>, _: &Decision) {}
    fn alert(&self, _: &Alert) {}
}

impl Node {
    /// Starts it over what the folder holds.
    pub(crate) fn start(world: &World, folder: &Path, tls: &TlsClient) -> Result<Self, NoNode> {
        let chance = world.chance.clone();
        // A commit takes a moment, so that things happen meanwhile.
        let pace = move || {
            let pause = if chance.percent(50) { Duration::ZERO } else { chance.millis(250) };
            async move {
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
            }
        };
        let options = Options { map_size: 16 << 20, max_readers: 16, queue: 64, batch: 8 };
        let cache = Cache::open_paced(folder, &options, world.clock.now(), pace)?;
        let settings = callahead_callout::Settings {
            sessions_per_destination: SESSIONS_PER_DESTINATION,
            sessions: SESSIONS,
            queue_per_destination: QUEUE,
            ..callahead_callout::Settings::new(Domain::parse("filter.example")?)
        };
        let callouts = Callouts::with_probe(settings, world.clone(), world.clone(), tls.clone(), world.clone());
        let watched = Watched { callouts: callouts.clone(), world: world.clone(), ids: Arc::new(AtomicU64::new(0)) };
        let engine = Engine::new(Parts {
            cache,
            callouts: Arc::new(watched),
            clock: Arc::clone(&world.clock) as _,
            directory: Directory::new(world.domains())?,
            settings: Settings {
                harvest: Harvest { limit: HARVEST_LIMIT, ..Harvest::default() },
                flights: FLIGHTS,
                hold_downs: HELD,
                ..Settings::default()
            },
            observer: Arc::new(Deaf),
        });
        Ok(Self { engine, callouts })
    }
}

/// The engine's own bounds, which hold at every moment.
pub(crate) fn check_engine(engine: &Engine, history: &History) {
    let stats = engine.stats();
    history.check(stats.under_way <= FLIGHTS, || format!("{} callouts are under way", stats.under_way));
    history.check(stats.held_down <= HELD, || format!("{} recipients are held down", stats.held_down));
}

/// The bounds on those who wait for a session. That on sessions is held where they are opened, by the world.
pub(crate) fn check_queues(callouts: &Callouts, history: &History) {
    for host in callouts.destinations() {
        history.check(host.waiting <= QUEUE, || format!("{} questions wait for {}", host.waiting, host.host));
    }
}
