//! SDP of a single audio call: what the far end said, as facts, and what we say, as text.
//!
//! No engine here and no state. The engine never sees a foreign SDP: [`OfferFacts`] holds everything that a leg needs,
//! and both our answers and our offers are written line by line, so that what Meta's validator checks (one fingerprint,
//! one SSRC, one component, `ptime`, CRLF) cannot drift with a version of the engine.
//!
//! Reading is tolerant where calls were seen to differ (LF alone, no last line end, a password outside RFC 8839's
//! alphabet, attributes at session or media level) and refuses what could not become a call. Driven by
//! [`crate::webrtc`]; safe for any bytes. A refusal names its reason and never carries SDP text.

use std::net::{IpAddr, SocketAddr};

mod write;

use crate::sdp::{Description, Malformed, Section, is_reachable, is_token};
pub use crate::sdp::{Direction, MAX_SDP_BYTES};
pub use write::OfferShape;
pub(crate) use write::{LocalSide, write_answer, write_offer};

/// Most candidates that are kept, by priority; more would only multiply connectivity checks.
pub const MAX_CANDIDATES: usize = 64;
/// Most usable candidates among which the best are chosen: each is compared with those before it.
const CANDIDATES_LOOKED_AT: usize = 1_024;
/// Payload type that WhatsApp gives to telephone-event, and assumes where an offer of ours lacks one.
pub const WHATSAPP_TELEPHONE_EVENT: u8 = 126;
/// Payload type that WhatsApp (and every browser) gives to Opus.
pub const WHATSAPP_OPUS: u8 = 111;

/// Why a session description cannot become a call. Never holds text of the description.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum SdpRefusal {
    /// Longer than [`MAX_SDP_BYTES`].
    #[error("the session description has {0} bytes; at most {MAX_SDP_BYTES} are read")]
    TooLong(usize),
    /// It does not begin with `v=0`.
    #[error("this is no session description: it does not begin with v=0")]
    NotSdp,
    /// There is no audio section, or it is switched off (port 0).
    #[error("the session description has no audio section in use; offer one m=audio section")]
    NoAudio,
    /// A video section is there.
    #[error("the session description has a video section; only audio calls are answered")]
    Video,
    /// A second audio section, a data channel or something else is there.
    #[error("the session description has more than one section; offer a single m=audio section")]
    ExtraMedia,
    /// Keys come by `a=crypto` alone, without DTLS.
    #[error("the session description offers SDES keys only; offer DTLS-SRTP with a fingerprint")]
    SdesOnly,
    /// No fingerprint of any kind.
    #[error("the session description has no DTLS fingerprint; add a=fingerprint:sha-256")]
    NoFingerprint,
    /// There are fingerprints, none of them a well-formed sha-256.
    #[error("the session description has no well-formed sha-256 fingerprint; add a=fingerprint:sha-256")]
    NoSha256,
    /// ICE user fragment or password are missing or unusable.
    #[error("the session description has no usable ice-ufrag and ice-pwd")]
    NoIceCredentials,
    /// RTP and RTCP are to use two ports.
    #[error("the session description lacks a=rtcp-mux; RTP and RTCP share one port here")]
    NoRtcpMux,
    /// `a=mid` is not a token, so it cannot be echoed.
    #[error("the media identification is no token of at most 64 characters")]
    BadMid,
    /// `opus/48000/2` is not among the payload types.
    #[error("the session description offers no opus/48000/2")]
    NoOpus,
    /// `a=setup` says `holdconn`, or an answer says `actpass` or nothing.
    #[error("the DTLS setup role is unusable: an offer is actpass, active or passive, an answer active or passive")]
    BadSetup,
    /// An answer uses payload types that our offer does not have.
    #[error("the answer uses a payload type that was not offered")]
    ForeignPayloadType,
    /// The engine could not be set up (randomness, certificate or a limit of its own).
    #[error("the WebRTC engine could not be set up for this description")]
    Engine,
}

