//! Load that hurts: what real mail notices of a dictionary attack, of a destination that hangs, and of clients that hold connections.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Bench;
use crate::load::{Answer, Client, Names, Order, Protocol, Run, Target, ask, connect, names, open_loop};
use crate::process;
use crate::report::{Section, Table, Verdict};
use crate::stats::{count, megabytes, number, real, time};
use crate::subject::{Callahead, Destination, Setup, fill};

/// Real mail: questions a second that the cache answers, and such as need a callout.
const KNOWN_RATE: f64 = 400.0;
const NEW_RATE: f64 = 20.0;
/// Connections of real mail, for either.
const CONNECTIONS: usize = 8;
/// Clients that guess, and guesses a second of all of them.
const GUESSERS: u32 = 50;
const GUESSES_PER_SECOND: u32 = 2_000;
/// `harvest.limit` as it is shipped.
const HARVEST: u32 = 20;
/// Questions that wait for the destination that hangs.
const HANGING: u64 = 500;
/// How often some of the held connections send their octet.
const DRIP_EVERY: Duration = Duration::from_millis(2);
/// Numbers of recipients apart, so that no two parts of this scenario share one.
const APART: u64 = 50_000;

/// Real mail, as it was measured.
struct Mail {
    known: Run,
    new: Run,
    /// Recipients that were new.
    asked: u64,
}

/// One after another, each beside real mail alone.
///
/// # Errors
/// When a server fails, or real mail gets a wrong answer.
pub async fn run(bench: &Bench) -> anyhow::Result<Section> {
    let mut section = Section::new("Load that hurts");
    section.say(format!(
        "Real mail by the policy protocol: {KNOWN_RATE} questions a second for recipients in the cache, and {NEW_RATE} for new ones, \
         which need a callout. Measured alone, and again beside each of the following."
    ));
    let mut table = Table::new(&["beside", "cached, median", "cached, p99", "new, median", "new, p99"]);
    attack(bench, &mut section, &mut table).await.context("the dictionary attack")?;
    hang(bench, &mut section, &mut table).await.context("the destination that hangs")?;
    slow(bench, &mut section, &mut table).await.context("the slow connections")?;
    section.parts.insert(1, crate::report::Part::Numbers(table));
    Ok(section)
}

/// Real mail for so long.
async fn mail(address: SocketAddr, from: u64, known: u64, span: Duration) -> anyhow::Result<Mail> {
    let target = Target { address, protocol: Protocol::Policy };
    let (known, new) = (Names::random(known).existing(true), Names::distinct(from, from + APART).existing(true));
    let (known, run) = tokio::join!(
        open_loop(target, &known, CONNECTIONS, KNOWN_RATE, span),
        open_loop(target, &new, CONNECTIONS, NEW_RATE, span)
    );
    let asked = match &new.order {
        Order::Distinct(next, _) => (next.get() - from) / 2,
        Order::Random(_) => 0,
    };
    Ok(Mail { known: known?, new: run?, asked })
}

fn row(table: &mut Table, beside: &str, mail: &Mail) {
    let [a, b] = [0.5, 0.99].map(|quantile| time(mail.known.quantile(quantile)));
    let [c, d] = [0.5, 0.99].map(|quantile| time(mail.new.quantile(quantile)));
    table.row([beside.to_owned(), a, b, c, d]);
}

/// How much slower real mail's 99th percentile is: of answers from the cache, and of new ones.
fn compare(section: &mut Section, what: &str, alone: &Mail, beside: &Mail) {
    for (which, of) in [("cached", (|mail| &mail.known) as fn(&Mail) -> &Run), ("new", |mail| &mail.new)] {
        let ratio = of(beside).quantile(0.99) / of(alone).quantile(0.99).max(1.0);
        section.verdicts.push(Verdict::new(
            &format!("{what}: p99 of real mail, {which}"),
            "≤ 2 x without",
            number(ratio),
            ratio <= 2.0,
        ));
    }
}

