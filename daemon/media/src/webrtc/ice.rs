//! Connectivity of one leg: full ICE by the engine's agent, or the answering half alone (ICE-lite).
//!
//! The agent decides who is pinged and what is nominated; when it gets to act is decided here. Left to itself it acts
//! every 200 ms and needs two such ticks, so a loopback call takes a quarter of a second to connect. Here checks start
//! 10 ms apart, slow down with age and with the number of pairs, and the answer to a check is acted upon at once.
//!
//! The engine's own "lite" mode still sends checks of its own, which WhatsApp's relay never does; [`Lite`] is that
//! relay's half, for the emulated caller. Driven by [`super::WebRtcLeg`].

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rtc::crypto::{RTCCrypto, RTCCryptoProvider};
use rtc::ice::candidate::candidate_host::CandidateHostConfig;
use rtc::ice::candidate::{CandidateConfig, CandidateType};
use rtc::ice::mdns::MulticastDnsMode;
use rtc::ice::network_type::NetworkType;
use rtc::ice::state::ConnectionState;
use rtc::ice::{Agent, AgentConfig, Event};
use rtc::sansio::Protocol as _;
use rtc::shared::error::{Error, Result};
use rtc::shared::{TaggedBytesMut, TransportContext, TransportProtocol};
use rtc::stun::attributes::{ATTR_ICE_CONTROLLED, ATTR_USE_CANDIDATE, ATTR_USERNAME};
use rtc::stun::error_code::CODE_ROLE_CONFLICT;
use rtc::stun::fingerprint::FINGERPRINT;
use rtc::stun::integrity::MessageIntegrity;
use rtc::stun::message::{BINDING_ERROR, BINDING_REQUEST, BINDING_SUCCESS, Message, Setter};
use rtc::stun::xoraddr::XorMappedAddress;

use crate::webrtc_sdp::{MAX_CANDIDATES, RemoteCandidate};

/// Silence of the peer after which the path counts as disturbed (RFC 7675 asks for an end at 30 s).
const DISCONNECTED_AFTER: Duration = Duration::from_secs(5);
/// Further silence after which consent is gone for good.
const FAILED_AFTER: Duration = Duration::from_secs(25);
/// Silence that an ICE-lite side takes before it worries: full agents may leave 6 s between two consent checks.
const LITE_DISCONNECTED_AFTER: Duration = Duration::from_secs(8);
/// Distance of consent checks on the selected pair.
const CONSENT_EVERY: Duration = Duration::from_secs(2);
/// How often a connected path is looked at; a consent check may be late by this much.
const CONNECTED_PACE: Duration = Duration::from_millis(500);
/// Most addresses of the peer that are kept: those of its description and some that checks came from.
const MAX_REMOTES: usize = MAX_CANDIDATES + 16;
/// Least distance between two rounds of checks, so that a peer answering at once cannot make us spin.
const LEAST_PACE: Duration = Duration::from_millis(1);

/// What happened to the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IceEvent {
    /// Media goes to and comes from this address from now on.
    Selected(SocketAddr),
    /// The peer has not been heard for 5 s (8 s on the ICE-lite side).
    Disconnected,
    /// It is heard again.
    Recovered,
    /// Never connected, or silent for too long; nothing will come any more.
    Failed,
}

/// The two credentials of one side.
#[derive(Clone)]
pub(super) struct Credentials {
    pub(super) ufrag: String,
    pub(super) pwd: String,
}

/// Either kind of agent.
pub(super) enum Ice {
    Full(Box<Full>),
    Lite(Lite),
}

impl Ice {
    /// Takes a STUN datagram.
    ///
    /// # Errors
    /// What was wrong with it; nothing has changed then.
    pub(super) fn receive(&mut self, now: Instant, from: SocketAddr, packet: &[u8]) -> Result<()> {
        match self {
            Self::Full(full) => full.receive(now, from, packet),
            Self::Lite(lite) => lite.receive(now, from, packet),
        }
    }

    pub(super) fn poll_transmit(&mut self) -> Option<(SocketAddr, BytesMut)> {
        match self {
            Self::Full(full) => full.agent.poll_write().map(|out| (out.transport.peer_addr, out.message)),
            Self::Lite(lite) => lite.outbox.pop_front(),
        }
    }

    pub(super) fn poll_event(&mut self) -> Option<IceEvent> {
        match self {
            Self::Full(full) => full.poll_event(),
            Self::Lite(lite) => lite.events.pop_front(),
        }
    }

