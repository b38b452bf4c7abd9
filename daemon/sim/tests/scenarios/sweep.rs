//! Seeds times faults: each seed is a world with a network, a model, Graph and a caller drawn by chance.
//!
//! `SAUTI_SEEDS=10000` runs so many, `SAUTI_SEED=17` that one and tells what was seen.

use std::time::Duration;

use sauti_core::call::machine::{Action, DoorVerdict};
use sauti_sim::network::PathSettings;
use sauti_sim::openai::{BadResponse, Fault, Script, Trouble, When};
use sauti_sim::whatsapp::dice::Dice;
use sauti_sim::world::{Connection, GraphAnswer, Step, World, WorldSettings};

use super::files::start;

/// Seeds that every run of the tests tries.
const SEEDS: u64 = 150;
/// A call that has not ended by then never will.
const LONGEST: Duration = Duration::from_secs(600);

#[expect(clippy::disallowed_methods, reason = "a test may look into the environment")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What this thread has used of a CPU, seconds; 0 where nobody counts.
#[expect(clippy::disallowed_methods, reason = "the kernel counts in a file")]
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok());
    Duration::from_nanos(nanos.unwrap_or(0)).as_secs_f64()
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn trouble(dice: &mut Dice) -> Trouble {
    match dice.below(12) {
        0 => Trouble::Close { code: 1001, reason: String::new() },
        1 => Trouble::Close { code: 1011, reason: "internal error".to_owned() },
        2 => Trouble::Close { code: 1013, reason: String::new() },
        3 => Trouble::Abort,
        4 => Trouble::HalfOpen,
        5 => Trouble::Stall(ms(dice.below(8_000))),
        6 => Trouble::UnknownEvent,
        7 => Trouble::Garbage,
        8 => Trouble::Huge(100_000),
        9 => Trouble::Duplicate,
        10 => Trouble::Swap,
        _ => Trouble::OrphanDelta,
    }
}

fn connection(dice: &mut Dice) -> Connection {
    let mut connection = Connection::default();
    match dice.below(12) {
        0 => connection.refuse = Some((429, "rate_limit_exceeded".to_owned())),
        1 => connection.refuse = Some((503, "overloaded".to_owned())),
        2 => connection.unreachable = true,
        3 if dice.chance(30) => connection.wrong_key = true,
        _ => {}
    }
    for _ in 0..dice.below(3) {
        let when = match dice.below(3) {
            0 => When::AfterOpen(ms(dice.below(30_000))),
            1 => When::AtResponse(u32::try_from(dice.below(4)).unwrap()),
            _ => When::AtDelta(u32::try_from(dice.below(60)).unwrap()),
        };
        connection.faults.push(Fault { when, trouble: trouble(dice) });
    }
    if dice.chance(25) {
        let bad = match dice.below(4) {
            0 => BadResponse::rate_limited(),
            1 => BadResponse::Hangs,
            2 => BadResponse::NoCreated,
            _ => BadResponse::ContentFilter { after: ms(400) },
        };
        connection.bad_responses.push((u32::try_from(dice.below(4)).unwrap(), bad));
    }
    connection
}

fn script(dice: &mut Dice) -> Vec<Step> {
    let mut script = Vec::new();
    for _ in 0..dice.below(9) {
        script.push(match dice.below(5) {
            0 => Step::Pause(ms(dice.below(6_000))),
            1 => Step::BreakIn { after: ms(dice.below(3_000)), say: ms(100 + dice.below(2_500)) },
            2 => Step::Say(ms(100 + dice.below(500))),
            _ => Step::Say(ms(700 + dice.below(4_000))),
        });
        if dice.chance(70) {
            script.push(Step::Listen);
        }
    }
    if dice.chance(70) {
        script.push(Step::HangUp);
    }
    script
}

