//! UDP ports for calls, out of `[media] ports`: one socket a call, two where RTCP has its own.
//!
//! A port that is bound is taken, whoever holds it: a call, a drain, or another program. So the pool keeps no
//! list; it walks the range and binds. Draining sockets are kept by the lane.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::socket::{setsockopt, sockopt};

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
        self.bind_to(self.bind)
    }

    /// The same on another address.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub(super) fn bind_to(&self, bind: IpAddr) -> Result<(UdpSocket, SocketAddr), PortError> {
        for _ in 0..self.count {
            let step = self.next.fetch_add(1, Ordering::Relaxed) % self.count;
            let port = u16::try_from(u32::from(self.first) + step).unwrap_or(self.first);
            if let Some(socket) = Self::try_bind(bind, port)? {
                let local = Self::prepare(&socket, bind)?;
                return Ok((socket, local));
            }
        }
        Err(self.exhausted(bind))
    }

    /// Binds a free even port and the next one, for RTP and RTCP.
    ///
    /// # Errors
    /// No such pair is free, or the address is not this machine's.
    pub(super) fn bind_pair(&self, bind: IpAddr) -> Result<(UdpSocket, UdpSocket, SocketAddr), PortError> {
        let last = u32::from(self.first) + self.count - 1;
        let first = u32::from(self.first).next_multiple_of(2);
        let pairs = (last + 1).saturating_sub(first) / 2;
        for _ in 0..pairs {
            // Two steps for two ports: the walk stays as long as the range.
            let step = self.next.fetch_add(2, Ordering::Relaxed) / 2 % pairs;
            let Ok(port) = u16::try_from(first + 2 * step) else { continue };
            let Some(socket) = Self::try_bind(bind, port)? else { continue };
            let Some(control) = Self::try_bind(bind, port + 1)? else { continue };
            let local = Self::prepare(&socket, bind)?;
            Self::prepare(&control, bind)?;
            return Ok((socket, control, local));
        }
        Err(self.exhausted(bind))
    }

    /// The socket, or `None` where the port is taken.
    fn try_bind(bind: IpAddr, port: u16) -> Result<Option<UdpSocket>, PortError> {
        match UdpSocket::bind((bind, port)) {
            Ok(socket) => Ok(Some(socket)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
            Err(source) => Err(PortError::Address { bind, source }),
        }
    }

    const fn exhausted(&self, bind: IpAddr) -> PortError {
        PortError::Exhausted { bind, first: self.first, last: self.first as u32 + self.count - 1 }
    }

    fn prepare(socket: &UdpSocket, bind: IpAddr) -> Result<SocketAddr, PortError> {
        let fail = |source| PortError::Address { bind, source };
        socket.set_nonblocking(true).map_err(fail)?;
        setsockopt(socket, sockopt::RcvBuf, &RECEIVE_BUFFER).map_err(|errno| fail(errno.into()))?;
        socket.local_addr().map_err(fail)
    }
}

/// Asks the network to hurry: DSCP EF, as voice is marked (RFC 4594 §4.1). Who may not mark goes unmarked.
pub(super) fn mark_expedited(socket: &UdpSocket, bind: IpAddr) {
    const EXPEDITED: i32 = 46 << 2;
    if bind.is_ipv4() {
        setsockopt(socket, sockopt::Ipv4Tos, &EXPEDITED).ok();
    } else {
        setsockopt(socket, sockopt::Ipv6TClass, &EXPEDITED).ok();
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
        let taken: Vec<_> = (0..4).map(|step| UdpSocket::bind((LOOPBACK, 20_320 + step * 2)).unwrap()).collect();
        let ports = Ports::new(LOOPBACK, (20_320, 20_327));
        let mine: Vec<_> = (0..4).map(|_| ports.bind().unwrap()).collect();
        assert!(mine.iter().all(|(_, address)| address.port() % 2 == 1));
        assert!(matches!(ports.bind(), Err(PortError::Exhausted { .. })));
        drop(taken);
    }

    #[test]
    fn pairs_begin_at_even_ports_and_go_round_what_is_taken() {
        // Below what the kernel hands out by itself (32768 and up): no other test has one of these.
        let taken = UdpSocket::bind((LOOPBACK, 20_305)).unwrap();
        let ports = Ports::new(LOOPBACK, (20_301, 20_309));
        let mut pairs: Vec<_> = (0..3).map(|_| ports.bind_pair(LOOPBACK).unwrap()).collect();
        pairs.sort_by_key(|(_, _, local)| local.port());
        let numbers = pairs.iter().map(|(_, control, local)| (local.port(), control.local_addr().unwrap().port()));
        assert_eq!(numbers.collect::<Vec<_>>(), [(20_302, 20_303), (20_306, 20_307), (20_308, 20_309)]);
        assert!(matches!(ports.bind_pair(LOOPBACK), Err(PortError::Exhausted { .. })));
        drop((taken, pairs));
    }

    #[test]
    fn media_of_a_trunk_is_marked_as_voice() {
        for bind in [LOOPBACK, IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)] {
            let Ok(socket) = UdpSocket::bind((bind, 0)) else { continue };
            mark_expedited(&socket, bind);
            let marked = match bind {
                IpAddr::V4(_) => nix::sys::socket::getsockopt(&socket, sockopt::Ipv4Tos),
                IpAddr::V6(_) => nix::sys::socket::getsockopt(&socket, sockopt::Ipv6TClass),
            };
            assert_eq!(marked, Ok(0xB8), "{bind}");
        }
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
