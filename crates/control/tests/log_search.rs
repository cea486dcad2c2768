//! Searching a log of many blocks: what is found is what a look at each row finds, whatever came in between.
#![allow(clippy::unwrap_used, missing_docs)]

use std::borrow::Cow;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use callahead_cache::Timestamp;
use callahead_control::{DecisionLog, LogFilter, LogSettings};
use callahead_engine::{
    Action, Answer, Clock as _, Decision, Listener, Observer as _, Question, Source, TestClock, Verdict,
};
use tempfile::TempDir;

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const ROWS: u64 = 6_500;

#[derive(Clone, Debug)]
struct Row {
    at: Timestamp,
    recipient: String,
    client: IpAddr,
    sender: Option<String>,
    verdict: Option<Verdict>,
}

/// Two recipients with the same CRC-32.
const TWINS: [&str; 2] = ["user158179@d1.example", "user12102101@d2.example"];

/// Recipients with more than one @; the first is none.
const ODD: [&str; 2] = ["a@b@odd.example", "\"a@b\"@d2.example"];

/// Common names, and some that are rare; with letters of more octets than one.
fn row(number: u64, at: Timestamp) -> Row {
    let mix = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    let local = match number {
        17 | 3_100 | 6_490 => "Zwicky.\u{c4}rger".to_owned(),
        _ => format!("user{}", mix % 500),
    };
    let client = match number {
        1_234 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7).into(),
        _ => Ipv4Addr::new(192, 0, 2, u8::try_from(mix % 5).unwrap()).into(),
    };
    let domain = if number.is_multiple_of(2_000) { "rare.example".to_owned() } else { format!("d{}.example", mix % 3) };
    let sender = match number {
        n if n.is_multiple_of(5) => None,
        4_242 => Some("xylograph@seldom.example".to_owned()),
        _ => Some(format!("bounce-{mix}@sender.example")),
    };
    let verdict = match number {
        n if n.is_multiple_of(3_000) => None,
        n if n.is_multiple_of(1_500) => Some(Verdict::Unknown),
        n if n.is_multiple_of(4) => Some(Verdict::Invalid),
        _ => Some(Verdict::Valid),
    };
    let recipient = match number {
        2_222 => TWINS[0].to_owned(),
        2_223 => TWINS[1].to_owned(),
        2_500 => ODD[0].to_owned(),
        2_501 => ODD[1].to_owned(),
        5_000 => "no address".to_owned(),
        _ => format!("{local}@{domain}"),
    };
    Row { at, recipient, client, sender, verdict }
}

fn decision(row: &Row) -> Decision {
    Decision {
        recipient: row.recipient.clone(),
        verdict: row.verdict,
        accept_all: false,
        row: 10,
        reason: Cow::Borrowed("-"),
        source: Source::Callout,
        answer: Answer { action: Action::Accept, code: None, enhanced: None, text: Cow::Borrowed("") },
        would: None,
        destination: None,
        reply: None,
        checked_at: None,
        expires_at: None,
        at: row.at,
        elapsed: Duration::ZERO,
        transcript: None,
    }
}

fn open(path: &Path, clock: &Arc<TestClock>) -> DecisionLog {
    DecisionLog::open(path, LogSettings { rate: u32::MAX, ..LogSettings::default() }, clock.clone()).unwrap()
}

fn write(log: &DecisionLog, clock: &TestClock, numbers: std::ops::Range<u64>) -> Vec<Row> {
    let mut rows = Vec::new();
    for number in numbers {
        clock.advance(Duration::from_secs(1));
        let row = row(number, clock.now());
        let question = Question {
            client: Some(row.client),
            sender: row.sender.as_deref(),
            ..Question::new(b"u@one.example", Listener::Policy)
        };
        log.decided(&question, &decision(&row));
        rows.push(row);
    }
    rows
}

/// As the log is to find them: newest first.
fn expected(rows: &[Row], filter: &LogFilter) -> Vec<String> {
    let domain = |row: &Row| row.recipient.rsplit('@').next().unwrap().to_owned();
    let has = |text: &str, part: &Option<String>| {
        part.as_ref().is_none_or(|part| text.to_lowercase().contains(&part.to_lowercase()))
    };
    let fits = |row: &&Row| {
        filter.domain.as_ref().is_none_or(|wanted| *wanted == domain(row))
            && filter.domains.as_ref().is_none_or(|wanted| wanted.contains(&domain(row)))
            && filter.recipient.as_ref().is_none_or(|whole| *whole == row.recipient)
            && has(&row.recipient, &filter.part)
            && filter.client.is_none_or(|wanted| wanted == row.client)
            && has(row.sender.as_deref().unwrap_or_default(), &filter.sender)
            && filter.verdict.as_ref().is_none_or(|wanted| wanted == row.verdict.map_or("none", |v| v.as_str()))
            && filter.since.is_none_or(|since| row.at >= since)
            && filter.until.is_none_or(|until| row.at < until)
    };
    rows.iter().rev().filter(fits).map(|row| row.recipient.clone()).collect()
}

