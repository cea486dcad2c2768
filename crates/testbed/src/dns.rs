//! An authoritative DNS server with a table, on loopback (RFC 1035 4.1). Only what the tests ask: A, AAAA and MX.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// What is known of a name.
#[derive(Clone, Debug, Default)]
pub struct Zone {
    /// IPv4 addresses.
    pub a: Vec<Ipv4Addr>,
    /// IPv6 addresses.
    pub aaaa: Vec<Ipv6Addr>,
    /// Mail exchangers with their preferences; `(0, ".")` alone is a null MX (RFC 7505).
    pub mx: Vec<(u16, String)>,
    /// For how many seconds an answer may be kept; 60 where nothing is said.
    pub ttl: Option<u32>,
    /// Questions are answered by SERVFAIL.
    pub servfail: bool,
    /// Questions get no answer.
    pub silent: bool,
}

/// A running server; it ends when dropped.
#[derive(Debug)]
pub struct DnsServer {
    address: SocketAddr,
    zones: Arc<Mutex<HashMap<String, Zone>>>,
    queries: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl DnsServer {
    /// Starts one on a port that the system picks.
    ///
    /// # Errors
    /// When no socket is to be had.
    pub async fn start() -> io::Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let address = socket.local_addr()?;
        let zones: Arc<Mutex<HashMap<String, Zone>>> = Arc::default();
        let queries: Arc<AtomicUsize> = Arc::default();
        let (table, count) = (Arc::clone(&zones), Arc::clone(&queries));
        let task = tokio::spawn(async move {
            let mut packet = [0; 4096];
            while let Ok((len, peer)) = socket.recv_from(&mut packet).await {
                count.fetch_add(1, Ordering::SeqCst);
                let answer = answer(&packet[..len], &table.lock().unwrap_or_else(PoisonError::into_inner));
                if let Some(answer) = answer {
                    let _ = socket.send_to(&answer, peer).await;
                }
            }
        });
        Ok(Self { address, zones, queries, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many questions came.
    pub fn queries(&self) -> usize {
        self.queries.load(Ordering::SeqCst)
    }

    /// Makes a name known; all other names do not exist.
    pub fn set(&self, name: &str, zone: Zone) {
        self.zones.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_ascii_lowercase(), zone);
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn answer(query: &[u8], zones: &HashMap<String, Zone>) -> Option<Vec<u8>> {
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        let len = usize::from(*query.get(at)?);
        at += 1;
        if len == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + len)?).to_ascii_lowercase());
        at += len;
    }
    let kind = u16::from_be_bytes(query.get(at..at + 2)?.try_into().ok()?);
    let question = query.get(12..at + 4)?;
    let zone = zones.get(&labels.join("."));
    let (code, records): (u8, Vec<Vec<u8>>) = match zone {
        Some(zone) if zone.silent => return None,
        Some(zone) if zone.servfail => (2, Vec::new()),
        None => (3, Vec::new()),
        Some(zone) => match kind {
            1 => (0, zone.a.iter().map(|ip| ip.octets().to_vec()).collect()),
            28 => (0, zone.aaaa.iter().map(|ip| ip.octets().to_vec()).collect()),
            15 => (
                0,
                zone.mx
                    .iter()
                    .map(|(preference, host)| [&preference.to_be_bytes()[..], &name(host)].concat())
                    .collect(),
            ),
            _ => (0, Vec::new()),
        },
    };
    let mut out = Vec::from(&query[..2]);
    // A response, authoritative, recursion available as a resolver would have it.
    out.extend([0x84 | (query.get(2)? & 1), 0x80 | code]);
    out.extend([0, 1]);
    out.extend(u16::try_from(records.len()).ok()?.to_be_bytes());
    out.extend([0, 0, 0, 0]);
    out.extend(question);
    let ttl = zone.and_then(|zone| zone.ttl).unwrap_or(60);
    for record in records {
        // The name is that of the question, at octet 12; class IN.
        out.extend([0xc0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1]);
        out.extend(ttl.to_be_bytes());
        out.extend(u16::try_from(record.len()).ok()?.to_be_bytes());
        out.extend(record);
    }
    Some(out)
}

fn name(host: &str) -> Vec<u8> {
    let labels = host.trim_end_matches('.').split('.').filter(|label| !label.is_empty());
    let mut out: Vec<u8> = labels
        .flat_map(|label| std::iter::once(u8::try_from(label.len()).unwrap_or(63)).chain(label.bytes()))
        .collect();
    out.push(0);
    out
}
