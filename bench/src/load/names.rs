//! Which recipients are asked for, in which order, and what is the right answer.
//!
//! A recipient is `u<number>@<domain>`. Even numbers exist, odd ones do not; of `domains` > 1, number n lies in domain n modulo that.

use std::cell::Cell;
use std::fmt::Write as _;
use std::rc::Rc;

use super::Answer;

/// The first domain; further ones are `d1.bench.example`, ...
pub const DOMAIN: &str = "bench.example";

/// In which order.
#[derive(Clone, Debug)]
pub enum Order {
    /// At random, of so many numbers.
    Random(u64),
    /// One after another and none twice, from this one up to that one; the cell is shared by all connections.
    Distinct(Rc<Cell<u64>>, u64),
}

/// Of the recipients, those that are asked for.
#[derive(Clone, Debug)]
pub struct Names {
    /// The order.
    pub order: Order,
    /// Only those that exist (`Some(true)`), only those that do not, or both.
    pub existing: Option<bool>,
    /// Domains.
    pub domains: u64,
    /// Whatever is answered is right: for constant-answer servers.
    pub any_answer: bool,
    state: u64,
    address: String,
}

impl Names {
    /// At random, of so many numbers, in one domain, existing and not.
    pub fn random(count: u64) -> Self {
        Self::new(Order::Random(count.max(2)))
    }

    /// One after another, from `from` up to `to`.
    pub fn distinct(from: u64, to: u64) -> Self {
        Self::new(Order::Distinct(Rc::new(Cell::new(from)), to))
    }

    fn new(order: Order) -> Self {
        Self { order, existing: None, domains: 1, any_answer: false, state: 0, address: String::new() }
    }

    /// Only those that exist, or do not.
    #[must_use]
    pub fn existing(mut self, existing: bool) -> Self {
        self.existing = Some(existing);
        self
    }

    /// In so many domains.
    #[must_use]
    pub fn domains(mut self, domains: u64) -> Self {
        self.domains = domains.max(1);
        self
    }

    /// For a server whose answer is always the same.
    #[must_use]
    pub fn any_answer(mut self, any: bool) -> Self {
        self.any_answer = any;
        self
    }

    /// The number that is next where each is asked for once; 0 where they are random.
    pub fn next(&self) -> u64 {
        match &self.order {
            Order::Distinct(next, _) => next.get(),
            Order::Random(_) => 0,
        }
    }

    /// The same for one connection, with a random sequence of its own.
    #[must_use]
    pub fn for_connection(&self, number: usize) -> Self {
        Self { state: (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15), ..self.clone() }
    }

    /// Goes on to the next: what is the right answer, or `None` when they are used up.
    pub fn advance(&mut self) -> Option<Answer> {
        let number = match &self.order {
            Order::Random(count) => {
                let count = *count;
                next_random(&mut self.state) % count
            }
            Order::Distinct(next, to) => {
                let number = next.get();
                if number >= *to {
                    return None;
                }
                // In steps of two where only every second one is wanted.
                next.set(number + if self.existing.is_some() { 2 } else { 1 });
                number
            }
        };
        let number = match self.existing {
            Some(true) => number & !1,
            Some(false) => number | 1,
            None => number,
        };
        self.address.clear();
        write_address(&mut self.address, number, self.domains);
        Some(match (self.any_answer, exists(number)) {
            (true, _) => Answer::Any,
            (false, true) => Answer::Accept,
            (false, false) => Answer::Reject,
        })
    }

    /// The address that [`Names::advance`] went on to.
    pub fn address(&self) -> &str {
        &self.address
    }
}

/// SplitMix64: even, fast, and the same in every run.
pub fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Whether the recipient of this number exists.
pub fn exists(number: u64) -> bool {
    number.is_multiple_of(2)
}

/// The name of a domain by its number.
pub fn domain(number: u64) -> String {
    if number == 0 { DOMAIN.to_owned() } else { format!("d{number}.{DOMAIN}") }
}

/// Writes the address of this number behind what is there.
pub fn write_address(out: &mut String, number: u64, domains: u64) {
    let domain = if domains > 1 { number % domains } else { 0 };
    let _ = match domain {
        0 => write!(out, "u{number}@{DOMAIN}"),
        domain => write!(out, "u{number}@d{domain}.{DOMAIN}"),
    };
}
