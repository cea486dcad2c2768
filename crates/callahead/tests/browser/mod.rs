//! Debian's Chromium without a window, driven through chromedriver by the WebDriver protocol (W3C), which is JSON over HTTP: the few
//! commands that the tests need. (fantoccini would bring a crate under MPL-2.0, which deny.toml does not allow.)
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, missing_docs)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// How long anything may take that should come at once: browsers are slow to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// The tabulator and the enter key, as WebDriver writes them.
pub const TAB: &str = "\u{e004}";
pub const ENTER: &str = "\u{e007}";
/// A window of Chromium can't be narrower: what is, is a phone.
const NARROWEST: u32 = 500;
/// The key under which WebDriver names an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// How a browser is set up.
#[derive(Clone, Copy)]
pub struct Look {
    pub width: u32,
    pub height: u32,
    pub dark: bool,
    pub script: bool,
}

pub const DESK: Look = Look { width: 1280, height: 900, dark: false, script: true };
pub const PHONE: Look = Look { width: 390, height: 844, ..DESK };

/// A browser with a profile of its own, which ends with the test.
pub struct Browser {
    driver: Child,
    at: SocketAddr,
    session: String,
    pub look: Look,
    base: String,
    _profile: TempDir,
}

/// Starts the driver, and reads its port. It takes one of IPv4, wants the same of IPv6, and ends where another process has that: `None` then.
fn chromedriver() -> Option<(Child, u16)> {
    let mut driver = Command::new("chromedriver")
        .args(["--port=0", "--log-level=SEVERE"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("chromedriver can't be started ({error}): install the Debian packages chromium and chromium-driver")
        });
    let port = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok).find_map(|line| {
        line.rsplit_once("on port ")?.1.trim_end_matches('.').parse::<u16>().ok().filter(|port| *port != 0)
    });
    let Some(port) = port else {
        let _ = driver.kill();
        let _ = driver.wait();
        return None;
    };
    Some((driver, port))
}

