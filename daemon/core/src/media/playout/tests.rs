//! Examples and properties of the reservoir and its ledger.

use proptest::prelude::*;

use super::*;

fn part(item_id: &str, output_index: u32) -> Part<'_> {
    Part { response: 1, item_id, output_index, content_index: 0 }
}

fn pcm(samples: impl IntoIterator<Item = i16>) -> Vec<u8> {
    samples.into_iter().flat_map(i16::to_le_bytes).collect()
}

fn ms(count: usize) -> Vec<u8> {
    pcm(std::iter::repeat_n(7, count * 24))
}

/// Hands out all that there is and returns it with the padding.
fn drain(playout: &mut Playout) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut frame = Frame::SILENCE;
    while playout.next_frame(&mut frame) {
        frames.push(frame);
    }
    frames
}

fn hear(playout: &mut Playout, frames: u32) {
    playout.consumed(Consumed { epoch: playout.epoch(), frames });
}

#[test]
fn the_packed_count_reads_back() {
    let consumed = Consumed { epoch: 7, frames: u32::MAX };
    assert_eq!(Consumed::unpack(consumed.pack()), consumed);
}

#[test]
fn a_partial_frame_waits_for_the_rest_and_is_padded_only_at_the_end() {
    let mut playout = Playout::new(1024);
    assert_eq!(playout.receive(part("a", 0), &ms(30)), Received::Stored);
    assert_eq!(drain(&mut playout).len(), 1);
    assert!(!playout.is_drained());
    playout.end_item("a", 0);
    let last = drain(&mut playout);
    assert_eq!(last.len(), 1);
    assert_eq!(last[0].samples[239], 7);
    assert_eq!(last[0].samples[240], 0);
    hear(&mut playout, 2);
    assert!(playout.is_drained());
    assert_eq!(playout.next_finished(), None, "audio.done alone does not end an item: its words may still come");
    playout.close_item("a");
    assert_eq!(playout.next_finished().unwrap().received_ms, 30);
}

#[test]
fn a_rest_that_waits_for_more_is_no_sound_and_holds_no_recording_up() {
    let mut playout = Playout::new(1024);
    assert_eq!(playout.receive(part("orphan", 0), &ms(5)), Received::Stored);
    assert!(playout.is_drained(), "nobody knows whether the rest ever comes");
    assert!(playout.play_clip(&[1; 960]));
    assert!(!playout.is_drained());
    assert_eq!(drain(&mut playout).len(), 3);
    hear(&mut playout, 3);
    assert!(playout.is_drained());
}

#[test]
fn a_sample_torn_between_two_deltas_is_joined() {
    let mut playout = Playout::new(1024);
    let bytes = pcm((0..480).map(|n| n * 3));
    let _ = playout.receive(part("a", 0), &bytes[..5]);
    let _ = playout.receive(part("a", 0), &bytes[5..6]);
    let _ = playout.receive(part("a", 0), &bytes[6..]);
    let frames = drain(&mut playout);
    assert_eq!(frames[0].samples.to_vec(), (0..480).map(|n| n * 3).collect::<Vec<i16>>());
}

#[test]
fn several_items_play_in_the_order_of_their_index() {
    let mut playout = Playout::new(1024);
    let _ = playout.receive(part("second", 1), &pcm(vec![2; 480]));
    let _ = playout.receive(part("first", 0), &pcm(vec![1; 500]));
    let played: Vec<i16> = drain(&mut playout).iter().map(|frame| frame.samples[0]).collect();
    assert_eq!(played, [1, 1, 2], "the first one's rest goes out padded, as the second has begun");
}

#[test]
fn an_item_that_plays_is_not_overtaken_by_a_lower_index() {
    let mut playout = Playout::new(1024);
    let mut frame = Frame::SILENCE;
    let _ = playout.receive(part("second", 1), &pcm(vec![2; 960]));
    assert!(playout.next_frame(&mut frame));
    let _ = playout.receive(part("first", 0), &pcm(vec![1; 480]));
    let played: Vec<i16> = drain(&mut playout).iter().map(|frame| frame.samples[0]).collect();
    assert_eq!(played, [2, 1]);
}

