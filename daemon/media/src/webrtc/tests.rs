//! Two legs and a network in virtual time: how they connect. What they do then is in `media`.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::*;

mod media;

/// A leg, its address as others see it, and what it was given.
struct Side {
    leg: WebRtcLeg,
    addr: SocketAddr,
    events: Vec<(Duration, LegEvent)>,
    rtp: Vec<RtpIn>,
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
        let side = |leg, at| Side { leg, addr: addr(at), events: vec![], rtp: vec![], sent: 0 };
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
        side.leg.send_rtp(self.now, &packet).unwrap();
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

#[test]
fn no_hello_goes_out_before_the_path_is_found() {
    let mut world = World::new(&OfferShape::default());
    let hellos = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&hellos);
    world.weather(move |at, to_us, packet| {
        if !to_us && is_dtls(packet) {
            seen.borrow_mut().push(at);
        }
        // Nobody answers our checks at first.
        to_us && at < Duration::from_millis(700)
    });
    world.connect(Duration::from_secs(5));
    let path = world.us.when(LegEvent::IceConnected).unwrap();
    assert!(path >= Duration::from_millis(700) && hellos.borrow().iter().all(|at| *at >= path), "{path:?} {hellos:?}");
}

#[test]
fn a_leg_that_is_closed_in_any_phase_has_nothing_to_wait_for() {
    let mut phases = 0;
    for after in 0..16 {
        let mut world = World::new(&OfferShape::default());
        world.run(Duration::from_millis(after));
        phases |= 1
            << (usize::from(world.us.when(LegEvent::IceConnected).is_some())
                + usize::from(world.us.leg.is_connected()));
        world.us.leg.close(world.now);
        assert_eq!(world.us.leg.deadline(), None, "closed after {after} ms");
        world.drain();
        let sent = world.us.sent;
        world.run(Duration::from_secs(60));
        assert_eq!(world.us.sent, sent, "closed after {after} ms");
    }
    assert_eq!(phases, 0b111, "while checks, while the handshake, and while the call ran");
}
