//! From a name in the configuration to addresses, in the order of RFC 3263: SRV, then A and AAAA.
//!
//! The transport is configured, so NAPTR is not asked. The order, and which addresses come last as they were silent, is
//! `core::sip::srv`.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use rsipstack::sip::{Host, HostWithPort};
use rsipstack::transport::SipAddr;
use rsipstack::transport::transport_layer::DomainResolver;
use sauti_core::config::{HostPort, Transport};
use sauti_core::sip::srv::{Silent, Srv, in_order};

use super::{desk, upkeep, wire};

/// Longest wait for DNS; a resolver that needs longer is down.
const WITHIN: Duration = Duration::from_secs(4);
/// Longest wait for one name server: a dead one in front leaves time for the next.
const SERVER_WITHIN: Duration = Duration::from_secs(1);
/// Addresses that are tried; more behind one name are a balancer's, which has answered already.
const MOST: usize = 8;

/// Looks names up.
#[derive(Clone)]
pub(super) struct Resolver {
    /// `None` where the system's configuration cannot be read: then the system is asked, which knows no SRV.
    dns: Option<Arc<TokioResolver>>,
    silent: Arc<Mutex<Silent>>,
    /// Where Meta's SIP is by the configuration: its messages always say `wa.meta.vc`.
    meta: Option<HostPort>,
}

/// The name that Meta's proxies go by in Record-Route and Contact.
const META: &str = "wa.meta.vc";

impl Resolver {
    /// Asks the system's name servers, or these.
    pub(super) fn new(servers: &[SocketAddr], meta: Option<HostPort>) -> Self {
        let builder = if servers.is_empty() {
            TokioResolver::builder_tokio()
        } else {
            let mut config = ResolverConfig::default();
            for server in servers {
                let mut server_config = NameServerConfig::udp_and_tcp(server.ip());
                server_config.connections.iter_mut().for_each(|connection| connection.port = server.port());
                config.add_name_server(server_config);
            }
            Ok(TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()))
        };
        let dns = builder.and_then(|mut builder| {
            let options = builder.options_mut();
            options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
            options.timeout = SERVER_WITHIN;
            builder.build()
        });
        Self { dns: dns.ok().map(Arc::new), silent: Arc::default(), meta }
    }

    /// The addresses of a far end, the one to be tried first in front; empty when there are none or DNS fails.
    pub(super) async fn servers(&self, host: &HostPort, transport: Transport) -> Vec<SocketAddr> {
        if let Ok(address) = host.host.parse::<IpAddr>() {
            return vec![SocketAddr::new(address, host.port.unwrap_or_else(|| transport.port()))];
        }
        let mut servers = tokio::time::timeout(WITHIN, self.look_up(host, transport)).await.unwrap_or_default();
        servers.truncate(MOST);
        self.silent(|silent| silent.sort(desk::now(), &mut servers));
        servers
    }

    /// Says whether an address answered.
    pub(super) fn note(&self, server: SocketAddr, answered: bool) {
        self.silent(|silent| silent.note(desk::now(), server, answered));
    }

    /// The first of these addresses that did not answer lately.
    pub(super) fn first_silent(&self, servers: &[SocketAddr]) -> Option<SocketAddr> {
        self.silent(|silent| servers.iter().copied().find(|server| silent.is_silent(desk::now(), *server)))
    }

    fn silent<T>(&self, look: impl FnOnce(&mut Silent) -> T) -> T {
        look(&mut self.silent.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn look_up(&self, host: &HostPort, transport: Transport) -> Vec<SocketAddr> {
        // RFC 3263 §4.2: a port that is written down means that host, without SRV.
        if let Some(port) = host.port {
            return self.addresses(&host.host, port).await;
        }
        let service = match transport {
            Transport::Udp => "_sip._udp",
            Transport::Tcp => "_sip._tcp",
            Transport::Tls => "_sips._tcp",
        };
        let records = self.records(&format!("{service}.{}", host.host)).await;
        let Some(records) = in_order(records, upkeep::rand_seed()) else { return Vec::new() };
        if records.is_empty() {
            return self.addresses(&host.host, transport.port()).await;
        }
        let found = join_all(records.iter().take(MOST).map(|record| self.addresses(&record.target, record.port))).await;
        let mut servers: Vec<SocketAddr> = Vec::new();
        for server in found.into_iter().flatten() {
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
        servers
    }

    async fn records(&self, name: &str) -> Vec<Srv> {
        let Some(dns) = &self.dns else { return Vec::new() };
        let Ok(found) = dns.srv_lookup(name).await else { return Vec::new() };
        let records = found.answers().iter().filter_map(|record| match &record.data {
            RData::SRV(srv) => {
                Some(Srv { priority: srv.priority, weight: srv.weight, port: srv.port, target: srv.target.to_string() })
            }
            _ => None,
        });
        records.collect()
    }

    async fn addresses(&self, name: &str, port: u16) -> Vec<SocketAddr> {
        if let Some(dns) = &self.dns {
            let found = dns.lookup_ip(name).await;
            return found
                .map_or_else(|_| Vec::new(), |found| found.iter().map(|ip| SocketAddr::new(ip, port)).collect());
        }
        tokio::net::lookup_host((name, port)).await.map_or_else(|_| Vec::new(), Iterator::collect)
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
