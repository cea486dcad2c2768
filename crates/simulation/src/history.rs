//! The truth, kept apart from the node: what was said, asked, learned and cleared, in one order.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use callahead_cache::{Scope, Timestamp};
use callahead_engine::{Clock as _, DomainConfig};
use callahead_testbed::Watch;
use tokio::time::Instant;

use crate::world::SimClock;

/// What is learned is on disk after that, so that a crash takes no more.
pub(crate) const MAY_BE_LOST: Duration = Duration::from_secs(1);
/// Lines of the trace that are kept.
const MAX_TRACE: usize = 2000;

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Broken {
    /// Which, and by what.
    pub what: String,
    /// What happened until then.
    pub trace: Vec<String>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.trace.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        write!(f, "{}", self.what)
    }
}

impl std::error::Error for Broken {}

/// A place in the one order of all events.
pub(crate) type Seq = u64;

/// A whole reply to MAIL (no address) or RCPT, as the destination gave it.
#[derive(Debug)]
pub(crate) struct Said {
    /// When the destination looked it up.
    pub(crate) decided: Seq,
    /// When it was last on its way.
    pub(crate) sent: Option<(Seq, Instant)>,
    pub(crate) address: String,
    pub(crate) reply: String,
}

/// What speaks for or against a recipient or its domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fact {
    Accepted,
    Rejected {
        /// It talks of the filter rather than of the recipient.
        of_the_filter: bool,
        /// It says that the mailbox exists and takes nothing now.
        exists: bool,
    },
    AcceptsAll,
    NullSenderRefused,
    NullMx,
    Deferred,
}

impl Fact {
    /// Whether it answers for every recipient of the domain.
    pub(crate) fn speaks_of_domain(self) -> bool {
        matches!(self, Self::AcceptsAll | Self::NullSenderRefused | Self::NullMx)
    }
}

/// What a callout brought, after it was found to be true.
#[derive(Clone, Debug)]
pub(crate) struct Learned {
    pub(crate) fact: Fact,
    pub(crate) recipient: String,
    pub(crate) domain: String,
    /// When the callout began, and when the destination looked up what it said.
    pub(crate) asked: Seq,
    pub(crate) decided: Seq,
    /// When the callout ended. From then on it counts.
    pub(crate) ended: Seq,
    pub(crate) at: Timestamp,
    pub(crate) ended_at: Instant,
    /// How long it lives at least, by the configurations that it may have been kept by.
    pub(crate) ttl: Duration,
    /// Whether a crash may have taken it.
    pub(crate) lost: bool,
}

/// A callout under way.
#[derive(Clone, Debug)]
pub(crate) struct Asking {
    pub(crate) recipient: String,
    pub(crate) began: Seq,
    pub(crate) began_at: Instant,
}

/// Somebody wanted something forgotten.
#[derive(Clone, Debug)]
pub(crate) struct Clear {
    pub(crate) scope: Scope,
    pub(crate) requested: Seq,
    pub(crate) acknowledged: Option<Seq>,
    pub(crate) acknowledged_at: Option<Instant>,
}

/// A question that waits for its decision.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// In canonical form; empty where it is no address.
    pub(crate) recipient: String,
    pub(crate) domain: String,
    pub(crate) client: Option<IpAddr>,
    pub(crate) live: bool,
    pub(crate) cached_only: bool,
    pub(crate) began: Seq,
    pub(crate) began_at: Instant,
    /// By the node's clock.
    pub(crate) now: Timestamp,
    pub(crate) config: Option<DomainConfig>,
    /// The latest request for a clear that covers it and was acknowledged before.
    pub(crate) floor: Seq,
    /// Whether its client had asked for more unknown recipients than it may.
    pub(crate) guessing: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Events {
    pub(crate) seq: Seq,
    pub(crate) said: Vec<Said>,
    /// When the DNS said that a domain takes no mail.
    pub(crate) null_mx: Vec<(String, Seq, Instant)>,
    pub(crate) learned: Vec<Learned>,
    pub(crate) asking: BTreeMap<u64, Asking>,
    /// When the last callout for a recipient began.
    pub(crate) last_asked: HashMap<String, Seq>,
    /// When the process before ended.
    pub(crate) life: Seq,
    pub(crate) clears: Vec<Clear>,
    pub(crate) questions: BTreeMap<u64, Asked>,
    pub(crate) probes: HashSet<String>,
    /// Who asked for what that does not exist, and when last.
    pub(crate) missed: HashMap<IpAddr, HashMap<String, Timestamp>>,
    /// Who ever asked for a recipient.
    pub(crate) askers: HashMap<String, HashSet<IpAddr>>,
    /// Recipients whose callout brought a refusal, for each who asked for them.
    pub(crate) may_have_missed: HashMap<IpAddr, HashMap<String, Timestamp>>,
    pub(crate) broken: Option<String>,
    trace: VecDeque<String>,
    digest: u64,
    /// Counted for the summary.
    pub(crate) decisions: u64,
    pub(crate) rejects: u64,
    pub(crate) callouts: u64,
}

