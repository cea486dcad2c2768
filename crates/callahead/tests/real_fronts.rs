//! Real Postfix and Exim before Callahead, set up by the files in `examples/` as they are shipped, with a real Exim as the
//! destination behind it and swaks as the sender. `cargo xtask test` installs them, see `callahead_testbed::mta`.
#![allow(clippy::unwrap_used)]

mod real;

use std::net::SocketAddr;

use callahead_testbed::mta::{Files, Kind, Mailboxes, Mta, postfix_base, swaks};
use real::Daemon;

const POLICY: &str = include_str!("../../../examples/postfix/policy.cf");
const SOCKETMAP: &str = include_str!("../../../examples/postfix/socketmap.cf");
const EXIM: &str = include_str!("../../../examples/exim/callahead.acl");

/// The domain in the examples.
const DOMAIN: &str = "example.com";

/// An example with this test's ports instead of the usual ones, which must be in it.
fn rendered(example: &str, daemon: &Daemon) -> String {
    let text = example
        .replace("127.0.0.1:10040", &daemon.policy.to_string())
        .replace("127.0.0.1:10041", &daemon.socketmap.to_string());
    assert_ne!(text, example);
    text
}

fn postfix(example: &str, daemon: &Daemon, destination: SocketAddr) -> Mta {
    let example = rendered(example, daemon);
    let files = |port| -> Files {
        let (main, master) = postfix_base(port);
        // swaks comes from 127.0.0.1, and must not count as one of our own clients.
        let rest = format!(
            "myhostname = front.example\nmynetworks = 192.0.2.0/24\nrelay_transport = relay:[127.0.0.1]:{}\n",
            destination.port()
        );
        vec![("main.cf", format!("{main}{rest}{example}")), ("master.cf", master)]
    };
    Mta::front(Kind::Postfix, &files).unwrap()
}

fn exim(acl: &str, daemon: &Daemon, destination: SocketAddr) -> Mta {
    let acl = rendered(acl, daemon);
    let files = |port| -> Files {
        let config = format!(
            "primary_hostname = front.example
daemon_smtp_ports = {port}
local_interfaces = 127.0.0.1
log_file_path = /instance/%slog
host_lookup =
domainlist relay_to_domains = {DOMAIN}
acl_smtp_rcpt = acl_check_rcpt

begin acl
acl_check_rcpt:
  require
    message = relay not permitted
    domains = +relay_to_domains
{acl}
  accept

begin routers
filtered:
  driver = manualroute
  domains = +relay_to_domains
  route_list = * 127.0.0.1
  self = send
  transport = destination

begin transports
destination:
  driver = smtp
  port = {}
  allow_localhost
",
            destination.port()
        );
        vec![("exim4.conf", config)]
    };
    Mta::front(Kind::Exim, &files).unwrap()
}

#[derive(Clone, Copy)]
enum Front {
    Policy,
    Socketmap,
    Exim,
}

