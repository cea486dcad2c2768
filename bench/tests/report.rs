//! The harness itself: its arithmetic, what it writes, and its generator against a bare server.
#![allow(clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use callahead_bench::load::{Answer, Names, Pace, Protocol, Run, Target, closed_loop, names, open_loop};
use callahead_bench::process::{Watch, memory};
use callahead_bench::report::{Machine, Outcome, Report, Section, Table, Verdict, notes, svg};
use callahead_bench::scenario::{Measured, Round, limited, turns};
use callahead_bench::stats::{Spread, number, ratios, time};

#[test]
fn a_median_is_the_value_in_the_middle_and_of_an_even_number_the_mean_of_two() {
    assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
    assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]).median, 2.5);
}

#[test]
fn what_was_not_measured_reaches_no_target() {
    for spread in [Spread::of(&[]), Spread::of_ratios(&[1.0], &[0.0]), Spread::of_ratios(&[f64::NAN], &[1.0])] {
        assert_eq!(spread.median.partial_cmp(&2.0), None, "{spread:?}");
        assert_eq!([spread.show(number), spread.show(time)], ["none", "none"]);
    }
}

#[test]
fn ratios_are_made_round_by_round() {
    // The machine was half as fast in the second round: that changes no ratio, while the ratio of medians would be 1.5.
    let spread = Spread::of_ratios(&[20.0, 10.0, 40.0], &[10.0, 5.0, 20.0]);
    assert_eq!(spread, Spread { median: 2.0, min: 2.0, max: 2.0 });
    assert_eq!(Spread::of_ratios(&[1.0, 6.0], &[0.0, 2.0]), Spread { median: 3.0, min: 3.0, max: 3.0 });
    assert!(ratios(&[1.0, 6.0], &[0.0, 2.0])[0].is_nan(), "each stays at its round's place");
}

#[test]
fn no_subject_stands_behind_the_same_one_in_every_round() {
    let rounds: Vec<Vec<usize>> = (0..4).map(|round| turns(round, 3).collect()).collect();
    assert_eq!(rounds, [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]);
}

#[test]
fn a_ratio_says_no_more_than_the_generators_limit_lets_it() {
    let (limit, not) = (Some("the generator"), None);
    let unknown = Outcome::Unknown("the generator");
    for (ratio, ours, theirs, outcome) in [
        (0.9, not, not, Outcome::Met),
        (0.7, not, not, Outcome::Missed),
        (f64::NAN, not, not, Outcome::Missed),
        // We may be faster than that, and not slower.
        (0.9, limit, not, Outcome::Met),
        (0.7, limit, not, unknown),
        // They may.
        (0.9, not, limit, unknown),
        (0.7, not, limit, Outcome::Missed),
        (0.9, limit, limit, unknown),
        (0.7, limit, limit, unknown),
    ] {
        assert_eq!(Outcome::of_ratio(ratio, 0.8, ours, theirs), outcome, "{ratio} {ours:?} {theirs:?}");
    }
    assert_eq!(Outcome::Met.and(unknown), unknown);
    assert_eq!(unknown.and(Outcome::Missed), Outcome::Missed);
}

/// Rounds of one second each, in which the generator was busy for such a share of it.
fn measured(name: &'static str, busy: f64, memory: f64) -> Measured {
    let latency = hdrhistogram::Histogram::new(3).unwrap();
    let run = Run { answers: 1000, seconds: 1.0, latency, own_cpu: busy };
    Measured { name, rounds: vec![Round { run, cpu: 0.012, memory }; 3] }
}

#[test]
fn a_row_says_where_the_generator_is_its_limit_and_where_memory_could_not_be_read() {
    let (fast, slow) = (measured("fast", 0.81, 2e6), measured("slow", 0.5, f64::NAN));
    assert_eq!(fast.row()[4..], ["10.0", "2.00 MB", "81 %, **its limit**"]);
    assert_eq!(slow.row()[4..], ["10.0", "can't be read", "50 %"]);
    assert_eq!(limited(&[&slow, &fast]), "; limited by the generator: fast");
    assert_eq!(limited(&[&slow]), "");
    assert_eq!(
        [slow.reaches(&fast, 0.8), slow.reaches(&fast, 2.0)],
        [Outcome::Unknown("the generator"), Outcome::Missed]
    );
}

#[test]
fn numbers_are_written_with_the_digits_that_say_something() {
    let written: Vec<String> =
        [0.0123, 0.5, 1.005, 9.994, 10.0, 99.94, 99.96, 1234.5, 1_234_567.0, -4321.0].into_iter().map(number).collect();
    assert_eq!(written, ["0.012", "0.500", "1.00", "9.99", "10.0", "99.9", "100", "1,234", "1,234,567", "-4,321"]);
    assert_eq!([time(1500.0), time(2.5e6), time(3e9)], ["1.50 µs", "2.50 ms", "3.00 s"]);
}

