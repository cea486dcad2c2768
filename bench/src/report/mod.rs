//! What is written: `docs/benchmarks.md` and its plots.

mod machine;
pub mod svg;

use std::fmt::Write as _;
use std::path::Path;

pub use machine::{Machine, commit};

use crate::subject::{Callout, Setting, exim_rest, exim_settings, postfix_settings};

/// A row of the design's table of numbers, and what became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// What is measured.
    pub what: String,
    /// The number to reach.
    pub target: String,
    /// The number that was reached.
    pub measured: String,
    /// Whether that reaches it.
    pub outcome: Outcome,
    /// How many single measurements reached it, of how many, and what one is called in the plural; of more than one there is a spread.
    pub times: Option<(usize, usize, &'static str)>,
}

/// Whether a number is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is.
    Met,
    /// It is not.
    Missed,
    /// This machine can't tell: what is named here is at its own limit.
    Unknown(&'static str),
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The columns' heads.
    pub heads: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<String>>,
}

/// A piece of a section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// A paragraph.
    Text(String),
    /// Numbers.
    Numbers(Table),
}

/// What one scenario has to say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section {
    /// Its heading.
    pub title: String,
    /// How it was measured and what came of it, in order.
    pub parts: Vec<Part>,
    /// Plots: the file's name and the picture.
    pub plots: Vec<(String, String)>,
    /// Rows of the design's table that it decides.
    pub verdicts: Vec<Verdict>,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The run's size and command.
    pub command: String,
    /// Where it ran.
    pub machine: Machine,
    /// How long it took, in seconds.
    pub took: f64,
    /// The scenarios.
    pub sections: Vec<Section>,
    /// How it is measured, why that is fair, and where Callahead loses.
    pub notes: String,
}

impl Verdict {
    /// A row and its number.
    pub fn new(what: &str, target: &str, measured: String, outcome: impl Into<Outcome>) -> Self {
        Self { what: what.into(), target: target.into(), measured, outcome: outcome.into(), times: None }
    }

    /// Whether each single measurement would have reached it, where the number is the median of some: the outcome is the median's, and the
    /// reader sees how far it may be trusted.
    #[must_use]
    pub fn of_each(mut self, noun: &'static str, reached: &[bool]) -> Self {
        self.times = Some((reached.iter().filter(|reached| **reached).count(), reached.len(), noun));
        self
    }

    fn word(&self) -> String {
        let (word, all) = match self.outcome {
            Outcome::Met => ("met", true),
            Outcome::Missed => ("**missed**", false),
            Outcome::Unknown(limit) => return format!("not measurable here: {limit} is the limit"),
        };
        match self.times {
            None => word.to_owned(),
            Some((reached, of, noun)) if reached == if all { of } else { 0 } => {
                format!("{word}, in {of} of {of} {noun}")
            }
            Some((reached, of, noun)) => format!("{word}, not in all {noun}: met in {reached} of {of}"),
        }
    }
}

impl From<bool> for Outcome {
    fn from(met: bool) -> Self {
        if met { Self::Met } else { Self::Missed }
    }
}

impl Outcome {
    /// Of two targets of one row: it misses one, it can't be told of one, or it meets both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Missed, _) | (_, Self::Missed) => Self::Missed,
            (Self::Unknown(limit), _) | (_, Self::Unknown(limit)) => Self::Unknown(limit),
            (Self::Met, Self::Met) => Self::Met,
        }
    }

    /// Of a ratio that is to be so great at least, where something may have kept our side or the other one slow. Ours kept slow makes the ratio
    /// too small, so that it may be met and never missed; the other's makes it too great; and of both it says nothing.
    #[must_use]
    pub fn of_ratio(ratio: f64, at_least: f64, ours: Option<&'static str>, theirs: Option<&'static str>) -> Self {
        let met = ratio >= at_least;
        match (ours, theirs) {
            (None, None) => met.into(),
            (Some(_), None) if met => Self::Met,
            (None, Some(_)) if !met => Self::Missed,
            (Some(limit), _) | (None, Some(limit)) => Self::Unknown(limit),
        }
    }
}

