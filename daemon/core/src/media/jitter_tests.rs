//! A virtual network in front of the buffer: every packet carries its number, every pull is written down.

#![expect(clippy::cast_possible_truncation, reason = "packets are numbered by hand, far below any limit")]

use proptest::prelude::*;

use super::*;

const FIRST_SEQUENCE: u16 = 65_500;
const FIRST_TIMESTAMP: u32 = u32::MAX - 20_000;

/// What one pull brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Out {
    Voice(u32),
    Surplus(u32),
    Scarce(u32),
    Lost(Option<u32>),
    Starved,
    Silence,
    Empty,
}

#[derive(Debug, Clone, Copy)]
struct Flight {
    arrival_us: u64,
    id: u32,
    sequence: u16,
    timestamp: u32,
}

/// Packet `id` of a stream that began at 0, `late_us` behind the quickest.
fn flight(id: u32, late_us: u64) -> Flight {
    Flight {
        arrival_us: u64::from(id) * 20_000 + late_us,
        id,
        sequence: FIRST_SEQUENCE.wrapping_add(id as u16),
        timestamp: FIRST_TIMESTAMP.wrapping_add(id * 960),
    }
}

fn id_of(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload.try_into().unwrap())
}

fn out(pulled: &Pulled<'_>) -> Out {
    match pulled {
        Pulled::Voice(payload) => Out::Voice(id_of(payload)),
        Pulled::Surplus(payload) => Out::Surplus(id_of(payload)),
        Pulled::Scarce(payload) => Out::Scarce(id_of(payload)),
        Pulled::Lost { next, .. } => Out::Lost(next.map(id_of)),
        Pulled::Starved => Out::Starved,
        Pulled::Silence => Out::Silence,
        Pulled::Empty => Out::Empty,
    }
}

struct Rig {
    buffer: JitterBuffer,
    start: Instant,
    tick_us: u64,
    quiet: bool,
    /// Half of a stretched packet is still to be heard.
    owed: bool,
    outs: Vec<(u64, Out)>,
    reports: Vec<(u64, JitterReport)>,
    pushed: Vec<Pushed>,
}

#[expect(clippy::disallowed_methods, reason = "any instant will do as the origin of virtual time")]
fn origin() -> Instant {
    Instant::now()
}

impl Rig {
    /// Ticks fall 7.3 ms after the sender's.
    fn new() -> Self {
        Self {
            buffer: JitterBuffer::new(JitterSettings::default()),
            start: origin(),
            tick_us: 7_300,
            quiet: false,
            owed: false,
            outs: Vec::new(),
            reports: Vec::new(),
            pushed: Vec::new(),
        }
    }

    fn at(&self, us: u64) -> Instant {
        self.start + Duration::from_micros(us)
    }

    fn push(&mut self, flight: &Flight) -> Pushed {
        let arrival = Arrival {
            sequence: flight.sequence,
            timestamp: flight.timestamp,
            ticks: 960,
            payload: &flight.id.to_be_bytes(),
        };
        let pushed = self.buffer.push(self.at(flight.arrival_us), arrival);
        self.pushed.push(pushed);
        pushed
    }

    /// One tick, and a second pull in the same tick after a surplus packet, as the pipeline does it.
    fn tick(&mut self) {
        let now = self.at(self.tick_us);
        while !std::mem::take(&mut self.owed) {
            let got = out(&self.buffer.pull(now, Duration::ZERO, self.quiet));
            self.outs.push((self.tick_us, got));
            self.owed = matches!(got, Out::Scarce(_));
            if !matches!(got, Out::Surplus(_)) {
                break;
            }
        }
        self.reports.push((self.tick_us, self.buffer.report()));
        self.tick_us += 20_000;
    }

