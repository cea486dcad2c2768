//! Just enough of HTTP/1.1 to ask for pages as a browser does, one connection a request, and to know when the last octet came.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

/// How long an answer may take before the measurement fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Octets between two looks while an answer is drained.
const DRAINED: u64 = 4 << 20;

/// Where requests go.
#[derive(Clone, Debug)]
pub enum Place {
    /// The http listener.
    Tcp(SocketAddr),
    /// The admin socket.
    Unix(PathBuf),
}

/// One who asks, with the headers that say who it is.
#[derive(Clone, Debug)]
pub struct Visitor {
    /// Where.
    pub place: Place,
    /// Header lines, each with its CRLF.
    pub headers: String,
}

/// What came back.
#[derive(Debug)]
pub struct Page {
    /// The status code.
    pub status: u16,
    /// Status line and header lines.
    pub head: String,
    /// The body as far as it was read, with the marks of chunks where it came in such.
    pub body: String,
    /// From before the connection was made to the last octet.
    pub took: Duration,
}

impl Page {
    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none, or the status is no success.
    pub fn json(&self) -> anyhow::Result<Value> {
        if !(200..300).contains(&self.status) {
            bail!("{}\n{}", self.head, self.body);
        }
        serde_json::from_str(&self.body).with_context(|| format!("this is no JSON: {}", self.body))
    }
}

impl Visitor {
    /// Somebody who says nothing of themselves.
    pub fn new(place: Place) -> Self {
        Self { place, headers: String::new() }
    }

    /// Asks and reads the answer to its end, or up to `most` octets.
    ///
    /// # Errors
    /// When the connection breaks or nothing comes for a minute.
    pub async fn ask(&self, method: &str, target: &str, body: &str, kind: &str, most: usize) -> anyhow::Result<Page> {
        let began = Instant::now();
        let length = body.len();
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{}Content-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}",
            self.headers
        );
        let answer = tokio::time::timeout(PATIENCE, async {
            match &self.place {
                Place::Tcp(address) => exchange(TcpStream::connect(address).await?, &request, most).await,
                Place::Unix(path) => exchange(UnixStream::connect(path).await?, &request, most).await,
            }
        });
        let answer = answer.await.with_context(|| format!("{target} got no answer"))??;
        let took = began.elapsed();
        let (head, body) = answer.split_once("\r\n\r\n").context("an answer without an end of its head")?;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("an answer without a status")?;
        Ok(Page { status, head: head.to_owned(), body: body.to_owned(), took })
    }

    /// Reads an answer and throws it away; `look` is called now and then meanwhile. Gives its octets.
    ///
    /// # Errors
    /// When the connection breaks, or the place is none of TCP.
    pub async fn drain(&self, target: &str, mut look: impl FnMut()) -> anyhow::Result<u64> {
        let Place::Tcp(address) = &self.place else { bail!("only the http listener is drained") };
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{}\r\n", self.headers);
        stream.write_all(request.as_bytes()).await?;
        let (mut part, mut octets, mut looked) = (vec![0; 1 << 16], 0, 0);
        loop {
            let read = stream.read(&mut part).await?;
            if read == 0 {
                return Ok(octets);
            }
            octets += read as u64;
            if octets >= looked + DRAINED {
                looked = octets;
                look();
            }
        }
    }

    /// Asks for a page and reads all of it.
    ///
    /// # Errors
    /// As [`Visitor::ask`], and when the status is none of success.
    pub async fn get(&self, target: &str) -> anyhow::Result<Page> {
        let page = self.ask("GET", target, "", "text/plain", usize::MAX).await?;
        if page.status != 200 {
            bail!("{target}: {}\n{}", page.head, page.body);
        }
        Ok(page)
    }
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
    most: usize,
) -> std::io::Result<String> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::with_capacity(1 << 16);
    while answer.len() < most && stream.read_buf(&mut answer).await? > 0 {}
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
