//! `callahead`: recipient callouts for mail filtering servers.

use std::process::ExitCode;

fn main() -> ExitCode {
    callahead::cli::run()
}
