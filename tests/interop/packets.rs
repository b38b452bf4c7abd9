//! The same packets over the same bad network into two decoders: the product's ears, and plain concealment.
//!
//! All in virtual time, so a scene is a value: line, network and seed. Packets are those of libopus at 20 kbit/s,
//! wideband, with in-band FEC for 10 % loss. Two decoders get them:
//!
//! - *ours*: [`CallerAudio`], as a lane drives it: adaptive jitter buffer, FEC, concealment, blending;
//! - *plain*: a fixed jitter buffer that plays the first packet [`FIXED_DELAY`] after it came and then one every 20 ms,
//!   and for each packet that is not there by then libopus' own concealment, once, for 20 ms; no FEC. The delay covers all
//!   the jitter there is, so that it loses nothing to lateness and never adapts: only what is lost makes it worse.

use std::time::{Duration, Instant};

use sauti_core::media::frame::FRAME_SAMPLES;
use sauti_core::media::rtp::{OPUS_FRAME_TICKS, RtpPacket};
use sauti_media::opus::{Decoder, Encoder, EncoderSettings, MAX_ENCODED_BYTES, MAX_PACKET_SAMPLES};
use sauti_media::pipeline::{CallerAudio, CallerAudioSettings};
use sauti_sim::audio::speech::Line;
use sauti_sim::network::{JitterShape, Path, PathSettings, Percent};

const FRAME: Duration = Duration::from_millis(20);
/// Silence before the first line, between two lines, and after the last one, in frames.
const LEAD: usize = 50;
const PAUSE: usize = 25;
/// Buffer of the plain decoder: 40 ms of jitter and one frame.
const FIXED_DELAY: Duration = Duration::from_millis(60);

/// A network of "Done when" 2 of the specification.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    /// For tables.
    pub(crate) name: &'static str,
    /// Share of packets lost.
    loss_percent: u8,
    /// Mean length of a run of losses; 0: losses know nothing of each other.
    burst_packets: u32,
    /// Longest delay; each packet has one between 0 and this, all alike, and none overtakes another.
    jitter_ms: u32,
}

/// The networks that the specification names, and one without fault.
pub(crate) const WEATHERS: [Weather; 5] = [
    Weather { name: "clear", loss_percent: 0, burst_packets: 0, jitter_ms: 0 },
    Weather { name: "independent-5", loss_percent: 5, burst_packets: 0, jitter_ms: 0 },
    Weather { name: "bursty-2", loss_percent: 2, burst_packets: 2, jitter_ms: 40 },
    Weather { name: "bursty-5", loss_percent: 5, burst_packets: 2, jitter_ms: 40 },
    Weather { name: "bursty-10", loss_percent: 10, burst_packets: 2, jitter_ms: 40 },
];

impl Weather {
    pub(crate) const fn is_clear(&self) -> bool {
        self.loss_percent == 0 && self.jitter_ms == 0
    }

    /// When each of `count` packets comes, counted from the moment at which the first was sent; nothing if it is lost.
    pub(crate) fn arrivals(&self, count: usize, seed: u64) -> Vec<Option<Duration>> {
        let settings = PathSettings {
            loss: Percent::new(self.loss_percent.into()).expect("a percentage"),
            burst_packets: self.burst_packets,
            jitter_ms: self.jitter_ms,
            jitter_shape: JitterShape::Uniform,
            ..PathSettings::default()
        };
        // Any instant will do as the origin of virtual time.
        let start = Instant::now();
        let mut path = Path::new(&settings, seed, start);
        let mut arrivals = vec![None; count];
        for n in 0..count {
            path.send(start + FRAME * u32::try_from(n).expect("a short call"), n);
            while let Some(at) = path.deadline().filter(|_| n + 1 == count || path.len() > 100) {
                let arrived = path.receive(at).expect("it is due");
                arrivals[arrived] = Some(at - start);
            }
        }
        arrivals
    }
}

/// What is said in one language: all lines with pauses, and where each stands.
pub(crate) struct Said {
    pub(crate) samples: Vec<i16>,
    /// First sample and length of each line.
    pub(crate) lines: Vec<(usize, usize)>,
    packets: Vec<Vec<u8>>,
}

