//! A whole run: lives one after another over the same cache folder, until so many things have happened.

use std::cell::Cell;
use std::convert::Infallible;
use std::io::Write as _;
use std::path::Path;
use std::sync::Once;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use callahead_callout::TlsClient;
use tokio::runtime::Builder;

use crate::history::{Broken, History};
use crate::life::{End, Life};
use crate::world::World;

/// What a run was, for counting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Questions decided.
    pub decisions: u64,
    /// Of them, rejected.
    pub rejects: u64,
    /// Callouts made.
    pub callouts: u64,
    /// Clears asked for.
    pub clears: u64,
    /// Times that the node was started.
    pub lives: u64,
    /// The same for the same history only.
    pub digest: u64,
}

/// How long a run may take by the clock on the wall, and for each step of it: a hundred times what it does.
const PATIENCE: Duration = Duration::from_secs(60);
const A_STEP: Duration = Duration::from_millis(50);

thread_local! {
    static PANICKED: Cell<bool> = const { Cell::new(false) };
}

/// A panic in a task of the node ends the task and nothing else; here it has to be seen.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICKED.set(true);
            before(info);
        }));
    });
}

/// Ends the process and names the seed where its run comes to no end by the clock on the wall: with a waiter that nobody wakes, and nothing else
/// due, simulated time stands still for ever. The run is over when what this gives is dropped.
fn watchdog(seed: u64, steps: usize, history: History) -> Sender<Infallible> {
    let (over, ended) = channel();
    let limit = PATIENCE + steps.try_into().map_or(Duration::MAX, |steps: u32| A_STEP * steps);
    std::thread::spawn(move || {
        if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            let mut out = std::io::stderr().lock();
            let _ = writeln!(out, "seed {seed} with {steps} steps comes to no end; it has come to this:");
            // Behind the seed: whoever hangs may hold it.
            let _ = writeln!(out, "{}\nseed {seed} with {steps} steps comes to no end", history.trace().join("\n"));
            std::process::exit(101);
        }
    });
    over
}

/// Runs a seed: `steps` things happen, in as many lives of the node as that takes, over a cache in `folder`, which is empty at first.
///
/// # Errors
/// The promise that was broken, with the trace that led there.
pub fn run(seed: u64, steps: usize, folder: &Path, tls: &TlsClient) -> Result<Summary, Box<Broken>> {
    let world = World::new(seed);
    let _over = watchdog(seed, steps, world.history.clone());
    run_in(&world, steps, folder, tls)
}

/// What happens in a seed's run, line by line, whether or not a promise is broken.
pub fn trace(seed: u64, steps: usize, folder: &Path, tls: &TlsClient) -> Vec<String> {
    let world = World::new(seed);
    let outcome = run_in(&world, steps, folder, tls);
    let mut trace = world.history.trace();
    trace.extend(outcome.err().map(|broken| broken.what));
    trace
}

fn run_in(world: &World, steps: usize, folder: &Path, tls: &TlsClient) -> Result<Summary, Box<Broken>> {
    watch_panics();
    PANICKED.set(false);
    let failed = |what: String| Box::new(Broken { what, trace: Vec::new() });
    let mut left = steps;
    let mut lives = 0;
    loop {
        lives += 1;
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .map_err(|error| failed(format!("there is no runtime: {error}")))?;
        let end = runtime.block_on(async {
            let mut life = match Life::begin(world, folder, tls) {
                Ok(life) => life,
                Err(error) => {
                    world.history.check(false, || format!("the node does not start: {}", error.0));
                    return End::Crash;
                }
            };
            let end = match life.live(&mut left).await {
                Some(end) => end,
                None => {
                    // It asks for every recipient, and so takes as long as all the rest.
                    if world.chance.percent(30) {
                        life.calm().await;
                    }
                    End::Stop
                }
            };
            match end {
                End::Stop => life.stop().await,
                End::Crash => life.polite(false),
            }
            world.history.process_ended(end == End::Crash);
            // Before the runtime's time is gone.
            world.clock.end(Duration::ZERO);
            end
        });
        world.history.note(|| format!("the process ends: {end:?}"));
        world.end_life();
        // All tasks go with it, wherever they are.
        drop(runtime);
        world.history.check(!PANICKED.get(), || "something panicked".into());
        if let Some(broken) = world.history.broken() {
            return Err(Box::new(broken));
        }
        if left == 0 {
            break;
        }
        let down = Duration::from_millis(*world.chance.pick(&[10, 2_000, 600_000, 8_000_000]));
        world.clock.end(down);
        if world.chance.percent(15) {
            let back = Duration::from_millis(*world.chance.pick(&[400, 60_000, 4_000_000, 90_000_000]));
            world.history.note(|| format!("the clock is set back by {back:?}"));
            world.clock.back(back);
        }
    }
    let events = world.history.events();
    let (decisions, rejects, callouts) = (events.decisions, events.rejects, events.callouts);
    let clears = events.clears.len() as u64;
    drop(events);
    Ok(Summary { decisions, rejects, callouts, clears, lives, digest: world.history.digest() })
}
