//! The configuration as the program uses it: parsed once, every value in its own type.
//!
//! [`check::read`] turns the text of the file into a [`Config`] or into every problem at once; what it found out
//! is written down by [`Config::effective_toml`]. Nothing here reads a file or an environment: the shell hands
//! the text, the secrets and a way to load files in.

pub mod check;
pub mod problem;

mod cross;
mod effective;
mod fallback;
mod file;
mod sections;
mod texts;
mod trunk;
mod values;
mod whatsapp;

#[cfg(test)]
#[path = "tests.rs"]
mod whole_files;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

pub use self::fallback::Fallback;
pub use self::trunk::{
    Codec, HostPort, ONLY_AGENT, Sip, Srtp, Transport, Trunk, TrunkRoute, WHATSAPP_TRUNK, password_name,
};
use crate::call::cost::PriceTable;
use crate::call::transfer::Way;
use crate::media::floor::BargeIn;
use problem::Note;

/// Every secret by its name; a trunk's password, `trunk_NAME_password`, and a fallback's own key come on top.
///
/// Each is a systemd credential of that name, or `SAUTI_` and the name in upper case in the environment.
pub const SECRETS: [&str; 11] = [
    "whatsapp_access_token",
    "whatsapp_app_secret",
    "whatsapp_verify_token",
    "whatsapp_sip_password",
    "openai_api_key",
    "openai_webhook_secret",
    "upstream_url",
    "admin_token",
    "carrier_token",
    "gemini_api_key",
    "box_key",
];

/// Environment variables of the system that this one replaces, and what takes the place of each.
pub const FORMER_NAMES: [(&str, &str); 14] = [
    ("OPENAI_API_KEY", "give the secret openai_api_key (SAUTI_OPENAI_API_KEY)"),
    ("OPENAI_ORG_ID", "write organization under [openai]"),
    ("OPENAI_PROJECT_ID", "write project under [openai]"),
    ("OPENAI_WEBHOOK_SECRET", "give the secret openai_webhook_secret (SAUTI_OPENAI_WEBHOOK_SECRET)"),
    ("OPENAI_REALTIME_MODEL", "write model under [openai]"),
    ("WHATSAPP_ACCESS_TOKEN", "give the secret whatsapp_access_token (SAUTI_WHATSAPP_ACCESS_TOKEN)"),
    ("WABA_ACCESS_TOKEN", "give the secret whatsapp_access_token (SAUTI_WHATSAPP_ACCESS_TOKEN)"),
    ("WHATSAPP_PHONE_NUMBER_ID", "write phone_number_id under [whatsapp]"),
    ("WABA_PHONE_NUMBER_ID", "write phone_number_id under [whatsapp]"),
    ("WA_VERIFY_TOKEN", "give the secret whatsapp_verify_token (SAUTI_WHATSAPP_VERIFY_TOKEN)"),
    ("WA_APP_SECRET", "give the secret whatsapp_app_secret (SAUTI_WHATSAPP_APP_SECRET)"),
    ("WHATSAPP_APP_SECRET", "give the secret whatsapp_app_secret (SAUTI_WHATSAPP_APP_SECRET)"),
    ("MEDIA_SERVER_URL", "nothing takes its place: the media path is part of this program"),
    ("PORT", "write public under [http]"),
];

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
    /// `[upstream]`: absent = nothing leaves the box.
    pub upstream: Option<Upstream>,
    /// `[sip]`: absent = no SIP.
    pub sip: Option<Sip>,
    /// `[[trunk]]`.
    pub trunks: Vec<Trunk>,
    /// `[transfer]`; `None` = callers are handed to nobody.
    pub transfer: Option<Transfer>,
    /// Which secrets were given, by name; never the secrets.
    pub secrets: BTreeMap<String, bool>,
    /// What the operator should know although nothing keeps the box from starting.
    pub notes: Vec<Note>,
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
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
    /// How the world reaches this box, without a trailing slash.
    pub public_url: Option<String>,
    /// Bearer token of the admin listener; always there when that is bound beyond this machine.
    pub admin_token: Option<SecretString>,
}

