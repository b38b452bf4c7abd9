//! Planned disturbances: frames and silences that a client must survive.

use std::collections::VecDeque;

use serde_json::json;

use super::{
    Out, Phase, RealtimeServer,
    settings::{Trouble, When},
    wire::{DeltaOf, render_audio},
};

impl RealtimeServer {
    /// Puts a frame out, in the place that a planned swap gives it.
    pub(super) fn push_text(&mut self, text: String) {
        if matches!(self.phase, Phase::Closed | Phase::Silent) {
            return;
        }
        if self.settings.faults.iter().any(|fault| fault.trouble == Trouble::Duplicate) {
            self.last_text = Some(text.clone());
        }
        match self.swapping.take() {
            None => self.outbox.push(Out::Text(text)),
            Some(None) => self.swapping = Some(Some(text)),
            Some(Some(earlier)) => self.outbox.extend([Out::Text(text), Out::Text(earlier)]),
        }
    }

    /// Lets the faults strike that are tied to the response just created.
    pub(super) fn strike_at_response(&mut self, number: u32) {
        self.strike_when(When::AtResponse(number));
    }

    /// Lets the faults strike that are tied to the audio delta just sent.
    pub(super) fn strike_at_delta(&mut self) {
        let number = self.delta_count;
        self.delta_count = self.delta_count.saturating_add(1);
        if !self.settings.faults.is_empty() {
            self.strike_when(When::AtDelta(number));
        }
    }

    fn strike_when(&mut self, when: When) {
        let faults = self.settings.faults.iter().enumerate();
        let due: Vec<usize> = faults.filter(|(_, fault)| fault.when == when).map(|(index, _)| index).collect();
        due.into_iter().for_each(|index| self.strike(index));
    }

    /// Does what the fault of this index says.
    pub(super) fn strike(&mut self, index: usize) {
        let Some(trouble) = self.settings.faults.get(index).map(|fault| fault.trouble.clone()) else { return };
        if matches!(self.phase, Phase::Closed | Phase::Silent) {
            return;
        }
        match trouble {
            Trouble::UnknownEvent => {
                let id = self.dice.id("event");
                let body = json!({"type": "response.mood.updated", "event_id": id, "mood": {"name": "calm"}});
                self.push_text(body.to_string());
            }
            Trouble::Garbage => self.push_text(r#"{"type":"response.output_audio.delta","delta":"#.into()),
            Trouble::Huge(bytes) => {
                let id = self.dice.id("event");
                let padding = "x".repeat(bytes);
                self.push_text(format!(r#"{{"type":"debug.dump","event_id":"{id}","padding":"{padding}"}}"#));
            }
            Trouble::Duplicate => {
                if let Some(text) = self.last_text.clone() {
                    self.outbox.push(Out::Text(text));
                }
            }
            Trouble::Swap => self.swapping = Some(None),
            Trouble::OrphanDelta => {
                let ids = [self.dice.id("event"), self.dice.id("resp"), self.dice.id("item")];
                let of = DeltaOf { response_id: &ids[1], item_id: &ids[2], output_index: 0 };
                let text = render_audio(&self.settings, &ids[0], of, "AAAAAAAA");
                self.push_text(text);
            }
            Trouble::Error { kind, code, message } => {
                let error = json!({"type": kind, "code": code, "message": message, "param": null, "event_id": null});
                self.emit("error", json!({"error": error}));
            }
            Trouble::Close { code, reason } => self.close(code, &reason),
            Trouble::Abort => {
                self.outbox.push(Out::Abort);
                self.end();
            }
            Trouble::HalfOpen => {
                self.outbox.push(Out::HalfOpen);
                self.phase = Phase::Silent;
            }
            Trouble::Stall(length) => {
                self.phase = Phase::Stalled { until: self.now + length, held: VecDeque::new() };
            }
        }
    }
}
