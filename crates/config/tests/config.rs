//! The configuration: each mistake is one sentence with file, line and the nearest right name; what is written is read back.
#![allow(clippy::unwrap_used, missing_docs)]

use callahead_config::{Config, INIT};

fn mistakes(text: &str) -> Vec<String> {
    Config::parse(text, "callahead.toml").err().map(|error| error.0).unwrap_or_default()
}

#[test]
fn each_mistake_is_one_sentence_with_file_line_and_key() {
    for (text, sentence) in [
        ("lisen = 1", "callahead.toml:1: there is no key \"lisen\" here; did you mean \"listen\"?"),
        ("[listen]\npolcy = []", "callahead.toml:2: there is no key \"polcy\" in [listen]; did you mean \"policy\"?"),
        (
            "[callout]\ntimeout = \"30 parsecs\"",
            "callahead.toml:2: callout.timeout: \"30 parsecs\" is no duration (\"parsecs\" is no unit): write a number with ms, s, m, h or d, such as \"30s\" or \"1h30m\"",
        ),
        (
            "[callout]\ntimeout = 30",
            "callahead.toml:2: callout.timeout: 30 has no unit: write ms, s, m, h or d behind it, such as \"30s\"",
        ),
        (
            "[defaults]\nvalid_ttl = 96",
            "callahead.toml:2: defaults.valid_ttl: 96 has no unit: write ms, s, m, h or d behind it, such as \"96h\"",
        ),
        (
            "[defaults]\ninvalid_refresh = 30",
            "callahead.toml:2: defaults.invalid_refresh: 30 has no unit: write ms, s, m, h or d behind it, such as \"30m\"",
        ),
        ("[callout]\nuses = 5\nidle = \"1s\"\nuses = 6", "callahead.toml:4: this is no TOML: duplicate key \"uses\""),
        ("[callout]\ntimeout = \"1h\"", "callahead.toml:2: callout.timeout: 1h is not between 1s and 5m"),
        ("[callout]\nuses = 0", "callahead.toml:2: callout.uses: must be a number from 1 to 1000"),
        ("[callout]\nuses = \"many\"", "callahead.toml:2: callout.uses: must be a number, and is a string"),
        ("node = 1", "callahead.toml:1: node: must be a string in quotes, and is an integer"),
        (
            "[defaults]\ninvalid_ttl = \"3h\"",
            "callahead.toml:2: defaults.invalid_ttl: 3h is more than 2h, and a mailbox that was created must not be refused for longer",
        ),
        (
            "[defaults]\ncallouts = \"enforced\"",
            "callahead.toml:2: defaults.callouts: \"enforced\" is not one of enforce, observe, off; did you mean \"enforce\"?",
        ),
        (
            "[defaults]\nreject_code = 551",
            "callahead.toml:2: defaults.reject_code: 551 is neither 550 nor 450 (a trial: senders try again)",
        ),
        ("[defaults]\npass_reply_text = \"yes\"", "callahead.toml:2: defaults.pass_reply_text: must be true or false"),
        (
            "[listen]\npolicy = [\"10040\"]",
            "callahead.toml:2: listen.policy: \"10040\" is no address to listen on: write \"127.0.0.1:10040\", \"[::1]:10040\" or \"unix:/path/to.sock\"",
        ),
        (
            "[listen]\nadmin = [\"127.0.0.1:1\"]",
            "callahead.toml:2: listen.admin: \"127.0.0.1:1\" is no Unix socket: who may use it is told by the file's permissions",
        ),
        (
            "[listen]\ngateway = [\"unix:/run/g.sock\"]",
            "callahead.toml:2: listen.gateway: \"unix:/run/g.sock\" is no TCP address: mail comes in from clients with addresses",
        ),
        (
            "[gateway]\ntls_key = \"/k\"",
            "callahead.toml:2: gateway.tls_key is of no use without \"tls_certificate\"; give both",
        ),
        (
            "[gateway]\ntrusted = [\"localhost\"]",
            "callahead.toml:2: gateway.trusted: \"localhost\" is no network: write it as \"192.0.2.0/24\" or \"2001:db8::/32\"",
        ),
        (
            "[gateway]\nproxy_protocol = true\ntrusted = []",
            "callahead.toml:2: gateway.proxy_protocol: it is of no use without networks in \"trusted\", since connections from all others are closed: name the balancer's there",
        ),
        (
            "[listen]\npolicy = [\"127.0.0.1:10040\"]\nmilter = [\"127.0.0.1:0\", \"127.0.0.1:0\", \"127.0.0.1:10040\"]",
            "callahead.toml:3: listen.milter: \"127.0.0.1:10040\" is taken by \"127.0.0.1:10040\" of listen.policy in line 2; choose another port",
        ),
        (
            "[listen]\nhttp = [\"127.0.0.1:25\"]\ngateway = [\"[::]:25\"]",
            "callahead.toml:3: listen.gateway: \"[::]:25\" is taken by \"127.0.0.1:25\" of listen.http in line 2; choose another port",
        ),
        (
            "[listen]\nadmin = [\"unix:/run/c.sock\"]\npolicy = [\n  \"unix:/run/c.sock\"]",
            "callahead.toml:4: listen.policy: \"unix:/run/c.sock\" is taken by \"unix:/run/c.sock\" of listen.admin in line 2; choose another path",
        ),
        ("[gateway]\nrecipients = 99", "callahead.toml:2: gateway.recipients: must be a number from 100 to 100000"),
        (
            "[gateway]\nmesage_size = 1",
            "callahead.toml:2: there is no key \"mesage_size\" in [gateway]; did you mean \"message_size\"?",
        ),
        (
            "[[domain]]\nname = \"a.example\"\nroute = [\"mx\"]\nrelay = []",
            "callahead.toml:4: domain.relay: is empty: name at least one host, or \"mx\"",
        ),
        (
            "[http]\ntls_certificate = \"/etc/tls/cert.pem\"",
            "callahead.toml:2: http.tls_certificate is of no use without \"tls_key\"; give both",
        ),
        (
            "[http]\ntls_certificate = \"/c.pem\"\ntls_key = \"key.pem\"",
            "callahead.toml:3: http.tls_key: must be an absolute path",
        ),
        (
            "[http]\ntrusted_proxies = [\"proxy.example\"]",
            "callahead.toml:2: http.trusted_proxies: \"proxy.example\" is no network: write it as \"127.0.0.0/8\", \"fe80::/10\" or \"192.0.2.1\"",
        ),
        (
            "[callout]\ndeny_destinations = [\"everywhere\"]",
            "callahead.toml:2: callout.deny_destinations: \"everywhere\" is no network: write it as \"127.0.0.0/8\", \"fe80::/10\" or \"192.0.2.1\"",
        ),
        (
            "[log]\nsize = \"4 GB\"",
            "callahead.toml:2: log.size: \"4 GB\" is no size from 1M to 1024T: write a number with K, M, G or T, such as \"4G\"",
        ),
        ("[log]\ndays = -1", "callahead.toml:2: log.days: must be a number from 0 to 3650"),
        (
            "[[domain]]\nname = \"a.example\"\nroute = [\"mx\"]\nlog_days = 3651",
            "callahead.toml:4: domain.log_days: must be a number from 0 to 3650",
        ),
        ("[log]\nrecipients = \"none\"", "callahead.toml:2: log.recipients: \"none\" is not one of full, domain"),
        (
            "[resolver]\nservers = [\"dns.example\"]",
            "callahead.toml:2: resolver.servers: \"dns.example\" is no name server: write its address, such as \"127.0.0.1:53\"",
        ),
        ("data_dir = \"here\"", "callahead.toml:1: data_dir: must be an absolute path"),
        ("[[domain]]\nname = \"a.example\"", "callahead.toml:1: [[domain]] has no \"route\""),
        (
            "[[domain]]\nname = \"a.example\"\nroute = []",
            "callahead.toml:3: domain.route: is empty: name at least one host, or \"mx\"",
        ),
        (
            "[[domain]]\nname = \"a.example\"\nroute = [\"a b\"]",
            "callahead.toml:3: domain.route: \"a b\" is no route entry: write \"mx\", HOST, HOST:PORT, ADDRESS or [IPV6]:PORT",
        ),
        (
            "[[domain]]\nname = \"a example\"\nroute = [\"mx\"]",
            "callahead.toml:2: domain.name: \"a example\" is no domain: the domain has ' ' where a domain name can't have it",
        ),
        (
            "[[domain]]\nname = \"a.example\"\nroute = [\"mx\"]\n[[domain]]\nname = \"A.example.\"\nroute = [\"mx\"]",
            "callahead.toml:5: the domain \"a.example\" stands in line 2 already; join the two",
        ),
        (
            "[[domain]]\nname = \"a.example\"\nroute = [\"mx\"]\nvalid = [\"a\"]\ninvalid = [\"A\"]",
            "callahead.toml:5: domain.invalid: \"A\" is in \"valid\" too; take it out of one of them",
        ),
        (
            "[[domain]]\nname = \"a.example\"\nroute = [\"mx\"]\nvalid = [\"a@b.example\"]",
            "callahead.toml:4: domain.valid: \"a@b.example\" is no local part (what stands before the @): the local part has '@' where RFC 5321 does not allow it",
        ),
        (
            "[[domain]]\nname = \"a.example\"\nroute = [\"mx\"]\ninvalid_ttl = \"121m\"",
            "callahead.toml:4: domain.invalid_ttl: 2h1m is more than 2h, and a mailbox that was created must not be refused for longer",
        ),
        (
            "[gateway]\nproxy_protocol = true\ntrusted = [\n  \"10.0.0.0/8\",\n  \"balancer\",\n]",
            "callahead.toml:5: gateway.trusted: \"balancer\" is no network: write it as \"192.0.2.0/24\" or \"2001:db8::/32\"",
        ),
        (
            "[[domain]]\nname = \"a.example\"\nroute = \"mx\"",
            "callahead.toml:3: domain.route: must be a list of strings, and is a string: write [\"mx\"]",
        ),
        (
            "[[domain]]\nname = \"a.example\"\nroute = [\"mx\"]\nvalid = [\n\"a\",\n1]",
            "callahead.toml:6: domain.valid: must be a string in quotes, and is an integer",
        ),
        (
            "[[domain]]\nname = \"*.[192.0.2.1]\"\nroute = [\"mx\"]",
            "callahead.toml:2: domain.name: \"*.[192.0.2.1]\" is no domain: an address literal has no subdomains",
        ),
        ("domain = 1", "callahead.toml:1: domain must be an array of tables, [[domain]]"),
    ] {
        assert_eq!(mistakes(text), [sentence], "{text}");
    }
    let syntax = mistakes("[listen\npolicy = []");
    assert!(syntax.len() == 1 && syntax[0].starts_with("callahead.toml:1: this is no TOML: "), "{syntax:?}");
}

