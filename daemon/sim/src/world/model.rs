//! The model's side of a call: the emulated server, one connection after the other, and the way to it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::network::{Path, PathSettings};
use crate::openai::{
    ExpectedKey, Fault, HANDSHAKE_TRIPS, Handshake, Out, RealtimeServer, Record, RequestFacts, Script, ServerSettings,
    handshake,
};

/// How the link finds out that a socket is dead: ping after 15 s, answer within 10 s.
const DEAD_AFTER: Duration = Duration::from_secs(25);
/// Longest wait for the model's socket, as in `daemon/src/house.rs`.
const MODEL_WITHIN: Duration = Duration::from_secs(4);

/// Something that the server would never send, sent all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inject {
    /// Since the connection opened.
    pub at: Duration,
    /// The event; `{response}` and `{item}` stand for the latest ids, `{audio}` for `audio_bytes` of tone in base64.
    pub event: String,
    /// See `event`.
    pub audio_bytes: usize,
    /// So often, every 20 ms.
    pub times: u32,
}

/// What happens to one connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Connection {
    /// The handshake is answered with this status and code.
    pub refuse: Option<(u16, String)>,
    /// The key is wrong.
    pub wrong_key: bool,
    /// Nobody answers.
    pub unreachable: bool,
    /// Disturbances on the socket.
    pub faults: Vec<Fault>,
    /// Responses that go wrong, by number from 0.
    pub bad_responses: Vec<(u32, crate::openai::BadResponse)>,
    /// What is sent beside.
    pub injects: Vec<Inject>,
    pub(super) number: u64,
}

/// The model of a world.
#[derive(Debug, Clone)]
pub struct ModelSettings {
    /// What all connections have in common.
    pub server: ServerSettings,
    /// One way.
    pub delay: Duration,
    /// By number from 0; later ones are as they should be, or like the last if `repeat_last`.
    pub connections: Vec<Connection>,
    /// Whatever the last connection of the list meets, all later ones meet too.
    pub repeat_last: bool,
}

impl Default for ModelSettings {
    fn default() -> Self {
        let script = Script::tones(4, Duration::from_secs(4));
        let mut server = ServerSettings::new(ExpectedKey::new("canary-openai-key"), script);
        server.recording.audio = false;
        Self { server, delay: Duration::from_millis(60), connections: Vec::new(), repeat_last: false }
    }
}

/// What arrives from the server.
#[derive(Debug, Clone)]
pub(super) enum Arrives {
    Text(Arc<str>),
    /// The answer to a ping.
    Alive,
    Closed {
        code: Option<u16>,
        reason: String,
    },
}

#[derive(Debug)]
struct Line {
    number: u64,
    server: RealtimeServer,
    to: Path<Arc<str>>,
    from: Path<Arrives>,
    opened: Instant,
    injects: Vec<(Instant, Inject)>,
    /// Latest response and item.
    ids: (String, String),
    dead: Option<Instant>,
    /// A ping that nobody has answered.
    pinged: bool,
}

/// How a connection is answered.
pub(super) enum Answer {
    Opens { after: Duration, connection: Connection },
    Refused { after: Duration, status: u16, code: Option<String> },
    Nobody { after: Duration },
}

/// All connections of one call; at most one lives.
#[derive(Debug)]
pub(super) struct ModelEnd {
    settings: ModelSettings,
    seed: u64,
    start: Instant,
    count: u64,
    line: Option<Line>,
    out: Vec<Out>,
    /// What the connections that are over left behind.
    pub(super) records: Vec<Record>,
}

impl ModelEnd {
    pub(super) fn new(settings: &ModelSettings, seed: u64, start: Instant) -> Self {
        Self { settings: settings.clone(), seed, start, count: 0, line: None, out: Vec::new(), records: Vec::new() }
    }

    fn facts(number: u64) -> RequestFacts {
        RequestFacts {
            path: "/v1/realtime".to_owned(),
            query: "model=gpt-realtime-2.1".to_owned(),
            headers: vec![("authorization".to_owned(), "Bearer canary-openai-key".to_owned())],
            connection: number,
        }
    }

    fn server_settings(&self, connection: &Connection) -> ServerSettings {
        let mut settings = self.settings.server.clone();
        settings.seed = self.seed;
        settings.faults.extend(connection.faults.iter().cloned());
        settings.bad_responses.extend(connection.bad_responses.iter().cloned());
        if connection.wrong_key {
            settings.expected_key = ExpectedKey::new("another");
        }
        settings
    }

    /// Somebody dials.
    pub(super) fn dial(&mut self) -> Answer {
        let number = self.count;
        self.count += 1;
        let list = &self.settings.connections;
        let last = list.last().filter(|_| self.settings.repeat_last);
        let place = usize::try_from(number).ok();
        let mut connection = place.and_then(|place| list.get(place)).or(last).cloned().unwrap_or_default();
        connection.number = number;
        let after = self.settings.delay * 2 * HANDSHAKE_TRIPS + self.settings.server.handshake_delay;
        if connection.unreachable || after > MODEL_WITHIN {
            return Answer::Nobody { after: MODEL_WITHIN };
        }
        if let Some((status, code)) = connection.refuse.clone() {
            return Answer::Refused { after, status, code: Some(code) };
        }
        match handshake(&self.server_settings(&connection), &Self::facts(number)) {
            Handshake::Refuse { status, .. } => Answer::Refused { after, status, code: None },
            Handshake::Accept { .. } | Handshake::AcceptThenClose { .. } => Answer::Opens { after, connection },
        }
    }

