//! Debian's ansible-playbook with the role of the example.

use std::path::Path;

use callahead_testbed::mta::Service;
use serde_json::{Value, json};

use crate::{World, example, rendered, token, until};

/// Runs the playbook with these variables; gives its exit code, how many things it changed, and all that it said.
fn play(variables: &Value) -> (i32, u32, String) {
    let source = example("ansible");
    let file = |name: &'static str| (name, rendered(&source.join(Path::new(name)), &[]));
    let files = vec![
        file("playbook.yml"),
        file("roles/callahead/defaults/main.yml"),
        file("roles/callahead/tasks/main.yml"),
        file("roles/callahead/tasks/domain.yml"),
        (
            "inventory",
            "[filters]\nfilter ansible_connection=local ansible_python_interpreter=/usr/bin/python3\n".to_owned(),
        ),
        ("variables.json", variables.to_string()),
    ];
    let command = "cd /instance && (HOME=/tmp ansible-playbook -i inventory -e @variables.json playbook.yml; echo $? >code.new); \
                   mv code.new code";
    let service = Service::start("ansible-core", &files, command).unwrap();
    let code = service.folder().join("code");
    until("the playbook is done", || code.exists());
    let (code, said) = (std::fs::read_to_string(code).unwrap(), service.log());
    // "filter : ok=4 changed=1 unreachable=0 failed=0 ..."
    let changed = said.split("changed=").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    (code.trim().parse().unwrap(), changed.unwrap_or(0), said)
}

#[test]
fn real_ansible_adds_and_changes_domains_and_clears_and_changes_nothing_the_second_time() {
    let world = World::start();
    let daemon = world.daemon();
    let token = token(&daemon, &["ansible", "--role", "admin"], &["read", "domains", "lists", "clear"]);
    let with = |domain: Value| {
        json!({
            "callahead_server": world.server, "callahead_token": token, "callahead_domains": [domain],
            "callahead_clear": ["carol+x/y%z@example.com", "dora@example.com"]
        })
    };
    let mut client = daemon.client();
    assert!(client.ask("carol+x/y%z@example.com").starts_with("550 5.1.1"));
    world.destination.add_mailbox("carol+x/y%z@example.com");
    assert!(client.ask("carol+x/y%z@example.com").starts_with("550 5.1.1"));

    let new = json!({
        "name": "New.Example", "route": ["Mail.Example.net", "192.0.2.1:2525", "[2001:db8::1]", "2001:DB8::2", "[2001:db8::3]:26", "MX"],
        "relay": ["filter.example.net", "192.0.2.9"], "callouts": "observe", "valid": ["Sales", "info", "SALES"], "invalid": ["b", "Old", "a", "old"],
    });
    let (code, changed, said) = play(&with(new.clone()));
    assert_eq!((code, changed), (0, 2), "{said}");
    assert_eq!(client.ask("carol+x/y%z@example.com"), "DUNNO");
    assert_eq!(daemon.cache(&["clear", "--recipient", "carol+x/y%z@example.com"]).0, 0);
    let (_, shown, _) = daemon.command(&["domain", "show", "new.example", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&shown).unwrap()["callouts"], "observe", "{shown}");

    let mut other = new;
    other["callouts"] = json!("enforce");
    other["reject_code"] = json!(450);
    let (code, changed, said) = play(&with(other.clone()));
    assert_eq!((code, changed), (0, 1), "{said}");
    let (_, shown, _) = daemon.command(&["domain", "show", "new.example", "--json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["callouts"], &shown["reject_code"]), (&json!("enforce"), &json!(450)));
    assert_eq!(shown["valid"], json!(["info", "sales"]), "what is not changed stays");
    let (code, changed, said) = play(&with(other));
    assert_eq!((code, changed), (0, 0), "{said}");
}

#[test]
fn real_ansible_says_what_is_wrong() {
    let world = World::start();
    let variables = json!({"callahead_server": world.server, "callahead_token": "whatever"});
    let (code, changed, said) = play(&variables);
    assert!(code != 0 && changed == 0 && said.contains("Connection refused"), "{code} {said}");

    let daemon = world.daemon();
    let mut variables = variables;
    variables["callahead_token"] = json!(token(&daemon, &["ansible", "--role", "admin"], &[]));
    variables["callahead_domains"] = json!([{"name": "new.example", "route": ["mx"], "callouts": "perhaps"}]);
    let (code, changed, said) = play(&variables);
    assert!(code != 0 && changed == 0 && said.contains("callouts"), "{code} {said}");

    // The configuration file's are read-only.
    variables["callahead_domains"] = json!([{"name": "example.com", "callouts": "observe"}]);
    let (code, changed, said) = play(&variables);
    assert!(code != 0 && changed == 0 && said.contains("the configuration file"), "{code} {said}");
}