impl Table {
    /// A table with these heads.
    pub fn new(heads: &[&str]) -> Self {
        Self { heads: heads.iter().map(|&head| head.to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | ").replace('\n', " "));
        let mut out = line(&self.heads);
        out.push_str(&line(&vec!["---".to_owned(); self.heads.len()]));
        self.rows.iter().for_each(|row| out.push_str(&line(row)));
        out
    }
}

impl Section {
    /// A section without anything yet.
    pub fn new(title: &str) -> Self {
        Self { title: title.into(), ..Self::default() }
    }

    /// Adds a paragraph.
    pub fn say(&mut self, text: impl Into<String>) {
        self.parts.push(Part::Text(text.into()));
    }

    /// Adds a table.
    pub fn show(&mut self, table: Table) {
        self.parts.push(Part::Numbers(table));
    }
}

impl Report {
    /// The document.
    pub fn markdown(&self) -> String {
        let mut out = String::from(
            "# Benchmarks\n\nThis file is written by `cargo xtask bench`; what is changed by hand is lost with the next run.\n\n",
        );
        let machine = &self.machine;
        let mut about = Table::new(&["", ""]);
        about.row(["command".into(), format!("`{}`", self.command)]);
        about.row(["commit".into(), machine.commit.clone()]);
        about.row(["date".into(), machine.date.clone()]);
        about.row(["took".into(), format!("{:.0} s", self.took)]);
        about.row(["processor".into(), format!("{}, {} cores", machine.processor, machine.cores)]);
        about.row(["memory".into(), machine.memory.clone()]);
        about.row(["file system of caches and logs".into(), machine.files.clone()]);
        about.row(["system".into(), machine.system.clone()]);
        about.row(["compiler".into(), machine.compiler.clone()]);
        for (name, version) in &machine.versions {
            about.row([name.clone(), version.clone()]);
        }
        let _ = write!(out, "{}\n## Against what was set out to be reached\n\n", about.markdown());
        let verdicts: Vec<&Verdict> = self.sections.iter().flat_map(|section| &section.verdicts).collect();
        let count = |outcome| verdicts.iter().filter(|verdict| verdict.outcome == outcome).count();
        let (met, missed) = (count(Outcome::Met), count(Outcome::Missed));
        let unknown = match verdicts.len() - met - missed {
            0 => String::new(),
            unknown => format!(", {unknown} not measurable here"),
        };
        let _ = writeln!(
            out,
            "{met} met, {missed} missed{unknown}. Ratios are medians over rounds, with the smallest and the greatest behind them, and met or missed by \
             that median; behind it stands in how many of the rounds it was met. \"The least\" is what no server can do without that answers \
             for itself; it is measured too where that is told.\n"
        );
        let mut table = Table::new(&["what", "target", "measured", ""]);
        for verdict in &verdicts {
            table.row([verdict.what.clone(), verdict.target.clone(), verdict.measured.clone(), verdict.word()]);
        }
        out.push_str(&table.markdown());
        for section in &self.sections {
            let _ = writeln!(out, "\n## {}\n", section.title);
            for part in &section.parts {
                let _ = match part {
                    Part::Text(text) => writeln!(out, "{text}\n"),
                    Part::Numbers(table) => writeln!(out, "{}", table.markdown()),
                };
            }
            for (file, _) in &section.plots {
                let _ = writeln!(out, "![{}]({file})\n", section.title);
            }
        }
        let _ = write!(out, "\n{}", self.notes);
        while out.contains("\n\n\n") {
            out = out.replace("\n\n\n", "\n\n");
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
        out
    }

    /// Writes the document and its plots into a folder.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn write(&self, folder: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        for (file, picture) in self.sections.iter().flat_map(|section| &section.plots) {
            std::fs::write(folder.join(file), picture)?;
        }
        std::fs::write(folder.join("benchmarks.md"), self.markdown())
    }
}

/// The document's end: the given text, then all that is set for the peers, then where Callahead loses.
pub fn notes(text: &str) -> String {
    let destination = ([127, 0, 0, 1], DESTINATION).into();
    format!(
        "{text}{}\n```\n{}```\n\nOf *Exim, hold* only this differs: `{}`.\n\n{}\nIts `master.cf` has Debian's services, without chroot. \
         Ports are others in each run.\n\n{LOSES}",
        settings("Exim", exim_settings(FRONT)),
        exim_rest(destination, Callout::Null),
        Callout::Hold.condition(),
        settings("Postfix", postfix_settings(destination))
    )
}

fn settings(peer: &str, settings: Vec<Setting>) -> String {
    let mut table = Table::new(&[peer, "value", "why"]);
    for (name, value, why) in settings {
        let value = if value.is_empty() { "(empty)".to_owned() } else { format!("`{value}`") };
        table.row([format!("`{name}`"), value, why.to_owned()]);
    }
    table.markdown()
}

/// Ports that stand in the document for those of a run.
const FRONT: u16 = 25;
const DESTINATION: u16 = 2525;

/// What no ratio above shows.
const LOSES: &str = "\
## Where Callahead loses

- Against a bare server it does more for each question: it looks into the cache, goes through the decision table and writes a \
line to the log. The rows above say how much that is.
- One Exim or Postfix is a whole mail server; Callahead beside it is one more process to run. Its memory at rest is that of \
a daemon with a runtime and TLS, more than Postfix's verify service alone has.
- Postfix answers a cached recipient without leaving the machine's own processes too: on a server with little mail the difference \
in speed is nothing that anybody notices. What remains there is the number of connections that the destination sees.
- A cold answer is as slow as its destination: where that takes seconds to greet, so does Callahead.
";
