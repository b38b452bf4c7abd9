use sauti_core::media::level::Tone;

use super::*;

fn frames(samples: &[i16]) -> impl Iterator<Item = &[i16; FRAME_SAMPLES]> {
    samples.as_chunks::<FRAME_SAMPLES>().0.iter()
}

/// Noise that repeats, `spread` of it in samples.
fn noise(seconds: usize, spread: i32) -> Vec<i16> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        i32::try_from(state >> 40).unwrap() % (2 * spread + 1) - spread
    };
    (0..seconds * 24_000).map(|_| i16::try_from(next()).unwrap()).collect()
}

#[test]
fn the_filter_passes_speech_and_stops_what_would_fold_into_it() {
    for (hertz, expected) in [(300.0, 0.0), (1_000.0, 0.0), (3_400.0, 0.0), (10_500.0, -30.0)] {
        let mut detector = VoiceDetector::default();
        let mut tone = Tone::new(hertz, 0.5);
        let mut narrow = Vec::new();
        for _ in 0..10 {
            detector.narrow_down(&tone.frame());
            narrow.extend_from_slice(&detector.narrow[..detector.narrow_len]);
            detector.narrow_len = 0;
        }
        assert_eq!(narrow.len(), 3_200);
        let gain = rms_dbfs(&narrow[320..]) - rms_dbfs(&Tone::new(hertz, 0.5).frame());
        if expected < 0.0 {
            assert!(gain < expected, "{hertz} Hz: {gain} dB");
        } else {
            assert!(gain.abs() < 0.5, "{hertz} Hz: {gain} dB");
        }
    }
}

#[test]
fn silence_noise_and_tones_are_no_speech() {
    let hum: Vec<i16> = {
        let (mut low, mut high) = (Tone::new(50.0, 0.1), Tone::new(150.0, 0.05));
        (0..500)
            .flat_map(|_| std::iter::zip(low.frame(), high.frame()).map(|(a, b)| a + b).collect::<Vec<_>>())
            .collect()
    };
    let mut tone = Tone::new(440.0, 0.04);
    let beep: Vec<i16> = (0..500).flat_map(|_| tone.frame()).collect();
    for (what, sound) in [
        ("silence", vec![0; 240_000]),
        ("faint noise", noise(10, 100)),
        ("loud noise", noise(10, 1_700)),
        ("hum of the mains", hum),
        ("a faint tone", beep),
    ] {
        let mut detector = VoiceDetector::default();
        // What begins abruptly may pass for a consonant, for less than it takes to count as words.
        let alarms: Vec<bool> = frames(&sound).map(|frame| detector.hear(frame).likely >= 0.5).collect();
        assert!(alarms[..50].iter().filter(|alarm| **alarm).count() <= 10, "{what}: {alarms:?}");
        assert_eq!(alarms[50..].iter().filter(|alarm| **alarm).count(), 0, "{what}: {alarms:?}");
    }
}

#[test]
fn the_level_is_that_of_the_frame() {
    let mut detector = VoiceDetector::default();
    let voice = detector.hear(&[i16::MIN; FRAME_SAMPLES]);
    assert!(voice.dbfs.abs() < 0.01);
    assert!((0.0..=1.0).contains(&voice.likely));
}
