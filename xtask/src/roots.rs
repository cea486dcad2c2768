//! Debian packages for tests; the mail servers without installing them on the machine.
//!
//! `postfix`, `exim4-daemon-heavy`, `opensmtpd` and `sendmail-bin` exclude each other, and none of them should take over the machine of
//! somebody who only wants to run tests. So each is installed once into an overlay over `/`, by the package manager itself
//! in a mount namespace of its own, and what that changed is kept as `target/mta/PACKAGE.tar`. The tests unpack it into a
//! fresh overlay of their own (`testbed::mta`). A tar and not the overlay's folder, because an overlay can neither have its
//! upper folder on another overlay (a container) nor lie over a folder of its own lower one.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};

/// What the tests need: four servers and a client, and what else the examples are for.
const PACKAGES: [&str; 8] =
    ["postfix", "exim4-daemon-heavy", "opensmtpd", "sendmail-bin", "swaks", "rspamd", "ansible-core", "lua5.4"];

/// `$1` an empty folder, `$2` the tar file to write, `$3` the package. Runs in the namespace; what it mounts goes with that.
const INSTALL: &str = r#"
mount --make-rprivate /
place=$1 layer=$2 package=$3
mount -t tmpfs -o mode=755 tmpfs "$place"
mkdir "$place/upper" "$place/work" "$place/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$place/upper,workdir=$place/work" "$place/root"
mount -t proc proc "$place/root/proc"
mount --rbind /dev "$place/root/dev"
mount -t tmpfs -o mode=755 tmpfs "$place/root/run"
mount -t tmpfs -o mode=1777 tmpfs "$place/root/tmp"
cat /etc/resolv.conf >"$place/resolv.conf"
rm -f "$place/root/etc/resolv.conf"
cp "$place/resolv.conf" "$place/root/etc/resolv.conf"
# Sendmail waits a minute for a host name with a dot in it.
host=$(uname -n)
printf '127.0.0.1 localhost\n127.0.1.1 %s.example %s\n' "$host" "$host" >"$place/hosts"
rm -f "$place/root/etc/hosts"
cp "$place/hosts" "$place/root/etc/hosts"
printf '#!/bin/sh\nexit 101\n' >"$place/root/usr/sbin/policy-rc.d"
chmod 755 "$place/root/usr/sbin/policy-rc.d"
install="chroot $place/root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $package"
$install || { chroot "$place/root" apt-get update -q && $install; }
cd "$place/upper"
rm -rf var/cache/apt var/lib/apt/lists etc/hosts
tar --xattrs --xattrs-include='trusted.overlay.*' -cpf "$layer.new" .
mv "$layer.new" "$layer"
"#;

/// Where builds and what goes with them are; absolute, because the tests run in their crates' folders.
pub(crate) fn target() -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| super::steps::root().join("target"), PathBuf::from);
    std::path::absolute(&target).unwrap_or(target)
}

/// Where the layers are.
pub(crate) fn folder() -> PathBuf {
    target().join("mta")
}

/// The browser of the tests, and what fetches axe-core: programs by their packages. They exclude nothing and start nothing, so they are
/// installed as any other.
const BROWSER: [(&str, &str); 3] = [("chromium", "chromium"), ("chromedriver", "chromium-driver"), ("npm", "npm")];
/// From npm: the accessibility checker that the browser tests put into pages, and the mail server of an example, without the plugins of
/// which it makes no use. This Haraka is the last one that works with Debian's Node.js 18.
const NPM: [(&str, &str); 2] = [("axe-core/axe.min.js", "axe-core@4.14.1"), ("Haraka/bin/haraka", "Haraka@3.1.1")];

/// Installs what is not installed yet; instant when nothing is missing.
pub(crate) fn install() -> anyhow::Result<()> {
    install_servers()?;
    install_browser()
}

fn install_browser() -> anyhow::Result<()> {
    let missing: Vec<&str> =
        BROWSER.iter().filter(|(program, _)| !find(program)).map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        println!("    installing {}", missing.join(", "));
        let install = || -> anyhow::Result<Output> {
            let mut command = as_root()?;
            command.args([
                "DEBIAN_FRONTEND=noninteractive",
                "apt-get",
                "install",
                "-q",
                "-y",
                "--no-install-recommends",
            ]);
            command.args(&missing).output().context("apt-get can't be run")
        };
        let mut output = install()?;
        if !output.status.success() {
            as_root()?.args(["apt-get", "update", "-q"]).output().context("apt-get can't be run")?;
            output = install()?;
        }
        let names = missing.join(", ");
        ensure!(output.status.success(), "the Debian packages {names} can't be installed:\n{}", ending(&output));
    }
    let folder = target().join("npm");
    let missing: Vec<&str> = NPM
        .iter()
        .filter(|(file, _)| !folder.join("node_modules").join(file).exists())
        .map(|(_, spec)| *spec)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(&folder)?;
    let names = missing.join(", ");
    println!("    fetching {names} of npm into {}", folder.display());
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--omit=optional", "--prefix"]).arg(&folder);
    let output = npm.args(&missing).output().context("npm can't be run")?;
    ensure!(output.status.success(), "{names} of npm can't be fetched:\n{}", ending(&output));
    Ok(())
}

fn install_servers() -> anyhow::Result<()> {
    let folder = folder();
    let layer = |package: &str| folder.join(format!("{package}.tar"));
    if PACKAGES.iter().all(|package| layer(package).exists()) {
        return Ok(());
    }
    for (program, package) in
        [("apt-get", "apt"), ("unshare", "util-linux"), ("mount", "mount"), ("chroot", "coreutils"), ("tar", "tar")]
    {
        ensure!(
            find(program),
            "{program} is missing: the tests with real mail servers run on Debian (package {package})"
        );
    }
    fs::create_dir_all(&folder)?;
    let folder = folder.canonicalize()?;
    for package in PACKAGES.iter().filter(|package| !layer(package).exists()) {
        println!("    installing {package} into {}", layer(package).display());
        let began = Instant::now();
        let place = folder.join(format!("{package}.place"));
        fs::create_dir_all(&place)?;
        let output = as_root()?
            .args(["unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-eu", "-c", INSTALL, "install"])
            .arg(&place)
            .arg(folder.join(format!("{package}.tar")))
            .arg(package)
            .env("LC_ALL", "C.UTF-8")
            .output()
            .context("unshare can't be run")?;
        let _ = fs::remove_dir(&place);
        if !output.status.success() {
            bail!(
                "the Debian package {package} can't be installed for the tests. This needs the right to mount an overlay \
                 over /, and a Debian mirror. The last lines were:\n{}",
                ending(&output)
            );
        }
        println!("    installed {package} in {:.0} s", began.elapsed().as_secs_f64());
    }
    Ok(())
}

/// `env`, as root.
fn as_root() -> anyhow::Result<Command> {
    if fs::metadata("/proc/self")?.uid() == 0 {
        return Ok(Command::new("env"));
    }
    let sudo = Command::new("sudo").args(["-n", "true"]).output();
    ensure!(
        sudo.is_ok_and(|output| output.status.success()),
        "the tests with real mail servers need root: run cargo xtask test as root, or as a user whose sudo asks for no \
         password. Without root there is cargo xtask test --quick"
    );
    let mut command = Command::new("sudo");
    command.args(["-n", "env"]);
    Ok(command)
}

fn ending(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// Whether a program is on the path.
pub(crate) fn find(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places =
        std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].iter().map(|place| Path::new(place).to_owned()));
    places.map(|place| place.join(program)).any(|program| program.is_file())
}
