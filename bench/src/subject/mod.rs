//! What is measured: Callahead, its peers, the bare servers, and the destination behind them, each in processes of its own.

mod callahead;
mod decisions;
mod helper;
mod peers;

use std::net::SocketAddr;

pub use callahead::{Callahead, HARVEST, Setup, fill};
pub use decisions::{RARE, RARE_CLIENT, RARE_RECIPIENT, RARE_SENDER, SIZE, SPAN, fill_log};
pub use helper::{Destination, Helper, Told, serve_destination};
pub use peers::{Callout, Setting, exim, exim_rest, exim_settings, postfix, postfix_settings, versions};

use crate::load::{Protocol, Target};
use crate::process;

/// A server that is measured beside others.
pub struct Subject {
    /// Its name in tables.
    pub name: &'static str,
    /// How it is asked.
    pub target: Target,
    /// Its first process.
    pub process: u32,
    /// Whether its answers are constant, so that none is wrong.
    pub any_answer: bool,
}

impl Subject {
    /// A server at an address.
    pub fn new(name: &'static str, address: SocketAddr, protocol: Protocol, process: u32) -> Self {
        Self { name, target: Target { address, protocol }, process, any_answer: false }
    }

    /// One whose answers are constant.
    #[must_use]
    pub fn constant(mut self) -> Self {
        self.any_answer = true;
        self
    }

    /// CPU seconds that it and all that it started have used until now.
    pub fn cpu(&self) -> f64 {
        process::cpu(self.process)
    }
}
