use super::*;
use proptest::prelude::*;

/// What Meta sends (captures of 2025), with addresses and credentials made up.
pub(crate) const WHATSAPP_OFFER: &str = "v=0\r\n\
o=- 1762336250050 2 IN IP4 127.0.0.1\r\n\
s=-\r\n\
t=0 0\r\n\
a=group:BUNDLE audio\r\n\
a=msid-semantic: WMS 1a8be36a-0000-4000-8000-000000000000\r\n\
a=ice-lite\r\n\
m=audio 3484 UDP/TLS/RTP/SAVPF 111 126\r\n\
c=IN IP4 203.0.113.130\r\n\
a=rtcp:9 IN IP4 0.0.0.0\r\n\
a=candidate:707619806 1 udp 2122260223 203.0.113.130 3484 typ host generation 0 network-cost 50\r\n\
a=candidate:1267757827 1 udp 2122262783 2001:db8:f288:1d4:face:b00c:0:699c 3484 typ host generation 0 network-cost 50\r\n\
a=ice-ufrag:VyVkdwnqGUZtqVON\r\n\
a=ice-pwd:sGUUAvS/fOjzPtIoL72o2g==\r\n\
a=fingerprint:sha-256 8E:64:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E\r\n\
a=setup:actpass\r\n\
a=mid:audio\r\n\
a=sendrecv\r\n\
a=msid:1a8be36a-0000-4000-8000-000000000000 WhatsAppTrack1\r\n\
a=rtcp-mux\r\n\
a=rtpmap:111 opus/48000/2\r\n\
a=rtcp-fb:111 transport-cc\r\n\
a=fmtp:111 maxaveragebitrate=20000;maxplaybackrate=16000;minptime=20;sprop-maxcapturerate=16000;useinbandfec=1\r\n\
a=rtpmap:126 telephone-event/8000\r\n\
a=maxptime:20\r\n\
a=ptime:20\r\n\
a=ssrc:972010428 cname:WhatsAppAudioStream1\r\n";

/// What headless Chromium offers for one audio track, shortened where it repeats itself.
pub(crate) const CHROMIUM_OFFER: &str = "v=0\r\n\
o=- 4611731400430051336 2 IN IP4 127.0.0.1\r\n\
s=-\r\n\
t=0 0\r\n\
a=group:BUNDLE 0\r\n\
a=extmap-allow-mixed\r\n\
a=msid-semantic: WMS stream\r\n\
m=audio 50000 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110 126\r\n\
c=IN IP4 203.0.113.7\r\n\
a=rtcp:9 IN IP4 0.0.0.0\r\n\
a=candidate:1 1 udp 2122260223 1f2e3d4c-0000-4000-8000-000000000001.local 50000 typ host generation 0 network-id 1\r\n\
a=candidate:2 1 udp 2122129151 203.0.113.7 50000 typ host generation 0 network-id 2\r\n\
a=candidate:3 1 tcp 1518280447 203.0.113.7 9 typ host tcptype active generation 0 network-id 1\r\n\
a=candidate:4 2 udp 2122129150 203.0.113.7 50001 typ host generation 0 network-id 2\r\n\
a=ice-ufrag:Yx2+\r\n\
a=ice-pwd:abcdefghijklmnopqrstuvwx\r\n\
a=ice-options:trickle\r\n\
a=fingerprint:sha-256 8E:64:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E\r\n\
a=setup:actpass\r\n\
a=mid:0\r\n\
a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level\r\n\
a=extmap:2 http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time\r\n\
a=sendrecv\r\n\
a=msid:stream track\r\n\
a=rtcp-mux\r\n\
a=rtcp-rsize\r\n\
a=rtpmap:111 opus/48000/2\r\n\
a=rtcp-fb:111 transport-cc\r\n\
a=fmtp:111 minptime=10;useinbandfec=1\r\n\
a=rtpmap:63 red/48000/2\r\n\
a=fmtp:63 111/111\r\n\
a=rtpmap:9 G722/8000\r\n\
a=rtpmap:0 PCMU/8000\r\n\
a=rtpmap:8 PCMA/8000\r\n\
a=rtpmap:13 CN/8000\r\n\
a=rtpmap:110 telephone-event/48000\r\n\
a=rtpmap:126 telephone-event/8000\r\n\
a=ssrc:3735928559 cname:chromium\r\n\
a=ssrc:3735928559 msid:stream track\r\n";

