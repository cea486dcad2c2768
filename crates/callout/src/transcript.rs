//! The dialogue with times, as it was said.

use std::time::Duration;

use tokio::time::Instant;

/// Who said a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// Callahead.
    Us,
    /// The destination.
    Them,
    /// Nobody: a remark on what happened, such as a connection made.
    Note,
}

/// A line of a transcript.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TranscriptLine {
    /// Since the callout's start.
    pub at: Duration,
    /// Who said it.
    pub who: Who,
    /// The octets as they were, without CRLF.
    pub line: Vec<u8>,
}

/// What was said in one callout. Beyond [`Transcript::MAX_OCTETS`] it is cut, with a note.
#[derive(Clone, Debug)]
pub struct Transcript {
    start: Instant,
    octets: usize,
    lines: Vec<TranscriptLine>,
}

impl Transcript {
    /// The octets that are kept.
    pub const MAX_OCTETS: usize = 65_536;

    /// An empty one that starts now.
    pub fn start() -> Self {
        Self { start: Instant::now(), octets: 0, lines: Vec::new() }
    }

    /// One that keeps nothing.
    pub(crate) fn none() -> Self {
        Self { octets: Self::MAX_OCTETS + 1, ..Self::start() }
    }

    /// The lines, in order.
    pub fn lines(&self) -> &[TranscriptLine] {
        &self.lines
    }

    /// Since its start.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.push(Who::Note, text.into().into_bytes());
    }

    /// Writes down octets that came or went, line by line.
    pub(crate) fn said(&mut self, who: Who, octets: &[u8]) {
        if self.octets > Self::MAX_OCTETS {
            return;
        }
        for line in octets.split_inclusive(|octet| *octet == b'\n') {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            self.push(who, line.strip_suffix(b"\r").unwrap_or(line).to_vec());
        }
    }

    fn push(&mut self, who: Who, line: Vec<u8>) {
        if self.octets > Self::MAX_OCTETS {
            return;
        }
        self.octets += line.len();
        let at = self.start.elapsed();
        if self.octets > Self::MAX_OCTETS {
            self.lines.push(TranscriptLine { at, who: Who::Note, line: b"the rest is cut".to_vec() });
        } else {
            self.lines.push(TranscriptLine { at, who, line });
        }
    }
}
