//! How a host refuses recipients, so that a refusal for what was asked before in a session is not taken for one of the mailbox.
//!
//! Some servers count over the whole connection, and neither RSET nor MAIL starts the count anew: chkuser (vpopmail, QmailToaster) answers
//! every RCPT with 571 once it has refused three (`CHKUSER_WRONGRCPTLIMIT`) or heard fifty (`CHKUSER_RCPTLIMIT`), those of existing mailboxes
//! too. Nothing but the words tells such a refusal from another. So what is said of the first recipient of a session is remembered: that one
//! can't be refused for others. A refusal later in a session is believed where it is of a kind that is known from there; else the recipient is
//! asked for as the first of a new session, and what is said there counts.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use callahead_smtp::{About, EnhancedCode, Recipient, Reply};
use tokio::time::Instant;

/// Kinds of refusals that are remembered of a host; the one that was not seen for longest is forgotten.
const KINDS: usize = 8;
/// How long a kind is known that is not seen of a first recipient again. A host that refused this node for a while did so in every session, and with
/// the words that it may have for sessions that asked too much.
const KNOWN_FOR: Duration = Duration::from_secs(3600);

/// A refusal, without what differs from one recipient to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    code: u16,
    enhanced: Option<EnhancedCode>,
    about: About,
    /// A digest of the words: there may be 64 KiB of them.
    words: u64,
}

/// The kinds of refusals that first recipients got, and when they last did.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Vec<(Refusal, Instant)>);

impl Refusal {
    /// The kind of a refusal that the recipient got.
    pub fn of(reply: &Reply, recipient: &Recipient) -> Self {
        let mut words = DefaultHasher::new();
        for line in reply.lines() {
            let lasting = line.split_whitespace().filter_map(|token| lasting_word(token, recipient.local_part()));
            lasting.for_each(|word| word.to_lowercase().hash(&mut words));
        }
        Self { code: reply.code(), enhanced: reply.enhanced(), about: About::from(reply), words: words.finish() }
    }

    /// Whether its codes say what is wrong with the address.
    pub(crate) fn is_of_the_address(&self) -> bool {
        self.about == About::Address
    }

    /// Whether it is as good as one that a first recipient got. Where the codes say what is wrong with the address, the words may be any;
    /// everywhere else they have to be the same. A host whose words never are is asked once more for each refusal: that costs a connection,
    /// and to believe it could cost a mail.
    pub fn is_like(&self, known: &Self) -> bool {
        let same_codes = self.code == known.code && self.enhanced == known.enhanced;
        same_codes && (self.words == known.words || self.is_of_the_address())
    }
}

/// A token of a reply without the signs around it, where it is a word that the next reply has too: no address, host, time, queue id or part
/// of a URL, and nothing of the recipient's.
fn lasting_word<'a>(token: &'a str, local_part: &str) -> Option<&'a str> {
    let word = token.trim_matches(|c: char| !c.is_alphanumeric());
    let plain = !word.is_empty() && word.chars().all(|c| c.is_alphabetic() || matches!(c, '-' | '\''));
    // As in an id of letters alone.
    let mixed = || word.chars().zip(word.chars().skip(1)).any(|(one, next)| one.is_lowercase() && next.is_uppercase());
    let theirs = || local_part.split(|c: char| !c.is_alphabetic()).any(|part| part.eq_ignore_ascii_case(word));
    (plain && !mixed() && !theirs()).then_some(word)
}

impl Refusals {
    /// A first recipient was refused so.
    pub(crate) fn learn(&mut self, refusal: Refusal) {
        let now = Instant::now();
        if let Some((_, seen)) = self.0.iter_mut().find(|(known, _)| refusal.is_like(known)) {
            *seen = now;
            return;
        }
        if self.0.len() >= KINDS
            && let Some(oldest) = self.0.iter().enumerate().min_by_key(|(_, (_, seen))| *seen).map(|(nth, _)| nth)
        {
            self.0.swap_remove(oldest);
        }
        self.0.push((refusal, now));
    }

    /// Whether first recipients are refused so.
    pub(crate) fn know(&self, refusal: &Refusal) -> bool {
        self.0.iter().any(|(known, seen)| refusal.is_like(known) && seen.elapsed() < KNOWN_FOR)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use callahead_smtp::{ReplyLimits, ReplyReader};

    fn refusal(reply: &str, recipient: &str) -> Refusal {
        let mut reader = ReplyReader::new(ReplyLimits::default());
        reader.push(format!("{reply}\r\n").as_bytes());
        Refusal::of(&reader.next_reply().unwrap().unwrap(), &recipient.parse().unwrap())
    }

    fn alike(one: &str, other: &str) -> bool {
        refusal(one, "john.smith@one.example").is_like(&refusal(other, "mary@one.example"))
    }

    #[test]
    fn what_differs_from_one_recipient_to_the_next_does_not_count() {
        for (one, other) in [
            ("550 No such user john.smith@one.example", "550 No such user <MARY@one.example>"),
            ("550 Unknown user: John Smith", "550 unknown user: mary"),
            (
                "550 5.4.1 Recipient address rejected: Access denied. [BN1NAM02FT035.eop-nam02.prod.outlook.com 2026-11-29T08:20:00.1Z 08DC01]",
                "550 5.4.1 Recipient address rejected: Access denied. [SN1PEPF0002529E.namprd05.prod.outlook.com 2026-11-29T09:20:00.9Z 08DD02]",
            ),
            (
                "554-no such person, see https://help.example/?p=NoSuchUser&t=aXbYcZd\r\n554 d9443c01a7336-1f9cf qAbzQrs.56 - gsmtp",
                "554-no such person, see https://help.example/?p=NoSuchUser&t=qqqQqq\r\n554 41be03b00d2f7-7fc3 zTuvwXyz.3 - gsmtp",
            ),
            // The code says all there is to say.
            ("550 5.1.1 unknown", "550 5.1.1 perhaps it was one of these: anna, ben"),
            ("550", "550 "),
        ] {
            assert!(alike(one, other), "{one} and {other}");
        }
    }

    #[test]
    fn other_codes_or_other_words_are_another_kind() {
        for (one, other) in [
            ("550 5.1.1 unknown", "550 5.7.1 unknown"),
            ("550 5.1.1 unknown", "551 5.1.1 unknown"),
            ("550 unknown", "550 5.1.1 unknown"),
            ("550 no such user", "550 too many recipients"),
            ("550 5.7.1 access denied", "550 5.7.1 you are violating our security policies"),
            ("550 5.1.8 sender unknown", "550 5.1.8 sender refused"),
        ] {
            assert!(!alike(one, other), "{one} and {other}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn some_kinds_are_known_for_an_hour() {
        let nth = |n: u8| refusal(&format!("550 {}", "no ".repeat(usize::from(n) + 1)), "anna@one.example");
        let mut refusals = Refusals::default();
        for n in 0..9 {
            refusals.learn(nth(n));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!((0..9).filter(|n| !refusals.know(&nth(*n))).collect::<Vec<_>>(), [0]);
        tokio::time::advance(KNOWN_FOR - Duration::from_secs(7)).await;
        refusals.learn(nth(1));
        assert_eq!((0..9).filter(|n| refusals.know(&nth(*n))).collect::<Vec<_>>(), [1, 3, 4, 5, 6, 7, 8]);
    }
}
