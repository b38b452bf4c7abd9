//! From frames to packets for the caller: encode, or repeat silence that was encoded once; gather, number and stamp.

use sauti_core::media::codec::Codec;
use sauti_core::media::frame::{AudioFormat, FRAME_SAMPLES};
use sauti_core::media::level::rms_dbfs;
use sauti_core::media::rtp::RtpClock;

use super::codec::{BYTES_PER_MS, Encoder};
use super::dialling::{Dialling, Event};
use super::{AudioReport, CallerAudioSettings, OutPacket};
use crate::opus::CodecError;
use crate::resample::Resampler;

/// Frames of silence that go through an Opus encoder after speech, so that both ends come to rest. The last one's packet
/// is then repeated. Since the encoder has rested too, it takes up speech where the far decoder stands.
const SETTLING: u32 = 5;
/// How long speech that was cut off takes to fall to 0, as a share of a frame: 2.5 ms.
const FALL: usize = 8;
/// Longest packet kept as silence; encoded silence takes about ten bytes.
const MAX_SILENCE_BYTES: usize = 160;
/// Packet times that are sent where the codec has a byte a tick, in ms (RFC 3551 §4.2 lets a receiver take 0 to 200).
const PACKET_MS: [u8; 5] = [10, 20, 30, 40, 60];
/// Room for the longest packet and the frame that fills it.
const GATHERED: usize = (60 + 20) * BYTES_PER_MS;

/// The sending half of a leg.
#[derive(Debug)]
pub(super) struct Speaking {
    format: AudioFormat,
    encoder: Encoder,
    payload_type: u8,
    /// From the session's rate to the codec's, where they differ.
    resampler: Option<Box<Resampler>>,
    clock: RtpClock,
    sending: bool,
    last_sample: i16,
    rest: Rest,
    gather: Gather,
    dialling: Dialling,
    event_payload_type: Option<u8>,
    /// Ticks of the events' clock in a frame.
    event_ticks: u32,
}

/// Opus at rest.
#[derive(Debug)]
struct Rest {
    /// Frames of silence encoded since the last speech, up to [`SETTLING`].
    settled: u32,
    silence: [u8; MAX_SILENCE_BYTES],
    len: usize,
}

/// Bytes on their way into a packet, for codecs of a byte a tick.
#[derive(Debug)]
struct Gather {
    bytes: Box<[u8; GATHERED]>,
    len: usize,
    /// Media time of the first byte.
    timestamp: u32,
    /// Bytes of a packet.
    packet: usize,
    /// Where frames of speech end among the bytes; at most four fit.
    ends: [usize; 4],
    spoken: usize,
    /// Frames of speech that ended in bytes which were given up.
    given_up: u8,
}

impl Gather {
    fn new(packet_ms: u8) -> Self {
        let packet_ms = if PACKET_MS.contains(&packet_ms) { packet_ms } else { 20 };
        Self {
            bytes: Box::new([0; GATHERED]),
            len: 0,
            timestamp: 0,
            packet: usize::from(packet_ms) * BYTES_PER_MS,
            ends: [0; 4],
            spoken: 0,
            given_up: 0,
        }
    }

    /// Where the next 20 ms go.
    fn room(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.len..).unwrap_or_default()
    }

    fn add(&mut self, len: usize, timestamp: u32, speech: bool) {
        if self.len == 0 {
            self.timestamp = timestamp;
        }
        self.len = (self.len + len).min(GATHERED);
        if let Some(end) = self.ends.get_mut(self.spoken).filter(|_| speech) {
            *end = self.len;
            self.spoken += 1;
        }
    }

    /// The next whole packet: media time, length and the frames of speech that it completes.
    fn take(&mut self, out: &mut [u8]) -> Option<(u32, usize, u8)> {
        let packet = self.packet;
        if self.len < packet {
            return None;
        }
        out.get_mut(..packet)?.copy_from_slice(&self.bytes[..packet]);
        let timestamp = self.timestamp;
        self.bytes.copy_within(packet..self.len, 0);
        self.len -= packet;
        self.timestamp = timestamp.wrapping_add(u32::try_from(packet).unwrap_or(0));
        let whole = self.ends[..self.spoken].iter().filter(|end| **end <= packet).count();
        self.ends.copy_within(whole..self.spoken, 0);
        self.spoken -= whole;
        for end in &mut self.ends[..self.spoken] {
            *end -= packet;
        }
        let frames = u8::try_from(whole).unwrap_or(0).saturating_add(std::mem::take(&mut self.given_up));
        Some((timestamp, packet, frames))
    }

    /// Forgets what is no whole packet; its frames are counted with the packet that comes next, so that none is missed.
    fn give_up(&mut self) {
        self.given_up = self.given_up.saturating_add(u8::try_from(self.spoken).unwrap_or(0));
        self.len = 0;
        self.spoken = 0;
    }
}

