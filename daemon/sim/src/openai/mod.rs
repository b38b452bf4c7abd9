//! An emulated OpenAI Realtime server, one [`RealtimeServer`] per WebSocket, sans-IO and deterministic.
//!
//! It is driven by a skin: virtual time in tests, loopback sockets in `sauti simulate`. The skin asks [`handshake`]
//! what to answer to the HTTP request, then feeds text frames to [`RealtimeServer::receive`], calls
//! [`RealtimeServer::handle_timeout`] at [`RealtimeServer::deadline`], and performs each [`Out`] in order.
//!
//! It is no model: a script speaks ([`Script`]), energy decides what is speech, and transcription is a list of lines.
//! What it is strict about is the protocol: shapes of client events, real durations, one active response, the order of
//! events, error and close codes. It shares no type with the daemon's own decoder, so that an error there cannot hide.

mod brain;
mod client;
mod conversation;
mod dtmf;

mod handshake;
mod input;
mod record;
mod response;
mod schema;
mod session;
mod settings;
mod shapes;
mod speak;
mod trouble;
mod usage;
mod vad;
mod wire;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use self::{
    brain::Brain,
    conversation::Conversation,
    input::Input,
    response::Response,
    schema::Rejection,
    session::{Activity, Session},
    usage::Meter,
    wire::Dice,
};
pub use self::{
    brain::{Clip, Line, Say, Script},
    handshake::{Handshake, RequestFacts, handshake},
    record::{Append, ClientFault, ClientFaultKind, Mark, Record, SpokenItem},
    session::SessionKind,
    settings::{
        BadResponse, Burst, BusyTurn, ExpectedKey, Fault, HANDSHAKE_TRIPS, HandshakeFault, KeyOrder, Latency, Mode,
        RateLimits, RateLimitsAt, Recording, ServerSettings, Trouble, When,
    },
};

/// What the skin has to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Out {
    /// Send a text frame.
    Text(String),
    /// Send a close frame; nothing follows.
    Close {
        /// WebSocket close code.
        code: u16,
        /// Close reason.
        reason: String,
    },
    /// Drop the TCP connection without a close frame; nothing follows.
    Abort,
    /// Stop reading and writing for good, but keep the connection open; nothing follows.
    HalfOpen,
}

/// Something to be done later.
#[derive(Debug)]
enum Task {
    /// Send an event that was put off.
    Emit(&'static str, Value),
    /// Go on speaking in the response of this number.
    Speak(u64),
    /// Report a transcription.
    Transcribe { item_id: String, number: usize, text: String, ms: u64 },
    /// The caller has been silent too long, unless the generation has moved on.
    Idle(u64),
    /// Return an append.
    Echo { base64: String, bytes: usize },
    /// Next beat of the metronome.
    Beat,
    /// The fault of this number strikes.
    Strike(usize),
    /// The session's time is up.
    Expire,
}

#[derive(Debug)]
enum Phase {
    Fresh,
    Open,
    Stalled { until: Instant, held: VecDeque<String> },
    Silent,
    Closed,
}

/// One connection of the emulated server.
#[derive(Debug)]
pub struct RealtimeServer {
    settings: Arc<ServerSettings>,
    now: Instant,
    phase: Phase,
    kind: SessionKind,
    session: Session,
    conversation_id: String,
    conversation: Conversation,
    input: Input,
    brain: Brain,
    meter: Meter,
    dice: Dice,
    agenda: BTreeMap<(Instant, u64), Task>,
    tickets: u64,
    outbox: Vec<Out>,
    responses: BTreeMap<u64, Response>,
    default_response: Option<u64>,
    /// A turn ended while a response ran, and is answered next.
    turn_waits: bool,
    response_count: u32,
    delta_count: u32,
    calls: BTreeMap<String, bool>,
    has_spoken: bool,
    beating: bool,
    idle_generation: u64,
    /// Updates that the session still needs before it belongs to a caller.
    updates_owed: u8,
    swapping: Option<Option<String>>,
    last_text: Option<String>,
    record: Record,
}

impl RealtimeServer {
    /// Makes the server for a connection that [`handshake`] accepted.
    #[must_use]
    pub fn new(now: Instant, settings: Arc<ServerSettings>, facts: &RequestFacts) -> Self {
        let mut dice = Dice::new(settings.seed ^ facts.connection.wrapping_mul(0xD1B5_4A32_D192_ED03));
        let kind = facts.kind().unwrap_or_else(|| SessionKind::Realtime { model: "gpt-realtime-2.1".into() });
        let expires_at = settings.opened_at.saturating_add(settings.session_limit.as_secs());
        let mut server = Self {
            session: Session::new(&kind, &dice.id("sess"), expires_at, settings.extra_keys),
            conversation_id: dice.id("conv"),
            meter: Meter::new(settings.rate_limits, now),
            settings,
            now,
            phase: Phase::Fresh,
            kind,
            conversation: Conversation::default(),
            input: Input::default(),
            brain: Brain::default(),
            dice,
            agenda: BTreeMap::new(),
            tickets: 0,
            outbox: Vec::new(),
            responses: BTreeMap::new(),
            default_response: None,
            turn_waits: false,
            response_count: 0,
            delta_count: 0,
            calls: BTreeMap::new(),
            has_spoken: false,
            beating: false,
            idle_generation: 0,
            updates_owed: 1 + u8::from(facts.header("openai-safety-identifier").next().is_none()),
            swapping: None,
            last_text: None,
            record: Record::default(),
        };
        for header in handshake::private_headers(facts, &server.settings.private_texts) {
            server.blame(ClientFaultKind::PrivateHeader, header);
        }
        server
    }

