//! What Meta demands of the answer that the box sends, as strictly as it is known to judge (code 138008).

use sauti_core::pii::Pii;

/// What counts of an offer when its answer is judged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OfferFacts {
    ufrag: Pii,
    password: Pii,
    fingerprint: String,
    mid: String,
    payload_types: Vec<u8>,
}

impl OfferFacts {
    /// Reads an offer; what it lacks is not compared.
    #[must_use]
    pub fn read(sdp: &str) -> Self {
        let sdp = Lines(sdp.lines().collect());
        let first = |name| sdp.attribute(name).next().unwrap_or_default();
        Self {
            ufrag: Pii::new(first("ice-ufrag")),
            password: Pii::new(first("ice-pwd")),
            fingerprint: first("fingerprint").to_ascii_lowercase(),
            mid: first("mid").to_owned(),
            payload_types: sdp.media().first().map(|media| payload_types(media)).unwrap_or_default(),
        }
    }
}

/// The DTLS role that an answer takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// The box sends the first hello: what Meta recommends.
    Active,
    /// The box waits; a strict relay stays silent then.
    Passive,
}

/// What an accepted answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerFacts {
    /// The DTLS role.
    pub setup: Setup,
    /// `a=ptime`, if it is there: then 20.
    pub ptime: Option<u32>,
    /// The one SSRC, if it is announced.
    pub ssrc: Option<u32>,
    /// DTMF was taken.
    pub telephone_event: bool,
    /// How many candidates it lists.
    pub candidates: usize,
}

/// Why an answer is refused. The text is what stands in the error's details; Meta's own words are not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum SdpFault {
    /// First line.
    #[error("SDP must begin with v=0")]
    Version,
    /// Line ends.
    #[error("SDP lines must end in CRLF")]
    LineEnds,
    /// Media sections.
    #[error("SDP must hold exactly one audio section")]
    Sections,
    /// Port 0 or a direction that is not both ways.
    #[error("SDP declines the audio section or one direction of it")]
    Declined,
    /// Transport.
    #[error("SDP must use UDP/TLS/RTP/SAVPF without crypto lines")]
    Transport,
    /// Codecs.
    #[error("SDP must hold opus/48000/2 under the offered payload type")]
    Opus,
    /// DTMF clock.
    #[error("SDP may hold telephone-event at 8000 only, under the offered payload type")]
    TelephoneEvent,
    /// Payload types that nobody offered.
    #[error("SDP holds a payload type that was not offered")]
    PayloadType,
    /// Fingerprints.
    #[error("No fingerprint found in SDP")]
    NoFingerprint,
    /// Fingerprints.
    #[error("SDP must hold exactly one fingerprint, sha-256 and its own")]
    Fingerprint,
    /// ICE credentials.
    #[error("SDP must hold one ice-ufrag and ice-pwd of its own")]
    Credentials,
    /// ICE mode.
    #[error("SDP must not be ice-lite, as the offer is")]
    IceLite,
    /// Candidates.
    #[error("SDP holds no candidate")]
    NoCandidate,
    /// DTLS role.
    #[error("SDP must hold setup:active or setup:passive")]
    Setup,
    /// Packet time.
    #[error("SDP may hold ptime 20 only")]
    PacketTime,
    /// Sources.
    #[error("SDP may hold one SSRC only")]
    Sources,
    /// RTCP.
    #[error("SDP must hold rtcp-mux")]
    RtcpMux,
    /// Section name.
    #[error("SDP must echo the offer's mid")]
    Mid,
}

