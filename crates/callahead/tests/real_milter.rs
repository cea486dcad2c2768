//! Real Sendmail and Postfix with Callahead as their milter, and Sendmail with its socket maps, set up by the files in
//! `examples/` as they are shipped, with swaks as the sender. `cargo xtask test` installs them, see `callahead_testbed::mta`.
#![allow(clippy::unwrap_used)]

mod real;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use callahead_testbed::mta::{
    Files, Kind, Mailboxes, Mta, Sent, free_port, postfix_base, sendmail_base, swaks, swaks_with,
};
use callahead_testbed::{Destination, Script};
use real::Daemon;

const SENDMAIL: &str = include_str!("../../../examples/sendmail/callahead.mc");
const SOCKETMAP: &str = include_str!("../../../examples/sendmail/socketmap.mc");
const POSTFIX: &str = include_str!("../../../examples/postfix-milter/milter.cf");

/// The domain in the examples.
const DOMAIN: &str = "example.com";

#[derive(Clone, Copy, PartialEq)]
enum Front {
    Sendmail,
    SendmailSocketmap,
    Postfix,
    /// With `milter_protocol` set to the oldest version that is understood.
    PostfixVersion2,
}

/// A front set up by its example, with the daemon's ports instead of the usual ones.
fn front(front: Front, daemon: &Daemon, destination: SocketAddr) -> Mta {
    let rendered = |example: &str, place: String, ours: String| {
        assert!(example.contains(&place));
        example.replace(&place, &ours)
    };
    let sendmail = |port: u16| format!("inet:{port}@127.0.0.1");
    let (milter, socketmap) = (daemon.milter.port(), daemon.socketmap.port());
    let files = |listen| -> Files {
        match front {
            Front::Sendmail => {
                let example = rendered(SENDMAIL, sendmail(10042), sendmail(milter));
                vec![("sendmail.mc", sendmail_base(listen, destination) + &example + "MAILER(`smtp')dnl\n")]
            }
            Front::SendmailSocketmap => {
                let example = rendered(SOCKETMAP, sendmail(10041), sendmail(socketmap));
                vec![("sendmail.mc", sendmail_base(listen, destination) + "MAILER(`smtp')dnl\n" + &example)]
            }
            Front::Postfix | Front::PostfixVersion2 => {
                let example = rendered(POSTFIX, "inet:127.0.0.1:10042".into(), format!("inet:127.0.0.1:{milter}"));
                let (main, master) = postfix_base(listen);
                // swaks comes from 127.0.0.1, and must not count as one of our own clients.
                let mut rest = format!(
                    "myhostname = front.example\nmynetworks = 192.0.2.0/24\nrelay_transport = relay:[127.0.0.1]:{}\n",
                    destination.port()
                );
                if front == Front::PostfixVersion2 {
                    rest.push_str("milter_protocol = 2\n");
                }
                vec![("main.cf", format!("{main}{rest}{example}")), ("master.cf", master)]
            }
        }
    };
    let kind = match front {
        Front::Sendmail | Front::SendmailSocketmap => Kind::Sendmail,
        Front::Postfix | Front::PostfixVersion2 => Kind::Postfix,
    };
    Mta::front(kind, &files).unwrap()
}

fn send(mta: &Mta, local_part: &str) -> Sent {
    swaks(mta.address(), "someone@sender.example", &format!("{local_part}@{DOMAIN}")).unwrap()
}

fn send_from(mta: &Mta, client: &str, local_part: &str) -> Sent {
    let recipient = format!("{local_part}@{DOMAIN}");
    swaks_with(mta.address(), "someone@sender.example", &recipient, &["--local-interface", client]).unwrap()
}

#[track_caller]
fn accepted(sent: &Sent) {
    assert_eq!(sent.code, Some(0), "{}", sent.transcript);
}

#[track_caller]
fn answered(sent: &Sent, reply: &str) {
    assert!(sent.rcpt_reply().starts_with(reply), "not {reply:?}: {}", sent.transcript);
    assert!(!sent.transcript.contains("DATA"), "{}", sent.transcript);
}

