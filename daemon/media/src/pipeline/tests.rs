//! Two legs back to back, with a virtual wire and virtual time between them.

#![expect(clippy::cast_possible_truncation, reason = "short signals, counted by hand")]

use std::time::Duration;

use opus::{Application, Channels};
use proptest::prelude::*;
use sauti_core::media::frame::SAMPLE_RATE;
use sauti_core::media::level::{Tone, rms_dbfs, tone_level};

use super::*;
use crate::opus::{Decoder, MAX_ENCODED_BYTES, MAX_PACKET_SAMPLES};

const SSRC: u32 = 0x00C0_FFEE;

#[expect(clippy::disallowed_methods, reason = "any instant will do as the origin of virtual time")]
fn origin() -> Instant {
    Instant::now()
}

/// A listening leg and its clock; ticks fall 5 ms after the sender's.
struct Ear {
    audio: CallerAudio,
    now: Instant,
    heard: Vec<i16>,
    kinds: Vec<Heard>,
}

impl Ear {
    fn new() -> Self {
        let audio = CallerAudio::new(CallerAudioSettings::default()).unwrap();
        Self { audio, now: origin(), heard: Vec::new(), kinds: Vec::new() }
    }

    fn receive(&mut self, payload_type: u8, sequence: u16, timestamp: u32, payload: &[u8]) -> Received {
        let packet = RtpPacket { payload_type, marker: false, sequence, timestamp, ssrc: SSRC, payload };
        self.audio.receive(self.now, &packet)
    }

    fn tick(&mut self) -> Heard {
        let mut frame = [1; FRAME_SAMPLES];
        let kind = self.audio.pull(self.now + Duration::from_millis(5), &mut frame);
        self.heard.extend_from_slice(&frame);
        self.kinds.push(kind);
        self.now += Duration::from_millis(20);
        kind
    }

    fn count(&self, kind: Heard) -> usize {
        self.kinds.iter().filter(|k| **k == kind).count()
    }
}

/// A speaking leg that keeps its packets.
struct Mouth {
    audio: CallerAudio,
    packets: Vec<(OutPacket, Vec<u8>)>,
}

impl Mouth {
    fn new() -> Self {
        Self::with(CallerAudioSettings::default())
    }

    fn with(settings: CallerAudioSettings) -> Self {
        Self { audio: CallerAudio::new(settings).unwrap(), packets: Vec::new() }
    }

    fn speak(&mut self, frame: Option<&[i16; FRAME_SAMPLES]>) -> &(OutPacket, Vec<u8>) {
        let mut room = [0; MAX_ENCODED_BYTES];
        let packet = self.audio.speak(frame, &mut room).unwrap();
        self.packets.push((packet, room[..packet.len].to_vec()));
        self.packets.last().unwrap()
    }
}

fn decode(packets: &[(OutPacket, Vec<u8>)]) -> Vec<i16> {
    let mut decoder = Decoder::new().unwrap();
    let mut out = [0; MAX_PACKET_SAMPLES];
    let decode = |(_, payload): &(OutPacket, Vec<u8>)| {
        let len = decoder.decode(payload, &mut out).unwrap();
        out[..len].to_vec()
    };
    packets.iter().flat_map(decode).collect()
}

fn steepest_step(samples: &[i16]) -> f64 {
    samples.windows(2).map(|w| f64::from((i32::from(w[1]) - i32::from(w[0])).abs())).fold(0.0, f64::max)
}

/// Signal to noise in dB of `heard` against `sent`, at the best of the delays that a codec may have and its best gain.
fn snr(sent: &[i16], heard: &[i16]) -> f64 {
    let at = |lag: usize| {
        let pairs = sent.iter().zip(&heard[lag..]).map(|(a, b)| (f64::from(*a), f64::from(*b)));
        let (mut cross, mut power, mut total) = (0.0, 0.0, 0.0);
        for (a, b) in pairs {
            cross += a * b;
            power += a * a;
            total += b * b;
        }
        let signal = cross * cross / power;
        10.0 * (signal / (total - signal).max(1e-9)).log10()
    };
    (0..300).map(at).fold(f64::MIN, f64::max)
}

