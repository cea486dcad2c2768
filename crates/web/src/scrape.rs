//! `/metrics`: what is counted elsewhere, read and written down at the moment somebody asks.

use std::fmt;
use std::sync::atomic::Ordering;

use callahead_listeners::Counters;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::State;

/// Everything as OpenMetrics text.
pub(crate) fn encode(state: State) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("callahead");
    registry.register_collector(Box::new(Scrape(state)));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

#[derive(Debug)]
struct Scrape(State);

type Labels<'a> = Vec<(&'static str, &'a str)>;

/// Metric families, one after another.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn family<'l>(
        &mut self,
        (name, help, kind): (&str, &str, MetricType),
        values: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in values {
            let mut metric: MetricEncoder<'_> = family.encode_family(&labels)?;
            match kind {
                MetricType::Counter => metric.encode_counter::<NoLabelSet, _, f64>(&value, None)?,
                _ => metric.encode_gauge(&value)?,
            }
        }
        Ok(())
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.process(&mut page)?;
        self.decisions(&mut page)?;
        self.engine(&mut page)?;
        self.callouts(&mut page)?;
        self.cache(&mut page)?;
        self.log(&mut page)?;
        self.listeners(&mut page)
    }
}

impl Scrape {
    fn process(&self, page: &mut Page<'_>) -> fmt::Result {
        let readiness = &self.0.readiness;
        page.family(
            ("build_info", "The version that runs", MetricType::Gauge),
            [(vec![("version", env!("CARGO_PKG_VERSION"))], 1)],
        )?;
        page.gauge("start_time_seconds", "When the process began, in seconds since 1970", readiness.began_at())?;
        page.gauge(
            "ready",
            "Whether /readyz says so, the cache's health aside",
            u64::from(readiness.reasons().is_empty()),
        )?;
        page.gauge(
            "config_last_reload_success",
            "Whether the configuration in force is the one on disk as it was last read",
            u64::from(readiness.reload_error().is_none()),
        )?;
        page.gauge(
            "config_last_reload_seconds",
            "When the configuration was last read again, in seconds since 1970; 0 before",
            readiness.reloaded_at(),
        )
    }

