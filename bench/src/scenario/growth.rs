//! What more connections and more domains cost.

use std::time::Duration;

use super::{Bench, interleaved};
use crate::load::{Names, Protocol};
use crate::report::{Section, Table, svg};
use crate::size::Size;
use crate::stats::{Spread, count, number, real, time};
use crate::subject::{Callahead, Helper, Setup, Subject, fill};

/// Until connections that were closed are seen to be.
const SETTLE: Duration = Duration::from_millis(200);

/// From one connection to ten thousand.
///
/// # Errors
/// When a server fails.
pub async fn connections(bench: &Bench) -> anyhow::Result<Section> {
    let mut section = Section::new("Growth with connections");
    let size = Size { rounds: bench.size.rounds.min(3), span: bench.size.span / 2, ..bench.size.clone() };
    let bench = Bench { size, folder: bench.folder.clone() };
    let setup = Setup::new(&bench.folder.join("connections"), ([127, 0, 0, 1], 9).into());
    fill(&setup, bench.size.few).await?;
    let daemon = Callahead::start(&setup).await?;
    let bare = Helper::start(&["serve-bare", "policy"]).await?;
    let subjects = [
        Subject::new("Callahead", daemon.address("policy")?, Protocol::Policy, daemon.process()),
        Subject::new("bare", bare.address, Protocol::Policy, bare.process()).constant(),
    ];
    section.say("Cached answers by the policy protocol, each connection asking again as soon as it is answered:");
    let mut table = Table::new(&[
        "connections",
        "Callahead, answers a second",
        "bare",
        "ratio",
        "Callahead, 99th percentile",
        "bare",
        "Callahead, peak memory",
        "generator busy",
        "with bare",
    ]);
    let mut points: [Vec<(f64, f64)>; 2] = Default::default();
    for &connections in &bench.size.by_connections {
        let names = Names::random(bench.size.few);
        let measured = interleaved(&bench, &subjects, &daemon, &names, connections).await?;
        let [ours, theirs] = measured.as_slice() else { anyhow::bail!("two subjects were to be measured") };
        let rate = |one: &super::Measured| Spread::of(&one.rates()).median;
        let p99 = |one: &super::Measured| time(Spread::of(&one.quantiles(0.99)).median);
        table.row([
            count(connections as u64),
            number(rate(ours)),
            number(rate(theirs)),
            ours.times(theirs).show(number),
            p99(ours),
            p99(theirs),
            ours.memory_cell(),
            ours.busy_cell(),
            theirs.busy_cell(),
        ]);
        points[0].push((real(connections as u64), rate(ours)));
        points[1].push((real(connections as u64), rate(theirs)));
        tokio::time::sleep(SETTLE).await;
    }
    section.show(table);
    let [ours, theirs] = points;
    let series =
        [svg::Series { name: "Callahead".into(), points: ours }, svg::Series { name: "bare".into(), points: theirs }];
    let labels =
        svg::Labels { title: "Cached answers by the policy protocol", x: "connections", y: "answers a second" };
    section.plots.push(("benchmarks-connections.svg".into(), svg::lines(labels, &series)));
    daemon.kill().await?;
    Ok(section)
}

/// From one configured domain to ten thousand.
///
/// # Errors
/// When a server fails.
pub async fn domains(bench: &Bench) -> anyhow::Result<Section> {
    let mut section = Section::new("Growth with domains");
    let size = Size { rounds: bench.size.rounds.min(3), ..bench.size.clone() };
    let bench = Bench { size, folder: bench.folder.clone() };
    section
        .say("Cached answers by the policy protocol, with the recipients spread evenly over the configured domains:");
    let mut table =
        Table::new(&["domains", "answers a second", "99th percentile", "peak memory", "generator busy", "start"]);
    let mut points = Vec::new();
    for &domains in &bench.size.by_domains {
        let setup = Setup::new(&bench.folder.join(format!("domains-{domains}")), ([127, 0, 0, 1], 9).into());
        let setup = Setup { domains, ..setup };
        let entries = bench.size.few.max(domains);
        fill(&setup, entries).await?;
        let daemon = Callahead::start(&setup).await?;
        let subjects = [Subject::new("Callahead", daemon.address("policy")?, Protocol::Policy, daemon.process())];
        let names = Names::random(entries).domains(domains);
        let measured = interleaved(&bench, &subjects, &daemon, &names, bench.size.connections).await?;
        for one in &measured {
            let rate = Spread::of(&one.rates());
            table.row([
                count(domains),
                rate.show(number),
                time(Spread::of(&one.quantiles(0.99)).median),
                one.memory_cell(),
                one.busy_cell(),
                time(daemon.ready_after.as_secs_f64() * 1e9),
            ]);
            points.push((real(domains), rate.median));
        }
        daemon.kill().await?;
    }
    section.show(table);
    let labels = svg::Labels { title: "Cached answers by the policy protocol", x: "domains", y: "answers a second" };
    let series = [svg::Series { name: "Callahead".into(), points }];
    section.plots.push(("benchmarks-domains.svg".into(), svg::lines(labels, &series)));
    Ok(section)
}
