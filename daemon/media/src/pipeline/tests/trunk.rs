//! The codecs of trunks: G.711 passed through, G.722, packet times, comfort noise, keys both ways.

use sauti_core::media::frame::FRAME;
use sauti_core::media::g711::Law;

use super::*;

const CODECS: [Codec; 3] = [Codec::Pcma, Codec::Pcmu, Codec::G722];

fn settings(codec: Codec, format: AudioFormat) -> CallerAudioSettings {
    CallerAudioSettings {
        codec,
        payload_type: codec.payload_type(),
        event_payload_type: Some(101),
        format,
        ..CallerAudioSettings::default()
    }
}

/// A leg of a trunk and its clock.
struct Trunk {
    audio: CallerAudio,
    format: AudioFormat,
    now: Instant,
    heard: Vec<i16>,
    kinds: Vec<Heard>,
}

impl Trunk {
    fn new(codec: Codec, format: AudioFormat) -> Self {
        Self::with(settings(codec, format))
    }

    fn with(settings: CallerAudioSettings) -> Self {
        let audio = CallerAudio::new(settings).unwrap();
        Self { audio, format: settings.format, now: origin(), heard: Vec::new(), kinds: Vec::new() }
    }

    fn receive(&mut self, payload_type: u8, sequence: u16, timestamp: u32, payload: &[u8]) -> Received {
        let packet = RtpPacket { payload_type, marker: false, sequence, timestamp, ssrc: SSRC, payload };
        self.audio.receive(self.now, &packet)
    }

    fn tick(&mut self) -> Heard {
        let mut frame = [1; FRAME_SAMPLES];
        let kind = self.audio.pull(self.now + Duration::from_millis(5), &mut frame);
        let whole = self.format.frame_samples();
        assert!(frame[whole..].iter().all(|sample| *sample == 0), "what does not count is 0");
        self.heard.extend_from_slice(&frame[..whole]);
        self.kinds.push(kind);
        self.now += FRAME;
        kind
    }

    fn count(&self, kind: Heard) -> usize {
        self.kinds.iter().filter(|k| **k == kind).count()
    }

    /// All packets of one tick.
    fn speak(&mut self, frame: Option<&[i16; FRAME_SAMPLES]>) -> Vec<(OutPacket, Vec<u8>)> {
        let mut room = [0; MAX_ENCODED_BYTES];
        let mut packets = Vec::new();
        let mut next = self.audio.speak(frame, &mut room);
        while let Some(packet) = next {
            packets.push((packet, room[..packet.len].to_vec()));
            next = self.audio.more(&mut room);
        }
        packets
    }
}

/// Codes of a law that go round, 160 a frame.
fn codes(frames: usize) -> Vec<u8> {
    (0..frames * 160).map(|n| (n * 7 + n / 160) as u8).collect()
}

fn frame_of(law: Law, codes: &[u8]) -> [i16; FRAME_SAMPLES] {
    let mut frame = [0; FRAME_SAMPLES];
    for (sample, code) in frame.iter_mut().zip(codes) {
        *sample = law.decode(*code);
    }
    frame
}

/// A tone of `hertz` at 8 kHz, as a packet's worth of codes at a time.
fn tone_codes(law: Law, hertz: f64, bytes: usize, packets: usize) -> Vec<Vec<u8>> {
    let sample = |n: usize| (std::f64::consts::TAU * hertz * n as f64 / 8_000.0).sin() * 9_000.0;
    let all: Vec<u8> = (0..bytes * packets).map(|n| law.encode(sample(n) as i16)).collect();
    all.chunks(bytes).map(<[u8]>::to_vec).collect()
}

/// Share of the tone in audio at 8 kHz.
fn tone_share(samples: &[i16], hertz: f64) -> f64 {
    // The measure is made for 24 kHz: the same numbers at a third of the rate are a third of the pitch.
    tone_level(samples, hertz * 3.0)
}

#[test]
fn g711_reaches_a_session_of_the_same_law_bit_by_bit() {
    for codec in [Codec::Pcma, Codec::Pcmu] {
        let law = codec.law().unwrap();
        let mut trunk = Trunk::new(codec, codec.session_format());
        let sent = codes(100);
        for (n, payload) in sent.chunks(160).enumerate() {
            trunk.receive(codec.payload_type(), n as u16, n as u32 * 160, payload);
            trunk.tick();
        }
        trunk.tick();
        assert_eq!((trunk.count(Heard::Nothing), trunk.count(Heard::Voice)), (1, 100));
        let heard: Vec<u8> = trunk.heard.iter().map(|sample| law.encode(*sample)).collect();
        // The first 2.5 ms rise from silence; from there on it is what came.
        assert_eq!(heard[160 + 20..], sent[20..], "{codec}");
    }
}

