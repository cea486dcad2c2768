//! The decision log: what is searched is found, what is too old or too much goes, what can't be written is counted.
#![allow(clippy::unwrap_used, missing_docs)]

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use callahead_cache::{StoredReply, Timestamp};
use callahead_callout::{Hop, Route, TlsPolicy};
use callahead_control::{DecisionLog, LogFilter, LogPage, LogSettings, LoggedRecipients};
use callahead_engine::{
    Action, Answer, Clock as _, Decision, Directory, DomainConfig, Listener, Observer as _, Policy, Question, Source,
    TestClock, Verdict,
};
use tempfile::TempDir;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

struct Bench {
    dir: TempDir,
    clock: Arc<TestClock>,
    log: DecisionLog,
}

impl Bench {
    fn new(settings: LogSettings) -> Self {
        let dir = TempDir::new().unwrap();
        let clock = Arc::new(TestClock::at(NOW));
        let log = DecisionLog::open(&dir.path().join("log.db"), settings, clock.clone()).unwrap();
        Self { dir, clock, log }
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("log.db")
    }

    fn decide(&self, recipient: &str, verdict: Verdict, client: &str, sender: &str) {
        let question = Question {
            client: client.parse().ok(),
            sender: Some(sender),
            ..Question::new(recipient.as_bytes(), Listener::Policy)
        };
        self.log.decided(&question, &Decision { at: self.clock.now(), ..decision(recipient, verdict) });
    }

    /// Until everything is written or lost.
    fn settle(&self) {
        until(|| self.log.counters().waiting == 0);
    }

    async fn find(&self, filter: LogFilter) -> Vec<String> {
        let (mut found, mut cursor) = (Vec::new(), None);
        // A page may be short where the machine is busy.
        while found.len() < 100 {
            let page = self.log.search(filter.clone(), |_, _| true, cursor, 100 - found.len()).await.unwrap();
            found.extend(recipients(&page));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        found
    }
}

/// The writer has a thread of its own, which no simulated time moves.
fn until(mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "it never came to that");
        std::thread::yield_now();
    }
}

fn recipients(page: &LogPage) -> Vec<String> {
    page.rows.iter().map(|row| row.recipient.clone()).collect()
}

fn decision(recipient: &str, verdict: Verdict) -> Decision {
    Decision {
        recipient: recipient.into(),
        verdict: Some(verdict),
        accept_all: false,
        row: 11,
        reason: Cow::Borrowed("the destination refuses the recipient"),
        source: Source::Callout,
        answer: Answer {
            action: Action::Reject,
            code: Some(550),
            enhanced: None,
            text: Cow::Borrowed("no such mailbox"),
        },
        would: None,
        destination: Some("mail.example.net:25".into()),
        reply: Some(StoredReply { code: 550, enhanced: None, text: format!("<{recipient}> unknown") }),
        checked_at: Some(NOW),
        expires_at: None,
        at: NOW,
        elapsed: Duration::from_micros(12_300),
        transcript: None,
    }
}

