//! `cargo xtask mistakes`: plants mistakes in a copy of the product, one at a time, and shows what notices them.
//!
//! The list is `xtask/mistakes.toml`. A mistake that nothing notices fails the run, and so does a list that the code has moved away from.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

use super::steps::{command, root};

const LIST: &str = include_str!("../mistakes.toml");
/// As many as the tests run, from the first on.
const SEEDS: &str = "1200";
/// What runs for longer than this has noticed nothing.
const PATIENCE: Duration = Duration::from_secs(900);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    mistake: Vec<Mistake>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mistake {
    what: String,
    by: By,
    /// More than one where one guard stands behind another.
    edits: Vec<Edit>,
}

/// One place of a mistake.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    file: PathBuf,
    right: String,
    wrong: String,
}

/// Who has to notice it.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
enum By {
    Simulation,
    Matrix,
    Test { package: String, target: String, name: String },
}

impl TryFrom<String> for By {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let words: Vec<&str> = text.split(' ').collect();
        match words[..] {
            ["simulation"] => Ok(Self::Simulation),
            ["matrix"] => Ok(Self::Matrix),
            [package, target, name] => {
                Ok(Self::Test { package: package.into(), target: target.into(), name: name.into() })
            }
            _ => Err(format!("{text:?} is neither \"simulation\", \"matrix\" nor \"PACKAGE TARGET NAME\"")),
        }
    }
}

/// Plants those whose words contain `only`, or all; all of them write docs/mistakes.md.
pub(crate) fn run(only: Option<&str>) -> anyhow::Result<()> {
    let list: List = toml::from_str(LIST).context("xtask/mistakes.toml can't be read")?;
    let chosen: Vec<&Mistake> =
        list.mistake.iter().filter(|mistake| only.is_none_or(|only| mistake.what.contains(only))).collect();
    ensure!(!chosen.is_empty(), "no mistake has {:?} in its words", only.unwrap_or_default());
    let commit = super::steps::commit();
    let garden = Garden::lay_out()?;
    let began = Instant::now();
    println!("nothing planted");
    for by in [By::Simulation, By::Matrix] {
        if chosen.iter().any(|mistake| mistake.by == by)
            && let Some(noticed) = garden.ask(&by)?
        {
            bail!("it is noticed that nothing was planted: {noticed}");
        }
    }
    let (mut rows, mut unnoticed) = (String::new(), 0);
    for (nth, mistake) in chosen.iter().enumerate() {
        let noticed = garden.with(mistake, || garden.ask(&mistake.by))?;
        let noticed = noticed.unwrap_or_else(|| {
            unnoticed += 1;
            "**nothing**".into()
        });
        // A listener's answer may be octets of a binary protocol.
        let noticed = noticed.replace(char::is_control, " ");
        println!(
            "[{}/{}] {}: {noticed}, {:.0} s in all",
            nth + 1,
            chosen.len(),
            mistake.what,
            began.elapsed().as_secs_f64()
        );
        writeln!(rows, "| {} | {} |", mistake.what, noticed.replace('|', "\\|").replace('<', "&lt;"))?;
    }
    if only.is_none() {
        let page = format!(
            "{HEAD}\n{} mistakes, {unnoticed} of them unnoticed, planted at commit {commit}.\n\n| mistake | noticed by |\n| --- | --- |\n{rows}",
            chosen.len()
        );
        fs::write(root().join("docs/mistakes.md"), page)?;
    }
    ensure!(unnoticed == 0, "{unnoticed} of {} mistakes went unnoticed", chosen.len());
    println!("{} mistakes, all noticed", chosen.len());
    Ok(())
}

const HEAD: &str = "\
# Mistakes that were planted

Written by `cargo xtask mistakes`, which makes the mistakes of `xtask/mistakes.toml` in a copy of the product, one at a time, builds it, and
runs what has to notice: the seeds that the tests run of the [simulation](proof.md), the [fault matrix](faults.md), or a test of its own where it
takes a seed that the tests don't run, or two things at the same moment. Before that it runs simulation and matrix with nothing planted. A
mistake that goes unnoticed fails the command.
";

/// A copy of the repository's files to plant in, with builds of its own: what is planted gets into no other.
struct Garden {
    tree: PathBuf,
    builds: PathBuf,
}

impl Garden {
    fn lay_out() -> anyhow::Result<Self> {
        let folder = super::roots::target().join("mistakes");
        let garden = Self { tree: folder.join("tree"), builds: folder.join("builds") };
        if garden.tree.exists() {
            fs::remove_dir_all(&garden.tree)?;
        }
        // With new files that are not committed yet.
        let files = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
        let listed = Command::new("git").args(files).current_dir(root()).output()?;
        ensure!(
            listed.status.success(),
            "git ls-files ended with {}; the repository's files are not known",
            listed.status
        );
        for name in String::from_utf8(listed.stdout)?.split_terminator('\0') {
            let to = garden.tree.join(name);
            fs::create_dir_all(to.parent().unwrap_or(&garden.tree))?;
            // One that was removed and is not committed yet is not there.
            if root().join(name).exists() {
                fs::copy(root().join(name), &to).with_context(|| format!("{name} can't be copied"))?;
            }
        }
        Ok(garden)
    }

    /// Does something while a mistake is in its places.
    fn with<T>(&self, mistake: &Mistake, then: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let mut sound = Vec::new();
        for edit in &mistake.edits {
            let path = self.tree.join(&edit.file);
            let text = fs::read_to_string(&path)?;
            fs::write(&path, edit.plant(&text).with_context(|| mistake.what.clone())?)?;
            sound.push((path, text));
        }
        let done = then().with_context(|| format!("with this planted: {}", mistake.what));
        // The last first: a file may have been changed twice.
        sound.into_iter().rev().try_for_each(|(path, text)| fs::write(path, text))?;
        done
    }

