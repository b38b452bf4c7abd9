//! Judges whether what arrived is what was said: "audio heard", by content, never by counting packets.
//!
//! Each utterance is looked up in the recording once (its alignment); then every voiced window of 100 ms must be found
//! within 20 ms of that place with a normalised correlation of at least 0.7. Level does not matter, time and content
//! do: a frame that was dropped shifts all that follows, a swapped one spoils its window. A silenced one would pass
//! (a fifth less of a window still correlates with 0.89), so a window with a hole in it does not count as heard either.
//! What the speaker's own machine did to its speech is nobody's loss ([`Stop`]).
//! Both sides are compared between 150 Hz and 2.4 kHz, where voiced speech is: a speech codec keeps waveforms there,
//! and none above.
//! It does not score quality as people hear it; STOI in `tests/interop` does, from outside.
//!
//! Driven by whoever kept both recordings, after the call.

use std::ops::RangeInclusive;
use std::sync::Arc;

use realfft::{RealFftPlanner, num_complex::Complex};

/// A window is the unit that is heard or not: 100 ms at 24 kHz.
pub const WINDOW: usize = 2_400;
/// How far from the utterance's alignment a window may lie: 20 ms at 24 kHz.
pub const SLACK: usize = 480;
/// Normalised correlation from which on a window counts as heard.
pub const HEARD_FROM: f32 = 0.7;

/// A window is voiced when its RMS is at least this part of the whole utterance's (-18 dB). What is softer is pause,
/// breath or the hiss of a consonant, which no speech codec keeps as a waveform.
const VOICED_FROM: f32 = 0.125;
/// Softer than this a window is silence, however soft the utterance: -72 dBFS.
const SILENCE: f32 = 8.0;
/// Searches run on every 4th sample, 6 kHz: the band compared ends below 3 kHz, and the work is a sixteenth.
const STEP: usize = 4;
/// An utterance is found where at least this correlation over its whole length is reached. Unrelated speech of some
/// seconds stays below 0.2; a tenth of the utterance arriving gives 0.3.
const FOUND_FROM: f64 = 0.25;
/// A window is looked at for holes in tenths of 10 ms, so that a frame of 20 ms always covers one wholly.
const TENTH: usize = WINDOW / 10;
/// A tenth matters when it holds at least this part of its window's energy: a quarter of an even share.
const TENTH_MATTERS_FROM: f32 = 0.025;
/// A tenth that matters is a hole when less than this part of its energy arrived (-14 dB at the window's gain).
const HOLE_BELOW: f32 = 0.04;
/// Pole of the high-pass: 150 Hz at 24 kHz.
const HIGH_PASS_POLE: f32 = 0.96;
/// Of several places, the first is taken whose correlation is at least this part of the best one's.
const NEARLY: f64 = 0.8;
/// How far from its expected place an utterance is looked for: 2 s at 24 kHz.
const AROUND: usize = 48_000;

/// Something that was said.
#[derive(Clone, Debug)]
pub struct Utterance {
    /// What went out, 24 kHz mono.
    pub samples: Arc<[i16]>,
    /// Samples after which it was cut off on purpose (an interruption); windows that end later are excused.
    pub truncated_at: Option<usize>,
    /// Where in the recording it should begin; searched 2 s around. `None`: anywhere after the utterance before.
    pub expected_at: Option<usize>,
    /// Where the speaker's own clock stood still.
    pub stops: Vec<Stop>,
}

/// A place at which a speaker stood still, with the machine that runs it: what follows was handed over late.
///
/// No buffer can tell that from a network that delivers late, and moves what follows by as much; nor is it any loss of
/// whoever carried it. So windows around a stop are excused, and the others may lie off by all stops together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// The sample of the utterance that was due then.
    pub at: usize,
    /// For how many samples.
    pub length: usize,
}

impl Stop {
    /// How long a buffer may need to be even again: what it concealed, and where that meets what came late.
    const AFTER: usize = WINDOW * 2;

    const fn spoils(&self, begin: usize) -> bool {
        begin + WINDOW > self.at && begin < self.at + self.length + Self::AFTER
    }
}

impl Utterance {
    /// A whole utterance, to be found anywhere after the one before it.
    pub fn new(samples: impl Into<Arc<[i16]>>) -> Self {
        Self { samples: samples.into(), truncated_at: None, expected_at: None, stops: Vec::new() }
    }
}