/// The world of a seed.
fn world(seed: u64) -> WorldSettings {
    let mut dice = Dice::new(seed);
    let dice = &mut dice;
    let mut settings = WorldSettings { seed, ..WorldSettings::default() };
    settings.limits.max_call = ms(60_000 + dice.below(60_000));
    settings.limits.spread = u16::try_from(dice.below(1_000)).unwrap();
    settings.clips = dice.chance(90);
    settings.still_there_after = dice.chance(80).then_some(ms(15_000));
    if dice.chance(60) {
        settings.up = PathSettings::draw(dice, ms(60_000));
        settings.down = PathSettings::draw(dice, ms(60_000));
    }
    settings.leg_up_after = if dice.chance(3) { None } else { Some(ms(dice.below(2_500))) };
    settings.drain_at = dice.chance(5).then(|| ms(dice.below(40_000)));
    settings.model.delay = ms(5 + dice.below(250));
    settings.model.server.latency.first_delta = ms(100 + dice.below(900));
    settings.model.server.script = Script::tones(3, ms(300 + dice.below(7_000)));
    settings.model.server.burst.speed_percent = u32::try_from(120 + dice.below(1_500)).unwrap();
    settings.model.server.batch_audio_done = dice.chance(50);
    if dice.chance(50) {
        settings.model.connections = (0..dice.below(4)).map(|_| connection(dice)).collect();
        settings.model.repeat_last = dice.chance(25);
    }
    let flags = [dice.chance(50), dice.chance(50)];
    settings.openai = format!("[openai.turn]\ncreate_response = {}\ninterrupt_response = {}", flags[0], flags[1]);
    if dice.chance(15) {
        let action = if dice.chance(50) { Action::PreAccept } else { Action::Accept };
        let verdict = match dice.below(6) {
            0 => DoorVerdict::Done,
            1 => DoorVerdict::Unknown,
            2 => DoorVerdict::SdpRefused,
            3 => DoorVerdict::Refused,
            4 => DoorVerdict::Forbidden,
            _ => DoorVerdict::Ended,
        };
        settings.graph.push(GraphAnswer { action, after: ms(dice.below(6_000)), verdict });
    }
    settings.script = script(dice);
    settings
}

fn run(seed: u64) -> (World, Option<String>) {
    let mut world = World::new(world(seed), start()).unwrap();
    let over = world.run(LONGEST);
    let mut broken = world.breaches().to_vec();
    if !over {
        broken.push("the call does not end".to_owned());
    }
    let told = (!broken.is_empty()).then(|| broken.join("; "));
    (world, told)
}

fn tell(world: &World) -> String {
    world.seen().iter().map(|seen| format!("    {:>9.3} {}\n", seen.at.as_secs_f64(), seen.what)).collect()
}

#[test]
fn every_invariant_holds_for_every_seed() {
    if let Some(seed) = number("SAUTI_SEED") {
        let (world, told) = run(seed);
        println!("{}end {:?}, dead air {:.2?}", tell(&world), world.end(), world.dead_air());
        assert!(told.is_none(), "seed {seed}: {}", told.unwrap_or_default());
        return;
    }
    let seeds = number("SAUTI_SEEDS").unwrap_or(SEEDS);
    let (began, mut simulated, mut failed) = (cpu(), Duration::ZERO, Vec::new());
    let mut outcomes = std::collections::BTreeMap::<&str, u32>::new();
    for seed in 1..=seeds {
        let (world, told) = run(seed);
        simulated += world.since();
        if let Some(end) = world.end() {
            *outcomes.entry(end.outcome.label()).or_default() += 1;
        }
        if let Some(told) = told {
            failed.push((seed, told));
        }
    }
    let took = cpu() - began;
    let minutes = simulated.as_secs_f64() / 60.0;
    println!(
        "{seeds} seeds, {minutes:.0} call-minutes in {took:.1} s of CPU: {:.0} a second; {outcomes:?}",
        minutes / took
    );
    let list: String = failed.iter().map(|(seed, told)| format!("seed {seed}: {told}\n")).collect();
    let (count, first) = (failed.len(), failed.first().map_or(0, |(seed, _)| *seed));
    assert!(
        failed.is_empty(),
        "{count} of {seeds} seeds fail:\n{list}replay one with\n    SAUTI_SEED={first} cargo test -p sauti-sim --test scenarios \
         every_invariant -- --nocapture"
    );
}

#[test]
fn a_seed_is_a_whole_story() {
    let story = |seed| run(seed).0.seen().to_vec();
    assert_eq!(story(5), story(5));
    assert_ne!(story(5), story(6));
}
