//! What a 5xx reply to RCPT is about: the address, the mailbox behind it, or something that has nothing to do with either.

use crate::{EnhancedCode, Reply};

/// What a permanent refusal of a recipient is about. Told by its codes (RFC 3463, RFC 5321 4.2); by its words only where there is no enhanced code,
/// or one that says nothing (subject 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum About {
    /// The address, in so many words: subject 1 but for 5.1.7 and 5.1.8, which talk of the sender.
    Address,
    /// A mailbox that exists and is full: 5.2.2; without an enhanced code 552, and 522, which is qmail's.
    FullMailbox,
    /// A mailbox that exists and is disabled: 5.2.1. The others of subject 2 say nothing of that: of a mailbox that does not exist OpenSMTPD says
    /// 5.2.4.
    DisabledMailbox,
    /// Whoever asks, or the sender: subjects 3 (mail system) and 7 (policy), 5.1.7 and 5.1.8, or words such as "blocked".
    Filter,
    /// By its code the network (subject 4) or an undefined fault of the protocol (5.5.0). Hosts say that of themselves, and Microsoft 365 says 5.4.1 and
    /// Outlook.com 5.5.0 of mailboxes that do not exist.
    NetworkOrAddress,
    /// What was said and not whom it was for: the others of subject 5 (protocol); 5.6.7, where something further on lacks SMTPUTF8 (RFC 6531 3.5);
    /// and 504, with which Postfix refuses the name in EHLO where it refuses at RCPT only (`smtpd_delay_reject`).
    Protocol,
    /// Nothing is said but that the recipient is refused.
    Recipient,
}

/// Words of refusals that have no enhanced code and are about the filter: of block lists and rates, of relaying, of the name in EHLO, of the DNS, and
/// of the null sender. In lower case. A word that a mailbox's name could have stands with another one.
const OF_THE_FILTER: [&str; 34] = [
    "blocked",
    "block list",
    "blocklist",
    "blacklist",
    "black list",
    "dnsbl",
    "rbl",
    "spamhaus",
    "spamcop",
    "is listed",
    "banned",
    "reputation",
    "spam",
    "your ip",
    "ip address",
    "client host",
    "your host",
    "your server",
    "sending host",
    "reverse dns",
    "reverse lookup",
    "rdns",
    "ptr record",
    "helo",
    "ehlo",
    "relay",
    "authentication",
    "null sender",
    "empty sender",
    "bounces",
    "too many",
    "rate limit",
    "policy reasons",
    "try again later",
];

impl About {
    /// By a refusal's codes and words.
    pub fn of(code: u16, enhanced: Option<EnhancedCode>, text: &str) -> Self {
        Self::by_codes(code, enhanced).unwrap_or_else(|| Self::by_words(text))
    }

    /// `None` where the codes say no more than that it is a refusal.
    fn by_codes(code: u16, enhanced: Option<EnhancedCode>) -> Option<Self> {
        let subject = enhanced.map(|enhanced| (enhanced.subject(), enhanced.detail()));
        Some(match (subject, code) {
            (Some((1, 7 | 8)), _) => Self::Filter,
            (Some((1, _)), _) => Self::Address,
            (Some((2, 1)), _) => Self::DisabledMailbox,
            (Some((2, 2)), _) | (None, 522 | 552) => Self::FullMailbox,
            (Some((5, 1..) | (6, 7)), _) | (_, 504) => Self::Protocol,
            (Some((3 | 7, _)), _) => Self::Filter,
            (Some((4, _) | (5, 0)), _) => Self::NetworkOrAddress,
            (None | Some((0, _)), _) => return None,
            _ => Self::Recipient,
        })
    }

    fn by_words(text: &str) -> Self {
        if talks_of_the_filter(text) { Self::Filter } else { Self::Recipient }
    }

    /// Whether it says that something is wrong with the address, or with the mailbox that it leads to.
    pub fn is_of_the_mailbox(self) -> bool {
        matches!(self, Self::Address | Self::FullMailbox | Self::DisabledMailbox)
    }

