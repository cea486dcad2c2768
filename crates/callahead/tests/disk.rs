//! The daemon over a disk that is full, and over a cache file that is damaged.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use callahead_testbed::Script;
use callahead_testbed::mta::as_root;
use common::world::World;
use common::*;

/// So many mailboxes, `user0@one.example` and on.
const MAILBOXES: usize = 3000;

fn world() -> World {
    let mailboxes: Vec<_> = (0..MAILBOXES).map(|n| format!("user{n}@one.example")).collect();
    World::new(Script::with_mailboxes(mailboxes.iter().map(String::as_str)))
}

/// A tmpfs, unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(path: &Path, kib: usize) -> Self {
        fs::create_dir_all(path).unwrap();
        let size = format!("size={kib}k");
        let status = as_root("mount").unwrap().args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path).status().unwrap();
        assert!(status.success(), "a tmpfs can't be mounted: this test needs root, or sudo without a password");
        Self(path.to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = as_root("umount").map(|mut umount| umount.arg("-l").arg(&self.0).status());
    }
}

#[test]
fn real_disk_full_under_a_daemon_its_answers_go_on_and_it_says_what_is_wrong() {
    let world = world();
    let disk = Disk::mount(&world.dir.path().join("data"), 2048);
    let mut daemon = Daemon::start(&configure(&world.dir, &world.domain()));
    let cookie = daemon.set_up();
    let mut client = daemon.client();
    assert_eq!(client.ask("user0@one.example"), "DUNNO");
    assert!(!daemon.page(&cookie, "/").contains("can't be written"));
    let node = daemon.page(&cookie, "/node");
    assert!(!node.contains("in trouble"), "{node}");
    assert!(daemon.get("/readyz").starts_with("HTTP/1.1 200"));
    let mut file = fs::File::create(disk.0.join("full")).unwrap();
    while std::io::Write::write_all(&mut file, &[b'x'; 4096]).is_ok() {}
    drop(file);
    // Until there is no room left within the cache's own file.
    let mut asked = 1;
    let not_ready = loop {
        assert!(asked < MAILBOXES, "the disk is full, and nothing was noticed");
        for _ in 0..50 {
            assert_eq!(client.ask(&format!("user{asked}@one.example")), "DUNNO");
            asked += 1;
        }
        let ready = daemon.get("/readyz");
        if !ready.starts_with("HTTP/1.1 200") {
            break ready;
        }
    };
    assert!(not_ready.starts_with("HTTP/1.1 503") && not_ready.contains("the cache can't be written"), "{not_ready}");
    let overview = daemon.page(&cookie, "/");
    assert!(
        overview.contains("The cache can&#39;t be written") && overview.contains("Look at the disk."),
        "{overview}"
    );
    let node = daemon.page(&cookie, "/node");
    assert!(
        node.contains("<dt>Cache</dt><dd><span class=\"badge bad\">in trouble</span> The cache can&#39;t"),
        "{node}"
    );
    let metrics = daemon.get("/metrics");
    assert!(
        metrics.contains("callahead_cache_failing 1") && !metrics.contains("callahead_cache_write_errors_total 0"),
        "{metrics}"
    );
    let lost = || counter(&daemon, "callahead_log_lost_total");
    let waited = (0..500).any(|_| {
        client.ask("user1@one.example");
        std::thread::sleep(Duration::from_millis(20));
        lost() > 0
    });
    assert!(waited && counter(&daemon, "callahead_log_failing") == 1, "the log's loss is counted, too");
    assert!(daemon.get("/readyz").contains("decisions were not logged"), "{}", daemon.get("/readyz"));
    assert_eq!(client.ask("user0@one.example"), "DUNNO", "what was kept before is served");
    assert!(client.ask("nobody@one.example").starts_with("550 5.1.1"), "and what is new is asked for");
    let (code, _, error) = daemon.cache(&["clear", "--domain", "one.example"]);
    assert!(
        code == 0 || code == 3 && error.contains("can't be written"),
        "a clear holds or is refused: {code} {error}"
    );

    fs::remove_file(disk.0.join("full")).unwrap();
    assert!(client.ask("nobody-else@one.example").starts_with("550 5.1.1"));
    let ready = (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        daemon.get("/readyz").starts_with("HTTP/1.1 200")
    });
    assert!(ready, "there is room again: {}", daemon.get("/readyz"));
    let overview = daemon.page(&cookie, "/");
    assert!(!overview.contains("The cache can&#39;t be written"), "{overview}");
    let logged = (0..500).any(|_| {
        client.ask("user2@one.example");
        std::thread::sleep(Duration::from_millis(20));
        counter(&daemon, "callahead_log_failing") == 0
    });
    // The control database has had nothing to write since.
    assert!(logged && !daemon.get("/readyz").contains("not logged"), "{}", daemon.get("/readyz"));
    drop(daemon);
    drop(disk);
}

