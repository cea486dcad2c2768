//! The examples that need no mail server, as they are shipped.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::io::Write as _;
use std::process::{Command, Stdio};

use callahead_testbed::Script;
use common::world::World;
use common::*;

const HOOK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/cpanel/callahead-clear");

/// Runs the hook as cPanel does.
fn hook(server: &str, token: &std::path::Path, input: &str) -> (i32, String, String) {
    let mut child = Command::new("perl")
        .arg(HOOK)
        .env("CALLAHEAD_SERVER", server)
        .env("CALLAHEAD_TOKEN_FILE", token)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("perl is missing: install the Debian package perl");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    finished(child.wait_with_output().unwrap())
}

/// cPanel runs hooks as the user whose mailbox it is, who must not be able to read the token.
#[test]
fn the_cpanel_hook_asks_to_be_run_as_root() {
    let described = Command::new("perl").args([HOOK, "--describe"]).output().unwrap();
    let hooks: serde_json::Value = serde_json::from_slice(&described.stdout).unwrap();
    assert_eq!(
        (&hooks[0]["escalateprivs"], &hooks[0]["event"]),
        (&1.into(), &"UAPI::Email::add_pop".into()),
        "{hooks}"
    );
}

#[test]
fn the_cpanel_hook_clears_the_mailbox_that_was_created_and_never_stands_in_the_way() {
    let world = World::new(Script::with_mailboxes(["anna@new.example"]));
    let daemon = Daemon::start(&configure(&world.dir, &domain("new.example", world.listening.address())));
    let file = world.dir.path().join("token");
    assert_eq!(daemon.command(&["account", "add", "panel", "--role", "domain", "--domain", "new.example"]).0, 0);
    let (_, token, _) = daemon.command(&["token", "create", "--account", "panel", "--scope", "clear"]);
    std::fs::write(&file, token).unwrap();
    let server = format!("http://{}", daemon.http);
    let mut client = daemon.client();
    for (mailbox, args) in [
        ("carol@new.example", r#"{"email":"carol","domain":"new.example"}"#),
        ("dave+x/y@new.example", r#"{"email":"dave+x/y@new.example"}"#),
    ] {
        assert!(client.ask(mailbox).starts_with("550 5.1.1"));
        world.destination.add_mailbox(mailbox);
        let (code, said, error) = hook(&server, &file, &format!(r#"{{"data":{{"args":{args}}}}}"#));
        assert!(code == 0 && said.starts_with("1 ") && error.is_empty(), "{error}");
        assert_eq!(client.ask(mailbox), "DUNNO");
    }
    let input = r#"{"data":{"args":{"email":"eve","domain":"other.example"}}}"#;
    let (code, said, error) = hook(&server, &file, input);
    assert!(code == 0 && said.starts_with("1 ") && error.contains("the account has no domain"), "{error}");
    for (server, input) in [("http://127.0.0.1:9", input), (server.as_str(), "no JSON"), (server.as_str(), "{}")] {
        let (code, said, error) = hook(server, &file, input);
        assert!(code == 0 && said.starts_with("1 ") && error.contains("callahead-clear:"), "{error}");
    }
}