/// Judges an answer against its offer.
///
/// # Errors
///
/// The first rule that it breaks.
pub fn check(answer: &str, offer: &OfferFacts) -> Result<AnswerFacts, SdpFault> {
    let Some(text) = answer.strip_suffix("\r\n") else { return Err(SdpFault::LineEnds) };
    let lines: Vec<&str> = text.split("\r\n").collect();
    if lines.iter().any(|line| line.contains(['\r', '\n'])) {
        return Err(SdpFault::LineEnds);
    }
    if lines.first() != Some(&"v=0") {
        return Err(SdpFault::Version);
    }
    let sdp = Lines(lines);
    let section = section(&sdp)?;
    let telephone_event = codecs(&sdp, section, offer)?;
    transport(&sdp, offer)?;
    stream(&sdp, offer)?;
    let mut setups = sdp.attribute("setup");
    let setup = match (setups.next(), setups.next()) {
        (Some("active"), None) => Setup::Active,
        (Some("passive"), None) => Setup::Passive,
        _ => return Err(SdpFault::Setup),
    };
    Ok(AnswerFacts {
        setup,
        ptime: sdp.attribute("ptime").next().and_then(|value| value.trim().parse().ok()),
        ssrc: sdp.attribute("ssrc").next().and_then(source),
        telephone_event,
        candidates: sdp.attribute("candidate").count(),
    })
}

/// The one audio section, taken, both ways.
fn section<'a>(sdp: &Lines<'a>) -> Result<&'a str, SdpFault> {
    let media = sdp.media();
    let [section] = media.as_slice() else { return Err(SdpFault::Sections) };
    let mut parts = section.split(' ');
    if parts.next() != Some("audio") {
        return Err(SdpFault::Sections);
    }
    let declined = parts.next().is_none_or(|port| port == "0")
        || ["inactive", "sendonly", "recvonly"].into_iter().any(|direction| sdp.flag(direction));
    if declined {
        return Err(SdpFault::Declined);
    }
    if parts.next() != Some("UDP/TLS/RTP/SAVPF") || sdp.attribute("crypto").next().is_some() {
        return Err(SdpFault::Transport);
    }
    Ok(section)
}

/// Opus under an offered type, telephone-event at 8000 if at all; true if it is there.
fn codecs(sdp: &Lines<'_>, section: &str, offer: &OfferFacts) -> Result<bool, SdpFault> {
    let taken = payload_types(section);
    let offered = |kind: u8| offer.payload_types.is_empty() || offer.payload_types.contains(&kind);
    let (mut opus, mut telephone_event) = (false, false);
    for (kind, codec) in sdp.attribute("rtpmap").filter_map(|value| value.split_once(' ')) {
        let kind = kind.parse::<u8>().ok().filter(|kind| taken.contains(kind)).ok_or(SdpFault::PayloadType)?;
        let codec = codec.trim().to_ascii_lowercase();
        if codec.starts_with("telephone-event") {
            if codec != "telephone-event/8000" || !offered(kind) {
                return Err(SdpFault::TelephoneEvent);
            }
            telephone_event = true;
        } else if codec == "opus/48000/2" {
            opus |= offered(kind);
        }
    }
    if !opus {
        return Err(SdpFault::Opus);
    }
    if !taken.iter().all(|kind| offered(*kind)) {
        return Err(SdpFault::PayloadType);
    }
    Ok(telephone_event)
}

/// ICE and DTLS: credentials, fingerprint, candidates.
fn transport(sdp: &Lines<'_>, offer: &OfferFacts) -> Result<(), SdpFault> {
    let fingerprints: Vec<&str> = sdp.attribute("fingerprint").collect();
    let fingerprint = match fingerprints.as_slice() {
        [] => return Err(SdpFault::NoFingerprint),
        [one] => one.to_ascii_lowercase(),
        _ => return Err(SdpFault::Fingerprint),
    };
    let digits = fingerprint.strip_prefix("sha-256 ").unwrap_or_default().trim();
    let whole = digits.len() == 95 && digits.split(':').all(|pair| hex::decode(pair).is_ok_and(|byte| byte.len() == 1));
    if !whole || fingerprint == offer.fingerprint {
        return Err(SdpFault::Fingerprint);
    }
    let own = |name, least: usize, theirs: &Pii| {
        let mut values = sdp.attribute(name);
        let (first, second) = (values.next().unwrap_or_default(), values.next());
        second.is_none() && (least..=256).contains(&first.len()) && first != theirs.expose()
    };
    if !own("ice-ufrag", 4, &offer.ufrag) || !own("ice-pwd", 22, &offer.password) {
        return Err(SdpFault::Credentials);
    }
    if sdp.flag("ice-lite") {
        return Err(SdpFault::IceLite);
    }
    let usable = |value: &str| value.split(' ').nth(1) == Some("1") && value.to_ascii_lowercase().contains(" udp ");
    if sdp.attribute("candidate").any(usable) { Ok(()) } else { Err(SdpFault::NoCandidate) }
}

