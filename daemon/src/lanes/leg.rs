//! A caller leg as the lane drives it: an engine and the signal path, joined.
//!
//! It turns datagrams into frames and frames into datagrams; sockets, rings and time belong to the lane.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use heapless::Deque;
use sauti_core::media::floor::{BargeIn, Decision, Floor, Tick};
use sauti_core::media::frame::{AudioFormat, FRAME, FRAME_SAMPLES, Frame};
use sauti_core::media::level::{SILENCE_DBFS, rms_dbfs};
use sauti_core::media::quality::{ExpectedLoss, FarReading, Reading};
use sauti_core::media::rtp::RtpPacket;
use sauti_media::opus::{CodecError, EncoderSettings, MAX_ENCODED_BYTES};
use sauti_media::pipeline::{AudioReport, CallerAudio, CallerAudioSettings, Heard, OutPacket, Received};
use sauti_media::rtp::{FarReport, LegCounters, LegEvent, RtpOut};
use sauti_media::rtp_sdp::{RtpRefusal, RtpTerms};
use sauti_media::voice::{Voice, VoiceDetector};
use sauti_media::webrtc::WebRtcLeg;

use super::engine::Engine;
use super::lane::LaneEvent;
use super::slots::LaneEnd;
use crate::obs::metrics::Metrics;

/// Loss that in-band FEC prepares for until the far end has reported some: a phone on a mobile network.
const EXPECTED_LOSS: i32 = ExpectedLoss::AT_FIRST;

/// Ticks that speech waits for the first packet of a far end that cannot hear us before it has our key: what goes out
/// before the answer has reached it is lost, and its media follows ours (whatsapp-calling §4). Silence goes out meanwhile;
/// after a second the far end is taken for one that only listens.
const FOR_THE_KEY: u8 = 50;

/// Keys that wait for the call task to be told: a lane reads at most 64 packets of a call at a time, and a key has
/// three at its end alone (RFC 4733 §2.5.1.4), so 16 keys fit a burst of a stalled network whole.
const DIGITS: usize = 16;

/// `[media]` for the codec.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Codec {
    pub(crate) bitrate: u32,
    pub(crate) complexity: u8,
}

impl Codec {
    /// How Opus is encoded.
    pub(super) fn encoder(self) -> EncoderSettings {
        EncoderSettings {
            bitrate: i32::try_from(self.bitrate).unwrap_or(i32::MAX),
            complexity: i32::from(self.complexity),
            expected_loss: EXPECTED_LOSS,
        }
    }
}

/// The signal path of a leg of WebRTC.
pub(super) fn webrtc_audio(engine: &WebRtcLeg, codec: Codec) -> CallerAudioSettings {
    let types = engine.payload_types();
    CallerAudioSettings {
        payload_type: types.opus,
        event_payload_type: Some(types.telephone_event.unwrap_or(126)),
        encoder: codec.encoder(),
        ..CallerAudioSettings::default()
    }
}

/// What a leg says of itself once a second; counters since it began.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LegReport {
    /// Media packets of the caller.
    pub media_packets: u64,
    /// Signal path.
    pub audio: AudioReport,
    /// Engine.
    pub engine: LegCounters,
    /// Frames in the rings: up, down.
    pub rings: (usize, usize),
    /// Frames of the caller that found the ring full.
    pub up_dropped: u64,
    /// Interarrival jitter of the caller's packets, once some came.
    pub jitter: Duration,
    /// What the far end last said of our packets.
    pub far: Option<FarReport>,
}

impl LegReport {
    /// The figures that say how the call sounds.
    #[must_use]
    pub fn reading(&self) -> Reading {
        let far = |report: FarReport| FarReading {
            lost: u64::try_from(report.lost).unwrap_or(0),
            jitter_ms: report.jitter.as_secs_f64() * 1_000.0,
            round_trip: report.round_trip,
        };
        Reading {
            received: self.audio.jitter.received.saturating_sub(self.audio.jitter.late),
            lost: self.audio.jitter.lost,
            rebuilt: self.audio.recovered,
            loss_runs: self.audio.jitter.loss_runs,
            buffer_ms: self.audio.jitter.depth_ms,
            jitter_ms: self.jitter.as_secs_f64() * 1_000.0,
            sent: self.engine.rtp_out,
            far: self.far.map(far),
        }
    }

