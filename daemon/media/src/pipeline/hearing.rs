//! From the caller's packets to frames: sort by payload type, buffer, decode, conceal, cut into 20 ms.

use std::time::{Duration, Instant};

use sauti_core::media::codec::Codec;
use sauti_core::media::frame::FRAME_SAMPLES;
use sauti_core::media::jitter::{Arrival, JitterBuffer, JitterReport, JitterSettings, Pulled, Pushed};
use sauti_core::media::level::{SILENCE_DBFS, rms_dbfs};
use sauti_core::media::rtp::{RtpPacket, timestamp_distance};

use super::codec::Decoder;
use super::{AudioReport, CallerAudioSettings, Heard, Received};
use crate::conceal::mix;
use crate::opus::{CodecError, MAX_PACKET_SAMPLES};
use crate::resample::Resampler;

/// A frame softer than this may be left out unheard.
const QUIET_DBFS: f32 = -45.0;
/// How long audio rises after silence, as a share of a frame: 2.5 ms.
const RISE: usize = 8;
/// More pulls than the shortest packets (2.5 ms) need for a frame.
const MAX_PULLS: usize = 40;
/// Room for what is left of the frame before, the frame that a stretch adds, and the longest packet behind them.
const CARRY: usize = 2 * FRAME_SAMPLES + MAX_PACKET_SAMPLES;
/// Frames of comfort noise before it fades to nothing: a sender that saves silence (DTX) refreshes it every 400 ms, and who
/// says nothing for longer is not there.
const COMFORT: u32 = 30;
/// Keys that may come at once, and how long each next one takes: nobody presses ten a second for long, and a flood would
/// fill the queue of the call task.
const KEYS_AT_ONCE: u32 = 16;
const KEY_EVERY: Duration = Duration::from_millis(60);
/// A telephone event this much older than the last one, in seconds, is not its repetition but a new clock.
const EVENT_MEMORY: i32 = 5;
/// Comfort noise of codecs with a clock of 8 kHz (RFC 3389 §4).
const COMFORT_NOISE: u8 = 13;

/// The receiving half of a leg.
#[derive(Debug)]
pub(super) struct Hearing {
    codec: Codec,
    payload_type: u8,
    event_payload_type: Option<u8>,
    jitter: JitterBuffer,
    /// What buffers of codecs before this one counted.
    before: JitterReport,
    decoder: Decoder,
    /// From the codec's rate to the session's, where they differ.
    resampler: Option<Box<Resampler>>,
    /// Samples of a frame at the codec's rate.
    frame: usize,
    /// The same at the session's.
    out: usize,
    /// Where packets are decoded to.
    decoded: Box<[i16; MAX_PACKET_SAMPLES]>,
    /// A packet to be blended into the next.
    surplus: Box<[i16; MAX_PACKET_SAMPLES]>,
    surplus_len: usize,
    /// Decoded and not yet pulled.
    carry: Box<[i16; CARRY]>,
    carry_len: usize,
    /// The frame pulled last, as it was before any muting.
    last: Box<[i16; FRAME_SAMPLES]>,
    /// The carry holds invented audio.
    carry_concealed: bool,
    /// The frame pulled last was not silence.
    sounding: bool,
    level: f32,
    muted: bool,
    ssrc: Option<u32>,
    /// A source that sent one packet: with the next one it takes over.
    candidate: Option<u32>,
    last_event: Option<u32>,
    /// The sender leaves out packets where nothing is said, as far as can be told.
    saves_silence: bool,
    /// Frames of comfort noise since the last packet.
    comfort: u32,
    /// Keys that may still be told, and when that was last counted.
    keys: u32,
    keys_at: Option<Instant>,
}

