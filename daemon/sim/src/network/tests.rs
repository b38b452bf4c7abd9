use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::whatsapp::dice::Dice;

/// When a packet is sent, since the start.
const fn sent_at(number: u64) -> Duration {
    Duration::from_millis(20 * number)
}

#[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
fn start() -> Instant {
    Instant::now()
}

fn percent(figure: f64) -> Percent {
    Percent::new(figure).unwrap()
}

/// Sends one packet a frame and returns the arrivals: when, since the start, and which.
fn deliveries(settings: &PathSettings, seed: u64, count: u64) -> (Vec<(Duration, u64)>, Counts) {
    let start = start();
    let mut path = Path::new(settings, seed, start);
    let mut arrived = Vec::new();
    let mut take = |path: &mut Path<u64>, now: Instant| {
        while let Some(at) = path.deadline().filter(|at| *at <= now) {
            let number = path.receive(at).unwrap();
            arrived.push((at - start, number));
        }
    };
    let mut now = start;
    for number in 0..count {
        take(&mut path, now);
        path.send(now, number);
        now = start + sent_at(number + 1);
    }
    take(&mut path, now + Duration::from_secs(60));
    assert!(path.is_empty());
    (arrived, path.counts())
}

/// Runs of lost packets.
fn runs(arrived: &[(Duration, u64)], count: u64) -> Vec<u64> {
    let mut all: Vec<u64> = arrived.iter().map(|(_, number)| *number).collect();
    all.sort_unstable();
    all.push(count);
    let mut next = 0;
    let mut runs = Vec::new();
    for number in all {
        if number > next {
            runs.push(number - next);
        }
        next = number + 1;
    }
    runs
}

#[test]
fn a_perfect_way_delivers_everything_at_once() {
    let settings = PathSettings::default();
    assert!(settings.is_perfect());
    let (arrived, counts) = deliveries(&settings, 1, 100);
    assert_eq!(arrived, (0..100).map(|number| (sent_at(number), number)).collect::<Vec<_>>());
    assert_eq!((counts.sent, counts.delivered, counts.lost), (100, 100, 0));
}

#[test]
fn loss_in_bursts_comes_to_the_share_and_the_length_that_were_asked_for() {
    let count = 200_000;
    for (loss, burst) in [(5.0, 0), (5.0, 4), (10.0, 3), (30.0, 6)] {
        let settings = PathSettings { loss: percent(loss), burst_packets: burst, ..PathSettings::default() };
        let (arrived, counts) = deliveries(&settings, 42, count);
        let lost = counts.lost as f64 / count as f64 * 100.0;
        assert!((lost - loss).abs() < loss * 0.05, "{loss} %: {lost} %");
        let runs = runs(&arrived, count);
        let mean = runs.iter().sum::<u64>() as f64 / runs.len() as f64;
        // Without states a run goes on with the probability of a loss.
        let wanted = if burst == 0 { 1.0 / (1.0 - loss / 100.0) } else { f64::from(burst) };
        assert!((mean - wanted).abs() < wanted * 0.05, "{loss} %: runs of {mean}, not {wanted}");
    }
}

#[test]
fn loss_within_the_states_comes_to_the_share_that_was_asked_for() {
    let settings = PathSettings {
        loss: percent(8.0),
        burst_packets: 20,
        loss_in_good: percent(1.0),
        loss_in_bad: percent(50.0),
        ..PathSettings::default()
    };
    let (_, counts) = deliveries(&settings, 7, 200_000);
    let lost = counts.lost as f64 / 2_000.0;
    assert!((lost - 8.0).abs() < 0.5, "{lost} %");
}

#[test]
fn jitter_has_the_distribution_that_its_shape_promises() {
    for (shape, mean, p99) in
        [(JitterShape::Normal, 0.798, 2.576), (JitterShape::Uniform, 0.5, 0.99), (JitterShape::Exponential, 1.0, 4.605)]
    {
        let settings =
            PathSettings { jitter_ms: 40, jitter_shape: shape, keeps_order: false, ..PathSettings::default() };
        let (arrived, _) = deliveries(&settings, 3, 50_000);
        let mut waits: Vec<f64> =
            arrived.iter().map(|(at, number)| (*at - sent_at(*number)).as_secs_f64() / 0.04).collect();
        waits.sort_by(f64::total_cmp);
        let found = waits.iter().sum::<f64>() / waits.len() as f64;
        assert!((found - mean).abs() < 0.02, "{shape:?}: mean {found}");
        assert!((waits[49_500] - p99).abs() < 0.15, "{shape:?}: 99th percentile {}", waits[49_500]);
    }
}

