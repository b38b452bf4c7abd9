//! What a caller leg may speak over RTP, by names and numbers; no signal processing.
//!
//! `[[trunk]] codecs` holds these words, session descriptions their encoding names, the pipeline their rates.

use super::frame::AudioFormat;
use super::g711::Law;
use crate::call::outcome::labels;

labels! {
    /// A codec of a caller leg.
    Codec {
        /// G.711 A-law.
        Pcma => "pcma",
        /// G.711 µ-law.
        Pcmu => "pcmu",
        /// G.722 at 64 kbit/s.
        G722 => "g722",
        /// Opus.
        Opus => "opus",
    }
}

impl Codec {
    /// The encoding name of its `a=rtpmap` (RFC 3551, RFC 7587).
    #[must_use]
    pub const fn rtpmap(self) -> &'static str {
        match self {
            Self::Pcma => "PCMA/8000",
            Self::Pcmu => "PCMU/8000",
            // An error of RFC 1890 that stands (RFC 3551 §4.5.2): the clock is 8 kHz, the audio 16.
            Self::G722 => "G722/8000",
            Self::Opus => "opus/48000/2",
        }
    }

    /// Its payload type where none is negotiated (RFC 3551 §6); 111 is what everybody calls Opus.
    #[must_use]
    pub const fn payload_type(self) -> u8 {
        match self {
            Self::Pcmu => 0,
            Self::Pcma => 8,
            Self::G722 => 9,
            Self::Opus => 111,
        }
    }

    /// True where the number alone names it, without a map.
    #[must_use]
    pub const fn is_static(self) -> bool {
        !matches!(self, Self::Opus)
    }

    /// Ticks a second of its RTP clock.
    #[must_use]
    pub const fn clock_rate(self) -> u32 {
        match self {
            Self::Opus => 48_000,
            Self::Pcma | Self::Pcmu | Self::G722 => 8_000,
        }
    }

    /// Samples a second as we decode it; Opus straight at the box's own rate.
    #[must_use]
    pub const fn sample_rate(self) -> u32 {
        match self {
            Self::Pcma | Self::Pcmu => 8_000,
            Self::G722 => 16_000,
            Self::Opus => 24_000,
        }
    }

    /// The law of its codes, where it is G.711.
    #[must_use]
    pub const fn law(self) -> Option<Law> {
        match self {
            Self::Pcma => Some(Law::A),
            Self::Pcmu => Some(Law::Mu),
            Self::G722 | Self::Opus => None,
        }
    }

    /// The session that takes it without loss: G.711 as it is, everything else as PCM.
    #[must_use]
    pub const fn session_format(self) -> AudioFormat {
        match self {
            Self::Pcma => AudioFormat::Pcma,
            Self::Pcmu => AudioFormat::Pcmu,
            Self::G722 | Self::Opus => AudioFormat::Pcm24,
        }
    }
}
