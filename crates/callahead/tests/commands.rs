//! The commands that need no daemon.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use callahead_testbed::Script;
use common::world::World;
use common::*;
use tempfile::TempDir;

#[test]
fn check_asks_and_its_exit_status_is_the_answer() {
    let world = World::new(Script::with_mailboxes(["anna@one.example"]));
    let route = world.route();
    let (code, out, _) = run(&["check", "--route", &route, "anna@one.example"]);
    assert!(code == 0 && out.contains("anna@one.example: exists") && out.contains("row 10"), "{out}");
    let (code, out, _) = run(&["check", "--route", &route, "--transcript", "carol@one.example"]);
    assert!(code == 1 && out.contains("does not exist") && out.contains("550 5.1.1"), "{out}");
    assert!(out.contains("> RCPT TO:<carol@one.example>") && out.contains(" ms "), "{out}");
    let (code, out, _) = run(&["check", "--json", "--route", &route, "anna@one.example", "carol@one.example"]);
    let verdicts: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((code, &verdicts[0]["verdict"], &verdicts[1]["row"]), (1, &"valid".into(), &11.into()));
    assert!(verdicts[0].get("transcript").is_none());
    let (code, out, _) = run(&["check", "--json", "--transcript", "--route", &route, "anna@one.example"]);
    assert!(code == 0 && out.contains("\"line\":\"EHLO"), "{out}");
    for name in ["nobody", "postmaster"] {
        let (code, out, error) = run(&["check", "--route", &route, name]);
        let told = format!("callahead: {name} has no domain: write {name}@DOMAIN\n");
        assert_eq!((code, out.as_str(), error), (2, "", told));
    }
    for none in ["anna@one..example", "no address"] {
        assert_eq!(run(&["check", "--route", &route, none]).0, 1);
    }
    let (code, out, _) = run(&["check", "--route", &route, "--transcript", "a..b@one.example"]);
    assert!(code == 1 && out.contains("> RCPT TO:<\"a..b\"@one.example>"), "as MTAs log what needs quotes: {out}");
    drop(world.listening);
    let (code, out, _) = run(&["check", "--route", &route, "anna@one.example"]);
    assert!(code == 3 && out.contains("could not be told") && out.contains("refused"), "{out}");
    assert_eq!(run(&["check", "--route", "not a host", "anna@one.example"]).0, 2);
    world.destination.assert_polite();
}

/// Senders may always write to postmaster, and who checks wants to know what the destination says of it.
#[test]
fn check_asks_for_postmaster_too() {
    let world = World::new(Script::with_mailboxes(["anna@one.example"]));
    let (code, out, _) = run(&["check", "--route", &world.route(), "--transcript", "postmaster@one.example"]);
    assert!(code == 1 && out.contains("postmaster@one.example: does not exist") && out.contains("row 5"), "{out}");
    assert!(out.contains("> RCPT TO:<postmaster@one.example>") && out.contains("accepted\n"), "{out}");
    world.destination.add_mailbox("postmaster@one.example");
    let (code, out, _) = run(&["check", "--route", &world.route(), "postmaster@one.example"]);
    assert!(code == 0 && out.contains("exists"), "{out}");
}

#[test]
fn check_says_of_a_refusal_what_it_is_about() {
    for (reply, code, verdict) in [
        ("504 5.5.2 <filter>: Helo command rejected", 3, "could not be told"),
        ("552 5.2.2 over quota", 1, "exists, and is full or disabled"),
        ("550 5.1.1 no such user", 1, "does not exist"),
    ] {
        for address in ["anna@one.example", "postmaster@one.example"] {
            let script = Script::with_mailboxes(["ben@one.example"]);
            let world = World::new(Script { rcpt_replies: [(address.into(), reply.into())].into(), ..script });
            let (exit, out, error) = run(&["check", "--route", &world.route(), address]);
            assert!(exit == code && out.contains(&format!("{address}: {verdict}")), "{reply}: {exit} {out}{error}");
        }
    }
}

