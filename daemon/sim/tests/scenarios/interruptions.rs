//! Interruptions by chance: what the model's server is told of an item's end against what the caller heard of it.

use std::collections::BTreeMap;
use std::time::Duration;

use sauti_sim::network::PathSettings;
use sauti_sim::openai::{BusyTurn, Clip, Line, Script};
use sauti_sim::whatsapp::dice::Dice;
use sauti_sim::world::{Step, World, WorldSettings, numbered};

use super::files::start;

/// Interruptions that are tried of each kind.
const INTERRUPTIONS: usize = 500;
/// `audio_end_ms` may be so much below what was heard, and never above it.
const BELOW_MS: u64 = 40;
/// The model's answers in a call, each with its number.
const ANSWERS: u16 = 40;

/// Who judges, and what a server does with a turn that ends while a response runs.
const KINDS: [(&str, bool, BusyTurn); 4] = [
    ("the server judges, refusal", true, BusyTurn::Refused),
    ("the server judges, queue", true, BusyTurn::Queued),
    ("the box judges, refusal", false, BusyTurn::Refused),
    ("the box judges, queue", false, BusyTurn::Queued),
];

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A call of a model and a network drawn by chance, whose frames are numbered, `least` at least in each answer; nothing is
/// lost towards the caller.
fn call(dice: &mut Dice, server_judges: bool, busy: BusyTurn, script: Vec<Step>, least: u64) -> WorldSettings {
    let mut settings = WorldSettings { seed: dice.roll(), script, still_there_after: None, ..WorldSettings::default() };
    let mut line = |item| {
        let frames = u16::try_from(least + dice.below(300)).unwrap();
        Line::clip(Clip::new(format!("this is answer number {item}"), numbered(item, frames).into()))
    };
    let greeting = line(0);
    let turns = (1..=ANSWERS).map(line).collect();
    settings.model.server.script = Script { greeting, turns, ..Script::tones(1, ms(500)) };
    settings.model.server.busy_turn = busy;
    settings.model.server.batch_audio_done = dice.chance(50);
    settings.model.server.burst.speed_percent = u32::try_from(130 + dice.below(1_000)).unwrap();
    settings.model.server.latency.first_delta = ms(100 + dice.below(600));
    settings.model.delay = ms(5 + dice.below(200));
    let way = |dice: &mut Dice| PathSettings {
        delay_ms: u32::try_from(10 + dice.below(140)).unwrap(),
        jitter_ms: u32::try_from(dice.below(30)).unwrap(),
        keeps_order: true,
        ..PathSettings::default()
    };
    (settings.up, settings.down) = (way(dice), way(dice));
    settings.limits.max_call = Duration::from_secs(600);
    settings.openai = format!("[openai.turn]\ninterrupt_response = {server_judges}");
    settings
}

fn run(settings: WorldSettings, what: &str) -> World {
    let mut world = World::new(settings, start()).unwrap();
    assert!(world.run(Duration::from_secs(900)), "{what}: the call does not end");
    let (_, out_of_turn) = world.numbered_heard();
    assert_eq!(out_of_turn, 0, "{what}: frames were heard out of their turn");
    let odd: Vec<_> = world.breaches().iter().filter(|breach| !breach.starts_with("dead air")).collect();
    assert!(odd.is_empty(), "{what}: {odd:?}\n{}", tell(&world));
    world
}

fn tell(world: &World) -> String {
    world.seen().iter().map(|seen| format!("    {:>9.3} {}\n", seen.at.as_secs_f64(), seen.what)).collect()
}

