use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::webrtc_sdp::tests::{AIORTC_OFFER, CHROMIUM_OFFER, WHATSAPP_OFFER};

/// A leg, its address as others see it, and what it was given.
struct Side {
    leg: WebRtcLeg,
    addr: SocketAddr,
    events: Vec<(Duration, LegEvent)>,
    rtp: Vec<RtpIn>,
    rtcp: Vec<BytesMut>,
    sent: u64,
}

impl Side {
    fn when(&self, event: LegEvent) -> Option<Duration> {
        self.events.iter().find(|(_, seen)| *seen == event).map(|(at, _)| *at)
    }
}

type Weather = Box<dyn FnMut(Duration, bool, &[u8]) -> bool>;

/// Two legs and a network in virtual time.
struct World {
    origin: Instant,
    now: Instant,
    delay: Duration,
    us: Side,
    caller: Side,
    in_flight: Vec<(Instant, bool, SocketAddr, BytesMut)>,
    /// Says of a datagram whether it is lost: time since the start, whether it goes to us, its bytes.
    weather: Weather,
}

const US: &str = "198.51.100.7:40000";
const CALLER: &str = "203.0.113.130:3484";

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[expect(clippy::disallowed_methods, reason = "virtual time needs an origin")]
fn origin() -> Instant {
    Instant::now()
}

impl World {
    fn new(shape: &OfferShape) -> Self {
        Self::with(shape, addr(US), &[addr(US)], |offer| offer)
    }

    /// The answer reaches the caller at once.
    fn with(shape: &OfferShape, local: SocketAddr, advertise: &[SocketAddr], munge: fn(String) -> String) -> Self {
        let mut world = Self::unanswered(shape, local, advertise, munge);
        world.0.caller.leg.accept_answer(world.0.now, &world.1).unwrap();
        world.0
    }

    fn unanswered(
        shape: &OfferShape,
        local: SocketAddr,
        advertise: &[SocketAddr],
        munge: fn(String) -> String,
    ) -> (Self, String) {
        let now = origin();
        let (ours, theirs) = (Certificate::generate().unwrap(), Certificate::generate().unwrap());
        let settings = LegSettings { certificate: &theirs, local: addr(CALLER), advertise: &[addr(CALLER)] };
        let (caller, offer) = WebRtcLeg::offer(now, &settings, shape).unwrap();
        let settings = LegSettings { certificate: &ours, local, advertise };
        let (us, answer) = WebRtcLeg::answer(now, &munge(offer), &settings).unwrap();
        let side = |leg, at| Side { leg, addr: addr(at), events: vec![], rtp: vec![], rtcp: vec![], sent: 0 };
        let world = Self {
            origin: now,
            now,
            delay: Duration::from_millis(1),
            us: side(us, US),
            caller: side(caller, CALLER),
            in_flight: vec![],
            weather: Box::new(|_, _, _| false),
        };
        (world, answer)
    }

    /// Lets datagrams be lost from now on.
    fn weather(&mut self, lost: impl FnMut(Duration, bool, &[u8]) -> bool + 'static) {
        self.weather = Box::new(lost);
    }

    fn age(&self) -> Duration {
        self.now - self.origin
    }

    fn drain(&mut self) {
        let age = self.age();
        for to_us in [false, true] {
            let (from, to) = if to_us { (&mut self.caller, &self.us) } else { (&mut self.us, &self.caller) };
            while let Some((target, bytes)) = from.leg.poll_transmit() {
                from.sent += 1;
                if target == to.addr && !(self.weather)(age, to_us, &bytes) {
                    self.in_flight.push((self.now + self.delay, to_us, from.addr, bytes));
                }
            }
            while let Some(event) = from.leg.poll_event() {
                from.events.push((age, event));
            }
            from.rtp.extend(std::iter::from_fn(|| from.leg.poll_rtp()));
            from.rtcp.extend(std::iter::from_fn(|| from.leg.poll_rtcp()));
        }
    }