#[test]
fn an_interruption_cuts_at_what_was_consumed() {
    let mut playout = Playout::new(1024);
    let _ = playout.receive(part("a", 0), &ms(1000));
    playout.close_response(1);
    let mut frame = Frame::SILENCE;
    for _ in 0..10 {
        assert!(playout.next_frame(&mut frame));
    }
    hear(&mut playout, 4);
    let flushed = playout.flush().unwrap();
    assert_eq!(flushed.epoch, 2);
    assert_eq!(
        flushed.cuts,
        [Cut {
            response: 1,
            item_id: "a".to_owned(),
            content_index: 0,
            heard_ms: 80,
            received_ms: 1000,
            disowned: false
        }],
        "the response was done, its audio was not"
    );
    assert!(playout.is_drained());
    playout.consumed(Consumed { epoch: 1, frames: 9 });
    assert!(playout.is_drained() && playout.next_finished().is_none());
}

#[test]
fn a_later_item_that_was_never_heard_is_reported_with_zero() {
    let mut playout = Playout::new(1024);
    let _ = playout.receive(part("a", 0), &ms(40));
    let _ = playout.receive(part("b", 1), &ms(40));
    assert_eq!(drain(&mut playout).len(), 4);
    hear(&mut playout, 1);
    let heard: Vec<u64> = playout.flush().unwrap().cuts.iter().map(|cut| cut.heard_ms).collect();
    assert_eq!(heard, [20, 0]);
}

#[test]
fn when_all_was_heard_nothing_is_cut() {
    let mut playout = Playout::new(1024);
    assert_eq!(playout.flush(), None);
    let _ = playout.receive(part("a", 0), &ms(50));
    playout.close_response(1);
    let frames = drain(&mut playout).len();
    hear(&mut playout, u32::try_from(frames).unwrap());
    assert_eq!(playout.next_finished().unwrap().received_ms, 50);
    assert_eq!(playout.flush(), None);
}

#[test]
fn an_item_heard_so_far_but_still_growing_is_cut_where_it_stands() {
    let mut playout = Playout::new(1024);
    let _ = playout.receive(part("a", 0), &ms(40));
    assert_eq!(drain(&mut playout).len(), 2);
    hear(&mut playout, 2);
    let cut = playout.flush().unwrap().cuts.remove(0);
    assert_eq!((cut.heard_ms, cut.received_ms), (40, 40));
}

#[test]
fn the_reservoir_is_bounded_by_the_output_tokens() {
    let mut playout = Playout::new(2);
    assert_eq!(playout.receive(part("a", 0), &ms(100)), Received::Stored);
    assert_eq!(playout.receive(part("a", 0), &ms(1)), Received::Overflow { received_ms: 100 });
    assert_eq!(playout.receive(part("b", 1), &ms(1)), Received::Overflow { received_ms: 0 });
    assert_eq!(drain(&mut playout).len(), 5, "what was held still plays");
    assert_eq!(playout.receive(part("c", 2), &ms(100)), Received::Stored, "what was handed out makes room");
}

#[test]
fn many_tiny_items_do_not_grow_without_bound() {
    let mut playout = Playout::new(1024);
    let overflows =
        (0..10_000).filter(|n| playout.receive(part(&format!("item{n}"), *n), &[0, 0]) != Received::Stored).count();
    assert_eq!(overflows, 10_000 - MAX_ITEMS);
}

#[test]
fn counts_that_are_late_too_high_or_of_another_epoch_change_nothing() {
    let mut playout = Playout::new(1024);
    let _ = playout.receive(part("a", 0), &ms(100));
    let mut frame = Frame::SILENCE;
    assert!(playout.next_frame(&mut frame) && playout.next_frame(&mut frame));
    playout.consumed(Consumed { epoch: 0, frames: 2 });
    assert_eq!(playout.ahead(), 2);
    hear(&mut playout, 2);
    hear(&mut playout, 1);
    hear(&mut playout, u32::MAX);
    assert_eq!((playout.ahead(), playout.heard_ms("a", 0)), (0, Some(40)));
}

#[test]
fn a_transcript_is_cut_in_proportion_at_a_word() {
    let text = "one two three four";
    assert_eq!(heard_text(text, 0, 1000), "");
    assert_eq!(heard_text(text, 500, 1000), "one two");
    assert_eq!(heard_text(text, 999, 1000), "one two three");
    assert_eq!(heard_text(text, 1000, 1000), text);
    assert_eq!(heard_text(text, 7, 0), text);
    assert_eq!(heard_text("Murakaza neza éléphant", 640, 1000), "Murakaza neza");
    assert_eq!(heard_text("", 1, 2), "");
}

