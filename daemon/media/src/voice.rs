//! Whether somebody speaks in a frame of the caller, and how loud it is.
//!
//! [`VoiceDetector`] is the only place that names the detector (`daemon/decisions/0012-voice-detector.md`); it takes frames as they are pulled,
//! knows no clock and no state of the call, and decides nothing: `sauti_core::media::floor` does. A lane drives it, one
//! frame a tick. Nothing is allocated after it was made.

use sauti_core::media::frame::FRAME_SAMPLES;
use sauti_core::media::level::rms_dbfs;

/// Samples at 16 kHz that the detector takes at a time: 16 ms.
const HOP: usize = 256;
/// Samples at 16 kHz in a frame.
const NARROW: usize = FRAME_SAMPLES / 3 * 2;
/// Taps of each of the two phases of the filter between 24 and 16 kHz.
const TAPS: usize = 16;
/// A frame quieter than this holds no speech that a model could understand; it is not worth a prediction.
const QUIET_DBFS: f32 = -60.0;
/// Quiet frames that are still looked at, so that the detector's memory of speech fades before it rests: 200 ms.
const FADING: u8 = 10;

/// What one frame holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Voice {
    /// How likely somebody speaks, 0 to 1. Half and more is speech.
    pub likely: f32,
    /// Level of the frame, RMS in dB below full scale.
    pub dbfs: f32,
}

/// The detector of one leg; about 10 KiB.
pub struct VoiceDetector {
    detector: earshot::Detector,
    /// One row for each of the two places that an output sample has between input samples.
    filter: [[f32; TAPS]; 2],
    /// The last samples of the frame before, then the frame.
    wide: [f32; TAPS + FRAME_SAMPLES],
    /// At 16 kHz, what the detector has not taken yet.
    narrow: [i16; HOP + NARROW],
    narrow_len: usize,
    quiet_frames: u8,
    likely: f32,
}

impl std::fmt::Debug for VoiceDetector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VoiceDetector").field("likely", &self.likely).finish_non_exhaustive()
    }
}

impl Default for VoiceDetector {
    fn default() -> Self {
        Self {
            detector: earshot::Detector::default(),
            filter: low_pass(),
            wide: [0.0; TAPS + FRAME_SAMPLES],
            narrow: [0; HOP + NARROW],
            narrow_len: 0,
            quiet_frames: FADING,
            likely: 0.0,
        }
    }
}

impl VoiceDetector {
    /// Judges the next 20 ms of the caller.
    ///
    /// The answer is for the frame's end: what begins in it may show only in the next one.
    pub fn hear(&mut self, frame: &[i16; FRAME_SAMPLES]) -> Voice {
        let dbfs = rms_dbfs(frame);
        self.quiet_frames = if dbfs < QUIET_DBFS { self.quiet_frames.saturating_add(1).min(FADING) } else { 0 };
        self.narrow_down(frame);
        let mut likely: Option<f32> = None;
        while self.narrow_len >= HOP {
            if self.quiet_frames < FADING {
                let score = self.detector.predict_i16(&self.narrow[..HOP]);
                likely = Some(likely.map_or(score, |before| before.max(score)));
            } else {
                likely = Some(0.0);
            }
            self.narrow.copy_within(HOP..self.narrow_len, 0);
            self.narrow_len -= HOP;
        }
        // Four frames are five hops, so each frame has at least one.
        self.likely = likely.unwrap_or(self.likely);
        Voice { likely: self.likely, dbfs }
    }

    /// From 24 to 16 kHz: of every three samples two are made, at the places 0 and 1½.
    #[expect(clippy::cast_possible_truncation, reason = "clamped to the range of a sample")]
    fn narrow_down(&mut self, frame: &[i16; FRAME_SAMPLES]) {
        self.wide.copy_within(FRAME_SAMPLES.., 0);
        for (to, from) in self.wide[TAPS..].iter_mut().zip(frame) {
            *to = f32::from(*from);
        }
        let out = &mut self.narrow[self.narrow_len..];
        let windows = self.wide[1..].windows(TAPS);
        let wanted = windows.enumerate().filter(|(at, _)| at % 3 != 2);
        for (to, (at, window)) in out.iter_mut().zip(wanted) {
            let row = &self.filter[at % 3];
            let sum: f32 = window.iter().zip(row).map(|(sample, tap)| sample * tap).sum();
            *to = sum.clamp(-32768.0, 32767.0) as i16;
        }
        self.narrow_len += NARROW;
    }
}

/// A windowed sinc that keeps what is below 7.4 kHz, at 48 kHz, sorted by phase; newest sample last.
#[expect(clippy::cast_possible_truncation, reason = "coefficients of a filter")]
fn low_pass() -> [[f32; TAPS]; 2] {
    const LENGTH: usize = 2 * TAPS;
    const CUT: f64 = 7_400.0 / 48_000.0;
    let tau = std::f64::consts::TAU;
    let tap = |index: usize| {
        let place = index as f64 - (LENGTH - 1) as f64 / 2.0;
        let sinc = (tau * CUT * place).sin() / (std::f64::consts::PI * place);
        let share = index as f64 / (LENGTH - 1) as f64;
        let window = 0.08f64.mul_add((2.0 * tau * share).cos(), 0.42 - 0.5 * (tau * share).cos());
        2.0 * sinc * window
    };
    let mut rows = [[0.0; TAPS]; 2];
    for (phase, row) in rows.iter_mut().enumerate() {
        for (back, to) in row.iter_mut().rev().enumerate() {
            *to = tap(phase + 2 * back) as f32;
        }
    }
    rows
}

#[cfg(test)]
mod tests;