    /// Goes to the next thing that happens, but not beyond `until`; false when that is reached.
    fn step(&mut self, until: Instant) -> bool {
        self.drain();
        let arrivals = self.in_flight.iter().map(|(at, ..)| *at);
        let deadlines = [self.us.leg.deadline(), self.caller.leg.deadline()].into_iter().flatten();
        let Some(next) = arrivals.chain(deadlines).min().map(|next| next.max(self.now)).filter(|next| *next <= until)
        else {
            self.now = until;
            return false;
        };
        self.now = next;
        let due: Vec<_> = self.in_flight.extract_if(.., |(at, ..)| *at <= next).collect();
        for (_, to_us, from, bytes) in due {
            let side = if to_us { &mut self.us } else { &mut self.caller };
            side.leg.receive(self.now, from, &bytes);
        }
        for side in [&mut self.us, &mut self.caller] {
            if side.leg.deadline().is_some_and(|deadline| deadline <= self.now) {
                side.leg.handle_timeout(self.now);
            }
        }
        self.drain();
        true
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        let mut steps = 0_u32;
        while self.step(until) {
            steps += 1;
            assert!(steps < 200_000, "time stands still at {:?}", self.age());
        }
    }

    /// Runs until both are connected and says when the later one was.
    fn connect(&mut self, limit: Duration) -> Duration {
        let until = self.now + limit;
        while !(self.us.leg.is_connected() && self.caller.leg.is_connected()) {
            assert!(self.step(until), "not connected: {:?} {:?}", self.us.events, self.caller.events);
        }
        self.us.when(LegEvent::Connected).unwrap().max(self.caller.when(LegEvent::Connected).unwrap())
    }

    fn send(&mut self, from_us: bool, sequence: u16, payload_type: u8, payload: &[u8]) {
        let side = if from_us { &mut self.us } else { &mut self.caller };
        let timestamp = u32::from(sequence) * 960;
        let packet = RtpOut { payload_type, sequence, timestamp, marker: sequence == 0, payload };
        side.leg.send_rtp(&packet).unwrap();
        self.drain();
    }
}

fn is_dtls(packet: &[u8]) -> bool {
    matches!(packet.first(), Some(20..=63))
}

#[test]
fn a_leg_can_live_on_a_lane() {
    fn sendable<T: Send>() {}
    sendable::<WebRtcLeg>();
    sendable::<Certificate>();
}

#[test]
fn a_whatsapp_caller_is_connected_within_a_few_round_trips() {
    let mut world = World::new(&OfferShape::default());
    let connected = world.connect(Duration::from_secs(5));
    let path = world.us.when(LegEvent::IceConnected).unwrap();
    // Check and nomination are a round trip each; the handshake with its cookie is three.
    assert_eq!(path, Duration::from_millis(4));
    assert!(connected <= Duration::from_millis(12), "{connected:?}");
    assert_eq!(world.us.leg.counters().stun_refused, 0);
    assert!(world.us.sent < 20, "{} datagrams", world.us.sent);
}

#[test]
fn a_long_path_costs_round_trips_and_nothing_else() {
    let mut world = World::new(&OfferShape::default());
    world.delay = Duration::from_millis(40);
    let connected = world.connect(Duration::from_secs(5));
    assert!(connected <= Duration::from_millis(80 * 5 + 40), "{connected:?}");
}

#[test]
fn an_ipv6_candidate_that_leads_nowhere_delays_nothing() {
    let shape = OfferShape { extra_candidates: vec![addr("[2001:db8::dead]:3484")], ..OfferShape::default() };
    let both = addr("[::]:40000");
    let mut world = World::with(&shape, both, &[addr(US), addr("[2001:db8::7]:40000")], |offer| offer);
    let connected = world.connect(Duration::from_secs(5));
    assert!(connected <= Duration::from_millis(12), "{connected:?}");
}

#[test]
fn fifty_candidates_of_which_the_last_works_connect() {
    let extra = (1..50).map(|n| SocketAddr::from(([192, 0, 2, n], 3484))).collect();
    let mut world = World::new(&OfferShape { extra_candidates: extra, ..OfferShape::default() });
    let connected = world.connect(Duration::from_secs(5));
    assert!(connected <= Duration::from_millis(12), "{connected:?}");
}

#[test]
fn we_check_from_an_address_that_nobody_was_told() {
    let mut world = World::with(&OfferShape::default(), addr("0.0.0.0:40000"), &[], |offer| offer);
    world.connect(Duration::from_secs(5));
}

#[test]
fn behind_nat_we_advertise_one_address_and_use_another() {
    let mut world = World::with(&OfferShape::default(), addr("10.0.0.5:40000"), &[addr(US)], |offer| offer);
    world.connect(Duration::from_secs(5));
}

