//! The daemon from outside: its sockets, its signals, the commands that talk to it, and `kill -9`.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use callahead_testbed::Script;
use common::world::World;
use common::*;
use rand::RngExt as _;
use serde_json::json;
use tempfile::TempDir;

fn config(world: &World, more: &str) -> std::path::PathBuf {
    configure(&world.dir, &format!("{more}{}", world.domain()))
}

fn normal() -> Script {
    Script::with_mailboxes(["anna@one.example", "ben@one.example"])
}

#[test]
fn a_mailbox_created_after_it_was_refused_is_accepted_after_the_clear_and_not_before() {
    let world = World::new(normal());
    let mut daemon = Daemon::start(&config(&world, ""));
    let mut client = daemon.client();
    assert_eq!(client.ask("anna@one.example"), "DUNNO");
    assert_eq!(client.ask("carol@one.example"), REFUSED);
    world.destination.add_mailbox("carol@one.example");
    assert!(client.ask("carol@one.example").ends_with("(cached)"));

    // On disk within a second, which a busy machine may need.
    let mut kept = daemon.cache(&["show", "carol@one.example"]);
    let began = Instant::now();
    while kept.0 != 0 && began.elapsed() < Duration::from_secs(20) {
        kept = daemon.cache(&["show", "carol@one.example"]);
    }
    let (code, shown, _) = kept;
    assert!(code == 0 && shown.contains("invalid") && shown.contains("User unknown"), "{shown}");
    let names: Vec<_> = shown.lines().take(3).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["recipient", "state", "freshness"], "{shown}");
    let (_, listed, _) = daemon.cache(&["list", "--domain", "one.example"]);
    assert!(listed.contains("anna@one.example") && listed.contains("carol@one.example"), "{listed}");
    let (_, invalid, _) = daemon.cache(&["list", "--state", "invalid", "--json"]);
    let entry: serde_json::Value = serde_json::from_str(invalid.trim()).unwrap();
    assert_eq!((entry["recipient"].as_str(), entry["state"].as_str()), (Some("carol@one.example"), Some("invalid")));
    let (_, stats, _) = daemon.cache(&["stats"]);
    assert!(stats.contains("invalid"), "{stats}");

    let (code, cleared, _) = daemon.cache(&["clear", "--recipient", "carol@one.example"]);
    assert_eq!((code, cleared.as_str()), (0, "cleared carol@one.example: 1 entry forgotten\n"));
    assert_eq!(client.ask("carol@one.example"), "DUNNO");
    assert_eq!(daemon.cache(&["show", "nobody@one.example"]).0, 1, "what is known of its domain is nothing of its own");
    assert_eq!(daemon.cache(&["show", "nobody@two.example"]).0, 1);
    let (code, _, error) = daemon.cache(&["clear", "--all"]);
    assert!(code == 2 && error.contains("--yes"), "{error}");
    assert_eq!(daemon.cache(&["clear", "--domain", "one.example"]).1, "cleared one.example: 3 entries forgotten\n");
    assert_eq!(daemon.cache(&["clear", "--all", "--yes"]).0, 0);

    let metrics = daemon.get("/metrics");
    assert!(metrics.contains("callahead_") && metrics.trim_end().ends_with("# EOF"), "{metrics}");
    assert!(daemon.get("/healthz").starts_with("HTTP/1.1 200") && daemon.get("/readyz").starts_with("HTTP/1.1 200"));
    drop(client);
    daemon.signal("TERM");
    daemon.until("stopping");
    assert_eq!(daemon.end().0, 0);
    world.destination.assert_polite();
}

#[test]
fn each_decision_is_one_event_of_the_log() {
    let world = World::new(normal());
    let mut daemon = Daemon::start(&config(&world, ""));
    daemon.client().ask("carol@one.example");
    let event = daemon.until("the destination refuses the recipient");
    for (field, value) in [
        ("recipient", "carol@one.example".into()),
        ("listener", "policy".into()),
        ("verdict", "invalid".into()),
        ("row", 11.into()),
        ("cached", false.into()),
        ("destination", serde_json::Value::from(world.route())),
    ] {
        assert_eq!(event[field], value, "{event}");
    }
    assert!(event["reply"].as_str().unwrap().starts_with("550 ") && event["ms"].is_number(), "{event}");
}

