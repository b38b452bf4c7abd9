//! Who has the floor: whether the AI goes on while the caller makes a sound, decided on the lane, tick by tick.
//!
//! [`Floor`] is told what was heard and what is about to be played, and says play or pause. A pause throws nothing
//! away, so it comes early and on suspicion; whether the AI is cut off is the session's to decide, which hears from
//! here and from the model. What the caller's loudspeaker gives back of our own speech does not count (the echo gate).
//! It holds no audio and no detector, reads no clock, and counts in time, never in frames.

use std::time::Duration;

use super::level::SILENCE_DBFS;
use crate::call::outcome::labels;

/// Quiet for this long ends a stretch of speech; gaps within a word are shorter. So long ago the last of it was heard
/// when [`Overlap::Ended`] says so.
pub const GAP: Duration = Duration::from_millis(200);
/// A pause that nobody has judged for so long ends by itself: a model 300 ms away has spoken by then, or is not there.
const VERDICT_WITHIN: Duration = Duration::from_millis(1_500);
/// How long what was played may come back as an echo: 40 to 250 ms of phone and room, and the network both ways.
const ECHO_WITHIN: Duration = Duration::from_millis(500);
/// Speech of a caller is louder than this.
const FAINTEST_DBFS: f32 = -50.0;
/// What is this much quieter than the loudest of its stretch is a detector's afterglow, not speech.
const AFTERGLOW_DB: f32 = 25.0;
/// Speech must be this much louder than the echo that was expected.
const MARGIN_DB: f32 = 6.0;
/// How loud the echo is taken to be before anything is known of this phone, against what was played. A caller about
/// as loud as the AI is heard from the first moment; a loudspeaker that is louder pauses the AI once and is known then.
const FIRST_COUPLING_DB: f32 = -20.0;
/// Bounds of what is learnt; nothing gives back more than it is given.
const COUPLING_DB: (f32, f32) = (-45.0, -3.0);
/// A phone that gives back no more than this is quiet: what is heard over it is no echo. So much is learnt by listening
/// alone, as it makes nobody deaf to a caller.
const QUIET_DB: f32 = -26.0;
/// A phone of which a sound went so often in a row when our own speech went gives it back; one such sound is a cough.
const CAUGHT: u8 = 2;
/// On a phone that is not quiet, what was played last may still come back for so long.
const TAIL: Duration = Duration::from_millis(300);
/// How fast a loudspeaker is forgotten that gives nothing back, per second of speech played.
const FORGET_DB: f32 = 8.0;
/// Ticks of reference that are kept: enough for the longest echo in ticks of 10 ms.
const REFERENCE: usize = 50;

labels! {
    /// `[openai.turn] barge_in`: how easily a caller interrupts, where the box judges it.
    BargeIn {
        /// Not at all.
        Off => "off",
        /// Only by speaking up for a while.
        Patient => "patient",
        /// As people do it.
        Normal => "normal",
        /// At the first sound.
        Eager => "eager",
    }
}

/// What the knob stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FloorSettings {
    /// Speech this long over the AI pauses it.
    pub pause_after: Duration,
    /// Speech this long is meant: shorter is a cough.
    pub words_after: Duration,
    /// How sure the detector must be, 0 to 1.
    pub likely: f32,
}

impl BargeIn {
    /// The values of this position; `None` when callers cannot interrupt.
    #[must_use]
    pub const fn settings(self) -> Option<FloorSettings> {
        let (pause_ms, words_ms, likely) = match self {
            Self::Off => return None,
            Self::Patient => (120, 500, 0.5),
            Self::Normal => (20, 250, 0.5),
            Self::Eager => (20, 160, 0.3),
        };
        let (pause_after, words_after) = (Duration::from_millis(pause_ms), Duration::from_millis(words_ms));
        Some(FloorSettings { pause_after, words_after, likely })
    }
}

