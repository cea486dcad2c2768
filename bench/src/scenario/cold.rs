//! Callouts: every recipient is new, 20 clients ask, and the destination counts who connects.

use super::{Bench, LIMIT, Measured, Round, limited, turns};
use crate::load::{Names, Protocol};
use crate::report::{Outcome, Section, Table, Verdict, svg};
use crate::stats::{Spread, number, ratios, real, time};
use crate::subject::{Callahead, Callout, Destination, HARVEST, Helper, Setup, Subject, exim, postfix};

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

impl Seen {
    /// The share of its one thread's time that the destination was busy.
    fn busy(&self) -> f64 {
        self.cpu / self.seconds.max(1e-9)
    }

    /// What keeps this subject's rate down where that is not itself.
    fn limit(&self, measured: &Measured) -> Option<&'static str> {
        measured.limit().or((self.busy() >= LIMIT).then_some("the destination"))
    }
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
         that can be searched of each. Where recipients are missing Callahead's protection against guessing clients is off (`harvest.limit = 0`), \
         which would put these clients off after {HARVEST} of them: callouts are what is measured."
    ));
    for (existing, word, bound) in [(true, "valid", 0.05), (false, "invalid", 0.13)] {
        let mut destination = Destination::start(size.mailboxes, 1).await?;
        let exims = [exim(destination.address(), Callout::Null)?, exim(destination.address(), Callout::Hold)?];
        let postfix = postfix(destination.address())?;
        let setup = Setup::new(&bench.folder.join(format!("cold-{word}")), destination.address());
        let setup = Setup { harvest: if existing { HARVEST } else { 0 }, ..setup };
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
        for round in 0..size.rounds {
            for at in turns(round, subjects.len()) {
                let subject = &subjects[at];
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
            "generator busy",
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
                format!("{:.0} %{}", seen.busy() * 100.0, if seen.busy() >= LIMIT { ", **its limit**" } else { "" }),
                number(Spread::of(&one.cpu_per_million()).median),
                one.memory_cell(),
                one.busy_cell(),
            ]);
        }
        section.show(table);
        let bars: Vec<_> = measured.iter().map(|one| (one.name.to_owned(), Spread::of(&one.rates()).median)).collect();
        let title = format!("Cold callouts, {CLIENTS} clients, {word} recipients");
        let labels = svg::Labels { title: &title, x: "verdicts a second, logarithmic", y: "" };
        section.plots.push((format!("benchmarks-cold-{word}.svg"), svg::bars(labels, &bars)));

        let [ours, bare, least, theirs, held] = [0, 1, 2, 3, 4].map(|at| &measured[at]);
        section.say(format!(
            "The bare callout is {} × Exim, and Callahead {} of it: that is what generator and destination, each one thread and both on the cores \
             that the server runs on, let it have, and no bound on what a server can be. The least is {} × Exim, and Callahead {} of it.",
            bare.times(theirs).show(number),
            ours.times(bare).show(number),
            least.times(theirs).show(number),
            ours.times(least).show(number)
        ));
        let [by_exim, by_held, by_postfix, by_bare] =
            [theirs, held, &measured[5], bare].map(|other| ours.thrift(other).show(number));
        section.say(format!(
            "CPU a verdict, which no limit of generator or destination touches: Exim : Callahead {by_exim}, \"Exim, hold\" : Callahead {by_held}, \
             Postfix : Callahead {by_postfix}, bare : Callahead {by_bare}."
        ));
        let (ratio, to_held) = (ours.times(theirs), ours.times(held));
        section.say(format!(
            "\"Exim, hold\" is {} × Exim, with {} connections a verdict instead of {}. Callahead is {} × \"Exim, hold\".",
            held.times(theirs).show(number),
            number(per_verdict(&seen[4], seen[4].connections)),
            number(per_verdict(&seen[3], seen[3].connections)),
            to_held.show(number)
        ));
        let (our_limit, their_limit) = (seen[0].limit(ours), seen[3].limit(theirs));
        let destination_is_it = if our_limit.or(their_limit).is_some() && limited(&[ours, theirs]).is_empty() {
            "; limited by the destination"
        } else {
            ""
        };
        let verdict = Verdict::new(
            &format!("cold callouts, {CLIENTS} clients, distinct {word} recipients"),
            "≥ 10 × Exim",
            format!(
                "{} × Exim ({} × with `hold`); by CPU a verdict {}{}{destination_is_it}",
                ratio.show(number),
                number(to_held.median),
                number(ours.thrift(theirs).median),
                limited(&[ours, theirs])
            ),
            Outcome::of_ratio(ratio.median, 10.0, our_limit, their_limit),
        );
        let each = ratios(&ours.rates(), &theirs.rates());
        section.verdicts.push(verdict.of_each("rounds", &each.iter().map(|ratio| *ratio >= 10.0).collect::<Vec<_>>()));
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
