//! The library's endpoint: listeners, streams that we open, certificate.
//!
//! TLS speaks no ALPN, as peers refuse "sip" (peers §3, bug 40), and asks for no client certificate (whatsapp-calling
//! §4). A source that no trunk names is dropped by address before the library parses a byte.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rsipstack::EndpointBuilder;
use rsipstack::dialog::dialog_layer::DialogLayer;
use rsipstack::platform::CancellationToken;
use rsipstack::sip::Method;
use rsipstack::transport::tcp::TcpConnection;
use rsipstack::transport::tcp_listener::TcpListenerConnection;
use rsipstack::transport::tls::{TlsConfig, TlsConnection, TlsListenerConnection};
use rsipstack::transport::udp::UdpConnection;
use rsipstack::transport::{SipConnection, TransportLayer};
use sauti_core::config::{Config, Signalling, Sip, TlsFiles, Transport};
use sauti_core::sip::route::Peers;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::desk::{Counter, Desk, Door, Listeners};
use super::resolve::Resolver;
use super::{Invite, Setup, Shared, SipError, incoming, upkeep, wire};
use crate::http::tls::{self, TlsError};

/// Longest wait for a stream to a trunk, TCP and TLS together.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Longest wait for a listener to be bound; it takes a millisecond, or fails.
const BIND_WITHIN: Duration = Duration::from_secs(3);
/// A stream without a byte for this long is closed; keep-alives of RFC 5626 come every 2 min.
const IDLE: Duration = Duration::from_secs(20 * 60);

/// Streams that we have opened, by where they lead: TLS ones know the name that they were opened for.
#[derive(Default)]
pub(super) struct Streams(Mutex<BTreeMap<(SocketAddr, &'static str), SipConnection>>);

/// Builds the endpoint and starts its two tasks.
pub(super) async fn build(setup: Setup<'_>, invites: mpsc::Sender<Invite>) -> Result<Arc<Shared>, SipError> {
    let config = setup.config;
    let sip = config.sip.as_ref().ok_or(SipError::NotConfigured)?;
    let whatsapp = config.whatsapp.as_ref().and_then(|whatsapp| match &whatsapp.signalling {
        Signalling::Sip(sip) => Some(sip.clone()),
        Signalling::Graph => None,
    });
    let meta = whatsapp.as_ref().map(|sip| sip.host.clone());
    let (stop, resolver) = (CancellationToken::new(), Resolver::new(&setup.nameservers, meta));
    let transports = TransportLayer::new_with_domain_resolver(stop.clone(), Box::new(resolver.clone()));
    transports.set_stream_idle_timeout(IDLE);
    let roots = TlsConfig { ca_certs: Some(setup.roots.clone()), ..TlsConfig::default() };
    transports.set_tls_config(roots);
    let (listeners, tls) = listen(sip, &transports, &stop).await?;
    let peers = Peers::of(config);
    let advertise = peers.iter().map(|peer| advertised(config, &peer.name)).collect();
    let desk = Arc::new(Desk::new(peers, advertise, listeners, setup.metrics, setup.key));
    let whitelist = Arc::clone(&desk);
    transports.set_whitelist(move |source: IpAddr| {
        let lets_in = whitelist.lets_in(source);
        async move { lets_in }
    });
    let endpoint = EndpointBuilder::new()
        .with_user_agent(concat!("sauti/", env!("CARGO_PKG_VERSION")))
        .with_allows(vec![Method::Invite, Method::Ack, Method::Cancel, Method::Bye, Method::Options])
        .with_transport_layer(transports)
        .with_cancel_token(stop.clone())
        .with_transport_inspector(Box::new(Door(Arc::clone(&desk))))
        .with_inspector(Box::new(Counter(Arc::clone(&desk))))
        .build();
    let transactions = endpoint.incoming_transactions().map_err(|_| SipError::NotConfigured)?;
    let inner = Arc::clone(&endpoint.inner);
    let shared = Arc::new(Shared {
        desk,
        layer: Arc::new(DialogLayer::new(Arc::clone(&inner))),
        endpoint: inner,
        trunks: config.trunks.clone(),
        whatsapp,
        resolver,
        roots: setup.roots,
        invites,
        statuses: Mutex::new(upkeep::standings(config)),
        streams: Streams::default(),
        tls,
        stop,
        tasks: Mutex::new(JoinSet::new()),
    });
    // the endpoint owns the transports: as long as its task lives, they do
    shared.spawn(async move { endpoint.serve().await });
    shared.spawn(incoming::run(Arc::clone(&shared), transactions));
    for (what, address) in [("tcp", listeners.tcp), ("tls", listeners.tls)] {
        if let Some(address) = address {
            listens(what, address).await?;
        }
    }
    shared.desk.open.store(true, Ordering::Release);
    Ok(shared)
}

fn advertised(config: &Config, peer: &str) -> Option<IpAddr> {
    config.trunks.iter().find(|trunk| trunk.name == peer)?.advertise
}

type Bound = (Listeners, Option<(TlsListenerConnection, TlsFiles)>);

async fn listen(sip: &Sip, transports: &TransportLayer, stop: &CancellationToken) -> Result<Bound, SipError> {
    let mut listeners = Listeners::default();
    if let Some(address) = sip.udp {
        let bound = UdpConnection::create_connection(address, None, Some(stop.child_token())).await;
        let bound = bound.map_err(|error| SipError::Bind("udp", address, error.to_string()))?;
        let port = bound.get_addr().addr.port.map_or_else(|| address.port(), |port| port.value());
        listeners.udp = Some(SocketAddr::new(address.ip(), port));
        transports.add_transport(bound.into());
    }
    if let Some(address) = sip.tcp {
        let address = free("tcp", address)?;
        let bound = TcpListenerConnection::new(address, None).await;
        let bound = bound.map_err(|error| SipError::Bind("tcp", address, error.to_string()))?;
        listeners.tcp = Some(address);
        transports.add_transport(bound.into());
    }
    let mut tls = None;
    if let Some((address, files)) = &sip.tls {
        let address = free("tls", *address)?;
        let (cert, key) = tls::pem(files)?;
        let certificate = TlsConfig { cert: Some(cert), key: Some(key), ..TlsConfig::default() };
        let bound = TlsListenerConnection::new(address, None, certificate).await;
        let bound = bound.map_err(|error| SipError::Bind("tls", address, error.to_string()))?;
        listeners.tls = Some(address);
        transports.add_transport(bound.clone().into());
        tls = Some((bound, files.clone()));
    }
    Ok((listeners, tls))
}

/// Finds out whether an address can be had, and which port 0 becomes: the library binds later and only logs failures.
fn free(what: &'static str, address: SocketAddr) -> Result<SocketAddr, SipError> {
    let bound = std::net::TcpListener::bind(address).and_then(|listener| listener.local_addr());
    bound.map_err(|error| SipError::Bind(what, address, error.to_string()))
}

/// Waits until the library has bound a listener; it does so in its own task, and only logs it when it cannot.
async fn listens(what: &'static str, address: SocketAddr) -> Result<(), SipError> {
    let near = match address.ip() {
        IpAddr::V4(any) if any.is_unspecified() => SocketAddr::from(([127, 0, 0, 1], address.port())),
        IpAddr::V6(any) if any.is_unspecified() => SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], address.port())),
        _ => address,
    };
    let trying = async {
        while tokio::net::TcpStream::connect(near).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let bound = tokio::time::timeout(BIND_WITHIN, trying).await;
    bound.map_err(|_| SipError::Bind(what, address, "it never accepted".to_owned()))
}