/// One stream: packet time, source, RTCP, name.
fn stream(sdp: &Lines<'_>, offer: &OfferFacts) -> Result<(), SdpFault> {
    if sdp.attribute("ptime").any(|value| value.trim() != "20") {
        return Err(SdpFault::PacketTime);
    }
    let mut sources: Vec<_> = sdp.attribute("ssrc").map(source).collect();
    sources.sort_unstable();
    sources.dedup();
    if sources.len() > 1 || sources.contains(&None) || sdp.attribute("ssrc-group").next().is_some() {
        return Err(SdpFault::Sources);
    }
    if !sdp.flag("rtcp-mux") {
        return Err(SdpFault::RtcpMux);
    }
    if !offer.mid.is_empty() && sdp.attribute("mid").next() != Some(offer.mid.as_str()) {
        return Err(SdpFault::Mid);
    }
    Ok(())
}

fn source(value: &str) -> Option<u32> {
    value.split(' ').next()?.parse().ok()
}

/// The formats of an `m=` line.
fn payload_types(section: &str) -> Vec<u8> {
    section.split_ascii_whitespace().skip(3).filter_map(|kind| kind.parse().ok()).collect()
}

struct Lines<'a>(Vec<&'a str>);

impl<'a> Lines<'a> {
    /// The values of `a=name:value`.
    fn attribute(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter_map(move |line| line.strip_prefix("a=")?.strip_prefix(name)?.strip_prefix(':'))
    }

    /// True if `a=name` is there.
    fn flag(&self, name: &str) -> bool {
        self.0.iter().any(|line| line.strip_prefix("a=") == Some(name))
    }

    /// What stands behind each `m=`.
    fn media(&self) -> Vec<&'a str> {
        self.0.iter().filter_map(|line| line.strip_prefix("m=")).collect()
    }
}

