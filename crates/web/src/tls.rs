//! TLS on the http listener: certificate and key from files, read again when they are renewed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What an http listener with TLS shows. Clones share it.
#[derive(Clone, Debug)]
pub struct HttpTls {
    inner: Arc<ArcSwap<Shown>>,
    /// How the files looked when they were read last, with or without success.
    seen: Arc<Mutex<Stamps>>,
}

#[derive(Debug)]
struct Shown {
    config: Arc<ServerConfig>,
    certificate: PathBuf,
    key: PathBuf,
}

/// When the certificate and the key were changed, and their sizes.
type Stamps = [Option<(SystemTime, u64)>; 2];

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

impl HttpTls {
    /// From PEM files: the certificate with its chain, and its key.
    ///
    /// # Errors
    /// Which file can't be used, and why.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsFilesError> {
        // Before they are read: a change in between is found the next time.
        let seen = Arc::new(Mutex::new(stamps(certificate, key)));
        let config = Arc::new(read(certificate, key)?);
        let shown = Shown { config, certificate: certificate.to_owned(), key: key.to_owned() };
        Ok(Self { inner: Arc::new(ArcSwap::from_pointee(shown)), seen })
    }

    /// Reads the files again; connections from now on get what is in them.
    ///
    /// # Errors
    /// Which file can't be used, and why; then the old ones stay in force.
    pub fn reload(&self) -> Result<(), TlsFilesError> {
        let shown = self.inner.load();
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = stamps(&shown.certificate, &shown.key);
        self.replace(&Self::load(&shown.certificate, &shown.key)?);
        Ok(())
    }

    /// Reads the files again where they have changed since they were read last; says whether they had. Files that can't be used are told of once.
    ///
    /// # Errors
    /// As [`reload`](Self::reload).
    pub fn refresh(&self) -> Result<bool, TlsFilesError> {
        let shown = self.inner.load();
        if *self.seen.lock().unwrap_or_else(PoisonError::into_inner) == stamps(&shown.certificate, &shown.key) {
            return Ok(false);
        }
        self.reload().map(|()| true)
    }

    /// Shows from now on what `other` shows, of its files.
    pub fn replace(&self, other: &Self) {
        let seen = *other.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
        self.inner.store(other.inner.load_full());
    }

    /// Where the certificate and the key are.
    pub fn files(&self) -> (PathBuf, PathBuf) {
        let shown = self.inner.load();
        (shown.certificate.clone(), shown.key.clone())
    }

    pub(crate) fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        Arc::clone(&self.inner.load().config).into()
    }
}

fn stamps(certificate: &Path, key: &Path) -> Stamps {
    [certificate, key].map(|path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

fn read(certificate: &Path, key: &Path) -> Result<ServerConfig, TlsFilesError> {
    let unreadable = |why: String| TlsFilesError::Certificate { file: certificate.to_owned(), why };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(error.to_string()))?;
    if chain.is_empty() {
        return Err(unreadable("there is no certificate in it".to_owned()));
    }
    let secret = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| TlsFilesError::Key { file: key.to_owned(), why: error.to_string() })?;
    let unusable = |error: rustls::Error| TlsFilesError::Pair {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        why: error.to_string(),
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
