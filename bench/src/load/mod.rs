//! The load generator: one thread, many connections, and a histogram.
//!
//! - [`closed_loop`]: every connection asks, waits for its answer, and asks again. Gives the most answers a second. Each question that was
//!   asked in the time of the measurement is counted, however late its answer is.
//! - [`open_loop`]: questions leave at a fixed rate whatever the answers do, and a question that had to wait for its connection is
//!   counted from when it should have left, so that a server which stops for a moment is not asked less for it ("coordinated
//!   omission"). Each question that was due in the time of the measurement is counted, however late its answer is, and one without
//!   an answer as if it had taken all of the patience.
//!
//! An answer that is not the one that was due makes a measurement fail: a wrong answer has no speed. So do answers that do not come.

mod client;
pub mod http;
pub mod names;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use hdrhistogram::Histogram;
use tokio::task::LocalSet;

pub use client::{Answer, Client};
pub use names::{Names, Order};

use crate::process;
use crate::stats::real;

/// A measurement's first part is not counted: connections and caches of the processor get warm.
const WARM_UP: u32 = 5;
/// Latencies up to a minute, with three digits.
const LONGEST_NS: u64 = 60_000_000_000;
/// Connections that are made at the same time at a measurement's start.
const CONNECTING: usize = 100;
/// Questions a second that a timer can tell apart.
pub const TIMED: f64 = 500.0;
/// An answer that takes longer is a fault of the server, not a measurement.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of the questions that are due at a fixed rate, so many have to be answered.
const ANSWERED: f64 = 0.95;

/// How a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The policy delegation protocol, over connections that stay.
    Policy,
    /// SMTP, with so many RCPT in a session.
    Smtp {
        /// RCPT in a session.
        per_session: u32,
    },
}

/// Whom to ask, and how.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it speaks.
    pub protocol: Protocol,
}

/// How often to ask whatever the answers do.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Questions a second.
    pub rate: f64,
    /// How long.
    pub span: Duration,
    /// How long after that answers are waited for.
    pub patience: Duration,
}

/// What came of a measurement.
#[derive(Clone, Debug)]
pub struct Run {
    /// Answers counted.
    pub answers: u64,
    /// In which time, in seconds.
    pub seconds: f64,
    /// How long an answer took, in nanoseconds; at a fixed rate with those that did not come.
    pub latency: Histogram<u64>,
    /// CPU seconds that the generator itself used meanwhile.
    pub own_cpu: f64,
}

impl Pace {
    /// So many questions a second for so long, with the usual patience.
    pub fn new(rate: f64, span: Duration) -> Self {
        Self { rate, span, patience: PATIENCE }
    }
}

impl Run {
    /// Answers a second.
    pub fn rate(&self) -> f64 {
        if self.seconds > 0.0 { real(self.answers) / self.seconds } else { 0.0 }
    }

    /// A quantile of the latency, in nanoseconds; not a number where nothing was answered, so that it reaches no target.
    pub fn quantile(&self, quantile: f64) -> f64 {
        if self.latency.is_empty() { f64::NAN } else { real(self.latency.value_at_quantile(quantile)) }
    }
}

/// What the connections of one measurement share; they run on one thread.
struct Shared {
    counting: Cell<bool>,
    stop: Cell<bool>,
    answers: Cell<u64>,
    latency: RefCell<Histogram<u64>>,
}

impl Shared {
    fn new() -> anyhow::Result<Rc<Self>> {
        let latency = RefCell::new(Histogram::new_with_max(LONGEST_NS, 3)?);
        Ok(Rc::new(Self { counting: Cell::new(false), stop: Cell::new(false), answers: Cell::new(0), latency }))
    }

    fn count(&self, took: Duration) {
        self.answers.set(self.answers.get() + 1);
        self.took(took);
    }

    fn took(&self, took: Duration) {
        self.latency.borrow_mut().saturating_record(u64::try_from(took.as_nanos()).unwrap_or(LONGEST_NS));
    }

    /// Lets the connections work: first uncounted, then counted.
    async fn measure(&self, span: Duration) -> (f64, f64) {
        tokio::time::sleep(span / WARM_UP).await;
        let (began, cpu) = (Instant::now(), process::own_cpu());
        self.counting.set(true);
        tokio::time::sleep(span).await;
        self.counting.set(false);
        let took = began.elapsed().as_secs_f64();
        self.stop.set(true);
        (took, process::own_cpu() - cpu)
    }

    fn run(&self, (seconds, own_cpu): (f64, f64)) -> Run {
        Run { answers: self.answers.get(), seconds, latency: self.latency.borrow().clone(), own_cpu }
    }
}

/// Connections that stand ready.
///
/// # Errors
/// What the system or the server says.
pub async fn connect(target: Target, connections: usize) -> anyhow::Result<Vec<Client>> {
    let mut clients = Vec::with_capacity(connections);
    while clients.len() < connections {
        let some = CONNECTING.min(connections - clients.len());
        let mut making = tokio::task::JoinSet::new();
        for _ in 0..some {
            making.spawn(Client::connect(target));
        }
        while let Some(made) = making.join_next().await {
            clients.push(made??);
        }
    }
    Ok(clients)
}

