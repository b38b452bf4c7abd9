//! Nothing on the media path allocates once a leg is made: neither our code nor, in Rust, what it calls.
//!
//! `allocation_counter` replaces the global allocator of this test and counts per thread, so that other tests of the
//! same process do not show.

use std::time::{Duration, Instant};

use allocation_counter::measure;
use sauti_core::media::codec::Codec;
use sauti_core::media::frame::{AudioFormat, FRAME_SAMPLES};
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

/// A trunk: jitter buffer, concealment and codec both ways, with losses, comfort noise, keys in and out, in each packet time.
#[test]
#[expect(clippy::disallowed_methods, reason = "any instant will do as the origin of virtual time")]
fn half_a_minute_of_a_trunk_allocates_nothing_in_any_codec() {
    for (codec, packet_ms) in [(Codec::Pcma, 20), (Codec::Pcmu, 10), (Codec::Pcma, 60), (Codec::G722, 30)] {
        for format in [codec.session_format(), AudioFormat::Pcm24] {
            let start = Instant::now();
            let settings = CallerAudioSettings {
                codec,
                payload_type: codec.payload_type(),
                event_payload_type: Some(101),
                format,
                packet_ms,
                ..CallerAudioSettings::default()
            };
            let (mut leg, mut far) = (CallerAudio::new(settings).unwrap(), CallerAudio::new(settings).unwrap());
            let mut detector = VoiceDetector::at(format.sample_rate());
            let (mut frame, mut speech, mut sent) = ([0; FRAME_SAMPLES], [0; FRAME_SAMPLES], 0_u32);
            let mut tone = Tone::new(440.0, 0.3);
            let counted = measure(|| {
                for n in 0..1_500_u32 {
                    let now = start + Duration::from_millis(u64::from(n) * 20);
                    tone.fill(&mut speech[..format.frame_samples()]);
                    if n % 300 == 100 {
                        assert!(far.press('7'));
                    }
                    let mut bytes = [0; HEADER_BYTES + MAX_ENCODED_BYTES];
                    let talking = (!far.is_dialling()).then_some(&speech);
                    let mut next = far.speak(talking, &mut bytes[HEADER_BYTES..]);
                    while let Some(out) = next {
                        sent += 1;
                        let comfort = sent % 200 > 190;
                        let packet = RtpPacket {
                            payload_type: if comfort { 13 } else { out.payload_type },
                            marker: out.marker,
                            sequence: out.sequence,
                            timestamp: out.timestamp,
                            ssrc: 7,
                            payload: &bytes[HEADER_BYTES..HEADER_BYTES + if comfort { 1 } else { out.len }],
                        };
                        if !sent.is_multiple_of(23) {
                            leg.receive(now, &packet);
                        }
                        next = far.more(&mut bytes[HEADER_BYTES..]);
                    }
                    leg.pull(now + Duration::from_millis(4), &mut frame);
                    detector.hear(&frame[..format.frame_samples()]);
                }
            });
            assert_eq!((counted.count_total, counted.bytes_total), (0, 0), "{codec} {packet_ms} {format:?}");
            let report = leg.report();
            assert_eq!(report.digits, 5, "{codec} {packet_ms}");
            assert!(report.voice > 1_000 && report.concealed > 10 && report.jitter.lost > 10, "{report:?}");
        }
    }
}

#[test]
fn the_counter_sees_an_allocation() {
    let counted = measure(|| {
        let made = std::hint::black_box(vec![0_u8; 100]);
        assert_eq!(made.len(), 100);
    });
    assert_eq!((counted.count_total, counted.bytes_total), (1, 100));
}
