use proptest::prelude::*;

use super::*;

/// What a trunk of a mobile operator offers, by and large.
const CARRIER: &str = "v=0\r\no=sbc 1073741824 1073741825 IN IP4 203.0.113.20\r\ns=call\r\n\
    c=IN IP4 203.0.113.20\r\nt=0 0\r\nm=audio 27942 RTP/AVP 8 0 18 101 13\r\na=rtpmap:8 PCMA/8000\r\n\
    a=rtpmap:0 PCMU/8000\r\na=rtpmap:18 G729/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\n\
    a=ptime:20\r\na=maxptime:40\r\na=sendrecv\r\n";

/// The SDES offer of WhatsApp over SIP (calling reference §4).
const WHATSAPP: &str = "v=0\r\no=- 1762336250050 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n\
    m=audio 3480 RTP/SAVP 111 126\r\nc=IN IP4 203.0.113.130\r\na=rtpmap:111 opus/48000/2\r\n\
    a=fmtp:111 maxaveragebitrate=20000;maxplaybackrate=16000;minptime=20;sprop-maxcapturerate=16000;useinbandfec=1\r\n\
    a=rtpmap:126 telephone-event/8000\r\na=maxptime:20\r\na=ptime:20\r\na=rtcp-mux\r\n\
    a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj\r\n";

/// A desk phone: no maps for static types, two more sections, IPv6 at the section's level.
const PHONE: &str = "v=0\no=root 77 1 IN IP6 2001:db8::5\ns=call\nt=0 0\nm=audio 5004/2 RTP/AVP 9 8 0 96\n\
    c=IN IP6 2001:db8::5\na=rtpmap:96 opus/48000/2\na=rtcp:5011 IN IP6 2001:db8::6\na=ptime:30\na=recvonly\n\
    m=video 5006 RTP/AVP 99\na=rtpmap:99 H264/90000\nm=image 5008 udptl t38\n";

fn local(codecs: &[Codec], sdes: bool) -> LocalSide {
    LocalSide {
        address: "198.51.100.7".parse().unwrap(),
        port: 40_000,
        codecs: codecs.to_vec(),
        sdes,
        session_id: 4_711,
        keys: [MasterKey::new([1; KEY_BYTES]), MasterKey::new([2; KEY_BYTES])],
    }
}

fn plain() -> Negotiation {
    Negotiation::new(local(&[Codec::Pcma, Codec::Pcmu], false))
}

fn refused(negotiation: &mut Negotiation, offer: &str) -> &'static str {
    negotiation.answer(offer).unwrap_err().label()
}

#[test]
fn an_offer_of_a_carrier_is_answered_line_by_line() {
    let mut negotiation = plain();
    let (terms, answer) = negotiation.answer(CARRIER).unwrap();
    assert_eq!(
        answer,
        "v=0\r\no=- 4711 1 IN IP4 198.51.100.7\r\ns=-\r\nc=IN IP4 198.51.100.7\r\nt=0 0\r\n\
         m=audio 40000 RTP/AVP 8 101\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\n\
         a=fmtp:101 0-15\r\na=ptime:20\r\na=maxptime:20\r\na=sendrecv\r\n"
    );
    let expected = RtpTerms {
        codec: Codec::Pcma,
        payload_type: 8,
        events: Some((101, 8_000)),
        packet_ms: 20,
        remote: Some("203.0.113.20:27942".parse().unwrap()),
        remote_control: Some("203.0.113.20:27943".parse().unwrap()),
        rtcp_mux: false,
        sends: true,
        hears: true,
        keys: None,
    };
    assert_eq!(terms, expected);
    assert!(!format!("{terms:?}").contains("203"));
}

#[test]
fn the_operators_order_chooses_among_what_is_offered() {
    let mut negotiation = Negotiation::new(local(&[Codec::Opus, Codec::G722, Codec::Pcmu, Codec::Pcma], false));
    assert_eq!(negotiation.answer(CARRIER).unwrap().0.codec, Codec::Pcmu);
    // What is in force stays, though another is liked better and offered by now.
    let more = CARRIER.replace("8 0 18", "8 0 9 18");
    assert_eq!(negotiation.answer(&more).unwrap().0.codec, Codec::Pcmu);
    // Unless it is not offered any more.
    let (terms, answer) = negotiation.answer(&more.replace(" 8 0 9", " 8 9")).unwrap();
    assert_eq!((terms.codec, terms.payload_type), (Codec::G722, 9));
    assert!(answer.contains("a=rtpmap:9 G722/8000\r\n"), "{answer}");
}

