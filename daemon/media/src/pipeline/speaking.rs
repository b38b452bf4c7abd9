//! From frames to packets for the caller: encode, or repeat silence that was encoded once; number and stamp.

use sauti_core::media::frame::FRAME_SAMPLES;
use sauti_core::media::level::rms_dbfs;
use sauti_core::media::rtp::RtpClock;

use super::{AudioReport, CallerAudioSettings, OutPacket};
use crate::opus::{CodecError, Encoder};

/// Frames of silence that go through the encoder after speech, so that both ends come to rest. The last one's packet is
/// then repeated. Since the encoder has rested too, it takes up speech where the far decoder stands.
const SETTLING: u32 = 5;
/// Samples over which speech that was cut off falls to 0: 2.5 ms.
const FALL: i32 = 60;
/// Longest packet kept as silence; encoded silence takes about ten bytes.
const MAX_SILENCE_BYTES: usize = 160;

/// The sending half of a leg.
#[derive(Debug)]
pub(super) struct Speaking {
    encoder: Encoder,
    clock: RtpClock,
    sending: bool,
    /// Frames of silence encoded since the last speech, up to [`SETTLING`].
    settled: u32,
    silence: [u8; MAX_SILENCE_BYTES],
    silence_len: usize,
    last_sample: i16,
}

impl Speaking {
    pub(super) fn new(settings: &CallerAudioSettings) -> Result<Self, CodecError> {
        Ok(Self {
            encoder: Encoder::new(settings.encoder)?,
            clock: RtpClock::new(settings.first_sequence, settings.first_timestamp),
            sending: true,
            settled: 0,
            silence: [0; MAX_SILENCE_BYTES],
            silence_len: 0,
            last_sample: 0,
        })
    }

    pub(super) fn speak(
        &mut self,
        frame: Option<&[i16; FRAME_SAMPLES]>,
        out: &mut [u8],
        report: &mut AudioReport,
    ) -> Option<OutPacket> {
        self.clock.tick();
        if !self.sending {
            return None;
        }
        let written = match frame {
            Some(frame) => {
                report.spoken_dbfs = report.spoken_dbfs.max(rms_dbfs(frame));
                self.settled = 0;
                self.last_sample = frame[FRAME_SAMPLES - 1];
                self.encoder.encode(frame, out).ok()
            }
            None => self.silence(out),
        };
        let Some(len) = written else {
            report.encode_errors += 1;
            return None;
        };
        let stamp = self.clock.stamp(frame.is_some());
        report.sent += 1;
        report.sent_bytes += u64::try_from(len).unwrap_or(0);
        report.sent_silence += u64::from(frame.is_none());
        Some(OutPacket {
            sequence: stamp.sequence,
            timestamp: stamp.timestamp,
            marker: stamp.marker,
            len,
            speech: frame.is_some(),
        })
    }

    fn silence(&mut self, out: &mut [u8]) -> Option<usize> {
        if self.settled >= SETTLING {
            out.get_mut(..self.silence_len)?.copy_from_slice(self.silence.get(..self.silence_len)?);
            return Some(self.silence_len);
        }
        let mut frame = [0; FRAME_SAMPLES];
        let from = i32::from(std::mem::take(&mut self.last_sample));
        for (left, sample) in (1..=FALL).rev().zip(frame.iter_mut()) {
            // Smaller than `from`, so it fits.
            *sample = i16::try_from(from * left / (FALL + 1)).unwrap_or(0);
        }
        let len = self.encoder.encode(&frame, out).ok()?;
        self.settled += 1;
        if self.settled == SETTLING {
            match (self.silence.get_mut(..len), out.get(..len)) {
                (Some(kept), Some(packet)) => {
                    kept.copy_from_slice(packet);
                    self.silence_len = len;
                }
                // Too long to keep: go on encoding.
                _ => self.settled -= 1,
            }
        }
        Some(len)
    }

    pub(super) fn skip_ticks(&mut self, ticks: u32) {
        self.clock.skip(ticks);
    }

    pub(super) fn set_sending(&mut self, sending: bool) {
        // Nothing was encoded meanwhile, so the far decoder still stands where our encoder does.
        self.sending = sending;
    }

    pub(super) fn set_expected_loss(&mut self, percent: i32) -> Result<(), CodecError> {
        self.encoder.set_expected_loss(percent)
    }

    pub(super) fn timestamp(&self) -> u32 {
        self.clock.timestamp()
    }
}