async fn start(bench: &Bench, name: &str, more: String) -> anyhow::Result<(Destination, Callahead)> {
    let destination = Destination::start(bench.size.few + 4 * APART, 1).await?;
    let setup =
        Setup { gateway: true, harvest: HARVEST, more, ..Setup::new(&bench.folder.join(name), destination.address()) };
    fill(&setup, bench.size.few).await?;
    let daemon = Callahead::start(&setup).await?;
    Ok((destination, daemon))
}

// === a dictionary attack ===

async fn attack(bench: &Bench, section: &mut Section, table: &mut Table) -> anyhow::Result<()> {
    let (mut destination, daemon) = start(bench, "attack", String::new()).await?;
    let address = daemon.address("policy")?;
    let few = bench.size.few;
    let each = bench.size.guesses / u64::from(GUESSERS);
    let span = Duration::from_secs_f64(real(bench.size.guesses) / f64::from(GUESSES_PER_SECOND));
    let alone = mail(address, few, few, span / 4).await?;
    row(table, "nothing", &alone);
    destination.told().await?;
    let mut guessing = JoinSet::new();
    for guesser in 0..GUESSERS {
        guessing.spawn(guess(address, guesser, each));
    }
    // The warm-up is a fifth of the span, and the attack goes on for all of it.
    let beside = mail(address, few + APART, few, span * 4 / 5).await?;
    let mut refused = 0;
    while let Some(guessed) = guessing.join_next().await {
        refused += guessed??;
    }
    daemon.kill().await?;
    row(table, "a dictionary attack", &beside);
    let told = destination.told().await?.rcpt;
    let allowed = u64::from(GUESSERS * (HARVEST + 1)) + beside.asked;
    section.say(format!(
        "A dictionary attack: {GUESSERS} clients guess {} local parts, none twice, {} a second in all. A client is believed until it has \
         guessed wrong {HARVEST} times, and the next one makes it known: {GUESSERS} x {} callouts, and {} for real mail, are what the \
         protection allows. The destination was told {} recipients. {} guesses were refused, the others put off without a callout.",
        count(each * u64::from(GUESSERS)),
        count(GUESSES_PER_SECOND.into()),
        HARVEST + 1,
        count(beside.asked),
        count(told),
        count(refused)
    ));
    section.verdicts.push(Verdict::new(
        "dictionary attack: recipients that the destination is asked for",
        &format!("≤ {}", count(allowed)),
        count(told),
        told <= allowed,
    ));
    compare(section, "dictionary attack", &alone, &beside);
    Ok(())
}

/// One client that guesses; gives how often it was told that a mailbox does not exist.
async fn guess(address: SocketAddr, guesser: u32, guesses: u64) -> anyhow::Result<u64> {
    let mut client = Client::connect(Target { address, protocol: Protocol::Policy }).await?;
    client.speak_for(Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + guesser));
    let mut ticks = interval(Duration::from_secs(1) * GUESSERS / GUESSES_PER_SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut refused = 0;
    for nth in 0..guesses {
        ticks.tick().await;
        let answer = client.ask(&format!("guess{guesser}.{nth}@{}", names::DOMAIN)).await?;
        anyhow::ensure!(answer != Answer::Accept, "a guess was accepted");
        refused += u64::from(answer == Answer::Reject);
    }
    Ok(refused)
}

// === a destination that hangs ===

async fn hang(bench: &Bench, section: &mut Section, table: &mut Table) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    let holding = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    let more = format!("[[domain]]\nname = \"hang.example\"\nroute = [\"{at}\"]\n");
    let (_destination, daemon) = start(bench, "hang", more).await?;
    let target = Target { address: daemon.address("policy")?, protocol: Protocol::Policy };
    let few = bench.size.few;
    let span = bench.size.span * 2;
    let alone = mail(target.address, few, few, span).await?;
    row(table, "nothing, a domain more", &alone);
    let mut waiting = JoinSet::new();
    for (number, mut client) in connect(target, usize::try_from(HANGING)?).await?.into_iter().enumerate() {
        waiting.spawn(async move { ask(&mut client, &format!("u{number}@hang.example"), Answer::Defer).await });
    }
    let beside = mail(target.address, few + APART, few, span).await?;
    row(table, "a destination that hangs", &beside);
    let still = waiting.len();
    section.say(format!(
        "A destination that takes connections and says nothing: {HANGING} questions for its recipients wait while real mail for another domain \
         is measured; {still} of them were not answered yet when that ended."
    ));
    compare(section, "a destination that hangs", &alone, &beside);
    waiting.shutdown().await;
    daemon.kill().await?;
    holding.abort();
    Ok(())
}

