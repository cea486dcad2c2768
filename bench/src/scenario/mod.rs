//! The scenarios: one file each, one or several rows of the design's table of numbers each.

pub mod cached;
pub mod cold;
pub mod entries;
pub mod growth;
pub mod herd;
pub mod hurt;
pub mod idle;
pub mod pages;
pub mod trips;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;

use crate::load::{Names, Run, closed_loop};
use crate::process::Watch;
use crate::report::Outcome;
use crate::size::Size;
use crate::stats::{Spread, megabytes, number, real, time};
use crate::subject::{Callahead, Helper, Subject};

/// What all scenarios share.
pub struct Bench {
    /// How much is measured.
    pub size: Size,
    /// A folder for caches and logs, gone afterwards.
    pub folder: PathBuf,
}

impl Bench {
    /// Starts the [least](crate::least) server of a protocol, which knows so many recipients.
    async fn least(&self, folder: &str, known: u64, protocol: &[&str]) -> anyhow::Result<Helper> {
        let folder = self.folder.join(folder);
        let (folder, known) = (folder.to_string_lossy(), known.to_string());
        Helper::start(&[&["serve-least", &folder, &known], protocol].concat()).await
    }
}

/// From this share of its one thread's time on the generator counts as the limit of a rate.
pub const LIMIT: f64 = 0.8;

/// The generator, where it is the limit.
const GENERATOR: &str = "the generator";

/// In which order subjects have their turn in a round: another one begins in each, so that none stands behind the same one always.
pub fn turns(round: u64, subjects: usize) -> impl Iterator<Item = usize> {
    let first = usize::try_from(round).unwrap_or_default();
    (0..subjects).map(move |turn| (turn + first) % subjects)
}

/// What was measured of one subject, round by round.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// The subject.
    pub name: &'static str,
    /// The rounds.
    pub rounds: Vec<Round>,
}

/// One round of one subject.
#[derive(Clone, Debug)]
pub struct Round {
    /// What the generator saw.
    pub run: Run,
    /// CPU seconds of the subject, the warm-up's among them.
    pub cpu: f64,
    /// The most memory that it was seen to have meanwhile, in bytes.
    pub memory: f64,
}

impl Round {
    /// Asks a subject as fast as it answers.
    ///
    /// # Errors
    /// When it fails or gives a wrong answer.
    async fn measure(subject: &Subject, names: &Names, connections: usize, span: Duration) -> anyhow::Result<Self> {
        let before = subject.cpu();
        let watch = Watch::start(subject.process, span);
        let run = closed_loop(subject.target, names, connections, span).await.context(subject.name)?;
        let memory = watch.end();
        Ok(Self { run, cpu: subject.cpu() - before, memory })
    }
}

impl Measured {
    /// The most memory that was seen in any round, in bytes.
    pub fn peak_memory(&self) -> f64 {
        Spread::of(&self.each(|round| round.memory)).max
    }

    /// One number of each round.
    pub fn each(&self, of: impl Fn(&Round) -> f64) -> Vec<f64> {
        self.rounds.iter().map(of).collect()
    }

    /// Answers a second, of each round.
    pub fn rates(&self) -> Vec<f64> {
        self.each(|round| round.run.rate())
    }

    /// Its answers a second by those of another, round by round.
    pub fn times(&self, other: &Self) -> Spread {
        Spread::of_ratios(&self.rates(), &other.rates())
    }

    /// Nanoseconds at a quantile, of each round.
    pub fn quantiles(&self, quantile: f64) -> Vec<f64> {
        self.each(|round| round.run.quantile(quantile))
    }

    /// CPU seconds for a million answers, of each round.
    pub fn cpu_per_million(&self) -> Vec<f64> {
        self.each(|round| {
            // The CPU is that of the warm-up too, which has a fifth more answers.
            if round.run.answers == 0 { f64::NAN } else { round.cpu / (real(round.run.answers) * 1.2) * 1e6 }
        })
    }

    /// How many times the CPU of its answer one of the other takes, round by round. No limit of the generator is in it.
    pub fn thrift(&self, other: &Self) -> Spread {
        Spread::of_ratios(&other.cpu_per_million(), &self.cpu_per_million())
    }

    /// The share of its thread's time that the generator was busy with it, at the median.
    pub fn busy(&self) -> f64 {
        Spread::of(&self.each(|round| round.run.own_cpu / round.run.seconds)).median
    }

    /// What keeps its rate from being more than was measured, where that is not itself.
    pub fn limit(&self) -> Option<&'static str> {
        (self.busy() >= LIMIT).then_some(GENERATOR)
    }

    /// Whether its rate is so many times another's, as far as the generator's limit lets that be told.
    pub fn reaches(&self, other: &Self, times: f64) -> Outcome {
        Outcome::of_ratio(self.times(other).median, times, self.limit(), other.limit())
    }

    /// The generator's share for a table, marked where it is the limit.
    pub fn busy_cell(&self) -> String {
        let mark = if self.limit().is_some() { ", **its limit**" } else { "" };
        format!("{:.0} %{mark}", self.busy() * 100.0)
    }

    /// Its peak memory for a table.
    pub fn memory_cell(&self) -> String {
        let most = self.peak_memory();
        if most.is_nan() { "can't be read".to_owned() } else { megabytes(most) }
    }

    /// Name, rate, latency, CPU, peak memory, how busy the generator was: a row of a table.
    pub fn row(&self) -> [String; 7] {
        [
            self.name.to_owned(),
            Spread::of(&self.rates()).show(number),
            time(Spread::of(&self.quantiles(0.5)).median),
            time(Spread::of(&self.quantiles(0.99)).median),
            number(Spread::of(&self.cpu_per_million()).median),
            self.memory_cell(),
            self.busy_cell(),
        ]
    }
}

/// For a row of the design's table: whose rate is the generator's limit too.
pub fn limited(subjects: &[&Measured]) -> String {
    let names: Vec<&str> = subjects.iter().filter(|one| one.limit().is_some()).map(|one| one.name).collect();
    if names.is_empty() { String::new() } else { format!("; limited by the generator: {}", names.join(", ")) }
}

/// The heads of [`Measured::row`].
pub const HEADS: [&str; 7] =
    ["", "answers a second", "median", "99th percentile", "CPU s per million answers", "peak memory", "generator busy"];

/// Measures each subject once a round, in [turn](turns): A B C B C A ...
///
/// # Errors
/// When a subject fails or gives a wrong answer.
pub async fn interleaved(
    bench: &Bench,
    subjects: &[Subject],
    daemon: &Callahead,
    names: &Names,
    connections: usize,
) -> anyhow::Result<Vec<Measured>> {
    let mut measured: Vec<Measured> =
        subjects.iter().map(|subject| Measured { name: subject.name, rounds: Vec::new() }).collect();
    for round in 0..bench.size.rounds {
        for at in turns(round, subjects.len()) {
            let subject = &subjects[at];
            daemon.empty_log()?;
            let names = names.clone().any_answer(subject.any_answer);
            measured[at].rounds.push(Round::measure(subject, &names, connections, bench.size.span).await?);
        }
    }
    Ok(measured)
}