/// What happened. Clones share it.
#[derive(Clone)]
pub struct History {
    clock: Arc<SimClock>,
    events: Arc<Mutex<Events>>,
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History").finish_non_exhaustive()
    }
}

impl Events {
    pub(crate) fn next(&mut self) -> Seq {
        self.seq += 1;
        self.seq
    }

    /// The first promise that was broken counts.
    pub(crate) fn break_promise(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }
}

impl Clear {
    pub(crate) fn covers(&self, recipient: &str, domain: &str) -> bool {
        match &self.scope {
            Scope::All => true,
            Scope::Domain(cleared) => cleared.to_string() == domain,
            Scope::Recipient(cleared) => cleared.to_string() == recipient,
        }
    }
}

impl History {
    pub(crate) fn new(clock: Arc<SimClock>) -> Self {
        Self { clock, events: Arc::default() }
    }

    pub(crate) fn events(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Writes a line of the trace.
    pub(crate) fn note(&self, line: impl FnOnce() -> String) {
        let now = self.now();
        let line = format!("{:>14.3} {}", (now.0 as f64 - 1_700_000_000_000.0) / 1000.0, line());
        let mut events = self.events();
        let mut hasher = DefaultHasher::new();
        (events.digest, &line).hash(&mut hasher);
        events.digest = hasher.finish();
        if events.trace.len() >= MAX_TRACE {
            events.trace.pop_front();
        }
        events.trace.push_back(line);
    }

    pub(crate) fn trace(&self) -> Vec<String> {
        self.events().trace.iter().cloned().collect()
    }

    pub(crate) fn broken(&self) -> Option<Broken> {
        let events = self.events();
        let what = events.broken.clone()?;
        Some(Broken { what, trace: events.trace.iter().cloned().collect() })
    }

    pub(crate) fn check(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.events().break_promise(what());
        }
    }

    /// A number that only the same history has.
    pub(crate) fn digest(&self) -> u64 {
        self.events().digest
    }

    pub(crate) fn probe(&self, local_part: &str) {
        self.events().probes.insert(local_part.to_owned());
    }

    pub(crate) fn null_mx(&self, domain: &str) {
        let mut events = self.events();
        let seq = events.next();
        events.null_mx.push((domain.to_owned(), seq, Instant::now()));
    }

    /// Somebody asks for a clear. Gives its place for [`cleared`](Self::cleared).
    pub(crate) fn clear_requested(&self, scope: &Scope) -> usize {
        self.note(|| format!("clear requested: {scope:?}"));
        let mut events = self.events();
        let requested = events.next();
        events.clears.push(Clear { scope: scope.clone(), requested, acknowledged: None, acknowledged_at: None });
        events.clears.len() - 1
    }

    pub(crate) fn cleared(&self, place: usize) {
        self.note(|| format!("clear {place} acknowledged"));
        let mut events = self.events();
        let seq = events.next();
        events.clears[place].acknowledged = Some(seq);
        events.clears[place].acknowledged_at = Some(Instant::now());
    }

    /// The process is gone: nobody waits any more, and what was not a second old may not have been committed.
    pub(crate) fn process_ended(&self, crashed: bool) {
        let mut events = self.events();
        let (began, ended) = (events.life, events.seq);
        events.life = ended;
        events.asking.clear();
        let late = events.questions.iter().find_map(|(id, asked)| Some((*id, asked.overdue()?)));
        if let Some((id, waits)) = late {
            events.break_promise(format!("question {id} has no answer after {waits:?}"));
        }
        events.questions.clear();
        events.missed.clear();
        events.askers.clear();
        events.may_have_missed.clear();
        for learned in &mut events.learned {
            // What an earlier process left is on disk; its times are none of this one's.
            learned.lost |= crashed && learned.ended > began && learned.ended_at.elapsed() <= MAY_BE_LOST;
        }
    }
}

impl Watch for History {
    fn decided(&self, address: &str, reply: &str) -> u64 {
        let mut events = self.events();
        let decided = events.next();
        events.said.push(Said { decided, sent: None, address: address.to_owned(), reply: reply.to_owned() });
        events.said.len() as u64 - 1
    }

    fn sent(&self, mark: u64) {
        let line = {
            let mut events = self.events();
            let seq = events.next();
            let said = usize::try_from(mark).ok().and_then(|mark| events.said.get_mut(mark));
            said.map(|said| {
                said.sent = Some((seq, Instant::now()));
                format!("said of <{}>: {}", said.address, said.reply)
            })
        };
        if let Some(line) = line {
            self.note(|| line);
        }
    }
}
