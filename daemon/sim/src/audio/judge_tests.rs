//! The judge judged: identical, coded, damaged and foreign speech.

use super::*;
use crate::audio::speech::{Line, Speech};

const FRAME: usize = 480;

const GAP: usize = 16_800;
const LEAD: usize = 24_000;

/// Half a minute of speech: two lines of each language and two of the agent's.
fn lines() -> Vec<Line> {
    let speech = Speech::load().unwrap();
    let two = |lines: &[Line]| lines[1..3].to_vec();
    [two(speech.caller("en")), two(speech.caller("fr")), two(speech.caller("sw")), two(speech.agent())].concat()
}

/// A recording: 1 s of silence, then every line followed by 0.7 s of silence; whole frames.
fn recording(lines: &[Line]) -> Vec<i16> {
    let mut all = vec![0; LEAD];
    for line in lines {
        all.extend_from_slice(&line.samples);
        all.resize(all.len() + GAP, 0);
    }
    all.resize(all.len().next_multiple_of(FRAME), 0);
    all
}

fn said(lines: &[Line]) -> Vec<Utterance> {
    lines.iter().map(|line| Utterance::new(Arc::clone(&line.samples))).collect()
}

fn judge(lines: &[Line], recording: &[i16]) -> f64 {
    Judge::new().heard(&said(lines), recording).percent().unwrap()
}

/// What Opus as the box uses it makes of a recording.
fn coded(samples: &[i16], complexity: i32) -> Vec<i16> {
    let mut encoder = opus::Encoder::new(24_000, opus::Channels::Mono, opus::Application::Voip).unwrap();
    encoder.set_bitrate(opus::Bitrate::Bits(24_000)).unwrap();
    encoder.set_complexity(complexity).unwrap();
    encoder.set_signal(opus::Signal::Voice).unwrap();
    encoder.set_inband_fec(true).unwrap();
    encoder.set_packet_loss_perc(5).unwrap();
    let mut decoder = opus::Decoder::new(24_000, opus::Channels::Mono).unwrap();
    let mut out = Vec::new();
    let mut packet = [0; 1_500];
    let mut frame = [0; FRAME];
    for input in samples.chunks_exact(FRAME) {
        let length = encoder.encode(input, &mut packet).unwrap();
        assert_eq!(decoder.decode(&packet[..length], &mut frame, false).unwrap(), FRAME);
        out.extend_from_slice(&frame);
    }
    out
}

/// One frame in each hundred, at irregular places.
fn one_percent(frames: usize, seed: u64) -> Vec<usize> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..frames / 100)
        .map(|block| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            block * 100 + usize::try_from(state % 98).unwrap()
        })
        .collect()
}

#[test]
fn a_perfect_recording_is_heard_whole_and_in_place() {
    let lines = lines();
    let heard = Judge::new().heard(&said(&lines), &recording(&lines));
    assert_eq!(heard.percent(), Some(100.0));
    assert!(heard.sent_windows > 200, "{heard:?}");
    assert_eq!(heard.excused_windows, 0);
    let mut place = LEAD;
    for (line, utterance) in lines.iter().zip(&heard.utterances) {
        assert_eq!(utterance.offset, Some(i64::try_from(place).unwrap()), "{}", line.name);
        assert_eq!(utterance.percent(), Some(100.0), "{}", line.name);
        place += line.samples.len() + GAP;
    }
}

#[test]
fn opus_at_24_kbps_is_heard_whole() {
    let lines = lines();
    for complexity in [0, 3, 10] {
        let percent = judge(&lines, &coded(&recording(&lines), complexity));
        assert!(percent >= 99.5, "complexity {complexity}: {percent:.2} %");
    }
}

