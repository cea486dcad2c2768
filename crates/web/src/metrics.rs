//! What is counted of decisions. An observer of the engine, in the way of every question: atomics, no lock.

use std::sync::atomic::{AtomicU64, Ordering};

use callahead_engine::{Alert, AlertKind, Decision, Listener, Observer, Question, Source, Verdict};

use crate::histogram::Histogram;

pub(crate) const LISTENERS: [Listener; 7] = [
    Listener::Policy,
    Listener::Socketmap,
    Listener::Milter,
    Listener::Gateway,
    Listener::Http,
    Listener::Admin,
    Listener::Cli,
];
/// `None` is row 1, which has no verdict.
pub(crate) const VERDICTS: [Option<Verdict>; 5] =
    [Some(Verdict::Valid), Some(Verdict::Invalid), Some(Verdict::Unknown), Some(Verdict::NotOurs), None];
pub(crate) const SOURCES: [Source; 4] = [Source::Cache, Source::Callout, Source::List, Source::Policy];
pub(crate) const ALERTS: [AlertKind; AlertKind::ALL.len()] = AlertKind::ALL;
/// Rows of the decision table; row 0 is none of them.
const ROWS: usize = 17;

/// Counts decisions and alerts. Give it to the engine as (part of) its observer, and to [`State`](crate::State).
#[derive(Debug)]
pub struct Metrics {
    decisions: Box<[AtomicU64]>,
    durations: [Histogram; SOURCES.len()],
    alerts: [AtomicU64; ALERTS.len()],
}

/// How often something was decided.
pub(crate) struct Decided {
    pub(crate) listener: Listener,
    pub(crate) verdict: Option<Verdict>,
    pub(crate) row: usize,
    pub(crate) source: Source,
    pub(crate) count: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        let cells = LISTENERS.len() * VERDICTS.len() * ROWS * SOURCES.len();
        Self {
            decisions: (0..cells).map(|_| AtomicU64::new(0)).collect(),
            durations: Default::default(),
            alerts: Default::default(),
        }
    }
}

impl Metrics {
    /// Everything that was decided at least once.
    pub(crate) fn decisions(&self) -> impl Iterator<Item = Decided> + '_ {
        self.decisions.iter().enumerate().filter_map(|(cell, count)| {
            let count = count.load(Ordering::Relaxed);
            let (rest, source) = (cell / SOURCES.len(), cell % SOURCES.len());
            let (rest, row) = (rest / ROWS, rest % ROWS);
            let (listener, verdict) = (rest / VERDICTS.len(), rest % VERDICTS.len());
            (count > 0).then(|| Decided {
                listener: LISTENERS[listener],
                verdict: VERDICTS[verdict],
                row,
                source: SOURCES[source],
                count,
            })
        })
    }

    pub(crate) fn durations(&self) -> impl Iterator<Item = (Source, &Histogram)> {
        SOURCES.into_iter().zip(&self.durations)
    }

    pub(crate) fn alerts(&self) -> impl Iterator<Item = (AlertKind, u64)> + '_ {
        ALERTS.into_iter().zip(self.alerts.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}

/// Where a value stands in the list of its kind.
fn place<T: PartialEq>(values: &[T], value: &T) -> usize {
    values.iter().position(|other| other == value).unwrap_or(0)
}

impl Observer for Metrics {
    fn decided(&self, question: &Question<'_>, decision: &Decision) {
        let source = place(&SOURCES, &decision.source);
        let row = usize::from(decision.row).min(ROWS - 1);
        let listener = place(&LISTENERS, &question.listener);
        let verdict = place(&VERDICTS, &decision.verdict);
        let cell = ((listener * VERDICTS.len() + verdict) * ROWS + row) * SOURCES.len() + source;
        self.decisions[cell].fetch_add(1, Ordering::Relaxed);
        self.durations[source].observe(decision.elapsed);
    }

    fn alert(&self, alert: &Alert) {
        self.alerts[place(&ALERTS, &alert.kind)].fetch_add(1, Ordering::Relaxed);
    }
}
