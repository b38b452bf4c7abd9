//! How long a caller waits for an answer: from the end of her voice to the first frame of it on the wire.
//!
//! Counted from the sound itself, as the lane's detector hears it, and not from an event of the model, which comes after
//! the way to it and the silence that it waits for. It is told what the lane hears and when the AI began to be heard;
//! who asks and what is answered is [`crate::ai::session`]'s. Not in it: the jitter buffer before the detector, which
//! has a metric of its own, and the network to the caller.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::media::floor::{GAP, Overlap};

/// Ends that wait for an answer; whoever speaks on makes new ones, and the last of them counts.
const KEPT: usize = 8;

/// See the module.
#[derive(Debug, Default)]
pub struct AnswerDelay {
    words: bool,
    ends: VecDeque<Instant>,
}

impl AnswerDelay {
    /// The lane heard something at `now`.
    pub fn heard(&mut self, now: Instant, overlap: Overlap) {
        match overlap {
            Overlap::Began => {}
            Overlap::Words => self.words = true,
            Overlap::Ended { .. } => {
                // A cough wants no answer.
                if std::mem::take(&mut self.words)
                    && let Some(end) = now.checked_sub(GAP)
                {
                    if self.ends.len() >= KEPT {
                        self.ends.pop_front();
                    }
                    self.ends.push_back(end);
                }
            }
        }
    }

    /// The first frame of something that the AI said left at `began`: how long ago the caller had ended, if it is the
    /// first thing since.
    pub fn answered(&mut self, began: Instant) -> Option<Duration> {
        let mut latest = None;
        while let Some(end) = self.ends.pop_front_if(|end| *end <= began) {
            latest = Some(end);
        }
        Some(began.saturating_duration_since(latest?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDED: Overlap = Overlap::Ended { voiced: Duration::from_millis(900) };

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn it_counts_from_the_last_voiced_frame_of_the_last_words() {
        let (mut delay, now) = (AnswerDelay::default(), start());
        for end in [1_000, 2_000] {
            delay.heard(now + ms(end - 700), Overlap::Words);
            delay.heard(now + ms(end) + GAP, ENDED);
        }
        assert_eq!(delay.answered(now + ms(3_100)), Some(ms(1_100)));
        assert_eq!(delay.answered(now + ms(5_000)), None, "what is said next answers nothing");
    }

    #[test]
    fn a_turn_that_is_told_late_is_measured_by_when_it_began() {
        let (mut delay, now) = (AnswerDelay::default(), start());
        delay.heard(now, Overlap::Words);
        delay.heard(now + ms(500) + GAP, ENDED);
        // She interrupted the answer, which is told only then.
        delay.heard(now + ms(4_000), Overlap::Words);
        delay.heard(now + ms(5_000) + GAP, ENDED);
        assert_eq!(delay.answered(now + ms(1_500)), Some(ms(1_000)));
        assert_eq!(delay.answered(now + ms(6_500)), Some(ms(1_500)));
    }

    #[test]
    fn a_cough_and_a_greeting_are_no_turns() {
        let (mut delay, now) = (AnswerDelay::default(), start());
        delay.heard(now, Overlap::Began);
        delay.heard(now + ms(400), Overlap::Ended { voiced: ms(180) });
        assert_eq!(delay.answered(now + ms(1_500)), None);
        for at in 0..100 {
            delay.heard(now + ms(at * 1_000), Overlap::Words);
            delay.heard(now + ms(at * 1_000 + 600), ENDED);
        }
        assert!(delay.ends.len() <= KEPT);
    }
}
