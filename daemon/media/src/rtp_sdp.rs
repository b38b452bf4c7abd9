//! Session descriptions of trunks: offers and answers to what a leg has to know, and the text that we say.
//!
//! [`Negotiation`] is the offer/answer of one leg (RFC 3264) over its whole life: the first offer, whoever makes it, and
//! those of re-INVITEs. It reads, decides and writes; it holds no socket and no leg, and a description that it refuses
//! changes nothing. SIP carries the texts, the lane gets the [`RtpTerms`]. Reading is [`crate::sdp`]'s; a refusal names its
//! reason (SIP says 488) and never carries text of the description.

use std::net::{IpAddr, SocketAddr};

use sauti_core::media::codec::Codec;

use crate::sdp::{Description, Direction, Malformed, Section, is_reachable, read_connection};
use sdes::Crypto;
pub use sdes::{KEY_BYTES, MasterKey, Suite};

mod sdes;
#[cfg(test)]
mod tests;
mod write;

/// Payload types of telephone events in our offers: at 8 kHz, at 48 kHz.
const EVENTS: (u8, u8) = (101, 102);
/// Packet times that we send, in ms; Opus in 20 alone.
const PACKET_MS: [u8; 5] = [60, 40, 30, 20, 10];

/// Why a session description cannot become a call, or go on with one. Never holds text of the description.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum RtpRefusal {
    /// Longer than [`crate::webrtc_sdp::MAX_SDP_BYTES`].
    #[error("the session description has {0} bytes, more than are read")]
    TooLong(usize),
    /// It does not begin with `v=0`.
    #[error("this is no session description: it does not begin with v=0")]
    NotSdp,
    /// More sections than are looked at, or one that cannot be named in an answer.
    #[error("the session description has too many sections, or one that cannot be refused by name")]
    Sections,
    /// There is no audio section, or it is switched off (port 0).
    #[error("the session description has no audio section in use")]
    NoAudio,
    /// The transport is neither RTP nor SRTP as we know them.
    #[error("the audio section is neither RTP/AVP nor RTP/SAVP")]
    Profile,
    /// None of the codecs that the trunk allows.
    #[error("none of the codecs offered is allowed; see codecs of the trunk")]
    NoCodec,
    /// `c=` is missing, is no literal address, or is one where nobody can be.
    #[error("the session description has no usable address in c=; a literal unicast address is needed")]
    Address,
    /// IPv6 is offered and we have IPv4, or the other way round.
    #[error("the session description is of another family of addresses than ours; see bind of the trunk")]
    Family,
    /// SRTP is offered and the trunk has it off.
    #[error("SRTP is offered, and srtp of the trunk is off")]
    SecureOnly,
    /// SRTP is wanted and not offered.
    #[error("SRTP is not offered, and srtp of the trunk is sdes")]
    NotSecure,
    /// Keys come by DTLS alone.
    #[error("SRTP is offered with keys by DTLS only; this trunk has keys in the description (a=crypto)")]
    DtlsOnly,
    /// No `a=crypto` that we can use.
    #[error("no a=crypto is usable; AES_CM_128_HMAC_SHA1_80 or _32 with one key and without MKI is needed")]
    NoCrypto,
    /// An answer uses what our offer does not have.
    #[error("the answer uses a codec or keys that were not offered")]
    NotOffered,
    /// An answer came and no offer of ours waits for one.
    #[error("there is no offer that this could be the answer to")]
    NoOffer,
    /// The engine could not make a context for the keys.
    #[error("SRTP could not be set up with these keys")]
    Engine,
}

impl RtpRefusal {
    /// A short constant name, for a metric's label or a log field.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::TooLong(_) => "too_long",
            Self::NotSdp => "not_sdp",
            Self::Sections => "sections",
            Self::NoAudio => "no_audio",
            Self::Profile => "profile",
            Self::NoCodec => "no_codec",
            Self::Address => "address",
            Self::Family => "family",
            Self::SecureOnly => "secure_only",
            Self::NotSecure => "not_secure",
            Self::DtlsOnly => "dtls_only",
            Self::NoCrypto => "no_crypto",
            Self::NotOffered => "not_offered",
            Self::NoOffer => "no_offer",
            Self::Engine => "engine",
        }
    }
}

impl From<Malformed> for RtpRefusal {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::TooLong(bytes) => Self::TooLong(bytes),
            Malformed::NotSdp => Self::NotSdp,
        }
    }
}

