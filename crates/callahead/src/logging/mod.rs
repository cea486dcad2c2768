//! The log: for people on a terminal, as JSON elsewhere; what is logged can be chosen by `CALLAHEAD_LOG`.
//!
//! Each decision is a line, so the log is most of the work of a question that the cache answers. Two things keep it small:
//! `decisions` writes them without an event and a serializer between, and `writer` hands what is written to standard error in as few
//! system calls as there can be, on a thread of its own.

mod decisions;
mod json;
mod writer;

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::cli::LogFormat;
pub use decisions::DecisionLines;
pub use writer::Flush;
use writer::LogWriter;

/// The environment variable that says what is logged.
const VARIABLE: &str = "CALLAHEAD_LOG";

/// What is logged by this text: a level, or `TARGET=LEVEL`, and more of them with commas between. A word that is no level would be a target to
/// `EnvFilter`, and nothing else would be logged.
fn filter(text: &str) -> Result<EnvFilter, String> {
    let wrong = |part: &str| {
        format!(
            "{VARIABLE}: {part:?} is not understood, and \"info\" is taken; write error, warn, info, debug, trace or off, or TARGET=LEVEL, with commas between"
        )
    };
    let parts = text.split(',').map(str::trim);
    for part in parts {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        if level.parse::<LevelFilter>().is_err() || level.is_empty() {
            return Err(wrong(part));
        }
    }
    EnvFilter::try_new(text).map_err(|_| wrong(text))
}

/// Starts logging to standard error. What is logged while the guard lives is written when it is dropped, at the latest; decisions are
/// logged by the observer.
///
/// # Errors
/// When the writing thread can't be started.
pub fn start(format: Option<LogFormat>) -> std::io::Result<(Flush, DecisionLines)> {
    let wanted = std::env::var_os(VARIABLE).filter(|wanted| !wanted.is_empty());
    let chosen = wanted.map_or_else(|| filter("info"), |wanted| filter(&wanted.to_string_lossy()));
    let (filter, wrong) = match chosen {
        Ok(filter) => (filter, None),
        Err(wrong) => (EnvFilter::new("info"), Some(wrong)),
    };
    let terminal = std::io::stderr().is_terminal();
    let format = format.unwrap_or(if terminal { LogFormat::Human } else { LogFormat::Json });
    let (writer, flush) = LogWriter::start(std::io::stderr())?;
    let decisions = DecisionLines::new(matches!(format, LogFormat::Json).then(|| writer.clone()));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    // A second start in one process (tests) keeps the first.
    let _ = match format {
        LogFormat::Human => log.with_ansi(terminal).with_target(false).try_init(),
        LogFormat::Json => log.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
    };
    if let Some(wrong) = wrong {
        tracing::warn!("{wrong}");
    }
    Ok((flush, decisions))
}
