//! Where it ran.

use std::fs;
use std::process::Command;

/// The machine and the versions of what was measured.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// When, RFC 3339.
    pub date: String,
    /// The processor's model.
    pub processor: String,
    /// Its cores.
    pub cores: usize,
    /// Memory.
    pub memory: String,
    /// The kernel.
    pub system: String,
    /// The compiler.
    pub compiler: String,
    /// Programs and their versions.
    pub versions: Vec<(String, String)>,
}

impl Machine {
    /// This one.
    pub fn here(versions: Vec<(String, String)>) -> Self {
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
            date: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
            processor: line("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory: kilobytes.map_or_else(unknown, |kb| format!("{:.0} GB", kb * 1024.0 / 1e9)),
            system: format!("Linux {}", said("uname", "-r").unwrap_or_else(unknown)),
            compiler: said("rustc", "--version").unwrap_or_else(unknown),
            versions,
        }
    }
}