/// How much of one utterance arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct UtteranceHeard {
    /// Sample of the recording at which the utterance begins (below 0: before the recording); `None` when not found.
    pub offset: Option<i64>,
    /// Voiced windows in the utterance.
    pub sent_windows: u32,
    /// Voiced windows that arrived.
    pub heard_windows: u32,
    /// Voiced windows beyond the point of truncation, or at a stop; never counted as heard.
    pub excused_windows: u32,
}

impl UtteranceHeard {
    /// Heard of what was owed, in percent; `None` when nothing was owed.
    #[must_use]
    pub fn percent(&self) -> Option<f64> {
        percent(self.heard_windows, self.sent_windows, self.excused_windows)
    }
}

/// How much of everything that was said arrived.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Heard {
    /// Voiced windows in all utterances.
    pub sent_windows: u32,
    /// Voiced windows that arrived.
    pub heard_windows: u32,
    /// Voiced windows that were truncated on purpose.
    pub excused_windows: u32,
    /// The same for each utterance, in the order given.
    pub utterances: Vec<UtteranceHeard>,
}

impl Heard {
    /// Heard of what was owed, in percent; `None` when nothing was owed.
    #[must_use]
    pub fn percent(&self) -> Option<f64> {
        percent(self.heard_windows, self.sent_windows, self.excused_windows)
    }

    /// Adds another call's or direction's account to this one.
    pub fn add(&mut self, other: &Self) {
        self.sent_windows += other.sent_windows;
        self.heard_windows += other.heard_windows;
        self.excused_windows += other.excused_windows;
        self.utterances.extend_from_slice(&other.utterances);
    }
}

fn percent(heard: u32, sent: u32, excused: u32) -> Option<f64> {
    let owed = sent.saturating_sub(excused);
    (owed > 0).then(|| 100.0 * f64::from(heard) / f64::from(owed))
}

/// The judge; keeps the plans of its transforms from one recording to the next.
pub struct Judge {
    planner: RealFftPlanner<f32>,
    low_pass: Vec<f32>,
}

impl std::fmt::Debug for Judge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Judge").finish_non_exhaustive()
    }
}

impl Default for Judge {
    fn default() -> Self {
        Self::new()
    }
}

/// A signal in the band compared, at full rate and at the search's.
struct Signal {
    full: Vec<f32>,
    coarse: Vec<f32>,
}

impl Judge {
    /// A judge without plans yet.
    #[must_use]
    pub fn new() -> Self {
        Self { planner: RealFftPlanner::new(), low_pass: low_pass() }
    }

    /// Compares a recording (24 kHz mono) with what was said, in the order in which it was said.
    ///
    /// An utterance without [`Utterance::expected_at`] is looked for from 0.5 s before the end of the last one found to
    /// the end of the recording, and the first good match is taken. Where a line may be lost as a whole and come again
    /// later, give its expected place.
    pub fn heard(&mut self, said: &[Utterance], recording: &[i16]) -> Heard {
        let received = self.signal(recording);
        let mut from = 0_usize;
        let mut sum = Heard::default();
        for utterance in said {
            let owed = utterance.truncated_at.unwrap_or(usize::MAX).min(utterance.samples.len());
            let reference = self.signal(&utterance.samples);
            let range = match utterance.expected_at {
                Some(at) => at.saturating_sub(AROUND)..at.saturating_add(owed).saturating_add(AROUND),
                None => from..usize::MAX,
            };
            let offset = if owed < WINDOW { None } else { self.align(&reference, owed, &received, range) };
            let account = judge_windows(&reference, owed, &received, offset, &utterance.stops);
            if let Some(end) = offset.and_then(|at| usize::try_from(at).ok()) {
                from = (end + owed).saturating_sub(WINDOW * 5);
            }
            sum.sent_windows += account.sent_windows;
            sum.heard_windows += account.heard_windows;
            sum.excused_windows += account.excused_windows;
            sum.utterances.push(account);
        }
        sum
    }

    fn signal(&self, samples: &[i16]) -> Signal {
        let half = self.low_pass.len() / 2;
        let mut padded = vec![0.0; half];
        // High-pass of one pole; the codec's own one turns phases below it. The same delay on both sides cancels.
        let (mut last, mut out) = (0.0, 0.0);
        padded.extend(samples.iter().map(|&sample| {
            let sample = f32::from(sample);
            out = sample - last + HIGH_PASS_POLE * out;
            last = sample;
            out
        }));
        padded.resize(padded.len() + half, 0.0);
        let full: Vec<f32> = padded.windows(self.low_pass.len()).map(|part| dot(part, &self.low_pass)).collect();
        let coarse = full.iter().step_by(STEP).copied().collect();
        Signal { full, coarse }
    }

