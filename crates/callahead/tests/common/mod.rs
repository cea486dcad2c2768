//! The real program: a daemon that ends with its test, and commands.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, missing_docs)]

pub mod mail;
pub mod world;

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take that should come at once.
const PATIENCE: Duration = Duration::from_secs(60);

/// What Postfix is told of a mailbox that does not exist; "(cached)" follows where that is how it is known.
pub const REFUSED: &str = "550 5.1.1 Recipient address rejected: the mailbox does not exist";

pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_callahead"));
    command.env_remove("CALLAHEAD_LOG").stdin(Stdio::null());
    command
}

/// Runs a command to its end: exit code, output, errors.
pub fn run(args: &[&str]) -> (i32, String, String) {
    finished(program().args(args).output().unwrap())
}

pub fn finished(output: Output) -> (i32, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// A daemon over a folder, which outlives it: another can be started there.
pub struct Daemon {
    pub child: Running,
    pub policy: SocketAddr,
    pub socketmap: SocketAddr,
    pub milter: Option<SocketAddr>,
    pub http: SocketAddr,
    pub admin: PathBuf,
    pub gateway: Option<SocketAddr>,
    /// Read all the time: a daemon whose log nobody reads leaves lines out.
    log: Receiver<String>,
}

/// Writes a configuration with these domains (TOML) into a folder.
pub fn configure(dir: &TempDir, domains: &str) -> PathBuf {
    configure_with(dir, "", domains)
}

/// With more in `[listen]`.
pub fn configure_with(dir: &TempDir, listen: &str, domains: &str) -> PathBuf {
    let path = dir.path().join("callahead.toml");
    let folder = dir.path().display();
    let text = format!(
        "node = \"filter.example\"\ndata_dir = \"{folder}/data\"\n[listen]\npolicy = [\"127.0.0.1:0\"]\nsocketmap = [\"127.0.0.1:0\"]\nmilter = [\"127.0.0.1:0\"]\n\
         http = [\"127.0.0.1:0\"]\nadmin = [\"unix:{folder}/admin.sock\"]\n{listen}[resolver]\nservers = [\"127.0.0.1:9\"]\n{domains}"
    );
    std::fs::write(&path, text).unwrap();
    path
}

pub fn domain(name: &str, route: SocketAddr) -> String {
    format!("[[domain]]\nname = \"{name}\"\nroute = [\"{route}\"]\n")
}

impl Daemon {
    /// Starts it and waits until it says that it is ready.
    pub fn start(config: &Path) -> Self {
        let mut child = program()
            .args(["serve", "--log-format", "json", "--config"])
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        // From here on it is ended whatever happens, a panic below included.
        let child = Running(child);
        let lines = BufReader::new(stderr).lines();
        let (tell, log) = std::sync::mpsc::channel();
        std::thread::spawn(move || lines.map_while(Result::ok).all(|line| tell.send(line).is_ok()));
        let mut places = std::collections::HashMap::new();
        let mut said = String::new();
        loop {
            let line = log.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("the daemon did not start:\n{said}"));
            said.push_str(&line);
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["message"] == "listening" {
                let (name, place) = (&event["listener"], &event["address"]);
                places.insert(name.as_str().unwrap().to_owned(), place.as_str().unwrap().to_owned());
            }
            if event["message"] == "ready" {
                break;
            }
        }
        let tcp = |name: &str| places[name].parse().unwrap();
        let admin = PathBuf::from(places["admin"].strip_prefix("unix:").unwrap());
        let gateway = places.get("gateway").map(|place| place.parse().unwrap());
        let milter = places.get("milter").map(|place| place.parse().unwrap());
        Self {
            policy: tcp("policy"),
            socketmap: tcp("socketmap"),
            milter,
            http: tcp("http"),
            gateway,
            admin,
            child,
            log,
        }
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("/bin/kill").args([&format!("-{name}"), &self.child.0.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// Reads the log until an event with this message.
    pub fn until(&mut self, message: &str) -> Value {
        loop {
            let line = self.log.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("the daemon did not say {message:?}"));
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["message"].as_str().unwrap_or_default().contains(message) {
                return event;
            }
        }
    }

    /// How many events with this message were logged since the last look, up to now: a question's, by this client, stands for that.
    pub fn told(&mut self, message: &str, client: &mut PolicyClient) -> usize {
        let (mark, mut told) = ("no address, but a mark in the log", 0);
        client.ask(mark);
        loop {
            let line = self.log.recv_timeout(PATIENCE).expect("each question has its line");
            if line.contains(mark) {
                return told;
            }
            told += usize::from(line.contains(message));
        }
    }

    pub fn kill(mut self) {
        self.child.0.kill().unwrap();
        self.child.0.wait().unwrap();
    }

    /// Tells it to stop, and waits until it has done so properly.
    pub fn stop(self) {
        self.signal("TERM");
        assert_eq!(self.end().0, 0);
    }

    /// Waits for its end and gives the rest of its log.
    pub fn end(mut self) -> (i32, String) {
        let code = self.child.0.wait().unwrap().code().unwrap_or(-1);
        (code, self.log.iter().collect::<Vec<_>>().join("\n"))
    }

    pub fn cache(&self, args: &[&str]) -> (i32, String, String) {
        let socket = self.admin.to_str().unwrap();
        finished(program().arg("cache").args(args).args(["--socket", socket]).output().unwrap())
    }

    /// A command that talks to it by its admin socket.
    pub fn command(&self, args: &[&str]) -> (i32, String, String) {
        let socket = self.admin.to_str().unwrap();
        finished(program().args(args).args(["--socket", socket]).output().unwrap())
    }

    pub fn client(&self) -> PolicyClient {
        PolicyClient::connect(self.policy)
    }

    pub fn get(&self, path: &str) -> String {
        self.http("GET", path, "", "")
    }

    /// Makes the first account by the link in the log, as a browser without scripts does; gives its cookie.
    pub fn set_up(&mut self) -> String {
        let told = self.until("there is no account yet");
        let key = told["message"].as_str().unwrap().split_once("/setup?key=").unwrap().1;
        let key = key.split_whitespace().next().unwrap();
        let password = "correct+horse+battery+staple";
        let answer = self.form("/setup", &format!("key={key}&account=admin&password={password}&again={password}"));
        let cookie =
            answer.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap_or_else(|| panic!("{answer}"));
        cookie.split(';').next().unwrap().to_owned()
    }

    /// A page as the one with this cookie sees it.
    pub fn page(&self, cookie: &str, path: &str) -> String {
        self.http("GET", path, &format!("Cookie: {cookie}\r\n"), "")
    }

    /// Sends a page's form, as a browser without scripts does.
    pub fn form(&self, path: &str, form: &str) -> String {
        self.http("POST", path, "Content-Type: application/x-www-form-urlencoded\r\n", form)
    }

    fn http(&self, method: &str, path: &str, headers: &str, body: &str) -> String {
        exchange(TcpStream::connect(self.http).unwrap(), method, path, headers, body)
    }
}

/// A request of the API by the admin socket, done without the time that a command of its own takes.
pub fn request(admin: &Path, method: &str, path: &str, body: &str) {
    let answer = requested(admin, method, path, body);
    assert!(answer.starts_with("HTTP/1.1 20"), "{method} {path}: {answer}");
}

/// Likewise, and what it is answered.
pub fn requested(admin: &Path, method: &str, path: &str, body: &str) -> String {
    let stream = UnixStream::connect(admin).unwrap();
    exchange(stream, method, path, "Content-Type: application/json\r\n", body)
}

/// One HTTP request, and its answer to the end.
fn exchange(mut stream: impl Read + Write, method: &str, path: &str, headers: &str, body: &str) -> String {
    send(&mut stream, method, path, headers, body);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// One HTTP request, whose answer nobody waits for.
pub fn send(stream: &mut impl Write, method: &str, path: &str, headers: &str, body: &str) {
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
}

/// A metric without labels.
pub fn counter(daemon: &Daemon, name: &str) -> u64 {
    let metrics = daemon.get("/metrics");
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or_default();
    line.parse().unwrap_or_else(|_| panic!("{name} is not in {metrics}"))
}

/// A process that does not outlive its test.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks as Postfix's smtpd does.
pub struct PolicyClient(BufReader<TcpStream>);

impl PolicyClient {
    pub fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).unwrap()
    }

    pub fn try_connect(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    pub fn send(&mut self, recipient: &str) -> std::io::Result<()> {
        let request = format!(
            "request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\nsender=\nrecipient={recipient}\ninstance=1\n\n"
        );
        self.0.get_mut().write_all(request.as_bytes())
    }

    pub fn answer(&mut self) -> std::io::Result<String> {
        let (mut action, mut empty) = (String::new(), String::new());
        if self.0.read_line(&mut action)? == 0 || self.0.read_line(&mut empty)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        assert_eq!(empty, "\n");
        Ok(action.trim_end().strip_prefix("action=").unwrap().to_owned())
    }

    pub fn ask(&mut self, recipient: &str) -> String {
        self.send(recipient).unwrap();
        self.answer().unwrap()
    }
}