#[test]
fn g711_of_a_session_reaches_the_trunk_bit_by_bit_in_every_packet_time() {
    for codec in [Codec::Pcma, Codec::Pcmu] {
        let law = codec.law().unwrap();
        for packet_ms in [10_u8, 20, 30, 40, 60] {
            let mut trunk = Trunk::with(CallerAudioSettings {
                packet_ms,
                first_timestamp: u32::MAX - 500,
                first_sequence: 65_530,
                ..settings(codec, codec.session_format())
            });
            let sent = codes(60);
            let mut packets = Vec::new();
            for frame in sent.chunks(160) {
                packets.extend(trunk.speak(Some(&frame_of(law, frame))));
            }
            let bytes = usize::from(packet_ms) * 8;
            assert_eq!(packets.iter().flat_map(|(_, payload)| payload.clone()).collect::<Vec<u8>>(), sent);
            assert_eq!(packets.iter().map(|(packet, _)| usize::from(packet.frames)).sum::<usize>(), 60);
            for (n, (packet, payload)) in packets.iter().enumerate() {
                assert_eq!(payload.len(), bytes);
                assert_eq!(packet.sequence, 65_530_u16.wrapping_add(n as u16));
                assert_eq!(packet.timestamp, (u32::MAX - 500).wrapping_add((n * bytes) as u32), "{packet_ms} ms");
                assert_eq!((packet.marker, packet.payload_type), (n == 0, codec.payload_type()));
            }
        }
    }
}

#[test]
fn a_frame_counts_as_gone_out_with_the_packet_that_holds_its_end() {
    let mut trunk = Trunk::with(CallerAudioSettings { packet_ms: 30, ..settings(Codec::Pcma, AudioFormat::Pcma) });
    let frames = |packets: Vec<(OutPacket, Vec<u8>)>| packets.iter().map(|(p, _)| p.frames).collect::<Vec<u8>>();
    let frame = [500; FRAME_SAMPLES];
    let told: Vec<Vec<u8>> = (0..6).map(|_| frames(trunk.speak(Some(&frame)))).collect();
    assert_eq!(told, [vec![], vec![1], vec![2], vec![], vec![1], vec![2]]);
    // What was gathered when sending stops is not sent; it is counted with the next packet, so that nobody waits for it.
    assert!(frames(trunk.speak(Some(&frame))).is_empty());
    trunk.audio.set_sending(false);
    assert!(frames(trunk.speak(None)).is_empty());
    trunk.audio.set_sending(true);
    assert!(frames(trunk.speak(None)).is_empty());
    assert_eq!(frames(trunk.speak(None)), [1]);
}

#[test]
fn packets_of_every_length_are_heard_whole() {
    for codec in [Codec::Pcma, Codec::Pcmu] {
        for packet_ms in [10, 20, 30, 40, 60] {
            let mut trunk = Trunk::new(codec, codec.session_format());
            let packets = tone_codes(codec.law().unwrap(), 400.0, packet_ms * 8, 6_000 / packet_ms);
            let (mut sent, mut ms) = (0, 0);
            while ms < 6_000 {
                while sent < packets.len() && (sent + 1) * packet_ms <= ms + 20 {
                    let at = (sent * packet_ms * 8) as u32;
                    trunk.receive(codec.payload_type(), sent as u16, at, &packets[sent]);
                    sent += 1;
                }
                trunk.tick();
                ms += 20;
            }
            let report = trunk.audio.report();
            assert_eq!((report.jitter.lost, report.undecodable, report.concealed), (0, 0, 0), "{packet_ms} ms");
            assert!(trunk.count(Heard::Nothing) <= 4, "{packet_ms} ms: {}", trunk.count(Heard::Nothing));
            assert!(tone_share(&trunk.heard[5 * 160..], 400.0) > 0.97, "{packet_ms} ms");
        }
    }
}

#[test]
fn a_session_in_pcm_hears_a_trunk_of_any_codec_and_is_heard_by_it() {
    for codec in CODECS {
        let mut here = Trunk::new(codec, AudioFormat::Pcm24);
        let mut there = Trunk::new(codec, AudioFormat::Pcm24);
        let mut tone = Tone::new(600.0, 0.3);
        for _ in 0..100 {
            for (packet, payload) in here.speak(Some(&tone.frame())) {
                there.receive(packet.payload_type, packet.sequence, packet.timestamp, &payload);
            }
            there.tick();
        }
        let heard = &there.heard[5 * FRAME_SAMPLES..];
        assert!(tone_level(heard, 600.0) > 0.99, "{codec}: {}", tone_level(heard, 600.0));
        assert!((rms_dbfs(heard) - rms_dbfs(&tone.frame())).abs() < 0.5, "{codec}");
    }
}

