//! Short runs of the fuzz targets, with the stable toolchain: what `cargo fuzz` does with `--sanitizer none`, without its installation.

use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};

use super::steps::{joined, root};

/// Coverage for libFuzzer.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

/// How many times as long as one target all of them take: one runs on each core.
pub(crate) fn turns() -> anyhow::Result<u64> {
    Ok(targets()?.len().div_ceil(cores()) as u64)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

fn targets() -> anyhow::Result<Vec<String>> {
    let mut names: Vec<String> = fs::read_dir(root().join("fuzz/fuzz_targets"))?
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    ensure!(!names.is_empty(), "there are no fuzz targets");
    Ok(names)
}

/// What this machine's compiler builds for. It is named to cargo, so that the flags are not those of build scripts too.
fn triple() -> anyhow::Result<String> {
    let output = Command::new("rustc").arg("-vV").current_dir(root()).output().context("rustc can't be run")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let host = said.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned);
    host.with_context(|| format!("rustc -vV names no host: {said}"))
}

fn target() -> PathBuf {
    super::roots::target().join("fuzz")
}

/// Builds all targets, with what other programs leave of the processors.
pub(crate) fn build() -> anyhow::Result<()> {
    ensure!(super::roots::find("g++"), "g++ is missing: install the Debian package g++, which libFuzzer is built with");
    let built = Command::new("nice")
        .args(["-n", "19", env!("CARGO"), "build", "--quiet", "--release", "--target", &triple()?, "--target-dir"])
        .arg(target())
        .current_dir(root().join("fuzz"))
        .env("RUSTFLAGS", FLAGS)
        .status()
        .context("nice is missing: install the Debian package coreutils")?;
    ensure!(built.success(), "the fuzz targets can't be built");
    Ok(())
}

/// Runs what was [built](build), each target for so long.
pub(crate) fn run(seconds: u32) -> anyhow::Result<()> {
    let target = target();
    let programs = target.join(triple()?).join("release");
    for turn in targets()?.chunks(cores()) {
        std::thread::scope(|scope| {
            let runs: Vec<_> =
                turn.iter().map(|name| scope.spawn(|| run_one(name, seconds, &programs, &target))).collect();
            runs.into_iter().try_for_each(joined)
        })?;
    }
    Ok(())
}

fn run_one(name: &str, seconds: u32, programs: &Path, target: &Path) -> anyhow::Result<()> {
    // New inputs go into a folder of their own, so that a run leaves the repository as it was.
    let found = target.join("found").join(name);
    fs::create_dir_all(&found)?;
    let output = Command::new(programs.join(name))
        .arg(format!("-max_total_time={seconds}"))
        .args(["-timeout=5", "-rss_limit_mb=2048"])
        .arg(format!("-artifact_prefix={}/", found.display()))
        .args([&found, &root().join("fuzz/corpus").join(name)])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{name} can't be run"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("the fuzz target {name} failed:\n{said}");
    }
    println!("    {name}: {}", said.lines().rev().find(|line| line.starts_with("Done")).unwrap_or("ran"));
    Ok(())
}
