//! Stories in virtual time: a scripted client against one server, clock driven from deadline to deadline.

mod conversation;
mod faults;
mod modes;
mod protocol;
mod responses;
mod sweep;
mod turns;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{ExpectedKey, Latency, Out, RealtimeServer, RequestFacts, Script, ServerSettings};

/// Some instant; only differences matter.
#[expect(clippy::disallowed_methods, reason = "an Instant cannot be made otherwise; only differences from it count")]
pub(crate) fn start() -> Instant {
    Instant::now()
}

/// Settings of a far end that answers at once, with a script of tones.
fn settings() -> ServerSettings {
    let script = Script::tones(2, Duration::from_millis(1_000));
    ServerSettings { latency: Latency::ZERO, ..ServerSettings::new(ExpectedKey::new("canary-openai-key"), script) }
}

/// A caller's voice: loud enough to be speech.
fn voice(ms: usize) -> Vec<i16> {
    (0..ms * 24).map(|index| if index % 80 < 40 { 5_000 } else { -5_000 }).collect()
}

fn quiet(ms: usize) -> Vec<i16> {
    vec![0; ms * 24]
}

/// One server, its clock and everything that came out.
struct Rig {
    server: RealtimeServer,
    start: Instant,
    now: Instant,
    events: Vec<(Duration, Value)>,
    ends: Vec<Out>,
    texts: Vec<String>,
}

impl Rig {
    fn new(settings: ServerSettings) -> Self {
        Self::with_query(settings, "model=gpt-realtime-2.1")
    }

    fn with_query(settings: ServerSettings, query: &str) -> Self {
        let facts = RequestFacts { path: "/v1/realtime".into(), query: query.into(), ..RequestFacts::default() };
        Self::with_request(settings, facts)
    }

    fn with_request(settings: ServerSettings, facts: RequestFacts) -> Self {
        let start = start();
        let server = RealtimeServer::new(start, Arc::new(settings), &facts);
        let mut rig = Self { server, start, now: start, events: Vec::new(), ends: Vec::new(), texts: Vec::new() };
        let mut out = Vec::new();
        rig.server.open(rig.now, &mut out);
        rig.take(out);
        rig
    }

    fn take(&mut self, out: Vec<Out>) {
        for out in out {
            match out {
                Out::Text(text) => {
                    if let Ok(event) = serde_json::from_str(&text) {
                        self.events.push((self.now - self.start, event));
                    }
                    self.texts.push(text);
                }
                end => self.ends.push(end),
            }
        }
    }

    fn send(&mut self, event: Value) {
        self.send_text(&event.to_string());
    }

    fn send_text(&mut self, text: &str) {
        let mut out = Vec::new();
        self.server.receive(self.now, text, &mut out);
        self.take(out);
    }

    /// Lets `length` pass, waking the server at each of its deadlines and at no other time.
    fn run(&mut self, length: Duration) {
        let end = self.now + length;
        for _ in 0..100_000 {
            match self.server.deadline().filter(|at| *at <= end) {
                Some(at) => {
                    self.now = self.now.max(at);
                    let mut out = Vec::new();
                    self.server.handle_timeout(self.now, &mut out);
                    self.take(out);
                }
                None => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("the server's deadlines do not move on");
    }

    fn run_ms(&mut self, ms: u64) {
        self.run(Duration::from_millis(ms));
    }

    /// Appends audio in 20 ms pieces at the pace of a call.
    fn say(&mut self, samples: &[i16]) {
        for piece in samples.chunks(480) {
            self.append(piece);
            self.run_ms(20);
        }
    }

    fn append(&mut self, samples: &[i16]) {
        let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        self.send(json!({"type": "input_audio_buffer.append", "audio": STANDARD.encode(bytes)}));
    }

    fn update(&mut self, session: Value) {
        let mut session = session;
        session["type"] = json!("realtime");
        self.send(json!({"type": "session.update", "event_id": "u", "session": session}));
    }

    fn create(&mut self) {
        self.send(json!({"type": "response.create"}));
    }

    /// All events of a type, in order.
    fn all(&self, kind: &str) -> Vec<&Value> {
        self.events.iter().map(|(_, event)| event).filter(|event| event["type"] == kind).collect()
    }

    /// The last event of a type.
    fn last(&self, kind: &str) -> &Value {
        self.all(kind).pop().unwrap_or_else(|| panic!("no {kind} among {:?}", self.kinds()))
    }

    /// Types of all events in order, runs of deltas as one.
    fn kinds(&self) -> Vec<&str> {
        let mut kinds: Vec<&str> = self.events.iter().filter_map(|(_, event)| event["type"].as_str()).collect();
        let delta = |kind: &str| kind.ends_with("delta");
        kinds.dedup_by(|a, b| delta(a) && delta(b));
        kinds
    }

    /// Forgets the events so far.
    fn forget(&mut self) {
        self.events.clear();
        self.texts.clear();
    }

    /// Code of the last error.
    fn error_code(&self) -> &str {
        self.last("error")["error"]["code"].as_str().unwrap_or_default()
    }

    /// Bytes of all audio deltas for an item.
    fn audio_of(&self, item_id: &Value) -> Vec<u8> {
        let deltas = self.all("response.output_audio.delta").into_iter().filter(|event| event["item_id"] == *item_id);
        deltas.flat_map(|event| STANDARD.decode(event["delta"].as_str().unwrap_or_default()).unwrap()).collect()
    }
}
