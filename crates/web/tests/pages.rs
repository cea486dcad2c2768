//! Who may see which page: every page for every role, with what is theirs and with what is another's.
#![allow(clippy::unwrap_used)]

mod common;
mod realm;
mod visitor;

use std::collections::BTreeSet;
use std::time::Duration;

use callahead_control::{DomainSpec, Kind, LogCounters};
use callahead_engine::{Decision, Listener, Observer as _, Question, Verdict};
use callahead_web::PAGES;
use visitor::World;

/// The one who asks, by a letter: `A` administrator, `R` reseller, `D` domain owner, in small letters read-only; `-` nobody.
const ROLES: &str = "AaRrDd-";

/// Of each page: method, path, target (`{own}` is replaced), form. Then what comes of it for each of [`ROLES`]: with what is theirs, and with
/// what is another's. `y` is let in, `n` is forbidden (403), `h` is as if it did not exist (404), `l` is sent to the login; `.` has no other's.
const TABLE: &[(&str, &str, &str, &str, &str, &str)] = &[
    ("GET", "/assets/{name}", "{style}", "", "yyyyyyy", "......."),
    ("GET", "/login", "/login", "", "yyyyyyy", "......."),
    ("POST", "/login", "/login", "account=x&password=y", "yyyyyyy", "......."),
    ("GET", "/login/link", "/login/link?key=x", "", "yyyyyyy", "......."),
    ("POST", "/login/link", "/login/link", "key=x", "yyyyyyy", "......."),
    ("GET", "/setup", "/setup?key=x", "", "yyyyyyy", "......."),
    (
        "POST",
        "/setup",
        "/setup",
        "key=x&account=evil&password=a+long+password+here&again=a+long+password+here",
        "yyyyyyy",
        ".......",
    ),
    ("GET", "/password", "/password", "", "yyyyyyl", "......."),
    ("POST", "/password", "/password", "current=x&password=y&again=y", "yyyyyyl", "......."),
    ("GET", "/", "/", "", "yyyyyyl", "......."),
    ("GET", "/overview/events", "/overview/events", "", "yyyyyyl", "......."),
    ("GET", "/recipients", "/recipients", "", "yyyyyyl", "......."),
    ("GET", "/recipients/{address}", "/recipients/kept@{domain}", "", "yyyyyyl", "yyhhhhl"),
    ("POST", "/recipients/{address}", "/recipients/kept@{domain}", "", "yyyyyyl", "yyhhhhl"),
    ("POST", "/recipients/{address}", "/recipients/a..b@{domain}", "", "yyyyyyl", "yyhhhhl"),
    ("GET", "/recipients/{address}/clear", "/recipients/kept@{domain}/clear", "", "ynynynl", "ynhnhnl"),
    ("POST", "/recipients/{address}/clear", "/recipients/kept@{domain}/clear", "", "ynynynl", "ynhnhnl"),
    ("GET", "/domains", "/domains", "", "yyyyyyl", "......."),
    ("GET", "/domain/new", "/domain/new", "", "ynynnnl", "......."),
    ("POST", "/domain/new", "/domain/new", "name=new.example&route=mx", "ynynnnl", "......."),
    ("GET", "/domains/{name}", "/domains/{domain}", "", "yyyyyyl", "yyhhhhl"),
    ("POST", "/domains/{name}/test", "/domains/{domain}/test", "", "yyyyyyl", "yyhhhhl"),
    ("POST", "/domains/{name}/enforce", "/domains/{domain}/enforce", "", "ynynnnl", "ynhnnnl"),
    ("GET", "/domains/{name}/observed", "/domains/{domain}/observed", "", "yyyyyyl", "yyhhhhl"),
    ("GET", "/domains/{name}/cache", "/domains/{domain}/cache", "", "yyyyyyl", "yyhhhhl"),
    ("GET", "/domains/{name}/clear", "/domains/{domain}/clear", "", "ynynynl", "ynhnhnl"),
    ("POST", "/domains/{name}/clear", "/domains/{domain}/clear", "", "ynynynl", "ynhnhnl"),
    ("GET", "/domains/{name}/edit", "/domains/{domain}/edit", "", "ynynynl", "ynhnhnl"),
    ("POST", "/domains/{name}/edit", "/domains/{domain}/edit", "valid=sales&invalid=", "ynynynl", "ynhnhnl"),
    ("GET", "/log", "/log", "", "yyyyyyl", "......."),
    ("GET", "/log/export", "/log/export?format=csv", "", "yyyyyyl", "......."),
    ("GET", "/accounts", "/accounts", "", "yyyyyyl", "......."),
    ("GET", "/account/new", "/account/new", "", "ynynnnl", "......."),
    ("POST", "/account/new", "/account/new", "name=new&role=domain", "ynynnnl", "......."),
    ("GET", "/accounts/{name}", "/accounts/{account}", "", "yyyyyyl", "yyhhhhl"),
    ("POST", "/accounts/{name}", "/accounts/{account}", "domains={domain}", "ynynnnl", "ynhnnnl"),
    ("POST", "/accounts/{name}/link", "/accounts/{account}/link", "", "ynynnnl", "ynhnnnl"),
    ("POST", "/accounts/{name}/log-in", "/accounts/{account}/log-in", "", "ynynnnl", "ynhnnnl"),
    ("POST", "/back", "/back", "", "yyyyyyl", "......."),
    ("GET", "/tokens", "/tokens", "", "yyyyyyl", "......."),
    ("POST", "/tokens", "/tokens", "label=new&account={account}&days=30&scope_read=true", "ynynynl", "......."),
    ("GET", "/tokens/{id}/delete", "/tokens/{token}/delete", "", "ynynynl", "ynhnhnl"),
    ("POST", "/tokens/{id}/delete", "/tokens/{token}/delete", "", "ynynynl", "ynhnhnl"),
    ("GET", "/audit", "/audit", "", "yyyyyyl", "......."),
    ("GET", "/node", "/node", "", "yynnnnl", "......."),
    ("GET", "/clear-everything", "/clear-everything", "", "ynnnnnl", "......."),
    ("POST", "/clear-everything", "/clear-everything", "word=everything", "ynnnnnl", "......."),
    ("GET", "/domains/{name}/delete", "/domains/{domain}/delete", "", "ynynnnl", "ynhnnnl"),
    ("POST", "/domains/{name}/delete", "/domains/{domain}/delete", "", "ynynnnl", "ynhnnnl"),
    ("GET", "/accounts/{name}/delete", "/accounts/{account}/delete", "", "ynynnnl", "ynhnnnl"),
    ("POST", "/accounts/{name}/delete", "/accounts/{account}/delete", "", "ynynnnl", "ynhnnnl"),
    // Whoever logs out is sent to the login, as nobody is.
    ("POST", "/logout", "/logout", "", "lllllll", "......."),
];

