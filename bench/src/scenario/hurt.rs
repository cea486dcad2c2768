//! Load that hurts: what real mail notices of a dictionary attack, of a destination that hangs, and of clients that hold connections.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, timeout};

use super::Bench;
use crate::load::http::{Place, Visitor};
use crate::load::{Answer, Client, Names, Pace, Protocol, Run, Target, ask, connect, names, open_loop};
use crate::process;
use crate::report::{Part, Section, Table, Verdict};
use crate::stats::{Spread, count, megabytes, number, ratios, real, time};
use crate::subject::{Callahead, Destination, HARVEST, Helper, Setup, fill};

/// How many times the usual span a measurement goes on here: the hundredth part of its answers is what is told of, and has to be many.
const LONGER: u32 = 3;
/// Real mail: questions a second that the cache answers, and such as need a callout.
const KNOWN_RATE: f64 = 400.0;
const NEW_RATE: f64 = 200.0;
/// Connections of real mail, for either.
const CONNECTIONS: usize = 8;
/// Clients that guess, and guesses a second of all of them.
const GUESSERS: u32 = 50;
const GUESSES_PER_SECOND: u32 = 2_000;
/// Questions that wait for the destination that hangs.
const HANGING: u64 = 500;
/// How often some of the held connections send their octet.
const DRIP_EVERY: Duration = Duration::from_millis(2);
/// Until connections that were closed are seen to be.
const SETTLE: Duration = Duration::from_millis(500);
/// Numbers of recipients for one measurement, of which every second exists.
const APART: u64 = 50_000;
/// Decisions a second that fill what the decision log keeps of its file in memory, before memory is looked at.
const WARM_RATE: f64 = 5_000.0;
/// How many times as much anonymous memory a daemon may have beside what hurts. Half more is some 20 MB: the 500 questions that wait for the
/// destination that hangs take less with their connections, and of 100,000 guesses each would take more that left 200 octets behind.
const FLAT: f64 = 1.5;

/// Real mail, as it was measured.
struct Mail {
    known: Run,
    new: Run,
    /// Recipients that were new.
    asked: u64,
}

/// Real mail round by round: alone, then beside what hurts, then alone again.
#[derive(Default)]
struct Rounds {
    alone: Vec<Mail>,
    beside: Vec<Mail>,
}

/// One after another, each beside real mail alone.
///
/// # Errors
/// When a server fails, or real mail gets a wrong answer.
pub async fn run(bench: &Bench) -> anyhow::Result<Section> {
    let mut section = Section::new("Load that hurts");
    let seconds = span(bench).as_secs_f64();
    section.say(format!(
        "Real mail by the policy protocol: {KNOWN_RATE} questions a second for {} recipients in the cache that exist, and {NEW_RATE} for new \
         ones, which need a callout. Measured alone and beside each of the following, in turn, {} times, {} s or more each, so that a 99th \
         percentile is of {} answers of the one and {} of the other at least; the ratios are of two that were measured one behind the other.",
        // Every second one of those in the cache.
        count(bench.size.few / 2),
        bench.size.rounds,
        number(seconds),
        number(KNOWN_RATE * seconds),
        number(NEW_RATE * seconds)
    ));
    let mut table = Table::new(&["beside", "cached, median", "cached, p99", "new, median", "new, p99"]);
    attack(bench, &mut section, &mut table).await.context("the dictionary attack")?;
    hang(bench, &mut section, &mut table).await.context("the destination that hangs")?;
    slow(bench, &mut section, &mut table).await.context("the slow connections")?;
    section.parts.insert(1, Part::Numbers(table));
    Ok(section)
}

/// Real mail for so long; its new recipients are those of this turn.
async fn mail(bench: &Bench, address: SocketAddr, turn: u64, span: Duration) -> anyhow::Result<Mail> {
    let target = Target { address, protocol: Protocol::Policy };
    let from = bench.size.few + turn * APART;
    let (known, new) =
        (Names::random(bench.size.few).existing(true), Names::distinct(from, from + APART).existing(true));
    let (known, run) = tokio::join!(
        open_loop(target, &known, CONNECTIONS, Pace::new(KNOWN_RATE, span)),
        open_loop(target, &new, CONNECTIONS, Pace::new(NEW_RATE, span))
    );
    let (known, run) = (known.context("real mail, cached")?, run.context("real mail, new")?);
    Ok(Mail { known, new: run, asked: (new.next() - from) / 2 })
}