#[derive(Debug, Clone)]
enum Step {
    Audio { item: u8, bytes: usize },
    End(u8),
    Close(u8),
    Push(u8),
    Hear(u8),
    Stale(u8),
    Flush,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_u8..4, 0_usize..5000).prop_map(|(item, bytes)| Step::Audio { item, bytes }),
        1 => (0_u8..4).prop_map(Step::End),
        1 => (0_u8..4).prop_map(Step::Close),
        4 => (0_u8..20).prop_map(Step::Push),
        3 => (0_u8..20).prop_map(Step::Hear),
        1 => (0_u8..20).prop_map(Step::Stale),
        1 => Just(Step::Flush),
    ];
    proptest::collection::vec(step, 0..80)
}

#[test]
fn a_clip_plays_after_what_is_held_and_before_later_responses_and_nobody_is_told_of_it() {
    let mut playout = Playout::new(1024);
    let (mine, yours, later) = (vec![1; 960], vec![2; 960], vec![3; 960]);
    assert_eq!(playout.receive(part("a", 0), &pcm(mine)), Received::Stored);
    assert!(playout.play_clip(&yours));
    let next = Part { response: 2, ..part("b", 0) };
    assert_eq!(playout.receive(next, &pcm(later)), Received::Stored);
    playout.close_response(1);
    playout.close_response(2);
    let order: Vec<i16> = drain(&mut playout).iter().map(|frame| frame.samples[0]).collect();
    assert_eq!(order, [1, 1, 2, 2, 3, 3]);
    hear(&mut playout, 6);
    let ended: Vec<String> = std::iter::from_fn(|| playout.next_finished()).map(|done| done.item_id).collect();
    assert_eq!(ended, ["a", "b"]);
    assert!(playout.is_drained());
}

#[test]
fn a_clip_that_is_cut_leaves_no_trace() {
    let mut playout = Playout::new(1024);
    assert!(playout.play_clip(&[5; 4800]));
    assert_eq!(drain(&mut playout).len(), 10);
    hear(&mut playout, 3);
    let flushed = playout.flush().unwrap();
    assert!(flushed.cuts.is_empty());
    assert!(playout.is_drained());
    assert!(!playout.play_clip(&vec![1; 60 * 24_000]), "over the bound");
}

#[test]
fn what_a_lost_session_sent_plays_to_its_end_and_is_cut_without_a_word_to_the_next() {
    let mut playout = Playout::new(1024);
    assert_eq!(playout.receive(part("a", 0), &pcm(vec![1; 24_010])), Received::Stored);
    playout.disown();
    hear(&mut playout, 0);
    assert_eq!(drain(&mut playout).len(), 51, "the last frame is padded, as no more comes");
    hear(&mut playout, 10);
    let cut = playout.flush().unwrap().cuts.remove(0);
    assert_eq!((cut.heard_ms, cut.disowned), (200, true));
}

