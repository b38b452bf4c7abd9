//! Opus at the box's own rate: 24 kHz mono in and out, no resampler.
//!
//! A thin, typed skin over libopus with the settings that a WhatsApp leg wants (RFC 6716, RFC 7587). It knows neither
//! RTP nor time, and allocates only when a codec is made. [`crate::pipeline`] drives it.

use opus::{Application, Bandwidth, Bitrate, Channels, ErrorCode, Signal};
use sauti_core::media::frame::{FRAME_SAMPLES, SAMPLE_RATE};
use thiserror::Error;

/// Longest audio that one Opus packet can hold (120 ms), in samples at 24 kHz.
pub const MAX_PACKET_SAMPLES: usize = 6 * FRAME_SAMPLES;
/// Room that always suffices for one encoded 20 ms frame at the bit rates in use, in bytes.
pub const MAX_ENCODED_BYTES: usize = 1275;

/// What a codec call can refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CodecError {
    /// libopus gave no codec: out of memory, or the library was built without what we ask for.
    #[error("libopus cannot make a 24 kHz mono {what} ({reason}); check free memory and how libopus was built")]
    Create {
        /// Which half was asked for.
        what: &'static str,
        /// libopus' own words.
        reason: &'static str,
    },
    /// A setting that libopus does not take.
    #[error("Opus {name} cannot be {value} ({reason}); {allowed}")]
    Setting {
        /// Which setting.
        name: &'static str,
        /// What was asked for.
        value: i32,
        /// libopus' own words.
        reason: &'static str,
        /// The values that would do.
        allowed: &'static str,
    },
    /// The far end's packet is not Opus; drop it and conceal.
    #[error("an Opus packet of {bytes} bytes cannot be decoded ({reason}); it is to be concealed")]
    Packet {
        /// Length of the packet.
        bytes: usize,
        /// libopus' own words.
        reason: &'static str,
    },
    /// A frame that libopus did not encode.
    #[error("a frame cannot be encoded into {room} bytes ({reason}); give at least {MAX_ENCODED_BYTES} bytes")]
    Encode {
        /// Room that the caller gave.
        room: usize,
        /// libopus' own words.
        reason: &'static str,
    },
    /// Concealment was asked for a length that Opus does not know.
    #[error("{samples} samples cannot be concealed; give a multiple of 60 (2.5 ms) up to {MAX_PACKET_SAMPLES}")]
    Length {
        /// The length asked for, at 24 kHz.
        samples: usize,
    },
}

/// How a leg encodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncoderSettings {
    /// Bits a second, 6,000 to 510,000.
    pub bitrate: i32,
    /// 0 (cheapest) to 10.
    pub complexity: i32,
    /// Loss that in-band FEC prepares for, in percent; 0 sends no FEC.
    pub expected_loss: i32,
}

impl Default for EncoderSettings {
    /// 24 kbit/s, complexity 3 (about 0.1 ms a frame on a small core), FEC for 10 % loss.
    fn default() -> Self {
        Self { bitrate: 24_000, complexity: 3, expected_loss: 10 }
    }
}

/// Encodes 20 ms frames: wideband (WhatsApp plays no more than 16 kHz), voice, VBR, in-band FEC, no DTX.
#[derive(Debug)]
pub struct Encoder {
    inner: opus::Encoder,
}

