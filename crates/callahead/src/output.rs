//! What people read: colours on a terminal, tables, and errors.

use std::io::{IsTerminal as _, Write as _};

use callahead_smtp::{About, EnhancedCode};
use serde_json::Value;

use crate::cache_command::field;

/// Colours, where they are wanted: on a terminal, unless `NO_COLOR` is set.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    colours: bool,
}

/// A colour by what it means.
#[derive(Clone, Copy, Debug)]
pub enum Paint {
    /// Accepted.
    Good,
    /// Refused.
    Bad,
    /// Not told.
    Open,
    /// Less important.
    Dim,
    /// A heading.
    Strong,
}

impl Style {
    /// For standard output.
    pub fn stdout() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { colours: wanted && std::io::stdout().is_terminal() }
    }

    /// The text in its colour.
    pub fn paint(self, paint: Paint, text: &str) -> String {
        if !self.colours {
            return text.to_owned();
        }
        let code = match paint {
            Paint::Good => "32",
            Paint::Bad => "31",
            Paint::Open => "33",
            Paint::Dim => "2",
            Paint::Strong => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Prints to standard output; a reader that went away (`| head`) is no fault.
pub fn print(text: &str) {
    print_octets(text.as_bytes());
}

/// Prints what may be any part of a text.
pub fn print_octets(octets: &[u8]) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(octets);
    let _ = out.flush();
}

/// Prints an error as one sentence to standard error.
pub fn error(error: &anyhow::Error) {
    let mut out = std::io::stderr().lock();
    let _ = writeln!(out, "callahead: {}", sentence(error));
}

/// An error with its causes; one whose words the error has in its own already is not said again.
pub fn sentence(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| match said.is_empty() {
        true => cause,
        false if said.contains(&cause) => said,
        false => format!("{said}: {cause}"),
    })
}

/// Prints a remark to standard error.
pub fn remark(text: &str) {
    let mut out = std::io::stderr().lock();
    let _ = writeln!(out, "{text}");
}

/// Prints what is no mistake of a configuration, and worth a look.
pub fn warnings(remarks: &[String]) {
    remarks.iter().for_each(|text| remark(&format!("warning: {text}")));
}

/// A table with columns as wide as they need to be; the last one is not padded.
pub fn table(style: Style, header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String]| -> String {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(n, (cell, width))| if n + 1 == cells.len() { cell.clone() } else { format!("{cell:<width$}") })
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let header: Vec<String> = header.iter().map(ToString::to_string).collect();
    let mut out = style.paint(Paint::Strong, &line(&header));
    out.push('\n');
    for row in rows {
        out.push_str(&line(row));
        out.push('\n');
    }
    out
}

/// A verdict in words.
fn verdict(decision: &Value) -> (&'static str, Paint) {
    match decision["verdict"].as_str() {
        _ if decision["accept_all"] == true => ("can't be told: the destination accepts every local part", Paint::Open),
        Some("valid") => ("exists", Paint::Good),
        Some("invalid") if is_of_a_closed_mailbox(&decision["reply"]) => {
            ("exists, and is full or disabled", Paint::Bad)
        }
        Some("invalid") => ("does not exist", Paint::Bad),
        Some("not_ours") => ("is not ours", Paint::Dim),
        Some(_) => ("could not be told", Paint::Open),
        None => ("is no address", Paint::Bad),
    }
}

fn is_of_a_closed_mailbox(reply: &Value) -> bool {
    let Some(code) = reply["code"].as_u64().and_then(|code| u16::try_from(code).ok()) else { return false };
    let enhanced = EnhancedCode::parse_prefix(&field(reply, "enhanced")).map(|(enhanced, _)| enhanced);
    About::of(code, enhanced, &field(reply, "text")).is_of_a_closed_mailbox()
}

/// A decision for people, from its JSON.
pub fn decision(style: Style, decision: &Value) -> String {
    let (words, paint) = verdict(decision);
    let recipient = printable(decision["recipient"].as_str().unwrap_or_default());
    let mut out = format!("{}: {}\n", style.paint(Paint::Strong, &recipient), style.paint(paint, words));
    let mut line = |label: &str, text: &str| {
        out.push_str(&format!("  {} {text}\n", style.paint(Paint::Dim, &format!("{label:<9}"))));
    };
    line(&format!("row {}", decision["row"]), &printable(decision["reason"].as_str().unwrap_or_default()));
    let would = decision.get("would");
    let answer = would.unwrap_or(&decision["answer"]);
    let sender = match answer["action"].as_str() {
        Some("accept") => "accepted".to_owned(),
        Some("none") => "no opinion".to_owned(),
        _ => reply(answer),
    };
    let observed = if would.is_some() { " (observe mode: accepted all the same)" } else { "" };
    line("sender", &format!("{sender}{observed}"));
    if let Some(destination) = decision["destination"].as_str() {
        line("asked", &printable(destination));
    }
    if let Some(said) = decision.get("reply") {
        line("it said", &reply(said));
    }
    line("time", &format!("{:.1} ms", decision["elapsed_ms"].as_f64().unwrap_or(0.0)));
    out
}

/// `550 5.1.1 text`.
fn reply(reply: &Value) -> String {
    let words = [reply["code"].to_string(), field(reply, "enhanced"), field(reply, "text")];
    words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// A transcript for people: time, direction, line.
pub fn transcript(style: Style, lines: &[Value]) -> String {
    let lines = lines.iter().map(|line| {
        let (mark, paint) = match line["who"].as_str() {
            Some("us") => (">", Paint::Strong),
            Some("them") => ("<", Paint::Good),
            _ => ("*", Paint::Dim),
        };
        let (ms, text) = (line["ms"].as_f64().unwrap_or(0.0), field(line, "line"));
        format!("  {ms:>9.1} ms {}\n", style.paint(paint, &format!("{mark} {text}")))
    });
    lines.collect()
}

/// Text from elsewhere, without what would steer a terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
