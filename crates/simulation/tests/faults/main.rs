//! The fault matrix: every fault of the testbed, for a mailbox that exists and one that does not, over every state of the cache, asked
//! through every listener. What is expected is written down from the design (`catalogue.rs` and [`expected`]), and shares nothing with
//! the engine's table. The outcome is `docs/faults.md`.
#![allow(clippy::unwrap_used, unreachable_pub, missing_docs)]

mod catalogue;
mod fronts;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use callahead_cache::{Cache, DomainState, Lookup, Options, RecipientState, Record, Timestamp};
use callahead_callout::{BoxFuture, BoxStream, Callouts, Dial, Hop, MxAnswer, Resolve, ResolveError, Route, TlsClient};
use callahead_engine::{
    Alert, Decision, Directory, DomainConfig, Engine, Observer, Parts, Question, Settings, TestClock,
};
use callahead_smtp::{Domain, DomainName, Recipient};
use callahead_testbed::{Destination, Ended, Net, Place, Script, Watch};
use catalogue::{Case, MAILBOXES, Relayed, Says, Where, catalogue};
use fronts::{Front, Fronts, SENDER, Seen};
use tokio::time::Instant;

const NOW: Timestamp = Timestamp(1_700_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);

/// What is kept before the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Cold,
    /// 13 h old: it still counts, and is past its soft age, so that it is refreshed in the background. What is known of the domain counts no
    /// more.
    Valid,
    /// 31 min old: likewise. What is known of the domain counts.
    Invalid,
    /// 97 h old.
    StaleValid,
    /// 3 h old; what is known of the domain still counts.
    ExpiredInvalid,
}

impl State {
    /// Answered from what is kept, while the destination is asked in the background.
    fn is_fresh(self) -> bool {
        matches!(self, Self::Valid | Self::Invalid)
    }
}

const STATES: [State; 5] = [State::Cold, State::Valid, State::Invalid, State::StaleValid, State::ExpiredInvalid];

/// The design's section 3, for a domain with the default policy: the answer, and the row that gives it.
fn expected(case: &Case, exists: bool, state: State) -> (Seen, u8) {
    match state {
        State::Valid => return (Seen::Accept, 7),
        State::Invalid => return (Seen::Reject, 8),
        _ => {}
    }
    match says(case, exists, state) {
        Says::AcceptsAll => (Seen::Accept, 9),
        Says::Accepts => (Seen::Accept, 10),
        Says::Refuses | Says::ShutsOut => (Seen::Reject, 11),
        Says::RefusesNullSender => (Seen::Accept, 13),
        Says::NullMx => (Seen::Reject, 15),
        later @ (Says::Later | Says::NoAnswer) => {
            let row = if later == Says::Later { 12 } else { 14 };
            (if state == State::StaleValid { Seen::Accept } else { Seen::Defer }, row)
        }
        Says::Truth => unreachable!("the truth is one or the other"),
    }
}

fn says(case: &Case, exists: bool, state: State) -> Says {
    let says = if matches!(state, State::Invalid | State::ExpiredInvalid) { case.known } else { case.fresh };
    match says[usize::from(!exists)] {
        Says::Truth if exists => Says::Accepts,
        Says::Truth => Says::Refuses,
        other => other,
    }
}

/// What the gateway says where the engine accepts: what the destination says when the recipient is repeated there.
fn relayed(case: &Case, exists: bool) -> (Seen, &'static str) {
    match case.relayed[usize::from(!exists)] {
        Relayed::Truth if exists => (Seen::Accept, "accept"),
        Relayed::Accepts => (Seen::Accept, "accept"),
        Relayed::Truth | Relayed::Refuses => (Seen::Reject, "**reject**"),
        Relayed::RefusesSender => (Seen::Reject, "**reject** (the sender)"),
        Relayed::PutsOff => (Seen::Defer, "defer"),
    }
}

/// How long an answer may take: the engine's deadline; for the gateway and the destination's second word on the recipient as well, 30 s to open
/// a session and 90 s for the transaction, with 30 s more where that needs another session. A client waits for 5 min (RFC 5321
/// 4.5.3.2.3).
fn patience(front: Front) -> Duration {
    Duration::from_secs(if front == Front::Gateway { 30 + 90 + 2 * 30 } else { 30 })
}

