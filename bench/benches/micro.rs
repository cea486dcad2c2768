//! Micro-benchmarks of what a question goes through: `cargo bench -p callahead-bench`.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use callahead_cache::{Cache, DomainState, Epoch, Options, RecipientState, Record, StoredReply, Timestamp};
use callahead_callout::{
    Ask, Callouts, DnsResolver, Route, Settings as CalloutSettings, TcpDialer, TlsClient, TlsPolicy,
};
use callahead_engine::{
    Alert, Clock as _, Decision, Directory, DomainConfig, Engine, Listener, Observer, Parts, Question, Settings,
    SystemClock,
};
use callahead_smtp::{Domain, Recipient, ReplyReader};
use criterion::{Criterion, criterion_group, criterion_main};

const ENTRIES: u64 = 10_000;

fn record<S>(state: S, now: Timestamp, code: u16, text: &str) -> Record<S> {
    Record {
        state,
        checked_at: now,
        expires_at: now.after(Duration::from_secs(7200)),
        destination: "127.0.0.1:25".into(),
        reply: Some(StoredReply { code, enhanced: None, text: text.into() }),
    }
}

fn recipient(number: u64) -> Recipient {
    format!("u{number}@bench.example").parse().unwrap()
}

fn filled(dir: &std::path::Path, runtime: &tokio::runtime::Runtime) -> Cache {
    let now = SystemClock::new().now();
    let cache = Cache::open(dir, &Options::default(), now).unwrap();
    let domain = Domain::parse("bench.example").unwrap();
    drop(cache.put_domain(&domain, record(DomainState::NotAcceptAll, now, 550, "User unknown"), Epoch::default()));
    for number in 0..ENTRIES {
        let record = if number % 2 == 0 {
            record(RecipientState::Valid, now, 250, "Ok")
        } else {
            record(RecipientState::Invalid, now, 550, "User unknown in local recipient table")
        };
        drop(cache.put_recipient(&recipient(number), record, Epoch::default()));
    }
    runtime.block_on(cache.flush()).unwrap();
    cache
}

struct Nobody;

impl Observer for Nobody {
    fn decided(&self, _: &Question<'_>, _: &Decision) {}
    fn alert(&self, _: &Alert) {}
}

fn engine(cache: Cache) -> Engine {
    let route = Route { hops: vec!["127.0.0.1:9".parse().unwrap()], tls: TlsPolicy::Off };
    let resolver = DnsResolver::new(&["127.0.0.1:9".parse().unwrap()]).unwrap();
    let settings = CalloutSettings::new(Domain::parse("filter.example").unwrap());
    let callouts: Arc<dyn Ask> = Arc::new(Callouts::new(settings, TcpDialer, resolver, TlsClient::new(&[]).unwrap()));
    Engine::new(Parts {
        cache,
        callouts,
        clock: Arc::new(SystemClock::new()),
        directory: Directory::new([DomainConfig::new("bench.example", route)]).unwrap(),
        settings: Settings::default(),
        observer: Arc::new(Nobody),
    })
}

fn parsing(c: &mut Criterion) {
    c.bench_function("address: parse", |b| b.iter(|| Recipient::parse(black_box(b"some.body@bench.example")).unwrap()));
    let reply = b"250-mail.example\r\n250-PIPELINING\r\n250-SIZE 10240000\r\n250 ENHANCEDSTATUSCODES\r\n";
    c.bench_function("reply reader: EHLO's four lines", |b| {
        b.iter(|| {
            let mut reader = ReplyReader::new(callahead_smtp::ReplyLimits::default());
            reader.push(black_box(reply));
            reader.next_reply().unwrap().unwrap()
        });
    });
}

fn caching(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let cache = filled(dir.path(), &runtime);
    let recipients: Vec<Recipient> = (0..ENTRIES).map(recipient).collect();
    let mut at = 0;
    c.bench_function("cache: lookup", |b| {
        b.iter(|| {
            at = (at + 7919) % recipients.len();
            cache.lookup(black_box(&recipients[at])).unwrap()
        });
    });
    let now = SystemClock::new().now();
    c.bench_function("cache: a hundred puts and their commit", |b| {
        b.iter(|| {
            for recipient in &recipients[..100] {
                drop(cache.put_recipient(recipient, record(RecipientState::Valid, now, 250, "Ok"), Epoch::default()));
            }
            runtime.block_on(cache.flush()).unwrap();
        });
    });
}

fn deciding(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _entered = runtime.enter();
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(filled(dir.path(), &runtime));
    for (name, address) in [("engine: a valid hit", "u2@bench.example"), ("engine: an invalid hit", "u3@bench.example")]
    {
        c.bench_function(name, |b| {
            b.iter(|| engine.decide_cached(&Question::new(black_box(address.as_bytes()), Listener::Policy)).unwrap());
        });
    }
}

criterion_group!(micro, parsing, caching, deciding);
criterion_main!(micro);