impl SdpRefusal {
    /// A short constant name, for a metric's label or a log field.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::TooLong(_) => "too_long",
            Self::NotSdp => "not_sdp",
            Self::NoAudio => "no_audio",
            Self::Video => "video",
            Self::ExtraMedia => "extra_media",
            Self::SdesOnly => "sdes_only",
            Self::NoFingerprint => "no_fingerprint",
            Self::NoSha256 => "no_sha256",
            Self::NoIceCredentials => "no_ice_credentials",
            Self::NoRtcpMux => "no_rtcp_mux",
            Self::BadMid => "bad_mid",
            Self::NoOpus => "no_opus",
            Self::BadSetup => "bad_setup",
            Self::ForeignPayloadType => "foreign_payload_type",
            Self::Engine => "engine",
        }
    }
}

/// Who opens the DTLS handshake, as `a=setup` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// Either; the answerer chooses.
    ActPass,
    /// The side that says it sends the ClientHello.
    Active,
    /// The side that says it waits for one.
    Passive,
}

/// How the far end wants its Opus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpusFacts {
    /// Payload type that stands for Opus in this call.
    pub payload_type: u8,
    /// `maxplaybackrate` in Hz: more bandwidth than this is wasted on the far end. WhatsApp says 16000.
    pub max_playback_rate: Option<u32>,
    /// `maxaveragebitrate` in bit/s. WhatsApp says 20000.
    pub max_average_bitrate: Option<u32>,
    /// `useinbandfec=1`: the far end makes use of in-band error correction.
    pub in_band_fec: bool,
}

/// An address at which the far end may be reached: UDP, RTP component, literal IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteCandidate {
    /// Where.
    pub addr: SocketAddr,
    /// The far end's preference; higher comes first.
    pub priority: u32,
}

/// What a session description says about one audio call, as far as a call needs it.
///
/// Holds no free text but the ICE credentials and `mid`; its `Debug` shows neither those nor addresses.
#[derive(Clone, PartialEq, Eq)]
pub struct OfferFacts {
    /// Session id of the `o=` line, when it is a number.
    pub session_id: Option<u64>,
    /// The far end is ICE-lite: it never sends checks, so we control and must.
    pub ice_lite: bool,
    /// DTLS role; `actpass` where the description has none.
    pub setup: Setup,
    /// Direction of the audio section.
    pub direction: Direction,
    /// `a=group:BUNDLE` is there, so an answer repeats it.
    pub bundle: bool,
    /// `a=mid`, a token.
    pub mid: Option<String>,
    /// ICE user fragment of the far end.
    pub ice_ufrag: String,
    /// ICE password of the far end, as it stands (WhatsApp's ends in `==`).
    pub ice_pwd: String,
    /// How many `a=fingerprint` lines count for the audio section, of any algorithm.
    pub fingerprints: usize,
    /// The SHA-256 digests among them; the peer's certificate must match one.
    pub sha256: Vec<[u8; 32]>,
    /// Opus, as offered.
    pub opus: OpusFacts,
    /// Payload type of telephone-event at 8000 Hz (RFC 4733), if offered.
    pub telephone_event: Option<u8>,
    /// PCMA is offered too.
    pub pcma: bool,
    /// PCMU is offered too.
    pub pcmu: bool,
    /// Every payload type of the audio section, in order.
    pub payload_types: Vec<u8>,
    /// Packet time in ms, if given.
    pub ptime: Option<u32>,
    /// SSRCs that the audio section declares (browsers may strip them).
    pub ssrcs: Vec<u32>,
    /// Usable candidates, highest priority first, at most [`MAX_CANDIDATES`].
    pub candidates: Vec<RemoteCandidate>,
    /// Candidates that cannot be used: TCP, `.local`, second component, unreadable, or beyond the limit.
    pub candidates_skipped: usize,
}

