//! One-time login links for hosting panels, made on the command line.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Daemon, configure};
use serde_json::Value;

/// Sends the form of the link's page, and gives the answer.
fn take(daemon: &Daemon, key: &str) -> String {
    daemon.form("/login/link", &format!("key={key}"))
}

#[test]
fn a_link_logs_its_first_user_in_and_nobody_after_that() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&configure(&folder, ""));
    assert_eq!(daemon.command(&["account", "add", "anna", "--role", "domain", "--domain", "example.com"]).0, 0);
    let (code, link, _) = daemon.command(&["account", "login-link", "anna", "--web", "https://filter.example/"]);
    assert_eq!(code, 0);
    let key = link.trim().strip_prefix("https://filter.example/login/link?key=").unwrap();
    let answer = take(&daemon, key);
    assert!(answer.starts_with("HTTP/1.1 303") && answer.contains("location: /recipients"), "{answer}");
    assert!(take(&daemon, key).starts_with("HTTP/1.1 410"));

    let (_, json, _) = daemon.command(&["account", "login-link", "anna", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(json["path"].as_str().unwrap().starts_with("/login/link?key=") && json["expires_at"].is_string(), "{json}");
    assert_eq!(daemon.command(&["account", "login-link", "nobody"]).0, 1);
    for web in ["foo", "filter.example", "ftp://filter.example", "https://"] {
        let (code, link, error) = daemon.command(&["account", "login-link", "anna", "--web", web]);
        assert!(code == 2 && link.is_empty() && error.contains("write https://HOST"), "{web}: {link}{error}");
    }
}
