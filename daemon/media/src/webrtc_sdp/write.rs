//! The descriptions that we write: answers to callers, and the offers of an emulated one.

use std::net::SocketAddr;

use super::{Direction, OfferFacts, Setup, WHATSAPP_OPUS, WHATSAPP_TELEPHONE_EVENT};

/// What our side puts into a description.
pub(crate) struct LocalSide<'a> {
    pub(crate) session_id: u64,
    pub(crate) ice_ufrag: &'a str,
    pub(crate) ice_pwd: &'a str,
    /// Upper-case hex with colons.
    pub(crate) fingerprint: &'a str,
    pub(crate) ssrc: u32,
    pub(crate) cname: &'a str,
    pub(crate) candidates: &'a [SocketAddr],
}

/// One payload type that we list: number, `a=rtpmap` value and `a=fmtp` value.
struct Codec<'a>(u8, &'a str, Option<&'a str>);

/// What differs between our descriptions.
struct Section<'a> {
    bundle: bool,
    mid: Option<&'a str>,
    setup: &'a str,
    direction: Direction,
    ice_lite: bool,
    candidates: &'a [SocketAddr],
    codecs: &'a [Codec<'a>],
}

/// Writes the answer to `offer`: its Opus and telephone-event, nothing else of its payload types.
///
/// `active` makes us the DTLS client, which is what WhatsApp wants.
pub(crate) fn write_answer(offer: &OfferFacts, local: &LocalSide<'_>, active: bool) -> String {
    let mut codecs = vec![Codec(offer.opus.payload_type, "opus/48000/2", Some("minptime=20;useinbandfec=1"))];
    if let Some(payload_type) = offer.telephone_event {
        codecs.push(Codec(payload_type, "telephone-event/8000", None));
    }
    write(
        local,
        &Section {
            bundle: offer.bundle,
            mid: offer.mid.as_deref(),
            setup: if active { "active" } else { "passive" },
            direction: offer.direction.mirrored(),
            ice_lite: false,
            candidates: local.candidates,
            codecs: &codecs,
        },
    )
}

/// What an offer of ours is to look like; the default is what WhatsApp sends for a call from a phone.
#[derive(Debug, Clone)]
pub struct OfferShape {
    /// Be ICE-lite: never send checks, only answer them. Otherwise full ICE, as a browser.
    pub ice_lite: bool,
    /// The `o=` session id; WhatsApp writes the time of creation, ms since 1970.
    pub created_ms: u64,
    /// Payload type of Opus.
    pub opus: u8,
    /// Payload type of telephone-event/8000; `None` leaves DTMF out.
    pub telephone_event: Option<u8>,
    /// List PCMA and PCMU too, first, as numbers with G.711 switched on do.
    pub g711: bool,
    /// Candidates beside the real ones, written first and with a higher priority, for instance an IPv6 address that
    /// leads nowhere.
    pub extra_candidates: Vec<SocketAddr>,
    /// `a=setup`.
    pub setup: Setup,
}

impl Default for OfferShape {
    fn default() -> Self {
        Self {
            ice_lite: true,
            created_ms: 1_762_336_250_050,
            opus: WHATSAPP_OPUS,
            telephone_event: Some(WHATSAPP_TELEPHONE_EVENT),
            g711: false,
            extra_candidates: Vec::new(),
            setup: Setup::ActPass,
        }
    }
}

/// Writes an offer of the given shape.
pub(crate) fn write_offer(shape: &OfferShape, local: &LocalSide<'_>) -> String {
    let mut codecs = Vec::new();
    if shape.g711 {
        codecs.push(Codec(8, "PCMA/8000", None));
        codecs.push(Codec(0, "PCMU/8000", None));
    }
    const OPUS: &str =
        "maxaveragebitrate=20000;maxplaybackrate=16000;minptime=20;sprop-maxcapturerate=16000;useinbandfec=1";
    codecs.push(Codec(shape.opus, "opus/48000/2", Some(OPUS)));
    if let Some(payload_type) = shape.telephone_event {
        codecs.push(Codec(payload_type, "telephone-event/8000", None));
    }
    let candidates: Vec<SocketAddr> = shape.extra_candidates.iter().chain(local.candidates).copied().collect();
    let setup = match shape.setup {
        Setup::ActPass => "actpass",
        Setup::Active => "active",
        Setup::Passive => "passive",
    };
    write(
        local,
        &Section {
            bundle: true,
            mid: Some("audio"),
            setup,
            direction: Direction::SendRecv,
            ice_lite: shape.ice_lite,
            candidates: &candidates,
            codecs: &codecs,
        },
    )
}

fn write(local: &LocalSide<'_>, section: &Section<'_>) -> String {
    let default = local.candidates.first().copied().unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 9)));
    let family = if default.is_ipv4() { "IP4" } else { "IP6" };
    let mut lines: Vec<String> =
        vec!["v=0".into(), format!("o=- {} 2 IN IP4 127.0.0.1", local.session_id), "s=-".into(), "t=0 0".into()];
    if let (true, Some(mid)) = (section.bundle, section.mid) {
        lines.push(format!("a=group:BUNDLE {mid}"));
    }
    lines.push("a=msid-semantic: WMS sauti".into());
    if section.ice_lite {
        lines.push("a=ice-lite".into());
    }
    let payload_types: Vec<String> = section.codecs.iter().map(|Codec(number, ..)| number.to_string()).collect();
    lines.push(format!("m=audio {} UDP/TLS/RTP/SAVPF {}", default.port(), payload_types.join(" ")));
    lines.push(format!("c=IN {family} {}", default.ip()));
    lines.push("a=rtcp:9 IN IP4 0.0.0.0".into());
    for (index, candidate) in section.candidates.iter().enumerate() {
        lines.push(write_candidate(index, *candidate));
    }
    lines.push(format!("a=ice-ufrag:{}", local.ice_ufrag));
    lines.push(format!("a=ice-pwd:{}", local.ice_pwd));
    lines.push(format!("a=fingerprint:sha-256 {}", local.fingerprint));
    lines.push(format!("a=setup:{}", section.setup));
    if let Some(mid) = section.mid {
        lines.push(format!("a=mid:{mid}"));
    }
    lines.push(format!("a={}", section.direction.name()));
    lines.push("a=msid:sauti sauti-audio".into());
    lines.push("a=rtcp-mux".into());
    for Codec(payload_type, name, fmtp) in section.codecs {
        lines.push(format!("a=rtpmap:{payload_type} {name}"));
        if let Some(fmtp) = fmtp {
            lines.push(format!("a=fmtp:{payload_type} {fmtp}"));
        }
    }
    lines.push("a=maxptime:20".into());
    lines.push("a=ptime:20".into());
    lines.push(format!("a=ssrc:{} cname:{}", local.ssrc, local.cname));
    lines.push(String::new());
    lines.join("\r\n")
}

/// A host candidate (RFC 8839): type preference 126, earlier ones preferred.
fn write_candidate(index: usize, addr: SocketAddr) -> String {
    let preference = 65_535_u32.saturating_sub(u32::try_from(index).unwrap_or(u32::MAX));
    let priority = (126 << 24) + (preference << 8) + 255;
    let foundation = index.saturating_add(1);
    format!("a=candidate:{foundation} 1 udp {priority} {} {} typ host generation 0", addr.ip(), addr.port())
}