#[tokio::test]
async fn what_is_searched_is_found() {
    let bench = Bench::new(LogSettings::default());
    bench.decide("anna@one.example", Verdict::Valid, "192.0.2.1", "news@sender.example");
    bench.clock.advance(Duration::from_secs(60));
    bench.decide("ben@one.example", Verdict::Invalid, "192.0.2.2", "spam@sender.example");
    bench.clock.advance(Duration::from_secs(60));
    bench.decide("Anna@two.example", Verdict::Invalid, "::ffff:192.0.2.1", "");
    bench.settle();
    let all = LogFilter::default;
    let of = |text: &str| Some(text.to_owned());
    let minute = |n: u64| Some(Timestamp(NOW.0 + n * 60_000));
    for (filter, found) in [
        (all(), vec!["Anna@two.example", "ben@one.example", "anna@one.example"]),
        (LogFilter { domain: of("one.example"), ..all() }, vec!["ben@one.example", "anna@one.example"]),
        (LogFilter { recipient: of("ben@one.example"), ..all() }, vec!["ben@one.example"]),
        (LogFilter { part: of("aNNa"), ..all() }, vec!["Anna@two.example", "anna@one.example"]),
        (LogFilter { part: of("@two"), ..all() }, vec!["Anna@two.example"]),
        (LogFilter { sender: of("SPAM@"), ..all() }, vec!["ben@one.example"]),
        (LogFilter { client: "192.0.2.1".parse().ok(), ..all() }, vec!["Anna@two.example", "anna@one.example"]),
        (LogFilter { verdict: of("invalid"), ..all() }, vec!["Anna@two.example", "ben@one.example"]),
        (LogFilter { since: minute(1), until: minute(2), ..all() }, vec!["ben@one.example"]),
        (
            LogFilter { domain: of("one.example"), verdict: of("valid"), client: "192.0.2.1".parse().ok(), ..all() },
            vec!["anna@one.example"],
        ),
        (LogFilter { domain: of("none.example"), ..all() }, vec![]),
    ] {
        assert_eq!(bench.find(filter.clone()).await, found, "{filter:?}");
    }
    let page = bench.log.search(all(), |domain, _| domain == "two.example", None, 10).await.unwrap();
    assert_eq!(recipients(&page), ["Anna@two.example"], "nobody sees others' domains");
    let logged: serde_json::Value = serde_json::from_str(&page.rows[0].decision).unwrap();
    let shown: serde_json::Value = serde_json::to_value(decision("Anna@two.example", Verdict::Invalid)).unwrap();
    assert_eq!(logged, shown, "a verdict in the log is the verdict of the API");
}

#[tokio::test]
async fn pages_follow_each_other_without_gap_or_overlap_while_more_comes() {
    let bench = Bench::new(LogSettings::default());
    for n in 0..25 {
        bench.decide(&format!("u{n}@one.example"), Verdict::Valid, "", "");
    }
    bench.settle();
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let page = bench.log.search(LogFilter::default(), |_, _| true, cursor, 7).await.unwrap();
        seen.extend(recipients(&page));
        bench.decide("late@one.example", Verdict::Valid, "", "");
        bench.settle();
        match page.next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    let all: Vec<String> = (0..25).rev().map(|n| format!("u{n}@one.example")).collect();
    assert_eq!(seen, all);
}

#[tokio::test]
async fn what_is_older_than_its_days_goes() {
    let bench = Bench::new(LogSettings { days: 30, ..LogSettings::default() });
    bench.decide("old@one.example", Verdict::Valid, "", "");
    bench.settle();
    bench.clock.advance(Duration::from_secs(31 * 86_400));
    bench.decide("new@one.example", Verdict::Valid, "", "");
    until(|| bench.log.counters().removed == 1);
    assert_eq!(bench.find(LogFilter::default()).await, ["new@one.example"]);
}

#[tokio::test]
async fn the_file_stays_within_its_size_and_keeps_the_newest() {
    let size = 2 << 20;
    let bench = Bench::new(LogSettings { size, rate: u32::MAX, ..LogSettings::default() });
    let mut most = 0;
    for n in 0..20_000 {
        bench.decide(&format!("user{n}@one.example"), Verdict::Invalid, "192.0.2.1", "sender@sender.example");
        if n % 2_000 == 0 {
            bench.settle();
            most = most.max(std::fs::metadata(bench.path()).unwrap().len());
        }
    }
    bench.settle();
    until(|| bench.log.counters().used_bytes <= size);
    most = most.max(std::fs::metadata(bench.path()).unwrap().len());
    let counters = bench.log.counters();
    assert!(counters.lost == 0 && counters.removed > 0, "{counters:?}");
    assert!(most <= 2 * size, "the file had {most} bytes");
    let page = bench.log.search(LogFilter::default(), |_, _| true, None, 1).await.unwrap();
    assert_eq!(recipients(&page), ["user19999@one.example"]);
}

#[tokio::test]
async fn a_log_that_can_not_be_written_loses_counted_entries_and_nothing_waits_for_it() {
    let bench = Bench::new(LogSettings::default());
    bench.settle();
    // A table that is gone fails each write, as a full disk does.
    break_table(&bench.path());
    for n in 0..100 {
        bench.decide(&format!("u{n}@one.example"), Verdict::Valid, "", "");
    }
    bench.settle();
    let counters = bench.log.counters();
    assert_eq!((counters.written, counters.lost), (0, 100));
    assert!(counters.write_error.unwrap().contains("no such table"));
}

