//! A response from its cause to `response.done`: what it may say, what it read, how it ends.
//!
//! What lies between (items, deltas) is in `speak.rs`.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{
    RealtimeServer, Task,
    brain::{Cause, Clip, Say},
    schema::Rejection,
    session::Format,
    settings::{BadResponse, Mode, RateLimitsAt},
    speak::OpenItem,
    usage::{Context, Tokens},
};

/// A metronome of no length would never let time pass.
const SHORTEST_BEAT: Duration = Duration::from_millis(100);

/// A response in progress.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) id: String,
    pub(super) in_conversation: bool,
    pub(super) text_only: bool,
    pub(super) format: Format,
    pub(super) max_tokens: Option<u64>,
    pub(super) plan: VecDeque<Say>,
    pub(super) open: Option<OpenItem>,
    pub(super) finished: Vec<Value>,
    pub(super) audio_done_owed: Vec<Value>,
    pub(super) bad: Option<BadResponse>,
    pub(super) audio_bytes: usize,
    pub(super) text_bytes: usize,
    pub(super) bursts: u32,
    /// Deltas sent so far.
    pub(super) pieces: usize,
    /// Bytes that may leave in this burst; negative when the last delta overdrew it.
    pub(super) credit: i64,
    /// Echoes appends and has no end of its own.
    pub(super) endless: bool,
    /// An endless response that no `response.create` has asked for yet.
    unclaimed: bool,
    shown: Value,
    context: Context,
}

