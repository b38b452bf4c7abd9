//! The two clocks of the house, handed in as one value.
//!
//! Nothing in this crate reads a clock: whoever drives a machine passes a [`Now`].

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// A reading of both clocks, taken at one moment by the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time: every deadline and every duration is measured on it.
    pub mono: Instant,
    /// Wall time: only for what people and other systems read (rows, logs, staleness).
    pub wall: Timestamp,
}

impl Now {
    /// Returns the reading `by` later on both clocks.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        let wall = self.wall.saturating_add(jiff::SignedDuration::try_from(by).unwrap_or(jiff::SignedDuration::MAX));
        Self { mono: self.mono + by, wall: wall.unwrap_or(Timestamp::MAX) }
    }
}
