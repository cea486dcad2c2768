//! The steps of `cargo xtask test`, one after another, each with what it took.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};

/// How long each fuzz target runs.
const FUZZ_SECONDS: u32 = 10;

/// The repository's folder.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().map(PathBuf::from).unwrap_or_default()
}

struct Progress {
    began: Instant,
    step: usize,
    steps: usize,
}

impl Progress {
    fn step<T>(&mut self, what: &str, run: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        self.step += 1;
        println!("[{}/{}] {what}", self.step, self.steps);
        let began = Instant::now();
        let done = run().with_context(|| format!("{what} failed"))?;
        println!(
            "[{}/{}] {what}: {:.0} s, {:.0} s in all",
            self.step,
            self.steps,
            began.elapsed().as_secs_f64(),
            self.began.elapsed().as_secs_f64()
        );
        Ok(done)
    }
}

pub(crate) fn test(quick: bool) -> anyhow::Result<()> {
    let mut progress = Progress { began: Instant::now(), step: 0, steps: if quick { 6 } else { 8 } };
    progress.step("format", || cargo(&["fmt", "--all", "--check"]))?;
    progress.step("licences", super::licences::check)?;
    std::thread::scope(|scope| {
        // What is installed waits for the network mostly, and the compiler for a processor.
        let install = || super::roots::install().and_then(|()| super::schemathesis::install().map(drop));
        let installed = (!quick).then(|| scope.spawn(install));
        progress.step("lints", || {
            cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"])
        })?;
        progress.step("documentation", || {
            let mut command = command(&["doc", "--workspace", "--no-deps", "--locked", "--quiet"]);
            run(command.env("RUSTDOCFLAGS", "-D warnings"))
        })?;
        let Some(installed) = installed else { return Ok(()) };
        progress.step("mail servers, browser and schemathesis", || joined(installed))
    })?;
    let (passed, failed) = std::thread::scope(|scope| {
        // Most tests wait for something, and leave the compiler a processor.
        let built = (!quick).then(|| scope.spawn(super::fuzz::build));
        let counted = progress.step("tests", || tests(quick))?;
        let Some(built) = built else { return Ok(counted) };
        progress.step("the API against its document, and fuzzing", || {
            // Schemathesis is one thread of Python's.
            let fuzzed = scope.spawn(|| joined(built).and_then(|()| super::fuzz::run(FUZZ_SECONDS)));
            super::schemathesis::run()?;
            joined(fuzzed)
        })?;
        anyhow::Ok(counted)
    })?;
    progress.step("demo", demo)?;
    println!("{passed} passed, {failed} failed");
    Ok(())
}

/// Of which commit the code is, for pages that are measured: `a1b2c3d`, or `a1b2c3d with changes`. Other pages don't change what is measured.
pub(crate) fn commit() -> String {
    let said = |args: &[&str]| {
        let output = Command::new("git").args(args).current_dir(root()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(head) = said(&["rev-parse", "--short", "HEAD"]) else { return "unknown".to_owned() };
    match said(&["status", "--porcelain", "--", ".", ":(exclude)docs", ":(exclude)*.md"]) {
        Some(changes) if changes.is_empty() => head,
        _ => format!("{head} with changes"),
    }
}

pub(crate) fn joined(thread: ScopedJoinHandle<'_, anyhow::Result<()>>) -> anyhow::Result<()> {
    thread.join().map_err(|_| anyhow!("a thread ended early"))?
}

pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    // Nearly all is built anew where this matters, and what would make the next build faster costs this one time and gigabytes.
    command.args(args).current_dir(root()).env("CARGO_INCREMENTAL", "0");
    command
}

fn cargo(args: &[&str]) -> anyhow::Result<()> {
    run(&mut command(args))
}

pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status()?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

/// All tests, with what they print; gives how many passed and failed.
fn tests(quick: bool) -> anyhow::Result<(u64, u64)> {
    let mut command = command(&["test", "--workspace", "--locked", "--no-fail-fast"]);
    if quick {
        command.args(["--", "--skip", "real_"]);
    }
    command.env("CALLAHEAD_MTA_ROOTS", super::roots::folder());
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let (mut passed, mut failed) = (0, 0);
    let lines = child.stdout.take().map(BufReader::new).into_iter().flat_map(BufReader::lines);
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).all(|line| tell.send(line).is_ok()));
    let mut ended = None;
    loop {
        let line = match told.recv_timeout(Duration::from_secs(2)) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => break,
            // A process that a test left behind may hold the pipe open for ever.
            Err(RecvTimeoutError::Timeout) if ended.is_some() => break,
            Err(RecvTimeoutError::Timeout) => {
                ended = child.try_wait()?;
                continue;
            }
        };
        println!("    {line}");
        // "test result: ok. 12 passed; 0 failed; ..."
        if let Some(result) = line.strip_prefix("test result: ") {
            let count = |what: &str| -> u64 {
                let word = result.split(&[' ', '.', ';'][..]).collect::<Vec<_>>();
                word.windows(2).find(|pair| pair[1] == what).and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
            };
            passed += count("passed");
            failed += count("failed");
        }
    }
    let status = child.wait()?;
    if !status.success() {
        println!("{passed} passed, {failed} failed");
        bail!("cargo test ended with {status}");
    }
    ensure!(passed > 0, "no test ran");
    Ok((passed, failed))
}

/// The program that the tests ran. Built as they build it: built by itself, with what its own features need and no more, it would be another one,
/// and so would a third of the workspace.
pub(crate) fn program() -> anyhow::Result<PathBuf> {
    cargo(&["test", "--workspace", "--locked", "--quiet", "--no-run"])?;
    Ok(super::roots::target().join("debug/callahead"))
}

fn demo() -> anyhow::Result<()> {
    let output = Command::new(program()?).args(["demo", "--exit"]).current_dir(root()).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    said.lines().for_each(|line| println!("    {line}"));
    ensure!(
        output.status.success(),
        "the demo ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(said.contains("every session ended in QUIT"), "the demo did not come to its end");
    Ok(())
}
