//! Callahead asking Postfix, Exim, OpenSMTPD and Sendmail, as Debian ships them and with their own limits for clients that ask and never
//! send. `cargo xtask test` installs them, see `callahead_testbed::mta`.
#![allow(clippy::unwrap_used)]

mod real;

use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use callahead_testbed::mta::{Files, Kind, Mailboxes, Mta, postfix_base};
use real::Daemon;

const DOMAIN: &str = "held.example";
/// In a row, as the servers' limits (Postfix slows down after 10 errors and drops after 20, Exim after 10 commands without
/// mail) would bite long before.
const IN_A_ROW: usize = 60;
/// Postfix sleeps 1 s for each error past its soft limit; 60 of them would take most of a minute.
const NOT_SLOWED_DOWN: Duration = Duration::from_secs(15);

/// What must not be in the log of a server that was asked properly.
const TRACES: [&str; 8] = [
    "lost connection",
    "too many errors",
    "timeout after",
    "unexpected disconnection",
    "too many nonmail commands",
    "connection lost",
    " 421 ",
    "reason=io-error",
];

fn assert_no_traces(mta: &Mta, quit: &str) {
    let log = mta.log_with(quit);
    for trace in TRACES {
        assert!(!log.contains(trace), "{trace:?} is in the log");
    }
    assert!(log.contains(quit), "no session ended with {quit:?}");
}

/// Existing and missing recipients, and rows of them, through the daemon.
fn asks_for_mailboxes(kind: Kind, quit: &str) {
    let names: Vec<String> = (0..IN_A_ROW).map(|number| format!("person{number}")).collect();
    let mut parts: Vec<&str> = names.iter().map(String::as_str).collect();
    parts.push("anna");
    let mta = Mta::destination(kind, &Mailboxes::new(DOMAIN, &parts)).unwrap();
    let mut daemon = Daemon::start(DOMAIN, mta.address());
    let mut client = daemon.policy_client();

    assert_eq!(client.ask(&format!("anna@{DOMAIN}")), "DUNNO");
    let refused = client.ask(&format!("nobody@{DOMAIN}"));
    assert!(refused.starts_with("550 5.1.1 "), "{refused}");

    let began = Instant::now();
    for number in 0..IN_A_ROW {
        let missing = client.ask(&format!("missing{number}@{DOMAIN}"));
        assert!(missing.starts_with("550 5.1.1 "), "missing number {number}: {missing}");
    }
    for number in 0..IN_A_ROW {
        // Half of them exist.
        let (exists, name) = if number % 2 == 0 { (true, "person") } else { (false, "absent") };
        let mixed = client.ask(&format!("{name}{number}@{DOMAIN}"));
        assert_eq!(mixed == "DUNNO", exists, "{name}{number}: {mixed}");
        assert!(exists || mixed.starts_with("550 5.1.1 "), "{name}{number}: {mixed}");
    }
    let took = began.elapsed();
    assert!(took < NOT_SLOWED_DOWN, "{took:?} for {} verdicts", 2 * IN_A_ROW);
    drop(client);
    daemon.stop();
    assert_no_traces(&mta, quit);
}

/// A destination that takes every local part is seen as such, and the next recipient needs no callout.
fn sees_accept_all(kind: Kind, quit: &str) {
    let mta = Mta::destination(kind, &Mailboxes::accept_all(DOMAIN)).unwrap();
    let mut daemon = Daemon::start(DOMAIN, mta.address());
    let mut client = daemon.policy_client();
    for number in 0..IN_A_ROW {
        assert_eq!(client.ask(&format!("anyone{number}@{DOMAIN}")), "DUNNO");
    }
    let check = daemon.run(&["check", "--json", &format!("whoever@{DOMAIN}")]);
    let verdict: serde_json::Value = serde_json::from_slice(&check.stdout).unwrap();
    assert_eq!(check.status.code(), Some(3), "{verdict}");
    assert_eq!((&verdict["accept_all"], &verdict["verdict"]), (&true.into(), &"valid".into()), "{verdict}");
    drop(client);
    daemon.stop();
    assert_no_traces(&mta, quit);
}

const POSTFIX_QUIT: &str = "quit=1";
const EXIM_QUIT: &str = "closed by QUIT";
const OPENSMTPD_QUIT: &str = "reason=quit";
const SENDMAIL_QUIT: &str = "<<< QUIT";

