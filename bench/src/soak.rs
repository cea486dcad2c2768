//! The soak: does memory stay where it is while a daemon works for an hour?
//!
//! A thin mixture of all that a node sees: answers from the cache, callouts, messages through the gateway, HTTP, clears, clients that go
//! away within what they say. The rate is low on purpose. A leak shows by the number of questions, and an hour of a thin load has enough
//! of them to find a hundred octets lost in each.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::load::{Answer, Client, Names, Pace, Protocol, Target, ask, connect, names, open_loop};
use crate::process;
use crate::report::{Table, commit};
use crate::stats::{Spread, count, megabytes, number, real};
use crate::subject::{Callahead, Destination, Setup, fill};

/// Questions and other doings a second.
const RATE: u64 = 50;
/// Recipients that are asked for again and again.
const KNOWN: u64 = 10_000;
/// Mail clients that ask, by their addresses: few enough that all of them have been seen before memory is looked at.
const CLIENTS: u64 = 2_048;
/// Policy connections that stay open.
const CONNECTIONS: usize = 8;
/// What is asked before the first look, a second and for so long: more decisions than the pages hold that the decision log keeps of its file
/// (32 MiB). Without it memory would rise for a quarter of an hour until they are full.
const WARM: (f64, Duration) = (5_000.0, Duration::from_secs(20));
/// Between two looks at the daemon.
const LOOK: Duration = Duration::from_secs(10);
/// Between two clears of the domain.
const CLEAR_EVERY: u64 = 30;
/// How much more memory the last quarter may have than the second: what an allocator gives and takes, and no more.
const SLACK: f64 = 2e6;
/// How many more open files, likewise: sessions with the destination come and go.
const MORE_FILES: f64 = 25.0;
/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// One look.
#[derive(Clone, Copy, Debug)]
struct Look {
    minutes: f64,
    anonymous: f64,
    resident: f64,
    files: f64,
    cpu: f64,
    questions: u64,
}

/// Runs for so many minutes, and writes `soak.md` into a folder.
///
/// # Errors
/// When memory or open files have grown, a server fails, or an answer is wrong.
pub async fn run(minutes: u64, folder: &Path, output: &Path) -> anyhow::Result<()> {
    let span = Duration::from_secs(minutes.max(1) * 60);
    // Known ones, and new ones for a fifth of all questions.
    let mut destination = Destination::start(KNOWN + RATE * span.as_secs(), 1).await?;
    destination.take_messages().await?;
    let setup = Setup { gateway: true, ..Setup::new(&folder.join("soak"), destination.address()) };
    fill(&setup, KNOWN).await?;
    let daemon = Callahead::start(&setup).await?;
    let target = Target { address: daemon.address("policy")?, protocol: Protocol::Policy };
    let (rate, warm) = WARM;
    open_loop(target, &Names::random(KNOWN), CONNECTIONS, Pace::new(rate, warm)).await?;
    let mut traffic = Traffic::start(&daemon).await?;
    let (began, mut looks, mut due) = (Instant::now(), Vec::new(), LOOK);
    let mut ticks = interval(Duration::from_secs(1) / u32::try_from(RATE)?);
    // A machine that is busy elsewhere makes it slower, not later and then faster.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while began.elapsed() < span {
        ticks.tick().await;
        traffic.step().await?;
        if began.elapsed() >= due {
            due += LOOK;
            daemon.empty_log()?;
            looks.push(look(&daemon, began, traffic.questions).context("the daemon has ended")?);
            if (looks.len() as u64).is_multiple_of(CLEAR_EVERY) {
                daemon.clear_domain(names::DOMAIN).await?;
            }
        }
    }
    daemon.kill().await?;
    let judged = judge(&looks)?;
    std::fs::create_dir_all(output)?;
    std::fs::write(output.join("soak.md"), page(minutes, &looks, &judged))?;
    ensure!(judged.is_flat(), "{}", judged.sentence());
    Ok(())
}

fn look(daemon: &Callahead, began: Instant, questions: u64) -> Option<Look> {
    let id = daemon.process();
    Some(Look {
        minutes: began.elapsed().as_secs_f64() / 60.0,
        anonymous: process::anonymous(id)?,
        resident: process::resident(id)?.0,
        files: real(process::files(id)? as u64),
        cpu: process::cpu(id),
        questions,
    })
}

// === what is done ===

