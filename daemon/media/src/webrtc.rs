//! The WebRTC leg of one audio call: ICE, DTLS-SRTP and RTP, sans-IO.
//!
//! This module (this file and those below `webrtc/`) and [`crate::rtp`] are the only ones that name the engine: `rtc`, the
//! sans-IO core of the `webrtc` project. Of it we drive the parts directly (ICE agent, DTLS endpoint, SRTP context, STUN messages) and
//! leave its peer connection out. That one would put eight handlers and a statistics store between a packet and its
//! lane, keep failures to itself, fix the DTLS timer at 1 s, drop media from an SSRC that the description lacks, and
//! choose codecs by rules that lose Opus beside telephone-event.
//!
//! No codec, no jitter buffer, no clock, no socket: a lane passes `now` and datagrams. After every call that takes
//! `now`, drain [`WebRtcLeg::poll_transmit`], [`WebRtcLeg::poll_event`] and [`WebRtcLeg::poll_rtp`], then ask
//! [`WebRtcLeg::deadline`]. RTCP is kept here altogether: reports are made and read, and what they say comes as events.
//!
//! The engine says things through the `log` crate, among them addresses and ICE credentials, at levels from trace to
//! warn. Nothing may listen there: no bridge from `log` to our own logging.
//!
//! What is allocated per packet: the engine makes one buffer for each packet sent and one for each received, which then
//! carries the payload to whoever polls it. Beyond those there is nothing (a test counts). Checks, handshakes and
//! reports allocate more; there is one check every 2 s.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;

pub use crate::rtp::{FarReport, LegCounters, LegEvent, LegFailure, MAX_PAYLOAD, Reception, RtpIn, RtpOut, SendError};
use crate::rtp::{MAX_DATAGRAM, Protection, Stream};
use crate::webrtc_sdp::{self, OfferFacts, OfferShape, SdpRefusal, Setup};
use dtls::{Dtls, DtlsEvent};
use ice::{Credentials, Full, Ice, IceEvent, Lite};
use identity::Draw;
pub use identity::{Certificate, EngineError};

mod dtls;
mod ice;
mod identity;
#[cfg(test)]
mod tests;

/// Ticks a second of Opus' RTP clock (RFC 7587).
const OPUS_CLOCK: u32 = 48_000;

/// What a leg has to know about its socket and itself.
#[derive(Debug, Clone, Copy)]
pub struct LegSettings<'a> {
    /// The identity of this process.
    pub certificate: &'a Certificate,
    /// What the call's own socket is bound to; may be an unspecified address.
    pub local: SocketAddr,
    /// Addresses to advertise as host candidates, best first. May be empty: the far end then learns our address from
    /// our checks, which suffices wherever outbound UDP does.
    pub advertise: &'a [SocketAddr],
}

/// Payload types in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadTypes {
    /// Opus.
    pub opus: u8,
    /// telephone-event at 8000 Hz, where negotiated.
    pub telephone_event: Option<u8>,
}

/// One side of one call.
pub struct WebRtcLeg {
    certificate: Certificate,
    ice: Ice,
    dtls: Option<Dtls>,
    stream: Stream,
    /// Where media goes: the address of the chosen pair.
    peer: Option<SocketAddr>,
    over: bool,
    payload_types: PayloadTypes,
    /// Every payload type of our offer; empty for a leg that answered.
    offered: Vec<u8>,
    outbox: VecDeque<(SocketAddr, BytesMut)>,
}

impl std::fmt::Debug for WebRtcLeg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebRtcLeg")
            .field("connected", &self.stream.is_open())
            .field("over", &self.over)
            .field("payload_types", &self.payload_types)
            .field("counters", &self.stream.counters)
            .finish_non_exhaustive()
    }
}

impl WebRtcLeg {
    /// Answers an offer: returns the leg, already checking, and the answer's final bytes.
    ///
    /// # Errors
    /// Why the offer cannot become a call.
    pub fn answer(now: Instant, offer: &str, settings: &LegSettings<'_>) -> Result<(Self, String), SdpRefusal> {
        Self::answer_to(now, &OfferFacts::read(offer)?, settings)
    }