/// What aiortc offers: full ICE, three fingerprints, a dynamic number for Opus, session attributes.
pub(crate) const AIORTC_OFFER: &str = "v=0\r\n\
o=- 3941234567 3941234567 IN IP4 0.0.0.0\r\n\
s=-\r\n\
t=0 0\r\n\
a=group:BUNDLE 0\r\n\
a=msid-semantic:WMS *\r\n\
m=audio 50010 UDP/TLS/RTP/SAVPF 96 9 0 8\r\n\
c=IN IP4 203.0.113.9\r\n\
a=sendrecv\r\n\
a=extmap:1 urn:ietf:params:rtp-hdrext:sdes:mid\r\n\
a=mid:0\r\n\
a=msid:aa bb\r\n\
a=rtcp:9 IN IP4 0.0.0.0\r\n\
a=rtcp-mux\r\n\
a=ssrc:1185134120 cname:aiortc\r\n\
a=rtpmap:96 opus/48000/2\r\n\
a=rtpmap:9 G722/8000\r\n\
a=rtpmap:0 PCMU/8000\r\n\
a=rtpmap:8 PCMA/8000\r\n\
a=candidate:a1 1 udp 2130706431 203.0.113.9 50010 typ host\r\n\
a=candidate:a1 2 udp 2130706430 203.0.113.9 50011 typ host\r\n\
a=end-of-candidates\r\n\
a=ice-ufrag:Jb7v\r\n\
a=ice-pwd:abcdefghijklmnopqrstuv\r\n\
a=fingerprint:sha-256 8E:64:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E\r\n\
a=fingerprint:sha-384 00:11\r\n\
a=fingerprint:sha-512 00:11\r\n\
a=setup:actpass\r\n";

fn without(offer: &str, begin: &str) -> String {
    offer.split_inclusive("\r\n").filter(|line| !line.starts_with(begin)).collect()
}

fn local_side<'a>(candidates: &'a [SocketAddr]) -> LocalSide<'a> {
    LocalSide {
        session_id: 77,
        ice_ufrag: "ownufragownufrag",
        ice_pwd: "ownpwdownpwdownpwdownpwdownpwd12",
        fingerprint: "00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:10:11:12:13:14:15:16:17:18:19:1A:1B:1C:1D:1E:1F",
        ssrc: 4_000_000_001,
        cname: "own",
        candidates,
    }
}

#[test]
fn the_real_offer_is_understood() {
    let facts = OfferFacts::read(WHATSAPP_OFFER).unwrap();
    assert_eq!(facts.created_ms(), Some(1_762_336_250_050));
    assert!(facts.ice_lite);
    assert_eq!(facts.setup, Setup::ActPass);
    assert_eq!(facts.mid.as_deref(), Some("audio"));
    assert_eq!(facts.ice_pwd, "sGUUAvS/fOjzPtIoL72o2g==");
    assert_eq!((facts.fingerprints, facts.sha256.len()), (1, 1));
    assert_eq!(facts.sha256[0][..3], [0x8E, 0x64, 0x00]);
    let opus = OpusFacts {
        payload_type: 111,
        max_playback_rate: Some(16_000),
        max_average_bitrate: Some(20_000),
        in_band_fec: true,
    };
    assert_eq!(facts.opus, opus);
    assert_eq!(facts.telephone_event, Some(126));
    assert!(!facts.pcma && !facts.pcmu);
    assert_eq!(facts.ptime, Some(20));
    assert_eq!(facts.ssrcs, [972_010_428]);
    assert_eq!(facts.candidates.len(), 2);
    assert!(facts.candidates[0].addr.is_ipv6(), "the IPv6 candidate has the higher priority");
    assert_eq!(facts.candidates_skipped, 0);
}

