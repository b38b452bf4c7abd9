#![expect(clippy::cast_possible_truncation, reason = "short signals, counted by hand")]

use super::*;

const RATE: usize = 8_000;
const FRAME: usize = 160;

/// Something like a vowel of `hertz`: five harmonics.
fn vowel(hertz: f64, samples: usize) -> Vec<i16> {
    let at = |n: usize| {
        let phase = std::f64::consts::TAU * hertz * n as f64 / RATE as f64;
        (1..=5).map(|k| (phase * f64::from(k)).sin() / f64::from(k)).sum::<f64>() * 6_000.0
    };
    (0..samples).map(|n| at(n) as i16).collect()
}

/// The signal with one frame in `every` lost.
fn through(signal: &[i16], every: usize, run: usize) -> Vec<i16> {
    let mut concealer = Concealer::new(RATE as u32);
    let mut out = Vec::new();
    for (n, frame) in signal.chunks_exact(FRAME).enumerate() {
        let mut frame = frame.to_vec();
        if n > 5 && n % every < run {
            concealer.conceal(&mut frame)
        } else {
            concealer.take(&mut frame)
        }
        out.extend(frame);
    }
    out
}

fn steepest(samples: &[i16]) -> i32 {
    samples.windows(2).map(|pair| (i32::from(pair[1]) - i32::from(pair[0])).abs()).max().unwrap_or(0)
}

fn energy(samples: &[i16]) -> f64 {
    samples.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>() / samples.len() as f64
}

#[test]
fn without_loss_nothing_is_changed() {
    let signal = vowel(130.0, 50 * FRAME);
    assert_eq!(through(&signal, 60, 0), signal);
}

#[test]
fn one_lost_frame_of_a_steady_voice_is_hardly_to_be_told_from_it() {
    for hertz in [80.0, 110.0, 143.0, 190.0] {
        let signal = vowel(hertz, 100 * FRAME);
        let heard = through(&signal, 10, 1);
        let noise: Vec<i16> = signal.iter().zip(&heard).map(|(a, b)| a - b).collect();
        let ratio = 10.0 * (energy(&signal) / energy(&noise)).log10();
        assert!(ratio > 12.0, "{hertz} Hz: {ratio} dB");
        let silence: Vec<i16> = signal
            .chunks(FRAME)
            .enumerate()
            .filter(|(n, _)| *n > 5 && n % 10 < 1)
            .flat_map(|(_, f)| f.to_vec())
            .collect();
        let plain = 10.0 * (energy(&signal) * 100.0 / (energy(&silence) * 9.0)).log10();
        assert!(ratio > plain + 2.0, "{hertz} Hz: {ratio} dB, silence in its place {plain} dB");
        assert!(steepest(&heard) < steepest(&signal) * 3 / 2, "{} {}", steepest(&heard), steepest(&signal));
    }
}

#[test]
fn a_long_loss_fades_to_silence_within_60_ms_and_ends_without_a_step() {
    let signal = vowel(120.0, 60 * FRAME);
    let heard = through(&signal, 20, 8);
    // Frames 20 to 27 are lost.
    let lost = &heard[20 * FRAME..28 * FRAME];
    assert!(energy(&lost[..FRAME / 2]) > energy(&signal) / 2.0);
    assert!(lost[60 * 8..].iter().all(|sample| *sample == 0));
    assert!(energy(&lost[40 * 8..60 * 8]) < energy(&signal) / 8.0);
    assert!(steepest(&heard) < steepest(&signal) * 3 / 2);
}

#[test]
fn a_loss_before_anything_came_is_silence() {
    let mut concealer = Concealer::new(16_000);
    let mut frame = [7; 320];
    concealer.conceal(&mut frame);
    assert_eq!(frame, [0; 320]);
}

#[test]
fn the_loudest_input_does_not_overflow() {
    let mut concealer = Concealer::new(RATE as u32);
    let mut square: Vec<i16> = (0..400).map(|n| if n % 90 < 45 { i16::MAX } else { i16::MIN }).collect();
    concealer.take(&mut square);
    let mut frame = [0; FRAME];
    concealer.conceal(&mut frame);
    assert!(frame.contains(&i16::MAX));
}
