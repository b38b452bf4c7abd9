//! From one rate to another by a fixed ratio: 8, 16 and 24 kHz, whole frames at a time.
//!
//! A windowed sinc cut into one row per phase, in fixed point, so that the compiler makes it wide by itself. No clock:
//! input and output stand in an exact ratio, and drift is the jitter buffer's. Nothing is allocated after it was made.
//! The pipeline uses it where a leg's codec and its session have different rates, the voice detector for its own rate,
//! and the shell once at start for recordings. A call whose trunk and model both speak G.711 has none.

/// Bits behind the point of a coefficient. A row's magnitudes add up to less than 3, so a sum of products with full-scale
/// samples stays below 2³¹.
const POINT: u32 = 14;
/// Shape of the window (Kaiser): 60 dB and more of what would fold is gone.
const BETA: f64 = 6.0;
/// What passes, as a share of what the lower rate could hold.
const PASS: f64 = 0.9375;

/// See the module.
#[derive(Debug, Clone)]
pub struct Resampler {
    up: usize,
    down: usize,
    taps: usize,
    /// One row for each place that an output sample may have between input samples; newest input last.
    rows: Vec<i16>,
    /// The last samples of the input before, then room for a frame.
    input: Vec<i16>,
}

impl Resampler {
    /// A filter for speech that is listened to or recognised: flat to 3.3 kHz of 4, 6.6 of 8.
    #[must_use]
    pub fn new(from: u32, to: u32) -> Self {
        let (up, down) = ratio(from, to);
        Self::with_taps(from, to, 32 * up.max(down) / up)
    }

    /// The same with `taps` input samples for each output sample: fewer are cheaper and cut less sharply.
    #[must_use]
    pub fn with_taps(from: u32, to: u32, taps: usize) -> Self {
        let (up, down) = ratio(from, to);
        let taps = taps.max(4);
        let longest = from as usize / 50;
        Self { up, down, taps, rows: rows(up, down, taps), input: vec![0; taps - 1 + longest] }
    }

    /// Filters a whole number of ratios, at most 20 ms, into the front of `out`; returns how many samples that are.
    pub fn run(&mut self, input: &[i16], out: &mut [i16]) -> usize {
        let kept = self.taps - 1;
        let count = input.len().min(self.input.len() - kept);
        self.input[kept..kept + count].copy_from_slice(&input[..count]);
        let made = (count * self.up / self.down).min(out.len());
        for (n, sample) in out[..made].iter_mut().enumerate() {
            let (at, phase) = (n * self.down / self.up, n * self.down % self.up);
            let window = &self.input[at..at + self.taps];
            let row = &self.rows[phase * self.taps..(phase + 1) * self.taps];
            let sum: i32 = window.iter().zip(row).map(|(sample, tap)| i32::from(*sample) * i32::from(*tap)).sum();
            *sample = round(sum);
        }
        self.input.copy_within(count..count + kept, 0);
        made
    }
}

/// How many output samples stand for how many of input.
const fn ratio(from: u32, to: u32) -> (usize, usize) {
    let (mut a, mut b) = (from, to);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    ((to / a) as usize, (from / a) as usize)
}

#[expect(clippy::cast_possible_truncation, reason = "clamped to the range of a sample")]
fn round(sum: i32) -> i16 {
    ((sum + (1 << (POINT - 1))) >> POINT).clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16
}

#[expect(clippy::cast_possible_truncation, reason = "a coefficient is below 2, so it fits 16 bit")]
fn rows(up: usize, down: usize, taps: usize) -> Vec<i16> {
    let length = up * taps;
    // The cut, as a share of the rate at which the filter runs: `up` times the input's.
    let cut = PASS / 2.0 / up.max(down) as f64;
    let middle = (length - 1) as f64 / 2.0;
    let tap = |index: usize| {
        let place = index as f64 - middle;
        let sinc = if place == 0.0 {
            2.0 * cut
        } else {
            (std::f64::consts::TAU * cut * place).sin() / (std::f64::consts::PI * place)
        };
        let share = place / (middle + 1.0);
        sinc * bessel(BETA * (1.0 - share * share).max(0.0).sqrt()) / bessel(BETA)
    };
    let mut rows = vec![0; length];
    for (phase, row) in rows.chunks_exact_mut(taps).enumerate() {
        // Each row is made to let a constant through as it is: rows that differ would sing at the output's rate.
        let whole: f64 = (0..taps).map(|back| tap(phase + up * back)).sum();
        for (back, to) in row.iter_mut().rev().enumerate() {
            *to = (tap(phase + up * back) / whole * f64::from(1 << POINT)).round() as i16;
        }
    }
    rows
}

