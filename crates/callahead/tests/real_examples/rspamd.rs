//! Debian's rspamd with the plugin of the example.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use callahead_testbed::mta::{Service, free_port};
use serde_json::Value;

use crate::{World, example, logged, rendered, token, until};

/// Puts the example where its README says and runs rspamd in the foreground, with its log on the console. No question of its other rules
/// leaves the machine; names that its configuration has are not found at once.
const COMMAND: &str = "rm -f /etc/resolv.conf && echo 'nameserver 127.0.0.1' >/etc/resolv.conf && \
     echo 'enabled = false;' >/etc/rspamd/local.d/fuzzy_check.conf && mkdir -p /etc/rspamd/plugins.d /run/rspamd && cp /instance/callahead.lua /etc/rspamd/plugins.d/ && \
     cp /instance/rspamd.conf.local /etc/rspamd/ && cp /instance/worker-normal.inc /instance/worker-controller.inc \
     /instance/worker-proxy.inc /instance/options.inc /instance/logging.inc /instance/actions.conf /etc/rspamd/local.d/ && \
     chmod -R a+rX /etc/rspamd && chown _rspamd /run/rspamd && exec rspamd -f -u _rspamd -g _rspamd";

struct Rspamd {
    service: Service,
    address: SocketAddr,
}

impl Rspamd {
    fn start(world: &World, token: &str, more: &str) -> Self {
        let port = || SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
        let address = port();
        let socket = |at: SocketAddr| format!("bind_socket = \"{at}\";\ncount = 1;\n");
        let source = example("rspamd");
        let own = [
            ("http://127.0.0.1:8080", world.server.as_str()),
            ("token = \"\";", &format!("token = \"{token}\";\n{more}")),
        ];
        let files = vec![
            ("callahead.lua", rendered(&source.join("plugins.d/callahead.lua"), &[])),
            ("rspamd.conf.local", rendered(&source.join("rspamd.conf.local"), &own)),
            ("worker-normal.inc", socket(address)),
            ("worker-controller.inc", socket(port())),
            ("worker-proxy.inc", socket(port())),
            // Its list of 9,628 endings of names takes ten seconds of processor time to be compiled.
            (
                "options.inc",
                "dns { nameserver = [\"127.0.0.1:9\"]; timeout = 0.1s; retransmits = 1; }\n\
                 url_tld = \"/instance/endings\";\ndisable_hyperscan = true;\n"
                    .to_owned(),
            ),
            ("endings", "com\nexample\n".to_owned()),
            ("logging.inc", "type = \"console\";\nlevel = \"warning\";\n".to_owned()),
            // What its other rules think of a message is left out.
            ("actions.conf", "reject = 900; add_header = 800; greylist = 700;\n".to_owned()),
        ];
        let mut service = Service::start("rspamd", &files, COMMAND).unwrap();
        until("rspamd listens", || TcpStream::connect(address).is_ok());
        assert!(service.is_running());
        Self { service, address }
    }

    /// What it says of a message for these recipients.
    fn check(&self, recipients: &[&str]) -> Said {
        self.check_as(recipients, "")
    }

    /// With more in the head of the request.
    fn check_as(&self, recipients: &[&str], more: &str) -> Said {
        let message = "From: someone@sender.example\r\nTo: anna@example.com\r\nSubject: the agenda\r\n\
             Message-ID: <1@sender.example>\r\nDate: Wed, 25 Nov 2026 10:00:00 +0000\r\nMIME-Version: 1.0\r\n\
             Content-Type: text/plain\r\n\r\nThe agenda of Thursday.\r\n";
        let mut stream = TcpStream::connect(self.address).unwrap();
        let to: String = recipients.iter().map(|recipient| format!("Rcpt: {recipient}\r\n")).collect();
        let length = message.len();
        write!(
            stream,
            "POST /checkv2 HTTP/1.1\r\nHost: x\r\nFrom: someone@sender.example\r\n{to}IP: 192.0.2.7\r\n{more}\
             Content-Length: {length}\r\nConnection: close\r\n\r\n{message}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let body = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}")).1;
        Said(serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}")))
    }
}

struct Said(Value);

impl Said {
    fn action(&self) -> &str {
        self.0["action"].as_str().unwrap()
    }

    fn text(&self) -> &str {
        self.0["messages"]["smtp_message"].as_str().unwrap_or_default()
    }