#[test]
fn another_law_than_the_sessions_costs_no_more_than_the_second_law_itself() {
    let mut trunk = Trunk::new(Codec::Pcmu, AudioFormat::Pcma);
    for (n, payload) in tone_codes(Law::Mu, 500.0, 160, 50).iter().enumerate() {
        trunk.receive(0, n as u16, n as u32 * 160, payload);
        trunk.tick();
    }
    let twice: Vec<i16> = trunk.heard.iter().map(|sample| Law::A.decode(Law::A.encode(*sample))).collect();
    assert!(tone_share(&twice[5 * 160..], 500.0) > 0.995);
}

/// Field bug 7: silence is what the leg's own codec calls silence.
#[test]
fn silence_of_a_trunk_is_the_code_of_its_law_and_speech_falls_into_it() {
    for codec in [Codec::Pcma, Codec::Pcmu] {
        let law = codec.law().unwrap();
        let mut trunk = Trunk::new(codec, AudioFormat::Pcm24);
        assert_eq!(trunk.speak(None)[0].1, [law.silence(); 160]);
        trunk.speak(Some(&[9_000; FRAME_SAMPLES]));
        let all: Vec<i16> =
            (0..4).flat_map(|_| trunk.speak(None)).flat_map(|(_, p)| p).map(|c| law.decode(c)).collect();
        assert!(all[0] > 5_000 && steepest_step(&all) < 3_000.0, "{all:?}");
        assert!(all[320..].iter().all(|sample| *sample == law.decode(law.silence())));
        assert_eq!(trunk.audio.report().sent_silence, 5);
    }
}

#[test]
fn comfort_noise_is_silence_and_no_loss() {
    for codec in CODECS {
        let mut trunk = Trunk::new(codec, codec.session_format());
        let mut number = 0_u16;
        for n in 0..200_u32 {
            // One second of speech, one of silence, in which noise is described every 200 ms (RFC 3389 §4).
            let speech = n / 50 % 2 == 0;
            if speech {
                let payload: Vec<u8> = (0..160).map(|k| if k % 16 < 8 { 0x9D } else { 0x1D }).collect();
                trunk.receive(codec.payload_type(), number, n * 160, &payload);
                number += 1;
            } else if n.is_multiple_of(10) {
                assert_eq!(trunk.receive(13, number, n * 160, &[64, 3, 7]), Received::Audio(Pushed::Queued));
                number += 1;
            }
            trunk.tick();
        }
        let report = trunk.audio.report();
        assert_eq!((report.jitter.lost, report.undecodable, report.other_payloads), (0, 0, 0), "{codec}");
        assert!(report.comfort >= 90, "{codec}: {}", report.comfort);
        assert!(report.concealed <= 6, "{codec}: {}", report.concealed);
        // In the middle of the pause nothing is heard.
        let frame = codec.session_format().frame_samples();
        assert!(trunk.heard[60 * frame..95 * frame].iter().all(|sample| sample.unsigned_abs() <= 8), "{codec}");
    }
}

#[test]
fn what_is_lost_is_concealed_and_counted() {
    for codec in [Codec::Pcma, Codec::Pcmu] {
        let mut trunk = Trunk::new(codec, codec.session_format());
        for (n, payload) in tone_codes(codec.law().unwrap(), 200.0, 160, 200).iter().enumerate() {
            if n % 10 != 7 {
                trunk.receive(codec.payload_type(), n as u16, n as u32 * 160, payload);
            }
            trunk.tick();
        }
        let report = trunk.audio.report();
        assert_eq!((report.jitter.lost, report.recovered), (20, 0));
        assert_eq!(report.concealed, 20);
        let share = tone_share(&trunk.heard[5 * 160..], 200.0);
        assert!(share > 0.98, "{share}");
    }
}

#[test]
fn the_clock_of_a_trunk_runs_through_a_hold_of_ten_minutes() {
    let mut trunk = Trunk::new(Codec::Pcma, AudioFormat::Pcma);
    let frame = [100; FRAME_SAMPLES];
    let before = trunk.speak(Some(&frame))[0].0;
    trunk.audio.set_sending(false);
    for _ in 0..30_000 {
        assert!(trunk.speak(None).is_empty());
    }
    trunk.audio.set_sending(true);
    let after = trunk.speak(Some(&frame))[0].0;
    assert_eq!(after.sequence, before.sequence + 1);
    assert_eq!(after.timestamp, before.timestamp + 30_001 * 160);
    assert!(after.marker, "a talkspurt after a time without packets");
}

