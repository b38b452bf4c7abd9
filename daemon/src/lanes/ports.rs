//! UDP ports for calls: one socket a call, out of `[media] ports`.
//!
//! A port that is bound is taken, whoever holds it: a call, a drain, or another program. So the pool keeps no
//! list; it walks the range and binds. Draining sockets are kept by the lane.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

/// Receive buffer of a call's socket: 50 packets a second of at most 200 bytes leave room for seconds of stall.
const RECEIVE_BUFFER: usize = 128 * 1024;

/// Hands out sockets on the configured ports.
#[derive(Debug)]
pub(super) struct Ports {
    bind: IpAddr,
    first: u16,
    count: u32,
    next: AtomicU32,
}

/// No socket could be had.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Every port of the range is bound.
    #[error("media.ports {first}-{last}: all bound on {bind}; widen the range or shorten media.port_drain")]
    Exhausted {
        /// Address.
        bind: IpAddr,
        /// First port of the range.
        first: u16,
        /// Last port of the range.
        last: u32,
    },
    /// The address cannot be bound at all.
    #[error("media.bind {bind}: {source}; is it an address of this machine?")]
    Address {
        /// Address.
        bind: IpAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Ports {
    /// Ports `first..=last` on `bind`.
    #[must_use]
    pub(super) fn new(bind: IpAddr, (first, last): (u16, u16)) -> Self {
        Self { bind, first, count: u32::from(last.saturating_sub(first)) + 1, next: AtomicU32::new(0) }
    }

    /// What its sockets are bound to.
    #[must_use]
    pub(super) const fn address(&self) -> IpAddr {
        self.bind
    }

    /// Binds the next free port; it moves on round the range, so that a port rests as long as possible.
    ///
    /// # Errors
    /// The range is exhausted, or the address is not this machine's.
    pub(super) fn bind(&self) -> Result<(UdpSocket, SocketAddr), PortError> {
        for _ in 0..self.count {
            let step = self.next.fetch_add(1, Ordering::Relaxed) % self.count;
            let port = u16::try_from(u32::from(self.first) + step).unwrap_or(self.first);
            match UdpSocket::bind((self.bind, port)) {
                Ok(socket) => {
                    let local = self.prepare(&socket)?;
                    return Ok((socket, local));
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(source) => return Err(PortError::Address { bind: self.bind, source }),
            }
        }
        Err(PortError::Exhausted { bind: self.bind, first: self.first, last: u32::from(self.first) + self.count - 1 })
    }

    fn prepare(&self, socket: &UdpSocket) -> Result<SocketAddr, PortError> {
        let fail = |source| PortError::Address { bind: self.bind, source };
        socket.set_nonblocking(true).map_err(fail)?;
        nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::RcvBuf, &RECEIVE_BUFFER)
            .map_err(|errno| fail(errno.into()))?;
        socket.local_addr().map_err(fail)
    }
}

/// The addresses that go into SDP for a socket bound to `bind`: `advertise` if given, else those of the interfaces.
///
/// Loopback addresses are named only when there is nothing else, or when the socket is bound to one.
///
/// # Errors
/// The interfaces cannot be listed.
pub(super) fn advertised(bind: IpAddr, advertise: &[IpAddr]) -> io::Result<Vec<IpAddr>> {
    if !advertise.is_empty() {
        return Ok(advertise.to_vec());
    }
    if !bind.is_unspecified() {
        return Ok(vec![bind]);
    }
    let mut found = Vec::new();
    for interface in nix::ifaddrs::getifaddrs()? {
        let Some(address) = interface.address else { continue };
        if let Some(v4) = address.as_sockaddr_in() {
            found.push(IpAddr::V4(v4.ip()));
        } else if let Some(v6) = address.as_sockaddr_in6()
            && bind.is_ipv6()
            && !v6.ip().is_unicast_link_local()
        {
            found.push(IpAddr::V6(v6.ip()));
        }
    }
    found.sort_unstable();
    found.dedup();
    let outside: Vec<_> = found.iter().copied().filter(|address| !address.is_loopback()).collect();
    Ok(if outside.is_empty() { found } else { outside })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn every_second_port_taken_by_others_still_leaves_the_rest() {
        let taken: Vec<_> = (0..4).map(|step| UdpSocket::bind((LOOPBACK, 39_100 + step * 2)).unwrap()).collect();
        let ports = Ports::new(LOOPBACK, (39_100, 39_107));
        let mine: Vec<_> = (0..4).map(|_| ports.bind().unwrap()).collect();
        assert!(mine.iter().all(|(_, address)| address.port() % 2 == 1));
        assert!(matches!(ports.bind(), Err(PortError::Exhausted { .. })));
        drop(taken);
    }

    #[test]
    fn an_address_of_another_machine_is_named_in_the_error() {
        let ports = Ports::new("192.0.2.7".parse().unwrap(), (39_200, 39_201));
        let error = ports.bind().unwrap_err().to_string();
        assert!(error.contains("media.bind 192.0.2.7"), "{error}");
    }

    #[test]
    fn a_bound_address_is_the_one_that_is_advertised() {
        assert_eq!(advertised(LOOPBACK, &[]).unwrap(), [LOOPBACK]);
        let given = ["198.51.100.4".parse().unwrap()];
        assert_eq!(advertised(LOOPBACK, &given).unwrap(), given);
        assert!(!advertised(IpAddr::V4(Ipv4Addr::UNSPECIFIED), &[]).unwrap().is_empty());
    }
}
