#![expect(clippy::cast_possible_truncation, reason = "small numbers, counted by hand")]

use proptest::prelude::*;
use sauti_core::media::codec::Codec;

use super::*;
use crate::rtp_sdp::Negotiation;

const FAR: &str = "203.0.113.20:27942";
const NATTED: &str = "198.51.100.99:61000";
const STRANGER: &str = "192.0.2.66:5555";

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[expect(clippy::disallowed_methods, reason = "virtual time needs an origin")]
fn origin() -> Instant {
    Instant::now()
}

fn terms() -> RtpTerms {
    RtpTerms {
        codec: Codec::Pcma,
        payload_type: 8,
        events: Some((101, 8_000)),
        packet_ms: 20,
        remote: Some(addr(FAR)),
        remote_control: Some(addr("203.0.113.20:27943")),
        rtcp_mux: false,
        sends: true,
        hears: true,
        keys: None,
    }
}

fn keys(suite: Suite, own: u8, far: u8) -> Option<SdesKeys> {
    Some(SdesKeys { suite, own: MasterKey::new([own; KEY_BYTES]), far: MasterKey::new([far; KEY_BYTES]) })
}

fn seed(byte: u8) -> RtpSeed {
    RtpSeed::new(std::array::from_fn(|n| byte.wrapping_mul(31).wrapping_add(n as u8)))
}

struct Line {
    now: Instant,
    leg: RtpLeg,
}

impl Line {
    fn new(terms: &RtpTerms) -> Self {
        Self::with(terms, false)
    }

    /// A leg whose far end was told a while ago where to send to.
    fn with(terms: &RtpTerms, strict: bool) -> Self {
        let mut line = Self::fresh(terms, strict);
        line.now += SETTLING;
        line
    }

    fn fresh(terms: &RtpTerms, strict: bool) -> Self {
        let now = origin();
        let mut leg = RtpLeg::new(now, &seed(1), strict).unwrap();
        leg.agree(now, terms).unwrap();
        assert_eq!(leg.poll_event(), Some(LegEvent::Connected));
        Self { now, leg }
    }

    /// A packet of audio; what was delivered of it.
    fn hears(&mut self, from: &str, ssrc: u32, sequence: u16) -> bool {
        self.hears_type(8, from, ssrc, sequence)
    }

    fn hears_type(&mut self, payload_type: u8, from: &str, ssrc: u32, sequence: u16) -> bool {
        self.now += Duration::from_millis(20);
        self.leg.receive(self.now, addr(from), &packet(payload_type, ssrc, sequence));
        self.leg.poll_rtp().is_some_and(|got| got.ssrc == ssrc && got.sequence == sequence)
    }

    /// Where our next packet goes.
    fn sends_to(&mut self) -> SocketAddr {
        let out = RtpOut { payload_type: 8, sequence: 1, timestamp: 160, marker: false, payload: &[0xD5; 160] };
        self.leg.send_rtp(self.now, &out).unwrap();
        self.leg.poll_transmit().unwrap().to
    }

    fn strangers(&self) -> u64 {
        self.leg.counters().strangers
    }
}

fn packet(payload_type: u8, ssrc: u32, sequence: u16) -> Vec<u8> {
    let mut bytes = vec![0x80, payload_type];
    bytes.extend_from_slice(&sequence.to_be_bytes());
    bytes.extend_from_slice(&(u32::from(sequence) * 160).to_be_bytes());
    bytes.extend_from_slice(&ssrc.to_be_bytes());
    bytes.extend_from_slice(&[0xD5; 160]);
    bytes
}

fn receiver_report(ssrc: u32) -> Vec<u8> {
    let mut bytes = vec![0x80, 201, 0, 1];
    bytes.extend_from_slice(&ssrc.to_be_bytes());
    bytes
}

#[test]
fn media_goes_where_it_was_signalled_until_it_comes_from_elsewhere() {
    let mut line = Line::new(&terms());
    assert_eq!(line.sends_to(), addr(FAR));
    // Behind a NAT: the first packet is looked at, the second in a row proves the stream.
    assert!(!line.hears(NATTED, 7, 100));
    assert_eq!(line.sends_to(), addr(FAR));
    assert!(line.hears(NATTED, 7, 101));
    assert_eq!(line.sends_to(), addr(NATTED));
    assert_eq!(line.strangers(), 1);
}