/// The keys of both directions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SdesKeys {
    /// What they are for.
    pub suite: Suite,
    /// Of what we send.
    pub own: MasterKey,
    /// Of what the far end sends.
    pub far: MasterKey,
}

/// What both sides agreed on. Its `Debug` shows no address and no key.
#[derive(Clone, PartialEq, Eq)]
pub struct RtpTerms {
    /// What goes over the wire, both ways.
    pub codec: Codec,
    /// Its payload type.
    pub payload_type: u8,
    /// Telephone events: payload type, and ticks a second of their clock.
    pub events: Option<(u8, u32)>,
    /// Length of the packets that we send, in ms.
    pub packet_ms: u8,
    /// Where media goes; `None` where the far end named no place (a hold of old).
    pub remote: Option<SocketAddr>,
    /// Where RTCP goes.
    pub remote_control: Option<SocketAddr>,
    /// RTP and RTCP share a port (RFC 5761).
    pub rtcp_mux: bool,
    /// We may send.
    pub sends: bool,
    /// What comes is the caller; else it is music of a hold, or nothing.
    pub hears: bool,
    /// SRTP, where agreed.
    pub keys: Option<SdesKeys>,
}

impl std::fmt::Debug for RtpTerms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RtpTerms")
            .field("codec", &self.codec)
            .field("events", &self.events)
            .field("packet_ms", &self.packet_ms)
            .field("rtcp_mux", &self.rtcp_mux)
            .field("sends", &self.sends)
            .field("hears", &self.hears)
            .field("secure", &self.keys.is_some())
            .finish_non_exhaustive()
    }
}

/// Our side of a leg.
#[derive(Debug, Clone)]
pub struct LocalSide {
    /// What `c=` and `o=` say.
    pub address: IpAddr,
    /// Our RTP port; RTCP has it too, or the next one.
    pub port: u16,
    /// What may be spoken, the best first.
    pub codecs: Vec<Codec>,
    /// Keys in the description are wanted; without this there is no SRTP.
    pub sdes: bool,
    /// Of the `o=` line: at random.
    pub session_id: u64,
    /// Keys of ours, one for each suite: at random.
    pub keys: [MasterKey; 2],
}