    /// Adds what has changed since `before` to the metrics, and the depths of this moment.
    pub fn count(&self, before: Option<&Self>, metrics: &Metrics, reservoir: Duration) {
        let grown = |now: fn(&Self) -> u64| now(self).saturating_sub(before.map_or(0, now));
        metrics.packets("received", grown(|report| report.engine.rtp_in));
        metrics.packets("sent", grown(|report| report.engine.rtp_out));
        metrics.packets("late", grown(|report| report.audio.jitter.late));
        metrics.packets("lost", grown(|report| report.audio.jitter.lost));
        metrics.packets("duplicate", grown(|report| report.audio.jitter.duplicates));
        metrics.packets("recovered", grown(|report| report.audio.recovered));
        metrics.packets("stranger", grown(|report| report.engine.strangers));
        metrics.packets("stun_refused", grown(|report| report.engine.stun_refused));
        metrics.packets("srtp_refused", grown(|report| report.engine.srtp_failures + report.engine.replayed));
        metrics.packets("malformed", grown(|report| report.engine.bad_packets + report.audio.undecodable));
        metrics.packets("up_dropped", grown(|report| report.up_dropped));
        metrics.packets("other_payload", grown(|report| report.audio.other_payloads));
        metrics.packets("other_source", grown(|report| report.audio.strangers));
        metrics.packets("dtmf_refused", grown(|report| report.audio.digits_refused));
        metrics.packets("not_encoded", grown(|report| report.audio.encode_errors));
        metrics.packets("early", grown(|report| report.engine.early));
        metrics.packets("unpolled", grown(|report| report.engine.unpolled));
        let (up, down) = self.rings;
        metrics.depths(
            f64::from(self.audio.jitter.depth_ms),
            reservoir,
            f64::from(u32::try_from(up).unwrap_or(u32::MAX)),
            f64::from(u32::try_from(down).unwrap_or(u32::MAX)),
        );
    }
}

/// One leg.
#[derive(Debug)]
pub(super) struct Leg {
    engine: Engine,
    audio: CallerAudio,
    format: AudioFormat,
    up: bool,
    open: bool,
    /// The far end lets us send: it has not put us on hold.
    sends: bool,
    /// Of [`FOR_THE_KEY`], those that are left.
    waits: u8,
    /// Epochs of the frames that are in packets which have not gone out; 60 ms are three frames, and one may be begun.
    gathered: Deque<u32, 8>,
    media: bool,
    digits: Deque<char, DIGITS>,
    frame: Frame,
    packet: [u8; MAX_ENCODED_BYTES],
    up_dropped: u64,
    ear: Option<Box<Ear>>,
    far: Option<FarReport>,
    expected_loss: ExpectedLoss,
}

/// What judges on the lane whether the caller speaks over the AI.
#[derive(Debug)]
struct Ear {
    detector: VoiceDetector,
    floor: Floor,
    /// Of the frame that was heard last.
    voice: Voice,
    /// The tick before was a pause: what follows rises from silence.
    paused: bool,
}

/// Nobody speaks.
const NO_VOICE: Voice = Voice { likely: 0.0, dbfs: SILENCE_DBFS };
/// How long speech takes to rise after a pause, as a share of a frame: 5 ms.
const RISE: usize = 4;

impl Ear {
    /// Whether the frame that waits is to be played now.
    fn judge(&mut self, format: AudioFormat, end: &mut LaneEnd) -> Decision {
        let (epoch, resume) = (end.epoch(), end.take_resume());
        let next = end.waiting().map(|frame| (frame.firm, rms_dbfs(frame.audio(format))));
        self.floor.tick(&Tick {
            length: FRAME,
            likely: self.voice.likely,
            caller_dbfs: self.voice.dbfs,
            next_dbfs: next.map(|(_, dbfs)| dbfs),
            firm: next.is_some_and(|(firm, _)| firm),
            epoch,
            resume,
        })
    }
}

/// Lets a frame begin in silence.
fn rise(format: AudioFormat, samples: &mut [i16; FRAME_SAMPLES]) {
    let rise = i32::try_from(format.frame_samples() / RISE).unwrap_or(1);
    for (n, sample) in (1..=rise).zip(samples) {
        // Smaller than before, so it fits.
        *sample = i16::try_from(i32::from(*sample) * n / (rise + 1)).unwrap_or(0);
    }
}