    /// Answers an offer that has been read already.
    ///
    /// We are the DTLS client unless the offer takes that part, and we control ICE when the far end is ICE-lite.
    ///
    /// # Errors
    /// [`SdpRefusal::Engine`] when the engine cannot be set up.
    pub fn answer_to(
        now: Instant,
        offer: &OfferFacts,
        settings: &LegSettings<'_>,
    ) -> Result<(Self, String), SdpRefusal> {
        let certificate = settings.certificate;
        let draw = Draw::new(&*certificate.provider)?;
        let client = offer.setup != Setup::Active;
        let sdp = webrtc_sdp::write_answer(offer, &draw.local_side(settings), client);

        let bases = ice::bases(settings.local, settings.advertise);
        let mut full = Full::new(now, draw.credentials.clone(), bases, Arc::clone(&certificate.provider))
            .map_err(|_| SdpRefusal::Engine)?;
        let peer = Credentials { ufrag: offer.ice_ufrag.clone(), pwd: offer.ice_pwd.clone() };
        full.start(now, offer.ice_lite, peer, &offer.candidates).map_err(|_| SdpRefusal::Engine)?;
        let dtls = Dtls::new(now, client, certificate, offer.sha256.clone()).map_err(|_| SdpRefusal::Engine)?;

        let payload_types = PayloadTypes { opus: offer.opus.payload_type, telephone_event: offer.telephone_event };
        let mut leg = Self::new(now, certificate, Ice::Full(Box::new(full)), draw, payload_types);
        leg.dtls = Some(dtls);
        Ok((leg, sdp))
    }

    /// Makes an offer, as a caller: returns the leg, waiting for [`Self::accept_answer`], and the offer.
    ///
    /// # Errors
    /// [`SdpRefusal::Engine`] when the engine cannot be set up.
    pub fn offer(now: Instant, settings: &LegSettings<'_>, shape: &OfferShape) -> Result<(Self, String), SdpRefusal> {
        let certificate = settings.certificate;
        let mut draw = Draw::new(&*certificate.provider)?;
        draw.session_id = shape.created_ms;
        if shape.ice_lite {
            // As WhatsApp writes it: 16 bytes in base64, which is outside RFC 8839's alphabet.
            draw.credentials.pwd.truncate(21);
            draw.credentials.pwd.push_str("g==");
        }
        let sdp = webrtc_sdp::write_offer(shape, &draw.local_side(settings));
        let offered = OfferFacts::read(&sdp)?.payload_types;

        let provider = Arc::clone(&certificate.provider);
        let ice = if shape.ice_lite {
            Ice::Lite(Lite::new(now, draw.credentials.clone(), provider))
        } else {
            let bases = ice::bases(settings.local, settings.advertise);
            let full = Full::new(now, draw.credentials.clone(), bases, provider).map_err(|_| SdpRefusal::Engine)?;
            Ice::Full(Box::new(full))
        };
        let payload_types = PayloadTypes { opus: shape.opus, telephone_event: shape.telephone_event };
        let mut leg = Self::new(now, certificate, ice, draw, payload_types);
        leg.offered = offered;
        Ok((leg, sdp))
    }

    fn new(now: Instant, certificate: &Certificate, ice: Ice, draw: Draw, payload_types: PayloadTypes) -> Self {
        Self {
            certificate: certificate.clone(),
            ice,
            dtls: None,
            stream: Stream::new(now, draw.ssrc, draw.cname, payload_types.opus, OPUS_CLOCK),
            peer: None,
            over: false,
            payload_types,
            offered: Vec::new(),
            outbox: VecDeque::new(),
        }
    }

