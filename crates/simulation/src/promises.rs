//! The promises, and what holds them against the history. Written from the design's sections 3 to 6, not from the engine.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use callahead_callout::{Ask, BoxFuture, Callouts, Hop, Outcome, Report, Request, Route};
use callahead_engine::{
    AcceptOrDefer, Action, Callouts as Mode, Decision, DomainConfig, Policy, RejectOrDefer, Source, Verdict,
};
use callahead_smtp::{Domain, Reply};
use tokio::time::Instant;

use crate::history::{Asked, Events, Fact, History, Learned, MAY_BE_LOST, Said, Seq};
use crate::node::{FLIGHTS, HELD, check_queues};
use crate::world::World;

/// Nothing that speaks against a recipient is served for longer.
const INVALID_AT_MOST: Duration = Duration::from_secs(2 * 3600);
/// Nor is a word that the mailbox exists and takes nothing now.
const FULL_AT_MOST: Duration = Duration::from_secs(300);
/// How long an expired Valid still counts where the destination can't be asked.
const STALE_FOR: Duration = Duration::from_secs(4 * 24 * 3600);
/// How long a 4xx is held.
const HOLD_DOWN: Duration = Duration::from_secs(60);
/// How long a question may take, and what is let pass for that.
const DEADLINE: Duration = Duration::from_secs(30);
const ANSWERED_WITHIN: Duration = Duration::from_millis(30_002);
/// How long a callout may wait for another one's random local part before it begins.
const PROBE_WAIT: Duration = Duration::from_secs(5);
/// Unknown recipients that a client may ask for within ten minutes.
pub(crate) const HARVEST_LIMIT: usize = 6;
const HARVEST_WINDOW: Duration = Duration::from_secs(600);
/// Between the destination's word and the end of the callout that heard it, at most: the rest of a pipelined group may be waited for.
const CALLOUT: Duration = Duration::from_secs(30);
/// How long what came back is shared at most while it is not on disk.
const SHARED_FOR: Duration = Duration::from_secs(30);

/// Callouts, each held against what the destinations said meanwhile.
pub(crate) struct Watched {
    pub(crate) callouts: Callouts,
    pub(crate) world: World,
    pub(crate) ids: Arc<AtomicU64>,
}

impl Ask for Watched {
    fn ask(&self, request: Request) -> BoxFuture<'_, Report> {
        Box::pin(async move {
            let history = &self.world.history;
            let id = self.ids.fetch_add(1, Ordering::Relaxed);
            history.callout_began(id, &request);
            check_queues(&self.callouts, history);
            let report = self.callouts.ask(request.clone()).await;
            check_queues(&self.callouts, history);
            history.callout_ended(id, &request, &report, &self.world);
            report
        })
    }

    fn ask_anew(&self, of: Option<(&Domain, &Route)>) {
        self.callouts.ask_anew(of);
    }
}

/// Whether a code of RFC 3463 talks of the system, the network, the protocol or policy rather than the mailbox.
fn talks_of_the_filter(reply: &Reply) -> bool {
    reply.enhanced().is_some_and(|enhanced| [3, 4, 5, 7].contains(&enhanced.subject()))
}

/// Whether it says that the mailbox exists: disabled, or full (RFC 3463 3.3; 522 where there is no enhanced code).
fn talks_of_a_mailbox_that_exists(reply: &Reply) -> bool {
    match reply.enhanced() {
        Some(enhanced) => ["5.2.1", "5.2.2"].contains(&enhanced.to_string().as_str()),
        None => reply.code() == 522,
    }
}

/// Whether a reply that was said is the one that was heard.
fn is_the_same(said: &str, heard: &Reply) -> bool {
    said.starts_with(&heard.code().to_string()) && said.ends_with(heard.text().as_str())
}

