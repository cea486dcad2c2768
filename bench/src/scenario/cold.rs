//! Callouts: every recipient is new, 20 clients ask, and the destination counts who connects.

use super::{Bench, Measured, Round};
use crate::load::{Names, Protocol};
use crate::report::{Section, Table, Verdict, svg};
use crate::stats::{Spread, megabytes, number, real, time};
use crate::subject::{Callahead, Callout, Destination, Helper, Setup, Subject, exim, postfix};

/// Clients that ask.
const CLIENTS: usize = 20;

/// What the destination saw of one subject.
#[derive(Default)]
struct Seen {
    connections: u64,
    rcpt: u64,
    verdicts: u64,
    cpu: f64,
    seconds: f64,
}

/// Verdicts a second, and connections for each of them.
///
/// # Errors
/// When a server fails.
pub async fn run(bench: &Bench) -> anyhow::Result<Section> {
    let size = &bench.size;
    let mut section = Section::new("Cold callouts");
    section.say(format!(
        "{CLIENTS} clients ask, every recipient is new, and all servers ask the same destination, which answers at once. \
         Callahead is asked by the policy protocol, Exim and Postfix by SMTP with 50 RCPT a session. \"Exim, hold\" keeps a connection to the \
         destination for a message's further recipients, and asks from the message's sender for that. Postfix looks at its verify \
         service again only after whole seconds, so what a client waits for there is mostly the poll. \"bare\" is the least that a \
         callout can be on this runtime: a policy request read, RSET, MAIL and RCPT written to an open session, the replies read and the \
         answer written, with nothing parsed, kept, logged or counted in between. \"least\" is that, and a line in a log file and a row in a log \
         that can be searched of each."
    ));
    for (existing, word, bound) in [(true, "valid", 0.05), (false, "invalid", 0.13)] {
        let mut destination = Destination::start(size.mailboxes, 1).await?;
        let exims = [exim(destination.address(), Callout::Null)?, exim(destination.address(), Callout::Hold)?];
        let postfix = postfix(destination.address())?;
        let setup = Setup::new(&bench.folder.join(format!("cold-{word}")), destination.address());
        let daemon = Callahead::start(&setup).await?;
        let asks = destination.address().to_string();
        let bare = Helper::start(&["serve-bare", "callout", &asks]).await?;
        let least = bench.least(&format!("cold-{word}-least"), 0, &["callout", &asks]).await?;
        let smtp = Protocol::Smtp { per_session: 50 };
        let subjects = [
            Subject::new("Callahead", daemon.address("policy")?, Protocol::Policy, daemon.process()),
            Subject::new("bare", bare.address, Protocol::Policy, bare.process()),
            Subject::new("least", least.address, Protocol::Policy, least.process()),
            Subject::new("Exim", exims[0].address(), smtp, exims[0].process()),
            Subject::new("Exim, hold", exims[1].address(), smtp, exims[1].process()),
            Subject::new("Postfix", postfix.address(), smtp, postfix.process()),
        ];
        // Missing ones are never used up.
        let last = if existing { size.mailboxes } else { u64::MAX };
        let names: Vec<Names> =
            subjects.iter().map(|_| Names::distinct(u64::from(!existing), last).existing(existing)).collect();
        let mut measured: Vec<Measured> =
            subjects.iter().map(|subject| Measured { name: subject.name, rounds: Vec::new() }).collect();
        let mut seen: Vec<Seen> = subjects.iter().map(|_| Seen::default()).collect();
        destination.told().await?;
        for _ in 0..size.rounds {
            for (at, subject) in subjects.iter().enumerate() {
                daemon.empty_log()?;
                let cpu = destination.cpu();
                let asked = names[at].next();
                // A recipient that Postfix has not heard of by its last poll is deferred: an answer, though not a verdict.
                let lenient = subject.name == "Postfix";
                let asking = names[at].clone().any_answer(lenient);
                let round = Round::measure(subject, &asking, CLIENTS, size.span).await?;
                let asked = (names[at].next() - asked) / 2;
                anyhow::ensure!(
                    names[at].next() < last,
                    "the destination's mailboxes are used up: raise Size::mailboxes"
                );
                let told = destination.told().await?;
                let seen = &mut seen[at];
                seen.connections += told.connections;
                seen.rcpt += told.rcpt;
                seen.verdicts += asked;
                seen.cpu += destination.cpu() - cpu;
                // The warm-up is a fifth more.
                seen.seconds += round.run.seconds * 1.2;
                measured[at].rounds.push(round);
            }
        }
        section.say(format!("Recipients that are {word}:"));
        let mut table = Table::new(&[
            "",
            "verdicts a second",
            "median",
            "99th percentile",
            "connections a verdict",
            "RCPT a verdict",
            "destination busy",
            "CPU s per million verdicts",
            "peak memory",
        ]);
        let per_verdict = |seen: &Seen, count: u64| real(count) / real(seen.verdicts.max(1));
        for (one, seen) in measured.iter().zip(&seen) {
            table.row([
                one.name.to_owned(),
                Spread::of(&one.rates()).show(number),
                time(Spread::of(&one.quantiles(0.5)).median),
                time(Spread::of(&one.quantiles(0.99)).median),
                number(per_verdict(seen, seen.connections)),
                number(per_verdict(seen, seen.rcpt)),
                format!("{:.0} %", seen.cpu / seen.seconds.max(1e-9) * 100.0),
                number(Spread::of(&one.cpu_per_million()).median),
                megabytes(one.peak_memory()),
            ]);
        }
        section.show(table);
        let bars: Vec<_> = measured.iter().map(|one| (one.name.to_owned(), Spread::of(&one.rates()).median)).collect();
        let title = format!("Cold callouts, {CLIENTS} clients, {word} recipients");
        let labels = svg::Labels { title: &title, x: "verdicts a second, logarithmic", y: "" };
        section.plots.push((format!("benchmarks-cold-{word}.svg"), svg::bars(labels, &bars)));

        let [ours, bare, least, theirs, held] = [0, 1, 2, 3, 4].map(|at| &measured[at]);
        section.say(format!(
            "The bare callout is {} × Exim, and Callahead {} of it: on this machine, with this generator and this destination on the same \
             cores, no server on this runtime can be more. The least is {} × Exim, and Callahead {} of it.",
            bare.times(theirs).show(number),
            ours.times(bare).show(number),
            least.times(theirs).show(number),
            ours.times(least).show(number)
        ));
        let (ratio, to_held) = (ours.times(theirs), ours.times(held));
        section.say(format!(
            "\"Exim, hold\" is {} × Exim, with {} connections a verdict instead of {}. Callahead is {} × \"Exim, hold\".",
            held.times(theirs).show(number),
            number(per_verdict(&seen[4], seen[4].connections)),
            number(per_verdict(&seen[3], seen[3].connections)),
            to_held.show(number)
        ));
        section.verdicts.push(Verdict::new(
            &format!("cold callouts, {CLIENTS} clients, distinct {word} recipients"),
            "≥ 10 × Exim",
            format!("{} × Exim ({} × with `hold`)", ratio.show(number), number(to_held.median)),
            ratio.median >= 10.0,
        ));
        let connections = per_verdict(&seen[0], seen[0].connections);
        section.verdicts.push(Verdict::new(
            &format!("connections to the destination per {word} verdict"),
            &format!("≤ {bound}"),
            format!(
                "{} (Exim {}, with `hold` {})",
                number(connections),
                number(per_verdict(&seen[3], seen[3].connections)),
                number(per_verdict(&seen[4], seen[4].connections))
            ),
            connections <= bound,
        ));
        daemon.kill().await?;
    }
    Ok(section)
}
