//! Load that hurts, in a small form and without a clock: who guesses gets no callouts, who hangs keeps nobody else waiting, who holds
//! connections keeps nobody out. `cargo xtask bench --only hurts` does it with a hundred thousand guesses and measures.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use callahead_testbed::Script;
use common::world::World;
use common::*;

/// Clients that guess, and how often each.
const GUESSERS: usize = 50;
const GUESSES: usize = 60;
/// `harvest.limit` as it is shipped.
const HARVEST: usize = 20;

fn world() -> World {
    let mailboxes: Vec<_> = (0..100).map(|n| format!("user{n}@one.example")).collect();
    World::new(Script::with_mailboxes(mailboxes.iter().map(String::as_str)))
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// A policy question about a client's mail.
fn ask(stream: &mut TcpStream, client: &str, recipient: &str) {
    let request = format!(
        "request=smtpd_access_policy\nprotocol_state=RCPT\nclient_address={client}\nsender=\nrecipient={recipient}\n\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
}

fn answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut octet = [0];
    while !answer.ends_with(b"\n\n") {
        stream.read_exact(&mut octet).unwrap();
        answer.push(octet[0]);
    }
    String::from_utf8(answer).unwrap().trim_end().replace("action=", "")
}

#[test]
fn a_dictionary_attack_becomes_no_more_callouts_than_the_protection_allows_while_real_mail_goes_on() {
    let world = world();
    let daemon = Daemon::start(&configure(&world.dir, &world.domain()));
    let mut mail = daemon.client();
    assert_eq!(mail.ask("user0@one.example"), "DUNNO");
    let mut guessers: Vec<_> = (0..GUESSERS).map(|_| connect(daemon.policy)).collect();
    for guess in 0..GUESSES {
        // One question under way for each client, so that the bound is exact: with more at once each of those may be one callout more.
        for (number, stream) in guessers.iter_mut().enumerate() {
            ask(stream, &format!("198.51.100.{number}"), &format!("guess{number}.{guess}@one.example"));
        }
        // Known and new recipients are answered meanwhile.
        assert_eq!(mail.ask("user0@one.example"), "DUNNO");
        assert_eq!(mail.ask(&format!("user{guess}@one.example")), "DUNNO");
        for stream in &mut guessers {
            let answer = answer(stream);
            let due = if guess <= HARVEST { "550 5.1.1 " } else { "451 4.7.1 " };
            assert!(answer.starts_with(due), "guess {guess}: {answer}");
        }
    }
    // Whoever guesses is told of mailboxes that are known, and its next message to one arrives.
    ask(&mut guessers[0], "198.51.100.0", "user1@one.example");
    assert_eq!(answer(&mut guessers[0]), "DUNNO");
    let told: Vec<String> = world.destination.look(|record| {
        let commands = record.sessions.iter().flat_map(|session| &session.commands);
        commands.filter(|command| command.starts_with("RCPT ")).cloned().collect()
    });
    let guesses = told.iter().filter(|command| command.contains("<guess")).count();
    let mailboxes = told.iter().filter(|command| command.contains("<user")).count();
    assert_eq!([guesses, mailboxes], [GUESSERS * (HARVEST + 1), GUESSES], "of {} guesses", GUESSERS * GUESSES);
    // One random local part; and one more where the first one's outcome is not on disk yet when the next question comes.
    assert!((1..=2).contains(&(told.len() - guesses - mailboxes)), "{} recipients in all", told.len());
    daemon.kill();
}

#[test]
fn a_destination_that_hangs_keeps_no_question_for_another_domain_waiting() {
    let world = world();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let domains = world.domain() + &domain("hang.example", silent.local_addr().unwrap());
    let daemon = Daemon::start(&configure(&world.dir, &domains));
    // More of them than there are sessions for a destination, and than a client may pipeline.
    let mut waiting: Vec<_> = (0..100).map(|_| connect(daemon.policy)).collect();
    for (number, stream) in waiting.iter_mut().enumerate() {
        ask(stream, "192.0.2.1", &format!("user{number}@hang.example"));
    }
    let mut mail = daemon.client();
    for number in 0..100 {
        assert_eq!(mail.ask(&format!("user{number}@one.example")), "DUNNO");
    }
    for stream in &mut waiting {
        stream.set_nonblocking(true).unwrap();
        let came = stream.read(&mut [0; 64]);
        assert!(
            came.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock),
            "a question for the destination that hangs was answered before the others were, so nothing was shown"
        );
    }
    daemon.kill();
}

#[test]
fn clients_that_hold_connections_keep_nobody_out() {
    let world = world();
    let config = configure_with(
        &world.dir,
        "gateway = [\"127.0.0.1:0\"]\n",
        &format!("{}[gateway]\nconnections_per_client = 1000\n", world.domain()),
    );
    let daemon = Daemon::start(&config);
    let mut held = Vec::new();
    // For HTTP more than it has connections.
    for (place, count, words) in [
        (daemon.policy, 100, "request=smtpd_access_policy\nprotocol_st"),
        (daemon.socketmap, 100, "28:recipi"),
        (daemon.gateway.unwrap(), 100, "EHLO slow.exam"),
        (daemon.http, 600, "GET /healthz HTTP/1.1\r\nHo"),
    ] {
        for _ in 0..count {
            let mut stream = connect(place);
            // One that had to make room is closed by now.
            let _ = stream.write_all(words.as_bytes());
            held.push(stream);
        }
    }
    assert_eq!(daemon.client().ask("user0@one.example"), "DUNNO");
    assert!(daemon.get("/healthz").starts_with("HTTP/1.1 200"));
    let mut greeting = [0; 4];
    connect(daemon.gateway.unwrap()).read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"220 ");
    let mut socketmap = connect(daemon.socketmap);
    socketmap.write_all(b"28:recipients user0@one.example,").unwrap();
    let mut answer = [0; 5];
    socketmap.read_exact(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains(":OK"), "{answer}");
    daemon.kill();
    drop(world.runtime);
}
