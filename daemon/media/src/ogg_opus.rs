//! A whole Ogg Opus file (RFC 7845) to samples at the box's own rate.
//!
//! For short recordings that are read once, at the start: it allocates, and takes the bytes of the whole file. It is
//! no player; packets of a call never come near it. Files are read by whoever calls.

use std::io::Cursor;

use ogg::PacketReader;
use thiserror::Error;

use crate::opus::{CodecError, Decoder, MAX_PACKET_SAMPLES};

/// Pre-skip and granule positions count at 48 kHz, whatever the rate of the input (RFC 7845, section 4).
const GRANULES_PER_SAMPLE: u64 = 2;
/// The header's fixed part, bytes.
const HEAD: usize = 19;
/// 1.0 in the header's output gain: 256 steps a decibel.
const GAIN_STEPS: f32 = 256.0;

/// Why a file gives no samples.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OggOpusError {
    /// No Ogg, or a damaged one.
    #[error("is not readable as Ogg: {0}")]
    Container(String),
    /// Ogg, but its first packet is no `OpusHead` of a version that is known.
    #[error("is Ogg, but not Opus")]
    Codec,
    /// More channels than a stereo pair.
    #[error("has {0} channels; one or two can be played")]
    Channels(u8),
    /// libopus takes a packet for damaged.
    #[error("holds a damaged packet: {0}")]
    Packet(CodecError),
    /// There is no audio in it.
    #[error("holds no audio")]
    Empty,
    /// More than `longest` samples.
    #[error("is longer than it may be")]
    TooLong,
}

/// Decodes a file to 24 kHz mono: pre-skip, end trimming and output gain applied, two channels mixed by libopus.
///
/// Of several streams in a row the first counts. At most `longest` samples are decoded, so that a small file cannot
/// fill the memory.
///
/// # Errors
/// The file holds none, or too many.
pub fn decode(bytes: &[u8], longest: usize) -> Result<Vec<i16>, OggOpusError> {
    let container = |error: ogg::OggReadError| OggOpusError::Container(error.to_string());
    let mut reader = PacketReader::new(Cursor::new(bytes));
    let first = reader.read_packet().map_err(container)?.ok_or(OggOpusError::Empty)?;
    let (stream, head) = (first.stream_serial(), Head::read(&first.data)?);
    let mut decoder = Decoder::new().map_err(OggOpusError::Packet)?;
    let mut room = [0; MAX_PACKET_SAMPLES];
    let mut samples: Vec<i16> = Vec::new();
    // Where the first page with audio begins, in granules: not at 0 when the file was cut out of a longer one.
    let mut origin = None;
    let (mut end, mut has_tags) = (0, false);
    while let Some(packet) = reader.read_packet().map_err(container)? {
        if packet.stream_serial() != stream {
            continue;
        }
        if !std::mem::replace(&mut has_tags, true) {
            continue;
        }
        let decoded = decoder.decode(&packet.data, &mut room).map_err(OggOpusError::Packet)?;
        samples.extend(room.iter().take(decoded));
        if samples.len() > longest.saturating_add(head.skip).saturating_add(MAX_PACKET_SAMPLES) {
            return Err(OggOpusError::TooLong);
        }
        if packet.last_in_page() {
            end = packet.absgp_page();
            let so_far = (samples.len() as u64).saturating_mul(GRANULES_PER_SAMPLE);
            origin.get_or_insert_with(|| end.saturating_sub(so_far));
        }
        if packet.last_in_stream() {
            break;
        }
    }
    let length = end.saturating_sub(origin.unwrap_or(0)) / GRANULES_PER_SAMPLE;
    samples.truncate(usize::try_from(length).unwrap_or(usize::MAX));
    samples.drain(..head.skip.min(samples.len()));
    head.amplify(&mut samples);
    match samples.len() {
        0 => Err(OggOpusError::Empty),
        length if length > longest => Err(OggOpusError::TooLong),
        _ => Ok(samples),
    }
}

/// What the `OpusHead` says.
struct Head {
    /// Samples at 24 kHz that the decoder needs to settle.
    skip: usize,
    /// Output gain, 1/256 dB.
    gain: i16,
}

impl Head {
    fn read(packet: &[u8]) -> Result<Self, OggOpusError> {
        let head: &[u8; HEAD] = packet.first_chunk().ok_or(OggOpusError::Codec)?;
        let [b'O', b'p', b'u', b's', b'H', b'e', b'a', b'd', version, channels, low, high, rest @ ..] = head else {
            return Err(OggOpusError::Codec);
        };
        let [_, _, _, _, gain_low, gain_high, family] = rest;
        // The upper half of the version says whether a reader of version 1 can cope.
        if version >> 4 != 0 {
            return Err(OggOpusError::Codec);
        }
        if *family != 0 || !(1..=2).contains(channels) {
            return Err(OggOpusError::Channels(*channels));
        }
        let granules = u64::from(u16::from_le_bytes([*low, *high]));
        let skip = usize::try_from(granules / GRANULES_PER_SAMPLE).unwrap_or(usize::MAX);
        Ok(Self { skip, gain: i16::from_le_bytes([*gain_low, *gain_high]) })
    }

