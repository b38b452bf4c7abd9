//! The log: one entry for each event, its name in `EVENT`, its call in `CALL_ID`, values as further fields.
//!
//! Under systemd the entries go to journald, else to stderr as one JSON object a line. [`log_event`] is the only
//! way to write values, and its values are numbers, fixed words, keyed hashes and names that have been looked at: a
//! telephone number, a transcript or a token has no type that could pass. Whatever reaches `tracing` by another
//! way (a library that warns) is cut down to where it came from, at WARN and above; its words are dropped, since no
//! pattern tells a name from a word. Spans are off. Nothing is written per packet, and lanes write nothing at all.

use std::fmt;
use std::fs::Metadata as FileMetadata;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::panic::PanicHookInfo;
use std::time::Duration;

use jiff::Timestamp;
use sauti_core::ids::CallId;
use sauti_core::pii::KeyedHash;
use sauti_core::whatsapp::label::Label;
use serde_json::Value as Json;
use tracing::field::{Field as TracingField, FieldSet, Visit};
use tracing::metadata::{Kind, LevelFilter};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber, Value as TracingValue};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

/// The target of entries that this module wrote itself; only they keep their values.
const OWN: &str = "sauti::event";

macro_rules! event_names {
    ($($(#[$meta:meta])* $variant:ident = $name:literal $level:ident),+ $(,)?) => {
        /// Every event that the daemon logs; the names are part of its outward contract.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum EventName { $($(#[$meta])* $variant),+ }

        impl EventName {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// What stands in the field `EVENT`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// INFO for the milestones of a call and of the service; WARN is worth waking someone for.
            #[must_use]
            pub const fn level(self) -> Level {
                match self { $(Self::$variant => Level::$level),+ }
            }
        }
    };
}

event_names! {
    /// A call came in a webhook's body; once for each call in it.
    WaVoiceWebhookReceived = "WA_VOICE_WEBHOOK_RECEIVED" INFO,
    /// Its connect event was taken.
    WaCallConnect = "WA_CALL_CONNECT" INFO,
    /// A media leg was asked for.
    MediaBridgeCreateRequest = "MEDIA_BRIDGE_CREATE_REQUEST" INFO,
    /// Graph took the pre-accept.
    WaCallPreAccepted = "WA_CALL_PRE_ACCEPTED" INFO,
    /// ICE and DTLS are up.
    WebrtcConnectionEstablished = "WEBRTC_CONNECTION_ESTABLISHED" INFO,
    /// The model's session is up.
    OpenaiWebsocketConnected = "OPENAI_WEBSOCKET_CONNECTED" INFO,
    /// The two legs are wired; nothing was sent yet.
    AudioBridgeActive = "AUDIO_BRIDGE_ACTIVE" INFO,
    /// Graph took the accept.
    WaCallAccepted = "WA_CALL_ACCEPTED" INFO,
    /// The same, under the name that dashboards count.
    WaVoiceCallAccepted = "WA_VOICE_CALL_ACCEPTED" INFO,
    /// The model's first frame is on the wire.
    ConversationStarted = "CONVERSATION_STARTED" INFO,
    /// Something of a call went wrong.
    WaVoiceError = "WA_VOICE_ERROR" WARN,
    /// An INVITE of a trunk was let in.
    TrunkInviteReceived = "TRUNK_INVITE_RECEIVED" INFO,
    /// Its call was taken.
    TrunkCallConnect = "TRUNK_CALL_CONNECT" INFO,
    /// RTP can pass between a trunk and this box.
    RtpConnectionEstablished = "RTP_CONNECTION_ESTABLISHED" INFO,
    /// The call of a trunk was answered with 200.
    TrunkCallAccepted = "TRUNK_CALL_ACCEPTED" INFO,
    /// A further event of a trunk's call, named by `event=`.
    TrunkCallEvent = "TRUNK_CALL_EVENT" INFO,
    /// Something of a trunk's call went wrong.
    TrunkCallError = "TRUNK_CALL_ERROR" WARN,
    /// The model's SIP door took a call.
    OpenaiSipCallAccepted = "OPENAI_SIP_CALL_ACCEPTED" INFO,
    /// A further event of a call, named by `event=`.
    WaVoiceCallEvent = "WA_VOICE_CALL_EVENT" INFO,
    /// A sideband to a call is up.
    WaVoiceWebsocketConnected = "WA_VOICE_WEBSOCKET_CONNECTED" INFO,
    /// A caller is handed to a person: `STAGE` says how far that is.
    CallTransfer = "CALL_TRANSFER" INFO,
    /// The call is over, with outcome and fault.
    CallEnded = "CALL_ENDED" INFO,
    /// The ledger cannot be written: rows are being lost.
    LedgerWriteFailed = "LEDGER_WRITE_FAILED" ERROR,
    /// It is written again.
    LedgerWritesAgain = "LEDGER_WRITES_AGAIN" INFO,
    /// At the end its log could not be moved into the file.
    LedgerCheckpointFailed = "LEDGER_CHECKPOINT_FAILED" WARN,
    /// A SIP trunk was registered, lost, found or refused.
    TrunkChanged = "TRUNK_CHANGED" INFO,
    /// A listener is bound.
    ListenerBound = "LISTENER_BOUND" INFO,
    /// The service takes calls.
    ServiceReady = "SERVICE_READY" INFO,
    /// The service takes no new calls and waits for those that run.
    ServiceDraining = "SERVICE_DRAINING" INFO,
    /// Files were read again.
    ServiceReloaded = "SERVICE_RELOADED" INFO,
    /// The service has ended.
    ServiceStopped = "SERVICE_STOPPED" INFO,
    /// A call that a crash had left open was closed.
    CallRecovered = "CALL_RECOVERED" INFO,
    /// The configuration holds something that the operator should know.
    ConfigNote = "CONFIG_NOTE" INFO,
    /// A named condition of the service's health came or went.
    HealthChanged = "HEALTH_CHANGED" WARN,
    /// A part of the service could not do its work.
    ServiceError = "SERVICE_ERROR" ERROR,
    /// A library warned; only the place is known.
    LibraryWarning = "LIBRARY_WARNING" WARN,
    /// A bug: something panicked.
    Panicked = "PANICKED" ERROR,
}

/// A text that may be logged because it was looked at: a model's name, a node's id, an address we listen on.
///
/// It is meant for what the operator wrote into the configuration, never for what came over the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafeName(String);

impl SafeName {
    /// Takes a text of at most 64 letters, digits and `. _ : / - [ ]`, without seven digits in a row and without a
    /// stretch that could be base64; anything else becomes `‹hidden›`.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-[]".contains(&byte);
        let longest = |part: fn(u8) -> bool| {
            text.split(|c: char| !(c.is_ascii() && u8::try_from(c).is_ok_and(part))).map(str::len).max().unwrap_or(0)
        };
        let base64 = text.split(|c: char| !c.is_ascii_alphanumeric()).any(|part| {
            let has = |kind: fn(&u8) -> bool| part.as_bytes().iter().any(kind);
            part.len() >= 12 && has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase)
        });
        let fine = (1..=64).contains(&text.len())
            && text.bytes().all(allowed)
            && longest(|byte| byte.is_ascii_digit()) < 7
            && !base64
            && !text.to_ascii_lowercase().contains("wacid");
        Self(if fine { text.to_owned() } else { "‹hidden›".to_owned() })
    }
}

