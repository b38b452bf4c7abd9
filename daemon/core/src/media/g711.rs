//! G.711 (ITU-T), both laws: codes of 8 bits and what they stand for.
//!
//! Tables and arithmetic, no state. A code that is decoded and encoded again is itself, all 256 of either law: µ-law has
//! two zeros, and the negative one is given the sample −1 so that it finds its way back. That is what lets a trunk's audio
//! pass through linear frames unchanged. Driven by the pipeline towards the caller, by [`super::playout`] and
//! [`crate::ai::client`] towards the model.

/// Which of the two companding laws.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Law {
    /// µ-law: North America and Japan.
    Mu,
    /// A-law: everywhere else, Rwanda and Malta included.
    A,
}

impl Law {
    /// The code of silence.
    #[must_use]
    pub const fn silence(self) -> u8 {
        match self {
            Self::Mu => 0xFF,
            Self::A => 0xD5,
        }
    }

    /// The sample that a code stands for, scaled to 16 bit.
    #[must_use]
    pub const fn decode(self, code: u8) -> i16 {
        match self {
            Self::Mu => MU[code as usize],
            Self::A => A[code as usize],
        }
    }

    /// The code nearest to a sample.
    #[must_use]
    pub const fn encode(self, sample: i16) -> u8 {
        match self {
            Self::Mu => encode_mu(sample),
            Self::A => encode_a(sample),
        }
    }
}

const MU: [i16; 256] = table(Law::Mu);
const A: [i16; 256] = table(Law::A);

const fn table(law: Law) -> [i16; 256] {
    let mut table = [0; 256];
    let mut code = 0_u8;
    loop {
        table[code as usize] = match law {
            Law::Mu => decode_mu(code),
            Law::A => decode_a(code),
        };
        if code == u8::MAX {
            return table;
        }
        code += 1;
    }
}

/// Offset that makes each segment of µ-law begin at a power of two, at 16 bit.
const BIAS: u16 = 0x84;
/// Loudest sample that µ-law knows; louder ones are it.
const CLIP: u16 = 32_635;

const fn decode_mu(code: u8) -> i16 {
    let code = !code;
    let magnitude = ((((code & 0x0F) as u16) << 3) + BIAS) << ((code >> 4) & 7);
    let magnitude = (magnitude - BIAS).cast_signed();
    match (code & 0x80 != 0, magnitude) {
        (false, magnitude) => magnitude,
        (true, 0) => -1,
        (true, magnitude) => -magnitude,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "segment and step are 3 and 4 bits")]
const fn encode_mu(sample: i16) -> u8 {
    let (sign, magnitude) = if sample < 0 { (0x80, sample.unsigned_abs()) } else { (0, sample.unsigned_abs()) };
    let biased = if magnitude > CLIP { CLIP } else { magnitude } + BIAS;
    let segment = 8 - biased.leading_zeros() as u16;
    let step = (biased >> (segment + 3)) & 0x0F;
    !(sign | ((segment as u8) << 4) | step as u8)
}

const fn decode_a(code: u8) -> i16 {
    let code = code ^ 0x55;
    let step = ((code & 0x0F) as i16) << 4;
    let magnitude = match (code >> 4) & 7 {
        0 => step + 8,
        segment => (step + 0x108) << (segment - 1),
    };
    if code & 0x80 != 0 { magnitude } else { -magnitude }
}

#[expect(clippy::cast_possible_truncation, reason = "segment and step are 3 and 4 bits")]
const fn encode_a(sample: i16) -> u8 {
    // Negative samples are counted from −1, so that both halves have the same steps.
    let (sign, magnitude) = if sample < 0 { (0, (!sample).cast_unsigned()) } else { (0x80, sample.cast_unsigned()) };
    let code = if magnitude < 0x100 {
        (magnitude >> 4) as u8
    } else {
        let segment = 8 - magnitude.leading_zeros() as u16;
        ((segment as u8) << 4) | ((magnitude >> (segment + 3)) & 0x0F) as u8
    };
    (sign | code) ^ 0x55
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_both_laws_comes_back_as_itself() {
        for law in [Law::Mu, Law::A] {
            for code in 0..=u8::MAX {
                assert_eq!(law.encode(law.decode(code)), code, "{law:?} {code:#04x}");
            }
        }
    }

    /// Decoder output values of ITU-T G.711, tables 1a to 2b, scaled from 13 and 14 bit to 16.
    #[test]
    fn codes_stand_for_what_the_standard_says() {
        for (code, sample) in
            [(0x80, 32_124), (0x00, -32_124), (0xFF, 0), (0xFE, 8), (0xEF, 132), (0x9F, 8_316), (0x8F, 16_764)]
        {
            assert_eq!(Law::Mu.decode(code), sample, "µ {code:#04x}");
        }
        for (code, sample) in [(0xAA, 32_256), (0x2A, -32_256), (0xD5, 8), (0x55, -8), (0xC5, 264), (0xB5, 8_448)] {
            assert_eq!(Law::A.decode(code), sample, "A {code:#04x}");
        }
    }

    #[test]
    fn every_sample_gets_the_code_nearest_to_it() {
        for law in [Law::Mu, Law::A] {
            let mut steps: Vec<i32> = (0..=u8::MAX).map(|code| i32::from(law.decode(code))).collect();
            steps.sort_unstable();
            for sample in i16::MIN..=i16::MAX {
                let got = i32::from(law.decode(law.encode(sample)));
                let nearest = steps.iter().map(|step| (step - i32::from(sample)).abs()).min().unwrap();
                // At the border between two steps either is as near; the two zeros of µ-law lie 1 apart.
                let off = (got - i32::from(sample)).abs();
                assert!(off <= nearest + 1 || steps_apart(&steps, got, i32::from(sample)), "{law:?} {sample}: {got}");
            }
        }
    }

    /// Decision values lie in the middle of two steps only within a segment (G.711 §3.2): at its edges a sample may go to
    /// the next one.
    fn steps_apart(steps: &[i32], got: i32, sample: i32) -> bool {
        let place = steps.iter().position(|step| *step == got).unwrap();
        let low = place.checked_sub(1).map_or(i32::MIN, |at| steps[at]);
        let high = steps.get(place + 1).copied().unwrap_or(i32::MAX);
        low < sample && sample < high
    }

    #[test]
    fn silence_is_silent_and_the_loudest_sample_has_a_code() {
        assert_eq!((Law::Mu.silence(), Law::A.silence()), (Law::Mu.encode(0), Law::A.encode(0)));
        assert_eq!((Law::Mu.encode(i16::MAX), Law::Mu.encode(i16::MIN)), (0x80, 0x00));
        assert_eq!((Law::A.encode(i16::MAX), Law::A.encode(i16::MIN)), (0xAA, 0x2A));
    }
}
