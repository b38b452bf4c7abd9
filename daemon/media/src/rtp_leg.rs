//! A leg of plain RTP or SRTP with keys from the description: a trunk's media, sans-IO.
//!
//! The far end is where its description says, or where its packets come from, for behind a NAT these differ: it is
//! *latched*. That is also what a stranger would abuse who sprays packets at our ports, to be sent the call's audio or to
//! be heard in it. So:
//!
//! - Without SRTP the address that was signalled is believed at once and always, as no stranger can be there; any other
//!   only when two packets in a row look like one stream of the codec in force. Then all others are strangers, counted and
//!   dropped, and media goes there alone.
//! - What such another address says is heard [`SETTLING`] after the call's answer at the earliest: somebody who sprays the
//!   port was there before the far end could be, and would be taken for the caller until her first packet.
//! - Another address takes over only after [`SILENT`] without a packet, and only with the source (SSRC) of before. One that
//!   a re-INVITE has left is not taken for as long: what comes from it was on its way.
//! - With SRTP whoever holds the key is the far end: media follows the packets that prove themselves.
//! - With `strict` nothing is latched: packets from elsewhere than signalled are dropped.
//!
//! RTCP comes with RTP (RFC 5761) or on a socket of its own ([`RtpLeg::receive_control`]), and must name the source of the
//! media. Its BYE ends nothing here: SIP says when a call is over, and a gateway may say BYE at each change of its source.
//! Driven by a lane, as [`crate::webrtc::WebRtcLeg`] is; after every call that takes `now`, drain the `poll_` methods.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rtc::srtp::protection_profile::ProtectionProfile;
use sauti_core::media::rtp::{is_rtcp, sequence_distance};

use crate::rtp::srtp::{Srtp, inward, outward};
use crate::rtp::{
    LegCounters, LegEvent, MAX_DATAGRAM, Protection, Reception, RtpIn, RtpOut, SendError, Stream, sender,
};
use crate::rtp_sdp::{KEY_BYTES, LocalSide, MasterKey, RtpRefusal, RtpTerms, SdesKeys, Suite};

/// Time without a packet after which a far end may have moved: longer than handovers and re-INVITEs of gateways take,
/// short against the silence that ends a call.
pub const SILENT: Duration = Duration::from_secs(2);
/// Time that the signalled address has for its first packet: the way of our answer and back, over a slow link. Nobody has
/// said a word by then.
pub const SETTLING: Duration = Duration::from_millis(300);
/// Bytes that a leg is made of at random.
pub const SEED_BYTES: usize = 28 + 2 * KEY_BYTES;

/// What is drawn at random for a leg, by whoever has randomness.
#[derive(Clone)]
pub struct RtpSeed([u8; SEED_BYTES]);

impl RtpSeed {
    /// Random bytes.
    #[must_use]
    pub const fn new(bytes: [u8; SEED_BYTES]) -> Self {
        Self(bytes)
    }

    /// Our synchronization source; never 0.
    #[must_use]
    pub fn ssrc(&self) -> u32 {
        u32::try_from(self.number(0..4)).unwrap_or(0) | 1
    }

    /// Fills the random parts of our side.
    #[must_use]
    pub fn local_side(&self, side: LocalSide) -> LocalSide {
        let key = |at: usize| MasterKey::new(std::array::from_fn(|n| self.0[at + n]));
        // Below 2⁶², as some parsers have signed numbers (RFC 8866 §5.2 wants it to fit 64 bits).
        LocalSide { session_id: self.number(4..12) >> 2, keys: [key(28), key(28 + KEY_BYTES)], ..side }
    }

    /// A name that says nothing (RFC 7022), unlike user@host.
    fn cname(&self) -> String {
        const CHARS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        self.0[12..28].iter().map(|byte| char::from(CHARS[usize::from(byte & 63)])).collect()
    }

    fn number(&self, range: std::ops::Range<usize>) -> u64 {
        self.0[range].iter().fold(0, |number, byte| (number << 8) | u64::from(*byte))
    }
}

