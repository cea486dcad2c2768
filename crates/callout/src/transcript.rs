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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TranscriptLine<'a> {
    /// Since the callout's start.
    pub at: Duration,
    /// Who said it.
    pub who: Who,
    /// The octets as they were, without CRLF.
    pub line: &'a [u8],
}

/// What was said in one callout. Beyond [`Transcript::MAX_OCTETS`] it is cut, with a note.
#[derive(Clone, Debug)]
pub struct Transcript {
    start: Instant,
    /// The lines' octets, one behind the other: every callout writes one down, and few are ever read.
    octets: Vec<u8>,
    marks: Vec<Mark>,
    is_full: bool,
}

/// A line, by where its octets end.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Duration,
    who: Who,
    end: usize,
}

impl Transcript {
    /// The octets that are kept.
    pub const MAX_OCTETS: usize = 65_536;

    /// An empty one that starts now.
    pub fn start() -> Self {
        Self { start: Instant::now(), octets: Vec::new(), marks: Vec::new(), is_full: false }
    }

    /// One that keeps nothing.
    pub(crate) fn none() -> Self {
        Self { is_full: true, ..Self::start() }
    }

    /// The lines, in order.
    pub fn lines(&self) -> impl Iterator<Item = TranscriptLine<'_>> {
        let starts = std::iter::once(0).chain(self.marks.iter().map(|mark| mark.end));
        let lines = starts.zip(&self.marks);
        lines.map(|(start, mark)| TranscriptLine { at: mark.at, who: mark.who, line: &self.octets[start..mark.end] })
    }

    /// Since its start.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) fn note(&mut self, text: impl AsRef<str>) {
        if !self.is_full {
            self.push(Who::Note, self.elapsed(), text.as_ref().as_bytes());
        }
    }

    /// Writes down octets that came or went, line by line.
    pub(crate) fn said(&mut self, who: Who, octets: &[u8]) {
        if self.is_full {
            return;
        }
        if self.octets.capacity() == 0 {
            // What a question in an open session comes to.
            self.octets.reserve(256);
            self.marks.reserve(8);
        }
        let at = self.elapsed();
        for line in octets.split_inclusive(|octet| *octet == b'\n') {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            self.push(who, at, line.strip_suffix(b"\r").unwrap_or(line));
        }
    }

    fn push(&mut self, who: Who, at: Duration, line: &[u8]) {
        if self.is_full {
            return;
        }
        let (who, line) = match self.octets.len() + line.len() > Self::MAX_OCTETS {
            true => {
                self.is_full = true;
                (Who::Note, &b"the rest is cut"[..])
            }
            false => (who, line),
        };
        self.octets.extend_from_slice(line);
        self.marks.push(Mark { at, who, end: self.octets.len() });
    }
}
