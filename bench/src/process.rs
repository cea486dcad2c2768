//! What processes have used, from /proc (proc(5)).

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{fs, io};

/// Clock ticks a second in /proc/PID/stat: USER_HZ, which is 100 on every Linux architecture that Debian has.
const TICKS: f64 = 100.0;

/// A process's share of memory, in /proc/PID/smaps_rollup.
const PSS: &str = "Pss:";

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

/// Memory of a process and its descendants, in bytes: each shared page in equal parts for those who share it (PSS). What belongs to another user
/// is read through sudo, which started it; not a number where that is not to be had.
pub fn memory(root: u32) -> f64 {
    summed(tree(root).into_iter().map(|(id, _)| rollup_file(id)), through_sudo)
}

/// The sum of these files; of those that this user may not read, from whoever may.
fn summed(files: impl Iterator<Item = (PathBuf, io::Result<String>)>, others: impl Fn(&[PathBuf]) -> f64) -> f64 {
    let (mut sum, mut closed) = (0.0, Vec::new());
    for (path, text) in files {
        match text {
            Ok(text) => sum += kilobytes(&text, PSS).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => closed.push(path),
            // It has ended meanwhile.
            Err(_) => {}
        }
    }
    if closed.is_empty() { sum } else { sum + others(&closed) }
}

fn through_sudo(paths: &[PathBuf]) -> f64 {
    let read = Command::new("sudo").args(["-n", "cat"]).args(paths).stderr(Stdio::null()).output();
    let text = read.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let each: Vec<f64> = text.lines().filter_map(|line| kilobytes(line, PSS)).collect();
    if each.is_empty() { f64::NAN } else { each.iter().sum() }
}

impl Watch {
    /// Begins, for a measurement that goes on for so long: two looks are in it at least.
    pub fn start(root: u32, span: Duration) -> Self {
        let every = LOOK_EVERY.min(span / 2);
        let (end, ended) = channel();
        let looking = std::thread::spawn(move || {
            let mut most = f64::NAN;
            while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                most = most.max(memory(root));
            }
            most
        });
        Self { end, looking }
    }

    /// Ends it, and gives the most that was seen, in bytes; not a number where nothing was.
    pub fn end(self) -> f64 {
        drop(self.end);
        self.looking.join().unwrap_or(f64::NAN)
    }
}

fn rollup_file(id: u32) -> (PathBuf, io::Result<String>) {
    let path = PathBuf::from(format!("/proc/{id}/smaps_rollup"));
    let text = fs::read_to_string(&path);
    (path, text)
}

/// Resident memory that no file stands behind: the page cache aside. In bytes.
pub fn anonymous(id: u32) -> Option<f64> {
    kilobytes(&rollup_file(id).1.ok()?, "Anonymous:")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_this_user_may_not_read_is_asked_for_elsewhere_and_never_left_out() {
        let files = |errors: &[io::ErrorKind]| {
            let read = (PathBuf::from("read"), Ok("Rss: 9 kB\nPss: 3 kB\n".to_owned()));
            let failed: Vec<_> = errors.iter().map(|kind| (PathBuf::from("other"), Err((*kind).into()))).collect();
            std::iter::once(read).chain(failed)
        };
        let nobody = |_: &[PathBuf]| f64::NAN;
        let (ended, closed) = (io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied);
        assert_eq!(summed(files(&[ended]), nobody), 3072.0);
        assert_eq!(summed(files(&[closed, ended]), |paths| 1e6 * paths.len() as f64), 1_003_072.0);
        assert!(summed(files(&[closed]), nobody).is_nan());
    }
}
