//! The circuit breaker of a host: after failures in a row it is left alone for a while, then asked by one question at a time.

use std::time::Duration;

use tokio::time::Instant;

use crate::settings::Settings;

/// Closed while all is well; open until a moment; half-open when that has come.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    failures: u32,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    until: Instant,
    pause: Duration,
    /// Somebody is asking it to see whether it is back.
    probing: bool,
}

impl Breaker {
    /// Whether the host may be asked now; else in how long. `Ok(true)` makes the caller the one who sees whether it is back:
    /// it has to call [`succeeded`](Self::succeeded), [`failed`](Self::failed) or [`released`](Self::released).
    pub(crate) fn ask(&mut self, now: Instant) -> Result<bool, Duration> {
        match &mut self.open {
            None => Ok(false),
            Some(open) if open.probing || now < open.until => Err(open.until.saturating_duration_since(now)),
            Some(open) => {
                open.probing = true;
                Ok(true)
            }
        }
    }

    pub(crate) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// A session could not be opened, or failed at its first question.
    pub(crate) fn failed(&mut self, was_probing: bool, now: Instant, settings: &Settings) {
        self.failures += 1;
        match &mut self.open {
            Some(open) if was_probing => {
                open.pause = (open.pause * 2).min(settings.breaker_longest);
                open.until = now + open.pause;
                open.probing = false;
            }
            // Questions that were under way when it opened.
            Some(_) => {}
            None if self.failures >= settings.breaker_failures => {
                let pause = settings.breaker_first;
                self.open = Some(Open { until: now + pause, pause, probing: false });
            }
            None => {}
        }
    }

    /// The one who was to see whether it is back did not find out.
    pub(crate) fn released(&mut self) {
        if let Some(open) = &mut self.open {
            open.probing = false;
        }
    }

    /// How long it is still left alone; `None` when it is not.
    pub(crate) fn open_for(&self, now: Instant) -> Option<Duration> {
        self.open.as_ref().map(|open| open.until.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use callahead_smtp::Domain;

    #[tokio::test(start_paused = true)]
    async fn three_failures_open_it_and_the_pause_doubles_up_to_five_minutes() -> Result<(), Box<dyn std::error::Error>>
    {
        let settings = Settings::new(Domain::parse("node.example")?);
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            assert_eq!(breaker.ask(Instant::now()), Ok(false));
            breaker.failed(false, Instant::now(), &settings);
        }
        let mut pauses = Vec::new();
        for _ in 0..11 {
            let pause = breaker.ask(Instant::now()).err().ok_or("it is closed")?;
            pauses.push(pause.as_secs());
            tokio::time::advance(pause).await;
            assert_eq!(breaker.ask(Instant::now()), Ok(true));
            assert!(breaker.ask(Instant::now()).is_err(), "one at a time");
            breaker.failed(true, Instant::now(), &settings);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        breaker.succeeded();
        assert_eq!(breaker.ask(Instant::now()), Ok(false));
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn questions_that_were_under_way_when_it_opened_make_it_no_longer() -> Result<(), Box<dyn std::error::Error>>
    {
        let settings = Settings::new(Domain::parse("node.example")?);
        let mut breaker = Breaker::default();
        for _ in 0..10 {
            breaker.failed(false, Instant::now(), &settings);
        }
        assert_eq!(breaker.open_for(Instant::now()), Some(settings.breaker_first));
        tokio::time::advance(settings.breaker_first).await;
        assert_eq!(breaker.ask(Instant::now()), Ok(true));
        breaker.failed(false, Instant::now(), &settings);
        assert!(breaker.ask(Instant::now()).is_err(), "somebody is asking already");
        breaker.released();
        assert_eq!(breaker.ask(Instant::now()), Ok(true));
        Ok(())
    }
}
