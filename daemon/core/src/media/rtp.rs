//! RTP by RFC 3550 section 5: a view on received bytes, arithmetic on numbers that wrap, and the clock of what we send.
//!
//! No SRTP (the engine has done that before or does it after), no buffering, no time.

use thiserror::Error;

/// Ticks of Opus' RTP clock in one 20 ms frame (RFC 7587: always 48 kHz, whatever the audio's own rate).
pub const OPUS_FRAME_TICKS: u32 = 960;
/// Length of a header without contributing sources or extension.
pub const HEADER_BYTES: usize = 12;

/// Why bytes are no RTP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RtpError {
    /// Shorter than the header says that it must be.
    #[error("an RTP packet of {bytes} bytes ends inside its {part}; it is dropped")]
    Short {
        /// Length of what came.
        bytes: usize,
        /// The part that is not all there.
        part: &'static str,
    },
    /// Not version 2.
    #[error("a packet of RTP version {version} is not ours; it is dropped")]
    Version {
        /// What the first two bits say.
        version: u8,
    },
    /// The padding count is 0 or more than there is.
    #[error("an RTP packet announces {padding} bytes of padding in {payload} bytes of payload; it is dropped")]
    Padding {
        /// What the last byte says.
        padding: usize,
        /// What there is behind the header.
        payload: usize,
    },
}

/// A received packet, borrowed from the bytes that it came in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RtpPacket<'a> {
    /// Payload type, 0..=127.
    pub payload_type: u8,
    /// Begin of a talkspurt, as the sender says.
    pub marker: bool,
    /// Sequence number.
    pub sequence: u16,
    /// Media time in ticks of the payload's clock.
    pub timestamp: u32,
    /// Who sends.
    pub ssrc: u32,
    /// What is left after header, contributing sources, extension and padding; may be empty.
    pub payload: &'a [u8],
}

impl<'a> RtpPacket<'a> {
    /// Reads a decrypted packet. Contributing sources and header extensions are stepped over.
    ///
    /// # Errors
    /// [`RtpError`] for anything that is not a whole RTP packet of version 2; no bytes make it panic.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RtpError> {
        let short = |part| RtpError::Short { bytes: bytes.len(), part };
        let (header, mut rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or_else(|| short("header"))?;
        let [first, second, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3] = *header;
        if first >> 6 != 2 {
            return Err(RtpError::Version { version: first >> 6 });
        }
        rest = rest.get(usize::from(first & 0x0F) * 4..).ok_or_else(|| short("contributing sources"))?;
        if first & 0x10 != 0 {
            let ([_, _, high, low], behind) = rest.split_first_chunk::<4>().ok_or_else(|| short("extension"))?;
            let words = usize::from(u16::from_be_bytes([*high, *low]));
            rest = behind.get(words * 4..).ok_or_else(|| short("extension"))?;
        }
        if first & 0x20 != 0 {
            let padding = usize::from(rest.last().copied().unwrap_or(0));
            let bad = RtpError::Padding { padding, payload: rest.len() };
            if padding == 0 {
                return Err(bad);
            }
            let keep = rest.len().checked_sub(padding).ok_or(bad)?;
            rest = rest.get(..keep).ok_or(bad)?;
        }
        Ok(Self {
            payload_type: second & 0x7F,
            marker: second & 0x80 != 0,
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            ssrc: u32::from_be_bytes([c0, c1, c2, c3]),
            payload: rest,
        })
    }

    /// The twelve bytes that go before [`Self::payload`]: no padding, no extension.
    #[must_use]
    pub fn header(&self) -> [u8; HEADER_BYTES] {
        let [s0, s1] = self.sequence.to_be_bytes();
        let [t0, t1, t2, t3] = self.timestamp.to_be_bytes();
        let [c0, c1, c2, c3] = self.ssrc.to_be_bytes();
        let second = (self.payload_type & 0x7F) | (u8::from(self.marker) << 7);
        [0x80, second, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3]
    }
}

impl std::fmt::Debug for RtpPacket<'_> {
    /// Audio stays out of logs: the payload is shown by its length.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RtpPacket")
            .field("payload_type", &self.payload_type)
            .field("marker", &self.marker)
            .field("sequence", &self.sequence)
            .field("timestamp", &self.timestamp)
            .field("ssrc", &self.ssrc)
            .field("payload_bytes", &self.payload.len())
            .finish()
    }
}