#[test]
fn the_signalled_address_is_believed_at_once_and_over_whoever_was_first() {
    let mut line = Line::new(&terms());
    assert!(line.hears(FAR, 7, 100));
    let mut line = Line::new(&terms());
    line.hears(STRANGER, 66, 1);
    assert!(line.hears(STRANGER, 66, 2), "nobody else is there yet");
    assert!(line.hears(FAR, 7, 100));
    assert_eq!(line.sends_to(), addr(FAR));
    assert!(!line.hears(STRANGER, 66, 3));
}

#[test]
fn who_sprays_the_port_before_the_call_is_not_heard_in_it() {
    let mut line = Line::fresh(&terms(), false);
    // The answer goes out when the model is there.
    for n in 0..50_u16 {
        line.hears(STRANGER, 66, n);
    }
    line.leg.answer_delivered(line.now);
    for n in 50..60_u16 {
        assert!(!line.hears(STRANGER, 66, n), "the far end cannot be there yet");
    }
    assert!(line.hears(FAR, 7, 100));
    assert_eq!(line.sends_to(), addr(FAR));
    assert!(!line.hears(STRANGER, 66, 60));
}

#[test]
fn a_caller_behind_a_nat_has_our_media_at_once_and_is_heard_soon() {
    let mut line = Line::fresh(&terms(), false);
    line.leg.answer_delivered(line.now);
    let told = line.now;
    let first = (1..100_u16).find(|n| {
        let heard = line.hears(NATTED, 7, *n);
        assert_eq!(line.sends_to(), addr(if *n == 1 { FAR } else { NATTED }));
        heard
    });
    assert_eq!((first, line.now - told), (Some(15), SETTLING));
}

/// The attack known as RTPbleed: packets sprayed at our ports, to be sent the call's audio.
#[test]
fn a_stranger_is_neither_heard_nor_sent_anything_while_the_call_lives() {
    let mut line = Line::new(&terms());
    line.hears(NATTED, 7, 1);
    line.hears(NATTED, 7, 2);
    for n in 3..2_000_u16 {
        assert!(!line.hears(STRANGER, 66, n));
        // Not with the call's own source either, and not with two in a row of it.
        assert!(!line.hears(STRANGER, 7, n));
        assert!(!line.hears(STRANGER, 7, n + 1));
        assert!(line.hears(NATTED, 7, n));
        assert_eq!(line.sends_to(), addr(NATTED));
    }
    assert_eq!(line.strangers(), 1 + 3 * 1_997);
    assert_eq!(line.leg.counters().rtp_in, 1_998);
}

#[test]
fn sprayed_packets_that_are_no_stream_of_the_call_latch_nothing() {
    let mut line = Line::new(&terms());
    for n in 0..50_u16 {
        // Another codec; numbers that do not follow; a new source each time.
        assert!(!line.hears_type(0, STRANGER, 66, n));
        assert!(!line.hears(STRANGER, 67, n * 100));
        assert!(!line.hears(STRANGER, 1_000 + u32::from(n), n));
    }
    assert_eq!(line.sends_to(), addr(FAR));
    // A lost packet between the two does not matter.
    assert!(!line.hears(NATTED, 7, 10));
    assert!(line.hears(NATTED, 7, 12));
}

#[test]
fn a_caller_who_moves_is_found_again_after_silence_by_her_source() {
    let mut line = Line::new(&terms());
    line.hears(NATTED, 7, 1);
    line.hears(NATTED, 7, 2);
    let moved = "198.51.100.99:62000";
    assert!(!line.hears(moved, 7, 3), "she is heard from where she was");
    line.now += SILENT;
    assert!(!line.hears(STRANGER, 66, 1), "another source");
    assert!(!line.hears(STRANGER, 66, 2));
    assert!(!line.hears(moved, 7, 200));
    assert!(line.hears(moved, 7, 201));
    assert_eq!(line.sends_to(), addr(moved));
}

