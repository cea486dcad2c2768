//! The examples for programs that ask by HTTP, as they are shipped: Haraka, rspamd, KumoMTA's Lua, Ansible. What they need is installed
//! by `cargo xtask test`, and missing without it by name.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod ansible;
mod haraka;
mod kumomta;
mod rspamd;

use std::ops::Deref;
use std::path::{Path, PathBuf};

use callahead_testbed::Script;
use callahead_testbed::mta::free_port;
use common::{Daemon, configure, domain};

/// A daemon with one domain, `example.com`, whose destination is simulated; `trial.example`, which has the same and says 450 for 550; and
/// `down.example`, whose destination is not there.
pub struct World {
    behind: common::world::World,
    config: PathBuf,
    /// Where its HTTP listener is; it stays there over a restart.
    pub server: String,
}

impl World {
    pub fn start() -> Self {
        let behind = common::world::World::new(Script::taking_messages(["anna@example.com", "ben@example.com"]));
        let nobody = format!("127.0.0.1:{}", free_port().unwrap()).parse().unwrap();
        let there = behind.listening.address();
        let trial = format!("{}reject_code = 450\n", domain("trial.example", there));
        let domains = format!("{}{trial}{}", domain("example.com", there), domain("down.example", nobody));
        let config = configure(&behind.dir, &domains);
        let server = format!("127.0.0.1:{}", free_port().unwrap());
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, text.replace("http = [\"127.0.0.1:0\"]", &format!("http = [\"{server}\"]"))).unwrap();
        let server = format!("http://{server}");
        Self { behind, config, server }
    }

    pub fn daemon(&self) -> Daemon {
        Daemon::start(&self.config)
    }
}

impl Deref for World {
    type Target = common::world::World;
    fn deref(&self) -> &common::world::World {
        &self.behind
    }
}

/// A token for an account of this name, made as the READMEs say.
pub fn token(daemon: &Daemon, account: &[&str], scopes: &[&str]) -> String {
    let (code, _, error) = daemon.command(&[&["account", "add"], account].concat());
    assert_eq!(code, 0, "{error}");
    let scopes: Vec<&str> = scopes.iter().flat_map(|scope| ["--scope", scope]).collect();
    let (code, token, error) = daemon.command(&[&["token", "create", "--account", account[0]], &scopes[..]].concat());
    assert_eq!(code, 0, "{error}");
    token.trim().to_owned()
}

/// What the decision log has of a recipient, once it has something.
pub fn logged(daemon: &Daemon, recipient: &str) -> String {
    let rows = || daemon.command(&["log", "--recipient", recipient, "--json"]);
    until("the decision is logged", || rows().0 == 0);
    rows().1
}

/// The folder of an example.
pub fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name)
}

/// A file of an example with other words in it, which must be there.
pub fn rendered(file: &Path, changes: &[(&str, &str)]) -> String {
    let mut text = std::fs::read_to_string(file).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{} has no {from:?}", file.display());
        text = text.replace(from, to);
    }
    text
}

/// Waits until this holds.
pub fn until(what: &str, holds: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !holds() {
        assert!(began.elapsed().as_secs() < 60, "{what}: not within a minute");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