impl History {
    fn callout_began(&self, id: u64, request: &Request) {
        let recipient = request.recipient.to_string();
        let (probe, background) = (request.probe, request.background);
        self.note(|| format!("callout {id} of {recipient} begins (probe {probe}, background {background})"));
        let mut events = self.events();
        events.callouts += 1;
        let began = events.next();
        let waiting: Vec<&Asked> = events.questions.values().filter(|asked| asked.recipient == recipient).collect();
        let live = waiting.iter().filter(|asked| asked.live).count();

        // One flight per recipient and epoch: another may be out only where a clear came in between, or somebody asked live.
        let domain = request.recipient.domain().to_string();
        let since_clear = events.asking.values().filter(|other| other.recipient == recipient).filter(|other| {
            !events.clears.iter().any(|clear| {
                clear.covers(&recipient, &domain) && clear.acknowledged_at.is_none_or(|at| at >= other.began_at)
            })
        });
        let flights = since_clear.count() + 1;
        let many = (flights > 1 + live).then(|| {
            format!("{flights} callouts of {recipient} are under way at once, with {live} live questions and no clear between")
        });
        // The destination is asked as seldom as possible: not for what is known and fresh.
        let before = if request.background || live > 0 { None } else { Before::of(&events, &recipient, &domain) };
        let known = before.and_then(|before| before.known()).map(|Learned { fact, at, .. }| {
            format!("{recipient} is asked for although {fact:?}, learned at {} ms, is fresh", at.0)
        });
        if let Some(what) = many.or(known) {
            events.break_promise(what);
        }
        events.last_asked.insert(recipient.clone(), began);
        events.asking.insert(id, crate::history::Asking { recipient, began, began_at: Instant::now() });
        let under_way = events.asking.len();
        if under_way > FLIGHTS {
            events.break_promise(format!("{under_way} callouts are under way"));
        }
    }

    fn callout_ended(&self, id: u64, request: &Request, report: &Report, world: &World) {
        let recipient = request.recipient.to_string();
        let domain = request.recipient.domain().to_string();
        self.note(|| format!("callout {id} of {recipient} brings {:?}", report.outcome));
        let at = self.now();
        let policies = world.policies(&domain);
        let mut events = self.events();
        let ended = events.next();
        let Some(asking) = events.asking.remove(&id) else { return };
        let fact = match &report.outcome {
            Outcome::AcceptsAll(_) => Fact::AcceptsAll,
            Outcome::Accepted(_) => Fact::Accepted,
            Outcome::Rejected(reply) => Fact::Rejected {
                of_the_filter: talks_of_the_filter(reply),
                exists: talks_of_a_mailbox_that_exists(reply),
            },
            Outcome::Deferred(_) => Fact::Deferred,
            Outcome::NullSenderRefused(_) => Fact::NullSenderRefused,
            Outcome::NullMx => Fact::NullMx,
            Outcome::NeedsSmtpUtf8 | Outcome::Unreachable(_) | Outcome::Busy => {
                // That the random local part was refused counts, whatever became of the recipient.
                let accepts_all = |learned: &&mut Learned| learned.domain == domain && learned.fact == Fact::AcceptsAll;
                if report.not_accept_all {
                    events.learned.iter_mut().filter(accepts_all).for_each(|learned| learned.lost = true);
                }
                return;
            }
        };
        // Who has to have said so, since the callout began.
        let probe_of = |address: &str| {
            address.rsplit_once('@').is_some_and(|(local, of)| of == domain && events.probes.contains(local))
        };
        let truth = match (fact, report.outcome.reply()) {
            (Fact::NullMx, _) => {
                let only_mx = request.route.hops == [Hop::Mx];
                let told = events.null_mx.iter().rfind(|(of, seq, _)| *of == domain && *seq > asking.began && only_mx);
                told.map(|(_, seq, at)| (*seq, *at))
            }
            (_, None) => None,
            (_, Some(reply)) => {
                let fits = |said: &&Said| {
                    is_the_same(&said.reply, reply)
                        && match fact {
                            Fact::Accepted => said.address == recipient && said.reply.starts_with('2'),
                            Fact::Rejected { .. } => said.address == recipient && said.reply.starts_with('5'),
                            Fact::AcceptsAll => probe_of(&said.address) && said.reply.starts_with('2'),
                            Fact::NullSenderRefused => said.address.is_empty() && said.reply.starts_with('5'),
                            _ => said.reply.starts_with('4') && (said.address.is_empty() || said.address == recipient),
                        }
                };
                // Several sessions may have said it, and what was decided first may have been sent last.
                let heard = events.said.iter().filter(fits).filter_map(|said| {
                    said.sent.filter(|(seq, _)| *seq > asking.began).map(|sent| (said.decided, sent))
                });
                let latest = heard.reduce(|one, other| (one.0.max(other.0), one.1.max(other.1)));
                latest.map(|(decided, (_, at))| (decided, at))
            }
        };
        let Some((decided, sent_at)) = truth else {
            let reply = report.outcome.reply().map(|reply| format!(" ({reply})")).unwrap_or_default();
            events.break_promise(format!(
                "callout {id} of {recipient} brought {fact:?}{reply}, which no destination said"
            ));
            return;
        };
        let since = sent_at.elapsed();
        if since > CALLOUT {
            events.break_promise(format!("callout {id} of {recipient} ended {since:?} after what it brought was said"));
            return;
        }
        // By the configuration that the question found which made this callout, and that may have been any of these.
        let in_force = policies
            .iter()
            .filter(|(_, until)| until.is_none_or(|until| until + DEADLINE + PROBE_WAIT >= asking.began_at));
        let ttl = in_force.map(|(policy, _)| ttl(fact, policy)).min().unwrap_or_default();
        let asked = asking.began;
        if matches!(fact, Fact::Rejected { .. }) {
            for client in events.askers.get(&recipient).cloned().unwrap_or_default() {
                events.may_have_missed.entry(client).or_default().insert(recipient.clone(), at);
            }
        }
        events.learned.push(Learned {
            fact,
            recipient,
            domain,
            asked,
            decided,
            ended,
            at,
            ended_at: Instant::now(),
            ttl,
            lost: false,
        });
    }

