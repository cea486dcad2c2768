//! Connections that say nothing: what they cost in memory.

use std::time::Duration;

use anyhow::Context as _;

use super::Bench;
use crate::load::{Protocol, Target, ask, connect, names};
use crate::process;
use crate::report::{Section, Table, Verdict};
use crate::stats::{count, megabytes, number, real};
use crate::subject::{Callahead, Setup, fill};

/// Until the server has taken all connections in.
const SETTLE: Duration = Duration::from_millis(500);

/// Opens them, with one question each, and looks at the memory.
///
/// # Errors
/// When the daemon fails.
pub async fn run(bench: &Bench) -> anyhow::Result<Section> {
    let idle = bench.size.idle;
    let mut section = Section::new(&format!("{} idle client connections", count(idle as u64)));
    let setup = Setup::new(&bench.folder.join("idle"), ([127, 0, 0, 1], 9).into());
    fill(&setup, bench.size.few).await?;
    let daemon = Callahead::start(&setup).await?;
    let (before, _) = process::resident(daemon.process()).context("the daemon has ended")?;
    let target = Target { address: daemon.address("policy")?, protocol: Protocol::Policy };
    let mut clients = connect(target, idle).await?;
    // A connection that has been used keeps what it used.
    let mut questions = names::Names::random(bench.size.few);
    for client in &mut clients {
        if let Some(due) = questions.advance() {
            ask(client, questions.address(), due).await?;
        }
    }
    tokio::time::sleep(SETTLE).await;
    let (after, _) = process::resident(daemon.process()).context("the daemon has ended")?;
    drop(clients);
    daemon.kill().await?;
    section.say("Policy connections, each of which has asked once. Resident memory, with the pages of the cache that were read:");
    let mut table = Table::new(&["connections", "before", "with them", "for each"]);
    let each = (after - before).max(0.0) / real(idle as u64);
    table.row([count(idle as u64), megabytes(before), megabytes(after), format!("{} kB", number(each / 1e3))]);
    section.show(table);
    section.verdicts.push(Verdict::new(
        &format!("{} idle client connections", count(idle as u64)),
        "≤ 150 MB resident",
        megabytes(after),
        after <= 150e6,
    ));
    Ok(section)
}
