//! The configuration at the start and when it is read again: by hand, by the systemd unit, and what is told of it.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use callahead_testbed::Script;
use callahead_testbed::mta::free_port;
use common::world::World;
use common::*;

const UNIT: &str = include_str!("../../../packaging/callahead.service");

fn world() -> World {
    World::new(Script::with_mailboxes(["anna@one.example"]))
}

/// Runs the unit's `ExecReload=` lines one after another up to the first that fails, as systemd does; gives what that said.
fn reload_as_systemd_does(daemon: &Daemon, config: &Path) -> Result<(), String> {
    let commands = UNIT.lines().filter_map(|line| line.strip_prefix("ExecReload="));
    for command in commands {
        let command = command
            .replace("/usr/bin/callahead", env!("CARGO_BIN_EXE_callahead"))
            .replace("/etc/callahead/callahead.toml", config.to_str().unwrap())
            .replace("$MAINPID", &daemon.child.0.id().to_string());
        let words: Vec<&str> = command.split(' ').collect();
        let (code, _, error) = finished(std::process::Command::new(words[0]).args(&words[1..]).output().unwrap());
        if code != 0 {
            return Err(error);
        }
    }
    Ok(())
}

/// Debian 12 has systemd 252, which has no `Type=notify-reload`: it takes such a unit for one that can't be reloaded.
#[test]
fn the_unit_reloads_a_good_file_and_fails_visibly_for_one_with_a_mistake() {
    assert!(UNIT.contains("\nType=notify\n"), "{UNIT}");
    let world = world();
    let config = configure(&world.dir, &world.domain());
    let good = std::fs::read_to_string(&config).unwrap();
    let mut daemon = Daemon::start(&config);
    let mut client = daemon.client();
    assert_eq!(client.ask("old-list@one.example"), REFUSED);

    std::fs::write(&config, format!("{good}valid = [\"old-list\"]\ninvalid_ttl = \"3h\"\n")).unwrap();
    let error = reload_as_systemd_does(&daemon, &config).unwrap_err();
    assert!(error.contains("is more than 2h"), "{error}");

    std::fs::write(&config, format!("{good}valid = [\"old-list\"]\n")).unwrap();
    reload_as_systemd_does(&daemon, &config).unwrap();
    daemon.until("is in force");
    assert_eq!(client.ask("old-list@one.example"), "DUNNO");
}

/// On a fresh host there is a /run, and no /run/callahead.
#[test]
fn a_start_by_hand_makes_the_folder_of_its_sockets() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = world();
    let config = configure(&world.dir, &world.domain());
    let run_folder = world.dir.path().join("run");
    std::fs::create_dir(&run_folder).unwrap();
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("/admin.sock", "/run/callahead/admin.sock")).unwrap();
    let daemon = Daemon::start(&config);
    assert_eq!(daemon.cache(&["stats"]).0, 0);
    let mode = std::fs::metadata(run_folder.join("callahead")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    drop(daemon);
    // One that is misspelt further up is not made.
    std::fs::write(&config, text.replace("/admin.sock", "/rnu/callahead/admin.sock")).unwrap();
    let (code, _, error) = self::run(&["serve", "--config", config.to_str().unwrap()]);
    assert!(code == 2 && error.contains("listen.admin") && error.contains("its folder does not exist"), "{error}");
}

