//! `cargo xtask bench`: builds the daemon and the benchmarks as they are shipped, sees to the peers, and measures.

use std::process::Command;

use anyhow::ensure;

use super::steps::root;

/// Runs the benchmarks. A quick or partial run proves that they work, and its report goes to target/bench, so that it replaces no number
/// in the documents.
pub(crate) fn run(arguments: &[&str]) -> anyhow::Result<()> {
    super::roots::install()?;
    let commit = super::steps::commit();
    let build = ["build", "--release", "--locked", "--package", "callahead", "--package", "callahead-bench"];
    ensure!(Command::new(env!("CARGO")).args(build).current_dir(root()).status()?.success(), "the build failed");
    let target = super::roots::target();
    let is_whole = arguments.iter().all(|argument| *argument == "--full");
    let output = if is_whole { root().join("docs") } else { target.join("bench") };
    let status = Command::new(target.join("release/callahead-bench"))
        .args(arguments)
        .arg("--output")
        .arg(output)
        .env("CALLAHEAD_MTA_ROOTS", super::roots::folder())
        .env("CALLAHEAD_COMMIT", commit)
        .status()?;
    ensure!(status.success(), "the benchmarks ended with {status}");
    Ok(())
}
