//! What one emulated Realtime server is told before it meets a client: keys, voice, pace, latencies, faults.
//!
//! Nothing here decides anything; `handshake.rs` and the server read it. One value serves any number of connections
//! behind an `Arc`.

use std::{fmt, time::Duration};

use super::brain::Script;

/// Times there and back until a WebSocket stands: DNS, TCP, TLS 1.3 and the upgrade, one each.
pub const HANDSHAKE_TRIPS: u32 = 4;

/// A key that a client must present. Its `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct ExpectedKey(String);

impl ExpectedKey {
    /// Takes the key that `Authorization: Bearer` must carry.
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    /// Says whether the presented key is the expected one.
    #[must_use]
    pub fn accepts(&self, presented: &str) -> bool {
        self.0 == presented
    }
}

impl fmt::Debug for ExpectedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExpectedKey(..)")
    }
}

/// Who talks when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Turns: the caller's speech ends, the script's next line is spoken.
    #[default]
    Conversation,
    /// Every append comes back unchanged as an `output_audio.delta` after this delay, in one long response. Voice
    /// detection is off, so that a measuring chirp is not taken for an interruption.
    Echo {
        /// From the append's arrival to the delta's emission; the contract measures with 200 ms.
        delay: Duration,
    },
    /// Speech of a fixed length at a fixed beat, whatever the caller does (load runs: "the AI speaks half the time").
    /// The beat starts with the client's first `response.create`; voice detection is off.
    Metronome {
        /// How long each response speaks.
        speak: Duration,
        /// Silence between the end of one response's playback and the start of the next response.
        pause: Duration,
    },
}

impl Mode {
    /// The echo of the contract's measurements: 200 ms.
    pub const ECHO: Self = Self::Echo { delay: Duration::from_millis(200) };
}

/// How the model's audio leaves: several times faster than it plays, in bursts of odd-sized pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Burst {
    /// Speed against real time in percent: 500 = a second of speech in 200 ms. Below 100 the client starves.
    pub speed_percent: u32,
    /// Time between two bursts.
    pub interval: Duration,
    /// Bytes per delta, used in turn; odd counts split a sample between two deltas. Empty = one delta a burst.
    pub chunk_bytes: Vec<usize>,
    /// After every `.0` bursts the stream rests for `.1` on top of the interval.
    pub rest: Option<(u32, Duration)>,
}

impl Default for Burst {
    fn default() -> Self {
        Self {
            speed_percent: 500,
            interval: Duration::from_millis(60),
            chunk_bytes: vec![9_600, 4_801, 7_201, 12_003],
            rest: None,
        }
    }
}

/// Delays of the emulated model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    /// From the socket's opening to `session.created`.
    pub session_created: Duration,
    /// From `session.update` to its answer.
    pub session_updated: Duration,
    /// From the cause of a response (end of the caller's speech, `response.create`) to its first content.
    pub first_delta: Duration,
    /// Added to `first_delta`, drawn evenly from zero up to this, by the seed.
    pub first_delta_spread: Duration,
    /// From a committed turn to the transcription of it.
    pub transcription: Duration,
}

impl Latency {
    /// A far end that answers at once.
    pub const ZERO: Self = Self {
        session_created: Duration::ZERO,
        session_updated: Duration::ZERO,
        first_delta: Duration::ZERO,
        first_delta_spread: Duration::ZERO,
        transcription: Duration::ZERO,
    };
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            session_created: Duration::from_millis(20),
            session_updated: Duration::from_millis(15),
            first_delta: Duration::from_millis(350),
            first_delta_spread: Duration::from_millis(100),
            transcription: Duration::from_millis(450),
        }
    }
}

/// Where `rate_limits.updated` stands; the published descriptions disagree, so clients must take it anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RateLimitsAt {
    /// Right after `response.created`.
    BeforeContent,
    /// After `response.done`.
    #[default]
    AfterDone,
    /// Not at all.
    Never,
}