#[test]
fn every_page_stands_in_this_table() {
    let tested: BTreeSet<_> = TABLE.iter().map(|(method, path, ..)| (*method, *path)).collect();
    let known: BTreeSet<_> = PAGES.iter().map(|page| (page.method, page.path)).collect();
    assert_eq!(tested, known);
}

#[tokio::test]
async fn every_role_sees_its_own_and_nobody_sees_anothers() {
    for (at, role) in ROLES.chars().enumerate() {
        let world = World::new(role.is_ascii_lowercase()).await;
        let account = match role.to_ascii_uppercase() {
            'A' => "root",
            'R' => "r",
            _ => "d",
        };
        for (method, path, target, form, own, other) in TABLE {
            for (expected, mine) in [(own, true), (other, false)] {
                let expected = expected.chars().nth(at).unwrap();
                if expected == '.' {
                    continue;
                }
                // A session of its own for each request, because some of them end it.
                let cookie = if role == '-' { String::new() } else { world.session(account).await };
                let fill = |text: &str| world.fill(text, mine);
                let answer = world.send(&cookie, method, &fill(target), &fill(form)).await;
                let came = match answer.status {
                    303 if answer.location().starts_with("/login") => 'l',
                    403 => 'n',
                    404 => 'h',
                    // Let in, whatever came of it there: a wrong password, a used link, a node that asks nobody.
                    200 | 303 | 410 | 422 | 503 => 'y',
                    other => panic!("{role} {method} {path}: {other}\n{}", answer.body),
                };
                assert_eq!(came, expected, "{role} {method} {} ({path}): {}", fill(target), answer.status);
                if mine && !matches!(role, 'A' | 'a' | '-') && *method == "GET" && came == 'y' {
                    let trap = path.starts_with("/accounts") || path.starts_with("/audit");
                    for secret in ["kept@o.example", "od", "other of"] {
                        assert!(!words(&answer.body).contains(&secret), "{role} {path} tells {secret}");
                    }
                    assert!(
                        trap || !answer.body.contains("o.example"),
                        "{role} {path} tells of o.example:\n{}",
                        answer.body
                    );
                }
            }
        }
    }
}