proptest! {
    /// Whatever comes in whatever order: heard ≤ received, heard ≤ consumed, only frames of the current epoch.
    #[test]
    fn nothing_is_ever_heard_that_was_not_received_and_consumed(steps in steps()) {
        let mut playout = Playout::new(4);
        let mut frame = Frame::SILENCE;
        let (mut pushed, mut heard, mut received) = (0_u32, 0_u32, [0_u64; 4]);
        for step in steps {
            match step {
                Step::Audio { item, bytes } => {
                    let id = item.to_string();
                    if playout.receive(part(&id, u32::from(item)), &vec![1; bytes]) == Received::Stored {
                        received[usize::from(item)] += bytes as u64;
                    }
                }
                Step::End(item) => playout.end_item(&item.to_string(), 0),
                Step::Close(item) => playout.close_item(&item.to_string()),
                Step::Push(count) => for _ in 0..count {
                    if playout.next_frame(&mut frame) {
                        pushed += 1;
                        prop_assert_eq!(frame.epoch, playout.epoch());
                    }
                },
                Step::Hear(count) => {
                    heard = (heard + u32::from(count)).min(pushed);
                    hear(&mut playout, heard);
                }
                Step::Stale(count) => {
                    let epoch = playout.epoch().wrapping_sub(1);
                    playout.consumed(Consumed { epoch, frames: u32::from(count) });
                }
                Step::Flush => if let Some(flushed) = playout.flush() {
                    let sum: u64 = flushed.cuts.iter().map(|cut| cut.heard_ms).sum();
                    prop_assert!(sum <= u64::from(heard) * 20);
                    for cut in &flushed.cuts {
                        let item: usize = cut.item_id.parse().unwrap();
                        prop_assert!(cut.heard_ms <= cut.received_ms);
                        prop_assert!(cut.received_ms <= received[item] / 48);
                    }
                    (pushed, heard) = (0, 0);
                    prop_assert_eq!(playout.depth_ms(), 0);
                },
            }
            prop_assert_eq!(playout.ahead(), pushed - heard);
            prop_assert!(playout.depth_ms() <= 200);
            while let Some(done) = playout.next_finished() {
                let item: usize = done.item_id.parse().unwrap();
                prop_assert!(done.received_ms <= received[item] / 48);
            }
        }
    }

    /// However the bytes are cut, the samples that go out are those that came in, in order, then silence.
    #[test]
    fn samples_in_are_samples_out(samples in proptest::collection::vec(any::<i16>(), 0..4000),
                                  cuts in proptest::collection::vec(1_usize..999, 1..40)) {
        let mut playout = Playout::new(1024);
        let bytes = pcm(samples.iter().copied());
        let mut rest = bytes.as_slice();
        let mut frames = Vec::new();
        for size in cuts.iter().cycle() {
            let (now, later) = rest.split_at((*size).min(rest.len()));
            prop_assert_eq!(playout.receive(part("a", 0), now), Received::Stored);
            frames.extend(drain(&mut playout));
            rest = later;
            if rest.is_empty() { break; }
        }
        playout.close_response(1);
        frames.extend(drain(&mut playout));
        let out: Vec<i16> = frames.iter().flat_map(|frame| frame.samples).collect();
        prop_assert_eq!(out.len(), samples.len().div_ceil(FRAME_SAMPLES) * FRAME_SAMPLES);
        prop_assert_eq!(&out[..samples.len()], samples.as_slice());
        prop_assert!(out[samples.len()..].iter().all(|sample| *sample == 0));
        hear(&mut playout, u32::try_from(frames.len()).unwrap());
        prop_assert!(playout.is_drained());
    }
}

#[test]
fn a_session_of_g711_is_counted_in_its_own_samples_and_plays_what_came() {
    for format in [AudioFormat::Pcma, AudioFormat::Pcmu] {
        let law = format.law().unwrap();
        let mut playout = Playout::new(1024).in_format(format);
        let codes: Vec<u8> = (0..=u8::MAX).cycle().take(8 * 100).collect();
        for piece in codes.chunks(33) {
            let part = Part { response: 1, item_id: "item_1", output_index: 0, content_index: 0 };
            assert_eq!(playout.receive(part, piece), Received::Stored);
        }
        assert_eq!(playout.depth_ms(), 100);
        playout.close_response(1);
        let (mut frame, mut played) = (Frame::SILENCE, Vec::new());
        while playout.next_frame(&mut frame) {
            played.extend(frame.audio(format).iter().map(|sample| law.encode(*sample)));
            assert!(frame.samples[160..].iter().all(|sample| *sample == 0));
        }
        assert_eq!(played, codes);
        assert_eq!(playout.remaining_ms(), 100);
        playout.consumed(Consumed { epoch: 1, frames: 3 });
        assert_eq!(playout.heard_ms("item_1", 0), Some(60));
        playout.consumed(Consumed { epoch: 1, frames: 5 });
        assert_eq!(playout.next_finished().map(|finished| finished.received_ms), Some(100));
    }
}

#[test]
fn a_reservoir_of_g711_holds_as_many_seconds_as_one_of_pcm() {
    let mut playout = Playout::new(100).in_format(AudioFormat::Pcma);
    let part = Part { response: 1, item_id: "item_1", output_index: 0, content_index: 0 };
    assert_eq!(playout.receive(part, &[0xD5; 5_000 * 8]), Received::Stored);
    assert_eq!(playout.receive(part, &[0xD5; 160]), Received::Overflow { received_ms: 5_000 });
}