    fn amplify(&self, samples: &mut [i16]) {
        if self.gain == 0 {
            return;
        }
        let factor = 10_f32.powf(f32::from(self.gain) / GAIN_STEPS / 20.0);
        for sample in samples {
            #[expect(clippy::cast_possible_truncation, reason = "a float cast saturates, which is what clipping is")]
            let louder = (f32::from(*sample) * factor).round() as i16;
            *sample = louder;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::opus::{Encoder, EncoderSettings, MAX_ENCODED_BYTES};
    use ogg::{PacketWriteEndInfo, PacketWriter};
    use sauti_core::media::frame::FRAME_SAMPLES;

    const SKIP: u16 = 312;

    fn head(channels: u8, gain: i16) -> Vec<u8> {
        let mut head = b"OpusHead\x01".to_vec();
        head.push(channels);
        head.extend(SKIP.to_le_bytes());
        head.extend(24_000_u32.to_le_bytes());
        head.extend(gain.to_le_bytes());
        head.push(0);
        head
    }

    /// A file of `frames` frames of a tone; its last granule position takes `cut` samples away again.
    fn file(head: &[u8], frames: usize, cut: u64, origin: u64) -> Vec<u8> {
        let mut writer = PacketWriter::new(Vec::new());
        writer.write_packet(head.to_vec(), 1, PacketWriteEndInfo::EndPage, 0).unwrap();
        writer.write_packet(b"OpusTags".to_vec(), 1, PacketWriteEndInfo::EndPage, 0).unwrap();
        let mut encoder = Encoder::new(EncoderSettings::default()).unwrap();
        let mut packet = [0; MAX_ENCODED_BYTES];
        for n in 0..frames {
            let mut frame = [0; FRAME_SAMPLES];
            for (place, sample) in frame.iter_mut().enumerate() {
                *sample = if (place / 30) % 2 == 0 { 4_000 } else { -4_000 };
            }
            let length = encoder.encode(&frame, &mut packet).unwrap();
            let is_last = n + 1 == frames;
            let info = if is_last { PacketWriteEndInfo::EndStream } else { PacketWriteEndInfo::NormalPacket };
            let granule = origin + (n as u64 + 1) * 960 - if is_last { cut * 2 } else { 0 };
            writer.write_packet(packet[..length].to_vec(), 1, info, granule).unwrap();
        }
        writer.into_inner()
    }

    fn level(samples: &[i16]) -> f64 {
        (samples.iter().map(|&s| f64::from(s).powi(2)).sum::<f64>() / samples.len() as f64).sqrt()
    }

    #[test]
    fn a_file_is_as_long_as_its_last_position_says_without_what_the_codec_needs_to_settle() {
        let samples = decode(&file(&head(1, 0), 50, 100, 0), 24_000).unwrap();
        assert_eq!(samples.len(), 50 * FRAME_SAMPLES - 100 - usize::from(SKIP / 2));
        assert!(level(&samples) > 1_000.0);
        let (whole, cut_out) = (file(&head(1, 0), 50, 0, 0), file(&head(1, 0), 50, 0, 960_000));
        assert!(decode(&whole, 24_000).unwrap() == decode(&cut_out, 24_000).unwrap(), "out of a longer recording");
    }

    #[test]
    fn a_stereo_head_and_a_gain_are_honoured() {
        let plain = decode(&file(&head(2, 0), 20, 0, 0), 24_000).unwrap();
        let halved = decode(&file(&head(1, -6 * 256), 20, 0, 0), 24_000).unwrap();
        let factor = level(&halved) / level(&plain);
        assert!((0.48..0.52).contains(&factor), "{factor}");
    }

    #[test]
    fn too_much_audio_is_refused_while_it_is_read() {
        let bytes = file(&head(1, 0), 100, 0, 0);
        assert_eq!(decode(&bytes, 24_000), Err(OggOpusError::TooLong));
        assert!(decode(&bytes, 48_000).is_ok());
    }

    #[test]
    fn what_is_no_ogg_opus_is_an_error_that_says_what_it_is() {
        assert!(matches!(decode(b"RIFF....WAVE", 1), Err(OggOpusError::Container(_) | OggOpusError::Empty)));
        assert!(matches!(decode(b"", 1), Err(OggOpusError::Container(_) | OggOpusError::Empty)));
        assert_eq!(decode(&file(b"\x01vorbis-of-some-length", 3, 0, 0), 24_000), Err(OggOpusError::Codec));
        assert_eq!(decode(&file(&head(6, 0), 3, 0, 0), 24_000), Err(OggOpusError::Channels(6)));
        assert_eq!(decode(&file(&head(1, 0), 0, 0, 0), 24_000), Err(OggOpusError::Empty));
    }

    #[test]
    fn damage_anywhere_is_an_error_or_audio_but_never_a_panic() {
        let whole = file(&head(1, 0), 20, 0, 0);
        for place in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] ^= 0xff;
            decode(&damaged, 24_000).ok();
            decode(&whole[..place], 24_000).ok();
        }
    }
}