async fn found(log: &DecisionLog, filter: &LogFilter, limit: usize) -> Vec<String> {
    let (mut found, mut cursor) = (Vec::new(), None);
    let seen = filter.domains.clone();
    loop {
        let seen = seen.clone();
        let is_seen = move |domain: &str, _| seen.as_ref().is_none_or(|seen| seen.iter().any(|name| name == domain));
        let page = log.search(filter.clone(), is_seen, cursor, limit).await.unwrap();
        assert!(page.rows.len() <= limit);
        found.extend(page.rows.into_iter().map(|row| row.recipient));
        match page.next {
            Some(next) => cursor = Some(next),
            None => return found,
        }
    }
}

fn filters() -> Vec<LogFilter> {
    let of = |text: &str| Some(text.to_owned());
    let at = |seconds: u64| Some(Timestamp(NOW.0 + seconds * 1000));
    let all = LogFilter::default;
    vec![
        all(),
        LogFilter { part: of("zwick"), ..all() },
        LogFilter { part: of("Y.\u{c4}RG"), ..all() },
        LogFilter { part: of("zw"), ..all() },
        LogFilter { part: of("user7"), ..all() },
        LogFilter { part: of("@rare"), ..all() },
        LogFilter { part: of("R7@d1."), ..all() },
        LogFilter { part: of("zwick"), recipient: of("user7@d1.example"), ..all() },
        LogFilter { part: of("nowhere"), ..all() },
        LogFilter { sender: of("XYLO"), ..all() },
        LogFilter { sender: of("bounce-77"), ..all() },
        LogFilter { verdict: of("none"), ..all() },
        LogFilter { verdict: of("unknown"), ..all() },
        LogFilter { verdict: of("not_ours"), ..all() },
        LogFilter { domain: of("rare.example"), ..all() },
        LogFilter { domain: of("d2.example"), ..all() },
        LogFilter { domain: of("no address"), ..all() },
        LogFilter { domain: of("example"), ..all() },
        LogFilter { recipient: of("user7@d1.example"), ..all() },
        LogFilter { recipient: of("user7@d7.example"), ..all() },
        LogFilter { recipient: of(TWINS[0]), ..all() },
        LogFilter { recipient: of(TWINS[1]), until: at(2_224), ..all() },
        LogFilter { recipient: of(ODD[0]), ..all() },
        LogFilter { recipient: of(ODD[1]), ..all() },
        LogFilter { recipient: of(ODD[1]), domain: of("odd.example"), ..all() },
        LogFilter { recipient: of(ODD[1]), domains: Some(vec!["odd.example".into()]), ..all() },
        LogFilter { recipient: of(ODD[1]), domains: Some(vec!["odd.example".into(), "d2.example".into()]), ..all() },
        LogFilter { recipient: of("user7@rare.example"), ..all() },
        LogFilter { client: "2001:db8::7".parse().ok(), ..all() },
        LogFilter { client: "192.0.2.3".parse().ok(), ..all() },
        LogFilter { client: "192.0.2.3".parse().ok(), verdict: of("unknown"), ..all() },
        LogFilter { client: "192.0.2.77".parse().ok(), ..all() },
        LogFilter {
            client: "192.0.2.3".parse().ok(),
            part: of("user7"),
            sender: of("bounce-"),
            domain: of("d1.example"),
            verdict: of("valid"),
            ..all()
        },
        LogFilter { domain: of("d1.example"), part: of("zwick"), ..all() },
        LogFilter { domain: of("d1.example"), verdict: of("unknown"), ..all() },
        LogFilter { domain: of("rare.example"), verdict: of("invalid"), ..all() },
        LogFilter { domains: Some(vec!["rare.example".into()]), ..all() },
        LogFilter { domains: Some(vec!["rare.example".into(), "d2.example".into()]), part: of("user1"), ..all() },
        LogFilter { domains: Some(Vec::new()), ..all() },
        LogFilter { part: of("user1"), since: at(900), until: at(3_300), ..all() },
        LogFilter { part: of("zwick"), since: at(18), until: at(19), ..all() },
        LogFilter { sender: of("sender"), verdict: of("invalid"), since: at(2_000), ..all() },
    ]
}