impl Encoder {
    /// Makes an encoder; the one call that allocates.
    ///
    /// # Errors
    /// [`CodecError::Create`] or, for a value outside the ranges of [`EncoderSettings`], [`CodecError::Setting`].
    pub fn new(settings: EncoderSettings) -> Result<Self, CodecError> {
        let inner = opus::Encoder::new(SAMPLE_RATE, Channels::Mono, Application::Voip)
            .map_err(|e| CodecError::Create { what: "encoder", reason: e.code().description() })?;
        let mut encoder = Self { inner };
        encoder
            .inner
            .set_bitrate(Bitrate::Bits(settings.bitrate))
            .map_err(|e| setting("bitrate", settings.bitrate, &e, "give 6000 to 510000 bits a second"))?;
        encoder
            .inner
            .set_complexity(settings.complexity)
            .map_err(|e| setting("complexity", settings.complexity, &e, "give 0 to 10"))?;
        encoder
            .inner
            .set_max_bandwidth(Bandwidth::Wideband)
            .map_err(|e| setting("bandwidth", 16_000, &e, "wideband is the widest that WhatsApp plays"))?;
        encoder.inner.set_signal(Signal::Voice).map_err(|e| setting("signal", 1, &e, "voice or music"))?;
        encoder.inner.set_vbr(true).map_err(|e| setting("vbr", 1, &e, "on or off"))?;
        encoder.inner.set_dtx(false).map_err(|e| setting("dtx", 0, &e, "on or off"))?;
        encoder.set_expected_loss(settings.expected_loss)?;
        Ok(encoder)
    }

    /// Encodes one frame into `out` and returns the packet's length. [`MAX_ENCODED_BYTES`] of room always suffice;
    /// with less room libopus lowers the quality, down to a refusal at 1 byte or none.
    ///
    /// # Errors
    /// [`CodecError::Encode`] if there is no usable room.
    pub fn encode(&mut self, frame: &[i16; FRAME_SAMPLES], out: &mut [u8]) -> Result<usize, CodecError> {
        let room = out.len().min(MAX_ENCODED_BYTES);
        let error = |reason| CodecError::Encode { room, reason };
        let out = out.get_mut(..room).ok_or_else(|| error("no room"))?;
        self.inner.encode(frame, out).map_err(|e| error(e.code().description()))
    }

    /// Tells the encoder which loss (percent, clamped to 0..=100) its in-band FEC is to prepare for; 0 switches FEC off.
    ///
    /// # Errors
    /// [`CodecError::Setting`] if libopus refuses, which it does for no value in range.
    pub fn set_expected_loss(&mut self, percent: i32) -> Result<(), CodecError> {
        let percent = percent.clamp(0, 100);
        self.inner.set_inband_fec(percent > 0).map_err(|e| setting("fec", percent, &e, "on or off"))?;
        self.inner.set_packet_loss_perc(percent).map_err(|e| setting("expected_loss", percent, &e, "give 0 to 100"))
    }

    /// Forgets the past, as if freshly made; the settings stay.
    ///
    /// # Errors
    /// [`CodecError::Setting`] if libopus refuses, which a live encoder does not.
    pub fn reset(&mut self) -> Result<(), CodecError> {
        self.inner.reset_state().map_err(|e| setting("reset", 0, &e, "close the leg"))
    }
}

/// Decodes whatever the far end sends straight to 24 kHz mono (stereo packets are mixed down by libopus).
#[derive(Debug)]
pub struct Decoder {
    inner: opus::Decoder,
}

impl Decoder {
    /// Makes a decoder; the one call that allocates.
    ///
    /// # Errors
    /// [`CodecError::Create`].
    pub fn new() -> Result<Self, CodecError> {
        opus::Decoder::new(SAMPLE_RATE, Channels::Mono)
            .map(|inner| Self { inner })
            .map_err(|e| CodecError::Create { what: "decoder", reason: e.code().description() })
    }

    /// Decodes one packet of any legal duration and returns the number of samples written to the front of `out`.
    ///
    /// # Errors
    /// [`CodecError::Packet`] for bytes that are no Opus packet, the empty one included. The decoder stays usable.
    pub fn decode(&mut self, packet: &[u8], out: &mut [i16; MAX_PACKET_SAMPLES]) -> Result<usize, CodecError> {
        if packet.is_empty() {
            return Err(CodecError::Packet { bytes: 0, reason: "empty packet" });
        }
        self.inner
            .decode(packet, out.as_mut_slice(), false)
            .map_err(|e| CodecError::Packet { bytes: packet.len(), reason: e.code().description() })
    }