    /// Builds and runs who has to notice; gives in what words it did, or nothing.
    fn ask(&self, by: &By) -> anyhow::Result<Option<String>> {
        match by {
            By::Simulation => {
                self.build(&["build", "--package", "callahead-simulation"])?;
                let mut simulation = Command::new(self.builds.join("debug/callahead-simulation"));
                let (status, said) = self.hear(simulation.args(["--seeds", SEEDS]))?;
                Ok((!status.success()).then(|| broken_promise(&said)))
            }
            By::Matrix => {
                let test = ["test", "--package", "callahead-simulation", "--test", "faults"];
                Ok(self.fails(&test)?.map(|said| format!("matrix: {}", panic(&said))))
            }
            By::Test { package, target, name } => {
                let target = if target == "lib" { vec!["--lib"] } else { vec!["--test", target] };
                let test = [&["test", "--package", package], &target[..], &[name]].concat();
                Ok(self.fails(&test)?.map(|said| format!("`{}`", failed_test(&said, name))))
            }
        }
    }

    /// What a test said that failed; a build that fails notices nothing.
    fn fails(&self, test: &[&str]) -> anyhow::Result<Option<String>> {
        let build: Vec<&str> = test.iter().copied().chain(["--no-run"]).collect();
        self.build(&build)?;
        let (status, said) = self.hear(&mut self.cargo(test))?;
        ensure!(!said.contains("running 0 tests"), "{test:?} runs no test");
        Ok((!status.success()).then_some(said))
    }

    fn build(&self, args: &[&str]) -> anyhow::Result<()> {
        let (status, said) = self.hear(&mut self.cargo(args))?;
        ensure!(status.success(), "it does not compile:\n{said}");
        Ok(())
    }

    fn cargo(&self, args: &[&str]) -> Command {
        let mut cargo = command(args);
        // The same crates again and again, with one line changed.
        cargo.env_remove("CARGO_INCREMENTAL");
        cargo.args(["--locked", "--quiet"]).current_dir(&self.tree).env("CARGO_TARGET_DIR", &self.builds);
        cargo.env("CALLAHEAD_MTA_ROOTS", super::roots::folder());
        cargo
    }

    /// Runs it to its end; what it said goes through a file, so that it can be as long as it likes.
    fn hear(&self, command: &mut Command) -> anyhow::Result<(ExitStatus, String)> {
        let said = self.tree.join("said");
        let file = File::create(&said)?;
        let mut child = command.stdout(file.try_clone()?).stderr(file).spawn()?;
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok((status, String::from_utf8_lossy(&fs::read(&said)?).into_owned()));
            }
            if Instant::now() >= until {
                child.kill()?;
                child.wait()?;
                bail!("{command:?} did not come to its end within {} s", PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Edit {
    fn plant(&self, text: &str) -> anyhow::Result<String> {
        let found = text.matches(&self.right).count();
        ensure!(
            found == 1,
            "xtask/mistakes.toml: {:?} has to be once in {}, and is there {found} times; write down what stands there now",
            self.right,
            self.file.display()
        );
        Ok(text.replacen(&self.right, &self.wrong, 1))
    }
}

/// The sentence of the seed that broke, or of a panic.
fn broken_promise(said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    match lines.iter().rposition(|line| line.contains("broke a promise")) {
        Some(last) => {
            let seed = lines[last].split(' ').nth(1).unwrap_or_default();
            format!("seed {seed}: {}", last.checked_sub(1).map_or("", |at| lines[at]))
        }
        None => format!("simulation: {}", panic(said)),
    }
}

/// What a panic said, without the word for the assertion.
fn panic(said: &str) -> String {
    let mut lines = said.lines().skip_while(|line| !line.contains("panicked at"));
    let words = lines.nth(1).unwrap_or("no words");
    words.strip_prefix("assertion `left == right` failed: ").unwrap_or(words).to_owned()
}

fn failed_test<'a>(said: &'a str, name: &'a str) -> &'a str {
    let heading = said.lines().find_map(|line| line.strip_prefix("---- ")?.strip_suffix(" stdout ----"));
    heading.unwrap_or(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_mistake_can_still_be_planted() {
        let list: List = toml::from_str(LIST).unwrap();
        for edit in list.mistake.iter().flat_map(|mistake| &mistake.edits) {
            let text = fs::read_to_string(root().join(&edit.file)).unwrap();
            assert_ne!(edit.plant(&text).unwrap(), text);
        }
    }

    #[test]
    fn a_mistake_that_fits_nowhere_or_twice_is_not_planted() {
        let edit: Edit = toml::from_str("file = 'f.rs'\nright = 'a'\nwrong = 'b'").unwrap();
        assert_eq!(edit.plant("cac").unwrap(), "cbc");
        for text in ["", "aa"] {
            let error = edit.plant(text).unwrap_err().to_string();
            assert!(error.contains("f.rs") && error.contains(&format!("{} times", text.len())), "{error}");
        }
    }

    #[test]
    fn what_was_noticed_is_told_in_its_own_words() {
        let said = "a trace\nx@one.example was refused\nseed 17 broke a promise (see the last line). Again: ...\n";
        assert_eq!(broken_promise(said), "seed 17: x@one.example was refused");
        let said =
            "thread 'main' panicked at a.rs:1:2:\nassertion `left == right` failed: \"MAIL: two replies\"\n  left: 1\n";
        assert_eq!(broken_promise(said), "simulation: \"MAIL: two replies\"");
        assert_eq!(failed_test("failures:\n\n---- one_more stdout ----\n\n", "one"), "one_more");
    }
}