    /// Whether it may be the filter that is refused, and everybody with it.
    pub fn may_be_of_the_filter(self) -> bool {
        matches!(self, Self::Filter | Self::NetworkOrAddress)
    }

    /// Whether the mailbox exists, and takes nothing now.
    pub fn is_of_a_closed_mailbox(self) -> bool {
        matches!(self, Self::FullMailbox | Self::DisabledMailbox)
    }
}

impl From<&Reply> for About {
    fn from(reply: &Reply) -> Self {
        Self::by_codes(reply.code(), reply.enhanced()).unwrap_or_else(|| Self::by_words(&reply.text()))
    }
}

/// Addresses that are repeated in the words don't count: a mailbox may have any name.
fn talks_of_the_filter(text: &str) -> bool {
    let words: Vec<_> = text.split_whitespace().filter(|word| !word.contains('@')).collect();
    let text = words.join(" ").to_lowercase();
    OF_THE_FILTER.iter().any(|words| text.match_indices(words).any(|(at, _)| begins_a_word(&text, at)))
}

fn begins_a_word(text: &str, at: usize) -> bool {
    text[..at].chars().next_back().is_none_or(|before| !before.is_alphanumeric())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{ReplyLimits, ReplyReader};

    fn about(line: &str) -> About {
        let mut reader = ReplyReader::new(ReplyLimits::default());
        reader.push(format!("{line}\r\n").as_bytes());
        About::from(&reader.next_reply().unwrap().unwrap())
    }

    #[test]
    fn what_a_refusal_is_about_is_told_by_its_codes() {
        for (line, due) in [
            ("550 5.1.1 unknown", About::Address),
            ("550 5.1.10 null MX", About::Address),
            ("550 5.1.7 bad sender", About::Filter),
            ("550 5.1.8 sender's domain", About::Filter),
            ("550 5.2.1 disabled", About::DisabledMailbox),
            ("552 5.2.2 full", About::FullMailbox),
            ("550 5.2.4 no such list", About::Recipient),
            ("552", About::FullMailbox),
            ("522 over quota", About::FullMailbox),
            ("550 5.3.2 not now", About::Filter),
            ("550 5.4.1 Recipient address rejected: Access denied", About::NetworkOrAddress),
            ("550 5.5.0 mailbox unavailable", About::NetworkOrAddress),
            ("550 5.5.1 sequence", About::Protocol),
            ("554 5.6.7 no SMTPUTF8", About::Protocol),
            ("554 5.6.0 content", About::Recipient),
            ("504 what is that name", About::Protocol),
            ("504 5.5.2 <vm>: Helo command rejected", About::Protocol),
            ("554 5.7.1 denied", About::Filter),
            ("550 5.0.0 unknown", About::Recipient),
            ("550", About::Recipient),
            // The code has said it: words don't count any more.
            ("550 5.1.1 unknown; your IP is not blocked", About::Address),
        ] {
            assert_eq!(about(line), due, "{line}");
        }
    }

    #[test]
    fn without_an_enhanced_code_it_is_told_by_its_words() {
        for line in [
            "553 http://www.spamhaus.org/query/bl?ip=192.0.2.1",
            "554 Service unavailable; Client host [192.0.2.1] blocked using zen.example",
            "550 Access denied - Invalid HELO name (See RFC2821 4.1.1.1)",
            "554 Refused. Your IP address is listed in the RBL",
            "550 relay not permitted",
            "550 Relaying denied",
            "550-Verification failed\r\n550 no reverse DNS for you",
            "550 we take no bounces",
            "550 5.0.0 blocked",
            "550 too many recipients",
        ] {
            assert_eq!(about(line), About::Filter, "{line}");
        }
        for line in [
            "550 No such user here",
            "550 User unknown",
            "550 <spam@one.example>: unknown",
            "550 relay@one.example is no mailbox",
            "550 Unrouteable address",
            "550 Recipient not listed in public directory",
            "553 sorry, no mailbox here by that name",
            "550 antispam: user unknown",
            "550 Address rejected",
        ] {
            assert_eq!(about(line), About::Recipient, "{line}");
        }
    }
}