impl std::fmt::Debug for RtpSeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RtpSeed(‹redacted›)")
    }
}

/// A datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RtpTransmit {
    /// Where to.
    pub to: SocketAddr,
    /// It is RTCP: it goes out of the control socket, where there is one.
    pub control: bool,
    /// Its bytes.
    pub bytes: BytesMut,
}

/// Where the far end's media comes from.
#[derive(Debug, Clone, Copy)]
struct Latched {
    from: SocketAddr,
    ssrc: u32,
    heard: Instant,
}

/// Somebody who sent one packet that could be the far end's.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    from: SocketAddr,
    ssrc: u32,
    sequence: u16,
}

/// See the module.
pub struct RtpLeg {
    stream: Stream,
    crypto: std::sync::Arc<dyn rtc::crypto::RTCCryptoProvider>,
    strict: bool,
    terms: Option<RtpTerms>,
    latched: Option<Latched>,
    candidate: Option<Candidate>,
    /// An address that was left by a re-INVITE, and until when it is not taken again.
    left: Option<(SocketAddr, Instant)>,
    /// When the far end was told where to send to.
    told: Instant,
    over: bool,
    outbox: VecDeque<RtpTransmit>,
}

impl std::fmt::Debug for RtpLeg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RtpLeg")
            .field("terms", &self.terms)
            .field("latched", &self.latched.is_some())
            .field("over", &self.over)
            .field("counters", &self.stream.counters)
            .finish_non_exhaustive()
    }
}

impl RtpLeg {
    /// A leg that nothing is agreed on yet. `strict` keeps it to the addresses that are signalled.
    ///
    /// # Errors
    /// [`RtpRefusal::Engine`] when there is no cryptography.
    pub fn new(now: Instant, seed: &RtpSeed, strict: bool) -> Result<Self, RtpRefusal> {
        let crypto = rtc::crypto::default_provider().map_err(|_| RtpRefusal::Engine)?;
        Ok(Self {
            stream: Stream::new(now, seed.ssrc(), seed.cname(), 0, 8_000),
            crypto,
            strict,
            terms: None,
            latched: None,
            candidate: None,
            left: None,
            told: now,
            over: false,
            outbox: VecDeque::new(),
        })
    }

    /// Takes what was agreed on, at first or anew. Our source, numbers and reports go on.
    ///
    /// # Errors
    /// [`RtpRefusal::Engine`] when the keys cannot be used; what was in force goes on.
    pub fn agree(&mut self, now: Instant, terms: &RtpTerms) -> Result<(), RtpRefusal> {
        let before = self.terms.take();
        let keys_before = before.as_ref().and_then(|terms| terms.keys.as_ref());
        if before.is_none() || keys_before != terms.keys.as_ref() {
            match self.protection(keys_before, terms.keys.as_ref()) {
                Ok(protection) => self.stream.protection = protection,
                Err(refusal) => {
                    self.terms = before;
                    return Err(refusal);
                }
            }
        }
        match before {
            None => {
                self.told = now;
                self.stream.events.push_back(LegEvent::Connected);
            }
            Some(before) if before.remote != terms.remote && terms.remote.is_some() => {
                let left = self.latched.take().map(|latched| latched.from).filter(|from| Some(*from) != terms.remote);
                self.left = left.map(|from| (from, now + SILENT));
                self.candidate = None;
            }
            Some(_) => {}
        }
        self.stream.set_codec(terms.payload_type, terms.codec.clock_rate());
        self.terms = Some(terms.clone());
        Ok(())
    }

