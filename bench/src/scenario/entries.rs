//! A big cache beside a small one: speed, memory, start after kill -9, and a clear.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;

use super::{Bench, HEADS, Measured, Round};
use crate::load::{Answer, Client, Names, Pace, Protocol, Target, ask, names, open_loop};
use crate::process;
use crate::report::{Section, Table, Verdict};
use crate::stats::{Spread, count, megabytes, number, real, time};
use crate::subject::{Callahead, Setup, Subject, fill};

/// Rounds of the greatest rate, from which the fixed one is made.
const CLOSED_ROUNDS: u64 = 3;
/// Clears, each of a copy of the cache.
const CLEARS: usize = 3;

/// Measures both.
///
/// # Errors
/// When a daemon fails.
pub async fn run(bench: &Bench) -> anyhow::Result<Section> {
    let size = &bench.size;
    let mut section = Section::new(&format!("{} entries beside {}", count(size.many), count(size.few)));
    let nowhere = ([127, 0, 0, 1], 9).into();
    let small_setup = Setup::new(&bench.folder.join("few"), nowhere);
    let big_setup = Setup::new(&bench.folder.join("many"), nowhere);
    fill(&small_setup, size.few).await?;
    let began = Instant::now();
    fill(&big_setup, size.many).await?;
    let filled = began.elapsed().as_secs_f64();
    let file = fs::metadata(cache_file(&big_setup.folder))?.len();
    section.say(format!(
        "Two daemons, with {} and {} entries in one domain, asked at random by {} connections in turn. The caches were filled through \
         the cache's own crate before the daemons started ({} entries a second; the big file has {}).",
        count(size.few),
        count(size.many),
        size.connections,
        number(real(size.many) / filled),
        megabytes(real(file))
    ));
    let small = Callahead::start(&small_setup).await?;
    let big = Callahead::start(&big_setup).await?;
    let subject = |name, daemon: &Callahead| -> anyhow::Result<Subject> {
        Ok(Subject::new(name, daemon.address("policy")?, Protocol::Policy, daemon.process()))
    };
    let (small_subject, big_subject) = (subject("few", &small)?, subject("many", &big)?);
    let (few, many) = (Names::random(size.few), Names::random(size.many));

    let both = [(0, &small_subject, &small, &few), (1, &big_subject, &big, &many)];
    let nothing = || [small_subject.name, big_subject.name].map(|name| Measured { name, rounds: Vec::new() });

    let mut closed = nothing();
    for _ in 0..size.rounds.min(CLOSED_ROUNDS) {
        for (measured, subject, daemon, names) in both {
            daemon.empty_log()?;
            closed[measured].rounds.push(Round::measure(subject, names, size.connections, size.span).await?);
        }
    }
    let mut table = Table::new(&HEADS);
    closed.iter().for_each(|one| table.row(one.row()));
    section.show(table);

    let rate = closed.iter().map(|one| Spread::of(&one.rates()).median).fold(f64::MAX, f64::min) / 2.0;
    let mut half = nothing();
    for _ in 0..size.rounds {
        for (measured, subject, daemon, names) in both {
            daemon.empty_log()?;
            let pace = Pace::new(rate, size.span);
            let run = open_loop(subject.target, names, size.connections, pace).await.context(subject.name)?;
            half[measured].rounds.push(Round { run, cpu: 0.0, memory: 0.0 });
        }
    }
    let anonymous = |daemon: &Callahead| process::anonymous(daemon.process()).context("the daemon has ended");
    let (small_memory, big_memory) = (anonymous(&small)?, anonymous(&big)?);
    section.say(format!("At {} questions a second:", number(rate)));
    let mut table = Table::new(&["", "median", "99th percentile", "anonymous memory afterwards"]);
    for (one, memory) in half.iter().zip([small_memory, big_memory]) {
        let quantile = |at| Spread::of(&one.quantiles(at)).show(time);
        table.row([one.name.to_owned(), quantile(0.5), quantile(0.99), megabytes(memory)]);
    }
    section.show(table);
    let ratio = Spread::of_ratios(&half[1].quantiles(0.99), &half[0].quantiles(0.99));
    let what = format!("{} entries against {}", count(size.many), count(size.few));
    section.verdicts.push(Verdict::new(
        &format!("{what}: p99 of a cached answer"),
        "≤ 1.5 ×",
        ratio.show(number),
        ratio.median <= 1.5,
    ));
    section.verdicts.push(Verdict::new(
        &format!("{what}: anonymous resident memory"),
        "≤ 100 MB",
        megabytes(big_memory),
        big_memory <= 100e6,
    ));
    small.kill().await?;
    restarts(bench, &mut section, big, &big_setup).await?;
    clears(bench, &mut section, &big_setup).await?;
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
        "After kill -9 the next start gave its first answer from the cache within {}.",
        spread.show(time)
    ));
    section.verdicts.push(Verdict::new(
        &format!("ready after kill -9, {} entries", count(bench.size.many)),
        "≤ 1 s",
        spread.show(time),
        spread.max <= 1e9,
    ));
    let mut answered = 0.0;
    for _ in 0..ENDS {
        (daemon, answered) = restart(daemon, setup).await?;
    }
    // A small file is looked through between two of them.
    if daemon.has_said("its file is looked through first") {
        section.say(format!(
            "After each such end another process looks through the cache's file beside the daemon's work. Where {ENDS} in a row ended before \
             that was done, the next start has it done first: it gave its first answer within {}.",
            time(answered)
        ));
    }
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
    section.verdicts.push(Verdict::new(
        &format!("clear of a domain with {} entries", count(bench.size.many)),
        "≤ 10 ms to acknowledge",
        spread.show(time),
        spread.median <= 10e6,
    ));
    Ok(())
}

fn cache_file(folder: &Path) -> std::path::PathBuf {
    folder.join("data/cache/data.mdb")
}
