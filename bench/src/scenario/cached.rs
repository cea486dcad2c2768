//! Answers from the cache: by the policy protocol beside the bare server, and by SMTP beside Exim and Postfix.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::{Bench, HEADS, LIMIT, Measured, Round, interleaved, limited, turns};
use crate::load::{Answer, Client, Names, Pace, Protocol, Target, open_loop};
use crate::report::{Section, Table, Verdict, svg};
use crate::stats::{Spread, count, number, ratios, real, time};
use crate::subject::{Callahead, Callout, Destination, Helper, Setup, Subject, exim, fill, postfix};

/// How long a peer may take to learn the recipients that it is then asked for.
const LEARN_WITHIN: Duration = Duration::from_secs(120);
/// What the least is, for readers.
const LEAST: &str = "\"least\" is what no server can do without that answers for itself: bare, which also looks the recipient up in memory, \
    writes a line into a log file, and a row into a log that can be searched, and does nothing else.";

/// By the policy protocol: as fast as it goes, and at half of that.
///
/// # Errors
/// When a server fails.
pub async fn policy(bench: &Bench) -> anyhow::Result<Section> {
    let size = &bench.size;
    let setup = Setup::new(&bench.folder.join("policy"), ([127, 0, 0, 1], 9).into());
    fill(&setup, size.few).await?;
    let daemon = Callahead::start(&setup).await?;
    let quiet_setup = Setup {
        log: "info,callahead::decision=off",
        more: "[log]\ndays = 0\n".to_owned(),
        ..Setup::new(&bench.folder.join("quiet"), setup.destination)
    };
    fill(&quiet_setup, size.few).await?;
    let quiet = Callahead::start(&quiet_setup).await?;
    let bare = Helper::start(&["serve-bare", "policy"]).await?;
    let least = bench.least("policy-least", size.few, &["policy"]).await?;
    let subjects = [
        Subject::new("Callahead", daemon.address("policy")?, Protocol::Policy, daemon.process()),
        Subject::new("bare", bare.address, Protocol::Policy, bare.process()).constant(),
        Subject::new("Callahead, nothing logged", quiet.address("policy")?, Protocol::Policy, quiet.process()),
        Subject::new("least", least.address, Protocol::Policy, least.process()),
    ];
    let names = Names::random(size.few);
    let measured = interleaved(bench, &subjects, &daemon, &names, size.connections).await?;
    let [ours, theirs, unlogged, least] = measured.as_slice() else {
        anyhow::bail!("four subjects were to be measured")
    };

    let mut section = Section::new("Cached answers by the policy protocol");
    section.say(format!(
        "{} connections ask for {} recipients of which every second exists, at random; Callahead logs every decision to a \
         file, as JSON. \"bare\" reads requests and answers DUNNO, on the same runtime. {LEAST}",
        size.connections,
        count(size.few)
    ));
    let mut table = Table::new(&HEADS);
    measured.iter().for_each(|one| table.row(one.row()));
    section.show(table);
    ceiling(&mut section, theirs);
    let [whole, base, silent] = [ours, theirs, unlogged].map(|one| Spread::of(&one.cpu_per_million()).median);
    section.say(format!(
        "With nothing logged (`CALLAHEAD_LOG=info,callahead::decision=off`, and `log.days = 0`) the ratio to bare is {}. Of the {} µs of CPU that \
         an answer takes, {} are the bare server's: system calls and the runtime. {} are the two logs', and {} are what a verdict is made of: \
         the request and the address parsed, the domain and the recipient read from the cache and held against their checksums, the table, the \
         client's guesses.",
        unlogged.times(theirs).show(number),
        number(whole),
        number(base),
        number((whole - silent).max(0.0)),
        number((silent - base).max(0.0))
    ));
    section.say(format!(
        "Of CPU, which the generator's limit does not touch, an answer of the bare server takes {} of one of Callahead's (bare : Callahead), \
         and {} of one of the least.",
        ours.thrift(theirs).show(number),
        least.thrift(theirs).show(number)
    ));
    let verdict = Verdict::new(
        "cached answers, policy protocol",
        "≥ 0.85 of bare",
        format!(
            "{}; the least {}; by CPU an answer {}{}",
            ours.times(theirs).show(number),
            least.times(theirs).show(number),
            number(ours.thrift(theirs).median),
            limited(&[ours, theirs])
        ),
        ours.reaches(theirs, 0.85),
    );
    section.verdicts.push(verdict.of_each("rounds", &at_least(ours, theirs, 0.85)));

    let rate = Spread::of(&ours.rates()).median / 2.0;
    let half = at_rate(bench, &subjects, &daemon, &names, rate).await?;
    let [ours_half, theirs_half, unlogged_half, least_half] = half.as_slice() else {
        anyhow::bail!("four subjects were to be measured")
    };
    section.say(format!(
        "At half of Callahead's own load, {} questions a second to each, sent when they are due whatever the answers do:",
        number(rate)
    ));
    let mut table = Table::new(&["", "median", "99th percentile", "99.9th percentile"]);
    for one in &half {
        let quantile = |at| Spread::of(&one.quantiles(at)).show(time);
        table.row([one.name.to_owned(), quantile(0.5), quantile(0.99), quantile(0.999)]);
    }
    section.show(table);
    let p99 = |one: &Measured| Spread::of_ratios(&one.quantiles(0.99), &theirs_half.quantiles(0.99));
    section.say(format!(
        "With nothing logged the 99th percentile is {} × bare's; the rest is when the logs' threads have their turn.",
        p99(unlogged_half).show(number)
    ));
    let ratio = p99(ours_half);
    let verdict = Verdict::new(
        "cached answers, policy protocol, p99 at half load",
        "≤ 2 × bare",
        format!("{}; the least {}{}", ratio.show(number), p99(least_half).show(number), limited(&[ours])),
        ratio.median <= 2.0,
    );
    let each = ratios(&ours_half.quantiles(0.99), &theirs_half.quantiles(0.99));
    section.verdicts.push(verdict.of_each("rounds", &each.iter().map(|ratio| *ratio <= 2.0).collect::<Vec<_>>()));
    let (_, peak) = crate::process::resident(daemon.process()).context("the daemon has ended")?;
    section.say(format!("The most memory that Callahead had resident meanwhile: {}.", crate::stats::megabytes(peak)));
    daemon.kill().await?;
    quiet.kill().await?;
    Ok(section)
}

