//! Between the library's types and ours: transports, addresses, headers.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use rsipstack::sip::uri::{OtherParam, OtherParamValue};
use rsipstack::sip::{Header, HostWithPort, Param, Request, Response, StatusCode, Uri};
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

/// Writes the transport of an address as RFC 3261 and everybody's documents have it, in small letters: the library writes
/// capitals, and Meta follows no address that is not its own letter by letter (whatsapp-calling §4).
pub(super) fn small_transport(uri: &mut Uri) {
    for param in &mut uri.params {
        if let Param::Transport(transport) = param {
            let value = transport.to_string().to_ascii_lowercase();
            *param = Param::Other(OtherParam::new("transport"), Some(OtherParamValue::new(value)));
        }
    }
}

/// The same for the route of an ACK, which alone the library writes anew; other requests have it as it came.
pub(super) fn small_routes(ack: &mut Request) {
    for header in ack.headers.iter_mut() {
        if let Header::Route(route) = header {
            for capitals in ["TLS", "TCP", "UDP"] {
                let small = format!(";transport={}", capitals.to_ascii_lowercase());
                route.0 = route.0.replace(&format!(";transport={capitals}"), &small);
            }
        }
    }
}

/// Names of digest algorithms: as RFC 7616 §6.1 registers them, and as the library reads and writes them.
const ALGORITHMS: [(&str, &str); 3] = [("SHA-256-sess", "SHA256-sess"), ("SHA-256", "SHA256"), ("MD5", "MD5")];

/// The algorithm that a challenge or its answer names, if it names one.
fn algorithm(value: &str) -> Option<&str> {
    let at = value.to_ascii_lowercase().find("algorithm=")?;
    let rest = value.get(at + "algorithm=".len()..)?;
    rest.split(',').next().map(|name| name.trim().trim_matches('"'))
}

/// A challenge as the library reads it: it knows SHA-256 without its dash, and fails on what it does not know.
/// `None` for an algorithm that it cannot do.
fn readable(value: &str) -> Option<String> {
    let Some(named) = algorithm(value) else { return Some(value.to_owned()) };
    let (_, known) = ALGORITHMS.iter().find(|(registered, _)| registered.eq_ignore_ascii_case(named))?;
    Some(value.replacen(named, known, 1))
}

/// Makes the challenges of a 401 or 407 readable. Of several the first is answered (RFC 8760 §2.4), so those that
/// cannot be are taken out.
pub(super) fn mend_challenges(response: &mut Response) {
    if !matches!(response.status_code.code(), 401 | 407) {
        return;
    }
    response.headers.retain(|header| match header {
        Header::WwwAuthenticate(value) => readable(&value.0).is_some(),
        Header::ProxyAuthenticate(value) => readable(&value.0).is_some(),
        _ => true,
    });
    for header in response.headers.iter_mut() {
        match header {
            Header::WwwAuthenticate(value) => value.0 = readable(&value.0).unwrap_or_default(),
            Header::ProxyAuthenticate(value) => value.0 = readable(&value.0).unwrap_or_default(),
            _ => {}
        }
    }
}

/// Writes the names of algorithms as they are registered.
pub(super) fn mend_credentials(request: &mut Request) {
    let written = |value: &str| {
        let named = algorithm(value)?;
        let (registered, known) = ALGORITHMS.iter().find(|(_, known)| known.eq_ignore_ascii_case(named))?;
        Some(value.replacen(&format!("={known}"), &format!("={registered}"), 1))
    };
    for header in request.headers.iter_mut() {
        match header {
            Header::Authorization(value) => value.0 = written(&value.0).unwrap_or_else(|| value.0.clone()),
            Header::ProxyAuthorization(value) => value.0 = written(&value.0).unwrap_or_else(|| value.0.clone()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_goes_back_as_it_came() {
        let contact = "sip:+250780000001@wa.meta.vc;transport=tls;ob";
        let mut uri = Uri::try_from(contact).unwrap();
        assert_ne!(uri.to_string(), contact, "what is mended here has been mended elsewhere");
        small_transport(&mut uri);
        assert_eq!(uri.to_string(), contact);
    }

    #[test]
    fn digest_algorithms_are_read_by_their_registered_names() {
        let read = |algorithm: &str| readable(&format!("Digest realm=\"a\", algorithm={algorithm}, qop=\"auth\""));
        assert_eq!(read("SHA-256").as_deref(), Some("Digest realm=\"a\", algorithm=SHA256, qop=\"auth\""));
        assert_eq!(read("md5").as_deref(), Some("Digest realm=\"a\", algorithm=MD5, qop=\"auth\""));
        assert_eq!(read("SHA-512-256"), None);
        assert!(readable("Digest realm=\"a\"").is_some());
    }
}