#[test]
fn check_can_not_tell_where_every_local_part_is_accepted() {
    let world = World::new(Script::accept_all());
    for address in ["anna@one.example", "postmaster@one.example"] {
        let (code, out, _) = run(&["check", "--route", &world.route(), address]);
        assert!(code == 3 && out.contains("can't be told: the destination accepts every local part"), "{code} {out}");
    }
}

/// A domain's public MX is this filter, as a rule.
#[test]
fn check_asks_the_daemon_for_domains_that_only_the_daemon_knows() {
    let world = World::new(Script::with_mailboxes(["anna@two.example"]));
    let open = "[callout]\ndeny_destinations = []\n";
    let config = configure(&world.dir, &format!("{open}{}", domain("one.example", world.listening.address())));
    let file = config.to_str().unwrap();
    let (code, _, error) = run(&["check", "--config", file, "anna@two.example"]);
    assert!(code == 3 && error.contains("two.example is not in") && error.contains("give --route"), "{code} {error}");
    let daemon = Daemon::start(&config);
    let (code, _, error) = daemon.command(&["domain", "add", "two.example", "--route", &world.route()]);
    assert_eq!(code, 0, "{error}");
    let (code, out, _) = run(&["check", "--config", file, "--transcript", "anna@two.example", "carol@two.example"]);
    assert!(code == 1 && out.contains("anna@two.example: exists"), "{code} {out}");
    assert!(
        out.contains("carol@two.example: does not exist") && out.contains("> RCPT TO:<carol@two.example>"),
        "{out}"
    );
    let (code, out, _) = run(&["check", "--json", "--config", file, "anna@two.example"]);
    let verdict: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(code == 0 && verdict["row"] == 10 && verdict.get("transcript").is_none(), "{out}");
    let (code, out, error) = run(&["check", "--config", file, "anna@three.example", "anna@two.example"]);
    assert!(code == 2 && error.contains("nor one of the daemon's domains: give --route"), "{code} {error}");
    assert!(out.contains("anna@two.example: exists"), "{out}");
    let (code, out, _) = run(&["check", "--config", file, "--route", &world.route(), "anna@two.example"]);
    assert!(code == 0 && out.contains("exists"), "{out}");
    let written = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, written.replace("filter.example", "vm")).unwrap();
    let (code, _, error) = run(&["check", "--config", file, "anna@two.example"]);
    assert!(code == 0 && error.starts_with("warning: ") && error.contains("\"vm\" has no dot"), "{error}");
}

#[test]
fn verify_goes_through_a_file_and_goes_on_where_it_was_stopped() {
    let mailboxes: Vec<String> = (0..40).filter(|n| n % 2 == 0).map(|n| format!("user{n}@one.example")).collect();
    let world = World::new(Script::with_mailboxes(mailboxes.iter().map(String::as_str)));
    let route = world.route();
    let dir = TempDir::new().unwrap();
    let (input, output) = (dir.path().join("in.csv"), dir.path().join("out.csv"));
    let mut rows = String::from("name,Email\n");
    (0..40).for_each(|n| rows.push_str(&format!("\"=cmd, {n}\",user{n}@one.example\n")));
    rows.push_str("odd,no address at all\n");
    std::fs::write(&input, &rows).unwrap();
    let verify = || run(&["verify", input.to_str().unwrap(), "-o", output.to_str().unwrap(), "--route", &route]);
    let (code, _, said) = verify();
    assert!(code == 0 && said.contains("41 of 41 done"), "{said}");
    let whole = std::fs::read_to_string(&output).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    assert_eq!(lines.len(), 42);
    assert!(lines[0].starts_with("name,Email,verdict,accept_all,row,reason"), "{}", lines[0]);
    assert!(lines[1].starts_with("\"'=cmd, 0\",user0@one.example,valid,false,10,"), "{}", lines[1]);
    assert!(lines[2].starts_with("\"'=cmd, 1\",user1@one.example,invalid,false,11,"), "{}", lines[2]);
    assert!(lines[41].starts_with("odd,no address at all,no_address,false,1,"), "{}", lines[41]);

    let (code, _, said) = verify();
    assert!(code == 0 && said.ends_with("41 of 41 done\n"), "nothing is left to be asked: {said}");

    // As a kill leaves it: some rows, and a torn one.
    std::fs::write(&output, format!("{}\n\"'=cmd, 20\",user2", lines[..21].join("\n"))).unwrap();
    let asked = world.destination.record().rcpt;
    let (code, _, said) = verify();
    assert!(code == 0 && said.contains("20 of 41 are there already"), "{said}");
    let again = std::fs::read_to_string(&output).unwrap();
    let stable =
        |text: &str| -> Vec<String> { text.lines().map(|l| l.split(",false,").next().unwrap().to_owned()).collect() };
    assert_eq!(stable(&again), stable(&whole));
    assert!(world.destination.record().rcpt - asked <= 22, "what was there is not asked again");

    // Another input is not mixed into it.
    std::fs::write(&input, rows.replace("user3@", "other@")).unwrap();
    let (code, _, said) = verify();
    assert!(code == 2 && said.contains("the input has changed"), "{said}");
    // Nor is a file emptied that is somebody else's.
    for other in [&b"one line"[..], b"a line\nanother\n", b"\xff\xfe\n\xff\n", b"name,Email,verdict"] {
        std::fs::write(&output, other).unwrap();
        let (code, _, said) = verify();
        assert!(code == 2 && said.contains("choose another output file"), "{said}");
        assert_eq!(std::fs::read(&output).unwrap(), other);
    }
    world.destination.assert_polite();
}

