//! `callahead config`: check, show, init.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;

use crate::cli::{ConfigCommand, DONE, USAGE};
use crate::config::{Config, INIT};
use crate::output;

/// Does it.
///
/// # Errors
/// When the file can't be written.
pub fn run(command: ConfigCommand) -> anyhow::Result<u8> {
    match command {
        ConfigCommand::Check { config } => match Config::load(&config) {
            Ok(good) => {
                // What a start would fail for, beyond the file itself.
                if let Err(error) = good.gateway_settings() {
                    output::remark(&error.to_string());
                    return Ok(USAGE);
                }
                let listeners = good.listen.policy.len()
                    + good.listen.socketmap.len()
                    + good.listen.gateway.len()
                    + good.listen.http.len()
                    + good.listen.admin.len();
                output::print(&format!(
                    "{} is good: {}, {}\n",
                    config.display(),
                    count(good.domains.len(), "domain"),
                    count(listeners, "listener")
                ));
                Ok(DONE)
            }
            Err(error) => {
                output::remark(&error.to_string());
                Ok(USAGE)
            }
        },
        ConfigCommand::Show { config } => {
            output::print(&Config::load(&config)?.to_toml());
            Ok(DONE)
        }
        ConfigCommand::Init { output: None } => {
            output::print(INIT);
            Ok(DONE)
        }
        ConfigCommand::Init { output: Some(path) } => {
            write(&path).with_context(|| format!("{} can't be written", path.display()))?;
            output::print(&format!(
                "{} is written; \"callahead config check --config {0}\" reads it\n",
                path.display()
            ));
            Ok(DONE)
        }
    }
}

fn write(path: &Path) -> std::io::Result<()> {
    File::create_new(path)?.write_all(INIT.as_bytes())
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