impl Browser {
    /// Starts one for the site at this address.
    pub fn start(site: SocketAddr, look: Look) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let (driver, port) = (0..5).find_map(|_| chromedriver()).expect("chromedriver does not say its port");
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        let mut args: Vec<String> = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--force-device-scale-factor=1",
        ]
        .map(String::from)
        .into();
        args.push(format!("--user-data-dir={}", profile.path().display()));
        let mut options = json!({"args": args});
        if !look.script {
            options["prefs"] = json!({"profile.managed_default_content_settings.javascript": 2});
        }
        let capabilities =
            json!({"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}});
        let mut browser =
            Self { driver, at, session: String::new(), look, base: format!("http://{site}"), _profile: profile };
        let session = browser.call("POST", "/session", Some(capabilities)).unwrap_or_else(|error| {
            panic!("Chromium can't be started ({error}): install the Debian packages chromium and chromium-driver")
        });
        session["sessionId"].as_str().unwrap().clone_into(&mut browser.session);
        browser.wear(look);
        browser
    }

    /// Looks at the page that is open in another way, as somebody does who turns to the other colours or takes up a phone.
    pub fn wear(&self, look: Look) {
        let colours = if look.dark { "dark" } else { "light" };
        self.devtools(
            "Emulation.setEmulatedMedia",
            // Colours that are on their way from one to the other have no contrast of their own.
            json!({"features": [
                {"name": "prefers-color-scheme", "value": colours},
                {"name": "prefers-reduced-motion", "value": "reduce"},
            ]}),
        );
        let is_phone = look.width < NARROWEST;
        let metrics = json!({"width": look.width, "height": look.height, "deviceScaleFactor": 1, "mobile": is_phone});
        self.devtools("Emulation.setDeviceMetricsOverride", metrics);
        self.devtools("Emulation.setTouchEmulationEnabled", json!({"enabled": is_phone}));
    }

    // === what a person does ===

    /// Opens a page of the site.
    pub fn open(&self, path: &str) {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.base) };
        self.must("POST", "/url", Some(json!({"url": url})));
    }

    /// Where the browser is, without the site's address.
    pub fn path(&self) -> String {
        let url = self.must("GET", "/url", None);
        url.as_str().unwrap().strip_prefix(&self.base).unwrap_or(url.as_str().unwrap()).to_owned()
    }

    /// Writes into the field with this name, instead of what was there.
    pub fn fill(&self, name: &str, text: &str) {
        let field = self.element(&format!("//main//*[@name='{name}'][not(@type='hidden')]"));
        self.must("POST", &format!("/element/{field}/clear"), Some(json!({})));
        self.must("POST", &format!("/element/{field}/value"), Some(json!({"text": text})));
    }

    /// Chooses a value of the list with this name.
    pub fn choose(&self, name: &str, value: &str) {
        let option = self.element(&format!("//select[@name='{name}']/option[@value='{value}']"));
        self.must("POST", &format!("/element/{option}/click"), Some(json!({})));
    }

    /// Clicks on the button or the link with these words.
    pub fn click(&self, words: &str) {
        let path = format!("//*[self::button or self::a][normalize-space(.)='{words}']");
        let element = self.element(&path);
        self.must("POST", &format!("/element/{element}/click"), Some(json!({})));
    }

    /// Presses keys one after another, wherever the focus is.
    pub fn press(&self, keys: &str) {
        let each = |key: char| [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})];
        let actions: Vec<Value> = keys.chars().flat_map(each).collect();
        let actions = json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]});
        self.must("POST", "/actions", Some(actions));
    }

    /// Waits until the focus is in the field with this name: a page gives it away with its first picture, which is after it is loaded, and keys
    /// that are pressed before go nowhere.
    #[track_caller]
    pub fn focuses(&self, name: &str) {
        let began = Instant::now();
        while self.run("return document.activeElement?.name ?? '';") != name {
            assert!(began.elapsed() < PATIENCE, "the focus is not in {name:?} of {}", self.path());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the page says this.
    #[track_caller]
    pub fn sees(&self, words: &str) {
        let began = Instant::now();
        loop {
            let text = self.text();
            if text.contains(words) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "the page {} does not say {words:?}:\n{text}", self.path());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What the page says.
    pub fn text(&self) -> String {
        let find = json!({"using": "css selector", "value": "body"});
        // The page may just be going away.
        let found = self.call("POST", &self.of_session("/element"), Some(find)).ok();
        let body = found.and_then(|found| found[ELEMENT].as_str().map(str::to_owned));
        let text =
            body.and_then(|body| self.call("GET", &self.of_session(&format!("/element/{body}/text")), None).ok());
        text.and_then(|text| text.as_str().map(str::to_owned)).unwrap_or_default()
    }

    pub fn source(&self) -> String {
        self.must("GET", "/source", None).as_str().unwrap().to_owned()
    }

    /// Runs a function's body in the page and gives what it returns.
    pub fn run(&self, script: &str) -> Value {
        self.must("POST", "/execute/sync", Some(json!({"script": script, "args": []})))
    }

    /// Writes what is to be seen, the page's whole length, into the folder for screenshots.
    pub fn screenshot(&self, name: &str) {
        let metrics = self.devtools("Page.getLayoutMetrics", json!({}));
        let width = metrics["cssLayoutViewport"]["clientWidth"].as_f64().unwrap();
        let height = metrics["cssContentSize"]["height"].as_f64().unwrap_or(900.0).clamp(200.0, 4000.0);
        let clip = json!({"x": 0, "y": 0, "width": width, "height": height, "scale": 1});
        let params = json!({"format": "png", "optimizeForSpeed": true, "captureBeyondViewport": true, "clip": clip});
        let shot = self.devtools("Page.captureScreenshot", params);
        let folder = target().join("screenshots");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), base64(shot["data"].as_str().unwrap())).unwrap();
    }

    /// What axe-core finds wrong by WCAG 2.2 A and AA, as text; of colours alone where nothing else is another than before.
    pub fn violations(&self, colours_alone: bool) -> String {
        let rules = match colours_alone {
            true => json!({"type": "rule", "values": ["color-contrast", "link-in-text-block"]}),
            false => json!(["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]),
        };
        if self.run("return 'axe' in window;") == false {
            self.run(&axe());
        }
        let run = json!({
            "script": format!("const done = arguments[arguments.length - 1];\n\
                axe.run(document, {{runOnly: {rules}, resultTypes: ['violations']}})\n\
                .then(found => done(found.violations.map(v => v.id + ': ' + v.nodes.map(n => n.html + ' ' + n.failureSummary).join(' | '))),\n\
                error => done(['axe-core failed: ' + error]));"),
            "args": [],
        });
        let found = self.must("POST", "/execute/async", Some(run));
        let found: Vec<&str> = found.as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
        found.join("\n")
    }

    // === the protocol ===

    fn element(&self, xpath: &str) -> String {
        let began = Instant::now();
        loop {
            let find = json!({"using": "xpath", "value": xpath});
            match self.call("POST", &self.of_session("/element"), Some(find)) {
                Ok(found) => return found[ELEMENT].as_str().unwrap().to_owned(),
                Err(error) if began.elapsed() > Duration::from_secs(10) => {
                    panic!("{xpath} is not on the page {}: {error}\n{}", self.path(), self.text())
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// A command of the DevTools protocol.
    #[track_caller]
    fn devtools(&self, command: &str, params: Value) -> Value {
        self.must("POST", "/goog/cdp/execute", Some(json!({"cmd": command, "params": params})))
    }

    fn of_session(&self, path: &str) -> String {
        format!("/session/{}{path}", self.session)
    }

    #[track_caller]
    fn must(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        self.call(method, &self.of_session(path), body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    fn call(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value, String> {
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let mut stream = TcpStream::connect(self.at).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.at,
            body.len()
        );
        stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(body.as_bytes()))
            .map_err(|e| e.to_string())?;
        // chromedriver leaves the connection open whatever it is asked for.
        let mut answer = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            answer.read_line(&mut line).map_err(|error| error.to_string())?;
            match line.trim_end().to_ascii_lowercase() {
                line if line.is_empty() => break,
                line => length = line.strip_prefix("content-length:").map_or(length, |n| n.trim().parse().unwrap()),
            }
        }
        let mut json = vec![0; length];
        answer.read_exact(&mut json).map_err(|error| error.to_string())?;
        let json = String::from_utf8_lossy(&json);
        let json: Value = serde_json::from_str(&json).map_err(|error| format!("{error}: {json}"))?;
        match json["value"]["error"].as_str() {
            Some(error) => Err(format!("{error}: {}", json["value"]["message"].as_str().unwrap_or_default())),
            None => Ok(json["value"].clone()),
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.call("DELETE", &self.of_session(""), None);
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// The folder that cargo builds in.
fn target() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_callahead")).ancestors().nth(2).unwrap().to_owned()
}

fn axe() -> String {
    let path = target().join("npm/node_modules/axe-core/axe.min.js");
    std::fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!(
            "axe-core (npm) is not in {}: {error}; \"cargo xtask roots\" fetches it with the Debian package npm",
            path.display()
        )
    })
}

fn base64(text: &str) -> Vec<u8> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u32> = text.bytes().filter(|c| *c != b'=').map(|c| u32::from(value(c))).collect();
    let mut octets = Vec::with_capacity(digits.len());
    for group in digits.chunks(4) {
        let bits = group.iter().enumerate().fold(0, |bits, (at, digit)| bits | digit << (18 - 6 * at));
        octets.extend(bits.to_be_bytes()[1..].iter().take(group.len() - 1));
    }
    octets
}