    /// Delivers the flights in the order of their arrival, ticking in between, until `end_us`.
    fn run(&mut self, mut flights: Vec<Flight>, end_us: u64) {
        flights.sort_by_key(|f| f.arrival_us);
        let mut flights = flights.into_iter().peekable();
        while self.tick_us <= end_us {
            while let Some(flight) = flights.next_if(|f| f.arrival_us <= self.tick_us) {
                self.push(&flight);
            }
            self.tick();
        }
    }

    fn voices(&self) -> Vec<u32> {
        let id = |&(_, out): &(u64, Out)| match out {
            Out::Voice(id) | Out::Surplus(id) | Out::Scarce(id) => Some(id),
            _ => None,
        };
        self.outs.iter().filter_map(id).collect()
    }

    fn count(&self, wanted: impl Fn(Out) -> bool) -> usize {
        self.outs.iter().filter(|(_, out)| wanted(*out)).count()
    }

    fn losses(&self) -> usize {
        self.count(|out| matches!(out, Out::Lost(_)))
    }

    fn depth_at(&self, us: u64) -> u32 {
        self.reports.iter().rfind(|(at, _)| *at <= us).unwrap().1.depth_ms
    }
}

/// A small generator of our own: the same numbers on every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[test]
fn on_a_clean_network_every_packet_is_played_within_two_frames() {
    let mut rig = Rig::new();
    rig.run((0..500).map(|n| flight(n, 0)).collect(), 10_000_000);
    assert_eq!(rig.voices(), (0..rig.voices().len() as u32).collect::<Vec<_>>());
    assert!(rig.voices().len() >= 498);
    assert_eq!(rig.outs[0].1, Out::Empty);
    assert_eq!(
        rig.count(|out| matches!(out, Out::Starved | Out::Scarce(_) | Out::Silence | Out::Surplus(_))) + rig.losses(),
        0
    );
    let report = rig.buffer.report();
    assert_eq!((report.target_ms, report.lost, report.late, report.duplicates), (20, 0, 0, 0));
    assert!((20..40).contains(&report.depth_ms), "{}", report.depth_ms);
}

/// Jitter of 0, then up to 60 ms between 2 s and 12 s, then 0 again.
fn waves(mut late: impl FnMut() -> u64) -> Vec<Flight> {
    (0..1500_u32).map(|n| flight(n, if (100..600).contains(&n) { late() } else { 0 })).collect()
}

#[test]
fn depth_follows_jitter_up_within_200_ms_and_down_within_10_s() {
    let mut dice = Dice(7);
    let mut rig = Rig::new();
    let mut flights = waves(|| dice.below(60_001));
    // A network that keeps the order: nobody overtakes.
    for n in 1..flights.len() {
        flights[n].arrival_us = flights[n].arrival_us.max(flights[n - 1].arrival_us);
    }
    rig.run(flights, 30_000_000);
    assert!(rig.depth_at(1_990_000) < 40);
    assert!(rig.depth_at(2_240_000) >= 55, "{}", rig.depth_at(2_240_000));
    assert!((60..=110).contains(&rig.depth_at(11_990_000)), "{}", rig.depth_at(11_990_000));
    assert!(rig.depth_at(22_000_000) < 50, "{}", rig.depth_at(22_000_000));
    assert_eq!(rig.losses(), 0, "every packet came within the depth");
    assert_eq!(rig.voices(), (0..rig.voices().len() as u32).collect::<Vec<_>>(), "none is left out");
    // Playout stands still only where the depth grows.
    let growth: Vec<u64> =
        rig.outs.iter().filter(|(_, out)| matches!(out, Out::Starved | Out::Scarce(_))).map(|(at, _)| *at).collect();
    assert!(!growth.is_empty() && growth.len() <= 5, "{growth:?}");
    assert!(growth.iter().all(|at| (2_000_000..12_000_000).contains(at)), "{growth:?}");
    assert!(rig.reports.last().unwrap().1.queued <= 3);
}