impl Hearing {
    pub(super) fn new(settings: &CallerAudioSettings) -> Result<Self, CodecError> {
        let (from, to) = (settings.codec.sample_rate(), settings.format.sample_rate());
        Ok(Self {
            codec: settings.codec,
            payload_type: settings.payload_type,
            event_payload_type: settings.event_payload_type,
            jitter: JitterBuffer::new(JitterSettings { clock_rate: settings.codec.clock_rate(), ..settings.jitter }),
            before: JitterReport::default(),
            decoder: Decoder::new(settings.codec)?,
            resampler: (from != to).then(|| Box::new(Resampler::new(from, to))),
            frame: from as usize / 50,
            out: to as usize / 50,
            decoded: Box::new([0; MAX_PACKET_SAMPLES]),
            surplus: Box::new([0; MAX_PACKET_SAMPLES]),
            surplus_len: 0,
            carry: Box::new([0; CARRY]),
            carry_len: 0,
            last: Box::new([0; FRAME_SAMPLES]),
            carry_concealed: false,
            sounding: false,
            level: SILENCE_DBFS,
            muted: false,
            ssrc: None,
            candidate: None,
            last_event: None,
            saves_silence: false,
            comfort: 0,
            keys: KEYS_AT_ONCE,
            keys_at: None,
        })
    }

    /// Goes on where another codec stopped: what it counted, and whether the leg is muted. Its packets are gone.
    pub(super) fn succeed(&mut self, before: &Self) {
        self.before = before.jitter_report();
        self.muted = before.muted;
        self.ssrc = before.ssrc;
        (self.keys, self.keys_at) = (before.keys, before.keys_at);
    }

    pub(super) fn receive(&mut self, now: Instant, packet: &RtpPacket<'_>, report: &mut AudioReport) -> Received {
        let is_event = self.event_payload_type == Some(packet.payload_type);
        let is_comfort = packet.payload_type == COMFORT_NOISE && self.codec.is_static();
        if packet.payload_type != self.payload_type && !is_event && !is_comfort {
            if self.ssrc == Some(packet.ssrc) {
                self.jitter.skip(now, packet.sequence, packet.timestamp);
            }
            report.other_payloads += 1;
            return Received::OtherPayload;
        }
        if !self.is_ours(packet.ssrc, report) {
            report.strangers += 1;
            return Received::Stranger;
        }
        if is_event {
            return self.event(now, packet, report);
        }
        if packet.payload.is_empty() || is_comfort {
            // Padding alone, or word that nobody speaks: it takes a number and says nothing.
            return Received::Audio(self.jitter.skip(now, packet.sequence, packet.timestamp));
        }
        let Some(ticks) = self.decoder.ticks(packet.payload) else {
            report.undecodable += 1;
            return Received::Undecodable;
        };
        let arrival =
            Arrival { sequence: packet.sequence, timestamp: packet.timestamp, ticks, payload: packet.payload };
        Received::Audio(self.jitter.push(now, arrival))
    }

    /// The first source is ours; another takes over with two packets in a row.
    fn is_ours(&mut self, ssrc: u32, report: &mut AudioReport) -> bool {
        if self.ssrc == Some(ssrc) {
            self.candidate = None;
            return true;
        }
        if self.ssrc.is_some() {
            if self.candidate != Some(ssrc) {
                self.candidate = Some(ssrc);
                return false;
            }
            self.jitter.restart();
            self.last_event = None;
            report.sources += 1;
        }
        self.ssrc = Some(ssrc);
        self.candidate = None;
        true
    }

    /// RFC 4733: one press is many packets with one timestamp, its end is sent three times.
    fn event(&mut self, now: Instant, packet: &RtpPacket<'_>, report: &mut AudioReport) -> Received {
        let pushed = self.jitter.skip(now, packet.sequence, packet.timestamp);
        if matches!(pushed, Pushed::Duplicate | Pushed::Stray) {
            return Received::Event;
        }
        let &[event, _, _, _, ..] = packet.payload else {
            report.undecodable += 1;
            return Received::Undecodable;
        };
        let memory = -EVENT_MEMORY * i32::try_from(self.codec.clock_rate()).unwrap_or(0);
        if self.last_event.is_some_and(|last| (memory..=0).contains(&timestamp_distance(last, packet.timestamp))) {
            return Received::Event;
        }
        self.last_event = Some(packet.timestamp);
        let digit = match event {
            0..=9 => char::from(b'0' + event),
            10 => '*',
            11 => '#',
            12..=15 => char::from(b'A' + event - 12),
            _ => return Received::Event,
        };
        if !self.may_tell_key(now) {
            report.digits_refused += 1;
            return Received::Event;
        }
        report.digits += 1;
        Received::Digit(digit)
    }

