//! The running daemon's API, held against its own OpenAPI document by schemathesis: requests that fit the document and requests that don't,
//! no answer 5xx, and none that the document does not describe.
//!
//! Schemathesis is installed from PyPI into a virtual environment under `target/`; Debian's package for that is python3-venv.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use super::roots::target;

const VERSION: &str = "4.32.5";
/// Requests that are made up for each operation, besides those that cover each rule of the document.
const EXAMPLES: &str = "40";
/// How long the daemon may take to start.
const STARTS_WITHIN: Duration = Duration::from_secs(30);
/// Not looked at: whether a request without a token gets 401, since after ten of them it gets 429 (the tests of access look at that); and
/// whether everything is accepted that the document allows, since it can't say which domain names are good.
const EXCLUDED_CHECKS: &str = "missing_required_header,ignored_auth,positive_data_acceptance";
/// They may end the token that the run goes by, so they come last.
const LAST: [&str; 4] = ["account_change", "account_delete", "token_delete", "session_delete"];

/// A daemon that ends with this.
struct Daemon {
    child: Child,
    folder: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

pub(crate) fn run() -> anyhow::Result<()> {
    let tool = install()?;
    let program = super::steps::program()?;
    let folder = target().join("schemathesis-run");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let daemon = start(&program, folder)?;
    let token = populate(&program, &daemon)?;
    let server = address(&daemon)?;

    let mut first = vec!["--exclude-path", "/api/v1/events", "--max-examples", EXAMPLES];
    LAST.iter().for_each(|operation| first.extend(["--exclude-operation-id", operation]));
    check(&tool, &server, &token, &first)?;
    let mut last = vec!["--max-examples", "10"];
    LAST.iter().for_each(|operation| last.extend(["--include-operation-id", operation]));
    check(&tool, &server, &token, &last)
}

pub(crate) fn install() -> anyhow::Result<PathBuf> {
    let folder = target().join("schemathesis");
    let tool = folder.join("bin/st");
    let has = Command::new(&tool).arg("--version").stderr(Stdio::null()).output();
    if has.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(VERSION)) {
        return Ok(tool);
    }
    let made = Command::new("python3").args(["-m", "venv"]).arg(&folder).status();
    let made = made.context("python3 is missing: install the Debian packages python3 and python3-venv")?;
    ensure!(made.success(), "python3 -m venv failed: install the Debian package python3-venv");
    let wanted = format!("schemathesis=={VERSION}");
    let pip = Command::new(folder.join("bin/pip")).args(["install", "--quiet", &wanted]).status()?;
    ensure!(pip.success(), "{wanted} could not be installed from PyPI: is it to be reached?");
    Ok(tool)
}

fn start(program: &Path, folder: PathBuf) -> anyhow::Result<Daemon> {
    let shown = folder.display();
    // Name servers and destinations that refuse at once: the API is looked at, not the network.
    let config = format!(
        "node = \"filter.example\"\ndata_dir = \"{shown}/data\"\n[listen]\nhttp = [\"127.0.0.1:0\"]\n\
         admin = [\"unix:{shown}/admin.sock\"]\n[resolver]\nservers = [\"127.0.0.1:9\"]\n\
         [callout]\ntimeout = \"1s\"\nconnect_timeout = \"100ms\"\n\
         [[domain]]\nname = \"file.example\"\nroute = [\"127.0.0.1:9\"]\n"
    );
    let path = folder.join("callahead.toml");
    fs::write(&path, config)?;
    let log = fs::File::create(folder.join("log"))?;
    let child =
        Command::new(program).args(["serve", "--log-format", "json", "--config"]).arg(&path).stderr(log).spawn()?;
    let daemon = Daemon { child, folder };
    let began = Instant::now();
    while !log_of(&daemon).contains("\"message\":\"ready\"") {
        ensure!(began.elapsed() < STARTS_WITHIN, "the daemon did not start: {}", log_of(&daemon));
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(daemon)
}

fn log_of(daemon: &Daemon) -> String {
    fs::read_to_string(daemon.folder.join("log")).unwrap_or_default()
}

/// Where its http listener is, by its log.
fn address(daemon: &Daemon) -> anyhow::Result<String> {
    let log = log_of(daemon);
    let line =
        log.lines().find(|line| line.contains("\"listener\":\"http\"")).context("the daemon has no http listener")?;
    let address = line.split("\"address\":\"").nth(1).and_then(|rest| rest.split('"').next());
    Ok(format!("http://{}", address.context("the daemon's log does not say where it listens")?))
}

/// Something of each kind, and the token of an administrator.
fn populate(program: &Path, daemon: &Daemon) -> anyhow::Result<String> {
    let socket = daemon.folder.join("admin.sock");
    let command = |args: &[&str]| -> anyhow::Result<String> {
        let output = Command::new(program).args(args).arg("--socket").arg(&socket).output()?;
        ensure!(output.status.success(), "callahead {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    command(&["account", "add", "root", "--role", "admin"])?;
    command(&["account", "add", "reseller", "--role", "reseller"])?;
    command(&["domain", "add", "database.example", "--route", "mail.example.net", "--owner", "reseller"])?;
    command(&["token", "create", "--account", "root"])
}

fn check(tool: &Path, server: &str, token: &str, more: &[&str]) -> anyhow::Result<()> {
    let document = format!("{server}/api/v1/openapi.json");
    let bearer = format!("Authorization: Bearer {token}");
    let output = Command::new(tool)
        .args([
            "run",
            &document,
            "--header",
            &bearer,
            "--phases",
            "coverage,fuzzing",
            "--exclude-checks",
            EXCLUDED_CHECKS,
        ])
        .args(["--generation-with-security-parameters", "false", "--generation-database", "none"])
        .args(["--seed", "1", "--no-color"])
        .args(more)
        .current_dir(target())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("schemathesis found something:\n{said}{}", String::from_utf8_lossy(&output.stderr));
    }
    let cases = said.lines().find(|line| line.contains(" generated, ")).unwrap_or("no summary").trim();
    println!("    schemathesis: {cases}");
    ensure!(!cases.starts_with('0') && cases != "no summary", "schemathesis tested nothing:\n{said}");
    Ok(())
}
