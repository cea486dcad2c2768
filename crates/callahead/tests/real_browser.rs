//! The web interface in a real browser: Debian's Chromium, against the real program and a simulated destination.
#![allow(clippy::unwrap_used, missing_docs)]

mod browser;
mod common;

use std::time::Duration;

use browser::{Browser, DESK, ENTER, Look, PHONE, TAB};
use callahead_testbed::{Destination, Listening, Script};
use common::{Daemon, configure, domain};
use tempfile::TempDir;

const PASSWORD: &str = "correct horse battery staple";
/// What a destination says to make trouble.
const HOSTILE: &str = "550 5.1.1 <script>document.title='owned'</script><img src=x onerror=alert(1)>";

/// A daemon with its destination.
struct Site {
    daemon: Daemon,
    destination: Destination,
    listening: Listening,
    set_up: String,
    folder: TempDir,
}

impl Site {
    async fn start() -> Self {
        let script = Script::with_mailboxes([
            "postmaster@example.com",
            "anna@example.com",
            "anna@file.example",
            "anna@other.example",
        ]);
        let destination = Destination::new(script);
        let listening = destination.listen().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = domain("file.example", listening.address());
        let config = configure(&folder, &format!("[callout]\ndeny_destinations = []\n{file}"));
        let mut daemon = Daemon::start(&config);
        let told = daemon.until("there is no account yet");
        let told = told["message"].as_str().unwrap().to_owned();
        let link = told.split_whitespace().find(|word| word.starts_with("http://")).unwrap();
        let set_up = link.split_once("/setup").map(|(_, key)| format!("/setup{key}")).unwrap();
        Self { daemon, destination, listening, set_up, folder }
    }

    fn browser(&self, look: Look) -> Browser {
        Browser::start(self.daemon.http, look)
    }

    /// Makes the first account; the browser is logged in then.
    fn set_up(&self, browser: &Browser) {
        browser.open(&self.set_up);
        browser.fill("account", "admin");
        browser.fill("password", PASSWORD);
        browser.fill("again", PASSWORD);
        browser.click("Make the account and log in");
        browser.sees("Add a domain");
    }

    /// A browser that is logged in with the first account.
    fn administrator(&self, look: Look) -> Browser {
        let browser = self.browser(look);
        self.set_up(&browser);
        browser
    }

    fn add_domain(&self, browser: &Browser, name: &str, callouts: &str) {
        browser.open("/domain/new");
        browser.fill("name", name);
        browser.fill("route", &self.listening.address().to_string());
        browser.choose("callouts", callouts);
        browser.click("Add the domain");
        browser.sees("is added and in force");
    }
}

/// An account that may see `example.com` and nothing else.
fn add_owner(browser: &Browser) {
    browser.open("/account/new");
    browser.fill("name", "owner");
    browser.choose("role", "domain");
    browser.fill("domains", "example.com");
    browser.fill("password", PASSWORD);
    browser.click("Add the account");
    browser.sees("The account owner is made.");
}

fn log_in(browser: &Browser, account: &str) {
    browser.open("/login");
    browser.fill("account", account);
    browser.fill("password", PASSWORD);
    browser.click("Log in");
    browser.sees("Log out");
}

