//! `callahead-bench`: runs the scenarios and writes the report. `cargo xtask bench` is the way to start it.
#![allow(clippy::print_stderr)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, bail};
use callahead_bench::bare::Bare;
use callahead_bench::least::Least;
use callahead_bench::report::{Machine, Report};
use callahead_bench::scenario::{Bench, cached, cold, entries, growth, herd, hurt, idle, pages, trips};
use callahead_bench::size::Size;
use callahead_bench::subject::{serve_destination, versions};

const USAGE: &str = "\
Usage: callahead-bench [--quick|--full] [--only WORD] --output FOLDER
       callahead-bench soak MINUTES --output FOLDER

Measures Callahead beside Exim, Postfix and bare servers, and writes benchmarks.md and its plots into FOLDER.
Start it by cargo xtask bench, which builds what it needs.
";

/// How it is measured, why that is fair, where Callahead loses: the document's end.
const NOTES: &str = include_str!("notes.md");

/// File descriptors: ten thousand connections have one at either end, and some are needed beside. Either end inherits this.
const FILES: u64 = 12_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        ["serve-bare", protocol @ ..] => match bare(protocol) {
            Some(bare) => bare.run(None),
            None => return usage(),
        },
        ["serve-least", folder, known, protocol @ ..] => match (known.parse(), bare(protocol)) {
            (Ok(known), Some(bare)) => Least::new(folder.as_ref(), known).and_then(|least| bare.run(Some(least))),
            _ => return usage(),
        },
        ["serve-destination", mailboxes, domains] => match (mailboxes.parse(), domains.parse()) {
            (Ok(mailboxes), Ok(domains)) => serve_destination(mailboxes, domains),
            _ => return usage(),
        },
        ["soak", minutes, "--output", output] => match minutes.parse() {
            Ok(minutes) => soak(minutes, output),
            Err(_) => return usage(),
        },
        _ => match Options::parse(&arguments) {
            Some(options) => options.run(),
            None => return usage(),
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("callahead-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bare(protocol: &[&str]) -> Option<Bare> {
    match protocol {
        ["policy"] => Some(Bare::Policy),
        ["smtp"] => Some(Bare::Smtp),
        ["callout", destination] => destination.parse().ok().map(Bare::Callout),
        _ => None,
    }
}

fn soak(minutes: u64, output: &str) -> anyhow::Result<()> {
    let folder = folder()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(callahead_bench::soak::run(minutes, folder.path(), output.as_ref()))
}

/// A folder for all that is written, the peers' logs too, gone afterwards: beside the builds and not in /tmp, which is memory on many machines.
fn folder() -> anyhow::Result<tempfile::TempDir> {
    let builds = std::env::current_exe()?.parent().and_then(Path::parent).map(Path::to_owned);
    let folder = builds.context("this program is in no folder of builds")?.join("bench");
    std::fs::create_dir_all(&folder)?;
    if tempfile::env::override_temp_dir(&folder).is_err() {
        bail!("temporary files were already made elsewhere, and {} is not used", folder.display());
    }
    Ok(tempfile::TempDir::with_prefix("run-")?)
}

fn usage() -> ExitCode {
    eprint!("{USAGE}");
    ExitCode::from(2)
}

struct Options {
    size: Size,
    /// Only scenarios that have this in their name.
    only: String,
    output: PathBuf,
}

impl Options {
    fn parse(arguments: &[&str]) -> Option<Self> {
        let mut options = Self { size: Size::usual(), only: String::new(), output: PathBuf::new() };
        let mut arguments = arguments.iter();
        while let Some(&argument) = arguments.next() {
            match argument {
                "--quick" => options.size = Size::quick(),
                "--full" => options.size = Size::full(),
                "--only" => options.only = (*arguments.next()?).to_owned(),
                "--output" => options.output = (*arguments.next()?).into(),
                _ => return None,
            }
        }
        (!options.output.as_os_str().is_empty()).then_some(options)
    }

    fn run(&self) -> anyhow::Result<()> {
        callahead_testbed::files::allow(FILES)?;
        let folder = folder()?;
        let bench = Bench { size: self.size.clone(), folder: folder.path().to_owned() };
        let began = Instant::now();
        let sections =
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(self.measure(&bench))?;
        if sections.is_empty() {
            bail!("no scenario has {:?} in its name", self.only);
        }
        let mut command = "cargo xtask bench".to_owned();
        for (word, is_given) in [(" --quick", self.size.name == "quick"), (" --full", self.size.name == "full")] {
            command.push_str(if is_given { word } else { "" });
        }
        if !self.only.is_empty() {
            command.push_str(&format!(" --only {}", self.only));
        }
        let mut installed = vec![("callahead".to_owned(), env!("CARGO_PKG_VERSION").to_owned())];
        installed.extend(versions().into_iter().map(|(name, version)| (name.to_owned(), version)));
        let report = Report {
            command,
            machine: Machine::here(folder.path(), installed),
            took: began.elapsed().as_secs_f64(),
            sections,
            notes: callahead_bench::report::notes(NOTES),
        };
        report.write(&self.output).with_context(|| format!("{} can't be written", self.output.display()))?;
        eprintln!("wrote {}", self.output.join("benchmarks.md").display());
        Ok(())
    }

    async fn measure(&self, bench: &Bench) -> anyhow::Result<Vec<callahead_bench::report::Section>> {
        let mut sections = Vec::new();
        macro_rules! scenario {
            ($name:literal, $run:expr) => {
                if $name.contains(&self.only) {
                    let began = Instant::now();
                    eprint!("{} ...", $name);
                    let section = $run.await.context($name)?;
                    eprintln!(" {:.0} s", began.elapsed().as_secs_f64());
                    for verdict in &section.verdicts {
                        eprintln!("    {}: {} (target {})", verdict.what, verdict.measured, verdict.target);
                    }
                    sections.push(section);
                }
            };
        }
        scenario!("cached answers by SMTP", cached::smtp(bench));
        scenario!("cached answers by the policy protocol", cached::policy(bench));
        scenario!("cold callouts", cold::run(bench));
        scenario!("round trips", trips::run(bench));
        scenario!("herd", herd::run(bench));
        scenario!("entries", entries::run(bench));
        scenario!("idle connections", idle::run(bench));
        scenario!("pages", pages::run(bench));
        scenario!("load that hurts", hurt::run(bench));
        scenario!("growth with connections", growth::connections(bench));
        scenario!("growth with domains", growth::domains(bench));
        Ok(sections)
    }
}
