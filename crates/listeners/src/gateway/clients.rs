//! How many connections each client has open.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use callahead_engine::network_of;

/// Connections by [`network_of`] their client. As large as there are connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clients(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One connection counted; no longer when dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    clients: Clients,
    network: IpAddr,
}

impl Clients {
    /// Counts a connection, unless the client has as many as it may.
    pub(crate) fn admit(&self, client: IpAddr, most: usize) -> Option<Counted> {
        let network = network_of(client);
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(network).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Counted { clients: self.clone(), network })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = self.clients.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_client_has_so_many_connections_and_no_more_and_is_forgotten_when_it_has_none() {
        let clients = Clients::default();
        let (v4, mapped): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "::ffff:192.0.2.1".parse().unwrap());
        let first = clients.admit(v4, 2).unwrap();
        let second = clients.admit(mapped, 2).unwrap();
        assert!(clients.admit(v4, 2).is_none());
        assert!(clients.admit("192.0.2.2".parse().unwrap(), 2).is_some());
        drop(first);
        assert!(clients.admit(v4, 2).is_some());
        drop(second);
        let _one = clients.admit("2001:db8::1".parse().unwrap(), 1).unwrap();
        assert!(clients.admit("2001:db8::2".parse().unwrap(), 1).is_none(), "the same /64");
        assert_eq!(clients.0.lock().unwrap().len(), 1);
    }
}
