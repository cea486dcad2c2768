//! Servers that read a request and give a constant answer: the least that any server of the protocol has to do on this runtime.
//!
//! The runtime is the one that Callahead runs on, the sockets have the same options, and requests are told apart as cheaply as can be:
//! by their last octets.

use std::io::Write as _;
use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// The answer to every policy request.
const DUNNO: &[u8] = b"action=DUNNO\n\n";

/// Which protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bare {
    /// The policy delegation protocol.
    Policy,
    /// SMTP: everything is accepted.
    Smtp,
}

impl Bare {
    /// Listens on a port of 127.0.0.1, prints it as a line, and answers until standard input ends.
    ///
    /// # Errors
    /// When no socket is to be had.
    pub fn run(self) -> anyhow::Result<()> {
        tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
            let socket = TcpSocket::new_v4()?;
            socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
            let listener = socket.listen(1024)?;
            writeln!(std::io::stdout(), "{}", listener.local_addr()?)?;
            let answering = tokio::spawn(self.accept(listener));
            let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await;
            answering.abort();
            Ok(())
        })
    }

    async fn accept(self, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(async move {
                // A connection that breaks is the client's way to end.
                let _ = match self {
                    Self::Policy => policy(stream).await,
                    Self::Smtp => smtp(stream).await,
                };
            });
        }
    }
}

async fn policy(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 4096];
    let mut last = [0; 2];
    loop {
        let length = stream.read(&mut buffer).await?;
        match length {
            0 => return Ok(()),
            1 => last = [last[1], buffer[0]],
            _ => last = [buffer[length - 2], buffer[length - 1]],
        }
        if last == *b"\n\n" {
            stream.write_all(DUNNO).await?;
        }
    }
}

async fn smtp(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(b"220 bare.example ESMTP\r\n").await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = stream.read(&mut buffer).await?;
        match buffer[..length].first() {
            None => return Ok(()),
            Some(b'Q') => {
                stream.write_all(b"221 2.0.0 Bye\r\n").await?;
                return stream.shutdown().await;
            }
            Some(_) if buffer[..length].ends_with(b"\n") => stream.write_all(b"250 2.1.5 Ok\r\n").await?,
            Some(_) => {}
        }
    }
}
