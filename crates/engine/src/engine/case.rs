//! A case: the facts that the table is asked with, and the decision that a ruling makes of them.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use callahead_cache::{
    DomainState, Lookup, MAX_INVALID_AGE, RecipientState, Record, STALE_FOR, State, StoredReply, Timestamp,
};
use callahead_callout::{KEPT_FOR, Outcome, Report};
use callahead_smtp::{About, Recipient, Reply};

use super::Case;
use crate::answer::{about, answer, reason};
use crate::decision::{Action, Answer, Decision, Source};
use crate::directory::{Callouts, Policy, RejectOrDefer};
use crate::flights::Flown;
use crate::table::{Because, Facts, Kept, Learned, Ruling, Step, decide};

/// How long a full or disabled mailbox stays refused at most: it exists, and takes mail again as soon as somebody makes room.
const CLOSED_FOR: Duration = Duration::from_secs(300);
/// How long a null MX is kept at most: the DNS may have said it a while ago ([`KEPT_FOR`]).
const NULL_MX_FOR: Duration = MAX_INVALID_AGE.saturating_sub(KEPT_FOR);

impl Case {
    /// In observe mode everything is accepted, and what would have been answered stands beside that.
    pub(super) fn observed(&self, mut decision: Decision) -> Decision {
        let observe = self.domain.as_ref().is_some_and(|domain| domain.policy.callouts == Callouts::Observe);
        if observe && decision.answer.action != Action::Accept {
            decision.would = Some(std::mem::replace(&mut decision.answer, Answer::accept()));
        }
        decision
    }

    pub(super) fn facts(&self) -> Facts<'_> {
        let mut recipient = kept(self.lookup.recipient.as_ref(), self.now, |state| self.ttl_of_recipient(state));
        // From before the administrator said that such a refusal is no word on the mailbox.
        if recipient == Kept::Fresh(RecipientState::Invalid)
            && self.policy().is_some_and(|policy| policy.policy_rejects == RejectOrDefer::Defer)
            && self
                .lookup
                .recipient
                .as_ref()
                .and_then(|record| record.reply.as_ref())
                .is_some_and(|words| about(words).may_be_of_the_filter())
        {
            recipient = Kept::Nothing;
        }
        Facts {
            is_mailbox: self.is_mailbox,
            policy: self.domain.as_ref().map(|domain| &domain.policy),
            listed: self.domain.as_ref().zip(self.recipient.as_ref()).and_then(|(d, r)| d.listed(r)),
            postmaster: self.recipient.as_ref().is_some_and(Recipient::is_postmaster),
            domain: kept(self.lookup.domain.as_ref(), self.now, |state| self.ttl_of_domain(state)),
            recipient,
            learned: None,
            held: false,
        }
    }

    /// The case as it is once what came back is kept; `None` where nothing of it is.
    pub(super) fn with(&self, landed: &Flown) -> Option<Self> {
        let (of_domain, of_recipient) = records(&self.domain.as_ref()?.policy, landed);
        if of_domain.is_none() && of_recipient.is_none() {
            return None;
        }
        let lookup = Lookup {
            domain: of_domain.or_else(|| self.lookup.domain.clone()),
            recipient: of_recipient.or_else(|| self.lookup.recipient.clone()),
            ..self.lookup
        };
        let (shown, recipient, domain) = (self.shown.clone(), self.recipient.clone(), self.domain.clone());
        Some(Self { shown, recipient, domain, lookup, ..*self })
    }

    pub(super) fn ttl_of_domain(&self, state: DomainState) -> Duration {
        self.policy().map_or(Duration::MAX, |policy| ttl_of_domain(policy, state))
    }

    pub(super) fn ttl_of_recipient(&self, state: RecipientState) -> Duration {
        self.policy().map_or(Duration::MAX, |policy| ttl_of_recipient(policy, state))
    }

    /// The decision of a ruling, without who said it and when.
    pub(super) fn bare_decision(&self, ruling: &Ruling, recipient: String) -> Decision {
        Decision {
            recipient,
            verdict: ruling.verdict,
            accept_all: ruling.because == Because::AcceptAll,
            row: ruling.row,
            reason: Cow::Borrowed(reason(ruling)),
            source: ruling.source,
            answer: Answer::accept(),
            would: None,
            destination: None,
            reply: None,
            checked_at: None,
            expires_at: None,
            at: self.now,
            elapsed: Duration::ZERO,
            transcript: None,
        }
    }

    /// The decision of a ruling on what is kept, with what it cites: moved and not copied, since most questions end here.
    pub(super) fn kept_decision(&mut self, ruling: &Ruling) -> Decision {
        let shown = std::mem::take(&mut self.shown);
        let mut decision = self.bare_decision(ruling, shown);
        match (ruling.source, ruling.row) {
            (Source::Cache, 7 | 8) => {
                let record = self.lookup.recipient.take();
                decision.cite(record, |state| self.ttl_of_recipient(state));
            }
            (Source::Cache, _) => {
                let record = self.lookup.domain.take();
                decision.cite(record, |state| self.ttl_of_domain(state));
            }
            _ => {}
        }
        decision.answer = answer(ruling, self.policy(), decision.reply.as_ref());
        decision
    }

    /// The decision of a ruling on what a callout brought, with who said it and when.
    pub(super) fn decision(&self, ruling: &Ruling, flown: Option<&Flown>) -> Decision {
        let mut decision = self.bare_decision(ruling, self.shown.clone());
        if let Some(flown) = flown {
            let report = &flown.report;
            decision.destination.clone_from(&report.destination);
            decision.reply = report.outcome.reply().map(StoredReply::from);
            decision.checked_at = Some(flown.at);
            decision.expires_at = self.policy().and_then(|policy| kept_until(policy, report, flown.at));
            decision.transcript = Some(Arc::clone(&report.transcript));
            if let Outcome::Unreachable(hosts) = &report.outcome
                && ruling.because == Because::Unreachable
            {
                let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
                decision.reason = match hosts.is_empty() {
                    true => Cow::Borrowed(
                        "no host of the destination could be asked: the domain has no route that can be used",
                    ),
                    false => Cow::Owned(format!("no host of the destination could be asked: {}", hosts.join("; "))),
                };
            }
        }
        decision.answer = answer(ruling, self.policy(), decision.reply.as_ref());
        decision
    }

    pub(super) fn policy(&self) -> Option<&Policy> {
        self.domain.as_ref().map(|domain| &domain.policy)
    }

    /// The decision where nothing was learned.
    pub(super) fn without_outcome(&self, learned: Learned, cached_only: bool) -> Decision {
        let facts = Facts { learned: Some(learned), ..self.facts() };
        let ruling = match decide(&facts) {
            Step::Decide(ruling) => ruling,
            // With something learned the table always decides.
            Step::Ask => unreachable!("the table asked for what it was given"),
        };
        let mut decision = self.decision(&ruling, None);
        if cached_only {
            decision.reason =
                Cow::Borrowed("nothing is kept of the recipient, and the destination was not to be asked");
            decision.source = Source::Cache;
        }
        decision
    }
}

