//! Servers that read a request and give a constant answer: the least that any server of the protocol has to do on this runtime. And one that
//! asks a destination first: the least that a callout is.
//!
//! The runtime is the one that Callahead runs on, the sockets have the same options, and requests are told apart as cheaply as can be:
//! by their last octets.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::least::Least;

/// The answer to every policy request.
const DUNNO: &[u8] = b"action=DUNNO\n\n";
const REJECT: &[u8] = b"action=550 5.1.1 User unknown\n\n";

/// Which protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bare {
    /// The policy delegation protocol.
    Policy,
    /// SMTP: everything is accepted.
    Smtp,
    /// The policy delegation protocol, with the words of a callout to this destination behind each request: nothing is parsed but the
    /// recipient, nothing kept, nothing logged, no reply looked at but for its first digit, and no session is ever ended.
    Callout(SocketAddr),
}

impl Bare {
    /// Listens on a port of 127.0.0.1, prints it as a line, and answers until standard input ends: always the same, or what the least knows,
    /// which is then told of it.
    ///
    /// # Errors
    /// When no socket is to be had.
    pub fn run(self, least: Option<Arc<Least>>) -> anyhow::Result<()> {
        tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
            let socket = TcpSocket::new_v4()?;
            socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
            let listener = socket.listen(1024)?;
            writeln!(std::io::stdout(), "{}", listener.local_addr()?)?;
            let answering = tokio::spawn(self.accept(listener, least));
            let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await;
            answering.abort();
            Ok(())
        })
    }

    async fn accept(self, listener: TcpListener, least: Option<Arc<Least>>) {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let least = least.clone();
            tokio::spawn(async move {
                let least = least.as_deref();
                // A connection that breaks is the client's way to end.
                let _ = match self {
                    Self::Policy => policy(stream, least).await,
                    Self::Smtp => smtp(stream, least).await,
                    Self::Callout(destination) => callout(stream, destination, least).await,
                };
            });
        }
    }
}

async fn policy(mut stream: TcpStream, least: Option<&Least>) -> std::io::Result<()> {
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
            // The generator sends a request in one piece.
            let accepts = least.is_none_or(|least| answer(least, recipient(&buffer[..length])));
            stream.write_all(if accepts { DUNNO } else { REJECT }).await?;
        }
    }
}

/// Of a policy request.
fn recipient(request: &[u8]) -> &[u8] {
    request.split(|octet| *octet == b'\n').find_map(|line| line.strip_prefix(b"recipient=")).unwrap_or_default()
}

fn answer(least: &Least, recipient: &[u8]) -> bool {
    let accepts = least.accepts(recipient);
    least.tell(recipient, accepts);
    accepts
}

async fn smtp(mut stream: TcpStream, least: Option<&Least>) -> std::io::Result<()> {
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
            Some(_) if buffer[..length].ends_with(b"\n") => {
                let rcpt = || buffer[..length].strip_prefix(b"RCPT TO:<")?.strip_suffix(b">\r\n");
                let accepts = least.is_none_or(|least| rcpt().is_none_or(|recipient| answer(least, recipient)));
                let reply: &[u8] = if accepts { b"250 2.1.5 Ok\r\n" } else { b"550 5.1.1 User unknown\r\n" };
                stream.write_all(reply).await?;
            }
            Some(_) => {}
        }
    }
}

async fn callout(mut stream: TcpStream, destination: SocketAddr, least: Option<&Least>) -> std::io::Result<()> {
    let mut session = TcpStream::connect(destination).await?;
    session.set_nodelay(true)?;
    let mut buffer = vec![0; 4096];
    replies(&mut session, &mut buffer, 1).await?;
    session.write_all(b"EHLO bare.example\r\n").await?;
    replies(&mut session, &mut buffer, 1).await?;
    let mut request = Vec::new();
    let mut commands = Vec::new();
    loop {
        request.clear();
        while !request.ends_with(b"\n\n") {
            let length = stream.read(&mut buffer).await?;
            if length == 0 {
                return Ok(());
            }
            request.extend_from_slice(&buffer[..length]);
        }
        let recipient = recipient(&request);
        commands.clear();
        commands.extend_from_slice(b"RSET\r\nMAIL FROM:<>\r\nRCPT TO:<");
        commands.extend_from_slice(recipient);
        commands.extend_from_slice(b">\r\n");
        session.write_all(&commands).await?;
        let exists = replies(&mut session, &mut buffer, 3).await? == b'2';
        if let Some(least) = least {
            least.tell(recipient, exists);
        }
        stream.write_all(if exists { DUNNO } else { REJECT }).await?;
    }
}

/// Reads so many replies, and gives the first digit of the last line.
async fn replies(session: &mut TcpStream, buffer: &mut [u8], mut owed: usize) -> std::io::Result<u8> {
    // The line that is coming in: its length, its first octet, and its fourth, which is a hyphen where more of the reply follow.
    let (mut length, mut first, mut fourth) = (0_usize, 0, 0);
    while owed > 0 {
        let octets = session.read(buffer).await?;
        if octets == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        for octet in &buffer[..octets] {
            match (*octet, length) {
                (b'\n', _) => {
                    owed -= usize::from(fourth != b'-');
                    length = 0;
                    continue;
                }
                (digit, 0) => first = digit,
                (sign, 3) => fourth = sign,
                _ => {}
            }
            length += 1;
        }
    }
    Ok(first)
}