    fn decisions(&self, page: &mut Page<'_>) -> fmt::Result {
        let metrics = &self.0.metrics;
        let rows: Vec<_> = metrics.decisions().map(|decided| (decided.row.to_string(), decided)).collect();
        page.family(
            ("decisions", "Questions decided, by row of the decision table", MetricType::Counter),
            rows.iter().map(|(row, decided)| {
                let labels = vec![
                    ("listener", decided.listener.as_str()),
                    ("verdict", decided.verdict.map_or("none", |verdict| verdict.as_str())),
                    ("row", row.as_str()),
                    ("source", decided.source.as_str()),
                ];
                (labels, decided.count)
            }),
        )?;
        let help = "How long questions took";
        let mut family =
            page.0.encode_descriptor("decision_duration", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (source, histogram) in metrics.durations() {
            let (sum, count, buckets) = histogram.read();
            let labels = vec![("source", source.as_str())];
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        page.family(
            ("alerts", "Things about a destination that an administrator should know", MetricType::Counter),
            metrics.alerts().map(|(kind, count)| (vec![("kind", kind.as_str())], count)),
        )
    }

    fn engine(&self, page: &mut Page<'_>) -> fmt::Result {
        let stats = self.0.engine.stats();
        page.counter(
            "flights",
            "Flights that questions started; some are told by the random local part of another",
            stats.flights,
        )?;
        page.counter("flights_joined", "Questions that waited for a callout under way", stats.joined)?;
        page.gauge("flights_under_way", "Callouts under way or being kept", stats.under_way as u64)?;
        page.counter("refreshes", "Callouts in the background for what is past its soft age", stats.refreshes)?;
        page.counter("harvest_deferrals", "Questions deferred because their client guesses recipients", stats.guesses)?;
        page.counter(
            "puts_superseded",
            "Records not kept because of a clear in between or because something newer was there",
            stats.superseded,
        )?;
        page.gauge("hold_downs", "Recipients not asked for again yet after a 4xx", stats.held_down as u64)
    }

    fn callouts(&self, page: &mut Page<'_>) -> fmt::Result {
        let Some(callouts) = &self.0.callouts else { return Ok(()) };
        let (totals, hosts) = (callouts.totals(), callouts.destinations());
        page.counter("callouts", "Callouts begun", totals.questions)?;
        page.counter("callouts_busy", "Callouts not made because too many waited", totals.busy)?;
        let sum = |of: fn(&callahead_callout::DestinationStatus) -> u64| hosts.iter().map(of).sum::<u64>();
        page.counter(
            "destination_connections",
            "Connections made to the destinations that are remembered",
            sum(|host| host.connections),
        )?;
        page.counter(
            "destination_failures",
            "Times that a remembered destination could not be asked",
            sum(|host| host.failures),
        )?;
        let idle = sum(|host| host.idle as u64);
        page.family(
            ("sessions", "Sessions to destinations", MetricType::Gauge),
            [(vec![("state", "busy")], totals.sessions.saturating_sub(idle)), (vec![("state", "idle")], idle)],
        )?;
        page.gauge("callouts_waiting", "Callouts that wait for a session", sum(|host| host.waiting as u64))?;
        page.gauge("destinations", "Hosts that are remembered", hosts.len() as u64)?;
        page.gauge(
            "breakers_open",
            "Hosts that are left alone for a while after failures",
            sum(|host| u64::from(host.open_for.is_some())),
        )
    }

    fn cache(&self, page: &mut Page<'_>) -> fmt::Result {
        let cache = self.0.engine.cache();
        // Without numbers rather than without metrics: /readyz tells of a cache that can't be read.
        if let Ok(stats) = cache.stats(None) {
            page.family(
                ("cache_entries", "What is kept, expired entries that are not swept yet included", MetricType::Gauge),
                [
                    (vec![("kind", "valid")], stats.valid),
                    (vec![("kind", "invalid")], stats.invalid),
                    (vec![("kind", "domain")], stats.domains),
                ],
            )?;
            page.gauge("cache_file_bytes", "The cache file's size", stats.file_bytes)?;
            page.gauge("cache_used_bytes", "Of them, in use", stats.used_bytes)?;
        }
        let health = cache.health();
        page.counter("cache_write_errors", "Commits that failed", health.failed_commits)?;
        page.counter("cache_puts_dropped", "Entries not kept because the writer's queue was full", health.dropped)?;
        page.counter("cache_unreadable", "Entries that could not be read", health.unreadable)?;
        page.gauge(
            "cache_failing",
            "Whether the last write or the last lookup of the cache failed; answers go on by callouts",
            u64::from(health.write_error.is_some() || health.read_error.is_some()),
        )?;
        page.gauge(
            "cache_damaged",
            "Whether the cache file was found damaged; the next start begins with an empty cache",
            u64::from(health.damaged),
        )?;
        page.gauge(
            "cache_begun_anew",
            "Whether the cache file was damaged when the process began, so that the cache began empty",
            u64::from(cache.opened().replaced),
        )
    }

    fn log(&self, page: &mut Page<'_>) -> fmt::Result {
        let log = self.0.administration.log.counters();
        page.counter("log_written", "Decisions written to the decision log", log.written)?;
        page.counter(
            "log_lost",
            "Decisions not logged because they came faster than log.rate, the disk was full or slow, or there was no file",
            log.lost,
        )?;
        page.counter(
            "log_removed",
            "Decisions removed from the log because they were too old or too many",
            log.removed,
        )?;
        page.gauge("log_waiting", "Decisions that wait to be written to the log", log.waiting)?;
        page.gauge("log_used_bytes", "The decision log's size", log.used_bytes)?;
        page.gauge(
            "log_failing",
            "Whether the decision log can't be opened or written; decisions go on, and are lost to it",
            u64::from(log.write_error.is_some()),
        )?;
        page.gauge(
            "log_begun_anew",
            "Whether the decision log's file was found to be damaged since the process began, so that the log began empty",
            u64::from(log.begun_anew),
        )
    }

    fn listeners(&self, page: &mut Page<'_>) -> fmt::Result {
        let listeners = &self.0.listeners;
        let mut of = |name, help, kind, value: fn(&Counters) -> u64| {
            page.family(
                (name, help, kind),
                listeners.iter().map(|listener| {
                    let labels = vec![("listener", listener.name), ("at", listener.at.as_str())];
                    (labels, value(&listener.counters))
                }),
            )
        };
        use MetricType::{Counter, Gauge};
        of("listener_open", "Connections that are open", Gauge, |of| of.open.load(Ordering::Relaxed))?;
        of("listener_accepted", "Connections accepted", Counter, |of| of.accepted.load(Ordering::Relaxed))?;
        of("listener_refused", "Connections closed because too many were open", Counter, |of| {
            of.refused.load(Ordering::Relaxed)
        })?;
        of("listener_malformed", "Connections closed because what came was no request", Counter, |of| {
            of.malformed.load(Ordering::Relaxed)
        })?;
        of("listener_timed_out", "Connections closed because nothing came in time", Counter, |of| {
            of.timed_out.load(Ordering::Relaxed)
        })?;
        of("listener_requests", "Requests answered", Counter, |of| of.requests.load(Ordering::Relaxed))?;
        let gateways = || listeners.iter().filter(|listener| listener.name == "gateway");
        let mut of_gateways = |name, help, value: fn(&Counters) -> u64| {
            page.family(
                (name, help, Counter),
                gateways().map(|listener| (vec![("at", listener.at.as_str())], value(&listener.counters))),
            )
        };
        of_gateways("gateway_messages_relayed", "Messages that a recipients' server accepted", |of| {
            of.messages_relayed.load(Ordering::Relaxed)
        })?;
        of_gateways("gateway_messages_refused", "Messages that were begun and not accepted", |of| {
            of.messages_refused.load(Ordering::Relaxed)
        })
    }
}