#[test]
fn after_a_re_invite_only_the_new_place_counts() {
    let mut line = Line::new(&terms());
    line.hears(FAR, 7, 1);
    let new = "203.0.113.21:30000";
    line.leg.agree(line.now, &RtpTerms { remote: Some(addr(new)), ..terms() }).unwrap();
    assert_eq!(line.sends_to(), addr(new));
    // What was on its way.
    assert!(!line.hears(FAR, 7, 2));
    assert!(!line.hears(FAR, 7, 3));
    assert!(line.hears(new, 7, 4));
    assert_eq!(line.leg.poll_event(), None, "it was connected before");
    // A gateway that named another place and sends from the old one is heard, only later.
    let mut line = Line::new(&terms());
    line.hears(FAR, 7, 1);
    line.leg.agree(line.now, &RtpTerms { remote: Some(addr(new)), ..terms() }).unwrap();
    line.now += SILENT;
    assert!(!line.hears(FAR, 7, 101));
    assert!(line.hears(FAR, 7, 102));
}

#[test]
fn a_hold_without_a_place_keeps_the_one_that_was_heard() {
    let mut line = Line::new(&terms());
    line.hears(FAR, 7, 1);
    line.leg.agree(line.now, &RtpTerms { remote: None, remote_control: None, sends: false, ..terms() }).unwrap();
    assert!(line.hears(FAR, 7, 2));
    line.leg.agree(line.now, &terms()).unwrap();
    assert!(line.hears(FAR, 7, 3));
    assert_eq!(line.sends_to(), addr(FAR));
}

#[test]
fn strict_takes_the_signalled_address_and_no_other() {
    let mut line = Line::with(&terms(), true);
    for n in 0..5 {
        assert!(!line.hears(NATTED, 7, n));
    }
    assert!(line.hears(FAR, 7, 9));
    assert_eq!(line.sends_to(), addr(FAR));
}

#[test]
fn before_anything_is_agreed_nothing_goes_either_way() {
    let now = origin();
    let mut leg = RtpLeg::new(now, &seed(1), false).unwrap();
    leg.receive(now, addr(FAR), &packet(8, 7, 1));
    leg.receive(now, addr(FAR), &packet(8, 7, 2));
    let out = RtpOut { payload_type: 8, sequence: 1, timestamp: 0, marker: false, payload: &[1] };
    assert_eq!(leg.send_rtp(now, &out), Err(SendError::NotConnected));
    assert_eq!((leg.poll_rtp(), leg.poll_event(), leg.deadline()), (None, None, None));
    leg.close();
    assert_eq!(leg.poll_transmit(), None);
}

#[test]
fn rtcp_goes_beside_rtp_or_with_it_and_only_the_far_ends_is_read() {
    for mux in [false, true] {
        let control = if mux { FAR } else { "203.0.113.20:27943" };
        let mut line = Line::new(&RtpTerms { rtcp_mux: mux, remote_control: Some(addr(control)), ..terms() });
        line.hears(FAR, 7, 1);
        line.sends_to();
        line.now = line.leg.deadline().unwrap();
        line.leg.handle_timeout(line.now);
        let report = line.leg.poll_transmit().unwrap();
        assert_eq!((report.to, report.control, report.bytes[1]), (addr(control), true, 200));
        // A report about us, in the block of which the clock is 8 kHz: 80 ticks are 10 ms.
        let mut far = vec![0x81, 201, 0, 7, 0, 0, 0, 7];
        far.extend_from_slice(&line.leg.ssrc().to_be_bytes());
        far.extend_from_slice(&[26, 0, 0, 3, 0, 0, 0, 9, 0, 0, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0]);
        let before = line.leg.counters();
        if mux {
            line.leg.receive(line.now, addr(FAR), &far)
        } else {
            line.leg.receive_control(line.now, addr(control), &far)
        }
        let Some(LegEvent::Report(told)) = line.leg.poll_event() else { panic!("a report") };
        assert_eq!((told.fraction_lost, told.lost, told.jitter), (26, 3, Duration::from_millis(10)));
        line.leg.receive_control(line.now, addr(STRANGER), &far);
        line.leg.receive_control(line.now, addr(control), &receiver_report(66));
        line.leg.receive_control(line.now, addr(control), b"rubbish");
        let after = line.leg.counters();
        assert_eq!((after.rtcp_in, after.strangers, after.bad_packets), (before.rtcp_in + 1, before.strangers + 2, 1));
        assert_eq!(line.leg.poll_event(), None);
    }
}