/// Which rounds were so many times another's.
fn at_least(ours: &Measured, theirs: &Measured, times: f64) -> Vec<bool> {
    ratios(&ours.rates(), &theirs.rates()).iter().map(|ratio| *ratio >= times).collect()
}

/// What the generator could do at most, so that nobody takes its limit for a server's.
fn ceiling(section: &mut Section, bare: &Measured) {
    let own: Vec<f64> = bare.each(|round| round.run.own_cpu / real(round.run.answers.max(1)));
    let own = Spread::of(&own).median;
    section.say(format!(
        "The generator's ceiling: it spends {} of CPU on a question to the bare server and its answer, so its one thread can't ask more than {} \
         a second, whoever answers. \"Generator busy\" is the share of that thread's time on a core that it used; from {:.0} % on the rate \
         is the generator's limit and not the server's. A ratio with such a rate above is too small, one with such a rate below too great, and one \
         with both says nothing.",
        time(own * 1e9),
        number(1.0 / own.max(1e-9)),
        LIMIT * 100.0
    ));
}

async fn at_rate(
    bench: &Bench,
    subjects: &[Subject],
    daemon: &Callahead,
    names: &Names,
    rate: f64,
) -> anyhow::Result<Vec<Measured>> {
    let mut measured: Vec<Measured> =
        subjects.iter().map(|subject| Measured { name: subject.name, rounds: Vec::new() }).collect();
    // A 99th percentile swings more from round to round than a rate does.
    for round in 0..2 * bench.size.rounds {
        for at in turns(round, subjects.len()) {
            let subject = &subjects[at];
            daemon.empty_log()?;
            let names = names.clone().any_answer(subject.any_answer);
            let pace = Pace::new(rate, bench.size.span);
            let run = open_loop(subject.target, &names, bench.size.connections, pace).await.context(subject.name)?;
            measured[at].rounds.push(Round { run, cpu: 0.0, memory: 0.0 });
        }
    }
    Ok(measured)
}