#[tokio::test]
async fn a_search_finds_what_fits_whatever_blocks_it_passes_over() {
    let dir = TempDir::new().unwrap();
    let (path, clock) = (dir.path().join("log.db"), Arc::new(TestClock::at(NOW)));
    // Ended in the middle of a block, twice.
    let mut rows = Vec::new();
    for numbers in [0..1_700, 1_700..1_701] {
        let log = open(&path, &clock);
        rows.extend(write(&log, &clock, numbers));
    }
    let log = open(&path, &clock);
    rows.extend(write(&log, &clock, 1_701..ROWS));
    until(|| log.counters().waiting == 0);
    for filter in filters() {
        for limit in [3, 1_000] {
            assert_eq!(found(&log, &filter, limit).await, expected(&rows, &filter), "{filter:?}");
        }
    }
    let blocks = blocks(&path);
    assert_eq!(blocks, 6, "of each thousand rows one");
    // What is removed is not found, and its blocks go too.
    log.set_settings(LogSettings { days: 1, ..LogSettings::default() });
    clock.advance(Duration::from_secs(86_400 - 2_500));
    // The row of exactly that age stays.
    until(|| log.counters().removed == 3_999);
    let left = expected(&rows[3_999..], &LogFilter::default());
    assert_eq!(found(&log, &LogFilter::default(), 1_000).await, left);
    let filter = LogFilter { part: Some("zwick".into()), ..LogFilter::default() };
    assert_eq!(found(&log, &filter, 10).await.len(), 1);
    assert!(self::blocks(&path) <= 3);
}

#[tokio::test]
async fn who_existed_is_found_of_many_recipients_at_once() {
    let dir = TempDir::new().unwrap();
    let (path, clock) = (dir.path().join("log.db"), Arc::new(TestClock::at(NOW)));
    let log = open(&path, &clock);
    for rows in [0..900, 0..ROWS] {
        let written = write(&log, &clock, rows);
        until(|| log.counters().waiting == 0);
        let mut all: Vec<String> = written.iter().map(|row| row.recipient.clone()).collect();
        all.push("nobody@d1.example".into());
        let few: Vec<String> = all.iter().skip(200).step_by(400).cloned().collect();
        let of = |domain: &str| -> Vec<String> { all.iter().filter(|one| one.ends_with(domain)).cloned().collect() };
        for recipients in
            [few, of("@rare.example"), of("@odd.example"), of("@d2.example"), of("@nowhere.example"), all.clone()]
        {
            let is_meant = |row: &&Row| row.verdict == Some(Verdict::Valid) && recipients.contains(&row.recipient);
            let expected: HashSet<String> = written.iter().filter(is_meant).map(|row| row.recipient.clone()).collect();
            assert_eq!(accepted(&log, &recipients).await, expected, "{recipients:?}");
        }
    }
    assert_eq!(accepted(&log, &[]).await, HashSet::new());
}

/// Looked for again where the machine was too busy to come to the end.
async fn accepted(log: &DecisionLog, recipients: &[String]) -> HashSet<String> {
    for _ in 0..100 {
        let found = log.accepted(recipients.to_vec(), Timestamp(0)).await.unwrap();
        if !found.is_cut {
            return found.recipients;
        }
    }
    panic!("it never came to the end");
}

/// The writer has a thread of its own, which no simulated time moves.
fn until(done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "it never came to that");
        std::thread::yield_now();
    }
}

fn blocks(path: &Path) -> i64 {
    let file = rusqlite::Connection::open(path).unwrap();
    file.query_row("SELECT count(*) FROM blocks", [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn rows_that_an_older_version_wrote_are_found_too() {
    let indexes = "CREATE INDEX decisions_domain ON decisions (domain); CREATE INDEX decisions_recipient ON decisions (recipient); \
         CREATE INDEX decisions_client ON decisions (client) WHERE client IS NOT NULL; DROP TABLE blocks;";
    let with_filters = "CREATE TABLE blocks (last INTEGER PRIMARY KEY, first INTEGER NOT NULL, bits BLOB NOT NULL); \
         INSERT INTO blocks SELECT max(id), 1, x'00' FROM decisions;";
    for (version, more) in [(1, ""), (2, with_filters)] {
        let dir = TempDir::new().unwrap();
        let (path, clock) = (dir.path().join("log.db"), Arc::new(TestClock::at(NOW)));
        let log = open(&path, &clock);
        let mut rows = write(&log, &clock, 0..2_500);
        drop(log);
        let file = rusqlite::Connection::open(&path).unwrap();
        file.execute_batch(&format!("{indexes} {more} PRAGMA user_version = {version}")).unwrap();
        drop(file);
        let log = open(&path, &clock);
        assert_eq!(blocks(&path), 2, "they are in blocks when the file is open");
        rows.extend(write(&log, &clock, 2_500..ROWS));
        until(|| log.counters().waiting == 0);
        assert_eq!(blocks(&path), 6);
        for filter in filters() {
            assert_eq!(found(&log, &filter, 1_000).await, expected(&rows, &filter), "{filter:?}");
        }
    }
}
