//! Which destinations greylist this node (RFC 6647): whoever asks for the first time is told to come back later.
//!
//! Each new recipient that is asked for is deferred then, and its mail with it, until the destination lets this node pass. One such answer
//! says little, since a busy server uses the same codes: it takes [`ENOUGH`] of a domain's [`LAST`] answers.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use callahead_callout::Outcome;
use callahead_smtp::{Domain, Reply};

/// Answers of a domain's destination that are looked at.
pub const LAST: u32 = 10;
/// Of these, as many that look like greylisting are enough.
pub const ENOUGH: u32 = 3;
/// Domains that are looked at; only those are that gave such an answer lately.
const MAX_DOMAINS: usize = 10_000;
/// In which words it is said, in any case.
const WORDS: [&str; 6] = ["greylist", "graylist", "grey list", "gray list", "grey-list", "gray-list"];

/// Whether a reply looks like greylisting: a 4xx that says so, or 450 or 451 with an enhanced code that greylisting servers give
/// (4.2.0, 4.7.0, 4.7.1).
pub fn looks_like_greylisting(reply: &Reply) -> bool {
    if !reply.is_transient() {
        return false;
    }
    let enhanced = reply.enhanced().map(|code| (code.subject(), code.detail()));
    let by_code = matches!(reply.code(), 450 | 451) && matches!(enhanced, Some((2, 0) | (7, 0 | 1)));
    by_code || {
        let text = reply.text().to_ascii_lowercase();
        WORDS.iter().any(|words| text.contains(words))
    }
}

/// What an answer comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Greylisting {
    /// It greylists: again, or still.
    Seen,
    /// It did, and does no more.
    Over,
    /// Nothing to tell.
    Nothing,
}

/// The last answers of each domain's destination, a bit each, the latest lowest; 1 is one that looks like greylisting.
#[derive(Debug, Default)]
pub(crate) struct Answers(Mutex<HashMap<Domain, u32>>);

impl Answers {
    /// Takes what a callout brought. What is no answer to a question counts for nothing.
    pub(crate) fn take(&self, domain: &Domain, outcome: &Outcome) -> Greylisting {
        let is_grey = match outcome {
            Outcome::Deferred(reply) => looks_like_greylisting(reply),
            Outcome::Accepted(_) | Outcome::Rejected(_) | Outcome::AcceptsAll(_) => false,
            _ => return Greylisting::Nothing,
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(answers) = all.get_mut(domain) else {
            if is_grey && all.len() < MAX_DOMAINS {
                all.insert(domain.clone(), 1);
            }
            return Greylisting::Nothing;
        };
        let enough = |answers: u32| answers.count_ones() >= ENOUGH;
        let before = *answers;
        *answers = (before << 1 | u32::from(is_grey)) & ((1 << LAST) - 1);
        let now = *answers;
        if now == 0 {
            all.remove(domain);
        }
        match (is_grey, enough(now)) {
            (true, true) => Greylisting::Seen,
            (_, false) if enough(before) => Greylisting::Over,
            _ => Greylisting::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use callahead_smtp::EnhancedCode;

    fn reply(code: u16, enhanced: Option<(u16, u16)>, text: &str) -> Reply {
        let class = u8::try_from(code / 100).unwrap_or_default();
        Reply::new(code, enhanced.and_then(|(subject, detail)| EnhancedCode::new(class, subject, detail)), text)
    }

    #[test]
    fn a_reply_looks_like_greylisting_by_its_codes_or_its_words() {
        for (code, enhanced, text) in [
            (450, Some((2, 0)), "<a@b.example>: Recipient address rejected: Greylisted"),
            (451, Some((7, 1)), "Please try again later"),
            (450, Some((7, 0)), "come back"),
            (451, None, "Temporarily GRAYLISTED, see the postmaster's page"),
            (452, Some((4, 5)), "grey-listing in action"),
        ] {
            assert!(looks_like_greylisting(&reply(code, enhanced, text)), "{code} {enhanced:?} {text}");
        }
        for (code, enhanced, text) in [
            (451, None, "try again later"),
            (450, Some((1, 1)), "mailbox unavailable"),
            (452, Some((2, 2)), "mailbox full"),
            (452, Some((7, 1)), "too many"),
            (550, Some((7, 1)), "greylisted for ever"),
        ] {
            assert!(!looks_like_greylisting(&reply(code, enhanced, text)), "{code} {enhanced:?} {text}");
        }
    }

    #[test]
    fn domains_are_only_remembered_while_one_of_their_last_answers_was_such_and_never_more_than_fit() {
        let (answers, grey) = (Answers::default(), Outcome::Deferred(reply(450, Some((7, 1)), "later")));
        let domain = |n: usize| Domain::parse(&format!("d{n}.example")).unwrap_or_else(|error| panic!("{error}"));
        for n in 0..MAX_DOMAINS + 5 {
            answers.take(&domain(n), &grey);
        }
        let len = || answers.0.lock().unwrap_or_else(PoisonError::into_inner).len();
        assert_eq!(len(), MAX_DOMAINS);
        for _ in 0..LAST {
            answers.take(&domain(0), &Outcome::Accepted(reply(250, None, "ok")));
        }
        assert_eq!(len(), MAX_DOMAINS - 1);
    }
}
