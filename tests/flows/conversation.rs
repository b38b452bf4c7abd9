//! A caller and the model, turn by turn.

use std::time::Duration;

use sauti_core::ai::session::{Effect, Input, Line};
use sauti_core::ai::verdict::Loss;
use sauti_core::media::level::rms_dbfs;
use sauti_core::pii::Pii;
use sauti_sim::openai::{BadResponse, Say, Trouble, When};

use crate::line::{Conversation, assert_flawless};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn is_ready(effect: &Effect) -> bool {
    *effect == Effect::Ready
}

fn is_flush(effect: &Effect) -> bool {
    matches!(effect, Effect::Flush { .. })
}

#[test]
fn the_greeting_is_heard_within_half_a_second_and_to_its_end() {
    let mut talk = Conversation::new(|_| {});
    talk.run(ms(8_000), false);
    assert!(talk.first(is_ready).unwrap() <= ms(60));
    let (first, _) = *talk.heard.first().unwrap();
    assert!(first <= ms(560), "the first frame came after {first:?}");
    assert_eq!(talk.count(|effect| matches!(effect, Effect::LineOver { line: Line::Greeting, complete: true })), 1);
    assert_eq!(talk.count(is_flush), 0);
    let record = talk.record();
    let sent: usize = record.spoken.iter().map(|item| item.samples_sent).sum();
    assert_eq!(talk.heard.len(), sent.div_ceil(480), "every sample was played, none twice");
    assert_flawless(&record);
}

#[test]
fn a_turn_of_the_caller_is_answered_and_both_sides_stand_in_the_transcript() {
    let mut talk = Conversation::new(|_| {});
    talk.run(ms(6_000), false).run(ms(1_500), true).run(ms(8_000), false);
    talk.input(Input::End);
    assert_eq!(talk.count(|effect| matches!(effect, Effect::Turn(_))), 3, "greeting, caller, answer");
    let record = talk.record();
    assert_eq!(record.spoken.len(), 2);
    assert_flawless(&record);
}

#[test]
fn speaking_over_the_ai_silences_it_within_a_frame_and_cuts_to_what_was_heard() {
    let mut talk = Conversation::new(|_| {});
    talk.run(ms(6_000), false).run(ms(1_200), true);
    // The answer of 4 s begins about a second after the caller's turn; 1.5 s of it are heard.
    talk.run(ms(2_600), false);
    talk.run(ms(1_000), true);
    assert_eq!(talk.count(is_flush), 1);
    let flushed = talk.first(is_flush).unwrap();
    let late =
        talk.heard.iter().filter(|(at, frame)| *at > flushed + ms(20) && *at < flushed + ms(900) && frame.epoch < 2);
    assert_eq!(late.count(), 0, "frames of the old epoch were heard");
    talk.run(ms(8_000), false);
    let record = talk.record();
    let cut = record.spoken.iter().find_map(|item| item.truncated_at_ms).unwrap();
    let heard = talk.heard.iter().filter(|(at, _)| *at > ms(7_300) && *at <= flushed).count() as u64 * 20;
    assert!(cut <= heard && cut + 40 >= heard, "cut at {cut} ms, heard {heard} ms");
    assert_flawless(&record);
}

#[test]
fn a_model_in_odd_pieces_and_great_bursts_is_played_without_a_gap() {
    let mut talk = Conversation::new(|settings| {
        settings.burst.chunk_bytes = vec![1, 3, 4_799, 23_999];
        settings.burst.speed_percent = 2_000;
        settings.script.greeting.items = settings.script.turns[0].items.clone();
    });
    talk.run(ms(6_000), false);
    let times: Vec<_> = talk.heard.iter().map(|(at, _)| *at).collect();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] == ms(20)), "a gap within the line");
    assert!(talk.heard.iter().all(|(_, frame)| rms_dbfs(&frame.samples) > -60.0 || frame.samples == [0; 480]));
    assert_flawless(&talk.record());
}

#[test]
fn several_items_of_one_response_are_all_heard_in_order() {
    let mut talk = Conversation::new(|settings| {
        let item: Say = settings.script.turns[0].items[0].clone();
        settings.script.greeting.items = vec![item.clone(), item];
    });
    talk.run(ms(12_000), false);
    let record = talk.record();
    assert_eq!(record.spoken.len(), 2);
    let sent: usize = record.spoken.iter().map(|item| item.samples_sent.div_ceil(480)).sum();
    assert_eq!(talk.heard.len(), sent);
    assert_flawless(&record);
}

#[test]
fn a_goodbye_is_spoken_to_its_end() {
    let mut talk = Conversation::new(|_| {});
    talk.run(ms(6_000), false);
    talk.input(Input::Say(Line::Goodbye, Pii::new("Goodbye!")));
    talk.run(ms(8_000), false);
    assert_eq!(talk.count(|effect| matches!(effect, Effect::LineOver { line: Line::Goodbye, complete: true })), 1);
    assert_flawless(&talk.record());
}

#[test]
fn a_socket_that_breaks_in_mid_sentence_is_reported_once() {
    let mut talk = Conversation::new(|settings| {
        settings.faults.push(sauti_sim::openai::Fault {
            when: When::AfterOpen(ms(1_200)),
            trouble: Trouble::Close { code: 1011, reason: "internal error".to_owned() },
        });
    });
    talk.run(ms(5_000), false);
    let lost = |effect: &Effect| matches!(effect, Effect::Failed(failure) if failure.loss == Loss::Broken);
    assert_eq!(talk.count(lost), 1);
}

#[test]
fn a_response_that_fails_is_asked_for_once_more() {
    let mut talk = Conversation::new(|settings| settings.bad_responses.push((0, BadResponse::rate_limited())));
    talk.run(ms(8_000), false);
    assert!(!talk.heard.is_empty(), "the caller hears the greeting after all");
    assert_flawless(&talk.record());
}