impl LocalSide {
    fn crypto(&self, tag: u32, suite: Suite) -> Crypto {
        let [first, second] = &self.keys;
        let key = if suite == Suite::Tag80 { first } else { second };
        Crypto { tag, suite, key: key.clone() }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Negotiation {
    local: LocalSide,
    terms: Option<RtpTerms>,
    /// An offer of ours waits for its answer; in it we want to hold.
    offered: Option<bool>,
    version: u64,
    /// What was said last, without its first lines.
    said: String,
}

impl Negotiation {
    /// A leg that has said and heard nothing yet.
    #[must_use]
    pub const fn new(local: LocalSide) -> Self {
        Self { local, terms: None, offered: None, version: 0, said: String::new() }
    }

    /// What is in force.
    #[must_use]
    pub const fn terms(&self) -> Option<&RtpTerms> {
        self.terms.as_ref()
    }

    /// Answers an offer: what is in force from now on, and the answer's text.
    ///
    /// The codec in force is kept where it is offered again; else it is the first of ours that is. Sections beside the
    /// first audio section in use are refused by port 0.
    ///
    /// # Errors
    /// Why it cannot be; what was in force goes on.
    pub fn answer(&mut self, offer: &str) -> Result<(RtpTerms, String), RtpRefusal> {
        let description = Description::read(offer)?;
        let (place, audio) = audio(&description)?;
        let secure = Security::read(audio, &description)?;
        let (codec, payload_type) = self.choose(audio)?;
        let crypto = match (secure, self.local.sdes) {
            (Security::Plain, false) | (Security::Offered { needed: false, .. }, false) => None,
            (Security::Plain, true) => return Err(RtpRefusal::NotSecure),
            (Security::Dtls, _) => return Err(RtpRefusal::DtlsOnly),
            (Security::Offered { .. }, false) => return Err(RtpRefusal::SecureOnly),
            (Security::Offered { usable, .. }, true) => Some(usable.ok_or(RtpRefusal::NoCrypto)?),
        };
        let own = crypto.as_ref().map(|theirs| self.local.crypto(theirs.tag, theirs.suite));
        let direction = direction(&description, audio);
        let keys = crypto.zip(own.as_ref()).map(|(theirs, ours)| SdesKeys {
            suite: theirs.suite,
            own: ours.key.clone(),
            far: theirs.key,
        });
        let terms = self.agreed(&description, audio, (codec, payload_type), direction, keys)?;
        let body = write::answer(&self.local, &description, place, &terms, direction.mirrored(), own);
        self.offered = None;
        self.terms = Some(terms.clone());
        Ok((terms, self.say(body)))
    }

    /// Makes an offer: at first everything that we have, later what is in force. `hold` asks the far end to listen only.
    pub fn offer(&mut self, hold: bool) -> String {
        let direction = if hold { Direction::SendOnly } else { Direction::SendRecv };
        let body = write::offer(&self.local, self.terms.as_ref(), direction);
        self.offered = Some(hold);
        self.say(body)
    }

    /// Takes the answer to our offer.
    ///
    /// # Errors
    /// Why it cannot be; what was in force goes on, and the offer is over.
    pub fn accept(&mut self, answer: &str) -> Result<RtpTerms, RtpRefusal> {
        let hold = self.offered.take().ok_or(RtpRefusal::NoOffer)?;
        let description = Description::read(answer)?;
        let (_, audio) = audio(&description)?;
        let secure = Security::read(audio, &description)?;
        let chosen = first_of(audio, &self.offered_codecs()).ok_or(RtpRefusal::NotOffered)?;
        let keys = match (secure, self.local.sdes) {
            (Security::Plain | Security::Offered { needed: false, .. }, false) => None,
            (Security::Plain, true) => return Err(RtpRefusal::NotSecure),
            (Security::Offered { .. } | Security::Dtls, false) => return Err(RtpRefusal::NotOffered),
            (Security::Dtls, true) => return Err(RtpRefusal::DtlsOnly),
            (Security::Offered { usable, .. }, true) => {
                let theirs = usable.ok_or(RtpRefusal::NoCrypto)?;
                let ours = write::offered_crypto(&self.local, self.terms.as_ref());
                let ours = ours.into_iter().find(|ours| (ours.tag, ours.suite) == (theirs.tag, theirs.suite));
                let own = ours.ok_or(RtpRefusal::NotOffered)?.key;
                Some(SdesKeys { suite: theirs.suite, own, far: theirs.key })
            }
        };
        let mut terms = self.agreed(&description, audio, chosen, direction(&description, audio), keys)?;
        terms.hears &= !hold;
        self.terms = Some(terms.clone());
        Ok(terms)
    }

    fn offered_codecs(&self) -> Vec<Codec> {
        self.terms.as_ref().map_or_else(|| self.local.codecs.clone(), |terms| vec![terms.codec])
    }

    /// The codec for an answer: the one in force, else ours in our order.
    fn choose(&self, audio: &Section<'_>) -> Result<(Codec, u8), RtpRefusal> {
        let kept = self.terms.as_ref().map(|terms| terms.codec);
        kept.into_iter()
            .chain(self.local.codecs.iter().copied())
            .find_map(|codec| Some((codec, find(audio, codec)?)))
            .ok_or(RtpRefusal::NoCodec)
    }

    fn agreed(
        &self,
        description: &Description<'_>,
        audio: &Section<'_>,
        (codec, payload_type): (Codec, u8),
        direction: Direction,
        keys: Option<SdesKeys>,
    ) -> Result<RtpTerms, RtpRefusal> {
        let remote = self.remote(description, audio)?;
        let remote_control = remote.and_then(|remote| control(audio, remote));
        Ok(RtpTerms {
            codec,
            payload_type,
            events: events(audio, codec),
            packet_ms: packet_ms(audio, codec),
            remote,
            remote_control,
            rtcp_mux: audio.rtcp_mux,
            sends: direction.receives() && remote.is_some(),
            hears: direction == Direction::SendRecv && remote.is_some(),
            keys,
        })
    }

    fn remote(&self, description: &Description<'_>, audio: &Section<'_>) -> Result<Option<SocketAddr>, RtpRefusal> {
        let connection = audio.level.connection.or(description.session.connection).ok_or(RtpRefusal::Address)?;
        let address = read_connection(connection).ok_or(RtpRefusal::Address)?;
        if address.is_unspecified() {
            // RFC 3264 §8.4: the hold of RFC 2543.
            return Ok(None);
        }
        let remote = SocketAddr::new(address, audio.port);
        if !is_reachable(remote) {
            return Err(RtpRefusal::Address);
        }
        if address.is_ipv4() != self.local.address.is_ipv4() {
            return Err(RtpRefusal::Family);
        }
        Ok(Some(remote))
    }

    /// The whole text; its version moves when it says something new (RFC 3264 §8).
    fn say(&mut self, body: String) -> String {
        if body != self.said {
            self.version += 1;
            self.said = body;
        }
        write::whole(&self.local, self.version, &self.said)
    }
}

/// What the audio section says of its protection.
enum Security {
    Plain,
    /// SRTP with keys by DTLS, which this leg does not speak.
    Dtls,
    /// `needed` where the profile has no unprotected form.
    Offered {
        needed: bool,
        usable: Option<Crypto>,
    },
}

impl Security {
    fn read(audio: &Section<'_>, description: &Description<'_>) -> Result<Self, RtpRefusal> {
        let needed = match audio.profile.to_ascii_uppercase().as_str() {
            "RTP/AVP" | "RTP/AVPF" => false,
            "RTP/SAVP" | "RTP/SAVPF" | "UDP/TLS/RTP/SAVP" | "UDP/TLS/RTP/SAVPF" => true,
            _ => return Err(RtpRefusal::Profile),
        };
        let usable = audio.crypto.iter().find_map(|value| Crypto::read(value));
        let by_dtls = !(audio.level.fingerprints.is_empty() && description.session.fingerprints.is_empty());
        Ok(match (needed, audio.crypto.is_empty()) {
            (false, true) => Self::Plain,
            (true, true) if by_dtls => Self::Dtls,
            _ => Self::Offered { needed, usable },
        })
    }
}

/// The first audio section in use, and its place.
fn audio<'a, 'b>(description: &'b Description<'a>) -> Result<(usize, &'b Section<'a>), RtpRefusal> {
    if description.beyond > 0 || !description.sections.iter().all(write::is_writable) {
        return Err(RtpRefusal::Sections);
    }
    let sections = description.sections.iter().enumerate();
    sections
        .into_iter()
        .find(|(_, section)| section.kind.eq_ignore_ascii_case("audio") && section.port != 0)
        .ok_or(RtpRefusal::NoAudio)
}

fn direction(description: &Description<'_>, audio: &Section<'_>) -> Direction {
    audio.level.direction.or(description.session.direction).unwrap_or_default()
}

/// The payload type by which the section means a codec.
fn find(audio: &Section<'_>, codec: Codec) -> Option<u8> {
    let name = codec.rtpmap();
    if !codec.is_static() {
        return audio.find(&[name]);
    }
    // The number of channels may stand there, where it is 1.
    audio.find_static(codec.payload_type(), name).or_else(|| audio.find(&[&format!("{name}/1")]))
}

/// The codec that stands first in the section among `ours`.
fn first_of(audio: &Section<'_>, ours: &[Codec]) -> Option<(Codec, u8)> {
    let place = |payload_type: u8| audio.payload_types.iter().position(|other| *other == payload_type);
    let found = ours.iter().filter_map(|codec| Some((*codec, find(audio, *codec)?)));
    found.min_by_key(|(_, payload_type)| place(*payload_type))
}

/// Telephone events with the codec's clock, as they share its timestamps (RFC 4733 §2.5.2.2); else with the usual one.
fn events(audio: &Section<'_>, codec: Codec) -> Option<(u8, u32)> {
    [codec.clock_rate(), 8_000].into_iter().find_map(|rate| {
        let name = format!("telephone-event/{rate}");
        Some((audio.find(&[&name, &format!("{name}/1")])?, rate))
    })
}

/// What is wished for, as near as we have it and no longer than is allowed; 20 ms where nothing is said.
fn packet_ms(audio: &Section<'_>, codec: Codec) -> u8 {
    if codec == Codec::Opus {
        return 20;
    }
    let wished = audio.ptime.unwrap_or(20).min(audio.maxptime.unwrap_or(u32::MAX));
    PACKET_MS.into_iter().find(|ms| u32::from(*ms) <= wished).unwrap_or(10)
}

/// Where RTCP goes: with RTP, where `a=rtcp` says (RFC 3605), or to the next port.
fn control(audio: &Section<'_>, remote: SocketAddr) -> Option<SocketAddr> {
    if audio.rtcp_mux {
        return Some(remote);
    }
    let Some(named) = audio.rtcp else {
        return Some(SocketAddr::new(remote.ip(), remote.port().checked_add(1)?));
    };
    let (port, rest) = named.split_once(' ').unwrap_or((named, ""));
    let address = if rest.is_empty() { remote.ip() } else { read_connection(rest)? };
    let place = SocketAddr::new(address, port.parse().ok()?);
    (is_reachable(place) && address.is_ipv4() == remote.is_ipv4()).then_some(place)
}
