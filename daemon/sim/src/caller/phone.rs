//! The caller's phone behind Meta's relay: Opus, by ICE-lite and DTLS or by a key in its offer, sans-IO.
//!
//! It keeps no jitter buffer: every packet is decoded as it arrives and laid where its RTP timestamp puts it, so
//! that what the judge hears is what the daemon sent, and when. Socket and signalling belong to whoever drives it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sauti_core::media::frame::FRAME_SAMPLES;
use sauti_core::media::rtp::{RtpClock, timestamp_distance};
use sauti_media::opus::{CodecError, Decoder, Encoder, EncoderSettings, MAX_PACKET_SAMPLES};
use sauti_media::rtp::RtpIn;
use sauti_media::rtp_sdp::RtpRefusal;
use sauti_media::webrtc::{Certificate, LegEvent, LegSettings, RtpOut, WebRtcLeg};
use sauti_media::webrtc_sdp::{OfferShape, SdpRefusal};

use super::person::Person;
use crate::whatsapp_sip::sdes::{AnswerFault, Profile, SdesLeg};

/// RTP ticks of Opus (48 kHz) in one sample at 24 kHz.
const TICKS_PER_SAMPLE: i32 = 2;
/// A gap longer than this is a new start rather than loss: 10 s.
const LONGEST_GAP: i32 = 10 * 48_000;
/// Largest packet.
const PACKET: usize = 1_275;