impl Leg {
    /// Joins an engine with a signal path; it sends nothing until [`Leg::open`]. The first numbers of `audio` are set here.
    ///
    /// # Errors
    /// libopus refuses the settings.
    pub(super) fn new(engine: Engine, audio: CallerAudioSettings, barge_in: BargeIn) -> Result<Self, CodecError> {
        // The SSRC is drawn at random; so are, out of it, the first numbers (RFC 3550 §5.1).
        let [a, b, c, d] = engine.ssrc().to_be_bytes();
        let format = audio.format;
        let mut audio = CallerAudio::new(CallerAudioSettings {
            // Below 32,768, so that SRTP sees no wrap among the first packets (RFC 3711 §3.3.1).
            first_sequence: u16::from_be_bytes([b & 0x7F, d]),
            first_timestamp: u32::from_be_bytes([c, a, d, b]),
            ..audio
        })?;
        audio.set_sending(false);
        Ok(Self {
            engine,
            audio,
            format,
            up: false,
            open: false,
            sends: true,
            waits: 0,
            gathered: Deque::new(),
            media: false,
            digits: Deque::new(),
            frame: Frame::SILENCE,
            packet: [0; MAX_ENCODED_BYTES],
            up_dropped: 0,
            ear: barge_in.settings().map(|settings| {
                let (detector, floor) = (VoiceDetector::at(format.sample_rate()), Floor::new(settings));
                Box::new(Ear { detector, floor, voice: NO_VOICE, paused: false })
            }),
            far: None,
            expected_loss: ExpectedLoss::default(),
        })
    }

    /// Takes what SIP agreed on, and another signal path where that has changed.
    ///
    /// # Errors
    /// The keys cannot be used.
    pub(super) fn agree(
        &mut self,
        now: Instant,
        terms: RtpTerms,
        audio: Option<CallerAudio>,
    ) -> Result<(), RtpRefusal> {
        self.engine.agree(now, &terms)?;
        if let Some(mut audio) = audio {
            audio.succeed(&mut self.audio);
            self.audio = audio;
        }
        self.set_terms(&terms);
        Ok(())
    }

    /// Sends and hears as was agreed.
    pub(super) fn set_terms(&mut self, terms: &RtpTerms) {
        self.sends = terms.sends;
        self.waits = if terms.keys.is_some() && !self.open { FOR_THE_KEY } else { self.waits };
        self.audio.set_sending(self.open && self.sends);
        self.audio.set_muted(!terms.hears);
    }

    /// Presses keys towards the far end; what is no key is left out.
    pub(super) fn press(&mut self, keys: &str) {
        for key in keys.chars() {
            self.audio.press(key);
        }
    }

    /// True once media may flow.
    pub(super) const fn is_up(&self) -> bool {
        self.up
    }

    /// Frames may go out from now on.
    pub(super) fn open(&mut self) {
        self.open = true;
        self.audio.set_sending(self.sends);
    }

    /// The far end has our answer now: checks and hellos that went unanswered are repeated at once.
    pub(super) fn answer_delivered(&mut self, now: Instant) {
        self.engine.answer_delivered(now);
    }