#[test]
fn a_goodbye_of_the_gateway_ends_nothing_and_ours_is_said() {
    let mut line = Line::new(&terms());
    line.hears(FAR, 7, 1);
    let mut bye = receiver_report(7);
    bye.extend_from_slice(&[0x81, 203, 0, 1, 0, 0, 0, 7]);
    line.leg.receive_control(line.now, addr("203.0.113.20:27943"), &bye);
    assert_eq!((line.leg.counters().rtcp_in, line.leg.poll_event()), (1, None));
    line.leg.close();
    let said = line.leg.poll_transmit().unwrap();
    assert_eq!((said.control, said.bytes[9]), (true, 203));
    assert!(!line.hears(FAR, 7, 2));
    assert_eq!(line.leg.deadline(), None);
}

#[test]
fn keys_of_the_description_protect_both_ways_and_a_wrong_one_is_refused() {
    for suite in [Suite::Tag80, Suite::Tag32] {
        let now = origin();
        let (mut one, mut other) =
            (RtpLeg::new(now, &seed(1), false).unwrap(), RtpLeg::new(now, &seed(9), false).unwrap());
        let place = addr("198.51.100.7:40000");
        one.agree(now, &RtpTerms { keys: keys(suite, 1, 2), ..terms() }).unwrap();
        other.agree(now, &RtpTerms { keys: keys(suite, 2, 1), remote: Some(place), ..terms() }).unwrap();
        let mut heard = Vec::new();
        for n in 0..5_u16 {
            let payload = [n as u8; 160];
            let out = RtpOut {
                payload_type: 8,
                sequence: n,
                timestamp: u32::from(n) * 160,
                marker: false,
                payload: &payload,
            };
            other.send_rtp(now, &out).unwrap();
            let sent = other.poll_transmit().unwrap().bytes;
            assert!(!sent.windows(8).any(|piece| piece == [n as u8; 8]), "it is not in the clear");
            // Whoever holds the key is the far end, from the first packet on, wherever it is.
            one.receive(now, addr(NATTED), &sent);
            heard.extend(one.poll_rtp().map(|got| got.payload[0]));
            one.receive(now, addr(NATTED), &sent);
            one.receive(now, addr(STRANGER), &packet(8, 66, n));
        }
        assert_eq!(heard, [0, 1, 2, 3, 4]);
        let counters = one.counters();
        assert_eq!((counters.replayed, counters.srtp_failures, counters.strangers), (5, 5, 0));
        assert!(matches!(
            one.send_rtp(now, &RtpOut { payload_type: 8, sequence: 1, timestamp: 0, marker: false, payload: &[1] }),
            Ok(())
        ));
        assert_eq!(one.poll_transmit().unwrap().to, addr(NATTED));
        let mut wrong = RtpLeg::new(now, &seed(3), false).unwrap();
        wrong.agree(now, &RtpTerms { keys: keys(suite, 1, 3), ..terms() }).unwrap();
        other
            .send_rtp(now, &RtpOut { payload_type: 8, sequence: 9, timestamp: 0, marker: false, payload: &[1; 20] })
            .unwrap();
        wrong.receive(now, addr(FAR), &other.poll_transmit().unwrap().bytes);
        assert_eq!((wrong.poll_rtp(), wrong.counters().srtp_failures), (None, 1));
    }
}

