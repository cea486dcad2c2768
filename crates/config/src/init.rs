//! The file that `config init` writes.

/// A configuration with every key: at its default, or commented out where the default is to have none.
pub const INIT: &str = include_str!("init.toml");