    /// A question begins. What it may be answered with is settled here.
    pub(crate) fn question_began(&self, id: u64, mut asked: Asked) {
        self.note(|| {
            let Asked { recipient, client, live, cached_only, .. } = &asked;
            format!("question {id} of {recipient} (client {client:?}, live {live}, cached only {cached_only})")
        });
        let mut events = self.events();
        asked.began = events.next();
        let covering = events.clears.iter().filter(|clear| clear.covers(&asked.recipient, &asked.domain));
        asked.floor =
            covering.filter(|clear| clear.acknowledged.is_some()).map(|clear| clear.requested).max().unwrap_or(0);
        asked.guessing = recent_misses(&events, &asked, false) > HARVEST_LIMIT;
        // What speaks of the whole domain is shared until it is on disk, and kept once more then, by the configuration of whoever asked.
        if let Some(config) = &asked.config {
            let is_shared = |learned: &&mut Learned| {
                let of_domain = learned.fact.speaks_of_domain() && learned.domain == asked.domain;
                of_domain && learned.ended_at.elapsed() <= SHARED_FOR
            };
            for learned in events.learned.iter_mut().filter(is_shared) {
                learned.ttl = learned.ttl.min(ttl(learned.fact, &config.policy));
            }
        }
        if let Some(client) = asked.client {
            events.askers.entry(asked.recipient.clone()).or_default().insert(client);
        }
        events.questions.insert(id, asked);
    }

    /// It was decided.
    pub(crate) fn question_ended(&self, id: u64, decision: &Decision) {
        self.note(|| {
            let (row, reason, answer) = (decision.row, &decision.reason, decision.answer.reply());
            format!(
                "question {id} of {}: row {row}, {:?}: {reason}: {answer}",
                decision.recipient, decision.answer.action
            )
        });
        let mut events = self.events();
        let Some(asked) = events.questions.remove(&id) else { return };
        events.decisions += 1;
        events.rejects += u64::from(decision.answer.action == Action::Reject);
        if let Some(took) = asked.overdue() {
            events.break_promise(format!("question {id} took {took:?}"));
        }
        if let Err(why) = judge(&events, &asked, decision) {
            let (row, action, reply) = (decision.row, decision.answer.action, decision.answer.reply());
            let told = format!("question {id} of {}: {why}: row {row}, {action:?} {reply}", decision.recipient);
            events.break_promise(told.trim_end().to_owned());
        }
        if let Some(client) = asked.client
            && matches!(decision.row, 8 | 11)
            && decision.verdict == Some(Verdict::Invalid)
        {
            events.missed.entry(client).or_default().insert(asked.recipient.clone(), asked.now);
        }
    }
}

