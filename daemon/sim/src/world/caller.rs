//! The caller on a call of tags: speaks by a script, and keeps what she heard.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sauti_core::call::clip::ClipName;
use sauti_core::media::frame::FRAME;

use super::lane::Tag;
use crate::network::Clock;

/// Quiet for this long means that the other side is done: longer than the pauses within a sentence.
const DONE_AFTER: Duration = Duration::from_millis(700);
/// Quiet for this long is silence worth a note.
const SILENCE_AFTER: Duration = Duration::from_millis(500);
/// A hole no longer than this does not end what is heard: a lost packet or two.
const SAME_RUN: Duration = Duration::from_millis(100);
/// Patience with a side that says nothing at all.
const PATIENCE: Duration = Duration::from_secs(30);
/// Shorter sounds are a cough, and no answer is owed for one.
const UTTERANCE: Duration = Duration::from_millis(600);

/// One thing that the caller does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Waits until the other side has spoken and is done, or patience ends after 30 s.
    Listen,
    /// Waits, whatever is heard.
    Pause(Duration),
    /// Speaks for so long.
    Say(Duration),
    /// Speaks once the other side has been audible for `after`.
    BreakIn {
        /// How long the other side may speak.
        after: Duration,
        /// How long she speaks.
        say: Duration,
    },
    /// Hangs up.
    HangUp,
}

/// What a packet towards the caller holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) sound: Option<Sound>,
    /// Item and frame, where they are numbered.
    pub(super) place: Option<(u16, u16)>,
}

impl Heard {
    pub(super) const NOTHING: Self = Self { sound: None, place: None };
}

/// Something audible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sound {
    /// The model.
    Speech,
    /// A recording of the box.
    Clip(ClipName),
}

impl Sound {
    /// The word that scenario files use.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Speech => "speech",
            Self::Clip(name) => name.label(),
        }
    }
}

/// A stretch of one sound at the caller's ear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hears {
    /// `speech`, or a clip's name.
    pub sound: &'static str,
    /// First frame, since the webhook.
    pub from: Duration,
    /// End of the last frame.
    pub to: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Step { since: Instant, heard: bool },
    Speaking { until: Instant, since: Instant },
    Over,
}

/// The caller.
#[derive(Debug)]
pub(super) struct Caller {
    script: Vec<Step>,
    at: usize,
    doing: Option<Doing>,
    clock: Clock,
    began: Instant,
    frames: u64,
    sequence: u16,
    timestamp: u32,
    /// ICE and DTLS are up: packets flow.
    pub(super) connected: bool,
    /// When she last heard something.
    pub(super) last_sound: Option<Instant>,
    sound_since: Option<Instant>,
    quiet_noted: bool,
    /// When the latest utterance of hers began and ended that wants an answer.
    pub(super) asked: Option<(Instant, Instant)>,
    pub(super) speaks: bool,
    /// When she last spoke, heard or not.
    pub(super) spoke: Option<Instant>,
    pub(super) heard: Vec<Hears>,
    /// Frames that she heard of each numbered item.
    pub(super) frames_of: BTreeMap<u16, u32>,
    /// Numbered frames that she heard before or after their turn.
    pub(super) out_of_turn: u32,
}

impl Caller {
    pub(super) fn new(script: Vec<Step>, clock: Clock, began: Instant) -> Self {
        Self {
            script,
            at: 0,
            doing: None,
            clock,
            began,
            frames: 0,
            sequence: 40_000,
            timestamp: 4_000_000_000,
            connected: false,
            last_sound: None,
            sound_since: None,
            quiet_noted: true,
            asked: None,
            speaks: false,
            spoke: None,
            heard: Vec::new(),
            frames_of: BTreeMap::new(),
            out_of_turn: 0,
        }
    }

    /// The call is up.
    pub(super) fn accepted(&mut self, now: Instant) {
        self.doing.get_or_insert(Doing::Step { since: now, heard: false });
    }

    pub(super) fn is_over(&self) -> bool {
        self.doing == Some(Doing::Over)
    }