    /// Takes a datagram; `control` says that it came to the socket which RTCP has for itself.
    pub(super) fn receive(&mut self, now: Instant, from: SocketAddr, datagram: &[u8], control: bool) {
        self.engine.receive(now, from, datagram, control);
        while let Some(packet) = self.engine.poll_rtp() {
            let view = RtpPacket {
                payload_type: packet.payload_type,
                marker: packet.marker,
                sequence: packet.sequence,
                timestamp: packet.timestamp,
                ssrc: packet.ssrc,
                payload: &packet.payload,
            };
            if let Received::Digit(digit) = self.audio.receive(packet.at, &view) {
                // Beyond the bound nobody presses keys: it is a flood, and keys of it are lost.
                self.digits.push_back(digit).ok();
            }
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.engine.handle_timeout(now);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.engine.deadline()
    }

    /// What the call task has to know, oldest first.
    pub(super) fn poll_event(&mut self) -> Option<LaneEvent> {
        while let Some(event) = self.engine.poll_event() {
            match event {
                LegEvent::Connected => {
                    self.up = true;
                    return Some(LaneEvent::Up);
                }
                LegEvent::Bye | LegEvent::Closed => return Some(LaneEvent::Bye),
                LegEvent::Failed(_) => return Some(LaneEvent::Lost),
                LegEvent::Report(report) => {
                    self.far = Some(report);
                    if let Some(percent) = self.expected_loss.reported(report.fraction_lost) {
                        // libopus takes every percentage; without it FEC goes on as before.
                        self.audio.set_expected_loss(percent).ok();
                    }
                }
                LegEvent::IceConnected | LegEvent::Disconnected | LegEvent::Recovered => {}
            }
        }
        if !self.media && self.engine.counters().rtp_in > 0 {
            self.media = true;
            return Some(LaneEvent::Media);
        }
        if let Some(digit) = self.digits.pop_front() {
            return Some(LaneEvent::Dtmf(digit));
        }
        self.ear.as_mut()?.floor.poll_event().map(LaneEvent::Overlap)
    }

    /// Hands every datagram that is due to `send`.
    pub(super) fn transmit(&mut self, mut send: impl FnMut(SocketAddr, &[u8], bool)) {
        while self.engine.transmit(&mut send) {}
    }

    /// Twenty milliseconds from the caller into the ring.
    pub(super) fn listen(&mut self, now: Instant, end: &mut LaneEnd) {
        let heard = self.audio.pull(now, &mut self.frame.samples);
        if let Some(ear) = &mut self.ear {
            ear.voice =
                if heard == Heard::Nothing { NO_VOICE } else { ear.detector.hear(self.frame.audio(self.format)) };
        }
        if heard == Heard::Nothing {
            return;
        }
        self.frame.epoch = 0;
        if end.up.enqueue(self.frame).is_err() {
            self.up_dropped += 1;
        }
    }

    /// Twenty milliseconds out of the ring to the caller; silence when there are none.
    pub(super) fn speak(&mut self, now: Instant, end: &mut LaneEnd) {
        if !self.up {
            return;
        }
        let mut frame = None;
        let waits = self.open && self.waits > 0 && self.engine.counters().rtp_in == 0;
        self.waits -= u8::from(waits);
        // On hold nothing is taken: what waits is said when the hold is over. Keys are pressed in silence.
        if self.open && self.sends && !waits && !self.audio.is_dialling() {
            let pause = self.ear.as_mut().is_some_and(|ear| ear.judge(self.format, end) == Decision::Pause);
            if !pause {
                frame = end.next_frame();
            }
            if let Some(ear) = &mut self.ear
                && std::mem::replace(&mut ear.paused, pause)
                && let Some(frame) = &mut frame
            {
                rise(self.format, &mut frame.samples);
            }
        }
        if let Some(frame) = &frame {
            // Frames leave with the packets that hold their ends, and a packet has at most three; holds that come and go
            // may leave more, of which the oldest is as good as gone.
            if self.gathered.is_full()
                && let Some(epoch) = self.gathered.pop_front()
            {
                end.count_consumed(epoch);
            }
            self.gathered.push_back(frame.epoch).ok();
        }
        let samples: Option<&[i16; FRAME_SAMPLES]> = frame.as_ref().map(|frame| &frame.samples);
        let mut next = self.audio.speak(samples, &mut self.packet);
        while let Some(packet) = next {
            self.send(now, &packet, end);
            next = self.audio.more(&mut self.packet);
        }
    }

    fn send(&mut self, now: Instant, packet: &OutPacket, end: &LaneEnd) {
        let out = RtpOut {
            payload_type: packet.payload_type,
            sequence: packet.sequence,
            timestamp: packet.timestamp,
            marker: packet.marker,
            payload: &self.packet[..packet.len],
        };
        // A packet that the engine does not take is lost like one on the way; the engine's events say if it is over.
        let sent = self.engine.send_rtp(now, &out).is_ok();
        for _ in 0..packet.frames {
            if let Some(epoch) = self.gathered.pop_front().filter(|_| sent) {
                end.count_consumed(epoch);
            }
        }
    }

    /// `ticks` ticks have passed and will not be made up.
    pub(super) fn skip_ticks(&mut self, ticks: u32) {
        self.audio.skip_ticks(ticks);
    }

    /// Says goodbye to the far end.
    pub(super) fn close(&mut self, now: Instant) {
        self.engine.close(now);
    }

    /// The figures of this moment.
    pub(super) fn report(&mut self, rings: (usize, usize)) -> LegReport {
        let engine = self.engine.counters();
        LegReport {
            media_packets: engine.rtp_in,
            audio: self.audio.report(),
            engine,
            rings,
            up_dropped: self.up_dropped,
            jitter: self.engine.reception().map_or(Duration::ZERO, |reception| reception.jitter),
            far: self.far,
        }
    }
}

#[cfg(test)]
mod tests {
    use sauti_media::webrtc::{Certificate, LegSettings};
    use sauti_media::webrtc_sdp::OfferShape;