// === connections that are held ===

async fn slow(bench: &Bench, section: &mut Section, table: &mut Table) -> anyhow::Result<()> {
    let (_destination, daemon) = start(bench, "slow", String::new()).await?;
    let policy = daemon.address("policy")?;
    let few = bench.size.few;
    let span = bench.size.span * 2;
    let alone = mail(policy, few, few, span).await?;
    row(table, "nothing, once more", &alone);
    let (before, _) = process::resident(daemon.process()).context("the daemon has ended")?;
    let mut held = Vec::with_capacity(bench.size.slow);
    let question = format!("request=smtpd_access_policy\nprotocol_state=RCPT\nrecipient=u0@{}\n\n", names::DOMAIN);
    let places = [
        (policy, &b"request=smtpd_access_policy\nprotocol_st"[..], question.as_str()),
        // It greets by itself.
        (daemon.address("gateway")?, b"EHLO slow.exam", ""),
        (daemon.address("http")?, b"GET /metrics HTTP/1.1\r\nHo", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"),
    ];
    for number in 0..bench.size.slow {
        let (place, words, _) = places[number % places.len()];
        let mut stream = TcpStream::connect(place).await?;
        // Beyond its bound a listener closes at once.
        let _ = stream.write_all(words).await;
        held.push(stream);
    }
    // An octet more from each while real mail is measured, spread over that time: the generator has one thread, and while it wrote
    // all of them at once it could not read real mail's answers.
    let drip = async {
        let mut ticks = interval(DRIP_EVERY);
        let ticks_in_span = usize::try_from(span.as_millis() / DRIP_EVERY.as_millis()).unwrap_or(usize::MAX);
        for some in held.chunks(held.len().div_ceil(ticks_in_span.max(1)).max(1)) {
            ticks.tick().await;
            for stream in some {
                let _ = stream.try_write(b"x");
            }
        }
    };
    let (beside, ()) = tokio::join!(mail(policy, few + APART, few, span), drip);
    let beside = beside?;
    row(table, "connections that say a word and no more", &beside);
    let (after, _) = process::resident(daemon.process()).context("the daemon has ended")?;
    let [mut open, mut served] = [0_usize; 2];
    for stream in &held {
        let mut some = [0; 512];
        open += usize::from(!matches!(stream.try_read(&mut some), Ok(0)));
    }
    for (place, _, question) in places {
        served += usize::from(is_served(place, question).await);
    }
    section.say(format!(
        "{} connections that say half a request and then an octet, a third each to policy, gateway and HTTP: {} of them were still \
         open behind that, the others were closed by a listener's bound. Resident memory: {} before, {} with them. New clients were \
         served by {served} of the 3.",
        count(bench.size.slow as u64),
        count(open as u64),
        megabytes(before),
        megabytes(after)
    ));
    section.verdicts.push(Verdict::new(
        &format!("{} slow connections: new clients are served", count(bench.size.slow as u64)),
        "by policy, gateway and HTTP",
        format!("by {served} of 3"),
        served == 3,
    ));
    compare(section, "slow connections", &alone, &beside);
    drop(held);
    daemon.kill().await
}

/// Whether a new client gets an answer: a greeting, or one to its request.
async fn is_served(place: SocketAddr, question: &str) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect(place).await?;
        stream.write_all(question.as_bytes()).await?;
        let mut answer = [0; 64];
        let octets = stream.read(&mut answer).await?;
        std::io::Result::Ok(octets > 0 && !answer.starts_with(b"421"))
    };
    timeout(Duration::from_secs(10), asked).await.is_ok_and(|served| served.unwrap_or(false))
}
