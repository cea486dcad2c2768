//! The cache's file, looked through by a process of its own where the last one did not close it: what is wrong with the file may end the process
//! that reads it ([`callahead_cache::Ending`]).

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use callahead_cache::{Cache, Ending, look_through};
use tokio::process::Command;
use tokio::time::timeout;

use crate::cli::{DONE, NO};
use crate::output;

/// So many processes in a row that ended before the file was looked through: it is done before the next one opens it. That one is the fifth, as
/// many as systemd starts within 10 s where it is not told otherwise.
const ENDS: u32 = 4;
/// How long the start waits for that.
const PATIENCE: Duration = Duration::from_secs(30);
/// How a process is ended that reads what it should not trust: an abort, a page that is not there, an address that is none.
const FAULTS: [i32; 3] = [6, 7, 11];

/// What looking through the file came to.
enum Found {
    Sound,
    Damaged(String),
    /// Nobody knows.
    Nothing(String),
}

/// Before the cache in this folder is opened: after several ends in a row, since none of these processes lived for long enough.
pub(crate) async fn before_it_is_opened(folder: &Path) {
    if !matches!(Ending::of(folder), Ending::Badly(ends) if ends >= ENDS) {
        return;
    }
    tracing::warn!(
        "the process ended {ENDS} times or more without closing the cache: its file is looked through first"
    );
    let found = timeout(PATIENCE, look(folder, true)).await;
    let found = found.unwrap_or_else(|_| Found::Nothing(format!("it took longer than {} s", PATIENCE.as_secs())));
    let is_sound = matches!(found, Found::Sound);
    match found {
        Found::Sound => tracing::info!("the cache's file is sound"),
        Found::Damaged(what) => tracing::error!(what, "the cache's file is damaged"),
        Found::Nothing(why) => return tracing::warn!(why, "the cache's file could not be looked through"),
    }
    if let Err(error) = Ending::looked_through(folder, is_sound) {
        tracing::error!(%error, "what was found can't be written down");
    }
}

/// While it is in use: after one end that was none of ours.
pub(crate) async fn while_it_is_open(cache: Cache, folder: &Path) {
    if !matches!(cache.opened().before, Ending::Badly(_)) {
        return;
    }
    match look(folder, false).await {
        Found::Sound => {
            tracing::info!("the process before did not close the cache; its file was looked through and is sound");
            cache.looked_through(true);
        }
        Found::Damaged(what) => {
            tracing::error!(
                what,
                "the cache's file is damaged, which may end the process: the next start moves it aside and begins with an empty cache; \
                 restart Callahead when it suits you"
            );
            cache.looked_through(false);
        }
        Found::Nothing(why) => {
            tracing::warn!(why, "the cache's file could not be looked through");
            // A process that was killed while it read.
            cache.forget_ended_readers();
        }
    }
}

async fn look(folder: &Path, alone: bool) -> Found {
    // Not by its path, where a newer version may lie by now.
    let mut command = Command::new("/proc/self/exe");
    command.args(["cache", "look-through"]).args(alone.then_some("--alone")).arg(folder);
    command.env_remove("NOTIFY_SOCKET").stdin(Stdio::null()).kill_on_drop(true);
    let output = match command.output().await {
        Ok(output) => output,
        Err(error) => return Found::Nothing(error.to_string()),
    };
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    match (output.status.code(), output.status.signal()) {
        (Some(0), _) => Found::Sound,
        (Some(code), _) if code == i32::from(NO) => Found::Damaged(said),
        (None, Some(signal)) if FAULTS.contains(&signal) => {
            Found::Damaged(format!("it ended the process that looked through it ({})", output.status))
        }
        _ => Found::Nothing(format!("{}: {said}", output.status)),
    }
}

/// `callahead cache look-through`: the process that looks.
///
/// # Errors
/// When it can't be told whether the file is damaged.
pub fn run(folder: &Path, alone: bool) -> anyhow::Result<u8> {
    match look_through(folder, alone) {
        Ok(entries) => {
            output::print(&format!("{entries} entries\n"));
            Ok(DONE)
        }
        Err(error) if error.is_damage() => {
            output::remark(&error.to_string());
            Ok(NO)
        }
        Err(error) => Err(error.into()),
    }
}
