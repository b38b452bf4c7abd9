//! The caller speaks over the AI, the model 300 ms away, and the box judges: she is heard out, a cough is not.

use std::sync::Arc;
use std::time::Duration;

use sauti::simulate::loopback::phones::Lived;
use sauti::simulate::loopback::realtime::Finished;
use sauti_core::media::frame::{FRAME, FRAME_SAMPLES};
use sauti_core::media::level::rms_dbfs;
use sauti_sim::audio::judge::{Judge, Utterance};
use sauti_sim::audio::speech::Speech;
use sauti_sim::caller::person::{AUDIBLE_DBFS, Said, Step};
use sauti_sim::openai::{BusyTurn, Clip, Line, RequestFacts, Say, Script, ServerSettings};
use sauti_sim::whatsapp::calls::Cause;

use super::world::{Options, World, model};

/// Half of the way to a model 300 ms away and back.
const ONE_WAY: Duration = Duration::from_millis(150);
/// First voiced frame → silence, median (issue: interruption).
const SILENT_WITHIN: Duration = Duration::from_millis(80);
/// How long the AI speaks in one go.
const LINE: Duration = Duration::from_secs(7);
/// Percent of the voiced windows of a sentence: all, as far as a speech codec shows it (`sauti simulate` asks for the
/// same).
const HEARD: f64 = 98.0;
/// What each far end is like: how it takes a turn that ends while a response runs, and how fast it sends speech, in
/// percent. At 500 a response is over at the server long before it was heard, at 150 it runs while most of it is heard.
const SERVERS: [(BusyTurn, u32); 4] =
    [(BusyTurn::Refused, 150), (BusyTurn::Queued, 150), (BusyTurn::Refused, 500), (BusyTurn::Queued, 500)];

/// Lines of the AI that take a while to say.
fn script(speech: &Speech) -> Script {
    let mut lines = speech.agent().iter().map(|line| Clip::new(line.text, Arc::clone(&line.samples)));
    let greeting = Line::clip(lines.next().expect("a greeting"));
    let long = |clip| Line { items: vec![Say::Lasting(clip, LINE)], after_tools: Vec::new() };
    Script {
        greeting,
        turns: lines.map(long).collect(),
        caller_lines: speech.caller("en").iter().map(|line| line.text.to_owned()).collect(),
        ..Script::default()
    }
}

/// A model 300 ms away, of the kind that its connection's number chooses.
fn far_away(script: Script, facts: &RequestFacts) -> ServerSettings {
    let mut settings = model(script, facts);
    let kind = usize::try_from(facts.connection).expect("a few connections") % SERVERS.len();
    settings.one_way = ONE_WAY;
    (settings.busy_turn, settings.burst.speed_percent) = SERVERS[kind];
    settings
}

fn options(name: &'static str, speech: &Speech) -> Options {
    let script = script(speech);
    Options {
        openai: |url| format!("url = \"{url}\"\n[openai.turn]\ninterrupt_response = false\n"),
        model: Arc::new(move |facts| far_away(script.clone(), facts)),
        ..Options::named(name)
    }
}

/// Ends the calls of some callers, each of whom did as `script` says; what they and the model left, in pairs.
async fn calls(world: &mut World, scripts: Vec<Vec<Step>>) -> Vec<(Lived, Finished)> {
    let calls: Vec<_> = (0..).zip(scripts).map(|(who, script)| world.call(who, script)).collect();
    let mut lived = Vec::new();
    for call in calls {
        lived.push(call.await.expect("the phone lives"));
    }
    let mut models = world.sessions().await;
    let pairs = lived.into_iter().map(|lived| {
        assert_eq!((&lived.trouble, lived.over), (&None, Some(Cause::HungUp)));
        let hash = world.hash_of(&lived.identity.address());
        let place = models.iter().position(|model| model.identifier == hash).expect("the model met this caller");
        (lived, models.swap_remove(place))
    });
    pairs.collect()
}

