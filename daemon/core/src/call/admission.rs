//! Who may come in: a decision on figures, taken before anything is built for a call.
//!
//! It holds no state: the switchboard counts its own table and asks.

use std::time::Duration;

use super::outcome::labels;

/// Lateness of a lane's tick (p99 of a second) beyond which new calls would spoil the running ones: two frames, which
/// is what the jitter buffer of a phone hides. A burst of handshakes on a small box stays below it.
const TICK_LATE_LIMIT: Duration = Duration::from_millis(40);

/// What the box looks like at the moment of the question.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Calls that hold a permit.
    pub live: usize,
    /// `[limits] max_calls`.
    pub max_calls: usize,
    /// 99th percentile of the tick lateness over the last second, worst lane.
    pub tick_late: Duration,
    /// The daemon was told to stop.
    pub draining: bool,
    /// A model is configured.
    pub servable: bool,
}

labels! {
    /// Why a call may not come in.
    Refusal {
        /// All permits are out.
        Full => "full",
        /// The lanes are late: one more call would be heard by the others.
        Overloaded => "overloaded",
        /// The daemon is stopping.
        Draining => "draining",
        /// No model is configured.
        NotConfigured => "not_configured",
    }
}

/// Decides whether a new call may come in.
///
/// # Errors
/// The reason for a refusal.
pub const fn admit(load: &Load) -> Result<(), Refusal> {
    if load.draining {
        Err(Refusal::Draining)
    } else if !load.servable {
        Err(Refusal::NotConfigured)
    } else if load.live >= load.max_calls {
        Err(Refusal::Full)
    } else if load.tick_late.as_nanos() > TICK_LATE_LIMIT.as_nanos() && load.live > 0 {
        Err(Refusal::Overloaded)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Load = Load { live: 0, max_calls: 2, tick_late: Duration::ZERO, draining: false, servable: true };

    #[test]
    fn the_last_permit_is_given_and_the_next_call_refused() {
        assert_eq!(admit(&Load { live: 1, ..IDLE }), Ok(()));
        assert_eq!(admit(&Load { live: 2, ..IDLE }), Err(Refusal::Full));
    }

    #[test]
    fn late_lanes_refuse_unless_the_box_is_empty() {
        let late = Duration::from_millis(41);
        assert_eq!(admit(&Load { live: 1, tick_late: late, ..IDLE }), Err(Refusal::Overloaded));
        assert_eq!(admit(&Load { tick_late: late, ..IDLE }), Ok(()));
    }

    #[test]
    fn a_draining_or_unconfigured_box_refuses() {
        assert_eq!(admit(&Load { draining: true, ..IDLE }), Err(Refusal::Draining));
        assert_eq!(admit(&Load { servable: false, ..IDLE }), Err(Refusal::NotConfigured));
    }
}
