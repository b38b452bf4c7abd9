//! What to play for packets that did not come, where the codec has no idea of its own (G.711, G.722).
//!
//! In the manner of ITU-T G.711 Appendix I: the last period of the voice is repeated, at full level for 10 ms and then
//! fading to nothing at 60 ms, and the packet behind the hole is blended in. Unlike there nothing is held back for it, so
//! it costs no delay; the step to the first repetition is taken out instead. No RTP, no time, nothing allocated after it
//! was made. Driven by [`crate::pipeline`].

/// Periods of voices, in ms: 200 down to 66 Hz.
const SHORTEST_MS: usize = 5;
const LONGEST_MS: usize = 15;
/// Length of what is compared with what was before it, in ms.
const COMPARED_MS: usize = 20;
/// From when concealment fades, and when it is silent, in ms.
const FADES_MS: usize = 10;
const SILENT_MS: usize = 60;
/// Longest blend into what comes behind a hole, in ms.
const BLEND_MS: usize = 10;

/// See the module.
#[derive(Debug)]
pub(crate) struct Concealer {
    per_ms: usize,
    /// The latest audio, oldest first: enough for the comparison at the longest period.
    history: Vec<i16>,
    /// One period, whose end leads into its beginning.
    period: Vec<i16>,
    period_len: usize,
    at: usize,
    /// How far the first repetition begins from where the voice stood.
    step: i32,
    /// Samples concealed since the last packet.
    lost: usize,
}

impl Concealer {
    /// For audio of `rate` samples a second.
    pub(crate) fn new(rate: u32) -> Self {
        let per_ms = rate as usize / 1_000;
        Self {
            per_ms,
            history: vec![0; (COMPARED_MS + LONGEST_MS) * per_ms],
            period: vec![0; LONGEST_MS * per_ms],
            period_len: 0,
            at: 0,
            step: 0,
            lost: 0,
        }
    }

    /// Takes audio that came, blending its beginning with the concealment before it.
    pub(crate) fn take(&mut self, samples: &mut [i16]) {
        if self.lost > 0 {
            // A quarter of a period, and 4 ms more for each 10 ms of loss (Appendix I).
            let wanted = self.period_len / 4 + self.lost * 4 / 10;
            let blend = wanted.min(BLEND_MS * self.per_ms).min(samples.len());
            for (n, sample) in samples.iter_mut().take(blend).enumerate() {
                *sample = mix(self.next(), *sample, n + 1, blend + 1);
            }
            self.lost = 0;
        }
        self.remember(samples);
    }

    /// Fills `out` with what might have been said.
    pub(crate) fn conceal(&mut self, out: &mut [i16]) {
        if self.lost == 0 {
            self.find_period();
        }
        for sample in out.iter_mut() {
            *sample = self.next();
        }
        self.remember(out);
    }

    fn remember(&mut self, samples: &[i16]) {
        let keep = samples.len().min(self.history.len());
        self.history.copy_within(keep.., 0);
        let at = self.history.len() - keep;
        self.history[at..].copy_from_slice(&samples[samples.len() - keep..]);
    }

    /// Chooses the period that continues best, and makes it a loop.
    fn find_period(&mut self) {
        let coarse = self.best(SHORTEST_MS * self.per_ms, LONGEST_MS * self.per_ms, 2);
        let low = coarse.saturating_sub(2).max(SHORTEST_MS * self.per_ms);
        let len = self.best(low, (coarse + 2).min(LONGEST_MS * self.per_ms), 1);
        let end = self.history.len();
        self.period_len = len;
        self.period[..len].copy_from_slice(&self.history[end - len..]);
        // The last quarter goes over into what came before the period, which leads to its first sample.
        let quarter = len / 4;
        for n in 0..quarter {
            let (at, before) = (len - quarter + n, end - len - quarter + n);
            self.period[at] = mix(self.period[at], self.history[before], n + 1, quarter);
        }
        self.step = i32::from(self.history[end - 1]) - i32::from(self.history[end - len - 1]);
        self.at = 0;
    }

    /// The lag in `low..=high` at which the latest audio is most like what was before it; every `stride`th is looked at.
    fn best(&self, low: usize, high: usize, stride: usize) -> usize {
        let window = COMPARED_MS * self.per_ms;
        let end = self.history.len();
        let latest = &self.history[end - window..];
        let mut best = (low, f32::MIN);
        for lag in (low..=high).step_by(stride) {
            let before = &self.history[end - window - lag..end - lag];
            let (mut cross, mut energy) = (0_i64, 1_i64);
            for (a, b) in latest.iter().zip(before).step_by(stride) {
                cross += i64::from(i32::from(*a) * i32::from(*b));
                energy += i64::from(i32::from(*b) * i32::from(*b));
            }
            let likeness = cross as f32 / (energy as f32).sqrt();
            if likeness > best.1 {
                best = (lag, likeness);
            }
        }
        best.0
    }

    fn next(&mut self) -> i16 {
        if self.period_len == 0 {
            return 0;
        }
        let sample = i32::from(self.period[self.at]);
        // The step from the voice to its repetition fades within a quarter of a period.
        let quarter = (self.period_len / 4).max(1);
        let rest = quarter.saturating_sub(self.lost + 1);
        let sample = sample + self.step * small(rest) / small(quarter);
        self.at = (self.at + 1) % self.period_len;
        let (fades, silent) = (FADES_MS * self.per_ms, SILENT_MS * self.per_ms);
        let level = small(silent.saturating_sub(self.lost).min(silent - fades));
        self.lost += 1;
        clamp(sample * level / small(silent - fades))
    }
}

/// The way from `old` to `new` after `n` of `of` steps.
pub(crate) fn mix(old: i16, new: i16, n: usize, of: usize) -> i16 {
    let (n, of) = (small(n.min(of)), small(of).max(1));
    clamp((i32::from(old) * (of - n) + i32::from(new) * n) / of)
}

/// Lengths here are below a second of audio.
fn small(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

#[expect(clippy::cast_possible_truncation, reason = "clamped to the range of a sample")]
fn clamp(sample: i32) -> i16 {
    sample.clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16
}

#[cfg(test)]
#[path = "conceal_tests.rs"]
mod tests;