/// What the cache has to hold afterwards: of the recipient, and of the domain. A refresh learns what any other callout does: a refusal of what is
/// kept as valid makes it invalid, unless it is about the filter, and where nothing is learned of the recipient its record stays as it was.
fn kept(case: &Case, exists: bool, state: State) -> (Option<RecipientState>, Option<DomainState>) {
    let before = match state {
        State::Cold => (None, None),
        State::Valid | State::StaleValid => (Some(RecipientState::Valid), Some(DomainState::NotAcceptAll)),
        State::Invalid | State::ExpiredInvalid => (Some(RecipientState::Invalid), Some(DomainState::NotAcceptAll)),
    };
    match says(case, exists, state) {
        Says::AcceptsAll => (before.0, Some(DomainState::AcceptAll)),
        Says::Accepts if case.tells_apart == Some(false) => (Some(RecipientState::Valid), before.1),
        Says::Accepts => (Some(RecipientState::Valid), Some(DomainState::NotAcceptAll)),
        Says::ShutsOut if state == State::Valid => (before.0, Some(DomainState::NotAcceptAll)),
        Says::Refuses | Says::ShutsOut => (Some(RecipientState::Invalid), Some(DomainState::NotAcceptAll)),
        Says::RefusesNullSender => (before.0, Some(DomainState::RefusesNullSender)),
        Says::NullMx => (before.0, Some(DomainState::NullMx)),
        Says::Later | Says::NoAnswer if case.tells_apart == Some(true) => (before.0, Some(DomainState::NotAcceptAll)),
        Says::Later | Says::NoAnswer | Says::Truth => before,
    }
}

/// Within this comes what is answered without asking: less than any fault takes.
const AT_ONCE: Duration = Duration::from_millis(100);
/// How far everything is away. Simulated time goes on when nobody has anything to do, so all have asked by then, and share a callout.
const AWAY: Duration = Duration::from_millis(1);

/// What was said to the node, as those know it who said it.
#[derive(Default)]
struct Said {
    /// To MAIL (no address) and RCPT, whole replies only, and whether they were on their way.
    replies: Mutex<Vec<(String, String, bool)>>,
    null_mx: AtomicBool,
}

impl Watch for Said {
    fn decided(&self, address: &str, reply: &str) -> u64 {
        let mut replies = self.replies.lock().unwrap();
        replies.push((address.to_owned(), reply.to_owned(), false));
        replies.len() as u64 - 1
    }
    fn sent(&self, mark: u64) {
        self.replies.lock().unwrap()[usize::try_from(mark).unwrap()].2 = true;
    }
}

impl Said {
    /// Whether this was refused for good, in a word that was not `except`.
    fn refused(&self, address: &str, except: Option<&str>) -> bool {
        let replies = self.replies.lock().unwrap();
        let refusals = replies.iter().filter(|(of, reply, sent)| of == address && reply.starts_with('5') && *sent);
        refusals.into_iter().any(|(_, reply, _)| Some(&**reply) != except)
    }

    /// The rule that stands over the table, told by the other side and without the table: whether a permanent rejection is anybody's word.
    fn earns_a_rejection(&self, front: Front, address: &str, case: &Case, state: State) -> bool {
        let to_bounces = match &case.place {
            Where::Server(script) => script.null_sender_reply.as_deref(),
            _ => None,
        };
        let of_recipient = self.refused(address, None) || self.null_mx.load(Ordering::SeqCst);
        let of_sender = front == Front::Gateway && self.refused("", to_bounces);
        of_recipient || of_sender || state == State::Invalid
    }
}

/// The network and the DNS.
#[derive(Clone)]
struct Outside {
    net: Net,
    said: Arc<Said>,
    mx: Option<Result<MxAnswer, ResolveError>>,
}

impl Dial for Outside {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async move {
            tokio::time::sleep(AWAY).await;
            Ok(Box::new(self.net.dial(address).await?) as BoxStream)
        })
    }
}

impl Resolve for Outside {
    fn mx<'a>(&'a self, _: &'a DomainName) -> BoxFuture<'a, Result<MxAnswer, ResolveError>> {
        Box::pin(async move {
            tokio::time::sleep(AWAY).await;
            match &self.mx {
                Some(answer) => {
                    self.said.null_mx.fetch_or(matches!(answer, Ok(MxAnswer::Null)), Ordering::SeqCst);
                    answer.clone()
                }
                None => std::future::pending().await,
            }
        })
    }
    fn addresses<'a>(&'a self, host: &'a DomainName) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>> {
        Box::pin(async move { Err(ResolveError::NoAddress(host.to_string())) })
    }
}

struct Deaf;