/// True for bytes that are RTCP rather than RTP on a shared port (RFC 5761 section 4: packet types 192 to 223).
#[must_use]
pub fn is_rtcp(bytes: &[u8]) -> bool {
    matches!(bytes, [first, second, ..] if first >> 6 == 2 && (192..=223).contains(second))
}

/// How far `later` lies after `earlier` on the wrapping sequence circle, negative if before: -32,768..=32,767.
#[must_use]
pub fn sequence_distance(earlier: u16, later: u16) -> i16 {
    later.wrapping_sub(earlier).cast_signed()
}

/// How far `later` lies after `earlier` on the wrapping timestamp circle, negative if before.
#[must_use]
pub fn timestamp_distance(earlier: u32, later: u32) -> i32 {
    later.wrapping_sub(earlier).cast_signed()
}

/// Length of an Opus packet in ticks of 48 kHz, read from its first bytes (RFC 6716 section 3.1); `None` if they are
/// no Opus packet or it would last more than 120 ms.
#[must_use]
pub fn opus_ticks(payload: &[u8]) -> Option<u32> {
    let (&toc, rest) = payload.split_first()?;
    let config = toc >> 3;
    let frame = match config {
        0..=11 => [480, 960, 1920, 2880][usize::from(config & 3)],
        12..=15 => [480, 960][usize::from(config & 1)],
        _ => [120, 240, 480, 960][usize::from(config & 3)],
    };
    let frames = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u32::from(rest.first()? & 0x3F),
    };
    let ticks = frame * frames;
    (1..=5760).contains(&ticks).then_some(ticks)
}

/// What goes into the header of a packet that we send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Sequence number: one more than in the packet before.
    pub sequence: u16,
    /// Media time of the frame.
    pub timestamp: u32,
    /// First packet of a talkspurt.
    pub marker: bool,
}

/// The sender's clock: media time moves with every tick, sequence numbers only with packets.
///
/// Drive it with one [`RtpClock::tick`] per 20 ms, and [`RtpClock::stamp`] within a tick if something is sent.
#[derive(Debug, Clone, Copy)]
pub struct RtpClock {
    sequence: u16,
    timestamp: u32,
    frame_ticks: u32,
    talking: bool,
    started: bool,
}

impl RtpClock {
    /// A clock of Opus whose first packet in the first tick carries these numbers (RFC 3550: both at random).
    #[must_use]
    pub fn new(sequence: u16, timestamp: u32) -> Self {
        Self { sequence, timestamp, frame_ticks: OPUS_FRAME_TICKS, talking: false, started: false }
    }

    /// The same for another codec; where the stream has begun, it goes on from where it stands (RFC 7160 §4.1).
    #[must_use]
    pub fn at_rate(mut self, clock_rate: u32) -> Self {
        self.frame_ticks = clock_rate / 50;
        self
    }

    /// Ticks of a frame of 20 ms.
    #[must_use]
    pub fn frame_ticks(&self) -> u32 {
        self.frame_ticks
    }

    /// Nothing is sent from here on: what comes next begins a talkspurt.
    pub fn pause(&mut self) {
        self.talking = false;
    }

    /// One frame has passed, whether or not anything is sent.
    pub fn tick(&mut self) {
        self.skip(1);
    }

    /// `frames` frames have passed at once: the lane was late and will not make them up.
    pub fn skip(&mut self, frames: u32) {
        // The first tick opens the frame that the initial timestamp names.
        let moved = if self.started { frames } else { frames.saturating_sub(1) };
        self.started |= frames > 0;
        self.timestamp = self.timestamp.wrapping_add(moved.wrapping_mul(self.frame_ticks));
    }

    /// Numbers for a packet in this tick. `speech` says whether it holds speech or only silence: the first with speech
    /// after one without carries the marker.
    pub fn stamp(&mut self, speech: bool) -> Stamp {
        let stamp = Stamp { sequence: self.sequence, timestamp: self.timestamp, marker: speech && !self.talking };
        self.talking = speech;
        self.sequence = self.sequence.wrapping_add(1);
        stamp
    }