#[test]
fn a_reload_is_applied_whole_or_not_at_all() {
    let world = World::new(normal());
    let config = config(&world, "");
    let mut daemon = Daemon::start(&config);
    let mut client = daemon.client();
    assert_eq!(client.ask("old-list@one.example"), REFUSED);
    let good = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{good}valid = [\"old-list\"]\ninvalid_ttl = \"3h\"\n")).unwrap();
    daemon.signal("HUP");
    let event = daemon.until("is more than 2h");
    let place = format!("callahead.toml:{}: domain.invalid_ttl", good.lines().count() + 2);
    assert!(event["message"].as_str().unwrap().contains(&place), "{event}");
    daemon.until("nothing was changed");
    assert!(client.ask("old-list@one.example").starts_with("550"), "the good half was not applied either");
    std::fs::write(&config, format!("{good}valid = [\"old-list\"]\n")).unwrap();
    daemon.signal("HUP");
    daemon.until("is in force");
    assert_eq!(client.ask("old-list@one.example"), "DUNNO");
}

#[test]
fn what_was_asked_is_answered_when_it_is_told_to_stop() {
    let world = World::new(Script { reply_delay: Duration::from_millis(300), ..normal() });
    let mut daemon = Daemon::start(&config(&world, ""));
    let mut client = daemon.client();
    client.ask("anna@one.example");
    client.send("carol@one.example").unwrap();
    // The question is under way when the destination has been told of it.
    while !world.destination.record().sessions.iter().any(|s| s.commands.iter().any(|c| c.contains("carol"))) {
        std::thread::yield_now();
    }
    daemon.signal("TERM");
    daemon.until("stopping");
    assert!(client.answer().unwrap().starts_with("550 5.1.1"));
    assert_eq!(daemon.end().0, 0);
    world.destination.assert_polite();
}

