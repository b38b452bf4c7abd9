//! The person on the phone: listens, waits for a pause, speaks the next line, breaks in, hangs up.
//!
//! She knows frames and time, no network. What she said and heard is kept for the judge.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sauti_core::media::frame::{FRAME, FRAME_SAMPLES, SAMPLE_RATE};
use sauti_core::media::level::rms_dbfs;

use crate::audio::judge::{Stop, Utterance};

/// Louder than this is somebody speaking; codec noise in silence stays far below.
pub const AUDIBLE_DBFS: f32 = -45.0;
/// Quiet for this long means that the other side is done: longer than the pauses within a sentence.
const DONE_AFTER: Duration = Duration::from_millis(700);
/// Longest that she stays beyond her time, to hear the other side out and to leave it half of the time.
const OVERTIME: Duration = Duration::from_secs(40);
/// How long a machine may stand still within a line, in samples: 300 ms.
const EXCUSED: usize = 7_200;
/// Patience with a side that says nothing at all.
const PATIENCE: Duration = Duration::from_secs(12);

/// One thing that she does.
#[derive(Debug, Clone)]
pub enum Step {
    /// Waits until the other side has spoken and is done, or patience ends.
    Listen,
    /// Waits; the other side's speech changes nothing.
    Pause(Duration),
    /// Waits until the other side has had half of the time, counted ahead to when it will speak again.
    ///
    /// So the other side speaks half of the time, whatever its lines are.
    Balance {
        /// How long her next line and the other side's reaction will take together.
        ahead: Duration,
    },
    /// Says a line.
    Say(Arc<[i16]>),
    /// Breaks in: says a line once the other side has been audible for this long.
    BreakIn {
        /// How long she lets it speak.
        after: Duration,
        /// What she says.
        line: Arc<[i16]>,
    },
    /// Hangs up.
    HangUp,
}

/// Something that she said.
#[derive(Debug, Clone)]
pub struct Said {
    /// The line.
    pub samples: Arc<[i16]>,
    /// Where it stands in her own timeline, in samples since she picked up.
    pub from: usize,
    /// When its first frame was handed to the network.
    pub at: Instant,
    /// She was breaking in.
    pub broke_in: bool,
    /// Where she stood still, because whatever runs her did.
    pub stops: Vec<Stop>,
}

impl Said {
    /// For the judge, who holds against nobody what she did to her own line.
    #[must_use]
    pub fn utterance(&self) -> Utterance {
        let stood: usize = self.stops.iter().map(|stop| stop.length).sum();
        // Nobody can be judged by more than that, and it shows as what it is.
        let stops = if stood > EXCUSED { Vec::new() } else { self.stops.clone() };
        Utterance { stops, ..Utterance::new(Arc::clone(&self.samples)) }
    }

    /// Notes when the frame that begins at `done` is handed over. It is due a frame's time after the one before it.
    fn handed(&mut self, now: Instant, done: usize) {
        let due = self.at + FRAME * u32::try_from(done / FRAME_SAMPLES).unwrap_or(u32::MAX);
        let late = now.saturating_duration_since(due);
        let known: usize = self.stops.iter().map(|stop| stop.length).sum();
        let late = usize::try_from(late.as_micros() * u128::from(SAMPLE_RATE) / 1_000_000).unwrap_or(usize::MAX);
        if late > known + FRAME_SAMPLES {
            self.stops.push(Stop { at: done, length: late - known });
        }
    }

    /// When the first frame of it that is voiced, and not only breath or silence, was handed to the network.
    #[must_use]
    pub fn voiced_at(&self) -> Instant {
        let frames = self.samples.chunks(FRAME_SAMPLES);
        let before = frames.take_while(|frame| rms_dbfs(frame) < AUDIBLE_DBFS).count();
        self.at + FRAME * u32::try_from(before).unwrap_or(0)
    }
}

/// A stretch of speech that she heard.
#[derive(Debug, Clone, Copy)]
pub struct Heard {
    /// Its first audible frame.
    pub from: Instant,
    /// Its last audible frame.
    pub to: Instant,
}

