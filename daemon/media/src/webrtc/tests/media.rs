//! Media, RTCP, the end of calls, and bad input, between two connected legs.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::rtp::read_header;
use crate::webrtc_sdp::tests::{AIORTC_OFFER, CHROMIUM_OFFER, WHATSAPP_OFFER};

/// 60 to 149 bytes that differ from packet to packet.
fn pattern(sequence: u16) -> Vec<u8> {
    let [high, low] = sequence.to_be_bytes();
    (0..60 + low % 90).map(|n| n ^ low ^ high).collect()
}

#[test]
fn media_goes_both_ways_unchanged() {
    let mut world = World::new(&OfferShape::default());
    world.connect(Duration::from_secs(5));
    for sequence in 0..200_u16 {
        let payload = pattern(sequence);
        world.send(true, sequence, 111, &payload);
        world.send(false, sequence, 111, &payload);
        world.run(Duration::from_millis(20));
    }
    let (down, up) = (world.us.leg.ssrc(), world.caller.leg.ssrc());
    for (got, ssrc) in [(&world.caller.rtp, down), (&world.us.rtp, up)] {
        assert_eq!(got.len(), 200);
        for (packet, sequence) in got.iter().zip(0_u16..) {
            assert_eq!((packet.sequence, packet.ssrc, packet.payload_type), (sequence, ssrc, 111));
            assert_eq!(packet.timestamp, u32::from(sequence) * 960);
            assert_eq!(packet.marker, sequence == 0);
            assert_eq!(packet.payload[..], pattern(sequence)[..]);
        }
    }
    assert_eq!(world.us.leg.counters().rtp_in, 200);
    assert_eq!(world.us.leg.counters().srtp_failures, 0);
}

#[test]
fn sequence_numbers_may_wrap() {
    let mut world = World::new(&OfferShape::default());
    world.connect(Duration::from_secs(5));
    let mut sequence = 32_000_u16;
    for _ in 0..36_000 {
        sequence = sequence.wrapping_add(1);
        world.send(false, sequence, 111, &[7; 3]);
        let (_, _, from, bytes) = world.in_flight.pop().unwrap();
        world.us.leg.receive(world.now, from, &bytes);
        world.us.leg.poll_rtp().unwrap();
    }
    assert_eq!(world.us.leg.counters().rtp_in, 36_000);
}

#[test]
fn dtmf_on_the_same_source_keeps_its_payload_type() {
    let mut world = World::new(&OfferShape::default());
    world.connect(Duration::from_secs(5));
    world.send(false, 1, 126, &[5, 0x8A, 0, 160]);
    world.send(false, 2, 111, &[0xF8, 0xFF, 0xFE]);
    world.run(Duration::from_millis(5));
    let seen: Vec<_> = world.us.rtp.iter().map(|packet| (packet.payload_type, packet.ssrc)).collect();
    let ssrc = world.caller.leg.ssrc();
    assert_eq!(seen, [(126, ssrc), (111, ssrc)]);
}

#[test]
fn media_of_a_source_that_no_description_named_is_delivered() {
    let strip = |offer: String| offer.split_inclusive("\r\n").filter(|line| !line.starts_with("a=ssrc")).collect();
    let mut world = World::with(&OfferShape::default(), addr(US), &[addr(US)], strip);
    world.connect(Duration::from_secs(5));
    world.send(false, 1, 111, b"x");
    // A relay may also change the source in mid-call.
    world.caller.leg.stream.ssrc ^= 0xFFFF;
    world.send(false, 9, 111, b"y");
    world.run(Duration::from_millis(5));
    assert_eq!(world.us.rtp.len(), 2);
    assert_ne!(world.us.rtp[0].ssrc, world.us.rtp[1].ssrc);
}

