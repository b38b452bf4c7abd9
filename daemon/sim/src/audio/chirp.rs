//! A chirp that survives speech codecs, and a detector that says at which sample it began: the ruler of echo mode.
//!
//! The caller puts one at the start of a frame every 2 s; both ends watch what passes them and compare times. No clock
//! here: positions are samples since the detector began, and whoever feeds it knows when which sample came.
//!
//! The detector costs almost nothing in silence; a matched filter (at 8 kHz, then at 24 kHz around the peak) runs where
//! there is sound.

use std::collections::VecDeque;

/// Length of a chirp: 40 ms at 24 kHz.
pub const CHIRP_SAMPLES: usize = 960;
/// What the codec adds between its input and its output at 24 kHz: 6.5 ms, constant. A detection behind one coding is
/// this many samples later than the chirp went in; a chirp at a frame's start is thus still found in that same frame.
pub const OPUS_DELAY_SAMPLES: u64 = 156;

const RATE: f32 = 24_000.0;
const FROM_HZ: f32 = 500.0;
const TO_HZ: f32 = 3_000.0;
/// -9 dBFS: loud, and no clipping in any codec.
const PEAK: f32 = 11_600.0;
/// Part of the length that fades in and out, each.
const FADE: f32 = 0.15;

/// Matched filtering runs on every third sample.
const STEP: usize = 3;
const COARSE_SAMPLES: usize = CHIRP_SAMPLES / STEP;
/// Normalised correlation from which on a peak is a chirp. Opus at 24 kb/s leaves 0.9; speech stays below 0.35.
const FOUND_FROM: f32 = 0.6;
/// A block whose mean square is below this (-60 dBFS) is silence.
const SILENCE: f32 = 1_000.0;
/// After a peak, this many coarse samples without a higher one make it final: 5 ms.
const SETTLED: u64 = 40;
/// Samples kept: the chirp, the time to settle, the refinement around, and a block of the silence check.
const KEPT: usize = CHIRP_SAMPLES + 1_200;

/// One chirp, 24 kHz mono, ready to be put into a signal.
#[must_use]
pub fn chirp() -> Vec<i16> {
    shape().into_iter().map(|sample| to_i16(sample * PEAK)).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "the peak is a constant far below 32767")]
fn to_i16(sample: f32) -> i16 {
    sample.round() as i16
}

/// The sweep with amplitude 1: its frequency rises linearly, its ends fade as raised cosines.
fn shape() -> Vec<f32> {
    let length = CHIRP_SAMPLES as f32;
    let duration = length / RATE;
    (0..CHIRP_SAMPLES)
        .map(|index| {
            let time = index as f32 / RATE;
            let phase = std::f32::consts::TAU * (FROM_HZ + (TO_HZ - FROM_HZ) * time / (2.0 * duration)) * time;
            let to_end = (index as f32).min(length - 1.0 - index as f32) / (length * FADE);
            let gain = if to_end < 1.0 { 0.5 - 0.5 * (std::f32::consts::PI * to_end).cos() } else { 1.0 };
            gain * phase.sin()
        })
        .collect()
}

/// A chirp that was seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detection {
    /// Its first sample, counted from the first one that the detector was given.
    pub sample: u64,
    /// Normalised correlation, 0.6..=1.
    pub score: f32,
}

/// Finds chirps in a stream of 24 kHz samples.
#[derive(Debug)]
pub struct ChirpDetector {
    pattern: Vec<f32>,
    coarse_pattern: Vec<f32>,
    /// The last samples.
    recent: VecDeque<f32>,
    /// Every third of them, low-passed.
    coarse: VecDeque<f32>,
    /// Samples taken in so far.
    taken: u64,
    /// Coarse samples made so far; coarse sample n stands for the three samples from 3 n on.
    coarse_made: u64,
    /// Coarse samples that the filter has looked at as a chirp's last one.
    filtered: u64,
    /// The last samples with sound in them end here.
    sound_until: u64,
    best: Option<Peak>,
    /// No chirp begins before this coarse sample: the last one is still sounding.
    deaf_until: u64,
}

#[derive(Clone, Copy, Debug)]
struct Peak {
    begin: u64,
    score: f32,
    seen_at: u64,
}

impl Default for ChirpDetector {
    fn default() -> Self {
        Self::new()
    }
}