/// What takes effect only at a start is not in force before one, and that is said as long as the file has it.
#[test]
fn what_a_reload_can_not_change_is_told_each_time_and_not_shown_as_in_force() {
    let world = world();
    let config = configure(&world.dir, &world.domain());
    let good = std::fs::read_to_string(&config).unwrap();
    let changed = good
        .replace("data_dir = \"", "data_dir = \"/elsewhere")
        .replace("milter = [\"127.0.0.1:0\"]", "milter = []")
        .replace("127.0.0.1:9\"", "127.0.0.1:10\"")
        .replace("[[domain]]", "[gateway]\nconnections = 7\nerrors = 9\n[[domain]]");
    let mut daemon = Daemon::start(&config);
    let cookie = daemon.set_up();
    for _ in 0..2 {
        std::fs::write(&config, &changed).unwrap();
        daemon.signal("HUP");
        for key in ["data_dir", "listen", "gateway.connections", "resolver"] {
            assert_eq!(daemon.until("at the next start")["key"], key);
        }
        daemon.until("is in force");
        let page = daemon.page(&cookie, "/node");
        let shown = |line: &str| page.contains(line);
        assert!(shown("errors = 9") && !shown("connections = 7") && !shown("elsewhere"), "{page}");
        assert!(shown("127.0.0.1:9&") && !shown("127.0.0.1:10&"), "{page}");
    }
    // Back to what it was: nothing is left to be told.
    let mut client = daemon.client();
    std::fs::write(&config, format!("{good}valid = [\"sales\"]\n")).unwrap();
    daemon.signal("HUP");
    while client.ask("sales@one.example") != "DUNNO" {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(daemon.told("at the next start", &mut client), 0);
}

/// `callout.timeout` is longer than what systemd waits for by itself.
#[test]
fn a_start_and_a_stop_have_systemd_wait_for_as_long_as_they_may_take_and_a_stop_answers_what_was_asked_for() {
    let script = Script::with_mailboxes(["anna@one.example"]);
    let world = World::new(Script { reply_delay: Duration::from_millis(500), ..script });
    let policy = format!("127.0.0.1:{}", free_port().unwrap()).parse().unwrap();
    let folder = world.dir.path();
    let (config, socket) = (folder.join("callahead.toml"), folder.join("notify"));
    let text = format!(
        "node = \"filter.example\"\ndata_dir = \"{}/data\"\n[listen]\npolicy = [\"{policy}\"]\n[callout]\ntimeout = \"2m\"\n{}",
        folder.display(),
        world.domain()
    );
    std::fs::write(&config, text).unwrap();
    let systemd = UnixDatagram::bind(&socket).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut serve = program();
    serve.args(["serve", "--config"]).arg(&config).env("NOTIFY_SOCKET", &socket).stderr(Stdio::null());
    let mut daemon = Running(serve.spawn().unwrap());
    let told = |what: &str| loop {
        let mut octets = [0; 4096];
        let length = systemd.recv(&mut octets).unwrap();
        let told = String::from_utf8_lossy(&octets[..length]).into_owned();
        if told.contains(what) {
            return told;
        }
    };
    // However many domains there are to be cleared first.
    told("EXTEND_TIMEOUT_USEC=30000000");
    told("READY=1");
    let mut client = PolicyClient::connect(policy);
    client.send("carol@one.example").unwrap();
    while world.destination.record().sessions.is_empty() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let stop = std::process::Command::new("/bin/kill").arg(daemon.0.id().to_string()).status();
    assert!(stop.unwrap().success());
    assert!(told("STOPPING=1").contains("EXTEND_TIMEOUT_USEC=135000000"));
    while TcpStream::connect(policy).is_ok() {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(client.answer().unwrap(), REFUSED);
    assert_eq!(daemon.0.wait().unwrap().code(), Some(0));
}

#[test]
fn a_level_of_the_log_that_is_none_is_told() {
    let said = |level: &str| {
        let mut serve = program();
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("callahead.toml");
        std::fs::write(&config, "node = \"filter.example\"\ndata_dir = \"/proc/nowhere\"\n").unwrap();
        serve.args(["serve", "--log-format", "human", "--config"]).arg(config).env("CALLAHEAD_LOG", level);
        finished(serve.output().unwrap()).2
    };
    for (level, part) in [("verbose", "verbose"), ("info,callout=loud", "callout=loud"), ("info,", "")] {
        let sentence = format!("CALLAHEAD_LOG: \"{part}\" is not understood, and \"info\" is taken");
        assert!(said(level).contains(&sentence), "{}", said(level));
    }
    for level in ["", "warn", "off", "INFO", "info,callahead_callout=debug"] {
        assert!(!said(level).contains("CALLAHEAD_LOG"), "{}", said(level));
    }
}

#[test]
fn an_export_of_the_log_without_decisions_is_a_no() {
    let world = world();
    let daemon = Daemon::start(&configure(&world.dir, &world.domain()));
    let (code, out, _) = daemon.command(&["log", "--csv", "--recipient", "anna@one.example"]);
    assert!(code == 1 && out.lines().count() == 1, "{code} {out}");
    daemon.client().ask("anna@one.example");
    let began = Instant::now();
    while daemon.command(&["log", "--csv", "--recipient", "anna@one.example"]).0 != 0 {
        assert!(began.elapsed() < Duration::from_secs(30));
    }
}