    fn may_tell_key(&mut self, now: Instant) -> bool {
        let since = self.keys_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let earned = u32::try_from(since.as_millis() / KEY_EVERY.as_millis()).unwrap_or(u32::MAX);
        if earned > 0 || self.keys_at.is_none() {
            self.keys = self.keys.saturating_add(earned).min(KEYS_AT_ONCE);
            self.keys_at = Some(now);
        }
        let may = self.keys > 0;
        self.keys = self.keys.saturating_sub(1);
        may
    }

    pub(super) fn pull(&mut self, now: Instant, out: &mut [i16; FRAME_SAMPLES], report: &mut AudioReport) -> Heard {
        let heard = match self.fill(now, report) {
            Heard::Voice if self.carry_concealed => Heard::Concealed,
            heard => heard,
        };
        let len = self.carry_len.min(self.frame);
        self.last[..len].copy_from_slice(&self.carry[..len]);
        self.last[len..].fill(0);
        self.carry.copy_within(len..self.carry_len, 0);
        self.carry_len -= len;
        if self.carry_len == 0 {
            self.carry_concealed = false;
        }
        let frame = &self.last[..self.frame];
        self.level = if len == 0 { SILENCE_DBFS } else { rms_dbfs(frame) };
        let made = match &mut self.resampler {
            Some(resampler) => resampler.run(frame, &mut out[..self.out]),
            None => {
                out[..self.frame].copy_from_slice(frame);
                self.frame
            }
        };
        out[made..].fill(0);
        let heard = if self.muted {
            out.fill(0);
            Heard::Nothing
        } else {
            report.heard_dbfs = report.heard_dbfs.max(self.level);
            heard
        };
        match heard {
            Heard::Voice => report.voice += 1,
            Heard::Concealed => report.concealed += 1,
            Heard::Comfort => report.comfort += 1,
            Heard::Nothing => report.nothing += 1,
        }
        heard
    }

    /// Decodes until a frame is there, or there is nothing to decode.
    fn fill(&mut self, now: Instant, report: &mut AudioReport) -> Heard {
        // Who stops in mid-speech has lost the network, and gets no room noise made of his last word.
        self.saves_silence = self.jitter.has_paused() || self.level < QUIET_DBFS;
        for _ in 0..MAX_PULLS {
            if self.carry_len >= self.frame {
                break;
            }
            let quiet = self.level < QUIET_DBFS;
            let (decoded, concealed) = match self.jitter.pull(now, duration(self.carry_len, self.codec), quiet) {
                Pulled::Voice(payload) => {
                    self.comfort = 0;
                    (self.decoder.decode(payload, &mut self.decoded), false)
                }
                Pulled::Surplus(payload) => {
                    self.surplus_len = self.decoder.decode(payload, &mut self.surplus).unwrap_or(0);
                    continue;
                }
                Pulled::Scarce(payload) => {
                    self.comfort = 0;
                    if let Some(len) = self.decoder.decode(payload, &mut self.decoded) {
                        self.stretch(len);
                        continue;
                    }
                    (Some(0), true)
                }
                Pulled::Lost { ticks, next: Some(next) } => {
                    report.recovered += u64::from(self.decoder.sends_copies());
                    let samples = self.decoder.samples(ticks);
                    (self.decoder.rebuild(next, samples, &mut self.decoded), true)
                }
                Pulled::Lost { ticks, next: None } => {
                    let samples = self.decoder.samples(ticks);
                    (self.decoder.conceal(samples, &mut self.decoded), true)
                }
                Pulled::Starved => (self.decoder.conceal(self.frame, &mut self.decoded), true),
                Pulled::Silence
                    if self.sounding
                        && self.comfort < COMFORT
                        && self.saves_silence
                        && self.decoder.makes_comfort() =>
                {
                    self.comfort += 1;
                    let len = self.decoder.conceal(self.frame, &mut self.decoded).unwrap_or(0);
                    self.append(len, false);
                    return Heard::Comfort;
                }
                Pulled::Silence => return self.fade(Heard::Comfort),
                Pulled::Empty => return self.fade(Heard::Nothing),
            };
            let len = match decoded {
                Some(len) => len,
                None => {
                    report.undecodable += 1;
                    self.carry_concealed = true;
                    self.decoder.conceal(self.frame, &mut self.decoded).unwrap_or(0)
                }
            };
            self.append(len, concealed);
        }
        Heard::Voice
    }