    /// The contexts for these keys; a direction whose key stays goes on where it is, or the other side would have to begin
    /// anew with it.
    fn protection(&mut self, before: Option<&SdesKeys>, keys: Option<&SdesKeys>) -> Result<Protection, RtpRefusal> {
        let Some(keys) = keys else { return Ok(Protection::Plain) };
        let profile = match keys.suite {
            Suite::Tag80 => ProtectionProfile::Aes128CmHmacSha1_80,
            Suite::Tag32 => ProtectionProfile::Aes128CmHmacSha1_32,
        };
        let crypto = self.crypto.crypto();
        let mut inn = inward(keys.far.key(), keys.far.salt(), profile, crypto).map_err(|_| RtpRefusal::Engine)?;
        let mut out = outward(keys.own.key(), keys.own.salt(), profile, crypto).map_err(|_| RtpRefusal::Engine)?;
        if let Protection::Srtp(old) = std::mem::replace(&mut self.stream.protection, Protection::Awaited)
            && let Some(before) = before.filter(|before| before.suite == keys.suite)
        {
            if before.own == keys.own {
                out = old.out;
            }
            if before.far == keys.far {
                inn = old.inn;
            }
        }
        Ok(Protection::Srtp(Box::new(Srtp { out, inn })))
    }

    /// The far end has our answer from now on.
    pub const fn answer_delivered(&mut self, now: Instant) {
        self.told = now;
    }

    /// Takes a datagram from the call's socket, whatever it is and whoever sent it.
    pub fn receive(&mut self, now: Instant, from: SocketAddr, packet: &[u8]) {
        if self.over {
            return;
        }
        if packet.len() > MAX_DATAGRAM {
            self.stream.counters.bad_packets += 1;
        } else if is_rtcp(packet) {
            self.receive_control(now, from, packet);
        } else {
            self.receive_media(now, canonical(from), packet);
        }
    }

    /// Takes a datagram from the socket that RTCP has for itself.
    pub fn receive_control(&mut self, now: Instant, from: SocketAddr, packet: &[u8]) {
        if self.over {
            return;
        }
        if packet.len() > MAX_DATAGRAM || !is_rtcp(packet) {
            self.stream.counters.bad_packets += 1;
            return;
        }
        // Behind a NAT its port may be any; its host is the media's, and it speaks of the media's source.
        let from = canonical(from).ip();
        let place = self.latched.map(|latched| latched.from.ip()).or_else(|| Some(self.terms.as_ref()?.remote?.ip()));
        let named = self.terms.as_ref().and_then(|terms| terms.remote_control).map(|control| control.ip());
        let source = self.latched.map(|latched| latched.ssrc);
        if (place != Some(from) && named != Some(from)) || source.is_none_or(|ssrc| sender(packet) != Some(ssrc)) {
            self.stream.counters.strangers += 1;
            return;
        }
        self.stream.receive_rtcp(now, packet, false);
    }

    fn receive_media(&mut self, now: Instant, from: SocketAddr, packet: &[u8]) {
        let secure = matches!(self.stream.protection, Protection::Srtp(_));
        // Before anything is spent on it: with a far end that is known and alive, nobody else has a say without a key.
        if !secure && !self.may_be_heard(now, from) {
            self.stream.counters.strangers += 1;
            return;
        }
        let Some(packet) = self.stream.open(now, packet) else { return };
        if !(if secure { self.is_allowed(now, from) } else { self.is_far_end(from, &packet) }) {
            self.stream.counters.strangers += 1;
            return;
        }
        self.candidate = None;
        self.latched = Some(Latched { from, ssrc: packet.ssrc, heard: now });
        if secure || self.signalled() == Some(from) || now.saturating_duration_since(self.told) >= SETTLING {
            self.stream.deliver(packet);
        }
    }

    fn signalled(&self) -> Option<SocketAddr> {
        self.terms.as_ref()?.remote
    }

    /// True where the address may be the far end's at all.
    fn is_allowed(&self, now: Instant, from: SocketAddr) -> bool {
        let left = self.left.is_some_and(|(left, until)| left == from && now < until);
        if self.strict { self.signalled() == Some(from) } else { !left }
    }

    /// True where a packet from there is worth to be read.
    fn may_be_heard(&self, now: Instant, from: SocketAddr) -> bool {
        let open = |latched: Latched| latched.from == from || now.saturating_duration_since(latched.heard) >= SILENT;
        self.signalled() == Some(from) || (self.is_allowed(now, from) && self.latched.is_none_or(open))
    }