#[test]
fn places_that_go_beside_each_other_are_no_mistake() {
    let listen = |places: &str| mistakes(&format!("[listen]\npolicy = [{places}]"));
    assert_eq!(listen("\"127.0.0.1:25\", \"127.0.0.2:25\", \"[::1]:25\", \"127.0.0.1:26\""), [""; 0]);
    assert_eq!(listen("\"0.0.0.0:25\", \"[::1]:25\", \"0.0.0.0:0\", \"127.0.0.1:0\""), [""; 0]);
    assert_eq!(listen("\"0.0.0.0:25\", \"127.0.0.1:25\"").len(), 1);
}

#[test]
fn a_node_without_a_full_name_is_told_of_and_no_mistake() {
    let remarks = |text: &str| Config::parse_with_remarks(text, "callahead.toml").unwrap().1;
    assert_eq!(remarks("node = \"mx1.filter.example\""), [""; 0]);
    assert_eq!(remarks("node = \"[192.0.2.1]\""), [""; 0]);
    assert_eq!(
        remarks("# the node\nnode = \"vm\""),
        [
            "callahead.toml:2: node: \"vm\" has no dot, and destinations that want a full name in EHLO refuse whatever they are asked; write \
          node = \"...\" with the name that the DNS has for this host's address, such as \"mx1.filter.example\""
        ]
    );
    let literal = remarks("node = \"[127.0.0.1]\"");
    assert!(
        literal.len() == 1
            && literal[0]
                .starts_with("callahead.toml:1: node: \"[127.0.0.1]\" is every host to itself, and destinations"),
        "{literal:?}"
    );
}