    /// Whether `from` has passed a connectivity check, so that its DTLS and media may be looked at.
    pub(super) fn has_verified(&self, from: SocketAddr) -> bool {
        match self {
            Self::Full(full) => full
                .agent
                .get_remote_candidates()
                .iter()
                .any(|candidate| candidate.addr() == from && candidate.last_received().is_some()),
            Self::Lite(lite) => lite.selected == Some(from),
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Full(full) => full.due,
            Self::Lite(lite) => lite.deadline(),
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        match self {
            Self::Full(full) => full.handle_timeout(now),
            Self::Lite(lite) => lite.handle_timeout(now),
        }
    }

    /// Checks at once and at the pace of a fresh start: the far end is known to have learnt our credentials.
    pub(super) fn hurry(&mut self, now: Instant) {
        if let Self::Full(full) = self
            && !full.selected
            && full.due.is_some()
        {
            full.started = now;
            full.due = Some(now);
        }
    }
}

/// Decodes a binding request and checks that it is from whom our description went to.
fn authentic_request(packet: &[u8], own: &Credentials, peer_ufrag: &str, crypto: &dyn RTCCrypto) -> Result<Message> {
    let mut request = Message { raw: packet.to_vec(), ..Message::default() };
    request.decode()?;
    if request.typ != BINDING_REQUEST {
        return Err(Error::ErrUnhandledStunpacket);
    }
    let username = request.get(ATTR_USERNAME)?;
    let (ours, theirs) = username.split_at_checked(own.ufrag.len()).ok_or(Error::ErrMismatchUsername)?;
    if ours != own.ufrag.as_bytes() || theirs.strip_prefix(b":") != Some(peer_ufrag.as_bytes()) {
        return Err(Error::ErrMismatchUsername);
    }
    MessageIntegrity::check(&mut request, own.pwd.as_bytes(), crypto)?;
    Ok(request)
}

/// The engine's agent with our pace and our guard.
pub(super) struct Full {
    agent: Agent,
    own: Credentials,
    peer_ufrag: String,
    provider: Arc<dyn RTCCryptoProvider>,
    /// The address that stands for our socket towards IPv4 and IPv6 peers.
    bases: [Option<SocketAddr>; 2],
    started: Instant,
    last_round: Option<Instant>,
    /// When the agent may act next; `None` before the peer is known and after the end.
    due: Option<Instant>,
    controlling: bool,
    selected: bool,
    disturbed: bool,
}

impl Full {
    /// Makes an agent that can be told its peer later.
    pub(super) fn new(
        now: Instant,
        own: Credentials,
        bases: [Option<SocketAddr>; 2],
        provider: Arc<dyn RTCCryptoProvider>,
    ) -> Result<Self> {
        let config = AgentConfig {
            local_ufrag: own.ufrag.clone(),
            local_pwd: own.pwd.clone(),
            multicast_dns_mode: MulticastDnsMode::Disabled,
            disconnected_timeout: Some(DISCONNECTED_AFTER),
            failed_timeout: Some(FAILED_AFTER),
            keepalive_interval: Some(CONSENT_EVERY),
            candidate_types: vec![CandidateType::Host, CandidateType::PeerReflexive],
            network_types: vec![NetworkType::Udp4, NetworkType::Udp6],
            // The pace is ours: the agent is to act whenever it is called.
            check_interval: LEAST_PACE,
            // Checks go unanswered until the far end has processed our answer, however many there were: time ends
            // them, not their number.
            max_binding_requests: Some(u16::MAX),
            host_acceptance_min_wait: Some(Duration::ZERO),
            srflx_acceptance_min_wait: Some(Duration::ZERO),
            prflx_acceptance_min_wait: Some(Duration::ZERO),
            relay_acceptance_min_wait: Some(Duration::ZERO),
            ..AgentConfig::default()
        };
        let mut agent = Agent::new(now, Arc::new(config), Arc::clone(&provider))?;
        for base in bases.into_iter().flatten() {
            let candidate = CandidateHostConfig { base_config: describe(base), ..CandidateHostConfig::default() };
            agent.add_local_candidate(candidate.new_candidate_host()?)?;
        }
        Ok(Self {
            agent,
            own,
            peer_ufrag: String::new(),
            provider,
            bases,
            started: now,
            last_round: None,
            due: None,
            controlling: false,
            selected: false,
            disturbed: false,
        })
    }

