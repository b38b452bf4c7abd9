//! What users of other gateways complain of (choppy audio, latency that creeps, keys that get lost), tried on this one.

use super::*;

/// One packet of a loop that can be repeated without a step: a second of tone, or half a second of it behind silence.
struct Loop {
    payloads: Vec<Vec<u8>>,
}

impl Loop {
    /// 310 Hz: whole periods in a second, but not in a frame. The encoder has settled before the loop begins.
    fn tone() -> Self {
        let packets = tone_packets(150, 310.0);
        Self { payloads: packets[100..].iter().map(|(_, payload)| payload.clone()).collect() }
    }

    fn beacon() -> Self {
        let (mut mouth, mut tone) = (Mouth::new(), Tone::new(310.0, 0.3));
        for n in 0..100 {
            let frame = tone.frame();
            mouth.speak((n % 50 >= 25).then_some(&frame));
        }
        Self { payloads: mouth.packets[50..].iter().map(|(_, payload)| payload.clone()).collect() }
    }
}

/// Milliseconds from a beacon's onset at the sender (tick 25 of its second) to the first loud sample here.
fn latency_ms(heard: &[i16], from_us: i64, beacon_sent_us: i64) -> i64 {
    let start = usize::try_from((beacon_sent_us - from_us) * 24 / 1000).unwrap();
    let onset = heard[start..].iter().position(|sample| sample.unsigned_abs() > 3_000).unwrap();
    i64::try_from(onset).unwrap() / 24
}

/// Peers items 4 and 9; "Done when" 5 of the third specification.
#[test]
fn a_call_of_fifteen_minutes_with_drifting_clocks_ends_with_the_latency_it_began_with() {
    let (tone, beacon) = (Loop::tone(), Loop::beacon());
    for drift_ppm in [200_i64, -200] {
        let mut ear = Ear::new();
        let start = ear.now;
        let (seconds, mut n) = (900_u32, 0_u32);
        let sent_us = |n: u32| i64::from(n) * 20_000 - i64::from(n) * 20_000 * drift_ppm / 1_000_000;
        for tick in 0..seconds * 50 {
            while sent_us(n) <= i64::from(tick) * 20_000 {
                let second = n / 50;
                let signals = !(10..890).contains(&second);
                let source = if signals { &beacon } else { &tone };
                ear.receive(111, n as u16, n * 960, &source.payloads[(n % 50) as usize]);
                n += 1;
            }
            ear.tick();
            assert_eq!(ear.now, start + Duration::from_millis(20) * (tick + 1));
        }
        // Ticks fall 5 ms behind the box's clock, so what is heard of tick 0 begins there.
        let latency = |second: u32| latency_ms(&ear.heard, 5_000, sent_us(second * 50 + 25));
        let (began, ended) = (latency(5), latency(895));
        assert!((20..=60).contains(&began), "{began} ms");
        assert!((began - ended).abs() <= 20, "{drift_ppm} ppm: {began} ms at the start, {ended} ms at the end");
        let report = ear.audio.report().jitter;
        assert!(report.queued <= 3 && report.lost == 0, "{report:?}");
        // 180 ms of drift are nine frames, taken out or put in one at a time.
        assert!((6..=14).contains(&(report.starved + report.shed)), "{report:?}");
        let steady = &ear.heard[11 * 50 * FRAME_SAMPLES..889 * 50 * FRAME_SAMPLES];
        let step = steepest_step(steady);
        assert!(step < Tone::new(310.0, 0.3).steepest() * 1.6, "{drift_ppm} ppm: a step of {step}");
        // Nor does the tone fail for the time of a frame.
        let faint = steady.chunks(FRAME_SAMPLES).filter(|frame| rms_dbfs(frame) < -20.0).count();
        assert!(faint <= 2, "{drift_ppm} ppm: {faint} frames below half of the level");
    }
}

/// Peers item 4: five seconds of nothing, and what then comes either is lost or arrives all at once.
#[test]
fn after_an_outage_of_five_seconds_the_latency_is_back_within_two() {
    let tone = Loop::tone();
    for late in [false, true] {
        let mut ear = Ear::new();
        for n in 0..1_000_u32 {
            let range = if (300..550).contains(&n) {
                0..0
            } else if n == 550 && late {
                300..551
            } else {
                n..n + 1
            };
            for n in range {
                ear.receive(111, n as u16, n * 960, &tone.payloads[(n % 50) as usize]);
            }
            ear.tick();
            if n == 650 {
                let depth = ear.audio.report().jitter.depth_ms;
                assert!(depth <= 60, "{depth} ms after two seconds, late: {late}");
            }
        }
        let report = ear.audio.report();
        assert_eq!(report.jitter.resets, u64::from(late), "what is five seconds late has a new clock");
        assert!(ear.kinds[560..].iter().filter(|kind| **kind == Heard::Voice).count() > 420, "late: {late}");
        assert!(ear.heard[450 * FRAME_SAMPLES..540 * FRAME_SAMPLES].iter().all(|sample| *sample == 0));
        assert!(steepest_step(&ear.heard[..1_000 * FRAME_SAMPLES]) < Tone::new(310.0, 0.3).steepest() * 2.0);
    }
}