#[test]
fn line_ends_may_be_lf_alone_and_the_last_may_be_missing() {
    let facts = OfferFacts::read(WHATSAPP_OFFER).unwrap();
    assert_eq!(OfferFacts::read(&WHATSAPP_OFFER.replace("\r\n", "\n")), Ok(facts.clone()));
    assert_eq!(OfferFacts::read(WHATSAPP_OFFER.trim_end()), Ok(facts));
}

#[test]
fn a_browser_offer_is_understood() {
    let facts = OfferFacts::read(CHROMIUM_OFFER).unwrap();
    assert!(!facts.ice_lite);
    assert_eq!(facts.created_ms(), None, "a random session id is no time");
    assert_eq!(facts.opus.payload_type, 111);
    assert_eq!(facts.telephone_event, Some(126), "the one at 8000 Hz");
    assert!(facts.pcma && facts.pcmu);
    assert_eq!(facts.candidates.len(), 1);
    assert_eq!(facts.candidates_skipped, 3, "mDNS, TCP and the second component");
}

#[test]
fn an_aiortc_offer_is_understood() {
    let facts = OfferFacts::read(AIORTC_OFFER).unwrap();
    assert_eq!(facts.opus.payload_type, 96);
    assert_eq!(facts.telephone_event, None);
    assert_eq!((facts.fingerprints, facts.sha256.len()), (3, 1));
}

#[test]
fn session_level_attributes_count_where_the_section_has_none() {
    let moved: String = ["a=ice-ufrag", "a=ice-pwd", "a=fingerprint", "a=setup"].iter().fold(
        WHATSAPP_OFFER.replace("t=0 0\r\n", "t=0 0\r\na=ice-ufrag:sessionfrag\r\na=ice-pwd:sessionpwdsessionpwd12\r\na=setup:passive\r\na=fingerprint:SHA-256 8e:64:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff:01:02:03:04:05:06:07:08:09:0a:0b:0c:0d:0e\r\n"),
        |text, begin| {
            let (head, tail) = text.split_at(text.find("m=audio").unwrap());
            head.to_owned() + &without(tail, begin)
        },
    );
    let facts = OfferFacts::read(&moved).unwrap();
    assert_eq!((facts.ice_ufrag.as_str(), facts.setup), ("sessionfrag", Setup::Passive));
    assert_eq!(facts.sha256[0][0], 0x8E);
}

#[test]
fn every_refusal_has_its_reason() {
    let refused = |offer: &str| OfferFacts::read(offer).unwrap_err();
    assert_eq!(refused(""), SdpRefusal::NotSdp);
    assert_eq!(refused("{\"v\":0}"), SdpRefusal::NotSdp);
    assert_eq!(refused("v=0\r\n"), SdpRefusal::NoAudio);
    assert_eq!(refused(&"v=0\r\n".repeat(20_000)), SdpRefusal::TooLong(100_000));
    assert_eq!(refused(&WHATSAPP_OFFER.replace("m=audio 3484", "m=audio 0")), SdpRefusal::NoAudio);
    assert_eq!(refused(&format!("{WHATSAPP_OFFER}m=video 9 UDP/TLS/RTP/SAVPF 96\r\n")), SdpRefusal::Video);
    assert_eq!(refused(&WHATSAPP_OFFER.replace("m=audio", "m=video")), SdpRefusal::Video);
    assert_eq!(
        refused(&format!("{WHATSAPP_OFFER}m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n")),
        SdpRefusal::ExtraMedia
    );
    let bare = without(WHATSAPP_OFFER, "a=fingerprint");
    assert_eq!(refused(&bare), SdpRefusal::NoFingerprint);
    assert_eq!(refused(&format!("{bare}a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:AAAA\r\n")), SdpRefusal::SdesOnly);
    assert_eq!(refused(&WHATSAPP_OFFER.replace("sha-256", "sha-1")), SdpRefusal::NoSha256);
    assert_eq!(refused(&WHATSAPP_OFFER.replace(":0D:0E", ":0D")), SdpRefusal::NoSha256);
    assert_eq!(refused(&without(WHATSAPP_OFFER, "a=ice-ufrag")), SdpRefusal::NoIceCredentials);
    assert_eq!(refused(&WHATSAPP_OFFER.replace("L72o2g==", "")), SdpRefusal::NoIceCredentials);
    assert_eq!(refused(&without(WHATSAPP_OFFER, "a=rtcp-mux")), SdpRefusal::NoRtcpMux);
    assert_eq!(refused(&WHATSAPP_OFFER.replace("a=mid:audio", "a=mid:au\rdio")), SdpRefusal::BadMid);
    assert_eq!(refused(&WHATSAPP_OFFER.replace("opus/48000/2", "opus/16000")), SdpRefusal::NoOpus);
    assert_eq!(refused(&WHATSAPP_OFFER.replace("SAVPF 111 126", "SAVPF 126")), SdpRefusal::NoOpus);
    assert_eq!(refused(&WHATSAPP_OFFER.replace("actpass", "holdconn")), SdpRefusal::BadSetup);
    assert_eq!(OfferFacts::read_answer(WHATSAPP_OFFER).unwrap_err(), SdpRefusal::BadSetup);
}

