//! A lane in miniature: a jitter buffer over tags, two bounded rings, an epoch and a count, a tick of 20 ms, and where
//! the box judges interruptions the lane's own judge of them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use sauti_core::call::clip::ClipName;
use sauti_core::media::floor::{Decision, Floor, FloorSettings, Overlap, Tick};
use sauti_core::media::frame::{FRAME, FRAME_SAMPLES, Frame};
use sauti_core::media::jitter::{Arrival, JitterBuffer, JitterSettings, Pulled};
use sauti_core::media::level::{SILENCE_DBFS, rms_dbfs};

use super::caller::{Heard, Sound};

/// As in `daemon/src/lanes/slots.rs`.
pub(super) const UP_FRAMES: usize = 16;
pub(super) const DOWN_FRAMES: usize = 24;
pub(super) const DOWN_TARGET: usize = 10;
/// Packets that a frame may take until there is one to play.
const MAX_PULLS: usize = 4;
/// Clips are made of this value and the ones after it, so that the ear knows them by it.
const CLIP_MARK: i16 = 12_345;
/// Softer than this is silence.
const AUDIBLE: u16 = 300;
/// Speech whose frames are numbered: even samples are this and the item's number, odd ones the frame's, from here down.
const ITEM_MARK: i16 = 15_000;
const FRAME_MARK: i16 = -2_000;
/// Items and frames that can be told apart.
const MOST_ITEMS: i16 = 1_000;
const MOST_FRAMES: i16 = 20_000;
/// How loud a voiced tag is to the lane's judge: like the model, into whose speech it breaks.
const VOICE_DBFS: f32 = -15.0;

/// A packet of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) sequence: u16,
    pub(super) timestamp: u32,
    pub(super) voiced: bool,
}

/// A clip of so many milliseconds.
pub(super) fn clip(name: ClipName) -> Vec<i16> {
    let length = match name {
        ClipName::OneMoment => 1_300,
        ClipName::Greeting | ClipName::StillThere => 1_600,
        ClipName::Apology | ClipName::Goodbye => 4_000,
        ClipName::HoldMusic => 8_000,
    };
    vec![mark(name); length * 24]
}

fn mark(name: ClipName) -> i16 {
    let place = ClipName::ALL.iter().position(|other| *other == name).unwrap_or(0);
    CLIP_MARK + i16::try_from(place).unwrap_or(0)
}

/// Speech of so many frames, each of which says which one of which item it is; numbers beyond the bounds repeat.
#[must_use]
pub fn numbered(item: u16, frames: u16) -> Vec<i16> {
    let number = |number: u16, most: i16| i16::try_from(number % most.unsigned_abs()).unwrap_or(0);
    let mark = ITEM_MARK + number(item, MOST_ITEMS);
    (0..frames).flat_map(|frame| [mark, FRAME_MARK - number(frame, MOST_FRAMES)].repeat(FRAME_SAMPLES / 2)).collect()
}

/// Which frame of which item this is, if it is numbered.
fn place(frame: &Frame) -> Option<(u16, u16)> {
    let [item, number, ..] = frame.samples;
    let (item, number) = (item.checked_sub(ITEM_MARK)?, FRAME_MARK.checked_sub(number)?);
    let known = (0..MOST_ITEMS).contains(&item) && (0..MOST_FRAMES).contains(&number);
    if known { Some((item.unsigned_abs(), number.unsigned_abs())) } else { None }
}

/// What a frame sounds like.
fn sound(frame: &Frame) -> Option<Sound> {
    let first = frame.samples[0];
    if let Some(name) = ClipName::ALL.iter().find(|name| mark(**name) == first && frame.samples[1] == first) {
        return Some(Sound::Clip(*name));
    }
    frame.samples.iter().any(|sample| sample.unsigned_abs() > AUDIBLE).then_some(Sound::Speech)
}

/// The lane's side of one call.
#[derive(Debug)]
pub(super) struct Lane {
    jitter: JitterBuffer,
    last: bool,
    /// The last packet was stretched by a frame that is still to be played.
    stretched: bool,
    pub(super) up: VecDeque<bool>,
    pub(super) down: VecDeque<Frame>,
    pub(super) epoch: u32,
    consumed: (u32, u32),
    pub(super) open: bool,
    pub(super) packets: u64,
    pub(super) up_dropped: u64,
    floor: Option<Floor>,
    /// The call task says that it was no interruption.
    pub(super) resume: bool,
    /// The frame that this tick played.
    pub(super) played: Option<Frame>,
}