/// By SMTP, with 50 RCPT a session and with 1.
///
/// # Errors
/// When a server fails.
pub async fn smtp(bench: &Bench) -> anyhow::Result<Section> {
    let size = &bench.size;
    let mut section = Section::new("Cached answers by SMTP");
    let destination = Destination::start(size.warm * 2, 1).await?;
    let exim = exim(destination.address(), Callout::Null)?;
    let postfix = postfix(destination.address())?;
    let bare = Helper::start(&["serve-bare", "smtp"]).await?;
    let least = bench.least("smtp-least", size.warm, &["smtp"]).await?;
    let setup = Setup { gateway: true, ..Setup::new(&bench.folder.join("smtp"), destination.address()) };
    fill(&setup, size.few).await?;
    let daemon = Callahead::start(&setup).await?;
    let names = Names::random(size.warm).existing(false);
    for (name, address) in [("Exim", exim.address()), ("Postfix", postfix.address())] {
        learn(address, &names, size.warm).await.context(name)?;
    }
    section.say(format!(
        "{} clients ask for {} recipients that do not exist, at random, one command at a time: greeting, EHLO, MAIL, RCPT, QUIT. All were \
         asked for before, so every server answers from its cache: a rejection, because that is the answer which ends at the filter in all \
         of them, while a gateway that relays as it reads has to have a session with the destination for a recipient that it \
         accepts. \"bare\" answers 250 to everything. {LEAST}",
        size.connections,
        // Every second one of the numbers.
        count(size.warm / 2)
    ));
    for (per_session, times) in [(50, 20.0), (1, 50.0)] {
        let protocol = Protocol::Smtp { per_session };
        let subjects = [
            Subject::new("Callahead", daemon.address("gateway")?, protocol, daemon.process()),
            Subject::new("bare", bare.address, protocol, bare.process()).constant(),
            Subject::new("least", least.address, protocol, least.process()),
            Subject::new("Exim", exim.address(), protocol, exim.process()),
            Subject::new("Postfix", postfix.address(), protocol, postfix.process()),
        ];
        let measured = interleaved(bench, &subjects, &daemon, &names, size.connections).await?;
        section.say(format!("{per_session} RCPT a session (for 1, an answer's time is that of RCPT to QUIT):"));
        let mut table = Table::new(&HEADS);
        measured.iter().for_each(|one| table.row(one.row()));
        section.show(table);
        if let Some(bare) = measured.iter().find(|one| one.name == "bare") {
            ceiling(&mut section, bare);
        }
        let bars: Vec<_> = measured.iter().map(|one| (one.name.to_owned(), Spread::of(&one.rates()).median)).collect();
        let title = format!("Cached answers by SMTP, {per_session} RCPT a session");
        let labels = svg::Labels { title: &title, x: "answers a second, logarithmic", y: "" };
        section.plots.push((format!("benchmarks-smtp-{per_session}.svg"), svg::bars(labels, &bars)));
        judge(&mut section, &measured, per_session, times)?;
    }
    daemon.kill().await?;
    Ok(section)
}

