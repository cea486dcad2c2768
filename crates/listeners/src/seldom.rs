//! What anybody may cause as often as they like, said in the log now and then.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So much time is between two times that the same is said.
const EVERY: Duration = Duration::from_secs(60);

/// Counts what happens, and tells when to say so.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    said: Option<Instant>,
    times: u64,
}

impl Seldom {
    /// It has happened. Where it is to be said now: how often it has since it was said last, this time included.
    pub(crate) fn happened(&self) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.times += 1;
        if state.said.is_some_and(|said| said.elapsed() < EVERY) {
            return None;
        }
        state.said = Some(Instant::now());
        Some(std::mem::take(&mut state.times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_happens_often_is_said_once_a_minute_with_how_often_it_did() {
        let seldom = Seldom::default();
        assert_eq!([seldom.happened(), seldom.happened(), seldom.happened()], [Some(1), None, None]);
        tokio::time::advance(EVERY).await;
        assert_eq!([seldom.happened(), seldom.happened()], [Some(3), None]);
    }
}