#[test]
fn a_re_invite_that_keeps_a_key_goes_on_with_it_and_a_new_key_begins_anew() {
    let now = origin();
    let (mut one, mut other) = (RtpLeg::new(now, &seed(1), false).unwrap(), RtpLeg::new(now, &seed(9), false).unwrap());
    let secure = |own, far| RtpTerms { keys: keys(Suite::Tag80, own, far), ..terms() };
    one.agree(now, &secure(1, 2)).unwrap();
    other.agree(now, &secure(2, 1)).unwrap();
    let mut number = 65_530_u16;
    let mut speak = |from: &mut RtpLeg, to: &mut RtpLeg| {
        number = number.wrapping_add(1);
        from.send_rtp(
            now,
            &RtpOut { payload_type: 8, sequence: number, timestamp: 0, marker: false, payload: &[1; 20] },
        )
        .unwrap();
        let sent = from.poll_transmit().unwrap().bytes;
        to.receive(now, addr(FAR), &sent);
        to.poll_rtp().is_some()
    };
    for _ in 0..10 {
        assert!(speak(&mut other, &mut one));
    }
    // The count of wraps is part of the key stream: a context made anew would lose it.
    one.agree(now, &RtpTerms { sends: false, ..secure(1, 2) }).unwrap();
    assert!(speak(&mut other, &mut one));
    // Ours changes, theirs stays: the way in goes on.
    one.agree(now, &secure(5, 2)).unwrap();
    assert!(speak(&mut other, &mut one));
    // Theirs changes too.
    one.agree(now, &secure(5, 6)).unwrap();
    assert!(!speak(&mut other, &mut one));
    other.agree(now, &secure(6, 5)).unwrap();
    assert!(speak(&mut other, &mut one));
}

#[test]
fn a_far_end_with_a_source_for_each_packet_cannot_fill_the_memory_and_goes_on_being_heard() {
    let terms = RtpTerms { keys: keys(Suite::Tag80, 1, 2), ..terms() };
    let mut line = Line::new(&terms);
    let far = MasterKey::new([2; KEY_BYTES]);
    let crypto = rtc::crypto::default_provider().unwrap();
    let profile = ProtectionProfile::Aes128CmHmacSha1_80;
    let seal = |ssrc, sequence| {
        // A context for each: the far end's memory is its own affair.
        let mut context = outward(far.key(), far.salt(), profile, crypto.crypto()).unwrap();
        context.encrypt_rtp(&packet(8, ssrc, sequence)).unwrap()
    };
    let mut heard = 0;
    for ssrc in 1..=5_000 {
        line.now += Duration::from_millis(1);
        line.leg.receive(line.now, addr(FAR), &seal(ssrc, 1));
        heard += u64::from(line.leg.poll_rtp().is_some_and(|got| got.ssrc == ssrc));
    }
    // What is remembered of sources is bounded: some, and as many as there are trials.
    assert_eq!(line.leg.stream.trials, crate::rtp::MAX_TRIALS);
    assert!((u64::from(crate::rtp::MAX_TRIALS)..1_100).contains(&heard), "{heard}");
    assert_eq!(line.leg.counters().srtp_failures, 5_000 - heard);
    // The last ones that were heard are still.
    let last = u32::try_from(heard).unwrap();
    line.leg.receive(line.now, addr(FAR), &seal(last, 2));
    assert!(line.leg.poll_rtp().is_some_and(|got| (got.ssrc, got.sequence) == (last, 2)));
}

