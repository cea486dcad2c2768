//! Disks that are full or read-only, and files that are not as they were left. The tests named `real_` mount a tmpfs, which needs root, or sudo
//! without a password.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use callahead_cache::{
    Cache, CacheError, Ending, Filter, Options, Put, RecipientState, Record, Scope, Timestamp, look_through,
};
use callahead_smtp::Recipient;
use callahead_testbed::mta::as_root;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn options() -> Options {
    Options { map_size: 256 << 20, ..Options::default() }
}

fn recipient(n: usize) -> Recipient {
    format!("user{n}@one.example").parse().unwrap()
}

async fn put(cache: &Cache, n: usize) -> Result<Put, CacheError> {
    let recipient = recipient(n);
    let epoch = cache.lookup(&recipient)?.epoch;
    cache.put_recipient(&recipient, valid(), epoch).await
}

fn valid() -> Record<RecipientState> {
    Record {
        state: RecipientState::Valid,
        checked_at: NOW,
        expires_at: NOW.after(Duration::from_secs(3600)),
        destination: "mx.example:25".into(),
        reply: None,
    }
}

/// A folder with a cache of so many entries.
async fn filled(entries: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path(), &options(), NOW).unwrap();
    let mut puts = tokio::task::JoinSet::new();
    for n in 0..entries {
        let cache = cache.clone();
        puts.spawn(async move { put(&cache, n).await.unwrap() });
    }
    while puts.join_next().await.is_some() {}
    drop(cache);
    dir
}

/// A power cut loses at most the last second.
#[tokio::test]
async fn what_was_learned_is_on_disk_within_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path(), &options(), NOW).unwrap();
    let mut took = Vec::new();
    // A disk that is busy with others' syncs may take longer once.
    for n in 0..5 {
        // What waits longest comes right behind a commit.
        put(&cache, 2 * n).await.unwrap();
        let began = Instant::now();
        put(&cache, 2 * n + 1).await.unwrap();
        took.push(began.elapsed());
        if took.last().is_some_and(|took| *took < Duration::from_secs(1)) {
            return;
        }
    }
    panic!("{took:?}");
}

/// A disk of its own, of so many KiB.
struct Disk(PathBuf, #[allow(dead_code, reason = "held for its drop")] tempfile::TempDir);

impl Disk {
    fn of(kib: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        fs::create_dir(&path).unwrap();
        let disk = Self(path, folder);
        disk.mount(&["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"]);
        disk
    }

    fn mount(&self, args: &[&str]) {
        let status = as_root("mount").unwrap().args(args).arg(&self.0).status().unwrap();
        assert!(status.success(), "a tmpfs can't be mounted: this test needs root, or sudo without a password");
    }

    /// Takes what room is left, but for so many bytes.
    fn fill(&self) {
        let chunk = vec![b'x'; 4096];
        let mut file = fs::File::create(self.0.join("full")).unwrap();
        while std::io::Write::write_all(&mut file, &chunk).is_ok() {}
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("full")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = as_root("umount").map(|mut umount| umount.arg("-l").arg(&self.0).status());
    }
}

#[tokio::test]
async fn real_disk_full_lookups_go_on_and_what_fails_says_so_until_there_is_room() {
    let disk = Disk::of(4096);
    let dir = disk.0.join("cache");
    let cache = Cache::open(&dir, &options(), NOW).unwrap();
    for n in 0..100 {
        assert_eq!(put(&cache, n).await.unwrap(), Put::Written);
    }
    disk.fill();
    // A few may fit into pages that are free.
    let mut failed = None;
    for n in 100..2000 {
        if let Err(error) = put(&cache, n).await {
            failed = Some(error.to_string());
            break;
        }
    }
    let failed = failed.expect("the disk is full");
    assert!(failed.starts_with("the cache can't be written: ") && failed.contains("space"), "{failed}");
    assert!(cache.health().write_error.is_some() && cache.health().failed_commits > 0);
    // Clearing one recipient after another, until there is no room for that either.
    let mut refused = None;
    for n in 0..100 {
        let cleared = cache.clear(Scope::Recipient(recipient(n)), NOW).await;
        let kept = cache.lookup(&recipient(n)).unwrap().recipient.is_some();
        assert_eq!(cleared.is_err(), kept, "acknowledged means cleared, and refused means that nothing was");
        if cleared.is_err() {
            refused = Some(n);
            break;
        }
    }
    // More threads at once than there are places in the first page of LMDB's table of readers.
    let threads: Vec<_> = (0..200)
        .map(|n| {
            let cache = cache.clone();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                cache.lookup(&recipient(n % 100)).map(drop)
            })
        })
        .collect();
    assert!(threads.into_iter().all(|thread| thread.join().unwrap().is_ok()));

    disk.make_room();
    assert_eq!(put(&cache, 5000).await.unwrap(), Put::Written);
    assert_eq!(cache.health().write_error, None);
    drop(cache);
    let cache = Cache::open(&dir, &options(), NOW).unwrap();
    for n in 0..refused.unwrap_or(100) {
        assert_eq!(
            cache.lookup(&recipient(n)).unwrap().recipient,
            None,
            "a clear that was acknowledged on a full disk holds"
        );
    }
    assert!(cache.lookup(&recipient(5000)).unwrap().recipient.is_some());
}

