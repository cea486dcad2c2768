//! A big cache beside smaller ones: speed, memory, start after kill -9, and a clear.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;

use super::{Bench, HEADS, Measured, Round, turns};
use crate::load::{Answer, Client, Names, Pace, Protocol, Target, ask, names, open_loop};
use crate::process;
use crate::report::{Section, Table, Verdict, svg};
use crate::stats::{Spread, count, megabytes, number, ratios, real, time};
use crate::subject::{Callahead, Setup, Subject, fill};

/// Rounds of the greatest rate, from which the fixed one is made.
const CLOSED_ROUNDS: u64 = 3;
/// Clears, each of a copy of the cache.
const CLEARS: usize = 3;
/// Starts before which as many processes in a row were killed while the file was looked through.
const BAD_STARTS: usize = 3;
/// What a start after kill -9 is to take at most, in nanoseconds.
const READY_WITHIN: f64 = 1e9;

/// Entries that the design's numbers are for.
const DESIGNED: u64 = 10_000_000;

/// For the name of a row: whether it is measured with fewer entries than its number is meant for.
fn fewer(entries: u64) -> String {
    if entries < DESIGNED { format!(" (the number is meant for {}: --full)", count(DESIGNED)) } else { String::new() }
}

/// A daemon and what it is asked for.
struct Sized {
    entries: u64,
    setup: Setup,
    daemon: Callahead,
    subject: Subject,
    names: Names,
}

/// Measures a small cache, a big one, and one between them.
///
/// # Errors
/// When a daemon fails.
pub async fn run(bench: &Bench) -> anyhow::Result<Section> {
    let size = &bench.size;
    let mut section = Section::new(&format!("{} entries beside {}", count(size.many), count(size.few)));
    let nowhere = ([127, 0, 0, 1], 9).into();
    // As many times the one as the other is this.
    let between = size.few * (size.many / size.few).isqrt();
    let (mut sized, mut filled) = (Vec::new(), 0.0);
    for (name, entries) in [("few", size.few), ("between", between), ("many", size.many)] {
        let setup = Setup::new(&bench.folder.join(name), nowhere);
        let began = Instant::now();
        fill(&setup, entries).await?;
        filled = began.elapsed().as_secs_f64();
        let daemon = Callahead::start(&setup).await?;
        let subject = Subject::new(name, daemon.address("policy")?, Protocol::Policy, daemon.process());
        sized.push(Sized { entries, setup, daemon, subject, names: Names::random(entries) });
    }
    let file = fs::metadata(cache_file(&bench.folder.join("many")))?.len();
    section.say(format!(
        "Daemons with {} (few), {} (between) and {} (many) entries in one domain, asked at random by {} connections in turn. The caches were \
         filled through the cache's own crate before the daemons started ({} entries a second; the biggest file has {}).",
        count(size.few),
        count(between),
        count(size.many),
        size.connections,
        number(real(size.many) / filled),
        megabytes(real(file))
    ));
    let nothing = || -> Vec<Measured> {
        sized.iter().map(|one| Measured { name: one.subject.name, rounds: Vec::new() }).collect()
    };

    let mut closed = nothing();
    for round in 0..size.rounds.min(CLOSED_ROUNDS) {
        for at in turns(round, sized.len()) {
            let one = &sized[at];
            one.daemon.empty_log()?;
            closed[at].rounds.push(Round::measure(&one.subject, &one.names, size.connections, size.span).await?);
        }
    }
    let mut table = Table::new(&HEADS);
    closed.iter().for_each(|one| table.row(one.row()));
    section.show(table);

    let rate = closed.iter().map(|one| Spread::of(&one.rates()).median).fold(f64::MAX, f64::min) / 2.0;
    let mut half = nothing();
    for round in 0..size.rounds {
        for at in turns(round, sized.len()) {
            let one = &sized[at];
            one.daemon.empty_log()?;
            let pace = Pace::new(rate, size.span);
            let run = open_loop(one.subject.target, &one.names, size.connections, pace).await;
            half[at].rounds.push(Round { run: run.context(one.subject.name)?, cpu: 0.0, memory: 0.0 });
        }
    }
    section.say(format!("At {} questions a second:", number(rate)));
    let mut table = Table::new(&["", "median", "99th percentile", "anonymous memory afterwards"]);
    let mut big_memory = f64::NAN;
    let mut points = Vec::new();
    for (one, half) in sized.iter().zip(&half) {
        big_memory = process::anonymous(one.daemon.process()).context("the daemon has ended")?;
        let quantile = |at| Spread::of(&half.quantiles(at)).show(time);
        table.row([one.subject.name.to_owned(), quantile(0.5), quantile(0.99), megabytes(big_memory)]);
        points.push((real(one.entries), Spread::of(&half.quantiles(0.99)).median / 1e6));
    }
    section.show(table);
    let title = format!("Cached answers by the policy protocol at {} questions a second", number(rate));
    let labels = svg::Labels { title: &title, x: "entries", y: "99th percentile, ms" };
    let series = [svg::Series { name: "Callahead".into(), points }];
    section.plots.push(("benchmarks-entries.svg".into(), svg::lines(labels, &series)));
    let (few, many) = (&half[0], &half[half.len() - 1]);
    let each = ratios(&many.quantiles(0.99), &few.quantiles(0.99));
    let ratio = Spread::of(&each);
    let (what, fewer) = (format!("{} entries against {}", count(size.many), count(size.few)), fewer(size.many));
    let verdict = Verdict::new(
        &format!("{what}: p99 of a cached answer{fewer}"),
        "≤ 1.5 ×",
        ratio.show(number),
        ratio.median <= 1.5,
    );
    section.verdicts.push(verdict.of_each("rounds", &each.iter().map(|ratio| *ratio <= 1.5).collect::<Vec<_>>()));
    section.verdicts.push(Verdict::new(
        &format!("{what}: anonymous resident memory{fewer}"),
        "≤ 100 MB",
        megabytes(big_memory),
        big_memory <= 100e6,
    ));
    let big = sized.pop().context("three were measured")?;
    for one in sized {
        one.daemon.kill().await?;
    }
    restarts(bench, &mut section, big.daemon, &big.setup).await?;
    clears(bench, &mut section, &big.setup).await?;
    Ok(section)
}

