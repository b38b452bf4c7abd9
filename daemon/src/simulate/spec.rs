//! What the simulation's two processes say to each other: one JSON object a line, over stdin and stdout.

use std::net::SocketAddr;
use std::time::Duration;

use sauti_sim::network::{PathSettings, Percent, Window};
use serde::{Deserialize, Serialize};

use super::report::{CallReport, Way};

/// An outage begins so long after the phone has begun to dial: in the middle of the first turns.
const OUTAGE_AFTER: Duration = Duration::from_secs(8);
/// Packets lost in a row, on average: mobile networks lose in bursts.
const LOST_IN_A_ROW: u32 = 2;

/// A door that calls of a simulation come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Door {
    /// Meta's webhooks and Graph.
    Whatsapp,
    /// Meta's SIP: TLS, media with keys in the SDP and by DTLS in turn.
    WhatsappSip,
    /// A carrier's SIP trunk: UDP, G.711 A-law.
    Trunk,
}

impl Door {
    /// The door of this name on the command line.
    pub(super) fn named(name: &str) -> Self {
        match name {
            "trunk" => Self::Trunk,
            "whatsapp-sip" => Self::WhatsappSip,
            _ => Self::Whatsapp,
        }
    }
}

/// The name that the box goes by towards Meta's SIP.
pub(super) const HOSTNAME: &str = "edge.example.org";

/// What the far ends are told first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Spec {
    /// Callers at one time.
    pub(super) calls: u32,
    /// Longest call; a conversation ends earlier by itself.
    pub(super) seconds: Option<u32>,
    /// The same seed gives the same far ends.
    pub(super) seed: u64,
    /// The standard script for measuring, all calls up together.
    pub(super) load: bool,
    /// How the calls reach the box.
    pub(super) door: Door,
    /// How late webhooks arrive.
    pub(super) lag_ms: u32,
    /// The network between phones and box.
    pub(super) way: Way,
    /// How far the model is, there and back.
    pub(super) model_rtt_ms: u32,
    /// The box judges interruptions, and not the model's server.
    pub(super) box_judges: bool,
    /// The number's id at Graph.
    pub(super) phone_number_id: String,
    /// Secrets of this run; made for it, worth nothing elsewhere.
    pub(super) access_token: String,
    /// Key of the webhook signature.
    pub(super) app_secret: String,
    /// `sip_user_password` of the number.
    pub(super) sip_password: String,
    /// The model's key.
    pub(super) api_key: String,
    /// The box's key, hex: the far ends know a caller by the hash that the daemon sends.
    pub(super) box_key: String,
    /// Keep every frame that the daemon sends to the model, for outside checkers.
    pub(super) record_frames: bool,
}

impl Spec {
    /// The network between phones and box, either way.
    pub(super) fn network(&self) -> PathSettings {
        let outage = Duration::from_secs(u64::from(self.way.outage_s));
        PathSettings {
            loss: self.way.loss,
            burst_packets: if self.way.loss == Percent::default() { 0 } else { LOST_IN_A_ROW },
            jitter_ms: self.way.jitter_ms,
            outages: if outage.is_zero() { Vec::new() } else { vec![Window::once(OUTAGE_AFTER, outage)] },
            ..PathSettings::default()
        }
    }

    /// How long a call may last.
    pub(super) fn length(&self) -> Duration {
        Duration::from_secs(u64::from(self.seconds.unwrap_or(if self.load { 30 } else { 90 })))
    }

    /// How long the latency probe lasts: as long as the load, else some chirps.
    pub(super) fn probe_length(&self) -> Duration {
        if self.load { self.length() } else { self.length().min(Duration::from_secs(16)) }
    }
}

/// What the far ends are told next.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Go {
    /// Where webhooks go.
    pub(super) webhook: String,
    /// Where INVITEs go, if the box listens for them.
    pub(super) sip: Option<SocketAddr>,
    /// The certificate of that listener, PEM, if it has one.
    pub(super) certificate: Option<String>,
}

/// What the far ends say.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "said", rename_all = "snake_case")]
pub(super) enum Said {
    /// The emulators listen.
    Listening {
        /// Graph.
        graph: SocketAddr,
        /// The model.
        realtime: SocketAddr,
    },
    /// Something to show while it runs.
    Progress {
        /// Calls that ring.
        ringing: usize,
        /// Calls in conversation.
        talking: usize,
        /// Calls that are over.
        over: usize,
    },
    /// All calls are up: the measuring of CPU and memory begins.
    AllUp,
    /// The first call is about to end: it ends.
    WindowOver,
    /// Everything is over.
    Report {
        /// One for each caller, the latency probe last.
        calls: Vec<CallReport>,
        /// Frames that the daemon sent to the model, one JSON object each, if asked for.
        frames: Vec<String>,
    },
    /// The far ends cannot go on.
    Failed {
        /// Why.
        why: String,
    },
}
