//! How often a question that the cache answers asks for memory. Each time costs more than a row of the table does, so a change
//! that adds one has to say so here.
#![allow(clippy::unwrap_used)]

mod common;

use callahead_engine::{Listener, Question};
use common::{Bench, accepted, rejected};

/// Of a valid recipient: its local part, its domain, its text, its key, and the destination and the reply's words in its record and in its
/// domain's.
const VALID: u64 = 8;
/// Of an invalid one: the text that the sender gets has "(cached)" behind it.
const INVALID: u64 = 10;

/// Allocations of one question, once everything is warm.
fn allocations(bench: &Bench, address: &str) -> u64 {
    let question = Question::new(address.as_bytes(), Listener::Policy);
    assert!(bench.engine.decide_cached(&question).is_ok(), "{address} is not kept");
    allocation_counter::measure(|| drop(bench.engine.decide_cached(&question))).count_total
}

#[tokio::test]
async fn a_hit_allocates_no_more_than_it_is_known_to() {
    let bench = Bench::new();
    bench.says(accepted()).ask("here@one.example").await;
    bench.says(rejected()).ask("gone@one.example").await;
    let (valid, invalid) = (allocations(&bench, "here@one.example"), allocations(&bench, "gone@one.example"));
    assert!(valid <= VALID, "{valid} allocations for a valid recipient");
    assert!(invalid <= INVALID, "{invalid} allocations for an invalid recipient");
    // What is counted is counted: an address takes two at the very least.
    assert!(valid >= 2, "{valid}");
}
