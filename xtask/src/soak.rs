//! What takes longer than the test command may: many seeds, long fuzzing, hundreds of kills, memory over an hour.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

use super::steps::{command, run as run_command};

/// Kills of the daemon in the midst of its writes.
const KILLS: &str = "500";
/// Rounds of clears from several threads: some 3 min.
const ROUNDS: &str = "2000";

/// Half of the time for seeds that nobody has run before, half for fuzzing; the kills and the clears take what they take.
pub(crate) fn run(minutes: u64) -> anyhow::Result<()> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    // A million seeds apart from second to second.
    let from = (seconds * 1_000_000).to_string();
    let half = (minutes / 2).max(1);
    // It takes little of the machine, so it goes on beside the rest.
    let memory = std::thread::spawn(move || memory(minutes.max(2)));
    println!("simulation, seeds from {from}, {half} min");
    let minutes = half.to_string();
    let args = [
        "run",
        "--quiet",
        "--locked",
        "--package",
        "callahead-simulation",
        "--",
        "--from",
        &from,
        "--minutes",
        &minutes,
    ];
    run_command(&mut command(&args)).context("the simulation found a broken promise")?;
    println!("kill -9, {KILLS} times");
    daemon("fifty_kills", "CALLAHEAD_KILLS", KILLS).context("a kill broke a promise")?;
    println!("clears from several threads at once, {ROUNDS} rounds");
    daemon("a_clear_or_a_change", "CALLAHEAD_ROUNDS", ROUNDS).context("a clear did not hold")?;
    let turns = super::fuzz::turns()?;
    let each = u32::try_from(half * 60 / turns.max(1)).unwrap_or(u32::MAX).max(10);
    println!("fuzzing, {each} s each target");
    super::fuzz::build()?;
    super::fuzz::run(each)?;
    memory.join().map_err(|_| anyhow::anyhow!("the memory soak ended in a panic"))?
}

/// A test of the daemon, so many times as this variable says.
fn daemon(test: &str, variable: &str, times: &str) -> anyhow::Result<()> {
    let args = ["test", "--locked", "--package", "callahead", "--test", "daemon", test];
    run_command(command(&args).env(variable, times))
}

/// Memory over time, of the program as it is shipped. An hour's run is what the documents show; a shorter one goes to target/soak.
pub(crate) fn memory(minutes: u64) -> anyhow::Result<()> {
    let commit = super::steps::commit();
    let build = ["build", "--release", "--locked", "--package", "callahead", "--package", "callahead-bench"];
    run_command(&mut command(&build))?;
    let target = super::roots::target();
    let output = if minutes >= 60 { super::steps::root().join("docs") } else { target.join("soak") };
    println!("memory over {minutes} min, to {}", output.join("soak.md").display());
    let mut soak = std::process::Command::new(target.join("release/callahead-bench"));
    run_command(soak.arg("soak").arg(minutes.to_string()).arg("--output").arg(output).env("CALLAHEAD_COMMIT", commit))
        .context("memory grew, or an answer was wrong")
}

/// The fault matrix writes its page instead of comparing it.
pub(crate) fn faults() -> anyhow::Result<()> {
    let args = ["test", "--locked", "--package", "callahead-simulation", "--test", "faults"];
    run_command(command(&args).env("CALLAHEAD_REWRITE", "1"))
}