#[derive(Debug, Clone)]
enum Doing {
    /// Works on the step at this place of the script since this moment.
    Step { since: Instant },
    /// Speaks; so much of the line is out.
    Speaking { line: Arc<[i16]>, done: usize },
    /// Nothing any more.
    Over,
}

/// One caller.
#[derive(Debug, Clone)]
pub struct Person {
    script: Vec<Step>,
    at_step: usize,
    doing: Doing,
    began: Option<Instant>,
    until: Option<Instant>,
    /// Everything that she sent, silence included, from the first frame on.
    pub timeline: Vec<i16>,
    /// Everything that she heard, silence included, from the first frame on.
    pub heard: Vec<i16>,
    /// Her lines.
    pub said: Vec<Said>,
    /// What the other side said.
    pub speech: Vec<Heard>,
    heard_in_step: bool,
    over_at: Option<Instant>,
}

impl Person {
    /// Follows `script` and hangs up at its end.
    #[must_use]
    pub fn new(script: Vec<Step>) -> Self {
        Self {
            script,
            at_step: 0,
            doing: Doing::Over,
            began: None,
            until: None,
            timeline: Vec::new(),
            heard: Vec::new(),
            said: Vec::new(),
            speech: Vec::new(),
            heard_in_step: false,
            over_at: None,
        }
    }

    /// The call is up: her time begins. After `length` she hears the other side out, says nothing more and hangs up.
    pub fn pick_up(&mut self, now: Instant, length: Duration) {
        if self.began.is_none() {
            self.began = Some(now);
            self.until = Some(now + length);
            self.doing = Doing::Step { since: now };
        }
    }