fn objections(model: &Finished) -> String {
    model.record.client_faults.iter().map(|fault| format!("{:?} {}; ", fault.kind, fault.detail)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ai_falls_silent_within_80_ms_of_the_callers_first_voiced_frame() {
    let speech = Speech::load().expect("speech is embedded");
    let mut world = World::start(options("interrupted", &speech)).await;
    let languages = ["en", "fr", "sw", "en"];
    let scripts = languages.iter().enumerate().map(|(number, language)| {
        let mut lines = speech.caller(language).iter().map(|line| Arc::clone(&line.samples)).cycle().skip(number);
        let mut script = vec![Step::Listen, Step::Say(lines.next().expect("a line"))];
        for (after, line) in [1_200, 2_100, 1_700, 2_600].into_iter().zip(lines) {
            script.push(Step::BreakIn { after: Duration::from_millis(after), line });
        }
        script.extend([Step::Listen, Step::HangUp]);
        script
    });
    let mut silent_after = Vec::new();
    for (lived, model) in calls(&mut world, scripts.collect()).await {
        let broke_in: Vec<&Said> = lived.person.said.iter().filter(|said| said.broke_in).collect();
        silent_after.extend(broke_in.iter().filter_map(|said| lived.person.silence_after(said)));
        let cut = model.record.spoken.iter().filter(|item| item.truncated_at_ms.is_some()).count();
        assert_eq!((broke_in.len(), cut), (4, 4), "each interruption cut one item; {}", objections(&model));
    }
    silent_after.sort_unstable();
    assert_eq!(silent_after.len(), 16);
    let median = silent_after[silent_after.len() / 2];
    println!("first voiced frame -> silence, 16 interruptions: median {median:?}, all {silent_after:?}");
    assert!(median <= SILENT_WITHIN, "{silent_after:?}");
    world.until_tables_are_empty().await;
    assert!(world.stop().await.success());
}

/// A voiced grunt of 200 ms: out of the middle of a word, so that a detector has to take it for speech.
fn grunt(speech: &Speech) -> Arc<[i16]> {
    let line = &speech.caller("en")[0].samples;
    let length = 10 * FRAME_SAMPLES;
    let loudest = (0..line.len() - length)
        .step_by(FRAME_SAMPLES)
        .max_by(|a, b| rms_dbfs(&line[*a..*a + length]).total_cmp(&rms_dbfs(&line[*b..*b + length])));
    let from = loudest.expect("the line is longer than that");
    line[from..from + length].into()
}

/// A cough of 200 ms: noise that begins at once and dies away.
fn cough() -> Arc<[i16]> {
    let mut seed = 1_u32;
    let noise = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(i16::from_be_bytes([seed.to_be_bytes()[0], seed.to_be_bytes()[1]]))
    });
    let (length, mut held) = (10 * FRAME_SAMPLES, 0.0);
    let samples = noise.take(length).enumerate().map(|(at, noise)| {
        // The throat: below 1.5 kHz or so.
        held += (noise - held) * 0.33;
        let level = (-4.0 * f64::from(u32::try_from(at).expect("short"))
            / f64::from(u32::try_from(length).expect("short")))
        .exp();
        #[expect(clippy::cast_possible_truncation, reason = "within the range of a sample")]
        let sample = (held * level * 0.9) as i16;
        sample
    });
    samples.collect()
}

