//! What all of SIP shares: who is known, who asks too much, which calls are up, and the two places where the library
//! shows every message before it acts on one or sends one.
//!
//! The locks here are held for a look-up each and never across an await; none is on the media path.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rsipstack::sip::prelude::HeadersExt;
use rsipstack::sip::{HostWithPort, Method, SipMessage, Version};
use rsipstack::transaction::endpoint::{MessageInspector, TransportEventInspector};
use rsipstack::transport::{SipAddr, TransportEvent};
use sauti_core::config::Transport;
use sauti_core::pii::BoxKey;
use sauti_core::sip::guard::Guard;
use sauti_core::sip::route::{Peers, Refused};
use sauti_core::sip::trace::{Trace, Way};

use super::dialog::Line;
use super::{read, wire};
use crate::obs::metrics::Metrics;

/// How long messages of a call are still noted that is over: the answer to its BYE, the ACK of its refusal.
const NOTED_FOR: Duration = Duration::from_secs(5);
/// Calls that are over and still noted: 30 a second end in that time, and as many again.
const NOTED: usize = 256;

/// One call in the table, by its Call-ID.
#[derive(Debug, Clone)]
pub(super) struct Live {
    /// Whose call it is; a request within it must come from there.
    pub(super) peer: usize,
    pub(super) trace: Arc<Mutex<Trace>>,
    pub(super) line: Arc<Line>,
}

/// A call that is over.
#[derive(Debug)]
struct Ended {
    at: Instant,
    call_id: String,
    trace: Arc<Mutex<Trace>>,
}

/// The listeners as they are bound.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Listeners {
    pub(super) udp: Option<SocketAddr>,
    pub(super) tcp: Option<SocketAddr>,
    pub(super) tls: Option<SocketAddr>,
}

impl Listeners {
    pub(super) fn of(&self, transport: Transport) -> Option<SocketAddr> {
        match transport {
            Transport::Udp => self.udp,
            Transport::Tcp => self.tcp,
            Transport::Tls => self.tls,
        }
    }

    /// Where a peer of `transport` can reach us: the listener, or any other when calls come back on our own stream.
    pub(super) fn contact(&self, transport: Transport) -> Option<SocketAddr> {
        self.of(transport).or(self.udp).or(self.tcp).or(self.tls)
    }
}

/// The state that inspectors, dispatcher and dialogs share.
#[derive(Debug)]
pub(super) struct Desk {
    peers: RwLock<Peers>,
    guard: Mutex<Guard>,
    calls: Mutex<BTreeMap<String, Live>>,
    /// Calls that are over, the latest last, for their last messages.
    ended: Mutex<VecDeque<Ended>>,
    pub(super) draining: AtomicBool,
    /// False until the listeners are bound: nobody is looked at before.
    pub(super) open: AtomicBool,
    pub(super) listeners: Listeners,
    /// The address that each peer sees, where one is configured.
    advertise: Vec<Option<IpAddr>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) key: BoxKey,
}

/// A poisoned lock holds tables that are whole between any two statements: they are used on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time, where the shell must know it.
pub(super) fn now() -> Instant {
    Instant::now()
}

impl Desk {
    pub(super) fn new(
        peers: Peers,
        advertise: Vec<Option<IpAddr>>,
        listeners: Listeners,
        metrics: Arc<Metrics>,
        key: BoxKey,
    ) -> Self {
        Self {
            peers: RwLock::new(peers),
            guard: Mutex::new(Guard::default()),
            calls: Mutex::new(BTreeMap::new()),
            ended: Mutex::new(VecDeque::new()),
            draining: AtomicBool::new(false),
            open: AtomicBool::new(false),
            listeners,
            advertise,
            metrics,
            key,
        }
    }