    use super::*;

    /// A leg that is up, and the caller's side of it.
    fn connected() -> (Instant, Leg, WebRtcLeg) {
        let mut now = Instant::now();
        let certificate = Certificate::generate().unwrap();
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let own = |local: &'static SocketAddr| LegSettings {
            certificate: &certificate,
            local: *local,
            advertise: std::slice::from_ref(local),
        };
        let places: &'static [SocketAddr; 2] = Box::leak(Box::new([at(4_000), at(4_002)]));
        let (mut caller, offer) = WebRtcLeg::offer(now, &own(&places[0]), &OfferShape::default()).unwrap();
        let (engine, answer) = WebRtcLeg::answer(now, &offer, &own(&places[1])).unwrap();
        let audio = webrtc_audio(&engine, Codec { bitrate: 24_000, complexity: 0 });
        let mut leg = Leg::new(Engine::WebRtc(Box::new(engine)), audio, BargeIn::Normal).unwrap();
        caller.accept_answer(now, &answer).unwrap();
        for _ in 0..500 {
            while let Some((_, datagram)) = caller.poll_transmit() {
                leg.receive(now, places[0], datagram.as_ref(), false);
            }
            leg.handle_timeout(now);
            caller.handle_timeout(now);
            leg.transmit(|_, datagram, _| caller.receive(now, places[1], datagram));
            while leg.poll_event().is_some() {}
            now += Duration::from_millis(10);
        }
        assert!(leg.is_up(), "the two reach each other");
        (now, leg, caller)
    }

    /// Presses a key: one packet of a telephone event (RFC 4733 §2.3), all in one burst with those before it.
    fn press(now: Instant, caller: &mut WebRtcLeg, number: u16, key: u8) {
        let packet = RtpOut {
            payload_type: caller.payload_types().telephone_event.unwrap(),
            sequence: number,
            timestamp: u32::from(number) * 4_800,
            marker: true,
            payload: &[key, 10, 0, 160],
        };
        caller.send_rtp(now, &packet).unwrap();
    }

    fn keys(leg: &mut Leg) -> String {
        let events = std::iter::from_fn(|| leg.poll_event());
        events.filter_map(|event| if let LaneEvent::Dtmf(key) = event { Some(key) } else { None }).collect()
    }

    #[test]
    fn keys_that_arrive_together_are_all_told_in_order_and_a_flood_is_bounded() {
        let (now, mut leg, mut caller) = connected();
        let hear = |now: Instant, leg: &mut Leg, caller: &mut WebRtcLeg| {
            while let Some((to, datagram)) = caller.poll_transmit() {
                assert_eq!(to.port(), 4_002);
                leg.receive(now, ([127, 0, 0, 1], 4_000).into(), datagram.as_ref(), false);
            }
        };
        for (number, key) in [5, 11, 5].into_iter().enumerate() {
            press(now, &mut caller, u16::try_from(number).unwrap() + 1, key);
        }
        hear(now, &mut leg, &mut caller);
        assert_eq!(keys(&mut leg), "5#5");
        // A second later as many may come at once as a stalled network can hold back, and no more.
        let now = now + Duration::from_secs(1);
        for number in 0..40 {
            press(now, &mut caller, 100 + number, 1);
            hear(now, &mut leg, &mut caller);
        }
        let told = keys(&mut leg).len();
        assert!((1..=DIGITS).contains(&told), "{told} of 40");
    }
}
