//! Twelve hundred seeds, and the proof that a seed replays. `cargo xtask soak` runs thousands of others.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use callahead_callout::TlsClient;
use callahead_simulation::{STEPS, Totals, folder, run};

fn run_all(seeds: std::ops::Range<u64>, steps: usize) -> Totals {
    let tls = TlsClient::new(&[]).unwrap();
    let mut totals = Totals::default();
    for seed in seeds {
        let folder = folder().unwrap();
        match run(seed, steps, folder.path(), &tls) {
            Ok(summary) => totals.add(&summary),
            Err(broken) => panic!(
                "{broken}\nseed {seed} broke a promise (see the last line). Again: \
                 cargo run -p callahead-simulation -- --seed {seed} --steps {steps}"
            ),
        }
    }
    println!("{totals}");
    totals
}

/// A simulation in which nothing happens proves nothing.
fn six_hundred_from(first: u64) {
    let totals = run_all(first..first + 600, STEPS).sum;
    assert!(totals.decisions > 60_000 && totals.rejects > 18_000, "{totals:?}");
    assert!(totals.callouts > 24_000 && totals.clears > 3_000 && totals.lives > 1_200, "{totals:?}");
}

#[test]
fn no_seed_of_the_first_six_hundred_breaks_a_promise() {
    six_hundred_from(0);
}

#[test]
fn no_seed_of_the_second_six_hundred_breaks_a_promise() {
    six_hundred_from(600);
}

#[test]
fn long_runs_break_none_either() {
    run_all(1_000_000..1_000_010, 20 * STEPS);
}

#[test]
fn a_seed_replays_to_the_last_event() {
    let tls = TlsClient::new(&[]).unwrap();
    for seed in 0..30 {
        let (first, again) = (folder().unwrap(), folder().unwrap());
        let first = run(seed, STEPS, first.path(), &tls).unwrap();
        let again = run(seed, STEPS, again.path(), &tls).unwrap();
        assert_eq!(first, again, "seed {seed} had another history the second time");
        assert_ne!(run(seed + 1, STEPS, folder().unwrap().path(), &tls).unwrap().digest, first.digest);
    }
}