#[test]
fn garbage_on_any_socket_is_survived_and_never_rejects() {
    let world = World::new(normal());
    let daemon = Daemon::start(&config(&world, ""));
    let mut random = rand::rng();
    let mut garbage: Vec<Vec<u8>> = vec![
        b"\n\n\n".to_vec(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"request=smtpd_access_policy\nprotocol_state=RCPT\n\n".to_vec(),
        b"999999999999999999999:".to_vec(),
        b"5:hello,".to_vec(),
        vec![b'a'; 200_000],
    ];
    garbage.extend((0..20).map(|_| (0..2000).map(|_| random.random()).collect()));
    for octets in &garbage {
        for address in [daemon.policy, daemon.socketmap, daemon.http] {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let _ = stream.write_all(octets);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            let answer = String::from_utf8_lossy(&answer);
            assert!(!answer.contains("action=5"), "{answer}");
        }
        let mut stream = UnixStream::connect(&daemon.admin).unwrap();
        let _ = stream.write_all(octets);
    }
    assert_eq!(daemon.client().ask("anna@one.example"), "DUNNO");
}

#[test]
fn what_can_not_start_says_why_in_one_sentence() {
    let world = World::new(normal());
    let config = config(&world, "");
    let daemon = Daemon::start(&config);
    // The same cache, by another process.
    let (code, _, error) = run(&["serve", "--config", config.to_str().unwrap()]);
    assert!(code == 2 && error.contains("in use by another callahead process"), "{code} {error}");
    // A port that is taken.
    let other = TempDir::new().unwrap();
    let taken = std::fs::read_to_string(&config).unwrap().replacen("127.0.0.1:0", &daemon.policy.to_string(), 1);
    let path = other.path().join("callahead.toml");
    std::fs::write(&path, taken.replace(world.dir.path().to_str().unwrap(), other.path().to_str().unwrap())).unwrap();
    let (code, _, error) = run(&["serve", "--config", path.to_str().unwrap()]);
    assert!(
        code == 2 && error.contains("listen.policy") && error.contains(&daemon.policy.to_string()),
        "{code} {error}"
    );
    let (code, _, error) = run(&["serve", "--config", "/nonexistent/callahead.toml"]);
    assert!(code == 2 && error.contains("config init"), "{code} {error}");
    let (code, _, error) = run(&["cache", "stats", "--socket", "/nonexistent/admin.sock"]);
    assert!(code == 3 && error.contains("is it running"), "{code} {error}");
}

/// So many times, or what this variable says, as the soak sets it.
fn times(variable: &str, times: usize) -> usize {
    std::env::var(variable).map_or(times, |times| times.parse().unwrap())
}

/// Until the cache has it on disk, which it promises within a second; a busy machine may need more.
fn until_kept(daemon: &Daemon, mailbox: &str) {
    let began = Instant::now();
    let (path, entry) = (format!("/api/v1/cache/{mailbox}"), format!("\"recipient\":\"{mailbox}\""));
    while !requested(&daemon.admin, "GET", &path, "").contains(&entry) {
        assert!(began.elapsed() < Duration::from_secs(20), "{mailbox} is not kept");
    }
}

/// A moment that nobody chose, of so many microseconds at most.
fn a_moment(at_most: u64) {
    let until = Instant::now() + Duration::from_micros(rand::rng().random_range(0..at_most));
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

#[test]
fn fifty_kills_in_the_middle_of_writing_undo_no_clear_and_lose_nothing_that_was_kept() {
    let world = World::new(normal());
    let two = domain("two.example", world.listening.address());
    let config = config(&world, &format!("[harvest]\nlimit = 0\n{two}"));
    // Mailboxes whose clear was acknowledged after they were created, and one whose clear was under way at the kill.
    let (mut created, mut unsure) = (Vec::<String>::new(), None::<String>);
    // Refusals that were on disk before a kill, and what a clear of everything should have made of them since.
    let (mut kept, mut everything) = (Vec::<String>::new(), Clear::None);
    for round in 0..times("CALLAHEAD_KILLS", 50) {
        let daemon = Daemon::start(&config);
        assert_eq!(counter(&daemon, "callahead_cache_begun_anew"), 0, "round {round}");
        let mut client = daemon.client();
        for mailbox in created.iter().rev().take(5) {
            assert_eq!(client.ask(mailbox), "DUNNO", "round {round}: {mailbox} was cleared, and its refusal came back");
        }
        let served: Vec<bool> = kept.iter().map(|mailbox| is_served_from_cache(&client.ask(mailbox))).collect();
        let (all, none) = (served.iter().all(|served| *served), !served.contains(&true));
        match everything {
            Clear::None => assert!(all, "round {round}: of {kept:?} not all were still kept: {served:?}"),
            Clear::Acknowledged => assert!(none, "round {round}: {kept:?} were cleared, and came back: {served:?}"),
            Clear::UnderWay => assert!(all || none, "round {round}: half of {kept:?} was cleared: {served:?}"),
        }
        if !all || everything == Clear::Acknowledged {
            kept.clear();
        }
        if let Some(mailbox) = unsure.take() {
            let answer = client.ask(&mailbox);
            assert!(answer == "DUNNO" || is_served_from_cache(&answer), "round {round}: {mailbox}: {answer}");
            request(&daemon.admin, "DELETE", &format!("/api/v1/cache/{mailbox}"), "");
            assert_eq!(client.ask(&mailbox), "DUNNO", "round {round}: {mailbox} was cleared once more");
            created.push(mailbox);
        }
        let stays = format!("stays{round}@two.example");
        assert_eq!(client.ask(&stays), REFUSED);
        until_kept(&daemon, &stays);
        kept.push(stays);
        let mailbox = format!("new{round}@one.example");
        assert_eq!(client.ask(&mailbox), REFUSED);
        let clear = match round % 3 {
            0 => format!("/api/v1/cache/{mailbox}"),
            1 => "/api/v1/cache?domain=one.example".to_owned(),
            _ => "/api/v1/cache".to_owned(),
        };
        let stop = AtomicBool::new(false);
        let acknowledged = std::thread::scope(|scope| {
            let (address, stop) = (daemon.policy, &stop);
            scope.spawn(move || {
                let Ok(mut client) = PolicyClient::try_connect(address) else { return };
                let mut n = 0;
                // Until the daemon is gone.
                while !stop.load(Ordering::SeqCst) {
                    n += 1;
                    if client.send(&format!("guess{round}-{n}@one.example")).is_err() || client.answer().is_err() {
                        break;
                    }
                }
            });
            world.destination.add_mailbox(&mailbox);
            let mut clearing = UnixStream::connect(&daemon.admin).unwrap();
            send(&mut clearing, "DELETE", &clear, "", "");
            // In the midst of writes; one round in three while the clear itself is written.
            let mut answer = Vec::new();
            if round / 3 % 3 != 2 {
                clearing.read_to_end(&mut answer).unwrap();
                assert!(answer.starts_with(b"HTTP/1.1 200"), "{clear}: {}", String::from_utf8_lossy(&answer));
            }
            a_moment(20_000);
            stop.store(true, Ordering::SeqCst);
            daemon.kill();
            // What it said before its end is still to be read.
            let _ = clearing.read_to_end(&mut answer);
            answer.starts_with(b"HTTP/1.1 200")
        });
        everything = match (round % 3, acknowledged) {
            (0 | 1, _) => Clear::None,
            (_, true) => Clear::Acknowledged,
            (_, false) => Clear::UnderWay,
        };
        if acknowledged {
            created.push(mailbox);
        } else {
            unsure = Some(mailbox);
        }
    }
    let daemon = Daemon::start(&config);
    let mut client = daemon.client();
    for mailbox in &created {
        assert_eq!(client.ask(mailbox), "DUNNO", "{mailbox}");
    }
}

/// What is to be known of a clear of everything after a kill.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clear {
    None,
    Acknowledged,
    /// It holds or it does not, for all of it.
    UnderWay,
}

fn is_served_from_cache(answer: &str) -> bool {
    assert!(answer == "DUNNO" || answer.starts_with(REFUSED), "{answer}");
    answer.ends_with("(cached)")
}

/// Whose mailboxes come and go, at the same time; each clears in a way of its own.
const OWNERS: usize = 6;

/// The simulation shows it step by step on one thread; here threads, sockets and the disk are as they are.
#[test]
fn a_clear_or_a_change_that_was_acknowledged_holds_whatever_else_goes_on() {
    // A reply stays on its way for as long as a clear takes, so that it often comes back after one.
    let world = World::new(Script { reply_delay: Duration::from_millis(3), ..normal() });
    let daemon = Daemon::start(&config(&world, "[harvest]\nlimit = 0\n[callout]\ndeny_destinations = []\n"));
    let rounds = times("CALLAHEAD_ROUNDS", 40);
    let (admin, policy, mailboxes) = (daemon.admin.as_path(), daemon.policy, &world.destination);
    let added = |name: &str| {
        let domain = json!({"name": name, "route": [world.route()]});
        request(admin, "POST", "/api/v1/domains", &domain.to_string());
    };
    let comes_and_goes = |owner: usize| {
        let mailbox = format!("owner{owner}@one.example");
        let clear = match owner {
            0 => "/api/v1/cache".to_owned(),
            1 | 2 => "/api/v1/cache?domain=one.example".to_owned(),
            _ => format!("/api/v1/cache/{mailbox}"),
        };
        let mut client = PolicyClient::connect(policy);
        for round in 0..rounds {
            for exists in [true, false] {
                match exists {
                    true => mailboxes.add_mailbox(&mailbox),
                    false => mailboxes.remove_mailbox(&mailbox),
                }
                request(admin, "DELETE", &clear, "");
                if round % 2 == 1 {
                    // Time for what was under way to be kept, if it wrongly is.
                    client.ask(&format!("late{owner}.{round}@one.example"));
                }
                let answer = client.ask(&mailbox);
                let is_true = if exists { answer == "DUNNO" } else { answer.starts_with(REFUSED) };
                assert!(is_true, "round {round}, {clear}, exists: {exists}: {answer}");
            }
        }
    };
    let is_listed = || {
        let mut client = PolicyClient::connect(policy);
        added("listed.example");
        for round in 0..rounds {
            let someone = format!("someone{round}@listed.example");
            mailboxes.add_mailbox(&someone);
            for (list, due) in [(vec![format!("someone{round}")], REFUSED), (vec![], "DUNNO")] {
                request(admin, "PATCH", "/api/v1/domains/listed.example", &json!({"invalid": list}).to_string());
                assert_eq!(client.ask(&someone), due, "round {round}");
            }
        }
    };
    let is_removed_and_comes_back = || {
        let mut client = PolicyClient::connect(policy);
        let someone = "someone@come.example";
        for round in 0..rounds {
            added("come.example");
            if round % 2 == 0 {
                assert!(client.ask(someone).starts_with(REFUSED), "round {round}");
                mailboxes.add_mailbox(someone);
            } else {
                assert_eq!(client.ask(someone), "DUNNO", "round {round}");
                mailboxes.remove_mailbox(someone);
            }
            request(admin, "DELETE", "/api/v1/domains/come.example", "");
            assert_eq!(client.ask(someone), "DUNNO", "round {round}: not ours");
        }
    };
    let over = AtomicBool::new(false);
    // So that some callout is under way whenever one is cleared.
    let others_ask = |asker: usize| {
        let mut client = PolicyClient::connect(policy);
        for asked in (asker..).take_while(|_| !over.load(Ordering::SeqCst)) {
            let recipient = match asked % 4 {
                0 => "someone@come.example".to_owned(),
                1 => format!("guess{asker}.{asked}@one.example"),
                _ => format!("owner{}@one.example", asked % OWNERS),
            };
            let answer = client.ask(&recipient);
            assert!(answer == "DUNNO" || answer.starts_with(REFUSED), "{recipient}: {answer}");
        }
    };
    std::thread::scope(|scope| {
        for asker in 0..3 {
            scope.spawn(move || others_ask(asker));
        }
        let mut all: Vec<_> = (0..OWNERS).map(|owner| scope.spawn(move || comes_and_goes(owner))).collect();
        all.push(scope.spawn(is_listed));
        all.push(scope.spawn(is_removed_and_comes_back));
        let ended: Vec<_> = all.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::SeqCst);
        assert!(ended.iter().all(Result::is_ok), "what was acknowledged did not hold");
    });
    mailboxes.assert_polite();
}

