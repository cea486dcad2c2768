//! TLS towards clients, for the gateway and for HTTP: a certificate and its key from files, read again when they are renewed.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsFilesError {
    /// The certificate's file can't be read.
    #[error("the certificate {} can't be read: {why}; it has to be PEM, the host's own certificate first", .file.display())]
    Certificate {
        /// Which.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The key's file can't be read.
    #[error("the key {} can't be read: {why}; it has to be PEM and not encrypted", .file.display())]
    Key {
        /// Which.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The two do not belong together, or are of a kind that rustls does not know.
    #[error("the certificate {} and the key {} can't be used: {why}", .certificate.display(), .key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// Where the certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The host's own certificate and behind it the ones that sign it, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

/// What clients are shown. Clones share it.
#[derive(Clone)]
pub struct TlsServer {
    inner: Arc<Inner>,
}

struct Inner {
    shown: ArcSwap<Shown>,
    seen: Mutex<Seen>,
    /// What is offered by ALPN (RFC 7301).
    protocols: Vec<Vec<u8>>,
}

struct Shown {
    config: Arc<ServerConfig>,
    files: TlsFiles,
}

/// How the files looked.
#[derive(Clone)]
struct Seen {
    /// When what is shown was read.
    read: Stamps,
    /// When they could not be read last, and why; `None` where they could.
    failed: Option<(Stamps, String)>,
}

/// When the certificate and the key were changed, and how long they are.
type Stamps = [Option<(SystemTime, u64)>; 2];

// === impl TlsServer ===

impl TlsServer {
    /// Reads a certificate and its key. Offers these protocols by ALPN (RFC 7301); none where there is none, as SMTP has none.
    ///
    /// # Errors
    /// Which file can't be used, and why.
    pub fn load(files: TlsFiles, protocols: &[&[u8]]) -> Result<Self, TlsFilesError> {
        let protocols: Vec<_> = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        // Before they are read: a change in between is found the next time.
        let seen = Mutex::new(Seen { read: stamps(&files), failed: None });
        let shown = ArcSwap::from_pointee(Shown::read(files, &protocols)?);
        Ok(Self { inner: Arc::new(Inner { shown, seen, protocols }) })
    }

    /// Reads the files again if they have changed since what is shown was read; whether they had. Connections from now on get what is in them.
    ///
    /// # Errors
    /// As [`load`](Self::load); what was in use stays in use then. Each call tries again, since what was wrong (an owner, a mode, no file
    /// descriptor left) may be mended without a change of the files, but the same error of the same files is given once and then is `Ok(false)`.
    pub fn refresh(&self) -> Result<bool, TlsFilesError> {
        let Inner { shown, protocols, .. } = &*self.inner;
        // Until it is done: what `replace` shows meanwhile would be lost.
        let mut seen = self.seen();
        let files = self.files();
        let now = stamps(&files);
        if seen.read == now {
            return Ok(false);
        }
        match Shown::read(files, protocols) {
            Ok(read) => {
                *seen = Seen { read: now, failed: None };
                shown.store(Arc::new(read));
                Ok(true)
            }
            Err(error) => {
                let failed = Some((now, error.to_string()));
                let is_known = std::mem::replace(&mut seen.failed, failed.clone()) == failed;
                if is_known { Ok(false) } else { Err(error) }
            }
        }
    }

    /// Shows from now on what `other` shows, of its files.
    pub fn replace(&self, other: &Self) {
        let read = other.seen().clone();
        let mut seen = self.seen();
        *seen = read;
        self.inner.shown.store(other.inner.shown.load_full());
    }

    /// Where the certificate and the key are.
    pub fn files(&self) -> TlsFiles {
        self.inner.shown.load().files.clone()
    }

    /// For connections from now on.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.inner.shown.load().config)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.inner.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsServer").field("files", &self.files()).finish_non_exhaustive()
    }
}

// === impl Shown ===

impl Shown {
    fn read(files: TlsFiles, protocols: &[Vec<u8>]) -> Result<Self, TlsFilesError> {
        let TlsFiles { certificate, key } = &files;
        let unreadable = |why: String| TlsFilesError::Certificate { file: certificate.clone(), why };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect)
            .map_err(|error| unreadable(error.to_string()))?;
        if chain.is_empty() {
            return Err(unreadable("there is no certificate in it".to_owned()));
        }
        let secret = PrivateKeyDer::from_pem_file(key)
            .map_err(|error| TlsFilesError::Key { file: key.clone(), why: error.to_string() })?;
        let unusable = |error: rustls::Error| TlsFilesError::Pair {
            certificate: certificate.clone(),
            key: key.clone(),
            why: error.to_string(),
        };
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_no_client_auth()
            .with_single_cert(chain, secret)
            .map_err(unusable)?;
        config.alpn_protocols = protocols.to_vec();
        Ok(Self { config: Arc::new(config), files })
    }
}

fn stamps(files: &TlsFiles) -> Stamps {
    [&files.certificate, &files.key].map(|path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}