    /// Takes the answer to our offer; from now on checks are answered and DTLS is possible. Once only: a second answer
    /// changes nothing.
    ///
    /// # Errors
    /// Why the answer cannot become a call; the leg is as before then.
    pub fn accept_answer(&mut self, now: Instant, answer: &str) -> Result<(), SdpRefusal> {
        if self.dtls.is_some() {
            return Ok(());
        }
        let answer = OfferFacts::read_answer(answer)?;
        if answer.payload_types.iter().any(|pt| !self.offered.contains(pt)) {
            return Err(SdpRefusal::ForeignPayloadType);
        }
        let client = answer.setup == Setup::Passive;
        let dtls = Dtls::new(now, client, &self.certificate, answer.sha256).map_err(|_| SdpRefusal::Engine)?;
        match &mut self.ice {
            Ice::Lite(lite) => lite.start(now, answer.ice_ufrag),
            Ice::Full(full) => {
                let peer = Credentials { ufrag: answer.ice_ufrag, pwd: answer.ice_pwd };
                full.start(now, true, peer, &answer.candidates).map_err(|_| SdpRefusal::Engine)?;
            }
        }
        self.payload_types = PayloadTypes { opus: answer.opus.payload_type, telephone_event: answer.telephone_event };
        self.stream.set_codec(answer.opus.payload_type, OPUS_CLOCK);
        self.dtls = Some(dtls);
        self.pump(now);
        Ok(())
    }

    /// Tells the leg that the far end has our answer (pre-accept returned 200): what went unanswered so far, checks or
    /// hellos, is due again at once.
    pub fn answer_delivered(&mut self, now: Instant) {
        if self.over {
            return;
        }
        self.ice.hurry(now);
        if let Some(dtls) = &mut self.dtls {
            dtls.hurry(now);
        }
    }

    /// Takes a datagram from the call's socket, whatever it is and whoever sent it.
    pub fn receive(&mut self, now: Instant, from: SocketAddr, packet: &[u8]) {
        if self.over {
            return;
        }
        // A socket bound to all of IPv6 shows IPv4 peers in mapped form; candidates have the plain one.
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        match packet {
            _ if packet.len() > MAX_DATAGRAM => self.stream.counters.bad_packets += 1,
            [0..=3, ..] => {
                if self.ice.receive(now, from, packet).is_err() {
                    self.stream.counters.stun_refused += 1;
                }
            }
            [20..=63 | 128..=191, ..] if self.peer != Some(from) && !self.ice.has_verified(from) => {
                self.stream.counters.strangers += 1;
            }
            [20..=63, ..] => self.receive_dtls(now, packet),
            [128..=191, 192..=223, ..] => self.stream.receive_rtcp(now, packet, true),
            [128..=191, _, ..] => {
                if let Some(packet) = self.stream.open(now, packet) {
                    self.stream.deliver(packet);
                }
            }
            _ => self.stream.counters.bad_packets += 1,
        }
        self.pump(now);
    }

    /// The next datagram to send, and where to. A socket bound to all of IPv6 needs an IPv4 address in mapped form.
    pub fn poll_transmit(&mut self) -> Option<(SocketAddr, BytesMut)> {
        self.outbox.pop_front()
    }

    /// What changed, oldest first.
    pub fn poll_event(&mut self) -> Option<LegEvent> {
        self.stream.events.pop_front()
    }

    /// The next received RTP packet, in order of arrival.
    pub fn poll_rtp(&mut self) -> Option<RtpIn> {
        self.stream.poll_rtp()
    }