impl Lane {
    /// `floor` where the box judges interruptions.
    pub(super) fn new(floor: Option<FloorSettings>) -> Self {
        Self {
            jitter: JitterBuffer::new(JitterSettings::default()),
            last: false,
            stretched: false,
            up: VecDeque::new(),
            down: VecDeque::new(),
            epoch: 0,
            consumed: (0, 0),
            open: false,
            packets: 0,
            up_dropped: 0,
            floor: floor.map(Floor::new),
            resume: false,
            played: None,
        }
    }

    pub(super) fn receive(&mut self, now: Instant, tag: Tag) {
        self.packets += 1;
        let payload = [u8::from(tag.voiced)];
        self.jitter
            .push(now, Arrival { sequence: tag.sequence, timestamp: tag.timestamp, ticks: 960, payload: &payload });
    }

    /// The frame that the caller spoke, as the pipeline would hear it.
    fn listen(&mut self, now: Instant) -> bool {
        if std::mem::take(&mut self.stretched) {
            return self.last;
        }
        let voiced = |payload: &[u8]| payload.first() == Some(&1);
        for _ in 0..MAX_PULLS {
            self.last = match self.jitter.pull(now, Duration::ZERO, !self.last) {
                Pulled::Voice(payload) => voiced(payload),
                Pulled::Surplus(_) => continue,
                Pulled::Scarce(payload) => {
                    self.stretched = true;
                    voiced(payload)
                }
                Pulled::Lost { next: Some(next), .. } => voiced(next),
                Pulled::Lost { next: None, .. } | Pulled::Starved => self.last,
                Pulled::Silence | Pulled::Empty => false,
            };
            break;
        }
        self.last
    }

    /// One frame each way; what goes out, and the epoch that it is of.
    pub(super) fn tick(&mut self, now: Instant) -> Option<(Heard, Option<u32>)> {
        let frame = self.listen(now);
        if self.up.len() < UP_FRAMES {
            self.up.push_back(frame);
        } else {
            self.up_dropped += 1;
        }
        self.played = None;
        if !self.open {
            return None;
        }
        if self.pauses(frame) {
            return Some((Heard::NOTHING, None));
        }
        while let Some(frame) = self.down.pop_front() {
            if frame.epoch == self.epoch {
                let (epoch, frames) = self.consumed;
                self.consumed = (frame.epoch, if epoch == frame.epoch { frames + 1 } else { 1 });
                let heard = Heard { sound: sound(&frame), place: place(&frame) };
                self.played = Some(frame);
                return Some((heard, Some(frame.epoch)));
            }
        }
        Some((Heard::NOTHING, None))
    }

    /// Whether the frame that waits stays where it is, as in `daemon/src/lanes/leg.rs`: no detector, a tag says it.
    fn pauses(&mut self, voiced: bool) -> bool {
        let Some(floor) = &mut self.floor else { return false };
        while self.down.front().is_some_and(|frame| frame.epoch != self.epoch) {
            self.down.pop_front();
        }
        let next = self.down.front();
        let decision = floor.tick(&Tick {
            length: FRAME,
            likely: f32::from(u8::from(voiced)),
            caller_dbfs: if voiced { VOICE_DBFS } else { SILENCE_DBFS },
            next_dbfs: next.map(|frame| rms_dbfs(&frame.samples)),
            firm: next.is_some_and(|frame| frame.firm),
            epoch: self.epoch,
            resume: std::mem::take(&mut self.resume),
        });
        decision == Decision::Pause
    }

    /// What the lane has to say about the caller's speech.
    pub(super) fn poll_overlap(&mut self) -> Option<Overlap> {
        self.floor.as_mut()?.poll_event()
    }

    pub(super) const fn consumed(&self) -> (u32, u32) {
        self.consumed
    }

    pub(super) fn latency_ms(&self) -> u32 {
        self.jitter.report().depth_ms + u32::try_from(self.up.len() * 20).unwrap_or(u32::MAX)
    }
}
