//! Two connected legs in virtual time, so that packets can be sealed for one by the other.
//!
//! Connecting costs a thousand times more than a packet, so a pair is used for many inputs and then made anew.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use sauti_media::webrtc::{Certificate, LegSettings, RtpIn, RtpOut, WebRtcLeg};
use sauti_media::webrtc_sdp::OfferShape;

use super::origin;

/// Inputs after which a pair is made anew.
const USES: u32 = 400;

const US: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)), 40_000);
const CALLER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(203, 0, 113, 130)), 3_484);
const STRANGER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 66)), 6_666);

/// The leg under test, its caller, and their time.
pub(super) struct LegPair {
    us: WebRtcLeg,
    caller: WebRtcLeg,
    now: Instant,
    sequence: u16,
    uses: u32,
}

impl LegPair {
    /// A pair whose media flows.
    fn connected() -> Self {
        let now = origin();
        let ours = Certificate::generate().expect("the engine makes a certificate");
        let theirs = Certificate::generate().expect("the engine makes a certificate");
        let settings = LegSettings { certificate: &theirs, local: CALLER, advertise: &[CALLER] };
        let (caller, offer) = WebRtcLeg::offer(now, &settings, &OfferShape::default()).expect("an offer can be made");
        let settings = LegSettings { certificate: &ours, local: US, advertise: &[US] };
        let (us, answer) = WebRtcLeg::answer(now, &offer, &settings).expect("our own offer can be answered");
        let mut pair = Self { us, caller, now, sequence: 0, uses: 0 };
        pair.caller.accept_answer(now, &answer).expect("our own answer is taken");
        for _ in 0..2_000 {
            pair.pass(Duration::from_millis(5));
            if pair.us.is_connected() && pair.caller.is_connected() {
                break;
            }
        }
        assert!(pair.is_alive(), "two legs of ours connect");
        pair
    }

    /// Runs `use_it` on the pair kept in `slot`, or on a new one.
    pub(super) fn with(slot: &mut Option<Self>, use_it: impl FnOnce(&mut Self)) {
        let mut pair = slot.take().filter(|pair| pair.uses < USES).unwrap_or_else(Self::connected);
        pair.uses += 1;
        use_it(&mut pair);
        *slot = Some(pair);
    }

    /// Lets time pass and everything on its way arrive.
    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        for _ in 0..20 {
            for leg in [&mut self.us, &mut self.caller] {
                if leg.deadline().is_some_and(|deadline| deadline <= self.now) {
                    leg.handle_timeout(self.now);
                }
            }
            let mut quiet = true;
            while let Some((to, bytes)) = self.us.poll_transmit() {
                quiet = false;
                if to == CALLER {
                    self.caller.receive(self.now, US, &bytes);
                }
            }
            while let Some((to, bytes)) = self.caller.poll_transmit() {
                quiet = false;
                if to == US {
                    self.us.receive(self.now, CALLER, &bytes);
                }
            }
            if quiet {
                break;
            }
        }
        while self.us.poll_event().is_some() || self.caller.poll_event().is_some() {}
    }

    /// RTCP that the caller seals; `SSRC` in it stands for the source of ours that reports are about, `MINE` for the
    /// caller's own.
    pub(super) fn rtcp(&mut self, plain: &[u8]) {
        let mut plain = plain.to_vec();
        for (word, ssrc) in [(b"SSRC", self.us.ssrc()), (b"MINE", self.caller.ssrc())] {
            while let Some(at) = plain.windows(4).position(|window| window == word) {
                plain[at..at + 4].copy_from_slice(&ssrc.to_be_bytes());
                if &ssrc.to_be_bytes() == word {
                    break;
                }
            }
        }
        self.caller.send_rtcp(&plain).ok();
        self.pass(Duration::ZERO);
    }

    /// RTP that the caller seals, which arrives whole, once more, and cut short.
    pub(super) fn rtp(&mut self, payload_type: u8, timestamp: u32, payload: &[u8], mut take: impl FnMut(&RtpIn)) {
        self.sequence = self.sequence.wrapping_add(1);
        let packet = RtpOut { payload_type, sequence: self.sequence, timestamp, marker: false, payload };
        if self.caller.send_rtp(self.now, &packet).is_err() {
            return;
        }
        while let Some((_, bytes)) = self.caller.poll_transmit() {
            let before = self.us.counters();
            self.us.receive(self.now, CALLER, bytes.get(..bytes.len().saturating_sub(1)).unwrap_or_default());
            assert_eq!(self.us.counters().rtp_in, before.rtp_in, "a packet cut short is not believed");
            self.us.receive(self.now, CALLER, &bytes);
            let arrived = self.us.counters().rtp_in;
            self.us.receive(self.now, CALLER, &bytes);
            assert_eq!(self.us.counters().rtp_in, arrived, "a packet is not taken twice");
        }
        while let Some(packet) = self.us.poll_rtp() {
            take(&packet);
        }
    }

    /// A datagram that nobody sealed, from the caller's address or a stranger's.
    pub(super) fn datagram(&mut self, from_caller: bool, bytes: &[u8]) {
        let from = if from_caller { CALLER } else { STRANGER };
        self.us.receive(self.now, from, bytes);
        self.caller.receive(self.now, if from_caller { US } else { STRANGER }, bytes);
        self.pass(Duration::from_millis(1));
    }

    /// Whether a packet still gets from the caller to us.
    pub(super) fn is_alive(&mut self) -> bool {
        let mut arrived = false;
        self.rtp(111, 0, b"alive", |packet| arrived |= packet.payload[..] == b"alive"[..]);
        arrived
    }
}
