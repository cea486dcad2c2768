//! What the gateway stands against: SMTP smuggling, clients beyond their bounds, injection before TLS, and those who claim to be others.
#![allow(clippy::unwrap_used)]

mod world;

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use callahead_listeners::gateway::Settings;
use callahead_listeners::{TlsFiles, TlsServer};
use callahead_testbed::Script;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use world::{World, settings, settle, taking, without_trace};

/// The ends of data that some server takes for one (SEC Consult 2023, CVE-2023-51764, 51765, 51766, and what came after), NULs among them.
const FALSE_ENDS: [&str; 15] = [
    "\n.\n",
    "\n.\r\n",
    "\r\n.\n",
    "\r.\r\n",
    "\r\n.\r",
    "\r.\r",
    "\r.\n",
    "\n.\r",
    "\r\n\0.\r\n",
    "\r\n\0.\0\r\n",
    "\r\n.\r\r\n",
    "\r\r\n.\r\r\n",
    "\n\n.\r\n",
    "\r\n.\0\n",
    "\0\n.\n",
];

fn smuggler(end: &str) -> String {
    format!(
        "Subject: outer\r\n\r\nbody{end}MAIL FROM:<admin@one.example>\r\nRCPT TO:<anna@one.example>\r\nDATA\r\nSubject: inner\r\n\r\nsmuggled\r\n"
    )
}