/// A range of addresses in CIDR form; a single address is a range of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Reads `10.0.0.0/8`, `fd00::/8` or a single address.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().ok()?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().ok().filter(|prefix| *prefix <= longest)?,
            None => longest,
        };
        Some(Self { address, prefix })
    }

    /// True when `address` lies in this range; an IPv4 address mapped into IPv6 counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                (u32::from(own) ^ u32::from(other)) & mask == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                (u128::from(own) ^ u128::from(other)) & mask == 0
            }
            _ => false,
        }
    }

    /// True when some address lies in both ranges.
    #[must_use]
    pub fn overlaps(&self, other: Self) -> bool {
        if self.prefix <= other.prefix { self.contains(other.address) } else { other.contains(self.address) }
    }

    /// The address of a range of one.
    #[must_use]
    pub fn single(&self) -> Option<IpAddr> {
        (self.prefix == if self.address.is_ipv4() { 32 } else { 128 }).then_some(self.address)
    }

    /// True for `0.0.0.0/0` and `::/0`.
    #[must_use]
    pub const fn is_everything(&self) -> bool {
        self.prefix == 0
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
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
    /// Lanes as configured; 0 = cores - 1, at least one. See `lanes`.
    pub threads: usize,
    /// Lanes as they are started.
    pub lanes: usize,
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
    /// The app's id; needed only to register the webhook.
    pub app_id: Option<String>,
    /// The business account's id; needed only to register the webhook's fields.
    pub waba_id: Option<String>,
    /// Base address of Graph, without a trailing slash.
    pub graph_url: String,
    /// Version segment, `v26.0`.
    pub graph_version: String,
    /// Age beyond which a connect is not answered.
    pub stale_after: Duration,
    /// How calls are signalled.
    pub signalling: Signalling,
    /// Bearer token for Graph.
    pub access_token: SecretString,
    /// Key of the webhook signature.
    pub app_secret: SecretString,
    /// What Meta's verification request must repeat.
    pub verify_token: SecretString,
}

/// How WhatsApp signals calls; the number's settings at Meta say the same.
#[derive(Debug, Clone)]
pub enum Signalling {
    /// Webhooks and requests to Graph.
    Graph,
    /// SIP over TLS (whatsapp-calling §4).
    Sip(WhatsAppSip),
}

/// WhatsApp over SIP.
#[derive(Debug, Clone)]
pub struct WhatsAppSip {
    /// Name of this box as it stands in the number's SIP settings; in our Contact and From.
    pub hostname: String,
    /// Meta's SIP host.
    pub host: HostPort,
    /// Networks that Meta's calls come from.
    pub allow: Vec<Network>,
    /// The business number, digits only; needed only to call out.
    pub number: Option<String>,
    /// The number's SIP password (`sip_user_password` at Meta): both sides are challenged with it.
    pub password: SecretString,
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
    /// Sessions that are kept ready for calls to come; 0 = none.
    pub warm: usize,
    /// `[[openai.fallback]]`, the preferred one first.
    pub fallback: Vec<Fallback>,
    /// The key.
    pub api_key: SecretString,
}

impl OpenAi {
    /// Where a session is opened: the `ws(s)` twin of [`OpenAi::url`] with `/realtime` and the model.
    #[must_use]
    pub fn realtime_url(&self) -> String {
        let base = match self.url.split_once("://") {
            Some(("https", rest)) => format!("wss://{rest}"),
            Some(("http", rest)) => format!("ws://{rest}"),
            _ => self.url.clone(),
        };
        let mut model = String::new();
        for byte in self.model.bytes() {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
                model.push(char::from(byte));
            } else {
                model.push_str(&format!("%{byte:02X}"));
            }
        }
        format!("{base}/realtime?model={model}")
    }
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
    /// How easily a caller interrupts, where the box judges it: `interrupt_response` is false.
    pub barge_in: BargeIn,
}

