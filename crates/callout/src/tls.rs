//! TLS towards destinations (RFC 3207, rustls).

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;

use crate::dial::BoxStream;
use crate::route::Host;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The provider does not know the protocol versions.
    #[error("TLS can't be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// What is needed to encrypt sessions. Sessions are resumed by tickets, which halves what a handshake costs.
#[derive(Clone)]
pub struct TlsClient {
    any: Arc<ClientConfig>,
    verified: Arc<ClientConfig>,
}

impl TlsClient {
    /// With the authorities that the system trusts, and these.
    ///
    /// # Errors
    /// When the library can't be set up.
    pub fn new(extra_roots: &[CertificateDer<'static>]) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(system.certs);
        for root in extra_roots {
            roots.add(root.clone())?;
        }
        if roots.is_empty() {
            tracing::warn!("the system has no certificate authorities: routes with tls = \"verified\" can't be asked");
        }
        let builder =
            || ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let any = builder()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(Arc::clone(&provider))))
            .with_no_client_auth();
        let verified = builder()?.with_root_certificates(roots).with_no_client_auth();
        Ok(Self { any: Arc::new(any), verified: Arc::new(verified) })
    }

    /// Makes the handshake.
    pub(crate) async fn handshake(&self, stream: BoxStream, host: &Host, verified: bool) -> Result<BoxStream, String> {
        let name = match host {
            Host::Name(name) => ServerName::try_from(name.as_str().to_owned()).map_err(|error| error.to_string())?,
            Host::Address(address) => ServerName::IpAddress((*address).into()),
        };
        let config = if verified { &self.verified } else { &self.any };
        let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
        stream.map(|stream| Box::new(stream) as BoxStream).map_err(|error| error.to_string())
    }
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsClient")
    }
}

/// Takes any certificate: opportunistic encryption is against those who listen, not against those who pretend (RFC 7435).
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    // Certificates that rustls can't read (X.509 v1) would fail here, for nothing gained.
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
