//! The log: for people on a terminal, as JSON elsewhere; what is logged can be chosen by `CALLAHEAD_LOG`.
//!
//! Each decision is an event, so the log is most of the work of a question that the cache answers. Two things keep it small:
//! `json` writes decisions without a serializer between, and `writer` hands what is written to standard error in as few
//! system calls as there can be, on a thread of its own.

mod json;
mod writer;

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::JsonFields;

use crate::cli::LogFormat;
pub use writer::Flush;
use writer::LogWriter;

/// Starts logging to standard error. What is logged while the guard lives is written when it is dropped, at the latest.
///
/// # Errors
/// When the writing thread can't be started.
pub fn start(format: Option<LogFormat>) -> std::io::Result<Flush> {
    let filter = EnvFilter::try_from_env("CALLAHEAD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = std::io::stderr().is_terminal();
    let format = format.unwrap_or(if terminal { LogFormat::Human } else { LogFormat::Json });
    let (writer, flush) = LogWriter::start(std::io::stderr())?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    // A second start in one process (tests) keeps the first.
    let _ = match format {
        LogFormat::Human => log.with_ansi(terminal).with_target(false).try_init(),
        LogFormat::Json => log.fmt_fields(JsonFields::new()).event_format(json::Lines::default()).try_init(),
    };
    Ok(flush)
}
