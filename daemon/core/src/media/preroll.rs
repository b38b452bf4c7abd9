//! How much speech is gathered before it is played, and how often playing ran dry.
//!
//! Nothing at first: a model that is faster than speech needs no cushion, and every frame of it is delay. After an
//! underrun the next piece of speech waits until 60 ms are there, after more of them until up to 160 ms are; half a
//! minute without one takes a frame off again. So a model that sends in bursts, or slower than real time, makes few long
//! gaps instead of many short ones. A single frame that comes late is no underrun yet: what follows it is in time again,
//! and a stream in real time that never ends would keep the cushion as delay. A second one soon after is.
//! It moves no frames: the call task asks before it takes one out of [`Playout`].

use super::playout::Playout;

/// Frames gathered after the first underrun (60 ms), how many more after each further one, and at most (160 ms).
const FIRST: u32 = 3;
const STEP: u32 = 2;
const MOST: u32 = 8;
/// Frames played without an underrun that take one off the cushion: 30 s.
const CALM: u32 = 1_500;
/// Frames missing in a row that are an underrun.
const ROW: u32 = 2;
/// Ticks within which a second single one is: 5 s.
const SOON: u32 = 250;

/// What there is to play.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Supply {
    /// The playback epoch; with a new one a new piece of speech begins.
    pub epoch: u32,
    /// Frames that the lane has been given and has not played.
    pub ahead: u32,
    /// Frames of the epoch that the lane has played: whether it found one at a tick shows here alone, as a frame that
    /// comes in real time is there for less than a tick.
    pub played: u32,
    /// Milliseconds held and not handed out.
    pub held_ms: u64,
    /// More audio of what is being said is still to come.
    pub more: bool,
}

impl Supply {
    /// What `playout` has at this moment.
    #[must_use]
    pub fn of(playout: &Playout) -> Self {
        Self {
            epoch: playout.epoch(),
            ahead: playout.ahead(),
            played: playout.played(),
            held_ms: playout.depth_ms(),
            more: playout.expects_more(),
        }
    }
}

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct Preroll {
    /// Frames to gather.
    cushion: u32,
    epoch: u32,
    playing: bool,
    /// Speech of this piece has been played: what is missing now is missing in mid-sentence.
    begun: bool,
    /// Frames played at the tick before.
    played: u32,
    /// Frames missing in a row.
    dry: u32,
    /// Ticks for which another missing frame would be an underrun.
    wary: u32,
    waited: u32,
    calm: u32,
    missing: u64,
    underruns: u64,
}

impl Preroll {
    /// Looks at the supply once per tick of the lane, after what it played was counted. Returns the frames (0 or 1) that
    /// were due in mid-sentence and not there.
    pub fn tick(&mut self, supply: Supply) -> u64 {
        if supply.epoch != self.epoch {
            *self = Self {
                cushion: self.cushion,
                calm: self.calm,
                missing: self.missing,
                underruns: self.underruns,
                ..Self::default()
            };
            self.epoch = supply.epoch;
        }
        let empty = supply.ahead == 0 && supply.held_ms == 0;
        let found = std::mem::replace(&mut self.played, supply.played) != supply.played;
        self.wary = self.wary.saturating_sub(1);
        if empty && !supply.more {
            // Said to its end.
            (self.playing, self.begun, self.dry, self.waited) = (false, false, 0, 0);
            return 0;
        }
        self.dry = if found || supply.ahead > 0 { 0 } else { self.dry.saturating_add(1) };
        if !self.playing && supply.held_ms > 0 {
            self.waited += 1;
        }
        if self.playing && self.dry == 0 {
            self.calm += 1;
            if self.calm == CALM {
                self.calm = 0;
                self.cushion = self.cushion.saturating_sub(1);
            }
        }
        if !self.begun || self.dry == 0 {
            return 0;
        }
        let underrun = self.dry == ROW || self.wary > 0;
        self.wary = SOON;
        if self.playing && empty && underrun {
            self.playing = false;
            self.waited = 0;
            self.calm = 0;
            self.underruns += 1;
            self.cushion = (self.cushion + STEP).clamp(FIRST, MOST);
        }
        self.missing += 1;
        1
    }