#[test]
fn once_the_depth_has_grown_overtaking_packets_are_no_loss() {
    let mut dice = Dice(3);
    let mut rig = Rig::new();
    rig.run(waves(|| dice.below(60_001)), 30_000_000);
    let early = rig.outs.iter().filter(|(at, out)| matches!(out, Out::Lost(_)) && *at <= 2_300_000).count();
    assert!(early <= 4, "{early}");
    assert_eq!(rig.losses(), early, "no loss after the first 300 ms of jitter");
    assert!(rig.depth_at(2_300_000) >= 50, "{}", rig.depth_at(2_300_000));
    assert!(rig.depth_at(22_000_000) < 50);
    assert!(rig.voices().is_sorted());
}

#[test]
fn a_lost_packet_is_reported_once_with_the_packet_behind_it() {
    let mut rig = Rig::new();
    rig.run((0..200).filter(|n| *n != 50).map(|n| flight(n, 0)).collect(), 3_900_000);
    assert_eq!(rig.count(|out| out == Out::Lost(Some(51))), 1);
    assert_eq!(rig.losses(), 1);
    assert_eq!(rig.buffer.report().lost, 1);
    assert!(rig.depth_at(3_800_000) < 40);
}

#[test]
fn of_two_lost_in_a_row_only_the_second_can_be_rebuilt() {
    let mut rig = Rig::new();
    let flights = (0..100).filter(|n| ![50, 51].contains(n)).map(|n| flight(n, 0));
    rig.run(flights.collect(), 1_900_000);
    let around: Vec<Out> = rig.outs.iter().map(|(_, out)| *out).skip_while(|out| *out != Out::Voice(49)).collect();
    // With one frame of depth the hole is noticed while nothing is there; it is never concealed twice.
    let concealed = around.iter().take_while(|out| **out != Out::Voice(52)).count() - 1;
    assert!((1..=2).contains(&concealed), "{:?}", &around[..6]);
    assert_eq!(rig.buffer.report().lost, 2);
    assert!(rig.depth_at(1_800_000) < 40);
}

/// Peers item 4 at its root: what was made up for must not come on top.
#[test]
fn ticks_that_stood_dry_count_for_the_packets_lost_in_them() {
    for burst in 1..=8_u32 {
        let mut rig = Rig::new();
        rig.buffer =
            JitterBuffer::new(JitterSettings { min_target: Duration::from_millis(60), ..JitterSettings::default() });
        let lost = 50..50 + burst;
        rig.run((0..200).filter(|n| !lost.contains(n)).map(|n| flight(n, 0)).collect(), 3_900_000);
        let made_up = rig.count(|out| matches!(out, Out::Starved | Out::Lost(_) | Out::Silence));
        assert_eq!(made_up, burst as usize, "a frame for each that is missing");
        assert_eq!(rig.count(|out| matches!(out, Out::Surplus(_))), 0, "and nothing to work off");
        // The last one is rebuilt from the one behind it.
        assert_eq!(rig.count(|out| out == Out::Lost(Some(50 + burst))), 1, "burst of {burst}");
        assert_eq!((rig.buffer.report().lost, rig.depth_at(3_800_000)), (u64::from(burst), rig.depth_at(900_000)));
    }
}

#[test]
fn two_stragglers_are_late_and_change_no_target() {
    let mut rig = Rig::new();
    rig.run((0..200).map(|n| flight(n, if n == 60 || n == 90 { 150_000 } else { 0 })).collect(), 3_900_000);
    let report = rig.buffer.report();
    assert_eq!((report.late, report.lost, report.target_ms), (2, 2, 20));
    assert!(rig.pushed.contains(&Pushed::Late));
    assert!(!rig.voices().contains(&60));
}

#[test]
fn duplicates_are_played_once_whenever_they_come() {
    let mut rig = Rig::new();
    let flights =
        (0..200).flat_map(|n| [flight(n, 0), flight(n, 1_000), flight(n, 45_000 + u64::from(n % 3) * 400_000)]);
    rig.run(flights.collect(), 5_000_000);
    assert_eq!(rig.voices(), (0..200).collect::<Vec<_>>());
    assert_eq!(rig.buffer.report().duplicates, 400);
    assert_eq!(rig.buffer.report().late, 0);
}