#[test]
fn the_milter_answers_and_is_counted() {
    let world = World::new(normal());
    let daemon = Daemon::start(&config(&world, ""));
    let mut mta = TcpStream::connect(daemon.milter.unwrap()).unwrap();
    let packet = |data: &[u8]| [&u32::try_from(data.len()).unwrap().to_be_bytes(), data].concat();
    let negotiation = b"O\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff";
    let rcpts = [&b"R<anna@one.example>\0"[..], b"R<nobody@one.example>\0"];
    for data in [&negotiation[..], b"Cx\x004\0\x19192.0.2.7\0", rcpts[0], rcpts[1], b"Q"] {
        mta.write_all(&packet(data)).unwrap();
    }
    let mut answers = Vec::new();
    mta.read_to_end(&mut answers).unwrap();
    let refused = packet(b"y550 5.1.1 Recipient address rejected: the mailbox does not exist\0");
    let expected = [packet(b"c"), refused].concat();
    assert!(answers.ends_with(&expected), "{:?}", String::from_utf8_lossy(&answers));

    let metrics = daemon.get("/metrics");
    for sample in [
        "callahead_decisions_total{listener=\"milter\",verdict=\"valid\",row=\"10\",source=\"callout\"} 1",
        "callahead_decisions_total{listener=\"milter\",verdict=\"invalid\",row=\"11\",source=\"callout\"} 1",
        &format!("callahead_listener_requests_total{{listener=\"milter\",at=\"{}\"}} 3", daemon.milter.unwrap()),
    ] {
        assert!(metrics.contains(sample), "{sample}\n{metrics}");
    }
}