    /// When [`Self::handle_timeout`] is due; `None` when nothing is awaited.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if self.over {
            return None;
        }
        let dtls = self.dtls.as_ref().and_then(Dtls::deadline);
        [self.ice.deadline(), dtls, self.stream.reports.deadline()].into_iter().flatten().min()
    }

    /// Does what is due. Harmless when nothing is.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.over {
            return;
        }
        self.ice.handle_timeout(now);
        let event = self.dtls.as_mut().and_then(|dtls| dtls.handle_timeout(now));
        self.settle(event);
        let report = self.stream.report_due(now);
        self.post(report);
        self.pump(now);
    }

    /// Sends an RTP packet from our SSRC.
    ///
    /// # Errors
    /// Nothing was sent; see [`SendError`].
    pub fn send_rtp(&mut self, now: Instant, packet: &RtpOut<'_>) -> Result<(), SendError> {
        if self.peer.is_none() || self.over {
            return Err(SendError::NotConnected);
        }
        let datagram = self.stream.seal(now, packet)?;
        self.post(Some(datagram));
        Ok(())
    }

    /// Sends a compound RTCP packet (SR or RR first), protected. Reports go out by themselves; this is for others.
    ///
    /// # Errors
    /// Nothing was sent; see [`SendError`].
    pub fn send_rtcp(&mut self, compound: &[u8]) -> Result<(), SendError> {
        if self.peer.is_none() || self.over {
            return Err(SendError::NotConnected);
        }
        let datagram = self.stream.seal_rtcp(compound)?;
        self.post(Some(datagram));
        Ok(())
    }

    fn post(&mut self, datagram: Option<BytesMut>) {
        if let (Some(peer), Some(datagram)) = (self.peer, datagram) {
            self.outbox.push_back((peer, datagram));
        }
    }

    /// Says RTCP BYE and leaves everything else as it is, as a WhatsApp caller does who hangs up.
    pub fn say_bye(&mut self) {
        // Before SRTP is up there is nobody to say it to.
        let bye = if self.over { None } else { self.stream.bye() };
        self.post(bye);
    }

    /// Says goodbye (RTCP BYE, then DTLS `close_notify`) and ends the leg; drain [`Self::poll_transmit`] once more.
    /// No event follows.
    pub fn close(&mut self, now: Instant) {
        if self.over {
            return;
        }
        self.say_bye();
        if let Some(dtls) = &mut self.dtls {
            dtls.close(now);
        }
        self.pump(now);
        self.over = true;
        self.stream.events.clear();
    }

    /// Our one synchronization source.
    #[must_use]
    pub fn ssrc(&self) -> u32 {
        self.stream.ssrc
    }

    /// Payload types in force; those offered, until an answer came.
    #[must_use]
    pub fn payload_types(&self) -> PayloadTypes {
        self.payload_types
    }

    /// Whether media may be sent.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.stream.is_open() && !self.over
    }

    /// How the far end's stream arrives here; `None` before its first packet.
    #[must_use]
    pub fn reception(&self) -> Option<Reception> {
        self.stream.reception()
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> LegCounters {
        self.stream.counters
    }

    fn receive_dtls(&mut self, now: Instant, packet: &[u8]) {
        let Some(dtls) = &mut self.dtls else {
            self.stream.counters.strangers += 1;
            return;
        };
        match dtls.receive(now, packet) {
            Ok(event) => self.settle(event),
            Err(_) => self.stream.counters.bad_packets += 1,
        }
    }

    fn settle(&mut self, event: Option<DtlsEvent>) {
        match event {
            None => {}
            Some(DtlsEvent::Connected(keys)) => {
                self.stream.protection = Protection::Srtp(keys);
                self.stream.events.push_back(LegEvent::Connected);
            }
            Some(DtlsEvent::PeerClosed) => {
                self.stream.protection = Protection::Awaited;
                self.stream.events.push_back(LegEvent::Closed);
            }
            Some(DtlsEvent::Failed(failure)) => self.end(failure),
        }
    }

    fn end(&mut self, failure: LegFailure) {
        if !self.over {
            self.over = true;
            self.stream.events.push_back(LegEvent::Failed(failure));
        }
    }

    /// Moves what the parts have to say into our queues.
    fn pump(&mut self, now: Instant) {
        while let Some(event) = self.ice.poll_event() {
            match event {
                IceEvent::Selected(peer) => {
                    if self.peer.replace(peer).is_none() {
                        self.stream.events.push_back(LegEvent::IceConnected);
                    }
                    let event = self.dtls.as_mut().and_then(|dtls| dtls.start(now));
                    self.settle(event);
                }
                IceEvent::Disconnected => self.stream.events.push_back(LegEvent::Disconnected),
                IceEvent::Recovered => self.stream.events.push_back(LegEvent::Recovered),
                IceEvent::Failed => self.end(LegFailure::Ice),
            }
        }
        while let Some(out) = self.ice.poll_transmit() {
            self.outbox.push_back(out);
        }
        while let Some(packet) = self.dtls.as_mut().and_then(Dtls::poll_transmit) {
            if let Some(peer) = self.peer {
                self.outbox.push_back((peer, packet));
            }
        }
    }
}
