//! The order in which a call's first eight events stand in the log.
//!
//! Legs come up in any order; operators read one order. A milestone that was reached early waits for its
//! predecessors and is then released with its true time. Driven by the call machine.

use std::time::Instant;

use super::outcome::labels;

labels! {
    /// The events whose order dashboards rely on, in that order.
    Milestone {
        /// The webhook that brought the call was read.
        WebhookReceived => "WA_VOICE_WEBHOOK_RECEIVED",
        /// The call was admitted.
        CallConnect => "WA_CALL_CONNECT",
        /// A caller leg was asked for.
        BridgeRequested => "MEDIA_BRIDGE_CREATE_REQUEST",
        /// ICE and DTLS are up.
        LegUp => "WEBRTC_CONNECTION_ESTABLISHED",
        /// The model's socket is up and configured.
        ModelUp => "OPENAI_WEBSOCKET_CONNECTED",
        /// Both legs are wired, nothing was sent yet.
        BridgeActive => "AUDIO_BRIDGE_ACTIVE",
        /// Graph took the accept.
        Accepted => "WA_CALL_ACCEPTED",
        /// The first frame of the AI is on the wire.
        ConversationStarted => "CONVERSATION_STARTED",
    }
}

/// Which milestones were reached, and which of them were already released.
#[derive(Debug, Clone, Default)]
pub struct Milestones {
    reached: [Option<Instant>; Milestone::ALL.len()],
    released: usize,
}

impl Milestones {
    /// Notes `milestone` at `at`; a second time changes nothing.
    pub fn reach(&mut self, milestone: Milestone, at: Instant) {
        self.reached[milestone as usize].get_or_insert(at);
    }

    /// True when it was reached, released or not.
    #[must_use]
    pub const fn has(&self, milestone: Milestone) -> bool {
        self.reached[milestone as usize].is_some()
    }

    /// When it was reached.
    #[must_use]
    pub const fn at(&self, milestone: Milestone) -> Option<Instant> {
        self.reached[milestone as usize]
    }

    /// The next milestone that may be written, with its true time; call until `None`.
    pub fn release(&mut self) -> Option<(Milestone, Instant)> {
        let milestone = *Milestone::ALL.get(self.released)?;
        let at = self.reached[self.released]?;
        self.released += 1;
        Some((milestone, at))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn drain(milestones: &mut Milestones) -> Vec<Milestone> {
        std::iter::from_fn(|| milestones.release()).map(|(milestone, _)| milestone).collect()
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
    fn an_early_milestone_waits_for_its_predecessors_and_keeps_its_time() {
        let start = Instant::now();
        let mut milestones = Milestones::default();
        milestones.reach(Milestone::WebhookReceived, start);
        milestones.reach(Milestone::ModelUp, start + Duration::from_millis(5));
        assert_eq!(drain(&mut milestones), [Milestone::WebhookReceived]);
        milestones.reach(Milestone::CallConnect, start);
        milestones.reach(Milestone::BridgeRequested, start);
        milestones.reach(Milestone::LegUp, start + Duration::from_millis(90));
        assert_eq!(
            drain(&mut milestones),
            [Milestone::CallConnect, Milestone::BridgeRequested, Milestone::LegUp, Milestone::ModelUp]
        );
        assert_eq!(milestones.at(Milestone::ModelUp), Some(start + Duration::from_millis(5)));
    }
}
