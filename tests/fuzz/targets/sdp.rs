//! Session descriptions: offers of callers, and answers to offers of ours.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

use sauti_core::whatsapp::sdp::origin_time;
use sauti_media::webrtc::{Certificate, LegSettings, WebRtcLeg};
use sauti_media::webrtc_sdp::{MAX_CANDIDATES, OfferFacts, OfferShape};
use sauti_sim::whatsapp::answer;

use super::origin;

/// Reads the bytes as an offer, answers it, and takes them as the answer to an offer of ours.
///
/// Beside that nothing panics: our answer can be read again, names only payload types of the offer, ends its lines as
/// it must (nothing of the offer can begin a line of its own), and the emulated WhatsApp judges it without a panic.
pub(crate) fn sdp(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    black_box(origin_time(&text));
    let Ok(facts) = OfferFacts::read(&text) else {
        assert!(OfferFacts::read_answer(&text).is_err());
        return;
    };
    assert!(facts.candidates.len() <= MAX_CANDIDATES && !facts.sha256.is_empty());
    assert!(facts.payload_types.contains(&facts.opus.payload_type));
    answered(&facts, &text);
    if OfferFacts::read_answer(&text).is_ok() {
        taken_as_answer(&text);
    }
    answer::check(&text, &answer::OfferFacts::read(&text)).ok();
}

fn certificate() -> &'static Certificate {
    static CERTIFICATE: OnceLock<Certificate> = OnceLock::new();
    CERTIFICATE.get_or_init(|| Certificate::generate().expect("the engine makes a certificate"))
}

fn local() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(198, 51, 100, 7), 40_000))
}

fn answered(facts: &OfferFacts, offer: &str) {
    let settings = LegSettings { certificate: certificate(), local: local(), advertise: &[local()] };
    let now = origin();
    let (mut leg, answer) = WebRtcLeg::answer_to(now, facts, &settings).expect("a readable offer can be answered");
    let back = OfferFacts::read_answer(&answer).expect("our own answer can be read");
    assert!(back.payload_types.iter().all(|pt| facts.payload_types.contains(pt)));
    let ends = answer.matches("\r\n").count();
    assert_eq!((answer.matches('\r').count(), answer.matches('\n').count()), (ends, ends));
    answer::check(&answer, &answer::OfferFacts::read(offer)).ok();
    // The first checks go out, and only to addresses that were offered.
    leg.handle_timeout(now + Duration::from_millis(50));
    while let Some((to, _)) = leg.poll_transmit() {
        assert!(facts.candidates.iter().any(|candidate| candidate.addr == to));
    }
}

fn taken_as_answer(text: &str) {
    let settings = LegSettings { certificate: certificate(), local: local(), advertise: &[local()] };
    for ice_lite in [true, false] {
        let shape = OfferShape { ice_lite, g711: true, ..OfferShape::default() };
        let (mut leg, _) = WebRtcLeg::offer(origin(), &settings, &shape).expect("an offer can be made");
        if leg.accept_answer(origin(), text).is_ok() {
            leg.handle_timeout(origin() + Duration::from_millis(50));
        }
    }
}
