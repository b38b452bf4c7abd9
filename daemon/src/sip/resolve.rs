//! From a name in the configuration to addresses, in the order of RFC 3263: SRV, then A and AAAA.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use async_trait::async_trait;
use rsipstack::resolver::SipResolver;
use rsipstack::sip::{Domain, Host, HostWithPort};
use rsipstack::transport::SipAddr;
use rsipstack::transport::transport_layer::DomainResolver;
use sauti_core::config::{HostPort, Transport};

use super::wire;

/// Longest wait for DNS; a resolver that needs longer is down.
const WITHIN: Duration = Duration::from_secs(4);
/// Addresses that are tried; more behind one name are a balancer's, which has answered already.
const MOST: usize = 8;

/// Looks names up.
#[derive(Debug, Clone)]
pub(super) struct Resolver {
    inner: SipResolver,
    /// Where Meta's SIP is by the configuration: its messages always say `wa.meta.vc`.
    meta: Option<HostPort>,
}

/// The name that Meta's proxies go by in Record-Route and Contact.
const META: &str = "wa.meta.vc";

impl Resolver {
    pub(super) fn new(meta: Option<HostPort>) -> Self {
        Self { inner: SipResolver::new(), meta }
    }

    /// The addresses of a far end, the one to be tried first in front; empty when there are none or DNS fails.
    pub(super) async fn servers(&self, host: &HostPort, transport: Transport) -> Vec<SocketAddr> {
        if let Ok(address) = host.host.parse::<IpAddr>() {
            return vec![SocketAddr::new(address, host.port.unwrap_or_else(|| transport.port()))];
        }
        let (domain, port) = (Domain(host.host.clone()), host.port.map(Into::into));
        let secure = transport == Transport::Tls;
        let looked_up = self.inner.lookup(&domain, port, Some(wire::transport(transport)), secure);
        let Ok(Ok(found)) = tokio::time::timeout(WITHIN, looked_up).await else { return Vec::new() };
        let mut servers: Vec<SocketAddr> = Vec::new();
        for target in found {
            if !servers.contains(&target.addr) && servers.len() < MOST {
                servers.push(target.addr);
            }
        }
        servers
    }
}

/// Names in Route and Contact headers of peers; asked by the library when it has no open flow to send over.
#[async_trait]
impl DomainResolver for Resolver {
    async fn resolve(&self, target: &SipAddr) -> rsipstack::Result<SipAddr> {
        let transport = target.r#type.and_then(wire::known).unwrap_or(Transport::Udp);
        let Host::Domain(domain) = &target.addr.host else { return Ok(target.clone()) };
        let named = HostPort { host: domain.0.clone(), port: target.addr.port.map(|port| port.value()) };
        let meta = self.meta.clone().filter(|_| domain.0.eq_ignore_ascii_case(META));
        let host = meta.unwrap_or(named);
        let first = self.servers(&host, transport).await.into_iter().next();
        let address = first.ok_or_else(|| rsipstack::Error::DnsResolutionError("no address".to_owned()))?;
        Ok(SipAddr { r#type: Some(wire::transport(transport)), addr: HostWithPort::from(address) })
    }
}