#[tokio::test]
async fn real_disk_full_or_read_only_at_the_start_is_one_sentence_and_no_reason_to_begin_anew() {
    let disk = Disk::of(512);
    disk.fill();
    let full = Cache::open_or_begin_anew(&disk.0.join("cache"), &options(), NOW).unwrap_err();
    assert!(!full.is_damage() && full.to_string().contains("cache"), "{full}");
    disk.make_room();
    drop(Cache::open(&disk.0.join("cache"), &options(), NOW).unwrap());
    disk.mount(&["-o", "remount,ro"]);
    let read_only = Cache::open_or_begin_anew(&disk.0.join("cache"), &options(), NOW).unwrap_err();
    let said = read_only.to_string();
    assert!(!read_only.is_damage() && said.contains("can't be used") && said.contains("Read-only"), "{said}");
}

/// What is left of a file, opened as the daemon does; and everything in it is asked for, so that what is not right would show.
async fn survives(dir: &Path, entries: usize) -> bool {
    let cache = Cache::open_or_begin_anew(dir, &options(), NOW).unwrap();
    for n in 0..entries {
        // An error is no answer, and so a callout.
        if let Ok(lookup) = cache.lookup(&recipient(n))
            && let Some(record) = lookup.recipient
        {
            assert_eq!((record.state, record.checked_at), (RecipientState::Valid, NOW), "nothing corrupt is served");
        }
    }
    if put(&cache, 0).await.is_ok() {
        assert!(cache.lookup(&recipient(0)).unwrap().recipient.is_some());
    }
    cache.opened().replaced
}

#[tokio::test]
async fn a_file_that_is_cut_anywhere_is_survived_and_begun_anew_where_much_is_missing() {
    let whole = filled(6000).await;
    let data = fs::read(whole.path().join("data.mdb")).unwrap();
    assert!(data.len() > 100 * 4096, "{} bytes are too few for this test", data.len());
    let mut random = StdRng::seed_from_u64(1);
    let mut cuts: Vec<usize> = (0..40).map(|_| random.random_range(0..data.len())).collect();
    cuts.extend([1, 100, 4096, 8191, 8192, 8193, data.len() - 1, data.len() - 4096, data.len() - 20 * 4096]);
    for cut in cuts {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("data.mdb"), &data[..cut]).unwrap();
        let replaced = survives(dir.path(), 6000).await;
        assert!(replaced || cut > data.len() - 70 * 4096, "cut at {cut} of {}", data.len());
        assert_eq!(replaced, dir.path().join("data.mdb.damaged").exists());
    }
}

#[tokio::test]
async fn a_file_that_is_none_of_ours_is_moved_aside_and_one_is_kept() {
    let mut text = b"this is no cache\n".to_vec();
    text.resize(40_000, b'x');
    let whole = filled(10).await;
    let mut other_version = fs::read(whole.path().join("data.mdb")).unwrap();
    // LMDB's version, behind the page's head and the magic number, in both heads of the file.
    for page in [0, 4096] {
        let magic =
            other_version[page..page + 64].windows(4).position(|four| four == [0xde, 0xc0, 0xef, 0xbe]).unwrap();
        other_version[page + magic + 4] ^= 0x55;
    }
    for contents in [text, vec![0; 40_000], vec![0xff; 100], other_version] {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            fs::write(dir.path().join("data.mdb"), &contents).unwrap();
            let plain = Cache::open(dir.path(), &options(), NOW).unwrap_err();
            assert!(plain.is_damage() && plain.to_string().contains("move it away"), "{plain}");
            assert!(survives(dir.path(), 10).await);
            assert_eq!(fs::read(dir.path().join("data.mdb.damaged")).unwrap(), contents);
        }
        let cache = Cache::open_or_begin_anew(dir.path(), &options(), NOW).unwrap();
        assert!(!cache.opened().replaced, "a sound file is left where it is");
    }
}

