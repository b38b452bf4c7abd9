//! Legs of trunks: sockets, negotiation and engine joined, and what a call task says to such a leg later.
//!
//! The negotiation ([`sauti_media::rtp_sdp`]) stays with the call task, which has the texts; the lane gets what was agreed.
//! Ports: an even one for RTP and the next for RTCP (RFC 3550 §11), of which the second is given back where the far end
//! puts both on one (RFC 5761).

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use sauti_core::media::codec::Codec;
use sauti_core::media::frame::AudioFormat;
use sauti_media::pipeline::{CallerAudio, CallerAudioSettings};
use sauti_media::rtp_leg::{RtpLeg, RtpSeed, SEED_BYTES};
use sauti_media::rtp_sdp::{KEY_BYTES, LocalSide, MasterKey, Negotiation, RtpRefusal, RtpTerms};

use super::engine::Engine;
use super::lane::{Agreement, Command};
use super::leg::Leg;
use super::ports::{PortError, mark_expedited};
use super::{CallerLink, Lanes, OpenError};

/// Whether a trunk's media is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SrtpPolicy {
    /// It is not.
    #[default]
    Off,
    /// By keys in the description (RFC 4568); offers without are refused.
    Sdes,
}

/// How a trunk's legs are made: one value per trunk, out of its configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RtpLegSettings {
    /// What may be spoken, the best first; none is G.711, A-law before µ-law.
    pub codecs: Vec<Codec>,
    /// SRTP.
    pub srtp: SrtpPolicy,
    /// What sockets are bound to, instead of `[media] bind`.
    pub bind: Option<IpAddr>,
    /// The address that descriptions name, instead of that of `[media]`.
    pub advertise: Option<IpAddr>,
    /// Packets from elsewhere than signalled are dropped: for a peer that is not behind a NAT.
    pub strict_source: bool,
    /// What frames between lane and task are in, whatever is spoken with the trunk; `None` follows its codec.
    pub frames: Option<AudioFormat>,
}

impl RtpLegSettings {
    fn codecs(&self) -> Vec<Codec> {
        if self.codecs.is_empty() { vec![Codec::Pcma, Codec::Pcmu] } else { self.codecs.clone() }
    }

    /// What the model's session is to speak where the trunk speaks `codec`.
    #[must_use]
    pub const fn format(&self, codec: Codec) -> AudioFormat {
        match self.frames {
            Some(format) => format,
            None => codec.session_format(),
        }
    }
}

/// A leg of a trunk that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RtpOpened {
    /// Our answer, or our offer.
    pub sdp: String,
    /// What the model's session is to speak, for the whole call.
    pub format: AudioFormat,
    /// What was agreed on, or what we offer first.
    pub codec: Codec,
}

/// What a later offer and its answer came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Negotiated {
    /// What is spoken from now on.
    pub codec: Codec,
    /// We may not send, and nothing of the caller is heard: silence is no fault.
    pub held: bool,
    /// Something else than before was agreed on.
    pub changed: bool,
}

/// The call task's part of a trunk's leg.
#[derive(Debug)]
pub(super) struct TrunkSide {
    negotiation: Negotiation,
    pub(super) format: AudioFormat,
    codec: super::leg::Codec,
}

impl Lanes {
    /// Makes a leg of a trunk: the answer to `offer`, or an offer of ours where there is none (delayed offer, a call that
    /// we place), to be followed by [`CallerLink::accept_answer`]. Some milliseconds of work, no waiting.
    ///
    /// # Errors
    /// The offer cannot be answered, or the box has no port, slot or lane for it.
    pub fn open_rtp(
        self: &Arc<Self>,
        offer: Option<&str>,
        settings: &RtpLegSettings,
    ) -> Result<(CallerLink, RtpOpened), OpenError> {
        let bind = settings.bind.unwrap_or_else(|| self.ports.address());
        let (socket, mut control, local) = self.trunk_sockets(bind)?;
        let seed = seed()?;
        let codecs = settings.codecs();
        let first = codecs.first().copied().unwrap_or(Codec::Pcma);
        let unset = MasterKey::new([0; KEY_BYTES]);
        let mut negotiation = Negotiation::new(seed.local_side(LocalSide {
            address: settings.advertise.unwrap_or_else(|| self.named(local)),
            port: local.port(),
            codecs,
            sdes: settings.srtp == SrtpPolicy::Sdes,
            session_id: 0,
            keys: [unset.clone(), unset],
        }));
        let now = Instant::now();
        let mut engine = RtpLeg::new(now, &seed, settings.strict_source)?;
        let (terms, sdp) = match offer {
            None => (None, negotiation.offer(false)),
            Some(offer) => {
                let (terms, answer) = negotiation.answer(offer)?;
                engine.agree(now, &terms)?;
                (Some(terms), answer)
            }
        };
        if terms.as_ref().is_some_and(|terms| terms.rtcp_mux) {
            control = None;
        }
        let codec = terms.as_ref().map_or(first, |terms| terms.codec);
        let format = settings.format(codec);
        let audio = audio_settings(terms.as_ref(), codec, format, self.codec);
        let made = Leg::new(Engine::Rtp(Box::new(engine)), audio, self.barge_in);
        let mut leg = made.map_err(|error| OpenError::Codec(error.to_string()))?;
        if let Some(terms) = &terms {
            leg.set_terms(terms);
        }
        let mut link = self.seat(socket, control, leg)?;
        link.trunk = Some(Box::new(TrunkSide { negotiation, format, codec: self.codec }));
        Ok((link, RtpOpened { sdp, format, codec }))
    }