/// The story of a front: an existing recipient, a missing one, both at once, one that is created and cleared, a reload,
/// and the destination and Callahead gone.
fn keeps_out_who_does_not_exist(which: Front) {
    let mut destination = Mta::destination(Kind::Exim, &Mailboxes::new(DOMAIN, &["anna", "Ben"])).unwrap();
    let mut daemon = Daemon::start(DOMAIN, destination.address());
    let mut mta = front(which, &daemon, destination.address());

    accepted(&send(&mta, "anna"));
    let delivered = destination.log_with("=> :blackhole: <anna@example.com>");
    assert!(delivered.contains("<= someone@sender.example"), "the message did not reach the destination:\n{delivered}");

    // Twice: from the destination, and from the cache.
    for _ in 0..2 {
        answered(&send(&mta, "dora"), "550 5.1.1 ");
    }

    // One of two is refused, and the message goes to the other.
    let both = swaks(mta.address(), "two@sender.example", "dora@example.com,Ben@example.com").unwrap();
    accepted(&both);
    assert!(both.transcript.contains("550 5.1.1 "), "{}", both.transcript);
    let delivered = destination.log_with("=> :blackhole: <Ben@example.com>");
    assert!(delivered.contains("<= two@sender.example"), "the message did not reach the destination:\n{delivered}");
    assert!(!delivered.contains("=> :blackhole: <dora@"), "{delivered}");

    // The mailbox is created; the cache has to be told.
    destination.create_mailbox("dora").unwrap();
    answered(&send(&mta, "dora"), "550 5.1.1 ");
    let clear = daemon.run(&["cache", "clear", "--recipient", "dora@example.com"]);
    assert!(clear.status.success(), "{}", String::from_utf8_lossy(&clear.stderr));
    accepted(&send(&mta, "dora"));

    // Not one of our domains: no opinion. Sendmail relays for 127.0.0.1, Postfix does not.
    let relay = swaks(mta.address(), "someone@sender.example", "x@elsewhere.example").unwrap();
    let expected = if which == Front::Postfix { "454 4.7.1 " } else { "250 " };
    assert!(relay.rcpt_reply().starts_with(expected), "{}", relay.transcript);

    // Nor is what stands below one of them; asked from another address, for which nobody relays.
    for recipient in ["x@elsewhere.example", "x@sub.example.com"] {
        let options = ["--local-interface", "127.0.0.2"];
        let below = swaks_with(mta.address(), "someone@sender.example", recipient, &options).unwrap();
        let denied = below.rcpt_reply().to_lowercase();
        assert!(denied.contains("relay") && denied.contains(" denied"), "{}", below.transcript);
    }

    mta.reload().unwrap();
    accepted(&send(&mta, "anna"));
    answered(&send(&mta, "emil"), "550 5.1.1 ");

    drop(destination);
    // Who is known goes on, who is not is put off.
    accepted(&send(&mta, "anna"));
    answered(&send(&mta, "emma"), "451 4.4.");

    daemon.stop();
    // Without Callahead everybody is put off, and nobody is refused for good.
    for local_part in ["anna", "dora", "emil"] {
        let put_off = send(&mta, local_part);
        assert!(put_off.code != Some(0) && !put_off.transcript.contains("<** 5"), "{}", put_off.transcript);
        assert!(put_off.transcript.contains("<** 45"), "{}", put_off.transcript);
    }
    daemon.start_again();
    accepted(&send(&mta, "anna"));
    answered(&send(&mta, "emil"), "550 5.1.1 ");
    assert!(!daemon.log().contains("what came is no request"), "{}", daemon.log());
}

#[test]
fn real_sendmail_with_the_milter_keeps_out_who_does_not_exist() {
    keeps_out_who_does_not_exist(Front::Sendmail);
}

#[test]
fn real_sendmail_with_socket_maps_keeps_out_who_does_not_exist() {
    keeps_out_who_does_not_exist(Front::SendmailSocketmap);
}

/// Sendmail takes `user%domain@its.own.name` and more of the kind for `user@domain`, and so leads past those who only look
/// at the domain that is written there.
fn is_not_led_around_by_other_spellings(which: Front) {
    let destination = Mta::destination(Kind::Exim, &Mailboxes::new(DOMAIN, &["anna"])).unwrap();
    let daemon = Daemon::start(DOMAIN, destination.address());
    let mta = front(which, &daemon, destination.address());
    let mut smtp = Smtp::connect(&mta);
    assert!(smtp.say("MAIL FROM:<someone@sender.example>").starts_with("250"));
    for spelling in [
        "USER@example.com.",
        "USER%example.com@sendmail.example",
        "USER%example.com@[127.0.0.1]",
        "USER%example.com",
        "example.com!USER@sendmail.example",
        "example.com!USER",
        "\"USER@example.com\"@sendmail.example",
        "\"USER%example.com\"@sendmail.example",
    ] {
        for (user, code) in [("dora", "550 5.1.1 "), ("anna", "250 ")] {
            let reply = smtp.say(&format!("RCPT TO:<{}>", spelling.replace("USER", user)));
            assert!(reply.starts_with(code), "{spelling}: {reply}");
        }
    }
}

#[test]
fn real_sendmail_is_not_led_around_the_milter_by_other_spellings() {
    is_not_led_around_by_other_spellings(Front::Sendmail);
}

#[test]
fn real_sendmail_is_not_led_around_its_socket_maps_by_other_spellings() {
    is_not_led_around_by_other_spellings(Front::SendmailSocketmap);
}

