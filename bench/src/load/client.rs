//! One connection of the generator: asks for a recipient in its protocol's words and reads the answer.
//!
//! It shares no code with Callahead: a fault in both would measure nothing.

use std::io::{self, Write as _};
use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Protocol, Target};

/// What was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 2xx, or DUNNO.
    Accept,
    /// 5xx.
    Reject,
    /// 4xx.
    Defer,
    /// As an expectation: whichever.
    Any,
}

/// A connection, or for SMTP a row of sessions.
#[derive(Debug)]
pub struct Client {
    target: Target,
    stream: Option<TcpStream>,
    used: u32,
    /// The mail client that a policy question is about.
    speaks_for: Ipv4Addr,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Client {
    /// Connects. SMTP sessions begin with the first question.
    ///
    /// # Errors
    /// What the system says.
    pub async fn connect(target: Target) -> io::Result<Self> {
        let speaks_for = Ipv4Addr::new(192, 0, 2, 7);
        let mut client = Self { target, stream: None, used: 0, speaks_for, input: Vec::new(), output: Vec::new() };
        if target.protocol == Protocol::Policy {
            client.stream = Some(open(target).await?);
        }
        Ok(client)
    }

    /// Whose mail the policy questions are about from now on; 192.0.2.7 until then.
    pub fn speak_for(&mut self, client: Ipv4Addr) {
        self.speaks_for = client;
    }

    /// Asks for a recipient. In SMTP a session is begun before it and ended after it where that is due.
    ///
    /// # Errors
    /// When the connection breaks, or what comes is no answer.
    pub async fn ask(&mut self, address: &str) -> io::Result<Answer> {
        match self.target.protocol {
            Protocol::Policy => self.ask_policy(address).await,
            Protocol::Smtp { per_session } => {
                if self.stream.is_none() {
                    self.begin_session().await?;
                }
                self.output.clear();
                self.output.extend_from_slice(b"RCPT TO:<");
                self.output.extend_from_slice(address.as_bytes());
                self.output.extend_from_slice(b">\r\n");
                let reply = self.command().await?;
                self.used += 1;
                let answer = match reply {
                    b'2' => Answer::Accept,
                    b'5' => Answer::Reject,
                    _ => Answer::Defer,
                };
                if self.used >= per_session {
                    // The answer's words stay for a failure's report; a session that fails to end is told of.
                    self.quit().await?;
                }
                Ok(answer)
            }
        }
    }

    /// Ends a session that is open, by QUIT. Our side is closed with it, before the reply is read: Exim 4.96 keeps its 221 back for up to
    /// 200 ms in the hope that the client closes first, and that is no delay to measure.
    ///
    /// # Errors
    /// When it can't be ended properly.
    pub async fn quit(&mut self) -> io::Result<()> {
        if self.stream.is_some() && self.target.protocol != Protocol::Policy {
            let words = self.input.clone();
            self.output.clear();
            self.output.extend_from_slice(b"QUIT\r\n");
            let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
            stream.write_all(&self.output).await?;
            stream.shutdown().await?;
            self.output.clear();
            self.command().await?;
            self.input = words;
        }
        self.stream = None;
        self.used = 0;
        Ok(())
    }

    /// The last reply's words.
    pub fn last_reply(&self) -> String {
        String::from_utf8_lossy(&self.input).trim_end().to_owned()
    }

    async fn begin_session(&mut self) -> io::Result<()> {
        self.stream = Some(open(self.target).await?);
        for (line, step) in
            [("", "greeting"), ("EHLO client.example\r\n", "EHLO"), ("MAIL FROM:<a@sender.example>\r\n", "MAIL")]
        {
            self.output.clear();
            self.output.extend_from_slice(line.as_bytes());
            if self.command().await? != b'2' {
                return Err(io::Error::other(format!("{step} got {:?}", self.last_reply())));
            }
        }
        Ok(())
    }

    /// Writes what is in `output` and reads a reply; gives its first digit.
    async fn command(&mut self) -> io::Result<u8> {
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        if !self.output.is_empty() {
            stream.write_all(&self.output).await?;
        }
        self.input.clear();
        loop {
            if stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::Error::other(format!("closed after {:?}", String::from_utf8_lossy(&self.output))));
            }
            if is_whole_reply(&self.input) {
                return Ok(self.input[0]);
            }
        }
    }

    async fn ask_policy(&mut self, address: &str) -> io::Result<Answer> {
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        self.output.clear();
        policy_request(&mut self.output, self.speaks_for, address);
        stream.write_all(&self.output).await?;
        self.input.clear();
        while !self.input.ends_with(b"\n\n") {
            if stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::Error::other("closed instead of an answer"));
            }
        }
        match self.input.strip_prefix(b"action=").and_then(|action| action.first()) {
            Some(b'D') => Ok(Answer::Accept),
            Some(b'5') => Ok(Answer::Reject),
            Some(b'4') => Ok(Answer::Defer),
            _ => Err(io::Error::other(format!("{:?} is no answer", self.last_reply()))),
        }
    }
}

async fn open(target: Target) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(target.address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What Postfix 3.7 sends at RCPT, attribute for attribute (SMTPD_POLICY_README), for one recipient.
fn policy_request(out: &mut Vec<u8>, client: Ipv4Addr, recipient: &str) {
    out.extend_from_slice(b"request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\nclient_address=");
    let _ = write!(out, "{client}");
    out.extend_from_slice(
        b"\nclient_name=client.example\nclient_port=41234\nreverse_client_name=client.example\n\
          server_address=192.0.2.25\nserver_port=25\nhelo_name=client.example\nsender=a@sender.example\nrecipient=",
    );
    out.extend_from_slice(recipient.as_bytes());
    out.extend_from_slice(
        b"\nrecipient_count=0\nqueue_id=\ninstance=3f1.6745a0b1.8c2de.0\nsize=0\netrn_domain=\nstress=\n\
          sasl_method=\nsasl_username=\nsasl_sender=\nccert_subject=\nccert_issuer=\nccert_fingerprint=\n\
          ccert_pubkey_fingerprint=\nencryption_protocol=\nencryption_cipher=\nencryption_keysize=0\n\
          policy_context=\n\n",
    );
}

/// Whether the last line is whole and has no `-` behind its code.
fn is_whole_reply(input: &[u8]) -> bool {
    let Some(lines) = input.strip_suffix(b"\r\n") else { return false };
    let last = lines.rsplit(|octet| *octet == b'\n').next().unwrap_or_default();
    last.len() >= 3 && last.get(3) != Some(&b'-')
}