#[test]
fn extensions_sources_and_padding_are_stepped_over() {
    let mut world = World::new(&OfferShape::default());
    world.connect(Duration::from_secs(5));
    // X and P set, two contributing sources, an extension of one-byte form with bytes that the engine would drop.
    let mut plain = vec![0xB2, 111, 0, 7, 0, 0, 0, 9];
    plain.extend_from_slice(&world.caller.leg.ssrc().to_be_bytes());
    plain.extend_from_slice(&[0; 8]);
    plain.extend_from_slice(&[0xBE, 0xDE, 0, 2, 0, 0, 0xF0, 1, 2, 3, 4, 5]);
    plain.extend_from_slice(b"audio");
    plain.extend_from_slice(&[0, 0, 3]);
    let header = read_header(&plain).unwrap();
    assert_eq!(header.bytes, 32);
    let Protection::Srtp(srtp) = &mut world.caller.leg.stream.protection else { panic!("connected") };
    let packet = srtp.out.encrypt_rtp_with_header(&plain, &header.engine(&plain));
    let from = world.caller.addr;
    world.us.leg.receive(world.now, from, &packet.unwrap());
    let got = world.us.leg.poll_rtp().unwrap();
    assert_eq!((&got.payload[..], got.sequence), (&b"audio"[..], 7));
}