/// Of real mail, either kind.
type Of = fn(&Mail) -> &Run;
const CACHED: Of = |mail| &mail.known;
const NEW: Of = |mail| &mail.new;

/// How long real mail is measured.
fn span(bench: &Bench) -> Duration {
    bench.size.span * LONGER
}

fn at(mails: &[Mail], of: Of, quantile: f64) -> Vec<f64> {
    mails.iter().map(|mail| of(mail).quantile(quantile)).collect()
}

impl Rounds {
    async fn alone(&mut self, bench: &Bench, address: SocketAddr) -> anyhow::Result<()> {
        self.alone.push(mail(bench, address, self.turn(), span(bench)).await?);
        Ok(())
    }

    async fn beside(&mut self, bench: &Bench, address: SocketAddr, span: Duration) -> anyhow::Result<()> {
        self.beside.push(mail(bench, address, self.turn(), span).await?);
        Ok(())
    }

    fn turn(&self) -> u64 {
        (self.alone.len() + self.beside.len()) as u64
    }

    /// Both rows of the table.
    fn show(&self, table: &mut Table, alone: &str, beside: &str) {
        for (name, mails) in [(alone, &self.alone), (beside, &self.beside)] {
            let cells = [(CACHED, 0.5), (CACHED, 0.99), (NEW, 0.5), (NEW, 0.99)]
                .map(|(of, quantile)| Spread::of(&at(mails, of, quantile)).show(time));
            table.row(std::iter::once(name.to_owned()).chain(cells));
        }
    }

    /// How many times as long the 99th percentile is, round by round.
    fn slower(&self, of: Of) -> Vec<f64> {
        ratios(&at(&self.beside, of, 0.99), &at(&self.alone, of, 0.99))
    }

    /// Whether that is no more than twice: of answers from the cache, and of new ones.
    fn judge(&self, section: &mut Section, what: &str) {
        for (which, of) in [("cached", CACHED), ("new", NEW)] {
            let each = self.slower(of);
            let ratio = Spread::of(&each);
            let verdict = Verdict::new(
                &format!("{what}: p99 of real mail, {which}"),
                "≤ 2 x without",
                ratio.show(number),
                ratio.median <= 2.0,
            );
            section
                .verdicts
                .push(verdict.of_each("rounds", &each.iter().map(|ratio| *ratio <= 2.0).collect::<Vec<_>>()));
        }
    }
}

/// Anonymous memory of a daemon before what hurts, and the most that it had beside or behind it, in bytes.
struct Memory {
    before: f64,
    most: f64,
}

impl Memory {
    fn look(&mut self, daemon: &Callahead) -> anyhow::Result<()> {
        let now = process::anonymous(daemon.process()).context("the daemon has ended")?;
        // It is no number until the first look.
        (self.before, self.most) = if self.before.is_nan() { (now, now) } else { (self.before, self.most.max(now)) };
        Ok(())
    }

    fn new() -> Self {
        Self { before: f64::NAN, most: f64::NAN }
    }

    fn judge(&self, section: &mut Section, what: &str) {
        section.verdicts.push(Verdict::new(
            &format!("{what}: anonymous memory"),
            &format!("≤ {FLAT} × before"),
            format!(
                "{} × ({}, before {})",
                number(self.most / self.before),
                megabytes(self.most),
                megabytes(self.before)
            ),
            self.most <= FLAT * self.before,
        ));
    }
}

/// Fills what the decision log keeps of its file in memory, which grows by design until it is full: as many decisions as there are guesses.
async fn warm(bench: &Bench, address: SocketAddr) -> anyhow::Result<()> {
    let target = Target { address, protocol: Protocol::Policy };
    let pace = Pace::new(WARM_RATE, Duration::from_secs_f64(real(bench.size.guesses) / WARM_RATE));
    let known = Names::random(bench.size.few).existing(true);
    open_loop(target, &known, CONNECTIONS, pace).await.context("the questions before it")?;
    Ok(())
}

async fn start(bench: &Bench, name: &str, callout: &str, more: &str) -> anyhow::Result<(Destination, Callahead)> {
    let destination = Destination::start(bench.size.few + 2 * bench.size.rounds * APART, 1).await?;
    let setup = Setup {
        gateway: true,
        callout: callout.to_owned(),
        more: more.to_owned(),
        ..Setup::new(&bench.folder.join(name), destination.address())
    };
    fill(&setup, bench.size.few).await?;
    let daemon = Callahead::start(&setup).await?;
    Ok((destination, daemon))
}

// === a dictionary attack ===

