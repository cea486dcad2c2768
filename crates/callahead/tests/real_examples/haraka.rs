//! Haraka of npm with the plugin of the example.

use std::fs::{read_to_string, write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use callahead_testbed::mta::{free_port, swaks};

use crate::common::Running;
use crate::common::mail::MailClient;
use crate::{World, example, logged, rendered, token, until};

/// A Haraka that sends what it takes to the destination of the world.
struct Haraka {
    process: Running,
    address: SocketAddr,
    folder: PathBuf,
}

impl Haraka {
    /// In a folder as `haraka -i` makes it, with the files of the example where the README puts them.
    fn start(world: &World, token: &str) -> Self {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| example("../target"), PathBuf::from);
        let program = target.join("npm/node_modules/Haraka/bin/haraka");
        assert!(
            program.exists(),
            "Haraka (npm) is not in {}: \"cargo xtask roots\" fetches it with the Debian package npm",
            target.join("npm").display()
        );
        let (folder, source) = (world.dir.path().join("haraka"), example("haraka"));
        let address = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
        let node = || {
            let mut command = Command::new("node");
            command.arg(&program).stdin(Stdio::null());
            command
        };
        let made = node().arg("-i").arg(&folder).output().expect("node is missing: install the Debian package nodejs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let config = |name: &str, text: &str| write(folder.join("config").join(name), text).unwrap();
        config("me", "front.example\n");
        config("smtp.ini", &format!("listen={address}\nnodes=0\n"));
        config("plugins", "callahead\nqueue/smtp_forward\n");
        let to = world.listening.address();
        config("smtp_forward.ini", &format!("host={}\nport={}\n", to.ip(), to.port()));
        let ini = source.join("config/callahead.ini");
        let own = [("http://127.0.0.1:8080", world.server.as_str()), ("token =", &format!("token = {token}"))];
        config("callahead.ini", &rendered(&ini, &own));
        config("callahead.timeout", &rendered(&source.join("config/callahead.timeout"), &[]));
        write(folder.join("plugins/callahead.js"), rendered(&source.join("plugins/callahead.js"), &[])).unwrap();
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let process = node().arg("-c").arg(&folder).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let haraka = Self { process: Running(process), address, folder };
        until("Haraka listens", || TcpStream::connect(address).is_ok());
        haraka
    }

    /// A session after MAIL.
    fn session(&self) -> MailClient {
        let mut client = MailClient::connect(self.address);
        client.expect("MAIL FROM:<sender@elsewhere.example>", "250");
        client
    }

    fn log(&self) -> String {
        read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Haraka {
    fn drop(&mut self) {
        let _ = self.process.0.kill();
        if std::thread::panicking() {
            let _ = std::io::Write::write_all(&mut std::io::stderr(), self.log().as_bytes());
        }
    }
}

#[test]
fn real_haraka_keeps_out_who_does_not_exist() {
    let world = World::start();
    let daemon = world.daemon();
    let haraka = Haraka::start(&world, &token(&daemon, &["haraka", "--role", "admin", "--read-only"], &["check"]));

    let sent = swaks(haraka.address, "someone@sender.example", "anna@example.com").unwrap();
    assert_eq!(sent.code, Some(0), "{}", sent.transcript);
    assert_eq!(world.destination.look(|record| record.messages.len()), 1);

    let mut client = haraka.session();
    client.expect("RCPT TO:<dora@example.com>", "550 5.1.1 Recipient address rejected: the mailbox does not exist");
    let again = client.say("RCPT TO:<dora@example.com>");
    assert!(again.starts_with("550 5.1.1 ") && again.contains("(cached)"), "{again}");
    client.expect("RCPT TO:<anna@down.example>", "451 4.4.1 ");
    // No domain of Callahead's, so no other plugin of this Haraka takes it either.
    client.expect("RCPT TO:<anna@elsewhere.example>", "550 I cannot deliver mail for");
    client.expect("RCPT TO:<postmaster>", "550 I cannot deliver mail for");
    client.expect("RCPT TO:<ben@example.com>", "250");
    client.expect("RCPT TO:<anna/x%y+z@example.com>", "550 5.1.1 ");

    // Who asks is known, so clients that guess are too.
    let rows = logged(&daemon, "dora@example.com");
    assert!(rows.contains("\"127.0.0.1\"") && rows.contains("\"sender@elsewhere.example\""), "{rows}");

    // The mailbox is created; the cache has to be told.
    world.destination.add_mailbox("dora@example.com");
    client.expect("RCPT TO:<dora@example.com>", "550");
    assert_eq!(daemon.cache(&["clear", "--recipient", "dora@example.com"]).0, 0);
    client.expect("RCPT TO:<dora@example.com>", "250");

    // All of that went over one connection; the other one is for this question.
    let metrics = daemon.get("/metrics");
    let accepted = metrics.lines().find(|line| line.starts_with("callahead_listener_accepted_total{listener=\"http\""));
    assert_eq!(accepted.unwrap().split(' ').next_back(), Some("2"), "{metrics}");
}

#[test]
fn real_haraka_puts_mail_off_while_callahead_is_away_and_goes_on_when_it_is_back() {
    let world = World::start();
    let daemon = world.daemon();
    let haraka = Haraka::start(&world, &token(&daemon, &["haraka", "--role", "admin", "--read-only"], &["check"]));
    let mut client = haraka.session();
    client.expect("RCPT TO:<anna@example.com>", "250");
    daemon.kill();
    for recipient in ["anna@example.com", "nobody@example.com", "anna@elsewhere.example"] {
        client.expect(&format!("RCPT TO:<{recipient}>"), "451 4.3.5 ");
    }
    let _daemon = world.daemon();
    client.expect("RCPT TO:<anna@example.com>", "250");
    client.expect("RCPT TO:<nobody@example.com>", "550 5.1.1 ");
}

#[test]
fn real_haraka_puts_mail_off_where_its_token_is_not_good() {
    let world = World::start();
    let _daemon = world.daemon();
    let haraka = Haraka::start(&world, "not-a-token");
    haraka.session().expect("RCPT TO:<nobody@example.com>", "451 4.3.5 ");
    assert!(haraka.log().contains("Callahead answers 401"), "{}", haraka.log());
}