    /// Tells the agent its peer and lets it begin.
    pub(super) fn start(
        &mut self,
        now: Instant,
        controlling: bool,
        peer: Credentials,
        candidates: &[RemoteCandidate],
    ) -> Result<()> {
        self.peer_ufrag.clone_from(&peer.ufrag);
        self.agent.start_connectivity_checks(now, controlling, peer.ufrag, peer.pwd)?;
        for candidate in candidates {
            let mut base_config = describe(candidate.addr);
            base_config.priority = candidate.priority;
            let candidate = CandidateHostConfig { base_config, ..CandidateHostConfig::default() };
            self.agent.add_remote_candidate(candidate.new_candidate_host()?)?;
        }
        self.controlling = controlling;
        self.started = now;
        self.due = Some(now);
        Ok(())
    }

    fn receive(&mut self, now: Instant, from: SocketAddr, packet: &[u8]) -> Result<()> {
        let base = self.bases[usize::from(from.is_ipv6())].ok_or(Error::ErrUnhandledStunpacket)?;
        // The agent settles role conflicts and refreshes consent before it authenticates: without this guard anybody
        // could make us give up control. It authenticates answers itself; anything else it has no use for.
        let is_answer = packet.first_chunk::<2>() == Some(&[0x01, 0x01]);
        if !is_answer {
            authentic_request(packet, &self.own, &self.peer_ufrag, self.provider.crypto())?;
            // A check can be replayed from anywhere, and every source becomes a candidate.
            let remotes = self.agent.get_remote_candidates();
            if remotes.len() >= MAX_REMOTES && !remotes.iter().any(|remote| remote.addr() == from) {
                return Err(Error::ErrUnhandledStunpacket);
            }
        }
        self.agent.handle_read(TaggedBytesMut {
            now,
            transport: TransportContext {
                local_addr: base,
                peer_addr: from,
                transport_protocol: TransportProtocol::UDP,
                ecn: None,
            },
            message: BytesMut::from(packet),
        })?;
        // The answer to a check lets the controlling side nominate; waiting for the next round would only cost time.
        if is_answer && self.controlling && !self.selected {
            self.due = self.due.map(|due| due.min(self.earliest(now)));
        }
        Ok(())
    }

    /// The next moment at which a round may take place.
    fn earliest(&self, now: Instant) -> Instant {
        self.last_round.map_or(now, |last| (last + LEAST_PACE).max(now))
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        // The agent reports no error here; what it decided comes out as events.
        self.agent.handle_timeout(now).ok();
        self.last_round = Some(now);
        self.due = Some(now + self.pace(now));
    }

    fn pace(&self, now: Instant) -> Duration {
        if self.selected {
            return CONNECTED_PACE;
        }
        let age = now.saturating_duration_since(self.started);
        let pace = match age.as_millis() {
            0..200 => 10,
            200..1_000 => 20,
            1_000..5_000 => 50,
            _ => 250,
        };
        // Every round goes to every pair: many candidates, fewer rounds.
        let crowd = u32::try_from(self.agent.get_remote_candidates().len().div_ceil(4)).unwrap_or(u32::MAX).max(1);
        Duration::from_millis(pace) * crowd
    }

