//! What the pages tell of destinations: hosts that an MX named, with a DNS server in between, and alerts, over a restart.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use callahead_testbed::Script;
use callahead_testbed::dns::{DnsServer, Zone};
use common::world::World;
use common::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_domains_page_shows_the_health_of_the_hosts_that_its_mx_named_last() {
    let dns = DnsServer::start().await.unwrap();
    dns.set("one.example", Zone { mx: vec![(10, "mail.one.example".into())], ..Zone::default() });
    // Nobody may go there, so that what listens on this machine does not matter.
    dns.set("mail.one.example", Zone { a: vec![[127, 0, 0, 1].into()], ..Zone::default() });
    let dir = tempfile::tempdir().unwrap();
    let config = configure(&dir, "[[domain]]\nname = \"one.example\"\nroute = [\"mx\"]\n");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("127.0.0.1:9\"", &format!("{}\"", dns.address()))).unwrap();
    let mut daemon = Daemon::start(&config);
    let cookie = daemon.set_up();
    let page = daemon.page(&cookie, "/domains/one.example");
    assert!(page.contains("one.example") && !page.contains("mail.one.example"), "nothing was asked yet: {page}");
    assert!(daemon.client().ask("anna@one.example").starts_with("451 4.4.1"));
    let page = daemon.page(&cookie, "/domains/one.example");
    for words in ["mail.one.example:25", "from the MX of one.example, looked up", "deny_destinations"] {
        assert!(page.contains(words), "{words}: {page}");
    }
}

#[test]
fn alerts_are_on_the_overview_after_a_restart_too_until_the_destination_shows_otherwise() {
    let world = World::new(Script::with_mailboxes(["anna@one.example"]));
    world.destination.script().null_sender_reply = Some("550 5.7.1 No bounces here".into());
    let config = configure(&world.dir, &world.domain());
    let mut daemon = Daemon::start(&config);
    let cookie = daemon.set_up();
    assert_eq!(daemon.client().ask("anna@one.example"), "DUNNO");
    while !daemon.page(&cookie, "/").contains("550 5.7.1 No bounces here") {}
    daemon.signal("TERM");
    daemon.until("stopped");
    assert_eq!(daemon.end().0, 0);

    let daemon = Daemon::start(&config);
    let overview = daemon.page(&cookie, "/");
    assert!(overview.contains("refuses bounces") && overview.contains("550 5.7.1 No bounces here"), "{overview}");
    world.destination.script().null_sender_reply = None;
    assert_eq!(daemon.cache(&["clear", "--domain", "one.example"]).0, 0);
    assert_eq!(daemon.client().ask("anna@one.example"), "DUNNO");
    while daemon.page(&cookie, "/").contains("550 5.7.1 No bounces here") {}
}