    /// When her next frame is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (!self.is_over()).then(|| self.clock.when_it_shows(frame_time(self.frames)))
    }

    /// Her next frame; `None` while nothing flows.
    pub(super) fn frame(&mut self, now: Instant) -> Option<Tag> {
        self.frames += 1;
        self.act(now);
        if self.speaks {
            self.spoke = Some(now);
        }
        if !self.connected || self.is_over() {
            return None;
        }
        self.sequence = self.sequence.wrapping_add(1);
        self.timestamp = self.timestamp.wrapping_add(960);
        Some(Tag { sequence: self.sequence, timestamp: self.timestamp, voiced: self.speaks })
    }

    fn act(&mut self, now: Instant) {
        self.speaks = false;
        if let Some(Doing::Speaking { until, since }) = self.doing {
            if now < until {
                self.speaks = true;
                return;
            }
            if now.saturating_duration_since(since) >= UTTERANCE {
                self.asked = Some((since, now));
            }
            self.next(now);
        }
        let Some(Doing::Step { since, heard }) = self.doing else { return };
        let waited = now.saturating_duration_since(since);
        let quiet = self.last_sound.is_none_or(|last| now.saturating_duration_since(last) >= DONE_AFTER);
        match self.script.get(self.at).copied() {
            Some(Step::Listen) if (heard && quiet) || (!heard && waited >= PATIENCE) => self.next(now),
            Some(Step::Pause(length)) if waited >= length => self.next(now),
            Some(Step::Say(length)) => self.doing = Some(Doing::Speaking { until: now + length, since: now }),
            Some(Step::BreakIn { after, say }) => {
                let lasts = self.sound_since.filter(|_| !quiet).map(|from| now.saturating_duration_since(from));
                if lasts.is_some_and(|lasts| lasts >= after) {
                    self.doing = Some(Doing::Speaking { until: now + say, since: now });
                } else if waited >= PATIENCE {
                    self.next(now);
                }
            }
            Some(Step::HangUp) => self.doing = Some(Doing::Over),
            // Not yet; and whoever has nothing left to do stays on the line.
            Some(Step::Listen | Step::Pause(_)) | None => {}
        }
        self.speaks = matches!(self.doing, Some(Doing::Speaking { .. }));
    }

    fn next(&mut self, now: Instant) {
        self.at += 1;
        self.doing = Some(Doing::Step { since: now, heard: false });
    }

    /// Takes a frame; returns the word for what she begins to hear.
    pub(super) fn hear(&mut self, now: Instant, began: Instant, heard: Heard) -> Option<&'static str> {
        if let Some((item, frame)) = heard.place {
            let count = self.frames_of.entry(item).or_default();
            self.out_of_turn += u32::from(*count != u32::from(frame));
            *count += 1;
        }
        let gap = self.last_sound.map(|last| now.saturating_duration_since(last));
        let Some(sound) = heard.sound else {
            if gap.is_some_and(|gap| gap >= SILENCE_AFTER) && !self.quiet_noted {
                self.quiet_noted = true;
                return Some("silence");
            }
            return None;
        };
        // A recording is no answer: she goes on listening for one.
        if let Some(Doing::Step { heard, .. }) = &mut self.doing
            && sound == Sound::Speech
        {
            *heard = true;
        }
        let (from, label) = (now - began, sound.label());
        self.quiet_noted = false;
        self.last_sound = Some(now);
        if gap.is_none_or(|gap| gap >= DONE_AFTER) {
            self.sound_since = Some(now);
        }
        match self.heard.last_mut() {
            Some(run) if run.sound == label && from.saturating_sub(run.to) <= SAME_RUN => {
                run.to = from + FRAME;
                None
            }
            _ => {
                self.heard.push(Hears { sound: label, from, to: from + FRAME });
                Some(label)
            }
        }
    }

    /// Her clock's beginning.
    pub(super) const fn began(&self) -> Instant {
        self.began
    }
}

fn frame_time(frames: u64) -> Duration {
    Duration::from_millis(20 * (frames + 1))
}