impl Speaking {
    pub(super) fn new(settings: &CallerAudioSettings) -> Result<Self, CodecError> {
        let (from, to) = (settings.format.sample_rate(), settings.codec.sample_rate());
        let clock_rate = settings.codec.clock_rate();
        Ok(Self {
            format: settings.format,
            encoder: Encoder::new(settings)?,
            payload_type: settings.payload_type,
            resampler: (from != to).then(|| Box::new(Resampler::new(from, to))),
            clock: RtpClock::new(settings.first_sequence, settings.first_timestamp).at_rate(clock_rate),
            sending: true,
            last_sample: 0,
            rest: Rest { settled: 0, silence: [0; MAX_SILENCE_BYTES], len: 0 },
            gather: Gather::new(settings.packet_ms),
            dialling: Dialling::new(),
            event_payload_type: settings.event_payload_type,
            event_ticks: settings.event_clock_rate / 50,
        })
    }

    /// Goes on where another codec stopped: numbers, media time and keys that wait.
    pub(super) fn succeed(&mut self, before: &mut Self, codec: Codec) {
        before.gather.give_up();
        self.gather.given_up = before.gather.given_up;
        self.clock = before.clock.at_rate(codec.clock_rate());
        self.sending = before.sending;
        self.last_sample = before.last_sample;
        std::mem::swap(&mut self.dialling, &mut before.dialling);
    }

    pub(super) fn speak(
        &mut self,
        frame: Option<&[i16; FRAME_SAMPLES]>,
        out: &mut [u8],
        report: &mut AudioReport,
    ) -> Option<OutPacket> {
        self.clock.tick();
        if !self.sending {
            return None;
        }
        if self.dialling.is_busy()
            && let Some(payload_type) = self.event_payload_type
            && let Some(event) = self.dialling.step(self.clock.timestamp(), self.event_ticks)
        {
            self.gather.give_up();
            return self.send_event(payload_type, &event, out, report);
        }
        if let Some(frame) = frame {
            let spoken = frame.get(..self.format.frame_samples()).unwrap_or(frame);
            report.spoken_dbfs = report.spoken_dbfs.max(rms_dbfs(spoken));
        }
        if matches!(self.encoder, Encoder::Opus(_)) {
            return self.speak_opus(frame, out, report);
        }
        let speech = frame.is_some();
        let made = self.make(frame);
        let len = self.encoder.encode(&made, self.gather.room());
        let Some(len) = len else {
            report.encode_errors += 1;
            return None;
        };
        self.gather.add(len, self.clock.timestamp(), speech);
        self.more(out, report)
    }

    /// The next packet of this tick, where packets are shorter than a tick or hold more than one.
    pub(super) fn more(&mut self, out: &mut [u8], report: &mut AudioReport) -> Option<OutPacket> {
        let (timestamp, len, frames) = self.gather.take(out)?;
        // Nothing is left out where nobody speaks, so there are no talkspurts, and the marker stays at the first packet
        // after a time without any (RFC 3551 §4.1).
        let stamp = self.clock.stamp(true);
        let packet = OutPacket {
            payload_type: self.payload_type,
            sequence: stamp.sequence,
            timestamp,
            marker: stamp.marker,
            len,
            speech: frames > 0 || self.gather.spoken > 0,
            frames,
        };
        count(report, &packet);
        Some(packet)
    }

