//! Callahead's development tasks. `cargo xtask test` is what CI runs, and all that it runs.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod fuzz;
mod licences;
mod roots;
mod schemathesis;
mod steps;

use std::process::ExitCode;

const USAGE: &str = "\
Usage: cargo xtask COMMAND

  test          everything that CI runs: format, lints, documentation, licences, all tests
                (with real mail servers, installed into roots of their own under target/mta, and Chromium),
                the fuzz targets for a short time, and the demo
  test --quick  without real mail servers and fuzzing
  roots         only install the mail servers and the browser that the tests need
  fuzz SECONDS  run each fuzz target for so long
  api           hold the API against its OpenAPI document with schemathesis
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args.as_slice() {
        ["test"] => steps::test(false),
        ["test", "--quick"] => steps::test(true),
        ["roots"] => roots::install(),
        ["api"] => schemathesis::run(),
        ["fuzz", seconds] => match seconds.parse() {
            Ok(seconds) => fuzz::run(seconds),
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