impl std::fmt::Debug for OfferFacts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OfferFacts")
            .field("ice_lite", &self.ice_lite)
            .field("setup", &self.setup)
            .field("direction", &self.direction)
            .field("fingerprints", &self.fingerprints)
            .field("opus", &self.opus)
            .field("telephone_event", &self.telephone_event)
            .field("payload_types", &self.payload_types)
            .field("candidates", &self.candidates.len())
            .field("candidates_skipped", &self.candidates_skipped)
            .finish_non_exhaustive()
    }
}

impl OfferFacts {
    /// Reads an offer.
    ///
    /// # Errors
    /// Says why the offer cannot become a call; see [`SdpRefusal`].
    pub fn read(text: &str) -> Result<Self, SdpRefusal> {
        read(text)
    }

    /// Reads the answer to an offer of ours, which must have settled the DTLS role.
    ///
    /// # Errors
    /// As [`Self::read`], and [`SdpRefusal::BadSetup`] where the role is open.
    pub fn read_answer(text: &str) -> Result<Self, SdpRefusal> {
        let facts = read(text)?;
        if facts.setup == Setup::ActPass { Err(SdpRefusal::BadSetup) } else { Ok(facts) }
    }

    /// When the far end made the offer, in ms since 1970, if the session id can be such a time.
    ///
    /// WhatsApp writes the creation time there, browsers a random number of 63 bits; a range of 2017 to 2100 keeps
    /// those apart for all practical purposes.
    #[must_use]
    pub fn created_ms(&self) -> Option<u64> {
        self.session_id.filter(|id| (1_500_000_000_000..4_102_444_800_000).contains(id))
    }
}

fn read(text: &str) -> Result<OfferFacts, SdpRefusal> {
    let description = Description::read(text).map_err(|malformed| match malformed {
        Malformed::TooLong(bytes) => SdpRefusal::TooLong(bytes),
        Malformed::NotSdp => SdpRefusal::NotSdp,
    })?;
    let sections = &description.sections;
    if sections.iter().any(|section| section.kind.starts_with("video")) {
        return Err(SdpRefusal::Video);
    }
    let audio = sections.iter().find(|section| section.kind == "audio" && section.port != 0);
    let audio = audio.ok_or(SdpRefusal::NoAudio)?;
    if sections.len() != 1 || description.beyond > 0 {
        return Err(SdpRefusal::ExtraMedia);
    }
    facts(&description, audio)
}

fn opus(audio: &Section<'_>) -> Option<OpusFacts> {
    let payload_type = audio.find(&["opus/48000/2"])?;
    let fmtp = audio.fmtp(payload_type);
    let parameter = |name: &str| {
        fmtp.split(';')
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| key.trim().eq_ignore_ascii_case(name))
            .and_then(|(_, value)| value.trim().parse::<u32>().ok())
    };
    Some(OpusFacts {
        payload_type,
        max_playback_rate: parameter("maxplaybackrate"),
        max_average_bitrate: parameter("maxaveragebitrate"),
        in_band_fec: parameter("useinbandfec") == Some(1),
    })
}

/// The candidates that can be used, and how many cannot.
fn candidates(audio: &Section<'_>) -> (Vec<RemoteCandidate>, usize) {
    let mut usable: Vec<RemoteCandidate> = Vec::new();
    for candidate in audio.candidates.iter().filter_map(|value| read_candidate(value)) {
        if usable.len() < CANDIDATES_LOOKED_AT && !usable.iter().any(|known| known.addr == candidate.addr) {
            usable.push(candidate);
        }
    }
    usable.sort_by_key(|candidate| std::cmp::Reverse(candidate.priority));
    usable.truncate(MAX_CANDIDATES);
    let skipped = audio.candidates.len() - usable.len();
    (usable, skipped)
}

