//! The audio of one caller leg, both ways, in steps of 20 ms.
//!
//! [`CallerAudio`] stands between decrypted RTP and the frames of the box: it orders, decodes and conceals what comes,
//! encodes and numbers what goes. It opens no socket, reads no clock and allocates nothing once made. A lane drives it:
//! [`CallerAudio::receive`] per packet, then [`CallerAudio::pull`] and [`CallerAudio::speak`] once per tick each.

mod codec;
mod dialling;
mod hearing;
mod speaking;

use std::time::Instant;

use sauti_core::media::codec::Codec;
use sauti_core::media::frame::{AudioFormat, FRAME_SAMPLES};
use sauti_core::media::jitter::{JitterReport, JitterSettings, Pushed};
use sauti_core::media::level::SILENCE_DBFS;
use sauti_core::media::rtp::RtpPacket;

use crate::opus::{CodecError, EncoderSettings};
use hearing::Hearing;
use speaking::Speaking;

/// What one leg is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallerAudioSettings {
    /// What goes over the wire, both ways.
    pub codec: Codec,
    /// Its RTP payload type, from the SDP.
    pub payload_type: u8,
    /// RTP payload type of telephone events, where there are any; WhatsApp assumes 126 when none is named.
    pub event_payload_type: Option<u8>,
    /// Ticks a second of the clock in which their durations count.
    pub event_clock_rate: u32,
    /// What frames hold: the session's rate.
    pub format: AudioFormat,
    /// Length of the packets to send, in ms: 10, 20, 30, 40 or 60. Opus is always sent in 20; all lengths are received.
    pub packet_ms: u8,
    /// How to encode Opus.
    pub encoder: EncoderSettings,
    /// How to buffer; the clock rate is the codec's whatever stands here.
    pub jitter: JitterSettings,
    /// Sequence number of the first packet sent: at random (RFC 3550), below 32,768 (RFC 3711 section 3.3.1: a receiver
    /// that misses the first packets must not miss a wrap with them).
    pub first_sequence: u16,
    /// Timestamp of the first tick (RFC 3550: at random).
    pub first_timestamp: u32,
}

impl Default for CallerAudioSettings {
    /// WhatsApp's payload types, and a clock that begins at 0: give it random numbers in service.
    fn default() -> Self {
        Self {
            codec: Codec::Opus,
            payload_type: 111,
            event_payload_type: Some(126),
            event_clock_rate: 8_000,
            format: AudioFormat::Pcm24,
            packet_ms: 20,
            encoder: EncoderSettings::default(),
            jitter: JitterSettings::default(),
            first_sequence: 0,
            first_timestamp: 0,
        }
    }
}

/// What a received packet was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Audio, and what the jitter buffer did with it.
    Audio(Pushed),
    /// A key that the caller has just pressed: `0`–`9`, `*`, `#`, `A`–`D`. Told once per press, at its first packet.
    Digit(char),
    /// A telephone event that is told already, or that is no key.
    Event,
    /// Neither the leg's codec nor a telephone event nor comfort noise; dropped.
    OtherPayload,
    /// From a source that is not (yet) this leg's; dropped.
    Stranger,
    /// The leg's codec by its type but not by its bytes; dropped, so that it counts as lost.
    Undecodable,
}

/// What a pulled frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Audio as it was sent.
    Voice,
    /// At least in part invented for what is missing.
    Concealed,
    /// The sender sends nothing: the noise of its room as the decoder goes on with it, later silence.
    Comfort,
    /// Silence: nothing has come yet, or the leg is muted.
    Nothing,
}

/// Header fields and length of a packet to send; its payload lies in the buffer that was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutPacket {
    /// RTP payload type: the codec's, or that of telephone events.
    pub payload_type: u8,
    /// RTP sequence number.
    pub sequence: u16,
    /// RTP timestamp.
    pub timestamp: u32,
    /// First packet of a talkspurt.
    pub marker: bool,
    /// Bytes of payload.
    pub len: usize,
    /// False for silence and for keys.
    pub speech: bool,
    /// How many of the frames that were given to speak are over with this packet: they have gone out whole.
    pub frames: u8,
}

/// The leg's figures for the once-a-second publication; counters since it was made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AudioReport {
    /// The jitter buffer's own.
    pub jitter: JitterReport,
    /// Packets of neither the codec nor telephone events.
    pub other_payloads: u64,
    /// Packets from sources that are not this leg's.
    pub strangers: u64,
    /// Packets that are the codec's by type only, and those that the decoder refused.
    pub undecodable: u64,
    /// Changes of the source.
    pub sources: u64,
    /// Keys told.
    pub digits: u64,
    /// Keys not told because they came faster than anybody presses them.
    pub digits_refused: u64,
    /// Frames pulled that hold voice alone.
    pub voice: u64,
    /// Frames pulled that were concealed at least in part.
    pub concealed: u64,
    /// Lost packets rebuilt from, or guessed beside, the packet behind them; part of `concealed`.
    pub recovered: u64,
    /// Frames pulled of room noise or silence while the sender is silent.
    pub comfort: u64,
    /// Frames pulled before the first packet, or muted.
    pub nothing: u64,
    /// Packets handed out for sending.
    pub sent: u64,
    /// Bytes of payload in them.
    pub sent_bytes: u64,
    /// Those among them that hold silence.
    pub sent_silence: u64,
    /// Frames that could not be encoded; nothing was sent in their tick.
    pub encode_errors: u64,
    /// Loudest frame heard since the report before, RMS in dBFS.
    pub heard_dbfs: f32,
    /// Loudest frame spoken since the report before, RMS in dBFS.
    pub spoken_dbfs: f32,
}