#[test]
fn a_log_that_is_damaged_or_can_not_be_opened_does_not_keep_a_daemon_from_its_work() {
    let world = world();
    let config = configure(&world.dir, &world.domain());
    let log = world.dir.path().join("data/log.db");
    fs::create_dir_all(&log).unwrap();
    let daemon = Daemon::start(&config);
    assert!(daemon.client().ask("nobody@one.example").starts_with("550 5.1.1"));
    let lost = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        counter(&daemon, "callahead_log_lost_total") == 1
    });
    assert!(lost && counter(&daemon, "callahead_log_failing") == 1);
    let ready = daemon.get("/readyz");
    assert!(ready.starts_with("HTTP/1.1 200") && ready.contains("log.db can't be opened"), "{ready}");
    let (code, _, error) = daemon.command(&["log"]);
    assert!(code == 3 && error.contains("the decision log can't be read"), "{code} {error}");
    daemon.kill();

    fs::remove_dir(&log).unwrap();
    fs::write(&log, vec![b'x'; 60_000]).unwrap();
    let daemon = Daemon::start(&config);
    assert!(daemon.client().ask("other@one.example").starts_with("550 5.1.1"));
    assert_eq!(counter(&daemon, "callahead_log_begun_anew"), 1);
    assert_eq!(fs::read(log.with_file_name("log.db.damaged")).unwrap().len(), 60_000);
    let ready = daemon.get("/readyz");
    assert!(ready.starts_with("HTTP/1.1 200") && !ready.contains("warnings"), "{ready}");
}

#[test]
fn a_damaged_cache_file_is_moved_aside_and_the_daemon_begins_with_an_empty_one() {
    let world = world();
    let config = configure(&world.dir, &world.domain());
    let daemon = Daemon::start(&config);
    assert!(daemon.client().ask("nobody@one.example").starts_with("550 5.1.1"));
    assert!(daemon.get("/metrics").contains("callahead_cache_begun_anew 0"));
    daemon.kill();
    let folder = world.dir.path().join("data/cache");
    fs::write(folder.join("data.mdb"), vec![b'x'; 60_000]).unwrap();
    let daemon = Daemon::start(&config);
    let answer = daemon.client().ask("nobody@one.example");
    assert!(answer.starts_with("550 5.1.1") && !answer.contains("cached"), "{answer}");
    assert!(daemon.get("/readyz").starts_with("HTTP/1.1 200"));
    assert!(daemon.get("/metrics").contains("callahead_cache_begun_anew 1"));
    let mut daemon = daemon;
    let cookie = daemon.set_up();
    assert!(daemon.page(&cookie, "/").contains("The cache file was damaged at the start."));
    assert_eq!(fs::read(folder.join("data.mdb.damaged")).unwrap().len(), 60_000);
}

/// Says of a recipient's entry that it is longer than the file, as a failing disk might, wherever it stands in the file. Whoever reads it reads
/// where nothing is, and is ended by the system.
fn make_fatal(cache: &Path, key: &[u8]) {
    let path = cache.join("data.mdb");
    let mut data = fs::read(&path).unwrap();
    let places: Vec<usize> = (8..data.len() - key.len()).filter(|at| data[*at..].starts_with(key)).collect();
    // In front of the key are four numbers of two octets: the length of the value in two halves, marks, and the length of the key.
    let length = u16::try_from(key.len()).unwrap().to_le_bytes();
    let entries: Vec<usize> = places.into_iter().filter(|at| data[at - 2..*at] == length).collect();
    assert!(!entries.is_empty());
    for at in entries {
        data[at - 6..at - 4].copy_from_slice(&0x0fff_u16.to_le_bytes());
    }
    fs::write(path, data).unwrap();
}

#[test]
fn a_cache_file_that_ends_the_process_is_found_out_and_moved_aside() {
    let world = world();
    let config = configure(&world.dir, &world.domain());
    let folder = world.dir.path().join("data/cache");
    let filled = || {
        let daemon = Daemon::start(&config);
        assert_eq!(daemon.client().ask("user7@one.example"), "DUNNO");
        daemon.stop();
        make_fatal(&folder, b"one.example\0user7");
    };
    filled();
    let daemon = Daemon::start(&config);
    assert_eq!(daemon.client().ask("user8@one.example"), "DUNNO", "others are answered");
    let mut client = daemon.client();
    client.send("user7@one.example").unwrap();
    assert!(client.answer().is_err());
    let (code, _) = daemon.end();
    assert_eq!(code, -1, "a fault ended it");

    // The next one lives, and learns what is wrong with the file without touching that entry.
    let mut daemon = Daemon::start(&config);
    let found = daemon.until("the cache's file is damaged");
    assert!(found["what"].as_str().unwrap().contains("signal: "), "{found}");
    let ready = daemon.get("/readyz");
    assert!(ready.starts_with("HTTP/1.1 200") && ready.contains("the cache file is damaged"), "{ready}");
    assert_eq!(counter(&daemon, "callahead_cache_damaged"), 1);
    assert_eq!(daemon.client().ask("user8@one.example"), "DUNNO");
    daemon.kill();

    let daemon = Daemon::start(&config);
    assert_eq!(daemon.client().ask("user7@one.example"), "DUNNO");
    assert_eq!((counter(&daemon, "callahead_cache_begun_anew"), counter(&daemon, "callahead_cache_damaged")), (1, 0));
    daemon.kill();
    let mut daemon = Daemon::start(&config);
    daemon.until("its file was looked through and is sound");
    assert_eq!(counter(&daemon, "callahead_cache_begun_anew"), 0);
    daemon.stop();

    // Where four in a row ended before that was known, it is looked at before the fifth opens it.
    filled();
    fs::write(folder.join("lock"), "open 3\n").unwrap();
    let daemon = Daemon::start(&config);
    assert_eq!(daemon.client().ask("user7@one.example"), "DUNNO");
    assert_eq!(counter(&daemon, "callahead_cache_begun_anew"), 1);
    assert!(folder.join("data.mdb.damaged").exists());
}

