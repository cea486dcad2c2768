//! The control plane through the program: domains, accounts, tokens and the log, over the admin socket and over the network.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use callahead_cache::{Cache, Options};
use callahead_engine::{Clock as _, SystemClock};
use callahead_testbed::{Destination, Listening, Script};
use common::world::World;
use common::*;
use serde_json::Value;

fn world() -> World {
    World::new(Script::with_mailboxes(["anna@new.example", "postmaster@new.example"]))
}

/// With destinations on loopback allowed, or as it is by default.
fn config(world: &World, allow_loopback: bool, more: &str) -> PathBuf {
    let callout = if allow_loopback { "[callout]\ndeny_destinations = []\n" } else { "" };
    configure(&world.dir, &format!("{callout}{more}"))
}

#[test]
fn a_domain_is_added_changed_tested_and_removed_without_a_restart_and_outlives_one() {
    let world = world();
    let config = config(&world, true, "");
    let daemon = Daemon::start(&config);
    let mut client = daemon.client();
    assert_eq!(client.ask("nobody@new.example"), "DUNNO", "not ours yet");
    let route = world.route();
    let (code, said, error) = daemon.command(&["domain", "add", "New.Example", "--route", &route]);
    assert_eq!((code, said.as_str()), (0, "New.Example is in force\n"), "{error}");
    assert_eq!(client.ask("nobody@new.example"), REFUSED);
    assert_eq!(client.ask("anna@new.example"), "DUNNO");

    let (code, _, error) = daemon.command(&["domain", "add", "new.example", "--route", "mx"]);
    assert!(code == 2 && error.contains("exists already"), "{error}");
    let (code, _, error) = daemon.command(&["domain", "set", "new.example", "--set", "callouts=sometimes"]);
    assert!(code == 2 && error.contains("callouts: \"sometimes\" is not one of enforce, observe, off"), "{error}");
    assert_eq!(daemon.command(&["domain", "set", "new.example", "--set", "reject_code=450", "--valid", "sales"]).0, 0);
    assert!(client.ask("other@new.example").starts_with("450 4.1.1"));
    assert_eq!(client.ask("sales@new.example"), "DUNNO");
    let (_, shown, _) = daemon.command(&["domain", "show", "new.example", "--json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["reject_code"], &shown["valid"][0]), (&Value::from(450), &Value::from("sales")));
    let (_, shown, _) = daemon.command(&["domain", "show", "new.example"]);
    assert!(shown.starts_with("name ") && shown.contains("  [\"sales\"]\n") && shown.contains("  []\n"), "{shown}");
    let (code, tested, _) = daemon.command(&["domain", "test", "new.example", "--transcript"]);
    assert!(code == 0 && tested.contains("random_probe  ok    ") && tested.contains("> MAIL FROM:<>"), "{tested}");
    let (_, listed, _) = daemon.command(&["domain", "list"]);
    assert!(listed.contains("new.example") && listed.contains("database") && listed.contains(&route), "{listed}");

    daemon.kill();
    let daemon = Daemon::start(&config);
    assert!(
        daemon.client().ask("another@new.example").starts_with("450 4.1.1"),
        "kill -9 loses nothing that was acknowledged"
    );
    assert_eq!(daemon.command(&["domain", "set", "new.example", "--unset", "reject_code", "--unset", "valid"]).0, 0);
    assert_eq!(daemon.client().ask("sales@new.example"), REFUSED);
    assert_eq!(daemon.command(&["domain", "remove", "new.example"]).1, "new.example is removed\n");
    for verb in ["remove", "show", "test"] {
        let (code, _, error) = daemon.command(&["domain", verb, "new.example"]);
        assert!(code == 1 && error.contains("there is no domain new.example"), "{verb}: {error}");
    }
    assert_eq!(daemon.client().ask("fourth@new.example"), "DUNNO");
}

#[test]
fn a_domain_says_itself_what_is_logged_of_it() {
    let world = world();
    let daemon = Daemon::start(&config(&world, true, "[log]\ndays = 20\n"));
    assert_eq!(daemon.command(&["domain", "add", "new.example", "--route", &world.route()]).0, 0);
    let of = |key: &str| {
        let shown: Value =
            serde_json::from_str(&daemon.command(&["domain", "show", "new.example", "--json"]).1).unwrap();
        shown[key].clone()
    };
    assert_eq!((of("log_days"), of("log_recipients")), (20.into(), "full".into()));
    let (code, _, error) = daemon.command(&["domain", "set", "new.example", "--set", "log_days=4000"]);
    assert!(code == 2 && error.contains("log_days: 4000 is not a number from 0 to 3650"), "{error}");
    let set = |key: &str| assert_eq!(daemon.command(&["domain", "set", "new.example", "--set", key]).0, 0);
    set("log_days=90");
    assert_eq!(of("log_days"), 20, "the node's own is the bound");
    // What waits to be written is written within the second.
    let logged = |recipient: &str| {
        let began = Instant::now();
        while daemon.command(&["log", "--recipient", recipient]).0 != 0 {
            assert!(began.elapsed() < Duration::from_secs(30), "{recipient} is not in the log");
        }
    };
    let mut client = daemon.client();
    assert_eq!(client.ask("first@new.example"), REFUSED);
    logged("first@new.example");
    set("log_recipients=domain");
    assert_eq!(client.ask("second@new.example"), REFUSED);
    logged("*@new.example");
    set("log_days=0");
    assert_eq!(client.ask("third@new.example"), REFUSED);
    // What comes later is written later: with this one the third is done with.
    assert_eq!(client.ask("any@other.example"), "DUNNO");
    logged("any@other.example");
    assert_eq!(
        daemon.command(&["domain", "set", "new.example", "--unset", "log_days", "--unset", "log_recipients"]).0,
        0
    );
    assert_eq!(client.ask("fourth@new.example"), REFUSED);
    logged("fourth@new.example");
    let (_, rows, _) = daemon.command(&["log", "--domain", "new.example", "--json"]);
    assert!(!rows.contains("second@") && !rows.contains("third@"), "{rows}");
}

#[test]
fn the_files_domain_wins_by_name_from_the_reload_on_and_routes_stay_off_this_host() {
    let world = world();
    let config = config(&world, false, "");
    let mut daemon = Daemon::start(&config);
    let route = world.route();
    let (code, _, error) = daemon.command(&["domain", "add", "new.example", "--route", &route]);
    assert!(code == 2 && error.contains("lies in deny_destinations"), "{error}");
    let port = route.rsplit(':').next().unwrap();
    assert_eq!(daemon.command(&["domain", "add", "new.example", "--route", &format!("localhost.invalid:{port}")]).0, 0);
    let good = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{good}{}", domain("new.example", world.listening.address()))).unwrap();
    daemon.signal("HUP");
    daemon.until("is in force");
    assert_eq!(daemon.client().ask("nobody@new.example"), REFUSED, "the file names the address, so it may be asked");
    let (_, listed, _) = daemon.command(&["domain", "list"]);
    assert!(listed.matches("new.example").count() == 1 && listed.contains("file"), "{listed}");
    let (code, _, error) = daemon.command(&["domain", "set", "new.example", "--set", "callouts=off"]);
    assert!(code == 2 && error.contains("stands in the configuration file"), "{error}");
    std::fs::write(&config, good).unwrap();
    daemon.signal("HUP");
    daemon.until("is in force");
    let (_, listed, _) = daemon.command(&["domain", "list"]);
    assert!(listed.contains("database"), "{listed}");
}

/// Asks for anna, who is at the world's destination, and for carol, who is at another one, twice each.
fn assert_known(daemon: &Daemon, anna: &str, carol: &str) {
    let mut client = daemon.client();
    for (recipient, answer) in [("anna@new.example", anna), ("carol@new.example", carol)] {
        for time in ["asked for", "from the cache"] {
            let answered = client.ask(recipient);
            assert_eq!(answered.strip_suffix(" (cached)").unwrap_or(&answered), answer, "{recipient} {time}");
        }
    }
}

/// What is listed of them once it is on disk.
fn both_kept(daemon: &Daemon) -> String {
    loop {
        let (_, listed, _) = daemon.cache(&["list", "--domain", "new.example"]);
        if listed.contains("anna@new.example") && listed.contains("carol@new.example") {
            return listed;
        }
    }
}

/// Where carol is.
fn other_destination(world: &World) -> Listening {
    let other = Destination::new(Script::with_mailboxes(["carol@new.example", "postmaster@new.example"]));
    world.beside(&other)
}

#[test]
fn a_file_that_leads_a_domain_elsewhere_forgets_what_the_old_destination_said_at_a_reload_and_at_a_start() {
    let world = world();
    let other = other_destination(&world);
    let (here, there) = (world.listening.address(), other.address());
    let write = |route| config(&world, false, &domain("new.example", route));
    let config = write(here);
    let mut daemon = Daemon::start(&config);
    assert_known(&daemon, "DUNNO", REFUSED);
    both_kept(&daemon);
    write(there);
    daemon.signal("HUP");
    daemon.until("is in force");
    assert_known(&daemon, REFUSED, "DUNNO");
    let listed = both_kept(&daemon);
    daemon.signal("HUP");
    daemon.until("is in force");
    assert_eq!(
        daemon.cache(&["list", "--domain", "new.example"]).1,
        listed,
        "nothing has changed, nothing is forgotten"
    );

    // The file is changed while nothing runs, or the process was killed before it had cleared.
    daemon.kill();
    write(here);
    let daemon = Daemon::start(&config);
    assert_known(&daemon, "DUNNO", REFUSED);
    both_kept(&daemon);
    daemon.kill();
    let daemon = Daemon::start(&config);
    let (_, listed, _) = daemon.cache(&["list", "--domain", "new.example"]);
    assert!(listed.contains("anna@new.example"), "a start by itself forgets nothing: {listed}");
    drop(daemon);
}

#[test]
fn a_backup_of_the_control_database_brings_back_no_answer_of_a_later_route() {
    let world = world();
    let other = other_destination(&world);
    let config = config(&world, true, "");
    let daemon = Daemon::start(&config);
    assert_eq!(daemon.command(&["domain", "add", "new.example", "--route", &world.route()]).0, 0);
    assert_known(&daemon, "DUNNO", REFUSED);
    daemon.stop();
    let file = world.dir.path().join("data/control.db");
    let backup = std::fs::read(&file).unwrap();

    let daemon = Daemon::start(&config);
    let (code, _, error) = daemon.command(&["domain", "set", "new.example", "--route", &other.address().to_string()]);
    assert_eq!(code, 0, "{error}");
    assert_known(&daemon, REFUSED, "DUNNO");
    both_kept(&daemon);
    daemon.kill();
    std::fs::write(&file, backup).unwrap();
    for more in ["data/control.db-wal", "data/control.db-shm"] {
        let _ = std::fs::remove_file(world.dir.path().join(more));
    }
    let daemon = Daemon::start(&config);
    assert_known(&daemon, "DUNNO", REFUSED);
    drop(daemon);
}

#[test]
fn what_was_learned_before_a_new_domains_route_was_written_down_is_not_served_under_another() {
    let world = world();
    let other = other_destination(&world);
    let write = |route| config(&world, false, &domain("new.example", route));
    let config = write(world.listening.address());
    let daemon = Daemon::start(&config);
    assert_known(&daemon, "DUNNO", REFUSED);
    both_kept(&daemon);
    daemon.kill();
    // As the file is where the process was killed between its first answer and the note of the route.
    let now = SystemClock::new().now();
    let cache = Cache::open(&world.dir.path().join("data/cache"), &Options::default(), now).unwrap();
    world.runtime.block_on(cache.keep_routes(vec![("new.example".into(), None)])).unwrap();
    drop(cache);
    write(other.address());
    let daemon = Daemon::start(&config);
    assert_known(&daemon, REFUSED, "DUNNO");
    drop(daemon);
}

#[test]
fn the_first_account_is_made_by_the_admin_socket_and_its_token_works_over_the_network() {
    let world = world();
    let config = config(&world, true, "");
    let mut daemon = Daemon::start(&config);
    assert_eq!(daemon.command(&["account", "add", "root", "--role", "admin"]).0, 0);
    let (code, token, remark) = daemon.command(&["token", "create", "--account", "root", "--expires-in", "1h"]);
    assert!(code == 0 && token.starts_with("callahead_") && remark.contains("not shown again"), "{remark}");
    let server = format!("http://{}", daemon.http);
    let over = |args: &[&str]| {
        let mut command = program();
        command.args(args).args(["--server", &server]).env("CALLAHEAD_TOKEN", token.trim());
        finished(command.output().unwrap())
    };
    assert_eq!(over(&["domain", "add", "new.example", "--route", &world.route()]).0, 0);
    assert_eq!(daemon.client().ask("carol@new.example"), REFUSED);
    world.destination.add_mailbox("carol@new.example");
    let (code, cleared, error) = over(&["cache", "clear", "--recipient", "carol@new.example"]);
    assert_eq!((code, cleared.as_str()), (0, "cleared carol@new.example: 1 entry forgotten\n"), "{error}");
    assert_eq!(daemon.client().ask("carol@new.example"), "DUNNO");

    for _ in 0..10 {
        let (_, tested, error) = over(&["domain", "test", "new.example"]);
        assert!(tested.contains("connect       ok"), "{tested}{error}");
    }
    let (code, _, error) = over(&["domain", "test", "new.example"]);
    assert!(code == 2 && error.contains("too many attempts; wait"), "{error}");

    let (_, accounts, _) = over(&["account", "list"]);
    assert!(accounts.contains("root") && accounts.contains("admin"), "{accounts}");
    let mut command = program();
    let socket = daemon.admin.to_str().unwrap();
    command.args([
        "account",
        "add",
        "anna",
        "--role",
        "domain",
        "--domain",
        "new.example",
        "--password-stdin",
        "--socket",
        socket,
    ]);
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"correct horse battery\n").unwrap();
    assert!(child.wait().unwrap().success());
    let (_, shown, _) = over(&["account", "show", "anna", "--json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["has_password"], &shown["domains"][0]), (&Value::from(true), &Value::from("new.example")));
    assert_eq!(over(&["account", "set", "anna", "--read-only", "true"]).0, 0);
    assert_eq!(over(&["account", "remove", "anna"]).0, 0);
    assert_eq!(over(&["account", "remove", "anna"]).0, 1);

    let (_, tokens, _) = over(&["token", "list", "--json"]);
    let listed: Value = serde_json::from_str(tokens.trim()).unwrap();
    assert!(listed["last_used_from"].as_str().unwrap().starts_with("127.0.0.1") && !tokens.contains(token.trim()));
    let id = listed["id"].as_str().unwrap();
    assert_eq!(daemon.command(&["token", "remove", id]).0, 0);
    assert_eq!(daemon.command(&["token", "remove", id]).0, 1);
    let (code, _, error) = over(&["domain", "list"]);
    assert!(code == 2 && error.contains("the token is unknown or has expired"), "{error}");
    for (server, words) in [("ftp://x", "is no server"), ("http://127.0.0.1:1/path", "is no server")] {
        let (code, _, error) = run(&["domain", "list", "--server", server, "--token", "x"]);
        assert!(code == 2 && error.contains(words), "{error}");
    }
    daemon.signal("TERM");
    daemon.until("stopping");
    assert_eq!(daemon.end().0, 0);
}

/// A route's test as a stream of events: the name of each, its data, and when it came.
fn tested_in_steps(daemon: &Daemon, name: &str) -> Vec<(String, Value, Duration)> {
    let began = Instant::now();
    let mut stream = UnixStream::connect(&daemon.admin).unwrap();
    let request = format!(
        "POST /api/v1/domains/{name}/test HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let (mut events, mut kind, mut head) = (Vec::new(), String::new(), true);
    for line in BufReader::new(stream).lines() {
        let line = line.unwrap();
        if head && line.starts_with("content-type") {
            assert_eq!(line, "content-type: text/event-stream");
        }
        head = head && !line.is_empty();
        if let Some(name) = line.strip_prefix("event: ") {
            kind = name.to_owned();
        }
        if let Some(data) = line.strip_prefix("data: ") {
            events.push((kind.clone(), serde_json::from_str(data).unwrap(), began.elapsed()));
        }
    }
    events
}

#[test]
fn a_route_is_tested_step_by_step_and_each_is_sent_when_it_is_taken() {
    let world = world();
    let config = config(&world, true, &domain("new.example", world.listening.address()));
    let daemon = Daemon::start(&config);
    let round_trip = Duration::from_millis(50);
    world.destination.script().reply_delay = round_trip;
    let events = tested_in_steps(&daemon, "new.example");
    let names: Vec<&str> = events.iter().map(|(kind, data, _)| data["step"].as_str().unwrap_or(kind)).collect();
    assert_eq!(
        names,
        [
            "host",
            "connect",
            "greeting",
            "ehlo",
            "tls",
            "null_sender",
            "random_probe",
            "postmaster",
            "open_relay",
            "quit",
            "done"
        ]
    );
    // The greeting was told before the rest of the dialogue was held, which takes nine round trips more.
    let (greeted, done) = (events[2].2, events[10].2);
    assert!(done - greeted >= 9 * round_trip, "{events:?}");
    assert!(events[2].1["ms"].as_f64().unwrap() >= 50.0, "{events:?}");
    let done = &events[10].1;
    assert_eq!((&done["ok"], &done["domain"]), (&Value::from(true), &Value::from("new.example")));
    assert_eq!(done["hosts"][0]["relays"], false);
    let steps = done["hosts"][0]["steps"].as_array().unwrap();
    let told: Vec<Value> = events[1..10]
        .iter()
        .map(|(_, data, _)| {
            assert_eq!(data["host"], world.route());
            let mut step = data.clone();
            step.as_object_mut().unwrap().remove("host");
            step
        })
        .collect();
    assert_eq!(*steps, told, "what was told is what is found");

    world.destination.script().relays = true;
    let (code, tested, error) = daemon.command(&["domain", "test", "new.example"]);
    assert!(code == 0 && tested.contains("open_relay    note"), "a relay is told of and no failure: {tested}{error}");
    world.destination.assert_polite();
}

/// A server on loopback that answers everything with these octets; gives its URL.
fn a_server_that_says(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut request = Vec::new();
            // The head is enough, and what follows it is read so that the connection is not reset.
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                let mut part = [0; 4096];
                match stream.read(&mut part) {
                    Ok(0) | Err(_) => break,
                    Ok(read) => request.extend_from_slice(&part[..read]),
                }
            }
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    url
}

#[test]
fn what_is_no_callahead_is_never_taken_for_one() {
    let not_found =
        "HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n";
    let json =
        "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
    let empty = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
    let proxy =
        "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>";
    let short = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 900\r\nConnection: close\r\n\r\n{\"entries";
    let making: [&[&str]; 3] = [
        &["domain", "add", "new.example", "--route", "mx"],
        &["account", "add", "root", "--role", "admin"],
        &["token", "create", "--account", "root"],
    ];
    let seeing: [&[&str]; 7] = [
        &["cache", "list"],
        &["cache", "show", "anna@new.example"],
        &["domain", "list"],
        &["domain", "show", "new.example"],
        &["domain", "remove", "new.example"],
        &["account", "login-link", "root"],
        &["log", "--csv"],
    ];
    let all: Vec<&[&str]> = making.into_iter().chain(seeing).collect();
    let is_none = "is no callahead";
    for (answer, commands, words) in [
        (not_found, all.as_slice(), is_none),
        (json, &all, is_none),
        (proxy, &all, "it says 502 Bad Gateway"),
        (empty, &[making[0], making[1], making[2], seeing[0], seeing[6]], is_none),
        (short, &seeing[..4], "broke off before its end"),
    ] {
        let server = a_server_that_says(answer);
        for command in commands {
            let (code, said, error) = run(&[command, &["--server", &server, "--token", "x"][..]].concat());
            assert!(code == 3 && said.is_empty() && error.contains(words), "{command:?}: {code} {said}{error}");
        }
    }
}

#[test]
fn what_was_decided_is_found_in_the_log_after_a_restart_too() {
    let world = world();
    let config = config(&world, true, &domain("new.example", world.listening.address()));
    let mut daemon = Daemon::start(&config);
    let mut client = daemon.client();
    for recipient in ["anna@new.example", "nobody@new.example", "somebody@other.example"] {
        client.ask(recipient);
    }
    drop(client);
    daemon.signal("TERM");
    daemon.until("stopping");
    assert_eq!(daemon.end().0, 0);
    let daemon = Daemon::start(&config);
    let (code, found, _) = daemon.command(&["log", "--verdict", "invalid"]);
    assert!(code == 0 && found.contains("nobody@new.example") && !found.contains("anna@"), "{found}");
    let (_, found, _) = daemon.command(&["log", "--domain", "new.example", "--since", "1h", "--json"]);
    assert_eq!(found.lines().count(), 2, "{found}");
    let newest: Value = serde_json::from_str(found.lines().next().unwrap()).unwrap();
    assert_eq!((&newest["listener"], &newest["decision"]["row"]), (&Value::from("policy"), &Value::from(11)));
    for (limit, more) in [("2", "… and more than these 2: --limit N"), ("3", "")] {
        let (code, found, told) = daemon.command(&["log", "--limit", limit, "--json"]);
        assert_eq!((code, found.lines().count().to_string().as_str()), (0, limit), "{told}");
        assert!(told.starts_with(more) && told.is_empty() == more.is_empty(), "{told}");
    }
    assert_eq!(daemon.command(&["log", "--limit", "0"]).0, 2);
    let (_, csv, _) = daemon.command(&["log", "--csv"]);
    assert!(csv.starts_with("at,node,listener,client,") && csv.lines().count() == 4, "{csv}");
    assert_eq!(daemon.command(&["log", "--recipient", "zzz"]).0, 1);
    let (code, _, error) = daemon.command(&["log", "--since", "yesterday"]);
    assert!(code == 2 && error.contains("is no time"), "{error}");
}
