//! What a frame of a call costs on its way in and out: `cargo bench -p sauti-media`.
//!
//! A core at 100 calls has 200 µs for each of them and frame, both ways.

use std::time::{Duration, Instant};

use divan::{Bencher, black_box};
use sauti_core::media::frame::FRAME_SAMPLES;
use sauti_core::media::level::Tone;
use sauti_core::media::quality::Line;
use sauti_core::media::rtp::{OPUS_FRAME_TICKS, RtpPacket};
use sauti_media::opus::MAX_ENCODED_BYTES;
use sauti_media::pipeline::{CallerAudio, CallerAudioSettings};

fn main() {
    divan::main();
}

const FRAME: Duration = Duration::from_millis(20);

/// Two tones that swell as speech does, so that the encoder sends copies.
fn speech(n: u32) -> [i16; FRAME_SAMPLES] {
    let mut tone = Tone::new(if n % 16 < 8 { 220.0 } else { 700.0 }, if n % 8 < 5 { 0.4 } else { 0.05 });
    tone.frame()
}

fn packets() -> Vec<Vec<u8>> {
    let mut far = CallerAudio::new(CallerAudioSettings::default()).expect("libopus makes codecs");
    let encode = |n| {
        let mut room = [0; MAX_ENCODED_BYTES];
        let out = far.speak(Some(&speech(n)), &mut room).expect("a frame is encoded");
        room[..out.len].to_vec()
    };
    (0..400).map(encode).collect()
}

/// Jitter buffer, decoder and concealment of one frame; the argument is the loss in percent.
#[divan::bench(args = [0, 5, 10])]
fn hearing(bencher: Bencher<'_, '_>, loss: u32) {
    let packets = packets();
    let mut audio = CallerAudio::new(CallerAudioSettings::default()).expect("libopus makes codecs");
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the origin of virtual time")]
    let origin = Instant::now();
    let (mut n, mut frame) = (0_u32, [0; FRAME_SAMPLES]);
    bencher.bench_local(|| {
        let [low, high, ..] = n.to_le_bytes();
        // 37 is prime to 100: losses are spread, and some are neighbours.
        if n * 37 % 100 >= loss {
            let packet = RtpPacket {
                payload_type: 111,
                marker: false,
                sequence: u16::from_le_bytes([low, high]),
                timestamp: n.wrapping_mul(OPUS_FRAME_TICKS),
                ssrc: 7,
                payload: &packets[n as usize % packets.len()],
            };
            audio.receive(origin + FRAME * n, &packet);
        }
        audio.pull(origin + FRAME * n + FRAME / 4, &mut frame);
        n += 1;
        black_box(&frame);
    });
}

/// Encoder and numbering of one frame.
#[divan::bench(args = ["speech", "silence"])]
fn speaking(bencher: Bencher<'_, '_>, what: &str) {
    let mut audio = CallerAudio::new(CallerAudioSettings::default()).expect("libopus makes codecs");
    let (mut n, mut room) = (0, [0; MAX_ENCODED_BYTES]);
    let frames: Vec<_> = (0..64).map(speech).collect();
    bencher.bench_local(|| {
        let frame = (what == "speech").then(|| &frames[n % frames.len()]);
        n += 1;
        black_box(audio.speak(frame, &mut room))
    });
}

/// The estimate of a call's quality, made once when it ends.
#[divan::bench]
fn quality(bencher: Bencher<'_, '_>) {
    let line =
        Line { expected: 15_000, lost: 700, rebuilt: 500, loss_runs: 400, buffer_ms: 62.0, round_trip_ms: 310.0 };
    bencher.bench_local(|| black_box(black_box(line).mos()));
}
