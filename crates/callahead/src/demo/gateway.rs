//! The demo's second half: messages through the gateway, as a sender's server would send them.

use std::net::SocketAddr;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// What is sent: the recipients, the content, and what it shows.
const MESSAGES: &[(&[&str], &str, &str)] = &[
    (&["anna@normal.example"], "Subject: hello\r\n\r\nHello Anna.\r\n", "a message"),
    (&["anna@normal.example", "ben@normal.example"], "Subject: hello\r\n\r\nHello both.\r\n", "two recipients"),
    (&["nobody@normal.example"], "Subject: hello\r\n\r\nHello?\r\n", "no such mailbox"),
    (&["anna@elsewhere.example"], "Subject: hello\r\n\r\nHello?\r\n", "a domain that is not ours"),
    (&["anna@normal.example", "someone@all.example"], "Subject: hello\r\n\r\nHello.\r\n", "two destinations"),
    (&["anna@normal.example"], "Subject: hi\r\n\r\nx\n.\r\nMAIL FROM:<y@z.example>\r\n", "SMTP smuggling"),
];

/// What became of a message.
pub(super) struct Sent {
    /// What it shows.
    pub(super) what: &'static str,
    /// Each command that was refused, and the last reply to the message: what was said, and the answer.
    pub(super) answers: Vec<(String, String)>,
    /// The message was accepted.
    pub(super) accepted: bool,
}

/// Sends all of them in one session.
pub(super) async fn send(gateway: SocketAddr) -> anyhow::Result<Vec<Sent>> {
    let mut client = Client { stream: BufReader::new(TcpStream::connect(gateway).await?) };
    client.reply().await?;
    client.say("EHLO sender.example").await?;
    let mut sent = Vec::new();
    for (recipients, content, what) in MESSAGES {
        let mut message = Sent { what, answers: Vec::new(), accepted: false };
        client.say("MAIL FROM:<someone@sender.example>").await?;
        let mut accepted = false;
        for recipient in *recipients {
            let reply = client.say(&format!("RCPT TO:<{recipient}>")).await?;
            accepted |= reply.starts_with('2');
            message.answers.push(((*recipient).to_owned(), reply));
        }
        if accepted {
            let reply = client.say("DATA").await?;
            anyhow::ensure!(reply.starts_with("354"), "DATA was refused: {reply}");
            client.stream.write_all(content.as_bytes()).await?;
            let reply = client.say(".").await?;
            message.accepted = reply.starts_with('2');
            message.answers.push(("the message".to_owned(), reply));
        } else {
            client.say("RSET").await?;
        }
        sent.push(message);
    }
    client.say("QUIT").await?;
    Ok(sent)
}

struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    async fn say(&mut self, line: &str) -> anyhow::Result<String> {
        self.stream.write_all(format!("{line}\r\n").as_bytes()).await?;
        self.reply().await
    }

    /// The last line of a reply.
    async fn reply(&mut self) -> anyhow::Result<String> {
        loop {
            let mut line = String::new();
            let read = self.stream.read_line(&mut line).await.context("the gateway can't be read")?;
            anyhow::ensure!(read > 0, "the gateway closed the connection");
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(line.trim_end().to_owned());
            }
        }
    }
}
