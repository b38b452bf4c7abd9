use super::*;

const STEP: Duration = Duration::from_millis(20);

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A line in steps of one length: what the caller's side gives, and an AI that always has something to say.
struct Talk {
    floor: Floor,
    step: Duration,
    now: Duration,
    epoch: u32,
    firm: bool,
    resume: bool,
    speaks: bool,
    /// The AI sends silence.
    silent: bool,
    /// Levels that were really played, for echoes.
    played: Vec<f32>,
    paused: Duration,
    told: Vec<(Duration, Overlap)>,
    noise: u32,
}

impl Talk {
    fn new(knob: BargeIn) -> Self {
        Self {
            floor: Floor::new(knob.settings().unwrap()),
            step: STEP,
            now: Duration::ZERO,
            epoch: 1,
            firm: false,
            resume: false,
            speaks: true,
            silent: false,
            played: Vec::new(),
            paused: Duration::ZERO,
            told: Vec::new(),
            noise: 7,
        }
    }

    /// Speech of the AI: syllables between -18 and -40 dBFS, at random.
    fn syllable(&mut self) -> f32 {
        self.noise = self.noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        -18.0 - (self.noise >> 24) as f32 / 256.0 * 22.0
    }

    fn tick(&mut self, likely: f32, caller_dbfs: f32) -> Decision {
        let next_dbfs = self.speaks.then(|| if self.silent { SILENCE_DBFS } else { self.syllable() });
        let resume = std::mem::take(&mut self.resume);
        let tick =
            Tick { length: self.step, likely, caller_dbfs, next_dbfs, firm: self.firm, epoch: self.epoch, resume };
        let decision = self.floor.tick(&tick);
        self.now += self.step;
        let plays = decision == Decision::Play;
        self.played.push(if plays { next_dbfs.unwrap_or(SILENCE_DBFS) } else { SILENCE_DBFS });
        self.paused += if plays { Duration::ZERO } else { self.step };
        while let Some(told) = self.floor.poll_event() {
            self.told.push((self.now, told));
        }
        decision
    }

    fn run(&mut self, length: Duration, likely: f32, caller_dbfs: f32) -> &mut Self {
        let end = self.now + length;
        while self.now < end {
            self.tick(likely, caller_dbfs);
        }
        self
    }

    fn quiet(&mut self, length: Duration) -> &mut Self {
        self.run(length, 0.0, -70.0)
    }

    fn speech(&mut self, length: Duration) -> &mut Self {
        self.run(length, 0.9, -22.0)
    }

    fn kinds(&self) -> Vec<Overlap> {
        self.told.iter().map(|(_, told)| *told).collect()
    }
}

#[test]
fn speech_over_the_ai_pauses_it_in_the_same_tick() {
    let mut talk = Talk::new(BargeIn::Normal);
    talk.quiet(ms(2_000));
    assert_eq!(talk.tick(0.9, -22.0), Decision::Pause);
    assert_eq!(talk.kinds(), [Overlap::Began]);
}

#[test]
fn a_cough_is_told_as_one_and_words_as_words() {
    let mut talk = Talk::new(BargeIn::Normal);
    talk.quiet(ms(2_000)).speech(ms(200)).quiet(ms(400));
    assert_eq!(talk.kinds(), [Overlap::Began, Overlap::Ended { voiced: ms(200) }]);
    let mut talk = Talk::new(BargeIn::Normal);
    talk.quiet(ms(2_000)).speech(ms(400));
    assert_eq!(talk.kinds(), [Overlap::Began, Overlap::Words]);
    assert_eq!(talk.told[1].0 - talk.told[0].0, ms(240));
}

#[test]
fn a_detectors_afterglow_makes_no_words_of_a_cough() {
    let mut talk = Talk::new(BargeIn::Normal);
    talk.quiet(ms(2_000)).speech(ms(200)).run(ms(200), 0.9, -60.0).quiet(ms(400));
    assert_eq!(talk.kinds(), [Overlap::Began, Overlap::Ended { voiced: ms(200) }]);
}

#[test]
fn the_session_ends_a_pause_and_the_same_stretch_does_not_begin_another() {
    let mut talk = Talk::new(BargeIn::Normal);
    talk.quiet(ms(2_000)).speech(ms(300));
    talk.resume = true;
    assert_eq!(talk.tick(0.9, -22.0), Decision::Play);
    talk.speech(ms(2_000));
    assert_eq!(talk.floor.pauses(), 1);
    talk.quiet(ms(400)).speech(ms(100));
    assert_eq!(talk.floor.pauses(), 2, "the next stretch does");
}