async fn attack(bench: &Bench, section: &mut Section, table: &mut Table) -> anyhow::Result<()> {
    let (mut destination, daemon) = start(bench, "attack", "", "").await?;
    let address = daemon.address("policy")?;
    // For as long as real mail is measured at least, with its warm-up.
    let needed = u64::try_from((span(bench) * 5 / 4).as_millis())? * u64::from(GUESSES_PER_SECOND / GUESSERS);
    let each = (bench.size.guesses / u64::from(GUESSERS) / bench.size.rounds).max(needed.div_ceil(1000));
    let span = Duration::from_secs_f64(real(each * u64::from(GUESSERS)) / f64::from(GUESSES_PER_SECOND));
    let (mut rounds, mut memory) = (Rounds::default(), Memory::new());
    let (mut refused, mut told, mut begun) = (0, 0, 0);
    warm(bench, address).await?;
    for round in 0..bench.size.rounds {
        rounds.alone(bench, address).await?;
        if round == 0 {
            memory.look(&daemon)?;
        }
        destination.told().await?;
        let before = callouts(&daemon).await?;
        let guessing = beside_real_mail(async move {
            let mut guessing = JoinSet::new();
            for guesser in 0..GUESSERS {
                guessing.spawn(guess(address, guesser, round * each..(round + 1) * each));
            }
            let mut refused = 0;
            while let Some(guessed) = guessing.join_next().await {
                refused += guessed??;
            }
            anyhow::Ok(refused)
        });
        // The warm-up is a fifth of the span, and the attack goes on for all of it.
        rounds.beside(bench, address, span * 4 / 5).await?;
        refused += guessing.await???;
        told += destination.told().await?.rcpt;
        begun += callouts(&daemon).await? - before;
        memory.look(&daemon)?;
    }
    daemon.kill().await?;
    let asked: u64 = rounds.beside.iter().map(|mail| mail.asked).sum();
    // The first refusal of a host in a session that was used before is asked again in a new one. No metric counts that by itself, and what
    // was told beyond the callouts that the daemon counts may be anything, so that it is no allowance.
    let allowed = u64::from(GUESSERS * (HARVEST + 1)) + asked + 1;
    section.say(format!(
        "A dictionary attack: {GUESSERS} clients guess {} local parts, none twice, {} a second in all. A client is believed until it has \
         guessed wrong {HARVEST} times, and the next one makes it known: {GUESSERS} x {} callouts, and {} for real mail, are what the \
         protection allows, and the first refusal may be asked for twice. The destination was told {} recipients, in {} callouts as the daemon counts \
         them. {} guesses were refused, the others put off without a callout. Before the first look at its memory it decided {} questions and more, which \
         fill what the decision log keeps of its file in memory.",
        count(each * u64::from(GUESSERS) * bench.size.rounds),
        count(GUESSES_PER_SECOND.into()),
        HARVEST + 1,
        count(asked),
        count(told),
        count(begun),
        count(refused),
        count(bench.size.guesses)
    ));
    section.verdicts.push(Verdict::new(
        "dictionary attack: recipients that the destination is asked for",
        &format!("≤ {}", count(allowed)),
        count(told),
        told <= allowed,
    ));
    rounds.show(table, "nothing", "a dictionary attack");
    rounds.judge(section, "dictionary attack");
    memory.judge(section, "dictionary attack");
    Ok(())
}

/// The callouts that a daemon has begun, as it counts them.
async fn callouts(daemon: &Callahead) -> anyhow::Result<u64> {
    let page = Visitor::new(Place::Tcp(daemon.address("http")?)).get("/metrics").await?;
    let line = page.body.lines().find_map(|line| line.strip_prefix("callahead_callouts_total "));
    line.and_then(|number| number.trim().parse().ok()).context("/metrics counts no callouts")
}

/// Does what hurts on a thread of its own, as it comes from other machines than real mail: on real mail's thread it would hold up the
/// reading of answers that have long been there.
fn beside_real_mail<T: Send + 'static>(
    what_hurts: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<std::io::Result<T>> {
    spawn_blocking(|| Ok(Builder::new_current_thread().enable_all().build()?.block_on(what_hurts)))
}