fn facts(description: &Description<'_>, audio: &Section<'_>) -> Result<OfferFacts, SdpRefusal> {
    let (session, media) = (&description.session, &audio.level);
    let fingerprints = if media.fingerprints.is_empty() { &session.fingerprints } else { &media.fingerprints };
    if fingerprints.is_empty() {
        return Err(if !audio.crypto.is_empty() { SdpRefusal::SdesOnly } else { SdpRefusal::NoFingerprint });
    }
    let sha256: Vec<[u8; 32]> = fingerprints.iter().filter_map(|value| read_sha256(value)).take(8).collect();
    if sha256.is_empty() {
        return Err(SdpRefusal::NoSha256);
    }
    let setup = match media.setup.or(session.setup).map(str::to_ascii_lowercase).as_deref() {
        None | Some("actpass") => Setup::ActPass,
        Some("active") => Setup::Active,
        Some("passive") => Setup::Passive,
        Some(_) => return Err(SdpRefusal::BadSetup),
    };
    let credential = |own: Option<&str>, shared: Option<&str>, least: usize| {
        own.or(shared)
            .filter(|text| (least..=256).contains(&text.len()))
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'))
            .map(str::to_owned)
            .ok_or(SdpRefusal::NoIceCredentials)
    };
    let ice_ufrag = credential(media.ufrag, session.ufrag, 4)?;
    let ice_pwd = credential(media.pwd, session.pwd, 22)?;
    if !audio.rtcp_mux {
        return Err(SdpRefusal::NoRtcpMux);
    }
    if audio.mid.is_some_and(|mid| !is_token(mid)) {
        return Err(SdpRefusal::BadMid);
    }
    let opus = opus(audio).ok_or(SdpRefusal::NoOpus)?;
    let (candidates, candidates_skipped) = candidates(audio);
    Ok(OfferFacts {
        session_id: description.session_id,
        ice_lite: session.ice_lite || media.ice_lite,
        setup,
        direction: media.direction.or(session.direction).unwrap_or_default(),
        bundle: session.bundle,
        mid: audio.mid.map(str::to_owned),
        ice_ufrag,
        ice_pwd,
        fingerprints: fingerprints.len(),
        sha256,
        opus,
        telephone_event: audio.find(&["telephone-event/8000", "telephone-event/8000/1"]),
        pcma: audio.find_static(8, "pcma/8000").is_some(),
        pcmu: audio.find_static(0, "pcmu/8000").is_some(),
        ptime: audio.ptime,
        ssrcs: audio.ssrcs.clone(),
        payload_types: audio.payload_types.clone(),
        candidates,
        candidates_skipped,
    })
}

/// Reads `sha-256 AA:BB:…`, in either case of letters; `None` for other algorithms and broken values.
fn read_sha256(value: &str) -> Option<[u8; 32]> {
    let (algorithm, hex) = value.split_once(' ')?;
    if !algorithm.eq_ignore_ascii_case("sha-256") {
        return None;
    }
    let mut digest = [0_u8; 32];
    let mut pairs = hex.trim().split(':');
    for byte in &mut digest {
        let pair = pairs.next().filter(|pair| pair.len() == 2 && pair.bytes().all(|c| c.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    pairs.next().is_none().then_some(digest)
}

/// Reads the value of `a=candidate`; `None` for what cannot be checked by us.
///
/// Unspecified, multicast and broadcast addresses are left out: nobody can be called there, and checks would be
/// reflected to bystanders.
fn read_candidate(value: &str) -> Option<RemoteCandidate> {
    let mut words = value.split_ascii_whitespace();
    let _foundation = words.next()?;
    let component: u16 = words.next()?.parse().ok()?;
    let transport = words.next()?;
    let priority: u32 = words.next()?.parse().ok()?;
    let ip: IpAddr = words.next()?.parse().ok()?;
    let port: u16 = words.next()?.parse().ok()?;
    let addr = SocketAddr::new(ip.to_canonical(), port);
    let usable = component == 1
        && transport.eq_ignore_ascii_case("udp")
        && is_reachable(SocketAddr::new(ip, port))
        && words.next() == Some("typ");
    usable.then_some(RemoteCandidate { addr, priority })
}

#[cfg(test)]
pub(crate) mod tests;