#[test]
fn real_postfix_with_the_milter_keeps_out_who_does_not_exist() {
    keeps_out_who_does_not_exist(Front::Postfix);
}

/// Every step has a reply then, and the end of the message comes here too.
#[test]
fn real_postfix_that_speaks_version_2_is_answered() {
    let destination = Mta::destination(Kind::Exim, &Mailboxes::new(DOMAIN, &["anna"])).unwrap();
    let daemon = Daemon::start(DOMAIN, destination.address());
    let mta = front(Front::PostfixVersion2, &daemon, destination.address());
    for sender in ["one@sender.example", "two@sender.example"] {
        let both = swaks(mta.address(), sender, "dora@example.com,anna@example.com").unwrap();
        accepted(&both);
        assert!(both.transcript.contains("550 5.1.1 "), "{}", both.transcript);
        let delivered = destination.log_with(&format!("<= {sender}"));
        assert!(delivered.contains(&format!("<= {sender}")), "{delivered}");
    }
    assert!(!daemon.log().contains("what came is no request"), "{}", daemon.log());
}

/// The README's way out for one's own users: their service has no milter, and so does not wait for Callahead.
#[test]
fn real_postfix_lets_its_own_users_send_while_callahead_is_away() {
    let destination = Mta::destination(Kind::Exim, &Mailboxes::new(DOMAIN, &["anna"])).unwrap();
    let mut daemon = Daemon::start(DOMAIN, destination.address());
    let submission = free_port().unwrap();
    let service = format!("127.0.0.1:{submission} inet n - n - - smtpd\n  -o smtpd_milters=\n");
    let option = service.lines().last().unwrap();
    assert!(include_str!("../../../examples/postfix-milter/README.md").contains(option));
    let milter = daemon.milter.port();
    let files = |port| -> Files {
        let (main, master) = postfix_base(port);
        let example = POSTFIX.replace("inet:127.0.0.1:10042", &format!("inet:127.0.0.1:{milter}"));
        let rest = format!(
            "myhostname = front.example\nrelay_transport = relay:[127.0.0.1]:{}\n",
            destination.address().port()
        );
        vec![("main.cf", format!("{main}{rest}{example}")), ("master.cf", master + &service)]
    };
    let mta = Mta::front(Kind::Postfix, &files).unwrap();
    daemon.stop();
    assert!(send(&mta, "anna").transcript.contains("<** 45"));
    let own = SocketAddr::from(([127, 0, 0, 1], submission));
    accepted(&swaks(own, "user@example.com", "anna@example.com").unwrap());
    let delivered = destination.log_with("<= user@example.com");
    assert!(delivered.contains("<= user@example.com"), "{delivered}");
}

/// Protection against guessing is by the SMTP client's address, and not by the MTA's.
fn slows_down_who_guesses(which: Front) {
    let destination = Mta::destination(Kind::Exim, &Mailboxes::new(DOMAIN, &["anna"])).unwrap();
    let daemon = Daemon::start_with(DOMAIN, destination.address(), "[harvest]\nlimit = 3\n");
    let mta = front(which, &daemon, destination.address());
    for n in 0..4 {
        answered(&send_from(&mta, "127.0.0.2", &format!("guess{n}")), "550 5.1.1 ");
    }
    answered(&send_from(&mta, "127.0.0.2", "guess4"), "451 4.7.1 ");
    answered(&send_from(&mta, "127.0.0.3", "guess4"), "550 5.1.1 ");
    accepted(&send_from(&mta, "127.0.0.3", "anna"));
    accepted(&send_from(&mta, "127.0.0.2", "anna"));
    assert!(daemon.log().contains("127.0.0.2"), "{}", daemon.log());
}

#[test]
fn real_sendmail_passes_on_the_client_that_guesses() {
    slows_down_who_guesses(Front::Sendmail);
}

#[test]
fn real_postfix_passes_on_the_client_that_guesses() {
    slows_down_who_guesses(Front::Postfix);
}

/// A destination's words with percent signs in them: Sendmail uses replies as format strings.
fn says_percent_signs(which: Front) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut script = Script::with_mailboxes(["anna@example.com"]);
    let replies = [("full", "452 4.2.2 100% full"), ("gone", "550 5.1.1 100% gone, %s %n %d%")];
    script.rcpt_replies = replies.iter().map(|(who, reply)| (format!("{who}@{DOMAIN}"), (*reply).to_owned())).collect();
    let destination = Destination::new(script);
    let listening = runtime.block_on(destination.listen()).unwrap();
    let daemon = Daemon::start_with(DOMAIN, listening.address(), "[defaults]\npass_reply_text = true\n");
    let mta = front(which, &daemon, listening.address());
    let full = send(&mta, "full");
    answered(&full, "451 4.4.0 ");
    assert!(full.rcpt_reply().ends_with("said: 100% full"), "{}", full.transcript);
    let gone = send(&mta, "gone");
    answered(&gone, "550 5.1.1 ");
    assert!(gone.rcpt_reply().ends_with("said: 100% gone, %s %n %d%"), "{}", gone.transcript);
}