#[test]
fn the_offer_of_whatsapp_is_answered_with_a_key_of_ours() {
    let mut negotiation = Negotiation::new(local(&[Codec::Opus, Codec::Pcma], true));
    let (terms, answer) = negotiation.answer(WHATSAPP).unwrap();
    assert!(answer.contains("m=audio 40000 RTP/SAVP 111 126\r\n"), "{answer}");
    assert!(answer.contains("a=ptime:20\r\na=maxptime:20\r\n"), "{answer}");
    assert!(answer.contains("a=rtcp-mux\r\n"), "{answer}");
    let key = "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB\r\n";
    assert!(answer.ends_with(key), "{answer}");
    assert_eq!((terms.codec, terms.payload_type, terms.events), (Codec::Opus, 111, Some((126, 8_000))));
    assert_eq!(terms.remote_control, terms.remote);
    let keys = terms.keys.unwrap();
    assert_eq!((keys.suite, keys.own), (Suite::Tag80, MasterKey::new([1; KEY_BYTES])));
    // The same with the profile of DTLS, as one integrator shows it.
    let dtls_like = WHATSAPP.replace("RTP/SAVP ", "UDP/TLS/RTP/SAVPF ");
    let (_, answer) = negotiation.answer(&dtls_like).unwrap();
    assert!(answer.contains("m=audio 40000 UDP/TLS/RTP/SAVPF 111 126\r\n"), "{answer}");
}

#[test]
fn sections_beside_the_first_are_refused_by_port_0_and_the_rest_is_read() {
    let side = LocalSide { address: "2001:db8::1".parse().unwrap(), ..local(&[Codec::G722], false) };
    let (terms, answer) = Negotiation::new(side).answer(PHONE).unwrap();
    assert!(answer.contains("o=- 4711 1 IN IP6 2001:db8::1\r\n"), "{answer}");
    assert!(answer.ends_with("m=video 0 RTP/AVP 99\r\nm=image 0 udptl t38\r\n"), "{answer}");
    assert!(answer.contains("a=sendonly\r\n"), "{answer}");
    assert_eq!((terms.codec, terms.packet_ms, terms.events), (Codec::G722, 30, None));
    assert_eq!(terms.remote, Some("[2001:db8::5]:5004".parse().unwrap()));
    assert_eq!(terms.remote_control, Some("[2001:db8::6]:5011".parse().unwrap()));
    assert_eq!((terms.sends, terms.hears), (true, false));
    // An audio section that is off is no section to be answered.
    let off = CARRIER.replace("m=audio 27942", "m=audio 0 RTP/AVP 8\r\nm=audio 27942");
    let (_, answer) = plain().answer(&off).unwrap();
    assert!(answer.contains("m=audio 0 RTP/AVP 8\r\nm=audio 40000 RTP/AVP 8 101\r\n"), "{answer}");
}

#[test]
fn a_hold_is_understood_in_each_of_its_forms_and_its_end_too() {
    let mut negotiation = plain();
    negotiation.answer(CARRIER).unwrap();
    for (from, to, ours) in [
        ("a=sendrecv", "a=sendonly", "a=recvonly"),
        ("a=sendrecv", "a=inactive", "a=inactive"),
        ("c=IN IP4 203.0.113.20", "c=IN IP4 0.0.0.0", "a=sendrecv"),
    ] {
        let (terms, answer) = negotiation.answer(&CARRIER.replace(from, to)).unwrap();
        assert_eq!((terms.sends, terms.hears), (false, false), "{to}");
        assert!(answer.contains(ours), "{answer}");
        let (terms, _) = negotiation.answer(CARRIER).unwrap();
        assert_eq!((terms.sends, terms.hears), (true, true));
    }
    assert_eq!(
        negotiation.answer(&CARRIER.replace("c=IN IP4 203.0.113.20", "c=IN IP4 0.0.0.0")).unwrap().0.remote,
        None
    );
}

#[test]
fn the_version_moves_when_something_new_is_said() {
    let mut negotiation = plain();
    let version = |text: &str| text.split(' ').nth(2).unwrap().parse::<u64>().unwrap();
    let first = version(&negotiation.answer(CARRIER).unwrap().1);
    assert_eq!(version(&negotiation.answer(CARRIER).unwrap().1), first);
    assert_eq!(version(&negotiation.answer(&CARRIER.replace("sendrecv", "sendonly")).unwrap().1), first + 1);
}

#[test]
fn packet_times_are_answered_as_wished_and_allowed() {
    for (lines, packet_ms) in [
        ("", 20),
        ("a=ptime:10\r\n", 10),
        ("a=ptime:30\r\n", 30),
        ("a=ptime:40\r\n", 40),
        ("a=ptime:60\r\n", 60),
        ("a=ptime:50\r\n", 40),
        ("a=ptime:200\r\n", 60),
        ("a=ptime:5\r\n", 10),
        ("a=ptime:0\r\n", 10),
        ("a=ptime:x\r\n", 20),
        ("a=ptime:60\r\na=maxptime:20\r\n", 20),
        ("a=maxptime:10\r\n", 10),
    ] {
        let offer = CARRIER.replace("a=ptime:20\r\na=maxptime:40\r\n", lines);
        let (terms, answer) = plain().answer(&offer).unwrap();
        assert_eq!(terms.packet_ms, packet_ms, "{lines}");
        assert!(answer.contains(&format!("a=ptime:{packet_ms}\r\n")), "{answer}");
    }
}

