//! The configuration at the start and when it is read again: by hand, by the systemd unit, and what is told of it.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::path::Path;

use callahead_testbed::Script;
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