/// One client that guesses; gives how often it was told that a mailbox does not exist.
async fn guess(address: SocketAddr, guesser: u32, guesses: Range<u64>) -> anyhow::Result<u64> {
    let mut client = Client::connect(Target { address, protocol: Protocol::Policy }).await?;
    client.speak_for(Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + guesser));
    // They know nothing of each other: with one clock all of them would ask in the same instant.
    let apart = Duration::from_secs(1) / GUESSES_PER_SECOND;
    let mut ticks = interval_at(Instant::now() + apart * guesser, apart * GUESSERS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut refused = 0;
    for nth in guesses {
        ticks.tick().await;
        let answer = client.ask(&format!("guess{guesser}.{nth}@{}", names::DOMAIN)).await?;
        anyhow::ensure!(answer != Answer::Accept, "a guess was accepted");
        refused += u64::from(answer == Answer::Reject);
    }
    Ok(refused)
}

// === a destination that hangs ===

async fn hang(bench: &Bench, section: &mut Section, table: &mut Table) -> anyhow::Result<()> {
    let span = span(bench);
    // Longer than the measurement with its warm-up, and over soon after it.
    let deadline = span * 3 / 2 + Duration::from_secs(1);
    let timeout = format!("timeout = \"{}ms\"", deadline.as_millis());
    let mut more = String::new();
    let mut holding = JoinSet::new();
    for round in 0..bench.size.rounds {
        // One for each round: a destination that has hung is not asked again for a while.
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        more.push_str(&format!(
            "[[domain]]\nname = \"hang{round}.example\"\nroute = [\"{}\"]\n",
            listener.local_addr()?
        ));
        holding.spawn(async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                held.push(stream);
            }
        });
    }
    let (_destination, daemon) = start(bench, "hang", &timeout, &more).await?;
    let target = Target { address: daemon.address("policy")?, protocol: Protocol::Policy };
    let (mut rounds, mut memory) = (Rounds::default(), Memory::new());
    let mut still = usize::MAX;
    warm(bench, target.address).await?;
    for round in 0..bench.size.rounds {
        rounds.alone(bench, target.address).await?;
        if round == 0 {
            memory.look(&daemon)?;
        }
        let mut waiting = JoinSet::new();
        for (number, mut client) in connect(target, usize::try_from(HANGING)?).await?.into_iter().enumerate() {
            let name = format!("u{number}@hang{round}.example");
            waiting.spawn(async move { ask(&mut client, &name, Answer::Defer).await });
        }
        rounds.beside(bench, target.address, span).await?;
        while waiting.try_join_next().transpose()?.transpose()?.is_some() {}
        still = still.min(waiting.len());
        memory.look(&daemon)?;
        // Real mail is alone again when none of them is waited for.
        while let Some(deferred) = waiting.join_next().await {
            deferred??;
        }
    }
    section.say(format!(
        "A destination that takes connections and says nothing: {HANGING} questions for its recipients wait while real mail for another domain \
         is measured; {still} of them were not answered yet when that ended, in the round with the fewest."
    ));
    rounds.show(table, "nothing, more domains", "a destination that hangs");
    rounds.judge(section, "a destination that hangs");
    memory.judge(section, "a destination that hangs");
    daemon.kill().await
}

// === connections that are held ===