impl Observer for Deaf {
    fn decided(&self, _: &Question<'_>, _: &Decision) {}
    fn alert(&self, _: &Alert) {}
}

/// A node with nothing but the domain `one.example`, and the destinations behind it.
struct Node {
    engine: Engine,
    callouts: Callouts,
    destinations: Vec<Destination>,
    said: Arc<Said>,
}

impl Node {
    async fn start(case: &Case, state: State, mailbox: &Recipient, folder: &Path, tls: &TlsClient) -> Self {
        let mx = if let Where::Mx(mx) = &case.place { mx.clone() } else { None };
        let said = Arc::<Said>::default();
        let outside = Outside { net: Net::default(), said: Arc::clone(&said), mx };
        let address = |n: u8| SocketAddr::from(([10, 0, 0, n], 25));
        let mut destinations = Vec::new();
        let mut server = |n: u8, script: &Script| {
            // For the gateway's transactions. That nobody says DATA is looked at in the end.
            let destination = Destination::new(Script { takes_messages: true, ..script.clone() });
            destination.watch(Arc::clone(&said) as _);
            outside.net.set(address(n), Place::Server(destination.clone()));
            destinations.push(destination);
        };
        match &case.place {
            Where::Server(script) => server(1, script),
            Where::Place(place) => outside.net.set(address(1), place.clone()),
            Where::SecondHost => {
                server(2, &Script::with_mailboxes([MAILBOXES[0]]));
                outside.net.set(address(1), Place::Refused);
            }
            Where::Nowhere | Where::Mx(_) => {}
        }
        let hops: &[&str] = match case.place {
            Where::Mx(_) => &["mx"],
            Where::SecondHost => &["10.0.0.1", "10.0.0.2"],
            _ => &["10.0.0.1"],
        };
        let route = Route { hops: hops.iter().map(|hop| hop.parse::<Hop>().unwrap()).collect(), tls: case.tls };
        let options = Options { map_size: 16 << 20, ..Options::default() };
        let cache = Cache::open_paced(folder, &options, NOW, || std::future::ready(())).unwrap();
        seed(&cache, mailbox, state).await;
        let settings = callahead_callout::Settings::new(Domain::parse("filter.example").unwrap());
        let callouts = Callouts::new(settings, outside.clone(), outside, tls.clone());
        let engine = Engine::new(Parts {
            cache,
            callouts: Arc::new(callouts.clone()),
            clock: Arc::new(TestClock::at(NOW)),
            directory: Directory::new([DomainConfig::new("one.example", route)]).unwrap(),
            settings: Settings::default(),
            observer: Arc::new(Deaf),
        });
        Self { engine, callouts, destinations, said }
    }

