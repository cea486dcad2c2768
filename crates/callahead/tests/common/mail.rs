//! A client that says what it is told to, octet by octet, over TCP.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub struct MailClient {
    stream: TcpStream,
    read: Vec<u8>,
}

impl MailClient {
    /// Connected and past EHLO.
    pub fn connect(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut client = Self { stream, read: Vec::new() };
        assert!(client.reply().starts_with("220 "));
        client.expect("EHLO client.example", "250");
        client
    }

    pub fn send(&mut self, octets: impl AsRef<[u8]>) {
        self.stream.write_all(octets.as_ref()).unwrap();
    }

    /// One reply, its lines joined by `\n`; empty when the connection is over.
    pub fn reply(&mut self) -> String {
        let mut lines: Vec<String> = Vec::new();
        loop {
            if let Some(at) = self.read.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.read.drain(..at + 2).take(at).collect();
                let last = line.get(3) != Some(&b'-');
                lines.push(String::from_utf8(line).unwrap());
                if last {
                    return lines.join("\n");
                }
                continue;
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(length @ 1..) => self.read.extend_from_slice(&chunk[..length]),
                _ => return lines.join("\n"),
            }
        }
    }

    pub fn say(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n"));
        self.reply()
    }

    pub fn expect(&mut self, line: &str, reply: &str) {
        let said = self.say(line);
        assert!(said.starts_with(reply), "{line:?} got {said:?} and not {reply:?}");
    }

    pub fn envelope(&mut self, recipient: &str) {
        self.expect("MAIL FROM:<sender@elsewhere.example> BODY=8BITMIME", "250");
        self.expect(&format!("RCPT TO:<{recipient}>"), "250");
    }

    /// A message by DATA, with its dots doubled; gives the last reply.
    pub fn data(&mut self, content: &[u8]) -> String {
        self.expect("DATA", "354");
        let mut stuffed = Vec::with_capacity(content.len() + 5);
        for line in content.split_inclusive(|octet| *octet == b'\n') {
            if line[0] == b'.' {
                stuffed.push(b'.');
            }
            stuffed.extend_from_slice(line);
        }
        stuffed.extend_from_slice(b".\r\n");
        self.send(&stuffed);
        self.reply()
    }

    /// A message by BDAT in chunks of so many octets; gives the last reply.
    pub fn bdat(&mut self, content: &[u8], chunk: usize) -> String {
        let mut rest = content;
        while rest.len() > chunk {
            self.send(format!("BDAT {chunk}\r\n"));
            self.send(&rest[..chunk]);
            let reply = self.reply();
            assert!(reply.starts_with("250"), "{reply}");
            rest = &rest[chunk..];
        }
        self.send(format!("BDAT {} LAST\r\n", rest.len()));
        self.send(rest);
        self.reply()
    }
}

/// Messages that trip servers up, by name. All but the last can go by DATA.
pub fn awkward_messages() -> Vec<(&'static str, Vec<u8>)> {
    let with_header = |body: &[u8]| [b"Subject: awkward\r\n\r\n", body].concat();
    let binary: Vec<u8> = (0..=255_u8).filter(|octet| !matches!(octet, b'\r' | b'\n')).collect();
    vec![
        ("empty", Vec::new()),
        ("an empty line", b"\r\n".to_vec()),
        ("no header", b"\r\nbody\r\n".to_vec()),
        ("header only", b"Subject: awkward\r\n".to_vec()),
        ("8-bit", with_header("Gr\u{fc}\u{df}e \u{2603}\r\n".as_bytes())),
        ("Latin-1", with_header(b"Gr\xfc\xdfe\r\n")),
        ("leading dots", with_header(b".\r\n..\r\n. \r\n.x\r\n\r\n.\r\n")),
        ("long lines", with_header(&[&vec![b'x'; 100_000][..], b"\r\n", &vec![b'.'; 20_000], b"\r\n"].concat())),
        ("NULs", with_header(b"\0\r\na\0b\r\n\0\0.\0x\r\n")),
        ("all octets", with_header(&[&binary[..], b"\r\n"].concat())),
        ("mbox", with_header(b"From me\r\n>From you\r\n")),
        ("25 MB", with_header(&b"0123456789abcdefghijklmnopqrstuvwxyz .\r\n".repeat(640_000))),
        ("no final line end", with_header(b"the end")),
    ]
}