/// Asks as fast as the answers come.
///
/// # Errors
/// When a connection breaks, or an answer is not the one that was due.
pub async fn closed_loop(target: Target, names: &Names, connections: usize, span: Duration) -> anyhow::Result<Run> {
    let clients = connect(target, connections).await?;
    let each = async |client: &mut Client, names: &mut Names, shared: &Shared, _: u32| {
        while !shared.stop.get() {
            let Some(due) = names.advance() else { break };
            // By when it was asked: one that is answered late would not count else, just because it is.
            let (began, counts) = (Instant::now(), shared.counting.get());
            ask(client, names.address(), due).await?;
            if counts {
                shared.count(began.elapsed());
            }
        }
        Ok(())
    };
    drive(clients, names, span, each).await
}

/// Asks at a pace. Up to [`TIMED`] a second a timer says when, and the processor is free until then; above that the thread
/// spins between two questions, as a timer's milliseconds are longer than the time between them.
///
/// # Errors
/// As [`closed_loop`], and when fewer than 95 % of the questions that were due were answered.
pub async fn open_loop(target: Target, names: &Names, connections: usize, pace: Pace) -> anyhow::Result<Run> {
    let Pace { rate, span, patience } = pace;
    let clients = connect(target, connections).await?;
    let between = Duration::from_secs_f64(real(connections as u64) / rate);
    let start = Instant::now() + Duration::from_millis(20);
    let counted_from = start + span / WARM_UP;
    let end = counted_from + span;
    let until = tokio::time::Instant::from(end + patience);
    let each = async move |client: &mut Client, names: &mut Names, shared: &Shared, number: u32| {
        let mut intended = start + between.mul_f64(f64::from(number) / real(connections as u64));
        while intended < end {
            // Late because of an answer that was late is the server's time; else the generator's.
            let mut began = intended;
            while Instant::now() < intended {
                if rate > TIMED {
                    tokio::task::yield_now().await;
                } else {
                    tokio::time::sleep_until(intended.into()).await;
                }
                began = Instant::now();
            }
            let due = names.advance().ok_or_else(|| io::Error::other("the recipients are used up"))?;
            let Ok(asked) = tokio::time::timeout_at(until, ask_patiently(client, names.address(), due)).await else {
                break;
            };
            asked?;
            if intended >= counted_from {
                shared.count(began.elapsed());
            }
            intended += between;
        }
        // What has no answer, and what was to be asked behind it.
        while intended < end {
            if intended >= counted_from {
                shared.took(patience);
            }
            intended += between;
        }
        Ok(())
    };
    let mut run = drive(clients, names, span, each).await?;
    run.seconds = span.as_secs_f64();
    let due = rate * run.seconds;
    ensure!(
        real(run.answers) >= due * ANSWERED,
        "{} of {due:.0} questions were answered, at {rate:.0} a second",
        run.answers
    );
    Ok(run)
}

/// Has each connection do the same for the time of a measurement, on this thread.
async fn drive<F>(clients: Vec<Client>, names: &Names, span: Duration, each: F) -> anyhow::Result<Run>
where
    F: AsyncFn(&mut Client, &mut Names, &Shared, u32) -> io::Result<()> + Clone + 'static,
{
    let shared = Shared::new()?;
    LocalSet::new()
        .run_until(async {
            let tasks: Vec<_> = clients
                .into_iter()
                .zip(0u32..)
                .map(|(mut client, number)| {
                    let mut names = names.for_connection(number as usize);
                    let (shared, each) = (Rc::clone(&shared), each.clone());
                    tokio::task::spawn_local(async move {
                        each(&mut client, &mut names, &shared, number).await?;
                        tokio::time::timeout(PATIENCE, client.quit()).await?
                    })
                })
                .collect();
            let measured = shared.measure(span).await;
            for task in tasks {
                task.await??;
            }
            anyhow::Ok(shared.run(measured))
        })
        .await
}

/// One question, whose answer has to be the one that is due.
///
/// # Errors
/// When the connection breaks, nothing comes within a minute, or something else is answered.
pub async fn ask(client: &mut Client, address: &str, due: Answer) -> io::Result<()> {
    tokio::time::timeout(PATIENCE, ask_patiently(client, address, due))
        .await
        .map_err(|_| io::Error::other(format!("{address}: no answer within {PATIENCE:?}")))?
}

async fn ask_patiently(client: &mut Client, address: &str, due: Answer) -> io::Result<()> {
    let answer = client.ask(address).await?;
    if answer != due && due != Answer::Any {
        return Err(io::Error::other(format!(
            "{address}: the answer is {answer:?} ({}) and should be {due:?}",
            client.last_reply()
        )));
    }
    Ok(())
}
