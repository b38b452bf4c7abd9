//! What a frame of a trunk's call costs in the signal path: `cargo bench -p sauti-media --bench trunk`.
//!
//! One iteration is 20 ms. A G.711 call passed through is to cost 24 µs of a core for all of it, system calls included.

use std::time::{Duration, Instant};

use divan::{Bencher, black_box};
use sauti_core::media::codec::Codec;
use sauti_core::media::frame::{AudioFormat, FRAME_SAMPLES};
use sauti_core::media::level::Tone;
use sauti_core::media::rtp::RtpPacket;
use sauti_media::opus::MAX_ENCODED_BYTES;
use sauti_media::pipeline::{CallerAudio, CallerAudioSettings};
use sauti_media::resample::Resampler;
use sauti_media::rtp::RtpOut;
use sauti_media::rtp_leg::{RtpLeg, RtpSeed, SEED_BYTES};
use sauti_media::rtp_sdp::{KEY_BYTES, MasterKey, RtpTerms, SdesKeys, Suite};

fn main() {
    divan::main();
}

const FRAME: Duration = Duration::from_millis(20);

/// What stands between a trunk and its session.
const WAYS: [(Codec, AudioFormat); 3] =
    [(Codec::Pcma, AudioFormat::Pcma), (Codec::Pcma, AudioFormat::Pcm24), (Codec::G722, AudioFormat::Pcm24)];

fn audio(way: usize) -> CallerAudio {
    let (codec, format) = WAYS[way];
    let settings = CallerAudioSettings {
        codec,
        payload_type: codec.payload_type(),
        event_payload_type: Some(101),
        format,
        ..CallerAudioSettings::default()
    };
    CallerAudio::new(settings).expect("no libopus is needed")
}

#[expect(clippy::disallowed_methods, reason = "any instant will do as the origin of virtual time")]
fn origin() -> Instant {
    Instant::now()
}

/// From packet to frame; the first number is the way (passed through, decoded to PCM, G.722), the second the loss in percent.
#[divan::bench(args = [(0, 0), (0, 10), (1, 0), (2, 0), (2, 10)])]
fn hearing(bencher: Bencher<'_, '_>, (way, loss): (usize, u32)) {
    let mut audio = audio(way);
    let payload_type = WAYS[way].0.payload_type();
    let payload: [u8; 160] = std::array::from_fn(|n| u8::try_from(n * 7 % 256).unwrap_or(0));
    let origin = origin();
    let (mut n, mut frame) = (0_u32, [0; FRAME_SAMPLES]);
    bencher.bench_local(|| {
        let [low, high, ..] = n.to_le_bytes();
        if n * 37 % 100 >= loss {
            let packet = RtpPacket {
                payload_type,
                marker: false,
                sequence: u16::from_le_bytes([low, high]),
                timestamp: n.wrapping_mul(160),
                ssrc: 7,
                payload: &payload,
            };
            audio.receive(origin + FRAME * n, &packet);
        }
        audio.pull(origin + FRAME * n + FRAME / 4, &mut frame);
        n += 1;
        black_box(&frame);
    });
}

/// From frame to packet.
#[divan::bench(args = [0, 1, 2])]
fn speaking(bencher: Bencher<'_, '_>, way: usize) {
    let mut audio = audio(way);
    let frame = Tone::new(440.0, 0.3).frame();
    let mut room = [0; MAX_ENCODED_BYTES];
    bencher.bench_local(|| black_box(audio.speak(Some(black_box(&frame)), &mut room)));
}

/// A frame from one rate to the other.
#[divan::bench(args = [(8_000, 24_000), (24_000, 8_000), (16_000, 24_000), (24_000, 16_000)])]
fn resampling(bencher: Bencher<'_, '_>, (from, to): (u32, u32)) {
    let mut filter = Resampler::new(from, to);
    let input = vec![1_000; from as usize / 50];
    let mut out = [0; FRAME_SAMPLES];
    bencher.bench_local(|| filter.run(black_box(&input), &mut out));
}

/// A packet of 20 ms through the leg both ways, without and with SRTP; no system call.
#[divan::bench(args = ["plain", "sdes"])]
fn leg(bencher: Bencher<'_, '_>, what: &str) {
    let key = MasterKey::new([7; KEY_BYTES]);
    let keys = SdesKeys { suite: Suite::Tag80, own: key.clone(), far: key };
    let place = "203.0.113.20:27942".parse().expect("an address");
    let terms = RtpTerms {
        codec: Codec::Pcma,
        payload_type: 8,
        events: None,
        packet_ms: 20,
        remote: Some(place),
        remote_control: Some(place),
        rtcp_mux: true,
        sends: true,
        hears: true,
        keys: (what == "sdes").then_some(keys),
    };
    let now = origin();
    let [mut here, mut there] = [1, 2].map(|byte| {
        let mut leg = RtpLeg::new(now, &RtpSeed::new([byte; SEED_BYTES]), false).expect("cryptography");
        leg.agree(now, &terms).expect("keys");
        leg
    });
    let mut sequence = 0_u16;
    bencher.bench_local(|| {
        sequence = sequence.wrapping_add(1);
        let out = RtpOut {
            payload_type: 8,
            sequence,
            timestamp: u32::from(sequence) * 160,
            marker: false,
            payload: &[0xD5; 160],
        };
        here.send_rtp(now, &out).expect("sent");
        let sent = here.poll_transmit().expect("a datagram");
        there.receive(now, place, &sent.bytes);
        black_box(there.poll_rtp())
    });
}
