//! The ways in and what keeps others out: cookies, expiry, throttling, links, and requests from other sites.
#![allow(clippy::unwrap_used)]

mod common;
mod realm;
mod visitor;

use std::sync::OnceLock;
use std::time::Duration;

use callahead_control::Kind;
use callahead_web::{ABSOLUTE, HttpLimits, IDLE, LINK_FOR, Web, http_router, web_router};
use common::Bench;
use realm::{account, record};
use serde_json::json;
use visitor::{PASSWORD, World, login_form, web};

#[tokio::test]
async fn a_login_gives_a_new_secret_each_time_in_a_cookie_that_scripts_and_other_sites_do_not_get() {
    let world = World::new(false).await;
    let first = world.log_in("root", PASSWORD).await;
    assert_eq!((first.status, first.location()), (303, "/".to_owned()));
    let cookie = first.header("set-cookie").unwrap();
    for part in ["callahead=callahead_", "Path=/", "HttpOnly", "SameSite=Lax", "Max-Age=43200"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert_eq!(world.send(&first.cookie(), "GET", "/", "").await.status, 200);
    // A login over an old session ends that one.
    let form = login_form("root", PASSWORD);
    let second = world.send(&first.cookie(), "POST", "/login", &form).await;
    assert_ne!(first.cookie(), second.cookie());
    assert_eq!(world.send(&first.cookie(), "GET", "/", "").await.location(), "/login");
    assert_eq!(world.send(&second.cookie(), "GET", "/", "").await.status, 200);
    // And what is kept is not what the cookie says.
    let local = world.bench.administration.control.local();
    let kept: String =
        local.sessions().values().map(|session| serde_json::to_string(&session.value).unwrap()).collect();
    assert!(!kept.contains(second.cookie().split_once('=').unwrap().1));
}

#[tokio::test]
async fn behind_tls_the_cookie_is_bound_to_the_host_and_only_a_trusted_proxy_can_say_so() {
    let world = World::behind_a_proxy().await;
    let form = login_form("root", PASSWORD);
    let headers = &[
        ("Sec-Fetch-Site", "same-origin"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-For", "203.0.113.9, 198.51.100.7"),
    ];
    let answer = world.send_with("", "POST", "/login", &form, headers).await;
    let cookie = answer.header("set-cookie").unwrap();
    assert!(cookie.starts_with("__Host-callahead=callahead_") && cookie.ends_with("; Secure"), "{cookie}");
    let audit = world.send_with(&answer.cookie(), "GET", "/audit", "", headers).await;
    assert!(audit.body.contains("from 198.51.100.7"), "the last that is no proxy of ours: {}", audit.body);
    assert!(!audit.body.contains("203.0.113.9"), "what the client itself wrote there: {}", audit.body);

    let world = World::new(false).await;
    let answer = world.send_with("", "POST", "/login", &form, headers).await;
    assert!(answer.header("set-cookie").unwrap().starts_with("callahead="), "nobody is trusted here");
    let audit = world.send_with(&answer.cookie(), "GET", "/audit", "", headers).await;
    assert!(audit.body.contains("from 127.0.0.1"), "{}", audit.body);
}

#[tokio::test]
async fn a_session_ends_when_it_is_idle_and_when_it_is_old() {
    let world = World::new(false).await;
    let cookie = world.session("root").await;
    assert_eq!(world.send(&cookie, "GET", "/", "").await.status, 200);
    world.bench.clock.advance(IDLE - Duration::from_secs(1));
    assert_eq!(world.send(&cookie, "GET", "/", "").await.status, 200);
    world.bench.clock.advance(IDLE);
    assert_eq!(world.send(&cookie, "GET", "/", "").await.status, 303, "idle");

    let cookie = world.session("root").await;
    let mut age = Duration::ZERO;
    let step = IDLE / 2;
    while age < ABSOLUTE {
        assert_eq!(world.send(&cookie, "GET", "/", "").await.status, 200, "after {age:?}");
        world.bench.clock.advance(step);
        age += step;
    }
    assert_eq!(world.send(&cookie, "GET", "/", "").await.status, 303, "old, though never idle");
}

#[tokio::test]
async fn logging_out_and_any_change_of_the_account_end_its_sessions() {
    let world = World::new(false).await;
    let cookie = world.session("root").await;
    let out = world.send(&cookie, "POST", "/logout", "").await;
    assert!(out.header("set-cookie").unwrap().contains("Max-Age=0"));
    assert_eq!(world.send(&cookie, "GET", "/", "").await.status, 303);

    let (root, owner) = (world.session("root").await, world.session("d").await);
    assert_eq!(world.send(&owner, "GET", "/domains", "").await.status, 200);
    let form = "read_only=true&domains=r.example";
    assert_eq!(world.send(&root, "POST", "/accounts/d", form).await.status, 303);
    assert_eq!(world.send(&owner, "GET", "/domains", "").await.status, 303);
    assert_eq!(world.send(&root, "GET", "/domains", "").await.status, 200, "others' go on");
}

#[tokio::test]
async fn a_twenty_first_session_ends_the_oldest() {
    let world = World::new(false).await;
    let mut cookies = Vec::new();
    for _ in 0..21 {
        world.bench.clock.advance(Duration::from_millis(1));
        cookies.push(world.log_in("root", PASSWORD).await.cookie());
    }
    assert_eq!(world.send(&cookies[0], "GET", "/", "").await.status, 303);
    assert_eq!(world.send(&cookies[1], "GET", "/", "").await.status, 200);
    assert_eq!(world.bench.administration.control.local().sessions().len(), 20);
    let owner = world.session("d").await;
    for _ in 0..21 {
        world.bench.clock.advance(Duration::from_millis(1));
        assert_eq!(world.send(&cookies[20], "POST", "/accounts/d/link", "").await.status, 303);
    }
    assert_eq!(world.send(&owner, "GET", "/domains", "").await.status, 200, "links are counted apart");
    assert_eq!(world.bench.administration.control.local().sessions().len(), 41);
}

#[tokio::test]
async fn a_new_password_needs_the_old_one_and_ends_the_other_sessions() {
    let world = World::new(false).await;
    let (here, elsewhere) = (world.session("d").await, world.session("d").await);
    let api = world.bench.beside(http_router).await;
    let login = json!({"account": "d", "password": PASSWORD});
    let given = api.call("", "POST", "/api/v1/session", Some(&login)).await.created();
    let by_password = given["token"].as_str().unwrap();
    api.call(by_password, "GET", "/api/v1/domains", None).await.ok();
    let wrong = world
        .send(&here, "POST", "/password", "current=wrong&password=another+long+password&again=another+long+password")
        .await;
    assert_eq!(wrong.status, 422);
    let current = PASSWORD.replace(' ', "+");
    let short = world.send(&here, "POST", "/password", &format!("current={current}&password=short&again=short")).await;
    assert!(short.body.contains("at least 15 characters"), "{}", short.body);
    let form = format!("current={current}&password=another+long+password&again=another+long+password");
    let changed = world.send(&here, "POST", "/password", &form).await;
    assert_eq!(changed.status, 303, "{}", changed.body);
    assert_eq!(world.send(&elsewhere, "GET", "/domains", "").await.status, 303);
    assert_eq!(world.send(&changed.cookie(), "GET", "/domains", "").await.status, 200);
    api.call(by_password, "GET", "/api/v1/domains", None).await.problem(401);
    assert_eq!(world.log_in("d", PASSWORD).await.status, 422);
    assert_eq!(world.log_in("d", "another long password").await.status, 303);
}

#[tokio::test]
async fn after_ten_failures_even_the_right_password_has_to_wait() {
    let world = World::new(false).await;
    for n in 0..10 {
        assert_eq!(world.log_in("root", "wrong").await.status, 422, "{n}");
    }
    let answer = world.log_in("root", PASSWORD).await;
    assert_eq!(answer.status, 429);
    assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    assert_eq!(world.log_in("d", PASSWORD).await.status, 429, "the address is the same");
    let guess = world.send("", "POST", "/login/link", "key=callahead_guess").await;
    assert_eq!(guess.status, 429, "a link's too");
}

#[tokio::test]
async fn whoever_guesses_from_many_places_waits_at_the_account_and_whoever_guesses_links_at_the_address() {
    let world = World::behind_a_proxy().await;
    let ask = async |from: &str, target: &str, form: &str| {
        let headers = &[("Sec-Fetch-Site", "same-origin"), ("X-Forwarded-For", from)];
        world.send_with("", "POST", target, form, headers).await.status
    };
    for n in 0..10 {
        assert_eq!(ask(&format!("198.51.100.{n}"), "/login", "account=root&password=wrong").await, 422, "{n}");
    }
    assert_eq!(ask("198.51.100.99", "/login", &login_form("root", PASSWORD)).await, 429, "the account is the same");
    assert_eq!(ask("198.51.100.99", "/login", &login_form("d", PASSWORD)).await, 303);
    for n in 0..10 {
        assert_eq!(ask("203.0.113.1", "/login/link", &format!("key=callahead_{n}")).await, 410, "{n}");
    }
    assert_eq!(ask("203.0.113.1", "/login/link", "key=callahead_10").await, 429);
}

#[tokio::test]
async fn guesses_of_the_present_password_have_to_wait_too_and_whoever_stands_in_may_not_change_it() {
    let world = World::new(false).await;
    let owner = world.session("d").await;
    let root = world.session("root").await;
    let acting = world.send(&root, "POST", "/accounts/d/log-in", "").await.cookie();
    let form = |current: &str| format!("current={current}&password=another+long+password&again=another+long+password");
    let right = form(&PASSWORD.replace(' ', "+"));
    assert_eq!(world.send(&acting, "POST", "/password", &right).await.status, 403);
    let other = right.replace("again=another", "again=one");
    assert_eq!(world.send(&owner, "POST", "/password", &other).await.status, 422, "not the same twice");
    for n in 0..10 {
        assert_eq!(world.send(&owner, "POST", "/password", &form("wrong")).await.status, 422, "{n}");
    }
    assert_eq!(world.send(&owner, "POST", "/password", &right).await.status, 429);
}

#[tokio::test]
async fn of_guesses_at_the_same_time_no_more_are_looked_at_than_one_after_another() {
    let owner_guesses =
        |n: usize| format!("current=wrong+{n}&password=another+long+password&again=another+long+password");
    for target in ["/login", "/password", "/login/link", "/api/v1/session"] {
        let world = World::new(false).await;
        let owner = world.session("d").await;
        let api = world.bench.beside(http_router).await;
        let guess = async |n: usize| match target {
            "/login" => world.log_in("d", &format!("wrong {n}")).await.status,
            "/password" => world.send(&owner, "POST", target, &owner_guesses(n)).await.status,
            "/login/link" => world.send("", "POST", target, &format!("key=callahead_{n}")).await.status,
            _ => {
                let body = json!({"account": "d", "password": format!("wrong {n}")});
                api.call("", "POST", target, Some(&body)).await.status
            }
        };
        let statuses = futures_util::future::join_all((0..40).map(guess)).await;
        let looked_at = statuses.iter().filter(|status| **status != 429).count();
        // One more for each 6 s that this takes.
        assert!((10..=13).contains(&looked_at), "{target}: {looked_at} of {statuses:?}");
    }
}

#[tokio::test]
async fn whoever_logs_in_rightly_never_waits() {
    let world = World::new(false).await;
    for n in 0..15 {
        assert_eq!(world.log_in("d", PASSWORD).await.status, 303, "{n}");
    }
}

#[tokio::test]
async fn an_account_that_does_not_exist_is_told_as_a_wrong_password_is() {
    let world = World::new(false).await;
    let (nobody, wrong) = (world.log_in("nobody", PASSWORD).await, world.log_in("root", "wrong").await);
    assert_eq!(nobody.status, wrong.status);
    assert_eq!(nobody.body.replace("nobody", "root"), wrong.body);
}

#[tokio::test]
async fn a_login_link_works_once_and_for_five_minutes_and_looking_at_it_does_not_use_it_up() {
    let world = World::new(false).await;
    let root = world.session("root").await;
    let link = async || {
        let made = world.send(&root, "POST", "/accounts/d/link", "").await;
        let page = world.send(&root, "GET", &made.location(), "").await;
        page.body.split("/login/link?key=").nth(1).unwrap().split('<').next().unwrap().to_owned()
    };
    let key = link().await;
    assert_eq!(world.send("", "GET", &format!("/login/link?key={key}"), "").await.status, 200);
    let taken = world.send("", "POST", "/login/link", &format!("key={key}")).await;
    assert_eq!((taken.status, taken.location()), (303, "/recipients".to_owned()));
    let page = world.send(&taken.cookie(), "GET", "/domains", "").await;
    assert!(page.body.contains(">d</a>"), "{}", page.body);
    assert_eq!(world.send("", "POST", "/login/link", &format!("key={key}")).await.status, 410, "used");
    for _ in 0..5 {
        let form = format!("key={}", link().await);
        let take = async || world.send("", "POST", "/login/link", &form).await.status;
        let (one, other) = tokio::join!(take(), take());
        assert_eq!((one.min(other), one.max(other)), (303, 410), "at the same moment");
    }
    // The link's secret is no session's.
    let key = link().await;
    assert_eq!(world.send(&format!("callahead={key}"), "GET", "/domains", "").await.status, 303);
    world.bench.clock.advance(LINK_FOR);
    assert_eq!(world.send("", "POST", "/login/link", &format!("key={key}")).await.status, 410, "too old");
}

#[tokio::test]
async fn whoever_logs_in_as_somebody_is_named_in_the_head_and_in_the_audit_log() {
    let world = World::new(false).await;
    let root = world.session("root").await;
    let acting = world.send(&root, "POST", "/accounts/d/log-in", "").await.cookie();
    let page = world.send(&acting, "GET", "/domains", "").await;
    assert!(page.body.contains("<strong>root</strong>, you are logged in as <strong>d</strong>"), "{}", page.body);
    world.send(&acting, "POST", "/recipients/kept@r.example/clear", "").await;
    let back = world.send(&acting, "POST", "/back", "").await.cookie();
    let audit = world.send(&back, "GET", "/audit", "").await.body;
    assert!(audit.contains("session.log_in_as") && audit.contains("root as d"), "{audit}");
    assert_eq!(world.send(&acting, "GET", "/domains", "").await.status, 303, "that session is over");
    // Nobody acts for somebody whom they are no longer above.
    let r = world.session("r").await;
    let acting = world.send(&r, "POST", "/accounts/d/log-in", "").await.cookie();
    assert_eq!(world.send(&acting, "GET", "/domains", "").await.status, 200);
    let mut reseller = account("r", callahead_control::Role::Reseller, None, &[]);
    reseller.read_only = true;
    let change = record(Kind::Account, "r", &reseller);
    world.bench.administration.control.apply(vec![change], vec![], world.bench.engine.now()).await.unwrap();
    assert_eq!(world.send(&acting, "GET", "/domains", "").await.status, 303);
}

#[tokio::test]
async fn a_new_password_ends_what_was_begun_as_somebody_else_and_there_is_no_way_back_from_it() {
    let world = World::new(false).await;
    let root = world.session("root").await;
    let acting = world.send(&root, "POST", "/accounts/d/log-in", "").await.cookie();
    let other = world.session("root").await;
    let current = PASSWORD.replace(' ', "+");
    let form = format!("current={current}&password=another+long+password&again=another+long+password");
    assert_eq!(world.send(&other, "POST", "/password", &form).await.status, 303);
    assert_eq!(world.send(&acting, "GET", "/", "").await.location(), "/login");
    let back = world.send(&acting, "POST", "/back", "").await;
    assert_eq!((back.location(), back.cookie()), ("/login".to_owned(), String::new()));
}

#[tokio::test]
async fn whoever_logs_in_as_somebody_and_goes_back_does_not_begin_the_twelve_hours_anew() {
    let world = World::new(false).await;
    let mut cookie = world.session("root").await;
    let step = IDLE / 2;
    let mut age = Duration::ZERO;
    for turn in 0.. {
        world.bench.clock.advance(step);
        age += step;
        let target = if turn % 2 == 0 { "/accounts/d/log-in" } else { "/back" };
        let answer = world.send(&cookie, "POST", target, "").await;
        if age >= ABSOLUTE {
            assert_eq!((answer.location(), answer.cookie()), ("/login".to_owned(), String::new()), "after {age:?}");
            break;
        }
        assert_eq!(answer.status, 303);
        let lasts = format!("Max-Age={}", (ABSOLUTE - age).as_secs());
        assert!(answer.header("set-cookie").unwrap().ends_with(&lasts), "{}", answer.head);
        cookie = answer.cookie();
    }
}

#[tokio::test]
async fn a_form_of_another_site_changes_nothing() {
    let world = World::new(false).await;
    let cookie = world.session("root").await;
    for header in [
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "same-site"),
        ("Origin", "https://evil.example"),
        ("Origin", "null"),
    ] {
        let answer = world.send_with(&cookie, "POST", "/clear-everything", "word=everything", &[header]).await;
        assert_eq!(answer.status, 403, "{header:?}");
    }
    assert_eq!(world.bench.engine.cache().stats(None).unwrap().valid, 2);
    let here = &[("Origin", "http://localhost")];
    let answer = world.send_with(&cookie, "POST", "/clear-everything", "word=everything", here).await;
    assert_eq!(answer.status, 303);
}

#[tokio::test]
async fn every_answer_forbids_what_is_inline_or_from_elsewhere_and_is_kept_by_nobody() {
    let world = World::new(false).await;
    let cookie = world.session("root").await;
    for path in ["/login", "/", "/log", "/domains/r.example", "/domains/nothing.example", "/setup?key=x"] {
        let answer = world.send(&cookie, "GET", path, "").await;
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        for inline in [" style=\"", " onclick=", "<style", "<script>", "http://", "https://"] {
            assert!(!answer.body.contains(inline), "{path} has {inline}");
        }
    }
}

#[tokio::test]
async fn the_set_up_link_makes_one_administrator_and_nothing_after_that() {
    static WEB: OnceLock<Web> = OnceLock::new();
    let bench = Bench::start_tcp(
        |state| {
            let web = WEB.get_or_init(web);
            assert!(web.set_up_path(&state).is_some());
            web_router(state, web.clone())
        },
        HttpLimits::default(),
    )
    .await;
    let headers = [("Content-Type", "application/x-www-form-urlencoded"), ("Sec-Fetch-Site", "same-origin")];
    let form = |key: &str| format!("key={key}&account=chief&password=a+long+password+here&again=a+long+password+here");
    for wrong in ["", "x", "callahead_"] {
        assert_eq!(bench.send("POST", "/setup", &headers, &form(wrong)).await.status, 410, "{wrong:?}");
    }
    let key = WEB.get().unwrap().set_up_path(&bench.state()).unwrap().split_once('=').unwrap().1.to_owned();
    assert_eq!(bench.get(&format!("/setup?key={key}")).await.status, 200);
    let short = form(&key).replace("a+long+password+here", "short");
    assert_eq!(bench.send("POST", "/setup", &headers, &short).await.status, 422);
    let other = form(&key).replace("again=a", "again=b");
    assert_eq!(bench.send("POST", "/setup", &headers, &other).await.status, 422, "not the same twice");
    // A full disk, say: the link is as good as before once there is room again.
    let database = rusqlite::Connection::open(bench.folder.path().join("control.db")).unwrap();
    database.execute_batch("ALTER TABLE audit RENAME TO away").unwrap();
    assert_eq!(bench.send("POST", "/setup", &headers, &form(&key)).await.status, 500);
    database.execute_batch("ALTER TABLE away RENAME TO audit").unwrap();
    let second = form(&key).replace("chief", "second");
    let chief = form(&key);
    let (one, other) =
        tokio::join!(bench.send("POST", "/setup", &headers, &chief), bench.send("POST", "/setup", &headers, &second));
    let made = if one.status == 303 { "chief" } else { "second" };
    assert_eq!((one.status.min(other.status), one.status.max(other.status)), (303, 410), "at the same moment");
    assert_eq!(bench.send("POST", "/setup", &headers, &form(&key)).await.status, 410, "used");
    let accounts: Vec<_> = bench.administration.control.local().accounts().keys().cloned().collect();
    assert_eq!(accounts, [made]);
    assert_eq!(WEB.get().unwrap().set_up_path(&bench.state()), None);
}
