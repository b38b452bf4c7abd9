//! The codecs of a leg behind one face each way: payload to samples, samples to payload.
//!
//! Everything here counts in the codec's own samples; rates of sessions are the business of the halves that use it.

use sauti_core::media::codec::Codec;
use sauti_core::media::frame::FRAME_SAMPLES;
use sauti_core::media::g711::Law;
use sauti_core::media::rtp::opus_ticks;

use super::CallerAudioSettings;
use crate::conceal::Concealer;
use crate::opus::{CodecError, MAX_PACKET_SAMPLES};
use crate::{g722, opus};

/// Longest packet that is decoded, in ms, and so for codecs of a byte a tick its longest payload.
const LONGEST_MS: usize = 120;
/// Bytes of G.711 and of G.722 in a millisecond.
pub(super) const BYTES_PER_MS: usize = 8;

/// From payloads to samples.
#[derive(Debug)]
pub(super) enum Decoder {
    Opus(opus::Decoder),
    G711(Law, Concealer),
    G722(Box<g722::Decoder>, Concealer),
}

impl Decoder {
    pub(super) fn new(codec: Codec) -> Result<Self, CodecError> {
        let concealer = Concealer::new(codec.sample_rate());
        Ok(match codec {
            Codec::Opus => Self::Opus(opus::Decoder::new()?),
            Codec::Pcma => Self::G711(Law::A, concealer),
            Codec::Pcmu => Self::G711(Law::Mu, concealer),
            Codec::G722 => Self::G722(Box::default(), concealer),
        })
    }

    /// Length of a payload in ticks of the RTP clock; `None` when it is none of this codec.
    pub(super) fn ticks(&self, payload: &[u8]) -> Option<u32> {
        match self {
            Self::Opus(_) => opus_ticks(payload),
            // A byte a tick, for both.
            Self::G711(..) | Self::G722(..) => {
                u32::try_from(payload.len()).ok().filter(|_| payload.len() <= LONGEST_MS * BYTES_PER_MS)
            }
        }
    }

    /// Samples that stand for `ticks` of the RTP clock, at least one step of what the codec can conceal.
    pub(super) fn samples(&self, ticks: u32) -> usize {
        let ticks = usize::try_from(ticks).unwrap_or(usize::MAX);
        match self {
            Self::Opus(_) => (ticks / 120).clamp(1, MAX_PACKET_SAMPLES / 60) * 60,
            Self::G711(..) => ticks.clamp(1, LONGEST_MS * BYTES_PER_MS),
            Self::G722(..) => ticks.clamp(1, LONGEST_MS * BYTES_PER_MS) * g722::SAMPLES_PER_BYTE,
        }
    }

    /// True where the codec makes the noise of a silent room by itself.
    pub(super) const fn makes_comfort(&self) -> bool {
        matches!(self, Self::Opus(_))
    }

    /// Decodes a payload to the front of `out`; `None` when it cannot be.
    pub(super) fn decode(&mut self, payload: &[u8], out: &mut [i16; MAX_PACKET_SAMPLES]) -> Option<usize> {
        match self {
            Self::Opus(decoder) => decoder.decode(payload, out).ok(),
            Self::G711(law, concealer) => {
                for (sample, code) in out.iter_mut().zip(payload) {
                    *sample = law.decode(*code);
                }
                let len = payload.len().min(out.len());
                concealer.take(&mut out[..len]);
                Some(len)
            }
            Self::G722(decoder, concealer) => {
                let len = decoder.decode(payload, out);
                concealer.take(&mut out[..len]);
                Some(len)
            }
        }
    }

    /// Rebuilds `samples` that were lost just before `next`.
    pub(super) fn rebuild(
        &mut self,
        next: &[u8],
        samples: usize,
        out: &mut [i16; MAX_PACKET_SAMPLES],
    ) -> Option<usize> {
        match self {
            Self::Opus(decoder) => decoder.decode_fec(next, samples, out).ok(),
            Self::G711(..) | Self::G722(..) => self.conceal(samples, out),
        }
    }

    /// True where the packet behind a lost one may hold a copy of it.
    pub(super) const fn sends_copies(&self) -> bool {
        matches!(self, Self::Opus(_))
    }

    /// Invents `samples`.
    pub(super) fn conceal(&mut self, samples: usize, out: &mut [i16; MAX_PACKET_SAMPLES]) -> Option<usize> {
        match self {
            Self::Opus(decoder) => decoder.conceal(samples, out).ok(),
            Self::G711(_, concealer) | Self::G722(_, concealer) => {
                let len = samples.min(out.len());
                concealer.conceal(&mut out[..len]);
                Some(len)
            }
        }
    }
}

/// From samples to payloads, 20 ms at a time.
#[derive(Debug)]
pub(super) enum Encoder {
    Opus(Box<opus::Encoder>),
    G711(Law),
    G722(Box<g722::Encoder>),
}

impl Encoder {
    pub(super) fn new(settings: &CallerAudioSettings) -> Result<Self, CodecError> {
        Ok(match settings.codec {
            Codec::Opus => Self::Opus(Box::new(opus::Encoder::new(settings.encoder)?)),
            Codec::Pcma => Self::G711(Law::A),
            Codec::Pcmu => Self::G711(Law::Mu),
            Codec::G722 => Self::G722(Box::default()),
        })
    }

    /// Encodes the front of a frame, 20 ms at the codec's rate, into `out`; `None` where there is no room.
    pub(super) fn encode(&mut self, frame: &[i16; FRAME_SAMPLES], out: &mut [u8]) -> Option<usize> {
        const BYTES: usize = 20 * BYTES_PER_MS;
        match self {
            Self::Opus(encoder) => encoder.encode(frame, out).ok(),
            Self::G711(law) => {
                for (code, sample) in out.get_mut(..BYTES)?.iter_mut().zip(frame) {
                    *code = law.encode(*sample);
                }
                Some(BYTES)
            }
            Self::G722(encoder) => {
                let samples = &frame[..BYTES * g722::SAMPLES_PER_BYTE];
                let len = encoder.encode(samples, out.get_mut(..BYTES)?);
                (len == BYTES).then_some(BYTES)
            }
        }
    }
}