#[test]
fn one_percent_of_frames_dropped_swapped_or_silenced_fails_the_gate() {
    let lines = lines();
    let whole = coded(&recording(&lines), 3);
    for seed in 1..=3 {
        let victims = one_percent(whole.len() / FRAME, seed);
        let mut silenced = whole.clone();
        let mut swapped = whole.clone();
        for &frame in &victims {
            silenced[frame * FRAME..(frame + 1) * FRAME].fill(0);
            let (left, right) = swapped[frame * FRAME..(frame + 2) * FRAME].split_at_mut(FRAME);
            left.swap_with_slice(right);
        }
        let frames = whole.chunks(FRAME).enumerate();
        let dropped: Vec<_> =
            frames.filter(|(index, _)| !victims.contains(index)).flat_map(|(_, frame)| frame).copied().collect();
        for (what, damaged) in [("dropped", dropped), ("swapped", swapped), ("silenced", silenced)] {
            let percent = judge(&lines, &damaged);
            assert!(percent < 99.5, "{what}, seed {seed}: {percent:.2} %");
            assert!(percent > 50.0, "{what}, seed {seed}: {percent:.2} %: 1 % of damage should not cost half");
        }
    }
}

#[test]
fn other_speech_is_not_heard() {
    let speech = Speech::load().unwrap();
    let other = recording(speech.caller("fr"));
    let heard = Judge::new().heard(&said(&speech.caller("en")[..3]), &other);
    assert!(heard.percent().unwrap() < 2.0, "{heard:?}");
    // Nor the same voice with other words.
    let heard = Judge::new().heard(&said(&speech.caller("en")[..3]), &recording(&speech.caller("en")[3..]));
    assert!(heard.percent().unwrap() < 2.0, "{heard:?}");
}

#[test]
fn silence_noise_and_nothing_are_not_heard() {
    let lines = lines();
    let noise: Vec<i16> = (0..480_000_u32)
        .map(|i| i16::from((i.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0].cast_signed()) * 50)
        .collect();
    for nothing in [vec![], vec![0; 10], vec![0; 480_000], vec![i16::MAX; 100_000], noise] {
        let heard = Judge::new().heard(&said(&lines), &nothing);
        assert_eq!(heard.heard_windows, 0, "{} samples: {heard:?}", nothing.len());
    }
    assert_eq!(Judge::new().heard(&[], &recording(&lines)).percent(), None);
    let odd = [Utterance::new(vec![]), Utterance::new(vec![1; 3]), Utterance::new(vec![0; 9_000])];
    assert_eq!(Judge::new().heard(&odd, &recording(&lines)).percent(), None);
}

#[test]
fn level_and_the_start_of_the_recording_do_not_matter() {
    let lines = lines();
    let whole = recording(&lines);
    for (times, over) in [(1, 10), (1, 2), (2, 1)] {
        let changed: Vec<_> = whole.iter().map(|&s| s.saturating_mul(times) / over).collect();
        assert!(judge(&lines, &changed) > 99.5, "gain {times}/{over}");
    }
    let later = [vec![0; 7_777], whole.clone()].concat();
    assert_eq!(judge(&lines, &later), 100.0);
    let earlier = &whole[20_011..];
    assert_eq!(judge(&lines, earlier), 100.0);
    // Begun half a second into the first line: five windows are missing, the place is before the recording.
    let cut = &whole[LEAD + 12_000..];
    let heard = Judge::new().heard(&said(&lines), cut);
    assert_eq!(heard.utterances[0].offset, Some(-12_000));
    let missing = heard.sent_windows - heard.heard_windows;
    assert!((3..=5).contains(&missing), "{missing}");
}

#[test]
fn a_part_that_comes_more_than_20_ms_late_is_not_heard() {
    let speech = Speech::load().unwrap();
    let line = &speech.agent()[8];
    let half = line.samples.len() / 4 * 3;
    for (late_ms, whole) in [(10, true), (18, true), (40, false), (100, false)] {
        let mut late = vec![0; LEAD];
        late.extend_from_slice(&line.samples[..half]);
        late.resize(late.len() + late_ms * 24, 0);
        late.extend_from_slice(&line.samples[half..]);
        let percent = judge(std::slice::from_ref(line), &late);
        assert_eq!(percent >= 99.0, whole, "{late_ms} ms: {percent:.2}");
        assert!(percent > 70.0, "{late_ms} ms: {percent:.2}: what came in time counts");
    }
}

