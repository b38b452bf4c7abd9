//! The unit of audio inside the box: 20 ms, mono, signed 16 bit, at the rate of the model's session.
//!
//! A frame holds linear samples whatever the session speaks. G.711 exists only on the two wires, towards the caller and
//! towards the model: from a code to its sample and back is the identity ([`super::g711`]), so a trunk's audio reaches the
//! model bit by bit, and levels, pauses and concealment need no second form. No codec and no clock here. Lanes, rings,
//! playout and the model's session all count in this unit.

use std::time::Duration;

use super::g711::Law;

/// Samples a second between lane and model where the session speaks PCM (the only PCM rate that the model takes).
pub const SAMPLE_RATE: u32 = 24_000;
/// Samples that a frame has room for: those of PCM.
pub const FRAME_SAMPLES: usize = 480;
/// Length of one frame.
pub const FRAME: Duration = Duration::from_millis(20);
/// Samples in one millisecond of PCM.
pub const SAMPLES_PER_MS: u64 = 24;

/// What a model's session speaks, the same both ways; one for the whole of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AudioFormat {
    /// 24 kHz, signed 16 bit, little endian.
    #[default]
    Pcm24,
    /// 8 kHz, G.711 µ-law.
    Pcmu,
    /// 8 kHz, G.711 A-law.
    Pcma,
}

impl AudioFormat {
    /// Samples a second.
    #[must_use]
    pub const fn sample_rate(self) -> u32 {
        match self {
            Self::Pcm24 => SAMPLE_RATE,
            Self::Pcmu | Self::Pcma => 8_000,
        }
    }

    /// Samples in one millisecond.
    #[must_use]
    pub const fn samples_per_ms(self) -> u64 {
        match self {
            Self::Pcm24 => SAMPLES_PER_MS,
            Self::Pcmu | Self::Pcma => 8,
        }
    }

    /// Samples of a frame that count; the others are 0.
    #[must_use]
    pub const fn frame_samples(self) -> usize {
        match self {
            Self::Pcm24 => FRAME_SAMPLES,
            Self::Pcmu | Self::Pcma => FRAME_SAMPLES / 3,
        }
    }

    /// Bytes of a sample on the wire to the model, before base64.
    #[must_use]
    pub const fn bytes_per_sample(self) -> u64 {
        match self {
            Self::Pcm24 => 2,
            Self::Pcmu | Self::Pcma => 1,
        }
    }

    /// Bytes of a millisecond on the wire to the model, before base64.
    #[must_use]
    pub const fn bytes_per_ms(self) -> u64 {
        self.samples_per_ms() * self.bytes_per_sample()
    }

    /// The law of the codes on the wire; `None` for PCM.
    #[must_use]
    pub const fn law(self) -> Option<Law> {
        match self {
            Self::Pcm24 => None,
            Self::Pcmu => Some(Law::Mu),
            Self::Pcma => Some(Law::A),
        }
    }

    /// The model's name for it.
    #[must_use]
    pub const fn mime(self) -> &'static str {
        match self {
            Self::Pcm24 => "audio/pcm",
            Self::Pcmu => "audio/pcmu",
            Self::Pcma => "audio/pcma",
        }
    }

    /// Our own name for it, for log and metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Pcm24 => "pcm24",
            Self::Pcmu => "pcmu",
            Self::Pcma => "pcma",
        }
    }
}

const _: () = assert!(AudioFormat::Pcm24.frame_samples() as u64 == 20 * AudioFormat::Pcm24.samples_per_ms());
const _: () = assert!(AudioFormat::Pcma.frame_samples() as u64 == 20 * AudioFormat::Pcma.samples_per_ms());

/// Twenty milliseconds of audio on their way between lane and call task.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Playback epoch that the frame belongs to; a lane drops frames of an epoch that is over. 0 upstream.
    pub epoch: u32,
    /// The caller is to hear it whatever she says meanwhile: a lane does not pause it.
    pub firm: bool,
    /// The audio, linear; at 8 kHz only the first third is used.
    pub samples: [i16; FRAME_SAMPLES],
}

impl Frame {
    /// A frame of digital silence.
    pub const SILENCE: Self = Self { epoch: 0, firm: false, samples: [0; FRAME_SAMPLES] };

    /// The samples that count in a session of this format.
    #[must_use]
    pub fn audio(&self, format: AudioFormat) -> &[i16] {
        self.samples.get(..format.frame_samples()).unwrap_or(&self.samples)
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frame").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}
