//! G.711 of the far ends: codes, and the step between 8 and 24 kHz.
//!
//! Kept apart from the product's own codec on purpose, so that an error there cannot cancel itself out here.

/// Which of the two companding laws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Law {
    /// North America and Japan.
    Mu,
    /// Everywhere else.
    A,
}

impl Law {
    /// Its static payload type (RFC 3551 §6).
    #[must_use]
    pub const fn payload_type(self) -> u8 {
        match self {
            Self::Mu => 0,
            Self::A => 8,
        }
    }

    /// Its encoding name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mu => "PCMU",
            Self::A => "PCMA",
        }
    }
}

/// Decodes to samples at 24 kHz: each 8 kHz sample becomes three on a straight line from the one before.
pub fn decode_to_24k(law: Law, bytes: &[u8], last: &mut i16, out: &mut Vec<i16>) {
    for &code in bytes {
        let next = i32::from(match law {
            Law::Mu => mu_to_linear(code),
            Law::A => a_to_linear(code),
        });
        let from = i32::from(*last);
        out.extend((1..=3).map(|step| clamp(from + (next - from) * step / 3)));
        *last = clamp(next);
    }
}

/// Encodes samples at 24 kHz: three are averaged to one at 8 kHz.
#[must_use]
pub fn encode_from_24k(law: Law, samples: &[i16]) -> Vec<u8> {
    samples
        .chunks_exact(3)
        .map(|three| {
            let mean = clamp(three.iter().map(|&sample| i32::from(sample)).sum::<i32>() / 3);
            match law {
                Law::Mu => linear_to_mu(mean),
                Law::A => linear_to_a(mean),
            }
        })
        .collect()
}

fn clamp(value: i32) -> i16 {
    i16::try_from(value.clamp(i32::from(i16::MIN), i32::from(i16::MAX))).unwrap_or_default()
}

fn low_byte(value: i32) -> u8 {
    u8::try_from(value & 0xFF).unwrap_or_default()
}

fn mu_to_linear(code: u8) -> i16 {
    let code = i32::from(!code);
    let magnitude = ((((code & 0x0F) << 3) + 0x84) << ((code & 0x70) >> 4)) - 0x84;
    clamp(if code & 0x80 == 0 { magnitude } else { -magnitude })
}

fn linear_to_mu(sample: i16) -> u8 {
    let value = i32::from(sample);
    let sign = if value < 0 { 0x80 } else { 0 };
    let biased = value.abs().min(32_635) + 0x84;
    let exponent = (0..8).rev().find(|bit| biased & (0x80 << bit) != 0).unwrap_or(0);
    let mantissa = (biased >> (exponent + 3)) & 0x0F;
    !low_byte(sign | (exponent << 4) | mantissa)
}

fn a_to_linear(code: u8) -> i16 {
    let code = i32::from(code ^ 0x55);
    let segment = (code & 0x70) >> 4;
    let base = ((code & 0x0F) << 4) + 8;
    let magnitude = if segment == 0 { base } else { (base + 0x100) << (segment - 1) };
    clamp(if code & 0x80 == 0 { -magnitude } else { magnitude })
}

fn linear_to_a(sample: i16) -> u8 {
    let value = i32::from(sample);
    let (sign, magnitude) = if value >= 0 { (0x80, value) } else { (0, -value - 1) };
    let magnitude = magnitude.min(32_767);
    let exponent = (1..8).rev().find(|bit| magnitude & (0x80 << bit) != 0).unwrap_or(0);
    let mantissa = if exponent == 0 { magnitude >> 4 } else { magnitude >> (exponent + 3) };
    low_byte(sign | (exponent << 4) | (mantissa & 0x0F)) ^ 0x55
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_codes_mean_what_the_recommendation_says() {
        assert_eq!((mu_to_linear(0xFF), mu_to_linear(0x00), mu_to_linear(0x80)), (0, -32_124, 32_124));
        assert_eq!((a_to_linear(0xD5), a_to_linear(0xAA), a_to_linear(0x2A)), (8, 32_256, -32_256));
        assert_eq!((linear_to_mu(0), linear_to_a(0)), (0xFF, 0xD5));
    }

    #[test]
    fn every_code_survives_the_way_there_and_back() {
        for code in 0..=255_u8 {
            let linear = a_to_linear(code);
            assert_eq!(linear_to_a(linear), code, "A-law {code:#x} = {linear}");
            let linear = mu_to_linear(code);
            // μ-law has two zeros.
            assert!(linear_to_mu(linear) == code || linear == 0, "μ-law {code:#x} = {linear}");
        }
    }

    #[test]
    fn a_steady_level_keeps_its_level_through_both_rates() {
        for law in [Law::Mu, Law::A] {
            let codes = encode_from_24k(law, &[5_000; 240]);
            let mut back = Vec::new();
            decode_to_24k(law, &codes, &mut 5_000, &mut back);
            assert_eq!((codes.len(), back.len()), (80, 240));
            assert!(back.iter().all(|&sample| (4_800..5_200).contains(&sample)), "{law:?}");
        }
    }
}