#[test]
fn real_postfix_is_asked_for_its_mailboxes_without_slowing_down() {
    asks_for_mailboxes(Kind::Postfix, POSTFIX_QUIT);
}

#[test]
fn real_exim_is_asked_for_its_mailboxes_without_dropping_us() {
    asks_for_mailboxes(Kind::Exim, EXIM_QUIT);
}

#[test]
fn real_opensmtpd_is_asked_for_its_mailboxes_without_dropping_us() {
    asks_for_mailboxes(Kind::OpenSmtpd, OPENSMTPD_QUIT);
}

#[test]
fn real_sendmail_is_asked_for_its_mailboxes_without_dropping_us() {
    asks_for_mailboxes(Kind::Sendmail, SENDMAIL_QUIT);
}

#[test]
fn real_postfix_that_accepts_all_is_seen_as_such() {
    sees_accept_all(Kind::Postfix, POSTFIX_QUIT);
}

#[test]
fn real_exim_that_accepts_all_is_seen_as_such() {
    sees_accept_all(Kind::Exim, EXIM_QUIT);
}

#[test]
fn real_opensmtpd_that_accepts_all_is_seen_as_such() {
    sees_accept_all(Kind::OpenSmtpd, OPENSMTPD_QUIT);
}

#[test]
fn real_sendmail_that_accepts_all_is_seen_as_such() {
    sees_accept_all(Kind::Sendmail, SENDMAIL_QUIT);
}

/// Runs the program on a host that calls itself `vm`, with this `/etc/hosts`.
fn on_a_host_called_vm(hosts: &str, words: &[&str]) -> Output {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), hosts).unwrap();
    let script = "hostname vm && mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"";
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let mut command = Command::new(if is_root { "unshare" } else { "sudo" });
    if !is_root {
        command.args(["-n", "unshare"]);
    }
    command.args(["--uts", "--mount", "/bin/sh", "-euc", script, "sh"]).arg(file.path());
    command.arg(env!("CARGO_BIN_EXE_callahead")).args(words).output().unwrap()
}

/// Debian's host name is the short one.
#[test]
fn real_postfix_that_wants_a_full_name_in_ehlo_is_told_the_full_name() {
    let boxes = "virtual_mailbox_domains = held.example\nvirtual_mailbox_maps = texthash:/instance/mailboxes\n\
                 smtpd_helo_restrictions = reject_non_fqdn_helo_hostname\n";
    let files = |port| -> Files {
        let (main, master) = postfix_base(port);
        let main = format!("{main}myhostname = postfix.destination.example\n{boxes}");
        vec![("main.cf", main), ("master.cf", master), ("mailboxes", "anna@held.example any\n".to_owned())]
    };
    let mta = Mta::front(Kind::Postfix, &files).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("callahead.toml");
    let config = |more: &str| {
        std::fs::write(&file, format!("{more}[[domain]]\nname = \"{DOMAIN}\"\nroute = [\"{}\"]\n", mta.address()))
            .unwrap();
    };
    let file = file.to_str().unwrap();
    let check = ["check", "--transcript", "--config", file, "anna@held.example"];
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();

    config("");
    let debian = "127.0.0.1 localhost\n127.0.1.1 vm.filter.example vm\n";
    let asked = on_a_host_called_vm(debian, &check);
    let said = text(&asked.stdout);
    assert!(asked.status.code() == Some(0) && said.contains("EHLO vm.filter.example"), "{said}{}", text(&asked.stderr));
    let good = on_a_host_called_vm(debian, &["config", "check", "--config", file]);
    assert!(good.status.success() && good.stderr.is_empty(), "{}", text(&good.stderr));

    // Where it has none, that is said before mail is put off for it.
    let asked = on_a_host_called_vm("127.0.0.1 localhost vm\n", &check);
    assert!(text(&asked.stdout).contains("504 5.5.2"), "{}", text(&asked.stdout));
    let told = on_a_host_called_vm("127.0.0.1 localhost vm\n", &["config", "check", "--config", file]);
    let said = text(&told.stderr);
    let sentence = format!("warning: {file}: there is no \"node\", and this host's own name \"vm\" has no dot");
    assert!(told.status.success() && said.starts_with(&sentence), "{said}");
    config("data_dir = \"/proc/nowhere\"\n");
    let started = on_a_host_called_vm("127.0.0.1 vm\n", &["serve", "--config", file]);
    assert!(text(&started.stderr).contains("has no dot"), "{}", text(&started.stderr));
}