#[test]
fn recipients_say_by_their_number_whether_they_exist_and_distinct_ones_come_once() {
    let all = Names::distinct(0, 6);
    let (mut one, mut other) = (all.for_connection(0), all.for_connection(1));
    let mut seen = Vec::new();
    for connection in [0, 1, 1, 0, 0, 1, 0] {
        let names = if connection == 0 { &mut one } else { &mut other };
        if let Some(due) = names.advance() {
            seen.push((names.address().to_owned(), due));
        }
    }
    let expected: Vec<_> = (0..6)
        .map(|n| (format!("u{n}@bench.example"), if n % 2 == 0 { Answer::Accept } else { Answer::Reject }))
        .collect();
    assert_eq!(seen, expected);

    let mut missing = Names::random(100).existing(false).for_connection(3);
    for _ in 0..100 {
        assert_eq!(missing.advance(), Some(Answer::Reject));
    }
    let mut spread = String::new();
    names::write_address(&mut spread, 7, 5);
    assert_eq!(spread, "u7@d2.bench.example");
}

/// A policy server with one answer; gives its address.
fn constant(answer: &'static str) -> std::net::SocketAddr {
    slow(answer, Duration::ZERO, usize::MAX)
}

/// One that thinks for so long about each, and has no more than so many answers for a connection.
fn slow(answer: &'static str, thinks: Duration, answers: usize) -> std::net::SocketAddr {
    thinking(answer, move |_| thinks, answers)
}

