//! The load generator: one thread, many connections, and a histogram.
//!
//! - [`closed_loop`]: every connection asks, waits for its answer, and asks again. Gives the most answers a second.
//! - [`open_loop`]: questions leave at a fixed rate whatever the answers do, and a question that had to wait for its connection is
//!   counted from when it should have left, so that a server which stops for a moment is not asked less for it ("coordinated
//!   omission").
//!
//! An answer that is not the one that was due makes a measurement fail: a wrong answer has no speed.

mod client;
pub mod http;
pub mod names;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

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

/// What came of a measurement.
#[derive(Clone, Debug)]
pub struct Run {
    /// Answers counted.
    pub answers: u64,
    /// In which time, in seconds.
    pub seconds: f64,
    /// How long an answer took, in nanoseconds.
    pub latency: Histogram<u64>,
    /// CPU seconds that the generator itself used meanwhile.
    pub own_cpu: f64,
}

impl Run {
    /// Answers a second.
    pub fn rate(&self) -> f64 {
        if self.seconds > 0.0 { real(self.answers) / self.seconds } else { 0.0 }
    }

    /// A quantile of the latency, in nanoseconds.
    pub fn quantile(&self, quantile: f64) -> f64 {
        real(self.latency.value_at_quantile(quantile))
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
        if self.counting.get() {
            self.answers.set(self.answers.get() + 1);
            self.latency.borrow_mut().saturating_record(u64::try_from(took.as_nanos()).unwrap_or(LONGEST_NS));
        }
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
            let began = Instant::now();
            ask(client, names.address(), due).await?;
            shared.count(began.elapsed());
        }
        Ok(())
    };
    drive(clients, names, span, each).await
}

/// Asks `rate` times a second. Up to [`TIMED`] a second a timer says when, and the processor is free until then; above that the thread
/// spins between two questions, as a timer's milliseconds are longer than the time between them.
///
/// # Errors
/// As [`closed_loop`].
pub async fn open_loop(
    target: Target,
    names: &Names,
    connections: usize,
    rate: f64,
    span: Duration,
) -> anyhow::Result<Run> {
    let clients = connect(target, connections).await?;
    let between = Duration::from_secs_f64(real(connections as u64) / rate);
    let start = Instant::now() + Duration::from_millis(20);
    let each = async move |client: &mut Client, names: &mut Names, shared: &Shared, number: u32| {
        let mut intended = start + between.mul_f64(f64::from(number) / real(connections as u64));
        loop {
            // Late because of an answer that was late is the server's time; else the generator's.
            let mut began = intended;
            while Instant::now() < intended && !shared.stop.get() {
                if rate > TIMED {
                    tokio::task::yield_now().await;
                } else {
                    tokio::time::sleep_until(intended.into()).await;
                }
                began = Instant::now();
            }
            let Some(due) = names.advance().filter(|_| !shared.stop.get()) else { break };
            ask(client, names.address(), due).await?;
            shared.count(began.elapsed());
            intended += between;
        }
        Ok(())
    };
    drive(clients, names, span, each).await
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
                        client.quit().await
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
    let answer = tokio::time::timeout(PATIENCE, client.ask(address))
        .await
        .map_err(|_| io::Error::other(format!("{address}: no answer within {PATIENCE:?}")))??;
    if answer != due && due != Answer::Any {
        return Err(io::Error::other(format!(
            "{address}: the answer is {answer:?} ({}) and should be {due:?}",
            client.last_reply()
        )));
    }
    Ok(())
}
