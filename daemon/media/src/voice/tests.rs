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

#[test]
fn speech_at_8_khz_is_judged_as_speech_at_24() {
    let lines = sauti_speech();
    let mut narrow = Resampler::new(SAMPLE_RATE, 8_000);
    let (mut wide_ear, mut narrow_ear) = (VoiceDetector::default(), VoiceDetector::at(8_000));
    let (mut both, mut either) = (0, 0);
    for frame in frames(&lines) {
        let mut small = [0; FRAME_SAMPLES];
        let made = narrow.run(frame, &mut small);
        let (a, b) = (wide_ear.hear(frame).likely >= 0.5, narrow_ear.hear(&small[..made]).likely >= 0.5);
        both += usize::from(a && b);
        either += usize::from(a || b);
    }
    assert!(either > 50, "{either} frames hold speech");
    assert!(both * 10 > either * 8, "{both} of {either}");
}

/// A spoken recording of the box.
fn sauti_speech() -> Vec<i16> {
    crate::ogg_opus::decode(include_bytes!("../../../clips/en/greeting.opus"), 240_000).unwrap()
}
