//! Where it ran.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The machine and the versions of what was measured.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Of which commit the code is.
    pub commit: String,
    /// When, RFC 3339.
    pub date: String,
    /// The processor's model.
    pub processor: String,
    /// Its cores.
    pub cores: usize,
    /// Memory.
    pub memory: String,
    /// The type of the file system that caches and logs are on.
    pub files: String,
    /// The kernel.
    pub system: String,
    /// The compiler.
    pub compiler: String,
    /// Programs and their versions.
    pub versions: Vec<(String, String)>,
}

/// In which variable `cargo xtask` says of which commit the code is that it has built.
const COMMIT: &str = "CALLAHEAD_COMMIT";

/// Of which commit the code is, as it was told at this program's start.
pub fn commit() -> String {
    std::env::var(COMMIT).unwrap_or_else(|_| "unknown".to_owned())
}

/// The type of the file system of a folder, marked where it is no disk.
fn file_system(folder: &Path) -> String {
    let said = Command::new("df").arg("--output=fstype").arg(folder).output();
    let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    match said.lines().nth(1).map(str::trim) {
        None | Some("") => "unknown".to_owned(),
        Some("tmpfs" | "ramfs") => {
            "**tmpfs, which is memory and no disk**: what syncs a commit or reads a file is faster here than on any disk".to_owned()
        }
        Some(name) => name.to_owned(),
    }
}

impl Machine {
    /// This one, with caches and logs in this folder.
    pub fn here(folder: &Path, versions: Vec<(String, String)>) -> Self {
        let line = |path: &str, key: &str| -> Option<String> {
            let text = fs::read_to_string(path).ok()?;
            let line = text.lines().find(|line| line.starts_with(key))?.split_once(':')?.1.trim().to_owned();
            Some(line)
        };
        let said = |program: &str, argument: &str| -> Option<String> {
            let output = Command::new(program).arg(argument).output().ok()?;
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let unknown = || "unknown".to_owned();
        let kilobytes = line("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
        Self {
            commit: commit(),
            date: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
            processor: line("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            files: file_system(folder),
            memory: kilobytes.map_or_else(unknown, |kb| format!("{:.0} GB", kb * 1024.0 / 1e9)),
            system: format!("Linux {}", said("uname", "-r").unwrap_or_else(unknown)),
            compiler: said("rustc", "--version").unwrap_or_else(unknown),
            versions,
        }
    }
}
