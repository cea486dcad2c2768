//! The KumoMTA policy. KumoMTA itself is in no registry, so its Lua 5.4 is run with a stand-in for its API (`kumo.lua`), whose
//! requests go to a real daemon.

use callahead_testbed::mta::Service;

use crate::{World, example, logged, rendered, token, until};

/// What RCPT is answered for each of these, and what was logged.
fn play(server: &str, token: &str, recipients: &[&str]) -> Vec<String> {
    let files = vec![
        ("kumo.lua", include_str!("kumo.lua").to_owned()),
        ("callahead.lua", rendered(&example("kumomta/callahead.lua"), &[])),
    ];
    let recipients = recipients.join("' '");
    let command = format!(
        "cd /instance && luac5.4 -p callahead.lua && lua5.4 kumo.lua '{server}/' '{token}' '{recipients}'; echo done >done.new; mv done.new done"
    );
    let service = Service::start("lua5.4", &files, &command).unwrap();
    until("the script is done", || service.folder().join("done").exists());
    service.log().lines().map(str::to_owned).collect()
}

#[test]
fn real_lua_runs_the_kumomta_policy_as_its_readme_says() {
    let world = World::start();
    let daemon = world.daemon();
    let token = token(&daemon, &["kumomta", "--role", "admin", "--read-only"], &["check"]);
    let recipients = [
        "anna@example.com",
        "dora+x/y%z@example.com",
        "dora+x/y%z@example.com",
        "authenticated:dora@example.com",
        "anna@down.example",
        "anna@elsewhere.example",
    ];
    let said = play(&world.server, &token, &recipients);
    let begin = |at: usize, text: &str| assert!(said[at].starts_with(text), "{at}: {said:?}");
    begin(0, "accepted");
    begin(1, "550 5.1.1 Recipient address rejected: the mailbox does not exist");
    begin(2, "550 5.1.1 Recipient address rejected: the mailbox does not exist (cached)");
    begin(3, "accepted");
    begin(4, "451 4.4.1 ");
    begin(5, "accepted");
    assert_eq!(said.len(), 6, "{said:?}");
    let asked = world.destination.look(|record| record.dialogue());
    assert!(asked.contains("dora+x/y%z@example.com"), "{asked}");

    // Who asks is known, so clients that guess are too. The second recipient's sender is the null one.
    for (recipient, client, sender) in
        [("anna@example.com", "192.0.2.7", "some+one@sender.example"), ("dora+x/y%z@example.com", "2001:db8::7", "")]
    {
        let rows = logged(&daemon, recipient);
        let said_so = |key: &str, value: &str| rows.contains(&format!("\"{key}\":\"{value}\""));
        assert!(said_so("client", client) && said_so("sender", sender), "{rows}");
    }

    let said = play(&world.server, "not-a-token", &["nobody@example.com"]);
    assert!(said[0].starts_with("451 4.3.5 ") && said[1].contains("Callahead answers 401"), "{said:?}");
    drop(daemon);
    let said = play(&world.server, &token, &["anna@example.com", "nobody@example.com", "anna@elsewhere.example"]);
    assert!(said[..3].iter().all(|line| line.starts_with("451 4.3.5 ")), "{said:?}");
}