/// A value that cannot carry anything about a person.
#[derive(Debug, Clone, PartialEq)]
pub enum LogValue {
    /// A count, a code, a size.
    Number(i64),
    /// A measured quantity.
    Decimal(f64),
    /// Yes or no.
    Flag(bool),
    /// A word that stands in the source.
    Word(&'static str),
    /// What stands for a caller or a `wacid`.
    Hash(KeyedHash),
    /// A text that was looked at.
    Name(SafeName),
}

impl From<bool> for LogValue {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<u16> for LogValue {
    fn from(number: u16) -> Self {
        Self::Number(i64::from(number))
    }
}

impl From<u32> for LogValue {
    fn from(number: u32) -> Self {
        Self::Number(i64::from(number))
    }
}

impl From<u64> for LogValue {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<usize> for LogValue {
    fn from(number: usize) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<i64> for LogValue {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<f64> for LogValue {
    fn from(number: f64) -> Self {
        Self::Decimal(number)
    }
}

impl From<&'static str> for LogValue {
    fn from(word: &'static str) -> Self {
        Self::Word(word)
    }
}

impl From<KeyedHash> for LogValue {
    fn from(hash: KeyedHash) -> Self {
        Self::Hash(hash)
    }
}

impl From<SafeName> for LogValue {
    fn from(name: SafeName) -> Self {
        Self::Name(name)
    }
}

impl From<&Label> for LogValue {
    /// A label has been looked at where it came in.
    fn from(label: &Label) -> Self {
        Self::Name(SafeName(label.as_str().to_owned()))
    }
}

impl From<Duration> for LogValue {
    /// Whole milliseconds; name such a field `…_MS`.
    fn from(duration: Duration) -> Self {
        Self::Number(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
    }
}

impl LogValue {
    /// The value as the ledger keeps it.
    #[must_use]
    pub fn to_json(&self) -> Json {
        match self {
            Self::Number(number) => Json::from(*number),
            Self::Decimal(number) => Json::from(*number),
            Self::Flag(flag) => Json::from(*flag),
            Self::Word(word) => Json::from(*word),
            Self::Hash(hash) => Json::from(hash.to_string()),
            Self::Name(name) => Json::from(name.0.as_str()),
        }
    }
}

impl fmt::Display for LogValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Decimal(number) => number.fmt(f),
            Self::Flag(flag) => flag.fmt(f),
            Self::Word(word) => word.fmt(f),
            Self::Hash(hash) => hash.fmt(f),
            Self::Name(name) => name.0.fmt(f),
        }
    }
}

macro_rules! fields {
    ($($(#[$meta:meta])* $variant:ident = $name:ident),+ $(,)?) => {
        /// The names of values beside `EVENT` and `CALL_ID`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Field { $($(#[$meta])* $variant),+ }

        impl Field {
            const COUNT: usize = [$(Self::$variant),+].len();

            /// The name in the journal and in the JSON line.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($name)),+ }
            }
        }

        /// Hands one entry to `tracing`; absent values leave no field.
        fn emit(level: Level, name: &str, call: Option<&str>, message: &str, values: &Values<'_>) {
            macro_rules! at {
                ($const_level:expr) => {
                    tracing::event!(
                        target: OWN, $const_level,
                        message = message, EVENT = name, CALL_ID = call,
                        $($name = values[Field::$variant as usize]),+
                    )
                };
            }
            match level {
                Level::ERROR => at!(Level::ERROR),
                Level::WARN => at!(Level::WARN),
                _ => at!(Level::INFO),
            }
        }
    };
}

fields! {
    /// When a milestone was reached, Unix time in ms; it may be logged later, in its place.
    AtMs = AT_MS,
    /// How the call reached us.
    Door = DOOR,
    /// Language of the call.
    Language = LANGUAGE,
    /// Keyed hash of the caller.
    Caller = CALLER,
    /// Keyed hash of Meta's call id.
    WaCall = WA_CALL,
    /// `ringing` and the like; written as `event=` in the message, as operators know it.
    CallEvent = CALL_EVENT,
    /// How the call ended.
    Outcome = OUTCOME,
    /// Whose fault that was.
    Fault = FAULT,
    /// Length of the call, in seconds.
    Seconds = SECONDS,
    /// Its cost in micro-dollars; absent when a price is missing.
    CostMicroUsd = COST_MICRO_USD,
    /// What was being done.
    Stage = STAGE,
    /// Why, in one fixed word.
    Reason = REASON,
    /// HTTP status.
    Status = STATUS,
    /// Code of the far end's error.
    Code = CODE,
    /// What the far end's support finds a request by.
    Trace = TRACE,
    /// What to do about it.
    Remedy = REMEDY,
    /// Which try it was, from 1.
    Attempt = ATTEMPT,
    /// How old something was, in ms.
    AgeMs = AGE_MS,
    /// How long something took, in ms.
    DurationMs = DURATION_MS,
    /// How many.
    Count = COUNT,
    /// How many there may be.
    Limit = LIMIT,
    /// Which lane.
    Lane = LANE,
    /// The model's name.
    Model = MODEL,
    /// Which of the configured providers: `primary`, `fallback1` and so on.
    Provider = PROVIDER,
    /// The name of a trunk.
    Trunk = TRUNK,
    /// An address that we listen on.
    Address = ADDRESS,
    /// Whether a session was ready before its call.
    Warm = WARM,
    /// Milliseconds that the caller heard.
    HeardMs = HEARD_MS,
    /// Milliseconds that the model had sent.
    ReceivedMs = RECEIVED_MS,
    /// A condition of the service's health.
    Condition = CONDITION,
    /// A version.
    Version = VERSION,
    /// Module that an entry came from.
    Source = SOURCE,
    /// Line in it.
    Line = LINE,
}

type Values<'v> = [Option<&'v dyn TracingValue>; Field::COUNT];

/// Logs one event. A field that is named twice keeps its last value.
pub fn log_event(name: EventName, call: Option<CallId>, fields: &[(Field, LogValue)]) {
    let call = call.map(|call| call.to_string());
    let texts: Vec<Option<String>> = fields
        .iter()
        .map(|(_, value)| match value {
            LogValue::Hash(_) => Some(value.to_string()),
            _ => None,
        })
        .collect();
    let mut values: Values<'_> = [None; Field::COUNT];
    let mut message = name.as_str().to_owned();
    if let Some(call) = &call {
        message.push_str(&format!(" call={call}"));
    }
    for ((field, value), text) in fields.iter().zip(&texts) {
        let shown: &dyn TracingValue = match value {
            LogValue::Number(number) => number,
            LogValue::Decimal(number) => number,
            LogValue::Flag(flag) => flag,
            LogValue::Word(word) => word,
            LogValue::Name(name) => &name.0,
            LogValue::Hash(_) => text,
        };
        values[*field as usize] = Some(shown);
        let label = if *field == Field::CallEvent { "event".to_owned() } else { field.as_str().to_ascii_lowercase() };
        message.push_str(&format!(" {label}={value}"));
    }
    emit(name.level(), name.as_str(), call.as_deref(), &message, &values);
}

/// Where entries go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// journald when stderr is its stream, else JSON lines.
    Detect,
    /// JSON lines on stderr, also under systemd.
    JsonLines,
}

/// Sets the log of this process up, and logs panics by their place alone. The second call changes nothing.
pub fn install(output: Output) {
    let journal = (output == Output::Detect && stderr_is_the_journal()).then(tracing_journald::layer);
    let sink = match journal {
        Some(Ok(layer)) => {
            let priorities = PriorityMappings { info: Priority::Informational, ..PriorityMappings::new() };
            let layer = layer.with_field_prefix(None).with_priority_mappings(priorities);
            Sink::Journal(Box::new(layer.with_syslog_identifier("sauti".to_owned())))
        }
        _ => Sink::Lines(Box::new(|line| {
            // a log that cannot be written has nobody left to tell
            drop(std::io::stderr().lock().write_all(line.as_bytes()));
        })),
    };
    let subscriber = tracing_subscriber::registry().with(Gate { sink });
    if tracing::subscriber::set_global_default(subscriber).is_ok() {
        std::panic::set_hook(Box::new(log_panic));
    }
}

/// True when systemd connected stderr to journald: `JOURNAL_STREAM` names its device and inode.
fn stderr_is_the_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    // a stat of the link follows it to the open file
    std::fs::metadata("/proc/self/fd/2").is_ok_and(|metadata| is_stream(&stream, &metadata))
}