    /// Rebuilds `samples` of lost audio that came just before `next`, from the copy inside `next` if it carries one,
    /// else by concealment. `next` itself must be decoded afterwards as usual.
    ///
    /// # Errors
    /// [`CodecError::Length`] or [`CodecError::Packet`].
    pub fn decode_fec(
        &mut self,
        next: &[u8],
        samples: usize,
        out: &mut [i16; MAX_PACKET_SAMPLES],
    ) -> Result<usize, CodecError> {
        if next.is_empty() {
            return self.conceal(samples, out);
        }
        let room = room(samples, out)?;
        self.inner
            .decode(next, room, true)
            .map_err(|e| CodecError::Packet { bytes: next.len(), reason: e.code().description() })
    }

    /// Invents `samples` that continue what was heard last (packet loss concealment; fades out by itself when repeated).
    ///
    /// # Errors
    /// [`CodecError::Length`].
    pub fn conceal(&mut self, samples: usize, out: &mut [i16; MAX_PACKET_SAMPLES]) -> Result<usize, CodecError> {
        let room = room(samples, out)?;
        self.inner.decode(&[], room, false).map_err(|_| CodecError::Length { samples })
    }

    /// Forgets the past, as if freshly made (a new source behind the same leg).
    ///
    /// # Errors
    /// [`CodecError::Setting`] if libopus refuses, which a live decoder does not.
    pub fn reset(&mut self) -> Result<(), CodecError> {
        self.inner.reset_state().map_err(|e| setting("reset", 0, &e, "close the leg"))
    }
}

/// The front of `out` that a concealment of `samples` fills; Opus counts in steps of 2.5 ms.
fn room(samples: usize, out: &mut [i16; MAX_PACKET_SAMPLES]) -> Result<&mut [i16], CodecError> {
    if samples == 0 || !samples.is_multiple_of(60) {
        return Err(CodecError::Length { samples });
    }
    out.get_mut(..samples).ok_or(CodecError::Length { samples })
}

fn setting(name: &'static str, value: i32, error: &opus::Error, allowed: &'static str) -> CodecError {
    let reason = match error.code() {
        ErrorCode::BadArg => "out of range",
        other => other.description(),
    };
    CodecError::Setting { name, value, reason, allowed }
}

#[cfg(test)]
mod tests {
    use sauti_core::media::level::{Tone, rms_dbfs, tone_level};

    use super::*;

    fn pair() -> (Encoder, Decoder) {
        (Encoder::new(EncoderSettings::default()).unwrap(), Decoder::new().unwrap())
    }

    #[test]
    fn a_tone_survives_encoder_and_decoder() {
        let (mut encoder, mut decoder) = pair();
        let mut tone = Tone::new(440.0, 0.3);
        let (mut packet, mut out) = ([0; MAX_ENCODED_BYTES], [0; MAX_PACKET_SAMPLES]);
        let mut last = 0;
        for _ in 0..20 {
            let len = encoder.encode(&tone.frame(), &mut packet).unwrap();
            last = decoder.decode(&packet[..len], &mut out).unwrap();
        }
        assert_eq!(last, FRAME_SAMPLES);
        let heard = &out[..last];
        assert!((rms_dbfs(heard) - rms_dbfs(&tone.frame())).abs() < 1.0, "{}", rms_dbfs(heard));
        assert!(tone_level(heard, 440.0) > 0.9, "{}", tone_level(heard, 440.0));
    }