    /// True if frames may be handed to the lane now.
    #[must_use]
    pub fn may_play(&mut self, supply: Supply) -> bool {
        if supply.epoch != self.epoch {
            self.tick(supply);
        }
        let gathered = supply.held_ms / 20 >= u64::from(self.cushion);
        if !self.playing && supply.held_ms > 0 && (gathered || !supply.more || self.waited >= self.cushion) {
            (self.playing, self.begun, self.waited, self.dry) = (true, true, 0, 0);
        }
        self.playing
    }

    /// Milliseconds that are gathered before a piece of speech begins.
    #[must_use]
    pub const fn cushion_ms(&self) -> u32 {
        self.cushion * 20
    }

    /// How often playing ran dry in mid-sentence.
    #[must_use]
    pub const fn underruns(&self) -> u64 {
        self.underruns
    }

    /// Frames that were due in mid-sentence and not there.
    #[must_use]
    pub const fn missing(&self) -> u64 {
        self.missing
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "short stories, counted by hand")]
mod tests {
    use super::super::frame::Frame;
    use super::super::playout::{Consumed, Part, Playout};
    use super::*;

    /// What a caller heard of one item: `true` for a frame of speech, from the first to the last.
    struct Story {
        heard: Vec<bool>,
        first: usize,
        preroll: Preroll,
    }

    impl Story {
        fn gaps(&self) -> usize {
            self.heard.windows(2).filter(|pair| pair[0] && !pair[1]).count()
        }
    }

    /// Plays `frames` of speech, of which `sent_by(tick)` have come by that tick.
    fn story(frames: u32, mut preroll: Option<Preroll>, sent_by: impl Fn(u32) -> u32) -> Story {
        let mut playout = Playout::new(4_096);
        let part = Part { response: 1, item_id: "item", output_index: 0, content_index: 0 };
        let (mut frame, mut consumed, mut sent, mut heard) = (Frame::SILENCE, 0, 0, Vec::new());
        for tick in 0..20_000 {
            // The lane.
            let plays = playout.ahead() > 0;
            consumed += u32::from(plays);
            heard.push(plays);
            // The task.
            playout.consumed(Consumed { epoch: playout.epoch(), frames: consumed });
            if let Some(preroll) = &mut preroll {
                preroll.tick(Supply::of(&playout));
            }
            let until = sent_by(tick).min(frames);
            let _stored = playout.receive(part, &vec![1; ((until - sent) * 960) as usize]);
            if until == frames && sent < frames {
                playout.end_item("item", 0);
            }
            sent = until;
            while preroll.as_mut().is_none_or(|preroll| preroll.may_play(Supply::of(&playout)))
                && playout.ahead() < 10
                && playout.next_frame(&mut frame)
            {}
            if sent == frames && playout.is_drained() {
                break;
            }
        }
        let first = heard.iter().position(|spoken| *spoken).unwrap();
        let last = heard.iter().rposition(|spoken| *spoken).unwrap();
        assert_eq!(heard.iter().filter(|spoken| **spoken).count() as u32, frames, "nothing is lost");
        Story { heard: heard[first..=last].to_vec(), first, preroll: preroll.unwrap_or_default() }
    }

    #[test]
    fn a_model_faster_than_speech_is_played_at_once_and_without_a_cushion() {
        let got = story(500, Some(Preroll::default()), |tick| tick * 3 + 1);
        assert_eq!((got.first, got.gaps(), got.preroll.missing(), got.preroll.cushion_ms()), (1, 0, 0, 0));
    }

    /// As an echo comes: each frame right after the lane has ticked, so that it is gone when the next tick is counted.
    #[test]
    fn a_stream_in_real_time_is_no_underrun_and_gathers_nothing() {
        let got = story(500, Some(Preroll::default()), |tick| tick + 1);
        assert_eq!((got.first, got.gaps(), got.preroll.missing(), got.preroll.cushion_ms()), (1, 0, 0, 0));
    }

