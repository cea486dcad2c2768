//! The web interface and the API over a month of decisions and a full cache: how long every page takes.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;

use super::Bench;
use crate::load::http::{Page, Place, Visitor};
use crate::load::names;
use crate::process;
use crate::report::{Section, Table, Verdict};
use crate::stats::{Spread, count, megabytes, number, real, time};
use crate::subject::{Callahead, RARE_CLIENT, RARE_RECIPIENT, RARE_SENDER, SIZE, SPAN, Setup, fill, fill_log};

/// Domains in the configuration, the log and the cache.
const DOMAINS: u64 = 2_000;
/// Octets of an export that are waited for: beyond its head.
const EXPORT: usize = 16_384;
/// Pages of one search that are followed at most.
const FOLLOWED: usize = 1_000;
/// What each page is to stay below, at the median.
const TARGET: Duration = Duration::from_millis(200);

/// Asks for every page.
///
/// # Errors
/// When the daemon fails, or a page is no success.
pub async fn run(bench: &Bench) -> anyhow::Result<Section> {
    let size = &bench.size;
    let mut section = Section::new("Pages");
    let more = format!("[log]\nsize = \"{}G\"\n", SIZE >> 30);
    let setup = Setup { domains: DOMAINS, more, ..Setup::new(&bench.folder.join("pages"), ([127, 0, 0, 1], 9).into()) };
    fill(&setup, size.kept).await?;
    let rate = fill_log(&setup.folder, size.logged, DOMAINS).await?;
    let file = std::fs::metadata(setup.folder.join("data/log.db"))?.len();
    let daemon = Callahead::start(&setup).await?;
    section.say(format!(
        "A daemon with {} domains, {} decisions of 30 days in its log ({} bytes a row, written at {} a second) and {} entries in its \
         cache. Each page is asked for {} times, one after another, over a connection of its own, with other names, times or \
         addresses each time where it takes any; *rare* is what {} of all decisions have. Milliseconds to the last octet; of an \
         export, to its first {} octets.",
        count(DOMAINS),
        count(size.logged),
        number(real(file) / real(size.logged)),
        number(rate),
        count(size.kept),
        size.asked,
        crate::subject::RARE,
        count(EXPORT as u64)
    ));
    let people = People::log_in(&setup, &daemon).await?;
    let mut table = Table::new(&["", "median", "worst"]);
    let mut slowest = (0.0, String::new());
    for (name, visitor, target, most) in people.pages() {
        let mut took = Vec::new();
        for turn in 0..size.asked {
            let target = target(turn as u64);
            let page = visitor.ask("GET", &target, "", "text/plain", most).await?;
            anyhow::ensure!(page.status == 200, "{target}: {}\n{}", page.head, page.body);
            took.push(page.took.as_nanos() as f64);
        }
        let spread = Spread::of(&took);
        if spread.median > slowest.0 {
            slowest = (spread.median, name.to_owned());
        }
        table.row([name.to_owned(), time(spread.median), time(spread.max)]);
    }
    section.show(table);
    section.say("Following `next` until there is nothing more that fits:");
    let mut table = Table::new(&["", "pages", "rows", "all of it", "slowest page"]);
    for (name, filter) in [
        ("a rare part of a recipient", "recipient=zwick"),
        ("a rare part of a sender", "sender=xylogr"),
        ("a rare recipient", &*format!("recipient={RARE_RECIPIENT}")),
        ("a rare client", &*format!("client={RARE_CLIENT}")),
        ("what is nowhere", "recipient=nowhere-to-be-found"),
    ] {
        let followed = follow(&people.api, filter).await?;
        let (pages, rows, all, worst) = followed;
        table.row([name.to_owned(), count(pages), count(rows), time(all), time(worst)]);
    }
    section.show(table);
    let memory = || process::anonymous(daemon.process()).unwrap_or_default();
    let (before, mut most) = (memory(), 0.0_f64);
    let began = Instant::now();
    let octets = people.root.drain("/log/export?format=csv", || most = most.max(memory())).await?;
    section.say(format!(
        "An export of all as CSV, up to its bound of 1,000,000 rows: {} in {}; anonymous memory of the daemon before it {}, at most {} \
         while it went on.",
        megabytes(real(octets)),
        time(began.elapsed().as_nanos() as f64),
        megabytes(before),
        megabytes(most.max(before)),
    ));
    section.verdicts.push(Verdict::new(
        &format!(
            "{} log rows, {} cache entries: the slowest page, at the median",
            count(size.logged),
            count(size.kept)
        ),
        "≤ 200 ms",
        format!("{} ({})", time(slowest.0), slowest.1),
        slowest.0 <= TARGET.as_nanos() as f64,
    ));
    daemon.kill().await?;
    Ok(section)
}