struct Traffic {
    policy: Vec<Client>,
    gateway: SocketAddr,
    policy_at: SocketAddr,
    http: SocketAddr,
    known: Names,
    new: Names,
    steps: u64,
    questions: u64,
}

impl Traffic {
    async fn start(daemon: &Callahead) -> anyhow::Result<Self> {
        let policy_at = daemon.address("policy")?;
        let target = Target { address: policy_at, protocol: Protocol::Policy };
        Ok(Self {
            policy: connect(target, CONNECTIONS).await?,
            gateway: daemon.address("gateway")?,
            policy_at,
            http: daemon.address("http")?,
            known: Names::random(KNOWN).for_connection(1),
            // Clients that guess are not told the truth.
            new: Names::distinct(KNOWN, u64::MAX).any_answer(true),
            steps: 0,
            questions: 0,
        })
    }

    /// The next thing: in twenty, thirteen questions for known recipients, four for new ones, a message, a page, and one who goes away.
    async fn step(&mut self) -> anyhow::Result<()> {
        self.steps += 1;
        let from = u32::try_from(self.steps.wrapping_mul(0x9e37_79b9_7f4a_7c15) % CLIENTS)?;
        match self.steps % 20 {
            0 => self.message().await.context("a message"),
            5 => self.page().await.context("a page"),
            10 => self.vanish().await.context("a client that goes away"),
            n => {
                let names = if n.is_multiple_of(5) || n == 7 { &mut self.new } else { &mut self.known };
                let Some(due) = names.advance() else { return Ok(()) };
                let at = usize::try_from(self.steps)? % self.policy.len();
                let client = &mut self.policy[at];
                client.speak_for(Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + from));
                // One that has guessed too often since the last clear is deferred.
                let due = if due == Answer::Reject { Answer::Any } else { due };
                ask(client, names.address(), due).await?;
                self.questions += 1;
                Ok(())
            }
        }
    }

    async fn message(&mut self) -> anyhow::Result<()> {
        let mut stream = TcpStream::connect(self.gateway).await?;
        let number = (self.steps % KNOWN) & !1;
        let mut to = String::new();
        names::write_address(&mut to, number, 1);
        let (rcpt, content) =
            (format!("RCPT TO:<{to}>\r\n"), format!("Subject: soak\r\n\r\n{}.\r\n", "x\r\n".repeat(200)));
        for (said, due) in [
            ("", "220"),
            ("EHLO client.example\r\n", "250"),
            ("MAIL FROM:<a@sender.example>\r\n", "250"),
            (&rcpt, "250"),
            ("DATA\r\n", "354"),
            (&content, "250"),
            ("QUIT\r\n", "221"),
        ] {
            let reply = exchange(&mut stream, said.as_bytes()).await?;
            ensure!(reply.starts_with(due), "{said:?} got {reply:?}");
        }
        self.questions += 1;
        Ok(())
    }

    async fn page(&mut self) -> anyhow::Result<()> {
        let mut stream = TcpStream::connect(self.http).await?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer)).await??;
        ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        Ok(())
    }

    /// Within a policy request, a request's head, an SMTP session, a message.
    async fn vanish(&mut self) -> anyhow::Result<()> {
        let mut to = String::new();
        names::write_address(&mut to, 0, 1);
        let envelope = format!("MAIL FROM:<a@sender.example>\r\nRCPT TO:<{to}>\r\n");
        let (at, said): (SocketAddr, Vec<&str>) = match self.steps / 20 % 4 {
            0 => (self.policy_at, vec!["request=smtpd_access_policy\nprotocol_state="]),
            1 => (self.http, vec!["GET /metrics HTTP/1.1\r\nHost:"]),
            2 => (self.gateway, vec!["EHLO client.example\r\n", &envelope]),
            _ => (self.gateway, vec!["EHLO client.example\r\n", &envelope, "DATA\r\n", "Subject: half a mess"]),
        };
        let mut stream = TcpStream::connect(at).await?;
        for words in said {
            stream.write_all(words.as_bytes()).await?;
            let mut heard = [0; 512];
            // Some of it gets a reply, and some does not.
            let _ = timeout(Duration::from_millis(5), stream.read(&mut heard)).await;
        }
        Ok(())
    }
}

/// Says something, and gives one whole reply.
async fn exchange(stream: &mut TcpStream, said: &[u8]) -> io::Result<String> {
    stream.write_all(said).await?;
    let mut reply = Vec::new();
    loop {
        if timeout(PATIENCE, stream.read_buf(&mut reply)).await?? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8_lossy(&reply);
        let last = text.trim_end().rsplit("\r\n").next().unwrap_or_default();
        if text.ends_with("\r\n") && last.as_bytes().get(3) == Some(&b' ') {
            return Ok(text.into_owned());
        }
    }
}