#[test]
fn refusals_and_debug_output_show_nothing_of_the_description() {
    let facts = OfferFacts::read(WHATSAPP_OFFER).unwrap();
    let shown = format!("{facts:?} {}", SdpRefusal::TooLong(70_000));
    for secret in ["203.0.113", "2001:db8", "VyVk", "sGUU", "8E:64"] {
        assert!(!shown.contains(secret), "{secret}");
    }
}

#[test]
fn fifty_candidates_are_kept_and_hundreds_are_cut_to_the_best() {
    let many = |count: u16| {
        let lines: String = (0..count)
            .map(|n| format!("a=candidate:{n} 1 udp {} 198.51.100.1 {} typ host\r\n", 1_000 + u32::from(n), 10_000 + n))
            .collect();
        OfferFacts::read(&format!("{WHATSAPP_OFFER}{lines}")).unwrap()
    };
    assert_eq!((many(50).candidates.len(), many(50).candidates_skipped), (52, 0));
    let cut = many(500);
    assert_eq!((cut.candidates.len(), cut.candidates_skipped), (MAX_CANDIDATES, 502 - MAX_CANDIDATES));
    assert_eq!(cut.candidates[2].priority, 1_499);
}

#[test]
fn addresses_where_nobody_is_are_no_candidates() {
    for address in ["0.0.0.0", "224.0.0.1", "255.255.255.255", "ff02::1", "::"] {
        let facts = OfferFacts::read(&WHATSAPP_OFFER.replace("203.0.113.130 3484 typ", &format!("{address} 3484 typ")));
        assert_eq!(facts.unwrap().candidates_skipped, 1, "{address}");
    }
}

#[test]
fn the_answer_is_what_meta_asks_for() {
    let candidates = ["198.51.100.7:40000".parse().unwrap(), "[2001:db8::7]:40000".parse().unwrap()];
    let offer = OfferFacts::read(WHATSAPP_OFFER).unwrap();
    let answer = write_answer(&offer, &local_side(&candidates), true);

    assert_eq!(answer.matches('\n').count(), answer.matches("\r\n").count(), "CRLF everywhere");
    assert!(answer.ends_with("\r\n"));
    let lines: Vec<&str> = answer.lines().collect();
    let count = |begin: &str| lines.iter().filter(|line| line.starts_with(begin)).count();
    assert!(lines.contains(&"m=audio 40000 UDP/TLS/RTP/SAVPF 111 126"));
    for once in [
        "v=0",
        "m=",
        "a=fingerprint:sha-256 ",
        "a=setup:active",
        "a=ptime:20",
        "a=maxptime:20",
        "a=ssrc:",
        "a=mid:audio",
        "a=group:BUNDLE audio",
        "a=rtcp-mux",
        "a=sendrecv",
        "a=ice-ufrag:ownufrag",
        "a=ice-pwd:ownpwd",
        "a=rtpmap:111 opus/48000/2",
        "a=rtpmap:126 telephone-event/8000",
    ] {
        assert_eq!(count(once), 1, "{once}");
    }
    assert_eq!(count("a=fingerprint"), 1);
    assert_eq!(count("a=rtpmap"), 2);
    assert_eq!(count("a=ice-lite"), 0);
    assert_eq!(count("a=candidate"), 2);
    assert!(
        lines.iter().filter(|line| line.starts_with("a=candidate")).all(|line| line.split(' ').nth(1) == Some("1"))
    );

    let read_back = OfferFacts::read_answer(&answer).unwrap();
    assert!(read_back.payload_types.iter().all(|pt| offer.payload_types.contains(pt)));
    assert_eq!(read_back.setup, Setup::Active);
    assert_eq!(read_back.candidates.len(), 2);
}

