//! Open files: what holds ten thousand connections needs more of them than a process may have by default.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Allows so many open files, in this process and all that it starts from now on; nothing is taken away.
///
/// # Errors
/// When this process may not have as many, with what to do.
pub fn allow(files: u64) -> io::Result<()> {
    let now = getrlimit(Resource::Nofile);
    if now.current.is_none_or(|current| current >= files) {
        return Ok(());
    }
    let maximum = now.maximum.map_or(files, |maximum| maximum.max(files));
    setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum: Some(maximum) }).map_err(|error| {
        io::Error::other(format!(
            "10,000 connections need more open files than this process may have, and it may not raise that ({error}): run it as \
             root, or after ulimit -n {files}"
        ))
    })
}
