//! A telephone on the carrier's network: G.711 in plain RTP, sans-IO.
//!
//! Like the phone behind WhatsApp it keeps no jitter buffer: what came is laid where its RTP timestamp puts it.

use std::time::{Duration, Instant};

use sauti_core::media::frame::FRAME_SAMPLES;
use sauti_core::media::rtp::{RtpPacket, timestamp_distance};

use crate::audio::g711::{Law, decode_to_24k, encode_from_24k};
use crate::caller::person::Person;
use crate::caller::phone::Ear;

/// RTP ticks, samples and bytes of G.711 in 20 ms.
const TICKS: u32 = 160;
/// A gap longer than this is a new start rather than loss: 10 s.
const LONGEST_GAP: i32 = 80_000;
/// Length of the header of what is sent.
const HEADER: usize = 12;
/// The payload type of telephone events in the offer.
const EVENT: u8 = 101;

/// One telephone.
#[derive(Debug)]
pub struct TrunkPhone {
    law: Law,
    sequence: u16,
    timestamp: u32,
    ssrc: u32,
    spoke: bool,
    open: bool,
    expected: Option<u32>,
    last: i16,
    decoded: Vec<i16>,
    packet: [u8; HEADER + TICKS as usize],
    /// Who holds it.
    pub person: Person,
    /// What it noticed.
    pub ear: Ear,
}

impl TrunkPhone {
    /// A telephone whose stream begins at numbers of its own.
    #[must_use]
    pub fn new(law: Law, seed: u32, person: Person) -> Self {
        let [a, b, ..] = seed.wrapping_mul(0x9E37_79B1).to_be_bytes();
        Self {
            law,
            sequence: u16::from_be_bytes([a & 0x7F, b]),
            timestamp: seed.wrapping_mul(7_919),
            ssrc: seed ^ 0x5A5A_1234,
            spoke: false,
            open: false,
            expected: None,
            last: 0,
            decoded: Vec::with_capacity(2 * FRAME_SAMPLES),
            packet: [0; HEADER + TICKS as usize],
            person,
            ear: Ear::default(),
        }
    }

    /// What it offers: its codec, telephone events, 20 ms, RTCP on the same port.
    #[must_use]
    pub fn offer(&self, address: std::net::SocketAddr) -> String {
        let (ip, port) = (address.ip(), address.port());
        let family = if address.is_ipv4() { "IP4" } else { "IP6" };
        let (number, name) = (self.law.payload_type(), self.law.name());
        format!(
            "v=0\r\no=carrier {ssrc} 1 IN {family} {ip}\r\ns=-\r\nc=IN {family} {ip}\r\nt=0 0\r\n\
             m=audio {port} RTP/AVP {number} {EVENT}\r\na=rtpmap:{number} {name}/8000\r\n\
             a=rtpmap:{EVENT} telephone-event/8000\r\na=fmtp:{EVENT} 0-16\r\na=ptime:20\r\na=rtcp-mux\r\na=sendrecv\r\n",
            ssrc = self.ssrc,
        )
    }

    /// The call is open: the person's time begins and runs for `length`.
    pub fn accepted(&mut self, now: Instant, length: Duration) {
        self.open = true;
        self.person.pick_up(now, length);
    }

    /// Twenty milliseconds of the person as a packet; `None` before the call is open.
    pub fn tick(&mut self, now: Instant) -> Option<&[u8]> {
        if !self.open {
            return None;
        }
        let frame = self.person.speak(now);
        let speech = frame.is_some();
        let codes = encode_from_24k(self.law, &frame.unwrap_or([0; FRAME_SAMPLES]));
        let begins = speech && !std::mem::replace(&mut self.spoke, speech);
        self.spoke = speech;
        let marker = if begins { 0x80 } else { 0 };
        let [s0, s1] = self.sequence.to_be_bytes();
        let numbers = self.timestamp.to_be_bytes().into_iter().chain(self.ssrc.to_be_bytes());
        let bytes = [0x80, marker | self.law.payload_type(), s0, s1].into_iter().chain(numbers).chain(codes);
        for (to, from) in self.packet.iter_mut().zip(bytes) {
            *to = from;
        }
        self.sequence = self.sequence.wrapping_add(1);
        self.timestamp = self.timestamp.wrapping_add(TICKS);
        Some(&self.packet)
    }

    /// Takes a packet of the box.
    pub fn receive(&mut self, now: Instant, datagram: &[u8]) {
        // RTCP shares the port (RFC 5761 §4): types 192 to 223.
        if datagram.get(1).is_some_and(|kind| (192..=223).contains(kind)) {
            return;
        }
        let Ok(packet) = RtpPacket::parse(datagram) else {
            self.ear.odd += 1;
            return;
        };
        self.ear.first_packet.get_or_insert(now);
        if !self.ear.sources.contains(&packet.ssrc) {
            self.ear.sources.push(packet.ssrc);
        }
        if !self.open {
            self.ear.early += 1;
            return;
        }
        if packet.payload_type != self.law.payload_type() {
            self.ear.odd += u64::from(packet.payload_type != EVENT);
            return;
        }
        if let Some(expected) = self.expected {
            let gap = timestamp_distance(expected, packet.timestamp);
            if gap < 0 {
                self.ear.late += 1;
                return;
            }
            if gap <= LONGEST_GAP {
                for _ in 0..u32::try_from(gap).unwrap_or(0) / TICKS {
                    self.ear.missing_frames += 1;
                    self.person.hear(now, None);
                }
            }
        }
        let ticks = u32::try_from(packet.payload.len()).unwrap_or(0);
        self.expected = Some(packet.timestamp.wrapping_add(ticks));
        self.ear.arrivals.push((now, self.person.heard.len()));
        self.decoded.clear();
        decode_to_24k(self.law, packet.payload, &mut self.last, &mut self.decoded);
        for frame in self.decoded.as_chunks::<FRAME_SAMPLES>().0 {
            self.person.hear(now, Some(frame));
        }
    }
}

#[cfg(test)]
mod tests {
    use sauti_core::media::frame::FRAME;
    use sauti_core::media::level::Tone;

    use super::*;
    use crate::caller::person::Step;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
    fn what_one_telephone_says_another_hears_and_counts_what_is_missing() {
        let mut now = Instant::now();
        let mut tone = Tone::new(400.0, 8_000.0);
        let line: Vec<i16> = (0..20).flat_map(|_| tone.frame()).collect();
        let talker = Person::new(vec![Step::Say(line.into()), Step::Pause(Duration::from_secs(1))]);
        let mut from = TrunkPhone::new(Law::A, 7, talker);
        let mut to = TrunkPhone::new(Law::A, 8, Person::new(vec![Step::Pause(Duration::from_secs(9))]));
        assert!(from.tick(now).is_none(), "nothing before the call is open");
        from.accepted(now, Duration::from_secs(9));
        to.accepted(now, Duration::from_secs(9));
        for number in 0..30 {
            let packet = from.tick(now).unwrap().to_vec();
            assert_eq!(packet.len(), 172);
            if number != 5 {
                to.receive(now, &packet);
            }
            now += FRAME;
        }
        assert_eq!((to.ear.missing_frames, to.ear.odd, to.ear.sources.len()), (1, 0, 1));
        assert_eq!(to.person.heard.len(), 30 * FRAME_SAMPLES);
        assert_eq!(to.person.speech.len(), 1);
        to.receive(now, &[0x80, 200, 0, 0]);
        to.receive(now, &[1, 2, 3]);
        assert_eq!(to.ear.odd, 1, "RTCP is no oddity, rubbish is");
    }
}