impl ChirpDetector {
    /// A detector at sample 0.
    #[must_use]
    pub fn new() -> Self {
        let pattern = shape();
        let coarse_pattern = pattern.chunks_exact(STEP).map(mean).collect();
        Self {
            pattern,
            coarse_pattern,
            recent: VecDeque::with_capacity(KEPT + STEP),
            coarse: VecDeque::with_capacity(KEPT / STEP + 1),
            taken: 0,
            coarse_made: 0,
            filtered: 0,
            sound_until: 0,
            best: None,
            deaf_until: 0,
        }
    }

    /// Samples taken in so far: the position of the next one.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.taken
    }

    /// Takes the next samples in, any number; `found` hears of every chirp that is complete by now.
    ///
    /// A chirp is told 5 ms after its last sample at the latest.
    pub fn push(&mut self, samples: &[i16], mut found: impl FnMut(Detection)) {
        for block in samples.chunks(CHIRP_SAMPLES / 2) {
            for &sample in block {
                self.take(f32::from(sample));
            }
            let square: f32 = block.iter().map(|&sample| f32::from(sample).powi(2)).sum();
            if square > SILENCE * block.len() as f32 {
                self.sound_until = self.taken + CHIRP_SAMPLES as u64;
            }
            if self.taken <= self.sound_until || self.best.is_some() {
                self.filter(&mut found);
            } else {
                self.filtered = self.coarse_made;
            }
        }
    }

    fn take(&mut self, sample: f32) {
        if self.recent.len() >= KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back(sample);
        self.taken += 1;
        if self.taken.is_multiple_of(STEP as u64) {
            if self.coarse.len() >= KEPT / STEP {
                self.coarse.pop_front();
            }
            let three = self.recent.iter().rev().take(STEP).sum::<f32>() / STEP as f32;
            self.coarse.push_back(three);
            self.coarse_made += 1;
        }
    }

    fn filter(&mut self, found: &mut impl FnMut(Detection)) {
        let kept_from = self.coarse_made - self.coarse.len() as u64;
        let coarse = self.coarse.make_contiguous();
        let mut settled = Vec::new();
        for end in self.filtered.max(kept_from + COARSE_SAMPLES as u64)..=self.coarse_made {
            let begin = end - COARSE_SAMPLES as u64;
            let at = usize::try_from(begin - kept_from).unwrap_or(0);
            if begin >= self.deaf_until
                && let Some(place) = coarse.get(at..at + COARSE_SAMPLES)
            {
                let score = correlation(&self.coarse_pattern, place);
                if score >= FOUND_FROM && self.best.is_none_or(|best| score > best.score) {
                    self.best = Some(Peak { begin, score, seen_at: end });
                }
            }
            if let Some(best) = self.best
                && end >= best.seen_at + SETTLED
            {
                settled.push(best);
                self.best = None;
                self.deaf_until = best.begin + COARSE_SAMPLES as u64;
            }
        }
        self.filtered = self.coarse_made + 1;
        for peak in settled {
            found(self.refine(peak));
        }
    }

    /// The exact first sample: the best of those around the coarse peak.
    fn refine(&mut self, peak: Peak) -> Detection {
        let kept_from = self.taken - self.recent.len() as u64;
        let recent = self.recent.make_contiguous();
        let centre = peak.begin * STEP as u64;
        let span = 2 * STEP as u64;
        (centre.saturating_sub(span)..=centre + span)
            .filter_map(|sample| {
                let at = usize::try_from(sample.checked_sub(kept_from)?).ok()?;
                let place = recent.get(at..at + CHIRP_SAMPLES)?;
                Some(Detection { sample, score: correlation(&self.pattern, place) })
            })
            .max_by(|a, b| a.score.total_cmp(&b.score))
            .unwrap_or(Detection { sample: centre, score: peak.score })
    }
}

fn mean(samples: &[f32]) -> f32 {
    samples.iter().sum::<f32>() / samples.len() as f32
}

