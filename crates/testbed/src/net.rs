//! A network in memory, for tests with simulated time.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::DuplexStream;

use crate::Destination;

/// What is at an address.
#[derive(Clone, Debug)]
pub enum Place {
    /// A server.
    Server(Destination),
    /// Nobody listens: refused at once.
    Refused,
    /// The system can't connect, and says this (errno).
    Fails(i32),
    /// Packets are swallowed: the connection is never made.
    BlackHole,
}

/// Addresses and what is there; anywhere else is unreachable. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Net {
    places: Arc<Mutex<HashMap<SocketAddr, Place>>>,
    dials: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Net {
    /// Puts something at an address, in place of what was there.
    pub fn set(&self, address: SocketAddr, place: Place) {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).insert(address, place);
    }

    /// The addresses that were dialled, in order.
    pub fn dials(&self) -> Vec<SocketAddr> {
        self.dials.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Connects.
    ///
    /// # Errors
    /// As a real network would: refused, unreachable, or what the system can't do.
    pub async fn dial(&self, address: SocketAddr) -> io::Result<DuplexStream> {
        self.dials.lock().unwrap_or_else(PoisonError::into_inner).push(address);
        let place = self.places.lock().unwrap_or_else(PoisonError::into_inner).get(&address).cloned();
        match place {
            Some(Place::Server(destination)) => Ok(destination.connect()),
            Some(Place::Refused) => Err(io::ErrorKind::ConnectionRefused.into()),
            Some(Place::Fails(error)) => Err(io::Error::from_raw_os_error(error)),
            Some(Place::BlackHole) => std::future::pending().await,
            None => Err(io::ErrorKind::HostUnreachable.into()),
        }
    }
}