#[test]
fn an_offer_that_cannot_be_is_refused_by_its_reason() {
    let secure = || Negotiation::new(local(&[Codec::Opus], true));
    let offer = |from: &str, to: &str| CARRIER.replace(from, to);
    for (text, reason) in [
        (String::new(), "not_sdp"),
        ("v=1\r\n".to_owned(), "not_sdp"),
        ("v=0\r\n".repeat(20_000), "too_long"),
        ("v=0\r\nc=IN IP4 203.0.113.20\r\n".to_owned(), "no_audio"),
        (offer("m=audio 27942", "m=audio 0"), "no_audio"),
        (offer("m=audio 27942", "m=audio x"), "no_audio"),
        (offer("m=audio", "m=video"), "no_audio"),
        (offer("RTP/AVP", "udptl"), "profile"),
        (offer("8 0 18 101 13", "18 101"), "no_codec"),
        (offer("a=rtpmap:8 PCMA/8000", "a=rtpmap:8 PCMA/16000").replace("8 0 18", "8 18"), "no_codec"),
        (offer("c=IN IP4 203.0.113.20\r\n", ""), "address"),
        (offer("c=IN IP4 203.0.113.20", "c=IN IP4 sbc.example.com"), "address"),
        (offer("c=IN IP4 203.0.113.20", "c=IN IP6 203.0.113.20"), "address"),
        (offer("c=IN IP4 203.0.113.20", "c=IN IP4 224.2.1.1/127"), "address"),
        (offer("c=IN IP4 203.0.113.20", "c=IN IP4 255.255.255.255"), "address"),
        (offer("c=IN IP4 203.0.113.20", "c=IN IP6 2001:db8::5"), "family"),
        (offer("RTP/AVP", "RTP/SAVP"), "secure_only"),
        (format!("{CARRIER}{}", "m=image 5008 udptl t38\r\n".repeat(16)), "sections"),
        (format!("{CARRIER}m=video 5 RTP/AVP\r\n"), "sections"),
        (format!("{CARRIER}m=vi\u{7}deo 5 RTP/AVP 9\r\n"), "sections"),
    ] {
        assert_eq!(refused(&mut plain(), &text), reason, "{text}");
    }
    let secure_plain = offer("RTP/AVP", "RTP/SAVP");
    assert_eq!(refused(&mut plain(), &secure_plain), "secure_only");
    assert_eq!(refused(&mut secure(), CARRIER), "no_codec");
    assert_eq!(
        refused(&mut secure(), &WHATSAPP.replace("RTP/SAVP", "RTP/AVP").replace("a=crypto", "a=x")),
        "not_secure"
    );
    assert_eq!(refused(&mut secure(), &WHATSAPP.replace("a=crypto", "a=x")), "no_crypto");
    assert_eq!(refused(&mut secure(), &WHATSAPP.replace("inline:", "inline:AA")), "no_crypto");
    let dtls = WHATSAPP.replace("a=crypto:1", "a=fingerprint:sha-256");
    assert_eq!(refused(&mut secure(), &dtls), "dtls_only");
    // Keys beside a profile without protection are an offer of both: who has SRTP off takes the one without.
    let both = format!("{CARRIER}{}", &WHATSAPP[WHATSAPP.find("a=crypto").unwrap()..]);
    assert_eq!(plain().answer(&both).unwrap().0.keys, None);
    let mut sdes = Negotiation::new(local(&[Codec::Pcma], true));
    assert!(sdes.answer(&both).unwrap().0.keys.is_some());
}

#[test]
fn a_refused_offer_leaves_what_was_agreed() {
    let mut negotiation = plain();
    negotiation.answer(CARRIER).unwrap();
    let before = negotiation.terms().cloned();
    assert_eq!(refused(&mut negotiation, "v=0\r\n"), "no_audio");
    assert_eq!(refused(&mut negotiation, &CARRIER.replace("8 0 18 101 13", "18")), "no_codec");
    assert_eq!(negotiation.terms().cloned(), before);
    assert!(before.is_some());
}