    /// The WebSocket stands: `session.created` is on its way. A second call changes nothing.
    pub fn open(&mut self, now: Instant, out: &mut Vec<Out>) {
        self.now = now;
        if matches!(self.phase, Phase::Fresh) {
            self.phase = Phase::Open;
            self.emit_after(
                self.settings.latency.session_created,
                "session.created",
                json!({"session": self.session.json()}),
            );
            self.plan(now + self.settings.session_limit, Task::Expire);
            let timed: Vec<_> = self.settings.faults.iter().map(|fault| fault.when).enumerate().collect();
            for (index, when) in timed {
                if let When::AfterOpen(delay) = when {
                    self.plan(now + delay, Task::Strike(index));
                }
            }
        }
        out.append(&mut self.outbox);
    }

    /// Takes a text frame of the client. Frames before `open` and after the end are dropped.
    pub fn receive(&mut self, now: Instant, text: &str, out: &mut Vec<Out>) {
        self.now = now;
        if self.settings.recording.client_frames {
            self.record.client_log.push((now, text.to_owned()));
        }
        match &mut self.phase {
            Phase::Stalled { held, .. } => held.push_back(text.to_owned()),
            Phase::Open => self.handle_frame(text),
            Phase::Fresh | Phase::Silent | Phase::Closed => {}
        }
        out.append(&mut self.outbox);
    }

    /// Takes a binary frame, which the API does not know.
    pub fn receive_binary(&mut self, now: Instant, bytes: usize, out: &mut Vec<Out>) {
        self.now = now;
        if matches!(self.phase, Phase::Open) {
            self.blame(ClientFaultKind::Malformed, format!("binary frame of {bytes} bytes"));
            let rejection = Rejection::plain("invalid_event", "Binary messages are not supported.");
            self.refuse(&rejection, None);
        }
        out.append(&mut self.outbox);
    }

    /// The client closed or lost the connection: open obligations are judged, nothing comes out any more.
    pub fn disconnected(&mut self, now: Instant) {
        self.now = now;
        self.end();
    }

    /// True while frames are taken as they come: neither stalled, silent nor over.
    #[must_use]
    pub const fn is_reading(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// When [`RealtimeServer::handle_timeout`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Open => self.agenda.first_key_value().map(|((at, _), _)| *at),
            Phase::Stalled { until, .. } => Some(*until),
            Phase::Fresh | Phase::Silent | Phase::Closed => None,
        }
    }