/// A sound answer for tests and for bodies that nobody plays: with credentials of its own.
#[must_use]
pub fn sample() -> Pii {
    let fingerprint = ["AB"; 32].join(":");
    Pii::new(
        [
            "v=0",
            "o=- 4611732891726351234 2 IN IP4 0.0.0.0",
            "s=-",
            "t=0 0",
            "a=group:BUNDLE audio",
            &format!("a=fingerprint:sha-256 {fingerprint}"),
            "m=audio 9 UDP/TLS/RTP/SAVPF 111 126",
            "c=IN IP4 0.0.0.0",
            "a=setup:active",
            "a=mid:audio",
            "a=ice-ufrag:sautiufrag",
            "a=ice-pwd:sautipasswordsautipassword",
            "a=rtcp-mux",
            "a=rtpmap:111 opus/48000/2",
            "a=rtpmap:126 telephone-event/8000",
            "a=ptime:20",
            "a=maxptime:20",
            "a=ssrc:3735928559 cname:sauti",
            "a=sendrecv",
            "a=candidate:1 1 udp 2130706431 192.0.2.1 40000 typ host",
            "",
        ]
        .join("\r\n"),
    )
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::whatsapp::dice::Dice;
    use crate::whatsapp::offer::Offer;

    fn offer() -> (Offer, OfferFacts) {
        let offer = Offer::captured(&mut Dice::new(1));
        let facts = OfferFacts::read(offer.sdp(Timestamp::UNIX_EPOCH).expose());
        (offer, facts)
    }

    fn changed(from: &str, to: &str) -> Result<AnswerFacts, SdpFault> {
        let sdp = sample();
        assert!(sdp.expose().contains(from), "{from}");
        check(&sdp.expose().replace(from, to), &offer().1)
    }

    #[test]
    fn a_sound_answer_passes_and_its_facts_are_told() {
        let facts = check(sample().expose(), &offer().1).unwrap();
        assert_eq!(
            facts,
            AnswerFacts {
                setup: Setup::Active,
                ptime: Some(20),
                ssrc: Some(3_735_928_559),
                telephone_event: true,
                candidates: 1
            }
        );
        assert_eq!(changed("setup:active", "setup:passive").unwrap().setup, Setup::Passive);
        assert_eq!(changed("a=ptime:20\r\n", "").unwrap().ptime, None);
        assert!(changed("sha-256 AB", "SHA-256 ab").is_ok());
    }

    #[test]
    fn each_broken_rule_is_refused_by_name() {
        for (from, to, fault) in [
            ("v=0", "v=1", SdpFault::Version),
            ("s=-\r\n", "s=-\n", SdpFault::LineEnds),
            ("m=audio 9", "m=video 9", SdpFault::Sections),
            ("a=setup:active", "m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=setup:active", SdpFault::Sections),
            ("m=audio 9", "m=audio 0", SdpFault::Declined),
            ("a=sendrecv", "a=recvonly", SdpFault::Declined),
            ("UDP/TLS/RTP/SAVPF", "RTP/SAVP", SdpFault::Transport),
            ("a=rtcp-mux", "a=rtcp-mux\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:x", SdpFault::Transport),
            ("opus/48000/2", "opus/48000", SdpFault::Opus),
            ("a=rtpmap:111 opus/48000/2\r\n", "", SdpFault::Opus),
            ("telephone-event/8000", "telephone-event/48000", SdpFault::TelephoneEvent),
            ("SAVPF 111 126", "SAVPF 111 126 0", SdpFault::PayloadType),
            ("rtpmap:111", "rtpmap:96", SdpFault::PayloadType),
            ("a=fingerprint:sha-256", "a=x:", SdpFault::NoFingerprint),
            ("a=fingerprint:sha-256", "a=fingerprint:sha-1", SdpFault::Fingerprint),
            ("AB:AB:AB", "AB:AB", SdpFault::Fingerprint),
            ("a=setup:active", "a=setup:active\r\na=fingerprint:sha-512 AB", SdpFault::Fingerprint),
            ("a=ice-pwd:sautipasswordsautipassword\r\n", "", SdpFault::Credentials),
            ("sautipasswordsautipassword", "short", SdpFault::Credentials),
            ("a=group:BUNDLE audio", "a=ice-lite", SdpFault::IceLite),
            ("a=candidate:1 1 udp", "a=candidate:1 1 tcp", SdpFault::NoCandidate),
            ("a=setup:active", "a=setup:actpass", SdpFault::Setup),
            ("a=setup:active\r\n", "", SdpFault::Setup),
            ("a=ptime:20", "a=ptime:60", SdpFault::PacketTime),
            ("a=sendrecv", "a=ssrc:7 cname:other", SdpFault::Sources),
            ("a=rtcp-mux\r\n", "", SdpFault::RtcpMux),
            ("a=mid:audio", "a=mid:0", SdpFault::Mid),
        ] {
            assert_eq!(changed(from, to), Err(fault), "{from} -> {to}");
        }
        assert_eq!(check("", &OfferFacts::default()), Err(SdpFault::LineEnds));
    }

    #[test]
    fn credentials_and_fingerprint_copied_from_the_offer_are_refused() {
        let (offer, facts) = offer();
        let sdp = sample();
        let with = |from: &str, to: &str| check(&sdp.expose().replace(from, to), &facts);
        assert_eq!(with("sautiufrag", offer.ufrag.expose()), Err(SdpFault::Credentials));
        assert_eq!(with("sautipasswordsautipassword", offer.password.expose()), Err(SdpFault::Credentials));
        assert_eq!(with(&["AB"; 32].join(":"), &offer.fingerprint.to_lowercase()), Err(SdpFault::Fingerprint));
    }

    #[test]
    fn the_offer_itself_is_no_answer() {
        let (offer, facts) = offer();
        assert!(check(offer.sdp(Timestamp::UNIX_EPOCH).expose(), &facts).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_judge_panic(text in any::<String>(), cut in 0_usize..700) {
            prop_assert!(check(&text, &offer().1).is_err());
            let mut half: String = sample().expose().chars().take(cut).collect();
            half.push_str(&text);
            half.push_str("\r\n");
            prop_assert!(check(&half, &OfferFacts::read(&text)).is_err() || half.contains("m=audio"));
        }
    }
}