#[test]
fn what_was_truncated_on_purpose_is_excused_and_nothing_else() {
    let lines = &lines()[..2];
    let cut = 38_400;
    let mut truncated = vec![0; LEAD];
    truncated.extend_from_slice(&lines[0].samples[..cut]);
    truncated.resize(truncated.len() + GAP, 0);
    truncated.extend_from_slice(&lines[1].samples);

    let mut said = said(lines);
    let blamed = Judge::new().heard(&said, &truncated);
    assert!(blamed.percent().unwrap() < 80.0, "{blamed:?}");
    said[0].truncated_at = Some(cut);
    let excused = Judge::new().heard(&said, &truncated);
    assert_eq!(excused.percent(), Some(100.0));
    assert!(excused.excused_windows > 0 && excused.utterances[1].excused_windows == 0);

    // Cut off before anything was heard: nothing is owed, and what follows is still found.
    said[0].truncated_at = Some(0);
    let heard = Judge::new().heard(&said, &truncated[LEAD + cut..]);
    assert_eq!(heard.utterances[0].percent(), None);
    assert_eq!(heard.utterances[1].percent(), Some(100.0));
}

#[test]
fn an_utterance_said_twice_is_told_apart_by_its_expected_place() {
    let line = lines()[0].clone();
    let twice = recording(&[line.clone(), line.clone()]);
    let second = LEAD + line.samples.len() + GAP;
    let at = |place| Utterance { expected_at: Some(place), ..Utterance::new(Arc::clone(&line.samples)) };
    let heard = Judge::new().heard(&[at(second - 9_000)], &twice);
    assert_eq!(heard.utterances[0].offset, Some(i64::try_from(second).unwrap()));
    assert_eq!(Judge::new().heard(&[at(9_000_000)], &twice).percent(), Some(0.0));
}

#[test]
fn lines_that_come_round_again_are_taken_in_turn() {
    let lines = lines();
    let rounds = [&lines[..3], &lines[..3], &lines[1..3]].concat();
    let mut recorded = recording(&rounds);
    // The first copy is the worst one.
    recorded[LEAD + 40 * FRAME..LEAD + 60 * FRAME].fill(0);
    let heard = Judge::new().heard(&said(&rounds), &recorded);
    let places: Vec<_> = heard.utterances.iter().map(|utterance| utterance.offset.unwrap()).collect();
    assert!(places.is_sorted() && places[0] == i64::try_from(LEAD).unwrap(), "{places:?}");
    assert!(heard.percent().unwrap() > 97.0 && heard.percent().unwrap() < 100.0, "{heard:?}");
}

#[test]
fn accounts_add_up() {
    let lines = lines();
    let mut sum = Judge::new().heard(&said(&lines[..1]), &recording(&lines));
    let other = Judge::new().heard(&said(&lines[..1]), &[]);
    sum.add(&other);
    assert_eq!(sum.percent(), Some(50.0));
    assert_eq!(sum.utterances.len(), 2);
}

/// What comes of a speaker who stands still for 100 ms in the middle of each line: 40 ms concealed by silence, and all
/// that follows later by as much.
#[test]
fn a_speaker_who_stood_still_is_heard_where_it_is_known_and_nothing_else_is_excused() {
    let lines = lines();
    let stop = |line: &Line| Stop { at: (line.samples.len() / 2).next_multiple_of(FRAME), length: 2_400 };
    let mut recording = vec![0; LEAD];
    for line in &lines {
        let (before, after) = line.samples.split_at(stop(line).at.min(line.samples.len()));
        recording.extend(before.iter().chain(&[0; 2 * FRAME]).chain(after));
        recording.resize(recording.len() + GAP, 0);
    }
    assert!(judge(&lines, &recording) < 75.0, "off its place, and nobody knows why");
    let known: Vec<_> = lines
        .iter()
        .map(|line| Utterance { stops: vec![stop(line)], ..Utterance::new(line.samples.clone()) })
        .collect();
    let heard = Judge::new().heard(&known, &recording);
    assert_eq!(heard.percent(), Some(100.0));
    assert!(heard.excused_windows * 5 < heard.sent_windows, "{heard:?}");
    // A frame that somebody else lost is lost all the same.
    let mut lossy = recording;
    lossy.chunks_exact_mut(FRAME).step_by(20).for_each(|frame| frame.fill(0));
    let lossy = Judge::new().heard(&known, &lossy).percent().unwrap();
    assert!(lossy < 90.0, "{lossy} % with a frame in twenty silenced");
}
