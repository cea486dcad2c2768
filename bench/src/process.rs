//! What processes have used, from /proc (proc(5)).

use std::collections::HashMap;
use std::fs;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Clock ticks a second in /proc/PID/stat: USER_HZ, which is 100 on every Linux architecture that Debian has.
const TICKS: f64 = 100.0;

/// How often [`Watch`] looks, in a measurement of two seconds or more: each look takes some ten milliseconds of CPU from what is measured.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks at the memory of a process and its descendants while a measurement goes on, on a thread of its own.
#[derive(Debug)]
pub struct Watch {
    end: Sender<()>,
    looking: JoinHandle<f64>,
}

/// CPU time of a process, and of children of it that have ended and were waited for; and its parent.
fn stat(place: &str) -> Option<(u32, f64)> {
    let text = fs::read_to_string(format!("/proc/{place}/stat")).ok()?;
    // The name is in parentheses and may hold anything; what follows is the state, the parent, ...
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let parent = fields.get(1)?.parse().ok()?;
    // utime, stime, cutime, cstime are fields 14 to 17 of the whole line, so 11 to 14 here.
    let ticks: f64 = fields.get(11..15)?.iter().filter_map(|field| field.parse::<f64>().ok()).sum();
    Some((parent, ticks / TICKS))
}

/// CPU seconds of this thread.
pub fn own_cpu() -> f64 {
    stat("thread-self").map_or(0.0, |(_, cpu)| cpu)
}

/// A process and its descendants, each with its CPU seconds.
fn tree(root: u32) -> Vec<(u32, f64)> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut cpu = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some((id, (parent, seconds))) =
            entry.file_name().to_str().and_then(|name| Some((name.parse().ok()?, stat(name)?)))
        else {
            continue;
        };
        children.entry(parent).or_default().push(id);
        cpu.insert(id, seconds);
    }
    let mut tree = Vec::new();
    let mut left = vec![root];
    while let Some(id) = left.pop() {
        tree.push((id, cpu.get(&id).copied().unwrap_or_default()));
        left.extend(children.get(&id).into_iter().flatten());
    }
    tree
}

/// CPU time of a process and its descendants in user and kernel mode, in seconds; of those that ended too, where their parents waited
/// for them.
pub fn cpu(root: u32) -> f64 {
    tree(root).iter().map(|(_, cpu)| cpu).sum()
}

/// Memory of a process and its descendants, in bytes: each shared page in equal parts for those who share it (PSS).
pub fn memory(root: u32) -> f64 {
    tree(root).iter().filter_map(|(id, _)| rollup(*id, "Pss:")).sum()
}

impl Watch {
    /// Begins, for a measurement that goes on for so long: two looks are in it at least.
    pub fn start(root: u32, span: Duration) -> Self {
        let every = LOOK_EVERY.min(span / 2);
        let (end, ended) = channel();
        let looking = std::thread::spawn(move || {
            let mut most = 0.0_f64;
            while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                most = most.max(memory(root));
            }
            most
        });
        Self { end, looking }
    }

    /// Ends it, and gives the most that was seen, in bytes.
    pub fn end(self) -> f64 {
        drop(self.end);
        self.looking.join().unwrap_or(f64::NAN)
    }
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