impl Default for AudioReport {
    fn default() -> Self {
        Self {
            jitter: JitterReport::default(),
            other_payloads: 0,
            strangers: 0,
            undecodable: 0,
            sources: 0,
            digits: 0,
            digits_refused: 0,
            voice: 0,
            concealed: 0,
            recovered: 0,
            comfort: 0,
            nothing: 0,
            sent: 0,
            sent_bytes: 0,
            sent_silence: 0,
            encode_errors: 0,
            heard_dbfs: SILENCE_DBFS,
            spoken_dbfs: SILENCE_DBFS,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct CallerAudio {
    hearing: Hearing,
    speaking: Speaking,
    report: AudioReport,
}

impl CallerAudio {
    /// Makes a leg with all the memory that it will use. It sends from the first tick on; see [`Self::set_sending`].
    ///
    /// # Errors
    /// [`CodecError`] if libopus gives no codec or refuses a setting.
    pub fn new(settings: CallerAudioSettings) -> Result<Self, CodecError> {
        Ok(Self {
            hearing: Hearing::new(&settings)?,
            speaking: Speaking::new(&settings)?,
            report: AudioReport::default(),
        })
    }

    /// Takes in a decrypted packet, whatever it is.
    pub fn receive(&mut self, now: Instant, packet: &RtpPacket<'_>) -> Received {
        self.hearing.receive(now, packet, &mut self.report)
    }

    /// Fills the frame of this tick with what the caller says. Always writes all of `out`. Read the sockets first; `now` is
    /// best the moment for which the tick was set ([`sauti_core::media::jitter::JitterBuffer::pull`]).
    pub fn pull(&mut self, now: Instant, out: &mut [i16; FRAME_SAMPLES]) -> Heard {
        self.hearing.pull(now, out, &mut self.report)
    }

    /// Encodes the frame of this tick, or silence for `None`, into `out`. [`crate::opus::MAX_ENCODED_BYTES`] always
    /// suffice; Opus at 24 kbit/s has about 60 bytes, G.711 160 for each 20 ms.
    ///
    /// Returns `None` if nothing is to be sent: sending is off, the packet is not full yet, or the frame could not be
    /// encoded. Media time moves on in every case. Where packets are shorter or longer than a tick, ask [`Self::more`]
    /// until it has none. While [`Self::is_dialling`] give no frame: it would not be heard.
    pub fn speak(&mut self, frame: Option<&[i16; FRAME_SAMPLES]>, out: &mut [u8]) -> Option<OutPacket> {
        self.speaking.speak(frame, out, &mut self.report)
    }

    /// The next packet of this tick, where one tick makes several.
    pub fn more(&mut self, out: &mut [u8]) -> Option<OutPacket> {
        self.speaking.more(out, &mut self.report)
    }

    /// Presses a key towards the far end: `0`–`9`, `*`, `#`, `A`–`D`. It goes out in the ticks that come, with keys
    /// before it first. False when telephone events were not negotiated, when it is no key, or when 32 wait.
    pub fn press(&mut self, key: char) -> bool {
        self.speaking.press(key)
    }

    /// True while keys go out.
    #[must_use]
    pub const fn is_dialling(&self) -> bool {
        self.speaking.is_dialling()
    }

    /// Takes over from the audio of another codec on the same leg: numbers, media time, counters, keys that wait. What
    /// that one had received and not played is gone.
    pub fn succeed(&mut self, before: &mut Self) {
        self.hearing.succeed(&before.hearing);
        self.speaking.succeed(&mut before.speaking, self.hearing.codec());
        self.report = before.report;
    }

    /// Says that `ticks` ticks have passed without [`Self::speak`]: the lane was held up and will not make them up.
    pub fn skip_ticks(&mut self, ticks: u32) {
        self.speaking.skip_ticks(ticks);
    }

    /// Switches sending on or off (no audio before the accept has gone through).
    pub fn set_sending(&mut self, sending: bool) {
        self.speaking.set_sending(sending);
    }

    /// Muted, every frame pulled is [`Heard::Nothing`]; packets are consumed all the same.
    pub fn set_muted(&mut self, muted: bool) {
        self.hearing.set_muted(muted);
    }

    /// Drops what the caller said but nobody has pulled.
    pub fn flush_heard(&mut self) {
        self.hearing.flush();
    }

    /// Tells the encoder the loss in percent that the far end reports, for its in-band FEC.
    ///
    /// # Errors
    /// [`CodecError::Setting`] if libopus refuses, which it does for no value in range.
    pub fn set_expected_loss(&mut self, percent: i32) -> Result<(), CodecError> {
        self.speaking.set_expected_loss(percent)
    }

    /// Media time of the current tick, as a sender report needs it.
    #[must_use]
    pub fn timestamp(&self) -> u32 {
        self.speaking.timestamp()
    }

    /// The figures of this moment; the two levels begin anew.
    pub fn report(&mut self) -> AudioReport {
        let report = AudioReport { jitter: self.hearing.jitter_report(), ..self.report };
        self.report.heard_dbfs = SILENCE_DBFS;
        self.report.spoken_dbfs = SILENCE_DBFS;
        report
    }
}

#[cfg(test)]
mod tests;