#[test]
fn a_tone_goes_from_mouth_to_ear() {
    let (mut mouth, mut ear, mut tone) = (Mouth::new(), Ear::new(), Tone::new(500.0, 0.3));
    for _ in 0..100 {
        let (packet, payload) = mouth.speak(Some(&tone.frame())).clone();
        assert_eq!(ear.receive(111, packet.sequence, packet.timestamp, &payload), Received::Audio(Pushed::Queued));
        ear.tick();
    }
    assert_eq!(ear.count(Heard::Nothing), 1);
    assert_eq!(ear.count(Heard::Voice), 99);
    assert!(tone_level(&ear.heard[10 * FRAME_SAMPLES..], 500.0) > 0.97);
    assert!(steepest_step(&ear.heard) < tone.steepest() * 1.5);
    let report = ear.audio.report();
    assert_eq!((report.voice, report.nothing, report.concealed), (99, 1, 0));
    assert!((report.heard_dbfs + 13.5).abs() < 1.5, "{}", report.heard_dbfs);
    assert_eq!(ear.audio.report().heard_dbfs, SILENCE_DBFS, "levels begin anew");
    let sent = mouth.audio.report();
    assert_eq!((sent.sent, sent.sent_silence), (100, 0));
    assert_eq!(sent.sent_bytes, mouth.packets.iter().map(|(_, p)| p.len() as u64).sum::<u64>());
}

#[test]
fn a_tone_after_any_length_of_silence_is_clean() {
    // The yardstick: the same tone when every frame of the silence before it went through the encoder.
    let yardstick = {
        let mut mouth = Mouth::new();
        for _ in 0..100 {
            mouth.speak(Some(&[0; FRAME_SAMPLES]));
        }
        let mut tone = Tone::new(440.0, 0.3);
        let sent: Vec<i16> = (0..10).flat_map(|_| tone.frame()).collect();
        sent.chunks(FRAME_SAMPLES).for_each(|frame| {
            mouth.speak(Some(frame.try_into().unwrap()));
        });
        mouth.speak(None);
        snr(&sent, &decode(&mouth.packets)[100 * FRAME_SAMPLES..])
    };
    assert!(yardstick > 8.0, "{yardstick}");
    for (talk, silent) in [(0, 1), (0, 4), (0, 5), (0, 6), (30, 1), (30, 5), (30, 7), (30, 50), (30, 500), (0, 3000)] {
        let (mut mouth, mut first, mut tone) = (Mouth::new(), Tone::new(700.0, 0.4), Tone::new(440.0, 0.3));
        for _ in 0..talk {
            mouth.speak(Some(&first.frame()));
        }
        for _ in 0..silent {
            mouth.speak(None);
        }
        let sent: Vec<i16> = (0..10).flat_map(|_| tone.frame()).collect();
        sent.chunks(FRAME_SAMPLES).for_each(|frame| {
            mouth.speak(Some(frame.try_into().unwrap()));
        });
        mouth.speak(None);
        let all = decode(&mouth.packets);
        let onset = (talk + silent) * FRAME_SAMPLES;
        let got = snr(&sent, &all[onset..]);
        assert!(got > yardstick - 2.0, "{got} dB after {talk} of talk, {silent} of silence; {yardstick} dB");
        // From the last 20 ms of silence through the whole onset: no step that the tone itself does not make.
        let step = steepest_step(&all[onset - FRAME_SAMPLES.min(onset)..onset + 4 * FRAME_SAMPLES]);
        let slope = if silent < 4 && talk > 0 { first.steepest() } else { tone.steepest() };
        assert!(step < slope * 1.4, "{step} after {talk}, {silent}; the tone's own is {slope}");
    }
}

