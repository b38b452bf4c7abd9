//! Whether somebody speaks in a frame of the caller, and how loud it is.
//!
//! [`VoiceDetector`] is the only place that names the detector (`daemon/decisions/0012-voice-detector.md`); it takes frames as they are pulled,
//! knows no clock and no state of the call, and decides nothing: `sauti_core::media::floor` does. A lane drives it, one
//! frame a tick. Nothing is allocated after it was made.

use sauti_core::media::frame::{FRAME_SAMPLES, SAMPLE_RATE};
use sauti_core::media::level::rms_dbfs;

use crate::resample::Resampler;

/// The detector's own rate.
const RATE: u32 = 16_000;
/// Samples at 16 kHz that the detector takes at a time: 16 ms.
const HOP: usize = 256;
/// Samples at 16 kHz in a frame.
const NARROW: usize = FRAME_SAMPLES / 3 * 2;
/// Input samples that the filter to 16 kHz weighs for each of output; a detector needs no sharper one.
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
    filter: Resampler,
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
        Self::at(SAMPLE_RATE)
    }
}

impl VoiceDetector {
    /// A detector for frames of `rate` samples a second: 8, 16 or 24 kHz.
    #[must_use]
    pub fn at(rate: u32) -> Self {
        Self {
            detector: earshot::Detector::default(),
            filter: Resampler::with_taps(rate, RATE, TAPS),
            narrow: [0; HOP + NARROW],
            narrow_len: 0,
            quiet_frames: FADING,
            likely: 0.0,
        }
    }

    /// Judges the next 20 ms of the caller, at the detector's rate.
    ///
    /// The answer is for the frame's end: what begins in it may show only in the next one.
    pub fn hear(&mut self, frame: &[i16]) -> Voice {
        let dbfs = rms_dbfs(frame);
        self.quiet_frames = if dbfs < QUIET_DBFS { self.quiet_frames.saturating_add(1).min(FADING) } else { 0 };
        self.narrow_len += self.filter.run(frame, &mut self.narrow[self.narrow_len..]);
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
}

#[cfg(test)]
mod tests;