impl Asked {
    /// How long it has taken, where that is too long.
    pub(crate) fn overdue(&self) -> Option<Duration> {
        Some(self.began_at.elapsed()).filter(|took| *took > ANSWERED_WITHIN)
    }
}

/// Recipients that do not exist which the client of a question was told of lately; with `brought` also those of which only the callout
/// has come back: what it brings counts from then on, also for a client that is told nothing any more, or is not told yet.
fn recent_misses(events: &Events, asked: &Asked, brought: bool) -> usize {
    let Some(client) = asked.client else { return 0 };
    let told = events.missed.get(&client).into_iter().flatten();
    let brought = events.may_have_missed.get(&client).filter(|_| brought).into_iter().flatten();
    let recent = told.chain(brought).filter(|(_, at)| asked.now.since(**at) <= HARVEST_WINDOW);
    recent.map(|(recipient, _)| recipient).collect::<HashSet<_>>().len()
}

/// For how long it counts by a policy.
fn ttl(fact: Fact, policy: &Policy) -> Duration {
    match fact {
        Fact::Accepted | Fact::AcceptsAll => policy.valid_ttl,
        Fact::Rejected { exists: true, .. } => policy.invalid_ttl.min(FULL_AT_MOST),
        Fact::Rejected { .. } | Fact::NullMx => policy.invalid_ttl,
        Fact::NullSenderRefused => INVALID_AT_MOST,
        Fact::Deferred => HOLD_DOWN,
    }
}

/// A recipient for which a callout begins, as it was when the first who waits for it asked.
struct Before<'a> {
    events: &'a Events,
    recipient: &'a str,
    domain: &'a str,
    first: &'a Asked,
    policy: &'a Policy,
    /// When the latest clear was acknowledged that covers it.
    cleared: Seq,
}

impl<'a> Before<'a> {
    fn of(events: &'a Events, recipient: &'a str, domain: &'a str) -> Option<Self> {
        let first =
            events.questions.values().filter(|asked| asked.recipient == recipient).min_by_key(|asked| asked.began)?;
        let settled = events.clears.iter().filter(|clear| clear.covers(recipient, domain));
        let mut cleared: Seq = 0;
        for clear in settled {
            // One that is not acknowledged yet may hold or not.
            cleared = cleared.max(clear.acknowledged.filter(|at| *at < first.began).map_or(Seq::MAX, |at| at));
        }
        Some(Self { events, recipient, domain, first, policy: &first.config.as_ref()?.policy, cleared })
    }

