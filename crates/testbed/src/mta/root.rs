//! A root of its own for a process: the host's `/` with a package laid over it, writable, and gone afterwards.
//!
//! The layer is a tar file, what `apt-get install` changed in an overlay (`xtask/src/roots.rs` makes it). Here it is
//! unpacked into the upper folder of a fresh overlay on tmpfs, inside a mount namespace that dies with its first process:
//! nothing of it is ever seen on the host. `/instance` inside is the folder that a test shares with the server.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// `$1` the layer, `$2` the shared folder, the rest the command. The tmpfs is mounted over the shared folder's
/// neighbour, a folder that is as temporary as it.
const ENTER: &str = r#"
mount --make-rprivate /
layer=$1 shared=$2 place=$2/root
shift 2
mkdir -p "$place"
mount -t tmpfs -o mode=755 tmpfs "$place"
mkdir "$place/upper" "$place/work" "$place/root"
tar --xattrs --xattrs-include='trusted.overlay.*' -xpf "$layer" -C "$place/upper"
mkdir -p -m 777 "$place/upper/instance"
mount -t overlay overlay -o "lowerdir=/,upperdir=$place/upper,workdir=$place/work" "$place/root"
mount -t proc proc "$place/root/proc"
mount --rbind /dev "$place/root/dev"
mount -t tmpfs -o mode=755 tmpfs "$place/root/run"
mount --bind "$shared" "$place/root/instance"
mount -t tmpfs -o mode=1777 tmpfs "$place/root/tmp"
cd /
exec chroot "$place/root" "$@"
"#;

/// A folder that servers inside, whatever user they become, can write their logs to.
pub(super) fn shared_dir() -> io::Result<TempDir> {
    let dir = TempDir::with_prefix("callahead-mta-")?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777))?;
    Ok(dir)
}

/// The command that runs `words` in the root of `package`, with `shared` as `/instance`.
pub(super) fn command(package: &str, shared: &Path, words: &[&str]) -> io::Result<Command> {
    let layer = layers().join(format!("{package}.tar"));
    if !layer.exists() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!(
                "the Debian package {package} is not installed for the tests: run cargo xtask test, as root or with sudo"
            ),
        ));
    }
    let mut command = as_root("unshare")?;
    command.args(["--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-eu", "-c", ENTER, "root"]);
    command.arg(layer.canonicalize()?).arg(shared).args(words);
    // Perl (swaks) complains about locales that the host names and the root does not have.
    command.env("LC_ALL", "C.UTF-8").env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    Ok(command)
}

/// Where `cargo xtask test` puts the layers; it says so to the tests that it runs.
fn layers() -> PathBuf {
    if let Some(folder) = std::env::var_os("CALLAHEAD_MTA_ROOTS") {
        return folder.into();
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../../target").into()).join("mta")
}

/// The command that runs a program as root, through sudo where this is another user.
///
/// # Errors
/// Where it can't be told who this is.
pub fn as_root(program: &str) -> io::Result<Command> {
    if fs::metadata("/proc/self")?.uid() == 0 {
        return Ok(Command::new(program));
    }
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", program]);
    Ok(sudo)
}