/// Ends in a row behind which the cache's file is looked through before it is opened.
const ENDS: usize = 4;

/// kill -9, and how long it takes from the next start to an answer.
async fn restarts(bench: &Bench, section: &mut Section, big: Callahead, setup: &Setup) -> anyhow::Result<()> {
    let mut daemon = big;
    let mut took = Vec::new();
    for _ in 0..bench.size.rounds {
        let answered;
        (daemon, answered) = restart(daemon, setup).await?;
        took.push(answered);
        daemon.until_looked_through().await?;
    }
    let spread = Spread::of(&took);
    section.say(format!(
        "After kill -9 the next start gave its first answer from the cache within {}, where the process that was killed had had its cache's file \
         looked through, which is done beside its work after each such end.",
        spread.show(time)
    ));
    let entries = format!("{} entries", count(bench.size.many));
    let fewer = fewer(bench.size.many);
    let ready = |after: &str, took: &[f64]| {
        let spread = Spread::of(took);
        let what = format!("ready after {after}, {entries}{fewer}");
        let verdict = Verdict::new(&what, "≤ 1 s", spread.show(time), spread.max <= READY_WITHIN);
        verdict.of_each("starts", &took.iter().map(|took| *took <= READY_WITHIN).collect::<Vec<_>>())
    };
    section.verdicts.push(ready("kill -9", &took));

    let (mut bad, mut first) = (Vec::new(), 0);
    for _ in 0..BAD_STARTS {
        let mut slowest = 0.0_f64;
        for _ in 0..ENDS {
            let answered;
            (daemon, answered) = restart(daemon, setup).await?;
            slowest = slowest.max(answered);
        }
        bad.push(slowest);
        first += usize::from(daemon.has_said("its file is looked through first"));
    }
    let spread = Spread::of(&bad);
    section.say(format!(
        "Where {ENDS} processes in a row are killed before that is done, the next start has it done first. {ENDS} in a row were killed at once after \
         their first answer, {BAD_STARTS} times; the slowest start of each {ENDS} gave its first answer within {}. In {first} of {BAD_STARTS} the \
         file was looked through first; a small one is done between two kills.",
        spread.show(time)
    ));
    section.verdicts.push(ready(&format!("{ENDS} kill -9 in a row, each while the file was looked through"), &bad));
    daemon.kill().await
}

/// Gives the next one, and the nanoseconds from its start to its first answer.
async fn restart(daemon: Callahead, setup: &Setup) -> anyhow::Result<(Callahead, f64)> {
    daemon.kill().await?;
    let began = Instant::now();
    let daemon = Callahead::start(setup).await?;
    let target = Target { address: daemon.address("policy")?, protocol: Protocol::Policy };
    let mut client = Client::connect(target).await?;
    let mut address = String::new();
    names::write_address(&mut address, 0, 1);
    ask(&mut client, &address, Answer::Accept).await?;
    Ok((daemon, began.elapsed().as_secs_f64() * 1e9))
}

/// Clears the domain, each time in a fresh copy.
async fn clears(bench: &Bench, section: &mut Section, setup: &Setup) -> anyhow::Result<()> {
    let mut took = Vec::new();
    let mut forgot = 0;
    for _ in 0..CLEARS {
        let copy = Setup { folder: bench.folder.join("clear"), ..setup.clone() };
        fs::create_dir_all(copy.folder.join("data/cache"))?;
        fs::copy(cache_file(&setup.folder), cache_file(&copy.folder))?;
        // The copy itself shall be on disk before, and not be written in the clear's sync.
        fs::File::open(cache_file(&copy.folder))?.sync_all()?;
        let daemon = Callahead::start(&copy).await?;
        let (elapsed, entries) = daemon.clear_domain(names::DOMAIN).await?;
        took.push(elapsed.as_secs_f64() * 1e9);
        forgot = entries;
        daemon.kill().await?;
        fs::remove_dir_all(&copy.folder)?;
    }
    anyhow::ensure!(forgot >= bench.size.many, "the clear forgot {forgot} entries of {}", bench.size.many);
    let spread = Spread::of(&took);
    section.say(format!(
        "A clear of the domain with its {} entries was acknowledged within {}: one synchronous commit.",
        count(forgot),
        spread.show(time)
    ));
    let verdict = Verdict::new(
        &format!("clear of a domain with {} entries", count(bench.size.many)),
        "≤ 10 ms to acknowledge",
        spread.show(time),
        spread.median <= 10e6,
    );
    section.verdicts.push(verdict.of_each("clears", &took.iter().map(|took| *took <= 10e6).collect::<Vec<_>>()));
    Ok(())
}

fn cache_file(folder: &Path) -> std::path::PathBuf {
    folder.join("data/cache/data.mdb")
}
