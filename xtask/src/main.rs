//! Callahead's development tasks. `cargo xtask test` is what CI runs, and all that it runs.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod fuzz;
mod licences;
mod mistakes;
mod roots;
mod schemathesis;
mod soak;
mod steps;

use std::process::ExitCode;

const USAGE: &str = "\
Usage: cargo xtask COMMAND

  test          everything that CI runs: format, lints, documentation, licences, all tests
                (with real mail servers, installed into roots of their own under target/mta, and Chromium),
                the fuzz targets for a short time, and the demo
  test --quick  without real mail servers and fuzzing
  roots         only install the mail servers, the browser and the other programs that the tests need
  fuzz SECONDS  run each fuzz target for so long
  api           hold the API against its OpenAPI document with schemathesis
  faults        write docs/faults.md anew from what the fault matrix gives
  mistakes      plant the mistakes of xtask/mistakes.toml in a copy, one at a time, and write docs/mistakes.md: what notices them
                (a quarter of an hour)
  mistakes WORD
                only those that have it in their words; writes nothing
  soak          what the tests do, for longer and with other seeds: simulation, fuzzing, 500 kills, clears
                from several threads; and memory over time
  soak --minutes COUNT
                in about so many minutes (60 unless given)
  soak --memory MINUTES
                only memory over time; 60 or more write docs/soak.md, fewer to target/soak
  bench         measure beside Exim, Postfix and bare servers (some 17 min) and write docs/benchmarks.md;
                --full: with ten million entries; --quick: only see that it works;
                --only WORD: some scenarios. The last two write to target/bench
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args.as_slice() {
        ["test"] => steps::test(false),
        ["test", "--quick"] => steps::test(true),
        ["roots"] => roots::install(),
        ["api"] => schemathesis::run(),
        ["bench", arguments @ ..] => bench::run(arguments),
        ["fuzz", seconds] => match seconds.parse() {
            Ok(seconds) => fuzz::build().and_then(|()| fuzz::run(seconds)),
            Err(_) => return usage(),
        },
        ["faults"] => soak::faults(),
        ["mistakes"] => mistakes::run(None),
        ["mistakes", word] => mistakes::run(Some(word)),
        ["soak"] => soak::run(60),
        ["soak", "--memory", minutes] => match minutes.parse() {
            Ok(minutes) => soak::memory(minutes),
            Err(_) => return usage(),
        },
        ["soak", "--minutes", minutes] => match minutes.parse() {
            Ok(minutes) => soak::run(minutes),
            Err(_) => return usage(),
        },
        _ => return usage(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprint!("{USAGE}");
    ExitCode::from(2)
}
