//! What a call's sessions with the model used and cost: totals that grow, written whenever they do.
//!
//! One row per session and model, as a call is also charged for the model that transcribes.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use sauti_core::ai::session::Billed;
use sauti_core::call::cost::{Cost, Usage};
use sauti_core::ids::CallId;
use sauti_core::record::SessionRow;

use crate::house::House;

/// The sessions of one call.
#[derive(Debug)]
pub(crate) struct SessionLedger {
    house: Arc<House>,
    call: CallId,
    /// Sessions begun so far.
    begun: u32,
    opened: Option<Timestamp>,
    /// The model that speaks in the present one.
    model: String,
    used: BTreeMap<String, Usage>,
}

impl SessionLedger {
    pub(crate) const fn new(house: Arc<House>, call: CallId) -> Self {
        Self { house, call, begun: 0, opened: None, model: String::new(), used: BTreeMap::new() }
    }

    /// A session is being opened, the former one, if any, is closed; returns which one of the call it is, from 1.
    pub(crate) fn opening(&mut self) -> u32 {
        self.closed();
        self.begun += 1;
        self.begun
    }

    /// The session is configured: from here on it is on the bill.
    pub(crate) fn opened(&mut self, model: &str) {
        self.opened = Some(Timestamp::now());
        model.clone_into(&mut self.model);
        self.used.insert(self.model.clone(), Usage::default());
        self.write(None);
    }

    /// Tokens were billed.
    pub(crate) fn usage(&mut self, who: Billed, usage: Usage) {
        let model = match who {
            Billed::Model => self.model.clone(),
            Billed::Transcription => self.house.openai.transcription.clone().unwrap_or_default(),
        };
        let metrics = &self.house.metrics;
        for (class, count) in [
            ("text_in", usage.text_in.saturating_sub(usage.text_cached)),
            ("text_cached", usage.text_cached),
            ("text_out", usage.text_out),
            ("audio_in", usage.audio_in.saturating_sub(usage.audio_cached)),
            ("audio_cached", usage.audio_cached),
            ("audio_out", usage.audio_out),
        ] {
            metrics.tokens(class, count);
        }
        if let Some(cost) = self.house.prices.cost(&model, &usage) {
            metrics.cost(dollars(cost));
        }
        *self.used.entry(model).or_default() += usage;
        self.write(None);
    }

    /// The session is over; a second time changes nothing.
    pub(crate) fn closed(&mut self) {
        if self.opened.is_some() {
            self.write(Some(Timestamp::now()));
        }
        self.opened = None;
        self.used.clear();
    }

    fn write(&self, closed_at: Option<Timestamp>) {
        let Some(opened_at) = self.opened else { return };
        for (model, usage) in &self.used {
            let row = SessionRow {
                ordinal: self.begun.saturating_sub(1),
                openai_session_id: None,
                model: model.clone(),
                opened_at,
                closed_at,
                usage: *usage,
                cost: self.house.prices.cost(model, usage),
            };
            self.house.store.session(self.call, row);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a metric in dollars; the ledger keeps the exact amount")]
fn dollars(cost: Cost) -> f64 {
    cost.micro_usd() as f64 / 1e6
}