    #[test]
    fn a_lost_frame_comes_back_from_the_copy_in_the_next_packet() {
        let (mut encoder, mut decoder) = pair();
        let mut plain = Decoder::new().unwrap();
        // Speech-like: a tone that changes its pitch from frame to frame cannot be guessed by concealment.
        let (mut packets, mut out, mut reference) = (Vec::new(), [0; MAX_PACKET_SAMPLES], [0; MAX_PACKET_SAMPLES]);
        for n in 0..40 {
            let mut tone = Tone::new(if n % 8 < 4 { 300.0 } else { 900.0 }, 0.3);
            let mut packet = vec![0; MAX_ENCODED_BYTES];
            let len = encoder.encode(&tone.frame(), &mut packet).unwrap();
            packet.truncate(len);
            packets.push(packet);
        }
        for packet in &packets[..20] {
            decoder.decode(packet, &mut out).unwrap();
            plain.decode(packet, &mut reference).unwrap();
        }
        // Packet 20 (the change to the higher tone) is lost.
        let rebuilt = decoder.decode_fec(&packets[21], FRAME_SAMPLES, &mut out).unwrap();
        let guessed = plain.conceal(FRAME_SAMPLES, &mut reference).unwrap();
        assert_eq!((rebuilt, guessed), (FRAME_SAMPLES, FRAME_SAMPLES));
        assert!(tone_level(&out[240..480], 900.0) > 0.5, "{}", tone_level(&out[240..480], 900.0));
        assert!(tone_level(&reference[240..480], 900.0) < 0.2);
    }

    #[test]
    fn packets_of_every_duration_decode_whole() {
        for frame_ms in [10_usize, 20, 40, 60] {
            let samples = frame_ms * 24;
            let mut raw = opus::Encoder::new(SAMPLE_RATE, Channels::Mono, Application::Voip).unwrap();
            let packet = raw.encode_vec(&vec![1000; samples], 1500).unwrap();
            let mut out = [0; MAX_PACKET_SAMPLES];
            assert_eq!(Decoder::new().unwrap().decode(&packet, &mut out).unwrap(), samples);
        }
    }

    #[test]
    fn rubbish_is_an_error_and_the_decoder_lives_on() {
        let (mut encoder, mut decoder) = pair();
        let mut out = [0; MAX_PACKET_SAMPLES];
        // Code 3 with a frame count of 63 (more than 120 ms), and the empty packet.
        assert!(matches!(decoder.decode(&[0xFF, 0xFF, 0xFF], &mut out), Err(CodecError::Packet { bytes: 3, .. })));
        assert!(matches!(decoder.decode(&[], &mut out), Err(CodecError::Packet { bytes: 0, .. })));
        let mut packet = [0; MAX_ENCODED_BYTES];
        let len = encoder.encode(&[0; FRAME_SAMPLES], &mut packet).unwrap();
        assert_eq!(decoder.decode(&packet[..len], &mut out), Ok(FRAME_SAMPLES));
    }

    #[test]
    fn settings_out_of_range_are_refused_with_the_range() {
        let settings = EncoderSettings { complexity: 11, ..EncoderSettings::default() };
        let error = Encoder::new(settings).unwrap_err();
        assert_eq!(error.to_string(), "Opus complexity cannot be 11 (out of range); give 0 to 10");
        let settings = EncoderSettings { bitrate: -5, ..EncoderSettings::default() };
        assert!(matches!(Encoder::new(settings), Err(CodecError::Setting { name: "bitrate", .. })));
    }

    #[test]
    fn concealment_takes_only_lengths_that_opus_knows() {
        let (_, mut decoder) = pair();
        let mut out = [0; MAX_PACKET_SAMPLES];
        for samples in [0, 61, MAX_PACKET_SAMPLES + 60] {
            assert_eq!(decoder.conceal(samples, &mut out), Err(CodecError::Length { samples }));
        }
        assert_eq!(decoder.conceal(FRAME_SAMPLES, &mut out), Ok(FRAME_SAMPLES));
    }

    #[test]
    fn no_room_is_an_error() {
        let (mut encoder, _) = pair();
        assert!(matches!(encoder.encode(&[0; FRAME_SAMPLES], &mut []), Err(CodecError::Encode { room: 0, .. })));
    }
}