#[test]
fn swapped_neighbours_are_put_in_order() {
    let mut rig = Rig::new();
    let flights = (0..200).map(|n| flight(n, if n % 10 == 3 { 20_500 } else { 0 }));
    rig.run(flights.collect(), 3_900_000);
    assert!(rig.voices().len() >= 190);
    assert!(rig.voices().is_sorted());
    assert!(rig.losses() <= 1);
}

#[test]
fn a_sender_that_stops_five_seconds_is_silence_and_comes_back_whole() {
    let mut rig = Rig::new();
    // The sequence goes on, the timestamp counts the pause.
    let back = (100..200).map(|n| Flight {
        arrival_us: u64::from(n) * 20_000 + 5_000_000,
        timestamp: FIRST_TIMESTAMP.wrapping_add(n * 960 + 240_000),
        ..flight(n, 0)
    });
    rig.run((0..100).map(|n| flight(n, 0)).chain(back).collect(), 8_900_000);
    assert_eq!(rig.voices(), (0..200).take(rig.voices().len()).collect::<Vec<_>>());
    assert!(rig.voices().len() >= 194);
    assert_eq!(rig.losses(), 0);
    assert_eq!(rig.count(|out| out == Out::Starved), 5, "patience, then silence");
    assert!(rig.count(|out| out == Out::Silence) >= 240);
    assert!(rig.depth_at(8_800_000) < 40);
    assert_eq!(rig.buffer.report().resets, 0);
}

#[test]
fn a_pause_that_the_sender_makes_within_the_queue_is_kept() {
    let mut rig = Rig::new();
    // Packets 50.. are 100 ms later in media time and in fact, and the buffer is deep enough to hold both ends.
    rig.buffer =
        JitterBuffer::new(JitterSettings { min_target: Duration::from_millis(150), ..JitterSettings::default() });
    let flights = (0..100).map(|n| {
        let shift = if n < 50 { 0 } else { 5 };
        Flight { sequence: FIRST_SEQUENCE.wrapping_add(n as u16), id: n, ..flight(n + shift, 0) }
    });
    rig.run(flights.collect(), 2_000_000);
    assert_eq!(rig.count(|out| out == Out::Silence), 5);
    assert_eq!(rig.count(|out| out == Out::Starved) + rig.losses(), 0);
}

#[test]
fn a_burst_of_a_hundred_does_not_stay_as_delay() {
    let mut rig = Rig::new();
    // Nothing for two seconds, then all of it at once, then a clean network.
    let flights = (0..600).map(|n| flight(n, if n < 100 { 2_000_000 - u64::from(n) * 20_000 } else { 0 }));
    rig.run(flights.collect(), 12_000_000);
    assert!(rig.voices().is_sorted());
    let report = rig.buffer.report();
    assert!(report.depth_ms < 60, "{}", report.depth_ms);
    assert!(report.queued <= 3, "{}", report.queued);
    assert!(report.shed > 50, "{}", report.shed);
    // And the end is whole.
    let tail: Vec<u32> = rig.voices().into_iter().filter(|n| *n >= 400).collect();
    assert_eq!(tail, (400..400 + tail.len() as u32).collect::<Vec<_>>());
}

#[test]
fn a_burst_in_mid_stream_is_worked_off() {
    let mut rig = Rig::new();
    // An outage of one second, delivered at its end.
    let flights = (0..1000).map(|n| flight(n, if (200..250).contains(&n) { u64::from(250 - n) * 20_000 } else { 0 }));
    rig.run(flights.collect(), 19_900_000);
    assert!(rig.voices().is_sorted());
    assert!(rig.depth_at(5_100_000) <= 460, "{}", rig.depth_at(5_100_000));
    assert!(rig.depth_at(15_000_000) < 50, "{}", rig.depth_at(15_000_000));
}