// === what came of it ===

#[derive(Clone, Copy, Debug)]
struct Judged {
    memory: [f64; 2],
    files: [f64; 2],
    questions: u64,
}

/// The first quarter is left out: caches of all sorts are filled there.
fn judge(looks: &[Look]) -> anyhow::Result<Judged> {
    ensure!(looks.len() >= 4, "a soak of so few minutes says nothing");
    let quarter = looks.len() / 4;
    let (second, last) = (&looks[quarter..2 * quarter], &looks[looks.len() - quarter..]);
    let median = |looks: &[Look], of: fn(&Look) -> f64| Spread::of(&looks.iter().map(of).collect::<Vec<_>>()).median;
    let both = |of| [median(second, of), median(last, of)];
    let middle = |looks: &[Look]| looks.get(looks.len() / 2).map_or(0, |look| look.questions);
    Ok(Judged {
        memory: both(|look| look.anonymous),
        files: both(|look| look.files),
        questions: middle(last).saturating_sub(middle(second)),
    })
}

impl Judged {
    fn grown(&self) -> f64 {
        self.memory[1] - self.memory[0]
    }

    fn is_flat(&self) -> bool {
        self.grown() <= SLACK && self.files[1] - self.files[0] <= MORE_FILES
    }

    fn sentence(&self) -> String {
        format!(
            "Anonymous memory (what no file stands behind), median of the second quarter against the last: {} and {}. Open files: {:.0} \
             and {:.0}. Between the two lie {} questions; {} more memory, or {MORE_FILES:.0} more files, would fail it, so a loss of {:.0} \
             octets a question would not pass unseen.",
            megabytes(self.memory[0]),
            megabytes(self.memory[1]),
            self.files[0],
            self.files[1],
            count(self.questions),
            megabytes(SLACK),
            SLACK / real(self.questions.max(1))
        )
    }
}

fn page(minutes: u64, looks: &[Look], judged: &Judged) -> String {
    let mut table = Table::new(&["minute", "questions", "anonymous", "resident", "open files", "CPU s"]);
    let step = (looks.len() / 12).max(1);
    for look in looks.iter().step_by(step).chain(looks.last()) {
        table.row([
            format!("{:.0}", look.minutes),
            count(look.questions),
            megabytes(look.anonymous),
            megabytes(look.resident),
            format!("{:.0}", look.files),
            format!("{:.1}", look.cpu),
        ]);
    }
    let rows: String = std::iter::once(&table.heads)
        .chain(std::iter::once(&vec!["---".to_owned(); table.heads.len()]))
        .chain(&table.rows)
        .map(|row| format!("| {} |\n", row.join(" | ")))
        .collect();
    format!(
        "# Memory over time\n\nThis file is written by `cargo xtask soak --memory MINUTES`; it was last run for {minutes} min, at commit {}.\n\n\
         One daemon, {RATE} doings a second: in twenty, thirteen questions for {} known recipients, four for new ones, a message through \
         the gateway, a look at /metrics, and a client that goes away within what it says. Every {} min the domain is cleared. \
         Before the first look {} questions were asked, which fill what the decision log's database keeps of its file in memory. Resident memory has the pages of the cache's file in it, which the system takes back when it needs them.\n\n{}\n\n{rows}",
        commit(),
        count(KNOWN),
        CLEAR_EVERY * LOOK.as_secs() / 60,
        number(WARM.0 * WARM.1.as_secs_f64()),
        judged.sentence()
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn looks(grows_by: f64) -> Vec<Look> {
        let look = |n: u32| Look {
            minutes: f64::from(n) / 6.0,
            anonymous: 20e6 + grows_by * f64::from(n),
            resident: 30e6,
            files: 40.0,
            cpu: 1.0,
            questions: u64::from(n) * 500,
        };
        (0..360).map(look).collect()
    }

    #[test]
    fn memory_that_grows_with_every_look_is_told_from_memory_that_stands() {
        assert!(judge(&looks(0.0)).unwrap().is_flat());
        let grown = judge(&looks(20e3)).unwrap();
        assert!(!grown.is_flat(), "{}", grown.sentence());
        assert!(judge(&looks(0.0)[..3]).is_err());
    }
}
