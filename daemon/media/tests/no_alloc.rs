//! Nothing on the media path allocates once a leg is made: neither our code nor, in Rust, what it calls.
//!
//! `allocation_counter` replaces the global allocator of this test and counts per thread, so that other tests of the
//! same process do not show.

use std::time::{Duration, Instant};

use allocation_counter::measure;
use sauti_core::media::frame::FRAME_SAMPLES;
use sauti_core::media::level::{Tone, tone_level};
use sauti_core::media::rtp::{HEADER_BYTES, RtpPacket};
use sauti_media::opus::MAX_ENCODED_BYTES;
use sauti_media::pipeline::{CallerAudio, CallerAudioSettings, Heard, Received};
use sauti_media::voice::VoiceDetector;

/// Packet `n` of the far end, spread over the wire as networks do: lost, late, twice, with keys and rubbish between.
fn deliver(leg: &mut CallerAudio, now: Instant, n: u32, bytes: &[u8]) {
    let Ok(packet) = RtpPacket::parse(bytes) else { return };
    let event = RtpPacket { payload_type: 126, payload: &[5, 10, 0, 160], ..packet };
    let got = match n % 50 {
        7 => return,
        13 => leg.receive(now, &event),
        20 => leg.receive(now, &RtpPacket { payload: &[0xFF, 0xFF], ..packet }),
        30 => leg.receive(now, &RtpPacket { ssrc: 99, ..packet }),
        _ => leg.receive(now, &packet),
    };
    if n.is_multiple_of(11) {
        leg.receive(now, &packet);
    }
    assert_ne!(got, Received::OtherPayload);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "any instant will do as the origin of virtual time")]
fn a_minute_of_a_leg_allocates_nothing() {
    let start = Instant::now();
    let mut leg = CallerAudio::new(CallerAudioSettings::default()).unwrap();
    let mut far = CallerAudio::new(CallerAudioSettings::default()).unwrap();
    let mut detector = VoiceDetector::default();
    let (mut tone, mut frame) = (Tone::new(440.0, 0.3), [0; FRAME_SAMPLES]);
    let (mut voiced, mut clean, mut digits) = (0_u32, 0_u32, 0);
    let mut loudest = -100.0_f32;
    let counted = measure(|| {
        for n in 0..3000_u32 {
            let now = start + Duration::from_millis(u64::from(n) * 20);
            // Both talk ten seconds of every twenty, the far end sends nothing for five of the others.
            let speech = tone.frame();
            let talking = (n / 500).is_multiple_of(2).then_some(&speech);
            let mut bytes = [0; HEADER_BYTES + MAX_ENCODED_BYTES];
            far.set_sending(!(700..950).contains(&(n % 1000)));
            if let Some(out) = far.speak(talking, &mut bytes[HEADER_BYTES..]) {
                let packet = RtpPacket {
                    payload_type: 111,
                    marker: out.marker,
                    sequence: out.sequence,
                    timestamp: out.timestamp,
                    ssrc: 7,
                    payload: &[],
                };
                bytes[..HEADER_BYTES].copy_from_slice(&packet.header());
                deliver(&mut leg, now, n, &bytes[..HEADER_BYTES + out.len]);
            }
            let heard = leg.pull(now + Duration::from_millis(4), &mut frame);
            loudest = detector.hear(&frame).dbfs.max(loudest);
            voiced += u32::from(heard == Heard::Voice);
            clean += u32::from(tone_level(&frame, 440.0) > 0.9);
            let mut room = [0; MAX_ENCODED_BYTES];
            assert!(leg.speak(talking, &mut room).is_some());
            if n == 1500 {
                leg.flush_heard();
            }
            digits = leg.report().digits;
        }
    });
    assert_eq!((counted.count_total, counted.bytes_total), (0, 0));
    // The minute was a real one.
    assert!(voiced > 1800, "{voiced}");
    assert!(clean > 1200, "{clean}");
    assert!(digits > 40, "{digits}");
    assert!(loudest > -20.0, "{loudest}");
    let report = leg.report();
    assert!(report.jitter.lost > 0 && report.concealed > 0 && report.comfort > 0 && report.strangers > 0);
}

#[test]
fn the_counter_sees_an_allocation() {
    let counted = measure(|| {
        let made = std::hint::black_box(vec![0_u8; 100]);
        assert_eq!(made.len(), 100);
    });
    assert_eq!((counted.count_total, counted.bytes_total), (1, 100));
}