#[test]
fn a_log_that_nobody_reads_keeps_no_answer_waiting_nor_the_stop_and_tells_what_is_missing() {
    let world = World::new(normal());
    let mut serve = program();
    serve.args(["serve", "--log-format", "json", "--config"]).arg(config(&world, ""));
    let mut daemon = Running(serve.stderr(Stdio::piped()).spawn().unwrap());
    let mut log = BufReader::new(daemon.0.stderr.take().unwrap()).lines().map(|line| line.unwrap());
    let listening = log.find(|line| line.contains("\"policy\"")).unwrap();
    let listening: serde_json::Value = serde_json::from_str(&listening).unwrap();
    let policy = listening["address"].as_str().unwrap().parse().unwrap();
    log.find(|line| line.contains("\"ready\"")).unwrap();
    let mut client = PolicyClient::connect(policy);
    // Some 6 MB of log: more than waits, in the daemon and on the way.
    let no_address = "x".repeat(2000);
    for _ in 0..2500 {
        assert!(client.ask(&no_address).starts_with("501 5.1.3"));
    }
    let stop = std::process::Command::new("/bin/kill").arg(daemon.0.id().to_string()).status();
    assert!(stop.unwrap().success());
    while TcpStream::connect(policy).is_ok() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let rest: Vec<_> = log.collect();
    assert_eq!(daemon.0.wait().unwrap().code(), Some(0));
    let told = rest.iter().find(|line| line.contains("lines are missing here")).expect("it tells what is missing");
    let told: serde_json::Value = serde_json::from_str(told).unwrap();
    let (lost, logged) = (told["lines"].as_u64().unwrap(), rest.iter().filter(|line| line.contains("xxx")).count());
    assert!(lost >= 500 && lost + logged as u64 >= 2500, "{lost} are missing, {logged} are there");
}