#[test]
fn silence_is_encoded_once_and_is_silent() {
    let (mut mouth, mut tone) = (Mouth::new(), Tone::new(440.0, 0.3));
    for _ in 0..20 {
        mouth.speak(Some(&tone.frame()));
    }
    for _ in 0..200 {
        mouth.speak(None);
    }
    let silent = &mouth.packets[24..];
    assert!(silent.iter().all(|(_, payload)| *payload == silent[0].1), "one payload, repeated");
    assert!(silent[0].1.len() <= 40, "{}", silent[0].1.len());
    let level = rms_dbfs(&decode(&mouth.packets)[26 * FRAME_SAMPLES..]);
    assert!(level < -80.0, "{level}");
    assert_eq!(mouth.audio.report().sent_silence, 200);
}

#[test]
fn speech_that_is_cut_off_ends_without_a_step() {
    let (mut mouth, mut tone) = (Mouth::new(), Tone::new(310.0, 0.5));
    for _ in 0..20 {
        mouth.speak(Some(&tone.frame()));
    }
    for _ in 0..10 {
        mouth.speak(None);
    }
    let heard = decode(&mouth.packets);
    assert!(steepest_step(&heard[19 * FRAME_SAMPLES..]) < tone.steepest() * 2.0);
    assert!(rms_dbfs(&heard[22 * FRAME_SAMPLES..]) < -55.0, "{}", rms_dbfs(&heard[22 * FRAME_SAMPLES..]));
}

#[test]
fn the_clock_runs_through_silence_holds_and_both_wraps() {
    let mut mouth = Mouth::with(CallerAudioSettings {
        first_sequence: 65_530,
        first_timestamp: u32::MAX - 960 * 3,
        ..CallerAudioSettings::default()
    });
    let frame = [100; FRAME_SAMPLES];
    let mut room = [0; MAX_ENCODED_BYTES];
    let mut ticks = 0_u32;
    let mut packets = 0_u16;
    let mut marks = Vec::new();
    for n in 0..400_u32 {
        if n == 200 {
            mouth.audio.skip_ticks(7);
            ticks += 7;
        }
        mouth.audio.set_sending(!(100..150).contains(&n));
        let out = mouth.audio.speak((n % 40 < 20).then_some(&frame), &mut room);
        assert_eq!(out.is_none(), (100..150).contains(&n));
        if let Some(out) = out {
            assert_eq!(out.timestamp, (u32::MAX - 960 * 3).wrapping_add(ticks * 960), "tick {n}");
            assert_eq!(out.sequence, 65_530_u16.wrapping_add(packets), "tick {n}");
            assert_eq!(out.speech, n % 40 < 20);
            packets += 1;
            if out.marker {
                marks.push(n);
            }
        }
        ticks += 1;
    }
    assert_eq!(marks, [0, 40, 80, 160, 200, 240, 280, 320, 360]);
}

#[test]
fn packets_of_other_durations_lose_no_sample() {
    for (ms, packets) in [(5_usize, 200), (10, 100), (40, 40), (60, 30), (120, 20)] {
        let mut raw = opus::Encoder::new(SAMPLE_RATE, Channels::Mono, Application::Voip).unwrap();
        raw.set_bitrate(opus::Bitrate::Bits(40_000)).unwrap();
        let (mut ear, mut tone) = (Ear::new(), Tone::new(400.0, 0.3));
        let mut pending = Vec::new();
        for n in 0..packets {
            let mut pcm = vec![0; ms * 24];
            tone.fill(&mut pcm);
            pending.push(((n + 1) * ms, n, raw.encode_vec(&pcm, 1400).unwrap()));
        }
        let ends = packets * ms;
        let mut pending = pending.into_iter().peekable();
        for elapsed in (0..ends).step_by(20) {
            while let Some((_, n, payload)) = pending.next_if(|(at, _, _)| *at <= elapsed) {
                ear.receive(111, n as u16, (n * ms * 48) as u32, &payload);
            }
            ear.tick();
        }
        let first = ear.kinds.iter().position(|kind| *kind == Heard::Voice).unwrap();
        assert!(ear.kinds[first..].iter().all(|kind| *kind == Heard::Voice), "{ms} ms: {:?}", ear.kinds);
        assert!(first <= ms / 20 + 3, "{ms} ms: {first}");
        let heard = &ear.heard[(first + 5) * FRAME_SAMPLES..];
        assert!(tone_level(heard, 400.0) > 0.95, "{ms} ms: {}", tone_level(heard, 400.0));
        assert!(steepest_step(heard) < tone.steepest() * 1.5, "{ms} ms");
    }
}

