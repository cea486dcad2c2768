//! Connections: TCP in the product, anything in tests.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::outcome::BoxFuture;

/// A connection to a destination.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection of any kind.
pub type BoxStream = Box<dyn Stream>;

/// Whoever can connect.
pub trait Dial: Send + Sync + 'static {
    /// Connects; the caller bounds the time.
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>>;
}

/// Connects by TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpDialer;

impl Dial for TcpDialer {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as BoxStream)
        })
    }
}