/// The modified Bessel function of order 0, by its series.
fn bessel(x: f64) -> f64 {
    let (mut sum, mut term) = (1.0, 1.0);
    for n in 1..=40_u32 {
        term *= (x / 2.0 / f64::from(n)).powi(2);
        sum += term;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Level in dB of a tone of `hertz` on the way from one rate to the other, against the same tone made there.
    fn gain(from: u32, to: u32, hertz: f64) -> f64 {
        let sine = |n: usize| (std::f64::consts::TAU * hertz * n as f64 / f64::from(from)).sin() * 16_000.0;
        let mut filter = Resampler::new(from, to);
        let frame = from as usize / 50;
        let (mut energy, mut count) = (0.0, 0);
        for n in 0..50 {
            #[expect(clippy::cast_possible_truncation, reason = "half of full scale")]
            let input: Vec<i16> = (0..frame).map(|at| sine(n * frame + at).round() as i16).collect();
            let mut out = [0; 480];
            let made = filter.run(&input, &mut out);
            assert_eq!(made, to as usize / 50);
            if n > 2 {
                energy += out[..made].iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>();
                count += made;
            }
        }
        10.0 * (energy / f64::from(u32::try_from(count).unwrap()) / (16_000.0_f64.powi(2) / 2.0)).log10()
    }

    #[test]
    fn speech_passes_and_what_would_fold_does_not() {
        for (from, to) in [(8_000, 24_000), (24_000, 8_000), (16_000, 8_000), (8_000, 16_000)] {
            for hertz in [50.0, 300.0, 1_000.0, 3_000.0, 3_300.0] {
                let gain = gain(from, to, hertz);
                assert!(gain.abs() < 0.3, "{from} to {to} at {hertz} Hz: {gain} dB");
            }
        }
        for (from, to) in [(16_000, 24_000), (24_000, 16_000)] {
            for hertz in [50.0, 1_000.0, 6_400.0] {
                let gain = gain(from, to, hertz);
                assert!(gain.abs() < 0.3, "{from} to {to} at {hertz} Hz: {gain} dB");
            }
        }
        for (from, to, hertz) in [(24_000, 8_000, 4_400.0), (24_000, 8_000, 9_000.0), (24_000, 16_000, 9_000.0)] {
            let gain = gain(from, to, hertz);
            assert!(gain < -55.0, "{from} to {to} at {hertz} Hz: {gain} dB");
        }
    }

    #[test]
    fn a_constant_stays_one_and_the_loudest_sample_does_not_wrap() {
        let mut filter = Resampler::new(8_000, 24_000);
        let mut out = [0; 480];
        for _ in 0..3 {
            assert_eq!(filter.run(&[1_000; 160], &mut out), 480);
        }
        assert!(out.iter().all(|sample| (sample - 1_000).abs() <= 1), "{out:?}");
        let square: [i16; 160] = std::array::from_fn(|n| if n % 16 < 8 { i16::MAX } else { i16::MIN });
        for _ in 0..3 {
            filter.run(&square, &mut out);
        }
        assert!(out.windows(2).all(|pair| i32::from(pair[0]).abs_diff(i32::from(pair[1])) < 40_000));
    }

    #[test]
    fn pieces_come_to_the_same_as_the_whole() {
        let input: [i16; 160] = std::array::from_fn(|n| i16::try_from(n * n % 3_001).unwrap());
        let (mut whole, mut pieces) = ([0; 480], [0; 480]);
        Resampler::new(8_000, 24_000).run(&input, &mut whole);
        let mut filter = Resampler::new(8_000, 24_000);
        let mut at = 0;
        for piece in input.chunks(37) {
            at += filter.run(piece, &mut pieces[at..]);
        }
        assert_eq!(whole, pieces);
    }
}
