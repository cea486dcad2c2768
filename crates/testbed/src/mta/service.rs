//! Any other program of a Debian package that a test needs running: rspamd, say.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Child, Stdio};

use tempfile::TempDir;

use super::{Files, root};

/// A program in a root of its own. Dropping it ends it.
#[derive(Debug)]
pub struct Service {
    child: Child,
    dir: TempDir,
}

impl Service {
    /// Runs a shell command in the root of `package`, with `files` in its `/instance`. It does not wait for anything: the caller knows
    /// how the program shows that it is there.
    ///
    /// # Errors
    /// When the package is not there ("run cargo xtask test"), or it can't be run.
    pub fn start(package: &str, files: &Files, command: &str) -> io::Result<Self> {
        let dir = root::shared_dir()?;
        for (name, text) in files {
            let file = dir.path().join(name);
            file.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::write(file, text)?;
        }
        // As in `Mta`: everything lives as long as the shell, and that as long as its standard input.
        let script = format!("({command}) </dev/null >/instance/console.log 2>&1 & while read -r word; do :; done");
        let output = fs::File::create(dir.path().join("root.log"))?;
        let mut command = root::command(package, dir.path(), &["/bin/sh", "-c", &script])?;
        let child = command.stdin(Stdio::piped()).stdout(output.try_clone()?).stderr(output).spawn()?;
        Ok(Self { child, dir })
    }

    /// The folder that it sees as `/instance`.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// Whether it is still there.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Everything that it has said.
    pub fn log(&self) -> String {
        let read = |name: &str| fs::read(self.dir.path().join(name)).unwrap_or_default();
        ["root.log", "console.log"].map(|name| String::from_utf8_lossy(&read(name)).into_owned()).concat()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
        if std::thread::panicking() {
            let _ = io::Write::write_all(&mut io::stderr(), self.log().as_bytes());
        }
    }
}