#[test]
fn what_is_sent_in_an_outage_is_lost_and_nothing_else() {
    let settings = PathSettings {
        delay_ms: 100,
        outages: vec![Window { from_ms: 1_000, for_ms: 500, every_ms: Some(2_000) }],
        ..PathSettings::default()
    };
    let (arrived, counts) = deliveries(&settings, 1, 200);
    assert_eq!(counts.cut_off, 50, "two windows of 25 frames");
    let lost: Vec<u64> = (0..200).filter(|number| !arrived.iter().any(|(_, other)| other == number)).collect();
    assert_eq!((lost[0], lost[24], lost[25], lost[49]), (50, 74, 150, 174));
}

#[test]
fn a_stall_delivers_late_and_all_at_once() {
    let stalls = vec![Window::once(Duration::from_secs(1), Duration::from_millis(600))];
    let settings = PathSettings { delay_ms: 10, stalls, ..PathSettings::default() };
    let (arrived, counts) = deliveries(&settings, 1, 150);
    assert_eq!(counts.delivered, 150);
    let together = arrived.iter().filter(|(at, _)| *at == Duration::from_millis(1_600)).count();
    assert_eq!(together, 30);
    assert!(arrived.windows(2).all(|pair| pair[0].1 < pair[1].1));
}

#[test]
fn packets_that_are_held_back_are_overtaken() {
    let settings = PathSettings { reorder: percent(10.0), reorder_ms: 50, ..PathSettings::default() };
    let (arrived, counts) = deliveries(&settings, 9, 1_000);
    let overtaken = arrived.windows(2).filter(|pair| pair[0].1 > pair[1].1).count() as u64;
    assert!(counts.held_back > 50 && overtaken > 40 && overtaken <= counts.held_back);
}

#[test]
fn a_full_way_loses_what_is_too_much() {
    let settings = PathSettings { delay_ms: 10_000, capacity: 50, ..PathSettings::default() };
    let (arrived, counts) = deliveries(&settings, 9, 100);
    assert_eq!((arrived.len(), counts.overflowed), (50, 50));
}

#[test]
fn a_fast_clock_shows_the_same_time_earlier() {
    let start = start();
    let clock = |ppm| PathSettings { drift_ppm: ppm, ..PathSettings::default() }.clock(start);
    let quarter = Duration::from_secs(900);
    assert_eq!(clock(0).when_it_shows(quarter), start + quarter);
    let gained = start + quarter - clock(200).when_it_shows(quarter);
    let lost = clock(-200).when_it_shows(quarter) - (start + quarter);
    for shift in [gained, lost] {
        assert!((shift.as_secs_f64() - 0.18).abs() < 0.001, "{shift:?}");
    }
}

#[test]
fn settings_are_read_with_defaults_and_unknown_keys_are_refused() {
    let read = |text: &str| serde_json::from_str::<PathSettings>(text);
    let settings = read(r#"{"loss": 5, "burst_packets": 3, "outages": [{"from_ms": 1000, "for_ms": 5000}]}"#).unwrap();
    assert_eq!((settings.loss.share(), settings.keeps_order), (0.05, true));
    assert_eq!(read(&serde_json::to_string(&settings).unwrap()).unwrap(), settings);
    assert!(read(r#"{"los": 5}"#).unwrap_err().to_string().contains("unknown field `los`"));
    assert!(read(r#"{"loss": 101}"#).unwrap_err().to_string().contains("101 is no percentage"));
}

proptest! {
    #[test]
    fn any_way_repeats_itself_and_counts_every_packet(seed: u64, of_settings: u64) {
        let settings = PathSettings::draw(&mut Dice::new(of_settings), Duration::from_secs(20));
        let (arrived, counts) = deliveries(&settings, seed, 1_000);
        prop_assert_eq!(&deliveries(&settings, seed, 1_000), &(arrived.clone(), counts));
        prop_assert_eq!(counts.sent, 1_000);
        let gone = counts.lost + counts.cut_off + counts.overflowed;
        prop_assert_eq!(counts.sent + counts.duplicated, counts.delivered + gone);
        prop_assert!(arrived.windows(2).all(|pair| pair[0].0 <= pair[1].0), "in the order of arrival");
        for (at, number) in &arrived {
            prop_assert!(*at >= sent_at(*number) + Duration::from_millis(u64::from(settings.delay_ms)));
        }
    }

    #[test]
    fn jitter_and_stalls_alone_keep_the_order(seed: u64, of_settings: u64) {
        let drawn = PathSettings::draw(&mut Dice::new(of_settings), Duration::from_secs(20));
        let settings =
            PathSettings { keeps_order: true, reorder: Percent::default(), duplicate: Percent::default(), ..drawn };
        let (arrived, _) = deliveries(&settings, seed, 500);
        prop_assert!(arrived.windows(2).all(|pair| pair[0].1 < pair[1].1));
    }
}
