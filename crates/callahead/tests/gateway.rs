//! The gateway of the real program: what arrives, octet by octet, and what signals, `kill -9` and 10,000 idle clients do to it.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::net::TcpStream;
use std::time::Duration;

use callahead_cache::Timestamp;
use callahead_control::{Change, Control, Expected, Kind};
use callahead_testbed::{Destination, Message, Script};
use common::mail::{MailClient, awkward_messages};
use common::world::World;
use common::*;

fn world() -> World {
    World::new(Script::taking_messages(["anna@one.example", "ben@one.example"]))
}

fn daemon(world: &World, gateway: &str) -> Daemon {
    let rest = format!("[gateway]\n{gateway}\n{}", world.domain());
    Daemon::start(&configure_with(&world.dir, "gateway = [\"127.0.0.1:0\"]\n", &rest))
}

/// What arrived, behind our Received line.
fn content(message: &Message) -> &[u8] {
    let text = message.content.as_slice();
    assert!(text.starts_with(b"Received: from client.example ([127.0.0.1])\r\n\tby filter.example with ESMTP id "));
    let lines = text.iter().enumerate().filter(|(_, octet)| **octet == b'\n').map(|(at, _)| at + 1);
    &text[lines.take(3).last().unwrap()..]
}

#[test]
fn mail_for_a_domain_of_the_control_database_goes_to_its_relay_while_its_route_is_asked() {
    let world = world();
    let filter = Destination::new(Script::taking_messages(["anna@new.example"]));
    let filtering = world.beside(&filter);
    let config = configure_with(&world.dir, "gateway = [\"127.0.0.1:0\"]\n", "[callout]\ndeny_destinations = []\n");
    let daemon = Daemon::start(&config);
    world.destination.add_mailbox("anna@new.example");
    let (route, relay) = (world.route(), filtering.address().to_string());
    let add = ["domain", "add", "new.example", "--route", &route, "--relay", &relay];
    let (code, _, error) = daemon.command(&add);
    assert_eq!(code, 0, "{error}");
    let (_, shown, _) = daemon.command(&["domain", "show", "new.example"]);
    assert!(shown.contains("relay") && shown.contains(&relay), "{shown}");
    let send = || {
        let mut client = MailClient::connect(daemon.gateway.unwrap());
        client.envelope("anna@new.example");
        assert!(client.data(b"Subject: x\r\n\r\nHello\r\n").starts_with("250"));
    };
    send();
    assert_eq!((filter.record().messages.len(), world.destination.record().messages.len()), (1, 0));
    assert_eq!(daemon.command(&["domain", "set", "new.example", "--unset", "relay"]).0, 0);
    send();
    assert_eq!((filter.record().messages.len(), world.destination.record().messages.len()), (1, 1));
}

/// As after a newer version, in which a domain can say more, was taken back.
#[test]
fn mail_for_a_domain_whose_record_can_not_be_read_is_put_off_and_not_refused() {
    let world = world();
    let config = configure_with(&world.dir, "gateway = [\"127.0.0.1:0\"]\n", "[callout]\ndeny_destinations = []\n");
    let daemon = Daemon::start(&config);
    assert_eq!(daemon.command(&["domain", "add", "new.example", "--route", &world.route()]).0, 0);
    daemon.stop();
    let control = Control::open(&world.dir.path().join("data/control.db")).unwrap();
    let body = format!(
        r#"{{"name": "new.example", "route": ["{}"], "tempfail": "accept", "of_a_later_version": 1}}"#,
        world.route()
    );
    let change =
        Change { kind: Kind::Domain, key: "new.example".into(), expected: Expected::Anything, body: Some(body) };
    world.runtime.block_on(control.apply(vec![change], Vec::new(), Timestamp(0))).unwrap();
    drop(control);

    let mut daemon = Daemon::start(&config);
    let rcpt = |daemon: &Daemon, recipient: &str| {
        let mut client = MailClient::connect(daemon.gateway.unwrap());
        client.expect("EHLO client.example", "250");
        client.expect("MAIL FROM:<sender@client.example>", "250");
        client.say(&format!("RCPT TO:<{recipient}>"))
    };
    for recipient in ["anna@new.example", "nobody@new.example", "postmaster@new.example"] {
        let reply = rcpt(&daemon, recipient);
        assert!(reply.starts_with("451 4.4.1"), "{recipient}: {reply}");
    }
    assert!(daemon.client().ask("nobody@new.example").starts_with("451 4.4.1"));
    let ready = daemon.get("/readyz");
    assert!(
        ready.contains("a domain of the control database can't be used") && !ready.contains("new.example"),
        "{ready}"
    );
    let cookie = daemon.set_up();
    let overview = daemon.page(&cookie, "/");
    assert!(overview.contains("A domain of the control database can&#39;t be used: new.example"), "{overview}");

    // It is there, and nothing of it is written over unless somebody writes all of it.
    let (code, _, error) = daemon.command(&["domain", "show", "new.example"]);
    assert!(code == 2 && error.contains("written by another version"), "{code} {error}");
    let (code, _, error) = daemon.command(&["domain", "set", "new.example", "--route", &world.route()]);
    assert!(code == 2 && error.contains("written by another version"), "{code} {error}");
    request(&daemon.admin, "DELETE", "/api/v1/domains/new.example", "");
    assert!(rcpt(&daemon, "anna@new.example").starts_with("550 5.7.1"));
    assert!(!daemon.get("/readyz").contains("control database"));
}

