//! What people are told: the reason for the log and the administrator, the reply for the sender.
//!
//! The sender is never told the destination's name. Codes are RFC 3463's; each stands here once.

use std::borrow::Cow;

use callahead_cache::StoredReply;
use callahead_smtp::{About, EnhancedCode};

use crate::decision::{Action, Answer, Source};
use crate::directory::Policy;
use crate::table::{Because, Ruling};

/// Octets of the destination's words that are passed on.
const MAX_PASSED_ON: usize = 200;

/// Why, in one sentence.
pub(crate) fn reason(ruling: &Ruling) -> &'static str {
    match ruling.because {
        Because::NotAMailbox => "the address is not a valid mailbox",
        Because::NotOurs => "the domain is not configured here",
        Because::ListedValid => "the domain's list says that the recipient exists",
        Because::ListedInvalid => "the domain's list says that the recipient does not exist",
        Because::CalloutsOff => "callouts are off for the domain",
        Because::Postmaster => "postmaster exists everywhere (RFC 5321 4.5.1)",
        Because::AcceptAll => "the destination accepts every local part",
        Because::Exists => "the destination accepts the recipient",
        Because::DoesNotExist => "the destination refuses the recipient",
        Because::RefusedWithPolicy => {
            "the destination refuses the recipient in words that talk of the filter, and policy_rejects is \"defer\""
        }
        Because::Deferred => "the destination says to try again later",
        Because::RefusesProtocol => "the destination refuses what this node says, whoever the recipient is",
        Because::RefusesNullSender => "the destination refuses the null sender, so recipients can't be verified",
        Because::Unreachable => "no host of the destination could be asked",
        Because::NullMx => "the domain has a null MX: it takes no mail",
        Because::TooLate => "the destination did not answer within the deadline; its answer will be kept when it comes",
        Because::Busy => "too many callouts to the destination are under way",
        Because::Guessing => {
            "the client asked for too many recipients that do not exist, so the destination is not asked"
        }
        Because::Stale => "the destination can't be asked now, and the recipient existed when it last could",
    }
}

const NOT_THERE: (u16, (u8, u16, u16), &str) =
    (550, (5, 1, 1), "Recipient address rejected: the mailbox does not exist");

/// What a refusal that is kept is about.
pub(crate) fn about(words: &StoredReply) -> About {
    About::of(words.code, words.enhanced, &words.text)
}

/// To a refusal: told that a mailbox does not exist, senders and lists take its address off. So that is said only where the destination may have
/// meant it.
fn refused(words: Option<&StoredReply>) -> (u16, (u8, u16, u16), &'static str) {
    match words.map(about) {
        Some(About::DisabledMailbox) => (550, (5, 2, 1), "Recipient address rejected: the mailbox is disabled"),
        Some(About::FullMailbox) => (552, (5, 2, 2), "Recipient address rejected: the mailbox is full"),
        Some(About::Filter) => (550, (5, 7, 1), "Recipient address rejected: its server refuses it by policy"),
        _ => NOT_THERE,
    }
}

/// Whether it says of a mailbox that it is full or disabled, and so that it exists.
pub(crate) fn says_closed(answer: &Answer) -> bool {
    answer.enhanced.is_some_and(|enhanced| enhanced.subject() == 2)
}

/// The reply to the sender.
pub(crate) fn answer(ruling: &Ruling, policy: Option<&Policy>, words: Option<&StoredReply>) -> Answer {
    let (code, (class, subject, detail), text) = match (ruling.action, ruling.because) {
        (Action::Accept | Action::None, _) => return Answer { action: ruling.action, ..Answer::accept() },
        (_, Because::NotAMailbox) => (501, (5, 1, 3), "Recipient address rejected: the address is malformed"),
        (Action::Reject, Because::NullMx) => {
            (556, (5, 1, 10), "Recipient address rejected: the domain takes no mail (null MX)")
        }
        (Action::Reject, Because::DoesNotExist) => refused(words),
        (Action::Reject, _) => NOT_THERE,
        (_, Because::AcceptAll) => (451, (4, 7, 1), "Recipients of this domain can't be verified; try again later"),
        (_, Because::RefusedWithPolicy) => (451, (4, 7, 1), "The recipient can't be verified now; try again later"),
        (_, Because::Guessing) => (451, (4, 7, 1), "Too many unknown recipients; try again later"),
        (_, Because::Busy) => (451, (4, 4, 5), "Too many recipients are being verified; try again later"),
        (_, Because::Unreachable | Because::TooLate) => {
            (451, (4, 4, 1), "The recipient can't be verified: its server does not answer; try again later")
        }
        _ => (451, (4, 4, 0), "The recipient can't be verified now; try again later"),
    };
    // A trial answers with a transient code of the same meaning.
    let trial = ruling.action == Action::Reject && policy.is_some_and(|policy| policy.reject_code == 450);
    let (code, class) = if trial { (450, 4) } else { (code, class) };
    let mut text = Cow::Borrowed(text);
    if ruling.action == Action::Reject && ruling.source == Source::Cache {
        text.to_mut().push_str(" (cached)");
    }
    if let Some(words) = words.filter(|_| policy.is_some_and(|policy| policy.pass_reply_text)) {
        let words: String = words.text.chars().filter(|c| matches!(c, ' '..='~')).take(MAX_PASSED_ON).collect();
        if !words.trim().is_empty() {
            text.to_mut().push_str("; the destination said: ");
            text.to_mut().push_str(words.trim());
        }
    }
    Answer { action: ruling.action, code: Some(code), enhanced: EnhancedCode::new(class, subject, detail), text }
}