#[test]
fn a_pause_without_a_verdict_ends_by_itself() {
    let mut talk = Talk::new(BargeIn::Normal);
    talk.quiet(ms(2_000)).speech(ms(4_000));
    assert_eq!(talk.floor.pauses(), 1);
    assert!(talk.paused <= ms(1_500), "{:?}", talk.paused);
}

#[test]
fn a_new_epoch_ends_a_pause() {
    let mut talk = Talk::new(BargeIn::Normal);
    talk.quiet(ms(2_000)).speech(ms(300));
    assert!(talk.floor.is_paused());
    talk.epoch = 2;
    talk.speaks = false;
    assert_eq!(talk.tick(0.9, -22.0), Decision::Play);
    assert!(!talk.floor.is_paused(), "nothing is there to be held");
}

#[test]
fn silence_of_the_ai_is_not_held_and_what_follows_it_is() {
    let mut talk = Talk::new(BargeIn::Normal);
    talk.silent = true;
    talk.quiet(ms(1_000)).speech(ms(400));
    assert_eq!(talk.floor.pauses(), 0);
    talk.silent = false;
    talk.speech(ms(40));
    assert_eq!((talk.floor.pauses(), talk.paused), (1, ms(40)));
}

#[test]
fn a_firm_line_is_not_paused_and_words_are_still_told() {
    let mut talk = Talk::new(BargeIn::Eager);
    talk.firm = true;
    talk.quiet(ms(2_000)).speech(ms(1_000)).quiet(ms(400));
    assert_eq!(talk.floor.pauses(), 0);
    assert_eq!(talk.kinds(), [Overlap::Words, Overlap::Ended { voiced: ms(1_000) }]);
}

#[test]
fn a_caller_who_is_speaking_when_the_ai_begins_hears_nothing_of_it() {
    let mut talk = Talk::new(BargeIn::Normal);
    talk.speaks = false;
    talk.speech(ms(600));
    talk.speaks = true;
    assert_eq!(talk.tick(0.9, -22.0), Decision::Pause);
}

#[test]
fn what_a_loudspeaker_gives_back_does_not_pause() {
    for gain in [-8.0, -12.0, -20.0, -35.0] {
        for delay in [40_u64, 120, 250] {
            let mut talk = Talk::new(BargeIn::Normal);
            let back = usize::try_from(delay / 20).unwrap();
            for _ in 0..3_000 {
                let echo = talk.played.len().checked_sub(back).map_or(SILENCE_DBFS, |at| talk.played[at] + gain);
                talk.tick(if echo > -50.0 { 0.95 } else { 0.0 }, echo.max(-75.0));
            }
            assert!(talk.floor.pauses() <= 2, "{gain} dB after {delay} ms: {} pauses a minute", talk.floor.pauses());
        }
    }
}

#[test]
fn a_caller_is_heard_over_her_own_loudspeaker() {
    let mut talk = Talk::new(BargeIn::Normal);
    for _ in 0..500 {
        let echo = talk.played.len().checked_sub(6).map_or(SILENCE_DBFS, |at| talk.played[at] - 14.0);
        talk.tick(0.95, echo.max(-75.0));
    }
    let before = talk.floor.pauses();
    assert!(before <= 2, "{before}");
    talk.run(ms(400), 0.95, -16.0);
    assert_eq!(talk.kinds().iter().filter(|told| **told == Overlap::Words).count(), 1);
    assert_eq!(talk.floor.pauses(), before + 1);
}

#[test]
fn spans_are_times_and_not_counts_of_frames() {
    for step in [ms(10), ms(20)] {
        let mut talk = Talk::new(BargeIn::Patient);
        talk.step = step;
        talk.quiet(ms(2_000)).speech(ms(480)).quiet(ms(600));
        let began = talk.told[0].0;
        assert!((ms(2_100)..=ms(2_120)).contains(&began), "{step:?}: {began:?}");
        assert_eq!(talk.kinds(), [Overlap::Began, Overlap::Ended { voiced: ms(480) }], "{step:?}");
        assert_eq!(talk.told[1].0, ms(2_680), "{step:?}");
    }
}

#[test]
fn the_knob_goes_from_never_to_the_first_sound() {
    assert!(BargeIn::Off.settings().is_none());
    let [patient, normal, eager] =
        [BargeIn::Patient, BargeIn::Normal, BargeIn::Eager].map(|knob| knob.settings().unwrap());
    assert!(patient.words_after > normal.words_after && normal.words_after > eager.words_after);
    assert!(patient.pause_after > normal.pause_after && normal.likely > eager.likely);
    assert_eq!(normal.words_after, ms(250));
}