#[test]
fn awkward_messages_arrive_octet_by_octet_by_data_and_by_bdat() {
    let world = world();
    let mut daemon = daemon(&world, "");
    let mut client = MailClient::connect(daemon.gateway.unwrap());
    let mut sent = Vec::new();
    for (name, message) in awkward_messages() {
        let by_data = message.is_empty() || message.ends_with(b"\r\n");
        for chunk in [None, Some(1 << 20), Some(7)] {
            if (chunk.is_none() && !by_data) || (chunk == Some(7) && message.len() > 1000) {
                continue;
            }
            client.envelope("anna@one.example");
            let reply = match chunk {
                None => client.data(&message),
                Some(chunk) => client.bdat(&message, chunk),
            };
            assert!(reply.starts_with("250 2.0.0"), "{name}, {chunk:?}: {reply}");
            sent.push((name, chunk, message.clone()));
        }
    }
    client.expect("QUIT", "221");
    let event = daemon.until("message relayed");
    assert_eq!(event["recipients"], "anna@one.example");
    assert!(event["reply"].as_str().unwrap().starts_with("250 2.0.0") && event["ms"].is_number(), "{event}");
    let arrived = world.destination.record().messages;
    assert_eq!(arrived.len(), sent.len());
    for ((name, chunk, message), arrived) in sent.iter().zip(&arrived) {
        assert!(content(arrived) == message, "{name}, {chunk:?} arrived otherwise");
        assert_eq!(arrived.chunked, chunk.is_some());
    }
    let metrics = daemon.get("/metrics");
    let relayed =
        format!("callahead_gateway_messages_relayed_total{{at=\"{}\"}} {}", daemon.gateway.unwrap(), sent.len());
    assert!(metrics.contains(&relayed), "{metrics}");
    assert!(metrics.contains("callahead_decisions_total{listener=\"gateway\""), "{metrics}");
}

#[test]
fn what_is_logged_of_a_message_names_its_own_sender_and_recipients() {
    let mailboxes: Vec<String> = (0..25).map(|n| format!("p{n}@one.example")).collect();
    let all = mailboxes.iter().map(String::as_str).chain(["anna@one.example"]);
    let world = World::new(Script::taking_messages(all));
    let mut daemon = daemon(&world, "");
    let mut client = MailClient::connect(daemon.gateway.unwrap());
    client.envelope("anna@one.example");
    assert_eq!(daemon.until("the destination accepts the recipient")["sender"], "sender@elsewhere.example");
    client.expect("RSET", "250");
    client.envelope(&mailboxes[0]);
    for mailbox in &mailboxes[1..] {
        client.expect(&format!("RCPT TO:<{mailbox}>"), "250");
    }
    assert!(client.data(b"x\r\n").starts_with("250"));
    let event = daemon.until("message relayed");
    assert_eq!((&event["sender"], &event["recipient_count"]), (&"sender@elsewhere.example".into(), &25.into()));
    assert_eq!(event["recipients"], mailboxes[..20].join(" "));
    assert_eq!(event["encrypted"], false);
}