    fn poll_event(&mut self) -> Option<IceEvent> {
        while let Some(tagged) = self.agent.poll_event() {
            match tagged.event {
                Event::SelectedCandidatePairChange(_, remote) => {
                    self.selected = true;
                    return Some(IceEvent::Selected(remote.addr()));
                }
                Event::ConnectionStateChange(ConnectionState::Disconnected) => {
                    self.disturbed = true;
                    return Some(IceEvent::Disconnected);
                }
                Event::ConnectionStateChange(ConnectionState::Connected) if self.disturbed => {
                    self.disturbed = false;
                    return Some(IceEvent::Recovered);
                }
                Event::ConnectionStateChange(ConnectionState::Failed) => {
                    self.due = None;
                    return Some(IceEvent::Failed);
                }
                Event::RoleChange(controlling) => self.controlling = controlling,
                _ => {}
            }
        }
        None
    }
}

fn describe(addr: SocketAddr) -> CandidateConfig {
    CandidateConfig {
        network: "udp".to_owned(),
        address: addr.ip().to_string(),
        port: addr.port(),
        component: 1,
        ..CandidateConfig::default()
    }
}

/// The addresses that stand for the socket, one a family, given what it is bound to and what is advertised.
///
/// A lane hands datagrams over without knowing on which local address they came in, so every peer of a family is
/// served from one base. A socket bound to a single address has that base; one bound to all takes the first advertised
/// address of the family, else the unspecified address as a mere name.
pub(super) fn bases(local: SocketAddr, advertise: &[SocketAddr]) -> [Option<SocketAddr>; 2] {
    let named = |v6: bool| {
        let unspecified = if v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        let found = advertise.iter().find(|addr| addr.is_ipv6() == v6 && !addr.ip().is_unspecified());
        found.copied().unwrap_or_else(|| SocketAddr::new(unspecified, local.port()))
    };
    match (local.ip().is_unspecified(), local) {
        (false, SocketAddr::V4(_)) => [Some(local), None],
        (false, SocketAddr::V6(_)) => [None, Some(local)],
        (true, SocketAddr::V4(_)) => [Some(named(false)), None],
        // A socket bound to all of IPv6 serves IPv4 too, unless it was told not to.
        (true, SocketAddr::V6(_)) => [Some(named(false)), Some(named(true))],
    }
}

/// The answering half of ICE: never checks, answers whoever knows the credentials, lets the other side nominate.
pub(super) struct Lite {
    own: Credentials,
    /// Known once the answer is in; before that nothing is answered.
    peer_ufrag: Option<String>,
    provider: Arc<dyn RTCCryptoProvider>,
    selected: Option<SocketAddr>,
    last_heard: Instant,
    disturbed: bool,
    failed: bool,
    outbox: VecDeque<(SocketAddr, BytesMut)>,
    events: VecDeque<IceEvent>,
}

impl Lite {
    pub(super) fn new(now: Instant, own: Credentials, provider: Arc<dyn RTCCryptoProvider>) -> Self {
        Self {
            own,
            peer_ufrag: None,
            provider,
            selected: None,
            last_heard: now,
            disturbed: false,
            failed: false,
            outbox: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Lets checks of this peer be answered from now on.
    pub(super) fn start(&mut self, now: Instant, peer_ufrag: String) {
        self.peer_ufrag = Some(peer_ufrag);
        self.last_heard = now;
    }

    fn receive(&mut self, now: Instant, from: SocketAddr, packet: &[u8]) -> Result<()> {
        let Some(peer_ufrag) = self.peer_ufrag.as_ref().filter(|_| !self.failed) else {
            return Err(Error::ErrUnhandledStunpacket);
        };
        let request = authentic_request(packet, &self.own, peer_ufrag, self.provider.crypto())?;
        let conflict = request.contains(ATTR_ICE_CONTROLLED);
        let verdict: [Box<dyn Setter>; 2] = if conflict {
            [Box::new(BINDING_ERROR), Box::new(CODE_ROLE_CONFLICT)]
        } else {
            [Box::new(BINDING_SUCCESS), Box::new(XorMappedAddress { ip: from.ip(), port: from.port() })]
        };
        let mut answer = Message::new();
        let mut parts: Vec<Box<dyn Setter + '_>> = vec![Box::new(request.transaction_id)];
        parts.extend(verdict);
        parts.push(Box::new(MessageIntegrity::new_short_term_integrity_with_provider(
            self.own.pwd.clone(),
            self.provider.crypto(),
        )));
        parts.push(Box::new(FINGERPRINT));
        answer.build(&parts)?;
        self.outbox.push_back((from, BytesMut::from(&answer.raw[..])));
        if conflict {
            return Ok(());
        }

        self.last_heard = now;
        if std::mem::take(&mut self.disturbed) {
            self.events.push_back(IceEvent::Recovered);
        }
        if request.contains(ATTR_USE_CANDIDATE) && self.selected != Some(from) {
            self.selected = Some(from);
            self.events.push_back(IceEvent::Selected(from));
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        if self.failed || self.peer_ufrag.is_none() {
            return None;
        }
        let warned = self.disturbed || self.selected.is_none();
        Some(self.last_heard + if warned { DISCONNECTED_AFTER + FAILED_AFTER } else { LITE_DISCONNECTED_AFTER })
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return;
        }
        if self.disturbed || self.selected.is_none() {
            self.failed = true;
            self.events.push_back(IceEvent::Failed);
        } else {
            self.disturbed = true;
            self.events.push_back(IceEvent::Disconnected);
        }
    }
}