#[test]
fn verify_reads_standard_input_and_lists_without_a_header() {
    let world = World::new(Script::accept_all());
    let dir = TempDir::new().unwrap();
    let input = dir.path().join("in.csv");
    std::fs::write(&input, "anna@one.example\nben@one.example\n").unwrap();
    let output = program()
        .args(["verify", "-", "--route", &world.route()])
        .stdin(std::fs::File::open(&input).unwrap())
        .output()
        .unwrap();
    let (code, out, _) = finished(output);
    assert_eq!(code, 0);
    assert_eq!(out.lines().count(), 3);
    assert!(out.starts_with("address,verdict,") && out.contains("\nanna@one.example,valid,true,"), "{out}");
    let (code, _, error) = run(&["verify", "/nonexistent.csv"]);
    assert!(code == 2 && error.contains("/nonexistent.csv can't be read"), "{error}");
}

#[test]
fn the_demo_plays_every_verdict_to_its_end() {
    let (code, out, error) = run(&["demo", "--exit"]);
    assert_eq!(code, 0, "{error}");
    let rows: Vec<&str> = out
        .lines()
        .filter(|l| l.starts_with(|c: char| c.is_ascii_digit()))
        .map(|l| l.split(' ').next().unwrap())
        .collect();
    assert_eq!(rows[..15], ["10", "7", "11", "8", "9", "6", "12", "14", "13", "5", "3", "2", "1", "8", "10"], "{out}");
    assert!(out.contains("every session ended in QUIT"));
}

#[test]
fn the_demo_stays_until_it_is_told_to_end_and_leaves_nothing_behind() {
    for name in ["-INT", "-TERM"] {
        let mut demo = Running(program().arg("demo").stdout(Stdio::piped()).spawn().unwrap());
        let mut lines = BufReader::new(demo.0.stdout.take().unwrap()).lines().map(Result::unwrap);
        let admin =
            lines.find_map(|line| line.trim().strip_prefix("admin")?.trim().strip_prefix("unix:").map(PathBuf::from));
        let admin = admin.unwrap();
        let folder = admin.parent().unwrap().to_owned();
        assert!(folder.is_dir());
        assert!(lines.any(|line| line.contains("Ctrl-C ends it")));
        let socket = admin.to_str().unwrap();
        let (code, tested, error) = run(&["domain", "test", "normal.example", "--socket", socket]);
        assert!(code == 0 && tested.contains("postmaster    ok"), "{tested}{error}");
        let signal = Command::new("/bin/kill").args([name, &demo.0.id().to_string()]).status();
        assert!(signal.unwrap().success());
        assert!(lines.any(|line| line.starts_with("stopped; every session ended in QUIT")), "{name}");
        assert_eq!(demo.0.wait().unwrap().code(), Some(0));
        assert!(!folder.exists(), "{name} left {}", folder.display());
    }
}