impl Decision {
    /// Says who said what is kept, and until when it counts.
    pub(super) fn cite<S: State>(&mut self, record: Option<Record<S>>, ttl: impl Fn(S) -> Duration) {
        let Some(record) = record else { return };
        self.checked_at = Some(record.checked_at);
        self.expires_at = Some(record.end().min(record.checked_at.after(ttl(record.state))));
        self.destination = Some(record.destination).filter(|destination| !destination.is_empty());
        self.reply = record.reply;
    }
}

pub(super) fn ttl_of_domain(policy: &Policy, state: DomainState) -> Duration {
    match state {
        DomainState::AcceptAll => policy.valid_ttl,
        DomainState::NotAcceptAll => policy.valid_refresh,
        DomainState::RefusesNullSender => MAX_INVALID_AGE,
        DomainState::NullMx => policy.invalid_ttl.min(NULL_MX_FOR),
    }
}

pub(super) fn ttl_of_recipient(policy: &Policy, state: RecipientState) -> Duration {
    match state {
        RecipientState::Valid => policy.valid_ttl,
        RecipientState::Invalid => policy.invalid_ttl,
    }
}

/// A random local part is asked while nothing fresh is known of the domain, and to see whether an accept-all one still is.
pub(super) fn wants_probe(policy: &Policy, lookup: &Lookup, now: Timestamp) -> bool {
    let known = kept(lookup.domain.as_ref(), now, |state| ttl_of_domain(policy, state));
    known != Kept::Fresh(DomainState::NotAcceptAll)
}