    /// Two sockets on ports next to each other, or at least one.
    fn trunk_sockets(&self, bind: IpAddr) -> Result<(UdpSocket, Option<UdpSocket>, SocketAddr), PortError> {
        let (socket, control, local) = match self.ports.bind_pair(bind) {
            Ok((socket, control, local)) => (socket, Some(control), local),
            // The far end may do with one, and without its RTCP a call is only less known.
            Err(PortError::Exhausted { .. }) => {
                let (socket, local) = self.ports.bind_to(bind)?;
                (socket, None, local)
            }
            Err(error) => return Err(error),
        };
        mark_expedited(&socket, bind);
        if let Some(control) = &control {
            mark_expedited(control, bind);
        }
        Ok((socket, control, local))
    }

    /// The address that a description names for a socket.
    fn named(&self, local: SocketAddr) -> IpAddr {
        let bound = Some(local.ip()).filter(|ip| !ip.is_unspecified());
        let family = |ip: &IpAddr| ip.is_ipv4() == local.is_ipv4();
        let advertised = self.advertise.iter().copied().find(family);
        if self.ports.address() == local.ip() { advertised.or(bound) } else { bound.or(advertised) }
            .unwrap_or_else(|| local.ip())
    }
}

/// Random bytes for a leg.
fn seed() -> Result<RtpSeed, OpenError> {
    let mut bytes = [0; SEED_BYTES];
    let random = ring::rand::SystemRandom::new();
    // Without randomness there are no keys; a call without them is none.
    ring::rand::SecureRandom::fill(&random, &mut bytes).map_err(|_| OpenError::Rtp(RtpRefusal::Engine))?;
    Ok(RtpSeed::new(bytes))
}

fn audio_settings(
    terms: Option<&RtpTerms>,
    codec: Codec,
    format: AudioFormat,
    opus: super::leg::Codec,
) -> CallerAudioSettings {
    let events = terms.and_then(|terms| terms.events);
    CallerAudioSettings {
        codec,
        payload_type: terms.map_or_else(|| codec.payload_type(), |terms| terms.payload_type),
        event_payload_type: events.map(|(payload_type, _)| payload_type),
        event_clock_rate: events.map_or(8_000, |(_, rate)| rate),
        format,
        packet_ms: terms.map_or(20, |terms| terms.packet_ms),
        encoder: opus.encoder(),
        ..CallerAudioSettings::default()
    }
}

impl CallerLink {
    /// What the model's session is to speak, for the whole call.
    #[must_use]
    pub fn format(&self) -> AudioFormat {
        self.trunk.as_ref().map_or(AudioFormat::Pcm24, |trunk| trunk.format)
    }

    /// Takes the answer to our offer.
    ///
    /// # Errors
    /// It is none that our offer allows; what was in force goes on.
    pub fn accept_answer(&mut self, answer: &str) -> Result<Negotiated, OpenError> {
        let trunk = self.trunk.as_deref_mut().ok_or(RtpRefusal::NoOffer)?;
        let before = trunk.negotiation.terms().cloned();
        let terms = trunk.negotiation.accept(answer)?;
        self.agree(before.as_ref(), terms)
    }

    /// Answers an offer on a leg that lives (re-INVITE, UPDATE).
    ///
    /// # Errors
    /// It cannot be; what was in force goes on.
    pub fn reoffer(&mut self, offer: &str) -> Result<(String, Negotiated), OpenError> {
        let trunk = self.trunk.as_deref_mut().ok_or(RtpRefusal::NoOffer)?;
        let before = trunk.negotiation.terms().cloned();
        let (terms, answer) = trunk.negotiation.answer(offer)?;
        Ok((answer, self.agree(before.as_ref(), terms)?))
    }

    /// Makes an offer on a leg that lives; with `hold` the far end is asked to listen only.
    ///
    /// # Errors
    /// It is a leg of WebRTC, which is answered once.
    pub fn make_offer(&mut self, hold: bool) -> Result<String, OpenError> {
        Ok(self.trunk.as_deref_mut().ok_or(RtpRefusal::NoOffer)?.negotiation.offer(hold))
    }

    fn agree(&self, before: Option<&RtpTerms>, terms: RtpTerms) -> Result<Negotiated, OpenError> {
        let negotiated = Negotiated {
            codec: terms.codec,
            held: !terms.hears,
            changed: before.is_some_and(|before| *before != terms),
        };
        if before == Some(&terms) {
            return Ok(negotiated);
        }
        let (format, codec) = self.trunk.as_ref().map(|trunk| (trunk.format, trunk.codec)).unwrap_or_default();
        let sounds = |terms: &RtpTerms| (terms.codec, terms.payload_type, terms.events, terms.packet_ms);
        let audio = if before.map(sounds) == Some(sounds(&terms)) {
            None
        } else {
            let settings = audio_settings(Some(&terms), terms.codec, format, codec);
            Some(CallerAudio::new(settings).map_err(|error| OpenError::Codec(error.to_string()))?)
        };
        let agreement = Box::new(Agreement { terms, audio });
        if self.lanes.lanes[self.number].send(Command::Agree(self.index, agreement)) {
            Ok(negotiated)
        } else {
            Err(OpenError::LaneDead(self.number))
        }
    }

    /// Presses keys towards the far end (RFC 4733), one after the other; speech waits meanwhile. False when telephone
    /// events were not agreed on, or when the lane does not listen. What is no key is left out.
    #[must_use]
    pub fn dial(&self, keys: &str) -> bool {
        let terms = self.trunk.as_ref().and_then(|trunk| trunk.negotiation.terms());
        terms.is_some_and(|terms| terms.events.is_some())
            && self.lanes.lanes[self.number].send(Command::Press(self.index, keys.into()))
    }
}

#[cfg(test)]
mod tests;