fn break_table(path: &Path) {
    rusqlite::Connection::open(path).unwrap().execute_batch("ALTER TABLE decisions RENAME TO gone").unwrap();
}

fn open(path: &Path, clock: &Arc<TestClock>) -> DecisionLog {
    DecisionLog::open(path, LogSettings::default(), clock.clone()).unwrap()
}

fn decide(log: &DecisionLog, recipient: &str) {
    log.decided(&Question::new(b"u@one.example", Listener::Policy), &decision(recipient, Verdict::Valid));
}

#[tokio::test]
async fn a_damaged_file_is_moved_aside_and_the_log_begins_anew() {
    let dir = TempDir::new().unwrap();
    let (path, clock) = (dir.path().join("log.db"), Arc::new(TestClock::at(NOW)));
    let garbage = vec![b'x'; 60_000];
    std::fs::write(&path, &garbage).unwrap();
    let log = open(&path, &clock);
    decide(&log, "first@one.example");
    until(|| log.counters().waiting == 0);
    let counters = log.counters();
    assert!(counters.begun_anew && counters.written == 1 && counters.write_error.is_none(), "{counters:?}");
    assert_eq!(std::fs::read(dir.path().join("log.db.damaged")).unwrap(), garbage);
    drop(log);
    let log = open(&path, &clock);
    let found = log.search(LogFilter::default(), |_, _| true, None, 10).await.unwrap();
    assert_eq!((recipients(&found), log.counters().begun_anew), (vec!["first@one.example".to_owned()], false));
}

#[tokio::test]
async fn a_file_that_is_damaged_while_it_is_written_makes_room_for_a_new_one() {
    let bench = Bench::new(LogSettings::default());
    for n in 0..10_000 {
        bench.decide(&format!("user{n}@one.example"), Verdict::Valid, "", "");
    }
    bench.settle();
    assert_eq!(bench.find(LogFilter::default()).await.len(), 100, "somebody searches it too");
    let checkpoint = rusqlite::Connection::open(bench.path()).unwrap();
    checkpoint.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(checkpoint);
    // All but the first page, which holds the schema.
    let mut file = std::fs::read(bench.path()).unwrap();
    file[4096..].fill(b'x');
    std::fs::write(bench.path(), file).unwrap();
    let mut n = 10_000;
    until(|| {
        n += 1;
        bench.decide(&format!("user{n}@d{n}.example"), Verdict::Valid, "", "");
        bench.log.counters().begun_anew
    });
    bench.settle();
    let before = bench.log.counters();
    assert!(before.lost > 0, "{before:?}");
    bench.decide("after@one.example", Verdict::Valid, "", "");
    bench.settle();
    assert_eq!(bench.log.counters().written, before.written + 1);
    assert_eq!(bench.find(LogFilter::default()).await[0], "after@one.example", "searches go to the new file");
}

#[tokio::test]
async fn without_a_file_what_is_decided_is_lost_and_counted_until_there_is_one() {
    let dir = TempDir::new().unwrap();
    let (path, clock) = (dir.path().join("log.db"), Arc::new(TestClock::at(NOW)));
    std::fs::create_dir(&path).unwrap();
    let log = open(&path, &clock);
    decide(&log, "first@one.example");
    until(|| log.counters().waiting == 0);
    let counters = log.counters();
    assert_eq!((counters.written, counters.lost), (0, 1));
    assert!(counters.write_error.unwrap().contains("log.db can't be opened"));
    assert!(log.search(LogFilter::default(), |_, _| true, None, 10).await.is_err());
    std::fs::remove_dir(&path).unwrap();
    clock.advance(Duration::from_secs(10));
    until(|| log.counters().write_error.is_none());
    decide(&log, "second@one.example");
    until(|| log.counters().written == 1);
    let found = log.search(LogFilter::default(), |_, _| true, None, 10).await.unwrap();
    assert_eq!(recipients(&found), ["second@one.example"]);
}

