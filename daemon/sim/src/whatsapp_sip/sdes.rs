//! Media of a call without ICE and DTLS: the offer with its key, what Meta demands of the answer, and the relay's leg.
//!
//! The answer is judged by a table of its own; the leg is the media crate's, which proves packets and numbers them.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sauti_core::media::codec::Codec;
use sauti_media::rtp::{RtpIn, RtpOut, SendError};
use sauti_media::rtp_leg::{RtpLeg, RtpSeed, SEED_BYTES};
use sauti_media::rtp_sdp::{KEY_BYTES, MasterKey, RtpRefusal, RtpTerms, SdesKeys, Suite};

use crate::whatsapp::dice::Dice;

/// Payload types of a WhatsApp client: Opus and telephone events.
const OPUS: u8 = 111;
const EVENTS: u8 = 126;
/// The suite of Meta's offers.
const SUITE: &str = "AES_CM_128_HMAC_SHA1_80";

/// How the offer names its transport; both were seen (whatsapp-calling §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// `RTP/SAVP`.
    Savp,
    /// `UDP/TLS/RTP/SAVPF`, as if keys came by DTLS.
    TlsSavpf,
}

impl Profile {
    /// Its word in `m=`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Savp => "RTP/SAVP",
            Self::TlsSavpf => "UDP/TLS/RTP/SAVPF",
        }
    }
}

/// Why an answer is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AnswerFault {
    /// First line or line ends.
    #[error("SDP must begin with v=0 and end its lines in CRLF")]
    Text,
    /// Media sections.
    #[error("SDP must hold exactly one audio section, in use, both ways")]
    Section,
    /// Transport.
    #[error("SDP must repeat the profile of the offer")]
    Profile,
    /// Codecs.
    #[error("SDP must hold 111 opus/48000/2 and 126 telephone-event/8000, and nothing else")]
    Codecs,
    /// Keys.
    #[error("SDP must hold one crypto line, with the offer's tag and suite and a key of its own")]
    Key,
    /// Something of ICE or DTLS that nobody offered.
    #[error("SDP holds ICE or DTLS, which was not offered")]
    NotOffered,
    /// Packet time.
    #[error("SDP must hold ptime 20 and maxptime 20")]
    PacketTime,
    /// RTCP.
    #[error("SDP must hold rtcp-mux")]
    RtcpMux,
    /// Sources.
    #[error("SDP may hold one SSRC only")]
    Sources,
    /// Connection.
    #[error("SDP must name an address to send to")]
    Address,
}

/// What an answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerFacts {
    /// Where it wants its media.
    pub remote: SocketAddr,
    /// The key of what the box sends.
    pub key: [u8; KEY_BYTES],
}

/// The relay's half of a call.
#[derive(Debug)]
pub struct SdesLeg {
    leg: RtpLeg,
    profile: Profile,
    key: [u8; KEY_BYTES],
}

impl SdesLeg {
    /// A leg whose relay listens at `local`, and its offer. `created_ms` is what a client writes into `o=`.
    ///
    /// # Errors
    /// The engine has no cryptography.
    pub fn dial(
        now: Instant,
        local: SocketAddr,
        profile: Profile,
        created_ms: u64,
        seed: u64,
    ) -> Result<(Self, String), RtpRefusal> {
        let mut dice = Dice::new(seed);
        let mut bytes: Vec<u8> = Vec::with_capacity(SEED_BYTES + 16);
        while bytes.len() < SEED_BYTES {
            bytes.extend(dice.bytes());
        }
        let drawn: [u8; SEED_BYTES] = std::array::from_fn(|place| bytes[place]);
        let key: [u8; KEY_BYTES] = std::array::from_fn(|place| drawn[place + SEED_BYTES - KEY_BYTES]);
        let leg = RtpLeg::new(now, &RtpSeed::new(drawn), false)?;
        let sdp = offer(local, profile, &key, created_ms, leg.ssrc());
        Ok((Self { leg, profile, key }, sdp))
    }

    /// Takes the answer of the box: from now on its media is heard.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn answered(&mut self, now: Instant, answer: &str) -> Result<(), AnswerFault> {
        let facts = check(answer, self.profile, &self.key)?;
        let terms = RtpTerms {
            codec: Codec::Opus,
            payload_type: OPUS,
            events: Some((EVENTS, 8_000)),
            packet_ms: 20,
            remote: Some(facts.remote),
            remote_control: Some(facts.remote),
            rtcp_mux: true,
            sends: true,
            hears: true,
            keys: Some(SdesKeys { suite: Suite::Tag80, own: MasterKey::new(self.key), far: MasterKey::new(facts.key) }),
        };
        self.leg.agree(now, &terms).map_err(|_| AnswerFault::Key)
    }

    /// Takes a datagram. Media follows the packets that prove themselves, wherever they come from.
    pub fn receive(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        self.leg.receive(now, from, datagram);
        self.forget_events();
    }

    /// The next packet of the box.
    pub fn poll_rtp(&mut self) -> Option<RtpIn> {
        self.leg.poll_rtp()
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<(SocketAddr, bytes::BytesMut)> {
        self.leg.poll_transmit().map(|out| (out.to, out.bytes))
    }

    /// Sends a packet.
    ///
    /// # Errors
    /// Nothing was sent.
    pub fn send_rtp(&mut self, now: Instant, packet: &RtpOut<'_>) -> Result<(), SendError> {
        self.leg.send_rtp(now, packet)
    }

    /// When [`SdesLeg::handle_timeout`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.leg.deadline()
    }

    /// Sends the reports that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.leg.handle_timeout(now);
        self.forget_events();
    }

    /// What the leg says of itself concerns nobody here.
    fn forget_events(&mut self) {
        while self.leg.poll_event().is_some() {}
    }

    /// Says goodbye in RTCP.
    pub fn close(&mut self) {
        self.leg.close();
    }

    /// The payload type of Opus.
    #[must_use]
    pub const fn opus(&self) -> u8 {
        OPUS
    }
}

