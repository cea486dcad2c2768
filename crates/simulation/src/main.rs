//! `callahead-simulation --seed N`, `--seeds N`, `--minutes N`, `--trace N`: runs seeds, and prints the first that breaks a promise.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use callahead_callout::TlsClient;
use callahead_simulation::{STEPS, Totals, folder, run, trace};

const USAGE: &str = "\
Usage: callahead-simulation [--from SEED] (--seed SEED | --seeds COUNT | --minutes COUNT | --trace SEED) [--steps COUNT]

  --seed SEED      runs one seed, and prints its whole trace when it breaks a promise
  --trace SEED     runs one seed, and prints its whole trace in any case
  --seeds COUNT    runs so many seeds, the first of them --from (0)
  --minutes COUNT  runs seeds for so long
  --steps COUNT    things that happen in each run (the tests' number unless given)
";

fn main() -> ExitCode {
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn work() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (mut from, mut count, mut minutes, mut traced, mut steps) = (0, None, None, None, STEPS);
    for pair in args.chunks(2) {
        let [name, value] = pair else { bail!("{USAGE}") };
        let number: u64 = value.parse().with_context(|| format!("{value:?} is no number"))?;
        match name.as_str() {
            "--seed" => (from, count) = (number, Some(1)),
            "--trace" => traced = Some(number),
            "--seeds" => count = Some(number),
            "--minutes" => minutes = Some(number),
            "--from" => from = number,
            "--steps" => steps = usize::try_from(number)?,
            _ => bail!("{USAGE}"),
        }
    }
    let (began, tls) = (Instant::now(), TlsClient::new(&[])?);
    if let Some(seed) = traced {
        trace(seed, steps, folder()?.path(), &tls).iter().for_each(|line| println!("{line}"));
        return Ok(());
    }
    if count.is_none() && minutes.is_none() {
        bail!("{USAGE}");
    }
    let until = minutes.map(|minutes| began + Duration::from_secs(minutes * 60));
    let mut totals = Totals::default();
    for seed in from.. {
        let enough = count.is_some_and(|count| seed >= from + count);
        if enough || until.is_some_and(|until| Instant::now() >= until) {
            break;
        }
        let folder = folder()?;
        match run(seed, steps, folder.path(), &tls) {
            Ok(summary) => totals.add(&summary),
            Err(broken) => bail!(
                "{broken}\nseed {seed} broke a promise (see the last line). Again: \
                 cargo run -p callahead-simulation -- --seed {seed} --steps {steps}"
            ),
        }
    }
    println!("{totals}, in {:.1} s", began.elapsed().as_secs_f64());
    Ok(())
}
