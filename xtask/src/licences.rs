//! What may be in the dependency tree, by `deny.toml`: the licences it allows, and the crates it bans. `cargo deny check` reads the same
//! file and does more (advisories need the internet, so they are no part of the tests).

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

pub(crate) fn check() -> anyhow::Result<()> {
    let deny = std::fs::read_to_string(super::steps::root().join("deny.toml")).context("deny.toml can't be read")?;
    let deny: toml::Table = deny.parse().context("deny.toml is no TOML")?;
    let texts = |section: &str, key: &str| -> Vec<String> {
        let list = deny.get(section).and_then(|section| section.get(key)).and_then(toml::Value::as_array);
        let text = |value: &toml::Value| value.as_str().or_else(|| value.get("name")?.as_str()).map(str::to_owned);
        list.into_iter().flatten().filter_map(text).collect()
    };
    let (allowed, banned) = (texts("licenses", "allow"), texts("bans", "deny"));
    ensure!(
        !allowed.is_empty() && !banned.is_empty(),
        "deny.toml allows no licence or bans nothing: that can't be meant"
    );

    // `cargo tree` and not `cargo metadata`, which also names what only a feature that is off would bring.
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--workspace", "--locked", "--target", "x86_64-unknown-linux-gnu"])
        .args(["--edges", "normal,build,dev", "--prefix", "none", "--format", "{p}\t{l}"])
        .current_dir(super::steps::root())
        .output()?;
    ensure!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout)?;
    // A package that was shown before is marked with "(*)".
    let packages: BTreeSet<&str> =
        tree.lines().filter(|line| !line.is_empty()).map(|line| line.trim_end_matches(" (*)")).collect();
    let mut wrong = Vec::new();
    for package in &packages {
        let (name, licence) = package.split_once('\t').with_context(|| format!("cargo tree said {package:?}"))?;
        if banned.iter().any(|banned| name.split(' ').next() == Some(banned)) {
            wrong.push(format!("{name} is banned by deny.toml"));
        }
        if !is_allowed(licence, &allowed) {
            wrong.push(format!("{name} has the licence {licence}, which deny.toml does not allow"));
        }
    }
    let count = packages.len();
    if wrong.is_empty() {
        println!("    {count} packages, all under licences that deny.toml allows");
        return Ok(());
    }
    bail!("{}", wrong.join("\n"))
}

/// An SPDX expression of AND, OR and parentheses; `/` is an old way to write OR.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let expression = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = expression.split_whitespace().collect();
    let mut at = 0;
    any(&words, &mut at, allowed) && at == words.len()
}

fn any(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut good = all(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        good |= all(words, at, allowed);
    }
    good
}

fn all(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut good = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        good &= one(words, at, allowed);
    }
    good
}

fn one(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    if words.get(*at) == Some(&"(") {
        *at += 1;
        let good = any(words, at, allowed);
        *at += 1;
        return good;
    }
    let mut licence = words.get(*at).copied().unwrap_or_default().to_owned();
    *at += 1;
    if words.get(*at) == Some(&"WITH") {
        licence = format!("{licence} WITH {}", words.get(*at + 1).copied().unwrap_or_default());
        *at += 2;
    }
    allowed.contains(&licence)
}

#[cfg(test)]
mod tests {
    use super::is_allowed;

    #[test]
    fn licence_expressions_are_read_as_spdx_means_them() {
        let allowed = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(String::from);
        for good in
            ["MIT", "MIT OR GPL-3.0", "GPL-3.0/MIT", "ISC AND (MIT OR GPL-3.0)", "Apache-2.0 WITH LLVM-exception"]
        {
            assert!(is_allowed(good, &allowed), "{good}");
        }
        for bad in ["GPL-3.0", "MIT AND GPL-3.0", "Apache-2.0", "none", "", "ISC AND (GPL-2.0 OR GPL-3.0)"] {
            assert!(!is_allowed(bad, &allowed), "{bad}");
        }
    }
}