#[test]
fn strangers_garbage_and_replays_are_counted_and_the_call_lives() {
    let mut world = World::new(&OfferShape::default());
    world.connect(Duration::from_secs(5));
    world.send(false, 1, 111, b"once");
    let (_, _, from, packet) = world.in_flight.pop().unwrap();
    let stranger = addr("192.0.2.66:5555");
    let leg = &mut world.us.leg;
    leg.receive(world.now, stranger, &packet);
    assert_eq!(leg.counters().strangers, 1);
    leg.receive(world.now, from, &packet);
    leg.receive(world.now, from, &packet);
    assert_eq!((leg.counters().rtp_in, leg.counters().replayed), (1, 1));

    let mut forged = packet.to_vec();
    forged[3] = 200;
    leg.receive(world.now, from, &forged);
    assert_eq!(leg.counters().srtp_failures, 1);
    for cut in 0..packet.len() {
        leg.receive(world.now, from, &packet[..cut]);
    }
    leg.receive(world.now, from, &[0xFF; 100]);
    leg.receive(world.now, from, &[0x80; 4_000]);
    assert!(leg.counters().bad_packets >= 20);
    let before = leg.counters().bad_packets;
    leg.receive(world.now, stranger, &[22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    leg.receive(world.now, from, &[22, 254, 253, 0, 0]);
    assert_eq!((leg.counters().strangers, leg.counters().bad_packets), (2, before + 1));

    world.send(false, 2, 111, b"still here");
    world.run(Duration::from_millis(5));
    assert_eq!(&world.us.rtp.last().unwrap().payload[..], b"still here");
}

#[test]
fn a_flood_of_checks_with_wrong_names_changes_nothing() {
    let mut world = World::new(&OfferShape::default());
    let (mut other, answer) = World::unanswered(&OfferShape::default(), addr(US), &[addr(US)], |offer| offer);
    drop(answer);
    let (_, check) = other
        .us
        .leg
        .poll_transmit()
        .or_else(|| {
            other.us.leg.handle_timeout(other.now);
            other.us.leg.poll_transmit()
        })
        .unwrap();
    for round in 0..2_000_u16 {
        let stranger = SocketAddr::from(([192, 0, 2, 66], 1_024 + round));
        for side in [&mut world.us, &mut world.caller] {
            side.leg.receive(world.now, stranger, &check);
        }
    }
    assert_eq!(world.us.leg.counters().stun_refused, 2_000);
    assert_eq!(world.caller.leg.counters().stun_refused, 2_000);
    world.connect(Duration::from_secs(5));
    for _ in 0..10 {
        world.us.leg.receive(world.now, world.caller.addr, &check);
        world.run(Duration::from_secs(2));
    }
    assert_eq!(world.us.events.len(), 2, "the role and the consent are as before: {:?}", world.us.events);
}

#[test]
fn a_check_replayed_from_everywhere_adds_few_addresses() {
    let mut world = World::new(&OfferShape { ice_lite: false, ..OfferShape::default() });
    world.us.leg.handle_timeout(world.now);
    let (_, check) = world.us.leg.poll_transmit().unwrap();
    for n in 0..500_u16 {
        let from = SocketAddr::from(([192, 0, 2, 66], 1_024 + n));
        world.caller.leg.receive(world.now, from, &check);
    }
    while world.caller.leg.poll_transmit().is_some() {}
    assert_eq!(world.caller.leg.counters().stun_refused, 500 - (64 + 16 - 1));
    world.connect(Duration::from_secs(5));
}

#[test]
fn sealed_records_before_the_keys_are_kept_in_small_number() {
    let mut world = World::new(&OfferShape::default());
    world.weather(|_, _, packet| is_dtls(packet));
    world.run(Duration::from_millis(20));
    let mut sealed = vec![22, 254, 253, 0, 1, 0, 0, 0, 0, 0, 0, 0, 40];
    sealed.extend_from_slice(&[9; 40]);
    let mut flood = |world: &mut World, count: u16| {
        for n in 0..count {
            [sealed[9], sealed[10]] = n.to_be_bytes();
            world.us.leg.receive(world.now, world.caller.addr, &sealed);
        }
    };
    flood(&mut world, 250);
    assert_eq!(world.us.leg.counters().bad_packets, 0);
    world.weather(|_, _, _| false);
    world.connect(Duration::from_secs(5));

    let mut world = World::new(&OfferShape::default());
    world.weather(|_, _, packet| is_dtls(packet));
    world.run(Duration::from_millis(20));
    flood(&mut world, 1_000);
    assert_eq!(world.us.leg.counters().bad_packets, 1_000 - 256);
}

#[test]
fn forged_sources_cannot_fill_the_memory() {
    let mut world = World::new(&OfferShape::default());
    world.connect(Duration::from_secs(5));
    world.send(false, 1, 111, b"first");
    world.run(Duration::from_millis(5));
    let from = world.caller.addr;
    for ssrc in 0..5_000_u32 {
        let mut packet = vec![0x80, 111, 0, 1, 0, 0, 0, 0];
        packet.extend_from_slice(&ssrc.to_be_bytes());
        packet.extend_from_slice(&[0; 40]);
        world.us.leg.receive(world.now, from, &packet);
    }
    assert_eq!(world.us.leg.stream.trials, crate::rtp::MAX_TRIALS);
    assert_eq!(world.us.leg.counters().srtp_failures, 5_000);
    world.send(false, 2, 111, b"second");
    world.run(Duration::from_millis(5));
    assert_eq!(world.us.rtp.len(), 2);
}

#[test]
fn both_sides_learn_how_their_stream_arrives() {
    let mut world = World::new(&OfferShape::default());
    world.delay = Duration::from_millis(25);
    world.connect(Duration::from_secs(5));
    let mut count = 0_u32;
    world.weather(move |_, to_us, packet| {
        let media = packet.len() > 60 && matches!(packet.first(), Some(0x80));
        count += u32::from(media && !to_us);
        media && !to_us && count.is_multiple_of(10)
    });
    for sequence in 0..500 {
        world.send(true, sequence, 111, &[7; 80]);
        world.send(false, sequence, 111, &[7; 80]);
        world.run(Duration::from_millis(20));
    }
    let reports = |side: &Side| -> Vec<FarReport> {
        side.events
            .iter()
            .filter_map(|(_, event)| if let LegEvent::Report(report) = event { Some(*report) } else { None })
            .collect()
    };
    let ours = reports(&world.us);
    assert!((3..=5).contains(&ours.len()), "{ours:?}");
    let last = ours.last().unwrap();
    assert!((23..=28).contains(&last.fraction_lost), "a tenth of 256: {last:?}");
    assert!(last.lost >= 30, "{last:?}");
    let trip = last.round_trip.unwrap();
    assert!((50..=51).contains(&trip.as_millis()), "{trip:?}");
    let theirs = reports(&world.caller);
    assert!(theirs.iter().all(|report| report.lost == 0 && report.jitter == Duration::ZERO), "{theirs:?}");
    assert_eq!(world.us.leg.reception().map(|got| (got.received, got.lost)), Some((499, 0)));
    assert_eq!(world.caller.leg.reception().unwrap().lost, 49);
}

#[test]
fn no_rtcp_precedes_the_first_packet() {
    let mut world = World::new(&OfferShape::default());
    world.connect(Duration::from_secs(5));
    world.send(false, 1, 111, b"early bird");
    world.run(Duration::from_secs(30));
    assert_eq!(world.us.leg.counters().rtcp_out, 0);
    assert!(world.caller.leg.counters().rtcp_out > 5);
}

#[test]
fn a_goodbye_is_an_event_and_the_end_of_dtls_another() {
    let mut world = World::new(&OfferShape::default());
    world.connect(Duration::from_secs(5));
    assert_eq!(world.caller.leg.send_rtcp(&[1, 2]), Err(SendError::Refused));
    world.caller.leg.say_bye();
    world.run(Duration::from_millis(5));
    assert!(world.us.leg.is_connected());
    world.caller.leg.close(world.now);
    world.run(Duration::from_millis(5));
    let events: Vec<_> = world.us.events.iter().map(|(_, event)| *event).collect();
    let bye = LegEvent::Bye;
    assert_eq!(events, [LegEvent::IceConnected, LegEvent::Connected, bye, bye, LegEvent::Closed]);
    assert!(!world.us.leg.is_connected());
    assert_eq!(world.us.leg.counters().rtcp_in, 2);
}

#[test]
fn nothing_comes_out_after_close() {
    let mut world = World::new(&OfferShape::default());
    world.connect(Duration::from_secs(5));
    world.us.leg.close(world.now);
    world.us.leg.close(world.now);
    world.drain();
    assert_eq!(world.us.leg.deadline(), None);
    assert_eq!(world.us.leg.send_rtcp(&[0x80, 201, 0, 1, 0, 0, 0, 1]), Err(SendError::NotConnected));
    world.send(false, 1, 111, b"late");
    world.run(Duration::from_secs(60));
    assert!(world.us.rtp.is_empty());
    assert_eq!(world.us.events.len(), 2);
}

#[test]
fn silence_of_the_caller_is_reported_then_forgiven_then_final() {
    let mut world = World::new(&OfferShape::default());
    world.connect(Duration::from_secs(5));
    world.weather(|age, to_us, _| {
        let out = (10..17).contains(&age.as_secs()) || age.as_secs() >= 40;
        to_us && out
    });
    world.run(Duration::from_secs(100));
    let disturbed = world.us.when(LegEvent::Disconnected).unwrap().as_millis();
    let recovered = world.us.when(LegEvent::Recovered).unwrap().as_millis();
    let failed = world.us.when(LegEvent::Failed(LegFailure::Ice)).unwrap().as_millis();
    assert!((13_000..16_100).contains(&disturbed), "{disturbed}");
    assert!((17_000..19_600).contains(&recovered), "{recovered}");
    assert!((67_000..71_100).contains(&failed), "{failed}");
}

#[test]
fn consent_is_renewed_every_few_seconds_through_a_minute_in_which_nobody_speaks() {
    let mut world = World::new(&OfferShape::default());
    world.connect(Duration::from_secs(5));
    let begun = world.age();
    let checks = Rc::new(RefCell::new(vec![begun]));
    let seen = Rc::clone(&checks);
    world.weather(move |at, to_us, packet| {
        if !to_us && packet.starts_with(&[0, 1]) {
            seen.borrow_mut().push(at);
        }
        false
    });
    let before = (world.us.events.len(), world.caller.events.len());
    world.run(Duration::from_secs(60));
    checks.borrow_mut().push(world.age());
    let longest = checks.borrow().windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(longest <= Duration::from_secs(5), "RFC 7675 §5.1: {longest:?}");
    assert_eq!((world.us.events.len(), world.caller.events.len()), before, "nobody missed the other");
    assert!(world.us.leg.is_connected() && world.caller.leg.is_connected());
}

#[test]
fn an_ice_lite_caller_notices_when_we_fall_silent() {
    let mut world = World::new(&OfferShape::default());
    world.connect(Duration::from_secs(5));
    world.weather(|_, to_us, _| !to_us);
    world.run(Duration::from_secs(60));
    assert!(world.caller.when(LegEvent::Disconnected).is_some());
    assert!(world.caller.when(LegEvent::Failed(LegFailure::Ice)).is_some());
}

#[test]
fn an_ice_lite_caller_answers_only_and_tells_a_controlled_peer_so() {
    let mut world = World::new(&OfferShape::default());
    world.connect(Duration::from_secs(5));
    world.run(Duration::from_secs(20));
    let quiet = world.caller.sent;
    world.weather(|_, to_us, _| !to_us);
    world.run(Duration::from_secs(20));
    assert_eq!(world.caller.sent, quiet, "it sends nothing of its own");

    let now = origin();
    let certificate = Certificate::generate().unwrap();
    let settings = LegSettings { certificate: &certificate, local: addr(US), advertise: &[addr(US)] };
    let (mut caller, offer) = WebRtcLeg::offer(now, &settings, &OfferShape::default()).unwrap();
    let not_lite = offer.replace("a=ice-lite\r\n", "");
    let (mut controlled, answer) = WebRtcLeg::answer(now, &not_lite, &settings).unwrap();
    caller.accept_answer(now, &answer).unwrap();
    controlled.handle_timeout(now);
    let (_, check) = controlled.poll_transmit().unwrap();
    caller.receive(now, addr(CALLER), &check);
    let (_, verdict) = caller.poll_transmit().unwrap();
    assert_eq!(verdict[..2], [0x01, 0x11], "a binding error response");
    assert!(verdict.windows(4).any(|part| part == [0, 0, 4, 87]), "487");
}

#[test]
fn answers_differ_in_every_secret_and_share_the_certificate() {
    let certificate = Certificate::generate().unwrap();
    let settings = LegSettings { certificate: &certificate, local: addr(US), advertise: &[addr(US)] };
    let (mut ufrags, mut ssrcs) = (BTreeSet::new(), BTreeSet::new());
    for offer in [WHATSAPP_OFFER, CHROMIUM_OFFER, AIORTC_OFFER, WHATSAPP_OFFER] {
        let (leg, answer) = WebRtcLeg::answer(origin(), offer, &settings).unwrap();
        let facts = OfferFacts::read_answer(&answer).unwrap();
        assert!(answer.contains(certificate.fingerprint()));
        assert_eq!(facts.ssrcs, [leg.ssrc()]);
        assert_eq!(facts.setup, Setup::Active);
        ssrcs.insert(leg.ssrc());
        ufrags.insert((facts.ice_ufrag, facts.ice_pwd));
    }
    assert_eq!((ufrags.len(), ssrcs.len()), (4, 4));
    assert_eq!(certificate.fingerprint().len(), 95);
}

#[test]
fn an_answer_with_foreign_payload_types_is_refused_and_a_good_one_still_taken() {
    let (mut world, answer) = World::unanswered(&OfferShape::default(), addr(US), &[addr(US)], |offer| offer);
    let foreign = answer.replace("SAVPF 111 126", "SAVPF 111 126 9");
    assert_eq!(world.caller.leg.accept_answer(world.now, &foreign), Err(SdpRefusal::ForeignPayloadType));
    let open = answer.replace("a=setup:active", "a=setup:actpass");
    assert_eq!(world.caller.leg.accept_answer(world.now, &open), Err(SdpRefusal::BadSetup));
    world.caller.leg.accept_answer(world.now, &answer).unwrap();
    world.caller.leg.accept_answer(world.now, &answer).unwrap();
    world.connect(Duration::from_secs(5));
}

#[test]
fn sending_before_keys_and_too_much_is_an_error() {
    let mut world = World::new(&OfferShape::default());
    let packet = RtpOut { payload_type: 111, sequence: 0, timestamp: 0, marker: false, payload: &[0; 1_201] };
    assert_eq!(world.us.leg.send_rtp(world.now, &packet), Err(SendError::NotConnected));
    world.connect(Duration::from_secs(5));
    assert_eq!(world.us.leg.send_rtp(world.now, &packet), Err(SendError::TooLong(1_201)));
}

#[test]
fn a_lane_that_forgets_to_poll_loses_the_oldest() {
    let mut world = World::new(&OfferShape::default());
    world.connect(Duration::from_secs(5));
    for sequence in 0..300 {
        world.send(false, sequence, 111, b"x");
    }
    for (_, _, from, bytes) in std::mem::take(&mut world.in_flight) {
        world.us.leg.receive(world.now, from, &bytes);
    }
    assert_eq!(world.us.leg.counters().unpolled, 44);
    assert_eq!(world.us.leg.poll_rtp().unwrap().sequence, 44);
}

#[test]
fn debug_output_shows_no_address_and_no_secret() {
    let world = World::new(&OfferShape::default());
    let shown = format!("{:?} {:?}", world.us.leg, world.us.leg.certificate);
    assert!(
        !shown.contains("203.0") && !shown.contains("198.51") && !shown.contains(':') || shown.contains("counters")
    );
    assert!(!shown.contains(world.us.leg.certificate.fingerprint()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_datagram_makes_a_leg_panic(
        packets in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..200)), 1..40),
    ) {
        let mut world = World::new(&OfferShape::default());
        world.connect(Duration::from_secs(5));
        let known = world.caller.addr;
        for (first, mut packet) in packets {
            // Half of them begin like something that belongs here.
            if let Some(byte) = packet.first_mut() {
                *byte = [0, 1, 22, 23, 0x80, 0x90, 0xB1, first][usize::from(first & 7)];
            }
            world.us.leg.receive(world.now, known, &packet);
            world.caller.leg.receive(world.now, world.us.addr, &packet);
        }
        world.send(false, 3, 111, b"alive");
        world.run(Duration::from_millis(5));
        prop_assert_eq!(&world.us.rtp[0].payload[..], b"alive");
    }
}

#[test]
fn a_packet_costs_one_allocation_in_each_direction() {
    let mut world = World::new(&OfferShape::default());
    world.connect(Duration::from_secs(5));
    // The first packets fill queues and tables; after them nothing may be added.
    let mut sequence = 0_u16;
    let mut count = |packets: u16| {
        let (mut sent, mut received) = (0, 0);
        for _ in 0..packets {
            sequence += 1;
            let packet = RtpOut { payload_type: 111, sequence, timestamp: 960, marker: false, payload: &[7; 80] };
            sent += allocation_counter::measure(|| world.us.leg.send_rtp(world.now, &packet).unwrap()).count_total;
            let (_, datagram) = world.us.leg.poll_transmit().unwrap();
            received += allocation_counter::measure(|| {
                world.caller.leg.receive(world.now, world.us.addr, &datagram);
                assert_eq!(world.caller.leg.poll_rtp().unwrap().payload.len(), 80);
            })
            .count_total;
        }
        (sent, received)
    };
    count(50);
    assert_eq!(count(500), (500, 500), "the engine's buffer for each packet, and nothing else");
}