#[test]
fn checks_go_on_until_the_caller_has_our_answer() {
    let (mut world, answer) = World::unanswered(&OfferShape::default(), addr(US), &[addr(US)], |offer| offer);
    world.run(Duration::from_millis(2_000));
    assert!(world.us.events.is_empty());
    let refused = world.caller.leg.counters().stun_refused;
    assert!((40..120).contains(&refused), "{refused} checks before the answer");
    let at = world.age();
    world.caller.leg.accept_answer(world.now, &answer).unwrap();
    let waited = world.connect(Duration::from_secs(5)) - at;
    assert!(waited <= Duration::from_millis(62), "{waited:?}");
}

#[test]
fn a_delivered_answer_hurries_the_next_check() {
    let (mut world, answer) = World::unanswered(&OfferShape::default(), addr(US), &[addr(US)], |offer| offer);
    world.run(Duration::from_millis(8_030));
    let at = world.age();
    world.caller.leg.accept_answer(world.now, &answer).unwrap();
    world.us.leg.answer_delivered(world.now);
    let waited = world.connect(Duration::from_secs(5)) - at;
    assert!(waited <= Duration::from_millis(12), "{waited:?}");
}

#[test]
fn lost_hellos_are_repeated() {
    let mut world = World::new(&OfferShape::default());
    world.weather(|age, to_us, packet| !to_us && is_dtls(packet) && age < Duration::from_millis(1_000));
    let connected = world.connect(Duration::from_secs(20));
    // Sent at 0.1, 0.3, 0.7 and 1.5 s after the path was chosen.
    assert!((Duration::from_millis(1_500)..Duration::from_millis(1_530)).contains(&connected), "{connected:?}");
}

#[test]
fn hellos_dropped_before_the_answer_was_processed_follow_it_at_once() {
    let mut world = World::new(&OfferShape::default());
    world.weather(|age, to_us, packet| !to_us && is_dtls(packet) && age < Duration::from_millis(1_000));
    world.run(Duration::from_millis(1_000));
    world.us.leg.answer_delivered(world.now);
    let connected = world.connect(Duration::from_secs(20));
    assert!(connected <= Duration::from_millis(1_010), "{connected:?}");
}

#[test]
fn a_handshake_survives_the_loss_of_every_third_datagram() {
    let mut world = World::new(&OfferShape::default());
    let mut count = 0_u32;
    world.weather(move |_, _, packet| {
        count += u32::from(is_dtls(packet));
        is_dtls(packet) && count % 3 == 1
    });
    let connected = world.connect(Duration::from_secs(20));
    assert!(connected < Duration::from_secs(1), "{connected:?}");
}

#[test]
fn a_lost_last_flight_of_either_side_is_sent_again() {
    for size_lost in 0..8 {
        let mut world = World::new(&OfferShape::default());
        let mut count = 0_u32;
        world.weather(move |_, _, packet| {
            count += u32::from(is_dtls(packet));
            is_dtls(packet) && (count == size_lost || count == size_lost + 1)
        });
        let connected = world.connect(Duration::from_secs(20));
        assert!(connected < Duration::from_millis(500), "{size_lost}: {connected:?}");
    }
}

#[test]
fn a_quarter_of_everything_may_be_lost() {
    let mut worst = Duration::ZERO;
    for seed in 1..150_u32 {
        let mut world = World::new(&OfferShape::default());
        world.delay = Duration::from_millis(30);
        let mut dice = seed.wrapping_mul(0x9E37_79B9);
        world.weather(move |_, _, _| {
            dice ^= dice << 13;
            dice ^= dice >> 17;
            dice ^= dice << 5;
            dice % 4 == 0
        });
        worst = worst.max(world.connect(Duration::from_secs(29)));
    }
    assert!(worst < Duration::from_secs(10), "{worst:?}");
}

#[test]
fn a_handshake_that_is_never_answered_fails() {
    let mut world = World::new(&OfferShape::default());
    world.weather(|_, to_us, packet| !to_us && is_dtls(packet));
    world.run(Duration::from_secs(40));
    let failed = world.us.when(LegEvent::Failed(LegFailure::Dtls)).unwrap();
    assert!((30..32).contains(&failed.as_secs()), "{failed:?}");
    assert!(world.us.sent < 60, "{} datagrams", world.us.sent);
    assert_eq!(world.us.leg.deadline(), None);
}