/// Percent of the item that she heard, when its speech may have stood still once, from `said` on.
fn heard_with_a_pause(lived: &Lived, item: &[i16], said: &Said) -> (f64, Duration) {
    let heard = &lived.person.heard;
    // Both timelines count frames since she picked up.
    let begins = said.from / FRAME_SAMPLES;
    let quiet = |frame: usize| {
        let from = frame * FRAME_SAMPLES;
        heard.get(from..from + FRAME_SAMPLES).is_some_and(|frame| rms_dbfs(frame) < AUDIBLE_DBFS)
    };
    let item = [Utterance::new(item)];
    let mut judge = Judge::new();
    let mut best = (judge.heard(&item, heard).percent().unwrap_or_default(), Duration::ZERO);
    // Each silence that begins within half a second of hers, before or after, may be the pause, with one of the AI's own in it.
    for from in (begins.saturating_sub(25)..begins + 25)
        .filter(|frame| quiet(*frame) && frame.checked_sub(1).is_some_and(|before| !quiet(before)))
    {
        let length = (from..from + 100).take_while(|frame| quiet(*frame)).count();
        // The codec lets what was said last ring on into the pause, for a frame or two.
        for (pause, back) in (1..=length + 2).rev().flat_map(|pause| [(pause, 0), (pause, 1), (pause, 2)]) {
            if best.0 >= HEARD {
                return best;
            }
            let from = from - back;
            let mut whole = heard[..from * FRAME_SAMPLES].to_vec();
            whole.extend_from_slice(&heard[(from + pause) * FRAME_SAMPLES..]);
            let percent = judge.heard(&item, &whole).percent().unwrap_or_default();
            if percent > best.0 {
                best = (percent, FRAME * u32::try_from(pause).expect("short"));
            }
        }
    }
    best
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cough_of_200_ms_does_not_end_the_sentence_and_nothing_of_it_is_lost() {
    let speech = Speech::load().expect("speech is embedded");
    let mut world = World::start(options("cough", &speech)).await;
    let line = |number: usize| Arc::clone(&speech.caller("en")[number].samples);
    let noises = [grunt(&speech), cough()];
    let scripts = (0..2 * SERVERS.len()).map(|number| {
        let noise = Arc::clone(&noises[number / SERVERS.len()]);
        let after = Duration::from_millis(1_300 + 170 * u64::try_from(number).expect("small"));
        let cough = [Step::BreakIn { after, line: noise }, Step::Listen];
        let mut script = vec![Step::Listen, Step::Say(line(0))];
        script.extend(cough);
        script.extend([Step::Say(line(1)), Step::Listen, Step::HangUp]);
        script
    });
    let mut worst = 100.0_f64;
    for (number, (lived, model)) in calls(&mut world, scripts.collect()).await.iter().enumerate() {
        let items: Vec<_> = model.record.spoken.iter().filter(|item| !item.deleted).collect();
        let what = format!("caller {number}: {}", objections(model));
        assert_eq!(items.len(), 3, "{what}: greeting, and one answer to each line; the cough has none");
        assert!(items.iter().all(|item| item.truncated_at_ms.is_none() && !item.cancelled), "{what}");
        let cough = lived.person.said.iter().find(|said| said.broke_in).expect("she coughed");
        let (percent, pause) = heard_with_a_pause(lived, &items[1].samples, cough);
        println!("{what} heard {percent:.1} % of the sentence, pause {pause:?}");
        worst = worst.min(percent);
    }
    assert!(worst >= HEARD, "{worst} %");
    assert!(world.metric("sauti_interruptions_total").await < 1.0, "nothing was cut off");
    world.until_tables_are_empty().await;
    assert!(world.stop().await.success());
}

/// Field bug 16: a delay that is counted from an event of the model hides the silence that it waited for, and the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_delay_of_an_answer_counts_from_the_end_of_the_callers_voice() {
    const THINKS: Duration = Duration::from_millis(400);
    let speech = Speech::load().expect("speech is embedded");
    let script = script(&speech);
    let mut world = World::start(Options {
        model: Arc::new(move |facts| {
            let mut settings = far_away(script.clone(), facts);
            settings.latency.first_delta = THINKS;
            settings
        }),
        ..options("answer-delay", &speech)
    })
    .await;
    let mut says = vec![Step::Listen];
    for line in &speech.caller("en")[..3] {
        says.extend([Step::Say(Arc::clone(&line.samples)), Step::Listen]);
    }
    says.push(Step::HangUp);
    let (lived, _) = calls(&mut world, vec![says]).await.remove(0);
    let waited: Vec<Duration> = lived
        .person
        .said
        .iter()
        .map(|said| {
            let voiced = said.samples.chunks(FRAME_SAMPLES).rposition(|frame| rms_dbfs(frame) >= AUDIBLE_DBFS);
            let end = said.at + FRAME * u32::try_from(voiced.expect("she said something")).expect("short");
            let answer = lived.person.speech.iter().find(|heard| heard.from > end).expect("she is answered");
            answer.from - end
        })
        .collect();
    let sum = world.metric("sauti_answer_delay_seconds_sum").await;
    assert!((world.metric("sauti_answer_delay_seconds_count").await - 3.0).abs() < 0.1);
    let (mean, at_phone) = (sum / 3.0, waited.iter().sum::<Duration>().as_secs_f64() / 3.0);
    println!("from the end of her voice: {mean:.3} s by the box, {at_phone:.3} s at the phone: {waited:?}");
    // The silence that ends a turn, the model's own time, and the way there and back.
    let least = (Duration::from_millis(500) + THINKS + ONE_WAY * 2).as_secs_f64();
    assert!(mean >= least - 0.1, "{mean} s are less than {least} s");
    assert!((at_phone - mean).abs() <= 0.2, "{mean} s, and {at_phone} s at the phone");
    world.until_tables_are_empty().await;
    assert!(world.stop().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_server_judges_the_ai_is_cut_off_by_its_word_a_network_away() {
    let speech = Speech::load().expect("speech is embedded");
    let turn = |url: &str| format!("url = \"{url}\"\n[openai.turn]\ninterrupt_response = true\n");
    let mut world = World::start(Options { openai: turn, ..options("server-judges", &speech) }).await;
    let lines = &speech.caller("en");
    let broke_in = Step::BreakIn { after: Duration::from_millis(1_500), line: Arc::clone(&lines[1].samples) };
    let says = vec![Step::Listen, Step::Say(Arc::clone(&lines[0].samples)), broke_in, Step::Listen, Step::HangUp];
    let (lived, model) = calls(&mut world, vec![says]).await.remove(0);
    let cut = model.record.spoken.iter().filter(|item| item.truncated_at_ms.is_some()).count();
    let said = lived.person.said.iter().find(|said| said.broke_in).expect("she broke in");
    let silent = lived.person.silence_after(said).expect("the AI was speaking");
    println!("the server judges: silence after {silent:?}");
    assert_eq!(cut, 1, "{}", objections(&model));
    assert!(silent >= ONE_WAY * 2 && silent <= Duration::from_millis(900), "{silent:?}");
    world.until_tables_are_empty().await;
    assert!(world.stop().await.success());
}

/// What callers have to be told they hear out, whatever they say meanwhile; then they are listened to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notice_and_the_greeting_behind_it_are_heard_out() {
    const NOTICE: &str = "This call is answered by a machine.";
    let speech = Speech::load().expect("speech is embedded");
    let script = script(&speech);
    let mut world = World::start(Options {
        more: format!("[agent.en]\nnotice = \"{NOTICE}\"\n"),
        model: Arc::new(move |facts| {
            let mut settings = far_away(script.clone(), facts);
            settings.recording.client_frames = true;
            settings
        }),
        ..options("notice", &speech)
    })
    .await;
    let lines = &speech.caller("en");
    let broke_in = Step::BreakIn { after: Duration::from_millis(600), line: Arc::clone(&lines[0].samples) };
    let says = vec![broke_in, Step::Listen, Step::Say(Arc::clone(&lines[1].samples)), Step::Listen, Step::HangUp];
    let (lived, model) = calls(&mut world, vec![says]).await.remove(0);
    let opening = &model.record.spoken[0];
    assert!(opening.truncated_at_ms.is_none() && !opening.cancelled, "{}", objections(&model));
    let heard = Judge::new().heard(&[Utterance::new(Arc::clone(&opening.samples))], &lived.person.heard);
    assert!(heard.percent().is_some_and(|percent| percent >= HEARD), "{heard:?}");
    let asked = model.record.client_log.iter().find(|(_, event)| event.contains("response.create"));
    let asked = &asked.expect("it was asked for").1;
    assert!(asked.contains(NOTICE) && asked.find(NOTICE) < asked.find("Hello!"), "{asked}");
    assert!(model.record.spoken.len() > 1, "and she is answered");
    world.until_tables_are_empty().await;
    assert!(world.stop().await.success());
}
