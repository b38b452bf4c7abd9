//! G.722 at 64 kbit/s (ITU-T, mode 1): 16 kHz audio in one byte for each two samples.
//!
//! A thin skin over the `audio-codec` crate, the only place that names it (`daemon/decisions/0019-trunk-media.md` weighs it).
//! It knows neither RTP nor loss. [`crate::pipeline`] drives it.

use audio_codec::g722::{G722Decoder, G722Encoder};
use audio_codec::{Decoder as _, Encoder as _};

/// Samples that stand in one byte.
pub const SAMPLES_PER_BYTE: usize = 2;

/// Encodes 16 kHz audio.
#[derive(Default)]
pub struct Encoder {
    inner: G722Encoder,
}

impl Encoder {
    /// Encodes an even number of samples into the front of `out` and returns how many bytes that are; 0 where there is
    /// no room.
    pub fn encode(&mut self, samples: &[i16], out: &mut [u8]) -> usize {
        self.inner.encode_into(samples, out).unwrap_or(0)
    }
}

/// Decodes to 16 kHz audio.
#[derive(Default)]
pub struct Decoder {
    inner: G722Decoder,
}

impl Decoder {
    /// Decodes bytes, any of which are valid, into the front of `out` and returns how many samples that are; 0 where
    /// there is no room.
    pub fn decode(&mut self, bytes: &[u8], out: &mut [i16]) -> usize {
        self.inner.decode_into(bytes, out).unwrap_or(0)
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("g722::Encoder")
    }
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("g722::Decoder")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Signal to noise in dB of a tone through both ends, at the best of the delays that the filters may have.
    fn quality(hertz: f64, amplitude: f64) -> f64 {
        #[expect(clippy::cast_possible_truncation, reason = "an amplitude below full scale")]
        let sent: Vec<i16> = (0..16_000)
            .map(|n| ((std::f64::consts::TAU * hertz * f64::from(n) / 16_000.0).sin() * amplitude) as i16)
            .collect();
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let mut heard = Vec::new();
        for frame in sent.chunks(320) {
            let (mut bytes, mut out) = ([0; 160], [0; 320]);
            assert_eq!(encoder.encode(frame, &mut bytes), 160);
            assert_eq!(decoder.decode(&bytes, &mut out), 320);
            heard.extend(out);
        }
        let ratio = |lag: usize| {
            let pairs = sent[2_000..14_000].iter().zip(&heard[2_000 + lag..]);
            let (mut signal, mut noise) = (0.0, 1.0);
            for (a, b) in pairs {
                signal += f64::from(*a).powi(2);
                noise += f64::from(i32::from(*a) - i32::from(*b)).powi(2);
            }
            10.0 * (signal / noise).log10()
        };
        (0..40).map(ratio).fold(f64::MIN, f64::max)
    }

    /// G.722 §2.5: the quantizing distortion that an ADPCM of 6 + 2 bits is held to at these levels, with room.
    #[test]
    fn tones_of_both_bands_survive() {
        for (hertz, least) in [(300.0, 30.0), (1_020.0, 30.0), (3_000.0, 28.0), (6_000.0, 14.0)] {
            let got = quality(hertz, 8_000.0);
            assert!(got > least, "{hertz} Hz: {got} dB");
        }
    }

    #[test]
    fn any_bytes_decode_and_silence_is_silent() {
        let mut decoder = Decoder::default();
        let mut out = [0; 512];
        let all: Vec<u8> = (0..=u8::MAX).collect();
        assert_eq!(decoder.decode(&all, &mut out), 512);
        assert_eq!(decoder.decode(&all, &mut [0; 10]), 0, "no room");
        let (mut encoder, mut bytes) = (Encoder::default(), [0; 160]);
        let mut decoder = Decoder::default();
        for _ in 0..20 {
            encoder.encode(&[0; 320], &mut bytes);
            decoder.decode(&bytes, &mut out);
        }
        assert!(out[..320].iter().all(|sample| sample.abs() <= 4), "{out:?}");
    }
}
