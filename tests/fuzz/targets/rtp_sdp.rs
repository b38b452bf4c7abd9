//! Session descriptions of trunks: their offers, and their answers to offers of ours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sauti_core::media::codec::Codec;
use sauti_media::rtp_leg::{RtpLeg, RtpSeed, SEED_BYTES};
use sauti_media::rtp_sdp::{KEY_BYTES, LocalSide, MasterKey, Negotiation, RtpTerms};

use super::origin;

/// Reads the bytes as an offer, as the offer of a re-INVITE behind it, and as the answer to an offer of ours; with SRTP
/// and without, with IPv4 and IPv6.
///
/// Beside that nothing panics: what was agreed on is ours to speak and goes to a place where somebody can be, our answer
/// has a section for each that was offered and ends its lines as it must (nothing of the offer can begin a line of its
/// own), another of us understands it, and a refused description leaves what was in force.
pub(crate) fn rtp_sdp(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for address in [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)), Ipv6Addr::new(0x2001, 0xDB8, 0, 0, 0, 0, 0, 1).into()] {
        for sdes in [false, true] {
            let mut negotiation = side(address, sdes);
            if let Ok((terms, answer)) = negotiation.answer(&text) {
                sensible(&terms, address, sdes);
                written(&text, &answer);
                let again = negotiation.answer(&text).expect("what was answered once is answered again");
                assert_eq!(again, (terms.clone(), answer));
                assert!(negotiation.answer("v=0\r\n").is_err());
                assert_eq!(negotiation.terms(), Some(&terms));
                let mut leg = RtpLeg::new(origin(), &seed(), false).expect("the engine has cryptography");
                leg.agree(origin(), &terms).expect("keys that were read can be used");
            }
            let mut negotiation = side(address, sdes);
            negotiation.offer(false);
            if let Ok(terms) = negotiation.accept(&text) {
                sensible(&terms, address, sdes);
                let offer = negotiation.offer(true);
                assert!(side(address, sdes).answer(&offer).is_ok(), "another of us understands what we offer");
            }
        }
    }
}

fn seed() -> RtpSeed {
    RtpSeed::new([7; SEED_BYTES])
}

fn side(address: IpAddr, sdes: bool) -> Negotiation {
    let key = MasterKey::new([0; KEY_BYTES]);
    let codecs = vec![Codec::Opus, Codec::G722, Codec::Pcma, Codec::Pcmu];
    let keys = [key.clone(), key];
    Negotiation::new(seed().local_side(LocalSide { address, port: 40_000, codecs, sdes, session_id: 0, keys }))
}

fn sensible(terms: &RtpTerms, address: IpAddr, sdes: bool) {
    assert!(terms.payload_type < 128 && [10, 20, 30, 40, 60].contains(&terms.packet_ms));
    assert_eq!(terms.keys.is_some(), sdes);
    assert!(terms.sends || !terms.hears);
    assert_eq!(terms.remote.is_none(), terms.remote.is_none() && !terms.sends);
    for place in terms.remote.into_iter().chain(terms.remote_control) {
        assert!(place.port() != 0 && !place.ip().is_unspecified() && !place.ip().is_multicast());
        assert_eq!(place.is_ipv4(), address.is_ipv4());
    }
}

fn written(offer: &str, answer: &str) {
    let sections = |text: &str| text.split('\n').filter(|line| line.starts_with("m=")).count();
    assert_eq!(sections(answer), sections(offer));
    let ends = answer.matches("\r\n").count();
    assert_eq!((answer.matches('\r').count(), answer.matches('\n').count()), (ends, ends));
}
