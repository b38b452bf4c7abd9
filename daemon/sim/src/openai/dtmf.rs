//! Hears a DTMF digit in a caller's turn, so that a test can choose the script's line by what it sends as sound.

const LOW: [f64; 4] = [697.0, 770.0, 852.0, 941.0];
const HIGH: [f64; 4] = [1_209.0, 1_336.0, 1_477.0, 1_633.0];
const KEYS: [[char; 4]; 4] = [['1', '2', '3', 'A'], ['4', '5', '6', 'B'], ['7', '8', '9', 'C'], ['*', '0', '#', 'D']];
/// 40 ms at 24 kHz.
const BLOCK: usize = 960;
/// Share of a block's energy that the two tones must hold.
const SHARE: f64 = 0.8;

/// Returns the first digit held for at least two blocks of 40 ms in samples at 24 kHz.
pub(super) fn digit(samples: &[i16]) -> Option<char> {
    let mut last = None;
    for block in samples.chunks_exact(BLOCK) {
        let found = in_block(block);
        if found.is_some() && found == last {
            return found;
        }
        last = found;
    }
    None
}

fn in_block(block: &[i16]) -> Option<char> {
    let energy: f64 = block.iter().map(|&sample| f64::from(sample) * f64::from(sample)).sum();
    if energy < 1e6 * 10.0 {
        return None;
    }
    let (row, low) = strongest(block, &LOW)?;
    let (column, high) = strongest(block, &HIGH)?;
    // A pure tone of energy E over N samples has a Goertzel power of E·N/2.
    let full = energy * f64::from(u32::try_from(block.len()).ok()?) / 2.0;
    let balanced = low > high / 10.0 && high > low / 10.0;
    ((low + high) / full > SHARE && balanced).then(|| KEYS[row][column])
}

fn strongest(block: &[i16], tones: &[f64; 4]) -> Option<(usize, f64)> {
    let powers = tones.iter().map(|&hertz| power(block, hertz)).enumerate();
    powers.max_by(|(_, a), (_, b)| a.total_cmp(b))
}

fn power(block: &[i16], hertz: f64) -> f64 {
    let factor = 2.0 * (std::f64::consts::TAU * hertz / 24_000.0).cos();
    let (mut one, mut two) = (0.0_f64, 0.0_f64);
    for &sample in block {
        let next = f64::from(sample) + factor * one - two;
        two = one;
        one = next;
    }
    one * one + two * two - factor * one * two
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::cast_possible_truncation, reason = "two sines of 6000")]
    fn tones(low: f64, high: f64) -> Vec<i16> {
        let wave = |n: u32, hertz: f64| (std::f64::consts::TAU * hertz * f64::from(n) / 24_000.0).sin() * 6_000.0;
        (0..4_800).map(|n| (wave(n, low) + wave(n, high)) as i16).collect()
    }

    #[test]
    fn every_key_is_heard_and_a_lone_tone_is_none() {
        for (row, low) in LOW.iter().enumerate() {
            for (column, high) in HIGH.iter().enumerate() {
                assert_eq!(digit(&tones(*low, *high)), Some(KEYS[row][column]));
            }
        }
        assert_eq!(digit(&tones(440.0, 440.0)), None);
        assert_eq!(digit(&[0; 4_800]), None);
    }
}
