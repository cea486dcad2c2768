//! Real mail servers for the tests, each in a root of its own.
//!
//! Debian's mail servers exclude each other as packages, and none of them should replace the one that a machine has. So each is
//! installed into a copy-on-write layer over the machine's own root: in a mount namespace of its own, with an overlay
//! whose upper layer lies under `target/mta/`, by the package manager itself. The machine is not changed; the tests start each
//! server in its layer (`testbed::mta`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};

/// A root's name, and the packages in it.
const ROOTS: [(&str, &[&str]); 4] = [
    ("postfix", &["postfix"]),
    ("exim", &["exim4-daemon-heavy"]),
    ("opensmtpd", &["opensmtpd"]),
    ("tools", &["swaks"]),
];

/// Runs in the namespace: mounts the overlay, keeps daemons from starting, installs.
const INSTALL: &str = r#"
set -eu
layer=$1; shift
mkdir -p "$layer/upper" "$layer/work" "$layer/root"

mount -t overlay overlay -o "lowerdir=/,upperdir=$layer/upper,workdir=$layer/work" "$layer/root"
mount -t proc proc "$layer/root/proc"
mount --rbind /dev "$layer/root/dev"
mount -t tmpfs tmpfs "$layer/root/tmp"
mount -t tmpfs tmpfs "$layer/root/run"
if [ -d /run/systemd/resolve ]; then
  mkdir -p "$layer/root/run/systemd/resolve"
  cp /run/systemd/resolve/*.conf "$layer/root/run/systemd/resolve/" 2>/dev/null || true
fi
printf '#!/bin/sh\nexit 101\n' > "$layer/root/usr/sbin/policy-rc.d"
chmod 755 "$layer/root/usr/sbin/policy-rc.d"
export DEBIAN_FRONTEND=noninteractive
chroot "$layer/root" sh -c 'apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@"' sh "$@"
"#;

/// Where the roots are.
pub(crate) fn folder() -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| super::steps::root().join("target"), PathBuf::from);
    target.join("mta")
}

/// Installs what is not installed yet.
pub(crate) fn install() -> anyhow::Result<()> {
    for program in ["unshare", "chroot", "apt-get"] {
        ensure!(
            find(program),
            "{program} is missing: the tests with real mail servers run on Debian (packages util-linux, coreutils, apt)"
        );
    }
    for (name, packages) in ROOTS {
        let layer = folder().join(name);
        let stamp = layer.join("installed");
        let wanted = packages.join(" ");
        if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
            continue;
        }
        println!("    installing {wanted} into {}", layer.display());
        let began = Instant::now();
        if layer.exists() {
            // What an installation that was broken off left behind, with the package manager's own permissions.
            run(privileged("rm").arg("-rf").arg(&layer))?;
        }
        fs::create_dir_all(&layer)?;
        let log = layer.join("install.log");
        let output = fs::File::create(&log)?;
        let mut command = privileged("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", INSTALL, "sh"])
            .arg(&layer)
            .args(packages);
        command.stdout(output.try_clone()?).stderr(output);
        let status = command.status().context("unshare can't be run")?;
        if !status.success() {
            let log = fs::read_to_string(&log).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(15).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            bail!(
                "{wanted} can't be installed into a root of its own. This needs root (or sudo without a password) and the right to \
                 mount an overlay. The last lines were:\n{}",
                tail.join("\n")
            );
        }
        fs::write(&stamp, &wanted)?;
        println!("    installed {wanted} in {:.0} s", began.elapsed().as_secs_f64());
    }
    Ok(())
}

/// The command, by sudo where we are not root.
fn privileged(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["-n", program]);
    command
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("{command:?} can't be run"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

/// Whether a program is on the path.
pub(crate) fn find(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places =
        std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].iter().map(|place| Path::new(place).to_owned()));
    places.map(|place| place.join(program)).any(|program| program.is_file())
}
