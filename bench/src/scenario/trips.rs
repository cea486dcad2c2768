//! A destination that is 50 ms away: how many round trips an answer takes.

use std::time::{Duration, Instant};

use super::Bench;
use crate::load::{Answer, Client, Protocol, Target, ask, names};
use crate::report::{Section, Table, Verdict};
use crate::stats::{Spread, count, number, time};
use crate::subject::{Callahead, Destination, Setup};

/// How far away the destination is: waited before each reply, or group of replies to commands that came together.
const ROUND_TRIP: Duration = Duration::from_millis(50);

/// In a session that is warm, and in a new one with a random local part before the question.
///
/// # Errors
/// When a server fails.
pub async fn run(bench: &Bench) -> anyhow::Result<Section> {
    let trips = bench.size.trips as u64;
    let mut section = Section::new("A destination that is 50 ms away");
    section.say(
        "The destination waits 50 ms before each reply, or group of replies to commands that came in one write. A connection over \
         loopback is made at once, so the round trip that TCP takes for it is added to the new session's by calculation.",
    );
    let mut table = Table::new(&["", "answers", "median", "round trips"]);

    // One domain that is known after the first question, and a session that is kept.
    let warm = {
        let mut destination = Destination::start(2 * trips + 2, 1).await?;
        destination.delay(ROUND_TRIP).await?;
        let daemon = Callahead::start(&Setup::new(&bench.folder.join("trips-warm"), destination.address())).await?;
        let mut took = timed(&daemon, (0..=trips).map(|number| 2 * number), 1).await?;
        took.remove(0);
        daemon.kill().await?;
        took
    };
    // No session is kept, and each question is in a domain of which nothing is known.
    let new = {
        let domains = 2 * trips;
        let mut destination = Destination::start(domains, domains).await?;
        destination.delay(ROUND_TRIP).await?;
        let setup = Setup::new(&bench.folder.join("trips-new"), destination.address());
        let setup = Setup { domains, callout: "idle = \"0s\"".into(), ..setup };
        let daemon = Callahead::start(&setup).await?;
        let mut took = timed(&daemon, (0..trips).map(|number| 2 * number), domains).await?;
        took.iter_mut().for_each(|took| *took += ROUND_TRIP.as_secs_f64());
        daemon.kill().await?;
        took
    };
    for (name, took, bound) in
        [("warm session", warm, 1.1), ("new session, without TLS, with the random probe", new, 4.2)]
    {
        let spread = Spread::of(&took);
        let in_trips = |seconds: f64| number(seconds / ROUND_TRIP.as_secs_f64());
        table.row([name.into(), count(trips), time(spread.median * 1e9), spread.show(in_trips)]);
        let median = spread.median / ROUND_TRIP.as_secs_f64();
        let within: Vec<bool> = took.iter().map(|took| took / ROUND_TRIP.as_secs_f64() <= bound).collect();
        let verdict = Verdict::new(
            &format!("cold answer, destination 50 ms away, {name}"),
            &format!("≤ {bound} round trips"),
            spread.show(in_trips),
            median <= bound,
        );
        section.verdicts.push(verdict.of_each("answers", &within));
    }
    section.show(table);
    Ok(section)
}

/// Seconds for each of these recipients, asked one after another.
async fn timed(daemon: &Callahead, numbers: impl Iterator<Item = u64>, domains: u64) -> anyhow::Result<Vec<f64>> {
    let target = Target { address: daemon.address("policy")?, protocol: Protocol::Policy };
    let mut client = Client::connect(target).await?;
    let mut took = Vec::new();
    for number in numbers {
        let mut address = String::new();
        names::write_address(&mut address, number, domains);
        let began = Instant::now();
        ask(&mut client, &address, Answer::Accept).await?;
        took.push(began.elapsed().as_secs_f64());
    }
    Ok(took)
}