fn correlation(pattern: &[f32], place: &[f32]) -> f32 {
    let (mut cross, mut own, mut under) = (0.0, 0.0, 0.0);
    for (x, y) in pattern.iter().zip(place) {
        cross += x * y;
        own += x * x;
        under += y * y;
    }
    // A matched stretch of less than -60 dBFS is no chirp of ours, however alike.
    if under < SILENCE * pattern.len() as f32 { 0.0 } else { cross / (own * under).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::speech::Speech;

    const FRAME: usize = 480;

    fn detect(samples: &[i16], piece: usize) -> Vec<Detection> {
        let mut detector = ChirpDetector::new();
        let mut all = Vec::new();
        for part in samples.chunks(piece) {
            detector.push(part, |detection| all.push(detection));
        }
        all
    }

    fn with_chirps(length: usize, places: &[usize]) -> Vec<i16> {
        let mut signal = vec![0; length];
        for &place in places {
            signal[place..place + CHIRP_SAMPLES].copy_from_slice(&chirp());
        }
        signal
    }

    fn coded(samples: &[i16], bandwidth: opus::Bandwidth) -> Vec<i16> {
        let mut encoder = opus::Encoder::new(24_000, opus::Channels::Mono, opus::Application::Voip).unwrap();
        encoder.set_bitrate(opus::Bitrate::Bits(24_000)).unwrap();
        encoder.set_complexity(3).unwrap();
        encoder.set_max_bandwidth(bandwidth).unwrap();
        encoder.set_signal(opus::Signal::Voice).unwrap();
        let mut decoder = opus::Decoder::new(24_000, opus::Channels::Mono).unwrap();
        let mut out = Vec::new();
        let mut packet = [0; 1_500];
        let mut frame = [0; FRAME];
        for input in samples.chunks_exact(FRAME) {
            let length = encoder.encode(input, &mut packet).unwrap();
            decoder.decode(&packet[..length], &mut frame, false).unwrap();
            out.extend_from_slice(&frame);
        }
        out
    }

    #[test]
    fn a_clean_chirp_is_found_to_the_sample_whatever_the_pieces() {
        let places = [0, 5_001, 60_007, 100_800];
        let signal = with_chirps(130_000, &places);
        for piece in [1, 7, 480, 960, 10_000, 130_000] {
            let found: Vec<_> = detect(&signal, piece).iter().map(|d| d.sample).collect();
            assert_eq!(found, places.map(|place| place as u64), "pieces of {piece}");
        }
    }

    #[test]
    fn opus_moves_a_chirp_by_its_delay_and_less_than_a_millisecond_more() {
        let places: Vec<_> = (0..10).map(|n| 4_800 + n * 48_000 + n * FRAME).collect();
        let signal = with_chirps(600_000, &places);
        for bandwidth in [opus::Bandwidth::Wideband, opus::Bandwidth::Fullband] {
            let once = coded(&signal, bandwidth);
            for (times, heard) in [(1, &once), (2, &coded(&once, bandwidth))] {
                let found = detect(heard, FRAME);
                assert_eq!(found.len(), places.len(), "{found:?}");
                for (detection, &place) in found.iter().zip(&places) {
                    let late = detection.sample.abs_diff(place as u64 + times * OPUS_DELAY_SAMPLES);
                    assert!(late <= 24, "{late} samples off after {times} codings: {detection:?}");
                    assert!(detection.score > 0.75, "{detection:?}");
                }
            }
        }
    }

    #[test]
    fn a_chirp_is_told_soon_after_its_end() {
        let signal = with_chirps(48_000, &[9_600]);
        let mut detector = ChirpDetector::new();
        let mut told_at = None;
        for part in signal.chunks(120) {
            let mut seen = false;
            detector.push(part, |_| seen = true);
            if seen {
                told_at = Some(detector.position());
            }
        }
        let told_at = usize::try_from(told_at.unwrap()).unwrap();
        assert!(told_at <= 9_600 + CHIRP_SAMPLES + 240, "{told_at}");
    }

    #[test]
    fn speech_silence_and_noise_hold_no_chirp() {
        let speech = Speech::load().unwrap();
        for line in speech.languages().flat_map(|l| speech.caller(l)).chain(speech.agent()) {
            assert_eq!(detect(&line.samples, FRAME), [], "{}", line.name);
        }
        assert_eq!(detect(&[0; 48_000], FRAME), []);
        let noise: Vec<i16> =
            (0..96_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 17).to_le_bytes()[0].into()).collect();
        assert_eq!(detect(&noise, FRAME), []);
    }

    #[test]
    fn level_does_not_matter_and_speech_beneath_is_tolerated() {
        let speech = Speech::load().unwrap();
        let mut signal = with_chirps(144_000, &[24_000, 72_000]);
        for (sample, &beneath) in signal.iter_mut().zip(speech.agent()[8].samples.iter()) {
            *sample = *sample / 2 + beneath / 12;
        }
        let found = detect(&signal, FRAME);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].sample.abs_diff(24_000) <= 3 && found[1].sample.abs_diff(72_000) <= 3, "{found:?}");
    }
}