/// The phone could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PhoneError {
    /// The engine refuses.
    #[error("emulated phone: {0}")]
    Engine(#[from] SdpRefusal),
    /// The engine refuses.
    #[error("emulated phone: {0}")]
    Rtp(#[from] RtpRefusal),
    /// The answer breaks a rule.
    #[error("emulated phone: {0}")]
    Answer(#[from] AnswerFault),
    /// The codec refuses.
    #[error("emulated phone: {0}")]
    Codec(#[from] CodecError),
}

/// What the phone noticed about the daemon's media.
#[derive(Debug, Clone, Default)]
pub struct Ear {
    /// When each packet came, and the sample of [`Person::heard`] at which its audio begins.
    pub arrivals: Vec<(Instant, usize)>,
    /// The first media packet.
    pub first_packet: Option<Instant>,
    /// Packets that came before the accept.
    pub early: u64,
    /// Frames missing between packets.
    pub missing_frames: u64,
    /// Packets behind one that came before.
    pub late: u64,
    /// Packets of another payload type than Opus, or that libopus refused.
    pub odd: u64,
    /// Sources seen; Meta allows one (whatsapp-calling §3.2).
    pub sources: Vec<u32>,
}

/// How the media is protected.
enum Media {
    /// ICE and DTLS.
    WebRtc(Box<WebRtcLeg>),
    /// A key in the offer; WhatsApp over SIP alone.
    Sdes(Box<SdesLeg>),
}

impl Media {
    fn poll_rtp(&mut self) -> Option<RtpIn> {
        match self {
            Self::WebRtc(leg) => leg.poll_rtp(),
            Self::Sdes(leg) => leg.poll_rtp(),
        }
    }

    fn opus(&self) -> u8 {
        match self {
            Self::WebRtc(leg) => leg.payload_types().opus,
            Self::Sdes(leg) => leg.opus(),
        }
    }
}

/// One phone.
pub struct Phone {
    media: Media,
    /// Nothing is sent before media of the business has come (whatsapp-calling §4).
    business_first: bool,
    encoder: Encoder,
    decoder: Decoder,
    clock: RtpClock,
    /// Who holds it.
    pub person: Person,
    /// What it noticed.
    pub ear: Ear,
    expected: Option<u32>,
    hears: bool,
    open: bool,
    connected: Option<Instant>,
    lost: bool,
    samples: Box<[i16; MAX_PACKET_SAMPLES]>,
    packet: [u8; PACKET],
}

impl std::fmt::Debug for Phone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Phone").field("connected", &self.connected).field("ear", &self.ear).finish_non_exhaustive()
    }
}

impl Phone {
    /// A phone whose relay listens at `local`; returns it with its offer.
    ///
    /// # Errors
    /// Engine or codec refuse.
    pub fn dial(
        now: Instant,
        local: SocketAddr,
        certificate: &Certificate,
        shape: &OfferShape,
        person: Person,
    ) -> Result<(Self, String), PhoneError> {
        let settings = LegSettings { certificate, local, advertise: &[local] };
        let (leg, offer) = WebRtcLeg::offer(now, &settings, shape)?;
        Ok((Self::with(Media::WebRtc(Box::new(leg)), person)?, offer))
    }

    /// The same with a key in its offer, and neither ICE nor DTLS.
    ///
    /// # Errors
    /// Engine or codec refuse.
    pub fn dial_sdes(
        now: Instant,
        local: SocketAddr,
        profile: Profile,
        (created_ms, seed): (u64, u64),
        person: Person,
    ) -> Result<(Self, String), PhoneError> {
        let (leg, offer) = SdesLeg::dial(now, local, profile, created_ms, seed)?;
        Ok((Self::with(Media::Sdes(Box::new(leg)), person)?, offer))
    }

    fn with(media: Media, person: Person) -> Result<Self, PhoneError> {
        // Cheap for the emulator, and what Meta's clients do: 20 kb/s wideband with FEC.
        let encoder = Encoder::new(EncoderSettings { bitrate: 20_000, complexity: 0, expected_loss: 10 })?;
        Ok(Self {
            media,
            business_first: false,
            encoder,
            decoder: Decoder::new()?,
            clock: RtpClock::new(1, 1),
            person,
            ear: Ear::default(),
            expected: None,
            hears: false,
            open: false,
            connected: None,
            lost: false,
            samples: Box::new([0; MAX_PACKET_SAMPLES]),
            packet: [0; PACKET],
        })
    }

    /// Nothing is sent before media of the business has come, as over SIP (whatsapp-calling §4).
    #[must_use]
    pub const fn after_the_business(mut self) -> Self {
        self.business_first = true;
        self
    }

    /// The daemon's answer reached the relay: from now on its checks are answered.
    ///
    /// # Errors
    /// The answer is unusable.
    pub fn answered(&mut self, now: Instant, answer: &str) -> Result<(), PhoneError> {
        match &mut self.media {
            Media::WebRtc(leg) => leg.accept_answer(now, answer)?,
            Media::Sdes(leg) => leg.answered(now, answer)?,
        }
        self.hears = true;
        Ok(())
    }

    /// The call is open: the person's time begins and runs for `length`.
    pub fn accepted(&mut self, now: Instant, length: Duration) {
        self.open = true;
        self.person.pick_up(now, length);
    }

    /// Takes a datagram. What comes before the relay knows the answer is lost, as at Meta.
    pub fn receive(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        if !self.hears {
            return;
        }
        match &mut self.media {
            Media::WebRtc(leg) => leg.receive(now, from, datagram),
            Media::Sdes(leg) => leg.receive(now, from, datagram),
        }
        self.settle(now);
    }

    /// Fires the engine's deadline.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &mut self.media {
            Media::WebRtc(leg) => leg.handle_timeout(now),
            Media::Sdes(leg) => leg.handle_timeout(now),
        }
        self.settle(now);
    }

    /// The engine's next deadline.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match &self.media {
            Media::WebRtc(leg) => leg.deadline(),
            Media::Sdes(leg) => leg.deadline(),
        }
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<(SocketAddr, impl AsRef<[u8]> + use<>)> {
        match &mut self.media {
            Media::WebRtc(leg) => leg.poll_transmit(),
            Media::Sdes(leg) => leg.poll_transmit(),
        }
    }

    /// When ICE and DTLS came up; with a key in the offer, when the first packet proved itself.
    #[must_use]
    pub const fn connected(&self) -> Option<Instant> {
        self.connected
    }

    /// True when the engine has given up.
    #[must_use]
    pub const fn is_lost(&self) -> bool {
        self.lost
    }

    /// Twenty milliseconds of the person: speaks, or is silent, once the call is open.
    pub fn tick(&mut self, now: Instant) {
        let waits = self.business_first && self.ear.first_packet.is_none();
        if !self.open || self.connected.is_none() || waits {
            return;
        }
        self.clock.tick();
        let frame = self.person.speak(now);
        let speech = frame.is_some();
        let Ok(length) = self.encoder.encode(&frame.unwrap_or([0; FRAME_SAMPLES]), &mut self.packet) else {
            self.ear.odd += 1;
            return;
        };
        let stamp = self.clock.stamp(speech);
        let packet = RtpOut {
            payload_type: self.media.opus(),
            sequence: stamp.sequence,
            timestamp: stamp.timestamp,
            marker: stamp.marker,
            payload: &self.packet[..length],
        };
        let sent = match &mut self.media {
            Media::WebRtc(leg) => leg.send_rtp(now, &packet),
            Media::Sdes(leg) => leg.send_rtp(now, &packet),
        };
        if sent.is_err() {
            self.ear.odd += 1;
        }
    }

    /// Hangs up: RTCP BYE and the end of DTLS.
    pub fn hang_up(&mut self, now: Instant) {
        match &mut self.media {
            Media::WebRtc(leg) => leg.close(now),
            Media::Sdes(leg) => leg.close(),
        }
    }

    fn settle(&mut self, now: Instant) {
        if let Media::WebRtc(leg) = &mut self.media {
            while let Some(event) = leg.poll_event() {
                match event {
                    LegEvent::Connected => self.connected = Some(now),
                    LegEvent::Failed(_) | LegEvent::Closed => self.lost = true,
                    LegEvent::IceConnected
                    | LegEvent::Disconnected
                    | LegEvent::Recovered
                    | LegEvent::Report(_)
                    | LegEvent::Bye => {}
                }
            }
        }
        while let Some(packet) = self.media.poll_rtp() {
            if matches!(self.media, Media::Sdes(_)) {
                self.connected.get_or_insert(now);
            }
            self.hear(now, packet.payload_type, packet.timestamp, packet.ssrc, &packet.payload);
        }
    }

    fn hear(&mut self, now: Instant, payload_type: u8, timestamp: u32, ssrc: u32, payload: &[u8]) {
        self.ear.first_packet.get_or_insert(now);
        if !self.ear.sources.contains(&ssrc) {
            self.ear.sources.push(ssrc);
        }
        if !self.open {
            self.ear.early += 1;
            return;
        }
        if payload_type != self.media.opus() {
            self.ear.odd += 1;
            return;
        }
        if let Some(expected) = self.expected {
            let gap = timestamp_distance(expected, timestamp);
            if gap < 0 {
                self.ear.late += 1;
                return;
            }
            if gap <= LONGEST_GAP {
                self.fill(now, usize::try_from(gap / TICKS_PER_SAMPLE).unwrap_or(0));
            }
        }
        let Ok(count) = self.decoder.decode(payload, &mut self.samples) else {
            self.ear.odd += 1;
            return;
        };
        self.expected =
            Some(timestamp.wrapping_add(u32::try_from(count).unwrap_or(0) * TICKS_PER_SAMPLE.unsigned_abs()));
        self.ear.arrivals.push((now, self.person.heard.len()));
        for frame in self.samples[..count].as_chunks::<FRAME_SAMPLES>().0 {
            self.person.hear(now, Some(frame));
        }
    }

    /// Frames that never came are silence to her.
    fn fill(&mut self, now: Instant, samples: usize) {
        for _ in 0..samples / FRAME_SAMPLES {
            self.ear.missing_frames += 1;
            self.person.hear(now, None);
        }
    }
}
