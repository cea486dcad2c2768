//! What a destination was told, and whether it was told politely.

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Ended {
    /// It goes on.
    #[default]
    NotYet,
    /// The client said QUIT.
    Quit,
    /// The client closed without QUIT.
    Closed,
    /// The client closed within a message: how one is given up that must not be delivered.
    WithinMessage,
    /// The client closed within a TLS handshake, where nothing can be said.
    WithinHandshake,
    /// The destination itself closed it.
    ByUs,
}

/// One session.
#[derive(Clone, Debug, Default)]
pub struct SessionRecord {
    /// The commands, in order.
    pub commands: Vec<String>,
    /// Recipients that were refused for good; those of a fault at RCPT are not counted.
    pub refused: usize,
    /// What no client may do.
    pub offences: Vec<String>,
    /// How it ended.
    pub ended: Ended,
    /// Whether it was encrypted.
    pub tls: bool,
}

/// A message that was taken whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// MAIL, without `MAIL FROM:`.
    pub mail: String,
    /// Each RCPT that was accepted, without `RCPT TO:`.
    pub recipients: Vec<String>,
    /// The content, without dots put on.
    pub content: Vec<u8>,
    /// It came by BDAT.
    pub chunked: bool,
    /// The session that it came in.
    pub session: usize,
}

/// All that a destination was told. Sessions beyond [`Record::MAX_SESSIONS`] are counted and not kept.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// The sessions, in the order of their connections.
    pub sessions: Vec<SessionRecord>,
    /// Connections, kept or not.
    pub connections: usize,
    /// MAIL commands.
    pub mail: usize,
    /// RCPT commands.
    pub rcpt: usize,
    /// Messages that were taken whole, whatever was replied after that.
    pub messages: Vec<Message>,
    /// The most sessions at one time.
    pub most_at_once: usize,
    pub(crate) open: usize,
}

impl Record {
    /// Sessions that are kept.
    pub const MAX_SESSIONS: usize = 10_000;

    /// Everything that was said, for a failing test to show.
    pub fn dialogue(&self) -> String {
        let lines = self.sessions.iter().enumerate().map(|(n, session)| {
            format!("session {n} ({:?}): {} {:?}\n", session.ended, session.commands.join(" | "), session.offences)
        });
        lines.collect()
    }

    /// # Panics
    /// With the dialogue, when DATA was said, a command was malformed or pipelined where that was not offered, or a session that this
    /// side did not end was left without QUIT.
    pub fn assert_polite(&self) {
        for session in &self.sessions {
            assert!(session.offences.is_empty(), "{:?}\n{}", session.offences, self.dialogue());
            assert!(session.ended != Ended::Closed, "a session was left without QUIT\n{}", self.dialogue());
        }
    }
}