fn is_stream(stream: &str, metadata: &FileMetadata) -> bool {
    let Some((device, inode)) = stream.split_once(':') else { return false };
    device.parse() == Ok(metadata.dev()) && inode.parse() == Ok(metadata.ino())
}

fn log_panic(info: &PanicHookInfo<'_>) {
    // the message may hold values, the place cannot
    let (file, line) = info.location().map_or(("", 0), |location| (location.file(), location.line()));
    let file = file.rsplit('/').next().unwrap_or_default();
    log_event(EventName::Panicked, None, &[(Field::Source, SafeName::new(file).into()), (Field::Line, line.into())]);
}

/// The one layer: lets our own entries pass and cuts down all others.
struct Gate {
    sink: Sink,
}

enum Sink {
    Journal(Box<tracing_journald::Layer>),
    Lines(Box<dyn Fn(&str) + Send + Sync>),
}

impl Gate {
    /// Spans would carry fields of libraries into our entries, so there are none.
    fn passes(metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && (metadata.target() == OWN || *metadata.level() <= Level::WARN)
    }
}

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for Gate {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if Self::passes(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        Self::passes(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if event.metadata().target() == OWN {
            return self.sink.write(event, context);
        }
        let origin = event.metadata();
        let metadata = if *origin.level() == Level::ERROR { &LIBRARY_ERROR } else { &LIBRARY_WARNING };
        let name = EventName::LibraryWarning.as_str();
        let line = u64::from(origin.line().unwrap_or(0));
        let mut fields = metadata.fields().iter();
        let (Some(message), Some(event), Some(source), Some(at)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return;
        };
        let values: [(&TracingField, Option<&dyn TracingValue>); 4] =
            [(&message, Some(&name)), (&event, Some(&name)), (&source, Some(&origin.target())), (&at, Some(&line))];
        self.sink.write(&Event::new(metadata, &metadata.fields().value_set(&values)), context);
    }
}

impl Sink {
    fn write<S: Subscriber + for<'s> LookupSpan<'s>>(&self, event: &Event<'_>, context: Context<'_, S>) {
        match self {
            Self::Journal(layer) => layer.on_event(event, context),
            Self::Lines(write) => write(&json_line(event, Timestamp::now())),
        }
    }
}

/// `{"ts":…,"level":…,"EVENT":…,"CALL_ID":…,…}` with a newline.
fn json_line(event: &Event<'_>, now: Timestamp) -> String {
    let mut values = JsonFields(Vec::new());
    event.record(&mut values);
    let mut line = format!(r#"{{"ts":"{now:.3}","level":"{}""#, event.metadata().level());
    for (key, value) in values.0 {
        line.push_str(&format!(",\"{key}\":{value}"));
    }
    line.push_str("}\n");
    line
}

/// The fields of an entry, without the message that repeats them for readers of the journal.
struct JsonFields(Vec<(&'static str, Json)>);

impl JsonFields {
    fn put(&mut self, field: &TracingField, value: Json) {
        let key = match field.name() {
            "message" => return,
            "CALL_EVENT" => "event",
            name => name,
        };
        self.0.push((key, value));
    }
}

impl Visit for JsonFields {
    fn record_str(&mut self, field: &TracingField, value: &str) {
        self.put(field, Json::from(value));
    }

    fn record_i64(&mut self, field: &TracingField, value: i64) {
        self.put(field, Json::from(value));
    }

    fn record_u64(&mut self, field: &TracingField, value: u64) {
        self.put(field, Json::from(value));
    }

    fn record_f64(&mut self, field: &TracingField, value: f64) {
        self.put(field, Json::from(value));
    }

    fn record_bool(&mut self, field: &TracingField, value: bool) {
        self.put(field, Json::from(value));
    }

    fn record_debug(&mut self, _: &TracingField, _: &dyn fmt::Debug) {
        // no value of ours comes this way, and nothing else may
    }
}

/// What stands in for a library's entry.
struct LibrarySite(&'static Metadata<'static>);

impl tracing::Callsite for LibrarySite {
    fn set_interest(&self, _: Interest) {}

    fn metadata(&self) -> &Metadata<'_> {
        self.0
    }
}

const LIBRARY_FIELDS: &[&str] = &["message", "EVENT", "SOURCE", "LINE"];

const fn library(level: Level, site: &'static LibrarySite) -> Metadata<'static> {
    let fields = FieldSet::new(LIBRARY_FIELDS, tracing::callsite::Identifier(site));
    Metadata::new("library", OWN, level, None, None, None, fields, Kind::EVENT)
}

static LIBRARY_WARNING: Metadata<'static> = library(Level::WARN, &LIBRARY_WARNING_SITE);
static LIBRARY_WARNING_SITE: LibrarySite = LibrarySite(&LIBRARY_WARNING);
static LIBRARY_ERROR: Metadata<'static> = library(Level::ERROR, &LIBRARY_ERROR_SITE);
static LIBRARY_ERROR_SITE: LibrarySite = LibrarySite(&LIBRARY_ERROR);

#[cfg(test)]
#[path = "logging_tests.rs"]
pub(crate) mod tests;
