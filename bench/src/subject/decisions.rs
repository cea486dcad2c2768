//! A decision log as a filtering server has it after a month: many domains of different size, mailboxes that get mail again and again,
//! and guesses that come once.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use callahead_cache::{StoredReply, Timestamp};
use callahead_control::{DecisionLog, LogSettings};
use callahead_engine::{
    Action, Answer, Clock as _, Decision, Listener, Observer as _, Question, Source, TestClock, Verdict,
};

use crate::load::names;

/// Decisions that may wait for the writer while it is filled: below its queue's bound.
const WAITING: u64 = DecisionLog::QUEUE as u64 / 2;
/// The time over which the decisions are spread.
pub const SPAN: Duration = Duration::from_secs(30 * 86_400 - 3600);
/// The log's bound while it is filled and read, in bytes.
pub const SIZE: u64 = 64 << 30;
/// What is in the log so often only, spread evenly over it.
pub const RARE: u64 = 10;
/// The rare recipient; its domain holds nothing else.
pub const RARE_RECIPIENT: &str = "quetzal.zwicky@rarity.example";
/// The rare sender.
pub const RARE_SENDER: &str = "xylograph@seldom.example";
/// The rare client.
pub const RARE_CLIENT: &str = "203.0.113.77";

const FIRST: [&str; 16] = [
    "anna", "ben", "clara", "david", "emma", "felix", "greta", "hans", "ida", "jakob", "karla", "lukas", "maria",
    "noah", "olga", "paul",
];
const LAST: [&str; 16] = [
    "adler", "bauer", "conrad", "dietz", "ebert", "fuchs", "gross", "huber", "irmler", "jung", "kaiser", "lang",
    "meyer", "neumann", "otto", "peters",
];

/// Fills a log through its own crate. Gives decisions a second that its writer took.
///
/// # Errors
/// When it can't be written, or a decision is lost.
pub async fn fill_log(folder: &Path, rows: u64, domains: u64) -> anyhow::Result<f64> {
    let now = u64::try_from(jiff::Timestamp::now().as_millisecond())?;
    let span = u64::try_from(SPAN.as_millis())?;
    let clock = Arc::new(TestClock::at(Timestamp(now - span)));
    std::fs::create_dir_all(folder.join("data"))?;
    let settings = LogSettings { size: SIZE, rate: u32::MAX, ..LogSettings::default() };
    let log = DecisionLog::open(&folder.join("data/log.db"), settings, clock.clone())?;
    let began = std::time::Instant::now();
    let mut state = 1;
    for number in 0..rows {
        let due = now - span + span * number / rows;
        clock.advance(Duration::from_millis(due.saturating_sub(clock.now().0)));
        let is_rare = number % (rows / RARE).max(1) == 0;
        decide(&log, clock.now(), &mut state, domains, is_rare);
        while number % 1000 == 0 && log.counters().waiting > WAITING {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    while log.counters().waiting > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let counters = log.counters();
    if counters.written != rows {
        bail!("the log could not be filled: {counters:?}");
    }
    Ok(crate::stats::real(rows) / began.elapsed().as_secs_f64())
}

/// One decision: three of four for one of a few mailboxes, the rest guesses.
fn decide(log: &DecisionLog, now: Timestamp, state: &mut u64, domains: u64, is_rare: bool) {
    let mut below = |bound: u64| names::next_random(state) % bound.max(1);
    // The cube of an even share: a few domains have most of the mail.
    let share = below(1 << 16);
    let domain_number = (share * share * share * domains) >> 48;
    let domain = names::domain(domain_number);
    let guess = below(4) == 0;
    let mut recipient = String::new();
    let (first, last) = (one_of(&FIRST, below(16)), one_of(&LAST, below(16)));
    let number = if guess { below(1 << 40) } else { below(4) };
    let _ = write!(recipient, "{first}.{last}{number}@{domain}");
    let mut client = IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + u32::try_from(below(200_000)).unwrap_or(0)));
    let mut sender = format!("{}-{}@s{}.example", one_of(&LAST, below(16)), below(1000), below(50_000));
    if is_rare {
        (recipient, sender) = (RARE_RECIPIENT.to_owned(), RARE_SENDER.to_owned());
        client = RARE_CLIENT.parse().unwrap_or(client);
    }
    let (verdict, source) = match (guess, below(20)) {
        (_, 0) => (Verdict::Unknown, Source::Callout),
        (true, n) => (Verdict::Invalid, if n < 5 { Source::Cache } else { Source::Callout }),
        (false, n) => (Verdict::Valid, if n < 18 { Source::Cache } else { Source::Callout }),
    };
    let mut decision = decision(&recipient, verdict, source, Duration::from_micros(below(200_000)), log_time(state));
    if is_observed(domain_number) && verdict == Verdict::Invalid {
        let accept = Answer { action: Action::Accept, code: None, enhanced: None, text: Cow::Borrowed("") };
        decision.would = Some(std::mem::replace(&mut decision.answer, accept));
    }
    let question = Question {
        client: Some(client),
        sender: Some(&sender),
        ..Question::new(recipient.as_bytes(), Listener::Policy)
    };
    log.decided(&question, &Decision { at: now, ..decision });
}

/// Whether a domain is one that is only observed: every second.
fn is_observed(domain: u64) -> bool {
    domain % 2 == 1
}

fn one_of(names: &[&'static str; 16], number: u64) -> &'static str {
    names.get(usize::try_from(number).unwrap_or(0)).unwrap_or(&names[0])
}

fn log_time(state: &mut u64) -> Timestamp {
    Timestamp(1_790_000_000_000 + names::next_random(state) % 1_000_000_000)
}

fn decision(recipient: &str, verdict: Verdict, source: Source, elapsed: Duration, at: Timestamp) -> Decision {
    let (row, reason, action, code, text) = match verdict {
        Verdict::Invalid => (11, "the destination refuses the recipient", Action::Reject, 550, "User unknown"),
        Verdict::Unknown => (12, "the destination can't tell now", Action::Defer, 450, "Greylisted, try again later"),
        _ => (10, "the destination accepts the recipient", Action::Accept, 250, "2.1.5 Ok"),
    };
    Decision {
        recipient: recipient.to_owned(),
        verdict: Some(verdict),
        accept_all: false,
        row,
        reason: Cow::Borrowed(reason),
        source,
        answer: Answer {
            action,
            code: (action != Action::Accept).then_some(code),
            enhanced: None,
            text: Cow::Borrowed(match action {
                Action::Reject => "Recipient address rejected: the mailbox does not exist",
                Action::Defer => "Recipient address can't be verified now, try again later",
                _ => "",
            }),
        },
        would: None,
        destination: Some("mail1.customer.example:25".to_owned()),
        reply: Some(StoredReply { code, enhanced: None, text: format!("<{recipient}>: {text}") }),
        checked_at: Some(at),
        expires_at: Some(at.after(Duration::from_secs(7200))),
        at,
        elapsed,
        transcript: None,
    }
}
