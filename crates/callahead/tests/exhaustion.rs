//! The daemon when it has as much open as it may.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use callahead_testbed::Script;
use common::world::World;
use common::*;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

const FAILING: &str = "connections can't be accepted";
const FULL: &str = "as many connections are open as are allowed";

fn world() -> World {
    let mailboxes: Vec<_> = (0..30).map(|n| format!("user{n}@one.example")).collect();
    World::new(Script::with_mailboxes(mailboxes.iter().map(String::as_str)))
}

/// Sets how many files a process may have open, and gives what held before.
fn limit_files(process: u32, soft: Option<u64>, hard: Option<u64>) -> Rlimit {
    let process = Pid::from_raw(process.cast_signed()).unwrap();
    prlimit(Some(process), Resource::Nofile, Rlimit { current: soft, maximum: hard }).unwrap()
}

#[test]
fn without_files_to_open_what_is_known_is_answered_and_nobody_is_refused() {
    let world = world();
    // As a shell has it; the daemon inherits it.
    let hard = getrlimit(Resource::Nofile).maximum;
    limit_files(std::process::id(), Some(512), hard);
    let mut daemon = Daemon::start(&configure(&world.dir, &world.domain()));
    let process = daemon.child.0.id();
    let mut known = daemon.client();
    assert_eq!(known.ask("user1@one.example"), "DUNNO");
    let mut asking: Vec<_> = (0..8).map(|_| daemon.client()).collect();
    for client in &mut asking {
        assert_eq!(client.ask("user1@one.example"), "DUNNO");
    }
    for time in 1..=2 {
        let limits = limit_files(process, Some(3), hard);
        assert_eq!(limits, Rlimit { current: hard, maximum: hard }, "it takes what it may have");
        // The system takes it; the daemon can't.
        let mut waiting = daemon.client();
        waiting.send("user1@one.example").unwrap();
        daemon.until(FAILING);
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(500) {
            assert_eq!(known.ask("user1@one.example"), "DUNNO", "what is known needs no file");
        }
        // One by the session that there is, if it is there yet; the others would need more.
        for (client, n) in asking.iter_mut().zip(10 * time..) {
            client.send(&format!("user{n}@one.example")).unwrap();
        }
        let answers: Vec<_> = asking.iter_mut().map(|client| client.answer().unwrap()).collect();
        let later = answers.iter().filter(|answer| answer.starts_with("451 4.4.1 ")).count();
        let accepted = answers.iter().filter(|answer| *answer == "DUNNO").count();
        assert!(later >= 3 && later + accepted == 8, "{answers:?}");
        limit_files(process, hard, hard);
        assert_eq!(waiting.answer().unwrap(), "DUNNO", "who waited is served");
        assert_eq!(daemon.told(FAILING, &mut known), 0, "it is said once, until it is over");
        for (client, n) in asking.iter_mut().zip(10 * time..) {
            let answer = client.ask(&format!("user{n}@one.example"));
            assert_eq!(answer, "DUNNO", "the destination is not left alone for what the daemon lacked");
        }
        let metrics = daemon.get("/metrics");
        assert!(metrics.contains("\ncallahead_destination_failures_total 0\n"), "{metrics}");
    }
    daemon.stop();
}

#[test]
fn without_files_to_ask_the_dns_with_no_domain_is_told_to_be_away() {
    let dir = tempfile::tempdir().unwrap();
    let more = "[callout]\ntimeout = \"1s\"\n[[domain]]\nname = \"one.example\"\nroute = [\"mx\"]\n";
    let mut daemon = Daemon::start(&configure(&dir, more));
    let process = daemon.child.0.id();
    let mut client = daemon.client();
    // Its connection is there before the limit is.
    assert_eq!(client.ask("anna@elsewhere.example"), "DUNNO");
    let hard = getrlimit(Resource::Nofile).maximum;
    for (files, why, alerts) in [(Some(3), "can't be asked", 0), (hard, "gave no answer", 1)] {
        limit_files(process, files, hard);
        let answer = client.ask("anna@one.example");
        assert!(answer.starts_with("451 4.4.1 "), "{answer}");
        let told = daemon.told("this node can make no connection: the DNS can't be asked for one.example", &mut client);
        assert_eq!(told, usize::from(files == Some(3)), "{why}");
        limit_files(process, hard, hard);
        let metrics = daemon.get("/metrics");
        let unreachable = format!("\ncallahead_alerts_total{{kind=\"unreachable\"}} {alerts}\n");
        assert!(metrics.contains(&unreachable), "{why}: {metrics}");
    }
    daemon.stop();
}

#[test]
fn one_client_too_many_is_told_so_and_the_log_says_it_once_until_there_is_room_again() {
    let world = world();
    let more = format!("{}[gateway]\nconnections = 1\n", world.domain());
    let mut daemon = Daemon::start(&configure_with(&world.dir, "gateway = [\"127.0.0.1:0\"]\n", &more));
    let gateway = daemon.gateway.unwrap();
    let mut marker = daemon.client();
    let mut served = greeted(gateway);
    for _ in 0..2 {
        for number in 0..3 {
            let mut said = String::new();
            TcpStream::connect(gateway).unwrap().read_to_string(&mut said).unwrap();
            assert!(said.starts_with("421 4."), "{said}");
            if number == 0 {
                let event = daemon.until(FULL);
                assert_eq!((event["level"].as_str(), event["connections"].as_u64()), (Some("WARN"), Some(1)));
            }
        }
        served.get_mut().write_all(b"QUIT\r\n").unwrap();
        let mut rest = String::new();
        served.read_to_string(&mut rest).unwrap();
        assert!(rest.starts_with("221 "), "{rest}");
        served = greeted(gateway);
        assert_eq!(daemon.told(FULL, &mut marker), 0, "it is said once, until it is over");
    }
    daemon.stop();
}

/// A session, as soon as there is room: a place is free a moment after its client's last word.
fn greeted(gateway: SocketAddr) -> BufReader<TcpStream> {
    loop {
        let mut stream = BufReader::new(TcpStream::connect(gateway).unwrap());
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        if line.starts_with("220 ") {
            return stream;
        }
    }
}
