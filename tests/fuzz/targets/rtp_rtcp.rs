//! Packets: RTP into the audio of a caller, RTP and RTCP sealed by the far end, datagrams of anybody.

use std::cell::RefCell;
use std::hint::black_box;
use std::time::Duration;

use sauti_core::media::frame::FRAME_SAMPLES;
use sauti_core::media::rtp::{RtpPacket, is_rtcp, opus_ticks};
use sauti_media::opus::MAX_ENCODED_BYTES;
use sauti_media::pipeline::{CallerAudio, CallerAudioSettings};

use super::leg_pair::LegPair;
use super::origin;

/// More records of one input are not looked at.
const MOST_RECORDS: usize = 200;

/// Takes the bytes as one RTP packet, and as records of kind, length and content: packets, time, RTCP, datagrams.
///
/// Beside that nothing panics: a payload is never longer than its packet, a packet that was read reads the same from
/// its own header, what is cut or replayed is not believed, and after everything the call still carries audio.
pub(crate) fn rtp_rtcp(data: &[u8]) {
    one_packet(data);
    records(data);
}

fn one_packet(data: &[u8]) {
    black_box(is_rtcp(data));
    if let Ok(packet) = RtpPacket::parse(data) {
        assert!(packet.payload.len() + 12 <= data.len());
        let mut plain = packet.header().to_vec();
        plain.extend_from_slice(packet.payload);
        assert_eq!(RtpPacket::parse(&plain), Ok(packet));
    }
    assert!(opus_ticks(data).is_none_or(|ticks| (1..=5_760).contains(&ticks)));
}

fn records(data: &[u8]) {
    thread_local! {
        static PAIR: RefCell<Option<LegPair>> = const { RefCell::new(None) };
    }
    let mut ear = Ear::new();
    let mut rest = data;
    let mut used_pair = false;
    for _ in 0..MOST_RECORDS {
        let Some((&[kind, length], behind)) = rest.split_first_chunk::<2>() else { break };
        let (content, behind) = behind.split_at(usize::from(length).min(behind.len()));
        match kind & 7 {
            // The length alone counts: that many half ticks.
            0 => {
                ear.pass(length);
                rest = rest.get(2..).unwrap_or_default();
                continue;
            }
            1 => ear.bytes(content),
            2 | 3 => ear.near(content),
            pair => PAIR.with_borrow_mut(|slot| {
                used_pair = true;
                LegPair::with(slot, |legs| match pair {
                    4 => legs.rtcp(content),
                    5 => {
                        let (head, payload) = content.split_first().unwrap_or((&0, &[]));
                        legs.rtp(head & 0x7F, ear.timestamp, payload, |packet| {
                            ear.packet(&RtpPacket {
                                payload_type: packet.payload_type,
                                marker: packet.marker,
                                sequence: packet.sequence,
                                timestamp: packet.timestamp,
                                ssrc: packet.ssrc,
                                payload: &packet.payload,
                            });
                        });
                    }
                    _ => legs.datagram(pair == 6, content),
                });
            }),
        }
        rest = behind;
    }
    if used_pair {
        PAIR.with_borrow_mut(|slot| LegPair::with(slot, |legs| assert!(legs.is_alive(), "the call goes on")));
    }
}

/// The audio of one caller, half a tick after another.
struct Ear {
    audio: CallerAudio,
    half_ticks: u32,
    sequence: u16,
    timestamp: u32,
    frame: [i16; FRAME_SAMPLES],
    packet: [u8; MAX_ENCODED_BYTES],
}

impl Ear {
    fn new() -> Self {
        Self {
            audio: CallerAudio::new(CallerAudioSettings::default()).expect("libopus gives codecs"),
            half_ticks: 0,
            sequence: 0,
            timestamp: 0,
            frame: [0; FRAME_SAMPLES],
            packet: [0; MAX_ENCODED_BYTES],
        }
    }

    fn pass(&mut self, half_ticks: u8) {
        for _ in 0..half_ticks {
            self.half_ticks += 1;
            if self.half_ticks.is_multiple_of(2) {
                self.audio.pull(self.now(), &mut self.frame);
            }
        }
        let heard = self.frame;
        self.audio.speak(Some(&heard).filter(|_| half_ticks & 1 == 0), &mut self.packet);
        self.audio.report();
    }

    fn now(&self) -> std::time::Instant {
        origin() + Duration::from_millis(10) * self.half_ticks
    }

    fn packet(&mut self, packet: &RtpPacket<'_>) {
        self.audio.receive(self.now(), packet);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        if let Ok(packet) = RtpPacket::parse(bytes) {
            self.packet(&packet);
        }
    }

    /// A packet near the one before: a step of its number, a step of its time in 20 ms or (odd) anywhere, its type and
    /// source, its payload.
    fn near(&mut self, content: &[u8]) {
        let Some((&[step, leap, kind], payload)) = content.split_first_chunk::<3>() else { return };
        self.sequence = self.sequence.wrapping_add_signed(i16::from(step.cast_signed()));
        let ticks = i32::from(leap.cast_signed()).wrapping_mul(if kind & 1 == 0 { 960 } else { 0x0101_0101 });
        self.timestamp = self.timestamp.wrapping_add_signed(ticks);
        let packet = RtpPacket {
            payload_type: [111, 126, 111, 8][usize::from(kind >> 1 & 3)],
            marker: kind & 0x80 != 0,
            sequence: self.sequence,
            timestamp: self.timestamp,
            ssrc: 1 + u32::from(kind >> 3 & 1),
            payload,
        };
        self.packet(&packet);
    }
}