/// The offer of a client, less ICE and DTLS, with one key (whatsapp-calling §4).
fn offer(local: SocketAddr, profile: Profile, key: &[u8; KEY_BYTES], created_ms: u64, ssrc: u32) -> String {
    let family = if local.is_ipv4() { "IP4" } else { "IP6" };
    let (ip, port, profile, key) = (local.ip(), local.port(), profile.word(), STANDARD.encode(key));
    [
        "v=0",
        &format!("o=- {created_ms} 2 IN IP4 127.0.0.1"),
        "s=-",
        "t=0 0",
        &format!("m=audio {port} {profile} {OPUS} {EVENTS}"),
        &format!("c=IN {family} {ip}"),
        &format!("a=crypto:1 {SUITE} inline:{key}"),
        "a=mid:audio",
        "a=sendrecv",
        "a=rtcp-mux",
        &format!("a=rtpmap:{OPUS} opus/48000/2"),
        &format!(
            "a=fmtp:{OPUS} maxaveragebitrate=20000;maxplaybackrate=16000;minptime=20;sprop-maxcapturerate=16000;useinbandfec=1"
        ),
        &format!("a=rtpmap:{EVENTS} telephone-event/8000"),
        "a=maxptime:20",
        "a=ptime:20",
        &format!("a=ssrc:{ssrc} cname:WhatsAppAudioStream1"),
        "",
    ]
    .join("\r\n")
}

/// Judges an answer.
///
/// # Errors
/// The first rule that it breaks.
pub fn check(answer: &str, profile: Profile, own: &[u8; KEY_BYTES]) -> Result<AnswerFacts, AnswerFault> {
    let text = answer.strip_suffix("\r\n").ok_or(AnswerFault::Text)?;
    let lines: Vec<&str> = text.split("\r\n").collect();
    if lines.first() != Some(&"v=0") || lines.iter().any(|line| line.contains(['\r', '\n'])) {
        return Err(AnswerFault::Text);
    }
    let all = |prefix: &'static str| lines.iter().filter_map(move |line| line.strip_prefix(prefix));
    let one = |prefix: &'static str, fault: AnswerFault| {
        let mut values = all(prefix);
        values.next().filter(|_| values.next().is_none()).ok_or(fault)
    };
    let mut section = one("m=", AnswerFault::Section)?.split(' ');
    let (kind, port) = (section.next(), section.next().and_then(|port| port.parse::<u16>().ok()));
    let port = port.filter(|port| *port > 0 && kind == Some("audio")).ok_or(AnswerFault::Section)?;
    if ["a=sendonly", "a=recvonly", "a=inactive"].iter().any(|direction| lines.contains(direction)) {
        return Err(AnswerFault::Section);
    }
    if section.next() != Some(profile.word()) {
        return Err(AnswerFault::Profile);
    }
    let maps = ["a=rtpmap:111 opus/48000/2", "a=rtpmap:126 telephone-event/8000"];
    if section.collect::<Vec<_>>() != ["111", "126"]
        || !maps.iter().all(|map| lines.contains(map))
        || all("a=rtpmap:").count() != maps.len()
    {
        return Err(AnswerFault::Codecs);
    }
    let foreign = ["a=fingerprint:", "a=setup:", "a=ice-", "a=candidate:"];
    if lines.iter().any(|line| foreign.iter().any(|prefix| line.starts_with(prefix))) {
        return Err(AnswerFault::NotOffered);
    }
    let key = key(one("a=crypto:", AnswerFault::Key)?).filter(|key| key != own).ok_or(AnswerFault::Key)?;
    if (all("a=ptime:").collect::<Vec<_>>(), all("a=maxptime:").collect::<Vec<_>>()) != (vec!["20"], vec!["20"]) {
        return Err(AnswerFault::PacketTime);
    }
    if !lines.contains(&"a=rtcp-mux") {
        return Err(AnswerFault::RtcpMux);
    }
    let mut sources: Vec<_> = all("a=ssrc:").map(|value| value.split(' ').next()).collect();
    sources.dedup();
    if sources.len() > 1 {
        return Err(AnswerFault::Sources);
    }
    let connection = all("c=IN IP4 ").chain(all("c=IN IP6 ")).last().and_then(|ip| ip.parse::<IpAddr>().ok());
    let ip = connection.filter(|ip| !ip.is_unspecified()).ok_or(AnswerFault::Address)?;
    Ok(AnswerFacts { remote: SocketAddr::new(ip, port), key })
}