    /// What makes the callout needless, beyond doubt.
    fn known(&self) -> Option<&'a Learned> {
        self.told().or_else(|| self.told_of_domain()).or_else(|| self.held())
    }

    fn latest(&self, fits: impl Fn(&Learned) -> bool) -> Option<&'a Learned> {
        self.events.learned.iter().filter(|learned| fits(learned)).max_by_key(|learned| learned.ended)
    }

    fn counts(&self, learned: &Learned) -> bool {
        let ttl = ttl(learned.fact, self.policy).min(learned.ttl);
        let fresh = self.first.now >= learned.at && self.first.now.since(learned.at) < ttl;
        fresh && learned.asked > self.cleared && learned.ended < self.first.began
    }

    fn told(&self) -> Option<&'a Learned> {
        let latest = self.latest(|learned| {
            learned.recipient == self.recipient && matches!(learned.fact, Fact::Accepted | Fact::Rejected { .. })
        });
        latest.filter(|learned| {
            let deferred = matches!(learned.fact, Fact::Rejected { of_the_filter: true, .. });
            !deferred && !learned.lost && self.counts(learned)
        })
    }

    /// Of its domain, once that is on disk, where nothing else was learned there later, by the order of events or by the clock, which may have
    /// been set between.
    fn told_of_domain(&self) -> Option<&'a Learned> {
        let of_domain = |learned: &Learned| learned.domain == self.domain;
        let latest = self.latest(of_domain).filter(|latest| latest.fact.speaks_of_domain())?;
        let is_newest = self.events.learned.iter().all(|other| !of_domain(other) || other.at <= latest.at);
        let on_disk = self.first.began_at > latest.ended_at + MAY_BE_LOST;
        // What came back to a callout from before a clear stands in the domain's one place, if it came last; it was shared for a while.
        let displaced = self.events.learned.iter().any(|other| {
            of_domain(other) && other.asked <= self.cleared && other.ended_at + SHARED_FOR >= latest.ended_at
        });
        (is_newest && on_disk && !displaced && !latest.lost && self.counts(latest)).then_some(latest)
    }

    /// A hold-down is in memory, has a place there while there are some, and ends with the first question that finds it over, even if the
    /// clock is set back then.
    fn held(&self) -> Option<&'a Learned> {
        let (learned, asked) = (&self.events.learned, &self.events.last_asked);
        let latest = self.latest(|learned| learned.recipient == self.recipient)?;
        let asked_since = asked.get(self.recipient).is_some_and(|began| *began > latest.ended);
        let of_this_life = |learned: &Learned| learned.ended > self.events.life;
        if latest.fact != Fact::Deferred || !of_this_life(latest) || asked_since || !self.counts(latest) {
            return None;
        }
        let takes_a_place = |learned: &&Learned| {
            of_this_life(learned) && matches!(learned.fact, Fact::Deferred | Fact::Rejected { of_the_filter: true, .. })
        };
        let mut places: HashSet<&str> =
            learned.iter().filter(takes_a_place).map(|learned| &*learned.recipient).collect();
        // Of those that need SMTPUTF8 nothing is said by a destination.
        places.extend(asked.keys().map(String::as_str).filter(|recipient| !recipient.is_ascii()));
        (places.len() <= HELD).then_some(latest)
    }
}

/// Whether a stale Valid is known beyond doubt, which is accepted where the destination can't be asked.
fn stale_before(events: &Events, asked: &Asked) -> bool {
    let mut covering = events.clears.iter().filter(|clear| clear.covers(&asked.recipient, &asked.domain));
    let of_recipient = |learned: &&Learned| {
        learned.recipient == asked.recipient && matches!(learned.fact, Fact::Accepted | Fact::Rejected { .. })
    };
    let Some(learned) = events.learned.iter().filter(of_recipient).max_by_key(|learned| learned.ended) else {
        return false;
    };
    // By the policy of then and by that of now, whichever is shorter.
    let ttl = asked.config.as_ref().map_or(learned.ttl, |config| config.policy.valid_ttl.min(learned.ttl));
    let in_time = asked.now >= learned.at && asked.now.since(learned.at) < ttl + STALE_FOR;
    let kept = learned.fact == Fact::Accepted && !learned.lost && asked.began_at > learned.ended_at + MAY_BE_LOST;
    kept && in_time && covering.all(|clear| clear.acknowledged.is_some_and(|at| at < learned.asked))
}

/// Whether something was said that may still be served: not older than that, and not from before a clear.
fn earned(events: &Events, asked: &Asked, fact: &dyn Fn(&Learned) -> bool, at_most: Duration) -> bool {
    events.learned.iter().any(|learned| {
        fact(learned)
            && learned.asked > asked.floor
            && learned.decided > asked.floor
            && asked.now.since(learned.at) < at_most
    })
}