#[test]
fn a_sound_cache_file_is_looked_through_once_before_it_is_opened_and_not_at_every_start_after_that() {
    let world = world();
    let config = configure(&world.dir, &world.domain());
    let lock = world.dir.path().join("data/cache/lock");
    Daemon::start(&config).stop();
    // As four would leave it that ended before they knew.
    fs::write(&lock, "open 3\n").unwrap();
    let daemon = Daemon::start(&config);
    assert_eq!(fs::read_to_string(&lock).unwrap(), "open 0\n", "the ends before are no more to be feared");
    assert_eq!(counter(&daemon, "callahead_cache_begun_anew"), 0);
}

/// Entries enough for reading all of them to take a while.
const MANY: usize = 100_000;

/// Puts so many more into a cache that nobody has open.
async fn fill(folder: &Path, entries: std::ops::Range<usize>) {
    let now = callahead_cache::Timestamp(u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap());
    let cache = callahead_cache::Cache::open(folder, &callahead_cache::Options::default(), now).unwrap();
    let last = entries.end - 1;
    for n in entries {
        let recipient: callahead_smtp::Recipient = format!("entry{n}@one.example").parse().unwrap();
        let record = callahead_cache::Record {
            state: callahead_cache::RecipientState::Valid,
            checked_at: now,
            expires_at: now.after(Duration::from_secs(3600)),
            destination: String::new(),
            reply: None,
        };
        let put = cache.put_recipient(&recipient, record, callahead_cache::Epoch(1 << 40));
        if n % 10_000 == 0 || n == last {
            put.await.unwrap();
        }
    }
}

fn signal(process: &Running, name: &str) {
    assert!(Command::new("/bin/kill").args([name, &process.0.id().to_string()]).status().unwrap().success());
}

/// A look-through that was stopped in the midst of its reading; `None` where it was done before.
fn stopped_look_through(folder: &Path) -> Option<Running> {
    let look = program().args(["cache", "look-through"]).arg(folder).stdout(std::process::Stdio::null()).spawn();
    let mut look = Running(look.unwrap());
    let of_it = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", look.0.id())).unwrap_or_default();
    // In the midst of it: before that it may hold what LMDB locks while it opens a file.
    let read_kib = || {
        let maps = of_it("smaps");
        let mut data = maps.lines().skip_while(|line| !line.ends_with("data.mdb"));
        let resident = |line: &str| line.strip_prefix("Rss:")?.strip_suffix("kB")?.trim().parse::<u64>().ok();
        data.find_map(resident).unwrap_or(0)
    };
    // Stopped, or ended and not waited for yet: either takes signals.
    let state = || of_it("stat").rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    while read_kib() < 1000 && state() != Some('Z') {
        std::thread::sleep(Duration::from_millis(1));
    }
    signal(&look, "-STOP");
    loop {
        match state() {
            Some('T') => return Some(look),
            Some('Z') => {
                assert_eq!(look.0.wait().unwrap().code(), Some(0));
                return None;
            }
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

#[test]
fn a_process_that_a_killed_daemon_has_left_behind_does_no_harm_to_the_next_one() {
    let world = world();
    let config = configure(&world.dir, &world.domain());
    let folder = world.dir.path().join("data/cache");
    let daemon = Daemon::start(&config);
    daemon.stop();
    let mut look = (0..10).find_map(|n| {
        world.runtime.block_on(fill(&folder, n * MANY..(n + 1) * MANY));
        stopped_look_through(&folder)
    });
    let look = look.as_mut().expect("it was always too fast for this test");

    let daemon = Daemon::start(&config);
    assert_eq!(counter(&daemon, "callahead_cache_begun_anew"), 0);
    assert_eq!(
        daemon.client().ask("entry7@one.example"),
        "DUNNO",
        "as it is kept: the destination knows no such mailbox"
    );
    assert!(daemon.client().ask("nobody@one.example").starts_with("550 5.1.1"));
    assert_eq!(daemon.cache(&["clear", "--recipient", "entry7@one.example"]).0, 0);
    signal(look, "-CONT");
    assert_eq!(look.0.wait().unwrap().code(), Some(0));
    assert!(daemon.client().ask("entry7@one.example").starts_with("550 5.1.1"));
}
