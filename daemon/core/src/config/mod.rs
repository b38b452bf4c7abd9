//! The configuration as the program uses it: parsed once, every value in its own type.
//!
//! [`file`] is the shape of the TOML, [`check`] turns it into a [`Config`] or into every problem at once.
//! Nothing here reads a file or an environment: the shell hands the text and the secrets in.

pub mod check;
pub mod file;
pub mod problem;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use crate::call::cost::PriceTable;

/// Everything the daemon needs to know, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[node]`: who this box is.
    pub node: Node,
    /// `[http]`: the two listeners.
    pub http: Http,
    /// `[media]`: lanes, ports, codec effort.
    pub media: Media,
    /// `[limits]`: how many, how long.
    pub limits: Limits,
    /// `[whatsapp]`: absent = that door is closed.
    pub whatsapp: Option<WhatsApp>,
    /// `[openai]`: absent = no call can be served.
    pub openai: Option<OpenAi>,
    /// `[[price]]` over the built-in prices.
    pub prices: PriceTable,
    /// `[agent]`: who answers, in which words.
    pub agent: Agent,
    /// `[ledger]`: where the rows are kept.
    pub ledger: Ledger,
}

/// `[node]`.
#[derive(Debug, Clone)]
pub struct Node {
    /// Names this box in ledger, metrics and upstream rows.
    pub id: String,
    /// tokio worker threads.
    pub workers: usize,
    /// ISO 3166 country, RW or MT: default locale, currency, prompts.
    pub country: String,
    /// Languages served, the preferred one first.
    pub languages: Vec<Language>,
}

/// A language the box can speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Language {
    /// English.
    En,
    /// French.
    Fr,
    /// Kinyarwanda.
    Rw,
    /// Swahili.
    Sw,
}

impl Language {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 4] = [Self::En, Self::Fr, Self::Rw, Self::Sw];

    /// The ISO 639-1 code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::Fr => "fr",
            Self::Rw => "rw",
            Self::Sw => "sw",
        }
    }

    /// Reads an ISO 639-1 code.
    #[must_use]
    pub fn parse(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|language| language.code() == code)
    }
}

/// `[http]`.
#[derive(Debug, Clone)]
pub struct Http {
    /// Public listener: webhooks, carrier endpoints, `/health`.
    pub public: SocketAddr,
    /// Admin listener: metrics and readiness.
    pub admin: SocketAddr,
    /// Certificate chain and key of the public listener, PEM.
    pub tls: Option<TlsFiles>,
    /// Extra roots to trust beside the system's, PEM files.
    pub extra_roots: Vec<PathBuf>,
    /// How the world reaches this box.
    pub public_url: Option<String>,
}

/// The two PEM files of a TLS listener.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// Chain, leaf first.
    pub certificate: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// `[media]`.
#[derive(Debug, Clone)]
pub struct Media {
    /// Address that media sockets are bound to.
    pub bind: IpAddr,
    /// Addresses put into SDP; empty = those of the interfaces.
    pub advertise: Vec<IpAddr>,
    /// UDP ports for calls, inclusive.
    pub ports: (u16, u16),
    /// Lanes; 0 = cores - 1, at least one.
    pub threads: usize,
    /// Opus target, bit/s.
    pub opus_bitrate: u32,
    /// Opus effort, 0 to 10.
    pub opus_complexity: u8,
    /// How long a closed call's port stays bound after its last packet.
    pub port_drain: Duration,
}

/// `[limits]`.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Calls at one time.
    pub max_calls: usize,
    /// Length of one call.
    pub max_call: Duration,
    /// From the webhook to the accept.
    pub connect_within: Duration,
    /// Longest wait for media.
    pub no_media: Duration,
    /// Longest wait for an event that the model owes.
    pub model_silence: Duration,
    /// How long a stop waits for running calls.
    pub drain: Duration,
}

/// `[whatsapp]` with its secrets.
#[derive(Debug, Clone)]
pub struct WhatsApp {
    /// The number's id at Graph.
    pub phone_number_id: String,
    /// Base address of Graph, without a trailing slash.
    pub graph_url: String,
    /// Version segment, `v26.0`.
    pub graph_version: String,
    /// Age beyond which a connect is not answered.
    pub stale_after: Duration,
    /// Bearer token for Graph.
    pub access_token: SecretString,
    /// Key of the webhook signature.
    pub app_secret: SecretString,
    /// What Meta's verification request must repeat.
    pub verify_token: SecretString,
}

/// `[openai]` with its key.
#[derive(Debug, Clone)]
pub struct OpenAi {
    /// Base address, without a trailing slash; the `ws(s)` address follows from it.
    pub url: String,
    /// Model name, passed on as it is.
    pub model: String,
    /// Voice name.
    pub voice: String,
    /// Bound on what one response may send ahead.
    pub max_output_tokens: u16,
    /// Transcription model; `None` = off.
    pub transcription: Option<String>,
    /// `near_field` or `far_field`; `None` = off.
    pub noise_reduction: Option<String>,
    /// Server-side idle prompt; 5 s to 30 s.
    pub idle_timeout: Option<Duration>,
    /// Reasoning effort, passed on as it is.
    pub reasoning: Option<String>,
    /// `OpenAI-Organization`.
    pub organization: Option<String>,
    /// `OpenAI-Project`.
    pub project: Option<String>,
    /// `[openai.turn]`.
    pub turn: Turn,
    /// The key.
    pub api_key: SecretString,
}

/// `[openai.turn]`: every value is sent, none is left to the server's default.
#[derive(Debug, Clone)]
pub struct Turn {
    /// Which detector ends a turn.
    pub detection: Detection,
    /// Whether the server answers a turn by itself.
    pub create_response: bool,
    /// Whether the server cancels a response when the caller speaks.
    pub interrupt_response: bool,
}

/// The server's turn detector with its own values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Detection {
    /// Energy based.
    ServerVad {
        /// 0 to 1.
        threshold: f32,
        /// Audio kept from before the onset.
        prefix: Duration,
        /// Silence that ends a turn.
        silence: Duration,
    },
    /// Meaning based.
    SemanticVad,
}

/// `[agent]`.
#[derive(Debug, Clone)]
pub struct Agent {
    /// What the model is told about its job; read from `instructions_file` when that is set.
    pub instructions: String,
    /// Texts per language.
    pub texts: BTreeMap<Language, Texts>,
}

/// `[agent.en]` and its sisters.
#[derive(Debug, Clone)]
pub struct Texts {
    /// Spoken first, word for word.
    pub greeting: String,
    /// Sent as a text message when a caller could not be served.
    pub apology: String,
    /// Spoken shortly before `max_call`, word for word.
    pub goodbye: String,
}

/// `[ledger]`.
#[derive(Debug, Clone)]
pub struct Ledger {
    /// The SQLite file.
    pub path: PathBuf,
}