#[test]
fn what_is_never_asked_again_in_the_background_is_told_of_where_it_is_written_and_no_mistake() {
    let text = "node = \"mx1.filter.example\"\n[defaults]\nvalid_ttl = \"6h\"\n[[domain]]\nname = \"a.example\"\nroute = [\"mx\"]\n\
                [[domain]]\nname = \"b.example\"\nroute = [\"mx\"]\ninvalid_refresh = \"2h\"\ninvalid_ttl = \"90m\"\n";
    assert_eq!(
        Config::parse_with_remarks(text, "callahead.toml").unwrap().1,
        [
            "callahead.toml:3: defaults.valid_refresh: 12h is longer than valid_ttl, 6h: nothing is asked again before it expires",
            "callahead.toml:10: domain.invalid_refresh: 2h is longer than invalid_ttl, 1h30m: nothing is asked again before it expires",
        ]
    );
}

#[test]
fn all_mistakes_of_a_file_are_told_at_once_in_the_order_of_lines() {
    let text = "nod = 1\n[callout]\nuses = 0\ntimeout = \"5\"\n[defaults]\ntls = \"maybe\"\n";
    let lines: Vec<String> =
        mistakes(text).iter().map(|sentence| sentence.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(lines, ["callahead.toml:1:", "callahead.toml:3:", "callahead.toml:4:", "callahead.toml:6:"]);
}

#[test]
fn what_config_init_writes_is_the_defaults() {
    let mut config = Config::parse(INIT, "init").unwrap();
    assert_eq!(
        config.listen.policy.len()
            + config.listen.socketmap.len()
            + config.listen.milter.len()
            + config.listen.http.len()
            + config.listen.admin.len(),
        5
    );
    config.listen = Default::default();
    assert_eq!(config, Config::default());
}

#[test]
fn config_init_names_every_key_and_config_show_writes_what_is_read_back() {
    let text = "node = \"mx.example\"\n[listen]\npolicy = [\"127.0.0.1:10040\", \"unix:/run/p.sock\"]\nmilter = [\"unix:/run/m.sock\"]\n[http]\ntls_certificate = \"/etc/c.pem\"\ntls_key = \"/etc/k.pem\"\ntrusted_proxies = [\"10.0.0.0/8\"]\n[harvest]\nlimit = 0\n\
                [gateway]\ntls_certificate = \"/c.pem\"\ntls_key = \"/k.pem\"\ntrusted = [\"10.0.0.0/8\", \"::1\"]\nproxy_protocol = true\n\
                dsn = true\nmessage_size = 70000\nreply_timeout = \"2m\"\n[defaults]\n\
                reject_code = 450\ninvalid_ttl = \"90m\"\ntls = \"required\"\n[[domain]]\nname = \"*.b\u{fc}cher.example\"\n\
                route = [\"mail.example:2525\", \"mx\", \"[2001:db8::1]:26\"]\nrelay = [\"127.0.0.1:11332\"]\nvalid = [\"sales\", \"\\\"a b\\\"\"]\ninvalid = [\"Old\"]\n\
                callouts = \"observe\"\nlocal_part_case = \"keep\"\npass_reply_text = true\ntls = \"off\"\nlog_days = 3\nlog_recipients = \"domain\"\n";
    let config = Config::parse(text, "x").unwrap();
    let shown = config.to_toml();
    assert_eq!(Config::parse(&shown, "shown").unwrap(), config, "{shown}");
    assert_eq!(config.domains[0].name, "*.xn--bcher-kva.example");
    for line in shown.lines().filter_map(|line| line.split_once(" = ")) {
        assert!(INIT.contains(&format!("{} = ", line.0)), "config init does not name {}", line.0);
    }
}

#[test]
fn a_domain_takes_what_it_does_not_say_from_the_defaults() {
    let text = "[defaults]\ninvalid_ttl = \"1h\"\ntls = \"verified\"\n[[domain]]\nname = \"a.example\"\nroute = [\"mx\"]\n[[domain]]\nname = \
                \"b.example\"\nroute = [\"mx\"]\ninvalid_ttl = \"2h\"\ntls = \"off\"\n";
    let config = Config::parse(text, "x").unwrap();
    let seen: Vec<_> =
        config.domains.iter().map(|d| (d.policy.invalid_ttl.as_secs(), d.route.tls.to_string())).collect();
    assert_eq!(seen, [(3600, "verified".into()), (7200, "off".into())]);
}

#[test]
fn a_domain_may_log_less_than_the_node_and_never_more() {
    let logged = |log: &str, domain: &str| {
        let text = format!("[log]\n{log}\n[[domain]]\nname = \"a.example\"\nroute = [\"mx\"]\n{domain}\n");
        let config = Config::parse(&text, "x").unwrap();
        assert_eq!(Config::parse(&config.to_toml(), "shown").unwrap(), config, "{text}");
        let policy = &config.domains[0].policy;
        (policy.log_days, format!("{:?}", policy.log_recipients))
    };
    assert_eq!(logged("", ""), (30, "Full".into()));
    assert_eq!(logged("days = 7\nrecipients = \"domain\"", ""), (7, "Domain".into()));
    assert_eq!(logged("days = 7", "log_days = 2\nlog_recipients = \"domain\""), (2, "Domain".into()));
    assert_eq!(logged("days = 7", "log_days = 0"), (0, "Full".into()));
    assert_eq!(
        logged("days = 7\nrecipients = \"domain\"", "log_days = 90\nlog_recipients = \"full\""),
        (7, "Domain".into())
    );
}

#[test]
fn what_is_logged_and_where_routes_may_not_lead_is_written_as_it_is_read() {
    let text = "[log]\ndays = 7\nsize = \"1536M\"\nrecipients = \"domain\"\n[callout]\ndeny_destinations = [\"10.0.0.0/8\", \"::1\"]\n";
    let config = Config::parse(text, "x").unwrap();
    assert_eq!((config.log.days, config.log.size), (7, 1536 << 20));
    assert_eq!(Config::parse(&config.to_toml(), "shown").unwrap(), config);
}