#[tokio::test]
async fn the_file_of_a_newer_version_is_left_as_it_is() {
    let dir = TempDir::new().unwrap();
    let (path, clock) = (dir.path().join("log.db"), Arc::new(TestClock::at(NOW)));
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 1000).unwrap();
    let log = open(&path, &clock);
    decide(&log, "first@one.example");
    until(|| log.counters().lost == 1);
    let counters = log.counters();
    assert!(!counters.begun_anew && counters.write_error.unwrap().contains("newer version"));
}

#[tokio::test]
async fn a_queue_that_is_full_loses_entries_at_once() {
    let bench = Bench::new(LogSettings { rate: u32::MAX, ..LogSettings::default() });
    let blocker = rusqlite::Connection::open(bench.path()).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    // Two times what the queue holds, while the file is locked.
    let began = Instant::now();
    for _ in 0..140_000 {
        bench.decide("u@one.example", Verdict::Valid, "", "");
    }
    assert!(bench.log.counters().lost > 0, "{:?} after {:?}", bench.log.counters(), began.elapsed());
    blocker.execute_batch("COMMIT").unwrap();
    bench.settle();
    let counters = bench.log.counters();
    assert_eq!(counters.written + counters.lost, 140_000, "each is written or counted");
}

#[tokio::test]
async fn no_more_is_written_in_a_second_than_its_rate_and_what_waits_is_written_at_the_end() {
    let began = Instant::now();
    let bench = Bench::new(LogSettings { rate: 400, ..LogSettings::default() });
    for _ in 0..5_000 {
        bench.decide("u@one.example", Verdict::Valid, "", "");
    }
    until(|| bench.log.counters().written >= 300);
    let written = bench.log.counters().written;
    // A hundred after each quarter of a second.
    let quarters = u64::try_from(began.elapsed().as_millis()).unwrap() / 250;
    assert!(written <= 100 * quarters, "{written} in {:?}", began.elapsed());
    let Bench { dir, log, .. } = bench;
    drop(log);
    assert!(began.elapsed() < Duration::from_secs(10), "it does not take its time when it ends");
    let file = rusqlite::Connection::open(dir.path().join("log.db")).unwrap();
    let found: i64 = file.query_row("SELECT count(*) FROM decisions", [], |row| row.get(0)).unwrap();
    assert_eq!(found, 5_000);
}

#[tokio::test]
async fn what_names_a_mailbox_can_be_left_out_and_days_0_logs_nothing() {
    let bench = Bench::new(LogSettings { recipients: LoggedRecipients::Domain, ..LogSettings::default() });
    bench.decide("anna@one.example", Verdict::Invalid, "192.0.2.1", "x@sender.example");
    bench.settle();
    let page = bench.log.search(LogFilter::default(), |_, _| true, None, 1).await.unwrap();
    assert_eq!(page.rows[0].recipient, "*@one.example");
    assert!(!page.rows[0].decision.contains("anna"), "{}", page.rows[0].decision);
    bench.log.set_settings(LogSettings { days: 0, ..LogSettings::default() });
    bench.decide("ben@one.example", Verdict::Valid, "", "");
    bench.settle();
    assert_eq!(bench.log.counters().written, 1);
}

#[tokio::test]
async fn a_domain_that_wants_less_logged_has_less_logged() {
    let bench = Bench::new(LogSettings::default());
    let domains = [
        domain("*.one.example", 30, LoggedRecipients::Domain),
        domain("open.one.example", 30, LoggedRecipients::Full),
        domain("silent.example", 0, LoggedRecipients::Full),
    ];
    bench.log.set_domains(Arc::new(Directory::new(domains).unwrap()));
    for recipient in ["a@sub.one.example", "b@open.one.example", "c@silent.example", "d@foreign.example"] {
        bench.decide(recipient, Verdict::Invalid, "192.0.2.1", "x@sender.example");
    }
    bench.settle();
    let found = bench.find(LogFilter::default()).await;
    assert_eq!(found, ["d@foreign.example", "b@open.one.example", "*@sub.one.example"]);
    let counters = bench.log.counters();
    assert_eq!((counters.written, counters.lost), (3, 0), "what a domain wants none of is no loss");
    bench.log.set_settings(LogSettings { recipients: LoggedRecipients::Domain, ..LogSettings::default() });
    bench.decide("e@open.one.example", Verdict::Invalid, "", "");
    bench.settle();
    assert_eq!(bench.find(LogFilter::default()).await[0], "*@open.one.example", "the node's own setting is the bound");
}