    #[test]
    fn a_single_late_frame_in_real_time_leaves_no_cushion_behind() {
        let got = story(500, Some(Preroll::default()), |tick| if tick == 100 { tick } else { tick + 1 });
        assert_eq!((got.gaps(), got.preroll.missing(), got.preroll.cushion_ms()), (1, 1, 0));
        assert_eq!(got.heard.len(), 501, "the one frame is all that it costs");
        let twice = story(500, Some(Preroll::default()), |tick| match tick {
            0..100 => tick + 1,
            100..150 => tick,
            150 => tick - 1,
            _ => tick,
        });
        assert_eq!(twice.preroll.cushion_ms(), 60, "the second one soon after is an underrun");
    }

    /// Peers item 3.
    #[test]
    fn a_model_slower_than_speech_makes_few_gaps_instead_of_many() {
        let slow = |tick: u32| tick * 9 / 10;
        let plain = story(1_000, None, slow);
        let got = story(1_000, Some(Preroll::default()), slow);
        assert!(plain.gaps() >= 90, "{}", plain.gaps());
        assert!(got.gaps() <= 18, "{}", got.gaps());
        assert_eq!(got.preroll.cushion_ms(), 160);
        assert_eq!(got.preroll.underruns(), got.gaps() as u64 - 1, "the first frame missing alone is none yet");
        let silent = got.heard.iter().filter(|spoken| !**spoken).count();
        assert!(got.preroll.missing() as usize >= silent - got.gaps(), "{} of {silent}", got.preroll.missing());
        // It costs no time beyond what the model takes: 10 % of the whole, and the cushion once.
        assert!(got.heard.len() <= plain.heard.len() + 8, "{} and {}", got.heard.len(), plain.heard.len());
    }

    /// Peers item 3.
    #[test]
    fn bursts_every_400_ms_run_dry_at_first_and_then_no_more() {
        // 400 ms at a time; every third burst comes 120 ms late.
        let bursts =
            |tick: u32| (0..100).filter(|n| tick >= n * 20 + if n % 3 == 2 { 6 } else { 0 }).count() as u32 * 20;
        let plain = story(1_000, None, bursts);
        let got = story(1_000, Some(Preroll::default()), bursts);
        assert!(plain.gaps() >= 1);
        assert!(got.gaps() <= 3, "{}", got.gaps());
        let settled = got.heard.iter().skip(250);
        assert!(settled.clone().all(|spoken| *spoken), "after five seconds nothing is missing");
    }

    #[test]
    fn the_cushion_shrinks_when_all_is_well_and_a_new_epoch_keeps_it() {
        let mut preroll = Preroll { cushion: 3, ..Preroll::default() };
        let supply = |epoch, ahead, held_ms| Supply { epoch, ahead, played: 0, held_ms, more: true };
        assert!(!preroll.may_play(supply(1, 0, 40)));
        assert!(preroll.may_play(supply(1, 0, 60)));
        for _ in 0..CALM {
            assert_eq!(preroll.tick(supply(1, 5, 100)), 0);
        }
        assert_eq!(preroll.cushion_ms(), 40);
        assert!(!preroll.may_play(supply(2, 0, 20)), "a new epoch gathers anew");
        assert!(preroll.may_play(Supply { more: false, ..supply(2, 0, 20) }), "what is all there waits for nothing");
    }

    #[test]
    fn waiting_for_the_cushion_ends_when_its_time_has_passed() {
        let mut preroll = Preroll { cushion: 3, ..Preroll::default() };
        let little = Supply { epoch: 0, ahead: 0, played: 0, held_ms: 20, more: true };
        for _ in 0..3 {
            assert!(!preroll.may_play(little));
            assert_eq!(preroll.tick(little), 0, "nothing was said yet, so nothing is missing");
        }
        assert!(preroll.may_play(little));
    }
}