    /// Does what is due at `now`; too early or too late a call is harmless.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Vec<Out>) {
        self.now = now;
        if let Phase::Stalled { until, held } = &mut self.phase
            && *until <= now
        {
            let held = std::mem::take(held);
            self.phase = Phase::Open;
            self.restart_pacing();
            for text in held {
                // A frame may end the connection.
                if matches!(self.phase, Phase::Open) {
                    self.restart_pacing();
                    self.handle_frame(&text);
                }
            }
        }
        while matches!(self.phase, Phase::Open)
            && let Some(entry) = self.agenda.first_entry()
            && entry.key().0 <= now
        {
            let ((due, _), task) = entry.remove_entry();
            self.perform(due, task);
        }
        out.append(&mut self.outbox);
    }

    /// What the connection leaves for a judge.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Takes the record out and leaves an empty one.
    pub fn take_record(&mut self) -> Record {
        std::mem::take(&mut self.record)
    }

    fn perform(&mut self, due: Instant, task: Task) {
        match task {
            Task::Emit(kind, body) => self.emit(kind, body),
            Task::Speak(number) => self.speak(due, number),
            Task::Transcribe { item_id, number, text, ms } => self.transcribe(&item_id, number, &text, ms),
            Task::Idle(generation) => self.idle_over(generation),
            Task::Echo { base64, bytes } => self.echo(&base64, bytes),
            Task::Beat => self.beat(due),
            Task::Strike(index) => self.strike(index),
            Task::Expire => {
                let message = "Your session hit the maximum duration of 60 minutes.";
                let error = json!({"type": "invalid_request_error", "code": "session_expired", "message": message,
                    "param": null, "event_id": null});
                self.emit("error", json!({"error": error}));
                self.close(1_001, message);
            }
        }
    }

    fn plan(&mut self, at: Instant, task: Task) {
        self.tickets += 1;
        self.agenda.insert((at, self.tickets), task);
    }

    /// Sends an event now.
    fn emit(&mut self, kind: &'static str, body: Value) {
        let id = self.dice.id("event");
        if !kind.ends_with(".delta") {
            let subject = [body.get("item_id"), body.pointer("/item/id"), body.pointer("/response/id")];
            let subject = subject.into_iter().flatten().find_map(Value::as_str).unwrap_or_default().to_owned();
            self.record.marks.push(Mark { at: self.now, event: kind, subject });
        }
        if let Some(text) = wire::render(&self.settings, kind, &id, body) {
            self.push_text(text);
        }
    }

    /// Sends an event after a delay; without one at once.
    fn emit_after(&mut self, delay: Duration, kind: &'static str, body: Value) {
        if delay.is_zero() {
            self.emit(kind, body);
        } else {
            self.plan(self.now + delay, Task::Emit(kind, body));
        }
    }

    /// Answers a refused client event.
    fn refuse(&mut self, rejection: &Rejection, event_id: Option<&str>) {
        let error = json!({"type": "invalid_request_error", "code": rejection.code, "message": rejection.message,
            "param": rejection.param, "event_id": event_id});
        self.emit("error", json!({"error": error}));
    }

    fn blame(&mut self, kind: ClientFaultKind, detail: impl Into<String>) {
        self.record.client_faults.push(ClientFault { at: self.now, kind, detail: detail.into() });
    }

    fn close(&mut self, code: u16, reason: &str) {
        self.outbox.push(Out::Close { code, reason: reason.to_owned() });
        self.end();
    }

    fn end(&mut self) {
        if matches!(self.phase, Phase::Closed) {
            return;
        }
        self.phase = Phase::Closed;
        self.agenda.clear();
        let owed: Vec<String> =
            self.calls.iter().filter(|(_, answered)| !**answered).map(|(id, _)| id.clone()).collect();
        owed.into_iter().for_each(|id| self.blame(ClientFaultKind::UnansweredToolCall, id));
    }

    fn activity(&self) -> Activity {
        Activity { has_spoken: self.has_spoken, speaking: self.default_response.is_some() }
    }
}
