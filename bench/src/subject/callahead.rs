//! Callahead as it is installed: `callahead serve` with a configuration file, its log as JSON in a file.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use callahead_cache::{Cache, DomainState, Options, RecipientState, Record, StoredReply, Timestamp};
use callahead_smtp::{Domain, Recipient};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use crate::load::names;

/// How long a start may take; one over ten million entries too.
const START_WITHIN: Duration = Duration::from_secs(60);
/// `harvest.limit` as it is shipped.
pub const HARVEST: u32 = 20;
/// Entries that are handed to the cache's writer before it is waited for.
const FILL_BATCH: u64 = 16_384;

/// How a daemon is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its folder: configuration, log, and the cache in `data`. It outlives the daemon.
    pub folder: PathBuf,
    /// Where all its domains are routed to.
    pub destination: SocketAddr,
    /// How many domains it has.
    pub domains: u64,
    /// Lines for `[callout]`.
    pub callout: String,
    /// Whether it listens as a gateway too.
    pub gateway: bool,
    /// `harvest.limit`: how many missing recipients a client may ask for. As it is shipped; 0 lets guessing clients guess.
    pub harvest: u32,
    /// Further tables.
    pub more: String,
    /// What it logs (`CALLAHEAD_LOG`), which has to hold what it says at its start. As it is shipped: that and every decision.
    pub log: &'static str,
}

/// A running daemon. It is killed when dropped.
#[derive(Debug)]
pub struct Callahead {
    child: Child,
    folder: PathBuf,
    places: HashMap<String, String>,
    /// From its start to its first word that it is ready.
    pub ready_after: Duration,
}

impl Setup {
    /// A daemon with one domain.
    pub fn new(folder: &Path, destination: SocketAddr) -> Self {
        let folder = folder.to_owned();
        Self {
            folder,
            destination,
            domains: 1,
            callout: String::new(),
            gateway: false,
            harvest: HARVEST,
            more: String::new(),
            log: "info",
        }
    }

    fn write(&self) -> anyhow::Result<PathBuf> {
        let folder = self.folder.display();
        let gateway = if self.gateway { "gateway = [\"127.0.0.1:0\"]\n" } else { "" };
        // All clients of the gateway come from one address here.
        let mut text = format!(
            "node = \"filter.example\"\ndata_dir = \"{folder}/data\"\n[listen]\npolicy = [\"127.0.0.1:0\"]\n{gateway}\
             http = [\"127.0.0.1:0\"]\nadmin = [\"unix:{folder}/admin.sock\"]\n[resolver]\nservers = [\"127.0.0.1:9\"]\n[callout]\n{}\n\
             [harvest]\nlimit = {}\n[gateway]\nconnections_per_client = 100000\n{}\n",
            self.callout, self.harvest, self.more
        );
        for number in 0..self.domains {
            let name = names::domain(number);
            writeln!(text, "[[domain]]\nname = \"{name}\"\nroute = [\"{}\"]", self.destination)?;
        }
        let path = self.folder.join("callahead.toml");
        fs::create_dir_all(&self.folder)?;
        fs::write(&path, text)?;
        Ok(path)
    }
}

/// The program, beside this one.
///
/// # Errors
/// When it is not there.
fn program() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("callahead");
    if !path.exists() {
        bail!("{} is not there: run \"cargo xtask bench\", which builds it", path.display());
    }
    Ok(path)
}