/// Tone packets of 20 ms as a caller would send them.
fn tone_packets(count: usize, hertz: f64) -> Vec<(OutPacket, Vec<u8>)> {
    let (mut mouth, mut tone) = (Mouth::new(), Tone::new(hertz, 0.3));
    for _ in 0..count {
        mouth.speak(Some(&tone.frame()));
    }
    mouth.packets
}

#[test]
fn a_key_is_told_once_and_costs_no_audio() {
    let mut ear = Ear::new();
    let packets = tone_packets(100, 500.0);
    let (mut sequence, mut told) = (65_520_u16, Vec::new());
    for (n, (packet, payload)) in packets.iter().enumerate() {
        // At 50 and 80 a key is pressed for 100 ms: six packets while it lasts, then two more ends.
        if [50, 80].contains(&n) {
            let event = if n == 50 { 5 } else { 11 };
            for part in 0..8_u16 {
                let end = if part >= 5 { 0x80 } else { 0 };
                let [high, low] = ((part + 1).min(6) * 160).to_be_bytes();
                told.push(ear.receive(126, sequence, packet.timestamp, &[event, end | 10, high, low]));
                sequence = sequence.wrapping_add(1);
            }
            // The last end comes once more, late and with an old number.
            told.push(ear.receive(126, sequence.wrapping_sub(1), packet.timestamp, &[event, 0x8A, 3, 0xC0]));
        }
        assert_eq!(ear.receive(111, sequence, packet.timestamp, payload), Received::Audio(Pushed::Queued));
        sequence = sequence.wrapping_add(1);
        ear.tick();
    }
    let digit = |got: &Received| if let Received::Digit(digit) = got { Some(*digit) } else { None };
    assert_eq!(told.iter().filter_map(digit).collect::<String>(), "5#");
    assert_eq!(told.iter().filter(|got| **got == Received::Event).count(), 16);
    assert_eq!((ear.count(Heard::Voice), ear.audio.report().jitter.lost), (99, 0));
    assert_eq!(ear.audio.report().digits, 2);
}

#[test]
fn the_same_key_twice_is_told_twice_and_an_old_packet_never() {
    let mut ear = Ear::new();
    assert_eq!(ear.receive(126, 1, 1000, &[7, 10, 0, 160]), Received::Digit('7'));
    assert_eq!(ear.receive(126, 2, 9000, &[7, 10, 0, 160]), Received::Digit('7'));
    assert_eq!(ear.receive(126, 3, 1000, &[7, 0x8A, 3, 0]), Received::Event);
    assert_eq!(ear.receive(126, 4, 9000, &[7, 0x8A, 3, 0]), Received::Event);
    assert_eq!(ear.receive(126, 5, 20_000, &[16, 10, 0, 160]), Received::Event, "a hook flash is no key");
    assert_eq!(ear.receive(126, 6, 30_000, &[1, 10, 0]), Received::Undecodable);
    assert_eq!(ear.receive(126, 7, 40_000, &[12, 10, 0, 160]), Received::Digit('A'));
}

