//! The `callahead` program: commands, and the wiring of the crates below.
//!
//! `main.rs` only calls [`cli::run`]. `check` and `verify` build a [`node::Node`] of their own for one command; `serve` and `demo` run a
//! [`serve::Server`] that listens.

pub mod account_command;
mod admin_client;
mod ask;
pub mod cache_command;
pub mod cache_file;
pub mod check;
pub mod cli;
pub mod config_command;
pub mod demo;
pub mod domain_command;
pub mod log_command;
pub mod logging;
pub mod node;
pub mod output;
pub mod serve;
pub mod token_command;
pub mod verify;