    /// True once she has hung up.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.began.is_some() && matches!(self.doing, Doing::Over)
    }

    /// When she hung up.
    #[must_use]
    pub const fn hung_up_at(&self) -> Option<Instant> {
        self.over_at
    }

    /// When she picked up.
    #[must_use]
    pub const fn began(&self) -> Option<Instant> {
        self.began
    }

    /// The first audible frame of the other side.
    #[must_use]
    pub fn first_heard(&self) -> Option<Instant> {
        self.speech.first().map(|heard| heard.from)
    }

    /// Takes one frame of the other side; `None` when the leg had nothing yet.
    pub fn hear(&mut self, now: Instant, frame: Option<&[i16; FRAME_SAMPLES]>) {
        if self.began.is_none() {
            return;
        }
        let silence = [0; FRAME_SAMPLES];
        let frame = frame.unwrap_or(&silence);
        self.heard.extend_from_slice(frame);
        if rms_dbfs(frame) < AUDIBLE_DBFS {
            return;
        }
        self.heard_in_step = true;
        match self.speech.last_mut() {
            Some(last) if now.saturating_duration_since(last.to) < DONE_AFTER => last.to = now,
            _ => self.speech.push(Heard { from: now, to: now }),
        }
    }

    /// Her next frame; `None` is silence.
    pub fn speak(&mut self, now: Instant) -> Option<[i16; FRAME_SAMPLES]> {
        self.began?;
        let overtime = if self.balances() { OVERTIME } else { PATIENCE };
        if self.until.is_some_and(|until| now >= until + overtime) {
            self.doing = Doing::Over;
        }
        let frame = self.next_frame(now);
        if self.is_over() {
            self.over_at.get_or_insert(now);
        }
        self.timeline.extend_from_slice(frame.as_ref().unwrap_or(&[0; FRAME_SAMPLES]));
        frame
    }

    fn next_frame(&mut self, now: Instant) -> Option<[i16; FRAME_SAMPLES]> {
        if let Doing::Step { since } = self.doing {
            self.step(now, since);
        }
        let Doing::Speaking { line, done } = &mut self.doing else { return None };
        let mut frame = [0; FRAME_SAMPLES];
        if let Some(said) = self.said.last_mut() {
            said.handed(now, *done);
        }
        let part = line.get(*done..line.len().min(*done + FRAME_SAMPLES)).unwrap_or_default();
        frame[..part.len()].copy_from_slice(part);
        *done += FRAME_SAMPLES;
        if *done >= line.len() {
            self.next_step(now + FRAME);
        }
        Some(frame)
    }

    fn next_step(&mut self, now: Instant) {
        self.at_step += 1;
        self.heard_in_step = false;
        self.doing = Doing::Step { since: now };
    }

    fn step(&mut self, now: Instant, since: Instant) {
        let Some(step) = self.script.get(self.at_step).cloned() else {
            self.doing = Doing::Over;
            return;
        };
        let waited = now.saturating_duration_since(since);
        let her_turn = matches!(step, Step::Say(_) | Step::BreakIn { .. } | Step::Balance { .. });
        if her_turn && self.until.is_some_and(|until| now >= until) {
            // Her time is over: she hears the other side out and says nothing more.
            let settled = !self.balances() || self.so_far(now) >= self.time_heard() * 2;
            if (self.quiet_for(now) >= DONE_AFTER || self.speech.is_empty()) && settled {
                self.doing = Doing::Over;
            }
            return;
        }
        match step {
            Step::Listen => {
                let done = self.heard_in_step && self.quiet_for(now) >= DONE_AFTER;
                if done || (!self.heard_in_step && waited >= PATIENCE) {
                    self.next_step(now);
                }
            }
            Step::Pause(length) => {
                if waited >= length {
                    self.next_step(now);
                }
            }
            Step::Balance { ahead } => {
                if (self.so_far(now) + ahead) >= self.time_heard() * 2 {
                    self.next_step(now);
                }
            }
            Step::Say(line) => self.begin(now, line, false),
            Step::BreakIn { after, line } => {
                let speaking = self.speech.last().is_some_and(|heard| {
                    self.heard_in_step
                        && now.saturating_duration_since(heard.to) <= FRAME * 2
                        && heard.to.saturating_duration_since(heard.from.max(since)) >= after
                });
                if speaking {
                    self.begin(now, line, true);
                } else if waited >= PATIENCE {
                    self.next_step(now);
                }
            }
            Step::HangUp => self.doing = Doing::Over,
        }
    }

    fn begin(&mut self, now: Instant, line: Arc<[i16]>, broke_in: bool) {
        let from = self.timeline.len();
        self.said.push(Said { samples: Arc::clone(&line), from, at: now, broke_in, stops: Vec::new() });
        self.doing = Doing::Speaking { line, done: 0 };
    }

    /// Whether the other side is to have half of the time; then she hangs up only when it has had no more.
    fn balances(&self) -> bool {
        self.script.iter().any(|step| matches!(step, Step::Balance { .. }))
    }

    fn so_far(&self, now: Instant) -> Duration {
        self.began.map_or(Duration::ZERO, |began| now.saturating_duration_since(began))
    }

    fn quiet_for(&self, now: Instant) -> Duration {
        self.speech.last().map_or(Duration::ZERO, |heard| now.saturating_duration_since(heard.to))
    }

    /// How long the other side was still audible after she broke in with `said`, counted from her first voiced frame:
    /// the last audible frame before she had said her line. `None` when it was not speaking.
    #[must_use]
    pub fn silence_after(&self, said: &Said) -> Option<Duration> {
        let frames = u32::try_from(said.samples.len().div_ceil(FRAME_SAMPLES)).unwrap_or(u32::MAX);
        let end = said.at + FRAME * frames;
        let over = self.speech.iter().filter(|heard| heard.from <= end && heard.to >= said.at);
        let last = over.map(|heard| heard.to.min(end)).max()?;
        Some(last.saturating_duration_since(said.voiced_at()))
    }

    /// How long the other side has spoken, the pauses within its speech included.
    fn time_heard(&self) -> Duration {
        self.speech.iter().map(|heard| heard.to.saturating_duration_since(heard.from) + FRAME).sum()
    }

    /// Share of the time since she picked up in which the other side spoke.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a share of some minutes of frames")]
    pub fn share_heard(&self) -> f64 {
        // Her own frames are the clock: what a stalled network never delivered was time all the same.
        let length = FRAME.as_secs_f64() * (self.timeline.len() / FRAME_SAMPLES) as f64;
        if length > 0.0 { self.time_heard().as_secs_f64() / length } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use sauti_core::media::level::Tone;

    use super::*;

    struct Talk {
        person: Person,
        now: Instant,
        tone: Tone,
    }

    impl Talk {
        #[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
        fn new(script: Vec<Step>) -> Self {
            let now = Instant::now();
            let mut person = Person::new(script);
            person.pick_up(now, Duration::from_secs(60));
            Self { person, now, tone: Tone::new(440.0, 8_000.0) }
        }

        /// Lets the other side speak, or not, for so many frames; returns how many frames she spoke in.
        fn frames(&mut self, count: usize, other_speaks: bool) -> usize {
            let mut spoken = 0;
            for _ in 0..count {
                let frame = other_speaks.then(|| self.tone.frame());
                self.person.hear(self.now, frame.as_ref());
                spoken += usize::from(self.person.speak(self.now).is_some());
                self.now += FRAME;
            }
            spoken
        }
    }

    fn line(frames: usize) -> Arc<[i16]> {
        vec![1000; frames * FRAME_SAMPLES].into()
    }

    #[test]
    fn she_waits_for_the_end_of_what_is_said_and_then_speaks() {
        let mut talk = Talk::new(vec![Step::Listen, Step::Say(line(10)), Step::HangUp]);
        assert_eq!(talk.frames(50, true), 0);
        assert_eq!(talk.frames(34, false), 0, "a pause within a sentence is no end");
        assert_eq!(talk.frames(20, false), 10);
        assert!(talk.person.is_over());
        assert_eq!(talk.person.timeline.len(), talk.person.heard.len());
    }

    #[test]
    fn she_breaks_in_while_the_other_side_speaks() {
        let mut talk =
            Talk::new(vec![Step::BreakIn { after: Duration::from_millis(500), line: line(5) }, Step::Listen]);
        assert_eq!(talk.frames(20, true), 0);
        assert_eq!(talk.frames(20, true), 5);
        let person = &talk.person;
        assert!(person.said[0].broke_in);
        // The other side goes on to the end of her line, of which every frame is voiced.
        assert_eq!(person.silence_after(&person.said[0]), Some(FRAME * 5));
        let said = Said {
            samples: [vec![10; 3 * FRAME_SAMPLES], vec![900; 480]].concat().into(),
            ..talk.person.said[0].clone()
        };
        assert_eq!(said.voiced_at() - said.at, FRAME * 3);
    }

    #[test]
    fn she_knows_where_she_stood_still_herself() {
        let mut talk = Talk::new(vec![Step::Say(line(50))]);
        talk.frames(10, false);
        assert_eq!(talk.person.said[0].stops, []);
        // A tenth of a second, after which what was missed is made up at once.
        talk.now += Duration::from_millis(100);
        let late = talk.now;
        for _ in 0..5 {
            talk.person.speak(late);
        }
        talk.frames(10, false);
        assert_eq!(talk.person.said[0].stops, [Stop { at: 10 * FRAME_SAMPLES, length: 2_400 }]);
    }

    #[test]
    fn nobody_answering_ends_her_patience() {
        let mut talk = Talk::new(vec![Step::Listen, Step::HangUp]);
        talk.frames(599, false);
        assert!(!talk.person.is_over());
        talk.frames(3, false);
        assert!(talk.person.is_over());
    }

    #[test]
    fn balance_waits_until_the_other_side_has_had_half_of_the_time() {
        let mut talk = Talk::new(vec![Step::Listen, Step::Balance { ahead: Duration::from_millis(500) }, Step::HangUp]);
        talk.frames(100, true);
        talk.frames(74, false);
        assert!(!talk.person.is_over());
        talk.frames(3, false);
        assert!(talk.person.is_over(), "2 s spoken: she goes on when 3.5 s have passed and 0.5 s are to come");
    }
}