/// How a response ends.
#[derive(Debug)]
pub(super) enum Ending {
    Completed,
    Cancelled(&'static str),
    Incomplete(&'static str),
    Failed { kind: String, code: String, message: String },
}

/// What is asked of a new response.
struct Order {
    plan: Vec<Say>,
    request: Value,
    in_conversation: bool,
    endless: bool,
    /// Replaces the conversation as context.
    input: Option<Vec<(String, Tokens)>>,
}

impl Response {
    fn json(&self, status: &str, details: &Value, usage: &Value) -> Value {
        let mut shown = self.shown.clone();
        shown["status"] = status.into();
        shown["status_details"] = details.clone();
        shown["usage"] = usage.clone();
        shown["output"] = self.finished.clone().into();
        shown
    }

    /// Tokens produced so far.
    pub(super) fn produced(&self) -> Tokens {
        Tokens::of_model(self.audio_ms()).plus(Tokens::of_text(self.text_bytes))
    }

    /// Milliseconds of audio sent so far.
    pub(super) fn audio_ms(&self) -> u64 {
        (self.audio_bytes / self.format.bytes_per_ms()) as u64
    }
}

impl RealtimeServer {
    /// The client's `response.create`; its shape has been checked.
    pub(super) fn create_response(&mut self, request: &Value) -> Result<(), Rejection> {
        self.needs_conversation()?;
        let in_conversation = request.get("conversation").and_then(Value::as_str) != Some("none");
        let input = match request.get("input").and_then(Value::as_array) {
            Some(entries) => Some(self.read_input(entries)?),
            None => None,
        };
        if in_conversation && let Some(number) = self.default_response {
            // In echo mode the first append may have started the long response that this create asks for.
            return match self.responses.get_mut(&number) {
                Some(response) if response.unclaimed => {
                    response.unclaimed = false;
                    Ok(())
                }
                _ => Err(self.already_active(number)),
            };
        }
        let settings = Arc::clone(&self.settings);
        let instructions = request.get("instructions").and_then(Value::as_str);
        let (plan, endless) = match settings.mode {
            _ if !in_conversation => (vec![Say::Clip(Clip::new(settings.script.summary.clone(), [].into()))], false),
            Mode::Echo { .. } => (Vec::new(), true),
            Mode::Metronome { speak, pause } if !self.beating => {
                self.beating = true;
                self.plan(self.now + (speak + pause).max(SHORTEST_BEAT), Task::Beat);
                (self.brain.choose(&settings.script, Cause::Beat(speak)), false)
            }
            Mode::Metronome { .. } | Mode::Conversation => {
                let typed = self.conversation.unanswered_text();
                let tool_result = self.conversation.has_fresh_tool_result();
                let cause = Cause::Client { instructions, typed, tool_result };
                (self.brain.choose(&settings.script, cause), false)
            }
        };
        self.begin(Order { plan, request: request.clone(), in_conversation, endless, input });
        Ok(())
    }

    /// A response that nobody asked for in words: the caller's turn ended, or the caller fell silent.
    pub(super) fn respond(&mut self, cause: Cause<'_>) {
        let settings = Arc::clone(&self.settings);
        let plan = self.brain.choose(&settings.script, cause);
        self.begin(Order { plan, request: Value::Null, in_conversation: true, endless: false, input: None });
    }

    /// Starts the long response of echo mode, unless it runs.
    pub(super) fn start_echo(&mut self) {
        if self.default_response.is_none() {
            let (plan, request) = (Vec::new(), Value::Null);
            self.begin(Order { plan, request, in_conversation: true, endless: true, input: None });
            if let Some(response) = self.default_response.and_then(|number| self.responses.get_mut(&number)) {
                response.unclaimed = true;
            }
        }
    }

    /// One beat of the metronome.
    pub(super) fn beat(&mut self, due: std::time::Instant) {
        if let Mode::Metronome { speak, pause } = self.settings.mode {
            self.plan(due + (speak + pause).max(SHORTEST_BEAT), Task::Beat);
            if self.default_response.is_none() {
                self.respond(Cause::Beat(speak));
            }
        }
    }

    fn begin(&mut self, order: Order) {
        let number = self.response_count;
        self.response_count = self.response_count.saturating_add(1);
        let bad = self.settings.bad_responses.iter().find(|(which, _)| *which == number).map(|(_, bad)| bad.clone());
        let mut response = self.new_response(order, bad);
        let asked = response.context.input.total() + response.max_tokens.unwrap_or(4_096);
        if !self.meter.book(asked, self.now) && response.bad.is_none() {
            response.bad = Some(BadResponse::rate_limited());
        }
        let key = u64::from(number);
        if response.in_conversation {
            self.idle_generation += 1;
            self.default_response = Some(key);
        }
        let created = response.json("in_progress", &Value::Null, &Value::Null);
        let (bad, endless) = (response.bad.clone(), response.endless);
        self.responses.insert(key, response);
        if bad != Some(BadResponse::NoCreated) {
            self.emit("response.created", json!({"response": created}));
        }
        if self.settings.rate_limits.at == RateLimitsAt::BeforeContent {
            self.emit_rate_limits();
        }
        if !endless && bad != Some(BadResponse::Hangs) {
            let delay = self.settings.latency.first_delta + self.spread();
            self.plan(self.now + delay, Task::Speak(key));
        }
        self.strike_at_response(number);
    }

    fn new_response(&mut self, order: Order, bad: Option<BadResponse>) -> Response {
        let Order { plan, request, in_conversation, endless, input } = order;
        let own = |pointer: &str, session: &Self, inherited: &str| {
            let own = request.pointer(pointer).filter(|own| !own.is_null()).cloned();
            own.unwrap_or_else(|| session.session.inherited(inherited))
        };
        let modalities = own("/output_modalities", self, "/output_modalities");
        let max_tokens = own("/max_output_tokens", self, "/max_output_tokens");
        let voice = own("/audio/output/voice", self, "/audio/output/voice");
        let voice = voice.get("id").cloned().unwrap_or(voice);
        let wire_format = own("/audio/output/format", self, "/audio/output/format");
        let format = Format::read(&wire_format);
        let id = self.dice.id("resp");
        let conversation_id = in_conversation.then_some(&self.conversation_id);
        let shown = json!({
            "object": "realtime.response", "id": id, "conversation_id": conversation_id,
            "output_modalities": modalities, "max_output_tokens": max_tokens,
            "audio": {"output": {"format": wire_format, "voice": voice}},
            "metadata": request.get("metadata"),
        });
        let prompt = request.get("instructions").and_then(Value::as_str).unwrap_or_else(|| self.session.instructions());
        let preamble = Tokens::of_text(prompt.len() + self.session.tools_bytes());
        let mut entries = vec![(prompt.to_owned(), preamble)];
        match input {
            Some(given) => entries.extend(given),
            None => entries.extend(self.conversation.items().iter().map(|item| (item.id.clone(), item.tokens()))),
        }
        Response {
            id,
            in_conversation,
            text_only: modalities.get(0).and_then(Value::as_str) == Some("text"),
            format,
            max_tokens: max_tokens.as_u64(),
            plan: plan.into(),
            open: None,
            finished: Vec::new(),
            audio_done_owed: Vec::new(),
            bad,
            audio_bytes: 0,
            text_bytes: 0,
            bursts: 0,
            pieces: 0,
            credit: 0,
            endless,
            unclaimed: false,
            shown,
            context: self.meter.read(entries),
        }
    }

    fn spread(&mut self) -> Duration {
        let most = u64::try_from(self.settings.latency.first_delta_spread.as_micros()).unwrap_or_default();
        if most == 0 { Duration::ZERO } else { Duration::from_micros(self.dice.roll() % most) }
    }

    /// The client's `response.cancel`.
    pub(super) fn cancel_response(&mut self, id: Option<&str>) -> Result<(), Rejection> {
        let found = match id {
            Some(id) => self.responses.iter().find(|(_, response)| response.id == id).map(|(number, _)| *number),
            None => self.default_response,
        };
        let Some(number) = found else {
            let message = "Cancellation failed: no active response found";
            return Err(Rejection::plain("response_cancel_not_active", message));
        };
        self.cancel(number, "client_cancelled");
        Ok(())
    }

    /// Breaks a response off: what is open is closed as incomplete, then `response.done`.
    pub(super) fn cancel(&mut self, number: u64, reason: &'static str) {
        if let Some(response) = self.responses.remove(&number) {
            self.finish(number, response, &Ending::Cancelled(reason));
        }
    }

    /// Ends a response that has been taken out of the table.
    pub(super) fn finish(&mut self, number: u64, mut response: Response, ending: &Ending) {
        let completed = matches!(ending, Ending::Completed);
        if let Some(item) = response.open.take() {
            if let (Ending::Cancelled(_), Some(spoken)) = (ending, self.record.spoken_mut(&item.id)) {
                spoken.cancelled = true;
            }
            self.close_item(&mut response, item, completed);
        }
        for owed in std::mem::take(&mut response.audio_done_owed) {
            self.emit("response.output_audio.done", owed);
        }
        if response.in_conversation && self.default_response == Some(number) {
            self.default_response = None;
        }
        let produced = response.produced();
        self.record.tokens += response.context.input.total() + produced.total();
        let (status, details) = match ending {
            Ending::Completed => ("completed", Value::Null),
            Ending::Cancelled(reason) => ("cancelled", json!({"type": "cancelled", "reason": reason})),
            Ending::Incomplete(reason) => ("incomplete", json!({"type": "incomplete", "reason": reason})),
            Ending::Failed { kind, code, message } => {
                let error = json!({"type": kind, "code": code, "message": message});
                ("failed", json!({"type": "failed", "error": error}))
            }
        };
        let usage = match ending {
            Ending::Failed { .. } => Value::Null,
            _ => response.context.usage(produced),
        };
        let body = json!({"response": response.json(status, &details, &usage)});
        self.emit("response.done", body);
        if self.settings.rate_limits.at == RateLimitsAt::AfterDone {
            self.emit_rate_limits();
        }
        if response.in_conversation && std::mem::take(&mut self.turn_waits) {
            self.respond(Cause::Turn(None));
        } else if response.in_conversation && !matches!(ending, Ending::Cancelled("turn_detected")) {
            self.await_caller(response.audio_ms());
        }
    }

    fn emit_rate_limits(&mut self) {
        let limits = self.meter.limits(self.now);
        self.emit("rate_limits.updated", json!({"rate_limits": limits}));
    }
}