/// The account's allowance per minute, as announced in `rate_limits.updated`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimits {
    /// Place of the event in a response.
    pub at: RateLimitsAt,
    /// Tokens a minute.
    pub tokens: u32,
    /// Requests a minute.
    pub requests: u32,
    /// Whether a response beyond the allowance fails with `inference_rate_limit_exceeded`.
    pub enforced: bool,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self { at: RateLimitsAt::default(), tokens: 400_000, requests: 1_000, enforced: false }
    }
}

/// Order of the keys in an event's JSON. The order carries no meaning; a client that relies on one is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyOrder {
    /// `type`, `event_id`, then the rest.
    #[default]
    TypeFirst,
    /// Everything else first, `event_id` and `type` at the end.
    TypeLast,
}

/// When a [`Fault`] strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// This long after the socket opened.
    AfterOpen(Duration),
    /// Right after the `response.created` of the n-th response, counted from 0.
    AtResponse(u32),
    /// Right after the n-th audio delta of the connection, counted from 0.
    AtDelta(u32),
}

/// What goes wrong on the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// An event of a type that no client knows.
    UnknownEvent,
    /// A text frame that is no JSON.
    Garbage,
    /// A well-formed unknown event with this many bytes of padding.
    Huge(usize),
    /// The last event once more.
    Duplicate,
    /// The next two events change places.
    Swap,
    /// An audio delta for a response and an item that never were.
    OrphanDelta,
    /// An `error` event.
    Error {
        /// `error.type`.
        kind: String,
        /// `error.code`; `None` is sent as `null`.
        code: Option<String>,
        /// `error.message`.
        message: String,
    },
    /// The WebSocket is closed in the ordinary way.
    Close {
        /// WebSocket close code.
        code: u16,
        /// Close reason.
        reason: String,
    },
    /// The TCP connection is dropped without a close frame (a client sees 1006).
    Abort,
    /// From here on the server neither reads nor writes nor closes.
    HalfOpen,
    /// Nothing is read or written for this long; then everything held back comes at once.
    Stall(Duration),
}

/// One planned disturbance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// When it strikes.
    pub when: When,
    /// What it does.
    pub trouble: Trouble,
}

/// What a turn that ends while a response runs leads to, where the session lets the server create responses but not
/// interrupt them. It is not documented, so clients must take either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BusyTurn {
    /// An `error` event says that a response is active; nothing follows.
    #[default]
    Refused,
    /// The answer begins when the running response is over.
    Queued,
}

/// How a particular response goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadResponse {
    /// `response.done` with status `failed` and this `status_details.error`.
    Failed {
        /// `error.type`.
        kind: String,
        /// `error.code`.
        code: String,
        /// `error.message`.
        message: String,
    },
    /// Cut off by the content filter after this much audio.
    ContentFilter {
        /// Audio spoken before the cut.
        after: Duration,
    },
    /// `response.done` comes, `response.created` never did.
    NoCreated,
    /// `response.created`, then nothing ever again.
    Hangs,
}

impl BadResponse {
    /// The failure that users of shared deployments report: the token allowance of inference is exceeded.
    #[must_use]
    pub fn rate_limited() -> Self {
        Self::Failed {
            kind: "invalid_request_error".into(),
            code: "inference_rate_limit_exceeded".into(),
            message: "too many tokens".into(),
        }
    }

    pub(super) fn is_failure(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }
}

/// A refusal of the WebSocket handshake for some of the connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeFault {
    /// The first this many connections of the listener are refused; `u64::MAX` = all.
    pub connections: u64,
    /// HTTP status.
    pub status: u16,
    /// `error.code` in the body.
    pub code: String,
}

/// What is kept for judging afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recording {
    /// Keep every appended sample (48 kB a second).
    pub audio: bool,
    /// Keep every client frame as text.
    pub client_frames: bool,
}

impl Default for Recording {
    fn default() -> Self {
        Self { audio: true, client_frames: false }
    }
}

