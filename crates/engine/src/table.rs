//! The decision table (docs/decision-table.md): one function over plain values, in the order of its rows.
//!
//! It knows no time, no socket and no store. It is asked twice at most: first with what is kept, and where that decides nothing
//! ([`Step::Ask`]) with what the callout brought.

use callahead_cache::{DomainState, RecipientState};

use crate::decision::{Action, Source, Verdict};
use crate::directory::{AcceptOrDefer, Callouts, Policy, RejectOrDefer};

/// What is so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    /// It is a mailbox by RFC 5321 or 6531.
    pub(crate) is_mailbox: bool,
    /// The domain's policy; `None` where it is not configured here.
    pub(crate) policy: Option<&'a Policy>,
    /// What the domain's lists say.
    pub(crate) listed: Option<bool>,
    /// It is `postmaster`.
    pub(crate) postmaster: bool,
    /// What is kept of the domain.
    pub(crate) domain: Kept<DomainState>,
    /// What is kept of the recipient.
    pub(crate) recipient: Kept<RecipientState>,
    /// What the destination said just now, or within the hold-down.
    pub(crate) learned: Option<Learned>,
    /// It was said within the hold-down, to somebody else.
    pub(crate) held: bool,
}

/// What is kept, and whether it still counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept<S> {
    Nothing,
    Fresh(S),
    /// Counts only where the destination can't be asked.
    Stale(S),
}

/// What a callout brought, as far as the table needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Learned {
    AcceptsAll,
    Accepted,
    /// Whether it may be about the filter rather than the recipient.
    Rejected {
        of_the_filter: bool,
    },
    Deferred,
    /// A refusal of what this node said, whoever the recipient is.
    RefusedForProtocol,
    NullSenderRefused,
    Unreachable,
    NullMx,
    /// No answer within the deadline.
    TooLate,
    /// Too many callouts under way.
    Busy,
    /// The client guesses addresses.
    Guessing,
}

/// What the table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The destination has to be asked.
    Ask,
    Decide(Ruling),
}

/// A row and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ruling {
    pub(crate) row: u8,
    pub(crate) verdict: Option<Verdict>,
    pub(crate) action: Action,
    pub(crate) source: Source,
    /// What its reason and its text are made of.
    pub(crate) because: Because,
}

/// Why, one for each thing that can be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Because {
    NotAMailbox,
    NotOurs,
    ListedValid,
    ListedInvalid,
    CalloutsOff,
    Postmaster,
    AcceptAll,
    Exists,
    DoesNotExist,
    RefusedWithPolicy,
    Deferred,
    /// Row 12's answer, to a refusal of what this node said.
    RefusesProtocol,
    RefusesNullSender,
    Unreachable,
    NullMx,
    TooLate,
    Busy,
    Guessing,
    /// Row 12's answer, made good by a stale record.
    Stale,
}

