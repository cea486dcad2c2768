//! One process of the node: what happens in it, by chance, until it ends.

use std::path::Path;
use std::time::Duration;

use callahead_cache::Scope;
use callahead_callout::TlsClient;
use callahead_smtp::{Domain, Recipient};
use callahead_testbed::{Fault, Place, Step};
use tokio::task::JoinSet;

use crate::clients::{Clients, Manner};
use crate::node::{NoNode, Node, check_engine, check_queues};
use crate::world::{DOMAINS, HOSTS, LOCAL_PARTS, World};

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Like kill -9.
    Crash,
    /// Told to stop.
    Stop,
}

const SECOND: Duration = Duration::from_secs(1);
/// Servers punish or drop a session that collects refusals: so it is ended behind 8, and the last question may bring two.
const REFUSED_IN_A_SESSION: usize = 9;
/// Pauses between two things that happen, most of them short.
const PAUSES: [u64; 14] =
    [0, 0, 1, 40, 300, 1_000, 5_000, 20_000, 61_000, 601_000, 1_860_000, 7_201_000, 46_800_000, 349_000_000];

pub(crate) struct Life<'a> {
    world: &'a World,
    node: Node,
    clients: Clients,
    clears: JoinSet<()>,
}

/// Whether these lines are more than one reply.
fn is_two(lines: &str) -> bool {
    lines.split('\n').take_while(|line| line.as_bytes().get(3) == Some(&b'-')).count() + 1 < lines.split('\n').count()
}

fn says_two(fault: &Fault) -> bool {
    matches!(fault, Fault::Reply(reply) | Fault::ReplyAndClose(reply) if is_two(reply))
}

impl<'a> Life<'a> {
    pub(crate) fn begin(world: &'a World, folder: &Path, tls: &TlsClient) -> Result<Self, NoNode> {
        world.begin_life();
        let node = Node::start(world, folder, tls)?;
        if node.engine.cache().opened().clock_went_back {
            // That is a clear of everything: nothing from before counts.
            let place = world.history.clear_requested(&Scope::All);
            world.history.cleared(place);
        }
        Ok(Self { world, node, clients: Clients::new(world), clears: JoinSet::new() })
    }

    /// So many things happen, or fewer when the process ends before.
    pub(crate) async fn live(&mut self, steps: &mut usize) -> Option<End> {
        while *steps > 0 {
            *steps -= 1;
            if let Some(end) = self.step().await {
                return Some(end);
            }
            check_engine(&self.node.engine, &self.world.history);
            check_queues(&self.node.callouts, &self.world.history);
            if self.world.history.broken().is_some() {
                return Some(End::Crash);
            }
        }
        None
    }

    async fn step(&mut self) -> Option<End> {
        let chance = &self.world.chance;
        match chance.below(100) {
            0..=39 => self.questions().await,
            40..=61 => tokio::time::sleep(Duration::from_millis(*chance.pick(&PAUSES))).await,
            62..=75 => self.change_host(),
            76..=79 => self.change_mailbox(),
            80..=87 => self.clear().await,
            88..=89 => self.world.choose_mx(false),
            90..=91 => {
                self.world.choose_policies();
                let directory = callahead_engine::Directory::new(self.world.domains());
                self.world.history.note(|| "the configuration is read again".into());
                directory.into_iter().for_each(|directory| self.node.engine.set_directory(directory));
            }
            92 => {
                let by = Duration::from_secs(*chance.pick(&[2, 600, 5400, 100_000]));
                self.world.history.note(|| format!("the clock is set forward by {by:?}"));
                self.world.clock.step(by);
            }
            93..=94 => {
                let swept = self.node.engine.cache().sweep(self.world.history.now()).await;
                self.world.history.note(|| format!("swept: {swept:?}"));
            }
            95..=96 => self.clients.all_answered().await,
            97 => self.clients.one_answered().await,
            98 => return Some(End::Stop),
            _ => return Some(End::Crash),
        }
        None
    }