    fn speak_opus(
        &mut self,
        frame: Option<&[i16; FRAME_SAMPLES]>,
        out: &mut [u8],
        report: &mut AudioReport,
    ) -> Option<OutPacket> {
        let written = if frame.is_none() && self.rest.settled >= SETTLING {
            self.rest.copy(out)
        } else {
            let made = self.make(frame);
            let len = self.encoder.encode(&made, out);
            self.rest.note(frame.is_some(), len, out);
            len
        };
        let Some(len) = written else {
            report.encode_errors += 1;
            // Nobody will hear it, and nobody shall wait for it.
            self.gather.given_up = self.gather.given_up.saturating_add(u8::from(frame.is_some()));
            return None;
        };
        let stamp = self.clock.stamp(frame.is_some());
        let packet = OutPacket {
            payload_type: self.payload_type,
            sequence: stamp.sequence,
            timestamp: stamp.timestamp,
            marker: stamp.marker,
            len,
            speech: frame.is_some(),
            frames: u8::from(frame.is_some()).saturating_add(std::mem::take(&mut self.gather.given_up)),
        };
        count(report, &packet);
        Some(packet)
    }

    /// The samples of this tick at the codec's rate: what is said, or silence into which what was said falls.
    fn make(&mut self, frame: Option<&[i16; FRAME_SAMPLES]>) -> [i16; FRAME_SAMPLES] {
        let len = self.format.frame_samples();
        let mut said = [0; FRAME_SAMPLES];
        match frame {
            Some(frame) => {
                said = *frame;
                self.last_sample = frame[len - 1];
            }
            None => {
                let from = i32::from(std::mem::take(&mut self.last_sample));
                let fall = i32::try_from(len / FALL).unwrap_or(1);
                for (left, sample) in (1..=fall).rev().zip(said.iter_mut()) {
                    // Smaller than `from`, so it fits.
                    *sample = i16::try_from(from * left / (fall + 1)).unwrap_or(0);
                }
            }
        }
        if let Some(resampler) = &mut self.resampler {
            let mut out = [0; FRAME_SAMPLES];
            resampler.run(&said[..len], &mut out);
            return out;
        }
        said
    }

    fn send_event(
        &mut self,
        payload_type: u8,
        event: &Event,
        out: &mut [u8],
        report: &mut AudioReport,
    ) -> Option<OutPacket> {
        let len = event.payload.len();
        out.get_mut(..len)?.copy_from_slice(&event.payload);
        let stamp = self.clock.stamp(false);
        let packet = OutPacket {
            payload_type,
            sequence: stamp.sequence,
            timestamp: event.timestamp,
            marker: event.marker,
            len,
            speech: false,
            frames: std::mem::take(&mut self.gather.given_up),
        };
        count(report, &packet);
        Some(packet)
    }

    pub(super) fn press(&mut self, key: char) -> bool {
        self.event_payload_type.is_some() && self.dialling.press(key)
    }

    pub(super) const fn is_dialling(&self) -> bool {
        self.dialling.is_busy()
    }

    pub(super) fn skip_ticks(&mut self, ticks: u32) {
        self.clock.skip(ticks);
    }

    pub(super) fn set_sending(&mut self, sending: bool) {
        // Nothing was encoded meanwhile, so the far decoder still stands where our encoder does.
        if !sending && self.sending {
            self.gather.give_up();
            self.clock.pause();
        }
        self.sending = sending;
    }

    pub(super) fn set_expected_loss(&mut self, percent: i32) -> Result<(), CodecError> {
        match &mut self.encoder {
            Encoder::Opus(encoder) => encoder.set_expected_loss(percent),
            Encoder::G711(_) | Encoder::G722(_) => Ok(()),
        }
    }

    pub(super) fn timestamp(&self) -> u32 {
        self.clock.timestamp()
    }
}

impl Rest {
    fn copy(&self, out: &mut [u8]) -> Option<usize> {
        out.get_mut(..self.len)?.copy_from_slice(self.silence.get(..self.len)?);
        Some(self.len)
    }

    /// Takes note of a packet that was encoded into `out`: the last one of a long enough silence is kept.
    fn note(&mut self, speech: bool, len: Option<usize>, out: &[u8]) {
        if speech {
            self.settled = 0;
            return;
        }
        let Some(len) = len else { return };
        self.settled += 1;
        if self.settled == SETTLING {
            match (self.silence.get_mut(..len), out.get(..len)) {
                (Some(kept), Some(packet)) => {
                    kept.copy_from_slice(packet);
                    self.len = len;
                }
                // Too long to keep: go on encoding.
                _ => self.settled -= 1,
            }
        }
    }
}

fn count(report: &mut AudioReport, packet: &OutPacket) {
    report.sent += 1;
    report.sent_bytes += u64::try_from(packet.len).unwrap_or(0);
    report.sent_silence += u64::from(!packet.speech);
}