/// Pages, rows, nanoseconds for all, nanoseconds for the slowest.
async fn follow(api: &Visitor, filter: &str) -> anyhow::Result<(u64, u64, f64, f64)> {
    let (mut pages, mut rows, mut all, mut worst) = (0, 0, 0.0, 0.0_f64);
    let mut cursor = String::new();
    for _ in 0..FOLLOWED {
        let page = api.get(&format!("/api/v1/log?{filter}{cursor}")).await?;
        let took = page.took.as_nanos() as f64;
        (pages, all, worst) = (pages + 1, all + took, worst.max(took));
        let json = page.json()?;
        rows += json["rows"].as_array().map_or(0, Vec::len) as u64;
        match json["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    Ok((pages, rows, all, worst))
}

/// The administrator by pages and by the API, and the owner of three domains.
struct People {
    root: Visitor,
    api: Visitor,
    owner: Visitor,
    reseller: Visitor,
}

type Target = Box<dyn Fn(u64) -> String>;

impl People {
    async fn log_in(setup: &Setup, daemon: &Callahead) -> anyhow::Result<Self> {
        let admin = Visitor::new(Place::Unix(setup.folder.join("admin.sock")));
        let http = Visitor::new(Place::Tcp(daemon.address("http")?));
        let owned = [7, 90, 1200].map(names::domain);
        let password = "correct horse battery staple";
        let accounts = [
            json!({"name": "root", "role": "admin", "password": password}),
            json!({"name": "reseller", "role": "reseller", "password": password}),
            json!({"name": "owner", "role": "domain", "domains": owned, "password": password}),
        ];
        for account in &accounts {
            let made =
                admin.ask("POST", "/api/v1/accounts", &account.to_string(), "application/json", usize::MAX).await?;
            made.json()?;
        }
        let mine = json!({"name": "mine.example", "owner": "reseller", "route": ["mx"]}).to_string();
        admin.ask("POST", "/api/v1/domains", &mine, "application/json", usize::MAX).await?.json()?;
        let token = json!({"account": "root", "password": password}).to_string();
        let token = http.ask("POST", "/api/v1/session", &token, "application/json", usize::MAX).await?.json()?;
        let token = token["token"].as_str().context("a session without a token")?;
        let headers = format!("Authorization: Bearer {token}\r\n");
        let api = Visitor { headers, ..http.clone() };
        let mut browsers = Vec::new();
        for account in &accounts {
            let name = account["name"].as_str().unwrap_or_default();
            let form = format!("account={name}&password={}", password.replace(' ', "+"));
            let entered = http.ask("POST", "/login", &form, "application/x-www-form-urlencoded", usize::MAX).await?;
            let cookie = cookie(&entered).with_context(|| format!("{name} could not log in:\n{}", entered.head))?;
            browsers.push(Visitor { headers: format!("Cookie: {cookie}\r\n"), ..http.clone() });
        }
        let [root, reseller, owner] = browsers.try_into().ok().context("three were to log in")?;
        Ok(Self { root, api, owner, reseller })
    }

    /// Each with its name, who asks, what is asked for in each turn, and how much of it is read.
    fn pages(&self) -> Vec<(&'static str, &Visitor, Target, usize)> {
        let mut pages: Vec<(&'static str, &Visitor, Target, usize)> = Vec::new();
        let all = usize::MAX;
        let mut add = |name, visitor, target: Target| pages.push((name, visitor, target, all));
        let just = |target: &str| -> Target {
            let target = target.to_owned();
            Box::new(move |_| target.clone())
        };
        let root = &self.root;
        add("overview", root, just("/"));
        add("domains", root, just("/domains"));
        add("domains, by a part of their name", root, Box::new(|n| format!("/domains?search=d{n}")));
        add("a domain", root, Box::new(|n| format!("/domains/{}", names::domain(n * 97))));
        add("a domain's entries in the cache", root, Box::new(|n| format!("/domains/{}/cache", names::domain(n * 97))));
        add(
            "... by the beginning of their name",
            root,
            Box::new(|n| format!("/domains/{}/cache?search=u{n}", names::domain(n * 97))),
        );
        // The odd ones are observed.
        add(
            "a domain's observed decisions",
            root,
            Box::new(|n| format!("/domains/{}/observed", names::domain(2 * n + 1))),
        );
        add("a new domain's form", root, just("/domain/new"));
        add("a domain's form", root, just("/domains/mine.example/edit"));
        add("a recipient", root, Box::new(|n| format!("/recipients/u{}@{}", n * 2000, names::domain(0))));
        add("log", root, just("/log"));
        add("log, from the middle", root, Box::new(|n| format!("/log?cursor={}", cursor(n))));
        add("log, by domain", root, Box::new(|n| format!("/log?domain={}", names::domain(n * 97))));
        add(
            "... from the middle",
            root,
            Box::new(|n| format!("/log?domain={}&cursor={}", names::domain(n * 3), cursor(n))),
        );
        add(
            "log, by recipient",
            root,
            Box::new(|n| format!("/log?recipient=anna.adler{}%40{}", n % 4, names::domain(n))),
        );
        add("log, by a part of a recipient", root, Box::new(|n| format!("/log?recipient=a.bauer{}", n % 10)));
        add("... rare", root, just("/log?recipient=zwick"));
        add("... rare, from the middle", root, Box::new(|n| format!("/log?recipient=zwick&cursor={}", cursor(n))));
        add("... nowhere", root, just("/log?recipient=nowhere-to-be-found"));
        add("... of two characters", root, just("/log?recipient=zw"));
        add("log, by a part of a sender", root, Box::new(|n| format!("/log?sender=bauer-{n}%40")));
        add("... rare", root, just("/log?sender=xylogr"));
        add("log, by client", root, Box::new(|n| format!("/log?client=10.0.{n}.{n}")));
        add("... rare", root, just(&format!("/log?client={RARE_CLIENT}")));
        add("log, by verdict", root, just("/log?verdict=unknown"));
        add("... that none has", root, just("/log?verdict=none"));
        add("log, by time", root, Box::new(|n| format!("/log?since={}&until={}", day(n), day(n + 1))));
        add(
            "log, by domain, part, verdict and time",
            root,
            Box::new(|n| {
                let domain = names::domain(n * 3);
                format!("/log?domain={domain}&recipient=clara&verdict=invalid&since={}&until={}", day(n), day(n + 3))
            }),
        );
        add(
            "log, a rare sender in a large domain",
            root,
            just(&format!("/log?domain={}&sender={RARE_SENDER}", names::DOMAIN)),
        );
        add("overview of who has three domains", &self.owner, just("/"));
        add("log of who has three domains", &self.owner, just("/log"));
        add("... by a part of a recipient", &self.owner, just("/log?recipient=clara.fuchs1"));
        add("... by verdict", &self.owner, just("/log?verdict=unknown"));
        add("overview of a reseller without decisions", &self.reseller, just("/"));
        add("log of a reseller without decisions", &self.reseller, just("/log"));
        add("accounts", root, just("/accounts"));
        add("tokens", root, just("/tokens"));
        add("audit", root, just("/audit"));
        add("about this node", root, just("/node"));
        let api = &self.api;
        add("API: log", api, just("/api/v1/log?limit=1000"));
        add("API: cache", api, just("/api/v1/cache?limit=1000"));
        add("API: cache, by domain", api, Box::new(|n| format!("/api/v1/cache?domain={}", names::domain(n * 97))));
        add("API: cache, by state", api, just("/api/v1/cache?state=accept_all"));
        add("API: domains", api, just("/api/v1/domains?limit=1000"));
        add("API: counts by domain", api, just("/api/v1/stats/domains?limit=1000"));
        add("API: stats", api, just("/api/v1/stats"));
        add("API: audit", api, just("/api/v1/audit"));
        add("metrics", api, just("/metrics"));
        pages.push(("log export, as CSV", root, just("/log/export?format=csv"), EXPORT));
        pages.push(("... as JSON lines, by verdict", root, just("/log/export?format=jsonl&verdict=invalid"), EXPORT));
        pages
    }
}

fn cookie(page: &Page) -> Option<String> {
    let line = page.head.lines().find_map(|line| line.strip_prefix("set-cookie: "))?;
    Some(line.split(';').next()?.to_owned())
}

/// A place in the log's middle, another one in each turn.
fn cursor(turn: u64) -> String {
    let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default();
    let back = u64::try_from(SPAN.as_millis() / 2).unwrap_or_default();
    // Ids are times in milliseconds, shifted.
    ((now - back + turn * 60_000) << 20).to_string()
}

/// The beginning of a day of the log, from its first on.
fn day(number: u64) -> String {
    let begin = jiff::Timestamp::now() - SPAN;
    let at = begin + Duration::from_secs(number * 86_400);
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