    /// Where `reference[..owed]` begins in `received[range]`, by cross-correlation; exact to the sample.
    fn align(
        &mut self,
        reference: &Signal,
        owed: usize,
        received: &Signal,
        range: std::ops::Range<usize>,
    ) -> Option<i64> {
        let pattern = &reference.coarse[..reference.coarse.len().min(owed / STEP)];
        let begin = (range.start / STEP).min(received.coarse.len());
        let end = (range.end / STEP).min(received.coarse.len());
        let place = received.coarse.get(begin..end)?;
        let (lag, score) = self.best_lag(pattern, place)?;
        if score < FOUND_FROM {
            return None;
        }
        let coarse = (i64::try_from(begin).ok()? + lag) * STEP as i64;
        let span = STEP as i64 * 2;
        let whole = &reference.full[..owed];
        (coarse - span..=coarse + span).max_by(|&a, &b| {
            let at = |offset| overlap_dot(whole, &received.full, offset);
            at(a).total_cmp(&at(b))
        })
    }

    /// The first lag of `pattern` in `place` with (nearly) the highest normalised correlation, and that correlation.
    fn best_lag(&mut self, pattern: &[f32], place: &[f32]) -> Option<(i64, f64)> {
        let energy = dot(pattern, pattern);
        if pattern.is_empty() || place.is_empty() || energy <= 0.0 {
            return None;
        }
        let length = (pattern.len() + place.len()).next_power_of_two();
        let forward = self.planner.plan_fft_forward(length);
        let inverse = self.planner.plan_fft_inverse(length);
        let spectrum = |signal: &[f32]| -> Option<Vec<Complex<f32>>> {
            let mut input = forward.make_input_vec();
            input[..signal.len()].copy_from_slice(signal);
            let mut output = forward.make_output_vec();
            forward.process(&mut input, &mut output).ok()?;
            Some(output)
        };
        let mut product = spectrum(place)?;
        for (bin, conjugated) in product.iter_mut().zip(spectrum(pattern)?) {
            *bin *= conjugated.conj();
        }
        let mut correlation = inverse.make_output_vec();
        inverse.process(&mut product, &mut correlation).ok()?;

        // sums[i] = energy of place[..i]; f64, as differences of long sums are taken.
        let mut sums = vec![0.0_f64; place.len() + 1];
        for (index, &sample) in place.iter().enumerate() {
            sums[index + 1] = sums[index] + f64::from(sample).powi(2);
        }
        // A place much softer than the loudest one holds no utterance; it would divide by almost nothing.
        let floor = sums[place.len()] / place.len() as f64 * pattern.len() as f64 * 1e-4;
        let scale = 1.0 / length as f32;
        let last = i64::try_from(place.len()).ok()?;
        let first = -i64::try_from(pattern.len()).ok()? + 1;
        let score = |lag: i64| -> Option<f64> {
            let begin = usize::try_from(lag.max(0)).ok()?;
            let end = usize::try_from(lag + pattern.len() as i64).ok()?.min(place.len());
            let under = (sums[end] - sums[begin]).max(floor);
            let bin = usize::try_from(lag.rem_euclid(length as i64)).ok()?;
            let score = f64::from(correlation[bin] * scale) / (f64::from(energy) * under).sqrt();
            score.is_finite().then_some(score)
        };
        let scores: Vec<(i64, f64)> = (first..last).filter_map(|lag| Some((lag, score(lag)?))).collect();
        let best = scores.iter().map(|(_, score)| *score).max_by(f64::total_cmp)?;
        // A line may be said again later: the first place that is nearly as good, then the summit around it.
        let from = scores.iter().position(|(_, score)| *score >= best * NEARLY)?;
        let summit = scores.iter().skip(from).take(SLACK / STEP);
        summit.copied().max_by(|a, b| a.1.total_cmp(&b.1))
    }
}

fn judge_windows(
    reference: &Signal,
    owed: usize,
    received: &Signal,
    offset: Option<i64>,
    stops: &[Stop],
) -> UtteranceHeard {
    let stood = |until: usize| stops.iter().filter(|stop| stop.at <= until).map(|stop| stop.length).sum::<usize>();
    let total = stood(usize::MAX);
    let mut account = UtteranceHeard { offset, ..UtteranceHeard::default() };
    let level = rms(&reference.full);
    for (index, window) in reference.full.chunks_exact(WINDOW).enumerate() {
        let begin = index * WINDOW;
        let loud = rms(window);
        if loud < level * VOICED_FROM || loud < SILENCE {
            continue;
        }
        account.sent_windows += 1;
        if begin + WINDOW > owed || stops.iter().any(|stop| stop.spoils(begin)) {
            account.excused_windows += 1;
            continue;
        }
        // Found by most of it, the utterance may lie where what follows the stops does, or where what is ahead of them does.
        let (early, late) = (SLACK + total - stood(begin), SLACK + stood(begin));
        let around = |place: i64| place - early as i64..=place + late as i64;
        if offset.is_some_and(|at| window_arrived(reference, begin, received, at + begin as i64, around)) {
            account.heard_windows += 1;
        }
    }
    account
}

