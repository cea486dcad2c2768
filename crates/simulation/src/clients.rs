//! Clients: who asks, for whom, and how.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use callahead_engine::{Engine, Listener, Question};
use callahead_smtp::Recipient;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::history::Asked;
use crate::node::check_engine;
use crate::world::{DOMAINS, LOCAL_PARTS, World};

/// What is no mailbox.
const MALFORMED: [&str; 4] = ["an na@one.example", "anna@", "anna@one..example", "<anna@one.example>"];

pub(crate) struct Clients {
    world: World,
    ids: AtomicU64,
    /// A few that are asked for, and cleared, much more than others: so that things meet.
    hot: [String; 2],
    waiting: JoinSet<()>,
}

/// How somebody asks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manner {
    pub(crate) client: Option<IpAddr>,
    pub(crate) live: bool,
    pub(crate) cached_only: bool,
}

impl Clients {
    pub(crate) fn new(world: &World) -> Self {
        let hot = || format!("{}@{}", world.chance.pick(&LOCAL_PARTS[..4]), world.chance.pick(&DOMAINS[..5]));
        Self { hot: [hot(), hot()], world: world.clone(), ids: AtomicU64::new(0), waiting: JoinSet::new() }
    }

    /// A recipient, now and then as somebody else would write it, or none at all.
    pub(crate) fn recipient(&self) -> String {
        let chance = &self.world.chance;
        if chance.percent(45) {
            return self.hot().to_owned();
        }
        match chance.below(40) {
            0 => (*chance.pick(&MALFORMED)).to_owned(),
            // What a dictionary attack tries.
            1..=4 => format!("guess{}@{}", chance.below(30), chance.pick(&DOMAINS)),
            5 => format!("{}@{}", chance.pick(&LOCAL_PARTS), chance.pick(&DOMAINS).to_uppercase()),
            _ => format!("{}@{}", chance.pick(&LOCAL_PARTS), chance.pick(&DOMAINS[..5])),
        }
    }

    pub(crate) fn hot(&self) -> &str {
        &self.hot[self.world.chance.below(2)]
    }

    pub(crate) fn manner(&self) -> Manner {
        let chance = &self.world.chance;
        let client = chance.percent(60).then(|| IpAddr::from([192, 0, 2, u8::try_from(chance.below(3)).unwrap_or(0)]));
        let live = chance.percent(4);
        Manner { client, live, cached_only: !live && chance.percent(4) }
    }

    /// Somebody asks, in a task of their own.
    pub(crate) fn ask(&mut self, engine: &Engine, recipient: String, manner: Manner) {
        let (world, engine) = (self.world.clone(), engine.clone());
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        self.waiting.spawn(async move {
            world.history.question_began(id, asked(&world, &recipient, &manner));
            let Manner { client, live, cached_only } = manner;
            let question =
                Question { client, live, cached_only, ..Question::new(recipient.as_bytes(), Listener::Policy) };
            let decision = engine.decide(question).await;
            world.history.question_ended(id, &decision);
            check_engine(&engine, &world.history);
        });
    }

    /// Until everybody has an answer.
    pub(crate) async fn all_answered(&mut self) {
        while self.waiting.join_next().await.is_some() {}
    }

    /// Until somebody has one.
    pub(crate) async fn one_answered(&mut self) {
        let _ = self.waiting.join_next().await;
    }
}

/// The question as the history has it.
fn asked(world: &World, recipient: &str, manner: &Manner) -> Asked {
    let parsed = Recipient::parse_as_written(recipient.as_bytes()).ok();
    let domain = parsed.as_ref().map(|parsed| parsed.domain().to_string()).unwrap_or_default();
    let config = parsed.as_ref().and_then(|_| world.config(&domain));
    let fold = config.as_ref().is_some_and(|config| config.policy.fold_local_part);
    let canonical = parsed.map(|parsed| if fold { parsed.fold_local_part() } else { parsed }.to_string());
    Asked {
        recipient: canonical.unwrap_or_default(),
        domain,
        client: manner.client,
        live: manner.live,
        cached_only: manner.cached_only,
        began: 0,
        began_at: Instant::now(),
        now: world.history.now(),
        config,
        floor: 0,
        guessing: false,
    }
}