#[test]
fn a_lane_that_stood_still_does_not_blame_the_network() {
    for made_up in [true, false] {
        let mut rig = Rig::new();
        rig.run((0..100).map(|n| flight(n, 0)).collect(), 1_990_000);
        // Nothing happens for 200 ms; then all that lay in the socket is read at once, and the ticks are made up or not.
        let woken = rig.tick_us + 200_000;
        for n in 100..=(woken / 20_000) as u32 {
            rig.push(&Flight { arrival_us: woken, ..flight(n, 0) });
        }
        while made_up && rig.tick_us <= woken {
            rig.tick();
        }
        rig.tick_us = woken + 20_000;
        let next = (woken / 20_000) as u32 + 1;
        rig.run((next..400).map(|n| flight(n, 0)).collect(), 7_900_000);
        let report = rig.buffer.report();
        assert_eq!((report.target_ms, report.lost), (20, 0), "ticks made up: {made_up}");
        assert_eq!(rig.count(|out| matches!(out, Out::Starved | Out::Scarce(_))), 0, "ticks made up: {made_up}");
        assert!(report.depth_ms < 50, "{}", report.depth_ms);
        assert_eq!(made_up, report.shed == 0, "{}", report.shed);
    }
}

#[test]
fn where_it_is_quiet_a_backlog_goes_faster() {
    let ends = [false, true].map(|quiet| {
        let mut rig = Rig::new();
        rig.quiet = quiet;
        let late = |n: u32| if (100..110).contains(&n) { u64::from(110 - n) * 20_000 } else { 0 };
        rig.run((0..700).map(|n| flight(n, late(n))).collect(), 13_900_000);
        assert_eq!(rig.losses(), 0);
        rig.reports.iter().find(|(at, r)| *at > 3_000_000 && r.depth_ms < 50).unwrap().0
    });
    assert!(ends[1] < ends[0], "{ends:?}");
}

#[test]
fn clocks_that_differ_by_a_thousandth_neither_pile_up_nor_drain() {
    for stretch in [19_980_u64, 20_020] {
        let mut rig = Rig::new();
        let flights = (0..6000).map(|n| Flight { arrival_us: u64::from(n) * stretch, ..flight(n, 0) });
        rig.run(flights.collect(), 119_000_000);
        assert_eq!(rig.losses(), 0);
        assert!(rig.count(|out| matches!(out, Out::Starved | Out::Scarce(_) | Out::Surplus(_))) <= 10);
        assert!(rig.reports.iter().all(|(_, r)| r.depth_ms <= 75 && r.queued <= 5));
    }
}

#[test]
fn a_leap_of_the_timestamp_alone_is_a_new_clock_and_loses_nothing() {
    for leap in [1_000_000_000_u32, 3_000_000_000, 200_000, 0_u32.wrapping_sub(200_000)] {
        let mut rig = Rig::new();
        let flights = (0..300).map(|n| {
            let plain = flight(n, 0);
            Flight { timestamp: plain.timestamp.wrapping_add(if n < 100 { 0 } else { leap }), ..plain }
        });
        rig.run(flights.collect(), 5_900_000);
        let voices = rig.voices();
        assert_eq!(voices, (0..voices.len() as u32).collect::<Vec<_>>(), "leap of {leap}");
        assert!(voices.len() >= 290, "leap of {leap}");
        assert_eq!(rig.buffer.report().resets, 1, "leap of {leap}");
        assert!(rig.depth_at(5_800_000) < 60);
    }
}

#[test]
fn a_small_leap_back_of_the_timestamp_does_not_stop_or_shorten_the_audio() {
    let mut rig = Rig::new();
    let flights = (0..600).map(|n| {
        let plain = flight(n, 0);
        Flight { timestamp: plain.timestamp.wrapping_sub(if n < 100 { 0 } else { 48_000 }), ..plain }
    });
    rig.run(flights.collect(), 11_900_000);
    assert_eq!(rig.voices(), (0..rig.voices().len() as u32).collect::<Vec<_>>());
    assert!(rig.voices().len() >= 590);
    assert_eq!(rig.count(|out| matches!(out, Out::Surplus(_))), 0);
}