/// Whether what is served from the cache is the latest that was kept of its recipient: nothing to the contrary was on disk when the question began,
/// or it was said once more after that.
fn is_latest(events: &Events, asked: &Asked, accepted: bool) -> bool {
    let mut contrary: Seq = 0;
    let mut served: Seq = 0;
    for learned in &events.learned {
        if learned.recipient != asked.recipient || learned.asked <= asked.floor {
            continue;
        }
        let ended = learned.ended;
        match learned.fact {
            Fact::Accepted if accepted => served = served.max(ended),
            Fact::Rejected { .. } if !accepted => served = served.max(ended),
            // A word about the filter is kept or not, by the policy.
            Fact::Rejected { of_the_filter: true, .. } => {}
            Fact::Accepted | Fact::Rejected { .. } if is_on_disk(events, asked, learned) => {
                contrary = contrary.max(ended)
            }
            _ => {}
        }
    }
    contrary < served
}

/// Whether what was learned was written before a question began, if no clear came in between.
fn is_on_disk(events: &Events, asked: &Asked, learned: &Learned) -> bool {
    // The times of two processes can't be compared; a process that ends leaves nothing to be written.
    let in_time = learned.ended <= events.life || asked.began_at > learned.ended_at + MAY_BE_LOST;
    learned.ended < asked.began && in_time && !learned.lost
}

/// Whether a decision is one that the destinations, the lists and the configuration have earned.
fn judge(events: &Events, asked: &Asked, decision: &Decision) -> Result<(), String> {
    let answer = decision.would.as_ref().unwrap_or(&decision.answer);
    let Some(config) = &asked.config else {
        return match (decision.row, answer.action) {
            (1, Action::Reject) if asked.recipient.is_empty() && answer.code == Some(501) => Ok(()),
            (2, Action::None) => Ok(()),
            _ => Err("no rule of the domain's has this answer".into()),
        };
    };
    let policy = &config.policy;
    if policy.callouts == Mode::Observe && decision.answer.action != Action::Accept {
        return Err("a domain in observe mode was not accepted".into());
    }
    if !policy.pass_reply_text && ["10.0.0.", "destination.example"].iter().any(|name| answer.text.contains(name)) {
        return Err("the destination's name or address is shown to the sender".into());
    }
    let earned = |fact: &dyn Fn(&Learned) -> bool, at_most| earned(events, asked, fact, at_most);
    let of_recipient = |learned: &Learned| learned.recipient == asked.recipient;
    let of_domain = |learned: &Learned| learned.domain == asked.domain;
    let accepted = |at_most| earned(&|l| l.fact == Fact::Accepted && of_recipient(l), at_most);
    let accepts_all = |at_most| earned(&|l| l.fact == Fact::AcceptsAll && of_domain(l), at_most);
    let need = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
    let must = |expected: AcceptOrDefer| {
        let expected = if expected == AcceptOrDefer::Accept { Action::Accept } else { Action::Defer };
        need(answer.action == expected, "the policy has another answer")
    };
    match answer.action {
        Action::Reject => {
            let full = |l: &Learned| of_recipient(l) && matches!(l.fact, Fact::Rejected { exists: true, .. });
            let is_one = match answer.code {
                Some(556) => decision.row == 15,
                Some(552) => matches!(decision.row, 8 | 11) && earned(&full, FULL_AT_MOST),
                code => code == Some(450) || (code == Some(550) && decision.row != 15),
            };
            need(is_one, "the code is no reject's, or not this one's")?;
            need((answer.code == Some(450)) == (policy.reject_code == 450), "the code is not the policy's")?;
            need(matches!(decision.row, 3 | 8 | 11 | 15), "no such row rejects")?;
        }
        Action::None => return Err("a configured domain always has an answer".into()),
        Action::Accept | Action::Defer => {}
    }
    if let Some((row, action)) = without_asking(config, &asked.recipient) {
        return need(
            decision.row == row && answer.action == action,
            &format!("row {row} comes before what a destination says"),
        );
    }
    let valid_for = policy.valid_ttl;
    match decision.row {
        6 | 9 => {
            need(accepts_all(valid_for), "no random local part was accepted within the time that it counts")?;
            must(policy.accept_all)
        }
        7 | 10 => {
            need(answer.action == Action::Accept, "a recipient that exists is not accepted")?;
            need(accepted(valid_for), "no 2xx was said to its RCPT within the time that it counts")?;
            need(
                decision.row == 10 || is_latest(events, asked, true),
                "accepted, though it was refused since and that was kept",
            )
        }
        8 | 11 => {
            judge_refusal(events, asked, policy, decision.row, answer.action)?;
            need(
                decision.row == 11 || is_latest(events, asked, false),
                "refused, though it was accepted since and that was kept",
            )
        }
        12 | 14 | 16 => {
            let stale = STALE_FOR + policy.valid_ttl;
            let held = decision.row == 12 && decision.source == Source::Cache;
            if held {
                let deferred = |l: &Learned| {
                    of_recipient(l) && matches!(l.fact, Fact::Deferred | Fact::Rejected { of_the_filter: true, .. })
                };
                // A recipient that needs SMTPUTF8 is held without a word of the destination's.
                need(earned(&deferred, HOLD_DOWN) || !asked.recipient.is_ascii(), "nobody said 4xx to it")?;
            }
            match answer.action {
                Action::Accept if policy.tempfail == AcceptOrDefer::Defer => {
                    need(accepted(stale) || accepts_all(stale), "accepted as stale, and it was never valid")
                }
                Action::Accept => Ok(()),
                _ if stale_before(events, asked) => {
                    Err("deferred, though it was valid within the time that counts".into())
                }
                _ if decision.reason.contains("too many recipients that do not exist") => {
                    let guesses = asked.guessing || recent_misses(events, asked, true) > HARVEST_LIMIT;
                    need(guesses, "the client did not guess")
                }
                _ => must(policy.tempfail),
            }
        }
        13 => {
            need(
                earned(&|l| l.fact == Fact::NullSenderRefused && of_domain(l), INVALID_AT_MOST),
                "MAIL was not refused",
            )?;
            must(policy.unverifiable)
        }
        15 => {
            let at_most = policy.invalid_ttl.min(INVALID_AT_MOST);
            need(earned(&|l| l.fact == Fact::NullMx && of_domain(l), at_most), "no null MX was seen within 2 h")
        }
        row => Err(format!("row {row} does not fit")),
    }?;
    let callout = decision.source == Source::Callout;
    if asked.guessing && callout && !asked.live && !asked.cached_only {
        return Err("the destination was asked for a client that guesses".into());
    }
    need(!(asked.cached_only && callout), "the destination was asked for a question of what is kept only")
}