impl Turn {
    /// What the lanes judge interruptions by; off where the server does it.
    #[must_use]
    pub const fn judged_here(&self) -> BargeIn {
        if self.interrupt_response { BargeIn::Off } else { self.barge_in }
    }
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
#[derive(Debug, Clone, Default)]
pub struct Agent {
    /// What the model is told about its job; read from `instructions_file` when that is set.
    pub instructions: String,
    /// Folder of recordings that stand over the built-in ones, `LANG/NAME.opus`; it need not exist. `None` = none.
    pub clips: Option<PathBuf>,
    /// After how much silence of both sides the caller is asked; `None` = never.
    pub still_there_after: Option<Duration>,
    /// Whether the model is asked what a call was about, once it is over.
    pub summary: bool,
    /// Whether a summary keeps numbers, addresses and names.
    pub summary_keeps_pii: bool,
    /// Texts per language.
    pub texts: BTreeMap<Language, Texts>,
}

/// `[agent.en]` and its sisters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts {
    /// Spoken ahead of the greeting, word for word, where callers have to be told something (that a call is recorded,
    /// say). The caller hears both out: they are neither paused nor cut off.
    pub notice: Option<String>,
    /// Spoken first, word for word.
    pub greeting: String,
    /// Spoken when an answer takes long or the session with the model is opened again.
    pub one_moment: String,
    /// Asked when the caller has been silent for long.
    pub still_there: String,
    /// Spoken to a caller who does not answer that, before the call is ended.
    pub nobody_there: String,
    /// Sent as a text message when a caller could not be served.
    pub apology: String,
    /// Sent as a text message when a caller wanted a person and none could be reached.
    pub nobody_free: String,
    /// Spoken shortly before `max_call`, word for word.
    pub goodbye: String,
}

impl Texts {
    /// The texts that a language has when the file says nothing else.
    #[must_use]
    pub fn built_in(language: Language) -> Self {
        texts::of(language)
    }
}

/// `[transfer]`: to whom a caller is handed who wants a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// The trunk over which the person is reached.
    pub trunk: String,
    /// Whom: a number, `user@host` or a `sip:` address.
    pub target: String,
    /// How.
    pub way: Way,
    /// How long the person's telephone may ring.
    pub answer_within: Duration,
}

/// `[ledger]`.
#[derive(Debug, Clone)]
pub struct Ledger {
    /// The SQLite file.
    pub path: PathBuf,
}

/// `[upstream]`.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Kinds of rows that may leave the box.
    pub send: Vec<String>,
    /// Postgres schema.
    pub schema: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_its_own_addresses_and_no_others() {
        let holds = |network: &str, address: &str| Network::parse(network).unwrap().contains(address.parse().unwrap());
        assert!(holds("10.0.0.0/8", "10.255.1.2"));
        assert!(!holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("10.0.0.0/8", "::ffff:10.1.1.1"));
        assert!(holds("0.0.0.0/0", "203.0.113.9"));
        assert!(holds("192.0.2.7", "192.0.2.7"));
        assert!(!holds("192.0.2.7", "192.0.2.8"));
        assert!(holds("fd00::/8", "fdff::1"));
        assert!(!holds("fd00::/8", "fe80::1"));
        assert!(!holds("fd00::/8", "10.0.0.1"));
        assert_eq!(Network::parse("10.0.0.0/33"), None);
    }

    #[test]
    fn networks_overlap_when_one_address_lies_in_both() {
        let overlap = |one: &str, other: &str| Network::parse(one).unwrap().overlaps(Network::parse(other).unwrap());
        assert!(overlap("10.0.0.0/8", "10.1.2.0/24") && overlap("10.1.2.0/24", "10.0.0.0/8"));
        assert!(!overlap("10.1.2.0/24", "10.1.3.0/24") && !overlap("10.0.0.0/8", "fd00::/8"));
        assert!(Network::parse("0.0.0.0/0").unwrap().is_everything());
        assert!(!Network::parse("10.0.0.0/8").unwrap().is_everything());
        assert_eq!(
            Network::parse("10.0.0.7").unwrap().single().map(|one| one.to_string()).as_deref(),
            Some("10.0.0.7")
        );
        assert_eq!(Network::parse("10.0.0.7/31").unwrap().single(), None);
    }
}
