//! SIP: the trunk door and WhatsApp over SIP, around a library that speaks RFC 3261.
//!
//! [`Sip::start`] binds the listeners and gives a stream of [`Invite`]s; what is trusted, routed, renewed and given up
//! is decided in `core::sip`. The library (`rsipstack`, decision 0020) is named in this folder alone. Media is not
//! here: an SDP goes in and out as text.

mod attend;
mod challenge;
mod desk;
mod dialog;
mod endpoint;
mod farewell;
mod incoming;
mod place;
mod read;
mod resolve;
pub mod tools;

mod upkeep;
mod wire;

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rsipstack::dialog::authenticate::Credential;
use rsipstack::dialog::dialog_layer::DialogLayer;
use rsipstack::platform::CancellationToken;
use rsipstack::sip::{Auth, HostWithPort, Param, Scheme, Uri};
use rsipstack::transaction::endpoint::EndpointInnerRef;
use rsipstack::transport::tls::TlsListenerConnection;
use sauti_core::call::outcome::Door;
use sauti_core::config::{Config, Transport, Trunk, TrunkRoute, WHATSAPP_TRUNK, WhatsAppSip};
use sauti_core::now::Now;
use sauti_core::pii::{BoxKey, KeyedHash, Pii};
use sauti_core::record::LiveDialog;
use secrecy::ExposeSecret as _;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub use self::dialog::{
    Broken, Dialog, DialogError, DialogEvent, DialogEvents, Messages, NO_ACK, NO_ACK_META, Refuse, Reply,
};
pub use self::farewell::Farewell;
pub use self::place::Place;
pub use self::read::{Verdict, WaHeaders, judge};
use crate::http::tls::TlsError;
use crate::obs::metrics::Metrics;

/// INVITEs waiting for the switchboard; it takes each within microseconds, and a full queue refuses with 503.
const INVITES: usize = 64;

/// A call that has passed trust, rate, trunk and route. It rings already.
#[derive(Debug)]
pub struct Invite {
    /// Name of the trunk, `whatsapp` for WhatsApp over SIP.
    pub trunk: Arc<str>,
    /// How it is booked.
    pub door: Door,
    /// Who answers, in which languages.
    pub route: Arc<TrunkRoute>,
    /// Their offer; `None` = we offer in the answer, and the ACK answers.
    pub offer: Option<Pii>,
    /// Who calls; `None` = withheld.
    pub caller: Option<Pii>,
    /// Whom they called.
    pub called: Option<Pii>,
    /// What Meta says of a WhatsApp call.
    pub whatsapp: Option<WaHeaders>,
    /// Stands for the Call-ID, or the wacid; may be shown.
    pub key: KeyedHash,
    /// When the INVITE was read.
    pub received: Now,
    /// To answer, refuse and end it.
    pub dialog: Dialog,
    /// What happens to it; ends with the dialog.
    pub events: DialogEvents,
}

/// What is needed to start.
pub struct Setup<'s> {
    /// The configuration; `[sip]` must be in it.
    pub config: &'s Config,
    /// Certificate authorities for TLS towards trunks, PEM.
    pub roots: Vec<u8>,
    /// Hashes Call-IDs and makes nonces.
    pub key: BoxKey,
    /// Where things are counted.
    pub metrics: Arc<Metrics>,
    /// Who is asked for addresses; empty = the name servers of the system.
    pub nameservers: Vec<std::net::SocketAddr>,
}

/// Why SIP could not start.
#[derive(Debug, thiserror::Error)]
pub enum SipError {
    /// The configuration has no `[sip]`.
    #[error("the config has no [sip]")]
    NotConfigured,
    /// A listener cannot be bound.
    #[error("sip.{0} cannot listen on {1}: {2}; is the port taken?")]
    Bind(&'static str, std::net::SocketAddr, String),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// How a trunk stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TrunkStatus {
    /// Its name.
    pub name: String,
    /// Its transport.
    pub transport: &'static str,
    /// `registered`, `refused` …; `None` = it does not register.
    pub registration: Option<&'static str>,
    /// `up`, `down` or `unknown`, by OPTIONS.
    pub options: &'static str,
    /// Calls that are up.
    pub calls: usize,
    /// What is wrong and what to do, in words.
    pub words: Option<&'static str>,
}

/// How full the tables are; all are 0 on an idle box whose trunks do not register.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tables {
    /// Dialogs, those included that the library still holds.
    pub dialogs: usize,
    /// Transactions that run or wait out repeats, 32 s.
    pub transactions: usize,
    /// Registrations that hold.
    pub registrations: usize,
    /// Sources that the guard remembers, 30 s.
    pub sources: usize,
}

/// SIP of this process. Cheap to clone; [`Sip::close`] ends it.
#[derive(Clone)]
pub struct Sip {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Sip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sip").field("tables", &self.tables()).finish_non_exhaustive()
    }
}

/// What the parts of this module share.
struct Shared {
    desk: Arc<desk::Desk>,
    endpoint: EndpointInnerRef,
    layer: Arc<DialogLayer>,
    trunks: Vec<Trunk>,
    whatsapp: Option<WhatsAppSip>,
    resolver: resolve::Resolver,
    roots: Vec<u8>,
    invites: mpsc::Sender<Invite>,
    statuses: Mutex<Vec<upkeep::Standing>>,
    streams: endpoint::Streams,
    tls: Option<(TlsListenerConnection, sauti_core::config::TlsFiles)>,
    stop: CancellationToken,
    tasks: Mutex<JoinSet<()>>,
}