fn judge(section: &mut Section, measured: &[Measured], per_session: u32, times: f64) -> anyhow::Result<()> {
    let what = format!("cached answers, SMTP, {per_session} RCPT a session");
    let target = format!("≥ {times:.0} × Exim, ≥ {times:.0} × Postfix, ≥ 0.8 of bare");
    let [ours, bare, least, exim, postfix] = measured else { anyhow::bail!("five subjects were to be measured") };
    let [to_exim, to_postfix, to_bare] = [exim, postfix, bare].map(|other| ours.times(other));
    let of_the_least = [exim, postfix, bare].map(|other| least.times(other));
    let [least_to_exim, least_to_postfix, least_to_bare] = of_the_least.map(|ratio| ratio.show(number));
    section.say(format!(
        "The bare server, which does nothing, is {} × Exim and {} × Postfix{}: that is what this one generator thread, beside the server on this \
         machine's cores, gets out of it, and no bound on what a server can be. The least is {} × Exim, {} × Postfix and {} of bare.",
        bare.times(exim).show(number),
        bare.times(postfix).show(number),
        limited(&[bare]),
        least_to_exim,
        least_to_postfix,
        least_to_bare
    ));
    let [by_exim, by_postfix, by_bare] = [exim, postfix, bare].map(|other| ours.thrift(other));
    let thrift = |one: &Measured, other: &Measured| one.thrift(other).show(number);
    section.say(format!(
        "CPU an answer, which the generator's limit does not touch: Exim : Callahead {}, Postfix : Callahead {}, bare : Callahead {}. Exim : bare {}, \
         Postfix : bare {}; Exim : least {}, Postfix : least {}, bare : least {}.",
        by_exim.show(number),
        by_postfix.show(number),
        by_bare.show(number),
        thrift(bare, exim),
        thrift(bare, postfix),
        thrift(least, exim),
        thrift(least, postfix),
        thrift(least, bare)
    ));
    let [least_to_exim, least_to_postfix, least_to_bare] = of_the_least.map(|ratio| number(ratio.median));
    let targets = [(exim, times), (postfix, times), (bare, 0.8)];
    let [outcome, of_postfix, of_bare] = targets.map(|(other, times)| ours.reaches(other, times));
    let [exim_in, postfix_in, bare_in] = targets.map(|(other, times)| at_least(ours, other, times));
    let each: Vec<bool> = exim_in.iter().zip(postfix_in).zip(bare_in).map(|((a, b), c)| *a && b && c).collect();
    let verdict = Verdict::new(
        &what,
        &target,
        format!(
            "{} × Exim, {} × Postfix, {} of bare; the least {least_to_exim}, {least_to_postfix}, {least_to_bare}; by CPU an answer {}, {}, {}{}",
            to_exim.show(number),
            to_postfix.show(number),
            to_bare.show(number),
            number(by_exim.median),
            number(by_postfix.median),
            number(by_bare.median),
            limited(&[ours, exim, postfix, bare])
        ),
        outcome.and(of_postfix).and(of_bare),
    );
    section.verdicts.push(verdict.of_each("rounds", &each));
    Ok(())
}

/// Has a peer asked for all recipients until it answers each from its cache.
async fn learn(address: std::net::SocketAddr, names: &Names, count: u64) -> anyhow::Result<()> {
    let target = Target { address, protocol: Protocol::Smtp { per_session: 50 } };
    let until = Instant::now() + LEARN_WITHIN;
    let mut left: Vec<u64> = (0..count).map(|number| number | 1).collect();
    left.dedup();
    let domains = names.domains;
    while !left.is_empty() {
        ensure!(Instant::now() < until, "{} recipients are not learned after {LEARN_WITHIN:?}", left.len());
        let mut asking = tokio::task::JoinSet::new();
        for some in left.chunks(left.len().div_ceil(20)).map(<[u64]>::to_vec) {
            asking.spawn(async move {
                let mut client = Client::connect(target).await?;
                let mut unknown = Vec::new();
                for number in some {
                    let mut name = String::new();
                    crate::load::names::write_address(&mut name, number, domains);
                    match client.ask(&name).await? {
                        Answer::Reject => {}
                        Answer::Defer => unknown.push(number),
                        other => anyhow::bail!("{name} got {other:?}: {}", client.last_reply()),
                    }
                }
                client.quit().await?;
                Ok(unknown)
            });
        }
        left.clear();
        while let Some(unknown) = asking.join_next().await {
            left.extend(unknown??);
        }
        left.sort_unstable();
    }
    Ok(())
}
