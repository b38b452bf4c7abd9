//! Chance that repeats: a small generator (splitmix64), so that a seed is a whole story.

use std::time::Duration;

/// A seeded source of choices; the same seed gives the same choices, forever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dice(u64);

impl Dice {
    /// Starts from a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `end`; 0 if `end` is 0.
    pub const fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.roll() % end }
    }

    /// True in `percent` of a hundred cases.
    pub const fn chance(&mut self, percent: u8) -> bool {
        self.below(100) < percent as u64
    }

    /// A time between the two, to the microsecond; the first one if they are in the wrong order.
    pub fn between(&mut self, shortest: Duration, longest: Duration) -> Duration {
        let span = longest.saturating_sub(shortest).as_micros();
        let span = u64::try_from(span).unwrap_or(u64::MAX).saturating_add(1);
        shortest.saturating_add(Duration::from_micros(self.below(span)))
    }

    /// A text of `length` letters out of `alphabet` (ASCII).
    pub fn text(&mut self, length: usize, alphabet: &[u8]) -> String {
        let end = u64::try_from(alphabet.len()).unwrap_or(0);
        (0..length)
            .filter_map(|_| usize::try_from(self.below(end)).ok().and_then(|at| alphabet.get(at)).copied())
            .map(char::from)
            .collect()
    }

    /// Sixteen bytes.
    pub fn bytes(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let (first, second) = bytes.split_at_mut(8);
        first.copy_from_slice(&self.roll().to_be_bytes());
        second.copy_from_slice(&self.roll().to_be_bytes());
        bytes
    }
}

/// Letters and digits, as ids and ICE names use them.
pub const ALPHANUMERIC: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_tells_the_same_story_twice() {
        let story = |seed| (0..20).scan(Dice::new(seed), |dice, _| Some(dice.roll())).collect::<Vec<_>>();
        assert_eq!(story(7), story(7));
        assert_ne!(story(7), story(8));
    }

    #[test]
    fn choices_stay_within_their_bounds() {
        let mut dice = Dice::new(1);
        let (short, long) = (Duration::from_millis(50), Duration::from_millis(400));
        for _ in 0..1_000 {
            assert!(dice.below(3) < 3);
            assert!((short..=long).contains(&dice.between(short, long)));
        }
        assert_eq!(dice.below(0), 0);
        assert_eq!(dice.between(long, short), long);
        assert_eq!(dice.text(24, ALPHANUMERIC).len(), 24);
        assert!(dice.text(24, b"").is_empty());
        assert!((0..100).all(|_| dice.chance(100)) && !(0..100).any(|_| dice.chance(0)));
    }
}