#[tokio::test(start_paused = true)]
async fn no_false_end_of_data_brings_a_second_message_to_a_destination_that_believes_in_it() {
    for end in FALSE_ENDS {
        for chunked in [false, true] {
            let world = World::new(settings());
            let destination = world.server(1, Script { lenient_lines: true, ..taking() });
            let mut client = world.client_with("anna@one.example").await;
            let message = smuggler(end);
            let reply = if chunked {
                client.send(format!("BDAT {} LAST\r\n{message}", message.len())).await;
                client.reply().await
            } else {
                client.data(message + ".\r\n").await
            };
            assert!(reply.starts_with("550 5.6.0"), "{end:?}, chunked {chunked}: {reply}");
            client.expect("NOOP", "250").await;
            // Neither half of it was delivered, and the next message is, at once: nothing waits in the session that was given up.
            let began = tokio::time::Instant::now();
            client.envelope("anna@one.example").await;
            assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
            assert!(client.data("honest\r\n.\r\n").await.starts_with("250"));
            let record = destination.record();
            assert_eq!(record.messages.len(), 1, "{end:?}, chunked {chunked}: {}", record.dialogue());
            assert_eq!(without_trace(&record.messages[0]), b"honest\r\n");
            assert!(!record.dialogue().contains("admin@one.example"), "{}", record.dialogue());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn dots_alone_or_with_company_are_content() {
    let world = World::new(settings());
    let destination = world.server(1, Script { lenient_lines: true, ..taking() });
    let mut client = world.client_with("anna@one.example").await;
    assert!(client.data("..\r\n...\r\n.. \r\n..\0\0x\r\n.\0\r\n \r\n..\r\n.\r\n").await.starts_with("250"));
    assert_eq!(without_trace(&destination.record().messages[0]), b".\r\n..\r\n. \r\n.\0\0x\r\n\0\r\n \r\n.\r\n");
}

#[tokio::test(start_paused = true)]
async fn lines_that_end_otherwise_end_the_session_and_bare_crs_make_no_command() {
    let (world, destination) = World::one();
    let mut client = world.client_with("anna@one.example").await;
    client.expect("NOOP\rDATA", "500 5.5.2").await;
    client.send("NOOP\nDATA\r\n").await;
    assert!(client.reply().await.starts_with("521 5.5.2"));
    assert!(client.is_closed().await);
    let mut client = world.connect_from("192.0.2.7");
    client.reply().await;
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\nEHLO x\r\n").await;
    assert!(client.reply().await.starts_with("521 5.5.1"));
    assert!(client.is_closed().await);
    settle().await;
    assert!(destination.record().messages.is_empty());
}

#[tokio::test(start_paused = true)]
async fn each_bound_on_a_session_bites_and_is_told() {
    let world = World::new(Settings { commands: 30, errors: 3, recipients: 100, ..settings() });
    world.server(1, taking());
    let mut client = world.client().await;
    for _ in 0..3 {
        client.expect("FOO", "500 5.5.1").await;
    }
    client.expect("FOO", "500 5.5.1").await;
    assert!(client.reply().await.starts_with("421 4.7.0 Too many errors"));
    assert!(client.is_closed().await);

    // Many recipients in one packet with a sender that is refused are one mistake.
    let mut client = world.client().await;
    client.expect("MAIL FROM:<nobody>", "501 5.1.7").await;
    for _ in 0..10 {
        client.expect("RCPT TO:<anna@one.example>", "503 5.5.1").await;
    }

    let mut client = world.client().await;
    for _ in 0..29 {
        client.expect("NOOP", "250").await;
    }
    client.expect("NOOP", "421 4.7.0 Too many commands").await;
    assert!(client.is_closed().await);

    let mut client = world.client().await;
    client.expect(&format!("NOOP {}", "x".repeat(2041)), "250").await;
    client.expect(&format!("NOOP {}", "x".repeat(2042)), "500 5.5.2").await;
    client.expect(&format!("NOOP {}", "x".repeat(100_000)), "500 5.5.2").await;
    client.expect("NOOP", "250").await;

    let world = World::new(Settings { recipients: 100, ..settings() });
    let destination = world.server(1, Script { accept_all: true, ..taking() });
    let mut client = world.client_with("anna@one.example").await;
    for n in 1..100 {
        client.expect(&format!("RCPT TO:<p{n}@one.example>"), "250").await;
    }
    client.expect("RCPT TO:<p100@one.example>", "452 4.5.3").await;
    assert!(client.data("x\r\n.\r\n").await.starts_with("250"));
    assert_eq!(destination.record().messages[0].recipients.len(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_client_has_so_many_connections_and_others_are_served() {
    let world = World::new(Settings {
        connections_per_client: 2,
        trusted: vec!["198.51.100.0/24".parse().unwrap()],
        ..settings()
    });
    let mut held = Vec::new();
    for ip in ["192.0.2.7", "192.0.2.7", "192.0.2.8", "198.51.100.1", "198.51.100.1", "198.51.100.1"] {
        let mut client = world.connect_from(ip);
        assert!(client.reply().await.starts_with("220"), "{ip}");
        held.push(client);
    }
    let mut third = world.connect_from("192.0.2.7");
    assert!(third.reply().await.starts_with("421 4.7.0"));
    assert!(third.is_closed().await);
    assert_eq!(world.counters.refused.load(Ordering::Relaxed), 1);
    held.remove(0).quit().await;
    assert!(world.connect_from("192.0.2.7").reply().await.starts_with("220"));

    // Behind a proxy each of them has so many, and not the proxy.
    let trusted = vec!["198.51.100.0/24".parse().unwrap()];
    let world = World::new(Settings { connections_per_client: 1, proxy_protocol: true, trusted, ..settings() });
    let mut held = Vec::new();
    for (ip, greeting) in [("192.0.2.7", "220"), ("192.0.2.8", "220"), ("192.0.2.7", "421 4.7.0")] {
        let mut client = world.connect_from("198.51.100.1");
        client.send(format!("PROXY TCP4 {ip} 198.51.100.1 4000 25\r\n")).await;
        assert!(client.reply().await.starts_with(greeting), "{ip}");
        held.push(client);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_guesses_recipients_is_put_off_by_its_own_address() {
    let world = World::new(Settings { trusted: vec!["198.51.100.0/24".parse().unwrap()], ..settings() });
    world.server(1, taking());
    let mut proxy = world.connect_from("198.51.100.1");
    proxy.reply().await;
    proxy.expect("EHLO proxy.example", "250-filter.example\n250-PIPELINING\n250-SIZE 52428800\n250-XCLIENT").await;
    proxy.expect("XCLIENT ADDR=203.0.113.9 HELO=guesser.example", "220 filter.example").await;
    proxy.expect("EHLO guesser.example", "250").await;
    proxy.expect("MAIL FROM:<>", "250").await;
    for n in 0..=20 {
        proxy.expect(&format!("RCPT TO:<guess{n}@one.example>"), "550 5.1.1").await;
    }
    proxy.expect("RCPT TO:<guess99@one.example>", "451 4.7.1").await;
    proxy.expect("XCLIENT ADDR=203.0.113.10", "503 5.5.1").await;
    proxy.expect("RSET", "250").await;
    proxy.expect("XCLIENT ADDR=IPV6:2001:db8::9 NAME=[UNAVAILABLE] PROTO=ESMTP", "220").await;
    proxy.expect("MAIL FROM:<>", "503 5.5.1").await;
    proxy.expect("EHLO other.example", "250").await;
    proxy.expect("MAIL FROM:<>", "250").await;
    proxy.expect("RCPT TO:<guess99@one.example>", "550 5.1.1").await;
    // An MTA that does not say for whom it speaks: whose guesses they are is not known.
    let mut mta = world.connect_from("198.51.100.2");
    mta.reply().await;
    mta.expect("EHLO mta.example", "250").await;
    mta.expect("MAIL FROM:<>", "250").await;
    for n in 0..=30 {
        mta.expect(&format!("RCPT TO:<other{n}@one.example>"), "550 5.1.1").await;
    }
}

#[tokio::test(start_paused = true)]
async fn proxy_headers_count_from_trusted_networks_and_nobody_else_gets_in_where_they_are_expected() {
    let trusted = vec!["198.51.100.0/24".parse().unwrap()];
    let world = World::new(Settings { proxy_protocol: true, trusted, ..settings() });
    let destination = world.server(1, taking());
    let v2: Vec<u8> =
        [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[192, 0, 2, 7, 198, 51, 100, 1, 1, 0, 0, 25]].concat();
    for header in [b"PROXY TCP4 192.0.2.7 198.51.100.1 4000 25\r\n".to_vec(), v2] {
        let mut client = world.connect_from("198.51.100.1");
        // Whatever the pieces.
        for octet in &header {
            client.send([*octet]).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(client.reply().await, "220 filter.example ESMTP");
        client.expect("EHLO client.example", "250").await;
        // Who is behind a proxy is not trusted because the proxy is.
        client.expect("XCLIENT ADDR=203.0.113.9", "550 5.7.0").await;
        client.envelope("anna@one.example").await;
        assert!(client.data("x\r\n.\r\n").await.starts_with("250"));
    }
    destination.record().messages.iter().for_each(|message| drop(without_trace(message)));
    assert_eq!(destination.record().messages.len(), 2);
    for (ip, said) in [
        ("192.0.2.9", "PROXY TCP4 192.0.2.7 198.51.100.1 4000 25\r\n"),
        ("198.51.100.1", "EHLO client.example\r\n"),
        ("198.51.100.1", ""),
    ] {
        let mut client = world.connect_from(ip);
        client.try_send(said.as_bytes()).await;
        let began = tokio::time::Instant::now();
        assert!(client.is_closed().await, "{ip} {said:?}");
        assert!(began.elapsed() <= Duration::from_secs(10));
    }
    assert_eq!(world.counters.malformed.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn whom_a_proxy_does_not_name_is_served_and_not_trusted() {
    let trusted = vec!["198.51.100.0/24".parse().unwrap()];
    let world = World::new(Settings { connections_per_client: 1, proxy_protocol: true, trusted, ..settings() });
    let v2 = |command: u8, family: u8| {
        let addresses = [192, 0, 2, 7, 198, 51, 100, 1, 1, 0, 0, 25];
        [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[0x20 | command, family, 0, 12], &addresses].concat()
    };
    // Health checks come at the same time as others: no bound on connections holds for them.
    let mut held = Vec::new();
    // UNKNOWN, LOCAL, and for UNSPEC and UDP.
    for header in [b"PROXY UNKNOWN\r\n".to_vec(), v2(0, 0x11), v2(1, 0x00), v2(1, 0x12)] {
        let mut client = world.connect_from("198.51.100.1");
        // What is said at once is heard.
        client.send([&header[..], b"EHLO proxy.example\r\n"].concat()).await;
        assert!(client.reply().await.starts_with("220"), "{header:?}");
        let offered = client.reply().await;
        assert!(offered.starts_with("250") && !offered.contains("XCLIENT"), "{header:?}: {offered}");
        client.expect("XCLIENT ADDR=203.0.113.9", "550 5.7.0").await;
        held.push(client);
    }
    // Whom it names is trusted where that is set.
    let mut client = world.connect_from("198.51.100.1");
    client.send("PROXY TCP4 198.51.100.2 198.51.100.1 4000 25\r\n").await;
    client.reply().await;
    client.expect("EHLO mta.example", "250").await;
    client.expect("XCLIENT ADDR=203.0.113.9", "220").await;
}

struct Pem {
    root: rustls::pki_types::CertificateDer<'static>,
    chain: String,
    key: String,
}

fn pem() -> Pem {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["filter.example".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    Pem { root: issuer.der().clone(), chain: certificate.pem(), key: key.serialize_pem() }
}

#[tokio::test(start_paused = true)]
async fn starttls_encrypts_forgets_what_was_said_and_takes_nothing_from_before() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    let first = pem();
    std::fs::write(&certificate, &first.chain).unwrap();
    std::fs::write(&key, &first.key).unwrap();
    let files = |key| TlsFiles { certificate: certificate.clone(), key };
    let world = World::new(settings());
    let tls = TlsServer::load(files(key.clone()), &[]).unwrap();
    world.gateway.reconfigure(Some(tls.clone()), settings());
    let destination = world.server(1, taking());

    let mut client = world.connect_from("192.0.2.7");
    client.reply().await;
    assert!(client.say("EHLO client.example").await.contains("\n250-STARTTLS\n"));
    client.envelope("ben@one.example").await;
    client.expect("STARTTLS", "220 2.0.0").await;
    let mut client = client.encrypt(first.root.clone(), "filter.example").await;
    client.expect("MAIL FROM:<>", "503 5.5.1").await;
    assert!(!client.say("EHLO client.example").await.contains("STARTTLS"));
    client.expect("STARTTLS", "503 5.5.1").await;
    client.envelope("anna@one.example").await;
    assert!(client.data("x\r\n.\r\n").await.starts_with("250"));
    client.quit().await;
    let arrived = destination.record().messages.remove(0);
    without_trace(&arrived);
    assert!(String::from_utf8_lossy(&arrived.content).contains(" with ESMTPS id "));
    assert_eq!(arrived.recipients.len(), 1, "whose recipient was said in clear is forgotten");

    // Between chunks, to a destination whose DATA they go out by: nothing said behind it becomes a line of that message.
    *destination.script() = taking().without("CHUNKING");
    let mut client = world.client_with("anna@one.example").await;
    client.send("BDAT 3\r\nx\r\n").await;
    assert!(client.reply().await.starts_with("250"));
    client.expect("STARTTLS", "220 2.0.0").await;
    let mut client = client.encrypt(first.root.clone(), "filter.example").await;
    assert!(client.say("EHLO client.example").await.starts_with("250"));
    let began = tokio::time::Instant::now();
    client.envelope("anna@one.example").await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(client.data("y\r\n.\r\n").await.starts_with("250"));
    client.quit().await;
    assert_eq!(without_trace(&destination.record().messages[1]), b"y\r\n");
    *destination.script() = taking();

    // No handshake comes.
    let mut client = world.client().await;
    client.expect("STARTTLS", "220 2.0.0").await;
    let began = tokio::time::Instant::now();
    assert!(client.is_closed().await);
    assert_eq!(began.elapsed().as_secs(), 60);
    assert_eq!(world.counters.timed_out.load(Ordering::Relaxed), 1);

    // CVE-2011-0411: what stands behind STARTTLS in clear is not taken as if it had come encrypted.
    let mut client = world.client().await;
    client.send("STARTTLS\r\nMAIL FROM:<injected@e.example>\r\n").await;
    assert!(client.reply().await.starts_with("421 4.7.0"));
    assert!(client.is_closed().await);

    // A certificate that changes is in force for the next session; one that can't be used is not.
    let second = pem();
    std::fs::write(&certificate, &second.chain).unwrap();
    std::fs::write(&key, &second.key).unwrap();
    std::fs::write(folder.path().join("old.key"), &second.key).unwrap();
    assert!(tls.refresh().unwrap());
    for broken in [false, true] {
        if broken {
            std::fs::write(&key, "no key").unwrap();
            assert!(tls.refresh().is_err());
        }
        let mut client = world.client().await;
        client.expect("STARTTLS", "220").await;
        client.encrypt(second.root.clone(), "filter.example").await.quit().await;
    }
    // Told of once, and not with every look at the files.
    let tls = TlsServer::load(files(folder.path().join("old.key")), &[]).unwrap();
    std::fs::write(folder.path().join("old.key"), "no key").unwrap();
    assert!(tls.refresh().is_err());
    assert!(matches!(tls.refresh(), Ok(false)));
    // What can be read again is read, though the file was not changed: an owner or a mode was, most often.
    let changed = std::time::SystemTime::now();
    for (octets, is_good) in [(vec![b'x'; second.key.len()], false), (second.key.clone().into_bytes(), true)] {
        std::fs::write(folder.path().join("old.key"), octets).unwrap();
        let file = std::fs::File::options().append(true).open(folder.path().join("old.key")).unwrap();
        file.set_modified(changed).unwrap();
        assert_eq!(tls.refresh().ok(), is_good.then_some(true));
    }
    assert!(matches!(tls.refresh(), Ok(false)));
    let error = TlsServer::load(files(key.clone()), &[]).unwrap_err().to_string();
    assert!(error.starts_with(&format!("the key {} can't be read", key.display())), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_received_line_names_the_address_where_the_name_is_none() {
    let (world, destination) = World::one();
    let mut client = world.connect_from("2001:db8::7");
    client.reply().await;
    client.expect("HELO (comment)", "250 filter.example").await;
    client.envelope("anna@one.example").await;
    assert!(client.data(".\r\n").await.starts_with("250"));
    let arrived = destination.record().messages.remove(0);
    let text = String::from_utf8(arrived.content).unwrap();
    let from = "Received: from [IPv6:2001:db8::7] ([IPv6:2001:db8::7])\r\n\tby filter.example with SMTP id ";
    assert!(text.starts_with(from), "{text}");
    assert!("2001:db8::7".parse::<IpAddr>().is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_received_line_says_how_the_client_spoke_for_whom_a_proxy_speaks() {
    let world = World::new(Settings { trusted: vec!["198.51.100.0/24".parse().unwrap()], ..settings() });
    let destination = world.server(1, taking());
    for (proto, with) in
        [("PROTO=ESMTP ", "ESMTP"), ("PROTO=SMTP ", "SMTP"), ("PROTO=[UNAVAILABLE] ", "SMTP"), ("", "SMTP")]
    {
        let mut proxy = world.connect_from("198.51.100.1");
        proxy.reply().await;
        proxy.expect("EHLO proxy.example", "250").await;
        proxy.expect(&format!("XCLIENT {proto}ADDR=192.0.2.7 HELO=client.example"), "220").await;
        proxy.envelope("anna@one.example").await;
        assert!(proxy.data("x\r\n.\r\n").await.starts_with("250"));
        let arrived = destination.record().messages.pop().unwrap();
        without_trace(&arrived);
        let text = String::from_utf8(arrived.content).unwrap();
        assert!(text.contains(&format!("by filter.example with {with} id ")), "{proto}: {text}");
    }
}