    /// Ends everything, and looks whether every session was ended properly.
    async fn end(&self) {
        self.engine.shutdown(Duration::from_secs(60)).await;
        self.callouts.shutdown(Duration::from_secs(10)).await;
        // A destination that speaks slowly comes to its end, too.
        tokio::time::sleep(Duration::from_secs(1000)).await;
        assert_eq!(self.callouts.totals().sessions, 0);
        for destination in &self.destinations {
            let record = destination.record();
            record.assert_polite();
            let closed = |ended: Ended| matches!(ended, Ended::Quit | Ended::ByUs | Ended::WithinHandshake);
            for session in &record.sessions {
                assert!(closed(session.ended), "{}", record.dialogue());
                let said = |what: &str| session.commands.iter().any(|command| command.starts_with(what));
                assert!(!said("DATA") && !said("BDAT"), "{}", record.dialogue());
                let relays = said(&format!("MAIL FROM:<{SENDER}>"));
                assert!(!(relays && said("MAIL FROM:<>")), "a callout in a relay's session\n{}", record.dialogue());
            }
        }
    }
}

/// What is kept of the recipient before.
fn before(state: State) -> Option<Record<RecipientState>> {
    let (what, ago, ttl) = match state {
        State::Cold => return None,
        State::Valid => (RecipientState::Valid, 13 * HOUR, 96 * HOUR),
        State::Invalid => (RecipientState::Invalid, 31 * HOUR / 60, 2 * HOUR),
        State::StaleValid => (RecipientState::Valid, 97 * HOUR, 96 * HOUR),
        State::ExpiredInvalid => (RecipientState::Invalid, 3 * HOUR, 2 * HOUR),
    };
    let at = Timestamp(NOW.0 - u64::try_from(ago.as_millis()).unwrap());
    Some(Record { state: what, checked_at: at, expires_at: at.after(ttl), destination: String::new(), reply: None })
}

/// Writes it.
async fn seed(cache: &Cache, mailbox: &Recipient, state: State) {
    let Some(record) = before(state) else { return };
    let (epoch, at) = (cache.lookup(mailbox).unwrap().epoch, record.checked_at);
    let domain = Record {
        state: DomainState::NotAcceptAll,
        checked_at: at,
        expires_at: at.after(12 * HOUR),
        destination: String::new(),
        reply: None,
    };
    cache.put_recipient(mailbox, record, epoch).await.unwrap();
    cache.put_domain(mailbox.domain(), domain, epoch).await.unwrap();
}

/// What was seen in one case.
struct Found {
    state: State,
    row: u8,
    seen: Vec<(Front, Seen)>,
}

/// One case through all listeners at once: their questions are one callout.
async fn run(case: &Case, exists: bool, state: State, tls: &TlsClient) -> Found {
    let folder = callahead_simulation::folder().unwrap();
    let address = MAILBOXES[usize::from(!exists)];
    let mailbox: Recipient = address.parse().unwrap();
    let node = Node::start(case, state, &mailbox, folder.path(), tls).await;
    let fronts = Arc::new(Fronts::serve(folder.path(), &node.engine, &node.callouts).await);
    let (sees, row) = expected(case, exists, state);
    let began = Instant::now();
    let mut asking = tokio::task::JoinSet::new();
    for front in Front::ALL {
        let fronts = Arc::clone(&fronts);
        asking.spawn(async move { (front, fronts.ask(front, address).await) });
    }
    let (mut told, mut all_seen) = (None, Vec::new());
    while let Some(answered) = asking.join_next().await {
        let (front, (seen, answer)) = answered.unwrap();
        let label = format!("{:?} of {address} over {state:?} through {front:?}: {answer}", case.name);
        assert!(began.elapsed() <= patience(front), "after {:?}: {label}", began.elapsed());
        all_seen.push((front, seen));
        let waits = began.elapsed() > AT_ONCE;
        assert!(!waits || front == Front::Gateway || !state.is_fresh(), "it waited for the refresh: {label}");
        let earned = seen != Seen::Reject || node.said.earns_a_rejection(front, address, case, state);
        assert!(earned, "a false permanent rejection: {label}{}", dialogue(&node));
        let sees = match (front, sees) {
            (Front::Gateway, Seen::Accept) => relayed(case, exists).0,
            // It has no word but that there is no such mailbox, and here there may be one.
            (Front::Socketmap, Seen::Reject) if row == 11 && may_exist(case, exists, state) => Seen::Defer,
            _ => sees,
        };
        assert_eq!(seen, sees, "{label}{}", dialogue(&node));
        if let Some(told_row) = front.row(&answer) {
            assert_eq!(told_row, row, "{label}{}", dialogue(&node));
            told = Some(told_row);
        }
    }
    // The refresh is over by then, too.
    node.end().await;
    let callouts = node.callouts.totals().questions;
    let refreshes = node.engine.stats().refreshes;
    assert_eq!((callouts, refreshes), (1, u64::from(state.is_fresh())), "callouts and refreshes for one recipient");
    let Lookup { recipient, domain, .. } = node.engine.cache().lookup(&mailbox).unwrap();
    let found = (recipient.as_ref().map(|record| record.state), domain.map(|record| record.state));
    assert_eq!(found, kept(case, exists, state), "what is kept after {:?} over {state:?}", case.name);
    let learned = match says(case, exists, state) {
        Says::Accepts | Says::Refuses => true,
        Says::ShutsOut => state != State::Valid,
        _ => false,
    };
    match &recipient {
        Some(record) if learned => assert_eq!(record.checked_at, NOW, "{:?} over {state:?}", case.name),
        kept => assert_eq!(*kept, before(state), "nothing was learned of it by {:?}", case.name),
    }
    if let Some(record) = recipient.filter(|record| record.state == RecipientState::Invalid) {
        assert!(record.end() <= record.checked_at.after(2 * HOUR), "it is kept for longer than it may");
    }
    Found { state, row: told.unwrap_or(row), seen: all_seen }
}

/// Whether what refuses the recipient is no word against the mailbox.
fn may_exist(case: &Case, exists: bool, state: State) -> bool {
    says(case, exists, state) == Says::ShutsOut || case.name.ends_with("mailbox full")
}

fn dialogue(node: &Node) -> String {
    node.destinations.iter().map(|destination| format!("\n{}", destination.record().dialogue())).collect()
}

fn word(seen: Seen) -> &'static str {
    match seen {
        Seen::Accept => "accept",
        Seen::Reject => "**reject**",
        Seen::Defer => "defer",
    }
}

const HEAD: &str = "\
# What comes of faults

Generated by `cargo xtask faults` from the tests in `crates/simulation/tests/faults/`, which run it and compare: a
recipient is asked for while its destination misbehaves, and what is answered is held against the decision table. The number in brackets
is the row. `policy`, `socketmap`, `milter` and the API give the same answer in their own words (`socketmap` defers where a mailbox is full,
since it has no word for that); each is asked in each case. So is the gateway: the second table.

