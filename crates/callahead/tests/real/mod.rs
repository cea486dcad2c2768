//! A daemon of the real binary, for the tests with real mail servers around it.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)] // each test file uses a part

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use callahead_testbed::mta::free_port;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_callahead");

/// A running `callahead serve`. Dropping it ends it.
pub struct Daemon {
    child: Child,
    dir: TempDir,
    pub policy: SocketAddr,
    pub socketmap: SocketAddr,
    pub milter: SocketAddr,
}

impl Daemon {
    /// Starts it for one domain with one destination. There is no limit for clients that guess recipients: asking for
    /// missing ones is what most tests do.
    pub fn start(domain: &str, destination: SocketAddr) -> Self {
        Self::start_with(domain, destination, "[harvest]\nlimit = 0\n")
    }

    /// Starts it with these sections (TOML) in its configuration.
    pub fn start_with(domain: &str, destination: SocketAddr, sections: &str) -> Self {
        let dir = TempDir::with_prefix("callahead-real-").unwrap();
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let (policy, socketmap) = (at(free_port().unwrap()), at(free_port().unwrap()));
        let milter = at(free_port().unwrap());
        let folder = dir.path().display();
        let config = format!(
            "node = \"filter.example\"
data_dir = \"{folder}/data\"
[listen]
policy = [\"{policy}\"]
socketmap = [\"{socketmap}\"]
milter = [\"{milter}\"]
admin = [\"unix:{folder}/admin.sock\"]
{sections}[[domain]]
name = \"{domain}\"
route = [\"{destination}\"]
"
        );
        std::fs::write(dir.path().join("callahead.toml"), config).unwrap();
        let child = serve(dir.path());
        let mut daemon = Self { child, dir, policy, socketmap, milter };
        daemon.wait_until_it_listens();
        daemon
    }

    /// Starts it again after [`Daemon::stop`], at the same addresses and with what it knew.
    pub fn start_again(&mut self) {
        self.child = serve(self.dir.path());
        self.wait_until_it_listens();
    }

    fn wait_until_it_listens(&mut self) {
        let places = [self.policy, self.socketmap, self.milter];
        let until = Instant::now() + Duration::from_secs(20);
        while places.iter().any(|place| TcpStream::connect(place).is_err()) {
            assert!(self.child.try_wait().unwrap().is_none(), "the daemon ended:\n{}", self.log());
            assert!(Instant::now() < until, "the daemon does not listen:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs another command of the binary with this daemon's configuration.
    pub fn run(&self, words: &[&str]) -> Output {
        Command::new(BINARY).args(words).arg("--config").arg(self.dir.path().join("callahead.toml")).output().unwrap()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// A client of its policy listener.
    pub fn policy_client(&self) -> PolicyClient {
        PolicyClient(BufReader::new(TcpStream::connect(self.policy).unwrap()))
    }

    /// Tells it to stop, as the system does, and waits until it has ended all its sessions.
    pub fn stop(&mut self) {
        let id = self.child.id().to_string();
        assert!(Command::new("/bin/kill").args(["-TERM", &id]).status().unwrap().success());
        assert!(self.child.wait().unwrap().success(), "{}", self.log());
    }
}

fn serve(folder: &Path) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
    Command::new(BINARY)
        .args(["serve", "--log-format", "human", "--config"])
        .arg(folder.join("callahead.toml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "\n--- log of callahead ---\n{}", self.log());
        }
    }
}

/// Asks as Postfix's smtpd does, over one connection.
pub struct PolicyClient(BufReader<TcpStream>);

impl PolicyClient {
    /// The action for a recipient.
    pub fn ask(&mut self, recipient: &str) -> String {
        let request = format!(
            "request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\nsender=\nrecipient={recipient}\n\n"
        );
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let mut lines = (&mut self.0).lines().map(Result::unwrap);
        let action = lines.next().unwrap();
        assert_eq!(lines.next().unwrap(), "");
        action.strip_prefix("action=").unwrap().to_owned()
    }
}