    /// True where the packet is the far end's; else it may be the first of two that are.
    fn is_far_end(&mut self, from: SocketAddr, packet: &RtpIn) -> bool {
        if self.signalled() == Some(from) {
            return true;
        }
        match self.latched {
            Some(latched) if latched.from == from => return true,
            // It has been silent, or the packet would not have been read.
            Some(latched) if packet.ssrc != latched.ssrc => return false,
            Some(_) | None => {}
        }
        let ours = |terms: &RtpTerms| {
            terms.payload_type == packet.payload_type || terms.events.is_some_and(|(pt, _)| pt == packet.payload_type)
        };
        if !self.terms.as_ref().is_some_and(ours) {
            return false;
        }
        let follows = self.candidate.is_some_and(|first| {
            (first.from, first.ssrc) == (from, packet.ssrc)
                && (1..=3).contains(&sequence_distance(first.sequence, packet.sequence))
        });
        self.candidate = Some(Candidate { from, ssrc: packet.ssrc, sequence: packet.sequence });
        follows
    }

    /// Where media goes now.
    fn peer(&self) -> Option<SocketAddr> {
        self.latched.map(|latched| latched.from).or_else(|| self.signalled())
    }

    /// Where RTCP goes now: with RTP; else to where it was signalled, behind a NAT to the port next to the media's.
    fn control_peer(&self) -> Option<SocketAddr> {
        let terms = self.terms.as_ref()?;
        let peer = self.peer()?;
        if terms.rtcp_mux {
            return Some(peer);
        }
        if terms.remote == Some(peer) {
            return terms.remote_control;
        }
        Some(SocketAddr::new(peer.ip(), peer.port().checked_add(1)?))
    }

    /// Sends an RTP packet from our SSRC.
    ///
    /// # Errors
    /// Nothing was sent; see [`SendError`].
    pub fn send_rtp(&mut self, now: Instant, packet: &RtpOut<'_>) -> Result<(), SendError> {
        let to = self.peer().filter(|_| !self.over).ok_or(SendError::NotConnected)?;
        let bytes = self.stream.seal(now, packet)?;
        self.outbox.push_back(RtpTransmit { to, control: false, bytes });
        Ok(())
    }

    fn post_control(&mut self, bytes: Option<BytesMut>) {
        if let (Some(to), Some(bytes)) = (self.control_peer(), bytes) {
            self.outbox.push_back(RtpTransmit { to, control: true, bytes });
        }
    }

    /// The next datagram to send. A socket bound to all of IPv6 needs an IPv4 address in mapped form.
    pub fn poll_transmit(&mut self) -> Option<RtpTransmit> {
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
        if self.over { None } else { self.stream.reports.deadline() }
    }

    /// Does what is due. Harmless when nothing is.
    pub fn handle_timeout(&mut self, now: Instant) {
        if !self.over {
            let report = self.stream.report_due(now);
            self.post_control(report);
        }
    }

    /// Says RTCP BYE, if anything was ever agreed, and ends the leg; drain [`Self::poll_transmit`] once more.
    pub fn close(&mut self) {
        if !self.over {
            let bye = self.stream.bye();
            self.post_control(bye);
            self.over = true;
            self.stream.events.clear();
        }
    }

    /// What is in force.
    #[must_use]
    pub const fn terms(&self) -> Option<&RtpTerms> {
        self.terms.as_ref()
    }

    /// Our one synchronization source.
    #[must_use]
    pub const fn ssrc(&self) -> u32 {
        self.stream.ssrc
    }

    /// How the far end's stream arrives here; `None` before its first packet.
    #[must_use]
    pub fn reception(&self) -> Option<Reception> {
        self.stream.reception()
    }

    /// What was counted so far.
    #[must_use]
    pub const fn counters(&self) -> LegCounters {
        self.stream.counters
    }
}

/// A socket bound to all of IPv6 shows IPv4 peers in mapped form; descriptions have the plain one.
fn canonical(from: SocketAddr) -> SocketAddr {
    SocketAddr::new(from.ip().to_canonical(), from.port())
}

#[cfg(test)]
mod tests;