    pub(super) fn with_peers<T>(&self, look: impl FnOnce(&Peers) -> T) -> T {
        look(&self.peers.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_resolved(&self, peer: usize, servers: &[SocketAddr]) {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        peers.set_resolved(peer, servers.iter().map(SocketAddr::ip));
    }

    pub(super) fn guard<T>(&self, ask: impl FnOnce(&mut Guard) -> T) -> T {
        ask(&mut lock(&self.guard))
    }

    /// Whether a datagram or a connection from here is looked at; asked by the library before it parses a byte.
    pub(super) fn lets_in(&self, source: IpAddr) -> bool {
        if !self.open.load(Ordering::Acquire) {
            return false;
        }
        let known = self.with_peers(|peers| peers.know(source));
        if !known {
            self.metrics.sip_refused(Refused::UnknownSource);
        }
        known
    }

    /// The address that `peer` reaches us at, or the one that packets to `far` leave from.
    pub(super) fn advertised(&self, peer: Option<usize>, far: IpAddr) -> Option<IpAddr> {
        let configured = peer.and_then(|peer| self.advertise.get(peer).copied().flatten());
        configured.or_else(|| wire::towards(far))
    }

    fn peer_at(&self, far: IpAddr) -> Option<usize> {
        self.with_peers(|peers| {
            let by = [Transport::Udp, Transport::Tls];
            by.into_iter().find_map(|transport| peers.peer_of(far, transport, None).ok())
        })
    }

    pub(super) fn live(&self, call_id: &str) -> Option<Live> {
        lock(&self.calls).get(call_id).cloned()
    }

    /// Enters a call; false when one of this Call-ID is up already.
    pub(super) fn enter(&self, call_id: &str, live: Live) -> bool {
        let mut calls = lock(&self.calls);
        if calls.contains_key(call_id) {
            return false;
        }
        calls.insert(call_id.to_owned(), live);
        true
    }

    pub(super) fn leave(&self, call_id: &str) {
        let Some(live) = lock(&self.calls).remove(call_id) else { return };
        let mut ended = lock(&self.ended);
        while ended.len() >= NOTED || ended.front().is_some_and(|first| first.at + NOTED_FOR < now()) {
            ended.pop_front();
        }
        ended.push_back(Ended { at: now(), call_id: call_id.to_owned(), trace: live.trace });
    }

    /// Where the messages of a call are noted.
    fn noted(&self, call_id: &str) -> Option<Arc<Mutex<Trace>>> {
        if let Some(live) = self.live(call_id) {
            return Some(live.trace);
        }
        let ended = lock(&self.ended);
        let late = ended.iter().rev().find(|ended| ended.call_id == call_id && ended.at + NOTED_FOR > now());
        late.map(|ended| Arc::clone(&ended.trace))
    }

    pub(super) fn calls(&self) -> usize {
        lock(&self.calls).len()
    }

    pub(super) fn calls_of(&self, peer: usize) -> usize {
        lock(&self.calls).values().filter(|live| live.peer == peer).count()
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Writes a message into the trace of its call, if there is one.
    fn trace(&self, message: &SipMessage, way: Way) {
        let Ok(call_id) = message.call_id_header() else { return };
        let Some(trace) = self.noted(call_id.value()) else { return };
        trace_into(&trace, message, way);
    }

    /// Whether a message may go on to the library's transactions.
    fn passes(&self, message: &SipMessage, source: IpAddr, transport: Transport) -> Result<(), Refused> {
        let forged = |call_id: &str| {
            let call = self.live(call_id);
            call.is_some_and(|live| self.with_peers(|peers| !peers.is_from(live.peer, source, transport)))
        };
        let SipMessage::Request(request) = message else {
            // a stranger's never gets here, another peer's would have to know a branch that only the right one has seen,
            // and on a stream it comes from whom we asked there, whatever the name stands for by now
            let forged =
                transport == Transport::Udp && message.call_id_header().is_ok_and(|call_id| forged(call_id.value()));
            return if forged { Err(Refused::UnknownSource) } else { Ok(()) };
        };
        let user = read::user_of(request.uri());
        match self.with_peers(|peers| peers.peer_of(source, transport, user.as_deref())) {
            Err(why) if why.code().is_none() => return Err(why),
            Ok(_) | Err(_) => {}
        }
        // an answer would bear the version of the request, which is not ours (RFC 4475 §3.1.2.16)
        if *request.version() != Version::V2 {
            return Err(Refused::Malformed);
        }
        if self.guard(|guard| guard.is_barred(now(), source)) {
            return Err(Refused::Barred);
        }
        let within = read::has_to_tag(request) || matches!(request.method(), Method::Ack | Method::Cancel);
        if within {
            let forged = request.call_id_header().is_ok_and(|call_id| forged(call_id.value()));
            return if forged { Err(Refused::UnknownSource) } else { Ok(()) };
        }
        // INVITEs have a limit of their own and are told about it
        let counted = *request.method() != Method::Invite;
        if counted && !self.guard(|guard| guard.request(now(), source)) {
            return Err(Refused::Rate);
        }
        Ok(())
    }
}

/// Adds a message to a trace.
pub(super) fn trace_into(trace: &Mutex<Trace>, message: &SipMessage, way: Way) {
    let cseq = message.cseq_header().map(|cseq| cseq.value().to_owned()).unwrap_or_default();
    let reason = message.reason_header().map(|reason| reason.value().to_owned());
    lock(trace).add(now(), way, &message.start_line(), &cseq, reason.as_deref());
}

/// Sees what comes in before a transaction exists.
pub(super) struct Door(pub(super) Arc<Desk>);

#[async_trait]
impl TransportEventInspector for Door {
    async fn handle(&self, event: TransportEvent) -> Option<TransportEvent> {
        let TransportEvent::Incoming(message, connection, from) = &event else { return Some(event) };
        let (Some(source), Some(transport)) = (read::address(&from.addr.host), wire::known(connection.transport()))
        else {
            return None;
        };
        if let Err(why) = self.0.passes(message, source, transport) {
            self.0.metrics.sip_refused(why);
            return None;
        }
        self.0.trace(message, Way::In);
        Some(event)
    }
}

/// Sees what goes out.
pub(super) struct Counter(pub(super) Arc<Desk>);

impl MessageInspector for Counter {
    /// Writes the address that the peer sees into the topmost Via of a request (RFC 3261 §18.1.1).
    fn before_send(&self, mut message: SipMessage, destination: Option<&SipAddr>) -> SipMessage {
        self.0.trace(&message, Way::Out);
        if let SipMessage::Request(request) = &mut message {
            wire::mend_credentials(request);
            wire::small_transport(&mut request.uri);
            if *request.method() == Method::Ack {
                wire::small_routes(request);
            }
        }
        let Some(far) = destination.and_then(|far| read::address(&far.addr.host)) else { return message };
        if let SipMessage::Request(request) = &mut message
            && let Some(own) = self.0.advertised(self.0.peer_at(far), far)
            && let Ok(via) = request.via_header_mut()
        {
            // a Via that cannot be rewritten is ours and right as it is
            via.update_first_value(|via| {
                let mut typed = rsipstack::sip::typed::Via::parse(via.value())?;
                let port = typed.uri.host_with_port.port;
                typed.uri.host_with_port = HostWithPort { host: own.into(), port };
                Ok(typed.into())
            })
            .ok();
        }
        message
    }

    fn after_received(&self, mut message: SipMessage, _: Option<&SipAddr>) -> SipMessage {
        if let SipMessage::Response(response) = &mut message {
            wire::mend_challenges(response);
        }
        message
    }
}