/// What stands on its own between spaces, tags and quotes.
fn words(html: &str) -> Vec<&str> {
    html.split(|c: char| c.is_whitespace() || "<>\"/,".contains(c)).collect()
}

#[tokio::test]
async fn an_owner_changes_lists_and_nothing_else_whatever_the_form_says() {
    let world = World::new(false).await;
    let cookie = world.session("d").await;
    let form = "valid=sales&invalid=&callouts=off&route=evil.example%3A25&owner=d";
    let answer = world.send(&cookie, "POST", "/domains/r.example/edit", form).await;
    assert_eq!((answer.status, answer.location()), (303, "/domains/r.example".to_owned()));
    let local = world.bench.administration.control.local();
    let domain = &local.domains()["r.example"].value;
    assert_eq!(domain.valid, ["sales"]);
    assert_eq!((domain.callouts.as_deref(), domain.route.as_slice()), (None, ["mx".to_owned()].as_slice()));
    assert_eq!(domain.owner.as_deref(), Some("r"));
}

#[tokio::test]
async fn a_token_whose_end_can_not_be_read_is_not_made_without_one() {
    let world = World::new(false).await;
    let cookie = world.session("root").await;
    let tokens = || world.bench.administration.control.local().tokens().len();
    let before = tokens();
    for days in ["30d", "0", "-1", "4000"] {
        let refused =
            world.send(&cookie, "POST", "/tokens", &format!("label=x&account=root&days={days}&scope_read=true")).await;
        assert!(refused.status == 422 && refused.body.contains("is no number of days"), "{}", refused.body);
    }
    assert_eq!(tokens(), before);
    assert_eq!(world.send(&cookie, "POST", "/tokens", "label=x&account=root&days=&scope_read=true").await.status, 303);
    assert_eq!(tokens(), before + 1);
}

#[tokio::test]
async fn what_is_logged_of_a_domain_is_chosen_in_its_form() {
    let world = World::new(false).await;
    let cookie = world.session("root").await;
    let form = "route=mx&valid=&invalid=&log_days=3&log_recipients=domain";
    assert_eq!(world.send(&cookie, "POST", "/domains/r.example/edit", form).await.status, 303);
    let shown = world.send(&cookie, "GET", "/domains/r.example", "").await.body;
    assert!(shown.contains("<dd>the domain only</dd>") && shown.contains("<dd>3</dd>"), "{shown}");
    let edited = world.send(&cookie, "GET", "/domains/r.example/edit", "").await.body;
    assert!(edited.contains("name=\"log_days\" value=\"3\" placeholder=\"30\""), "{edited}");
    let form = "route=mx&valid=&invalid=&log_days=many&log_recipients=";
    let refused = world.send(&cookie, "POST", "/domains/r.example/edit", form).await;
    assert!(refused.status == 422 && refused.body.contains("log_days"), "{}", refused.body);
    let form = "route=mx&valid=&invalid=&log_days=&log_recipients=";
    assert_eq!(world.send(&cookie, "POST", "/domains/r.example/edit", form).await.status, 303);
    let shown = world.send(&cookie, "GET", "/domains/r.example", "").await.body;
    assert!(shown.contains("<dd>30 <span"), "{shown}");
}

#[tokio::test]
async fn a_form_that_is_older_than_the_domain_changes_nothing() {
    let world = World::new(false).await;
    let cookie = world.session("root").await;
    let answer = world.send(&cookie, "POST", "/domains/r.example/edit", "revision=1&route=mx&valid=x&invalid=").await;
    assert_eq!(answer.status, 422);
    assert!(answer.body.contains("Somebody else changed this meanwhile"), "{}", answer.body);
}

#[tokio::test]
async fn everything_is_cleared_only_when_the_word_is_written() {
    let world = World::new(false).await;
    let cookie = world.session("root").await;
    let kept = |world: &World| world.bench.engine.cache().stats(None).unwrap().valid;
    assert_eq!(kept(&world), 2);
    for word in ["", "everythin", "all"] {
        let answer = world.send(&cookie, "POST", "/clear-everything", &format!("word={word}")).await;
        assert_eq!(answer.status, 422);
    }
    assert_eq!(kept(&world), 2);
    let answer = world.send(&cookie, "POST", "/clear-everything", "word=everything").await;
    assert_eq!((answer.status, answer.location()), (303, "/node".to_owned()));
    assert_eq!(kept(&world), 0);
    let answer = world.send(&cookie, "GET", "/node", "").await;
    assert!(answer.body.contains("Everything is cleared: "), "{}", answer.body);
}