#[test]
fn other_payloads_and_broken_ones_are_counted_and_dropped() {
    let mut ear = Ear::new();
    let packets = tone_packets(50, 500.0);
    let mut sequence = 0;
    for (packet, payload) in &packets {
        assert!(matches!(ear.receive(111, sequence, packet.timestamp, payload), Received::Audio(_)));
        assert_eq!(ear.receive(13, sequence + 1, packet.timestamp, &[0x40]), Received::OtherPayload);
        assert!(matches!(ear.receive(111, sequence + 2, packet.timestamp, &[]), Received::Audio(_)));
        sequence += 3;
        ear.tick();
    }
    assert_eq!(ear.receive(111, sequence, 960 * 50, &[0xFF]), Received::Undecodable);
    let report = ear.audio.report();
    assert_eq!((report.other_payloads, report.undecodable, report.jitter.lost), (50, 1, 0));
    assert_eq!(ear.count(Heard::Voice), 49);
}

#[test]
fn one_loss_in_ten_is_rebuilt_from_the_copies_and_the_tone_goes_on() {
    // Swelling five times a second as speech does: the encoder takes a steady tone for noise and sends no copies of it.
    let (mut mouth, mut ear, mut tone) = (Mouth::new(), Ear::new(), Tone::new(500.0, 0.5));
    for n in 0..300_u32 {
        let mut frame = tone.frame();
        for (sample, at) in frame.iter_mut().zip(n * 480..) {
            let swell = 0.6 - 0.4 * (std::f64::consts::TAU * f64::from(at) / 4800.0).cos();
            *sample = (f64::from(*sample) * swell) as i16;
        }
        let (packet, payload) = mouth.speak(Some(&frame)).clone();
        if n % 10 != 5 {
            ear.receive(111, packet.sequence, packet.timestamp, &payload);
        }
        ear.tick();
    }
    let report = ear.audio.report();
    assert_eq!((report.jitter.lost, report.recovered, report.concealed), (30, 30, 30));
    assert_eq!(ear.count(Heard::Voice), 269);
    let heard = &ear.heard[20 * FRAME_SAMPLES..];
    let clean = heard.chunks(FRAME_SAMPLES).filter(|frame| tone_level(frame, 500.0) > 0.9).count();
    assert!(clean >= 275, "{clean} of 280 frames");
    assert!(steepest_step(heard) < tone.steepest() * 2.0);
}

#[test]
fn when_the_caller_stops_the_sound_fades_and_comes_back_without_a_step() {
    let mut ear = Ear::new();
    let packets = tone_packets(200, 300.0);
    for (packet, payload) in &packets[..100] {
        ear.receive(111, packet.sequence, packet.timestamp, payload);
        ear.tick();
    }
    for _ in 0..250 {
        ear.tick();
    }
    for (packet, payload) in &packets[100..] {
        ear.receive(111, packet.sequence, packet.timestamp + 250 * 960, payload);
        ear.tick();
    }
    assert!(ear.count(Heard::Concealed) <= 8, "{}", ear.count(Heard::Concealed));
    assert!(ear.count(Heard::Comfort) >= 240);
    assert!(ear.heard[120 * FRAME_SAMPLES..340 * FRAME_SAMPLES].iter().all(|sample| *sample == 0));
    assert!(steepest_step(&ear.heard) < Tone::new(300.0, 0.3).steepest() * 2.0);
    assert_eq!(ear.audio.report().jitter.lost, 0);
}

#[test]
fn shedding_a_backlog_makes_no_step() {
    let mut ear = Ear::new();
    // 300 ms of packets come at once, then all is regular: the delay is worked off in the middle of the tone.
    let packets = tone_packets(500, 310.0);
    for n in 0..500 {
        if n == 65 {
            for (packet, payload) in &packets[50..65] {
                ear.receive(111, packet.sequence, packet.timestamp, payload);
            }
        }
        if !(50..65).contains(&n) {
            let (packet, payload) = &packets[n];
            ear.receive(111, packet.sequence, packet.timestamp, payload);
        }
        ear.tick();
    }
    let report = ear.audio.report();
    assert!(report.jitter.shed >= 8, "{}", report.jitter.shed);
    assert!(report.jitter.depth_ms < 50, "{}", report.jitter.depth_ms);
    assert!(steepest_step(&ear.heard) < Tone::new(310.0, 0.3).steepest() * 2.0);
}