    /// Media time of the current tick, as a sender report needs it.
    #[must_use]
    pub fn timestamp(&self) -> u32 {
        self.timestamp
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_plain_packet_reads_as_written() {
        let packet = RtpPacket {
            payload_type: 111,
            marker: true,
            sequence: 0xFFFE,
            timestamp: 0x0102_0304,
            ssrc: 7,
            payload: &[1, 2, 3],
        };
        let mut bytes = packet.header().to_vec();
        bytes.extend_from_slice(packet.payload);
        assert_eq!(RtpPacket::parse(&bytes), Ok(packet));
        assert!(!format!("{packet:?}").contains("[1, 2, 3]"));
    }

    #[test]
    fn sources_extension_and_padding_are_stepped_over() {
        let mut bytes = vec![0x80 | 0x20 | 0x10 | 2, 126, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
        bytes.extend_from_slice(&[9; 8]); // two contributing sources
        bytes.extend_from_slice(&[0xBE, 0xDE, 0, 1, 0x10, 0xFF, 0, 0]); // one word of extension
        bytes.extend_from_slice(&[42, 43, 0, 0, 3]); // two bytes of payload, three of padding
        let packet = RtpPacket::parse(&bytes).unwrap();
        assert_eq!((packet.payload_type, packet.marker, packet.payload), (126, false, &[42, 43][..]));
    }

    #[test]
    fn cut_packets_name_the_part_that_is_missing() {
        let header = [0x90, 111, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
        assert_eq!(RtpPacket::parse(&header[..11]), Err(RtpError::Short { bytes: 11, part: "header" }));
        assert_eq!(RtpPacket::parse(&header), Err(RtpError::Short { bytes: 12, part: "extension" }));
        assert_eq!(RtpPacket::parse(&[0x40; 12]), Err(RtpError::Version { version: 1 }));
        let mut padded = [0xA0, 111, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 9];
        assert_eq!(RtpPacket::parse(&padded), Err(RtpError::Padding { padding: 9, payload: 1 }));
        padded[12] = 0;
        assert_eq!(RtpPacket::parse(&padded), Err(RtpError::Padding { padding: 0, payload: 1 }));
        assert_eq!(RtpPacket::parse(&padded[..12]), Err(RtpError::Padding { padding: 0, payload: 0 }));
    }

    #[test]
    fn rtcp_is_told_from_rtp_on_the_same_port() {
        assert!(is_rtcp(&[0x80, 200, 0, 0]));
        assert!(is_rtcp(&[0x81, 201]));
        assert!(!is_rtcp(&[0x80, 111, 0, 0]));
        assert!(!is_rtcp(&[0x80, 111 | 0x80, 0, 0]), "a marker bit does not make it RTCP");
        assert!(!is_rtcp(&[0x80]));
    }

    #[test]
    fn distances_wrap() {
        assert_eq!(sequence_distance(65535, 0), 1);
        assert_eq!(sequence_distance(0, 65535), -1);
        assert_eq!(sequence_distance(0, 0x8000), i16::MIN);
        assert_eq!(timestamp_distance(u32::MAX - 959, 0), 960);
        assert_eq!(timestamp_distance(0, u32::MAX), -1);
    }

    #[test]
    fn the_first_byte_of_opus_tells_its_length() {
        // SILK wideband 20 ms; CELT fullband 2.5 ms; hybrid 10 ms; SILK 60 ms twice; three CELT frames of 20 ms.
        assert_eq!(opus_ticks(&[9 << 3, 0]), Some(960));
        assert_eq!(opus_ticks(&[28 << 3]), Some(120));
        assert_eq!(opus_ticks(&[12 << 3]), Some(480));
        assert_eq!(opus_ticks(&[(11 << 3) | 1]), Some(5760));
        assert_eq!(opus_ticks(&[(31 << 3) | 3, 3]), Some(2880));
        // Nothing, a missing or zero count, and more than 120 ms.
        for bad in [&[][..], &[(31 << 3) | 3], &[(31 << 3) | 3, 0], &[(31 << 3) | 3, 7]] {
            assert_eq!(opus_ticks(bad), None);
        }
    }

    #[test]
    fn media_time_moves_in_silence_and_sequence_does_not() {
        let mut clock = RtpClock::new(65535, u32::MAX - 959);
        clock.tick();
        assert_eq!(clock.stamp(true), Stamp { sequence: 65535, timestamp: u32::MAX - 959, marker: true });
        clock.tick();
        assert_eq!(clock.stamp(true), Stamp { sequence: 0, timestamp: 0, marker: false });
        for _ in 0..250 {
            clock.tick();
        }
        clock.tick();
        assert_eq!(clock.stamp(false), Stamp { sequence: 1, timestamp: 251 * 960, marker: false });
        clock.skip(3);
        assert_eq!(clock.stamp(true), Stamp { sequence: 2, timestamp: 254 * 960, marker: true });
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(packet) = RtpPacket::parse(&bytes) {
                prop_assert!(packet.payload.len() <= bytes.len() - HEADER_BYTES);
            }
            let _ticks = opus_ticks(&bytes);
        }
    }
}
