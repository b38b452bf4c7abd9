//! The unit of audio inside the box: 20 ms, mono, 24 kHz, signed 16 bit.
//!
//! No codec and no clock here. Lanes, rings, playout and the model's session all count in this unit.

use std::time::Duration;

/// Samples a second between lane and model (the only PCM rate that the model takes).
pub const SAMPLE_RATE: u32 = 24_000;
/// Samples in one frame.
pub const FRAME_SAMPLES: usize = 480;
/// Length of one frame.
pub const FRAME: Duration = Duration::from_millis(20);
/// Samples in one millisecond.
pub const SAMPLES_PER_MS: u64 = 24;

/// Twenty milliseconds of audio on their way between lane and call task.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Playback epoch that the frame belongs to; a lane drops frames of an epoch that is over. 0 upstream.
    pub epoch: u32,
    /// The caller is to hear it whatever she says meanwhile: a lane does not pause it.
    pub firm: bool,
    /// The audio.
    pub samples: [i16; FRAME_SAMPLES],
}

impl Frame {
    /// A frame of digital silence.
    pub const SILENCE: Self = Self { epoch: 0, firm: false, samples: [0; FRAME_SAMPLES] };
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frame").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}