#[test]
fn two_legs_that_negotiate_hear_each_other() {
    for sdes in [false, true] {
        let now = origin();
        let side = |seed: &RtpSeed, address: &str| {
            let keys = [MasterKey::new([0; KEY_BYTES]), MasterKey::new([0; KEY_BYTES])];
            let codecs = vec![Codec::Pcma];
            let address = address.parse().unwrap();
            Negotiation::new(seed.local_side(LocalSide { address, port: 4_000, codecs, sdes, session_id: 0, keys }))
        };
        let (mut one, mut other) = (side(&seed(1), "198.51.100.7"), side(&seed(2), "203.0.113.9"));
        let offer = one.offer(false);
        let (theirs, answer) = other.answer(&offer).unwrap();
        let ours = one.accept(&answer).unwrap();
        let mut here = RtpLeg::new(now, &seed(1), false).unwrap();
        let mut there = RtpLeg::new(now, &seed(2), false).unwrap();
        here.agree(now, &ours).unwrap();
        there.agree(now, &theirs).unwrap();
        here.send_rtp(now, &RtpOut { payload_type: 8, sequence: 1, timestamp: 0, marker: true, payload: b"one way" })
            .unwrap();
        let sent = here.poll_transmit().unwrap();
        assert_eq!(sent.to, addr("203.0.113.9:4000"));
        there.receive(now, addr("198.51.100.7:4000"), &sent.bytes);
        assert_eq!(there.poll_rtp().map(|got| got.payload.to_vec()), Some(b"one way".to_vec()));
        there
            .send_rtp(now, &RtpOut { payload_type: 8, sequence: 1, timestamp: 0, marker: true, payload: b"other" })
            .unwrap();
        here.receive(now, addr("203.0.113.9:4000"), &there.poll_transmit().unwrap().bytes);
        assert_eq!(here.poll_rtp().map(|got| got.payload.to_vec()), Some(b"other".to_vec()));
    }
}

#[test]
fn what_is_drawn_differs_and_is_not_shown() {
    assert_ne!(seed(1).ssrc(), seed(2).ssrc());
    assert_ne!(seed(1).cname(), seed(2).cname());
    assert_eq!(format!("{:?}", seed(1)), "RtpSeed(‹redacted›)");
}

/// Once a leg is warm, a packet without SRTP costs nothing in either direction; the engine's buffers for SRTP are its own.
#[test]
fn a_plain_packet_costs_no_allocation_in_either_direction() {
    for (secure, most) in [(false, 0), (true, 1)] {
        let mut line = Line::new(&RtpTerms { keys: if secure { keys(Suite::Tag80, 1, 1) } else { None }, ..terms() });
        let mut far = RtpLeg::new(line.now, &seed(9), false).unwrap();
        far.agree(line.now, line.leg.terms().unwrap()).unwrap();
        let (mut sent, mut received, mut heard) = (0, 0, 0);
        for n in 0..1_000_u16 {
            let out = RtpOut {
                payload_type: 8,
                sequence: n,
                timestamp: u32::from(n) * 160,
                marker: false,
                payload: &[0xD5; 160],
            };
            far.send_rtp(line.now, &out).unwrap();
            let bytes = far.poll_transmit().unwrap().bytes;
            let warm = n >= 20;
            let costs = allocation_counter::measure(|| {
                line.leg.send_rtp(line.now, &out).unwrap();
                assert!(line.leg.poll_transmit().is_some());
            });
            sent += if warm { costs.count_total } else { 0 };
            let costs = allocation_counter::measure(|| {
                line.leg.receive(line.now, addr(FAR), &bytes);
                heard += usize::from(line.leg.poll_rtp().is_some());
            });
            received += if warm { costs.count_total } else { 0 };
        }
        assert_eq!(heard, 1_000);
        assert!(sent <= most * 980 && received <= most * 980, "secure: {secure}, {sent} and {received}");
    }
}

proptest! {
    #[test]
    fn no_datagram_makes_it_panic(
        datagrams in proptest::collection::vec(
            (0_usize..3, any::<bool>(), proptest::collection::vec(any::<u8>(), 0..60), any::<bool>()), 0..60),
        secure in any::<bool>(),
    ) {
        let mut line = Line::new(&RtpTerms { keys: if secure { keys(Suite::Tag32, 1, 1) } else { None }, ..terms() });
        for (from, control, mut bytes, versioned) in datagrams {
            if let (true, Some(first)) = (versioned, bytes.first_mut()) {
                *first = 0x80 | (*first & 0x3F);
            }
            let from = addr([FAR, NATTED, STRANGER][from]);
            line.now += Duration::from_millis(300);
            if control { line.leg.receive_control(line.now, from, &bytes) } else { line.leg.receive(line.now, from, &bytes) }
            line.leg.handle_timeout(line.now);
        }
    }
}