    async fn questions(&mut self) {
        let chance = self.world.chance.clone();
        let engine = self.node.engine.clone();
        match chance.below(10) {
            // Everybody wants the same one.
            0 => {
                let recipient = self.clients.recipient();
                (0..12).for_each(|_| self.clients.ask(&engine, recipient.clone(), self.clients.manner()));
            }
            // A dictionary attack.
            1 => {
                let manner = self.clients.manner();
                let domain = *chance.pick(&DOMAINS[..5]);
                (0..10).for_each(|_| {
                    let recipient = format!("guess{}@{domain}", chance.below(30));
                    self.clients.ask(&engine, recipient, manner.clone());
                });
            }
            n => {
                for _ in 0..n / 3 + 1 {
                    let (recipient, manner) = (self.clients.recipient(), self.clients.manner());
                    self.clients.ask(&engine, recipient, manner);
                }
            }
        }
        if chance.percent(60) {
            self.clients.all_answered().await;
        } else {
            // They have only just begun, when the next thing happens.
            for _ in 0..chance.below(6) {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn clear(&mut self) {
        let chance = &self.world.chance;
        let any = format!("{}@{}", chance.pick(&LOCAL_PARTS), chance.pick(&DOMAINS[..5]));
        let recipient = if chance.percent(60) { self.clients.hot().to_owned() } else { any };
        let (Ok(recipient), Ok(domain)) = (recipient.parse::<Recipient>(), Domain::parse(DOMAINS[chance.below(5)]))
        else {
            return;
        };
        let scope = match chance.below(8) {
            0 => Scope::All,
            1 | 2 => Scope::Domain(domain),
            _ => Scope::Recipient(self.node.engine.canonical(recipient)),
        };
        let (engine, history) = (self.node.engine.clone(), self.world.history.clone());
        self.clears.spawn(async move {
            let place = history.clear_requested(&scope);
            match engine.clear(scope).await {
                Ok(_) => history.cleared(place),
                Err(error) => history.check(false, || format!("a clear failed: {error}")),
            }
        });
        if chance.percent(70) {
            while self.clears.join_next().await.is_some() {}
        }
    }

    fn change_mailbox(&self) {
        let chance = &self.world.chance;
        let any = format!("{}@{}", chance.pick(&LOCAL_PARTS), chance.pick(&DOMAINS[..5]));
        let address = if chance.percent(60) { self.clients.hot().to_owned() } else { any };
        let exists = chance.percent(60);
        self.world.history.note(|| format!("{address} exists from now on: {exists}"));
        for destination in self.world.destinations() {
            if exists { destination.add_mailbox(&address) } else { destination.remove_mailbox(&address) }
        }
    }

    /// A host begins to misbehave, in one way more, or is well again.
    fn change_host(&self) {
        let chance = &self.world.chance;
        let n = u8::try_from(chance.below(HOSTS.into())).unwrap_or(0);
        let destination = self.world.destinations()[usize::from(n)].clone();
        let mut script = destination.script();
        let some = |of: &[u32]| chance.percent(50).then(|| *chance.pick(of));
        let change = match chance.below(17) {
            0 | 1 => {
                script.faults.clear();
                (script.greylist, script.null_sender_reply, script.max_connections) = (None, None, None);
                (script.broken_pipelining, script.accept_all) = (false, false);
                script.rcpt_replies.clear();
                script.reply_delay = Duration::ZERO;
                "well again".to_owned()
            }
            2..=6 => {
                let (step, fault) = (*chance.pick(&Step::ALL), self.fault());
                let times = some(&[1, 2, 5]);
                // Two replies to one command of a pipelined group can be told from a proper answer only where the rest of the group is
                // seen to be one reply too long, which another fault behind it would hide, and so would the loss of the next command.
                // That is a limit of SMTP.
                if says_two(&fault) || script.faults.values().any(|(fault, _)| says_two(fault)) {
                    script.faults.clear();
                }
                script.broken_pipelining &= !says_two(&fault);
                let change = format!("{fault:?} at {step:?}, times {times:?}");
                script.faults.insert(step, (fault, times));
                change
            }
            7 => {
                script.accept_all = chance.percent(60);
                format!("accepts all: {}", script.accept_all)
            }
            8 => {
                let replies = [
                    "550 5.7.1 your address is blocked",
                    "451 4.3.0 later",
                    "550 5.1.1 no such user",
                    "252 perhaps",
                    "250 2.1.5 of course",
                    "554-no\n554 at all",
                    "552 5.2.2 full",
                    "450 4.2.1 busy",
                ];
                let reply = (*chance.pick(&replies)).replace('\n', "\r\n");
                let address = self.clients.recipient().to_lowercase();
                let change = format!("says {reply:?} to {address}");
                script.rcpt_replies.insert(address, reply);
                change
            }
            9 => {
                script.greylist = some(&[30, 300, 4000]).map(|seconds| Duration::from_secs(seconds.into()));
                format!("greylists for {:?}", script.greylist)
            }
            10 => {
                let reply = some(&[0, 1]).map(|n| ["550 5.7.1 no bounces", "451 4.7.1 later"][n as usize].to_owned());
                script.null_sender_reply = reply;
                format!("says {:?} to the null sender", script.null_sender_reply)
            }
            11 => {
                script.drop_after_errors = some(&[0, 2, 5]);
                script.drop_after_uses = some(&[1, 3]);
                format!("drops after {:?} errors, {:?} uses", script.drop_after_errors, script.drop_after_uses)
            }
            12 => {
                script.max_connections = some(&[0, 1, 2]);
                format!("takes {:?} connections", script.max_connections)
            }
            13 => {
                script.broken_pipelining = chance.percent(50);
                if script.broken_pipelining && script.faults.values().any(|(fault, _)| says_two(fault)) {
                    script.faults.clear();
                }
                format!("loses pipelined commands: {}", script.broken_pipelining)
            }
            14 => {
                script.reply_delay = Duration::from_millis(*chance.pick(&[0, 50, 900, 8000]));
                format!("answers after {:?}", script.reply_delay)
            }
            15 => {
                let place = match chance.below(4) {
                    0 => Some(Place::Refused),
                    1 => Some(Place::BlackHole),
                    _ => None,
                };
                let change = format!("is now {}", place.as_ref().map_or("there".into(), |place| format!("{place:?}")));
                drop(script);
                self.world.place(n, place);
                self.world.history.note(|| format!("host {n} {change}"));
                return;
            }
            _ => {
                let extensions = ["PIPELINING", "SMTPUTF8", "SIZE 1000"];
                script.extensions = extensions.iter().filter(|_| chance.percent(60)).map(ToString::to_string).collect();
                script.remembers = chance.percent(50);
                format!("offers {:?}, remembers: {}", script.extensions, script.remembers)
            }
        };
        self.world.history.note(|| format!("host {n}: {change}"));
    }

    fn fault(&self) -> Fault {
        let chance = &self.world.chance;
        let replies = [
            "550 5.5.0 no",
            "451 4.3.0 later",
            "250 2.0.0 fine",
            "421 4.3.2 closing",
            "503 5.5.1 what",
            "354 go on",
            "250 one\n550 5.1.1 two",
            "550 5.1.1 one\n250 two",
            "250-one\n550 two",
            "999 what",
        ];
        match chance.below(9) {
            0..=2 => Fault::Reply((*chance.pick(&replies)).to_owned()),
            // Not two replies: with the end of the connection behind them nothing tells them from proper ones.
            3 => Fault::ReplyAndClose((*chance.pick(&replies[..6])).to_owned()),
            4 => Fault::Hang,
            5 => Fault::CloseAfter(*chance.pick(&[0, 2, 7, 4000])),
            6 => Fault::SlowBytes(Duration::from_millis(*chance.pick(&[3, 90, 2500]))),
            7 => Fault::Garbage(
                chance.pick(&[&b"\x00\xff\r\n"[..], b"550", b"no reply at all\r\n", b"\r\n\r\n"]).to_vec(),
            ),
            _ => chance.pick(&[Fault::OverlongLine(9000), Fault::EndlessLines]).clone(),
        }
    }

    /// The process is told to stop: everybody gets an answer, and every session ends politely.
    pub(crate) async fn stop(mut self) {
        self.clients.all_answered().await;
        while self.clears.join_next().await.is_some() {}
        self.node.engine.shutdown(Duration::from_secs(40)).await;
        self.node.callouts.shutdown(Duration::from_secs(10)).await;
        // Destinations that speak slowly come to their end, too.
        tokio::time::sleep(Duration::from_secs(600)).await;
        let history = &self.world.history;
        history.check(self.node.engine.stats().under_way == 0, || "callouts are under way after the stop".into());
        let open = self.world.open();
        history.check(open.iter().all(|(_, open)| *open == 0), || {
            format!("connections are open after the stop: {open:?}")
        });
        self.polite(true);
    }

    /// What no client may do, nobody has done.
    pub(crate) fn polite(&self, ended: bool) {
        use callahead_testbed::Ended;
        for destination in self.world.destinations() {
            let record = destination.record();
            for session in &record.sessions {
                let left = ended && matches!(session.ended, Ended::Closed | Ended::NotYet);
                self.world.history.check(session.offences.is_empty() && !left, || {
                    format!(
                        "a session was not polite ({:?} {:?}): {}",
                        session.offences,
                        session.ended,
                        session.commands.join(" | ")
                    )
                });
                self.world.history.check(session.refused <= REFUSED_IN_A_SESSION, || {
                    format!("{} recipients were refused in one session", session.refused)
                });
            }
        }
    }

    /// When all is well again and everything was cleared, every answer is the truth.
    pub(crate) async fn calm(&mut self) {
        self.clients.all_answered().await;
        self.world.heal();
        self.world.history.note(|| "all is well again".into());
        // Longer than any circuit breaker stays open.
        tokio::time::sleep(400 * SECOND).await;
        let place = self.world.history.clear_requested(&Scope::All);
        let cleared = self.node.engine.clear(Scope::All).await;
        self.world.history.check(cleared.is_ok(), || format!("the last clear: {cleared:?}"));
        self.world.history.cleared(place);
        for domain in &DOMAINS[..5] {
            for local_part in
                LOCAL_PARTS.iter().filter(|local_part| !matches!(**local_part, "listed" | "gone" | "postmaster"))
            {
                let recipient = format!("{local_part}@{domain}");
                let host = self.world.destinations()[usize::from(World::first_host(domain))].clone();
                let exists = host.script().mailboxes.contains(&recipient.to_lowercase());
                let question =
                    callahead_engine::Question::new(recipient.as_bytes(), callahead_engine::Listener::Policy);
                let decision = self.node.engine.decide(question).await;
                // A callout counts against the bound until its answer is on disk.
                tokio::time::sleep(SECOND).await;
                let off = decision.row == 4;
                let right =
                    off || decision.row == if exists { 10 } else { 11 } || decision.row == if exists { 7 } else { 8 };
                self.world.history.check(right, || {
                    format!(
                        "all is well and {recipient} exists: {exists}, but row {}: {}",
                        decision.row, decision.reason
                    )
                });
            }
        }
        self.clients.ask(&self.node.engine.clone(), "anna@one.example".into(), Manner::default());
        self.clients.all_answered().await;
    }
}