/// Each item of the model: its number, what the server takes to be heard of it (ms), what was, and whether it was cut.
fn items(world: &World) -> Vec<(u16, u64, u64, bool)> {
    let (heard, _) = world.numbered_heard();
    let spoken = world.records().iter().flat_map(|record| &record.spoken).filter(|item| item.samples_sent > 0);
    let items = spoken.filter_map(|item| {
        let number = u16::try_from(item.samples.first()?.checked_sub(15_000)?).ok()?;
        let heard = u64::from(heard.get(&number).copied().unwrap_or(0)) * 20;
        let sent = u64::try_from(item.samples_sent / 24).unwrap();
        let taken = if item.deleted { 0 } else { item.truncated_at_ms.unwrap_or(sent) };
        Some((number, taken, heard, item.deleted || item.truncated_at_ms.is_some()))
    });
    items.collect()
}

/// The same without an item that was still being said when the caller hung up.
fn finished(world: &World) -> Vec<(u16, u64, u64, bool)> {
    let mut items = items(world);
    items.pop_if(|(_, _, _, was_cut)| !*was_cut);
    items
}

#[test]
fn over_500_random_interruptions_the_model_is_told_what_was_heard_within_40_ms_and_never_more() {
    for (kind, server_judges, busy) in KINDS {
        let (mut cut, mut below, mut seed) = (0, BTreeMap::<u64, u32>::new(), 0);
        while cut < INTERRUPTIONS {
            seed += 1;
            assert!(seed < 400, "{kind}: {cut} interruptions only");
            let mut dice = Dice::new(seed);
            let mut script = vec![Step::Listen, Step::Say(ms(900))];
            for _ in 0..10 {
                script.push(Step::BreakIn { after: ms(60 + dice.below(3_500)), say: ms(300 + dice.below(2_200)) });
                if dice.chance(25) {
                    script.extend([Step::Listen, Step::Say(ms(700 + dice.below(2_000)))]);
                }
            }
            script.extend([Step::Listen, Step::Pause(ms(2_000)), Step::HangUp]);
            let what = format!("{kind}, seed {seed}");
            let world = run(call(&mut dice, server_judges, busy, script, 40), &what);
            for (number, taken, heard, was_cut) in finished(&world) {
                let difference = heard.checked_sub(taken).filter(|below| *below <= BELOW_MS);
                assert!(
                    difference.is_some(),
                    "{what}: {heard} ms of item {number} were heard, the server takes {taken} ms\n{}",
                    tell(&world)
                );
                if was_cut && heard > 0 {
                    cut += 1;
                    *below.entry(difference.unwrap()).or_default() += 1;
                }
            }
        }
        println!("{kind}: {cut} items cut in {seed} calls; ms below what was heard: {below:?}");
    }
}

#[test]
fn coughs_over_the_ai_cost_nothing_of_what_it_says() {
    for (kind, server_judges, busy) in KINDS.into_iter().filter(|(_, server_judges, _)| !server_judges) {
        let mut coughs = 0;
        for seed in 1..=30 {
            let mut dice = Dice::new(seed);
            let mut script = vec![Step::Listen, Step::Say(ms(900))];
            // Every answer is longer than she waits with her cough.
            for _ in 0..6 {
                script.push(Step::BreakIn { after: ms(60 + dice.below(2_000)), say: ms(40 + dice.below(160)) });
                script.extend([Step::Listen, Step::Say(ms(700 + dice.below(1_500)))]);
            }
            script.extend([Step::Listen, Step::Pause(ms(2_000)), Step::HangUp]);
            let what = format!("{kind}, seed {seed}");
            let world = run(call(&mut dice, server_judges, busy, script, 180), &what);
            assert!(!world.seen().iter().any(|seen| seen.what == "interruption"), "{what}:\n{}", tell(&world));
            for (number, taken, heard, was_cut) in finished(&world) {
                // What the server began to say to a cough was told to be forgotten before it was heard.
                assert!(taken == heard && (!was_cut || heard == 0), "{what}: item {number}\n{}", tell(&world));
            }
            coughs += world.seen().iter().filter(|seen| seen.what == "goes on").count();
        }
        println!("{kind}: {coughs} times the AI was held and went on");
        assert!(coughs >= 60, "{kind}: {coughs}");
    }
}