/// Rows 3 to 5: what a domain's lists and its policy say of a recipient, whatever is known of it.
fn without_asking(config: &DomainConfig, recipient: &str) -> Option<(u8, Action)> {
    let local_part = recipient.rsplit_once('@').map_or("", |(local_part, _)| local_part);
    if config.valid.contains(&local_part.to_lowercase()) {
        return Some((3, Action::Accept));
    }
    if config.invalid.contains(local_part) {
        return Some((3, Action::Reject));
    }
    if config.policy.callouts == Mode::Off {
        return Some((4, Action::Accept));
    }
    local_part.eq_ignore_ascii_case("postmaster").then_some((5, Action::Accept))
}

/// Rows 8 and 11: the recipient was refused.
fn judge_refusal(events: &Events, asked: &Asked, policy: &Policy, row: u8, action: Action) -> Result<(), String> {
    let refused = |filter: bool, at_most: Duration| {
        [(false, at_most), (true, at_most.min(FULL_AT_MOST))].into_iter().any(|(exists, at_most)| {
            let fact = Fact::Rejected { of_the_filter: filter, exists };
            earned(events, asked, &|learned| learned.recipient == asked.recipient && learned.fact == fact, at_most)
        })
    };
    let at_most = policy.invalid_ttl.min(INVALID_AT_MOST);
    let counts = policy.policy_rejects == RejectOrDefer::Reject;
    match action {
        Action::Reject if refused(false, at_most) => Ok(()),
        // A word about the filter that is kept from when such words counted stays what it was.
        Action::Reject if refused(true, at_most) && (row == 8 || counts) => Ok(()),
        Action::Reject => Err("no 5xx was said to its RCPT within 2 h and since the last clear".into()),
        Action::Defer if !counts && refused(true, HOLD_DOWN) => Ok(()),
        _ => Err("a recipient that was refused is accepted".into()),
    }
}