    /// The socket stands.
    pub(super) fn open(&mut self, now: Instant, connection: &Connection) -> u64 {
        self.hang_up(now);
        let number = connection.number;
        let way = PathSettings {
            delay_ms: u32::try_from(self.settings.delay.as_millis()).unwrap_or(u32::MAX),
            capacity: 100_000,
            ..PathSettings::default()
        };
        let settings = self.server_settings(connection);
        let refused = match handshake(&settings, &Self::facts(number)) {
            Handshake::AcceptThenClose { events, code, reason, .. } => Some((events, code, reason)),
            Handshake::Accept { .. } | Handshake::Refuse { .. } => None,
        };
        let mut line = Line {
            number,
            server: RealtimeServer::new(now, Arc::new(settings), &Self::facts(number)),
            to: Path::new(&way, self.seed, self.start),
            from: Path::new(&way, self.seed, self.start),
            opened: now,
            injects: connection.injects.iter().map(|inject| (now + inject.at, inject.clone())).collect(),
            ids: (String::new(), String::new()),
            dead: None,
            pinged: false,
        };
        if let Some((events, code, reason)) = refused {
            for event in events {
                line.from.send(now, Arrives::Text(event.into()));
            }
            line.from.send(now, Arrives::Closed { code: Some(code), reason });
        } else {
            line.server.open(now, &mut self.out);
        }
        self.line = Some(line);
        self.flush(now);
        number
    }

    /// The client drops the socket.
    pub(super) fn hang_up(&mut self, now: Instant) {
        if let Some(mut line) = self.line.take() {
            line.server.disconnected(now);
            self.records.push(line.server.take_record());
        }
    }

    pub(super) const fn is_connected(&self) -> bool {
        self.line.is_some()
    }

    /// Sends a message of the client.
    pub(super) fn send(&mut self, now: Instant, text: Arc<str>) {
        if let Some(line) = &mut self.line {
            line.to.send(now, text);
        }
    }

    /// Sends a ping: a message of no length, as the server knows no such text.
    pub(super) fn ping(&mut self, now: Instant) {
        self.send(now, Arc::from(""));
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let line = self.line.as_ref()?;
        let inject = line.injects.iter().map(|(at, _)| *at).min();
        [line.server.deadline(), line.to.deadline(), line.from.deadline(), inject, line.dead]
            .into_iter()
            .flatten()
            .min()
    }

    /// Lets the server work, and returns what has arrived from it by now.
    pub(super) fn work(&mut self, now: Instant) -> Option<(u64, Arrives)> {
        if let Some(line) = &mut self.line {
            while let Some(text) = line.to.receive(now) {
                if text.is_empty() {
                    line.pinged = true;
                } else {
                    line.server.receive(now, &text, &mut self.out);
                }
            }
            if line.server.deadline().is_some_and(|due| due <= now) {
                line.server.handle_timeout(now, &mut self.out);
            }
            // A socket that stalls stalls as a whole.
            if line.pinged && line.server.is_reading() {
                line.pinged = false;
                line.from.send(now, Arrives::Alive);
            }
        }
        self.flush(now);
        let line = self.line.as_mut()?;
        Some((line.number, line.from.receive(now)?))
    }

    /// Puts what the server has to say on its way.
    fn flush(&mut self, now: Instant) {
        let Some(line) = &mut self.line else { return };
        for out in self.out.drain(..) {
            match out {
                Out::Text(text) => {
                    if !line.injects.is_empty() {
                        line.note_ids(&text);
                    }
                    line.from.send(now, Arrives::Text(text.into()));
                }
                Out::Close { code, reason } => line.from.send(now, Arrives::Closed { code: Some(code), reason }),
                Out::Abort => line.from.send(now, Arrives::Closed { code: None, reason: String::new() }),
                Out::HalfOpen => line.dead = Some(now + DEAD_AFTER),
            }
        }
        if line.dead.is_some_and(|at| at <= now) {
            line.dead = None;
            line.from.send(now, Arrives::Closed { code: None, reason: String::new() });
        }
        line.inject(now);
    }
}

impl Line {
    fn note_ids(&mut self, text: &str) {
        let value = |key: &str| {
            let from = text.find(&format!("\"{key}\":\""))? + key.len() + 4;
            let rest = text.get(from..)?;
            rest.find('"').and_then(|end| rest.get(..end)).map(str::to_owned)
        };
        if let Some(response) = value("response_id") {
            self.ids.0 = response;
        }
        if let Some(item) = value("item_id") {
            self.ids.1 = item;
        }
    }

    fn inject(&mut self, now: Instant) {
        let mut later = Vec::new();
        for (at, mut inject) in std::mem::take(&mut self.injects) {
            if at > now {
                later.push((at, inject));
                continue;
            }
            let tone: Vec<u8> =
                (0..inject.audio_bytes).map(|place| if place % 96 < 48 { 0x20 } else { 0xe0 }).collect();
            let text = inject
                .event
                .replace("{response}", &self.ids.0)
                .replace("{item}", &self.ids.1)
                .replace("{audio}", &STANDARD.encode(tone));
            self.from.send(now.max(self.opened), Arrives::Text(text.into()));
            inject.times = inject.times.saturating_sub(1);
            if inject.times > 0 {
                later.push((at + Duration::from_millis(20), inject));
            }
        }
        self.injects = later;
    }
}