/// Everything an emulated Realtime server is told.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// The bearer key.
    pub expected_key: ExpectedKey,
    /// The path that clients must ask for.
    pub path: String,
    /// Model names accepted in the query; empty = any.
    pub models: Vec<String>,
    /// Calls that a sideband connection may join by `call_id`.
    pub call_ids: Vec<String>,
    /// What the model says.
    pub script: Script,
    /// Who talks when.
    pub mode: Mode,
    /// How audio leaves.
    pub burst: Burst,
    /// How many words of transcript run ahead of the audio they belong to.
    pub transcript_lead_words: usize,
    /// Whether the `output_audio.done` events of all items wait until just before `response.done`, as the reasoning
    /// models do.
    pub batch_audio_done: bool,
    /// Delays.
    pub latency: Latency,
    /// Allowance and the place of `rate_limits.updated`.
    pub rate_limits: RateLimits,
    /// Seed of ids and spreads.
    pub seed: u64,
    /// Event and content names of the former beta interface, as Azure's dated endpoints still send.
    pub beta_names: bool,
    /// Order of JSON keys.
    pub key_order: KeyOrder,
    /// Whether keys that no documentation lists are added to events (`obfuscation` on deltas, one in the session).
    pub extra_keys: bool,
    /// Longest session; at its end an error, then close 1001.
    pub session_limit: Duration,
    /// Unix seconds at which the connection is opened, for `expires_at`.
    pub opened_at: u64,
    /// By how much the server counts an item's audio shorter than it sent; clients met 85 ms.
    pub truncate_bias: Duration,
    /// How far appended audio may run ahead of or behind the clock before it is noted as a client fault.
    pub pacing_tolerance: Duration,
    /// Delay that the socket's skin puts before its answer to the handshake; it is asked for before the request is
    /// read, so it depends on the connection's number alone.
    pub handshake_delay: Duration,
    /// The network between client and server, one way: the socket's skin delays by it whatever it receives and sends,
    /// and answers the handshake after [`HANDSHAKE_TRIPS`] there and back. The server itself knows nothing of it.
    pub one_way: Duration,
    /// Refused handshakes.
    pub handshake_faults: Vec<HandshakeFault>,
    /// What becomes of a turn that ends while a response runs.
    pub busy_turn: BusyTurn,
    /// Disturbances on the socket.
    pub faults: Vec<Fault>,
    /// Responses that go wrong, by number from 0.
    pub bad_responses: Vec<(u32, BadResponse)>,
    /// Transcriptions that fail, by number from 0.
    pub failed_transcriptions: Vec<u32>,
    /// Whether each session must belong to a caller before it is spoken to: a connection with the header
    /// `OpenAI-Safety-Identifier` does so once it is configured, one without (it was opened ahead of its call) when it
    /// is configured a second time. Anything but `session.update` before that is noted as a client fault.
    pub owned_sessions: bool,
    /// Texts that must not stand in request headers (names, numbers), beside what looks like a telephone number.
    pub private_texts: Vec<String>,
    /// What is kept.
    pub recording: Recording,
}

impl ServerSettings {
    /// How long a client waits for the answer to its handshake.
    #[must_use]
    pub fn answers_after(&self) -> Duration {
        self.handshake_delay + self.one_way * 2 * HANDSHAKE_TRIPS
    }

    /// A well-behaved server with this key and script.
    #[must_use]
    pub fn new(expected_key: ExpectedKey, script: Script) -> Self {
        Self {
            expected_key,
            path: "/v1/realtime".into(),
            models: Vec::new(),
            call_ids: Vec::new(),
            script,
            mode: Mode::default(),
            burst: Burst::default(),
            transcript_lead_words: 4,
            batch_audio_done: false,
            latency: Latency::default(),
            rate_limits: RateLimits::default(),
            seed: 1,
            beta_names: false,
            key_order: KeyOrder::default(),
            extra_keys: false,
            session_limit: Duration::from_secs(3_600),
            opened_at: 1_800_000_000,
            truncate_bias: Duration::ZERO,
            pacing_tolerance: Duration::from_millis(500),
            handshake_delay: Duration::ZERO,
            one_way: Duration::ZERO,
            handshake_faults: Vec::new(),
            busy_turn: BusyTurn::default(),
            faults: Vec::new(),
            bad_responses: Vec::new(),
            failed_transcriptions: Vec::new(),
            owned_sessions: false,
            private_texts: Vec::new(),
            recording: Recording::default(),
        }
    }
}
