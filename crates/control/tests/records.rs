//! Records, their revisions, the audit log, and who owns what.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use callahead_cache::{Cache, Options, RecipientState, Record, Timestamp};
use callahead_callout::{Ask, BoxFuture, Report, Request, Route, TlsPolicy};
use callahead_control::{
    Account, Actor, AuditEntry, Change, Control, ControlError, DecisionLog, DomainSpec, Domains, Expected, Kind,
    LogSettings, Passwords, Permission, Principal, Role, Session, Token,
};
use callahead_engine::{Directory, DomainConfig, Engine, LogObserver, Parts, Policy, Settings, TestClock};
use callahead_smtp::Recipient;
use tempfile::TempDir;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn open(dir: &TempDir) -> Control {
    Control::open(&dir.path().join("control.db")).unwrap()
}

fn spec(name: &str) -> DomainSpec {
    DomainSpec { name: name.into(), route: vec!["mail.example.net".into()], ..DomainSpec::default() }
}

fn put(name: &str, expected: Expected) -> Change {
    let body = Some(serde_json::to_string(&spec(name)).unwrap());
    Change { kind: Kind::Domain, key: name.into(), expected, body }
}

fn entry(action: &str) -> AuditEntry {
    AuditEntry::new(Actor { who: "root".into(), from: "192.0.2.1".into() }, action, "a.example")
}

fn account(name: &str, role: Role, owner: Option<&str>, domains: &[&str]) -> Account {
    let domains = domains.iter().map(|domain| (*domain).to_owned()).collect();
    Account { owner: owner.map(str::to_owned), domains, ..Account::new(name, role) }
}

fn principal(account: &Account, scopes: &[Permission]) -> Principal {
    let (token, _) = Token::create(&account.name, "", scopes.to_vec(), NOW, None);
    Principal::by_token(account.clone(), &token)
}