#[test]
fn real_sendmail_says_percent_signs() {
    says_percent_signs(Front::Sendmail);
}

#[test]
fn real_postfix_says_percent_signs() {
    says_percent_signs(Front::Postfix);
}

/// An SMTP session that goes on while other things happen.
struct Smtp(BufReader<TcpStream>);

impl Smtp {
    fn connect(mta: &Mta) -> Self {
        let stream = TcpStream::connect(mta.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut smtp = Self(BufReader::new(stream));
        assert!(smtp.reply().starts_with("220"));
        assert!(smtp.say("EHLO client.example").starts_with("250"));
        smtp
    }

    fn reply(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the session was closed");
            if line.as_bytes().get(3) != Some(&b'-') {
                return line;
            }
        }
    }

    fn say(&mut self, line: &str) -> String {
        self.0.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap();
        self.reply()
    }
}

/// Sessions that are open while Callahead is started again: the one that sends its message does not notice, the one that
/// asks is put off, and the next one is answered.
fn outlives_a_restart_of_callahead(which: Front) {
    let destination = Mta::destination(Kind::Exim, &Mailboxes::new(DOMAIN, &["anna"])).unwrap();
    let mut daemon = Daemon::start(DOMAIN, destination.address());
    let mta = front(which, &daemon, destination.address());
    let (mut sending, mut asking) = (Smtp::connect(&mta), Smtp::connect(&mta));
    for smtp in [&mut sending, &mut asking] {
        assert!(smtp.say("MAIL FROM:<long@sender.example>").starts_with("250"));
        assert!(smtp.say("RCPT TO:<anna@example.com>").starts_with("250"));
        assert!(smtp.say("RCPT TO:<dora@example.com>").starts_with("550 5.1.1 "));
    }
    assert!(sending.say("DATA").starts_with("354"));

    daemon.stop();
    daemon.start_again();

    let sent = sending.say("Subject: long\r\n\r\ntext\r\n.");
    assert!(sent.starts_with("250"), "{sent}");
    let delivered = destination.log_with("=> :blackhole: <anna@example.com>");
    assert!(delivered.contains("<= long@sender.example"), "the message did not reach the destination:\n{delivered}");
    for recipient in ["anna", "dora"] {
        let reply = asking.say(&format!("RCPT TO:<{recipient}@example.com>"));
        assert!(reply.starts_with("45"), "{reply}");
    }
    let mut next = Smtp::connect(&mta);
    assert!(next.say("MAIL FROM:<next@sender.example>").starts_with("250"));
    assert!(next.say("RCPT TO:<anna@example.com>").starts_with("250"));
    assert!(next.say("RCPT TO:<dora@example.com>").starts_with("550 5.1.1 "));
    for mut smtp in [sending, asking, next] {
        assert!(smtp.say("QUIT").starts_with("221"));
    }
}

#[test]
fn real_sendmail_outlives_a_restart_of_callahead() {
    outlives_a_restart_of_callahead(Front::Sendmail);
}

#[test]
fn real_postfix_outlives_a_restart_of_callahead() {
    outlives_a_restart_of_callahead(Front::Postfix);
}

/// What the READMEs tell to set is what the files say that the tests above run with.
#[test]
fn the_readmes_of_the_milter_examples_set_what_their_files_say() {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let readme = include_str!("../../../examples/postfix-milter/README.md");
    // A line that begins with a space goes on where the one before it ended, as in main.cf.
    let lines: Vec<_> = POSTFIX.lines().filter(|line| !line.starts_with('#')).collect();
    let written: Vec<_> = lines.join("\n").replace("\n ", " ").lines().map(words).collect();
    let steps = readme.split("## Undo").next().unwrap();
    let commands: Vec<_> = steps
        .lines()
        .filter_map(|line| line.trim().strip_prefix("postconf -e '")?.strip_suffix('\''))
        .map(words)
        .collect();
    assert_eq!(commands.len(), 4, "{commands:?}");
    for command in commands {
        assert!(written.contains(&command), "{command:?} is in the README, but not in the file: {written:?}");
    }
    let readme = include_str!("../../../examples/sendmail/README.md");
    let commands: Vec<_> = readme.lines().map(str::trim).filter(|line| line.ends_with(")dnl")).collect();
    let written: Vec<_> = SENDMAIL.lines().filter(|line| line.ends_with(")dnl")).collect();
    assert_eq!(commands, written);
}
