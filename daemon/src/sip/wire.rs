//! Between the library's types and ours: transports, addresses, headers.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use rsipstack::sip::{Header, HostWithPort, StatusCode};
use rsipstack::transport::SipAddr;
use sauti_core::config::Transport;
use sauti_core::sip::route::Refused;

/// What we say that we understand, in 2xx and in answers to OPTIONS.
pub(super) const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, UPDATE, PRACK, NOTIFY";
/// The same towards WhatsApp, which knows neither UPDATE nor INFO (whatsapp-calling §4).
pub(super) const ALLOW_WHATSAPP: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, NOTIFY";
/// The body that is taken and sent.
pub(super) const SDP: &str = "application/sdp";

pub(super) const fn transport(transport: Transport) -> rsipstack::sip::Transport {
    match transport {
        Transport::Udp => rsipstack::sip::Transport::Udp,
        Transport::Tcp => rsipstack::sip::Transport::Tcp,
        Transport::Tls => rsipstack::sip::Transport::Tls,
    }
}

pub(super) const fn known(transport: rsipstack::sip::Transport) -> Option<Transport> {
    match transport {
        rsipstack::sip::Transport::Udp => Some(Transport::Udp),
        rsipstack::sip::Transport::Tcp => Some(Transport::Tcp),
        rsipstack::sip::Transport::Tls => Some(Transport::Tls),
        _ => None,
    }
}

pub(super) fn sip_addr(address: SocketAddr, by: Transport) -> SipAddr {
    SipAddr { r#type: Some(transport(by)), addr: HostWithPort::from(address) }
}

/// The code and the headers of a refusal; `None` = not a word.
pub(super) fn refusal(why: Refused) -> Option<(StatusCode, Vec<Header>)> {
    let code = why.code()?;
    let mut headers: Vec<Header> = Vec::new();
    headers.extend(why.retry_after().map(|after| Header::RetryAfter(after.as_secs().to_string().into())));
    match why {
        Refused::Method => headers.push(Header::Allow(ALLOW.into())),
        Refused::Content => headers.push(Header::Accept(SDP.into())),
        Refused::TimerTooSmall => headers.push(Header::MinSE(sauti_core::sip::timer::MIN_SE.to_string().into())),
        _ => {}
    }
    Some((status(code), headers))
}

/// A status code with the phrase that belongs to it.
pub(super) fn status(code: u16) -> StatusCode {
    StatusCode::from(code)
}

/// The address of this machine that packets to `far` leave from; no packet is sent for it.
pub(super) fn towards(far: IpAddr) -> Option<IpAddr> {
    let any: SocketAddr = if far.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(SocketAddr::new(far, 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}
