//! Who may connect: a total, a share for each address, and a reserve in which only nodes are served,
//! so that users who hold every other connection cannot keep a node from renewing its leases.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::tally::{Held, Tally};

/// One connection in so many is kept back for nodes.
const RESERVE_SHARE: usize = 8;

/// Decides about new connections.
#[derive(Debug)]
pub(super) struct Admission {
    open: Arc<Semaphore>,
    reserve: Arc<Semaphore>,
    peers: Arc<Tally<IpAddr>>,
    reserve_peers: Arc<Tally<IpAddr>>,
    peer_max: usize,
    reserve_peer_max: usize,
}

/// The right to one connection; given back by the drop.
#[derive(Debug)]
pub(super) struct Ticket {
    /// Whether only the node protocol is served on it.
    pub(super) is_reserved: bool,
    _held: Held<IpAddr>,
    _permit: OwnedSemaphorePermit,
}

/// Whom an address stands for: an IPv6 host has its whole /64.
pub(crate) fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Admission {
    /// For `connections_max` connections, of which one address may have `peer_max` outside the reserve.
    pub(super) fn new(connections_max: usize, peer_max: usize) -> Self {
        let reserve = (connections_max / RESERVE_SHARE).max(1);
        Self {
            open: Arc::new(Semaphore::new(connections_max.saturating_sub(reserve).max(1))),
            reserve: Arc::new(Semaphore::new(reserve)),
            peers: Arc::default(),
            reserve_peers: Arc::default(),
            peer_max,
            // No address alone fills the reserve either.
            reserve_peer_max: reserve.div_ceil(2),
        }
    }

    /// A ticket for a connection from this address; `None` when it has to be closed at once.
    pub(super) fn admit(&self, address: IpAddr) -> Option<Ticket> {
        let client = client(address);
        let take = |peers: &Arc<Tally<IpAddr>>, max, room: &Arc<Semaphore>, is_reserved| {
            let held = peers.take(client, max)?;
            let permit = Arc::clone(room).try_acquire_owned().ok()?;
            Some(Ticket { is_reserved, _held: held, _permit: permit })
        };
        take(&self.peers, self.peer_max, &self.open, false)
            .or_else(|| take(&self.reserve_peers, self.reserve_peer_max, &self.reserve, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn beyond_its_share_an_address_gets_connections_of_the_reserve_and_then_none() {
        let admission = Admission::new(32, 3);
        let flooder: Vec<_> = (0..9).map(|_| admission.admit(at("10.0.0.1"))).collect();
        let kinds: Vec<_> =
            flooder.iter().map(|ticket| ticket.as_ref().map(|ticket| ticket.is_reserved)).collect();
        let (open, reserved) = (Some(false), Some(true));
        assert_eq!(kinds, [open, open, open, reserved, reserved, None, None, None, None]);
        assert_eq!(admission.admit(at("10.0.0.2")).map(|ticket| ticket.is_reserved), open);
        drop(flooder);
        assert_eq!(admission.admit(at("10.0.0.1")).map(|ticket| ticket.is_reserved), open);
    }

    #[test]
    fn when_everything_is_taken_others_still_find_the_reserve() {
        let admission = Admission::new(16, 100);
        let _users: Vec<_> = (0..14).map(|_| admission.admit(at("10.0.0.1")).expect("room")).collect();
        assert_eq!(admission.admit(at("10.0.0.2")).map(|ticket| ticket.is_reserved), Some(true));
    }

    #[test]
    fn an_ipv6_host_is_its_network_and_a_mapped_address_is_what_it_maps() {
        assert_eq!(client(at("2001:db8::1")), client(at("2001:db8::ffff:1")));
        assert_ne!(client(at("2001:db8::1")), client(at("2001:db8:0:1::1")));
        assert_eq!(client(at("::ffff:10.0.0.1")), at("10.0.0.1"));
    }
}
