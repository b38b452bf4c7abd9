//! The descriptions that we write for trunks, line by line.

use sauti_core::media::codec::Codec;

use super::sdes::{Crypto, Suite};
use super::{Description, Direction, EVENTS, LocalSide, RtpTerms, Section};
use crate::sdp::is_token;

/// One payload type that we list: number, `a=rtpmap` value and `a=fmtp` value.
type Format = (u8, String, Option<&'static str>);

/// True for a section that can be named in an answer without giving its writer a line of ours.
pub(super) fn is_writable(section: &Section<'_>) -> bool {
    is_token(section.kind) && section.profile.split('/').all(is_token) && is_token(section.format)
}

/// The whole text around a body.
pub(super) fn whole(local: &LocalSide, version: u64, body: &str) -> String {
    let family = if local.address.is_ipv4() { "IP4" } else { "IP6" };
    let (id, address) = (local.session_id, local.address);
    format!("v=0\r\no=- {id} {version} IN {family} {address}\r\ns=-\r\nc=IN {family} {address}\r\nt=0 0\r\n{body}")
}

/// The sections of an answer: the one at `place` as agreed, all others refused.
pub(super) fn answer(
    local: &LocalSide,
    offer: &Description<'_>,
    place: usize,
    terms: &RtpTerms,
    direction: Direction,
    crypto: Option<Crypto>,
) -> String {
    let mut lines = Vec::new();
    for (n, section) in offer.sections.iter().enumerate() {
        if n != place {
            // RFC 3264 §6: a stream is refused by port 0, with what it was offered as.
            lines.push(format!("m={} 0 {} {}", section.kind, section.profile, section.format));
            continue;
        }
        let formats = formats(&[(terms.codec, terms.payload_type)], terms.events.as_slice());
        media(&mut lines, local, section.profile, &formats);
        lines.push(format!("a=ptime:{}", terms.packet_ms));
        if section.maxptime.is_some() {
            // What was offered as the longest is answered with what we send.
            lines.push(format!("a=maxptime:{}", terms.packet_ms));
        }
        if let Some(mid) = section.mid.filter(|mid| is_token(mid)) {
            lines.push(format!("a=mid:{mid}"));
        }
        end(&mut lines, direction, terms.rtcp_mux, crypto.as_slice());
    }
    lines.push(String::new());
    lines.join("\r\n")
}

/// The section of an offer: everything that we have, or what is in force.
pub(super) fn offer(local: &LocalSide, terms: Option<&RtpTerms>, direction: Direction) -> String {
    let mut lines = Vec::new();
    let profile = if local.sdes { "RTP/SAVP" } else { "RTP/AVP" };
    let formats = match terms {
        Some(terms) => formats(&[(terms.codec, terms.payload_type)], terms.events.as_slice()),
        None => {
            let codecs: Vec<(Codec, u8)> = local.codecs.iter().map(|codec| (*codec, codec.payload_type())).collect();
            let mut events = vec![(EVENTS.0, 8_000)];
            if local.codecs.contains(&Codec::Opus) {
                events.push((EVENTS.1, 48_000));
            }
            formats(&codecs, &events)
        }
    };
    media(&mut lines, local, profile, &formats);
    lines.push(format!("a=ptime:{}", terms.map_or(20, |terms| terms.packet_ms)));
    end(&mut lines, direction, terms.is_none_or(|terms| terms.rtcp_mux), &offered_crypto(local, terms));
    lines.push(String::new());
    lines.join("\r\n")
}

/// The keys of an offer: both suites, or the one in force.
pub(super) fn offered_crypto(local: &LocalSide, terms: Option<&RtpTerms>) -> Vec<Crypto> {
    if !local.sdes {
        return Vec::new();
    }
    match terms.and_then(|terms| terms.keys.as_ref()) {
        Some(keys) => vec![local.crypto(1, keys.suite)],
        None => vec![local.crypto(1, Suite::Tag80), local.crypto(2, Suite::Tag32)],
    }
}

fn formats(codecs: &[(Codec, u8)], events: &[(u8, u32)]) -> Vec<Format> {
    let codecs = codecs.iter().map(|(codec, payload_type)| {
        let parameters = (*codec == Codec::Opus).then_some("minptime=20;useinbandfec=1");
        (*payload_type, codec.rtpmap().to_owned(), parameters)
    });
    let events = events.iter().map(|(payload_type, rate)| {
        // Keys alone: 16 is a flash, which is none.
        (*payload_type, format!("telephone-event/{rate}"), Some("0-15"))
    });
    codecs.chain(events).collect()
}

fn media(lines: &mut Vec<String>, local: &LocalSide, profile: &str, formats: &[Format]) {
    let numbers: Vec<String> = formats.iter().map(|(number, ..)| number.to_string()).collect();
    lines.push(format!("m=audio {} {profile} {}", local.port, numbers.join(" ")));
    for (number, name, parameters) in formats {
        lines.push(format!("a=rtpmap:{number} {name}"));
        if let Some(parameters) = parameters {
            lines.push(format!("a=fmtp:{number} {parameters}"));
        }
    }
}

fn end(lines: &mut Vec<String>, direction: Direction, rtcp_mux: bool, crypto: &[Crypto]) {
    lines.push(format!("a={}", direction.name()));
    if rtcp_mux {
        lines.push("a=rtcp-mux".to_owned());
    }
    lines.extend(crypto.iter().map(Crypto::write));
}