/// From nothing to a refusal that was put right, by whoever sits before this kind of browser.
fn the_whole_story(site: &Site, browser: &Browser) {
    site.set_up(browser);
    site.add_domain(browser, "example.com", "enforce");
    browser.click("Test route");
    browser.sees("Route tested: all is in order");
    browser.sees("tells recipients apart");

    let mut postfix = site.daemon.client();
    assert!(postfix.ask("carol@example.com").starts_with("550 5.1.1"));
    browser.open("/recipients");
    browser.fill("address", "carol@example.com");
    browser.click("Check");
    browser.sees("carol@example.com refused");
    browser.sees("then the destination is asked again");

    site.destination.add_mailbox("carol@example.com");
    assert!(postfix.ask("carol@example.com").starts_with("550 5.1.1"), "still from the cache");
    browser.click("Clear from the cache");
    browser.sees("Clear carol@example.com from the cache?");
    browser.click("Clear from the cache");
    browser.sees("nothing learned before is used any more");
    assert_eq!(postfix.ask("carol@example.com"), "DUNNO");
    browser.open("/recipients/carol@example.com");
    browser.sees("carol@example.com accepted");
    browser.click("Ask the destination now");
    browser.sees("RCPT TO:<carol@example.com>");

    browser.open("/domains/example.com");
    browser.click("Clear callout cache");
    browser.sees("Clear the callout cache of example.com?");
    browser.click("Clear callout cache");
    browser.sees("The callout cache of example.com is cleared");
    browser.open("/audit");
    browser.sees("cache.clear");

    if browser.look.script {
        browser.open("/");
        browser.sees("Pause updates");
        assert!(postfix.ask("just-now@example.com").starts_with("550"));
        // Without loading the page again.
        browser.sees("just-now@example.com");
    }
    browser.click("Log out");
    browser.sees("Log in to Callahead");
    browser.open("/domains");
    browser.sees("Log in to Callahead");
    assert_eq!(browser.path(), "/login?next=%2Fdomains");
    browser.fill("account", "admin");
    browser.fill("password", "not the password at all");
    browser.click("Log in");
    browser.sees("do not fit");
    browser.fill("password", PASSWORD);
    browser.click("Log in");
    browser.sees("example.com");
    assert_eq!(browser.path(), "/domains", "it leads to where one wanted to go");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_browser_a_refusal_is_found_and_put_right_at_a_desk() {
    let site = Site::start().await;
    the_whole_story(&site, &site.browser(DESK));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_browser_a_refusal_is_found_and_put_right_on_a_phone() {
    let site = Site::start().await;
    let browser = site.browser(PHONE);
    the_whole_story(&site, &browser);
    for path in PAGES {
        browser.open(path);
        let beyond = browser.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth;");
        assert_eq!(beyond, 0, "{path} is wider than the phone");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_browser_a_refusal_is_found_and_put_right_without_a_script() {
    let site = Site::start().await;
    let browser = site.browser(Look { script: false, ..DESK });
    the_whole_story(&site, &browser);
    browser.open("/audit");
    browser.sees(" UTC");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_browser_times_are_shown_in_the_readers_zone_by_the_script() {
    let site = Site::start().await;
    let browser = site.administrator(DESK);
    browser.open("/audit");
    browser.sees("account.create");
    assert!(!browser.text().contains(" UTC"), "{}", browser.text());
    let titles =
        browser.run("return [...document.querySelectorAll('time')].every(time => time.title.endsWith(' UTC'));");
    assert_eq!(titles, true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_browser_a_domain_owner_sees_and_clears_what_is_theirs_and_nothing_else() {
    let site = Site::start().await;
    let browser = site.administrator(DESK);
    site.add_domain(&browser, "example.com", "enforce");
    site.add_domain(&browser, "other.example", "enforce");
    add_owner(&browser);

    // By the administrator in the owner's place first.
    browser.click("Log in as owner");
    browser.sees("you are logged in as owner");
    browser.click("Back to admin");
    browser.sees("Accounts");
    browser.open("/audit");
    browser.sees("session.log_in_as");
    browser.open("/accounts/owner");
    browser.click("Make a one-time login link");
    browser.sees("works once");
    let link = browser.run("return document.getElementById('secret').textContent;").as_str().unwrap().to_owned();
    browser.click("Log out");
    browser.sees("Log in to Callahead");

    // Then by the owner, through the link.
    browser.open(&link);
    browser.sees("Check a recipient");
    assert_eq!(browser.path(), "/recipients", "what an owner wants most");
    let mut postfix = site.daemon.client();
    for recipient in ["carol@example.com", "carol@other.example"] {
        assert!(postfix.ask(recipient).starts_with("550"), "{recipient}");
    }
    browser.open("/domains");
    browser.sees("1 domain");
    assert!(!browser.text().contains("other.example") && !browser.text().contains("file.example"));
    for path in ["/domains/other.example", "/recipients/carol@other.example", "/domains/other.example/cache"] {
        browser.open(path);
        browser.sees("There is nothing here by that name, or it is not yours.");
    }
    browser.open("/log");
    browser.sees("carol@example.com");
    assert!(!browser.text().contains("other.example"), "{}", browser.text());
    browser.open("/recipients/carol@example.com");
    browser.click("Clear from the cache");
    browser.click("Clear from the cache");
    browser.sees("carol@example.com is cleared");
    browser.open(&link);
    browser.sees("used already");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_browser_what_destinations_and_senders_write_is_text_and_never_markup() {
    let site = Site::start().await;
    site.destination.script().rcpt_replies.insert("evil@file.example".into(), HOSTILE.into());
    let browser = site.administrator(DESK);
    let mut postfix = site.daemon.client();
    assert!(postfix.ask("evil@file.example").starts_with("550"));
    postfix.ask("<script>alert(2)</script>");
    for path in ["/", "/log", "/recipients/evil@file.example", "/domains/file.example", "/domains/file.example/cache"] {
        browser.open(path);
        browser.sees("<script>document.title='owned'</script>");
        assert!(!browser.run("return document.title;").as_str().unwrap().contains("owned"), "{path}");
        assert_eq!(
            browser.run("return document.querySelectorAll('main script, main img[src=x]').length;"),
            0,
            "{path}"
        );
    }
    browser.open("/log?verdict=none");
    browser.sees("<script>alert(2)</script>");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_browser_a_recipient_is_checked_and_cleared_by_keyboard_alone() {
    let site = Site::start().await;
    let browser = site.administrator(DESK);
    browser.click("Log out");
    browser.sees("Log in to Callahead");
    assert!(site.daemon.client().ask("carol@file.example").starts_with("550"));

    browser.open("/login?next=/recipients");
    browser.focuses("account");
    browser.press(&format!("admin{TAB}{PASSWORD}{ENTER}"));
    browser.sees("Check a recipient");
    browser.focuses("address");
    browser.press(&format!("carol@file.example{ENTER}"));
    browser.sees("carol@file.example refused");
    browser.press(TAB);
    let focused = || browser.run("return document.activeElement.textContent.trim();").as_str().unwrap().to_owned();
    assert_eq!(focused(), "Skip to the content");
    browser.press(ENTER);
    let mut steps = 0;
    while focused() != "Clear from the cache" {
        browser.press(TAB);
        steps += 1;
        assert!(steps < 10, "the button is not reached from the content's beginning; the focus is on {:?}", focused());
    }
    browser.press(ENTER);
    browser.sees("Clear carol@file.example from the cache?");
    while focused() != "Clear from the cache" {
        browser.press(TAB);
        steps += 1;
        assert!(steps < 40, "the focus is on {:?}", focused());
    }
    browser.press(ENTER);
    browser.sees("carol@file.example is cleared");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_browser_what_needs_attention_is_shown_until_the_destination_shows_otherwise() {
    let site = Site::start().await;
    let browser = site.administrator(DESK);
    browser.open("/");
    browser.sees("All destinations that were asked answered properly.");
    site.destination.script().null_sender_reply = Some("550 5.7.1 No bounces here".into());
    let mut postfix = site.daemon.client();
    assert_eq!(postfix.ask("anna@file.example"), "DUNNO", "nothing was learned of the recipient");
    // By the live update, without loading the page again.
    browser.sees("refuses bounces");
    browser.sees("550 5.7.1 No bounces here");
    browser.open("/domains/file.example");
    browser.sees("Its administrator has to accept the null sender");

    site.destination.script().null_sender_reply = None;
    browser.click("Clear callout cache");
    browser.click("Clear callout cache");
    browser.sees("The callout cache of file.example is cleared");
    assert_eq!(postfix.ask("anna@file.example"), "DUNNO");
    browser.open("/");
    browser.sees("All destinations that were asked answered properly.");

    // One that greylists, until it lets this node pass.
    site.destination.script().greylist = Some(Duration::from_secs(3600));
    for n in 0..3 {
        assert!(postfix.ask(&format!("grey{n}@file.example")).starts_with("451"));
    }
    browser.sees("greylists us");
    browser.open("/domains/file.example");
    browser.sees("Have this server's address exempted from greylisting there.");
    browser.open("/domains");
    browser.sees("greylists us");
    site.destination.script().greylist = None;
    for n in 0..10 {
        assert!(postfix.ask(&format!("told-apart{n}@file.example")).starts_with("550"));
    }
    browser.open("/");
    browser.sees("All destinations that were asked answered properly.");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_browser_a_route_is_tested_step_by_step_and_a_relay_is_told_of() {
    let site = Site::start().await;
    let browser = site.administrator(DESK);
    site.destination.script().relays = true;
    site.destination.script().reply_delay = Duration::from_millis(400);
    browser.open("/domains/file.example");
    browser.click("Test route");
    browser.sees("The route is being tested");
    browser.sees("It takes the null sender.");
    let text = browser.text();
    assert!(!text.contains("relays for this server") && !text.contains("Route tested"), "it is not over yet: {text}");
    browser.sees("Route tested: not all is in order");
    browser.sees("It refuses postmaster, which every domain has to have");
    browser.sees("It accepts from this filtering server mail for other people's domains");
    browser.sees("relays for this server");
    let focused = browser.run("return document.activeElement.id;");
    assert_eq!(focused, "test", "whoever reads by keyboard or ear is led to what was found");
    assert_eq!(browser.run("return document.querySelector('[data-stream] button').textContent;"), "Test route");
    site.destination.assert_polite();

    // An answer that is no stream: the form is sent as it would be without a script, and a page says why.
    site.destination.script().reply_delay = Duration::ZERO;
    let is_refused = || browser.text().contains("Too many attempts");
    for _ in 0..30 {
        browser.open("/domains/file.example");
        browser.click("Test route");
        while !browser.text().contains("Route tested") && !is_refused() {}
        if is_refused() {
            break;
        }
    }
    browser.sees("Too many attempts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_browser_a_domain_is_observed_and_then_enforced() {
    let site = Site::start().await;
    let browser = site.administrator(DESK);
    site.add_domain(&browser, "example.com", "observe");
    let mut postfix = site.daemon.client();
    for _ in 0..3 {
        assert_eq!(postfix.ask("carol@example.com"), "DUNNO", "nothing is refused yet");
    }
    // The log is written a moment later.
    browser.open("/domains/example.com/observed");
    while !browser.text().contains("3 decisions") {
        browser.open("/domains/example.com/observed");
    }
    browser.sees("carol@example.com");
    browser.click("Enforce from now on");
    browser.sees("example.com is enforced from now on");
    assert!(postfix.ask("carol@example.com").starts_with("550 5.1.1"));
}

const PAGES: &[&str] = &[
    "/",
    "/recipients",
    "/recipients/anna@file.example",
    "/recipients/carol@file.example",
    "/recipients/carol@file.example/clear",
    "/domains",
    "/domain/new",
    "/domains/file.example",
    "/domains/file.example/cache",
    "/domains/file.example/clear",
    "/log",
    "/accounts",
    "/account/new",
    "/accounts/admin",
    "/tokens",
    "/audit",
    "/node",
    "/clear-everything",
    "/password",
    "/nothing-is-here",
];

/// Nothing that axe-core finds wrong, and a picture of each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_browser_axe_finds_nothing_wrong_on_any_page_in_light_in_dark_and_on_a_phone() {
    let site = Site::start().await;
    let browser = site.browser(DESK);
    let mut wrong = String::new();
    let check = |what: &str, wrong: &mut String| {
        for (name, look) in [("phone", PHONE), ("dark", Look { dark: true, ..DESK }), ("light", DESK)] {
            browser.wear(look);
            browser.screenshot(&format!("{name}-{what}"));
            let found = browser.violations(look.dark);
            if !found.is_empty() {
                wrong.push_str(&format!("=== {what}, {name}\n{found}\n"));
            }
        }
    };
    browser.open(&site.set_up);
    check("setup", &mut wrong);
    site.set_up(&browser);
    site.add_domain(&browser, "example.com", "observe");
    let mut postfix = site.daemon.client();
    for recipient in ["anna", "ben", "carol", "anna", "carol", "dora", "postmaster"] {
        for domain in ["file.example", "example.com"] {
            postfix.ask(&format!("{recipient}@{domain}"));
        }
    }
    // The log is written a moment later.
    browser.open("/log");
    while !browser.text().contains("dora@example.com") {
        browser.open("/log");
    }
    for path in PAGES {
        browser.open(path);
        let what = path.trim_matches('/').replace(['/', '@'], "-");
        check(if what.is_empty() { "overview" } else { &what }, &mut wrong);
    }
    browser.open("/domains/example.com/observed");
    check("observed", &mut wrong);
    browser.open("/domains/example.com/edit");
    check("domain-edit", &mut wrong);
    browser.open("/domains/example.com");
    check("domain-observed", &mut wrong);
    site.destination.script().relays = true;
    browser.click("Test route");
    browser.sees("Route tested");
    check("domain-tested", &mut wrong);
    site.destination.script().reply_delay = Duration::from_millis(500);
    browser.click("Test route");
    browser.sees("It greets");
    check("domain-being-tested", &mut wrong);
    site.destination.script().reply_delay = Duration::ZERO;
    browser.sees("Route tested");
    site.destination.script().greylist = Some(Duration::from_secs(3600));
    for n in 0..3 {
        postfix.ask(&format!("grey{n}@example.com"));
    }
    browser.open("/");
    browser.sees("greylists us");
    check("overview-alerts", &mut wrong);
    site.destination.script().greylist = None;
    let config = site.folder.path().join("callahead.toml");
    let good = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, good.replace("[listen]", "[lisen]")).unwrap();
    site.daemon.signal("HUP");
    browser.sees("The configuration can't be read again");
    check("overview-troubled", &mut wrong);
    browser.open("/recipients/carol@file.example");
    browser.click("Ask the destination now");
    browser.sees("RCPT TO");
    check("recipient-asked", &mut wrong);
    browser.open("/tokens");
    browser.fill("label", "Haraka on mx1");
    browser.click("Make the token");
    browser.sees("never again");
    check("token-made", &mut wrong);
    add_owner(&browser);
    browser.click("Log out");
    browser.sees("Log in to Callahead");
    check("login", &mut wrong);
    log_in(&browser, "owner");
    browser.open("/");
    browser.sees("Your domains, the last 24 hours.");
    check("overview-owner", &mut wrong);
    assert_eq!(wrong, "", "{wrong}");
}