#[test]
fn two_of_us_agree_whoever_offers() {
    for sdes in [false, true] {
        let codecs = [Codec::Opus, Codec::G722, Codec::Pcma, Codec::Pcmu];
        let mut one = Negotiation::new(local(&codecs, sdes));
        let other = LocalSide {
            address: "203.0.113.9".parse().unwrap(),
            port: 50_000,
            keys: [MasterKey::new([3; KEY_BYTES]), MasterKey::new([4; KEY_BYTES])],
            ..local(&[Codec::Pcmu, Codec::Opus], sdes)
        };
        let mut other = Negotiation::new(other);
        let offer = one.offer(false);
        assert!(offer.contains("m=audio 40000 RTP/") && offer.contains(" 111 9 8 0 101 102\r\n"), "{offer}");
        let (theirs, answer) = other.answer(&offer).unwrap();
        let ours = one.accept(&answer).unwrap();
        assert_eq!((ours.codec, theirs.codec, ours.rtcp_mux), (Codec::Pcmu, Codec::Pcmu, true));
        assert_eq!(ours.events, Some((101, 8_000)));
        assert_eq!(ours.remote, Some("203.0.113.9:50000".parse().unwrap()));
        assert_eq!(ours.keys.is_some(), sdes);
        if let (Some(ours), Some(theirs)) = (ours.keys, theirs.keys) {
            assert_eq!((ours.own, ours.far), (theirs.far, theirs.own));
        }
        // We hold, and go on.
        let (theirs, answer) = other.answer(&one.offer(true)).unwrap();
        let ours = one.accept(&answer).unwrap();
        assert_eq!((ours.sends, ours.hears, theirs.sends, theirs.hears), (true, false, false, false));
        let (theirs, answer) = other.answer(&one.offer(false)).unwrap();
        let ours = one.accept(&answer).unwrap();
        assert_eq!((ours.sends, ours.hears, theirs.sends, theirs.hears), (true, true, true, true));
    }
}

#[test]
fn an_answer_must_answer_an_offer_and_use_what_it_has() {
    let mut negotiation = plain();
    assert_eq!(negotiation.accept(CARRIER).unwrap_err(), RtpRefusal::NoOffer);
    negotiation.offer(false);
    let foreign = CARRIER.replace("8 0 18 101 13", "9 101");
    assert_eq!(negotiation.accept(&foreign).unwrap_err(), RtpRefusal::NotOffered);
    assert_eq!(negotiation.accept(CARRIER).unwrap_err(), RtpRefusal::NoOffer, "the offer is over");
    negotiation.offer(false);
    assert_eq!(negotiation.accept(&CARRIER.replace("27942", "0")).unwrap_err(), RtpRefusal::NoAudio);
    negotiation.offer(false);
    // The answerer's order counts.
    assert_eq!(negotiation.accept(&CARRIER.replace("8 0 18", "0 8")).unwrap().codec, Codec::Pcmu);
    let mut secure = Negotiation::new(local(&[Codec::Opus], true));
    secure.offer(false);
    let other_tag = WHATSAPP.replace("a=crypto:1", "a=crypto:7");
    assert_eq!(secure.accept(&other_tag).unwrap_err(), RtpRefusal::NotOffered);
    secure.offer(false);
    let other_suite = WHATSAPP.replace("a=crypto:1 AES_CM_128_HMAC_SHA1_80", "a=crypto:2 AES_CM_128_HMAC_SHA1_32");
    let keys = secure.accept(&other_suite).unwrap().keys.unwrap();
    assert_eq!((keys.suite, keys.own), (Suite::Tag32, MasterKey::new([2; KEY_BYTES])));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic_and_every_answer_has_a_section_for_each_offered(
        lines in proptest::collection::vec(
            prop_oneof![
                Just("m=audio 27942 RTP/AVP 8 0 101".to_owned()),
                Just("m=audio 4 RTP/SAVP 9 111 126".to_owned()),
                Just("c=IN IP4 203.0.113.20".to_owned()),
                Just("a=rtpmap:111 opus/48000/2".to_owned()),
                Just("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj".to_owned()),
                "[a-z]=[ -~]{0,40}",
                "m=[a-z]{1,6} [0-9]{1,6} [A-Z/]{1,9} [ -~]{0,9}",
                ".{0,20}",
            ], 0..12),
        sdes in any::<bool>(),
    ) {
        let text = format!("v=0\r\n{}", lines.join("\r\n"));
        let codecs = [Codec::Opus, Codec::G722, Codec::Pcma, Codec::Pcmu];
        let mut negotiation = Negotiation::new(local(&codecs, sdes));
        if let Ok((_, answer)) = negotiation.answer(&text) {
            let sections = |text: &str| text.lines().filter(|line| line.starts_with("m=")).count();
            prop_assert_eq!(sections(&answer), text.split('\n').filter(|line| line.starts_with("m=")).count());
            let ends = answer.matches("\r\n").count();
            prop_assert_eq!((answer.matches('\r').count(), answer.matches('\n').count()), (ends, ends));
        }
        negotiation.offer(false);
        let _accepted = negotiation.accept(&text).is_ok();
    }
}
