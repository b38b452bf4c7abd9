//! How loud a stretch of audio is, and whether a certain tone is in it.
//!
//! Plain arithmetic on 24 kHz samples: no state beyond a [`Tone`]'s phase, no codec, no clock. The pipeline measures
//! frames with it, the self-test and the tests make and find tones.

use super::frame::{FRAME_SAMPLES, SAMPLE_RATE};

/// The level of digital silence: what [`rms_dbfs`] and [`peak_dbfs`] return instead of minus infinity.
pub const SILENCE_DBFS: f32 = -100.0;

/// Root mean square of `samples` in dB below full scale (a square wave at full scale is 0); never below [`SILENCE_DBFS`].
#[must_use]
pub fn rms_dbfs(samples: &[i16]) -> f32 {
    if samples.is_empty() {
        return SILENCE_DBFS;
    }
    let energy: u64 = samples.iter().map(|&s| u64::from(s.unsigned_abs()).pow(2)).sum();
    decibels((energy as f64 / samples.len() as f64).sqrt())
}

/// The loudest sample in dB below full scale; never below [`SILENCE_DBFS`].
#[must_use]
pub fn peak_dbfs(samples: &[i16]) -> f32 {
    decibels(f64::from(samples.iter().map(|s| s.unsigned_abs()).max().unwrap_or(0)))
}

#[expect(clippy::cast_possible_truncation, reason = "a level between -100 and 0 fits an f32")]
fn decibels(amplitude: f64) -> f32 {
    if amplitude <= 0.0 {
        return SILENCE_DBFS;
    }
    ((20.0 * (amplitude / 32768.0).log10()) as f32).max(SILENCE_DBFS)
}

/// Amplitude of the part of `samples` at `hertz` (Goertzel), with 1.0 for a full-scale sine.
///
/// Exact for a whole number of periods; the frequency resolution is 24,000 ÷ the number of samples.
#[must_use]
pub fn tone_amplitude(samples: &[i16], hertz: f64) -> f64 {
    if samples.is_empty() {
        return 0.0;
    }
    let step = std::f64::consts::TAU * hertz / f64::from(SAMPLE_RATE);
    let coefficient = 2.0 * step.cos();
    let (mut last, mut before) = (0.0_f64, 0.0_f64);
    for &sample in samples {
        let next = coefficient.mul_add(last, f64::from(sample)) - before;
        before = last;
        last = next;
    }
    let power = last * last + before * before - coefficient * last * before;
    power.max(0.0).sqrt() * 2.0 / (samples.len() as f64 * 32768.0)
}

/// Share of the energy of `samples` that is the tone at `hertz`: near 1 for the clean tone, near 0 for anything else.
/// Silence holds no tone.
#[must_use]
pub fn tone_level(samples: &[i16], hertz: f64) -> f64 {
    let energy: u64 = samples.iter().map(|&s| u64::from(s.unsigned_abs()).pow(2)).sum();
    if energy == 0 {
        return 0.0;
    }
    let amplitude = tone_amplitude(samples, hertz) * 32768.0;
    (amplitude * amplitude / 2.0 * samples.len() as f64 / energy as f64).min(1.0)
}

/// A sine that goes on from frame to frame without a step.
#[derive(Debug, Clone, Copy)]
pub struct Tone {
    step: f64,
    amplitude: f64,
    phase: f64,
}

impl Tone {
    /// A sine of `hertz` with `amplitude` of full scale (clamped to 0..=1), beginning at a zero crossing.
    #[must_use]
    pub fn new(hertz: f64, amplitude: f64) -> Self {
        let step = std::f64::consts::TAU * hertz / f64::from(SAMPLE_RATE);
        Self { step, amplitude: amplitude.clamp(0.0, 1.0), phase: 0.0 }
    }

    /// The next 20 ms.
    pub fn frame(&mut self) -> [i16; FRAME_SAMPLES] {
        let mut frame = [0; FRAME_SAMPLES];
        self.fill(&mut frame);
        frame
    }

    /// Fills `out` with the samples that come next.
    #[expect(clippy::cast_possible_truncation, reason = "the amplitude is clamped to full scale")]
    pub fn fill(&mut self, out: &mut [i16]) {
        for sample in out {
            *sample = (self.phase.sin() * self.amplitude * 32767.0).round() as i16;
            self.phase = (self.phase + self.step) % std::f64::consts::TAU;
        }
    }

    /// The greatest difference between two neighbouring samples that this tone can make; a bigger one is a click.
    #[must_use]
    pub fn steepest(&self) -> f64 {
        2.0 * (self.step / 2.0).sin().abs() * self.amplitude * 32767.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_known_signals_are_exact() {
        assert_eq!(rms_dbfs(&[]), SILENCE_DBFS);
        assert_eq!(rms_dbfs(&[0; 480]), SILENCE_DBFS);
        assert_eq!(peak_dbfs(&[]), SILENCE_DBFS);
        assert!(peak_dbfs(&[0, i16::MIN, 3]).abs() < 1e-6);
        assert!(rms_dbfs(&[i16::MIN; 480]).abs() < 1e-6);
        assert!((rms_dbfs(&[16384; 480]) + 6.0206).abs() < 1e-3);
        let sine = Tone::new(1000.0, 1.0).frame();
        assert!((rms_dbfs(&sine) + 3.0103).abs() < 0.01, "{}", rms_dbfs(&sine));
    }

    #[test]
    fn goertzel_finds_the_tone_and_no_other() {
        let frame = Tone::new(1000.0, 0.5).frame();
        assert!((tone_amplitude(&frame, 1000.0) - 0.5).abs() < 0.001);
        assert!(tone_amplitude(&frame, 1500.0) < 0.001);
        assert!(tone_level(&frame, 1000.0) > 0.999);
        assert!(tone_level(&frame, 700.0) < 0.001);
        assert_eq!(tone_level(&[0; 480], 1000.0), 0.0);
        assert_eq!(tone_amplitude(&[], 1000.0), 0.0);
    }

    #[test]
    fn a_tone_has_no_step_between_frames() {
        let mut tone = Tone::new(317.0, 0.8);
        let mut all = Vec::new();
        for _ in 0..50 {
            all.extend_from_slice(&tone.frame());
        }
        let steepest = tone.steepest() + 1.0;
        assert!(all.windows(2).all(|w| f64::from((i32::from(w[1]) - i32::from(w[0])).abs()) <= steepest));
    }
}