/// Fresh by the policy of when it was written and by that of now, whichever is shorter; stale for so long after that.
pub(super) fn kept<S: State>(record: Option<&Record<S>>, now: Timestamp, ttl: impl Fn(S) -> Duration) -> Kept<S> {
    match record {
        None => Kept::Nothing,
        Some(record) if record.is_fresh(now) && record.age(now) < ttl(record.state) => Kept::Fresh(record.state),
        Some(record)
            if (record.is_stale(now) || (record.is_fresh(now) && record.state.speaks_for()))
                && record.age(now) < ttl(record.state).saturating_add(STALE_FOR) =>
        {
            Kept::Stale(record.state)
        }
        Some(_) => Kept::Nothing,
    }
}

/// What is to be kept of what a callout brought: of the domain, and of the recipient.
pub(super) fn records(policy: &Policy, flown: &Flown) -> (Option<Record<DomainState>>, Option<Record<RecipientState>>) {
    let report = &flown.report;
    let of_domain = match &report.outcome {
        Outcome::AcceptsAll(_) => Some(DomainState::AcceptAll),
        Outcome::NullSenderRefused(_) => Some(DomainState::RefusesNullSender),
        Outcome::NullMx => Some(DomainState::NullMx),
        _ if report.not_accept_all => Some(DomainState::NotAcceptAll),
        _ => None,
    };
    let of_recipient = match &report.outcome {
        Outcome::Accepted(_) => Some((RecipientState::Valid, policy.valid_ttl)),
        Outcome::Rejected(reply) if !is_deferred_reject(policy, &report.outcome) => {
            Some((RecipientState::Invalid, refused_for(policy, reply)))
        }
        _ => None,
    };
    (
        of_domain.map(|state| record(state, ttl_of_domain(policy, state), flown)),
        of_recipient.map(|(state, ttl)| record(state, ttl, flown)),
    )
}

pub(super) fn record<S>(state: S, ttl: Duration, flown: &Flown) -> Record<S> {
    Record {
        state,
        checked_at: flown.at,
        expires_at: flown.at.after(ttl),
        destination: flown.report.destination.clone().unwrap_or_default(),
        reply: flown.report.outcome.reply().map(StoredReply::from),
    }
}

/// Until when what was learned counts; `None` where nothing was.
pub(super) fn kept_until(policy: &Policy, report: &Report, at: Timestamp) -> Option<Timestamp> {
    let ttl = match &report.outcome {
        Outcome::AcceptsAll(_) | Outcome::Accepted(_) => policy.valid_ttl,
        Outcome::Rejected(_) if is_deferred_reject(policy, &report.outcome) => return None,
        Outcome::Rejected(reply) => refused_for(policy, reply),
        Outcome::NullMx => ttl_of_domain(policy, DomainState::NullMx),
        Outcome::NullSenderRefused(_) => ttl_of_domain(policy, DomainState::RefusesNullSender),
        _ => return None,
    };
    Some(at.after(ttl))
}

/// How long a refusal is kept.
fn refused_for(policy: &Policy, reply: &Reply) -> Duration {
    match About::from(reply).is_of_a_closed_mailbox() {
        true => policy.invalid_ttl.min(CLOSED_FOR),
        false => policy.invalid_ttl,
    }
}

/// Whether it is the same for every recipient of the domain.
pub(super) fn speaks_of_domain(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::AcceptsAll(_) | Outcome::NullSenderRefused(_) | Outcome::NullMx)
}

pub(super) fn learned(outcome: &Outcome) -> Learned {
    match outcome {
        Outcome::AcceptsAll(_) => Learned::AcceptsAll,
        Outcome::Accepted(_) => Learned::Accepted,
        Outcome::Rejected(reply) => match About::from(reply) {
            About::Protocol => Learned::RefusedForProtocol,
            about => Learned::Rejected { of_the_filter: about.may_be_of_the_filter() },
        },
        Outcome::Deferred(_) | Outcome::NeedsSmtpUtf8 => Learned::Deferred,
        Outcome::NullSenderRefused(_) => Learned::NullSenderRefused,
        Outcome::Unreachable(_) => Learned::Unreachable,
        Outcome::NullMx => Learned::NullMx,
        Outcome::Busy => Learned::Busy,
    }
}

/// Whether a refusal is no word on the recipient: what this node said is refused, whatever `policy_rejects` says, since nobody can mean that for a
/// word on the mailbox; or by that setting.
pub(super) fn is_deferred_reject(policy: &Policy, outcome: &Outcome) -> bool {
    let Outcome::Rejected(reply) = outcome else { return false };
    let about = About::from(reply);
    about == About::Protocol || (about.may_be_of_the_filter() && policy.policy_rejects == RejectOrDefer::Defer)
}