#[tokio::test]
async fn two_processes_at_once_are_no_damage() {
    let dir = filled(1).await;
    let _first = Cache::open(dir.path(), &options(), NOW).unwrap();
    let second = Cache::open_or_begin_anew(dir.path(), &options(), NOW);
    assert!(matches!(second, Err(CacheError::InUse { .. })));
}

/// Changes the file wherever these octets are in it: some pages are copies that are read no more.
fn change(dir: &Path, octets: &[u8], change: impl Fn(&mut [u8])) {
    let file = fs::File::options().read(true).write(true).open(dir.join("data.mdb")).unwrap();
    let mut data = fs::read(dir.join("data.mdb")).unwrap();
    let places: Vec<usize> = (0..data.len() - octets.len() - 16).filter(|at| data[*at..].starts_with(octets)).collect();
    assert!(!places.is_empty());
    for at in places {
        let changed = &mut data[at..at + octets.len() + 16];
        change(changed);
        file.write_all_at(changed, at as u64).unwrap();
    }
}

#[tokio::test]
async fn octets_of_a_record_that_change_on_the_disk_are_a_miss_and_counted_whether_it_is_open_or_not() {
    for is_open in [false, true] {
        let dir = filled(100).await;
        let open = || Cache::open(dir.path(), &options(), NOW).unwrap();
        let cleared = open().clear(Scope::Domain("other.example".parse().unwrap()), NOW).await.unwrap().epoch;
        let mut cache = is_open.then(open);
        if let Some(cache) = &cache {
            assert!(cache.lookup(&recipient(7)).unwrap().recipient.is_some());
        }
        change(dir.path(), b"mx.example:25", |found| found[0] ^= 0x10);
        let cache = cache.take().unwrap_or_else(open);
        for n in 0..100 {
            let lookup = cache.lookup(&recipient(n)).unwrap();
            assert_eq!((lookup.recipient, lookup.domain), (None, None), "{n}, open: {is_open}");
            assert_eq!((lookup.floor, lookup.epoch), (cleared, cleared), "the slot may have held any clear");
        }
        assert_eq!(cache.health().unreadable, 100);
        assert_eq!(put(&cache, 7).await.unwrap(), Put::Written, "what is learned anew is kept");
        assert!(cache.lookup(&recipient(7)).unwrap().recipient.is_some());
    }
}

#[tokio::test]
async fn a_key_without_its_end_holds_up_no_list_of_domains() {
    let dir = filled(100).await;
    let open = || Cache::open(dir.path(), &options(), NOW).unwrap();
    drop(open());
    change(dir.path(), b"one.example\0user7", |found| found[11] = 8);
    let cache = open();
    let (counts, next) = cache.domain_counts(None, 10).unwrap();
    assert!(next.is_none() && counts.len() == 1, "{counts:?}");
}

#[tokio::test]
async fn routes_outlive_a_start_and_a_clear_and_one_that_changes_on_the_disk_is_another() {
    let dir = filled(1).await;
    let open = || Cache::open(dir.path(), &options(), NOW).unwrap();
    let cache = open();
    assert!(cache.routes().unwrap().is_empty());
    let kept = |name: &str, hops: &str| (name.to_owned(), Some(hops.to_owned()));
    let routes = vec![kept("one.example", "mx"), kept("*.two.example", "mail1.example.net:25 mail2.example.net:25")];
    cache.keep_routes(routes).await.unwrap();
    cache.keep_routes(vec![kept("three.example", "mx"), ("one.example".into(), None)]).await.unwrap();
    cache.keep_routes(vec![("one.example".into(), None)]).await.unwrap();
    cache.clear(Scope::All, NOW).await.unwrap();
    drop(cache);
    let mut expected: HashMap<String, String> =
        [("*.two.example", "mail1.example.net:25 mail2.example.net:25"), ("three.example", "mx")]
            .map(|(name, hops)| (name.into(), hops.into()))
            .into();
    let cache = open();
    assert_eq!(cache.routes().unwrap(), expected);
    drop(cache);
    change(dir.path(), b"mail1.example.net", |found| found[4] = b'3');
    expected.insert("*.two.example".into(), String::new());
    let cache = open();
    assert_eq!(cache.routes().unwrap(), expected);
    assert_eq!(cache.health().unreadable, 1);
}

