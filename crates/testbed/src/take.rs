//! Taking messages: DATA and BDAT, with what can go wrong within them.
//!
//! A message is recorded when it is whole, before anything is replied to it: so a reply that is lost, or a fault instead of it, is one
//! behind a delivery.

use std::io;

use tokio::io::AsyncReadExt as _;

use crate::record::Message;
use crate::script::Step;
use crate::session::{Next, Session};

/// The transaction so far.
#[derive(Debug, Default)]
pub(crate) struct Taking {
    pub(crate) mail: String,
    pub(crate) recipients: Vec<String>,
    content: Vec<u8>,
    chunked: bool,
}

impl Taking {
    pub(crate) fn new(mail: &str) -> Self {
        Self { mail: mail.to_owned(), ..Self::default() }
    }
}

impl Session {
    pub(crate) async fn data(&mut self) -> io::Result<Next> {
        if !self.mail || self.taking.recipients.is_empty() {
            return self.say("554 5.5.1 No valid recipients");
        }
        let faulty = self.fault_is_due(Step::Data);
        let next = self.reply(Step::Data, "354 End data with <CR><LF>.<CR><LF>").await?;
        if next != Next::Go || faulty {
            self.mail &= !faulty;
            return Ok(next);
        }
        self.flush().await?;
        self.within_message = true;
        let lenient = self.destination.script().lenient_lines;
        let mut searched: usize = 0;
        loop {
            // An end may have begun in what was searched before.
            let from = searched.saturating_sub(4);
            searched = self.input.len();
            let start = if self.input.starts_with(b".\r\n") { Some((0, 3)) } else { None };
            let found = end_of(&self.input[from..], lenient).map(|(end, after)| (from + end, from + after));
            if let Some((end, after)) = start.or(found) {
                let stuffed: Vec<u8> = self.input.drain(..after).take(end).collect();
                self.taking.content = unstuffed(&stuffed);
                return self.whole("250 2.0.0 Ok: queued").await;
            }
            if !self.more().await? {
                return Ok(Next::Close);
            }
        }
    }

    pub(crate) async fn bdat(&mut self, line: &str) -> io::Result<Next> {
        let mut words = line.split(' ').skip(1);
        let size: Option<usize> = words.next().and_then(|size| size.parse().ok());
        let Some(size) = size else {
            self.offence(format!("{line:?} is malformed"));
            return self.say("501 5.5.4 Syntax");
        };
        let last = words.next() == Some("LAST");
        self.within_message = true;
        while self.input.len() < size {
            if !self.more().await? {
                return Ok(Next::Close);
            }
        }
        let chunk: Vec<u8> = self.input.drain(..size).collect();
        if !self.mail || self.taking.recipients.is_empty() {
            return self.say("503 5.5.1 No valid recipients");
        }
        self.taking.chunked = true;
        self.taking.content.extend(chunk);
        if last {
            return self.whole("250 2.0.0 Ok: queued").await;
        }
        self.reply(Step::Data, "250 2.0.0 Ok").await
    }

    /// The message is there: kept, and then answered.
    async fn whole(&mut self, proper: &str) -> io::Result<Next> {
        self.mail = false;
        self.within_message = false;
        let taking = std::mem::take(&mut self.taking);
        // What is refused by a 4xx or a 5xx was not delivered.
        let refused = matches!(
            self.destination.script().faults.get(&Step::Message),
            Some((crate::Fault::Reply(reply) | crate::Fault::ReplyAndClose(reply), times))
                if *times != Some(0) && !reply.starts_with('2')
        );
        if !refused {
            self.destination.recorder().messages.push(Message {
                mail: taking.mail,
                recipients: taking.recipients,
                content: taking.content,
                chunked: taking.chunked,
                session: self.number,
            });
        }
        self.reply(Step::Message, proper).await
    }

    fn fault_is_due(&self, step: Step) -> bool {
        self.destination.script().faults.get(&step).is_some_and(|(_, times)| *times != Some(0))
    }

    /// Reads more of a message; false when it is not to be read on.
    async fn more(&mut self) -> io::Result<bool> {
        let (limit, pause) = {
            let script = self.destination.script();
            (script.close_within_message, script.read_pause)
        };
        if limit.is_some_and(|limit| self.input.len() >= limit) {
            return Ok(false);
        }
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        self.flush().await?;
        self.input.reserve(65_536);
        match self.stream.read_buf(&mut self.input).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(true),
        }
    }
}

/// Where the content ends, and what comes after.
fn end_of(input: &[u8], lenient: bool) -> Option<(usize, usize)> {
    let mut ends: Vec<&[u8]> = vec![b"\r\n.\r\n"];
    if lenient {
        ends.extend([&b"\n.\n"[..], b"\n.\r\n", b"\r\n.\n", b"\r.\r\n", b"\r.\r", b"\r\n.\r", b"\n.\r"]);
    }
    // By the dots, of which there are few.
    for (dot, _) in input.iter().enumerate().filter(|(_, octet)| **octet == b'.') {
        for end in &ends {
            let before = if end.starts_with(b"\r\n") { 2 } else { 1 };
            if dot >= before && input[dot - before..].starts_with(end) {
                return Some((dot, dot - before + end.len()));
            }
        }
    }
    None
}

fn unstuffed(stuffed: &[u8]) -> Vec<u8> {
    let mut content = Vec::with_capacity(stuffed.len());
    let mut at_start = true;
    for (at, octet) in stuffed.iter().enumerate() {
        if !(at_start && *octet == b'.') {
            content.push(*octet);
        }
        at_start = *octet == b'\n' && at > 0 && stuffed[at - 1] == b'\r';
    }
    content
}