impl Sip {
    /// Binds the listeners and starts the tasks. Calls come out of the receiver.
    ///
    /// # Errors
    ///
    /// A listener or the certificate cannot be had.
    pub async fn start(setup: Setup<'_>) -> Result<(Self, mpsc::Receiver<Invite>), SipError> {
        let (invites, calls) = mpsc::channel(INVITES);
        let shared = endpoint::build(setup, invites).await?;
        let sip = Self { shared };
        upkeep::start(&sip.shared);
        Ok((sip, calls))
    }

    /// Calls somebody over a trunk. The INVITE is on its way when this returns; the rest are events.
    ///
    /// # Errors
    ///
    /// No such trunk, no address of it, or nothing could be sent.
    pub async fn place(&self, call: Place) -> Result<(Dialog, DialogEvents), DialogError> {
        place::place(&self.shared, call).await
    }

    /// The whole `sip:` address of `target` at a trunk, as the far end of a REFER needs it; `None` where there is none.
    #[must_use]
    pub fn address_of(&self, trunk: &str, target: &str) -> Option<Pii> {
        place::address_of(&self.shared, trunk, target)
    }

    /// Hangs up in a dialog that an earlier run left behind: one BYE, 8 s at most.
    pub async fn farewell(&self, dialog: &LiveDialog) -> Farewell {
        let farewell = farewell::bye(&self.shared, dialog).await;
        self.shared.desk.metrics.sip_farewell(farewell);
        farewell
    }

    /// How each trunk stands, in the order of the file.
    #[must_use]
    pub fn statuses(&self) -> Vec<TrunkStatus> {
        upkeep::statuses(&self.shared)
    }

    /// `trunk` while one is down or not registered.
    #[must_use]
    pub fn conditions(&self) -> Vec<&'static str> {
        let bad = |status: &TrunkStatus| {
            status.options == "down"
                || status.registration.is_some_and(|state| state != "registered" && state != "trying")
        };
        if self.statuses().iter().any(bad) { vec!["trunk"] } else { Vec::new() }
    }

    /// How full the tables are.
    #[must_use]
    pub fn tables(&self) -> Tables {
        let stats = self.shared.endpoint.get_stats();
        Tables {
            dialogs: self.shared.layer.len().max(self.shared.desk.calls()),
            transactions: stats.running_transactions + stats.finished_transactions + stats.waiting_ack,
            registrations: upkeep::registered(&self.shared),
            sources: self.shared.desk.guard(|guard| guard.len()),
        }
    }

    /// Where it listens, by transport: what the system chose, where port 0 was configured.
    #[must_use]
    pub fn address(&self, transport: Transport) -> Option<std::net::SocketAddr> {
        self.shared.desk.listeners.of(transport)
    }

    /// Reads the certificate again; a bad one leaves the old one in use.
    ///
    /// # Errors
    ///
    /// The files cannot be used.
    pub async fn reload(&self) -> Result<(), TlsError> {
        endpoint::reload(&self.shared).await
    }

    /// From now on new calls are refused with 503.
    pub fn drain(&self) {
        self.shared.desk.draining.store(true, Ordering::Relaxed);
    }

    /// Takes back the registrations, 2 s at most, and closes the listeners.
    pub async fn close(self) {
        self.drain();
        tokio::time::timeout(Duration::from_secs(2), upkeep::unregister(&self.shared)).await.ok();
        self.shared.stop.cancel();
        self.shared.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

impl Shared {
    fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
    }

    /// The trunk of a peer; WhatsApp has none.
    fn trunk(&self, peer: usize) -> Option<&Trunk> {
        self.trunks.get(peer)
    }

    /// The password that a peer may ask us for.
    fn credential(&self, peer: usize) -> Option<Credential> {
        if let Some(trunk) = self.trunk(peer) {
            let password = trunk.password.as_ref()?.expose_secret().to_owned();
            return Some(Credential { username: trunk.username.clone()?, password, realm: None, auth_username: None });
        }
        let sip = self.whatsapp.as_ref()?;
        let password = sip.password.expose_secret().to_owned();
        Some(Credential { username: sip.number.clone()?, password, realm: None, auth_username: None })
    }

    /// Our Contact towards a peer: on every 2xx, and always an address that it can reach (peers §3, bugs 44, 45).
    ///
    /// The transport stands in it, so that the library does not make it a `sips:` one, which WhatsApp refuses.
    fn contact(&self, peer: usize, far: IpAddr, transport: Transport) -> Option<Uri> {
        let port = self.desk.listeners.contact(transport).map(|listener| listener.port().into());
        let whatsapp = self.whatsapp.as_ref().filter(|_| self.trunk(peer).is_none());
        let host = match whatsapp {
            Some(sip) => HostWithPort { host: rsipstack::sip::Domain(sip.hostname.clone()).into(), port },
            None => HostWithPort { host: self.desk.advertised(Some(peer), far)?.into(), port },
        };
        let user = self.trunk(peer).and_then(|trunk| trunk.username.clone()).unwrap_or_else(|| "sauti".to_owned());
        let params = match transport {
            Transport::Udp => Vec::new(),
            stream => vec![Param::Transport(wire::transport(stream))],
        };
        Some(Uri {
            scheme: Some(Scheme::Sip),
            auth: Some(Auth { user, password: None }),
            host_with_port: host,
            params,
            headers: Vec::new(),
        })
    }

    /// The index of a trunk by its name.
    fn peer(&self, name: &str) -> Option<usize> {
        self.desk.with_peers(|peers| peers.by_name(name))
    }

    /// Whether `peer` is WhatsApp.
    fn is_whatsapp(&self, peer: usize) -> bool {
        self.desk.with_peers(|peers| peers.peer(peer).is_some_and(|peer| &*peer.name == WHATSAPP_TRUNK))
    }
}