/// The story of a front: an existing recipient, a missing one, one that is created and cleared, and the destination gone.
fn keeps_out_who_does_not_exist(front: Front) {
    let mut destination = Mta::destination(Kind::Exim, &Mailboxes::new(DOMAIN, &["anna", "Ben"])).unwrap();
    let daemon = Daemon::start(DOMAIN, destination.address());
    let mta = match front {
        Front::Policy => postfix(POLICY, &daemon, destination.address()),
        Front::Socketmap => postfix(SOCKETMAP, &daemon, destination.address()),
        Front::Exim => exim(EXIM, &daemon, destination.address()),
    };
    let send =
        |local_part: &str| swaks(mta.address(), "someone@sender.example", &format!("{local_part}@{DOMAIN}")).unwrap();

    let accepted = send("anna");
    assert_eq!(accepted.code, Some(0), "{}", accepted.transcript);
    let delivered = destination.log_with("=> :blackhole: <anna@example.com>");
    assert!(delivered.contains("<= someone@sender.example"), "the message did not reach the destination:\n{delivered}");

    // Twice: from the destination, and from the cache.
    for _ in 0..2 {
        let refused = send("dora");
        assert!(refused.rcpt_reply().starts_with("550 5.1.1 "), "{}", refused.transcript);
        assert!(!refused.transcript.contains("DATA"), "{}", refused.transcript);
    }

    // The mailbox is created; the cache has to be told.
    destination.create_mailbox("dora").unwrap();
    assert!(send("dora").rcpt_reply().starts_with("550"));
    let clear = daemon.run(&["cache", "clear", "--recipient", &format!("dora@{DOMAIN}")]);
    assert!(clear.status.success(), "{}", String::from_utf8_lossy(&clear.stderr));
    let accepted = send("dora");
    assert_eq!(accepted.code, Some(0), "{}", accepted.transcript);

    // Not one of our domains: 554, or 454 by Postfix's default smtpd_relay_restrictions.
    let relay = swaks(mta.address(), "someone@sender.example", "x@elsewhere.example").unwrap();
    assert!(relay.rcpt_reply().to_lowercase().contains("relay"), "{}", relay.transcript);

    // Nor is what stands below one of them: Postfix's default says otherwise.
    let below = swaks(mta.address(), "someone@sender.example", "x@sub.example.com").unwrap();
    assert!(below.rcpt_reply().to_lowercase().contains("relay"), "{}", below.transcript);

    drop(destination);
    // Who is known goes on, who is not is put off.
    let known = send("anna");
    assert_eq!(known.code, Some(0), "{}", known.transcript);
    let unknown = send("emil");
    assert!(unknown.rcpt_reply().starts_with("45"), "{}", unknown.transcript);

    drop(daemon);
    // Without Callahead everybody is put off, and nobody is refused for good.
    for local_part in ["anna", "emil"] {
        let put_off = send(local_part);
        assert!(put_off.rcpt_reply().starts_with("45"), "{}", put_off.transcript);
    }
}

#[test]
fn real_postfix_with_the_policy_listener_keeps_out_who_does_not_exist() {
    keeps_out_who_does_not_exist(Front::Policy);
}

#[test]
fn real_postfix_with_socket_maps_keeps_out_who_does_not_exist() {
    keeps_out_who_does_not_exist(Front::Socketmap);
}

#[test]
fn real_exim_with_readsocket_keeps_out_who_does_not_exist() {
    keeps_out_who_does_not_exist(Front::Exim);
}

/// Older Exims take the line ends off what `readsocket` gives where its fourth argument is empty. This one is told to put a space in their place,
/// which leaves as little of them.
#[test]
fn real_exim_understands_an_answer_without_its_line_ends() {
    let destination = Mta::destination(Kind::Exim, &Mailboxes::new(DOMAIN, &["anna"])).unwrap();
    let daemon = Daemon::start(DOMAIN, destination.address());
    let acl = EXIM.replace("{35s}{}{}", "{35s}{ }{}");
    assert_ne!(acl, EXIM);
    let mta = exim(&acl, &daemon, destination.address());
    let accepted = swaks(mta.address(), "someone@sender.example", "anna@example.com").unwrap();
    assert_eq!(accepted.code, Some(0), "{}", accepted.transcript);
    let refused = swaks(mta.address(), "someone@sender.example", "dora@example.com").unwrap();
    assert!(refused.rcpt_reply().starts_with("550 5.1.1 "), "{}", refused.transcript);
}

/// The commands in the README set what the files say.
#[test]
fn the_readme_of_the_postfix_example_sets_what_its_files_say() {
    let readme = include_str!("../../../examples/postfix/README.md");
    let settings = |text: &str| -> Vec<(String, String)> {
        // A line that begins with a space goes on where the one before it ended, as in main.cf.
        let text =
            text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n").replace("\n ", " ");
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        pairs.map(|(name, value)| (words(name), words(value))).collect()
    };
    // Up to "Undo", which sets things back.
    let steps = readme.split("## Undo").next().unwrap();
    let commands: Vec<_> = steps
        .lines()
        .filter_map(|line| line.trim().strip_prefix("postconf -e '")?.strip_suffix('\''))
        .flat_map(|command| settings(&command.replace(r"'\''", "'")))
        .collect();
    let written: Vec<_> = [settings(POLICY), settings(SOCKETMAP)].concat();
    assert_eq!(commands.len(), 7, "{commands:?}");
    for command in commands {
        assert!(written.contains(&command), "{command:?} is in the README, but not in the files: {written:?}");
    }
}