#[test]
fn config_check_show_and_init() {
    let dir = TempDir::new().unwrap();
    // Its folder is made: on a fresh host there is no /etc/callahead.
    let path = dir.path().join("etc/callahead/callahead.toml");
    let file = path.to_str().unwrap();
    assert_eq!(run(&["config", "init", "--output", file]).0, 0);
    let (code, out, _) = run(&["config", "check", "--config", file]);
    assert_eq!((code, out), (0, format!("{file} is good: 0 domains, 5 listeners\n")));
    let written = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("node = \"filter.example\"\n{written}")).unwrap();
    let (code, out, _) = run(&["config", "show", "--config", file]);
    assert!(code == 0 && out.contains("valid_ttl = \"96h\""));
    let json = |args: &[&str]| -> (i32, serde_json::Value) {
        let (code, out, error) = run(&[args, &["--config", file, "--json"]].concat());
        assert!(error.is_empty(), "{error}");
        (code, serde_json::from_str(&out).unwrap())
    };
    assert_eq!(json(&["config", "show"]).1["defaults"]["valid_ttl"], "96h");
    assert_eq!(json(&["config", "check"]), (0, serde_json::json!({"good": true, "mistakes": [], "warnings": []})));
    std::fs::write(&path, format!("node = \"vm\"\n{written}")).unwrap();
    let (code, _, error) = run(&["config", "check", "--config", file]);
    assert!(code == 0 && error.starts_with(&format!("warning: {file}:1: node: \"vm\" has no dot")), "{error}");
    assert_eq!(json(&["config", "check"]).1["warnings"].as_array().unwrap().len(), 1);
    let (code, _, error) = run(&["config", "init", "--output", file]);
    assert!(code == 2 && error.ends_with("is there already; name another file\n"), "{error}");
    std::fs::write(&path, "lisen = 1\n").unwrap();
    let (code, _, error) = run(&["config", "check", "--config", file]);
    assert!(code == 2 && error.contains(":1: there is no key \"lisen\""), "{error}");
    let (code, said) = json(&["config", "check"]);
    assert!(code == 2 && said["good"] == false && said["mistakes"].as_array().unwrap().len() == 1, "{said}");
}

#[test]
fn what_the_system_says_is_said_once() {
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("callahead.toml");
    let folder = dir.path().display();
    // An address of no host (RFC 5737).
    let text =
        format!("node = \"filter.example\"\ndata_dir = \"{folder}/data\"\n[listen]\npolicy = [\"192.0.2.1:0\"]\n");
    std::fs::write(&config, text).unwrap();
    let (code, _, error) = run(&["serve", "--config", config.to_str().unwrap()]);
    let told = error.lines().find(|line| line.contains("can't listen on 192.0.2.1:0")).unwrap_or_default();
    assert!(code == 2 && told.matches("os error").count() == 1, "{error}");
}

#[test]
fn every_command_has_help_with_an_example_and_there_are_manual_pages_and_completions() {
    for command in [
        "serve",
        "demo",
        "check",
        "verify",
        "cache list",
        "cache show",
        "cache clear",
        "cache stats",
        "domain list",
        "domain show",
        "domain add",
        "domain set",
        "domain remove",
        "domain test",
        "account list",
        "account show",
        "account add",
        "account set",
        "account remove",
        "account login-link",
        "token list",
        "token create",
        "token remove",
        "log",
        "config check",
        "config show",
        "config init",
        "completions",
        "man",
    ] {
        let mut args: Vec<&str> = command.split(' ').collect();
        args.push("--help");
        let (code, out, _) = run(&args);
        assert!(code == 0 && out.contains("Usage: callahead") && out.contains("Example"), "{command}: {out}");
    }
    assert_eq!(run(&["serv"]).0, 2);
    assert_eq!(run(&["cache", "clear"]).0, 2);
    let dir = TempDir::new().unwrap();
    assert_eq!(run(&["man", "--dir", dir.path().to_str().unwrap()]).0, 0);
    assert!(std::fs::read_dir(dir.path()).unwrap().count() > 10);
    assert!(run(&["man"]).1.contains(".TH callahead"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(&["completions", shell]).1.contains("callahead"));
    }
}