#[test]
fn a_muted_leg_yields_nothing_and_piles_nothing_up() {
    let mut ear = Ear::new();
    ear.audio.set_muted(true);
    let packets = tone_packets(100, 300.0);
    for (n, (packet, payload)) in packets.iter().enumerate() {
        if n == 50 {
            assert!(ear.heard.iter().all(|sample| *sample == 0));
            assert_eq!(ear.count(Heard::Nothing), 50);
            ear.audio.set_muted(false);
        }
        ear.receive(111, packet.sequence, packet.timestamp, payload);
        ear.tick();
    }
    assert_eq!(ear.count(Heard::Voice), 50);
    assert!(ear.audio.report().jitter.depth_ms < 40);
}

#[test]
fn a_flush_drops_what_waits_and_nothing_else() {
    let mut ear = Ear::new();
    let packets = tone_packets(100, 300.0);
    for (n, (packet, payload)) in packets.iter().enumerate() {
        ear.receive(111, packet.sequence, packet.timestamp, payload);
        if n == 50 {
            ear.audio.flush_heard();
        }
        ear.tick();
    }
    assert_eq!(ear.audio.report().jitter.lost, 0);
    assert!(ear.count(Heard::Voice) >= 94, "{}", ear.count(Heard::Voice));
}

#[test]
fn another_source_takes_over_with_its_second_packet() {
    let mut ear = Ear::new();
    let packets = tone_packets(100, 300.0);
    let from = |ear: &mut Ear, ssrc, sequence, timestamp, payload: &[u8]| {
        let packet = RtpPacket { payload_type: 111, marker: false, sequence, timestamp, ssrc, payload };
        ear.audio.receive(ear.now, &packet)
    };
    for (n, (packet, payload)) in packets.iter().enumerate() {
        let timestamp = packet.timestamp;
        let got = if n < 50 {
            from(&mut ear, 1, packet.sequence, timestamp, payload)
        } else {
            from(&mut ear, 2, packet.sequence.wrapping_add(9000), timestamp.wrapping_sub(77_777), payload)
        };
        assert_eq!(got == Received::Stranger, n == 50, "packet {n}");
        if n == 20 {
            assert_eq!(from(&mut ear, 3, 5, 5, payload), Received::Stranger, "one packet alone takes nothing over");
        }
        ear.tick();
    }
    let report = ear.audio.report();
    assert_eq!((report.sources, report.strangers), (1, 2));
    assert!(ear.count(Heard::Voice) >= 93, "{}", ear.count(Heard::Voice));
}

#[test]
fn a_buffer_without_room_is_an_error_counted_and_time_goes_on() {
    let mut mouth = Mouth::new();
    assert_eq!(mouth.audio.speak(None, &mut []), None);
    let (packet, _) = mouth.speak(None);
    assert_eq!((packet.sequence, packet.timestamp), (0, 960));
    assert_eq!(mouth.audio.report().encode_errors, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn rubbish_from_the_network_never_panics(
        packets in proptest::collection::vec(
            (prop_oneof![Just(111_u8), Just(126), any::<u8>()], any::<u16>(), any::<u32>(), 0_u32..3,
             proptest::collection::vec(any::<u8>(), 0..60), 0_u64..40),
            0..200),
    ) {
        let mut ear = Ear::new();
        for (payload_type, sequence, timestamp, ssrc, payload, wait) in packets {
            let packet = RtpPacket {
                payload_type, marker: false, sequence: sequence % 300, timestamp: timestamp % 96_000, ssrc: ssrc / 2, payload: &payload,
            };
            ear.audio.receive(ear.now, &packet);
            ear.now += Duration::from_millis(wait);
            let mut frame = [0; FRAME_SAMPLES];
            ear.audio.pull(ear.now, &mut frame);
        }
    }
}

mod field;
mod trunk;