/// The key of `<tag> <suite> inline:<key>`, with the tag and the suite of our one line and nothing behind it.
fn key(crypto: &str) -> Option<[u8; KEY_BYTES]> {
    let words: Vec<&str> = crypto.split(' ').collect();
    let ["1", SUITE, inline] = words.as_slice() else { return None };
    STANDARD.decode(inline.strip_prefix("inline:")?).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [u8; KEY_BYTES] = [7; KEY_BYTES];

    fn local() -> SocketAddr {
        ([127, 0, 0, 1], 3_480).into()
    }

    fn sample() -> String {
        let key = STANDARD.encode([8; KEY_BYTES]);
        format!(
            "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 40000 RTP/SAVP 111 126\r\n\
             a=rtpmap:111 opus/48000/2\r\na=fmtp:111 useinbandfec=1\r\na=rtpmap:126 telephone-event/8000\r\n\
             a=ptime:20\r\na=maxptime:20\r\na=sendrecv\r\na=rtcp-mux\r\na=crypto:1 {SUITE} inline:{key}\r\n"
        )
    }

    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
    #[test]
    fn an_offer_holds_one_key_and_neither_ice_nor_dtls() {
        for profile in [Profile::Savp, Profile::TlsSavpf] {
            let (leg, sdp) = SdesLeg::dial(Instant::now(), local(), profile, 1_762_336_250_050, 7).unwrap();
            assert!(sdp.contains(&format!("m=audio 3480 {} 111 126\r\n", profile.word())), "{sdp}");
            assert!(sdp.contains("o=- 1762336250050 2 IN") && sdp.contains("a=rtcp-mux\r\n"));
            assert_eq!(sdp.matches("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:").count(), 1);
            for absent in ["ice", "fingerprint", "setup", "candidate"] {
                assert!(!sdp.contains(absent), "{absent}");
            }
            assert!(sdp.contains(&STANDARD.encode(leg.key)));
        }
    }

    #[test]
    fn a_sound_answer_passes_and_each_broken_rule_is_refused_by_name() {
        let facts = check(&sample(), Profile::Savp, &OWN).unwrap();
        assert_eq!((facts.remote.port(), facts.key), (40_000, [8; KEY_BYTES]));
        let again = format!("{}a=crypto:2 {SUITE} inline:x\r\n", sample());
        assert_eq!(check(&again, Profile::Savp, &OWN), Err(AnswerFault::Key));
        assert_eq!(check(&sample(), Profile::TlsSavpf, &OWN), Err(AnswerFault::Profile));
        assert_eq!(check(&sample(), Profile::Savp, &[8; KEY_BYTES]), Err(AnswerFault::Key), "our own key given back");
        for (from, to, fault) in [
            ("v=0", "v=1", AnswerFault::Text),
            ("s=-\r\n", "s=-\n", AnswerFault::Text),
            ("m=audio 40000", "m=audio 0", AnswerFault::Section),
            ("a=sendrecv", "a=sendonly", AnswerFault::Section),
            ("a=sendrecv", "m=audio 4 RTP/SAVP 111", AnswerFault::Section),
            ("RTP/SAVP", "RTP/AVP", AnswerFault::Profile),
            ("111 126\r\n", "111\r\n", AnswerFault::Codecs),
            ("111 126\r\n", "111 126 0\r\n", AnswerFault::Codecs),
            ("telephone-event/8000", "telephone-event/48000", AnswerFault::Codecs),
            ("a=sendrecv", "a=setup:active", AnswerFault::NotOffered),
            ("a=sendrecv", "a=ice-ufrag:abcd", AnswerFault::NotOffered),
            ("crypto:1", "crypto:2", AnswerFault::Key),
            ("SHA1_80", "SHA1_32", AnswerFault::Key),
            ("inline:", "inline:A", AnswerFault::Key),
            ("a=ptime:20\r\n", "", AnswerFault::PacketTime),
            ("a=maxptime:20", "a=maxptime:60", AnswerFault::PacketTime),
            ("a=rtcp-mux\r\n", "", AnswerFault::RtcpMux),
            ("a=sendrecv", "a=ssrc:1 cname:a\r\na=ssrc:2 cname:a", AnswerFault::Sources),
            ("c=IN IP4 192.0.2.1", "c=IN IP4 0.0.0.0", AnswerFault::Address),
        ] {
            assert!(sample().contains(from), "{from}");
            assert_eq!(check(&sample().replace(from, to), Profile::Savp, &OWN), Err(fault), "{from} -> {to}");
        }
    }
}