#[tokio::test]
async fn a_change_that_cannot_be_written_is_refused_and_told_of_until_one_can() {
    let dir = TempDir::new().unwrap();
    let control = open(&dir);
    let file = rusqlite::Connection::open(dir.path().join("control.db")).unwrap();
    file.execute_batch("ALTER TABLE audit RENAME TO elsewhere").unwrap();
    let apply =
        async || control.apply(vec![put("a.example", Expected::Anything)], vec![entry("domain.create")], NOW).await;
    assert_eq!(control.write_error(), None);
    assert!(matches!(apply().await, Err(ControlError::Write(_))));
    assert!(control.write_error().unwrap().contains("no such table"), "{:?}", control.write_error());
    assert_eq!(control.local().domains().len(), 0, "all of it or nothing");
    file.execute_batch("ALTER TABLE elsewhere RENAME TO audit").unwrap();
    apply().await.unwrap();
    assert_eq!(control.write_error(), None);
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart_and_revisions_only_rise() {
    let dir = TempDir::new().unwrap();
    let control = open(&dir);
    let first = control.apply(vec![put("a.example", Expected::Nothing)], vec![entry("create")], NOW).await.unwrap();
    let second = control.apply(vec![put("b.example", Expected::Nothing)], vec![], NOW).await.unwrap();
    assert!(second > first);
    let delete = Change { kind: Kind::Domain, key: "b.example".into(), expected: Expected::Anything, body: None };
    let third = control.apply(vec![delete], vec![], NOW).await.unwrap();
    assert!(third > second);
    drop(control);
    let control = open(&dir);
    let names: Vec<String> = control.local().domains().keys().cloned().collect();
    assert_eq!(names, ["a.example"]);
    assert_eq!(control.local().domains()["a.example"].revision, first);
    let again = control.apply(vec![put("b.example", Expected::Nothing)], vec![], NOW).await.unwrap();
    assert!(again > third, "a revision is never used twice, a deleted record's neither");
}

#[tokio::test]
async fn a_change_that_expects_what_is_not_there_changes_nothing_at_all() {
    let dir = TempDir::new().unwrap();
    let control = open(&dir);
    let revision = control.apply(vec![put("a.example", Expected::Nothing)], vec![], NOW).await.unwrap();
    let exists = control.apply(vec![put("a.example", Expected::Nothing)], vec![entry("x")], NOW).await.unwrap_err();
    assert!(matches!(exists, ControlError::Exists { .. }), "{exists}");
    let both = vec![put("new.example", Expected::Nothing), put("a.example", Expected::Revision(revision + 7))];
    let changed = control.apply(both, vec![entry("x")], NOW).await.unwrap_err();
    assert!(matches!(changed, ControlError::Changed { found: Some(found), .. } if found == revision), "{changed}");
    assert!(!control.local().domains().contains_key("new.example"), "all of it or nothing");
    assert!(control.audit(Principal::socket(), None, 10).await.unwrap().entries.is_empty(), "nor a word in the log");
    control.apply(vec![put("a.example", Expected::Revision(revision))], vec![], NOW).await.unwrap();
}

#[tokio::test]
async fn a_change_that_rests_on_what_was_changed_or_removed_meanwhile_is_not_made() {
    let dir = TempDir::new().unwrap();
    let control = open(&dir);
    let record =
        |kind, key: &str, body: Option<String>| Change { kind, key: key.into(), expected: Expected::Anything, body };
    let root = account("root", Role::Admin, None, &[]);
    let (token, _) = Token::create("root", "", Permission::ALL.to_vec(), NOW, None);
    let put_root = || record(Kind::Account, "root", serde_json::to_string(&root).ok());
    let put_token = record(Kind::Token, &token.id, serde_json::to_string(&token).ok());
    let at = control.apply(vec![put_root(), put_token], vec![], NOW).await.unwrap();
    let rests_on = |at| Principal::by_token(root.clone(), &token).as_of(at).stands_on();
    let try_at = async |at: u64| {
        let change = put("a.example", Expected::Anything);
        control.apply_while(rests_on(at), vec![change], vec![entry("x")], NOW).await
    };
    try_at(at).await.unwrap();
    let later = control.apply(vec![put_root()], vec![], NOW).await.unwrap();
    let withdrawn = try_at(at).await.unwrap_err();
    assert!(matches!(withdrawn, ControlError::Withdrawn { kind: Kind::Account, .. }), "{withdrawn}");
    try_at(later).await.unwrap();
    let gone = control.apply(vec![record(Kind::Token, &token.id, None)], vec![], NOW).await.unwrap();
    let withdrawn = try_at(gone).await.unwrap_err();
    assert!(matches!(withdrawn, ControlError::Withdrawn { kind: Kind::Token, .. }), "{withdrawn}");
    assert_eq!(
        control.audit(Principal::socket(), None, 10).await.unwrap().entries.len(),
        2,
        "nor is there a word of it"
    );
}

#[tokio::test]
async fn nothing_has_an_owner_that_is_not_there_and_an_account_takes_what_lets_it_in_along() {
    let dir = TempDir::new().unwrap();
    let control = open(&dir);
    let record =
        |kind, key: &str, body: Option<String>| Change { kind, key: key.into(), expected: Expected::Anything, body };
    let put_account = |account: &Account| record(Kind::Account, &account.name, serde_json::to_string(account).ok());
    let owned = DomainSpec { owner: Some("r".into()), ..spec("a.example") };
    let owned = || record(Kind::Domain, "a.example", serde_json::to_string(&owned).ok());
    let refused = control.apply(vec![owned()], vec![], NOW).await.unwrap_err();
    assert!(matches!(refused, ControlError::NoOwner { .. }), "{refused}");
    let (token, _) = Token::create("r", "", vec![Permission::Read], NOW, None);
    let (session, _) = Session::create("d", Some("r"), false, NOW, Timestamp(NOW.0 + 1));
    let lets_in = vec![
        put_account(&account("r", Role::Reseller, None, &[])),
        put_account(&account("d", Role::Domain, None, &[])),
        owned(),
        record(Kind::Token, &token.id, serde_json::to_string(&token).ok()),
        record(Kind::Session, &session.id, serde_json::to_string(&session).ok()),
    ];
    control.apply(lets_in, vec![], NOW).await.unwrap();
    let refused = control.apply(vec![record(Kind::Account, "r", None)], vec![], NOW).await.unwrap_err();
    assert!(matches!(refused, ControlError::Owns { .. }), "{refused}");
    let both = vec![record(Kind::Domain, "a.example", None), record(Kind::Account, "r", None)];
    control.apply(both, vec![], NOW).await.unwrap();
    let local = control.local();
    assert_eq!((local.tokens().len(), local.sessions().len(), local.accounts().len()), (0, 0, 1));
}

#[tokio::test]
async fn whoever_follows_has_a_change_before_it_is_acknowledged() {
    let dir = TempDir::new().unwrap();
    let control = open(&dir);
    let seen = Arc::new(AtomicU64::new(0));
    let follower = Arc::clone(&seen);
    control.set_follower(move |local| follower.store(local.revision(), Ordering::SeqCst));
    let revisions = control.subscribe();
    for n in 0..20 {
        let change = put(&format!("d{n}.example"), Expected::Nothing);
        let revision = control.apply(vec![change], vec![], NOW).await.unwrap();
        assert_eq!(seen.load(Ordering::SeqCst), revision);
        assert_eq!(*revisions.borrow(), revision);
    }
}

#[tokio::test]
async fn changes_from_many_sides_end_in_one_order_without_loss() {
    let dir = TempDir::new().unwrap();
    let control = open(&dir);
    control.apply(vec![put("a.example", Expected::Nothing)], vec![], NOW).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let control = control.clone();
        tasks.spawn(async move {
            let mut won = 0;
            while won < 5 {
                let revision = control.local().revision_of(Kind::Domain, "a.example").unwrap();
                let change = put("a.example", Expected::Revision(revision));
                won += u32::from(control.apply(vec![change], vec![entry("change")], NOW).await.is_ok());
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let audit = control.audit(Principal::socket(), None, 1000).await.unwrap();
    assert_eq!(audit.entries.len(), 40, "one entry for each change that was made, and none for one that was not");
}

#[tokio::test]
async fn the_audit_log_has_pages_and_shows_each_their_own() {
    let dir = TempDir::new().unwrap();
    let control = open(&dir);
    let about = |action: &str, domain: &str, owner: Option<&str>| entry(action).about(domain, owner);
    for n in 0..5 {
        control.apply(vec![], vec![about(&format!("r{n}"), "r.example", Some("reseller"))], NOW).await.unwrap();
        control.apply(vec![], vec![about(&format!("o{n}"), "o.example", Some("other"))], NOW).await.unwrap();
    }
    let actions = |page: &callahead_control::AuditPage| -> Vec<String> {
        page.entries.iter().map(|entry| entry.action.clone()).collect()
    };
    let reseller = principal(&account("reseller", Role::Reseller, None, &[]), &Permission::ALL);
    let page = control.audit(reseller.clone(), None, 3).await.unwrap();
    assert_eq!(actions(&page), ["r4", "r3", "r2"]);
    let page = control.audit(reseller, page.next, 3).await.unwrap();
    assert_eq!((actions(&page), page.next), (vec!["r1".into(), "r0".into()], None));
    let domain = principal(&account("d", Role::Domain, None, &["o.example"]), &Permission::ALL);
    assert_eq!(control.audit(domain, None, 10).await.unwrap().entries.len(), 5);
    assert_eq!(control.audit(Principal::socket(), None, 100).await.unwrap().entries.len(), 10);
}

#[tokio::test]
async fn a_token_is_found_by_its_secret_and_the_file_does_not_hold_it() {
    let dir = TempDir::new().unwrap();
    let control = open(&dir);
    let root = account("root", Role::Admin, None, &[]);
    let (token, secret) = Token::create("root", "test", Permission::ALL.to_vec(), NOW, Some(Timestamp(NOW.0 + 1000)));
    let record =
        |kind, key: &str, body| Change { kind, key: key.into(), expected: Expected::Nothing, body: Some(body) };
    let changes = vec![
        record(Kind::Account, "root", serde_json::to_string(&root).unwrap()),
        record(Kind::Token, &token.id, serde_json::to_string(&token).unwrap()),
    ];
    control.apply(changes, vec![], NOW).await.unwrap();
    assert_eq!(secret.reveal().len(), "callahead_".len() + 64, "256 bits");
    {
        let local = control.local();
        let (found, account) = local.find_token(&secret.digest()).unwrap();
        assert_eq!((found.id.as_str(), account.name.as_str()), (token.id.as_str(), "root"));
        assert!(found.is_good_at(NOW) && !found.is_good_at(Timestamp(NOW.0 + 1000)));
    }
    control.token_used(&token.id, NOW, "192.0.2.7");
    control.keep_uses();
    control.apply(vec![], vec![], NOW).await.unwrap();
    let file = rusqlite::Connection::open(dir.path().join("control.db")).unwrap();
    assert_eq!(file.execute("DELETE FROM token_use", []), Ok(1));
    control.keep_uses();
    control.apply(vec![], vec![], NOW).await.unwrap();
    assert_eq!(file.execute("DELETE FROM token_use", []), Ok(0), "nothing has changed, so nothing is written");
    let later = Timestamp(NOW.0 + 1);
    control.token_used(&token.id, later, "192.0.2.7");
    control.keep_uses();
    drop((control, file));
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let octets = std::fs::read(file.unwrap().path()).unwrap();
        let secret = secret.reveal().as_bytes();
        assert!(!octets.windows(secret.len()).any(|window| window == secret));
    }
    let control = open(&dir);
    assert_eq!(control.last_use(&token.id), Some((later, "192.0.2.7".into())));
    let delete = Change { kind: Kind::Token, key: token.id.clone(), expected: Expected::Anything, body: None };
    control.apply(vec![delete], vec![], NOW).await.unwrap();
    assert!(control.local().find_token(&secret.digest()).is_none());
}

#[test]
fn a_file_of_a_newer_version_is_left_alone() {
    let dir = TempDir::new().unwrap();
    drop(open(&dir));
    let path = dir.path().join("control.db");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let error = Control::open(&path).unwrap_err().to_string();
    assert!(error.contains("newer version") && error.contains("format 99"), "{error}");
}

#[test]
fn roles_own_what_is_theirs_and_scopes_narrow_it() {
    let reseller = account("r", Role::Reseller, None, &[]);
    let other = account("o", Role::Reseller, None, &[]);
    let domain = account("d", Role::Domain, Some("r"), &["a.example"]);
    let all = &Permission::ALL;
    let by = |account: &Account| principal(account, all);
    assert!(by(&reseller).owns_domain("a.example", Some("r")) && !by(&other).owns_domain("a.example", Some("r")));
    assert!(!by(&reseller).owns_domain("a.example", None), "what belongs to the administrators is not a reseller's");
    assert!(by(&domain).owns_domain("a.example", Some("r")) && !by(&domain).owns_domain("b.example", Some("r")));
    assert!(!by(&domain).owns_domain("a.example", Some("o")), "a name that went to another reseller went with it");
    assert!(
        by(&reseller).owns_account(&domain) && !by(&other).owns_account(&domain) && by(&domain).owns_account(&domain)
    );
    assert!(!by(&domain).owns_account(&reseller));
    for permission in Permission::ALL {
        let read_only = Account { read_only: true, ..account("x", Role::Admin, None, &[]) };
        let only_looks = matches!(permission, Permission::Read | Permission::Check | Permission::Node);
        assert_eq!(by(&read_only).may(permission), only_looks, "{permission:?}");
        assert_eq!(
            principal(&account("x", Role::Admin, None, &[]), &[Permission::Clear]).may(permission),
            permission == Permission::Clear
        );
        let of_domain =
            !matches!(permission, Permission::Domains | Permission::Accounts | Permission::Node | Permission::ClearAll);
        assert_eq!(by(&domain).may(permission), of_domain, "{permission:?}");
        assert_eq!(
            by(&reseller).may(permission),
            !matches!(permission, Permission::Node | Permission::ClearAll),
            "{permission:?}"
        );
    }
}

#[test]
fn a_domain_takes_what_it_does_not_say_from_the_defaults_and_each_mistake_names_its_key() {
    let defaults = Policy { reject_code: 450, ..Policy::default() };
    let good =
        DomainSpec { valid: vec!["Sales".into()], invalid_ttl: Some("90m".into()), ..spec("*.B\u{fc}cher.example") };
    let config = good.to_config(&defaults, TlsPolicy::Required).unwrap();
    assert_eq!(config.name, "*.xn--bcher-kva.example");
    assert_eq!((config.policy.reject_code, config.policy.invalid_ttl.as_secs()), (450, 5400));
    assert_eq!((config.route.tls, config.valid.contains("sales")), (TlsPolicy::Required, true));
    let base = || spec("a.example");
    for (spec, sentence) in [
        (DomainSpec { name: "a b".into(), ..base() }, "name: \"a b\" is no domain"),
        (DomainSpec { route: vec![], ..base() }, "route: name 1 to 20 hosts"),
        (DomainSpec { route: vec!["x:0".into()], ..base() }, "route: \"x:0\" is no route entry"),
        (DomainSpec { tls: Some("maybe".into()), ..base() }, "tls: \"maybe\" is no TLS policy"),
        (DomainSpec { callouts: Some("on".into()), ..base() }, "callouts: \"on\" is not one of enforce, observe, off"),
        (DomainSpec { reject_code: Some(551), ..base() }, "reject_code: 551 is neither 550 nor 450"),
        (DomainSpec { invalid_ttl: Some("3h".into()), ..base() }, "invalid_ttl: 3h is not between 1s and 2h"),
        (DomainSpec { valid_ttl: Some("5".into()), ..base() }, "valid_ttl: \"5\" is no duration"),
        (DomainSpec { valid: vec!["a@b".into()], ..base() }, "valid: \"a@b\" is no local part"),
        (DomainSpec { valid: vec!["A".into()], invalid: vec!["a".into()], ..base() }, "is in \"valid\" too"),
        (DomainSpec { valid: vec!["a".into(); 10_001], ..base() }, "has 10001 local parts; 10000 at most"),
    ] {
        let why = spec.to_config(&defaults, TlsPolicy::Off).unwrap_err();
        assert!(why.contains(sentence), "{why}");
    }
}

#[tokio::test]
async fn passwords_are_argon2id_and_a_name_that_does_not_exist_is_no_password() {
    let passwords = Passwords::new().unwrap();
    let kept = passwords.hash("correct horse battery").await.unwrap();
    assert!(kept.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{kept}");
    assert_ne!(kept, passwords.hash("correct horse battery").await.unwrap(), "each with its own salt");
    assert!(passwords.is_right("correct horse battery", Some(&kept)).await);
    assert!(!passwords.is_right("correct horse batterz", Some(&kept)).await);
    assert!(!passwords.is_right("a password that nobody has", None).await);
    assert!(passwords.hash("too short").await.unwrap_err().to_string().contains("at least 15 characters"));
}

/// Nobody is asked here: what is learned is put into the cache.
struct Silence;

impl Ask for Silence {
    fn ask(&self, _: Request) -> BoxFuture<'_, Report> {
        Box::pin(std::future::pending())
    }
}

/// A daemon without its listeners. Dropping it does no more than a kill does: nothing is settled.
struct Node {
    control: Control,
    engine: Engine,
    domains: Domains,
}

impl Node {
    /// Started with a configuration file that has these domains and routes.
    fn start(dir: &TempDir, file: &[(&str, &str)]) -> Self {
        let options = Options { map_size: 64 << 20, ..Options::default() };
        Self::over(dir, Cache::open(&dir.path().join("cache"), &options, NOW).unwrap(), file)
    }

    fn over(dir: &TempDir, cache: Cache, file: &[(&str, &str)]) -> Self {
        let clock = Arc::new(TestClock::at(NOW));
        let log = DecisionLog::open(&dir.path().join("log.db"), LogSettings::default(), clock.clone()).unwrap();
        let engine = Engine::new(Parts {
            cache,
            callouts: Arc::new(Silence),
            clock,
            directory: Directory::default(),
            settings: Settings::default(),
            observer: Arc::new(LogObserver),
        });
        let node = Self { control: open(dir), domains: Domains::new(engine.clone(), log), engine };
        node.read_file(file);
        node
    }

    /// The file is another from now on, and is in force before anything is settled. A route that ends in `!` folds local parts.
    fn read_file(&self, file: &[(&str, &str)]) {
        let configs = file.iter().map(|(name, route)| {
            let route_and_case = route.strip_suffix('!');
            let hops = vec![route_and_case.unwrap_or(route).parse().unwrap()];
            let mut config = DomainConfig::new(name, Route { hops, tls: TlsPolicy::Off });
            config.policy.fold_local_part = route_and_case.is_some();
            config
        });
        self.domains.set_file(configs.collect(), Policy::default(), TlsPolicy::Off, &self.control.local());
    }

    async fn settle(&self) -> Result<(), String> {
        let actor = Actor { who: "configuration file".into(), from: "test".into() };
        self.domains.settle(&self.control, &actor).await.map(drop).map_err(|error| error.to_string())
    }

    async fn learn(&self, recipient: &str) {
        let recipient: Recipient = recipient.parse().unwrap();
        let epoch = self.engine.cache().lookup(&recipient).unwrap().epoch;
        let record = Record {
            state: RecipientState::Valid,
            checked_at: NOW,
            expires_at: NOW.after(Duration::from_secs(3600)),
            destination: "mx.example:25".into(),
            reply: None,
        };
        self.engine.cache().put_recipient(&recipient, record, epoch).await.unwrap();
    }

    fn is_known(&self, recipient: &str) -> bool {
        self.engine.cache().lookup(&recipient.parse().unwrap()).unwrap().recipient.is_some()
    }

    async fn audited(&self) -> Vec<(String, String)> {
        let page = self.control.audit(Principal::socket(), None, 1000).await.unwrap();
        page.entries.into_iter().map(|entry| (entry.action, entry.object)).collect()
    }
}

#[tokio::test]
async fn a_domain_whose_record_can_not_be_read_stays_one_of_ours_without_a_route_until_it_is_mended() {
    let dir = TempDir::new().unwrap();
    let node = Node::start(&dir, &[("file.example", "one")]);
    let route_of = |domain: &str| {
        let found = node.engine.directory().find(&domain.parse().unwrap()).cloned();
        found.map(|config| config.route.hops.len())
    };
    let reseller = serde_json::to_string(&account("r", Role::Reseller, None, &[])).unwrap();
    let reseller = Change { kind: Kind::Account, key: "r".into(), expected: Expected::Nothing, body: Some(reseller) };
    node.control.apply(vec![reseller], vec![], NOW).await.unwrap();
    let write = async |name: &str, body: &str| {
        let change =
            Change { kind: Kind::Domain, key: name.into(), expected: Expected::Anything, body: Some(body.into()) };
        node.control.apply(vec![change], vec![], NOW).await.unwrap();
        node.domains.follow(&node.control.local());
    };
    for (name, body) in [
        // A key, a word and a type of another version, and what is no JSON at all.
        ("a.example", r#"{"name": "a.example", "route": ["one"], "owner": "r", "of_a_later_version": 1}"#),
        ("b.example", r#"{"name": "b.example", "route": ["one"], "callouts": "sometimes"}"#),
        ("*.c.example", r#"{"name": "*.c.example", "route": "one"}"#),
        ("d.example", "{"),
        ("file.example", "{"),
    ] {
        write(name, body).await;
    }
    assert_eq!(node.domains.unusable(), ["*.c.example", "a.example", "b.example", "d.example"]);
    for domain in ["a.example", "b.example", "sub.c.example", "d.example"] {
        assert_eq!(route_of(domain), Some(0), "{domain}");
    }
    assert_eq!(route_of("file.example"), Some(1), "the file's wins");
    assert_eq!(node.control.local().domains()["a.example"].value.owner.as_deref(), Some("r"), "it is whose it was");
    node.settle().await.unwrap();

    write("a.example", &serde_json::to_string(&spec("a.example")).unwrap()).await;
    let delete = Change { kind: Kind::Domain, key: "d.example".into(), expected: Expected::Anything, body: None };
    node.control.apply(vec![delete], vec![], NOW).await.unwrap();
    node.domains.follow(&node.control.local());
    assert_eq!((route_of("a.example"), route_of("d.example")), (Some(1), None));
    assert_eq!(node.domains.unusable(), ["*.c.example", "b.example"]);
}

/// A file, the one that takes its place for a while, and a recipient that is asked for meanwhile.
type There<'a> = &'a [(&'a str, &'a str)];
const AND_BACK: [(There<'static>, There<'static>, &str); 5] = [
    (&[("a.example", "one")], &[("a.example", "two")], "anna@a.example"),
    (&[("a.example", "one")], &[("a.example", "one!")], "anna@a.example"),
    (&[("*.example", "one")], &[("*.example", "two")], "anna@sub.example"),
    (&[("*.example", "one")], &[("*.example", "one"), ("sub.example", "two")], "anna@sub.example"),
    (&[("*.example", "one")], &[("*.example", "one"), ("*.sub.example", "two")], "anna@deep.sub.example"),
];

#[tokio::test]
async fn what_is_learned_under_a_route_that_is_never_settled_does_not_count_for_the_one_before() {
    for (one, two, recipient) in AND_BACK {
        let dir = TempDir::new().unwrap();
        let node = Node::start(&dir, one);
        node.settle().await.unwrap();
        node.read_file(two);
        node.learn(recipient).await;
        node.read_file(one);
        assert!(node.domains.is_unsettled());
        node.settle().await.unwrap();
        assert!(!node.is_known(recipient), "{two:?}");
        assert_eq!(node.audited().await.len(), 1, "{two:?}");

        // It is settled now, and that holds over a start.
        node.learn(recipient).await;
        node.read_file(one);
        node.settle().await.unwrap();
        drop(node);
        let node = Node::start(&dir, one);
        node.settle().await.unwrap();
        assert!(node.is_known(recipient), "{two:?}");
    }
}

#[tokio::test]
async fn what_is_learned_under_a_route_that_is_never_settled_does_not_count_after_a_kill() {
    for (one, two, recipient) in AND_BACK {
        let dir = TempDir::new().unwrap();
        let node = Node::start(&dir, one);
        node.settle().await.unwrap();
        let database = rusqlite::Connection::open(dir.path().join("control.db")).unwrap();
        database.execute_batch("ALTER TABLE audit RENAME TO gone").unwrap();
        node.read_file(two);
        node.learn(recipient).await;
        let why = node.settle().await.unwrap_err();
        assert!(why.contains("the control database can't be written"), "{why}");
        drop(node);
        database.execute_batch("ALTER TABLE gone RENAME TO audit").unwrap();
        let node = Node::start(&dir, one);
        node.settle().await.unwrap();
        assert!(!node.is_known(recipient), "{two:?}");
        assert_eq!(node.audited().await.len(), 1, "{two:?}");
    }
}

/// Each commit is a sync of the disk.
#[tokio::test]
async fn a_thousand_domains_that_lead_elsewhere_are_cleared_in_a_few_commits() {
    let names: Vec<String> = (0..1_000).map(|number| format!("d{number}.example")).collect();
    let file = |route| -> Vec<(&str, &str)> { names.iter().map(|name| (name.as_str(), route)).collect() };
    let dir = TempDir::new().unwrap();
    let commits = Arc::new(AtomicU64::new(0));
    let counted = commits.clone();
    let pace = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now()
    };
    let options = Options { map_size: 64 << 20, ..Options::default() };
    let cache = Cache::open_paced(&dir.path().join("cache"), &options, NOW, pace).unwrap();
    let node = Node::over(&dir, cache, &file("one"));
    node.settle().await.unwrap();
    for recipient in ["anna@d0.example", "anna@d999.example"] {
        node.learn(recipient).await;
    }
    let before = commits.load(Ordering::Relaxed);
    node.read_file(&file("two"));
    node.settle().await.unwrap();
    assert!(!node.is_known("anna@d0.example") && !node.is_known("anna@d999.example"));
    assert_eq!(node.audited().await.len(), names.len());
    let commits = commits.load(Ordering::Relaxed) - before;
    assert!(commits <= 30, "{commits}");
    assert_eq!(node.engine.cache().routes().unwrap().get("d7.example").map(String::as_str), Some("two:25"));
}

#[test]
fn of_a_clear_that_fails_the_audit_log_says_so() {
    let (runtime, writers) = (tokio::runtime::Runtime::new().unwrap(), tokio::runtime::Runtime::new().unwrap());
    let dir = TempDir::new().unwrap();
    let options = Options { map_size: 64 << 20, ..Options::default() };
    let cache = {
        let _guard = writers.enter();
        Cache::open_paced(&dir.path().join("cache"), &options, NOW, || std::future::ready(())).unwrap()
    };
    let node = Node::over(&dir, cache, &[("a.example", "one")]);
    // As where the process was killed before the route of a new domain was written down.
    runtime.block_on(node.learn("anna@a.example"));
    drop(writers);
    let why = runtime.block_on(node.settle()).unwrap_err();
    assert!(why.contains("restart Callahead"), "{why}");
    assert!(node.domains.is_unsettled());
    let expected = ["cache.clear_failed", "cache.clear"].map(|action| (action.to_owned(), "a.example".to_owned()));
    assert_eq!(runtime.block_on(node.audited()), expected);
}