#[tokio::test]
async fn looking_at_a_recipient_asks_nobody_and_writes_nothing() {
    let world = World::new(false).await;
    let cookie = world.session("d").await;
    // What the file takes is told a moment after what was written.
    let log = || LogCounters { used_bytes: 0, ..world.bench.administration.log.counters() };
    let counted = || (world.bench.engine.stats(), log());
    let before = counted();
    let answer = world.send(&cookie, "GET", "/recipients/new@r.example", "").await;
    assert!(answer.body.contains("Nothing is kept of this address"), "{}", answer.body);
    let answer = world.send(&cookie, "GET", "/recipients/kept@r.example", "").await;
    assert!(answer.body.contains("row 7 of the decision table"), "{}", answer.body);
    assert_eq!(counted(), before);
}

/// A domain of `r`, with a route.
async fn add(world: &World, spec: DomainSpec) {
    let spec = DomainSpec { owner: Some("r".into()), route: vec!["mx".into()], ..spec };
    let change = realm::record(Kind::Domain, &spec.name, &spec);
    world.bench.administration.control.apply(vec![change], vec![], world.bench.engine.now()).await.unwrap();
}

#[tokio::test]
async fn the_page_of_a_wildcard_reaches_the_subdomains_that_it_covers_and_no_others() {
    let world = World::new(false).await;
    add(&world, DomainSpec { name: "*.sub.example".into(), ..DomainSpec::default() }).await;
    world.bench.decide("kept@a.sub.example").await;
    world.bench.engine.shutdown(Duration::from_secs(5)).await;
    let r = world.session("r").await;
    let page = world.send(&r, "GET", "/domains/*.sub.example/cache?domain=a.sub.example", "").await;
    assert!(page.body.contains("kept@a.sub.example"), "{}", page.body);
    // A domain in the query is no way to what is another's, nor to what this name does not cover.
    for domain in ["o.example", "r.example", "sub.example", "nowhere.example", "%00"] {
        for (method, path) in [("GET", "cache"), ("GET", "clear"), ("POST", "clear")] {
            let target = format!("/domains/*.sub.example/{path}?domain={domain}");
            assert_eq!(world.send(&r, method, &target, "").await.status, 404, "{method} {target}");
        }
    }
    let kept = |address: &str| {
        let recipient: callahead_smtp::Recipient = address.parse().unwrap();
        world.bench.engine.cache().lookup(&recipient).unwrap().recipient.is_some()
    };
    // On the page of a single domain the query means nothing.
    assert_eq!(world.send(&r, "POST", "/domains/r.example/clear?domain=o.example", "").await.status, 303);
    assert!(!kept("kept@r.example") && kept("kept@o.example") && kept("kept@a.sub.example"));
    assert_eq!(world.send(&r, "POST", "/domains/*.sub.example/clear?domain=a.sub.example", "").await.status, 303);
    assert!(!kept("kept@a.sub.example") && kept("kept@o.example"));
}