#[tokio::test]
async fn a_file_that_does_not_say_under_which_routes_it_was_filled_is_cleared() {
    let dir = filled(10).await;
    let open = || Cache::open(dir.path(), &options(), NOW).unwrap();
    assert!(open().lookup(&recipient(7)).unwrap().recipient.is_some());
    // As a version from before it said so left it: without the table.
    change(dir.path(), b"routes", |found| found[5] = b't');
    let cache = open();
    assert!((0..10).all(|n| cache.lookup(&recipient(n)).unwrap().recipient.is_none()));
    assert_eq!(put(&cache, 7).await.unwrap(), Put::Written);
    drop(cache);
    assert!(open().lookup(&recipient(7)).unwrap().recipient.is_some(), "once");
}

#[tokio::test]
async fn a_clear_that_the_disk_forgets_brings_nothing_back() {
    let dir = filled(100).await;
    let cache = Cache::open(dir.path(), &options(), NOW).unwrap();
    let domain = recipient(0).domain().clone();
    assert_eq!(cache.clear(Scope::Domain(domain.clone()), NOW).await.unwrap().entries, 100);
    drop(cache);
    // The domain's own slot, with the epoch of the clear behind its version octet.
    change(dir.path(), b"one.example\0\x02", |found| found[13..21].fill(0));
    let cache = Cache::open(dir.path(), &options(), NOW).unwrap();
    assert!((0..100).all(|n| cache.lookup(&recipient(n)).unwrap().recipient.is_none()));
    assert!(cache.list(&Filter::default(), None, 1000).unwrap().entries.is_empty());
    assert_eq!(cache.stats(Some(&domain)).unwrap().valid, 0);
    assert_eq!(put(&cache, 7).await.unwrap(), Put::Written);
    assert!((0..100).all(|n| cache.lookup(&recipient(n)).unwrap().recipient.is_some() == (n == 7)));
}

/// The folder as a kill would leave it now.
fn killed(dir: &Path) -> tempfile::TempDir {
    let left = tempfile::tempdir().unwrap();
    for name in ["data.mdb", "lock"] {
        fs::copy(dir.join(name), left.path().join(name)).unwrap();
    }
    left
}

#[tokio::test]
async fn a_cache_that_was_not_closed_says_so_at_the_next_start_until_it_was_looked_through() {
    let open = |dir: &Path| Cache::open_or_begin_anew(dir, &options(), NOW).unwrap();
    let folder = filled(10).await;
    assert_eq!(Ending::of(folder.path()), Ending::Properly);
    let first = open(folder.path());
    assert_eq!(first.opened().before, Ending::Properly);
    let folder = killed(folder.path());
    let second = open(folder.path());
    assert_eq!(second.opened().before, Ending::Badly(1));
    assert!(look_through(folder.path(), true).is_err(), "not alone");
    assert_eq!(look_through(killed(folder.path()).path(), true).unwrap(), 10 + 1 + 1, "recipients, domain and header");
    let folder = killed(folder.path());
    assert_eq!(Ending::of(folder.path()), Ending::Badly(2));
    let third = open(folder.path());
    third.looked_through(true);
    let folder = killed(folder.path());
    let fourth = open(folder.path());
    assert_eq!(fourth.opened().before, Ending::Badly(1), "of those before nothing is to be feared");
    fourth.looked_through(false);
    assert!(fourth.health().damaged);
    assert!(fourth.lookup(&recipient(7)).unwrap().recipient.is_some(), "it is used to its end");
    drop(fourth);
    let plain = Cache::open(folder.path(), &options(), NOW).unwrap_err();
    assert!(plain.is_damage() && plain.to_string().contains("move it away"), "{plain}");
    let anew = open(folder.path());
    assert!(anew.opened().replaced && anew.lookup(&recipient(7)).unwrap().recipient.is_none());
    drop(anew);
    assert!(!open(folder.path()).opened().replaced, "once");
    drop(open(folder.path()));
    Ending::looked_through(folder.path(), false).unwrap();
    assert!(open(folder.path()).opened().replaced);
    // As the message says, somebody moves it away.
    Ending::looked_through(folder.path(), false).unwrap();
    fs::remove_file(folder.path().join("data.mdb")).unwrap();
    let anew = Cache::open(folder.path(), &options(), NOW).unwrap();
    assert!(anew.opened().created && anew.opened().before == Ending::Properly);
}