#[test]
fn keys_go_out_between_speech_and_come_in_as_pressed() {
    for (codec, event_clock_rate) in [(Codec::Pcma, 8_000), (Codec::Opus, 48_000)] {
        let settings = CallerAudioSettings { event_clock_rate, ..settings(codec, codec.session_format()) };
        let (mut here, mut there) = (Trunk::with(settings), Trunk::with(settings));
        let (mut told, mut sequence, mut events) = (String::new(), None, 0);
        for n in 0..200 {
            if n == 50 {
                assert!("10#*D1".chars().all(|key| here.audio.press(key)));
                assert!(!here.audio.press('x'));
            }
            let frame = (!here.audio.is_dialling()).then_some([700; FRAME_SAMPLES]);
            for (packet, payload) in here.speak(frame.as_ref()) {
                assert!(sequence.is_none_or(|before: u16| packet.sequence == before.wrapping_add(1)));
                sequence = Some(packet.sequence);
                events += usize::from(packet.payload_type == 101);
                if let Received::Digit(key) =
                    there.receive(packet.payload_type, packet.sequence, packet.timestamp, &payload)
                {
                    told.push(key);
                }
            }
            there.tick();
        }
        assert_eq!(told, "10#*D1", "{codec}");
        assert_eq!(events, 6 * 7);
        assert_eq!(there.audio.report().jitter.lost, 0);
    }
}

#[test]
fn a_flash_is_no_key_and_events_nobody_agreed_on_are_dropped() {
    let mut trunk = Trunk::new(Codec::Pcma, AudioFormat::Pcma);
    assert_eq!(trunk.receive(101, 1, 160, &[16, 10, 0, 160]), Received::Event);
    assert_eq!(trunk.receive(101, 2, 320, &[255, 10, 0, 160]), Received::Event);
    assert_eq!(trunk.receive(96, 3, 480, &[5, 10, 0, 160]), Received::OtherPayload);
    assert_eq!(trunk.receive(101, 4, 640, &[5, 10]), Received::Undecodable);
    assert_eq!(trunk.receive(101, 5, 800, &[5, 10, 0, 160]), Received::Digit('5'));
    let report = trunk.audio.report();
    assert_eq!((report.digits, report.other_payloads, report.undecodable, report.jitter.lost), (1, 1, 1, 0));
}

#[test]
fn without_telephone_events_no_key_goes_out() {
    let mut trunk =
        Trunk::with(CallerAudioSettings { event_payload_type: None, ..settings(Codec::Pcma, AudioFormat::Pcma) });
    assert!(!trunk.audio.press('1'));
    assert!(!trunk.audio.is_dialling());
}

#[test]
fn another_codec_goes_on_with_the_numbers_of_the_one_before() {
    let mut trunk = Trunk::new(Codec::Pcma, AudioFormat::Pcma);
    let before = trunk.speak(Some(&[100; FRAME_SAMPLES]))[0].0;
    trunk.receive(8, 1, 160, &[0xD5; 160]);
    trunk.tick();
    let mut next = CallerAudio::new(settings(Codec::G722, AudioFormat::Pcma)).unwrap();
    next.succeed(&mut trunk.audio);
    trunk.audio = next;
    let (after, payload) = trunk.speak(Some(&[100; FRAME_SAMPLES])).remove(0);
    assert_eq!((after.sequence, after.timestamp), (before.sequence + 1, before.timestamp + 160));
    assert_eq!((after.payload_type, payload.len(), after.marker), (9, 160, false));
    let report = trunk.audio.report();
    assert_eq!((report.sent, report.jitter.received), (2, 1));
}

proptest! {
    #[test]
    fn rubbish_from_a_trunk_never_panics(
        codec in 0_usize..4,
        packets in proptest::collection::vec(
            (0_u8..15, any::<u16>(), any::<u32>(), proptest::collection::vec(any::<u8>(), 0..1_100)), 0..40),
    ) {
        let codec = [Codec::Pcma, Codec::Pcmu, Codec::G722, Codec::Opus][codec];
        for format in [AudioFormat::Pcm24, AudioFormat::Pcmu] {
            let mut trunk = Trunk::new(codec, format);
            for (payload_type, sequence, timestamp, payload) in &packets {
                trunk.receive(*payload_type, *sequence, *timestamp, payload);
                trunk.tick();
            }
        }
    }
}