#[test]
fn opus_wins_over_g711_and_a_foreign_number_is_kept() {
    let g711 = WHATSAPP_OFFER.replace("SAVPF 111 126", "SAVPF 8 0 111 126");
    let answer = write_answer(&OfferFacts::read(&g711).unwrap(), &local_side(&[]), true);
    assert!(answer.contains("m=audio 9 UDP/TLS/RTP/SAVPF 111 126\r\n"));
    let answer = write_answer(&OfferFacts::read(AIORTC_OFFER).unwrap(), &local_side(&[]), true);
    assert!(answer.contains("m=audio 9 UDP/TLS/RTP/SAVPF 96\r\n"));
    assert!(answer.contains("a=mid:0\r\n"));
}

#[test]
fn a_group_or_a_mid_that_was_not_offered_is_not_answered() {
    let bare = without(&without(WHATSAPP_OFFER, "a=group"), "a=mid");
    let answer = write_answer(&OfferFacts::read(&bare).unwrap(), &local_side(&[]), true);
    assert!(!answer.contains("a=group") && !answer.contains("a=mid"));
}

#[test]
fn one_way_offers_are_mirrored() {
    let offer = OfferFacts::read(&WHATSAPP_OFFER.replace("a=sendrecv", "a=sendonly")).unwrap();
    assert!(write_answer(&offer, &local_side(&[]), true).contains("a=recvonly\r\n"));
}

#[test]
fn an_offer_of_ours_has_the_shape_of_the_real_one() {
    let candidates = ["127.0.0.1:3484".parse().unwrap()];
    let dead = "[2001:db8::dead]:3484".parse().unwrap();
    let shape = OfferShape { g711: true, extra_candidates: vec![dead], ..OfferShape::default() };
    let text = write_offer(&shape, &local_side(&candidates));
    let ours = OfferFacts::read(&text).unwrap();
    let real = OfferFacts::read(WHATSAPP_OFFER).unwrap();
    assert_eq!((ours.ice_lite, ours.setup, &ours.mid, ours.opus), (real.ice_lite, real.setup, &real.mid, real.opus));
    assert_eq!(ours.telephone_event, Some(126));
    assert_eq!(ours.payload_types, [8, 0, 111, 126]);
    assert_eq!(ours.candidates[0].addr, dead);
}

proptest! {
    #[test]
    fn any_text_is_read_without_panic(text in ".{0,400}") {
        prop_assert!(OfferFacts::read(&text).is_err());
    }

    #[test]
    fn any_bytes_in_a_real_offer_are_survived(at in 0_usize..1_200, len in 0_usize..40, junk in proptest::collection::vec(any::<u8>(), 0..40)) {
        let mut bytes = WHATSAPP_OFFER.as_bytes().to_vec();
        let from = at.min(bytes.len());
        let to = (from + len).min(bytes.len());
        bytes.splice(from..to, junk);
        let text = String::from_utf8_lossy(&bytes);
        if let Ok(facts) = OfferFacts::read(&text) {
            let answer = write_answer(&facts, &local_side(&[]), true);
            let back = OfferFacts::read_answer(&answer).unwrap();
            prop_assert!(back.payload_types.iter().all(|pt| facts.payload_types.contains(pt)));
            prop_assert_eq!(answer.matches("\r\n").count(), answer.matches('\n').count());
            prop_assert_eq!(answer.matches('\r').count(), answer.matches('\n').count());
        }
    }
}