Whether a permanent rejection is a false one is told by the destinations and not by the table: before each one, a whole 5xx to that
recipient's own RCPT had left the destination, or the DNS had said that the domain takes no mail, or a refusal was kept; through the
gateway also a 5xx to MAIL with the real sender.

In each case it is also checked that the answer came within 30 s (of simulated time; through the gateway 3 min), that one callout
was made for all the listeners, what the cache holds afterwards, and that every session ended in QUIT or by the destination itself.

A recipient with a fresh record is answered from it whatever the destination does: valid is accepted (row 7) and invalid is rejected
(row 8). That is tried with every fault, too, and left out of the table. These records are 13 h and 31 min old, past their soft ages, so
that the destination is asked in the background while it misbehaves: nobody waits for that, and afterwards the record is what the callout
really learned of the recipient, or else what it was, to the last field.

*Cold*: nothing is kept. *Stale*: a valid record that expired an hour ago. *Expired*: an invalid record that expired an hour ago; the
domain is known to tell its recipients apart, so that no random local part is asked first. The mailbox `exists` or is `missing`
at the destination.

";

const GATEWAY_HEAD: &str = "
## Through the gateway

Where the table above rejects or defers, the gateway says the same. Where it accepts, or the cache does, the recipient is repeated at the
destination with the real sender, while the fault goes on; and what the destination says then is the answer. It is this, whatever was
kept. A rejection is the destination's own 5xx to that RCPT, its null MX, or, marked so, its 5xx to MAIL with that sender: that is
its word on this sender's message, and nothing of it is kept.

";

/// All of a fault: by state, and for a mailbox that exists and one that does not.
fn of(case: &Case, tls: &TlsClient) -> Vec<Found> {
    let all = STATES.iter().flat_map(|state| [(*state, true), (*state, false)]);
    all.map(|(state, exists)| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(run(case, exists, state, tls))
    })
    .collect()
}

/// The same of each, in their order, on as many threads as there are processors: each runtime has a clock of its own.
fn of_each(cases: &[Case], tls: &TlsClient) -> Vec<Vec<Found>> {
    let next = AtomicUsize::new(0);
    let take = || {
        let mine = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|at| *at < cases.len());
        std::iter::from_fn(mine).map(|at| (at, of(&cases[at], tls))).collect::<Vec<_>>()
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let done: BTreeMap<usize, _> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(take)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    done.into_values().collect()
}

#[test]
fn every_fault_over_every_state_through_every_listener_is_answered_by_the_table() {
    let tls = TlsClient::new(&[]).unwrap();
    let (mut rows, mut gateway_rows) = (String::new(), String::new());
    let mut answers: BTreeMap<&str, usize> = BTreeMap::new();
    let catalogue = catalogue();
    for (case, found) in catalogue.iter().zip(of_each(&catalogue, &tls)) {
        write!(rows, "| {} |", case.name).unwrap();
        let [exists, missing] = [true, false].map(|exists| relayed(case, exists).1);
        writeln!(gateway_rows, "| {} | {exists} | {missing} |", case.name).unwrap();
        for Found { state, row, seen } in found {
            for (front, seen) in seen {
                *answers.entry(word(seen)).or_default() += 1;
                if front == Front::Admin && !state.is_fresh() {
                    write!(rows, " {} ({row}) |", word(seen)).unwrap();
                }
            }
        }
        rows.push('\n');
    }
    let mut page = HEAD.to_owned();
    let counted = |answer| answers.get(answer).copied().unwrap_or(0);
    writeln!(
        page,
        "{} cases: {} accepted, {} rejected, {} deferred; no false permanent rejection.\n",
        answers.values().sum::<usize>(),
        counted("accept"),
        counted("**reject**"),
        counted("defer"),
    )
    .unwrap();
    page.push_str("| fault | cold, exists | cold, missing | stale, exists | stale, missing | expired, exists | expired, missing |\n");
    page.push_str("| --- | --- | --- | --- | --- | --- | --- |\n");
    page.push_str(&rows);
    page.push_str(GATEWAY_HEAD);
    page.push_str("| fault | exists | missing |\n| --- | --- | --- |\n");
    page.push_str(&gateway_rows);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/faults.md");
    if std::env::var_os("CALLAHEAD_REWRITE").is_some() {
        std::fs::write(&path, page).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == page,
        "docs/faults.md is not what the matrix gives: run cargo xtask faults, and look at what changed"
    );
}