/// True when the window at `begin` lies `around` `place` in the recording.
fn window_arrived(
    reference: &Signal,
    begin: usize,
    received: &Signal,
    place: i64,
    around: impl Fn(i64) -> RangeInclusive<i64>,
) -> bool {
    let window = &reference.full[begin..begin + WINDOW];
    let matches = |at: i64| {
        correlation(window, &received.full, at) >= HEARD_FROM
            && part(&received.full, at, WINDOW).is_some_and(|place| !has_hole(window, place))
    };
    if matches(place) {
        return true;
    }
    // Elsewhere: the best place at 6 kHz, then the samples around it.
    let coarse = &reference.coarse[begin / STEP..(begin + WINDOW) / STEP];
    let (first, last) = around(place).into_inner();
    let best = (first / STEP as i64..=last / STEP as i64)
        .map(|at| (at, correlation(coarse, &received.coarse, at)))
        .max_by(|a, b| a.1.total_cmp(&b.1));
    best.is_some_and(|(at, score)| {
        let fine = at * STEP as i64;
        score >= HEARD_FROM / 2.0 && (fine - STEP as i64..=fine + STEP as i64).any(matches)
    })
}

/// Normalised correlation of `pattern` with the recording at `at`; 0 where the recording does not reach.
fn correlation(pattern: &[f32], recording: &[f32], at: i64) -> f32 {
    let Some(place) = part(recording, at, pattern.len()) else { return 0.0 };
    let under = dot(place, place);
    if under < SILENCE * pattern.len() as f32 {
        return 0.0;
    }
    dot(pattern, place) / (dot(pattern, pattern) * under).sqrt()
}

fn part(recording: &[f32], at: i64, length: usize) -> Option<&[f32]> {
    let begin = usize::try_from(at).ok()?;
    recording.get(begin..begin.checked_add(length)?)
}

/// True when a part of the window that should be loud is missing.
fn has_hole(pattern: &[f32], place: &[f32]) -> bool {
    let energy = dot(pattern, pattern);
    let gain = dot(pattern, place) / energy;
    pattern.chunks_exact(TENTH).zip(place.chunks_exact(TENTH)).any(|(said, arrived)| {
        let owed = dot(said, said);
        owed >= energy * TENTH_MATTERS_FROM && dot(arrived, arrived) < HOLE_BELOW * gain * gain * owed
    })
}

/// Correlation of as much of `pattern` as the recording covers.
fn overlap_dot(pattern: &[f32], recording: &[f32], at: i64) -> f32 {
    let skip = usize::try_from(-at).unwrap_or(0).min(pattern.len());
    let begin = usize::try_from(at).unwrap_or(0).min(recording.len());
    let length = (pattern.len() - skip).min(recording.len() - begin);
    dot(&pattern[skip..skip + length], &recording[begin..begin + length])
}

/// Scalar product; eight running sums, which the compiler turns into vector code.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 8];
    let (left, right) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = left.remainder().iter().zip(right.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in left.zip(right) {
        for ((sum, x), y) in sums.iter_mut().zip(x).zip(y) {
            *sum += x * y;
        }
    }
    sums.iter().sum::<f32>() + rest
}

fn rms(samples: &[f32]) -> f32 {
    if samples.is_empty() { 0.0 } else { (dot(samples, samples) / samples.len() as f32).sqrt() }
}

/// Low-pass of 33 taps at 2.4 kHz (Hamming window), after which every 4th sample is enough to search on.
fn low_pass() -> Vec<f32> {
    const HALF: i16 = 16;
    let cutoff = 0.1_f32;
    (-HALF..=HALF)
        .map(|tap| {
            let at = f32::from(tap);
            let ideal = if tap == 0 {
                2.0 * cutoff
            } else {
                (std::f32::consts::TAU * cutoff * at).sin() / (std::f32::consts::PI * at)
            };
            ideal * (0.54 + 0.46 * (std::f32::consts::PI * at / f32::from(HALF)).cos())
        })
        .collect()
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