    /// Puts `len` decoded samples behind the carry: blended with a surplus packet, rising if it was silent before.
    fn append(&mut self, len: usize, concealed: bool) {
        let room = self.carry.get_mut(self.carry_len..).unwrap_or_default();
        let len = len.min(room.len()).min(MAX_PACKET_SAMPLES);
        let fresh = &mut self.decoded[..len];
        let blended = self.surplus_len.min(len);
        for (n, (new, old)) in (1..).zip(fresh.iter_mut().zip(&self.surplus[..blended])) {
            *new = mix(*old, *new, n, blended + 1);
        }
        self.surplus_len = 0;
        if !self.sounding {
            let rise = self.frame / RISE;
            for (n, sample) in (1..).zip(fresh.iter_mut().take(rise)) {
                *sample = mix(0, *sample, n, rise + 1);
            }
        }
        self.sounding = true;
        room[..len].copy_from_slice(fresh);
        self.carry_len += len;
        self.carry_concealed |= concealed;
    }

    /// Puts `len` decoded samples behind the carry, and before them as much as the frame before them: it begins as the fresh
    /// audio does and ends as that frame did, so that neither seam is a step and the decoder knows nothing of it.
    fn stretch(&mut self, len: usize) {
        let more = self.frame.min(len);
        let mut bridge = [0; FRAME_SAMPLES];
        let of = more + 1;
        for (n, sample) in bridge.iter_mut().take(more).enumerate() {
            let back = more - n;
            let before = match self.carry_len.checked_sub(back) {
                Some(at) => self.carry[at],
                None => self.last[self.frame + self.carry_len - back],
            };
            *sample = mix(self.decoded[n], before, n + 1, of);
        }
        self.surplus_len = 0;
        if let Some(room) = self.carry.get_mut(self.carry_len..self.carry_len + more) {
            room.copy_from_slice(&bridge[..more]);
            self.carry_len += more;
        }
        self.sounding = true;
        self.append(len, true);
    }

    /// Ends in silence without a step: what sounded before is continued for one frame and faded out.
    fn fade(&mut self, silence: Heard) -> Heard {
        if !self.sounding {
            return silence;
        }
        let len = self.decoder.conceal(self.frame, &mut self.decoded).unwrap_or(0);
        for (n, sample) in (1..).zip(self.decoded[..len].iter_mut()) {
            *sample = mix(*sample, 0, n, len);
        }
        self.append(len, true);
        self.sounding = false;
        Heard::Concealed
    }

    pub(super) fn flush(&mut self) {
        self.jitter.flush();
        self.carry_len = 0;
        self.carry_concealed = false;
        self.surplus_len = 0;
    }

    pub(super) const fn codec(&self) -> Codec {
        self.codec
    }

    pub(super) fn set_muted(&mut self, muted: bool) {
        self.muted = muted;
    }

    pub(super) fn jitter_report(&self) -> JitterReport {
        self.jitter.report().after(&self.before)
    }
}

/// Length of so many samples.
fn duration(samples: usize, codec: Codec) -> Duration {
    Duration::from_nanos(u64::try_from(samples).unwrap_or(0) * 1_000_000_000 / u64::from(codec.sample_rate()))
}
