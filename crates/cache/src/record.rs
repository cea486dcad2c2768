//! What is kept of a recipient or a domain, and for how long it counts.

use std::fmt;
use std::time::Duration;

use callahead_smtp::{EnhancedCode, Reply};

/// The longest time that anything which speaks against a recipient is served, whatever is configured: 2 h.
pub const MAX_INVALID_AGE: Duration = Duration::from_secs(2 * 3600);
/// How long after its expiry a Valid record is kept as a stale one: 4 days.
pub const STALE_FOR: Duration = Duration::from_secs(4 * 24 * 3600);
/// The longest time between a lookup and the write of what was learned under its epoch: 10 min. Slots younger than that are
/// never swept, since they may hold the epoch that such a write has to be compared with.
pub const FLIGHT_MAX: Duration = Duration::from_secs(600);
/// Octets of a reply's text that are kept.
pub const MAX_REPLY_TEXT: usize = 512;

/// A moment: milliseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Timestamp(pub u64);

/// What was known to have been cleared when something was learned. Later clears have greater epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Epoch(pub u64);

/// The destination's words, as they are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredReply {
    /// The reply's code, 200 to 599.
    pub code: u16,
    /// Its enhanced status code.
    pub enhanced: Option<EnhancedCode>,
    /// Its text without codes, cut at [`MAX_REPLY_TEXT`] octets.
    pub text: String,
}

/// What was learned, of a recipient or of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<S> {
    /// What the destination said it is.
    pub state: S,
    /// When the destination said so.
    pub checked_at: Timestamp,
    /// Until when it may be served, by the policy in force when it was written.
    pub expires_at: Timestamp,
    /// Who said so, `host:port`; empty for a null MX. At most 255 octets are kept.
    pub destination: String,
    /// The words.
    pub reply: Option<StoredReply>,
}

/// What a destination said of a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecipientState {
    /// RCPT got 2xx.
    Valid,
    /// RCPT got 5xx.
    Invalid,
}

/// What is known of a whole domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DomainState {
    /// A random local part was accepted.
    AcceptAll,
    /// A random local part was refused: single recipients can be told.
    NotAcceptAll,
    /// `MAIL FROM:<>` was refused with a 5xx.
    RefusesNullSender,
    /// The domain has a null MX (RFC 7505).
    NullMx,
}

/// Which bounds hold for a state.
pub trait State: Copy {
    /// Whether it may be served for [`MAX_INVALID_AGE`] at most.
    fn is_short_lived(self) -> bool;
    /// Whether it speaks for recipients, so that it still counts when stale and the destination can't be asked.
    fn speaks_for(self) -> bool;
}

// === impl Timestamp ===

impl Timestamp {
    /// This much later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The time from `earlier` to this moment; zero if it is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

// === impl Epoch ===

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl StoredReply ===

impl From<&Reply> for StoredReply {
    fn from(reply: &Reply) -> Self {
        let mut text = reply.text();
        cut(&mut text, MAX_REPLY_TEXT);
        Self { code: reply.code(), enhanced: reply.enhanced(), text }
    }
}

/// Shortens a text to so many octets, on a character's boundary.
pub(crate) fn cut(text: &mut String, octets: usize) {
    text.truncate(text.floor_char_boundary(octets));
}

// === impl State ===

impl State for RecipientState {
    fn is_short_lived(self) -> bool {
        self == Self::Invalid
    }
    fn speaks_for(self) -> bool {
        self == Self::Valid
    }
}

impl State for DomainState {
    fn is_short_lived(self) -> bool {
        matches!(self, Self::RefusesNullSender | Self::NullMx)
    }
    fn speaks_for(self) -> bool {
        self == Self::AcceptAll
    }
}

// === impl Record ===

impl<S: State> Record<S> {
    /// Whether it may be served at `now`.
    ///
    /// A record from the future is not: its age can't be known. What speaks against a recipient is not served after
    /// [`MAX_INVALID_AGE`], whatever its expiry says.
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        now >= self.checked_at && now < self.end()
    }

    /// Whether it has expired but still counts where the destination can't be asked: something that speaks for a recipient,
    /// for [`STALE_FOR`] after its expiry.
    pub fn is_stale(&self, now: Timestamp) -> bool {
        self.state.speaks_for() && now >= self.end() && now < self.end().after(STALE_FOR)
    }

    /// How long ago the destination said so.
    pub fn age(&self, now: Timestamp) -> Duration {
        now.since(self.checked_at)
    }

    /// When it is no longer served as fresh.
    pub fn end(&self) -> Timestamp {
        if self.state.is_short_lived() {
            self.expires_at.min(self.checked_at.after(MAX_INVALID_AGE))
        } else {
            self.expires_at
        }
    }

    /// Whether it will never be served again, fresh or stale.
    pub(crate) fn is_dead(&self, now: Timestamp) -> bool {
        let kept = if self.state.speaks_for() { self.end().after(STALE_FOR) } else { self.end() };
        now >= kept
    }
}
