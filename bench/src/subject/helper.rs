//! This program run again as a server: a bare one, or the destination. A helper ends when its standard input does, so when
//! this process ends in whatever way.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use callahead_testbed::{Destination as Simulated, Script};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::load::names;
use crate::process;

/// A helper process.
#[derive(Debug)]
pub struct Helper {
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Helper {
    /// Starts this program with these arguments; it has to print where it listens.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(arguments: &[&str]) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let input = child.stdin.take().context("a helper has no standard input")?;
        let mut lines = BufReader::new(child.stdout.take().context("a helper has no standard output")?).lines();
        let line = lines.next_line().await?.with_context(|| format!("{arguments:?} ended at its start"))?;
        let address = line.parse().with_context(|| format!("{arguments:?} said {line:?}"))?;
        Ok(Self { child, input, lines, address })
    }

    /// Its process id; 0 when it has ended.
    pub fn process(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    async fn tell(&mut self, words: &str) -> anyhow::Result<String> {
        self.input.write_all(format!("{words}\n").as_bytes()).await?;
        self.lines.next_line().await?.context("the helper has ended")
    }
}

/// The destination: the testbed's simulated server, in a process of its own.
#[derive(Debug)]
pub struct Destination(Helper);

/// What the destination was told until now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Connections.
    pub connections: u64,
    /// RCPT commands, random local parts among them.
    pub rcpt: u64,
}

impl Destination {
    /// Starts one that knows the even ones of so many recipients, in each of so many domains.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(mailboxes: u64, domains: u64) -> anyhow::Result<Self> {
        Helper::start(&["serve-destination", &mailboxes.to_string(), &domains.to_string()]).await.map(Self)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// CPU seconds that it has used until now.
    pub fn cpu(&self) -> f64 {
        process::cpu(self.0.process())
    }

    /// Waits so long before every reply: a round trip.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn delay(&mut self, delay: Duration) -> anyhow::Result<()> {
        let said = self.0.tell(&format!("delay {}", delay.as_millis())).await?;
        ensure!(said == "ok", "the destination said {said:?}");
        Ok(())
    }

    /// Takes messages from now on, as a gateway's destination has to.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn take_messages(&mut self) -> anyhow::Result<()> {
        let said = self.0.tell("take").await?;
        ensure!(said == "ok", "the destination said {said:?}");
        Ok(())
    }

    /// What it was told since the last time that this was asked.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn told(&mut self) -> anyhow::Result<Told> {
        let said = self.0.tell("told").await?;
        let numbers: Vec<u64> = said.split(' ').filter_map(|number| number.parse().ok()).collect();
        let &[connections, rcpt] = numbers.as_slice() else { anyhow::bail!("the destination said {said:?}") };
        Ok(Told { connections, rcpt })
    }
}

/// The destination's side: listens, prints where, and does what standard input says until that ends.
///
/// # Errors
/// When no socket is to be had.
pub fn serve_destination(mailboxes: u64, domains: u64) -> anyhow::Result<()> {
    let mut known = std::collections::HashSet::new();
    for number in (0..mailboxes).filter(|number| names::exists(*number)) {
        let mut address = String::new();
        names::write_address(&mut address, number, domains);
        known.insert(address);
    }
    let script = Script { mailboxes: known, rcpt_replies: HashMap::new(), ..Script::default() };
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let destination = Simulated::new(script);
        let listening = destination.listen().await?;
        writeln!(std::io::stdout(), "{}", listening.address())?;
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        let mut before = Told::default();
        while let Some(line) = lines.next_line().await? {
            if let Some(delay) = line.strip_prefix("delay ") {
                destination.script().reply_delay = Duration::from_millis(delay.parse()?);
                writeln!(std::io::stdout(), "ok")?;
            } else if line == "take" {
                destination.script().takes_messages = true;
                writeln!(std::io::stdout(), "ok")?;
            } else if line == "told" {
                let now = destination
                    .look(|record| Told { connections: record.connections as u64, rcpt: record.rcpt as u64 });
                writeln!(std::io::stdout(), "{} {}", now.connections - before.connections, now.rcpt - before.rcpt)?;
                before = now;
            }
        }
        drop(listening);
        Ok(())
    })
}