#[tokio::test]
async fn what_is_older_than_its_domains_days_goes_and_the_rest_stays() {
    let bench = Bench::new(LogSettings { days: 30, ..LogSettings::default() });
    // More domains than one step of the sweep looks at, and more rows of one than it removes.
    for n in 0..1_200 {
        bench.decide(&format!("u@d{n:04}.example"), Verdict::Valid, "", "");
    }
    for n in 0..5_000 {
        bench.decide(&format!("u{n}@sub.week.example"), Verdict::Valid, "", "");
    }
    bench.decide("old@long.example", Verdict::Valid, "", "");
    bench.settle();
    bench.clock.advance(Duration::from_secs(8 * 86_400));
    bench.decide("new@sub.week.example", Verdict::Valid, "", "");
    bench.settle();
    let domains = [
        domain("*.week.example", 7, LoggedRecipients::Full),
        domain("d0700.example", 7, LoggedRecipients::Full),
        domain("long.example", 90, LoggedRecipients::Full),
    ];
    bench.log.set_domains(Arc::new(Directory::new(domains).unwrap()));
    bench.clock.advance(Duration::from_secs(61));
    until(|| bench.log.counters().removed == 5_001);
    let of = |text: &str| LogFilter { domain: Some(text.to_owned()), ..LogFilter::default() };
    assert_eq!(bench.find(of("sub.week.example")).await, ["new@sub.week.example"]);
    assert!(bench.find(of("d0700.example")).await.is_empty());
    assert_eq!(bench.find(of("d0701.example")).await.len(), 1);
    assert_eq!(bench.find(of("long.example")).await.len(), 1);
    // With other policies the log is looked through again; and what grows too old under these goes when it does, wherever it is by then.
    let domains =
        [domain("d0701.example", 7, LoggedRecipients::Full), domain("*.week.example", 9, LoggedRecipients::Full)];
    bench.log.set_domains(Arc::new(Directory::new(domains).unwrap()));
    bench.clock.advance(Duration::from_secs(61));
    until(|| bench.log.counters().removed == 5_002);
    for n in 0..1_000 {
        bench.decide(&format!("u{n}@other.example"), Verdict::Valid, "", "");
    }
    bench.settle();
    bench.clock.advance(Duration::from_secs(86_400));
    bench.decide("newer@sub.week.example", Verdict::Valid, "", "");
    bench.settle();
    bench.clock.advance(Duration::from_secs(8 * 86_400));
    until(|| bench.log.counters().removed == 5_003);
    assert_eq!(bench.find(of("sub.week.example")).await, ["newer@sub.week.example"]);
    bench.clock.advance(Duration::from_secs(14 * 86_400));
    until(|| bench.log.counters().removed == 5_004 + 1_199);
    assert_eq!(bench.find(LogFilter::default()).await.len(), 100, "the thousand others are there");
}

fn domain(name: &str, log_days: u32, log_recipients: LoggedRecipients) -> DomainConfig {
    let policy = Policy { log_days, log_recipients, ..Policy::default() };
    DomainConfig { policy, ..DomainConfig::new(name, Route { hops: vec![Hop::Mx], tls: TlsPolicy::Off }) }
}

#[tokio::test]
async fn everything_that_waits_is_written_when_the_log_is_closed() {
    let Bench { dir, clock, log } = Bench::new(LogSettings::default());
    for n in 0..500 {
        let question = Question::new(b"u@one.example", Listener::Policy);
        log.decided(&question, &decision(&format!("u{n}@one.example"), Verdict::Valid));
    }
    drop(log);
    assert!(clock.now() == NOW);
    let log = DecisionLog::open(&dir.path().join("log.db"), LogSettings::default(), clock).unwrap();
    let page = log.search(LogFilter::default(), |_, _| true, None, 1000).await.unwrap();
    assert_eq!(page.rows.len(), 500);
}
