//! `callahead config`: check, show, init.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use anyhow::{Context as _, anyhow};
use callahead_config::{Config, INIT};
use serde_json::json;

use crate::cli::{ConfigCommand, DONE, USAGE};
use crate::output;

/// Does it.
///
/// # Errors
/// When the file can't be written.
pub fn run(command: ConfigCommand) -> anyhow::Result<u8> {
    match command {
        ConfigCommand::Check { config, json } => Ok(check(&config, json)),
        ConfigCommand::Show { config, json } => {
            let shown = Config::load(&config)?.to_toml();
            if json {
                let value: serde_json::Value = toml::from_str(&shown).context("what is shown is no TOML")?;
                output::print(&format!("{value}\n"));
            } else {
                output::print(&shown);
            }
            Ok(DONE)
        }
        ConfigCommand::Init { output: None } => {
            output::print(INIT);
            Ok(DONE)
        }
        ConfigCommand::Init { output: Some(path) } => {
            if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                std::fs::create_dir_all(folder)
                    .with_context(|| format!("the folder {} can't be made", folder.display()))?;
            }
            write(&path).map_err(|error| match error.kind() {
                ErrorKind::AlreadyExists => anyhow!("{} is there already; name another file", path.display()),
                _ => anyhow!("{} can't be written: {error}", path.display()),
            })?;
            output::print(&format!(
                "{} is written; \"callahead config check --config {0}\" reads it\n",
                path.display()
            ));
            Ok(DONE)
        }
    }
}

fn check(path: &Path, as_json: bool) -> u8 {
    let loaded = Config::check(path).map_err(|error| error.0);
    if as_json {
        let mistakes = loaded.as_ref().err().map_or(&[][..], |mistakes| mistakes);
        let remarks = loaded.as_ref().map_or(&[][..], |(_, remarks)| remarks);
        output::print(&format!("{}\n", json!({"good": loaded.is_ok(), "mistakes": mistakes, "warnings": remarks})));
    }
    match loaded {
        Ok(_) if as_json => DONE,
        Ok((good, remarks)) => {
            output::warnings(&remarks);
            let listen = &good.listen;
            let listeners =
                [&listen.policy, &listen.socketmap, &listen.milter, &listen.gateway, &listen.http, &listen.admin];
            output::print(&format!(
                "{} is good: {}, {}\n",
                path.display(),
                count(good.domains.len(), "domain"),
                count(listeners.iter().map(|places| places.len()).sum(), "listener")
            ));
            DONE
        }
        Err(mistakes) => {
            if !as_json {
                output::remark(&mistakes.join("\n"));
            }
            USAGE
        }
    }
}

fn write(path: &Path) -> std::io::Result<()> {
    File::create_new(path)?.write_all(INIT.as_bytes())
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