/// The table.
pub(crate) fn decide(facts: &Facts<'_>) -> Step {
    use Action::{Accept, Defer, Reject};
    let rule = |row, verdict, action, source, because| Step::Decide(Ruling { row, verdict, action, source, because });

    // Row 1: no mailbox.
    if !facts.is_mailbox {
        return rule(1, None, Reject, Source::Policy, Because::NotAMailbox);
    }
    // Row 2: not configured here.
    let Some(policy) = facts.policy else {
        return rule(2, Some(Verdict::NotOurs), Action::None, Source::Policy, Because::NotOurs);
    };
    // Row 3: the domain's own lists.
    match facts.listed {
        Some(true) => return rule(3, Some(Verdict::Valid), Accept, Source::List, Because::ListedValid),
        Some(false) => return rule(3, Some(Verdict::Invalid), Reject, Source::List, Because::ListedInvalid),
        None => {}
    }
    // Row 4: callouts are off.
    if policy.callouts == Callouts::Off {
        return rule(4, Some(Verdict::Valid), Accept, Source::Policy, Because::CalloutsOff);
    }
    // Row 5: postmaster.
    if facts.postmaster {
        return rule(5, Some(Verdict::Valid), Accept, Source::Policy, Because::Postmaster);
    }
    let accept_all = match policy.accept_all {
        AcceptOrDefer::Accept => Accept,
        AcceptOrDefer::Defer => Defer,
    };
    let unverifiable = match policy.unverifiable {
        AcceptOrDefer::Accept => Accept,
        AcceptOrDefer::Defer => Defer,
    };
    let Some(learned) = facts.learned else {
        return match (facts.domain, facts.recipient) {
            // Row 6: kept, the domain accepts every local part.
            (Kept::Fresh(DomainState::AcceptAll), _) => {
                rule(6, Some(Verdict::Valid), accept_all, Source::Cache, Because::AcceptAll)
            }
            // Row 7: kept, valid.
            (_, Kept::Fresh(RecipientState::Valid)) => {
                rule(7, Some(Verdict::Valid), Accept, Source::Cache, Because::Exists)
            }
            // Row 8: kept, invalid.
            (_, Kept::Fresh(RecipientState::Invalid)) => {
                rule(8, Some(Verdict::Invalid), Reject, Source::Cache, Because::DoesNotExist)
            }
            // Row 13 as it is kept: the destination refuses the null sender.
            (Kept::Fresh(DomainState::RefusesNullSender), _) => {
                rule(13, Some(Verdict::Unknown), unverifiable, Source::Cache, Because::RefusesNullSender)
            }
            // Row 15 as it is kept: a null MX.
            (Kept::Fresh(DomainState::NullMx), _) => {
                rule(15, Some(Verdict::Invalid), Reject, Source::Cache, Because::NullMx)
            }
            _ => Step::Ask,
        };
    };
    let source = if facts.held { Source::Cache } else { Source::Callout };
    // Row 12's answer, which rows 14 and 16 share.
    let unknown = |row, source, because| {
        let stale = matches!(facts.recipient, Kept::Stale(RecipientState::Valid) | Kept::Fresh(RecipientState::Valid))
            || matches!(facts.domain, Kept::Stale(DomainState::AcceptAll) | Kept::Fresh(DomainState::AcceptAll));
        match (stale, policy.tempfail) {
            (true, _) => rule(row, Some(Verdict::Unknown), Accept, source, Because::Stale),
            (false, AcceptOrDefer::Accept) => rule(row, Some(Verdict::Unknown), Accept, source, because),
            (false, AcceptOrDefer::Defer) => rule(row, Some(Verdict::Unknown), Defer, source, because),
        }
    };
    match learned {
        // Row 9: a random local part was accepted.
        Learned::AcceptsAll => rule(9, Some(Verdict::Valid), accept_all, source, Because::AcceptAll),
        // Row 10: RCPT got 2xx.
        Learned::Accepted => rule(10, Some(Verdict::Valid), Accept, source, Because::Exists),
        // Row 11: RCPT got 5xx.
        Learned::Rejected { of_the_filter: true } if policy.policy_rejects == RejectOrDefer::Defer => {
            rule(11, Some(Verdict::Unknown), Defer, source, Because::RefusedWithPolicy)
        }
        Learned::Rejected { .. } => rule(11, Some(Verdict::Invalid), Reject, source, Because::DoesNotExist),
        // Row 12: RCPT got 4xx, or a 5xx that is no word on the recipient.
        Learned::Deferred => unknown(12, source, Because::Deferred),
        Learned::RefusedForProtocol => unknown(12, source, Because::RefusesProtocol),
        // Row 13: the null sender got 5xx.
        Learned::NullSenderRefused => {
            rule(13, Some(Verdict::Unknown), unverifiable, source, Because::RefusesNullSender)
        }
        // Row 14: no host could be asked.
        Learned::Unreachable => unknown(14, source, Because::Unreachable),
        // Row 15: a null MX.
        Learned::NullMx => rule(15, Some(Verdict::Invalid), Reject, source, Because::NullMx),
        // Row 16: no answer in time, or nobody was asked so that the destination is spared.
        Learned::TooLate => unknown(16, source, Because::TooLate),
        Learned::Busy => unknown(16, source, Because::Busy),
        Learned::Guessing => match unknown(16, Source::Policy, Because::Guessing) {
            stale @ Step::Decide(Ruling { because: Because::Stale, .. }) => stale,
            // Whatever "tempfail" says: it is the client that is at fault, not the destination.
            _ => rule(16, Some(Verdict::Unknown), Defer, Source::Policy, Because::Guessing),
        },
    }
}