impl Said {
    pub(crate) fn of(lines: &[Line]) -> Self {
        let mut samples = vec![0; LEAD * FRAME_SAMPLES];
        let mut places = Vec::new();
        for line in lines {
            places.push((samples.len(), line.samples.len()));
            samples.extend_from_slice(&line.samples);
            samples.resize(samples.len().next_multiple_of(FRAME_SAMPLES) + PAUSE * FRAME_SAMPLES, 0);
        }
        let settings = EncoderSettings { bitrate: 20_000, complexity: 9, expected_loss: 10 };
        let mut encoder = Encoder::new(settings).expect("libopus makes an encoder");
        let encode = |frame: &[i16; FRAME_SAMPLES]| {
            let mut packet = vec![0; MAX_ENCODED_BYTES];
            let len = encoder.encode(frame, &mut packet).expect("libopus encodes speech");
            packet.truncate(len);
            packet
        };
        let packets = samples.as_chunks::<FRAME_SAMPLES>().0.iter().map(encode).collect();
        Self { samples, lines: places, packets }
    }

    pub(crate) fn len(&self) -> usize {
        self.packets.len()
    }

    /// What the product makes of it, and what it did for that.
    pub(crate) fn heard_by_us(&self, arrivals: &[Option<Duration>]) -> (Vec<i16>, Ears) {
        let mut audio = CallerAudio::new(CallerAudioSettings::default()).expect("libopus makes codecs");
        // Any instant will do as the origin of virtual time.
        let origin = Instant::now();
        let mut coming: Vec<_> = arrivals.iter().enumerate().filter_map(|(n, at)| at.map(|at| (at, n))).collect();
        coming.sort_unstable();
        let mut coming = coming.into_iter().peekable();
        let mut heard = Vec::with_capacity(self.samples.len());
        let mut depths = 0;
        for tick in 0..u32::try_from(arrivals.len()).expect("a short call") {
            // The lane ticks when it does, not when packets come: here 5 ms behind the sender's clock.
            let now = FRAME * tick + Duration::from_millis(5);
            while let Some((at, n)) = coming.next_if(|(at, _)| *at <= now) {
                let number = u32::try_from(n).expect("a short call");
                let packet = RtpPacket {
                    payload_type: 111,
                    marker: false,
                    sequence: u16::try_from(n).expect("a short call"),
                    timestamp: number * OPUS_FRAME_TICKS,
                    ssrc: 7,
                    payload: &self.packets[n],
                };
                audio.receive(origin + at, &packet);
            }
            let mut frame = [0; FRAME_SAMPLES];
            audio.pull(origin + now, &mut frame);
            heard.extend_from_slice(&frame);
            depths += audio.report().jitter.depth_ms;
        }
        let report = audio.report();
        let ears = Ears {
            moved: report.jitter.starved + report.jitter.shed,
            late: report.jitter.late,
            rebuilt: report.recovered,
            lost: report.jitter.lost,
            delay_ms: depths / u32::try_from(arrivals.len().max(1)).expect("a short call"),
        };
        (heard, ears)
    }

    /// What plain concealment makes of it.
    pub(crate) fn heard_plainly(&self, arrivals: &[Option<Duration>]) -> Vec<i16> {
        let mut decoder = Decoder::new().expect("libopus makes a decoder");
        let Some((first, begun)) = arrivals.iter().enumerate().find_map(|(n, at)| Some((n, (*at)?))) else {
            return vec![0; self.samples.len()];
        };
        let mut heard = vec![0; first * FRAME_SAMPLES];
        let mut turn = begun + FIXED_DELAY;
        for (packet, at) in self.packets.iter().zip(arrivals).skip(first) {
            let mut room = [0; MAX_PACKET_SAMPLES];
            let decoded = match at {
                Some(at) if *at <= turn => decoder.decode(packet, &mut room),
                _ => decoder.conceal(FRAME_SAMPLES, &mut room),
            };
            heard.extend_from_slice(&room[..decoded.expect("libopus reads what it wrote")]);
            turn += FRAME;
        }
        heard
    }
}

/// What our side did.
#[derive(Debug, Clone, Copy)]
#[expect(dead_code, reason = "printed, for whoever reads a failure")]
pub(crate) struct Ears {
    /// Frames in which playout stood still or that were blended away.
    pub(crate) moved: u64,
    pub(crate) late: u64,
    pub(crate) lost: u64,
    pub(crate) rebuilt: u64,
    /// Mean delay of playout.
    pub(crate) delay_ms: u32,
}
