//! Long times: a drifting clock for a quarter of an hour, and hours of calls, one after the other and many at once.

use std::time::Duration;

use sauti_core::call::outcome::Outcome;
use sauti_sim::network::{JitterShape, PathSettings, Percent};
use sauti_sim::openai::Script;
use sauti_sim::world::{Step, World, WorldSettings};

use super::files::start;

/// Virtual minutes that every run of the tests soaks; `SAUTI_SOAK_MINUTES=480` are the eight hours.
const MINUTES: u64 = 45;
/// Calls at one time in the second half.
const AT_ONCE: usize = 10;

#[expect(clippy::disallowed_methods, reason = "a test may look into the environment")]
fn minutes() -> u64 {
    std::env::var("SAUTI_SOAK_MINUTES").ok().and_then(|text| text.parse().ok()).unwrap_or(MINUTES)
}

/// A talk of `length`: a turn, an answer, a little pause, again and again.
fn talk(length: Duration, seed: u64) -> WorldSettings {
    let mut settings = WorldSettings { seed, ..WorldSettings::default() };
    settings.limits.max_call = length + Duration::from_secs(60);
    settings.model.server.script = Script::tones(3, Duration::from_secs(3));
    let turns = length.as_millis() / 7_000;
    let turn = [Step::Say(Duration::from_millis(1_400)), Step::Listen, Step::Pause(Duration::from_millis(600))];
    settings.script =
        std::iter::once(Step::Listen).chain((0..turns).flat_map(|_| turn)).chain([Step::HangUp]).collect();
    settings
}

fn phone_network() -> PathSettings {
    PathSettings {
        delay_ms: 60,
        jitter_ms: 15,
        jitter_shape: JitterShape::Normal,
        loss: Percent::new(1.0).unwrap(),
        burst_packets: 2,
        ..PathSettings::default()
    }
}

/// The median latency within a stretch of a call, ms.
fn latency(world: &mut World, length: Duration) -> u32 {
    let until = world.since() + length;
    let mut seen = Vec::new();
    while world.since() < until && world.end().is_none() {
        world.step();
        seen.push(world.latency_ms());
    }
    seen.sort_unstable();
    seen.get(seen.len() / 2).copied().unwrap_or(0)
}

#[test]
fn a_quarter_of_an_hour_with_a_drifting_clock_ends_with_the_latency_it_began_with() {
    for drift_ppm in [-200, 200] {
        let quarter = Duration::from_secs(900);
        let mut settings = talk(quarter, 3);
        settings.up = PathSettings { drift_ppm, ..phone_network() };
        let mut world = World::new(settings, start()).unwrap();
        world.run(Duration::from_secs(20));
        let first = latency(&mut world, Duration::from_secs(40));
        world.run(quarter - Duration::from_secs(60));
        let last = latency(&mut world, Duration::from_secs(40));
        assert!(first.abs_diff(last) <= 20, "{drift_ppm} ppm: {first} ms became {last} ms");
        assert!(world.run(quarter * 2), "it ends");
        assert_eq!(world.end().map(|end| end.outcome), Some(Outcome::Completed));
        assert!(world.breaches().is_empty(), "{drift_ppm} ppm: {:?}", world.breaches());
    }
}

#[test]
fn hours_of_calls_leave_nothing_behind_and_end_as_quick_as_they_began() {
    let each = Duration::from_secs(300);
    let half = minutes() / 2 / 5;
    let mut latencies = Vec::new();
    for number in 0..half.max(1) {
        let mut settings = talk(each, number);
        (settings.up, settings.down) = (phone_network(), phone_network());
        let mut world = World::new(settings, start()).unwrap();
        world.run(Duration::from_secs(10));
        latencies.push(latency(&mut world, Duration::from_secs(60)));
        assert!(world.run(each * 2), "call {number} ends");
        assert!(world.breaches().is_empty(), "call {number}: {:?}", world.breaches());
        assert_eq!(world.tables(), [0; 4], "call {number}");
        assert!(world.most_in_tables().iter().all(|most| *most > 0), "the tables were in use");
    }
    assert!(latencies.first().zip(latencies.last()).is_some_and(|(a, b)| a.abs_diff(*b) <= 20), "{latencies:?}");
    // The other half at once, step by step in turn, on one time.
    let start = start();
    for round in 0..(half / u64::try_from(AT_ONCE).unwrap()).max(1) {
        let mut worlds: Vec<World> =
            (0..10).map(|number| World::new(talk(each, round * 10 + number), start).unwrap()).collect();
        let mut now = Duration::ZERO;
        while worlds.iter().any(|world| !world.is_over()) && now < each * 2 {
            now += Duration::from_millis(20);
            worlds.iter_mut().for_each(|world| {
                world.run(now);
            });
        }
        for world in &worlds {
            assert!(world.is_over() && world.breaches().is_empty(), "{:?}", world.breaches());
            assert_eq!(world.tables(), [0; 4]);
        }
    }
}