impl Callahead {
    /// Starts it and waits until it says that it is ready.
    ///
    /// # Errors
    /// When it ends instead; with its log.
    pub async fn start(setup: &Setup) -> anyhow::Result<Self> {
        let config = setup.write()?;
        let log = File::create(setup.folder.join("log"))?;
        drop(log);
        // To be appended to, so that it can be emptied between two rounds.
        let log = File::options().append(true).open(setup.folder.join("log"))?;
        let began = Instant::now();
        let child = Command::new(program()?)
            .args(["serve", "--log-format", "json", "--config"])
            .arg(config)
            .env("CALLAHEAD_LOG", setup.log)
            .stdin(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let mut daemon =
            Self { child, folder: setup.folder.clone(), places: HashMap::new(), ready_after: Duration::ZERO };
        loop {
            let log = fs::read_to_string(daemon.log()).unwrap_or_default();
            // The last line may be half a line.
            let whole = &log[..log.rfind('\n').map_or(0, |end| end + 1)];
            let events = whole.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let mut ready = false;
            for event in events {
                ready |= event["message"] == "ready";
                if let ("listening", Some(name), Some(place)) = (
                    event["message"].as_str().unwrap_or_default(),
                    event["listener"].as_str(),
                    event["address"].as_str(),
                ) {
                    daemon.places.insert(name.to_owned(), place.to_owned());
                }
            }
            if ready {
                daemon.ready_after = began.elapsed();
                return Ok(daemon);
            }
            if daemon.child.try_wait()?.is_some() || began.elapsed() > START_WITHIN {
                bail!("callahead did not start:\n{log}");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Whether its log says so by now.
    pub fn has_said(&self, what: &str) -> bool {
        fs::read_to_string(self.log()).unwrap_or_default().contains(what)
    }

    /// Waits until the cache's file has been looked through, which is done beside the daemon's work after an end like [`kill`](Self::kill).
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn until_looked_through(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        while !self.has_said("its file was looked through and is sound") {
            if began.elapsed() > START_WITHIN {
                bail!("callahead did not look through its cache's file:\n{}", fs::read_to_string(self.log())?);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Where a listener is.
    ///
    /// # Errors
    /// When it has none of that name.
    pub fn address(&self, listener: &str) -> anyhow::Result<SocketAddr> {
        let place = self.places.get(listener).with_context(|| format!("callahead does not listen for {listener}"))?;
        place.parse().with_context(|| format!("callahead listens for {listener} at {place:?}"))
    }

    /// Its process id; 0 when it has ended.
    pub fn process(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Throws its log away, which would fill the disk over many rounds.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn empty_log(&self) -> anyhow::Result<()> {
        Ok(File::options().write(true).open(self.log())?.set_len(0)?)
    }

    /// Clears a domain through the admin socket: how long that took until it was acknowledged, and how many entries it forgot.
    ///
    /// # Errors
    /// When it is not acknowledged.
    pub async fn clear_domain(&self, domain: &str) -> anyhow::Result<(Duration, u64)> {
        let mut stream = UnixStream::connect(self.folder.join("admin.sock")).await?;
        let request =
            format!("DELETE /api/v1/cache?domain={domain} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
        let began = Instant::now();
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::with_capacity(4096);
        while stream.read_buf(&mut answer).await? > 0 && !answer.ends_with(b"}") {}
        let took = began.elapsed();
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").context("the clear got no answer")?;
        if !head.starts_with("HTTP/1.1 200") {
            bail!("the clear got {head}\n{body}");
        }
        let json = body.find('{').and_then(|at| serde_json::from_str::<Value>(&body[at..]).ok()).unwrap_or_default();
        Ok((took, json["entries"].as_u64().or_else(|| json["cleared"].as_u64()).unwrap_or_default()))
    }

    /// Ends it as a power cut would end it.
    ///
    /// # Errors
    /// When that is not possible.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().await?;
        Ok(())
    }
}

/// Fills a cache, offline, with so many recipients in the set-up's domains, as if each had been asked for a minute ago.
///
/// # Errors
/// When the cache can't be written.
pub async fn fill(setup: &Setup, entries: u64) -> anyhow::Result<()> {
    let domains = setup.domains;
    let now = Timestamp(u64::try_from(jiff::Timestamp::now().as_millisecond())?);
    let cache = Cache::open(&setup.folder.join("data/cache"), &Options::default(), now)?;
    let asked = Timestamp(now.0 - 60_000);
    let epoch = callahead_cache::Epoch::default();
    for number in 0..domains {
        let record = record(DomainState::NotAcceptAll, asked, 12, 550, "User unknown");
        drop(cache.put_domain(&Domain::parse(&names::domain(number))?, record, epoch));
        if number % FILL_BATCH == FILL_BATCH - 1 {
            cache.flush().await?;
        }
    }
    cache.flush().await?;
    let mut address = String::new();
    for number in 0..entries {
        address.clear();
        names::write_address(&mut address, number, domains);
        let recipient: Recipient = address.parse()?;
        let record = if names::exists(number) {
            record(RecipientState::Valid, asked, 96, 250, "Ok")
        } else {
            let text = format!("<{address}>: Recipient address rejected: User unknown in local recipient table");
            record(RecipientState::Invalid, asked, 2, 550, &text)
        };
        drop(cache.put_recipient(&recipient, record, epoch));
        if number % FILL_BATCH == FILL_BATCH - 1 {
            cache.flush().await?;
        }
    }
    cache.flush().await?;
    // What is known of a domain without its route is forgotten at the start.
    let routes = (0..domains).map(|number| (names::domain(number), Some(setup.destination.to_string())));
    cache.keep_routes(routes.collect()).await?;
    let health = cache.health();
    if health.dropped > 0 || health.write_error.is_some() {
        bail!("the cache could not be filled: {health:?}");
    }
    Ok(())
}

fn record<S>(state: S, asked: Timestamp, hours: u64, code: u16, text: &str) -> Record<S> {
    Record {
        state,
        checked_at: asked,
        expires_at: asked.after(Duration::from_secs(hours * 3600)),
        destination: "127.0.0.1:25".to_owned(),
        reply: Some(StoredReply { code, enhanced: None, text: text.to_owned() }),
    }
}