/// Gives the TLS listener the certificate that its files hold now.
pub(super) async fn reload(shared: &Shared) -> Result<(), TlsError> {
    let Some((listener, files)) = &shared.tls else { return Ok(()) };
    let (cert, key) = tls::pem(files)?;
    listener.reload_tls_config(cert, key).await.map_err(|_| TlsError::Unusable)
}

impl Shared {
    /// An open stream to `server`, which is called `name`; opened if there is none. UDP needs none.
    pub(super) async fn stream(
        &self,
        server: SocketAddr,
        name: &str,
        transport: Transport,
    ) -> rsipstack::Result<Option<SipConnection>> {
        if transport == Transport::Udp {
            return Ok(None);
        }
        let key = (server, transport.label());
        let open = self.streams.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        let alive = |stream: &SipConnection| stream.cancel_token().is_some_and(|token| !token.is_cancelled());
        if let Some(stream) = open.filter(alive) {
            return Ok(Some(stream));
        }
        let (far, token) = (wire::sip_addr(server, transport), Some(self.stop.child_token()));
        let connecting = async {
            if transport == Transport::Tcp {
                return TcpConnection::connect(&far, token).await.map(SipConnection::from);
            }
            let known = TlsConfig {
                ca_certs: Some(self.roots.clone()),
                sni_hostname: Some(name.to_owned()),
                ..TlsConfig::default()
            };
            TlsConnection::connect(&far, Some(&known), None, token).await.map(SipConnection::from)
        };
        let stream = tokio::time::timeout(CONNECT_WITHIN, connecting)
            .await
            .map_err(|_| rsipstack::Error::TransportLayerError("no connection in time".to_owned(), far.clone()))??;
        self.endpoint.transport_layer.add_connection(stream.clone());
        self.streams.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, stream.clone());
        Ok(Some(stream))
    }
}
