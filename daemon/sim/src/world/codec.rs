//! The audio behind the tags of a call: real speech, through Opus and the box's own pipeline both ways, for the stories in
//! which content counts.
//!
//! The paths go on carrying tags, so that the network is the same with and without a codec; what a tag stands for is kept
//! here until it arrives or is too old to. The caller's phone hears through the same pipeline as the box: a jitter
//! buffer, FEC and concealment, as phones have. The judge looks at both recordings after the call.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use sauti_core::media::frame::FRAME_SAMPLES;
use sauti_core::media::rtp::RtpPacket;
use sauti_media::opus::{Encoder, EncoderSettings, MAX_ENCODED_BYTES};
use sauti_media::pipeline::{AudioReport, CallerAudio, CallerAudioSettings};

use super::lane::{Tag, UP_FRAMES};

/// Packets of each way that are kept for their tags: 30 s, longer than any packet is under way.
const KEPT: usize = 1_500;
/// What phones do, as `caller/phone.rs` does it: 20 kb/s, FEC for a tenth of the packets lost.
const PHONE: EncoderSettings = EncoderSettings { bitrate: 20_000, complexity: 0, expected_loss: 10 };

/// What she says, and how her phone behaves.
#[derive(Debug, Clone, Default)]
pub struct AudioSettings {
    /// Her lines, 24 kHz, one for each time that she speaks.
    pub lines: Vec<Arc<[i16]>>,
    /// Keys that she presses with each frame.
    pub keys: u16,
}

/// What was said and what was heard, for a judge.
#[derive(Debug, Clone, Default)]
pub struct Recordings {
    /// Her lines, as far as she came.
    pub said: Vec<Arc<[i16]>>,
    /// What the model was sent.
    pub reached_model: Vec<i16>,
    /// The model's items, each as far as it was sent and not cut off.
    pub model_said: Vec<Vec<i16>>,
    /// What she heard.
    pub reached_caller: Vec<i16>,
    /// Keys that the box told and keys that it did not, as nobody presses them so fast.
    pub keys: (u64, u64),
}

/// A packet as it was sent.
#[derive(Debug)]
struct Sent {
    payload_type: u8,
    marker: bool,
    sequence: u16,
    timestamp: u32,
    payload: Vec<u8>,
}

impl Sent {
    fn view(&self) -> RtpPacket<'_> {
        RtpPacket {
            payload_type: self.payload_type,
            marker: self.marker,
            sequence: self.sequence,
            timestamp: self.timestamp,
            ssrc: 7,
            payload: &self.payload,
        }
    }
}

/// The codecs of one call.
#[derive(Debug)]
pub(super) struct Codec {
    settings: AudioSettings,
    /// The line that she speaks, and how far.
    speaking: Option<(Arc<[i16]>, usize)>,
    said: Vec<Arc<[i16]>>,
    mouth: Encoder,
    sequence: u16,
    up: BTreeMap<u16, Vec<Sent>>,
    /// The box's side.
    leg: CallerAudio,
    report: AudioReport,
    heard: VecDeque<[i16; FRAME_SAMPLES]>,
    number: u64,
    down: BTreeMap<u64, Sent>,
    /// Her phone's side.
    ear: CallerAudio,
    reached_caller: Vec<i16>,
}

impl Codec {
    pub(super) fn new(settings: AudioSettings) -> Result<Self, String> {
        let leg = || CallerAudio::new(CallerAudioSettings::default()).map_err(|error| error.to_string());
        Ok(Self {
            settings,
            speaking: None,
            said: Vec::new(),
            mouth: Encoder::new(PHONE).map_err(|error| error.to_string())?,
            sequence: 0,
            up: BTreeMap::new(),
            leg: leg()?,
            report: AudioReport::default(),
            heard: VecDeque::new(),
            number: 0,
            down: BTreeMap::new(),
            ear: leg()?,
            reached_caller: Vec::new(),
        })
    }

