//! Addresses to listen on: `127.0.0.1:10040`, `[::1]:10040`, `unix:/run/callahead/policy.sock`.
//!
//! A Unix socket is bound under a name of its own, gets its mode, and is then renamed into place, so that nobody
//! can connect before the mode holds. The file of a process that died is replaced; one where somebody still answers is not.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

use crate::server::Counters;

/// A Unix socket's mode: everybody who reaches it. For what MTAs ask: their processes run as users of their own, so
/// the folder it lies in is what guards it.
pub const MODE_EVERYONE: u32 = 0o666;
/// A Unix socket's mode: its owner and its group.
pub const MODE_GROUP: u32 = 0o660;
/// A Unix socket's mode: its owner only.
pub const MODE_OWNER: u32 = 0o600;

/// Connections that wait to be accepted, at most; the system may allow fewer (`net.core.somaxconn`).
const BACKLOG: u32 = 1024;
/// How long a socket file's owner may take to answer before it counts as alive but busy.
const ALIVE_WITHIN: Duration = Duration::from_secs(1);
/// The longest path of a Unix socket: `sun_path` holds 107 octets, of which the name before the rename needs a few.
const MAX_PATH: usize = 95;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Listen {
    /// An address and a port; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// A Unix socket, by an absolute path.
    Unix(PathBuf),
}

/// Why a text is no place to listen on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// Neither form.
    #[error("{0:?} is no address to listen on: write \"127.0.0.1:10040\", \"[::1]:10040\" or \"unix:/path/to.sock\"")]
    Form(String),
    /// An IP address without a port.
    #[error("{0:?} has no port: write it as \"{1}\"")]
    NoPort(String, String),
    /// A host name.
    #[error("{0:?} has a host name: give the IP address to listen on, such as \"127.0.0.1:{1}\"")]
    Name(String, u16),
    /// A path that depends on where the program was started.
    #[error("{0:?} has a relative path: write \"unix:/path/to.sock\"")]
    Relative(String),
    /// A path that the system does not take.
    #[error("the path {0:?} is too long for a socket: {MAX_PATH} octets at most")]
    TooLong(String),
}

/// Why a place can't be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The port is taken.
    #[error("can't listen on {0}: another program has the port")]
    PortTaken(SocketAddr),
    /// Somebody answers on the Unix socket.
    #[error("can't listen on unix:{path}: another program answers there", path = .0.display())]
    SocketTaken(PathBuf),
    /// Something that is no socket is there.
    #[error("can't listen on unix:{path}: that file is no socket, and it is left alone", path = .0.display())]
    NotASocket(PathBuf),
    /// The folder is missing.
    #[error("can't listen on unix:{path}: its folder does not exist", path = .0.display())]
    NoFolder(PathBuf),
    /// Anything else that the system says.
    #[error("can't listen on {listen}: {source}")]
    Other {
        /// Where.
        listen: Listen,
        /// What the system says.
        source: io::Error,
    },
}