#[test]
fn a_caller_who_never_answers_checks_fails_after_thirty_seconds() {
    let (mut world, _) = World::unanswered(&OfferShape::default(), addr(US), &[addr(US)], |offer| offer);
    world.run(Duration::from_secs(40));
    let failed = world.us.when(LegEvent::Failed(LegFailure::Ice)).unwrap();
    assert!((30..32).contains(&failed.as_secs()), "{failed:?}");
    assert!(world.us.sent < 500, "{} checks", world.us.sent);
}

#[test]
fn another_certificate_than_announced_is_refused() {
    let munge = |offer: String| {
        let (head, tail) = offer.split_once("a=fingerprint:sha-256 ").unwrap();
        let flipped = if tail.starts_with('0') { '1' } else { '0' };
        format!("{head}a=fingerprint:sha-256 {flipped}{}", &tail[1..])
    };
    let mut world = World::with(&OfferShape::default(), addr(US), &[addr(US)], munge);
    world.run(Duration::from_secs(2));
    assert!(world.us.when(LegEvent::Failed(LegFailure::WrongCertificate)).is_some(), "{:?}", world.us.events);
    assert!(!world.us.leg.is_connected() && !world.caller.leg.is_connected());
}

#[test]
fn a_full_ice_caller_controls_and_we_follow() {
    let shape = OfferShape { ice_lite: false, ..OfferShape::default() };
    let mut world = World::new(&shape);
    let connected = world.connect(Duration::from_secs(5));
    assert!(connected <= Duration::from_millis(40), "{connected:?}");
    world.send(true, 1, 111, b"down");
    world.send(false, 1, 111, b"up");
    world.run(Duration::from_millis(5));
    assert_eq!((world.us.rtp.len(), world.caller.rtp.len()), (1, 1));
}

#[test]
fn a_caller_who_wants_to_send_the_hello_may() {
    let shape = OfferShape { ice_lite: false, setup: Setup::Active, ..OfferShape::default() };
    let (mut world, answer) = World::unanswered(&shape, addr(US), &[addr(US)], |offer| offer);
    assert!(answer.contains("a=setup:passive\r\n"));
    world.caller.leg.accept_answer(world.now, &answer).unwrap();
    world.connect(Duration::from_secs(5));
}

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
    world.caller.leg.ssrc ^= 0xFFFF;
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
    let packet = world.caller.leg.srtp.as_mut().unwrap().out.encrypt_rtp_with_header(&plain, &header.engine(&plain));
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
    assert_eq!(world.us.leg.trials, MAX_TRIALS);
    assert_eq!(world.us.leg.counters().srtp_failures, 5_000);
    world.send(false, 2, 111, b"second");
    world.run(Duration::from_millis(5));
    assert_eq!(world.us.rtp.len(), 2);
}

#[test]
fn rtcp_is_carried_and_bye_is_an_event() {
    let mut world = World::new(&OfferShape::default());
    world.connect(Duration::from_secs(5));
    let [a, b, c, d] = world.caller.leg.ssrc().to_be_bytes();
    let report = [0x80, 201, 0, 1, a, b, c, d];
    world.caller.leg.send_rtcp(&report).unwrap();
    world.run(Duration::from_millis(5));
    assert_eq!(world.us.rtcp.len(), 1);
    assert_eq!(world.us.rtcp[0][..], report);
    assert_eq!(world.us.when(LegEvent::Bye), None);
    assert_eq!(world.caller.leg.send_rtcp(&[1, 2]), Err(SendError::Refused));

    world.caller.leg.close(world.now);
    world.run(Duration::from_millis(5));
    let events: Vec<_> = world.us.events.iter().map(|(_, event)| *event).collect();
    assert_eq!(events, [LegEvent::IceConnected, LegEvent::Connected, LegEvent::Bye, LegEvent::Closed]);
    assert_eq!(world.us.rtcp.len(), 2);
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
    assert_eq!(world.us.leg.send_rtp(&packet), Err(SendError::NotConnected));
    world.connect(Duration::from_secs(5));
    assert_eq!(world.us.leg.send_rtp(&packet), Err(SendError::TooLong(1_201)));
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
            sent += allocation_counter::measure(|| world.us.leg.send_rtp(&packet).unwrap()).count_total;
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
