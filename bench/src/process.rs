//! What processes have used, from /proc (proc(5)).

use std::collections::HashMap;
use std::fs;

/// Clock ticks a second in /proc/PID/stat: USER_HZ, which is 100 on every Linux architecture that Debian has.
const TICKS: f64 = 100.0;

/// What is told of a process and everything that it started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// CPU time in user and kernel mode, in seconds; of processes that ended too, where their parents waited for them.
    pub cpu: f64,
    /// Memory, in bytes: each shared page in equal parts for those who share it (PSS).
    pub memory: f64,
}

/// CPU time of a process, and of children of it that have ended and were waited for; and its parent.
fn stat(id: u32) -> Option<(u32, f64)> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name is in parentheses and may hold anything; what follows is the state, the parent, ...
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let parent = fields.get(1)?.parse().ok()?;
    // utime, stime, cutime, cstime are fields 14 to 17 of the whole line, so 11 to 14 here.
    let ticks: f64 = fields.get(11..15)?.iter().filter_map(|field| field.parse::<f64>().ok()).sum();
    Some((parent, ticks / TICKS))
}

/// CPU seconds of this process.
pub fn own_cpu() -> f64 {
    stat(std::process::id()).map_or(0.0, |(_, cpu)| cpu)
}

/// What a process and its descendants have used.
pub fn usage(root: u32) -> Usage {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut cpu = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some((parent, seconds)) = stat(id) {
            children.entry(parent).or_default().push(id);
            cpu.insert(id, seconds);
        }
    }
    let mut usage = Usage::default();
    let mut left = vec![root];
    while let Some(id) = left.pop() {
        usage.cpu += cpu.get(&id).copied().unwrap_or_default();
        usage.memory += rollup(id, "Pss:").unwrap_or_default();
        left.extend(children.get(&id).into_iter().flatten());
    }
    usage
}

/// A line of /proc/PID/smaps_rollup, in bytes.
fn rollup(id: u32, key: &str) -> Option<f64> {
    kilobytes(&fs::read_to_string(format!("/proc/{id}/smaps_rollup")).ok()?, key)
}

/// Resident memory that no file stands behind: the page cache aside. In bytes.
pub fn anonymous(id: u32) -> Option<f64> {
    rollup(id, "Anonymous:")
}

/// Resident memory now, and the most that it ever was, in bytes.
pub fn resident(id: u32) -> Option<(f64, f64)> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    Some((kilobytes(&status, "VmRSS:")?, kilobytes(&status, "VmHWM:")?))
}

/// Open files of a process, sockets among them.
pub fn files(id: u32) -> Option<usize> {
    Some(fs::read_dir(format!("/proc/{id}/fd")).ok()?.count())
}

fn kilobytes(text: &str, key: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse::<f64>().ok().map(|kb| kb * 1024.0)
}