/// A place that is listened on. A Unix socket's file goes when this does.
#[derive(Debug)]
pub struct Bound {
    socket: Socket,
    at: Listen,
    counters: Arc<Counters>,
    _file: Option<SocketFile>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// The file of a Unix socket, removed at the end unless another has taken its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

/// A client's connection.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

// === impl Listen ===

impl FromStr for Listen {
    type Err = ListenError;
    fn from_str(text: &str) -> Result<Self, ListenError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err(ListenError::Form(text.into())),
                _ if !path.starts_with('/') => Err(ListenError::Relative(text.into())),
                _ if path.len() > MAX_PATH => Err(ListenError::TooLong(path.into())),
                _ => Ok(Self::Unix(path.into())),
            };
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Tcp(address));
        }
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = bare.parse() {
            return Err(ListenError::NoPort(text.into(), SocketAddr::new(ip, 10040).to_string()));
        }
        if let Some((host, port)) = text.rsplit_once(':')
            && let Ok(port) = port.parse()
            && host.contains(|c: char| c.is_ascii_alphabetic())
            && !host.contains(['/', ':', '['])
        {
            return Err(ListenError::Name(text.into(), port));
        }
        Err(ListenError::Form(text.into()))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Listen {
    /// Begins to listen. `mode` is the permission of a Unix socket's file, such as [`MODE_EVERYONE`].
    ///
    /// # Errors
    /// When somebody else listens there, or the system does not allow it.
    pub async fn bind(&self, mode: u32) -> Result<Bound, BindError> {
        let other = |source| BindError::Other { listen: self.clone(), source };
        let counters = Arc::<Counters>::default();
        match self {
            Self::Tcp(address) => {
                let listener = bind_tcp(*address).map_err(|error| match error.kind() {
                    io::ErrorKind::AddrInUse => BindError::PortTaken(*address),
                    _ => other(error),
                })?;
                let at = Self::Tcp(listener.local_addr().map_err(other)?);
                Ok(Bound { socket: Socket::Tcp(listener), at, counters, _file: None })
            }
            Self::Unix(path) => {
                make_room(path).await?;
                let (listener, file) = bind_unix(path, mode).map_err(other)?;
                Ok(Bound { socket: Socket::Unix(listener), at: self.clone(), counters, _file: Some(file) })
            }
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Else a restart would have to wait for connections of the process before to time out.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Sees to it that nobody else's socket is replaced.
async fn make_room(path: &Path) -> Result<(), BindError> {
    if path.parent().is_some_and(|folder| !folder.is_dir()) {
        return Err(BindError::NoFolder(path.into()));
    }
    match std::fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(BindError::NotASocket(path.into())),
        Ok(_) => {}
    }
    match tokio::time::timeout(ALIVE_WITHIN, UnixStream::connect(path)).await {
        // Nobody has it open: the process is dead. `bind_unix` replaces the file.
        Ok(Err(error)) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => Ok(()),
        Ok(Err(source)) => Err(BindError::Other { listen: Listen::Unix(path.into()), source }),
        Ok(Ok(_)) | Err(_) => Err(BindError::SocketTaken(path.into())),
    }
}

fn bind_unix(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // The process id keeps two starts at the same time apart.
    let own_name = path.with_file_name(format!(".{:x}-{name}", std::process::id()));
    // Of a process before that had the same id.
    let _ = std::fs::remove_file(&own_name);
    let listener = UnixListener::bind(&own_name)?;
    let placed: io::Result<SocketFile> = (|| {
        std::fs::set_permissions(&own_name, std::fs::Permissions::from_mode(mode))?;
        let metadata = std::fs::symlink_metadata(&own_name)?;
        std::fs::rename(&own_name, path)?;
        Ok(SocketFile { path: path.into(), identity: (metadata.dev(), metadata.ino()) })
    })();
    if placed.is_err() {
        let _ = std::fs::remove_file(&own_name);
    }
    Ok((listener, placed?))
}

// === impl Bound ===

impl Bound {
    /// Where it listens, with the port that the system chose for port 0.
    pub fn local_addr(&self) -> &Listen {
        &self.at
    }

    /// The TCP address, where it is one.
    pub fn tcp_addr(&self) -> Option<SocketAddr> {
        match &self.at {
            Listen::Tcp(address) => Some(*address),
            Listen::Unix(_) => None,
        }
    }

    /// What its connections are counted in, for metrics; stays after serving began.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// The next connection. Cancel-safe.
    ///
    /// # Errors
    /// What the system says: no file descriptors left, most often. The place goes on listening.
    pub async fn accept(&self) -> io::Result<Stream> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Answers are one small write each: waiting for more would only delay them.
                let _ = stream.set_nodelay(true);
                Ok(Stream::Tcp(stream))
            }
            Socket::Unix(listener) => listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.identity);
        if ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

// === impl Stream ===

impl Stream {
    /// Has what was read acknowledged now, and not with the next answer. A client whose small writes wait for the one before
    /// to be acknowledged (RFC 896, which Sendmail leaves on) would wait for 40 ms for something that gets no answer.
    pub(crate) fn acknowledge(&self) {
        #[cfg(target_os = "linux")]
        if let Self::Tcp(stream) = self {
            // Without it things are slower, and nothing else.
            let _ = stream.set_quickack(true);
        }
    }

    /// Writes as much as the system takes at once. For a last word to who is closed anyway.
    pub(crate) fn try_write(&self, words: &[u8]) {
        // Nothing is due to them.
        let _ = match self {
            Self::Tcp(stream) => stream.try_write(words),
            Self::Unix(stream) => stream.try_write(words),
        };
    }

    /// Who is at the other end, for the log.
    pub fn peer(&self) -> String {
        match self {
            Self::Tcp(stream) => stream.peer_addr().map_or_else(|_| "unknown".into(), |address| address.to_string()),
            Self::Unix(stream) => match stream.peer_cred() {
                Ok(credentials) => format!("uid {}", credentials.uid()),
                Err(_) => "unix".into(),
            },
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