/// What one tick brings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tick {
    /// Time since the last one: the length of a frame.
    pub length: Duration,
    /// How likely the caller speaks, 0 to 1.
    pub likely: f32,
    /// Level of the caller, dB below full scale.
    pub caller_dbfs: f32,
    /// Level of the frame that is next to be played; `None` when there is none.
    pub next_dbfs: Option<f32>,
    /// That frame may not be kept from the caller (consent, notices).
    pub firm: bool,
    /// The epoch that is played; a new one ends a pause.
    pub epoch: u32,
    /// The session says that it was nothing.
    pub resume: bool,
}

/// What to do with the frame that is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Send it.
    Play,
    /// Leave it where it is and send silence.
    Pause,
}

/// What the session has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    /// The caller makes a sound over the AI, which is paused.
    Began,
    /// The caller has spoken for longer than a cough takes, over the AI or not.
    Words,
    /// The caller is quiet again; only after one of the others.
    Ended {
        /// How much of it was speech.
        voiced: Duration,
    },
}

/// A stretch of the caller's speech, short gaps included.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    voiced: Duration,
    /// What of it can be no echo.
    meant: Duration,
    quiet: Duration,
    peak_dbfs: f32,
    /// Loudest against the reference.
    coupling_db: f32,
    began: bool,
    words: bool,
    /// The AI went on in spite of it and does so until it is over.
    judged: bool,
}

impl Stretch {
    const NEW: Self = Self {
        voiced: Duration::ZERO,
        meant: Duration::ZERO,
        quiet: Duration::ZERO,
        peak_dbfs: SILENCE_DBFS,
        coupling_db: SILENCE_DBFS,
        began: false,
        words: false,
        judged: false,
    };
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Floor {
    settings: FloorSettings,
    /// Levels of what was played, a ring.
    reference: [f32; REFERENCE],
    at: usize,
    /// How loud the echo is at most, against the loudest that was played lately.
    coupling_db: f32,
    /// How often in a row a sound went when our own speech went.
    caught: u8,
    stretch: Option<Stretch>,
    /// For how long it has been paused.
    paused: Option<Duration>,
    epoch: u32,
    pauses: u32,
    told: [Option<Overlap>; 3],
}

impl Floor {
    /// A quiet line.
    #[must_use]
    pub const fn new(settings: FloorSettings) -> Self {
        Self {
            settings,
            reference: [SILENCE_DBFS; REFERENCE],
            at: 0,
            coupling_db: FIRST_COUPLING_DB,
            caught: 0,
            stretch: None,
            paused: None,
            epoch: 0,
            pauses: 0,
            told: [None; 3],
        }
    }

    /// True while the AI is held.
    #[must_use]
    pub const fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// How often it was held so far.
    #[must_use]
    pub const fn pauses(&self) -> u32 {
        self.pauses
    }

    /// What has happened, oldest first. Take all of it after each tick: at most three things happen in one.
    pub fn poll_event(&mut self) -> Option<Overlap> {
        self.told.iter_mut().find_map(Option::take)
    }

    fn tell(&mut self, overlap: Overlap) {
        if let Some(place) = self.told.iter_mut().find(|place| place.is_none()) {
            *place = Some(overlap);
        }
    }

    /// Takes one tick and decides about the frame that is next.
    pub fn tick(&mut self, tick: &Tick) -> Decision {
        if tick.epoch != self.epoch || tick.resume {
            self.epoch = tick.epoch;
            self.go_on(tick.resume);
        }
        let reference = self.loudest_within(ECHO_WITHIN, tick.length);
        self.listen(tick, reference);
        if let Some(paused) = &mut self.paused {
            *paused += tick.length;
            if *paused >= VERDICT_WITHIN {
                self.go_on(true);
            }
        }
        self.hold(tick, reference);
        let plays = self.paused.is_none();
        let level = if plays { tick.next_dbfs.unwrap_or(SILENCE_DBFS) } else { SILENCE_DBFS };
        self.reference[self.at] = level;
        self.at = (self.at + 1) % REFERENCE;
        if plays { Decision::Play } else { Decision::Pause }
    }