#[tokio::test]
async fn an_observed_domain_shows_who_would_have_been_refused_and_who_of_them_existed_before() {
    let world = World::new(false).await;
    let cookie = world.session("r").await;
    let form = "route=mx&valid=&invalid=&callouts=observe";
    let root = world.session("root").await;
    assert_eq!(world.send(&root, "POST", "/domains/r.example/edit", form).await.status, 303);
    let page = world.send(&cookie, "GET", "/domains/r.example/observed", "").await.body;
    assert!(page.contains("None yet."), "{page}");
    for recipient in ["bad1@r.example", "bad2@r.example", "bad2@r.example", "bad1@o.example", "good@r.example"] {
        world.bench.decide(recipient).await;
    }
    // It existed before its destination said that it does not; and one of another domain, and one that was only deferred.
    let question = Question::new(b"kept@r.example", Listener::Policy);
    let existed = world.bench.engine.decide(question).await;
    let put_off = Decision { verdict: Some(Verdict::Unknown), recipient: "bad1@r.example".into(), ..existed.clone() };
    world.bench.administration.log.decided(&question, &put_off);
    for recipient in ["bad2@r.example", "bad1@o.example"] {
        let decision = Decision { recipient: recipient.into(), ..existed.clone() };
        world.bench.administration.log.decided(&question, &decision);
    }
    world.bench.logged().await;
    let page = world.send(&cookie, "GET", "/domains/r.example/observed", "").await.body;
    let tiles: Vec<_> = page.split("<dd>").skip(1).map(|tile| tile.split(['<', ' ']).next().unwrap()).collect();
    assert_eq!(tiles[..3], ["3", "2", "1"], "decisions, recipients, and who existed before: {page}");
    let row = |recipient: &str| {
        let row = page.split("<tr>").find(|row| row.contains(&format!(">{recipient}</a>")));
        row.unwrap_or_else(|| panic!("{recipient}: {page}")).contains("existed before")
    };
    assert_eq!((row("bad1@r.example"), row("bad2@r.example")), (false, true));
    assert!(!page.contains("o.example") && !page.contains("good@") && !page.contains("or more"), "{page}");
    // Where recipients are not logged, nobody can tell who existed.
    let hidden = format!("{form}&log_recipients=domain");
    assert_eq!(world.send(&root, "POST", "/domains/r.example/edit", &hidden).await.status, 303);
    for recipient in ["bad3@r.example", "good2@r.example"] {
        world.bench.decide(recipient).await;
    }
    world.bench.logged().await;
    let page = world.send(&cookie, "GET", "/domains/r.example/observed", "").await.body;
    let row = page.split("<tr>").find(|row| row.contains(">*@r.example</a>")).unwrap_or_else(|| panic!("{page}"));
    assert!(!row.contains("existed before"), "{row}");
}

#[tokio::test]
async fn a_recipients_latest_decisions_are_there_however_it_is_written_and_a_wildcard_has_its_own() {
    let world = World::new(false).await;
    let local_part_case = Some("fold".to_owned());
    add(&world, DomainSpec { name: "*.sub.example".into(), local_part_case, ..DomainSpec::default() }).await;
    for recipient in ["Bad1@a.sub.example", "anna@elsewhere.example", "joanna@elsewhere.example"] {
        world.bench.decide(recipient).await;
    }
    world.bench.logged().await;
    let r = world.session("r").await;
    for target in ["/recipients/BAD1@A.sub.example", "/log?recipient=BAD1%40A.sub.example", "/domains/*.sub.example"] {
        let page = world.send(&r, "GET", target, "").await;
        assert!(page.body.contains(">bad1@a.sub.example</a>"), "{target}: {}", page.body);
    }
    let root = world.session("root").await;
    let page = world.send(&root, "GET", "/recipients/anna@elsewhere.example", "").await.body;
    assert!(page.contains(">anna@elsewhere.example</a>") && !page.contains("joanna"), "{page}");
}

#[tokio::test]
async fn whoever_claims_a_domain_is_not_told_who_existed_there_before() {
    let world = World::new(false).await;
    let now = world.bench.engine.now().0;
    let question = Question::new(b"bad1@claimed.example", Listener::Policy);
    let decision = world.bench.decide("kept@r.example").await;
    let existed = Decision { recipient: "bad1@claimed.example".into(), ..decision };
    world.bench.administration.log.decided(&question, &existed);
    world.bench.decide("old@claimed.example").await;
    world.bench.logged().await;
    world.bench.clock.advance(Duration::from_secs(60));
    let (callouts, owned_since) = (Some("observe".into()), Some(now + 60_000));
    add(&world, DomainSpec { name: "claimed.example".into(), callouts, owned_since, ..DomainSpec::default() }).await;
    world.bench.decide("bad1@claimed.example").await;
    world.bench.logged().await;
    for (account, knows) in [("r", false), ("root", true)] {
        let cookie = world.session(account).await;
        let page = world.send(&cookie, "GET", "/domains/claimed.example/observed", "").await.body;
        assert!(page.contains(">bad1@claimed.example</a>"), "{page}");
        let row = page.split("<tr><td>").nth(1).unwrap();
        assert_eq!(row.contains("existed before"), knows, "{account}: {row}");
        for target in ["/recipients/old@claimed.example", "/domains/claimed.example", "/log"] {
            let page = world.send(&cookie, "GET", target, "").await.body;
            assert_eq!(page.contains(">old@claimed.example</a>"), knows, "{account} {target}: {page}");
        }
    }
}

#[tokio::test]
async fn a_domains_form_has_what_the_domain_says_itself_though_the_node_allows_less() {
    let world = World::new(false).await;
    add(&world, DomainSpec { name: "days.example".into(), log_days: Some(90), ..DomainSpec::default() }).await;
    let root = world.session("root").await;
    let page = world.send(&root, "GET", "/domains/days.example/edit", "").await.body;
    let field = page.split("name=\"log_days\"").nth(1).unwrap().split('>').next().unwrap();
    assert!(field.contains("value=\"90\""), "{field}");
}