#[test]
fn sigterm_lets_a_message_under_way_arrive_and_tells_the_others_to_come_again() {
    let world = world();
    let daemon = daemon(&world, "");
    let mut idle = MailClient::connect(daemon.gateway.unwrap());
    let mut busy = MailClient::connect(daemon.gateway.unwrap());
    busy.envelope("anna@one.example");
    busy.expect("DATA", "354");
    busy.send("half of it\r\n");
    daemon.signal("TERM");
    assert!(idle.reply().starts_with("421 4.3.2"));
    busy.send("the other half\r\n.\r\n");
    assert!(busy.reply().starts_with("250 2.0.0"));
    assert!(busy.reply().starts_with("421 4.3.2"));
    let (code, log) = daemon.end();
    assert_eq!(code, 0, "{log}");
    let arrived = world.destination.record().messages;
    assert_eq!(arrived.len(), 1);
    assert_eq!(content(&arrived[0]), b"half of it\r\nthe other half\r\n");
    world.destination.assert_polite();
}

#[test]
fn kill_9_within_a_message_delivers_nothing_and_at_the_next_try_it_arrives_once() {
    let world = world();
    for sent in ["", "half of it\r\n", "all but the dot\r\n."] {
        let daemon = daemon(&world, "");
        let mut client = MailClient::connect(daemon.gateway.unwrap());
        client.envelope("anna@one.example");
        client.expect("DATA", "354");
        client.send(sent);
        std::thread::sleep(Duration::from_millis(50));
        daemon.kill();
        assert_eq!(client.reply(), "");
    }
    let daemon = daemon(&world, "");
    let mut client = MailClient::connect(daemon.gateway.unwrap());
    client.envelope("anna@one.example");
    assert!(client.data(b"all of it\r\n").starts_with("250"));
    let arrived = world.destination.record().messages;
    assert_eq!(arrived.len(), 1, "{}", world.destination.record().dialogue());
}

#[test]
fn a_reload_changes_what_the_gateway_allows_and_a_mistake_changes_nothing() {
    let world = world();
    let mut daemon = daemon(&world, "");
    let path = world.dir.path().join("callahead.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    for (section, size) in [
        ("[gateway]\nmessage_size = 70000\n", 70_000),
        ("[gateway]\ntls_certificate = \"/nowhere\"\ntls_key = \"/nowhere\"\n", 70_000),
    ] {
        std::fs::write(&path, text.replace("[gateway]\n", section)).unwrap();
        daemon.signal("HUP");
        let said = if section.contains("nowhere") { "nothing was changed" } else { "is in force" };
        daemon.until(said);
        let mut client = MailClient::connect(daemon.gateway.unwrap());
        assert!(client.say("EHLO x").contains(&format!("SIZE {size}\n")));
    }
}

/// Resident memory of a process in kB.
fn resident(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// So many clients past their EHLO that say nothing more: the daemon's resident memory with them, in kB, and without.
fn idle(count: usize) -> (u64, u64) {
    use std::io::{Read as _, Write as _};
    let world = world();
    let daemon = daemon(&world, "trusted = [\"127.0.0.0/8\"]\nconnections = 20000");
    let address = daemon.gateway.unwrap();
    drop(MailClient::connect(address));
    let before = resident(daemon.child.0.id());
    let mut clients: Vec<TcpStream> = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"EHLO client.example\r\n").unwrap();
        clients.push(stream);
    }
    for stream in &mut clients {
        let mut said = Vec::new();
        let mut chunk = [0; 512];
        while !said.ends_with(b"250 CHUNKING\r\n") {
            let length = stream.read(&mut chunk).unwrap();
            assert!(length > 0, "{}", String::from_utf8_lossy(&said));
            said.extend_from_slice(&chunk[..length]);
        }
    }
    let with = resident(daemon.child.0.id());
    // All of them are still served.
    for stream in clients.iter_mut().step_by(97) {
        stream.write_all(b"NOOP\r\n").unwrap();
        let mut reply = [0; 14];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"250 2.0.0 Ok\r\n");
    }
    (with, before)
}

#[test]
fn idle_clients_take_little_memory() {
    let (with, before) = idle(1000);
    // 10,000 of them shall take 150 MB at most.
    assert!(with - before < 15_000, "{before} kB before, {with} kB with 1,000 clients");
}

#[test]
fn ten_thousand_idle_clients_take_150_mb_at_most() {
    // A connection is a file at either end; the daemon takes the limit over.
    callahead_testbed::files::allow(12_000).unwrap();
    let (with, before) = idle(10_000);
    assert!(with < 150_000, "{before} kB before, {with} kB with 10,000 clients");
}
