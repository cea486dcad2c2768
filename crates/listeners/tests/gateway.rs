//! The gateway with simulated destinations, in memory and under simulated time: what clients are told, and what arrives.
#![allow(clippy::unwrap_used)]

mod world;

use std::sync::atomic::Ordering;
use std::time::Duration;

use callahead_listeners::gateway::Settings;
use callahead_testbed::{Destination, Ended, Fault, Place, Script, Step};
use tokio::time::Instant;
use world::{MAIL, World, settings, settle, taking, without_trace};

#[tokio::test(start_paused = true)]
async fn a_message_goes_to_the_destination_with_its_sender_its_parameters_and_one_received_line() {
    let (world, destination) = World::one();
    let mut client = world.client().await;
    client.expect("MAIL FROM:<sender@elsewhere.example> SIZE=1000 BODY=8BITMIME", "250 2.1.0").await;
    client.expect("RCPT TO:<anna@one.example>", "250 2.1.5 Ok").await;
    client.expect("RCPT TO:<anna@also.example>", "250 2.1.5 Ok").await;
    let message = b"Subject: x\r\n\r\n..\r\n..two\r\n\xe4\r\n.\r\n";
    assert_eq!(client.data(message).await, "250 2.0.0 The recipient's server has accepted the message");
    client.quit().await;
    settle().await;
    let record = destination.record();
    let [arrived] = record.messages.as_slice() else { panic!("{}", record.dialogue()) };
    assert_eq!(arrived.mail, "<sender@elsewhere.example> SIZE=1000 BODY=8BITMIME");
    assert_eq!(arrived.recipients, ["<anna@one.example>", "<anna@also.example>"]);
    assert_eq!(without_trace(arrived), b"Subject: x\r\n\r\n.\r\n.two\r\n\xe4\r\n");
    let trace = String::from_utf8_lossy(&arrived.content).into_owned();
    assert!(
        trace.contains("\tby filter.example with ESMTP id ")
            && trace.contains(";\r\n\tFri, 15 Jan 2027 08:00:00 +0000\r\n")
    );
    assert!(!trace.contains("10.0.0.1"), "{trace}");
    record.assert_polite();
    assert_eq!(world.counters.messages_relayed.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn what_ehlo_offers() {
    let world = World::new(settings());
    let mut client = world.connect_from("192.0.2.7");
    client.reply().await;
    assert_eq!(
        client.say("EHLO client.example").await,
        "250-filter.example\n250-PIPELINING\n250-SIZE 52428800\n250-ENHANCEDSTATUSCODES\n250-8BITMIME\n250-SMTPUTF8\n250 CHUNKING"
    );
    assert_eq!(client.say("HELO client.example").await, "250 filter.example");
    client.expect("VRFY anna", "252 2.0.0").await;
    client.expect("HELP", "214 2.0.0").await;
    client.expect("NOOP", "250 2.0.0").await;
    client.expect("STARTTLS", "502 5.5.1").await;
    client.expect("XCLIENT ADDR=192.0.2.1", "550 5.7.0").await;
    client.quit().await;
}

#[tokio::test(start_paused = true)]
async fn nobody_relays_to_a_domain_that_is_not_configured_however_it_is_spelled() {
    let (world, destination) = World::one();
    let mut client = world.client().await;
    client.expect(MAIL, "250").await;
    for (address, reply) in [
        ("<x@elsewhere.example>", "550 5.7.1"),
        ("<x%elsewhere.example@elsewhere.example>", "550 5.7.1"),
        ("<@one.example:x@elsewhere.example>", "550 5.7.1"),
        ("<@elsewhere.example:x@one.example>", "550 5.1.1"),
        ("<@one.example,@two.example:x@elsewhere.example>", "550 5.7.1"),
        ("<@one.example,@two..example:x@one.example>", "501 5.1.3"),
        ("<@one.example:x%elsewhere.example@one.example>", "550 5.7.1 Relaying denied: sender-specified routing"),
        // A server behind that lets this node relay would send these on.
        ("<x@elsewhere.example@one.example>", "550 5.7.1"),
        ("<x@one.example@elsewhere.example>", "550 5.7.1"),
        ("<elsewhere.example!x@one.example>", "550 5.7.1 Relaying denied: sender-specified routing"),
        ("<x%elsewhere.example@one.example>", "550 5.7.1 Relaying denied: sender-specified routing"),
        ("<\"x@elsewhere.example\"@one.example>", "550 5.7.1 Relaying denied: sender-specified routing"),
        ("<\"x\\@elsewhere.example\"@one.example>", "550 5.7.1 Relaying denied: sender-specified routing"),
        // Names.
        ("<x%elsewhere@one.example>", "550 5.1.1"),
        ("<x!@one.example>", "550 5.1.1"),
        ("<\"x@one.example\"@elsewhere.example>", "550 5.7.1"),
        ("<\"x>\"@elsewhere.example>", "550 5.7.1"),
        ("<x@[10.0.0.1]>", "550 5.7.1"),
        ("<x@[IPv6:2001:db8::1]>", "550 5.7.1"),
        ("<x@one.example.elsewhere.example>", "550 5.7.1"),
        ("<x@sub.one.example>", "550 5.7.1"),
        ("<x@one.example..>", "501 5.1.3"),
        ("<x@one.example\0.elsewhere.example>", "500 5.5.2"),
        ("<anna>", "550 5.7.1"),
        ("<>", "501 5.1.3"),
        ("<anna@one.example><x@elsewhere.example>", "501 5.5.4"),
        ("<anna@one.example> <x@elsewhere.example>", "501 5.5.4"),
        ("x@elsewhere.example", "550 5.7.1"),
        ("x@one.example", "550 5.1.1"),
    ] {
        client.expect(&format!("RCPT TO:{address}"), reply).await;
    }
    client.expect("DATA", "554 5.5.1").await;
    // Of all these only what is in the domain has ever been written to the destination.
    let record = destination.record();
    for command in record.sessions.iter().flat_map(|session| &session.commands) {
        if let Some(path) = command.strip_prefix("RCPT TO:<") {
            assert!(path.ends_with("@one.example>"), "{}", record.dialogue());
            assert!(!path.contains("elsewhere.example"), "{}", record.dialogue());
        }
    }
    assert!(record.messages.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_clients_write_beside_the_rules_is_taken_and_goes_out_by_them() {
    let (world, destination) = World::one();
    let mut client = world.client().await;
    client.expect("EHLO my b\u{fc}ro", "250").await;
    client.expect("MAIL FROM:sender@elsewhere.example", "250").await;
    for (address, reply) in [
        ("<a..b@one.example>", "250 2.1.5"),
        ("<\"a..b\"@one.example>", "250 2.1.5"),
        ("<a b@one.example>", "250 2.1.5"),
        ("a..b@one.example", "250 2.1.5"),
        ("<@relay.example,@two.example:anna@one.example>", "250 2.1.5"),
        ("<.a@one.example>", "550 5.1.1"),
        ("<@one.example>", "501 5.1.3"),
        ("<a@one..example>", "501 5.1.3"),
    ] {
        client.expect(&format!("RCPT TO:{address}"), reply).await;
    }
    assert!(client.data("x\r\n.\r\n").await.starts_with("250"));
    let recipients = &destination.record().messages[0].recipients;
    assert_eq!(
        recipients[..],
        [
            "<\"a..b\"@one.example>",
            "<\"a..b\"@one.example>",
            "<\"a b\"@one.example>",
            "<\"a..b\"@one.example>",
            "<anna@one.example>"
        ]
    );
    assert_eq!(destination.record().messages[0].mail, "<sender@elsewhere.example>");
    assert!(destination.record().messages[0].content.starts_with(b"Received: from [192.0.2.7] ([192.0.2.7])\r\n"));
}

#[tokio::test(start_paused = true)]
async fn the_engines_answer_and_the_destinations_come_to_the_sender_as_they_are() {
    let (world, destination) = World::one();
    let mut client = world.client().await;
    client.expect(MAIL, "250").await;
    client
        .expect("RCPT TO:<nobody@one.example>", "550 5.1.1 Recipient address rejected: the mailbox does not exist")
        .await;
    client.expect("RCPT TO:<nobody@null.example>", "556 5.1.10").await;
    client.expect("RCPT TO:<anna@one.example>", "250").await;
    // The cache has ben, and the destination has changed its mind.
    client.expect("RCPT TO:<ben@one.example>", "250").await;
    client.expect("RSET", "250").await;
    destination.script().rcpt_replies.insert("ben@one.example".into(), "552 5.2.2 mx7.internal: over quota".into());
    client.expect(MAIL, "250").await;
    let reply = client.say("RCPT TO:<ben@one.example>").await;
    assert_eq!(reply, "552 5.2.2 The recipient's server refuses this recipient");
    client.expect("DATA", "554 5.5.1").await;
    client.expect("RSET", "250").await;
    client.expect(MAIL, "250").await;
    // Once by a callout; then, known from before, from the destination itself with its words.
    client.expect("RCPT TO:<anna@spoken.example>", "250").await;
    destination.script().rcpt_replies.insert("anna@spoken.example".into(), "451 4.2.1 come back later".into());
    client.expect("RSET", "250").await;
    client.expect(MAIL, "250").await;
    let reply = client.say("RCPT TO:<anna@spoken.example>").await;
    assert_eq!(reply, "451 4.2.1 The recipient's server can't take this recipient now; it said: come back later");
    client.quit().await;
    settle().await;
    destination.assert_polite();
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_the_destination_refuses_is_told_so_for_each_recipient() {
    for extension in ["", "PIPELINING"] {
        let world = World::new(settings());
        let destination = world.server(1, taking().without(extension));
        let mut client = world.client_with("anna@one.example").await;
        client.expect("RSET", "250").await;
        destination.script().faults.insert(Step::Mail, (Fault::Reply("553 5.1.8 mx7: no such sender".into()), None));
        client.expect(MAIL, "250").await;
        for _ in 0..2 {
            let reply = client.say("RCPT TO:<anna@one.example>").await;
            assert_eq!(reply, "553 5.1.8 The recipient's server takes no mail from this sender");
        }
        client.expect("DATA", "554 5.5.1").await;
        destination.script().faults.clear();
        client.expect("RSET", "250").await;
        client.envelope("anna@one.example").await;
        client.quit().await;
        settle().await;
        destination.assert_polite();
    }
}

#[tokio::test(start_paused = true)]
async fn recipients_of_a_second_destination_are_sent_by_themselves() {
    let (world, first) = World::one();
    let second = world.server(2, taking());
    let mut client = world.client_with("anna@one.example").await;
    client.expect("RCPT TO:<anna@two.example>", "452 4.5.3").await;
    client.expect("RCPT TO:<anna@filtered.example>", "452 4.5.3").await;
    client.expect("RCPT TO:<anna@also.example>", "250").await;
    assert!(client.data("x\r\n.\r\n").await.starts_with("250 2.0.0"));
    client.envelope("anna@filtered.example").await;
    client.expect("RCPT TO:<anna@two.example>", "250").await;
    assert!(client.data("y\r\n.\r\n").await.starts_with("250 2.0.0"));
    // Where none was accepted before, another destination is as good as the first.
    first.script().rcpt_replies.insert("ben@one.example".into(), "450 4.2.0 later".into());
    client.expect("MAIL FROM:<>", "250").await;
    client.expect("RCPT TO:<ben@one.example>", "45").await;
    client.expect("RCPT TO:<anna@two.example>", "250").await;
    client.quit().await;
    settle().await;
    assert_eq!(first.record().messages[0].recipients, ["<anna@one.example>", "<anna@also.example>"]);
    assert_eq!(second.record().messages[0].recipients, ["<anna@filtered.example>", "<anna@two.example>"]);
    [first, second].iter().for_each(|destination| destination.assert_polite());
}

#[tokio::test(start_paused = true)]
async fn several_messages_of_a_client_go_in_one_session_and_it_ends_in_quit() {
    let (world, destination) = World::one();
    let mut client = world.client().await;
    for n in 0..5 {
        client.envelope("anna@one.example").await;
        assert!(client.data(format!("{n}\r\n.\r\n")).await.starts_with("250 2.0.0"));
    }
    // Left alone for a while, the session with the destination ends; the client's does not.
    tokio::time::sleep(Duration::from_secs(60)).await;
    client.envelope("anna@one.example").await;
    client.expect("EHLO again.example", "250").await;
    client.envelope("anna@one.example").await;
    assert!(client.data(".\r\n").await.starts_with("250 2.0.0"));
    client.quit().await;
    settle().await;
    let record = destination.record();
    let sessions: Vec<usize> = record.messages.iter().map(|message| message.session).collect();
    assert!(sessions[..5].iter().all(|session| *session == sessions[0]) && sessions[5] != sessions[0], "{sessions:?}");
    record.assert_polite();
}

#[tokio::test(start_paused = true)]
async fn an_address_that_the_destination_cannot_take_is_refused_and_nothing_is_converted() {
    let (world, destination) = World::one();
    let mut client = world.client_with("anna@one.example").await;
    client.expect("RSET", "250").await;
    client.expect("RCPT TO:<anna@one.example>", "503 5.5.1").await;
    let begin = |destination: &callahead_testbed::Destination, keyword: &str| {
        destination.script().extensions.retain(|extension| extension != keyword);
    };
    begin(&destination, "8BITMIME");
    begin(&destination, "SMTPUTF8");
    client.quit().await;
    let mut client = world.client().await;
    for (mail, rcpt, reply) in [
        ("<s@e.example> BODY=8BITMIME", "anna@one.example", "250"),
        ("<s@e.example> BODY=7BIT", "anna@one.example", "250"),
        ("<s@e.example> SMTPUTF8", "anna@one.example", "250"),
        ("<\u{e4}@e.example> SMTPUTF8", "anna@one.example", "553 5.6.7"),
        ("<s@e.example>", "d\u{f6}ner@one.example", "553 5.6.7"),
    ] {
        client.expect(&format!("MAIL FROM:{mail}"), "250").await;
        client.expect(&format!("RCPT TO:<{rcpt}>"), reply).await;
        client.expect("RSET", "250").await;
    }
    client.expect("MAIL FROM:<\u{e4}@e.example>", "553 5.6.7").await;
    client.expect("MAIL FROM:<s@e.example> BODY=BINARYMIME", "555 5.5.4").await;
    client.quit().await;

    let (world, destination) = World::one();
    let mut client = world.client().await;
    client.expect("MAIL FROM:<\u{e4}@e.example> SMTPUTF8", "250").await;
    client.expect("RCPT TO:<d\u{f6}ner@one.example>", "250").await;
    assert!(client.data(".\r\n").await.starts_with("250"));
    let record = destination.record();
    assert_eq!(record.messages[0].mail, "<\u{e4}@e.example> SMTPUTF8");
    assert_eq!(record.messages[0].recipients, ["<d\u{f6}ner@one.example>"]);
    assert!(String::from_utf8_lossy(&record.messages[0].content).contains(" with UTF8SMTP id "));
    // A recipient that is known from before, behind one that needs nothing.
    client.quit().await;
    settle().await;
    begin(&destination, "SMTPUTF8");
    let mut client = world.client().await;
    client.expect("MAIL FROM:<s@e.example> SMTPUTF8", "250").await;
    client.expect("RCPT TO:<anna@one.example>", "250").await;
    client.expect("RCPT TO:<d\u{f6}ner@one.example>", "553 5.6.7").await;
    assert!(client.data("x\r\n.\r\n").await.starts_with("250"));
    assert_eq!(destination.record().messages[1].recipients, ["<anna@one.example>"]);
}

/// Go's net/smtp declares both wherever they are offered, and so all its mail bounced.
#[tokio::test(start_paused = true)]
async fn mail_that_needs_smtputf8_goes_to_the_host_of_the_route_that_has_it() {
    let world = World::new(settings());
    let first = world.server(9, taking().without("SMTPUTF8"));
    let second = world.server(1, taking());
    let mut client = world.client_with("anna@three.example").await;
    assert!(client.data("x\r\n.\r\n").await.starts_with("250"));
    for (mail, message) in
        [("<\u{e4}@e.example> SMTPUTF8", "x\r\n"), ("<s@e.example> SMTPUTF8", "Subject: \u{e4}\r\n\r\nx\r\n")]
    {
        client.expect(&format!("MAIL FROM:{mail}"), "250").await;
        client.expect("RCPT TO:<anna@three.example>", "250").await;
        assert!(client.data(format!("{message}.\r\n")).await.starts_with("250"), "{mail}");
    }
    client.quit().await;
    assert_eq!((first.record().messages.len(), second.record().messages.len()), (1, 2));
    // It is refused for good only where no host has it, and not where one of them can't be asked.
    let address = std::net::SocketAddr::from(([10, 0, 0, 1], 25));
    for (place, rcpt, end) in [
        (Place::Refused, "451 4.6.7", "451 4.6.9"),
        (Place::Server(Destination::new(taking().without("SMTPUTF8"))), "553 5.6.7", "550 5.6.9"),
    ] {
        world.net.set(address, place);
        let mut client = world.client().await;
        client.expect("MAIL FROM:<\u{e4}@e.example> SMTPUTF8", "250").await;
        client.expect("RCPT TO:<anna@three.example>", rcpt).await;
        client.expect("RSET", "250").await;
        client.expect("MAIL FROM:<s@e.example> SMTPUTF8", "250").await;
        client.expect("RCPT TO:<anna@three.example>", "250").await;
        let reply = client.data("Subject: \u{e4}\r\n\r\nx\r\n.\r\n").await;
        assert!(reply.starts_with(end), "{reply}");
        client.quit().await;
    }
    settle().await;
    first.assert_polite();
    second.assert_polite();
}

#[tokio::test(start_paused = true)]
async fn what_mail_declares_and_the_message_does_not_need_is_left_out_where_the_destination_lacks_it() {
    const MAIL: &str = "MAIL FROM:<s@e.example> BODY=8BITMIME SMTPUTF8";
    let header_beyond_ascii = "Subject: \u{e4}\r\n\r\nx\r\n";
    let body_beyond_ascii = "Subject: x\r\n\r\n\u{e4}\r\n";
    for (lacks, said, header) in [
        (&[][..], "<s@e.example> BODY=8BITMIME SMTPUTF8", "250 2.0.0"),
        (&["8BITMIME"], "<s@e.example> SMTPUTF8", "250 2.0.0"),
        (&["SMTPUTF8"], "<s@e.example> BODY=8BITMIME", "550 5.6.9"),
        (&["8BITMIME", "SMTPUTF8"], "<s@e.example>", "550 5.6.9"),
    ] {
        for chunked in [false, true] {
            let world = World::new(settings());
            let script = lacks.iter().fold(taking(), |script, keyword| script.without(keyword));
            let destination = world.server(1, script);
            let mut client = world.client().await;
            for (content, told) in
                [("x\r\n", "250 2.0.0"), (body_beyond_ascii, "250 2.0.0"), (header_beyond_ascii, header)]
            {
                client.expect(MAIL, "250").await;
                client.expect("RCPT TO:<anna@one.example>", "250").await;
                let reply = if chunked {
                    client.send(format!("BDAT {} LAST\r\n{content}", content.len())).await;
                    client.reply().await
                } else {
                    client.data(format!("{content}.\r\n")).await
                };
                assert!(reply.starts_with(told), "without {lacks:?}: {content:?} got {reply}");
                settle().await;
                let record = destination.record();
                let arrived = record.messages.last().unwrap();
                if told.starts_with('2') {
                    assert_eq!((arrived.mail.as_str(), without_trace(arrived)), (said, content.as_bytes().to_vec()));
                } else {
                    assert_eq!(record.messages.len(), 2, "{}", record.dialogue());
                    assert_eq!(record.sessions.last().unwrap().ended, Ended::WithinMessage);
                }
            }
            client.quit().await;
        }
    }
    // A header beyond ASCII that nobody declares goes on as it is.
    let world = World::new(settings());
    let destination = world.server(1, taking().without("SMTPUTF8"));
    let mut client = world.client_with("anna@one.example").await;
    assert!(client.data(format!("{header_beyond_ascii}.\r\n")).await.starts_with("250"));
    assert_eq!(without_trace(&destination.record().messages[0]), header_beyond_ascii.as_bytes());
}

#[tokio::test(start_paused = true)]
async fn an_ehlo_that_is_refused_once_refuses_no_message_for_good() {
    let (world, destination) = World::one();
    for recipient in ["anna@one.example", "d\u{f6}ner@one.example"] {
        let mut client = world.client().await;
        client.expect("MAIL FROM:<s@e.example> SMTPUTF8", "250").await;
        client.expect(&format!("RCPT TO:<{recipient}>"), "250").await;
        client.quit().await;
        settle().await;
    }
    for (mail, recipient, told, content, then) in [
        ("<s@e.example> BODY=8BITMIME SMTPUTF8", "anna@one.example", "250", "Subject: x\r\n\r\n\u{e4}\r\n", "250"),
        (
            "<s@e.example> BODY=8BITMIME SMTPUTF8",
            "anna@one.example",
            "250",
            "Subject: \u{e4}\r\n\r\nx\r\n",
            "451 4.6.9",
        ),
        ("<\u{e4}@e.example> SMTPUTF8", "anna@one.example", "451 4.6.7", "", ""),
        ("<s@e.example> SMTPUTF8", "d\u{f6}ner@one.example", "451 4.6.7", "", ""),
    ] {
        destination.script().faults.insert(Step::Ehlo, (Fault::Reply("502 5.5.1 busy".into()), Some(1)));
        let mut client = world.client().await;
        client.expect(&format!("MAIL FROM:{mail}"), "250").await;
        client.expect(&format!("RCPT TO:<{recipient}>"), told).await;
        if told == "250" {
            assert!(client.data(format!("{content}.\r\n")).await.starts_with(then), "{content:?}");
        }
        client.quit().await;
        settle().await;
        // Next time it answers.
        let mut client = world.client().await;
        client.expect(&format!("MAIL FROM:{mail}"), "250").await;
        client.expect(&format!("RCPT TO:<{recipient}>"), "250").await;
        assert!(client.data(format!("{content}.\r\n")).await.starts_with("250"));
        client.quit().await;
        settle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn dsn_is_offered_where_that_is_set_and_goes_where_it_is_offered() {
    let (world, _destination) = World::one();
    let mut client = world.client().await;
    client.expect("MAIL FROM:<s@e.example> RET=HDRS", "555 5.5.4").await;
    client.expect("MAIL FROM:<s@e.example>", "250").await;
    client.expect("RCPT TO:<anna@one.example> NOTIFY=NEVER", "555 5.5.4").await;
    for (lacks, mail, rcpt) in [
        (
            "",
            "<s@e.example> RET=HDRS ENVID=a+2Bb",
            "<anna@one.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;anna@one.example",
        ),
        ("DSN", "<s@e.example>", "<anna@one.example>"),
    ] {
        let world = World::new(Settings { dsn: true, ..settings() });
        let destination = world.server(1, taking().without(lacks));
        let mut client = world.connect_from("192.0.2.7");
        client.reply().await;
        assert!(client.say("EHLO x").await.contains("250-DSN"));
        client.expect("MAIL FROM:<s@e.example> RET=HDRS ENVID=a+2Bb", "250").await;
        client.expect("RCPT TO:<anna@one.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;anna@one.example", "250").await;
        assert!(client.data(".\r\n").await.starts_with("250"));
        let messages = destination.record().messages;
        assert_eq!((messages[0].mail.as_str(), messages[0].recipients[0].as_str()), (mail, rcpt));
    }
}

#[tokio::test(start_paused = true)]
async fn bdat_goes_out_as_bdat_where_that_is_offered_and_as_data_elsewhere() {
    for (lacks, chunked) in [("", true), ("CHUNKING", false)] {
        let world = World::new(settings());
        let destination = world.server(1, taking().without(lacks));
        let mut client = world.client_with("anna@one.example").await;
        client.send(b"BDAT 11\r\n.\r\n..\r\nx\0y\r").await;
        assert_eq!(client.reply().await, "250 2.0.0 Ok");
        client.send(b"BDAT 0\r\nBDAT 4\r\n\nend").await;
        assert_eq!(client.reply().await, "250 2.0.0 Ok");
        assert_eq!(client.reply().await, "250 2.0.0 Ok");
        client.expect("BDAT 0 LAST", "250 2.0.0 The recipient's server").await;
        client.envelope("anna@one.example").await;
        client.send(b"BDAT 3 LAST\r\nx\r\n").await;
        assert!(client.reply().await.starts_with("250 2.0.0 The"));
        client.quit().await;
        settle().await;
        let record = destination.record();
        let expected: &[u8] = if chunked { b".\r\n..\r\nx\0y\r\nend" } else { b".\r\n..\r\nx\0y\r\nend\r\n" };
        assert_eq!(without_trace(&record.messages[0]), expected);
        assert_eq!(without_trace(&record.messages[1]), b"x\r\n");
        assert!(record.messages.iter().all(|message| message.chunked == chunked));
        record.assert_polite();
    }
}

#[tokio::test(start_paused = true)]
async fn bdat_is_kept_in_order_and_what_is_refused_is_swallowed() {
    let (world, destination) = World::one();
    let mut client = world.client().await;
    client.send(b"BDAT 6\r\nQUIT\r\n").await;
    assert!(client.reply().await.starts_with("503 5.5.1"), "octets of a chunk are no commands");
    client.envelope("anna@one.example").await;
    client.send(b"BDAT 2\r\nx\nBDAT 5 LAST\r\nRSET\n").await;
    assert!(client.reply().await.starts_with("550 5.6.0"), "a bare LF");
    assert!(client.reply().await.starts_with("503 5.5.1"), "the chunk before it failed");
    client.expect("MAIL FROM:<>", "250").await;
    client.expect("RCPT TO:<anna@one.example>", "250").await;
    client.send(b"BDAT 1\r\nx").await;
    assert!(client.reply().await.starts_with("250"));
    client.expect("DATA", "503 5.5.1").await;
    client.expect("RCPT TO:<ben@one.example>", "503 5.5.1").await;
    client.expect("RSET", "250").await;
    client.envelope("anna@one.example").await;
    client.send(b"BDAT 2 LAST\r\nx\r").await;
    assert!(client.reply().await.starts_with("550 5.6.0"), "a bare CR at the end");
    client.envelope("anna@one.example").await;
    client.send(b"BDAT 2\r\nx\r").await;
    assert!(client.reply().await.starts_with("250"));
    client.expect("BDAT 0 LAST", "550 5.6.0").await;
    client.send(b"BDAT 999999999\r\n").await;
    assert!(client.reply().await.starts_with("521 5.3.4"));
    assert!(client.is_closed().await);
    settle().await;
    assert!(destination.record().messages.is_empty(), "{}", destination.record().dialogue());
}

#[tokio::test(start_paused = true)]
async fn commands_in_one_packet_are_answered_in_order() {
    let (world, destination) = World::one();
    let mut client = world.client().await;
    client
        .send(
            "MAIL FROM:<s@e.example>\r\nRCPT TO:<anna@one.example>\r\nRCPT TO:<nobody@one.example>\r\nRCPT TO:<ben@one.example>\r\nDATA\r\n",
        )
        .await;
    for reply in ["250 2.1.0", "250 2.1.5", "550 5.1.1", "250 2.1.5", "354"] {
        assert!(client.reply().await.starts_with(reply));
    }
    client.send("x\r\n.\r\nMAIL FROM:<s@e.example>\r\nRCPT TO:<anna@one.example>\r\nQUIT\r\n").await;
    for reply in ["250 2.0.0", "250 2.1.0", "250 2.1.5", "221 2.0.0"] {
        assert!(client.reply().await.starts_with(reply));
    }
    assert!(client.is_closed().await);
    settle().await;
    assert_eq!(destination.record().messages[0].recipients, ["<anna@one.example>", "<ben@one.example>"]);
    destination.assert_polite();
    assert_eq!(world.counters.requests.load(Ordering::Relaxed), 9, "with EHLO");
}

#[tokio::test(start_paused = true)]
async fn refusals_that_are_at_hand_do_not_wait_for_the_callout_behind_them() {
    let (world, destination) = World::one();
    let mut client = world.client().await;
    client.expect(MAIL, "250").await;
    client.expect("RCPT TO:<nobody@one.example>", "550 5.1.1").await;

    // More of them than are read, or written, at once.
    let known = 600;
    client.send("RCPT TO:<nobody@one.example>\r\nNOOP\r\n".repeat(known)).await;
    for _ in 0..known {
        for reply in ["550 5.1.1", "250 2.0.0"] {
            assert!(client.reply().await.starts_with(reply));
        }
    }

    destination.script().reply_delay = Duration::from_secs(8);
    let asked = Instant::now();
    client.send("RCPT TO:<nobody@one.example>\r\nRCPT TO:<anna@one.example>\r\n").await;
    assert!(client.reply().await.starts_with("550 5.1.1"));
    assert_eq!(asked.elapsed(), Duration::ZERO);
    assert!(client.reply().await.starts_with("250 2.1.5"));
    assert!(asked.elapsed() >= Duration::from_secs(8));
    client.quit().await;
    settle().await;
    destination.assert_polite();
}

#[tokio::test(start_paused = true)]
async fn a_client_with_many_refusals_lets_others_have_a_turn_between_them() {
    let (world, _destination) = World::one();
    let mut client = world.client().await;
    client.expect(MAIL, "250").await;
    client.expect("RCPT TO:<nobody@one.example>", "550 5.1.1").await;
    let counters = world.counters.clone();
    let other = tokio::spawn(async move {
        let (mut seen, mut most) = (counters.requests.load(Ordering::Relaxed), 0);
        let all = seen + 700;
        while seen < all {
            tokio::task::yield_now().await;
            let now = counters.requests.load(Ordering::Relaxed);
            most = most.max(now - seen);
            seen = now;
        }
        most
    });
    client.send("RCPT TO:<nobody@one.example>\r\n".repeat(700)).await;
    let most = other.await.unwrap();
    assert!(most <= 300, "{most} commands in one turn");
    client.vanish().await;
}

#[tokio::test(start_paused = true)]
async fn a_large_message_passes_through_a_slow_destination_without_being_held() {
    let world = World::new(settings());
    let destination = world.server(1, Script { read_pause: Duration::from_millis(100), ..taking() });
    let mut client = world.client_with("anna@one.example").await;
    client.expect("DATA", "354").await;
    let line = [b'x'; 998];
    let began = tokio::time::Instant::now();
    let mut sent = 0;
    while sent < 4_000_000 {
        client.send(&line).await;
        client.send(b"\r\n").await;
        sent += 1000;
    }
    // 4 MB at 64 kB in 100 ms take 6 s; were they held here, they would have been taken at once.
    assert!(began.elapsed() > Duration::from_secs(4), "{:?}", began.elapsed());
    client.send(b".\r\n").await;
    assert!(client.reply().await.starts_with("250"));
    assert_eq!(without_trace(&destination.record().messages[0]).len(), 4_000_000);
}

#[tokio::test(start_paused = true)]
async fn loops_and_messages_that_are_too_large_are_refused_and_not_delivered() {
    let world = World::new(Settings { message_size: 70_000, ..settings() });
    let destination = world.server(1, taking());
    let mut client = world.client_with("anna@one.example").await;
    let received = "Received: from x\r\n\tby y; now\r\n";
    let reply = client.data(format!("{}\r\nbody\r\n.\r\n", received.repeat(100))).await;
    assert!(reply.starts_with("554 5.4.6"), "{reply}");
    client.envelope("anna@one.example").await;
    let reply = client.data(format!("{}\r\nbody\r\n.\r\n", received.repeat(99))).await;
    assert!(reply.starts_with("250"), "{reply}");
    client.expect("MAIL FROM:<> SIZE=70001", "552 5.3.4").await;
    client.envelope("anna@one.example").await;
    assert!(client.data("0123456789\r\n".repeat(6000) + ".\r\n").await.starts_with("552 5.3.4"));
    client.envelope("anna@one.example").await;
    client.send("BDAT 70001 LAST\r\n".to_owned() + &"x".repeat(70_001)).await;
    assert!(client.reply().await.starts_with("552 5.3.4"));
    client.expect("NOOP", "250").await;
    settle().await;
    assert_eq!(destination.record().messages.len(), 1);
    assert_eq!(world.counters.messages_refused.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn more_messages_at_a_time_than_a_destination_is_given_sessions_wait_for_each_other() {
    let (world, destination) = World::one();
    let mut busy = Vec::new();
    // Each is a client of its own: one takes fewer places than are free.
    for n in 0..25 {
        let mut client = world.connect_from(&format!("198.51.100.{n}"));
        client.reply().await;
        client.expect("EHLO client.example", "250").await;
        client.envelope("anna@one.example").await;
        busy.push(client);
    }
    // The last has a place as soon as one of them is done.
    let mut last = world.client().await;
    last.expect("MAIL FROM:<s@e.example>", "250").await;
    last.send("RCPT TO:<anna@one.example>\r\n").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    busy.remove(0).quit().await;
    assert!(last.reply().await.starts_with("250 2.1.5"));
    assert!(last.data("x\r\n.\r\n").await.starts_with("250"));
    // It keeps that for a moment; where nobody gives one up the sender is put off, and the destination is not taken for one that fails.
    last.envelope("anna@one.example").await;
    let mut late = world.connect_from("198.51.100.25");
    late.reply().await;
    late.expect("EHLO client.example", "250").await;
    late.expect("MAIL FROM:<s@e.example>", "250").await;
    let began = tokio::time::Instant::now();
    late.expect("RCPT TO:<anna@one.example>", "451 4.4.1").await;
    assert_eq!(began.elapsed().as_secs(), 30);
    busy.remove(0).quit().await;
    let mut greedy = world.client().await;
    greedy.expect("MAIL FROM:<s@e.example>", "250").await;
    greedy.expect("RCPT TO:<anna@one.example>", "451 4.4.1").await;
    late.expect("RCPT TO:<anna@one.example>", "250").await;
    let record = destination.record();
    assert!(record.most_at_once <= 26, "25 and a callout: {}", record.most_at_once);
}