#[tokio::test]
async fn an_observed_wildcard_shows_the_subdomains_that_it_covers_and_no_others() {
    let world = World::new(false).await;
    for name in ["*.sub.example", "b.sub.example"] {
        let callouts = Some("observe".into());
        add(&world, DomainSpec { name: name.into(), callouts, ..DomainSpec::default() }).await;
    }
    let question = Question::new(b"kept@a.sub.example", Listener::Policy);
    let existed = Decision { recipient: "bad1@a.sub.example".into(), ..world.bench.decide("kept@a.sub.example").await };
    world.bench.administration.log.decided(&question, &existed);
    for recipient in ["bad1@a.sub.example", "bad1@c.sub.example", "bad1@b.sub.example", "bad1@r.example"] {
        world.bench.decide(recipient).await;
    }
    world.bench.logged().await;
    let r = world.session("r").await;
    let page = world.send(&r, "GET", "/domains/*.sub.example/observed", "").await;
    assert_eq!(page.status, 200);
    let rows: Vec<_> = page.body.split("<tr><td>").skip(1).collect();
    assert_eq!(rows.len(), 2, "{}", page.body);
    for row in rows {
        let is_of = |recipient: &str| row.contains(&format!(">{recipient}</a>"));
        assert!(is_of("bad1@a.sub.example") || is_of("bad1@c.sub.example"), "{row}");
        assert_eq!(row.contains("existed before"), is_of("bad1@a.sub.example"), "{row}");
    }
    for page in ["", "/cache", "/edit", "/delete"] {
        let target = format!("/domains/*.sub.example{page}");
        assert_eq!(world.send(&r, "GET", &target, "").await.status, 200, "{target}");
    }
}

#[tokio::test]
async fn a_search_of_the_log_finds_nothing_of_anothers_domain() {
    let world = World::new(false).await;
    for account in ["r", "d"] {
        let cookie = world.session(account).await;
        for target in [
            "/log?domain=o.example",
            "/log?recipient=kept%40o.example",
            "/log?recipient=kept",
            "/log/export?format=csv",
        ] {
            let page = world.send(&cookie, "GET", target, "").await;
            assert!(!page.body.contains("kept@o.example</a>"), "{account} {target}");
            assert!(!page.body.contains(",kept@o.example,"), "{account} {target}");
        }
        let page = world.send(&cookie, "GET", "/log?recipient=kept", "").await;
        assert!(page.body.contains("kept@r.example</a>"), "{account} finds its own: {}", page.body);
    }
}

#[tokio::test]
async fn an_owners_overview_has_the_numbers_of_its_own_domains_and_of_no_others() {
    let world = World::new(false).await;
    let ask = async |domain: &str, recipients: &[&str]| {
        for local in recipients {
            let address = format!("{local}@{domain}");
            world.bench.decide(&address).await;
            world.bench.engine.shutdown(Duration::from_secs(5)).await;
        }
        world.bench.logged().await;
    };
    // Besides the one that each has from the start.
    ask("r.example", &["kept", "kept", "bad"]).await;
    ask("o.example", &["bad1", "bad2", "bad3", "bad4", "bad5"]).await;
    let numbers = async |account: &str| {
        let page = world.send(&world.session(account).await, "GET", "/", "").await;
        let tiles = page.body.split("<div class=\"tile\"><dt>").skip(1);
        let tile = |part: &str| {
            let (name, rest) = part.split_once("</dt><dd>").unwrap();
            format!("{name} {}", rest.split('<').next().unwrap().trim())
        };
        tiles.map(tile).collect::<Vec<_>>()
    };
    let own = ["Decisions 4", "From the cache 50 %", "Do not exist 25 %", "Callouts 2", "Kept 2"];
    assert_eq!(numbers("r").await, own);
    assert_eq!(numbers("d").await, own, "an owner of one domain has what its reseller has");
    assert_eq!(numbers("o").await[0], "Decisions 6");
    ask("r.example", &["kept"]).await;
    assert_eq!(numbers("r").await, own, "they are counted once a minute");
    world.bench.clock.advance(Duration::from_secs(60));
    assert_eq!(numbers("r").await[0], "Decisions 5");
    assert_eq!(numbers("root").await.len(), 6, "an administrator has the whole node's");
}
