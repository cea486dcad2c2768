//! The last hour in numbers, for the overview: counters looked at every few seconds, and the differences between two looks.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use callahead_engine::{Source, Verdict};

use crate::State;

/// Between two looks at the counters.
pub(crate) const EVERY: Duration = Duration::from_secs(5);
/// Looks that are kept: an hour.
const KEPT: usize = 720;
/// Looks in one column of a chart: half a minute.
const PER_COLUMN: usize = 6;

/// The counters at one time, all since the start.
#[derive(Clone, Debug, Default)]
struct Look {
    decisions: u64,
    cached: u64,
    refused: u64,
    callouts: u64,
    /// By upper bound in seconds, of questions that were answered by a callout.
    asked: Vec<(f64, u64)>,
    /// Likewise, of all others.
    known: Vec<(f64, u64)>,
}

/// Keeps looks. Fed by a task of its own.
#[derive(Debug, Default)]
pub(crate) struct Series(Mutex<VecDeque<Look>>);

/// What happened between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Column {
    /// Decisions a second, answered from the cache.
    pub(crate) cached: f64,
    /// By a callout.
    pub(crate) asked: f64,
    /// By lists, policies and rules.
    pub(crate) other: f64,
    /// Of all of them, those whose recipient does not exist.
    pub(crate) refused: f64,
}

/// The last minutes in single numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Summary {
    pub(crate) per_second: f64,
    /// 0 to 1; `None` without decisions.
    pub(crate) cached_share: Option<f64>,
    pub(crate) refused_share: Option<f64>,
    pub(crate) callouts_per_second: f64,
    /// Half, and 99 of 100, of the callouts' answers came within; upper bounds of the histogram, in seconds.
    pub(crate) asked_within: Option<(f64, f64)>,
    /// Likewise for all that needed no callout.
    pub(crate) known_within: Option<(f64, f64)>,
}

impl Series {
    /// Looks at the counters.
    pub(crate) fn look(&self, state: &State) {
        let mut look = Look::default();
        for decided in state.metrics.decisions() {
            look.decisions += decided.count;
            match decided.source {
                Source::Cache => look.cached += decided.count,
                Source::Callout => look.callouts += decided.count,
                Source::List | Source::Policy => {}
            }
            if decided.verdict == Some(Verdict::Invalid) {
                look.refused += decided.count;
            }
        }
        for (source, histogram) in state.metrics.durations() {
            let (_, _, buckets) = histogram.read();
            let sums = if source == Source::Callout { &mut look.asked } else { &mut look.known };
            if sums.is_empty() {
                *sums = buckets;
            } else {
                sums.iter_mut().zip(buckets).for_each(|(sum, (_, count))| sum.1 += count);
            }
        }
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if looks.len() == KEPT + 1 {
            looks.pop_front();
        }
        looks.push_back(look);
    }

    /// The last hour in columns of half a minute, the oldest first; always as many, empty where nothing was looked at yet.
    pub(crate) fn columns(&self) -> Vec<Column> {
        let looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let looks: Vec<&Look> = looks.iter().rev().step_by(PER_COLUMN).collect();
        let seconds = EVERY.as_secs_f64() * PER_COLUMN as f64;
        let mut columns: Vec<Column> = looks
            .windows(2)
            .map(|pair| {
                let (new, old) = (pair[0], pair[1]);
                let rate = |of: fn(&Look) -> u64| of(new).saturating_sub(of(old)) as f64 / seconds;
                let (all, cached, asked) = (rate(|l| l.decisions), rate(|l| l.cached), rate(|l| l.callouts));
                Column { cached, asked, other: (all - cached - asked).max(0.0), refused: rate(|look| look.refused) }
            })
            .collect();
        columns.resize(KEPT / PER_COLUMN, Column::default());
        columns.reverse();
        columns
    }

    /// The time up to the last look, at most this long.
    pub(crate) fn summary(&self, span: Duration) -> Summary {
        let looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let steps = usize::try_from(span.as_millis() / EVERY.as_millis()).unwrap_or(usize::MAX);
        let steps = steps.min(looks.len().saturating_sub(1));
        let (Some(new), Some(old)) = (looks.back(), looks.iter().rev().nth(steps)) else { return Summary::default() };
        if steps == 0 {
            return Summary::default();
        }
        let seconds = EVERY.as_secs_f64() * steps as f64;
        let of = |count: fn(&Look) -> u64| count(new).saturating_sub(count(old)) as f64;
        let decisions = of(|look| look.decisions);
        let share = |part: f64| (decisions > 0.0).then(|| part / decisions);
        Summary {
            per_second: decisions / seconds,
            cached_share: share(of(|look| look.cached)),
            refused_share: share(of(|look| look.refused)),
            callouts_per_second: of(|look| look.callouts) / seconds,
            asked_within: quantiles(&new.asked, &old.asked),
            known_within: quantiles(&new.known, &old.known),
        }
    }
}

/// The buckets in which the half and the 99th of 100 lie.
fn quantiles(new: &[(f64, u64)], old: &[(f64, u64)]) -> Option<(f64, f64)> {
    let counts: Vec<(f64, u64)> = new
        .iter()
        .enumerate()
        .map(|(at, (bound, count))| (*bound, count - old.get(at).map_or(0, |(_, old)| *old).min(*count)))
        .collect();
    let all: u64 = counts.iter().map(|(_, count)| count).sum();
    let within = |share: f64| {
        let mut seen = 0;
        counts.iter().find(|(_, count)| {
            seen += count;
            seen as f64 >= share * all as f64
        })
    };
    (all > 0).then(|| Some((within(0.5)?.0, within(0.99)?.0))).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_span_and_not_of_all_time() {
        let old = [(0.001, 1000), (0.1, 0), (1.0, 0)];
        let new = [(0.001, 1010), (0.1, 85), (1.0, 5)];
        assert_eq!(quantiles(&new, &old), Some((0.1, 1.0)));
        assert_eq!(quantiles(&old, &old), None);
    }

    #[test]
    fn an_hour_has_120_columns_however_little_was_seen_of_it() {
        let series = Series::default();
        assert_eq!(series.columns().len(), 120);
        let look = |decisions, cached| Look { decisions, cached, ..Look::default() };
        series
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend([look(0, 0)].into_iter().chain((1..=PER_COLUMN as u64).map(|n| look(n * 10, n * 5))));
        let columns = series.columns();
        assert_eq!(columns.len(), 120);
        assert_eq!(columns[119], Column { cached: 1.0, asked: 0.0, other: 1.0, refused: 0.0 });
        let summary = series.summary(Duration::from_secs(3600));
        assert_eq!((summary.per_second, summary.cached_share), (2.0, Some(0.5)));
    }
}