/// Likewise; how long it thinks goes by how many answers it has left.
fn thinking(
    answer: &'static str,
    thinks: impl Fn(usize) -> Duration + Copy + Send + 'static,
    answers: usize,
) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut request = Vec::new();
                let mut left = answers;
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    request.extend_from_slice(&buffer[..length]);
                    if request.ends_with(b"\n\n") && left > 0 {
                        request.clear();
                        left -= 1;
                        std::thread::sleep(thinks(left));
                        stream.write_all(answer.as_bytes()).unwrap();
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn the_generator_counts_right_answers_at_the_rate_that_it_is_told() {
    let target = Target { address: constant("action=DUNNO\n\n"), protocol: Protocol::Policy };
    let names = Names::random(10).existing(true);
    let span = Duration::from_millis(200);
    let fast = closed_loop(target, &names, 2, span).await.unwrap();
    assert!(fast.answers > 10, "{}", fast.answers);
    assert_eq!(fast.latency.len(), fast.answers);
    let slow = open_loop(target, &names, 2, Pace::new(100.0, span)).await.unwrap();
    assert_eq!((slow.answers, slow.latency.len()), (20, 20));
}

#[tokio::test]
async fn a_question_of_the_measurement_is_counted_however_late_its_answer_is() {
    // Asked at 400 ms of a measurement that goes on from 200 to 1200 ms, answered at 1400.
    let thinks = |left| Duration::from_millis(if left == 9 { 400 } else { 1000 });
    let target = Target { address: thinking("action=DUNNO\n\n", thinks, 10), protocol: Protocol::Policy };
    let names = Names::random(10).existing(true);
    let run = closed_loop(target, &names, 1, Duration::from_secs(1)).await.unwrap();
    assert_eq!((run.answers, run.latency.len()), (1, 1));
    assert!(run.quantile(1.0) >= 1000e6, "{}", run.quantile(1.0));
}

#[tokio::test]
async fn at_a_fixed_rate_a_question_is_counted_that_was_due_however_late_its_answer_is() {
    let target =
        Target { address: slow("action=DUNNO\n\n", Duration::from_millis(50), 1_000), protocol: Protocol::Policy };
    let (names, pace) = (Names::random(10).existing(true), Pace::new(100.0, Duration::from_millis(200)));
    let run = open_loop(target, &names, 2, pace).await.unwrap();
    // Either connection has 12 to ask, one in 20 ms, and gets an answer in 50: the last one is 360 ms late at least.
    assert_eq!((run.answers, run.latency.len()), (20, 20));
    assert!(run.quantile(1.0) >= 360e6, "{}", run.quantile(1.0));
}

#[tokio::test]
async fn at_a_fixed_rate_a_question_without_an_answer_counts_as_all_of_the_patience() {
    let names = Names::random(10).existing(true);
    let patience = Duration::from_millis(300);
    let pace = Pace { patience, ..Pace::new(200.0, Duration::from_millis(500)) };
    // 60 are asked over either connection, of which 10 are not counted.
    let target =
        |answers| Target { address: slow("action=DUNNO\n\n", Duration::ZERO, answers), protocol: Protocol::Policy };
    let run = open_loop(target(58), &names, 2, pace).await.unwrap();
    assert_eq!((run.answers, run.latency.len()), (96, 100));
    assert!(run.quantile(0.97) >= 299e6, "{}", run.quantile(0.97));
    for answers in [0, 57] {
        let error = open_loop(target(answers), &names, 2, pace).await.unwrap_err();
        assert!(error.to_string().contains("of 100 questions were answered"), "{error}");
    }
}

#[test]
fn the_memory_of_a_measurement_is_the_most_that_was_seen_and_not_what_is_left() {
    let span = Duration::from_millis(100);
    let watch = Watch::start(std::process::id(), span);
    let held = std::hint::black_box(vec![1_u8; 64 << 20]);
    std::thread::sleep(4 * span);
    drop(held);
    let most = watch.end();
    assert!(most >= 64e6 && memory(std::process::id()) < most - 32e6, "{most}");
}

#[tokio::test]
async fn a_wrong_answer_fails_a_measurement() {
    let target = Target { address: constant("action=550 5.1.1 no\n\n"), protocol: Protocol::Policy };
    let names = Names::random(10).existing(true);
    let error = closed_loop(target, &names, 1, Duration::from_millis(50)).await.unwrap_err();
    assert!(error.to_string().contains("Reject"), "{error}");
}

#[test]
fn the_report_says_what_was_met_and_missed_and_writes_its_plots() {
    let mut section = Section::new("One");
    section.say("How.");
    let mut table = Table::new(&["", "rate"]);
    table.row(["Callahead".into(), "1".into()]);
    section.show(table);
    let labels = svg::Labels { title: "A < B", x: "x", y: "y" };
    let series = [svg::Series { name: "s".into(), points: vec![(1.0, 5.0), (10.0, 7.0), (100.0, 6.0)] }];
    section.plots.push(("one.svg".into(), svg::lines(labels, &series)));
    section.plots.push(("two.svg".into(), svg::bars(labels, &[("a".into(), 10.0), ("b".into(), 1000.0)])));
    section.verdicts = vec![
        Verdict::new("fast", "≥ 2", "3".into(), true),
        Verdict::new("small", "≤ 2", "3".into(), false),
        Verdict::new("often", "≥ 2", "3".into(), true).of_each("rounds", &[true, false, true]),
        Verdict::new("seldom", "≥ 2", "1".into(), false).of_each("rounds", &[true, false, false]),
        Verdict::new("ever", "≥ 2", "3".into(), true).of_each("starts", &[true, true]),
        Verdict::new("never", "≥ 2", "1".into(), false).of_each("rounds", &[false, false]),
        Verdict::new("who knows", "≥ 2", "3".into(), Outcome::Unknown("the generator")).of_each("rounds", &[true]),
    ];
    let folder = tempfile::tempdir().unwrap();
    let report = Report {
        command: "cargo xtask bench".into(),
        machine: Machine::here(folder.path(), vec![("callahead".into(), "1.2.3".into())]),
        took: 12.3,
        sections: vec![section],
        notes: notes("## How\n\n"),
    };
    report.write(folder.path()).unwrap();
    let text = std::fs::read_to_string(folder.path().join("benchmarks.md")).unwrap();
    for part in [
        "3 met, 3 missed, 1 not measurable here. ",
        "| often | ≥ 2 | 3 | met, not in all rounds: met in 2 of 3 |",
        "| seldom | ≥ 2 | 1 | **missed**, not in all rounds: met in 1 of 3 |",
        "| ever | ≥ 2 | 3 | met, in 2 of 2 starts |",
        "| never | ≥ 2 | 1 | **missed**, in 2 of 2 rounds |",
        "| who knows | ≥ 2 | 3 | not measurable here: the generator is the limit |",
        "| commit | ",
        "| file system of caches and logs | ",
        "| fast | ≥ 2 | 3 | met |",
        "| small | ≤ 2 | 3 | **missed** |",
        "| callahead | 1.2.3 |",
        "![One](one.svg)",
        "| `smtp_accept_max` | `0` |",
        "| `write_rejectlog` | `false` |",
        "    verify = recipient/callout=30s\n",
        "| `smtpd_error_sleep_time` | `0` |",
        // What every Postfix of the testbed has, and where it relays to.
        "| `smtp_dns_support_level` | `disabled` |",
        "| `mydestination` | (empty) |",
        "| `relay_transport` | `relay:[127.0.0.1]:2525` |",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(!text.contains("\n\n\n"));
    for file in ["one.svg", "two.svg"] {
        let picture = std::fs::read_to_string(folder.path().join(file)).unwrap();
        assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"), "{picture}");
        assert!(picture.contains("A &lt; B") && !picture.contains("NaN") && !picture.contains("inf"), "{picture}");
    }
}
