//! A hundred clients ask for the same new recipient at the same time.

use std::time::Duration;

use super::Bench;
use crate::load::{Answer, Client, Protocol, Target, ask, connect, names};
use crate::report::{Section, Verdict};
use crate::stats::{Spread, number, real};
use crate::subject::{Callahead, Destination, Setup};

/// Clients.
const CLIENTS: usize = 100;
/// Recipients, one after another.
const TIMES: u64 = 10;

/// Counts the callouts.
///
/// # Errors
/// When a server fails.
pub async fn run(bench: &Bench) -> anyhow::Result<Section> {
    let mut section = Section::new("A hundred clients, the same new recipient");
    let mut destination = Destination::start(2 * TIMES + 2, 1).await?;
    destination.delay(Duration::from_millis(50)).await?;
    let daemon = Callahead::start(&Setup::new(&bench.folder.join("herd"), destination.address())).await?;
    let target = Target { address: daemon.address("policy")?, protocol: Protocol::Policy };
    // So that the domain is known, and no random local part is counted.
    let mut first = Client::connect(target).await?;
    ask(&mut first, &address(0), Answer::Accept).await?;
    destination.told().await?;
    let mut clients = connect(target, CLIENTS).await?;
    let mut callouts = Vec::new();
    for time in 1..=TIMES {
        let address = address(2 * time);
        let mut asking = tokio::task::JoinSet::new();
        for mut client in clients.drain(..) {
            let address = address.clone();
            asking.spawn(async move { ask(&mut client, &address, Answer::Accept).await.map(|()| client) });
        }
        while let Some(client) = asking.join_next().await {
            clients.push(client??);
        }
        callouts.push(real(destination.told().await?.rcpt));
    }
    daemon.kill().await?;
    let spread = Spread::of(&callouts);
    section.say(format!(
        "{CLIENTS} connections ask at the same time for a recipient that is new, {TIMES} times; the destination is 50 ms away, so \
         all questions are there before it answers. It counts RCPT commands: {} a time.",
        spread.show(number)
    ));
    section.verdicts.push(Verdict::new(
        "100 clients, the same new recipient",
        "1 callout",
        format!("{} callouts", spread.show(number)),
        (spread.max - 1.0).abs() < f64::EPSILON,
    ));
    Ok(section)
}

fn address(number: u64) -> String {
    let mut address = String::new();
    names::write_address(&mut address, number, 1);
    address
}