#[test]
fn a_new_sequence_space_begins_with_its_second_packet() {
    let mut rig = Rig::new();
    let flights = (0..200).map(|n| {
        let plain = flight(n, 0);
        Flight { sequence: plain.sequence.wrapping_add(if n < 100 { 0 } else { 30_000 }), ..plain }
    });
    rig.run(flights.collect(), 3_900_000);
    let voices = rig.voices();
    assert_eq!(rig.pushed[100..102], [Pushed::Stray, Pushed::Restarted]);
    assert!(voices.contains(&101) && voices.contains(&190));
    let report = rig.buffer.report();
    assert_eq!((report.resets, report.strays), (1, 1));
    assert!(report.lost <= 2, "{}", report.lost);
}

#[test]
fn one_packet_from_elsewhere_disturbs_nobody() {
    let mut rig = Rig::new();
    let stray = Flight { sequence: 20_000, timestamp: 5, ..flight(70, 3_000) };
    rig.run((0..200).map(|n| flight(n, 0)).chain([stray]).collect(), 3_900_000);
    assert!(rig.voices().len() >= 192);
    assert_eq!(rig.losses() + rig.count(|out| out == Out::Starved), 0);
}

#[test]
fn numbers_taken_by_telephone_events_are_no_loss() {
    let mut rig = Rig::new();
    // 50..60 are events that stand in for audio: no audio meanwhile.
    for n in 0..120 {
        let now = flight(n, 0);
        if (50..60).contains(&n) {
            assert_eq!(rig.buffer.skip(rig.at(now.arrival_us), now.sequence, flight(50, 0).timestamp), Pushed::Queued);
        } else {
            rig.push(&now);
        }
        rig.tick();
    }
    assert_eq!(rig.losses(), 0);
    assert_eq!(rig.buffer.report().lost, 0);
    assert!(rig.count(|out| matches!(out, Out::Silence | Out::Starved)) >= 10);
    assert_eq!(rig.voices(), (0..50).chain(60..60 + rig.voices().len() as u32 - 50).collect::<Vec<_>>());
    assert!(rig.depth_at(2_300_000) < 40);
}

#[test]
fn flush_drops_what_waits_and_playout_goes_on() {
    let mut rig = Rig::new();
    rig.run((0..50).map(|n| flight(n, 0)).collect(), 1_000_000);
    let waiting = rig.buffer.report().queued;
    assert!(waiting > 0);
    rig.buffer.flush();
    assert_eq!(rig.buffer.report().queued, 0);
    let before = rig.voices().len();
    rig.run((50..100).map(|n| flight(n, 0)).collect(), 1_980_000);
    assert_eq!(rig.voices()[before], 50);
    assert_eq!(rig.losses(), 0);
    assert_eq!(rig.buffer.report().lost, 0);
}

#[test]
fn restart_takes_any_numbers_next() {
    let mut rig = Rig::new();
    rig.run((0..50).map(|n| flight(n, 0)).collect(), 1_000_000);
    rig.buffer.restart();
    let other = (50..100).map(|n| Flight { sequence: 7 + n as u16, timestamp: n * 960, ..flight(n, 0) });
    rig.run(other.collect(), 2_000_000);
    assert!(rig.pushed[50..].iter().all(|pushed| *pushed == Pushed::Queued));
    let voices = rig.voices();
    assert_eq!(voices.last(), Some(&98), "played to the end");
    assert_eq!(voices.iter().filter(|id| **id >= 50).count(), 49, "none of the new stream is missing");
    assert_eq!(rig.buffer.report().resets, 1);
}

