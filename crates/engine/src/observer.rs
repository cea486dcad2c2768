//! Who is told of decisions: the log, metrics.

use std::sync::Arc;

use crate::decision::{Decision, Question};

/// Told of each decision, and of what an administrator should know. Called in the way of the question: it must not wait.
pub trait Observer: Send + Sync + 'static {
    /// A question was decided.
    fn decided(&self, question: &Question<'_>, decision: &Decision);
    /// Something is wrong with a domain's destination. The same is told at most every 10 min.
    fn alert(&self, alert: &Alert);
    /// It is so no more. Told of [`AlertKind::Greylists`], which no single decision disproves; of the others decisions tell.
    fn alert_is_over(&self, _domain: &str, _kind: AlertKind) {}
}

/// Something that an administrator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// The recipient's domain.
    pub domain: String,
    /// What it is.
    pub kind: AlertKind,
    /// Who did it, `host:port`, and in which words.
    pub detail: String,
}

/// What can be wrong with a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AlertKind {
    /// It refuses the null sender (row 13).
    RefusesNullSender,
    /// It refuses recipients by codes or words that may be about the filter (row 11: `About::Filter` and `About::NetworkOrAddress`), or for what this node
    /// said (row 12: `About::Protocol`): it may refuse everyone.
    TalksOfFilter,
    /// It accepts every local part (row 9).
    AcceptAll,
    /// No host could be asked (row 14).
    Unreachable,
    /// It defers recipients as greylisting does: 3 of its last 10 answers at least (row 12).
    Greylists,
}

impl AlertKind {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::RefusesNullSender, Self::TalksOfFilter, Self::AcceptAll, Self::Unreachable, Self::Greylists];

    /// Its name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RefusesNullSender => "refuses_null_sender",
            Self::TalksOfFilter => "talks_of_filter",
            Self::AcceptAll => "accept_all",
            Self::Unreachable => "unreachable",
            Self::Greylists => "greylists",
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::RefusesNullSender => "the destination refuses the null sender: its recipients can't be verified",
            Self::TalksOfFilter => {
                "the destination refuses a recipient in words that talk of this filter: it may refuse everyone"
            }
            Self::AcceptAll => "the destination accepts every local part: its recipients can't be told apart",
            Self::Unreachable => "no host of the destination could be asked",
            Self::Greylists => {
                "the destination greylists this node: new recipients can't be verified until it lets them pass"
            }
        }
    }
}

/// Writes each decision as one event, `callahead::decision`, and each alert as a warning, `callahead::alert`.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogObserver;

impl Observer for LogObserver {
    fn decided(&self, question: &Question<'_>, decision: &Decision) {
        if !tracing::enabled!(target: "callahead::decision", tracing::Level::INFO) {
            return;
        }
        let answer = decision.would.as_ref().unwrap_or(&decision.answer);
        tracing::info!(
            target: "callahead::decision",
            recipient = decision.recipient,
            listener = question.listener.as_str(),
            client = question.client.map(tracing::field::display),
            sender = question.sender,
            verdict = decision.verdict.map(|verdict| verdict.as_str()),
            action = decision.answer.action.as_str(),
            would = decision.would.as_ref().map(|would| would.action.as_str()),
            row = decision.row,
            cached = decision.source == crate::decision::Source::Cache,
            source = decision.source.as_str(),
            destination = decision.destination,
            reply = decision.reply.as_ref().map(|reply| format!("{} {}", reply.code, reply.text)),
            answer = answer.reply(),
            ms = (decision.elapsed.as_secs_f64() * 1e6).round() / 1e3,
            "{}",
            decision.reason
        );
    }

    fn alert(&self, alert: &Alert) {
        tracing::warn!(
            target: "callahead::alert",
            domain = alert.domain,
            kind = alert.kind.as_str(),
            detail = alert.detail,
            "{}",
            alert.kind.sentence()
        );
    }

    fn alert_is_over(&self, domain: &str, kind: AlertKind) {
        tracing::info!(target: "callahead::alert", domain, kind = kind.as_str(), "this is over");
    }
}

impl<O: Observer> Observer for Arc<O> {
    fn decided(&self, question: &Question<'_>, decision: &Decision) {
        self.as_ref().decided(question, decision);
    }
    fn alert(&self, alert: &Alert) {
        self.as_ref().alert(alert);
    }
    fn alert_is_over(&self, domain: &str, kind: AlertKind) {
        self.as_ref().alert_is_over(domain, kind);
    }
}

/// Both are told.
impl<A: Observer, B: Observer> Observer for (A, B) {
    fn decided(&self, question: &Question<'_>, decision: &Decision) {
        self.0.decided(question, decision);
        self.1.decided(question, decision);
    }
    fn alert(&self, alert: &Alert) {
        self.0.alert(alert);
        self.1.alert(alert);
    }
    fn alert_is_over(&self, domain: &str, kind: AlertKind) {
        self.0.alert_is_over(domain, kind);
        self.1.alert_is_over(domain, kind);
    }
}