async fn slow(bench: &Bench, section: &mut Section, table: &mut Table) -> anyhow::Result<()> {
    let (_destination, daemon) = start(bench, "slow", "", "").await?;
    let policy = daemon.address("policy")?;
    let question = format!("request=smtpd_access_policy\nprotocol_state=RCPT\nrecipient=u0@{}\n\n", names::DOMAIN);
    let health = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    // Where, half a request, a whole one, and how its answer begins.
    let places = [
        (policy, &b"request=smtpd_access_policy\nprotocol_st"[..], question.as_str(), "action=DUNNO\n"),
        // It greets by itself.
        (daemon.address("gateway")?, b"EHLO slow.exam", "", "220 "),
        (daemon.address("http")?, b"GET /metrics HTTP/1.1\r\nHo", health, "HTTP/1.1 200 "),
    ];
    let bare = Helper::start(&["serve-bare", "policy"]).await?;
    let (mut rounds, mut control) = (Rounds::default(), Rounds::default());
    let (mut open, mut served) = ([usize::MAX / 4; 3], usize::MAX);
    let mut memory = [0.0_f64; 2];
    for round in 0..bench.size.rounds {
        rounds.alone(bench, policy).await?;
        if round == 0 {
            memory[0] = process::resident(daemon.process()).context("the daemon has ended")?.0;
        }
        let held = Arc::new(hold(bench.size.slow, places.map(|(place, words, ..)| (place, words))).await?);
        let dripping = beside_real_mail(drip(Arc::clone(&held), span(bench)));
        rounds.beside(bench, policy, span(bench)).await?;
        dripping.await??;
        memory[1] = memory[1].max(process::resident(daemon.process()).context("the daemon has ended")?.0);
        let (mut now_open, mut now_served) = ([0; 3], 0);
        for (stream, place) in held.iter().zip((0..places.len()).cycle()) {
            now_open[place] += usize::from(is_open(stream));
        }
        for (place, _, question, due) in places {
            now_served += usize::from(is_served(place, question, due).await);
        }
        let all_open: usize = now_open.iter().sum();
        open = if all_open < open.iter().sum() { now_open } else { open };
        served = served.min(now_served);
        drop(held);
        tokio::time::sleep(SETTLE).await;

        // The same at a server that does nothing, with as many as are open here.
        control.alone(bench, bare.address).await?;
        let held = Arc::new(hold(all_open, [(bare.address, places[0].1); 3]).await?);
        let dripping = beside_real_mail(drip(Arc::clone(&held), span(bench)));
        control.beside(bench, bare.address, span(bench)).await?;
        dripping.await??;
        drop(held);
        tokio::time::sleep(SETTLE).await;
    }
    let all_open = open.iter().sum::<usize>() as u64;
    let [at_policy, at_gateway, at_http] = open.map(|open| count(open as u64));
    section.say(format!(
        "{} connections were opened, a third each to policy, gateway and HTTP, and said half a request or command. {} of them stayed open ({at_policy}, \
         {at_gateway} and {at_http}), in the round with the fewest; the others were closed at once by a listener's bound on its connections. \
         While real mail was measured each that was open said one octet more, one after another over that time. Resident memory: {} before, \
         {} with them. New clients were served by {served} of the 3.",
        count(bench.size.slow as u64),
        count(all_open),
        megabytes(memory[0]),
        megabytes(memory[1])
    ));
    section.verdicts.push(Verdict::new(
        &format!(
            "{} slow connections, {} of them open: new clients are served",
            count(bench.size.slow as u64),
            count(all_open)
        ),
        "by policy, gateway and HTTP",
        format!("by {served} of 3"),
        served == 3,
    ));
    rounds.show(table, "nothing, once more", "connections that say a word and no more");
    rounds.judge(section, "slow connections");
    control.show(table, "nothing, the bare server", "as many such connections, the bare server");
    let [cached, new] = [CACHED, NEW].map(|of| Spread::of(&control.slower(of)).show(number));
    section.say(format!(
        "The bare policy server, which does nothing and was measured in the same rounds with as many connections held, and as many octets, as stayed \
         open at Callahead: its 99th percentile is {cached} and {new} times that without them. So much of what real mail notices is this \
         machine's, which has the work of these connections to share among its cores whoever serves them."
    ));
    daemon.kill().await
}

/// Connections that have said so much, to one place after another.
async fn hold(count: usize, places: [(SocketAddr, &[u8]); 3]) -> anyhow::Result<Vec<TcpStream>> {
    let mut held = Vec::with_capacity(count);
    for (place, words) in places.into_iter().cycle().take(count) {
        let mut stream = TcpStream::connect(place).await?;
        // Beyond its bound a listener closes at once.
        let _ = stream.write_all(words).await;
        held.push(stream);
    }
    Ok(held)
}

/// An octet more from each while real mail is measured, spread over that time.
async fn drip(held: Arc<Vec<TcpStream>>, span: Duration) {
    let mut ticks = interval(DRIP_EVERY);
    let ticks_in_span = usize::try_from(span.as_millis() / DRIP_EVERY.as_millis()).unwrap_or(usize::MAX);
    for some in held.chunks(held.len().div_ceil(ticks_in_span.max(1)).max(1)) {
        ticks.tick().await;
        for stream in some {
            let _ = stream.try_write(b"x");
        }
    }
}

/// Whether a connection was not closed by the other side.
fn is_open(stream: &TcpStream) -> bool {
    let mut some = [0; 512];
    loop {
        match stream.try_read(&mut some) {
            // A greeting.
            Ok(1..) => {}
            said => return said.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock),
        }
    }
}

/// Whether a new client gets what is due: a greeting, or an answer to its request. To be told that there are too many is neither.
async fn is_served(place: SocketAddr, question: &str, due: &str) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect(place).await?;
        stream.write_all(question.as_bytes()).await?;
        let mut answer = vec![0; due.len()];
        stream.read_exact(&mut answer).await?;
        std::io::Result::Ok(answer == due.as_bytes())
    };
    timeout(Duration::from_secs(10), asked).await.is_ok_and(|served| served.unwrap_or(false))
}