#[test]
fn payloads_too_long_are_refused_and_the_longest_fits() {
    let mut buffer = JitterBuffer::new(JitterSettings::default());
    let start = origin();
    let packet = |payload| Arrival { sequence: 1, timestamp: 0, ticks: 960, payload };
    assert_eq!(buffer.push(start, packet(&[1; MAX_PAYLOAD + 1])), Pushed::Oversized);
    assert_eq!(buffer.push(start, packet(&[1; MAX_PAYLOAD])), Pushed::Queued);
    let pulled = buffer.pull(start + Duration::from_millis(30), Duration::ZERO, false);
    assert_eq!(pulled, Pulled::Voice(&[1; MAX_PAYLOAD]));
}

#[test]
fn the_first_packets_may_come_in_any_order() {
    let mut rig = Rig::new();
    let order = [3_u32, 1, 0, 2];
    for (n, id) in order.into_iter().enumerate() {
        rig.push(&Flight { arrival_us: n as u64, ..flight(id, 0) });
    }
    rig.tick_us = 60_000;
    (0..4).for_each(|_| rig.tick());
    assert_eq!(rig.voices(), [0, 1, 2, 3]);
}

proptest! {
    #[test]
    fn whatever_comes_in_whatever_order_goes_out_once_and_forward(
        seed in any::<u64>(),
        reach in 1_u64..400,
        loss in 0_u64..40,
        wild in 0_u64..20,
    ) {
        let mut dice = Dice(seed);
        let mut rig = Rig::new();
        let mut flights = Vec::new();
        for n in 0..600_u32 {
            if dice.below(100) < loss { continue; }
            let mut one = flight(n, dice.below(reach * 1000));
            if dice.below(1000) < wild {
                one.sequence = dice.below(65_536) as u16;
                one.timestamp = dice.below(1 << 32) as u32;
            }
            flights.push(one);
            if dice.below(10) == 0 { flights.push(Flight { arrival_us: one.arrival_us + dice.below(200_000), ..one }); }
        }
        rig.quiet = seed % 2 == 0;
        rig.run(flights, 13_000_000);
        let voices = rig.voices();
        let mut once = voices.clone();
        once.sort_unstable();
        once.dedup();
        if rig.buffer.report().resets == 0 && wild == 0 {
            prop_assert_eq!(once.len(), voices.len(), "a packet came out twice");
            prop_assert!(voices.is_sorted());
        }
        let report = rig.buffer.report();
        prop_assert!(report.queued <= SLOTS as u32);
        prop_assert!(report.target_ms <= 200);
        prop_assert_eq!(rig.buffer.report().queued, 0, "nothing is stuck at the end");
        // What went in is accounted for: played, late, or shed.
        if wild == 0 {
            let queued = rig.pushed.iter().filter(|p| matches!(p, Pushed::Queued)).count();
            prop_assert!(voices.len() <= queued);
            prop_assert!(queued as u64 <= voices.len() as u64 + report.shed);
        }
    }

    #[test]
    fn no_packets_at_all_make_it_panic(
        packets in proptest::collection::vec((any::<u16>(), any::<u32>(), any::<u32>(), 0_u64..90_000, 0_u8..6), 0..400),
        clock_rate in prop_oneof![Just(0_u32), Just(8000), Just(48_000), any::<u32>()],
    ) {
        let mut buffer = JitterBuffer::new(JitterSettings { clock_rate, ..JitterSettings::default() });
        let mut now = origin();
        for (sequence, timestamp, ticks, wait, act) in packets {
            now += Duration::from_micros(wait);
            match act {
                0 => { let _pushed = buffer.skip(now, sequence, timestamp); }
                1 => { let _pulled = buffer.pull(now, Duration::from_micros(wait), sequence % 2 == 0); }
                2 => buffer.flush(),
                _ => { let _pushed = buffer.push(now, Arrival { sequence: sequence % 200, timestamp, ticks, payload: &[0; 4] }); }
            }
            let _pulled = buffer.pull(now, Duration::ZERO, sequence % 2 == 0);
            prop_assert!(buffer.report().queued <= SLOTS as u32);
        }
    }
}