#[tokio::test]
async fn a_file_whose_pages_are_not_in_order_is_found_damaged() {
    let whole = filled(6000).await;
    for alone in [true, false] {
        assert_eq!(look_through(whole.path(), alone).unwrap(), 6000 + 1 + 1);
    }
    let cache = Cache::open(whole.path(), &options(), NOW).unwrap();
    assert!(
        (0..6000).all(|n| cache.lookup(&recipient(n)).unwrap().recipient.is_some()),
        "looking through changes nothing"
    );
    drop(cache);
    // Each leaf, whether it is still in use or not, has what one of them has: all of it recipients, so nothing but the order tells. A page begins
    // with its number, its kind is the octet behind that and two more, and two marks of its free room follow.
    let mut data = fs::read(whole.path().join("data.mdb")).unwrap();
    let pages = (2..data.len() / 4096).map(|page| page * 4096);
    let is_leaf =
        |at: &usize| data[at + 10] == 2 && data[*at..at + 4096].windows(11).any(|octets| octets == b"one.example");
    let leaves: Vec<usize> = pages.filter(is_leaf).collect();
    let (one, others) = leaves.split_first().unwrap();
    assert!(others.len() > 20, "{} leaves are too few for this test", leaves.len());
    for other in others {
        data.copy_within(one + 10..one + 4096, other + 10);
    }
    fs::write(whole.path().join("data.mdb"), &data).unwrap();
    let error = look_through(whole.path(), false).unwrap_err();
    assert!(error.is_damage(), "{error}");
}

#[tokio::test]
async fn the_mark_of_a_clear_that_can_not_be_read_is_one_of_the_latest_clear_until_no_callout_can_come_back_to_it() {
    let dir = filled(100).await;
    let cache = Cache::open(dir.path(), &options(), NOW).unwrap();
    let asked_under = cache.lookup(&recipient(77)).unwrap().epoch;
    cache.clear(Scope::Recipient(recipient(77)), NOW).await.unwrap();
    change(dir.path(), b"one.example\0user77", |found| {
        let at = found.len() - 14;
        found[at] ^= 0x10;
    });
    let swept = cache.sweep(NOW.after(Duration::from_secs(1200))).await.unwrap();
    assert_eq!((swept.examined, swept.removed), (101, 0));
    let put = cache.put_recipient(&recipient(77), valid(), asked_under).await.unwrap();
    assert_eq!(put, Put::Superseded, "it was asked before the clear");
    let unreadable = cache.health().unreadable;
    assert!(cache.lookup(&recipient(77)).unwrap().recipient.is_none());
    assert_eq!(cache.health().unreadable, unreadable, "it can be read again");
}

#[tokio::test]
async fn a_doubt_of_a_route_is_on_disk_with_whatever_is_learned_after_it_and_until_a_route_is_kept() {
    let dir = filled(1).await;
    let open = || Cache::open(dir.path(), &options(), NOW).unwrap();
    let route = |hops: &str| HashMap::from([("one.example".to_owned(), hops.to_owned())]);
    let kept = || vec![("one.example".to_owned(), Some("mx".to_owned()))];
    let cache = open();
    cache.keep_routes(kept()).await.unwrap();
    cache.doubt_routes(["one.example".to_owned()]);
    put(&cache, 5).await.unwrap();
    drop(cache);
    let cache = open();
    assert_eq!(cache.routes().unwrap(), route(""));
    cache.keep_routes(kept()).await.unwrap();
    assert_eq!(cache.routes().unwrap(), route("mx"));
}

/// What the disk has of the last commit: both heads of the file.
fn heads(dir: &Path) -> Vec<u8> {
    fs::read(dir.join("data.mdb")).unwrap()[..8192].to_vec()
}

#[tokio::test]
async fn a_sweep_with_nothing_to_do_writes_once_at_its_end() {
    let dir = filled(4500).await;
    let cache = Cache::open(dir.path(), &options(), NOW).unwrap();
    let before = heads(dir.path());
    for _ in 0..2 {
        assert!(!cache.sweep(NOW).await.unwrap().done);
        assert_eq!(heads(dir.path()), before, "nothing was to be removed");
    }
    assert!(cache.sweep(NOW).await.unwrap().done);
    assert_ne!(heads(dir.path()), before, "the time is written down");
}

#[test]
fn a_cache_whose_writer_came_to_its_end_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cache = {
        let _guard = runtime.enter();
        Cache::open_paced(dir.path(), &options(), NOW, || std::future::ready(())).unwrap()
    };
    assert_eq!(cache.health().write_error, None);
    drop(runtime);
    assert!(cache.health().write_error.unwrap().contains("restart Callahead"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let why = runtime.block_on(cache.clear(Scope::All, NOW)).unwrap_err().to_string();
    assert!(why.starts_with("the cache can't be written: ") && why.contains("restart Callahead"), "{why}");
}