    /// Her next frame, of which `tag` goes into the network.
    pub(super) fn speak(&mut self, tag: Tag) {
        let mut frame = [0; FRAME_SAMPLES];
        if !tag.voiced {
            self.speaking = None;
        } else if self.speaking.is_none() {
            let line = self.settings.lines.get(self.said.len()).cloned().unwrap_or_default();
            self.said.push(Arc::clone(&line));
            self.speaking = Some((line, 0));
        }
        if let Some((line, done)) = &mut self.speaking {
            let part = line.get(*done..line.len().min(*done + FRAME_SAMPLES)).unwrap_or_default();
            frame[..part.len()].copy_from_slice(part);
            *done += FRAME_SAMPLES;
        }
        let mut packet = [0; MAX_ENCODED_BYTES];
        let Ok(length) = self.mouth.encode(&frame, &mut packet) else { return };
        let types = CallerAudioSettings::default();
        let mut bundle = vec![self.sent(types.payload_type, tag.timestamp, packet[..length].to_vec())];
        for key in 0..self.settings.keys {
            let Some(event_type) = types.event_payload_type else { break };
            let event = [u8::try_from(key % 16).unwrap_or(0), 0x8a, 0x03, 0x20];
            let timestamp = tag.timestamp.wrapping_add(u32::from(key) + 1);
            bundle.push(self.sent(event_type, timestamp, event.to_vec()));
        }
        self.up.insert(tag.sequence, bundle);
        // Sequence numbers wrap: the oldest is the one that was put in so long ago.
        self.up.remove(&tag.sequence.wrapping_sub(u16::try_from(KEPT).unwrap_or(u16::MAX)));
    }

    fn sent(&mut self, payload_type: u8, timestamp: u32, payload: Vec<u8>) -> Sent {
        self.sequence = self.sequence.wrapping_add(1);
        Sent { payload_type, marker: false, sequence: self.sequence, timestamp, payload }
    }

    /// A tag has come to the box.
    pub(super) fn receive(&mut self, now: Instant, tag: Tag) {
        for packet in self.up.get(&tag.sequence).into_iter().flatten() {
            self.leg.receive(now, &packet.view());
        }
    }

    /// The box's tick: what it hears, and the frame that goes out. Returns the number that stands for its packet.
    pub(super) fn tick(&mut self, now: Instant, frame: Option<&[i16; FRAME_SAMPLES]>, open: bool) -> u64 {
        let mut heard = [0; FRAME_SAMPLES];
        self.leg.pull(now, &mut heard);
        if self.heard.len() < UP_FRAMES {
            self.heard.push_back(heard);
        }
        self.number += 1;
        let mut packet = [0; MAX_ENCODED_BYTES];
        self.leg.set_sending(open);
        if let Some(out) = self.leg.speak(frame, &mut packet) {
            let sent = Sent {
                payload_type: CallerAudioSettings::default().payload_type,
                marker: out.marker,
                sequence: out.sequence,
                timestamp: out.timestamp,
                payload: packet[..out.len].to_vec(),
            };
            self.down.insert(self.number, sent);
        }
        while self.down.len() > KEPT {
            self.down.pop_first();
        }
        self.number
    }

    /// The frame that the box heard, in the order of its ticks.
    pub(super) fn take_heard(&mut self) -> [i16; FRAME_SAMPLES] {
        self.heard.pop_front().unwrap_or([0; FRAME_SAMPLES])
    }

    /// A packet has come to her phone.
    pub(super) fn arrived(&mut self, now: Instant, number: u64) {
        if let Some(packet) = self.down.get(&number) {
            self.ear.receive(now, &packet.view());
        }
    }

    /// A frame's time at her ear.
    pub(super) fn listen(&mut self, now: Instant) {
        let mut frame = [0; FRAME_SAMPLES];
        self.ear.pull(now, &mut frame);
        self.reached_caller.extend_from_slice(&frame);
    }

    /// What it leaves behind; the model's side is the emulator's to add.
    pub(super) fn recordings(&mut self) -> Recordings {
        self.report = self.leg.report();
        Recordings {
            said: self.said.clone(),
            reached_caller: self.reached_caller.clone(),
            keys: (self.report.digits, self.report.digits_refused),
            ..Recordings::default()
        }
    }
}
