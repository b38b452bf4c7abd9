//! What carries a leg's media: WebRTC or RTP, behind one face for the lane.
//!
//! Two cases and no trait: which one it is is asked once per call and packet, and nothing is boxed or looked up for it.

use std::net::SocketAddr;
use std::time::Instant;

use sauti_media::rtp::{LegCounters, LegEvent, Reception, RtpIn, RtpOut, SendError};
use sauti_media::rtp_leg::RtpLeg;
use sauti_media::rtp_sdp::{RtpRefusal, RtpTerms};
use sauti_media::webrtc::WebRtcLeg;

/// See the module.
#[derive(Debug)]
pub(super) enum Engine {
    /// WhatsApp over Graph, browsers.
    WebRtc(Box<WebRtcLeg>),
    /// Trunks, WhatsApp over SIP with SDES.
    Rtp(Box<RtpLeg>),
}

impl Engine {
    /// Takes a datagram; `control` says that it came to the socket which RTCP has for itself.
    pub(super) fn receive(&mut self, now: Instant, from: SocketAddr, datagram: &[u8], control: bool) {
        match self {
            Self::WebRtc(leg) => leg.receive(now, from, datagram),
            Self::Rtp(leg) if control => leg.receive_control(now, from, datagram),
            Self::Rtp(leg) => leg.receive(now, from, datagram),
        }
    }

    pub(super) fn poll_rtp(&mut self) -> Option<RtpIn> {
        match self {
            Self::WebRtc(leg) => leg.poll_rtp(),
            Self::Rtp(leg) => leg.poll_rtp(),
        }
    }

    pub(super) fn poll_event(&mut self) -> Option<LegEvent> {
        match self {
            Self::WebRtc(leg) => leg.poll_event(),
            Self::Rtp(leg) => leg.poll_event(),
        }
    }

    /// Hands the next datagram to `send`, and whether it is RTCP for the other socket; false when there is none.
    pub(super) fn transmit(&mut self, send: &mut impl FnMut(SocketAddr, &[u8], bool)) -> bool {
        match self {
            Self::WebRtc(leg) => leg.poll_transmit().map(|(to, datagram)| send(to, &datagram, false)).is_some(),
            Self::Rtp(leg) => leg.poll_transmit().map(|out| send(out.to, &out.bytes, out.control)).is_some(),
        }
    }

    pub(super) fn send_rtp(&mut self, now: Instant, packet: &RtpOut<'_>) -> Result<(), SendError> {
        match self {
            Self::WebRtc(leg) => leg.send_rtp(now, packet),
            Self::Rtp(leg) => leg.send_rtp(now, packet),
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        match self {
            Self::WebRtc(leg) => leg.handle_timeout(now),
            Self::Rtp(leg) => leg.handle_timeout(now),
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::WebRtc(leg) => leg.deadline(),
            Self::Rtp(leg) => leg.deadline(),
        }
    }

    /// The far end has our answer now: checks are due, or its first packet is.
    pub(super) fn answer_delivered(&mut self, now: Instant) {
        match self {
            Self::WebRtc(leg) => leg.answer_delivered(now),
            Self::Rtp(leg) => leg.answer_delivered(now),
        }
    }

    /// Takes what SIP agreed on. No description of ours brings a WebRTC leg here.
    pub(super) fn agree(&mut self, now: Instant, terms: &RtpTerms) -> Result<(), RtpRefusal> {
        match self {
            Self::WebRtc(_) => Ok(()),
            Self::Rtp(leg) => leg.agree(now, terms),
        }
    }

    pub(super) fn close(&mut self, now: Instant) {
        match self {
            Self::WebRtc(leg) => leg.close(now),
            Self::Rtp(leg) => leg.close(),
        }
    }

    pub(super) fn ssrc(&self) -> u32 {
        match self {
            Self::WebRtc(leg) => leg.ssrc(),
            Self::Rtp(leg) => leg.ssrc(),
        }
    }

    pub(super) fn counters(&self) -> LegCounters {
        match self {
            Self::WebRtc(leg) => leg.counters(),
            Self::Rtp(leg) => leg.counters(),
        }
    }

    pub(super) fn reception(&self) -> Option<Reception> {
        match self {
            Self::WebRtc(leg) => leg.reception(),
            Self::Rtp(leg) => leg.reception(),
        }
    }
}
