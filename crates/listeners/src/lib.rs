//! Where questions come in: the policy protocol, socket maps and the milter protocol, over TCP and Unix sockets; and the gateway,
//! where mail does.
//!
//! Each question protocol is two things: a [`Format`] (bytes in, requests out; no socket, no clock) and what each
//! verdict is in that protocol's words. The loop around them is the same for all, in `server`: it bounds connections, idle
//! time and pipelining, keeps answers in the order of their requests, and when it is told to stop it answers what
//! was asked before it closes.
//!
//! Nothing here decides about a recipient: a request becomes a [`Question`](callahead_engine::Question), and the engine's
//! [`Answer`](callahead_engine::Answer) becomes bytes.
//!
//! # Trust
//!
//! The gateway has its own account of it ([`gateway`]). Elsewhere clients are the MTA's processes, on the same host or a network of one's own: there is no authentication. Still, nothing
//! that they send is trusted: it is bounded by the `MAX_` constants and [`Limits`], and what can't be read closes
//! its connection, which MTAs take for a temporary failure (of a milter, if they are told to: see `examples/`). It is never a
//! rejection.

mod accept;
pub mod gateway;
mod listen;
pub mod milter;
pub mod policy;
mod reader;
mod seldom;
mod server;
pub mod socketmap;
mod tls;

pub use accept::{Accepting, Open};
pub use listen::{BindError, Bound, Listen, ListenError, MODE_EVERYONE, MODE_GROUP, MODE_OWNER, Stream};
pub use reader::{Format, Reader};
pub use server::{Counters, Limits};
pub use tls::{TlsFiles, TlsFilesError, TlsServer};
