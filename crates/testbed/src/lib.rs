//! Simulated destinations: SMTP servers that behave as a test tells them, with every fault that real servers won't produce
//! on demand, and that remember what they were told.
//!
//! - [`Destination`] is a server. It listens on loopback ([`Destination::listen`]) or serves any stream
//!   ([`Destination::serve`]), so it works under simulated time too.
//! - With [`Script::takes_messages`] it takes messages and keeps them; without, DATA is an offence.
//! - [`Net`] is a network in memory: addresses that lead to destinations, refuse, or never answer.
//! - [`dns::DnsServer`] answers for MX, A and AAAA from a table, over a real UDP socket.
//! - [`tls::TestCa`] issues certificates.
//! - [`mta`] runs real servers, from Debian's packages.
//!
//! Nothing here shares code with the side that asks: it is the other side, and so a second opinion.

pub mod dns;
pub mod files;
pub mod mta;
mod net;
mod record;
mod script;
mod session;
mod take;
pub mod tls;

pub use net::{Net, Place};
pub use record::{Ended, Message, Record, SessionRecord};
pub use script::{Fault, Script, Step, Tls};
pub use session::{Destination, Listening, Watch};