    /// The recipients for which it has a symbol.
    fn symbol(&self, name: &str) -> Vec<&str> {
        let options = self.0["symbols"][name]["options"].as_array();
        let mut found: Vec<&str> = options.into_iter().flatten().map(|option| option.as_str().unwrap()).collect();
        found.sort_unstable();
        found
    }
}

#[test]
fn real_rspamd_rejects_a_message_only_where_none_of_its_recipients_exists() {
    let world = World::start();
    let daemon = world.daemon();
    let token = token(&daemon, &["rspamd", "--role", "admin", "--read-only"], &["check"]);
    let rspamd = Rspamd::start(&world, &token, "");

    let good = rspamd.check(&["anna@example.com", "ben@example.com"]);
    assert_eq!(good.action(), "no action", "{}\n{}", good.0, rspamd.service.log());
    assert!(good.symbol("CALLAHEAD_INVALID").is_empty());

    for _ in 0..2 {
        let missing = rspamd.check(&["dora@example.com", "carol+x/y%z@example.com"]);
        assert_eq!(missing.action(), "reject", "{}", missing.0);
        assert!(missing.text().starts_with("5.1.1 Recipient address rejected: the mailbox does not exist"));
        assert_eq!(missing.symbol("CALLAHEAD_INVALID"), ["carol+x/y%z@example.com", "dora@example.com"]);
    }

    let some = rspamd.check(&["anna@example.com", "dora@example.com", "anna@down.example"]);
    assert_eq!(some.action(), "no action", "{}", some.0);
    assert_eq!(some.symbol("CALLAHEAD_INVALID"), ["dora@example.com"]);
    assert_eq!(some.symbol("CALLAHEAD_UNKNOWN"), ["anna@down.example"]);

    let put_off = rspamd.check(&["anna@down.example", "dora@example.com"]);
    assert_eq!((put_off.action(), &put_off.text()[..6]), ("soft reject", "4.4.1 "), "{}", put_off.0);
    assert_eq!(rspamd.check(&["dora@elsewhere.example"]).action(), "no action");
    // A domain on trial: its senders try again.
    let trial = rspamd.check(&["dora@trial.example"]);
    assert_eq!(trial.action(), "soft reject", "{}", trial.0);
    assert!(trial.text().contains("the mailbox does not exist"), "{}", trial.0);
    let own = rspamd.check_as(&["dora@example.com"], "User: anna@example.com\r\n");
    assert_eq!(own.action(), "no action", "{}", own.0);

    // Who asks is known, so clients that guess are too.
    let rows = logged(&daemon, "dora@example.com");
    assert!(rows.contains("\"192.0.2.7\"") && rows.contains("\"someone@sender.example\""), "{rows}");

    // The mailbox is created, and the cache is told.
    world.destination.add_mailbox("dora@example.com");
    assert_eq!(daemon.cache(&["clear", "--recipient", "dora@example.com"]).0, 0);
    assert_eq!(rspamd.check(&["dora@example.com"]).action(), "no action");

    // Callahead is away.
    daemon.kill();
    for recipients in [&["anna@example.com"][..], &["dora@example.com", "carol@example.com"]] {
        let away = rspamd.check(recipients);
        assert_eq!((away.action(), &away.text()[..6]), ("soft reject", "4.3.5 "), "{}", away.0);
        assert_eq!(away.symbol("CALLAHEAD_AWAY").len(), recipients.len());
    }
    let _daemon = world.daemon();
    assert_eq!(rspamd.check(&["anna@example.com"]).action(), "no action");
    assert_eq!(rspamd.check(&["carol@example.com"]).action(), "reject");
}

#[test]
fn real_rspamd_passes_mail_while_callahead_is_away_where_it_is_told_to() {
    let world = World::start();
    let rspamd = Rspamd::start(&world, "whatever", "when_away = \"no action\";");
    let away = rspamd.check(&["anna@example.com"]);
    assert_eq!((away.action(), away.symbol("CALLAHEAD_AWAY")), ("no action", vec!["anna@example.com"]), "{}", away.0);

    // A token that is not good is the same.
    let _daemon = world.daemon();
    let away = rspamd.check(&["nobody@example.com"]);
    assert_eq!((away.action(), away.symbol("CALLAHEAD_AWAY")), ("no action", vec!["nobody@example.com"]), "{}", away.0);
    assert!(rspamd.service.log().contains("Callahead answers 401"), "{}", rspamd.service.log());
}