    /// The loudest that was played lately, in ticks of this length.
    fn loudest_within(&self, lately: Duration, length: Duration) -> f32 {
        let ticks = lately.as_micros() / length.as_micros().max(1);
        let ticks = usize::try_from(ticks).unwrap_or(REFERENCE).clamp(1, REFERENCE);
        let back = (1..=ticks).map(|back| self.reference[(self.at + REFERENCE - back) % REFERENCE]);
        back.fold(SILENCE_DBFS, f32::max)
    }

    /// Follows the caller's speech, and learns what is echo.
    fn listen(&mut self, tick: &Tick, reference: f32) {
        let echoes = reference > FAINTEST_DBFS;
        let gate = if echoes { (reference + self.coupling_db + MARGIN_DB).max(FAINTEST_DBFS) } else { FAINTEST_DBFS };
        let over = tick.caller_dbfs - reference;
        let peak = self.stretch.map_or(SILENCE_DBFS, |stretch| stretch.peak_dbfs);
        let voiced =
            tick.likely >= self.settings.likely && tick.caller_dbfs >= gate && tick.caller_dbfs >= peak - AFTERGLOW_DB;
        if echoes && !voiced && self.stretch.is_none() {
            // A caller who begins to speak sounds like an echo until the detector is sure of her. So a loud one is
            // learnt by listening only on a phone that was caught at it.
            let most = if self.caught >= CAUGHT { COUPLING_DB.1 } else { self.coupling_db.max(QUIET_DB) };
            let forgotten = self.coupling_db - FORGET_DB * tick.length.as_secs_f32();
            self.coupling_db = over.clamp(forgotten, most).max(COUPLING_DB.0);
        }
        if voiced {
            let lately = self.loudest_within(TAIL, tick.length) > FAINTEST_DBFS;
            let may_be_tail = lately && self.coupling_db > QUIET_DB && over <= COUPLING_DB.1;
            let stretch = self.stretch.get_or_insert(Stretch::NEW);
            stretch.voiced += tick.length;
            if !may_be_tail {
                stretch.meant += tick.length;
            }
            stretch.quiet = Duration::ZERO;
            stretch.peak_dbfs = stretch.peak_dbfs.max(tick.caller_dbfs);
            if echoes {
                stretch.coupling_db = stretch.coupling_db.max(over);
            }
            if !stretch.words && stretch.meant >= self.settings.words_after {
                stretch.words = true;
                self.caught = 0;
                self.tell(Overlap::Words);
            }
            return;
        }
        let Some(stretch) = &mut self.stretch else { return };
        stretch.quiet += tick.length;
        if stretch.quiet >= GAP {
            let over = *stretch;
            self.stretch = None;
            // It went when our own speech went, so it may have been that; a cough teaches the same, and is forgotten.
            if over.began && !over.words && over.coupling_db <= COUPLING_DB.1 {
                self.coupling_db = over.coupling_db.max(self.coupling_db);
                self.caught = self.caught.saturating_add(1);
            }
            if over.began || over.words {
                self.tell(Overlap::Ended { voiced: over.voiced });
            }
        }
    }

    /// Pauses if the caller speaks over something that may be paused. Silence that the model sends is nothing to speak
    /// over: to hold it would only delay what comes after it.
    fn hold(&mut self, tick: &Tick, reference: f32) {
        let speaks = tick.next_dbfs.is_some_and(|next| next.max(reference) > FAINTEST_DBFS);
        let Some(stretch) = &mut self.stretch else { return };
        let long_enough = stretch.voiced >= self.settings.pause_after && stretch.quiet.is_zero();
        if self.paused.is_some() || !long_enough || stretch.judged || tick.firm || !speaks {
            return;
        }
        self.paused = Some(Duration::ZERO);
        self.pauses = self.pauses.saturating_add(1);
        if !stretch.began {
            stretch.began = true;
            self.tell(Overlap::Began);
        }
    }

    /// Ends a pause; `judged` lets the AI speak on over what is being said.
    fn go_on(&mut self, judged: bool) {
        if self.paused.take().is_some()
            && let Some(stretch) = &mut self.stretch
        {
            stretch.judged = judged;
        }
    }
}

#[cfg(test)]
mod tests;