/// Reordered, doubled and another source in mid-call, all at once: the tone goes on.
#[test]
fn reordered_doubled_and_resumed_under_another_ssrc_the_tone_goes_on() {
    let tone = Loop::tone();
    let mut ear = Ear::new();
    for n in 0..1_500_u32 {
        let send = |ear: &mut Ear, n: u32| {
            let (ssrc, offset) = if n < 700 { (1, 0_u16) } else { (2, 33_333) };
            let timestamp = (n * 960).wrapping_add(u32::from(offset) * 77_777);
            let payload = &tone.payloads[(n % 50) as usize];
            let sequence = (n as u16).wrapping_add(offset);
            let packet = RtpPacket { payload_type: 111, marker: false, sequence, timestamp, ssrc, payload };
            ear.audio.receive(ear.now, &packet);
        };
        // Each fifth is overtaken by the one behind it, each seventh comes twice, once more a second later.
        match n % 5 {
            3 => {}
            4 => {
                send(&mut ear, n);
                send(&mut ear, n - 1);
            }
            _ => send(&mut ear, n),
        }
        if n % 7 == 0 {
            send(&mut ear, n);
        }
        if n >= 50 && n % 11 == 0 && !(700..750).contains(&n) {
            send(&mut ear, n - 50);
        }
        ear.tick();
    }
    let report = ear.audio.report();
    assert_eq!((report.sources, report.jitter.strays), (1, 0));
    assert!(report.jitter.duplicates >= 200, "{report:?}");
    assert!(report.jitter.lost <= 4, "{report:?}");
    assert!(ear.count(Heard::Voice) >= 1_480, "{}", ear.count(Heard::Voice));
    assert!(steepest_step(&ear.heard[5 * FRAME_SAMPLES..]) < Tone::new(310.0, 0.3).steepest() * 2.0);
}

/// A phone that saves silence sends one packet in 400 ms. Between them dead silence would let the room's noise come and go
/// in blips, which a voice detector hears as onsets; so the decoder goes on with the noise.
#[test]
fn while_a_caller_with_dtx_is_silent_the_noise_of_the_room_goes_on() {
    let mut raw = opus::Encoder::new(16_000, Channels::Mono, Application::Voip).unwrap();
    raw.set_bitrate(opus::Bitrate::Bits(20_000)).unwrap();
    raw.set_dtx(true).unwrap();
    let mut seed = 1_u32;
    let mut noise = |loud: f64| {
        let mut sample = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((f64::from(seed >> 16) / 32_768.0 - 1.0) * loud) as i16
        };
        (0..320).map(|_| sample()).collect::<Vec<_>>()
    };
    let (mut ear, mut sent) = (Ear::new(), 0_u16);
    for n in 0..500_u32 {
        // Speech for 2 s, then a room at about -54 dBFS.
        let mut pcm = noise(112.0);
        if n < 100 {
            let mut tone = Tone::new(300.0, 0.3);
            let loud = tone.frame();
            for (at, sample) in pcm.iter_mut().enumerate() {
                *sample = sample.saturating_add(loud[at]);
            }
        }
        let payload = raw.encode_vec(&pcm, 400).unwrap();
        // Packets of one or two bytes are not sent (RFC 6716 section 2.1.9 calls them discontinued).
        if payload.len() > 2 {
            ear.receive(111, sent, n * 960, &payload);
            sent += 1;
        }
        ear.tick();
    }
    assert!(sent < 220, "{sent}: the encoder saves silence");
    // Once settled, no frame is dead and none is a blip.
    let levels: Vec<f32> = ear.heard[300 * FRAME_SAMPLES..].chunks(FRAME_SAMPLES).map(rms_dbfs).collect();
    let (low, high) =
        levels.iter().fold((0.0_f32, -99.0_f32), |(low, high), level| (low.min(*level), high.max(*level)));
    assert!(low > -75.0 && high < -45.0, "{low} to {high} dBFS");
    assert_eq!(ear.audio.report().jitter.lost, 0);
    // Who is gone is silent.
    for _ in 0..60 {
        ear.tick();
    }
    assert!(ear.heard[550 * FRAME_SAMPLES..].iter().all(|sample| *sample == 0));
}

/// Peers item 28: keys are told by their timestamp; a marker, if any, says nothing. The last of three ends alone suffices.
#[test]
fn a_key_without_marker_or_begin_is_told_once() {
    let mut ear = Ear::new();
    for end in 0..3 {
        let got = ear.receive(126, end, 48_000, &[9, 0x8A, 3, 0xC0]);
        assert_eq!(got, if end == 0 { Received::Digit('9') } else { Received::Event });
    }
}

/// A flood of keys is bounded: as many as a hand can press, and no more, whatever the timestamps say.
#[test]
fn a_flood_of_keys_is_told_no_faster_than_a_hand_presses() {
    let mut ear = Ear::new();
    let mut told = 0;
    for n in 0..10_000_u32 {
        told += u32::from(matches!(ear.receive(126, n as u16, n * 960, &[1, 10, 0, 160]), Received::Digit(_)));
        if n % 20 == 19 {
            ear.tick();
        }
    }
    // Ten seconds: sixteen at once, then one in 60 ms.
    assert!((16..=16 + 167).contains(&told), "{told}");
    let report = ear.audio.report();
    assert_eq!((report.digits, report.digits_refused), (u64::from(told), u64::from(10_000 - told)));
    // And an honest hand is heard again, a second later.
    ear.now += Duration::from_secs(1);
    assert_eq!(ear.receive(126, 10_000, 10_000 * 960, &[2, 10, 0, 160]), Received::Digit('2'));
}
